"""Programs with `sgd` whose steps can be foretold: no two cells share a row or a column, so order does not matter."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp

import lfm_np as _library

from .case import Case, Group
from .working_days import all_scores, close, faultless, folder, raised, same, tells, wrong

lfm_np: Any = _library
losses: Any = _library.losses
_GROUP = Group("eleventh hour")
_holds = faultless(_GROUP)


class Huber(NamedTuple):
    width: float = 1.0

    def value(self, score: float, target: float) -> float:
        off = abs(score - target)
        return 0.5 * off * off if off < self.width else self.width * (off - 0.5 * self.width)

    def gradient(self, score: float, target: float) -> float:
        return max(-self.width, min(self.width, score - target))


class Doubled:
    """Weighted, with targets of its own as plain attributes of the class."""

    targets = (1.0, -1.0)
    weighted = True

    def value(self, score: float, target: float) -> float:
        return (score - target) ** 2

    def gradient(self, score: float, target: float) -> float:
        return 2.0 * (score - target)


def sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


FORMULAS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "Squared": (lambda s, x: 0.5 * (s - x) ** 2, lambda s, x: s - x),
    "Poisson": (lambda s, x: np.exp(s) - x * s + x * np.log(x) - x, lambda s, x: np.exp(s) - x),
    "Logistic": (lambda s, x: np.log1p(np.exp(-s)), lambda s, x: sigmoid(s) - 1),
    "weighted": (lambda s, x: x * np.log1p(np.exp(-s)), lambda s, x: x * (sigmoid(s) - 1)),
    "Hinge": (lambda s, x: np.maximum(0, 1 - s), lambda s, x: np.where(s < 1, -1.0, 0.0)),
    "Huber": (
        lambda s, x: np.where(abs(s - x) < 0.7, 0.5 * (s - x) ** 2, 0.7 * (abs(s - x) - 0.35)),
        lambda s, x: np.clip(s - x, -0.7, 0.7),
    ),
    "Doubled": (lambda s, x: x * (s - 1) ** 2, lambda s, x: 2 * x * (s - 1)),
}
BUILT: dict[str, Any] = {
    "Squared": losses.Squared(),
    "Poisson": losses.Poisson(),
    "Logistic": losses.Logistic(),
    "weighted": losses.Logistic(weighted=True),
    "Hinge": losses.Hinge(),
    "Huber": Huber(0.7),
    "Doubled": Doubled(),
}

PARTS = {"user": 0.1, "item": 0.3, "bias": 0.2}


class Alone:
    """Cells that share nothing, some rows and columns without any, and where the factors start."""

    def __init__(self, cells: int = 40, k: int = 3, seed: int = 0, whole: bool = True) -> None:
        draw = np.random.default_rng(seed)
        self.m, self.n, self.k = cells + 3, cells + 8, k
        self.rows, self.columns = draw.permutation(self.m)[:cells], draw.permutation(self.n)[:cells]
        self.x = draw.integers(1, 6, cells).astype(float) if whole else draw.normal(0, 2, cells)
        self.U, self.V = draw.normal(0, 0.4, (self.m, k)), draw.normal(0, 0.4, (self.n, k))
        self.a, self.b = draw.normal(0, 0.2, self.m), draw.normal(0, 0.2, self.n)
        self.mu: float = 0.0
        self.paid: list[float] = []

    @property
    def X(self) -> sp.csr_array:
        return sp.csr_array((self.x, (self.rows, self.columns)), shape=(self.m, self.n))

    def init(self, biases: Any) -> Any:
        given: Any = {False: {}, "item": {"item_bias": self.b.copy()}}.get(biases)
        if given is None:
            given = {"item_bias": self.b.copy(), "user_bias": self.a.copy(), "global_bias": 0.0}
        return lfm_np.Factors(self.U.copy(), self.V.copy(), **given)

    def walk(
        self, name: str, eta: float, epochs: int, lam: dict[str, float], schedule: str, biases: Any, first: int = 0
    ) -> Alone:
        value, slope = FORMULAS[name]
        r, c = self.rows, self.columns
        held = {"user": 0.0, "item": 0.0, "bias": 0.0, **lam}
        by_user, by_item = np.zeros(len(r)), np.zeros(len(r))
        for e in range(first, first + epochs):
            s = (
                (self.U[r] * self.V[c]).sum(1)
                + self.mu
                + (self.b[c] if biases else 0)
                + (self.a[r] if biases is True else 0)
            )
            self.paid.append(float(value(s, self.x).mean()))
            g = slope(s, self.x)
            du, dv = (
                g[:, None] * self.V[c] + held["user"] * self.U[r],
                g[:, None] * self.U[r] + held["item"] * self.V[c],
            )
            rate = eta / (1 + e / 10) if schedule == "inverse" else eta
            if schedule == "adagrad":
                by_user, by_item = by_user + (du**2).mean(1), by_item + (dv**2).mean(1)
            rates = [rate / np.sqrt(1 + q)[:, None] if schedule == "adagrad" else rate for q in (by_user, by_item)]
            self.U[r] -= rates[0] * du
            self.V[c] -= rates[1] * dv
            if biases:
                self.b[c] -= rate * (g + held["bias"] * self.b[c])
            if biases is True:
                self.a[r] -= rate * (g + held["bias"] * self.a[r])
        return self

    def scores(self, biases: Any) -> np.ndarray:
        S = self.U @ self.V.T + self.mu
        S = S + self.b if biases else S
        return S + self.a[:, None] if biases is True else S


def _walked(
    name: str, biases: Any, schedule: str, lam: dict[str, float], cells: int, epochs: int, mu: Any = 0.0, **words: Any
) -> list[str]:
    way = Alone(cells, seed=cells, whole=name not in ("Huber",))
    way.mu = mu(way.x) if callable(mu) else mu
    start = way.init(biases)
    X = way.X
    way.walk(name, 0.06, epochs, lam, schedule, biases)
    given = {"dtype": "float64", "random_state": 5, **words}
    fit = lfm_np.sgd(
        X, BUILT[name], sampler=None, factors=3, epochs=epochs, learning_rate=0.06, schedule=schedule, biases=biases,
        regularization=lam or 0.0, init=start, **given,
    )  # fmt: skip
    near = 1e-9 if given["dtype"] == "float64" else 3e-5
    facts = {
        "scores": close(all_scores(fit), way.scores(biases), near),
        "paid": close([r["sampled_loss"] for r in fit.history], way.paid, near),
        "numbered": [r["iteration"] for r in fit.history] == list(range(1, epochs + 1)),
    }
    if biases:
        facts["items"] = close(fit.item_bias, way.b, near)
    if biases is True:
        facts["users"] = close(fit.user_bias, way.a, near) and close(fit.global_bias, way.mu, 1e-6)
    return wrong(**facts)


def _gone_on(name: str) -> list[str]:
    """Two epochs, a break, three more at the rates of the third to the fifth; then a new fit from there."""
    way = Alone(30, seed=8)
    start, X, lam = way.init("item"), way.X, {"user": 0.02, "bias": 0.1}
    words: dict[str, Any] = {
        "sampler": None, "factors": 3, "learning_rate": 0.15, "schedule": "inverse", "biases": "item",
        "regularization": lam, "dtype": "float64", "random_state": 2,
    }  # fmt: skip
    with folder() as place:
        path = place / "run"
        lfm_np.sgd(X, BUILT[name], epochs=2, init=start, checkpoint=path, **words)
        again = lfm_np.sgd(X, BUILT[name], epochs=5, init=start, checkpoint=path, num_threads=2, **words)
        slower = {**words, "learning_rate": 0.1}
        other = raised(lambda: lfm_np.sgd(X, BUILT[name], epochs=5, init=start, checkpoint=path, **slower))
        another = raised(lambda: lfm_np.sgd(X, Huber(0.6), epochs=5, init=start, checkpoint=path, **words))
    whole = lfm_np.sgd(X, BUILT[name], epochs=5, init=start, **words)
    way.walk(name, 0.15, 5, lam, "inverse", "item")
    facts = {
        "bits": same(again, whole),
        "scores": close(all_scores(again), way.scores("item"), 1e-9),
        "paid": close([r["sampled_loss"] for r in again.history], way.paid, 1e-9),
        "other": tells(other, "learning_rate"),
        "another": tells(another, "loss|huber"),
    }
    anew = lfm_np.sgd(X, BUILT[name], epochs=2, init=again, **words)
    way.walk(name, 0.15, 2, lam, "inverse", "item")
    return wrong(**facts, anew=close(all_scores(anew), way.scores("item"), 1e-9))


def _enough() -> list[str]:
    """The first epoch whose loss fell by less than the tolerance of it ends the run."""
    way, held = Alone(25, seed=3), {"user": 0.3, "item": 0.3}
    start, X = way.init(False), way.X
    way.walk("Squared", 0.15, 40, held, "constant", False)
    falls = [1 - b / a for a, b in zip(way.paid, way.paid[1:], strict=False)]
    place = next(i for i in range(3, 39) if falls[i] < 0.85 * min(falls[:i]))
    tolerance = 0.5 * (falls[place] + min(falls[:place]))
    fit = lfm_np.sgd(
        X, losses.Squared(), sampler=None, factors=3, epochs=60, learning_rate=0.15, regularization=held, init=start,
        dtype="float64", tolerance=tolerance, random_state=0,
    )  # fmt: skip
    ways = Alone(25, seed=3).walk("Squared", 0.15, place + 2, held, "constant", False)
    return wrong(
        epochs=len(fit.history) == place + 2,
        status=fit.status == lfm_np.Status.CONVERGED,
        scores=close(all_scores(fit), ways.scores(False), 1e-9),
    )


def _watched() -> list[str]:
    """A callback that looks at every epoch's factors, notes errors and stops after the third."""
    way = Alone(20, seed=4)
    start, X, mean = way.init(True), way.X, float(way.x.mean())
    way.mu = mean
    told: list[bool] = []

    def look(record: dict[str, Any], factors: Any) -> None:
        way.walk("Squared", 0.15, 1, {"bias": 0.2}, "constant", True)
        told.append(close(all_scores(factors), way.scores(True), 1e-9))
        error = factors.scores(way.rows, way.columns) - way.x
        record["rmse"] = float(np.sqrt((error**2).mean()))
        if len(told) == 3:
            raise StopIteration

    fit = lfm_np.sgd(
        X, losses.Squared(), sampler=None, factors=3, epochs=8, learning_rate=0.15, regularization={"bias": 0.2},
        biases=True, init=start, dtype="float64", callback=look, random_state=0,
    )  # fmt: skip
    error = way.scores(True)[way.rows, way.columns] - way.x
    with folder() as place:
        fit.save(place / "m")
        read = lfm_np.Factors.load(place / "m")
    return wrong(
        told=told == [True] * 3,
        rmse=close(read.history[2]["rmse"], np.sqrt((error**2).mean()), 1e-9),
        status=read.status == lfm_np.Status.STOPPED and len(read.history) == 3,
        params=read.params["regularization"] == fit.params["regularization"],
    )


def _diverged() -> list[str]:
    """Steps far too long: the epoch is named, and the factors before it are those of so many steps."""
    way = Alone(12, seed=6)
    words = {
        "sampler": None,
        "factors": 3,
        "epochs": 50,
        "learning_rate": 3.0,
        "regularization": 0.0,
        "dtype": "float64",
    }
    error: Any = raised(lambda: lfm_np.sgd(way.X, losses.Squared(), init=way.init(False), random_state=0, **words))
    U, V = error.factors.user_factors, error.factors.item_factors
    done = len(error.factors.history)
    with np.errstate(all="ignore"):
        way.walk("Squared", 3.0, done, {}, "constant", False)
        small = abs(way.U).max() < 1e90 and abs(way.V).max() < 1e90
        right = not small or close(U @ V.T, way.scores(False), 1e-6)
    return wrong(
        kind=isinstance(error, lfm_np.SolverError),
        epoch=str(done + 1) in re.findall(r"\d+", str(error)),
        factors=bool(np.isfinite(U).all() and np.isfinite(V).all()) and right,
    )


def _constant(loss: Any, words: dict[str, Any], expected: Callable[[np.ndarray], float]) -> list[str]:
    """μ is the constant that fits best by itself."""
    way = Alone(30, seed=9)
    fit = lfm_np.sgd(
        way.X, loss, factors=2, epochs=1, learning_rate=1e-9, regularization=0.0, biases=True, dtype="float64",
        random_state=0, **words,
    )  # fmt: skip
    return wrong(mu=bool(abs(fit.global_bias - expected(way.x)) < 1e-5))


def _huber_constant(x: np.ndarray) -> float:
    low, high = 0.0, 6.0
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if np.clip(middle - x, -0.7, 0.7).sum() < 0 else (low, middle)
    return low


def _in_either_order() -> list[str]:
    """Two users of one item: one of two orders."""
    U, V, b, x = np.array([[0.3, -0.2], [0.5, 0.1]]), np.array([[0.4, 0.6]]), np.array([0.1]), (4.0, 2.0)
    ends = []
    for order in ((0, 1), (1, 0)):
        P, q, d = U.copy(), V[0].copy(), b[0]
        for u in order:
            e = float(P[u] @ q + d - x[u])
            P[u], q, d = P[u] - 0.1 * (e * q + 0.3 * P[u]), q - 0.1 * (e * P[u] + 0.2 * q), d - 0.1 * (e + 0.4 * d)
        ends.append(P @ q + d)
    found = []
    for seed in range(12):
        fit = lfm_np.sgd(
            sp.csr_array([[4.0], [2.0]]), losses.Squared(), sampler=None, factors=2, epochs=1, learning_rate=0.1,
            regularization={"user": 0.3, "item": 0.2, "bias": 0.4}, biases="item",
            init=lfm_np.Factors(U, V, item_bias=b), dtype="float64", random_state=seed,
        )  # fmt: skip
        found.append([close(all_scores(fit)[:, 0], end, 1e-12) for end in ends])
    return wrong(one=all(any(f) for f in found))


def _flat() -> list[str]:
    """A new rating by a model of `sgd`: least squares beside its biases, the users' λ of one's own choice."""
    way = Alone(18, seed=5)
    way.mu = float(way.x.mean())
    fit = lfm_np.sgd(
        way.X, losses.Squared(), sampler=None, factors=3, epochs=2, learning_rate=0.1, biases=True, init=way.init(True),
        dtype="float64", random_state=0,
    )  # fmt: skip
    row = sp.csr_array(([5.0, 1.0, 0.0], ([0, 0, 0], [2, 7, 9])), shape=(1, way.n))
    new = fit.fold_in_users(row, weighting="ratings", regularization=0.3, regularization_exponent=1.0, alpha=1.0)
    Y = np.column_stack([fit.item_factors[[2, 7, 9]], np.ones(3)])
    solved = np.linalg.solve(
        Y.T @ Y + 0.9 * np.eye(4), Y.T @ (np.array([5.0, 1.0, 0.0]) - fit.global_bias - fit.item_bias[[2, 7, 9]])
    )
    lacking = raised(lambda: fit.fold_in_users(row, weighting="ratings", alpha=1.0, regularization_exponent=1.0))
    return wrong(
        new=close(np.r_[new.user_factors[0], new.user_bias], solved, 1e-9), lacking=tells(lacking, "regularization"),
        seen=not {2, 7, 9} & set(new.recommend(0, N=way.n - 3, seen=row).ids.tolist()),
    )  # fmt: skip


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    def mean(x: np.ndarray) -> float:
        return float(x.mean())

    for name, loss, biases, schedule, lam, cells, epochs, words in (
        ("ratings, all parts of λ, inverse", "Squared", True, "inverse", PARTS, 257, 5, {"mu": mean, "num_threads": 3}),
        ("ratings, Adagrad", "Squared", False, "adagrad", {}, 40, 4, {}),
        ("counts with μ", "Poisson", True, "constant", {"bias": 0.3}, 50, 3, {"mu": lambda x: float(np.log(x.mean()))}),
        ("clicks that weigh, item biases", "weighted", "item", "constant", {"user": 0.05}, 33, 4, {}),
        ("clicks that do not weigh", "Logistic", False, "adagrad", {}, 256, 3, {}),
        ("Hinge over its kink", "Hinge", False, "inverse", {"item": 0.02}, 31, 40, {}),
        ("a Huber of one's own", "Huber", False, "adagrad", {}, 64, 5, {}),
        ("a weighted loss of one's own with targets", "Doubled", "item", "inverse", {"bias": 0.5}, 20, 3, {}),
        ("ratings in float32", "Squared", "item", "constant", PARTS, 100, 4, {"dtype": "float32"}),
        ("one rating", "Squared", True, "inverse", {}, 1, 6, {"mu": mean}),
    ):  # fmt: skip
        yield _holds(
            f"steps apart: {name}",
            lambda a=loss, b=biases, c=schedule, d=lam, e=cells, f=epochs, w=words: _walked(a, b, c, d, e, f, **w),
        )
    for name in ("Squared", "Huber"):
        yield _holds(f"a break of falling rates: {name}", lambda a=name: _gone_on(a))
    yield _holds("enough by a tolerance", _enough)
    yield _holds("errors by epoch, and a stop", _watched)
    yield _holds("steps that grow without end", _diverged)
    constants: tuple[tuple[str, Any, dict[str, Any], Any], ...] = (
        ("counts alone", losses.Poisson(), {"sampler": None}, lambda x: float(np.log(x.mean()))),
        ("counts and three negatives", losses.Poisson(), {"negatives": 3}, lambda x: float(np.log(x.mean() / 4))),
        ("clicks and four negatives", losses.Logistic(), {"negatives": 4}, lambda x: float(np.log(1 / 4))),
        ("clicks that weigh", losses.Logistic(weighted=True), {"negatives": 5}, lambda x: float(np.log(x.mean() / 5))),
        ("ratings and two negatives", losses.Squared(), {"negatives": 2}, lambda x: float(x.mean() / 3)),
        ("weights and targets", Doubled(), {"negatives": 3}, lambda x: float((x.mean() - 3) / (x.mean() + 3))),
        ("a Huber of one's own", Huber(0.7), {"sampler": None}, _huber_constant),
    )
    for name, own, given, expected in constants:
        yield _holds(f"the constant of {name}", lambda a=own, b=given, c=expected: _constant(a, b, c))
    yield _holds("two users of one item", _in_either_order)
    yield _holds("a rating folded into steps", _flat)
