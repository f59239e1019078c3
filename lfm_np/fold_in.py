"""New rows for a fitted model: the exact half-step of `als` from the factors of the other side."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from lfm_np.half_sweep import Fixed, prepare_fixed, solve_rows
from lfm_np.kernels.als_rows import aligned
from lfm_np.kernels.jit import Pool
from lfm_np.problem import Problem, check_problem, narrow
from lfm_np.row_plan import frozen, plan_side

PARAMETERS = ("regularization", "alpha", "unobserved_weight", "regularization_exponent", "weighting")


class Other(NamedTuple):
    """The side that stays as it is while rows of the other are solved."""

    factors: np.ndarray  # (n, k)
    bias: np.ndarray | None
    mean: float | None


class Explanation(NamedTuple):
    """Why a score is what it is: baseline + Σ contributions = score."""

    items: np.ndarray
    """(n_u,) the user's own items, the largest contribution first."""
    contributions: np.ndarray
    """(n_u,) float64."""
    baseline: float
    """What the score would be without them: μ + b_i, or 0 in a model without biases."""
    score: float


def parameters(fitted: dict[str, Any], asked: dict[str, Any]) -> dict[str, Any]:
    """The parameters of the half-step: those asked for, else those of the fit.

    Raises
    ------
    ValueError
        The factors do not come from `als` and a parameter is not given.
    """
    values = {name: fitted.get(name) if asked[name] is None else asked[name] for name in PARAMETERS}
    needed = [name for name in PARAMETERS if name != "unobserved_weight" and values[name] is None]
    if needed:
        raise ValueError(f"the factors do not come from als, so fold-in needs {' and '.join(needed)}")
    return values


def check_rows(X: Any, other: Other, values: dict[str, Any], *, transposed: bool) -> Problem:
    """The problem of the new rows; with ``transposed`` they are the columns of X."""
    n, k = other.factors.shape
    problem = check_problem(
        X,
        factors=k,
        regularization=values["regularization"],
        alpha=values["alpha"],
        unobserved_weight=values["unobserved_weight"],
        exponent=values["regularization_exponent"],
        weighting=values["weighting"],
        biases=other.bias is not None,
        dtype=other.factors.dtype,
        shape=(n, None) if transposed else (None, n),
    )
    return problem.transposed() if transposed else problem


def prepare(other: Other, problem: Problem, pool: Pool) -> Fixed:
    """The other side in the basis where its Gram matrix is diagonal; the same for any new rows."""
    Y = aligned((len(other.factors), problem.columns), other.factors.dtype)
    k = problem.factors
    Y[:, :k], Y[:, k:] = other.factors, 0
    if other.bias is not None:
        Y[:, k] = 1
    return prepare_fixed(bool(problem.weights.a0), Y, Y, problem.weights, k + problem.biases, pool)


def solve(problem: Problem, other: Other, fixed: Fixed, pool: Pool) -> tuple[np.ndarray, np.ndarray | None]:
    """Factors (rows, k) and biases (rows,) or None of the new rows, in the basis of ``other``."""
    X, k = narrow(problem.X), problem.factors
    lam = problem.row_regularization(np.diff(X.indptr), X.shape[1])
    csr = X.indptr, X.indices, X.data
    side = plan_side(csr, lam, problem.weights, problem.columns, fixed_rows=0)  # rotated already, so rotation is free
    out = np.empty((X.shape[0], problem.columns), X.dtype)
    solve_rows(side, fixed, problem.weights, frozen(shifts(other, X.dtype)), out, pool)
    if fixed.basis is not None:
        out = out @ fixed.basis.T.astype(X.dtype)
    return np.ascontiguousarray(out[:, :k]), out[:, k].copy() if problem.biases else None


def shifts(other: Other, dtype: np.dtype) -> np.ndarray:
    """What is subtracted from a rating before the half-step, by the other side's row; empty without biases."""
    if other.bias is None:
        return np.empty(0, dtype)
    return other.bias + dtype.type(other.mean or 0.0)


def explain(problem: Problem, other: Other, item: int) -> Explanation:
    """Split the score of ``item`` for the single row of ``problem`` over the row's cells.

    x = A⁻¹ Σ_a t_a y_a is linear in the cells once their weights are given, and so is the score y_i·x (Hu, Koren,
    Volinsky 2008, section 5).
    """
    (d0, d1, t0, t1, a0), X = problem.weights, problem.X
    Y = other.factors.astype(np.float64)
    if other.bias is not None:
        Y = np.column_stack((Y, np.ones(len(Y))))
    own = Y[X.indices]
    x = X.data.astype(np.float64)
    t = t0 + t1 * x
    baseline = 0.0
    if other.bias is not None:
        t = t - (other.mean or 0.0) - other.bias[X.indices]
        baseline = (other.mean or 0.0) + float(other.bias[item])
    lam = problem.row_regularization(np.diff(X.indptr), X.shape[1])[0]
    A = a0 * (Y.T @ Y) + (own.T * (d0 + d1 * x)) @ own + float(lam) * np.eye(Y.shape[1])
    contributions = t * (own @ np.linalg.solve(A, Y[item])) if len(x) else np.empty(0)
    order = np.argsort(-contributions, kind="stable")
    return Explanation(
        X.indices[order].astype(np.int64), contributions[order], baseline, baseline + float(contributions.sum())
    )
