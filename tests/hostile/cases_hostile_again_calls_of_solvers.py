"""Numbers of eight bits, numbers that overflow, odd starts and odd losses, given to solvers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import scipy.sparse as sp

import lfm_np
from lfm_np import losses, sampling

from .case import Case, Group, installed
from .working_days import Model, close, csr, faultless, stars, start, tells, wrong

GROUP = Group("hostile again, calls")
_holds = faultless(GROUP)
REFUSED = (TypeError, ValueError, OSError, MemoryError, lfm_np.SolverError)
X = stars(30, 20, seed=21)
HOW = Model("hu-koren", alpha=2.0, a0=0.5, lam=0.3, nu=0.5)


def refuses(call: Callable[[], Any], *words: str) -> bool:
    """Whether an error says what is wrong; others than those that are due leave."""
    try:
        call()
    except REFUSED as error:
        return tells(error, *words)
    return False


def either(call: Callable[[], Any], true: Callable[[Any], Any], *words: str) -> bool:
    try:
        found = call()
    except REFUSED as error:
        return tells(error, *words)
    return bool(true(found))


def engines() -> list[tuple[str, Any]]:
    return [("numba", lfm_np), *([("torch", lfm_np.torch_backend)] if installed("torch") else [])]


def scores(fit: Any) -> np.ndarray:
    return fit.user_factors.astype(np.float64) @ fit.item_factors.astype(np.float64).T


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


def _factors_of_eight_bits(side: Any) -> list[str]:
    """127 + 15 is more than int8 holds, and 127² more than int16."""
    U0, V0 = start(30, 20, 127, seed=3)
    words = {**HOW.words, "init": (U0, V0), "dtype": "float64", "solver": "exact"}
    fit = side.als(csr(X), factors=np.int8(127), iterations=np.int8(2), num_threads=np.int8(1), **words)
    U, V = HOW.sweeps(X, V0, 2)
    return wrong(
        shape=fit.item_factors.shape == (20, 127),
        scores=close(scores(fit), U @ V.T, 1e-8),  # κ below 100 in float64
        sweeps=len(fit.history) == 2,
    )


def _steps_of_eight_bits(side: Any, **more: Any) -> list[str]:
    """A hundred times the one negative that there is, in one step."""
    U, V, eta, M = np.array([[0.4, -0.3, 0.5]]), np.array([[0.2, 0.6, -0.1], [0.7, 0.1, 0.3]]), 0.125, 100
    d = float(U[0] @ (V[0] - V[1]))
    g = -M / (1 + math.exp(d))
    mine = np.vstack([U[0] - eta * g * (V[0] - V[1]), V[0] - eta * g * U[0], V[1] + eta * g * U[0]])
    fit = side.sgd(
        sp.csr_array(([1.0], ([0], [0])), shape=(1, 2)), losses.BPR(), negatives=np.int8(M), factors=np.int8(3),
        epochs=np.uint8(1), learning_rate=eta, regularization=0.0, dtype="float64", init=(U, V), num_threads=1, **more,
    )  # fmt: skip
    F = np.vstack([fit.user_factors, fit.item_factors])
    return wrong(
        moved=close(F @ F.T, mine @ mine.T, 1e-12), paid=close(fit.history[0]["sampled_loss"], M * softplus(-d), 1e-12)
    )


def _rates_next_to_nothing(side: Any) -> list[str]:
    """A rate that is all but 0 leaves everything where it was, and every epoch pays the same."""
    U, V = np.array([[0.4, -0.3, 0.5]]), np.array([[0.2, 0.6, -0.1], [0.7, 0.1, 0.3]])
    F, paid, facts = np.vstack([U, V]), softplus(-float(U[0] @ (V[0] - V[1]))), {}
    cell = sp.csr_array(([1.0], ([0], [0])), shape=(1, 2))
    for rate in (5e-324, 1e-300):
        for schedule in ("constant", "inverse", "adagrad"):
            fit = side.sgd(
                cell, factors=3, epochs=3, learning_rate=rate, schedule=schedule, dtype="float64", init=(U, V),
                num_threads=1,
            )  # fmt: skip
            G = np.vstack([fit.user_factors, fit.item_factors])
            facts[f"{schedule} {rate}"] = close(G @ G.T, F @ F.T, 1e-12) and all(
                close(record["sampled_loss"], paid, 1e-12) for record in fit.history
            )
    return wrong(**facts)


def _seeds_are_not_used_up() -> list[str]:
    small, data = csr(X), lfm_np.Interactions(csr(X), np.arange(30), np.arange(20))
    facts = {}
    for name, draws in (
        ("als", lambda s: lfm_np.als(small, factors=2, iterations=1, random_state=s).item_factors),
        ("sgd", lambda s: lfm_np.sgd(small, factors=2, epochs=1, random_state=s).item_factors),
        ("split", lambda s: data.split("random", random_state=s)[1].matrix.toarray()),
        ("planted", lambda s: lfm_np.datasets.planted(30, 20, 100, random_state=s).matrix.toarray()),
        ("pairs", lambda s: lfm_np.datasets.make_interactions(30, 20, 9, random_state=s)),
        ("parts", lambda s: lfm_np.datasets.make_interactions_train_test(30, 20, 9, random_state=s)[1]),
    ):
        seed = np.random.SeedSequence(7)
        children = seed.spawn(2)
        first, again = draws(seed), draws(seed)
        facts[f"{name}_same"] = np.array_equal(first, again)
        facts[f"{name}_untouched"] = seed.n_children_spawned == 2
        facts[f"{name}_children"] = not np.array_equal(draws(children[0]), draws(children[1]))
    return wrong(**facts)


def _overlapping_start(side: Any) -> list[str]:
    """U and V are views of one array, backwards, in the other order of bytes, and nobody may write to it."""
    base = np.random.default_rng(8).normal(0, 0.3, (40, 3))
    facts = {}
    for name, B in (
        ("overlap", base), ("bytes", base.astype(">f8")), ("columns", np.asfortranarray(base)),
        ("gaps", np.repeat(np.repeat(base, 2, 0), 3, 1)[::2, ::3]),
    ):  # fmt: skip
        B.flags.writeable = False
        before = B.tobytes()
        U0, V0 = B[:30][::-1], B[10:30][::-1, ::-1]
        fit = side.als(
            csr(X), factors=3, iterations=2, init=(U0, V0), dtype="float64", solver="exact", num_threads=1, **HOW.words
        )
        U, V = HOW.sweeps(X, np.array(V0, np.float64), 2)
        facts[name] = close(scores(fit), U @ V.T, 1e-8) and B.tobytes() == before
    return wrong(**facts)


def _cells_that_cancel(side: Any) -> list[str]:
    """3 and -3 are the same cell: their sum is 0, which is absent, if a -3 is let in at all."""
    U0, V0 = start(30, 20, 3, seed=4)
    whole = csr(X).tocoo()
    r, c = (int(place) for place in np.argwhere(np.isnan(X))[0])
    rows, columns = np.append(whole.coords[0], [r, r]), np.append(whole.coords[1], [c, c])
    twice = sp.coo_array((np.append(whole.data, [3.0, -3.0]), (rows, columns)), shape=X.shape)
    U, V = HOW.sweeps(X, V0, 2)
    words = {**HOW.words, "factors": 3, "init": (U0, V0), "dtype": "float64", "iterations": 2, "solver": "exact"}
    return wrong(
        absent=either(
            lambda: side.als(twice, num_threads=1, **words),
            lambda fit: close(scores(fit), U @ V.T, 1e-8),
            "negative|below|≥|value|cell",
        ),
        there=twice.nnz == whole.nnz + 2 and twice.data[-2:].tolist() == [3.0, -3.0],
    )


def _weights_beyond_everything(side: Any) -> list[str]:
    """α·x is no number of float64: an error, or a score of 1 where the weight is without bounds."""
    facts = {}
    eye = sp.csr_array(np.eye(3) * 1e200)
    for weighting in ("hu-koren", "ials", "confidence"):
        facts[weighting] = either(
            lambda w=weighting: side.als(
                eye, factors=3, alpha=1e200, weighting=w, dtype="float64", iterations=2, random_state=0, num_threads=1
            ),
            lambda fit: np.isfinite(scores(fit)).all() and abs(np.diag(scores(fit)) - 1).max() < 1e-3,
            "alpha|weight|overflow|large|finite|float64|value|singular|equation|beyond",
        )
    return wrong(**facts)


def _penalty_beyond_everything(side: Any) -> list[str]:
    """λ·n^ν is no number of float64: an error, or factors of 0 and J of what they leave."""
    rest = float(sum(1 + x for x in X[~np.isnan(X)]))
    return wrong(
        either=either(
            lambda: side.als(
                csr(X), factors=2, regularization=1e308, regularization_exponent=5.0, dtype="float64", iterations=2,
                random_state=0, num_threads=1,
            ),
            lambda fit: (
                abs(fit.user_factors).max() < 1e-100
                and abs(fit.item_factors).max() < 1e-100
                and close(fit.history[-1]["objective"], rest, 1e-9)
            ),
            "regularization|overflow|large|finite|singular|equation|λ|beyond",
        )
    )  # fmt: skip


class Swapped:
    def value(self, target: float, score: float) -> float:
        return 0.5 * (score - target) ** 2

    def gradient(self, target: float, score: float) -> float:
        return score - target


class Keyword:
    def value(self, *, difference: float) -> float:
        return -difference

    def gradient(self, *, difference: float) -> float:
        return -1.0


class Different:
    def value(self, difference: float) -> float:
        return -difference

    def gradient(self, score: float, target: float) -> float:
        return -1.0


class Anything:
    def value(self, *scores: float) -> float:
        return -scores[0]

    def gradient(self, *scores: float) -> float:
        return -1.0


class Reciprocal:
    def value(self, score: float, target: float) -> float:
        return target / score

    def gradient(self, score: float, target: float) -> float:
        return -target / (score * score)


def _parameters_of_losses() -> list[str]:
    """The names of parameters say what a loss is: in another order, by keyword, or two kinds, they say nothing."""
    cell, facts = sp.csr_array([[2.0, 0.0]]), {}
    U, V, eta = np.array([[0.4, -0.3]]), np.array([[0.2, 0.6], [0.7, 0.1]]), 0.125
    e = float(U[0] @ V[0]) - 2.0
    mine = np.vstack([U[0] - eta * e * V[0], V[0] - eta * e * U[0], V[1]])
    words: dict[str, Any] = {"factors": 2, "init": (U, V), "learning_rate": eta, "regularization": 0.0, "epochs": 1}

    def by_name(fit: Any) -> bool:
        F = np.vstack([fit.user_factors, fit.item_factors])
        return close(F @ F.T, mine @ mine.T, 1e-12)

    said = "score|target|difference|parameter|argument|value|gradient"
    facts["swapped"] = either(
        lambda: lfm_np.sgd(cell, Swapped(), sampler=None, dtype="float64", **words), by_name, said
    )
    for loss in (Keyword(), Different(), Anything()):
        facts[f"check {type(loss).__name__}"] = refuses(lambda loss=loss: losses.check(loss), said)
        facts[f"fit {type(loss).__name__}"] = refuses(lambda loss=loss: lfm_np.sgd(cell, loss, **words), said)
    return wrong(**facts)


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    for name, side in engines():
        yield _holds(f"127 factors in eight bits, {name}", lambda s=side: _factors_of_eight_bits(s))
        yield _holds(f"a hundred negatives in eight bits, {name}", lambda s=side: _steps_of_eight_bits(s))
        yield _holds(f"rates next to nothing, {name}", lambda s=side: _rates_next_to_nothing(s))
        yield _holds(f"a start that overlaps itself, backwards, {name}", lambda s=side: _overlapping_start(s))
        yield _holds(f"two cells that cancel, {name}", lambda s=side: _cells_that_cancel(s))
        yield _holds(f"weights beyond float64, {name}", lambda s=side: _weights_beyond_everything(s))
        yield _holds(f"penalties beyond float64, {name}", lambda s=side: _penalty_beyond_everything(s))
    if installed("torch"):
        yield _holds(
            "batches of more than there is, in few bits",
            lambda: _steps_of_eight_bits(lfm_np.torch_backend, batch_size=10**12, memory_budget=np.int32(1 << 20)),
        )
    yield _holds("a SeedSequence is not used up", _seeds_are_not_used_up)
    yield _holds("parameters of losses by other names", _parameters_of_losses)
    yield GROUP.refused(
        "a loss that divides by a score of 0",
        lambda: lfm_np.sgd(
            csr(X), Reciprocal(), sampler=sampling.Uniform(), factors=2, epochs=2, random_state=0,
            init=(np.zeros((30, 2)), np.zeros((20, 2))),
        ),
        "reciprocal|loss|value|gradient|diverg|finite|division|zero",
        kind=(TypeError, ValueError, lfm_np.SolverError, ZeroDivisionError),
    )  # fmt: skip
