"""What the tasks of a distributed half-sweep compute: pure functions of arrays, with the kernels of `als`.

A shard is a range of rows of X with its transpose. Users are solved within a shard. Items are solved from the sums of
the shards' shares of their normal equations, by blocks of items.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp

from lfm_np.distributed.spare import Spare
from lfm_np.fingerprint import fingerprint
from lfm_np.half_sweep import (
    PIVOT_LOSS,
    Fixed,
    gram_matrix,
    minimised_by_eigenvalues,
    prepare_fixed,
    rotated,
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

ADDED = 1 << 16  # numbers of a share that are added at once: half a megabyte in float64
TASK_NS = 400e3  # estimated nanoseconds of the rows that a thread of a task takes at once
_LINE = 64  # bytes


class Shard(NamedTuple):
    """Rows of X."""

    users: Side
    transpose: tuple[np.ndarray, np.ndarray, np.ndarray]  # indptr, indices (rows of the shard), data
    spare: Spare  # for the results of every sweep


class Users(NamedTuple):
    """The solved rows of a shard, and their sums."""

    U: np.ndarray  # (rows, ld)
    gram: np.ndarray  # UᵀU, float64; empty where no cell beside Ω has a weight
    loss: float
    penalty: float
    basis: np.ndarray | None  # (ld, ld) in which U is, seen from V; None if in the same


class Share(NamedTuple):
    """A part of the normal equations of a block of items, as `als_shares` has it."""

    A: np.ndarray
    b: np.ndarray
    energy: np.ndarray
    users: list[Users]  # the sums of the shards that are in it


class Items(NamedTuple):
    """The solved items of a block."""

    V: np.ndarray  # (items, ld)
    unsolved: np.ndarray  # places of those that float32 could not solve
    loss: np.ndarray  # of every item, float64
    energy: np.ndarray  # Σ c·p² of every item, from which the loss is left
    penalty: np.ndarray
    users: tuple[float, float]  # loss and penalty of all users


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
    return Shard(replace(side, first=first), settled((indptr, transpose.indices, transpose.data)), Spare())


def plan_again(problem: Problem, shard: Shard, rotate: bool, gathers: bool) -> Shard:
    """The shard with the basis of the fixed items that all shards share, and without a transpose that none needs."""
    fixed_rows = 0 if rotate else np.iinfo(np.int64).max
    users = plan_side(shard.users.csr, shard.users.lam, problem.weights, shard.users.k, fixed_rows)
    indptr, indices, data = shard.transpose
    transpose = (indptr, indices[:0].copy(), data[:0].copy()) if gathers else shard.transpose
    return shard._replace(users=replace(users, first=shard.users.first, rotate=rotate), transpose=transpose)


class ItemShard(NamedTuple):
    """Columns of X, with the cells of all shards."""

    items: Side
    spare: Spare


def columns_of(shard: Shard, items: tuple[int, int]) -> sp.csr_array:
    """The shard's cells of the items lo … hi − 1: a row each."""
    indptr, indices, data = shard.transpose
    cells = slice(int(indptr[items[0]]), int(indptr[items[1]]))
    own = indptr[items[0] : items[1] + 1] - indptr[items[0]]
    return sp.csr_array((data[cells], indices[cells], own), shape=(len(own) - 1, shard.users.rows))


def item_shard(problem: Problem, columns: list[sp.csr_array], lam: np.ndarray, first: int) -> ItemShard:
    """The items whose cells these are."""
    X = narrow(sp.csr_array(sp.hstack(columns, "csr")))
    csr = settled((X.indptr.astype(np.int64), X.indices, X.data))
    side = plan_side(csr, lam, problem.weights, problem.factors + problem.biases, X.shape[1])
    return ItemShard(replace(side, first=first, noun="column"), Spare())


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


def fix_items(problem: Problem, blocks: list[Items], rotate: bool, threads: int) -> FixedItems:
    """The item factors of all blocks, with what every shard would compute of them."""
    V = aligned((sum(len(block.V) for block in blocks), problem.columns), problem.X.dtype)
    np.concatenate([block.V for block in blocks], out=V)
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
    U = shard.spare.array((shard.users.rows, problem.columns), problem.X.dtype)
    shift = frozen(items.bias + U.dtype.type(mean))
    with Pool(threads) as pool:
        loss, penalty = solve_rows(shard.users, items.fixed, problem.weights, shift, U, pool)
        gram = gram_matrix(U, pool) if problem.weights.a0 else np.empty((0, 0))
    return Users(U, gram, loss, penalty, items.fixed.basis)


def rotated_rows(
    users: Users, basis: np.ndarray, biases: bool, path: str | None, first: int
) -> tuple[np.ndarray, np.ndarray]:
    """A shard's rows in another basis, in a file from row ``first`` on if there is one, and their biases if any."""
    k = len(basis)
    with single_threaded_blas():
        if users.basis is not None:
            basis = (users.basis[:k, :k].T @ basis).astype(basis.dtype)
        rows = users.U[:, :k] @ basis
    if path is not None:
        whole = np.lib.format.open_memmap(path, "r+")
        whole[first : first + len(rows)] = rows
        whole.flush()
        rows = rows[:0]
    return rows, users.U[:, k].copy() if biases else rows[:0, 0]


# ---- items ----------------------------------------------------------------------------------------------------------


def items_of(V: np.ndarray) -> Items:
    """Items that were not solved just now."""
    loss, energy, penalty = np.zeros((3, len(V)))
    return Items(V, np.empty(0, np.int64), loss, energy, penalty, (0.0, 0.0))


def share_of(problem: Problem, shard: Shard, users: Users, items: tuple[int, int], mean: float, threads: int) -> Share:
    """The shard's part of the normal equations of the items lo … hi − 1."""
    indptr, indices, data = settled(shard.transpose)
    lo, hi = items
    csr = frozen(indptr[lo : hi + 1]), indices, data
    return _share(problem, csr, users, mean, threads, shard.spare)


def solve_item_rows(problem: Problem, shard: ItemShard, users: list[Users], mean: float, threads: int) -> Items:
    """The items of a shard from the users of all."""
    side, spare, users = settled(shard.items), shard.spare, settled(tuple(users))
    U = spare.array((sum(len(part.U) for part in users), problem.columns), problem.X.dtype)
    np.concatenate([part.U for part in users], out=U)
    bias, V = _bias_taken(problem, U), aligned((side.rows, problem.columns), U.dtype)
    shift, products = frozen(bias + U.dtype.type(mean)), np.sum([part.gram for part in users], axis=0)
    with Pool(threads) as pool:
        weights, k = problem.weights, problem.factors + problem.biases
        fixed = prepare_fixed(side.rotate, U, U, weights, k, pool, products)
        loss, penalty = solve_rows(side, fixed, weights, shift, V, pool)
    _rotate_back(V, fixed.basis)
    _rotate_back(V, users[0].basis)
    items = items_of(V)
    return items._replace(loss=np.array([loss]), penalty=np.array([penalty]), energy=np.zeros(1), users=_sums(users))


def wide_share_of(problem: Problem, shard: Shard, users: Users, items: np.ndarray, mean: float) -> Share:
    """The shard's part of the normal equations of some items, in float64."""
    indptr, indices, data = shard.transpose
    some = sp.csr_array((data, indices, indptr), shape=(len(indptr) - 1, len(users.U)))[items]
    rows, own = np.unique(some.indices, return_inverse=True)  # not all of U, which is much more than these need
    csr = some.indptr.astype(np.int64), own.astype(np.int32), some.data.astype(np.float64)
    return _share(problem, settled(csr), users._replace(U=users.U[rows].astype(np.float64)), mean, 1, Spare())


def _share(
    problem: Problem, csr: tuple[np.ndarray, ...], users: Users, mean: float, threads: int, spare: Spare
) -> Share:
    U = settled(users.U)
    rows, width, dtype, ld = len(csr[0]) - 1, problem.factors + problem.biases, U.dtype, U.shape[1]
    if problem.biases:
        U = U.copy()
    shift = frozen(_bias_taken(problem, U) + (dtype.type(mean) if problem.biases else 0))
    A, b = spare.array((rows, width * (width + 1) // 2), dtype), spare.array((rows, width), dtype)
    energy, sums = np.empty(rows), users._replace(U=np.empty((0, ld), dtype))
    cost = np.cumsum(primal_cost(np.diff(csr[0]), ld))
    pieces = max(1, int(cost[-1] / TASK_NS)) if rows else 0
    edges = np.concatenate(([0], np.searchsorted(cost, np.arange(1, pieces) * cost[-1] / pieces), [rows]))

    def work(block: int, worker: int) -> None:
        place = int(edges[block]), int(edges[block + 1]), primal_scratch(ld, dtype)
        row_shares(csr, frozen(U), tuple(problem.weights), shift, *place, A, b, energy)

    with Pool(threads) as pool:
        pool.run(work, pieces)
    return Share(A, b, energy, [sums])


def add_shares(shares: list[Share]) -> Share:
    """Their sum in the order given, carried in float64."""
    A, b, energy = total = [aligned(part.shape, part.dtype) for part in (shares[0].A, shares[0].b, shares[0].energy)]
    step = max(1, ADDED // max(1, A.shape[1]))
    for lo in range(0, len(b), step):
        rows = slice(lo, lo + step)
        for out, part in zip(total, _summed(shares, rows)):
            out[rows] = part
    return Share(A, b, energy, _users(shares))


def _users(shares: list[Share]) -> list[Users]:
    return [users for share in shares for users in share.users]


def _sums(users: Sequence[Users]) -> tuple[float, float]:
    """Loss and penalty of all."""
    return sum(part.loss for part in users), sum(part.penalty for part in users)


def _summed(shares: list[Share], rows: slice) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Some rows of the sum: few enough to stay in the cache, where float64 costs no memory traffic."""

    def total(parts: list[np.ndarray]) -> np.ndarray:
        added = parts[0][rows].astype(np.float64)
        for part in parts[1:]:
            added += part[rows]
        return added.astype(parts[0].dtype, copy=False)

    A, b, energy = (total([getattr(share, name) for share in shares]) for name in ("A", "b", "energy"))
    return A, b, energy


def solve_items(problem: Problem, shares: list[Share], lam: np.ndarray, threads: int) -> Items:
    """The items of a block from the shares of all shards."""
    items, status = _solve(problem, shares, lam, threads)
    _rotate_back(items.V, shares[0].users[0].basis)
    return items._replace(unsolved=np.flatnonzero(status != OK))


def to_solve_again(blocks: list[Items]) -> list[np.ndarray]:
    """Places of the items of every block that need float64.

    Rounding leaves few digits of a loss that is a small rest of Σ c·p². Beside the losses of the others that is no harm
    to their sum, which is what a sweep reports: such items are solved again only where the sum would lose digits too.
    """
    doubtful = [items.loss < CANCELLED * items.energy for items in blocks]
    for items, places in zip(blocks, doubtful):
        places[items.unsolved] = False
    lost = sum(float(items.energy[places].sum()) for items, places in zip(blocks, doubtful))
    known = sum(
        float(np.delete(items.loss, np.concatenate((np.flatnonzero(places), items.unsolved))).sum())
        for items, places in zip(blocks, doubtful)
    )
    harmful = known < CANCELLED * lost
    return [
        np.union1d(items.unsolved, np.flatnonzero(places)) if harmful else items.unsolved
        for items, places in zip(blocks, doubtful)
    ]


def solve_items_again(problem: Problem, shares: list[Share], lam: np.ndarray, items: np.ndarray) -> Items:
    """Some items, whose shares are float64; by the eigenvalues of a system that is too ill-conditioned for that.

    Raises
    ------
    SolverError
        λ_i = 0 and an item's system is singular.
    """
    lam = lam.astype(np.float64)
    found, status = _solve(problem, shares, lam, 1)
    V, loss, penalty = found.V, found.loss, found.penalty
    G = _padded_gram(problem, _users(shares), np.float64)
    for place in np.flatnonzero(status != OK).tolist():
        A, b = _unpacked(_summed(shares, slice(place, place + 1)), problem.columns)
        A += G + lam[place] * np.eye(len(A))
        if not minimised_by_eigenvalues(A, b, lam[place], V[place]):
            raise singular("column", items[place], int(np.count_nonzero(status != OK)))
        x = V[place]
        loss[place] = found.energy[place] - b @ x - x @ (b - A @ x)
        penalty[place] = lam[place] * (x @ x)
    V = V.astype(problem.X.dtype)
    _rotate_back(V, shares[0].users[0].basis)
    return found._replace(V=V)


def _rotate_back(V: np.ndarray, basis: np.ndarray | None) -> None:
    """To the basis of the items before, on which all agree.

    That of a sweep, computed again on another machine, may differ by much where eigenvalues lie close together.
    """
    if basis is not None:
        with Pool(1) as pool:
            rotated(V, basis.T, V, pool)


def patched(items: Items, again: Items, places: np.ndarray) -> Items:
    """A block with some items replaced."""
    V = aligned(items.V.shape, items.V.dtype)
    V[:] = items.V
    whole = Items(V, items.unsolved[:0], items.loss.copy(), items.energy, items.penalty.copy(), items.users)
    for name in ("V", "loss", "penalty"):
        getattr(whole, name)[places] = getattr(again, name)
    return whole


def found_of(items: Items) -> Items:
    """Without the factors, so that only these stay where they are."""
    return items._replace(V=np.empty((0, 0)))


def _solve(problem: Problem, shares: list[Share], lam: np.ndarray, threads: int) -> tuple[Items, np.ndarray]:
    """The items from the sum of their shares, and the status of each."""
    rows, dtype, ld, users = len(shares[0].b), shares[0].b.dtype, problem.columns, _users(shares)
    status, sums = np.empty(rows, np.uint8), _sums(users)
    loss, energy, penalty = np.empty((3, rows))
    items = Items(aligned((rows, ld), dtype), np.empty(0, np.int64), loss, energy, penalty, sums)
    G, limit = frozen(_padded_gram(problem, users, dtype)), PIVOT_LOSS / float(np.finfo(dtype).eps)
    step = max(8, int(TASK_NS / primal_cost(np.zeros(1), ld)[0]) // 8 * 8)

    def work(block: int, worker: int) -> None:
        part = slice(block * step, (block + 1) * step)
        share = settled(_summed(shares, part))
        energy = share[2]
        count, empty = len(energy), energy == 0  # the solution is zero, whatever the system
        model = G, frozen(np.where(empty, dtype.type(1), lam[part]))
        V, loss, penalty = items.V[part], items.loss[part], items.penalty[part]
        solve_shares(model, limit, 0, count, primal_scratch(ld, dtype), share, V, status[part], loss, penalty)
        V[empty], status[part][empty], loss[empty], penalty[empty] = 0, OK, 0, 0
        items.energy[part] = energy

    with Pool(threads) as pool:
        pool.run(work, -(-rows // step))
    return items, status


def _padded_gram(problem: Problem, users: list[Users], dtype: Any) -> np.ndarray:
    """α₀UᵀU, with the identity on the padding."""
    G, width = np.zeros((problem.columns, problem.columns)), problem.factors + problem.biases
    if problem.weights.a0:
        G[:width, :width] = problem.weights.a0 * np.sum([part.gram for part in users], axis=0)[:width, :width]
    G[range(width, len(G)), range(width, len(G))] = 1
    return G.astype(dtype)


def _unpacked(share: tuple[np.ndarray, ...], ld: int) -> tuple[np.ndarray, np.ndarray]:
    """The system of one item."""
    width = share[1].shape[1]
    A, b = np.zeros((ld, ld)), np.zeros(ld)
    A[np.triu_indices(width)] = share[0][0]
    b[:width] = share[1][0]
    return A + np.triu(A, 1).T, b
