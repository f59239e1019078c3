"""Odd matrices that no other case has: subclasses of arrays, foreign dtypes, shared and mapped buffers."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import scipy.sparse as sp

import lfm_np
from lfm_np import losses

from .case import Case, Either, Holds, raises
from .matrices import plain, raw

BAD = (TypeError, ValueError)
WORDS: dict[str, Any] = {"factors": 3, "random_state": 0, "num_threads": 1}


def als(X: Any, **words: Any) -> lfm_np.Factors:
    return lfm_np.als(X, **{"iterations": 2} | WORDS | words)


def sgd(X: Any, loss: Any = losses.BPR(), **words: Any) -> lfm_np.Factors:  # noqa: B008 (immutable)
    return lfm_np.sgd(X, loss, **{"epochs": 2} | WORDS | words)


def finite(result: Any, **_: Any) -> bool:
    return bool(np.isfinite(result.user_factors).all() and np.isfinite(result.item_factors).all())


def same_scores(one: Any, other: Any) -> bool:
    with np.errstate(under="ignore"):
        a, b = one.user_factors @ one.item_factors.T, other.user_factors @ other.item_factors.T
    return a.shape == b.shape and bool(np.allclose(a, b, rtol=1e-4, atol=1e-5))


def parts(X: sp.csr_array) -> dict[str, np.ndarray]:
    return {"data": X.data, "indices": X.indices, "indptr": X.indptr}


def remade(change: Callable[[np.ndarray], Any]) -> Callable[[], sp.csr_array]:
    """`plain` with each of its arrays changed."""
    return lambda: raw(**{name: change(array) for name, array in parts(plain()).items()})


def mapped(array: np.ndarray) -> np.ndarray:
    held = mmap.mmap(-1, max(array.nbytes, 1))
    held.write(array.tobytes())
    return np.frombuffer(held, array.dtype, len(array))


class Loud(np.ndarray):
    """A subclass whose operations must not be run."""

    def __array_ufunc__(self, *args: Any, **words: Any) -> Any:
        raise RuntimeError("the subclass's own")


def misaligned(array: np.ndarray) -> np.ndarray:
    room = np.zeros(array.nbytes + 1, np.uint8)
    view = room[1:].view(array.dtype)
    view[:] = array
    return view


def claims(X: sp.csr_array, **flags: bool) -> sp.csr_array:
    for name, value in flags.items():
        setattr(X, name, value)
    return X


def shuffled_twice() -> sp.csr_array:
    """Unsorted, with duplicates that add up to `plain`, and a claim to be canonical."""
    X = plain()
    order = [p for lo, hi in zip(X.indptr[:-1], X.indptr[1:]) for p in [*range(hi - 1, lo - 1, -1)] * 2]
    twice = raw((X.data[order] / 2), X.indices[order], X.indptr * 2)
    return claims(twice, has_canonical_format=True, has_sorted_indices=True)


def overlapping() -> sp.csr_array:
    """indices and indptr in one buffer."""
    X = plain()
    both = np.concatenate([X.indices, X.indptr])
    return raw(X.data, both[: X.nnz], both[X.nnz :])


def shared_values() -> sp.csr_array:
    """Every value is the same byte of memory."""
    X = plain()
    X.data[:] = 1
    return raw(np.broadcast_to(np.float32(1), X.data.shape), X.indices, X.indptr)


def ones() -> sp.csr_array:
    X = plain()
    X.data[:] = 1
    return X


SAME: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {  # an odd matrix, and what it must be equal to
    "big-endian arrays": (remade(lambda a: a.astype(a.dtype.newbyteorder(">"))), plain),
    "read-only arrays": (remade(lambda a: np.frombuffer(a.tobytes(), a.dtype)), plain),
    "negative strides": (remade(lambda a: a[::-1].copy()[::-1]), plain),
    "every other number": (remade(lambda a: np.repeat(a, 2)[::2]), plain),
    "misaligned arrays": (remade(misaligned), plain),
    "memory-mapped arrays": (remade(mapped), plain),
    "a loud subclass": (remade(lambda a: a.view(Loud)), plain),
    "recarray": (remade(lambda a: a.view(np.recarray)), plain),
    "int64 indices": (
        lambda: raw(plain().data, *(plain().indices.astype(np.int64), plain().indptr.astype(np.int64))),
        plain,
    ),
    "uint64 values": (lambda: plain(dtype=np.uint64), plain),
    "float16 values": (lambda: raw(plain().data.astype(np.float16), plain().indices, plain().indptr), plain),
    "bool values": (lambda: ones().astype(bool), ones),
    "indices and indptr overlap": (overlapping, plain),
    "values are one number": (shared_values, ones),
    "lies about being canonical": (shuffled_twice, plain),
    "denies being canonical": (lambda: claims(plain(), has_canonical_format=False, has_sorted_indices=False), plain),
    "indices are a list": (lambda: raw(plain().data, plain().indices.tolist(), plain().indptr), plain),
    "csr_matrix": (lambda: sp.csr_matrix(plain()), plain),
    "csc_array": (lambda: sp.csc_array(plain()), plain),
    "lil_matrix": (lambda: sp.lil_matrix(plain()), plain),
    "dok_array": (lambda: sp.dok_array(plain()), plain),
    "dia_array": (lambda: sp.dia_array(plain()), plain),
    "room behind the cells": (
        lambda: raw(*(np.append(a, [9, 9]) for a in (plain().data, plain().indices)), plain().indptr),
        plain,
    ),
}

REFUSED: dict[str, tuple[Callable[[], Any], tuple[str, ...]]] = {
    "masked values": (remade(lambda a: np.ma.masked_array(a, np.arange(len(a)) == 3)), ("X", "mask")),
    "one-dimensional coo": (lambda: sp.coo_array(np.ones(5)), ("X", "two")),
    "one-dimensional csr": (lambda: sp.csr_array(np.ones(5)), ("X", "two")),
    "three-dimensional coo": (lambda: sp.coo_array(np.ones((2, 3, 4))), ("X", "two")),
    "datetime values": (lambda: raw(plain().data.astype("M8[s]"), plain().indices, plain().indptr), ("X", "datetime")),
    "timedelta values": (
        lambda: raw(plain().data.astype("m8[s]"), plain().indices, plain().indptr),
        ("X", "timedelta"),
    ),
    "structured values": (lambda: raw(plain().data.view([("x", "f4")]), plain().indices, plain().indptr), ("X",)),
    "bytes values": (lambda: raw(plain().data.astype("S4"), plain().indices, plain().indptr), ("X",)),
    "bool indices": (lambda: raw(plain().data, plain().indices.astype(bool), plain().indptr), ("X", "indices")),
    "two-dimensional data": (lambda: raw(plain().data[:, None], plain().indices, plain().indptr), ("X", "data")),
    "0-d indptr": (lambda: raw(plain().data, plain().indices, np.array(0)), ("X", "indptr")),
    "a generator": (lambda: (row for row in ()), ("X",)),
    "a set": (lambda: {1, 2}, ("X",)),
    "np.matrix": (lambda: np.eye(3).view(np.matrix), ("X", "sparse")),
    "the class itself": (lambda: sp.csr_array, ("X", "sparse")),
    "a shape": (lambda: (3, 4), ("X", "sparse")),
}


class Flat:
    """Says that it is sparse, and is nothing."""

    format = "csr"
    shape = (3, 4)
    nnz = 2

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        raise RuntimeError("the object's own")


def _same(name: str, fit: Callable[..., Any], odd: Callable[[], Any], even: Callable[[], Any], **words: Any) -> Case:
    return Case(
        f"odd matrices: {name}",
        lambda X: fit(X, **words),
        Holds(lambda result, X: same_scores(result, fit(even(), **words))),
        lambda: {"X": odd()},
    )


def matrices() -> Iterator[Case]:
    for name, (odd, even) in SAME.items():
        yield _same(f"als, {name}", als, odd, even)
        if name != "lies about being canonical":  # sgd follows the order of the values' sum only
            yield _same(f"sgd, {name}", sgd, odd, even)
    for name, (make, words) in REFUSED.items():
        for fit in (als, sgd):
            yield Case(
                f"odd matrices: {fit.__name__}, {name}",
                lambda X, fit=fit: fit(X),
                raises(BAD, *words),
                lambda make=make: {"X": make()},
            )
    yield Case("odd matrices: als, claims to be sparse", lambda: als(Flat()), raises(BAD, "X", "sparse"))


# ---- valid, but odd -------------------------------------------------------------------------------------------------


def tiny(dense: Any) -> Callable[[], sp.csr_array]:
    return lambda: sp.csr_array(np.asarray(dense, np.float32))


def normal_equations(X: Any, f: Any, lam: float) -> bool:
    """The items solve their systems given the users (Hu-Koren, α = 1, α₀ = 1)."""
    dense, U = X.toarray().astype(float), f.user_factors.astype(float)
    for i, v in enumerate(f.item_factors.astype(float)):
        x = dense[:, i]
        c = 1 + x
        A = (U.T * c) @ U + lam * np.eye(U.shape[1])
        b = U.T @ np.where(x > 0, c, 0)
        if np.abs(A @ v - b).max() > 1e-3 * max(1e-3, np.abs(b).max(initial=0)):
            return False
    return True


SHAPES = {
    "one user": tiny([[1, 0, 2, 1]]),
    "one item": tiny([[1], [0], [2]]),
    "one cell": tiny([[5]]),
    "one user, one item, nothing": tiny([[0]]),
    "no users": lambda: sp.csr_array((0, 4), dtype=np.float32),
    "no items": lambda: sp.csr_array((4, 0), dtype=np.float32),
    "nothing at all": lambda: sp.csr_array((0, 0), dtype=np.float32),
    "empty rows and columns around": tiny(np.pad(np.ones((2, 2)), 3)),
    "full": tiny(np.ones((4, 5))),
    "constant": tiny(np.full((6, 5), 3.0)),
}


def _solved(name: str, make: Callable[[], Any], **words: Any) -> Case:
    holds = Holds(lambda f, X: finite(f) and normal_equations(X, f, 0.1))
    return Case(
        f"odd matrices: als, {name}", lambda X: als(X, regularization=0.1, **words), holds, lambda: {"X": make()}
    )


def valid() -> Iterator[Case]:
    for name, make in SHAPES.items():
        for k in (1, 7):
            yield _solved(f"{name}, k = {k}", make, factors=k)
        yield Case(
            f"odd matrices: sgd, {name}",
            lambda X: sgd(X),
            Holds(lambda f, X: finite(f)),
            lambda make=make: {"X": make()},
        )
        yield Case(
            f"odd matrices: ratings, {name}",
            lambda X: als(X, weighting="ratings", biases=True),
            Holds(lambda f, X: finite(f) and f.shape == X.shape),
            lambda make=make: {"X": make()},
        )
    full = tiny(np.arange(1, 21).reshape(4, 5) % 7 + 1)
    exact = lambda X: als(X, weighting="ratings", regularization=0.0, factors=4, iterations=30, dtype="float64")  # noqa: E731
    fits = lambda f, X: np.allclose(f.user_factors @ f.item_factors.T, X.toarray(), atol=1e-3)  # noqa: E731
    unsolvable = raises(RuntimeError, "regularization")
    yield Case("odd matrices: ratings, lambda = 0, full", exact, Either(Holds(fits), unsolvable), lambda: {"X": full()})
    yield Case(
        "odd matrices: alpha = 0 sees cells only",
        lambda X: als(X, alpha=0.0),
        Holds(lambda f, X: same_scores(f, als(ones(), alpha=0.0))),
        lambda: {"X": plain()},
    )
    yield Case(
        "odd matrices: negative ratings",
        lambda X: als(X, weighting="ratings"),
        Holds(lambda f, X: finite(f)),
        lambda: {"X": -plain()},
    )
    zero = lambda: raw(np.zeros_like(plain().data), plain().indices, plain().indptr)  # noqa: E731
    yield Case(
        "odd matrices: ratings of zero",
        lambda X: als(X, weighting="ratings"),
        Holds(lambda f, X: finite(f) and not f.user_factors.any()),
        lambda: {"X": zero()},
    )
    yield Case(
        "odd matrices: confidences of zero",
        lambda X: als(X),
        Holds(lambda f, X: not f.user_factors.any()),
        lambda: {"X": zero()},
    )


def cases() -> list[Case]:
    return [*matrices(), *valid()]
