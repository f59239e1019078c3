"""Fits of `als`, folded in rows and objectives beside dense normal equations in NumPy's float64."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import scipy.sparse as sp

import lfm_np

from .case import Case, Either, Group, Holds, raises

_refused, _right, _either = (
    Group("normal equations").refused,
    Group("normal equations").right,
    Group("normal equations").either,
)
WEIGHTINGS: dict[str, dict[str, Any]] = {
    "hu-koren": {"alpha": 7.0, "unobserved_weight": 0.3},
    "ials": {"alpha": 2.5, "unobserved_weight": 0.05},
    "confidence": {"alpha": 0.4, "unobserved_weight": 1.7},
    "ratings": {},
}


def table(m: int = 9, n: int = 7, seed: int = 5, filled: float = 0.4) -> sp.csr_array:
    """Values of halves from ½ to 6, with an empty row and an empty column."""
    rng = np.random.default_rng(seed)
    stored = rng.random((m, n)) < filled
    stored[m // 2], stored[:, n // 2] = False, False
    return sp.csr_array(np.where(stored, rng.integers(1, 13, (m, n)) / 2.0, 0.0))


def start(m: int, n: int, k: int, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(m, k)), rng.normal(size=(n, k))


def weights(X: Any, weighting: str, alpha: float = 1.0, unobserved_weight: float | None = None) -> tuple[Any, ...]:
    """Confidence, target, α₀ and which cells are stored, by the table in the docstring of `als`."""
    stored = sp.csr_array((np.ones(X.nnz), X.indices, X.indptr), X.shape).toarray() > 0
    x = X.toarray().astype(float)
    a0 = (0.0 if weighting == "ratings" else 1.0) if unobserved_weight is None else unobserved_weight
    c = {"hu-koren": 1 + alpha * x, "ials": a0 + alpha * x, "confidence": alpha * x, "ratings": np.ones_like(x)}
    p = {"hu-koren": np.ones_like(x), "confidence": np.ones_like(x), "ratings": x}
    p["ials"] = alpha * x / np.where(stored & (x > 0), a0 + alpha * x, 1)
    return np.where(stored, c[weighting], a0), np.where(stored, p[weighting], 0), a0, stored


def solved(c: np.ndarray, p: np.ndarray, V: np.ndarray, penalties: np.ndarray) -> np.ndarray:
    """Every row's normal equations."""
    eye = np.eye(V.shape[1])
    A = [(V.T * w) @ V + (q or 1e-300) * eye for w, q in zip(c, penalties)]  # an empty row of ratings may have no λ
    return np.array([np.linalg.solve(a, V.T @ (w * t)) for a, w, t in zip(A, c, p)])


def swept(X: Any, UV: Any, sweeps: int = 1, lam: float = 0.01, nu: float = 0.0, **kind: Any) -> tuple[Any, ...]:
    c, p, a0, stored = weights(X, **kind)
    m, n = X.shape
    rows = lam * (stored.sum(1) + a0 * n) ** nu
    columns = lam * (stored.sum(0) + a0 * m) ** nu
    U, V = UV
    for _ in range(sweeps):
        U = solved(c, p, V, rows)
        V = solved(c.T, p.T, U, columns)
    J = (c * (p - U @ V.T) ** 2).sum() + (rows * (U**2).sum(1)).sum() + (columns * (V**2).sum(1)).sum()
    return U, V, J


def dense_objective(X: Any, factors: Any, lam: float, nu: float = 0.0, **kind: Any) -> float:
    c, p, a0, stored = weights(X, **kind)
    U, V = (np.asarray(side, float) for side in (factors.user_factors, factors.item_factors))
    rows = lam * (stored.sum(1) + a0 * X.shape[1]) ** nu
    columns = lam * (stored.sum(0) + a0 * X.shape[0]) ** nu
    return float((c * (p - U @ V.T) ** 2).sum() + (rows * (U**2).sum(1)).sum() + (columns * (V**2).sum(1)).sum())


def close(a: Any, b: Any, tolerance: float = 1e-8) -> bool:
    b = np.asarray(b, float)
    return bool(np.isfinite(a).all() and np.abs(np.asarray(a, float) - b).max() <= tolerance * (1 + np.abs(b).max()))


def scores(factors: Any) -> np.ndarray:
    return np.asarray(factors.user_factors, float) @ np.asarray(factors.item_factors, float).T


def same(a: Any, b: Any) -> bool:
    return np.array_equal(a.user_factors, b.user_factors) and np.array_equal(a.item_factors, b.item_factors)


def matches(X: Any, UV: Any, options: dict[str, Any], tolerance: float = 1e-8) -> Callable[..., bool]:
    """Whether a fit from ``UV`` has the scores and the objective of NumPy's sweeps, in the canonical basis."""
    kind = {key: options[key] for key in ("alpha", "unobserved_weight") if key in options}
    kind["weighting"] = options.get("weighting", "hu-koren")
    lam, nu = options.get("regularization", 0.01), options.get("regularization_exponent", 0.0)

    def true(factors: Any, **_: Any) -> bool:
        U, V, J = swept(X, UV, options["iterations"], lam, nu, **kind)
        gram = np.asarray(factors.item_factors, float).T @ np.asarray(factors.item_factors, float)
        diagonal = np.diag(gram)
        rounding = tolerance * 10 * (1 + diagonal.max())
        canonical = np.abs(gram - np.diag(diagonal)).max() <= rounding and (np.diff(diagonal) <= rounding).all()
        return canonical and close(scores(factors), U @ V.T, tolerance) and close(factors.history[-1]["objective"], J)

    return true


def sweeps() -> Iterator[Case]:
    for (weighting, kind), (m, n, k, nu, lam) in itertools.product(
        WEIGHTINGS.items(), [(9, 7, 3, 0.5, 0.2), (12, 5, 11, 0.0, 0.05)]
    ):
        X, UV = table(m, n), start(m, n, k)
        options = {"weighting": weighting, "regularization": lam, "regularization_exponent": nu, **kind}
        options |= {"factors": k, "iterations": 2, "dtype": np.float64, "solver": "exact"}
        yield Case(
            f"normal equations: {weighting}, {m} × {n}, k = {k}, ν = {nu}",
            lambda X, UV, o=options: lfm_np.als(X, init=UV, **o),
            Holds(matches(X, UV, options)),
            lambda X=X, UV=UV: {"X": X.copy(), "UV": tuple(side.copy() for side in UV)},
        )
    signed = table(8, 8, 3)
    signed.data = np.resize([-2.5, 0.0, 4.0, -1e3], signed.nnz)
    ratings = {"iterations": 3, "weighting": "ratings", "regularization": 0.1}
    clicks = {"iterations": 2, "regularization": 0.3, "alpha": 3.0}
    for name, X, k, options in (
        ("one row holds everything", sp.csr_array(np.ones((1, 40)) * np.arange(1, 41)), 6, clicks),
        ("one column holds everything", sp.csr_array(np.arange(1, 41)[:, None] * 1.0), 6, clicks),
        ("constant ratings", sp.csr_array(np.full((6, 6), 3.0)), 4, ratings),
        ("ratings below and at zero", signed, 3, ratings),
    ):
        UV = start(*X.shape, k)
        yield _right(
            name,
            lambda X=X, UV=UV, k=k, o=options: lfm_np.als(X, init=UV, factors=k, dtype=np.float64, **o),
            matches(X, UV, options, 1e-7),
        )
    big = table(30, 20, 8)
    big.data = big.data * 1e6
    thirty = start(30, 20, 4)
    coarse = {"factors": 4, "iterations": 1, "weighting": "ratings", "regularization": 1.0}
    yield _right(
        "ratings of millions in float32",
        lambda: lfm_np.als(big, init=thirty, **coarse),
        lambda f: close(scores(f), (lambda U, V, J: U @ V.T)(*swept(big, thirty, 1, 1.0, weighting="ratings")), 1e-3),
    )


def extremes() -> Iterator[Case]:
    X = table()
    yield _right(
        "λ = 1e30 leaves nothing but what the cells weigh",
        lambda: lfm_np.als(X, factors=4, regularization=1e30, random_state=0),
        lambda f: np.abs(scores(f)).max() < 1e-20 and close(f.history[-1]["objective"], (1 + X.data).sum(), 1e-6),
    )
    square = sp.csr_array(np.arange(1.0, 26.0).reshape(5, 5) ** 2 % 11 + 1 + 5 * np.eye(5))
    yield _right(
        "λ = 0, ratings, k = n: a full matrix exactly",
        lambda: lfm_np.als(
            square, factors=5, regularization=0.0, weighting="ratings", dtype="float64", iterations=2, random_state=3
        ),
        lambda f: close(scores(f), square.toarray(), 1e-6),
    )
    for dtype in ("float32", "float64"):
        yield _either(
            f"α = 1e30, {dtype}",
            lambda d=dtype: lfm_np.als(X, factors=3, alpha=1e30, dtype=d, iterations=3, random_state=0),
            lambda f: np.isfinite(scores(f)).all() and close(dense_objective(
                X, f, 0.01, weighting="hu-koren", alpha=1e30), f.history[-1]["objective"], 0.05),
            "row|alpha",
            kind=(ValueError, lfm_np.SolverError),
        )  # fmt: skip
    heavy = sp.csr_array(X * 1e10)
    yield _refused("α·x overflows float32", lambda: lfm_np.als(heavy, factors=3, alpha=1e30, random_state=0), "alpha")
    yield _either(
        "α·x of 1e40 in float64",
        lambda: lfm_np.als(heavy, factors=3, alpha=1e30, dtype="float64", random_state=0),
        lambda f: np.isfinite(scores(f)).all(),
        "row|alpha",
        kind=(ValueError, lfm_np.SolverError),
    )
    flat = sp.csr_array(np.full((7, 5), 4.0))
    yield _right(
        "constant ratings with biases",
        lambda: lfm_np.als(flat, factors=2, biases=True, weighting="ratings", random_state=0),
        lambda f: close(f.scores(np.repeat(range(7), 5), np.tile(range(5), 7)), np.full(35, 4.0), 1e-5),
    )
    yield _right(
        "empty rows and columns are zero, not noise",
        lambda: lfm_np.als(table(9, 7), factors=3, random_state=0),
        lambda f: not f.user_factors[4].any() and not f.item_factors[3].any(),
    )
    ones = sp.csr_array(np.outer(np.arange(1.0, 8.0), [1.0, 2.0, 4.0]))
    yield _right(
        "k far beyond the rank",
        lambda: lfm_np.als(
            ones, factors=20, weighting="ratings", regularization=1e-6, dtype="float64", iterations=30, random_state=1
        ),
        lambda f: close(scores(f), ones.toarray(), 1e-4) and f.user_factors.shape == (7, 20),
    )


def steps_and_biases() -> Iterator[Case]:
    wide = table(120, 100, 2, 0.5)
    for solver in ("cg", "subspace", "auto"):
        yield _right(
            f"{solver}, k = 80: the reported objective is that of the factors, and falls",
            lambda s=solver: lfm_np.als(wide, factors=80, solver=s, dtype="float64", iterations=4, random_state=0),
            lambda f: (
                close(dense_objective(wide, f, 0.01, weighting="hu-koren"), f.history[-1]["objective"])
                and (np.diff([r["objective"] for r in f.history]) <= 0).all()
            ),
        )
    rated = table(20, 12, 6, 0.5)

    def gradient(f: Any) -> bool:
        """Every item's (b_i, v_i) is the minimum beside users that stay."""
        stored, lam = rated.toarray() > 0, 0.4
        for i in range(12):
            on = stored[:, i]
            D = np.column_stack([np.ones(on.sum()), np.asarray(f.user_factors, float)[on]])
            target = rated.toarray()[on, i] - f.global_bias - np.asarray(f.user_bias, float)[on]
            want = np.linalg.solve(D.T @ D + lam * on.sum() * np.eye(4), D.T @ target) if on.any() else np.zeros(4)
            got = np.concatenate([[f.item_bias[i]], f.item_factors[i]])
            if not close(got, want, 1e-7):
                return False
        return abs(f.global_bias - rated.data.mean()) < 1e-9

    yield _right(
        "biases: items are minima beside the users",
        lambda: lfm_np.als(
            rated, factors=3, biases=True, weighting="ratings", regularization=0.4, regularization_exponent=1.0,
            dtype="float64", iterations=5, random_state=0,
        ),
        gradient,
    )  # fmt: skip
    seen: list[tuple[float, float]] = []

    def watch(record: dict[str, Any], factors: Any) -> None:
        seen.append((record["objective"], dense_objective(rated, factors, 0.2, weighting="hu-koren", alpha=2.0)))

    yield _right(
        "what a callback sees is the sweep of its record",
        lambda: lfm_np.als(
            rated, factors=3, alpha=2.0, regularization=0.2, iterations=4, dtype="float64", callback=watch
        ),
        lambda f: len(seen) == 4 and all(close(a, b) for a, b in seen),
    )
    two = {"factors": 3, "dtype": "float64", "regularization": 0.1, "solver": "exact"}
    yield _right(
        "two sweeps and one more from their factors are three",
        lambda: lfm_np.als(rated, init=lfm_np.als(rated, iterations=2, random_state=0, **two), iterations=1, **two),
        lambda f: close(scores(f), scores(lfm_np.als(rated, iterations=3, random_state=0, **two))),
    )
    for weighting, kind in WEIGHTINGS.items():
        U, V = start(20, 12, 4)
        yield _right(
            f"objective of factors from elsewhere, {weighting}",
            lambda w=weighting, o=kind, U=U, V=V: lfm_np.objective(
                rated, lfm_np.Factors(U, V), weighting=w, regularization=0.3, regularization_exponent=0.7, **o
            ),
            lambda J, w=weighting, o=kind, U=U, V=V: close(
                J, dense_objective(rated, lfm_np.Factors(U, V), 0.3, 0.7, weighting=w, **o)
            ),
        )


def forms() -> Iterator[Case]:
    def fit(X: Any, **options: Any) -> Any:
        return lfm_np.als(X, factors=3, iterations=2, **{"random_state": 4, **options})

    X = table()
    ints = sp.csr_array(X * 2).astype(np.int8)
    yield _right("int8", lambda: fit(ints), lambda f: same(f, fit(sp.csr_array(ints, dtype=np.float32))))
    yield _right("bool", lambda: fit(X.astype(bool)), lambda f: same(f, fit(X.astype(bool).astype(np.float32))))
    wide = X.copy()
    wide.indices, wide.indptr = wide.indices.astype(np.int64), wide.indptr.astype(np.int64)
    yield _right("int64 indices", lambda: fit(wide), lambda f: same(f, fit(X)))
    twice = sp.coo_array((np.array([200, 100, 5], np.uint8), ([0, 0, 1], [1, 1, 0])), (2, 2))
    yield _right(
        "uint8 cells that are stored twice add up to 300",
        lambda: fit(twice),
        lambda f: same(f, fit(sp.csr_array([[0.0, 300.0], [5.0, 0.0]]))),
    )
    frozen = X.astype(np.float32)
    for part in (frozen.data, frozen.indices, frozen.indptr):
        part.flags.writeable = False
    yield _right("arrays that are read-only", lambda: fit(frozen), lambda f: same(f, fit(X)))
    U, V = start(9, 7, 3)
    strided = (np.asfortranarray(U), np.repeat(V, 2, axis=0)[::2])
    yield Case(
        "normal equations: starting factors in Fortran order and with strides",
        lambda init: fit(X, init=init, dtype="float64"),
        Holds(lambda f, init: same(f, fit(X, init=(U, V), dtype="float64"))),
        lambda: {"init": tuple(side.copy(order="K") for side in strided)},
    )
    yield _right(
        "RandomState and the legacy seed agree with themselves",
        lambda: [fit(X, random_state=np.random.RandomState(3)) for _ in range(2)],
        lambda pair: same(*pair),
    )
    for word, value in {
        "regularization": "0.1", "alpha": float("nan"), "regularization_exponent": -0.5, "iterations": 2.5,
        "weighting": "HU-KOREN", "solver": "cholesky", "dtype": np.float16, "tolerance": -1e-9, "num_threads": 0,
    }.items():  # fmt: skip
        yield _refused(f"{word} = {value!r}", lambda w=word, v=value: fit(X, **{w: v}), word)
    yield _refused("ratings with α₀", lambda: fit(X, weighting="ratings", unobserved_weight=0.5), "unobserved_weight")
    yield _refused("biases of clicks", lambda: fit(X, biases=True), "biases")
    yield _refused("starting factors with nan", lambda: fit(X, init=(U * np.nan, V)), "init")
    yield _refused("starting factors of the transpose", lambda: fit(X, init=(V, U)), "init")
    unknown = lfm_np.Interactions.from_arrays([1, 1, 2], [1, 2, 1], [3.0, np.nan, 4.0])
    yield _refused("a rating that is not known", lambda: fit(unknown, weighting="ratings"), "nan|finite|unknown")
    yield Case(
        "normal equations: ratings that are stored twice",
        lambda: fit(twice, weighting="ratings"),
        raises((ValueError,), "duplicate|twice|once"),
    )


def folding() -> Iterator[Case]:
    X = table(25, 10, 9, 0.5)
    for weighting, kind in WEIGHTINGS.items():
        options = {"weighting": weighting, "regularization": 0.3, "regularization_exponent": 0.5, **kind}
        fitted = lambda o=options: lfm_np.als(X, factors=4, iterations=3, dtype="float64", random_state=0, **o)  # noqa: E731
        rows = table(6, 10, 11, 0.6)

        def right(new: Any, rows: Any = rows, weighting: str = weighting, kind: Any = kind) -> bool:
            c, p, a0, stored = weights(rows, weighting, **kind)
            V = np.asarray(new.item_factors, float)
            return close(new.user_factors, solved(c, p, V, 0.3 * (stored.sum(1) + a0 * 10) ** 0.5))

        yield _right(f"new rows, {weighting}", lambda f=fitted, r=rows: f().fold_in_users(r), right)

    def items_too(pair: Any) -> bool:
        whole, new = pair
        c, p, *_ = weights(sp.csr_array(X.T), "hu-koren")
        return close(new.item_factors, solved(c, p, np.asarray(whole.user_factors, float), np.full(10, 0.01)))

    def both() -> Any:
        whole = lfm_np.als(X, factors=4, iterations=3, dtype="float64", random_state=0)
        return whole, whole.fold_in_items(X)

    yield _right("new columns", both, items_too)
    yield Case(
        "normal equations: rows of users who are not there, in an update with a gap",
        lambda: both()[0].update(X[:2], users=[25, 27]),
        Either(Holds(lambda f: False), raises((ValueError,), "users")),
    )


def cases() -> list[Case]:
    return [*sweeps(), *extremes(), *steps_and_biases(), *forms(), *folding()]
