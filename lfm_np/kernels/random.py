"""Counter-based random numbers: a draw is a function of (seed, epoch, cell, position) and nothing else.

No state, so any thread, any order of blocks and any device draws the same numbers. A key is hashed from (seed, epoch,
cell), and position p of that key gives mix(key + (p + 1)·γ): SplitMix64 read at an arbitrary place. Keys are hashed,
not added up: streams that start at ``base + constant·cell + position`` overlap between epochs, which once cost a
twentieth of the recall.

The functions take NumPy uint64 scalars and arrays as well as Numba scalars; the arithmetic wraps around, which NumPy
reports for scalars unless called inside ``np.errstate(over="ignore")``.

References
----------
Steele, Lea, Flood (2014), "Fast splittable pseudorandom number generators", figure 17 (the constants of ``mix``:
Stafford's variant 13). Salmon et al. (2011), "Parallel random numbers: as easy as 1, 2, 3", for the idea of a counter.
"""

from __future__ import annotations

import numpy as np

from lfm_np.kernels.jit import jit

GAMMA = np.uint64(0x9E3779B97F4A7C15)  # 2⁶⁴ / golden ratio, odd: every position has an argument of its own
MIX_1, MIX_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
S27, S30, S31 = np.uint64(27), np.uint64(30), np.uint64(31)
ONE, S11 = np.uint64(1), np.uint64(11)
TO_UNIT = 2.0**-53


@jit
def mix(x):
    """A bijection of 64-bit words in which every output bit depends on every input bit."""
    x = (x ^ (x >> S30)) * MIX_1
    x = (x ^ (x >> S27)) * MIX_2
    return x ^ (x >> S31)


@jit
def stream(seed, epoch, cell):
    """Key of the draws of one cell in one epoch; the arguments are non-negative integers below 2⁶³."""
    key = mix(np.uint64(seed) + GAMMA)
    key = mix((key ^ np.uint64(epoch)) * MIX_2 + GAMMA)
    return mix((key ^ np.uint64(cell)) * MIX_1 + GAMMA)


@jit
def draw(key, position):
    """64 random bits: the number at ``position`` of the stream ``key``."""
    return mix(key + (np.uint64(position) + ONE) * GAMMA)


@jit
def below(bits, bound):
    """An int64 uniform on 0 … bound − 1, for 1 ≤ bound ≤ 2⁵³; no value's probability is off by more than 2⁻⁵³.

    Rounding can lift the product to ``bound`` itself, hence the clamp.
    """
    return np.minimum(np.int64(np.float64(bits >> S11) * TO_UNIT * np.float64(bound)), np.int64(bound) - np.int64(1))
