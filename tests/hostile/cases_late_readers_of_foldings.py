"""Sentences about fold-in, `update` and `explain`, beside normal equations row by row in float64."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

import lfm_np
from lfm_np import losses

from .case import Case, Group
from .cases_late_readers_of_fits import Rows, data, plain
from .working_days import close, csr, faultless, wrong

_GROUP = Group("late readers, foldings")
_holds = faultless(_GROUP)
NAN = np.nan


def _folded() -> list[str]:
    """By the model's own numbers: rows with no cell, one, and all of them."""
    model, X = Rows("ials", lam=0.05, nu=0.8, alpha=3.0, a0=0.2), data(seed=7)
    fit: Any = lfm_np.als(csr(X), factors=4, iterations=2, dtype="float64", random_state=0, **model.words)
    new = np.full((3, 11), NAN)
    new[1, 6], new[2] = 2.75, np.arange(1, 12) / 3
    found = fit.fold_in_users(csr(new))
    return wrong(
        users=close(found.user_factors, model.half(new, fit.item_factors), 1e-9),
        empty=not np.any(found.user_factors[0]),
        items=np.array_equal(found.item_factors, fit.item_factors),
    )


def _folded_as_spark() -> list[str]:
    X = data(seed=3)
    model, bad = plain(17, 11, 3), []
    for u in (0, 8):
        cells = int((~np.isnan(X[u])).sum())
        assert cells
        new = model.fold_in_users(
            csr(X)[[u]], weighting="hu-koren", alpha=40.0, regularization=0.1 * cells, regularization_exponent=0.0
        )
        mine = Rows("hu-koren", lam=0.1 * cells, alpha=40.0).half(X[[u]], model.item_factors)
        if not close(new.user_factors, mine, 1e-9):
            bad.append(f"{u}")
    return bad


def _folded_items() -> list[str]:
    model, X = Rows("confidence", lam=0.3, nu=0.6, alpha=2.0, a0=0.4), data()
    fit: Any = lfm_np.als(csr(X), factors=3, iterations=2, dtype="float64", random_state=0, **model.words)
    new = data(17, 5, seed=21)
    found = fit.fold_in_items(csr(new))
    return wrong(
        items=close(found.item_factors, model.half(new.T, fit.user_factors), 1e-9),
        users=np.array_equal(found.user_factors, fit.user_factors),
        shape=found.shape == (17, 5),
    )


def _folded_with(users: bool) -> list[str]:
    """μ and the items' biases are subtracted; users' are solved where the model has any."""
    X, model, draw = data(seed=11), Rows("ratings", lam=0.4, nu=1.0), np.random.default_rng(2)
    d, b = draw.normal(size=11), draw.normal(size=17)
    factors = plain(17, 11, 3, item_bias=d, user_bias=b if users else None, global_bias=1.5)
    new = X[5:9]
    found = factors.fold_in_users(csr(new), **model.words)
    V = factors.item_factors
    Y = np.column_stack([V, np.ones(11)]) if users else V
    mine = np.array([model.solve(x, Y, 1.5 + d) for x in new])
    return wrong(
        factors=close(found.user_factors, mine[:, :3], 1e-9),
        biases=close(found.user_bias, mine[:, 3], 1e-9) if users else found.user_bias is None,
        rest=found.global_bias == 1.5 and np.array_equal(np.asarray(found.item_bias), d),
    )


def _folded_from_sgd() -> list[str]:
    X = data(seed=13)
    fit: Any = lfm_np.sgd(csr(X), losses.Logistic(), factors=3, epochs=2, dtype="float64", random_state=0)
    model = Rows("ials", lam=0.1, nu=1.0, alpha=2.0)
    words = {name: value for name, value in model.words.items() if name != "unobserved_weight"}
    found = fit.fold_in_users(csr(X[:4]), **words)
    return wrong(users=close(found.user_factors, model.half(X[:4], fit.item_factors), 1e-9))


def _updated_users() -> list[str]:
    model, X = Rows("ials", lam=0.1, nu=0.3, alpha=1.5, a0=0.5), data()
    fit: Any = lfm_np.als(csr(X), factors=3, iterations=2, dtype="float64", random_state=0, **model.words)
    new = data(4, 11, seed=15)
    found = fit.update(csr(new), users=[5, 17, 0, 18])
    mine = model.half(new, fit.item_factors)
    rest = [u for u in range(17) if u not in (5, 0)]
    return wrong(
        shape=found.shape == (19, 11),
        written=close(found.user_factors[[5, 17, 0, 18]], mine, 1e-9),
        others=np.array_equal(found.user_factors[rest], fit.user_factors[rest]),
        items=np.array_equal(found.item_factors, fit.item_factors),
        before=fit.shape == (17, 11),
    )


def _updated_item_with_biases() -> list[str]:
    X, model = data(seed=16), Rows("ratings", lam=0.5)
    fit: Any = lfm_np.als(csr(X), factors=2, iterations=2, biases=True, dtype="float64", random_state=0, **model.words)
    new = data(17, 3, seed=17)[:, :1]
    found: Any = fit.update(csr(new), items=[11])
    Y = np.column_stack([fit.user_factors, np.ones(17)])
    mine = model.solve(new[:, 0], Y, fit.global_bias + fit.user_bias)
    return wrong(
        factors=close(found.item_factors[11], mine[:2], 1e-9),
        bias=close(found.item_bias[11], mine[2], 1e-9),
        others=np.array_equal(found.item_bias[:11], fit.item_bias),
        users=np.array_equal(found.user_bias, fit.user_bias),
    )


def _explained() -> list[str]:
    """vᵀA⁻¹v_j·c_j p_j of each stored item j; the baseline of a model without biases is 0."""
    model, X = Rows("ials", lam=0.2, nu=0.7, alpha=2.5, a0=0.3), data(seed=19)
    fit: Any = lfm_np.als(csr(X), factors=3, iterations=3, dtype="float64", random_state=0, **model.words)
    u, item, V = 6, 9, fit.item_factors
    why = fit.explain(u, item, csr(X))
    c, p, lam = model.row(X[u])
    shares = V[item] @ np.linalg.solve((V.T * c) @ V + lam * np.eye(3), (V * (c * p)[:, None]).T)
    own = np.flatnonzero(~np.isnan(X[u]))
    told = dict(zip(why.items.tolist(), why.contributions.tolist(), strict=True))
    return wrong(
        own=sorted(told) == own.tolist(),
        shares=close([told[i] for i in own], shares[own], 1e-9),
        score=close(why.score, V[item] @ model.solve(X[u], V), 1e-9),
        baseline=abs(why.baseline) < 1e-12,
    )


def _explained_ratings() -> list[str]:
    X, model = data(seed=23), Rows("ratings", lam=0.3, nu=1.0)
    fit: Any = lfm_np.als(csr(X), factors=2, iterations=3, biases=True, dtype="float64", random_state=0, **model.words)
    u, item = 10, 4
    why = fit.explain(u, item, csr(X))
    Y = np.column_stack([fit.item_factors, np.ones(11)])
    w = model.solve(X[u], Y, fit.global_bias + fit.item_bias)
    return wrong(
        score=close(why.score, fit.global_bias + fit.item_bias[item] + Y[item] @ w, 1e-9),
        sums=close(why.baseline + why.contributions.sum(), why.score, 1e-9),
        own=sorted(why.items.tolist()) == np.flatnonzero(~np.isnan(X[u])).tolist(),
    )


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    yield _holds("new users by the numbers of the fit", _folded)
    yield _holds("a model from Spark, a row at a time", _folded_as_spark)
    yield _holds("new items, with more users than items", _folded_items)
    yield _holds("new users beside biases of either side", lambda: _folded_with(True))
    yield _holds("new users beside biases of items only", lambda: _folded_with(False))
    yield _holds("factors of sgd need all but the unobserved weight", _folded_from_sgd)
    yield _holds("users refreshed and added in any order", _updated_users)
    yield _holds("an item added to a model with biases", _updated_item_with_biases)
    yield _holds("shares of a score by confidence times target", _explained)
    yield _holds("shares of a rating add up to the user folded in", _explained_ratings)
