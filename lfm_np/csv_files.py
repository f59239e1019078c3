"""How a CSV file is to be read, and what became of ids whose type Arrow had to guess."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import csv, dataset

from lfm_np import validation as check
from lfm_np.reading import NULL_TEXTS
from lfm_np.signals import pass_on

_HINTS = {
    "CSV conversion error": "; types are guessed from the first lines; say what a column is by "
    "column_types={'user': 'string'}",
    "straddling object": "; it has a line of more than 1 MiB, the most that is read at once",
    "Empty CSV file": "; a file needs a line of names, with a line break after it",
}


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


def typed(source: dataset.Dataset, names: Iterable[str]) -> dataset.Dataset:
    """The data set with columns whose type its first file does not tell, for want of lines, as a later one has them."""
    whole = schema = source.schema
    untold = {name for name in names if name in schema.names and pa.types.is_null(schema.field(name).type)}
    for fragment in source.get_fragments() if untold and len(source.files) > 1 else ():
        own = fragment.physical_schema
        for name in sorted(untold.intersection(own.names)):
            if not pa.types.is_null(own.field(name).type):
                schema = schema.set(schema.get_field_index(name), own.field(name))
                untold.remove(name)
        if not untold:
            break
    return source if schema is whole else source.replace_schema(schema)


def hint(error: Exception) -> str:
    """What to do about an error of Arrow's, if that is known."""
    return next((remedy for words, remedy in _HINTS.items() if words in str(error)), "")


def _check_delimiter(delimiter: Any) -> str:
    if not isinstance(delimiter, str) or len(delimiter) != 1 or not delimiter.isascii() or delimiter in '"\r\n\0':
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


def _check_type(name: Any, kind: Any) -> pa.DataType:
    if not isinstance(name, str):
        raise TypeError(f"column_types must have names of columns, got {check.shown(name)}")
    try:
        return pa.type_for_alias(kind) if isinstance(kind, str) else pa.field(name, kind).type
    except (TypeError, ValueError) as error:
        pass_on(error)
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
