"""Tables out: CSV, JSON or Parquet by the ending of the file; on a terminal a drawn table, in a pipe CSV."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, TextIO

import numpy as np

from lfm_np.atomic import check_place, replacing
from lfm_np.errors import missing_extra

FORMATS = ("csv", "json", "parquet")
Columns = dict[str, Any]  # arrays or lists of one length
_Rows = Callable[[Columns], None]


def write(parts: Iterable[Columns], output: Path | None) -> int:
    """Write a table that comes in parts; returns its number of rows.

    Parameters
    ----------
    parts : iterable of dict
        Each with the same columns. One part is in memory at a time, but for a terminal and Parquet's row groups.
    output : path or None
        A file, written in one step; None is standard output.
    """
    rows = 0
    with _writer(output) as add:
        for part in parts:
            add(part)
            rows += len(next(iter(part.values())))
    return rows


def check_output(output: Path | None, formats: tuple[str, ...] = FORMATS) -> None:
    """Refuse an ending that stands for no format, before any work is done."""
    if output is not None and output.suffix.lower().removeprefix(".") not in formats:
        endings = ", ".join(f".{name}" for name in formats)
        raise ValueError(f"{output}: the output must end in one of {endings}")
    if output is not None:
        check_place(output)


@contextlib.contextmanager
def _writer(output: Path | None) -> Iterator[_Rows]:
    if output is None:
        with _drawn() if sys.stdout.isatty() else _csv(sys.stdout) as add:
            yield add
        return
    check_output(output)
    with replacing(output) as file:
        if output.suffix.lower() == ".parquet":
            with _parquet(file) as add:
                yield add
            return
        form = _csv if output.suffix.lower() == ".csv" else _json
        text = io.TextIOWrapper(file, encoding="utf-8", newline="")
        with form(text) as add:
            yield add
        text.flush()
        text.detach()  # the file is closed by what opened it


def _lines(part: Columns) -> Iterator[tuple[Any, ...]]:
    return zip(*(column.tolist() if isinstance(column, np.ndarray) else column for column in part.values()))


@contextlib.contextmanager
def _csv(file: TextIO) -> Iterator[_Rows]:
    table, begun = csv.writer(file, lineterminator="\n"), False

    def add(part: Columns) -> None:
        nonlocal begun
        if not begun:
            table.writerow(part)
        begun = True
        table.writerows(_lines(part))

    yield add


@contextlib.contextmanager
def _json(file: TextIO) -> Iterator[_Rows]:
    """An array with an object for each row."""
    separator = "["

    def add(part: Columns) -> None:
        nonlocal separator
        for line in _lines(part):
            file.write(separator + "\n" + json.dumps(dict(zip(part, line)), ensure_ascii=False, default=str))
            separator = ","

    yield add
    file.write("[]\n" if separator == "[" else "\n]\n")


@contextlib.contextmanager
def _parquet(file: BinaryIO) -> Iterator[_Rows]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise missing_extra("pyarrow", "io") from None
    writer: list[Any] = []

    def add(part: Columns) -> None:
        table = pa.table({name: pa.array(column) for name, column in part.items()})
        if not writer:
            writer.append(pq.ParquetWriter(file, table.schema))
        writer[0].write_table(table)

    try:
        yield add
    finally:
        if writer:
            writer[0].close()


@contextlib.contextmanager
def _drawn() -> Iterator[_Rows]:
    """A table drawn by rich, which needs all rows to choose the widths."""
    from rich.console import Console
    from rich.table import Table

    tables: list[Table] = []

    def add(part: Columns) -> None:
        if not tables:
            tables.append(Table(header_style="bold", box=None))
            for name, column in part.items():
                numeric = np.asarray(column).dtype.kind in "iuf"
                tables[0].add_column(name, justify="right" if numeric else "left", overflow="fold")
        for line in _lines(part):
            tables[0].add_row(*(f"{cell:.4f}" if isinstance(cell, float) else str(cell) for cell in line))

    yield add
    Console().print(*tables)
