"""Payments that no draw can change, and draws that biases count."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp

import lfm_np
from lfm_np import losses, sampling

from .case import Case, Group
from .cases_mathematicians_on_sweeps import each, sides
from .working_days import close, faultless, same, wrong

_GROUP = Group("mathematicians")
_holds = faultless(_GROUP)
STEP = 2.0**-7


def _softplus(s: float) -> float:
    return max(s, 0.0) + math.log1p(math.exp(-abs(s)))


class Pull(NamedTuple):
    """Every step moves the bias of the stored item by η, and that of the drawn one back."""

    def value(self, difference: float) -> float:
        return -difference

    def gradient(self, difference: float) -> float:
        return -1.0


class Push:
    """The same, one cell at a time."""

    targets = (-1.0, 1.0)

    def value(self, score: float, target: float) -> float:
        return score * target

    def gradient(self, score: float, target: float) -> float:
        return target


class Total(NamedTuple):
    """What the negatives' scores are when they arrive."""

    temperature: float = 3.0
    correct_logq: bool = True

    def value(self, positive: float, negatives: Any) -> float:
        total = 0.0
        for score in negatives:
            total += score - positive
        return total

    def gradient(self, positive: float, negatives: Any) -> tuple[float, Any]:
        return -float(len(negatives)), np.ones(len(negatives))


class Gaps(NamedTuple):
    temperature: float = 3.0
    weighted: bool = True
    correct_logq: bool = True

    def value(self, positive: float, negatives: Any) -> float:
        total = 0.0
        for score in negatives:
            total += (score - positive) ** 2
        return total

    def gradient(self, positive: float, negatives: Any) -> tuple[float, Any]:
        slopes = 2.0 * (negatives - positive)
        return -slopes.sum(), slopes


class Square(NamedTuple):
    """A square hinge that looks for a negative as WARP does."""

    trials: int = 4
    margin: float = 2.0

    def value(self, difference: float) -> float:
        return max(0.0, self.margin - difference) ** 2

    def gradient(self, difference: float) -> float:
        return -2.0 * max(0.0, self.margin - difference)


def _near(a: float, b: float, tolerance: float = 1e-9) -> bool:
    return abs(float(a) - b) <= tolerance * max(1.0, abs(b))


# Of 9 users and 7 items: user 0 has everything, user 1 nothing, item 6 is only user 0's.
CELLS = np.array(
    [
        [1, 1, 1, 1, 1, 1, 1],
        [0, 0, 0, 0, 0, 0, 0],
        [1, 0, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0, 0],
        [1, 0, 1, 1, 1, 1, 0],
        [1, 0, 0, 1, 0, 0, 0],
        [1, 1, 1, 0, 0, 0, 0],
        [1, 0, 0, 0, 0, 1, 0],
        [1, 1, 0, 1, 1, 0, 0],
    ],
    dtype=bool,
)
X = np.where(CELLS, 0.5 + np.arange(63).reshape(9, 7) % 5, 0.0)


def _zero_start(loss: Any, paid: Callable[[float, int], float], **words: Any) -> list[str]:
    """All scores are 0 and stay so: ``paid`` of a stored value and the number of free items, 0 for a full row."""
    zeros = np.zeros((9, 3)), np.zeros((7, 3))
    fit: Any = lfm_np.sgd(
        sp.csr_array(X), loss, factors=3, epochs=2, init=zeros, dtype="float64", random_state=0, **words
    )
    free = (~CELLS).sum(1)
    mean = sum(paid(float(X[u, i]), int(free[u])) for u, i in np.argwhere(CELLS) if free[u]) / CELLS.sum()
    return wrong(
        first=_near(fit.history[0]["sampled_loss"], mean, 1e-12),
        second=_near(fit.history[1]["sampled_loss"], mean, 1e-12),
        zero=not fit.user_factors.any() and not fit.item_factors.any(),
        skipped=fit.params["skipped_rows"] == 1,
    )


def _q(sampler: Any) -> np.ndarray:
    """The probability of every item for every row, 0 where nothing can be drawn."""
    beta = getattr(sampler, "beta", 0.0)
    mass = CELLS.sum(0).astype(float) ** beta
    q = np.where(CELLS, 0.0, mass)
    total = q.sum(1, keepdims=True)
    return q / np.where(total > 0, total, 1.0)


def _counted(sampler: Any, M: int = 1, loss: Any = None, weight: float = 1.0, epochs: int = 120) -> list[str]:
    """Biases from 0, in steps of η, say how often each item was drawn."""
    zeros = np.zeros((9, 2)), np.zeros((7, 2))
    fit: Any = lfm_np.sgd(
        sp.csr_array(X), Pull() if loss is None else loss, sampler=sampler, negatives=M, factors=2, epochs=epochs,
        init=zeros, learning_rate=STEP, regularization=0.0, biases="item", dtype="float64", random_state=11,
    )  # fmt: skip
    q = _q(sampler)
    can = q.sum(1) > 0
    each = 1 if isinstance(loss, Push) else M  # a pointwise step moves the stored item once
    stored = epochs * each * CELLS[can].sum(0)
    draws = stored - fit.item_bias / (STEP * weight)
    whole = np.round(draws)
    times = epochs * M * (CELLS.sum(1) * can)[:, None]
    mean, variance = (times * q).sum(0), (times * q * (1 - q)).sum(0) * M
    return wrong(
        whole=bool((abs(draws - whole) < 1e-6).all()),
        all=whole.sum() == times.sum(),
        never=bool((whole[mean == 0] == 0).all()),
        shares=bool((abs(whole - mean) <= 5 * np.sqrt(variance) + 1e-9).all()),
        skipped=fit.params["skipped_rows"] == int((CELLS.any(1) & ~can).sum()),
    )


def _balanced(loss: Any, sampler: Any, M: int) -> list[str]:
    """Without λ what the biases of the stored items gain, those of the drawn ones lose, for any number of threads."""
    draw = np.random.default_rng(3)
    cells = draw.random((120, 40)) < 0.15
    values = sp.csr_array(np.where(cells, draw.uniform(0.5, 2, cells.shape), 0.0))
    d = draw.normal(size=40)
    start = lfm_np.Factors(draw.normal(0, 0.3, (120, 5)), draw.normal(0, 0.3, (40, 5)), item_bias=d)
    fits: list[Any] = [
        lfm_np.sgd(
            values, loss, sampler=sampler, negatives=M, factors=5, epochs=3, init=start, learning_rate=0.02,
            regularization=0.0, biases="item", schedule="inverse", dtype="float64", random_state=2, num_threads=threads,
        )
        for threads in (1, 3)
    ]  # fmt: skip
    moved = fits[0].item_bias - d
    return wrong(
        bits=same(*fits), sum=abs(moved.sum()) < 1e-10 * abs(moved).sum(), moved=bool((abs(moved) > 0).sum() > 20)
    )


def _known_q() -> list[str]:
    """User 0's free items have q of ¼ and ¾ and scores of their logarithms, so that either pays the same."""
    cells = np.array([[1, 0, 0], [1, 0, 1], [1, 0, 1], [1, 1, 1]])
    d = np.array([0.3, math.log(0.25), math.log(0.75)])
    start = lfm_np.Factors(np.zeros((4, 2)), np.zeros((3, 2)), item_bias=d)
    paid = {}
    for M in (1, 5):
        fit = lfm_np.sgd(
            sp.csr_array(cells * 1.0), losses.SampledSoftmax(), sampler=sampling.Popularity(1.0), negatives=M,
            factors=2, epochs=1, init=start, learning_rate=1e-13, regularization=0.0, biases="item", dtype="float64",
        )  # fmt: skip
        forced = [_softplus(d[1] - d[0]), _softplus(d[1] - d[2])]
        paid[f"M = {M}"] = _near(fit.history[0]["sampled_loss"], (_softplus(-d[0]) + 2 * sum(forced)) / 8, 1e-11)
    return wrong(**paid)


def _forced(
    loss: Any, M: int, slopes: tuple[float, float], paid: float, value: float = 1.0, eta: float = 0.01
) -> list[str]:
    """One user with item 0 of two; ``slopes`` by the scores of items 0 and 1."""
    U, V = np.array([[0.4, -0.3, 0.5]]), np.array([[0.2, 0.6, -0.1], [0.7, 0.1, 0.3]])
    fit: Any = lfm_np.sgd(
        sp.csr_array([[value, 0.0]]), loss, negatives=M, factors=3, epochs=1, init=(U, V), learning_rate=eta,
        regularization=0.0, dtype="float64", random_state=0,
    )  # fmt: skip
    g, h = slopes
    mine = np.vstack([U - eta * (g * V[:1] + h * V[1:]), V[:1] - eta * g * U, V[1:] - eta * h * U])
    found = np.vstack(sides(fit)[:2])
    return wrong(
        moved=close(found @ found.T, mine @ mine.T, 1e-12), paid=_near(fit.history[0]["sampled_loss"], paid, 1e-12)
    )


S0, S1 = 0.08 - 0.18 - 0.05, 0.28 - 0.03 + 0.15  # the scores of `_forced`


def _cosines() -> list[str]:
    """Factors of length one, or zero without a cell; the mean of a loss of cosines is within its bounds."""
    draw = np.random.default_rng(8)
    cells = draw.random((40, 25)) < 0.2
    cells[np.arange(40), np.arange(40) % 25] = True
    cells[7], cells[:, 3], cells[[3, 28], 0] = False, False, True
    fit: Any = lfm_np.sgd(
        sp.csr_array(cells * 1.0), losses.CosineContrastive(margin=-0.5, weight=3.0), negatives=6, factors=4, epochs=5,
        dtype="float64", random_state=0, sampler=sampling.Popularity(1.0),
    )  # fmt: skip
    users, items = (np.sqrt((F**2).sum(1)) for F in (fit.user_factors, fit.item_factors))
    paid = [r["sampled_loss"] for r in fit.history]
    return wrong(
        users=close(np.delete(users, 7), np.ones(39), 1e-12) and users[7] == 0,
        items=close(np.delete(items, 3), np.ones(24), 1e-12) and items[3] == 0,
        bounds=all(0 <= value <= 2 + 3 * 1.5 for value in paid),
        learns=paid[-1] < paid[0],
    )


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    log2 = math.log(2)
    payments: tuple[tuple[str, Any, Any, dict[str, Any]], ...] = (
        ("BPR, weighted, of four", losses.BPR(True), lambda x, f: 4 * x * log2, {"negatives": 4}),
        ("softmax", losses.SampledSoftmax(), lambda x, f: math.log1p(f), {"negatives": 3}),
        (
            "softmax, weighted, tempered",
            losses.SampledSoftmax(0.5, True, True),
            lambda x, f: x * math.log1p(f),
            {"negatives": 2},
        ),
        ("softmax, uncorrected", losses.SampledSoftmax(2.0, False), lambda x, f: math.log(6), {"negatives": 5}),
        ("logistic, weighted", losses.Logistic(True), lambda x, f: (x + 2) * log2, {"negatives": 2}),
        ("hinge, weighted", losses.Hinge(True), lambda x, f: x + 3, {"negatives": 3, "sampler": sampling.Hard(3)}),
        ("margins", losses.MarginHinge(2.5), lambda x, f: 10.0, {"negatives": 4, "sampler": sampling.Hard(8)}),
        ("ranks of the first trial", losses.WARP(3.0), lambda x, f: 3 * math.log(7), {}),
        ("ranks, weighted", losses.WARP(0.5, 1, True), lambda x, f: 0.5 * x * math.log(7), {}),
        ("ratings and zeros", losses.Squared(), lambda x, f: x * x / 2, {"negatives": 2}),
        ("counts", losses.Poisson(), lambda x, f: 1 + x * math.log(x) - x + 2, {"negatives": 2}),
        ("a list's own correction", Total(), lambda x, f: -4 * 3 * math.log(4 / f), {"negatives": 4}),
    )
    for name, kinds in (
        ("negatives add up", (payments[0], payments[4], payments[5], payments[6])),
        ("the softmax", payments[1:4]),
        ("ranks", payments[7:9]),
        ("ratings and counts", payments[9:11]),
        ("a list's own correction", payments[11:]),
    ):
        yield _holds(f"all scores are 0: {name}", each("row", kinds, lambda row: _zero_start(row[1], row[2], **row[3])))
    counts: tuple[tuple[str, Any, int, Any, float], ...] = (
        ("uniform", sampling.Uniform(), 1, None, 1.0),
        ("uniform, three", sampling.Uniform(), 3, None, 1.0),
        ("uniform, pointwise, three", sampling.Uniform(), 3, Push(), 1.0),
        ("the best of one", sampling.Hard(1), 1, None, 1.0),
        ("popularity, β = 0", sampling.Popularity(0.0), 1, None, 1.0),
        ("popularity, β = 0.5", sampling.Popularity(0.5), 1, None, 1.0),
        ("popularity, β = 1, two", sampling.Popularity(1.0), 2, None, 1.0),
        ("popularity, β = 3", sampling.Popularity(3.0), 1, None, 1.0),
        ("the first trial of WARP", sampling.Uniform(), 1, losses.WARP(60.0, 9), math.log(7)),
        ("the first trial of WARP, by popularity", sampling.Popularity(), 1, losses.WARP(60.0, 1), math.log(7)),
    )
    for name, draws in (
        ("three ways to be uniform", (counts[0], counts[3], counts[4])),
        ("several a step", (counts[1], counts[2])),
        ("popularity", counts[5:8]),
        ("the first trial of WARP", counts[8:]),
    ):
        yield _holds(f"draws counted by biases: {name}", each("row", draws, lambda row: _counted(*row[1:])))
    balances: tuple[tuple[str, Any, Any, int], ...] = (
        ("BPR", losses.BPR(True), sampling.Popularity(0.5), 2),
        ("softmax", losses.SampledSoftmax(0.7, True, True), sampling.Hard(4), 5),
        ("WARP", losses.WARP(0.5, 7), sampling.Uniform(), 1),
    )
    for name, loss, sampler, M in balances:
        yield _holds(f"biases of items balance: {name}", lambda a=loss, s=sampler, m=M: _balanced(a, s, m))
    yield _holds("q of popularity in the softmax", _known_q)
    n = S1 - 3 * math.log(4)
    yield _holds(
        "a list of one's own, tempered, weighted, corrected",
        lambda: _forced(Gaps(), 4, (-2.5 * 8 * (n - S0), 2.5 * 8 * (n - S0)), 2.5 * 4 * (n - S0) ** 2, 2.5),
    )
    gap = 2 - (S0 - S1)
    yield _holds(
        "trials of one's own",
        lambda: _forced(Square(), 1, (-2 * gap * math.log(2), 2 * gap * math.log(2)), gap**2 * math.log(2)),
    )
    yield _holds("cosines have length one", _cosines)
