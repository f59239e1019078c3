"""Rows of an ALS half-sweep improved one block of factors after another from their old values (iALS++).

With the scores s = Y_u x of a row at hand, the columns π of x have the system
(E_π + Y_πᵀ D Y_π) δ = Y_πᵀ(t − D s) − E_π x_π, which `als_primal` assembles and solves for eight rows at once; then
x_π += δ and s += Y_π δ. Blocks are as wide as the systems of ``scratch``, the last one moved to end with the factors.
The arguments are explained in `als_rows`; here X holds the old rows in the basis of Y and is overwritten, and
``energy`` is the whole of the shared part.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from lfm_np.kernels.als_cells import add_scores, cells_loss, eight_scratch, finish_row
from lfm_np.kernels.als_primal import add_row, flush, idle_slots, primal_scratch, solve_systems, unflush
from lfm_np.kernels.als_rows import aligned, well_conditioned
from lfm_np.kernels.jit import inlined, jit
from lfm_np.kernels.simd import LANES


def subspace_scratch(n: int, width: int, dtype: np.dtype) -> tuple[Any, ...]:
    """Scratch for rows of at most ``n`` cells and blocks of ``width``: systems, scores, δ, failures, eight cells."""
    scores, delta = np.empty(LANES * n, dtype), aligned((LANES, width), dtype)
    return primal_scratch(width, dtype), scores, delta, np.zeros(LANES, np.bool_), eight_scratch(dtype)


@inlined
def _start_block(energy, lam, X, u, column, A, b, slot):
    """A[slot] = E_π and b[slot] = −E_π x_π."""
    for i in range(b.shape[1]):
        for j in range(b.shape[1]):
            A[slot, i, j] = 0
        e = energy[column + i] + lam
        A[slot, i, i] = e
        b[slot, i] = -e * X[u, column + i]


@inlined
def _take_step(R, diagonal, x, slot, limit, X, u, column, delta):
    """x_π += δ of one of the eight systems, also to delta[slot]; whether it was well-conditioned."""
    width = delta.shape[1]
    for i in range(width):
        delta[slot, i] = x[i * LANES + slot]
        X[u, column + i] += x[i * LANES + slot]
    return well_conditioned(R, width, diagonal, slot, limit)


@jit
def subspace_rows(csr, Y, model, weights, shift, order, lo, hi, limits, scratch, X, status, sums):
    """One step in every block from the old rows. See the module docstring."""
    indptr = csr[0]
    _, energy, lam = model
    systems, scores, delta, failed, eight = scratch
    panels, A, b, R, _, targets, x, wide = systems  # targets, then diagonals
    longest, width, ld = scores.shape[0] // LANES, delta.shape[1], Y.shape[1]
    for first in range(lo, hi, LANES):
        rows = order[first : min(first + LANES, hi)]
        for slot in range(rows.shape[0]):
            u = rows[slot]
            start, stop, at = indptr[u], indptr[u + 1], np.int64(u) * ld
            failed[slot] = False
            scores[slot * longest : slot * longest + stop - start] = 0
            add_scores(csr, Y, 0, weights, shift, start, stop, X, at, ld, scores, slot * longest, eight)
        idle_slots(rows.shape[0], A, b)
        for edge in range(0, ld, width):
            column = min(edge, ld - width)
            for slot in range(rows.shape[0]):
                u = rows[slot]
                start, stop = indptr[u], indptr[u + 1]
                following = indptr[rows[min(slot + 1, rows.shape[0] - 1)]]
                block = column, scores, slot * longest - start
                _start_block(energy, lam[u], X, u, column, A, b, slot)
                add_row(csr, Y, weights, shift, block, start, stop, following, panels, targets, A, b, slot, wide)
            solve_systems(A, b, R, targets, x)
            for slot in range(rows.shape[0]):
                u = rows[slot]
                start, stop = indptr[u], indptr[u + 1]
                failed[slot] |= not _take_step(R, targets, x, slot, limits[1], X, u, column, delta)
                at = slot * width
                add_scores(csr, Y, column, weights, shift, start, stop, delta, at, width, scores, slot * longest, eight)
        for slot in range(rows.shape[0]):
            u = rows[slot]
            loss = cells_loss(csr, weights, shift, indptr[u], indptr[u + 1], scores, slot * longest)
            finish_row(energy, lam[u], loss, failed[slot], limits, X, u, status, sums)


# ---- rows too heavy for one block: segments of cells ----------------------------------------------------------------


@jit
def score_segment(csr, Y, weights, shift, start, stop, X, u, scores, first, eight):
    """scores[first:] = Y_u x over the cells."""
    scores[first : first + stop - start] = 0
    add_scores(csr, Y, 0, weights, shift, start, stop, X, np.int64(u) * Y.shape[1], Y.shape[1], scores, first, eight)


@jit
def advance_segment(csr, Y, weights, shift, start, stop, column, delta, row, scores, first, eight):
    """scores[first:] += Y_π δ over the cells, for the step delta[row]."""
    width = delta.shape[1]
    at = row * width
    add_scores(csr, Y, column, weights, shift, start, stop, delta, at, width, scores, first, eight)


@jit
def block_segment(csr, Y, weights, shift, start, stop, column, scores, first, scratch, A, b, part):
    """A[part] = Y_πᵀ D Y_π and b[part] = Y_πᵀ(t − D s) over the cells."""
    panels, _, _, _, _, targets, _, wide = scratch
    A[part] = 0
    b[part] = 0
    block = column, scores, first - start
    add_row(csr, Y, weights, shift, block, start, stop, stop, panels, targets, A, b, part, wide)


@jit
def heavy_blocks(energy, lam, heavy, lo, hi, column, limits, scratch, parts, first_part, X, delta, failed):
    """Step of at most eight rows heavy[lo:hi]; row r is the sum of the parts first_part[r] … first_part[r + 1] − 1."""
    part_A, part_b = parts
    _, A, b, R, _, diagonal, x, wide = scratch
    for slot in range(hi - lo):
        u = heavy[lo + slot]
        _start_block(energy, lam[u], X, u, column, A, b, slot)
        flush(A, b, slot, wide)
        for part in range(first_part[lo + slot], first_part[lo + slot + 1]):
            flush(part_A, part_b, part, wide)
        unflush(A, b, slot, wide)
    idle_slots(hi - lo, A, b)
    solve_systems(A, b, R, diagonal, x)
    for slot in range(hi - lo):
        u = heavy[lo + slot]
        failed[lo + slot] |= not _take_step(R, diagonal, x, slot, limits[1], X, u, column, delta[lo:hi])
