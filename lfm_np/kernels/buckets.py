"""Sorting cells by counting: where each key's cells begin is known, and they are put there in their order."""

from __future__ import annotations

from lfm_np.kernels.jit import jit


@jit
def scatter(keys, following, major, minor, values, out_major, out_minor, out_values):
    """Move cell c to ``following[keys[c]]``, which is the place of the key's next cell, and advances."""
    for cell in range(keys.shape[0]):
        to = following[keys[cell]]
        following[keys[cell]] = to + 1
        out_major[to] = major[cell]
        out_minor[to] = minor[cell]
        out_values[to] = values[cell]


@jit
def count_columns(indices, start, stop, counts):
    """counts[j] += the cells start … stop − 1 of column j."""
    for cell in range(start, stop):
        counts[indices[cell]] += 1


@jit
def scatter_rows(indptr, indices, data, lo, hi, following, out_rows, out_data):
    """Move the cells of the rows lo … hi − 1 to the places of their columns: `scatter` with the column as the key."""
    for row in range(lo, hi):
        for cell in range(indptr[row], indptr[row + 1]):
            to = following[indices[cell]]
            following[indices[cell]] = to + 1
            out_rows[to] = row
            out_data[to] = data[cell]
