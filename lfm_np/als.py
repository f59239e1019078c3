"""Alternating least squares: exact, deterministic, for implicit feedback and ratings."""

from __future__ import annotations

import os
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import scipy.sparse as sp

from lfm_np.canonical import canonical, rows_at_once
from lfm_np.checkpoint import Run
from lfm_np.errors import SolverError
from lfm_np.factors import Factors, Status
from lfm_np.half_sweep import prepare_fixed, rotated, solve_rows
from lfm_np.kernels.als_rows import aligned
from lfm_np.kernels.jit import Pool
from lfm_np.memory import refuse_what_cannot_fit
from lfm_np.problem import Problem, check_problem, narrow
from lfm_np.quiet import quietly
from lfm_np.row_plan import STEP_COSTS, Side, plan_side
from lfm_np.stored import StoredMatrix
from lfm_np.stored.files import fixed_mean
from lfm_np.stored.sides import StoredSide, stored_sides
from lfm_np.sweeps import Callback, check_loop, run_sweeps, sigint_noted
from lfm_np.transposing import transposed
from lfm_np.validation import (
    check_choice,
    check_init,
    check_num_threads,
    check_random_state,
    frozen,
)


def als(
    X: Any,
    *,
    factors: int = 64,
    regularization: float = 0.01,
    alpha: float = 1.0,
    unobserved_weight: float | None = None,
    regularization_exponent: float = 0.0,
    weighting: str = "hu-koren",
    iterations: int = 15,
    tolerance: float = 0.0,
    solver: str = "auto",
    biases: bool = False,
    init: Any = None,
    dtype: Any = np.float32,
    num_threads: int | None = None,
    random_state: Any = None,
    callback: Callback | None = None,
    progress: bool = False,
    raise_on_interrupt: bool = False,
    checkpoint: Any = None,
) -> Factors:
    r"""Factor a sparse matrix by alternating least squares.

    Minimises over U (m × k) and V (n × k)

    .. math:: J = \sum_{(u,i) \in \Omega} c_{ui} (p_{ui} - u \cdot v)^2
              + \alpha_0 \sum_{(u,i) \notin \Omega} (u \cdot v)^2
              + \sum_u \lambda_u \|u\|^2 + \sum_i \lambda_i \|v\|^2

    over the stored cells Ω, with :math:`\lambda_u = \lambda (n_u + \alpha_0 n)^\nu` and
    :math:`\lambda_i = \lambda (n_i + \alpha_0 m)^\nu` for rows of n_u and columns of n_i stored cells.

    Parameters
    ----------
    X : sparse matrix or array, shape (m, n), Interactions or StoredMatrix
        Any scipy format, or a matrix on disk. Canonical CSR of the working dtype is used where it lies; anything else
        is copied, and X is never changed; nor may a callback or another thread change it during the fit. Duplicates
        are summed and stored zeros count as absent; with ``weighting="ratings"`` a zero is a value and duplicates are
        refused.
    factors : int
        k, the number of latent dimensions, 1 to 65,536.
    regularization : float
        λ ≥ 0.
    alpha : float
        Weight of a stored value, ≥ 0; unused by "ratings".
    unobserved_weight : float, optional
        α₀ ≥ 0, the confidence of a cell that is not stored. None is 1, and 0 for "ratings", which allows no other.
    regularization_exponent : float
        ν ≥ 0. 0 is plain λ, 1 scales with the number of cells (ALS-WR).
    weighting : {"hu-koren", "ials", "confidence", "ratings"}
        How a stored value x becomes a confidence c and a target p:

        ============  ==========  ==============  =============================
        weighting     c           p               reference
        ============  ==========  ==============  =============================
        "hu-koren"    1 + αx      1               Hu, Koren, Volinsky [1]_
        "ials"        α₀ + αx     αx/(α₀ + αx)    Rendle et al. [2]_
        "confidence"  αx          1               the implicit library
        "ratings"     1           x               ALS-WR [3]_ (with ν = 1)
        ============  ==========  ==============  =============================
    iterations : int
        Sweeps at most; a sweep solves all users from V, then all items from the new U.
    tolerance : float
        Stop once a sweep, but the first, lowers J by less than this share of what J was. 0 never stops early, nor does
        a J of 0.
    solver : {"auto", "exact", "cg", "subspace"}
        "exact" solves every row's normal equations. "cg" takes two steps of preconditioned conjugate gradients from the
        row's old value, and "subspace" (iALS++ [4]_) solves for 64 factors after another, wherever that is cheaper than
        the exact solution; the other rows are solved. "auto" is "cg" for implicit feedback of 64 or more factors where
        a sweep is estimated to cost less so, and else "exact". ``params`` tells which, and how many rows took a step.
    biases : bool
        With "ratings": fit x ≈ μ + b_u + b_i + u·v, μ the mean rating, each bias penalised like its row's factors.
    init : (U, V) or Factors, optional
        Starting factors of shapes (m, k) and (n, k); the default draws V from N(0, (0.1/√k)²), and U, which is solved
        first, is 0. With ``biases`` those of Factors are started from too, and 0 where there are none; μ is the mean
        rating of X whatever theirs is.
    dtype : {float32, float64}
        Storage and arithmetic. In float32, Gram matrices of whole sides, long sums and the objective are still summed
        in float64, and a row whose system is too ill-conditioned for float32 is solved again in float64.
    num_threads : int, optional
        None takes the cores this process may use. The result is the same, bit for bit, for any number.
    random_state : None, int, SeedSequence, Generator or RandomState
        The last two move on, once all other arguments are checked; also where a checkpoint is then refused.
    callback : callable, optional
        ``callback(record, factors)`` after each sweep; what it adds to ``record`` stays in the history, what it changes
        there does not. ``factors`` is computed when first looked at, which must be within the callback. StopIteration
        ends the run with what there is; other exceptions propagate.
    progress : bool
        Show a progress bar with the objective.
    raise_on_interrupt : bool
        Ctrl-C ends the run with status INTERRUPTED and the last whole sweep (the start, within the first); True raises
        KeyboardInterrupt instead. Either way a checkpoint has that sweep. (Another handler than Python's own,
        as within `asyncio.run`, is left to do what it does.)
    checkpoint : str, path or Checkpoint, optional
        A file that keeps the state of the run, replaced in one step after every sweep, or every so many seconds with
        ``Checkpoint(path, every)``. Where it is there already, the run goes on from it, to the same bits as without a
        break; a file of another X or of other arguments, ``random_state`` among them, is refused. ``iterations`` (no
        fewer than were done), ``tolerance``, ``num_threads``, ``callback``, ``progress`` and ``raise_on_interrupt`` may
        differ. A run that has converged does no other sweep until ``tolerance`` is smaller.

    Returns
    -------
    Factors
        In the canonical basis (VᵀV diagonal, descending); ``history`` holds for each sweep ``iteration`` (1, 2, …),
        ``objective_users`` and ``objective`` (J after either half-sweep, over all cells, float64; of a float32 fit to
        10⁻⁵ of Σ c·p², where `objective` has more digits) and ``seconds``. ``params``: the arguments, what was chosen,
        and ``seed``, the ``random_state`` that repeats the fit (None for an object).

    Raises
    ------
    TypeError, ValueError
        For a bad argument; the message names it.
    MemoryError
        The fit would take more than there is; see `estimate_memory`.
    OSError
        The checkpoint cannot be read or written.
    SolverError
        When a row's normal equations are singular in float64 too; ``.factors`` is the last complete sweep.

    Notes
    -----
    *Rows.* With Y the other side, YᵀY is rotated to a diagonal Λ once a half-sweep. A row with n_u cells then needs
    either the k × k system (α₀Λ + λI + Y_uᵀ D Y_u) x = Y_uᵀ t, or by Woodbury the n_u × n_u system
    I + √D Y_u (α₀Λ + λI)⁻¹ Y_uᵀ √D, where D = diag(c − α₀) and t = c·p. Both are exact; each row takes the cheaper.

    *Steps.* In the rotated basis A = α₀Λ + λI + Y_uᵀ D Y_u, so that a product A p costs 2 n_u·k multiply-adds and no
    k × k matrix, and its exact diagonal is at hand as the preconditioner. The objective never rises, and is measured
    from the residuals as exactly as for "exact". Unlike the paper, which takes all blocks of the factors in the given
    basis, "subspace" works in the rotated one, and solves short rows.

    *Cost* of a sweep: O(Σ_rows n·k·min(n, k) + min(n, k)³) multiply-adds and O((m + n) k²) for the Gram matrices.

    *Memory* beyond X: its transpose, U and V twice with k padded to a multiple of 16, and scratch of O(k²) a thread;
    `estimate_memory` says how much.

    References
    ----------
    .. [1] Yifan Hu, Y. Koren, C. Volinsky. Collaborative filtering for implicit feedback datasets. ICDM 2008, eq. 3-5.
    .. [2] S. Rendle, W. Krichene, L. Zhang, Y. Koren. Revisiting the performance of iALS on item recommendation
       benchmarks. RecSys 2022, eq. 1-4 and §3.3 (ν).
    .. [3] Y. Zhou, D. Wilkinson, R. Schreiber, R. Pan. Large-scale parallel collaborative filtering for the Netflix
       Prize. AAIM 2008.
    .. [4] S. Rendle, W. Krichene, L. Zhang, Y. Koren. iALS++: speeding up matrix factorization with subspace
       optimization. 2021, algorithm 2.

    Examples
    --------
    >>> import lfm_np
    >>> train, test = lfm_np.datasets.make_interactions_train_test(2000, 100, 6, random_state=0)
    >>> X = lfm_np.to_csr(train, shape=(2000, 100))
    >>> factors = lfm_np.als(X, factors=8, unobserved_weight=0.1, iterations=5, random_state=0)
    >>> factors.item_factors.shape
    (100, 8)
    >>> objectives = [record["objective"] for record in factors.history]
    >>> objectives == sorted(objectives, reverse=True)
    True
    """
    run = Run(checkpoint, "als", random_state)
    threads = check_num_threads(num_threads)
    problem = check_problem(
        X,
        factors=factors,
        regularization=regularization,
        alpha=alpha,
        unobserved_weight=unobserved_weight,
        exponent=regularization_exponent,
        weighting=weighting,
        biases=biases,
        dtype=dtype,
        stored=True,
        num_threads=threads,
    )
    loop = check_loop("iterations", iterations, tolerance, "objective", callback, progress, raise_on_interrupt)
    solver = check_choice("solver", solver, SOLVERS)
    start = check_init(init, problem.X.shape, problem.factors, biases, problem.X.dtype)
    if not isinstance(problem.X, StoredMatrix):  # which has a limit of its own
        refuse_what_cannot_fit("als", problem.X, factors=problem.factors, biases=problem.biases, num_threads=threads)
    rng = check_random_state(run.random_state)  # last: a RandomState moves on
    solver = problem.auto_solver() if solver == "auto" else solver

    with sigint_noted() as interrupted, Pool(threads, interrupted) as pool:
        state = _State(problem, start, rng, pool, solver)
        params = problem.params | {"solver": solver, "seed": run.seed} | loop.params | state.choices
        run.resume(state, getattr(problem.X, "fingerprint", problem.X), params, start)

        result = partial(state.result, params=params)
        history, status = run_sweeps(loop, state.sweep, result, interrupted, run)
        state.finish()
        return interrupted.said_in(result(history, status), raise_on_interrupt)


SOLVERS = ("auto", "exact", *STEP_COSTS)


def draw_items(V: np.ndarray, rng: np.random.Generator) -> None:
    """Fill V (n × k) with item factors to start from, N(0, (0.1/√k)²).

    Drawn in float32 for either dtype, so that float32 and float64 runs start from the same numbers.
    """
    step = rows_at_once(V.shape[1])
    for lo in range(0, len(V), step):
        rows = V[lo : lo + step]
        rows[:] = rng.standard_normal(rows.shape, dtype=np.float32) * np.float32(0.1 / np.sqrt(V.shape[1]))


# ---- the state of a run ---------------------------------------------------------------------------------------------


class _State:
    """Factor matrices with room for the next sweep beside them, so that a sweep is all or nothing."""

    def __init__(
        self, problem: Problem, start: tuple[Any, ...] | None, rng: np.random.Generator, pool: Pool, solver: str
    ) -> None:
        self._problem, self._pool = problem, pool
        X = problem.X
        self._users: Side | StoredSide
        self._items: Side | StoredSide
        if isinstance(X, StoredMatrix):
            self._users, self._items = stored_sides(problem, solver, pool.num_threads)
            self._mean = X.mean if problem.biases else 0.0
            self._empty, maps = X.factor_matrix, X.maps_factors
        else:
            self._users, self._items = _sides(problem, solver, pool)
            self._mean = fixed_mean(X.data) if problem.biases else 0.0
            self._empty, maps = aligned, False
        self._mapped_by = os.getpid() if maps else None
        self._U, self._next_U = (self._empty((X.shape[0], problem.columns), X.dtype) for _ in range(2))
        self._V, self._next_V = (self._empty((X.shape[1], problem.columns), X.dtype) for _ in range(2))
        self._U[:], self._V[:] = 0, 0
        self._fill_start(start, rng)
        self._item_penalty = float(quietly(np.dot, self._items.lam.astype(np.float64), _squared_norms(self._V)))

    def _fill_start(self, start: tuple[Any, ...] | None, rng: np.random.Generator) -> None:
        k = self._problem.factors
        if start is None:
            draw_items(self._V[:, :k], rng)
            return
        U, V, user_bias, item_bias = start
        self._U[:, :k], self._V[:, :k] = U, V
        if self._problem.biases:
            self._U[:, k], self._V[:, k] = user_bias, item_bias

    @property
    def choices(self) -> dict[str, Any]:
        """What was chosen for the rows of either side."""
        sides = {"user_rows": self._users, "item_rows": self._items}
        return {name: side.summary() for name, side in sides.items()}

    def _refuse_fork(self) -> None:
        """A child of a fork shares mapped factors with its parent, which goes on writing to them."""
        if self._mapped_by not in (None, os.getpid()):
            raise RuntimeError(
                "a fit with factors_in cannot go on in a fork, which shares the mapped factors with its parent; "
                "end the child in the callback, and look at the callback's factors before the fork"
            )

    def sweep(self) -> dict[str, Any]:
        """Users from V, items from the new U; the objective after either half."""
        self._refuse_fork()
        loss, penalty = self._half(self._users, self._V, self._next_V, self._U, self._next_U)
        record = {"objective_users": loss + self._item_penalty}
        V = self._next_V if self._users.rotate or self._problem.biases else self._V  # as the new U: in the same basis
        loss, self._item_penalty = self._half(self._items, self._next_U, self._next_U, V, self._next_V)
        record["objective"] = loss + penalty
        if not np.isfinite(record["objective"]):
            raise SolverError("the objective overflows; lower alpha, or scale the values")
        self._U, self._next_U = self._next_U, self._U
        self._V, self._next_V = self._next_V, self._V
        return record

    def _half(
        self, side: Side | StoredSide, Y: np.ndarray, spare: np.ndarray, old: np.ndarray, X: np.ndarray
    ) -> tuple[float, float]:
        """Solve X from Y, which may be brought to another basis or given a column of ones in ``spare``.

        Rows that take a step start from ``old``, which is in the basis of Y.
        """
        problem, shift = self._problem, np.empty(0, Y.dtype)
        k = problem.factors
        bias = Y[:, k].copy() if problem.biases else None
        if bias is not None:
            shift = bias + Y.dtype.type(self._mean)
            if spare is not Y:
                spare[:] = Y
            Y = spare
            Y[:, k] = 1
        fixed = prepare_fixed(side.rotate, Y, spare, problem.weights, k + problem.biases, self._pool)
        stepped = side.stepped
        if fixed.basis is not None:
            rotated(old, fixed.basis, X, self._pool, only=stepped)
        else:
            step = rows_at_once(k)
            for lo in range(0, len(stepped), step):
                X[stepped[lo : lo + step]] = old[stepped[lo : lo + step]]
        loss = penalty = 0.0
        for part in side.parts():
            own = X[part.first : part.first + part.rows]
            more = solve_rows(part, fixed, problem.weights, frozen(shift), own, self._pool)
            loss, penalty = loss + more[0], penalty + more[1]
        if bias is not None:
            Y[:, k] = bias
        return loss, penalty

    def parts(self) -> dict[str, np.ndarray]:
        """What the next sweep depends on, without the padding."""
        self._refuse_fork()
        width = self._problem.factors + self._problem.biases
        penalty = np.array([self._item_penalty])
        return {"users": self._U[:, :width], "items": self._V[:, :width], "item_penalty": penalty}

    def restore(self, parts: dict[str, np.ndarray], sweeps: int) -> None:
        for name, array in self.parts().items():
            array[:] = parts[name]
        self._item_penalty = float(parts["item_penalty"][0])

    def finish(self) -> None:
        """Free what only a further sweep would need, so that the result has room."""
        del self._next_U, self._next_V, self._users, self._items

    def result(self, history: list[dict[str, Any]], status: Status, params: dict[str, Any]) -> Factors:
        self._refuse_fork()
        k = self._problem.factors
        U, V = canonical(self._U[:, :k], self._V[:, :k], self._pool.num_threads, self._empty)
        biases = self._problem.biases
        return Factors(
            U,
            V,
            user_bias=self._U[:, k].copy() if biases else None,
            item_bias=self._V[:, k].copy() if biases else None,
            global_bias=self._mean if biases else None,
            history=history,
            status=status,
            params=params,
        )


def _sides(problem: Problem, solver: str, pool: Pool) -> tuple[Side, Side]:
    """The rows and the columns."""
    X = narrow(problem.X)
    users, items = (_side(problem, csr, csr.shape[1], solver) for csr in (X, transposed(X, pool)))
    return users, replace(items, noun="column")


def _side(problem: Problem, csr: sp.csr_array, others: int, solver: str) -> Side:
    lam = problem.row_regularization(np.diff(csr.indptr), others)
    k = problem.factors + problem.biases
    return plan_side((csr.indptr, csr.indices, csr.data), lam, problem.weights, k, others, solver)


def _squared_norms(A: np.ndarray) -> np.ndarray:
    """Σ_f A[r, f]² in float64, without a float64 copy of A."""
    return np.einsum("rf,rf->r", A, A, dtype=np.float64, casting="same_kind")
