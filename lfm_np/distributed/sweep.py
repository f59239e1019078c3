"""The state of a distributed run, and the graph of tasks of a sweep."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np

from lfm_np.canonical import canonical
from lfm_np.distributed import blocks
from lfm_np.distributed.cluster import RESTARTS, Cluster, Lost
from lfm_np.errors import SolverError
from lfm_np.factors import Factors, Status
from lfm_np.problem import Problem

BLOCK_BYTES = 8 << 20  # of a shard's share of the normal equations of a block of items
FAN_IN = 16  # shares that one task adds


class Sweeps:
    """Item factors between two sweeps, and what they can be computed from again.

    The users of a sweep follow from the items before it, so the items are the state. They stay on the workers; every
    so many sweeps the driver takes a copy, from which the graph begins anew: its length stays bounded, and so does
    what is lost with the workers.
    """

    _sweeps: int  # behind the items
    _V: list[Any]  # the blocks of items, as futures, or as tasks that the driver's copy is in
    _users: list[Any]  # from which these items follow
    _item_penalty: float

    def __init__(
        self,
        cluster: Cluster,
        problem: Problem,
        shards: list[Any],
        start: tuple[np.ndarray, np.ndarray],
        threads: int,
        every: int,
    ) -> None:
        """``start``: U (m, factors + biases) and V (n, ld). ``shards``: tasks of `make_shard`."""
        self._cluster, self._problem, self._threads, self._every = cluster, problem, threads, every
        tasks = [cluster.task("summary", blocks.summary_of, shard) for shard in shards]
        planned, summaries = cluster.groups(shards, tasks)
        summaries = cluster.gather(summaries)
        self.rows = [summary.rows for summary in summaries]
        self.counts = np.sum([summary.counts for summary in summaries], axis=0)
        total = sum(summary.total for summary in summaries)
        self.mean = total / self.counts.sum() if problem.biases and self.counts.sum() else 0.0
        self._rotate = 2 * sum(summary.rotates for summary in summaries) > len(summaries)
        again = [cluster.task("shard", blocks.plan_again, problem, shard, self._rotate) for shard in planned]
        (self._shards,) = cluster.groups(again)
        self._lam = problem.row_regularization(self.counts, sum(self.rows))
        self._ranges = item_ranges(len(self.counts), problem)
        self._start, V = start
        penalty = float(np.einsum("i,if,if->", self._lam, V, V, dtype=np.float64))
        self._keep(0, [V[lo:hi] for lo, hi in self._ranges], penalty)
        self._go_back()

    # ---- sweeps -----------------------------------------------------------------------------------------------------

    def sweep(self) -> dict[str, Any]:
        """Users from V, items from the new U; the objective after either half."""
        return self._surviving(self._sweep)

    def _surviving(self, action: Callable[[], Any]) -> Any:
        """What ``action`` returns. If workers keep dying under it, begin again where the driver has the items."""
        sweeps = self._sweeps
        for restart in itertools.count():
            try:
                while self._sweeps < sweeps:
                    self._sweep()
                return action()
            except Lost as error:
                if restart == RESTARTS:
                    raise SolverError(
                        f"workers were lost with the same tasks {restart + 1} times over ({error}); look at their "
                        "logs: most often memory runs out, so take fewer factors or more shards"
                    ) from error
                self._go_back()

    def _sweep(self) -> dict[str, Any]:
        cluster, problem, threads = self._cluster, self._problem, self._threads
        fixed = cluster.task("fix", blocks.fix_items, problem, self._V, self._rotate, threads)
        users = [
            cluster.task("users", blocks.solve_users, problem, shard, fixed, self.mean, threads)
            for shard in self._shards
        ]
        sums = [cluster.task("sums", blocks.sums_of, part) for part in users]
        items = [self._items(users, sums, block) for block in self._ranges]
        found = [cluster.task("found", blocks.found_of, part) for part in items]
        users, items, sums, found = cluster.groups(users, items, sums, found)
        found_values = cluster.gather(found)
        items, found_values = self._solved_again(users, sums, items, found_values)
        record = self._record(cluster.gather(sums), found_values)
        (factors,) = cluster.groups([cluster.task("factors", blocks.factors_of, part) for part in items])
        if (self._sweeps + 1) % self._every == 0:
            self._keep(self._sweeps + 1, cluster.gather(factors), _penalty(found_values))
            factors = self._held()
        self._V, self._users, self._item_penalty = factors, users, _penalty(found_values)
        self._sweeps += 1
        return record

    def _items(self, users: list[Any], sums: list[Any], block: tuple[int, int]) -> Any:
        """The task that solves a block of items."""
        cluster, problem, threads = self._cluster, self._problem, self._threads
        shares = [
            cluster.task("share", blocks.share_of, problem, shard, part, block, self.mean, threads)
            for shard, part in zip(self._shards, users)
        ]
        lam = self._lam[slice(*block)]
        return cluster.task("items", blocks.solve_items, problem, sums, self._few(shares), lam, threads)

    def _solved_again(
        self, users: list[Any], sums: list[Any], items: list[Any], found: list[blocks.Items]
    ) -> tuple[list[Any], list[blocks.Items]]:
        """The blocks of items with those that need float64 solved in it."""
        cluster, problem = self._cluster, self._problem
        patched = {}
        for place, (block, part) in enumerate(zip(self._ranges, found)):
            if not len(part.flagged):
                continue
            ids = block[0] + part.flagged
            shares = [
                cluster.task("wide_share", blocks.wide_share_of, problem, shard, rows, ids, self.mean)
                for shard, rows in zip(self._shards, users)
            ]
            again = cluster.task(
                "wide_items", blocks.solve_items_again, problem, sums, self._few(shares), self._lam[ids], ids
            )
            patched[place] = cluster.task("patched", blocks.patched, items[place], again)
        if not patched:
            return items, found
        (futures,) = cluster.groups(list(patched.values()))
        items, found = list(items), list(found)
        (small,) = cluster.groups([cluster.task("found", blocks.found_of, future) for future in futures])
        for place, future, value in zip(patched, futures, cluster.gather(small)):
            items[place], found[place] = future, value
        return items, found

    def _few(self, shares: list[Any]) -> list[Any]:
        """At most FAN_IN shares of the same sum."""
        while len(shares) > FAN_IN:
            groups = (shares[lo : lo + FAN_IN] for lo in range(0, len(shares), FAN_IN))
            shares = [self._cluster.task("added", blocks.add_shares, group) for group in groups]
        return shares

    def _record(self, users: list[blocks.Users], items: list[blocks.Items]) -> dict[str, Any]:
        objective = float(np.concatenate([part.loss for part in items]).sum()) + sum(part.penalty for part in users)
        if not np.isfinite(objective):
            raise SolverError("the objective overflows; lower alpha, or scale the values")
        return {"objective_users": sum(part.loss for part in users) + self._item_penalty, "objective": objective}

    # ---- where the driver has the items -----------------------------------------------------------------------------

    def _keep(self, sweeps: int, V: list[np.ndarray], penalty: float) -> None:
        self._kept = sweeps, V, penalty

    def _held(self) -> list[Any]:
        """What the driver keeps, as tasks without a past."""
        return [self._cluster.task("items_again", np.asarray, block) for block in self._kept[1]]

    def _go_back(self) -> None:
        self._sweeps, _, self._item_penalty = self._kept
        self._V, self._users = self._held(), []

    # ---- the result -------------------------------------------------------------------------------------------------

    def result(self, history: list[dict[str, Any]], status: Status, params: dict[str, Any]) -> Factors:
        U, V = self._surviving(self._gathered)
        k, biases = self._problem.factors, self._problem.biases
        factors = canonical(np.ascontiguousarray(U[:, :k]), np.ascontiguousarray(V[:, :k]), self._threads)
        return Factors(
            *factors,
            user_bias=U[:, k].copy() if biases else None,
            item_bias=V[:, k].copy() if biases else None,
            global_bias=self.mean if biases else None,
            history=history,
            status=status,
            params=params,
        )

    def _gathered(self) -> tuple[np.ndarray, np.ndarray]:
        cluster, problem = self._cluster, self._problem
        width = problem.factors + problem.biases
        tasks = [cluster.task("rows", blocks.rows_of, part, width) for part in self._users]
        users, items = cluster.groups(tasks, self._V, heed=False)
        V = np.concatenate(cluster.gather(items))
        return np.concatenate(cluster.gather(users)) if users else self._start, V


def _penalty(items: list[blocks.Items]) -> float:
    return float(np.concatenate([part.penalty for part in items]).sum())


def item_ranges(n: int, problem: Problem) -> list[tuple[int, int]]:
    """Blocks of items: a function of n and k only, as is the order of every sum over items."""
    count = max(1, -(-share_bytes(n, problem) // BLOCK_BYTES))
    step = max(8, -(-n // count + 7) // 8 * 8) if n else 1
    return [(lo, min(lo + step, n)) for lo in range(0, max(n, 1), step)]


def share_bytes(n: int, problem: Problem) -> int:
    """Bytes of a shard's part of the normal equations of all items."""
    width = problem.factors + problem.biases
    return n * (width * (width + 3) // 2) * problem.X.dtype.itemsize
