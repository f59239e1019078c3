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


def _exactly(X: Any, U: Any, V: Any, weighting: str, alpha: float, a0: float, lam: float) -> Fraction:
    """J in fractions."""
    a, e, total = Fraction(alpha), Fraction(a0), Fraction(0)
    Us, Vs = ([[Fraction(x) for x in row] for row in F.tolist()] for F in (U, V))
    for x_row, u in zip(np.asarray(X, np.float64).tolist(), Us, strict=True):
        for x, v in zip(x_row, Vs, strict=True):
            s = sum((p * q for p, q in zip(u, v, strict=True)), Fraction(0))
            if math.isnan(x):
                total += e * s**2
                continue
            c, p = _cell(weighting, Fraction(x), a, e)
            total += c * (p - s) ** 2
    return total + Fraction(lam) * sum(x**2 for F in (Us, Vs) for row in F for x in row)


def _cell(weighting: str, x: Fraction, a: Fraction, e: Fraction) -> tuple[Fraction, Fraction]:
    if weighting == "ials":
        return e + a * x, a * x / (e + a * x)
    return {"hu-koren": (1 + a * x, Fraction(1)), "confidence": (a * x, Fraction(1)), "ratings": (Fraction(1), x)}[
        weighting
    ]


BASE_U = np.array([[3.0, -1.0], [0.0, 2.0], [1.0, 1.0]])
BASE_V = np.array([[1.0, 2.0], [-2.0, 1.0]])
BASE_X = np.array([[2.0, NAN], [1.0, 3.0], [NAN, 1.0]])


def _judged(
    weighting: str, u: int, v: int, alpha: float = 1.0, a0: float = 1.0, lam: float = 0.0, x: int = 0, dtype: Any = None
) -> list[str]:
    dtype = dtype or np.float64
    a0 = 0.0 if weighting == "ratings" else a0
    U, V = (BASE_U * 2.0**u).astype(dtype), (BASE_V * 2.0**v).astype(dtype)
    X = BASE_X * 2.0**x
    words = {} if weighting == "ratings" else {"alpha": alpha, "unobserved_weight": a0}
    found = lfm_np.objective(
        csr(X), lfm_np.Factors(U, V), weighting=weighting, regularization=lam, regularization_exponent=0.0, **words
    )
    mine = _exactly(X, U, V, weighting, alpha, a0, lam)
    # a dozen sums of positive terms, but for the subtraction of α₀s² over the cells, which is no more than twice J here
    return wrong(objective=abs(Fraction(found) - mine) <= Fraction(1, 10**12) * mine + Fraction(TINY) ** 7)


def _to_the_unit() -> list[str]:
    U, V = np.array([[2.0**27]]), np.array([[2.0**26]])
    J = lfm_np.objective(
        sp.csr_array([[2.0**53 - 1]]), lfm_np.Factors(U, V), weighting="ratings", regularization=0.0,
        regularization_exponent=0.0,
    )  # fmt: skip
    return wrong(one=J == 1.0)


def _judged_beyond() -> Any:
    big = np.array([[2.0**300]])
    return lfm_np.objective(
        sp.csr_array([[1.0]]), lfm_np.Factors(big, big), weighting="ratings", regularization=0.0,
        regularization_exponent=0.0,
    )  # fmt: skip


def _alone(
    dtype: str, weighting: str, v: list[float], cells: dict[int, float], alpha: float, a0: float, lam: float
) -> list[str]:
    """One factor: u = Σ c p v / (λ + Σ c v² + α₀ Σ v² of the others)."""
    e = Fraction(0) if weighting == "ratings" else Fraction(a0)
    top, low = Fraction(0), Fraction(lam)
    for i, y in enumerate(map(Fraction, v)):
        if i in cells:
            c, p = _cell(weighting, Fraction(cells[i]), Fraction(alpha), e)
            top, low = top + c * p * y, low + c * y**2
        else:
            low += e * y**2
    columns = sorted(cells)
    values = np.array([cells[i] for i in columns]).astype(dtype)
    assert values.tolist() == [cells[i] for i in columns]
    row = sp.csr_array((values, ([0] * len(columns), columns)), shape=(1, len(v)))
    V = np.array(v)[:, None].astype(dtype)
    words = {} if weighting == "ratings" else {"alpha": alpha, "unobserved_weight": a0}
    faults = []
    for name, model, work, X in (
        ("users", lfm_np.Factors(np.ones((1, 1), dtype), V), "fold_in_users", row),
        ("items", lfm_np.Factors(V, np.ones((1, 1), dtype)), "fold_in_items", row.T.tocsr()),
    ):
        new = getattr(model, work)(
            X, weighting=weighting, regularization=lam, regularization_exponent=0.0, num_threads=1, **words
        )
        u = float((new.user_factors if name == "users" else new.item_factors)[0, 0])
        # docs/reliability.md, "Numbers of every size": 0.3 % and 5e-6 of the targets
        if abs(Fraction(u) - top / low) > abs(top / low) * Fraction(3 if dtype == "float32" else 5e-3) / 1000:
            faults.append(f"{name}: {u!r}, not {float(top / low)!r}")
    return faults


def _closed() -> Iterator[Case]:
    for dtype, b in (("float32", 2.0**10), ("float64", 2.0**60)):
        many = [1 + i / 64 for i in range(41)]
        for name, *problem in (
            ("a confidence beyond measure on small items", "hu-koren", [3 * b**-2, 5 * b**-2, b**-2], {0: b**2},
             b**6, 1.0, b**-1),
            ("next to no weight beside large items", "hu-koren", [3 * b**5, b**5, -(b**4)], {1: 3.0}, b**-6, 1.0,
             5e-324),
            ("a target next to 0", "ials", [3.0, 5.0, 1.0], {0: 1.0, 2: 2.0}, b**-8, 1.0, 0.5),
            ("the only item has next to no confidence", "confidence", [2.0], {0: 1.0}, b**-8, 1.0, b**-9),
            ("an item with next to no confidence beside a small one", "confidence", [1.0, b**-3], {0: 1.0}, b**-4, 1.0,
             b**-5),
            ("a rating far below zero", "ratings", [b**2, 7.0], {0: -3 * b**8}, 1.0, 0.0, b**3),
            ("one enormous value among forty", "hu-koren", many, {0: b**6, **dict.fromkeys(range(1, 41), 1.0)}, 1.0,
             1.0, 0.25),
            ("one enormous item among forty", "hu-koren", [b**4, *many[1:]], dict.fromkeys(range(3, 41), 2.0), 1.0,
             b**-5, 0.25),
            ("λ beyond measure", "hu-koren", [3.0, 5.0], {0: 2.0}, 1.0, b**-6, b**6),
            ("confidences at both ends of a row", "ials", [3.0, 5.0, 7.0], {0: b**-6, 1: b**6}, 1.0, b**-3, b**5),
        ):  # fmt: skip
            yield _holds(f"{name}, {dtype}", lambda d=dtype, p=problem: _alone(d, *p))
    yield _holds(
        "a denormal rating", lambda: _alone("float32", "ratings", [1.0, 2.0], {0: 5 * 2.0**-130}, 1.0, 0.0, 0.0)
    )


def _explained() -> list[str]:
    """c v₁v / (λ + Σ) for every cell: from 2⁶⁰ to 2⁻⁶⁰ in one row, and all are there."""
    v, x, lam = [3.0, 5.0, -7.0, 1.0], [2.0**60, 1.0, 2.0**-60, 3.0], 2.0**-30
    X = sp.csr_array([x])
    model = lfm_np.Factors(np.ones((1, 1)), np.array(v)[:, None])
    found = model.explain(
        0, 1, X, weighting="confidence", alpha=1.0, unobserved_weight=1.0, regularization=lam,
        regularization_exponent=0.0,
    )  # fmt: skip
    low = Fraction(lam) + sum(Fraction(c) * Fraction(y) ** 2 for c, y in zip(x, v, strict=True))
    mine = {i: Fraction(x[i]) * Fraction(v[i]) * 5 / low for i in range(4)}
    got = dict(zip(np.asarray(found.items).tolist(), np.asarray(found.contributions).tolist(), strict=True))
    return wrong(
        items=sorted(got) == [0, 1, 2, 3],
        shares=all(abs(Fraction(got[i]) / mine[i] - 1) < Fraction(1, 10**9) for i in got),
        score=abs(float(found.score) / float(sum(mine.values())) - 1) < 1e-9,
        baseline=abs(float(found.baseline)) < 1e-12,
    )


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    yield from _scaled()
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
    for name, weighting, u, v, words in (
        ("just within float64", "ratings", 250, 255, {}),
        ("of denormals", "ratings", -260, -260, {"x": -520}),
        ("below every float64", "ratings", -300, -300, {"x": -600}),
        ("of users of 1e90 and items of 1e-90", "hu-koren", 300, -300, {"lam": 2.0**-602}),
        ("with targets next to 0", "ials", 0, 0, {"alpha": 2.0**-1000}),
        ("with α next to 0 and tiny scores", "confidence", -20, -480, {"alpha": 2.0**-1000, "a0": 2.0**-40}),
        ("of float32 factors whose scores are none", "hu-koren", 100, 110, {"dtype": np.float32}),
        ("of values beyond 1e150", "hu-koren", 0, 0, {"x": 600}),
        ("of values below 1e-300", "hu-koren", 0, 0, {"x": -1060, "lam": 1e-300}),
    ):
        yield _holds(f"the objective {name}", lambda w=weighting, p=u, q=v, k=words: _judged(w, p, q, **k))
    yield _holds("the objective of a miss by one at 2⁵³", _to_the_unit)
    yield _GROUP.refused("the objective beyond float64", _judged_beyond, "objective|float64|overflow|large|finite")
    yield from _closed()
    yield _holds("contributions at both ends of a row", _explained)
