"""Seconds a sweep of ALS on a local dask cluster against one process with as many threads, interleaved.

    python -m benchmarks.distributed TRAIN.npz [TRAIN.npz …] [--factors 64] [--workers 2] [--sweeps 10] [--repeats 3]
                                   [--profile]

TRAIN.npz: a matrix saved by ``scipy.sparse.save_npz``. Each worker is a process of one thread. Printed are the median
seconds of a sweep of either, the first of each run left out, in the repeat with the least, so that what else runs on
the machine counts for little; the overhead, by these and by the least seconds of a sweep; the seconds until the first
sweep on a cluster that is there (cutting, sending and planning the shards); and how far 1000 users' scores are apart.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import dask
import distributed
import numpy as np
import scipy.sparse as sp

import lfm_np


def sweeps_of(factors: lfm_np.Factors) -> list[float]:
    """Seconds of every sweep but the first, which has the caches to fill."""
    return [record["seconds"] for record in factors.history[1:]]


def compare(path: str, client: distributed.Client, workers: int, k: int, sweeps: int, repeats: int) -> str:
    X = sp.csr_array(sp.load_npz(path))
    asked = {"factors": k, "regularization": 0.01, "iterations": sweeps, "random_state": 0}
    here: list[list[float]] = []
    there: list[list[float]] = []
    starts: list[float] = []
    for _ in range(repeats):
        one = lfm_np.als(X, num_threads=workers, solver="exact", **asked)
        began = time.perf_counter()
        many = lfm_np.distributed.als(X, client=client, shards=workers, **asked)
        starts.append(time.perf_counter() - began - sum(record["seconds"] for record in many.history))
        here.append(sweeps_of(one))
        there.append(sweeps_of(many))
    users = np.arange(0, X.shape[0], max(1, X.shape[0] // 1000))
    apart = np.abs(many.user_factors[users] @ many.item_factors.T - one.user_factors[users] @ one.item_factors.T).max()
    a, b = (min(float(np.median(run)) for run in runs) for runs in (here, there))
    overheads = b / a - 1, np.min(there) / np.min(here) - 1
    name, (m, n) = Path(path).stem, X.shape
    return (
        f"| {name} | {m:,} × {n:,} | {X.nnz:,} | {k} | {a:.3f} | {b:.3f} | {overheads[0]:+.0%} | {overheads[1]:+.0%} "
        f"| {min(starts):.1f} | {apart:.0e} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train", nargs="+")
    for name, default in {"factors": 64, "workers": 2, "sweeps": 10, "repeats": 3}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--profile", action="store_true", help="leave dask's profiler of workers on")
    args = parser.parse_args()
    dask.config.set({"distributed.worker.profile.enabled": args.profile})
    print("| matrix | shape | cells | k | one process, s | cluster, s | overhead | least | start, s | scores apart |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    with (
        distributed.LocalCluster(n_workers=args.workers, threads_per_worker=1, dashboard_address=":0") as cluster,
        distributed.Client(cluster) as client,
    ):
        for path in args.train:
            print(compare(path, client, args.workers, args.factors, args.sweeps, args.repeats), flush=True)


if __name__ == "__main__":
    main()
