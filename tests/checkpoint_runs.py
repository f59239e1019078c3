"""Fits that checkpoints are tested with: every solver, weighting, schedule and backend, on one small matrix."""

from contextlib import nullcontext

import numpy as np
import scipy.sparse as sp
from model_files import assert_equal as assert_same_model
from optional import require

import lfm_np
from lfm_np import losses, row_plan, sampling

SEED = 3


def matrix(m=60, n=40, seed=0, values=(0.5, 1.0, 3.0)):
    """Rows of 0 to 20 cells and one of all; an empty column."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, 21, m)
    lengths[1] = n - 1
    rows = np.repeat(np.arange(m), lengths)
    columns = np.concatenate([rng.choice(n - 1, length, replace=False) for length in lengths])
    return sp.csr_array((rng.choice(values, len(rows)), (rows, columns)), shape=(m, n))


X = matrix()
ALS = [
    {"weighting": "hu-koren", "solver": "exact"},
    {"weighting": "ials", "unobserved_weight": 0.1, "regularization_exponent": 1.0, "dtype": "float64"},
    {"weighting": "confidence", "alpha": 10.0, "factors": 17},
    {"weighting": "ials", "solver": "cg", "factors": 17},
    {"weighting": "ratings", "solver": "subspace", "factors": 40, "biases": True},
    {"weighting": "ratings"},
    {"weighting": "ratings", "biases": True, "dtype": "float64"},
    {"weighting": "ratings", "biases": True, "factors": 16},
]
SGD = [
    {"schedule": "constant"},
    {"schedule": "inverse", "loss": losses.WARP(), "biases": "item"},
    {"schedule": "adagrad", "biases": True, "loss": losses.Logistic(), "negatives": 3, "dtype": "float64"},
    {"schedule": "adagrad", "loss": losses.SampledSoftmax(), "negatives": 4, "sampler": sampling.Popularity()},
    {"schedule": "adagrad", "loss": losses.BPR(), "sampler": sampling.Hard(3)},
    {"schedule": "constant", "loss": losses.Squared(), "sampler": None, "biases": True},
]


def fit(name, sweeps, X=X, **options):
    """``name``: als or sgd, here or in the torch backend."""
    backend, _, solver = name.rpartition(".")
    if backend:
        require("torch")
    function = getattr(getattr(lfm_np, backend) if backend else lfm_np, solver)
    count = "iterations" if solver == "als" else "epochs"
    steps = row_plan.every_row_steps(width=16) if options.get("solver") in row_plan.STEP_COSTS else nullcontext()
    threads = 1 if backend else None  # torch rounds by their number
    with steps:
        return function(X, **{"factors": 5, "random_state": SEED, "num_threads": threads, count: sweeps} | options)


def assert_same_fit(a, b):
    """All bits, and all records but for the time they took."""
    untimed = [[{k: v for k, v in record.items() if k != "seconds"} for record in f.history] for f in (a, b)]
    assert untimed[0] == untimed[1]
    assert a.params == b.params
    plain = [lfm_np.Factors(**{n: getattr(f, n) for n in NAMES}, status=f.status) for f in (a, b)]
    assert_same_model(*plain)


NAMES = ("user_factors", "item_factors", "user_bias", "item_bias", "global_bias")
