"""The third sitting, the rest: what losses pay, what their correction estimates, and how a class may be written."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp

from .case import Case, Group
from .cases_third_sitting_rest_of_epochs import FREE, all_but_one, lfm_np, losses, sampling, sides, some, still
from .working_days import close, faultless, wrong

_holds = faultless(Group("third sitting, the rest"))


# --- what is paid ---


def _softplus(x: Any) -> Any:
    return np.maximum(x, 0) + np.log1p(np.exp(-abs(x)))


def _paid_at_rest(fit: Callable[..., Any]) -> list[str]:
    """An epoch at a rate of 1e-12 pays what NumPy does; every user has one item that can be drawn."""
    X, lacks = all_but_one(24, 9, 11)
    draw, facts, M = np.random.default_rng(12), {}, 2
    U, V, b = draw.normal(0, 0.7, (24, 3)), draw.normal(0, 0.7, (9, 3)), draw.normal(0, 0.3, 9)
    rows, columns = np.nonzero(X)
    w = X[rows, columns].astype(float)
    S = U @ V.T + b
    C = (U / np.sqrt((U**2).sum(1))[:, None]) @ (V / np.sqrt((V**2).sum(1))[:, None]).T
    s, t, c, e = S[rows, columns], S[rows, lacks[rows]], C[rows, columns], C[rows, lacks[rows]]
    kinds = {
        "bpr": (losses.BPR(True), M, w * M * _softplus(t - s)),
        "hinge of pairs": (losses.MarginHinge(0.5), M, M * np.maximum(0, 0.5 - s + t)),
        "warp": (losses.WARP(0.5, 3, True), 1, w * math.log(9) * np.maximum(0, 0.5 - s + t)),
        "hinge": (losses.Hinge(True), M, w * np.maximum(0, 1 - s) + M * np.maximum(0, 1 + t)),
        "logistic": (losses.Logistic(True), M, w * _softplus(-s) + M * _softplus(t)),
        "poisson": (losses.Poisson(), M, np.exp(s) - w * s + w * np.log(w) - w + M * np.exp(t)),
        "squared": (losses.Squared(), M, (s - w) ** 2 / 2 + M * t**2 / 2),
        "softmax": (losses.SampledSoftmax(0.5, True, True), M, w * _softplus((t - s) / 0.5)),
        "as it is": (losses.SampledSoftmax(0.5, False), M, _softplus((t - s) / 0.5 + math.log(M))),
        "cosine": (losses.CosineContrastive(0.1, 2.0, True), M, w * (1 - c + 2.0 * np.maximum(0, e - 0.1))),
    }
    for name, (loss, negatives, paid) in kinds.items():
        biases = False if name == "cosine" else "item"
        start = lfm_np.Factors(U, V) if name == "cosine" else lfm_np.Factors(U, V, item_bias=b)
        words = {"factors": 3, "negatives": negatives, "learning_rate": 1e-12, "epochs": 1, "biases": biases}
        made = fit(sp.csr_array(X.astype(float)), loss, init=start, random_state=3, **words, **FREE)
        facts[name] = close(made.history[0]["sampled_loss"], paid.mean(), 1e-8)  # 192 moves of some 1e-11
    return wrong(**facts)


class Mass:
    """The sum of exp of what arrives, which the correction makes an estimate of the sum over all that is not stored."""

    correct_logq = True

    def value(self, positive, negatives):
        total = 0.0
        for score in negatives:
            total += math.exp(score)
        return total

    def gradient(self, positive, negatives):
        slopes = np.empty(len(negatives))
        for m in range(len(negatives)):
            slopes[m] = math.exp(negatives[m])
        return 0.0, slopes


def _unbiased() -> list[str]:
    """Means of epochs, whose draws are dealt anew, scatter about the sum; 6 of their own standard errors."""
    X = some(25, 14, 13)
    b = np.random.default_rng(14).normal(0, 0.8, 14)
    rows = np.nonzero(X)[0]
    whole = np.where(X > 0, 0, np.exp(b)).sum(1)[rows].mean()
    facts = {}
    for name, sampler, M in (
        ("uniform", sampling.Uniform(), 3),
        ("popularity", sampling.Popularity(1.0), 1),
        ("root", sampling.Popularity(0.5), 4),
    ):
        start = lfm_np.Factors(*still(25, 14), item_bias=b)
        words = {"sampler": sampler, "negatives": M, "learning_rate": 1e-12, "epochs": 200, "biases": "item"}
        made = lfm_np.sgd(sp.csr_array(X.astype(float)), Mass(), factors=2, init=start, random_state=4, **words, **FREE)
        paid = np.array([record["sampled_loss"] for record in made.history])
        error = paid.std(ddof=1) / math.sqrt(200)
        facts[name] = abs(paid.mean() - whole) < 6 * error and error < 0.05 * whole
    return wrong(**facts)


# --- one loss, written in five ways ---


def _value(self, difference):
    gap = max(0.0, self.margin - difference)
    return math.sqrt(1.0 + gap * gap) - 1.0


def _gradient(self, difference):
    gap = max(0.0, self.margin - difference)
    return -gap / math.sqrt(1.0 + gap * gap)


class OfFields(NamedTuple):
    margin: float = 1.5
    value = _value
    gradient = _gradient


@dataclass(frozen=True, slots=True)
class OfSlots:
    margin: float = 1.5
    value = _value
    gradient = _gradient


class OfTheClass:
    margin = 1.5
    value = _value
    gradient = _gradient


class OfTheObject:
    def __init__(self, margin: float) -> None:
        self.margin = margin

    value = _value
    gradient = _gradient


class OfTheBase(OfTheObject):
    def __init__(self) -> None:
        super().__init__(9.0)
        self.margin = 1.5


def _written_in_five_ways() -> list[str]:
    u, v, w, eta, facts = np.array([0.4, -0.3]), np.array([0.2, 0.6]), np.array([0.7, 0.1]), 0.125, {}
    start = (u[None].copy(), np.array([v, w]))
    for _ in range(4):
        gap = max(0.0, 1.5 - u @ (v - w))
        g = -gap / math.sqrt(1 + gap * gap)
        u, v, w = u - eta * g * (v - w), v - eta * g * u, w + eta * g * u
    X = sp.csr_array(([1.0], ([0], [0])), shape=(1, 2))
    for loss in (OfFields(), OfSlots(), OfTheClass(), OfTheObject(1.5), OfTheBase()):
        made = lfm_np.sgd(X, loss, factors=2, learning_rate=eta, epochs=4, init=start, random_state=0, **FREE)
        F, mine = np.vstack([made.user_factors, made.item_factors]), np.array([u, v, w])
        facts[type(loss).__name__] = close(F @ F.T, mine @ mine.T, 1e-12)
    return wrong(**facts)


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    for side, fit in sides():
        yield _holds(f"what ten losses pay at rest, {side}", lambda f=fit: _paid_at_rest(f))
    yield _holds("sums that the correction estimates", _unbiased)
    yield _holds("one loss, written in five ways", _written_in_five_ways)
