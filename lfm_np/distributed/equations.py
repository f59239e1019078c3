"""Items from the shards' shares of their normal equations, by blocks of items: the other tasks of a half-sweep."""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp

from lfm_np.distributed.blocks import (
    Items,
    Shard,
    Users,
    bias_taken,
    fix_items,
    gram_of,
    rotate_back,
    settled,
    solve_users,
    sums_of,
)
from lfm_np.distributed.spare import Spare
from lfm_np.half_sweep import PIVOT_LOSS, Fixed, cancelled, gram_in_float64, minimised_by_eigenvalues, singular
from lfm_np.kernels.als_primal import CANCELLED, primal_scratch
from lfm_np.kernels.als_rows import OK, aligned
from lfm_np.kernels.als_shares import row_shares, solve_shares
from lfm_np.kernels.jit import Pool
from lfm_np.problem import Problem
from lfm_np.row_plan import primal_cost
from lfm_np.validation import frozen

ADDED = 1 << 14  # numbers of a share that are added at once: 128 KiB in float64
TASK_NS = 400e3  # estimated nanoseconds of the rows that a thread of a task takes at once


class Share(NamedTuple):
    """A part of the normal equations of a block of items, as `als_shares` has it."""

    A: np.ndarray
    b: np.ndarray
    energy: np.ndarray
    users: list[Users]  # the sums of the shards that are in it


def share_of(problem: Problem, shard: Shard, users: Users, items: tuple[int, int], mean: float, threads: int) -> Share:
    """The shard's part of the normal equations of the items lo … hi − 1."""
    indptr, indices, data = settled(shard.transpose)
    lo, hi = items
    csr = frozen(indptr[lo : hi + 1]), indices, data
    return _share(problem, csr, users, mean, threads, shard.spare)


def share_of_solved(
    problem: Problem,
    shard: Shard,
    V: list[Items],
    fixed: Fixed | None,
    items: tuple[int, int],
    mean: float,
    threads: int,
) -> Share:
    """The same of users that are solved on the way."""
    return share_of(problem, shard, solve_users(problem, shard, V, fixed, mean, threads), items, mean, threads)


def wide_share_of(problem: Problem, shard: Shard, users: Users, items: np.ndarray, mean: float) -> Share:
    """The shard's part of the normal equations of some items, in float64, with such a Gram matrix of its users."""
    indptr, indices, data = shard.transpose
    some = sp.csr_array((data, indices, indptr), shape=(len(indptr) - 1, len(users.U)))[items]
    rows, own = np.unique(some.indices, return_inverse=True)  # not all of U, which is much more than these need
    csr = some.indptr.astype(np.int64), own.astype(np.int32), some.data.astype(np.float64)
    wide = users._replace(U=users.U[rows].astype(np.float64))
    if problem.weights.a0:
        with Pool(1) as pool:
            wide = wide._replace(gram=gram_in_float64(users.U, pool))
    return _share(problem, settled(csr), wide, mean, 1, Spare())


def _share(
    problem: Problem, csr: tuple[np.ndarray, ...], users: Users, mean: float, threads: int, spare: Spare
) -> Share:
    U = settled(users.U)
    rows, width, dtype, ld = len(csr[0]) - 1, problem.factors + problem.biases, U.dtype, U.shape[1]
    if problem.biases:
        U = U.copy()
    shift = frozen(bias_taken(problem, U) + (dtype.type(mean) if problem.biases else 0))
    A, b = spare.array((rows, width * (width + 1) // 2), dtype), spare.array((rows, width), dtype)
    energy, sums = np.empty(rows), users._replace(U=np.empty((0, ld), dtype))
    cost = np.cumsum(primal_cost(np.diff(csr[0]), ld))
    pieces = max(1, int(cost[-1] / TASK_NS)) if rows else 0
    edges = np.concatenate(([0], np.searchsorted(cost, np.arange(1, pieces) * (cost[-1:] / pieces)), [rows]))

    scratch = cache(lambda worker: primal_scratch(ld, dtype))

    def work(block: int, worker: int) -> None:
        place = int(edges[block]), int(edges[block + 1]), scratch(worker)
        row_shares(csr, frozen(U), tuple(problem.weights), shift, *place, A, b, energy)

    with Pool(threads) as pool:
        pool.run(work, pieces)
    return Share(A, b, energy, [sums])


def add_shares(shares: list[Share]) -> Share:
    """Their sum in the order given, carried in float64."""
    total = _like(shares, len(shares[0].b))
    _sum(shares, slice(None), total)
    return Share(*total, _users(shares))


def _users(shares: list[Share]) -> list[Users]:
    return [users for share in shares for users in share.users]


def _like(shares: list[Share], rows: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Room for some rows of their sum."""
    A, b, energy = (aligned((rows, *part.shape[1:]), part.dtype) for part in shares[0][:3])
    return A, b, energy


def _sum(shares: list[Share], rows: slice, into: tuple[np.ndarray, ...]) -> None:
    """Write some rows of the sum: a piece at a time, that float64 stay in the cache."""
    wide = np.empty(ADDED)
    for out, *parts in zip(into, *(share[:3] for share in shares)):
        flat, (first, *more) = out.reshape(-1), [part[rows].reshape(-1) for part in parts]
        for lo in range(0, len(flat), ADDED):
            piece = slice(lo, lo + ADDED)
            total = wide[: len(first[piece])]
            total[:] = first[piece]
            for part in more:
                total += part[piece]
            flat[piece] = total


def solve_items(problem: Problem, shares: list[Share], lam: np.ndarray, threads: int, rotate: bool | None) -> Items:
    """The items of a block from the shares of all shards; of all items, with what `fix_items` finds for ``rotate``."""
    items, status = _solve(problem, shares, lam, threads)
    with Pool(threads) as pool:
        rotate_back(items.V, shares[0].users[0].basis, pool)
        items = items._replace(gram=gram_of(problem, items.V, pool), unsolved=np.flatnonzero(status != OK))
    if rotate is None or len(items.unsolved):  # which may hold anything until they are solved again
        return items
    return items._replace(fixed=fix_items(problem, [items], rotate))


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
    width = problem.factors + problem.biases
    G = _padded_gram(problem, _users(shares), np.float64)[:width, :width]
    for place in np.flatnonzero(status != OK).tolist():
        one = _like(shares, 1)
        _sum(shares, slice(place, place + 1), one)
        A, b = _unpacked(one)
        A += G + lam[place] * np.eye(width)
        V[place, width:] = 0
        x = V[place, :width]
        if cancelled(A, G.diagonal() + lam[place]) or not minimised_by_eigenvalues(A, b, lam[place], x):
            raise singular("column", items[place], int(np.count_nonzero(status != OK)))
        loss[place] = found.energy[place] - b @ x - x @ (b - A @ x)
        penalty[place] = lam[place] * (x @ x)
    V = V.astype(problem.X.dtype)
    with Pool(1) as pool:
        rotate_back(V, shares[0].users[0].basis, pool)
    return found._replace(V=V)


def _solve(problem: Problem, shares: list[Share], lam: np.ndarray, threads: int) -> tuple[Items, np.ndarray]:
    """The items from the sum of their shares, and the status of each."""
    rows, dtype, ld, users = len(shares[0].b), shares[0].b.dtype, problem.columns, _users(shares)
    status, sums = np.empty(rows, np.uint8), sums_of(users)
    loss, energy, penalty = np.empty((3, rows))
    items = Items(aligned((rows, ld), dtype), np.empty((0, 0)), np.empty(0, np.int64), loss, energy, penalty, sums)
    G, limit = frozen(_padded_gram(problem, users, dtype)), PIVOT_LOSS / float(np.finfo(dtype).eps)
    step = max(8, int(TASK_NS / primal_cost(np.zeros(1), ld)[0]) // 8 * 8)

    @cache
    def scratch(worker: int) -> tuple[Any, ...]:
        return _like(shares, step), primal_scratch(ld, dtype)

    def work(block: int, worker: int) -> None:
        part = slice(block * step, (block + 1) * step)
        (room, mine), count = scratch(worker), len(lam[part])
        share = room[0][:count], room[1][:count], room[2][:count]
        _sum(shares, part, share)
        energy = share[2]
        empty = (energy == 0) & ~share[1].any(axis=1)  # the solution is zero, whatever the system
        model = G, frozen(np.where(empty, dtype.type(1), lam[part]))
        V, loss, penalty = items.V[part], items.loss[part], items.penalty[part]
        solve_shares(model, limit, 0, count, mine, settled(share), V, status[part], loss, penalty)
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


def _unpacked(share: tuple[np.ndarray, ...]) -> tuple[np.ndarray, np.ndarray]:
    """The system of one item."""
    (packed,), (b,) = share[:2]
    A = np.zeros((len(b), len(b)))
    A[np.triu_indices(len(b))] = packed
    return A + np.triu(A, 1).T, b
