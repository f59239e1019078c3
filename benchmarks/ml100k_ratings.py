"""MovieLens-100k ratings on Surprise's five folds: RMSE and MAE of als with biases.

    LFM_NP_DATA=folder python -m benchmarks.ml100k_ratings

Every fold chooses its parameters on a tenth of its own training cells, then fits all of them. Scores are clipped to
1 … 5. Surprise's own figures on these folds: SVD 0.934 / 0.737, SVD++ 0.919 / 0.721, baseline 0.944 / 0.748.
"""

from __future__ import annotations

import argparse
import itertools

import numpy as np

import lfm_np

GRID = [
    {"factors": k, "regularization_exponent": exponent, "regularization": value}
    for k, (exponent, values) in itertools.product(
        (20, 50, 100), [(1.0, (0.08, 0.1, 0.12, 0.15)), (0.5, (0.7, 1.0, 1.5))]
    )
    for value in values
]


def folds():
    """(records, test positions of each of the five folds)."""
    records = lfm_np.datasets.movielens_records("100k")
    order = np.arange(len(records.users))
    np.random.RandomState(0).shuffle(order)
    return records, order.reshape(5, -1)


def errors(records, train, test, **parameters):
    """RMSE and MAE on the cells ``test`` of a model of the cells ``train``."""
    users, rows = np.unique(records.users, return_inverse=True)
    items, columns = np.unique(records.items, return_inverse=True)
    pairs = np.column_stack((rows, columns))
    X = lfm_np.to_csr(pairs[train], shape=(len(users), len(items)), values=records.values[train], duplicates="error")
    factors = lfm_np.als(X, weighting="ratings", biases=True, iterations=10, random_state=0, **parameters)
    difference = factors.scores(rows[test], columns[test]).clip(1, 5) - records.values[test]
    return float(np.sqrt(np.mean(difference**2))), float(np.mean(abs(difference)))


def choose(records, train, seed):
    """The point of the grid with the least RMSE on a tenth of ``train``."""
    held = np.random.default_rng(seed).permutation(len(train)) < len(train) // 10
    return min(GRID, key=lambda point: errors(records, train[~held], train[held], **point)[0])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folds", type=int, default=5, help="how many of the five")
    options = parser.parse_args()
    records, tests = folds()
    results = []
    for fold, test in enumerate(tests[: options.folds]):
        train = np.setdiff1d(np.arange(len(records.users)), test)
        parameters = choose(records, train, fold)
        results.append(errors(records, train, test, **parameters))
        print(f"fold {fold}: RMSE {results[-1][0]:.4f}, MAE {results[-1][1]:.4f} with {parameters}", flush=True)
    print("mean: RMSE {:.4f}, MAE {:.4f}".format(*np.mean(results, axis=0)))


if __name__ == "__main__":
    main()
