"""What checking a matrix costs, as a share of one sweep.

    python -m benchmarks.validation [DATA …] [--factors 16 64] [--threads 2]

DATA: names of `benchmarks.datasets`, the three planted workloads by default. All that `als` and `sgd` check of X and
its values, against a sweep, both on so many threads of a machine that does nothing else: the least of several times.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import scipy.sparse as sp

import lfm_np
from benchmarks import datasets
from lfm_np.problem import check_problem
from lfm_np.validation import check_matrix

REPEATS = 25
DEFAULTS: dict[str, Any] = {
    "regularization": 0.1,
    "alpha": 1.0,
    "unobserved_weight": 1.0,
    "exponent": 0.0,
    "weighting": "hu-koren",
    "biases": False,
    "dtype": "float32",
}


def milliseconds(run: Callable[[], Any], repeats: int = REPEATS) -> float:
    """Least time of a call."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(1000 * (time.perf_counter() - start))
    return min(times)


def sweep(fit: Callable[..., lfm_np.Factors], X: sp.csr_array, k: int, threads: int) -> float:
    """Least time of a sweep of ``fit`` but the first."""
    name = "epochs" if fit is lfm_np.sgd else "iterations"
    history = fit(X, factors=k, random_state=0, num_threads=threads, **{name: 5}).history
    return 1000 * min(record["seconds"] for record in history[1:])


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", nargs="*", default=list(datasets.WORKLOADS))
    parser.add_argument("--factors", type=int, nargs="+", default=[16, 64])
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args(arguments)
    print("| data, k | checks of als, ms | its sweep, ms | share | checks of sgd, ms | its epoch, ms | share |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for name in options.data:
        X = datasets.load(name).train
        for k in options.factors:
            checks = milliseconds(lambda X=X, k=k: check_problem(X, factors=k, num_threads=options.threads, **DEFAULTS))
            matrix = milliseconds(lambda X=X: check_matrix("X", X, num_threads=options.threads))
            cells = [f"{name}, {k}"]
            for cost, fit in ((checks, lfm_np.als), (matrix, lfm_np.sgd)):
                whole = sweep(fit, X, k, options.threads)
                cells += [f"{cost:.1f}", f"{whole:.0f}", f"{cost / whole:.1%}"]
            print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
