"""One epoch over one cell of the block grid.

A record is (row, item, first negative). Every record is one step: the scores of its item and of its M negatives, the
loss and its slopes by score, then all rows at once,

    u ← u − η(Σ_m a_m v_m + (λ_u + c_u) u),    v_m ← v_m − η(a_m u + (λ_m + c_m) v_m),

where a_m is the slope and c = 0; for cosines a_m = slope_m / (|u||v_m|) and c takes the part along the row away. Slopes
are those of the rows before the step. Rows are padded with zeros to a multiple of WIDTH, which stay zero.

The cell owns its block of rows and its two blocks of items: the further negatives of a record come from the block of
the first one (which was drawn from the whole catalogue), so that each of them follows q.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from lfm_np.kernels.borrow import borrowed
from lfm_np.kernels.jit import inlined, jit
from lfm_np.kernels.random import below, draw, stream
from lfm_np.kernels.sgd_draws import count_at_most, shuffle
from lfm_np.kernels.sgd_loss import at_point, at_ranked
from lfm_np.kernels.simd import WIDTH, fma, fnma, load, mul, prefetch, splat, store, total, zeros

POINTWISE, PAIRWISE, LIST = 0, 1, 2
TRIES = 16  # draws of one further negative before the first one, which is known to be good, is taken again
AHEAD = 4  # records between the prefetch of their rows and their use
TASKS = 3  # the first stream of an epoch that belongs to a cell; every cell has two


class Model(NamedTuple):
    """What a step writes. Arrays of size 0 are parts that the model does not have."""

    users: np.ndarray  # (m, ld)
    items: np.ndarray  # (n, ld)
    user_bias: np.ndarray
    item_bias: np.ndarray
    user_squares: np.ndarray  # Adagrad: 1 + Σ mean(g²) of every row
    item_squares: np.ndarray
    user_bias_squares: np.ndarray
    item_bias_squares: np.ndarray


class Rule(NamedTuple):
    """The numbers of a step."""

    rate: float
    user: float  # regularisation
    item: float
    negative: float
    bias: float
    mean: float  # global bias
    factors: int
    kind: int
    negatives: int
    candidates: int
    trials: int
    stored_target: float  # NaN: the value of the cell
    negative_target: float
    weighted: bool
    cosine: bool


class Catalogue(NamedTuple):
    """Items in the order of their blocks, for the further negatives of a record."""

    items: np.ndarray
    starts: np.ndarray  # of the blocks, one more than there are
    masses: np.ndarray  # cumulative in this order, or size 1
    block_of: np.ndarray
    log_q: np.ndarray  # what logQ correction takes off a score, as `Plan.log_q` has it, or size 0
    log_free: np.ndarray  # and what is put back, of every row


class Scratch(NamedTuple):
    """One record's numbers: of its stored item first, then of its negatives."""

    ids: np.ndarray  # int64
    scores: np.ndarray
    slopes: np.ndarray
    pulls: np.ndarray  # a_m
    shrinks: np.ndarray  # λ_m + c_m
    direction: np.ndarray  # (ld,) of the factors' dtype: Σ a_m v_m


# Arrays reach the helpers one by one and borrowed: taking one out of a tuple counts a reference for every record.


@inlined
def _dot(a, at, b, to, ld):
    s = zeros(a, WIDTH)
    for f in range(0, ld, WIDTH):
        s = fma(load(a, at + f, WIDTH), load(b, to + f, WIDTH), s)
    return np.float64(total(s))


@inlined
def _move(W, at, D, to, a, c, ld):
    """W[at:] −= a·D[to:] + c·W[at:]."""
    scale, shrink = splat(W.dtype.type(a), WIDTH), splat(W.dtype.type(c), WIDTH)
    for f in range(0, ld, WIDTH):
        w = load(W, at + f, WIDTH)
        store(W, at + f, fnma(scale, load(D, to + f, WIDTH), fnma(shrink, w, w)))


@inlined
def _gather(direction, pulls, items, ids, ld):
    """direction = Σ_m pulls[m]·items[ids[m]], a piece of the row at a time so that sums stay in registers."""
    for f in range(0, ld, WIDTH):
        s = zeros(items, WIDTH)
        for m in range(ids.shape[0]):
            s = fma(splat(items.dtype.type(pulls[m]), WIDTH), load(items, ids[m] * ld + f, WIDTH), s)
        store(direction, f, s)


@inlined
def _square(W, at, D, to, a, c, ld):
    """|a·D[to:] + c·W[at:]|²."""
    s = zeros(W, WIDTH)
    scale, shrink = splat(W.dtype.type(a), WIDTH), splat(W.dtype.type(c), WIDTH)
    for f in range(0, ld, WIDTH):
        g = fma(scale, load(D, to + f, WIDTH), mul(shrink, load(W, at + f, WIDTH)))
        s = fma(g, g, s)
    return np.float64(total(s))


@inlined
def _rate(rate, squares, row, square):
    """Adagrad's learning rate of a row, after its square has been added."""
    squares[row] += square
    return rate / np.sqrt(np.float64(squares[row]))


@inlined
def _update_row(rule, W, squares, row, D, to, a, c, ld):
    rate = rule.rate
    if squares.shape[0] > 0:
        rate = _rate(rate, squares, row, _square(W, row * ld, D, to, a, c, ld) / rule.factors)
    _move(W, row * ld, D, to, rate * a, rate * c, ld)


@inlined
def _update_bias(rule, bias, squares, row, slope):
    gradient = slope + rule.bias * np.float64(bias[row])
    rate = rule.rate
    if squares.shape[0] > 0:
        rate = _rate(rate, squares, row, gradient * gradient)
    bias[row] -= rate * gradient


@inlined
def _inverse_norm(W, at, ld):
    """1/|row|, and 0 for a zero row: it has no direction, scores 0 and stays."""
    square = _dot(W, at, W, at, ld)
    return 1.0 / np.sqrt(square) if square > 0.0 else 0.0


@inlined
def _score(rule, model, u, j, base, inverse_u, ld):
    """Score in float64: base + u·v + b_j, or the cosine."""
    score = _dot(model.users, u * ld, model.items, j * ld, ld)
    if rule.cosine:
        return score * inverse_u * _inverse_norm(model.items, j * ld, ld)
    if model.item_bias.shape[0] > 0:
        score += np.float64(model.item_bias[j])
    return base + score


@inlined
def _stored(indices, lo, hi, j):
    at = lo + count_at_most(indices, lo, hi, j) - 1
    return at >= lo and indices[at] == j


@inlined
def _further(key, position, indices, lo, hi, items, masses, start, stop, first):
    """A negative among items[start:stop], by q: positions position … position + TRIES − 1 of the stream.

    ``first`` after as many hits on stored items, indices[lo:hi], as there are tries.
    """
    for attempt in range(TRIES):
        bits = draw(key, position + attempt)
        if masses.shape[0] > 1:
            x = masses[start] + below(bits, masses[stop] - masses[start])
            j = np.int64(items[start + count_at_most(masses, start, stop, x) - 1])
        else:
            j = np.int64(items[start + below(bits, stop - start)])
        if not _stored(indices, lo, hi, j):
            return j
    return first


@jit
def _choose(key, position, csr, catalogue, model, rule, point, u, base, inverse_u, ids, scores):
    """Fill ids[1:] and scores[1:] from the block of ids[1]; returns the weight of the record, 0 to pass it over.

    Each negative is the best-scored of its candidates. WARP keeps the first one with a positive loss, weighed by
    log(1 + max(1, ⌊(n − 1)/trials⌋)).
    """
    (indptr, indices), catalogue, model = borrowed(csr), borrowed(catalogue), borrowed(model)
    first, ld = ids[1], np.int64(model.users.shape[1])
    block = catalogue.block_of[first]
    start, stop = catalogue.starts[block], catalogue.starts[block + 1]
    for number in range(max(rule.trials, rule.negatives)):
        best, highest = first, -np.inf
        for which in range(number * rule.candidates, (number + 1) * rule.candidates):
            j, at = first, position + which * TRIES
            if which > 0:
                items, masses = catalogue.items, catalogue.masses
                j = _further(key, at, indices, indptr[u], indptr[u + 1], items, masses, start, stop, first)
            score = _score(rule, model, u, j, base, inverse_u, ld)
            if score > highest:
                best, highest = j, score
        m = 1 if rule.trials > 0 else number + 1
        ids[m], scores[m] = best, highest
        if point is not None:  # noqa: SIM102 (a condition that Numba prunes stands alone)
            if rule.trials > 0 and at_point(point, scores[0] - highest, 0.0)[0] > 0.0:
                return np.log(1.0 + np.maximum(1, (model.items.shape[0] - 1) // (number + 1)))
    return 0.0 if rule.trials > 0 else 1.0


@inlined
def _point_loss(rule, point, x, scores, slopes):
    """Pointwise loss of a record and its slopes by score."""
    target = rule.stored_target if rule.stored_target == rule.stored_target else x
    weight = x if rule.weighted else 1.0
    value, slope = at_point(point, scores[0], target)
    value, slopes[0] = weight * value, weight * slope
    for m in range(1, scores.shape[0]):
        part, slopes[m] = at_point(point, scores[m], rule.negative_target)
        value += part
    return value


@inlined
def _pair_loss(point, weight, scores, slopes):
    """Pairwise loss of a record, summed over its negatives, and its slopes by score."""
    value, slopes[0] = 0.0, 0.0
    for m in range(1, scores.shape[0]):
        part, slope = at_point(point, scores[0] - scores[m], 0.0)
        value += weight * part
        slopes[0] += weight * slope
        slopes[m] = -weight * slope
    return value


@inlined
def _list_loss(ranked, weight, scores, slopes):
    """List loss of a record and its slopes by score."""
    value = weight * at_ranked(ranked, scores, slopes)
    for m in range(slopes.shape[0]):
        slopes[m] *= weight
    return value


@inlined
def _loss(rule, point, ranked, x, rank_weight, scores, slopes):
    weight = rank_weight * x if rule.weighted else rank_weight
    value = 0.0
    if point is not None:  # Numba prunes what tests for None an argument that is None
        if rule.kind == POINTWISE:
            value = _point_loss(rule, point, x, scores, slopes)
        else:
            value = _pair_loss(point, weight, scores, slopes)
    if ranked is not None:
        value = _list_loss(ranked, weight, scores, slopes)
    return value


@inlined
def _to_factors(rule, scratch, items, u, inverse_u, log_q, log_free, ld):
    """Turn slopes by score into the a and c of the items' steps; returns the c of the user's."""
    ids, slopes, along = scratch.ids, scratch.slopes, 0.0
    for m in range(ids.shape[0]):
        scratch.pulls[m], scratch.shrinks[m] = slopes[m], rule.item if m == 0 else rule.negative
        if rule.cosine:
            inverse, cosine = _inverse_norm(items, ids[m] * ld, ld), scratch.scores[m]
            if m > 0 and log_q.shape[0] > 0:  # which the loss has seen corrected
                cosine += log_q[ids[m]] - log_free[u]
            turn = slopes[m] * cosine
            along -= turn * inverse_u * inverse_u
            scratch.shrinks[m] -= turn * inverse * inverse
            scratch.pulls[m] *= inverse_u * inverse
    return rule.user + along


@inlined
def _step(rule, model, scratch, u, shrink, ld):
    """Move every row and bias of a record; ``shrink`` is the user's c."""
    users, items, ids, direction = model.users, model.items, scratch.ids, scratch.direction
    _gather(direction, scratch.pulls, items, ids, ld)
    for m in range(ids.shape[0]):
        squares, a, c = model.item_squares, scratch.pulls[m], scratch.shrinks[m]
        _update_row(rule, items, squares, ids[m], users, u * ld, a, c, ld)
    _update_row(rule, users, model.user_squares, u, direction, 0, 1.0, shrink, ld)
    if model.item_bias.shape[0] > 0:
        for m in range(ids.shape[0]):
            _update_bias(rule, model.item_bias, model.item_bias_squares, ids[m], scratch.slopes[m])
    if model.user_bias.shape[0] > 0:
        _update_bias(rule, model.user_bias, model.user_bias_squares, u, scratch.slopes.sum())


@inlined
def _prefetch(model, records, r, ld):
    """Ask for the rows of record r."""
    for column in range(3):
        W = model.users if column == 0 else model.items
        for f in range(0, ld, 64 // W.itemsize):
            prefetch(W, np.int64(records[r, column]) * ld + f)


@jit
def train_cell(keys, lo, hi, records, values, csr, model, rule, catalogue, scratch, point, ranked):
    """Step over the records lo … hi − 1 in random order; returns the sum of their losses, each before its step."""
    shuffle(keys[0], lo, hi, records, values)
    uncounted, scratch = borrowed(model), borrowed(scratch)
    log_q, log_free = borrowed(catalogue.log_q), borrowed(catalogue.log_free)
    ids, scores, slopes = scratch.ids, scratch.scores, scratch.slopes
    count, ld = rule.negatives + 1, np.int64(model.users.shape[1])
    width = max(rule.negatives, rule.trials) * rule.candidates * TRIES  # numbers that a record may use
    simple = rule.trials == 0 and rule.negatives * rule.candidates <= 1
    loss = 0.0
    for r in range(lo, hi):
        if r + AHEAD < hi:
            _prefetch(uncounted, records, r + AHEAD, ld)
        u, base, inverse_u, weight = np.int64(records[r, 0]), 0.0, 1.0, 1.0
        if uncounted.user_bias.shape[0] > 0:
            base = rule.mean + np.float64(uncounted.user_bias[u])
        if rule.cosine:
            inverse_u = _inverse_norm(uncounted.users, u * ld, ld)
        for m in range(min(count, 2)):
            ids[m] = records[r, m + 1]
            scores[m] = _score(rule, uncounted, u, ids[m], base, inverse_u, ld)
        if not simple:
            at = (r - lo) * width
            weight = _choose(keys[1], at, csr, catalogue, model, rule, point, u, base, inverse_u, ids, scores)
            if weight == 0.0:
                continue
        if log_q.shape[0] > 0:
            for m in range(1, count):
                scores[m] -= log_q[ids[m]] - log_free[u]
        x = np.float64(values[r]) if values.shape[0] > 0 else 1.0
        loss += _loss(rule, point, ranked, x, weight, scores, slopes)
        shrink = _to_factors(rule, scratch, uncounted.items, u, inverse_u, log_q, log_free, ld)
        _step(rule, uncounted, scratch, u, shrink, ld)
    return loss


@jit
def train_cells(where, starts, records, values, csr, model, rule, catalogue, scratch, point, ranked, losses):
    """Train some cells of a round, one after the other; their losses go to ``losses``.

    ``where``: seed, epoch, matching, shift, first slot, one past the last. Many cells a call, as Python needs 20 µs to
    hand over this many arrays.
    """
    seed, epoch, turn, shift, first, last = where
    G = starts.shape[0]
    for slot in range(first, last):
        pair, g = turn * G + slot, (slot + shift) % G
        lo, hi = starts[g, pair], starts[g, pair + 1]
        own = TASKS + 2 * (pair * G + g)
        keys = stream(seed, epoch, own), stream(seed, epoch, own + 1)
        losses[pair, g] = train_cell(keys, lo, hi, records, values, csr, model, rule, catalogue, scratch, point, ranked)
