"""New rows for a fitted model, against dense normal equations and one more half-step of the fit."""

import dataclasses
import itertools
import tracemalloc

import numpy as np
import oracles_als as oracle
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st
from strategies import als_settings, csr_matrices, examples

import lfm_np
from lfm_np import Factors, fold_in, item_index, queries
from lfm_np import factors as factors_module

CASES = [("hu-koren", 0.3), ("ials", 1.0), ("confidence", 1.0), ("ratings", 0.0)]


def matrix(m=50, n=30, seed=0):
    rng = np.random.default_rng(seed)
    X = sp.random_array((m, n), density=0.2, rng=rng, format="csr")
    X.data = rng.choice([0.5, 1.0, 3.0], X.nnz)
    return X


def fit(X, weighting="hu-koren", a0=0.3, **kwargs):
    defaults = {"factors": 6, "regularization": 0.1, "iterations": 4, "dtype": np.float64, "random_state": 0}
    return lfm_np.als(X, weighting=weighting, unobserved_weight=a0, **{**defaults, **kwargs})


@pytest.mark.parametrize(("weighting", "a0"), CASES)
@pytest.mark.parametrize("exponent", [0.0, 1.0])
def test_users_and_items_equal_dense_normal_equations(weighting, a0, exponent):
    X, new = matrix(), matrix(20, 30, seed=1)
    factors = fit(X, weighting, a0, regularization_exponent=exponent)
    C, P, stored = oracle.dense_problem(new, weighting, 1.0, a0)
    lam = oracle.penalties(stored, 0.1, exponent, a0)[0]
    expected = oracle.solve_side(C, P, stored, lam, factors.item_factors)
    np.testing.assert_allclose(factors.fold_in_users(new).user_factors, expected, rtol=0, atol=1e-10)

    columns = matrix(50, 7, seed=2)
    C, P, stored = oracle.dense_problem(columns, weighting, 1.0, a0)
    lam = oracle.penalties(stored, 0.1, exponent, a0)[1]
    expected = oracle.solve_side(C.T, P.T, stored.T, lam, factors.user_factors)
    folded = factors.fold_in_items(columns)
    np.testing.assert_allclose(folded.item_factors, expected, rtol=0, atol=1e-10)
    np.testing.assert_array_equal(folded.user_factors, factors.user_factors)


@examples(40)
@given(csr_matrices(rows=15, columns=15), als_settings(smallest=1e-2, largest=1e2))
def test_a_training_row_is_one_more_half_step(X, kwargs):
    factors = lfm_np.als(X, iterations=2, dtype=np.float64, random_state=0, num_threads=1, **kwargs)
    C, P, stored = oracle.dense_problem(X, kwargs["weighting"], kwargs["alpha"], kwargs["unobserved_weight"])
    lam = oracle.penalties(
        stored, kwargs["regularization"], kwargs["regularization_exponent"], kwargs["unobserved_weight"]
    )[0]
    expected = oracle.solve_side(C, P, stored, lam, factors.item_factors) if X.shape[0] else np.zeros((0, 1))
    found = factors.fold_in_users(X).user_factors
    assert abs(found - expected).max(initial=0) <= 1e-8 * max(1.0, abs(expected).max(initial=0))


@pytest.mark.parametrize(("weighting", "a0", "biases"), [(*case, False) for case in CASES] + [("ratings", 0.0, True)])
def test_training_rows_are_those_of_one_more_sweep_of_als(weighting, a0, biases):
    """Both are the minimum over the users' factors, which is unique; the fit reports what it reached there."""
    X = matrix()
    factors = fit(X, weighting, a0, biases=biases, regularization_exponent=0.5)
    more = fit(X, weighting, a0, biases=biases, regularization_exponent=0.5, init=factors, iterations=1)
    reached = lfm_np.objective(X, factors.fold_in_users(X))
    assert reached == pytest.approx(more.history[0]["objective_users"], rel=1e-12)
    assert reached < lfm_np.objective(X, factors)


def test_biases_are_folded_in_too():
    X, new = matrix(), matrix(9, 30, seed=3)
    factors = fit(X, "ratings", 0.0, biases=True)
    folded = factors.fold_in_users(new)
    Y = np.column_stack((factors.item_factors, np.ones(30)))
    for u in range(9):
        items, x = new.indices[new.indptr[u] : new.indptr[u + 1]], new.data[new.indptr[u] : new.indptr[u + 1]]
        A = Y[items].T @ Y[items] + 0.1 * np.eye(7)
        expected = np.linalg.solve(A, Y[items].T @ (x - factors.global_bias - factors.item_bias[items]))
        np.testing.assert_allclose([*folded.user_factors[u], folded.user_bias[u]], expected, rtol=0, atol=1e-10)


def test_float32_is_near_float64():
    X = matrix()
    factors = fit(X)
    single = lfm_np.Factors(
        factors.user_factors.astype(np.float32), factors.item_factors.astype(np.float32), params=factors.params
    )
    found, exact = single.fold_in_users(X).user_factors, factors.fold_in_users(X).user_factors
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, exact, rtol=0, atol=1e-4 * abs(exact).max())


def test_factors_of_sgd_need_parameters():
    X = matrix()
    factors = lfm_np.Factors(np.ones((50, 3)), np.eye(30, 3))
    with pytest.raises(ValueError, match="do not come from als, so fold-in needs regularization and alpha and"):
        factors.fold_in_users(X)
    parameters = {"regularization": 0.1, "alpha": 1.0, "regularization_exponent": 0.0, "weighting": "ials"}
    assert factors.fold_in_users(X, **parameters).user_factors.shape == (50, 3)
    assert factors.update(X[:2], users=[0, 50], **parameters).shape == (51, 30)
    score = factors.fold_in_users(X, **parameters).scores(3, 5)
    assert factors.explain(3, 5, X, **parameters).score == pytest.approx(float(score), abs=1e-9)
    ratings = {"regularization": 0.1, "regularization_exponent": 0.0, "weighting": "ratings"}  # which have no alpha
    alone, same = factors.fold_in_users(X, **ratings), factors.fold_in_users(X, **ratings, alpha=1.0)
    np.testing.assert_array_equal(alone.user_factors, same.user_factors)


def test_the_regularization_of_sgd_is_not_taken_for_that_of_als():
    X = matrix()
    factors = lfm_np.sgd(X, factors=2, epochs=1, random_state=0)
    asked = {"alpha": 1.0, "regularization_exponent": 0.0, "weighting": "ials"}
    with pytest.raises(ValueError, match=r"do not come from als, so fold-in needs regularization$"):
        factors.fold_in_users(X, **asked)
    for words in ({}, asked):
        with pytest.raises(ValueError, match=r"the factors come from sgd, .* so objective needs regularization, and"):
            lfm_np.objective(X, factors, **words)
    bare = lfm_np.Factors(factors.user_factors, factors.item_factors)
    assert lfm_np.objective(X, factors, regularization=0.1) == lfm_np.objective(X, bare, regularization=0.1)


def test_a_misspelt_parameter_is_named():
    X = matrix()
    with pytest.raises(TypeError, match="no argument regularisation; it takes regularization, alpha"):
        fit(X).fold_in_users(X, regularisation=0.1)


def test_update_adds_and_refreshes_rows():
    X = matrix()
    factors = fit(X)
    rows = matrix(3, 30, seed=5)
    updated = factors.update(rows, users=[51, 4, 50])
    folded = factors.fold_in_users(rows).user_factors
    np.testing.assert_array_equal(updated.user_factors[[51, 4, 50]], folded)
    kept = np.delete(np.arange(50), 4)
    np.testing.assert_array_equal(updated.user_factors[kept], factors.user_factors[kept])
    np.testing.assert_array_equal(updated.item_factors, factors.item_factors)
    factors.similar_users(0)  # prepares an index that the updated factors must not inherit
    updated = factors.update(10 * rows, users=[51, 4, 50])
    afresh = lfm_np.Factors(updated.user_factors, updated.item_factors)
    np.testing.assert_array_equal(updated.similar_users([4, 51], N=9), afresh.similar_users([4, 51], N=9))
    columns = matrix(50, 1, seed=6)
    more = fit(X, "ratings", 0.0, biases=True).update(columns, items=[30])
    assert more.item_bias.shape == (31,)
    assert more.recommend(0, N=31).ids.max() == 30


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({}, TypeError, "either users or items"),
        ({"users": [0], "items": [0]}, TypeError, "either users or items"),
        ({"users": [0, 0, 1]}, ValueError, "users must be distinct"),
        ({"users": [0, 1, 52]}, ValueError, "must go on from 50 without a gap"),
        ({"users": [0, 1]}, ValueError, "X must have one row for each of the 2 users, got 3"),
        ({"users": [-1, 0, 1]}, ValueError, "users must be from 0"),
    ],
)
def test_update_refuses(kwargs, error, message):
    with pytest.raises(error, match=message):
        fit(matrix()).update(matrix(3, 30), **kwargs)


@pytest.mark.parametrize(("weighting", "a0", "biases"), [(*case, False) for case in CASES] + [("ratings", 0.0, True)])
def test_contributions_sum_to_the_score_of_the_folded_in_user(weighting, a0, biases):
    X = matrix()
    factors = fit(X, weighting, a0, biases=biases)
    folded = factors.fold_in_users(X)
    for user, item in ((0, 3), (17, 0), (49, 29)):
        explanation = factors.explain(user, item, X)
        assert not any(array.flags.writeable for array in explanation[:2])
        own = X.indices[X.indptr[user] : X.indptr[user + 1]]
        np.testing.assert_array_equal(np.sort(explanation.items), own)
        assert (np.diff(explanation.contributions) <= 0).all()
        total = explanation.baseline + explanation.contributions.sum()
        assert explanation.score == pytest.approx(total, abs=1e-12)
        assert explanation.score == pytest.approx(float(folded.scores(user, item)), abs=1e-9)


@pytest.mark.parametrize("k", [2, 8])
def test_a_singular_row_is_refused_as_it_is_by_folding_in(k):
    """Equal items give a matrix that is singular exactly, random ones to rounding: contributions would be noise."""
    rng = np.random.default_rng(k)
    X = sp.csr_array(np.array([[0.0, 0, 0], [5, 3, 0]]))
    params = {"weighting": "ratings", "alpha": 1.0, "regularization": 0.0, "regularization_exponent": 0.0}
    for V in (np.ones((3, k)), rng.standard_normal((3, k)) @ np.diag(np.arange(k) < 1)):
        factors = lfm_np.Factors(np.zeros((2, k)), V, params=params)
        for call in (lambda f=factors: f.fold_in_users(X), lambda f=factors: f.explain(1, 2, X)):
            with pytest.raises(lfm_np.SolverError, match=r"normal equations of row 1 .* singular"):
                call()
    turned = lfm_np.Factors(V, np.zeros((2, k)), params=params)
    with pytest.raises(lfm_np.SolverError, match=r"normal equations of column 1 .* singular"):
        turned.fold_in_items(X.T)
    few = lfm_np.Factors(np.zeros((2, 4)), rng.standard_normal((3, 4)), params=params)  # two cells, four factors
    with pytest.raises(lfm_np.SolverError, match="normal equations of row 1 "):
        few.explain(1, 2, X)


@pytest.mark.parametrize(("weighting", "a0"), [("ratings", 0.0), ("confidence", 1e-16)])
def test_contributions_have_their_digits_with_a_small_lambda(weighting, a0):
    rng = np.random.default_rng(0)
    factors, X = lfm_np.Factors(np.zeros((1, 16)), rng.normal(size=(40, 16))), matrix(1, 40)
    asked = {**RATINGS, "weighting": weighting, "unobserved_weight": a0, "regularization": 1e-16}
    expected = float(factors.fold_in_users(X, **asked).scores(0, 5))
    assert factors.explain(0, 5, X, **asked).score == pytest.approx(expected, abs=1e-7)
    with pytest.raises(lfm_np.SolverError, match=r"row 0 .* singular"):
        factors.explain(0, 5, X, **{**asked, "regularization": 0.0, "unobserved_weight": 0.0})


@pytest.mark.parametrize(("weighting", "a0"), [("ratings", 0.0), ("hu-koren", 0.5), ("confidence", 1e-3)])
def test_without_a_lambda_regular_equations_have_an_explanation(weighting, a0):
    rng = np.random.default_rng(1)
    factors, X = lfm_np.Factors(np.zeros((1, 3)), rng.normal(size=(40, 3))), matrix(1, 40)
    asked = {**RATINGS, "weighting": weighting, "unobserved_weight": a0, "regularization": 0.0}
    V, x = factors.item_factors, X.toarray()[0]
    c, t = {
        "ratings": (1.0 * (x != 0), x),
        "hu-koren": (np.where(x != 0, 1 + x, a0), (x != 0) * (1 + x)),
        "confidence": (np.where(x != 0, x, a0), x),
    }[weighting]
    found = factors.explain(0, 5, X, **asked)
    assert found.score == pytest.approx(V[5] @ np.linalg.solve((V.T * c) @ V, V.T @ t), rel=1e-9)
    shares = dict(zip(found.items.tolist(), found.contributions))
    expected = V[5] @ np.linalg.inv((V.T * c) @ V) @ (V.T * t)
    assert [shares[i] for i in np.flatnonzero(x)] == pytest.approx(expected[x != 0], rel=1e-9)


def test_a_contribution_is_what_the_score_loses_with_the_target():
    """With the weights as they are, setting one target to zero takes its contribution away."""
    X = matrix()
    factors = fit(X, "ratings", 0.0)
    explanation = factors.explain(5, 2, X)
    for item, contribution in zip(explanation.items, explanation.contributions):
        other = X.copy()
        other.data[other.indptr[5] + int(np.flatnonzero(X[[5]].indices == item)[0])] = 0.0
        assert factors.explain(5, 2, other).score == pytest.approx(explanation.score - contribution, abs=1e-9)


@examples(20)
@given(st.integers(1, 6))
def test_batches_equal_single_rows(r):
    X = matrix()
    factors = fit(X)
    together = factors.fold_in_users(X[:r]).user_factors
    alone = np.vstack([factors.fold_in_users(X[[u]]).user_factors for u in range(r)])
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_an_ill_conditioned_row_of_small_factors_is_that_of_large_ones(dtype):
    """What stands on the padding of a system must not count as its largest eigenvalue."""
    rng = np.random.default_rng(0)
    V = rng.normal(size=(40, 3))
    V[:, 1] = V[:, 0] * (1 + 1e-6 * rng.normal(size=40))
    ratings = 3 * V[:, 0] + rng.normal(size=40)
    found = []
    for size in (1.0, 2.0**-26):
        model = lfm_np.Factors(np.zeros((1, 3), dtype), (size * V).astype(dtype))
        asked = {**RATINGS, "regularization": 1e-13 * size**2}
        new = model.fold_in_users(sp.csr_array(ratings[None].astype(dtype)), **asked)
        found.append(V @ (size * new.user_factors[0].astype(np.float64)))
    np.testing.assert_allclose(*found, atol=1e-3)


PARTS = list(itertools.product((False, True), repeat=3))[1:]  # which of μ, b_u, b_i
RATINGS = {"weighting": "ratings", "alpha": 1.0, "regularization": 0.3, "regularization_exponent": 0.0}


def partly_biased(mean, users, items):
    rng = np.random.default_rng(7)
    return lfm_np.Factors(
        rng.normal(size=(50, 3)), rng.normal(size=(30, 3)), global_bias=2.5 if mean else None, params=RATINGS,
        user_bias=rng.normal(size=50) if users else None, item_bias=rng.normal(size=30) if items else None,
    )  # fmt: skip


@pytest.mark.parametrize("side", ["users", "items"])
@pytest.mark.parametrize("parts", PARTS)
def test_new_rows_are_the_minimum_of_the_score_that_the_model_has(parts, side):
    """μ and whichever biases: a row's factors, and its bias if its side has biases, are one least-squares problem."""
    X, factors = matrix(), partly_biased(*parts)
    found = getattr(factors, f"fold_in_{side}")(X)
    own, Y, other = ("user", factors.item_factors, factors.item_bias)
    if side == "items":
        own, Y, other = ("item", factors.user_factors, factors.user_bias)
    dense, stored = X.toarray(), X.toarray() != 0
    if side == "items":
        dense, stored = dense.T, stored.T
    rows, bias = getattr(found, f"{own}_factors"), getattr(found, f"{own}_bias")
    biased = getattr(factors, f"{own}_bias") is not None
    assert (bias is not None) == biased
    Y = np.column_stack((Y, np.ones(len(Y)))) if biased else Y
    rows = np.column_stack((rows, bias)) if biased else rows
    left = dense - (factors.global_bias or 0.0) - (0.0 if other is None else other)
    for x, cells, row in zip(left, stored, rows):
        expected = np.linalg.solve(Y[cells].T @ Y[cells] + 0.3 * np.eye(Y.shape[1]), Y[cells].T @ x[cells])
        np.testing.assert_allclose(row, expected, rtol=0, atol=1e-10)
    assert lfm_np.objective(X, found) < lfm_np.objective(X, factors)
    updated = factors.update(X[:2] if side == "users" else X[:, :2], **{side: [1, 0]})
    np.testing.assert_array_equal(getattr(updated, f"{own}_factors")[[1, 0]], getattr(found, f"{own}_factors")[:2])
    if biased:
        np.testing.assert_array_equal(getattr(updated, f"{own}_bias")[[1, 0]], bias[:2])
    size = getattr(factors, f"{own}_factors").shape[0]
    longer = factors.update(X[:1] if side == "users" else X[:, :1], **{side: [size]})
    assert longer.shape == ((51, 30) if side == "users" else (50, 31))
    assert longer.recommend([0, 49], N=40).ids.shape == (2, 40)


@pytest.mark.parametrize("parts", PARTS)
def test_explanations_have_the_score_that_the_model_has(parts):
    X, factors = matrix(), partly_biased(*parts)
    folded = factors.fold_in_users(X)
    baseline = (factors.global_bias or 0.0) + (0.0 if factors.item_bias is None else factors.item_bias[3])
    for user in (0, 17):
        explanation = factors.explain(user, 3, X)
        assert explanation.baseline == pytest.approx(baseline, abs=1e-12)
        assert explanation.score == pytest.approx(float(folded.scores(user, 3)), abs=1e-9)


@pytest.mark.parametrize(
    ("side", "parts", "scores"), [("items", {"item_bias": [0, 10]}, [3, 6]), ("users", {"user_bias": [0, 10]}, [3, 6])]
)
def test_a_replaced_row_does_not_keep_its_old_bias(side, parts, scores):
    U, V = np.array([[1.0], [2.0]]), np.array([[1.0], [0.0]])
    factors = lfm_np.Factors(*((U, V) if side == "items" else (V, U)), **parts)
    column = sp.csr_array([[3.0], [6.0]])
    found = factors.update(column if side == "items" else column.T, **{side: [1]}, **RATINGS | {"regularization": 1e-9})
    got = found.scores([0, 1], [1, 1]) if side == "items" else found.scores([1, 1], [0, 1])
    np.testing.assert_allclose(got, scores, atol=1e-6)


@pytest.mark.parametrize("weighting", ["hu-koren", "ials", "confidence"])
@pytest.mark.parametrize("parts", PARTS)
def test_biases_and_a_constant_are_for_ratings(weighting, parts):
    X, factors = matrix(), partly_biased(*parts)
    named = "biases need" if any(parts[1:]) else "global_bias needs"
    for call in (
        factors.fold_in_users,
        factors.fold_in_items,
        lambda X, **words: lfm_np.objective(X, factors, **words),
    ):
        with pytest.raises(ValueError, match=f"{named} weighting=\"ratings\", got weighting='{weighting}'"):
            call(X, weighting=weighting)


# ---- what is kept ---------------------------------------------------------------------------------------------------


def same_lists(found, factors, **options):
    """Whether lists are those of the same numbers, from which nothing was made before."""
    users = np.arange(len(factors.user_factors))
    fresh = dataclasses.replace(factors).recommend(users, N=6, **options)
    return all(map(np.array_equal, found.recommend(users, N=6, **options), fresh))


def test_the_index_over_the_items_is_made_once_for_all_users(monkeypatch):
    X, made, real = matrix(), [], item_index.build_index
    for module in (factors_module, queries):
        monkeypatch.setattr(module, "build_index", lambda *args: made.append(1) or real(*args))
    factors = fit(X)
    rows = [factors, *(factors.fold_in_users(X[u : u + 2]) for u in (3, 9)), factors.update(X[:2], users=[50, 4])]
    for part in rows:
        part.recommend(0)
        part.recommend(1, items=[3, 1, 2])
        part.similar_items(0)
        part.similar_items(0, metric="inner")
    assert len(made) == 4
    other = factors.update(X[:, :2], items=[30, 4])
    assert all(same_lists(part, part) for part in [*rows, other])
    assert all(same_lists(part, part, items=[3, 1, 2]) for part in [*rows, other])
    assert same_lists(factors, factors, items=[3, 1])
    assert 30 in other.recommend(0, N=31).ids


def test_the_index_is_tuned_to_the_fitted_users_whoever_asks_first():
    """For users without length items stood in the order of their biases, and the search of others went through all."""
    X = matrix()
    factors, nobody = fit(X), sp.csr_array((1, X.shape[1]))
    factors.fold_in_users(nobody).recommend(0)
    assert factors._index.pivot == dataclasses.replace(factors)._index.pivot > 0
    alone = Factors(np.empty((0, 6)), factors.item_factors.astype(np.float64), params=factors.params)
    assert alone.fold_in_users(nobody)._index.pivot > 0
    assert same_lists(alone.fold_in_users(X), alone.fold_in_users(X))


def test_of_several_weights_the_last_ones_basis_is_kept():
    X, weights = matrix(), (0.1, 0.2, 0.1, 0.3, 0.3, 0.1)
    factors = fit(X)
    for a0 in weights:
        for fold, rows in ((Factors.fold_in_users, X), (Factors.fold_in_items, X)):
            found, fresh = (fold(part, rows, unobserved_weight=a0) for part in (factors, dataclasses.replace(factors)))
            assert np.array_equal(found.user_factors, fresh.user_factors)
            assert np.array_equal(found.item_factors, fresh.item_factors)
    assert [*factors._of_users] == ["fixed"]
    assert [*factors._of_items] == ["typical", "fixed"]


def test_an_explanation_takes_the_memory_of_a_block(monkeypatch):
    X = matrix()
    factors = fit(X)
    expected = factors.explain(3, 4, X)
    monkeypatch.setattr(fold_in, "ROWS", 7)
    found = factors.explain(3, 4, X)
    assert found.items.tolist() == expected.items.tolist()
    np.testing.assert_allclose(found.contributions, expected.contributions, rtol=0, atol=1e-12)
    monkeypatch.setattr(fold_in, "ROWS", 1000)
    V = np.random.default_rng(0).normal(size=(50_000, 6))
    large, row = (
        dataclasses.replace(factors, item_factors=V),
        sp.csr_array((np.ones(3), ([0] * 3, [5, 6, 9])), (50, 50_000)),
    )
    tracemalloc.start()
    large.explain(0, 4, row)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < V.nbytes
