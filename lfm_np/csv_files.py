"""How a CSV file is to be read, and what became of ids whose type Arrow had to guess."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import csv, dataset

from lfm_np import validation as check
from lfm_np.reading import NULL_TEXTS


def csv_format(delimiter: Any, column_names: Any, column_types: Any) -> tuple[dataset.CsvFileFormat, dict[str, Any]]:
    """The format that `Interactions.from_csv` asks for, and the types that are not to be guessed."""
    if column_types is not None and not isinstance(column_types, Mapping):
        raise TypeError(f"column_types must be a mapping of names to types, got {check.shown(column_types)}")
    types = {name: _check_type(name, kind) for name, kind in (column_types or {}).items()}
    format = dataset.CsvFileFormat(
        parse_options=csv.ParseOptions(delimiter=_check_delimiter(delimiter), newlines_in_values=True),
        read_options=csv.ReadOptions(column_names=_check_column_names(column_names)),
        convert_options=csv.ConvertOptions(
            column_types=types,
            null_values=sorted(NULL_TEXTS),
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        ),
    )
    return format, types


def _check_delimiter(delimiter: Any) -> str:
    if not isinstance(delimiter, str) or len(delimiter) != 1 or not delimiter.isascii() or delimiter in '"\r\n':
        raise ValueError(
            f"delimiter must be one character, ASCII and no quote or line end, got {check.shown(delimiter)}"
        )
    return delimiter


def _check_column_names(names: Any) -> list[str] | None:
    if names is None:
        return None
    if isinstance(names, str) or not isinstance(names, Sequence) or not all(isinstance(name, str) for name in names):
        raise TypeError(f"column_names must be a sequence of strings, got {check.shown(names)}")
    return list(names)


def _check_type(name: str, kind: Any) -> pa.DataType:
    try:
        return pa.type_for_alias(kind) if isinstance(kind, str) else pa.field(name, kind).type
    except (TypeError, ValueError) as error:
        raise ValueError(f"column_types[{name!r}] must be an Arrow type or its name: {error}") from None


def refuse_misread(argument: str, name: str, ids: np.ndarray, types: Mapping[str, Any]) -> None:
    """Of columns whose type was guessed: integers that were rounded to floats, and text of another encoding."""
    if name in types:
        return
    remedy = f"say what they are by column_types={{{name!r}: 'string'}}"
    if ids.dtype.kind == "f" and len(ids) and np.abs(ids).max() >= 2**53:
        raise ValueError(f"{argument} has numbers beyond 2⁵³, which were read as floats and are rounded; {remedy}")
    if ids.dtype == object and len(ids) and isinstance(ids[0], bytes):
        raise ValueError(f"{argument} is not UTF-8; bring the file to UTF-8, or take bytes by 'binary' in column_types")
