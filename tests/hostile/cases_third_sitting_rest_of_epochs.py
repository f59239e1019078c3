"""The third sitting, the rest: whole runs of sgd that arithmetic foretells, in whatever order the steps are taken."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import scipy.sparse as sp

import lfm_np as library

from .case import Case, Group, installed
from .working_days import close, faultless, folder, wrong

lfm_np: Any = library
losses, sampling = lfm_np.losses, lfm_np.sampling
_holds = faultless(Group("third sitting, the rest"))
FREE = {"regularization": 0.0, "dtype": "float64"}


def sides() -> list[tuple[str, Callable[..., Any]]]:
    found = [("numba", lfm_np.sgd)]
    if installed("torch"):
        found.append(("torch", lambda X, loss, **words: lfm_np.torch_backend.sgd(X, loss, num_threads=1, **words)))
    return found


def some(m: int, n: int, seed: int, share: float = 0.3) -> np.ndarray:
    """Whole values of 1 to 5, 0 where there is none; no row and no column is empty, and no row is full."""
    draw = np.random.default_rng(seed)
    X = np.where(draw.random((m, n)) < share, draw.integers(1, 6, (m, n)), 0)
    X[np.arange(max(m, n)) % m, np.arange(max(m, n)) % n] = 2
    X[np.arange(m), (np.arange(m) + 1) % n] = 0
    return X


def all_but_one(m: int, n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Every user has all items but one, which is the only negative; and which one that is."""
    draw = np.random.default_rng(seed)
    lacks = draw.integers(0, n, m)
    X = draw.integers(1, 6, (m, n))
    X[np.arange(m), lacks] = 0
    return X, lacks


def still(m: int, n: int, k: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Factors of 0, whose slopes are 0: what moves are the biases."""
    return np.zeros((m, k)), np.zeros((n, k))


def biases_of(fit: Callable[..., Any], X: np.ndarray, loss: Any, start: Any = None, **words: Any) -> np.ndarray:
    start = still(*X.shape) if start is None else start
    made = fit(sp.csr_array(X.astype(float)), loss, init=start, biases="item", random_state=1, **{**FREE, **words})
    assert not made.user_factors.any()
    assert not made.item_factors.any()
    return np.asarray(made.item_bias)


# --- slopes of -1, so that a bias tells how often it was moved ---


def _every_cell_once() -> list[str]:
    """Hinge's slope is -1 while a score is below 1: b_i is η times the visits of the item, whoever makes them."""
    X = some(700, 90, 1, 0.15)
    n, eta = (X > 0).sum(0), 1e-4
    words = {"sampler": None, "factors": 2, "learning_rate": eta, "epochs": 5, "num_threads": 3}
    rates = [eta / (1 + e / 10) for e in range(5)]
    return wrong(
        constant=close(biases_of(lfm_np.sgd, X, losses.Hinge(), **words), 5 * eta * n, 1e-11),
        inverse=close(biases_of(lfm_np.sgd, X, losses.Hinge(), schedule="inverse", **words), sum(rates) * n, 1e-11),
        adagrad=close(  # the sum of squares is the number of steps so far and the present one
            biases_of(lfm_np.sgd, X, losses.Hinge(), schedule="adagrad", **words),
            [eta * sum(1 / math.sqrt(1 + t) for t in range(1, 5 * int(c) + 1)) for c in n],
            1e-11,
        ),
        weighted=close(biases_of(lfm_np.sgd, X, losses.Hinge(True), **words), 5 * eta * X.sum(0), 1e-11),
        held=close(  # b becomes b + η(1 - λb) every time
            biases_of(lfm_np.sgd, X, losses.Hinge(), regularization={"bias": 2.0}, **words),
            (1 - (1 - 2 * eta) ** (5 * n)) / 2,
            1e-10,
        ),
    )


def _every_cell_once_in_batches() -> list[str]:
    X = some(120, 30, 2, 0.3)
    n, eta = (X > 0).sum(0), 1e-4
    words = {"sampler": None, "factors": 2, "learning_rate": eta, "epochs": 4}
    by = dict(sides())["torch"]
    b = np.zeros(30)
    for _ in range(4):  # a row that moves r times in a batch shrinks by r·η·λ of what it was before
        b = b + eta * n * (1 - 2 * b)
    rates = sum(eta / (1 + e / 10) for e in range(4))
    return wrong(
        default=close(biases_of(by, X, losses.Hinge(), **words), 4 * eta * n, 1e-11),
        of_seven=close(biases_of(by, X, losses.Hinge(), batch_size=7, schedule="inverse", **words), rates * n, 1e-11),
        weighted=close(biases_of(by, X, losses.Hinge(True), batch_size=50, **words), 4 * eta * X.sum(0), 1e-11),
        held=close(
            biases_of(by, X, losses.Hinge(), batch_size=int(n.sum()), regularization={"bias": 2.0}, **words), b, 1e-10
        ),
    )


def _pairs_are_counted(fit: Callable[..., Any]) -> list[str]:
    """A pair moves its biases by η in opposite directions; who the negative is can be known."""
    X, lacks = all_but_one(40, 7, 3)
    got, drawn = (X > 0).sum(0), np.bincount(lacks, minlength=7) * 6
    paid, by_lack = X.sum(0), np.bincount(lacks, X.sum(1), minlength=7)
    words = {"factors": 2, "learning_rate": 1e-3, "epochs": 3}
    far = losses.MarginHinge(1000.0)
    b, weighted = (
        biases_of(fit, X, loss, negatives=3, **words) for loss in (far, losses.MarginHinge(1000.0, weighted=True))
    )
    return wrong(
        three=close(b, 3e-3 * 3 * (got - drawn), 1e-11),
        sampler=close(biases_of(fit, X, far, sampler=sampling.Popularity(0.5), **words), 3e-3 * (got - drawn), 1e-11),
        hard=close(biases_of(fit, X, far, sampler=sampling.Hard(5), **words), 3e-3 * (got - drawn), 1e-11),
        weighted=close(weighted, 3e-3 * 3 * (paid - by_lack), 1e-11),
        # the first trial violates the margin, so that the rank is 6 of 7 items
        warp=close(biases_of(fit, X, losses.WARP(1000.0, 9), **words), 3e-3 * math.log(7) * (got - drawn), 1e-11),
    )


class Fan:
    """The m-th negative is pushed down by m + 1."""

    def value(self, positive, negatives):
        total = 100.0 - positive
        for m in range(len(negatives)):
            total += (m + 1) * negatives[m]
        return total

    def gradient(self, positive, negatives):
        slopes = np.empty(len(negatives))
        for m in range(len(negatives)):
            slopes[m] = m + 1.0
        return -1.0, slopes


def _lists_are_counted() -> list[str]:
    X, lacks = all_but_one(40, 7, 4)
    b = biases_of(lfm_np.sgd, X, Fan(), negatives=4, factors=2, learning_rate=1e-3, epochs=2)
    return wrong(b=close(b, 2e-3 * ((X > 0).sum(0) - 10 * 6 * np.bincount(lacks, minlength=7)), 1e-11))


def _across_a_break() -> list[str]:
    """Rates that depend on what was before the break; so does what is paid."""
    X = some(60, 25, 5)
    n, eta, facts = (X > 0).sum(0), 1e-3, {}
    for schedule in ("inverse", "adagrad"):
        with folder() as place:
            words = {"sampler": None, "factors": 2, "learning_rate": eta, "schedule": schedule}
            for epochs in (2, 3, 7):
                b = biases_of(lfm_np.sgd, X, losses.Hinge(), epochs=epochs, checkpoint=place / "state", **words)
        mine = {
            "inverse": sum(eta / (1 + e / 10) for e in range(7)) * n,
            "adagrad": [eta * sum(1 / math.sqrt(1 + t) for t in range(1, 7 * int(c) + 1)) for c in n],
        }[schedule]
        facts[schedule] = close(b, mine, 1e-11)
    return wrong(**facts)


# --- what does not change ---


def _kept(fit: Callable[..., Any]) -> list[str]:
    """Losses of differences push one item up as far as others down: Σ V and Σ b stay (up to a turn of the factors)."""
    X = sp.csr_array(some(30, 20, 6).astype(float))
    draw, facts = np.random.default_rng(7), {}
    U, V, b = draw.normal(0, 0.5, (30, 4)), draw.normal(0, 0.5, (20, 4)), draw.normal(0, 0.5, 20)
    start = lfm_np.Factors(U, V, item_bias=b)
    kinds = {
        "bpr": (losses.BPR(), sampling.Uniform(), 3),
        "bpr, weighted": (losses.BPR(True), sampling.Popularity(1.0), 2),
        "hinge": (losses.MarginHinge(0.7), sampling.Hard(3), 3),
        "warp": (losses.WARP(0.8, 4), sampling.Uniform(), 1),
        "softmax": (losses.SampledSoftmax(0.5), sampling.Popularity(0.75), 5),
        "as it is": (losses.SampledSoftmax(2.0, False, True), sampling.Hard(2), 4),
    }
    for name, (loss, sampler, M) in kinds.items():
        for schedule in ("constant", "inverse"):
            words = {"sampler": sampler, "negatives": M, "schedule": schedule, "learning_rate": 0.02, "epochs": 4}
            made = fit(X, loss, factors=4, init=start, biases="item", random_state=2, **FREE, **words)
            total, before = made.item_factors.sum(0), V.sum(0)
            facts[f"{name}, {schedule}"] = (
                abs(total @ total - before @ before) < 1e-10
                and abs(made.item_bias.sum() - b.sum()) < 1e-11
                and abs((made.item_factors**2).sum() - (V**2).sum()) > 1e-4  # it did move
            )
    return wrong(**facts)


def _users_biases_of_pairs() -> list[str]:
    """A difference of two items has no part of the user's bias."""
    X = sp.csr_array(some(30, 20, 8).astype(float))
    draw = np.random.default_rng(9)
    U, V, b = draw.normal(0, 0.5, (30, 3)), draw.normal(0, 0.5, (20, 3)), draw.normal(0, 0.5, 30)
    facts = {}
    for side, fit in sides():
        for loss in (losses.BPR(), losses.SampledSoftmax(), losses.MarginHinge()):
            start = lfm_np.Factors(U, V, user_bias=b, item_bias=np.zeros(20), global_bias=7.0)
            made = fit(X, loss, factors=3, init=start, biases=True, epochs=3, negatives=2, random_state=0, **FREE)
            name = f"{type(loss).__name__}, {side}"
            facts[name] = close(made.user_bias, b, 1e-12) and made.global_bias == 0
    return wrong(**facts)


# --- where a run comes to rest ---


def _rest(fit: Callable[..., Any]) -> list[str]:
    """Of one user, one factor: λ_u u = h·(M v/… - …), and so on, has one solution for the difference of the scores."""
    facts = {}
    parts = {"user": 0.2, "item": 0.3, "negative": 0.15}
    U, V = np.array([[1.0]]), np.array([[0.8], [-0.6]])
    X = sp.csr_array(([2.0], ([0], [0])), shape=(1, 2))

    def apart(loss: Any, M: int, eta: float, epochs: int = 700) -> float:
        words = {"factors": 1, "learning_rate": eta, "epochs": epochs, "regularization": parts, "dtype": "float64"}
        made = fit(X, loss, init=(U, V), negatives=M, random_state=0, **words)
        return float(made.user_factors[0] @ (made.item_factors[0] - made.item_factors[1]))

    for M in (1, 3):  # σ(-d)² = λ_u / (M²/λ_i + M/λ_j)
        share = math.sqrt(0.2 / (M * M / 0.3 + M / 0.15))
        facts[f"bpr_{M}"] = close(apart(losses.BPR(), M, 0.2), math.log(1 / share - 1), 1e-8)
    # the slopes are wσ(-d/T)/T and, for each of M, an M-th of it
    share = 0.5 * math.sqrt(0.2 / (1 / 0.3 + 1 / (3 * 0.15))) / 2.0
    facts["softmax"] = close(apart(losses.SampledSoftmax(0.5, True, True), 3, 0.1), 0.5 * math.log(1 / share - 1), 1e-8)
    return wrong(**facts)


def _rest_of_one_cell(fit: Callable[..., Any]) -> list[str]:
    """One cell, u = v: the slope of the loss is -λ there."""
    start, facts = (np.array([[0.5]]), np.array([[0.5]])), {}
    kinds = {
        "squared": (losses.Squared(), 3.0, 2.9),
        "logistic": (losses.Logistic(), 3.0, math.log(9)),
        "weighted": (losses.Logistic(True), 4.0, math.log(39)),
        "poisson": (losses.Poisson(), 3.0, math.log(2.9)),
    }
    for name, (loss, x, s) in kinds.items():
        X = sp.csr_array(np.array([[x]]))
        words = {"factors": 1, "learning_rate": 0.1, "epochs": 600, "regularization": 0.1, "dtype": "float64"}
        made = fit(X, loss, init=start, sampler=None, random_state=0, **words)
        facts[name] = close(made.scores(0, 0), s, 1e-9)
    return wrong(**facts)


def _rest_of_biases(fit: Callable[..., Any]) -> list[str]:
    """Items that everybody values alike, without factors: the slope of the loss at b is -λb."""
    values = np.array([1.0, 2.0, 3.0, 4.0])
    X = np.where(np.random.default_rng(10).random((12, 4)) < 0.7, values, 0)
    X[0] = values
    b = np.zeros(4)
    for _ in range(60):  # Newton's steps for e^b - x + λb = 0
        b = b - (np.exp(b) - values + 0.3 * b) / (np.exp(b) + 0.3)
    words = {"sampler": None, "factors": 2, "learning_rate": 0.02, "epochs": 300, "regularization": {"bias": 0.3}}
    return wrong(
        squared=close(biases_of(fit, X, losses.Squared(), **words), values / 1.3, 1e-9),
        poisson=close(biases_of(fit, X, losses.Poisson(), **words), b, 1e-9),
    )


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    yield _holds("every cell once, by Hinge's slope of -1", _every_cell_once)
    if installed("torch"):
        yield _holds("every cell once, in batches", _every_cell_once_in_batches)
    yield _holds("lists of one's own are counted", _lists_are_counted)
    yield _holds("visits across two breaks", _across_a_break)
    yield _holds("biases of users whose items are compared", _users_biases_of_pairs)
    for side, fit in sides():
        yield _holds(f"pairs are counted, {side}", lambda f=fit: _pairs_are_counted(f))
        yield _holds(f"what one item gains others lose, {side}", lambda f=fit: _kept(f))
        yield _holds(f"where pairs and lists come to rest, {side}", lambda f=fit: _rest(f))
        yield _holds(f"where one cell comes to rest, {side}", lambda f=fit: _rest_of_one_cell(f))
        yield _holds(f"where biases come to rest, {side}", lambda f=fit: _rest_of_biases(f))
