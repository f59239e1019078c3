"""The last examination of `als`: sweeps and their objectives, beside closed forms, loops and conjugate gradients."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import scipy.sparse as sp

from .case import Case, Group
from .sentences_by_numpy import Rule, begun, canonical, lfm_np, near, product, with_gaps
from .working_days import NAN, csr, faultless, raised, stars, start, tells, wrong

_GROUP = Group("the last examination, fits")
_holds = faultless(_GROUP)


def _full(m: int = 6, n: int = 5, seed: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).integers(1, 6, (m, n)).astype(np.float64)


def _beside(rule: Rule, X: np.ndarray, k: int = 3, times: int = 2, tolerance: float = 1e-9, **more: Any) -> list[str]:
    """Scores and J of a fit from `begun` beside those of loops."""
    fit = rule.fit(X, k, times, **more)
    U, V = rule.sweeps(X, begun(X, k)[1], times)
    J = rule.cost(X, U, V)
    return wrong(
        scores=near(product(fit), U @ V.T, tolerance),
        J=near(fit.history[-1]["objective"] / J, 1.0, tolerance),
        records=[record["iteration"] for record in fit.history] == list(range(1, times + 1)),
    )


def _svd_of_what_is_stored() -> list[str]:
    """With α = 0 and α₀ = 1 J is ‖B - UVᵀ‖² + λ(‖U‖² + ‖V‖²): singular values less λ."""
    X = np.full((12, 9), NAN)
    X[:7, :5] = 3.0
    X[6:, 4:] = 2.0
    X[2, 8] = X[9, 0] = 1.0
    lam = 0.5
    left, s, right = np.linalg.svd(np.where(np.isnan(X), 0.0, 1.0), full_matrices=False)
    kept = s[:2] - lam
    fit = Rule(alpha=0.0, lam=lam).fit(X, 2, 150)
    J = (2 * lam * s[:2] - lam**2).sum() + (s[2:] ** 2).sum()
    V, U = fit.item_factors, fit.user_factors
    return wrong(
        scores=near(product(fit), (left[:, :2] * kept) @ right[:2], 1e-8),
        J=near(fit.history[-1]["objective"], J, 1e-10),
        spectrum=near(V.T @ V, np.diag(kept), 1e-7),
        balance=near(U.T @ U, np.diag(kept), 1e-7),
    )


def _ials_without_the_unseen() -> list[str]:
    """c = αx and p = 1, whatever it is called."""
    X = with_gaps(5)
    found = []
    for name in ("ials", "confidence"):
        rule = Rule(name, alpha=0.7, a0=0.0, lam=0.3, nu=0.5)
        U, V = Rule("confidence", alpha=0.7, a0=0.0, lam=0.3, nu=0.5).sweeps(X, begun(X)[1], 3)
        fit = rule.fit(X, 3, 3)
        found += wrong(**{name: near(product(fit), U @ V.T), f"J of {name}": near(_last(fit), rule.cost(X, U, V))})
    return found


def _last(fit: Any) -> float:
    return float(fit.history[-1]["objective"])


def _nothing_is_wanted() -> list[str]:
    """ "confidence" with α = 0 asks for nothing: 0 is the minimum, and a J of 0 never ends a run."""
    X = with_gaps(6)
    fit = Rule("confidence", alpha=0.0, lam=0.25).fit(X, 2, 4, tolerance=0.5)
    V0 = begun(X, 2)[1]
    return wrong(
        zero=not fit.user_factors.any() and not fit.item_factors.any(),
        J=[record["objective"] for record in fit.history] == [0.0] * 4,
        first=near(fit.history[0]["objective_users"], 0.25 * float((V0**2).sum()), 1e-12),
        status=fit.status == lfm_np.Status.MAX_ITERATIONS,
    )


def held_at_1e30(als: Any, dtype: str) -> list[str]:
    """λ outweighs all else: U = XcpV/λ, V = (Xcp)ᵀU/λ, and J = Σc but for 1e-30 of it."""
    X, lam = with_gaps(7), 1e30
    V0 = begun(X, 2)[1].astype(dtype)
    fit = als(csr(X), factors=2, iterations=1, regularization=lam, alpha=2.0, init=(begun(X, 2)[0], V0), dtype=dtype)
    C = np.where(np.isnan(X), 0.0, 1 + 2 * np.nan_to_num(X))
    facts = {
        "J": near(_last(fit), C.sum(), 1e-6 if dtype == "float32" else 1e-12),
        "finite": np.isfinite(fit.user_factors).all() and np.isfinite(fit.item_factors).all(),
    }
    if dtype == "float64":
        S = C @ V0 @ (C.T @ (C @ V0)).T
        mine = (fit.user_factors * 1e30) @ (fit.item_factors * 1e60).T
        facts["scores"] = near(mine / abs(S).max(), S / abs(S).max(), 1e-9)
    return wrong(**facts)


def _alpha_of_1e30(dtype: str, tolerance: float) -> list[str]:
    """Empty cells weigh nothing beside stored ones: rows are weighted least squares of ones."""
    X = _full(9, 7, 4)
    X[0, 1] = X[4, 3] = X[7, 6] = NAN
    V, W = start(9, 7, 2)[1], np.nan_to_num(X)
    U = np.array([np.linalg.solve((V.T * w) @ V, V.T @ w) for w in W])
    V = np.array([np.linalg.solve((U.T * w) @ U, U.T @ w) for w in W.T])
    J = float((W * (1 - U @ V.T) ** 2).sum()) * 1e30
    fit = lfm_np.als(csr(X), factors=2, iterations=1, alpha=1e30, init=start(9, 7, 2), dtype=dtype)
    return wrong(scores=near(product(fit), U @ V.T, tolerance), J=near(_last(fit) / J, 1.0, 10 * tolerance))


def _one_cell_short(of_a_row: bool) -> list[str]:
    """Without λ a row of one cell has no unique pair of factors; the start is what there is."""
    X = _full()
    X[3, 1:] = NAN
    X = X if of_a_row else X.T.copy()
    U0, V0 = start(*X.shape, 2)
    words = {"factors": 2, "weighting": "ratings", "regularization": 0.0, "init": (U0, V0), "dtype": "float64"}
    error = raised(lambda: lfm_np.als(csr(X), iterations=2, **words))
    if not isinstance(error, lfm_np.SolverError):
        return [repr(error)]
    before = error.factors
    return wrong(
        names=tells(error, "3", "row|user" if of_a_row else "column|item"),
        start=before is not None and near(product(before), U0 @ V0.T, 1e-12),
    )


def _more_factors_than_items() -> list[str]:
    X = with_gaps(8, 6, 5)[:, [0, 1, 2]]
    words = {"factors": 5, "regularization": 0.0, "init": start(6, 3, 5), "dtype": "float64"}
    error = raised(lambda: lfm_np.als(csr(X), **words))
    return wrong(kind=isinstance(error, lfm_np.SolverError), names=tells(error, "row|user"))


def _constant_ratings() -> list[str]:
    """μ is all there is to say, exactly: equal numbers of 24 bits have an exact mean in float64."""
    one = float(np.float32(0.1))
    X = np.where(np.isnan(stars(13, 10, 4, 0.5)), NAN, one)
    words = {"factors": 3, "weighting": "ratings", "biases": True, "iterations": 3, "tolerance": 0.3}
    fit = lfm_np.als(csr(X, np.float32), random_state=1, **words)
    return wrong(
        mu=fit.global_bias == one,
        biases=not fit.user_bias.any() and not fit.item_bias.any(),
        J=[record["objective"] for record in fit.history] == [0.0] * 3,
        scores=(fit.scores(np.arange(13), 4) == np.float32(0.1)).all(),
    )


def _ratings_about_a_milliard() -> list[str]:
    """x - μ keeps nine digits of 1e9 + {1 … 5}: what the biases and factors say is known to about 1e-7."""
    X = stars(12, 9, 5, 0.5)
    rule, V, d = Rule("ratings", lam=0.4), begun(X, 2)[1], np.zeros(9)
    mean = float(np.nanmean(X))
    for _ in range(3):
        users = np.array([rule.row(x, V, mean + d, True) for x in X])
        U, b = users[:, :-1], users[:, -1]
        items = np.array([rule.row(x, U, mean + b, True) for x in X.T])
        V, d = items[:, :-1], items[:, -1]
    big = csr(X).astype(np.int64)
    big.data += 10**9
    words = {"factors": 2, "weighting": "ratings", "biases": True, "regularization": 0.4, "dtype": "float64"}
    fit = lfm_np.als(big, iterations=3, init=begun(X, 2), **words)
    return wrong(
        mu=near(fit.global_bias - 1e9, mean, 1e-6),
        users=near(fit.user_bias, b, 1e-5),
        items=near(fit.item_bias, d, 1e-5),
        scores=near(product(fit), U @ V.T, 1e-5),
        J=near(_last(fit), rule.cost(X, U, V, b, d, mean), 1e-5),
    )


def _wide_factors() -> list[str]:
    X = np.array([[2.0, NAN, 5.0], [NAN, 1.0, 3.0]])
    rule = Rule(alpha=0.5, lam=0.1)
    fit = rule.fit(X, 257, 2, solver="exact")
    U, V = rule.sweeps(X, begun(X, 257)[1], 2)
    return wrong(
        scores=near(product(fit), U @ V.T),
        J=near(_last(fit), rule.cost(X, U, V)),
        canonical=canonical(fit),
        rank=abs(fit.item_factors[:, 3:]).max() < 1e-6 * abs(fit.item_factors).max(),
    )


def everyone(m: int = 40, n: int = 300, k: int = 64, seed: int = 2) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows of 256 of 300 cells, and factors of both sides."""
    draw = np.random.default_rng(seed)
    X = draw.integers(1, 6, (m, n)).astype(np.float64)
    for row in X:
        row[draw.choice(n, n - 256, replace=False)] = NAN
    return X, draw.normal(0, 0.2, (m, k)), draw.normal(0, 0.2, (n, k)) * np.linspace(0.5, 2, k)


def cost(X: np.ndarray, U: np.ndarray, V: np.ndarray, alpha: float, lam: float) -> float:
    """J of "hu-koren" with α₀ = 1."""
    S, has = U @ V.T, ~np.isnan(X)
    C = 1 + alpha * np.nan_to_num(X)
    return float((C * (has - S) ** 2).sum() + lam * ((U**2).sum() + (V**2).sum()))


def two_steps(X: np.ndarray, U: np.ndarray, V: np.ndarray, alpha: float, lam: float) -> np.ndarray:
    """Two steps of conjugate gradients from each row of U, preconditioned by A's diagonal in V's eigenbasis."""
    turn = np.linalg.eigh(V.T @ V)[1]
    Y, found = V @ turn, []
    for x, u in zip(X, U @ turn, strict=True):
        c, has = 1 + alpha * np.nan_to_num(x), ~np.isnan(x)
        A = (Y.T * c) @ Y + lam * np.eye(Y.shape[1])
        r = Y.T @ (c * has) - A @ u
        z = r / np.diag(A)
        p = z
        for _ in range(2):
            step = (r @ z) / (p @ A @ p)
            u = u + step * p
            after = r - step * (A @ p)
            z_after = after / np.diag(A)
            p = z_after + (after @ z_after) / (r @ z) * p
            r, z = after, z_after
        found.append(u)
    return np.array(found) @ turn.T


def steps_of_cg(als: Any) -> list[str]:
    """Rows of 256 cells and 64 factors take a step, at half the price of a solution."""
    X, U0, V0 = everyone()
    looked: list[float] = []
    fit = als(
        csr(X), factors=64, iterations=3, solver="cg", alpha=0.5, regularization=0.8, init=(U0, V0), dtype="float64",
        callback=lambda record, now: looked.append(cost(X, now.user_factors, now.item_factors, 0.5, 0.8)),
    )  # fmt: skip
    J = [record[half] for record in fit.history for half in ("objective_users", "objective")]
    mine = cost(X, two_steps(X, U0, V0, 0.5, 0.8), V0, 0.5, 0.8)
    return wrong(
        first=near(J[0] / mine, 1.0, 1e-8),
        J=near(J[1::2], looked, 1e-9),
        falls=all(b <= a * (1 + 1e-12) for a, b in itertools.pairwise(J)),
    )


def _blocks_of_factors() -> list[str]:
    """130 factors are blocks of 64, 64 and 2; J is that of the factors, and never rises."""
    X, _, _ = everyone(30, 400, 1, 5)
    draw, looked = np.random.default_rng(6), list[float]()
    fit = lfm_np.als(
        csr(X), factors=130, iterations=4, solver="subspace", alpha=0.5, regularization=2.0, dtype="float64",
        init=(draw.normal(0, 0.1, (30, 130)), draw.normal(0, 0.1, (400, 130))),
        callback=lambda record, now: looked.append(cost(X, now.user_factors, now.item_factors, 0.5, 2.0)),
    )  # fmt: skip
    J = [record[half] for record in fit.history for half in ("objective_users", "objective")]
    return wrong(J=near(J[1::2], looked, 1e-9), falls=all(b <= a * (1 + 1e-12) for a, b in itertools.pairwise(J)))


def _counts_of_two_to_the_sixty(dtype: str, tolerance: float) -> list[str]:
    """αx = 1 exactly, in any type."""
    X = np.where(np.isnan(with_gaps(16)), NAN, 1.0)
    big = csr(X).astype(np.uint64)
    big.data[:] = 2**60
    rule = Rule(alpha=1.0, lam=0.2)
    U, V = rule.sweeps(X, begun(X)[1], 2)
    fit = lfm_np.als(big, factors=3, iterations=2, alpha=2.0**-60, regularization=0.2, init=begun(X), dtype=dtype)
    return wrong(scores=near(product(fit), U @ V.T, tolerance), J=near(_last(fit) / rule.cost(X, U, V), 1, tolerance))


def _dwindles(dtype: str) -> list[str]:
    """x < λ: v shrinks ten thousandfold a sweep, through the smallest numbers there are, and J is x²."""
    fit = lfm_np.als(
        sp.csr_array(np.ones((1, 1))), factors=1, weighting="ratings", regularization=100.0, iterations=120,
        init=(np.ones((1, 1)), np.full((1, 1), 0.5)), dtype=dtype,
    )  # fmt: skip
    u = 0.5 / (0.25 + 100)
    v = u / (u * u + 100)
    first = (1 - u * v) ** 2 + 100 * (u * u + v * v)
    return wrong(
        first=near(fit.history[0]["objective"], first, 1e-6 if dtype == "float32" else 1e-12),
        last=near(_last(fit), 1.0, 1e-12),
        small=max(abs(fit.user_factors).max(), abs(fit.item_factors).max()) < 1e-15,
        sweeps=len(fit.history) == 120,
    )


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    yield _holds("α = 0 is the SVD of what is stored, less λ", _svd_of_what_is_stored)
    yield _holds('"ials" without unseen cells is "confidence"', _ials_without_the_unseen)
    yield _holds("stored cells below α₀", lambda: _beside(Rule("confidence", 0.2, 3.0, 0.3, 0.25), with_gaps(24)))
    yield _holds("a J of 0 goes on", _nothing_is_wanted)
    for dtype in ("float64", "float32"):
        yield _holds(f"λ of 1e30, {dtype}", lambda d=dtype: held_at_1e30(lfm_np.als, d))
        yield _holds(f"120 sweeps towards nothing, {dtype}", lambda d=dtype: _dwindles(d))
    for dtype, tolerance in (("float64", 1e-9), ("float32", 1e-3)):
        yield _holds(f"α of 1e30, {dtype}", lambda d=dtype, t=tolerance: _alpha_of_1e30(d, t))
    for dtype, tolerance in (("float64", 1e-9), ("float32", 2e-5)):
        yield _holds(f"counts of 2⁶⁰, {dtype}", lambda d=dtype, t=tolerance: _counts_of_two_to_the_sixty(d, t))
    yield _holds("no λ, a row of one cell", lambda: _one_cell_short(True))
    yield _holds("no λ, a column of one cell", lambda: _one_cell_short(False))
    yield _holds("no λ, more factors than items", _more_factors_than_items)
    for name, rule in (("clicks", Rule(alpha=0.5, lam=1e-3, nu=2.5)), ("ratings", Rule("ratings", lam=1e-2, nu=1.75))):
        yield _holds(f"ν above 1, rows and columns of nothing, {name}", lambda r=rule: _beside(r, with_gaps(25)))
    yield _holds("λ of 1e-300", lambda: _beside(Rule(alpha=0.5, lam=1e-300), with_gaps(26), 2))
    yield _holds("constant ratings with biases", _constant_ratings)
    yield _holds("ratings about a milliard, in int64", _ratings_about_a_milliard)
    yield _holds("257 factors of 2 × 3", _wide_factors)
    yield _holds("two steps of cg by hand", lambda: steps_of_cg(lfm_np.als))
    yield _holds("three blocks of factors", _blocks_of_factors)
