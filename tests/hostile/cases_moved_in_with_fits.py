"""Fits of programs that came from implicit, irspack, Spark, cmfrec, Surprise and LensKit, by their formulas."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from .case import Case, Group
from .sentences_by_numpy import lfm_np, near, product, with_gaps
from .working_days import csr, faultless, stars, start, wrong

NAME = "moved in from elsewhere"
_GROUP = Group(NAME)
_holds = faultless(_GROUP)
F64: dict[str, Any] = {"dtype": "float64"}  # all differences below are rounding of small well-conditioned systems


def solved(X: np.ndarray, Y: np.ndarray, cell: Any, a0: float, lam: Any) -> np.ndarray:
    """Rows by (a0·YᵀY + Σ (c - a0) y yᵀ + λ) u = Σ c·p·y; ``cell`` gives c and p, ``lam`` the λ of so many cells."""
    rows = []
    for x in X:
        has = np.flatnonzero(~np.isnan(x))
        A, b = a0 * Y.T @ Y + lam(len(has)) * np.eye(Y.shape[1]), np.zeros(Y.shape[1])
        for i in has:
            c, p = cell(x[i])
            A += (c - a0) * np.outer(Y[i], Y[i])
            b += c * p * Y[i]
        rows.append(np.linalg.solve(A, b) if len(has) else b)
    return np.array(rows)


def swept(X: np.ndarray, V: np.ndarray, times: int, cell: Any, a0: float, lam: Any, lam_items: Any = None) -> Any:
    for _ in range(times):
        U = solved(X, V, cell, a0, lam)
        V = solved(X.T, U, cell, a0, lam_items or lam)
    return U, V


def implicit_bm25(X: np.ndarray, K1: float = 100.0, B: float = 0.8) -> np.ndarray:
    """implicit.nearest_neighbours.bm25_weight; NaN where nothing is stored."""
    idf = np.log(float(len(X))) - np.log1p((~np.isnan(X)).sum(0))
    sums = np.nansum(X, 1)
    norm = (1.0 - B) + B * sums / sums.mean()
    weights: np.ndarray = X * (K1 + 1.0) / (K1 * norm[:, None] + X) * idf
    return weights


def _plays(m: int = 12, n: int = 9, seed: int = 4) -> np.ndarray:
    """Counts; the last column is everybody's but the first user's, so that its idf is log m - log m."""
    X = stars(m, n, seed, 0.3)
    X[:, -1] = np.where(np.arange(m) > 0, 2.0, np.nan)
    return X


def _weighted() -> list[str]:
    W = implicit_bm25(_plays())[:, :-1]
    known = W[~np.isnan(W)]
    U, V = swept(W, start(12, 8, 3)[1], 3, lambda x: (x, 1.0), 1.0, lambda n: 0.05)
    fit = lfm_np.als(
        csr(W), factors=3, weighting="confidence", regularization=0.05, iterations=3, init=start(12, 8, 3), **F64
    )
    return wrong(both_sides_of_one=known.min() < 1 < known.max(), scores=near(product(fit), U @ V.T))


def _without_idf() -> list[str]:
    """Weights of 0 are no cells: neither in the loss nor in n_u and n_i."""
    W = implicit_bm25(_plays())
    W[:, -1] = np.where(np.isnan(W[:, -1]), np.nan, 0.0)
    absent = np.where(W == 0, np.nan, W)
    m, n = W.shape
    mine = swept(
        absent, start(m, n, 2)[1], 2, lambda x: (0.5 + x, x / (0.5 + x)), 0.5,
        lambda c: 0.01 * (c + 0.5 * n), lambda c: 0.01 * (c + 0.5 * m),
    )  # fmt: skip
    fit = lfm_np.als(
        csr(W), factors=2, weighting="ials", unobserved_weight=0.5, regularization=0.01, regularization_exponent=1.0,
        iterations=2, init=start(m, n, 2), **F64,
    )  # fmt: skip
    back = fit.recommend(np.arange(m), N=n, seen=csr(W)).ids
    kept = fit.recommend(np.arange(m), N=n, seen=csr(_plays())).ids
    return wrong(
        scores=near(product(fit), mine[0] @ mine[1].T),
        recommended_again=(back == n - 1).sum() == m,
        seen_by_the_counts=(kept == n - 1).sum() == 1,
    )


def _training_loss() -> list[str]:
    """implicit divides the sum by Σ c + m·n - nnz."""
    X = stars(11, 7, 2)
    fit = lfm_np.als(
        csr(X),
        factors=3,
        weighting="confidence",
        alpha=2.5,
        regularization=0.3,
        iterations=2,
        init=start(11, 7, 3),
        **F64,
    )
    U, V = swept(X, start(11, 7, 3)[1], 2, lambda x: (2.5 * x, 1.0), 1.0, lambda n: 0.3)
    S, has = U @ V.T, ~np.isnan(X)
    total = (2.5 * X[has] * (1 - S[has]) ** 2).sum() + (S[~has] ** 2).sum() + 0.3 * ((U**2).sum() + (V**2).sum())
    norm = (2.5 * X[has]).sum() + X.size - has.sum()
    return wrong(loss=near(fit.history[-1]["objective"] / norm, total / norm))


def _irspack_original(k: int) -> list[str]:
    X, a0 = stars(9, 10, 5), 0.3
    begin = start(9, 10, k)
    U, V = swept(
        X, begin[1], 2, lambda x: (a0 + x, 1.0), a0,
        lambda c: 0.02 * math.sqrt(c + a0 * 10), lambda c: 0.02 * math.sqrt(c + a0 * 9),
    )  # fmt: skip
    more = csr(X)
    more.data += a0
    fit = lfm_np.als(
        more, factors=k, weighting="confidence", unobserved_weight=a0, regularization=0.02, regularization_exponent=0.5,
        iterations=2, init=begin, **F64,
    )  # fmt: skip
    return wrong(scores=near(product(fit), U @ V.T, 1e-8))


def _irspack_log() -> list[str]:
    """Rendle's loss Σ x(1 - s)² + α₀ Σ s² of all cells is J and Σ x·α₀/(α₀ + x), which depends on no factor."""
    X, a0, eps = stars(10, 8, 6), 0.05, 1e-4
    L = np.log1p(X / eps)
    U, V = swept(
        L, start(10, 8, 3)[1], 3, lambda x: (a0 + x, x / (a0 + x)), a0,
        lambda c: 0.1 * (c + a0 * 8), lambda c: 0.1 * (c + a0 * 10),
    )  # fmt: skip
    scaled = csr(X)
    scaled.data = np.log1p(scaled.data / eps)
    fit = lfm_np.als(
        scaled, factors=3, weighting="ials", unobserved_weight=a0, regularization=0.1, regularization_exponent=1.0,
        iterations=3, init=start(10, 8, 3), **F64,
    )  # fmt: skip
    S, has = U @ V.T, ~np.isnan(L)
    paper = (L[has] * (1 - S[has]) ** 2).sum() + a0 * (S**2).sum()
    for cells, F in ((has, U), (has.T, V)):
        paper += (0.1 * (cells.sum(1) + a0 * cells.shape[1]) * (F**2).sum(1)).sum()
    constant = (L[has] * a0 / (a0 + L[has])).sum()
    return wrong(scores=near(product(fit), S), loss=near(fit.history[-1]["objective"] + constant, paper, 1e-9))


def _irspack_default() -> list[str]:
    """alpha0 = 0: only stored cells count, c = x and p = 1."""
    X = with_gaps(3)
    U, V = swept(X, start(14, 10, 2)[1], 2, lambda x: (x, 1.0), 0.0, lambda c: 0.001 * c)
    fit = lfm_np.als(
        csr(X), factors=2, weighting="ials", unobserved_weight=0.0, regularization=0.001, regularization_exponent=1.0,
        iterations=2, init=start(14, 10, 2), **F64,
    )  # fmt: skip
    return wrong(scores=near(product(fit), U @ V.T, 1e-7), empty=not fit.user_factors[2].any())


def _together() -> list[str]:
    """α counts only beside α₀ and λ."""
    X = stars(8, 9, 7)
    U, V = swept(X, start(8, 9, 3)[1], 3, lambda x: (0.2 + x, x / (0.2 + x)), 0.2, lambda n: 0.4)
    fit = lfm_np.als(
        csr(X), factors=3, weighting="ials", alpha=7.0, unobserved_weight=1.4, regularization=2.8, iterations=3,
        init=start(8, 9, 3), **F64,
    )  # fmt: skip
    return wrong(scores=near(product(fit), U @ V.T))


def _items_first() -> list[str]:
    """Spark solves the items first: the transpose, whose "items" are the users that it starts from."""
    X = with_gaps(1)
    U = start(14, 10, 3)[0]
    for _ in range(2):
        V = solved(X.T, U, lambda x: (1.0, x), 0.0, lambda n: 0.1 * n)
        U = solved(X, V, lambda x: (1.0, x), 0.0, lambda n: 0.1 * n)
    fit = lfm_np.als(
        csr(X.T), factors=3, weighting="ratings", regularization=0.1, regularization_exponent=1.0, iterations=2,
        init=(np.zeros((10, 3)), start(14, 10, 3)[0]), **F64,
    )  # fmt: skip
    return wrong(scores=near(product(fit).T, U @ V.T), empty=not fit.item_factors[2].any())


def _long_rows(weighting: str) -> list[str]:
    """Users of 0, 1, 255, 256 and 257 items; every row pays for its cells."""
    draw = np.random.default_rng(20)
    X = np.full((5, 257), np.nan)
    for u, d in enumerate((0, 257, 255, 1, 256)):
        X[u, draw.permutation(257)[:d]] = draw.integers(1, 6, d)
    begin = start(5, 257, 3)
    if weighting == "ratings":
        mine = swept(X, begin[1], 2, lambda x: (1.0, x), 0.0, lambda n: 0.05 * n)
    else:
        mine = swept(X, begin[1], 2, lambda x: (1 + x, 1.0), 1.0, lambda n: 0.05 * (n + 257), lambda n: 0.05 * (n + 5))
    fit = lfm_np.als(
        csr(X), factors=3, weighting=weighting, regularization=0.05, regularization_exponent=1.0, iterations=2,
        init=begin, **F64,
    )  # fmt: skip
    return wrong(scores=near(product(fit), mine[0] @ mine[1].T, 1e-8))


def _spark_implicit() -> list[str]:
    """Whole sweeps of λ·n_u by folding in, a row at a time."""
    X = stars(7, 5, 8)
    X[3] = np.nan
    V = start(7, 5, 2)[1]
    mine = swept(X, V, 2, lambda x: (1 + 40 * x, 1.0), 1.0, lambda n: 0.1 * n)
    words = {"weighting": "hu-koren", "alpha": 40.0, "regularization_exponent": 0.0}
    U = np.zeros((7, 2))
    for _ in range(2):
        rows = [csr(x[None]) for x in X]
        model = lfm_np.Factors(U, V)
        U = np.vstack([model.fold_in_users(x, regularization=0.1 * x.nnz, **words).user_factors for x in rows])
        columns = [csr(x[:, None]) for x in X.T]
        model = lfm_np.Factors(U, V)
        V = np.vstack([model.fold_in_items(x, regularization=0.1 * x.nnz, **words).item_factors for x in columns])
    return wrong(users=near(U, mine[0]), items=near(V, mine[1]))


def _product_of_lambdas() -> list[str]:
    """Only the product of the two sides' λ matters to the scores: λ·a² and λ/a² from a·V go side by side."""
    X, a = stars(10, 6, 9), 3.0
    U, V = swept(
        X, a * start(10, 6, 2)[1], 3, lambda x: (1 + 2 * x, 1.0), 1.0, lambda n: 0.7 * a * a, lambda n: 0.7 / a / a
    )
    fit = lfm_np.als(csr(X), factors=2, alpha=2.0, regularization=0.7, iterations=3, init=start(10, 6, 2), **F64)
    return wrong(scores=near(product(fit), U @ V.T))


def biased_rows(X: np.ndarray, V: np.ndarray, b: np.ndarray, mu: float, lam: Any) -> tuple[np.ndarray, np.ndarray]:
    """cmfrec and Surprise: factors and bias of a row at once, held by the same λ."""
    U, mine = np.zeros((len(X), V.shape[1])), np.zeros(len(X))
    for u, x in enumerate(X):
        has = ~np.isnan(x)
        if has.any():
            Y = np.column_stack([V[has], np.ones(has.sum())])
            both = np.linalg.solve(Y.T @ Y + lam(has.sum()) * np.eye(Y.shape[1]), Y.T @ (x[has] - mu - b[has]))
            U[u], mine[u] = both[:-1], both[-1]
    return U, mine


def biased(X: np.ndarray, V: np.ndarray, times: int, lam: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Scores, biases and the mean after sweeps from no biases."""
    mu, d = float(np.nanmean(X)), np.zeros(X.shape[1])
    for _ in range(times):
        U, b = biased_rows(X, V, d, mu, lam)
        V, d = biased_rows(X.T, U, b, mu, lam)
    return mu + b[:, None] + d + U @ V.T, b, d, mu


def all_of(fit: Any) -> np.ndarray:
    return np.asarray(fit.global_bias + fit.user_bias[:, None].astype(np.float64) + fit.item_bias + product(fit))


def _cmfrec_biases() -> list[str]:
    """Ratings of -2 to 2: a stored zero is a value, and counts in n_u."""
    X = with_gaps(2) - 3
    S, b, d, mu = biased(X, start(14, 10, 2)[1], 3, lambda n: 0.2 * n)
    fit = lfm_np.als(
        csr(X), factors=2, weighting="ratings", biases=True, regularization=0.2, regularization_exponent=1.0,
        iterations=3, init=start(14, 10, 2), **F64,
    )  # fmt: skip
    J = ((X - all_of(fit))[~np.isnan(X)] ** 2).sum()
    for cells, F, one in ((X, fit.user_factors, fit.user_bias), (X.T, fit.item_factors, fit.item_bias)):
        J += (0.2 * (~np.isnan(cells)).sum(1) * ((F**2).sum(1) + one**2)).sum()
    return wrong(
        objective=near(fit.history[-1]["objective"], J),
        zeros=(X == 0).any(), mean=near(fit.global_bias, mu), scores=near(all_of(fit), S),
        biases=near(fit.user_bias, b) and near(fit.item_bias, d), empty=fit.user_bias[2] == 0 == fit.item_bias[4],
    )  # fmt: skip


def _logarithms(weighting: str) -> list[str]:
    """apply_log_transf: log 1 = 0 is a rating, but of no confidence at all."""
    X = np.log(stars(12, 9, 10))
    if weighting == "ratings":
        mine = swept(X, start(12, 9, 2)[1], 2, lambda x: (1.0, x), 0.0, lambda n: 0.1 * n)
    else:
        Z = np.where(X == 0, np.nan, X)
        mine = swept(
            Z, start(12, 9, 2)[1], 2, lambda x: (1 + x, 1.0), 1.0, lambda c: 0.1 * (c + 9), lambda c: 0.1 * (c + 12)
        )
    logs = csr(stars(12, 9, 10))
    logs.data = np.log(logs.data)
    fit = lfm_np.als(
        logs, factors=2, weighting=weighting, regularization=0.1, regularization_exponent=1.0, iterations=2,
        init=start(12, 9, 2), **F64,
    )  # fmt: skip
    return wrong(some=(X == 0).sum() > 3, scores=near(product(fit), mine[0] @ mine[1].T))


def _prices() -> list[str]:
    """Ratings of a million and a few, in float32, whose numbers lie 1/16 apart there."""
    X = stars(20, 12, 11, 0.5)
    S = biased(X, start(20, 12, 2)[1], 3, lambda n: 0.5)[0]
    fit = lfm_np.als(
        csr(X + 1e6), factors=2, weighting="ratings", biases=True, regularization=0.5, iterations=3,
        init=tuple(F.astype(np.float32) for F in start(20, 12, 2)),
    )  # fmt: skip
    return wrong(mean=near(fit.global_bias - 1e6, np.nanmean(X), 0.07), scores=abs(all_of(fit) - 1e6 - S).max() < 0.25)


def _baseline_only(exponent: float, lam: float) -> list[str]:
    """Surprise's BaselineOnly by ALS: b_i = Σ (x - μ - b_u)/(λ + n_i), items first. Factors of 0 stay 0."""
    X = with_gaps(4)
    mu, bu = float(np.nanmean(X)), np.zeros(14)
    counts = (~np.isnan(X)).sum(0), (~np.isnan(X)).sum(1)
    hold = [np.where(c > 0, lam * c**exponent, 1.0) for c in counts]
    for _ in range(4):
        bi = np.nansum(X - mu - bu[:, None], 0) / (hold[0] + counts[0])
        bu = np.nansum(X - mu - bi, 1) / (hold[1] + counts[1])
    fit = lfm_np.als(
        csr(X.T), factors=1, weighting="ratings", biases=True, regularization=lam, regularization_exponent=exponent,
        iterations=4, init=(np.zeros((10, 1)), np.zeros((14, 1))), **F64,
    )  # fmt: skip
    return wrong(
        items=near(fit.user_bias, bi), users=near(fit.item_bias, bu), mean=near(fit.global_bias, mu),
        none=not fit.user_factors.any() and not fit.item_factors.any(),
    )  # fmt: skip


def _residuals() -> list[str]:
    """LensKit's biased factors: damped biases are taken off first, and handed on with the factors."""
    X = stars(13, 8, 12, 0.4)
    mu, has = float(np.nanmean(X)), ~np.isnan(X)
    bi = np.nansum(X - mu, 0) / (has.sum(0) + 5.0)
    bu = np.nansum(X - mu - bi, 1) / (has.sum(1) + 5.0)
    R = X - mu - bi - bu[:, None]
    U, V = swept(R, start(13, 8, 2)[1], 3, lambda x: (1.0, x), 0.0, lambda n: 0.1 * n)
    fit = lfm_np.als(
        csr(R), factors=2, weighting="ratings", regularization=0.1, regularization_exponent=1.0, iterations=3,
        init=start(13, 8, 2), **F64,
    )  # fmt: skip
    model = lfm_np.Factors(fit.user_factors, fit.item_factors, user_bias=bu, item_bias=bi, global_bias=mu)
    users, items = np.nonzero(has)
    S = mu + bu[:, None] + bi + U @ V.T
    found = lfm_np.objective(csr(X), model, weighting="ratings", regularization=0.1, regularization_exponent=1.0)
    paid = ((X - S)[has] ** 2).sum()
    for cells, F, b in ((has, U, bu), (has.T, V, bi)):
        paid += (0.1 * cells.sum(1) * ((F**2).sum(1) + b**2)).sum()
    return wrong(scores=near(model.scores(users, items), S[has]), objective=near(found, paid))


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    yield _holds("implicit: BM25 weights on both sides of one", _weighted)
    yield _holds("implicit: weights of an item without idf are no cells", _without_idf)
    yield _holds("implicit: its training loss", _training_loss)
    for k in (4, 12, 33):
        yield _holds(f"irspack: ORIGINAL, alpha0 = 0.3, nu = 0.5, {k} components", lambda a=k: _irspack_original(a))
    yield _holds("irspack: confidence_scaling = log, and the loss of the paper", _irspack_log)
    yield _holds("irspack: alpha0 = 0", _irspack_default)
    yield _holds("irspack: α, α₀ and λ times seven", _together)
    yield _holds("Spark: items first", _items_first)
    yield _holds("Spark: implicit preferences, λ·n_u, two sweeps by folding in", _spark_implicit)
    for weighting in ("ratings", "hu-koren"):
        yield _holds(f"Spark: users of 255 to 257 items, {weighting}", lambda a=weighting: _long_rows(a))
    yield _holds("Spark: the product of both λ", _product_of_lambdas)
    yield _holds("cmfrec: biases, centred, scale_lam, ratings around zero", _cmfrec_biases)
    for weighting in ("ratings", "hu-koren"):
        yield _holds(f"cmfrec: logarithms of counts of one, {weighting}", lambda w=weighting: _logarithms(w))
    yield _holds("Surprise: prices of a million and a few in float32", _prices)
    for exponent, lam in ((0.0, 10.0), (1.0, 0.5)):
        yield _holds(f"Surprise: BaselineOnly, ν = {exponent:g}", lambda a=exponent, b=lam: _baseline_only(a, b))
    yield _holds("LensKit: factors of what damped biases leave", _residuals)
