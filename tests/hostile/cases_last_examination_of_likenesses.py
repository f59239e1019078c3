"""What is like what, and why it is recommended: cosines by loops, shares by systems of three equations."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import scipy.sparse as sp

from .case import Case, Group
from .cases_last_examination_of_lists import BOTH, agrees, model_of, sorted_by, whole
from .working_days import faultless, wrong

_GROUP = Group("the last examination, lists: likenesses")
_holds = faultless(_GROUP)


def _cosines(V: np.ndarray) -> np.ndarray:
    lengths = [math.sqrt(sum(x * x for x in v)) for v in V.tolist()]
    return np.array(
        [
            [sum(x * y for x, y in zip(v, w, strict=True)) / (a * b) for w, b in zip(V.tolist(), lengths, strict=True)]
            for v, a in zip(V.tolist(), lengths, strict=True)
        ]
    )


def _alike_at_every_size() -> list[str]:
    """Directions of whole numbers, lengths from 2^-70 to 2^70; two float32 roundings of a cosine are below 1e-6."""
    V = whole((60, 3), 8)
    V[:, 0] = np.arange(60) % 7 + 1
    C = _cosines(V)
    scale = 2.0 ** np.resize([-70, 70, 0, -35, 35], 60)
    got = model_of(np.ones((1, 3)), V * scale[:, None]).similar_items(np.arange(60), N=15)
    best = -np.sort(-C, 1)[:, :15]
    return wrong(
        values=abs(got.scores - best).max() < 2e-6,
        whose=abs(np.take_along_axis(C, got.ids, 1) - best).max() < 4e-6,
        distinct=all(len(set(ids)) == 15 for ids in got.ids.tolist()),
    )


def _parallel() -> list[str]:
    """Multiples by powers of two have one cosine, to the bit: lower ids first. Zero vectors are like nothing."""
    base = np.array([[3.0, 1.0, 2.0], [-1.0, 5.0, 1.0], [2.0, -2.0, 7.0], [0.0, 0.0, 0.0]])
    kind = np.arange(40) % 4
    V = base[kind] * (2.0 ** (np.arange(40) % 9 - 4))[:, None]
    facts = {}
    for dtype in BOTH:
        factors = model_of(np.ones((1, 3)), V, dtype)
        got = factors.similar_items([37, 38, 39], N=12)
        name = np.dtype(dtype).name
        facts[f"group_{name}"] = got.ids[:2, :10].tolist() == [[*range(1, 40, 4)], [*range(2, 40, 4)]]
        facts[f"equal_{name}"] = all(len(set(row[:10])) == 1 for row in got.scores[:2].tolist())
        facts[f"one_{name}"] = abs(got.scores[:2, :10] - 1).max() < 4 * np.finfo(dtype).eps
        facts[f"zero_{name}"] = got.ids[2].tolist() == list(range(12)) and not got.scores[2].any()
    return wrong(**facts)


def _inner_users() -> list[str]:
    """Inner products, without biases; nobody but the longest needs to be the own best."""
    U = whole((23, 4), 9)
    draw = np.random.default_rng(10)
    factors = model_of(
        U, whole((3, 4), 11), np.float64, user_bias=draw.normal(size=23) * 100, item_bias=draw.normal(size=3),
        global_bias=5.0,
    )  # fmt: skip
    got = factors.similar_users([22, 0, 22, 7], N=30, metric="inner")
    one = factors.similar_users(7, N=4, metric="inner")
    return wrong(
        lists=agrees(got, U @ U.T, (22, 0, 22, 7), 30),
        scalar=(one.ids.tolist(), one.scores.tolist()) == sorted_by(U[7] @ U.T, 4),
    )


def _row(V: np.ndarray, items: list[int], c: np.ndarray, p: np.ndarray, a0: float, lam: float) -> np.ndarray:
    """The share of every stored item in the score of every item: Vᵢᵀ A⁻¹ vⱼ cⱼ pⱼ."""
    A = lam * np.eye(V.shape[1])
    for i in range(len(V)):
        weight = c[items.index(i)] if i in items else a0
        A += weight * np.outer(V[i], V[i])
    return V @ np.linalg.solve(A, (V[items] * (c * p)[:, None]).T)


def _explained(weighting: str) -> list[str]:
    """α = 2, α₀ = 0.3, λ = 0.2, ν = 0.5, in float64: solutions of 3 × 3 systems are good to 1e-10."""
    alpha, a0, lam, nu = 2.0, 0.3, 0.2, 0.5
    V = np.random.default_rng(18).normal(size=(9, 3))
    items, x = [1, 4, 5, 8], np.array([0.5, 3.0, 1.0, 2.0])
    one = np.ones(4)
    c, p = {
        "hu-koren": (1 + alpha * x, one),
        "ials": (a0 + alpha * x, alpha * x / (a0 + alpha * x)),
        "confidence": (alpha * x, one),
    }[weighting]
    shares = _row(V, items, c, p, a0, lam * (4 + a0 * 9) ** nu)
    X = sp.csr_array((x, ([1] * 4, items)), shape=(3, 9))
    factors = model_of(np.zeros((3, 3)), V, np.float64)
    words = {
        "weighting": weighting, "alpha": alpha, "unobserved_weight": a0, "regularization": lam,
        "regularization_exponent": nu,
    }  # fmt: skip
    facts = {}
    for item in range(9):
        why = factors.explain(1, item, X, **words)
        found = dict(zip(why.items.tolist(), why.contributions.tolist(), strict=True))
        facts[f"shares{item}"] = sorted(found) == items and all(
            abs(found[j] - shares[item, n]) < 1e-10 for n, j in enumerate(items)
        )
        facts[f"score{item}"] = abs(why.score - shares[item].sum()) < 1e-10 and why.baseline == 0
    rows = factors.fold_in_users(X, **words)
    facts["folded"] = abs(rows.scores(1, np.arange(9)) - shares.sum(1)).max() < 1e-10
    facts["empty"] = not rows.user_factors[[0, 2]].any()
    return wrong(**facts)


def _explained_ratings(users_too: bool) -> list[str]:
    """μ and b_i are the baseline; with users' biases a 1 stands beside every factor."""
    draw = np.random.default_rng(19)
    V, d, mu, lam = draw.normal(size=(7, 2)), draw.normal(size=7), 3.25, 0.4
    items, x = [0, 2, 3, 6], np.array([5.0, 0.0, -1.0, 4.0])
    Y = np.column_stack([V, np.ones(7)]) if users_too else V
    A = lam * 4 * np.eye(Y.shape[1]) + Y[items].T @ Y[items]
    shares = Y @ np.linalg.solve(A, (Y[items] * (x - mu - d[items])[:, None]).T)
    biases: dict[str, Any] = {"item_bias": d, "global_bias": mu}
    if users_too:
        biases["user_bias"] = np.zeros(2)
    factors = model_of(np.zeros((2, 2)), V, np.float64, **biases)
    X = sp.csr_array((x, np.array(items), np.array([0, 0, 4])), shape=(2, 7))  # a zero among them
    words = {"weighting": "ratings", "regularization": lam, "regularization_exponent": 1.0}
    facts = {}
    for item in range(7):
        why = factors.explain(1, item, X, **words)
        found = dict(zip(why.items.tolist(), why.contributions.tolist(), strict=True))
        facts[f"shares{item}"] = sorted(found) == items and all(
            abs(found[j] - shares[item, n]) < 1e-10 for n, j in enumerate(items)
        )
        facts[f"baseline{item}"] = abs(why.baseline - mu - d[item]) < 1e-12
        facts[f"score{item}"] = abs(why.score - mu - d[item] - shares[item].sum()) < 1e-10
    nothing = factors.explain(0, 5, X, **words)
    facts["nobody"] = len(nothing.items) == 0 and abs(nothing.score - mu - d[5]) < 1e-12
    facts["listed"] = (
        factors.fold_in_users(X, **words).recommend(1, N=7).ids.tolist() == (sorted_by(mu + d + shares.sum(1), 7)[0])
    )
    return wrong(**facts)


def _new_items() -> list[str]:
    """Columns of new items are solved from U; their lists number them from 0, and updated ones after the old."""
    draw = np.random.default_rng(20)
    U, V = draw.normal(size=(12, 3)), draw.normal(size=(5, 3)) / 8
    X = np.where(draw.random((12, 4)) < 0.5, draw.integers(1, 4, (12, 4)), 0).astype(float)
    words = {"weighting": "hu-koren", "alpha": 3.0, "regularization": 0.7, "regularization_exponent": 0.0}
    new = np.array(
        [np.linalg.solve((U.T * (1 + 3 * x)) @ U + 0.7 * np.eye(3), U.T @ ((1 + 3 * x) * (x > 0))) for x in X.T]
    )
    factors = model_of(U, V, np.float64)
    before = factors.recommend(np.arange(12), N=5)
    alone = factors.fold_in_items(sp.csc_array(X), **words)
    grown = factors.update(sp.csr_array(X), items=[6, 2, 5, 7], **words)
    S = np.vstack([V[:2], new[1:2], V[3:], new[2:3], new[0:1], new[3:]])
    lists = [sorted_by(U[u] @ S.T, 8)[0] for u in range(12)]
    return wrong(
        alone=abs(alone.item_factors - new).max() < 1e-10 and np.array_equal(alone.user_factors, U),
        own=alone.recommend(np.arange(12), N=4).ids.tolist() == [sorted_by(U[u] @ new.T, 4)[0] for u in range(12)],
        grown=grown.recommend(np.arange(12), N=8).ids.tolist() == lists,
        old=factors.recommend(np.arange(12), N=5).ids.tolist() == before.ids.tolist(),
    )


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    yield _holds("cosines of items of lengths 2^-70 to 2^70", _alike_at_every_size)
    yield _holds("parallel items tie, and zero vectors are like nothing", _parallel)
    yield _holds("inner products of users, more than there are", _inner_users)
    for weighting in ("hu-koren", "ials", "confidence"):
        yield _holds(f"shares of an explanation, {weighting}", lambda w=weighting: _explained(w))
    for users_too in (False, True):
        yield _holds(f"shares of a rating, users' biases: {users_too}", lambda t=users_too: _explained_ratings(t))
    yield _holds("lists of new items, alone and among the old", _new_items)
