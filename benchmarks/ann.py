"""Recall and speed of approximate indexes beside the exact search, on factors of `lfm_np.als`.

    python -m benchmarks.ann TRAIN.npz [--factors 64] [--users 5000] [--threads 2]

TRAIN.npz as in `benchmarks.topn`. Recall is the share of the exact best N that the index finds; nothing is filtered.
The rate of an index includes the exact scores of what it found.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

import lfm_np
from benchmarks.topn import ALS, SWEEPS, load


def report(name: str, run, exact: np.ndarray) -> None:
    run()  # warms up
    start = time.perf_counter()
    ids = run().ids
    rate = len(ids) / (time.perf_counter() - start)
    recall = np.mean([len(set(a) & set(b)) for a, b in zip(ids.tolist(), exact.tolist())]) / exact.shape[1]
    print(f"  {name:24}{rate:10,.0f} users/s   recall {recall:.4f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data")
    parser.add_argument("--factors", type=int, default=64)
    parser.add_argument("--users", type=int, default=5000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("-n", type=int, default=10, help="length of a list")
    options = parser.parse_args()
    X = load(options.data)
    factors = lfm_np.als(X, factors=options.factors, iterations=SWEEPS, random_state=0, **ALS)
    users = np.random.default_rng(1).permutation(X.shape[0])[: options.users]
    exact = factors.recommend(users, N=options.n).ids
    print(f"{X.shape[0]} × {X.shape[1]}, k={options.factors}, N={options.n}, {len(users)} users")
    report("exact", lambda: factors.recommend(users, N=options.n, num_threads=options.threads), exact)
    start = time.perf_counter()
    index = lfm_np.ann.usearch_index(factors, num_threads=options.threads)
    print(f"  usearch built in {time.perf_counter() - start:.1f} s")
    for expansion in (64, 256, 1024):
        index.expansion_search = expansion
        report(f"usearch, expansion {expansion}", lambda: lfm_np.ann.search(index, factors, users, options.n), exact)
    start = time.perf_counter()
    index = lfm_np.ann.faiss_index(factors)
    print(f"  faiss built in {time.perf_counter() - start:.1f} s")
    for expansion in (64, 256, 1024):
        index.hnsw.efSearch = expansion
        report(f"faiss, expansion {expansion}", lambda: lfm_np.ann.search(index, factors, users, options.n), exact)


if __name__ == "__main__":
    main()
