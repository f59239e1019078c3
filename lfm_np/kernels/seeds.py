"""The best of the first items that a search meets, without growing a heap.

A heap that grows item by item takes branches that nobody can predict; counting, for every score, how many are at least
as high takes none, and says every rank at once.
"""

from __future__ import annotations

import numpy as np

from lfm_np.kernels.bits import count_bits, lowest_bit
from lfm_np.kernels.jit import exact_inlined as inlined
from lfm_np.kernels.scores import PANEL
from lfm_np.kernels.simd import at_least, broadcast, load

SEEDS = 4 * PANEL  # scores that are ranked: a bit each in an int64


@inlined
def ranked(row, at, mask, by_rank):
    """Set by_rank[r] to the place of the score that r others reach, of the SEEDS in ``row`` from ``at``; r as bits.

    Only places in ``mask`` count. Of equal scores none gets the lowest rank, so that a bit is missing.
    """
    ranks = np.int64(0)
    left = mask
    while left != 0:
        place = lowest_bit(left)
        left ^= np.int64(1) << place
        s = broadcast(row, at + place, PANEL)
        high = at_least(load(row, at, PANEL), s) | at_least(load(row, at + PANEL, PANEL), s) << 16
        high |= at_least(load(row, at + 2 * PANEL, PANEL), s) << 32
        high |= at_least(load(row, at + 3 * PANEL, PANEL), s) << 48
        rank = count_bits(high & mask) - 1
        by_rank[rank] = place
        ranks |= np.int64(1) << rank
    return ranks
