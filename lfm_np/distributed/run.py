"""A distributed run and its checkpoint: a file of the driver, with the items of the last two sweeps."""

from __future__ import annotations

from typing import Any

from lfm_np import paths
from lfm_np.atomic import check_place
from lfm_np.checkpoint import Run
from lfm_np.signals import pass_on
from lfm_np.validation import absolute, check_choice, check_path


class DriverRun(Run):
    """One call of `distributed.als`. The driver takes copies of V, with or without a file to write them to."""

    def __init__(self, checkpoint: Any, every: int, resume: Any, random_state: Any) -> None:
        check_choice("resume", resume, ("auto", "never"))
        self._every = every
        path = None if checkpoint is None else check_path("checkpoint", checkpoint)
        super().__init__(path, "distributed.als", random_state, anew=resume == "never")

    def follow(self, state: Any) -> None:
        """Keep this state from time to time."""
        self._followed = state

    def swept(self, history: list[dict[str, Any]], last: bool = False) -> None:
        if last:
            super().swept(history, last=True)
        elif len(history) % self._every == 0:
            self._followed.copy()
            super().swept(history, last=True)


def check_users_to(users_to: Any, checkpoint: Any) -> str | None:
    """Where the workers are to write, as an absolute path. What cannot be written is refused before the first sweep."""
    if users_to is None:
        return None
    path = absolute(check_path("users_to", users_to))
    if checkpoint is not None and paths.same(path, check_path("checkpoint", checkpoint)):
        raise ValueError(f"users_to must be another file than checkpoint, got {path} for both")
    try:
        check_place(path)
    except OSError as error:
        pass_on(error)
        raise type(error)(error.errno, f"users_to must be a file that can be made: {error.strerror}", path) from None
    return path
