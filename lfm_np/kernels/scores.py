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
def products8(U, V, u, v, k, out):
    """Eight inner products U[u[p] : u[p] + k] · V[v[p] : v[p] + k]."""
    a0 = a1 = a2 = a3 = a4 = a5 = a6 = a7 = zeros(U, LANES)
    u0, u1, u2, u3, u4, u5, u6, u7 = u[0], u[1], u[2], u[3], u[4], u[5], u[6], u[7]
    v0, v1, v2, v3, v4, v5, v6, v7 = v[0], v[1], v[2], v[3], v[4], v[5], v[6], v[7]
    whole = k // LANES * LANES
    for f in range(0, whole, LANES):
        a0 = fma(load(U, u0 + f, LANES), load(V, v0 + f, LANES), a0)
        a1 = fma(load(U, u1 + f, LANES), load(V, v1 + f, LANES), a1)
        a2 = fma(load(U, u2 + f, LANES), load(V, v2 + f, LANES), a2)
        a3 = fma(load(U, u3 + f, LANES), load(V, v3 + f, LANES), a3)
        a4 = fma(load(U, u4 + f, LANES), load(V, v4 + f, LANES), a4)
        a5 = fma(load(U, u5 + f, LANES), load(V, v5 + f, LANES), a5)
        a6 = fma(load(U, u6 + f, LANES), load(V, v6 + f, LANES), a6)
        a7 = fma(load(U, u7 + f, LANES), load(V, v7 + f, LANES), a7)
    if whole < k:
        f = whole
        n = k - whole
        a0 = fma(load_part(U, u0 + f, n, LANES), load_part(V, v0 + f, n, LANES), a0)
        a1 = fma(load_part(U, u1 + f, n, LANES), load_part(V, v1 + f, n, LANES), a1)
        a2 = fma(load_part(U, u2 + f, n, LANES), load_part(V, v2 + f, n, LANES), a2)
        a3 = fma(load_part(U, u3 + f, n, LANES), load_part(V, v3 + f, n, LANES), a3)
        a4 = fma(load_part(U, u4 + f, n, LANES), load_part(V, v4 + f, n, LANES), a4)
        a5 = fma(load_part(U, u5 + f, n, LANES), load_part(V, v5 + f, n, LANES), a5)
        a6 = fma(load_part(U, u6 + f, n, LANES), load_part(V, v6 + f, n, LANES), a6)
        a7 = fma(load_part(U, u7 + f, n, LANES), load_part(V, v7 + f, n, LANES), a7)
    store(out, 0, sums8(a0, a1, a2, a3, a4, a5, a6, a7))


@jit
def pair_scores(model, users, items, count, out):
    """out[p] = score of (users[p], items[p]) for p < count."""
    U, V, constant, bias = model
    k = U.shape[1]
    u = np.empty(LANES, np.int64)
    v = np.empty(LANES, np.int64)
    terms = np.empty((3, LANES), out.dtype)
    for start in range(0, count, LANES):
        for j in range(LANES):
            p = min(start + j, count - 1)  # the last group repeats its last pair
            u[j] = users[p] * k
            v[j] = items[p] * k
            terms[1, j] = bias[items[p]]
            terms[2, j] = constant[users[p]]
        products8(U, V, u, v, k, terms[0])
        # as vectors, since fast-math may reorder plain additions
        s = add(add(load(terms, 0, LANES), load(terms, LANES, LANES)), load(terms, 2 * LANES, LANES))
        store(terms, 0, s)
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
