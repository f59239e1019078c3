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


@inlined
def _row_starts(begins, ends, indices):
    """How many rows begin with an index that is not above the one before, and how many end before they begin.

    Where a row begins is not known to be true: it is only looked at within the array. No branches, so that LLVM
    vectorises it.
    """
    last, descents, falls = indices.shape[0] - 1, np.int64(0), np.int64(0)
    for t in range(begins.shape[0]):
        begin, end = begins[t], ends[t]
        at = np.uint64(min(max(begin, 1), last))
        descents += (indices[at] <= indices[at - np.uint64(at > 0)]) & (begin > 0) & (begin < end)
        falls += end < begin
    return descents, falls


@jit
def survey(indptr, indices, bits, cells, rows, piece, found):
    """Look at a range of cells and a range of rows, of which there may be any, and write six numbers to ``found``.

    Cells whose index is not above the one before, less those that begin a row; rows that end before they begin; the
    least and the largest index; the least and the largest of ``bits``. Of positive floats the bits, read as an integer,
    are in the order of the values; zero, −0, negative ones, infinity and NaN lie outside those of the smallest and the
    largest finite positive one. Integers are what LLVM vectorises. Taken a piece at a time, which the first-level cache
    holds for all passes.
    """
    (begin, end), (above, below) = cells, rows
    low = high = indices[begin]
    least = most = bits[begin]
    descents = np.int64(0)
    for start in range(begin, end, piece):
        stop = min(start + piece, end)
        a, b = _extremes(indices[start:stop])
        low, high = min(low, a), max(high, b)
        a, b = _extremes(bits[start:stop])
        least, most = min(least, a), max(most, b)
        first = max(start, 1)
        descents += _descents(indices[first - 1 : stop - 1], indices[first:stop])
    between, falls = _row_starts(indptr[above:below], indptr[above + 1 : below + 1], indices)  # no mistakes
    found[0], found[1], found[2], found[3], found[4], found[5] = descents - between, falls, low, high, least, most
