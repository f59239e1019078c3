"""The state of a distributed run, and the graph of tasks of a sweep."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, NamedTuple

import numpy as np

from lfm_np.atomic import replacing
from lfm_np.canonical import canonical_items
from lfm_np.distributed import blocks, equations
from lfm_np.distributed.cluster import RESTARTS, Cluster, Lost, NoWorkers, fewer
from lfm_np.errors import SolverError
from lfm_np.factors import Factors, Status
from lfm_np.mapped_files import mapped
from lfm_np.npy_files import allocate, npy_header
from lfm_np.problem import Problem
from lfm_np.quiet import quietly
from lfm_np.row_plan import primal_cost
from lfm_np.stored.files import mean_of

BLOCK_BYTES = 16 << 20  # of a shard's share of the normal equations of a block of items

Source = tuple[Any, ...]  # of a task: the function and its arguments


class Solved(NamedTuple):
    """The items after a sweep, by blocks: futures, or tasks that bring back what was kept."""

    items: list[Any]
    found: list[Any]  # the same, without factors if these are many
    fixed: bool = False  # whether the items are one block that knows its `Fixed`


class Sent(NamedTuple):
    """A sweep that the workers were sent."""

    users: list[Any]  # tasks, whose results nobody keeps
    kept: list[Any]  # their futures, where they will probably be needed again
    solved: Solved


class Kept(NamedTuple):
    """A state that outlives the workers."""

    sweeps: int
    V: np.ndarray
    before: np.ndarray  # V before the last sweep
    penalty: float  # of V


class Sweeps:
    """Item factors between two sweeps.

    The users of a sweep follow from the items before it, so that the items of the last two sweeps are the state, and
    users are solved once more where they are asked for. The items stay on the workers; every so many sweeps the driver
    takes a copy (`copy`), and the graph begins anew from there: its length stays bounded, and so does what is lost with
    the workers. Where the driver has nothing to decide between two sweeps, the next is sent before its time.
    """

    _shards: list[Any]  # futures; none before they are made
    _item_shards: list[Any]  # of the columns, where users are gathered
    _failed: SolverError | None = None  # with which this run gave up
    _V: Solved
    _before: Solved  # before the last sweep
    _kept: Kept
    _ahead: Sent | None = None  # the next sweep, if the workers have it already
    _again = False  # whether items of the last sweep had to be solved again

    def __init__(
        self,
        cluster: Cluster,
        problem: Problem,
        shards: list[Source],
        start: tuple[np.ndarray | None, np.ndarray],
        threads: int,
        follows: Callable[[int], bool],
    ) -> None:
        """``start``: U (m, factors + biases), or None for zeros, and V (n, ld). ``shards``: what makes each `Shard`.

        ``follows``: whether it is certain that another sweep follows that of this number, from its own items.
        """
        self._shards = []
        self._cluster, self._problem, self._threads, self._sources = cluster, problem, threads, shards
        self._follows = follows
        self._start, V = start
        self._go_back(Kept(0, V, V, 0.0))
        self._surviving(self._prepare)
        penalty = float(np.einsum("i,if,if->", self._lam, V, V, dtype=np.float64))
        self._kept, self._item_penalty = self._kept._replace(penalty=penalty), penalty

    def _prepare(self) -> None:
        """Make the shards, and what is to be known of all together."""
        if self._shards:
            return
        cluster, problem = self._cluster, self._problem
        made = [cluster.task("cells", *source) for source in self._sources]
        made, summaries = cluster.groups(made, [cluster.task("summary", blocks.summary_of, shard) for shard in made])
        summaries = cluster.gather(summaries)
        counts, rows = np.sum([part.counts for part in summaries], axis=0), [part.rows for part in summaries]
        total = sum(summary.total for summary in summaries)
        self.mean = mean_of(total, int(counts.sum()), "source") if problem.biases else 0.0
        self._lam, self._rows = problem.row_regularization(counts, sum(rows)), rows
        self._rotate = 2 * sum(summary.rotates for summary in summaries) > len(summaries)
        gathers = gathers_users(sum(rows), len(counts), problem)
        self._ranges = (
            ranges_of_equal_cost(counts, problem, len(made)) if gathers else item_ranges(len(counts), problem)
        )
        planned = [cluster.task("shard", blocks.plan_again, problem, shard, self._rotate, gathers) for shard in made]
        columns = [self._columns(made, block) for block in self._ranges] if gathers else []
        self._shards, self._item_shards = cluster.groups(planned, columns)

    def _columns(self, made: list[Any], block: tuple[int, int]) -> Any:
        """The task that brings the cells of a block of items together."""
        cluster = self._cluster
        parts = [cluster.task("columns", blocks.columns_of, shard, block) for shard in made]
        return cluster.task("item_shard", blocks.item_shard, self._problem, parts, self._lam[slice(*block)], block[0])

    # ---- sweeps -----------------------------------------------------------------------------------------------------

    def sweep(self) -> dict[str, Any]:
        """Users from V, items from the new U; the objective after either half."""
        return self._surviving(self._sweep)

    def _surviving(self, action: Callable[[], Any]) -> Any:
        """What ``action`` returns. If workers keep dying under it, begin again from what was kept."""
        sweeps = self._sweeps
        for restart in itertools.count():
            try:
                self._prepare()
                while self._sweeps < sweeps:
                    self._sweep()
                return action()
            except NoWorkers as error:
                self._failed = SolverError(str(error))
            except Lost as error:
                self._failed = SolverError(
                    f"workers were lost with the same tasks {restart + 1} times over ({error}); look at their logs: "
                    "most often memory runs out, so take fewer factors or more shards"
                )
                if restart < RESTARTS:
                    self._failed, self._shards = None, []
                    self._go_back(self._kept)
            if self._failed:
                raise self._failed

    def _sweep(self) -> dict[str, Any]:
        sent = self._ahead or self._send(self._V)
        self._ahead = self._send(sent.solved) if not self._again and self._follows(self._sweeps + 1) else None
        try:
            self._cluster.finish([*sent.solved.items, *sent.solved.found])
            solved, values = self._solved_again(sent)
            record = self._record(values)
        except BaseException:
            self._drop(sent)
            raise
        self._cluster.release(sent.kept)
        self._before, self._V, self._item_penalty = self._V, solved, _penalty(values)
        self._sweeps += 1
        return record

    def _send(self, V: Solved) -> Sent:
        """Let the workers do the sweep that begins with these items."""
        cluster, asked = self._cluster, (self.mean, self._threads)
        users, one = self._users(V), len(self._ranges) == 1 and not self._item_shards
        if self._item_shards:
            items = [
                cluster.task("items", blocks.solve_item_rows, self._problem, shard, users, *asked)
                for shard in self._item_shards
            ]
        elif one and not self._again:  # every round of the scheduler less is some milliseconds
            fixed = self._fixed(V)
            shares = [
                cluster.task(
                    "share", equations.share_of_solved, self._problem, shard, V.items, fixed, self._ranges[0], *asked
                )
                for shard in self._shards
            ]
            items = [self._solved(shares, self._ranges[0])]
        else:
            items = [self._solved(self._shares(users, block), block) for block in self._ranges]
        found = [] if one else [cluster.task("found", blocks.found_of, part) for part in items]
        kept, items, found = cluster.send(users if self._again else [], items, found)
        return Sent(users, kept, Solved(items, found or items, one))  # the factors of one block are few enough to take

    def _drop(self, *given_up: Sent) -> None:
        """Let the workers forget these sweeps and the one ahead."""
        for sent in (*given_up, *([self._ahead] if self._ahead else [])):
            self._cluster.release([*sent.kept, *sent.solved.items, *sent.solved.found])
        self._ahead = None

    def _users(self, V: Solved) -> list[Any]:
        """The tasks that solve the users of every shard."""
        cluster, problem, fixed = self._cluster, self._problem, self._fixed(V)
        return [
            cluster.task("users", blocks.solve_users, problem, shard, V.items, fixed, self.mean, self._threads)
            for shard in self._shards
        ]

    def _fixed(self, V: Solved) -> Any:
        """The task that finds the basis of a sweep; none where every shard does, or the items came with it."""
        if self._item_shards or V.fixed:
            return None
        return self._cluster.task("fix", blocks.fix_items, self._problem, V.items, self._rotate)

    def _shares(self, users: list[Any], block: tuple[int, int]) -> list[Any]:
        """The tasks that add up every shard's part of the normal equations of a block of items."""
        cluster, asked = self._cluster, (self.mean, self._threads)
        return [
            cluster.task("share", equations.share_of, self._problem, shard, part, block, *asked)
            for shard, part in zip(self._shards, users)
        ]

    def _solved(self, shares: list[Any], block: tuple[int, int]) -> Any:
        """The task that solves a block of items."""
        rotate = self._rotate if len(self._ranges) == 1 else None
        lam = self._lam[slice(*block)]
        return self._cluster.task(
            "items", equations.solve_items, self._problem, self._few(shares), lam, self._threads, rotate
        )

    def _solved_again(self, sent: Sent) -> tuple[Solved, list[blocks.Items]]:
        """The items with those that need float64 solved in it, and what was found."""
        cluster, problem = self._cluster, self._problem
        (items, found, _), values = sent.solved, cluster.gather(sent.solved.found)
        doubtful, patched = quietly(equations.to_solve_again, values), {}
        for place, (block, places) in enumerate(zip(self._ranges, doubtful)):
            if not len(places):
                continue
            ids = block[0] + places
            shares = [
                cluster.task("wide_share", equations.wide_share_of, problem, shard, rows, ids, self.mean)
                for shard, rows in zip(self._shards, sent.users)
            ]
            again = cluster.task(
                "wide_items", equations.solve_items_again, problem, self._few(shares), self._lam[ids], ids
            )
            patched[place] = cluster.task("patched", blocks.patched, problem, items[place], again, places)
        self._again = bool(patched)
        if not patched:
            return sent.solved, values
        self._drop()
        small = [cluster.task("found", blocks.found_of, task) for task in patched.values()]
        futures, small = cluster.groups(list(patched.values()), small)
        items, found = list(items), list(found)
        for place, *new in zip(patched, futures, small, cluster.gather(small)):
            items[place], found[place], values[place] = new
        return Solved(items, found), values

    def _few(self, shares: list[Any]) -> list[Any]:
        """A few shares of the same sum."""
        return fewer(self._cluster, "added", equations.add_shares, shares)

    def _record(self, items: list[blocks.Items]) -> dict[str, Any]:
        loss, penalty = items[0].users
        objective = float(np.concatenate([part.loss for part in items]).sum()) + penalty
        if not np.isfinite(objective):
            raise SolverError("the objective overflows; lower alpha, or scale the values")
        return {"objective_users": loss + self._item_penalty, "objective": objective}

    # ---- what outlives the workers ----------------------------------------------------------------------------------

    def copy(self) -> None:
        """Let the driver keep the items."""
        V, before = self._blocks(self._V), self._blocks(self._before)
        self._go_back(Kept(self._sweeps, V, before, self._item_penalty))

    def _blocks(self, solved: Solved) -> np.ndarray:
        """The factors."""
        cluster = self._cluster
        found = self._surviving(lambda: cluster.gather(cluster.groups(solved.items, heed=False)[0]))
        return np.concatenate([part.V for part in found])

    def fingerprint(self) -> str:
        """Of the whole matrix, as it is cut."""
        return " ".join(self._cluster.gather(self._cluster.groups(self._each("fingerprint", blocks.fingerprint_of))[0]))

    def _each(self, name: str, function: Callable[[blocks.Shard], Any]) -> list[Any]:
        return [self._cluster.task(name, function, shard) for shard in self._shards]

    def parts(self) -> dict[str, np.ndarray]:
        """What a checkpoint keeps of the state."""
        if self._kept.sweeps != self._sweeps:
            self.copy()
        return {"V": self._kept.V, "before": self._kept.before, "item_penalty": np.array([self._kept.penalty])}

    def restore(self, parts: dict[str, np.ndarray], sweeps: int) -> None:
        """Go on from these."""
        self._go_back(Kept(sweeps, parts["V"], parts["before"], float(parts["item_penalty"][0])))

    def _go_back(self, kept: Kept) -> None:
        self._kept, self._sweeps, self._item_penalty = kept, kept.sweeps, kept.penalty
        self._V, self._before = self._brought(kept.V), self._brought(kept.before)
        self._ahead = None

    def _brought(self, V: np.ndarray) -> Solved:
        """Tasks that bring what was kept to the workers."""
        items = self._cluster.task("items_again", blocks.items_of, self._problem, V)
        return Solved([items], [self._cluster.task("found", blocks.found_of, items)])

    # ---- the result -------------------------------------------------------------------------------------------------

    def result(
        self, history: list[dict[str, Any]], status: Status, params: dict[str, Any], users_to: str | None = None
    ) -> Factors:
        """What there is, in the canonical basis; the user factors are brought here, or written to a file."""
        if self._failed:
            raise self._failed
        problem = self._problem
        k, biases = problem.factors, problem.biases
        V = self._blocks(self._V)
        items, basis = canonical_items(np.ascontiguousarray(V[:, :k]), self._threads)
        users, user_bias = self._surviving(lambda: self._rotated_users(basis.astype(V.dtype), users_to))
        return Factors(
            users,
            items,
            user_bias=user_bias if biases else None,
            item_bias=V[:, k].copy() if biases else None,
            global_bias=self.mean if biases else None,
            history=history,
            status=status,
            params=params,
        )

    def _rotated_users(self, basis: np.ndarray, path: str | None) -> tuple[np.ndarray, np.ndarray]:
        """U times the basis, in a file with ``path``, and the biases."""
        rows, k = sum(self._rows), self._problem.factors
        with replacing(path) if path else nullcontext() as file:
            place = file.name if file else None
            if file:
                header = npy_header(basis.dtype, (rows, k))
                file.write(header)
                allocate(file, len(header) + rows * k * basis.itemsize, file.name)
            parts = self._rotated_parts(basis, place)
            if place:  # before it has its name, under which another run's may be by then
                with open(place, "rb") as written:  # anew: a network's file system then looks at what others wrote
                    users = mapped(written, (rows, k), basis.dtype, len(header))
            else:
                users = np.concatenate([part[0] for part in parts])
        return users, np.concatenate([part[1] for part in parts])

    def _rotated_parts(self, basis: np.ndarray, place: str | None) -> list[tuple[np.ndarray, np.ndarray]]:
        """What `blocks.rotated_rows` gives of every shard, or of the start if that is all there is."""
        cluster, biases = self._cluster, self._problem.biases
        if not self._sweeps:
            U = np.zeros((sum(self._rows), len(basis) + 1), basis.dtype) if self._start is None else self._start
            return [blocks.rotated_rows(blocks.Users(U, np.empty((0, 0)), 0.0, 0.0, None), basis, biases, place, 0)]
        shared = cluster.task("basis", np.asarray, basis)
        firsts = itertools.accumulate(self._rows, initial=0)
        tasks = [
            cluster.task("rows", blocks.rotated_rows, part, shared, biases, place, first)
            for part, first in zip(self._users(self._before), firsts)
        ]
        return cluster.gather(cluster.groups(tasks, heed=False)[0])


def _penalty(items: list[blocks.Items]) -> float:
    return float(np.concatenate([part.penalty for part in items]).sum())


def item_ranges(n: int, problem: Problem) -> list[tuple[int, int]]:
    """Blocks of items: a function of n and k only, as is the order of every sum over items."""
    count = max(1, -(-share_bytes(n, problem) // BLOCK_BYTES))
    step = max(8, -(-n // (8 * count)) * 8)
    return [(lo, min(lo + step, n)) for lo in range(0, max(n, 1), step)]


def ranges_of_equal_cost(counts: np.ndarray, problem: Problem, blocks: int) -> list[tuple[int, int]]:
    """Blocks of items that take about the same time."""
    cost = np.cumsum(primal_cost(counts, problem.columns))
    inner = (
        np.searchsorted(cost, np.arange(1, blocks) * (cost[-1] / blocks)).tolist() if len(cost) else [0] * (blocks - 1)
    )
    return list(itertools.pairwise([0, *inner, len(counts)]))


def gathers_users(m: int, n: int, problem: Problem) -> bool:
    """Whether the users of all shards are fewer numbers than a shard's part of the normal equations of the items."""
    width = problem.factors + problem.biases
    return m * problem.columns < n * (width * (width + 3) // 2)


def share_bytes(n: int, problem: Problem) -> int:
    """Bytes of a shard's part of the normal equations of all items."""
    width = problem.factors + problem.biases
    return n * (width * (width + 3) // 2) * problem.X.dtype.itemsize
