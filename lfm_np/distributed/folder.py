"""Checkpoints of a distributed run: a folder that all workers share.

Every worker writes its users and items to files of their own, ``sweep-000010/users-00003`` and so on. Then the driver
writes the manifest, a checkpoint as `lfm_np.als` has it but without the factors, and removes the files of the sweep
before. All are written beside their place and renamed, the manifest last: a run that dies at any moment leaves the
sweep of the manifest whole.
"""

from __future__ import annotations

import errno
import os
import shutil
from typing import Any

import numpy as np

from lfm_np import persistence
from lfm_np.checkpoint import Run
from lfm_np.distributed.blocks import Items, Users, items_of
from lfm_np.kernels.als_rows import aligned
from lfm_np.validation import check_choice, check_path

PART = persistence.Format(
    "lfm_np.checkpoint.rows", "1", "part of a checkpoint", frozenset(), lambda shapes, dtypes: None
)
_MANIFEST, _SWEEP = "manifest", "sweep-"


class FolderRun(Run):
    """One call of `distributed.als` with its folder. Without one, the driver takes copies of V instead."""

    def __init__(self, folder: Any, every: int, resume: Any, random_state: Any) -> None:
        check_choice("resume", resume, ("auto", "never"))
        self._every = every
        self.folder: str | None = None
        if folder is not None:
            self.folder = os.path.abspath(check_path("checkpoint", folder))
            os.makedirs(self.folder, exist_ok=True)
        super().__init__(self.folder and os.path.join(self.folder, _MANIFEST), "distributed.als", random_state)
        if resume == "never":
            self._file = None

    def follow(self, state: Any) -> None:
        """Keep this state from time to time."""
        self._followed = state

    def swept(self, history: list[dict[str, Any]], last: bool = False) -> None:
        if self.folder is None:
            if len(history) % self._every == 0 and not last:
                self._followed.copy()
        elif len(history) > self._saved and (last or len(history) % self._every == 0):
            self._followed.write()
            super().swept(history, last=True)
            _forget_others(self.folder, len(history))


def _forget_others(folder: str, sweeps: int) -> None:
    """Remove the files of every other sweep."""
    for entry in os.scandir(folder):
        if entry.name.startswith(_SWEEP) and entry.path != _folder_of(folder, sweeps):
            shutil.rmtree(entry.path, ignore_errors=True)


def _folder_of(folder: Any, sweeps: int) -> str:
    return os.path.join(folder, f"{_SWEEP}{sweeps:06d}")


def place(folder: str, sweeps: int, noun: str, number: int) -> str:
    """The path of a part."""
    return os.path.join(_folder_of(folder, sweeps), f"{noun}-{number:05d}")


def write(path: str, part: Users | Items, width: int) -> None:
    """The first ``width`` columns of a shard's users, or of a block of items."""
    rows = part.U if isinstance(part, Users) else part.V
    os.makedirs(os.path.dirname(path), exist_ok=True)
    persistence.save(path, PART, {"rows": rows[:, :width]}, {})


def read(path: str, shape: tuple[int, int], width: int, dtype: Any) -> np.ndarray:
    """What `write` wrote, padded to ``shape`` again."""
    if not os.path.exists(path):
        raise FileNotFoundError(errno.ENOENT, "checkpoint must be a folder that all workers share; this has no", path)
    rows = persistence.load(path, PART)[0].get("rows")
    if rows is None or rows.shape != (shape[0], width) or rows.dtype != dtype or not np.isfinite(rows).all():
        raise persistence.invalid(
            path, PART, ValueError(f"it must hold finite {dtype} rows of shape {shape[0], width}")
        )
    padded = aligned(shape, dtype)
    padded[:, :width], padded[:, width:] = rows, 0
    return padded


def read_users(*arguments: Any) -> Users:
    return Users(read(*arguments), np.empty((0, 0)), 0.0, 0.0)


def read_items(*arguments: Any) -> Items:
    return items_of(read(*arguments))
