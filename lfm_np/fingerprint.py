"""Hashes that tell arrays and matrices apart, of whole arrays or piece by piece."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import scipy.sparse as sp

PIECE = 1 << 16  # numbers looked at together


class Digest:
    """SHA-256 of arrays; integers count as int64."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def begin(self, dtype: Any, shape: tuple[int, ...]) -> None:
        """The pieces of an array follow."""
        self._dtype = np.dtype("<i8") if np.dtype(dtype).kind in "iu" else np.dtype(dtype).newbyteorder("<")
        self._digest.update(f"{self._dtype.str}{shape}".encode())

    def add(self, piece: np.ndarray) -> None:
        self._digest.update(np.ascontiguousarray(piece, self._dtype).reshape(-1).view(np.uint8).data)

    def text(self) -> str:
        return self._digest.hexdigest()


def hash_arrays(arrays: tuple[Any, ...]) -> str:
    digest = Digest()
    for array in map(np.asarray, arrays):
        digest.begin(array.dtype, array.shape)
        step = max(1, PIECE * len(array) // max(array.size, 1))
        for lo in range(0, len(array), step):
            digest.add(array[lo : lo + step])
    return digest.text()


def fingerprint(X: sp.csr_array) -> str:
    """Hash of a canonical matrix, the same for either index type."""
    return hash_arrays((np.array(X.shape, np.int64), X.indptr, X.indices, X.data))
