"""sgd() on a torch device: the losses, samplers, arguments and start of `lfm_np.sgd`, in minibatches."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np

from lfm_np import losses as builtin
from lfm_np import sampling, validation
from lfm_np.checkpoint import Run
from lfm_np.factors import Factors, Status
from lfm_np.kernels.jit import Interrupted, Pool
from lfm_np.losses.code import code_of
from lfm_np.sgd_epoch import BLOCKS, NEGATIVES, Start, key
from lfm_np.sgd_plan import Plan, make_plan, seeded
from lfm_np.sweeps import Callback, check_loop, run_sweeps, sigint_noted
from lfm_np.torch_backend import losses, steps
from lfm_np.torch_backend.device import Device, as_outside, check_device, picked, torch, torch_threads
from lfm_np.torch_backend.draws import Sampler, bits

ORDER = BLOCKS  # the stream that the Numba side spends on its blocks of items gives the order of the stored cells
MOST_STEPS = 64  # expected moves of the most popular item in one batch, by default
SMALLEST_BATCH, LARGEST_BATCH = 256, 16_384
WORDS = 200  # bytes that the draws of one record take for each draw, its ids, slopes and losses


def sgd(
    X: Any,
    loss: Any = builtin.BPR(),  # noqa: B008 (immutable)
    *,
    sampler: Any = sampling.Uniform(),  # noqa: B008 (immutable)
    negatives: int = 1,
    factors: int = 64,
    learning_rate: float = 0.05,
    schedule: str = "constant",
    regularization: float | Mapping[str, float] = 0.01,
    biases: bool | str = False,
    epochs: int = 20,
    tolerance: float = 0.0,
    init: Any = None,
    dtype: Any = np.float32,
    num_threads: int | None = None,
    random_state: Any = None,
    callback: Callback | None = None,
    progress: bool = False,
    raise_on_interrupt: bool = False,
    checkpoint: Any = None,
    device: str | torch.device = "cpu",
    memory_budget: int | None = None,
    batch_size: int | None = None,
) -> Factors:
    """Factor X by minibatch stochastic gradient descent on a torch device.

    What is minimised, every argument but the last three, the starting factors and the result are those of
    `lfm_np.sgd`; see there. The steps are taken in batches: all records of a batch move their rows by the slopes before
    the batch, and the moves of one row add up. λ is a part of each move: a row that moves r times in a batch shrinks by
    r·η·λ of what it was before it.

    Parameters
    ----------
    loss
        A built-in loss, or your own with a method ``torch_value`` (`lfm_np.torch_backend.losses`).
    device : {"cpu", "cuda", "cuda:1", …, "mps", "auto"} or torch.device
        "auto" takes CUDA, else MPS (float32 only), else the CPU.
    memory_budget : int, optional
        Bytes that a batch may take on the device, 1 MiB at least; a batch that would take more is made smaller. By
        default 32 MiB on a CPU, a quarter of the free memory of a CUDA device, and 256 MiB on MPS.
    batch_size : int, optional
        Records a batch. By default as many as move the most popular item 64 times, between 256 and 16,384. Larger
        batches are faster and less stable.

    Returns
    -------
    Factors
        As from `lfm_np.sgd`; ``params`` holds ``batch_size`` and ``device`` instead of ``blocks``.

    Raises
    ------
    TypeError, ValueError
        A bad argument; the message names it.
    MemoryError
        The fit would take more than the device has; see `lfm_np.estimate_memory`.
    SolverError
        The factors diverged; ``.factors`` is as in `lfm_np.sgd`.

    Notes
    -----
    The order of the cells and all negatives are functions of ``random_state`` alone, the same on every device; the
    first negative of a stored cell is the one that `lfm_np.sgd` draws. Further negatives and candidates come from all
    items. An epoch waits for the device once. Adding up moves in parallel makes CUDA's last digits vary between runs.
    With many factors and negatives the budget limits the batch, and on CUDA so does what else is in its memory: other
    batches are another result, and another run for a checkpoint. Name ``memory_budget`` to repeat one.

    Memory on the device: 72 bytes a stored cell while an epoch's order is made, the factors twice, and the budget.

    Examples
    --------
    >>> import lfm_np
    >>> X = lfm_np.to_csr(lfm_np.datasets.make_interactions(500, 40, 4, random_state=0), shape=(500, 40))
    >>> factors = lfm_np.torch_backend.sgd(X, lfm_np.losses.BPR(), factors=4, epochs=5, random_state=0)
    >>> factors.history[-1]["sampled_loss"] < factors.history[0]["sampled_loss"]
    True
    """
    run = Run(checkpoint, "torch_backend.sgd", random_state)
    threads = validation.check_num_threads(num_threads)
    where = check_device(device, validation.check_dtype("dtype", dtype), memory_budget)
    plan = make_plan(
        *(X, loss, sampler, negatives, factors, learning_rate, schedule, regularization, biases, dtype),
        num_threads=threads,
        memory=where.memory(),
    )
    loop = check_loop("epochs", epochs, tolerance, "sampled_loss", callback, progress, raise_on_interrupt)
    loop = loop._replace(callback=as_outside(loop.callback))
    start = validation.check_init(init, plan.X.shape, plan.rule.factors, bool(biases), plan.dtype)
    losses.check_loss(loss)
    size = None if batch_size is None else validation.check_int("batch_size", batch_size, 1)
    plan = seeded(plan, run.random_state)

    with sigint_noted() as interrupted, torch_threads(threads), torch.inference_mode():
        with Pool(threads, interrupted) as pool:
            first = Start(plan, start, pool)
        state = _State(plan, losses.frozen(loss, plan.protocol), first, where, size, interrupted)
        params = {name: value for name, value in plan.params.items() if name != "blocks"}
        params |= {"seed": run.seed} | loop.params | {"skipped_rows": int(first.skipped.sum())}
        params |= {"batch_size": state.batch_size, "device": str(where.device)}
        del first
        run.resume(state, plan.X, params | {"code of loss": code_of(loss, plan.protocol, "torch_value")}, start)

        result = partial(state.result, params=params, threads=threads)
        history, status = run_sweeps(loop, state.sweep, result, interrupted, run)
        return interrupted.said_in(result(history, status), raise_on_interrupt)


# ---- the state of a run ---------------------------------------------------------------------------------------------


class _State:
    """The model and the stored cells on the device. ``kept`` is the model after the last whole epoch."""

    def __init__(
        self,
        plan: Plan,
        loss: Any,
        first: Start,
        device: Device,
        batch_size: int | None,
        interrupted: Callable[[], bool],
    ) -> None:
        self._plan, self._loss, self._device, self._interrupted = plan, loss, device, interrupted
        X, free = plan.X, first.free
        self._users = device.tensor(np.repeat(np.arange(X.shape[0]), np.diff(X.indptr)))
        self._cells = device.tensor(np.flatnonzero(np.repeat(free > 0, np.diff(X.indptr))))
        self._items, self._values = device.tensor(X.indices.astype(np.int64)), device.tensor(X.data)
        self._sampler, self._log_q, self._log_free = None, None, None
        if plan.masses is not None:
            self._sampler = Sampler(X.indptr, X.indices, plan.masses, free, device)
            if plan.protocol.correct_logq:
                self._log_q, self._log_free = (device.tensor(part, device.wide) for part in plan.log_q(free))
        self._model = _model(plan, first, device)
        self._draws = max(plan.rule.negatives, plan.rule.trials), plan.rule.candidates
        self.batch_size, self._drawn_at_once = self._fitting(batch_size)
        self.done, self.kept = 0, self._model.copy()

    def _fitting(self, asked: int | None) -> tuple[int, int]:
        """Records a batch, as asked or by default, and records whose draws are made at once (whole batches).

        Half of the byte budget is for either.
        """
        X, rule, half = self._plan.X, self._plan.rule, self._device.budget // 2
        if asked is None:
            top = np.bincount(X.indices, minlength=1).max() if X.nnz else 1
            asked = int(np.clip(MOST_STEPS * X.nnz / max(top, 1), SMALLEST_BATCH, LARGEST_BATCH))
        draws = max(math.prod(self._draws), 1)
        record = X.data.itemsize * rule.factors * (draws + 4 * (rule.negatives + 2)) + WORDS * (draws + 1)
        batch = max(1, min(asked, half // record))
        return batch, batch * max(1, half // (WORDS * (draws + 1)) // batch)

    def sweep(self) -> dict[str, Any]:
        """One epoch, kept if all of it is finite; its record. Waits for the device at its end."""
        number, rate, nnz = self.done + 1, self._plan.rate(self.done), self._plan.X.nnz
        total = torch.zeros((), dtype=self._device.wide, device=self._device.device)
        for records in self._batches(number):
            if self._interrupted():
                raise Interrupted
            total += steps.step(self._model, self._plan, self._loss, records, rate, self._device.wide)
        finite = torch.stack([torch.isfinite(part).all() for part in self._model.tensors().values()]).all()
        loss, finite = torch.stack([total, finite.to(total.dtype)]).tolist()
        if not np.isfinite(loss) or not finite:
            raise self._plan.diverged(number, "a smaller batch_size, ")
        self.done = number
        self._keep()
        return {"sampled_loss": loss / max(nnz, 1)}

    def _keep(self) -> None:
        for source, target in zip(self._model.tensors().values(), self.kept.tensors().values()):
            target.copy_(source)

    def _batches(self, number: int) -> Iterator[steps.Records]:
        """The records of an epoch in random order; the draws of many batches are made at once."""
        order = self._cells[torch.argsort(bits(key(self._plan.seed, number, ORDER), self._cells), stable=True)]
        for cells in order.split(self._drawn_at_once) if len(order) else ():
            parts = [picked(source, cells) for source in (self._users, self._items, self._values)]
            if self._sampler is not None:
                parts.append(self._draw(number, cells, parts[0]))
            for users, items, values, *drawn in zip(*(part.split(self.batch_size) for part in parts)):
                if drawn:
                    yield self._with_negatives(users, items, values, drawn[0])
                else:
                    yield steps.Records(users, items[:, None], values)

    def _draw(self, number: int, cells: torch.Tensor, users: torch.Tensor) -> torch.Tensor:
        """Candidates (cells, negatives or trials, candidates of each)."""
        assert self._sampler is not None
        stream, nnz = key(self._plan.seed, number, NEGATIVES), self._plan.X.nnz
        positions = cells[:, None] + nnz * torch.arange(math.prod(self._draws), device=cells.device)
        drawn = self._sampler.draw(stream, positions, users[:, None].expand_as(positions))
        return drawn.view(len(cells), *self._draws)

    def _with_negatives(
        self, users: torch.Tensor, items: torch.Tensor, values: torch.Tensor, drawn: torch.Tensor
    ) -> steps.Records:
        """Choose negatives: the best-scored of each one's candidates; of WARP's, the first that violates."""
        if drawn.shape[2] > 1:
            best = steps.score(self._model, self._plan, users, drawn).argmax(2, keepdim=True)
            drawn = drawn.gather(2, best)
        negatives = drawn[:, :, 0]
        if self._plan.rule.trials:
            return self._first_violating(users, items, negatives, values)
        log_q = None
        if self._log_q is not None and self._log_free is not None:
            log_q = picked(self._log_q, negatives) - picked(self._log_free, users)[:, None]
        return steps.Records(users, torch.cat([items[:, None], negatives], 1), values, log_q=log_q)

    def _first_violating(
        self, users: torch.Tensor, items: torch.Tensor, tried: torch.Tensor, values: torch.Tensor
    ) -> steps.Records:
        scores = steps.score(self._model, self._plan, users, torch.cat([items[:, None], tried], 1)).to(
            self._device.wide
        )
        unweighted = self._plan.protocol._replace(weighted=False)
        pairs = torch.stack([scores[:, :1].expand_as(scores[:, 1:]), scores[:, 1:]], 2).view(-1, 2)
        found, _ = losses.evaluate(self._loss, unweighted, pairs, torch.ones_like(pairs[:, 0]))
        violates = (found > 0).view(tried.shape)
        first = violates.to(torch.int8).argmax(1, keepdim=True)
        rank = ((len(self._model.items) - 1) // (first[:, 0] + 1)).clamp_min(1)
        weight = torch.where(violates.any(1), rank.to(scores.dtype).log1p(), 0)
        ids = torch.cat([items[:, None], tried.gather(1, first)], 1)
        return steps.Records(users, ids, values, rank_weight=weight)

    def parts(self) -> dict[str, np.ndarray]:
        """The model after the last whole epoch."""
        return {name: part.cpu().numpy() for name, part in self.kept.tensors().items()}

    def restore(self, parts: dict[str, np.ndarray], sweeps: int) -> None:
        for name, part in self._model.tensors().items():
            part.copy_(self._device.tensor(parts[name]))
        self.done = sweeps
        self._keep()

    def result(self, history: list[dict[str, Any]], status: Status, params: dict[str, Any], threads: int) -> Factors:
        kept, biases = self.kept, self._plan.biases
        U, V = kept.users, kept.items
        if self._plan.rule.cosine:
            U, V = (W * steps._inverse_norm(W.to(self._device.wide))[:, None].to(W.dtype) for W in (U, V))
        host = lambda bias: None if bias is None else bias.cpu().numpy().copy()  # noqa: E731
        return Factors(
            *self._plan.in_canonical_basis(U.cpu().numpy(), V.cpu().numpy(), threads, self.done),
            user_bias=host(kept.user_bias),
            item_bias=host(kept.item_bias),
            global_bias=self._plan.rule.mean if biases is True else None,
            history=history,
            status=status,
            params=params,
        )


def _model(plan: Plan, first: Start, device: Device) -> steps.Model:
    """The start that `lfm_np.sgd` has, on the device."""
    k, source = plan.rule.factors, first.model
    parts = {"users": source.users[:, :k], "items": source.items[:, :k]}
    if plan.biases:
        parts["item_bias"] = source.item_bias
    if plan.biases is True:
        parts["user_bias"] = source.user_bias
    tensors = {name: device.tensor(array) for name, array in parts.items()}
    squares = {name: torch.ones(len(W), dtype=device.wide, device=device.device) for name, W in tensors.items()}
    return steps.Model(
        tensors["users"],
        tensors["items"],
        tensors.get("user_bias"),
        tensors.get("item_bias"),
        squares if plan.schedule == "adagrad" else {},
    )
