"""als on real data, by published protocols. The figures to reach are those of other libraries and papers."""

import numpy as np
import pytest
from optional import require

import lfm_np


@pytest.mark.large
def test_movielens_1m_leave_one_out():
    """Rendle et al., "Revisiting iALS", report HR@10 0.731 and NDCG@10 0.453 at d = 192; NeuMF reached 0.673, 0.401."""
    require("data", "ml-1m.npz")
    split = lfm_np.datasets.movielens_split("1m", "ncf")
    found = []
    for seed in range(3):
        factors = lfm_np.als(
            split.train.binarize().matrix,
            factors=192,
            weighting="ials",
            regularization=0.007,
            unobserved_weight=0.3,
            regularization_exponent=1.0,
            iterations=12,
            solver="exact",
            random_state=seed,
        )
        values = lfm_np.evaluate(
            factors, split.train.matrix, split.test.matrix, ("hit_rate@10", "ndcg@10"), negatives=split.negatives
        )
        found.append((values["hit_rate@10"], values["ndcg@10"]))
    hit_rate, ndcg = np.mean(found, axis=0)
    assert hit_rate >= 0.728
    assert ndcg >= 0.450


def test_movielens_100k_ratings():
    """Surprise's folds, where its SVD++ has RMSE 0.919. The grid search is `python -m benchmarks.ml100k_ratings`."""
    require("data", "ml-100k.npz")
    ml100k = pytest.importorskip("benchmarks.ml100k_ratings", reason="the checkout has no benchmarks/")
    records, tests = ml100k.folds()
    parameters = {"factors": 50, "regularization_exponent": 0.5, "regularization": 1.5}
    cells = np.arange(len(records.users))
    errors = [ml100k.errors(records, np.setdiff1d(cells, test), test, **parameters) for test in tests]
    assert np.mean(errors, axis=0)[0] <= 0.925
