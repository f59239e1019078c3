"""build_dict, to_csr, Interactions and their splits against plain loops."""

import copy
import dataclasses
import datetime
import pickle
import tracemalloc

import numpy as np
import oracles_data as oracle
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st
from optional import require
from strategies import DUPLICATES, records

import lfm_np
from lfm_np import Interactions, build_dict, splits, to_csr
from lfm_np.cli.models import extend
from lfm_np.ids import in_unit, joined, same_ids

pytestmark = pytest.mark.small


def as_dict(X):
    rows = np.repeat(np.arange(X.shape[0]), np.diff(X.indptr))
    return {(i, j): v for i, j, v in zip(rows.tolist(), X.indices.tolist(), X.data.tolist())}


def sample(seed=0, times=True):
    """60 records with string and negative integer ids, no repeats."""
    rng = np.random.default_rng(seed)
    cells = rng.choice(12 * 9, size=60, replace=False)
    users = np.array([f"user {k:02}" for k in range(12)])[cells // 9]
    timestamps = rng.integers(0, 25, 60) if times else None
    return Interactions.from_arrays(users, cells % 9 * 10 - 40, rng.integers(1, 6, 60), timestamps)


def arrays(data):
    return [data.users, data.items, data.timestamps, data.matrix.data, data.matrix.indices, data.matrix.indptr]


# ---- build_dict -----------------------------------------------------------------------------------------------------


@given(records())
def test_build_dict_equals_the_loop(drawn):
    pairs, _ = drawn
    found = build_dict(pairs)
    assert {i: js.tolist() for i, js in found.items()} == oracle.build_dict(pairs)
    assert list(found) == sorted(found)
    assert all(type(i) is int for i in found)


def test_build_dict_takes_lists_and_leaves_its_input_alone():
    pairs = np.array([(3, 1), (0, 2), (3, 0)])
    before = pairs.copy()
    assert [js.tolist() for js in build_dict(pairs.tolist()).values()] == [[2], [0, 1]]
    build_dict(pairs)[3]
    np.testing.assert_array_equal(pairs, before)
    assert build_dict([]) == {}
    assert build_dict(np.zeros((0, 2), np.int32)) == {}


@pytest.mark.parametrize(
    ("pairs", "error", "words"),
    [
        ([(0, -1)], ValueError, "negative"),
        ([(0.5, 1)], TypeError, "integers"),
        ([(0, 1, 2)], ValueError, r"shape \(N, 2\)"),
        ([1, 2], ValueError, r"shape \(N, 2\)"),
        ([(0, 1), (2,)], ValueError, "unequal"),
        ([("a", "b")], TypeError, "ids of any kind"),
        (np.zeros((3, 2), bool), TypeError, "bool"),
    ],
)
def test_bad_pairs_are_refused(pairs, error, words):
    for function in (build_dict, to_csr):
        with pytest.raises(error, match=words):
            function(pairs)


# ---- to_csr ---------------------------------------------------------------------------------------------------------


@given(records(), st.sampled_from(DUPLICATES), st.booleans())
def test_to_csr_equals_the_loop(drawn, duplicates, valued):
    pairs, values = drawn
    X = to_csr(pairs, (12, 9), values if valued else None, duplicates)
    expected = oracle.cells(pairs, values if valued else np.ones(len(pairs)), duplicates)
    assert as_dict(X) == {pair: pytest.approx(value, rel=1e-6) for pair, (value, _) in expected.items()}
    assert X.shape == (12, 9)
    assert X.dtype == np.float32
    assert isinstance(X, sp.csr_array)
    assert X.indices.dtype == X.indptr.dtype == np.int32
    X.check_format(full_check=True)
    assert sp.csr_array((X.data, X.indices, X.indptr), shape=X.shape).has_canonical_format


def test_to_csr_of_few_records_takes_no_memory_for_the_width():
    pairs = np.array([(5, 2**31 - 3), (0, 7), (5, 2), (0, 7)])
    tracemalloc.start()
    X = to_csr(pairs, (6, 2**31 - 1))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [list(X.indptr), list(X.indices), list(X.data)] == [[0, 1, 1, 1, 1, 1, 3], [7, 2, 2**31 - 3], [2, 1, 1]]
    assert peak < 1 << 20


def test_to_csr_finds_the_shape_and_keeps_zeros():
    X = to_csr([(2, 0), (0, 3)], values=[0, 1])
    assert X.shape == (3, 4)
    assert X.nnz == 2
    assert to_csr([]).shape == (0, 0)
    assert to_csr([], shape=(4, 2)).shape == (4, 2)


@pytest.mark.parametrize("width", [2, 2**31 - 2])
def test_the_last_of_many_records_is_the_last_given(width):
    """Of few columns, which are counted, and of columns far apart, which are sorted."""
    drawn = np.random.default_rng(0).integers(0, 2, 3000)
    X = to_csr(np.column_stack((0 * drawn, drawn * (width - 1))), values=np.arange(3000), duplicates="last")
    assert X.data.tolist() == [np.flatnonzero(drawn == column)[-1] for column in (0, 1)]


def test_sums_are_accumulated_in_float64():
    tiny = 2.0**-24
    assert to_csr([(0, 0)] * 9, values=[1.0] + [tiny] * 8).data[0] == np.float32(1 + 8 * tiny)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"shape": (1, 5)}, ValueError, "shape has 1 rows, but pairs go up to 1"),
        ({"shape": (5, 2)}, ValueError, "shape has 2 columns, but pairs go up to 2"),
        ({"shape": 5}, TypeError, "pair"),
        ({"shape": (2.0, 3)}, TypeError, "integer"),
        ({"shape": (2**31, 3)}, ValueError, "2147483647"),
        ({"values": [1.0]}, ValueError, "one entry for each of the 2 records"),
        ({"values": [1.0, np.nan]}, ValueError, "nan in record 1"),
        ({"values": [np.inf, 1.0]}, ValueError, "inf in record 0"),
        ({"values": [1e39, 1.0]}, ValueError, "float32"),
        ({"values": ["a", "b"]}, TypeError, "real numbers"),
        ({"values": [[1.0], [2.0]]}, ValueError, "one-dimensional"),
        ({"duplicates": "first"}, ValueError, "'sum', 'last', 'mean', 'max', 'count', 'error'"),
    ],
)
def test_bad_arguments_of_to_csr(options, error, words):
    with pytest.raises(error, match=words):
        to_csr([(0, 0), (1, 2)], **options)


def test_pairs_beyond_32_bits_are_named():
    with pytest.raises(ValueError, match=f"pairs must be numbers below 2147483647, got {2**63}"):
        to_csr(np.array([(0, 2**63)], np.uint64))
    assert to_csr([(0, 2**31 - 2)]).shape == (1, 2**31 - 1)
    with pytest.raises(ValueError, match="pairs must be numbers below 2147483647, got 2147483647"):
        to_csr([(0, 2**31 - 1)])


def test_repeated_pairs_can_be_an_error_and_must_not_overflow():
    assert to_csr([(1, 1), (0, 1)], duplicates="error").nnz == 2
    with pytest.raises(ValueError, match=r"pair \(4, 7\) occurs more than once"):
        to_csr([(1, 1), (4, 7), (0, 0), (4, 7)], duplicates="error")
    with pytest.raises(ValueError, match=r"pair \('eve', 30\) occurs more than once"):
        Interactions.from_arrays(["eve", "ann", "eve"], [30, 10, 30], duplicates="error")
    with pytest.raises(ValueError, match=r"pair \('2024-05-03T00:00:00\.0+', 30\) occurs"):  # no number of nanoseconds
        Interactions.from_arrays(np.array(["2024-05-03"] * 2, "M8[ns]"), [30, 30], duplicates="error")
    with pytest.raises(ValueError, match="add up to more than float32"):
        to_csr([(0, 0), (0, 0)], values=[3e38, 3e38])


# ---- Interactions ---------------------------------------------------------------------------------------------------


@given(records(), st.sampled_from(DUPLICATES), st.randoms(use_true_random=False))
def test_from_arrays_equals_the_loop(drawn, duplicates, random):
    pairs, values = drawn
    times = np.array([random.choice([np.nan, 0.0, 1.0, 2.0]) for _ in values])
    data = Interactions.from_arrays(pairs[:, 0], pairs[:, 1], values, times, duplicates=duplicates)
    assert data.users.tolist() == sorted(set(pairs[:, 0].tolist()))
    assert data.items.tolist() == sorted(set(pairs[:, 1].tolist()))
    expected = oracle.cells(pairs, values, duplicates, times)
    named = {(int(data.users[i]), int(data.items[j])): v for (i, j), v in as_dict(data.matrix).items()}
    assert named == {pair: pytest.approx(value, rel=1e-6) for pair, (value, _) in expected.items()}
    np.testing.assert_array_equal(data.timestamps, [expected[pair][1] for pair in sorted(expected)])


@pytest.mark.parametrize(
    "ids",
    [
        np.array([5, 3, 5, 9]),
        np.array([-(2**62), 2**62, 0, 2**62]),
        np.array([250, 3, 250, 0], np.uint8),
        np.array(["b", "a", "b", "ä"]),
        np.array(["b", "a", "b", "c"], object),
        np.array(["2020-01-02", "2019-05-05", "2020-01-02", "2021-01-01"], "M8[D]"),
        [1.5, -2.0, 1.5, 0.0],
    ],
)
def test_ids_of_any_kind_lead_to_rows_and_back(ids):
    data = Interactions.from_arrays(ids, [0, 0, 1, 1])
    assert data.users.tolist() == sorted(set(np.asarray(ids).tolist()))
    assert data.users.dtype == np.asarray(ids).dtype
    rows = data.rows_of(ids)
    assert data.user_ids(rows).tolist() == np.asarray(ids).tolist()
    np.testing.assert_array_equal(data.rows_of(data.users), np.arange(3))
    assert data.matrix[rows[1], 0] == 1


@pytest.mark.parametrize(
    ("ids", "wanted", "rows"),
    [
        (np.array([5, 44], np.uint8), [300, 44, -212], [-1, 1, -1]),
        (np.array([1, 2**63 + 1], np.uint64), np.array([-1, 1]), [-1, 0]),
        (np.array([-1, 1]), np.array([2**64 - 1, 1], np.uint64), [-1, 1]),
        (
            np.array(["1793-12-01T23:13:36.795328512", "2024-05-01"], "M8[ns]"),
            np.array(["99999-01-01", "2024-05-01"], "M8[D]"),
            [-1, 1],
        ),
        (
            np.array(["2024-05-01", "99999-01-01"], "M8[D]"),
            np.array(["1793-12-01T23:13:36.795328512", "2024-05-01", "2024-05-01T12"], "M8[ns]"),
            [-1, 0, -1],
        ),
        (np.array([1, 2], "m8[s]"), np.array([2000, 1500, "NaT"], "m8[ms]"), [1, -1, -1]),
        (np.array([0, 5], np.uint64), np.array([5, 0, -5]), [1, 0, -1]),
        (np.array([0, 5]), np.array([0, 2**64 - 5], np.uint64), [0, -1]),
    ],
)
def test_ids_of_another_width_or_unit_are_found_only_where_equal(ids, wanted, rows):
    data = Interactions(sp.csr_array(np.eye(2)), ids, [0, 1])
    assert data.rows_of(wanted, missing=-1).tolist() == rows


@pytest.mark.parametrize(
    "ids",
    [
        np.array([100, -100, 45, 100], np.int8),
        np.array([255, 0, 1], np.uint8),
        np.arange(20_000, -20_000, -1).astype(np.int16),
        np.array([-(2**63), 3 - 2**63, -(2**63)]),
        np.array([2**64 - 1, 2**64 - 3, 2**64 - 1], np.uint64),
    ],
    ids=lambda ids: ids.dtype.name,
)
def test_ids_at_the_ends_of_their_type(ids):
    """Nearly dense, so that a table numbers them, and further apart than half of what their type holds."""
    data = Interactions.from_arrays(ids, np.arange(len(ids)))
    np.testing.assert_array_equal(data.users, np.unique(ids), strict=True)
    cells = data.matrix.tocoo()
    np.testing.assert_array_equal(data.users[cells.row], ids[cells.col])


def test_ids_need_not_ascend():
    data = Interactions(sp.csr_array(np.eye(3)), users=["z", "a", "m"], items=[7, -1, 3])
    assert data.rows_of(["a", "z"]).tolist() == [1, 0]
    assert data.columns_of(3).tolist() == [2]
    assert data.item_ids([[2, 0]]).tolist() == [[3, 7]]
    with pytest.raises(ValueError, match="missing must be an integer ≥ -1, got -2"):
        data.rows_of(["a", "b"], missing=-2)


def test_padding_is_never_taken_for_the_last_item():
    data = sample()
    with pytest.raises(ValueError, match="from 0 to 8, got -1"):
        data.item_ids([0, -1])
    assert data.item_ids([0, -1], missing=-999).tolist() == [-40, -999]
    assert data.item_ids([1], missing=-999).tolist() == [-30]


@pytest.mark.parametrize(
    ("ids", "missing", "dtype"),
    [
        (np.array([5, 7], np.int8), -1, "int8"),
        (np.array([5, 7], np.int8), 300, "int64"),
        (np.array([5, 7], np.uint64), 1, "uint64"),
        (np.array([5, 2**63 + 1], np.uint64), -1, "object"),
        (np.array([5, 2**60 + 1]), np.nan, "object"),
        (np.array([5, 7]), "", "object"),
        (np.array([0.5, 1.5]), -1, "float64"),
        (np.array(["ab", "cd"]), "", "<U2"),
        (np.array(["ab", "cd"]), "none", "<U4"),
        (np.array(["2024-05-01", "2024-05-02"], "M8[ns]"), np.datetime64("NaT", "D"), "<M8[ns]"),
        (np.array(["2024-05-01", "2024-05-02"], "M8[ns]"), "", "object"),
    ],
)
def test_padding_and_ids_stay_what_they_are(ids, missing, dtype):
    found = Interactions(sp.csr_array(np.eye(2)), [0, 1], ids).item_ids([[1, -1]], missing=missing)
    assert found.dtype == dtype
    assert found[0, 0] == ids[1]
    assert found[0, 1] == missing or missing != missing
    with pytest.raises(TypeError, match="missing must be one id"):
        sample().item_ids([-1], missing=[1, 2])


def test_numbers_of_any_size_and_masked_columns():
    data = Interactions.from_arrays([1, 1], [1, 2], [1.0, 2.0], [5, 6])
    assert data.split("last", n=10**30)[1].matrix.nnz == 1
    with pytest.raises(ValueError, match="columns must have no masked entries"):
        data.item_ids(np.ma.array([0, 1], mask=[False, True]), missing=0)


def test_unknown_ids_are_named():
    data = sample()
    with pytest.raises(ValueError, match=r"items has no id 41 \(1 of 2 unknown\)"):
        data.columns_of([40, 41])
    with pytest.raises(TypeError, match="got dtype int64"):
        data.rows_of([1])
    assert data.rows_of([]).shape == (0,)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (([1, 2], [1]), ValueError, "items must have one entry"),
        (([1, np.nan], [1, 2]), ValueError, "users must not be missing"),
        (([1, None], [1, 2]), TypeError, "one sortable kind, got NoneType, int"),
        ((np.array(["NaT"], "M8[s]"), [1]), ValueError, "NaT"),
        (([[1]], [1]), ValueError, "one-dimensional"),
        (([1j], [1]), TypeError, "complex"),
        (([1, 2], [1, 2], [np.inf, 1]), ValueError, "inf in record 0"),
        (([1, 2], [1, 2], None, ["a", "b"]), TypeError, "timestamps must be"),
        (([1, 2], [1, 2], None, [1]), ValueError, "timestamps must have one entry"),
        (([1, 2], [1, 2], None, [2**60 + 1, np.nan]), ValueError, "beyond 2⁵³"),
        (([1, 2], [1, 2], None, [2**63 + 1, -1]), ValueError, "beyond 2⁵³"),
    ],
)
def test_bad_records(arguments, error, words):
    with pytest.raises(error, match=words):
        Interactions.from_arrays(*arguments)


def test_bad_parts():
    eye = sp.csr_array(np.eye(2))
    with pytest.raises(ValueError, match="users must be distinct ids, got 5"):
        Interactions(eye, [5, 5], [1, 2])
    with pytest.raises(ValueError, match="items must have one id for each of the 2"):
        Interactions(eye, [5, 6], [1])
    with pytest.raises(ValueError, match="one entry for each of the 2"):
        Interactions(eye, [5, 6], [1, 2], [0])
    unsorted = sp.csr_array((np.ones(2), [1, 0], [0, 2, 2]), shape=(2, 2))
    assert Interactions(unsorted, [5, 6], [1, 2]).matrix.indices.tolist() == [0, 1]
    assert unsorted.indices.tolist() == [1, 0]
    for other in (unsorted, unsorted.tocsc(), unsorted.tocoo()):
        with pytest.raises(ValueError, match="canonical CSR"):
            Interactions(other, [5, 6], [1, 2], [0, 1])
    assert Interactions(sp.coo_array((2, 2)), [5, 6], [1, 2], []).timestamps.shape == (0,)


def test_unknown_values_are_kept_and_solvers_can_tell():
    data = Interactions.from_arrays([0, 0, 1], [0, 1, 1], [3.0, np.nan, 5.0])
    assert np.isnan(data.matrix.data).sum() == 1
    with pytest.raises(ValueError, match="non-finite value in row 0"):
        lfm_np.validation.check_matrix("X", data)
    assert data.select(~np.isnan(data.matrix.data)).matrix.nnz == 2
    assert data.binarize().matrix.data.tolist() == [1, 1, 1]
    assert data.binarize(4).matrix.nnz == 1
    assert data.binarize(1e300).matrix.nnz == 0
    assert data.binarize(-1e300).matrix.nnz == 2
    small = Interactions.from_arrays([0, 0, 0, 0], [0, 1, 2, 3], [0.0, -1.0, 1e-45, 1.0])
    for threshold, left in ((1e-300, [2, 3]), (0.0, [0, 2, 3]), (-1e-300, [0, 2, 3])):  # 0 is less than 1e-300
        assert small.binarize(threshold).matrix.indices.tolist() == left


def test_it_is_immutable_and_survives_pickling():
    data = sample()
    with pytest.raises(AttributeError):
        data.users = data.items
    with pytest.raises(ValueError, match="read-only"):
        data.users[0] = "x"
    twin = pickle.loads(pickle.dumps(data))
    assert repr(twin) == repr(data) == "Interactions(12 users × 9 items, 60 cells, with timestamps)"
    np.testing.assert_array_equal(twin.rows_of(data.users), np.arange(12))


def test_ids_and_times_are_its_own():
    users, items, times = np.array([30, 10, 20]), np.array([2, 1, 3]), np.array([5, 6, 7])
    data = Interactions(sp.csr_array(np.eye(3)), users, items, times)
    for array in (users, items, times):
        array[:] = [7, 8, 9]
    assert (data.users.tolist(), data.items.tolist()) == ([30, 10, 20], [2, 1, 3])
    assert data.timestamps.tolist() == [5, 6, 7]
    assert data.rows_of(data.users).tolist() == data.columns_of(data.items).tolist() == [0, 1, 2]


def test_a_read_only_view_of_what_can_be_written_is_copied_too():
    times = np.array([5, 6, 7])
    view = times.view()
    view.flags.writeable = False
    data = Interactions(sp.csr_array(np.eye(3)), [1, 2, 3], [1, 2, 3], view)
    times[:] = 0
    assert data.timestamps.tolist() == [5, 6, 7]


def test_the_matrix_is_its_own():
    X = sp.csr_array(([0.0, 1, 2, 0, 3], [0, 1, 0, 1, 2], [0, 2, 3, 5]), shape=(3, 3), dtype=np.float32)
    data = Interactions(X, [1, 2, 3], [1, 2, 3], [10, 20, 30, 40, 50])
    X.data[1] = 9
    X.eliminate_zeros()
    assert data.matrix.data.tolist() == [0, 1, 2, 0, 3]
    assert data.select(data.matrix.data > 0).timestamps.tolist() == [20, 30, 50]


@pytest.mark.parametrize("make", [lambda data: data, lambda data: data.binarize(), lambda data: data.split()[0]])
def test_the_matrix_cannot_be_written_but_its_copy_can(make):
    data = make(sample())
    with pytest.raises(ValueError, match="read-only"):
        data.matrix.data[0] = 9
    with pytest.raises(ValueError, match="read-only"):
        data.matrix.eliminate_zeros()
    for part in (data.matrix.data, data.matrix.indices, data.matrix.indptr):
        with pytest.raises(ValueError, match="WRITEABLE"):
            part.flags.writeable = True
    writable = data.matrix.copy()
    writable.data[0] = 0
    writable.eliminate_zeros()
    assert writable.nnz == data.matrix.nnz - 1


@pytest.mark.parametrize("data", [sample(), Interactions(sp.csr_array(np.eye(3)), [1, 2, 3], [1, 2, 3])])
def test_parts_share_what_they_have_in_common(data):
    assert np.shares_memory(data.binarize().matrix.indices, data.matrix.indices)
    assert np.shares_memory(Interactions(data, data.users, data.items).matrix.data, data.matrix.data)


@pytest.mark.parametrize("clone", [copy.copy, copy.deepcopy, lambda data: pickle.loads(pickle.dumps(data))])
def test_copies_are_read_only_too(clone):
    data = dataclasses.replace(sample(), frame_backend="polars")
    twin = clone(data)
    for mine, its in zip(arrays(data), arrays(twin)):
        assert not its.flags.writeable
        assert mine.dtype == its.dtype
        np.testing.assert_array_equal(mine, its)
    assert (twin.shape, twin.frame_backend) == (data.shape, "polars")
    np.testing.assert_array_equal(twin.rows_of(data.users), np.arange(12))


def test_the_matrix_of_records_stays_writable():
    X = to_csr([(0, 1)])
    X.data[0] = 5
    assert X[0, 1] == 5


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_what_the_caller_gave_stays_his_and_writable(dtype):
    """In the order and types of the result already, so that nothing would have to be copied to be kept."""
    rows, columns = np.array([0, 0, 1, 2], dtype), np.array([0, 1, 0, 2], dtype)
    values, times = np.arange(1, 5, dtype=np.float32), np.array([5, 6, 7, 8])
    data = Interactions.from_arrays(rows, columns, values=values, timestamps=times)
    kept = (data.users, data.items, data.timestamps, data.matrix.data, data.matrix.indices, data.matrix.indptr)
    for theirs in (rows, columns, values, times):
        assert theirs.flags.writeable
        assert not any(np.shares_memory(theirs, own) for own in kept)


def over_arrow(array):
    require("pyarrow")
    import pyarrow

    return pyarrow.array(array).to_numpy()


def over_polars(array):
    require("polars")
    import polars

    return polars.Series(array).to_numpy()


READ_ONLY = {
    "Arrow's": over_arrow,
    "Polars'": over_polars,
    "a buffer's": lambda array: np.frombuffer(memoryview(array).toreadonly(), array.dtype),
    "strides of another": lambda array: np.lib.stride_tricks.as_strided(array, writeable=False),
    "a view of another": lambda array: np.broadcast_to(array, array.shape),
}


@pytest.mark.parametrize("name", READ_ONLY)
def test_read_only_arrays_over_others_that_can_be_written_are_copied(name):
    make = READ_ONLY[name]
    ids, values, indices, indptr = np.arange(3.0), np.ones(3, np.float32), np.arange(3), np.arange(4)
    given = *map(make, (values, indices, indptr)), make(ids)
    matrix = sp.csr_array((3, 3), dtype=np.float32)
    matrix.data, matrix.indices, matrix.indptr = given[:3]
    data = Interactions(matrix, given[3], given[3], given[3])
    factors = lfm_np.Factors(np.ones((3, 1), np.float32), np.ones((3, 1), np.float32), user_bias=given[0])
    assert not any(array.flags.writeable for array in given)
    for own in (ids, values, indices, indptr):
        own[:] = 7
    for kept in (data.users, data.items, data.timestamps, data.matrix.indices):
        assert kept.tolist() == [0, 1, 2]
    assert data.matrix.data.tolist() == factors.user_bias.tolist() == [1] * 3
    assert data.matrix.indptr.tolist() == [0, 1, 2, 3]


def test_read_only_times_are_not_copied_nor_are_those_of_the_whole():
    times = np.array([5, 6, 7])
    times.flags.writeable = False
    data = Interactions(sp.csr_array(np.eye(3)), [1, 2, 3], [1, 2, 3], times)
    assert np.shares_memory(data.timestamps, times)
    assert np.shares_memory(data.binarize().timestamps, times)
    with pytest.raises(ValueError, match="WRITEABLE"):
        data.timestamps.flags.writeable = True


# ---- splits ---------------------------------------------------------------------------------------------------------

SPLITS = [
    {"by": "random", "random_state": 3},
    {"by": "last"},
    {"by": "last", "n": 3},
    {"by": "time"},
    {"by": "time", "at": 12},
]


@pytest.mark.parametrize("options", SPLITS)
def test_a_split_is_a_partition_over_the_same_ids_and_repeats(options):
    data = sample()
    train, test = data.split(**options)
    assert 0 < test.matrix.nnz < 60
    assert as_dict(train.matrix).keys() & as_dict(test.matrix).keys() == set()
    assert as_dict(train.matrix) | as_dict(test.matrix) == as_dict(data.matrix)
    for part in (train, test):
        assert part.users.tolist() == data.users.tolist()
        assert part.items.tolist() == data.items.tolist()
        times = dict(zip(as_dict(data.matrix), data.timestamps.tolist()))
        assert part.timestamps.tolist() == [times[pair] for pair in as_dict(part.matrix)]
    again = data.split(**options)[1]
    np.testing.assert_array_equal(again.matrix.toarray(), test.matrix.toarray())


@given(st.integers(0, 2**32), st.floats(0.01, 0.99))
def test_random_split_takes_each_users_share(seed, fraction):
    data = sample(seed % 7)
    train, test = data.split(test_fraction=fraction, random_state=seed)
    counts = np.diff(data.matrix.indptr)
    held = np.diff(test.matrix.indptr)
    assert np.all(np.diff(train.matrix.indptr)[counts > 0] >= 1)
    assert np.all(held <= np.ceil(counts * fraction))
    assert np.all(held >= np.minimum(np.floor(counts * fraction), counts - 1))


def test_random_split_is_unbiased():
    data = Interactions.from_arrays(np.repeat(np.arange(20_000), 3), np.tile(np.arange(3), 20_000))
    _, test = data.split(test_fraction=0.2, random_state=0)
    assert test.matrix.nnz / 60_000 == pytest.approx(0.2, abs=0.01)
    np.testing.assert_allclose(np.bincount(test.matrix.indices) / 20_000, 0.2, atol=0.015)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("n", [1, 2, 20])
def test_last_out_equals_the_loop(seed, n):
    data = sample(seed)
    rows = np.repeat(np.arange(12), np.diff(data.matrix.indptr)).tolist()
    expected = oracle.last_out(rows, data.matrix.indices.tolist(), data.timestamps.tolist(), n)
    assert set(as_dict(data.split("last", n=n)[1].matrix)) == expected


@pytest.mark.parametrize("n", [1, 3, 7, 49, 100, 1000])
def test_a_whole_share_of_distinct_times_is_taken_in_full(n):
    """0.29 · 100 is 28.999999999999996 in floating point."""
    times = np.random.default_rng(n).permutation(n)
    taken = [np.count_nonzero(splits.late_cells(times, count / n)) for count in range(1, n)]
    assert taken == list(range(1, n))


@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.2, 0.29, 0.5, 0.97])
@pytest.mark.parametrize("seed", range(5))
def test_global_time_equals_the_loop(seed, fraction):
    data = sample(seed)
    train, test = data.split("time", test_fraction=fraction)
    flags = oracle.late(data.timestamps.tolist(), fraction)
    assert list(as_dict(test.matrix)) == [pair for pair, flag in zip(as_dict(data.matrix), flags) if flag]
    if test.matrix.nnz:
        assert train.timestamps.max() < test.timestamps.min()


@pytest.mark.parametrize(
    ("times", "at", "expected"),
    [
        ([2**60, 2**60 + 1, 2**60 + 2], 2**60 + 1, 2),  # equal as float64
        ([2**60, 2**60 + 1, 2**60 + 2], float(2**60), 3),
        ([2**60, 2**60 + 1, 2**60 + 2], np.int64(2**60 + 3), 0),
        (np.array([1.0, 1.0 + 2**-23, 2.0], np.float32), 1.0 + 2**-24, 2),
        (np.array([2**63, 2**63 + 1, 1], np.uint64), 2**63 + 1, 1),
        ("M8[ns]", "9999-12-31", 0),  # beyond what nanoseconds hold
        ("M8[ns]", "0001", 3),
        ("M8[Y]", np.datetime64("2024-01-01T00:00:00.000001"), 1),
        ("M8[15m]", np.datetime64("2024-06-01", "M"), 1),
        ("M8[s]", datetime.datetime(2024, 1, 1, 5, tzinfo=datetime.timezone(datetime.timedelta(hours=5))), 2),
    ],
)
def test_moments_are_compared_exactly(times, at, expected):
    if isinstance(times, str):
        times = np.array(["2023", "2024", "2025"], "M8[Y]").astype(times)
    data = Interactions.from_arrays([1, 1, 1], [1, 2, 3], timestamps=times)
    assert data.split("time", at=at)[1].matrix.nnz == expected


@pytest.mark.parametrize("unit", ["Y", "M", "W", "D", "h", "m", "s", "ms", "us", "ns", "ps", "fs", "as"])
def test_times_of_any_unit_are_compared_with_a_moment(unit):
    """Which is that of the middle one, in a coarser unit or in a finer one."""
    times = np.array([5, 6, 7]).astype(f"M8[{unit}]")
    data = Interactions.from_arrays([1, 1, 1], [1, 2, 3], timestamps=times)
    finer = {"Y": "D", "M": "D", "W": "h", "D": "s", "h": "ms", "m": "us", "s": "ns"}.get(unit, "as")
    for moment, later in ((times[1], 2), (times[1].astype(f"M8[{finer}]"), 2), (times[1] + np.timedelta64(1, unit), 1)):
        assert data.split("time", at=moment)[1].matrix.nnz == later
    if finer != unit:
        assert data.split("time", at=times[1].astype(f"M8[{finer}]") + np.timedelta64(1, finer))[1].matrix.nnz == 1
        assert data.split("time", at=times[1].astype(f"M8[{finer}]") - np.timedelta64(1, finer))[1].matrix.nnz == 2


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (np.array([1, 2]), np.array([1, 2], np.uint8), True),
        (np.array([1, 2]), np.array([1.0, 2.0]), True),
        (np.array([1, 2]), np.array([1, 3]), False),
        (np.array([1, 2]), np.array([1, 2, 3]), False),
        (np.array([0, 1]), np.array([False, True]), True),
        (np.array([2**53, 2**53 + 1]), np.array([2.0**53, 2.0**53]), False),  # equal once NumPy has made floats of them
        (np.array([1, 2**63], np.uint64), np.array([1, -(2**63)]), False),
        (np.array([1, 2], "m8[s]"), np.array([1, 2]), False),
        (np.array([1, 2], "m8[s]"), np.array([1000, 2000], "m8[ms]"), True),
        (np.array(["2024", "2025"], "M8[ns]"), np.array(["2024", "2025"], "M8[D]"), True),
        (np.array(["2024", "2025"], "M8[ns]"), np.array(["2024-01-02", "2025"], "M8[D]"), False),
        (np.array(["a", "bc"]), np.array(["a", "bc"], "U9"), True),
        (np.array(["a", "bc"]), np.array(["a", "bc"], object), True),
        (np.array(["a", "bc"]), np.array([b"a", b"bc"]), False),
        (np.array([1, 2]), np.array(["1", "2"]), False),
    ],
)
def test_ids_are_the_same_if_equal_whatever_their_type(one, other, same):
    assert same_ids(one, other) is same
    assert same_ids(other, one) is same


WRAPPED = [  # by NumPy: into 1830, before the Big Bang, to 1970
    "3000-01-01T00:00:00.000000000",
    "99999999999999999999999-01-01",
    b"2024-01-01T00:00:00.000000000000000000",
    "294277-01-10T04:00:54.775808",
]


@pytest.mark.parametrize("at", ["NaT", "", b"nat", "soon", 5, np.datetime64("NaT", "D"), [1], *WRAPPED])
def test_what_is_no_moment_is_refused(at):
    """Nor is text that NumPy reads as another one."""
    data = Interactions.from_arrays([1], [1], timestamps=np.array(["2024"], "M8[D]"))
    with pytest.raises(ValueError, match="at must be a time"):
        data.split("time", at=at)


@pytest.mark.parametrize(
    "at", ["1960-01-01T00:00:00.5", "2262-04-11T23:47:16.854775807", "1677-09-22T00:00:00.000000001"]
)
def test_moments_may_have_decimals(at):
    data = Interactions.from_arrays(
        [1, 1], [1, 2], timestamps=np.array([at, at], "M8[ns]") - np.array([0, 1], "m8[ns]")
    )
    assert data.split("time", at=at)[1].matrix.nnz == 1


def test_dates_split_too():
    dates = np.array(["2024-01-01", "2024-02-01", "2024-03-01"], "M8[D]")
    data = Interactions.from_arrays([1, 1, 1], [1, 2, 3], timestamps=dates)
    assert data.split("time", at="2024-02-01")[1].matrix.nnz == 2
    for text in ("20240201", "202402", "1706745600"):  # years to NumPy
        with pytest.raises(ValueError, match="at must be a time"):
            data.split("time", at=text)
    assert data.split("last")[1].matrix.indices.tolist() == [2]


def test_what_cannot_be_split_says_why():
    with pytest.raises(ValueError, match="no timestamps"):
        sample(times=False).split("last")
    data = Interactions.from_arrays([1, 1], [1, 2], timestamps=[1.0, np.nan])
    with pytest.raises(ValueError, match="1 of 2 timestamps are unknown"):
        data.split("time")
    for options, words in [
        ({"by": "user"}, "'random', 'last', 'time'"),
        ({"test_fraction": 1.0}, "test_fraction"),
        ({"test_fraction": 0.0}, "test_fraction"),
        ({"by": "last", "n": 0}, "n must be an integer"),
    ]:
        with pytest.raises(ValueError, match=words):
            sample().split(**options)


def test_lists_of_times_in_several_units_do_not_wrap_around():
    mixed = [np.datetime64("2500-01-01"), np.datetime64(5, "ns")]
    for users, times in ((mixed, None), ([1, 2], mixed)):
        with pytest.raises(ValueError, match="times of several units"):
            Interactions.from_arrays(users, [1, 2], timestamps=times)
    near = [np.datetime64("2020-01-01"), np.datetime64("2021-01-01T00:00:00", "ns")]
    data = Interactions.from_arrays(near, [1, 2])
    assert data.users.tolist() == np.array(["2020", "2021"], "M8[ns]").tolist()
    assert data.user_ids([0])[0] == near[0]
    items = Interactions.from_arrays([1, 2], np.array(["2020", "2021"], "M8[ns]"))
    assert items.item_ids([-1], missing=mixed[0])[0].astype("M8[D]") == mixed[0]


def test_a_scalar_id_keeps_its_nul():
    data = Interactions.from_arrays(["a", "b"], [1, 2])
    assert data.rows_of("a").tolist() == [0]
    assert data.rows_of("a\0", missing=-1).tolist() == [-1]


def test_times_beside_interactions_and_indices_that_are_converted():
    data = Interactions.from_arrays(["a", "b", "a"], [1, 2, 3], timestamps=[1, 2, 3])
    assert Interactions(data, data.users, data.items, data.timestamps).timestamps.tolist() == [1, 3, 2]
    other = data.matrix.copy()
    other.indices = other.indices.astype(np.uint32)
    assert Interactions(other, data.users, data.items, data.timestamps).timestamps.tolist() == [1, 3, 2]
    other.indices[:2] = other.indices[:2][::-1].copy()
    other.has_sorted_indices = False
    with pytest.raises(ValueError, match="canonical CSR"):
        Interactions(other, data.users, data.items, data.timestamps)


# ---- memory ---------------------------------------------------------------------------------------------------------


def peak_of(call):
    tracemalloc.start()
    call()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


@pytest.mark.parametrize(
    ("dtype", "wanted", "position"),
    [("i4", [70_001], 70_001), ("f4", [70_001.0], 70_001), ("u4", [70_001], 70_001), ("U6", ["999991234"], -1)],
)
def test_to_look_for_one_id_is_no_pass_over_all(dtype, wanted, position):
    n = 100_000
    ids = np.sort(np.arange(n).astype(dtype))
    data = Interactions(sp.csr_array((n, 1), dtype=np.float32), ids, [0])
    assert data.rows_of(wanted, missing=-1).tolist() == [position]
    assert peak_of(lambda: data.rows_of(wanted, missing=-1)) < 20_000


def test_ids_are_found_in_their_own_type_only():
    data = Interactions(sp.csr_array((3, 2), dtype=np.float32), np.array([0.1, 0.5, 2], "f4"), np.array(["ab", "abc"]))
    assert data.rows_of([0.1, 0.5, 1e300, np.float32(0.1)], missing=-1).tolist() == [-1, 1, -1, 0]
    assert data.columns_of(["abcd", "abc", "a"], missing=-1).tolist() == [-1, 1, -1]
    small = Interactions(sp.csr_array((3, 1), dtype=np.float32), np.array([-1, 0, 5], "i1"), [0])
    assert small.rows_of([255, 256, 5, 261, -1], missing=-1).tolist() == [-1, -1, 2, -1, 0]


def test_one_long_text_does_not_make_all_long():
    users = [f"u{u}" for u in range(2000)]
    users[7] = "x" * 50_000
    assert peak_of(lambda: Interactions.from_arrays(users, range(2000))) < 1 << 23
    data = Interactions.from_arrays(users, range(2000))
    assert data.rows_of([users[7], "u9"]).tolist() == [sorted(users).index(users[7]), sorted(users).index("u9")]


class Strict(np.ndarray):
    """Times whose casts raise where they overflow, as they do from NumPy 2.5 on."""

    def astype(self, dtype):
        found = np.asarray(self).astype(dtype)
        if np.any((found.astype(self.dtype) != self) & ~np.isnat(self)):
            raise OverflowError
        return found


def test_times_beyond_a_unit_do_not_fit_in_any_numpy():
    times = np.array([["2024-05-01", "99999-01-01"], ["NaT", "0001-01-01"]], "M8[D]")
    for some in (times, times.view(Strict)):
        found, fits = in_unit(some, np.dtype("M8[ns]"))
        assert fits.tolist() == [[True, False], [True, False]]
        assert found[fits].astype("M8[D]").astype(str).tolist() == ["2024-05-01", "NaT"]


@pytest.mark.parametrize("unit", ["Y", "M", "W", "D", "h", "s", "us"])
@pytest.mark.parametrize("kind", ["M8", "m8"])
def test_the_last_times_that_fit_a_unit(unit, kind):
    if kind == "m8" and unit in "YM":
        return
    last = int(np.array([2**63 - 1]).astype(f"{kind}[ns]").astype(f"{kind}[{unit}]").astype(np.int64)[0])
    times = np.array([-last - 1, 1 - last, 0, last, last + 1]).astype(f"{kind}[{unit}]")
    found, fits = in_unit(times.view(Strict), np.dtype(f"{kind}[ns]"))
    assert fits.tolist() == [False, True, True, True, False]
    assert found[fits].tolist() == times[1:4].astype(f"{kind}[ns]").tolist()


def test_units_too_far_apart_for_numpy_are_no_unknown_ids():
    day = np.array(["1970-01-01"], "M8[D]")
    data = Interactions(sp.csr_array((1, 1), dtype=np.float32), day, [0])
    assert data.rows_of(np.zeros(1, "M8[ns]"), missing=-1).tolist() == [0]
    with pytest.raises(OverflowError):
        data.rows_of(np.zeros(1, "M8[ps]"), missing=-1)


def test_times_in_no_common_unit_are_not_joined():
    fine, far = np.array(["2024"], "M8[ns]"), np.array(["9999-12-31"], "M8[D]")
    with pytest.raises(ValueError, match=r"the times are datetime64\[ns\] and datetime64\[D\]"):
        joined("the times", fine, far)
    with pytest.raises(ValueError, match=r"the times are datetime64\[D\] and datetime64\[ns\]"):
        joined("the times", far, fine)
    assert joined("the times", fine, np.array(["1999-12-31"], "M8[D]")).dtype == fine.dtype
    known = Interactions.from_arrays([1, 2], [1, 2], timestamps=fine.repeat(2))
    with pytest.raises(ValueError, match="the times are"):
        extend(known, Interactions.from_arrays([3], [1], timestamps=far), "sum")
    with pytest.raises(ValueError, match="users are"):
        extend(Interactions.from_arrays(fine, [1]), Interactions.from_arrays(far, [1]), "sum")
