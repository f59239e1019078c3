"""The second sitting, models: steps of `sgd` that can be foretold, and draws that are counted one by one."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import scipy.sparse as sp

from .case import Case, Group, installed
from .cases_second_sitting_models_of_engines import counts, lfm_np, near
from .working_days import all_scores, csr, faultless, wrong

losses: Any = lfm_np.losses
sampling: Any = lfm_np.sampling
_holds = faultless(Group("second sitting, models"))

ETA = 0.0625
START = np.array([[0.5, -0.2, 0.4]]), np.array([[0.1, 0.7, -0.3], [0.6, 0.2, 0.5]])


def by_numba(X: Any, loss: Any, **words: Any) -> Any:
    return lfm_np.sgd(X, loss, dtype="float64", **words)


def by_torch(X: Any, loss: Any, **words: Any) -> Any:
    return lfm_np.torch_backend.sgd(X, loss, dtype="float64", num_threads=1, **words)


def sides() -> list[tuple[str, Callable[..., Any]]]:
    return [("numba", by_numba)] + ([("torch", by_torch)] if installed("torch") else [])


def gram(*rows: Any) -> np.ndarray:
    """What a turn of the factors leaves as it is."""
    F = np.vstack([np.asarray(row, np.float64) for row in rows])
    return F @ F.T


def forced(fit: Callable[..., Any], loss: Any, value: float, start: Any = START, **words: Any) -> Any:
    """One user who has item 0 of two."""
    given = {"factors": 3, "epochs": 1, "learning_rate": ETA, "regularization": 0.0, "random_state": 0, **words}
    return fit(sp.csr_array(([value], ([0], [0])), shape=(1, 2)), loss, init=start, **given)


def drawn(fit: Callable[..., Any], has: np.ndarray, sampler: Any, M: int, epochs: int, seed: int) -> np.ndarray:
    """How often BPR drew every item for every user, and below 0 how often it stepped for the stored ones.

    Users are unit vectors and items next to nothing: each step moves an item by η/2 along its user, to a share of
    about 1e-5. Items lie 1e-7 apart, for samplers that look, which no sum of moves (1e-8) changes.
    """
    m, n = has.shape
    eta, begin = 1e-12, 1e-7 * np.outer(np.arange(n), np.ones(m))
    got = fit(
        sp.csr_array(has.astype(float)), losses.BPR(), sampler=sampler, negatives=M, factors=m, epochs=epochs,
        learning_rate=eta, regularization=0.0, init=(np.eye(m), begin), random_state=seed,
    )  # fmt: skip
    moved = (begin.T - all_scores(got)) / (eta / 2)
    found = np.rint(moved)
    assert abs(moved - found).max() < 0.1, "no whole numbers of steps"
    return found


def rows_of(m: int, n: int, seed: int) -> np.ndarray:
    """Every item but the last is somebody's, and every row leaves some."""
    draw = np.random.default_rng(seed)
    has = draw.random((m, n)) < np.linspace(0.5, 0.1, n)
    has[np.arange(n) % m, np.arange(n)] = True
    has[:, -1] = False
    assert has.any(1).all()
    return has


def _scattered(found: np.ndarray, has: np.ndarray, q: np.ndarray, epochs: int, M: int) -> list[str]:
    """Each stored cell steps M times an epoch, and draws scatter no more than chance lets them: χ² of its mean and
    deviation (a cell of e expected draws has a variance of 2 + 1/e), M times those where M draws go together.
    """
    steps = has.sum(1) * epochs
    expected = (steps[:, None] * q)[~has]
    some = expected >= 1
    apart = (found[~has] / M - expected)[some]
    chi = M * float((apart**2 / expected[some]).sum())
    freedom = int(some.sum()) - len(has)
    return wrong(
        stored=bool((found[has] == -M * epochs).all()),
        all=bool((np.where(has, 0, found).sum(1) == M * steps).all()),
        none=not found[~has][expected == 0].any(),
        by_q=freedom / (3 * M) < chi < M * (freedom + 8 * math.sqrt(float((2 + 1 / expected[some]).sum()))),
    )


def _draws(fit: Callable[..., Any], sampler: Any, q_of: Callable[[np.ndarray], np.ndarray], M: int) -> list[str]:
    has, epochs = rows_of(8, 20, 31), 150
    q = np.where(has, 0.0, q_of(has.sum(0).astype(float)))
    q /= q.sum(1, keepdims=True)
    return _scattered(drawn(fit, has, sampler, M, epochs, 32), has, q, epochs, M)


def _hardest() -> list[str]:
    """The best of five draws from f: rank r has ((f - r + 1)⁵ - (f - r)⁵)/f⁵ of them."""
    has, epochs = rows_of(8, 20, 33), 150
    q = np.zeros(has.shape)
    for u in range(8):
        free = np.flatnonzero(~has[u])[::-1]  # the best first
        f = len(free)
        q[u, free] = [((f - r + 1) ** 5 - (f - r) ** 5) / f**5 for r in range(1, f + 1)]
    return _scattered(drawn(by_torch, has, sampling.Hard(5), 1, epochs, 34), has, q, epochs, 1)


def _first_negatives() -> list[str]:
    """The first negative of a stored cell is the same on both sides, of whatever sampler."""
    has, facts = rows_of(24, 60, 35), {}
    for name, sampler in (("uniform", sampling.Uniform()), ("popular", sampling.Popularity(0.6))):
        one, other = (drawn(fit, has, sampler, 1, 3, 36) for fit in (by_numba, by_torch))
        facts[name] = np.array_equal(one, other) and one.max() > 0
    return wrong(**facts)


def _rank_of_all(fit: Callable[..., Any]) -> list[str]:
    """299 items that are alike: whichever is drawn violates at once, so that the rank is 299, times the value 2.5."""
    u, v, w, eta = np.array([0.6, -0.3]), np.array([0.4, 0.1]), np.array([0.5, 0.2]), 0.01
    begin = lfm_np.Factors(u[None], np.vstack([v, np.tile(w, (299, 1))]), item_bias=np.array([0.1] + [-0.05] * 299))
    s, t = float(u @ v) + 0.1, float(u @ w) - 0.05
    assert s - t < 0.5
    got = fit(
        sp.csr_array(([2.5], ([0], [0])), shape=(1, 300)), losses.WARP(margin=0.5, trials=7, weighted=True),
        factors=2, epochs=1, learning_rate=eta, regularization=0.0, init=begin, biases="item", random_state=3,
    )  # fmt: skip
    g = -2.5 * math.log(300)
    u1, v1, w1 = u - eta * g * (v - w), v - eta * g * u, w + eta * g * u
    mine = [u1 @ w1 - 0.05 + eta * g] + [u1 @ w - 0.05] * 298
    scores = all_scores(got)[0]
    return wrong(
        paid=near(got.history[0]["sampled_loss"], -g * (0.5 - s + t), 1e-12),
        stored=near(scores[0], u1 @ v1 + 0.1 - eta * g, 1e-12),
        others=near(np.sort(scores[1:]), np.sort(mine), 1e-12),
    )


class Angle:
    """A pointwise loss of cosines, with targets, weighted."""

    targets = (1.0, -1.0)
    weighted = True
    cosine = True

    def value(self, score: float, target: float) -> float:
        return 0.5 * (score - target) ** 2

    def gradient(self, score: float, target: float) -> float:
        return score - target

    def torch_value(self, score: Any, target: Any) -> Any:
        return 0.5 * (score - target) ** 2


class Gap:
    """A pairwise loss, weighted."""

    weighted = True

    def __init__(self, margin: float) -> None:
        self.margin = margin

    def value(self, difference: float) -> float:
        gap = max(0.0, self.margin - difference)
        return math.sqrt(1.0 + gap * gap) - 1.0

    def gradient(self, difference: float) -> float:
        gap = max(0.0, self.margin - difference)
        return -gap / math.sqrt(1.0 + gap * gap)

    def torch_value(self, difference: Any) -> Any:
        import torch

        gap = torch.clamp(self.margin - difference, min=0.0)
        return torch.sqrt(1.0 + gap * gap) - 1.0


class Pull:
    """A list loss, whose negatives arrive as s - T·log(M·q)."""

    correct_logq = True
    temperature = 2.0

    def value(self, positive: float, negatives: np.ndarray) -> float:
        total = 1.0
        for score in negatives:
            total += math.exp(min((score - positive) / self.temperature, 700.0))
        return math.log(total)

    def gradient(self, positive: float, negatives: np.ndarray) -> tuple[float, np.ndarray]:
        pulls, total = np.empty(len(negatives)), 1.0
        for m in range(len(negatives)):
            pulls[m] = math.exp(min((negatives[m] - positive) / self.temperature, 700.0))
            total += pulls[m]
        pulls /= total * self.temperature
        return -pulls.sum(), pulls

    def torch_value(self, positive: Any, negatives: Any) -> Any:
        import torch

        both = torch.cat([torch.zeros_like(positive)[:, None], (negatives - positive[:, None]) / self.temperature], 1)
        return torch.logsumexp(both, 1)


def _angle(fit: Callable[..., Any]) -> list[str]:
    u, v, w = (f / np.linalg.norm(f) for f in (START[0][0], *START[1]))
    s, t = float(u @ v), float(u @ w)
    a, b = 3 * (s - 1), t + 1
    rows = [
        u - ETA * (a * (v - s * u) + b * (w - t * u)),
        v - ETA * a * (u - s * v),
        w - ETA * b * (u - t * w),
    ]
    got = forced(fit, Angle(), 3.0, (u[None], np.array([v, w])))
    return wrong(
        paid=near(got.history[0]["sampled_loss"], 1.5 * (s - 1) ** 2 + 0.5 * (t + 1) ** 2, 1e-12),
        cosines=near(
            gram(got.user_factors, got.item_factors), gram(*(row / np.linalg.norm(row) for row in rows)), 1e-10
        ),
    )


def _gap(fit: Callable[..., Any]) -> list[str]:
    u, (v, w) = START[0][0], START[1]
    d = float(u @ (v - w))
    assert d < 2.0
    g = 3 * 1.5 * -(2.0 - d) / math.sqrt(1 + (2.0 - d) ** 2)
    got = forced(fit, Gap(2.0), 1.5, negatives=3)
    return wrong(
        paid=near(got.history[0]["sampled_loss"], 4.5 * (math.sqrt(1 + (2.0 - d) ** 2) - 1), 1e-12),
        moved=near(
            gram(got.user_factors, got.item_factors),
            gram(u - ETA * g * (v - w), v - ETA * g * u, w + ETA * g * u),
            1e-12,
        ),
    )


def _pull(fit: Callable[..., Any]) -> list[str]:
    """Four free items that are alike, so that q is ¼: three draws stand for 4·exp(t/T), whichever they are."""
    u, (v, w) = START[0][0], START[1]
    s, t = float(u @ v) / 2, float(u @ w) / 2
    Z = math.exp(s) + 4 * math.exp(t)
    pull = 4 * math.exp(t) / Z / 2
    got = fit(
        sp.csr_array(([1.0], ([0], [0])), shape=(1, 5)), Pull(), negatives=3, factors=3, epochs=1, learning_rate=ETA,
        regularization=0.0, init=(u[None], np.vstack([v, np.tile(w, (4, 1))])), random_state=5,
    )  # fmt: skip
    V = got.item_factors
    return wrong(
        paid=near(got.history[0]["sampled_loss"], math.log(Z) - s, 1e-12),
        moved=near(
            gram(got.user_factors, V[0], V[1:].sum(0)),
            gram(u - ETA * pull * (w - v), v + ETA * pull * u, 4 * w - ETA * pull * u),
            1e-12,
        ),
    )


def _rates(fit: Callable[..., Any], schedule: str) -> list[str]:
    """Three steps with item biases, a weight of 1.5, and λ in what a row is moved by."""
    lam = {"user": 0.3, "item": 0.2, "negative": 0.4, "bias": 0.5}
    held = [lam[x] for x in ("user", "item", "negative", "bias", "bias")]
    rows: list[Any] = [START[0][0], *START[1], np.array(0.3), np.array(-0.2)]
    begin = lfm_np.Factors(*START, item_bias=np.array([0.3, -0.2]))
    sums = np.zeros(5)
    for epoch in range(3):
        u, v, w, b, d = rows
        g = -1.5 / (1 + math.exp(float(u @ (v - w)) + float(b - d)))
        slopes = [s + x * f for s, x, f in zip((g * (v - w), g * u, -g * u, g, -g), held, rows)]
        sums += [float(np.mean(np.square(slope))) for slope in slopes]
        rates = ETA / np.sqrt(1 + sums) if schedule == "adagrad" else np.full(5, ETA / (1 + epoch / 10))
        rows = [f - rate * slope for f, rate, slope in zip(rows, rates, slopes)]
    got = forced(
        fit, losses.BPR(weighted=True), 1.5, begin, epochs=3, schedule=schedule, biases="item", regularization=lam
    )
    return wrong(
        moved=near(gram(got.user_factors, got.item_factors), gram(*rows[:3]), 1e-12),
        biases=near(got.item_bias, rows[3:], 1e-12),
    )


def _constants(fit: Callable[..., Any]) -> list[str]:
    """μ alone fits best, in closed form: of built-in losses with and without negatives."""
    X = counts(9, 12, 37)
    values = X[~np.isnan(X)]
    nnz, total = len(values), float(values.sum())
    assert total / nnz > 2
    facts = {}
    for name, loss, M, mine in (
        ("squared", losses.Squared(), 0, total / nnz),
        ("squared_2", losses.Squared(), 2, total / (3 * nnz)),
        ("poisson", losses.Poisson(), 0, math.log(total / nnz)),
        ("poisson_3", losses.Poisson(), 3, math.log(total / (4 * nnz))),
        ("logistic", losses.Logistic(), 0, 0.0),
        ("logistic_4", losses.Logistic(), 4, -math.log(4)),
        ("logistic_weighted", losses.Logistic(weighted=True), 5, math.log(total / (5 * nnz))),
        ("hinge", losses.Hinge(), 0, 0.0),
        ("hinge_3", losses.Hinge(), 3, -1.0),
        ("hinge_weighted", losses.Hinge(weighted=True), 2, 1.0),
        ("bpr", losses.BPR(), 1, 0.0),
    ):
        words = {"negatives": M} if M else {"sampler": None}
        got = fit(csr(X), loss, factors=2, epochs=1, learning_rate=1e-3, biases=True, random_state=0, **words)
        facts[name] = abs(got.global_bias - mine) <= 1e-6 * max(1.0, abs(mine))
    return wrong(**facts)


def _nobodys(fit: Callable[..., Any]) -> list[str]:
    """Row 1 and column 2 are empty: nothing brings them in, where popularity is what is drawn, or nothing is."""
    X = counts(12, 10, 38)
    ranked = fit(
        csr(X), losses.BPR(), sampler=sampling.Popularity(1.0), negatives=3, factors=4, epochs=5, biases="item",
        random_state=1,
    )  # fmt: skip
    rated = fit(csr(X), losses.Squared(), sampler=None, factors=4, epochs=5, biases=True, random_state=1)
    return wrong(
        item=not ranked.item_factors[2].any() and ranked.item_bias[2] == 0,
        user=not ranked.user_factors[1].any(),
        others=bool(np.delete(ranked.item_factors, 2, 0).any(1).all()),
        no_score=ranked.scores(np.arange(12), 2).tolist() == [0.0] * 12,
        only_mean=float(rated.scores(1, 2)) == rated.global_bias,
        no_biases=rated.user_bias[1] == 0 == rated.item_bias[2] and bool(rated.item_bias.any()),
    )


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    samplers = (
        ("Uniform()", sampling.Uniform(), np.ones_like, 3),
        ("Popularity(0.5)", sampling.Popularity(0.5), np.sqrt, 1),
        ("Popularity(2)", sampling.Popularity(2.0), np.square, 3),
    )
    for side, fit in sides():
        for name, sampler, q, M in samplers:
            yield _holds(f"draws of {name}, {M} a step, {side}", lambda f=fit, s=sampler, w=q, M=M: _draws(f, s, w, M))
        yield _holds(f"WARP among 299 that are alike, {side}", lambda f=fit: _rank_of_all(f))
        yield _holds(f"cosines with targets and a weight, {side}", lambda f=fit: _angle(f))
        yield _holds(f"pairs of one's own with a weight, three at a time, {side}", lambda f=fit: _gap(f))
        yield _holds(f"a list of one's own, corrected by its temperature, {side}", lambda f=fit: _pull(f))
        for schedule in ("adagrad", "inverse"):
            yield _holds(f"λ of four kinds, {schedule}, {side}", lambda f=fit, s=schedule: _rates(f, s))
        yield _holds(f"μ of eleven losses in closed form, {side}", lambda f=fit: _constants(f))
        yield _holds(f"who is brought in by nothing, {side}", lambda f=fit: _nobodys(f))
    if installed("torch"):
        yield _holds("the hardest of five, counted", _hardest)
        yield _holds("first negatives of both sides", _first_negatives)
