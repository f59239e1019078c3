"""From Parquet to the rows of a stored matrix: records are numbered, brought to their rows' buckets, and grouped."""

from __future__ import annotations

import contextlib
import hashlib
import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lfm_np import paths
from lfm_np import validation as check
from lfm_np.arrow_records import numbers, without_nulls
from lfm_np.atomic import open_regular
from lfm_np.cells import cells_of, matrix_of
from lfm_np.ids import plain
from lfm_np.kernels.jit import Pool
from lfm_np.reading import BATCH, Plan, load_arrow, open_files
from lfm_np.stored.buckets import Buckets, Budget, cell_bytes, counted
from lfm_np.stored.files import NumberFile, Writer, changed, file_of

if TYPE_CHECKING:
    import pyarrow as pa

    from lfm_np.id_columns import IdEncoder

_READING = 2048  # bytes of memory for each record of a batch, which with its copies may take half of them
_GROUPING = 128  # bytes a record while a bucket becomes cells: measured 105
_VALUE = np.dtype(np.float64)  # of a record: sums and means are accumulated in it


def write_records(
    path: str | os.PathLike[str], plan: Plan, zeros: str, folder: Path, scratch: Path, budget: Budget, num_threads: int
) -> tuple[int, int]:
    """Write the rows, and the ids of rows and columns; returns the shape. The records are read once."""
    users, items, values = _number(path, plan, folder, scratch, budget)
    shape = len(users[1]), len(items[1])
    indptr = counted((users[1][piece] for piece in users[0].pieces()), shape[0])
    budget = budget.sorting(shape)
    longest = int(np.diff(indptr).max(initial=0))
    budget.less(longest * _GROUPING, f"a user with {longest} records")
    memory = budget.left
    with (
        Pool(num_threads) as pool,
        Buckets(scratch, indptr, memory // _GROUPING, _VALUE, pool) as buckets,
    ):
        for lo in range(0, values.length, step := memory // (2 * cell_bytes(_VALUE))):
            hi = min(lo + step, values.length)
            codes = [place[file.read(lo, hi)] for file, place in (users, items)]
            buckets.add(*codes, values.read(lo, hi))
        _group(buckets, shape, plan.duplicates, zeros, folder)
    return shape


Numbered = tuple[NumberFile, np.ndarray]  # numbers by first occurrence, and the place of each


def _number(
    path: str | os.PathLike[str], plan: Plan, folder: Path, scratch: Path, budget: Budget
) -> tuple[Numbered, Numbered, NumberFile]:
    """Records as numbers in files, with what brings the numbers to the order of the ids."""
    import pyarrow as pa

    from lfm_np.id_columns import IdEncoder

    size = min(BATCH, max(1, budget.left // _READING))
    schema, batches = open_files(path, "parquet", plan, size)
    names = "user", "item"
    encoders = {name: IdEncoder(name, schema.field(plan.names[name]).type, size) for name in names}
    with contextlib.ExitStack() as stack:
        files = {name: stack.enter_context(Writer(file_of(scratch, "records", name), np.int32)) for name in names}
        values = stack.enter_context(Writer(file_of(scratch, "records", "value"), _VALUE))
        for batch in without_nulls(plan, batches):
            values.append(_values(plan, batch, values.length))
            for name in names:
                encoders[name].add(batch.column(plan.names[name]))
                _append(files[name], encoders[name].drain())
            pa.default_memory_pool().release_unused()
            budget.less(sum(encoder.memory for encoder in encoders.values()), "the distinct users and items so far")
        users, items = (_finished(encoders.pop(name), files[name], folder / f"{name}s.parquet") for name in names)
        return users, items, values.finished()


def _finished(encoder: IdEncoder, file: Writer, path: Path) -> Numbered:
    ids, place = encoder.distinct()
    _append(file, encoder.drain())
    _write_ids(path, ids)
    return file.finished(), place


def _append(file: Writer, parts: list[np.ndarray]) -> None:
    for part in parts:
        file.append(part)


def _values(plan: Plan, batch: pa.RecordBatch, first: int) -> np.ndarray:
    if "value" not in plan.names:
        return np.ones(len(batch))
    column = numbers("value", plan.names["value"], batch)
    return check.check_values("value", column, len(batch), first=first, noun=plan.noun)


def _write_ids(path: Path, ids: pa.Array) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with open(path, "wb") as file:
        pq.write_table(pa.table({"id": ids}), file)
        file.flush()
        os.fsync(file.fileno())


def ids_digests(folder: Path) -> dict[str, str]:
    """SHA-256 of the files of ids that there are."""
    digests = {}
    for name in ("users", "items"):
        if paths.exists(path := folder / f"{name}.parquet"):
            with open_regular(str(path)) as file:
                digests[name] = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
    return digests


def read_ids(folder: Path, name: str, digests: dict[str, str]) -> np.ndarray | None:
    """The ids of a stored matrix, as `Interactions` has them; None where it has none.

    ``digests``: what `ids_digests` gave when the matrix was opened.
    """
    if name not in digests:
        return None
    load_arrow("pyarrow")
    import pyarrow as pa
    import pyarrow.parquet as pq

    from lfm_np.id_columns import to_numpy

    path = folder / f"{name}.parquet"
    try:
        with open_regular(str(path)) as file:
            content = file.read()
    except FileNotFoundError:
        content = b""
    if hashlib.sha256(content).hexdigest() != digests[name]:
        raise changed(path)
    return to_numpy(pq.read_table(pa.BufferReader(content))["id"].combine_chunks())


def _ids_at(folder: Path, first: int, row: int, column: int) -> list[Any]:
    """The ids of a row, counted from ``first``, and of a column."""
    import pyarrow.parquet as pq

    from lfm_np.id_columns import to_numpy

    tables = [pq.read_table(folder / f"{name}.parquet")["id"] for name in ("users", "items")]
    one = [ids.slice(place, 1).combine_chunks() for ids, place in zip(tables, (first + row, column))]
    return [plain(to_numpy(ids)[0]) for ids in one]


def _group(buckets: Buckets, shape: tuple[int, ...], duplicates: str, zeros: str, folder: Path) -> None:
    """Records to cells, bucket after bucket, which are runs of rows."""
    lengths = np.zeros(shape[0] + 1, np.int64)
    with (
        Writer(file_of(folder, "rows", "indptr"), np.int64) as indptr,
        Writer(file_of(folder, "rows", "indices"), np.int32) as indices,
        Writer(file_of(folder, "rows", "data"), np.float32) as data,
    ):
        for bucket, (lo, hi) in enumerate(buckets.runs):
            major, minor, values = buckets.take(bucket)
            major -= lo
            ids_at = partial(_ids_at, folder, lo)
            part = matrix_of(cells_of(major, minor, values, None, duplicates, ids_at), (hi - lo, shape[1]))
            if zeros == "drop":
                part.eliminate_zeros()
            lengths[lo + 1 : hi + 1] = np.diff(part.indptr)
            indices.append(part.indices)
            data.append(part.data)
        indptr.append(np.cumsum(lengths))
