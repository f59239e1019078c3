"""Numbers, choices, dtypes, seeds and threads."""

from __future__ import annotations

import functools
import inspect
import numbers
import os
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from lfm_np.quiet import quietly
from lfm_np.signals import pass_on

_SHOWN = 60
NO_NUMBERS = bool, np.bool_, np.timedelta64  # which Python and NumPy count among the integers


def shown(value: Any) -> str:
    """A short repr for messages."""
    try:
        text = quietly(repr, value)  # an array's sets for a moment what NumPy says of errors
    except Exception as error:  # the message is about the argument, not about its repr
        pass_on(error)
        text = f"an object of type {type(value).__name__}"
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


def as_array(name: str, value: Any) -> np.ndarray:
    """``numpy.asarray`` that refuses ragged lists, masked entries, which it would unmask, and wrapped times."""
    if np.ma.is_masked(value):
        raise ValueError(f"{name} must have no masked entries; leave them out first (array.compressed())")
    try:
        array = np.asarray(value)
    except ValueError as error:
        pass_on(error)
        raise ValueError(f"{name} must be an array, got rows of unequal length: {shown(value)}") from None
    if array.dtype.kind in "mM" and array.ndim == 1 and _wrapped(array, value):
        raise ValueError(f"{name} has times of several units, which {array.dtype} cannot hold; give one array")
    return array


def _wrapped(array: np.ndarray, given: Any) -> bool:
    """Whether times of a list are others in the unit that NumPy chose for all."""
    if hasattr(given, "dtype") or len({getattr(time, "dtype", None) for time in given}) < 2:
        return False
    pairs = ((a, b) for a, b in zip(array, given) if isinstance(b, np.generic))
    return any(a.astype(b.dtype) != b for a, b in pairs if not np.isnat(b))


MAX_THREADS = 1024


def is_whole(value: Any) -> bool:
    """Whether it is an integer of Python or NumPy, which booleans are not."""
    return isinstance(value, numbers.Integral) and not isinstance(value, NO_NUMBERS)


def check_int(name: str, value: Any, low: int, high: int | None = None) -> int:
    """``value`` as an int in [low, high]. Booleans and fractions are refused."""
    allowed = f"an integer ≥ {low}" if high is None else f"an integer from {low} to {high}"
    if not is_whole(value):
        raise TypeError(f"{name} must be {allowed}, got {shown(value)} of type {type(value).__name__}")
    number = int(value)
    if number < low or (high is not None and number > high):
        raise ValueError(f"{name} must be {allowed}, got {shown(value)}")
    return number


def check_float(
    name: str,
    value: Any,
    low: float = -np.inf,
    high: float = np.inf,
    *,
    open_low: bool = False,
    open_high: bool = False,
) -> float:
    """``value`` as a finite float in the interval, which is closed unless said otherwise."""
    allowed = f"a finite number in {'(' if open_low else '['}{low:g}, {high:g}{')' if open_high else ']'}"
    if isinstance(value, NO_NUMBERS) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be {allowed}, got {shown(value)} of type {type(value).__name__}")
    try:
        number = float(value)
    except OverflowError:  # an integer of hundreds of digits
        number = np.inf
    inside = (low < number if open_low else low <= number) and (number < high if open_high else number <= high)
    if not np.isfinite(number) or not inside:
        raise ValueError(f"{name} must be {allowed}, got {shown(value)}")
    return number


def check_bool(name: str, value: Any) -> bool:
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be True or False, got {shown(value)} of type {type(value).__name__}")
    return bool(value)


def check_choice(name: str, value: Any, choices: Sequence[Any]) -> Any:
    """``value`` if it is one of ``choices``. True is not 1 here."""
    value = bool(value) if isinstance(value, np.bool_) else value
    for choice in choices:
        if isinstance(value, type(choice)) and choice == value:
            return choice
    raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {shown(value)}")


def check_names(function: str, given: Iterable[str], allowed: Iterable[str]) -> None:
    """TypeError for keyword arguments that ``function`` does not take."""
    allowed = list(allowed)
    if unknown := sorted(set(given) - set(allowed)):
        raise TypeError(f"{function} has no argument {', '.join(unknown)}; it takes {', '.join(allowed)}")


def check_dtype(name: str, value: Any) -> np.dtype:
    """float32 or float64, given as dtype, type or string."""
    try:
        dtype = np.dtype("V" if value is None else value)  # None would be float64
    except (TypeError, ValueError, SyntaxError) as error:  # of texts and lists that name the fields of a record
        pass_on(error)
        raise TypeError(f"{name} must be float32 or float64, got {shown(value)}") from None
    if dtype not in (np.float32, np.float64) or not dtype.isnative:
        raise ValueError(f"{name} must be float32 or float64 in native byte order, got {shown(value)}")
    return dtype


def check_num_threads(value: Any) -> int:
    """Threads to use; None takes the cores this process may use."""
    if value is None:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return check_int("num_threads", value, 1, MAX_THREADS)


def check_random_state(value: Any) -> np.random.Generator:
    """A Generator from None, int, SeedSequence, Generator or RandomState. NumPy's global state is never used."""
    if value is None or isinstance(value, (np.random.SeedSequence, np.random.Generator)):
        return quietly(np.random.default_rng, value)
    if isinstance(value, np.random.RandomState):
        return quietly(np.random.default_rng, value.randint(0, 2**32, size=4, dtype=np.uint32))
    if is_whole(value):
        if value < 0:
            raise ValueError(f"random_state must not be negative, got {value}")
        return quietly(np.random.default_rng, int(value))
    raise TypeError(
        "random_state must be None, an integer, a SeedSequence, a Generator or a RandomState, "
        f"got {shown(value)} of type {type(value).__name__}"
    )


def check_callback(value: Any) -> Any:
    if value is None:
        return None
    if not callable(value):
        raise TypeError(f"callback must be callable as callback(record, factors), got {shown(value)}")
    by_class = type(value.func if isinstance(value, functools.partial) else value).__call__
    for later in (inspect.iscoroutinefunction, inspect.isgeneratorfunction, inspect.isasyncgenfunction):
        if later(value) or later(by_class):  # a call of it would only make an object, and run nothing
            raise TypeError(f"callback must be an ordinary function, no coroutine or generator, got {shown(value)}")
    return value


def check_path(name: str, value: Any) -> str:
    """A file's name as a string, from a string or an os.PathLike."""
    if not isinstance(value, (str, os.PathLike)):
        raise TypeError(
            f"{name} must be a path (str or os.PathLike), got {shown(value)} of type {type(value).__name__}"
        )
    path = os.fsdecode(value)
    if not path or "\0" in path:
        raise ValueError(f"{name} must name a file, got {shown(path)}")
    try:
        os.fsencode(path)
    except UnicodeEncodeError:
        raise ValueError(f"{name} must be of characters that names of files can have, got {shown(path)}") from None
    return path


def absolute(path: str) -> str:
    """The same place wherever the process goes later; ".." stays, which behind a link is no parent's name."""
    return path if os.path.isabs(path) else os.path.join(os.getcwd(), path)  # which may be gone
