"""Numbers of every size under ``np.seterr(all="raise")``: a result or an error of this library, never NumPy's."""

import math
import warnings

import numpy as np
import pytest
import scipy.sparse as sp

import lfm_np
from lfm_np import losses
from tests.optional import require

SCALES = {
    np.float32: (1e-45, 1e-38, 1e-20, 1.0, 1e20, 1e38),
    np.float64: (5e-324, 1e-308, 1e-160, 1.0, 1e160, 1e307),
}
SIZES = [(dtype, scale) for dtype, scales in SCALES.items() for scale in scales]


@pytest.fixture(autouse=True)
def loud():
    with warnings.catch_warnings(), np.errstate(all="raise"):
        warnings.simplefilter("error")
        yield


def scaled(array, scale, dtype):
    with np.errstate(all="ignore"):
        return (array * scale).astype(dtype)


def matrix(scale, dtype):
    X = sp.random_array((12, 9), density=0.4, rng=np.random.default_rng(0), format="csr")
    X.data = scaled(X.data, scale, dtype)
    X.data[X.data == 0] = np.finfo(dtype).tiny
    return sp.csr_array(X.astype(dtype))


def attempt(function, *args, **keywords):
    """The result, or None with an error of this library."""
    try:
        found = function(*args, **keywords)
    except np.linalg.LinAlgError:
        raise
    except (lfm_np.SolverError, ValueError):
        return None
    if isinstance(found, lfm_np.Factors):
        assert all(np.isfinite(side).all() for side in (found.user_factors, found.item_factors))
    return found


def use(factors, X):
    m, n = factors.shape
    attempt(factors.recommend, np.arange(m), N=3, seen=X)
    for metric in ("cosine", "inner"):
        attempt(factors.similar_items, np.arange(n), N=2, metric=metric)
    attempt(lfm_np.evaluate, factors, None, X)
    attempt(lfm_np.objective, X, factors, regularization=1e-3)
    attempt(factors.fold_in_users, X[:3], regularization=1e-3)
    attempt(factors.fold_in_items, X[:, :2], regularization=1e-3)
    attempt(factors.explain, 0, 0, X, regularization=1e-3)


@pytest.mark.parametrize(("dtype", "scale"), SIZES)
@pytest.mark.parametrize("weighting", ["hu-koren", "ials", "confidence", "ratings"])
def test_als(dtype, scale, weighting):
    X = matrix(scale, dtype)
    asked = {"factors": 3, "iterations": 2, "weighting": weighting, "dtype": dtype, "random_state": 0}
    for regularization in (0.0, 1e-30, 1e-3, 1e30):
        for solver in ("exact", "cg", "subspace"):
            factors = attempt(lfm_np.als, X, regularization=regularization, solver=solver, **asked)
        if factors is not None:
            use(factors, X)
    attempt(lfm_np.als, X, alpha=1e-30, **asked)
    if weighting != "ratings":
        attempt(lfm_np.als, X, alpha=1e-30, unobserved_weight=1e-30, **asked)


@pytest.mark.parametrize(("dtype", "scale"), SIZES)
def test_factors(dtype, scale):
    X, rng = matrix(1.0, dtype), np.random.default_rng(1)
    U, V = (scaled(rng.standard_normal((rows, 3)), scale, dtype) for rows in X.shape)
    if not (np.isfinite(U).all() and np.isfinite(V).all()):
        pytest.skip("no such factors")
    for pair in ((U, V), (U, np.ones_like(V)), (np.ones_like(U), V)):
        use(lfm_np.Factors(*pair), X)
        attempt(lfm_np.als, X, factors=3, iterations=2, init=pair, dtype=dtype)
        attempt(lfm_np.sgd, X, losses.BPR(), factors=3, epochs=1, init=pair, dtype=dtype)


@pytest.mark.parametrize(("dtype", "scale"), SIZES)
def test_spectrum(dtype, scale):
    require("matplotlib")
    factors = lfm_np.Factors(scaled(np.diag([3.0, 2.0, 1.0]), scale, dtype), np.eye(3, dtype=dtype))
    axes = attempt(lfm_np.plots.factor_spectrum, factors)
    assert (axes is None) == (scale >= 1e160)
    if axes is not None and scale > 1e-100:
        diagonal = factors.user_factors.diagonal().astype(np.float64)
        np.testing.assert_allclose(axes.lines[0].get_ydata(), diagonal, rtol=1e-6)


@pytest.mark.parametrize("scale", SCALES[np.float64])
def test_means_of_ratings(scale, tmp_path):
    X = matrix(scale, np.float64)
    stored = lfm_np.StoredMatrix.from_matrix(X, tmp_path / "X", dtype="float64")
    asked = {"factors": 2, "iterations": 1, "weighting": "ratings", "biases": True, "dtype": np.float64}
    for source in (X, stored):
        factors = attempt(lfm_np.als, source, **asked)
        assert factors is None or math.isclose(factors.global_bias, math.fsum(X.data) / X.nnz, rel_tol=1e-12)


@pytest.mark.parametrize("backend", ["numba", "torch"])
def test_weights_that_the_dtype_rounds_to_nothing_are_refused(backend):
    fit = lfm_np.als if backend == "numba" else require("torch") and lfm_np.torch_backend.als
    X = matrix(1.0, np.float32)
    for weighting, faint, words in [
        (
            "hu-koren",
            {"unobserved_weight": 1e-40},
            "unobserved_weight must be 0 or at least 1.18e-38 in float32, got 1e-40",
        ),
        ("ials", {"alpha": 1e-60, "unobserved_weight": 0.0}, "alpha · value underflows float32: alpha is 1e-60"),
        ("confidence", {"alpha": 1e-60, "unobserved_weight": 0.0}, "alpha · value underflows float32: alpha is 1e-60"),
    ]:
        with pytest.raises(ValueError, match=words):
            fit(X, factors=2, weighting=weighting, **faint)
        fit(X.astype(np.float64), factors=2, weighting=weighting, dtype=np.float64, iterations=1, **faint)
    fit(X, factors=2, alpha=1e-60, iterations=1)  # 1 + αx


def test_a_threshold_between_0_and_the_least_float32_is_above_0():
    least = float(np.finfo(np.float32).smallest_subnormal)
    data = lfm_np.Interactions.from_arrays([0] * 4, range(4), values=[0.0, -0.0, least, 0.7])
    for threshold, kept in [
        (1e-300, [2, 3]),
        (least, [2, 3]),
        (0.0, [0, 1, 2, 3]),
        (-1e-300, [0, 1, 2, 3]),
        (0.7, [3]),
        (1e39, []),
    ]:
        assert data.binarize(threshold).matrix.indices.tolist() == kept


def test_what_float32_rounds_to_its_largest_number_is_taken():
    largest = float(np.finfo(np.float32).max)
    beyond = 2.0**128 - 2.0**103
    assert lfm_np.to_csr([(0, 0)], values=[np.nextafter(beyond, 0)]).data.tolist() == [largest]
    X = sp.csr_array([[np.nextafter(beyond, 0)]])
    factors = lfm_np.als(X, factors=1, weighting="ratings", regularization=1e30, iterations=1)
    assert np.isfinite(factors.user_factors @ factors.item_factors.T).all()
    with pytest.raises(ValueError, match="values must be a number within the range of float32"):
        lfm_np.to_csr([(0, 0)], values=[beyond])


def test_the_objective_of_cells_that_weigh_next_to_nothing():
    """c = αx, which 2⁻⁴⁰ less and more would swallow."""
    X, scores = sp.csr_array([[2.0**-20, 0.0]]), np.array([2.0**-480])
    factors = lfm_np.Factors(np.ones((1, 1)), np.full((2, 1), scores[0]))
    asked = {"weighting": "confidence", "alpha": 2.0**-1000, "unobserved_weight": 2.0**-40, "regularization": 0.0}
    expected = 2.0**-1020 * (1 - scores[0]) ** 2 + 2.0**-1000  # of the other cell α₀s²
    assert lfm_np.objective(X, factors, **asked) == pytest.approx(expected, rel=1e-9)


def test_slopes_of_logistic_far_out():
    """σ(s) − 1 is −e⁻ˢ, not 0; the best constant of weights of 2¹⁰⁰ beside as many negatives is their logarithm."""
    assert losses.Logistic().gradient(100.0, 1.0) == pytest.approx(-math.exp(-100), rel=1e-12)
    assert losses.Logistic().gradient(-100.0, 0.0) == pytest.approx(math.exp(-100), rel=1e-12)
    X = sp.csr_array(np.eye(3, 5) * 2.0**100)
    factors = lfm_np.sgd(X, losses.Logistic(weighted=True), factors=1, epochs=1, biases=True, learning_rate=1e-9)
    assert factors.global_bias == pytest.approx(100 * math.log(2), abs=1e-9)


@pytest.mark.parametrize("power", [300, -160])
def test_hidden_ratings_are_of_the_dtype_of_the_model(power):
    require("sklearn")
    from lfm_np.sklearn import ALS, HeldOut

    X = sp.csr_array(np.where(np.random.default_rng(0).random((12, 10)) < 0.5, -1.0, 1.0) * 2.0**power)
    asked = {"regularization": 2.0 ** max(4, power + 60), "dtype": "float64", "random_state": 0}
    model = ALS(factors=2, weighting="ratings", iterations=1, **asked).fit(X)
    assert -HeldOut("neg_root_mean_squared_error")(model, X) == pytest.approx(2.0**power, rel=1e-9)


def test_a_list_may_be_longer_than_32_bits():
    factors, test = lfm_np.Factors(np.ones((1, 1)), np.ones((3, 1))), sp.csr_array([[1, 0, 0]])
    found = lfm_np.evaluate(factors, None, test, ["recall@99999999999", "precision@4"])
    assert (found["recall@99999999999"], found["precision@4"]) == (1.0, 0.25)


@pytest.mark.parametrize("backend", ["numba", "torch"])
@pytest.mark.parametrize("weight", [1e14, 1e20, 1e30])
def test_cells_that_weigh_far_less_than_empty_ones(backend, weight):
    """c = 1 + αx, though d = c − α₀ has rounded it away."""
    fit = lfm_np.als if backend == "numba" else require("torch") and lfm_np.torch_backend.als
    X = matrix(1.0, np.float64)
    asked = {"alpha": 1.0, "unobserved_weight": weight, "regularization": 1e-3}
    factors = fit(X, factors=2, iterations=1, dtype=np.float64, random_state=0, **asked)
    U, V, dense = factors.user_factors, factors.item_factors, X.toarray()
    weights, scores = np.where(dense > 0, 1 + dense, weight), U @ V.T
    expected = np.sum(weights * ((dense > 0) - scores) ** 2) + 1e-3 * (np.sum(U**2) + np.sum(V**2))
    assert factors.history[-1]["objective"] == pytest.approx(expected, rel=1e-9)
    assert lfm_np.objective(X, factors) == pytest.approx(expected, rel=1e-9)
    found = factors.explain(0, 1, X, regularization=weight)
    folded = factors.fold_in_users(X, regularization=weight)
    assert found.score == pytest.approx(float(folded.scores(0, 1)), rel=1e-6)


@pytest.mark.parametrize("size", [1e-300, 1e-40, 1e-30, 1e18, 1e30, 1e100])
def test_the_mean_of_ratings_of_any_size(size):
    X = sp.csr_array([[size, 3 * size], [2 * size, 2 * size]])
    asked = {
        "sampler": None,
        "biases": True,
        "factors": 1,
        "epochs": 1,
        "learning_rate": 1e-9 / max(1.0, size),
        "dtype": np.float64,
    }
    factors = lfm_np.sgd(X, losses.Squared(), **asked)
    assert factors.global_bias == pytest.approx(2 * size, rel=1e-9, abs=0.0)


def test_ratings_whose_sum_is_beyond_float64(tmp_path):
    X = sp.csr_array([[1.7e308, 1.5e308], [1e308, 1.6e308]])
    stored = lfm_np.StoredMatrix.from_matrix(X, tmp_path / "X", dtype=np.float64)
    for source in (X, stored):
        with pytest.raises(ValueError, match=r"^X must have ratings whose sum is finite"):
            lfm_np.als(source, factors=1, weighting="ratings", biases=True, dtype=np.float64)
    np.testing.assert_equal(X.data, [1.7e308, 1.5e308, 1e308, 1.6e308])


def test_counts_that_no_rate_fits():
    """Beyond e³⁰ the loss of Poisson has no least: there is no best constant to start from."""
    X, asked = sp.csr_array([[1e20]]), {"sampler": None, "biases": True, "factors": 1, "epochs": 1}
    assert lfm_np.sgd(X, losses.Poisson(), learning_rate=1e-30, **asked).global_bias == 0


@pytest.mark.parametrize("backend", ["numba", "torch"])
@pytest.mark.parametrize("size", [1e-25, 1e20])
def test_rows_of_init_without_cosines(backend, size):
    fit = lfm_np.sgd if backend == "numba" else require("torch") and lfm_np.torch_backend.sgd
    X = matrix(1.0, np.float32)
    U, V = (np.ones((rows, 2), np.float32) for rows in X.shape)
    V[3] *= np.float32(size)
    U[0] = 0
    with pytest.raises(ValueError, match="got others in V, first in row 3"):
        fit(X, losses.CosineContrastive(), factors=2, epochs=1, init=(U, V))


def test_explain_says_what_overflows():
    X = matrix(1.0, np.float64)
    factors = lfm_np.Factors(np.zeros((12, 2)), np.full((9, 2), 1e160))
    user = int(np.flatnonzero(np.diff(X.indptr))[0])
    asked = {"weighting": "ratings", "regularization": 1.0, "regularization_exponent": 0.0}
    with pytest.raises(lfm_np.SolverError, match="overflow"):
        factors.explain(user, 0, X, **asked)


def test_losses_far_out_keep_their_digits():
    softmax, scores = losses.SampledSoftmax(), np.array([0.0, 1.0])
    expected = math.exp(-50) * (1 + math.e)
    assert softmax.value(50.0, scores) == pytest.approx(expected, rel=1e-12, abs=0.0)
    torch = require("torch")
    from lfm_np.losses.protocol import read
    from lfm_np.torch_backend.losses import evaluate

    given = torch.tensor([[50.0, 0.0, 1.0]], dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    assert evaluate(softmax, read(softmax), *given)[0].item() == pytest.approx(expected, rel=1e-12, abs=0.0)
    given = torch.tensor([[100.0, -100.0]], dtype=torch.float64), given[1]
    slopes = evaluate(losses.Logistic(), read(losses.Logistic()), *given)[1]
    assert slopes[0].tolist() == pytest.approx([-math.exp(-100), math.exp(-100)], rel=1e-12, abs=0.0)


@pytest.mark.parametrize(("user", "item"), [(1e-163, 1e153), (1e153, 1e-163), (1e-160, 1e150)])
def test_the_objective_of_factors_of_very_different_sizes(user, item):
    factors = lfm_np.Factors(np.full((2, 2), user), np.full((3, 2), item))
    found = lfm_np.objective(sp.csr_array((2, 3)), factors, regularization=0.0)
    assert found == pytest.approx(6 * (2 * user * item) ** 2, rel=1e-9, abs=0.0)
