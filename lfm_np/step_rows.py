"""Rows of a half-sweep that are improved by a step from their old values, by conjugate gradients or by blocks of factors.

As in `half_sweep`, blocks write their own rows and partial sums are added in order. Rows too heavy for a block go
through the same arithmetic together, in rounds over segments of their cells.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from lfm_np.kernels import als_cells, als_cg, als_primal, als_subspace
from lfm_np.kernels.jit import Pool
from lfm_np.kernels.simd import LANES
from lfm_np.row_plan import CG_STEPS, Side, Weights, subspace_width


class StepRows:
    """The stepped rows of a half-sweep: light ones a block at a time, heavy ones together."""

    def __init__(
        self,
        side: Side,
        fixed: tuple[np.ndarray, np.ndarray, np.ndarray],
        weights: Weights,
        shift: np.ndarray,
        limits: tuple[float, ...],
        X: np.ndarray,
        pool: Pool,
    ) -> None:
        self._csr, self._lam, self._steps, self._heavy = side.csr, side.lam, side.steps, side.steps.heavy
        self._Y, self._G, self._energy = fixed
        self._weights, self._shift, self._limits = tuple(weights), shift, limits
        self._X, self._pool = X, pool

    def block(self, block: int, status: np.ndarray, sums: np.ndarray) -> None:
        """Improve the light rows of a block; add their loss and penalty to ``sums``."""
        lo, hi = self._steps.blocks[block]
        model, order, X = (self._G, self._energy, self._lam), self._steps.order, self._X
        arguments = self._csr, self._Y, model, self._weights, self._shift, order, lo, hi, self._limits
        longest = int(np.diff(self._csr[0])[order[lo:hi]].max())
        if self._steps.solver == "cg":
            scratch = als_cg.cg_scratch(longest, X.shape[1], X.dtype)
            als_cg.cg_rows(*arguments, CG_STEPS, scratch, X, status, sums)
        else:
            scratch = als_subspace.subspace_scratch(longest, subspace_width(X.shape[1]), X.dtype)
            als_subspace.subspace_rows(*arguments, scratch, X, status, sums)

    def heavy_rows(self, status: np.ndarray, sums: np.ndarray) -> None:
        """Improve the heavy rows; add their loss and penalty to ``sums``."""
        cells, rows = self._heavy.cells, self._heavy.rows
        if not cells:
            return
        ends = np.cumsum([stop - start for _, start, stop in cells])
        self._first = np.concatenate(([0], ends)).astype(np.int64)
        self._scores = np.empty(ends[-1], self._X.dtype)
        failed = {"cg": self._cg, "subspace": self._subspace}[self._steps.solver]()
        losses = np.empty(len(cells))

        def loss(at: int, start: int, stop: int, row: int) -> None:
            first = self._first[at]
            losses[at] = als_cells.segment_loss(
                self._csr, self._weights, self._shift, start, stop, self._scores, first
            )

        self._each(loss)
        losses = np.add.reduceat(losses, self._heavy.first[:-1])
        als_cells.heavy_losses(self._energy, self._lam, rows, losses, failed, self._limits, self._X, status, sums)

    def _each(self, work: Callable[[int, int, int, int], None]) -> None:
        """work(segment, first cell, last cell + 1, its place among the heavy rows) for every segment."""
        cells = self._heavy.cells
        self._pool.run(lambda at, worker: work(at, *cells[at][1:], cells[at][0]), len(cells))

    def _common(self) -> tuple[Any, ...]:
        return self._csr, self._Y, self._weights, self._shift

    def _cg(self) -> np.ndarray:
        """`als_cg.cg_rows`, its vectors as matrices of a row each, in float64."""
        X, rows, first = self._X, self._heavy.rows, self._heavy.first[:-1]
        parts = np.empty((len(self._heavy.cells), 2, X.shape[1]))
        self._products = np.empty_like(self._scores)

        def gradient(at: int, start: int, stop: int, row: int) -> None:
            scratch = als_cg.cg_scratch(0, X.shape[1], X.dtype)
            place = start, stop, X, rows[row], scratch, parts[at], self._scores, self._first[at]
            als_cg.gradient_segment(*self._common(), *place)

        self._each(gradient)
        E = self._energy.astype(np.float64) + self._lam[rows, None]
        x = X[rows].astype(np.float64)
        residual, entries = np.add.reduceat(parts, first).transpose(1, 0, 2)
        residual -= E * x
        entries = np.maximum(entries + E, 1e-3 * E)
        inverse = np.divide(1, entries, out=np.zeros_like(E), where=entries > 0)
        direction = inverse * residual
        rz = np.sum(residual * direction, axis=1)
        for _ in range(CG_STEPS):
            p = direction.astype(X.dtype)
            direction = p.astype(np.float64)

            def product(at: int, start: int, stop: int, row: int) -> None:
                scratch = als_cg.cg_scratch(0, X.shape[1], X.dtype)
                place = start, stop, p, row, scratch, parts[at], self._products, self._first[at]
                als_cg.product_segment(*self._common(), *place)

            self._each(product)
            q = np.add.reduceat(parts[:, 0], first) + E * direction
            curvature = np.sum(direction * q, axis=1)
            go = (rz > 0) & (curvature > 0)
            step = np.divide(rz, curvature, out=np.zeros_like(rz), where=go)[:, None]
            self._advance(step[:, 0].astype(X.dtype))
            x += step * direction
            residual -= step * q
            before, rz = rz, np.sum(residual * residual * inverse, axis=1)
            turn = np.divide(rz, before, out=np.zeros_like(rz), where=go)[:, None]
            direction = inverse * residual + turn * direction
        X[rows] = x
        return np.zeros(len(rows), np.bool_)

    def _advance(self, step: np.ndarray) -> None:
        def advance(at: int, start: int, stop: int, row: int) -> None:
            own = slice(self._first[at], self._first[at + 1])
            self._scores[own] += step[row] * self._products[own]

        self._each(advance)

    def _subspace(self) -> np.ndarray:
        """`als_subspace.subspace_rows`, block after block."""
        X, heavy = self._X, self._heavy
        width, eight = subspace_width(X.shape[1]), als_cells.eight_scratch
        pieces = len(heavy.cells)
        parts = np.empty((pieces, width, width), X.dtype), np.empty((pieces, width), X.dtype)
        delta, failed = np.empty((len(heavy.rows), width), X.dtype), np.zeros(len(heavy.rows), np.bool_)
        model = self._energy, self._lam, heavy.rows

        def score(at: int, start: int, stop: int, row: int) -> None:
            place = start, stop, X, heavy.rows[row], self._scores, self._first[at], eight(X.dtype)
            als_subspace.score_segment(*self._common(), *place)

        self._each(score)
        for edge in range(0, X.shape[1], width):
            column = min(edge, X.shape[1] - width)

            def system(at: int, start: int, stop: int, row: int) -> None:
                scratch = als_primal.primal_scratch(width, X.dtype)
                place = start, stop, column, self._scores, self._first[at], scratch, *parts, at
                als_subspace.block_segment(*self._common(), *place)

            def solve(group: int, worker: int) -> None:
                lo, hi = group * LANES, min((group + 1) * LANES, len(heavy.rows))
                scratch = als_primal.primal_scratch(width, X.dtype)
                place = lo, hi, column, self._limits, scratch, parts, heavy.first, X, delta, failed
                als_subspace.heavy_blocks(*model, *place)

            def advance(at: int, start: int, stop: int, row: int) -> None:
                place = start, stop, column, delta, row, self._scores, self._first[at], eight(X.dtype)
                als_subspace.advance_segment(*self._common(), *place)

            self._each(system)
            self._pool.run(solve, -(-len(heavy.rows) // LANES))
            self._each(advance)
        return failed
