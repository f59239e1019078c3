"""NumPy without a word on what overflows, underflows or is not a number, and with what was set as before afterwards."""

from __future__ import annotations

import contextvars
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

T = TypeVar("T")


def quietly(function: Callable[..., T], *args: Any, **keywords: Any) -> T:
    """``function(*args, **keywords)`` under ``numpy.errstate(all="ignore")``."""
    return apart(_ignoring, function, args, keywords)


def apart(function: Callable[..., T], *args: Any, **keywords: Any) -> T:
    """``function(*args, **keywords)``, which may set what NumPy says of errors, in a context of its own.

    From NumPy 2 on, that state belongs to the context: where a handler of a signal raises just as ``errstate`` begins
    or ends, it is the copy that keeps it.
    """
    return contextvars.copy_context().run(function, *args, **keywords)


def eigh(A: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`numpy.linalg.eigh`, which sets what NumPy says of errors for as long as it runs."""
    return quietly(np.linalg.eigh, A)


def _ignoring(function: Callable[..., T], args: Any, keywords: Any) -> T:
    with np.errstate(all="ignore"):
        return function(*args, **keywords)
