"""Seconds and peak memory of `Interactions.from_parquet`, a row.

    python -m benchmarks.reading [--rows 20000000] [--folder FOLDER]

Writes a Parquet file of random events (users drawn from a twentieth as many as rows, with busy and idle ones; 100,000
items; a float32 value; a time in seconds), once with integer ids and once with UUIDs as strings for users, and reads
each in a fresh process. The peak is the most memory that process held beyond what it held before it read.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import lfm_np

PART = 1_000_000  # rows that are made, and stored as one row group
READS = (("user, item", {}), ("user, item, value, timestamp", {"value": "value", "timestamp": "time"}))


def write(path: Path, rows: int, strings: bool) -> None:
    rng = np.random.default_rng(0)
    names = np.array([f"{high:016x}-{low:019x}" for high, low in rng.integers(0, 2**62, (rows // 20, 2)).tolist()])
    writer = None
    for start in range(0, rows, PART):
        size = min(PART, rows - start)
        users = (len(names) * rng.random(size) ** 2).astype(np.int64)
        columns = {
            "user": pa.array(names[users]) if strings else users * 7919,
            "item": (100_000 * rng.random(size) ** 3).astype(np.int64),
            "value": rng.random(size, dtype=np.float32),
            "time": rng.integers(1_500_000_000, 1_700_000_000, size),
        }
        table = pa.table(columns)
        writer = writer or pq.ParquetWriter(path, table.schema)
        writer.write_table(table)
    if writer is not None:
        writer.close()


def read(path: Path, options: dict[str, str], answer: multiprocessing.Queue) -> None:
    def peak() -> int:
        return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    before, start = peak(), time.perf_counter()
    data = lfm_np.Interactions.from_parquet(path, **options)
    answer.put((time.perf_counter() - start, peak() - before, repr(data)))


def measure(path: Path, rows: int, kind: str) -> None:
    spawn = multiprocessing.get_context("spawn")
    for columns, options in READS:
        answer = spawn.Queue()
        process = spawn.Process(target=read, args=(path, options, answer))
        process.start()
        seconds, held, what = answer.get()
        process.join()
        memory = f"{held / rows:.0f} bytes a row at the peak"
        print(f"{rows:,} rows, users {kind}, columns {columns}: {seconds:.1f} s, {memory}; {what}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=20_000_000)
    parser.add_argument("--folder", type=Path, help="where the files are kept; by default they are removed")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        for kind, strings in (("integers", False), ("strings of 36 characters", True)):
            path = (
                options.folder or Path(temporary)
            ) / f"events-{options.rows}-{'strings' if strings else 'integers'}.parquet"
            if not path.exists():
                write(path, options.rows, strings)
            measure(path, options.rows, kind)


if __name__ == "__main__":
    main()
