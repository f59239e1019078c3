"""als() against dense normal equations, and the identities that any exact solver of its objective has."""

import itertools

import numpy as np
import oracles_als as oracle
import pytest
import scipy.sparse as sp
from als_problems import all_cells_beside_a_large_weight, fit, matrix, scores, start
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


def test_no_regularization_is_none_by_any_power_of_the_cells():
    X = sp.csr_array(np.arange(1.0, 13.0).reshape(4, 3) % 5)
    plain, power = (
        fit(X, factors=2, regularization=0.0, regularization_exponent=nu, random_state=0) for nu in (0.0, 900.0)
    )
    np.testing.assert_array_equal(power.item_factors, plain.item_factors)


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
    factors = fit(
        X, factors=k, init=(U0, V0), weighting=weighting, alpha=alpha, iterations=1, solver="exact", dtype=np.float32
    )
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
    monkeypatch.setattr(row_plan, "rotate_cost", lambda ld: 1e-3)  # always worth rotating


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


@pytest.mark.parametrize("solver", ["exact", "cg", "subspace"])
def test_the_plan_of_long_rows_does_not_depend_on_the_type_of_their_lengths(solver):
    """Cells times factors are beyond 2³¹: such rows were cut into thousands of segments, each with a system."""
    lengths, weights = np.array([34_000_000, 5, 0, 20_000_000]), row_plan.Weights(0.0, 1.0, 0.0, 1.0, 1.0)
    wide, narrow = (
        row_plan.choose_scheme(lengths.astype(dtype), np.zeros(4, bool), weights, 128, 10**8, solver)
        for dtype in (np.int64, np.int32)
    )
    assert narrow == wide
    assert wide.target > 1e6


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
    monkeypatch.setattr(row_plan, "FEWEST_BLOCKS", row_plan.BLOCKS)
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


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 1e-5), (np.float64, 1e-12)])
def test_cells_of_far_less_weight_than_empty_ones(dtype, tolerance):
    X, options = all_cells_beside_a_large_weight(30)
    found, expected = (
        lfm_np.als(X, dtype=dtype, **options | {"unobserved_weight": a0}) for a0 in (options["unobserved_weight"], 0.0)
    )
    np.testing.assert_allclose(scores(found), scores(expected), rtol=tolerance)
    assert scores(expected).min() > 0.5
    assert found.history[-1]["objective"] == pytest.approx(expected.history[-1]["objective"], rel=10 * tolerance)


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
