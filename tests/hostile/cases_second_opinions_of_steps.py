"""`sgd`, every loss and every sampler, at values that no example has, beside loops in float64 and closed forms."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp

from .case import Case, Group
from .sentences_by_numpy import lfm_np, losses, sampling
from .working_days import close, faultless, start, wrong

_holds = faultless(Group("second opinions"))


def _product(fit: Any) -> np.ndarray:
    product: np.ndarray = fit.user_factors.astype(np.float64) @ fit.item_factors.astype(np.float64).T
    return product


class Huber:
    """Of stored cells towards 2, of negatives towards -1."""

    targets = (2.0, -1.0)
    weighted = True

    def __init__(self, width: float) -> None:
        self.width = width

    def value(self, score: float, target: float) -> float:
        gap = abs(score - target)
        return 0.5 * gap * gap if gap <= self.width else self.width * (gap - 0.5 * self.width)

    def gradient(self, score: float, target: float) -> float:
        return max(-self.width, min(self.width, score - target))


class _Alone(NamedTuple):
    """Cells of which no two share a row or a column: each goes its own way."""

    loss: Any
    x: np.ndarray
    mu: float
    lam: dict[str, float]
    schedule: str
    epochs: int = 7
    eta: float = 0.2

    def wrong(self, solver: Any, at: float = 1e-10, **more: Any) -> list[str]:
        n = len(self.x)
        U, V = start(n, n, 3)
        columns = (np.arange(n) * 2) % n
        fit = solver(
            sp.csr_array((self.x, (np.arange(n), columns)), shape=(n, n)), self.loss, sampler=None, factors=3,
            epochs=self.epochs, learning_rate=self.eta, schedule=self.schedule, regularization=self.lam, biases=True,
            dtype="float64", init=(U, V), random_state=5, **more,
        )  # fmt: skip
        paid = np.zeros(self.epochs)
        b, d, U, V = np.zeros(n), np.zeros(n), U.copy(), V.copy()
        own = isinstance(self.loss, Huber)
        for u, (i, x) in enumerate(zip(columns, self.x.tolist(), strict=True)):
            sums = np.zeros(4)
            for epoch in range(self.epochs):
                s = float(fit.global_bias + b[u] + d[i] + U[u] @ V[i])
                weight, target = (x, 2.0) if own else (1.0, x)
                paid[epoch] += weight * self.loss.value(s, target) / n
                g = weight * self.loss.gradient(s, target)
                slopes = [g * V[i] + self.lam.get("user", 0) * U[u], g * U[u] + self.lam.get("item", 0) * V[i]]
                slopes += [np.array(g + self.lam.get("bias", 0) * bias) for bias in (b[u], d[i])]
                sums += [float((slope**2).mean()) for slope in slopes]
                falls = 1 + epoch / 10 if self.schedule == "inverse" else 1.0
                rates = self.eta / (np.sqrt(1 + sums) if self.schedule == "adagrad" else np.full(4, falls))
                moves = [rate * slope for rate, slope in zip(rates, slopes, strict=True)]
                U[u], V[i], b[u], d[i] = U[u] - moves[0], V[i] - moves[1], b[u] - moves[2], d[i] - moves[3]
        return wrong(
            mu=abs(fit.global_bias - self.mu) < 1e-6 * max(1.0, abs(self.mu)),
            user_biases=close(fit.user_bias, b, at),
            item_biases=close(fit.item_bias, d, at),
            product=close(_product(fit), U @ V.T, at),
            lengths=close((fit.user_factors**2).sum(1), (U**2).sum(1), at),
            paid=close([record["sampled_loss"] for record in fit.history], paid, at),
        )


RATINGS = np.array([4.0, -1.5, 0.0, 7.25, 3.0])
ALONE = {
    "ratings by Adagrad, λ in its sums": _Alone(
        losses.Squared(), RATINGS, 2.55, {"user": 0.1, "item": 0.2, "bias": 0.3}, "adagrad"
    ),
    "counts of Poisson, a rate that falls": _Alone(
        losses.Poisson(),
        np.array([1.0, 7.0, 2.0, 4.0, 1.0]),
        math.log(3.0),
        {"item": 0.25, "bias": 0.05},
        "inverse",
        eta=0.05,
    ),
    "a Huber loss of one's own, weighted, all of one target": _Alone(
        Huber(0.75), np.array([1.0, 0.5, 2.0, 3.0, 0.25]), 0.0, {"user": 0.4}, "constant", eta=0.1
    ),
}


def _two_by_two() -> list[str]:
    """Each of two users has one item; both negatives of a step are the other item, which is not held."""
    U, V = start(2, 2, 3, seed=9)
    fit = lfm_np.sgd(
        sp.csr_array(np.diag([2.0, 3.0])), losses.BPR(weighted=True), negatives=2, factors=3, epochs=2, init=(U, V),
        learning_rate=0.25, schedule="inverse", regularization={"user": 0.1, "item": 0.2}, dtype="float64",
        random_state=0,
    )  # fmt: skip
    found = []
    for orders in itertools.product(((0, 1), (1, 0)), repeat=2):
        A, B, paid = U.copy(), V.copy(), []
        for epoch, order in enumerate(orders):
            rate, total = 0.25 / (1 + epoch / 10), 0.0
            for u in order:
                x, v, w = (2.0, 3.0)[u], B[u].copy(), B[1 - u].copy()
                gap = float(A[u] @ (v - w))
                total += 2 * x * math.log1p(math.exp(-gap)) / 2
                g = -2 * x / (1 + math.exp(gap))
                B[u], B[1 - u] = v - rate * (g * A[u] + 0.2 * v), w + rate * g * A[u]
                A[u] = A[u] - rate * (g * (v - w) + 0.1 * A[u])
            paid.append(total)
        found.append(
            close(_product(fit), A @ B.T) and close([record["sampled_loss"] for record in fit.history], paid, 1e-12)
        )
    return wrong(one=any(found))


def _at_rest(loss: Any, X: np.ndarray, **words: Any) -> Any:
    """A fit of which all scores are zero and remain so."""
    k = 2
    zeros = np.zeros((X.shape[0], k)), np.zeros((X.shape[1], k))
    return lfm_np.sgd(sp.csr_array(X), loss, factors=k, epochs=2, init=zeros, dtype="float64", random_state=3, **words)


def _clicks(m: int = 500, n: int = 12) -> np.ndarray:
    draw = np.random.default_rng(21)
    X = np.where(draw.random((m, n)) < np.linspace(0.1, 0.7, n), draw.integers(1, 5, (m, n)), 0).astype(np.float64)
    X[7] = 1.0
    return X


def _softmax_at_rest() -> list[str]:
    X = _clicks()
    size = (X > 0).sum(1)
    fit = _at_rest(losses.SampledSoftmax(0.5, weighted=True), X, sampler=sampling.Hard(3), negatives=4)
    mine = sum(X[u].sum() * math.log(13 - size[u]) for u in range(500) if size[u] < 12) / size.sum()
    return wrong(
        paid=close([record["sampled_loss"] for record in fit.history], [mine, mine], 1e-12),
        skipped=fit.params["skipped_rows"] == int((size == 12).sum()),
        still=not fit.user_factors.any() and not fit.item_factors.any(),
    )


def _warp_at_rest() -> list[str]:
    X = _clicks(90, 11)
    fit = _at_rest(losses.WARP(margin=0.5, trials=3, weighted=True), X)
    free = (X > 0).sum(1) < 11
    mine = 0.5 * math.log(11) * X[free].sum() / (X > 0).sum()
    return wrong(paid=close([record["sampled_loss"] for record in fit.history], [mine, mine], 1e-12))


def _popular_at_rest() -> list[str]:
    X = _clicks()
    count = (X > 0).sum(0)
    fit = _at_rest(losses.SampledSoftmax(), X, sampler=sampling.Popularity(1.7))
    mean = spread = 0.0
    for row in X > 0:
        if not row.all():
            q = np.where(row, 0.0, count**1.7)
            q = q[q > 0] / q.sum()
            paid = np.log1p(1 / q)
            mean += row.sum() * float(q @ paid)
            spread += row.sum() * (float(q @ paid**2) - float(q @ paid) ** 2)
    cells = int((X > 0).sum())
    found = [record["sampled_loss"] for record in fit.history]
    return wrong(
        mean=max(abs(loss - mean / cells) for loss in found) < 6 * math.sqrt(spread) / cells,
        spread=spread > 0,
        differ=found[0] != found[1],
    )


def _constant_of_negatives() -> list[str]:
    X = _clicks(80, 9)
    X[7, 0] = 0.0
    X[(X > 0).all(1), 0] = 0.0
    facts = {}
    for weighted in (False, True):
        fit = lfm_np.sgd(
            sp.csr_array(X), losses.Logistic(weighted), negatives=3, factors=2, epochs=1, biases=True, dtype="float64",
            random_state=0,
        )  # fmt: skip
        cells = int((X > 0).sum())
        facts[f"{weighted}"] = abs(fit.global_bias - math.log((X.sum() if weighted else cells) / (3 * cells))) < 1e-6
    return wrong(**facts)


def _softplus(x: float) -> float:
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x > -700 else 0.0


def _pointwise() -> list[str]:
    facts = {}
    for s in (-1000.0, -37.5, -0.3, 0.0, 0.9, 30.5, 1000.0):
        rate, slope = (math.exp(s), math.exp(s)) if s <= 30 else (math.exp(30) * (s - 29), math.exp(30))
        for x in (0.0, 1.0, 6.0):
            y = 2 * x - 1
            mine = {
                "Squared": ((s - x) ** 2 / 2, s - x),
                "Poisson": (rate - x * s + (x * math.log(x) if x else 0.0) - x, slope - x),
            }
            if x < 2:
                mine["Logistic"] = _softplus(s) - x * s, _sigmoid(s) - x
                mine["Hinge"] = max(0.0, 1 - y * s), -y if y * s < 1 else 0.0
            for name, (value, gradient) in mine.items():
                loss, target = getattr(losses, name)(), y if name == "Hinge" else x
                allowed = 1e-12 * max(1.0, s * s, abs(x * s), rate)
                values = abs(loss.value(s, target) - value) <= allowed
                slopes = abs(loss.gradient(s, target) - gradient) <= 1e-12 * max(1.0, abs(s), slope)
                facts[f"{name} {s} {x}"] = values and slopes
    return wrong(**facts)


def _pairs_and_lists() -> list[str]:
    facts = {}
    for d in (-1000.0, -2.0, 0.4, 1.1, 1000.0):
        for name, loss, value, gradient in (
            ("BPR", losses.BPR(), _softplus(-d), -_sigmoid(-d)),
            ("MarginHinge", losses.MarginHinge(0.7), max(0.0, 0.7 - d), -1.0 if d < 0.7 else 0.0),
            ("WARP", losses.WARP(1.5, 7), max(0.0, 1.5 - d), -1.0 if d < 1.5 else 0.0),
        ):
            near = abs(loss.value(d) - value) < 1e-9 and abs(loss.gradient(d) - gradient) < 1e-12
            facts[f"{name} {d}"] = near
    negatives = np.array([-0.9, 0.35, 0.95, 0.2, 0.61])
    at = np.exp(np.append(0.8, negatives) / 0.3)
    share = at / at.sum()
    value = losses.SampledSoftmax(0.3).value(0.8, negatives)
    one, others = losses.SampledSoftmax(0.3).gradient(0.8, negatives)
    facts["softmax"] = close([value, one], [-math.log(share[0]), (share[0] - 1) / 0.3], 1e-12)
    facts["softmax others"] = close(others, share[1:] / 0.3, 1e-12)
    contrast = losses.CosineContrastive(0.3, 5.0)
    over = np.maximum(negatives - 0.3, 0.0)
    one, others = contrast.gradient(0.8, negatives)
    facts["cosine"] = close([contrast.value(0.8, negatives), one], [0.2 + over.sum(), -1.0], 1e-12)
    facts["cosine others"] = close(others, (over > 0) * 1.0, 1e-12)
    for loss in (
        Huber(0.5),
        losses.CosineContrastive(0.1, 3.0, True),
        losses.SampledSoftmax(4.0, False),
        losses.WARP(-1.0, 1),
    ):
        facts[f"{loss!r:.20}"] = losses.check(loss) is None
    return wrong(**facts)


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    for name, call in (
        ("two users with each other's negatives", _two_by_two),
        ("softmax over equal scores, its sampler hard", _softmax_at_rest),
        ("WARP over equal scores has the first trial's rank", _warp_at_rest),
        ("the mean over draws by popularity to the power of 1.7", _popular_at_rest),
        ("μ among three negatives, weighted or not", _constant_of_negatives),
        ("pointwise losses and slopes up to ±1000", _pointwise),
        ("losses of pairs and lists at other margins and temperatures", _pairs_and_lists),
    ):
        yield _holds(name, call)
    for name, alone in ALONE.items():
        yield _holds(name, lambda a=alone: a.wrong(lfm_np.sgd))
