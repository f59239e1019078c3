"""The fourth sitting, models: steps of `sgd` worked out one by one, of losses with several properties at once."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import scipy.sparse as sp

from .case import Case, Group
from .cases_fourth_sitting_models_of_slopes import SIDES, Begun, gram, sgd
from .sentences_by_numpy import lfm_np, losses, near
from .working_days import faultless, wrong

_holds = faultless(Group("fourth sitting, models"))


def _adagrad_of_warp(side: str) -> list[str]:
    """One user, an item and its only negative, far within the margin: five epochs by hand, of weight 2.5 log 2."""
    start = Begun(1, 2, seed=7)
    u, (v, w), (b, c) = start.U[0].copy(), start.V.copy(), start.d.copy()
    lam, sums, paid = {"user": 0.2, "item": 0.4, "negative": 0.1, "bias": 0.3}, np.zeros(5), []
    for _ in range(5):
        g = -2.5 * math.log(2)
        paid.append(-g * (9 - (u @ v + b - u @ w - c)))
        moves: list[Any] = [
            g * (v - w) + 0.2 * u, g * u + 0.4 * v, -g * u + 0.1 * w, g + 0.3 * b, -g + 0.3 * c,
        ]  # fmt: skip
        sums += [float(np.mean(np.square(move))) for move in moves]
        u, v, w, b, c = (
            f - 0.125 / math.sqrt(1 + total) * move for f, total, move in zip((u, v, w, b, c), sums, moves, strict=True)
        )
    given = lfm_np.Factors(start.U, start.V, item_bias=start.d)
    fit = sgd(side)(
        sp.csr_array([[2.5, 0.0]]), losses.WARP(margin=9.0, weighted=True), schedule="adagrad", biases="item",
        factors=3, epochs=5, learning_rate=0.125, regularization=lam, init=given, dtype="float64", random_state=0,
    )  # fmt: skip
    return wrong(
        moved=near(gram(fit.user_factors, fit.item_factors), gram([u], [v, w]), 1e-11),
        biases=near(fit.item_bias, [b, c], 1e-11),
        paid=near([record["sampled_loss"] for record in fit.history], paid, 1e-11),
    )


class Angles:
    """A list loss of cosines, corrected by log q at a temperature, times the stored value: Σⱼ exp((sⱼ - s)/T)."""

    cosine = True
    weighted = True
    correct_logq = True

    def __init__(self, temperature: float) -> None:
        self.temperature = temperature

    def value(self, positive: float, negatives: Any) -> float:
        total = 0.0
        for score in negatives:
            total += math.exp(min((score - positive) / self.temperature, 700.0))
        return total

    def gradient(self, positive: float, negatives: Any) -> Any:
        slopes = np.empty(len(negatives))
        for m in range(len(negatives)):
            slopes[m] = math.exp(min((negatives[m] - positive) / self.temperature, 700.0)) / self.temperature
        return -slopes.sum(), slopes

    def torch_value(self, positive: Any, negatives: Any) -> Any:
        return ((negatives - positive[:, None]) / self.temperature).exp().sum(1)


class Tries:
    """Pairs of cosines that try four times, times the stored value: (1 - d)² below 1, 0 above."""

    cosine = True
    weighted = True
    trials = 4

    def value(self, difference: float) -> float:
        return max(0.0, 1.0 - difference) ** 2

    def gradient(self, difference: float) -> float:
        return -2.0 * max(0.0, 1.0 - difference)

    def torch_value(self, difference: Any) -> Any:
        return (1.0 - difference).clamp(min=0.0) ** 2


def _turned(U: np.ndarray, V: np.ndarray, j: int, by_stored: float, by_drawn: float) -> np.ndarray:
    """The Gram matrix after one step of η = 1/8 along the sphere, of user 0, item 0 and item j."""
    u, v, w, V = U[0], V[0], V[j], V.copy()
    s, t = float(u @ v), float(u @ w)
    u = u - 0.125 * (by_stored * (v - s * u) + by_drawn * (w - t * u))
    V[0], V[j] = v - 0.125 * by_stored * (U[0] - s * v), w - 0.125 * by_drawn * (U[0] - t * w)
    rows = np.vstack([u[None], V])
    rows /= np.linalg.norm(rows, axis=1)[:, None]
    return rows @ rows.T


def _cosines_of_ones_own(side: str) -> list[str]:
    start, found = Begun(1, 3, seed=8, length=True), {}
    start.V[2] = start.V[1]
    s, t = start.score(0, 0), start.score(0, 1)
    words = {"factors": 3, "epochs": 1, "learning_rate": 0.125, "regularization": 0.0, "dtype": "float64"}
    paid = 3 * 2 * math.exp((t - s) / 0.6)  # either of two is drawn with q = 1/2, and t arrives as t + T·log 2
    slope = paid / 0.6
    fit = sgd(side)(sp.csr_array([[3.0, 0, 0]]), Angles(0.6), init=(start.U, start.V), random_state=1, **words)
    mine = [_turned(start.U, start.V, j, -slope, slope) for j in (1, 2)]
    found["list"] = any(near(gram(fit.user_factors, fit.item_factors), G, 1e-10) for G in mine)
    found["list_paid"] = near(fit.history[0]["sampled_loss"], paid, 1e-12)
    two = start.V[:2]
    slope = -3 * math.log(2) * 2 * max(0.0, 1 - s + t)
    fit = sgd(side)(sp.csr_array([[3.0, 0]]), Tries(), init=(start.U, two), random_state=1, **words)
    found["pair"] = near(gram(fit.user_factors, fit.item_factors), _turned(start.U, two, 1, slope, -slope), 1e-10)
    found["pair_paid"] = near(fit.history[0]["sampled_loss"], 3 * math.log(2) * max(0.0, 1 - s + t) ** 2, 1e-12)
    return wrong(**found, within=s - t < 1)


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    for side in SIDES:
        yield _holds(f"WARP by Adagrad with items' biases, {side}", lambda s=side: _adagrad_of_warp(s))
        yield _holds(f"cosines of one's own, a list and a pair, {side}", lambda s=side: _cosines_of_ones_own(s))
