"""Fits of als on matrices of odd shapes, values and formats, beside least squares row by row."""

from __future__ import annotations

import itertools
import os
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np
import scipy.sparse as sp

import lfm_np

from .case import Case
from .least_squares import BAD, Heading, biased_sweep, cost, near, penalties, scores, sweeps, weigh

_of = Heading("fits beside lstsq")


def data(m: int = 30, n: int = 20, density: float = 0.2, seed: int = 1, top: int = 5, **words: Any) -> dict[str, Any]:
    """X with whole values up to ``top``, and factors to start from."""
    rng = np.random.default_rng(seed)
    X = sp.random(m, n, density, format="csr", random_state=rng, data_rvs=lambda k: rng.integers(1, top + 1, k))
    k = words.pop("k", 4)
    return {"X": sp.csr_array(X.astype(words.pop("dtype", np.float64))), "init": start(m, n, k, seed), **words}


def start(m: int, n: int, k: int, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed + 100)
    return rng.normal(size=(m, k)) * 0.3, rng.normal(size=(n, k)) * 0.3


def one(X: Any, init: Any, **words: Any) -> lfm_np.Factors:
    words = {
        "factors": words.get("factors") or init[1].shape[1],
        "iterations": 1,
        "dtype": "float64",
        "solver": "exact",
        **words,
    }
    return lfm_np.als(X, init=init, **words)


def beside(name: str, make: Any, rtol: float = 1e-9, **words: Any) -> Case:
    """One sweep of float64 and its objective, against lstsq."""
    ours = {"lam": "regularization", "nu": "regularization_exponent", "a0": "unobserved_weight", "count": "iterations"}
    asked = {ours.get(key, key): value for key, value in words.items()}
    theirs = {key: value for key, value in words.items() if key not in ("dtype", "solver", "num_threads")}

    def true(found: Any, X: Any, init: Any) -> bool:
        U, V, J = sweeps(X, init[1], **theirs)
        return near(scores(found), U @ V.T, rtol) and abs(found.history[-1]["objective"] - J) <= max(rtol, 1e-9) * J

    return _of.right(name, lambda X, init: one(X, init, **asked), true, make)


def of(X: Any, k: int = 3) -> Any:
    return lambda: {"X": X(), "init": start(*X().shape, k)}


def weightings() -> Iterator[Case]:
    yield beside("hu-koren, alpha 40, nu 1", data, alpha=40.0, lam=0.1, nu=1.0)
    yield beside("ials, a0 1e-6, nu 0.5", data, weighting="ials", a0=1e-6, lam=1.0, nu=0.5)
    yield beside("ials, a0 0", data, weighting="ials", a0=0.0, lam=0.3)
    yield beside("confidence below one", lambda: data(dtype=np.float32), weighting="confidence", alpha=0.01, lam=0.2)
    yield beside("confidence, a0 100 beside cells of 0.5", data, weighting="confidence", alpha=0.1, a0=100.0, lam=1.0)
    yield beside("ratings, nu 1", data, weighting="ratings", lam=0.05, nu=1.0)
    yield beside("ratings that are negative", lambda: {**data(), "X": -data()["X"]}, weighting="ratings", lam=0.5)
    yield beside("three sweeps, two threads", data, alpha=10.0, count=3, num_threads=2)
    yield beside("float32 starts", lambda: data(60, 33), 1e-4, alpha=10.0, dtype="float32", lam=0.5)
    yield beside("alpha 0: all cells alike", data, alpha=0.0, lam=0.2)
    yield beside("alpha 1e9, float64", data, 1e-6, alpha=1e9, lam=1e-3)
    yield _of.right(
        "ratings with biases, nu 1",
        lambda X, init: one(X, init, weighting="ratings", biases=True, regularization=0.1, regularization_exponent=1.0),
        lambda found, X, init: near(scores(found), biased_sweep(X, init[1], 0.1, 1.0), 1e-8),
        data,
    )
    yield _of.right(
        "ratings around a million with biases, two sweeps",
        lambda X, init: one(X, init, weighting="ratings", biases=True, regularization=0.3, iterations=2),
        lambda found, X, init: near(scores(found), biased_sweep(X, init[1], 0.3, 0.0, 2), 1e-7),
        lambda: {**data(), "X": (lambda X: sp.csr_array((X.data + 1e6, X.indices, X.indptr), X.shape))(data()["X"])},
    )


def shapes() -> Iterator[Case]:
    yield beside("more factors than rows and columns", lambda: data(6, 5, 0.5, k=50), alpha=3.0, lam=0.1)
    yield beside("one row", lambda: data(1, 40, 0.5), alpha=5.0, lam=0.1)
    yield beside("one column", lambda: data(40, 1, 0.5, k=2), alpha=5.0, lam=0.1)
    yield beside("one cell", of(lambda: sp.csr_array([[3.0]]), 1), alpha=2.0, lam=0.5)
    yield beside("a matrix of ones", of(lambda: sp.csr_array(np.ones((9, 7))), 5), lam=0.1)
    yield beside("one row that holds everything", of(lambda: everything_in_one_row(300)), 1e-8, alpha=9.0, lam=0.1)
    yield beside("empty rows and columns", of(lambda: sp.csr_array(([2.0, 1.0], ([1, 5], [2, 2])), (8, 6))), lam=0.1)
    yield beside("all columns alike", of(lambda: sp.csr_array(np.tile([[1.0], [0.0], [2.0]], 6))), alpha=4.0, lam=0.2)
    yield _of.right(
        "lambda 1e30, where U is CpV / λ",
        lambda X, init: (
            one(X, init, regularization=1e30).user_factors @ one(X, init, regularization=1e30).item_factors.T
        ),
        lambda found, X, init: near(found * 1e60, over_a_vast_lambda(X, init[1]) * 1e60, 1e-9),
        data,
    )
    yield _of.right(
        "no cells at all",
        lambda X, init: one(X, init, regularization=0.1),
        lambda found, X, init: near(scores(found), np.zeros(X.shape), 0) or np.abs(scores(found)).max() < 1e-12,
        of(lambda: sp.csr_array((5, 4))),
    )


def over_a_vast_lambda(X: Any, V: np.ndarray) -> np.ndarray:
    """U Vᵀ without what a λ of 1e30 leaves of everything else."""
    c, p, _, _ = weigh(X, "hu-koren")
    U = (c * p) @ V / 1e30
    return U @ (((c * p).T @ U) / 1e30).T


def everything_in_one_row(n: int) -> sp.csr_array:
    X = np.zeros((12, n))
    X[4] = np.arange(n) % 7 + 1
    X[9, 3] = 1
    return sp.csr_array(X)


def formats() -> Iterator[Case]:
    def as_format(name: str) -> Any:
        return lambda: {**data(), "X": getattr(data()["X"], f"to{name}")()}

    for name in ("bsr", "dia", "lil", "dok", "csc"):
        yield _of.right(
            f"{name} gives the bits of csr",
            lambda X, init: one(X, init).item_factors,
            lambda V, X, init: (one(data()["X"], init).item_factors == V).all(),
            as_format(name),
        )
    counts = lambda: sp.coo_array((np.array([255, 255, 7], np.uint8), ([0, 0, 2], [1, 1, 0])), (3, 4))  # noqa: E731
    yield beside("uint8 duplicates beyond 255", of(counts, 2), alpha=1.0, lam=0.1)
    yield beside("bool values", lambda: {**data(), "X": data()["X"].astype(bool)}, alpha=3.0, lam=0.1)
    long = lambda: {"X": data(dtype=np.longdouble)["X"]}  # noqa: E731
    yield _of.refused(
        "long doubles, of which nobody asked for 64 bits", lambda X: lfm_np.als(X), "x", "64 bits", make=long
    )
    yield _of.right(
        "values in the other byte order",
        lambda X, init: one(X, init, alpha=2.0, regularization=0.1),
        lambda found, X, init: near(scores(found), np.matmul(*products(data()["X"], init)), 1e-9),
        lambda: {**data(), "X": swapped(data()["X"])},
    )
    yield beside(
        "stored zeros", of(lambda: sp.csr_array(([0.0, 2.0, 0.0], ([0, 1, 2], [1, 2, 0])))), alpha=2.0, lam=0.1
    )
    zero = of(lambda: sp.csr_array(([0.0, 2.0, 5.0], ([0, 1, 2], [1, 2, 0]))))
    yield beside("stored zeros are ratings", zero, weighting="ratings", lam=0.1)
    yield beside("a view of a transpose", lambda: {**data(), "X": data(20, 30)["X"].T}, alpha=2.0, lam=0.1)
    yield _of.right(
        "values mapped from a file that is read-only",
        lambda X, init: one(X, init, alpha=2.0, regularization=0.1),
        lambda found, X, init: near(scores(found), np.matmul(*products(data()["X"], init)), 1e-9),
        mapped,
    )
    yield _of.right(
        "starting factors in Fortran order, read-only, of the other dtype",
        lambda X, init: one(X, init, dtype="float32", alpha=2.0, regularization=0.1),
        lambda found, X, init: near(scores(found), np.matmul(*products(X, init)), 1e-4),
        lambda: {**data(), "init": tuple(map(fortran, data()["init"]))},
    )


def products(X: Any, init: Any) -> tuple[np.ndarray, np.ndarray]:
    U, V, _ = sweeps(X, init[1], alpha=2.0, lam=0.1)
    return U, V.T


def fortran(array: np.ndarray) -> np.ndarray:
    array = np.asfortranarray(array)
    array.flags.writeable = False
    return array


def swapped(X: sp.csr_array) -> sp.csr_array:
    other = X.copy()
    other.data = X.data.astype(X.data.dtype.newbyteorder())
    return other


def mapped() -> dict[str, Any]:
    X = data()["X"]
    file, name = tempfile.mkstemp()
    os.close(file)
    X.data.tofile(name)
    X.data = np.memmap(name, dtype=np.float64, mode="r")
    os.unlink(name)
    return {**data(), "X": X}


def steps_and_endings() -> Iterator[Case]:
    for solver in ("cg", "subspace"):
        yield _of.right(
            f"{solver}, 80 factors: J is what the factors say, and never rises",
            lambda X, init, s=solver: one(X, init, solver=s, iterations=3, alpha=5.0, regularization=2.0),
            falls,
            lambda: data(120, 90, 0.5, k=80),
        )
    yield _of.right(
        "cg in the end agrees with exact",
        lambda X, init: one(X, init, solver="cg", iterations=80, alpha=2.0, regularization=20.0),
        lambda found, X, init: near(
            scores(found), scores(one(X, init, iterations=80, alpha=2.0, regularization=20.0)), 1e-4
        ),
        lambda: data(70, 60, 0.6, k=40),
    )
    yield _of.right(
        "tolerance ends where the objective says so",
        lambda X, init: one(X, init, tolerance=1e-3, iterations=500, regularization=1.0),
        lambda found, X, init: (
            lambda J: (
                found.status == "converged"
                and J[-2] - J[-1] < 1e-3 * J[-2]
                and all(a - b >= 1e-3 * a * 0.999 for a, b in itertools.pairwise(J[:-1]))
            )
        )([record["objective"] for record in found.history]),
        data,
    )
    yield _of.right(
        "going on from a model of biases is the second sweep",
        lambda X, init: one(X, one_of_biases(X, init), weighting="ratings", biases=True, regularization=0.3, factors=4),
        lambda found, X, init: near(scores(found), biased_sweep(X, init[1], 0.3, 0.0, 2), 1e-7),
        data,
    )
    yield _of.right(
        "items in another order",
        lambda X, init: one(X[:, ::-1], (init[0], init[1][::-1]), alpha=3.0),
        lambda found, X, init: near(scores(found)[:, ::-1], scores(one(X, init, alpha=3.0)), 1e-9),
        data,
    )
    yield _of.right(
        "one, two and seven threads, float32, solver auto",
        lambda X, init: [
            lfm_np.als(X, factors=70, alpha=3.0, iterations=2, num_threads=t, random_state=4).user_factors
            for t in (1, 2, 7)
        ],
        lambda found, X, init: all((found[0] == other).all() for other in found[1:]),
        lambda: data(200, 150, 0.3),
    )


def one_of_biases(X: Any, init: Any) -> lfm_np.Factors:
    return one(X, init, weighting="ratings", biases=True, regularization=0.3)


def falls(found: Any, X: Any, init: Any) -> bool:
    c, p, mask, a0 = weigh(X, "hu-koren", 5.0)
    lam_u, lam_i = penalties(mask, a0, 2.0, 0.0), penalties(mask.T, a0, 2.0, 0.0)
    J = cost(c, p, lam_u, lam_i, found.user_factors, found.item_factors)
    all_of_it = [record[key] for record in found.history for key in ("objective_users", "objective")]
    return abs(J / all_of_it[-1] - 1) < 1e-8 and all(a >= b * (1 - 1e-12) for a, b in itertools.pairwise(all_of_it))


def refusals() -> Iterator[Case]:
    hot = lambda: {**data(), "X": data()["X"] * 1e10}  # noqa: E731
    yield _of.refused(
        "alpha times value beyond float32", lambda X, init: one(X, init, alpha=1e30, dtype="float32"), "alpha", make=hot
    )
    yield _of.either(
        "alpha 1e30 in float64",
        lambda X, init: one(X, init, alpha=1e30, regularization=1.0),
        lambda found, X, init: (
            np.isfinite(scores(found)).all() and (np.abs(scores(found)[X.toarray() > 0] - 1) < 0.5).mean() > 0.5
        ),
        "row|alpha",
        make=data,
        kind=(*BAD, lfm_np.SolverError),
    )
    yield _of.refused(
        "no lambda, and a rating for four factors",
        lambda X, init: one(X, init, weighting="ratings", regularization=0.0),
        "row",
        make=lambda: {"X": sp.csr_array(([4.0, 3.0], ([0, 1], [0, 1])), (3, 3)), "init": start(3, 3, 4)},
        kind=lfm_np.SolverError,
    )
    yield _of.refused(
        "a dislike of -1",
        lambda X, init: one(X, init),
        "x",
        "negative|-1",
        make=lambda: {**data(), "X": sp.csr_array([[1.0, -1.0]])},
    )
    for word, value in {
        "factors": True,
        "regularization": -1e-9,
        "alpha": np.nan,
        "unobserved_weight": np.inf,
        "regularization_exponent": "1",
        "iterations": 2.5,
        "num_threads": 0,
        "random_state": -1,
        "tolerance": None,
        "weighting": "Ratings",
        "dtype": "float16",
        "checkpoint": 3,
    }.items():
        yield _of.refused(
            f"{word} is {value!r}",
            lambda X, w=word, v=value: lfm_np.als(X, **{w: v}),
            word,
            make=lambda: {"X": data()["X"]},
        )
    yield _of.refused(
        "indices that lie, found by row or name",
        lambda X, init: one(X, init),
        "x",
        "indices|column|index",
        make=lambda: {**data(), "X": lying()},
    )
    yield _of.refused(
        "NaN among starting factors",
        lambda X, init: one(X, init),
        "init",
        make=lambda: {**data(), "init": holed(data()["init"])},
    )
    yield _of.refused(
        "a hundred thousand factors of a million rows",
        lambda X: lfm_np.als(X, factors=60_000),
        "are available",
        make=lambda: {"X": sp.csr_array(([1.0], ([999_999], [9])), (1_000_000, 10))},
        kind=MemoryError,
    )


def lying() -> sp.csr_array:
    X = data()["X"]
    X.indices[7] = 20
    return X


def holed(init: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    init[0][3, 1] = np.nan
    return init


def cases() -> list[Case]:
    return [*weightings(), *shapes(), *formats(), *steps_and_endings(), *refusals()]
