"""Rows as bytes: products of them bound scores, and cost a quarter of theirs.

A row x becomes a scale s = max|x|/127 and integers q between −127 and 127, so that x̂ = s·q is near x. Then

    u·v = û·v̂ + (u − û)·v + û·(v − v̂) ≤ s_u s_v Σ q_u q_v + ‖u − û‖‖v‖ + ‖û‖‖v − v̂‖,

where the sum of integers is exact. A processor with AVX-512 VNNI adds 64 such products in an instruction, against 16
of float32; of the items of factor models about one in two hundred passes. Four bytes are packed as an int32.

Integers as bounds are an idea of FEXIPRO (Li, Chan, Yiu, Mamoulis, SIGMOD 2017).
"""

from __future__ import annotations

import numpy as np

from lfm_np.kernels.jit import exact_inlined as inlined
from lfm_np.kernels.jit import exact_jit as jit
from lfm_np.kernels.jit import jit as fast_jit
from lfm_np.kernels.scores import PANEL
from lfm_np.kernels.simd import (
    LANES,
    broadcast,
    dot_bytes,
    fma,
    integers_as,
    load,
    load_part,
    maximum,
    mul,
    store,
    sub,
    zeros,
)

LARGEST_K = 1024  # beyond it float32 does not hold the integers exactly
MIDDLE = 128  # makes the bytes of items unsigned, as the instruction wants those of one side
TYPICAL = 1 / 128  # ‖x − x̂‖ / ‖x‖ of rows of factor models
TERMS = 3


@inlined
def largest_size(A, at, lanes):
    """max |x| over row ``at`` of A, float64. ``lanes``: room for LANES numbers."""
    k = A.shape[1]
    whole, start = k // LANES * LANES, at * k
    none = high = low = zeros(A, LANES)
    for f in range(0, whole, LANES):
        x = load(A, start + f, LANES)
        high, low = maximum(high, x), maximum(low, sub(none, x))
    if whole < k:
        x = load_part(A, start + whole, k - whole, LANES)
        high, low = maximum(high, x), maximum(low, sub(none, x))
    store(lanes, 0, maximum(high, low))
    largest = 0.0
    for j in range(LANES):
        largest = max(largest, np.float64(lanes[j]))
    return largest


@fast_jit
def encode(A, ids, slack, codes, terms):
    """Integers of the rows ids[r] of A, their scales, and margins whose products cover the last two terms and rounding.

    codes : (rows, at least k) int8, zeros. terms : (rows, TERMS); the last column is not written. Sums may be
    regrouped: the margins cover that, and no result depends on them.
    """
    lanes = np.empty(LANES, A.dtype)
    for r in range(len(ids)):
        row = ids[r]
        terms[r, 0] = largest_size(A, row, lanes) / 127.0
        scale = np.float64(terms[r, 0])  # as rounded
        inverse = 1.0 / scale if scale > 1e-300 else 0.0
        square = near = apart = 0.0
        for f in range(A.shape[1]):
            x = np.float64(A[row, f])
            q = min(max(np.rint(x * inverse), -127.0), 127.0)
            codes[r, f] = np.int8(q)
            square += x * x
            near += (scale * q) * (scale * q)
            apart += (x - scale * q) * (x - scale * q)
        least = np.sqrt(slack[1])
        norm = np.sqrt(max(square, near)) + least
        error = np.sqrt(apart) + slack[0] * norm + least
        # (e, tn)·(n', e'/t) ≤ t √(n² + (e/t)²) √(n'² + (e'/t)²): one number a row, and little is lost for t near e/n
        terms[r, 1] = np.sqrt(TYPICAL * (norm * norm + (error / TYPICAL) ** 2)) * (1.0 + slack[2])


@inlined
def byte_sums(codes, r0, r1, r2, r3, panels, a, b, size):
    """Σ q_u (q_v + MIDDLE) over the packed bytes, for four users and two panels, plus each user's first integer."""
    a0 = b0 = broadcast(codes, r0, PANEL)
    a1 = b1 = broadcast(codes, r1, PANEL)
    a2 = b2 = broadcast(codes, r2, PANEL)
    a3 = b3 = broadcast(codes, r3, PANEL)
    for f in range(size):
        v, w = load(panels, a + f * PANEL, PANEL), load(panels, b + f * PANEL, PANEL)
        u = broadcast(codes, r0 + 1 + f, PANEL)
        a0, b0 = dot_bytes(a0, v, u), dot_bytes(b0, w, u)
        u = broadcast(codes, r1 + 1 + f, PANEL)
        a1, b1 = dot_bytes(a1, v, u), dot_bytes(b1, w, u)
        u = broadcast(codes, r2 + 1 + f, PANEL)
        a2, b2 = dot_bytes(a2, v, u), dot_bytes(b2, w, u)
        u = broadcast(codes, r3 + 1 + f, PANEL)
        a3, b3 = dot_bytes(a3, v, u), dot_bytes(b3, w, u)
    return (a0, a1, a2, a3), (b0, b1, b2, b3)


@inlined
def code_bound(sums, terms, at, scale, margin, highest):
    """Bounds of a user, whose terms are at ``at``, and PANEL items."""
    rest = fma(broadcast(terms, at + 1, PANEL), margin, highest)
    both = mul(broadcast(terms, at, PANEL), scale)  # first: a scale times an integer could leave the range
    return fma(integers_as(sums, scale), both, rest)


@inlined
def panel_bounds(i, terms, t0, t1, t2, t3, rows, at):
    """Bounds of four users and the items of a panel, whose terms are at ``at``, from their sums ``i``."""
    scale, margin, highest = load(rows, at, PANEL), load(rows, at + PANEL, PANEL), load(rows, at + 2 * PANEL, PANEL)
    return (
        code_bound(i[0], terms, t0 * TERMS, scale, margin, highest),
        code_bound(i[1], terms, t1 * TERMS, scale, margin, highest),
        code_bound(i[2], terms, t2 * TERMS, scale, margin, highest),
        code_bound(i[3], terms, t3 * TERMS, scale, margin, highest),
    )


@inlined
def code_bounds(codes, terms, t0, t1, t2, t3, panels, rows, p, q):
    """Bounds of the scores, without the user's constant, of four users and the items of panels p and q."""
    size = panels.shape[1]
    n, width = size + 1, size * PANEL
    i, j = byte_sums(codes, t0 * n, t1 * n, t2 * n, t3 * n, panels, p * width, q * width, size)
    a, b = p * TERMS * PANEL, q * TERMS * PANEL
    return panel_bounds(i, terms, t0, t1, t2, t3, rows, a), panel_bounds(j, terms, t0, t1, t2, t3, rows, b)


@jit
def encode_users(A, ids, slack, codes, terms):
    """`encode` with four bytes packed as an int32, after −MIDDLE·Σq."""
    bytes_ = np.zeros((len(ids), 4 * (codes.shape[1] - 1)), np.int8)
    encode(A, ids, slack, bytes_, terms)
    packed = bytes_.view(np.int32)
    for r in range(len(ids)):
        total = np.int64(0)
        for f in range(A.shape[1]):
            total += np.int64(bytes_[r, f])
        codes[r, 0] = -MIDDLE * total
        codes[r, 1:] = packed[r]
