"""What both exact row solvers of an ALS half-sweep share. `dual_rows` and `primal_rows` take the same arguments:

* ``csr`` = (indptr, indices, data) of the side that is solved;
* ``Y`` (n × ld), the fixed side, padded with zero columns to ld, a multiple of WIDTH;
* ``model`` = (G, energy, lam): α₀YᵀY (ld × ld), its diagonal, and λ_u of every row. The padding's diagonal is 1;
* ``weights`` = (d0, d1, t0, t1, a0): a cell of value x has d = c − α₀ = d0 + d1·x and t = c·p = t0 + t1·x;
* ``shift``: subtracted from t by column (biases), or an empty array;
* ``order``, ``lo``, ``hi``: the rows order[lo:hi], none of them empty, sorted by length (dual: length / 4, rounded up);
* ``limits`` = (smallest d/|t| that is always divided by, largest loss of digits in a pivot, smallest λ_u);
* ``scratch`` from `dual_scratch` or `primal_scratch`.

They write the rows X[u] and status[u] (OK or UNSOLVED) and add to ``sums``: [0] the loss of the solved rows,
Σ_Ω [c(p − s)² − α₀s²] + xᵀ(α₀YᵀY + λ_u I)x with s = Y_u x, and [1] its part Σ λ_u‖x‖². Unsolved rows add nothing.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from lfm_np.kernels.jit import inlined
from lfm_np.kernels.simd import LANES, WIDTH, fma, load, prefetch, total, zeros

OK, UNSOLVED = 0, 1
AHEAD = 6  # cells between the prefetch of a row and its use


def aligned(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """An uninitialised array that starts on a cache line: a vector load across two lines costs two."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    raw = np.empty(size + 64, np.uint8)
    start = -raw.__array_interface__["data"][0] % 64
    return raw[start : start + size].view(dtype).reshape(shape)


@inlined
def dot(a, at, b, to, ld):
    """Σ_f a[at + f]·b[to + f]."""
    s = zeros(a, WIDTH)
    for f in range(0, ld, WIDTH):
        s = fma(load(a, at + f, WIDTH), load(b, to + f, WIDTH), s)
    return total(s)


@inlined
def least_confidence(d0, t0, a0):
    """c of a cell of value 0: d0 + α₀, which rounds where d0 is negative. There p = 1, so that c is t."""
    return t0 if d0 < 0.0 else d0 + a0


@inlined
def cell_loss(c, t, a0, s):
    """c(p − s)² − α₀s² of one cell, in float64; p is 0 where c is."""
    s = np.float64(s)
    residual = (t / c if c > 0 else 0.0) - s
    return c * residual * residual - a0 * s * s


@inlined
def well_conditioned(R, n, diagonal, lane, limit):
    """Whether no pivot lost more than ``limit`` of its digits; R holds 1/R_ii on its diagonal."""
    worst = diagonal[lane] * R[0, 0, lane] * R[0, 0, lane]
    for i in range(1, n):
        loss = diagonal[i * LANES + lane] * R[i, i, lane] * R[i, i, lane]
        if not loss <= worst:  # a NaN sticks
            worst = loss
    return worst < limit


@inlined
def prefetch_row(Y, indices, cell, column, width):
    """Ask for ``width`` values from ``column`` on of the cell's row of Y."""
    at = np.int64(indices[cell]) * Y.shape[1] + column
    for f in range(0, width, WIDTH):
        prefetch(Y, at + f)
