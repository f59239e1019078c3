"""The N best items of each user, exactly, without scoring every item.

Most items are never scored. They are sorted by falling ‖v‖ (plus bias), so that a bound on everything that is left,
against the N-th best score so far, ends a user's search. Of the others, each has a cheap bound of its own: where the
processor multiplies bytes, by *codes* (see lfm_np.kernels.codes); elsewhere, if it pays, by *sketches*: the
coordinates of each row of U and V in a few orthonormal directions and the norm of the rest, inflated by a rounding
margin, so that the inner product of two sketches bounds the score as computed. Only items that pass are scored.

Blocks of users meet cells of `CELL` panels of items; lanes beyond the last item hold NaN, which passes no comparison.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from lfm_np.kernels.bits import count_bits, lowest_bit
from lfm_np.kernels.codes import TERMS, code_bounds, encode_users
from lfm_np.kernels.forbidden import allowed, allowed_first, contains, mark_forbidden
from lfm_np.kernels.heap import LONGEST, finish, insert, push
from lfm_np.kernels.jit import exact_inlined as inlined
from lfm_np.kernels.jit import exact_jit as jit
from lfm_np.kernels.jit import jit as fast_jit
from lfm_np.kernels.scores import PANEL, TILE, chains, pack, pair_scores, score_tile
from lfm_np.kernels.seeds import SEEDS, ranked
from lfm_np.kernels.simd import LANES, at_least, broadcast, store

CELL = SEEDS // PANEL  # panels of a cell; the first is ranked at once
WINDOW = 256  # panels whose forbidden items are kept as bits; beyond them a binary search does
SPARSE = 4  # a score of `pair_scores`, found by a sketch, costs about four of `score_tile`


class Index(NamedTuple):
    """Candidate items, the most promising first, and their sketches."""

    order: np.ndarray  # (c,) item ids
    position: np.ndarray  # (n,) place of an item in order; c for those that are not candidates
    bounds: np.ndarray  # (cells, 3) float64, of all items from this cell on: norm, bias, `pivot`·norm + bias
    pivot: float  # a typical user norm
    slack: np.ndarray  # (3,) float64: relative and absolute rounding margin of a product; relative one of a sum
    directions: np.ndarray  # (k, d) float64, orthonormal columns; d = 0: no sketches
    sketches: np.ndarray  # (panels, d + 2, PANEL); with codes their terms, (panels, TERMS, PANEL)
    codes: np.ndarray  # (panels, ⌈k / 4⌉, PANEL) int32: bytes of the items, see `codes`; none: no panels


class Search(NamedTuple):
    """State of a block of users; row ``count`` stands for nobody and fills the last tile."""

    users: np.ndarray  # (count + 1,) user ids
    norms: np.ndarray  # (count + 1,) float64
    sketches: np.ndarray  # (count + 1, d + 2), with codes (count + 1, TERMS)
    codes: np.ndarray  # (count + 1, 1 + ⌈k / 4⌉)
    bits: np.ndarray  # (count + 1, panels up to WINDOW) uint16: forbidden lanes
    scores: np.ndarray  # (count, N) lists or heaps, see `heap`
    ids: np.ndarray  # (count, N)
    sizes: np.ndarray  # (count,)
    threshold: np.ndarray  # (count + 1,) the N-th best score; −inf while there are fewer, +inf for nobody
    cut: np.ndarray  # (count + 1,) a bound below it proves that the score is below the threshold
    live: np.ndarray  # (count + TILE,) users that still search


class Hits(NamedTuple):
    """Scores that may change a list."""

    who: np.ndarray  # users of the block
    places: np.ndarray  # in the order
    found: np.ndarray  # scores


# ---- bounds ---------------------------------------------------------------------------------------------------------


@fast_jit
def row_norms(A, ids, slack, norms):
    """norms[r] = ‖A[ids[r]]‖, float64, rounded up so that a product of two also covers the rounding of a score.

    Sums may be regrouped: the slack covers that, and no result depends on them.
    """
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


# ---- lists -----------------------------------------------------------------------------------------------------------


@inlined
def least_bound(worst, constant, slack):
    """A bound, without the user's constant, below which a score is below ``worst``."""
    w, c = np.float64(worst), np.float64(constant)
    return w - c - slack[2] * (abs(w) + abs(c))


@jit
def seed(model, index, search, live, panels, hits):
    """Make lists of the first cell, packed; write the hits of users without N different scores there, their number."""
    U, constant, users, bits = model.user_factors, model.user_constant, search.users, search.bits
    order, slack, live_users = index.order, index.slack, search.live
    scores, ids, sizes, threshold, cut = search.scores, search.ids, search.sizes, search.threshold, search.cut
    who, places, found = hits
    row, by_rank = np.empty(TILE * SEEDS, panels.dtype), np.empty(SEEDS, np.int64)
    N, size, count = scores.shape[1], (U.shape[1] + 1) * PANEL, 0
    best = (np.int64(1) << N) - 1
    for a in range(0, live, TILE):
        t0, t1, t2, t3 = live_users[a], live_users[a + 1], live_users[a + 2], live_users[a + 3]
        for p in range(CELL):
            s = score_tile(U, constant, users[t0], users[t1], users[t2], users[t3], panels, p * size)
            store(row, p * PANEL, s[0])
            store(row, p * PANEL + SEEDS, s[1])
            store(row, p * PANEL + 2 * SEEDS, s[2])
            store(row, p * PANEL + 3 * SEEDS, s[3])
        for j in range(min(TILE, live - a)):
            t, at = live_users[a + j], j * SEEDS
            mask = allowed_first(bits, t)
            if ranked(row, at, mask, by_rank) & best == best:
                for r in range(N):
                    scores[t, r] = row[at + by_rank[r]]
                    ids[t, r] = order[by_rank[r]]
                sizes[t] = N
                threshold[t] = scores[t, N - 1]
                cut[t] = least_bound(scores[t, N - 1], constant[users[t]], slack)
                continue
            while mask != 0:
                place = lowest_bit(mask)
                mask ^= np.int64(1) << place
                who[count], places[count], found[count] = t, place, row[at + place]
                count += 1
    return count


@jit
def settle(model, index, forbidden, search, hits, count):
    """Offer scored items to the lists and lift the thresholds.

    Arrays are taken out of their tuples once, and hits come in batches, because each access to such a field costs an
    atomic reference count.
    """
    rows, indptr, indices, everybody = forbidden
    order, slack, constants = index.order, index.slack, model.user_constant
    users, bits, scores, ids, sizes = search.users, search.bits, search.scores, search.ids, search.sizes
    threshold, cut = search.threshold, search.cut
    who, places, found = hits
    N = scores.shape[1]
    worst = N - 1 if N <= LONGEST else 0
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
        if N <= LONGEST:
            sizes[t] = insert(scores, ids, t, sizes[t], found[h], item)
        else:
            sizes[t] = push(scores, ids, t, sizes[t], found[h], item)
        if sizes[t] == N:
            threshold[t] = scores[t, worst]
            cut[t] = least_bound(scores[t, worst], constants[users[t]], slack)


# ---- cells ----------------------------------------------------------------------------------------------------------


@inlined
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
def pack_cell(model, order, first, last, panels, starts):
    """The panels first … last − 1 of items, one after the other."""
    size = (model.item_factors.shape[1] + 1) * PANEL
    for p in range(first, last):
        pack(model, order, p * PANEL, panels, (p - first) * size, starts)


@jit
def dense_cell(model, search, live, first, last, panels, hits):
    """Score packed panels for every live user; write what reaches the thresholds and return its number."""
    U, constant, users, bits = model.user_factors, model.user_constant, search.users, search.bits
    threshold, live_users = search.threshold, search.live
    who, places, found = hits
    scores = np.empty(TILE * PANEL, panels.dtype)
    size = (U.shape[1] + 1) * PANEL
    count = 0
    for a in range(0, live, TILE):
        t0, t1, t2, t3 = live_users[a], live_users[a + 1], live_users[a + 2], live_users[a + 3]
        for p in range(first, last):
            s = score_tile(U, constant, users[t0], users[t1], users[t2], users[t3], panels, (p - first) * size)
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
def screen(index, search, live, p, masks):
    """masks[j, tile]: what passes the bounds by codes of panel p + j, j = 0, 1, or those by sketches of panel p."""
    S, cut, live_users, sketches = search.sketches, search.cut, search.live, index.sketches
    codes, panels, coded = search.codes, index.codes, len(index.codes) > 0
    D, next_p = S.shape[1], min(p + 1, len(sketches) - 1)
    for a in range(0, live, TILE):
        t0, t1, t2, t3 = live_users[a], live_users[a + 1], live_users[a + 2], live_users[a + 3]
        if coded:
            s = code_bounds(codes, S, t0, t1, t2, t3, panels, sketches, p, next_p)
            masks[1, a // TILE] = pass_mask(s[1], cut, t0, t1, t2, t3)
            masks[0, a // TILE] = pass_mask(s[0], cut, t0, t1, t2, t3)
        else:
            s = chains(S, t0 * D, t1 * D, t2 * D, t3 * D, sketches, p * D * PANEL, 0, 1, D)
            masks[0, a // TILE] = pass_mask(s, cut, t0, t1, t2, t3)


@jit
def collect(search, live, p, masks, row, hits, count, room):
    """Append the allowed pairs of panel p in a row of masks to the hits; their number, −1 when there is no room.

    Apart from `screen`, which no branch that is hard to foresee then holds up.
    """
    bits, live_users = search.bits, search.live
    who, places = hits.who, hits.places
    for a in range(0, live, TILE):
        mask = masks[row, a // TILE]
        mask = allowed(mask, bits, live_users[a], live_users[a + 1], live_users[a + 2], live_users[a + 3], p)
        if count + count_bits(mask) > room:
            return -1
        while mask != 0:
            bit = lowest_bit(mask)
            mask ^= np.int64(1) << bit
            who[count] = live_users[a + bit // PANEL]
            places[count] = p * PANEL + bit % PANEL
            count += 1
    return count


@jit
def sparse_cell(model, index, search, live, first, last, hits, pairs, masks):
    """Score what passes the sketches or codes of some panels; the number of hits, or −1 if a dense cell is cheaper."""
    room = live * (last - first) * PANEL // SPARSE
    step = 2 if len(index.codes) > 0 else 1
    count = 0
    for p in range(first, last):
        row = (p - first) % step
        if row == 0:
            screen(index, search, live, p, masks)
        count = collect(search, live, p, masks, row, hits, count, room)
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
def start_search(model, index, forbidden, users, scores, ids):
    """Norms, sketches, forbidden items and empty lists for a block of users."""
    count = len(users)
    dtype = model.user_factors.dtype
    everyone = np.empty(count + 1, np.int64)
    everyone[:count] = users
    everyone[count] = users[0]
    panels = (len(index.order) + PANEL - 1) // PANEL
    norms = np.empty(count + 1, np.float64)
    row_norms(model.user_factors, everyone, index.slack, norms)
    d = index.directions.shape[1]
    coded = len(index.codes) > 0
    sketches = np.ones((count + 1, TERMS if coded else d + 2), dtype)
    codes = np.empty((count + 1, index.codes.shape[1] + 1), np.int32)
    if coded:
        encode_users(model.user_factors, everyone, index.slack, codes, sketches)
    elif d > 0:
        sketch(model.user_factors, everyone, index.directions, index.slack, sketches)
    search = Search(
        everyone,
        norms,
        sketches,
        codes,
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
    mark_forbidden(index.position, forbidden, search.bits)
    return search


@jit
def best_items(model, index, forbidden, users, scores, ids):
    """The N best allowed items of each user of a block, best first, into ``scores`` and ``ids``, shape (count, N)."""
    search = start_search(model, index, forbidden, users, scores, ids)
    end = (len(index.order) + PANEL - 1) // PANEL
    live = len(users)
    room = (live + TILE) * CELL * PANEL
    hits = Hits(np.empty(room, np.int64), np.empty(room, np.int64), np.empty(room, scores.dtype))
    pairs = np.empty((2, room), np.int64)
    masks = np.empty((2, live // TILE + 1), np.int64)
    panels = np.empty(CELL * (model.item_factors.shape[1] + 1) * PANEL, scores.dtype)
    starts = np.empty(LANES, np.int64)
    seeded = scores.shape[1] <= LONGEST and len(index.order) >= SEEDS
    wait, next_wait = int(seeded), 0  # cells to score densely before the sketches are tried again
    trust = next_trust = 0  # cells until the bounds are tried again: on flat factors they end nobody's search
    for cell in range(len(index.bounds)):
        trust -= 1
        if trust < 0:
            before = live
            live = still_live(index, search, live, cell)
            if live == 0:
                break
            next_trust = min(2 * next_trust + 1, 7) if live == before else 0
            trust = next_trust
        first, last = cell * CELL, min((cell + 1) * CELL, end)
        if wait == 0 and len(index.sketches) > 0:
            count = sparse_cell(model, index, search, live, first, last, hits, pairs, masks)
            if count >= 0:
                settle(model, index, forbidden, search, hits, count)
                next_wait = 0
                continue
            wait = next_wait
            next_wait = 2 * next_wait + 1
        else:
            wait -= 1
        pack_cell(model, index.order, first, last, panels, starts)
        if seeded and cell == 0:
            count = seed(model, index, search, live, panels, hits)
        else:
            count = dense_cell(model, search, live, first, last, panels, hits)
        settle(model, index, forbidden, search, hits, count)
    for t in range(len(users)):
        finish(scores, ids, t, search.sizes[t])
