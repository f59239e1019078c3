"""The objective in fractions, and rows of one factor in closed form, at both ends of the types."""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy as np
import scipy.sparse as sp

from .case import Case, Group
from .sentences_by_numpy import lfm_np
from .working_days import NAN, csr, faultless, wrong

_GROUP = Group("under the microscope")
_holds = faultless(_GROUP)
TINY = 2.0**-149


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
