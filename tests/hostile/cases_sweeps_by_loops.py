"""ALS of every weighting, solver and backend beside float64 loops over all cells; what is folded in and explained."""

from __future__ import annotations

import itertools
import os
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np
import scipy.sparse as sp

import lfm_np

from . import brute
from .case import Case, Group

_refused, _right, _either = (getattr(Group("sweeps by loops"), kind) for kind in ("refused", "right", "either"))
SOLVER = lfm_np.SolverError


def fit(X: Any, k: int = 4, sweeps: int = 2, device: str | None = None, dtype: Any = "float64", **words: Any) -> Any:
    init = brute.starts(*X.shape, k)
    words = {"factors": k, "iterations": sweeps, "dtype": dtype, "num_threads": 2, "init": init, **words}
    return lfm_np.als(X, **words) if device is None else lfm_np.torch_backend.als(X, device=device, **words)


def same(found: Any, X: Any, k: int = 4, sweeps: int = 2, tolerance: float = 1e-9, **words: Any) -> bool:
    """Whether scores and the history are those of the loops."""
    expected = brute.als(X, brute.starts(*X.shape, k), sweeps, **words)
    values = [record[name] for record in found.history for name in ("objective_users", "objective")]
    return brute.near(brute.scores(found), expected["scores"], tolerance) and bool(
        np.allclose(values, expected["values"], rtol=tolerance * 10, atol=0)
    )


def ratings(m: int = 12, n: int = 9, seed: int = 0) -> sp.csr_array:
    """From −2 to 2, so that zeros are stored."""
    X = brute.counts(m, n, seed=seed)
    X.data -= 3
    return X


FITS: dict[str, tuple[Any, dict[str, Any]]] = {
    "the defaults": (brute.counts, {}),
    "hu-koren, ν 1": (brute.counts, {"unobserved_weight": 0.3, "regularization_exponent": 1.0, "alpha": 40.0}),
    "ials, ν 1": (
        brute.counts,
        {"weighting": "ials", "unobserved_weight": 0.1, "regularization_exponent": 1.0, "regularization": 0.003},
    ),
    "ials, ν 0.5, strong": (
        brute.counts,
        {"weighting": "ials", "unobserved_weight": 2.0, "regularization_exponent": 0.5, "regularization": 1.0},
    ),
    "ials, nothing said of absent cells": (
        brute.counts,
        {"weighting": "ials", "unobserved_weight": 0.0, "regularization": 0.5},
    ),
    "confidence": (brute.counts, {"weighting": "confidence", "alpha": 0.25, "unobserved_weight": 0.5}),
    "confidence below the unobserved": (
        brute.counts,
        {"weighting": "confidence", "alpha": 0.1, "unobserved_weight": 7.0, "regularization": 0.1},
    ),
    "alpha 0": (brute.counts, {"alpha": 0.0, "regularization": 0.1}),
    "ratings, ALS-WR": (
        ratings,
        {"weighting": "ratings", "regularization_exponent": 1.0, "regularization": 0.1},
    ),
    "ratings, ν 0": (ratings, {"weighting": "ratings", "regularization": 0.3}),
    "ratings, biases": (ratings, {"weighting": "ratings", "regularization": 0.2, "biases": True}),
    "ratings, biases, ν 1": (
        ratings,
        {"weighting": "ratings", "regularization": 0.05, "biases": True, "regularization_exponent": 1.0},
    ),
    "one user": (lambda: brute.counts(1, 7, 0.6), {"regularization": 0.1}),
    "one item": (lambda: brute.counts(9, 1, 0.6), {"regularization": 0.1}),
    "everything in one row": (
        lambda: sp.csr_array(np.outer(np.arange(6) == 2, np.arange(1, 31)).astype(np.float32)),
        {"regularization": 0.1, "alpha": 10.0},
    ),
    "a constant full matrix": (lambda: sp.csr_array(np.full((8, 6), 3, np.float32)), {"regularization": 0.1}),
}


def numbers() -> Iterator[Case]:
    for name, (make, words) in FITS.items():
        yield _right(name, lambda m=make, w=words: (fit(m(), **w), m(), w), lambda got: same(got[0], got[1], **got[2]))
    for name in ("hu-koren, ν 1", "ratings, biases", "confidence below the unobserved", "everything in one row"):
        make, words = FITS[name]
        yield _right(
            f"{name}, torch",
            lambda m=make, w=words: (fit(m(), device="cpu", **w), m(), w),
            lambda got: same(got[0], got[1], **got[2]),
        )
        yield _right(
            f"{name}, float32, more factors than items",
            lambda m=make, w=words: (fit(m(), 20, dtype=np.float32, **w), m(), w),
            lambda got: same(got[0], got[1], 20, tolerance=2e-4, **got[2]),
        )
    yield _right(
        "one factor",
        lambda: fit(brute.counts(), 1, 3),
        lambda found: same(found, brute.counts(), 1, 3),
    )
    yield _right(
        "a step of cg or subspace never raises J, and J is the objective",
        lambda: [fit(brute.counts(60, 50, 0.9), 96, 4, solver=solver, regularization=0.5) for solver in STEPS],
        lambda fits: all(falls(found) and is_value(found, brute.counts(60, 50, 0.9)) for found in fits),
    )
    yield _right(
        "a step of cg or subspace on torch",
        lambda: [fit(brute.counts(60, 50, 0.9), 96, 3, "cpu", solver=solver, regularization=0.5) for solver in STEPS],
        lambda fits: all(falls(found) and is_value(found, brute.counts(60, 50, 0.9)) for found in fits),
    )
    yield _right(
        "many steps of cg and subspace end where exact ends",
        lambda: [
            fit(brute.counts(40, 30, 0.9), 80, 60, solver=solver, regularization=20.0) for solver in ("exact", *STEPS)
        ],
        lambda fits: all(brute.near(brute.scores(found), brute.scores(fits[0]), 0.02) for found in fits[1:]),
    )


STEPS = ("cg", "subspace")


def falls(found: Any) -> bool:
    values = [record[name] for record in found.history for name in ("objective_users", "objective")]
    return all(b <= a * (1 + 1e-12) for a, b in itertools.pairwise(values))


def is_value(found: Any, X: Any) -> bool:
    J = brute.value(X, brute.scores(found), found.user_factors, found.item_factors, regularization=0.5)
    return bool(abs(found.history[-1]["objective"] / J - 1) < 1e-9)


# ---- a single cell, whose solution is a formula ----------------------------------------------------------------------


def one_cell(x: float, alpha: float, lam: float, weighting: str, dtype: Any, device: str | None = None) -> Any:
    words = {"alpha": alpha, "regularization": lam, "weighting": weighting, "dtype": dtype}
    words |= {"init": ([[0.5]], [[0.5]]), "factors": 1, "iterations": 1}
    X = sp.csr_array(np.array([[x]], dtype))
    words["init"] = tuple(np.array(side, dtype) for side in words["init"])
    return lfm_np.als(X, **words) if device is None else lfm_np.torch_backend.als(X, device=device, **words)


def is_formula(found: Any, x: float, alpha: float, lam: float, weighting: str, tolerance: float) -> bool:
    c, p = {"hu-koren": (1 + alpha * x, 1.0), "confidence": (alpha * x, 1.0), "ratings": (1.0, x)}[weighting]
    u = c * p * 0.5 / (c * 0.25 + lam)
    v = c * p * u / (c * u * u + lam)
    got = [abs(float(side[0, 0])) for side in (found.user_factors, found.item_factors)]
    floor = float(np.finfo(found.user_factors.dtype).tiny) * 2
    return all(abs(a - abs(b)) <= tolerance * abs(b) + floor for a, b in zip(got, (u, v), strict=True))


def extremes() -> Iterator[Case]:
    for x, alpha, lam, weighting in (
        (1.0, 1e30, 0.01, "hu-koren"),
        (1.0, 1e30, 1e30, "hu-koren"),
        (3.0, 1.0, 1e30, "hu-koren"),
        (1e30, 1.0, 1.0, "confidence"),
        (1e-38, 1.0, 0.5, "confidence"),
        (2.0, 1e-30, 1e-6, "confidence"),
        (1e6, 1.0, 1e-3, "ratings"),
        (-1e-6, 1.0, 0.25, "ratings"),
        (4.0, 1.0, 0.0, "hu-koren"),
    ):
        for dtype, tolerance in (("float32", 3e-6), ("float64", 1e-9)):
            yield _right(
                f"one cell {x:g}, {weighting}, α {alpha:g}, λ {lam:g}, {dtype}",
                lambda c=(x, alpha, lam, weighting), d=dtype: one_cell(*c, d),
                lambda found, c=(x, alpha, lam, weighting), t=tolerance: is_formula(found, *c, t),
            )
    yield _right(
        "one cell, α and λ 1e30, torch",
        lambda: one_cell(1.0, 1e30, 1e30, "hu-koren", "float64", "cpu"),
        lambda found: is_formula(found, 1.0, 1e30, 1e30, "hu-koren", 1e-12),
    )
    for device in (None, "cpu"):
        for dtype, tolerance in (("float32", 1e-4), ("float64", 1e-9)):
            yield _right(
                f"prices, a few a user, hardly regularized, {dtype}" + (", torch" if device else ""),
                lambda v=device, d=dtype: fit(prices(), 8, 1, v, d, weighting="ratings", regularization=1e-3),
                lambda found, t=tolerance: priced(found, t),
            )
    yield _right(
        "a denormal confidence",
        lambda: one_cell(1e-40, 1.0, 1.0, "confidence", "float32"),
        lambda found: is_formula(found, float(np.float32(1e-40)), 1.0, 1.0, "confidence", 1e-3),
    )
    yield _either(
        "no regularization, more factors than rank",
        lambda: fit(sp.csr_array(np.ones((6, 5), np.float32)), 12, 3, weighting="ratings", regularization=0.0),
        lambda found: brute.near(brute.scores(found), np.ones((6, 5)), 1e-6),
        "row",
        kind=SOLVER,
    )
    yield _right(
        "ALS-WR of users and items without ratings",
        lambda: fit(ratings(), weighting="ratings", regularization_exponent=1.0, regularization=0.1),
        lambda found: not found.user_factors[3].any() and not found.item_factors[2].any(),
    )
    yield _refused(
        "αx beyond float32",
        lambda: lfm_np.als(brute.counts(), alpha=1e38, factors=2),
        "alpha",
    )
    yield _right(
        "αx beyond float32, in float64",
        lambda: fit(brute.counts(), 2, 1, alpha=1e38, regularization=1.0),
        lambda found: np.isfinite(brute.scores(found)).all(),
    )


def prices() -> sp.csr_array:
    X = brute.counts(40, 30, 0.08)
    X.data = X.data * np.float32(30_000) + np.float32(7)
    return X


def priced(found: Any, tolerance: float) -> bool:
    """Whether J after both halves, and what the stored cells are fitted to, is that of the loops."""
    words = {"weighting": "ratings", "regularization": 1e-3}
    expected = brute.als(prices(), brute.starts(40, 30, 8), 1, **words)
    _, stored = brute.full(prices())
    J = [found.history[0][name] for name in ("objective_users", "objective")]
    near = brute.near(brute.scores(found)[stored], expected["scores"][stored], tolerance)
    return near and np.allclose(J, expected["values"], rtol=100 * tolerance)


# ---- folded in, explained --------------------------------------------------------------------------------------------


def rows_alone(X: Any, V: np.ndarray, **words: Any) -> np.ndarray:
    return np.asarray(brute.als(X, (np.zeros((X.shape[0], V.shape[1])), V), 1, **words)["U"])


WORDS: dict[str, dict[str, Any]] = {
    "hu-koren": {"alpha": 40.0, "regularization": 0.1},
    "ials": {"weighting": "ials", "unobserved_weight": 0.1, "regularization": 0.01},
    "ratings": {"weighting": "ratings", "regularization": 0.1, "regularization_exponent": 1.0},
}


def folded(words: dict[str, Any], items: bool = False) -> tuple[Any, Any]:
    found = fit(brute.counts(), **words)
    new = brute.counts(5, 9, 0.5, seed=7)
    new.data = new.data + 1
    if items:
        new = brute.counts(12, 4, 0.5, seed=8)
        return found.fold_in_items(new).item_factors, rows_alone(new.T, found.user_factors, **words)
    return found.fold_in_users(new).user_factors, rows_alone(new, found.item_factors, **words)


def contributions(words: dict[str, Any]) -> bool:
    X = brute.counts(share=0.6)
    found = fit(X, **words)
    why = found.explain(1, 4, X)
    x, stored = brute.full(X)
    a0 = words.get("unobserved_weight", 1.0)
    c, p = brute.weigh(x, stored, words.get("weighting", "hu-koren"), words.get("alpha", 1.0), a0)
    V = found.item_factors.astype(float)
    A = (V.T * c[1]) @ V + words["regularization"] * np.eye(V.shape[1])
    shares = np.linalg.solve(A, V[4]) @ V.T * c[1] * p[1]
    expected = dict(zip(np.flatnonzero(stored[1]).tolist(), shares[stored[1]], strict=True))
    got = dict(zip(why.items.tolist(), why.contributions.tolist(), strict=True))
    same_shares = expected.keys() == got.keys() and all(abs(expected[i] - got[i]) < 1e-9 for i in got)
    return same_shares and abs(why.baseline + sum(got.values()) - why.score) < 1e-9


def updated(refresh: bool) -> bool:
    X, words = brute.counts(), WORDS["hu-koren"]
    found = fit(X, **words)
    new = brute.counts(2, 9, 0.5, seed=9)
    where = [5, 0] if refresh else [12, 13]
    more = found.update(new, users=where)
    alone = rows_alone(new, found.item_factors, **words)
    kept = [u for u in range(12) if u not in where]
    before, after = brute.scores(found), brute.scores(more)
    right = brute.near(after[where], alone @ found.item_factors.T, 1e-9)
    return right and brute.near(after[kept], before[kept], 1e-12) and len(after) == (12 if refresh else 14)


def stored_bits(**words: Any) -> bool:
    X = ratings(40, 20) if words.get("weighting") == "ratings" else brute.counts(40, 20)
    zeros = "keep" if words.get("weighting") == "ratings" else "drop"
    with tempfile.TemporaryDirectory() as place:
        folder = os.path.join(place, "matrix")
        lfm_np.StoredMatrix.from_matrix(X, folder, zeros=zeros)
        stored = lfm_np.StoredMatrix(folder)
        a, b = (lfm_np.als(Y, factors=5, iterations=3, random_state=1, **words) for Y in (stored, X))
    return bool((a.item_factors == b.item_factors).all() and (a.user_factors == b.user_factors).all())


def others() -> Iterator[Case]:
    for name, words in WORDS.items():
        yield _right(f"new users, {name}", lambda w=words: folded(w), lambda got: brute.near(*got, 1e-9))
        yield _right(f"new items, {name}", lambda w=words: folded(w, True), lambda got: brute.near(*got, 1e-9))
        if name != "ratings":
            yield _right(f"shares of a score, {name}", lambda w=words: contributions(w), bool)
    yield _right("update adds users", lambda: updated(False), bool)
    yield _right("update refreshes users in the order given", lambda: updated(True), bool)
    yield _right("bits of a stored matrix", lambda: [stored_bits(), stored_bits(weighting="ials")], all)
    yield _right("bits of stored ratings", lambda: stored_bits(weighting="ratings", biases=True), bool)
    yield _right(
        "the objective of any factors, under other words than those of the fit",
        lambda: lfm_np.objective(brute.counts(), fit(brute.counts()), alpha=3.0, unobserved_weight=0.2),
        lambda J: np.isclose(J, other_value(), rtol=1e-10),
    )


def other_value() -> float:
    found = fit(brute.counts())
    words = {"alpha": 3.0, "unobserved_weight": 0.2, "regularization": 0.01}
    return brute.value(brute.counts(), brute.scores(found), found.user_factors, found.item_factors, **words)


def cases() -> list[Case]:
    return [*numbers(), *extremes(), *others()]
