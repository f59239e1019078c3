"""Exact solvers for the rows of an ALS half-sweep: the smaller of the n_u × n_u and k × k systems, eight rows at once.

Every kernel takes the same arguments:

* ``csr`` = (indptr, indices, data) of the side that is solved;
* ``Y`` (n × ld), the fixed side, padded with zero columns to ld, a multiple of WIDTH;
* ``model`` = (G, energy, lam): α₀YᵀY (ld × ld), its diagonal, and λ_u of every row. The padding's diagonal is 1;
* ``weights`` = (d0, d1, t0, t1, a0): a cell of value x has d = c − α₀ = d0 + d1·x and t = c·p = t0 + t1·x;
* ``shift``: subtracted from t by column (biases), or an empty array;
* ``order``, ``lo``, ``hi``: the rows order[lo:hi], sorted by length (dual: by length / 4, rounded up); ``limits`` = (smallest d/|t| that is divided by,
  largest loss of digits in a pivot, smallest λ_u); scratch arrays from `dual_scratch` or `primal_scratch`.

They write the rows X[u], status[u] (OK or UNSOLVED) and add to ``sums``: [0] the loss of the solved rows,
Σ_Ω [c(p − s)² − α₀s²] + xᵀ(α₀YᵀY + λ_u I)x with s = Y_u x, and [1] its part Σ λ_u‖x‖². Unsolved rows add nothing.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from lfm_np.kernels.jit import inlined, jit
from lfm_np.kernels.simd import (
    LANES,
    WIDTH,
    broadcast,
    fma,
    load,
    mul,
    prefetch,
    splat,
    store,
    total,
    transpose8,
    zeros,
)
from lfm_np.kernels.tiles import TILE, gram_strip, lane_backward, lane_cholesky, row_products

OK, UNSOLVED = 0, 1
PANEL = 32  # gathered rows a panel: two panels of 32 × 64 floats fill half of a 32 KiB cache
AHEAD = 6  # cells between the prefetch of a row and its use
LONG = 2048  # cells after which a row's sums go to float64: float32 sums of more cells lose digits
CANCELLED = 0.02  # share of Σ c·p² below which the loss is summed cell by cell


def aligned(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """An uninitialised array that starts on a cache line: a vector load across two lines costs two."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    raw = np.empty(size + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size].view(dtype).reshape(shape)


def dual_scratch(n: int, ld: int, dtype: np.dtype) -> tuple[np.ndarray, ...]:
    """Scratch for rows of at most ``n`` cells: panel, scales, products, K, M, cells."""
    n = max(4, (n + 3) // 4 * 4)
    tiles = n // 4 * (n // 4 + 1)
    shapes = (n, ld), (3, ld), (LANES, tiles * LANES), (n, n + 2, LANES), (n, n + 2, LANES)
    cells = tuple(aligned((n * LANES,), dtype) for _ in range(7))
    return *(aligned(shape, dtype) for shape in shapes), cells


def primal_scratch(ld: int, dtype: np.dtype) -> tuple[np.ndarray, ...]:
    """Scratch for eight k × k systems: panels, A, b, the lanes, Σ c·p², targets or diagonals, x, and
    a float64 sum for long rows, kept at zero.
    """
    panels = aligned((PANEL, ld), dtype), aligned((PANEL, ld), dtype)
    A, b, R = aligned((LANES, ld, ld), dtype), aligned((LANES, ld), dtype), aligned((ld, ld + 2, LANES), dtype)
    wide = np.zeros((ld, ld)), np.zeros(ld)
    return panels, A, b, R, np.empty(LANES), aligned((ld * LANES,), dtype), aligned((ld * LANES,), dtype), wide


@inlined
def _dot(a, at, b, to, ld):
    """Σ_f a[at + f]·b[to + f]."""
    s = zeros(a, WIDTH)
    for f in range(0, ld, WIDTH):
        s = fma(load(a, at + f, WIDTH), load(b, to + f, WIDTH), s)
    return total(s)


@inlined
def _cell_loss(d, t, a0, s):
    """c(p − s)² − α₀s² of one cell, in float64; p is 0 where c is."""
    c = np.float64(d) + a0
    s = np.float64(s)
    residual = (t / c if c > 0 else 0.0) - s
    return c * residual * residual - a0 * s * s


@inlined
def _well_conditioned(R, n, diagonal, lane, limit):
    """Whether no pivot lost more than ``limit`` of its digits; R holds 1/R_ii on its diagonal."""
    worst = diagonal[lane] * R[0, 0, lane] * R[0, 0, lane]
    for i in range(1, n):
        loss = diagonal[i * LANES + lane] * R[i, i, lane] * R[i, i, lane]
        if not loss <= worst:  # a NaN sticks
            worst = loss
    return worst < limit


@inlined
def _prefetch_row(Y, indices, cell):
    ld = Y.shape[1]
    at = np.int64(indices[cell]) * ld
    for f in range(0, ld, WIDTH):
        prefetch(Y, at + f)


# ---- dual: n_u × n_u ------------------------------------------------------------------------------------------------


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
        _prefetch_row(Y, indices, min(a + AHEAD, stop - 1))
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
    """M = I + √D K √D with right-hand side r − √D K t₀, where t = √D r + t₀ never divides by a small d."""
    d, t, root, rest, rhs, diagonal, _ = cells
    split = False
    for e in range(n * LANES):
        root[e] = np.sqrt(d[e])
        small = d[e] < limit * abs(t[e])
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
    G, energy, lam = model
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
            if not (norm < np.inf and _well_conditioned(M, n, diagonal, lane, limits[1]) and lam[u] >= limits[2]):
                status[u] = UNSOLVED
                continue
            loss = 0.0
            for a in range(length):
                e = a * LANES + lane
                loss += _cell_loss(d[e], t[e], a0, scores[e]) + np.float64(z[e]) * scores[e]
            sums[0] += loss
            sums[1] += np.float64(lam[u]) * norm


# ---- primal: k × k --------------------------------------------------------------------------------------------------


@inlined
def _panel_sum(P, rows, ld, t, b, at):
    """b[at:] += Σ_p t[p]·P[p]."""
    for f in range(0, ld, WIDTH):
        s = load(b, at + f, WIDTH)
        for p in range(rows):
            s = fma(broadcast(t, p, WIDTH), load(P, p * ld + f, WIDTH), s)
        store(b, at + f, s)


@inlined
def _add_panel(csr, Y, weights, shift, start, rows, panels, targets):
    """Gather the cells start … start + rows − 1: P = Y rows, Q = d ∘ P, targets = t; returns Σ c·p²."""
    _, indices, data = csr
    d0, d1, t0, t1, a0 = weights
    P, Q = panels
    ld = Y.shape[1]
    energy = 0.0
    for p in range(rows):
        cell = start + p
        d = d0 + d1 * data[cell]
        t = t0 + t1 * data[cell]
        if shift.shape[0]:
            t -= shift[indices[cell]]
        targets[p] = t
        energy += t * t / (d + a0) if d + a0 > 0 else 0.0
        source = np.int64(indices[cell]) * ld
        scale = splat(Y.dtype.type(d), WIDTH)
        for f in range(0, ld, WIDTH):
            y = load(Y, source + f, WIDTH)
            store(P, p * ld + f, y)
            store(Q, p * ld + f, mul(scale, y))
    return energy


@inlined
def _add_cells(csr, Y, weights, shift, start, stop, following, panels, targets, A, b, slot):
    """A[slot] += Σ d·yyᵀ (tiles on and above the diagonal), b[slot] += Σ t·y over the cells start … stop − 1.

    Returns Σ c·p². While a panel is multiplied the rows of the next one are fetched, those of the cells from
    ``following`` on after the last: the gather from a factor matrix larger than the caches would cost as much again.
    """
    indices = csr[1]
    ld = Y.shape[1]
    energy = 0.0
    for base in range(start, stop, PANEL):
        rows = min(PANEL, stop - base)
        energy += _add_panel(csr, Y, weights, shift, base, rows, panels, targets)
        ahead = base + PANEL if base + PANEL < stop else following
        last = min(ahead + PANEL, indices.shape[0])
        step = max(1, PANEL * TILE // ld)
        for i in range(0, ld, TILE):
            for cell in range(ahead, min(ahead + step, last)):
                _prefetch_row(Y, indices, cell)
            ahead += step
            gram_strip(panels[1], panels[0], rows, ld, i, A, slot * ld * ld, ld)
        _panel_sum(panels[0], rows, ld, targets, b, slot * ld)
    return energy


@inlined
def _flush(A, b, slot, wide):
    """wide += A[slot], b[slot]; A[slot] = b[slot] = 0."""
    wide_A, wide_b = wide
    for i in range(b.shape[1]):
        wide_b[i] += b[slot, i]
        b[slot, i] = 0
        for j in range(i // WIDTH * WIDTH, b.shape[1]):
            wide_A[i, j] += A[slot, i, j]
            A[slot, i, j] = 0


@inlined
def _unflush(A, b, slot, wide):
    """A[slot], b[slot] = wide; wide = 0."""
    wide_A, wide_b = wide
    for i in range(b.shape[1]):
        b[slot, i] = wide_b[i]
        wide_b[i] = 0
        for j in range(i // WIDTH * WIDTH, b.shape[1]):
            A[slot, i, j] = wide_A[i, j]
            wide_A[i, j] = 0


@inlined
def _add_row(csr, Y, weights, shift, start, stop, following, panels, targets, A, b, slot, wide):
    """`_add_cells`, with the sums of a long row carried in float64."""
    energy = 0.0
    for base in range(start, stop, LONG):
        end = min(base + LONG, stop)
        then = end if end < stop else following
        energy += _add_cells(csr, Y, weights, shift, base, end, then, panels, targets, A, b, slot)
        if stop - start > LONG:
            _flush(A, b, slot, wide)
    if stop - start > LONG:
        _unflush(A, b, slot, wide)
    return energy


@inlined
def _start_system(G, lam, A, b, slot):
    """A[slot] = G + λI and b[slot] = 0."""
    ld = G.shape[0]
    for i in range(ld):
        for f in range(i // WIDTH * WIDTH, ld, WIDTH):
            store(A, (slot * ld + i) * ld + f, load(G, i * ld + f, WIDTH))
        A[slot, i, i] += lam
        b[slot, i] = 0


@inlined
def _solve_systems(A, b, R, diagonal, x):
    """x[i·8 + slot] = A[slot]⁻¹ b[slot] for eight systems at once."""
    ld = b.shape[1]
    for i in range(ld):
        row = i * (ld + 2) * LANES
        for j in range(i // LANES * LANES, ld, LANES):
            at = row + j * LANES
            transpose8(A, i * ld + j, ld * ld, R, at, at + 4 * LANES)
        for slot in range(LANES):
            R[i, ld, slot] = b[slot, i]
            R[i, ld + 1, slot] = 0
            diagonal[i * LANES + slot] = R[i, i, slot]
    lane_cholesky(R, ld, ld + 2)
    lane_backward(R, ld, ld + 2, x)


@inlined
def _explained(A, b, slot, X, u):
    """b·x + x·(b − Ax), by which Σ c·p² falls to the loss with its quadratic terms; exact for any x, not just the minimiser."""
    ld = b.shape[1]
    at = np.int64(u) * ld
    found = 0.0
    for i in range(ld):
        row = (slot * ld + i) * ld
        corner = i // WIDTH * WIDTH
        inside = _dot(A, row + corner, X, at + corner, WIDTH)
        beyond = _dot(A, row + corner + WIDTH, X, at + corner + WIDTH, ld - corner - WIDTH)
        x = np.float64(X[u, i])
        found += x * (2 * np.float64(b[slot, i]) - inside - 2 * np.float64(beyond))
    return found


@inlined
def _cells_loss(csr, Y, weights, shift, start, stop, x, at):
    """Σ c(p − s)² − α₀s² over the cells start … stop − 1 for the row x[at:]."""
    _, indices, data = csr
    d0, d1, t0, t1, a0 = weights
    ld = Y.shape[1]
    loss = 0.0
    for cell in range(start, stop):
        _prefetch_row(Y, indices, min(cell + AHEAD, stop - 1))
        s = _dot(Y, np.int64(indices[cell]) * ld, x, at, ld)
        t = t0 + t1 * data[cell]
        if shift.shape[0]:
            t -= shift[indices[cell]]
        loss += _cell_loss(d0 + d1 * data[cell], t, a0, s)
    return loss


@inlined
def _finish_systems(csr, Y, model, weights, shift, rows, limits, scratch, X, status, sums):
    """Solve the assembled systems of up to eight rows, write the rows and add to the sums.

    The loss is Σ c·p² − b·x − x·(b − Ax), which costs no further pass over the cells. Where little of Σ c·p² is left
    the difference would be rounding error, and the residuals are summed instead.
    """
    indptr = csr[0]
    G, _, lam = model
    _, A, b, R, energy, diagonal, x, _ = scratch
    ld = G.shape[0]
    _solve_systems(A, b, R, diagonal, x)
    for slot in range(rows.shape[0]):
        u = rows[slot]
        for f in range(ld):
            X[u, f] = x[f * LANES + slot]
        at = np.int64(u) * ld
        norm = _dot(X, at, X, at, ld)
        if not (norm < np.inf and _well_conditioned(R, ld, diagonal, slot, limits[1]) and lam[u] >= limits[2]):
            status[u] = UNSOLVED
            continue
        loss = energy[slot] - _explained(A, b, slot, X, u)
        penalty = np.float64(lam[u]) * norm
        if loss < CANCELLED * energy[slot]:
            loss = penalty + _cells_loss(csr, Y, weights, shift, indptr[u], indptr[u + 1], X, at)
            for i in range(ld):
                loss += np.float64(X[u, i]) * _dot(G, i * ld, X, at, ld)
        sums[0] += loss
        sums[1] += penalty


@inlined
def _idle_slots(count, A, b):
    """The identity in the slots that no row uses."""
    for slot in range(count, LANES):
        for i in range(b.shape[1]):
            for j in range(b.shape[1]):
                A[slot, i, j] = 0
            A[slot, i, i] = 1
            b[slot, i] = 0


@jit
def primal_rows(csr, Y, model, weights, shift, order, lo, hi, limits, scratch, X, status, sums):
    """Rows whose k × k system is the smaller one, or whose d is negative. See the module docstring."""
    indptr = csr[0]
    G, _, lam = model
    panels, A, b, _, energy, targets, _, wide = scratch
    for first in range(lo, hi, LANES):
        count = min(LANES, hi - first)
        rows = order[first : first + count]
        for slot in range(count):
            u = rows[slot]
            following = indptr[order[min(first + slot + 1, hi - 1)]]
            _start_system(G, lam[u], A, b, slot)
            energy[slot] = _add_row(
                csr, Y, weights, shift, indptr[u], indptr[u + 1], following, panels, targets, A, b, slot, wide
            )
        _idle_slots(count, A, b)
        _finish_systems(csr, Y, model, weights, shift, rows, limits, scratch, X, status, sums)


# ---- rows too heavy for one block: segments of cells ----------------------------------------------------------------


@jit
def segment_system(csr, Y, weights, shift, start, stop, scratch, A, b, energy, part):
    """A[part], b[part], energy[part]: the share of the cells start … stop − 1 in their row's system."""
    panels, _, _, _, _, targets, _, wide = scratch
    for i in range(b.shape[1]):
        b[part, i] = 0
        for j in range(b.shape[1]):
            A[part, i, j] = 0
    energy[part] = _add_row(csr, Y, weights, shift, start, stop, stop, panels, targets, A, b, part, wide)


@jit
def heavy_rows(csr, Y, model, weights, shift, heavy, lo, hi, limits, scratch, parts, first_part, X, status, sums):
    """Solve at most eight rows heavy[lo:hi]; row r is the sum of the parts first_part[r] … first_part[r + 1] − 1."""
    part_A, part_b, part_energy = parts
    G, _, lam = model
    _, A, b, _, energy, _, _, wide = scratch
    rows = heavy[lo:hi]
    for slot in range(hi - lo):
        _start_system(G, lam[rows[slot]], A, b, slot)
        _flush(A, b, slot, wide)
        energy[slot] = 0
        for part in range(first_part[lo + slot], first_part[lo + slot + 1]):
            energy[slot] += part_energy[part]
            _flush(part_A, part_b, part, wide)
        _unflush(A, b, slot, wide)
    _idle_slots(hi - lo, A, b)
    _finish_systems(csr, Y, model, weights, shift, rows, limits, scratch, X, status, sums)
