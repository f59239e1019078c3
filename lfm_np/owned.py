"""Arrays that an object keeps and nobody else can write to."""

from __future__ import annotations

import mmap
from typing import Any

import numpy as np

from lfm_np.validation import frozen


def owned(array: np.ndarray, given: Any = None) -> np.ndarray:
    """A read-only view of ``array``, or of a copy if others could write to it.

    Parameters
    ----------
    array : ndarray, shape (N,)
    given : optional
        What the caller gave, if ``array`` may have been made from it: it is not copied where they share no memory.
    """
    if _writeable(array):
        if not isinstance(given, np.ndarray) or np.may_share_memory(array, given):
            array = array.copy()
        lock(array)
    return frozen(array)


def lock(*arrays: np.ndarray | None) -> None:
    """Make read-only in place what nobody else has, so that `owned` need not copy it."""
    for array in arrays:
        base: Any = array
        while isinstance(base, np.ndarray):
            base.flags.writeable = False
            base = base.base


def _writeable(array: Any) -> bool:
    """Whether somebody can write to the memory of an array, as far as can be known.

    Read-only arrays of Arrow and Polars, which have no ndarray for a base, may lie over a writable one.
    """
    while isinstance(array, np.ndarray):
        if array.flags.writeable:
            return True
        array = array.base
    return not (array is None or (isinstance(array, (bytes, mmap.mmap)) and memoryview(array).readonly))
