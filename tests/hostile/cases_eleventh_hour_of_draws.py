"""Programs with `sgd` and negatives: draws counted from the biases of items, and what is paid where scores are 0."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import scipy.sparse as sp

import lfm_np as _library

from .case import Case, Group, installed
from .working_days import close, faultless, folder, same, wrong

lfm_np: Any = _library
losses: Any = _library.losses
sampling: Any = _library.sampling
_GROUP = Group("eleventh hour")
_holds = faultless(_GROUP)
STEP = 2.0**-10
HARD, CUBES = sampling.Hard(5), sampling.Popularity(3.0)


class Linear:
    """Moves the bias of a stored item up by η and that of the drawn one down by η."""

    def value(self, difference: float) -> float:
        return -difference

    def gradient(self, difference: float) -> float:
        return -1.0

    def torch_value(self, difference: Any) -> Any:
        return -difference


class LinearWeighted:
    weighted = True

    def value(self, difference: float) -> float:
        return -difference

    def gradient(self, difference: float) -> float:
        return -1.0


class LinearTried:
    """Always violated, so that the first trial is the last."""

    trials = 7

    def value(self, difference: float) -> float:
        return 50.0 - difference

    def gradient(self, difference: float) -> float:
        return -1.0


class Sums:
    """A list loss: the sum of the negatives less M times the positive."""

    def value(self, positive: float, negatives: Any) -> float:
        total = 0.0
        for score in negatives:
            total += score - positive
        return total

    def gradient(self, positive: float, negatives: Any) -> tuple[float, Any]:
        return -float(len(negatives)), np.ones(len(negatives))


class CorrectedSums:
    correct_logq = True

    def __init__(self, temperature: float) -> None:
        self.temperature = temperature

    def value(self, positive: float, negatives: Any) -> float:
        total = 0.0
        for score in negatives:
            total += score - positive
        return total

    def gradient(self, positive: float, negatives: Any) -> tuple[float, Any]:
        return -float(len(negatives)), np.ones(len(negatives))


class OfZeros:
    """Pays s where the target is 0, which a stored zero is too."""

    def value(self, score: float, target: float) -> float:
        return score if target == 0.0 else 0.0

    def gradient(self, score: float, target: float) -> float:
        return 1.0 if target == 0.0 else 0.0


def _cells(m: int = 40, n: int = 13, seed: int = 0) -> np.ndarray:
    """Values of 1 to 4; everybody has item 0, nobody the last."""
    draw = np.random.default_rng(seed)
    X = np.where(draw.random((m, n)) < np.linspace(0.7, 0.1, n), draw.integers(1, 5, (m, n)), 0)
    X[:, 0], X[:, n - 1] = draw.integers(1, 5, m), 0
    found: np.ndarray = X.astype(float)
    return found


def _moved(X: Any, loss: Any, solver: Any = None, eta: float = STEP, **words: Any) -> Any:
    m, n = X.shape
    start = lfm_np.Factors(np.zeros((m, 2)), np.zeros((n, 2)), item_bias=np.zeros(n))
    given = {"epochs": 1, "dtype": "float64", "random_state": 3, **words}
    return (solver or lfm_np.sgd)(
        sp.csr_array(X) if isinstance(X, np.ndarray) else X, loss, factors=2, learning_rate=eta, regularization=0.0,
        biases="item", init=start, **given,
    )  # fmt: skip


def _tally(X: np.ndarray, fit: Any, M: int, epochs: int) -> np.ndarray:
    """How often every item was drawn."""
    counts: np.ndarray = M * epochs * (X > 0).sum(0) - fit.item_bias / STEP
    return counts


def _shares(X: np.ndarray, beta: float, epochs: int) -> tuple[np.ndarray, np.ndarray]:
    """Expected draws of an item, and their variance, at one negative a cell."""
    p = np.where((X > 0).sum(0) > 0, np.maximum((X > 0).sum(0), 1.0) ** beta, 1.0 if beta == 0 else 0.0)
    q = np.where(X > 0, 0, p)
    q = q / q.sum(1, keepdims=True)
    times = epochs * (X > 0).sum(1)
    return times @ q, times @ (q * (1 - q))


def _totals() -> list[str]:
    X = _cells()
    fit = _moved(X, Linear(), negatives=3, epochs=4)
    drawn = _tally(X, fit, 3, 4)
    return wrong(
        whole=np.array_equal(drawn, np.round(drawn)) and drawn.min() >= 0,
        all=drawn.sum() == 12 * (X > 0).sum(),
        everybodys=drawn[0] == 0,
        nobodys=drawn[-1] > 0,
        still=not fit.user_factors.any() and not fit.item_factors.any(),
    )


def _spread(sampler: Any, beta: float, wrap: Callable[[np.ndarray], Any] = sp.csr_array) -> list[str]:
    X = _cells(seed=2)
    fit = _moved(wrap(X), Linear(), sampler=sampler, epochs=40)
    drawn, (mean, variance) = _tally(X, fit, 1, 40), _shares(X, beta, 40)
    return wrong(
        shares=bool((abs(drawn - mean) <= 6 * np.sqrt(variance) + 1e-9).all()),
        all=drawn.sum() == 40 * (X > 0).sum(),
    )


def _interactions(X: np.ndarray) -> Any:
    rows, columns = np.nonzero(X)
    items = np.arange(X.shape[1])
    return lfm_np.Interactions(
        sp.coo_array((X[rows, columns], (rows, columns)), shape=X.shape), np.arange(len(X)), items
    )


def _weighed() -> list[str]:
    """The value multiplies both moves; cells that come twice are one cell of their sum."""
    X = _cells(seed=4)
    rows, columns = np.nonzero(X)
    twice = sp.coo_array((np.r_[X[rows, columns], 1.0, 2.0], (np.r_[rows, 5, 5], np.r_[columns, 0, 0])), shape=X.shape)
    fit = _moved(twice, LinearWeighted(), negatives=2, epochs=3)
    return wrong(
        zero=abs(fit.item_bias.sum()) < 1e-12,
        everybodys=fit.item_bias[0] == STEP * 6 * (X[:, 0].sum() + 3),
        unchanged=twice.nnz == len(rows) + 2,
    )


def _nothing_to_draw() -> list[str]:
    """Who has everything is passed over, and said to be; who lacks one item draws that."""
    X = np.array([[1.0, 2, 3, 1], [1, 1, 1, 0], [0, 0, 5, 0]])
    fit = _moved(X, Linear(), negatives=5, epochs=2)
    drawn = 10 * np.array([1, 1, 2, 0]) - fit.item_bias / STEP
    return wrong(
        skipped=fit.params["skipped_rows"] == 1,
        drawn=drawn.sum() == 40 and drawn[2] == 0 and drawn[3] >= 30,
    )


def _explicit_zeros() -> list[str]:
    """A stored zero is no click: it can be drawn. For a loss of values it is one, and cannot."""
    X = sp.csr_array((np.array([1.0, 0.0]), np.array([0, 1]), np.array([0, 2])), shape=(1, 3))
    clicks = _moved(X[:, :2], Linear(), negatives=2, epochs=3)
    values = _moved(X, OfZeros(), negatives=2, epochs=3)
    return wrong(
        clicks=clicks.item_bias.tolist() == [6 * STEP, -6 * STEP] and clicks.params["zeros"] == "drop",
        values=values.item_bias.tolist() == [0.0, -3 * STEP, -12 * STEP] and values.params["zeros"] == "keep",
        lists=clicks.recommend(0, N=2, seen=X[:, :2]).ids.tolist() == [1, -1]
        and values.recommend(0, N=2, seen=X).ids.tolist() == [2, -1],
    )


def _listed() -> list[str]:
    X = _cells(seed=6)
    fit = _moved(X, Sums(), negatives=4, epochs=3)
    drawn = _tally(X, fit, 4, 3)
    return wrong(
        all=drawn.sum() == 12 * (X > 0).sum(), everybodys=drawn[0] == 0, whole=np.array_equal(drawn, np.round(drawn))
    )


def _logq(temperature: float) -> list[str]:
    """A score of 0 arrives as −T·log(M·q), q = 1 over the number of items that the row lacks."""
    X = _cells(seed=7)
    fit = _moved(X, CorrectedSums(temperature), eta=1e-13, negatives=3)
    has = (X > 0).sum(1)
    mine = (has * -3 * temperature * np.log(3 / (13 - has))).sum() / has.sum()
    return wrong(paid=close(fit.history[0]["sampled_loss"], mine, 1e-9))


def _tried() -> list[str]:
    """A first trial that violates: the rank is n - 1."""
    X = _cells(seed=8)
    fit = _moved(X, LinearTried(), epochs=2)
    return wrong(
        weight=close(fit.item_bias[0], 2 * 40 * STEP * math.log(13), 1e-9),
        paid=close(fit.history[0]["sampled_loss"], 50 * math.log(13), 0.02),
        zero=abs(fit.item_bias.sum()) < 1e-9,
    )


def _by_torch(sampler: Any) -> list[str]:
    """Of one seed the first negatives are the same, so that sums of moves that do not depend on scores are."""
    X = _cells(seed=9)
    here, there = (
        _moved(X, Linear(), solver, sampler=sampler, epochs=3) for solver in (None, lfm_np.torch_backend.sgd)
    )
    drawn = _tally(X, there, 1, 3)
    return wrong(
        same=np.array_equal(here.item_bias, there.item_bias), all=drawn.sum() == 3 * (X > 0).sum() and drawn[0] == 0
    )


def _hardest() -> list[str]:
    """The best of three uniform draws has rank r with ((N − r)³ − (N − r − 1)³)/N³, all over by torch."""
    m, n, times = 60, 9, 30
    X = np.zeros((m, n))
    X[:, 4] = 1.0
    start = lfm_np.Factors(np.zeros((m, 1)), np.zeros((n, 1)), item_bias=-np.arange(9.0))
    fit = lfm_np.torch_backend.sgd(
        sp.csr_array(X), Linear(), sampler=sampling.Hard(3), factors=1, learning_rate=2.0**-20, regularization=0.0,
        biases="item", epochs=times, init=start, dtype="float64", random_state=1,
    )  # fmt: skip
    drawn = np.delete(np.round((-np.arange(9.0) - fit.item_bias) * 2**20), 4)
    p = np.array([((8 - r) ** 3 - (7 - r) ** 3) / 512 for r in range(8)])
    return wrong(
        all=drawn.sum() == m * times, shares=bool((abs(drawn - m * times * p) <= 6 * np.sqrt(m * times * p)).all())
    )


def _broken_off() -> list[str]:
    """A break does not change what is drawn afterwards, with more threads either."""
    X = _cells(seed=10)
    with folder() as place:
        _moved(X, Linear(), negatives=2, epochs=2, checkpoint=place / "c", sampler=sampling.Popularity())
        again = _moved(
            X, Linear(), negatives=2, epochs=5, checkpoint=place / "c", sampler=sampling.Popularity(), num_threads=3
        )
    whole = _moved(X, Linear(), negatives=2, epochs=5, sampler=sampling.Popularity(0.75))
    drawn = _tally(X, again, 2, 5)
    return wrong(bits=same(again, whole), all=drawn.sum() == 10 * (X > 0).sum(), nobodys=drawn[-1] == 0)


ROUND = np.array([[((j - i) % 8 < 3) * (1.0 + (i + j) % 4) for j in range(8)] for i in range(8)])
CIRCLE = {"X": ROUND, "negatives": 3, "sampler": CUBES}
UNEVEN = _cells(12, 9, seed=1)


def _paid(loss: Any, expected: float, X: np.ndarray = UNEVEN, backend: Any = None, **words: Any) -> list[str]:
    """The sampled loss of the first epoch, where every score is 0 and the steps are of next to no length."""
    m, n = X.shape
    start = np.zeros((m, 2)), np.zeros((n, 2))
    if isinstance(loss, losses.CosineContrastive):
        start = np.ones((m, 2)), np.ones((n, 2))
    fit = (backend or lfm_np.sgd)(
        sp.csr_array(X), loss, factors=2, epochs=1, learning_rate=1e-12, regularization=0.0, init=start,
        dtype="float64", random_state=0, **words,
    )  # fmt: skip
    return wrong(paid=close(fit.history[0]["sampled_loss"], expected, 1e-7))


def _paid_by_torch() -> list[str]:
    x, n = UNEVEN[UNEVEN > 0], UNEVEN.shape[1]
    free = np.repeat(n - (UNEVEN > 0).sum(1), (UNEVEN > 0).sum(1))
    table: tuple[tuple[Any, float, dict[str, Any]], ...] = (
        (losses.SampledSoftmax(3.0, weighted=True), float((x * np.log1p(free)).mean()), {"negatives": 4}),
        (losses.Logistic(True), float((x + 3).mean() * math.log(2)), {"negatives": 3}),
        (losses.Poisson(), float((x * np.log(x) - x).mean() + 3), {"negatives": 2}),
        (losses.WARP(0.5, 9), 0.5 * math.log(n), {}),
        (losses.CosineContrastive(0.25, 3.0, True), float(x.mean()) * 2.25, {"negatives": 5}),
        (losses.MarginHinge(2.0, True), 4.0 * float(x.mean()), {"negatives": 2, "sampler": sampling.Popularity(0.5)}),
    )
    return [
        f"{loss}: {fault}"
        for loss, expected, words in table
        for fault in _paid(loss, expected, backend=lfm_np.torch_backend.sgd, **words)
    ]


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    x, n = UNEVEN[UNEVEN > 0], UNEVEN.shape[1]
    free = np.repeat(n - (UNEVEN > 0).sum(1), (UNEVEN > 0).sum(1))
    yield _holds("draws counted, three a cell", _totals)
    yield _holds("draws by popularity squared", lambda: _spread(sampling.Popularity(2.0), 2.0))
    yield _holds("draws by a power of zero, of what nobody has too", lambda: _spread(sampling.Popularity(0.0), 0.0))
    yield _holds("draws by a root, from interactions", lambda: _spread(sampling.Popularity(0.5), 0.5, _interactions))
    yield _holds("draws of a single candidate", lambda: _spread(sampling.Hard(1), 0.0))
    yield _holds("values that weigh, twice stored", _weighed)
    yield _holds("who lacks nothing, and who lacks one", _nothing_to_draw)
    yield _holds("stored zeros, drawn or not", _explicit_zeros)
    yield _holds("draws of a list loss", _listed)
    for temperature in (1.0, 2.5):
        yield _holds(f"log q by a temperature of {temperature}", lambda t=temperature: _logq(t))
    yield _holds("the first trial of a loss of one's own", _tried)
    yield _holds("draws after a break", _broken_off)
    light, heavy = float(np.log1p(free).mean()), float((x * np.log1p(free)).mean())
    paid: tuple[tuple[str, Any, float, dict[str, Any]], ...] = (
        ("BPR, three negatives", losses.BPR(), 3 * math.log(2), {"negatives": 3}),
        ("BPR, hard ones, weighted", losses.BPR(True), float(x.mean()) * math.log(2), {"sampler": HARD}),
        ("MarginHinge", losses.MarginHinge(1.5), 3.0, {"negatives": 2}),
        ("WARP, whose margin is no more", losses.WARP(margin=0.0), 0.0, {}),
        ("WARP, weighted", losses.WARP(0.5, 3, True), float(x.mean()) * 0.5 * math.log(n), {}),
        ("Hinge, weighted", losses.Hinge(True), float(x.mean()) + 4, {"negatives": 4}),
        ("Squared", losses.Squared(), float((x**2).mean()) / 2, {"negatives": 2}),
        ("Poisson", losses.Poisson(), float((x * np.log(x) - x).mean()) + 4, {"negatives": 3}),
        ("softmax of one negative", losses.SampledSoftmax(), light, {}),
        ("softmax of nine, half warm, weighted", losses.SampledSoftmax(0.5, True, True), heavy, {"negatives": 9}),
        ("softmax of five, uncorrected", losses.SampledSoftmax(0.1, False), math.log(6), {"negatives": 5}),
        ("softmax of four, hard ones", losses.SampledSoftmax(), light, {"negatives": 4, "sampler": HARD}),
        ("softmax where all are popular alike", losses.SampledSoftmax(2.0), math.log(6), CIRCLE),
        ("cosines of one", losses.CosineContrastive(0.1, 0.5), 0.45, {"negatives": 7}),
    )  # fmt: skip
    for name, loss, expected, words in paid:
        yield _holds(f"paid at the start: {name}", lambda a=loss, b=expected, w=words: _paid(a, b, **w))
    if installed("torch"):
        for name, sampler in (("uniform", sampling.Uniform()), ("popular", sampling.Popularity())):
            yield _holds(f"draws by torch: {name}", lambda a=sampler: _by_torch(a))
        yield _holds("the best of three, by torch", _hardest)
        yield _holds("paid at the start, by torch", _paid_by_torch)
