"""The second sitting, models: fits by rarely used words, beside float64 loops over rows."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import scipy.sparse as sp

from .case import Case, Group, installed
from .cases_second_sitting_models_of_engines import Law, begun, counts, lfm_np, near, stars
from .cases_second_sitting_models_of_steps import Pull, losses, sampling
from .working_days import NAN, all_scores, csr, dense, faultless, judged, raised, wrong

_holds = faultless(Group("second sitting, models"))


def _original_loss() -> list[str]:
    """irspack's (α₀ + x)(1 - s)² on stored cells and α₀s² elsewhere; with α₀ = 1 that is "hu-koren" with α = 1."""
    facts = {}
    for a0 in (0.3, 1.0):
        X = counts(13, 11, 11)
        U0, V = begun(13, 11, 3, 12)
        F = []
        for side in range(2):
            rows, Y = (X, V) if side == 0 else (X.T, F[0])
            found = []
            for x in rows:
                c = np.where(np.isnan(x), a0, a0 + np.nan_to_num(x))
                A = (Y.T * c) @ Y + 0.2 * math.sqrt((~np.isnan(x)).sum() + a0 * len(x)) * np.eye(3)
                found.append(np.linalg.solve(A, Y.T @ np.where(np.isnan(x), 0.0, c)))
            F.append(np.array(found))
        words = {"regularization": 0.2, "regularization_exponent": 0.5, "unobserved_weight": a0, "iterations": 1}
        words |= {"factors": 3, "init": (U0, V), "dtype": "float64"}
        got = lfm_np.als(csr(X + a0), weighting="confidence", **words)
        facts[f"confidence_{a0}"] = near(all_scores(got), F[0] @ F[1].T, 1e-9)
        if a0 == 1:
            facts["hu_koren"] = near(all_scores(lfm_np.als(csr(X), **words)), F[0] @ F[1].T, 1e-9)
    return wrong(**facts)


def _steps_of_ratings(solver: str) -> list[str]:
    """J is that of the factors and biases after every sweep, and no half-sweep raises it."""
    X, law, mine = stars(40, 200, 13, 0.7), Law("ratings", lam=0.3, nu=0.4), list[float]()

    def look(record: Any, now: Any) -> None:
        mine.append(law.cost(X, now.user_factors, now.item_factors, now.user_bias, now.item_bias, now.global_bias))

    got = lfm_np.als(
        csr(X), factors=80, iterations=4, solver=solver, biases=True, dtype="float64", callback=look,
        init=begun(40, 200, 80, 14), **law.words,
    )  # fmt: skip
    J = [record[half] for record in got.history for half in ("objective_users", "objective")]
    return wrong(
        J=near(J[1::2], mine, 1e-9),
        falls=all(b <= a * (1 + 1e-12) for a, b in itertools.pairwise(J)),
        asked=lfm_np.objective(csr(X), got) <= J[0] and near(lfm_np.objective(csr(X), got), mine[-1], 1e-9),
    )


def _long_columns() -> list[str]:
    """Columns of some thousand cells in float32: J has an error of 10⁻⁵ of Σ c·p² at most."""
    draw = np.random.default_rng(15)
    X = np.where(draw.random((6000, 3)) < 0.8, draw.integers(1, 4, (6000, 3)), NAN)
    law = Law(alpha=0.7, lam=2.0)
    U0, V = begun(6000, 3, 2, 16)
    U, V1 = law.sweeps(X, V, 1)
    got = lfm_np.als(
        csr(X), factors=2, iterations=1, init=(U0.astype("f"), V.astype("f")), dtype="float32", **law.words
    )
    return wrong(
        J=bool(abs(got.history[0]["objective"] - law.cost(X, U, V1)) < 1e-5 * (1 + 0.7 * np.nansum(X))),
        scores=near(all_scores(got), U @ V1.T, 1e-4),
    )


def _told_by_hand() -> list[str]:
    """``params`` of a model that nobody fitted are what fold-in takes, one by one where others are told."""
    X, law = counts(6, 10, 17), Law("ials", 2.5, 0.3, 0.6, 0.8)
    U, V = begun(6, 10, 4, 18)
    model = lfm_np.Factors(U, V, params=dict(law.words))
    other = law._replace(lam=7.0, nu=0.0)
    return wrong(
        own=near(model.fold_in_users(csr(X)).user_factors, law.half(X, V)[0], 1e-9),
        J=near(lfm_np.objective(csr(X), model), law.cost(X, U, V), 1e-9),
        told=near(
            model.fold_in_users(csr(X), regularization=7.0, regularization_exponent=0.0).user_factors,
            other.half(X, V)[0],
            1e-9,
        ),
        again=near(model.update(csr(X[2:4]), users=[2, 3]).user_factors[[2, 3]], law.half(X[2:4], V)[0], 1e-9),
    )


def _watched() -> list[str]:
    """The page on tuning: a measure after every sweep stays in the history, and patience of two sweeps ends the run."""
    X, law = counts(40, 24, 19, 0.35), Law("ials", 1.0, 0.2, 0.05, 1.0)
    draw = np.random.default_rng(20)
    hidden = ~np.isnan(X) & (draw.random(X.shape) < 0.3)
    train = np.where(hidden, NAN, X)
    U0, V = begun(40, 24, 6, 21)
    measures, W = [], V
    for _ in range(30):
        U, W = law.sweeps(train, W, 1)
        measures.append(judged(U @ W.T, ~np.isnan(train), hidden, 5)["ndcg@5"])
    best, mine = 0, 30
    for sweep, measure in enumerate(measures):
        if measure > measures[best] + 1e-12:
            best = sweep
        if sweep - best >= 2:
            mine = sweep + 1
            break
    top = {"value": 0.0, "sweep": 0}
    test = sp.csr_array(hidden.astype(float))

    def watch(record: Any, now: Any) -> None:
        value = record["ndcg@5"] = lfm_np.evaluate(now, csr(train), test, ["ndcg@5"])["ndcg@5"]
        if value > top["value"] + 1e-12:
            top.update(value=value, sweep=record["iteration"])
        if record["iteration"] - top["sweep"] >= 2:
            raise StopIteration

    got = lfm_np.als(csr(train), factors=6, iterations=30, dtype="float64", init=(U0, V), callback=watch, **law.words)
    return wrong(
        sweeps=len(got.history) == mine,
        status=got.status == ("stopped" if mine < 30 else "max_iterations"),
        measures=near([record["ndcg@5"] for record in got.history], measures[:mine], 1e-9),
    )


def _served_from_spark() -> list[str]:
    """λ·n_u, a row at a time, by a model without ``params``."""
    U, V = begun(4, 9, 3, 26)
    X = csr(counts(6, 9, 27))
    model, facts = lfm_np.Factors(U, V), {}
    for u in (0, 2, 3, 4, 5):
        row = X[[u]]
        new = model.fold_in_users(
            row, weighting="hu-koren", alpha=40.0, regularization=0.1 * row.nnz, regularization_exponent=0.0
        )
        mine = Law("hu-koren", 40.0, 1.0, 0.1 * row.nnz).half(dense(row), V)[0]
        facts[f"row_{u}"] = near(new.user_factors, mine, 1e-9)
    return wrong(**facts)


def _masses() -> list[str]:
    """Whole numbers as q, to 2⁻⁵² of all; nothing for what nobody has, and something for all else."""
    had = np.array([0, 1, 2, 1000, 3, 0, 41])
    facts = {}
    for beta in (0.5, 1.0, 3.0, 10.0):
        mass = sampling.masses(sampling.Popularity(beta), had)
        q = np.where(had > 0, np.maximum(had, 1.0) ** beta, 0.0)
        q /= q.sum()
        share = mass / float(mass.sum())
        facts[f"q_{beta}"] = mass.dtype.kind in "iu" and bool((abs(share - q) <= 4e-15).all())
        facts[f"some_{beta}"] = np.array_equal(mass > 0, had > 0) and share[had > 0].min() >= 0.999 * 2.0**-52
        before = sampling.cumulative(mass, 7)
        facts[f"sums_{beta}"] = before.dtype == np.int64 and before.tolist() == [0, *np.cumsum(mass).tolist()]
    facts["equal"] = sampling.masses(sampling.Uniform(), had) is None
    facts["alone"] = sampling.cumulative(None, 7).tolist() == [7]
    return wrong(**facts)


class Even(Pull):
    """Slopes that are right only where all negatives are alike."""

    def gradient(self, positive: float, negatives: np.ndarray) -> tuple[float, np.ndarray]:
        total, pull = 1.0, 0.0
        for score in negatives:
            total += math.exp(min((score - positive) / self.temperature, 700.0))
        pull = (total - 1.0) / (total * self.temperature)
        return -pull, np.full(len(negatives), pull / len(negatives))


class Bent:
    """Its slope at the kink is one of those between."""

    def value(self, difference: float) -> float:
        return abs(difference)

    def gradient(self, difference: float) -> float:
        return 0.3 if difference == 0 else math.copysign(1.0, difference)


def _checked() -> list[str]:
    error = raised(lambda: losses.check(Even()))
    return wrong(
        even=isinstance(error, ValueError), bent=losses.check(Bent()) is None, pull=losses.check(Pull()) is None
    )


def _seeds() -> list[str]:
    """What ``params`` holds repeats the fit that was given none; an object that moves on has none."""
    X, facts = csr(counts(30, 20, 39)), {}
    fits: dict[str, Callable[[Any], Any]] = {
        "als": lambda seed: lfm_np.als(X, factors=3, iterations=2, random_state=seed),
        "sgd": lambda seed: lfm_np.sgd(X, factors=3, epochs=2, random_state=seed),
    }
    if installed("torch"):
        back, one = lfm_np.torch_backend, {"factors": 3, "num_threads": 1}
        fits["torch_als"] = lambda seed: back.als(X, iterations=2, random_state=seed, **one)
        fits["torch_sgd"] = lambda seed: back.sgd(X, epochs=2, random_state=seed, **one)
    for name, fit in fits.items():
        first, other, draw = fit(None), fit(None), np.random.default_rng(4)
        seed = first.params["seed"]
        again, moved, still = fit(seed), fit(draw), fit(np.random.default_rng(4))
        facts[f"{name}_again"] = np.array_equal(first.item_factors, again.item_factors)
        facts[f"{name}_other"] = not np.array_equal(first.item_factors, other.item_factors)
        facts[f"{name}_object"] = moved.params["seed"] is None
        facts[f"{name}_same"] = np.array_equal(moved.item_factors, still.item_factors)
        facts[f"{name}_moves"] = not np.array_equal(moved.item_factors, fit(draw).item_factors)
    return wrong(**facts)


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    yield _holds("irspack's original loss", _original_loss)
    for solver in ("cg", "subspace"):
        yield _holds(f"ratings with biases by {solver}", lambda s=solver: _steps_of_ratings(s))
    yield _holds("columns of five thousand cells in float32", _long_columns)
    yield _holds("params that were written by hand", _told_by_hand)
    yield _holds("a run that is watched, as on the page on tuning", _watched)
    yield _holds("a model from Spark, a row at a time", _served_from_spark)
    yield _holds("masses and their sums", _masses)
    yield _holds("slopes that are right where all is alike, and at a kink", _checked)
    yield _holds("the seed that repeats a fit", _seeds)
