"""Items that a user must not get, looked up by id or by place in the order of a search."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from lfm_np.kernels.jit import exact_inlined as inlined
from lfm_np.kernels.jit import exact_jit as jit
from lfm_np.kernels.scores import PANEL
from lfm_np.kernels.simd import prefetch

AHEAD = 2  # users whose items are on their way to the cache
LINE = 16  # ids of a cache line


class Forbidden(NamedTuple):
    """Sorted item ids that a user must not get."""

    rows: np.ndarray  # (users of the block,) their rows in indptr
    indptr: np.ndarray
    indices: np.ndarray
    everybody: np.ndarray  # and those that nobody gets


@inlined
def contains(sorted_ids, low, high, item):
    """Binary search in sorted_ids[low:high]."""
    end = high
    while low < high:
        middle = (low + high) // 2
        if sorted_ids[middle] < item:
            low = middle + 1
        else:
            high = middle
    return low < end and sorted_ids[low] == item


@jit
def mark(bits, t, position, ids, low, high):
    """Set the bits of ids[low:high] that lie in the window."""
    for p in range(low, high):
        at = np.uint32(position[ids[p]])  # unsigned, so that the division is a shift
        panel = np.int64(at // np.uint32(PANEL))  # and compared as integers: with an unsigned one, as float64
        if panel < bits.shape[1]:
            bits[t, panel] |= np.uint16(1) << np.uint16(at % np.uint32(PANEL))


@jit
def mark_forbidden(position, forbidden, bits):
    """Set the bits of all items that the users of a block must not get."""
    rows, indptr, indices, everybody = forbidden
    for t in range(len(rows)):
        later = rows[min(t + AHEAD, len(rows) - 1)]  # users come in any order: nothing else would fetch their rows
        for p in range(indptr[later], indptr[later + 1], LINE):
            prefetch(indices, p)
        mark(bits, t, position, indices, indptr[rows[t]], indptr[rows[t] + 1])
        mark(bits, t, position, everybody, 0, len(everybody))


@inlined
def allowed(mask, bits, t0, t1, t2, t3, panel):
    """The tile's mask without the forbidden lanes of a panel in the window."""
    if mask == 0 or panel >= bits.shape[1]:
        return mask
    low = np.int64(bits[t0, panel]) | np.int64(bits[t1, panel]) << 16
    return mask & ~(low | np.int64(bits[t2, panel]) << 32 | np.int64(bits[t3, panel]) << 48)


@inlined
def allowed_first(bits, t):
    """The lanes of the first four panels that are not forbidden to a user."""
    low = np.int64(bits[t, 0]) | np.int64(bits[t, 1]) << 16
    return ~(low | np.int64(bits[t, 2]) << 32 | np.int64(bits[t, 3]) << 48)
