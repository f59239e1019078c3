"""The commands together, and what becomes of errors."""

from __future__ import annotations

import os
import sys
from traceback import format_exception
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from lfm_np._version import __version__
from lfm_np.cli import checking, fitting, using
from lfm_np.errors import SolverError

MISTAKE, ARITHMETIC, INTERRUPTED, UNREAD = 2, 3, 130, 141


class _Guarded(TyperGroup):
    """Turns the library's errors into one line and an exit status."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python complains when it flushes
            raise typer.Exit(UNREAD) from None
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED) from None
        except (SolverError, MemoryError, ValueError, TypeError, OSError, ImportError) as error:
            if ctx.params["traceback"]:
                typer.echo("".join(format_exception(error)), err=True, nl=False)
            typer.echo(f"error: {_said(error)}", err=True)
            raise typer.Exit(ARITHMETIC if isinstance(error, (SolverError, MemoryError)) else MISTAKE) from None


def _said(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error) or ("not enough memory" if isinstance(error, MemoryError) else type(error).__name__)


app = typer.Typer(
    cls=_Guarded,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode="markdown",
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"lfm_np {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
    traceback: Annotated[bool, typer.Option("--traceback", help="Show where in the code an error arose.")] = False,
) -> None:
    """Latent factor models on the CPU: from a table of events to recommendations.

    Exit status: 0 done · 1 a check failed · 2 a mistake in the command or its input · 3 the arithmetic failed · 130
    interrupted.
    """


for command in (
    fitting.fit,
    using.recommend,
    using.similar,
    using.evaluate,
    using.update,
    using.report,
    checking.info,
    checking.crosscheck,
    checking.demo,
):
    app.command()(command)
