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
