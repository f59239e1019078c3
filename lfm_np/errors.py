"""The library's own exception."""

from __future__ import annotations

import sys
from typing import Any


class SolverError(RuntimeError):
    """The arithmetic of a solver failed. The message names the row or epoch and a remedy.

    Attributes
    ----------
    factors : Factors or None
        The last finite result, of the sweep before the failure; the start if the first sweep failed. In the
        canonical basis, as every result.
    """

    def __init__(self, message: str, factors: Any = None) -> None:
        super().__init__(message)
        self.factors = factors


class MissingExtraError(ImportError):
    """An optional dependency is not installed. The message is the pip command that installs it."""


_MODULES = {"scikit-learn": "sklearn", "faiss-cpu": "faiss"}  # of packages of another name


def missing_extra(package: str, extra: str) -> MissingExtraError:
    """The one sentence that every missing optional dependency gives, called where its import has failed."""
    return MissingExtraError(f"{package} {failed_import(package)}; install it with: pip install 'lfm_np[{extra}]'")


def failed_import(package: str) -> str:
    """Whether the package is absent or broken, called where its import has failed."""
    error, module = sys.exc_info()[1], _MODULES.get(package, package)
    absent = isinstance(error, ModuleNotFoundError) and str(error.name).partition(".")[0] == module
    return "is not installed" if absent else f"cannot be imported ({error})"
