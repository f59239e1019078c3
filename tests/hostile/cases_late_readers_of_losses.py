"""Sentences about losses and the steps of `sgd`, at numbers that no example uses."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import scipy.sparse as sp

import lfm_np
from lfm_np import losses

from .case import Case, Group
from .working_days import close, faultless, wrong

_GROUP = Group("late readers, losses")
_holds = faultless(_GROUP)


def _softplus(s: float) -> float:
    return max(s, 0.0) + math.log1p(math.exp(-abs(s)))


def _near(a: float, b: float, tolerance: float = 1e-12) -> bool:
    return abs(float(a) - b) <= tolerance * max(1.0, abs(b))


def _gram(U: Any, V: Any) -> np.ndarray:
    """What a rotation of the factors leaves as it is."""
    F = np.vstack([U, V]).astype(np.float64)
    return F @ F.T


# --- values and slopes ---------------------------------------------------------------------------


def _poisson() -> list[str]:
    loss, bad = losses.Poisson(), []
    for s in (-3.7, -0.2, 1.3, 4.9):
        for x in (0.25, 1.0, 17.0, 230.5):
            if not _near(loss.value(s, x), math.exp(s) - x * s + x * math.log(x) - x):
                bad.append(f"value {s} {x}")
            if not _near(loss.gradient(s, x), math.exp(s) - x):
                bad.append(f"slope {s} {x}")
    return bad


def _poisson_zero() -> list[str]:
    loss = losses.Poisson()
    return [f"{s}" for s in (-6.5, 0.0, 2.75) if not _near(loss.value(s, 0.0), math.exp(s))]


def _poisson_tangent() -> list[str]:
    loss, top = losses.Poisson(), math.exp(30.0)
    bad = []
    for s, x in ((30.5, 2.0), (45.25, 3.0), (900.0, 0.5)):
        mine = top * (1 + s - 30) - x * s + x * math.log(x) - x
        if not _near(loss.value(s, x), mine) or not _near(loss.gradient(s, x), top - x):
            bad.append(f"{s}")
    return bad


def _poisson_at_its_rate() -> list[str]:
    """Four terms of at most x·(1 + |log x|) each are rounded."""
    loss = losses.Poisson()
    return [
        f"{x}"
        for x in (1e-3, 0.4, 7.0, 1e6)
        if abs(loss.value(math.log(x), x)) > 2e-15 * x * (4 + 4 * abs(math.log(x)))
        or abs(loss.gradient(math.log(x), x)) > 2e-15 * x * (2 + abs(math.log(x)))
    ]


def _quarter_smooth(slope: Callable[[float], float]) -> list[str]:
    """No secant of the slope is steeper than ¼, and the steepest comes close."""
    points = np.linspace(-9, 9, 145)
    steep = [abs(slope(b) - slope(a)) / (b - a) for a, b in zip(points[:-1].tolist(), points[1:].tolist(), strict=True)]
    return wrong(never=max(steep) <= 0.25 + 1e-12, nearly=max(steep) > 0.249)


def _tails() -> list[str]:
    bpr, log = losses.BPR(), losses.Logistic()
    return wrong(
        bpr=_near(bpr.value(-1000.0), 1000.0) and 0 <= bpr.value(1000.0) < 1e-300,
        slopes=_near(bpr.gradient(-1000.0), -1.0) and -1e-300 < bpr.gradient(1000.0) <= 0,
        logistic=_near(log.value(1000.0, 0.0), 1000.0) and 0 <= log.value(1000.0, 1.0) < 1e-300,
        middle=_near(bpr.value(-2.3), _softplus(2.3)) and _near(log.value(-1.7, 1.0), _softplus(-1.7) + 1.7),
    )


def _kinks() -> list[str]:
    hinge, margin, warp = losses.Hinge(), losses.MarginHinge(0.75), losses.WARP(margin=2.5, trials=3)
    return wrong(
        hinge=hinge.gradient(1.0, 1.0) == 0 and hinge.gradient(-1.0, -1.0) == 0,
        beside=hinge.gradient(-0.875, -1.0) == 1 and hinge.gradient(0.875, 1.0) == -1,
        values=hinge.value(-0.25, -1.0) == 0.75 and hinge.value(1.5, -1.0) == 2.5,
        margin=margin.gradient(0.75) == 0 and margin.gradient(0.5) == -1 and margin.value(0.5) == 0.25,
        negative=losses.MarginHinge(-0.5).value(-2.0) == 1.5 and losses.MarginHinge(-0.5).value(-0.25) == 0,
        warp=warp.value(-1.0) == 3.5 and warp.gradient(2.25) == -1 and warp.gradient(2.5) == 0,
    )


def _cosine() -> list[str]:
    s = np.array([0.9, -0.5, 0.26, 0.1, 0.5])
    loss = losses.CosineContrastive(margin=0.25, weight=3.0)
    by_positive, by_negatives = loss.gradient(-0.3, s)
    return wrong(
        value=_near(loss.value(-0.3, s), 1.3 + 3 / 5 * (0.65 + 0.01 + 0.25)),
        positive=_near(by_positive, -1.0),
        negatives=close(by_negatives, [0.6, 0, 0.6, 0, 0.6], 1e-12),
    )


def _softmax() -> list[str]:
    """Value and slopes know nothing of the correction: the scores arrive with it."""
    T, s, N = 0.3, 0.4, np.array([0.1, -1.2, 0.9, 0.35, 0.4])
    e = np.exp(np.concatenate([[s], N]) / T)
    p = e / e.sum()
    bad = []
    for corrected in (True, False):
        loss = losses.SampledSoftmax(temperature=T, correct_logq=corrected)
        by_positive, by_negatives = loss.gradient(s, N)
        if not _near(loss.value(s, N), -math.log(p[0])):
            bad.append(f"value {corrected}")
        if not _near(by_positive, (p[0] - 1) / T) or not close(by_negatives, p[1:] / T, 1e-12):
            bad.append(f"slopes {corrected}")
    return bad


def _checked() -> bool:
    for loss in (
        losses.CosineContrastive(margin=-0.3, weight=7.0),
        losses.SampledSoftmax(0.05, False),
        losses.MarginHinge(-2.0),
        losses.Poisson(),
    ):
        losses.check(loss)
    return True


# --- steps ---------------------------------------------------------------------------------------


def _start(m: int, n: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(12)
    return draw.normal(0, 0.4, (m, k)), draw.normal(0, 0.4, (n, k))


RATINGS = np.array([1.0, 4.0, 2.5])  # of three users, each of one item of its own: their steps do not meet


def _diagonal(x: np.ndarray) -> sp.csr_array:
    cells = np.arange(len(x))
    return sp.csr_array((x, (cells, cells)))


def _adagrad_with_biases() -> list[str]:
    U, V = (F.copy() for F in _start(3, 3, 2))
    b, d, mu, eta = np.zeros(3), np.zeros(3), 2.5, 0.3
    lam = {"user": 0.2, "item": 0.05, "bias": 0.4}
    sums, paid = np.zeros((3, 4)), []
    for _ in range(4):
        total = 0.0
        for r in range(3):
            e = mu + b[r] + d[r] + float(U[r] @ V[r]) - RATINGS[r]
            total += e * e / 2
            slopes: list[Any] = [
                e * V[r] + lam["user"] * U[r],
                e * U[r] + lam["item"] * V[r],
                e + lam["bias"] * b[r],
                e + lam["bias"] * d[r],
            ]
            sums[r] += [float(np.mean(np.square(g))) for g in slopes]
            rates = eta / np.sqrt(1 + sums[r])
            U[r], V[r] = U[r] - rates[0] * slopes[0], V[r] - rates[1] * slopes[1]
            b[r], d[r] = b[r] - rates[2] * slopes[2], d[r] - rates[3] * slopes[3]
        paid.append(total / 3)
    fit: Any = lfm_np.sgd(
        _diagonal(RATINGS), losses.Squared(), sampler=None, factors=2, epochs=4, learning_rate=eta, schedule="adagrad",
        regularization=lam, biases=True, init=_start(3, 3, 2), dtype="float64", random_state=3,
    )  # fmt: skip
    return wrong(
        mu=_near(fit.global_bias or 0.0, mu),
        moved=close(_gram(fit.user_factors, fit.item_factors), _gram(U, V), 1e-11),
        biases=close(fit.user_bias, b, 1e-11) and close(fit.item_bias, d, 1e-11),
        paid=close([record["sampled_loss"] for record in fit.history], paid, 1e-11),
    )


def _inverse_of_counts() -> list[str]:
    counts, eta, lam = np.array([2.0, 7.0, 1.0]), 0.15, 0.1
    U, V = (F.copy() for F in _start(3, 3, 3))
    paid = []
    for epoch in range(6):
        total, rate = 0.0, eta / (1 + epoch / 10)
        for r, x in enumerate(counts.tolist()):
            s = float(U[r] @ V[r])
            total += math.exp(s) - x * s + x * math.log(x) - x
            g = math.exp(s) - x
            U[r], V[r] = U[r] - rate * (g * V[r] + lam * U[r]), V[r] - rate * (g * U[r] + lam * V[r])
        paid.append(total / 3)
    fit: Any = lfm_np.sgd(
        _diagonal(counts), losses.Poisson(), sampler=None, factors=3, epochs=6, learning_rate=eta, schedule="inverse",
        regularization=lam, init=_start(3, 3, 3), dtype="float64", random_state=0,
    )  # fmt: skip
    return wrong(
        moved=close(_gram(fit.user_factors, fit.item_factors), _gram(U, V), 1e-10),
        paid=close([record["sampled_loss"] for record in fit.history], paid, 1e-10),
    )


def _tolerance() -> list[str]:
    U, V = (2.5 * F for F in _start(3, 3, 2))
    paid: list[float] = []
    for _ in range(60):
        E = np.array([U[r] @ V[r] for r in range(3)]) - RATINGS
        paid.append(float((E**2).mean() / 2))
        U, V = U - 0.05 * E[:, None] * V, V - 0.05 * E[:, None] * U
    share = 0.25
    gains = [1 - after / before for before, after in pairwise(paid)]
    last = next(e for e, gain in enumerate(gains, 1) if gain < share)
    assert last == 9
    assert all(abs(gain - share) > 1e-3 for gain in gains[:last])
    fit: Any = lfm_np.sgd(
        _diagonal(RATINGS), losses.Squared(), sampler=None, factors=2, epochs=60, learning_rate=0.05, tolerance=share,
        regularization=0.0, init=tuple(2.5 * F for F in _start(3, 3, 2)), dtype="float64", random_state=0,
    )  # fmt: skip
    return wrong(
        epochs=len(fit.history) == last + 1,
        status=fit.status == "converged",
        paid=close([record["sampled_loss"] for record in fit.history], paid[: last + 1], 1e-10),
    )


def _one_of_two_orders() -> list[str]:
    """Each of two users has the item that the other draws; the values weigh the hinge."""
    start, eta, margin, values = _start(2, 2, 2), 0.2, 3.0, (0.5, 3.0)
    mine = []
    for order in ((0, 1), (1, 0)):
        U, V = (F.copy() for F in start)
        total = 0.0
        for r in order:
            d = float(U[r] @ V[r] - U[r] @ V[1 - r])
            assert d < margin
            total += values[r] * (margin - d)
            u, g = U[r].copy(), -values[r]
            U[r] = u - eta * g * (V[r] - V[1 - r])
            V[r], V[1 - r] = V[r] - eta * g * u, V[1 - r] + eta * g * u
        mine.append((_gram(U, V), total / 2))
    fit: Any = lfm_np.sgd(
        _diagonal(np.array(values)), losses.MarginHinge(margin, weighted=True), factors=2, epochs=1, learning_rate=eta,
        regularization=0.0, init=start, dtype="float64", random_state=4,
    )  # fmt: skip
    G, paid = _gram(fit.user_factors, fit.item_factors), fit.history[0]["sampled_loss"]
    return wrong(one=any(close(G, H, 1e-11) and _near(paid, p, 1e-11) for H, p in mine))


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    yield _holds("Poisson at odd counts", _poisson)
    yield _holds("Poisson of a count of 0", _poisson_zero)
    yield _holds("beyond 30 the exponential goes on as its tangent", _poisson_tangent)
    yield _holds("half the deviance is 0 where the rate is the count", _poisson_at_its_rate)
    yield _holds("BPR is ¼-smooth", lambda: _quarter_smooth(losses.BPR().gradient))
    yield _holds("Logistic is ¼-smooth", lambda: _quarter_smooth(lambda s: losses.Logistic().gradient(s, 0.0)))
    yield _holds("scores of a thousand", _tails)
    yield _holds("slopes at kinks, and margins below 0", _kinks)
    yield _holds("only negatives closer than the margin push", _cosine)
    yield _holds("softmax of a low temperature", _softmax)
    yield _GROUP.right("check is silent about odd parameters", _checked)
    yield _holds("Adagrad has a sum for every bias, λ in it", _adagrad_with_biases)
    yield _holds("counts by the inverse schedule, six epochs of history", _inverse_of_counts)
    yield _holds("an epoch less than the tolerance below the last", _tolerance)
    yield _holds("weighted hinges of two users, in one of two orders", _one_of_two_orders)
