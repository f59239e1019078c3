"""What users have seen, and drawn negatives."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp

from lfm_np.signals import pass_on
from lfm_np.validation.formats import check_data, check_index, share_csr, wrap_csr
from lfm_np.validation.matrices import canonical, check_real, highest_if_plain, read_only
from lfm_np.validation.scalars import as_array, check_int, shown


def check_length(name: str, value: Any) -> int:
    """How long lists of items shall be, which are numbered below 2³¹."""
    return check_int(name, value, 1, 2**31 - 1)


def check_seen(
    name: str, X: Any, users: np.ndarray, shape: tuple[int, int], *, keep_zeros: bool = False, optional: bool = False
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The stored columns of some rows of ``X``: (row of each user, indptr int64, ascending indices int32), read-only.

    A repeated cell counts once. Values do not matter, except that a stored zero counts as absent unless ``keep_zeros``.
    None has no cells, where the matrix is ``optional``.
    For few users of a CSR matrix only their rows are looked at, so that one recommendation does not cost a pass over
    the matrix.
    """
    if X is None and optional:
        return read_only(np.zeros(len(users), np.int64), np.zeros(2, np.int64), np.empty(0, np.int32))
    X = _whole(name, X, shape)
    rows = users
    if X.format == "csr" and 8 * len(users) < shape[0]:
        X, rows = _take_rows(name, X, users)
    if highest_if_plain(X):
        return read_only(rows, X.indptr.astype(np.int64, copy=False), X.indices.astype(np.int32, copy=False))
    csr = wrap_csr(name, X)
    cells = share_csr(csr.data != 0, csr.indices, csr.indptr, csr.shape)  # repeated ones must not add up to zero
    csr = canonical(name, cells, "keep" if keep_zeros else "drop", "sum")
    return read_only(rows, csr.indptr.astype(np.int64, copy=False), csr.indices.astype(np.int32, copy=False))


def check_row(name: str, X: Any, row: int, shape: tuple[int, int]) -> sp.csr_array:
    """One row of the whole matrix, itself yet to be checked."""
    return _take_rows(name, as_rows(name, X, shape), np.array([row]))[0]


def as_rows(name: str, X: Any, shape: tuple[int, int]) -> Any:
    """The whole matrix, yet to be checked, in a format of which rows can be taken: once, and not for every block."""
    X = _whole(name, X, shape)
    return X if X.format == "csr" else wrap_csr(name, X)


def _whole(name: str, X: Any, shape: tuple[int, int]) -> Any:
    """A sparse matrix of real numbers with every user and every item."""
    X = getattr(X, "matrix", X)
    if not sp.issparse(X) or X.ndim != 2:
        raise TypeError(f"{name} must be a two-dimensional scipy.sparse matrix or Interactions, got {shown(X)}")
    if X.shape != shape:
        raise ValueError(
            f"{name} must be the whole matrix of shape {shape} (all users × all items), got shape {X.shape}"
        )
    check_real(name, X)
    return X


def _take_rows(name: str, X: Any, rows: np.ndarray) -> tuple[sp.csr_array, np.ndarray]:
    """The distinct ones of ``rows`` as a matrix of their own, and the place of each row in it."""
    try:
        indptr, indices, data = check_index("indptr", X.indptr), check_index("indices", X.indices), check_data(X.data)
    except ValueError as error:
        pass_on(error)
        raise ValueError(f"{name} is not a valid sparse matrix: {error}") from None
    taken, place = np.unique(rows, return_inverse=True)
    if len(indptr) != X.shape[0] + 1 or indptr[0] != 0 or np.any(indptr[1:] < indptr[:-1]):
        raise ValueError(f"{name} is not a valid sparse matrix: indptr must start at 0 and never fall")
    if indptr[-1] > min(len(indices), len(data)):
        raise ValueError(f"{name} is not a valid sparse matrix: indptr points past the end of indices and data")
    lengths = (indptr[taken + 1] - indptr[taken]).astype(np.int64)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    cells = np.repeat(indptr[taken] - starts[:-1], lengths) + np.arange(starts[-1])
    return share_csr(data[cells], indices[cells], starts, (len(taken), X.shape[1])), place.astype(np.int64)


def check_negatives(negatives: Any, shape: tuple[int, int], name: str = "negatives") -> np.ndarray:
    """A row of item ids for each user, −1 for none, int64."""
    array = as_array(name, negatives)
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name} must be integers, got dtype {array.dtype}")
    if array.ndim != 2 or len(array) != shape[0]:
        raise ValueError(f"{name} must have a row for each of the {shape[0]} users, got shape {array.shape}")
    bad = (array < -1) | (array >= shape[1])
    if bad.any():
        raise ValueError(f"{name} must be from 0 to {shape[1] - 1}, or -1 for none, got {array[bad][0]}")
    return array.astype(np.int64)
