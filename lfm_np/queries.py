"""What one asks of fitted factors: scores, the best items, similar rows. Bound to `Factors` as its methods."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lfm_np import ranking
from lfm_np import validation as check
from lfm_np.item_index import build_index
from lfm_np.ranking import Ranked

if TYPE_CHECKING:
    from lfm_np.factors import Factors
    from lfm_np.kernels.topk import Index


def scores(factors: Factors, users: Any, items: Any, *, num_threads: int | None = None) -> np.ndarray:
    """Scores of pairs: μ + b_u + b_i + U[u]·V[i].

    Parameters
    ----------
    users, items : int or array of int, shape (p,)
        Pairwise; a scalar goes with all entries of the other.
    num_threads : int, optional
        None takes the cores this process may use. The result does not depend on it.

    Returns
    -------
    ndarray, shape (p,), of the factors' dtype
        Shape () where both are scalars. Read-only, as all results are.

    Notes
    -----
    A score is one dot product in a fixed order (eight chains of fused multiply-adds, added as a tree, then b_i,
    then μ + b_u), the same here and in ``recommend``, bit for bit. Costs O(p k).

    Examples
    --------
    >>> import numpy as np
    >>> from lfm_np import Factors
    >>> factors = Factors(np.eye(2), np.array([[3.0, 1.0], [0.0, 2.0], [1.0, 1.0]]))
    >>> factors.scores(0, [0, 1, 2])
    array([3., 0., 1.])
    """
    m, n = factors.shape
    u, i = check.check_ids("users", users, m), check.check_ids("items", items, n)
    scalar = np.ndim(users) == np.ndim(items) == 0
    if np.ndim(users) and np.ndim(items) and len(u) != len(i):
        raise ValueError(f"users and items are pairs and must be equally long, got {len(u)} and {len(i)}")
    length = len(i) if np.ndim(items) else len(u)
    u, i = np.broadcast_to(u, length), np.broadcast_to(i, length)
    result = check.frozen(ranking.scores(factors._model, u, i, check.check_num_threads(num_threads)))
    return result.reshape(()) if scalar else result


def recommend(
    factors: Factors,
    users: Any,
    *,
    N: int = 10,
    seen: Any = None,
    items: Any = None,
    exclude: Any = None,
    num_threads: int | None = None,
) -> Ranked:
    """The N best allowed items of each user.

    Parameters
    ----------
    users : int or array of int, shape (p,)
        Row numbers.
    N : int
        Length of a list.
    seen : sparse matrix or Interactions, shape (m, n), optional
        A user never gets an item of the own row. Always the *whole* matrix, whatever ``users`` are. A stored zero
        counts as absent (not where the model was fitted to ratings: there zero is a value).
    items : array of int, optional
        Only these are allowed; none leaves every list empty (−1).
    exclude : array of int, optional
        Nobody gets these.
    num_threads : int, optional
        None takes the cores this process may use. The result does not depend on it.

    Returns
    -------
    ids : ndarray, shape (p, N), int64
        Best first; equal scores in ascending order of id. A user with fewer than N allowed items gets −1 for the
        rest. Shape (N,) for a scalar user.
    scores : ndarray, shape (p, N), of the factors' dtype
        As from ``scores``, bit for bit; −inf for the rest.

    Raises
    ------
    TypeError, ValueError
        An argument of the wrong kind, an id out of range, a matrix of the wrong shape.
    MemoryError
        The lists need more memory than there is.

    Notes
    -----
    Exact: equal to scoring all items and sorting. Items are tried in order of falling norm, and a user's search
    ends when no later item can reach the N-th best score so far; of the others, only those are scored whose bound
    in bytes reaches it, on processors with AVX-512 VNNI; see ``lfm_np.kernels.topk``. In the worst case every item
    is scored, O(p n k). Memory: the result, the item index (built once per result, and again for other ``items`` than
    the last; with bytes about k + 30 of them an item), and a few MiB a thread.

    References
    ----------
    Teflioudi, Gemulla, Mykytiuk, "LEMP: Fast Retrieval of Large Entries in a Matrix Product", SIGMOD 2015.
    Li, Chan, Yiu, Mamoulis, "FEXIPRO: Fast and Exact Inner Product Retrieval", SIGMOD 2017.

    Examples
    --------
    >>> import numpy as np
    >>> from lfm_np import Factors
    >>> import scipy.sparse as sp
    >>> factors = Factors(np.eye(2), np.array([[3.0, 1.0], [0.0, 2.0], [1.0, 1.0]]))
    >>> seen = sp.csr_array(np.array([[1, 0, 0], [0, 0, 0]]))
    >>> ids, scores = factors.recommend([0, 1], N=3, seen=seen)
    >>> ids
    array([[ 2,  1, -1],
           [ 1,  0,  2]])
    """
    m, n = factors.shape
    u, N = check.check_ids("users", users, m), check.check_length("N", N)
    rows = check.check_seen("seen", seen, u, (m, n), keep_zeros=factors._zero_is_a_value, optional=True)
    denied = np.unique(check.check_ids("exclude", [] if exclude is None else exclude, n))
    index = factors._index if items is None else _index_of(factors, check.check_ids("items", items, n))
    threads = check.check_num_threads(num_threads)
    result = ranking.best(factors._model, index, u, N, rows, denied, threads)
    return result if np.ndim(users) else Ranked(result.ids[0], result.scores[0])


def _index_of(factors: Factors, items: np.ndarray) -> Index:
    """That over some items; the last one is kept, since one asks for many users' lists of the same."""
    ascending = np.all(items[1:] > items[:-1])  # a sort takes longer than a search
    items = items.copy() if ascending else np.unique(items)
    before, index = factors._of_items.get("some", (None, None))
    if before is None or not np.array_equal(before, items):
        items, index = factors._of_items["some"] = items, factors._index_over(items)
    return index


def similar_items(
    factors: Factors, items: Any, *, N: int = 10, metric: str = "cosine", num_threads: int | None = None
) -> Ranked:
    """The N items most similar to each item, itself included (as a rule the first).

    Parameters
    ----------
    items : int or array of int, shape (p,)
    N : int
        Length of a list.
    metric : {"cosine", "inner"}
        cos(V[i], V[j]), 0 for zero vectors; or V[i]·V[j]. Biases play no part.
    num_threads : int, optional
        None takes the cores this process may use.

    Returns
    -------
    ids, scores : ndarray, shape (p, N)
        As from ``recommend``.
    """
    return _similar(factors, "items", items, N, metric, num_threads)


def similar_users(
    factors: Factors, users: Any, *, N: int = 10, metric: str = "cosine", num_threads: int | None = None
) -> Ranked:
    """The N users most similar to each user, as in ``similar_items``."""
    return _similar(factors, "users", users, N, metric, num_threads)


def _similar(factors: Factors, side: str, ids: Any, N: int, metric: str, num_threads: int | None) -> Ranked:
    A = factors.item_factors if side == "items" else factors.user_factors
    rows, N = check.check_ids(side, ids, len(A)), check.check_length("N", N)
    name, made = check.check_choice("metric", metric, ("cosine", "inner")), getattr(factors, f"_of_{side}")
    if name not in made:
        unit = ranking.unit_rows(A) if metric == "cosine" else A
        model = ranking.make_model(unit, unit, None, None, None)
        made[name] = model, build_index(model, np.arange(len(A)))
    nothing = check.check_seen("seen", None, rows, (0, 0), optional=True)
    threads = check.check_num_threads(num_threads)
    model, index = made[name]
    result = ranking.best(model, index, rows, N, nothing, np.empty(0, np.int64), threads)
    return result if np.ndim(ids) else Ranked(result.ids[0], result.scores[0])
