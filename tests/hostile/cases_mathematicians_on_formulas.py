"""Losses by their formulas, and their slopes by finite differences of these."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from lfm_np import losses

from .case import Case, Group
from .cases_mathematicians_on_sweeps import each
from .working_days import faultless, wrong

_GROUP = Group("mathematicians")
_holds = faultless(_GROUP)


class Lame(NamedTuple):
    """Right for one negative, and for the first of several."""

    def value(self, positive: float, negatives: Any) -> float:
        total = 0.0
        for score in negatives:
            total += (score - positive) ** 2
        return total

    def gradient(self, positive: float, negatives: Any) -> tuple[float, Any]:
        slopes = 2.0 * (negatives - positive)
        total = slopes.sum()
        for m in range(1, len(slopes)):
            slopes[m] = slopes[0]
        return -total, slopes


def _softplus(s: float) -> float:
    return max(s, 0.0) + math.log1p(math.exp(-abs(s)))


def _slope(f: Callable[..., float], x: float, *rest: Any) -> float:
    """By the first argument: central differences of two steps, whose error is of the fourth order."""
    h = 2.0**-9
    near, far = (f(x + step, *rest) - f(x - step, *rest) for step in (h, 2 * h))
    return float((8 * near - far) / (12 * h))


def _near(a: float, b: float, tolerance: float = 1e-9) -> bool:
    return abs(float(a) - b) <= tolerance * max(1.0, abs(b))


def _one_by_one(loss: Any, formula: Callable[..., float], points: Sequence[tuple[float, ...]]) -> list[str]:
    """Values by the formula, slopes by differences of the formula."""
    values = [_near(loss.value(*p), formula(*p), 1e-12) for p in points]
    slopes = [_near(loss.gradient(*p), _slope(formula, *p)) for p in points]
    return wrong(values=all(values), slopes=all(slopes))


def _lists(loss: Any, formula: Callable[[float, np.ndarray], float], seed: int) -> list[str]:
    draw, found = np.random.default_rng(seed), []

    def along(x: float, s: float, n: np.ndarray, j: int) -> float:
        return formula(s, n + x * np.eye(len(n))[j])

    for M in (1, 2, 7):
        s, n = float(draw.normal(0, 0.5)), draw.normal(0, 0.5, M)
        g, h = loss.gradient(s, n.copy())
        found += [
            _near(loss.value(s, n.copy()), formula(s, n), 1e-12),
            _near(g, _slope(formula, s, n)),
            all(_near(h[j], _slope(along, 0.0, s, n, j)) for j in range(M)),
            np.shape(h) == (M,),
        ]
    return wrong(all=all(found))


def _poisson(s: float, x: float) -> float:
    e = math.exp(s) if s <= 30 else math.exp(30) * (1 + s - 30)
    return e - x * s + (x * math.log(x) - x if x else 0.0)


def _softmax(T: float) -> Callable[[float, np.ndarray], float]:
    return lambda s, n: math.log(math.exp(s / T) + sum(math.exp(x / T) for x in n)) - s / T


def _contrast(margin: float, weight: float) -> Callable[[float, np.ndarray], float]:
    return lambda s, n: 1 - s + weight / len(n) * sum(max(0.0, x - margin) for x in n)


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    scores = (-3.7, -0.3, 0.0, 0.8, 2.6)
    both = list(itertools.product(scores, (-1.0, 1.0)))
    formulas: tuple[tuple[str, Any, Any, list[Any]], ...] = (
        ("squared", losses.Squared(), lambda s, x: (s - x) ** 2 / 2, list(itertools.product(scores, (-2.5, 0.0, 4.0)))),
        (
            "logistic",
            losses.Logistic(True),
            lambda s, y: _softplus(s) - y * s,
            list(itertools.product((*scores, 40.0, -40.0), (0.0, 1.0))),
        ),
        ("hinge", losses.Hinge(True), lambda s, y: max(0.0, 1 - y * s), both),
        ("counts", losses.Poisson(), _poisson, list(itertools.product(scores, (0.0, 0.5, 6.0)))),
        ("counts on the tangent", losses.Poisson(), _poisson, [(31.0, 2.0), (35.5, 0.0), (60.0, 7.0)]),
        ("pairs", losses.BPR(True), lambda d: _softplus(-d), [(d,) for d in (*scores, 40.0, -40.0)]),
        ("margins", losses.MarginHinge(1.7), lambda d: max(0.0, 1.7 - d), [(d,) for d in scores]),
        ("ranks", losses.WARP(0.3, 5, True), lambda d: max(0.0, 0.3 - d), [(d,) for d in scores]),
    )
    for name, some in (("of a cell", formulas[:5]), ("of a pair", formulas[5:])):
        yield _holds(f"formulas and their differences: {name}", each("loss", some, lambda row: _one_by_one(*row[1:])))
    yield _holds(
        "formulas and their differences: softmax by temperature",
        each("T", (0.25, 1.0, 4.0), lambda T: _lists(losses.SampledSoftmax(T), _softmax(T), 1)),
    )
    yield _holds(
        "formulas and their differences: cosines",
        each("w", ((0.1, 2.5), (-0.6, 0.25)), lambda w: _lists(losses.CosineContrastive(*w), _contrast(*w), 2)),
    )
    yield _GROUP.refused(
        "slopes of a list that are right for its first only", lambda: losses.check(Lame()), "gradient", kind=ValueError
    )
