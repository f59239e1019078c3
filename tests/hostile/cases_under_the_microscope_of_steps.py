"""Losses, constants and single steps at both ends of the types, beside decimals of 60 digits and closed forms."""

from __future__ import annotations

import math
from collections.abc import Iterator
from decimal import Decimal, localcontext
from typing import Any

import numpy as np
import scipy.sparse as sp

from .case import Case, Group, installed
from .sentences_by_numpy import lfm_np, losses, sampling, sigmoid
from .working_days import faultless, wrong

_GROUP = Group("under the microscope")
_holds = faultless(_GROUP)
TINY = 2.0**-149
DIFFERENCES = (0.0, -0.0, 5e-324, 1e-17, 40.0, -40.0, 700.0, -700.0, 745.5, -745.5, 1e5, -1e5, 1e308, -1e308)


def _sgd(engine: str) -> Any:
    return lfm_np.torch_backend.sgd if engine == "torch" else lfm_np.sgd


def _softplus(x: float) -> Decimal:
    """log(1 + eˣ)."""
    with localcontext() as context:
        context.prec = 60
        if abs(x) > 1e4:
            return Decimal(max(x, 0.0))
        if x < -60:
            return Decimal(x).exp()  # but for its half square
        return (1 + Decimal(x).exp()).ln()


def _share(x: float) -> Decimal:
    """1 / (1 + e⁻ˣ)."""
    with localcontext() as context:
        context.prec = 60
        if abs(x) > 1e4:
            return Decimal(int(x > 0))
        return 1 / (1 + (-Decimal(x)).exp())


def _off(found: float, mine: Decimal, scale: float) -> bool:
    """More than a few roundings of what is added up, which is of size ``scale``."""
    return not math.isfinite(found) or abs(Decimal(float(found)) - mine) > Decimal("4e-15") * Decimal(scale)


def _pairs() -> list[str]:
    faults = []
    for d in DIFFERENCES:
        value, slope = losses.BPR().value(d), losses.BPR().gradient(d)
        mine = _softplus(-d)  # e⁻⁴⁰ is no rounding error of anything
        if _off(value, mine, max(1e-300, float(mine))) or _off(slope, -_share(-d), 1.0):
            faults.append(f"{d}: {value!r}, {slope!r}")
    return faults


def _points() -> list[str]:
    faults = []
    for s in DIFFERENCES:
        for y in (0.0, 1.0):
            value, slope = losses.Logistic().value(s, y), losses.Logistic().gradient(s, y)
            # log(1 + eˢ) - s is log(1 + e⁻ˢ)
            if _off(value, _softplus(-s if y else s), max(1.0, abs(s))) or _off(slope, _share(s) - Decimal(y), 1.0):
                faults.append(f"{s}, {y}: {value!r}, {slope!r}")
    return faults


def _counts() -> list[str]:
    """eˢ up to 30, then its tangent there."""
    faults = []
    for s in (-1e300, -745.5, -5e-324, 0.0, 29.0, 30.0, 31.0, 1000.0, 1e200):
        for x in (1.0, 3.0, TINY, 1e-300, 2.0**24 + 1, 1e7):
            with localcontext() as context:
                context.prec = 60
                if s > 30:
                    rate = Decimal(30).exp()
                    power = rate * (1 + Decimal(s) - 30)
                else:
                    rate = power = Decimal(s).exp() if s > -1e4 else Decimal(0)
                X = Decimal(x)
                mine = power - X * Decimal(s) + X * X.ln() - X
                scale = float(power + abs(X * Decimal(s)) + abs(X * X.ln()) + X)
                slope = rate - X
            value, found = losses.Poisson().value(s, x), losses.Poisson().gradient(s, x)
            if _off(value, mine, scale) or _off(found, slope, float(rate + X)):
                faults.append(f"{s}, {x}: {value!r}, {found!r}")
    return faults


def _choices() -> list[str]:
    """Against one negative of two: log(1 + 2e^((t - s)/T)), and its slopes, which add up to nothing."""
    faults = []
    for T, s, t in (
        (1.0, 5e307, -5e307), (1.0, -5e307, 5e307), (1e-300, 1.0, 0.5), (1e-300, 0.5, 1.0), (1e300, 3.0, -4.0),
        (2.0**-10, 0.25, 0.125), (2.0**-10, 0.125, 0.25), (2.0**40, 1.0, 2.0), (1.0, 800.0, 40.0), (1.0, 40.0, 800.0),
    ):  # fmt: skip
        loss = losses.SampledSoftmax(T)
        gap = (t - s) / T + math.log(2)
        value = loss.value(s, np.array([t, t]))
        by_positive, by_negatives = loss.gradient(s, np.array([t, t]))
        pull = Decimal(1) / Decimal(T) * _share(gap)
        if (
            _off(value, _softplus(gap), max(1.0, abs(gap)))
            or _off(by_positive, -pull, 1 / T * (1 + (abs(gap) if abs(gap) < 700 else 0)))
            or any(_off(g, pull / 2, 1 / T * (1 + (abs(gap) if abs(gap) < 700 else 0))) for g in by_negatives)
        ):
            faults.append(f"T={T}, {s}, {t}: {value!r}, {by_positive!r}")
    return faults


def _margins() -> list[str]:
    hinge, warp = losses.MarginHinge, losses.WARP
    cosine = losses.CosineContrastive(margin=1.0 - 2.0**-53, weight=2.0**60)
    return wrong(
        hardly=hinge(5e-324).value(0.0) == 5e-324 and hinge(5e-324).gradient(0.0) == -1.0,
        kink=hinge(5e-324).gradient(5e-324) == 0.0 and hinge(5e-324).value(5e-324) == 0.0,
        none=hinge(-1e308).value(-1e300) == 0.0 and hinge(-1e308).gradient(-1e300) == 0.0,
        large=warp(margin=1e300).value(1e299) == 1e300 - 1e299 and warp(margin=1e300).gradient(1e299) == -1.0,
        zeros=losses.Hinge().gradient(-0.0, 1.0) == -1.0 and losses.Hinge().value(1 - 2.0**-53, 1.0) == 2.0**-53,
        cosine=float(cosine.value(1.0, np.array([1.0, 1.0 - 2.0**-53]))) == 2.0**60 * 2.0**-53 / 2,
        squared=losses.Squared().value(2.0**500, -(2.0**500)) == 2.0**1001,
    )


def _checked() -> None:
    for loss in (
        losses.SampledSoftmax(temperature=0.01),
        losses.SampledSoftmax(temperature=1e4),
        losses.MarginHinge(margin=1e-300),
        losses.MarginHinge(margin=1e4),
        losses.WARP(margin=-1e-300, trials=10_000),
        losses.CosineContrastive(margin=1.0, weight=1e-6),
    ):
        losses.check(loss)


def _paid(engine: str, values: Any, loss: Any, each: Any, dtype: str = "float64", **words: Any) -> list[str]:
    """From factors of nothing, which all slopes leave so, the sampled loss is a mean of known numbers."""
    X = sp.csr_array((values, (np.arange(len(values)), np.zeros(len(values), int))), shape=(len(values), 2))
    start = np.zeros((len(values), 2), dtype), np.zeros((2, 2), dtype)
    fit = _sgd(engine)(
        X, loss, factors=2, epochs=2, init=start, learning_rate=0.125, dtype=dtype, random_state=0, **words
    )
    mine = math.fsum(each(float(x)) for x in values) / len(values)
    return wrong(
        paid=all(abs(record["sampled_loss"] / mine - 1) < 1e-9 for record in fit.history),
        still=not fit.user_factors.any() and not fit.item_factors.any(),
    )


def _many_paid() -> list[str]:
    """Two hundred thousand: a float32 sum of them is off by some 1e-4, a float64 one by less than 1e-10."""
    X = sp.csr_array(np.full((500, 400), 0.1, np.float32))
    start = np.zeros((500, 1), np.float32), np.zeros((400, 1), np.float32)
    fit = lfm_np.sgd(X, losses.Squared(), sampler=None, factors=1, epochs=1, init=start, random_state=0)
    return wrong(paid=abs(fit.history[0]["sampled_loss"] / (float(np.float32(0.1)) ** 2 / 2) - 1) < 1e-10)


def _step(engine: str, loss: Any, u: float, v: list[float], value: float = 1.0, **words: Any) -> tuple[Any, Any]:
    """One factor; the user has item 0, so that item 1, if there is one, is the only negative."""
    X = sp.csr_array(([value], ([0], [0])), shape=(1, len(v)))
    given = {"epochs": 1, "regularization": 0.0, "dtype": "float64", "random_state": 0, **words}
    start = np.array([[u]], given["dtype"]), np.array(v, given["dtype"])[:, None]
    fit = _sgd(engine)(X, loss, factors=1, init=start, **given)
    return fit.history[0]["sampled_loss"], (fit.user_factors @ fit.item_factors.T)[0].astype(np.float64).tolist()


def _near(found: list[float], mine: list[float], relative: float = 1e-12) -> bool:
    return all(abs(a - b) <= relative * abs(b) for a, b in zip(found, mine, strict=True))


def _far_apart(engine: str) -> list[str]:
    """Of scores that are apart by ±2²¹, σ is 0 or 1, and the loss 0 or the difference."""
    e, p = 0.125, 2.0**10
    right = _step(engine, losses.BPR(), p, [p, -p], learning_rate=e)
    wrong_way = _step(engine, losses.BPR(), p, [-p, p], learning_rate=e)
    u, v, w = p + e * -2 * p, -p + e * p, p - e * p
    return wrong(
        right=right[0] == 0.0 and _near(right[1], [p * p, -p * p]),
        paid=_near([wrong_way[0]], [2.0**21]),
        moved=_near(wrong_way[1], [u * v, u * w]),
    )


def _beyond_thirty(engine: str) -> list[str]:
    """At s = 40 the rate is e³⁰, and the loss its tangent's; η of 2⁻⁵⁰ makes a step of it."""
    e, x = 2.0**-50, 3.0
    paid, scores = _step(engine, losses.Poisson(), 40.0, [1.0], x, sampler=None, learning_rate=e)
    g = math.exp(30) - x
    mine = math.exp(30) * 11 - x * 40 + x * math.log(x) - x
    return wrong(paid=abs(paid / mine - 1) < 1e-12, moved=_near(scores, [(40 - e * g) * (1 - e * g * 40)], 1e-9))


def _hardly(engine: str, rate: float) -> list[str]:
    u, v, w = 0.75, 0.5, -0.25
    paid, scores = _step(engine, losses.BPR(), u, [v, w], learning_rate=rate, schedule="adagrad")
    return wrong(paid=abs(paid - math.log1p(math.exp(-(u * v - u * w)))) < 1e-14, still=_near(scores, [u * v, u * w]))


def _held_at_once(engine: str) -> list[str]:
    """ηλ = 1, and a pair that is apart: what is left is nothing."""
    paid, scores = _step(
        engine, losses.MarginHinge(margin=-5.0), 0.75, [0.5, -0.25], learning_rate=0.5, regularization=2.0, epochs=2
    )
    return wrong(paid=paid == 0.0, nothing=scores == [0.0, 0.0])


def _adagrad(engine: str, dtype: str, v: float, x: float) -> list[str]:
    """η g / √(1 + g²) is ±η where g is enormous, also where g² is beyond every number."""
    e = 0.125
    _, scores = _step(
        engine, losses.Squared(), 1.0, [v], x, sampler=None, learning_rate=e, schedule="adagrad", dtype=dtype
    )
    return wrong(moved=_near(scores, [(1 + e) * (v + e)], 1e-5 if dtype == "float32" else 1e-12))


def _negatives(engine: str) -> list[str]:
    u, v, w, e, M = 0.75, 0.5, -0.25, 2.0**-20, 10_000
    d = u * v - u * w
    paid, scores = _step(engine, losses.BPR(), u, [v, w], learning_rate=e, negatives=M)
    g = -sigmoid(-d) * M * e
    return wrong(
        paid=abs(paid / (M * math.log1p(math.exp(-d))) - 1) < 1e-11,
        moved=_near(scores, [(u - g * (v - w)) * (v - g * u), (u - g * (v - w)) * (w + g * u)], 1e-10),
    )


def _tempered(engine: str, T: float) -> list[str]:
    """log(1 + Σ e^((t - s)/T)/M) of M times the only negative."""
    u, v, w, M, e = 0.75, 0.125, 0.5, 64, T * 2.0**-6
    gap = (u * w - u * v) / T
    paid, scores = _step(engine, losses.SampledSoftmax(T), u, [v, w], learning_rate=e, negatives=M)
    g = sigmoid(gap) / T * e
    u2, v2, w2 = u + g * (v - w), v + g * u, w - g * u
    return wrong(paid=abs(paid / float(_softplus(gap)) - 1) < 1e-11, moved=_near(scores, [u2 * v2, u2 * w2], 1e-10))


def _constant(engine: str, loss: Any, values: Any, mine: float, **words: Any) -> list[str]:
    """μ by itself, before anything has moved: η is 1e-300. ``mine`` is a closed form of at most 100, or a mean."""
    within = 1e-3 if isinstance(loss, losses.Squared) else 1e-4
    X = sp.csr_array((values, ([0, 1, 1, 2], [0, 1, 2, 0])), shape=(3, 5))
    fit = _sgd(engine)(
        X, loss, factors=1, epochs=1, biases=True, learning_rate=1e-300, regularization=0.0, dtype="float64",
        random_state=0, init=(np.zeros((3, 1)), np.zeros((5, 1))), **words,
    )  # fmt: skip
    small = max(abs(fit.user_bias).max(), abs(fit.item_bias).max())
    return wrong(mu=abs(float(fit.global_bias) - mine) <= within, biases=small < 1e-200)


def _constants() -> Iterator[Case]:
    equal, few = [2.0**100] * 4, [2.0**-100] * 4
    none: dict[str, Any] = {"sampler": None}
    for engine in ("numba", "torch") if installed("torch") else ("numba",):
        for name, loss, values, mine, words in (
            ("ten thousand negatives", losses.Logistic(), [1.0] * 4, -math.log(10_000), {"negatives": 10_000}),
            ("weights of 1e30", losses.Logistic(True), equal, 100 * math.log(2), {}),
            ("weights of 1e-30", losses.Logistic(True), few, -100 * math.log(2), {}),
            ("ratings near 2⁴⁰", losses.Squared(), [2.0**40 + x for x in (1, 2, 4, 5)], 2.0**40 + 3, none),
            ("counts of 1e-18", losses.Poisson(), [2.0**-60 * x for x in (1, 2, 3, 10)], -58 * math.log(2), none),
            ("counts near 2²⁴", losses.Poisson(), [2.0**24 * x for x in (1, 2, 3, 10)], 26 * math.log(2), none),
        ):
            yield _holds(
                f"μ of {name}, {engine}", lambda e=engine, a=loss, b=values, c=mine, w=words: _constant(e, a, b, c, **w)
            )


def _diverges(**words: Any) -> Any:
    return lfm_np.sgd(sp.csr_array(np.eye(6, 9)), factors=2, random_state=0, **{"epochs": 5, **words})


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    yield _holds("BPR from one end to the other", _pairs)
    yield _holds("Logistic from one end to the other", _points)
    yield _holds("Poisson from one end to the other", _counts)
    yield _holds("SampledSoftmax by temperatures of 1e-300 and 1e300", _choices)
    yield _holds("margins that hardly are", _margins)
    yield _GROUP.right("check is silent at unusual parameters", _checked, lambda found: found is None)
    weights = [2.0**100, 2.0**-100, 1.0, 2.0**24 + 2, 3.0]
    for engine in ("numba", "torch") if installed("torch") else ("numba",):
        for name, values, loss, each, words in (
            ("weights from 1e-30 to 1e30", weights, losses.BPR(True), lambda x: x * math.log(2), {}),
            ("weights of 1e-300", [1e-300, 3e-300], losses.BPR(True), lambda x: x * math.log(2), {}),
            ("ratings of 1e21 in float32", [2.0**70, -3.0], losses.Squared(), lambda x: x * x / 2,
             {"sampler": None, "dtype": "float32"}),
            ("ratings of 1e-30 in float32", [2.0**-100, -(2.0**-99)], losses.Squared(), lambda x: x * x / 2,
             {"sampler": None, "dtype": "float32"}),
            ("counts from 1e-45 to 1e30", [TINY, 2.0**100, 7.0], losses.Poisson(),
             lambda x: 1 + x * math.log(x) - x, {"sampler": None, "dtype": "float32"}),
        ):  # fmt: skip
            yield _holds(
                f"the loss of {name}, {engine}",
                lambda e=engine, a=values, b=loss, c=each, w=words: _paid(e, a, b, c, **w),
            )
        yield _holds(f"scores that are apart by two millions, {engine}", lambda e=engine: _far_apart(e))
        yield _holds(f"Poisson beyond thirty, {engine}", lambda e=engine: _beyond_thirty(e))
        for rate in (1e-300, 5e-324):
            yield _holds(f"a rate of {rate}, {engine}", lambda e=engine, r=rate: _hardly(e, r))
        yield _holds(f"ηλ = 1, {engine}", lambda e=engine: _held_at_once(e))
        yield _holds(f"ten thousand times one negative, {engine}", lambda e=engine: _negatives(e))
        for T in (2.0**-10, 2.0**20):
            yield _holds(f"a temperature of {T}, {engine}", lambda e=engine, t=T: _tempered(e, t))
        for dtype, v, x in (("float32", 1.0, 2.0**80), ("float64", 2.0**100, 2.0**500), ("float64", 1.0, 2.0**300)):
            yield _GROUP.either(
                f"Adagrad where slopes are {v * x:.0e}, {dtype}, {engine}",
                lambda a=(engine, dtype, v, x): _adagrad(*a),
                lambda found: found == [],
                "diverge|overflow|epoch|finite",
                kind=lfm_np.SolverError,
            )
    yield from _constants()
    yield _holds("two hundred thousand small losses", _many_paid)
    for name, words in (
        ("a rate of 1e300", {"learning_rate": 1e300}),
        ("λ of 1e300", {"regularization": 1e300}),
        ("λ of 1e300 on negatives alone", {"regularization": {"negative": 1e300}}),
        ("a rate of 1e300 by popularity, in float64", {"learning_rate": 1e300, "dtype": "float64",
                                                       "sampler": sampling.Popularity(10.0)}),
    ):  # fmt: skip
        yield _GROUP.refused(
            name,
            lambda w=words: _diverges(**w),
            "epoch|learning_rate|regularization",
            kind=(ValueError, lfm_np.SolverError),
        )
