"""Parts of .npy files, for writers of their own: the header, and room on the disk before a file is mapped."""

from __future__ import annotations

import errno
import io
import os
from typing import BinaryIO

import numpy as np

from lfm_np.signals import pass_on

_CANNOT = (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)  # of file systems without such a call
_ZEROS = 1 << 20


def npy_header(dtype: np.dtype, shape: tuple[int, ...]) -> bytes:
    out = io.BytesIO()
    described = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(out, described)
    return out.getvalue()


def allocate(file: BinaryIO, size: int, path: str) -> None:
    """Let a file have ``size`` bytes, new ones zero, on blocks of the disk; OSError, naming ``path``, if that is full.

    A page that is mapped and finds no block when it is written is a signal instead, which ends the process.
    """
    file.flush()
    try:
        if not _reserved(file.fileno(), size):
            _fill(file.fileno(), size)
    except OSError as error:
        pass_on(error)
        raise OSError(error.errno, error.strerror, path) from error


def _reserved(descriptor: int, size: int) -> bool:
    """Whether the file system can do it without writing."""
    if not hasattr(os, "posix_fallocate"):  # macOS
        return False
    try:
        os.posix_fallocate(descriptor, 0, size)
    except OSError as error:
        pass_on(error)
        if error.errno not in _CANNOT:
            raise
        return False
    return True


def _fill(descriptor: int, size: int) -> None:
    """Zeros from the end of a file to ``size``."""
    left, zeros = size - os.lseek(descriptor, 0, os.SEEK_END), memoryview(bytes(_ZEROS))
    while left > 0:
        left -= os.write(descriptor, zeros[:left])
