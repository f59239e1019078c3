"""als() against dense normal equations, and the identities that any exact solver of its objective has."""

import itertools
import signal
import sys
import tracemalloc

import numpy as np
import oracles_als as oracle
import pytest
import scipy.sparse as sp
from hypothesis import example, given
from hypothesis import strategies as st
from optional import require
from strategies import als_settings, csr_matrices, examples
from threadpoolctl import threadpool_limits

import lfm_np
from lfm_np import half_sweep, row_plan
from lfm_np.kernels import als_primal
from lfm_np.validation import frozen

WEIGHTINGS = ("hu-koren", "ials", "confidence", "ratings")


def matrix(m=40, n=30, seed=0, longest=None, values=(0.5, 1.0, 3.0)):
    """Rows of 0 … longest cells, so that some are empty and some longer than k; one column is empty."""
    rng = np.random.default_rng(seed)
    rows, columns = [], []
    for u, length in enumerate(rng.integers(0, (longest or n - 1) + 1, m)):
        rows += [u] * length
        columns += rng.choice(n - 1, length, replace=False).tolist()
    return sp.csr_array((rng.choice(values, len(rows)), (rows, columns)), shape=(m, n))


def start(X, k, seed=1):
    rng = np.random.default_rng(seed)
    return 0.1 * rng.standard_normal((X.shape[0], k)), 0.1 * rng.standard_normal((X.shape[1], k))


def scores(factors):
    return factors.user_factors @ factors.item_factors.T


def fit(X, **kwargs):
    defaults = {"factors": 5, "regularization": 0.1, "iterations": 3, "dtype": np.float64, "num_threads": 1}
    return lfm_np.als(X, **{**defaults, **kwargs})


def many_blocks(monkeypatch, nanoseconds=2e3):
    """Cut even a small matrix into many blocks and its long rows into segments."""
    monkeypatch.setattr(row_plan, "SMALLEST_BLOCK", nanoseconds)


# ---- against the definitions ----------------------------------------------------------------------------------------


# α = 0.3 gives c < α₀ for "confidence" with α₀ = 1, and α = 2 gives d = 0 at x = 0.5.
CASES = [(w, alpha, a0) for w in WEIGHTINGS[:3] for alpha in (0.3, 2.0) for a0 in (0.0, 0.1, 1.0)]


@pytest.mark.parametrize(("weighting", "alpha", "a0"), [*CASES, ("ratings", 1.0, 0.0)])
@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0])
def test_equals_dense_normal_equations(weighting, alpha, a0, exponent):
    X = matrix()
    init = start(X, 5)
    asked = {"weighting": weighting, "alpha": alpha, "unobserved_weight": a0, "regularization_exponent": exponent}
    factors = fit(X, init=init, **asked)
    U, V, history = oracle.als(X, init[1], weighting, alpha, a0, 0.1, exponent, 3)
    np.testing.assert_allclose(scores(factors), U @ V.T, rtol=0, atol=1e-9)
    found = [(record["objective_users"], record["objective"]) for record in factors.history]
    np.testing.assert_allclose(found, history, rtol=1e-11)
    assert lfm_np.objective(X, factors) == pytest.approx(history[-1][1], rel=1e-11)


@pytest.mark.small
@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_equals_dense_normal_equations_small(weighting):
    X = matrix(8, 7, seed=3)
    init = start(X, 3)
    a0 = 0.0 if weighting == "ratings" else 0.5
    factors = fit(X, factors=3, init=init, weighting=weighting, unobserved_weight=a0, iterations=2)
    U, V, history = oracle.als(X, init[1], weighting, 1.0, a0, 0.1, 0.0, 2)
    np.testing.assert_allclose(scores(factors), U @ V.T, rtol=0, atol=1e-10)
    assert factors.history[-1]["objective"] == pytest.approx(history[-1][1], rel=1e-12)


@pytest.mark.parametrize("exponent", [0.0, 1.0])
def test_biases_equal_dense_normal_equations(exponent):
    X = matrix(values=(1.0, 2.0, 5.0))
    init = start(X, 5)
    factors = fit(X, init=init, weighting="ratings", biases=True, regularization_exponent=exponent)
    expected, history = oracle.als_with_biases(X, init[1], 0.1, exponent, 3)
    found = scores(factors) + factors.user_bias[:, None] + factors.item_bias + factors.global_bias
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)
    np.testing.assert_allclose([record["objective"] for record in factors.history], history, rtol=1e-11)
    assert lfm_np.objective(X, factors) == pytest.approx(history[-1], rel=1e-11)


@pytest.mark.parametrize("k", [64, 65, 128])
@pytest.mark.parametrize(
    ("weighting", "alpha", "values"),
    [
        ("hu-koren", 40.0, (1.0,)),
        ("ials", 1.0, (1.0, 3.0)),
        ("confidence", 1.0, (0.5, 1.0, 2.0)),  # c < α₀, d = 0 and d > 0
        ("ratings", 1.0, (1.0, 3.0, 5.0)),
    ],
)
def test_float32_is_near_the_float64_oracle(k, weighting, alpha, values):
    """Rows of 1-200 cells, one half-step and one sweep."""
    X = matrix(120, 230, seed=k, longest=200, values=values)
    U0, V0 = start(X, k)
    V0 *= 3
    a0 = 0.0 if weighting == "ratings" else 1.0
    factors = fit(X, factors=k, init=(U0, V0), weighting=weighting, alpha=alpha, iterations=1, dtype=np.float32)
    U, V, _ = oracle.als(X, V0.astype(np.float32), weighting, alpha, a0, 0.1, 0.0, 1)
    exact = U @ V.T
    assert abs(scores(factors) - exact).max() <= 1e-3 * abs(exact).max()
    for found, expected in ((factors.user_factors, U), (factors.item_factors, V)):
        norms = np.linalg.norm(found, axis=1), np.linalg.norm(expected, axis=1)
        np.testing.assert_allclose(*norms, rtol=1e-3, atol=1e-3 * norms[1].max())


def test_equals_the_implicit_library():
    implicit = require("implicit")
    X = matrix(200, 90, seed=5, values=(1.0, 2.0, 4.0)).astype(np.float64)
    U0, V0 = start(X, 8)
    with threadpool_limits(1, "blas"):  # implicit warns otherwise
        model = implicit.cpu.als.AlternatingLeastSquares(
            factors=8,
            regularization=0.1,
            alpha=2.0,
            dtype=np.float64,
            use_native=True,
            use_cg=False,
            iterations=3,
            num_threads=1,
        )
        model.user_factors, model.item_factors = U0.copy(), V0.copy()
        model.fit(sp.csr_matrix(X), show_progress=False)
    factors = fit(X, factors=8, init=(U0, V0), weighting="confidence", alpha=2.0)
    np.testing.assert_allclose(scores(factors), model.user_factors @ model.item_factors.T, rtol=0, atol=1e-8)


# ---- identities -----------------------------------------------------------------------------------------------------


def forced(monkeypatch, kind):
    """Give every row the dual or every row the primal system."""
    cost = {"dual": 0.0, "primal": np.inf}[kind]
    monkeypatch.setattr(row_plan, "dual_cost", lambda n, ld: np.full(n.shape, cost))
    monkeypatch.setattr(row_plan, "LONGEST_DUAL", np.inf)
    monkeypatch.setattr(row_plan, "ROTATE_ROW", 1e-6)  # always worth rotating


@pytest.mark.parametrize(("weighting", "a0"), [("hu-koren", 0.3), ("ials", 1.0), ("ratings", 0.0)])
@pytest.mark.parametrize("exponent", [0.0, 1.0])
def test_dual_equals_primal(monkeypatch, weighting, a0, exponent):
    X = matrix(60, 45)
    init = start(X, 17)
    kwargs = {"factors": 17, "init": init, "weighting": weighting, "unobserved_weight": a0}
    results = {}
    for kind in ("dual", "primal"):
        with monkeypatch.context() as patch:
            forced(patch, kind)
            results[kind] = fit(X, regularization_exponent=exponent, **kwargs)
    assert results["dual"].params["user_rows"]["primal"] == results["primal"].params["user_rows"]["dual"] == 0
    np.testing.assert_allclose(scores(results["dual"]), scores(results["primal"]), rtol=0, atol=1e-10)
    for a, b in zip(results["dual"].history, results["primal"].history):
        assert a["objective"] == pytest.approx(b["objective"], rel=1e-11)


LONGER_THAN_K = sp.csr_array([[0.25, 0.25], [0.25, 0.5], [0.25, 0.0]])  # solved by the dual system, J is off by 3e-7
WEAK = {"weighting": "hu-koren", "regularization": 1e-6, "alpha": 40.0, "unobserved_weight": 0.0}


@examples(60)
@given(csr_matrices(rows=25, columns=25), als_settings())
@example(LONGER_THAN_K, {**WEAK, "regularization_exponent": 0.0, "factors": 1})
def test_objective_never_rises_and_nothing_is_nan(X, kwargs):
    """float64; the bound is the rounding of the objective's own sum."""
    factors = lfm_np.als(X, iterations=4, dtype=np.float64, random_state=0, num_threads=1, **kwargs)
    assert np.isfinite(factors.user_factors).all()
    assert np.isfinite(factors.item_factors).all()
    values = [value for record in factors.history for value in (record["objective_users"], record["objective"])]
    cells = oracle.dense_problem(X, kwargs["weighting"], kwargs["alpha"], kwargs["unobserved_weight"])
    scale = float((cells[0] * cells[1] ** 2).sum())  # J at U = V = 0 bounds every later J
    assert all(b <= a + 1e-10 * scale for a, b in itertools.pairwise(values))
    assert lfm_np.objective(X, factors) == pytest.approx(values[-1], rel=1e-8, abs=1e-10 * scale)


@examples(40)
@given(csr_matrices(rows=25, columns=25, least=1), als_settings(smallest=1e-3, largest=1e3))
def test_float32_objective_never_rises(X, kwargs):
    factors = lfm_np.als(X, iterations=4, random_state=0, num_threads=1, **kwargs)
    values = [value for record in factors.history for value in (record["objective_users"], record["objective"])]
    C, P, _ = oracle.dense_problem(X, kwargs["weighting"], kwargs["alpha"], kwargs["unobserved_weight"])
    bound = 100 * np.finfo(np.float32).eps * float((C * P**2).sum())
    assert all(b <= a + bound for a, b in itertools.pairwise(values))


def test_permuting_rows_and_columns_permutes_factors():
    X = matrix(50, 35)
    U0, V0 = start(X, 6)
    rows, columns = np.random.default_rng(0).permutation(50), np.random.default_rng(1).permutation(35)
    plain = fit(X, factors=6, init=(U0, V0))
    permuted = fit(X.tocsr()[rows][:, columns], factors=6, init=(U0[rows], V0[columns]))
    np.testing.assert_allclose(permuted.user_factors, plain.user_factors[rows], rtol=0, atol=1e-9)
    np.testing.assert_allclose(permuted.item_factors, plain.item_factors[columns], rtol=0, atol=1e-9)


def test_doubled_confidence_is_the_row_twice():
    """One item half-step with α₀ = 0 and ν = 0: users with c doubled weigh as much as users that occur twice."""
    X = matrix(40, 30)
    U0, _ = start(X, 4)
    doubled = _first_half(2 * X.T, U0)
    twice = _first_half(sp.hstack((X.T, X.T)), np.vstack((U0, U0)))
    np.testing.assert_allclose(doubled, twice, rtol=0, atol=1e-12)
    C, P, stored = oracle.dense_problem(2 * X.T, "confidence", 1.0, 0.0)
    np.testing.assert_allclose(doubled, oracle.solve_side(C, P, stored, np.full(30, 0.1), U0), rtol=0, atol=1e-12)


def _first_half(X, V):
    """The users' factors after one half-step from V, in V's own basis."""
    weights = row_plan.Weights(0.0, 1.0, 0.0, 1.0, 0.0)
    Y = np.zeros((len(V), 16))
    Y[:, : V.shape[1]] = V
    X = X.tocsr()
    side = row_plan.plan_side((X.indptr, X.indices, X.data), np.full(X.shape[0], 0.1), weights, 16, len(V))
    out = np.empty((X.shape[0], 16))
    with half_sweep.Pool(1) as pool:
        fixed = half_sweep.prepare_fixed(side.rotate, Y, np.empty_like(Y), weights, V.shape[1], pool)
        half_sweep.solve_rows(side, fixed, weights, frozen(np.empty(0)), out, pool)
    assert (out[:, V.shape[1] :] == 0).all()
    return out[:, : V.shape[1]]


# ---- determinism ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("weighting", ["hu-koren", "ratings"])
def test_same_bits_for_any_number_of_threads(monkeypatch, dtype, weighting):
    many_blocks(monkeypatch)
    X = sp.vstack((matrix(400, 90, longest=12), matrix(20, 90, seed=2, longest=89)))
    kwargs = {"factors": 20, "weighting": weighting, "dtype": dtype, "random_state": 3}
    results = [fit(X, num_threads=threads, **kwargs) for threads in (1, 2, 3, 7)]
    assert results[0].params["user_rows"]["blocks"] > 20
    for other in results[1:]:
        np.testing.assert_array_equal(other.user_factors, results[0].user_factors)
        np.testing.assert_array_equal(other.item_factors, results[0].item_factors)
        for a, b in zip(results[0].history, other.history):
            assert {**a, "seconds": 0} == {**b, "seconds": 0}


@pytest.mark.parametrize("alpha", [1.0, 1e4])  # little of a heavy row's loss is left with 1e4
def test_segments_of_heavy_rows_add_up(monkeypatch, alpha):
    X = sp.vstack((matrix(60, 50, longest=8), sp.csr_array(np.ones((3, 50))))).tocsr()
    init = start(X, 4)
    plain = fit(X, factors=4, init=init, alpha=alpha)
    many_blocks(monkeypatch, 150.0)
    side = row_plan.plan_side((X.indptr, X.indices, X.data), np.ones(63), row_plan.Weights(1, 0, 1, 0, 0.5), 16, 50)
    assert len(side.heavy.rows)
    assert len(side.heavy.cells) > len(side.heavy.rows)
    looked = []
    whole = als_primal.segment_loss
    monkeypatch.setattr(als_primal, "segment_loss", lambda *args: looked.append(args) or whole(*args))
    cut = fit(X, factors=4, init=init, alpha=alpha)
    assert bool(looked) == (alpha == 1e4)
    np.testing.assert_allclose(scores(cut), scores(plain), rtol=0, atol=1e-11)
    assert cut.history[-1]["objective"] == pytest.approx(plain.history[-1]["objective"], rel=1e-12)


@examples(50)
@given(csr_matrices(), st.sampled_from([16, 32, 64]), st.sampled_from([0.0, 0.5]), st.booleans(), st.data())
def test_a_plan_holds_every_row_and_cell_once(X, ld, a0, equal, data):
    lam = np.full(X.shape[0], 0.1) if equal else np.arange(X.shape[0], dtype=float)
    before, row_plan.SMALLEST_BLOCK = row_plan.SMALLEST_BLOCK, data.draw(st.sampled_from([100.0, 3e3, 4e5]))
    try:
        side = row_plan.plan_side((X.indptr, X.indices, X.data), lam, row_plan.Weights(1 - a0, 1, 1, 1, a0), ld, 40)
    finally:
        row_plan.SMALLEST_BLOCK = before
    lengths = np.diff(X.indptr)
    in_blocks = [row for lo, hi in side.dual + side.primal for row in side.order[lo:hi].tolist()]
    assert sorted(in_blocks + side.heavy.rows.tolist() + side.empty.tolist()) == list(range(X.shape[0]))
    assert (lengths[side.empty] == 0).all()
    cells = [cell for _, start, stop in side.heavy.cells for cell in range(start, stop)]
    assert cells == [cell for row in side.heavy.rows for cell in range(X.indptr[row], X.indptr[row + 1])]
    for lo, hi in side.dual:  # what the dual kernel's scratch relies on
        groups = [-(-lengths[row] // 4) for row in side.order[lo:hi]]
        assert groups == sorted(groups)


# ---- the cost model -------------------------------------------------------------------------------------------------


def test_short_rows_are_dual_and_long_rows_primal():
    n = np.arange(1, 400)
    for ld in (16, 32, 64, 128, 256):
        dual = row_plan.dual_cost(n, ld) < row_plan.primal_cost(n, ld)
        crossover = int(n[~dual][0])
        assert dual[: crossover - 1].all()
        assert not dual[crossover - 1 :].any()
        assert 0.4 * ld <= crossover <= 1.5 * ld


# ---- numerics -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("regularization", [1e-8, 1e-4, 1.0, 1e4, 1e8])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_any_regularization_gives_finite_factors(regularization, dtype):
    X = matrix(60, 20)
    for weighting in WEIGHTINGS:
        factors = fit(X, factors=30, weighting=weighting, regularization=regularization, dtype=dtype, random_state=0)
        assert np.isfinite(factors.user_factors).all()
        assert np.isfinite(factors.item_factors).all()


def test_rows_that_float32_cannot_solve_are_solved_in_float64():
    X = matrix(40, 30, values=(1.0, 4.0))
    U0, V0 = start(X, 16)
    V0[:, 8:] = V0[:, :8] * (1 + 1e-4)  # nearly collinear factors
    kwargs = {"factors": 16, "init": (U0, V0), "weighting": "ratings", "regularization": 1e-7, "iterations": 1}
    V0 = V0.astype(np.float32)
    history = oracle.als(X, V0, "ratings", 1.0, 0.0, float(np.float32(1e-7)), 0.0, 1)[2]
    factors = fit(X, dtype=np.float32, **kwargs)
    assert factors.history[0]["objective_users"] == pytest.approx(history[0][0], rel=1e-3)


def test_a_singular_system_names_its_row():
    X = sp.csr_array(np.array([[0, 0, 0], [1.0, 1.0, 0], [1.0, 0, 0]]))
    with pytest.raises(
        lfm_np.SolverError, match=r"sweep 1: .* row 1 \(2 rows in all\).*raise regularization"
    ) as caught:
        fit(X, factors=5, weighting="ratings", regularization=0.0)
    assert isinstance(caught.value.factors, lfm_np.Factors)
    assert np.isfinite(caught.value.factors.item_factors).all()


def test_lambda_zero_is_fine_where_the_system_is_regular():
    rng = np.random.default_rng(0)
    X = rng.uniform(1, 2, (20, 2)) @ rng.uniform(1, 2, (2, 15))
    factors = fit(sp.csr_array(X), factors=2, weighting="ratings", regularization=0.0, iterations=3, random_state=0)
    np.testing.assert_allclose(scores(factors), X, rtol=1e-10)


def test_empty_rows_and_columns_are_zero():
    X = sp.csr_array(([1.0, 1.0], ([1, 3], [2, 2])), shape=(5, 4))
    for exponent in (0.0, 1.0):
        for weighting in WEIGHTINGS:
            factors = fit(X, weighting=weighting, regularization_exponent=exponent)
            assert (factors.user_factors[[0, 2, 4]] == 0).all()
            assert (factors.item_factors[[0, 1, 3]] == 0).all()


@pytest.mark.parametrize("shape", [(0, 0), (0, 5), (5, 0), (4, 3)])
def test_a_matrix_without_cells_gives_zeros(shape):
    factors = fit(sp.csr_array(shape))
    assert factors.user_factors.shape == (shape[0], 5)
    assert not factors.user_factors.any()
    assert not factors.item_factors.any()


# ---- running --------------------------------------------------------------------------------------------------------


def test_the_result_is_canonical():
    factors = fit(matrix(), iterations=5)
    gram = factors.item_factors.T @ factors.item_factors
    np.testing.assert_allclose(gram, np.diag(np.diag(gram)), rtol=0, atol=1e-12 * gram.max())
    assert (np.diff(np.diag(gram)) <= 0).all()
    V = factors.item_factors
    assert (V[abs(V).argmax(axis=0), range(5)] > 0).all()


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
    ({"factors": 0}, ValueError, "factors must be an integer ≥ 1, got 0"),
    ({"factors": 2.5}, TypeError, "factors must be an integer"),
    ({"factors": True}, TypeError, "factors must be an integer"),
    ({"regularization": -1.0}, ValueError, "regularization must be"),
    ({"regularization": float("nan")}, ValueError, "regularization must be"),
    ({"regularization": 1e300, "dtype": "float32"}, ValueError, "overflows float32"),
    ({"alpha": -1}, ValueError, "alpha must be"),
    ({"alpha": 1e39, "dtype": "float32"}, ValueError, "alpha · value overflows float32"),
    ({"unobserved_weight": -0.1}, ValueError, "unobserved_weight must be"),
    ({"unobserved_weight": 1.0, "weighting": "ratings"}, ValueError, "unobserved_weight must be 0 or None"),
    ({"regularization_exponent": -1}, ValueError, "regularization_exponent must be"),
    ({"weighting": "bm25"}, ValueError, "weighting must be one of 'hu-koren'"),
    ({"biases": True}, ValueError, "biases=True needs weighting"),
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
