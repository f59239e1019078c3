"""The fourth sitting, models: epochs of tiny steps, which move by the sum of all slopes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import scipy.sparse as sp

from .case import Case, Group, installed
from .sentences_by_numpy import lfm_np, losses, near, sampling, sigmoid
from .working_days import faultless, wrong

_holds = faultless(Group("fourth sitting, models"))
SIDES = ("numba", "torch") if installed("torch") else ("numba",)
ETA = 1e-6  # the next order of a move is 1e-6 of it times some thirty slopes, rounding 1e-16 / 1e-6
NEAR = 1e-3


def sgd(side: str) -> Callable[..., Any]:
    return lfm_np.sgd if side == "numba" else lfm_np.torch_backend.sgd


def softplus(x: float) -> float:
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def gram(U: Any, V: Any) -> np.ndarray:
    F = np.vstack([U, V]).astype(np.float64)
    return F @ F.T


class Begun:
    """Factors and biases to start from, and what was added up to move them by."""

    def __init__(self, m: int, n: int, k: int = 3, seed: int = 0, length: bool = False) -> None:
        draw = np.random.default_rng(seed)
        self.U, self.V = draw.normal(0, 0.45, (m, k)), draw.normal(0, 0.45, (n, k))
        if length:
            self.U /= np.linalg.norm(self.U, axis=1)[:, None]
            self.V /= np.linalg.norm(self.V, axis=1)[:, None]
        self.b, self.d = draw.normal(0, 0.3, m), draw.normal(0, 0.3, n)
        self.DU, self.DV = np.zeros((m, k)), np.zeros((n, k))
        self.Db, self.Dd = np.zeros(m), np.zeros(n)
        self.paid = 0.0

    def score(self, u: int, i: int, users: bool = False, items: bool = False, mu: float = 0.0) -> float:
        return float(self.U[u] @ self.V[i] + mu + (self.b[u] if users else 0.0) + (self.d[i] if items else 0.0))

    def add(self, u: int, i: int, slope: float) -> None:
        """The slope by the score of one cell."""
        self.DU[u] += slope * self.V[i]
        self.DV[i] += slope * self.U[u]
        self.Db[u] += slope
        self.Dd[i] += slope

    def hold(self, u: int, i: int, lam: dict[str, float], j: int | None = None, times: int = 1) -> None:
        """λ of the rows of one step."""
        self.DU[u] += lam["user"] * self.U[u]
        self.DV[i] += lam["item"] * self.V[i]
        self.Db[u] += lam["bias"] * self.b[u]
        self.Dd[i] += lam["bias"] * self.d[i]
        if j is not None:
            self.DV[j] += times * lam["negative"] * self.V[j]
            self.Dd[j] += times * lam["bias"] * self.d[j]

    def agrees(self, fit: Any, cells: int, rate: float = 1.0) -> bool:
        """Whether a fit has moved by ETA · rate times what was added up, and paid what it should."""
        F, D = np.vstack([self.U, self.V]), np.vstack([self.DU, self.DV])
        moved = (F @ F.T - gram(fit.user_factors, fit.item_factors)) / (ETA * rate)
        mine = D @ F.T + F @ D.T
        paid = fit.history[0]["sampled_loss"]
        return bool(abs(moved - mine).max() <= NEAR * abs(mine).max()) and abs(paid - self.paid / cells) < NEAR


LAMBDA = {"user": 0.3, "item": 0.5, "negative": 0.7, "bias": 0.9}


class Cauchy:
    """A pointwise loss of one's own: log(1 + (s - t)²) with targets of 1 and -1, times the stored value."""

    targets = (1.0, -1.0)
    weighted = True

    def value(self, score: float, target: float) -> float:
        return math.log1p((score - target) ** 2)

    def gradient(self, score: float, target: float) -> float:
        return 2.0 * (score - target) / (1.0 + (score - target) ** 2)

    def torch_value(self, score: Any, target: Any) -> Any:
        return ((score - target) ** 2).log1p()


def scattered() -> np.ndarray:
    """The stored cells (u, i, x) of 12 × 9, in the order of CSR."""
    draw = np.random.default_rng(3)
    cells = [(u, i) for u in range(12) for i in range(9) if draw.random() < 0.45 or i == u % 9]
    return np.array([(u, i, draw.integers(1, 17) / 4) for u, i in cells])


def matrix(cells: Any, shape: tuple[int, int] = (12, 9)) -> sp.csr_array:
    rows, columns, values = np.array(cells).T
    return sp.csr_array((values, (rows.astype(int), columns.astype(int))), shape=shape)


POINTS: dict[str, tuple[Any, Callable[[float, float], tuple[float, float]]]] = {
    "Squared": (losses.Squared(), lambda s, x: ((s - x) ** 2 / 2, s - x)),
    "Poisson": (losses.Poisson(), lambda s, x: (math.exp(s) - x * s + x * math.log(x) - x, math.exp(s) - x)),
    "Hinge": (losses.Hinge(True), lambda s, x: (x * max(0.0, 1 - s), -x if s < 1 else 0.0)),
    "Logistic": (losses.Logistic(True), lambda s, x: (x * softplus(-s), -x * sigmoid(-s))),
    "own": (
        Cauchy(),
        lambda s, x: (x * math.log1p((s - 1) ** 2), x * 2 * (s - 1) / (1 + (s - 1) ** 2)),
    ),
}


def _once_each(start: Begun, cells: Any, of: Any) -> None:
    """An epoch of every stored cell, against a loss ``of`` score and value."""
    for u, i, x in cells:
        paid, slope = of(start.score(int(u), int(i)), float(x))
        start.paid += paid
        start.add(int(u), int(i), slope)
        start.hold(int(u), int(i), LAMBDA)


def _without_negatives(side: str) -> list[str]:
    """Every stored cell once; the order does not count in steps as small as these."""
    cells, found = scattered(), {}
    for name, (loss, of) in POINTS.items():
        start = Begun(12, 9)
        _once_each(start, cells, of)
        fit = sgd(side)(
            matrix(cells), loss, sampler=None, factors=3, epochs=1, learning_rate=ETA, regularization=LAMBDA,
            init=(start.U, start.V), dtype="float64", random_state=1,
        )  # fmt: skip
        found[name] = start.agrees(fit, len(cells))
    return wrong(**found)


def _with_biases(side: str) -> list[str]:
    """μ of ratings is their mean, of counts the logarithm of it; biases move by slopes of their own."""
    cells, found = scattered(), {}
    mean = float(cells[:, 2].mean())
    for name, mu in (("Squared", mean), ("Poisson", math.log(mean))):
        loss, of = POINTS[name]
        start = Begun(12, 9, seed=1)
        for u, i, x in cells:
            paid, slope = of(start.score(int(u), int(i), True, True, mu), float(x))
            start.paid += paid
            start.add(int(u), int(i), slope)
            start.hold(int(u), int(i), LAMBDA)
        given = lfm_np.Factors(start.U, start.V, user_bias=start.b, item_bias=start.d, global_bias=7.0)
        fit = sgd(side)(
            matrix(cells), loss, sampler=None, factors=3, epochs=1, learning_rate=ETA, regularization=LAMBDA,
            biases=True, init=given, dtype="float64", random_state=2,
        )  # fmt: skip
        found[f"mean_{name}"] = abs(fit.global_bias - mu) < 1e-6
        found[f"moved_{name}"] = start.agrees(fit, len(cells))
        found[f"users_{name}"] = near((start.b - fit.user_bias) / ETA, start.Db, NEAR)
        found[f"items_{name}"] = near((start.d - fit.item_bias) / ETA, start.Dd, NEAR)
    return wrong(**found)


def _three_epochs(side: str) -> list[str]:
    """Rates of η, η/1.1 and η/1.2 add up, over cells in other orders."""
    cells, found = scattered(), {}
    for schedule, rate in (("inverse", 1 + 1 / 1.1 + 1 / 1.2), ("constant", 3.0)):
        loss, of = POINTS["Squared"]
        start = Begun(12, 9, seed=2)
        _once_each(start, cells, of)
        fit = sgd(side)(
            matrix(cells), loss, sampler=None, factors=3, epochs=3, learning_rate=ETA, regularization=LAMBDA,
            schedule=schedule, init=(start.U, start.V), dtype="float64", random_state=5,
        )  # fmt: skip
        found[schedule] = start.agrees(fit, len(cells), rate)
    return wrong(**found)


def all_but_one(m: int = 9, n: int = 7) -> np.ndarray:
    """User u has all items but u mod n, which is the only one that can be drawn; every item has seven cells or more."""
    draw = np.random.default_rng(4)
    return np.array([(u, i, draw.integers(2, 13) / 4) for u in range(m) for i in range(n) if i != u % n])


SAMPLERS = (sampling.Uniform(), sampling.Popularity(3.0), sampling.Hard(3))


def _one_left(side: str, kinds: dict[str, Any], M: int, lam: dict[str, float], samplers: Any) -> list[str]:
    """``of(s, t, x)`` says what a step pays, and its slopes by the stored score and by the drawn one, M times over."""
    cells, found = all_but_one(), {}
    for name, (loss, of) in kinds.items():
        start = Begun(9, 7, seed=3)
        for u, i, x in cells:
            j = int(u) % 7
            paid, by_stored, by_drawn = of(start.score(int(u), int(i)), start.score(int(u), j), float(x))
            start.paid += paid
            start.add(int(u), int(i), by_stored)
            start.add(int(u), j, by_drawn)
            start.hold(int(u), int(i), lam, j, M)
        for sampler in samplers:
            fit = sgd(side)(
                matrix(cells, (9, 7)), loss, sampler=sampler, negatives=M, factors=3, epochs=1, learning_rate=ETA,
                regularization=lam, init=(start.U, start.V), dtype="float64", random_state=3,
            )  # fmt: skip
            found[f"{name}_{type(sampler).__name__}"] = start.agrees(fit, len(cells))
            found[f"{name}_nobody"] = fit.params["skipped_rows"] == 0
    return wrong(**found)


def pairs(M: int) -> dict[str, Any]:
    def apart(s: float, t: float, x: float) -> tuple[float, float, float]:
        on = float(s - t < 0.4)
        return M * on * (0.4 - s + t), -M * on, M * on

    return {
        "BPR": (
            losses.BPR(True),
            lambda s, t, x: (M * x * softplus(t - s), -M * x * sigmoid(t - s), M * x * sigmoid(t - s)),
        ),
        "MarginHinge": (losses.MarginHinge(0.4), apart),
    }


def points(M: int) -> dict[str, Any]:
    return {
        "Logistic": (
            losses.Logistic(True),
            lambda s, t, x: (x * softplus(-s) + M * softplus(t), -x * sigmoid(-s), M * sigmoid(t)),
        ),
        "Squared": (losses.Squared(), lambda s, t, x: ((s - x) ** 2 / 2 + M * t * t / 2, s - x, M * t)),
        "Poisson": (
            losses.Poisson(),
            lambda s, t, x: (
                math.exp(s) - x * s + x * math.log(x) - x + M * math.exp(t),
                math.exp(s) - x,
                M * math.exp(t),
            ),
        ),
    }


def lists(M: int) -> dict[str, Any]:
    """Corrected, M copies of a draw of probability 1 count as one; uncorrected, as M."""

    def softmax(T: float, shift: float, weighted: bool) -> Callable[[float, float, float], tuple[float, float, float]]:
        def of(s: float, t: float, x: float) -> tuple[float, float, float]:
            w, z = (x if weighted else 1.0), (t - s) / T + shift
            return w * softplus(z), -w * sigmoid(z) / T, w * sigmoid(z) / T

        return of

    return {
        "corrected": (losses.SampledSoftmax(0.7, weighted=True), softmax(0.7, 0.0, True)),
        "plain": (losses.SampledSoftmax(1.5, correct_logq=False), softmax(1.5, math.log(M), False)),
    }


def warp() -> dict[str, Any]:
    """The first trial is below the margin: the rank is n - 1 = 6, and the step weighs log 7."""
    return {
        "WARP": (
            losses.WARP(margin=9.0, weighted=True),
            lambda s, t, x: (x * math.log(7) * (9 - s + t), -x * math.log(7), x * math.log(7)),
        )
    }


def _cosines_left(side: str) -> list[str]:
    """Slopes along the sphere; three copies of one negative weigh a third of 1.7 each."""
    cells = all_but_one()
    start = Begun(9, 7, seed=5, length=True)
    for u, i, x in cells:
        u, i, j = int(u), int(i), int(u) % 7
        s, t = start.score(u, i), start.score(u, j)
        near_by = 1.7 * float(t > 0.2) * float(x)
        start.paid += float(x) * (1 - s) + near_by * (t - 0.2)
        start.DU[u] += -x * (start.V[i] - s * start.U[u]) + near_by * (start.V[j] - t * start.U[u])
        start.DV[i] += -x * (start.U[u] - s * start.V[i])
        start.DV[j] += near_by * (start.U[u] - t * start.V[j])
    fit = sgd(side)(
        matrix(cells, (9, 7)), losses.CosineContrastive(0.2, 1.7, weighted=True), negatives=3, factors=3, epochs=1,
        learning_rate=ETA, regularization=0.0, init=(start.U, start.V), dtype="float64", random_state=3,
    )  # fmt: skip
    rows = np.vstack([fit.user_factors, fit.item_factors])
    return wrong(moved=start.agrees(fit, len(cells)), length=near((rows**2).sum(1), np.ones(16), 1e-12))


def _biases_left(side: str) -> list[str]:
    """μ of clicks with two negatives each is that of a third; pairs, with one, have no μ, and biases of items only."""
    cells, found = all_but_one(), {}
    X = matrix(cells, (9, 7))
    for name, loss, mu in (("Logistic", losses.Logistic(), math.log(1 / 2)), ("BPR", losses.BPR(), 0.0)):
        start, users = Begun(9, 7, seed=6), name == "Logistic"
        M, lam = (2, {**LAMBDA, "bias": 0.0}) if users else (1, LAMBDA)
        for u, i, _x in cells:
            u, i, j = int(u), int(i), int(u) % 7
            s, t = start.score(u, i, users, True, mu), start.score(u, j, users, True, mu)
            if users:
                paid, by_stored, by_drawn = softplus(-s) + 2 * softplus(t), -sigmoid(-s), 2 * sigmoid(t)
            else:
                paid, by_stored, by_drawn = softplus(t - s), -sigmoid(t - s), sigmoid(t - s)
            start.paid += paid
            start.add(u, i, by_stored)
            start.add(u, j, by_drawn)
            start.hold(u, i, lam, j, M)
        given = lfm_np.Factors(start.U, start.V, user_bias=start.b, item_bias=start.d)
        fit = sgd(side)(
            X, loss, negatives=M, factors=3, epochs=1, learning_rate=ETA, regularization=lam,
            biases=True if users else "item", init=given, dtype="float64", random_state=2,
        )  # fmt: skip
        found[f"moved_{name}"] = start.agrees(fit, len(cells))
        found[f"items_{name}"] = near((start.d - fit.item_bias) / ETA, start.Dd, NEAR)
        if users:
            found["mean"] = abs(fit.global_bias - mu) < 1e-6
            found["users"] = near((start.b - fit.user_bias) / ETA, start.Db, NEAR)
        else:
            found["none"] = fit.user_bias is None and fit.global_bias is None
    return wrong(**found)


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    for side in SIDES:
        some = SAMPLERS if side == "numba" else SAMPLERS[1:]
        yield _holds(f"an epoch adds up its slopes, {side}", lambda s=side: _without_negatives(s))
        yield _holds(f"an epoch adds up slopes of biases, {side}", lambda s=side: _with_biases(s))
        yield _holds(f"three epochs add up their rates, {side}", lambda s=side: _three_epochs(s))
        for name, kinds, M in (("pairs", pairs(2), 2), ("cells", points(3), 3), ("lists", lists(3), 3)):
            yield _holds(
                f"one item left to draw, {name}, {side}",
                lambda s=side, a=kinds, b=M, c=some: _one_left(s, a, b, LAMBDA, c),
            )
        yield _holds(
            f"one item left to draw, WARP, {side}", lambda s=side: _one_left(s, warp(), 1, LAMBDA, SAMPLERS[:2])
        )
        yield _holds(f"one item left to draw, cosines, {side}", lambda s=side: _cosines_left(s))
        yield _holds(f"one item left to draw, biases, {side}", lambda s=side: _biases_left(s))
