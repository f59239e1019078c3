"""Arrays whose memory is the pages of a file."""

from __future__ import annotations

import mmap
from typing import Any, BinaryIO

import numpy as np


def mapped(
    file: BinaryIO, shape: tuple[int, ...], dtype: Any, offset: int = 0, *, writeable: bool = False
) -> np.ndarray:
    """The numbers of an open file from byte ``offset`` on, which may lose its name, or have none.

    Not a `numpy.memmap`: joblib hands these to its processes by their file's name, under which another may be by then.
    """
    access = mmap.ACCESS_WRITE if writeable else mmap.ACCESS_READ
    return np.ndarray(shape, dtype, mmap.mmap(file.fileno(), 0, access=access), offset)
