"""Matrices against a reading of the same arrays in plain Python; any mixture of good and bad parameters."""

import itertools

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st
from strategies import many, raw_csr

from lfm_np.problem import WEIGHTINGS, check_problem
from lfm_np.validation import check_ids, check_matrix, check_path, check_values, matrices
from lfm_np.validation.matrices import highest_if_plain

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


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_cells_that_are_stored_often_are_summed_in_float64(dtype):
    """In float32 a sum of ones ends at 2²⁴, and one of tenths is off by a per cent after a million."""
    for count, value in ((2**24 + 64, 1.0), (10**6, 0.1)):
        stored = np.full(count, value, np.float32), (np.zeros((2, count), np.int32))
        (total,) = check_matrix("X", sp.coo_array(stored, shape=(1, 1)), dtype=dtype).data
        assert total == pytest.approx(count * float(np.float32(value)), rel=1e-7)


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
    for count in (1, 2**20):  # cells of a block: blocks begin and end anywhere, also where offsets are wrong
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(matrices, "_CELLS", count)
            assert highest_if_plain(X) == highest_if_nothing_against(X, cells)


def highest_if_nothing_against(X, cells):
    """The largest value of a canonical X with positive finite floats only, else 0."""
    stored = [] if cells is None else [v for found in cells.values() for v in found]
    plain = bool(stored) and X.dtype.kind == "f" and all(0 < v < np.inf for v in stored)
    plain = plain and all(len(found) == 1 for found in cells.values()) and list(cells) == sorted(cells)
    return max(stored) if plain and len(stored) == len(X.data) else 0


# ---- parameters -----------------------------------------------------------------------------------------------------

JUNK = ("3", None, float("nan"), float("inf"), -1, [1], 1j, object(), np.array([1.0, 2.0]), {}, b"1")
SIZES = (0, 0.5, 2, 1e8, np.float32(0.1), np.float64(3), np.int8(4)), (*JUNK, True)
PARAMETERS = {  # name -> (good values, bad values)
    "factors": ((1, 3, 16, np.int8(4), np.uint64(7)), (*JUNK, 0, 2.5, True)),
    "regularization": SIZES,
    "alpha": SIZES,
    "unobserved_weight": (SIZES[0] + (None,), tuple(value for value in SIZES[1] if value is not None)),
    "exponent": SIZES,
    "weighting": (WEIGHTINGS[:3], (*JUNK, "IALS", "hu-koren ", ("ials",))),
    "biases": ((False, np.False_), (*JUNK, 0, "False")),
    "dtype": (
        ("float32", np.float64, np.dtype(np.float32)),
        ("float16", np.int32, "f99", 3, [1], "object", "f4,(", {"names": ["a"]}),
    ),
}


@st.composite
def parameters(draw):
    """Arguments of `check_problem`, most of them good, and the names of those that are bad."""
    values, bad = {}, set()
    for name, (good, junk) in PARAMETERS.items():
        wrong = draw(st.integers(0, 7)) == 0
        values[name] = draw(st.sampled_from(junk if wrong else good))
        bad |= {name} if wrong else set()
    return values, bad


@many
@given(parameters())
def test_parameters(drawn):
    """Good ones pass; else the message names one of the bad ones."""
    values, bad = drawn
    X = sp.csr_array(np.eye(3, dtype=np.float32))
    if not bad:
        assert check_problem(X, **values).params["factors"] == values["factors"]
        return
    with pytest.raises((TypeError, ValueError)) as caught:
        check_problem(X, **values)
    names = {"exponent": "regularization_exponent"}
    assert any(names.get(name, name) in str(caught.value) for name in bad)


@pytest.mark.small
def test_what_is_no_name_of_a_file_is_refused():
    for path in ("", "a\0b", "half of a pair \ud800"):
        with pytest.raises(ValueError, match=r"^path must"):
            check_path("path", path)


@pytest.mark.small
def test_values_beyond_float64_are_refused_whatever_numpy_says_of_overflow():
    with np.errstate(all="raise"), pytest.raises(ValueError, match=r"values must be .* record 0"):
        check_values("values", np.array([np.longdouble("1e4000")]), 1)


@pytest.mark.small
def test_of_nothing_there_is_no_number():
    with pytest.raises(ValueError, match="users must be none, as there are none, got 3"):
        check_ids("users", [3], 0)
    assert check_ids("users", [], 0).shape == (0,)


@pytest.mark.small
@pytest.mark.skipif(np.__version__ < "2", reason="before NumPy 2, that state is the thread's, whatever the context")
def test_what_a_repr_leaves_behind_stays_in_it():
    """As NumPy's own of an array does where a handler of a signal raises in it."""

    class Interrupted:
        def __repr__(self):
            np.seterr(over="call")
            raise RuntimeError

    before = np.geterr()
    with pytest.raises(TypeError, match="an object of type Interrupted"):
        check_path("path", Interrupted())
    assert np.geterr() == before
