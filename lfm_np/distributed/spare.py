"""Memory that a worker uses again."""

from __future__ import annotations

from typing import Any

import numpy as np

from lfm_np.kernels.als_rows import aligned


class Spare:
    """Arrays that are lent, and lent again when nobody holds the one before any more.

    Every sweep makes results of the same sizes. In new memory every page is a fault, and a worker that touches it for
    the first time may spend as long on that as on solving the rows. A copy for another process has nothing to lend yet.
    """

    def __init__(self) -> None:
        self._free: dict[Any, list[np.ndarray]] = {}  # by shape and dtype; tasks in several threads take and give

    def __reduce__(self) -> tuple[Any, ...]:
        return Spare, ()

    def array(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """An uninitialised array as `aligned` makes it."""
        free = self._free.setdefault((shape, np.dtype(dtype)), [])
        try:
            array = free.pop()
        except IndexError:
            array = aligned(shape, dtype)
        return np.asarray(_Loan(array, free))


class _Loan:
    """What an array and all its views refer to: with the last of them the memory is free again."""

    def __init__(self, array: np.ndarray, free: list[np.ndarray]) -> None:
        self._array, self._free = array, free
        self.__array_interface__ = array.__array_interface__

    def __del__(self) -> None:
        self._free.append(self._array)
