"""check_matrix against a reading of the same arrays in plain Python."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from strategies import many, raw_csr

from lfm_np.validation import check_matrix
from lfm_np.validation.matrices import is_plain

LARGEST = float(np.finfo(np.float32).max)


def cells_of(X):
    """{(row, column): values stored there} in the order of the arrays, or None if they are inconsistent."""
    indptr, indices = X.indptr.tolist(), X.indices.tolist()
    if indptr[0] != 0 or any(a > b for a, b in itertools.pairwise(indptr)) or indptr[-1] > len(indices):
        return None
    cells = {}
    for row, (start, stop) in enumerate(itertools.pairwise(indptr)):
        for t in range(start, stop):
            if not 0 <= indices[t] < X.shape[1]:
                return None
            cells.setdefault((row, indices[t]), []).append(float(X.data[t]))
    return cells


def expected(cells, zeros, duplicates, negative):
    """{cell: value}, or None where the matrix must be refused."""
    if cells is None or (duplicates == "refuse" and any(len(found) > 1 for found in cells.values())):
        return None
    sums = {cell: sum(found) for cell, found in cells.items()}
    sums = {cell: value for cell, value in sums.items() if value != 0 or zeros == "keep"}
    bad = any(not abs(v) <= LARGEST or (v < 0 and not negative) for v in sums.values())
    return None if bad else sums


@many
@given(raw_csr())
def test_check_matrix(X):
    before = [array.copy() for array in (X.data, X.indices, X.indptr)]
    cells = cells_of(X)
    for zeros, duplicates, negative in (("drop", "sum", False), ("keep", "refuse", True)):
        wanted = expected(cells, zeros, duplicates, negative)
        if wanted is None:
            with pytest.raises(ValueError, match=r"^X "):
                check_matrix("X", X, zeros=zeros, duplicates=duplicates, negative=negative)
            continue
        got = check_matrix("X", X, zeros=zeros, duplicates=duplicates, negative=negative)
        rows = np.repeat(np.arange(X.shape[0]), np.diff(got.indptr)).tolist()
        assert list(zip(rows, got.indices.tolist())) == sorted(wanted)
        np.testing.assert_allclose(got.data, [wanted[cell] for cell in sorted(wanted)], rtol=1e-6, atol=1e-44)
        assert got.data.dtype == np.float32
    for array, copy in zip((X.data, X.indices, X.indptr), before):
        np.testing.assert_array_equal(array, copy)
    assert is_plain(X) == nothing_against(X, cells)


def nothing_against(X, cells):
    """Whether X is canonical, with positive finite floats only."""
    stored = [] if cells is None else [v for found in cells.values() for v in found]
    plain = bool(stored) and X.dtype.kind == "f" and all(0 < v < np.inf for v in stored)
    plain = plain and all(len(found) == 1 for found in cells.values()) and list(cells) == sorted(cells)
    return plain and len(stored) == len(X.data)
