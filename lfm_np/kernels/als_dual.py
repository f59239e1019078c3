"""Rows of an ALS half-sweep by their n_u × n_u system, eight rows at once, one a lane.

With E = α₀Λ + λ_u I diagonal, K = Y_u E⁻¹ Y_uᵀ and t = √D r + t₀, Woodbury's identity turns
(E + Y_uᵀ D Y_u) x = Y_uᵀ t into (I + √D K √D) w = r − √D K t₀ with x = E⁻¹ Y_uᵀ (√D w + t₀).
The arguments are explained in `als_rows`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from lfm_np.kernels.als_rows import AHEAD, UNSOLVED, aligned, cell_loss, prefetch_row, well_conditioned
from lfm_np.kernels.jit import inlined, jit
from lfm_np.kernels.simd import LANES, WIDTH, broadcast, fma, load, mul, store, total, zeros
from lfm_np.kernels.tiles import lane_backward, lane_cholesky, row_products
from lfm_np.kernels.transpose import transpose8


def dual_scratch(n: int, ld: int, dtype: np.dtype) -> tuple[Any, ...]:
    """Scratch for rows of at most ``n`` cells: panel, scales, products, K, M, cells."""
    n = max(4, (n + 3) // 4 * 4)
    tiles = n // 4 * (n // 4 + 1)
    shapes = (n, ld), (3, ld), (LANES, tiles * LANES), (n, n + 2, LANES), (n, n + 2, LANES)
    cells = tuple(aligned((n * LANES,), dtype) for _ in range(7))
    return *(aligned(shape, dtype) for shape in shapes), cells


@inlined
def _set_scales(energy, lam, scales):
    """scales[0] = 1/√E and scales[1] = 1/E of a row's diagonal E = α₀Λ + λ_u; scales[2, 0] remembers λ_u."""
    if scales[2, 0] != lam:
        scales[2, 0] = lam
        for f in range(energy.shape[0]):
            inverse = 1 / (energy[f] + lam)
            scales[0, f] = np.sqrt(inverse)
            scales[1, f] = inverse


@inlined
def _gather_scaled(Y, indices, start, stop, scales, P):
    """P[a] = Y[indices[start + a]] / √E."""
    ld = Y.shape[1]
    for a in range(start, stop):
        prefetch_row(Y, indices, min(a + AHEAD, stop - 1), 0, ld)
        source = np.int64(indices[a]) * ld
        target = (a - start) * ld
        for f in range(0, ld, WIDTH):
            store(P, target + f, mul(load(scales, f, WIDTH), load(Y, source + f, WIDTH)))


@inlined
def _interleave_products(products, n, K):
    """Tiles of `row_products`, a row of ``products`` per lane, to K[i, j, lane]."""
    ld = K.shape[1]
    t = 0
    for i in range(0, n, 2):
        for j in range(i // 4 * 4, n, 4):
            at = (i * ld + j) * LANES
            transpose8(products, t, products.shape[1], K, at, at + ld * LANES)
            t += LANES


@inlined
def _symmetric_product(K, n, x, out):
    """out = Kx in every lane, from the upper triangle of K[i, j, lane]."""
    ld = K.shape[1]
    for e in range(n * LANES):
        out[e] = 0
    for i in range(n):
        row = i * ld * LANES
        xi = load(x, i * LANES, LANES)
        s = fma(load(K, row + i * LANES, LANES), xi, load(out, i * LANES, LANES))
        for j in range(i + 1, n):
            k = load(K, row + j * LANES, LANES)
            s = fma(k, load(x, j * LANES, LANES), s)
            store(out, j * LANES, fma(k, xi, load(out, j * LANES, LANES)))
        store(out, i * LANES, s)


@inlined
def _dual_system(K, n, cells, M, limit):
    """M = I + √D K √D with right-hand side r − √D K t₀, where t = √D r + t₀ never divides by a small d.

    Nor is t₀ where d·K_ii ≥ 1, however large t is: z = √D w + t₀ would be a small difference of large numbers.
    """
    d, t, root, rest, rhs, diagonal, _ = cells
    split = False
    for i in range(n):
        for lane in range(LANES):
            e = i * LANES + lane
            root[e] = np.sqrt(d[e])
            small = d[e] < limit * abs(t[e]) and d[e] * K[i, i, lane] < 1
            rest[e] = t[e] if small else 0
            rhs[e] = 0
            split |= small
    if split:
        _symmetric_product(K, n, rest, rhs)
    for e in range(n * LANES):
        r = (t[e] - rest[e]) / root[e] if root[e] > 0 else 0
        rhs[e] = r - root[e] * rhs[e]
    ld = M.shape[1]
    for i in range(n):
        row = i * ld * LANES
        ri = load(root, i * LANES, LANES)
        for j in range(i, n):
            at = row + j * LANES
            store(M, at, mul(load(K, at, LANES), mul(ri, load(root, j * LANES, LANES))))
        store(M, row + n * LANES, load(rhs, i * LANES, LANES))
        store(M, row + (n + 1) * LANES, zeros(M, LANES))
        for lane in range(LANES):
            M[i, i, lane] += 1
            diagonal[i * LANES + lane] = M[i, i, lane]


@inlined
def _dual_solve(K, n, cells, M, limit):
    """z = √D w + t₀ to cells[4] and the scores s = Kz to cells[6]; x is E⁻¹Y_uᵀz."""
    _dual_system(K, n, cells, M, limit)
    _, _, root, rest, z, _, scores = cells
    lane_cholesky(M, n, M.shape[1])
    lane_backward(M, n, M.shape[1], z)
    for e in range(n * LANES):
        z[e] = root[e] * z[e] + rest[e]
    _symmetric_product(K, n, z, scores)


@inlined
def _combine(Y, indices, start, stop, z, lane, scales, X, target):
    """X[target:] = E⁻¹ Σ_a z_a Y[indices[a]]; returns its squared norm."""
    ld = Y.shape[1]
    norm = zeros(X, WIDTH)
    for f in range(0, ld, WIDTH):
        s = zeros(X, WIDTH)
        for a in range(start, stop):
            at = np.int64(indices[a]) * ld + f
            s = fma(broadcast(z, (a - start) * LANES + lane, WIDTH), load(Y, at, WIDTH), s)
        s = mul(s, load(scales, ld + f, WIDTH))
        store(X, target + f, s)
        norm = fma(s, s, norm)
    return total(norm)


@jit
def dual_rows(csr, Y, model, weights, shift, order, lo, hi, limits, scratch, X, status, sums):
    """Rows whose n_u × n_u system is the smaller one; needs a diagonal G and d ≥ 0. See the module docstring."""
    indptr, indices, data = csr
    _, energy, lam = model
    d0, d1, t0, t1, a0 = weights
    panel, scales, products, K, M, cells = scratch
    d, t, _, _, z, diagonal, scores = cells
    ld = Y.shape[1]
    scales[2, 0] = np.nan
    for first in range(lo, hi, LANES):
        count = min(LANES, hi - first)
        last = order[first + count - 1]  # the longest row of the group, up to the padding
        n = max(4, (indptr[last + 1] - indptr[last] + 3) // 4 * 4)
        for lane in range(LANES):
            u = order[first + min(lane, count - 1)]
            start = indptr[u]
            length = indptr[u + 1] - start if lane < count else 0
            _set_scales(energy, lam[u], scales)
            _gather_scaled(Y, indices, start, start + length, scales, panel)
            for a in range(length):
                e = a * LANES + lane
                d[e] = d0 + d1 * data[start + a]
                t[e] = t0 + t1 * data[start + a]
                if shift.shape[0]:
                    t[e] -= shift[indices[start + a]]
            for a in range(length, n):
                d[a * LANES + lane] = 0
                t[a * LANES + lane] = 0
                for f in range(0, ld, WIDTH):
                    store(panel, a * ld + f, zeros(panel, WIDTH))
            row_products(panel, n, ld, products, lane * products.shape[1])
        _interleave_products(products, n, K)
        _dual_solve(K, n, cells, M, limits[0])
        for lane in range(count):
            u = order[first + lane]
            start = indptr[u]
            length = indptr[u + 1] - start
            _set_scales(energy, lam[u], scales)
            norm = _combine(Y, indices, start, start + length, z, lane, scales, X, np.int64(u) * ld)
            if not (norm < np.inf and well_conditioned(M, n, diagonal, lane, limits[1]) and lam[u] >= limits[2]):
                status[u] = UNSOLVED
                continue
            loss = 0.0
            for a in range(length):
                e = a * LANES + lane
                loss += cell_loss(np.float64(d[e]) + a0, t[e], a0, scores[e]) + np.float64(z[e]) * scores[e]
            sums[0] += loss
            sums[1] += np.float64(lam[u]) * norm
