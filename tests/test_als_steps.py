"""als(solver="cg" and "subspace"): steps that are exact when they are many or wide, and never raise the objective."""

import itertools

import numpy as np
import oracles_als as oracle
import pytest
import scipy.sparse as sp
from hypothesis import given
from strategies import als_settings, csr_matrices, examples
from test_als import WEIGHTINGS, fit, matrix, scores, start

import lfm_np
from lfm_np import row_plan

SOLVERS = ("cg", "subspace")


@pytest.fixture
def stepped(monkeypatch):
    """Make every row that is not empty take a step; ``cut`` also cuts even a small matrix into blocks and segments."""

    def patch(*, steps=None, width=None, cut=False):
        scale = 1e-3
        costs = {
            name: lambda n, ld, cost=cost: scale * cost(n, ld)
            for name, cost in {"cg": row_plan.cg_cost, "subspace": row_plan.subspace_cost}.items()
        }
        monkeypatch.setattr(row_plan, "STEP_COSTS", costs)
        if steps:
            monkeypatch.setattr(row_plan, "CG_STEPS", steps)
        if width:
            monkeypatch.setattr(row_plan, "WIDTH_OF_BLOCKS", width)
        if cut:
            monkeypatch.setattr(row_plan, "SMALLEST_BLOCK", 0.5)
            monkeypatch.setattr(row_plan, "BLOCKS", 10**6)

    return patch


def values(factors):
    return [value for record in factors.history for value in (record["objective_users"], record["objective"])]


# ---- against exact solutions ----------------------------------------------------------------------------------------


CASES = [(w, alpha, a0) for w in WEIGHTINGS[:3] for alpha, a0 in ((0.3, 1.0), (2.0, 0.1), (2.0, 0.0))]


@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize(("weighting", "alpha", "a0"), [*CASES, ("ratings", 1.0, 0.0)])
def test_enough_steps_or_one_block_are_exact(stepped, solver, weighting, alpha, a0, cut):
    stepped(steps=40, width=64, cut=cut)
    X, init = matrix(), start(matrix(), 5)
    asked = {"weighting": weighting, "alpha": alpha, "unobserved_weight": a0, "regularization_exponent": 0.5}
    factors = fit(X, solver=solver, init=init, **asked)
    U, V, history = oracle.als(X, init[1], weighting, alpha, a0, 0.1, 0.5, 3)
    assert factors.params["user_rows"]["stepped"] == np.count_nonzero(np.diff(X.tocsr().indptr))
    np.testing.assert_allclose(scores(factors), U @ V.T, rtol=0, atol=1e-8)
    np.testing.assert_allclose(values(factors), np.ravel(history), rtol=1e-9)


@pytest.mark.small
@pytest.mark.parametrize("solver", SOLVERS)
def test_enough_steps_or_one_block_are_exact_small(stepped, solver):
    stepped(steps=8, width=16, cut=True)
    X = matrix(6, 7, seed=3)
    init = start(X, 3)
    factors = fit(X, factors=3, init=init, solver=solver, unobserved_weight=0.5, iterations=2)
    U, V, history = oracle.als(X, init[1], "hu-koren", 1.0, 0.5, 0.1, 0.0, 2)
    np.testing.assert_allclose(scores(factors), U @ V.T, rtol=0, atol=1e-8)
    np.testing.assert_allclose(values(factors), np.ravel(history), rtol=1e-9)


@pytest.mark.parametrize("solver", SOLVERS)
def test_biases_are_exact_too(stepped, solver):
    stepped(steps=40)
    X = matrix(values=(1.0, 2.0, 5.0))
    init = start(X, 5)
    factors = fit(X, solver=solver, init=init, weighting="ratings", biases=True)
    expected, history = oracle.als_with_biases(X, init[1], 0.1, 0.0, 3)
    found = scores(factors) + factors.user_bias[:, None] + factors.item_bias + factors.global_bias
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-8)
    np.testing.assert_allclose([record["objective"] for record in factors.history], history, rtol=1e-9)


@pytest.mark.parametrize(("k", "cut"), [(40, True), (65, False)])  # 48 and 80 columns: the last two blocks overlap
@pytest.mark.parametrize("solver", SOLVERS)
def test_steps_converge_to_where_exact_sweeps_do(stepped, solver, cut, k):
    """Started where exact sweeps end, a sweep of steps stays; started elsewhere, it gets there."""
    X = matrix(60, 45, seed=k)
    problem = {"factors": k, "regularization": 5.0, "random_state": 0}
    best = fit(X, iterations=150, solver="exact", **problem).history[-1]["objective"]
    stepped(width=32, cut=cut)
    found = fit(X, solver=solver, iterations=150, **problem)
    assert found.history[-1]["objective"] == pytest.approx(best, rel=1e-6)
    assert lfm_np.objective(X, found) == pytest.approx(found.history[-1]["objective"], rel=1e-11)


def test_a_step_beyond_the_exact_rows_costs_less_than_solving_them():
    """Without patching: short rows are solved, long rows take the step, and both reach the exact objective."""
    rng = np.random.default_rng(0)
    dense = rng.random((300, 200)) < np.linspace(0.1, 0.97, 300)[:, None] ** 2
    X = sp.csr_array(dense.astype(float))
    exact = fit(X, factors=128, solver="exact", iterations=5, regularization=5.0, random_state=0)
    for solver in SOLVERS:
        found = fit(X, factors=128, solver=solver, iterations=5, regularization=5.0, random_state=0)
        rows = found.params["user_rows"]
        assert rows["dual"] > 20
        assert rows["stepped"] > 20
        assert found.history[-1]["objective"] == pytest.approx(exact.history[-1]["objective"], rel=5e-3)


@pytest.fixture(scope="module")
def many():
    """k = 2048, beyond either size: X, where to start, and the first sweep of the oracle."""
    X = matrix(6, 7, seed=3)
    init = start(X, 2048)
    return X, init, oracle.als(X, init[1], "hu-koren", 1.0, 0.5, 0.1, 0.0, 1)


def test_many_factors(many):
    X, init, (U, V, history) = many
    found = fit(X, factors=2048, init=init, solver="exact", iterations=1, unobserved_weight=0.5)
    assert lfm_np.objective(X, found) == pytest.approx(values(found)[-1], rel=1e-10)
    np.testing.assert_allclose(scores(found), U @ V.T, rtol=0, atol=1e-8)
    np.testing.assert_allclose(values(found), np.ravel(history), rtol=1e-9)


@pytest.mark.parametrize("solver", SOLVERS)
def test_steps_of_many_factors(many, solver):
    """At the solution a step stays, of which the users are; the items come nearer to theirs."""
    X, (_, V), (U, _, history) = many
    with row_plan.every_row_steps(width=64):
        found = fit(X, factors=2048, init=(U, V), solver=solver, iterations=1, unobserved_weight=0.5)
    assert found.params["user_rows"]["stepped"] == np.count_nonzero(np.diff(X.tocsr().indptr))
    assert lfm_np.objective(X, found) == pytest.approx(values(found)[-1], rel=1e-10)
    (users, items), (best_users, best_items) = values(found), np.ravel(history)
    assert users == pytest.approx(best_users, rel=1e-9)
    assert best_items * (1 - 1e-14) < items < users  # many blocks of many factors come as near as rounding lets them


# ---- the choice -----------------------------------------------------------------------------------------------------


def test_auto_steps_where_that_costs_less():
    """Long rows and many factors of implicit feedback; never below 64 factors, on ratings, or on short rows."""
    rng = np.random.default_rng(0)
    long, short = (sp.csr_array((rng.random((300, 250)) < density).astype(float)) for density in (0.5, 0.01))
    chosen = {
        (name, k, weighting): fit(X, factors=k, weighting=weighting, solver="auto", iterations=1).params["solver"]
        for name, X in (("long", long), ("short", short))
        for k, weighting in ((32, "hu-koren"), (64, "hu-koren"), (64, "ratings"))
    }
    assert [case for case, solver in chosen.items() if solver == "cg"] == [("long", 64, "hu-koren")]
    assert set(chosen.values()) == {"cg", "exact"}
    by_name, by_auto = (fit(long, factors=64, solver=solver, random_state=0) for solver in ("cg", "auto"))
    np.testing.assert_array_equal(by_name.item_factors, by_auto.item_factors)


def test_auto_counts_the_rotations_of_a_tall_side():
    """Two long columns would rather take a step, but the users, of one cell each, would have to be rotated for it."""
    users, items = np.ones(100_000, np.int64), np.array([50_000, 50_000])
    weights = row_plan.Weights(0.0, 1.0, 1.0, 1.0, 1.0)
    assert row_plan.cg_cost(items, 128).sum() < row_plan.primal_cost(items, 128).sum()
    assert row_plan.auto_solver(128, weights, users, items) == "exact"
    assert row_plan.auto_solver(128, weights, users[:2], items[:2] * 0 + 1) == "exact"
    assert row_plan.auto_solver(128, weights, users[:1000] * 500, np.full(1000, 500)) == "cg"


def test_auto_steps_beside_many_short_users():
    """As measured on 62,500 × 1,000 with 156,000 cells: steps cost a fifth less at k = 128 and a third at 192."""
    users, items = np.resize([1, 2, 3, 4], 62_400), np.full(1000, 156)
    weights = row_plan.Weights(0.0, 10.0, 1.0, 10.0, 1.0)
    chosen = [row_plan.auto_solver(k, weights, users, items) for k in (64, 128, 160, 192, 256)]
    assert chosen == ["exact", "cg", "cg", "cg", "cg"]


# ---- identities -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("cut", [False, True])
def test_objective_never_rises_and_is_the_objective(stepped, solver, cut):
    stepped(width=16, cut=cut)

    @examples(30)
    @given(csr_matrices(rows=25, columns=25), als_settings())
    def check(X, kwargs):
        found = fit(X, iterations=4, random_state=0, solver=solver, **kwargs)
        cells = oracle.dense_problem(X, kwargs["weighting"], kwargs["alpha"], kwargs["unobserved_weight"])
        scale = max(float((cells[0] * cells[1] ** 2).sum()), values(found)[0])
        assert all(b <= a + 1e-10 * scale for a, b in itertools.pairwise(values(found)))
        assert np.isfinite(found.user_factors).all()
        assert lfm_np.objective(X, found) == pytest.approx(values(found)[-1], rel=1e-8, abs=1e-10 * scale)

    check()


@pytest.mark.parametrize("solver", SOLVERS)
def test_permuting_rows_and_columns_permutes_factors(stepped, solver):
    stepped(width=16)
    X = matrix(50, 35)
    U0, V0 = start(X, 20)
    rows, columns = np.random.default_rng(0).permutation(50), np.random.default_rng(1).permutation(35)
    plain = fit(X, factors=20, solver=solver, init=(U0, V0))
    permuted = fit(X.tocsr()[rows][:, columns], factors=20, solver=solver, init=(U0[rows], V0[columns]))
    np.testing.assert_allclose(scores(permuted), scores(plain)[rows][:, columns], rtol=0, atol=1e-8)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("weighting", ["hu-koren", "ratings"])
@pytest.mark.parametrize("solver", SOLVERS)
def test_same_bits_for_any_number_of_threads(stepped, dtype, weighting, solver):
    stepped(width=16, cut=True)
    X = sp.vstack((matrix(150, 90, longest=12), matrix(20, 90, seed=2, longest=89)))
    kwargs = {"factors": 20, "weighting": weighting, "dtype": dtype, "random_state": 3, "solver": solver}
    results = [fit(X, num_threads=threads, iterations=2, **kwargs) for threads in (1, 2, 3, 7)]
    assert results[0].params["user_rows"]["blocks"] > 20
    for other in results[1:]:
        np.testing.assert_array_equal(other.user_factors, results[0].user_factors)
        np.testing.assert_array_equal(other.item_factors, results[0].item_factors)
        for a, b in zip(results[0].history, other.history):
            assert {**a, "seconds": 0} == {**b, "seconds": 0}


@pytest.mark.parametrize("solver", SOLVERS)
def test_segments_of_heavy_rows_add_up(stepped, monkeypatch, solver):
    """Rows of more cells than float32 sums hold, whole and cut."""
    rng = np.random.default_rng(0)
    X = sp.csr_array((rng.random((3, 5000)) < 0.9).astype(float))
    init = rng.normal(0, 0.1, (3, 4)), rng.normal(0, 0.1, (5000, 4))
    stepped(width=16)
    whole = fit(X, factors=4, init=init, solver=solver, dtype=np.float32, iterations=1)
    stepped(width=16, cut=True)
    cut = fit(X, factors=4, init=init, solver=solver, dtype=np.float32, iterations=1)
    assert cut.params["user_rows"]["blocks"] > whole.params["user_rows"]["blocks"]
    np.testing.assert_allclose(scores(cut), scores(whole), rtol=0, atol=1e-5)
    np.testing.assert_allclose(values(cut), values(whole), rtol=1e-6)


# ---- numerics -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize(("weighting", "alpha"), [("hu-koren", 40.0), ("confidence", 1.0), ("ratings", 1.0)])
def test_float32_is_near_float64(stepped, solver, weighting, alpha):
    stepped(width=32)
    X = matrix(120, 230, seed=3, longest=200)
    kwargs = {"factors": 65, "weighting": weighting, "alpha": alpha, "solver": solver, "init": start(X, 65)}
    near, far = (fit(X, dtype=dtype, iterations=2, **kwargs) for dtype in (np.float32, np.float64))
    assert abs(scores(near) - scores(far)).max() <= 1e-3 * abs(scores(far)).max()
    np.testing.assert_allclose(values(near), values(far), rtol=1e-4)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("regularization", [1e-8, 1e-4, 1e4, 1e8])
def test_any_regularization_gives_finite_factors(stepped, solver, regularization):
    stepped(width=16)
    X = matrix(60, 20)
    for weighting in WEIGHTINGS:
        kwargs = {"factors": 30, "weighting": weighting, "regularization": regularization, "solver": solver}
        factors = fit(X, dtype=np.float32, random_state=0, **kwargs)
        assert np.isfinite(factors.user_factors).all()
        assert np.isfinite(factors.item_factors).all()


def test_lambda_zero_needs_a_regular_system_only_to_be_solved(stepped):
    """CG finds a minimiser where there are many; a block of a singular system names its row."""
    X = sp.csr_array(np.array([[0, 0, 0], [1.0, 1.0, 0], [1.0, 0, 0]]))
    kwargs = {"factors": 5, "weighting": "ratings", "regularization": 0.0, "random_state": 0}
    stepped(steps=5)
    found = fit(X, solver="cg", **kwargs)
    assert found.history[-1]["objective"] == pytest.approx(0.0, abs=1e-5)
    with pytest.raises(lfm_np.SolverError, match="row 1"):
        fit(X, solver="subspace", **kwargs)


@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("solver", ["exact", *SOLVERS])
def test_lambda_zero_beside_a_singular_gram_matrix_is_an_error_in_either_dtype(stepped, solver, dtype, cut):
    """More factors than items: steps of CG in float64 went where nothing holds them, to a loss below 0."""
    X = matrix(12, 9, seed=3)
    if solver != "exact":
        stepped(width=16, cut=cut)
    kwargs = {"factors": 20, "regularization": 0.0, "weighting": "confidence", "unobserved_weight": 8.0, "alpha": 3.0}
    with pytest.raises(lfm_np.SolverError, match=r"sweep 1: the normal equations of row \d+ .*singular"):
        fit(X, solver=solver, dtype=dtype, random_state=0, **kwargs)
    kwargs |= {"factors": 4, "iterations": 10}
    found = fit(X, solver=solver, dtype=dtype, random_state=0, **kwargs)  # fewer: regular
    assert found.history[-1]["objective"] == pytest.approx(lfm_np.objective(X, found), rel=1e-4)
