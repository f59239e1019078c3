"""Eight cells of a row at a time, for solvers that go over the cells instead of assembling a k × k system.

Every value of Y that is loaded takes part in one multiply-add, so rows of Y are read where they lie: a first pass
brings them into the first-level cache, the second finds them there.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from lfm_np.kernels.als_rows import UNSOLVED, aligned, cell_loss, dot, least_confidence
from lfm_np.kernels.jit import inlined, jit
from lfm_np.kernels.simd import LANES, WIDTH, add, broadcast, fma, load, mul, store, sums8, zeros

# The loss has too few digits left below this share of xᵀ(G + λI)x, over the digits that a pivot may lose.
LEFT = 1e-2
D, T, S, R = range(4)  # rows of `values`: d, t, the score or product, and what multiplies the row of Y


def eight_scratch(dtype: np.dtype) -> tuple[Any, ...]:
    """Where the rows of Y of eight cells begin, and their values."""
    return np.zeros(LANES, np.int64), aligned((4, LANES), dtype)


@inlined
def eight_cells(csr, ld, column, weights, shift, cell, stop, eight):
    """Where eight cells' rows of Y[:, column:] begin, d and t; beyond ``stop`` the last cell again, with d = t = 0."""
    _, indices, data = csr
    d0, d1, t0, t1, _ = weights
    starts, values = eight
    for j in range(LANES):
        a = min(cell + j, stop - 1)
        inside = cell + j < stop
        starts[j] = np.int64(indices[a]) * ld + column
        t = t0 + t1 * data[a]
        if shift.shape[0]:
            t -= shift[indices[a]]
        values[D, j] = d0 + d1 * data[a] if inside else 0.0
        values[T, j] = t if inside else 0.0


@inlined
def eight_dots(Y, starts, x, at, ld, out, to):
    """out[to : to + 8] = Y[starts[j]:] · x[at:]."""
    a0 = a1 = a2 = a3 = a4 = a5 = a6 = a7 = zeros(Y, WIDTH)
    s0, s1, s2, s3 = starts[0], starts[1], starts[2], starts[3]
    s4, s5, s6, s7 = starts[4], starts[5], starts[6], starts[7]
    for f in range(0, ld, WIDTH):
        v = load(x, at + f, WIDTH)
        a0 = fma(load(Y, s0 + f, WIDTH), v, a0)
        a1 = fma(load(Y, s1 + f, WIDTH), v, a1)
        a2 = fma(load(Y, s2 + f, WIDTH), v, a2)
        a3 = fma(load(Y, s3 + f, WIDTH), v, a3)
        a4 = fma(load(Y, s4 + f, WIDTH), v, a4)
        a5 = fma(load(Y, s5 + f, WIDTH), v, a5)
        a6 = fma(load(Y, s6 + f, WIDTH), v, a6)
        a7 = fma(load(Y, s7 + f, WIDTH), v, a7)
    store(out, to, sums8(a0, a1, a2, a3, a4, a5, a6, a7))


@inlined
def add_eight(Y, starts, values, at, out, to, ld):
    """out[to:] += Σ_j values[at + j] · Y[starts[j]:]."""
    s0, s1, s2, s3 = starts[0], starts[1], starts[2], starts[3]
    s4, s5, s6, s7 = starts[4], starts[5], starts[6], starts[7]
    v0, v1 = broadcast(values, at, WIDTH), broadcast(values, at + 1, WIDTH)
    v2, v3 = broadcast(values, at + 2, WIDTH), broadcast(values, at + 3, WIDTH)
    v4, v5 = broadcast(values, at + 4, WIDTH), broadcast(values, at + 5, WIDTH)
    v6, v7 = broadcast(values, at + 6, WIDTH), broadcast(values, at + 7, WIDTH)
    for f in range(0, ld, WIDTH):
        s = fma(v0, load(Y, s0 + f, WIDTH), load(out, to + f, WIDTH))
        r = mul(v1, load(Y, s1 + f, WIDTH))
        s = fma(v2, load(Y, s2 + f, WIDTH), s)
        r = fma(v3, load(Y, s3 + f, WIDTH), r)
        s = fma(v4, load(Y, s4 + f, WIDTH), s)
        r = fma(v5, load(Y, s5 + f, WIDTH), r)
        s = fma(v6, load(Y, s6 + f, WIDTH), s)
        r = fma(v7, load(Y, s7 + f, WIDTH), r)
        store(out, to + f, add(s, r))


@inlined
def add_eight_squares(Y, starts, values, at, out, to, ld):
    """out[to:] += Σ_j values[at + j] · Y[starts[j]:]², elementwise."""
    for f in range(0, ld, WIDTH):
        s = load(out, to + f, WIDTH)
        for j in range(LANES):
            y = load(Y, starts[j] + f, WIDTH)
            s = fma(mul(broadcast(values, at + j, WIDTH), y), y, s)
        store(out, to + f, s)


@inlined
def cells_loss(csr, weights, shift, start, stop, scores, first):
    """Σ c(p − s)² − α₀s² over the cells."""
    _, indices, data = csr
    d0, d1, t0, t1, a0 = weights
    c0, loss = least_confidence(d0, t0, a0), 0.0
    for cell in range(start, stop):
        t = t0 + t1 * data[cell]
        if shift.shape[0]:
            t -= shift[indices[cell]]
        loss += cell_loss(c0 + d1 * data[cell], t, a0, scores[first + cell - start])
    return loss


@inlined
def add_scores(csr, Y, column, weights, shift, start, stop, x, at, width, scores, first, eight):
    """scores[first:] += Y[:, column : column + width] · x[at:] over the cells."""
    starts, values = eight
    for cell in range(start, stop, LANES):
        eight_cells(csr, Y.shape[1], column, weights, shift, cell, stop, eight)
        eight_dots(Y, starts, x, at, width, values, S * LANES)
        for j in range(min(LANES, stop - cell)):
            scores[first + cell - start + j] += values[S, j]


@inlined
def finish_row(energy, lam, loss, failed, limits, X, u, status, sums):
    """Add a row's loss, its cells' part given, and penalty to the sums, or mark it."""
    ld = X.shape[1]
    at = np.int64(u) * ld
    norm = dot(X, at, X, at, ld)
    shared = 0.0
    for f in range(ld):
        x = np.float64(X[u, f])
        shared += x * x * (np.float64(energy[f]) + lam)
    loss += shared
    lost = lam > 0 and loss * limits[1] < LEFT * shared
    if failed or lost or not (norm < np.inf and lam >= limits[2]):
        status[u] = UNSOLVED
        return
    sums[0] += loss
    sums[1] += np.float64(lam) * norm


# ---- rows too heavy for one block -----------------------------------------------------------------------------------


@jit
def segment_loss(csr, weights, shift, start, stop, scores, first):
    """Σ c(p − s)² − α₀s² over the cells."""
    return cells_loss(csr, weights, shift, start, stop, scores, first)


@jit
def heavy_losses(energy, lam, heavy, losses, failed, limits, X, status, sums):
    """Add the loss and penalty of the heavy rows to the sums; ``losses``: those of their cells."""
    for row in range(heavy.shape[0]):
        u = heavy[row]
        finish_row(energy, lam[u], losses[row], failed[row], limits, X, u, status, sums)
