"""What the tasks of a distributed half-sweep compute: pure functions of arrays, with the kernels of `als`.

A shard is a range of rows of X with its transpose. Users are solved within a shard. Items are solved here where the
users of all shards are gathered; elsewhere from sums of their normal equations (`lfm_np.distributed.equations`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp
from dask.sizeof import sizeof

from lfm_np.distributed.spare import Spare
from lfm_np.fingerprint import fingerprint
from lfm_np.half_sweep import Fixed, fixed_gram, gram_matrix, rotated, solve_rows
from lfm_np.kernels.als_rows import aligned
from lfm_np.kernels.jit import Pool, single_threaded_blas
from lfm_np.problem import Problem, narrow
from lfm_np.quiet import quietly
from lfm_np.row_plan import NEVER, Side, plan_side
from lfm_np.validation import frozen, share_csr

_LINE = 64  # bytes


class Shard(NamedTuple):
    """Rows of X."""

    users: Side
    transpose: tuple[np.ndarray, np.ndarray, np.ndarray]  # indptr, indices (rows of the shard), data
    spare: Spare  # for the results of every sweep


class Users(NamedTuple):
    """The solved rows of a shard, and their sums."""

    U: np.ndarray  # (rows, ld)
    gram: np.ndarray  # as `gram_of`
    loss: float
    penalty: float
    basis: np.ndarray | None  # (ld, ld) in which U is, seen from V; None if in the same


class Items(NamedTuple):
    """The solved items of a block."""

    V: np.ndarray  # (items, ld)
    gram: np.ndarray  # as `gram_of`
    unsolved: np.ndarray  # places of those that float32 could not solve
    loss: np.ndarray  # of every item, float64
    energy: np.ndarray  # Σ c·p² of every item, from which the loss is left
    penalty: np.ndarray
    users: tuple[float, float]  # loss and penalty of all users
    fixed: Fixed | None = None  # without rows, as `fix_items`; of a block of all items


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


def array_bytes(value: Any) -> int:
    """Bytes of all arrays in it."""
    if isinstance(value, np.ndarray):
        return value.nbytes
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = tuple(getattr(value, field.name) for field in dataclasses.fields(value))
    return sum(map(array_bytes, value)) if isinstance(value, (tuple, list)) else 0


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
    fixed_rows = 0 if rotate else NEVER
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


for _kept in (Shard, ItemShard):  # dask cannot see into a `Side`, and would rather move a shard than what it needs
    sizeof.register(_kept, array_bytes)


class Summary(NamedTuple):
    """What the whole matrix is known by."""

    rows: int
    counts: np.ndarray  # (n,) cells of every item
    total: float  # of the values
    rotates: bool


def summary_of(shard: Shard) -> Summary:
    data = shard.users.csr[2]
    counts = np.diff(shard.transpose[0])
    return Summary(shard.users.rows, counts, float(quietly(data.sum, dtype=np.float64)), shard.users.rotate)


def fingerprint_of(shard: Shard) -> str:
    indptr, indices, data = shard.users.csr
    return fingerprint(share_csr(data, indices, indptr, (shard.users.rows, len(shard.transpose[0]) - 1)))


# ---- users ----------------------------------------------------------------------------------------------------------


def fix_items(problem: Problem, found: list[Items], rotate: bool) -> Fixed:
    """What every shard would compute of the Gram matrices of all blocks of items; without rows."""
    gram = np.sum([block.gram for block in found], axis=0)
    with single_threaded_blas():
        return fixed_gram(rotate, gram, problem.weights, problem.factors + problem.biases, problem.X.dtype)


def solve_users(
    problem: Problem, shard: Shard, items: list[Items], fixed: Fixed | None, mean: float, threads: int
) -> Users:
    """Every row of a shard from all items; if nobody has found ``fixed``, in a basis that may be the shard's alone."""
    shard = settled(shard)
    found = items[0].fixed if fixed is None else fixed
    fixed = fix_items(problem, items, shard.users.rotate) if found is None else settled(found)
    U = shard.spare.array((shard.users.rows, problem.columns), problem.X.dtype)
    with Pool(threads) as pool:
        fixed, shift = together(problem, fixed, [(block.V, None) for block in items], mean, shard.spare, pool)
        loss, penalty = solve_rows(shard.users, fixed, problem.weights, shift, U, pool)
        return Users(U, gram_of(problem, U, pool), loss, penalty, fixed.basis)


def together(
    problem: Problem,
    fixed: Fixed,
    parts: list[tuple[np.ndarray, np.ndarray | None]],
    mean: float,
    spare: Spare,
    pool: Pool,
) -> tuple[Fixed, np.ndarray]:
    """The fixed side with the rows of all parts, turned from theirs to its basis; what the targets are shifted by."""
    Y = spare.array((sum(len(part) for part, _ in parts), problem.columns), problem.X.dtype)
    first = 0
    for part, basis in parts:
        rows = Y[first : first + len(part)]
        turn = turn_between(basis, fixed.basis)
        if turn is None:
            rows[:] = part
        else:
            rotated(part, turn, rows, pool)
        first += len(part)
    bias = bias_taken(problem, Y)
    return fixed._replace(Y=frozen(Y)), frozen(bias + Y.dtype.type(mean))


def turn_between(basis: np.ndarray | None, other: np.ndarray | None) -> np.ndarray | None:
    """What turns rows in one basis to those in the other; None if both are that of V."""
    if basis is None:
        return other
    return basis.T if other is None else basis.T @ other


def gram_of(problem: Problem, Y: np.ndarray, pool: Pool) -> np.ndarray:
    """YᵀY (ld × ld, float64); zeros, which nobody looks at, where no cell beside Ω has a weight."""
    return gram_matrix(Y, pool) if problem.weights.a0 else np.zeros((Y.shape[1], Y.shape[1]))


def bias_taken(problem: Problem, Y: np.ndarray) -> np.ndarray:
    """The biases that Y holds in a column, which becomes one of ones; empty where there are none."""
    if not problem.biases:
        return np.empty(0, Y.dtype)
    bias = Y[:, problem.factors].copy()
    Y[:, problem.factors] = 1
    return bias


def rotated_rows(
    users: Users, basis: np.ndarray, biases: bool, path: str | None, first: int
) -> tuple[np.ndarray, np.ndarray]:
    """A shard's rows in another basis, in a file from row ``first`` on if there is one, and their biases if any."""
    k = len(basis)
    with single_threaded_blas():
        own = None if users.basis is None else users.basis[:k, :k]
        rows = users.U[:, :k] @ np.asarray(turn_between(own, basis), basis.dtype)
    if path is not None:
        whole = np.lib.format.open_memmap(path, "r+")
        whole[first : first + len(rows)] = rows
        whole.flush()
        rows = rows[:0]
    return rows, users.U[:, k].copy() if biases else rows[:0, 0]


# ---- items ----------------------------------------------------------------------------------------------------------


def items_of(problem: Problem, V: np.ndarray) -> Items:
    """Items that were not solved just now."""
    loss, energy, penalty = np.zeros((3, len(V)))
    with Pool(1) as pool:
        return Items(V, gram_of(problem, V, pool), np.empty(0, np.int64), loss, energy, penalty, (0.0, 0.0))


def solve_item_rows(problem: Problem, shard: ItemShard, users: list[Users], mean: float, threads: int) -> Items:
    """The items of a shard from the users of all."""
    side, weights, k, dtype = settled(shard.items), problem.weights, problem.factors + problem.biases, problem.X.dtype
    V = aligned((side.rows, problem.columns), dtype)
    with Pool(threads) as pool:
        grams = [part.gram if part.basis is None else part.basis @ part.gram @ part.basis.T for part in users]
        fixed = fixed_gram(side.rotate, np.sum(grams, axis=0), weights, k, dtype)
        parts = [(part.U, part.basis) for part in users]
        fixed, shift = together(problem, fixed, parts, mean, shard.spare, pool)
        loss, penalty = solve_rows(side, fixed, weights, shift, V, pool)
        rotate_back(V, fixed.basis, pool)
        gram = gram_of(problem, V, pool)
    none, sums = np.zeros(1), sums_of(users)
    return Items(V, gram, np.empty(0, np.int64), np.array([loss]), none, np.array([penalty]), sums)


def sums_of(users: Sequence[Users]) -> tuple[float, float]:
    """Loss and penalty of all."""
    return sum(part.loss for part in users), sum(part.penalty for part in users)


def rotate_back(V: np.ndarray, basis: np.ndarray | None, pool: Pool) -> None:
    """To the basis of the items before, on which all agree.

    That of a sweep, computed again on another machine, may differ by much where eigenvalues lie close together.
    """
    if basis is not None:
        rotated(V, basis.T, V, pool)


def patched(problem: Problem, items: Items, again: Items, places: np.ndarray) -> Items:
    """A block with some items replaced."""
    V = aligned(items.V.shape, items.V.dtype)
    V[:] = items.V
    loss, penalty = items.loss.copy(), items.penalty.copy()
    whole = items._replace(V=V, unsolved=items.unsolved[:0], loss=loss, penalty=penalty, fixed=None)
    for name in ("V", "loss", "penalty"):
        getattr(whole, name)[places] = getattr(again, name)
    with Pool(1) as pool:
        return whole._replace(gram=gram_of(problem, V, pool))


def found_of(items: Items) -> Items:
    """Without the factors, so that only these stay where they are."""
    return items._replace(V=np.empty((0, 0)), fixed=None)
