"""What there is at a path, and below it.

The functions of `os.path` take every OSError for a "no", also the TimeoutError that a signal's handler raises.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

from lfm_np.signals import signals_held

AnyPath: TypeAlias = "str | os.PathLike[str]"


def exists(path: AnyPath) -> bool:
    with signals_held():
        return os.path.exists(path)


def is_file(path: AnyPath) -> bool:
    with signals_held():
        return os.path.isfile(path)


def is_folder(path: AnyPath) -> bool:
    with signals_held():
        return os.path.isdir(path)


def real(path: AnyPath) -> str:
    """Where links lead."""
    with signals_held():
        return os.path.realpath(path)


def same(path: AnyPath, other: AnyPath) -> bool:
    """Whether both are one file or folder, also where capitals or forms of accents make no difference, as on macOS."""
    one, two = real(path), real(other)
    if one == two or _folded(one) != _folded(two):
        return one == two
    with signals_held():
        return os.path.exists(one) and os.path.exists(two) and os.path.samefile(one, two)


def _folded(path: str) -> str:
    return unicodedata.normalize("NFC", path).casefold()


@contextlib.contextmanager
def temporary_folder(within: Path) -> Iterator[Path]:
    """A new folder that is gone afterwards."""
    made: list[str] = []

    def end() -> None:
        with signals_held():
            while made:
                with contextlib.suppress(FileNotFoundError):  # gone with a folder around it
                    shutil.rmtree(made[-1])
                made.pop()

    try:
        with signals_held():
            made.append(tempfile.mkdtemp(dir=within))
        yield Path(made[0])
    finally:
        try:
            end()
        except BaseException:  # a handler raised before it could begin
            end()
            raise


def files_below(folder: str) -> list[str]:
    """The names of all files in a folder and the folders in it, wherever these are.

    Raises
    ------
    ValueError
        A link leads back to a folder that it is in: whoever followed it would read every file again and again.
    """
    names: list[str] = []
    above = {folder: (real(folder), frozenset[str]())}  # of each folder to come: where it is, and those above
    with signals_held():
        for place, folders, files in os.walk(folder, followlinks=True):
            names += files
            here, around = above.pop(place)
            around |= {here}
            for name in folders:
                inside = os.path.join(place, name)
                there = os.path.realpath(inside) if os.path.islink(inside) else os.path.join(here, name)
                if there in around:
                    raise ValueError(f"path must hold no links in circles, got {inside}, which leads back to {there}")
                above[inside] = there, around
    return names
