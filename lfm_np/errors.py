"""The library's own exception."""

from __future__ import annotations

from typing import Any


class SolverError(RuntimeError):
    """The arithmetic of a solver failed. The message names the row or epoch and a remedy.

    Attributes
    ----------
    factors : Factors or None
        The last finite result, of the sweep before the failure; the start if the first sweep failed.
    """

    def __init__(self, message: str, factors: Any = None) -> None:
        super().__init__(message)
        self.factors = factors


class MissingExtraError(ImportError):
    """An optional dependency is not installed. The message is the pip command that installs it."""


def missing_extra(package: str, extra: str) -> MissingExtraError:
    """The one sentence that every missing optional dependency gives."""
    return MissingExtraError(f"{package} is not installed; install it with: pip install 'lfm_np[{extra}]'")
