"""Approximate nearest neighbours: factors as vectors, and as indexes of usearch and faiss.

The score of an item is an inner product, and the graphs of these libraries are built for distances. With two more
coordinates, both order items alike: item i becomes (V[i], b_i, √(M² − ‖V[i]‖² − b_i²)), where M² is the largest
‖V[i]‖² + b_i², and user u becomes (U[u], 1, 0). All items then have norm M, and the inner product with a user is
U[u]·V[i] + b_i, so that inner product, cosine and Euclidean distance agree.

`Factors.recommend` is exact, takes seen items out, and was also faster where it was measured (`benchmarks/ann.py`):
this is for services that run on such an index already.

References
----------
Y. Bachrach et al. Speeding up the Xbox recommender system using a Euclidean transformation for inner-product spaces.
RecSys 2014, section 3.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from lfm_np import validation as check
from lfm_np.errors import missing_extra
from lfm_np.factors import Factors
from lfm_np.quiet import quietly
from lfm_np.ranking import Ranked


def item_vectors(factors: Factors) -> np.ndarray:
    """The item factors as vectors of one norm, shape (n, k + 2), float32.

    Examples
    --------
    >>> import numpy as np
    >>> from lfm_np import Factors, ann
    >>> factors = Factors(np.array([[1.0, 2.0]]), np.array([[3.0, 4.0], [0.0, 0.0]]), item_bias=[0.0, 1.0])
    >>> ann.item_vectors(factors) @ ann.user_vectors(factors, 0)
    array([11.,  1.], dtype=float32)
    """
    V = _checked(factors).item_factors.astype(np.float64)
    bias = np.zeros(len(V)) if factors.item_bias is None else factors.item_bias.astype(np.float64)
    return _finite("item_factors", quietly(_lengthened, V, bias))


def _lengthened(V: np.ndarray, bias: np.ndarray) -> np.ndarray:
    squares = (V**2).sum(axis=1) + bias**2
    rest = np.sqrt(squares.max(initial=0.0) - squares)
    return np.column_stack((V, bias, rest)).astype(np.float32)


def user_vectors(factors: Factors, users: Any = None) -> np.ndarray:
    """The vectors to ask for users' items with, shape (p, k + 2), float32; (k + 2,) for a scalar, None: all users.

    Their inner product with `item_vectors` is the score without what is the same for all items of a user.
    """
    m = _checked(factors).shape[0]
    rows = np.arange(m) if users is None else check.check_ids("users", users, m)
    vectors = np.zeros((len(rows), factors.user_factors.shape[1] + 2), np.float32)
    vectors[:, :-2], vectors[:, -2] = quietly(factors.user_factors[rows].astype, np.float32), 1
    _finite("user_factors", vectors)
    return vectors[0] if users is not None and not np.ndim(users) else vectors


def _checked(factors: Any) -> Factors:
    if not isinstance(factors, Factors):
        raise TypeError(f"factors must be Factors, got {check.shown(factors)}")
    return factors


def _finite(name: str, vectors: np.ndarray) -> np.ndarray:
    if not np.isfinite(vectors).all():
        raise ValueError(f"{name} are too large for float32, in which indexes keep vectors and their lengths")
    return vectors


def usearch_index(factors: Factors, *, num_threads: int | None = None, **options: Any) -> Any:
    """A `usearch.index.Index` of the items under their column numbers; ``index.save(path)`` writes it.

    Parameters
    ----------
    factors : Factors
    num_threads : int, optional
        None takes the cores this process may use.
    **options
        Of `usearch.index.Index`: ``connectivity``, ``expansion_add``, ``expansion_search``, ``dtype`` …
    """
    try:
        from usearch.index import Index
    except ImportError:
        raise missing_extra("usearch", "ann") from None
    vectors = item_vectors(factors)
    index = Index(ndim=vectors.shape[1], metric="ip", **({"dtype": "f32"} | options))
    index.add(np.arange(len(vectors)), vectors, threads=check.check_num_threads(num_threads))
    return index


def faiss_index(factors: Factors, *, connectivity: int = 32, expansion_add: int = 128) -> Any:
    """A `faiss.IndexHNSWFlat` of the items in the order of their columns; ``faiss.write_index(index, path)`` writes it.

    Parameters
    ----------
    factors : Factors
    connectivity : int
        Neighbours of an item in the graph.
    expansion_add : int
        Candidates while the graph is built. ``index.hnsw.efSearch`` sets those of a search.
    """
    try:
        import faiss
    except ImportError:
        raise missing_extra("faiss-cpu", "ann") from None
    vectors = item_vectors(factors)
    index = faiss.IndexHNSWFlat(vectors.shape[1], check.check_int("connectivity", connectivity, 2, 4096))
    index.hnsw.efConstruction = check.check_int("expansion_add", expansion_add, 1, 1 << 20)
    index.add(vectors)
    return index


def search(index: Any, factors: Factors, users: Any, N: int = 10) -> Ranked:
    """What an index finds, with exact scores: ids and scores of shape (p, N) as from `Factors.recommend`.

    Nothing seen is left out: ask for as many more, and drop them. An index that finds fewer pads with id −1.

    Parameters
    ----------
    index : usearch.index.Index or faiss index
        Of `item_vectors`.
    factors : Factors
    users : int or array of int, shape (p,)
        For a scalar the result is of shape (N,).
    N : int
    """
    rows, N = check.check_ids("users", users, _checked(factors).shape[0]), check.check_length("N", N)
    vectors = user_vectors(factors, rows)
    _check_index(index, factors, vectors.shape[1])
    ids = np.full((len(rows), N), -1, np.int64)
    if len(rows):
        found = _found(index.search(vectors, min(N, max(1, factors.shape[1]))))
        ids[:, : found.shape[1]] = found
    scores = np.full(ids.shape, -np.inf, factors.user_factors.dtype)
    place, _ = np.nonzero(ids >= 0)
    scores[ids >= 0] = factors.scores(rows[place], ids[ids >= 0])
    order = np.lexsort((ids, -scores), axis=1)
    ids, scores = check.read_only(*(np.take_along_axis(part, order, axis=1) for part in (ids, scores)))
    return Ranked(ids, scores) if np.ndim(users) else Ranked(ids[0], scores[0])


def _found(found: Any) -> np.ndarray:
    """The ids, −1 for none, of what an index returned."""
    if isinstance(found, tuple):  # faiss: distances and ids
        return found[1]
    keys = np.atleast_2d(found.keys)
    counts = getattr(found, "counts", np.array([keys.shape[1]]))  # usearch's object for one vector has none
    return np.where(np.arange(keys.shape[1]) < counts[:, None], keys.astype(np.int64), -1)


def _check_index(index: Any, factors: Factors, width: int) -> None:
    """An index of vectors as wide as these, and of no more of them."""
    has = getattr(index, "ndim", getattr(index, "d", None))
    if has is None or not callable(getattr(index, "search", None)):
        raise TypeError(f"index must be one of usearch or faiss, got {check.shown(index)}")
    size = index.ntotal if hasattr(index, "ntotal") else len(index)
    if has != width or size > factors.shape[1]:
        raise ValueError(
            f"index must be of the item_vectors of these factors, {factors.shape[1]} of {width} numbers, "
            f"got {size} of {has}"
        )
