"""The solvers of lfm_np in the words of `problems`, and an oracle that knows nothing of their code."""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np

import lfm_np

from .problems import Solver

NAMES = {
    "factors": "factors",
    "regularization": "regularization",
    "iterations": "iterations",
    "threads": "num_threads",
    "seed": "random_state",
}


def parts(factors: lfm_np.Factors) -> tuple[np.ndarray, np.ndarray]:
    return factors.user_factors.astype(np.float64), factors.item_factors.astype(np.float64)


def minimises(X: Any, words: dict[str, Any], U: np.ndarray, V: np.ndarray) -> bool:
    """Whether every row of V solves its normal equations given U, up to rounding in float32 (Hu-Koren, α₀ = 1).

    The backward error ‖Av − b‖ / (‖A‖‖v‖ + ‖b‖), which is small for any stable solution, however ill-conditioned.
    """
    dense = X.toarray().astype(np.float64)
    for i, v in enumerate(V):
        x = dense[:, i]
        c = np.where(x > 0, 1 + float(words["alpha"]) * x, 1.0)
        A = (U.T * c) @ U + float(words["regularization"]) * np.eye(U.shape[1])
        b = U.T @ np.where(x > 0, c, 0.0)
        bound = np.linalg.norm(A, 2) * np.linalg.norm(v) + np.linalg.norm(b)
        if (x > 0).any() and np.linalg.norm(A @ v - b) > 2e-4 * bound + 1e-30:
            return False
    return True


def solvers() -> list[Solver]:
    als_names = NAMES | {"alpha": "alpha"}
    sgd_names = NAMES | {"iterations": "epochs"}
    found = [Solver("als", _als(lfm_np), als_names, minimises), Solver("sgd", _sgd(lfm_np), sgd_names, diverges=_steep)]
    if importlib.util.find_spec("torch"):
        side = lfm_np.torch_backend
        found += [
            Solver("torch als", _als(side), als_names, minimises),
            Solver("torch sgd", _sgd(side), sgd_names, diverges=_steep),
        ]
    return found


def _steep(words: dict[str, Any]) -> bool:
    """learning_rate · λ > 2: plain gradient descent on the penalty diverges."""
    return float(words.get("regularization", 0)) > 1e6


def _als(module: Any) -> Any:
    def fit(X: Any, **words: Any) -> tuple[np.ndarray, np.ndarray]:
        return parts(module.als(X, **{NAMES.get(word, word): value for word, value in words.items()}))

    return fit


def _sgd(module: Any) -> Any:
    def fit(X: Any, **words: Any) -> tuple[np.ndarray, np.ndarray]:
        names = NAMES | {"iterations": "epochs"}
        return parts(module.sgd(X, **{names[word]: value for word, value in words.items()}))

    return fit
