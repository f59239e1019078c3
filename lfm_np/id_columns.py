"""Columns of ids, as Arrow arrays: numbered as they stream by, and made from NumPy ids again.

Ids of one column must be of one of Arrow's sortable types; they become

* a NumPy array of the same dtype: integers, floats, booleans, durations, dates and times without a time zone;
* an array of Python objects: strings, bytes, `uuid.UUID`, `decimal.Decimal`, times of day or with a time zone.

Strings stay Python's because NumPy's lose trailing NUL characters and take the room of the longest everywhere.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lfm_np.arrow_records import check_arrow
from lfm_np.signals import pass_on

_MERGE = 1 << 18  # records that wait, before their ids are merged with those before
_ID_COPIES, _ID_BYTES = 4, 160  # of distinct ids while they are merged, sorted and written: measured


class IdEncoder:
    """Numbers the ids of a column that comes in batches; only distinct ids and int32 numbers are kept.

    At least ``merge`` records wait before their ids are merged with those before.
    """

    def __init__(self, name: str, type: pa.DataType, merge: int | None = None) -> None:
        self._least = merge or _MERGE
        if pa.types.is_dictionary(type):
            type = type.value_type
        self._is_uuid = isinstance(type, pa.UuidType)
        self._type = _sortable_type(name, type)
        self._distinct = pa.array([], self._type)
        self._pending: list[pa.DictionaryArray] = []
        self._waiting = 0
        self._codes: list[np.ndarray] = []

    def add(self, ids: pa.Array) -> None:
        """Take the ids of some records, none null."""
        if pa.types.is_dictionary(ids.type):
            ids = ids.dictionary_decode()
        ids = ids.storage if self._is_uuid else ids.cast(self._type)
        if pa.types.is_floating(self._type):
            ids = pc.add(ids, pa.scalar(0.0, self._type))  # −0 is 0, and Arrow would number them apart
        encoded = ids.dictionary_encode()
        self._pending.append(encoded)
        self._waiting += len(ids)
        if self._waiting > max(self._least, len(self._distinct)):  # so that all merges cost O(records)
            self._merge()

    def _merge(self) -> None:
        known = pa.DictionaryArray.from_arrays(pa.array([], pa.int32()), self._distinct)
        known, *pending = pa.chunked_array([known, *self._pending]).unify_dictionaries().chunks
        if not known.dictionary.slice(0, len(self._distinct)).equals(self._distinct):  # as Arrow does, but does not say
            raise RuntimeError("this version of Arrow numbers ids anew as it unifies dictionaries; take pyarrow 26")
        self._distinct = known.dictionary  # begins with those known before, so their numbers stand
        self._codes += [chunk.indices.to_numpy() for chunk in pending]
        self._pending, self._waiting = [], 0

    @property
    def memory(self) -> int:
        """Bytes that the distinct ids so far take, until they are written."""
        return _ID_COPIES * self._distinct.nbytes + _ID_BYTES * len(self._distinct)

    def drain(self) -> list[np.ndarray]:
        """The numbers of the records so far, by the first occurrence of their ids, but for those that wait."""
        codes, self._codes = self._codes, []
        return codes

    def distinct(self) -> tuple[pa.Array, np.ndarray]:
        """At the end: the distinct ids, ascending, and the place among them of each number (int32)."""
        self._merge()
        order = pc.sort_indices(self._distinct)
        place = np.empty(len(order), np.int32)
        place[order.to_numpy()] = np.arange(len(order), dtype=np.int32)
        ids = self._distinct.take(order)
        return pa.ExtensionArray.from_storage(pa.uuid(), ids) if self._is_uuid else ids, place

    def finish(self) -> tuple[np.ndarray, np.ndarray]:
        """The distinct ids, ascending, and the place of each record's id among them (int32)."""
        ids, place = self.distinct()
        codes = joined(self._codes, np.dtype(np.int32))
        np.take(place, codes, out=codes)
        return to_numpy(ids), codes


def joined(parts: list[np.ndarray], dtype: np.dtype) -> np.ndarray:
    """The parts in one new array; they leave the list as they are copied, so that little is in memory twice."""
    whole = np.empty(sum(map(len, parts)), dtype)
    parts.reverse()
    end = 0
    while parts:
        part = parts.pop()
        whole[end : end + len(part)] = part
        end += len(part)
    return whole


def workable_type(type: pa.DataType, argument: str | None = None) -> pa.DataType:
    """The type to work with: Arrow can do little with views and small decimals, and but for ids no dictionary helps."""
    if pa.types.is_dictionary(type):
        inner = workable_type(type.value_type, argument)
        return type if inner == type.value_type and argument in ("user", "item") else inner
    if pa.types.is_string_view(type):
        return pa.large_string()
    if pa.types.is_binary_view(type):
        return pa.large_binary()
    if pa.types.is_decimal(type) and type.bit_width < 128:
        return pa.decimal128(type.precision, type.scale)
    return type


def workable(column: Any, argument: str) -> Any:
    """A column of that type."""
    type = workable_type(column.type, argument)
    if type == column.type:
        return column
    check_arrow(column)
    if not pa.types.is_dictionary(column.type):
        return column.cast(type)
    parts = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    return pa.chunked_array([_decoded(part, type) for part in parts], type)


def _decoded(part: pa.DictionaryArray, type: pa.DataType) -> pa.Array:
    return part.dictionary.cast(type).take(part.indices)


def _sortable_type(name: str, type: pa.DataType) -> pa.DataType:
    """The type to number ids of ``type`` by; TypeError where there is none."""
    type = workable_type(type, name)
    if isinstance(type, pa.UuidType):
        return type.storage_type
    if pa.types.is_string(type):
        return pa.large_string()  # with 64-bit offsets: sixty million distinct UUIDs are 2 GiB of text
    if pa.types.is_binary(type):
        return pa.large_binary()
    if pa.types.is_float16(type):
        return pa.float32()
    if pa.types.is_null(type):
        return pa.large_string()  # an empty column, or one whose nulls are counted elsewhere
    if pa.types.is_nested(type) or pa.types.is_interval(type) or isinstance(type, pa.BaseExtensionType):
        raise TypeError(
            f"{name} must hold integers, strings, UUIDs, dates or other ids of one sortable kind, got {type}"
        )
    return type


def to_numpy(ids: pa.Array) -> np.ndarray:
    """Arrow ids without nulls as this module's docstring says."""
    types = pa.types
    plain = types.is_integer(ids.type) or types.is_floating(ids.type) or types.is_boolean(ids.type)
    plain = plain or (types.is_timestamp(ids.type) and ids.type.tz is None) or types.is_date(ids.type)
    plain = plain or types.is_duration(ids.type)
    if plain:
        return ids.to_numpy(zero_copy_only=False)
    array = np.empty(len(ids), object)
    array[:] = ids.to_pylist()
    return array


def to_arrow(ids: np.ndarray) -> pa.Array:
    """The ids of an `Interactions`, or some of them, as an Arrow array."""
    try:
        return _whole(_inferred(ids) if ids.dtype == object else pa.array(_arrows(ids)))
    except (pa.ArrowException, OverflowError, UnicodeError) as error:
        pass_on(error)
        raise TypeError(f"ids of {ids.dtype} cannot become a column of a table: {error}") from None


def _whole(ids: pa.Array | pa.ChunkedArray) -> pa.Array:
    """Of more than 2 GiB of text or bytes Arrow makes several arrays; one needs offsets of 64 bits."""
    if isinstance(ids, pa.Array):
        return ids
    return ids.cast(pa.large_string() if pa.types.is_string(ids.type) else pa.large_binary()).combine_chunks()


def _arrows(ids: np.ndarray) -> np.ndarray:
    """In the machine's order of bytes, times in a unit that Arrow has, text as objects where Arrow would cut it."""
    ids = ids.astype(ids.dtype.newbyteorder("="), copy=False)
    if ids.dtype.kind in "mM":
        usual = {"Y": "D", "M": "D", "W": "D"} if ids.dtype.kind == "M" else {"W": "s", "D": "s"}
        unit = {**usual, "h": "s", "m": "s"}.get(np.datetime_data(ids.dtype)[0])
        return ids if unit is None else ids.astype(f"{ids.dtype.kind}8[{unit}]")
    return ids.astype(object) if _has_nul(ids) else ids


def _has_nul(ids: np.ndarray) -> bool:
    """Whether texts or bytes have a NUL before other characters."""
    if ids.dtype.kind not in "US" or not ids.size or ids.dtype.itemsize == 0:
        return False
    kind = np.uint32 if ids.dtype.kind == "U" else np.uint8
    codes = np.ascontiguousarray(ids).view(kind).reshape(len(ids), -1)
    return bool(((codes[:, :-1] == 0) & (codes[:, 1:] != 0)).any())


def frame_column(series: Any) -> pa.Array:
    """A column of a frame: a series of narwhals. TypeError, with its name, where Arrow has no such type."""
    from narwhals import Object

    try:
        return _object_column(series.to_list()) if series.dtype == Object else _series_column(series)
    except (pa.ArrowException, OverflowError, UnicodeEncodeError) as error:
        pass_on(error)
        raise TypeError(
            f"column {series.name!r} of frame holds values of several kinds, or of one that Arrow lacks: {error}"
        ) from None


def _series_column(series: Any) -> pa.Array:
    """pandas may hold numbers in the other byte order, or sparse, neither of which Arrow takes."""
    dtype = getattr(series.to_native(), "dtype", None)
    if isinstance(dtype, np.dtype) and not dtype.isnative:
        return pa.array(series.to_numpy().astype(dtype.newbyteorder("=")))
    try:
        return series.to_arrow()
    except pa.ArrowException:
        if series.implementation.is_polars():  # has integers of 128 bits, which NumPy has not either
            raise
        native = series.to_native()
        if isinstance(native, pa.ChunkedArray) and pa.types.is_dictionary(native.type):  # that hold nulls themselves
            return pa.chunked_array([chunk.dictionary_decode() for chunk in native.chunks]).combine_chunks()
        values = series.to_numpy()
        if values.dtype == object:
            raise
        return pa.array(values)


def _object_column(values: list[Any]) -> pa.Array:
    """Python objects as an Arrow array.

    Objects of several kinds, which Arrow would take for one another (text and bytes, a date and a time of that day),
    are refused.
    """
    array = _inferred(values)
    if not pa.types.is_nested(array.type):
        for value, kept in zip(values, array.to_pylist()):
            if kept is not None and kept != value:
                raise pa.ArrowTypeError(f"{value!r} would become {kept!r}")
    return array


def _inferred(values: Sequence[Any] | np.ndarray) -> pa.Array:
    """Objects as what Arrow infers, and what it does not: UUIDs in every version, and the nanoseconds of pandas."""
    first = next((value for value in values if value is not None), None)
    if isinstance(first, uuid.UUID):
        storage = [value.bytes if isinstance(value, uuid.UUID) else value for value in values]
        return pa.ExtensionArray.from_storage(pa.uuid(), pa.array(storage, pa.binary(16), from_pandas=True))
    array = pa.array(values, from_pandas=True)
    if pa.types.is_timestamp(array.type) and any(getattr(value, "nanosecond", 0) for value in values):
        return pa.array(values, pa.timestamp("ns", array.type.tz), from_pandas=True)
    if pa.types.is_duration(array.type) and any(getattr(value, "nanoseconds", 0) for value in values):
        return pa.array(values, pa.duration("ns"), from_pandas=True)
    return array
