"""Odd and misdescribed matrices and numbers at the ends of their types, beside float64 loops."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

import lfm_np

from .case import Case, fingerprint
from .cases_rough_treatment_of_matrices import (
    HOW,
    PLAIN,
    U0,
    V0,
    WORDS,
    X,
    caught,
    celled,
    damaged,
    follows,
    lil,
    rough,
    setting,
)
from .working_days import Model, best, close, csr, judged, stars, start, tells, wrong


def _gives(name: str, make: Callable[[], Any], true: Callable[[Any], Any]) -> Case:
    def work(home: Path) -> list[str]:
        A = make()
        old = fingerprint(A)
        right = bool(true(A))
        return wrong(right=right, unchanged=fingerprint(A) == old)

    return rough(f"right, {name}", work)


def _swept(A: Any, dense: np.ndarray, how: Model = HOW, **words: Any) -> bool:
    """One sweep of als is that in float64."""
    given = {**how.words, "factors": 3, "init": (U0, V0), "dtype": "float64", "iterations": 1, "solver": "exact"}
    done = lfm_np.als(A, **{**given, **words})
    with np.errstate(under="ignore"):
        return follows(done, 1, dense, V0, how)


def _twice(a: int, b: int, dtype: Any) -> Any:
    """Every cell of X twice, with a and with b, while SciPy is told that none is."""
    C = csr(X)
    A = sp.csr_array(C.shape, dtype=dtype)
    A.data = np.tile(np.array([a, b], dtype), C.nnz)
    A.indices, A.indptr = np.repeat(C.indices, 2), 2 * C.indptr
    A.has_canonical_format = True
    return A


def _unsorted(X: np.ndarray = X) -> Any:
    """Every row from its last column to its first, while SciPy is told that they ascend."""
    A = csr(X)
    for a, b in zip(A.indptr[:-1], A.indptr[1:], strict=True):
        A.indices[a:b], A.data[a:b] = A.indices[a:b][::-1].copy(), A.data[a:b][::-1].copy()
    A.has_sorted_indices = A.has_canonical_format = True
    return A


def _lil_sum(A: Any) -> bool:
    dense = X.copy()
    dense[3] = np.nan
    dense[3, [2, 5]] = 4.0, 2.0
    try:
        return _swept(A, dense)
    except ValueError as error:
        return tells(error, "x|duplicate|twice|order|sorted")


def _explained(A: Any) -> bool:
    """Another user's row is damaged; this one's is explained, or all is refused."""
    try:
        found = PLAIN.explain(2, 5, A, **HOW.words)
    except ValueError as error:
        return tells(error, "index|indices|column")
    score = float((HOW.half(X[2:3], V0) @ V0[5])[0])
    return close(found.score, score, 1e-8) and close(found.baseline + np.sum(found.contributions), score, 1e-8)


def _told(A: Any) -> bool:
    got = caught(lambda: lfm_np.als(A, weighting="ratings", factors=2, random_state=0))
    return isinstance(got, (ValueError, lfm_np.SolverError)) and tells(got, "float32|finite|row|large|beyond")


def _scaled(A: Any) -> bool:
    """Ratings of 10¹⁰⁰ are 10¹⁰⁰ times ratings of 1: with λ = 0 so are the users, and the items are the same."""
    how = Model("ratings", lam=0.0)
    dense, (P, Q) = stars(30, 20, seed=5, share=0.9), start(30, 20, 3, seed=6)
    words = {**how.words, "factors": 3, "init": (P, Q), "dtype": "float64", "iterations": 1}
    done = lfm_np.als(A, **words)
    mine, yours = how.sweeps(dense, Q, 1)
    J = how.objective(dense, mine, yours)
    return close(done.user_factors @ (done.item_factors.T / 1e100), mine @ yours.T, 1e-6) and close(
        done.history[0]["objective"] / 1e200, J, 1e-6
    )


def _of_zeros(A: Any) -> bool:
    done = lfm_np.als(A, **WORDS, iterations=2)
    return not done.user_factors.any() and not done.item_factors.any() and done.history[-1]["objective"] == 0


def _strided() -> Any:
    C = csr(X)
    A = csr(X)
    data, indices = np.full(2 * C.nnz, np.nan), np.full(3 * C.nnz, 99, np.int64)
    data[1::2], indices[::3] = C.data, C.indices
    A.data, A.indices, A.indptr = data[1::2], indices[::3], C.indptr.astype(np.int64)
    A.data.flags.writeable = A.indices.flags.writeable = False
    return A


def _turned() -> Any:
    A = csr(X)
    A.data, A.indices, A.indptr = A.data.astype(">f8"), A.indices.astype(">i4"), A.indptr.astype(">i4")
    return A


def _turned_back(A: Any) -> bool:
    try:
        return _swept(A, X)
    except (TypeError, ValueError) as error:
        return tells(error, "byte|endian|dtype|>f8|>i4")


def _gone() -> Any:
    A, parts = csr(X), {}
    with tempfile.TemporaryDirectory() as folder:
        for name in ("data", "indices", "indptr"):
            np.save(f"{folder}/{name}.npy", getattr(A, name))
            parts[name] = np.load(f"{folder}/{name}.npy", mmap_mode="r")
    for name, array in parts.items():
        setattr(A, name, array)
    return A


def _lists(home: Path) -> list[str]:
    draw = np.random.default_rng(4)
    V = (draw.choice([-1, 1], 300) * 10.0 ** draw.uniform(-18, 18, 300)).astype(np.float32)[:, None]
    U = np.array([[1e-18], [-1e-18], [1e18], [-1e18], [0.0]], np.float32)
    ids, scores = lfm_np.Factors(U, V).recommend(np.arange(5), N=40)
    mine = [best(U[u, 0] * V[:, 0], np.ones(300, bool), 40) for u in range(5)]
    return wrong(ids=ids.tolist() == mine, scores=np.array_equal(scores, U * V[ids, 0]))


def _judged(A: Any) -> bool:
    T = np.where(np.isnan(X), X, 1.0)
    train = np.zeros((30, 20), bool)
    train[:, :3] = True
    R = csr(np.where(train, 1.0, np.nan))
    found = lfm_np.evaluate(PLAIN, R, A, ("ndcg@5", "auc", "map@30"))
    mine = judged(U0 @ V0.T, train, ~np.isnan(T), 5) | {"map@30": judged(U0 @ V0.T, train, ~np.isnan(T), 30)["map@30"]}
    return all(close(found[name], mine[name], 1e-12) for name in ("ndcg@5", "auc", "map@30"))


def cases() -> list[Case]:
    with_zero = X.copy()
    with_zero[4, np.flatnonzero(~np.isnan(X[4]))[0]] = 0.0
    zero_gone = np.where(with_zero == 0, np.nan, with_zero)
    tiny = X.copy()
    tiny[4, np.flatnonzero(~np.isnan(X[4]))[0]] = 5e-324
    faint = Model("confidence", alpha=2.0, a0=0.5, lam=0.3, nu=0.5)
    found = Model("ials", alpha=0.5, a0=0.25, lam=0.2, nu=1.0)
    huge = stars(30, 20, seed=5, share=0.9) * 1e100
    several = np.where(np.isnan(X), X, 300.0)
    return [
        _gives("columns that do not ascend though SciPy says so", _unsorted, lambda A: _swept(A, X)),
        _gives(
            "cells of uint8 twice though SciPy says none is",
            lambda: _twice(200, 100, np.uint8),
            lambda A: _swept(A, several, found),
        ),
        _gives(
            "seen columns that do not ascend",
            _unsorted,
            lambda A: (
                PLAIN.recommend(np.arange(30), N=6, seen=A).ids.tolist()
                == [best(s, np.isnan(x), 6) for s, x in zip(U0 @ V0.T, X, strict=True)]
            ),
        ),
        _gives("test cells twice", lambda: _twice(1, 1, np.int8), _judged),
        _gives(
            "new rows that do not ascend, with a zero",
            lambda: _unsorted(with_zero),
            lambda A: close(PLAIN.fold_in_users(A, **HOW.words).user_factors, HOW.half(zero_gone, V0), 1e-8),
        ),
        _gives(
            "a zero below 0 in an objective",
            lambda: csr(np.where(with_zero == 0, -0.0, with_zero)),
            lambda A: close(lfm_np.objective(A, PLAIN, **HOW.words), HOW.objective(zero_gone, U0, V0), 1e-10),
        ),
        _gives("a confidence of 5·10⁻³²⁴", lambda: csr(tiny), lambda A: _swept(A, tiny, faint)),
        _gives("nothing but zeros", lambda: csr(np.where(np.isnan(X), X, 0.0)), _of_zeros),
        _gives("arrays with steps that cannot be written", _strided, lambda A: _swept(A, X)),
        _gives("bytes the other way round", _turned, _turned_back),
        _gives("mapped files that are gone", _gone, lambda A: _swept(A, X)),
        _gives("a column of LIL twice", lambda: lil([5, 2, 2]), _lil_sum),
        _gives(
            "a start that is two views of one array",
            lambda: U0.copy(),
            lambda A: follows(lfm_np.als(csr(X), **{**WORDS, "init": (A, A[9:29]), "iterations": 2}), 2, X, U0[9:29]),
        ),
        _gives("another user's row damaged", lambda: damaged(X, indices=setting(-1, 20)), _explained),
        _gives("ratings of 10³⁹ in float32", lambda: celled(3777, 1e39), _told),
        _gives("ratings of 10¹⁰⁰", lambda: csr(huge), _scaled),
        _gives(
            "a mean of what is too much together",
            lambda: np.full(9, 3e38),
            lambda a: close(lfm_np.to_csr(np.zeros((9, 2), int), values=a, duplicates="mean").data, [3e38], 1e-7),
        ),
        rough("right, lists over seventy-two orders of magnitude", _lists),
    ]
