"""Optional packages, programs and data.

Absent, a test is skipped; listed in LFM_NP_REQUIRE (as in CI), it fails instead.
"""

import importlib
import os
import shutil
from pathlib import Path

import pytest

PROGRAMS = {"chromium"}


def _absent(name, reason):
    required = [part.strip() for part in os.environ.get("LFM_NP_REQUIRE", "").split(",")]
    if name in required:
        pytest.fail(f"{reason}, and LFM_NP_REQUIRE lists {name!r}")
    pytest.skip(reason)


def require(name, file=None):
    """The module ``name``, the path of a program, or for ``require("data", "ml-1m.npz")`` of a file of LFM_NP_DATA."""
    if name == "data":
        path = Path(os.environ.get("LFM_NP_DATA", "")) / (file or "")
        if os.environ.get("LFM_NP_DATA") and path.exists():
            return path
        return _absent("data", f"LFM_NP_DATA has no {file or 'such folder'}")
    if name in PROGRAMS:
        return shutil.which(name) or _absent(name, f"{name} is not installed")
    try:
        return importlib.import_module(name)
    except ImportError:
        return _absent(name, f"{name} is not installed")
