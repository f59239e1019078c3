"""Factors, biases and what comes with them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lfm_np.quiet import quietly
from lfm_np.validation.matrices import MOST_ROWS
from lfm_np.validation.scalars import as_array, shown

_AT_ONCE = 1 << 20  # numbers looked at together
_PARTS = ("user_factors", "item_factors", "user_bias", "item_bias")


def check_dense(name: str, array: Any, ndim: int, dtype: np.dtype | None = None) -> np.ndarray:
    """A read-only C-contiguous view (a copy only where needed) of a finite real array; ``dtype`` casts it."""
    array = as_array(name, array)
    if array.ndim != ndim:
        raise ValueError(f"{name} must have {ndim} dimension{'s' * (ndim > 1)}, got shape {array.shape}")
    if array.dtype.kind not in "biuf" or array.dtype.itemsize > 8:
        raise TypeError(f"{name} must hold real numbers of at most 64 bits, got dtype {array.dtype}")
    if dtype is None:
        dtype = np.dtype(np.float32 if array.dtype.kind == "f" and array.dtype.itemsize <= 4 else np.float64)
    view = quietly(np.ascontiguousarray, array, dtype=dtype).view()
    step = max(1, _AT_ONCE * len(view) // max(view.size, 1))
    if not all(np.isfinite(view[lo : lo + step]).all() for lo in range(0, len(view), step)):
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
    if max(len(U), len(V)) > MOST_ROWS:
        raise ValueError(f"factors must have at most {MOST_ROWS} rows, got shapes {U.shape} and {V.shape}")
    return U, V


def check_init(
    init: Any, shape: tuple[int, int], factors: int, biases: bool, dtype: np.dtype
) -> tuple[np.ndarray, ...] | None:
    """Starting factors (U, V, user_bias, item_bias) as finite arrays; biases are zero where ``init`` has none."""
    if init is None:
        return None
    if all(hasattr(init, part) for part in _PARTS):
        U, V, user_bias, item_bias = (getattr(init, part) for part in _PARTS)
    elif isinstance(init, (tuple, list)) and len(init) == 2:
        (U, V), user_bias, item_bias = init, None, None
    else:
        raise TypeError(f"init must be None, Factors or a pair (U, V), got {shown(init)}")
    checked = []
    for name, array, rows in (("U", U, shape[0]), ("V", V, shape[1])):
        array = as_array(f"{name} of init", array)
        if array.dtype.kind not in "fiu" or array.dtype.itemsize > 8 or array.shape != (rows, factors):
            raise ValueError(
                f"init must have a real {name} of shape ({rows}, {factors}), "
                f"got shape {array.shape} and dtype {array.dtype}"
            )
        array = quietly(array.astype, dtype, copy=False)
        if not np.isfinite(array).all():
            raise ValueError(f"init has a non-finite value in {name} (or one too large for {dtype})")
        checked.append(array)
    for name, bias, rows in (("user_bias", user_bias, shape[0]), ("item_bias", item_bias, shape[1])):
        used = bias if biases else None
        check_bias(f"{name} of init", used, rows, dtype)
        checked.append(np.zeros(rows) if used is None else np.asarray(used))
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
