"""Exercises on `als` at its ends: λ = 0 and ∞, one cell, minima that stay, steps that are solutions, rows folded in."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import scipy.sparse as sp

import lfm_np as library

from .case import Case, Group
from .cases_exercises_in_closed_form import fitted, gram_of, indicator, near, scores_of
from .working_days import csr, faultless, raised, wrong

lfm_np: Any = library
_GROUP = Group("exercise class")
_holds = faultless(_GROUP)


def _one_row_of_ratings() -> list[str]:
    """λ_u = 4λ and λ_i = λ: the row keeps its direction and loses 2λ of its length."""
    x = np.array([5.0, -3, 2, 4])
    fit = fitted(
        csr(x[None]), factors=2, weighting="ratings", regularization=0.4, regularization_exponent=1.0, iterations=100
    )
    length = float(np.linalg.norm(x))
    return wrong(scores=near(scores_of(fit)[0], x * (length - 0.8) / length))


def _negative_cell() -> list[str]:
    """J = (x - uv)² + λ(u² + v²) has its minimum 2λ|x| - λ² = 24 at uv = -5."""
    fit = fitted(csr(np.array([[-7.0]])), factors=1, weighting="ratings", regularization=2.0)
    u, v = fit.user_factors[0, 0], fit.item_factors[0, 0]
    return wrong(
        score=near(u * v, -5.0), sides=near([u**2, v**2], [5.0, 5.0]),
        objective=near(fit.history[-1]["objective"], 24.0, 1e-12),
    )  # fmt: skip


def _no_penalty() -> list[str]:
    """k = n, λ = 0 and an orthogonal V: U = XV meets every rating in the first half of the first sweep."""
    draw = np.random.default_rng(2)
    X, V = draw.normal(size=(9, 6)), np.linalg.qr(draw.normal(size=(6, 6)))[0]
    fit = fitted(csr(X), factors=6, weighting="ratings", regularization=0.0, iterations=1, init=(np.zeros((9, 6)), V))
    record = fit.history[0]
    # residuals of some eps each, squared
    return wrong(
        users=0 <= record["objective_users"] <= 1e-26 * (X**2).sum(),
        items=0 <= record["objective"] <= 1e-26 * (X**2).sum(),
        scores=near(scores_of(fit), X, 1e-13),
    )


def _rank_one() -> list[str]:
    """Cells of abᵀ, started from b: U is a, and nothing is left, in every sweep."""
    a, b = np.array([1.0, -2, 3, 0.5, 4]), np.array([2.0, 1, -1, 3])
    X = np.outer(a, b)
    X[np.random.default_rng(0).random(X.shape) < 0.4] = np.nan
    X[:, 0] = a * b[0]
    fit = fitted(
        csr(X), factors=1, weighting="ratings", regularization=0.0, iterations=3, init=(np.ones((5, 1)), b[:, None])
    )
    return wrong(
        nothing=all(0 <= r[key] <= 1e-26 for r in fit.history for key in ("objective_users", "objective")),
        unseen=near(scores_of(fit), np.outer(a, b), 1e-13),
    )


def _stays(solver: str) -> list[str]:
    """Started at the minimum, residuals of "cg" are 0 at once: J stays, and the second sweep says so."""
    B = indicator(70, 66, 4, 0.6)
    left, values, right = np.linalg.svd(B, full_matrices=False)
    values = np.maximum(values - 1.0, 0)
    values[64:] = 0
    half = np.sqrt(values[:64])
    S = (left * values) @ right
    J = ((B - S) ** 2).sum() + 2 * values.sum()
    fit = fitted(
        sp.csr_array(B), factors=64, alpha=0.0, regularization=1.0, solver=solver, tolerance=1e-9,
        init=(left[:, :64] * half, right[:64].T * half), iterations=9,
    )  # fmt: skip
    return wrong(
        scores=near(scores_of(fit), S),
        objectives=near([r[key] for r in fit.history for key in ("objective_users", "objective")], [J] * 4, 1e-11),
        ended=fit.status == "converged" and len(fit.history) == 2,
    )


def _every_solver_is_exact(solver: str) -> list[str]:
    """With α = 0 a row's system is diagonal in the rotated basis: a step of "cg" or over blocks is the solution."""
    B, lam = indicator(90, 100, 6, 0.5), 2.0
    draw = np.random.default_rng(7)
    U, V = draw.normal(0, 0.3, (90, 96)), draw.normal(0, 0.3, (100, 96))
    fit = fitted(sp.csr_array(B), factors=96, alpha=0.0, regularization=lam, solver=solver, init=(U, V), iterations=3)
    mine = []
    for _ in range(3):
        U = np.linalg.solve(gram_of(V) + lam * np.eye(96), V.T @ B.T).T
        mine.append(((B - U @ V.T) ** 2).sum() + lam * ((U**2).sum() + (V**2).sum()))
        V = np.linalg.solve(gram_of(U) + lam * np.eye(96), U.T @ B).T
        mine.append(((B - U @ V.T) ** 2).sum() + lam * ((U**2).sum() + (V**2).sum()))
    found = [r[key] for r in fit.history for key in ("objective_users", "objective")]
    return wrong(objectives=near(found, mine, 1e-10), scores=near(scores_of(fit), U @ V.T, 1e-8))


def _held_biases() -> list[str]:
    """λ → ∞: λ·b of a row is the sum of its ratings' distances from μ; the rest is of the order of 1/λ."""
    draw = np.random.default_rng(8)
    X = np.where(draw.random((12, 9)) < 0.5, draw.integers(1, 6, (12, 9)), np.nan)
    X[:, 0], X[0] = 4, 2
    lam, mu = 1e9, float(np.nanmean(X))
    fit = fitted(csr(X), factors=2, weighting="ratings", biases=True, regularization=lam, iterations=3)
    return wrong(
        mean=near(fit.global_bias, mu, 1e-13),
        users=near(fit.user_bias * lam, np.nansum(X - mu, axis=1), 1e-6),
        items=near(fit.item_bias * lam, np.nansum(X - mu, axis=0), 1e-6),
        objective=near(fit.history[-1]["objective"], np.nansum((X - mu) ** 2), 1e-6),
    )


def _biases_alone() -> list[str]:
    """Factors that start at 0 stay there: what is left is ridge regression on rows and columns."""
    draw = np.random.default_rng(9)
    X = np.where(draw.random((15, 10)) < 0.5, draw.integers(1, 6, (15, 10)), np.nan)
    X[:, 0], X[0] = 4, 2
    lam, mu, has = 3.0, float(np.nanmean(X)), ~np.isnan(X)
    A = np.block([[np.diag(has.sum(1)), has], [has.T, np.diag(has.sum(0))]]) + lam * np.eye(25)
    rest = np.where(has, X - mu, 0.0)
    b = np.linalg.solve(A, np.concatenate([rest.sum(1), rest.sum(0)]))
    fit = fitted(
        csr(X), factors=2, weighting="ratings", biases=True, regularization=lam, iterations=150,
        init=(np.zeros((15, 2)), np.zeros((10, 2))),
    )  # fmt: skip
    J = (rest - has * (b[:15, None] + b[15:])) ** 2
    return wrong(
        factors=not fit.user_factors.any() and not fit.item_factors.any(),
        users=near(fit.user_bias, b[:15]), items=near(fit.item_bias, b[15:]),
        objective=near(fit.history[-1]["objective"], J.sum() + lam * (b @ b), 1e-12),
    )  # fmt: skip


def _from_nothing() -> list[str]:
    """U = V = 0 is stationary: every record has Σ c p², and the second ends the run."""
    x = np.array([[1.0, 0, 3], [0, 2, 0]])
    fit = fitted(
        sp.csr_array(x), factors=2, weighting="ials", alpha=2.0, unobserved_weight=0.5, tolerance=1e-3,
        init=(np.zeros((2, 2)), np.zeros((3, 2))),
    )  # fmt: skip
    J = sum((2 * v) ** 2 / (0.5 + 2 * v) for v in (1.0, 3.0, 2.0))
    found = [r[key] for r in fit.history for key in ("objective_users", "objective")]
    return wrong(
        factors=not fit.user_factors.any() and not fit.item_factors.any(),
        objectives=near(found, [J] * 4, 1e-13), ended=fit.status == "converged",
    )  # fmt: skip


def _curved() -> list[str]:
    """At items just solved J has slope 0 along any D, and the curvature Σ_i d_iᵀ(UᵀC_iU + λ_i I)d_i."""
    draw = np.random.default_rng(10)
    x = np.where(draw.random((14, 9)) < 0.4, draw.integers(1, 6, (14, 9)), 0.0)
    rule: dict[str, Any] = {
        "weighting": "ials", "alpha": 0.7, "unobserved_weight": 0.2, "regularization": 0.3,
        "regularization_exponent": 0.5,
    }  # fmt: skip
    X = sp.csr_array(x)
    fit = fitted(X, factors=3, iterations=2, **rule)
    U, V, D = fit.user_factors, fit.item_factors, draw.normal(size=(9, 3))
    here, up, down = (lfm_np.objective(X, lfm_np.Factors(U, V + step * D), **rule) for step in (0, 1, -1))
    C = np.where(x > 0, 0.2 + 0.7 * x, 0.2)
    strengths = 0.3 * ((x > 0).sum(0) + 0.2 * 14) ** 0.5
    curve = sum(d @ (U.T @ (c[:, None] * U) + one * np.eye(3)) @ d for d, c, one in zip(D, C.T, strengths, strict=True))
    return wrong(
        history=near(here, fit.history[-1]["objective"], 1e-12),
        slope=abs(up - down) <= 1e-11 * up, curve=near(up + down - 2 * here, 2 * curve, 1e-10),
    )  # fmt: skip


def _all_alike() -> list[str]:
    """Rows of 2 cells, columns of 3, nothing elsewhere, from ones: two numbers, and 1 - λ/√6 in the end."""
    B, lam = np.kron(np.ones((3, 2)), np.eye(4)) * 5, 0.5
    words = {"factors": 1, "alpha": 0.0, "unobserved_weight": 0.0, "regularization": lam}
    start = np.ones((12, 1)), np.ones((8, 1))
    three = fitted(sp.csr_array(B), init=start, iterations=3, **words)
    end = fitted(sp.csr_array(B), init=start, iterations=60, **words)
    v, mine = 1.0, []
    for _ in range(3):
        u = 2 * v / (2 * v * v + lam)
        v = 3 * u / (3 * u * u + lam)
        mine.append(24 * (1 - u * v) ** 2 + lam * (12 * u * u + 8 * v * v))
    return wrong(
        objectives=near([r["objective"] for r in three.history], mine, 1e-13),
        scores=near(scores_of(three), np.full((12, 8), u * v), 1e-13),
        end=near(scores_of(end), np.full((12, 8), 1 - lam / np.sqrt(6)), 1e-12),
    )


def _stops() -> list[str]:
    """Of one cell J falls by the shares 0.109, 2.3e-3, 7.5e-5, 2.5e-6 …: the sweep to stop after can be read off."""
    found = {}
    for tolerance in (0.2, 1e-2, 1e-3, 1e-5):
        fit = fitted(
            csr(np.array([[-7.0]])), factors=1, weighting="ratings", regularization=2.0, tolerance=tolerance,
            init=(np.ones((1, 1)), np.full((1, 1), 0.5)),
        )  # fmt: skip
        found[tolerance] = (len(fit.history), str(fit.status))
    return wrong(
        sweeps=found == {0.2: (2, "converged"), 1e-2: (3, "converged"), 1e-3: (4, "converged"), 1e-5: (5, "converged")}
    )


def _spare() -> list[str]:
    """Two items span two dimensions: of six canonical factors four are 0 on either side."""
    X = np.array([[5.0, 1], [2, 4], [3, 3]])
    fit = fitted(csr(X), factors=6, weighting="ratings", regularization=0.1, iterations=2)
    left = [float(abs(F[:, 2:]).max() / abs(F).max()) for F in (fit.item_factors, fit.user_factors)]
    return wrong(spare=max(left) <= 1e-7, used=np.linalg.matrix_rank(fit.item_factors, tol=1e-6) == 2)


def _coordinates() -> list[str]:
    """VᵀV is diagonal, so a row with every item is folded in coordinate by coordinate: u_j = v_j·x/(‖v_j‖² + λn)."""
    draw = np.random.default_rng(11)
    X = np.where(draw.random((20, 6)) < 0.6, draw.integers(1, 6, (20, 6)), np.nan)
    X[0], x = 3, draw.integers(-5, 6, (4, 6)).astype(float)
    fit = fitted(csr(X), factors=3, weighting="ratings", regularization=0.05, regularization_exponent=1.0, iterations=4)
    V = fit.item_factors
    mine = np.column_stack([x @ V[:, j] / (V[:, j] @ V[:, j] + 0.05 * 6) for j in range(3)])
    return wrong(users=near(fit.fold_in_users(csr(x)).user_factors, mine))


def _one_item(weighting: str, a0: float, alpha: float) -> list[str]:
    """Sherman and Morrison: with h = vᵀA₀⁻¹v and g_j = v_jᵀA₀⁻¹v the scores are c p g_j/(1 + (c - α₀)h)."""
    V, x = np.random.default_rng(12).normal(size=(7, 3)), 2.0
    inverse = np.linalg.inv(a0 * gram_of(V) + 0.1 * (1 + a0 * 7) * np.eye(3))
    G = V @ inverse @ V.T
    c = alpha * x + (a0 if weighting == "ials" else 0.0)  # c p is αx either way
    mine = [alpha * x * G[:, i] / (1 + (c - a0) * G[i, i]) for i in range(7)]
    model = lfm_np.Factors(np.zeros((1, 3)), V)
    new = model.fold_in_users(
        sp.csr_array(np.eye(7) * x), weighting=weighting, alpha=alpha, unobserved_weight=a0, regularization=0.1,
        regularization_exponent=1.0,
    )  # fmt: skip
    return wrong(scores=near(scores_of(new), mine))


def _mutual() -> list[str]:
    """Item i adds s_ij·c_i p_i to the score of j, and j adds s_ji·c_j p_j to that of i: s_ij = v_iᵀA⁻¹v_j = s_ji."""
    draw = np.random.default_rng(13)
    V, x = draw.normal(size=(9, 4)), np.array([[0.0, 3, 0, 1, 0, 5, 0, 0, 2]])
    model = lfm_np.Factors(np.zeros((1, 4)), V)
    rule = {"weighting": "ials", "alpha": 0.8, "unobserved_weight": 0.3, "regularization": 0.5}
    has = np.flatnonzero(x[0])
    C = np.where(x[0] > 0, 0.3 + 0.8 * x[0], 0.3)
    A = (V.T * C) @ V + 0.5 * (4 + 0.3 * 9) ** 0.5 * np.eye(4)
    S = V @ np.linalg.solve(A, V.T)
    facts = {}
    for j in has:
        why = model.explain(0, int(j), sp.csr_array(x), regularization_exponent=0.5, **rule)
        found = dict(zip(why.items.tolist(), why.contributions.tolist(), strict=True))
        facts[f"to {j}"] = near([found[i] for i in has.tolist()], S[has, j] * 0.8 * x[0, has])
        facts[f"score of {j}"] = near(why.score, S[has, j] @ (0.8 * x[0, has])) and abs(why.baseline) < 1e-12
    return wrong(**facts)


def _twin() -> list[str]:
    """A new item whom the same users have as item 3: items were solved last, so it is item 3 once more."""
    draw = np.random.default_rng(14)
    x = np.where(draw.random((16, 8)) < 0.4, draw.integers(1, 6, (16, 8)), 0).astype(float)
    x[:3, 3] = 2
    X = sp.csr_array(x)
    fit = fitted(X, factors=3, alpha=2.0, regularization=0.2, regularization_exponent=0.5, iterations=3)
    U, V = fit.user_factors, fit.item_factors
    A = (U.T * (1 + 2 * x[:, 3])) @ U + 0.2 * ((x[:, 3] > 0).sum() + 16) ** 0.5 * np.eye(3)
    mine = np.linalg.solve(A, U.T @ ((1 + 2 * x[:, 3]) * (x[:, 3] > 0)))
    more = fit.update(X[:, [3]], items=[8])
    ids, cosines = more.similar_items(8, N=2)
    return wrong(
        solved=near(V[3], mine), twin=near(more.item_factors[8], mine), others=np.array_equal(more.item_factors[:8], V),
        alike={int(i) for i in ids} == {3, 8} and near(cosines, [1.0, 1.0], 1e-12),
    )  # fmt: skip


def _interpolated() -> list[str]:
    """λ = 0 and as many ratings as factors: the row goes through all of them; with one fewer there is no one answer."""
    V = np.random.default_rng(15).normal(size=(8, 3))
    model = lfm_np.Factors(np.zeros((1, 3)), V)
    rule = {"weighting": "ratings", "regularization": 0.0, "regularization_exponent": 0.0}
    x = np.full((1, 8), np.nan)
    x[0, [1, 4, 6]] = [5.0, -2.0, 0.0]
    new = model.fold_in_users(csr(x), **rule)
    mine = V @ np.linalg.solve(V[[1, 4, 6]], [5.0, -2.0, 0.0])
    x[0, 6] = np.nan
    return wrong(
        scores=near(scores_of(new)[0], mine),
        refused=isinstance(raised(lambda: model.fold_in_users(csr(x), **rule)), lfm_np.SolverError),
    )


def _no_cells() -> list[str]:
    """J of a matrix without cells is α₀ times the sum of all squared scores, and rows that pay λ(α₀n)^ν."""
    draw = np.random.default_rng(16)
    U, V = draw.normal(size=(5, 2)), draw.normal(size=(4, 2))
    found = lfm_np.objective(
        sp.csr_array((5, 4)), lfm_np.Factors(U, V), weighting="ials", alpha=3.0, unobserved_weight=0.5,
        regularization=0.1, regularization_exponent=1.0,
    )  # fmt: skip
    mine = 0.5 * ((U @ V.T) ** 2).sum() + 0.1 * (0.5 * 4 * (U**2).sum() + 0.5 * 5 * (V**2).sum())
    return wrong(objective=near(found, mine, 1e-13))


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    yield _holds("one row of ratings with ν = 1", _one_row_of_ratings)
    yield _holds("one negative cell", _negative_cell)
    yield _holds("λ = 0 and k = n: half a sweep meets every rating", _no_penalty)
    yield _holds("λ = 0 and cells of rank one", _rank_one)
    for solver in ("exact", "cg", "subspace"):
        yield _holds(f"the minimum stays, {solver}", lambda s=solver: _stays(s))
        yield _holds(f"α = 0 makes a step the solution, {solver}", lambda s=solver: _every_solver_is_exact(s))
    yield _holds("λ → ∞: biases are sums over λ", _held_biases)
    yield _holds("factors of 0 leave ridge regression", _biases_alone)
    yield _holds("from nothing comes nothing", _from_nothing)
    yield _holds("slope and curvature of J at solved items", _curved)
    yield _holds("all users alike and all items alike", _all_alike)
    yield _holds("tolerance ends after a sweep that can be foretold", _stops)
    yield _holds("spare canonical factors are 0", _spare)
    yield _holds("a full row is folded in coordinate by coordinate", _coordinates)
    yield _holds("one item folded in by Sherman and Morrison", lambda: _one_item("ials", 0.25, 1.5))
    yield _holds("one item that weighs less than an empty cell", lambda: _one_item("confidence", 2.0, 0.05))
    yield _holds("what explains is mutual", _mutual)
    yield _holds("an item's twin", _twin)
    yield _holds("λ = 0 goes through as many ratings as factors", _interpolated)
    yield _holds("J without a single cell", _no_cells)
