"""What the tasks of a distributed half-sweep compute: pure functions of arrays, with the kernels of `als`.

A shard is a range of rows of X with its transpose. Users are solved within a shard. Items are solved from the sums of
the shards' shares of their normal equations, by blocks of items.
"""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp

from lfm_np.fingerprint import fingerprint
from lfm_np.half_sweep import (
    PIVOT_LOSS,
    Fixed,
    gram_matrix,
    minimised_by_eigenvalues,
    prepare_fixed,
    singular,
    solve_rows,
)
from lfm_np.kernels.als_primal import CANCELLED, primal_scratch
from lfm_np.kernels.als_rows import OK, aligned
from lfm_np.kernels.als_shares import row_shares, solve_shares
from lfm_np.kernels.jit import Pool, single_threaded_blas
from lfm_np.problem import Problem, narrow
from lfm_np.row_plan import Side, plan_side, primal_cost
from lfm_np.validation import frozen, share_csr

TASK_NS = 400e3  # estimated nanoseconds of the rows that a thread of a task takes at once
_LINE = 64  # bytes


class Shard(NamedTuple):
    """Rows of X."""

    users: Side
    transpose: tuple[np.ndarray, np.ndarray, np.ndarray]  # indptr, indices (rows of the shard), data


class Share(NamedTuple):
    """A part of the normal equations of a block of items, as `als_shares` has it."""

    A: np.ndarray
    b: np.ndarray
    energy: np.ndarray


class Users(NamedTuple):
    """The solved rows of a shard, and their sums."""

    U: np.ndarray  # (rows, ld)
    gram: np.ndarray  # UᵀU, float64; empty where no cell beside Ω has a weight
    loss: float
    penalty: float


class Items(NamedTuple):
    """The solved items of a block."""

    V: np.ndarray  # (items, ld)
    flagged: np.ndarray  # places of those that float32 could not solve, or whose loss it could not sum
    loss: np.ndarray  # of every item, float64
    penalty: np.ndarray


class FixedItems(NamedTuple):
    """The fixed items as the shards take them."""

    fixed: Fixed
    bias: np.ndarray  # of every item, or empty


def settled(value: Any) -> Any:
    """The same with every array read-only, contiguous and aligned.

    An array that came from another process may be none of these, which is another type to Numba: a second compile.
    """
    if isinstance(value, np.ndarray):
        if value.ndim == 2 and value.ctypes.data % _LINE:
            copy = aligned(value.shape, value.dtype)
            copy[:] = value
            value = copy
        return frozen(np.require(value, requirements=["C", "A"]))
    if isinstance(value, tuple):
        parts = map(settled, value)
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return replace(
            value, **{field.name: settled(getattr(value, field.name)) for field in dataclasses.fields(value)}
        )
    return value


# ---- shards ---------------------------------------------------------------------------------------------------------


def make_shard(problem: Problem, X: sp.csr_array, first: int, shards: int) -> Shard:
    """The shard of the rows X, which begin at row ``first`` of the whole matrix, planned by itself."""
    X = narrow(X)
    parts = X.indptr, X.indices, X.data
    lam = problem.row_regularization(np.diff(X.indptr), X.shape[1])
    side = plan_side(parts, lam, problem.weights, problem.factors + problem.biases, X.shape[1] // shards)
    transpose = narrow(X.T.tocsr())
    indptr = transpose.indptr.astype(np.int64, copy=False)
    return Shard(replace(side, first=first), settled((indptr, transpose.indices, transpose.data)))


def plan_again(problem: Problem, shard: Shard, rotate: bool) -> Shard:
    """The shard with the basis of the fixed items that all shards share."""
    fixed_rows = 0 if rotate else np.iinfo(np.int64).max
    users = plan_side(shard.users.csr, shard.users.lam, problem.weights, shard.users.k, fixed_rows)
    return shard._replace(users=replace(users, first=shard.users.first, rotate=rotate))


class Summary(NamedTuple):
    """What the whole matrix is known by."""

    rows: int
    counts: np.ndarray  # (n,) cells of every item
    total: float  # of the values
    rotates: bool


def summary_of(shard: Shard) -> Summary:
    data = shard.users.csr[2]
    counts = np.diff(shard.transpose[0])
    return Summary(shard.users.rows, counts, float(data.sum(dtype=np.float64)), shard.users.rotate)


def fingerprint_of(shard: Shard) -> str:
    indptr, indices, data = shard.users.csr
    return fingerprint(share_csr(data, indices, indptr, (shard.users.rows, len(shard.transpose[0]) - 1)))


# ---- users ----------------------------------------------------------------------------------------------------------


def fix_items(problem: Problem, blocks: list[np.ndarray], rotate: bool, threads: int) -> FixedItems:
    """The item factors of all blocks, with what every shard would compute of them."""
    V = aligned((sum(map(len, blocks)), problem.columns), blocks[0].dtype)
    np.concatenate(blocks, out=V)
    bias = _bias_taken(problem, V)
    with Pool(threads) as pool:
        fixed = prepare_fixed(rotate, V, V, problem.weights, problem.factors + problem.biases, pool)
    return FixedItems(fixed, bias)


def _bias_taken(problem: Problem, Y: np.ndarray) -> np.ndarray:
    """The biases that Y holds in a column, which becomes one of ones; empty where there are none."""
    if not problem.biases:
        return np.empty(0, Y.dtype)
    bias = Y[:, problem.factors].copy()
    Y[:, problem.factors] = 1
    return bias


def solve_users(problem: Problem, shard: Shard, items: FixedItems, mean: float, threads: int) -> Users:
    """Every row of a shard from the fixed items."""
    shard, items = settled(shard), settled(items)
    U = aligned((shard.users.rows, problem.columns), problem.X.dtype)
    shift = frozen(items.bias + U.dtype.type(mean))
    with Pool(threads) as pool:
        loss, penalty = solve_rows(shard.users, items.fixed, problem.weights, shift, U, pool)
        gram = gram_matrix(U, pool) if problem.weights.a0 else np.empty((0, 0))
    return Users(U, gram, loss, penalty)


def sums_of(users: Users) -> Users:
    """Without the rows, so that only these stay where they are."""
    return users._replace(U=users.U[:0])


def same(value: Any) -> Any:
    return value


def rotated_rows(
    users: Users, basis: np.ndarray, biases: bool, path: str | None, first: int
) -> tuple[np.ndarray, np.ndarray]:
    """A shard's rows in another basis, in a file from row ``first`` on if there is one, and their biases if any."""
    k = len(basis)
    with single_threaded_blas():
        rows = users.U[:, :k] @ basis
    if path is not None:
        whole = np.lib.format.open_memmap(path, "r+")
        whole[first : first + len(rows)] = rows
        whole.flush()
        rows = rows[:0]
    return rows, users.U[:, k].copy() if biases else rows[:0, 0]


# ---- items ----------------------------------------------------------------------------------------------------------


def share_of(problem: Problem, shard: Shard, users: Users, items: tuple[int, int], mean: float, threads: int) -> Share:
    """The shard's part of the normal equations of the items lo … hi − 1."""
    indptr, indices, data = settled(shard.transpose)
    lo, hi = items
    return _share(problem, (frozen(indptr[lo : hi + 1]), indices, data), settled(users.U), mean, threads)


def wide_share_of(problem: Problem, shard: Shard, users: Users, items: np.ndarray, mean: float) -> Share:
    """The shard's part of the normal equations of some items, in float64."""
    indptr, indices, data = shard.transpose
    some = sp.csr_array((data, indices, indptr), shape=(len(indptr) - 1, len(users.U)))[items]
    csr = some.indptr.astype(np.int64), narrow(some).indices, some.data.astype(np.float64)
    return _share(problem, settled(csr), settled(users.U.astype(np.float64)), mean, 1)


def _share(problem: Problem, csr: tuple[np.ndarray, ...], U: np.ndarray, mean: float, threads: int) -> Share:
    rows, width, dtype, ld = len(csr[0]) - 1, problem.factors + problem.biases, U.dtype, U.shape[1]
    if problem.biases:
        U = U.copy()
    shift = frozen(_bias_taken(problem, U) + (dtype.type(mean) if problem.biases else 0))
    share = Share(np.empty((rows, width * (width + 1) // 2), dtype), np.empty((rows, width), dtype), np.empty(rows))
    cost = np.cumsum(primal_cost(np.diff(csr[0]), ld))
    pieces = max(1, int(cost[-1] / TASK_NS)) if rows else 0
    edges = np.concatenate(([0], np.searchsorted(cost, np.arange(1, pieces) * cost[-1] / pieces), [rows]))

    def work(block: int, worker: int) -> None:
        place = int(edges[block]), int(edges[block + 1]), primal_scratch(ld, dtype)
        row_shares(csr, frozen(U), tuple(problem.weights), shift, *place, *share)

    with Pool(threads) as pool:
        pool.run(work, pieces)
    return share


def add_shares(shares: list[Share]) -> Share:
    """Their sum in the order given, carried in float64."""
    A, b, energy = (sum(parts[1:], parts[0].astype(np.float64)) for parts in zip(*shares))
    dtype = shares[0].A.dtype
    return Share(A.astype(dtype), b.astype(dtype), energy)


def solve_items(problem: Problem, users: list[Users], shares: list[Share], lam: np.ndarray, threads: int) -> Items:
    """The items of a block from the shares of all shards; where the loss is rounding error, or the system too
    ill-conditioned, the item is flagged."""
    share = settled(add_shares(shares))
    V, status, loss, penalty = _solve(problem, users, share, lam, threads)
    flagged = (status != OK) | (loss < CANCELLED * share.energy)
    return Items(V, np.flatnonzero(flagged & (share.energy > 0)), loss, penalty)


def solve_items_again(
    problem: Problem, users: list[Users], shares: list[Share], lam: np.ndarray, items: np.ndarray
) -> Items:
    """Some items, whose shares are float64; by the eigenvalues of a system that is too ill-conditioned for that.

    Raises
    ------
    SolverError
        λ_i = 0 and an item's system is singular.
    """
    share = settled(add_shares(shares))
    lam = lam.astype(np.float64)
    V, status, loss, penalty = _solve(problem, users, share, lam, 1)
    G = _padded_gram(problem, users, np.float64)
    for place in np.flatnonzero(status != OK).tolist():
        A, b = _unpacked(share, place, problem.columns)
        A += G + lam[place] * np.eye(len(A))
        if not minimised_by_eigenvalues(A, b, lam[place], V[place]):
            raise singular("column", items[place], int(np.count_nonzero(status != OK)))
        x = V[place]
        loss[place] = share.energy[place] - b @ x - x @ (b - A @ x)
        penalty[place] = lam[place] * (x @ x)
    return Items(V.astype(problem.X.dtype), np.empty(0, np.int64), loss, penalty)


def patched(items: Items, again: Items) -> Items:
    """A block with its flagged items replaced."""
    V, loss, penalty = aligned(items.V.shape, items.V.dtype), items.loss.copy(), items.penalty.copy()
    V[:] = items.V
    for whole, part in ((V, again.V), (loss, again.loss), (penalty, again.penalty)):
        whole[items.flagged] = part
    return Items(V, items.flagged[:0], loss, penalty)


def found_of(items: Items) -> Items:
    """Without the factors, so that only these stay where they are."""
    return items._replace(V=items.V[:0])


def factors_of(items: Items) -> np.ndarray:
    return items.V


def _solve(
    problem: Problem, users: list[Users], share: Share, lam: np.ndarray, threads: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    rows, dtype, ld = len(share.b), share.b.dtype, problem.columns
    V, status = aligned((rows, ld), dtype), np.empty(rows, np.uint8)
    loss, penalty = np.empty(rows), np.empty(rows)
    empty = share.energy == 0  # the solution is zero, whatever the system
    model = frozen(_padded_gram(problem, users, dtype)), frozen(np.where(empty, dtype.type(1), lam))
    limit = PIVOT_LOSS / float(np.finfo(dtype).eps)
    step = max(8, int(TASK_NS / primal_cost(np.zeros(1), ld)[0]) // 8 * 8)

    def work(block: int, worker: int) -> None:
        place = block * step, min((block + 1) * step, rows)
        solve_shares(model, limit, *place, primal_scratch(ld, dtype), tuple(share), V, status, loss, penalty)

    with Pool(threads) as pool:
        pool.run(work, -(-rows // step))
    V[empty], status[empty], loss[empty], penalty[empty] = 0, OK, 0, 0
    return V, status, loss, penalty


def _padded_gram(problem: Problem, users: list[Users], dtype: Any) -> np.ndarray:
    """α₀UᵀU, with the identity on the padding."""
    G, width = np.zeros((problem.columns, problem.columns)), problem.factors + problem.biases
    if problem.weights.a0:
        G[:width, :width] = problem.weights.a0 * np.sum([part.gram for part in users], axis=0)[:width, :width]
    G[range(width, len(G)), range(width, len(G))] = 1
    return G.astype(dtype)


def _unpacked(share: Share, place: int, ld: int) -> tuple[np.ndarray, np.ndarray]:
    width = share.b.shape[1]
    A, b = np.zeros((ld, ld)), np.zeros(ld)
    A[np.triu_indices(width)] = share.A[place]
    b[:width] = share.b[place]
    return A + np.triu(A, 1).T, b
