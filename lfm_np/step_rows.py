"""Rows of a half-sweep that are improved from their old values, by conjugate gradients or by blocks of factors.

As in `half_sweep`, blocks write their own rows and partial sums are added in order. Rows too heavy for a block go
through the same arithmetic together, in rounds over segments of their cells.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from lfm_np import row_plan
from lfm_np.kernels import als_cells, als_cg, als_primal, als_subspace
from lfm_np.kernels.jit import Pool
from lfm_np.kernels.simd import LANES
from lfm_np.row_plan import Side


class Given(NamedTuple):
    """What the kernels take, in their order."""

    csr: tuple[np.ndarray, ...]
    Y: np.ndarray
    model: tuple[np.ndarray, np.ndarray, np.ndarray]  # G, its diagonal, λ of every row
    weights: tuple[float, ...]
    shift: np.ndarray


def step_block(
    side: Side, block: int, given: Given, limits: tuple[float, ...], X: np.ndarray, status: np.ndarray, sums: np.ndarray
) -> None:
    """Improve the light rows of a block; add their loss and penalty to ``sums``."""
    steps, ld = side.steps, X.shape[1]
    lo, hi = steps.blocks[block]
    arguments = *given, steps.order, lo, hi, limits
    indptr, rows = given.csr[0], steps.order[lo:hi]
    longest = int((indptr[rows + 1] - indptr[rows]).max())
    if steps.solver == "cg":
        scratch = als_cg.cg_scratch(longest, ld, X.dtype)
        als_cg.cg_rows(*arguments, row_plan.CG_STEPS, scratch, X, status, sums)
    else:
        scratch = als_subspace.subspace_scratch(longest, steps.width, X.dtype)
        als_subspace.subspace_rows(*arguments, scratch, X, status, sums)


def step_heavy(
    side: Side,
    given: Given,
    limits: tuple[float, ...],
    X: np.ndarray,
    status: np.ndarray,
    sums: np.ndarray,
    pool: Pool,
) -> None:
    """Improve the heavy rows; add their loss and penalty to ``sums``."""
    heavy = side.steps.heavy
    if not heavy.cells:
        return
    rounds = (_Cg if side.steps.solver == "cg" else _Subspace)(side, given, X, pool)
    failed = rounds.improve(limits)
    _, energy, lam = given.model
    als_cells.heavy_losses(energy, lam, heavy.rows, rounds.losses(), failed, limits, X, status, sums)


class _Rounds:
    """The heavy rows with the scores of their cells, and a way to do something with every segment."""

    def __init__(self, side: Side, given: Given, X: np.ndarray, pool: Pool) -> None:
        self._heavy, self._given, self._X, self._pool = side.steps.heavy, given, X, pool
        self._width = side.steps.width
        self._cells = given.csr, given.Y, given.weights, given.shift
        ends = np.cumsum([stop - start for _, start, stop in self._heavy.cells])
        self._first = np.concatenate(([0], ends)).astype(np.int64)  # where the scores of each segment begin
        self._scores = np.empty(ends[-1], X.dtype)

    def _each(self, work: Callable[[int, int, int, int], Any]) -> None:
        """work(segment, place of its row, first cell, last cell + 1) for every segment."""
        self._pool.run(lambda part, worker: work(part, *self._heavy.cells[part]), len(self._heavy.cells))

    def _row_sums(self, parts: np.ndarray) -> np.ndarray:
        return np.add.reduceat(parts, self._heavy.first[:-1])

    def losses(self) -> np.ndarray:
        """Σ c(p − s)² − α₀s² of every heavy row."""
        (csr, _, weights, shift), losses = self._cells, np.empty(len(self._heavy.cells))

        def loss(part: int, row: int, start: int, stop: int) -> None:
            place = start, stop, self._scores, self._first[part]
            losses[part] = als_cells.segment_loss(csr, weights, shift, *place)

        self._each(loss)
        return self._row_sums(losses)


class _Cg(_Rounds):
    """`als_cg.cg_rows`, its vectors as matrices with a row each, in float64."""

    def improve(self, limits: tuple[float, ...]) -> np.ndarray:
        """Improve the rows; no row fails."""
        rows, dtype = self._heavy.rows, self._X.dtype
        _, energy, lam = self._given.model
        self._products = np.empty_like(self._scores)
        E = energy.astype(np.float64) + lam[rows, None]
        x = self._X[rows].astype(np.float64)
        residual, entries = self._gradient()
        residual -= E * x
        entries = np.maximum(entries + E, 1e-3 * E)
        inverse = np.divide(1, entries, out=np.zeros_like(E), where=entries > 0)
        direction = inverse * residual
        rz = np.sum(residual * direction, axis=1)
        for _ in range(row_plan.CG_STEPS):
            direction = direction.astype(dtype)
            q = self._product(direction) + E * direction
            curvature = np.sum(direction * q, axis=1)
            go = (rz > 0) & (curvature > 0)
            step = np.divide(rz, curvature, out=np.zeros_like(rz), where=go).astype(dtype)[:, None]
            self._advance(step)
            x += step.astype(np.float64) * direction
            residual -= step * q
            before, rz = rz, np.sum(residual * residual * inverse, axis=1)
            turn = np.divide(rz, before, out=np.zeros_like(rz), where=go)[:, None]
            direction = inverse * residual + turn * direction
        self._X[rows] = x
        return np.zeros(len(rows), np.bool_)

    def _gradient(self) -> tuple[np.ndarray, np.ndarray]:
        """Σ (t − d s) y and Σ d y² of every row; the scores."""
        X, rows = self._X, self._heavy.rows
        parts = np.empty((len(self._heavy.cells), 2, X.shape[1]))

        def gradient(part: int, row: int, start: int, stop: int) -> None:
            scratch = als_cg.cg_scratch(0, X.shape[1], X.dtype)
            place = start, stop, X, rows[row], scratch, parts[part], self._scores, self._first[part]
            als_cg.gradient_segment(*self._cells, *place)

        self._each(gradient)
        sums = self._row_sums(parts)
        return sums[:, 0], sums[:, 1]

    def _product(self, p: np.ndarray) -> np.ndarray:
        """Σ d (y·p) y of every row; the products y·p."""
        parts = np.empty((len(self._heavy.cells), 1, p.shape[1]))

        def product(part: int, row: int, start: int, stop: int) -> None:
            scratch = als_cg.cg_scratch(0, p.shape[1], p.dtype)
            place = start, stop, p, row, scratch, parts[part], self._products, self._first[part]
            als_cg.product_segment(*self._cells, *place)

        self._each(product)
        return self._row_sums(parts)[:, 0]

    def _advance(self, step: np.ndarray) -> None:
        """The scores along the last direction."""

        def advance(part: int, row: int, start: int, stop: int) -> None:
            own = slice(self._first[part], self._first[part + 1])
            self._scores[own] += step[row] * self._products[own]

        self._each(advance)


class _Subspace(_Rounds):
    """`als_subspace.subspace_rows`, block after block."""

    def improve(self, limits: tuple[float, ...]) -> np.ndarray:
        """Improve the rows; which of them have an ill-conditioned system."""
        ld, dtype, heavy = self._X.shape[1], self._X.dtype, self._heavy
        width, pieces = self._width, len(heavy.cells)
        self._parts = np.empty((pieces, width, width), dtype), np.empty((pieces, width), dtype)
        self._delta, failed = np.empty((len(heavy.rows), width), dtype), np.zeros(len(heavy.rows), np.bool_)
        self._score()
        for edge in range(0, ld, width):
            column = min(edge, ld - width)
            self._assemble(column)
            self._solve(column, limits, failed)
            self._advance(column)
        return failed

    def _score(self) -> None:
        def score(part: int, row: int, start: int, stop: int) -> None:
            eight = als_cells.eight_scratch(self._X.dtype)
            place = start, stop, self._X, self._heavy.rows[row], self._scores, self._first[part], eight
            als_subspace.score_segment(*self._cells, *place)

        self._each(score)

    def _assemble(self, column: int) -> None:
        def assemble(part: int, row: int, start: int, stop: int) -> None:
            scratch = als_primal.primal_scratch(self._delta.shape[1], self._X.dtype)
            place = start, stop, column, self._scores, self._first[part], scratch, *self._parts, part
            als_subspace.block_segment(*self._cells, *place)

        self._each(assemble)

    def _solve(self, column: int, limits: tuple[float, ...], failed: np.ndarray) -> None:
        count, (_, energy, lam) = len(self._heavy.rows), self._given.model

        def solve(group: int, worker: int) -> None:
            lo, hi = group * LANES, min((group + 1) * LANES, count)
            scratch = als_primal.primal_scratch(self._delta.shape[1], self._X.dtype)
            place = self._heavy.rows, lo, hi, column, limits, scratch
            results = self._parts, self._heavy.first, self._X, self._delta, failed
            als_subspace.heavy_blocks(energy, lam, *place, *results)

        self._pool.run(solve, -(-count // LANES))

    def _advance(self, column: int) -> None:
        def advance(part: int, row: int, start: int, stop: int) -> None:
            eight = als_cells.eight_scratch(self._X.dtype)
            place = start, stop, column, self._delta, row, self._scores, self._first[part], eight
            als_subspace.advance_segment(*self._cells, *place)

        self._each(advance)
