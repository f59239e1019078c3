"""Hostile fits in words that every library has: a matrix, k, λ, α, sweeps, threads, a seed.

The same list runs through each solver of lfm_np and, by `peers`, through other libraries.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from . import matrices
from .case import Case, Either, Holds, Raises, raises

WORDS = {"factors": 4, "regularization": 0.1, "alpha": 2.0, "iterations": 3, "threads": 1, "seed": 0}


class Solver(NamedTuple):
    """A solver under test: ``fit(X, **words)`` gives (U, V) in float64, and knows the words in ``names``."""

    name: str
    fit: Callable[..., tuple[np.ndarray, np.ndarray]]
    names: dict[str, str]  # what the solver calls each of the words that it knows
    right: Callable[..., bool] | None = None  # right(X, words, U, V): whether the result is more than finite
    lenient: bool = False  # any exception that is not an accident counts as a clear refusal
    ordered: bool = False  # SGD for rankings: the order of the cells may change the result, and no value is read
    diverges: Callable[[dict[str, Any]], bool] = lambda words: False  # where an explicit step overshoots


# What a peer may accept with good reason: it can be read in one way, or says "all" or "none".
DEFENSIBLE = frozenset(
    (
        "object", "strings", "long double", "dense array", "list", "float indptr", "object indices", "negative",
        "iterations = 0", "iterations = 1.5", "iterations = '3'", "threads = 0", "threads = -1", "threads = 1.5",
        "factors = '4'", "factors = True", "regularization = inf", "regularization = [0.1]", "seed = -1", "seed = '0'",
    )
)  # fmt: skip
VALUES = frozenset(("nan", "inf", "-inf", "nan among duplicates", "too large for float32", "duplicates beyond float32",
                    "complex"))  # fmt: skip
LENIENT = (ValueError, TypeError, RuntimeError, OverflowError, NotImplementedError, MemoryError)


BAD_WORDS: dict[str, tuple[Any, ...]] = {
    "factors": (0, -1, 2.5, "4", None, True, float("nan"), 10**9),
    "regularization": (-1.0, float("nan"), float("inf"), "0.1", [0.1]),
    "alpha": (-1.0, float("nan"), float("inf"), "2"),
    "iterations": (0, -1, 1.5, "3"),
    "threads": (0, -1, 1.5, 10**9),
    "seed": (-1, 1.5, "0", 2**200 * 1.0),
}
GOOD_WORDS: dict[str, tuple[Any, ...]] = {
    "factors": (1, 15, 16, 17, 31, 50, np.int8(4), np.uint64(4)),  # k beyond the rank, n and m
    "regularization": (0.0, 1e-30, 1e-8, 1e8, 1e30, 1, np.float32(0.1), np.float64(0.1)),
    "alpha": (0.0, 1e-30, 1e8, 1e30, 2, np.float32(2)),
    "iterations": (1, np.int64(3)),
    "threads": (2, 3, 64),
    "seed": (2**63, 2**200, np.uint32(7)),
}


def cases(solver: Solver) -> list[Case]:
    """Every hostile fit that says something about ``solver``."""
    if solver.ordered:
        made = [_valid(solver, name, make, {}) for name, (make, _) in matrices.SAME.items()]
    else:
        made = [_same(solver, name, *pair) for name, pair in matrices.SAME.items()]
    made += [_valid(solver, name, make, {}) for name, make in matrices.FINITE.items()]
    made += [_refused(solver, name, *pair) for name, pair in matrices.REFUSED.items()]
    for word in sorted(solver.names):
        made += [_bad_word(solver, word, value) for value in BAD_WORDS[word]]
        made += [_valid(solver, _told(word, value), matrices.plain, {word: value}) for value in GOOD_WORDS[word]]
    hard = {"regularization": 0.0, "factors": 50}
    for name in ("no cells", "full", "one row holds all", "equal rows"):
        if hard.keys() <= solver.names.keys():
            made.append(_valid(solver, f"{name}, lambda = 0, k = 50", matrices.FINITE[name], hard))
    return made


def _told(word: str, value: Any) -> str:
    return f"{word} = {value!r:.24}"


def _words(solver: Solver, changed: dict[str, Any]) -> dict[str, Any]:
    return {word: changed.get(word, value) for word, value in WORDS.items() if word in solver.names}


def _case(
    solver: Solver, name: str, expect: Any, make: Callable[[], Any], changed: dict[str, Any] | None = None
) -> Case:
    words = _words(solver, changed or {})
    if solver.lenient:
        refused = Raises(LENIENT, ())
        holds = expect if isinstance(expect, Holds) else getattr(expect, "holds", None)
        if name in DEFENSIBLE or (solver.ordered and name in VALUES):
            holds = Holds(lambda result, X: True)
        expect = Either(holds, refused) if holds else refused
    return Case(f"{solver.name}: {name}", lambda X: solver.fit(X, **words), expect, lambda: {"X": make()})


def _same(solver: Solver, name: str, make: Callable[[], Any], canonical: Callable[[], Any]) -> Case:
    """The result is that of the canonical matrix."""

    def true(result: Any, X: Any) -> bool:
        U, V = result
        other_U, other_V = solver.fit(canonical(), **_words(solver, {}))
        return bool(np.allclose(U @ V.T, other_U @ other_V.T, rtol=1e-4, atol=1e-5))

    return _case(solver, name, Holds(true), make)


def _valid(solver: Solver, name: str, make: Callable[[], Any], changed: dict[str, Any]) -> Case:
    """A finite, right result, or an error that says why the arithmetic cannot be done."""

    def true(result: Any, X: Any) -> bool:
        finite = all(np.isfinite(part).all() for part in result)
        return finite and (solver.right is None or solver.right(X, _words(solver, changed), *result))

    fails = Raises((RuntimeError, ValueError), ("regularization|overflow",))
    may_fail = (
        changed.get("regularization") == 0 or changed.get("alpha") == 1e30 or solver.diverges(changed) or "1e15" in name
    )
    return _case(solver, name, Either(Holds(true), fails) if may_fail else Holds(true), make, changed)


def _refused(solver: Solver, name: str, make: Callable[[], Any], words: tuple[str, ...]) -> Case:
    return _case(solver, name, raises((TypeError, ValueError), *words), make)


def _bad_word(solver: Solver, word: str, value: Any) -> Case:
    if word == "factors" and value == 10**9:
        expect = raises((MemoryError, ValueError), "factors", "GiB|65536")
    else:
        expect = raises((TypeError, ValueError), solver.names[word])
    return _case(solver, _told(word, value), expect, matrices.plain, {word: value})
