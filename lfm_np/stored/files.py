"""One-dimensional .npy files, read and written piece by piece, and CSR matrices made of three of them.

They are read into memory of our own and not mapped: what is in memory is then what the budget says, and a page of a
file that vanishes is an error and no signal.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lfm_np import paths
from lfm_np.fingerprint import PIECE, Digest
from lfm_np.npy_files import npy_header
from lfm_np.quiet import quietly

OFFSET = 128  # bytes before the numbers of a one-dimensional array, whatever its length


class NumberFile(NamedTuple):
    """A file of numbers that is there."""

    path: Path
    dtype: np.dtype
    length: int
    seen: tuple[int, ...] | None = None
    """Its state when it was examined; None where that does not matter."""

    def noted(self) -> NumberFile:
        """Itself, which from now on must stay as it is."""
        return self._replace(seen=_state(os.stat(self.path)) if paths.is_file(self.path) else None)

    def check(self) -> None:
        """ValueError unless the file has this dtype and length."""
        wanted = OFFSET + self.length * self.dtype.itemsize
        size = self.path.stat().st_size if paths.is_file(self.path) else None
        if size != wanted:
            raise ValueError(f"{self.path.name} has {'no' if size is None else size} bytes, not {wanted}")
        with open(self.path, "rb") as file:
            if file.read(OFFSET) != npy_header(self.dtype, (self.length,)):
                raise ValueError(f"{self.path.name} is not an array of {self.length} {self.dtype} numbers")

    def read(self, lo: int, hi: int, buffer: np.ndarray | None = None) -> np.ndarray:
        """Numbers lo … hi − 1, in a new array or at the beginning of ``buffer``."""
        part = np.empty(hi - lo, self.dtype) if buffer is None else buffer[: hi - lo]
        room, done = part.view(np.uint8).data, 0
        with open(self.path, "rb", buffering=0) as file:
            if self.seen is not None and self.seen != _state(os.fstat(file.fileno())):
                raise changed(self.path)
            file.seek(OFFSET + lo * self.dtype.itemsize)
            while done < len(room):
                got = file.readinto(room[done:])
                if not got:
                    raise ValueError(f"{self.path} was truncated")
                done += got
        return part

    def pieces(self) -> Iterator[np.ndarray]:
        for lo in range(0, self.length, PIECE):
            yield self.read(lo, min(lo + PIECE, self.length))


def changed(path: Path) -> ValueError:
    """The error for a file that is not what it was when the matrix was opened."""
    return ValueError(f"{path} has changed since the matrix was opened; open the folder again")


def _state(info: os.stat_result) -> tuple[int, ...]:
    """Which file it is, and what differs after any change: archives and copies set the time of the last write."""
    return info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns


class Writer:
    """A file of numbers in the making. The file is whole when the block ends."""

    def __init__(self, path: Path, dtype: Any) -> None:
        self._file, self._path = open(path, "x+b"), path  # noqa: SIM115 (closed by __exit__)
        self._dtype, self._end, self._lock = np.dtype(dtype), 0, threading.Lock()

    def __enter__(self) -> Writer:
        return self

    @property
    def length(self) -> int:
        """Of what is written."""
        return self._end

    def append(self, numbers: np.ndarray) -> None:
        self.write(self._end, numbers)

    def write(self, at: int, numbers: np.ndarray) -> None:
        """Numbers to the places ``at`` …, by any thread."""
        numbers = np.ascontiguousarray(numbers, self._dtype)
        with self._lock:
            self._file.seek(OFFSET + at * self._dtype.itemsize)
            self._file.write(numbers.view(np.uint8).data)
            self._end = max(self._end, at + len(numbers))

    def finished(self) -> NumberFile:
        """The file, to read from; its numbers are there but perhaps not yet on the disk."""
        with self._lock:
            self._file.seek(0)
            self._file.write(npy_header(self._dtype, (self._end,)))
            self._file.flush()
        return NumberFile(self._path, self._dtype, self._end)

    def __exit__(self, *error: Any) -> None:
        with self._file:
            if error == (None, None, None):
                self.finished()
                os.fsync(self._file.fileno())


class StoredCsr(NamedTuple):
    """Canonical CSR in three files: offsets int64, indices int32, values."""

    indptr: NumberFile
    indices: NumberFile
    data: NumberFile
    width: int  # one more than the largest index allowed

    @classmethod
    def at(cls, folder: Path, order: str, shape: tuple[int, int], nnz: int, dtype: np.dtype) -> StoredCsr:
        indptr = NumberFile(file_of(folder, order, "indptr"), np.dtype(np.int64), shape[0] + 1)
        indices = NumberFile(file_of(folder, order, "indices"), np.dtype(np.int32), nnz)
        return cls(indptr, indices, NumberFile(file_of(folder, order, "data"), dtype, nnz), shape[1])

    def noted(self) -> StoredCsr:
        """Itself, of files that from now on must stay as they are."""
        return self._replace(indptr=self.indptr.noted(), indices=self.indices.noted(), data=self.data.noted())

    def offsets(self) -> np.ndarray:
        """indptr, looked at again: rows that began anywhere else would be read over others, and kernels go astray."""
        indptr = self.indptr.read(0, self.indptr.length)
        if not self._ascends(indptr):
            raise changed(self.indptr.path)
        return indptr

    def _ascends(self, indptr: np.ndarray) -> bool:
        """From 0 to all cells."""
        return bool(indptr[0] == 0 and indptr[-1] == self.indices.length and (indptr[:-1] <= indptr[1:]).all())

    def lengths(self) -> np.ndarray:
        """Cells of every row."""
        return np.diff(self.offsets())

    def buffers(self, cells: int) -> tuple[np.ndarray, np.ndarray]:
        """Room for so many cells."""
        return np.empty(cells, self.indices.dtype), np.empty(cells, self.data.dtype)

    def read_rows(
        self, indptr: np.ndarray, lo: int, hi: int, buffers: tuple[np.ndarray, np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rows lo … hi − 1 as (indptr, indices, data) in the buffers; ``indptr``: that of the whole matrix."""
        start, stop = int(indptr[lo]), int(indptr[hi])
        indices = self.indices.read(start, stop, buffers[0])
        if len(indices) and not (indices.min() >= 0 and indices.max() < self.width):  # kernels would write anywhere
            raise ValueError(f"{self.indices.path} has changed: it has indices beyond {self.width - 1}")
        return indptr[lo : hi + 1] - start, indices, self.data.read(start, stop, buffers[1])

    def examine(self) -> dict[str, Any]:
        """Everything checked in one pass; what the manifest says of it.

        ``sha256`` is the fingerprint that the same matrix has in memory.
        """
        for file in (self.indptr, self.indices, self.data):
            file.check()
        digest = Digest()
        digest.begin(np.int64, (2,))
        digest.add(np.array([self.indptr.length - 1, self.width]))
        indptr = self.indptr.read(0, self.indptr.length)
        if not self._ascends(indptr):
            raise ValueError(f"{self.indptr.path.name} does not ascend from 0 to {self.indices.length}")
        digest.begin(np.int64, indptr.shape)
        digest.add(indptr)
        digest.begin(np.int64, (self.indices.length,))
        self._examine_indices(indptr, digest)
        digest.begin(self.data.dtype, (self.data.length,))
        return self._examine_data(digest) | {"sha256": digest.text()}

    def _examine_indices(self, indptr: np.ndarray, digest: Digest) -> None:
        cell, before = 0, -1
        for piece in self.indices.pieces():
            lo, hi = np.searchsorted(indptr, (cell, cell + len(piece)))
            ascending = np.diff(piece, prepend=piece.dtype.type(before)) > 0
            starts = indptr[lo:hi] - cell
            ascending[starts] = True
            if not ascending.all() or piece.min() < 0 or piece.max() >= self.width:
                raise ValueError(f"{self.indices.path.name} does not ascend within 0 … {self.width - 1} in every row")
            digest.add(piece)
            cell, before = cell + len(piece), int(piece[-1])

    def _examine_data(self, digest: Digest) -> dict[str, Any]:
        lowest, highest, total, zeros = np.inf, -np.inf, 0.0, False
        for piece in self.data.pieces():
            if not np.isfinite(piece).all():
                raise ValueError(f"{self.data.path.name} has a non-finite value")
            lowest, highest = min(lowest, float(piece.min())), max(highest, float(piece.max()))
            total += float(quietly(piece.sum, dtype=np.float64))  # as in `fixed_mean`
            zeros = zeros or not piece.all()
            digest.add(piece)
        if not self.data.length:
            lowest = highest = 0.0
        return {"lowest": lowest, "highest": highest, "sum": total, "zeros": zeros}


def file_of(folder: Path, order: str, part: str) -> Path:
    return folder / f"{order}.{part}.npy"


def cut(indptr: np.ndarray, cells: int) -> list[tuple[int, int]]:
    """Runs lo, hi of consecutive rows of at most ``cells`` cells, or of one row."""
    runs, lo, rows = [], 0, len(indptr) - 1
    while lo < rows:
        hi = int(np.searchsorted(indptr, indptr[lo] + cells, side="right")) - 1
        runs.append((lo, max(hi, lo + 1)))
        lo = runs[-1][1]
    return runs


def fixed_mean(data: np.ndarray) -> float:
    """The mean of values, in float64, summed as `StoredCsr.examine` does; 0 of none."""
    total = 0.0
    for lo in range(0, len(data), PIECE):
        total += float(quietly(data[lo : lo + PIECE].sum, dtype=np.float64))
    return mean_of(total, len(data))


def mean_of(total: float, count: int, name: str = "X") -> float:
    """The mean of so many ratings with such a sum; 0 of none."""
    if not math.isfinite(total):
        raise ValueError(f"{name} must have ratings whose sum is finite in float64; divide them by a constant")
    return total / max(count, 1)
