"""The exact ALS objective of any factors, in float64."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from lfm_np.factors import Factors
from lfm_np.problem import Problem, check_problem
from lfm_np.quiet import quietly
from lfm_np.validation import shown

_GATHERED = 1 << 16  # numbers of the factors of the cells scored at once: they fit a cache
_SUMMED = 1 << 20  # numbers of a block of a Gram matrix


def objective(
    X: Any,
    factors: Factors,
    *,
    regularization: float | None = None,
    alpha: float | None = None,
    unobserved_weight: float | None = None,
    regularization_exponent: float | None = None,
    weighting: str | None = None,
) -> float:
    """The objective J(U, V) of `als` for any factors, over all m · n cells, in float64.

    Parameters
    ----------
    X : sparse matrix or array, shape (m, n), or Interactions
    factors : Factors
        From any solver, of shapes (m, k) and (n, k).
    regularization, alpha, unobserved_weight, regularization_exponent, weighting : optional
        As in `als`. None takes the value the factors were fitted with (``factors.params``), and the default of `als`
        where they hold none. Factors of `sgd`, which minimises something else, need ``regularization``.

    Returns
    -------
    float

    Raises
    ------
    TypeError, ValueError
        For a bad argument, factors whose shapes do not fit X or that have biases or a μ where ``weighting`` is not
        "ratings", factors of `sgd` without a ``regularization``, or an objective beyond float64.

    Notes
    -----
    Σ over all cells of α₀ s² is α₀ ⟨UᵀU, VᵀV⟩, so the cost is O(nnz·k + (m + n)·k²), not m·n. Written independently of
    the kernels, which report the same number in ``history``.

    Examples
    --------
    >>> import lfm_np
    >>> X = lfm_np.to_csr(lfm_np.datasets.make_interactions(500, 40, 4, random_state=0), shape=(500, 40))
    >>> factors = lfm_np.als(X, factors=4, iterations=3, random_state=0)
    >>> abs(lfm_np.objective(X, factors) / factors.history[-1]["objective"] - 1) < 1e-6
    True
    """
    if not isinstance(factors, Factors):
        raise TypeError(f"factors must be a Factors, got {shown(factors)}")
    asked = {
        "regularization": regularization,
        "alpha": alpha,
        "unobserved_weight": unobserved_weight,
        "exponent": regularization_exponent,
        "weighting": weighting,
    }
    fitted = factors.params or {}
    defaults = {
        "regularization": 0.01,
        "alpha": 1.0,
        "unobserved_weight": None,
        "exponent": 0.0,
        "weighting": "hu-koren",
    }
    names = {"exponent": "regularization_exponent"}
    values: dict[str, Any] = {
        name: fitted.get(names.get(name, name), default) if asked[name] is None else asked[name]
        for name, default in defaults.items()
    }
    if asked["regularization"] is None and isinstance(values["regularization"], Mapping):
        raise ValueError(
            "the factors come from sgd, which has other regularization, so objective needs regularization, and "
            "weighting, alpha, unobserved_weight and regularization_exponent unless the defaults of als are meant"
        )
    problem = check_problem(
        X,
        factors=max(1, factors.item_factors.shape[1]),  # nothing here asks how many
        biases=factors.user_bias is not None or factors.item_bias is not None,
        mean=factors.global_bias or 0.0,
        dtype=np.float64,
        shape=(len(factors.user_factors), len(factors.item_factors)),
        **values,
    )
    total = quietly(lambda: _cells(problem, factors) + _unobserved(problem, factors) + _penalty(problem, factors))
    if not np.isfinite(total):
        raise ValueError("factors are too large: their objective is beyond float64")
    return total


def _cells(problem: Problem, factors: Factors) -> float:
    """Σ_Ω c(p − s)² − α₀ s²."""
    X, (_, d1, t0, t1, a0) = problem.X, problem.weights
    rows = np.repeat(np.arange(X.shape[0]), np.diff(X.indptr))
    loss, step = 0.0, max(1, _GATHERED // problem.factors)
    for lo in range(0, X.nnz, step):
        u, i, x = (array[lo : lo + step] for array in (rows, X.indices, X.data))
        s = np.einsum("ck,ck->c", factors.user_factors[u].astype(float), factors.item_factors[i].astype(float))
        for bias, at in ((factors.user_bias, u), (factors.item_bias, i)):
            s += 0.0 if bias is None else bias[at]
        s += factors.global_bias or 0.0
        c, t = problem.weights.c0 + d1 * x, t0 + t1 * x
        p = np.divide(t, c, out=np.zeros_like(t), where=c > 0)
        loss += float(np.sum(c * (p - s) ** 2 - a0 * s**2))
    return loss


def _unobserved(problem: Problem, factors: Factors) -> float:
    """α₀ Σ s² over every cell."""
    if not problem.weights.a0:
        return 0.0
    U, V = (_power_of_two(A) for A in (factors.user_factors, factors.item_factors))
    total = np.sum(_gram(factors.user_factors, U) * _gram(factors.item_factors, V))
    return problem.weights.a0 * float(np.ldexp(total, 2 * (U + V)))


def _penalty(problem: Problem, factors: Factors) -> float:
    X = problem.X
    total = 0.0
    for matrix, bias, lengths, others in (
        (factors.user_factors, factors.user_bias, np.diff(X.indptr), X.shape[1]),
        (factors.item_factors, factors.item_bias, np.bincount(X.indices, minlength=X.shape[1]), X.shape[0]),
    ):
        norms = np.einsum("rk,rk->r", matrix, matrix, dtype=np.float64, casting="same_kind")
        norms += 0.0 if bias is None else bias.astype(np.float64) ** 2
        total += float(problem.row_regularization(lengths, others) @ norms)
    return total


def _power_of_two(A: np.ndarray) -> int:
    """An exponent to divide A by where squares would leave float64, else 0."""
    exponent = int(np.frexp(max(float(A.max(initial=0)), -float(A.min(initial=0))))[1])
    return exponent if abs(exponent) > 200 else 0


def _gram(A: np.ndarray, power: int) -> np.ndarray:
    """(A/2^power)ᵀ(A/2^power) in float64, by blocks of rows."""
    k = A.shape[1]
    step = max(k, _SUMMED // max(1, k))
    blocks = (A[lo : lo + step].astype(np.float64) for lo in range(0, len(A), step))
    blocks = (np.ldexp(block, -power) for block in blocks) if power else blocks
    return sum((block.T @ block for block in blocks), np.zeros((k, k)))
