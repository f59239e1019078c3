"""Where interactions come from: tables, matrices and MovieLens, by the name of the source."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp

from lfm_np import datasets, npz_files
from lfm_np.cells import DUPLICATES
from lfm_np.interactions import Interactions
from lfm_np.reading import without_query
from lfm_np.splits import unknown
from lfm_np.validation import check_choice, check_matrix

NULLS = "error", "drop", "keep"
KINDS = ".parquet or a folder of such, .csv, .tsv, .npz, or movielens:NAME"
TEXTS = tuple(name + packed for name in (".csv", ".tsv") for packed in ("", ".gz", ".bz2", ".zst"))


class Columns(NamedTuple):
    """Which columns of a table are what, and which of its pairs count."""

    user: str = "user"
    item: str = "item"
    value: str | None = None
    timestamp: str | None = None
    threshold: float | None = None
    duplicates: str = "sum"
    nulls: str = "error"
    delimiter: str | None = None
    min_user_interactions: int = 1
    min_item_interactions: int = 1
    text: Sequence[str] = ()
    """Of "user" and "item": whose ids are text, whatever they look like in a CSV file."""
    types: Mapping[str, str] = {}
    """Of "user" and "item": Arrow's type of ids that a CSV file does not tell; of a model's own."""


def read(source: str, columns: Columns) -> Interactions:
    """The interactions of a source, as `read_values` gives them; with a threshold all have value 1."""
    data = read_values(source, columns)
    return data if columns.threshold is None else data.binarize()


def read_values(source: str, columns: Columns) -> Interactions:
    """The interactions of a source that count, with their values.

    Ids need no pickle: of bytes, objects such as UUIDs, and durations, for which CSV has no type, they are the text.

    Raises
    ------
    OSError, TypeError, ValueError
        It is not there, or not what its name says.
    """
    data = _read(source, columns)
    if {"O", "m", "S"}.intersection((data.users.dtype.kind, data.items.dtype.kind)):
        data = dataclasses.replace(data, users=_plain(source, data.users), items=_plain(source, data.items))
    if columns.threshold is not None:
        data = data._at_least(columns.threshold)
    least = columns.min_user_interactions, columns.min_item_interactions
    return data if least == (1, 1) else data.core(*least)  # empty rows and columns stay, unless asked


def _plain(source: str, ids: np.ndarray) -> np.ndarray:
    if ids.dtype.kind == "m":
        rounded = ids.astype("m8[us]")  # which are Python's; NumPy makes numbers of finer ones
        return np.array(list(map(str, (rounded if np.all(rounded == ids) else ids).tolist())), str)
    ends = (id[-1:] for id in ids if isinstance(id, (str, bytes)))
    if any(end == ("\0" if isinstance(end, str) else b"\0") for end in ends):  # which NumPy's text would lose
        raise ValueError(f"{source} has ids that end in NUL, which the file beside a model cannot keep")
    try:
        return ids.astype(str) if ids.dtype.kind in "OS" else ids
    except UnicodeDecodeError:
        raise ValueError(f"{source} has ids of bytes that are no text; only text will do here") from None


def _read(source: str, columns: Columns) -> Interactions:
    ending = without_query(source).lower()
    check_choice("nulls", columns.nulls, NULLS)
    check_choice("duplicates", columns.duplicates, DUPLICATES)
    if source.startswith("movielens:"):
        data = datasets.movielens(source.removeprefix("movielens:"))
        rated = columns.value or columns.threshold is not None
        return _known_cells(data if rated else data.binarize(), columns)
    if ending.endswith(".npz"):
        return _npz(source, columns)
    if "://" not in source and not Path(source).exists():
        raise FileNotFoundError(2, "No such file or folder", source)
    options: Any = {name: getattr(columns, name) for name in ("user", "item", "value", "timestamp")}
    options |= {"duplicates": columns.duplicates, "nulls": columns.nulls}
    if ending.endswith(TEXTS):
        types = {options[side]: type for side, type in columns.types.items()}
        types |= {options[side]: "string" for side in columns.text}
        delimiter = delimiter_of(source, columns.delimiter)
        return Interactions.from_csv(source, delimiter=delimiter, column_types=types, **options)
    if ending.endswith(".parquet") or "://" in source or Path(source).is_dir():
        return Interactions.from_parquet(source, **options)
    raise ValueError(f"{source}: data must be {KINDS}")


def delimiter_of(source: str, asked: str | None) -> str:
    """What separates the fields: a comma, or in a .tsv file a tab, unless another is asked for."""
    usual = "\t" if without_query(source).lower().endswith(tuple(name for name in TEXTS if ".tsv" in name)) else ","
    found = usual if asked is None else asked.replace("\\t", "\t")  # as one types it without $'…'
    if len(found) != 1 or not found.isascii() or found in '"\r\n\0':
        raise ValueError(f"delimiter must be one character, ASCII and no quote or line end, got {asked!r}")
    return found


def _npz(source: str, columns: Columns) -> Interactions:
    """A sparse matrix as scipy.sparse.save_npz writes it, with or without ids; or an array for each column."""
    arrays = npz_files.read_arrays(source)
    with npz_files.reading(source):
        matrix = sp.load_npz(source) if np.ndim(arrays.get("format", ())) == 0 else None  # else it is a column
    if matrix is not None:
        if matrix.ndim != 2:
            raise ValueError(f"{source} must hold a matrix, got one of {matrix.ndim} dimensions")
        m, n = matrix.shape
        ids = arrays.get("users", np.arange(m)), arrays.get("items", np.arange(n))
        if columns.duplicates == "sum" and "timestamps" not in arrays:  # else a cell that is stored twice is refused
            matrix = check_matrix("matrix", matrix, zeros="keep", negative=True, unknown=True)
        make = Interactions._own if matrix.format == "csr" else Interactions
        return _known_cells(make(matrix, *ids, timestamps=arrays.get("timestamps")), columns)

    def column(name: str | None) -> Any:
        if name is not None and name not in arrays:
            raise ValueError(f"{source} has no array {name!r}; there is {', '.join(sorted(arrays))}")
        return None if name is None else arrays[name]

    parts = _without_nulls([(name, column(name)) for name in columns[:4]], columns.nulls)
    return Interactions.from_arrays(*parts, duplicates=columns.duplicates)


def _known_cells(data: Interactions, columns: Columns) -> Interactions:
    """The cells of a matrix, unknown values, and times if they are asked for, dealt with as in tables."""
    if columns.nulls == "keep":
        return data
    null = [("value", np.isnan(data.matrix.data))]
    if columns.timestamp is not None and data.timestamps is not None:
        null.append(("timestamp", unknown(data.timestamps)))
    bad = _nulls(null, columns.nulls)
    return data.select(~bad) if bad.any() else data


def _without_nulls(named: list[tuple[str | None, Any]], nulls: str) -> list[Any]:
    """The columns of an .npz, NaN and NaT dealt with as in tables."""
    arrays = [array for _, array in named]
    shapes = {array.shape for array in arrays if array is not None}
    if nulls == "keep" or len(shapes) > 1 or any(len(shape) != 1 for shape in shapes):
        return arrays  # other shapes `from_arrays` refuses by name
    bad = _nulls([(name, array != array) for name, array in named if array is not None], nulls)
    return [None if array is None else array[~bad] for array in arrays]


def _nulls(null: list[tuple[Any, Any]], nulls: str) -> Any:
    """Which records have a null somewhere; ValueError if there are such, and it is to be one."""
    bad = np.logical_or.reduce([where for _, where in null])
    if nulls == "error" and bad.any():
        found = ", ".join(f"{count} in {name!r}" for name, where in null if (count := int(where.sum())))
        raise ValueError(
            f"of {len(bad)} records some have nulls: {found}. nulls='drop' leaves these records out; nulls='keep' "
            "makes values and times unknown"
        )
    return bad
