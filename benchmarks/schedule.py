"""How `als` would scale to many cores: block costs measured here on one thread, the queue simulated for more.

``python -m benchmarks.schedule`` prints seconds, efficiency and what is lost to what for 1 … 64 threads, for each
matrix ``m,n,cells,k`` of ``--sizes``; ``--plot FILE`` draws the efficiencies.

*Measured*: the CPU time of every block of every phase of a sweep, as `als` cuts and runs them (best of some sweeps), of
all that runs between the phases, and of calling a kernel for a block of next to nothing. *Simulated*: `Pool.run`: a
worker that is free takes the next block; calling a kernel needs the interpreter's lock, so one at a time; a phase ends
with its last block. *Not modelled*: memory bandwidth and caches that cores share, and clocks that fall when all cores
work.
"""

from __future__ import annotations

import argparse
import heapq
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp

import lfm_np
from lfm_np import row_plan
from lfm_np.kernels.jit import Pool

THREADS = (1, 2, 4, 8, 16, 32, 64)
SIZES = ("138000,27000,8e6,64", "138000,27000,8e6,128", "1000000,100000,4e7,64", "1000000,100000,4e7,128")
SWEEPS = 3


class Sweep(NamedTuple):
    """CPU seconds of one sweep."""

    phases: list[np.ndarray]  # of the blocks, in the order they are handed out
    serial: float  # between phases


class TimedPool(Pool):
    """A pool of one thread that keeps the CPU time of every block of every phase."""

    phases: list[np.ndarray] = []  # noqa: RUF012 (`als` makes the pool, so it cannot hand us an instance)
    inside = 0.0  # CPU seconds of the phases, with what runs between their blocks

    def run(self, work: Any, count: int) -> None:
        taken = np.zeros(count)

        def timed(block: int, worker: int) -> None:
            started = time.thread_time()
            work(block, worker)
            taken[block] = time.thread_time() - started

        started = time.thread_time()
        super().run(timed, count)
        TimedPool.inside += time.thread_time() - started
        self.phases.append(taken)


def measure(X: sp.csr_array, factors: int) -> Sweep:
    """The blocks of a sweep, each at its best of some sweeps."""
    sweeps: list[list[np.ndarray]] = []
    serial: list[float] = []

    def note(record: dict[str, Any], view: Any) -> None:
        serial.append(time.thread_time() - note.started - TimedPool.inside)  # type: ignore[attr-defined]
        sweeps.append(list(TimedPool.phases))
        TimedPool.phases.clear()
        TimedPool.inside = 0.0
        note.started = time.thread_time()  # type: ignore[attr-defined]

    module = sys.modules["lfm_np.als"]
    module.Pool = TimedPool  # type: ignore[attr-defined]
    try:
        note.started = time.thread_time()  # type: ignore[attr-defined]
        asked = {"factors": factors, "alpha": 10.0, "regularization": 0.1, "num_threads": 1, "random_state": 0}
        lfm_np.als(X, iterations=SWEEPS + 1, callback=note, solver="exact", **asked)
    finally:
        module.Pool = Pool  # type: ignore[attr-defined]
    # the losses that are summed again, a phase of their own, may be those of other rows in another sweep
    phases = [np.min([b for b in blocks if len(b) == len(blocks[-1])], axis=0) for blocks in zip(*sweeps[1:])]
    return Sweep(phases, min(serial[1:]))


def hand_out_cost() -> float:
    """CPU seconds of handing out a block and calling its kernel, which hold the interpreter's lock."""
    before = row_plan.SMALLEST_BLOCK, row_plan.BLOCKS
    row_plan.SMALLEST_BLOCK, row_plan.BLOCKS = 1.0, 1 << 30
    try:
        sweep = measure(sp.eye_array(4000, format="csr"), 16)  # blocks of eight rows of one cell
    finally:
        row_plan.SMALLEST_BLOCK, row_plan.BLOCKS = before
    return max(float(np.median(blocks)) for blocks in sweep.phases if len(blocks) > 100)


def simulated(blocks: np.ndarray, threads: int, hand_out: float) -> float:
    """Seconds until the last block is done."""
    free = [0.0] * min(threads, max(1, len(blocks)))
    lock = end = 0.0
    for seconds in blocks.tolist():
        lock = max(heapq.heappop(free), lock) + min(hand_out, seconds)
        done = lock + max(0.0, seconds - hand_out)
        heapq.heappush(free, done)
        end = max(end, done)
    return end


def predicted(sweep: Sweep, threads: int, hand_out: float) -> dict[str, float]:
    """Seconds of a sweep, the efficiency, and the shares of all cores' time that are lost."""
    work = float(sum(map(np.sum, sweep.phases)))
    phases = sum(simulated(blocks, threads, hand_out) for blocks in sweep.phases)
    seconds = sweep.serial + phases
    alone = sweep.serial + sum(simulated(blocks, 1, hand_out) for blocks in sweep.phases)
    lost = {"serial": sweep.serial * (threads - 1) / (threads * seconds), "waiting": 1 - work / (threads * phases)}
    return {"seconds": seconds, "efficiency": alone / (threads * seconds), **lost}


def zipf_matrix(m: int, n: int, cells: int) -> sp.csr_array:
    """Users and items by Zipf's law (exponents 0.6 and 0.8)."""
    rng = np.random.default_rng(0)
    key = [rng.random(cells), rng.random(cells)]
    rows, columns = (size * u ** (1 / (1 - power)) for size, u, power in zip((m, n), key, (0.6, 0.8)))
    place = np.unique(rows.astype(np.int64) * n + columns.astype(np.int64))
    indptr = np.searchsorted(place, np.arange(m + 1, dtype=np.int64) * n)
    return sp.csr_array((np.ones(len(place), np.float32), (place % n).astype(np.int32), indptr), shape=(m, n))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", nargs="+", default=SIZES)
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    hand_out, curves = hand_out_cost(), {}
    print(f"handing out a block: {hand_out * 1e6:.1f} µs\n")
    for size in options.sizes:
        m, n, cells, k = (int(float(part)) for part in size.split(","))
        X = zipf_matrix(m, n, cells)
        sweep = measure(X, k)
        blocks = np.concatenate(sweep.phases)
        title = f"{m:,} × {n:,}, {X.nnz / 1e6:.1f} M cells, k = {k}"
        print(f"### {title}\n\n{len(blocks)} blocks, the longest {blocks.max() * 1e3:.2f} ms, ", end="")
        print(f"{blocks.sum():.2f} s in all; {sweep.serial * 1e3:.1f} ms between phases\n")
        print("| threads | seconds | efficiency | lost to serial parts | lost to waiting |\n|" + " --- |" * 5)
        rows = {threads: predicted(sweep, threads, hand_out) for threads in THREADS}
        for threads, row in rows.items():
            shares = " | ".join(f"{row[name]:.1%}" for name in ("efficiency", "serial", "waiting"))
            print(f"| {threads} | {row['seconds']:.4f} | {shares} |")
        print(flush=True)
        curves[title] = [row["efficiency"] for row in rows.values()]
    if options.plot:
        _plot(curves, options.plot)


def _plot(curves: dict[str, list[float]], path: Path) -> None:
    from matplotlib.figure import Figure

    axes = Figure(figsize=(7, 4), layout="constrained").add_subplot()
    axes.set(xlabel="threads", ylabel="predicted efficiency", ylim=(0, 1.05), title="A sweep of als on Zipf data")
    for title, efficiencies in curves.items():
        axes.plot(THREADS, efficiencies, marker="o", markersize=3, label=title)
    axes.axhline(0.9, color="grey", linewidth=0.8, linestyle=":")
    axes.set_xscale("log", base=2)
    axes.set_xticks(THREADS, map(str, THREADS))
    axes.legend(frameon=False, fontsize=8)
    axes.figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
