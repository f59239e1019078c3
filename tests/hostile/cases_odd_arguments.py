"""Odd arguments of fits, and callbacks, threads and starts that get into one another's way."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import lfm_np
from lfm_np import losses, sampling

from .case import Case, Either, Holds, raises
from .cases_odd_matrices import BAD, als, finite, same_scores, sgd, tiny
from .matrices import M, plain

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
    "factors": (
        np.array(3),
        Seven(),
        NoRepr(),
        np.array(3.0),
        np.array([3]),
        3 + 0j,
        np.bool_(True),
        10**30,
        "3",
        NoBool(),
        np.datetime64(3, "D"),
    ),
    "regularization": (
        np.array([0.1]),
        1j,
        np.bool_(True),
        np.timedelta64(1, "s"),
        10**400,
        np.ma.masked,
        NoBool(),
        b"1",
    ),
    "random_state": (
        np.random.PCG64(0),
        NoRepr(),
        True,
        np.array([1, 2]),
        np.random,
        1.0,
        np.datetime64(3, "D"),
        EqualsAll(),
    ),
    "num_threads": (True, np.inf, 10**30, NoBool(), "all", np.array([1])),
    "dtype": ("float16", "f8,f4", "complex64", int, object, ">f4", np.longdouble, NoBool(), None, "nonsense"),
    "callback": ("print", 0, np.array([1, 2]), EqualsAll()),
    "progress": (1, None, np.array([True, False]), NoBool()),
    "checkpoint": (3, b"\0", "a\0b", True, ["x"], ""),
    "init": ("warm", (1,), (np.zeros((M, 3)),) * 3, np.zeros((2, M, 3)), {"U": 1}, (None, None), EqualsAll()),
}
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
                name = f"odd arguments: {fit.__name__}, {word} {place} {type(value).__name__}"
                yield Case(
                    name, lambda X, f=fit, w=word, v=value: f(X, **{w: v}), raises(BAD, word), lambda: {"X": plain()}
                )
        for word, values in ACCEPTED.items():
            for place, value in enumerate(values):
                name = f"odd arguments: {fit.__name__}, {word} may be {place} {type(value).__name__}"
                yield Case(
                    name,
                    lambda X, f=fit, w=word, v=value: f(X, **{w: v}),
                    Holds(lambda f, X: finite(f)),
                    lambda: {"X": plain()},
                )
    for solver in (np.str_("cg"), np.array(["exact", "cg"])[0]):
        yield Case(
            f"odd arguments: als, solver {solver!r}",
            lambda X, s=solver: als(X, solver=s),
            Holds(lambda f, X, s=solver: f.params["solver"] == str(s)),
            lambda: {"X": plain()},
        )
    for biases in (np.True_, np.False_, np.str_("item")):
        yield Case(
            f"odd arguments: sgd, biases {biases!r}",
            lambda X, b=biases: sgd(X, biases=b),
            Holds(lambda f, X: finite(f)),
            lambda: {"X": plain()},
        )
    nested = {"user": {"user": 1}}
    for value in (nested, {1: 0.1}, {"user": None}, {"user": np.nan}, [("user", 1)]):
        yield Case(
            f"odd arguments: sgd, regularization {value!r}",
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
            f"odd arguments: sampler {sampler!r}",
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
            f"odd arguments: loss {loss!r:.50}",
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
    yield Case(
        "odd arguments: init is one array twice", _aliased, Holds(lambda r, X: r), lambda: {"X": tiny(np.eye(4))()}
    )
    own = lambda X: als(X, init=als(X))  # noqa: E731
    yield Case("odd arguments: init is a result", own, Holds(lambda f, X: finite(f)), lambda: {"X": plain()})
    yield Case(
        "odd arguments: one generator, six threads",
        _shared_seed,
        Holds(lambda r, X: len(r) == 6 and all(map(finite, r))),
        lambda: {"X": plain()},
    )
    yield Case(
        "odd arguments: fits four deep in callbacks", _deep, Holds(lambda f, X: finite(f)), lambda: {"X": plain()}
    )
    yield Case("odd arguments: a callback spoils X", _spoiled, raises(BAD, "X", "finite|nan"), lambda: {"X": plain()})
    for name, error in {
        "GeneratorExit": GeneratorExit,
        "SystemExit": SystemExit,
        "KeyboardInterrupt": KeyboardInterrupt,
        "MemoryError": MemoryError,
    }.items():

        def fail(record: Any, f: Any, error: Any = error) -> None:
            raise error("own")

        yield Case(
            f"odd arguments: a callback raises {name}",
            lambda X, c=fail: als(X, callback=c),
            raises(error, "own"),
            lambda: {"X": plain()},
        )
    for name, value in {"array": np.zeros(3), "nan": np.nan, "object": object(), "cycle": [...]}.items():
        yield Case(
            f"odd arguments: a callback records {name}",
            _record(value),
            Either(Holds(lambda f, X: finite(f)), raises(BAD, "history|callback|record")),
            lambda: {"X": plain()},
        )


def cases() -> list[Case]:
    return [*arguments(), *behaviour()]
