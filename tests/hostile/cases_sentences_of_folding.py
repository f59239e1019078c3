"""Sentences about folding in, updates, explanations and odd cells, each held to numbers of its own."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import scipy.sparse as sp

from .case import Case, Group
from .cases_sentences_of_fits import IALS, KOREN, RATINGS, X
from .sentences_by_numpy import Rule, begun, lfm_np, losses, near, product
from .working_days import NAN, csr, faultless, raised, stars, start, tells, wrong

_GROUP = Group("sentence folds")
_holds = faultless(_GROUP)
_refused = _GROUP.refused


def _folded_in(rule: Rule, more: dict[str, Any], then: Rule) -> list[str]:
    fit = rule.fit(X, times=2)
    new = fit.fold_in_users(csr(X[::-1]), **more)
    return wrong(
        users=near(new.user_factors, then.half(X[::-1], fit.item_factors), 1e-8),
        items=np.array_equal(new.item_factors, fit.item_factors), shape=new.shape == (14, 10),
    )  # fmt: skip


def _folded_into_steps() -> list[str]:
    fit = lfm_np.sgd(csr(X), losses.BPR(), factors=3, epochs=2, dtype="float64", random_state=0)
    words: dict[str, Any] = {
        "regularization": 0.3,
        "alpha": 2.0,
        "regularization_exponent": 0.5,
        "weighting": "hu-koren",
    }
    new = fit.fold_in_users(csr(X[:6]), **words)
    short = [
        raised(partial(fit.fold_in_users, csr(X[:6]), **{k: w for k, w in words.items() if k != n})) for n in words
    ]
    mine = Rule("hu-koren", 2.0, 1.0, 0.3, 0.5).half(X[:6], fit.item_factors)
    told = [isinstance(e, (TypeError, ValueError)) and tells(e, n) for n, e in zip(words, short, strict=True)]
    return wrong(users=near(new.user_factors, mine, 1e-8), told=all(told))


def _folded_beside_biases() -> list[str]:
    fit = RATINGS.fit(X, biases=True)
    rows = X[[5, 0, 1]]
    new = fit.fold_in_users(csr(rows))
    mine = [RATINGS.row(x, fit.item_factors, fit.global_bias + fit.item_bias, ones=True) for x in rows]
    return wrong(
        both=near(np.column_stack([new.user_factors, new.user_bias]), mine, 1e-8),
        mu=new.global_bias == fit.global_bias, items=np.array_equal(new.item_bias, fit.item_bias),
    )  # fmt: skip


def _new_items() -> list[str]:
    fit = KOREN.fit(X)
    columns = stars(14, 4, seed=9)
    new = fit.fold_in_items(csr(columns))
    return wrong(
        items=near(new.item_factors, KOREN.half(columns.T, fit.user_factors), 1e-8), shape=new.shape == (14, 4),
        users=near(product(new), fit.user_factors @ KOREN.half(columns.T, fit.user_factors).T, 1e-8),
    )  # fmt: skip


def _updated(side: str) -> list[str]:
    fit = KOREN.fit(X)
    cells = stars(3, 10, seed=4) if side == "users" else stars(14, 3, seed=4)
    m = 14 if side == "users" else 10
    new = fit.update(csr(cells), **{side: [3, m, m + 1]})
    mine, other = ("user_factors", "item_factors") if side == "users" else ("item_factors", "user_factors")
    rows = cells if side == "users" else cells.T
    solved = KOREN.half(rows, getattr(fit, other))
    old, now = getattr(fit, mine), getattr(new, mine)
    others = [i for i in range(m) if i != 3]
    return wrong(
        shape=now.shape == (m + 2, 3), solved=near(now[[3, m, m + 1]], solved, 1e-8),
        others=np.array_equal(now[others], old[others]),
        opposite=np.array_equal(getattr(new, other), getattr(fit, other)),
    )  # fmt: skip


def _shares(rule: Rule, biases: bool) -> list[str]:
    fit = rule.fit(X, times=3, **({"biases": True} if biases else {}))
    V, x, user, item = fit.item_factors, X[5], 5, 4 if not biases else 0
    x = np.where(np.arange(10) % 3 == 2, NAN, x)
    full = X.copy()
    full[5] = x
    why = fit.explain(user, item, csr(full))
    offset = fit.global_bias + fit.item_bias if biases else np.zeros(10)
    Y = np.column_stack([V, np.ones(10)]) if biases else V
    stored = np.flatnonzero(~np.isnan(x))
    A = rule.strength(len(stored), 10) * np.eye(Y.shape[1])
    for i in range(10):
        A += (rule.cell(x[i])[0] if i in stored else rule.empty) * np.outer(Y[i], Y[i])
    inverse = np.linalg.inv(A)
    mine = {int(i): float(Y[item] @ inverse @ Y[i]) * rule.cell(x[i])[0] * rule.cell(x[i])[1] for i in stored}
    solved = rule.row(x, V, offset, ones=biases)
    score = float(Y[item] @ solved) + float(offset[item])
    found = dict(zip(map(int, why.items), map(float, why.contributions), strict=True))
    facts = {"score": near(why.score, score, 1e-8), "items": set(found) == set(mine)}
    if not biases:
        facts |= {
            "shares": near([found[i] for i in mine], list(mine.values()), 1e-8),
            "baseline": near(why.baseline, 0),
        }
    return wrong(**facts, sum=near(why.baseline + why.contributions.sum(), why.score, 1e-12))


def _padded() -> list[str]:
    of = {k: lfm_np.estimate_memory(1_000_000, 50_000, 2_000_000, factors=k, num_threads=1) for k in (16, 17, 32)}
    wide = lfm_np.estimate_memory(1_000_000, 50_000, 2_000_000, factors=16, dtype="float64", num_threads=1)
    number = 2 * 1_050_000
    return wrong(
        least=of[16] >= number * 16 * 4, step=of[17] - of[16] >= 0.95 * number * 16 * 4,
        padded=abs(of[32] - of[17]) <= 0.02 * of[17], wide=wide >= number * 16 * 8, kind=type(of[16]) is int,
        full=lfm_np.estimate_memory(3, 4, 12, factors=1) > 0,
    )  # fmt: skip


def _singular() -> list[str]:
    full = np.random.default_rng(0).integers(1, 6, (9, 8)).astype(float)
    full[7, 2:] = NAN
    error = raised(lambda: Rule("ratings", lam=0.0).fit(full, k=3))
    assert isinstance(error, lfm_np.SolverError)
    fit = error.factors
    return wrong(named=tells(error, "7"), side=tells(error, "user|row"), start=fit is None or fit.shape == (9, 8))


def _named(value: float) -> Any:
    bad = X.copy()
    bad[5, 7] = 8.0
    matrix = csr(bad)
    matrix.data[matrix.indptr[5] + 7] = value
    return lfm_np.als(matrix, factors=3)


def _summed_and_dropped() -> list[str]:
    rows, columns = np.array([0, 0, 1, 2, 2, 3, 3]), np.array([1, 1, 0, 2, 0, 1, 2])
    values = np.array([2.0, 3.0, 1.0, 0.0, 4.0, 2.0, 1.0])
    coo = sp.coo_array((values, (rows, columns)), shape=(4, 3))
    mine = np.full((4, 3), NAN)
    for u, i, x in ((0, 1, 5.0), (1, 0, 1.0), (2, 0, 4.0), (3, 1, 2.0), (3, 2, 1.0)):
        mine[u, i] = x
    U, V = start(4, 3, 2)
    fit = lfm_np.als(coo, factors=2, iterations=1, init=(U, V), dtype="float64", **KOREN.words)
    once = sp.coo_array((values[1:], (rows[1:], columns[1:])), shape=(4, 3))
    rated = lfm_np.als(once, factors=2, iterations=1, init=(U, V), dtype="float64", **RATINGS.words)
    zero = mine.copy()
    zero[0, 1], zero[2, 2] = 3.0, 0.0
    error = raised(lambda: lfm_np.als(coo, factors=2, weighting="ratings"))
    found = KOREN.sweeps(mine, V), RATINGS.sweeps(zero, V)
    return wrong(
        summed=near(product(fit), found[0][0] @ found[0][1].T), rated=near(product(rated), found[1][0] @ found[1][1].T),
        refused=isinstance(error, ValueError) and tells(error, "duplicate|twice|repeated|more than once"),
    )  # fmt: skip


def _both_systems(dtype: str, tolerance: float) -> list[str]:
    wide = stars(40, 30, seed=8, share=0.5)
    wide[:10, 3:] = NAN  # rows far shorter than k
    wide[10] = 3.0
    U, V = start(40, 30, 17)
    fit = lfm_np.als(csr(wide), factors=17, iterations=1, init=(U, V), dtype=dtype, solver="exact", **KOREN.words)
    mine = KOREN.sweeps(wide, V)
    return wrong(scores=near(product(fit), mine[0] @ mine[1].T, tolerance))


def _from_spark() -> list[str]:
    U, V = begun(X)
    row = csr(X)[[5]]
    new = lfm_np.Factors(U, V).fold_in_users(
        row, weighting="hu-koren", alpha=40.0, regularization=0.1 * row.nnz, regularization_exponent=0.0
    )
    has = ~np.isnan(X[5])
    x, Y = X[5][has], V[has]
    A = V.T @ V + sum(40.0 * value * np.outer(y, y) for value, y in zip(x, Y, strict=True)) + 0.1 * len(x) * np.eye(3)
    mine = np.linalg.solve(A, ((1 + 40.0 * x)[:, None] * Y).sum(0))
    return wrong(user=near(new.user_factors[0], mine, 1e-8), gap=len(x) == 9)


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    refused = _GROUP.refused
    yield _holds("fitted users' own rows give what one more half-step would", lambda: _folded_in(IALS, {}, IALS))
    yield _holds(
        "by default those that the factors were fitted with, but for the one that is given",
        lambda: _folded_in(KOREN, {"alpha": 0.5}, KOREN._replace(alpha=0.5)),
    )
    yield _holds("factors of sgd need all but unobserved_weight", _folded_into_steps)
    yield _holds("users folded in beside biases have a bias of their own", _folded_beside_biases)
    yield _holds("new items are held by the number of users", _new_items)
    for side in ("users", "items"):
        yield _holds(f"update writes {side} and those that follow, others stay", lambda s=side: _updated(s))
    yield _holds("the share of each interaction in one score, by the inverse", lambda: _shares(KOREN, False))
    yield _holds("baseline and shares are the score where there are biases", lambda: _shares(RATINGS, True))
    yield _holds("U and V twice with k padded to a multiple of 16", _padded)
    yield _holds("singular normal equations name the row", _singular)
    for value in (NAN, -1.0, np.inf):
        yield refused(f"a value of {value} is refused by its row", partial(_named, value), "5", "x|row|value")
    yield _holds("duplicates are summed and stored zeros absent, but not in ratings", _summed_and_dropped)
    for dtype, tolerance in (("float64", 1e-9), ("float32", 1e-4)):
        yield _holds(f"both systems of a row are exact, {dtype}", lambda d=dtype, t=tolerance: _both_systems(d, t))
    yield _holds("a model from Spark is served exactly, a row of n cells at a time", _from_spark)
