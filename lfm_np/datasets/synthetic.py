"""Synthetic interactions with a planted latent structure, so that there is something to learn.

Every row i has a few *tastes* (topics), every topic prefers some columns, and popular columns are popular in every
topic they belong to: P(j | i) = Σ_t θ_it φ_tj, a nonnegative matrix of low rank. The pairs of a row are drawn from it
without repetition. What a long row still lacks after thirty rounds of draws is drawn from all that is left alike.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp

from lfm_np import validation as check
from lfm_np.interactions import Interactions

_INT32 = np.iinfo(np.int32).max
_ROUNDS = 30  # of redrawing repeated columns, before the last ones are drawn from what is left
_DENSE_CELLS = 1 << 22  # size of the blocks in which they are


def make_interactions(m: int, n: int, max_j_per_i: int, random_state: Any = None) -> np.ndarray:
    """Distinct pairs (i, j) of m rows and n columns, with 1 to ``max_j_per_i`` columns in every row.

    Parameters
    ----------
    m, n : int
        Number of rows and of columns.
    max_j_per_i : int
        At most n. The number of columns of a row is uniform on 1 … ``max_j_per_i``.
    random_state : None, int, SeedSequence, Generator or RandomState

    Returns
    -------
    int32 array, shape (N, 2)
        Sorted by i, then j; no pair twice; every i from 0 to m − 1 occurs.

    Raises
    ------
    TypeError, ValueError
        Sizes that are not positive integers, or ``max_j_per_i`` above n.

    Notes
    -----
    The columns of a row follow its tastes, so that a model can predict them: nine in ten are drawn from one topic, the
    others from a second. Nine in ten draws from a topic are of its own columns, the others of all, popular ones first.
    No column is drawn twice, so that long rows run out of a topic's. O(N log n) time; a million rows, a thousand
    columns and up to four a row take about a second.

    Examples
    --------
    >>> pairs = make_interactions(1000, 50, 4, random_state=0)
    >>> pairs.dtype, pairs.shape[1], sorted(set(np.bincount(pairs[:, 0]).tolist()))
    (dtype('int32'), 2, [1, 2, 3, 4])
    """
    m, n, max_j_per_i = _checked(m, n, max_j_per_i)
    return _interactions(m, n, max_j_per_i, check.check_random_state(random_state))


def _checked(m: Any, n: Any, max_j_per_i: Any) -> tuple[int, int, int]:
    m, n = check.check_int("m", m, 1, _INT32), check.check_int("n", n, 1, _INT32)
    return m, n, check.check_int("max_j_per_i", max_j_per_i, 1, n)


def _interactions(m: int, n: int, max_j_per_i: int, rng: np.random.Generator) -> np.ndarray:
    counts = rng.integers(1, max_j_per_i + 1, size=m)
    topics = max(1, min(50, n // 10))
    columns = _disjoint_topics(n, topics, rng)
    tastes = _draw(np.cumsum(_zipf(topics, 1.0, 4.0)), rng, (m, 2))
    weights = np.broadcast_to([0.9, 0.1], (m, 2))
    rows, cells = _distinct_columns(counts, tastes, weights, columns, rng)
    return np.column_stack([rows, cells]).astype(np.int32)


def make_interactions_train_test(
    m: int, n: int, max_j_per_i: int, test_fraction: float = 0.2, random_state: Any = None
) -> tuple[np.ndarray, np.ndarray]:
    """`make_interactions`, cut into pairs to learn from and pairs to predict.

    Parameters
    ----------
    m, n, max_j_per_i, random_state
        As in `make_interactions`.
    test_fraction : float in [0, 1)
        Share of all pairs to hold out at random, rounded to the nearest whole number of pairs, of two to the even one.
        Every i keeps a pair in ``train``: where there are too few others, all of them are held out.
        (`Interactions.split` takes the share of the cells of each user instead.)

    Returns
    -------
    train, test : int32 array, shape (N, 2)
        Sorted by i, then j. Together they are distinct pairs; every i of 0 … m − 1 occurs in ``train``.

    Examples
    --------
    >>> train, test = make_interactions_train_test(1000, 50, 4, random_state=0)
    >>> round(len(test) / (len(train) + len(test)), 2)
    0.2
    """
    fraction = check.check_float("test_fraction", test_fraction, 0, 1, open_high=True)
    m, n, max_j_per_i = _checked(m, n, max_j_per_i)
    rng = check.check_random_state(random_state)
    pairs = _interactions(m, n, max_j_per_i, rng)
    counts = np.bincount(pairs[:, 0], minlength=m)
    first = np.cumsum(counts) - counts
    keep = first + rng.integers(0, counts)  # one pair of every row stays
    others = np.delete(np.arange(len(pairs)), keep)
    test = np.zeros(len(pairs), np.bool_)
    test[rng.choice(others, min(round(fraction * len(pairs)), len(others)), replace=False)] = True
    return pairs[~test], pairs[test]


def planted(
    m: int,
    n: int,
    cells: int,
    *,
    rank: int = 16,
    tail: float = 1.5,
    zipf: float = 1.0,
    random_state: Any = None,
) -> Interactions:
    """Interactions as a shop or a film site has them: a few busy users, a few popular items, tastes of low rank.

    Parameters
    ----------
    m, n : int
        Number of users and of items, at least 1 and 4.
    cells : int
        Number of interactions, from m to m·n/4. It is met on average: each user's share is
        rounded at random, which makes the sum differ by a standard deviation of at most √m/2.
    rank : int
        Number of topics, at most n. The matrix of probabilities has this rank.
    tail : float > 1, at most 100
        A user's number of interactions follows a power law: P(more than d) ∝ d^−tail.
    zipf : float, 0 to 10
        An item has a share of every topic, and these add up to about ∝ (r + 20)^−zipf for the r-th most popular item.
        No user has it twice, which takes from the first ones.
    random_state : None, int, SeedSequence, Generator or RandomState

    Returns
    -------
    Interactions
        Values 1; ids 0 … m − 1 and 0 … n − 1. Items in random order of popularity.

    Raises
    ------
    TypeError, ValueError
        Sizes out of range.

    Notes
    -----
    A user mixes three topics with Dirichlet(½) weights; an item belongs to topics with Dirichlet(0.1) weights, most of
    its weight on one or two. O(cells · log(rank · n)) time: about a second for a million cells.

    Examples
    --------
    >>> planted(2000, 500, 20_000, random_state=0).shape
    (2000, 500)
    """
    m, n = check.check_int("m", m, 1, _INT32), check.check_int("n", n, 4, _INT32)
    cells = check.check_int("cells", cells, m, max(m, m * n // 4))
    rank = check.check_int("rank", rank, 1, n)
    tail = check.check_float("tail", tail, 1, 100, open_low=True)
    zipf = check.check_float("zipf", zipf, 0, 10)
    rng = check.check_random_state(random_state)
    # Items first: `split` of the same seed spends its first m numbers on the users, one by one.
    columns = _overlapping_topics(n, rank, zipf, rng)
    counts = _power_law(m, cells, tail, n // 2, rng)
    tastes = rng.integers(0, rank, size=(m, 3))
    rows, found = _distinct_columns(counts, tastes, rng.dirichlet([0.5] * 3, size=m), columns, rng)
    indptr = np.append(0, np.cumsum(counts))
    matrix = sp.csr_array((np.ones(len(rows), np.float32), found.astype(np.int32), indptr), shape=(m, n))
    return Interactions._own(matrix, np.arange(m), np.arange(n))


# ---- what rows and columns are like ---------------------------------------------------------------------------------


def _zipf(size: int, exponent: float, offset: float) -> np.ndarray:
    weights = (np.arange(1, size + 1) + offset) ** -exponent
    return weights / weights.sum()


def _power_law(m: int, total: int, tail: float, most: int, rng: np.random.Generator) -> np.ndarray:
    """m integers from 1 to ``most`` with a Pareto tail that sum to about ``total``."""
    raw = (1 - rng.random(m)) ** (-1 / tail)
    low, high = 0.0, float(most)
    for _ in range(60):  # the scale, by bisection, since clipping has no inverse
        scale = (low + high) / 2
        below = np.clip(raw * scale, 1, most).sum() < total
        low, high = (scale, high) if below else (low, scale)
    exact = np.clip(raw * high, 1, most)
    return np.minimum(np.floor(exact + rng.random(m)), most).astype(np.int64)  # rounded at random: the mean holds


def _disjoint_topics(n: int, topics: int, rng: np.random.Generator) -> np.ndarray:
    """φ, shape (topics, n): each column in one topic (plus a tenth of overall popularity), Zipf inside it."""
    popularity = rng.permutation(_zipf(n, 1.0, 5.0))
    own = rng.permutation(np.arange(n) % topics)
    inside = np.where(own == np.arange(topics)[:, None], popularity, 0)
    return 0.9 * inside / inside.sum(1, keepdims=True) + 0.1 * popularity


def _overlapping_topics(n: int, topics: int, zipf: float, rng: np.random.Generator) -> np.ndarray:
    """φ, shape (topics, n): popularity times Dirichlet memberships."""
    popularity = rng.permutation(_zipf(n, zipf, 20.0))
    phi = rng.dirichlet([0.1] * topics, size=n).T * popularity + 1e-3 * popularity / topics
    return phi / phi.sum(1, keepdims=True)


# ---- drawing --------------------------------------------------------------------------------------------------------


def _draw(cumulative: np.ndarray, rng: np.random.Generator, size: Any) -> np.ndarray:
    return np.minimum(np.searchsorted(cumulative, rng.random(size)), len(cumulative) - 1)


def _draw_rowwise(stacked: np.ndarray, which: np.ndarray, width: int, rng: np.random.Generator) -> np.ndarray:
    """One draw from distribution ``which[e]`` for every e.

    ``stacked`` holds r + cumulative probabilities of distribution r, one after the other: a single ascending array, so
    that one binary search serves all of them.
    """
    drawn = np.searchsorted(stacked, which + rng.random(len(which)), side="right") - which * width
    return np.clip(drawn, 0, width - 1)


def _stack(probabilities: np.ndarray) -> np.ndarray:
    cumulative = np.cumsum(probabilities, axis=1)
    cumulative /= cumulative[:, -1:]
    return (cumulative + np.arange(len(cumulative))[:, None]).ravel()


def _distinct_columns(
    counts: np.ndarray, tastes: np.ndarray, weights: np.ndarray, phi: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """``counts[i]`` distinct columns for every row i, as (rows, columns) sorted by row, then column."""
    n = phi.shape[1]
    topics = _stack(phi)
    bounds = np.cumsum(weights, axis=1)

    def draw(rows: np.ndarray) -> np.ndarray:
        chance = rng.random(len(rows))
        choice = sum((chance > bound[rows]).astype(np.int8) for bound in bounds.T[:-1])
        return _draw_rowwise(topics, tastes[rows, choice], n, rng)

    rows = np.repeat(np.arange(len(counts), dtype=np.int64), counts)  # NumPy 1 has 32 bits for it on Windows
    keys = np.sort(rows * n + draw(rows))
    slots = np.arange(len(keys))  # a row's columns stay in its slots, so that only rows with repeats are sorted again
    for _ in range(_ROUNDS):
        part = keys[slots]
        repeated = np.append(False, part[1:] == part[:-1])
        if not repeated.any():
            return rows, keys - rows * n
        affected = np.zeros(len(counts), np.bool_)
        affected[part[repeated] // n] = True
        inside = affected[rows[slots]]
        slots, part, repeated = slots[inside], part[inside], repeated[inside]
        part[repeated] = rows[slots[repeated]] * n + draw(rows[slots[repeated]])
        part.sort()
        keys[slots] = part
    keys[slots] = _complete(keys[slots], counts, n, rng)
    return rows, keys - rows * n


def _complete(keys: np.ndarray, counts: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """Replace what is still repeated by columns drawn uniformly from those the row does not have."""
    new = np.append(True, keys[1:] != keys[:-1])
    kept = keys[new]
    rows, start, have = np.unique(kept // n, return_index=True, return_counts=True)
    short = np.flatnonzero(have < counts[rows])
    parts = [kept]
    for block in np.array_split(short, -(-len(short) * n // _DENSE_CELLS) or 1):
        order = rng.random((len(block), n))
        for line, (low, length) in enumerate(zip(start[block], have[block])):
            order[line, kept[low : low + length] % n] = 2  # behind every free column
        wanted = np.arange(n) < (counts[rows[block]] - have[block])[:, None]
        parts.append((rows[block, None] * n + np.argsort(order, axis=1))[wanted])
    return np.sort(np.concatenate(parts))
