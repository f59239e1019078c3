"""Tables out: CSV, JSON or Parquet by the ending of the file; on a terminal a drawn table, in a pipe CSV."""

from __future__ import annotations

import csv
import io
import json
import math
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from lfm_np import paths
from lfm_np.atomic import check_place, replacing
from lfm_np.errors import missing_extra
from lfm_np.reading import NULL_TEXTS
from lfm_np.recommendations import write_parquet

FORMATS = ("csv", "json", "parquet")
Columns = dict[str, Any]  # arrays or lists of one length
_SEEN = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160))}  # what a terminal would obey


def write(parts: Iterable[Columns], output: Path | None, delimiter: str = ",") -> int:
    """Write a table that comes in parts; returns its number of rows.

    Parameters
    ----------
    parts : iterable of dict
        At least one, each with the same columns. One part is in memory at a time, but for a terminal.
    output : path or None
        A file, written in one step; None is standard output.
    delimiter : str
        Of CSV.
    """
    rows = 0

    def counted() -> Iterator[Columns]:
        nonlocal rows
        for part in parts:
            rows += len(next(iter(part.values())))
            yield part

    check_output(output)
    if output is None and sys.stdout is None:
        raise OSError("standard output is closed")
    if output is None:
        _drawn(counted()) if sys.stdout.isatty() else _csv(counted(), sys.stdout, delimiter)
    elif output.suffix.lower() == ".parquet":
        _parquet(counted(), output)
    else:
        with replacing(output) as file:
            text = io.TextIOWrapper(file, encoding="utf-8", newline="")
            if output.suffix.lower() == ".csv":
                _csv(counted(), text, delimiter)
            else:
                _json(counted(), text)
            text.flush()
            text.detach()  # the file is closed by what opened it
    return rows


def check_output(output: Path | None, formats: tuple[str, ...] = FORMATS) -> None:
    """Refuse an ending that stands for no format, before any work is done."""
    if output is not None and output.suffix.lower().removeprefix(".") not in formats:
        endings = ", ".join(f".{name}" for name in formats)
        raise ValueError(f"{output}: the output must end in one of {endings}")
    if output is not None:
        check_place(output)


def check_distinct(files: dict[str, Any]) -> None:
    """Refuse one file for two purposes, or one in a folder that is read as a whole. None is no file."""
    names: dict[str, str] = {}
    for name, file in files.items():
        if file is None:
            continue
        for path, other in names.items():
            if paths.same(file, path):
                raise ValueError(f"{name} must be another file than {other}, got {file} for both")
            if paths.is_folder(path) and any(paths.same(above, path) for above in Path(paths.real(file)).parents):
                raise ValueError(f"{name} must not be in the folder {other}, of which all files are read: {file}")
        names[paths.real(file)] = name


def _lines(part: Columns) -> Iterator[tuple[Any, ...]]:
    return zip(*map(cells, part.values()))


def cells(column: Any) -> Any:
    """Python's values; the text of times beyond Python's, such as of nanoseconds, of which NumPy makes numbers."""
    if not isinstance(column, np.ndarray):
        return column
    cells = column.tolist()
    if column.dtype.kind != "M" or not any(isinstance(cell, int) for cell in cells):
        return cells
    texts = np.datetime_as_string(column).tolist()
    return [None if cell is None else text.replace("T", " ") for cell, text in zip(cells, texts)]


def _csv(parts: Iterable[Columns], file: TextIO, delimiter: str) -> None:
    plain, quoted = (
        csv.writer(file, delimiter=delimiter, lineterminator="\n", quoting=quoting)
        for quoting in (csv.QUOTE_MINIMAL, csv.QUOTE_NONNUMERIC)
    )
    for number, part in enumerate(parts):
        if number == 0:
            (quoted if _needs_quotes(list(part)) else plain).writerow(part)
        if any(map(_needs_quotes, part.values())):
            quoted.writerows([math.nan if cell is None else cell for cell in line] for line in _lines(part))
        else:
            plain.writerows(_lines(part))


def _needs_quotes(column: Any) -> bool:
    """Whether there is text that would come back as null, or as the end of a line (csv sees to that from 3.13 on)."""
    if np.asarray(column).dtype.kind not in "OU":
        return False
    return any(isinstance(text, str) and (text in NULL_TEXTS or "\r" in text) for text in column)


def _json(parts: Iterable[Columns], file: TextIO) -> None:
    """An array with an object for each row; JSON has no NaN but null."""
    separator = "["
    for part in parts:
        for line in _lines(part):
            known = (None if isinstance(cell, float) and not math.isfinite(cell) else cell for cell in line)
            file.write(separator + "\n" + json.dumps(dict(zip(part, known)), ensure_ascii=False, default=str))
            separator = ","
    file.write("[]\n" if separator == "[" else "\n]\n")


def _parquet(parts: Iterable[Columns], path: Path) -> None:
    try:
        import pyarrow as pa
    except ImportError:
        raise missing_extra("pyarrow", "io") from None
    from lfm_np.id_columns import to_arrow

    def column(values: Any) -> Any:
        return to_arrow(values) if isinstance(values, np.ndarray) else values

    write_parquet(
        path,
        (pa.RecordBatch.from_pydict({name: column(values) for name, values in part.items()}) for part in parts),
    )


def _drawn(parts: Iterable[Columns]) -> None:
    """A table drawn by rich, which needs all rows to choose the widths."""
    from rich.console import Console
    from rich.table import Table

    table = Table(header_style="bold", box=None)
    for number, part in enumerate(parts):
        for name, column in part.items() if number == 0 else ():
            numeric = np.asarray(column).dtype.kind in "iuf"
            table.add_column(name, justify="right" if numeric else "left", overflow="fold")
        for line in _lines(part):
            table.add_row(*(f"{cell:.4f}" if isinstance(cell, float) else str(cell).translate(_SEEN) for cell in line))
    Console(markup=False, emoji=False).print(table)  # an id may look like either
