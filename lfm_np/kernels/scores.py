"""Scores: pairs one by one, or tiles of four users and sixteen items.

A score is eight chains of fused multiply-adds (chain j over the latent dimensions j, j + 8, …), summed as a balanced
tree, then the item's bias, then the user's constant. `pair_scores` (dimensions in lanes) and `score_tile` (items in
lanes) do the same operations in the same order, so their bits agree.

Items of a tile are laid out as a panel: PANEL columns, panel[f, lane], and a last row with their biases.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

# a score must not depend on how LLVM regroups its sum
from lfm_np.kernels.jit import exact_inlined as inlined
from lfm_np.kernels.jit import exact_jit as jit
from lfm_np.kernels.simd import LANES, add, broadcast, fma, load, load_part, store, sums8, zeros
from lfm_np.kernels.transpose import transpose8_rows

PANEL = 16  # items side by side
TILE = 4  # users of a tile


class Model(NamedTuple):
    """What a score is made of."""

    user_factors: np.ndarray  # (m, k)
    item_factors: np.ndarray  # (n, k)
    user_constant: np.ndarray  # (m,)
    item_bias: np.ndarray  # (n,)


@inlined
def chains8(U, V, u, v, rows):
    """The chains of eight inner products U[u[p] : u[p] + rows] · V[v[p] : v[p] + rows], rows a multiple of LANES."""
    a0 = a1 = a2 = a3 = a4 = a5 = a6 = a7 = zeros(U, LANES)
    u0, u1, u2, u3, u4, u5, u6, u7 = u[0], u[1], u[2], u[3], u[4], u[5], u[6], u[7]
    v0, v1, v2, v3, v4, v5, v6, v7 = v[0], v[1], v[2], v[3], v[4], v[5], v[6], v[7]
    for f in range(0, rows, LANES):
        a0 = fma(load(U, u0 + f, LANES), load(V, v0 + f, LANES), a0)
        a1 = fma(load(U, u1 + f, LANES), load(V, v1 + f, LANES), a1)
        a2 = fma(load(U, u2 + f, LANES), load(V, v2 + f, LANES), a2)
        a3 = fma(load(U, u3 + f, LANES), load(V, v3 + f, LANES), a3)
        a4 = fma(load(U, u4 + f, LANES), load(V, v4 + f, LANES), a4)
        a5 = fma(load(U, u5 + f, LANES), load(V, v5 + f, LANES), a5)
        a6 = fma(load(U, u6 + f, LANES), load(V, v6 + f, LANES), a6)
        a7 = fma(load(U, u7 + f, LANES), load(V, v7 + f, LANES), a7)
    return a0, a1, a2, a3, a4, a5, a6, a7


@inlined
def last8(a, U, V, u, v, f, n):
    """`chains8`, with the last n < LANES dimensions from f on."""
    return (
        fma(load_part(U, u[0] + f, n, LANES), load_part(V, v[0] + f, n, LANES), a[0]),
        fma(load_part(U, u[1] + f, n, LANES), load_part(V, v[1] + f, n, LANES), a[1]),
        fma(load_part(U, u[2] + f, n, LANES), load_part(V, v[2] + f, n, LANES), a[2]),
        fma(load_part(U, u[3] + f, n, LANES), load_part(V, v[3] + f, n, LANES), a[3]),
        fma(load_part(U, u[4] + f, n, LANES), load_part(V, v[4] + f, n, LANES), a[4]),
        fma(load_part(U, u[5] + f, n, LANES), load_part(V, v[5] + f, n, LANES), a[5]),
        fma(load_part(U, u[6] + f, n, LANES), load_part(V, v[6] + f, n, LANES), a[6]),
        fma(load_part(U, u[7] + f, n, LANES), load_part(V, v[7] + f, n, LANES), a[7]),
    )


@jit
def pair_scores(model, users, items, count, out):
    """out[p] = score of (users[p], items[p]) for p < count."""
    U, V, constant, bias = model
    k = U.shape[1]
    whole = k // LANES * LANES
    u = np.empty(LANES, np.int64)
    v = np.empty(LANES, np.int64)
    terms = np.empty((2, LANES), out.dtype)
    for start in range(0, count, LANES):
        for j in range(LANES):
            p = min(start + j, count - 1)  # the last group repeats its last pair
            u[j] = users[p] * k
            v[j] = items[p] * k
            terms[0, j] = bias[items[p]]
            terms[1, j] = constant[users[p]]
        a = chains8(U, V, u, v, whole)
        if whole < k:
            a = last8(a, U, V, u, v, whole, k - whole)
        s = add(sums8(a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7]), load(terms, 0, LANES))
        store(terms, 0, add(s, load(terms, LANES, LANES)))
        for p in range(start, min(start + LANES, count)):
            out[p] = terms[0, p - start]


@inlined
def chains(A, r0, r1, r2, r3, panel, at, first, step, rows):
    """Σ A[r + f] · panel[f] over f = first, first + step, … < rows, for four rows of A and PANEL columns."""
    a0 = a1 = a2 = a3 = zeros(A, PANEL)
    for f in range(first, rows, step):
        b = load(panel, at + f * PANEL, PANEL)
        a0 = fma(broadcast(A, r0 + f, PANEL), b, a0)
        a1 = fma(broadcast(A, r1 + f, PANEL), b, a1)
        a2 = fma(broadcast(A, r2 + f, PANEL), b, a2)
        a3 = fma(broadcast(A, r3 + f, PANEL), b, a3)
    return a0, a1, a2, a3


@inlined
def wide_chains(A, r0, r1, r2, r3, panel, at, beside, first, rows):
    """`chains` of step 8 for the panels at offsets ``at`` and ``beside``, which keep twice as many sums busy."""
    a0 = a1 = a2 = a3 = b0 = b1 = b2 = b3 = zeros(A, PANEL)
    for f in range(first, rows, 8):
        a, b = load(panel, at + f * PANEL, PANEL), load(panel, beside + f * PANEL, PANEL)
        x0, x1 = broadcast(A, r0 + f, PANEL), broadcast(A, r1 + f, PANEL)
        x2, x3 = broadcast(A, r2 + f, PANEL), broadcast(A, r3 + f, PANEL)
        a0, a1, a2, a3 = fma(x0, a, a0), fma(x1, a, a1), fma(x2, a, a2), fma(x3, a, a3)
        b0, b1, b2, b3 = fma(x0, b, b0), fma(x1, b, b1), fma(x2, b, b2), fma(x3, b, b3)
    return a0, a1, a2, a3, b0, b1, b2, b3


@inlined
def add8(x, y):
    low = add4((x[0], x[1], x[2], x[3]), (y[0], y[1], y[2], y[3]))
    high = add4((x[4], x[5], x[6], x[7]), (y[4], y[5], y[6], y[7]))
    return low[0], low[1], low[2], low[3], high[0], high[1], high[2], high[3]


@inlined
def wide_tile(U, constant, u0, u1, u2, u3, panel, at, beside):
    """`score_tile` for the panels at offsets ``at`` and ``beside``: four scores of either."""
    k = U.shape[1]
    r0, r1, r2, r3 = u0 * k, u1 * k, u2 * k, u3 * k
    s = wide_chains(U, r0, r1, r2, r3, panel, at, beside, 0, k)
    s = add8(s, wide_chains(U, r0, r1, r2, r3, panel, at, beside, 1, k))
    t = wide_chains(U, r0, r1, r2, r3, panel, at, beside, 2, k)
    low = add8(s, add8(t, wide_chains(U, r0, r1, r2, r3, panel, at, beside, 3, k)))
    s = wide_chains(U, r0, r1, r2, r3, panel, at, beside, 4, k)
    s = add8(s, wide_chains(U, r0, r1, r2, r3, panel, at, beside, 5, k))
    t = wide_chains(U, r0, r1, r2, r3, panel, at, beside, 6, k)
    s = add8(low, add8(s, add8(t, wide_chains(U, r0, r1, r2, r3, panel, at, beside, 7, k))))
    a, b = load(panel, at + k * PANEL, PANEL), load(panel, beside + k * PANEL, PANEL)
    s = add8(s, (a, a, a, a, b, b, b, b))
    c0, c1 = broadcast(constant, u0, PANEL), broadcast(constant, u1, PANEL)
    c2, c3 = broadcast(constant, u2, PANEL), broadcast(constant, u3, PANEL)
    return add8(s, (c0, c1, c2, c3, c0, c1, c2, c3))


@inlined
def add4(x, y):
    return add(x[0], y[0]), add(x[1], y[1]), add(x[2], y[2]), add(x[3], y[3])


@inlined
def score_tile(U, constant, u0, u1, u2, u3, panel, at):
    """Scores of four users and the PANEL items of the packed panel at offset ``at``."""
    k = U.shape[1]
    r0, r1, r2, r3 = u0 * k, u1 * k, u2 * k, u3 * k
    s = add4(chains(U, r0, r1, r2, r3, panel, at, 0, 8, k), chains(U, r0, r1, r2, r3, panel, at, 1, 8, k))
    t = add4(chains(U, r0, r1, r2, r3, panel, at, 2, 8, k), chains(U, r0, r1, r2, r3, panel, at, 3, 8, k))
    low = add4(s, t)
    s = add4(chains(U, r0, r1, r2, r3, panel, at, 4, 8, k), chains(U, r0, r1, r2, r3, panel, at, 5, 8, k))
    t = add4(chains(U, r0, r1, r2, r3, panel, at, 6, 8, k), chains(U, r0, r1, r2, r3, panel, at, 7, 8, k))
    s = add4(low, add4(s, t))
    b = load(panel, at + k * PANEL, PANEL)
    s = add4(s, (b, b, b, b))
    constants = broadcast(constant, u0, PANEL), broadcast(constant, u1, PANEL)
    return add4(s, (*constants, broadcast(constant, u2, PANEL), broadcast(constant, u3, PANEL)))


@jit
def pack(model, order, first, panels, at, starts):
    """Factors of PANEL items, one a lane, and a last row with their biases, to offset ``at``; starts: scratch of 8.

    Lanes beyond the last item repeat it, with bias NaN.
    """
    V, bias = model.item_factors, model.item_bias
    k = V.shape[1]
    last = len(order) - 1
    whole = k // LANES * LANES
    for half in range(at, at + PANEL, LANES):
        for r in range(LANES):
            place = first + half - at + r
            item = order[min(place, last)]
            starts[r] = item * k
            panels[half + k * PANEL + r] = bias[item] if place <= last else np.nan
            for f in range(whole, k):
                panels[half + f * PANEL + r] = V[item, f]
        for f in range(0, whole, LANES):
            transpose8_rows(V, starts, panels, half + f * PANEL, PANEL)
            for r in range(LANES):
                starts[r] += LANES
