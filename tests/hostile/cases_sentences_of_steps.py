"""Sentences about `sgd`, its losses and its samplers: steps that can be foretold, and draws that can be counted."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp

from .case import Case, Group
from .sentences_by_numpy import lfm_np, losses, near, sampling, sigmoid
from .working_days import faultless, wrong

_GROUP = Group("sentence steps")
_holds = faultless(_GROUP)
ETA = 0.125
U0 = np.array([[0.4, -0.3, 0.5]])
V0 = np.array([[0.2, 0.6, -0.1], [0.7, 0.1, 0.3]])
S0 = float(U0[0] @ V0[0])
S1 = float(U0[0] @ V0[1])
FREE = {"user": 0.0, "item": 0.0, "negative": 0.0, "bias": 0.0}


def _gram(U: Any, V: Any) -> np.ndarray:
    """What a turn of the factors leaves as it is."""
    F = np.vstack([U, V]).astype(np.float64)
    return F @ F.T


def _forced(loss: Any, value: float = 1.0, start: Any = (U0, V0), **words: Any) -> Any:
    """One user who has item 0, so that item 1 is the only negative."""
    X = sp.csr_array(([value], ([0], [0])), shape=(1, 2))
    given = {"factors": 3, "epochs": 1, "learning_rate": ETA, "regularization": 0.0, "dtype": "float64", **words}
    return lfm_np.sgd(X, loss, init=start, random_state=0, **given)


def _moved(by_positive: float, by_negative: float, parts: Any = FREE, times: int = 1, eta: Any = ETA) -> np.ndarray:
    """The Gram matrix after a step along these slopes, the rows held by ``parts``, the negative ``times`` over."""
    u, (v, w) = U0[0], V0
    du = by_positive * v + by_negative * w + parts["user"] * u
    dv = by_positive * u + parts["item"] * v
    dw = by_negative * u + times * parts["negative"] * w
    return _gram(u - eta * du, [v - eta * dv, w - eta * dw])


def _step(loss: Any, slopes: tuple[float, float], paid: float, value: float = 1.0, **words: Any) -> list[str]:
    fit = _forced(loss, value, **words)
    return wrong(
        moved=near(_gram(fit.user_factors, fit.item_factors), _moved(*slopes), 1e-12),
        paid=near(fit.history[0]["sampled_loss"], paid, 1e-12),
    )


def _softplus(x: float) -> float:
    return math.log1p(math.exp(x))


def _held(parts: dict[str, float], M: int) -> list[str]:
    """All slopes are those before the step; a negative that is drawn M times is held M times, one after another."""
    parts, g, (v, w) = {**FREE, **parts}, -sigmoid(-(S0 - S1)), V0
    u = U0[0] - ETA * (M * g * (v - w) + parts["user"] * U0[0])
    v = v - ETA * (M * g * U0[0] + parts["item"] * v)
    for _ in range(M):
        w = w - ETA * (-g * U0[0] + parts["negative"] * w)
    fit = _forced(losses.BPR(), negatives=M, regularization=parts)
    return wrong(moved=near(_gram(fit.user_factors, fit.item_factors), _gram(u, [v, w]), 1e-12))


def _alone_or_held(loss: Any, shrinks: bool) -> list[str]:
    """The pair is apart by the margin."""
    fit = _forced(loss, regularization=0.5)
    keep = (1 - ETA * 0.5) ** 2 if shrinks else 1.0
    return wrong(
        factors=near(_gram(fit.user_factors, fit.item_factors), keep * _gram(U0, V0), 1e-12),
        paid=fit.history[0]["sampled_loss"] == 0.0,
    )


def _scheduled(schedule: str) -> list[str]:
    u, (v, w) = U0[0].copy(), V0.copy()
    sums = np.zeros(3)
    for epoch in range(3):
        g = -sigmoid(-(u @ v - u @ w))
        slopes = [g * (v - w), g * u, -g * u]
        if schedule == "adagrad":
            sums += [float((s**2).mean()) for s in slopes]
            rates = ETA / np.sqrt(1 + sums)
        else:
            rates = np.full(3, ETA / (1 + epoch / 10))
        u, v, w = (f - rate * s for f, rate, s in zip((u, v, w), rates, slopes, strict=True))
    fit = _forced(losses.BPR(), epochs=3, schedule=schedule)
    return wrong(moved=near(_gram(fit.user_factors, fit.item_factors), _gram(u, [v, w]), 1e-12))


def _one_rating(biases: bool) -> list[str]:
    u, v, x, lam = U0[0], V0[0], -2.5, {"user": 0.1, "item": 0.2, "bias": 0.3}
    b, d, mu = 0.25, -0.5, x
    start = lfm_np.Factors(U0, V0[:1], user_bias=np.array([b]), item_bias=np.array([d]), global_bias=0.0)
    words: dict[str, Any] = {"biases": True, "init": start} if biases else {"init": (U0, V0[:1])}
    fit = lfm_np.sgd(
        sp.csr_array([[x]]), losses.Squared(), sampler=None, factors=3, epochs=1, learning_rate=ETA, regularization=lam,
        dtype="float64", random_state=0, **words,
    )  # fmt: skip
    if not biases:
        b = d = mu = 0.0
    e = mu + b + d + float(u @ v) - x
    moved = _gram(u - ETA * (e * v + 0.1 * u), v - ETA * (e * u + 0.2 * v))
    facts = {"moved": near(_gram(fit.user_factors, fit.item_factors), moved, 1e-12)}
    if biases:
        found = [fit.user_bias[0], fit.item_bias[0]]
        facts["biases"] = near(found, [b - ETA * (e + 0.3 * b), d - ETA * (e + 0.3 * d)], 1e-12)
    return wrong(**facts, paid=near(fit.history[0]["sampled_loss"], e**2 / 2, 1e-12))


def _item_biases() -> list[str]:
    d = np.array([0.3, -0.2])
    g = -sigmoid(-(S0 + d[0] - S1 - d[1]))
    fit = _forced(losses.BPR(), start=lfm_np.Factors(U0, V0, item_bias=d), biases="item", regularization=0.4)
    parts = dict.fromkeys(FREE, 0.4)
    return wrong(
        biases=near(fit.item_bias, [d[0] - ETA * (g + 0.4 * d[0]), d[1] - ETA * (-g + 0.4 * d[1])], 1e-12),
        none=fit.user_bias is None and fit.global_bias is None,
        moved=near(_gram(fit.user_factors, fit.item_factors), _moved(g, -g, parts), 1e-12),
    )


def _on_the_sphere() -> list[str]:
    u, v, w = (f / np.linalg.norm(f) for f in (U0[0], *V0))
    loss, s, t = losses.CosineContrastive(margin=0.1, weight=2.0), float(u @ v), float(u @ w)
    assert t > 0.1
    du = -(v - s * u) + 2.0 * (w - t * u)
    rows = [u - ETA * du, v + ETA * (u - s * v), w - ETA * 2.0 * (u - t * w)]
    mine = np.array([row / np.linalg.norm(row) for row in rows])
    fit = _forced(loss, start=(u[None], np.array([v, w])))
    return wrong(
        length=near((np.vstack([fit.user_factors, fit.item_factors]) ** 2).sum(1), np.ones(3), 1e-12),
        cosines=near(_gram(fit.user_factors, fit.item_factors), mine @ mine.T, 1e-10),
        paid=near(fit.history[0]["sampled_loss"], 1 - s + 2.0 * (t - 0.1), 1e-12),
    )


class SoftHinge(NamedTuple):
    margin: float = 1.0

    def value(self, difference: float) -> float:
        gap = max(0.0, self.margin - difference)
        return math.sqrt(1.0 + gap * gap) - 1.0

    def gradient(self, difference: float) -> float:
        gap = max(0.0, self.margin - difference)
        return -gap / math.sqrt(1.0 + gap * gap)


class Signed:
    targets = (1.0, -1.0)

    def value(self, score: float, target: float) -> float:
        return (score - target) ** 2

    def gradient(self, score: float, target: float) -> float:
        return 2.0 * (score - target)


class Plain(NamedTuple):
    def value(self, score: float, target: float) -> float:
        return (score - target) ** 2

    def gradient(self, score: float, target: float) -> float:
        return 2.0 * (score - target)


def _warp() -> list[str]:
    """Item 1 is far below item 0, item 2 above it: the rank is 2 of one trial, 1 of two, and 0 of more."""
    u, V = np.array([1.0, 0.5]), np.array([[0.3, 0.2], [-3.0, -1.0], [0.5, 0.4]])
    s, t = float(u @ V[0]), float(u @ V[2])
    mine = []
    for rank in (2, 1, 0):
        g = -math.log(1 + rank) * ETA
        mine.append(
            (_gram(u - g * (V[0] - V[2]), [V[0] - g * u, V[1], V[2] + g * u]), math.log(1 + rank) * (1 - s + t))
        )
    kinds = set()
    for seed in range(12):
        fit = lfm_np.sgd(
            sp.csr_array([[1.0, 0, 0]]), losses.WARP(), factors=2, epochs=1, init=(u[None], V), learning_rate=ETA,
            regularization=0.0, dtype="float64", random_state=seed,
        )  # fmt: skip
        G, paid = _gram(fit.user_factors, fit.item_factors), fit.history[0]["sampled_loss"]
        kinds.add(next((n for n, (H, p) in enumerate(mine) if near(G, H, 1e-12) and near(paid, p, 1e-12)), -1))
    return wrong(known=-1 not in kinds, first=0 in kinds, several=len(kinds) > 1)


def _all_but_one() -> list[str]:
    """Of four items three are stored: the steps come in one of six orders, the rank is 3 every time."""
    from itertools import permutations

    draw = np.random.default_rng(0)
    start = draw.normal(0, 0.3, (1, 2)), draw.normal(0, 0.3, (4, 2))
    fit = lfm_np.sgd(
        sp.csr_array([[1.0, 1, 1, 0]]), losses.WARP(margin=2.0), factors=2, epochs=1, init=start, learning_rate=ETA,
        regularization=0.0, dtype="float64", random_state=0,
    )  # fmt: skip
    found = []
    for order in permutations(range(3)):
        u, V = start[0][0].copy(), start[1].copy()
        for i in order:
            g = -math.log(4) * ETA if u @ V[i] - u @ V[3] < 2.0 else 0.0
            u, V[i], V[3] = u - g * (V[i] - V[3]), V[i] - g * u, V[3] + g * u
        found.append(near(_gram(fit.user_factors, fit.item_factors), _gram(u, V), 1e-12))
    return wrong(one=any(found), some=len(found) == 6)


def _softmax_by_q() -> list[str]:
    """Two free items of one score, so that a uniform draw of either pays log(eˢ + 2eᵗ) - s."""
    u, V = np.array([[0.7]]), np.array([[0.5], [1.1], [1.1]])
    s, t = 0.35, 0.77
    paid = {}
    for name, loss in (("with", losses.SampledSoftmax()), ("without", losses.SampledSoftmax(correct_logq=False))):
        fit = lfm_np.sgd(
            sp.csr_array([[1.0, 0, 0]]), loss, negatives=4, factors=1, epochs=1, init=(u, V), learning_rate=1e-9,
            dtype="float64", random_state=0,
        )  # fmt: skip
        paid[name] = fit.history[0]["sampled_loss"]
    return wrong(
        corrected=near(paid["with"], math.log(math.exp(s) + 2 * math.exp(t)) - s, 1e-12),
        plain=near(paid["without"], math.log(math.exp(s) + 4 * math.exp(t)) - s, 1e-12),
    )


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    d = S0 - S1
    g = -sigmoid(-d)
    p0, p1 = sigmoid(S0), sigmoid(S1)
    for name, loss, slopes, paid, words in (
        ("BPR", losses.BPR(), (g, -g), _softplus(-d), {}),
        ("the value multiplies the loss of BPR", losses.BPR(True), (3 * g, -3 * g), 3 * _softplus(-d), {"value": 3.0}),
        ("values do not count without weighted", losses.BPR(), (g, -g), _softplus(-d), {"value": 3.0}),
        ("negatives add up", losses.BPR(), (4 * g, -4 * g), 4 * _softplus(-d), {"negatives": 4}),
        (
            "weighted is of the stored cell only in Logistic",
            losses.Logistic(True),
            (5 * (p0 - 1), 2 * p1),
            5 * _softplus(-S0) + 2 * _softplus(S1),
            {"value": 5.0, "negatives": 2},
        ),
        ("Hinge has y of ±1", losses.Hinge(), (-1.0, 3.0), 1 - S0 + 3 * (1 + S1), {"negatives": 3}),
        (
            "Squared has a negative's target of 0",
            losses.Squared(),
            (S0 - 4, S1),
            (S0 - 4) ** 2 / 2 + S1**2 / 2,
            {"value": 4.0},
        ),
        (
            "Poisson",
            losses.Poisson(),
            (math.exp(S0) - 2, math.exp(S1)),
            math.exp(S0) - 2 * S0 + 2 * math.log(2) - 2 + math.exp(S1),
            {"value": 2.0},
        ),
        ("SampledSoftmax takes log(M·q) off", losses.SampledSoftmax(), (g, -g), _softplus(-d), {"negatives": 3}),
        (
            "SampledSoftmax uncorrected, by a temperature",
            losses.SampledSoftmax(0.5, False),
            (-2 * sigmoid(math.log(2) - 2 * d), 2 * sigmoid(math.log(2) - 2 * d)),
            _softplus(math.log(2) - 2 * d),
            {"negatives": 2},
        ),
        (
            "scores are divided by the temperature, log(M·q) is not",
            losses.SampledSoftmax(2.0),
            (-sigmoid(-d / 2) / 2, sigmoid(-d / 2) / 2),
            _softplus(-d / 2),
            {"negatives": 4},
        ),
        ("WARP of two items has rank 1", losses.WARP(2.0), (-math.log(2), math.log(2)), math.log(2) * (2 - d), {}),
        (
            "a loss of one's own, of differences",
            SoftHinge(2.0),
            (SoftHinge(2.0).gradient(d), -SoftHinge(2.0).gradient(d)),
            SoftHinge(2.0).value(d),
            {},
        ),
        (
            "a loss of one's own with targets",
            Signed(),
            (2 * (S0 - 1), 2 * (S1 + 1)),
            (S0 - 1) ** 2 + (S1 + 1) ** 2,
            {"value": 7.0},
        ),
        (
            "a loss of one's own whose target is the value",
            Plain(),
            (2 * (S0 + 7), 2 * S1),
            (S0 + 7) ** 2 + S1**2,
            {"value": -7.0},
        ),
    ):
        yield _holds(name, lambda a=loss, b=slopes, c=paid, w=words: _step(a, b, c, **w))
    yield _holds("λ of the rows in a step, parts left out are 0", lambda: _held({"item": 0.6, "negative": 0.3}, 1))
    yield _holds("regularising the negatives acts M times a step", lambda: _held({"user": 0.2, "negative": 0.3}, 3))
    yield _holds("no violation, no update", lambda: _alone_or_held(losses.WARP(margin=-5.0), False))
    yield _holds("a pair apart is left alone but for λ", lambda: _alone_or_held(losses.MarginHinge(margin=-5.0), True))
    for schedule in ("inverse", "adagrad"):
        yield _holds(f"the rate of an epoch: {schedule}", lambda s=schedule: _scheduled(s))
    yield _holds("a rating without biases", lambda: _one_rating(False))
    yield _holds("a rating with biases that were there", lambda: _one_rating(True))
    yield _holds("biases of items only, held by the one λ", _item_biases)
    yield _holds("scores are cosines, and factors come back with length one", _on_the_sphere)
    yield _holds("the rank is ⌊(n - 1)/t⌋ of the t-th trial", _warp)
    yield _holds("WARP of rank 3, in one of six orders", _all_but_one)
    yield _holds("q is uniform over what is not stored", _softmax_by_q)
    refused = _GROUP.refused
    yield _GROUP.right(
        "check is silent where a loss is sound", lambda: losses.check(SoftHinge(0.5)), lambda found: found is None
    )
    yield refused("a pairwise loss without a sampler", lambda: _forced(losses.BPR(), sampler=None), "sampler")
    yield refused(
        "a part of λ that is none", lambda: _forced(losses.BPR(), regularization={"users": 0.1}), "regularization"
    )
    yield refused("β below 0", lambda: _forced(losses.BPR(), sampler=sampling.Popularity(-0.1)), "beta")
    yield refused("no candidates", lambda: _forced(losses.BPR(), sampler=sampling.Hard(0)), "candidates")
