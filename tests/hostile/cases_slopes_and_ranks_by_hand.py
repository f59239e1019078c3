"""Steps of sgd where there is nothing to draw, lists, metrics and splits, each beside a few lines of plain Python."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import scipy.sparse as sp

import lfm_np
from lfm_np import Factors, SolverError, losses, sampling

from .case import Case, Group
from .places import holding

_group = Group("afresh, slopes and ranks")
_refused, _either = _group.refused, _group.either
_right = holding(_group)


# ---- one cell a row and column: nothing depends on the order --------------------------------------------------------


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def alone(loss: Any, slope: Callable[[float, float], float], **words: Any) -> bool:
    """Users whose only item nobody else has, without negatives, for four epochs."""
    x = np.array([1.0, 4.0, 2.0, 3.0])
    rng = np.random.default_rng(5)
    U, V = rng.normal(size=(4, 3)), rng.normal(size=(4, 3))
    found = lfm_np.sgd(
        sp.csr_array(np.diag(x)),
        loss,
        sampler=None,
        factors=3,
        epochs=4,
        init=(U, V),
        dtype="float64",
        random_state=0,
        num_threads=2,
        **words,
    )
    rate, lam = words.get("learning_rate", 0.05), words.get("regularization", 0.01)
    of_users, of_items = (lam.get("user", 0.0), lam.get("item", 0.0)) if isinstance(lam, dict) else (lam, lam)
    for epoch in range(4):
        eta = rate / (1 + epoch / 10) if words.get("schedule") == "inverse" else rate
        for i in range(4):
            u, v = U[i].copy(), V[i].copy()
            g = slope(float(u @ v), x[i])
            U[i], V[i] = u - eta * (g * v + of_users * u), v - eta * (g * u + of_items * v)
    return bool(np.allclose(found.user_factors @ found.item_factors.T, U @ V.T, rtol=1e-9, atol=1e-9))


def pairs_of_two(loss: Any, slope: Callable[[float], float], **words: Any) -> bool:
    """One user, one of two items stored: the negative can only be the other one."""
    rng = np.random.default_rng(6)
    U, V = rng.normal(size=(1, 2)), rng.normal(size=(2, 2))
    start = (U.copy(), V.copy())
    found = lfm_np.sgd(
        sp.csr_array([[2.0, 0.0]]),
        loss,
        factors=2,
        epochs=5,
        init=start,
        learning_rate=0.1,
        regularization={"user": 0.02, "item": 0.03, "negative": 0.05},
        dtype="float64",
        random_state=1,
        **words,
    )
    for _ in range(5):
        u, i, j = U[0].copy(), V[0].copy(), V[1].copy()
        g = slope(float(u @ i - u @ j))
        U[0] = u - 0.1 * (g * (i - j) + 0.02 * u)
        V[0], V[1] = i - 0.1 * (g * u + 0.03 * i), j - 0.1 * (-g * u + 0.05 * j)
    return bool(np.allclose(found.user_factors @ found.item_factors.T, U @ V.T, rtol=1e-9, atol=1e-9))


class Cubed:
    """|s - x|³ / 3, of the user's own making."""

    def value(self, score: float, target: float) -> float:
        return abs(score - target) ** 3 / 3

    def gradient(self, score: float, target: float) -> float:
        return (score - target) * abs(score - target)


class Opens:
    def value(self, difference: float) -> float:
        return float(open("/etc/hostname").read() == "") * difference

    def gradient(self, difference: float) -> float:
        return 0.0


class FewSlopes:
    def value(self, positive: float, negatives: Any) -> float:
        return 0.0 * positive + 0.0 * negatives.sum()

    def gradient(self, positive: float, negatives: Any) -> Any:
        return 0.0, np.zeros(1)


class Forgotten:
    """Its gradient misses the factor 2."""

    def value(self, score: float, target: float) -> float:
        return (score - target) ** 2

    def gradient(self, score: float, target: float) -> float:
        return score - target


def square() -> sp.csr_array:
    rng = np.random.default_rng(7)
    return sp.csr_array((rng.random((12, 9)) < 0.4).astype(np.float32))


def biased() -> bool:
    """μ is the constant that fits best: of squares the mean, of half the Poisson deviance its logarithm."""
    X = sp.csr_array(np.diag([1.0, 2.0, 6.0]))
    words: dict[str, Any] = {"sampler": None, "biases": True, "factors": 1, "epochs": 1, "random_state": 0}
    squared, poisson = lfm_np.sgd(X, losses.Squared(), **words), lfm_np.sgd(X, losses.Poisson(), **words)
    return abs(float(squared.global_bias) - 3.0) < 1e-5 and abs(float(poisson.global_bias) - math.log(3.0)) < 1e-4


def full_row() -> bool:
    X = square().toarray()
    X[3] = 1
    found = lfm_np.sgd(sp.csr_array(X), factors=3, epochs=3, random_state=0)
    return int(found.params["skipped_rows"]) == int((X == 1).all(1).sum()) and bool(
        np.isfinite(found.item_factors).all()
    )


def steps() -> Iterator[Case]:
    yield _right("alone, Squared", lambda: alone(losses.Squared(), lambda s, x: s - x))
    yield _right(
        "alone, Squared, inverse, λ of items only",
        lambda: alone(losses.Squared(), lambda s, x: s - x, schedule="inverse", regularization={"item": 0.3}),
    )
    yield _right("alone, Poisson", lambda: alone(losses.Poisson(), lambda s, x: math.exp(s) - x, learning_rate=0.02))
    yield _right("alone, Logistic", lambda: alone(losses.Logistic(), lambda s, x: sigmoid(s) - 1))
    yield _right(
        "alone, Logistic times the value",
        lambda: alone(losses.Logistic(weighted=True), lambda s, x: x * (sigmoid(s) - 1), learning_rate=0.2),
    )
    yield _right("alone, a loss of one's own", lambda: alone(Cubed(), lambda s, x: (s - x) * abs(s - x)))
    yield _right("two items, BPR", lambda: pairs_of_two(losses.BPR(), lambda d: sigmoid(d) - 1))
    yield _right(
        "two items, BPR, the value counts",
        lambda: pairs_of_two(losses.BPR(weighted=True), lambda d: 2 * (sigmoid(d) - 1)),
    )
    yield _right(
        "two items, a hinge with hard draws",
        lambda: pairs_of_two(losses.MarginHinge(5.0), lambda d: -float(d < 5), sampler=sampling.Hard(3)),
    )
    yield _right(
        "two items, the softmax with a temperature",
        lambda: pairs_of_two(losses.SampledSoftmax(temperature=2.0), lambda d: (sigmoid(d / 2) - 1) / 2),
    )
    yield _right("two items, WARP", lambda: pairs_of_two(losses.WARP(margin=9.0), lambda d: -math.log(2.0)))
    yield _right("μ of squares and of counts", biased)
    yield _right("a row with every item is counted", full_row)
    yield _right(
        "cosines come back with length one",
        lambda: lfm_np.sgd(square(), losses.CosineContrastive(), negatives=4, factors=3, epochs=3, random_state=0),
        lambda f: np.allclose(np.linalg.norm(f.item_factors[square().sum(0) > 0], axis=1), 1, atol=1e-5),
    )
    yield _refused(
        "a rate of 1e8 diverges in an epoch that is named",
        lambda: lfm_np.sgd(square(), losses.Squared(), sampler=None, factors=3, learning_rate=1e8),
        "epoch",
        "learning_rate",
        kind=SolverError,
    )
    yield _refused(
        "a loss that opens a file", lambda: lfm_np.sgd(square(), Opens(), factors=2, epochs=1), "opens", kind=TypeError
    )
    yield _refused(
        "a list loss with one slope for three",
        lambda: lfm_np.sgd(square(), FewSlopes(), negatives=3, factors=2, epochs=1),
        "fewslopes|gradient|slope",
        kind=(TypeError, ValueError, SolverError),
    )
    yield _refused(
        "a gradient that forgot the 2", lambda: losses.check(Forgotten()), "forgotten.gradient", kind=ValueError
    )
    yield _refused(
        "λ of a part that there is not",
        lambda: lfm_np.sgd(square(), factors=2, regularization={"users": 0.1}),
        "regularization",
        "users",
    )
    yield _refused(
        "a pairwise loss without a sampler", lambda: lfm_np.sgd(square(), sampler=None, factors=2), "sampler"
    )
    yield _refused(
        "a popularity of nan", lambda: lfm_np.sgd(square(), sampler=sampling.Popularity(math.nan), factors=2), "beta"
    )


# ---- lists and metrics ----------------------------------------------------------------------------------------------


def model(seed: int = 8, ties: bool = False) -> Factors:
    rng = np.random.default_rng(seed)
    U, V = rng.normal(size=(11, 3)), rng.normal(size=(13, 3))
    if ties:
        U, V = np.round(U), np.round(V)
    return Factors(
        U, V, user_bias=np.round(rng.normal(size=11)), item_bias=np.round(rng.normal(size=13)), global_bias=0.5
    )


def table(f: Factors) -> np.ndarray:
    mu = 0.0 if f.global_bias is None else f.global_bias
    return f.user_factors @ f.item_factors.T + mu + f.user_bias[:, None] + f.item_bias


def best(scores: np.ndarray, allowed: set[int], N: int) -> list[int]:
    order = sorted(allowed, key=lambda i: (-scores[i], i))[:N]
    return order + [-1] * (N - len(order))


def listed() -> bool:
    """Ties, repeated users, seen with a stored zero and pairs given twice, allowed and denied items."""
    f = model(9, ties=True)
    seen = sp.coo_array(([1.0, 1.0, 0.0, 5.0], ([4, 4, 4, 0], [2, 2, 3, 1])), shape=(11, 13))
    users, items, exclude = np.array([4, 0, 4, 10], np.uint8), np.array([12, 1, 2, 3, 9, 1]), np.array([9], np.int8)
    ids = f.recommend(users, N=6, seen=seen, items=items, exclude=exclude).ids
    S, had = table(f), {4: {2}, 0: {1}}
    wanted = [best(S[u], {12, 1, 2, 3} - had.get(int(u), set()), 6) for u in users]
    return ids.tolist() == wanted


def alike() -> bool:
    f = model(10, ties=True)
    V = f.item_factors.copy()
    V[5] = 0
    f = Factors(f.user_factors, V)
    length = np.linalg.norm(V, axis=1)
    cos = np.divide(V @ V.T, np.outer(length, length), out=np.zeros((13, 13)), where=np.outer(length, length) > 0)
    _, scores = f.similar_items(np.arange(13), N=13)
    return bool(np.allclose(scores, -np.sort(-cos, axis=1), atol=1e-12))


def judged(ranked_against: bool) -> bool:
    f, rng = model(11, ties=True), np.random.default_rng(12)
    train, test = (rng.random((11, 13)) < 0.2), (rng.random((11, 13)) < 0.25)
    test[2] = False
    negatives = rng.integers(-1, 13, (11, 5)) if ranked_against else None
    names = [
        "recall@3",
        "capped_recall@3",
        "precision@3",
        "hit_rate@3",
        "ndcg@3",
        "map@3",
        "mrr@3",
        "mrr",
        "ndcg",
        "map",
        "auc",
    ]
    found = lfm_np.evaluate(
        f, sp.csr_array(train.astype(float)), sp.csr_array(test.astype(float)), names, negatives=negatives
    )
    told: dict[str, list[float]] = {name: [] for name in names}
    S = table(f)
    for u in range(11):
        held = set(np.flatnonzero(test[u] & ~train[u]).tolist())
        if not held:
            continue
        all_of = set(np.flatnonzero(~train[u]).tolist())
        if negatives is not None:
            all_of &= held | set(negatives[u].tolist())
        order = best(S[u], all_of, len(all_of))
        ranks = [r for r, i in enumerate(order, 1) if i in held]
        t, h = len(held), [r for r in ranks if r <= 3]
        gains = lambda found_ranks, most: (  # noqa: E731
            sum(1 / math.log2(r + 1) for r in found_ranks) / sum(1 / math.log2(j + 1) for j in range(1, most + 1))
        )
        of = {
            "recall@3": len(h) / t,
            "capped_recall@3": len(h) / min(3, t),
            "precision@3": len(h) / 3,
            "hit_rate@3": float(bool(h)),
            "ndcg@3": gains(h, min(3, t)),
            "ndcg": gains(ranks, t),
            "map@3": sum(j / r for j, r in enumerate(h, 1)) / min(3, t),
            "map": sum(j / r for j, r in enumerate(ranks, 1)) / t,
            "mrr@3": 1 / h[0] if h else 0.0,
            "mrr": 1 / ranks[0],
        }
        others = all_of - held
        if others:
            right = [float(S[u, i] > S[u, j]) + 0.5 * float(S[u, i] == S[u, j]) for i in held for j in others]
            of["auc"] = sum(right) / len(right)
        for name, value in of.items():
            told[name].append(value)
    return all(abs(found[name] - np.mean(values)) < 1e-12 for name, values in told.items())


def ranks() -> Iterator[Case]:
    yield _right("lists of ties, seen, allowed and denied", listed)
    yield _right("cosines with an item of zeros", alike)
    yield _right("every metric, ties, a user without test", lambda: judged(False))
    yield _right("every metric among drawn negatives, some -1 or stored", lambda: judged(True))
    yield _right("no users, no lists", lambda: model().recommend([], N=4), lambda r: r.ids.shape == (0, 4))
    yield _right("more than there are", lambda: model().recommend(3, N=20), lambda r: (r.ids == -1).sum() == 7)
    yield _right(
        "scores of a user and all items",
        lambda: model().scores(3, np.arange(13)),
        lambda s: np.allclose(s, table(model())[3], rtol=1e-14),
    )
    yield _refused(
        "a mask of users in place of their numbers",
        lambda: model().recommend(np.arange(11) > 5),
        "users",
        "bool|integer",
    )
    yield _refused(
        "a mask of items in place of their numbers",
        lambda: model().recommend(0, items=np.arange(13) > 5),
        "items",
        "bool|integer",
    )
    yield _refused(
        "seen of the asked users only", lambda: model().recommend([0, 1], seen=sp.csr_array((2, 13))), "seen", "11"
    )
    yield _refused("an item before the first", lambda: model().recommend(0, exclude=[-1]), "exclude", "-1")
    yield _refused(
        "recall at nothing",
        lambda: lfm_np.evaluate(model(), None, sp.csr_array(np.eye(11, 13)), ["recall@0"]),
        "recall@0",
    )
    yield _refused(
        "test items that all are in training",
        lambda: lfm_np.evaluate(model(), sp.csr_array(np.eye(11, 13)), sp.csr_array(np.eye(11, 13))),
        "test",
    )


def cases() -> list[Case]:
    return [*steps(), *ranks()]
