"""A distributed run and its checkpoint: a file of the driver, with the items of the last two sweeps."""

from __future__ import annotations

from typing import Any

from lfm_np.checkpoint import Run
from lfm_np.validation import check_choice, check_path


class DriverRun(Run):
    """One call of `distributed.als`. The driver takes copies of V, with or without a file to write them to."""

    def __init__(self, checkpoint: Any, every: int, resume: Any, random_state: Any) -> None:
        check_choice("resume", resume, ("auto", "never"))
        self._every = every
        super().__init__(
            None if checkpoint is None else check_path("checkpoint", checkpoint), "distributed.als", random_state
        )
        if resume == "never":
            self._file = None

    def follow(self, state: Any) -> None:
        """Keep this state from time to time."""
        self._followed = state

    def swept(self, history: list[dict[str, Any]], last: bool = False) -> None:
        if last:
            super().swept(history, last=True)
        elif len(history) % self._every == 0:
            self._followed.copy()
            super().swept(history, last=True)
