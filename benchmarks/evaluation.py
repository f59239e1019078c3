"""CPU seconds of `evaluate` by what it is asked for, and its GFLOP/s beside sgemm.

    python -m benchmarks.evaluation [--users 10000] [--items 27000] [--factors 16 64 256 1024] [--threads 2]

Random factors and cells: 50 training and 10 test items a user. Lists of the best 20 come from the top-N search; MRR and
AUC need the ranks of all test items: every item is scored, 2·users·items·k flops, and compared with each of them.
"""

from __future__ import annotations

import argparse
import functools
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.sparse as sp
import threadpoolctl

import lfm_np

METRICS = {"lists": ("recall@20", "ndcg@20"), "all ranks": ("mrr", "auc")}


def least(function: Callable[[], Any], repeats: int = 3) -> float:
    """CPU seconds of the cheapest of some calls, after one that compiles."""
    times = []
    for _ in range(repeats + 1):
        start = time.process_time()
        function()
        times.append(time.process_time() - start)
    return min(times[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=10_000)
    parser.add_argument("--items", type=int, default=27_000)
    parser.add_argument("--factors", type=int, nargs="+", default=[16, 64, 256, 1024])
    parser.add_argument("--threads", type=int, default=2)
    asked = parser.parse_args()
    m, n, rng = asked.users, asked.items, np.random.default_rng(0)
    train, test = (sp.random_array((m, n), density=d / n, format="csr", dtype=np.float32, rng=rng) for d in (50, 10))
    print("| k | " + " | ".join(METRICS) + " | GFLOP/s of all ranks | sgemm |\n" + "| --- " * (len(METRICS) + 3) + "|")
    for k in asked.factors:
        factors = lfm_np.Factors(*(rng.standard_normal((rows, k), dtype=np.float32) for rows in (m, n)))
        evaluate = functools.partial(lfm_np.evaluate, factors, train, test, num_threads=asked.threads)
        seconds = [least(functools.partial(evaluate, names)) for names in METRICS.values()]
        block = factors.user_factors[:1000]
        with threadpoolctl.threadpool_limits(1):
            sgemm = 2 * len(block) * n * k / least(functools.partial(np.matmul, block, factors.item_factors.T)) / 1e9
        print(
            f"| {k} | "
            + " | ".join(f"{s:.2f}" for s in seconds)
            + f" | {2 * m * n * k / seconds[-1] / 1e9:.1f} | {sgemm:.1f} |"
        )


if __name__ == "__main__":
    main()
