"""Which cells of a matrix are held out: masks over the cells of a CSR matrix, in the order of its data."""

from __future__ import annotations

import bisect
from typing import Any

import numpy as np
import scipy.sparse as sp

from lfm_np import validation as check

_ATTOSECONDS = {
    **{unit: 10 ** (18 - 3 * n) for n, unit in enumerate(("s", "ms", "us", "ns", "ps", "fs", "as"))},
    **{unit: seconds * 10**18 for unit, seconds in {"m": 60, "h": 3600, "D": 86_400, "W": 604_800}.items()},
}


def part_of(matrix: Any, cells: np.ndarray) -> sp.csr_array:
    """The chosen cells of a matrix, which keeps its shape."""
    before = np.zeros(matrix.nnz + 1, matrix.indptr.dtype)
    np.cumsum(cells, out=before[1:])
    parts = matrix.data[cells], matrix.indices[cells], before[matrix.indptr]
    return sp.csr_array(parts, shape=matrix.shape)


def random_cells(indptr: np.ndarray, fraction: float, rng: np.random.Generator) -> np.ndarray:
    """``fraction`` of every row's cells, rounded at random to keep the mean, at most all but one; shape (nnz,)."""
    counts = np.diff(indptr).astype(np.int64)
    held = np.floor(counts * fraction + rng.random(len(counts))).astype(np.int64)
    held = np.minimum(held, np.maximum(counts - 1, 0))
    rows = np.repeat(np.arange(len(counts)), counts)
    return _first_of_each_row(indptr, np.lexsort((rng.random(len(rows)), rows)), held)


def last_cells(indptr: np.ndarray, timestamps: np.ndarray, n: int) -> np.ndarray:
    """The ``n`` latest cells of every row, at most all but one; later columns break ties."""
    counts = np.diff(indptr).astype(np.int64)
    rows = np.repeat(np.arange(len(counts)), counts)
    latest_first = np.lexsort((np.arange(len(rows)), timestamps, rows))[::-1]
    # reversed, the rows run backwards too: reverse their offsets as well
    test = _first_of_each_row(len(rows) - indptr[::-1], latest_first, np.minimum(n, np.maximum(counts - 1, 0))[::-1])
    return test


def _first_of_each_row(indptr: np.ndarray, order: np.ndarray, held: np.ndarray) -> np.ndarray:
    """A mask of the first ``held[r]`` cells of every row r, where ``order`` lists the cells row by row."""
    counts = np.diff(indptr)
    rank = np.arange(len(order)) - np.repeat(indptr[:-1], counts)
    test = np.zeros(len(order), np.bool_)
    test[order[rank < np.repeat(held, counts)]] = True
    return test


def late_cells(timestamps: np.ndarray, fraction: float, at: Any = None) -> np.ndarray:
    """Every cell at ``at`` or later; without it the largest set of latest cells within ``fraction`` of all."""
    if at is not None:
        moment = _exact(check.check_moment("at", at, timestamps.dtype.kind == "M"))
        times = np.unique(timestamps)
        first = bisect.bisect_left(times, moment, key=_exact)
        return timestamps >= times[first] if first < len(times) else np.zeros(len(timestamps), np.bool_)
    n = len(timestamps)
    wanted = min(int(fraction * n) + 1, n)  # the product may be rounded to either side of a whole number
    while wanted > 0 and wanted / n > fraction:
        wanted -= 1
    if wanted == 0:
        return np.zeros(n, np.bool_)
    cut = n - wanted - 1
    return timestamps > np.partition(timestamps, cut)[cut]


def _exact(time: Any) -> Any:
    """A time as a number that Python compares exactly; NumPy rounds int64 to float64 and lets far dates wrap around."""
    if not isinstance(time, np.datetime64):
        return time.item() if isinstance(time, np.generic) else time
    unit, step = np.datetime_data(time)
    if unit in "YM":
        return _exact(time.astype("datetime64[D]"))
    return int(time.astype(np.int64)) * step * _ATTOSECONDS[unit]


def unknown(timestamps: np.ndarray) -> np.ndarray:
    """Where the time is NaN or NaT."""
    return np.isnat(timestamps) if timestamps.dtype.kind == "M" else np.isnan(timestamps)


def known_times(timestamps: np.ndarray | None) -> np.ndarray:
    """``timestamps`` if every cell has one."""
    if timestamps is None:
        raise ValueError("these interactions have no timestamps; split them by='random'")
    absent = int(unknown(timestamps).sum())
    if absent:
        raise ValueError(
            f"{absent} of {len(timestamps)} timestamps are unknown; select the others first, or split by='random'"
        )
    return timestamps


def core_cells(matrix: Any, least_user: int, least_item: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Masks of the cells, rows and columns of the largest part whose rows and columns have so many cells each."""
    counts = [np.diff(matrix.indptr).astype(np.int64), np.bincount(matrix.indices, minlength=matrix.shape[1])]
    inside = [count >= least for count, least in zip(counts, (least_user, least_item))]
    gone = [np.flatnonzero(~part) for part in inside]
    orders, side = None, 0
    while len(gone[0]) or len(gone[1]):  # whose cells are looked at when they go: all rounds together cost O(cells)
        orders = orders or _orders(matrix)
        others = _cells_of(orders[side], gone[side])
        gone[side] = gone[side][:0]
        side = 1 - side
        others = others[inside[side][others]]
        np.subtract.at(counts[side], others, 1)
        low = np.unique(others[counts[side][others] < (least_user, least_item)[side]])
        inside[side][low] = False
        gone[side] = np.concatenate((gone[side], low))
    users, items = inside
    return np.repeat(users, np.diff(matrix.indptr)) & items[matrix.indices], users, items


def _orders(matrix: Any) -> tuple[Any, Any]:
    """Where the cells are, by row and by column."""
    by_row = sp.csr_array((np.ones(matrix.nnz, np.bool_), matrix.indices, matrix.indptr), shape=matrix.shape)
    return by_row, by_row.tocsc()


def _cells_of(order: Any, rows: np.ndarray) -> np.ndarray:
    """The indices that some rows of a CSR matrix, or columns of a CSC one, have."""
    starts = order.indptr[rows].astype(np.int64)
    lengths = order.indptr[rows + 1] - starts
    ends = np.cumsum(lengths)
    cells = np.arange(ends[-1] if len(ends) else 0)
    cells += np.repeat(starts - ends + lengths, lengths)
    return order.indices[cells]
