"""Options of `sgd` that are rarely used together, beside steps by hand on cells that share no row."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp

from .case import Case
from .cases_pairs_of_solvers import PAIRS, lfm_np, near
from .working_days import faultless, folder, wrong

_holds = faultless(PAIRS)
losses, sampling = lfm_np.losses, lfm_np.sampling
PARTS = ("user", "item", "negative", "bias")
INVERSE = {"schedule": "inverse"}
ADAGRAD = {"schedule": "adagrad", "regularization": 0.0}
EVERY, ITEMS = {"biases": True}, {"biases": "item"}
RESUMED, CALLED, ZEROS = {"how": "resumed"}, {"how": "interactions"}, {"how": "zeros"}


def _soft(x: float) -> float:
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def _sigma(x: float) -> float:
    return math.exp(-_soft(-x))


class Rule(NamedTuple):
    """A loss by formula. ``value`` and ``slope`` take score and target, or the difference of two scores."""

    loss: Any
    value: Callable[..., float]
    slope: Callable[..., float]
    kind: str = "point"
    targets: Any = None  # None: the stored value, and 0 of a negative
    weighted: bool = False
    factor: float = 1.0


def squared() -> Rule:
    return Rule(losses.Squared(), lambda s, t: (s - t) ** 2 / 2, lambda s, t: s - t)


def logistic(weighted: bool = False) -> Rule:
    return Rule(
        losses.Logistic(weighted), lambda s, t: _soft(s) - t * s, lambda s, t: _sigma(s) - t, "point", (1, 0), weighted
    )


def hinge(weighted: bool = False) -> Rule:
    return Rule(
        losses.Hinge(weighted),
        lambda s, t: max(0.0, 1 - s * t),
        lambda s, t: -t if s * t < 1 else 0.0,
        "point",
        (1, -1),
        weighted,
    )


def poisson() -> Rule:
    def value(s: float, t: float) -> float:
        return math.exp(s) - t * s + (t * math.log(t) - t if t else 0.0)

    return Rule(losses.Poisson(), value, lambda s, t: math.exp(s) - t)


def bpr(weighted: bool = False) -> Rule:
    return Rule(losses.BPR(weighted), lambda d: _soft(-d), lambda d: -_sigma(-d), "pair", None, weighted)


def margin(size: float, weighted: bool = False) -> Rule:
    return Rule(
        losses.MarginHinge(size, weighted),
        lambda d: max(0.0, size - d),
        lambda d: -1.0 if d < size else 0.0,
        "pair",
        None,
        weighted,
    )


def warp(size: float, n: int, weighted: bool = False) -> Rule:
    """Where the first trial is always above the margin: the rank is n - 1."""
    return margin(size, weighted)._replace(loss=losses.WARP(size, 3, weighted), factor=math.log(n))


def softmax(temperature: float, correct: bool, weighted: bool = False) -> Rule:
    """M equal negatives, the only item there is: q = 1, so that the correction takes M away."""

    def value(d: float, M: int) -> float:
        return _soft(-d / temperature + (0.0 if correct else math.log(M)))

    def slope(d: float, M: int) -> float:
        return -_sigma(-d / temperature + (0.0 if correct else math.log(M))) / temperature

    return Rule(losses.SampledSoftmax(temperature, correct, weighted), value, slope, "list", None, weighted)


class Cubed(NamedTuple):
    """A loss of one's own whose target is the stored value."""

    scale: float = 1.0

    def value(self, score: float, target: float) -> float:
        return self.scale * abs(score - target) ** 3

    def gradient(self, score: float, target: float) -> float:
        gap = score - target
        return 3.0 * self.scale * gap * abs(gap)


def cubed(scale: float) -> Rule:
    own = Cubed(scale)
    return Rule(own, own.value, own.gradient, "point", None, False)


class Run:
    """Steps one after the other, as the docstring of `sgd` has them."""

    def __init__(self, rule: Rule, start: Any, words: dict[str, Any], mu: float = 0.0) -> None:
        self.rule, self.mu = rule, mu
        U, V, b, d = start
        self.U, self.V, self.b, self.d = U.copy(), V.copy(), b.copy(), d.copy()
        self.sums = {"U": np.zeros(len(U)), "V": np.zeros(len(V))}
        self.eta, self.M = words.get("learning_rate", 0.05), words.get("negatives", 1)
        self.schedule, self.biases = words.get("schedule", "constant"), words.get("biases", False)
        lam = words.get("regularization", 0.01)
        self.lam = {part: lam.get(part, 0.0) if isinstance(lam, dict) else lam for part in PARTS}

    def _slopes(self, s: float, t: float | None, x: float) -> tuple[float, float, float]:
        """What is paid, the slope by the stored cell's score, and by that of one negative."""
        rule, M = self.rule, self.M
        w = (x if rule.weighted else 1.0) * rule.factor
        if rule.kind == "point":
            positive, negative = rule.targets or (x, 0.0)
            paid, g = w * rule.value(s, positive), w * rule.slope(s, positive)
            return (paid, g, 0.0) if t is None else (paid + M * rule.value(t, negative), g, rule.slope(t, negative))
        assert t is not None
        if rule.kind == "pair":
            return w * M * rule.value(s - t), w * M * rule.slope(s - t), -w * rule.slope(s - t)
        return w * rule.value(s - t, M), w * rule.slope(s - t, M), -w * rule.slope(s - t, M) / M

    def step(self, epoch: int, u: int, i: int, x: float, j: int | None) -> float:
        U, V, lam = self.U, self.V, self.lam
        s = self.mu + self.b[u] + self.d[i] + U[u] @ V[i]
        t = None if j is None else self.mu + self.b[u] + self.d[j] + U[u] @ V[j]
        paid, g, h = self._slopes(s, t, x)
        old = U[u].copy()
        by_user = g * V[i] + (0.0 if j is None else self.M * h * V[j])
        rate = self.eta / (1 + epoch / 10) if self.schedule == "inverse" else self.eta
        rates = [rate] * 3
        if self.schedule == "adagrad":
            self.sums["U"][u] += (by_user**2).mean()
            self.sums["V"][i] += ((g * old) ** 2).mean()
            if j is not None:
                self.sums["V"][j] += ((h * old) ** 2).mean()
            sums = (self.sums["U"][u], self.sums["V"][i], 0.0 if j is None else self.sums["V"][j])
            rates = [rate / math.sqrt(1 + total) for total in sums]
        U[u] = old - rates[0] * (by_user + lam["user"] * old)
        V[i] = V[i] - rates[1] * (g * old + lam["item"] * V[i])
        for _ in range(0 if j is None else self.M):
            V[j] = V[j] - rates[2] * (h * old + lam["negative"] * V[j])
        if self.biases is True:
            self.b[u] -= rate * (g + (0 if j is None else self.M * h) + lam["bias"] * self.b[u])
        if self.biases:
            self.d[i] -= rate * (g + lam["bias"] * self.d[i])
            for _ in range(0 if j is None else self.M):
                self.d[j] -= rate * (h + lam["bias"] * self.d[j])
        return float(paid)

    def agrees(self, fit: Any, paid: list[float], tolerance: float) -> list[str]:
        F, G = np.vstack([self.U, self.V]), np.vstack([fit.user_factors, fit.item_factors]).astype(np.float64)
        facts = {
            "moved": near(G @ G.T, F @ F.T, tolerance),
            "paid": near([r["sampled_loss"] for r in fit.history], paid, tolerance),
            "user bias": fit.user_bias is None if self.biases is not True else near(fit.user_bias, self.b, tolerance),
            "item bias": near(fit.item_bias, self.d, tolerance) if self.biases else fit.item_bias is None,
            "mu": near(fit.global_bias, self.mu, tolerance) if self.biases is True else fit.global_bias is None,
        }
        return wrong(**facts)


def begin(m: int, n: int, k: int, biases: Any = False, seed: int = 0) -> Any:
    draw = np.random.default_rng(seed)
    U, V = draw.normal(0, 0.5, (m, k)), draw.normal(0, 0.5, (n, k))
    b, d = draw.normal(0, 0.3, m), draw.normal(0, 0.3, n)
    return U, V, b if biases is True else np.zeros(m), d if biases else np.zeros(n)


def _given(start: Any, biases: Any) -> Any:
    U, V, b, d = start
    if not biases:
        return U, V
    if biases == "item":
        return lfm_np.Factors(U, V, item_bias=d)
    return lfm_np.Factors(U, V, user_bias=b, item_bias=d, global_bias=0.0)


def alone(
    rule: Rule, values: Any, epochs: int, mu: float = 0.0, k: int = 3, **words: Any
) -> tuple[Run, list[float], Any, Any]:
    """Cells on a diagonal, the first of them in the last column: none shares a row with another."""
    x = np.asarray(values, np.float64)
    m = len(x)
    columns = (np.arange(m) + m - 1) % m
    start = begin(m, m, k, words.get("biases", False))
    run, paid = Run(rule, start, words, mu), []
    for epoch in range(epochs):
        paid.append(float(np.mean([run.step(epoch, u, int(columns[u]), float(x[u]), None) for u in range(m)])))
    return (
        run,
        paid,
        sp.csr_array((x, (np.arange(m), columns)), shape=(m, m)),
        _given(start, words.get("biases", False)),
    )


def _alone(
    rule: Rule,
    values: Any,
    epochs: int,
    mu: float = 0.0,
    k: int = 3,
    dtype: str = "float64",
    how: str = "",
    **words: Any,
) -> list[str]:
    run, paid, X, init = alone(rule, values, epochs, mu, k, **words)
    options = {"sampler": None, "factors": k, "init": init, "dtype": dtype, **words}
    if how == "interactions":
        X = lfm_np.Interactions(X.astype(np.float32), np.arange(len(values)), np.arange(len(values)))
    if how == "zeros":  # one more in every row, which is no cell
        m, columns = len(values), X.tocoo().coords[1]
        data = np.concatenate([np.zeros(m), X.tocoo().data])
        X = sp.coo_array((data, (np.tile(np.arange(m), 2), np.concatenate([(columns + 1) % m, columns]))), shape=(m, m))
    if how == "resumed":
        with folder() as place:
            kept = lfm_np.Checkpoint(place / "kept", every=1e6)
            lfm_np.sgd(X, rule.loss, epochs=2, num_threads=1, checkpoint=kept, **options)
            fit = lfm_np.sgd(X, rule.loss, epochs=epochs, num_threads=2, checkpoint=place / "kept", **options)
    else:
        fit = lfm_np.sgd(X, rule.loss, epochs=epochs, **options)
    return run.agrees(fit, paid, 1e-9 if dtype == "float64" else 1e-4)


def _stops(rule: Rule, values: Any, **words: Any) -> list[str]:
    """The epoch after which the sampled loss fell by less than this share."""
    _, paid, X, init = alone(rule, values, 60, **words)
    falls = [(a - b) / a for a, b in pairwise(paid)]  # as a share of what was, and below, of what is
    last = next(e for e in range(2, 59) if falls[e] / (1 - falls[e]) < 0.9 * min(falls[:e]))
    share = math.sqrt(falls[last] / (1 - falls[last]) * min(falls[:last]))
    with folder() as place:
        options = {
            "sampler": None,
            "factors": 3,
            "init": init,
            "dtype": "float64",
            "checkpoint": place / "kept",
            **words,
        }
        lfm_np.sgd(X, rule.loss, epochs=2, **options)
        fit = lfm_np.sgd(X, rule.loss, epochs=90, tolerance=share, **options)
    return wrong(epochs=len(fit.history) == last + 2, status=fit.status is lfm_np.Status.CONVERGED)


def _watched() -> list[str]:
    """A callback sees every epoch, ends the run in the third, and the file goes on without it."""
    words: dict[str, Any] = {"schedule": "inverse", "biases": "item", "regularization": {"item": 0.3, "bias": 0.1}}
    seen: list[list[str]] = []

    def look(record: Any, factors: Any) -> None:
        run, _, _, _ = alone(squared(), (2, -1, 0, 5), record["iteration"], **words)
        G = np.vstack([factors.user_factors, factors.item_factors])
        F = np.vstack([run.U, run.V])
        seen.append(wrong(moved=near(G @ G.T, F @ F.T, 1e-9), bias=near(factors.item_bias, run.d, 1e-9)))
        record["seen"] = len(seen)
        if record["iteration"] == 3:
            raise StopIteration

    run, paid, X, init = alone(squared(), (2, -1, 0, 5), 5, **words)
    with folder() as place:
        options = {
            "sampler": None,
            "factors": 3,
            "init": init,
            "dtype": "float64",
            "checkpoint": place / "kept",
            **words,
        }
        half = lfm_np.sgd(X, losses.Squared(), epochs=9, callback=look, **options)
        fit = lfm_np.sgd(X, losses.Squared(), epochs=5, **options)
    facts = wrong(
        stopped=half.status is lfm_np.Status.STOPPED,
        seen=seen == [[]] * 3,
        kept=[r["seen"] for r in half.history] == [1, 2, 3],
    )
    return facts + run.agrees(fit, paid, 1e-9)


def _diverged() -> list[str]:
    """The factors of the last epoch before those that were too large."""
    words: dict[str, Any] = {"learning_rate": 5.0, "schedule": "inverse", "regularization": 0.0}
    _, _, X, init = alone(squared(), (2, -1, 3), 0, **words)
    try:
        lfm_np.sgd(X, losses.Squared(), sampler=None, factors=3, init=init, dtype="float64", epochs=60, **words)
    except lfm_np.SolverError as error:
        fit, said = error.factors, str(error)
    else:
        return ["nothing was raised"]
    epochs = len(fit.history)
    with np.errstate(all="ignore"):
        run, _, _, _ = alone(squared(), (2, -1, 3), epochs, **words)
    F, G = np.vstack([run.U, run.V]), np.vstack([fit.user_factors, fit.item_factors])
    with np.errstate(all="ignore"):
        scale = abs(F).max()
        F, G = F / scale, G / scale
        same = bool(abs(F @ F.T - G @ G.T).max() < 1e-6)
    return wrong(some=epochs > 0, same=same, told="epoch" in said and any(str(n) in said for n in (epochs, epochs + 1)))


def _begins(loss: Any, cosine: bool) -> list[str]:
    """Rows begin with a standard deviation of 0.1/√k, and at zero where no cell brings them in."""
    m, k = 1500, 8
    X = sp.csr_array((np.ones(m), (np.arange(m), np.arange(m))), shape=(m + 3, m + 2))
    fit = lfm_np.sgd(
        X, loss, factors=k, epochs=1, learning_rate=1e-12, regularization=0.0, dtype="float64", random_state=3
    )
    facts: dict[str, Any] = {}
    for name, F in (("users", fit.user_factors), ("items", fit.item_factors)):
        square = (F[:m] ** 2).sum(1)
        # uniform: the square of an entry has a variance of 4/5 of its mean squared
        facts[name] = (
            near(square, np.ones(m), 1e-9) if cosine else abs(square.mean() / 0.01 - 1) < 5 * math.sqrt(0.8 / (m * k))
        )
        facts[f"{name} without cells"] = name == "items" or not F[m:].any()
    return wrong(**facts)


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    parts, third = {"user": 0.3, "item": 0.1, "bias": 0.4}, {"regularization": 0.3}
    three = {**EVERY, "regularization": parts}
    only: Any = {part: {"regularization": {part: 0.4}} for part in PARTS}
    mixed, counts, many = (2, -1, 0, 5, 0.5), (1, 2, 5, 1), tuple((np.arange(257) % 5).tolist())
    slow = {**third, "learning_rate": 0.002}
    wide = {"k": 17, "dtype": "float32", "mu": float(np.mean(many)), "num_threads": 2}
    for name, rule, values, epochs, words in (
        ("Squared, all biases, three λ, inverse", squared(), mixed, 4, {**three, **INVERSE, "mu": 1.3}),
        ("Squared, Adagrad, gone on", squared(), mixed, 5, {**ADAGRAD, **RESUMED}),
        ("Squared, items' biases, inverse, gone on", squared(), mixed, 4, {**ITEMS, **INVERSE, **third, **RESUMED}),
        ("Squared, λ of biases only, gone on", squared(), mixed, 5, {**EVERY, **only["bias"], **RESUMED, "mu": 1.3}),
        ("Squared of 257 cells, 17 factors, float32", squared(), many, 3, {**EVERY, **INVERSE, **wide}),
        ("weighted Logistic, items' biases and their λ", logistic(True), counts, 3, {**ITEMS, **only["bias"]}),
        ("Logistic of one factor, Adagrad, ids", logistic(), counts, 4, {"k": 1, **ADAGRAD, **CALLED}),
        ("weighted Hinge, λ of items only, inverse", hinge(True), counts, 4, {**INVERSE, **only["item"]}),
        ("Poisson, all biases, three λ, ids", poisson(), counts, 3, {**three, **CALLED, "mu": math.log(9 / 4)}),
        ("Poisson, Adagrad, gone on, fast", poisson(), counts, 4, {**ADAGRAD, **RESUMED, "learning_rate": 0.2}),
        ("one's own, weighted, items' biases", cubed(0.25), counts, 4, {**ITEMS, **INVERSE, **slow}),
        ("one's own, Adagrad, gone on", cubed(0.5), counts, 4, {**ADAGRAD, **RESUMED}),
        ("one's own, λ of users only, ids", cubed(0.25), counts, 3, {**only["user"], **CALLED, "learning_rate": 0.002}),
        ("weighted Logistic, stored zeros, items' biases", logistic(True), counts, 3, {**ITEMS, **INVERSE, **ZEROS}),
        ("Poisson, stored zeros, all biases", poisson(), counts, 3, {**three, **ZEROS, "mu": math.log(9 / 4)}),
        ("Hinge of 40 factors, float32, stored zeros", hinge(), counts, 3, {"k": 40, "dtype": "float32", **ZEROS}),
        ("Hinge, users' and items' λ, items' biases", hinge(), counts, 4, {**ITEMS, "regularization": parts}),
    ):
        yield _holds(f"steps: {name}", lambda a=(rule, values, epochs), w=words: _alone(*a, **w))
    falling = {**INVERSE, **third}
    yield _holds("steps: tolerance after a break, Squared, inverse", lambda: _stops(squared(), mixed[:4], **falling))
    held = {**ITEMS, "regularization": 0.2}
    yield _holds("steps: tolerance after a break, Poisson, items' biases", lambda: _stops(poisson(), counts, **held))
    yield _holds("steps: a callback that ends a fit with biases, and a file", _watched)
    yield _holds("steps: divergence by an inverse rate", _diverged)
    yield _holds("steps: where BPR begins, rows without cells", lambda: _begins(losses.BPR(), False))
    yield _holds("steps: where CosineContrastive begins", lambda: _begins(losses.CosineContrastive(), True))
