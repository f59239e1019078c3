"""Sparse matrices: canonical CSR that shares the caller's arrays where it can."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp

from lfm_np.kernels.jit import Pool
from lfm_np.kernels.structure import survey
from lfm_np.quiet import quietly
from lfm_np.validation.formats import share_csr, wrap_csr
from lfm_np.validation.scalars import shown

MOST_ROWS = 2**31 - 2  # rows and columns are numbered by int32; of cells there may be any number
_PIECE = 4096  # cells of which indices and values fit in the first-level cache
_CELLS = 1 << 18  # that one thread looks at at once


def check_matrix(name: str, X: Any, **rules: Any) -> sp.csr_array:
    """The matrix that `check_cells` returns, with the same arguments."""
    return check_cells(name, X, **rules)[0]


def check_cells(
    name: str,
    X: Any,
    *,
    shape: tuple[int | None, int | None] = (None, None),
    zeros: str = "drop",
    duplicates: str = "sum",
    negative: bool = False,
    unknown: bool = False,
    dtype: Any = np.float32,
    num_threads: int = 1,
) -> tuple[sp.csr_array, float]:
    """``X`` as canonical CSR, and its largest value, 0 if it has none.

    Canonical: sorted, no duplicates, int32 or int64 indices, values of ``dtype``. Shares the caller's arrays where they
    are so already and copies otherwise; never writes to them.

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
    num_threads : int
        That may look at it.

    Raises
    ------
    TypeError
        Not a sparse matrix, or values that are not numbers.
    ValueError
        Indices out of range or inconsistent with indptr, wrong shape, non-finite or forbidden values.
    """
    X = getattr(X, "matrix", X)
    _check_shape(name, X, shape)
    if highest := highest_if_plain(X, num_threads):
        csr = share_csr(X.data, X.indices, X.indptr, X.shape)
    else:
        csr = canonical(name, wrap_csr(name, X), zeros, duplicates)
        _check_values(name, csr, negative, unknown)
        highest = float(csr.data.max(initial=0))
    data = quietly(csr.data.astype, dtype, copy=False)
    if data is not csr.data:
        if np.dtype(dtype) == np.float32 and np.isinf(data).any():
            raise ValueError(f"{name} has a value too large for float32: {shown(float(np.abs(csr.data).max()))}")
        csr = share_csr(data, csr.indices, csr.indptr, csr.shape)
    return csr, highest


def _check_shape(name: str, X: Any, shape: tuple[int | None, int | None]) -> None:
    """A sparse matrix of real numbers, of such a shape."""
    if not sp.issparse(X):
        remedy = "" if hasattr(X, "nnz") else "; a dense array is wrapped with scipy.sparse.csr_array(array)"
        raise TypeError(f"{name} must be a scipy.sparse matrix or Interactions, got {type(X).__name__}{remedy}")
    if X.ndim != 2:
        raise ValueError(f"{name} must have two dimensions, got shape {X.shape}")
    check_real(name, X)
    for axis, want in zip(("rows", "columns"), shape):
        have = X.shape[0] if axis == "rows" else X.shape[1]
        if want is not None and have != want:
            raise ValueError(f"{name} must have {want} {axis}, got {have} (shape {X.shape})")
    if max(X.shape) > MOST_ROWS:
        raise ValueError(f"{name} must have at most {MOST_ROWS} rows and columns, got shape {X.shape}")


def check_real(name: str, X: Any) -> None:
    """Stored values of a dtype that float64 holds."""
    if X.format != "dok" and not isinstance(X.data, np.ndarray):  # else scipy itself stumbles over X.dtype
        raise ValueError(f"{name} is not a valid sparse matrix: its data are {type(X.data).__name__}, not an array")
    if X.dtype.kind not in "biuf" or X.dtype.itemsize > 8:
        raise TypeError(f"{name} must hold real numbers of at most 64 bits, got dtype {X.dtype}")


def highest_if_plain(X: Any, num_threads: int = 1) -> float:
    """The largest value of a canonical CSR matrix with positive finite floats, to which no other check can object.

    Else, and if there are no values, 0. Found in one pass.
    """
    if X.format != "csr" or not all(_is_plain_array(part) for part in (X.data, X.indices, X.indptr)):
        return 0.0
    (data, indices, indptr), (m, n) = (X.data, X.indices, X.indptr), X.shape
    if data.dtype.kind != "f" or data.dtype.itemsize < 4 or indices.dtype.kind != "i" or indptr.dtype.kind != "i":
        return 0.0
    if len(indptr) != m + 1 or indptr[0] != 0 or not 0 < len(data) == len(indices) == indptr[-1]:
        return 0.0
    bits = data.view(np.int32 if data.itemsize == 4 else np.int64)
    disorder, (least, most), (lowest, highest) = _survey(indptr, indices, bits, num_threads)
    infinity = int(np.array(np.inf, data.dtype).view(bits.dtype))
    plain = not disorder and least >= 0 and most < n and lowest > 0 and highest < infinity
    return float(np.array(highest, bits.dtype).view(data.dtype)) if plain else 0.0


def _survey(
    indptr: np.ndarray, indices: np.ndarray, bits: np.ndarray, num_threads: int
) -> tuple[bool, tuple[int, int], tuple[int, int]]:
    """Whether the order is wrong anywhere, and the ranges of indices and bits; see `survey`."""
    indptr, indices, bits = read_only(indptr, indices, bits)
    blocks = -(-len(bits) // _CELLS)
    found = np.empty((blocks, 6), np.int64)

    def look(block: int, worker: int = 0) -> None:
        sizes = len(bits), len(indptr) - 1
        cells, rows = ((size * block // blocks, size * (block + 1) // blocks) for size in sizes)
        survey(indptr, indices, bits, cells, rows, _PIECE, found[block])

    if blocks == 1:
        look(0)
    else:
        with Pool(num_threads) as pool:
            pool.run(look, blocks)
    descents, falls = found[:, :2].sum(axis=0).tolist()
    least, lowest = found[:, 2::2].min(axis=0).tolist()
    most, highest = found[:, 3::2].max(axis=0).tolist()
    return bool(descents or falls), (least, most), (lowest, highest)


def _is_plain_array(array: Any) -> bool:
    """Whether kernels may look at it as it is: NumPy's own class, one dimension, no gaps, the machine's byte order."""
    return (
        type(array) is np.ndarray
        and array.ndim == 1
        and array.flags.c_contiguous
        and array.flags.aligned
        and array.dtype.isnative
        and array.itemsize in (4, 8)
    )


def frozen(array: np.ndarray) -> np.ndarray:
    """A C-contiguous view that cannot be written: kernels are compiled for these only."""
    view = np.ascontiguousarray(array).view()
    view.flags.writeable = False
    return view


def read_only(*arrays: np.ndarray) -> Any:  # a tuple as long as the arguments, which mypy cannot say
    """Each of them `frozen`."""
    return tuple(map(frozen, arrays))


def owned_csr(csr: sp.csr_array) -> sp.csr_array:
    """A copy that scipy may sort in place, for which indices and indptr must have one type."""
    one = np.result_type(csr.indices, csr.indptr)
    return share_csr(csr.data.copy(), csr.indices.astype(one), csr.indptr.astype(one), csr.shape)


def canonical(name: str, csr: sp.csr_array, zeros: str, duplicates: str) -> sp.csr_array:
    probe = share_csr(csr.data, csr.indices, csr.indptr, csr.shape)  # scipy caches flags on the object it looks at
    drop = zeros == "drop" and csr.nnz and not np.all(csr.data)
    if probe.has_canonical_format and not drop:
        return csr
    copy = owned_csr(csr)
    copy.sort_indices()
    if not copy.has_canonical_format:
        if duplicates == "refuse":
            raise ValueError(
                f"{name} stores a cell more than once; say how to combine them with "
                'lfm_np.to_csr(…, duplicates="last" | "mean" | "sum" | "max")'
            )
        copy.data = copy.data.astype(np.float64)  # a sum must not wrap around, nor stop growing at 2²⁴
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
