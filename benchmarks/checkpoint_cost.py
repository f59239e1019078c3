"""What checkpoints cost: seconds a sweep of `als` without, with one after every sweep, and with one every 60 seconds.

    python -m benchmarks.checkpoint_cost [DATA …] [--factors 64] [--sweeps 4] [--rounds 3] [--folder .]

DATA: names of `benchmarks.datasets`, the three planted workloads by default. The three take turns; medians. Beside
them, what writing as many bytes, bringing them to the disk and renaming costs by itself, and what their SHA-256 does.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import scipy.sparse as sp

import lfm_np
from benchmarks import datasets

PIECE = 1 << 20


def sweep(X: sp.csr_array, sweeps: int, checkpoint: Any, **options: Any) -> float:
    """Seconds from the end of the first sweep to that of the last, with the saves between, for each."""
    ends: list[float] = []
    lfm_np.als(
        X, iterations=sweeps, checkpoint=checkpoint, callback=lambda *_: ends.append(time.perf_counter()), **options
    )
    return (ends[-1] - ends[0]) / (sweeps - 1)


def written(data: bytes, path: Path) -> None:
    """Write, synchronise, rename over the last one."""
    beside = path.with_suffix(".tmp")
    with open(beside, "wb") as file:
        for lo in range(0, len(data), PIECE):
            file.write(data[lo : lo + PIECE])
        file.flush()
        os.fsync(file.fileno())
    os.replace(beside, path)


def seconds(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def measured(X: sp.csr_array, folder: Path, sweeps: int, rounds: int, **options: Any) -> tuple[int, list[float]]:
    """Bytes of the file; medians of without, every sweep, every minute, the writing and the hash alone."""
    path, times = folder / "fit", []
    for _ in range(rounds):
        row = [sweep(X, sweeps, None, **options)]
        for every in (0.0, 60.0):
            path.unlink(missing_ok=True)
            row.append(sweep(X, sweeps, lfm_np.Checkpoint(path, every), **options))
        data = path.read_bytes()
        row += [seconds(lambda: written(data, folder / "alone")), seconds(lambda: hashlib.sha256(data))]  # noqa: B023
        times.append(row)
    return path.stat().st_size, [statistics.median(column) for column in zip(*times)]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", nargs="*", default=list(datasets.WORKLOADS))
    parser.add_argument("--factors", type=int, default=64)
    parser.add_argument("--sweeps", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=Path())
    given = parser.parse_args(arguments)
    options = {"factors": given.factors, "num_threads": given.threads, "random_state": 0}
    print("| data | MiB | s a sweep | saved every sweep | every 60 s | a save | writing alone | SHA-256 alone |")
    print("| --- |" + " ---: |" * 7)
    for name in given.data:
        X = datasets.load(name).train
        lfm_np.als(X[:1000], iterations=1, **options)  # compiles
        with tempfile.TemporaryDirectory(dir=given.folder) as folder:
            size, (plain, each, minute, alone, digest) = measured(
                X, Path(folder), given.sweeps, given.rounds, **options
            )
        row = [plain, each, minute, each - plain, alone, digest]
        print(f"| {name} | {size / 2**20:.0f} | " + " | ".join(f"{value:.2f}" for value in row) + " |", flush=True)


if __name__ == "__main__":
    main()
