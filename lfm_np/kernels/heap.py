"""The N best so far of each user, one a row: a short list, the best first, or a longer heap, whose root is the worst.

Up to LONGEST a list is the faster one: an insertion moves what is worse, in a loop with one branch that is hard to
foresee, where a heap has two on each level.
"""

from __future__ import annotations

import numpy as np

from lfm_np.kernels.jit import exact_inlined as inlined
from lfm_np.kernels.jit import exact_jit as jit

LONGEST = 32  # a list of more than that is a heap


@inlined
def worse(score, item, other_score, other_item):
    """Whether (score, item) ranks after the other: lower score, or the same and a higher id."""
    return score < other_score or (score == other_score and item > other_item)


@jit
def sift_down(scores, ids, t, size, at):
    score = scores[t, at]
    item = ids[t, at]
    while 2 * at + 1 < size:
        child = 2 * at + 1
        if child + 1 < size and worse(scores[t, child + 1], ids[t, child + 1], scores[t, child], ids[t, child]):
            child += 1
        if not worse(scores[t, child], ids[t, child], score, item):
            break
        scores[t, at] = scores[t, child]
        ids[t, at] = ids[t, child]
        at = child
    scores[t, at] = score
    ids[t, at] = item


@inlined
def push(scores, ids, t, size, score, item):
    """Offer an item to heap ``t`` of ``size`` items; the new size."""
    if size < scores.shape[1]:
        at = size
        while at > 0 and worse(score, item, scores[t, (at - 1) // 2], ids[t, (at - 1) // 2]):
            scores[t, at] = scores[t, (at - 1) // 2]
            ids[t, at] = ids[t, (at - 1) // 2]
            at = (at - 1) // 2
        scores[t, at] = score
        ids[t, at] = item
        return size + 1
    if worse(scores[t, 0], ids[t, 0], score, item):
        scores[t, 0] = score
        ids[t, 0] = item
        sift_down(scores, ids, t, size, 0)
    return size


@inlined
def insert(scores, ids, t, size, score, item):
    """Offer an item to list ``t`` of ``size`` items; the new size."""
    at = size
    if size == scores.shape[1]:
        at = size - 1
        if not worse(scores[t, at], ids[t, at], score, item):
            return size
    while at > 0 and worse(scores[t, at - 1], ids[t, at - 1], score, item):
        scores[t, at] = scores[t, at - 1]
        ids[t, at] = ids[t, at - 1]
        at -= 1
    scores[t, at] = score
    ids[t, at] = item
    return min(size + 1, scores.shape[1])


@jit
def finish(scores, ids, t, size):
    """Turn heap ``t`` into a list, the best first; pad a list with id −1 and score −inf."""
    for last in range(size - 1 if scores.shape[1] > LONGEST else 0, 0, -1):
        scores[t, 0], scores[t, last] = scores[t, last], scores[t, 0]
        ids[t, 0], ids[t, last] = ids[t, last], ids[t, 0]
        sift_down(scores, ids, t, last, 0)
    for j in range(size, scores.shape[1]):
        scores[t, j] = -np.inf
        ids[t, j] = -1
