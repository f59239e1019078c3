"""``python -m lfm_np demo``: from interactions to judged recommendations, a model file and a picture."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, NamedTuple

from lfm_np import datasets
from lfm_np.als import als
from lfm_np.cells import to_csr
from lfm_np.errors import MissingExtraError
from lfm_np.evaluation import evaluate, most_popular
from lfm_np.factors import Factors
from lfm_np.signals import pass_on
from lfm_np.validation import check_choice

METRICS = ("recall@10", "ndcg@10", "map@10", "mrr@10")

# Chosen on a validation split of the training cells; for "synthetic", on data of another seed.
_PARAMETERS: dict[str, dict[str, Any]] = {
    "movielens": {
        "factors": 64,
        "weighting": "ials",
        "alpha": 1.0,
        "unobserved_weight": 0.2,
        "regularization": 0.01,
        "regularization_exponent": 1.0,
        "iterations": 12,
    },
    "synthetic": {"factors": 64, "alpha": 40.0, "regularization": 100.0, "iterations": 10},
}


class _Problem(NamedTuple):
    kind: str
    what: str
    train: Any
    test: Any


def demo(data: str = "auto", *, rows: int = 1_000_000, output: Path = Path(), random_state: Any = 0) -> Factors:
    """Factor MovieLens-1M or synthetic interactions, print how good the result is, and save it.

    Parameters
    ----------
    data : {"auto", "movielens", "synthetic"}
        "auto" takes MovieLens where it is at hand or can be downloaded, else the synthetic data, and says why.
    rows : int
        Rows of the synthetic data (a thousand columns, up to four interactions a row).
    output : path
        Folder for ``lfm_np_demo.safetensors`` and ``lfm_np_demo.png``.
    random_state : None, int, SeedSequence, Generator or RandomState
    """
    check_choice("data", data, ("auto", "movielens", "synthetic"))
    start = time.perf_counter()
    output.mkdir(parents=True, exist_ok=True)
    problem = _problem(data, rows, random_state)
    m, n = problem.train.shape
    cells = problem.train.nnz
    print(f"{problem.what}: {m:,} × {n:,}, {cells:,} interactions to learn from ({cells / m / n:.2%} of all cells)")
    print(f"and {problem.test.nnz:,} to predict")

    parameters = _PARAMETERS[problem.kind]
    print("als(X, " + ", ".join(f"{name}={value!r}" for name, value in parameters.items()) + ")")
    factors = als(problem.train, **parameters, random_state=random_state, progress=True)
    results = {
        "most popular": evaluate(most_popular(problem.train), problem.train, problem.test, METRICS),
        "als": evaluate(factors, problem.train, problem.test, METRICS),
    }
    print(_table(results))

    model = output / "lfm_np_demo.safetensors"
    factors.save(model)
    print(f"model: {model}")
    print(f"picture: {_picture(factors, output / 'lfm_np_demo.png')}")
    print(f"{time.perf_counter() - start:.0f} seconds in all")
    return factors


def _problem(data: str, rows: int, random_state: Any) -> _Problem:
    if data != "synthetic":
        try:
            ratings = datasets.movielens("1m")
            train, test = ratings.binarize().split(test_fraction=0.2, random_state=random_state)
            return _Problem("movielens", "MovieLens-1M, every rating an interaction", train.matrix, test.matrix)
        except (MissingExtraError, OSError) as error:
            pass_on(error)
            if data == "movielens":
                raise
            print(f"No MovieLens: {error}. Taking synthetic interactions instead.")
    pairs = datasets.make_interactions_train_test(rows, 1000, 4, random_state=random_state)
    train, test = (to_csr(part, (rows, 1000)) for part in pairs)
    return _Problem("synthetic", "Synthetic interactions", train, test)


def _table(results: dict[str, dict[str, float]]) -> str:
    width = max(map(len, results))
    lines = [" " * width + "".join(f"{metric:>20}" for metric in METRICS)]
    for name, found in results.items():
        cells = (f"{found[metric]:.4f} ± {found[metric + '_se']:.4f}" for metric in METRICS)
        lines.append(f"{name:{width}}" + "".join(f"{cell:>20}" for cell in cells))
    return "\n".join(lines)


def _picture(factors: Factors, path: Path) -> str:
    try:
        from lfm_np import plots

        axes = plots.training_curve(factors)
    except MissingExtraError as error:
        return f"none ({error})"
    axes.figure.savefig(path, dpi=150, bbox_inches="tight")
    return str(path)
