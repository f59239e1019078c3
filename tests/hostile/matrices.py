"""Matrices that no solver should trip over, and matrices that every solver must refuse."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.sparse as sp

M, N = 40, 30


def plain(seed: int = 0, dtype: Any = np.float32) -> sp.csr_array:
    """40 × 30, canonical, with an empty row and an empty column."""
    rng = np.random.default_rng(seed)
    dense = (rng.random((M, N)) < 0.2) * rng.integers(1, 4, (M, N))
    dense[7], dense[:, 3] = 0, 0
    dense[0, 0] = 1
    return sp.csr_array(dense.astype(dtype))


def raw(data: Any, indices: Any, indptr: Any, shape: tuple[int, int] = (M, N)) -> sp.csr_array:
    """A csr_array over exactly these arrays, which its constructor would refuse or mend."""
    X = sp.csr_array(shape, dtype=np.float32)
    X.data, X.indices, X.indptr = data, indices, indptr
    return X


def changed(part: str, change: Callable[[np.ndarray], Any]) -> sp.csr_array:
    """`plain` with one of its arrays exchanged."""
    X = plain()
    parts = {"data": X.data, "indices": X.indices, "indptr": X.indptr}
    parts[part] = change(parts[part].copy())
    return raw(**parts)


def at(place: int, value: Any) -> Callable[[np.ndarray], np.ndarray]:
    def change(array: np.ndarray) -> np.ndarray:
        array[place] = value
        return array

    return change


def unsorted() -> sp.csr_array:
    X = plain()
    for lo, hi in zip(X.indptr[:-1], X.indptr[1:]):
        X.indices[lo:hi], X.data[lo:hi] = X.indices[lo:hi][::-1].copy(), X.data[lo:hi][::-1].copy()
    return raw(X.data, X.indices, X.indptr)


def duplicated(dtype: Any = np.float32) -> sp.csr_array:
    """Every cell of `plain` twice, half the value each (or the values of ``dtype`` that add up to it)."""
    X = plain(dtype=np.float64)
    data = np.repeat(X.data / 2, 2).astype(dtype)
    return raw(data, np.repeat(X.indices, 2), X.indptr * 2)


def with_zeros() -> sp.csr_array:
    """`plain` with a stored zero in every cell of its first ten rows that it does not store."""
    dense = plain().toarray()
    rows, columns = np.nonzero((dense != 0) | (np.arange(M)[:, None] < 10))
    indptr = np.concatenate(([0], np.cumsum(np.bincount(rows, minlength=M)))).astype(np.int32)
    return raw(dense[rows, columns], columns.astype(np.int32), indptr)


def spare_room() -> sp.csr_array:
    X = plain()
    return raw(np.append(X.data, [np.nan] * 5).astype(np.float32), np.append(X.indices, [99] * 5), X.indptr)


def strided() -> sp.csr_array:
    X = plain()
    return raw(np.repeat(X.data, 2)[::2], np.repeat(X.indices, 2)[::2], np.repeat(X.indptr, 2)[::2])


def read_only() -> sp.csr_array:
    X = plain()
    for array in (X.data, X.indices, X.indptr):
        array.flags.writeable = False
    return raw(X.data, X.indices, X.indptr)


def misaligned() -> sp.csr_array:
    X = plain()
    buffer = np.zeros(4 * X.nnz + 1, np.uint8)
    data = np.ndarray(X.nnz, np.float32, buffer, offset=1)
    data[:] = X.data
    return raw(data, X.indices, X.indptr)


def coo_repeated() -> sp.coo_array:
    X = plain(dtype=np.float64).tocoo()
    row, col = X.coords
    return sp.coo_array((np.tile(X.data / 2, 2), (np.tile(row, 2), np.tile(col, 2))), shape=X.shape)


def int_duplicates() -> sp.csr_array:
    """uint8 duplicates whose sum needs more than eight bits: 200 + 200 in every cell."""
    X = plain()
    return raw(np.full(2 * X.nnz, 200, np.uint8), np.repeat(X.indices, 2), X.indptr * 2)


def heavy(axis: int) -> sp.csr_array:
    """One row (0) or column (1) that holds every cell."""
    X = np.zeros((M, N), np.float32)
    X[(5, slice(None)) if axis == 0 else (slice(None), 5)] = 1
    return sp.csr_array(X)


SAME: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {  # name -> (matrix, the canonical one that it equals)
    "csr_matrix": (lambda: sp.csr_matrix(plain()), plain),
    "csc": (lambda: plain().tocsc(), plain),
    "coo": (lambda: plain().tocoo(), plain),
    "lil": (lambda: plain().tolil(), plain),
    "dok": (lambda: plain().todok(), plain),
    "bsr": (lambda: plain().tobsr((2, 3)), plain),
    "dia": (lambda: plain().todia(), plain),
    "transposed view": (lambda: sp.csr_array(plain().T).T, plain),
    "int64 indices": (
        lambda: raw(plain().data, plain().indices.astype(np.int64), plain().indptr.astype(np.int64)),
        plain,
    ),
    "mixed index types": (lambda: changed("indptr", lambda a: a.astype(np.int64)), plain),
    "uint32 indices": (lambda: changed("indices", lambda a: a.astype(np.uint32)), plain),
    "int8 indices": (lambda: changed("indices", lambda a: a.astype(np.int8)), plain),
    "big-endian indices": (lambda: changed("indices", lambda a: a.astype(">i4")), plain),
    "unsorted": (unsorted, plain),
    "duplicates": (duplicated, plain),
    "duplicates in coo": (coo_repeated, plain),
    "duplicates beyond uint8": (int_duplicates, lambda: _scaled(400)),
    "stored zeros": (with_zeros, plain),
    "int32 values": (lambda: plain(dtype=np.int32), plain),
    "uint8 values": (lambda: plain(dtype=np.uint8), plain),
    "bool values": (lambda: plain() > 0, lambda: _scaled(1)),
    "float16 values": (lambda: changed("data", lambda a: a.astype(np.float16)), plain),
    "float64 values": (lambda: plain(dtype=np.float64), plain),
    "big-endian values": (lambda: changed("data", lambda a: a.astype(">f4")), plain),
    "read-only arrays": (read_only, plain),
    "spare room": (spare_room, plain),
    "strided arrays": (strided, plain),
    "misaligned values": (misaligned, plain),
    "flags that lie": (lambda: _lying(), plain),
}


def _scaled(value: float) -> sp.csr_array:
    X = plain()
    return sp.csr_array((np.full(X.nnz, value, np.float32), X.indices, X.indptr), shape=X.shape)


def _lying() -> sp.csr_array:
    """Unsorted, with the flags of scipy that say sorted."""
    X = unsorted()
    X.has_sorted_indices = X.has_canonical_format = True
    return X


FINITE: dict[str, Callable[[], Any]] = {  # odd but valid: the result must be finite, and for als a minimiser
    "no cells": lambda: sp.csr_array((M, N), dtype=np.float32),
    "no rows": lambda: sp.csr_array((0, N), dtype=np.float32),
    "no columns": lambda: sp.csr_array((M, 0), dtype=np.float32),
    "nothing": lambda: sp.csr_array((0, 0), dtype=np.float32),
    "one row": lambda: plain()[[1]],
    "one column": lambda: plain()[:, [1]],
    "one cell": lambda: sp.csr_array(np.ones((1, 1), np.float32)),
    "full": lambda: sp.csr_array(np.ones((M, N), np.float32)),
    "constant 1e4": lambda: sp.csr_array(np.full((M, N), 1e4, np.float32)),
    "one row holds all": lambda: heavy(0),
    "one column holds all": lambda: heavy(1),
    "equal rows": lambda: sp.csr_array(np.tile(plain().toarray()[1], (M, 1))),
    "only zeros stored": lambda: raw(
        np.zeros(N, np.float32), np.arange(N, dtype=np.int32), np.append(0, np.full(M, N, np.int32))
    ),
    "denormal values": lambda: plain() * np.float32(1e-42),
    "values 1e-30": lambda: plain() * np.float32(1e-30),
    "values 1e15": lambda: plain() * np.float32(1e15),
    "values 1e-15 to 1e15": lambda: sp.csr_array(
        plain().multiply(10.0 ** np.random.default_rng(1).integers(-15, 15, (M, N)))
    ),
    "float64 values below float32": lambda: plain(dtype=np.float64) * 1e-300,
}

REFUSED: dict[str, tuple[Callable[[], Any], tuple[str, ...]]] = {  # name -> (matrix, words of the message)
    "nan": (lambda: changed("data", at(3, np.nan)), ("X", "non-finite", "row")),
    "inf": (lambda: changed("data", at(3, np.inf)), ("X", "non-finite", "row")),
    "-inf": (lambda: changed("data", at(3, -np.inf)), ("X", "non-finite", "row")),
    "nan among duplicates": (lambda: _nan_duplicates(), ("X", "non-finite", "row")),
    "negative": (lambda: changed("data", at(3, -1)), ("X", "negative", "row")),
    "too large for float32": (lambda: plain(dtype=np.float64) * 1e300, ("X", "float32")),
    "duplicates beyond float32": (lambda: duplicated(np.float64) * 3e38, ("X", "float32")),
    "complex": (lambda: plain().astype(complex), ("X", "real", "complex")),
    "object": (lambda: changed("data", lambda a: a.astype(object)), ("X", "real", "object")),
    "strings": (lambda: changed("data", lambda a: a.astype(str)), ("X", "real")),
    "long double": (lambda: plain().astype(np.longdouble), ("X", "real")),
    "dense array": (lambda: plain().toarray(), ("X", "sparse", "ndarray")),
    "list": (lambda: plain().toarray().tolist(), ("X", "sparse", "list")),
    "None": (lambda: None, ("X", "sparse", "None")),
    "text": (lambda: "X.npz", ("X", "sparse", "str")),
    "one-dimensional": (lambda: sp.coo_array(np.arange(5.0)), ("X", "two dimensions")),
    "index too large": (lambda: changed("indices", at(5, N)), ("X", "valid sparse", "indices")),
    "index 2147483647": (lambda: changed("indices", at(5, 2**31 - 1)), ("X", "valid sparse", "indices")),
    "index negative": (lambda: changed("indices", at(5, -1)), ("X", "valid sparse", "indices")),
    "index -2147483648": (lambda: changed("indices", at(5, -(2**31))), ("X", "valid sparse", "indices")),
    "index 2^40": (lambda: changed("indices", lambda a: at(5, 2**40)(a.astype(np.int64))), ("X", "valid sparse")),
    "float indices": (lambda: changed("indices", lambda a: a + 0.5), ("X", "valid sparse", "integer")),
    "indices of two dimensions": (lambda: changed("indices", lambda a: a[:, None]), ("X", "valid sparse")),
    "indices too short": (lambda: changed("indices", lambda a: a[:-3]), ("X", "valid sparse", "past the end")),
    "data too short": (lambda: changed("data", lambda a: a[:-3]), ("X", "valid sparse", "past the end")),
    "data of two dimensions": (lambda: changed("data", lambda a: a[:, None]), ("X", "valid sparse", "data")),
    "indptr falls": (lambda: changed("indptr", at(4, 10**6)), ("X", "valid sparse")),
    "indptr negative": (lambda: changed("indptr", at(4, -5)), ("X", "valid sparse")),
    "indptr starts at 1": (lambda: changed("indptr", at(0, 1)), ("X", "valid sparse", "0")),
    "indptr past the end": (lambda: changed("indptr", at(-1, 10**6)), ("X", "valid sparse", "past the end")),
    "indptr ends at 2^31 - 1": (lambda: changed("indptr", at(-1, 2**31 - 1)), ("X", "valid sparse", "past the end")),
    "indptr too short": (lambda: changed("indptr", lambda a: a[:-1]), ("X", "valid sparse")),
    "indptr too long": (lambda: changed("indptr", lambda a: np.append(a, a[-1])), ("X", "valid sparse")),
    "indptr empty": (lambda: changed("indptr", lambda a: a[:0]), ("X", "valid sparse")),
    "float indptr": (lambda: changed("indptr", lambda a: a.astype(float)), ("X", "valid sparse", "integer")),
    "object indices": (lambda: changed("indices", lambda a: a.astype(object)), ("X", "valid sparse", "integer")),
    "csc with a bad index": (lambda: _bad_csc(), ("X", "valid sparse")),
    "coo with a bad index": (lambda: _bad_coo(N), ("X", "valid sparse")),
    "coo with a negative index": (lambda: _bad_coo(-1), ("X", "valid sparse")),
    "bsr with a bad index": (lambda: _bad_bsr(), ("X", "valid sparse")),
    "lil with a bad index": (lambda: _bad_lil(), ("X", "valid sparse")),
}


def _nan_duplicates() -> sp.csr_array:
    X = duplicated()
    X.data[[0, 1]] = np.inf, -np.inf
    return X


def _bad_csc() -> sp.csc_array:
    X = plain().tocsc()
    X.indices[2] = 10**6
    return X


def _bad_coo(index: int) -> sp.coo_array:
    X = plain().tocoo()
    X.coords[1][2] = index
    return X


def _bad_bsr() -> sp.bsr_array:
    X = plain().tobsr((2, 3))
    X.indices[2] = 10**6
    return X


def _bad_lil() -> sp.lil_array:
    X = plain().tolil()
    X.rows[0] = [10**6] * len(X.rows[0])
    return X
