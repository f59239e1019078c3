"""alpha and λ for the ALS runs of `python -m benchmarks run`, by recall@20 on cells held out of the training matrix.

    python -m benchmarks.als_tuning ml20m --factors 64

All the solvers minimise the same objective, so one search serves them all. The test cells are not looked at.
"""

from __future__ import annotations

import argparse

import numpy as np
import scipy.sparse as sp

import lfm_np
from benchmarks import datasets
from benchmarks.tasks import some_users

VALIDATION = 0.1  # of the cells


def halves(X: sp.csr_array) -> tuple[sp.csr_array, sp.csr_array]:
    """X without a tenth of its cells, and those."""
    coo, held = X.tocoo(), np.random.default_rng(1).random(X.nnz) < VALIDATION
    rest, validation = (
        sp.csr_array((coo.data[part], (coo.row[part], coo.col[part])), shape=X.shape) for part in (~held, held)
    )
    return rest, validation


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset")
    parser.add_argument("--factors", type=int, default=64)
    parser.add_argument("--alphas", nargs="+", type=float, default=[1.0, 3.0, 10.0])
    parser.add_argument("--regularizations", nargs="+", type=float, default=[30.0, 100.0, 300.0, 1000.0])
    parser.add_argument("--sweeps", type=int, default=8)
    asked = parser.parse_args()
    rest, validation = halves(datasets.load(asked.dataset).train)
    judged = some_users(validation)
    print("| alpha | λ | recall@20 |\n| --- | --- | --- |")
    for alpha in asked.alphas:
        for lam in asked.regularizations:
            options = {"factors": asked.factors, "iterations": asked.sweeps, "random_state": 0}
            factors = lfm_np.als(rest, alpha=alpha, regularization=lam, **options)
            recall = lfm_np.evaluate(factors, rest, judged, metrics="recall@20")["recall@20"]
            print(f"| {alpha:g} | {lam:g} | {recall:.4f} |", flush=True)


if __name__ == "__main__":
    main()
