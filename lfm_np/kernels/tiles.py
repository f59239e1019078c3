"""The micro-kernels: everything cubic in a row's solve is one of these.

`tile_update` and `gram` are outer products over the rows of a panel (primal rows, YᵀY); `row_products` are inner
products between the rows of a panel (dual rows); `lane_cholesky` and `lane_backward` solve eight small systems side by
side, one a lane. Panels are row-major with a leading dimension that is a multiple of WIDTH.
"""

from __future__ import annotations

from lfm_np.kernels.jit import inlined
from lfm_np.kernels.simd import LANES, WIDTH, add, broadcast, fma, fnma, load, mul, rsqrt, store, sub, sums8, zeros

TILE = 8  # rows of an accumulator tile


@inlined
def tile_update(Q, P, rows, ld, i, j, C, at, ldc):
    """C[at : 8 rows of ldc, 16 columns] += Σ_p Q[p, i:i+8]ᵀ P[p, j:j+16] over ``rows`` panel rows."""
    c0 = c1 = c2 = c3 = c4 = c5 = c6 = c7 = zeros(P, WIDTH)
    for p in range(rows):
        b = load(P, p * ld + j, WIDTH)
        q = p * ld + i
        c0 = fma(broadcast(Q, q, WIDTH), b, c0)
        c1 = fma(broadcast(Q, q + 1, WIDTH), b, c1)
        c2 = fma(broadcast(Q, q + 2, WIDTH), b, c2)
        c3 = fma(broadcast(Q, q + 3, WIDTH), b, c3)
        c4 = fma(broadcast(Q, q + 4, WIDTH), b, c4)
        c5 = fma(broadcast(Q, q + 5, WIDTH), b, c5)
        c6 = fma(broadcast(Q, q + 6, WIDTH), b, c6)
        c7 = fma(broadcast(Q, q + 7, WIDTH), b, c7)
    store(C, at, add(c0, load(C, at, WIDTH)))
    store(C, at + ldc, add(c1, load(C, at + ldc, WIDTH)))
    store(C, at + 2 * ldc, add(c2, load(C, at + 2 * ldc, WIDTH)))
    store(C, at + 3 * ldc, add(c3, load(C, at + 3 * ldc, WIDTH)))
    store(C, at + 4 * ldc, add(c4, load(C, at + 4 * ldc, WIDTH)))
    store(C, at + 5 * ldc, add(c5, load(C, at + 5 * ldc, WIDTH)))
    store(C, at + 6 * ldc, add(c6, load(C, at + 6 * ldc, WIDTH)))
    store(C, at + 7 * ldc, add(c7, load(C, at + 7 * ldc, WIDTH)))


@inlined
def gram_strip(Q, P, rows, ld, i, C, at, ldc):
    """Rows i … i + 7 of C[at: ld × ld] += Σ_p Q[p]ᵀ P[p], from the tile that holds the diagonal on."""
    for j in range(i // WIDTH * WIDTH, ld, WIDTH):
        tile_update(Q, P, rows, ld, i, j, C, at + i * ldc + j, ldc)


@inlined
def gram(Q, P, rows, ld, C, at, ldc):
    """C[at: ld × ld] += Σ_p Q[p]ᵀ P[p], which must be symmetric; tiles on and above the diagonal only."""
    for i in range(0, ld, TILE):
        gram_strip(Q, P, rows, ld, i, C, at, ldc)


@inlined
def row_products(P, n, ld, out, at):
    """Inner products of a panel's first ``n`` rows (a multiple of 4), on and above the diagonal, in tiles of 2 × 4.

    Tile after tile from out[at]: P[i]·P[j : j + 4] and P[i + 1]·P[j : j + 4], for even i and j = i // 4 · 4, …
    """
    t = at
    for i in range(0, n, 2):
        for j in range(i // 4 * 4, n, 4):
            p = i * ld
            q = j * ld
            a0 = a1 = a2 = a3 = b0 = b1 = b2 = b3 = zeros(P, LANES)
            for f in range(0, ld, LANES):
                x = load(P, p + f, LANES)
                y = load(P, p + ld + f, LANES)
                v = load(P, q + f, LANES)
                a0 = fma(x, v, a0)
                b0 = fma(y, v, b0)
                v = load(P, q + ld + f, LANES)
                a1 = fma(x, v, a1)
                b1 = fma(y, v, b1)
                v = load(P, q + 2 * ld + f, LANES)
                a2 = fma(x, v, a2)
                b2 = fma(y, v, b2)
                v = load(P, q + 3 * ld + f, LANES)
                a3 = fma(x, v, a3)
                b3 = fma(y, v, b3)
            store(out, t, sums8(a0, a1, a2, a3, b0, b1, b2, b3))
            t += LANES


@inlined
def lane_cholesky(A, n, ld):
    """Factor eight matrices A = RᵀR in place and forward-solve their right-hand sides.

    A[(i·ld + j)·8 + lane], the upper triangle of n × n (n a multiple of 4, ld ≥ n + 2 even); column n holds the
    right-hand side b and becomes R⁻ᵀb, column n + 1 is scratch. The diagonal becomes 1/R_ii. A lane whose matrix is
    not positive definite turns NaN or infinite, and no other does.

    Left-looking by blocks of four rows: a 4 × 2 tile of the block is updated by all rows above and finished in
    registers, so each element is stored once.
    """
    for i in range(0, n, 4):
        for j in range(i, n + 2, 2):
            at = (i * ld + j) * LANES
            row = ld * LANES
            a0 = load(A, at, LANES)
            b0 = load(A, at + LANES, LANES)
            a1 = load(A, at + row, LANES)
            b1 = load(A, at + row + LANES, LANES)
            a2 = load(A, at + 2 * row, LANES)
            b2 = load(A, at + 2 * row + LANES, LANES)
            a3 = load(A, at + 3 * row, LANES)
            b3 = load(A, at + 3 * row + LANES, LANES)
            for p in range(i):
                left = (p * ld + i) * LANES
                right = (p * ld + j) * LANES
                u = load(A, right, LANES)
                v = load(A, right + LANES, LANES)
                w = load(A, left, LANES)
                a0 = fnma(w, u, a0)
                b0 = fnma(w, v, b0)
                w = load(A, left + LANES, LANES)
                a1 = fnma(w, u, a1)
                b1 = fnma(w, v, b1)
                w = load(A, left + 2 * LANES, LANES)
                a2 = fnma(w, u, a2)
                b2 = fnma(w, v, b2)
                w = load(A, left + 3 * LANES, LANES)
                a3 = fnma(w, u, a3)
                b3 = fnma(w, v, b3)
            diagonal = (i * ld + i) * LANES
            if j == i:  # the first pivots: factor the 2 × 2 corner, leave rows 2 and 3 to the next tile
                a0 = rsqrt(a0)
                b0 = mul(a0, b0)
                b1 = rsqrt(fnma(b0, b0, b1))
                store(A, at, a0)
                store(A, at + LANES, b0)
                store(A, at + row + LANES, b1)
            else:
                r0 = load(A, diagonal, LANES)
                r01 = load(A, diagonal + LANES, LANES)
                r1 = load(A, diagonal + row + LANES, LANES)
                a0 = mul(a0, r0)
                b0 = mul(b0, r0)
                a1 = mul(fnma(r01, a0, a1), r1)
                b1 = mul(fnma(r01, b0, b1), r1)
                store(A, at, a0)
                store(A, at + LANES, b0)
                store(A, at + row, a1)
                store(A, at + row + LANES, b1)
                if j == i + 2:
                    a2 = rsqrt(fnma(a0, a0, fnma(a1, a1, a2)))
                    b2 = mul(fnma(a0, b0, fnma(a1, b1, b2)), a2)
                    b3 = rsqrt(fnma(b0, b0, fnma(b1, b1, fnma(b2, b2, b3))))
                    store(A, at + 2 * row, a2)
                    store(A, at + 2 * row + LANES, b2)
                    store(A, at + 3 * row + LANES, b3)
                else:
                    s = load(A, diagonal + 2 * LANES, LANES)
                    t = load(A, diagonal + row + 2 * LANES, LANES)
                    r = load(A, diagonal + 2 * row + 2 * LANES, LANES)
                    a2 = mul(fnma(s, a0, fnma(t, a1, a2)), r)
                    b2 = mul(fnma(s, b0, fnma(t, b1, b2)), r)
                    store(A, at + 2 * row, a2)
                    store(A, at + 2 * row + LANES, b2)
                    s = load(A, diagonal + 3 * LANES, LANES)
                    t = load(A, diagonal + row + 3 * LANES, LANES)
                    w = load(A, diagonal + 2 * row + 3 * LANES, LANES)
                    r = load(A, diagonal + 3 * row + 3 * LANES, LANES)
                    a3 = mul(fnma(s, a0, fnma(t, a1, fnma(w, a2, a3))), r)
                    b3 = mul(fnma(s, b0, fnma(t, b1, fnma(w, b2, b3))), r)
                    store(A, at + 3 * row, a3)
                    store(A, at + 3 * row + LANES, b3)


@inlined
def lane_backward(A, n, ld, x):
    """x = R⁻¹y for the factors and the y that `lane_cholesky` left in A. x[i·8 + lane]."""
    for i in range(n - 1, -1, -1):
        row = i * ld * LANES
        s = load(A, row + n * LANES, LANES)
        t = zeros(A, LANES)
        p = i + 1
        while p + 1 < n:
            s = fnma(load(A, row + p * LANES, LANES), load(x, p * LANES, LANES), s)
            t = fma(load(A, row + (p + 1) * LANES, LANES), load(x, (p + 1) * LANES, LANES), t)
            p += 2
        if p < n:
            s = fnma(load(A, row + p * LANES, LANES), load(x, p * LANES, LANES), s)
        store(x, i * LANES, mul(sub(s, t), load(A, row + i * LANES, LANES)))
