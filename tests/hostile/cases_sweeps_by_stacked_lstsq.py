"""Sweeps of als, folded-in rows and objectives beside stacked least squares and sums over every cell, in float64."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import scipy.sparse as sp

import lfm_np
from lfm_np import Factors, SolverError

from .case import Case, Group
from .places import holding

_group = Group("afresh, stacked lstsq")
_refused, _either = _group.refused, _group.either
_right = holding(_group)


def counts(m: int = 9, n: int = 7, seed: int = 0, share: float = 0.45) -> sp.csr_array:
    rng = np.random.default_rng(seed)
    dense = np.where(rng.random((m, n)) < share, rng.integers(1, 6, (m, n)), 0).astype(np.float64)
    return sp.csr_array(dense)


def start(m: int, n: int, k: int, seed: int = 3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(m, k)), rng.normal(size=(n, k))


def cells(X: Any, weighting: str, alpha: float, a0: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Confidence, target and whether it is stored, of every cell."""
    X = sp.coo_array(X)
    mask, x = np.zeros(X.shape, bool), np.zeros(X.shape)
    mask[X.row, X.col] = True
    np.add.at(x, (X.row, X.col), X.data.astype(np.float64))
    if weighting != "ratings":
        mask &= x != 0
    c, p = np.full(X.shape, a0), np.zeros(X.shape)
    if weighting == "hu-koren":
        stored, target = 1 + alpha * x, np.ones_like(x)
    elif weighting == "ials":
        stored = a0 + alpha * x
        target = np.divide(alpha * x, stored, out=np.zeros_like(x), where=stored != 0)
    elif weighting == "confidence":
        stored, target = alpha * x, np.ones_like(x)
    else:
        stored, target = np.ones_like(x), x
    c[mask], p[mask] = stored[mask], target[mask]
    return c, p, mask


def rows(Y: np.ndarray, c: np.ndarray, p: np.ndarray, lam: np.ndarray) -> np.ndarray:
    """Every row's minimum, by lstsq of the weighted cells over the root of λ."""
    k = Y.shape[1]
    solved = []
    for weights, targets, strength in zip(c, p, lam, strict=True):
        root = np.sqrt(weights)
        A = np.vstack([root[:, None] * Y, np.sqrt(strength) * np.eye(k)])
        solved.append(np.linalg.lstsq(A, np.concatenate([root * targets, np.zeros(k)]), rcond=None)[0])
    return np.array(solved)


def sweeps(X: Any, k: int, count: int = 1, **words: Any) -> tuple[np.ndarray, float]:
    """Scores and objective after so many sweeps from ``start``."""
    weighting, alpha = words.get("weighting", "hu-koren"), words.get("alpha", 1.0)
    a0 = words.get("unobserved_weight", 0.0 if weighting == "ratings" else 1.0)
    lam, nu = words.get("regularization", 0.01), words.get("regularization_exponent", 0.0)
    c, p, mask = cells(X, weighting, alpha, a0)
    m, n = c.shape
    of_users = lam * (mask.sum(1) + a0 * n) ** nu
    of_items = lam * (mask.sum(0) + a0 * m) ** nu
    U, V = start(m, n, k)
    for _ in range(count):
        U = rows(V, c, p, of_users)
        V = rows(U, c.T, p.T, of_items)
    S = U @ V.T
    J = (c * (p - S) ** 2).sum() + (of_users * (U**2).sum(1)).sum() + (of_items * (V**2).sum(1)).sum()
    return S, J


def fit(X: Any, k: int, count: int = 1, **words: Any) -> Factors:
    words = {"solver": "exact", "dtype": "float64", **words}
    return lfm_np.als(X, factors=k, iterations=count, init=start(*X.shape, k), num_threads=2, **words)


def agrees(X: Any, k: int, count: int, words: dict[str, Any], close: float) -> bool:
    found = fit(X, k, count, **words)
    words.pop("dtype", None), words.pop("solver", None)
    S, J = sweeps(X, k, count, **words)
    scores = found.user_factors.astype(float) @ found.item_factors.T.astype(float)
    return bool(
        abs(scores - S).max() <= close * max(abs(S).max(), 1e-300)
        and abs(found.history[-1]["objective"] - J) <= close * abs(J) + 1e-12
    )


ONE_BUSY = sp.csr_array(np.vstack([np.arange(1.0, 9.0), np.zeros((4, 8)), np.eye(1, 8)]))


def one_sweep() -> Iterator[Case]:
    """Unusual but valid: numbers are those of lstsq."""
    plain = counts()
    unsorted = sp.csr_array(([2.0, 1.0, 3.0, 1.0], [4, 0, 2, 1], [0, 2, 4]), shape=(2, 5))
    doubled = sp.coo_array(([1.0, 2.0, 1.0, 4.0], ([0, 0, 2, 1], [1, 1, 0, 3])), shape=(3, 4))
    zeros = sp.csr_array(([0.0, 2.0, 0.0, 1.0, 3.0], ([0, 0, 1, 2, 2], [0, 2, 1, 1, 2])), shape=(3, 3))
    tries: list[tuple[str, Any, int, dict[str, Any]]] = [
        ("hu-koren of heavy clicks", plain, 3, {"alpha": 250.0, "regularization": 3.0}),
        ("hu-koren where unseen says nothing", plain, 3, {"unobserved_weight": 0.0, "regularization": 0.5}),
        ("hu-koren where unseen says more than seen", plain, 3, {"unobserved_weight": 9.0, "regularization": 0.2}),
        ("hu-koren, alpha 0", plain, 2, {"alpha": 0.0, "regularization": 0.3}),
        (
            "ials, a strange exponent",
            plain,
            4,
            {"weighting": "ials", "unobserved_weight": 0.03, "regularization": 0.004, "regularization_exponent": 2.5},
        ),
        (
            "confidence, between the others",
            plain,
            4,
            {"weighting": "confidence", "alpha": 0.25, "regularization_exponent": 0.5},
        ),
        ("ratings, ALS-WR", plain, 3, {"weighting": "ratings", "regularization": 0.1, "regularization_exponent": 1.0}),
        ("ratings, negative and zero", sp.csr_array(plain * -1.0), 3, {"weighting": "ratings", "regularization": 0.1}),
        ("ratings with stored zeros", zeros, 2, {"weighting": "ratings", "regularization": 0.05}),
        ("stored zeros are no clicks", zeros, 2, {"regularization": 0.05}),
        ("more factors than items", counts(6, 4, 1), 19, {"regularization": 0.1}),
        ("more factors than users and items", counts(3, 5, 2, 0.7), 33, {"regularization": 0.7, "weighting": "ials"}),
        ("one user", counts(1, 9, 4, 0.6), 2, {"regularization": 0.1}),
        ("one item", counts(9, 1, 4, 0.6), 2, {"regularization": 0.1}),
        ("one row that holds everything", ONE_BUSY, 3, {"regularization": 0.1}),
        ("a constant matrix", sp.csr_array(np.full((8, 6), 4.0)), 3, {"weighting": "ratings", "regularization": 0.1}),
        ("counts of uint8", sp.csr_array(counts(20, 5, 5).toarray().astype(np.uint8) * 50), 3, {"alpha": 2.0}),
        ("clicks of bool", sp.csr_array(plain.toarray() > 2), 3, {"alpha": 2.0, "regularization": 0.1}),
        ("CSC of int64", sp.csc_array(plain.toarray().astype(np.int64)), 3, {"regularization": 0.1}),
        ("COO that says a pair twice", doubled, 2, {"regularization": 0.1, "alpha": 3.0}),
        ("CSR whose rows are not sorted", unsorted, 2, {"regularization": 0.1}),
        ("alpha 1e8", plain, 2, {"alpha": 1e8, "regularization": 1.0}),
        (
            "three factors of 1e-3 of a penny",
            sp.csr_array(plain * 1e-5),
            3,
            {"weighting": "ratings", "regularization": 1e-12},
        ),
    ]
    for name, X, k, words in tries:
        yield _right(f"one sweep, {name}", lambda X=X, k=k, w=words: agrees(X, k, 1, dict(w), 1e-6))
    yield _right("five sweeps, ials, k = 5", lambda: agrees(plain, 5, 5, {"weighting": "ials", "alpha": 2.0}, 1e-6))
    yield _right(
        "three sweeps in float32",
        lambda: agrees(plain, 3, 3, {"alpha": 5.0, "regularization": 2.0, "dtype": np.float32}, 1e-3),
    )


def brute(X: Any, found: Factors, weighting: str, alpha: float, a0: float, lam: float) -> float:
    c, p, _ = cells(X, weighting, alpha, a0)
    U, V = found.user_factors.astype(float), found.item_factors.astype(float)
    return float((c * (p - U @ V.T) ** 2).sum() + lam * ((U**2).sum() + (V**2).sum()))


def items_are_minima() -> bool:
    """With biases the items of the end are the minimum given the users of the end."""
    X = counts(15, 8, 6, 0.6)
    found = lfm_np.als(
        X,
        factors=2,
        weighting="ratings",
        biases=True,
        regularization=0.4,
        iterations=3,
        dtype="float64",
        solver="exact",
        random_state=1,
    )
    dense, U = X.toarray(), found.user_factors
    mu = dense[dense > 0].mean()
    for i in range(8):
        who = dense[:, i] > 0
        A = np.vstack([np.column_stack([U[who], np.ones(who.sum())]), np.sqrt(0.4) * np.eye(3)])
        b = np.concatenate([dense[who, i] - mu - found.user_bias[who], np.zeros(3)])
        best = np.linalg.lstsq(A, b, rcond=None)[0]
        if abs(best - np.append(found.item_factors[i], found.item_bias[i])).max() > 1e-7:
            return False
    return abs(float(found.global_bias) - mu) < 1e-6


def stepping(solver: str) -> bool:
    """80 factors by steps: objectives fall, and the last one is that of the factors."""
    X = counts(260, 230, 8, 0.5)
    found = lfm_np.als(X, factors=80, solver=solver, alpha=3.0, regularization=5.0, iterations=3, random_state=0)
    told = [found.history[0]["objective"]] + [r[w] for r in found.history[1:] for w in ("objective_users", "objective")]
    J = brute(X, found, "hu-koren", 3.0, 1.0, 5.0)
    return all(b <= a * (1 + 1e-6) for a, b in itertools.pairwise(told)) and abs(told[-1] / J - 1) < 1e-4


def stops_where_it_says() -> bool:
    X, words = counts(30, 20, 9), {"factors": 3, "random_state": 0, "dtype": "float64", "regularization": 1.0}
    whole = [r["objective"] for r in lfm_np.als(X, iterations=40, **words).history]
    small = [i for i in range(1, 40) if whole[i - 1] - whole[i] < 1e-3 * whole[i - 1]]
    early = lfm_np.als(X, iterations=40, tolerance=1e-3, **words)
    return len(early.history) in (small[0] + 1, small[0] + 2) and early.status is not lfm_np.Status.MAX_ITERATIONS


def folded(weighting: str, **words: float) -> bool:
    X, fresh = counts(12, 8, 10), counts(5, 8, 11)
    found = lfm_np.als(X, factors=3, iterations=2, random_state=0, dtype="float64", weighting=weighting, **words)
    new = found.fold_in_users(fresh).user_factors
    a0 = words.get("unobserved_weight", 0.0 if weighting == "ratings" else 1.0)
    c, p, mask = cells(fresh, weighting, words.get("alpha", 1.0), a0)
    nu = words.get("regularization_exponent", 0.0)
    lam = words["regularization"] * (mask.sum(1) + a0 * 8) ** nu
    return bool(abs(new - rows(found.item_factors, c, p, lam)).max() < 1e-7)


def explained() -> bool:
    X = counts(12, 8, 12)
    found = lfm_np.als(X, factors=3, regularization=0.5, alpha=4.0, iterations=4, random_state=0, dtype="float64")
    why = found.explain(2, 5, X)
    score = found.fold_in_users(X[[2]]).scores(0, 5)
    own = set(X[[2]].indices.tolist())
    return set(why.items.tolist()) == own and abs(why.baseline + why.contributions.sum() - score) < 1e-9


def updated() -> bool:
    """Two known users and two new ones, in one call: as folded in, and nobody else moves."""
    X, fresh = counts(6, 5, 13), counts(4, 5, 14)
    found = lfm_np.als(X, factors=2, regularization=0.5, iterations=2, random_state=0, dtype="float64")
    after = found.update(fresh, users=[7, 1, 6, 4])
    solved = found.fold_in_users(fresh).user_factors
    kept = [0, 2, 3, 5]
    return (
        after.shape == (8, 5)
        and np.allclose(after.user_factors[[7, 1, 6, 4]], solved, rtol=1e-12)
        and np.array_equal(after.user_factors[kept], found.user_factors[kept])
        and np.array_equal(after.item_factors, found.item_factors)
    )


def others() -> Iterator[Case]:
    plain = counts()
    yield _right("with biases the items are the minimum", items_are_minima)
    yield _right("80 factors by cg", lambda: stepping("cg"))
    yield _right("80 factors by subspaces", lambda: stepping("subspace"))
    yield _right("a tolerance stops where the objective says so", stops_where_it_says)
    yield _right(
        "folded in, ials",
        lambda: folded("ials", alpha=3.0, unobserved_weight=0.2, regularization=0.3, regularization_exponent=1.0),
    )
    yield _right("folded in, ratings", lambda: folded("ratings", regularization=0.3, regularization_exponent=1.0))
    yield _right("contributions add up", explained)
    yield _right("an update of known and new users in any order", updated)
    yield _right(
        "lambda 1e30 leaves next to nothing",
        lambda: lfm_np.als(plain, factors=3, regularization=1e30, iterations=2, random_state=0),
        lambda f: np.isfinite(f.user_factors).all() and abs(f.user_factors).max() < 1e-20,
    )
    yield _either(
        "no regularization, more factors than the rank",
        lambda: lfm_np.als(
            sp.csr_array(np.ones((6, 5))),
            factors=4,
            regularization=0.0,
            weighting="ratings",
            iterations=4,
            dtype="float64",
            random_state=0,
        ),
        lambda f: abs(f.user_factors @ f.item_factors.T - 1).max() < 1e-4,
        "row|user|item|column",
        "regularization|singular",
        kind=SolverError,
    )
    yield _either(
        "alpha 1e30 and more factors than items",
        lambda: lfm_np.als(plain, factors=33, alpha=1e30, iterations=2, dtype="float64", random_state=0),
        lambda f: abs((f.user_factors @ f.item_factors.T)[plain.toarray() > 0] - 1).max() < 1e-4,
        "row|user|item|column",
        kind=SolverError,
    )
    yield _refused(
        "confidence beyond float32",
        lambda: lfm_np.als(sp.csr_array(np.full((3, 3), 1e10)), factors=2, alpha=1e30),
        "alpha",
        kind=ValueError,
    )
    yield _refused(
        "ratings that nobody knows",
        lambda: lfm_np.als(lfm_np.Interactions.from_arrays([1, 2], [1, 1], [np.nan, 2.0]), factors=1),
        "nan|unknown|finite",
        kind=ValueError,
    )
    yield _refused(
        "ratings take no weight of what is absent",
        lambda: lfm_np.als(plain, factors=2, weighting="ratings", unobserved_weight=1.0),
        "unobserved_weight",
        kind=ValueError,
    )
    yield _refused(
        "new users beyond a gap", lambda: fit(plain, 2).update(counts(2, 7, 15), users=[9, 11]), "users|gap|11|10"
    )


def cases() -> list[Case]:
    return [*one_sweep(), *others()]
