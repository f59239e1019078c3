"""The canonical basis of the latent space: VᵀV diagonal and descending, signs fixed.

U Vᵀ, and with it every loss whose penalties weigh whole rows, does not change when U and V are rotated together. One
representative makes two results comparable number by number, and puts the strongest factors first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from lfm_np.errors import SolverError
from lfm_np.kernels.jit import Pool, single_threaded_blas
from lfm_np.quiet import eigh, quietly

Empty = Callable[[tuple[int, ...], Any], np.ndarray]


def rows_at_once(k: int) -> int:
    """Rows of k factors that are looked at together: 1 MiB in float64, but enough for BLAS."""
    return max(1024, (1 << 17) // max(k, 1))


def canonical(
    U: np.ndarray, V: np.ndarray, num_threads: int = 1, empty: Empty = np.empty
) -> tuple[np.ndarray, np.ndarray]:
    """New arrays U·Q and V·Q in the canonical basis.

    Parameters
    ----------
    U, V : ndarray, shapes (m, k) and (n, k), float32 or float64
    num_threads : int
    empty : callable
        ``empty(shape, dtype)`` makes the new arrays.

    Returns
    -------
    U, V : ndarray
        C-contiguous copies with VᵀV = diag(λ₁ ≥ λ₂ ≥ …) up to rounding; the entry of largest magnitude in each column
        of V is positive (the first of equals).

    Notes
    -----
    Columns whose eigenvalues differ by a relative gap g are determined to about eps/g only; compare scores there.
    Cost: O((m + n) k² + k³).
    """
    V, basis = canonical_items(V, num_threads, empty)
    with Pool(num_threads) as pool:
        return _rotated(U, basis, pool, empty), V


def canonical_items(V: np.ndarray, num_threads: int = 1, empty: Empty = np.empty) -> tuple[np.ndarray, np.ndarray]:
    """V in the canonical basis, and the basis: what U is to be multiplied by."""
    with single_threaded_blas():
        basis = spectrum(gram(V))[1][:, ::-1]
    with Pool(num_threads) as pool:
        V = _rotated(V, basis, pool, empty)
    signs = _signs(V)
    V *= signs
    return V, basis * signs


def gram(A: np.ndarray) -> np.ndarray:
    """AᵀA in float64, without a float64 copy of A."""
    return quietly(_gram, A)  # `spectrum` sees what is not finite


def _gram(A: np.ndarray) -> np.ndarray:
    total = np.zeros((A.shape[1], A.shape[1]))
    for rows in _blocks(A):
        exact = rows.astype(np.float64)
        total += exact.T @ exact
    return total


def spectrum(products: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues, ascending, and eigenvectors of a Gram matrix."""
    if not np.isfinite(products).all():
        raise SolverError(
            "the Gram matrix of all rows overflows; lower alpha or unobserved_weight, or scale the values"
        )
    return eigh(products)


def _signs(V: np.ndarray) -> np.ndarray:
    """±1 for each column: the sign of its entry of largest magnitude."""
    top = np.zeros(V.shape[1], V.dtype)
    for block in _blocks(V):
        candidate = np.take_along_axis(block, np.abs(block).argmax(axis=0)[None], axis=0)[0]
        top = np.where(np.abs(candidate) > np.abs(top), candidate, top)
    return np.where(top < 0, -1, 1).astype(V.dtype)


def _rotated(A: np.ndarray, basis: np.ndarray, pool: Pool, empty: Empty) -> np.ndarray:
    out = empty(A.shape, A.dtype)
    basis = quietly(np.ascontiguousarray, basis, dtype=A.dtype)

    blocks = [*zip(_blocks(A), _blocks(out), strict=True)]

    def work(block: int, worker: int) -> None:
        rows, own = blocks[block]
        np.matmul(rows, basis, out=own)

    pool.run(work, len(blocks))
    return out


def _blocks(A: np.ndarray) -> list[np.ndarray]:
    step = rows_at_once(A.shape[1])
    return [A[lo : lo + step] for lo in range(0, len(A), step)]
