"""The negatives of an epoch, and its records sorted into the cells of the block grid.

The first negative of every stored cell is drawn before the epoch, from the whole catalogue: position t of the stream of
the epoch belongs to the t-th stored cell, whatever the blocks are. It follows the sampler's q over the items that the
row has not stored, exactly and with one random number: with integer masses w, x is uniform below the mass of those
items, and the row's sorted items say how much mass to skip. Nothing is rejected, so a nearly full row costs no more
than another.

``masses`` holds cumulative masses C[j] = Σ_{i<j} w_i (n + 1 values), or one value, n, when every item has mass 1.
"""

from __future__ import annotations

import numpy as np

from lfm_np.kernels.borrow import borrowed
from lfm_np.kernels.jit import inlined, jit
from lfm_np.kernels.random import S11, TO_UNIT, below, draw

NO_NEGATIVE = -1
SHORT = 8  # cells


@inlined
def mass_before(masses, item):
    """Mass of the items 0 … item − 1."""
    return masses[item] if masses.shape[0] > 1 else np.int64(item)


@inlined
def count_at_most(values, lo, hi, x):
    """How many of the nondecreasing values[lo:hi] are ≤ x.

    Steps by a product, not by a branch: which half comes next is a coin toss that no processor predicts.
    """
    base, length = lo, hi - lo
    while length > 1:
        half = length >> 1
        base += half * np.int64(values[base + half - 1] <= x)
        length -= half
    return base - lo + (np.int64(values[base] <= x) if length > 0 else 0)


@inlined
def fill_guide(values, count, total, guide):
    """Prepare `find`: guide[b] = how many of values[:count] are < b·2^shift. Returns shift.

    There are between count and 2·count + 1 stretches of 2^shift, so a uniform x < total has less than one value, on
    average, between it and the start of its stretch, however the values cluster (Chen, Asau 1974).
    """
    shift = np.int64(0)
    while (total >> shift) > 2 * count:
        shift += 1
    c = 0
    for b in range((total >> shift) + 1):
        while c < count and values[c] < b << shift:
            c += 1
        guide[b] = c
    return shift


@inlined
def find(values, count, guide, shift, x):
    """How many of values[:count] are ≤ x < total."""
    c = np.int64(guide[x >> shift])
    while c < count and values[c] <= x:
        c += 1
    return c


@jit
def mass_guide(masses, guide):
    """Guide to the masses of all items, and its shift."""
    return fill_guide(masses, masses.shape[0], masses[masses.shape[0] - 1], guide)


@inlined
def free_before(indices, lo, hi, masses, before):
    """before[c] = mass not stored by the row in front of its c-th item; returns the mass not stored at all."""
    taken = np.int64(0)
    for t in range(lo, hi):
        item = np.int64(indices[t])
        start = mass_before(masses, item)
        before[t - lo] = start - taken
        taken += mass_before(masses, item + 1) - start
    return masses[masses.shape[0] - 1] - taken


@jit
def free_masses(first, last, indptr, indices, masses, free):
    """free[row] = mass that the row has not stored."""
    for row in range(first, last):
        taken = np.int64(0)
        for t in range(indptr[row], indptr[row + 1]):
            item = np.int64(indices[t])
            taken += mass_before(masses, item + 1) - mass_before(masses, item)
        free[row] = masses[masses.shape[0] - 1] - taken


@jit
def draw_rows(key, first, last, indptr, indices, masses, item_guide, item_shift, before, guide, negatives):
    """negatives[t] for every stored cell of the rows first … last − 1; NO_NEGATIVE in a row without free mass.

    ``before`` and ``guide`` are scratch for the longest row: its length, and twice its length plus one.
    """
    indptr, indices, masses, item_guide = borrowed(indptr), borrowed(indices), borrowed(masses), borrowed(item_guide)
    before, guide, negatives = borrowed(before), borrowed(guide), borrowed(negatives)
    for row in range(first, last):
        lo, hi = indptr[row], indptr[row + 1]
        free = free_before(indices, lo, hi, masses, before)
        if free <= 0:
            negatives[lo:hi] = NO_NEGATIVE
            continue
        guide[0], shift = 0, np.int64(62)  # one stretch: a short row is read through
        if hi - lo > SHORT:
            shift = fill_guide(before, hi - lo, free, guide)
        for t in range(lo, hi):
            x = below(draw(key, t), free)
            skipped = find(before, hi - lo, guide, shift, x)
            if skipped > 0:
                item = np.int64(indices[lo + skipped - 1])
                x += mass_before(masses, item + 1) - before[skipped - 1]
            if masses.shape[0] > 1:
                x = find(masses, masses.shape[0], item_guide, item_shift, x) - 1
            negatives[t] = x


@jit
def count_cells(lo, hi, indices, negatives, block_of, cell_of, counts):
    """Add to counts[c] the stored cells lo … hi − 1 whose item and negative lie in the blocks of cell c."""
    for t in range(lo, hi):
        if negatives[t] != NO_NEGATIVE:
            counts[cell_of[block_of[indices[t]], block_of[negatives[t]]]] += 1


@jit
def scatter_rows(first, last, indptr, indices, data, negatives, block_of, cell_of, places, records, values):
    """Write (row, item, negative) of every stored cell to the next place of its cell, and its value where asked for."""
    for row in range(first, last):
        for t in range(indptr[row], indptr[row + 1]):
            if negatives[t] != NO_NEGATIVE:
                cell = cell_of[block_of[indices[t]], block_of[negatives[t]]]
                place = places[cell]
                places[cell] = place + 1
                records[place, 0] = row
                records[place, 1] = indices[t]
                records[place, 2] = negatives[t]
                if values.shape[0] > 0:
                    values[place] = data[t]


@jit
def shuffle(key, lo, hi, records, values):
    """Fisher-Yates on records[lo:hi] and their values."""
    for r in range(hi - 1, lo, -1):
        s = lo + below(draw(key, r - lo), r - lo + 1)
        for column in range(3):
            kept = records[r, column]
            records[r, column] = records[s, column]
            records[s, column] = kept
        if values.shape[0] > 0:
            value = values[r]
            values[r] = values[s]
            values[s] = value


@jit
def fill_uniform(key, first, last, k, bound, mask, W):
    """W[row, f] uniform on (−bound, bound), position row·k + f of the stream; 0 where mask[row] is 0, and beyond k."""
    for row in range(first, last):
        for f in range(k):
            unit = np.float64(draw(key, np.int64(row) * k + f) >> S11) * TO_UNIT
            W[row, f] = bound * (2.0 * unit - 1.0) if mask[row] else 0.0


@jit
def mark_items(indptr, indices, active, items):
    """Set items[i] of every stored cell (u, i) whose active[u] is set."""
    for u in range(active.shape[0]):
        if active[u]:
            for cell in range(indptr[u], indptr[u + 1]):
                items[indices[cell]] = True


@jit
def all_finite(flat):
    """Whether all of ``flat`` is finite: anything else times 0 is NaN."""
    poison = flat.dtype.type(0)
    for at in range(flat.shape[0]):
        poison += flat[at] * flat.dtype.type(0)
    return poison == 0
