"""Small problems for the tests of `als`, and a fit with defaults that suit them."""

import numpy as np
import scipy.sparse as sp

import lfm_np


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


def all_cells_beside_a_large_weight(m):
    """A matrix without an empty cell, so that no α₀ matters, and arguments with α₀ ≫ c, which cancel c − α₀ + α₀."""
    X = sp.csr_array(np.random.default_rng(0).uniform(1, 5, (m, 20)))
    little = {"weighting": "confidence", "alpha": 1e-12, "regularization": 1e-13}
    return X, little | {"factors": 4, "iterations": 3, "init": start(X, 4), "unobserved_weight": 1e3}
