"""What `sgd` reaches on real data with the parameters that `benchmarks.sgd_search` chose.

    LFM_NP_DATA=folder python -m benchmarks.sgd_quality blocks losses ncf ratings [--seeds 5]
    LFM_NP_DATA=folder python -m benchmarks.sgd_quality curves --output curves.png

``blocks``: ML-1M as clicks, a fifth of each user's cells held out, ndcg@20 over all items after the same epochs,
trained in blocks and as one sequence that shuffles all cells, paired by seed; with ``--matrix NAME`` recall@20 on that
workload instead. ``losses``: BPR, WARP and SampledSoftmax on the same split; ``curves``: a picture of them by epoch and
by second. ``ncf``: ML-1M leave-one-out, 99 negatives, HR@10 and NDCG@10. ``ratings``: ML-100k, Surprise's five folds,
RMSE.
"""

from __future__ import annotations

import argparse
import contextlib
import time
from typing import Any
from unittest import mock

import numpy as np
import scipy.sparse as sp

import lfm_np
from benchmarks import datasets, ml100k_ratings
from benchmarks.sgd_search import EVERY, START, arguments, fit, ones, rating_split

# What sgd_search found: for ml1m in up to 100 epochs, until no neighbour was better (SampledSoftmax: 14 trials, four
# are left), for ncf in 20 trials (SampledSoftmax: 14)
CHOSEN: dict[str, tuple[str, dict[str, Any]]] = {
    "ml1m BPR": ("BPR", START["BPR"] | {"epochs": 84}),
    "ml1m BPR uniform": ("BPR uniform", START["BPR uniform"] | {"epochs": 78}),
    "ml1m WARP": ("WARP", START["WARP"] | {"epochs": 27}),
    "ml1m SampledSoftmax": ("SampledSoftmax", START["SampledSoftmax"] | {"negatives": 32, "epochs": 51}),
    "ncf SampledSoftmax": (
        "SampledSoftmax",
        START["SampledSoftmax"] | {"sampler": "Popularity(0.5)", "biases": "item", "factors": 128, "epochs": 39},
    ),
    "ncf BPR": ("BPR", START["BPR"] | {"regularization": 0.02, "biases": "item", "factors": 256, "epochs": 36}),
}
RATINGS = [
    {"learning_rate": rate, "regularization": reg, "bias": bias, "factors": factors, "schedule": "inverse"}
    for rate, reg, bias, factors in ((0.02, 0.07, 0.02, 200), (0.02, 0.08, 0.02, 100), (0.03, 0.08, 0.01, 200))
]


def spread(values: Any) -> str:
    return f"{np.mean(values):.4f} ± {np.std(values, ddof=1) if len(values) > 1 else np.nan:.4f}"


def blocks(seeds: int, matrix: str, epochs: list[int]) -> None:
    """The measure of one shuffled sequence by epoch, and by how much blocks differ from it, paired by seed."""
    data, metric = datasets.load(matrix), "ndcg@20" if matrix == "ml-1m" else "recall@20"

    def measured(seed: int, G: int | None) -> list[float]:
        values = []

        def callback(record: dict[str, Any], factors: lfm_np.Factors) -> None:
            if record["iteration"] in epochs:
                values.append(lfm_np.evaluate(factors, data.train, data.test, (metric,))[metric])

        with mock.patch("lfm_np.sgd_grid.blocks_for", return_value=G) if G else contextlib.nullcontext():
            fit = lfm_np.sgd(data.train, epochs=max(epochs), random_state=seed, callback=callback)
        print(
            f"{matrix} seed {seed} G = {fit.params['blocks']} {metric} after {epochs}: {np.round(values, 5)}",
            flush=True,
        )
        return values

    pairs = np.array([[measured(seed, 1), measured(seed, None)] for seed in range(seeds)])
    differences = pairs[:, 1] - pairs[:, 0]
    for e, sequence, difference in zip(epochs, pairs[:, 0].T, differences.T, strict=True):
        error = np.std(difference, ddof=1) / np.sqrt(seeds)
        print(f"{matrix} epoch {e}: sequence {spread(sequence)}, blocks {np.mean(difference):+.5f} ± {error:.5f}")


def losses(seeds: int) -> None:
    data = datasets.load("ml-1m")
    for key, (loss, chosen) in CHOSEN.items():
        if key.startswith("ml1m"):
            rank(key, loss, chosen, data.train, data.test, ("ndcg@20", "recall@20"), seeds)


def curves(path: str) -> None:
    """ndcg@20 on the test cells by epoch and by the seconds of training, for every loss's choice."""
    from matplotlib.figure import Figure

    data = datasets.load("ml-1m")
    figure = Figure(figsize=(9, 4), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for key, (family, chosen) in CHOSEN.items():
        if not key.startswith("ml1m"):
            continue
        values: list[float] = []

        def callback(record: dict[str, Any], factors: lfm_np.Factors, values: list[float] = values) -> None:
            values.append(lfm_np.evaluate(factors, data.train, data.test, ("ndcg@20",))["ndcg@20"])

        options = arguments(family, chosen)
        lfm_np.sgd(data.train, **options | {"epochs": 1})  # compiles
        fit = lfm_np.sgd(data.train, random_state=0, callback=callback, **options)
        seconds = np.cumsum([record["seconds"] for record in fit.history])
        for axes, x in zip(panels, (np.arange(len(values)) + 1, seconds), strict=True):
            axes.plot(x, values, marker="o", markersize=3, label=f"{family}, {chosen['sampler']}, {chosen['schedule']}")
    panels[0].set(xlabel="epochs", ylabel="ndcg@20 over all items")
    panels[1].set(xlabel="seconds of training", xscale="log")
    for axes in panels:
        axes.grid(alpha=0.3)
    panels[0].legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=120)


def ncf(seeds: int) -> None:
    split = lfm_np.datasets.movielens_split("1m", "ncf")
    for key, (loss, chosen) in CHOSEN.items():
        if key.startswith("ncf"):
            metrics = ("hit_rate@10", "ndcg@10")
            rank(key, loss, chosen, ones(split.train.matrix), split.test, metrics, seeds, negatives=split.negatives)


def rank(
    key: str,
    loss: str,
    chosen: dict[str, Any],
    train: sp.csr_array,
    test: Any,
    metrics: tuple[str, ...],
    seeds: int,
    **options: Any,
) -> None:
    results: dict[str, list[float]] = {metric: [] for metric in metrics}
    started = time.perf_counter()
    for seed in range(seeds):
        factors = lfm_np.sgd(train, random_state=seed, **arguments(loss, chosen))
        measured = lfm_np.evaluate(factors, train, test, metrics, **options)
        for metric in metrics:
            results[metric].append(measured[metric])
    table = ", ".join(f"{metric} {spread(values)}" for metric, values in results.items())
    print(f"{key}: {table}; {(time.perf_counter() - started) / seeds:.1f} s a run, {chosen}", flush=True)


def ratings(seeds: int) -> None:
    """Every fold chooses among `RATINGS` on a tenth of its own training cells, then fits all of them."""
    records, tests = ml100k_ratings.folds()
    fixed = {"sampler": None, "biases": True}
    errors = []
    for fold, test in enumerate(tests):
        train = np.setdiff1d(np.arange(len(records.users)), test)
        held = np.random.default_rng(fold).permutation(len(train)) < len(train) // 10
        problem = rating_split(records, train[~held], train[held])
        tried = [(fit(*problem, arguments("Squared", point) | fixed, 90), point) for point in RATINGS]
        values, point = max(tried, key=lambda pair: max(pair[0]))
        epochs = EVERY * (int(np.argmax(values)) + 1)
        X, minus_rmse = rating_split(records, train, test)
        options = arguments("Squared", point) | fixed
        errors.append([-minus_rmse(lfm_np.sgd(X, epochs=epochs, random_state=s, **options)) for s in range(seeds)])
        print(f"fold {fold}: RMSE {np.mean(errors[-1]):.4f}, {epochs} epochs, {point}", flush=True)
    print(f"ratings: RMSE {np.mean(errors):.4f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tasks", nargs="+", choices=("blocks", "losses", "curves", "ncf", "ratings"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--matrix", default="ml-1m", help="for blocks: see benchmarks.datasets")
    parser.add_argument("--epochs", type=int, nargs="+", default=[2, 4, 8, 12], help="for blocks")
    parser.add_argument("--output", default="curves.png", help="for curves")
    options = parser.parse_args()
    for task in options.tasks:
        if task == "blocks":
            blocks(options.seeds, options.matrix, options.epochs)
        elif task == "curves":
            curves(options.output)
        else:
            {"losses": losses, "ncf": ncf, "ratings": ratings}[task](options.seeds)


if __name__ == "__main__":
    main()
