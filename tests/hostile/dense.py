"""Dense float64 loops, written from the documentation, by which cases judge results; nothing of lfm_np in here."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import scipy.sparse as sp


def grid(X: Any) -> tuple[np.ndarray, np.ndarray]:
    """Values and a mask of what is stored, zeros included."""
    coo = sp.coo_array(X)
    values, stored = np.zeros(coo.shape), np.zeros(coo.shape, bool)
    np.add.at(values, (coo.row, coo.col), coo.data.astype(float))
    stored[coo.row, coo.col] = True
    return values, stored


def confidences(
    values: np.ndarray, stored: np.ndarray, weighting: str, alpha: float, unobserved: float
) -> tuple[np.ndarray, np.ndarray]:
    """c and p of every cell."""
    ax = alpha * values
    c = {
        "hu-koren": 1 + ax,
        "ials": unobserved + ax,
        "confidence": ax,
        "ratings": np.ones_like(ax),
    }[weighting]
    p = np.ones_like(ax)
    if weighting == "ials":
        p = np.divide(ax, c, out=np.zeros_like(ax), where=c != 0)
    if weighting == "ratings":
        p = values
    return np.where(stored, c, unobserved), np.where(stored, p, 0.0)


def penalties(stored: np.ndarray, regularization: float, unobserved: float, exponent: float) -> np.ndarray:
    return regularization * (stored.sum(1) + unobserved * stored.shape[1]) ** float(exponent)


def solved(
    values: np.ndarray,
    stored: np.ndarray,
    Y: np.ndarray,
    *,
    weighting: str = "hu-koren",
    alpha: float = 1.0,
    unobserved_weight: float | None = None,
    regularization: float = 0.01,
    regularization_exponent: float = 0.0,
    offset: np.ndarray | None = None,
) -> np.ndarray:
    """The minimum of every row, 0 where nothing decides; with ``offset``, known of scores, first the row's bias."""
    unobserved = float(weighting != "ratings") if unobserved_weight is None else unobserved_weight
    C, P = confidences(values, stored, weighting, alpha, unobserved)
    if offset is not None:
        Y, P = np.hstack([np.ones((len(Y), 1)), Y]), P - offset
    rows = np.zeros((len(values), Y.shape[1]))
    for u, penalty in enumerate(penalties(stored, regularization, unobserved, regularization_exponent)):
        A = (Y.T * C[u]) @ Y + penalty * np.eye(Y.shape[1])
        if A.any():
            rows[u] = np.linalg.solve(A, Y.T @ (C[u] * P[u]))
    return rows


def objective(
    X: Any,
    U: np.ndarray,
    V: np.ndarray,
    *,
    weighting: str = "hu-koren",
    alpha: float = 1.0,
    unobserved_weight: float | None = None,
    regularization: float = 0.01,
    regularization_exponent: float = 0.0,
    constant: np.ndarray | float = 0.0,
    biases: tuple[np.ndarray, np.ndarray] | None = None,
) -> float:
    """J, cell by cell."""
    values, stored = grid(X)
    unobserved = float(weighting != "ratings") if unobserved_weight is None else unobserved_weight
    C, P = confidences(values, stored, weighting, alpha, unobserved)
    S = U.astype(float) @ V.astype(float).T + constant
    users = (U.astype(float) ** 2).sum(1)
    items = (V.astype(float) ** 2).sum(1)
    if biases is not None:
        S = S + biases[0][:, None] + biases[1][None, :]
        users, items = users + biases[0] ** 2, items + biases[1] ** 2
    paid = penalties(stored, regularization, unobserved, regularization_exponent) @ users
    paid += penalties(stored.T, regularization, unobserved, regularization_exponent) @ items
    return float((C * (P - S) ** 2).sum() + paid)


def sweep(X: Any, V: np.ndarray, **parameters: Any) -> tuple[np.ndarray, np.ndarray]:
    """Users from V, then items from the new users."""
    values, stored = grid(X)
    U = solved(values, stored, V, **parameters)
    return U, solved(values.T, stored.T, U, **parameters)


def best(scores: np.ndarray, allowed: np.ndarray, N: int) -> list[int]:
    """The N best allowed, the lower id first where scores are equal, padded by -1."""
    order = sorted(np.flatnonzero(allowed).tolist(), key=lambda item: (-scores[item], item))[:N]
    return order + [-1] * (N - len(order))


def measured(scores: np.ndarray, candidates: np.ndarray, relevant: np.ndarray, metric: str) -> float:
    """A metric of one user; NaN where it has none."""
    order = best(scores, candidates, int(candidates.sum()))
    ranks = [rank for rank, item in enumerate(order, 1) if relevant[item]]
    name, _, cut = metric.partition("@")
    k, t = int(cut) if cut else len(order), len(ranks)
    hits = [rank for rank in ranks if rank <= k]
    gains = sum(1 / math.log2(rank + 1) for rank in hits)
    if name == "auc":
        others = [scores[item] for item in order if not relevant[item]]
        pairs = [(scores[i] > s) + (scores[i] == s) / 2 for i in order if relevant[i] for s in others]
        return sum(pairs) / len(pairs) if pairs else math.nan
    return {
        "recall": len(hits) / t,
        "capped_recall": len(hits) / min(k, t),
        "precision": len(hits) / k,
        "hit_rate": float(bool(hits)),
        "ndcg": gains / sum(1 / math.log2(j + 1) for j in range(1, min(k, t) + 1)),
        "map": sum(j / rank for j, rank in enumerate(hits, 1)) / min(k, t),
        "mrr": 1 / hits[0] if hits else 0.0,
    }[name]


def near(found: Any, expected: Any, relative: float = 1e-9) -> bool:
    """Whether two arrays agree, relative to the largest entry expected."""
    found, expected = np.asarray(found, float), np.asarray(expected, float)
    if found.shape != expected.shape or not np.isfinite(found).all():
        return False
    largest = float(np.abs(expected).max(initial=0.0))
    return bool(np.abs(found - expected).max(initial=0.0) <= relative * max(largest, 1e-300))
