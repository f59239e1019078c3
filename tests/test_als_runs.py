"""als(): how a run goes and ends, and what it accepts."""

import copy
import dataclasses
import itertools
import signal
import sys
import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.sparse as sp
from als_problems import fit, matrix, scores

import lfm_np
from lfm_np import half_sweep
from lfm_np.canonical import canonical_items
from lfm_np.sweeps import FactorsView

# ---- running --------------------------------------------------------------------------------------------------------


def test_the_result_is_canonical():
    factors = fit(matrix(), iterations=5)
    gram = factors.item_factors.T @ factors.item_factors
    np.testing.assert_allclose(gram, np.diag(np.diag(gram)), rtol=0, atol=1e-12 * gram.max())
    assert (np.diff(np.diag(gram)) <= 0).all()
    V = factors.item_factors
    assert (V[abs(V).argmax(axis=0), range(5)] > 0).all()


@pytest.mark.parametrize("rows", [1, 2, 9])
def test_the_first_of_equal_entries_has_the_positive_sign(monkeypatch, rows):
    """However many rows are looked at together."""
    monkeypatch.setattr("lfm_np.canonical.rows_at_once", lambda k: rows)
    V = np.array([[1.0, 0.0], [-3.0, 0.0], [2.0, 0.0], [3.0, 0.0]])
    found, basis = canonical_items(V)
    assert found[:, 0].tolist() == [-1.0, 3.0, -2.0, -3.0]
    assert not found[:, 1].any()
    np.testing.assert_array_equal(V @ basis, found)


def test_warm_start_goes_on_where_it_stopped():
    X = matrix()
    whole = fit(X, iterations=6, random_state=0)
    first = fit(X, iterations=2, random_state=0)
    rest = fit(X, iterations=4, init=first)
    np.testing.assert_allclose(scores(rest), scores(whole), rtol=0, atol=1e-9)
    ratings = {"weighting": "ratings", "biases": True}
    whole = fit(X, iterations=6, random_state=0, **ratings)
    rest = fit(X, iterations=4, init=fit(X, iterations=2, random_state=0, **ratings), **ratings)
    np.testing.assert_allclose(rest.item_bias, whole.item_bias, rtol=0, atol=1e-9)


def test_tolerance_stops_and_zero_does_not():
    X = matrix()
    factors = fit(X, iterations=200, tolerance=1e-4, random_state=0)
    values = [record["objective"] for record in factors.history]
    falls = [(a - b) / a for a, b in itertools.pairwise(values)]
    assert factors.status is lfm_np.Status.CONVERGED
    assert falls[-1] < 1e-4 <= min(falls[:-1])
    assert fit(X, iterations=7).status is lfm_np.Status.MAX_ITERATIONS


def test_callback_sees_every_sweep_and_can_stop():
    seen = []

    def callback(record, factors):
        record["norm"] = float(np.linalg.norm(factors.user_factors))
        seen.append((record["iteration"], lfm_np.objective(X, factors), factors))
        if record["iteration"] == 3:
            raise StopIteration

    X = matrix()
    factors = fit(X, iterations=10, callback=callback, random_state=0)
    assert factors.status is lfm_np.Status.STOPPED
    assert [iteration for iteration, _, _ in seen] == [1, 2, 3]
    for record, (_, value, view) in zip(factors.history, seen):
        assert record["objective"] == pytest.approx(value, rel=1e-10)
        assert record["norm"] == pytest.approx(np.linalg.norm(view.user_factors))
    np.testing.assert_array_equal(seen[-1][2].user_factors, factors.user_factors)


def test_a_callback_that_never_looks_costs_nothing_and_cannot_look_later():
    kept = []
    fit(matrix(), callback=lambda record, factors: kept.append(factors))
    with pytest.raises(RuntimeError, match="while the callback runs"):
        _ = kept[0].user_factors


def test_what_a_callback_makes_of_its_factors_are_plain_factors():
    X, made = matrix(), []

    def callback(record, factors):
        made.append(
            [
                factors.fold_in_users(X[:3]),
                factors.fold_in_items(X[:, :3]),
                factors.update(X[:3], users=[0, 1, 2]),
                dataclasses.replace(factors),
                copy.copy(factors),
            ]
        )

    result = fit(X, callback=callback, random_state=0)
    expected = [
        result.fold_in_users(X[:3]),
        result.fold_in_items(X[:, :3]),
        result.update(X[:3], users=[0, 1, 2]),
        result,
        result,
    ]
    for found, wanted in zip(made[-1], expected, strict=True):
        assert type(found) is lfm_np.Factors
        np.testing.assert_array_equal(found.user_factors, wanted.user_factors)
        np.testing.assert_array_equal(found.item_factors, wanted.item_factors)


def test_threads_of_a_callback_see_the_whole_model():
    """One that looks while another takes the fields over must not find the defaults of the class."""
    whole = fit(matrix(), weighting="ratings", biases=True, regularization=0.1, iterations=1)
    found = []

    class Looking:
        def __getattr__(self, name):
            if not found:
                found.append(None)
                found[:] = [getattr(view, field) for field in ("user_bias", "item_bias", "global_bias", "params")]
            return getattr(whole, name)

    view = FactorsView(Looking)
    assert view.user_factors is whole.user_factors
    assert all(
        one is two for one, two in zip(found, (whole.user_bias, whole.item_bias, whole.global_bias, whole.params))
    )


REFUSED = [
    ("als", {"iterations": 0}),
    ("als", {"init": 3}),
    ("als", {"solver": "x"}),
    ("sgd", {"epochs": 0}),
    ("sgd", {"init": 3}),
    ("sgd", {"callback": 3}),
    ("sgd", {"tolerance": -1}),
    ("sgd", {"loss": "BPR"}),
]


@pytest.mark.parametrize(("solver", "mistake"), REFUSED, ids=str)
@pytest.mark.parametrize("kind", [np.random.default_rng, np.random.RandomState])
def test_a_refused_call_draws_nothing(solver, mistake, kind):
    given, untouched = kind(0), kind(0)
    with pytest.raises((TypeError, ValueError)):
        getattr(lfm_np, solver)(matrix(), random_state=given, **mistake)
    np.testing.assert_array_equal(given.permutation(50), untouched.permutation(50))


def test_errors_of_a_callback_propagate():
    def callback(record, factors):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        fit(matrix(), callback=callback)


def test_ctrl_c_returns_the_last_complete_sweep():
    def callback(record, factors):
        if record["iteration"] == 2:
            signal.raise_signal(signal.SIGINT)

    factors = fit(matrix(), iterations=50, callback=callback, random_state=0)
    assert factors.status is lfm_np.Status.INTERRUPTED
    assert len(factors.history) == 2
    np.testing.assert_array_equal(factors.user_factors, fit(matrix(), iterations=2, random_state=0).user_factors)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_within_a_sweep_leaves_the_sweep_before(monkeypatch):
    calls = []
    plain = half_sweep.solve_rows

    def solve_rows(*args):
        calls.append(1)
        if len(calls) == 4:  # the items of the second sweep
            signal.raise_signal(signal.SIGINT)
        return plain(*args)

    monkeypatch.setattr(sys.modules["lfm_np.als"], "solve_rows", solve_rows)
    factors = fit(matrix(), iterations=50, random_state=0)
    monkeypatch.undo()
    assert factors.status is lfm_np.Status.INTERRUPTED
    np.testing.assert_array_equal(factors.user_factors, fit(matrix(), iterations=1, random_state=0).user_factors)


@pytest.mark.small
def test_objective_of_a_model_without_factors():
    """Biases alone: Σ (x − b_i)² over the cells and λ Σ b_i²."""
    X = sp.csr_array(np.array([[5.0, 0, 1], [3, 2, 0]]))
    model = lfm_np.evaluation.most_popular(X)
    expected = (5 - 2) ** 2 + (1 - 1) ** 2 + (3 - 2) ** 2 + (2 - 1) ** 2 + 0.5 * (4 + 1 + 1)
    assert lfm_np.objective(X, model, weighting="ratings", regularization=0.5) == pytest.approx(expected, rel=1e-12)


def test_an_objective_beyond_float64_is_refused():
    X, large = sp.csr_array(np.eye(2)), np.full((2, 1), 1e200)
    with pytest.raises(ValueError, match="factors are too large"):
        lfm_np.objective(X, lfm_np.Factors(large, large))
    with np.errstate(all="raise"):
        assert lfm_np.objective(X, lfm_np.Factors(1 / large, 1 / large)) == 4.0


def test_progress_shows_the_objective(capsys):
    factors = fit(matrix(), progress=True)
    assert f"objective={factors.history[-1]['objective']:.6g}" in capsys.readouterr().err


def test_memory_beyond_the_matrix():
    """The transpose, the factors twice and 64 MiB; a third copy of the factors would not fit."""
    m, n, k = 300_000, 500, 128
    pairs = lfm_np.datasets.make_interactions(m, n, 2, random_state=0)
    X = lfm_np.to_csr(pairs, shape=(m, n))
    fit(X[:1000], factors=k, dtype=np.float32)  # what compiling takes is not counted
    tracemalloc.start()
    fit(X, factors=k, dtype=np.float32, iterations=1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak <= 12 * X.nnz + 2 * 4 * k * (m + n) + (64 << 20)


# ---- input ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("index", [np.int32, np.int64])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_read_only_and_foreign_matrices_are_used_unchanged(index, dtype, tmp_path):
    X = matrix().tocsr().astype(dtype)
    expected = fit(X, dtype=dtype, random_state=0)
    arrays = []
    for name, array in (("data", X.data), ("indices", X.indices.astype(index)), ("indptr", X.indptr.astype(index))):
        np.save(tmp_path / f"{name}.npy", array)
        arrays.append(np.load(tmp_path / f"{name}.npy", mmap_mode="r"))
    mapped = sp.csr_array(X.shape, dtype=dtype)
    mapped.data, mapped.indices, mapped.indptr = arrays
    coo = X.tocoo()
    backwards = sp.coo_array((coo.data[::-1], (coo.row[::-1], coo.col[::-1])), shape=X.shape)
    for other in (mapped, X.tocsc(), backwards, sp.csr_matrix(X)):
        found = fit(other, dtype=dtype, random_state=0)
        np.testing.assert_array_equal(found.user_factors, expected.user_factors)


def test_duplicates_are_summed_and_zeros_dropped_without_touching_the_caller():
    indptr, indices = np.array([0, 3, 4]), np.array([2, 0, 2, 1])
    data = np.array([1.0, 0.0, 2.0, 1.0])
    X = sp.csr_matrix((data, indices, indptr), shape=(2, 3))
    before = [array.copy() for array in (X.data, X.indices, X.indptr)]
    found = fit(X, random_state=0)
    expected = fit(sp.csr_array(np.array([[0, 0, 3.0], [0, 1.0, 0]])), random_state=0)
    np.testing.assert_array_equal(found.user_factors, expected.user_factors)
    for array, kept in zip((X.data, X.indices, X.indptr), before):
        np.testing.assert_array_equal(array, kept)
    with pytest.raises(ValueError, match="X stores a cell more than once"):
        fit(X, weighting="ratings")


def test_a_zero_rating_is_a_value():
    dense = np.array([[5.0, 1.0], [0.0, 3.0]])
    X = sp.csr_array((dense.ravel(), ([0, 0, 1, 1], [0, 1, 0, 1])), shape=(2, 2))
    factors = fit(X, factors=2, weighting="ratings", regularization=1e-6, iterations=20)
    np.testing.assert_allclose(scores(factors), dense, rtol=0, atol=1e-2)


BAD = [
    ({"factors": 0}, ValueError, "factors must be an integer from 1 to 65536, got 0"),
    ({"factors": 2.5}, TypeError, "factors must be an integer"),
    ({"factors": True}, TypeError, "factors must be an integer"),
    ({"regularization": -1.0}, ValueError, "regularization must be"),
    ({"regularization": float("nan")}, ValueError, "regularization must be"),
    ({"regularization": 1e300, "dtype": "float32"}, ValueError, "overflows float32"),
    ({"alpha": -1}, ValueError, "alpha must be"),
    ({"alpha": 1e39, "dtype": "float32"}, ValueError, "alpha · value overflows float32"),
    ({"unobserved_weight": -0.1}, ValueError, "unobserved_weight must be"),
    ({"unobserved_weight": 1.0, "weighting": "ratings"}, ValueError, "unobserved_weight must be 0 with"),
    ({"regularization_exponent": -1}, ValueError, "regularization_exponent must be"),
    ({"weighting": "bm25"}, ValueError, "weighting must be one of 'hu-koren'"),
    ({"biases": True}, ValueError, "biases need weighting"),
    ({"biases": 1}, TypeError, "biases must be True or False"),
    ({"iterations": 0}, ValueError, "iterations must be"),
    ({"tolerance": -1e-3}, ValueError, "tolerance must be"),
    ({"solver": "cholesky"}, ValueError, "solver must be one of"),
    ({"init": 3}, TypeError, "init must be None, Factors or a pair"),
    ({"init": (np.zeros((2, 5)), np.zeros((30, 5)))}, ValueError, r"init must have a real U of shape \(40, 5\)"),
    ({"init": (np.zeros((40, 5)), np.full((30, 5), np.inf))}, ValueError, "init has a non-finite value in V"),
    ({"dtype": "float16"}, ValueError, "dtype must be float32 or float64"),
    ({"num_threads": 0}, ValueError, "num_threads must be"),
    ({"num_threads": -1}, ValueError, "num_threads must be"),
    ({"random_state": -1}, ValueError, "random_state must not be negative"),
    ({"random_state": "seed"}, TypeError, "random_state must be"),
    ({"callback": 3}, TypeError, "callback must be callable"),
    ({"progress": "yes"}, TypeError, "progress must be True or False"),
]


@pytest.mark.parametrize(("kwargs", "error", "message"), BAD, ids=[str(kwargs)[:40] for kwargs, _, _ in BAD])
def test_bad_arguments_are_named(kwargs, error, message):
    with pytest.raises(error, match=message):
        fit(matrix(), **kwargs)


@pytest.mark.parametrize(
    ("X", "error", "message"),
    [
        (np.ones((3, 3)), TypeError, "X must be a scipy.sparse matrix or Interactions, got ndarray"),
        (sp.csr_array(np.array([[np.nan, 1.0]])), ValueError, "X has a non-finite value in row 0"),
        (sp.csr_array(np.array([[1.0], [-1.0]])), ValueError, "X has a negative value in row 1"),
        (sp.csr_array(np.array([[1j]])), TypeError, "X must hold real numbers"),
    ],
)
def test_bad_matrices_are_refused(X, error, message):
    with pytest.raises(error, match=message):
        fit(X)


def test_random_states_are_interchangeable_with_their_kind():
    X = matrix()
    for make in (
        lambda: 7,
        lambda: np.random.SeedSequence(7),
        lambda: np.random.default_rng(7),
        lambda: np.random.RandomState(7),
    ):
        np.testing.assert_array_equal(
            fit(X, random_state=make()).user_factors, fit(X, random_state=make()).user_factors
        )
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    fit(X)
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002


class _Log(list):
    """A callback that is empty, and so false, until it is called."""

    def __call__(self, record, factors):
        self.append(record["iteration"])


def test_a_callback_that_is_false_is_called():
    X, log = lfm_np.to_csr([(0, 0), (1, 1), (2, 0)]), _Log()
    lfm_np.als(X, factors=2, iterations=3, callback=log, random_state=0)
    lfm_np.sgd(X, factors=2, epochs=2, callback=log, random_state=0)
    assert log == [1, 2, 3, 1, 2]


def test_biases_to_start_from_must_fit_the_dtype():
    X = lfm_np.to_csr([(0, 0), (1, 1), (2, 0)])
    start = lfm_np.Factors(np.ones((3, 2)), np.ones((2, 2)), item_bias=np.full(2, 1e300))
    with pytest.raises(ValueError, match="item_bias of init"):
        lfm_np.als(X, factors=2, weighting="ratings", biases=True, init=start)
    with pytest.raises(TypeError, match="init must be"):
        lfm_np.als(X, factors=2, init=SimpleNamespace(user_factors=np.ones((3, 2)), item_factors=np.ones((2, 2))))
