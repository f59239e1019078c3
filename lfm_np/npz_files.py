"""NumPy's .npz files, which may be damaged, or from anybody."""

from __future__ import annotations

import contextlib
import errno
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from lfm_np.signals import signals_held

_DAMAGED = (
    ValueError,
    TypeError,
    KeyError,
    EOFError,
    OSError,
    MemoryError,
    RuntimeError,
    zipfile.BadZipFile,
    zlib.error,
)


@contextlib.contextmanager
def reading(path: str | Path) -> Iterator[None]:
    """Whatever is wrong with the file becomes a ValueError that names it; OSError is left to what cannot be read."""
    with open(path, "rb"):
        pass
    try:
        yield
    except _DAMAGED as error:
        if isinstance(error, OSError) and (type(error) is not OSError or error.errno not in (None, errno.EINVAL)):
            raise  # of the disk, or of a handler: what a damaged file asks for is a place that is none
        needs = ", or needs more memory than there is" if isinstance(error, MemoryError) else ""
        raise ValueError(f"{path} is not a whole and valid .npz file{needs}: {error}") from None


def read_arrays(path: str | Path) -> dict[str, np.ndarray]:
    """All arrays of a file. None is unpickled."""
    with reading(path), open(path, "rb") as file:
        with signals_held():  # zipfile takes any OSError, also that of a handler, for a file that is no archive
            archive = np.load(file, allow_pickle=False)
        with archive:
            return {name: archive[name] for name in archive.files}
