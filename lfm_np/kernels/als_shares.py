"""Rows of an ALS half-sweep whose cells lie in several places: each place gives its share of a row's system, the shares
are added, and the sums are solved.

A share is (A, b, energy): Σ d·yyᵀ as its upper triangle row by row (rows × k(k + 1)/2), Σ t·y (rows × k) and Σ c·p².
The other arguments are explained in `als_rows`.
"""

from __future__ import annotations

import numpy as np

from lfm_np.kernels.als_primal import add_row, before_cancelling, explained, idle_slots, solve_systems, start_system
from lfm_np.kernels.als_rows import OK, UNSOLVED, dot, well_conditioned
from lfm_np.kernels.jit import jit
from lfm_np.kernels.simd import LANES, WIDTH


@jit
def row_shares(csr, Y, weights, shift, lo, hi, scratch, A, b, energy):
    """The shares of the rows lo … hi − 1."""
    indptr = csr[0]
    panels, whole, right, _, _, targets, _, wide = scratch
    block = 0, targets[:0], 0
    for row in range(lo, hi):
        whole[0] = 0
        right[0] = 0
        start, stop = indptr[row], indptr[row + 1]
        energy[row] = add_row(csr, Y, weights, shift, block, start, stop, stop, panels, targets, whole, right, 0, wide)
        at = 0
        for i in range(b.shape[1]):
            b[row, i] = right[0, i]
            for j in range(i, b.shape[1]):
                A[row, at] = whole[0, i, j]
                at += 1


@jit
def solve_shares(model, limit, lo, hi, scratch, share, X, status, loss, penalty):
    """Solve (G + λ_u I + A) x = b for the rows lo … hi − 1: writes X, status, and each row's loss and λ_u‖x‖².

    The loss is Σ c·p² − b·x − x·(b − (G + λ_u I + A)x). ``limit`` is the largest loss of digits in a pivot.
    """
    G, lam = model
    _, A, b, R, _, diagonal, x, _ = scratch
    share_A, share_b, share_energy = share
    for first in range(lo, hi, LANES):
        count = min(LANES, hi - first)
        for slot in range(count):
            row = first + slot
            start_system(G, lam[row], A, b, slot)
            at = 0
            for i in range(share_b.shape[1]):
                b[slot, i] = share_b[row, i]
                beyond = i // WIDTH * WIDTH + WIDTH  # of the tile on the diagonal, which is whole
                for j in range(i, share_b.shape[1]):
                    A[slot, i, j] += share_A[row, at]
                    if i < j < beyond:
                        A[slot, j, i] += share_A[row, at]
                    at += 1
        idle_slots(count, A, b)
        solve_systems(A, b, R, diagonal, x)
        for slot in range(count):
            row = first + slot
            for f in range(G.shape[0]):
                X[row, f] = x[f * LANES + slot]
            begin = np.int64(row) * G.shape[0]
            norm = dot(X, begin, X, begin, G.shape[0])
            before_cancelling(G, lam[row], diagonal, slot)
            solved = norm < np.inf and well_conditioned(R, G.shape[0], diagonal, slot, limit)
            status[row] = OK if solved else UNSOLVED
            penalty[row] = np.float64(lam[row]) * norm
            loss[row] = share_energy[row] - explained(A, b, slot, X, row)
