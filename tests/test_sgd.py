import itertools

import numpy as np
import oracles_sgd
import pytest
import scipy.sparse as sp

import lfm_np
from lfm_np import losses, sampling, sgd_grid

LOSSES = {
    "Squared": losses.Squared(),
    "Logistic": losses.Logistic(weighted=True),
    "Hinge": losses.Hinge(),
    "Poisson": losses.Poisson(),
    "BPR": losses.BPR(),
    "MarginHinge": losses.MarginHinge(0.5, weighted=True),
    "WARP": losses.WARP(0.3, trials=5),
    "SampledSoftmax": losses.SampledSoftmax(0.7),
    "CosineContrastive": losses.CosineContrastive(0.1, 2.0),
}
SAMPLERS = {
    "Uniform": sampling.Uniform(),
    "Popularity": sampling.Popularity(0.75),
    "Hard": sampling.Hard(3),
    None: None,
}


@pytest.fixture
def blocks(monkeypatch):
    """Set G, which the size of the data would choose."""
    return lambda G: monkeypatch.setattr(sgd_grid, "blocks_for", lambda stored, items, draws: G)


def matrix(m=13, n=24, density=0.3, seed=0):
    """Counts, with an empty row, an empty column and a full row."""
    rng = np.random.default_rng(seed)
    dense = rng.integers(1, 5, (m, n)) * (rng.random((m, n)) < density)
    dense[1], dense[:, 2], dense[3] = 0, 0, 2
    return sp.csr_array(dense.astype(np.float64))


def as_rows(X):
    return [dict(zip(X.indices[a:b].tolist(), X.data[a:b].tolist())) for a, b in itertools.pairwise(X.indptr)]


def seed_of(random_state):
    return int(np.random.default_rng(random_state).integers(2**62))


def assert_like_oracle(X, name, sampler, G, schedule, negatives, biases, epochs=2):
    options = {"user": 0.03, "item": 0.02, "negative": 0.01, "bias": 0.04}
    factors = lfm_np.sgd(
        X, LOSSES[name], sampler=SAMPLERS[sampler], negatives=negatives, factors=3, learning_rate=0.1, epochs=epochs,
        schedule=schedule, regularization=options, biases=biases, dtype=np.float64, random_state=5, num_threads=2,
    )  # fmt: skip
    loss = LOSSES[name]
    fields = {field: getattr(loss, field) for field in getattr(type(loss), "__dataclass_fields__", ())}
    run = oracles_sgd.Run(
        as_rows(X), X.shape[1], name, fields, seed_of(5), G, sampler=sampler, candidates=3 if sampler == "Hard" else 1,
        negatives=negatives if sampler else 0, schedule=schedule, biases=biases, mean=factors.global_bias or 0.0,
        **options,
    )  # fmt: skip
    for record in factors.history:
        total = run.epoch(record["iteration"])
        assert record["sampled_loss"] == pytest.approx(total / X.nnz, rel=1e-10)
    U, V = run.U, run.V
    if name == "CosineContrastive":
        U, V = (W / np.maximum(np.linalg.norm(W, axis=1), 1e-300)[:, None] for W in (U, V))
    np.testing.assert_allclose(factors.user_factors @ factors.item_factors.T, U @ V.T, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(np.linalg.norm(factors.item_factors, axis=1), np.linalg.norm(V, axis=1), atol=1e-10)
    if biases:
        np.testing.assert_allclose(factors.item_bias, run.bi, rtol=1e-10, atol=1e-10)
    if biases is True:
        np.testing.assert_allclose(factors.user_bias, run.bu, rtol=1e-10, atol=1e-10)


@pytest.mark.small
@pytest.mark.parametrize("schedule", ["constant", "inverse", "adagrad"])
@pytest.mark.parametrize(
    ("name", "sampler"),
    [(n, s) for n in LOSSES for s in SAMPLERS if s or n in ("Squared", "Logistic", "Hinge", "Poisson")],
)
def test_epochs_equal_the_oracle(blocks, name, sampler, schedule):
    """Every loss × sampler × update, replayed draw by draw in plain Python."""
    blocks(2)
    negatives = 1 if name == "WARP" else 2
    biases = False if name == "CosineContrastive" else {"constant": True, "inverse": "item", "adagrad": True}[schedule]
    assert_like_oracle(matrix(), name, sampler, 2, schedule, negatives, biases)


@pytest.mark.small
@pytest.mark.parametrize("G", [1, 2, 4])
@pytest.mark.parametrize("name", ["BPR", "Logistic", "SampledSoftmax"])
def test_epochs_equal_the_oracle_on_any_grid(blocks, name, G):
    blocks(G)
    assert_like_oracle(matrix(30, 40), name, "Uniform", G, "constant", 1, False)
