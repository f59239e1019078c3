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
        return function(*args, **keywords)
    except np.linalg.LinAlgError:
        raise
    except (lfm_np.SolverError, ValueError):
        return None


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
