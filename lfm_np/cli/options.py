"""Arguments and options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from lfm_np.cli.sources import KINDS
from lfm_np.validation import MAX_THREADS

LONGEST = 2**31 - 1  # lists and data sets
DATA, MODEL_PANEL, FILES = "Data", "Model", "Files"

Source = Annotated[str, typer.Argument(metavar="DATA", help=f"Interactions: {KINDS}.", show_default=False)]
Model = Annotated[Path, typer.Argument(metavar="MODEL", help="A model file that `fit` wrote.", show_default=False)]
Fitted = Annotated[
    str | None,
    typer.Option(
        "--data",
        metavar="DATA",
        help="What the model was fitted to (the same users and items), where it is not beside it.",
    ),
]
Output = Annotated[
    Path | None,
    typer.Option(
        "--output", "-o", help="A .csv, .json or .parquet file; else a table on a terminal and CSV in a pipe."
    ),
]
Threads = Annotated[
    int | None, typer.Option(min=1, max=MAX_THREADS, help="By default all cores; the result does not depend on it.")
]
Length = Annotated[int, typer.Option("-n", min=1, max=LONGEST, help="Length of a list.")]
Seed = Annotated[int, typer.Option(min=0, help="Of everything that is drawn.")]

User = Annotated[str | None, typer.Option(help="Column of the users.", rich_help_panel=DATA)]
Item = Annotated[str | None, typer.Option(help="Column of the items.", rich_help_panel=DATA)]
Value = Annotated[
    str | None, typer.Option(help="Column of the values; without it every record counts 1.", rich_help_panel=DATA)
]
Timestamp = Annotated[str | None, typer.Option(help="Column of the times.", rich_help_panel=DATA)]
Threshold = Annotated[
    float | None,
    typer.Option(help="Only pairs whose value is at least this count, each as 1.", rich_help_panel=DATA),
]
Nulls = Annotated[str, typer.Option(help="Records with a null: error, drop or keep.", rich_help_panel=DATA)]
Delimiter = Annotated[str | None, typer.Option(help="Of CSV; by default a comma, in .tsv a tab.", rich_help_panel=DATA)]
Text = Annotated[
    list[str] | None,
    typer.Option(help="user or item: ids of a CSV that are text, such as 007; repeat.", rich_help_panel=DATA),
]


def say(text: Any) -> None:
    """A line for the reader, on standard error: standard output is for results."""
    typer.echo(text, err=True)
