"""The N best items of each user, exactly, without scoring every item.

A score is eight chains of fused multiply-adds (chain j over the latent dimensions j, j + 8, …), summed as a balanced
tree, then the item's bias, then the user's constant. `pair_scores` (dimensions in lanes) and `score_tile` (items in
lanes) do the same operations in the same order, so their bits agree.

Most items are never scored. They are sorted by falling ‖v‖ (plus bias), so that a bound on everything that is left,
against the N-th best score so far, ends a user's search. Where it pays, each row of U and V also has a *sketch*: its
coordinates in a few orthonormal directions and the norm of the rest, inflated by a rounding margin, so that the inner
product of two sketches bounds the score as computed; items whose sketches fail are not scored.

Items are laid out in panels of `PANEL` columns: panel[d, lane]. Blocks of users meet cells of `CELL` panels; lanes
beyond the last item hold NaN, which passes no comparison.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from lfm_np.kernels.jit import exact_jit as jit  # a score must not depend on how LLVM regroups its sum
from lfm_np.kernels.simd import (
    LANES,
    add,
    at_least,
    broadcast,
    fma,
    load,
    load_part,
    lowest_bit,
    store,
    sums8,
    zeros,
)

PANEL = 16  # items side by side
TILE = 4  # users of a tile: 4 × 16 comparisons fit an int64
CELL = 4  # panels of a cell
WINDOW = 256  # panels whose forbidden items are kept as bits; beyond them a binary search does
SPARSE = 3  # a score of `pair_scores` costs about three of `score_tile`


class Model(NamedTuple):
    """What a score is made of."""

    user_factors: np.ndarray  # (m, k)
    item_factors: np.ndarray  # (n, k)
    user_constant: np.ndarray  # (m,)
    item_bias: np.ndarray  # (n,)


class Index(NamedTuple):
    """Candidate items, the most promising first, and their sketches."""

    order: np.ndarray  # (c,) item ids
    position: np.ndarray  # (n,) place of an item in order; c for those that are not candidates
    bounds: np.ndarray  # (cells, 3) float64, of all items from this cell on: norm, bias, `pivot`·norm + bias
    pivot: float  # a typical user norm
    slack: np.ndarray  # (3,) float64: relative and absolute rounding margin of a product; relative one of a sum
    directions: np.ndarray  # (k, d) float64, orthonormal columns; d = 0: no sketches
    sketches: np.ndarray  # (panels, d + 2, PANEL)


class Forbidden(NamedTuple):
    """Sorted item ids that a user must not get."""

    rows: np.ndarray  # (users of the block,) their rows in indptr
    indptr: np.ndarray
    indices: np.ndarray
    everybody: np.ndarray  # and those that nobody gets


class Search(NamedTuple):
    """State of a block of users; row ``count`` stands for nobody and fills the last tile."""

    users: np.ndarray  # (count + 1,) user ids
    norms: np.ndarray  # (count + 1,) float64
    sketches: np.ndarray  # (count + 1, d + 2)
    bits: np.ndarray  # (count + 1, panels up to WINDOW) uint16: forbidden lanes
    scores: np.ndarray  # (count, N) heaps
    ids: np.ndarray  # (count, N)
    sizes: np.ndarray  # (count,)
    threshold: np.ndarray  # (count + 1,) the N-th best score; −inf while there are fewer, +inf for nobody
    cut: np.ndarray  # (count + 1,) a bound below it proves that the score is below the threshold
    live: np.ndarray  # (count + TILE,) users that still search


class Hits(NamedTuple):
    """Scores that may change a heap."""

    who: np.ndarray  # users of the block
    places: np.ndarray  # in the order
    found: np.ndarray  # scores


# ---- scores ---------------------------------------------------------------------------------------------------------


@jit
def products8(U, V, u, v, k, out):
    """Eight inner products U[u[p] : u[p] + k] · V[v[p] : v[p] + k]."""
    a0 = a1 = a2 = a3 = a4 = a5 = a6 = a7 = zeros(U, LANES)
    u0, u1, u2, u3, u4, u5, u6, u7 = u[0], u[1], u[2], u[3], u[4], u[5], u[6], u[7]
    v0, v1, v2, v3, v4, v5, v6, v7 = v[0], v[1], v[2], v[3], v[4], v[5], v[6], v[7]
    whole = k // LANES * LANES
    for f in range(0, whole, LANES):
        a0 = fma(load(U, u0 + f, LANES), load(V, v0 + f, LANES), a0)
        a1 = fma(load(U, u1 + f, LANES), load(V, v1 + f, LANES), a1)
        a2 = fma(load(U, u2 + f, LANES), load(V, v2 + f, LANES), a2)
        a3 = fma(load(U, u3 + f, LANES), load(V, v3 + f, LANES), a3)
        a4 = fma(load(U, u4 + f, LANES), load(V, v4 + f, LANES), a4)
        a5 = fma(load(U, u5 + f, LANES), load(V, v5 + f, LANES), a5)
        a6 = fma(load(U, u6 + f, LANES), load(V, v6 + f, LANES), a6)
        a7 = fma(load(U, u7 + f, LANES), load(V, v7 + f, LANES), a7)
    if whole < k:
        f = whole
        n = k - whole
        a0 = fma(load_part(U, u0 + f, n, LANES), load_part(V, v0 + f, n, LANES), a0)
        a1 = fma(load_part(U, u1 + f, n, LANES), load_part(V, v1 + f, n, LANES), a1)
        a2 = fma(load_part(U, u2 + f, n, LANES), load_part(V, v2 + f, n, LANES), a2)
        a3 = fma(load_part(U, u3 + f, n, LANES), load_part(V, v3 + f, n, LANES), a3)
        a4 = fma(load_part(U, u4 + f, n, LANES), load_part(V, v4 + f, n, LANES), a4)
        a5 = fma(load_part(U, u5 + f, n, LANES), load_part(V, v5 + f, n, LANES), a5)
        a6 = fma(load_part(U, u6 + f, n, LANES), load_part(V, v6 + f, n, LANES), a6)
        a7 = fma(load_part(U, u7 + f, n, LANES), load_part(V, v7 + f, n, LANES), a7)
    store(out, 0, sums8(a0, a1, a2, a3, a4, a5, a6, a7))


@jit
def pair_scores(model, users, items, count, out):
    """out[p] = score of (users[p], items[p]) for p < count."""
    U, V, constant, bias = model
    k = U.shape[1]
    u = np.empty(LANES, np.int64)
    v = np.empty(LANES, np.int64)
    terms = np.empty((3, LANES), out.dtype)
    for start in range(0, count, LANES):
        for j in range(LANES):
            p = min(start + j, count - 1)  # the last group repeats its last pair
            u[j] = users[p] * k
            v[j] = items[p] * k
            terms[1, j] = bias[items[p]]
            terms[2, j] = constant[users[p]]
        products8(U, V, u, v, k, terms[0])
        # as vectors, since fast-math may reorder plain additions
        s = add(add(load(terms, 0, LANES), load(terms, LANES, LANES)), load(terms, 2 * LANES, LANES))
        store(terms, 0, s)
        for p in range(start, min(start + LANES, count)):
            out[p] = terms[0, p - start]


@jit
def chains(A, r0, r1, r2, r3, panel, at, first, step, rows):
    """Σ A[r + f] · panel[f] over f = first, first + step, … < rows, for four rows of A and PANEL columns."""
    a0 = a1 = a2 = a3 = zeros(A, PANEL)
    for f in range(first, rows, step):
        b = load(panel, at + f * PANEL, PANEL)
        a0 = fma(broadcast(A, r0 + f, PANEL), b, a0)
        a1 = fma(broadcast(A, r1 + f, PANEL), b, a1)
        a2 = fma(broadcast(A, r2 + f, PANEL), b, a2)
        a3 = fma(broadcast(A, r3 + f, PANEL), b, a3)
    return a0, a1, a2, a3


@jit
def add4(x, y):
    return add(x[0], y[0]), add(x[1], y[1]), add(x[2], y[2]), add(x[3], y[3])


@jit
def score_tile(U, constant, u0, u1, u2, u3, panel):
    """Scores of four users and the PANEL items of a packed panel."""
    k = U.shape[1]
    r0, r1, r2, r3 = u0 * k, u1 * k, u2 * k, u3 * k
    s = add4(chains(U, r0, r1, r2, r3, panel, 0, 0, 8, k), chains(U, r0, r1, r2, r3, panel, 0, 1, 8, k))
    t = add4(chains(U, r0, r1, r2, r3, panel, 0, 2, 8, k), chains(U, r0, r1, r2, r3, panel, 0, 3, 8, k))
    low = add4(s, t)
    s = add4(chains(U, r0, r1, r2, r3, panel, 0, 4, 8, k), chains(U, r0, r1, r2, r3, panel, 0, 5, 8, k))
    t = add4(chains(U, r0, r1, r2, r3, panel, 0, 6, 8, k), chains(U, r0, r1, r2, r3, panel, 0, 7, 8, k))
    s = add4(low, add4(s, t))
    b = load(panel, k * PANEL, PANEL)
    s = add4(s, (b, b, b, b))
    constants = broadcast(constant, u0, PANEL), broadcast(constant, u1, PANEL)
    return add4(s, (*constants, broadcast(constant, u2, PANEL), broadcast(constant, u3, PANEL)))


@jit
def pack(model, order, first, panel):
    """Factors of PANEL items, one a lane, and a last row with their biases."""
    V = model.item_factors
    k = V.shape[1]
    for lane in range(PANEL):
        if first + lane < len(order):
            item = order[first + lane]
            for f in range(k):
                panel[f * PANEL + lane] = V[item, f]
            panel[k * PANEL + lane] = model.item_bias[item]
        else:
            panel[k * PANEL + lane] = np.nan


# ---- bounds ---------------------------------------------------------------------------------------------------------


@jit
def row_norms(A, ids, slack, norms):
    """norms[r] = ‖A[ids[r]]‖, float64, rounded up so that a product of two also covers the rounding of a score."""
    for r in range(len(ids)):
        row = ids[r]
        square = 0.0
        for f in range(A.shape[1]):
            square += np.float64(A[row, f]) * np.float64(A[row, f])
        norms[r] = np.sqrt(square * (1.0 + slack[0]) + slack[1])


@jit
def sketch(A, ids, directions, slack, out):
    """out[r, :-1] = coordinates of row ids[r] of A in the directions, and the norm of the rest; not the last one."""
    k, d = directions.shape
    head = np.empty(d, np.float64)
    for r in range(len(ids)):
        row = ids[r]
        head[:] = 0.0
        square = 0.0
        for f in range(k):
            a = np.float64(A[row, f])
            square += a * a
            for j in range(d):
                head[j] += a * directions[f, j]
        rest = square
        for j in range(d):
            rest -= head[j] * head[j]
            out[r, j] = head[j]
        # √(t² + m²)·√(t'² + m'²) ≥ tt' + mm': one number bounds the rest of the product and the rounding of all of it
        out[r, d] = np.sqrt(max(rest, 0.0) + slack[0] * square + slack[1]) * (1.0 + slack[2])


# ---- the N best so far: a heap whose root is the worst --------------------------------------------------------------


@jit
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


@jit
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


@jit
def sort_best_first(scores, ids, t, size):
    """Turn heap ``t`` into a list, best first, padded with id −1 and score −inf."""
    for last in range(size - 1, 0, -1):
        scores[t, 0], scores[t, last] = scores[t, last], scores[t, 0]
        ids[t, 0], ids[t, last] = ids[t, last], ids[t, 0]
        sift_down(scores, ids, t, last, 0)
    for j in range(size, scores.shape[1]):
        scores[t, j] = -np.inf
        ids[t, j] = -1


# ---- forbidden items ------------------------------------------------------------------------------------------------


@jit
def contains(sorted_ids, low, high, item):
    """Binary search in sorted_ids[low:high]."""
    end = high
    while low < high:
        middle = (low + high) // 2
        if sorted_ids[middle] < item:
            low = middle + 1
        else:
            high = middle
    return low < end and sorted_ids[low] == item


@jit
def mark(bits, t, position, ids, low, high):
    """Set the bits of ids[low:high] that lie in the window."""
    for p in range(low, high):
        at = position[ids[p]]
        panel = at // PANEL
        if panel < bits.shape[1]:
            bits[t, panel] |= np.uint16(1 << (at % PANEL))


@jit
def mark_forbidden(index, forbidden, bits):
    rows, indptr, indices, everybody = forbidden
    position = index.position
    for t in range(len(rows)):
        mark(bits, t, position, indices, indptr[rows[t]], indptr[rows[t] + 1])
        mark(bits, t, position, everybody, 0, len(everybody))


@jit
def allowed(mask, bits, t0, t1, t2, t3, panel):
    """The tile's mask without the forbidden lanes of a panel in the window."""
    if mask == 0 or panel >= bits.shape[1]:
        return mask
    low = np.int64(bits[t0, panel]) | np.int64(bits[t1, panel]) << 16
    return mask & ~(low | np.int64(bits[t2, panel]) << 32 | np.int64(bits[t3, panel]) << 48)


@jit
def settle(model, index, forbidden, search, hits, count):
    """Offer scored items to the heaps and lift the thresholds.

    Arrays are taken out of their tuples once, and hits come in batches, because each access to such a field costs an
    atomic reference count.
    """
    rows, indptr, indices, everybody = forbidden
    order, slack, constants = index.order, index.slack, model.user_constant
    users, bits, scores, ids, sizes = search.users, search.bits, search.scores, search.ids, search.sizes
    threshold, cut = search.threshold, search.cut
    who, places, found = hits
    for h in range(count):
        t = who[h]
        if found[h] < threshold[t]:
            continue
        item = order[places[h]]
        if places[h] // PANEL >= bits.shape[1]:
            if contains(indices, indptr[rows[t]], indptr[rows[t] + 1], item):
                continue
            if contains(everybody, 0, len(everybody), item):
                continue
        sizes[t] = push(scores, ids, t, sizes[t], found[h], item)
        if sizes[t] == scores.shape[1]:
            worst = np.float64(scores[t, 0])
            constant = np.float64(constants[users[t]])
            threshold[t] = scores[t, 0]
            cut[t] = worst - constant - slack[2] * (abs(worst) + abs(constant))


# ---- cells ----------------------------------------------------------------------------------------------------------


@jit
def pass_mask(s, cut, t0, t1, t2, t3):
    """Bit 16·j + lane: s[j][lane] ≥ cut[t_j]."""
    low = at_least(s[0], broadcast(cut, t0, PANEL)) | at_least(s[1], broadcast(cut, t1, PANEL)) << 16
    return low | at_least(s[2], broadcast(cut, t2, PANEL)) << 32 | at_least(s[3], broadcast(cut, t3, PANEL)) << 48


@jit
def still_live(index, search, live, cell):
    """Keep the users to whom this cell or a later one may matter; fill up the last tile with nobody."""
    users, norms, cut = search.live, search.norms, search.cut
    norm, bias, both = index.bounds[cell, 0], index.bounds[cell, 1], index.bounds[cell, 2]
    kept = 0
    for a in range(live):
        t = users[a]
        # max(u‖v‖ + b) ≤ u·max‖v‖ + max b, and ≤ max(pivot‖v‖ + b) + max(u − pivot, 0)·max‖v‖
        bound = min(norms[t] * norm + bias, both + max(norms[t] - index.pivot, 0.0) * norm)
        if bound >= cut[t]:
            users[kept] = t
            kept += 1
    for a in range(kept, (kept + TILE - 1) // TILE * TILE):
        users[a] = len(search.sizes)
    return kept


@jit
def dense_panel(model, search, live, p, panel, hits):
    """Score a packed panel for every live user; write what reaches the thresholds and return its number."""
    U, constant, users, bits = model.user_factors, model.user_constant, search.users, search.bits
    threshold, live_users = search.threshold, search.live
    who, places, found = hits
    scores = np.empty(TILE * PANEL, panel.dtype)
    count = 0
    for a in range(0, live, TILE):
        t0, t1, t2, t3 = live_users[a], live_users[a + 1], live_users[a + 2], live_users[a + 3]
        s = score_tile(U, constant, users[t0], users[t1], users[t2], users[t3], panel)
        mask = allowed(pass_mask(s, threshold, t0, t1, t2, t3), bits, t0, t1, t2, t3, p)
        if mask != 0:
            store(scores, 0, s[0])
            store(scores, PANEL, s[1])
            store(scores, 2 * PANEL, s[2])
            store(scores, 3 * PANEL, s[3])
        while mask != 0:
            bit = lowest_bit(mask)
            mask ^= np.int64(1) << bit
            who[count] = live_users[a + bit // PANEL]
            places[count] = p * PANEL + bit % PANEL
            found[count] = scores[bit]
            count += 1
    return count


@jit
def sketch_panel(index, search, live, p, hits, count, room):
    """Append the pairs whose sketches pass to the hits and return their number; −1 when there is no room."""
    S, bits, cut, live_users, sketches = search.sketches, search.bits, search.cut, search.live, index.sketches
    who, places = hits.who, hits.places
    D = S.shape[1]
    for a in range(0, live, TILE):
        t0, t1, t2, t3 = live_users[a], live_users[a + 1], live_users[a + 2], live_users[a + 3]
        s = chains(S, t0 * D, t1 * D, t2 * D, t3 * D, sketches, p * D * PANEL, 0, 1, D)
        mask = allowed(pass_mask(s, cut, t0, t1, t2, t3), bits, t0, t1, t2, t3, p)
        while mask != 0:
            if count == room:
                return -1
            bit = lowest_bit(mask)
            mask ^= np.int64(1) << bit
            who[count] = live_users[a + bit // PANEL]
            places[count] = p * PANEL + bit % PANEL
            count += 1
    return count


@jit
def sparse_cell(model, index, search, live, first, last, hits, pairs):
    """Score what passes the sketches of some panels; the number of hits, or −1 if a dense cell is cheaper."""
    room = live * (last - first) * PANEL // SPARSE
    count = 0
    for p in range(first, last):
        count = sketch_panel(index, search, live, p, hits, count, room)
        if count < 0:
            return -1
    users, order = search.users, index.order
    who, places, found = hits
    for h in range(count):
        pairs[0, h] = users[who[h]]
        pairs[1, h] = order[places[h]]
    pair_scores(model, pairs[0], pairs[1], count, found)
    return count


# ---- the search -----------------------------------------------------------------------------------------------------


@jit
def start_search(model, index, users, scores, ids):
    """Norms, sketches and empty heaps for a block of users."""
    count = len(users)
    dtype = model.user_factors.dtype
    everyone = np.empty(count + 1, np.int64)
    everyone[:count] = users
    everyone[count] = users[0]
    panels = (len(index.order) + PANEL - 1) // PANEL
    norms = np.empty(count + 1, np.float64)
    row_norms(model.user_factors, everyone, index.slack, norms)
    d = index.directions.shape[1]
    sketches = np.ones((count + 1, d + 2), dtype)
    if d > 0:
        sketch(model.user_factors, everyone, index.directions, index.slack, sketches)
    search = Search(
        everyone,
        norms,
        sketches,
        np.zeros((count + 1, min(panels, WINDOW)), np.uint16),
        scores,
        ids,
        np.zeros(count, np.int64),
        np.full(count + 1, -np.inf, dtype),
        np.full(count + 1, -np.inf, dtype),
        np.arange(count + TILE),
    )
    search.threshold[count] = np.inf
    search.cut[count] = np.inf
    return search


@jit
def best_items(model, index, forbidden, users, scores, ids):
    """The N best allowed items of each user of a block, best first, into ``scores`` and ``ids``, shape (count, N)."""
    search = start_search(model, index, users, scores, ids)
    mark_forbidden(index, forbidden, search.bits)
    panels = (len(index.order) + PANEL - 1) // PANEL
    live = len(users)
    room = (live + TILE) * CELL * PANEL
    hits = Hits(np.empty(room, np.int64), np.empty(room, np.int64), np.empty(room, scores.dtype))
    pairs = np.empty((2, room), np.int64)
    panel = np.zeros((model.item_factors.shape[1] + 1) * PANEL, scores.dtype)
    wait = 0  # cells to score densely before the sketches are tried again, and how long the next wait is
    next_wait = 0
    for cell in range(len(index.bounds)):
        live = still_live(index, search, live, cell)
        if live == 0:
            break
        first = cell * CELL
        last = min(first + CELL, panels)
        if wait == 0 and index.directions.shape[1] > 0:
            count = sparse_cell(model, index, search, live, first, last, hits, pairs)
            if count >= 0:
                settle(model, index, forbidden, search, hits, count)
                next_wait = 0
                continue
            wait = next_wait
            next_wait = 2 * next_wait + 1
        else:
            wait -= 1
        for p in range(first, last):
            pack(model, index.order, p * PANEL, panel)
            count = dense_panel(model, search, live, p, panel, hits)
            settle(model, index, forbidden, search, hits, count)
    for t in range(len(users)):
        sort_best_first(scores, ids, t, search.sizes[t])
