"""Gram matrices and rotations of whole factor matrices, of integers, which floats add up exactly."""

import numpy as np
import pytest

from lfm_np.half_sweep import BLAS_FACTORS, BLAS_ROWS, FEWEST_ROWS, gram_chunks, gram_matrix, rotated
from lfm_np.kernels.jit import JIT_DISABLED, Pool

pytestmark = pytest.mark.small
FLOATS = (np.float32, np.float64)
ROWS = (0, 1, FEWEST_ROWS - 1, FEWEST_ROWS, FEWEST_ROWS + 1, BLAS_ROWS + 1, 2 * BLAS_ROWS + 3)
FACTORS = (BLAS_FACTORS, BLAS_FACTORS + 16, 512) if JIT_DISABLED else (16, BLAS_FACTORS - 16, BLAS_FACTORS, 512)


def integers(rows, columns, dtype):
    return np.random.default_rng(rows + columns).integers(-9, 10, (rows, columns)).astype(dtype)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("ld", FACTORS)
@pytest.mark.parametrize("rows", ROWS)
def test_a_gram_matrix_is_the_sum_of_the_products(rows, ld, dtype):
    Y = integers(rows, ld, dtype)
    exact = Y.astype(float).T @ Y.astype(float)
    for threads in (1, 3):
        with Pool(threads) as pool:
            np.testing.assert_array_equal(gram_matrix(Y, pool), exact)


def test_a_chunk_adds_up_more_than_its_matrix_has_rows():
    """Else writing ld² numbers for each of many chunks takes longer than the products."""
    assert gram_chunks(1000, 2048).step == FEWEST_ROWS
    assert len(gram_chunks(10**6, 64)) > 64  # for as many threads


def test_products_that_overflow_are_infinite_and_warn_nobody():
    with Pool(2) as pool:
        G = gram_matrix(np.full((300, BLAS_FACTORS), 1e30, np.float32), pool)
    assert np.isinf(G).all()


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("ld", [16, 512, 1024])
@pytest.mark.parametrize("rows", ROWS)
def test_rows_are_rotated_all_or_some_also_in_place(rows, ld, dtype):
    Y, Q = integers(rows, ld, dtype), integers(ld, ld, np.float64)
    exact = Y.astype(float) @ Q
    with Pool(2) as pool:
        np.testing.assert_array_equal(rotated(Y, Q, np.empty_like(Y), pool), exact)
        some = np.arange(0, rows, 3)
        out = rotated(Y, Q, np.zeros_like(Y), pool, only=some)
        np.testing.assert_array_equal(out[some], exact[some])
        assert not np.delete(out, some, axis=0).any()
        np.testing.assert_array_equal(rotated(Y, Q, Y, pool), exact)
