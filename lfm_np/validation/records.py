"""Ids, pairs and the columns of records."""

from __future__ import annotations

import contextlib
import datetime
import re
from collections.abc import Iterator, Sequence, Set
from typing import Any

import numpy as np

from lfm_np.quiet import quietly
from lfm_np.signals import signals_held
from lfm_np.validation.scalars import as_array, check_float, check_int, is_whole, shown

_ROOM, _SPRAWL = 1 << 24, 16  # characters that strings may take in any case, and times what they are
BEYOND_FLOAT32 = 2.0**128 - 2.0**103  # the least that float32 rounds to infinity


def check_ids(name: str, ids: Any, size: int) -> np.ndarray:
    """Row numbers as an int64 array of shape (N,) (a scalar gives one element), each in [0, size)."""
    array = as_array(name, ids)
    if array.size == 0 and array.dtype == np.float64:
        array = array.astype(np.int64)  # np.asarray([]) is float64
    elif array.dtype == np.float64 and isinstance(ids, (list, tuple)) and all(map(is_whole, ids)):
        array = np.asarray([int(i) for i in ids])  # of int64 and uint64 together NumPy makes float64
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name} must be integers, got dtype {array.dtype}")
    if array.ndim > 1:
        raise ValueError(f"{name} must be a scalar or one-dimensional, got shape {array.shape}")
    array = np.atleast_1d(array)
    if array.size:
        low, high = array.min(), array.max()
        if not size:
            raise ValueError(f"{name} must be none, as there are none, got {low}")
        if low < 0 or high >= size:
            raise ValueError(f"{name} must be from 0 to {size - 1}, got {low if low < 0 else high}")
    return np.ascontiguousarray(array, dtype=np.int64)


def check_id(name: str, value: Any, size: int) -> int:
    """One row number in [0, size)."""
    ids = check_ids(name, value, size)
    if np.ndim(value) or len(ids) != 1:
        raise TypeError(f"{name} must be one integer, got {shown(value)}")
    return int(ids[0])


def check_positions(name: str, positions: Any, size: int) -> np.ndarray:
    """Integers in [0, size), in an array of any shape."""
    array = as_array(name, positions)
    return check_ids(name, array.ravel(), size).reshape(array.shape)


def check_mask(name: str, mask: Any, size: int) -> np.ndarray:
    """A bool array of shape (size,)."""
    array = as_array(name, mask)
    if array.dtype != np.bool_:
        raise TypeError(f"{name} must be a bool array, got dtype {array.dtype}")
    if array.shape != (size,):
        raise ValueError(f"{name} must have shape ({size},), got {array.shape}")
    return array


def check_pairs(pairs: Any) -> np.ndarray:
    """``pairs`` as an integer array of shape (N, 2) with nothing negative; an empty list has N = 0."""
    array = as_array("pairs", pairs)
    if array.size == 0 and (array.ndim == 1 or array.shape[1:] == (2,)):
        return np.zeros((0, 2), np.int64)
    if array.dtype.kind not in "iu":
        raise TypeError(f"pairs must be integers, got dtype {array.dtype}; Interactions takes ids of any kind")
    if array.ndim != 2 or array.shape[1] != 2:
        raise ValueError(f"pairs must have shape (N, 2), got {array.shape}")
    if array.min() < 0:
        raise ValueError(f"pairs must not be negative, got {array.min()}")
    return array


def check_column(name: str, values: Any, length: int | None = None, noun: str = "record") -> np.ndarray:
    """One value a record, or what else a message calls it: a one-dimensional array, of the given length."""
    array = as_array(name, values)
    if array.ndim != 1:
        raise ValueError(f"{name} must be one-dimensional, got shape {array.shape}")
    if length is not None and len(array) != length:
        raise ValueError(f"{name} must have one entry for each of the {length} {noun}s, got {len(array)}")
    return array


def check_values(
    name: str, values: Any, length: int, *, unknown: bool = False, first: int = 0, noun: str = "record"
) -> np.ndarray:
    """Finite real numbers as float64, one a record; NaN allowed where it may mean unknown.

    ``first`` is the number of the first of them, and ``noun`` what a message calls one.
    """
    array = check_column(name, values, length, noun)
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{name} must be real numbers, got dtype {array.dtype}")
    array = quietly(array.astype, np.float64, copy=False)
    bad = np.isinf(array) if unknown else ~np.isfinite(array)
    bad |= np.abs(array) >= BEYOND_FLOAT32
    if bad.any():
        record = int(np.argmax(bad))
        allowed = "a number within the range of float32" + (" or NaN (unknown)" if unknown else "")
        raise ValueError(f"{name} must be {allowed}, got {array[record]} in {noun} {first + record}")
    return array


def check_whole(name: str, values: Any, length: int | None = None) -> np.ndarray:
    """Whole numbers from 0 on as int64, one a record; floats that are whole will do."""
    array = check_column(name, values, length)
    if array.dtype.kind not in "iuf":
        raise TypeError(f"{name} must be whole numbers, got dtype {array.dtype}")
    good = (array >= 0) & (array <= 2**53) & (array == np.floor(array))
    if not good.all():
        raise ValueError(f"{name} must be whole numbers from 0 on, got {array[~good][0]}")
    return array.astype(np.int64)


def check_timestamps(timestamps: Any, length: int) -> np.ndarray:
    """One time a record: integers, floats (NaN: unknown) or datetime64 (NaT: unknown)."""
    array = check_column("timestamps", timestamps, length)
    if array.dtype.kind not in "iufM":
        raise TypeError(f"timestamps must be integers, floats or datetime64, got dtype {array.dtype}")
    if _changed(array, timestamps):
        raise ValueError("timestamps have integers beyond 2⁵³ beside others that NumPy makes floats of; give one array")
    return array


def check_moment(name: str, value: Any, dated: bool) -> Any:
    """A time to compare timestamps with: a datetime64 (UTC) where they are dates, else a number, as it was given."""
    if not dated:
        check_float(name, value)
        return value
    if hasattr(value, "to_datetime64"):  # a pandas Timestamp; NumPy would take its microseconds only
        value = value.to_datetime64()
    elif isinstance(value, datetime.datetime) and value.tzinfo is not None:
        value = value.astimezone(datetime.UTC).replace(tzinfo=None)
    with signals_held(), contextlib.suppress(TypeError, ValueError, OverflowError):
        text = value.decode() if isinstance(value, bytes) else value
        unknown = str(text).lower() in ("", "nat", "none")  # of which NumPy 2.5 and newer warns
        if not unknown and not _wraps_around(moment := np.datetime64(value), text):
            return moment
    raise ValueError(f"{name} must be a time, such as '2024-05-03' or a datetime, got {shown(value)}")


def _wraps_around(moment: np.datetime64, text: Any) -> bool:
    """Whether NumPy takes a text for another time: digits alone ("20240503") for a year, and what wraps around.

    That is a year too large, or too many decimals for the year.
    """
    if not isinstance(text, str):
        return False
    whole, fraction = re.subn(r"[.][0-9]+", "", text)
    too_large = re.match(r"\s*[+-]?([0-9]{12}|[0-9]{5,}$)", text) is not None
    return too_large or (fraction > 0 and moment.astype("M8[s]") != np.datetime64(whole, "s"))


def as_ids(name: str, ids: Any) -> np.ndarray:
    """An array of ids that are equal only where those given are.

    Of lists NumPy makes arrays of one type: 1 and "1" become one string, large integers one float, and NULs at the end
    of strings are lost. Such lists, and what takes too much room because one string is long, become arrays of objects.
    """
    try:
        array = _objects(ids) if _sprawls(ids) else as_array(name, ids)
        if array.ndim == 1 and _changed(array, ids):
            array = _objects(ids)
        elif array.ndim == 0 and _changed(array.reshape(1), [ids]):
            array = _objects([ids]).reshape(())
    except MemoryError:
        array = _objects(ids)
    return array.astype(object) if array.dtype.kind == "T" else array


def _sprawls(ids: Any) -> bool:
    """Whether an array of NumPy's strings, each as long as the longest, takes far more room than the texts do."""
    if not isinstance(ids, (list, tuple)) or not ids or not isinstance(ids[0], (str, bytes)):
        return False
    try:
        room = len(ids) * max(map(len, ids))
    except TypeError:  # others are no texts
        return False
    if room <= _ROOM or room <= _SPRAWL * sum(map(len, ids)):
        return False
    return all(isinstance(id, (str, bytes)) for id in ids)


def _changed(array: np.ndarray, given: Any) -> bool:
    """Whether the array that NumPy made of a list has other entries than the list; nan is refused as such."""
    if hasattr(given, "dtype") or array.dtype.kind not in "fSU":
        return False
    return any(a != b for a, b in zip(array.tolist(), given) if a == a)


def _objects(ids: Any) -> np.ndarray:
    array = np.empty(len(ids), object)
    array[:] = list(ids)
    return array


def check_record_ids(name: str, ids: Any, length: int | None = None) -> np.ndarray:
    """Ids of any one sortable kind (integers, strings, dates …), none missing."""
    array = check_column(name, as_ids(name, ids), length)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ValueError(f"{name} must not be missing, got {array[~np.isfinite(array)][0]}; drop those records first")
    if array.dtype.kind in "mM" and np.isnat(array).any():
        raise ValueError(f"{name} must not be missing, got NaT; drop those records first")
    if array.dtype.kind == "O":
        _check_objects(name, array)
    elif array.dtype.kind in "cV":
        raise TypeError(f"{name} must be ids of one sortable kind, got {array.dtype}")
    return array


def _check_objects(name: str, array: np.ndarray) -> None:
    """Objects of one type that has an order, each equal to itself."""
    kinds = sorted({type(value).__name__ for value in array})
    if len(kinds) == 1 and isinstance(array[0], (Set, np.ndarray)):  # sets have an order, but not of any two
        raise TypeError(f"{name} must be ids of one sortable kind, got {kinds[0]}")
    missing = [value for value in array if _is_missing(value)] if len(kinds) < 2 else []
    if missing:
        raise ValueError(f"{name} must not be missing, got {missing[0]}; drop those records first")
    try:
        sortable = len(array) == 0 or isinstance(array[0] < array[0], (bool, np.bool_))
    except TypeError:
        sortable = False
    if len(kinds) > 1 or not sortable:
        raise TypeError(f"{name} must be ids of one sortable kind, got {', '.join(kinds)}")


def _is_missing(value: Any) -> bool:
    try:
        return value is None or bool(value != value)
    except (TypeError, ArithmeticError):  # pandas.NA; a signalling NaN
        return True


@contextlib.contextmanager
def sorting(name: str) -> Iterator[None]:
    """Ids are compared, some of which may have no order (times with a time zone and without)."""
    try:
        yield
    except TypeError as error:
        raise TypeError(f"{name} must be ids of one sortable kind: {error}") from None


def check_shape(shape: Any, pairs: np.ndarray) -> tuple[int, int]:
    """(m, n) that holds every pair; None takes the largest row and column number."""
    need = (int(pairs[:, 0].max()) + 1, int(pairs[:, 1].max()) + 1) if len(pairs) else (0, 0)
    if shape is None:
        shape = need
    shape = shape.tolist() if isinstance(shape, np.ndarray) and shape.ndim == 1 else shape
    if not isinstance(shape, Sequence) or len(shape) != 2:
        raise TypeError(f"shape must be a pair (rows, columns), got {shown(shape)}")
    limit = np.iinfo(np.int32).max
    if shape is need and max(need) > limit:
        raise ValueError(f"pairs must be numbers below {limit}, got {max(need) - 1}")
    for axis, size, least in zip(("rows", "columns"), shape, need):
        check_int(f"shape ({axis})", size, 0, limit)
        if size < least:
            raise ValueError(f"shape has {size} {axis}, but pairs go up to {least - 1}")
    return int(shape[0]), int(shape[1])


def check_new_ids(name: str, ids: Any, size: int) -> np.ndarray:
    """Distinct row numbers to write: any of the ``size`` present ones, and new ones that go on from ``size``."""
    array = check_ids(name, ids, np.iinfo(np.int64).max)
    unique, counts = np.unique(array, return_counts=True)
    if len(unique) != len(array):
        raise ValueError(f"{name} must be distinct, got {unique[counts > 1][0]} more than once")
    new = unique[unique >= size]
    if len(new) and new[-1] != size + len(new) - 1:
        raise ValueError(f"{name} must go on from {size} without a gap, got {shown(new.tolist())}")
    return array
