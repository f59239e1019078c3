"""Parameters of `sgd` chosen on a validation split of the training data alone.

    LFM_NP_DATA=folder python -m benchmarks.sgd_search ml1m BPR WARP SampledSoftmax
    LFM_NP_DATA=folder python -m benchmarks.sgd_search ncf SampledSoftmax
    LFM_NP_DATA=folder python -m benchmarks.sgd_search ratings

Tasks: ``ml1m``, MovieLens-1M as clicks, a fifth of each user's cells held out, ndcg@20 over all items; ``ncf``, its
leave-one-out split, ndcg@10 among 99 negatives; ``ratings``, MovieLens-100k on the first of Surprise's folds, RMSE.
Points are drawn at random from `SPACE`, ``--points`` a loss, every loss the same number; the number of epochs comes for
free, from a validation after every third one. Prints one JSON line a point, the best last.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import time
from typing import Any

import numpy as np
import scipy.sparse as sp

import lfm_np
from benchmarks import datasets, ml100k_ratings

SPACE: dict[str, dict[str, list[Any]]] = {
    "BPR": {
        "learning_rate": [0.02, 0.05, 0.1, 0.2],
        "regularization": [0.001, 0.003, 0.01, 0.03],
        "sampler": ["Uniform()", "Popularity(0.5)", "Hard(2)", "Hard(4)"],
        "biases": [False, "item"],
    },
    "WARP": {
        "learning_rate": [0.005, 0.01, 0.02, 0.05],
        "regularization": [0.001, 0.003, 0.01, 0.03],
        "trials": [10, 50],
        "sampler": ["Uniform()", "Popularity(0.5)"],
        "biases": [False, "item"],
    },
    "SampledSoftmax": {
        "learning_rate": [0.05, 0.1, 0.2],
        "regularization": [0.001, 0.003, 0.01, 0.03],
        "negatives": [8, 16],
        "correct_logq": [True, False],
        "sampler": ["Uniform()", "Popularity(0.5)", "Popularity(1.0)"],
        "biases": [False],
    },
    "Squared": {
        "learning_rate": [0.005, 0.01, 0.02, 0.03],
        "regularization": [0.04, 0.06, 0.08, 0.1],
        "bias": [0.005, 0.02, 0.05],
        "factors": [50, 100, 200],
        "schedule": ["inverse", "constant"],
    },
}
EVERY = 3
SHARED = {"factors": 64, "schedule": "inverse"}
LOSS_FIELDS = ("trials", "correct_logq", "temperature", "margin")


def arguments(loss: str, point: dict[str, Any]) -> dict[str, Any]:
    """Keyword arguments of `sgd` for a point of the space."""
    point = SHARED | point
    fields = {name: point.pop(name) for name in LOSS_FIELDS if name in point}
    point["loss"] = getattr(lfm_np.losses, loss)(**fields)
    if "sampler" in point:
        name, value = point["sampler"].rstrip(")").split("(")
        point["sampler"] = getattr(lfm_np.sampling, name)(
            *([float(value) if "." in value else int(value)] if value else [])
        )
    if "bias" in point:
        bias, rest = point.pop("bias"), point["regularization"]
        point["regularization"] = {"user": rest, "item": rest, "negative": rest, "bias": bias}
    return point


def hold_out(X: sp.csr_array, each: float, rng: np.random.Generator) -> tuple[sp.csr_array, sp.csr_array]:
    """(rest, held out): one random cell of each user where ``each`` is 1, else this share of them."""
    rows = np.repeat(np.arange(X.shape[0]), np.diff(X.indptr))
    order = np.lexsort((rng.random(X.nnz), rows))
    rank = np.empty(X.nnz, np.int64)
    rank[order] = np.arange(X.nnz) - X.indptr[rows[order]]
    held = rank < (1 if each == 1 else np.diff(X.indptr)[rows] * each)
    parts = (sp.csr_array((X.data[m], (rows[m], X.indices[m])), shape=X.shape) for m in (~held, held))
    return tuple(parts)  # type: ignore[return-value]


def ranking_problem(task: str) -> tuple[sp.csr_array, Any]:
    """Training matrix, and a function of factors that gives the measure on the validation cells."""
    rng = np.random.default_rng(0)
    if task == "ml1m":
        train, held = hold_out(datasets.load("ml-1m").train, 0.1, rng)
        return train, lambda f: lfm_np.evaluate(f, train, held, ("ndcg@20",))["ndcg@20"]
    split = lfm_np.datasets.movielens_split("1m", "ncf")
    train, held = hold_out(ones(split.train.matrix), 1, rng)
    negatives = rng.integers(0, train.shape[1], (train.shape[0], 99))
    return train, lambda f: lfm_np.evaluate(f, train, held, ("ndcg@10",), negatives=negatives)["ndcg@10"]


def ones(X: sp.csr_array) -> sp.csr_array:
    return sp.csr_array((np.ones(X.nnz, np.float32), X.indices, X.indptr), shape=X.shape)


def ratings_problem() -> tuple[sp.csr_array, Any]:
    """The first fold's training cells without a tenth of them, and minus the RMSE on that tenth."""
    records, tests = ml100k_ratings.folds()
    train = np.setdiff1d(np.arange(len(records.users)), tests[0])
    held = np.random.default_rng(0).permutation(len(train)) < len(train) // 10
    return rating_split(records, train[~held], train[held])


def rating_split(records: Any, train: np.ndarray, test: np.ndarray) -> tuple[sp.csr_array, Any]:
    users, rows = np.unique(records.users, return_inverse=True)
    items, columns = np.unique(records.items, return_inverse=True)
    pairs = np.column_stack((rows, columns))
    X = lfm_np.to_csr(pairs[train], shape=(len(users), len(items)), values=records.values[train], duplicates="error")

    def minus_rmse(f: lfm_np.Factors) -> float:
        guess = f.scores(rows[test], columns[test]).clip(1, 5)
        return -float(np.sqrt(np.mean((guess - records.values[test]) ** 2)))

    return X, minus_rmse


def fit(X: sp.csr_array, measure: Any, options: dict[str, Any], epochs: int) -> tuple[float, int]:
    """Best measure and its epoch; measured every ``EVERY`` epochs until two in a row are no better."""
    best = (-np.inf, 0)

    def callback(record: dict[str, Any], factors: lfm_np.Factors) -> None:
        nonlocal best
        if record["iteration"] % EVERY == 0:
            best = max(best, (measure(factors), record["iteration"]))
            if record["iteration"] - best[1] >= 2 * EVERY:
                raise StopIteration

    with contextlib.suppress(lfm_np.SolverError):  # a rate too large: what was measured before counts
        lfm_np.sgd(X, epochs=epochs, random_state=0, callback=callback, **options)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("task", choices=("ml1m", "ncf", "ratings"))
    parser.add_argument("losses", nargs="*")
    parser.add_argument("--points", type=int, default=12)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--seconds", type=float, default=240.0, help="for each loss; the search ends there")
    options = parser.parse_args()
    X, measure = ratings_problem() if options.task == "ratings" else ranking_problem(options.task)
    for loss in options.losses or ["Squared"]:
        rng, started, tried = np.random.default_rng(1), time.perf_counter(), []
        for _ in range(options.points):
            point = {name: values[rng.integers(len(values))] for name, values in SPACE[loss].items()}
            extra = {"sampler": None, "biases": True} if options.task == "ratings" else {}
            began = time.perf_counter()
            value, epoch = fit(X, measure, arguments(loss, point) | extra, options.epochs)
            seconds = round(time.perf_counter() - began, 1)
            tried.append((value, {"loss": loss, "value": round(value, 4), "epochs": epoch, "seconds": seconds} | point))
            print(json.dumps(tried[-1][1]), flush=True)
            if time.perf_counter() - started > options.seconds:
                break
        print("best", json.dumps(max(tried, key=lambda pair: pair[0])[1]), flush=True)


if __name__ == "__main__":
    main()
