"""The state of an `sgd` run and its epochs: draw, sort into cells, train the cells round by round."""

from __future__ import annotations

from typing import Any

import numpy as np

from lfm_np import sgd_grid
from lfm_np.factors import Factors, Status
from lfm_np.kernels import random, sgd_cells, sgd_draws, sgd_loss
from lfm_np.kernels.als_rows import aligned
from lfm_np.kernels.jit import Pool
from lfm_np.kernels.simd import WIDTH
from lfm_np.quiet import quietly
from lfm_np.sgd_plan import Plan

# The streams of an epoch: its negatives, its item blocks, the order of its rounds; those of the cells come next.
NEGATIVES, BLOCKS, ROUNDS = range(sgd_cells.TASKS)
USERS, ITEMS = 0, 1  # streams of epoch 0, the initial factors; training starts with epoch 1
COPY_BLOCK = 1 << 20
LINE = 16  # eight-byte numbers in two cache lines, which some processors fetch together


def key(seed: int, epoch: int, cell: int) -> np.uint64:
    """Key of a stream, outside of kernels."""
    return np.uint64(quietly(random.stream, seed, epoch, cell))


def read_only(array: np.ndarray) -> np.ndarray:
    """A read-only view: kernels are compiled for one type of input, whatever the caller's flags are."""
    view = array.view()
    view.flags.writeable = False
    return view


def _zeros(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    array = aligned(shape, dtype)
    array[:] = 0
    return array


def empty_model(shape: tuple[int, int], k: int, dtype: np.dtype, biases: Any, adagrad: bool) -> sgd_cells.Model:
    """Zero factors padded to WIDTH, and the parts that the model has; absent ones are of size 0.

    Adagrad's squares start at 1, so that the first steps are as long as the learning rate says, and are float64: a
    float32 sum of more than 2²⁴ about equal ones stays where it is.
    """
    ld = -(-k // WIDTH) * WIDTH
    (m, n), user_bias, item_bias = shape, biases is True, bool(biases)
    ones = lambda size, wanted=True: np.ones(size if adagrad and wanted else 0)  # noqa: E731
    return sgd_cells.Model(
        _zeros((m, ld), dtype),
        _zeros((n, ld), dtype),
        np.zeros(m if user_bias else 0, dtype),
        np.zeros(n if item_bias else 0, dtype),
        ones(m),
        ones(n),
        ones(m, user_bias),
        ones(n, item_bias),
    )


def empty_scratch(count: int, users: np.ndarray) -> sgd_cells.Scratch:
    """Numbers of one worker, in cache lines that no other worker writes: sharing one cost half of the second thread."""
    padded = -(-count // LINE) * LINE
    scores, slopes, pulls, shrinks = aligned((4, padded), np.float64)[:, :count]
    ids, direction = aligned((padded,), np.int64)[:count], aligned(users.shape[1:], users.dtype)
    return sgd_cells.Scratch(ids, scores, slopes, pulls, shrinks, direction)


class Start:
    """The model that training starts from, and what each row leaves to draw."""

    def __init__(self, plan: Plan, start: tuple[np.ndarray, ...] | None, pool: Pool) -> None:
        X = plan.X
        self.plan, self.pool, self.grid, self.seed = plan, pool, plan.grid, plan.seed
        self.indptr = read_only(X.indptr.astype(np.int64, copy=False))
        self.indices = read_only(X.indices.astype(np.int32, copy=False))
        self.masses = None if plan.masses is None else read_only(plan.masses)
        self.free = self._free_masses()
        self.model = empty_model(X.shape, plan.rule.factors, X.dtype, plan.biases, plan.schedule == "adagrad")
        self._fill() if start is None else self._take(start)

    def _over_users(self, work: Any) -> None:
        """work(block, first row, last row) for every block of users."""
        users = self.grid.users
        self.pool.run(lambda g, worker: work(g, users[g], users[g + 1]), self.grid.tasks)

    def _free_masses(self) -> np.ndarray:
        """Mass that each row has not stored; 1 without a sampler, when there is nothing to draw."""
        free = np.ones(len(self.indptr) - 1, np.int64)
        if self.masses is not None:
            self._over_users(
                lambda g, lo, hi: sgd_draws.free_masses(lo, hi, self.indptr, self.indices, self.masses, free)
            )
        return free

    @property
    def skipped(self) -> np.ndarray:
        """Rows with stored cells but nothing to draw."""
        return (np.diff(self.indptr) > 0) & (self.free <= 0)

    def _fill(self) -> None:
        """Random factors; zero in rows and columns that no record brings in."""
        lengths, k = np.diff(self.indptr), self.plan.rule.factors
        active = (lengths > 0) & (self.free > 0)
        brought = np.zeros(len(self.model.items), bool)
        sgd_draws.mark_items(self.indptr, self.indices, active, brought)
        bound = (3.0 / k) ** 0.5 * (1.0 if self.plan.rule.cosine else 0.1)
        for W, mask, cell in ((self.model.users, active, USERS), (self.model.items, brought, ITEMS)):
            stream, rows = key(self.seed, 0, cell), COPY_BLOCK // W.shape[1] + 1

            def fill(b: int, worker: int, W=W, mask=mask, stream=stream, rows=rows) -> None:  # type: ignore[no-untyped-def]
                sgd_draws.fill_uniform(stream, b * rows, min(len(W), (b + 1) * rows), k, bound, mask, W)

            self.pool.run(fill, -(-len(W) // rows))

    def _take(self, start: tuple[np.ndarray, ...]) -> None:
        U, V, user_bias, item_bias = start
        if self.plan.rule.cosine:
            _check_lengths(U, V)
        self.model.users[:, : U.shape[1]], self.model.items[:, : V.shape[1]] = U, V
        self.model.user_bias[:] = user_bias[: len(self.model.user_bias)]
        self.model.item_bias[:] = item_bias[: len(self.model.item_bias)]


def _check_lengths(U: np.ndarray, V: np.ndarray) -> None:
    """ValueError for rows whose length is beyond their dtype, of which there are no cosines."""
    for name, W in (("U", U), ("V", V)):
        squares, least = quietly(np.einsum, "rf,rf->r", W, W), float(np.finfo(W.dtype).tiny)
        bad = W.any(axis=1) & ~((squares >= least) & (squares < np.inf))
        if bad.any():
            raise ValueError(
                f"init must have rows whose squared length is from {least:.3g} to the largest {W.dtype} for cosines, "
                f"got others in {name}, first in row {int(np.argmax(bad))}"
            )


class Trainer(Start):
    """Everything that the epochs share. ``epoch`` runs one, ``keep`` copies the state if it is finite."""

    def __init__(self, plan: Plan, start: tuple[np.ndarray, ...] | None, pool: Pool) -> None:
        X = plan.X
        negatives = np.empty(0 if plan.masses is None else X.nnz, np.int32)
        self.records = np.empty((X.nnz, 3), np.int32)
        self.values = np.empty(X.nnz if plan.uses_values else 0, X.dtype)
        super().__init__(plan, start, pool)
        self.data = read_only(X.data)
        place = sgd_loss.address(plan.pointer)
        self.pointers = (None, place) if plan.protocol.kind == "list" else (place, None)
        self.negatives = self.indices if self.masses is None else negatives
        self.guide = np.zeros(1 if self.masses is None else 2 * len(self.masses) + 1, np.int32)
        self.shift = 0 if self.masses is None else sgd_draws.mass_guide(self.masses, self.guide)
        self.done = 0  # whole epochs
        self.kept = sgd_cells.Model(*(array.copy() for array in self.model))

    def sweep(self) -> dict[str, Any]:
        """One epoch, kept if all of it is finite; its record."""
        plan, number = self.plan, self.done + 1
        rate = plan.rate(self.done)
        total = self.epoch(number, plan.rule._replace(rate=rate))
        if not np.isfinite(total) or not self.keep():
            raise plan.diverged(number)
        self.done = number
        return {"sampled_loss": total / max(plan.X.nnz, 1)}

    def result(self, history: list[dict[str, Any]], status: Status, params: dict[str, Any]) -> Factors:
        """The state after the last whole epoch."""
        k, kept, biases = self.plan.rule.factors, self.kept, self.plan.biases
        U, V = kept.users[:, :k], kept.items[:, :k]
        if self.plan.rule.cosine:
            U, V = _unit(U), _unit(V)
        U, V = self.plan.in_canonical_basis(U, V, self.pool.num_threads, self.done)
        user_bias = kept.user_bias.copy() if biases is True else None
        item_bias = kept.item_bias.copy() if biases else None
        mean = self.plan.rule.mean if biases is True else None
        return Factors(
            U,
            V,
            user_bias=user_bias,
            item_bias=item_bias,
            global_bias=mean,
            history=history,
            status=status,
            params=params,
        )

    def parts(self) -> dict[str, np.ndarray]:
        """The state after the last whole epoch, without the padding."""
        k = self.plan.rule.factors
        return {name: array[:, :k] if array.ndim == 2 else array for name, array in self.kept._asdict().items()}

    def restore(self, parts: dict[str, np.ndarray], sweeps: int) -> None:
        for name, array in self.parts().items():
            array[:] = parts[name]
        for source, target in zip(self.kept, self.model):
            target[:] = source
        self.done = sweeps

    def epoch(self, number: int, rule: sgd_cells.Rule) -> float:
        """Train on every stored cell once; returns the sum of the losses, each taken just before its step."""
        block_of = sgd_grid.item_blocks(self.grid, key(self.seed, number, BLOCKS))
        starts, G, threads = self._sort(number, block_of), self.grid.tasks, self.pool.num_threads
        losses = np.zeros((self.grid.pairs, G))
        scratch = [empty_scratch(rule.negatives + 1, self.model.users) for _ in range(threads)]
        data = self.records, self.values, (self.indptr, self.indices)
        steps = self.model, rule, self._catalogue(block_of)
        (point, ranked), parts = self.pointers, min(G, threads)
        for turn, shift in sgd_grid.rounds(self.grid, key(self.seed, number, ROUNDS)):

            def train(part: int, worker: int, turn: int = turn, shift: int = shift) -> None:
                slots = part * G // parts, (part + 1) * G // parts
                where = self.seed, number, turn, shift, *slots
                sgd_cells.train_cells(where, starts, *data, *steps, scratch[worker], point, ranked, losses)

            self.pool.run(train, parts)
        return float(losses.sum())

    def _sort(self, number: int, block_of: np.ndarray) -> np.ndarray:
        """Draw the negatives and sort the records: cell c of block g is records[starts[g, c] : starts[g, c + 1]]."""
        indptr, indices, cell_of = self.indptr, self.indices, self.grid.cell_of
        stream = key(self.seed, number, NEGATIVES)
        starts = np.zeros((self.grid.tasks, self.grid.pairs + 1), np.int64)

        def block(g: int, first: int, last: int) -> None:
            self._draw(stream, first, last)
            negatives, counts = read_only(self.negatives), np.zeros(self.grid.pairs, np.int64)
            sgd_draws.count_cells(indptr[first], indptr[last], indices, negatives, block_of, cell_of, counts)
            starts[g] = indptr[first] + np.concatenate([[0], np.cumsum(counts)])
            places, stored = starts[g, :-1].copy(), (indptr, indices, self.data, negatives)
            sgd_draws.scatter_rows(first, last, *stored, block_of, cell_of, places, self.records, self.values)

        self._over_users(block)
        return starts

    def _draw(self, stream: np.uint64, first: int, last: int) -> None:
        """The first negative of every stored cell of some rows."""
        if self.masses is not None:
            indptr, items = self.indptr, (self.masses, self.guide, self.shift)
            longest = int(np.diff(indptr[first : last + 1]).max(initial=0))
            before, guide = np.empty(longest, np.int64), np.empty(2 * longest + 1, np.int32)
            sgd_draws.draw_rows(stream, first, last, indptr, self.indices, *items, before, guide, self.negatives)

    def _catalogue(self, block_of: np.ndarray) -> sgd_cells.Catalogue:
        """What drawing further negatives needs; its masses are cumulative in the order of the blocks."""
        items = np.argsort(block_of, kind="stable").astype(np.int32)
        starts = np.searchsorted(block_of[items], np.arange(self.grid.item_blocks + 1))
        masses = np.ones(1, np.int64)
        if self.masses is not None and len(self.masses) > 1:
            masses = np.concatenate([[0], np.cumsum(np.diff(self.masses)[items])])
        return sgd_cells.Catalogue(items, starts, masses, block_of, *self.plan.log_q(self.free))

    def keep(self) -> bool:
        """Copy the state to ``kept`` unless some of it is not finite; says whether it was copied."""
        pieces = []
        for source, target in zip(self.model, self.kept):
            source, target = source.reshape(-1), target.reshape(-1)
            stops = range(0, source.size, COPY_BLOCK)
            pieces += [(source[lo : lo + COPY_BLOCK], target[lo : lo + COPY_BLOCK]) for lo in stops]
        finite = np.ones(len(pieces), bool)

        def look(b: int, worker: int) -> None:
            finite[b] = sgd_draws.all_finite(pieces[b][0])

        self.pool.run(look, len(pieces))
        if finite.all():  # copied here and not in the pool, which Ctrl-C may leave halfway
            for source, target in pieces:
                np.copyto(target, source)
        return bool(finite.all())


def _unit(W: np.ndarray) -> np.ndarray:
    """Rows of length one; zero rows stay."""
    norms = np.sqrt(np.einsum("rf,rf->r", W, W, dtype=np.float64, casting="same_kind"))
    return (W / np.where(norms > 0, norms, 1)[:, None]).astype(W.dtype)
