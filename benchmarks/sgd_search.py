"""Parameters of `sgd` chosen on a validation split of the training data alone.

    LFM_NP_DATA=folder python -m benchmarks.sgd_search ml1m [FAMILY …]
    LFM_NP_DATA=folder python -m benchmarks.sgd_search ncf BPR SampledSoftmax --trials 12
    LFM_NP_DATA=folder python -m benchmarks.sgd_search ratings

Tasks: ``ml1m``, MovieLens-1M as clicks, a fifth of each user's cells set aside for the test and a tenth of the rest for
validation, ndcg@20 over all items; ``ncf``, its leave-one-out split, validated as it is tested: the latest training
cell of every user whose times are known, among 99 items that the user has not, ndcg@10; ``ratings``, MovieLens-100k on
the first of Surprise's folds, RMSE.

Coordinate search, the same number of trials for every family: from the point of `START`, where a search by hand ended,
a trial changes one knob of the best point so far to another value of `SPACE`, at random, none twice, until none is
left. A trial is measured after every third epoch and ends after three measures no better than one before, or when it is
a tenth behind the best trial at the same epoch. Prints one JSON line a trial, the best last.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.sparse as sp

import lfm_np
from benchmarks import datasets, ml100k_ratings
from lfm_np.splits import random_cells

Space = dict[str, list[Any]]
Measure = Callable[[lfm_np.Factors], float]

UPDATES: Space = {"schedule": ["inverse", "adagrad"], "biases": [False, "item"]}
BPR: Space = {"learning_rate": [0.02, 0.05, 0.1, 0.2], "regularization": [0.003, 0.01, 0.02, 0.03, 0.05]} | UPDATES
SPACE: dict[str, Space] = {  # the first word is the loss
    "BPR": BPR | {"sampler": ["Uniform()", "Popularity(0.5)", "Hard(4)", "Hard(8)"]},
    "BPR uniform": BPR | {"sampler": ["Uniform()"]},
    "WARP": {
        "learning_rate": [0.005, 0.01, 0.02, 0.05],
        "regularization": [0.03, 0.1, 0.2, 0.3],
        "trials": [10, 50],
        "sampler": ["Uniform()", "Popularity(0.5)"],
    }
    | UPDATES,
    "SampledSoftmax": {
        "learning_rate": [0.02, 0.05, 0.1, 0.2],
        "regularization": [0.03, 0.05, 0.1, 0.2],
        "negative": [0.0, 1.0],
        "negatives": [8, 16, 32],
        "sampler": ["Uniform()", "Popularity(0.5)"],
    }
    | UPDATES,
    "Squared": {
        "learning_rate": [0.005, 0.01, 0.02, 0.03],
        "regularization": [0.04, 0.06, 0.07, 0.08, 0.1],
        "bias": [0.005, 0.02, 0.05],
        "factors": [50, 100, 200],
        "schedule": ["inverse", "constant"],
    },
}
PLAIN = {"schedule": "inverse", "biases": False, "sampler": "Uniform()"}
START: dict[str, dict[str, Any]] = {
    "BPR": {"learning_rate": 0.1, "regularization": 0.03} | PLAIN | {"schedule": "adagrad", "sampler": "Hard(8)"},
    "BPR uniform": {"learning_rate": 0.1, "regularization": 0.01} | PLAIN,
    "WARP": {"learning_rate": 0.005, "regularization": 0.3, "trials": 50} | PLAIN,
    "SampledSoftmax": {"learning_rate": 0.05, "regularization": 0.1, "negative": 0.0, "negatives": 16} | PLAIN,
    "Squared": {"learning_rate": 0.02, "regularization": 0.07, "bias": 0.02, "factors": 200, "schedule": "inverse"},
}
OF_TASK: dict[str, Space] = {  # a search starts from the first values
    "ml1m": {},
    "ncf": {"factors": [128, 256]},
    "ratings": {"sampler": [None], "biases": [True]},
}
EVERY = 3
PATIENCE = 3  # measures without a better one, and measures before a rival counts
BEHIND = 0.1  # of the best trial's measure after as many epochs
LOSS_FIELDS = ("trials", "correct_logq", "temperature", "margin")


def arguments(family: str, point: dict[str, Any]) -> dict[str, Any]:
    """Keyword arguments of `sgd` for a point of the space: ``bias`` is a regularisation, ``negative`` a share of it."""
    point = {"factors": 64} | point
    fields = {name: point.pop(name) for name in LOSS_FIELDS if name in point}
    point["loss"] = getattr(lfm_np.losses, family.split()[0])(**fields)
    if point.get("sampler") is not None:
        name, value = point["sampler"].rstrip(")").split("(")
        point["sampler"] = getattr(lfm_np.sampling, name)(
            *([float(value) if "." in value else int(value)] if value else [])
        )
    weight = point["regularization"]
    parts = {"negative": weight * point.pop("negative", 1.0), "bias": point.pop("bias", weight)}
    point["regularization"] = {"user": weight, "item": weight} | parts
    return point


def ranking_problem(task: str) -> tuple[sp.csr_array, Measure]:
    """Training matrix, and a function of factors that gives the measure on the validation cells."""
    if task == "ml1m":
        X = datasets.load("ml-1m").train
        mask = random_cells(X.indptr, 0.1, np.random.default_rng(0))
        train, held = X.copy(), X.copy()
        train.data[mask], held.data[~mask] = 0, 0
        train.eliminate_zeros(), held.eliminate_zeros()
        return train, lambda f: lfm_np.evaluate(f, train, held, ("ndcg@20",))["ndcg@20"]
    data = lfm_np.datasets.movielens_split("1m", "ncf").train
    held = ones(data.select(~np.isnan(data.timestamps)).split("last")[1].matrix)
    train = ones(data.matrix) - held
    train.eliminate_zeros()
    negatives = unseen(ones(data.matrix), 99, np.random.default_rng(0))
    return train, lambda f: lfm_np.evaluate(f, train, held, ("ndcg@10",), negatives=negatives)["ndcg@10"]


def unseen(X: sp.csr_array, count: int, rng: np.random.Generator) -> np.ndarray:
    """``count`` different items for each row that it has not stored."""
    rows = [X.indices[X.indptr[u] : X.indptr[u + 1]] for u in range(X.shape[0])]
    return np.array([rng.choice(np.setdiff1d(np.arange(X.shape[1]), row), count, replace=False) for row in rows])


def ones(X: sp.csr_array) -> sp.csr_array:
    return sp.csr_array((np.ones(X.nnz, np.float32), X.indices, X.indptr), shape=X.shape)


def ratings_problem() -> tuple[sp.csr_array, Measure]:
    """The first fold's training cells without a tenth of them, and minus the RMSE on that tenth."""
    records, tests = ml100k_ratings.folds()
    train = np.setdiff1d(np.arange(len(records.users)), tests[0])
    held = np.random.default_rng(0).permutation(len(train)) < len(train) // 10
    return rating_split(records, train[~held], train[held])


def rating_split(records: Any, train: np.ndarray, test: np.ndarray) -> tuple[sp.csr_array, Measure]:
    users, rows = np.unique(records.users, return_inverse=True)
    items, columns = np.unique(records.items, return_inverse=True)
    pairs = np.column_stack((rows, columns))
    X = lfm_np.to_csr(pairs[train], shape=(len(users), len(items)), values=records.values[train], duplicates="error")

    def minus_rmse(f: lfm_np.Factors) -> float:
        guess = f.scores(rows[test], columns[test]).clip(1, 5)
        return -float(np.sqrt(np.mean((guess - records.values[test]) ** 2)))

    return X, minus_rmse


def fit(
    X: sp.csr_array, measure: Measure, options: dict[str, Any], epochs: int, rival: list[float] | None = None
) -> list[float]:
    """The measure after every ``EVERY`` epochs, until it stays below its best or is far behind ``rival``."""
    values: list[float] = []

    def callback(record: dict[str, Any], factors: lfm_np.Factors) -> None:
        if record["iteration"] % EVERY:
            return
        try:
            values.append(measure(factors))
        except ValueError as error:  # a model that is about to diverge: scores too large to rank
            raise StopIteration from error
        if len(values) - 1 - np.argmax(values) >= PATIENCE:
            raise StopIteration
        if rival and len(values) >= PATIENCE:
            theirs = rival[min(len(values), len(rival)) - 1]
            if values[-1] < theirs - BEHIND * abs(theirs):
                raise StopIteration

    with contextlib.suppress(lfm_np.SolverError):  # a rate too large: what was measured before counts
        lfm_np.sgd(X, epochs=epochs, random_state=0, callback=callback, **options)
    return values or [-np.inf]


def neighbours(point: dict[str, Any], space: Space, rng: np.random.Generator) -> list[dict[str, Any]]:
    """All points that differ from ``point`` in one knob, in random order."""
    others = [point | {name: value} for name, values in space.items() for value in values if value != point[name]]
    return [others[i] for i in rng.permutation(len(others))]


def search(
    X: sp.csr_array, measure: Measure, family: str, task: str, trials: int, epochs: int, threads: int | None
) -> None:
    """Print every trial, and the best."""
    space, rng = SPACE[family] | OF_TASK[task], np.random.default_rng(0)
    point = best = START[family] | {name: values[0] for name, values in OF_TASK[task].items()}
    rival: list[float] = []
    seen = []
    for _ in range(trials):
        started = time.perf_counter()
        values = fit(X, measure, arguments(family, point) | {"num_threads": threads}, epochs, rival)
        if not rival or max(values) > max(rival):
            best, rival = point, values
        show(family, values, point, seconds=round(time.perf_counter() - started, 1))
        seen.append(point)
        point = next((other for other in neighbours(best, space, rng) if other not in seen), {})
        if not point:  # no knob is left that was not tried from the best point
            break
    print("best", end=" ")
    show(family, rival, best)


def show(family: str, values: list[float], point: dict[str, Any], **more: float) -> None:
    epochs = EVERY * (int(np.argmax(values)) + 1)
    print(
        json.dumps({"family": family, "value": round(max(values), 4)} | more | point | {"epochs": epochs}), flush=True
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("task", choices=list(OF_TASK))
    parser.add_argument("families", nargs="*", help="of SPACE; by default all that fit the task")
    parser.add_argument("--trials", type=int, default=14)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    X, measure = ratings_problem() if options.task == "ratings" else ranking_problem(options.task)
    fitting = ["Squared"] if options.task == "ratings" else [name for name in SPACE if name != "Squared"]
    for family in options.families or fitting:
        search(X, measure, family, options.task, options.trials, options.epochs, options.threads)


if __name__ == "__main__":
    main()
