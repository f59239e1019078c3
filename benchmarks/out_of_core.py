"""A fit of a matrix on disk beside one in memory: seconds and resident memory of every step.

``python -m benchmarks.out_of_core --folder /large/disk --cells 1e8 --memory 512``

Records with ids of strings are written to Parquet, 2²⁰ a row group; made a stored matrix; fitted from the disk, with
factors in memory and on disk; and fitted in memory. Every step is a process of its own, whose peak of the resident set
is counted from where its imports have brought it. ``--steps`` chooses some.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

STEPS = ("write", "store", "transpose", "disk", "mapped", "memory")
GROUP = 1 << 20  # records of a row group


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--cells", type=float, default=1e7)
    parser.add_argument("--memory", type=int, default=64, help="MiB that the build and the fit may take")
    parser.add_argument("--factors", type=int, default=64)
    parser.add_argument("--iterations", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=STEPS)
    parser.add_argument("--here", choices=STEPS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.here:
        print(json.dumps(_measured(options)))
        return
    for step in options.steps:
        command = [sys.executable, "-m", "benchmarks.out_of_core", *sys.argv[1:], "--here", step]
        result = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        print(f"{step:9} " + "  ".join(f"{name} {value:g}" for name, value in result.items()), flush=True)


def _measured(options: argparse.Namespace) -> dict[str, Any]:
    """Run a step; its seconds, and MiB of its peak beyond where it began."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    import lfm_np

    work = {"write": _write, "store": _store, "transpose": _transpose, "memory": _in_memory}.get(options.here, _on_disk)
    options.folder.mkdir(parents=True, exist_ok=True)
    small = lfm_np.datasets.make_interactions(2000, 300, 20, random_state=0)
    lfm_np.als(lfm_np.to_csr(small), factors=options.factors, iterations=1, num_threads=options.threads)  # compiles
    with tempfile.TemporaryDirectory() as place:  # imports and compiles what builds
        table = pa.table({"user": small[:, 0], "item": small[:, 1]})
        pq.write_table(table, f"{place}/records.parquet")
        lfm_np.StoredMatrix.from_parquet(f"{place}/records.parquet", f"{place}/matrix", num_threads=options.threads)
    before = _resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    started = time.perf_counter()
    found = work(options) or {}
    seconds = time.perf_counter() - started
    return {"seconds": round(seconds, 2), "peak_mib": round((_resident("VmHWM") - before) / 2**20, 1), **found}


def _resident(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def _write(options: argparse.Namespace) -> None:
    """Users and items by Zipf's law, in no order: 500 records a user and 5,000 an item in the mean."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    total, rng = int(options.cells), np.random.default_rng(0)
    users, items = max(10, total // 500), max(10, total // 5000)
    schema = pa.schema({"user": pa.string(), "item": pa.string()})
    with pq.ParquetWriter(options.folder / "records.parquet", schema) as writer:
        for lo in range(0, total, GROUP):
            count = min(GROUP, total - lo)
            columns = [_zipf(rng, users, count, 0.6), _zipf(rng, items, count, 0.8)]
            writer.write_table(pa.table([pa.array(c).cast(pa.string()) for c in columns], schema), row_group_size=GROUP)


def _zipf(rng: np.random.Generator, size: int, count: int, power: float) -> np.ndarray:
    """Numbers below ``size``; number r is about as frequent as (r + 1)^-power."""
    return (size * rng.random(count) ** (1 / (1 - power))).astype(np.int64)


def _store(options: argparse.Namespace) -> dict[str, Any]:
    import lfm_np

    stored = lfm_np.StoredMatrix.from_parquet(
        options.folder / "records.parquet",
        options.folder / "matrix",
        memory=options.memory << 20,
        num_threads=options.threads,
    )
    (m, n), size = stored.shape, stored.dtype.itemsize
    return {"users": m, "items": n, "cells": stored.nnz, "matrix_mib": round(stored.nnz * (4 + size) / 2**20)}


def _transpose(options: argparse.Namespace) -> dict[str, float]:
    """The transpose alone, with one thread and with all."""
    import lfm_np
    from lfm_np.stored.buckets import Budget, transpose

    rows, found, memory = lfm_np.StoredMatrix(options.folder / "matrix").rows, {}, options.memory << 20
    for threads in (1, options.threads):
        with tempfile.TemporaryDirectory(dir=options.folder) as place:
            started = time.perf_counter()
            transpose(rows, Path(place), Path(place), Budget(memory, memory), threads)
            found[f"seconds_{threads}_threads"] = round(time.perf_counter() - started, 2)
    return found


def _on_disk(options: argparse.Namespace) -> dict[str, Any]:
    import lfm_np

    where = options.folder if options.here == "mapped" else None
    started = time.perf_counter()
    stored = lfm_np.StoredMatrix(options.folder / "matrix", memory=options.memory << 20, factors_in=where)
    return {"open": round(time.perf_counter() - started, 2), **_fit(options, stored)}


def _in_memory(options: argparse.Namespace) -> dict[str, Any]:
    import scipy.sparse as sp

    import lfm_np

    shape = lfm_np.StoredMatrix(options.folder / "matrix").shape
    indptr, indices, data = (
        np.load(options.folder / "matrix" / f"rows.{part}.npy") for part in ("indptr", "indices", "data")
    )
    offsets = indptr.astype(np.int32 if len(indices) < 2**31 else np.int64)
    return _fit(options, sp.csr_array((data, indices, offsets), shape=shape))


def _fit(options: argparse.Namespace, X: Any) -> dict[str, Any]:
    import lfm_np

    asked = {"factors": options.factors, "iterations": options.iterations, "num_threads": options.threads}
    factors = lfm_np.als(X, alpha=10.0, regularization=0.1, random_state=0, solver="exact", **asked)
    return {
        "iteration": round(min(record["seconds"] for record in factors.history), 3),
        "parts": sum(factors.params[side]["blocks"] for side in ("user_rows", "item_rows")),
        "objective": factors.history[-1]["objective"],
    }


if __name__ == "__main__":
    main()
