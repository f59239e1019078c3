"""Models that another library fitted, served here: folding in, explanations, neighbours and lists by loops and sorting."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

from .case import Case, Group, installed
from .cases_moved_in_with_fits import F64, NAME, biased_rows, implicit_bm25, solved
from .places import inside
from .sentences_by_numpy import lfm_np, near, product, ranked, with_gaps
from .working_days import csr, faultless, judged, stars, start, wrong

_holds = faultless(Group(NAME))
PLAIN = {"regularization_exponent": 0.0}


def _lists(S: np.ndarray, free: np.ndarray, N: int) -> np.ndarray:
    return np.array([ranked(s, np.flatnonzero(f), N) for s, f in zip(S, free, strict=True)])


def tfidf(X: np.ndarray) -> np.ndarray:
    """implicit.nearest_neighbours.tfidf_weight."""
    weights: np.ndarray = np.sqrt(X) * (np.log(float(len(X))) - np.log1p((~np.isnan(X)).sum(0)))
    return weights


def _recalculated() -> list[str]:
    """recalculate_user=True: the weighted rows are all that is known of these users."""
    W, V = tfidf(stars(12, 9, 4)), start(12, 9, 3)[1]
    rows = W[[7, 2, 2, 0]]
    U = solved(rows, V, lambda x: (1.5 * x, 1.0), 1.0, lambda n: 0.05)
    new = lfm_np.Factors(*start(12, 9, 3)).fold_in_users(
        csr(rows), weighting="confidence", alpha=1.5, regularization=0.05, **PLAIN
    )
    ids, scores = new.recommend(np.arange(4), N=6, seen=csr(rows))
    mine = _lists(U @ V.T, np.isnan(rows), 6)
    at = np.where(mine < 0, -np.inf, np.take_along_axis(U @ V.T, np.maximum(mine, 0), 1))
    finite = np.isfinite(at)
    return wrong(
        factors=near(new.user_factors, U),
        lists=np.array_equal(ids, mine),
        scores=near(scores[finite], at[finite]) and np.array_equal(np.isfinite(scores), finite),
        below_one=bool((1.5 * rows < 1).any() and (1.5 * rows > 1).any()),
    )


def _cold_users() -> list[str]:
    """irspack's get_score_cold_user of ORIGINAL: x + α₀ on stored cells, λ(n_u + α₀n)."""
    X, V = with_gaps(3), start(14, 10, 4)[1]
    U = solved(X, V, lambda x: (0.3 + x, 1.0), 0.3, lambda n: 0.02 * (n + 3.0))
    more = csr(X)
    more.data += 0.3
    new = lfm_np.Factors(np.ones((1, 4)), V).fold_in_users(
        more, weighting="confidence", alpha=1.0, unobserved_weight=0.3, regularization=0.02, regularization_exponent=1.0
    )
    return wrong(factors=near(new.user_factors, U), shape=new.shape == (14, 10))


def _as_fitted(kept: bool) -> list[str]:
    """What the fit was told holds for new rows too, also from a file."""
    X = with_gaps(5)
    words = {"weighting": "ials", "alpha": 3.0, "unobserved_weight": 0.2, "regularization": 0.05}
    fit = lfm_np.als(csr(X), factors=3, iterations=2, regularization_exponent=0.5, random_state=0, **words, **F64)
    if kept:

        def again(folder: Path) -> Any:
            fit.save(folder / "model")
            return lfm_np.Factors.load(folder / "model")

        fit = inside(again)()
    rows = with_gaps(6)[:5]
    cell = lambda x: (0.2 + 3 * x, 3 * x / (0.2 + 3 * x))  # noqa: E731
    U = solved(rows, fit.item_factors, cell, 0.2, lambda n: 0.05 * math.sqrt(n + 0.2 * 10))
    columns = with_gaps(6)[:, :4]
    V = solved(columns.T, fit.user_factors, cell, 0.2, lambda n: 0.05 * math.sqrt(n + 0.2 * 14))
    return wrong(
        users=near(fit.fold_in_users(csr(rows)).user_factors, U),
        items=near(fit.fold_in_items(csr(columns)).item_factors, V),
    )


def _explained() -> list[str]:
    """implicit's explanation: c·v_j·A⁻¹·v_i of every stored j, with weights on both sides of one."""
    W, (U, V) = implicit_bm25(stars(12, 9, 4)), start(12, 9, 3)
    user = 5
    has = np.flatnonzero(~np.isnan(W[user]))
    c = 0.6 * W[user, has]
    A = V.T @ V + (V[has].T * (c - 1)) @ V[has] + 0.1 * np.eye(3)
    found = []
    for item in range(9):
        why = lfm_np.Factors(U, V).explain(
            user, item, csr(W), weighting="confidence", alpha=0.6, regularization=0.1, **PLAIN
        )
        parts = c * (V[has] @ np.linalg.solve(A, V[item]))
        place = np.argsort(why.items)
        found.append(
            np.array_equal(why.items[place], has)
            and near(why.contributions[place], parts)
            and near(why.baseline, 0.0)
            and near(why.score, parts.sum())
        )
    return wrong(all=all(found), mixed=bool(c.min() < 1 < c.max()))


def _explained_ratings() -> list[str]:
    """A rating of a model with all biases: the user's is solved with the factors; shares and baseline make the score."""
    X, (U, V) = stars(10, 8, 6), start(10, 8, 2)
    bu, bi, mu = np.linspace(-1, 1, 10), np.linspace(0.5, -0.5, 8), 3.25
    model = lfm_np.Factors(U, V, user_bias=bu, item_bias=bi, global_bias=mu)
    P, b = biased_rows(X, V, bi, mu, lambda n: 0.1 * n)
    S = mu + b[:, None] + bi + P @ V.T
    whys = [
        model.explain(4, i, csr(X), weighting="ratings", regularization=0.1, regularization_exponent=1.0)
        for i in range(8)
    ]
    return wrong(
        scores=near([why.score for why in whys], S[4]),
        sums=near([why.baseline + why.contributions.sum() for why in whys], S[4]),
        items=all(set(why.items.tolist()) <= set(np.flatnonzero(~np.isnan(X[4])).tolist()) for why in whys),
    )


def _bpr_of_implicit() -> tuple[np.ndarray, np.ndarray]:
    """Its factors: the last column of the items is the bias, that of the users is 1."""
    draw = np.random.default_rng(8)
    U, V = (draw.normal(size=(size, 4)).astype(np.float32) for size in (6, 30))
    U[:, -1] = 1
    V[:, -1] *= 3
    return U, V


def _taken_over() -> list[str]:
    U, V = _bpr_of_implicit()
    S = U.astype(np.float64) @ V.T.astype(np.float64)
    model = lfm_np.Factors(U[:, :-1], V[:, :-1], item_bias=V[:, -1])
    ids, scores = model.recommend(np.arange(6), N=30)
    mine = _lists(S, np.ones(S.shape, bool), 30)
    return wrong(lists=np.array_equal(ids, mine), scores=near(scores, np.take_along_axis(S, mine, 1), 1e-6))


def _alike(whole: bool) -> list[str]:
    """implicit's cosines have the bias in them; here they have it only where it is handed over as a factor."""
    U, V = _bpr_of_implicit()
    F = V.astype(np.float64) if whole else V[:, :-1].astype(np.float64)
    F = F / np.linalg.norm(F, axis=1)[:, None]
    C = F @ F.T
    model = lfm_np.Factors(U, V) if whole else lfm_np.Factors(U[:, :-1], V[:, :-1], item_bias=V[:, -1])
    ids, cosines = model.similar_items(np.arange(30), N=12)
    best = -np.sort(-C, 1)[:, :12]
    return wrong(
        cosines=near(cosines, best, 1e-6),
        ids=near(np.take_along_axis(C, ids, 1), best, 1e-6),
        itself=np.array_equal(ids[:, 0], np.arange(30)),
    )


def _clicks(m: int, n: int, share: float, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).random((m, n)) < share).astype(np.float32)


def _together_in_rows() -> list[str]:
    """Items as columns of X: inner products are counts of common users, whole numbers with many ties."""
    X = _clicks(25, 40, 0.2)
    X[:, 7] = 0
    C = X.T @ X
    ids, counts = lfm_np.Factors(np.zeros((1, 25), np.float32), np.ascontiguousarray(X.T)).similar_items(
        np.arange(40), N=40, metric="inner"
    )
    mine = _lists(C, np.ones((40, 40), bool), 40)
    return wrong(ids=np.array_equal(ids, mine), counts=np.array_equal(counts, np.take_along_axis(C, mine, 1)))


def _cosines_of_columns() -> list[str]:
    """implicit's CosineRecommender; a product that nobody bought is like nothing, the lower ids first."""
    X = _clicks(25, 40, 0.2, 1).astype(np.float64)
    X[:, 7] = 0
    norms = np.linalg.norm(X, axis=0)
    C = X.T @ X / np.where(norms > 0, norms, 1) / np.where(norms > 0, norms, 1)[:, None]
    ids, cosines = lfm_np.Factors(np.zeros((1, 25)), X.T).similar_items(np.arange(40), N=9)
    best = -np.sort(-C, 1)[:, :9]
    return wrong(
        cosines=near(cosines, best, 1e-12),
        ids=near(np.take_along_axis(C, ids, 1), best, 1e-12),
        nobody=ids[7].tolist() == list(range(9)) and not cosines[7].any(),
    )


def _neighbours(n: int, N: int) -> list[str]:
    """implicit's ItemItemRecommender: rows of X times counts of common users, whole numbers below 2²⁴."""
    X = _clicks(12, n, 0.05, n)
    C = X.T @ X
    S = X @ C
    allowed = np.random.default_rng(1).permutation(n)[: n - 3]
    banned = allowed[:2]
    free = X == 0
    free[:, np.setdiff1d(np.arange(n), allowed)] = False
    free[:, banned] = False
    ids, scores = lfm_np.Factors(X, C).recommend(
        np.arange(12), N=N, seen=sp.csr_array(X), items=allowed, exclude=banned
    )
    mine = _lists(S, free, N)
    at = np.where(mine < 0, -np.inf, np.take_along_axis(S, np.maximum(mine, 0), 1))
    return wrong(ids=np.array_equal(ids, mine), scores=np.array_equal(scores, at), ties=len(np.unique(S)) < n)


def _ease() -> list[str]:
    """EASE as a factor model of n factors: scores X·B, B = I - P/diag P, P the inverse of XᵀX + λ."""
    X = _clicks(30, 18, 0.25, 2).astype(np.float64)
    P = np.linalg.inv(X.T @ X + 2.0 * np.eye(18))
    B = -P / np.diag(P)
    np.fill_diagonal(B, 0)
    model = lfm_np.Factors(X, np.ascontiguousarray(B.T))
    held = (np.random.default_rng(3).random(X.shape) < 0.3) & (X == 0)
    mine = judged(X @ B, X > 0, held, 5)
    found = lfm_np.evaluate(
        model, sp.csr_array(X), sp.csr_array(held.astype(float)), ["ndcg@5", "map@5", "recall@5", "mrr", "auc"]
    )
    return wrong(**{name: near(found[name], mine[name], 1e-12) for name in found})


def _nmf() -> list[str]:
    """Lee and Seung's steps; H lies across, and a user without events has a row of zeros and ties everywhere."""
    X = np.nan_to_num(stars(12, 9, 7))
    X[3] = 0
    draw = np.random.default_rng(0)
    W, H = draw.random((12, 3)), draw.random((3, 9))
    for _ in range(50):
        H *= (W.T @ X) / (W.T @ W @ H + 1e-12)
        W *= (X @ H.T) / (W @ H @ H.T + 1e-12)
    W[3] = 0
    ids, scores = lfm_np.Factors(np.asfortranarray(W), H.T).recommend(np.arange(12), N=9, seen=sp.csr_array(X))
    mine = _lists(np.where(W.any(1)[:, None], W @ H, 0.0), X == 0, 9)
    return wrong(lists=np.array_equal(ids, mine), zeros=ids[3].tolist() == list(range(9)) and not scores[3].any())


def _svd() -> list[str]:
    """transform of TruncatedSVD is the projection x·V of a row that is known in full; of k known cells, what fits them."""
    X = np.random.default_rng(5).normal(size=(9, 7))
    V = np.linalg.svd(X, full_matrices=False)[2][:3].T
    words = {"weighting": "ratings", "regularization": 0.0, **PLAIN}
    model = lfm_np.Factors(X @ V, V)
    rows = np.random.default_rng(6).normal(size=(4, 7))
    full = model.fold_in_users(sp.csr_array(rows), **words).user_factors
    some = np.full((1, 7), np.nan)
    some[0, [1, 4, 6]] = [2.0, 0.0, -1.0]
    three = model.fold_in_users(csr(some), **words)
    return wrong(
        projected=near(full, rows @ V),
        met=near(three.scores(0, [1, 4, 6]), [2.0, 0.0, -1.0]),
        factors=near(three.user_factors[0], np.linalg.solve(V[[1, 4, 6]], [2.0, 0.0, -1.0])),
    )


def _lightfm(biased: bool) -> list[str]:
    """predict(user, items) in float32, and lists that a user's bias does not move."""
    draw = np.random.default_rng(9)
    U, V, bu, bi = (draw.normal(size=size).astype(np.float32) for size in ((5, 10), (40, 10), (5,), (40,)))
    S = U.astype(np.float64) @ V.T + bi + (bu[:, None] if biased else 0.0)
    model = lfm_np.Factors(U, V, item_bias=bi, user_bias=bu if biased else None)
    items = draw.permutation(40)
    known = _clicks(5, 40, 0.3, 3)
    ids = model.recommend(np.arange(5), N=40, seen=sp.csr_array(known)).ids
    return wrong(
        predicted=near(model.scores(3, items), S[3, items], 1e-5),
        pairs=near(model.scores([4, 0, 4], [39, 0, 1]), S[[4, 0, 4], [39, 0, 1]], 1e-5),
        lists=np.array_equal(ids, _lists(U.astype(np.float64) @ V.T + bi, known == 0, 40)),
    )


def _new_rater(parts: tuple[str, ...]) -> list[str]:
    """A rating model with only some of its biases: those that are there are taken off, a user's is solved."""
    X, (U, V) = with_gaps(7), start(14, 10, 3)
    has = {"user_bias": np.linspace(-1, 1, 14), "item_bias": np.linspace(0.8, -0.6, 10), "global_bias": 3.4}
    given = {name: has[name] for name in parts}
    mu, bi = given.get("global_bias", 0.0), given.get("item_bias", np.zeros(10))
    if "user_bias" in parts:
        P, b = biased_rows(X, V, bi, mu, lambda n: 0.7)
    else:
        P, b = solved(X - mu - bi, V, lambda x: (1.0, x), 0.0, lambda n: 0.7), np.zeros(14)
    new = lfm_np.Factors(U, V, **given).fold_in_users(csr(X), weighting="ratings", regularization=0.7, **PLAIN)
    users, items = np.divmod(np.arange(140), 10)
    S = (mu + b[:, None] + bi + P @ V.T).ravel()
    return wrong(
        factors=near(new.user_factors, P),
        scores=near(new.scores(users, items), S),
        bias=near(new.user_bias, b) if "user_bias" in parts else new.user_bias is None,
        clipped=near(np.clip(new.scores(users, items), 1, 5), np.clip(S, 1, 5)),
    )


def _new_title(parts: tuple[str, ...]) -> list[str]:
    """The same for new items: μ and the users' biases are taken off, an item's is solved if items have any."""
    X, (U, V) = with_gaps(8), start(14, 10, 3)
    has = {"user_bias": np.linspace(-1, 1, 14), "item_bias": np.linspace(0.8, -0.6, 10), "global_bias": 3.4}
    given = {name: has[name] for name in parts}
    mu, bu = given.get("global_bias", 0.0), given.get("user_bias", np.zeros(14))
    if "item_bias" in parts:
        Q, d = biased_rows(X.T, U, bu, mu, lambda n: 0.3 * n)
    else:
        Q, d = solved(X.T - mu - bu, U, lambda x: (1.0, x), 0.0, lambda n: 0.3 * n), np.zeros(10)
    new = lfm_np.Factors(U, V, **given).fold_in_items(
        csr(X), weighting="ratings", regularization=0.3, regularization_exponent=1.0
    )
    users, items = np.divmod(np.arange(140), 10)
    return wrong(
        factors=near(new.item_factors, Q),
        scores=near(new.scores(users, items), (mu + bu[:, None] + d + U @ Q.T).ravel()),
        bias=near(new.item_bias, d) if "item_bias" in parts else new.item_bias is None,
    )


def _nobody_yet() -> list[str]:
    """A row of nothing gets the items by their biases."""
    draw = np.random.default_rng(10)
    V, bi = draw.normal(size=(20, 3)), draw.integers(-2, 3, 20) / 2.0
    model = lfm_np.Factors(np.ones((4, 3)), V, user_bias=np.ones(4), item_bias=bi, global_bias=3.0)
    new = model.fold_in_users(sp.csr_array((2, 20)), weighting="ratings", regularization=0.1, **PLAIN)
    ids, scores = new.recommend([1, 0], N=20)
    mine = ranked(bi, range(20), 20)
    return wrong(
        ids=ids.tolist() == [mine, mine],
        scores=near(scores, np.tile(3.0 + bi[mine], (2, 1)), 1e-12),
        zero=not new.user_factors.any() and not new.user_bias.any(),
    )


def _changed_items() -> list[str]:
    """partial_fit_items: two new ones and an old one in any order; every other byte stays."""
    X, (U, V) = stars(11, 3, 9, 0.5), start(11, 6, 2)
    model = lfm_np.Factors(U, V)
    new = model.update(csr(X), items=[7, 2, 6], weighting="hu-koren", alpha=4.0, regularization=0.2, **PLAIN)
    mine = solved(X.T, U, lambda x: (1 + 4 * x, 1.0), 1.0, lambda n: 0.2)
    stay = [0, 1, 3, 4, 5]
    return wrong(
        new=near(new.item_factors[[7, 2, 6]], mine),
        others=new.item_factors[stay].tobytes() == V[stay].tobytes(),
        users=new.user_factors.tobytes() == U.tobytes(),
        old=model.shape == (11, 6) and model.item_factors.tobytes() == V.tobytes(),
    )


def _changed_raters() -> list[str]:
    """An update of a user and a new one in a model with biases, and an update of what that gave."""
    X, (U, V) = stars(4, 6, 10, 0.6), start(5, 6, 2)
    bu, bi = np.linspace(-1, 1, 5), np.linspace(0.3, -0.3, 6)
    words = {"weighting": "ratings", "regularization": 0.4, **PLAIN}
    model = lfm_np.Factors(U, V, user_bias=bu, item_bias=bi, global_bias=3.0)
    new = model.update(csr(X[:2]), users=[5, 1], **words).update(csr(X[2:]), users=[5, 6], **words)
    P, b = biased_rows(X, V, bi, 3.0, lambda n: 0.4)
    return wrong(
        factors=near(new.user_factors[[1, 5, 6]], P[[1, 2, 3]]),
        biases=near(new.user_bias[[1, 5, 6]], b[[1, 2, 3]]),
        others=np.array_equal(new.user_factors[[0, 2, 3, 4]], U[[0, 2, 3, 4]])
        and np.array_equal(new.user_bias[[0, 2, 3, 4]], bu[[0, 2, 3, 4]]),
        items=np.array_equal(new.item_bias, bi) and new.global_bias == 3.0,
    )


def _stored_zero(weighting: str) -> list[str]:
    """A zero that is stored: a rating, which counts in n_u; or nothing."""
    x, V = np.array([[3.0, 0.0, np.nan, 0.0, 1.0, np.nan]]), start(1, 6, 2)[1]
    if weighting == "ratings":
        U = solved(x, V, lambda r: (1.0, r), 0.0, lambda n: 0.3 * n)
    else:
        held = np.where(x == 0, np.nan, x)
        U = solved(held, V, lambda r: (1 + 2 * r, 1.0), 1.0, lambda n: 0.3 * (n + 6))
    new = lfm_np.Factors(np.ones((1, 2)), V).fold_in_users(
        csr(x), weighting=weighting, alpha=2.0, regularization=0.3, regularization_exponent=1.0
    )
    return wrong(factors=near(new.user_factors, U))


def _sure_of_it() -> list[str]:
    """Confidences of 10⁸ in float32; 0.3 % of the targets is the largest error that docs/reliability.md reports."""
    X, (U, V) = stars(8, 40, 11, 0.2), (F.astype(np.float32) for F in start(8, 40, 6))
    V = V.astype(np.float64)
    S = solved(X, V, lambda x: (1 + 1e8 * x, 1.0), 1.0, lambda n: 1e-3) @ V.T
    new = lfm_np.Factors(U, V.astype(np.float32)).fold_in_users(
        csr(X, np.float32), weighting="hu-koren", alpha=1e8, regularization=1e-3, **PLAIN
    )
    has = ~np.isnan(X)
    return wrong(scores=abs(product(new) - S)[has].max() < 3e-3)


def _zero_seen(fitted: bool) -> list[str]:
    """A stored zero was seen by a model of ratings; one that came as arrays does not know."""
    X = with_gaps(9) - 3
    U, V = start(14, 10, 2)
    model = lfm_np.Factors(U, V)
    if fitted:
        model = lfm_np.als(csr(X), factors=2, weighting="ratings", regularization=0.5, random_state=0, **F64)
    free = np.isnan(X) if fitted else np.isnan(X) | (X == 0)
    ids = model.recommend(np.arange(14), N=10, seen=csr(X)).ids
    return wrong(zeros=(X == 0).any(), lists=np.array_equal(ids, _lists(product(model), free, 10)))


def _estimator() -> list[str]:
    """transform gives factors and the bias of a rater, inverse_transform every score."""
    from lfm_np.sklearn import ALS

    X, new = with_gaps(10), with_gaps(11)[:6]
    words = {"weighting": "ratings", "biases": True, "regularization": 0.4, "regularization_exponent": 1.0}
    model = ALS(factors=2, iterations=3, random_state=0, **words, **F64).fit(csr(X))
    V, d, mu = model.factors_.item_factors, model.factors_.item_bias, model.factors_.global_bias
    P, b = biased_rows(new, V, d, mu, lambda n: 0.4 * n)
    Z = model.transform(csr(new))
    return wrong(
        transformed=near(Z, np.column_stack([P, b])),
        scores=near(model.inverse_transform(Z), mu + b[:, None] + d + P @ V.T),
        mean=near(mu, np.nanmean(X)),
    )


def _for_all_users() -> list[str]:
    """Spark's recommendForAllUsers, which leaves nothing out: ids of text and of 64 bits, pandas in and out."""
    import pandas as pd

    frame = pd.DataFrame({"who": ["u10", "u9", "é", "u10", "Z"], "what": [2**40 + 1, 2**40, 7, 7, -3]})
    data = lfm_np.Interactions.from_frame(frame, "who", "what")
    U, V = start(4, 4, 2)
    found = lfm_np.recommend_frame(lfm_np.Factors(U, V), data, N=3)
    who, what = ["Z", "u10", "u9", "é"], [-3, 7, 2**40, 2**40 + 1]
    S, mine = U @ V.T, []
    for u, name in enumerate(who):
        mine += [(name, what[i], r) for r, i in enumerate(ranked(S[u], range(4), 3), 1)]
    return wrong(
        pandas=isinstance(found, pd.DataFrame),
        rows=list(zip(found["user"], found["item"], found["rank"], strict=True)) == mine,
        scores=near(found["score"], [S[who.index(a), what.index(b)] for a, b, _ in mine], 1e-12),
    )


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    yield _holds("implicit: recalculate_user of TF-IDF rows", _recalculated)
    yield _holds("irspack: scores of cold users", _cold_users)
    for kept in (False, True):
        yield _holds(
            f"irspack: new rows and columns as fitted, {'from a file' if kept else 'at once'}",
            lambda a=kept: _as_fitted(a),
        )
    yield _holds("implicit: explanation of weights on both sides of one", _explained)
    yield _holds("cmfrec: explanation of a rating", _explained_ratings)
    yield _holds("implicit: a BPR model taken over", _taken_over)
    for whole in (True, False):
        yield _holds(f"implicit: cosines {'with' if whole else 'without'} the bias", lambda a=whole: _alike(a))
    yield _holds("implicit: items by common users", _together_in_rows)
    yield _holds("implicit: cosines of columns", _cosines_of_columns)
    for n, N in ((257, 256), (255, 257), (40, 3)):
        yield _holds(f"implicit: neighbours, {N} of {n}", lambda a=n, b=N: _neighbours(a, b))
    yield _holds("irspack: EASE as factors", _ease)
    yield _holds("scikit-learn: NMF taken over", _nmf)
    yield _holds("scikit-learn: TruncatedSVD taken over", _svd)
    for biased in (True, False):
        yield _holds(f"lightfm: predict {'with' if biased else 'without'} a user's bias", lambda a=biased: _lightfm(a))
    for parts in (
        ("user_bias", "item_bias", "global_bias"),
        ("item_bias", "global_bias"),
        ("global_bias",),
        ("user_bias",),
    ):
        yield _holds(f"Surprise: a new rater beside {', '.join(parts)}", lambda a=parts: _new_rater(a))
    for parts in (("user_bias", "item_bias", "global_bias"), ("user_bias", "global_bias"), ("item_bias",)):
        yield _holds(f"Surprise: a new title beside {', '.join(parts)}", lambda a=parts: _new_title(a))
    yield _holds("LensKit: nothing known but biases", _nobody_yet)
    yield _holds("implicit: partial_fit_items in any order", _changed_items)
    yield _holds("cmfrec: raters updated twice", _changed_raters)
    for weighting in ("ratings", "hu-koren"):
        yield _holds(f"Spark: a stored zero folded in, {weighting}", lambda a=weighting: _stored_zero(a))
    yield _holds("implicit: an alpha of a hundred million", _sure_of_it)
    for fitted in (True, False):
        yield _holds(
            f"Surprise: zeros that were seen, {'fitted' if fitted else 'arrays'}", lambda a=fitted: _zero_seen(a)
        )
    if installed("sklearn"):
        yield _holds("scikit-learn: transform and back with biases", _estimator)
    if installed("pandas", "narwhals", "pyarrow"):
        yield _holds("Spark: recommendForAllUsers", _for_all_users)
