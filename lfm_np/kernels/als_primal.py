"""Rows of an ALS half-sweep by their k × k system (G + λ_u I + Y_uᵀ D Y_u) x = Y_uᵀ t, eight rows at once.

A row too heavy for one block is cut into segments of cells whose systems are added in order. The arguments are
explained in `als_rows`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from lfm_np.kernels.als_rows import (
    AHEAD,
    UNSOLVED,
    aligned,
    cell_loss,
    dot,
    least_confidence,
    prefetch_row,
    well_conditioned,
)
from lfm_np.kernels.jit import inlined, jit
from lfm_np.kernels.simd import LANES, WIDTH, broadcast, fma, load, mul, splat, store
from lfm_np.kernels.tiles import TILE, gram_strip, lane_backward, lane_cholesky
from lfm_np.kernels.transpose import transpose8

PANEL = 32  # gathered rows a panel: two panels of 32 × 64 floats fill half of a 32 KiB cache
LONG = 2048  # cells after which a row's sums go to float64: float32 sums of more cells lose digits
CANCELLED = 0.02  # share of Σ c·p² below which the loss is summed cell by cell
BROUGHT_DOWN = 0.25  # share of the diagonal of G + λI below which cells of negative d have cancelled it


def primal_scratch(ld: int, dtype: np.dtype) -> tuple[Any, ...]:
    """Scratch for eight k × k systems: panels, A, b, the lanes, Σ c·p², targets or diagonals, x, and
    a float64 sum for long rows, kept at zero.
    """
    panels = aligned((PANEL, ld), dtype), aligned((PANEL, ld), dtype)
    A, b, R = aligned((LANES, ld, ld), dtype), aligned((LANES, ld), dtype), aligned((ld, ld + 2, LANES), dtype)
    wide = np.zeros((ld, ld)), np.zeros(ld)
    return panels, A, b, R, np.empty(LANES), aligned((ld * LANES,), dtype), aligned((ld * LANES,), dtype), wide


@inlined
def _panel_sum(P, rows, ld, t, b, at):
    """b[at:] += Σ_p t[p]·P[p]."""
    for f in range(0, ld, WIDTH):
        s = load(b, at + f, WIDTH)
        for p in range(rows):
            s = fma(broadcast(t, p, WIDTH), load(P, p * ld + f, WIDTH), s)
        store(b, at + f, s)


@inlined
def _add_panel(csr, Y, weights, shift, block, start, rows, panels, targets):
    """Gather the cells start … start + rows − 1: P = Y rows, Q = d ∘ P, targets = t − d·s; returns Σ c·p²."""
    _, indices, data = csr
    d0, d1, t0, t1, a0 = weights
    column, scores, first = block
    P, Q = panels
    ld = P.shape[1]
    c0, energy = least_confidence(d0, t0, a0), 0.0
    for p in range(rows):
        cell = start + p
        d = d0 + d1 * data[cell]
        t = t0 + t1 * data[cell]
        if shift.shape[0]:
            t -= shift[indices[cell]]
        targets[p] = t - d * scores[first + cell] if scores.shape[0] else t
        c = c0 + d1 * data[cell]
        energy += t * t / c if c > 0 else 0.0
        source = np.int64(indices[cell]) * Y.shape[1] + column
        scale = splat(Y.dtype.type(d), WIDTH)
        for f in range(0, ld, WIDTH):
            y = load(Y, source + f, WIDTH)
            store(P, p * ld + f, y)
            store(Q, p * ld + f, mul(scale, y))
    return energy


@inlined
def _add_cells(csr, Y, weights, shift, block, start, stop, following, panels, targets, A, b, slot):
    """A[slot] += Σ d·yyᵀ (tiles on and above the diagonal), b[slot] += Σ t·y over the cells start … stop − 1.

    Returns Σ c·p². While a panel is multiplied the rows of the next one are fetched, those of the cells from
    ``following`` on after the last: the gather from a factor matrix larger than the caches would cost as much again.
    """
    indices = csr[1]
    ld = b.shape[1]
    energy = 0.0
    for base in range(start, stop, PANEL):
        rows = min(PANEL, stop - base)
        energy += _add_panel(csr, Y, weights, shift, block, base, rows, panels, targets)
        ahead = base + PANEL if base + PANEL < stop else following
        last = min(ahead + PANEL, indices.shape[0])
        step = max(1, PANEL * TILE // ld)
        for i in range(0, ld, TILE):
            for cell in range(ahead, min(ahead + step, last)):
                prefetch_row(Y, indices, cell, block[0], ld)
            ahead += step
            gram_strip(panels[1], panels[0], rows, ld, i, A, slot * ld * ld, ld)
        _panel_sum(panels[0], rows, ld, targets, b, slot * ld)
    return energy


@inlined
def flush(A, b, slot, wide):
    """wide += A[slot], b[slot]; A[slot] = b[slot] = 0."""
    wide_A, wide_b = wide
    for i in range(b.shape[1]):
        wide_b[i] += b[slot, i]
        b[slot, i] = 0
        for j in range(i // WIDTH * WIDTH, b.shape[1]):
            wide_A[i, j] += A[slot, i, j]
            A[slot, i, j] = 0


@inlined
def unflush(A, b, slot, wide):
    """A[slot], b[slot] = wide; wide = 0."""
    wide_A, wide_b = wide
    for i in range(b.shape[1]):
        b[slot, i] = wide_b[i]
        wide_b[i] = 0
        for j in range(i // WIDTH * WIDTH, b.shape[1]):
            A[slot, i, j] = wide_A[i, j]
            wide_A[i, j] = 0


@inlined
def add_row(csr, Y, weights, shift, block, start, stop, following, panels, targets, A, b, slot, wide):
    """`_add_cells`, with the sums of a long row carried in float64.

    ``block`` = (column, scores, first) makes it the system of the columns column … column + b.shape[1] − 1 with the
    others held: scores[first + cell] is the cell's score so far, and b their residual. Without scores it is 0.
    """
    energy = 0.0
    for base in range(start, stop, LONG):
        end = min(base + LONG, stop)
        then = end if end < stop else following
        energy += _add_cells(csr, Y, weights, shift, block, base, end, then, panels, targets, A, b, slot)
        if stop - start > LONG:
            flush(A, b, slot, wide)
    if stop - start > LONG:
        unflush(A, b, slot, wide)
    return energy


@inlined
def start_system(G, lam, A, b, slot):
    """A[slot] = G + λI and b[slot] = 0."""
    ld = G.shape[0]
    for i in range(ld):
        for f in range(i // WIDTH * WIDTH, ld, WIDTH):
            store(A, (slot * ld + i) * ld + f, load(G, i * ld + f, WIDTH))
        A[slot, i, i] += lam
        b[slot, i] = 0


@inlined
def solve_systems(A, b, R, diagonal, x):
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
def before_cancelling(G, lam, diagonal, slot):
    """Raise a slot's diagonal to the largest of G + λI where cells of negative d have brought it down: digits are lost.

    What rounding leaves of that largest element is everywhere, since Y is in the basis of G.
    """
    lost, most = False, G[0, 0]
    for i in range(G.shape[0]):
        lost |= diagonal[i * LANES + slot] < BROUGHT_DOWN * (G[i, i] + lam)
        most = max(most, G[i, i])
    if lost:
        for i in range(G.shape[0]):
            diagonal[i * LANES + slot] = max(diagonal[i * LANES + slot], most + lam)


@inlined
def explained(A, b, slot, X, u):
    """b·x + x·(b − Ax): the loss with its quadratic terms is Σ c·p² less this, for any x, not only the minimiser."""
    ld = b.shape[1]
    at = np.int64(u) * ld
    found = 0.0
    for i in range(ld):
        row = (slot * ld + i) * ld
        corner = i // WIDTH * WIDTH
        inside = dot(A, row + corner, X, at + corner, WIDTH)
        beyond = dot(A, row + corner + WIDTH, X, at + corner + WIDTH, ld - corner - WIDTH)
        x = np.float64(X[u, i])
        found += x * (2 * np.float64(b[slot, i]) - inside - 2 * np.float64(beyond))
    return found


@inlined
def _cells_loss(csr, Y, weights, shift, start, stop, x, at):
    """Σ c(p − s)² − α₀s² over the cells start … stop − 1 for the row x[at:]."""
    _, indices, data = csr
    d0, d1, t0, t1, a0 = weights
    ld = Y.shape[1]
    c0, loss = least_confidence(d0, t0, a0), 0.0
    for cell in range(start, stop):
        prefetch_row(Y, indices, min(cell + AHEAD, stop - 1), 0, ld)
        s = dot(Y, np.int64(indices[cell]) * ld, x, at, ld)
        t = t0 + t1 * data[cell]
        if shift.shape[0]:
            t -= shift[indices[cell]]
        loss += cell_loss(c0 + d1 * data[cell], t, a0, s)
    return loss


@inlined
def _finish_systems(csr, Y, model, weights, shift, rows, limits, scratch, X, status, sums, later):
    """Solve the assembled systems of up to eight rows, write the rows and add to the sums.

    The loss is Σ c·p² − b·x − x·(b − Ax), which costs no further pass over the cells. Where little of Σ c·p² is left
    the difference would be rounding error, and the residuals are summed instead: here, or with ``later`` (rows,), where
    the row is marked, by `segment_loss`.
    """
    indptr = csr[0]
    G, _, lam = model
    _, A, b, R, energy, diagonal, x, _ = scratch
    ld = G.shape[0]
    solve_systems(A, b, R, diagonal, x)
    for slot in range(rows.shape[0]):
        u = rows[slot]
        for f in range(ld):
            X[u, f] = x[f * LANES + slot]
        at = np.int64(u) * ld
        norm = dot(X, at, X, at, ld)
        before_cancelling(G, lam[u], diagonal, slot)
        if not (norm < np.inf and well_conditioned(R, ld, diagonal, slot, limits[1]) and lam[u] >= limits[2]):
            status[u] = UNSOLVED
            continue
        loss = energy[slot] - explained(A, b, slot, X, u)
        penalty = np.float64(lam[u]) * norm
        if loss < CANCELLED * energy[slot]:
            loss = penalty
            if later.shape[0]:
                later[slot] = 1
            else:
                loss += _cells_loss(csr, Y, weights, shift, indptr[u], indptr[u + 1], X, at)
            for i in range(ld):
                loss += np.float64(X[u, i]) * dot(G, i * ld, X, at, ld)
        sums[0] += loss
        sums[1] += penalty


@inlined
def idle_slots(count, A, b):
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
    block = 0, targets[:0], 0
    for first in range(lo, hi, LANES):
        count = min(LANES, hi - first)
        rows = order[first : first + count]
        for slot in range(count):
            u = rows[slot]
            following = indptr[order[min(first + slot + 1, hi - 1)]]
            start_system(G, lam[u], A, b, slot)
            energy[slot] = add_row(
                csr, Y, weights, shift, block, indptr[u], indptr[u + 1], following, panels, targets, A, b, slot, wide
            )
        idle_slots(count, A, b)
        _finish_systems(csr, Y, model, weights, shift, rows, limits, scratch, X, status, sums, status[:0])


# ---- rows too heavy for one block: segments of cells ----------------------------------------------------------------


@jit
def segment_system(csr, Y, weights, shift, block, start, stop, scratch, A, b, energy, part):
    """A[part], b[part], energy[part]: the share of the cells start … stop − 1 in their row's system."""
    panels, _, _, _, _, targets, _, wide = scratch
    for i in range(b.shape[1]):
        b[part, i] = 0
        for j in range(b.shape[1]):
            A[part, i, j] = 0
    energy[part] = add_row(csr, Y, weights, shift, block, start, stop, stop, panels, targets, A, b, part, wide)


@jit
def heavy_rows(
    csr, Y, model, weights, shift, heavy, lo, hi, limits, scratch, parts, first_part, X, status, sums, later
):
    """Solve at most eight rows heavy[lo:hi]; row r is the sum of the parts first_part[r] … first_part[r + 1] − 1.

    ``later[r]`` is set where the loss of the row's cells is still to be added, by `segment_loss`.
    """
    part_A, part_b, part_energy = parts
    G, _, lam = model
    _, A, b, _, energy, _, _, wide = scratch
    rows = heavy[lo:hi]
    for slot in range(hi - lo):
        start_system(G, lam[rows[slot]], A, b, slot)
        flush(A, b, slot, wide)
        energy[slot] = 0
        for part in range(first_part[lo + slot], first_part[lo + slot + 1]):
            energy[slot] += part_energy[part]
            flush(part_A, part_b, part, wide)
        unflush(A, b, slot, wide)
    idle_slots(hi - lo, A, b)
    _finish_systems(csr, Y, model, weights, shift, rows, limits, scratch, X, status, sums, later[lo:hi])


@jit
def segment_loss(csr, Y, weights, shift, start, stop, X, u):
    """Σ c(p − s)² − α₀s² over the cells start … stop − 1 of row u."""
    return _cells_loss(csr, Y, weights, shift, start, stop, X, np.int64(u) * Y.shape[1])
