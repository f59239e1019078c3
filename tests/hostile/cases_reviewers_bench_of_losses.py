"""A reviewer's programs, each to show a promise of the pages false: losses of one's own, on both backends.

Steps are foretold where one item is all that can be drawn; a Gram matrix is what a turn of the factors leaves as it is.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp

from .case import Case, Group, installed
from .sentences_by_numpy import lfm_np, near, sampling, sigmoid
from .working_days import faultless, folder, raised, same, tells, wrong

_GROUP = Group("the reviewer's bench")
_holds = faultless(_GROUP)
ETA = 0.125
U0 = np.array([[0.5, -0.25, 0.75]])
V0 = np.array([[0.25, 0.5, -0.125], [0.625, 0.125, 0.375]])  # all of them float32's
S0, S1 = (float(U0[0] @ v) for v in V0)
D = S0 - S1


class Tempered(NamedTuple):
    """Pairwise, of two parameters, weighted unless it is told not to be."""

    scale: float = 1.5
    shift: float = 0.4
    weighted: bool = True

    def value(self, difference: float) -> float:
        x = self.shift - difference
        return self.scale * (max(x, 0.0) + math.log1p(math.exp(-abs(x))))

    def gradient(self, difference: float) -> float:
        x = self.shift - difference
        e = math.exp(-abs(x))
        return -self.scale * (1.0 / (1.0 + e) if x >= 0.0 else e / (1.0 + e))

    def torch_value(self, difference: Any) -> Any:
        from torch.nn.functional import softplus

        return self.scale * softplus(self.shift - difference)


class Ranked(NamedTuple):
    """Pairwise, looks for a violation."""

    margin: float = 3.0
    slope: float = 0.5
    trials: int = 4
    weighted: bool = True

    def value(self, difference: float) -> float:
        return self.slope * max(0.0, self.margin - difference)

    def gradient(self, difference: float) -> float:
        return -self.slope if difference < self.margin else 0.0

    def torch_value(self, difference: Any) -> Any:
        return self.slope * (self.margin - difference).clamp(min=0.0)


class Flat:
    """Pointwise: squares that weigh differently on either side."""

    targets = (2.0, -1.0)
    weighted = True

    def __init__(self, up: float, down: float) -> None:
        self.up, self.down = up, down

    def value(self, score: float, target: float) -> float:
        return (self.up if target > 0.0 else self.down) * (score - target) ** 2

    def gradient(self, score: float, target: float) -> float:
        return 2.0 * (self.up if target > 0.0 else self.down) * (score - target)

    def torch_value(self, score: Any, target: Any) -> Any:
        above = (target > 0.0).to(score.dtype)
        return (self.up * above + self.down * (1.0 - above)) * (score - target) ** 2


class Contrast:
    """List, with a temperature and the correction."""

    correct_logq = True

    def __init__(self, temperature: float, weighted: bool = True) -> None:
        self.temperature = temperature
        self.weighted = weighted

    def value(self, positive: float, negatives: np.ndarray) -> float:
        total = 1.0
        for score in negatives:
            total += math.exp(min((score - positive) / self.temperature, 700.0))
        return math.log(total)

    def gradient(self, positive: float, negatives: np.ndarray) -> tuple[float, np.ndarray]:
        pulls = np.empty(len(negatives))
        total = 1.0
        for m in range(len(negatives)):
            pulls[m] = math.exp(min((negatives[m] - positive) / self.temperature, 700.0))
            total += pulls[m]
        pulls /= total * self.temperature
        return -pulls.sum(), pulls

    def torch_value(self, positive: Any, negatives: Any) -> Any:
        return (1.0 + ((negatives - positive[:, None]) / self.temperature).exp().sum(1)).log()


class OnTheSphere(NamedTuple):
    """Pairwise, of cosines."""

    sharpness: float = 2.0
    weight: float = 0.75
    weighted: bool = True
    cosine: bool = True

    def value(self, difference: float) -> float:
        x = -self.sharpness * difference
        return self.weight * (max(x, 0.0) + math.log1p(math.exp(-abs(x))))

    def gradient(self, difference: float) -> float:
        x = -self.sharpness * difference
        e = math.exp(-abs(x))
        return -self.weight * self.sharpness * (1.0 / (1.0 + e) if x >= 0.0 else e / (1.0 + e))

    def torch_value(self, difference: Any) -> Any:
        from torch.nn.functional import softplus

        return self.weight * softplus(-self.sharpness * difference)


def _gram(U: Any, V: Any) -> np.ndarray:
    F = np.vstack([U, V]).astype(np.float64)
    return F @ F.T


def _step(solver: Any, loss: Any, slopes: tuple[float, float], paid: float, dtype: str, **words: Any) -> list[str]:
    """One user who has item 0, stored twice, 1.5 and 1: it weighs 2.5."""
    X = sp.coo_array((np.array([1.5, 1.0], dtype), (np.zeros(2, int), np.zeros(2, int))), shape=(1, 2))
    given = {"factors": 3, "epochs": 1, "learning_rate": ETA, "regularization": 0.0, "dtype": dtype, "init": (U0, V0)}
    fit = solver(X, loss, random_state=0, **given, **words)
    u, (v, w), (a, b) = U0[0], V0, slopes
    mine = _gram(u - ETA * (a * v + b * w), [v - ETA * a * u, w - ETA * b * u])
    bound = 1e-12 if dtype == "float64" else 4e-6  # float32: a dozen roundings of numbers below 4
    return wrong(
        moved=near(_gram(fit.user_factors, fit.item_factors), mine, bound),
        paid=near(fit.history[0]["sampled_loss"], paid, bound),
        dtype=fit.user_factors.dtype == dtype,
    )


def _weighted(solver: Any, dtype: str) -> list[str]:
    """Add a loss: '`weighted = True`: the value of the stored cell multiplies its loss'; 'With several negatives a
    step, pointwise and pairwise losses are summed over them'."""
    loss = Tempered(1.25, 0.3)
    g = 2.5 * 2 * loss.gradient(D)
    return _step(solver, loss, (g, -g), 2.5 * 2 * loss.value(D), dtype, negatives=2)


def _unweighted(solver: Any, dtype: str) -> list[str]:
    """'Attributes of the class, or fields where the user should choose' - and chose not to."""
    loss = Tempered(0.75, -0.2, weighted=False)
    g = 3 * loss.gradient(D)
    return _step(solver, loss, (g, -g), 3 * loss.value(D), dtype, negatives=3)


def _ranked(solver: Any, dtype: str) -> list[str]:
    """'`trials = 20` (pairwise): draw negatives until one has a positive loss … and weigh it by its estimated rank'."""
    loss = Ranked(2.0, 0.5)
    g = -2.5 * math.log(2) * 0.5
    return _step(solver, loss, (g, -g), 2.5 * math.log(2) * 0.5 * (2.0 - D), dtype)


def _lopsided(solver: Any, dtype: str) -> list[str]:
    """'gets the stored value as the target … unless the class says otherwise: `targets`'; weighted 'of a pointwise loss
    only beside `targets`', and of the stored cell."""
    slopes = 2.5 * 2 * 1.75 * (S0 - 2), 3 * 2 * 0.5 * (S1 + 1)
    paid = 2.5 * 1.75 * (S0 - 2) ** 2 + 3 * 0.5 * (S1 + 1) ** 2
    return _step(solver, Flat(1.75, 0.5), slopes, paid, dtype, negatives=3)


def _contrast(solver: Any, dtype: str) -> list[str]:
    """'a negative's score arrives as s − T·log(M·q)', T 'the attribute `temperature` of a loss': of M draws of the one
    item there is, e^(−log M) M times is 1."""
    T, M = 0.5, 5
    g = -2.5 * sigmoid(-D / T) / T
    return _step(
        solver, Contrast(T), (g, -g), 2.5 * math.log1p(math.exp(-D / T)), dtype, negatives=M,
        sampler=sampling.Popularity(0.0),
    )  # fmt: skip


def _on_the_sphere(solver: Any, dtype: str) -> list[str]:
    """'`cosine = True`: scores are cosines, and the factors that come back have length one' - of a pairwise loss."""
    u, v, w = (f / np.linalg.norm(f) for f in (U0[0], *V0))
    s, t, loss = float(u @ v), float(u @ w), OnTheSphere(1.5, 0.5)
    g = 2.5 * loss.gradient(s - t)
    rows = [u - ETA * g * ((v - s * u) - (w - t * u)), v - ETA * g * (u - s * v), w + ETA * g * (u - t * w)]
    mine = np.array([row / np.linalg.norm(row) for row in rows])
    fit = solver(
        sp.csr_array(np.array([[2.5, 0.0]])), loss, factors=3, epochs=1, learning_rate=ETA, regularization=0.0,
        dtype=dtype, init=(u[None], np.array([v, w])), random_state=0,
    )  # fmt: skip
    bound = 1e-10 if dtype == "float64" else 4e-6
    return wrong(
        cosines=near(_gram(fit.user_factors, fit.item_factors), mine @ mine.T, bound),
        length=near((fit.item_factors.astype(float) ** 2).sum(1), np.ones(2), bound),
        paid=near(fit.history[0]["sampled_loss"], 2.5 * loss.value(s - t), bound),
    )


def _held_in_a_batch(solver: Any, dtype: str) -> list[str]:
    """`torch_backend.sgd`: 'a row that moves r times in a batch shrinks by r·η·λ of what it was before it'."""
    loss, parts, M = Tempered(1.0, 0.1, False), {"user": 0.2, "item": 0.3, "negative": 0.4}, 3
    g, u, (v, w) = loss.gradient(D), U0[0], V0
    rows = u - ETA * (M * g * (v - w) + 0.2 * u), v - ETA * (M * g * u + 0.3 * v), w - ETA * M * (0.4 * w - g * u)
    fit = solver(
        sp.csr_array([[1.0, 0.0]]), loss, negatives=M, factors=3, epochs=1, learning_rate=ETA, regularization=parts,
        dtype=dtype, init=(U0, V0), random_state=0,
    )  # fmt: skip
    return wrong(moved=near(_gram(fit.user_factors, fit.item_factors), _gram(rows[0], rows[1:]), 1e-12))


def _skipped(solver: Any, dtype: str) -> list[str]:
    """`sgd`: '`skipped_rows` (rows that left nothing to draw)', 'sampled_loss (mean over the stored cells …, 0 for
    those of skipped rows)'; such a row stays as it was, whatever λ."""
    loss = Tempered()
    X, U = sp.csr_array(np.array([[3.0, 1.0], [2.0, 0.0]])), np.vstack([[-1.0, 0.5, 0.25], U0])
    fit = solver(
        X, loss, factors=3, epochs=1, learning_rate=ETA, regularization={"user": 0.5}, dtype=dtype, init=(U, V0),
        random_state=0,
    )  # fmt: skip
    g = 2.0 * loss.gradient(D)
    u = U0[0] - ETA * (g * (V0[0] - V0[1]) + 0.5 * U0[0])
    mine = _gram([U[0], u], [V0[0] - ETA * g * U0[0], V0[1] + ETA * g * U0[0]])
    return wrong(
        moved=near(_gram(fit.user_factors, fit.item_factors), mine, 1e-12),
        paid=near(fit.history[0]["sampled_loss"], 2.0 * loss.value(D) / 3, 1e-12),
        skipped=fit.params["skipped_rows"] == 1,
    )


def _constant(solver: Any, dtype: str) -> list[str]:
    """`sgd`: 'μ is the score that fits best, by itself, all stored cells and, with a sampler, their negatives' - of a
    loss of one's own with targets and weights: a weighted mean of 2 and -1."""
    draw = np.random.default_rng(1)
    X = sp.csr_array(np.where(draw.random((20, 9)) < 0.4, draw.integers(1, 6, (20, 9)), 0).astype(np.float64))
    weight, M = float(X.data.sum()), 3
    fit = solver(
        X, Flat(1.75, 0.5), negatives=M, biases=True, factors=2, epochs=1, learning_rate=1e-9, dtype=dtype,
        random_state=0,
    )  # fmt: skip
    below = 0.5 * M * X.nnz
    return wrong(mu=near(fit.global_bias, (2 * 1.75 * weight - below) / (1.75 * weight + below), 1e-6))


def _never_stored(solver: Any, dtype: str) -> list[str]:
    """Choosing a loss: 'All samplers verify: an item that the row has stored is never a negative': each row lacks one
    item, so that what is paid, before anything has moved, does not depend on the order."""
    draw = np.random.default_rng(2)
    full = draw.integers(1, 6, (7, 7)).astype(np.float64)
    np.fill_diagonal(full, 0.0)
    U, V = draw.normal(size=(7, 3)), draw.normal(size=(7, 3))
    S, loss = U @ V.T, Tempered(0.5, 0.25)
    paid = np.mean([full[u, i] * 2 * loss.value(S[u, i] - S[u, u]) for u in range(7) for i in range(7) if i != u])
    faults = []
    for sampler in (sampling.Uniform(), sampling.Popularity(3.0), sampling.Hard(5)):
        fit = solver(
            sp.csr_array(full), loss, sampler=sampler, negatives=2, factors=3, epochs=1, learning_rate=1e-12,
            regularization=0.0, dtype=dtype, init=(U, V), random_state=3,
        )  # fmt: skip
        faults += wrong(**{str(sampler): near(fit.history[0]["sampled_loss"], paid, 1e-9)})
    return faults


def _ended_and_gone_on(solver: Any, dtype: str) -> list[str]:
    """Choosing a loss: '`callback` can … raise `StopIteration`'; Add a loss: a checkpoint 'keeps a hash of the code of
    your class, of the numbers that it reads' - an equal instance goes on, another number does not."""
    draw = np.random.default_rng(4)
    X = sp.csr_array(np.where(draw.random((30, 12)) < 0.3, draw.integers(1, 6, (30, 12)), 0).astype(np.float64))
    words: dict[str, Any] = {
        "factors": 3, "dtype": dtype, "random_state": 6, "schedule": "adagrad", "biases": "item", "num_threads": 1,
    }  # fmt: skip

    def stop(record: dict[str, Any], factors: Any) -> None:
        if record["iteration"] == 2:
            raise StopIteration

    with folder() as place:
        kept = lfm_np.Checkpoint(place / "c", every=1e9)
        half = solver(X, Tempered(1.0, 0.5), epochs=9, callback=stop, checkpoint=kept, **words)
        before = (place / "c").read_bytes()
        errors = [
            raised(lambda loss=loss: solver(X, loss, epochs=9, checkpoint=kept, **words))
            for loss in (Tempered(1.0, 0.5000001), Tempered(1.0, 0.5, False), Ranked(1.0, 0.5))
        ]
        after = (place / "c").read_bytes()
        rest = solver(X, Tempered(1.0, 0.5), epochs=5, checkpoint=kept, **words)
    whole = solver(X, Tempered(1.0, 0.5), epochs=5, **words)
    return wrong(
        half=(half.status, len(half.history)) == ("stopped", 2),
        refused=all(isinstance(e, ValueError) and tells(e, "loss|checkpoint|weighted") for e in errors),
        kept=before == after,
        bits=same(rest, whole),
        paid=[r["sampled_loss"] for r in rest.history] == [r["sampled_loss"] for r in whole.history],
    )


def _edited(scale: float) -> Any:
    """A class of the same name and module, with another number in its code."""
    code = f"""
class Edited:
    def value(self, difference):
        return {scale} * (1.0 - difference) ** 2
    def gradient(self, difference):
        return -2.0 * {scale} * (1.0 - difference)
"""
    names: dict[str, Any] = {"__name__": __name__}
    exec(code, names)
    return names["Edited"]()


def _instances_are_functions() -> list[str]:
    """Add a loss: 'The parameters are frozen into the code, so two instances are two functions; … an edited class runs
    its edited code'."""
    faults = []
    for turn, (a, b) in enumerate(((1.0, 0.25), (0.5, 0.75), (1.0, 0.25))):
        loss = Tempered(a, b)
        g = 2.5 * loss.gradient(D)
        faults += [f"{x} in {turn}" for x in _step(lfm_np.sgd, loss, (g, -g), 2.5 * loss.value(D), "float64")]
        g = -2.0 * a * (1 - D)
        faults += [f"{x} of {a}" for x in _step(lfm_np.sgd, _edited(a), (g, -g), a * (1 - D) ** 2, "float64")]
    return faults


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    backends = [("sgd", lfm_np.sgd)]
    if installed("torch"):
        backends.append(("torch", lambda *given, **words: lfm_np.torch_backend.sgd(*given, **words)))
    for backend, solver in backends:
        for name, call in (
            ("two parameters, weighted", _weighted),
            ("two parameters, chosen not to be weighted", _unweighted),
            ("trials and a weight", _ranked),
            ("targets, weights and several negatives", _lopsided),
            ("a list with a temperature and the correction", _contrast),
            ("pairs on the sphere", _on_the_sphere),
        ):
            yield _holds(f"a loss of one's own: {name}, {backend}, float32", lambda c=call, s=solver: c(s, "float32"))
        for name, call in (
            ("a row that leaves nothing to draw", _skipped),
            ("μ of targets and weights", _constant),
            ("every row lacks one item", _never_stored),
            ("stopped, refused to another, gone on", _ended_and_gone_on),
        ):
            yield _holds(f"a loss of one's own: {name}, {backend}", lambda c=call, s=solver: c(s, "float64"))
    if installed("torch"):
        yield _holds("rows that move several times in a batch", lambda: _held_in_a_batch(backends[1][1], "float64"))
    yield _holds("instances and edits are functions of their own", _instances_are_functions)
