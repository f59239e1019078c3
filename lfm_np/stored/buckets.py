"""Cells on their way into another order, through files: a counting sort in two passes that both read and write in runs.

The first pass appends every cell to the bucket of its major index; a bucket is a run of major indices whose cells fit
in memory. The second takes bucket after bucket. Cells of one major index keep the order in which they came.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lfm_np import paths
from lfm_np.kernels.buckets import scatter
from lfm_np.kernels.jit import Pool
from lfm_np.stored.files import StoredCsr, Writer, cut, file_of

_PIECE = 1 << 18  # cells that one thread sorts at once
_INDEX = np.dtype(np.int32)
_ROW = 36  # bytes a row or column while cells are sorted: offsets, counts, number, bucket, where the next cell goes
_LEAST = 1 << 19  # bytes to work in


def cell_bytes(dtype: np.dtype) -> int:
    """Memory of a cell while it is sorted: its three numbers twice, its key and place; an eighth more malloc keeps."""
    return 9 * (2 * (2 * _INDEX.itemsize + dtype.itemsize) + 8) // 8


class Budget(NamedTuple):
    """Bytes that a build may take."""

    memory: int  # what the caller said
    left: int

    def less(self, bytes: int, what: str) -> Budget:
        """What is left beside ``bytes``; MemoryError where that is next to nothing."""
        if (left := self.left - bytes) < _LEAST:
            need = self.memory + _LEAST - left
            raise MemoryError(f"memory must be at least {need} bytes for {what}, got {self.memory}; give more")
        return self._replace(left=left)

    def sorting(self, shape: tuple[int, ...]) -> Budget:
        """What is left for cells."""
        return self.less(_ROW * sum(shape), f"{shape[0]} rows and {shape[1]} columns")


class Buckets:
    """Files of cells (major, minor, value) by bucket, in ``folder`` until the block ends.

    Parameters
    ----------
    indptr : int64 array
        Where the cells of each major index begin among all, sorted.
    cells : int
        Of a bucket, at most, unless one major index has more.
    """

    def __init__(self, folder: Path, indptr: np.ndarray, cells: int, dtype: np.dtype, pool: Pool) -> None:
        self._indptr, self._pool = indptr, pool
        self.runs = cut(indptr, cells)
        edges = [lo for lo, _ in self.runs] + [len(indptr) - 1]
        self._bucket = np.repeat(np.arange(len(self.runs), dtype=_INDEX), np.diff(edges))
        self._free = indptr[edges[:-1]].tolist()  # where the next cell of each bucket goes
        self._stack = ExitStack()
        folder = self._stack.enter_context(paths.temporary_folder(folder))
        self._files = [
            self._stack.enter_context(Writer(file_of(folder, "bucket", name), kind))
            for name, kind in (("major", _INDEX), ("minor", _INDEX), ("values", dtype))
        ]

    def __enter__(self) -> Buckets:
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    def add(self, *cells: np.ndarray) -> None:
        """Append cells, given as major, minor, values."""
        count, buckets = len(cells[0]), len(self.runs)
        pieces = -(-count // _PIECE)
        keys, counts = np.empty(count, _INDEX), np.empty((buckets, pieces), np.int64)
        sorted_cells = [np.empty_like(part) for part in cells]

        def look(piece: int, worker: int) -> None:
            own = slice(piece * _PIECE, (piece + 1) * _PIECE)
            np.take(self._bucket, cells[0][own], out=keys[own])
            counts[:, piece] = np.bincount(keys[own], minlength=buckets)

        def sort(piece: int, worker: int) -> None:
            own = slice(piece * _PIECE, (piece + 1) * _PIECE)
            scatter(keys[own], following[:, piece].copy(), *(part[own] for part in cells), *sorted_cells)

        self._pool.run(look, pieces)
        following = np.cumsum(counts).reshape(counts.shape) - counts
        self._pool.run(sort, pieces)
        ends = np.cumsum(counts.sum(axis=1)).tolist()
        for bucket, (start, stop) in enumerate(zip([0, *ends], ends)):
            for file, part in zip(self._files, sorted_cells):
                file.write(self._free[bucket], part[start:stop])
            self._free[bucket] += stop - start

    def take(self, bucket: int) -> list[np.ndarray]:
        """Major, minor and value of the bucket's cells, in the order they came."""
        lo, hi = self.runs[bucket]
        return [file.finished().read(int(self._indptr[lo]), int(self._indptr[hi])) for file in self._files]

    def take_sorted(self, bucket: int) -> tuple[np.ndarray, np.ndarray]:
        """Minor and value of the bucket's cells by major index."""
        lo, hi = self.runs[bucket]
        major, minor, values = self.take(bucket)
        major -= lo
        out = [np.empty_like(part) for part in (major, minor, values)]
        scatter(major, self._indptr[lo:hi] - self._indptr[lo], major, minor, values, *out)
        return out[1], out[2]


def transpose(rows: StoredCsr, folder: Path, scratch: Path, budget: Budget, num_threads: int) -> None:
    """Write the transpose of ``rows`` to ``folder``, with files in ``scratch`` on the way.

    Reads the cells twice and writes them twice, all in runs; threads share the sorting of a piece in the first pass,
    and take a bucket each in the second.
    """
    dtype, each = rows.data.dtype, cell_bytes(rows.data.dtype)
    indptr = counted(rows.indices.pieces(), rows.width)
    longest = max(1, int(np.diff(indptr).max(initial=0)))
    budget.less(longest * each - _LEAST, f"a column of {longest} cells")
    memory = budget.left
    with Writer(file_of(folder, "columns", "indptr"), np.int64) as out:
        out.append(indptr)
    cells = max(longest, memory // (num_threads * each))
    with (
        Writer(file_of(folder, "columns", "indices"), _INDEX) as indices,
        Writer(file_of(folder, "columns", "data"), dtype) as data,
        Pool(num_threads) as pool,
        Buckets(scratch, indptr, cells, dtype, pool) as buckets,
    ):
        for cell in _triples(rows, memory // each):
            buckets.add(*cell)

        def finish(bucket: int, worker: int) -> None:
            minor, values = buckets.take_sorted(bucket)
            at = int(indptr[buckets.runs[bucket][0]])
            indices.write(at, minor)
            data.write(at, values)

        with Pool(min(num_threads, max(1, memory // (cells * each)))) as few:
            few.run(finish, len(buckets.runs))


def counted(pieces: Iterator[np.ndarray], width: int) -> np.ndarray:
    """Offsets of 0 … width − 1 from numbers in pieces: how many are smaller."""
    counts = np.zeros(width + 1, np.int64)
    for piece in pieces:
        counts[1:] += np.bincount(piece, minlength=width)
    return np.cumsum(counts)


def _triples(rows: StoredCsr, cells: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Column, row and value of the cells, at most ``cells`` at once."""
    indptr = rows.indptr.read(0, rows.indptr.length)
    for start in range(0, rows.indices.length, cells):
        stop = min(start + cells, rows.indices.length)
        lo = int(np.searchsorted(indptr, start, side="right")) - 1
        hi = int(np.searchsorted(indptr, stop))
        lengths = np.diff(np.clip(indptr[lo : hi + 1], start, stop))
        numbers = np.repeat(np.arange(lo, hi, dtype=_INDEX), lengths)
        yield rows.indices.read(start, stop), numbers, rows.data.read(start, stop)
