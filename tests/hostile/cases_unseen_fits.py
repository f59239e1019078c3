"""Odd matrices, ids and pairs that no other case has: subclasses of arrays, foreign dtypes, shared and mapped buffers."""

from __future__ import annotations

import mmap
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import scipy.sparse as sp

import lfm_np
from lfm_np import losses, sampling

from .case import Case, Either, Holds, raises
from .matrices import M, plain, raw

BAD = (TypeError, ValueError)
WORDS: dict[str, Any] = {"factors": 3, "random_state": 0, "num_threads": 1}


def als(X: Any, **words: Any) -> lfm_np.Factors:
    return lfm_np.als(X, **{"iterations": 2} | WORDS | words)


def sgd(X: Any, loss: Any = losses.BPR(), **words: Any) -> lfm_np.Factors:  # noqa: B008 (immutable)
    return lfm_np.sgd(X, loss, **{"epochs": 2} | WORDS | words)


def finite(result: Any, **_: Any) -> bool:
    return bool(np.isfinite(result.user_factors).all() and np.isfinite(result.item_factors).all())


def same_scores(one: Any, other: Any) -> bool:
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
    "int64 indices": (lambda: raw(plain().data, *(plain().indices.astype(np.int64), plain().indptr.astype(np.int64))), plain),
    "uint64 values": (lambda: plain(dtype=np.uint64), plain),
    "float16 values": (lambda: raw(plain().data.astype(np.float16), plain().indices, plain().indptr), plain),
    "bool values": (lambda: ones().astype(bool), ones),
    "indices and indptr overlap": (overlapping, plain),
    "values are one number": (shared_values, ones),
    "lies about being canonical": (shuffled_twice, plain),
    "denies being canonical": (lambda: claims(plain(), has_canonical_format=False, has_sorted_indices=False), plain),
    "csr_matrix": (lambda: sp.csr_matrix(plain()), plain),
    "csc_array": (lambda: sp.csc_array(plain()), plain),
    "lil_matrix": (lambda: sp.lil_matrix(plain()), plain),
    "dok_array": (lambda: sp.dok_array(plain()), plain),
    "dia_array": (lambda: sp.dia_array(plain()), plain),
    "room behind the cells": (lambda: raw(*(np.append(a, [9, 9]) for a in (plain().data, plain().indices)), plain().indptr), plain),
}  # fmt: skip

REFUSED: dict[str, tuple[Callable[[], Any], tuple[str, ...]]] = {
    "masked values": (remade(lambda a: np.ma.masked_array(a, np.arange(len(a)) == 3)), ("X", "mask")),
    "one-dimensional coo": (lambda: sp.coo_array(np.ones(5)), ("X", "2")),
    "one-dimensional csr": (lambda: sp.csr_array(np.ones(5)), ("X", "2")),
    "three-dimensional coo": (lambda: sp.coo_array(np.ones((2, 3, 4))), ("X", "2")),
    "datetime values": (lambda: raw(plain().data.astype("M8[s]"), plain().indices, plain().indptr), ("X", "datetime")),
    "timedelta values": (lambda: raw(plain().data.astype("m8[s]"), plain().indices, plain().indptr), ("X", "timedelta")),
    "structured values": (lambda: raw(plain().data.view([("x", "f4")]), plain().indices, plain().indptr), ("X",)),
    "bytes values": (lambda: raw(plain().data.astype("S4"), plain().indices, plain().indptr), ("X",)),
    "bool indices": (lambda: raw(plain().data, plain().indices.astype(bool), plain().indptr), ("X", "indices")),
    "two-dimensional data": (lambda: raw(plain().data[:, None], plain().indices, plain().indptr), ("X", "data")),
    "0-d indptr": (lambda: raw(plain().data, plain().indices, np.array(0)), ("X", "indptr")),
    "indices are a list": (lambda: raw(plain().data, plain().indices.tolist(), plain().indptr), ("X", "indices")),
    "a generator": (lambda: (row for row in ()), ("X",)),
    "a set": (lambda: {1, 2}, ("X",)),
    "np.matrix": (lambda: np.matrix(np.eye(3)), ("X", "sparse")),
    "the class itself": (lambda: sp.csr_array, ("X", "sparse")),
    "a shape": (lambda: (3, 4), ("X", "sparse")),
}  # fmt: skip


class Flat:
    """Says that it is sparse, and is nothing."""

    format = "csr"
    shape = (3, 4)
    nnz = 2

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        raise RuntimeError("the object's own")


def _same(name: str, fit: Callable[..., Any], odd: Callable[[], Any], even: Callable[[], Any], **words: Any) -> Case:
    return Case(
        f"unseen: {name}",
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
                f"unseen: {fit.__name__}, {name}",
                lambda X, fit=fit: fit(X),
                raises(BAD, *words),
                lambda make=make: {"X": make()},
            )
    yield Case("unseen: als, claims to be sparse", lambda: als(Flat()), raises(BAD, "X", "sparse"))


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
    return Case(f"unseen: als, {name}", lambda X: als(X, regularization=0.1, **words), holds, lambda: {"X": make()})


def valid() -> Iterator[Case]:
    for name, make in SHAPES.items():
        for k in (1, 7):
            yield _solved(f"{name}, k = {k}", make, factors=k)
        yield Case(
            f"unseen: sgd, {name}", lambda X: sgd(X), Holds(lambda f, X: finite(f)), lambda make=make: {"X": make()}
        )
        yield Case(
            f"unseen: ratings, {name}",
            lambda X: als(X, weighting="ratings", biases=True),
            Holds(lambda f, X: finite(f) and f.shape == X.shape),
            lambda make=make: {"X": make()},
        )
    full = tiny(np.arange(1, 21).reshape(4, 5) % 7 + 1)
    exact = lambda X: als(X, weighting="ratings", regularization=0.0, factors=4, iterations=30, dtype="float64")  # noqa: E731
    fits = lambda f, X: np.allclose(f.user_factors @ f.item_factors.T, X.toarray(), atol=1e-3)  # noqa: E731
    unsolvable = raises(RuntimeError, "regularization")
    yield Case("unseen: ratings, lambda = 0, full", exact, Either(Holds(fits), unsolvable), lambda: {"X": full()})
    yield Case("unseen: alpha = 0 sees cells only", lambda X: als(X, alpha=0.0), Holds(lambda f, X: same_scores(f, als(ones(), alpha=0.0))), lambda: {"X": plain()})  # fmt: skip
    yield Case(
        "unseen: negative ratings",
        lambda X: als(X, weighting="ratings"),
        Holds(lambda f, X: finite(f)),
        lambda: {"X": -plain()},
    )
    zero = lambda: raw(np.zeros_like(plain().data), plain().indices, plain().indptr)  # noqa: E731
    yield Case(
        "unseen: ratings of zero",
        lambda X: als(X, weighting="ratings"),
        Holds(lambda f, X: finite(f) and not f.user_factors.any()),
        lambda: {"X": zero()},
    )
    yield Case(
        "unseen: confidences of zero",
        lambda X: als(X),
        Holds(lambda f, X: not f.user_factors.any()),
        lambda: {"X": zero()},
    )


# ---- arguments ------------------------------------------------------------------------------------------------------


class Seven:
    def __index__(self) -> int:
        return 7


class Liar(int):
    """An int that is equal to nothing."""

    def __eq__(self, other: object) -> bool:
        return False

    __hash__ = int.__hash__


class NoRepr:
    def __repr__(self) -> str:
        raise RuntimeError("the object's own")


class NoBool:
    def __bool__(self) -> bool:
        raise RuntimeError("the object's own")


class EqualsAll:
    def __eq__(self, other: object) -> Any:
        return np.array([True, False])

    __hash__ = object.__hash__


ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "factors": (np.array(3), Seven(), NoRepr(), np.array(3.0), np.array([3]), 3 + 0j, np.bool_(True), 10**30, "3", NoBool(), np.datetime64(3, "D")),
    "regularization": (np.array([0.1]), 1j, np.bool_(True), np.timedelta64(1, "s"), 10**400, np.ma.masked, NoBool(), b"1"),
    "random_state": (np.random.PCG64(0), NoRepr(), True, np.array([1, 2]), np.random, 1.0, np.datetime64(3, "D"), EqualsAll()),
    "num_threads": (True, np.inf, 10**30, NoBool(), "all", np.array([1])),
    "dtype": ("float16", "f8,f4", "complex64", int, object, ">f4", np.longdouble, NoBool(), None, "nonsense"),
    "callback": ("print", 0, np.array([1, 2]), EqualsAll()),
    "progress": (1, None, np.array([True, False]), NoBool()),
    "checkpoint": (3, b"\0", "a\0b", True, ["x"], ""),
    "init": ("warm", (1,), (np.zeros((M, 3)),) * 3, np.zeros((2, M, 3)), {"U": 1}, (None, None), EqualsAll()),
}  # fmt: skip
ACCEPTED: dict[str, tuple[Any, ...]] = {
    "factors": (Liar(3), np.uint8(3)),
    "regularization": (np.longdouble(0.1), np.float16(0.1), 0),
    "random_state": (np.int8(0), np.random.SeedSequence([1, 2])),
    "dtype": (np.dtype("f4"), "<f4", "d", float, np.float64),
}


def arguments() -> Iterator[Case]:
    for fit in (als, sgd):
        for word, values in ARGUMENTS.items():
            for place, value in enumerate(values):
                name = f"unseen: {fit.__name__}, {word} {place} {type(value).__name__}"
                yield Case(
                    name, lambda X, f=fit, w=word, v=value: f(X, **{w: v}), raises(BAD, word), lambda: {"X": plain()}
                )
        for word, values in ACCEPTED.items():
            for place, value in enumerate(values):
                name = f"unseen: {fit.__name__}, {word} may be {place} {type(value).__name__}"
                yield Case(
                    name,
                    lambda X, f=fit, w=word, v=value: f(X, **{w: v}),
                    Holds(lambda f, X: finite(f)),
                    lambda: {"X": plain()},
                )
    for solver in (np.str_("cg"), np.array(["exact", "cg"])[0]):
        yield Case(
            f"unseen: als, solver {solver!r}",
            lambda X, s=solver: als(X, solver=s),
            Holds(lambda f, X, s=solver: f.params["solver"] == str(s)),
            lambda: {"X": plain()},
        )
    for biases in (np.True_, np.False_, np.str_("item")):
        yield Case(
            f"unseen: sgd, biases {biases!r}",
            lambda X, b=biases: sgd(X, biases=b),
            Holds(lambda f, X: finite(f)),
            lambda: {"X": plain()},
        )
    nested = {"user": {"user": 1}}
    for value in (nested, {1: 0.1}, {"user": None}, {"user": np.nan}, [("user", 1)]):
        yield Case(
            f"unseen: sgd, regularization {value!r}",
            lambda X, v=value: sgd(X, regularization=v),
            raises(BAD, "regularization"),
            lambda: {"X": plain()},
        )
    for sampler in (
        sampling.Popularity,
        sampling.Hard(np.nan),
        sampling.Popularity(beta=True),
        "uniform",
        sampling.Hard(2.0),
        sampling.Popularity("1"),
    ):
        words = ("sampler",) if isinstance(sampler, (type, str)) else ("Hard.candidates|Popularity.beta",)
        yield Case(
            f"unseen: sampler {sampler!r}",
            lambda X, s=sampler: sgd(X, sampler=s),
            raises(BAD, *words),
            lambda: {"X": plain()},
        )
    for loss in (
        losses.BPR,
        "bpr",
        None,
        losses,
        losses.WARP(margin=np.nan),
        losses.SampledSoftmax(temperature=0),
        losses.CosineContrastive(weight=-1),
    ):
        yield Case(
            f"unseen: loss {loss!r:.50}",
            lambda X, v=loss: sgd(X, v),
            raises(BAD, "loss|WARP|SampledSoftmax|CosineContrastive"),
            lambda: {"X": plain()},
        )


# ---- aliasing, re-entry, threads ------------------------------------------------------------------------------------


def _aliased(X: Any) -> bool:
    """One array as both sides of the start."""
    W = np.full((4, 3), 0.1, np.float32)
    f = als(X, init=(W, W))
    return not np.shares_memory(f.user_factors, W) and same_scores(f, als(X, init=(W.copy(), W.copy())))


def _shared_seed(X: Any) -> list[lfm_np.Factors]:
    rng, found = np.random.default_rng(0), []
    threads = [threading.Thread(target=lambda: found.append(als(X, random_state=rng))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def _deep(X: Any, depth: int = 4) -> lfm_np.Factors:
    return als(X, callback=lambda record, f: _deep(X, depth - 1) and None if depth else None)


def _spoiled(X: Any) -> lfm_np.Factors:
    """A callback changes the matrix that is being fitted, which the next fit must see."""
    own = X.copy()

    def spoil(record: Any, f: Any) -> None:
        own.data[:] = np.nan
        raise StopIteration

    als(own, callback=spoil)
    return als(own)


def _record(value: Any) -> Callable[..., Any]:
    def call(X: Any) -> lfm_np.Factors:
        return als(X, callback=lambda record, f: record.update(extra=value))

    return call


def behaviour() -> Iterator[Case]:
    yield Case("unseen: init is one array twice", _aliased, Holds(lambda r, X: r), lambda: {"X": tiny(np.eye(4))()})
    own = lambda X: als(X, init=als(X))  # noqa: E731
    yield Case("unseen: init is a result", own, Holds(lambda f, X: finite(f)), lambda: {"X": plain()})
    yield Case(
        "unseen: one generator, six threads",
        _shared_seed,
        Holds(lambda r, X: len(r) == 6 and all(map(finite, r))),
        lambda: {"X": plain()},
    )
    yield Case("unseen: fits four deep in callbacks", _deep, Holds(lambda f, X: finite(f)), lambda: {"X": plain()})
    yield Case("unseen: a callback spoils X", _spoiled, raises(BAD, "X", "finite|nan"), lambda: {"X": plain()})
    for name, error in {
        "GeneratorExit": GeneratorExit,
        "SystemExit": SystemExit,
        "KeyboardInterrupt": KeyboardInterrupt,
        "MemoryError": MemoryError,
    }.items():

        def fail(record: Any, f: Any, error: Any = error) -> None:
            raise error("own")

        yield Case(
            f"unseen: a callback raises {name}",
            lambda X, c=fail: als(X, callback=c),
            raises(error, "own"),
            lambda: {"X": plain()},
        )
    for name, value in {"array": np.zeros(3), "nan": np.nan, "object": object(), "cycle": [...]}.items():
        yield Case(
            f"unseen: a callback records {name}",
            _record(value),
            Either(Holds(lambda f, X: finite(f)), raises(BAD, "history|callback|record")),
            lambda: {"X": plain()},
        )


def cases() -> list[Case]:
    return [*matrices(), *valid(), *arguments(), *behaviour()]
