"""One pass over a CSR matrix that tells whether there is anything to look at more closely."""

from __future__ import annotations

import numpy as np

from lfm_np.kernels.jit import inlined, jit


@inlined
def _descents(before, after):
    """How many entries are not above the one before."""
    found = 0
    for t in range(after.shape[0]):
        found += after[t] <= before[t]
    return found


@inlined
def _extremes(values):
    low = high = values[0]
    for t in range(values.shape[0]):
        low, high = min(low, values[t]), max(high, values[t])
    return low, high


@jit
def survey(indptr, indices, bits, piece):
    """(whether the indices of every row ascend, least and largest index, least and largest of ``bits``).

    ``indptr`` must be valid. Of positive floats the bits, read as an integer, are in the order of the values; zero, −0,
    negative ones, infinity and NaN lie outside those of the smallest and the largest finite positive one. Integers
    are what LLVM vectorises. Taken a piece at a time, which the first-level cache holds for all passes.
    """
    cells = indices.shape[0]
    low = high = indices[0]
    least = most = bits[0]
    descents = allowed = np.int64(0)
    for start in range(0, cells, piece):
        stop = min(start + piece, cells)
        a, b = _extremes(indices[start:stop])
        low, high = min(low, a), max(high, b)
        a, b = _extremes(bits[start:stop])
        least, most = min(least, a), max(most, b)
        first = max(start, 1)
        descents += _descents(indices[first - 1 : stop - 1], indices[first:stop])
    for row in range(1, indptr.shape[0] - 1):  # a descent between rows is no mistake; products, as branches cost more
        at = min(max(indptr[row], 1), cells - 1)
        begins = np.int64(indptr[row] > 0) * np.int64(indptr[row] < indptr[row + 1])
        allowed += begins * np.int64(indices[at] <= indices[at - 1])
    return descents == allowed, low, high, least, most
