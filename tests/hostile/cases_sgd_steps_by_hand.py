"""Steps of sgd that can be foreseen, with every loss: cells that share nothing, and users of two items."""

from __future__ import annotations

import math
import types
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp

import lfm_np
from lfm_np import losses, sampling

from .case import Case
from .least_squares import BAD, Heading, near, scores

_of = Heading("sgd steps by hand")
N = 7


def diagonal(values: Any = None) -> dict[str, Any]:
    """A cell a row, none of which shares a row or column with another: their order plays no part."""
    rng = np.random.default_rng(3)
    values = np.arange(1.0, N + 1) if values is None else np.asarray(values, float)
    init = rng.normal(size=(N, 3)), rng.normal(size=(N, 3))
    return {"X": sp.csr_array((values, (np.arange(N), np.arange(N)[::-1])), (N, N)), "init": init}


def pairs_of() -> dict[str, Any]:
    """One user of two items, so that the negative is the other one."""
    rng = np.random.default_rng(5)
    return {"X": sp.csr_array([[0.0, 2.0]]), "init": (rng.normal(size=(1, 3)) / 3, rng.normal(size=(2, 3)) / 3)}


def fit(X: Any, init: Any, loss: Any, **words: Any) -> lfm_np.Factors:
    words = {"factors": 3, "dtype": "float64", "epochs": 1, "random_state": 0, "learning_rate": 0.1, **words}
    return lfm_np.sgd(X, loss, init=init, **words)


def pointwise(
    X: Any,
    init: Any,
    slope: Callable[[float, float], float],
    epochs: int = 1,
    rate: Any = lambda e: 0.1,
    lam: float = 0.01,
) -> np.ndarray:
    """All scores after so many epochs of stored cells alone."""
    U, V = init[0].copy(), init[1].copy()
    coo = X.tocoo()
    for e in range(epochs):
        for u, i, x in zip(coo.row, coo.col, coo.data):
            g = slope(float(U[u] @ V[i]), float(x))
            U[u], V[i] = U[u] - rate(e) * (g * V[i] + lam * U[u]), V[i] - rate(e) * (g * U[u] + lam * V[i])
    return U @ V.T


def sigmoid(s: float) -> float:
    return 1 / (1 + math.exp(-s))


SLOPES: dict[str, tuple[Any, Callable[[float, float], float]]] = {
    "Squared": (losses.Squared(), lambda s, x: s - x),
    "Poisson": (losses.Poisson(), lambda s, x: math.exp(s) - x),
    "Logistic": (losses.Logistic(), lambda s, x: sigmoid(s) - 1),
    "Logistic weighted": (losses.Logistic(weighted=True), lambda s, x: x * (sigmoid(s) - 1)),
    "Hinge": (losses.Hinge(), lambda s, x: -1.0 if s < 1 else 0.0),
}


def stored_cells() -> Iterator[Case]:
    for name, (loss, slope) in SLOPES.items():
        yield _of.right(
            f"{name}, three epochs of cells that share nothing",
            lambda X, init, loss=loss: fit(X, init, loss, sampler=None, epochs=3),
            lambda found, X, init, slope=slope: near(scores(found), pointwise(X, init, slope, 3), 1e-10),
            diagonal,
        )
    yield _of.right(
        "schedule inverse",
        lambda X, init: fit(X, init, losses.Squared(), sampler=None, epochs=4, schedule="inverse"),
        lambda found, X, init: near(
            scores(found), pointwise(X, init, SLOPES["Squared"][1], 4, lambda e: 0.1 / (1 + e / 10)), 1e-10
        ),
        diagonal,
    )
    yield _of.right(
        "the sampled loss of the first epoch is that of the start",
        lambda X, init: fit(X, init, losses.Squared(), sampler=None).history[0]["sampled_loss"],
        lambda loss, X, init: (
            abs(loss - np.mean([0.5 * (init[0][u] @ init[1][N - 1 - u] - X[u, N - 1 - u]) ** 2 for u in range(N)]))
            < 1e-9
        ),
        diagonal,
    )
    yield _of.right(
        "ratings that are negative, zero and huge",
        lambda X, init: fit(X, init, losses.Squared(), sampler=None, learning_rate=1e-3),
        lambda found, X, init: near(scores(found), pointwise(X, init, SLOPES["Squared"][1], 1, lambda e: 1e-3), 1e-9),
        lambda: diagonal([-3.0, 0.0, 1e4, 1e-4, 5.0, -0.5, 2.0]),
    )
    yield _of.right(
        "biases: a step of each, from the mean",
        lambda X, init: fit(X, init, losses.Squared(), sampler=None, biases=True, regularization={"bias": 0.5}),
        lambda found, X, init: near(scores(found), with_biases(X, init), 1e-9) and abs(found.global_bias - 4.0) < 1e-9,
        diagonal,
    )


def with_biases(X: Any, init: Any) -> np.ndarray:
    U, V, b, c = init[0].copy(), init[1].copy(), np.zeros(N), np.zeros(N)
    coo = X.tocoo()
    mean = coo.data.mean()
    for u, i, x in zip(coo.row, coo.col, coo.data):
        g = mean + U[u] @ V[i] - x
        U[u], V[i] = U[u] - 0.1 * g * V[i], V[i] - 0.1 * g * U[u]
        b[u], c[i] = -0.1 * g, -0.1 * g
    return mean + b[:, None] + c + U @ V.T


def pairwise(init: Any, pull: Callable[[float], float], epochs: int = 2, lam: float = 0.01) -> np.ndarray:
    u, (low, high) = init[0][0].copy(), init[1].copy()
    for _ in range(epochs):
        g = pull(float(u @ high - u @ low))
        u, high, low = (
            u - 0.1 * (g * (high - low) + lam * u),
            high - 0.1 * (g * u + lam * high),
            low - 0.1 * (-g * u + lam * low),
        )
    return np.array([[u @ low, u @ high]])


def two_items() -> Iterator[Case]:
    hinge = lambda d: -1.0 if d < 1 else 0.0  # noqa: E731
    pulls: dict[str, tuple[Any, Callable[[float], float]]] = {
        "BPR": (losses.BPR(), lambda d: sigmoid(d) - 1),
        "BPR weighted": (losses.BPR(weighted=True), lambda d: 2 * (sigmoid(d) - 1)),
        "MarginHinge": (losses.MarginHinge(), hinge),
        "WARP": (losses.WARP(), lambda d: math.log(2) * hinge(d)),
        "SampledSoftmax": (losses.SampledSoftmax(), lambda d: sigmoid(d) - 1),
        "SampledSoftmax, temperature 2": (losses.SampledSoftmax(temperature=2.0), lambda d: (sigmoid(d / 2) - 1) / 2),
    }
    for name, (loss, pull) in pulls.items():
        yield _of.right(
            f"{name}, two epochs of a user of two items",
            lambda X, init, loss=loss: fit(X, init, loss, epochs=2),
            lambda found, X, init, pull=pull: near(scores(found), pairwise(init, pull), 1e-10),
            pairs_of,
        )
    for sampler in (sampling.Hard(3), sampling.Popularity(0.0)):
        yield _of.right(
            f"BPR with {sampler}: there is only one to draw",
            lambda X, init, s=sampler: fit(X, init, losses.BPR(), sampler=s, epochs=2),
            lambda found, X, init: near(scores(found), pairwise(init, lambda d: sigmoid(d) - 1), 1e-10),
            pairs_of,
        )
    yield _of.right(
        "Popularity where nobody has the only item to draw",
        lambda X, init: fit(X, init, losses.BPR(), sampler=sampling.Popularity(0.75)).params["skipped_rows"],
        lambda skipped, X, init: skipped in (0, 1),
        pairs_of,
    )
    yield _of.right(
        "a step with three equal negatives",
        lambda X, init: fit(X, init, losses.BPR(), negatives=3, regularization=0.0),
        lambda found, X, init: near(
            scores(found), pairwise(init, lambda d: 3 * (sigmoid(d) - 1), epochs=1, lam=0.0), 1e-10
        ),
        pairs_of,
    )
    yield _of.right(
        "CosineContrastive gives rows of length one",
        lambda X, init: fit(X, init, losses.CosineContrastive(), epochs=3),
        lambda found, X, init: all(
            np.allclose(np.linalg.norm(side, axis=1), 1) for side in (found.user_factors, found.item_factors)
        ),
        pairs_of,
    )


def busy() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    X = sp.random(80, 40, 0.15, format="csr", random_state=rng, data_rvs=lambda k: rng.integers(1, 4, k).astype(float))
    return {"X": sp.csr_array(X)}


class Kinked(NamedTuple):
    """A user's loss, in integers."""

    scale: int = 2

    def value(self, difference):
        return self.scale * max(0, 1 - difference)

    def gradient(self, difference):
        return -self.scale if difference < 1 else 0


class Nan:
    def value(self, difference):
        return difference * math.nan

    def gradient(self, difference):
        return math.nan


class Table:
    """An attribute that is no number."""

    def __init__(self):
        self.steps = np.arange(3.0)

    def value(self, difference):
        return self.steps[0] - difference

    def gradient(self, difference):
        return -1.0


class Misspelt:
    def value(self, score, target):
        return 0.5 * (score - target) ** 2

    def gradient(self, scores, target):
        return scores - target


def full() -> dict[str, Any]:
    X = np.zeros((4, 5))
    X[0], X[1, 2], X[2, 3], X[3, 0] = 1, 1, 1, 1
    return {"X": sp.csr_array(X)}


def rules() -> Iterator[Case]:
    for name, loss, words in (
        ("WARP", losses.WARP(), {}),
        ("SampledSoftmax", losses.SampledSoftmax(), {"negatives": 5, "sampler": sampling.Popularity(1.0)}),
        ("BPR, hard, adagrad", losses.BPR(), {"sampler": sampling.Hard(4), "schedule": "adagrad", "biases": "item"}),
    ):
        yield _of.right(
            f"{name}: the same bits from 1, 2 and 5 threads, and seeds of other kinds",
            lambda X, loss=loss, words=words: [
                lfm_np.sgd(X, loss, factors=5, epochs=2, random_state=s, num_threads=t, **words).item_factors
                for t, s in ((1, 9), (2, np.uint16(9)), (5, 9))
            ],
            lambda found, X: all((found[0] == other).all() for other in found[1:]),
            busy,
        )
    yield _of.right(
        "a user who has everything is skipped, and counted",
        lambda X: lfm_np.sgd(X, factors=3, epochs=2, random_state=0),
        lambda found, X: found.params["skipped_rows"] == 1 and np.isfinite(scores(found)).all(),
        full,
    )
    yield _of.right(
        "a user's loss in integers is that of MarginHinge, twice",
        lambda X: lfm_np.sgd(X, Kinked(), factors=4, epochs=2, learning_rate=0.05, regularization=0.0, random_state=1),
        lambda found, X: near(
            scores(found),
            scores(
                lfm_np.sgd(
                    X, losses.MarginHinge(), factors=4, epochs=2, learning_rate=0.1, regularization=0.0, random_state=1
                )
            ),
            1e-5,
        ),
        busy,
    )
    yield _of.right(
        "regularization in a mapping that cannot be written",
        lambda X: lfm_np.sgd(
            X, factors=4, epochs=1, random_state=1, regularization=types.MappingProxyType({"user": 0.1})
        ),
        lambda found, X: np.isfinite(scores(found)).all(),
        busy,
    )
    yield _of.right(
        "more negatives than there are items",
        lambda X: lfm_np.sgd(X, losses.BPR(), negatives=300, learning_rate=1e-3, factors=2, epochs=1, random_state=0),
        lambda found, X: np.isfinite(scores(found)).all(),
        full,
    )
    yield _of.either(
        "Popularity(1e300)",
        lambda X: lfm_np.sgd(X, sampler=sampling.Popularity(1e300), factors=2, epochs=1, random_state=0),
        lambda found, X: np.isfinite(scores(found)).all(),
        "beta",
        make=busy,
    )
    yield _of.refused(
        "a rate of 1e30",
        lambda X: lfm_np.sgd(X, losses.Squared(), learning_rate=1e30, epochs=50),
        "epoch",
        "learning_rate",
        make=busy,
        kind=lfm_np.SolverError,
    )
    yield _of.refused(
        "a loss of NaN",
        lambda X: lfm_np.sgd(X, Nan()),
        "nan|finite|diverged",
        make=busy,
        kind=(*BAD, lfm_np.SolverError),
    )
    yield _of.refused("a loss with an array", lambda X: lfm_np.sgd(X, Table()), "steps|table", make=busy)
    yield _of.refused("a loss of two minds", lambda X: lfm_np.sgd(X, Misspelt()), "gradient|parameter", make=busy)
    yield _of.refused("a class for a loss", lambda X: lfm_np.sgd(X, losses.WARP), "warp|instance", make=busy)
    yield _of.refused("no sampler for BPR", lambda X: lfm_np.sgd(X, losses.BPR(), sampler=None), "sampler", make=busy)
    yield _of.refused("Hard(0)", lambda X: lfm_np.sgd(X, sampler=sampling.Hard(0)), "candidates", make=busy)
    yield _of.refused(
        "a negative count for Poisson",
        lambda X, init: fit(X, init, losses.Poisson(), sampler=None),
        "x|value",
        "negative|-2|0",
        make=lambda: diagonal([-2.0, *range(1, N)]),
    )
    yield _of.refused(
        "regularization of 'users'",
        lambda X: lfm_np.sgd(X, regularization={"users": 1.0}),
        "regularization",
        "users",
        make=busy,
    )
    yield _of.refused("biases='user'", lambda X: lfm_np.sgd(X, biases="user"), "biases", "item", make=busy)
    yield _of.refused("WARP(trials=0)", lambda X: lfm_np.sgd(X, losses.WARP(trials=0)), "trials", make=busy)
    yield _of.refused(
        "temperature 0", lambda X: lfm_np.sgd(X, losses.SampledSoftmax(temperature=0.0)), "temperature", make=busy
    )
    yield _of.refused(
        "repeated ratings",
        lambda X: lfm_np.sgd(X, losses.Squared(), sampler=None),
        "x|row",
        "duplicate|twice|more than once|repeated",
        make=lambda: {"X": sp.coo_array(([1.0, 2.0], ([0, 0], [1, 1])), (2, 2))},
    )


def cases() -> list[Case]:
    return [*stored_cells(), *two_items(), *rules()]
