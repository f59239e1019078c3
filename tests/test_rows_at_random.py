"""Rows of numbers of every size against least squares in float64: what no example thought of."""

import importlib

import numpy as np
import oracles_als as oracle
import pytest
import scipy.sparse as sp
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from optional import require
from strategies import examples

import lfm_np
from lfm_np.half_sweep import PIVOT_LOSS

EPS = np.finfo(np.float64).eps
# Of ‖t‖. What float64 solves may lose digits so far (docs/als_performance.md); of float32, 0.3 % is the most that was
# seen in 150,000 rows.
ALLOWED = {np.float32: 1e-2, np.float64: PIVOT_LOSS}


def log_uniform(rng, low, high):
    return float(10 ** rng.uniform(low, high))


def item_factors(rng, n, k):
    """Also all the same, of rows or columns of very different sizes, positive, or nearly the same twice."""
    V = rng.standard_normal((n, k)) * log_uniform(rng, -4, 3)
    kind = rng.integers(6)
    if kind == 1:
        V[:] = V[0]
    elif kind == 2:
        V *= np.exp(rng.uniform(-6, 6, (n, 1)))
    elif kind == 3:
        V *= np.exp(rng.uniform(-6, 6, (1, k)))
    elif kind == 4:
        V = np.abs(V)
    elif kind == 5:
        V[n // 2 :] = V[: n - n // 2] * (1 + 1e-6)
    return V


def cells(rng, rows, n):
    """Few or all; ones, ratings, or values over seven orders of magnitude; times anything from 1e-6 to 1e7."""
    X = sp.csr_array(np.float64(rng.random((rows, n)) < rng.choice([0.05, 0.2, 0.6, 1.0])))
    make = (
        np.ones_like,
        lambda values: rng.random(len(values)) + 0.01,
        lambda values: np.exp(rng.uniform(-8, 8, len(values))),
        lambda values: rng.integers(1, 6, len(values)),
    )[rng.integers(4)]
    X.data[:] = make(X.data) * log_uniform(rng, -6, 7)
    return X


def model(rng):
    weighting = str(rng.choice(["hu-koren", "ials", "confidence", "ratings"]))
    a0 = 0.0 if weighting == "ratings" else rng.choice([1.0, log_uniform(rng, -6, 6)])
    return {
        "weighting": weighting,
        "unobserved_weight": float(a0),
        "alpha": log_uniform(rng, -6, 6),
        "regularization": log_uniform(rng, -8, 8),
        "regularization_exponent": float(rng.choice([0.0, 0.5, 1.0])),
    }


def least_squares(V, items, values, weighting, unobserved_weight, alpha, regularization, regularization_exponent):
    """(A, t): the row minimises ‖Ax − t‖, without a product of which digits could cancel."""
    c, p = {
        "hu-koren": lambda x: (1 + alpha * x, np.ones_like(x)),
        "ials": lambda x: (unobserved_weight + alpha * x, alpha * x / (unobserved_weight + alpha * x)),
        "confidence": lambda x: (alpha * x, np.ones_like(x)),
        "ratings": lambda x: (np.ones_like(x), x),
    }[weighting](values)
    lam = regularization * (len(values) + unobserved_weight * len(V)) ** regularization_exponent
    others = np.delete(V, items, axis=0)
    A = np.concatenate(
        (np.sqrt(c)[:, None] * V[items], np.sqrt(unobserved_weight) * others, np.sqrt(lam) * np.eye(V.shape[1]))
    )
    return A, np.concatenate((np.sqrt(c) * p, np.zeros(len(A) - len(c))))


def assert_solves(x, A, t, dtype, turned=False):
    """x minimises ‖Ax − t‖; rounded to its dtype element by element, or ``turned`` to another basis before."""
    if not t.any():
        assert not x.any()
        return
    best, _, _, singular_values = np.linalg.lstsq(A, t, rcond=None)
    condition = singular_values[0] / singular_values[-1]
    terms = np.linalg.norm(A) * np.linalg.norm(best) if turned else np.linalg.norm(np.abs(A) @ np.abs(best))
    represented = 30 * np.finfo(dtype).eps * terms
    allowed = (ALLOWED[dtype] + 20 * EPS * condition**2) * np.linalg.norm(t) + represented
    assert np.linalg.norm(A @ (x - best)) < allowed


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@given(seed=st.integers(0, 2**32 - 1))
@example(seed=1599)  # ratings of millions: factors were wrong by 10⁹ and, in float64, by 3 %
@example(seed=2115)
@example(seed=2356)
@example(seed=170)  # cells of far less weight than empty ones
@example(seed=2350)
@examples(400)
def test_rows_are_the_least_squares_solution(dtype, seed):
    rng = np.random.default_rng(seed)
    n, k = int(rng.integers(1, 60)), int(rng.choice([1, 2, 3, 5, 8, 16, 17, 33, 64]))
    V, X, asked = item_factors(rng, n, k).astype(dtype), cells(rng, 6, n).astype(dtype), model(rng)
    factors = lfm_np.Factors(np.zeros((1, k), dtype), V)
    found = factors.fold_in_users(X, num_threads=1, **asked).user_factors.astype(np.float64)
    for row, x in enumerate(found):
        own = slice(X.indptr[row], X.indptr[row + 1])
        A, t = least_squares(V.astype(np.float64), X.indices[own], X.data[own].astype(np.float64), **asked)
        assert_solves(x, A, t, dtype)


def fit(name, eager):
    """A solver by name, and whether it solves rows exactly."""
    where, _, solver = name.partition(" ")
    if where == "distributed":
        return (lambda X, **asked: eager(X, shards=2, **asked)), True
    if where == "torch":
        require("torch")
        return importlib.import_module("lfm_np.torch_backend").als, not solver
    return lfm_np.als, solver == "exact"


def random_fit(name, eager, seed, dtype):
    """Factors, X and what was asked; the factors None where the solver refuses to go on, as those of Numba never do."""
    als, exact = fit(name, eager)
    rng = np.random.default_rng(seed)
    (m, n), k = rng.integers(1, 40, 2).tolist(), int(rng.choice([1, 2, 3, 5, 8, 16, 17, 33]))
    V, X, asked = item_factors(rng, n, k).astype(dtype), cells(rng, m, n).astype(dtype), model(rng)
    solver = {"solver": name.split(" ")[-1]} if " " in name else {}
    options = {"factors": k, "iterations": 1 if exact else 4, "dtype": dtype, "init": (np.zeros((m, k), dtype), V)}
    try:
        return als(X, **options, **solver, **asked), X, asked
    except lfm_np.SolverError:
        assert "numba" not in name
        return None, X, asked


def objective_of(factors, X, weighting, alpha, unobserved_weight, regularization, regularization_exponent):
    """In float64 from every cell; with the confidences and the targets."""
    U, V = factors.user_factors.astype(np.float64), factors.item_factors.astype(np.float64)
    C, P, stored = oracle.dense_problem(X, weighting, alpha, unobserved_weight)
    lam = oracle.penalties(stored, regularization, regularization_exponent, unobserved_weight)
    return oracle.objective(C, P, *lam, U, V), C, P


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", ["numba exact", "numba cg", "numba subspace", "torch", "torch cg", "distributed"])
@given(seed=st.integers(0, 2**32 - 1))
@example(seed=10230)  # items' systems far too ill-conditioned for float32
@example(seed=10422)
@settings(examples(60), suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_fit_is_what_it_reports_and_its_items_are_least_squares_solutions(eager, name, dtype, seed):
    factors, X, asked = random_fit(name, eager, seed, dtype)
    if factors is None:
        return
    objective, C, P = objective_of(factors, X, **asked)
    U, V = factors.user_factors.astype(np.float64), factors.item_factors.astype(np.float64)
    eps, products = np.finfo(dtype).eps, np.outer(np.linalg.norm(U, axis=1), np.linalg.norm(V, axis=1)) ** 2
    scores = (C * products).sum() * (eps if name == "distributed" else 3 * eps**2)  # losses from sums, or cell by cell
    rounded = float(asked["unobserved_weight"] * products.sum() * eps + (C * P**2).sum() * eps + scores)
    assert abs(factors.history[-1]["objective"] - objective) <= 1e-2 * objective + 10 * rounded
    columns = sp.csr_array(X.T)
    for item, x in enumerate(V if fit(name, eager)[1] else ()):
        own = slice(columns.indptr[item], columns.indptr[item + 1])
        A, t = least_squares(U, columns.indices[own], columns.data[own].astype(np.float64), **asked)
        assert_solves(x, A, t, dtype, turned=True)


@pytest.mark.parametrize(
    ("name", "seed"),
    [
        ("numba cg", 10096),  # rows with all items, and next to no weight: it was below zero
        ("numba cg", 10599),
        ("torch cg", 10096),
        ("torch cg", 35),  # left out cells that weigh far less than empty ones
        ("torch", 10092),  # c, d and t of a cell were rounded each for itself
        ("torch", 10617),
    ],
)
def test_digits_of_an_objective_that_nearly_cancels(eager, name, seed):
    factors, X, asked = random_fit(name, eager, seed, np.float32)
    assert factors.history[-1]["objective"] == pytest.approx(objective_of(factors, X, **asked)[0], rel=1e-2)
