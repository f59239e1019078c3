"""The command line. Needs the extra ``cli`` (typer and rich).

Exit status: 0, done; 1, a check failed (``crosscheck``, ``evaluate --at-least``); 2, a mistake in the command or its
input; 3, the arithmetic failed; 130, interrupted by Ctrl-C; 141, nobody reads the output any more.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from typing import Any

from lfm_np._starting import started
from lfm_np.errors import missing_extra


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status."""
    try:
        import rich  # noqa: F401
        import typer  # noqa: F401
    except ImportError as error:
        print(f"error: {missing_extra(error.name or 'typer', 'cli')}", file=sys.stderr)
        return 2
    _any_text(sys.stdout)
    try:
        started()
        from lfm_np.cli.app import app

        app(arguments, prog_name="lfm-np")
    except SystemExit as done:
        return int(done.code or 0)
    except KeyboardInterrupt:  # before a command has begun
        return 130
    return 0


def _any_text(stream: Any) -> None:
    """Ids and help may hold any text: a pipe gets UTF-8, as files do, and a terminal what it can show."""
    if isinstance(stream, io.TextIOWrapper):
        if stream.isatty():
            stream.reconfigure(errors="backslashreplace")
        else:
            stream.reconfigure(encoding="utf-8")
