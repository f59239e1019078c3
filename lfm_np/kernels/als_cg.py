"""Rows of an ALS half-sweep improved by conjugate gradients from their old values.

With E = α₀Λ + λ_u I diagonal, a row's system is A x = Y_uᵀ t with A = E + Y_uᵀ D Y_u. A step needs A p, which is two
passes over the row's cells and no k × k matrix; the preconditioner is the exact diagonal of A. The scores Y_u x are
carried along, so that the loss costs no further pass. The arguments are explained in `als_rows`; here X holds the old
rows in the basis of Y and is overwritten.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from lfm_np.kernels.als_cells import (
    D,
    R,
    S,
    T,
    add_eight,
    add_eight_squares,
    cells_loss,
    eight_cells,
    eight_dots,
    eight_scratch,
    finish_row,
)
from lfm_np.kernels.als_rows import aligned
from lfm_np.kernels.jit import inlined, jit
from lfm_np.kernels.simd import LANES, WIDTH, add, fnma, load, splat, store, zeros

LONG = 2048  # cells after which sums over a row go on in float64

RESIDUAL, DIRECTION, PRODUCT, INVERSE = range(4)  # vectors of a row: b − Ax, p, A p, and 1 / the diagonal of A


def cg_scratch(n: int, ld: int, dtype: np.dtype) -> tuple[Any, ...]:
    """Scratch for rows of at most ``n`` cells: vectors, their float64 sums, scores and products, eight cells."""
    cells = np.empty(n, dtype), np.empty(n, dtype)
    return aligned((4, ld), dtype), np.zeros((2, ld)), cells, eight_scratch(dtype)


@inlined
def _flush(work, row, wide, to):
    """wide[to] += work[row]; work[row] = 0."""
    for f in range(work.shape[1]):
        wide[to, f] += work[row, f]
        work[row, f] = 0


@inlined
def _unflush(work, row, wide, to):
    """work[row] = wide[to]; wide[to] = 0."""
    for f in range(work.shape[1]):
        work[row, f] = wide[to, f]
        wide[to, f] = 0


@inlined
def _add_gradient(csr, Y, weights, shift, start, stop, x, at, work, scores, first, eight):
    """work[RESIDUAL] += Σ (t − d s) y, work[INVERSE] += Σ d y² and scores[first:] = s over the cells."""
    starts, values = eight
    ld = Y.shape[1]
    for cell in range(start, stop, LANES):
        eight_cells(csr, ld, 0, weights, shift, cell, stop, eight)
        eight_dots(Y, starts, x, at, ld, values, S * LANES)
        for j in range(LANES):
            values[R, j] = values[T, j] - values[D, j] * values[S, j]
        for j in range(min(LANES, stop - cell)):
            scores[first + cell - start + j] = values[S, j]
        add_eight(Y, starts, values, R * LANES, work, RESIDUAL * ld, ld)
        add_eight_squares(Y, starts, values, D * LANES, work, INVERSE * ld, ld)


@inlined
def _add_product(csr, Y, weights, shift, start, stop, p, at, work, products, first, eight):
    """work[PRODUCT] += Σ d (y·p) y and products[first:] = y·p over the cells."""
    starts, values = eight
    ld = Y.shape[1]
    for cell in range(start, stop, LANES):
        eight_cells(csr, ld, 0, weights, shift, cell, stop, eight)
        eight_dots(Y, starts, p, at, ld, values, S * LANES)
        for j in range(LANES):
            values[R, j] = values[D, j] * values[S, j]
        for j in range(min(LANES, stop - cell)):
            products[first + cell - start + j] = values[S, j]
        add_eight(Y, starts, values, R * LANES, work, PRODUCT * ld, ld)


@inlined
def _start_row(energy, lam, X, at, work):
    """The residual and the diagonal before any cell: −E x and E."""
    ld = work.shape[1]
    for f in range(0, ld, WIDTH):
        e = add(load(energy, f, WIDTH), splat(lam, WIDTH))
        store(work, RESIDUAL * ld + f, fnma(e, load(X, at + f, WIDTH), zeros(work, WIDTH)))
        store(work, INVERSE * ld + f, e)


@inlined
def _precondition(energy, lam, work):
    """Invert the diagonal and set the first direction; returns its product with the residual.

    Where d < 0 cancels almost all of an entry, a thousandth of E stands in for it: any positive number would do.
    """
    rz = 0.0
    for f in range(work.shape[1]):
        entry = max(work[INVERSE, f], (energy[f] + lam) * work.dtype.type(1e-3))
        inverse = 1 / entry if entry > 0 else work.dtype.type(0)
        work[INVERSE, f] = inverse
        work[DIRECTION, f] = inverse * work[RESIDUAL, f]
        rz += np.float64(work[DIRECTION, f]) * work[RESIDUAL, f]
    return rz


@inlined
def _add_shared(energy, lam, work):
    """work[PRODUCT] += E p; returns p · A p."""
    ld = work.shape[1]
    total = 0.0
    for f in range(ld):
        work[PRODUCT, f] += (energy[f] + lam) * work[DIRECTION, f]
        total += np.float64(work[DIRECTION, f]) * work[PRODUCT, f]
    return total


@inlined
def _advance(step, rz, X, u, work):
    """x += step · p, the residual and the next direction; returns the new product of residual and direction."""
    found = 0.0
    for f in range(work.shape[1]):
        X[u, f] += step * work[DIRECTION, f]
        residual = work[RESIDUAL, f] - step * work[PRODUCT, f]
        work[RESIDUAL, f] = residual
        found += np.float64(residual) * residual * work[INVERSE, f]
    turn = work.dtype.type(found / rz)
    for f in range(work.shape[1]):
        work[DIRECTION, f] = work[INVERSE, f] * work[RESIDUAL, f] + turn * work[DIRECTION, f]
    return found


@inlined
def _row_gradient(csr, Y, weights, shift, start, stop, X, at, scratch):
    """`_add_gradient`, with the sums of a long row carried in float64."""
    work, wide, cells, eight = scratch
    for base in range(start, stop, LONG):
        end = min(base + LONG, stop)
        _add_gradient(csr, Y, weights, shift, base, end, X, at, work, cells[0], base - start, eight)
        if stop - start > LONG:
            _flush(work, RESIDUAL, wide, 0)
            _flush(work, INVERSE, wide, 1)
    if stop - start > LONG:
        _unflush(work, RESIDUAL, wide, 0)
        _unflush(work, INVERSE, wide, 1)


@inlined
def _row_product(csr, Y, weights, shift, start, stop, scratch):
    """`_add_product`, with the sum of a long row carried in float64."""
    work, wide, cells, eight = scratch
    ld = Y.shape[1]
    for f in range(ld):
        work[PRODUCT, f] = 0
    for base in range(start, stop, LONG):
        end = min(base + LONG, stop)
        _add_product(csr, Y, weights, shift, base, end, work, DIRECTION * ld, work, cells[1], base - start, eight)
        if stop - start > LONG:
            _flush(work, PRODUCT, wide, 0)
    if stop - start > LONG:
        _unflush(work, PRODUCT, wide, 0)


@jit
def cg_rows(csr, Y, model, weights, shift, order, lo, hi, limits, steps, scratch, X, status, sums):
    """``steps`` steps from the old rows. See the module docstring."""
    indptr = csr[0]
    _, energy, lam = model
    work, _, cells, _ = scratch
    scores, products = cells
    ld = Y.shape[1]
    for place in range(lo, hi):
        u = order[place]
        start, stop, at = indptr[u], indptr[u + 1], np.int64(u) * ld
        _start_row(energy, lam[u], X, at, work)
        _row_gradient(csr, Y, weights, shift, start, stop, X, at, scratch)
        rz = _precondition(energy, lam[u], work)
        for _ in range(steps):
            _row_product(csr, Y, weights, shift, start, stop, scratch)
            curvature = _add_shared(energy, lam[u], work)
            if not (rz > 0 and curvature > 0):  # solved, to rounding
                break
            step = work.dtype.type(rz / curvature)
            for a in range(stop - start):
                scores[a] += step * products[a]
            rz = _advance(step, rz, X, u, work)
        loss = cells_loss(csr, weights, shift, start, stop, scores, 0)
        finish_row(energy, lam[u], loss, False, limits, X, u, status, sums)


# ---- rows too heavy for one block: segments of cells ----------------------------------------------------------------


@jit
def gradient_segment(csr, Y, weights, shift, start, stop, x, row, scratch, part, scores, first):
    """part[0] = Σ (t − d s) y, part[1] = Σ d y² and scores[first:] = s over the cells, for the row x[row]."""
    work, _, _, eight = scratch
    ld = Y.shape[1]
    for f in range(ld):
        work[RESIDUAL, f] = work[INVERSE, f] = part[0, f] = part[1, f] = 0
    for base in range(start, stop, LONG):
        end = min(base + LONG, stop)
        at = np.int64(row) * ld
        _add_gradient(csr, Y, weights, shift, base, end, x, at, work, scores, first + base - start, eight)
        _flush(work, RESIDUAL, part, 0)
        _flush(work, INVERSE, part, 1)


@jit
def product_segment(csr, Y, weights, shift, start, stop, p, row, scratch, part, products, first):
    """part[0] = Σ d (y·p) y and products[first:] = y·p over the cells, for the direction p[row]."""
    work, _, _, eight = scratch
    ld = Y.shape[1]
    for f in range(ld):
        work[PRODUCT, f] = part[0, f] = 0
    for base in range(start, stop, LONG):
        end = min(base + LONG, stop)
        at = np.int64(row) * ld
        _add_product(csr, Y, weights, shift, base, end, p, at, work, products, first + base - start, eight)
        _flush(work, PRODUCT, part, 0)
