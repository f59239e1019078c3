"""Sparse matrices of every SciPy format as CSR arrays whose structure is known to be right.

SciPy's conversions trust what they read: an offset or an index that is wrong makes them read and write beyond arrays.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import scipy.sparse as sp

from lfm_np.signals import pass_on, signals_held
from lfm_np.validation.scalars import as_array

Shape = tuple[int, int]


def share_csr(data: np.ndarray, indices: np.ndarray, indptr: np.ndarray, shape: Shape) -> sp.csr_array:
    """A csr_array over these very arrays (scipy's constructor may recast indptr and indices)."""
    with signals_held():
        csr = sp.csr_array(shape, dtype=data.dtype)
    csr.data, csr.indices, csr.indptr = data, indices, indptr
    return csr


def wrap_csr(name: str, X: Any) -> sp.csr_array:
    """X as CSR, the structure checked in full; shares X's arrays where X is CSR already.

    Rows may be unsorted and hold a cell more than once.
    """
    try:
        return _READERS.get(X.format, _from_coo)(X)
    except (ValueError, IndexError, TypeError, OverflowError) as error:
        pass_on(error)
        raise ValueError(f"{name} is not a valid sparse matrix: {error}") from None
    except MemoryError as error:
        raise MemoryError(f"{name} of shape {X.shape} does not fit into memory as CSR: {error}") from None


def check_index(part: str, array: Any) -> np.ndarray:
    """Indices or indptr as they are if int32 or int64, else as int64 (what does not fit becomes negative)."""
    array = as_array(part, array)
    if array.dtype.kind not in "iu" or array.ndim != 1:
        raise ValueError(f"{part} must be a one-dimensional integer array")
    if array.dtype not in (np.int32, np.int64) or not array.dtype.isnative:
        return array.astype(np.int64)
    return np.require(array, requirements=["C", "A"])  # strided ones would have kernels compiled for them


def check_data(array: Any, ndim: int = 1) -> np.ndarray:
    """Stored values, in native byte order and at least float32: scipy and the kernels take nothing else."""
    array = as_array("data", array)
    if array.ndim != ndim:
        raise ValueError("data must be one-dimensional" if ndim == 1 else f"data must have {ndim} dimensions")
    if array.dtype == np.float16:
        return array.astype(np.float32)
    return np.require(array, array.dtype.newbyteorder("="), ["C", "A"])


def _compressed(data: Any, indices: Any, indptr: Any, shape: Shape) -> sp.csr_array:
    """The rows that indptr bounds, without what the arrays hold beyond the last."""
    data, indices, indptr = check_data(data), check_index("indices", indices), check_index("indptr", indptr)
    if np.any(indptr[1:] < indptr[:-1]):  # SciPy looks only where the last one is positive
        raise ValueError("indptr must never fall")
    if len(data) < indptr[-1] or len(indices) < indptr[-1]:
        raise ValueError("indptr points past the end of indices and data")
    share_csr(data, indices, indptr, shape).check_format(full_check=True)
    stored = int(indptr[-1])
    return share_csr(data[:stored], indices[:stored], indptr, shape)


def _from_csr(X: Any) -> sp.csr_array:
    return _compressed(X.data, X.indices, X.indptr, X.shape)


def _from_csc(X: Any) -> sp.csr_array:
    return _compressed(X.data, X.indices, X.indptr, X.shape[::-1]).T.tocsr()


def _from_bsr(X: Any) -> sp.csr_array:
    data = check_data(X.data, 3)
    _, height, width = data.shape
    blocks = (X.shape[0] // max(height, 1), X.shape[1] // max(width, 1))
    if (blocks[0] * height, blocks[1] * width) != X.shape:
        raise ValueError(f"blocks of {height} × {width} do not fill shape {X.shape}")
    numbers = _compressed(np.arange(len(data)), X.indices, X.indptr, blocks)
    return sp.bsr_array((data[: numbers.nnz], numbers.indices, numbers.indptr), shape=X.shape).tocsr()


def _from_lil(X: Any) -> sp.csr_array:
    lengths = [len(row) for row in X.rows]
    if lengths != [len(row) for row in X.data]:
        raise ValueError("rows and data must be equally long")
    indices = np.array([*itertools.chain.from_iterable(X.rows)] or np.empty(0, np.int32))
    data = np.array([*itertools.chain.from_iterable(X.data)], X.dtype)
    return _compressed(data, indices, np.concatenate(([0], np.cumsum(lengths, dtype=np.int64))), X.shape)


def _from_coo(X: Any) -> sp.csr_array:
    """By counting; unlike SciPy's conversion it adds up no cells, which may wrap around or be a mistake."""
    coo = X.tocoo(copy=False)
    if len(getattr(coo, "coords", range(2))) != 2:  # SciPy has had that name from 1.13 on
        raise ValueError("coords must be two arrays")
    (rows, columns), (m, n) = (check_index("coords", part) for part in (coo.row, coo.col)), X.shape
    data = check_data(coo.data)
    if not len(rows) == len(columns) == len(data):
        raise ValueError("coords and data must be equally long")
    for part, size in ((rows, m), (columns, n)):
        if len(part) and (part.min() < 0 or part.max() >= size):
            raise ValueError(f"coords must be indices from 0 to {size - 1}")
    each = np.ones(len(rows), np.bool_), rows, np.arange(len(rows) + 1)
    by_row = sp.csr_array(each, shape=(len(rows), m)).tocsc()
    return share_csr(data[by_row.indices], columns[by_row.indices], by_row.indptr, X.shape)


def _from_dia(X: Any) -> sp.csr_array:
    data, offsets = check_data(X.data, 2), check_index("offsets", X.offsets)
    if len(data) != len(offsets) or len(np.unique(offsets)) < len(offsets):
        raise ValueError("offsets must be distinct, one for each row of data")
    return _from_coo(sp.dia_array((data, offsets), shape=X.shape))


_READERS = {"csr": _from_csr, "csc": _from_csc, "bsr": _from_bsr, "lil": _from_lil, "dia": _from_dia}
