"""From records to cells: `build_dict`, `to_csr`, and the grouping that `Interactions` shares with them.

A *record* is one (row, column) pair with perhaps a value and a time, as it arrives. A *cell* is what the matrix stores;
several records of one pair make one cell.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp

from lfm_np import splits
from lfm_np import validation as check
from lfm_np.ids import plain
from lfm_np.quiet import quietly

LARGEST = np.iinfo(np.int32).max  # cells of a matrix whose offsets take 32 bits
SPARSE = 16  # ids a record from which on a sort is faster than to count
DUPLICATES = ("sum", "last", "mean", "max", "count", "error")


def build_dict(pairs: Any) -> dict[int, np.ndarray]:
    """The columns of every row: ``{i: sorted array of its j}``.

    Parameters
    ----------
    pairs : integer array, shape (N, 2)
        (i, j) pairs in any order; a repeated pair counts once.

    Returns
    -------
    dict of int to integer array
        Keys ascend. The arrays are distinct, ascending, of the dtype of ``pairs``, and read-only views of one buffer.
        A row without a pair has no key.

    Raises
    ------
    TypeError, ValueError
        ``pairs`` is not an array of non-negative integers of shape (N, 2).

    Notes
    -----
    O(N log N) time; 2.5 million pairs of a million rows take about a second, most of it for the million dict entries.

    Examples
    --------
    >>> build_dict([(0, 7), (2, 1), (0, 3)])
    {0: array([3, 7]), 2: array([1])}
    """
    pairs = check.check_pairs(pairs)
    order = np.lexsort((pairs[:, 1], pairs[:, 0]))
    rows, columns = pairs[order, 0], pairs[order, 1]
    if len(pairs):
        new = np.append(True, (rows[1:] != rows[:-1]) | (columns[1:] != columns[:-1]))
        rows, columns = rows[new], columns[new]
    columns.flags.writeable = False
    first = np.flatnonzero(np.append(True, rows[1:] != rows[:-1])[: len(rows)])
    bounds = np.append(first, len(rows)).tolist()
    return {row: columns[low:high] for row, low, high in zip(rows[first].tolist(), bounds[:-1], bounds[1:])}


def to_csr(
    pairs: Any, shape: tuple[int, int] | None = None, values: Any = None, duplicates: str = "sum"
) -> sp.csr_array:
    """The matrix of the given pairs, as canonical CSR.

    Parameters
    ----------
    pairs : integer array, shape (N, 2)
        (row, column) pairs in any order.
    shape : (int, int), optional
        Number of rows and columns, each below 2³¹ (solvers take 2³¹ − 2 at most). By default the smallest that holds
        every pair.
    values : array, shape (N,), optional
        One finite number a pair; 1 by default. Zeros are kept, as explicit zeros, and so is what float32 rounds to 0.
    duplicates : {"sum", "last", "mean", "max", "count", "error"}
        What becomes of a pair that occurs more than once: the sum, the last (in the order given), the mean or the
        largest of its values, or a ValueError. "count" is the number of its records, whatever their values.

    Returns
    -------
    scipy.sparse.csr_array, float32
        Indices sorted, none twice; int32 indices. Sums and means are accumulated in float64; one that is 0 is kept too.

    Raises
    ------
    TypeError, ValueError
        Pairs that are negative, fractional or outside ``shape``; values that are not finite in float32; a repeated pair
        with ``duplicates="error"``.

    Notes
    -----
    O(N log N) time, O(N) memory.

    Examples
    --------
    >>> to_csr([(0, 1), (1, 0), (0, 1)], shape=(2, 3)).toarray()
    array([[0., 2., 0.],
           [1., 0., 0.]], dtype=float32)
    >>> to_csr([(0, 1), (0, 1)], values=[5, 3], duplicates="last").toarray()
    array([[0., 3.]], dtype=float32)
    """
    pairs = check.check_pairs(pairs)
    shape = check.check_shape(shape, pairs)
    if values is not None:
        values = check.check_values("values", values, len(pairs))
    cells = cells_of(pairs[:, 0], pairs[:, 1], values, None, duplicates)
    return matrix_of(cells, shape)


class Cells(NamedTuple):
    rows: np.ndarray
    columns: np.ndarray
    values: np.ndarray
    timestamps: np.ndarray | None


def cells_of(
    rows: Any,
    columns: Any,
    values: Any,
    timestamps: Any,
    duplicates: str,
    ids_at: Callable[[int, int], Iterable[Any]] | None = None,
) -> Cells:
    """Records grouped into cells, in row-major order. The time of a cell is that of its last record.

    ``ids_at(row, column)``: what a message names a pair by; None is the numbers.
    """
    check.check_choice("duplicates", duplicates, DUPLICATES)
    if not _ascend(rows, columns):
        order = _record_order(rows, columns, timestamps)
        rows, columns = rows[order], columns[order]
        values, timestamps = (None if column is None else column[order] for column in (values, timestamps))
        del order
    first = np.flatnonzero(_starts(rows, columns))
    last = np.append(first, len(rows))[1:] - 1
    if duplicates == "error" and len(first) < len(rows):
        cell = first[np.argmax(last > first)]
        numbers = int(rows[cell]), int(columns[cell])
        pair = ", ".join(map(repr, numbers if ids_at is None else ids_at(*numbers)))
        raise ValueError(
            f"the pair ({pair}) occurs more than once; "
            'say how to combine such pairs: duplicates="sum", "last", "mean", "max" or "count"'
        )
    combined = _combined(values, first, last, duplicates)
    return Cells(rows[first], columns[first], combined, None if timestamps is None else timestamps[last])


def _combined(values: np.ndarray | None, first: np.ndarray, last: np.ndarray, duplicates: str) -> np.ndarray:
    """The value of each cell, float64, of sorted records ``first`` to ``last``; without values each counts 1."""
    counts = (last - first + 1).astype(np.float64)
    if duplicates == "count" or (values is None and duplicates == "sum"):
        return counts
    if values is None:
        return np.ones(len(first))
    if duplicates in ("last", "error"):
        return values[last]
    if not len(first):
        return counts
    if duplicates == "max":
        return np.maximum.reduceat(values, first)
    sums = np.add.reduceat(values, first)
    return sums / counts if duplicates == "mean" else sums


def _starts(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Where a record is of another pair than the one before."""
    starts = np.ones(len(rows), np.bool_)
    np.not_equal(rows[1:], rows[:-1], out=starts[1:])
    starts[1:] |= columns[1:] != columns[:-1]
    return starts


def _ascend(rows: np.ndarray, columns: np.ndarray) -> bool:
    """Whether the pairs are distinct and in row-major order already."""
    later = rows[1:] > rows[:-1]
    later |= (rows[1:] == rows[:-1]) & (columns[1:] > columns[:-1])
    return bool(later.all())


def _record_order(rows: np.ndarray, columns: np.ndarray, timestamps: np.ndarray | None) -> np.ndarray:
    """By cell, then by time with unknown times first, then as given: sorted by the last criterion first, stably."""
    if timestamps is None:
        order = _order_of(columns)
    else:
        order = np.lexsort((timestamps, ~splits.unknown(timestamps)))
        order = order[_order_of(columns[order])]
    return order[_order_of(rows[order])]


def _order_of(numbers: np.ndarray) -> np.ndarray:
    """``numpy.argsort(numbers, kind="stable")`` of ids that begin at 0, in O(N) unless most of them are not there.

    SciPy turns rows into columns by counting: a matrix with one cell a record, in the record's column.
    """
    count = int(numbers.max()) + 1
    if count > SPARSE * len(numbers):
        return np.argsort(numbers, kind="stable")
    parts = np.ones(len(numbers), np.bool_), numbers.astype(np.int32, copy=False), np.arange(len(numbers) + 1)
    return sp.csr_array(parts, shape=(len(numbers), count)).tocsc().indices


def ids_in(users: np.ndarray, items: np.ndarray) -> Callable[[int, int], Iterable[Any]]:
    """The ``ids_at`` of `cells_of`, from the ids of all rows and columns."""
    return lambda row, column: (plain(users[row]), plain(items[column]))


def matrix_of(cells: Cells, shape: tuple[int, int]) -> sp.csr_array:
    data = quietly(cells.values.astype, np.float32)
    if np.isinf(data).any():
        raise ValueError("values of repeated pairs add up to more than float32 can hold")
    offsets = np.int32 if len(data) <= LARGEST else np.int64
    indptr = np.zeros(shape[0] + 1, offsets)
    np.cumsum(np.bincount(cells.rows, minlength=shape[0]), out=indptr[1:])
    return sp.csr_array((data, cells.columns.astype(offsets), indptr), shape=shape)


def encode(name: str, ids: Any, length: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """The distinct ids, ascending, and the position of each record's id among them."""
    ids = check.check_record_ids(name, ids, length)
    if ids.dtype.kind in "iu" and len(ids):
        low, span = ids.min(), int(ids.max()) - int(ids.min()) + 1
        if span <= 4 * len(ids) + 1024:  # a table instead of a sort: ten times faster on ids that are nearly dense
            offset = ids.astype(np.int64) - low.astype(np.int64)  # in int8, 100 − (−100) would be −56
            present = np.zeros(span, np.bool_)
            present[offset] = True
            return np.flatnonzero(present).astype(ids.dtype) + low, (np.cumsum(present) - 1)[offset]
    with check.sorting(name):
        distinct, codes = np.unique(ids, return_inverse=True)
    return distinct, codes
