"""The transpose of a matrix in memory."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import csr_matrices, examples

from lfm_np import transposing
from lfm_np.kernels.jit import Pool
from lfm_np.problem import narrow


@pytest.mark.small
@examples(50)
@given(csr_matrices(), st.sampled_from([1, 2, 7]))
def test_equals_scipy_for_any_number_of_threads(X, threads):
    before, transposing.BYTES_A_CELL = transposing.BYTES_A_CELL, 0.01
    X = narrow(X)
    held = [part.copy() for part in (X.indptr, X.indices, X.data)]
    try:
        with Pool(threads) as pool:
            found = transposing.transposed(X, pool)
    finally:
        transposing.BYTES_A_CELL = before
    expected = X.T.tocsr()
    assert found.shape == expected.shape
    for name in ("indptr", "indices", "data"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    assert found.indices.dtype == np.int32
    assert found.data.dtype == X.data.dtype
    for part, old in zip((X.indptr, X.indices, X.data), held):
        np.testing.assert_array_equal(part, old)
