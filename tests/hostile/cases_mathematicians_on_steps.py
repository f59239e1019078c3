"""Fits of `sgd` whose steps commute, so that a plain loop foretells them, and starts whose payments are known."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp

import lfm_np
from lfm_np import losses, sampling

from .case import Case, Group, installed
from .cases_mathematicians_on_sweeps import canonical, sides
from .places import inside
from .working_days import close, faultless, same, wrong

_GROUP = Group("mathematicians")
_holds = faultless(_GROUP)
ETA = 0.125
ITEMS = np.array([4, 2, 7, 0, 1, 6, 3])  # of users 0 to 6; nobody has item 5, and user 7 has none


class Cosh(NamedTuple):
    def value(self, score: float, target: float) -> float:
        return math.log(math.cosh(score - target))

    def gradient(self, score: float, target: float) -> float:
        return math.tanh(score - target)


class Heavy:
    weighted = True
    targets = (1.5, 0.0)

    def value(self, score: float, target: float) -> float:
        return 0.25 * (score - target) ** 4

    def gradient(self, score: float, target: float) -> float:
        return (score - target) ** 3


class Chain(NamedTuple):
    """What is known of a loss: its value and slope at a score and a stored x, and how x weighs."""

    loss: Any
    value: Callable[[float, float], float]
    slope: Callable[[float, float], float]
    weigh: Callable[[float], float] = lambda x: 1.0


def _softplus(s: float) -> float:
    return max(s, 0.0) + math.log1p(math.exp(-abs(s)))


SQUARED = Chain(losses.Squared(), lambda s, x: (s - x) ** 2 / 2, lambda s, x: s - x)
POISSON = Chain(losses.Poisson(), lambda s, x: math.exp(s) - x * s + x * math.log(x) - x, lambda s, x: math.exp(s) - x)
LOGISTIC = Chain(losses.Logistic(True), lambda s, x: _softplus(-s), lambda s, x: -1 / (1 + math.exp(s)), lambda x: x)
HINGE = Chain(losses.Hinge(), lambda s, x: max(0.0, 1 - s), lambda s, x: -1.0 if s < 1 else 0.0)
COSH = Chain(Cosh(), lambda s, x: math.log(math.cosh(s - x)), lambda s, x: math.tanh(s - x))
HEAVY = Chain(Heavy(), lambda s, x: (s - 1.5) ** 4 / 4, lambda s, x: (s - 1.5) ** 3, lambda x: x)


class Run(NamedTuple):
    """Every user has one item of their own, so that no two steps of an epoch touch the same row."""

    chain: Chain
    values: tuple[float, ...]
    schedule: str = "constant"
    biases: Any = False
    parts: Any = 0.0
    mu: float = 0.0
    k: int = 3
    eta: float = ETA

    @property
    def X(self) -> sp.csr_array:
        return sp.csr_array((np.array(self.values), (np.arange(7), ITEMS)), shape=(8, 8))

    @property
    def start(self) -> tuple[np.ndarray, np.ndarray]:
        draw = np.random.default_rng(1)
        U, V = (draw.normal(0, 0.9 / math.sqrt(self.k), (8, self.k)) for _ in range(2))
        U[7], V[5] = 0, 0
        return U, V

    @property
    def words(self) -> dict[str, Any]:
        return {
            "sampler": None, "factors": self.k, "learning_rate": self.eta, "schedule": self.schedule,
            "biases": self.biases, "regularization": self.parts, "dtype": "float64", "random_state": 3,
        }  # fmt: skip

    def fit(self, epochs: int, sgd: Any = None, **words: Any) -> Any:
        given = {**self.words, "init": self.start, **words}
        return (sgd or lfm_np.sgd)(self.X, self.chain.loss, epochs=epochs, **given)

    def loop(self, epochs: int, start: Any = None) -> tuple[Any, list[float]]:
        """U, V, b, d after so many epochs, and what each paid."""
        U, V = (start or self.start)[:2]
        U, V = U.copy(), V.copy()
        b, d = (np.zeros(8), np.zeros(8)) if start is None else (start[2].copy(), start[3].copy())
        lam = self.parts if isinstance(self.parts, dict) else dict.fromkeys(("user", "item", "bias"), self.parts)
        held = [lam.get(name, 0.0) for name in ("user", "item", "bias", "bias")]
        use = [True, True, self.biases is True, self.biases in (True, "item")]
        sums, paid = np.zeros((8, 4)), []
        for epoch in range(epochs):
            total = 0.0
            for u, (i, x) in enumerate(zip(ITEMS, self.values, strict=True)):
                s = self.mu + b[u] + d[i] + float(U[u] @ V[i])
                w = self.chain.weigh(x)
                total += w * self.chain.value(s, x)
                g = w * self.chain.slope(s, x)
                rows = [U[u].copy(), V[i].copy(), b[u], d[i]]
                slopes = [g * rows[1], g * rows[0], g, g]
                for n, (row, slope) in enumerate(zip(rows, slopes, strict=True)):
                    move = slope + held[n] * row
                    rate = self.eta
                    if self.schedule == "inverse":
                        rate /= 1 + epoch / 10
                    elif self.schedule == "adagrad":
                        sums[u, n] += float(np.mean(np.square(move)))
                        rate /= math.sqrt(1 + sums[u, n])
                    rows[n] = row - rate * move if use[n] else row
                U[u], V[i], b[u], d[i] = rows
            paid.append(total / 7)
        return (U, V, b, d), paid

    def beside(self, fit: Any, epochs: int, start: Any = None, relative: float = 1e-10) -> list[str]:
        (U, V, b, d), paid = self.loop(epochs, start)
        found, mine = np.vstack(sides(fit)[:2]), np.vstack([U, V])
        return wrong(
            factors=close(found @ found.T, mine @ mine.T, relative),
            paid=close([r["sampled_loss"] for r in fit.history], paid, relative),
            users=fit.user_bias is None if self.biases is not True else close(fit.user_bias, b, relative),
            items=fit.item_bias is None if self.biases is False else close(fit.item_bias, d, relative),
            μ=self.biases is not True or abs(fit.global_bias - self.mu) <= 1e-7,
            canonical=canonical(fit, relative),
        )


STARS = (3.0, -1.5, 0.0, 4.0, 2.0, 1.0, 5.5)
COUNTS = (1.0, 3.0, 2.0, 7.0, 1.0, 4.0, 2.0)
MEAN = sum(STARS) / 7
PARTS = {"user": 0.3, "item": 0.1, "bias": 0.6}


def _best(slope: Callable[[float], float]) -> float:
    """Where a rising function is 0."""
    low, high = -50.0, 50.0
    for _ in range(200):
        mid = (low + high) / 2
        low, high = (mid, high) if slope(mid) < 0 else (low, mid)
    return low


def _resumed(path: Path) -> list[str]:
    """The sums of Adagrad are in the checkpoint; each part with other threads."""
    run = Run(SQUARED, STARS, "adagrad", True, PARTS, MEAN)
    run.fit(2, checkpoint=path / "fit", num_threads=1)
    run.fit(5, checkpoint=path / "fit", num_threads=3)
    fit = run.fit(8, checkpoint=path / "fit", num_threads=2)
    return run.beside(fit, 8) + wrong(bits=same(fit, run.fit(8)))


def _resumed_own(path: Path) -> list[str]:
    """So is the epoch that `inverse` counts, of a loss of one's own."""
    run = Run(HEAVY, COUNTS, "inverse", "item", 0.05, eta=2e-4)
    run.fit(4, checkpoint=lfm_np.Checkpoint(path / "fit", every=60))
    return run.beside(run.fit(9, checkpoint=path / "fit"), 9)


def _begun_anew() -> list[str]:
    """Factors as a start bring their biases; the schedule begins again."""
    run = Run(SQUARED, STARS, "inverse", True, PARTS, MEAN)
    fit = run.fit(3, init=run.fit(4))
    first, _ = run.loop(4)
    return run.beside(fit, 3, first)


def _stops() -> list[str]:
    run = Run(POISSON, COUNTS, "constant", False, 0.01, eta=0.03)
    _, paid = run.loop(30)
    drops = [(a - b) / a for a, b in itertools.pairwise(paid)]
    share = math.sqrt(drops[3] * drops[4])
    last = next(t for t, drop in enumerate(drops, 2) if drop < share)
    fit = run.fit(30, tolerance=share)
    return wrong(
        epochs=len(fit.history) == last,
        status=fit.status == lfm_np.Status.CONVERGED,
        paid=close([r["sampled_loss"] for r in fit.history], paid[:last], 1e-10),
    )


def _rises() -> list[str]:
    """A loss that rises is no share below that of the epoch before."""
    run = Run(SQUARED, tuple(20 * x for x in STARS), eta=0.077)
    _, paid = run.loop(2)
    assert paid[1] > 1.05 * paid[0]
    fit = run.fit(6, tolerance=1e-6)
    return wrong(
        status=fit.status == lfm_np.Status.CONVERGED,
        paid=close([r["sampled_loss"] for r in fit.history], paid, 1e-10),
    )


def _watched() -> list[str]:
    """Biases and canonical factors in a callback that ends the run."""
    run, seen = Run(SQUARED, STARS, "adagrad", True, PARTS, MEAN), []

    def look(record: dict[str, Any], factors: Any) -> None:
        (U, V, b, d), paid = run.loop(record["iteration"])
        found, mine = np.vstack(sides(factors)[:2]), np.vstack([U, V])
        seen.append(
            close(found @ found.T, mine @ mine.T, 1e-10)
            and close(factors.user_bias, b, 1e-10)
            and close(factors.item_bias, d, 1e-10)
            and close(record["sampled_loss"], paid[-1], 1e-10)
        )
        if record["iteration"] == 3:
            raise StopIteration

    fit = run.fit(7, callback=look)
    return run.beside(fit, 3) + wrong(seen=seen == [True] * 3, status=fit.status == lfm_np.Status.STOPPED)


def _small() -> list[str]:
    run = Run(LOGISTIC, COUNTS, "adagrad", True, 0.1, 0.0, 33)
    fit = run.fit(4, dtype="float32")
    return run.beside(fit, 4, relative=2e-5) + wrong(type=fit.user_factors.dtype == np.float32)


def _by_torch(run: Run, epochs: int, batch: int) -> list[str]:
    return run.beside(run.fit(epochs, lfm_np.torch_backend.sgd, batch_size=batch), epochs, relative=1e-9)


def _orders() -> list[str]:
    """Three ratings of one user: any of six orders in either epoch, and not always the same."""
    draw = np.random.default_rng(0)
    U0, V0, x = draw.normal(0, 0.7, (1, 2)), draw.normal(0, 0.7, (3, 2)), (1.0, -2.0, 3.0)

    def moved(orders: Any) -> np.ndarray:
        u, V = U0[0].copy(), V0.copy()
        for i in itertools.chain(*orders):
            e = u @ V[i] - x[i]
            u, V[i] = u - ETA * (e * V[i] + 0.2 * u), V[i] - ETA * (e * u + 0.2 * V[i])
        F = np.vstack([u, V])
        return F @ F.T

    ways = {both: moved(both) for both in itertools.product(itertools.permutations(range(3)), repeat=2)}
    found = set()
    for seed in range(12):
        fit = lfm_np.sgd(
            sp.csr_array([x]), losses.Squared(), sampler=None, factors=2, epochs=2, init=(U0, V0), learning_rate=ETA,
            regularization=0.2, dtype="float64", random_state=seed,
        )  # fmt: skip
        F = np.vstack(sides(fit)[:2])
        found.add(next((both for both, G in ways.items() if close(F @ F.T, G, 1e-12)), None))
    return wrong(
        known=None not in found, several=len(found) > 2, apart=any(both and both[0] != both[1] for both in found)
    )


def _decays(schedule: str, sampled: bool) -> list[str]:
    """Nothing is to be paid, so that λ alone moves a row, once a stored cell, in whatever order."""
    draw = np.random.default_rng(5)
    cells = draw.random((9, 7)) < 0.5
    cells[np.arange(9), np.arange(9) % 7], cells[np.arange(9), (np.arange(9) + 3) % 7] = True, False
    U, V, b, d = (draw.uniform(1.5, 2.5, shape) for shape in ((9, 2), (7, 2), 9, 7))
    loss: Any = losses.MarginHinge(margin=-100.0) if sampled else losses.Hinge()
    parts = {"user": 0.3, "item": 0.2, "bias": 0.4, "negative": 0.0}
    biases: Any = "item" if sampled else True
    start = lfm_np.Factors(U, V, item_bias=d) if sampled else lfm_np.Factors(U, V, user_bias=b, item_bias=d)
    drawn: dict[str, Any] = {"sampler": sampling.Uniform(), "negatives": 2} if sampled else {"sampler": None}
    fit = lfm_np.sgd(
        sp.csr_array(cells.astype(float)), loss, factors=2, epochs=3, init=start, learning_rate=0.05, schedule=schedule,
        regularization=parts, biases=biases, dtype="float64", random_state=0, **drawn,
    )  # fmt: skip
    rates = [0.05 / (1 + e / 10) if schedule == "inverse" else 0.05 for e in range(3)]

    def left(lam: float, counts: np.ndarray) -> np.ndarray:
        return np.prod([(1 - rate * lam) ** counts for rate in rates], axis=0)

    users, items = cells.sum(1), cells.sum(0)
    mine = np.vstack([U * left(0.3, users)[:, None], V * left(0.2, items)[:, None]])
    found = np.vstack(sides(fit)[:2])
    facts = {"factors": close(found @ found.T, mine @ mine.T, 1e-12), "paid": fit.history[-1]["sampled_loss"] == 0}
    if sampled:  # the negative's bias is moved by its λ too, so that only one that is never drawn is known
        return wrong(**facts)
    return wrong(
        **facts,
        users=close(fit.user_bias, b * left(0.4, users), 1e-12),
        items=close(fit.item_bias, d * left(0.4, items), 1e-12),
    )


def _starting_rows() -> list[str]:
    """Uniform, of standard deviation 0.1/√k, and 0 without a cell."""
    draw = np.random.default_rng(0)
    rows, columns = draw.integers(0, 500, 4000), draw.integers(0, 400, 4000)
    X = lfm_np.to_csr(np.column_stack([rows * 2, columns]), shape=(1001, 450))
    fit = lfm_np.sgd(
        X, losses.Squared(), sampler=None, factors=16, epochs=1, learning_rate=1e-13, regularization=0.0,
        dtype="float64", random_state=4,
    )  # fmt: skip
    facts = {}
    for name, F, has in (
        ("users", fit.user_factors, np.diff(X.indptr) > 0),
        ("items", fit.item_factors, np.bincount(X.indices, minlength=450) > 0),
    ):
        squares = (F[has] ** 2).sum(1)
        facts[f"zero {name}"] = not F[~has].any()
        facts[f"size of {name}"] = abs(squares.mean() / 0.01 - 1) < 0.08
        facts[f"bound of {name}"] = squares.max() < 0.03 * (1 + 1e-9)
        facts[f"shape of {name}"] = abs(squares.var() * 16 / 0.01**2 - 0.8) < 0.3
    return wrong(**facts)


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    log_mean = math.log(sum(COUNTS) / 7)
    cosh = _best(lambda c: sum(math.tanh(c - x) for x in STARS))
    for name, run, epochs in (
        ("ratings, biases, Adagrad, parts of λ", Run(SQUARED, STARS, "adagrad", True, PARTS, MEAN), 6),
        ("ratings, biases, one λ", Run(SQUARED, STARS, "constant", True, 0.2, MEAN, 1), 5),
        ("ratings, biases of items, inverse", Run(SQUARED, STARS, "inverse", "item", PARTS, k=17), 12),
        ("ratings, no biases, λ of items only", Run(SQUARED, STARS, "adagrad", False, {"item": 0.5}), 4),
        ("counts, biases, μ the log of the mean", Run(POISSON, COUNTS, "adagrad", True, PARTS, log_mean), 5),
        ("counts, inverse", Run(POISSON, COUNTS, "inverse", "item", 0.05, k=129, eta=0.05), 5),
        ("weighted logistic, biases, all targets the same", Run(LOGISTIC, COUNTS, "inverse", True, PARTS), 6),
        ("hinge beyond its kink", Run(HINGE, COUNTS, "adagrad", "item", 0.3), 20),
        ("log cosh, biases, its own μ", Run(COSH, STARS, "adagrad", True, PARTS, cosh), 6),
        (
            "weighted fourth powers, biases",
            Run(HEAVY, COUNTS, "constant", True, 0.1, 0.0, eta=0.002),
            5,
        ),
    ):
        yield _holds(
            f"a plain loop: {name}", lambda r=run, e=epochs: r.beside(r.fit(e), e, relative=1e-6 if r.mu else 1e-10)
        )
    yield _holds("a plain loop: float32, k = 33", _small)
    yield _holds("a plain loop, in three runs: Adagrad", inside(_resumed))
    yield _holds("a plain loop, in two runs: inverse", inside(_resumed_own))
    yield _holds("a plain loop from factors with biases", _begun_anew)
    yield _holds("a plain loop that a callback ends", _watched)
    yield _holds("the epoch that converges", _stops)
    yield _holds("a loss that rises ends the run", _rises)
    if installed("torch"):
        for name, run, batch in (
            ("ratings, Adagrad", Run(SQUARED, STARS, "adagrad", True, PARTS, MEAN), 3),
            ("counts, inverse", Run(POISSON, COUNTS, "inverse", "item", PARTS, eta=0.05), 1),
            ("weighted logistic", Run(LOGISTIC, COUNTS, "constant", False, 0.1, k=65), 256),
        ):
            yield _holds(f"a plain loop in batches of torch: {name}", lambda r=run, b=batch: _by_torch(r, 5, b))
    yield _holds("six orders of three ratings, twice", _orders)
    for schedule, sampled in (("constant", False), ("inverse", False), ("inverse", True)):
        yield _holds(
            f"only λ moves: {schedule}, {'pairs' if sampled else 'hinge'}", lambda s=schedule, p=sampled: _decays(s, p)
        )
    yield _holds("rows that nobody gave", _starting_rows)
