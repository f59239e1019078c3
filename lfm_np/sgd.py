"""Stochastic gradient descent on any loss with sampled negatives, parallel and reproducible."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from tqdm import tqdm

from lfm_np import losses, sampling, validation
from lfm_np.errors import SolverError
from lfm_np.factors import Factors, Status
from lfm_np.kernels.jit import Pool
from lfm_np.sgd_epoch import Trainer
from lfm_np.sgd_plan import Plan, initial, make_plan

Callback = Callable[[dict[str, Any], Factors], None]


def sgd(
    X: Any,
    loss: Any = losses.BPR(),  # noqa: B008 (immutable)
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
    checkpoint: None = None,
) -> Factors:
    """Factor X by stochastic gradient descent on ``loss``, with negatives drawn from what each row has not stored.

    Minimises, one step a stored cell (u, i) with negatives j_1 … j_M ~ q(· | u),

        Σ_(u,i) E_j [ℓ(s_ui, s_uj_1, …, s_uj_M)] + ½λ‖·‖² of the rows in the step,    s_ui = μ + b_u + b_i + U_u·V_i.

    Every epoch visits every stored cell once, in an order and with negatives of its own. The result depends on the
    data, the arguments and ``random_state``, not on ``num_threads``: bit for bit.

    Parameters
    ----------
    X : sparse matrix, shape (m, n)
        scipy.sparse matrix or array, or Interactions. Duplicates are summed and stored zeros count as absent. For
        Squared, and for a pointwise loss of your own whose target is the stored value, a zero is a value, any finite
        value is allowed, and duplicates are refused.
    loss
        One of `lfm_np.losses`, or your own class: see there.
    sampler : Uniform, Popularity, Hard or None
        `lfm_np.sampling`. None trains on stored cells only (pointwise losses: ratings).
    negatives : int
        M, negatives a stored cell. Pairwise and pointwise losses add up over them.
    factors : int
        k.
    learning_rate : float
        η of the first epoch.
    schedule : {"constant", "inverse", "adagrad"}
        η; η / (1 + e/10) in epoch e = 0, 1, …; or η / √(1 + Σ mean(g²)) with a sum for every row of U and V.
    regularization : float or mapping
        λ, or {"user": …, "item": …, "negative": …, "bias": …}; parts left out are 0. Applied to the rows of each step,
        so rows with many cells are held as tightly as rows with few.
    biases : False, "item" or True
        No biases, b_i, or b_i and b_u and the constant μ. μ is the constant that fits best by itself, and stays.
    epochs : int
        Passes over the stored cells.
    tolerance : float
        Stop when the sampled loss of an epoch falls by less than this share of it; 0 never stops early.
    init : Factors or (U, V), optional
        Warm start. By default rows are uniform with standard deviation 0.1/√k (1/√k for cosine losses), and zero where
        no stored cell brings them in.
    dtype : float32 or float64
        Of the factors. Losses are computed in float64.
    num_threads : int, optional
        By default all cores that the process may use.
    random_state : None, int, SeedSequence, Generator or RandomState
    callback : callable, optional
        ``callback(record, factors)`` after each epoch. StopIteration ends the run with what there is; other exceptions
        leave.
    progress : bool
        Show a bar.
    checkpoint : None
        Not available for sgd yet.

    Returns
    -------
    Factors
        In the canonical basis; of unit length for cosine losses. ``history``: iteration, sampled_loss (mean over the
        stored cells of the loss just before each step, float64), seconds. ``params``: the arguments, and ``seed``,
        ``blocks``, ``skipped_rows`` (rows that left nothing to draw).

    Raises
    ------
    TypeError, ValueError
        A bad argument; the message names it.
    SolverError
        The factors diverged; the message names the epoch, ``.factors`` holds those of the epoch before.

    Notes
    -----
    Time: O(nnz·(1 + M·candidates)·k) an epoch. Memory beyond X: 16 bytes a stored cell, 4 or 8 more where the loss
    reads the values, and the factors twice.

    Users are cut into G blocks and items into 2G, and cells of the grid that share neither rows nor items are trained
    side by side [1]_. Unlike there, negatives come from all items: the first negative of a cell is drawn before the
    epoch, exactly by q, and the grid has a cell for every pair of item blocks. Further negatives, candidates and trials
    of the same step come from the block of the first, so that each of them follows q, though they are not independent.
    All negatives of a step move by the slopes before the step, like a small batch.

    References
    ----------
    .. [1] Gemulla, Nijkamp, Haas, Sismanis (2011), "Large-scale matrix factorization with distributed stochastic
       gradient descent".
    .. [2] Rendle, Freudenthaler, Gantner, Schmidt-Thieme (2009), "BPR: Bayesian personalized ranking from implicit
       feedback".
    .. [3] Duchi, Hazan, Singer (2011), "Adaptive subgradient methods for online learning and stochastic optimization"
       (here with one accumulator a row, which keeps the steps independent of a rotation of the factors).

    Examples
    --------
    >>> import numpy as np, scipy.sparse, lfm_np
    >>> X = scipy.sparse.csr_array(np.kron(np.eye(2), np.ones((6, 5))) * (np.arange(10) != np.arange(12)[:, None]))
    >>> factors = lfm_np.sgd(X, lfm_np.losses.BPR(), factors=2, epochs=200, random_state=0)
    >>> scores = factors.user_factors @ factors.item_factors.T
    >>> bool(scores[0, :5].min() > scores[0, 5:].max())
    True
    """
    plan = make_plan(
        X, loss, sampler, negatives, factors, learning_rate, schedule, regularization, biases, dtype, random_state
    )
    epochs = validation.check_int("epochs", epochs, 0)
    tolerance = validation.check_float("tolerance", tolerance, 0.0)
    threads = validation.check_num_threads(num_threads)
    validation.check_callback(callback)
    progress = validation.check_bool("progress", progress)
    if checkpoint is not None:
        raise ValueError(f"checkpoint must be None: sgd cannot be resumed yet, got {validation.shown(checkpoint)}")
    start = initial(plan, init)

    with Pool(threads) as pool, tqdm(total=epochs, disable=not progress, desc="sgd", unit="epoch") as bar:
        run = _Run(plan, Trainer(plan, start, pool), epochs, tolerance)
        return run.result(run.loop(callback, bar))


class _Run:
    """The epochs of one call: their records, and why they end."""

    def __init__(self, plan: Plan, trainer: Trainer, epochs: int, tolerance: float) -> None:
        self.plan, self.trainer, self.epochs, self.tolerance = plan, trainer, epochs, tolerance
        self.history: list[dict[str, Any]] = []

    def loop(self, callback: Callback | None, bar: Any) -> Status:
        for e in range(self.epochs):
            try:
                record = self._epoch(e)
            except KeyboardInterrupt:
                return Status.INTERRUPTED
            bar.update()
            bar.set_postfix(sampled_loss=record["sampled_loss"])
            if callback is not None:
                try:
                    callback(record, self.result(Status.MAX_ITERATIONS))
                except StopIteration:
                    return Status.STOPPED
            if self._converged():
                return Status.CONVERGED
        return Status.MAX_ITERATIONS

    def _epoch(self, e: int) -> dict[str, Any]:
        started = time.perf_counter()
        rate = self.plan.rate(e)
        total = self.trainer.epoch(e + 1, self.plan.rule._replace(rate=rate))
        if not np.isfinite(total) or not self.trainer.keep():
            raise SolverError(
                f"sgd diverged in epoch {e + 1} at learning_rate {rate:g}: the factors are no longer finite; try "
                f'learning_rate={self.plan.rule.rate / 4:g}, schedule="adagrad" or more regularization',
                self.result(Status.MAX_ITERATIONS),
            )
        record = {
            "iteration": e + 1,
            "sampled_loss": total / max(self.plan.X.nnz, 1),
            "seconds": time.perf_counter() - started,
        }
        self.history.append(record)
        return record

    def _converged(self) -> bool:
        if self.tolerance == 0 or len(self.history) < 2:
            return False
        before, now = (record["sampled_loss"] for record in self.history[-2:])
        return before - now < self.tolerance * abs(before)

    def result(self, status: Status) -> Factors:
        """The state after the last whole epoch."""
        plan, kept = self.plan, self.trainer.kept
        U, V = (W[:, : plan.rule.factors].copy() for W in (kept.users, kept.items))
        if plan.rule.cosine:
            U, V = (_unit(W) for W in (U, V))
        return Factors(
            U,
            V,
            user_bias=kept.user_bias.copy() if plan.biases is True else None,
            item_bias=kept.item_bias.copy() if plan.biases else None,
            global_bias=plan.rule.mean if plan.biases is True else None,
            history=self.history,
            status=status,
            params={**plan.params, "blocks": plan.grid.tasks, "skipped_rows": int(self.trainer.skipped.sum())},
        )


def _unit(W: np.ndarray) -> np.ndarray:
    """Rows of length one; zero rows stay."""
    norms = np.sqrt(np.einsum("rf,rf->r", W, W, dtype=np.float64))
    return (W / np.where(norms > 0, norms, 1)[:, None]).astype(W.dtype)
