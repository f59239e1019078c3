"""Stochastic gradient descent on any loss with sampled negatives, parallel and reproducible."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from lfm_np import losses, sampling, validation
from lfm_np.checkpoint import Run
from lfm_np.factors import Factors
from lfm_np.kernels.jit import Pool
from lfm_np.losses.code import code_of
from lfm_np.sgd_epoch import Trainer
from lfm_np.sgd_plan import make_plan, seeded
from lfm_np.sweeps import Callback, check_loop, run_sweeps, sigint_noted


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
    raise_on_interrupt: bool = False,
    checkpoint: Any = None,
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
        value is allowed, and duplicates are refused. X is never changed; nor may a callback or another thread change it
        during the fit.
    loss
        One of `lfm_np.losses`, or your own class: see there.
    sampler : Uniform, Popularity, Hard or None
        `lfm_np.sampling`. None trains on stored cells only (pointwise losses: ratings).
    negatives : int
        M, negatives a stored cell, 1 to 10,000. Pairwise and pointwise losses add up over them.
    factors : int
        k, 1 to 65,536.
    learning_rate : float
        η of the first epoch.
    schedule : {"constant", "inverse", "adagrad"}
        η; η / (1 + e/10) in epoch e = 0, 1, …; or η / √(1 + Σ mean(g²)) with a sum for every row of U and V and
        every bias, over its steps so far and the present one, where g, λ in it, is what the row is moved by.
    regularization : float or mapping
        λ of all, or {"user": …, "item": …, "negative": …, "bias": …}: of the rows of the user, the stored item and the
        items drawn as negatives, and of every bias in the step. Parts left out are 0. Applied to the rows of each step,
        so rows with many cells are held as tightly as rows with few.
    biases : False, "item" or True
        No biases, b_i, or b_i and b_u and the constant μ. μ is the score that fits best, by itself, all stored cells
        and, with a sampler, their negatives, each weighted as in the loss, and stays; it is 0 for losses that are not
        pointwise, and without a sampler for those that want the same score of every stored cell, whatever its value
        (`Logistic`).
    epochs : int
        Passes over the stored cells.
    tolerance : float
        Stop once an epoch's sampled loss is less than this share below that of the epoch before; 0 never stops early.
    init : Factors or (U, V), optional
        Warm start. Of the biases of Factors those that ``biases`` asks for are started from, and 0 where there are
        none; μ is found anew whatever theirs is. By default rows are uniform with standard deviation 0.1/√k (1/√k for
        cosine losses), and zero where no stored cell brings them in.
    dtype : float32 or float64
        Of the factors. Losses are computed in float64.
    num_threads : int, optional
        By default all cores that the process may use.
    random_state : None, int, SeedSequence, Generator or RandomState
        The last two move on, once all other arguments are checked; also where a checkpoint is then refused.
    callback : callable, optional
        ``callback(record, factors)`` after each epoch, as in `als`. StopIteration ends the run with what there is;
        other exceptions leave.
    progress : bool
        Show a bar.
    raise_on_interrupt : bool
        Ctrl-C ends the run with status INTERRUPTED and the last whole epoch (the start, within the first); True raises
        KeyboardInterrupt instead. Either way a checkpoint has that epoch.
    checkpoint : str, path or Checkpoint, optional
        A file that keeps the state of the run, replaced in one step after every epoch, or every so many seconds with
        ``Checkpoint(path, every)``. Where it is there already, the run goes on from it, to the same bits as without a
        break; a file of another X or of other arguments, ``random_state`` among them, is refused, and one of a loss of
        your own with other code or numbers. ``epochs`` (no fewer than were done), ``tolerance``, ``num_threads``,
        ``callback``, ``progress`` and ``raise_on_interrupt`` may differ.

    Returns
    -------
    Factors
        In the canonical basis; of unit length for cosine losses, or zero. ``history``: iteration, sampled_loss (mean
        over the stored cells of the loss just before each step, 0 for those of skipped rows, float64), seconds.
        ``params``: the arguments, ``zeros`` ("keep": a stored zero is a value, also for ``seen=`` and `evaluate`;
        "drop": it counts as absent), ``blocks``, ``skipped_rows`` (rows that left nothing to draw), and ``seed``, the
        ``random_state`` that repeats the fit (None for an object).

    Raises
    ------
    TypeError, ValueError
        A bad argument; the message names it.
    MemoryError
        The fit would take more than there is; see `estimate_memory`.
    OSError
        The checkpoint cannot be read or written.
    SolverError
        The factors diverged; the message names the epoch, ``.factors`` holds those of the epoch before. It is None
        where they are finite and only their squares are not, which is seen when the result is made.

    Notes
    -----
    Time: O(nnz·(1 + M·candidates)·k) an epoch. Memory beyond X: 12 bytes a stored cell, 4 for its negative, 4 or 8
    where the loss reads the values, and the factors twice.

    Users are cut into G blocks and items into 2G, and cells of the grid that share neither rows nor items are trained
    side by side [1]_. Unlike there, negatives come from all items: the first negative of a cell is drawn before the
    epoch, exactly by q, and the grid has a cell for every pair of item blocks. Further negatives, candidates and trials
    of the same step come from the block of the first, so that each of them follows q, though they are not independent.
    All negatives of a step move by the slopes before the step, like a small batch; an item drawn twice is regularised
    twice, one after the other.

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
    run = Run(checkpoint, "sgd", random_state)
    threads = validation.check_num_threads(num_threads)
    plan = make_plan(
        *(X, loss, sampler, negatives, factors, learning_rate, schedule, regularization, biases, dtype),
        num_threads=threads,
        memory={"num_threads": threads},
    )
    loop = check_loop("epochs", epochs, tolerance, "sampled_loss", callback, progress, raise_on_interrupt)
    start = validation.check_init(init, plan.X.shape, plan.rule.factors, bool(biases), plan.dtype)
    plan = seeded(plan, run.random_state)

    with sigint_noted() as interrupted, Pool(threads, interrupted) as pool:
        trainer = Trainer(plan, start, pool)
        params = plan.params | {"seed": run.seed} | loop.params | {"skipped_rows": int(trainer.skipped.sum())}
        run.resume(trainer, plan.X, params | {"code of loss": code_of(loss, plan.protocol)}, start)

        result = partial(trainer.result, params=params)
        history, status = run_sweeps(loop, trainer.sweep, result, interrupted, run)
        return interrupted.said_in(result(history, status), raise_on_interrupt)
