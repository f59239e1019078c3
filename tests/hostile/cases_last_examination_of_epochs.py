"""The last examination of `sgd`: cells that share no row, so that order does not matter, and draws that can be told."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp

from .case import Case, Group
from .sentences_by_numpy import lfm_np, losses, near, product, sampling, sigmoid
from .working_days import faultless, folder, wrong

_GROUP = Group("the last examination, fits")
_holds = faultless(_GROUP)
_U = np.array([[0.5, -0.4, 0.2]])
_V = np.array([[0.3, 0.7, -0.2], [0.6, -0.1, 0.4]])
_D = float(_U[0] @ (_V[0] - _V[1]))


class LogCosh(NamedTuple):
    """A loss whose target is the stored value."""

    sharpness: float = 1.0

    def value(self, score: float, target: float) -> float:
        gap = abs(score - target) * self.sharpness
        return gap + math.log1p(math.exp(-2.0 * gap)) - math.log(2.0)

    def gradient(self, score: float, target: float) -> float:
        return self.sharpness * math.tanh((score - target) * self.sharpness)


class Between(NamedTuple):
    """Squares about +1 of a stored cell, times its value, and -1 of a negative."""

    targets = (1.0, -1.0)
    weighted = True

    def value(self, score: float, target: float) -> float:
        return (score - target) ** 2

    def gradient(self, score: float, target: float) -> float:
        return 2.0 * (score - target)


class Rule(NamedTuple):
    """A pointwise loss, by NumPy."""

    loss: Any
    slope: Callable[[np.ndarray, np.ndarray], np.ndarray]
    paid: Callable[[np.ndarray, np.ndarray], np.ndarray]


SQUARED = Rule(losses.Squared(), lambda s, x: s - x, lambda s, x: (s - x) ** 2 / 2)
POISSON = Rule(losses.Poisson(), lambda s, x: np.exp(s) - x, lambda s, x: np.exp(s) - x * s + x * np.log(x) - x)
LOGCOSH = Rule(
    LogCosh(0.5),
    lambda s, x: 0.5 * np.tanh(0.5 * (s - x)),
    lambda s, x: np.log(np.cosh(0.5 * (s - x))),
)


class Apart(NamedTuple):
    """Cells that share neither row nor column, with two rows and a column of nothing."""

    x: np.ndarray
    U: np.ndarray
    V: np.ndarray
    columns: np.ndarray

    @property
    def matrix(self) -> sp.csr_array:
        m = len(self.x)
        return sp.csr_array((self.x, (np.arange(m), self.columns)), shape=(m + 2, m + 1))

    def scores(self, U: np.ndarray, V: np.ndarray) -> np.ndarray:
        everyone, everything = self.U.copy(), self.V.copy()
        everyone[: len(self.x)], everything[self.columns] = U, V
        return everyone @ everything.T


def apart(m: int, k: int, values: tuple[int, int] = (1, 6), seed: int = 1) -> Apart:
    draw = np.random.default_rng(seed)
    x = draw.integers(*values, m).astype(np.float64)
    return Apart(x, draw.normal(0, 0.4, (m + 2, k)), draw.normal(0, 0.4, (m + 1, k)), draw.permutation(m + 1)[:m])


class Went(NamedTuple):
    U: np.ndarray
    V: np.ndarray
    b: np.ndarray
    d: np.ndarray
    paid: list[float]


def went(
    rule: Rule, cells: Apart, epochs: int, eta: float, schedule: str = "constant", mu: float = 0.0,
    b: Any = None, lam: tuple[float, float, float] = (0.0, 0.0, 0.0), biases: bool = False,
) -> Went:  # fmt: skip
    """Every cell's steps, all of an epoch at once."""
    x, m = cells.x, len(cells.x)
    rows = [cells.U[:m].copy(), cells.V[cells.columns], np.zeros((m, 1)), np.zeros((m, 1))]
    rows[2] = rows[2] if b is None else np.array(b[:m], np.float64)[:, None]
    sums, paid = [np.zeros(m) for _ in rows], []
    for epoch in range(epochs):
        U, V, B, D = rows
        s = mu + B[:, 0] + D[:, 0] + (U * V).sum(1)
        paid.append(float(rule.paid(s, x).mean()))
        g = rule.slope(s, x)[:, None]
        moves = [g * V + lam[0] * U, g * U + lam[1] * V, biases * (g + lam[2] * B), biases * (g + lam[2] * D)]
        for place, move in enumerate(moves):
            rate = np.full(m, eta / (1 + epoch / 10) if schedule == "inverse" else eta)
            if schedule == "adagrad":
                sums[place] += (move**2).mean(1)
                rate = eta / np.sqrt(1 + sums[place])
            rows[place] = rows[place] - rate[:, None] * move
    return Went(rows[0], rows[1], rows[2][:, 0], rows[3][:, 0], paid)


def agrees(fit: Any, cells: Apart, mine: Went, tolerance: float) -> dict[str, bool]:
    found = {
        "scores": near(product(fit), cells.scores(mine.U, mine.V), tolerance),
        "paid": near([record["sampled_loss"] for record in fit.history], mine.paid, tolerance),
    }
    if fit.user_bias is not None:
        found["users"] = near(fit.user_bias[: len(mine.b)], mine.b, tolerance)
    if fit.item_bias is not None:
        found["items"] = near(fit.item_bias[cells.columns], mine.d, tolerance)
    return found


def all_biases(sgd: Any, m: int = 257, **more: Any) -> list[str]:
    """Adagrad with a sum for every row and bias; biases of Factors that has users' only, and a μ that is not kept."""
    cells = apart(m, 5)
    b = np.random.default_rng(2).normal(size=m + 2)
    init = lfm_np.Factors(cells.U, cells.V, user_bias=b, global_bias=7.0)
    mu = float(cells.x.mean())
    mine = went(SQUARED, cells, 6, 0.2, "adagrad", mu, b, (0.2, 0.0, 0.1), True)
    fit = sgd(
        cells.matrix, losses.Squared(), sampler=None, factors=5, epochs=6, learning_rate=0.2, schedule="adagrad",
        biases=True, regularization={"user": 0.2, "bias": 0.1}, init=init, dtype="float64", random_state=3, **more,
    )  # fmt: skip
    facts = agrees(fit, cells, mine, 1e-9)
    return wrong(**facts, mu=near(fit.global_bias, mu, 1e-12), left=near(fit.user_bias[m:], b[m:], 1e-12))


def _simply(rule: Rule, m: int, k: int, tolerance: float, values: tuple[int, int] = (1, 6), **words: Any) -> list[str]:
    cells = apart(m, k, values)
    lam = words.get("regularization", 0.0)
    mine = went(rule, cells, 4, words["learning_rate"], words.get("schedule", "constant"), lam=(lam, lam, lam))
    fit = lfm_np.sgd(
        cells.matrix, rule.loss, sampler=None, factors=k, epochs=4, init=(cells.U, cells.V), random_state=0,
        **{"dtype": "float64", "regularization": 0.0, **words},
    )  # fmt: skip
    return wrong(**agrees(fit, cells, mine, tolerance))


def _gone_on_with_a_loss_of_ones_own() -> list[str]:
    """Adagrad's sums, and what was paid, are in the file."""
    cells = apart(64, 3)
    words = {
        "sampler": None, "factors": 3, "learning_rate": 0.5, "schedule": "adagrad", "regularization": 0.1,
        "init": (cells.U, cells.V), "dtype": "float64", "random_state": 5,
    }  # fmt: skip
    with folder() as place:
        lfm_np.sgd(cells.matrix, LogCosh(0.5), epochs=2, checkpoint=place / "run", num_threads=1, **words)
        fit = lfm_np.sgd(cells.matrix, LogCosh(0.5), epochs=6, checkpoint=place / "run", num_threads=2, **words)
    return wrong(**agrees(fit, cells, went(LOGCOSH, cells, 6, 0.5, "adagrad", lam=(0.1, 0.1, 0.1)), 1e-9))


def _ends_by_itself() -> list[str]:
    cells = apart(40, 2)
    paid = went(SQUARED, cells, 24, 0.1, "inverse").paid
    gains = [1 - b / a for a, b in itertools.pairwise(paid)]
    last = next(s for s in range(4, 24) if min(gains[: s - 2]) > 1.05 * gains[s - 2])
    share = math.sqrt(min(gains[: last - 2]) * gains[last - 2])
    fit = lfm_np.sgd(
        cells.matrix, losses.Squared(), sampler=None, factors=2, epochs=99, learning_rate=0.1, schedule="inverse",
        regularization=0.0, tolerance=share, init=(cells.U, cells.V), dtype="float64", random_state=1,
    )  # fmt: skip
    return wrong(
        epochs=len(fit.history) == last,
        status=fit.status == lfm_np.Status.CONVERGED,
        paid=near([record["sampled_loss"] for record in fit.history], paid[:last]),
    )


def _mu_of_a_loss_of_ones_own() -> list[str]:
    """The score where the slopes of all cells cancel."""
    x = [1.0, 2.0, 2.0, 3.0, 40.0]
    low, high = 1.0, 40.0
    for _ in range(80):
        mid = (low + high) / 2
        low, high = (low, mid) if sum(math.tanh(mid - one) for one in x) > 0 else (mid, high)
    init = np.zeros((5, 1)), np.zeros((1, 1))
    fit = lfm_np.sgd(
        sp.csr_array(np.array(x)[:, None]), LogCosh(), sampler=None, biases=True, factors=1, epochs=1,
        learning_rate=1e-12, init=init, dtype="float64", random_state=0,
    )  # fmt: skip
    paid = float(np.mean([LogCosh().value(low, one) for one in x]))
    return wrong(mu=near(fit.global_bias, low, 1e-5), paid=near(fit.history[0]["sampled_loss"], paid, 1e-8))


def _mu_beside_negatives() -> list[str]:
    """Σ w (μ - 1)² + 3N (μ + 1)² is least at (Σw - 3N)/(Σw + 3N)."""
    X = sp.csr_array(np.array([[2.0, 0, 0, 0], [0, 5.0, 0, 0], [0, 0, 0, 1.0]]))
    fit = lfm_np.sgd(
        X, Between(), negatives=3, biases=True, factors=1, epochs=1, learning_rate=1e-12,
        init=(np.zeros((3, 1)), np.zeros((4, 1))), dtype="float64", random_state=0,
    )  # fmt: skip
    mu = -1 / 17
    paid = (8 * (mu - 1) ** 2 + 9 * (mu + 1) ** 2) / 3
    return wrong(mu=near(fit.global_bias, mu, 1e-6), paid=near(fit.history[0]["sampled_loss"], paid, 1e-6))


def _forced(loss: Any, U: Any = _U, V: Any = _V, X: Any = ((1.0, 0.0),), **words: Any) -> Any:
    X = X if sp.issparse(X) else sp.csr_array(np.array(X))
    given = {"epochs": 1, "learning_rate": 0.125, "regularization": 0.0, "dtype": "float64", "random_state": 0, **words}
    return lfm_np.sgd(X, loss, factors=np.shape(U)[1], init=(U, V), **given)


def _paid(fit: Any) -> list[float]:
    return [record["sampled_loss"] for record in fit.history]


def _gram(fit: Any) -> np.ndarray:
    F = np.vstack([fit.user_factors, fit.item_factors])
    return F @ F.T


def _of(*rows: Any) -> np.ndarray:
    F = np.vstack(rows)
    return F @ F.T


def _a_row_that_has_all() -> list[str]:
    """The first user has both items and is skipped; the second's one pair is all that moves, biases too."""
    U, (v, w), d = np.vstack([_U[0][::-1], _U]), _V.copy(), np.zeros(2)
    u, sums, paid = U[1].copy(), np.zeros(5), []
    for _ in range(7):
        gap = float(u @ (v - w)) + d[0] - d[1]
        g = -sigmoid(-gap)
        paid.append(math.log1p(math.exp(-gap)) / 3)
        moves = [g * (v - w) + 0.1 * u, g * u + 0.2 * v, -g * u + 0.3 * w, g + 0.4 * d[0], -g + 0.4 * d[1]]
        sums += [float(np.mean(move**2)) for move in moves]
        rate = 0.5 / np.sqrt(1 + sums)
        u, v, w = u - rate[0] * moves[0], v - rate[1] * moves[1], w - rate[2] * moves[2]
        d = d - rate[3:] * moves[3:]
    fit = _forced(
        losses.BPR(), U, _V, ((1.0, 1.0), (1.0, 0.0)), epochs=7, learning_rate=0.5, schedule="adagrad", biases="item",
        regularization={"user": 0.1, "item": 0.2, "negative": 0.3, "bias": 0.4},
    )  # fmt: skip
    return wrong(
        factors=near(_gram(fit), _of(U[0], u, v, w), 1e-10),
        biases=near(fit.item_bias, d, 1e-10),
        paid=near(_paid(fit), paid, 1e-10),
        skipped=fit.params["skipped_rows"] == 1,
    )


def _nothing_to_draw_for_anybody() -> list[str]:
    U = np.arange(8.0).reshape(4, 2) / 8
    fit = _forced(losses.WARP(), U, _V[:1, :2], np.ones((4, 1)), epochs=3, biases="item", regularization=0.3)
    return wrong(
        factors=near(_gram(fit), _of(U, _V[:1, :2]), 1e-12),
        biases=not fit.item_bias.any(),
        paid=_paid(fit) == [0.0] * 3,
        skipped=fit.params["skipped_rows"] == 4,
    )


def _popularity_leaves_one() -> list[str]:
    """Nobody has item 2: the first user's negative is always item 1, with q = 1, and the second user has none."""
    U, V = np.vstack([_U, _U[0][::-1]]), np.vstack([_V, [0.9, 0.8, 0.7]])
    u, (v, w), paid = _U[0].copy(), _V.copy(), []
    for _ in range(5):
        gap = float(u @ (v - w))
        g = -sigmoid(-gap)
        paid.append(math.log1p(math.exp(-gap)) / 3)
        u, v, w = u - 0.4 * g * (v - w), v - 0.4 * g * u, w + 0.4 * g * u
    X, words = ((1.0, 0.0, 0.0), (1.0, 1.0, 0.0)), {"negatives": 2, "epochs": 5, "learning_rate": 0.4}
    fit = _forced(losses.SampledSoftmax(), U, V, X, sampler=sampling.Popularity(1.5), **words)
    plain = _forced(losses.SampledSoftmax(), U, V, X, sampler=sampling.Popularity(0.0), **words)
    return wrong(
        factors=near(_gram(fit), _of(u, U[1], v, w, V[2]), 1e-10),
        paid=near(_paid(fit), paid, 1e-10),
        skipped=fit.params["skipped_rows"] == 1 and plain.params["skipped_rows"] == 0,
    )


def _q_can_be_read() -> list[str]:
    """From zeros nothing moves, and a step pays log(1 + 1/q): two have item 1, one item 2, ten draw by 4 : 1."""
    rows = [(1.0, 0.0, 0.0)] * 10 + [(1.0, 1.0, 0.0)] * 2 + [(1.0, 0.0, 1.0)]
    fit = _forced(
        losses.SampledSoftmax(0.5), np.zeros((13, 1)), np.zeros((3, 1)), rows, sampler=sampling.Popularity(2.0),
        epochs=300, random_state=7,
    )  # fmt: skip
    common, rare = math.log(1 + 1 / 0.8), math.log(1 + 1 / 0.2)
    counts = (10 * rare - (16 * np.array(_paid(fit)) - 6 * math.log(2))) / (rare - common)
    return wrong(
        whole=near(counts, np.round(counts), 1e-9),
        share=abs(counts.sum() / 3000 - 0.8) < 6 * math.sqrt(0.16 / 3000),
        still=not fit.user_factors.any() and not fit.item_factors.any(),
    )


def _hard_of_two() -> list[str]:
    """The better of two of three: 5, 3 and 1 of nine times, where all items are in one block."""
    V = np.array([[0.3], [0.9], [0.1], [-0.6]])
    pays = np.log1p(np.exp(V[1:, 0] - 0.3))
    fit = _forced(
        losses.BPR(), np.ones((10, 1)), V, np.eye(1, 4).repeat(10, 0), sampler=sampling.Hard(2), epochs=300,
        learning_rate=1e-12, random_state=2,
    )  # fmt: skip
    mean, shares = float(np.mean(_paid(fit))), np.array([5, 3, 1]) / 9
    if fit.params["blocks"] > 1:
        return wrong(harder=mean > pays.mean())
    deviation = math.sqrt(float(shares @ pays**2 - (shares @ pays) ** 2) / 3000)
    return wrong(mean=abs(mean - shares @ pays) < 6 * deviation)


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    yield _holds("257 cells apart, Adagrad, biases on one side", lambda: all_biases(lfm_np.sgd, num_threads=3))
    yield _holds(
        "255 cells apart, Poisson, inverse",
        lambda: _simply(POISSON, 255, 1, 1e-9, learning_rate=0.1, schedule="inverse", regularization=0.05),
    )
    yield _holds(
        "300 cells apart, zeros and below, float32",
        lambda: _simply(SQUARED, 300, 16, 2e-5, (-3, 4), learning_rate=0.1, regularization=0.3, dtype="float32"),
    )
    yield _holds("gone on with a loss of one's own", _gone_on_with_a_loss_of_ones_own)
    yield _holds("ends by its tolerance", _ends_by_itself)
    yield _holds("μ of a loss of one's own", _mu_of_a_loss_of_ones_own)
    yield _holds("μ beside negatives, weighted", _mu_beside_negatives)
    yield _holds("a row that has all", _a_row_that_has_all)
    yield _holds("nothing to draw for anybody", _nothing_to_draw_for_anybody)
    yield _holds("Popularity leaves one item", _popularity_leaves_one)
    yield _holds("q can be read off what is paid", _q_can_be_read)
    yield _holds("the better of two draws", _hard_of_two)
