"""Ranks of the relevant items, and from ranks to metrics.

Every metric is a function of the ranks that a user's relevant items take among the candidates: rank 1 is the best, and
of equal scores the lower id ranks first. They come from a list of the best N (`list_ranks`) or from counting the scores
above each relevant item's own (`count_all`, `count_rows`).

A block of users has its items one after the other: those of user u are items[starts[u] : starts[u + 1]], sorted.
"""

from __future__ import annotations

import numpy as np

from lfm_np.kernels.bits import count_bits
from lfm_np.kernels.jit import exact_jit as jit
from lfm_np.kernels.scores import PANEL, TILE, pack, wide_tile
from lfm_np.kernels.simd import LANES, at_least, load, splat, store
from lfm_np.kernels.topk import contains

FEW = 64  # items of a user, beyond which a sort is faster than to compare each with each
CHUNK = 16  # panels whose scores are kept at a time
ABOVE, EQUAL, FIRST = 0, 1, 2  # rows of counts: higher score; same score; same score and a lower id
RECALL, CAPPED_RECALL, PRECISION, HIT_RATE, NDCG, MAP, MRR, AUC = range(8)


@jit
def mark_missing(starts, items, rows, indptr, indices, missing):
    """missing[p] = whether item p of user u is not in row rows[u] of another matrix."""
    for u in range(len(starts) - 1):
        for p in range(starts[u], starts[u + 1]):
            missing[p] = not contains(indices, indptr[rows[u]], indptr[rows[u] + 1], items[p])


# ---- ranks ----------------------------------------------------------------------------------------------------------


@jit
def list_ranks(ids, starts, items, ranks):
    """ranks[p] = place of item p in its user's list of ids, counted from 1; 0 if it is not there."""
    ranks[:] = 0
    for u in range(len(starts) - 1):
        low, high = starts[u], starts[u + 1]
        for r in range(ids.shape[1]):
            p = low + np.searchsorted(items[low:high], ids[u, r])
            if p < high and items[p] == ids[u, r]:
                ranks[p] = r + 1


@jit
def count_sorted(items, scores, other_items, other_scores, sign, counts):
    """`count_rows` of one user with many items of either kind."""
    order = np.argsort(other_scores, kind="mergesort")  # stable: equal scores stay in ascending order of their ids
    ranked, ids = other_scores[order], other_items[order]
    for p in range(len(items)):
        first = np.searchsorted(ranked, scores[p])
        last = np.searchsorted(ranked, scores[p], side="right")
        counts[ABOVE, p] += sign * (len(ranked) - last)
        counts[EQUAL, p] += sign * (last - first)
        counts[FIRST, p] += sign * np.searchsorted(ids[first:last], items[p])


@jit
def count_rows(starts, items, scores, other_starts, other_items, other_scores, sign, counts):
    """Add ``sign`` times the counts over other items of the same user."""
    for u in range(len(starts) - 1):
        if min(starts[u + 1] - starts[u], other_starts[u + 1] - other_starts[u]) > FEW:
            own, others = slice(starts[u], starts[u + 1]), slice(other_starts[u], other_starts[u + 1])
            count_sorted(items[own], scores[own], other_items[others], other_scores[others], sign, counts[:, own])
            continue
        for p in range(starts[u], starts[u + 1]):
            for q in range(other_starts[u], other_starts[u + 1]):
                counts[ABOVE, p] += sign * (other_scores[q] > scores[p])
                same = other_scores[q] == scores[p]
                counts[EQUAL, p] += sign * same
                counts[FIRST, p] += sign * (same and other_items[q] < items[p])


@jit
def count_chunk(tile, at, size, before, score):
    """(above, equal, equal among the first ``before``) of the ``size`` scores from ``at`` on; NaN after them."""
    above = 0
    equal = 0
    wanted = splat(score, PANEL)
    for j in range(at, at + size, PANEL):
        some = load(tile, j, PANEL)
        reached = at_least(some, wanted)
        same = reached & at_least(wanted, some)
        above += count_bits(reached ^ same)
        equal += count_bits(same)
    first = 0
    if equal > 0:
        chunk = tile.reshape(-1)[at : at + before]
        for j in range(before):
            first += chunk[j] == score
    return above, equal, first


@jit
def count_all(model, users, starts, items, scores, counts):
    """Add the counts over all items of the model, scored a chunk at a time."""
    n = len(model.item_factors)
    order = np.arange(n)
    width = model.item_factors.shape[1] + 1  # rows of a panel
    panels = np.empty(CHUNK * width * PANEL, scores.dtype)
    rows = np.empty(LANES, np.int64)
    tile = np.empty((TILE, CHUNK * PANEL), scores.dtype)
    for start in range(0, n, CHUNK * PANEL):
        size = min(CHUNK * PANEL, n - start)
        for c in range(0, size, PANEL):
            pack(model, order, start + c, panels, c * width, rows)
        for a in range(0, len(users), TILE):
            score_chunk(model, users, a, panels, size, tile)
            for u in range(a, min(a + TILE, len(users))):
                for p in range(starts[u], starts[u + 1]):
                    before = min(max(items[p] - start, 0), size)
                    above, equal, first = count_chunk(tile, (u - a) * CHUNK * PANEL, size, before, scores[p])
                    counts[ABOVE, p] += above
                    counts[EQUAL, p] += equal
                    counts[FIRST, p] += first


@jit
def score_chunk(model, users, a, panels, size, tile):
    """Scores of users a … a + 3 (the last one repeated) and the packed items."""
    last = len(users) - 1
    u0, u1 = users[a], users[min(a + 1, last)]
    u2, u3 = users[min(a + 2, last)], users[min(a + 3, last)]
    width = tile.shape[1]
    rows = model.item_factors.shape[1] + 1
    U, constant = model.user_factors, model.user_constant
    for c in range(0, size, 2 * PANEL):
        d = c + PANEL  # where the number of panels is odd, the last d is whatever is there: nobody reads its scores
        s = wide_tile(U, constant, u0, u1, u2, u3, panels, c * rows, d * rows)
        store(tile, c, s[0])
        store(tile, width + c, s[1])
        store(tile, 2 * width + c, s[2])
        store(tile, 3 * width + c, s[3])
        store(tile, d, s[4])
        store(tile, width + d, s[5])
        store(tile, 2 * width + d, s[6])
        store(tile, 3 * width + d, s[7])


@jit
def areas(starts, counts, negatives, auc):
    """Area under the ROC curve of each user; ``counts`` over its negatives. NaN where there are none."""
    for u in range(len(starts) - 1):
        lost = 0  # twice the pairs in the wrong order, ties half
        for p in range(starts[u], starts[u + 1]):
            lost += 2 * counts[ABOVE, p] + counts[EQUAL, p]
        pairs = (starts[u + 1] - starts[u]) * negatives[u]
        auc[u] = 1.0 - lost / (2.0 * pairs) if pairs > 0 else np.nan


# ---- metrics --------------------------------------------------------------------------------------------------------


@jit
def user_metrics(starts, ranks, auc, kinds, cutoffs, out):
    """out[u, j] = metric kinds[j] at cutoffs[j] of user u; a rank of 0 is beyond every cutoff."""
    for u in range(len(starts) - 1):
        found = np.sort(ranks[starts[u] : starts[u + 1]])
        found = found[np.searchsorted(found, 1) :]
        total = starts[u + 1] - starts[u]
        for j in range(len(kinds)):
            hits = np.searchsorted(found, cutoffs[j] + 1)
            out[u, j] = auc[u] if kinds[j] == AUC else metric(kinds[j], cutoffs[j], found, hits, total)


@jit
def metric(kind, k, found, hits, total):
    """One metric from the ascending ranks of a user's relevant items, ``hits`` of them within the cutoff."""
    if kind == RECALL:
        return hits / total
    if kind == CAPPED_RECALL:
        return hits / min(k, total)
    if kind == PRECISION:
        return hits / k
    if kind == HIT_RATE:
        return 1.0 if hits > 0 else 0.0
    if kind == MRR:
        return 1.0 / found[0] if hits > 0 else 0.0
    gain = 0.0
    best = 0.0
    if kind == MAP:
        for h in range(hits):
            gain += (h + 1.0) / found[h]
        return gain / min(k, total)
    for h in range(hits):
        gain += 1.0 / np.log2(found[h] + 1.0)  # Numba 0.59 has no math.log2
    for h in range(min(k, total)):
        best += 1.0 / np.log2(h + 2.0)
    return gain / best
