"""The SIMD type and the micro-kernels against NumPy; marked small so that the NumPy twins are held to the same."""

import numba
import numpy as np
import pytest

from lfm_np.kernels import simd, tiles, transpose
from lfm_np.kernels.als_rows import aligned
from lfm_np.kernels.dense import CHUNK, gram_rows
from lfm_np.kernels.jit import jit
from lfm_np.kernels.simd import LANES, WIDTH

pytestmark = pytest.mark.small
FLOATS = (np.float32, np.float64)


@jit
def _elementwise(a, b, c, out):
    x, y, z = simd.load(a, 1, 8), simd.load(b, 2, 8), simd.load(c, 0, 8)
    simd.store(out, 0, simd.fma(x, y, z))
    simd.store(out, 8, simd.fnma(x, y, z))
    simd.store(out, 16, simd.add(x, y))
    simd.store(out, 24, simd.sub(x, y))
    simd.store(out, 32, simd.mul(x, y))
    simd.store(out, 40, simd.maximum(x, y))
    simd.store(out, 48, simd.rsqrt(z))
    simd.store(out, 56, simd.broadcast(a, 3, 8))
    simd.store(out, 64, simd.splat(a[5], 8))
    simd.store(out, 72, simd.zeros(a, 8))
    simd.prefetch(a, 0)
    return simd.total(x)


@pytest.mark.parametrize("dtype", FLOATS)
def test_vector_operations_equal_numpy(dtype):
    rng = np.random.default_rng(0)
    a, b, c = rng.uniform(0.5, 2, (3, 12)).astype(dtype)
    out = np.full(80, np.nan, dtype)
    total = _elementwise(a, b, c, out)
    x, y, z = a[1:9], b[2:10], c[:8]
    rows = [x * y + z, z - x * y, x + y, x - y, x * y, np.maximum(x, y), 1 / np.sqrt(z)]
    rows += [np.full(8, a[3]), np.full(8, a[5]), np.zeros(8)]
    np.testing.assert_allclose(out.reshape(10, 8), rows, rtol=8 * np.finfo(dtype).eps, atol=8 * np.finfo(dtype).eps)
    np.testing.assert_allclose(total, x.sum(), rtol=8 * np.finfo(dtype).eps)


@jit
def _maximum(a, b, out):
    simd.store(out, 0, simd.maximum(simd.load(a, 0, 8), simd.load(b, 0, 8)))


def test_maximum_prefers_numbers_to_nan():
    a, b = np.array([np.nan, 1, np.nan, 4] * 2), np.array([2, np.nan, np.nan, 3.0] * 2)
    out = np.empty(8)
    _maximum(a, b, out)
    np.testing.assert_array_equal(out, [2, 1, np.nan, 4] * 2)


@jit
def _transpose(source, target):
    transpose.transpose8(source, 3, 20, target, 0, 40)


@jit
def _sums(source, out):
    width = 16
    a, b = simd.load(source, 0, width), simd.load(source, 16, width)
    c, d = simd.load(source, 32, width), simd.load(source, 48, width)
    simd.store(out, 0, simd.sums8(a, b, c, d, a, c, b, d))


def dot_bytes(total, a, b, out):
    """Integer i of ``total`` plus its four products, as a float of out's type."""
    sums = simd.dot_bytes(simd.load(total, 0, 16), simd.load(a, 0, 16), simd.load(b, 0, 16))
    simd.store(out, 0, simd.integers_as(sums, simd.load(out, 0, 16)))


@pytest.mark.parametrize("native", [False, True])
def test_dot_bytes_equals_numpy(native, monkeypatch):
    if not native:
        monkeypatch.setattr(simd, "has_dot_bytes", lambda: False)  # what other processors get
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 256, 64).astype(np.uint8), rng.integers(-128, 128, 64).astype(np.int8)
    a[:8], b[:4], b[4:8] = 255, -128, 127
    total, out = rng.integers(-(10**6), 10**6, 16).astype(np.int32), np.zeros(16)
    run = dot_bytes if simd.JIT_DISABLED else numba.njit(dot_bytes)
    run(total, a.view(np.int32), b.view(np.int32), out)
    products = a.astype(np.int64) * b
    np.testing.assert_array_equal(out, total + products.reshape(16, 4).sum(axis=1))


@pytest.mark.parametrize("dtype", FLOATS)
def test_transpose_and_sums(dtype):
    source = np.arange(200, dtype=dtype)
    target = np.full(72, -1, dtype)
    _transpose(source, target)
    tile = np.array([source[3 + 20 * r : 11 + 20 * r] for r in range(8)])
    np.testing.assert_array_equal(target[:32].reshape(4, 8), tile[:, :4].T)
    np.testing.assert_array_equal(target[40:].reshape(4, 8), tile[:, 4:].T)
    assert (target[32:40] == -1).all()
    out = np.empty(8, dtype)
    _sums(source, out)
    rows = source[:64].reshape(4, 16).sum(axis=1)
    np.testing.assert_array_equal(out, rows[[0, 1, 2, 3, 0, 2, 1, 3]])


@jit
def _gram(Q, P, rows, ld, C):
    tiles.gram(Q, P, rows, ld, C, 0, ld)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("rows", "ld"), [(0, 16), (1, 16), (5, 32), (33, 48)])
def test_gram_adds_the_weighted_outer_products(dtype, rows, ld):
    rng = np.random.default_rng(rows)
    P = rng.standard_normal((rows + 1, ld)).astype(dtype)
    d = rng.uniform(-1, 1, (rows + 1, 1)).astype(dtype)
    start = rng.standard_normal((ld, ld)).astype(dtype)
    C = start.copy()
    _gram(d * P, P, rows, ld, C)
    exact = start + (d * P)[:rows].astype(float).T @ P[:rows]
    np.testing.assert_allclose(np.triu(C), np.triu(exact), rtol=0, atol=(rows + 2) * 16 * np.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", FLOATS)
def test_gram_rows_sums_a_range_of_rows_in_float64(dtype):
    Y = np.random.default_rng(1).standard_normal((1100, 16)).astype(dtype)
    out = np.zeros((16, 16))
    gram_rows(Y, 10, 1090, np.empty((16, 16), dtype), out)
    block = Y[10:1090].astype(float)
    bound = CHUNK * np.finfo(dtype).eps * (abs(block).T @ abs(block))  # a chunk's sum of CHUNK products
    assert (np.triu(abs(out - block.T @ block)) <= bound).all()


@jit
def _products(P, n, ld, out):
    tiles.row_products(P, n, ld, out, 8)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("n", [4, 8, 20])
def test_row_products(dtype, n):
    ld = 32
    P = np.random.default_rng(n).standard_normal((n, ld)).astype(dtype)
    out = np.zeros(8 + n // 4 * (n // 4 + 1) * 8, dtype)
    _products(P, n, ld, out)
    exact = P.astype(float) @ P.T
    at = 8
    for i in range(0, n, 2):
        for j in range(i // 4 * 4, n, 4):
            tile = out[at : at + 8].reshape(2, 4)
            np.testing.assert_allclose(tile, exact[i : i + 2, j : j + 4], rtol=0, atol=ld * 8 * np.finfo(dtype).eps)
            at += 8
    assert at == len(out)


@jit
def _solve(A, n, ld, x):
    tiles.lane_cholesky(A, n, ld)
    tiles.lane_backward(A, n, ld, x)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("n", [4, 8, 12, 28])
def test_eight_systems_at_once(dtype, n):
    rng = np.random.default_rng(n)
    M = rng.standard_normal((LANES, n, 2 * n))
    S = M @ M.transpose(0, 2, 1) / n + np.eye(n)
    b = rng.standard_normal((LANES, n))
    ld = n + 4
    A = aligned((n, ld, LANES), dtype)
    A[:] = np.nan  # what lies below the diagonal must not matter
    for i in range(n):
        A[i, i:n] = S[:, i, i:].T
        A[i, n] = b[:, i]
        A[i, n + 1] = 0
    x = np.empty((n, LANES), dtype)
    _solve(A, n, ld, x)
    exact = np.linalg.solve(S, b[..., None])[..., 0]
    np.testing.assert_allclose(x.T, exact, rtol=0, atol=50 * n * np.finfo(dtype).eps)
    R = np.linalg.cholesky(S).transpose(0, 2, 1)
    np.testing.assert_allclose(A[range(n), range(n)].T, 1 / R[:, range(n), range(n)], rtol=100 * np.finfo(dtype).eps)


def test_an_indefinite_system_spoils_its_own_lane_only():
    n = 4
    A = np.zeros((n, n + 2, LANES), np.float32)
    A[range(n), range(n)] = 1
    A[:, n] = 1
    spoilt = A.copy()
    spoilt[2, 2, 5] = -1
    x, y = np.zeros((2, n, LANES), np.float32)
    _solve(A, n, n + 2, x)
    _solve(spoilt, n, n + 2, y)
    np.testing.assert_allclose(x, 1, rtol=4 * np.finfo(np.float32).eps)  # some processors take 1/√1 for 1 - eps
    assert not np.isfinite(y[:, 5]).all()
    np.testing.assert_array_equal(np.delete(y, 5, axis=1), np.delete(x, 5, axis=1))


def test_aligned_arrays_start_on_a_cache_line():
    for shape in ((3,), (5, WIDTH), (2, 3, 4)):
        array = aligned(shape, np.float32)
        assert array.shape == shape
        assert array.ctypes.data % 64 == 0
        assert array.flags.c_contiguous
