"""One hostile call, and what must come of it."""

from __future__ import annotations

import hashlib
import importlib.util
import signal
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp

from lfm_np.errors import MissingExtraError

OK = "as it should"
BAD = ("silent wrong", "crash", "hang", "obscure error", "valid refused", "data changed")


KEPT = ("Dask-Offload",)  # threads that a package keeps for the next time


def installed(*packages: str) -> bool:
    """Whether cases that need these can be run."""
    return all(map(importlib.util.find_spec, packages))


class Outcome(NamedTuple):
    """What came of a case: ``kind`` is OK or one of BAD."""

    kind: str
    detail: str = ""


@dataclass(frozen=True)
class Raises:
    """An exception of one of ``types`` whose message holds every one of ``words`` ("a|b": either of them)."""

    types: tuple[type[BaseException], ...]
    words: tuple[str, ...]

    def of_error(self, error: BaseException) -> Outcome:
        said = f"{type(error).__name__}: {error}"
        text = str(error).lower()
        told = bool(text) and all(any(word in text for word in either.lower().split("|")) for either in self.words)
        return Outcome(OK if isinstance(error, self.types) and told else "obscure error", said)

    def of_result(self, result: Any, inputs: dict[str, Any]) -> Outcome:
        return Outcome("silent wrong", f"returned {result!r:.200}")


@dataclass(frozen=True)
class Holds:
    """A result for which ``true(result, **inputs)`` holds."""

    true: Callable[..., bool]

    def of_error(self, error: BaseException) -> Outcome:
        return Outcome("valid refused", f"{type(error).__name__}: {error}")

    def of_result(self, result: Any, inputs: dict[str, Any]) -> Outcome:
        return Outcome(OK) if self.true(result, **inputs) else Outcome("silent wrong", f"{result!r:.200}")


@dataclass(frozen=True)
class Either:
    """The result, if there is one, satisfies ``holds``; an error satisfies ``raises``."""

    holds: Holds
    raises: Raises

    def of_error(self, error: BaseException) -> Outcome:
        return self.raises.of_error(error)

    def of_result(self, result: Any, inputs: dict[str, Any]) -> Outcome:
        return self.holds.of_result(result, inputs)


def raises(kind: type[BaseException] | tuple[type[BaseException], ...], *words: str) -> Raises:
    return Raises(kind if isinstance(kind, tuple) else (kind,), words)


@dataclass(frozen=True)
class Case:
    """``call(**make())``. ``make`` gives the caller's data, which must come out of the call as it went in."""

    name: str
    call: Callable[..., Any]
    expect: Any
    make: Callable[[], dict[str, Any]] = field(default=dict)


class Group(NamedTuple):
    """Cases of one heading that make their own data."""

    name: str

    def refused(self, name: str, call: Callable[[], Any], *words: str, kind: Any = (TypeError, ValueError)) -> Case:
        return Case(f"{self.name}: {name}", lambda: call(), raises(kind, *words))

    def right(self, name: str, call: Callable[[], Any], true: Callable[[Any], Any] = lambda result: True) -> Case:
        return Case(f"{self.name}: {name}", lambda: call(), Holds(lambda result: bool(true(result))))

    def either(
        self,
        name: str,
        call: Callable[[], Any],
        true: Callable[[Any], Any],
        *words: str,
        kind: Any = (TypeError, ValueError),
    ) -> Case:
        holds = Holds(lambda result: bool(true(result)))
        return Case(f"{self.name}: {name}", lambda: call(), Either(holds, raises(kind, *words)))


def judge(case: Case, strict: bool = True) -> Outcome:
    """Run a case in this process; ``strict`` looks at process-wide settings too."""
    inputs = case.make()
    before, around = fingerprint(inputs), surroundings()
    try:
        outcome = case.expect.of_result(case.call(**inputs), inputs)
    except BaseException as error:  # KeyboardInterrupt and SystemExit are outcomes too
        outcome = Outcome(OK) if _lacks_a_package(error) else case.expect.of_error(error)
    if outcome.kind != OK:
        return outcome
    if fingerprint(inputs) != before:
        return Outcome("data changed", "the arguments are not what they were")
    if strict and surroundings() != around:
        return Outcome("data changed", f"global state {around} became {surroundings()}"[:300])
    return outcome


def _lacks_a_package(error: BaseException) -> bool:
    """Whether a case could not be run, for want of an optional package."""
    if isinstance(error, ModuleNotFoundError):
        return not installed(str(error.name).split(".")[0])
    return isinstance(error, MissingExtraError) and not installed(str(error).split()[0])


def surroundings() -> tuple[Any, ...]:
    """The process-wide settings that no call may leave changed."""
    state = np.random.get_state()  # noqa: NPY002 (the state that nobody may touch)
    digest = hashlib.sha256(state[1].tobytes()).hexdigest()[:12]
    threads = sorted(thread.name for thread in threading.enumerate() if not thread.name.startswith(KEPT))
    return digest, state[2:], np.geterr(), str(signal.getsignal(signal.SIGINT)), threads


def fingerprint(value: Any) -> str:
    """A hash of everything that a call could change in its arguments."""
    digest = hashlib.sha256()
    _add(digest, value, 0)
    return digest.hexdigest()


def _add(digest: Any, value: Any, depth: int) -> None:
    digest.update(type(value).__name__.encode())
    if depth > 6 or isinstance(value, (type, np.random.Generator, np.random.RandomState)):
        return
    if isinstance(value, np.ndarray):
        digest.update(f"{value.dtype}{value.shape}{value.strides}{value.flags.writeable}".encode())
        digest.update(repr(value.tolist()).encode() if value.dtype.kind == "O" else value.tobytes())
    elif isinstance(value, Mapping):
        for key, item in value.items():
            digest.update(repr(key).encode())
            _add(digest, item, depth + 1)
    elif isinstance(value, (list, tuple)):
        for item in value:
            _add(digest, item, depth + 1)
    elif sp.issparse(value):
        digest.update(repr(value.shape).encode())
        for name in ("data", "indices", "indptr", "row", "col", "coords", "offsets", "rows"):
            if hasattr(value, name):
                _add(digest, getattr(value, name), depth + 1)
    elif hasattr(value, "to_numpy"):  # a data frame
        _add(digest, value.to_numpy(), depth + 1)
    elif hasattr(value, "__dict__"):
        _add(digest, {k: v for k, v in vars(value).items() if not k.startswith("_")}, depth + 1)
    else:
        digest.update(repr(value)[:1000].encode())
