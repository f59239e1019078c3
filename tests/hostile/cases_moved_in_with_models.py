"""Folding in, explanations and updates as other libraries define them, row by row in float64."""

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
from .working_days import csr, faultless, stars, start, wrong

_holds = faultless(Group(NAME))
PLAIN = {"regularization_exponent": 0.0}


def lists(S: np.ndarray, free: np.ndarray, N: int) -> np.ndarray:
    return np.array([ranked(s, np.flatnonzero(f), N) for s, f in zip(S, free, strict=True)])


def tfidf(X: np.ndarray) -> np.ndarray:
    """implicit.nearest_neighbours.tfidf_weight."""
    weights: np.ndarray = np.sqrt(X) * (np.log(float(len(X))) - np.log1p((~np.isnan(X)).sum(0)))
    return weights


def _recalculated() -> list[str]:
    """recalculate_user=True: the weighted rows are all that is known of these users."""
    W, V = tfidf(stars(12, 9, 4)), start(12, 9, 3)[1]
    rows = W[[7, 2, 2, 0]]
    U = solved(rows, V, lambda x: (0.5 * x, 1.0), 1.0, lambda n: 0.05)
    new = lfm_np.Factors(*start(12, 9, 3)).fold_in_users(
        csr(rows), weighting="confidence", alpha=0.5, regularization=0.05, **PLAIN
    )
    ids, scores = new.recommend(np.arange(4), N=6, seen=csr(rows))
    mine = lists(U @ V.T, np.isnan(rows), 6)
    at = np.where(mine < 0, -np.inf, np.take_along_axis(U @ V.T, np.maximum(mine, 0), 1))
    finite = np.isfinite(at)
    return wrong(
        factors=near(new.user_factors, U),
        lists=np.array_equal(ids, mine),
        scores=near(scores[finite], at[finite]) and np.array_equal(np.isfinite(scores), finite),
        both_sides_of_one=bool((0.5 * rows < 1).any() and (0.5 * rows > 1).any()),
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
    """A model with all biases: the user's is solved with the factors; shares and baseline make the score."""
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
        U, more = solved(x, V, lambda r: (1.0, r), 0.0, lambda n: 0.3 * n), {}
    else:
        more = {"alpha": 2.0}
        held = np.where(x == 0, np.nan, x)
        U = solved(held, V, lambda r: (1 + 2 * r, 1.0), 1.0, lambda n: 0.3 * (n + 6))
    new = lfm_np.Factors(np.ones((1, 2)), V).fold_in_users(
        csr(x), weighting=weighting, regularization=0.3, regularization_exponent=1.0, **more
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
    return wrong(zeros=(X == 0).any(), lists=np.array_equal(ids, lists(product(model), free, 10)))


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


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    yield _holds("implicit: recalculate_user of TF-IDF rows", _recalculated)
    yield _holds("irspack: scores of cold users", _cold_users)
    for kept, how in ((False, "at once"), (True, "from a file")):
        yield _holds(
            f"irspack: new rows and columns as fitted, {how}",
            lambda a=kept: _as_fitted(a),
        )
    yield _holds("implicit: explanation of weights on both sides of one", _explained)
    yield _holds("cmfrec: explanation of a rating", _explained_ratings)
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
    for fitted, how in ((True, "fitted"), (False, "arrays")):
        yield _holds(f"Surprise: zeros that were seen, {how}", lambda a=fitted: _zero_seen(a))
    if installed("sklearn"):
        yield _holds("scikit-learn: transform and back with biases", _estimator)
