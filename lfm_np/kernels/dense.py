"""Kernels over whole factor matrices."""

from __future__ import annotations

from lfm_np.kernels.jit import jit
from lfm_np.kernels.simd import WIDTH, store, zeros
from lfm_np.kernels.tiles import gram

CHUNK = 512  # rows summed in the working precision before the sum goes to float64


@jit
def gram_rows(Y, lo, hi, chunk, out):
    """out += Σ Y[p]ᵀY[p] over the rows lo … hi − 1, on and above the diagonal; ``out`` is float64."""
    ld = Y.shape[1]
    for start in range(lo, hi, CHUNK):
        stop = min(start + CHUNK, hi)
        for at in range(0, ld * ld, WIDTH):
            store(chunk, at, zeros(chunk, WIDTH))
        gram(Y[start:stop], Y[start:stop], stop - start, ld, chunk, 0, ld)
        for i in range(ld):
            for j in range(i, ld):
                out[i, j] += chunk[i, j]
