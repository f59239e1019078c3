"""als() on a torch device: the same objective, arguments, start and result as `lfm_np.als`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import scipy.sparse as sp

from lfm_np.als import SOLVERS, draw_items
from lfm_np.canonical import canonical
from lfm_np.checkpoint import Run
from lfm_np.errors import SolverError
from lfm_np.factors import Factors, Status
from lfm_np.kernels.jit import Interrupted
from lfm_np.memory import CELL_BYTES, DUAL_SHARE, refuse_what_cannot_fit
from lfm_np.problem import Problem, check_problem
from lfm_np.row_plan import exact_costs, rows_below_weight, step_pays
from lfm_np.stored.files import fixed_mean
from lfm_np.sweeps import Callback, check_loop, run_sweeps, sigint_noted
from lfm_np.torch_backend import step_rows, systems
from lfm_np.torch_backend.batches import Batch, make_batches
from lfm_np.torch_backend.device import Device, as_outside, check_device, torch, torch_threads
from lfm_np.torch_backend.systems import Fixed
from lfm_np.validation import (
    check_choice,
    check_init,
    check_num_threads,
    check_random_state,
)

NONE = 2**62  # no row
GRAM_ROWS = 1 << 14  # rows whose Gram matrix is summed at once


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
    device: str | torch.device = "cpu",
    memory_budget: int | None = None,
) -> Factors:
    """Factor a sparse matrix by alternating least squares, on a torch device.

    The objective, every argument but the last two, the starting factors and the result are those of `lfm_np.als`; see
    there. X must be in memory, no StoredMatrix. The same rows take a step of "cg" or "subspace", from the same old
    values. `lfm_np.torch_backend.crosscheck` compares the two.

    Parameters
    ----------
    device : {"cpu", "cuda", "cuda:1", …, "mps", "auto"} or torch.device
        "auto" takes CUDA, else MPS (float32 only), else the CPU.
    memory_budget : int, optional
        Bytes that a batch of rows may take on the device, 1 MiB at least, beside X, its transpose and two copies of the
        factors. The default is 32 MiB on a CPU (more is slower), a quarter of the free memory of a CUDA device, and 256
        MiB on MPS.
        A sweep that is repeated in float64 takes twice as much.

    Returns
    -------
    Factors
        As from `lfm_np.als`.

    Raises
    ------
    TypeError, ValueError
        For a bad argument; the message names it.
    MemoryError
        The fit would take more than the device has; see `lfm_np.estimate_memory`.
    SolverError
        When a row's normal equations are singular; ``.factors`` is the last complete sweep.

    Notes
    -----
    Rows are sorted by length and padded to batches (`lfm_np.torch_backend.batches`); a batch is one gather, one batched
    matrix product and one batched Cholesky factorisation. Rows with fewer cells than three quarters of k solve the
    smaller, dual system. Rows that take a step are gathered once for all its passes. A sweep waits for the device once,
    for its objective. On a device without Cholesky (MPS) systems are solved by conjugate gradients to rounding, and the
    host finds the basis of the steps.

    A float32 sweep in which a system is too ill-conditioned is done again in float64, and once more by eigenvalues if
    Cholesky fails there too; on MPS it raises SolverError. The Numba side repeats single rows, and solves those that
    would take a step. ``num_threads`` holds for torch's operations on a CPU, and may change the last digits. But for
    such rows results agree with those of `lfm_np.als` to rounding, not bit for bit, and on CUDA may differ between runs
    as far as cuBLAS does.

    Examples
    --------
    >>> import lfm_np
    >>> X = lfm_np.to_csr(lfm_np.datasets.make_interactions(500, 40, 4, random_state=0), shape=(500, 40))
    >>> here = lfm_np.als(X, factors=4, dtype="float64", random_state=0)
    >>> there = lfm_np.torch_backend.als(X, factors=4, dtype="float64", random_state=0, device="cpu")
    >>> bool(abs(here.item_factors - there.item_factors).max() < 1e-9)
    True
    """
    run = Run(checkpoint, "torch_backend.als", random_state)
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
        num_threads=threads,
    )
    loop = check_loop("iterations", iterations, tolerance, "objective", callback, progress, raise_on_interrupt)
    loop = loop._replace(callback=as_outside(loop.callback))
    solver = check_choice("solver", solver, SOLVERS)
    start = check_init(init, problem.X.shape, problem.factors, biases, problem.X.dtype)
    where = check_device(device, problem.X.dtype, memory_budget)
    refuse_what_cannot_fit("als", problem.X, factors=problem.factors, biases=problem.biases, **where.memory())
    rng = check_random_state(run.random_state)  # last: a RandomState moves on
    solver = problem.auto_solver() if solver == "auto" else solver

    with sigint_noted() as interrupted, torch_threads(threads), torch.inference_mode():
        state = _State(problem, start, rng, where, solver, interrupted)
        params = problem.params | {"solver": solver, "seed": run.seed} | loop.params
        params |= {"device": str(where.device)} | state.choices
        run.resume(state, problem.X, params | {"memory_budget": memory_budget}, start)

        result = partial(state.result, params=params, threads=threads)
        history, status = run_sweeps(loop, state.sweep, result, interrupted, run)
        return interrupted.said_in(result(history, status), raise_on_interrupt)


# ---- the state of a run ---------------------------------------------------------------------------------------------


class _Side:
    """The rows of one side on the device, their regularisation and their batches."""

    def __init__(self, problem: Problem, csr: sp.csr_array, device: Device, solver: str) -> None:
        lam = problem.row_regularization(np.diff(csr.indptr), csr.shape[1])
        self.lam, self.solver = device.tensor(lam), solver
        size, k = csr.data.itemsize, problem.factors + problem.biases
        kinds = _kinds(problem, csr, lam, solver, device.direct)
        self.rows = {name: int(np.count_nonzero(rows)) for name, rows in kinds.items()}
        per_cell = 2 * k * size
        row_bytes = {
            "dual": (6 * k * size, per_cell + 3 * int(DUAL_SHARE * k) * size),
            "primal": (4 * k * k * size, per_cell),
            "stepped": step_rows.row_bytes(solver, k, size),
        }
        self.batches = {
            kind: make_batches(csr, np.flatnonzero(kinds[kind]), (fixed, CELL_BYTES + per_cell), device)
            for kind, (fixed, per_cell) in row_bytes.items()
        }

    @property
    def rotate(self) -> bool:
        """Whether a row needs the basis in which the shared part is diagonal."""
        return bool(self.rows["dual"] or self.rows["stepped"])


def _kinds(problem: Problem, csr: sp.csr_array, lam: np.ndarray, solver: str, direct: bool) -> dict[str, np.ndarray]:
    """Which rows take which system, or a step.

    Rows take a step where the Numba kernels' costs say so, whatever those of the device are: the result is the same.
    The n × n system is for rows that are short, with λ > 0 and every c ≥ α₀.
    """
    lengths, k = np.diff(csr.indptr), problem.factors + problem.biases
    negative = rows_below_weight(csr.indptr, csr.data, problem.weights)
    exact_ns = np.minimum(*exact_costs(lengths, negative, k))
    stepped = step_pays(lengths, exact_ns, problem.columns, solver)
    short = (lengths > 0) & (lengths <= DUAL_SHARE * k)
    dual = short & (lam > 0) & ~stepped & ~negative & direct
    primal = (lengths > 0) & ~dual & ~stepped
    return {"dual": dual, "primal": primal, "stepped": stepped, "empty": lengths == 0}


class _State:
    """Factors on the device. A sweep writes new ones and replaces the old when all of it is done."""

    def __init__(
        self,
        problem: Problem,
        start: tuple[Any, ...] | None,
        rng: np.random.Generator,
        device: Device,
        solver: str,
        interrupted: Callable[[], bool],
    ) -> None:
        self._problem, self._device, self._interrupted = problem, device, interrupted
        X = problem.X
        self._users = _Side(problem, X, device, solver)
        self._items = _Side(problem, sp.csr_array(X.T.tocsr()), device, solver)
        self._mean = fixed_mean(X.data) if problem.biases else 0.0
        U, V = (np.zeros((rows, problem.factors + problem.biases), X.dtype) for rows in X.shape)
        _fill(problem, U, V, start, rng)
        self._U, self._V = device.tensor(U), device.tensor(V)

    @property
    def choices(self) -> dict[str, Any]:
        """How many rows of either side take which system, or a step."""
        return {"user_rows": self._users.rows, "item_rows": self._items.rows}

    def sweep(self) -> dict[str, Any]:
        """Users from V, items from the new U; the objective after either half."""
        wide = self._device.wide
        tries = [(self._U.dtype, False)] + [(wide, False)] * (self._U.dtype != wide) + [(wide, True)]
        for dtype, rescue in tries if self._device.direct else tries[:1]:
            U, V, losses, failed = self._try(self._U.to(dtype), self._V.to(dtype), rescue)
            if not failed:
                break
        if failed:
            raise SolverError(
                f"the normal equations of {failed} are singular, too ill-conditioned, overflow or cancel; "
                "raise regularization, or lower alpha, unobserved_weight or factors"
            )
        self._U, self._V = U, V
        return {"objective_users": losses[0], "objective": losses[1]}

    def _try(
        self, U: torch.Tensor, V: torch.Tensor, rescue: bool
    ) -> tuple[torch.Tensor, torch.Tensor, list[float], str]:
        """One sweep, and the first row or column that failed, if any; the only place that waits for the device."""
        old, dtype = self._penalty(self._items, V), self._U.dtype
        try:
            new_U, V, users, penalty, row = self._half(self._users, U, V, rescue)
            new_V, new_U, items, _, column = self._half(self._items, V, new_U, rescue, own=True)
        except torch.linalg.LinAlgError:  # of a Gram matrix that is not finite
            return U, V, [], "all rows"
        new_U, new_V = new_U.to(dtype), new_V.to(dtype)
        fine = torch.isfinite(new_U).all() & torch.isfinite(new_V).all()
        found = torch.stack([users + old, items + penalty, fine.to(users.dtype)])
        *losses, whole = found.tolist()
        failed = "" if whole and np.isfinite(losses).all() else "some rows"
        if min(int(row), int(column)) < NONE:
            failed = f"row {int(row)}" if int(row) < NONE else f"column {int(column)}"
        return new_U, new_V, losses, failed

    def _penalty(self, side: _Side, W: torch.Tensor) -> torch.Tensor:
        return (side.lam * (W * W).sum(1)).sum(dtype=self._device.wide)

    def _half(
        self, side: _Side, old: torch.Tensor, Y: torch.Tensor, rescue: bool, own: bool = False
    ) -> tuple[torch.Tensor, ...]:
        """Solve one side from Y: the rows, Y in the basis that was used, loss, penalty, the first row that failed.

        Y is changed in place where it is the sweep's ``own``, else its copy is.
        """
        problem, device = self._problem, self._device
        rotate = side.rotate and bool(problem.weights.a0)
        if (rotate or problem.biases) and not own:
            Y = Y.clone()
        bias = Y[:, -1].clone() if problem.biases else None
        if bias is not None:
            Y[:, -1] = 1
        G, basis = _prepared(Y, problem.weights.a0, rotate, device)
        shift = None if bias is None else bias + self._mean
        fixed = Fixed(Y, G, shift, problem.weights, basis, old)
        lam = side.lam.to(Y.dtype)
        new = torch.zeros_like(old)
        loss, penalty = (torch.zeros((), dtype=device.wide, device=device.device) for _ in range(2))
        failed = torch.full((), NONE, dtype=torch.int64, device=device.device)
        for solve, batch in self._batches(side, rescue):
            if self._interrupted():
                raise Interrupted
            solved = solve(batch, fixed, lam[batch.rows], device.wide, device.direct)
            new[batch.rows] = solved.x
            loss, penalty = loss + solved.loss, penalty + solved.penalty
            failed = torch.minimum(failed, torch.where(solved.failed, batch.rows, NONE).amin())
        if bias is not None:
            Y[:, -1] = bias
        return new, Y, loss, penalty, failed

    def parts(self) -> dict[str, np.ndarray]:
        return {"users": self._U.cpu().numpy(), "items": self._V.cpu().numpy()}

    def restore(self, parts: dict[str, np.ndarray], sweeps: int) -> None:
        self._U, self._V = self._device.tensor(parts["users"]), self._device.tensor(parts["items"])

    def _batches(self, side: _Side, rescue: bool) -> Iterator[tuple[Callable[..., systems.Solved], Batch]]:
        """What solves which rows."""
        if not rescue:
            yield from ((systems.solve_dual, batch) for batch in side.batches["dual"])
            yield from ((systems.solve_primal, batch) for batch in side.batches["primal"])
            yield from ((step_rows.STEPS[side.solver], batch) for batch in side.batches["stepped"])
            return
        solved = side.batches["dual"] + side.batches["primal"]
        if side.solver == "cg":  # which eigenvalues would not help
            yield from ((step_rows.step_cg, batch) for batch in side.batches["stepped"])
        else:
            solved += side.batches["stepped"]
        for batch in solved:
            k, width = self._U.shape[1], batch.columns.shape[1]
            fit = self._device.budget // (8 * (4 * k * k + 2 * k * width))
            for part in batch.split(max(1, fit)):
                yield partial(systems.solve_primal, rescue=True), part

    def result(self, history: list[dict[str, Any]], status: Status, params: dict[str, Any], threads: int) -> Factors:
        U, V = (W.cpu().numpy() for W in (self._U, self._V))
        k, biases = self._problem.factors, self._problem.biases
        return Factors(
            *canonical(U[:, :k], V[:, :k], threads),
            user_bias=U[:, k].copy() if biases else None,
            item_bias=V[:, k].copy() if biases else None,
            global_bias=self._mean if biases else None,
            history=history,
            status=status,
            params=params,
        )


def _fill(
    problem: Problem, U: np.ndarray, V: np.ndarray, start: tuple[Any, ...] | None, rng: np.random.Generator
) -> None:
    k = problem.factors
    if start is None:
        draw_items(V[:, :k], rng)
        return
    U[:, :k], V[:, :k] = start[:2]
    if problem.biases:
        U[:, k], V[:, k] = start[2:]


def _prepared(Y: torch.Tensor, a0: float, rotate: bool, device: Device) -> tuple[torch.Tensor, torch.Tensor | None]:
    """α₀YᵀY, summed wide; with ``rotate`` Y is brought to the basis that makes it diagonal, which is returned too.

    A device without eigenvalues has them from the host, the only thing that a sweep there waits for.
    """
    basis = None
    k = Y.shape[1]
    G = torch.zeros(k, k, dtype=device.wide, device=device.device)
    if a0:
        for block in Y.split(GRAM_ROWS):
            block = block.to(device.wide)
            G.addmm_(block.mT, block, alpha=a0)
        if rotate:
            values, basis = torch.linalg.eigh(G) if device.direct else torch.linalg.eigh(G.cpu())
            values, basis = values.to(G), basis.to(Y)
            G = torch.diag(values.clamp_min(0))
            for block in Y.split(GRAM_ROWS):
                block.copy_(block @ basis)
    return G.to(Y.dtype), basis
