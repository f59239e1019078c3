"""Running a half-sweep of ALS: every row exactly, or those that `row_plan` says by an improving step.

Blocks write their own rows, and partial sums are added in block order: the same bits for any number of threads.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import numpy as np

from lfm_np import row_plan
from lfm_np.canonical import spectrum
from lfm_np.errors import SolverError
from lfm_np.kernels import als_dual, als_primal, dense
from lfm_np.kernels.jit import Pool
from lfm_np.kernels.simd import LANES
from lfm_np.quiet import eigh, quietly
from lfm_np.row_plan import Side, Weights, plan_side
from lfm_np.step_rows import Given, step_block, step_heavy
from lfm_np.validation import frozen

GRAM_BYTES = 8 << 20  # memory of the partial sums of a Gram matrix
BLAS_FACTORS, BLAS_ROWS = 128, 1024  # from so many factors on BLAS sums a Gram matrix faster, so many rows at a time
RETRY_BYTES = 1 << 20, 32 << 20  # least and most of a chunk of rows that are solved again in float64
ROTATED_BYTES = 1 << 18  # memory of the rows that a thread rotates at once
FEWEST_ROWS = 128  # that are rotated at once: of fewer, reading the basis takes longer than the products
LOSS_CELLS = 1 << 14  # cells of a block that sums their loss
PIVOT_LOSS = 1e-5  # a pivot may lose digits until eps · loss reaches this; such rows are solved again in float64


class Fixed(NamedTuple):
    """The fixed side of a half-sweep."""

    Y: np.ndarray  # (n, ld)
    G: np.ndarray  # (ld, ld): α₀YᵀY, identity on the padding
    energy: np.ndarray  # (ld,): its diagonal where it is diagonal
    floor: float  # a row with λ_u below this is solved in float64
    basis: np.ndarray | None = None  # (ld, ld) orthogonal: Y is the given matrix times it


def gram_chunks(rows: int, ld: int) -> range:
    """Where the chunks begin that `gram_matrix` adds up, ld² numbers of float64 each."""
    most = max(16, GRAM_BYTES // (8 * ld * ld))
    least = max(ld, int(row_plan.SMALLEST_BLOCK / (row_plan.GRAM_ROW * ld * ld)))  # else adding up takes longest
    return range(0, rows, max(least, -(-rows // most)))


def gram_matrix(Y: np.ndarray, pool: Pool) -> np.ndarray:
    """YᵀY (ld × ld, float64) from fixed chunks of rows, added in order."""
    ld = Y.shape[1]
    starts = gram_chunks(len(Y), ld)
    parts = np.zeros((len(starts), ld, ld))
    Y = frozen(Y)

    def work(block: int, worker: int) -> None:
        lo, hi = starts[block], min(starts[block] + starts.step, len(Y))
        if ld < BLAS_FACTORS:
            dense.gram_rows(Y, lo, hi, np.empty((ld, ld), Y.dtype), parts[block])
        else:
            quietly(_add_products, Y[lo:hi], parts[block])  # `fixed_gram` sees what overflows

    pool.run(work, len(starts))
    upper = np.triu(parts.sum(axis=0))
    return upper + np.triu(upper, 1).T


def _add_products(Y: np.ndarray, out: np.ndarray) -> None:
    for lo in range(0, len(Y), BLAS_ROWS):
        rows = Y[lo : lo + BLAS_ROWS]
        out += rows.T @ rows


def rotated(Y: np.ndarray, Q: np.ndarray, out: np.ndarray, pool: Pool, only: np.ndarray | None = None) -> np.ndarray:
    """Write YQ to ``out`` (which may be Y) by blocks of rows, all or ``only`` some."""
    Q = quietly(Q.astype, Y.dtype)
    step = int(row_plan.SMALLEST_BLOCK / row_plan.rotate_cost(len(Q)))
    step = max(FEWEST_ROWS, min(step, ROTATED_BYTES // (Y.shape[1] * Y.itemsize)))

    @cache  # new memory for every block may cost as much as the product: a dask worker's malloc gives it back each time
    def scratch(worker: int) -> np.ndarray:
        return np.empty((step, Y.shape[1]), Y.dtype)

    def work(block: int, worker: int) -> None:
        rows = slice(block * step, (block + 1) * step)
        own = rows if only is None else only[rows]
        some = Y[own]
        out[own] = np.matmul(some, Q, out=scratch(worker)[: len(some)])

    pool.run(work, -(-len(Y if only is None else only) // step))
    return out


def gram_in_float64(Y: np.ndarray, pool: Pool, without: Any = slice(0)) -> np.ndarray:
    """YᵀY of the rows of Y but for some, every product in float64."""
    ld = Y.shape[1]
    G, kept = np.zeros((ld, ld)), np.ones(len(Y), bool)
    kept[without] = False
    step = _retry_cells(len(Y), ld)
    for lo in range(0, len(Y), step):
        part = slice(lo, lo + step)
        G += gram_matrix(Y[part][kept[part]].astype(np.float64), pool)
    return G


def prepare_fixed(rotate: bool, Y: np.ndarray, out: np.ndarray, weights: Weights, factors: int, pool: Pool) -> Fixed:
    """α₀YᵀY of the fixed side, and with ``rotate`` Y itself in the basis that makes it diagonal (into ``out``)."""
    products = gram_matrix(Y, pool) if weights.a0 else np.zeros((Y.shape[1], Y.shape[1]))
    fixed = fixed_gram(rotate, products, weights, factors, Y.dtype)
    return fixed._replace(Y=frozen(Y if fixed.basis is None else rotated(Y, fixed.basis, out, pool)))


def fixed_gram(rotate: bool, products: np.ndarray, weights: Weights, factors: int, dtype: Any) -> Fixed:
    """What `prepare_fixed` knows from YᵀY alone (ld × ld, float64), without rows.

    Rows that would need what overflows are solved again in float64.
    """
    return quietly(_fixed_gram, rotate, products, weights, factors, dtype)


def _fixed_gram(rotate: bool, products: np.ndarray, weights: Weights, factors: int, dtype: Any) -> Fixed:
    ld = len(products)
    G = np.zeros((ld, ld))
    floor, Q = -np.inf, None
    if weights.a0:
        G[:factors, :factors] = weights.a0 * products[:factors, :factors]
    if rotate:
        values, basis = spectrum(G[:factors, :factors])
        values = np.maximum(values, 0)
        Q = np.eye(ld)
        Q[:factors, :factors] = basis
        G = np.diag(np.concatenate((values, np.zeros(ld - factors))))
        floor = _floor(values, factors, np.finfo(dtype))
    G[range(factors, ld), range(factors, ld)] = 1
    G = G.astype(dtype)
    return Fixed(frozen(np.empty((0, ld), dtype)), frozen(G), frozen(G.diagonal().copy()), floor, Q)


def _floor(values: np.ndarray, factors: int, of: np.finfo) -> float:
    """The least λ_u of rows that are solved in this dtype: below it the rotation's own rounding would show.

    Where G is singular a row with λ_u = 0 is too, which steps do not see.
    """
    rounding = factors * float(of.eps) * values[-1]
    if of.dtype == np.float32:
        return rounding - values[0]
    return float(of.tiny) if values[0] <= rounding and values[-1] > 0 else -np.inf


def solve_rows(
    side: Side, fixed: Fixed, weights: Weights, shift: np.ndarray, X: np.ndarray, pool: Pool
) -> tuple[float, float]:
    """Write the minimiser of every row to X; returns the rows' loss and Σ λ_u‖x_u‖² (float64).

    Rows that take a step are improved from what X holds, in the basis of ``fixed``.
    A row whose system is too ill-conditioned for float32 is solved again in float64, and one that is too much so for
    float64 by its eigenvalues, which are known to be at least λ_u.

    Raises
    ------
    SolverError
        λ_u = 0 and a row's system is singular.
    """
    X[side.empty] = 0
    status = np.zeros(side.rows, np.uint8)
    sums = _Blocks(side, fixed, weights, shift, X, status).run(pool)
    failed = np.flatnonzero(status)
    if len(failed):
        G = fixed.G if X.dtype == np.float64 else _gram_in_float64(fixed, weights, pool)
        for rows in _chunks(side, failed, _retry_cells(len(fixed.Y) + side.rows, X.shape[1])):
            sums += _solve_again(side, fixed, G, weights, shift, rows, X, pool)
    return float(sums[0]), float(sums[1])


def _solve_again(
    side: Side,
    fixed: Fixed,
    G: np.ndarray,
    weights: Weights,
    shift: np.ndarray,
    rows: np.ndarray,
    X: np.ndarray,
    pool: Pool,
) -> np.ndarray:
    """Write the minimisers of some ``rows`` to X, by float64 where that is new, else by eigenvalues; their sums."""
    part, Y, shift = _rows_in_float64(side, fixed, weights, shift, rows)
    exact = Fixed(Y, frozen(G), frozen(G.diagonal().copy()), -np.inf)
    solution, status, sums = np.empty((len(rows), X.shape[1])), np.ones(len(rows), np.uint8), np.zeros(2)
    if X.dtype == np.float32:
        status[:] = 0
        sums += _Blocks(part, exact, weights, shift, solution, status).run(pool)
    for row in np.flatnonzero(status).tolist():
        cells = slice(side.csr[0][rows[row]], side.csr[0][rows[row] + 1])
        beside = None
        if weights.a0 and (weights.d0 + weights.d1 * side.csr[2][cells] < 0).any():
            beside = _gram_in_float64(fixed, weights, pool, side.csr[1][cells])
        more = quietly(_solve_by_eigenvalues, part, exact, weights, shift, row, beside, solution[row])
        if not np.isfinite(more[0]):
            raise singular(side.noun, side.first + rows[row], int(np.count_nonzero(status)))
        sums += more
    X[rows] = quietly(solution.astype, X.dtype)
    overflown = rows[~np.isfinite(X[rows]).all(axis=1)]
    if len(overflown):
        raise singular(side.noun, side.first + overflown[0], len(overflown))
    return sums


def singular(noun: str, row: int, count: int) -> SolverError:
    return SolverError(
        f"the normal equations of {noun} {row} ({count} {noun}s in all) are singular, overflow or cancel; "
        "raise regularization, or lower alpha, unobserved_weight or factors"
    )


def _retry_cells(rows: int, ld: int) -> int:
    """Cells of a chunk. What is made of it takes about three times its bytes, a tenth of the 8·ld a row of factors."""
    least, most = RETRY_BYTES
    return max(1, min(most, max(least, ld * rows // 4)) // (8 * ld))


def _chunks(side: Side, rows: np.ndarray, most: int) -> list[np.ndarray]:
    """``rows`` in pieces of at most so many cells, or one row."""
    cells = np.cumsum(np.diff(side.csr[0])[rows] + 1)
    return np.split(rows, np.flatnonzero(np.diff(cells // most)) + 1)


def _gram_in_float64(fixed: Fixed, weights: Weights, pool: Pool, without: Any = slice(0)) -> np.ndarray:
    """α₀YᵀY of the rows of Y but for some, with the padding of ``fixed``."""
    G = weights.a0 * (gram_in_float64(fixed.Y, pool, without) if weights.a0 else np.zeros_like(fixed.G, np.float64))
    pad = np.flatnonzero(~fixed.Y.any(axis=0))
    G[pad, pad] = fixed.G[pad, pad]
    return G


def _rows_in_float64(
    side: Side, fixed: Fixed, weights: Weights, shift: np.ndarray, rows: np.ndarray
) -> tuple[Side, np.ndarray, np.ndarray]:
    """A side of its own for ``rows``, with the rows of Y and the shifts that it needs, all float64."""
    indptr, indices, data = side.csr
    lengths = np.diff(indptr)[rows]
    ends = np.concatenate(([0], np.cumsum(lengths)))
    cell = np.arange(ends[-1]) + np.repeat(indptr[rows] - ends[:-1], lengths)
    columns, own = np.unique(indices[cell], return_inverse=True)
    csr = ends, own.astype(np.int32), data[cell].astype(np.float64)
    part = plan_side(csr, side.lam[rows].astype(np.float64), weights, side.k, row_plan.NEVER)
    own_shift = shift[columns].astype(np.float64) if len(shift) else np.empty(0)
    return part, frozen(fixed.Y[columns].astype(np.float64)), frozen(own_shift)


def _solve_by_eigenvalues(
    side: Side,
    fixed: Fixed,
    weights: Weights,
    shift: np.ndarray,
    row: int,
    beside: np.ndarray | None,
    x: np.ndarray,
) -> tuple[float, float]:
    """Minimiser of one row from the eigenvalues of its system, raised to λ_u; NaN if λ_u = 0 and one vanishes.

    ``beside``: α₀ΣYYᵀ of what has no cell in the row. Where it is given, Σ c·YYᵀ is added to it, not Σ (c − α₀)YYᵀ to
    the sum of all, which would cancel.
    """
    indptr, indices, data = side.csr
    cells, k = slice(indptr[row], indptr[row + 1]), side.k  # the padding's ones would count as eigenvalues
    Y, lam = fixed.Y[indices[cells], :k], float(side.lam[row])
    d, t = weights.d0 + weights.d1 * data[cells], weights.t0 + weights.t1 * data[cells]
    if len(shift):
        t = t - shift[indices[cells]]
    c = weights.c0 + weights.d1 * data[cells]
    G, own, less = (fixed.G[:k, :k], d, weights.a0) if beside is None else (beside[:k, :k], c, 0)
    x[k:] = 0
    x = x[:k]
    A = G + (Y.T * own) @ Y + lam * np.eye(k)
    if not minimised_by_eigenvalues(A, Y.T @ t, lam, x):
        return np.nan, np.nan
    scores = Y @ x
    target = np.divide(t, c, out=np.zeros_like(t), where=c > 0)
    penalty = lam * float(x @ x)
    loss = float(np.sum(c * (target - scores) ** 2 - less * scores**2) + x @ G @ x)
    return loss + penalty, penalty


def cancelled(A: np.ndarray, before: np.ndarray) -> bool:
    """Whether cells of negative d have brought a diagonal, ``before`` them, so far down that its digits are lost."""
    diagonal, least = A.diagonal(), before.max() * np.finfo(A.dtype).eps / PIVOT_LOSS
    return bool((diagonal < als_primal.BROUGHT_DOWN * before).any() and diagonal.min() < least)


def minimised_by_eigenvalues(A: np.ndarray, b: np.ndarray, lam: float, x: np.ndarray) -> bool:
    """x = A⁻¹b from the eigenvalues of A, raised to λ; False if they overflow, or if λ = 0 and one vanishes.

    What lies below the rounding of A is raised to that: b would be divided by noise.
    """
    if not np.isfinite(A).all():
        return False
    values, basis = eigh(A)
    rounding = len(x) * np.finfo(np.float64).eps * values[-1]
    if lam == 0 and values[0] <= rounding:
        return False
    x[:] = basis @ ((basis.T @ b) / np.maximum(values, max(lam, rounding)))
    return True


class _Blocks:
    """The rows of a side as blocks, each solved by one thread, which writes those rows and a sum of its own."""

    def __init__(
        self, side: Side, fixed: Fixed, weights: Weights, shift: np.ndarray, X: np.ndarray, status: np.ndarray
    ) -> None:
        ld, dtype, cells = X.shape[1], X.dtype, side.heavy.cells
        self._side, self._X, self._status = side, X, status
        self._given = Given(side.csr, fixed.Y, (fixed.G, fixed.energy, side.lam), tuple(weights), shift)
        self._limits = (1e-3, PIVOT_LOSS / float(np.finfo(dtype).eps), fixed.floor)
        self._rows, self._heavy = side.primal + side.dual, -(-len(side.heavy.rows) // LANES)
        self._parts = np.empty((len(cells), ld, ld), dtype), np.empty((len(cells), ld), dtype), np.empty(len(cells))
        self._unmeasured = np.zeros(len(side.heavy.rows), np.uint8)  # heavy rows whose loss is not among the sums
        self._sums = np.zeros((len(self._rows) + len(side.steps.blocks) + self._heavy + 1, 2))
        self._kept: dict[int, tuple[Any, Any]] = {}

    def run(self, pool: Pool) -> np.ndarray:
        """Loss and penalty, (2,): those of rows left UNSOLVED aside."""
        side = self._side
        step_heavy(side, self._given, self._limits, self._X, self._status, self._sums[-1], pool)
        jobs = [partial(self._segment, part) for part in range(len(side.heavy.cells))]
        # Blocks of the longest rows first: one may cost much more than a block should, and nobody waits for it then.
        jobs += [partial(self._primal, block) for block in reversed(range(len(side.primal)))]
        jobs += [partial(self._dual, block) for block in range(len(side.primal), len(self._rows))]
        jobs += [partial(self._step, block) for block in reversed(range(len(side.steps.blocks)))]
        pool.run(lambda job, worker: jobs[job](worker), len(jobs))
        pool.run(self._heavy_rows, self._heavy)
        self._sums[-1, 0] += self._loss_of_heavy(pool)
        return self._sums.sum(axis=0)

    def _scratch(self, worker: int, make: Callable[..., Any], *sizes: int) -> Any:
        """That of the worker's last block if it serves: making one takes as long as solving hundreds of short rows."""
        wanted = make, sizes
        if self._kept.get(worker, (None,))[0] != wanted:
            self._kept[worker] = wanted, make(*sizes, self._X.dtype)
        return self._kept[worker][1]

    def _primal_scratch(self, worker: int) -> Any:
        return self._scratch(worker, als_primal.primal_scratch, self._X.shape[1])

    def _segment(self, part: int, worker: int) -> None:
        """The system of a piece of a heavy row."""
        _, start, stop = self._side.heavy.cells[part]
        csr, Y, _, weights, shift = self._given
        block = 0, np.empty(0, Y.dtype), 0
        place = start, stop, self._primal_scratch(worker), *self._parts, part
        als_primal.segment_system(csr, Y, weights, shift, block, *place)

    def _primal(self, block: int, worker: int) -> None:
        place = self._side.order, *self._rows[block], self._limits, self._primal_scratch(worker)
        als_primal.primal_rows(*self._given, *place, self._X, self._status, self._sums[block])

    def _dual(self, block: int, worker: int) -> None:
        side, (lo, hi) = self._side, self._rows[block]
        last = side.order[hi - 1]
        longest = int(side.csr[0][last + 1] - side.csr[0][last]) + 3
        mine = self._scratch(worker, als_dual.dual_scratch, -(-longest // 4) * 4, self._X.shape[1])
        place = side.order, lo, hi, self._limits, mine
        als_dual.dual_rows(*self._given, *place, self._X, self._status, self._sums[block])

    def _step(self, block: int, worker: int) -> None:
        own = self._sums[len(self._rows) + block]
        step_block(self._side, block, self._given, self._limits, self._X, self._status, own)

    def _heavy_rows(self, block: int, worker: int) -> None:
        """Heavy rows from the systems of their pieces."""
        heavy = self._side.heavy
        lo, hi = block * LANES, min((block + 1) * LANES, len(heavy.rows))
        place = heavy.rows, lo, hi, self._limits, self._primal_scratch(worker), self._parts, heavy.first
        own = self._X, self._status, self._sums[-1 - self._heavy + block], self._unmeasured
        als_primal.heavy_rows(*self._given, *place, *own)

    def _loss_of_heavy(self, pool: Pool) -> float:
        """Σ c(p − s)² − α₀s² over the cells of the unmeasured heavy rows, LOSS_CELLS a block."""
        (indptr, *_), Y, _, weights, shift = self._given
        rows = self._side.heavy.rows[self._unmeasured > 0]
        cells = [(u, start, indptr[u + 1]) for u in rows for start in range(indptr[u], indptr[u + 1], LOSS_CELLS)]
        losses = np.empty(len(cells))

        def work(part: int, worker: int) -> None:
            u, start, end = cells[part]
            place = start, min(start + LOSS_CELLS, end), self._X, u
            losses[part] = als_primal.segment_loss(self._side.csr, Y, weights, shift, *place)

        pool.run(work, len(cells))
        return float(losses.sum())
