"""Rows a second of `Factors.fold_in_users`, called from a thread of its own as in a service, for batches of some sizes.

    python -m benchmarks.fold_in [--factors 64 128] [--batches 1 32 1000] [--seconds 2] [--threads 1]

Item factors of `lfm_np.als` on MovieLens-1M; the rows are its users'.
"""

from __future__ import annotations

import argparse
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import scipy.sparse as sp

import lfm_np
from benchmarks.topn import ALS, load


def rate(factors: lfm_np.Factors, X: sp.csr_array, batch: int, seconds: float, threads: int) -> float:
    """Rows a second, of batches of users at random; the first call, which compiles, does not count."""
    rng, rows, spent = np.random.default_rng(0), -batch, 0.0
    while spent < seconds:
        some = X[rng.integers(X.shape[0], size=batch)]
        start = time.perf_counter()
        factors.fold_in_users(some, num_threads=threads)  # with the parameters of the fit
        spent += time.perf_counter() - start if rows >= 0 else 0.0
        rows += batch
    return rows / spent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--factors", type=int, nargs="+", default=[64, 128])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 32, 1000])
    parser.add_argument("--seconds", type=float, default=2.0, help="for each rate")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    X = load("ml-1m")
    for k in options.factors:
        factors = lfm_np.als(X, factors=k, iterations=4, random_state=0, **ALS)
        for batch in options.batches:
            with ThreadPoolExecutor(1) as service:
                found = service.submit(rate, factors, X, batch, options.seconds, options.threads).result()
            print(f"k={k}, batches of {batch}: {found:,.0f} rows/s", flush=True)


if __name__ == "__main__":
    main()
