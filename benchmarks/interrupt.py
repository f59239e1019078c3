"""How long Ctrl-C takes to end a fit, at moments spread over checking, planning, transposing and two sweeps.

    python -m benchmarks.interrupt --cells 10000000 --factors 128

Every trial is a whole call; SIGINT is sent to the process after a delay, and the time from there to the call's return
is what counts. Beside it: how the calls ended, and whether a thread outlived one.
"""

from __future__ import annotations

import argparse
import os
import signal
import threading
import time
from collections import Counter
from typing import Any

import numpy as np
import scipy.sparse as sp

import lfm_np

FITS = {
    "als": lambda X, **options: lfm_np.als(X, **options),
    "als, cg": lambda X, **options: lfm_np.als(X, solver="cg", **options),
    "als, ratings": lambda X, **options: lfm_np.als(X, weighting="ratings", biases=True, **options),
    "sgd": lambda X, **options: lfm_np.sgd(X, **options),
    "sgd, WARP": lambda X, **options: lfm_np.sgd(X, lfm_np.losses.WARP(), **options),
    "torch als": lambda X, **options: lfm_np.torch_backend.als(X, **options),
    "torch sgd": lambda X, **options: lfm_np.torch_backend.sgd(X, **options),
}


def matrix(rows: int, columns: int, cells: int) -> sp.csr_array:
    """Cells at random, short and long rows, popular and rare columns."""
    rng = np.random.default_rng(0)
    users, items = ((side * rng.random(cells) ** 3).astype(np.int32) for side in (rows, columns))
    return sp.csr_array((np.ones(cells, np.float32), (users, items)), shape=(rows, columns))


def interrupted(fit: Any, X: sp.csr_array, delay: float, **options: Any) -> tuple[float, str]:
    """Seconds from SIGINT to the end of the call, and how it ended."""
    sent: list[float] = []

    def press() -> None:
        sent.append(time.perf_counter())
        os.kill(os.getpid(), signal.SIGINT)

    timer = threading.Timer(delay, press)
    timer.start()
    try:
        found = fit(X, **options)
        ended = f"{found.status} after {len(found.history)}"
    except KeyboardInterrupt:
        ended = "KeyboardInterrupt"
    returned = time.perf_counter()
    timer.cancel()
    timer.join()
    return (returned - sent[0], ended) if sent else (0.0, "over before")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--columns", type=int, default=20_000)
    parser.add_argument("--cells", type=int, default=10_000_000)
    parser.add_argument("--factors", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--trials", type=int, default=10)
    parser.add_argument("--until", type=float, default=10.0, help="seconds into the call, over which trials are spread")
    parser.add_argument("fits", nargs="*", default=list(FITS)[:4], help=", ".join(FITS))
    given = parser.parse_args()
    X = matrix(given.rows, given.columns, given.cells)
    print(f"{X.shape[0]:,} × {X.shape[1]:,}, {X.nnz:,} cells, {given.factors} factors, {given.threads} threads")
    print("| fit | median s | longest s | its moment s | ended by | threads left |")
    print("| --- | ---: | ---: | ---: | --- | ---: |")
    for name in given.fits:
        fit, options = FITS[name], {"factors": given.factors, "num_threads": given.threads}
        fit(X[:200], **options)  # compiles
        before, found = threading.active_count(), []
        for delay in (np.arange(given.trials) + 0.5) * given.until / given.trials:
            found.append((*interrupted(fit, X, delay, **options), delay))
        seconds = [trial[0] for trial in found]
        worst, endings = max(found), Counter(trial[1] for trial in found)
        ended = ", ".join(f"{count} {ending}" for ending, count in endings.items())
        left = threading.active_count() - before
        row = f"{np.median(seconds):.2f} | {worst[0]:.2f} | {worst[2]:.2f} | {ended} | {left}"
        print(f"| {name} | {row} |", flush=True)


if __name__ == "__main__":
    main()
