"""Least squares at both ends of the types: scaled problems have scaled solutions, and one factor a closed form."""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp

from .case import Case, Group, installed
from .sentences_by_numpy import lfm_np
from .working_days import NAN, Model, biased_half, close, csr, faultless, stars, start, wrong

_GROUP = Group("under the microscope")
_holds = faultless(_GROUP)
TINY = 2.0**-149
REFUSED = (TypeError, ValueError, OverflowError, lfm_np.SolverError)


def _als(engine: str) -> Any:
    return lfm_np.torch_backend.als if engine == "torch" else lfm_np.als


class Scaled(NamedTuple):
    """A model, and by which powers of two its numbers are multiplied; that of the scores is ``scores``."""

    model: Model
    dtype: str
    x: int = 0
    alpha: int = 0
    a0: int = 0
    lam: int = 0
    start: int = 0
    scores: int = 0
    objective: int = 0
    k: int = 3

    def fit(self, engine: str, X: np.ndarray, V: np.ndarray) -> Any:
        words = dict(self.model.words)
        for name, power in (("alpha", self.alpha), ("unobserved_weight", self.a0), ("regularization", self.lam)):
            if name in words:
                words[name] *= 2.0**power
        V = V * np.asarray(2.0**self.start, V.dtype)
        return _als(engine)(
            csr(X * 2.0**self.x, self.dtype), factors=self.k, init=(np.zeros((len(X), self.k), V.dtype), V),
            iterations=2, solver="exact", dtype=self.dtype, num_threads=1, **words,
        )  # fmt: skip

    def faults(self, engine: str) -> list[str]:
        X = stars()
        V = start(*X.shape, self.k)[1].astype(self.dtype)
        U, W = self.model.sweeps(X, V.astype(np.float64), 2)
        fit = self.fit(engine, X, V)
        found = fit.user_factors.astype(np.float64) @ fit.item_factors.astype(np.float64).T
        J = self.model.objective(X, U, W)
        # the systems have conditions of 10, there are four half-sweeps: 40·eps and a margin of 40
        near, paid = (1e-4, 1e-4) if self.dtype == "float32" else (1e-9, 1e-9)
        return wrong(
            scores=close(found * 2.0**-self.scores, U @ W.T, near),
            objective=abs(fit.history[-1]["objective"] * 2.0**-self.objective / J - 1) < paid,
        )


def _scaled() -> Iterator[Case]:
    clicks, ials, share = Model(alpha=2.0), Model("ials", 3.0, 0.5, 0.25), Model("confidence", 4.0, 1.0, 0.5)
    ratings, tight, free = Model("ratings", lam=0.25), Model("ratings", lam=4.0), Model(lam=0.0)
    both = ("numba", "torch") if installed("torch") else ("numba",)
    for engine in both:
        for name, scaled in (
            ("values of 1e-30 and α of 1e30", Scaled(clicks, "float32", -100, 100)),
            ("values of 1e30 and α of 1e-30", Scaled(clicks, "float32", 100, -100)),
            ("values of 1e-270 and α of 1e270", Scaled(clicks, "float64", -900, 900)),
            ("values of 1e270 and α of 1e-270", Scaled(clicks, "float64", 900, -900)),
            ("all weights of 1e12, ials", Scaled(ials, "float32", 0, 40, 40, 40, objective=40)),
            ("all weights of 1e-12, ials", Scaled(ials, "float32", 0, -40, -40, -40, objective=-40)),
            ("all weights of 1e120, ials", Scaled(ials, "float64", 0, 400, 400, 400, objective=400)),
            ("all weights of 1e-120, confidence", Scaled(share, "float64", 0, -400, -400, -400, objective=-400)),
            ("all weights of 1e-18, confidence", Scaled(share, "float32", 0, -60, -60, -60, objective=-60)),
            ("ratings of 1e12", Scaled(ratings, "float32", 40, lam=40, start=20, scores=40, objective=80)),
            ("ratings of 1e-12", Scaled(ratings, "float32", -40, lam=-40, start=-20, scores=-40, objective=-80)),
            ("ratings of 1e90", Scaled(ratings, "float64", 300, lam=300, start=150, scores=300, objective=600)),
            ("ratings of 1e-90", Scaled(ratings, "float64", -300, lam=-300, start=-150, scores=-300, objective=-600)),
            ("users of 1e15 and items of 1e-15", Scaled(free, "float32", start=-50)),
            ("users of 1e-15 and items of 1e15", Scaled(free, "float32", start=50)),
            ("users of 1e120 and items of 1e-120", Scaled(free, "float64", start=-400)),
            ("sixteen and one factors at 1e-90", Scaled(tight, "float64", -300, lam=-300, start=-150, scores=-300,
                                                        objective=-600, k=17)),
        ):  # fmt: skip
            yield _holds(f"{name}, {engine}", lambda s=scaled, e=engine: s.faults(e))
        for name, scaled in (
            ("denormal values and an α that float32 has not", Scaled(clicks, "float32", -140, 140)),
            ("weights below float32", Scaled(share, "float32", 0, -200, -200, -200, objective=-200)),
            ("weights beyond float32", Scaled(ials, "float32", 0, 200, 200, 200, objective=200)),
            ("ratings whose squares leave float32", Scaled(ratings, "float32", 80, lam=80, start=40, scores=80,
                                                           objective=160)),
        ):  # fmt: skip
            yield _GROUP.either(
                f"{name}, {engine}",
                lambda s=scaled, e=engine: s.faults(e),
                lambda found: found == [],
                "alpha|weight|regulari|overflow|singular|float32|float64|large|finite",
                kind=REFUSED,
            )


def _exponents() -> list[str]:
    """Every row and column has two cells: with α₀·8 they count 2 and 8 = 2³, whose powers are exact."""
    X = np.full((8, 8), NAN)
    for j in range(8):
        X[j, j], X[j, (j + 3) % 8] = 1 + j % 5, 1 + (3 * j) % 5
    V = start(8, 8, 2)[1]
    faults = []
    for dtype, near in (("float64", 1e-9), ("float32", 1e-3)):
        for model, nu, lam in (
            (Model("ratings", lam=0.125), 1000.0, 0.125 * 2.0**-1000),
            (Model(alpha=2.0, a0=0.75, lam=0.125), 300.0, 0.125 * 2.0**-900),
            (Model("ratings", lam=0.125), 5e-324, 0.125),
        ):
            words = {**model.words, "regularization": lam, "regularization_exponent": nu}
            start_at = V.astype(dtype)
            fit = lfm_np.als(
                csr(X, dtype), factors=2, init=(np.zeros((8, 2), dtype), start_at), iterations=2, dtype=dtype,
                num_threads=1, **words,
            )  # fmt: skip
            U, W = model.sweeps(X, start_at.astype(np.float64), 2)
            J = model.objective(X, U, W)
            found = fit.user_factors.astype(np.float64) @ fit.item_factors.T.astype(np.float64)
            again = lfm_np.objective(csr(X, dtype), fit)
            if not (
                close(found, U @ W.T, near)
                and abs(fit.history[-1]["objective"] / J - 1) < near
                and abs(again / J - 1) < near
            ):
                faults.append(f"{dtype}, ν={nu}")
    return faults


def _faint(dtype: str, value: float, alpha: float) -> list[str]:
    """However little αx is, the cell is stored: c = 1 and p = 1, where an empty one has p = 0."""
    X = stars()
    V = start(*X.shape, 3)[1].astype(dtype)
    there = np.where(np.isnan(X), NAN, 0.0)
    U, W = Model(alpha=0.0).sweeps(there, V.astype(np.float64), 2)
    cells = csr(X, dtype)
    cells.data[:] = value
    fit = lfm_np.als(
        cells, factors=3, alpha=alpha, regularization=0.1, init=(np.zeros((len(X), 3), dtype), V), iterations=2,
        dtype=dtype, num_threads=1,
    )  # fmt: skip
    found = fit.user_factors.astype(np.float64) @ fit.item_factors.T.astype(np.float64)
    return wrong(scores=close(found, U @ W.T, 1e-3 if dtype == "float32" else 1e-9))


def _held_to_nothing(dtype: str) -> list[str]:
    """u is below Σ c|v| / λ, and J what zero factors leave."""
    X = stars()
    fit = lfm_np.als(csr(X, dtype), factors=3, regularization=1e300, iterations=2, random_state=0, dtype=dtype)
    rest = math.fsum((1 + x) for x in X[~np.isnan(X)])
    return wrong(
        zero=max(abs(fit.user_factors).max(), abs(fit.item_factors).max()) < 1e-30,
        objective=abs(fit.history[-1]["objective"] / rest - 1) < 1e-9,
    )


def _tolerances() -> list[str]:
    X = csr(stars())
    words = {"factors": 3, "random_state": 0, "dtype": "float64"}
    first = lfm_np.als(X, iterations=9, tolerance=math.nextafter(1.0, 0.0), **words)
    last = lfm_np.als(X, iterations=3, tolerance=5e-324, **words)
    return wrong(
        second=len(first.history) == 2 and str(first.status) == "converged",
        third=len(last.history) == 3 and str(last.status) == "max_iterations",
    )


def _dear() -> list[str]:
    """Prices near 2⁴⁰: x - μ is off by 2⁻¹³, what float64 leaves of μ, and the equations add a few of that."""
    X = stars() + 2.0**40
    cells = [Fraction(x) for x in X[~np.isnan(X)].tolist()]
    mean = sum(cells) / len(cells)
    V, mu = start(*X.shape, 2)[1], float(mean)
    b, W = np.zeros(X.shape[1]), V
    for _ in range(2):
        U, a = biased_half(X, W, b, mu, 0.5)
        W, b = biased_half(X.T, U, a, mu, 0.5)
    fit = lfm_np.als(
        csr(X), factors=2, weighting="ratings", biases=True, regularization=0.5, init=(np.zeros((len(X), 2)), V),
        iterations=2, dtype="float64", num_threads=1,
    )  # fmt: skip
    found = fit.user_factors @ fit.item_factors.T + fit.item_bias + fit.user_bias[:, None]
    return wrong(
        mean=abs(Fraction(float(fit.global_bias)) - mean) <= Fraction(1, 2**11),
        rest=float(abs(found - (U @ W.T + b + a[:, None])).max()) < 5e-3,
    )


def _mean_of_many(engine: str) -> list[str]:
    """A float32 sum would stay at 2²⁴."""
    X = np.ones((1000, 100), np.float32)
    X[0, 0] = 2.0**24
    fit = _als(engine)(
        sp.csr_array(X), factors=1, weighting="ratings", biases=True, regularization=1.0, iterations=1, random_state=0
    )
    return wrong(mean=abs(float(fit.global_bias) / ((2.0**24 + 99_999) / 100_000) - 1) < 1e-7)


def _minus_zeros(weighting: str) -> list[str]:
    """−0 is no negative number: a cell that is not there, or a rating of 0; so for ``seen`` too."""
    X = stars()
    cells = csr(X)
    cells.data[::7] = -0.0
    X[~np.isnan(X)] = cells.data
    if weighting != "ratings":
        X[X == 0] = NAN
    V = start(*X.shape, 3)[1]
    model = Model(weighting, lam=0.25)
    U, W = model.sweeps(X, V, 2)
    fit = lfm_np.als(
        cells, factors=3, init=(np.zeros((len(X), 3)), V), iterations=2, dtype="float64", num_threads=1, **model.words
    )
    ids = fit.recommend(np.arange(len(X)), N=X.shape[1], seen=cells).ids
    return wrong(
        scores=close(fit.user_factors @ fit.item_factors.T, U @ W.T),
        left=(ids >= 0).sum(1).tolist() == np.isnan(X).sum(1).tolist(),
        those=all(set(row[row >= 0].tolist()) == set(np.flatnonzero(np.isnan(x)).tolist()) for row, x in zip(ids, X)),
    )


def _seeds() -> list[str]:
    """Every bit of a seed counts, and the one that is kept repeats the fit."""
    X = csr(stars())
    seeds = [5, 5 + 2**31, 5 + 2**32, 5 + 2**63, 5 + 2**64, 5 + 2**128]
    faults, found = [], set()
    for fit in (
        lambda seed: lfm_np.als(X, factors=2, iterations=1, random_state=seed),
        lambda seed: lfm_np.sgd(X, factors=2, epochs=1, random_state=seed),
    ):
        for seed in seeds:
            one = fit(seed)
            again = fit(one.params["seed"])
            if one.item_factors.tobytes() != again.item_factors.tobytes():
                faults.append(f"{seed} is not {one.params['seed']}")
            found.add(one.item_factors.tobytes())
    return faults + wrong(different=len(found) == 2 * len(seeds))


def _hidden(power: int) -> list[str]:
    """Ratings are ±2^power and λ is so large that scores are nothing beside them: what is hidden is missed by 2^power.

    Of x = 2^p, V of 0.1 and λ = 2^l, U is about 2^(p - l), then V 2^(2p - 2l), and the hidden rows' U 2^(3p - 3l).
    """
    from lfm_np.sklearn import ALS, HeldOut

    signs = np.where(np.random.default_rng(0).random((12, 10)) < 0.5, -1.0, 1.0)
    X = sp.csr_array(signs * 2.0**power)
    model = ALS(
        factors=2,
        weighting="ratings",
        regularization=2.0 ** max(4, power + 60),
        iterations=1,
        dtype="float64",
        random_state=0,
    ).fit(X)
    found = [model.score(X), HeldOut("neg_root_mean_squared_error", 0.5, 3)(model, X)]
    return wrong(missed=all(abs(-score / 2.0**power - 1) < 1e-9 for score in found))


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    yield from _scaled()
    for weighting in ("hu-koren", "ratings"):
        yield _holds(f"cells of -0, {weighting}", lambda w=weighting: _minus_zeros(w))
    yield _holds("seeds of more than 32 and 64 bits", _seeds)
    if installed("sklearn"):
        for power in (100, -100, 300, -160):
            yield _holds(f"hidden ratings of 2^{power}", lambda p=power: _hidden(p))
    yield _holds("exponents whose powers leave float32, and nearly float64", _exponents)
    yield _GROUP.refused(
        "an exponent whose powers leave float64",
        lambda: lfm_np.als(csr(stars()), factors=2, regularization_exponent=2000.0, random_state=0),
        "regulari",
        kind=REFUSED,
    )
    yield _holds("cells of the smallest float32", lambda: _faint("float32", TINY, 1.0))
    yield _holds("cells of the smallest float64", lambda: _faint("float64", 5e-324, 1.0))
    yield _holds("α of the smallest float64", lambda: _faint("float64", 1.0, 5e-324))
    yield _holds("λ of 1e300, float64", lambda: _held_to_nothing("float64"))
    yield _GROUP.either(
        "λ of 1e300, float32",
        lambda: _held_to_nothing("float32"),
        lambda found: found == [],
        "regulari|overflow|float32",
        kind=REFUSED,
    )
    yield _holds("tolerances next to 1 and to 0", _tolerances)
    yield _holds("prices near 2⁴⁰ with biases", _dear)
    for engine in ("numba", "torch") if installed("torch") else ("numba",):
        yield _holds(f"μ of a hundred thousand cells, {engine}", lambda e=engine: _mean_of_many(e))
