"""New rows for a fitted model: the exact half-step of `als` from the factors of the other side."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict, Unpack, cast

import numpy as np

from lfm_np import validation as check
from lfm_np.half_sweep import Fixed, prepare_fixed, singular, solve_rows
from lfm_np.kernels.als_rows import aligned
from lfm_np.kernels.jit import Pool
from lfm_np.problem import Problem, check_problem, narrow
from lfm_np.quiet import quietly
from lfm_np.row_plan import plan_side

if TYPE_CHECKING:
    from lfm_np.factors import Factors


ROWS = 1 << 15  # rows that are float64 at a time


class HalfStep(TypedDict, total=False):
    """Parameters of the half-step, as in `als`; None or absent: as fitted."""

    regularization: float | None
    alpha: float | None
    unobserved_weight: float | None
    regularization_exponent: float | None
    weighting: str | None


class Other(NamedTuple):
    """The side that stays as it is while rows of the other are solved."""

    factors: np.ndarray  # (n, k)
    bias: np.ndarray | None
    mean: float  # μ, 0 in a model without
    biased: bool  # whether the rows to solve have biases, solved with their factors


class Explanation(NamedTuple):
    """Why a score is what it is: baseline + Σ contributions = score."""

    items: np.ndarray
    """(n_u,) the user's own items, by falling contribution: one that lowers the score most comes last. Read-only."""
    contributions: np.ndarray
    """(n_u,) float64, read-only."""
    baseline: float
    """The score of a user without interactions: μ + b_i, each 0 in a model without. A bias of the user follows from the
    interactions, and is part of their contributions."""
    score: float


def fold_in_users(
    factors: Factors, X: Any, *, num_threads: int | None = None, **parameters: Unpack[HalfStep]
) -> Factors:
    """Factors of users that the fit did not see: one exact half-step of `als` from the item factors.

    Parameters
    ----------
    X : sparse matrix, shape (r, n), or Interactions
        The new users' rows over the same n items.
    num_threads : int, optional
    **parameters
        ``regularization``, ``alpha``, ``unobserved_weight``, ``regularization_exponent``, ``weighting`` as in `als`.
        By default those that the factors were fitted with; others, such as those of `sgd`, need all but
        ``unobserved_weight``, and but ``alpha`` with "ratings".

    Returns
    -------
    Factors
        The r new users beside the same items. Fitted users' own rows give what one more half-step would.

    Raises
    ------
    TypeError, ValueError
        A bad argument or a parameter that is missing; or the model has biases or a μ and ``weighting`` is not
        "ratings".
    SolverError
        The normal equations of a row of X are singular, with λ = 0, or overflow.

    Notes
    -----
    μ and the item biases that the model has are subtracted from the ratings. If it has user biases, the new users'
    are solved with their factors.

    What depends on the items alone is prepared on the first call and kept with the object, for one
    ``unobserved_weight``. The index over the items, which ``recommend`` makes, is shared with the result.

    Examples
    --------
    >>> import lfm_np
    >>> X = lfm_np.to_csr(lfm_np.datasets.make_interactions(300, 40, 4, random_state=0), shape=(300, 40))
    >>> factors = lfm_np.als(X, factors=4, iterations=3, random_state=0)
    >>> factors.fold_in_users(X[:2]).recommend([0, 1], N=3).ids.shape
    (2, 3)
    """
    U, bias = _new_rows(factors, "users", X, parameters, num_threads)
    return _with(factors, "users", user_factors=U, user_bias=bias, history=())


def fold_in_items(
    factors: Factors, X: Any, *, num_threads: int | None = None, **parameters: Unpack[HalfStep]
) -> Factors:
    """Factors of new items, the columns of ``X`` (m × r), beside the same m users.

    As `fold_in_users`, with users and items exchanged: each item is solved from U and the cells of its column, and U,
    its biases and μ stay.
    """
    V, bias = _new_rows(factors, "items", X, parameters, num_threads)
    return _with(factors, "items", item_factors=V, item_bias=bias, history=())


def update(
    factors: Factors,
    X: Any,
    *,
    users: Any = None,
    items: Any = None,
    num_threads: int | None = None,
    **parameters: Unpack[HalfStep],
) -> Factors:
    """Add or refresh users or items without a refit; all other rows stay as they are.

    Parameters
    ----------
    X : sparse matrix
        With ``users``: their rows, shape (len(users), n). With ``items``: their columns, shape (m, len(items)).
    users, items : array of int
        Exactly one of them: which row each row (column) of X becomes. Rows that are there are replaced. New ones must
        be all of m, m + 1, … (n, n + 1, …) up to some number, and may stand in any order, also among others.
    num_threads : int, optional
    **parameters
        As in `fold_in_users`.

    Returns
    -------
    Factors

    Raises
    ------
    TypeError, ValueError
        Both or neither of ``users`` and ``items``, a repeated id, a gap, or a shape that does not fit.
    """
    if (users is None) == (items is None):
        raise TypeError("update needs either users or items")
    side, ids, size = ("users", users, factors.shape[0]) if items is None else ("items", items, factors.shape[1])
    ids = check.check_new_ids(side, ids, size)
    rows, bias = _new_rows(factors, side, X, parameters, num_threads)
    if len(rows) != len(ids):
        noun = "row" if side == "users" else "column"
        raise ValueError(f"X must have one {noun} for each of the {len(ids)} {side}, got {len(rows)}")
    name = side[:-1]
    changed: dict[str, Any] = {f"{name}_factors": _replaced(getattr(factors, f"{name}_factors"), ids, rows)}
    if bias is not None:
        changed[f"{name}_bias"] = _replaced(getattr(factors, f"{name}_bias"), ids, bias)
    return _with(factors, side, **changed)


def explain(factors: Factors, user: int, item: int, X: Any, **parameters: Unpack[HalfStep]) -> Explanation:
    """The share of each of a user's own interactions in one score.

    Parameters
    ----------
    user, item : int
    X : sparse matrix, shape (m, n), or Interactions
        The whole matrix, as in ``recommend``.
    **parameters
        As in `fold_in_users`.

    Returns
    -------
    Explanation
        ``items`` and their ``contributions``, in falling order, ``baseline`` (μ + b_i) and ``score`` with
        baseline + Σ contributions = score.
        The score is that of the user folded in from the item factors (`fold_in_users`), which a converged fit
        agrees with.

    Raises
    ------
    TypeError, ValueError
        As in `fold_in_users`.
    SolverError
        λ = 0 and the normal equations of the user are singular.

    Notes
    -----
    O(n k²) time with an ``unobserved_weight``, for every score anew: the items that the user has not are summed.

    References
    ----------
    Yifan Hu, Y. Koren, C. Volinsky. Collaborative filtering for implicit feedback datasets. ICDM 2008, section 5.
    """
    row, column = check.check_id("user", user, factors.shape[0]), check.check_id("item", item, factors.shape[1])
    own = check.check_row("X", X, row, factors.shape)
    other = _other_side(factors, "users")
    problem = check_rows(own, other, half_step(factors, parameters), transposed=False)
    return quietly(_contributions, problem, other, row, column)


def _new_rows(
    factors: Factors, side: str, X: Any, parameters: HalfStep, num_threads: int | None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Factors and biases of the rows (for "items": columns) of X."""
    other = _other_side(factors, side)
    problem = check_rows(X, other, half_step(factors, parameters), transposed=side == "items")
    with Pool(check.check_num_threads(num_threads)) as pool:
        made = factors._of_items if side == "users" else factors._of_users
        a0, fixed = made.get("fixed", (None, None))
        if a0 != problem.weights.a0:  # of the last one only, as each takes as much memory as the factors
            a0, fixed = made["fixed"] = problem.weights.a0, prepare(other, problem, pool)
        return solve(problem, other, fixed, pool, "row" if side == "users" else "column")


def _with(factors: Factors, side: str, **changed: Any) -> Factors:
    """The same with other rows of a side, beside what was made of the other."""
    found, name = dataclasses.replace(factors, **changed), "_of_items" if side == "users" else "_of_users"
    found.__dict__[name] = getattr(factors, name)
    return found


def _other_side(factors: Factors, side: str) -> Other:
    """The side that stays fixed while rows of ``side`` are solved."""
    mean = factors.global_bias or 0.0
    if side == "users":
        return Other(factors.item_factors, factors.item_bias, mean, factors.user_bias is not None)
    return Other(factors.user_factors, factors.user_bias, mean, factors.item_bias is not None)


def _replaced(old: np.ndarray, ids: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """A copy of ``old``, longer if need be, with ``rows`` at ``ids``."""
    new = np.zeros((max(len(old), int(ids.max(initial=-1)) + 1), *old.shape[1:]), old.dtype)
    new[: len(old)] = old
    new[ids] = rows
    return new


def half_step(factors: Factors, asked: HalfStep) -> HalfStep:
    """The parameters of the half-step: those asked for, else those of the fit.

    Raises
    ------
    TypeError, ValueError
        A parameter of another name; or the factors do not come from `als` and a parameter is not given.
    """
    names = tuple(HalfStep.__annotations__)
    check.check_names("fold-in", asked, names)
    fitted = {name: (factors.params or {}).get(name) for name in names}
    if isinstance(fitted["regularization"], Mapping):  # of the parts of an `sgd` step, another objective
        fitted["regularization"] = None
    values = fitted | {name: value for name, value in asked.items() if value is not None}
    if values["weighting"] == "ratings" and values["alpha"] is None:
        values["alpha"] = 1.0  # which ratings do not use
    needed = [name for name in names if name != "unobserved_weight" and values[name] is None]
    if needed:
        raise ValueError(f"the factors do not come from als, so fold-in needs {' and '.join(needed)}")
    return cast(HalfStep, values)


def check_rows(X: Any, other: Other, values: HalfStep, *, transposed: bool) -> Problem:
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
        biases=other.biased or other.bias is not None,
        mean=other.mean,
        dtype=other.factors.dtype,
        shape=(n, None) if transposed else (None, n),
    )
    # Biases of the other side alone are part of the ratings, not of what is solved.
    problem = dataclasses.replace(problem, biases=other.biased)
    return problem.transposed() if transposed else problem


def prepare(other: Other, problem: Problem, pool: Pool) -> Fixed:
    """The other side in the basis where its Gram matrix is diagonal; the same for any new rows."""
    Y = aligned((len(other.factors), problem.columns), other.factors.dtype)
    k = problem.factors
    Y[:, :k], Y[:, k:] = other.factors, 0
    if problem.biases:
        Y[:, k] = 1
    return prepare_fixed(bool(problem.weights.a0), Y, Y, problem.weights, k + problem.biases, pool)


def solve(
    problem: Problem, other: Other, fixed: Fixed, pool: Pool, noun: str = "row"
) -> tuple[np.ndarray, np.ndarray | None]:
    """Factors (rows, k) and biases (rows,) or None of the new rows, in the basis of ``other``.

    ``noun``: what they are in the caller's X.
    """
    X, k = narrow(problem.X), problem.factors
    lam = problem.row_regularization(np.diff(X.indptr), X.shape[1])
    csr = X.indptr, X.indices, X.data
    # Rotated already, so rotation is free.
    side = dataclasses.replace(plan_side(csr, lam, problem.weights, k + problem.biases, fixed_rows=0), noun=noun)
    out = np.empty((X.shape[0], problem.columns), X.dtype)
    solve_rows(side, fixed, problem.weights, check.frozen(shifts(other, X.dtype)), out, pool)
    if fixed.basis is not None:
        out = quietly(np.matmul, out, fixed.basis.T.astype(X.dtype))
    return np.ascontiguousarray(out[:, :k]), out[:, k].copy() if problem.biases else None


def shifts(other: Other, dtype: np.dtype) -> np.ndarray:
    """What is subtracted from a rating before the half-step, by the other side's row; empty without μ and b."""
    if other.bias is None:
        return np.full(len(other.factors) if other.mean else 0, other.mean, dtype)
    return other.bias + dtype.type(other.mean)


def _contributions(problem: Problem, other: Other, row: int, item: int) -> Explanation:
    """Split the score of ``item`` for the single row of ``problem``, that of user ``row``, over the row's cells.

    x = A⁻¹ Σ_a t_a y_a is linear in the cells once their weights are given, and so is the score y_i·x (Hu, Koren,
    Volinsky 2008, section 5). With A = BᵀB and B = W S Zᵀ, whose first rows are √c_a y_a, a cell's share is
    t_a/√c_a · W_a S⁻¹ Zᵀy_i: a small λ costs no digits, as it would in A.
    """
    (_, d1, t0, t1, a0), X = problem.weights, problem.X
    rows = partial(_in_float64, other.factors, problem.biases)
    own = rows(X.indices)
    x = X.data.astype(np.float64)
    t, baseline = t0 + t1 * x - other.mean, other.mean
    if other.bias is not None:
        t, baseline = t - other.bias[X.indices], baseline + float(other.bias[item])
    lam = float(problem.row_regularization(np.diff(X.indptr), X.shape[1])[0])
    root = np.sqrt(problem.weights.c0 + d1 * x)
    targets = np.divide(t, root, out=np.zeros_like(t), where=root > 0)
    B = [own * root[:, None], np.sqrt(lam) * np.eye(own.shape[1])]
    if a0:
        others = np.delete(np.arange(len(other.factors)), X.indices)
        G = np.zeros((own.shape[1], own.shape[1]))
        for lo in range(0, len(others), ROWS):
            some = rows(others[lo : lo + ROWS])
            G += some.T @ some
        B.append(_root(a0 * G))
    y = rows([item])[0]
    shares = targets * _inverted(np.vstack(B), lam, len(x), y, row) if len(x) else np.empty(0)
    order = np.argsort(-shares, kind="stable")
    ids, shares = check.read_only(X.indices[order].astype(np.int64), shares[order])
    return Explanation(ids, shares, baseline, baseline + float(shares.sum()))


def _in_float64(factors: np.ndarray, biased: bool, rows: Any) -> np.ndarray:
    """Some rows, with a column of ones where they have a bias."""
    Y = factors[rows].astype(np.float64)
    return np.column_stack((Y, np.ones(len(Y)))) if biased else Y


def _root(G: np.ndarray) -> np.ndarray:
    """R with RᵀR = G; NaN where G overflows."""
    if not np.isfinite(G).all():
        return np.full_like(G, np.nan)
    values, basis = np.linalg.eigh(G)
    return np.sqrt(np.maximum(values, 0))[:, None] * basis.T


def _inverted(B: np.ndarray, lam: float, count: int, y: np.ndarray, row: int) -> np.ndarray:
    """The first rows of B (BᵀB)⁻¹ y, the system of user ``row``. λ is in B."""
    if not np.isfinite(B).all():
        raise singular("row", row, 1)
    W, S, Zt = np.linalg.svd(B, full_matrices=False)
    eps, greatest = float(np.finfo(np.float64).eps), S[0] ** 2
    vanishing = lam == 0 and S[-1] ** 2 <= len(y) * eps * greatest  # as in `minimised_by_eigenvalues`
    if vanishing or not np.isfinite(greatest):
        raise singular("row", row, 1)
    return W[:count] @ (S * (Zt @ y) / np.maximum(S**2, eps**1.5 * greatest))  # W/S would be mostly rounding below
