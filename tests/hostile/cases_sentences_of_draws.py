"""Sentences about samplers, epochs and runs of `sgd`: draws that can be counted, constants, and checks of losses."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import scipy.sparse as sp

from .case import Case, Group
from .cases_sentences_of_steps import FREE, Plain, Signed
from .sentences_by_numpy import canonical, lfm_np, losses, near, sampling
from .working_days import csr, faultless, folder, raised, same, stars, tells, wrong

_GROUP = Group("sentence draws")
_holds = faultless(_GROUP)
_refused = _GROUP.refused


def _counted(X: np.ndarray, sampler: Any, mass: np.ndarray, epochs: int = 1, M: int = 1) -> tuple[np.ndarray, Any]:
    """How often each item was drawn: factors are zero, and every step moves two biases by one."""
    m, n = X.shape
    fit = lfm_np.sgd(
        sp.csr_array(X), losses.MarginHinge(margin=1e6), sampler=sampler, negatives=M, factors=2, epochs=epochs,
        init=(np.zeros((m, 2)), np.zeros((n, 2))), learning_rate=2.0**-10, regularization=0.0, biases="item",
        dtype="float64", random_state=5,
    )  # fmt: skip
    kept = ((X == 0) * mass).sum(1) > 0
    return epochs * M * (X[kept] != 0).sum(0) - fit.item_bias * 2.0**10, fit


def _crowd() -> np.ndarray:
    """3,000 users of six items: popularity falls, nobody has the last one, one user in five has all but two."""
    draw = np.random.default_rng(3)
    X = (draw.random((3000, 6)) < [0.9, 0.5, 0.3, 0.2, 0.1, 0.0]).astype(float)
    X[::5, :4] = 1.0
    X[X.sum(1) == 0, 0] = 1.0
    return X


def _follows(beta: float) -> list[str]:
    X = _crowd()
    mass = X.sum(0) ** beta if beta else np.ones(6)
    found, _ = _counted(X, sampling.Popularity(beta), mass)
    expected, variance = np.zeros(6), np.zeros(6)
    for row in X:
        q = np.where(row == 0, mass, 0.0)
        if q.sum():
            q /= q.sum()
            expected += row.sum() * q
            variance += row.sum() * q * (1 - q)
    away = abs(found - expected) / np.sqrt(np.maximum(variance, 1e-9))
    return wrong(
        whole=near(found, np.round(found), 1e-9), q=bool((away < 5).all()), sum=near(found.sum(), expected.sum())
    )


def _every_cell_once() -> list[str]:
    X = np.ones((6, 3))
    X[:4, 2] = 0.0  # two rows have everything
    found, fit = _counted(X, sampling.Uniform(), np.ones(3), epochs=7, M=3)
    return wrong(drawn=near(found, [0, 0, 4 * 2 * 3 * 7], 1e-9), skipped=fit.params["skipped_rows"] == 2)


def _nothing_popular_left() -> list[str]:
    X = np.array([[1.0, 1, 1, 0], [1, 1, 0, 0], [1, 0, 1, 0]])  # of the first row only what nobody has is left
    words: dict[str, Any] = {"factors": 2, "epochs": 3, "random_state": 0, "biases": "item", "regularization": 0.0}
    fit = lfm_np.sgd(sp.csr_array(X), sampler=sampling.Popularity(1.0), **words)
    even = lfm_np.sgd(sp.csr_array(X), sampler=sampling.Popularity(0.0), **words)
    return wrong(
        skipped=fit.params["skipped_rows"] == 1, never=fit.item_bias[3] == 0 and not fit.item_factors[3].any(),
        even=even.params["skipped_rows"] == 0 and even.item_bias[3] < 0,
    )  # fmt: skip


def _hard() -> list[str]:
    m, n = 400, 40
    X = np.zeros((m, n))
    X[:, 0] = 1.0
    V = np.arange(n, dtype=float)[:, None] / n
    fit = lfm_np.sgd(
        sp.csr_array(X),
        losses.MarginHinge(margin=1e6),
        sampler=sampling.Hard(400),
        factors=1,
        epochs=1,
        init=(np.ones((m, 1)), V),
        learning_rate=2.0**-30,
        regularization=0.0,
        biases="item",
        dtype="float64",
        random_state=1,
    )
    drawn = -fit.item_bias * 2.0**30
    drawn[0] = 0.0
    return wrong(
        all=near(drawn.sum(), m, 1e-6), best=drawn[-1] > 0, few=int((drawn > 0.5).sum()) <= 2 * fit.params["blocks"],
    )  # fmt: skip


def _constant(loss: Any, mu: float, **words: Any) -> list[str]:
    X = np.array([[1.0, 4, 0, 0], [0, 2, 5, 0], [3, 0, 0, 1], [0, 0, 2, 0]])
    fits = [
        lfm_np.sgd(sp.csr_array(X), loss, factors=2, epochs=e, biases=True, dtype="float64", random_state=0, **words)
        for e in (1, 6)
    ]
    return wrong(best=near(fits[0].global_bias, mu, 1e-6), stays=fits[0].global_bias == fits[1].global_bias)


def _begins() -> list[str]:
    X = np.zeros((400, 300))
    draw = np.random.default_rng(2)
    X[np.arange(399), draw.integers(0, 299, 399)] = 1.0
    k = 9
    fit = lfm_np.sgd(
        sp.csr_array(X), factors=k, epochs=1, learning_rate=1e-30, regularization=0.0, dtype="float64", random_state=0
    )
    stored = X.any(0)
    U, V = fit.user_factors[:399], fit.item_factors[stored]
    spread = [(F**2).mean() / (0.01 / k) for F in (U, V)]
    return wrong(
        users=abs(spread[0] - 1) < 6 * 0.9 / math.sqrt(U.size), items=abs(spread[1] - 1) < 6 * 0.9 / math.sqrt(V.size),
        bounded=max((U**2).sum(1).max(), (V**2).sum(1).max()) <= 0.03 * (1 + 1e-12),
        nobody=not abs(fit.user_factors[399]).max() > 1e-25, nothing=not abs(fit.item_factors[~stored]).max() > 1e-25,
    )  # fmt: skip


def _defaults() -> list[str]:
    X = csr(stars())
    fit = lfm_np.sgd(X, random_state=0)
    told = lfm_np.sgd(
        X, losses.BPR(weighted=False), sampler=sampling.Uniform(), negatives=1, factors=64, learning_rate=0.05,
        schedule="constant", regularization=dict.fromkeys(FREE, 0.01), biases=False, epochs=20, tolerance=0.0,
        dtype=np.float32, random_state=0,
    )  # fmt: skip
    return wrong(
        bits=same(fit, told), epochs=[r["iteration"] for r in fit.history] == list(range(1, 21)),
        keys=all(set(r) == {"iteration", "sampled_loss", "seconds"} for r in fit.history), canonical=canonical(fit),
        params={"seed", "blocks", "skipped_rows", "learning_rate", "negatives"} <= set(fit.params or {}),
    )  # fmt: skip


def _same_draws(one: Any, other: Any) -> list[str]:
    X = csr(stars())
    return wrong(bits=same(*(lfm_np.sgd(X, sampler=s, factors=4, epochs=3, random_state=2) for s in (one, other))))


def _any_threads(loss: Any, **words: Any) -> list[str]:
    X = csr(stars(200, 70, share=0.1))
    fits = [
        lfm_np.sgd(X, loss, factors=5, epochs=3, random_state=4, num_threads=t, biases="item", **words)
        for t in (1, 2, 5)
    ]
    return wrong(two=same(fits[0], fits[1]), five=same(fits[0], fits[2]), learnt=bool(fits[0].item_factors.any()))


def _mean_before_each_step() -> list[str]:
    X = stars(9, 7)
    draw = np.random.default_rng(0)
    U, V = draw.normal(size=(9, 2)), draw.normal(size=(7, 2))
    fit = lfm_np.sgd(
        csr(X), losses.Squared(), sampler=None, factors=2, epochs=1, init=(U, V), learning_rate=1e-14, random_state=0,
        regularization=0.5, dtype="float64",
    )  # fmt: skip
    return wrong(paid=near(fit.history[0]["sampled_loss"], np.nanmean((U @ V.T - X) ** 2 / 2), 1e-9))


def _stops_by_tolerance() -> list[str]:
    words: dict[str, Any] = {"factors": 4, "random_state": 1, "dtype": "float64"}
    X = csr(stars())
    paid = [r["sampled_loss"] for r in lfm_np.sgd(X, epochs=12, **words).history]
    falls = [(a - b) / a for a, b in pairwise(paid)]
    limit = sorted(falls)[len(falls) // 2]
    at = next(n for n, fall in enumerate(falls) if fall < limit)
    fit = lfm_np.sgd(X, epochs=12, tolerance=limit, **words)
    return wrong(
        epochs=len(fit.history) == at + 2, status=fit.status is lfm_np.Status.CONVERGED,
        bits=same(fit, lfm_np.sgd(X, epochs=at + 2, **words)),
    )  # fmt: skip


def _diverged() -> list[str]:
    kept: list[Any] = []

    def look(record: dict[str, Any], factors: Any) -> None:
        kept.append((factors.user_factors.copy(), factors.item_factors.copy()))

    X = csr(stars())
    error = raised(
        lambda: lfm_np.sgd(X, losses.Squared(), sampler=None, factors=3, learning_rate=0.9, epochs=200, random_state=0,
                           regularization=0.0, callback=look)
    )  # fmt: skip
    assert isinstance(error, lfm_np.SolverError)
    last = error.factors
    facts = {"epoch": tells(error, "epoch") and tells(error, str(len(kept) + 1))}
    if kept:
        facts["before"] = np.array_equal(last.user_factors, kept[-1][0]) and np.array_equal(
            last.item_factors, kept[-1][1]
        )
    return wrong(**facts)


def _zeros_and_duplicates(loss: Any, values: bool) -> list[str]:
    rows = ([0, 0, 1, 1], [0, 1, 0, 1])
    zero = sp.csr_array(([2.0, 0.0, 1.0, 3.0], rows), shape=(2, 3))
    less = sp.csr_array(([2.0, 1.0, 3.0], ([0, 1, 1], [0, 0, 1])), shape=(2, 3))
    twice = sp.coo_array(([1.0, 1.0, 1.0, 3.0], ([0, 0, 1, 1], [0, 0, 0, 1])), shape=(2, 3))
    words: dict[str, Any] = {"factors": 2, "epochs": 4, "random_state": 0, "sampler": None}
    a, b = (lfm_np.sgd(Z, loss, **words) for Z in (zero, less))
    if values:
        error = raised(lambda: lfm_np.sgd(twice, loss, **words))
        refused = isinstance(error, ValueError) and tells(error, "duplicate|twice|more than once|repeated")
        below = lfm_np.sgd(-zero, loss, **words)
        return wrong(value=not same(a, b), refused=refused, below=bool(np.isfinite(below.user_factors).all()))
    error = raised(lambda: lfm_np.sgd(-zero, loss, **words))
    return wrong(
        absent=same(a, b), summed=same(lfm_np.sgd(twice, loss, **words), b), below=isinstance(error, ValueError)
    )


def _far_away() -> list[str]:
    bpr, logistic, poisson, soft = (
        losses.BPR(),
        losses.Logistic(),
        losses.Poisson(),
        losses.SampledSoftmax(temperature=2.0),
    )
    e30 = math.exp(30.0)
    return wrong(
        bpr=bpr.value(-1000.0) == 1000.0 and bpr.value(1000.0) == 0.0 and bpr.gradient(-1000.0) == -1.0,
        logistic=logistic.value(1000.0, 0.0) == 1000.0 and logistic.value(-1000.0, 1.0) == 1000.0,
        tangent=near(poisson.value(40.0, 2.0), e30 * 11 - 80 + 2 * math.log(2.0) - 2, 1e-12),
        slope=near(poisson.gradient(40.0, 2.0), e30 - 2, 1e-12),
        zero=near(poisson.value(0.5, 0.0), math.exp(0.5), 1e-12),
        soft=near(soft.value(1.0, np.array([3.0, -1.0])), math.log(1 + math.exp(1.0) + math.exp(-1.0)), 1e-12),
        kinks=losses.Hinge().gradient(1.0, 1.0) == losses.MarginHinge(2.0).gradient(2.0) == 0.0,
    )


class Doubled:
    def value(self, difference: float) -> float:
        return difference * difference

    def gradient(self, difference: float) -> float:
        return 4.0 * difference


class Exploding:
    def value(self, score: float, target: float) -> float:
        return math.exp(score) - target * score

    def gradient(self, score: float, target: float) -> float:
        return math.exp(score) - target


class Unequal:
    def value(self, score: float, target: float) -> float:
        return score * target

    def gradient(self, difference: float) -> float:
        return difference


class Nameless:
    def value(self, prediction: float) -> float:
        return prediction

    def gradient(self, prediction: float) -> float:
        return 1.0


class Half:
    def value(self, difference: float) -> float:
        return max(0.0, 1.0 - difference)


def _resumed_with_sums() -> list[str]:
    words: dict[str, Any] = {"factors": 3, "schedule": "adagrad", "biases": True, "random_state": 3}
    X = csr(stars())
    with folder() as place:
        lfm_np.sgd(X, losses.Logistic(), epochs=2, checkpoint=place / "c", **words)
        fit = lfm_np.sgd(X, losses.Logistic(), epochs=5, checkpoint=place / "c", **words)
        error = raised(lambda: lfm_np.sgd(X, losses.Logistic(True), epochs=6, checkpoint=place / "c", **words))
    whole = lfm_np.sgd(X, losses.Logistic(), epochs=5, **words)
    paid = [[r["sampled_loss"] for r in f.history] for f in (fit, whole)]
    return wrong(bits=same(fit, whole), history=paid[0] == paid[1], loss=tells(error, "loss|weighted"))


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    refused = _GROUP.refused
    for beta in (0.0, 0.75, 1.0, 2.0):
        yield _holds(f"Popularity({beta}) draws by the counts to that power", lambda b=beta: _follows(b))
    yield _holds("every epoch visits every stored cell once", _every_cell_once)
    yield _holds("a row that leaves only what nobody has is skipped and counted", _nothing_popular_left)
    yield _holds("Hard takes the best of its candidates", _hard)
    for name, loss, mu, words in (
        ("Squared", losses.Squared(), 18 / 7, {"sampler": None}),
        ("Logistic with three negatives", losses.Logistic(), -math.log(3), {"negatives": 3}),
        ("Logistic weighted", losses.Logistic(True), math.log(18 / 14), {"negatives": 2}),
        ("Poisson", losses.Poisson(), math.log(18 / 7), {"sampler": None}),
        ("Poisson with a negative", losses.Poisson(), math.log(18 / 14), {"negatives": 1}),
        ("Squared with two negatives", losses.Squared(), 18 / 21, {"negatives": 2}),
    ):
        yield _holds(
            f"μ is the constant that fits best by itself: {name}", lambda a=loss, b=mu, w=words: _constant(a, b, **w)
        )
    yield _holds("rows begin uniform, and zero where nothing brings them in", _begins)
    yield _holds("sgd without a word, and every default said", _defaults)
    yield _holds("β = 0 is Uniform", lambda: _same_draws(sampling.Popularity(0.0), sampling.Uniform()))
    yield _holds("one candidate is Uniform", lambda: _same_draws(sampling.Hard(1), sampling.Uniform()))
    yield _holds(
        "any number of threads, a list loss by popularity",
        lambda: _any_threads(losses.SampledSoftmax(), sampler=sampling.Popularity(0.5), negatives=5),
    )
    yield _holds("any number of threads, WARP with Adagrad", lambda: _any_threads(losses.WARP(), schedule="adagrad"))
    yield _holds("sampled_loss is the mean over the stored cells", _mean_before_each_step)
    yield _holds("stop when the loss falls by less than this share", _stops_by_tolerance)
    yield _holds("diverged: the epoch, and the factors of the one before", _diverged)
    for name, loss, values in (
        ("Squared", losses.Squared(), True),
        ("a loss of one's own", Plain(), True),
        ("Poisson", losses.Poisson(), False),
        ("a loss with targets", Signed(), False),
    ):
        yield _holds(
            f"what a zero, a negative value and a duplicate is: {name}",
            lambda a=loss, b=values: _zeros_and_duplicates(a, b),
        )
    yield _holds("stable for scores of ±1000", _far_away)
    yield _holds("Adagrad's sums and biases are in a checkpoint", _resumed_with_sums)
    for name, loss, said in (
        ("twice the slope", Doubled(), "gradient"),
        ("infinite at 1000", Exploding(), "finite|overflow|inf"),
        ("two kinds at once", Unequal(), "gradient|parameters"),
        ("an unknown parameter", Nameless(), "prediction|parameters"),
        ("no gradient", Half(), "gradient"),
    ):
        yield refused(f"check finds {name}", partial(losses.check, loss), said)
