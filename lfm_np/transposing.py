"""The transpose of a matrix in memory, by all threads."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from lfm_np.kernels.buckets import count_columns, scatter_rows
from lfm_np.kernels.jit import Pool
from lfm_np.validation import frozen, share_csr

BYTES_A_CELL = 2  # of the counts, at most


def transposed(X: sp.csr_array, pool: Pool) -> sp.csr_array:
    """Xᵀ (n × m, int32 indices, rows in ascending order), to the bits of ``X.T.tocsr()``.

    X is cut into ranges of rows, one a thread. Each counts its cells by column, which says where the columns of every
    range begin, and puts them there. O(nnz + parts·n) time, at most BYTES_A_CELL bytes a cell beside the result.
    """
    (m, n), nnz = X.shape, X.nnz
    parts = max(1, min(pool.num_threads, BYTES_A_CELL * nnz // (8 * max(n, 1))))
    edges = np.searchsorted(X.indptr, nnz * np.arange(1, parts, dtype=np.int64) // parts).tolist()
    edges = [0, *edges, m]
    indptr, indices, data = (frozen(part) for part in (X.indptr.astype(np.int64, copy=False), X.indices, X.data))
    following = np.zeros((parts, n), np.int64)

    def count(part: int, worker: int) -> None:
        lo, hi = edges[part], edges[part + 1]
        count_columns(indices, indptr[lo], indptr[hi], following[part])

    pool.run(count, parts)
    starts = np.concatenate(([0], np.cumsum(following.sum(axis=0))))
    following = starts[:-1] + np.cumsum(following, axis=0) - following
    rows, values = np.empty(nnz, np.int32), np.empty(nnz, data.dtype)

    def scatter(part: int, worker: int) -> None:
        place = edges[part], edges[part + 1], following[part], rows, values
        scatter_rows(indptr, indices, data, *place)

    pool.run(scatter, parts)
    return share_csr(values, rows, starts, (n, m))
