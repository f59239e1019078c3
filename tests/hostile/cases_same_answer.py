"""Inputs that say the same in other words: orders, scales, formats, dtypes, layouts. The answer must not change."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import scipy.sparse as sp

import lfm_np
from lfm_np import losses

from . import brute
from .case import Case, Group, Holds

_refused, _right, _either = (getattr(Group("same answer"), kind) for kind in ("refused", "right", "either"))
WORDS: dict[str, Any] = {"factors": 4, "iterations": 3, "dtype": "float64"}


def fit(X: Any, init: Any = None, **words: Any) -> np.ndarray:
    return brute.scores(lfm_np.als(X, init=init or brute.starts(*X.shape, 4), **{**WORDS, **words}))


# ---- invariances -----------------------------------------------------------------------------------------------------


def permuted(**words: Any) -> bool:
    X, (U, V) = brute.counts(20, 15), brute.starts(20, 15, 4)
    rng = np.random.default_rng(1)
    rows, columns = rng.permutation(20), rng.permutation(15)
    moved = fit(sp.csr_array(X[rows][:, columns]), (U[rows], V[columns]), **words)
    return brute.near(moved, fit(X, **words)[rows][:, columns], 1e-9)


def scaled(weighting: str, dtype: str) -> bool:
    X = brute.counts(20, 15)
    larger = X * np.float32(1024)
    a = fit(X, weighting=weighting, alpha=2.0, dtype=dtype)
    return brute.near(fit(larger, weighting=weighting, alpha=2.0 / 1024, dtype=dtype), a, 1e-12)


def scaled_ratings(power: int) -> bool:
    """X, λ and the square of the factors in one scale."""
    X, (U, V) = brute.counts(20, 15), brute.starts(20, 15, 4)
    s, root = 4.0**power, 2.0**power
    a = fit(X, (U, V), regularization=0.5, weighting="ratings")
    return brute.near(fit(X * s, (U * root, V * root), regularization=0.5 * s, weighting="ratings"), a * s, 1e-9)


def with_empty() -> bool:
    X, (U, V) = brute.counts(20, 15), brute.starts(20, 15, 4)
    more = sp.csr_array(sp.block_array([[X, None], [None, sp.csr_array((4, 6), dtype=np.float32)]]))
    init = np.vstack([U, np.ones((4, 4))]), np.vstack([V, np.zeros((6, 4))])
    return brute.near(fit(more, init)[:20, :15], fit(X, (U, V)), 1e-9)


def transposed(**words: Any) -> bool:
    """A sweep of Xᵀ from U is the second half of one sweep of X and the first of the next."""
    X = brute.counts(20, 15)
    words = {**WORDS, "regularization": 0.3, **words}
    one = lfm_np.als(X, init=brute.starts(20, 15, 4), **{**words, "iterations": 1})
    two = lfm_np.als(X, init=brute.starts(20, 15, 4), **{**words, "iterations": 2})
    turned = lfm_np.als(X.T, init=(one.item_factors, one.user_factors), **{**words, "iterations": 1})
    J = turned.history[0]
    expected = one.history[0]["objective"], two.history[1]["objective_users"]
    return np.allclose([J["objective_users"], J["objective"]], expected, rtol=1e-10)


def repeated_user() -> bool:
    """With nothing said of absent cells, a user twice is one of twice the confidence, to the items."""
    X, (U, V) = brute.counts(10, 8), brute.starts(10, 8, 4)
    words = {"weighting": "confidence", "unobserved_weight": 0.0, "regularization": 0.0, "iterations": 1, "factors": 2}
    U, V = U[:, :2], V[:, :2]
    X = sp.csr_array(np.maximum(X.toarray(), 1) + np.arange(8, dtype=np.float32))
    twice = sp.csr_array(sp.vstack([X, X[[4]]]))
    doubled = X.toarray()
    doubled[4] *= 2
    a = fit(twice, (np.vstack([U, U[4]]), V), **words)[:10]
    return brute.near(a, fit(sp.csr_array(doubled), (U, V), **words), 1e-9)


def rotated() -> bool:
    """Starts that differ by a rotation are the same start."""
    X, (U, V) = brute.counts(20, 15), brute.starts(20, 15, 4)
    turn = np.linalg.qr(np.random.default_rng(3).normal(size=(4, 4)))[0]
    return brute.near(fit(X, (U @ turn, V @ turn)), fit(X, (U, V)), 1e-9)


def idle_dimensions() -> bool:
    """Columns of zeros in the start stay zero."""
    X, (U, V) = brute.counts(20, 15), brute.starts(20, 15, 4)
    wide = tuple(np.hstack([side, np.zeros((len(side), 3))]) for side in (U, V))
    return brute.near(fit(X, wide, factors=7), fit(X, (U, V)), 1e-9)


def threads(run: Callable[[int], Any]) -> bool:
    results = [run(t) for t in (1, 2, 3, 7)]
    return all((found.item_factors == results[0].item_factors).all() for found in results)


def invariances() -> Iterator[Case]:
    yield _right("users and items in another order", permuted, bool)
    yield _right(
        "another order, ratings, biases",
        lambda: permuted(weighting="ratings", biases=True, regularization=0.2),
        bool,
    )
    for weighting in ("hu-koren", "ials", "confidence"):
        for dtype in ("float32", "float64"):
            yield _right(
                f"values times 1024 and α by it, {weighting}, {dtype}", lambda w=weighting, d=dtype: scaled(w, d), bool
            )
    for power in (-20, -3, 9, 20):
        yield _right(f"ratings and λ times 4^{power}", lambda p=power: scaled_ratings(p), bool)
    yield _right("users and items without cells beside the others", with_empty, bool)
    yield _right("transposed", transposed, bool)
    yield _right("transposed, ials, ν", lambda: transposed(weighting="ials", regularization_exponent=0.5), bool)
    yield _right("transposed, ratings", lambda: transposed(weighting="ratings", regularization_exponent=1.0), bool)
    yield _right("a user twice", repeated_user, bool)
    yield _right("a rotated start", rotated, bool)
    yield _right("dimensions that nothing starts", idle_dimensions, bool)
    X = brute.counts(60, 40)
    yield _right(
        "threads, cg",
        lambda: threads(lambda t: lfm_np.als(X, factors=70, solver="cg", iterations=2, random_state=0, num_threads=t)),
        bool,
    )
    yield _right(
        "threads, WARP with item biases",
        lambda: threads(
            lambda t: lfm_np.sgd(X, losses.WARP(), biases="item", factors=7, epochs=3, random_state=0, num_threads=t)
        ),
        bool,
    )
    yield _right(
        "metrics of users in another order",
        reordered_metrics,
        bool,
    )


def reordered_metrics() -> bool:
    X, test = brute.counts(30, 20), brute.counts(30, 20, 0.2, seed=4)
    found = lfm_np.als(X, factors=3, iterations=2, random_state=0)
    order = np.random.default_rng(0).permutation(30)
    moved = lfm_np.Factors(found.user_factors[order], found.item_factors)
    names = ("ndcg@5", "recall@5", "auc", "map")
    a, b = lfm_np.evaluate(found, X, test, names), lfm_np.evaluate(moved, X[order], test[order], names)
    return all(np.isclose(a[name], b[name], rtol=1e-12) for name in a)


# ---- formats, dtypes and layouts -------------------------------------------------------------------------------------


class Sub(np.ndarray):
    """An array of a class of one's own."""


def csr(change: Callable[[sp.csr_array], Any]) -> Callable[[], dict[str, Any]]:
    return lambda: {"X": change(brute.counts(20, 15))}


def wide(X: sp.csr_array) -> sp.csr_array:
    X.indptr, X.indices = X.indptr.astype(np.int64), X.indices.astype(np.int64)
    return X


def mixed(X: sp.csr_array) -> sp.csr_array:
    X.indptr = X.indptr.astype(np.int64)
    return X


def frozen(X: sp.csr_array) -> sp.csr_array:
    for array in (X.indptr, X.indices, X.data):
        array.flags.writeable = False
    return X


def strided(X: sp.csr_array) -> sp.csr_array:
    X.data, X.indices = np.repeat(X.data, 3)[::3], np.repeat(X.indices, 2)[::2]
    return X


def backwards(X: sp.csr_array) -> sp.csr_array:
    for row in range(X.shape[0]):
        part = slice(X.indptr[row], X.indptr[row + 1])
        X.indices[part], X.data[part] = X.indices[part][::-1].copy(), X.data[part][::-1].copy()
    X.has_sorted_indices = False
    return X


def padded(X: sp.csr_array) -> sp.csr_array:
    """More room than cells, as SciPy leaves it."""
    X.data, X.indices = np.append(X.data, [9, np.nan]).astype(np.float32), np.append(X.indices, [3, 3])
    return X


def of_subclass(X: sp.csr_array) -> sp.csr_array:
    X.data = X.data.view(Sub)
    return X


def halves(X: sp.csr_array) -> sp.coo_array:
    cells = X.tocoo()
    rows, columns = (np.concatenate([c, c]) for c in cells.coords)
    return sp.coo_array((np.concatenate([cells.data / 4, cells.data * 3 / 4]), (rows, columns)), shape=X.shape)


def zeros_too(X: sp.csr_array) -> sp.coo_array:
    cells = X.tocoo()
    empty = np.argwhere(X.toarray() == 0)[::2]
    coords = tuple(np.concatenate([c, empty[:, axis]]) for axis, c in enumerate(cells.coords))
    return sp.coo_array((np.concatenate([cells.data, np.zeros(len(empty), np.float32)]), coords), shape=X.shape)


FORMS: dict[str, Callable[[sp.csr_array], Any]] = {
    "int64 indices": wide,
    "int64 indptr, int32 indices": mixed,
    "read-only": frozen,
    "strided": strided,
    "indices backwards": backwards,
    "more room than cells": padded,
    "a subclass": of_subclass,
    "every cell in two parts": halves,
    "stored zeros": zeros_too,
    "matrix": sp.csr_matrix,
    "csc": sp.csc_array,
    "coo": sp.coo_matrix,
    "lil": sp.lil_array,
    "dok": sp.dok_array,
    "dia": sp.dia_array,
    "bsr": lambda X: sp.bsr_array(X, blocksize=(4, 5)),
    "uint8": lambda X: X.astype(np.uint8),
    "int64": lambda X: X.astype(np.int64),
    "float64": lambda X: X.astype(np.float64),
    "a transposed view": lambda X: sp.csr_array(X.T).T,
    "a slice": lambda X: sp.csr_array(sp.hstack([X, X]))[:, :15],
    "Interactions": lambda X: lfm_np.Interactions(X, np.arange(20), np.arange(15)),
}


START: dict[str, Any] = {"factors": 4, "iterations": 2, "random_state": 0}


def bits(found: Any) -> bool:
    expected = lfm_np.als(brute.counts(20, 15), factors=4, iterations=2, random_state=0)
    sides = ("user_factors", "item_factors")
    return all(np.array_equal(getattr(found, side), getattr(expected, side)) for side in sides)


def forms() -> Iterator[Case]:
    for name, change in FORMS.items():
        yield Case(
            f"same answer: als, {name}",
            lambda X: lfm_np.als(X, factors=4, iterations=2, random_state=0),
            Holds(lambda found, X: bits(found)),
            csr(change),
        )
    for name in ("int64 indices", "indices backwards", "more room than cells", "csc", "bsr", "stored zeros"):
        yield Case(
            f"same answer: seen, {name}",
            lambda X: recommended(X),
            Holds(lambda found, X: np.array_equal(found, recommended(brute.counts(20, 15)))),
            csr(FORMS[name]),
        )
    for name in ("strided", "lil", "every cell in two parts", "uint8"):
        yield Case(
            f"same answer: BPR, {name}",
            lambda X: stepped(X),
            Holds(lambda found, X: np.array_equal(found, stepped(brute.counts(20, 15)))),
            csr(FORMS[name]),
        )
    yield Case(
        "same answer: pairs and values as they come",
        lambda pairs, values: [lfm_np.to_csr(p, (9, 9), v).toarray() for p, v in zip(pairs, values, strict=True)],
        Holds(lambda found, pairs, values: all(np.array_equal(a, found[0]) for a in found)),
        lambda: {"pairs": some_pairs(), "values": some_values()},
    )
    yield _right("a memory-mapped matrix", mapped, bool)
    yield _right("factors in every layout", layouts, bool)
    yield _right("users in every form", users, bool)
    yield _right("parameters as NumPy's numbers", parameters, bool)
    for word, number in {"factors": np.array(4), "alpha": np.array(1.0)}.items():
        yield _either(
            f"{word} as a 0-d array",
            lambda w=word, x=number: lfm_np.als(brute.counts(20, 15), **{**START, w: x}),
            bits,
            word,
        )
    yield _either(
        "a matrix of longdouble",
        lambda: lfm_np.als(brute.counts(20, 15).astype(np.longdouble), **START),
        bits,
        "x",
        "64 bits",
    )
    yield _right("a matrix of bools counts ones", bools, bool)
    yield _right("values of float16", halved, bool)


def recommended(X: Any) -> np.ndarray:
    found = lfm_np.als(brute.counts(20, 15), factors=4, iterations=2, random_state=0)
    return np.asarray(found.recommend(np.arange(20), N=15, seen=X).ids)


def stepped(X: Any) -> np.ndarray:
    return np.asarray(lfm_np.sgd(X, factors=4, epochs=2, random_state=0).item_factors)


def some_pairs() -> list[Any]:
    pairs = np.random.default_rng(0).integers(0, 9, (40, 2))
    backward = pairs[::-1].copy()[::-1]
    return [
        pairs, np.asfortranarray(pairs), backward, pairs.astype(">i4"), pairs.astype(np.uint8), pairs.view(Sub),
        pairs.tolist(), [tuple(pair) for pair in pairs.tolist()], np.repeat(pairs, 2, axis=1)[:, ::2],
    ]  # fmt: skip


def some_values() -> list[Any]:
    values = np.random.default_rng(1).integers(0, 100, 40)
    return [
        values, values.astype(">f8"), np.repeat(values, 2)[::2], values.astype(np.uint8), values.astype(np.float16),
        values.view(Sub), values.tolist(), tuple(values.tolist()), values.astype(np.longdouble),
    ]  # fmt: skip


def mapped() -> bool:
    X = brute.counts(20, 15)
    with tempfile.TemporaryDirectory() as place:
        parts = []
        for name in ("data", "indices", "indptr"):
            path = os.path.join(place, f"{name}.npy")
            np.save(path, getattr(X, name))
            parts.append(np.load(path, mmap_mode="r"))
        return bits(lfm_np.als(sp.csr_array(tuple(parts), shape=X.shape), factors=4, iterations=2, random_state=0))


def layouts() -> bool:
    rng = np.random.default_rng(0)
    U, V = rng.normal(size=(6, 5)), rng.normal(size=(9, 5))
    forms: list[Callable[[np.ndarray], Any]] = [
        np.asfortranarray, lambda a: np.repeat(a, 2, axis=1)[:, ::2], lambda a: a[::-1].copy()[::-1],
        lambda a: a.view(Sub), lambda a: a.astype(">f8"),
    ]  # fmt: skip
    expected = lfm_np.Factors(U, V).recommend(np.arange(6), N=9)
    found = [lfm_np.Factors(form(U), form(V)).recommend(np.arange(6), N=9) for form in forms]
    return all(np.array_equal(a, b) for lists in found for a, b in zip(lists, expected, strict=True))


def users() -> bool:
    found = lfm_np.als(brute.counts(20, 15), factors=4, iterations=2, random_state=0)
    expected = found.recommend([3, 1, 3], N=4).ids
    forms: list[Any] = [
        (3, 1, 3), np.array([3, 1, 3], np.uint8), np.array([3, 1, 3], ">i8"), np.array([3, 9, 1, 9, 3, 9])[::2],
        [np.int16(3), 1, np.uint64(3)],
    ]  # fmt: skip
    same = all(np.array_equal(found.recommend(form, N=4).ids, expected) for form in forms)
    scalars = (3, np.int8(3), np.array(3))
    single = all(np.array_equal(found.recommend(form, N=np.int64(4)).ids, expected[0]) for form in scalars)
    empty = found.recommend(np.array([], int), N=4)
    return same and single and empty.ids.shape == empty.scores.shape == (0, 4)


def parameters() -> bool:
    words = {
        "factors": np.uint16(4), "iterations": np.int8(2), "alpha": np.float32(1), "random_state": np.uint8(0),
        "regularization": np.float16(0.5), "unobserved_weight": np.int64(1), "regularization_exponent": np.float32(0),
        "tolerance": np.longdouble(0), "dtype": np.dtype("float32"),
    }  # fmt: skip
    found = lfm_np.als(brute.counts(20, 15), **words)
    expected = lfm_np.als(brute.counts(20, 15), factors=4, iterations=2, random_state=0, regularization=0.5)
    return np.array_equal(found.item_factors, expected.item_factors) and found.params == expected.params


def bools() -> bool:
    X = brute.counts(20, 15)
    X.data[:] = 1
    a, b = (lfm_np.als(Y, factors=4, iterations=2, random_state=0) for Y in (X.astype(bool), X))
    return np.array_equal(a.item_factors, b.item_factors)


def halved() -> bool:
    X = brute.counts(20, 15).tocoo()
    found = lfm_np.to_csr(np.column_stack(X.coords), X.shape, X.data.astype(np.float16))
    return np.array_equal(found.toarray(), X.toarray())


def cases() -> list[Case]:
    return [*invariances(), *forms()]
