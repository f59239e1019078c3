"""Every check of every argument. The only module that raises for bad input.

Kernels index without bounds checks, so nothing reaches one before it has passed here. A message names the argument,
what was given and what is allowed. The caller's arrays are never changed: a matrix that needs sorting, summing or a
new dtype is copied.
"""

from __future__ import annotations

import numbers
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.sparse as sp

IntArray = np.ndarray
_SHOWN = 60


def shown(value: Any) -> str:
    """A short repr for messages."""
    text = repr(value)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


# ---- scalars --------------------------------------------------------------------------------------------------------


def check_int(name: str, value: Any, low: int, high: int | None = None) -> int:
    """``value`` as an int in [low, high]. Booleans and fractions are refused."""
    allowed = f"an integer ≥ {low}" if high is None else f"an integer from {low} to {high}"
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name} must be {allowed}, got {shown(value)} of type {type(value).__name__}")
    number = int(value)
    if number < low or (high is not None and number > high):
        raise ValueError(f"{name} must be {allowed}, got {shown(value)}")
    return number


def check_float(
    name: str,
    value: Any,
    low: float = -np.inf,
    high: float = np.inf,
    *,
    open_low: bool = False,
    open_high: bool = False,
) -> float:
    """``value`` as a finite float in the interval, which is closed unless said otherwise."""
    allowed = f"a finite number in {'(' if open_low else '['}{low:g}, {high:g}{')' if open_high else ']'}"
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be {allowed}, got {shown(value)} of type {type(value).__name__}")
    number = float(value)
    inside = (low < number if open_low else low <= number) and (number < high if open_high else number <= high)
    if not np.isfinite(number) or not inside:
        raise ValueError(f"{name} must be {allowed}, got {shown(value)}")
    return number


def check_bool(name: str, value: Any) -> bool:
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be True or False, got {shown(value)} of type {type(value).__name__}")
    return bool(value)


def check_choice(name: str, value: Any, choices: Sequence[Any]) -> Any:
    """``value`` if it is one of ``choices``. True is not 1 here."""
    for choice in choices:
        if type(choice) is type(value) and choice == value:
            return choice
    raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {shown(value)}")


def check_dtype(name: str, value: Any) -> np.dtype:
    """float32 or float64, given as dtype, type or string."""
    try:
        dtype = np.dtype(value)
    except TypeError:
        raise TypeError(f"{name} must be float32 or float64, got {shown(value)}") from None
    if dtype not in (np.float32, np.float64) or not dtype.isnative:
        raise ValueError(f"{name} must be float32 or float64 in native byte order, got {shown(value)}")
    return dtype


def check_num_threads(value: Any) -> int:
    """Threads to use; None takes the cores this process may use."""
    if value is None:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return check_int("num_threads", value, 1, 1024)


def check_random_state(value: Any) -> np.random.Generator:
    """A Generator from None, int, SeedSequence, Generator or RandomState. NumPy's global state is never used."""
    if value is None or isinstance(value, (np.random.SeedSequence, np.random.Generator)):
        return np.random.default_rng(value)
    if isinstance(value, np.random.RandomState):
        return np.random.default_rng(value.randint(0, 2**32, size=4, dtype=np.uint32))
    if isinstance(value, numbers.Integral) and not isinstance(value, (bool, np.bool_)):
        if value < 0:
            raise ValueError(f"random_state must not be negative, got {value}")
        return np.random.default_rng(int(value))
    raise TypeError(
        "random_state must be None, an integer, a SeedSequence, a Generator or a RandomState, "
        f"got {shown(value)} of type {type(value).__name__}"
    )


def check_callback(value: Any) -> None:
    if value is not None and not callable(value):
        raise TypeError(f"callback must be callable as callback(record, factors), got {shown(value)}")


# ---- ids ------------------------------------------------------------------------------------------------------------


def check_ids(name: str, ids: Any, size: int) -> np.ndarray:
    """Row numbers as an int64 array of shape (N,) (a scalar gives one element), each in [0, size)."""
    array = np.asarray(ids)
    if array.size == 0 and array.dtype == np.float64:
        array = array.astype(np.int64)  # np.asarray([]) is float64
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name} must be integers, got dtype {array.dtype}")
    if array.ndim > 1:
        raise ValueError(f"{name} must be a scalar or one-dimensional, got shape {array.shape}")
    array = np.atleast_1d(array)
    if array.size:
        low, high = array.min(), array.max()
        if low < 0 or high >= size:
            raise ValueError(f"{name} must be from 0 to {size - 1}, got {low if low < 0 else high}")
    return np.ascontiguousarray(array, dtype=np.int64)


def check_positions(name: str, positions: Any, size: int) -> np.ndarray:
    """Integers in [0, size), in an array of any shape."""
    array = np.asarray(positions)
    return check_ids(name, array.ravel(), size).reshape(array.shape)


def check_mask(name: str, mask: Any, size: int) -> np.ndarray:
    """A bool array of shape (size,)."""
    array = np.asarray(mask)
    if array.dtype != np.bool_:
        raise TypeError(f"{name} must be a bool array, got dtype {array.dtype}")
    if array.shape != (size,):
        raise ValueError(f"{name} must have shape ({size},), got {array.shape}")
    return array


# ---- pairs and records ----------------------------------------------------------------------------------------------


def check_pairs(pairs: Any) -> np.ndarray:
    """``pairs`` as an integer array of shape (N, 2) with nothing negative; an empty list has N = 0."""
    try:
        array = np.asarray(pairs)
    except ValueError:
        raise ValueError(
            f"pairs must be an array of shape (N, 2), got rows of unequal length: {shown(pairs)}"
        ) from None
    if array.size == 0 and (array.ndim == 1 or array.shape[1:] == (2,)):
        return np.zeros((0, 2), np.int64)
    if array.dtype.kind not in "iu":
        raise TypeError(f"pairs must be integers, got dtype {array.dtype}; Interactions takes ids of any kind")
    if array.ndim != 2 or array.shape[1] != 2:
        raise ValueError(f"pairs must have shape (N, 2), got {array.shape}")
    if array.min() < 0:
        raise ValueError(f"pairs must not be negative, got {array.min()}")
    return array


def check_column(name: str, values: Any, length: int | None = None) -> np.ndarray:
    """One value a record: a one-dimensional array, of the given length."""
    array = np.asarray(values)
    if array.ndim != 1:
        raise ValueError(f"{name} must be one-dimensional, got shape {array.shape}")
    if length is not None and len(array) != length:
        raise ValueError(f"{name} must have one entry for each of the {length} records, got {len(array)}")
    return array


def check_values(name: str, values: Any, length: int, *, unknown: bool = False) -> np.ndarray:
    """Finite real numbers as float64, one a record; NaN allowed where it may mean unknown."""
    array = check_column(name, values, length)
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{name} must be real numbers, got dtype {array.dtype}")
    array = array.astype(np.float64, copy=False)
    bad = np.isinf(array) if unknown else ~np.isfinite(array)
    bad |= np.abs(array) > np.finfo(np.float32).max
    if bad.any():
        record = int(np.argmax(bad))
        allowed = "a number within the range of float32" + (" or NaN (unknown)" if unknown else "")
        raise ValueError(f"{name} must be {allowed}, got {array[record]} in record {record}")
    return array


def check_timestamps(timestamps: Any, length: int) -> np.ndarray:
    """One time a record: integers, floats (NaN: unknown) or datetime64 (NaT: unknown)."""
    array = check_column("timestamps", timestamps, length)
    if array.dtype.kind not in "iufM":
        raise TypeError(f"timestamps must be integers, floats or datetime64, got dtype {array.dtype}")
    return array


def check_record_ids(name: str, ids: Any, length: int | None = None) -> np.ndarray:
    """Ids of any one sortable kind (integers, strings, dates …), none missing."""
    array = check_column(name, ids, length)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ValueError(f"{name} must not be missing, got {array[~np.isfinite(array)][0]}; drop those records first")
    if array.dtype.kind == "M" and np.isnat(array).any():
        raise ValueError(f"{name} must not be missing, got NaT; drop those records first")
    if array.dtype.kind in "cV" or (array.dtype.kind == "O" and len({type(value) for value in array}) > 1):
        kinds = sorted({type(value).__name__ for value in array}) if array.dtype.kind == "O" else [str(array.dtype)]
        raise TypeError(f"{name} must be ids of one sortable kind, got {', '.join(kinds)}")
    return array


def check_shape(shape: Any, pairs: np.ndarray) -> tuple[int, int]:
    """(m, n) that holds every pair; None takes the largest row and column number."""
    need = (int(pairs[:, 0].max()) + 1, int(pairs[:, 1].max()) + 1) if len(pairs) else (0, 0)
    if shape is None:
        shape = need
    if not isinstance(shape, Sequence) or len(shape) != 2:
        raise TypeError(f"shape must be a pair (rows, columns), got {shown(shape)}")
    limit = np.iinfo(np.int32).max
    for axis, size, least in zip(("rows", "columns"), shape, need):
        check_int(f"shape ({axis})", size, 0, limit)
        if size < least:
            raise ValueError(f"shape has {size} {axis}, but pairs go up to {least - 1}")
    return int(shape[0]), int(shape[1])


def check_new_ids(name: str, ids: Any, size: int) -> np.ndarray:
    """Distinct row numbers to write: any of the ``size`` present ones, and new ones that go on from ``size``."""
    array = check_ids(name, ids, np.iinfo(np.int64).max)
    unique = np.unique(array)
    if len(unique) != len(array):
        raise ValueError(f"{name} must be distinct")
    new = unique[unique >= size]
    if len(new) and new[-1] != size + len(new) - 1:
        raise ValueError(f"{name} must go on from {size} without a gap, got {shown(new.tolist())}")
    return array


# ---- matrices -------------------------------------------------------------------------------------------------------


def check_matrix(
    name: str,
    X: Any,
    *,
    shape: tuple[int | None, int | None] = (None, None),
    zeros: str = "drop",
    duplicates: str = "sum",
    negative: bool = False,
    unknown: bool = False,
    dtype: Any = np.float32,
) -> sp.csr_array:
    """``X`` as canonical CSR: sorted, no duplicates, int32 or int64 indices, values of ``dtype``.

    Shares the caller's arrays where they are canonical already and copies otherwise; never writes to them.

    Parameters
    ----------
    X : scipy.sparse matrix or array of any format, or anything with a ``matrix`` attribute (Interactions)
    shape : (int or None, int or None)
        Required numbers of rows and columns; None allows any.
    zeros : {"drop", "keep"}
        A stored zero counts as absent, or is a value.
    duplicates : {"sum", "refuse"}
    negative : bool
        Whether negative values are allowed.
    unknown : bool
        Whether NaN, an unknown value, is allowed.
    dtype : dtype
        float32 or float64.

    Raises
    ------
    TypeError
        Not a sparse matrix, or values that are not numbers.
    ValueError
        Indices out of range or inconsistent with indptr, wrong shape, non-finite or forbidden values.
    """
    X = getattr(X, "matrix", X)
    if not sp.issparse(X):
        raise TypeError(
            f"{name} must be a scipy.sparse matrix or Interactions, got {type(X).__name__}; "
            "a dense array is wrapped with scipy.sparse.csr_array(array)"
        )
    if X.ndim != 2:
        raise ValueError(f"{name} must have two dimensions, got shape {X.shape}")
    if X.dtype.kind not in "biuf" or X.dtype.itemsize > 8:
        raise TypeError(f"{name} must hold real numbers, got dtype {X.dtype}")
    for axis, want in zip(("rows", "columns"), shape):
        have = X.shape[0] if axis == "rows" else X.shape[1]
        if want is not None and have != want:
            raise ValueError(f"{name} must have {want} {axis}, got {have} (shape {X.shape})")
    csr = _wrap(name, X)
    csr = _canonical(name, csr, zeros, duplicates)
    _check_values(name, csr, negative, unknown)
    with np.errstate(over="ignore"):
        data = csr.data.astype(dtype, copy=False)
    if data is not csr.data:
        if np.dtype(dtype) == np.float32 and np.isinf(data).any():
            raise ValueError(f"{name} has a value too large for float32: {shown(float(np.abs(csr.data).max()))}")
        csr = share_csr(data, csr.indices, csr.indptr, csr.shape)
    return csr


def share_csr(data: np.ndarray, indices: np.ndarray, indptr: np.ndarray, shape: tuple[int, int]) -> sp.csr_array:
    """A csr_array over these very arrays (scipy's constructor may recast indptr and indices)."""
    csr = sp.csr_array(shape, dtype=data.dtype)
    csr.data, csr.indices, csr.indptr = data, indices, indptr
    return csr


def _wrap(name: str, X: Any) -> sp.csr_array:
    """The structure checked in full on an object that shares X's arrays."""
    try:
        if X.format == "csr":
            csr = share_csr(np.asarray(X.data), np.asarray(X.indices), np.asarray(X.indptr), X.shape)
        else:
            if X.format in ("csc", "bsr"):
                X.check_format(full_check=True)
            csr = X.tocsr()
            csr = share_csr(csr.data, csr.indices, csr.indptr, csr.shape)
        for part, array in (("indices", csr.indices), ("indptr", csr.indptr)):
            if array.dtype.kind not in "iu" or array.ndim != 1:
                raise ValueError(f"{part} must be a one-dimensional integer array")
        if csr.data.ndim != 1:
            raise ValueError("data must be one-dimensional")
        if len(csr.data) < csr.indptr[-1] or len(csr.indices) < csr.indptr[-1]:
            raise ValueError("indptr points past the end of indices and data")
        checked = share_csr(csr.data, csr.indices, csr.indptr, csr.shape)
        checked.check_format(full_check=True)
    except (ValueError, IndexError, TypeError) as error:
        raise ValueError(f"{name} is not a valid sparse matrix: {error}") from None
    stored = int(csr.indptr[-1])
    return share_csr(csr.data[:stored], csr.indices[:stored], csr.indptr, csr.shape)


def _canonical(name: str, csr: sp.csr_array, zeros: str, duplicates: str) -> sp.csr_array:
    probe = share_csr(csr.data, csr.indices, csr.indptr, csr.shape)  # scipy caches flags on the object it looks at
    drop = zeros == "drop" and csr.nnz and not np.all(csr.data)
    if probe.has_canonical_format and not drop:
        return csr
    copy = share_csr(csr.data.copy(), csr.indices.copy(), csr.indptr.copy(), csr.shape)
    copy.sort_indices()
    if not copy.has_canonical_format:
        if duplicates == "refuse":
            raise ValueError(
                f"{name} stores a cell more than once; say how to combine them with "
                'lfm_np.to_csr(…, duplicates="last" | "mean" | "sum" | "max")'
            )
        if copy.data.dtype.kind in "bui":
            copy.data = copy.data.astype(np.float64)  # a sum must not wrap around
        copy.sum_duplicates()
    if zeros == "drop":
        copy.eliminate_zeros()
    return copy


def _check_values(name: str, csr: sp.csr_array, negative: bool, unknown: bool) -> None:
    if csr.nnz == 0:
        return
    if csr.data.dtype.kind == "f":
        bad = np.isinf(csr.data) if unknown else ~np.isfinite(csr.data)
        if bad.any():
            raise ValueError(
                f"{name} has a non-finite value in row {_row_of(csr, bad)}; drop such cells or give them a value"
            )
    if not negative and csr.data.dtype.kind in "fi":
        bad = csr.data < 0
        if bad.any():
            raise ValueError(
                f"{name} has a negative value in row {_row_of(csr, bad)}; values are confidences, which are ≥ 0 "
                '(ratings of any sign: weighting="ratings" or losses.Squared)'
            )


def _row_of(csr: sp.csr_array, bad: np.ndarray) -> int:
    return int(np.searchsorted(csr.indptr, int(np.argmax(bad)), side="right") - 1)


# ---- factors --------------------------------------------------------------------------------------------------------


def check_dense(name: str, array: Any, ndim: int, dtype: np.dtype | None = None) -> np.ndarray:
    """A read-only C-contiguous view (a copy only where needed) of a finite real array; ``dtype`` casts it."""
    array = np.asarray(array)
    if array.ndim != ndim:
        raise ValueError(f"{name} must have {ndim} dimension{'s' * (ndim > 1)}, got shape {array.shape}")
    if array.dtype.kind not in "biuf" or array.dtype.itemsize > 8:
        raise TypeError(f"{name} must hold real numbers, got dtype {array.dtype}")
    if dtype is None:
        dtype = np.dtype(np.float32 if array.dtype.kind == "f" and array.dtype.itemsize <= 4 else np.float64)
    with np.errstate(over="ignore"):
        view = np.ascontiguousarray(array, dtype=dtype).view()
    if not np.isfinite(view).all():
        raise ValueError(f"{name} has a non-finite value (or one too large for {dtype})")
    view.flags.writeable = False
    return view


def check_factors(user_factors: Any, item_factors: Any) -> tuple[np.ndarray, np.ndarray]:
    """U and V as read-only C-contiguous arrays of one dtype and one k."""
    U = check_dense("user_factors", user_factors, 2)
    V = check_dense("item_factors", item_factors, 2)
    if U.dtype != V.dtype:
        raise TypeError(f"user_factors and item_factors must have one dtype, got {U.dtype} and {V.dtype}")
    if U.shape[1] != V.shape[1]:
        raise ValueError(
            f"user_factors and item_factors must have the same number of columns, got shapes {U.shape} and {V.shape}"
        )
    return U, V


def check_init(init: Any, shape: tuple[int, int], factors: int, biases: bool) -> tuple[np.ndarray, ...] | None:
    """Starting factors (U, V, user_bias, item_bias) as finite arrays; biases are zero where ``init`` has none."""
    if init is None:
        return None
    if hasattr(init, "user_factors"):
        U, V, user_bias, item_bias = init.user_factors, init.item_factors, init.user_bias, init.item_bias
    elif isinstance(init, (tuple, list)) and len(init) == 2:
        (U, V), user_bias, item_bias = init, None, None
    else:
        raise TypeError(f"init must be None, Factors or a pair (U, V), got {shown(init)}")
    checked = []
    for name, array, rows in (("U", U, shape[0]), ("V", V, shape[1])):
        array = np.asarray(array)
        if array.dtype.kind not in "fiu" or array.shape != (rows, factors):
            raise ValueError(
                f"init must have a real {name} of shape ({rows}, {factors}), "
                f"got shape {array.shape} and dtype {array.dtype}"
            )
        if not np.isfinite(array).all():
            raise ValueError(f"init has a non-finite value in {name}")
        checked.append(array)
    for bias, rows in ((user_bias, shape[0]), (item_bias, shape[1])):
        checked.append(np.zeros(rows) if bias is None or not biases else np.asarray(bias))
    return tuple(checked)


def check_bias(name: str, bias: Any, size: int, dtype: np.dtype) -> np.ndarray | None:
    """None, or a read-only vector of ``size`` values of ``dtype``."""
    if bias is None:
        return None
    vector = check_dense(name, bias, 1, dtype)
    if len(vector) != size:
        raise ValueError(f"{name} must have {size} values, got {len(vector)}")
    return vector


def check_dict(name: str, value: Any) -> dict[str, Any]:
    """A dict; None gives an empty one."""
    if value is not None and not isinstance(value, dict):
        raise TypeError(f"{name} must be a dict, got {shown(value)}")
    return value or {}


def check_records(name: str, value: Any) -> Sequence[dict[str, Any]]:
    """A sequence of dicts."""
    if not isinstance(value, (list, tuple)) or not all(isinstance(record, dict) for record in value):
        raise TypeError(f"{name} must be a sequence of dicts, got {shown(value)}")
    return value


# ---- what users have seen -------------------------------------------------------------------------------------------


def check_seen(
    name: str, X: Any, users: np.ndarray, shape: tuple[int, int], *, keep_zeros: bool = False
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The stored columns of some rows of ``X``: (row of each user, indptr int64, sorted indices int32), read-only.

    Values do not matter, except that a stored zero counts as absent unless ``keep_zeros``. For few users of a CSR
    matrix only their rows are looked at, so that one recommendation does not cost a pass over the matrix.
    """
    X = getattr(X, "matrix", X)
    if X is None:
        return read_only(np.zeros(len(users), np.int64), np.zeros(2, np.int64), np.empty(0, np.int32))
    if not sp.issparse(X) or X.ndim != 2:
        raise TypeError(f"{name} must be a two-dimensional scipy.sparse matrix or Interactions, got {shown(X)}")
    if X.shape != shape:
        raise ValueError(
            f"{name} must be the whole matrix of shape {shape} (all users × all items), got shape {X.shape}"
        )
    if X.dtype.kind not in "biuf":
        raise TypeError(f"{name} must hold real numbers, got dtype {X.dtype}")
    rows = users
    if X.format == "csr" and 8 * len(users) < shape[0]:
        X, rows = _take_rows(name, X, users)
    csr = _wrap(name, X)
    drop = not keep_zeros and not np.all(csr.data)
    if drop or not share_csr(csr.data, csr.indices, csr.indptr, csr.shape).has_sorted_indices:
        csr = share_csr(csr.data.copy(), csr.indices.copy(), csr.indptr.copy(), csr.shape)
        csr.sort_indices()
        if drop:
            csr.eliminate_zeros()
    return read_only(rows, csr.indptr.astype(np.int64, copy=False), csr.indices.astype(np.int32, copy=False))


def _take_rows(name: str, X: Any, rows: np.ndarray) -> tuple[sp.csr_array, np.ndarray]:
    """The distinct ones of ``rows`` as a matrix of their own, and the place of each row in it."""
    indptr, indices, data = np.asarray(X.indptr), np.asarray(X.indices), np.asarray(X.data)
    taken, place = np.unique(rows, return_inverse=True)
    if len(indptr) != X.shape[0] + 1 or indptr[0] != 0 or np.any(np.diff(indptr) < 0):
        raise ValueError(f"{name} is not a valid sparse matrix: indptr must start at 0 and never fall")
    if indptr[-1] > min(len(indices), len(data)):
        raise ValueError(f"{name} is not a valid sparse matrix: indptr points past the end of indices and data")
    lengths = (indptr[taken + 1] - indptr[taken]).astype(np.int64)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    cells = np.repeat(indptr[taken] - starts[:-1], lengths) + np.arange(starts[-1])
    return share_csr(data[cells], indices[cells], starts, (len(taken), X.shape[1])), place.astype(np.int64)


def read_only(*arrays: np.ndarray) -> Any:  # a tuple as long as the arguments, which mypy cannot say
    """C-contiguous views that cannot be written: kernels are compiled for these only."""
    views = tuple(np.ascontiguousarray(array).view() for array in arrays)
    for view in views:
        view.flags.writeable = False
    return views


def check_negatives(negatives: Any, shape: tuple[int, int]) -> np.ndarray:
    """A row of item ids for each user, −1 for none, int64."""
    array = np.asarray(negatives)
    if array.dtype.kind not in "iu":
        raise TypeError(f"negatives must be integers, got dtype {array.dtype}")
    if array.ndim != 2 or len(array) != shape[0]:
        raise ValueError(f"negatives must have a row for each of the {shape[0]} users, got shape {array.shape}")
    if array.size and (array.min() < -1 or array.max() >= shape[1]):
        raise ValueError(f"negatives must be from 0 to {shape[1] - 1}, or -1 for none")
    return array.astype(np.int64)
