"""What users of other libraries expected, computed densely in float64; nothing here is of lfm_np."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import scipy.sparse as sp


def tastes(m: int = 30, n: int = 20, seed: int = 0, high: int = 5) -> sp.csr_array:
    """Counts from 1 to ``high`` in about a third of the cells, every row and column with some."""
    rng = np.random.default_rng(seed)
    stored = rng.random((m, n)) < 0.3
    stored[np.arange(m), np.arange(m) % n] = True
    return sp.csr_array(np.where(stored, rng.integers(1, high + 1, (m, n)), 0).astype(np.float32))


def start(X: Any, k: int, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(0, 0.3, (X.shape[0], k)), rng.normal(0, 0.3, (X.shape[1], k))


def table(X: Any) -> tuple[np.ndarray, np.ndarray]:
    """Values and which cells are stored, stored zeros among them."""
    cells = sp.coo_array(X)
    values, stored = np.zeros(X.shape), np.zeros(X.shape, bool)
    for i, j, x in zip(cells.row.tolist(), cells.col.tolist(), cells.data.tolist(), strict=True):
        values[i, j] += x
        stored[i, j] = True
    return values, stored


def weighed(X: Any, weighting: str, alpha: float, a0: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Confidences and targets of all cells, and which are stored."""
    x, stored = table(X)
    if weighting == "ratings":
        return stored.astype(float), x, stored
    c = {"hu-koren": 1 + alpha * x, "ials": a0 + alpha * x, "confidence": alpha * x}[weighting]
    p = np.divide(alpha * x, c, out=np.zeros_like(c), where=c > 0) if weighting == "ials" else np.ones_like(x)
    return np.where(stored, c, a0), np.where(stored, p, 0.0), stored


def rows(c: np.ndarray, p: np.ndarray, Y: np.ndarray, strength: np.ndarray) -> np.ndarray:
    """The least squares of every row, one after the other."""
    eye = np.eye(Y.shape[1])
    return np.array(
        [np.linalg.solve((Y.T * w) @ Y + s * eye, Y.T @ (w * t)) for w, t, s in zip(c, p, strength, strict=True)]
    )


def sweeps(
    X: Any,
    V: np.ndarray,
    count: int,
    lam: float,
    nu: float = 0.0,
    weighting: str = "hu-koren",
    alpha: float = 1.0,
    a0: float | None = None,
) -> tuple[np.ndarray, np.ndarray, float]:
    """Factors and objective after so many sweeps, users first."""
    a0 = (0.0 if weighting == "ratings" else 1.0) if a0 is None else a0
    c, p, stored = weighed(X, weighting, alpha, a0)
    of_users = lam * (stored.sum(1) + a0 * X.shape[1]) ** nu
    of_items = lam * (stored.sum(0) + a0 * X.shape[0]) ** nu
    with np.errstate(under="ignore"):  # of strengths like 1e30
        for _ in range(count):
            U = rows(c, p, V, of_users)
            V = rows(c.T, p.T, U, of_items)
        J = (c * (p - U @ V.T) ** 2).sum() + of_users @ (U**2).sum(1) + of_items @ (V**2).sum(1)
    return U, V, float(J)


def near(found: Any, expected: Any, relative: float = 1e-8) -> bool:
    found, expected = np.asarray(found, float), np.asarray(expected, float)
    return found.shape == expected.shape and bool(
        np.abs(found - expected).max(initial=0) <= relative * max(1.0, np.abs(expected).max(initial=0))
    )


def best(scores: np.ndarray, allowed: np.ndarray, N: int) -> list[int]:
    """Allowed items by falling score, the lower id first, padded with -1."""
    order = sorted(np.flatnonzero(allowed).tolist(), key=lambda i: (-scores[i], i))[:N]
    return order + [-1] * (N - len(order))


def metric(name: str, order: list[int], relevant: set[int]) -> float:
    """One metric of one ranked list of all candidates, by its definition."""
    kind, _, at = name.partition("@")
    k = int(at) if at else len(order)
    ranks = [r for r, item in enumerate(order, 1) if item in relevant]
    h, t = sum(r <= k for r in ranks), len(ranks)
    if kind == "auc":
        others = [r for r, item in enumerate(order, 1) if item not in relevant]
        return sum(r < o for r in ranks for o in others) / (len(ranks) * len(others)) if others else math.nan
    if kind == "ndcg":
        gain = sum(1 / math.log2(r + 1) for r in ranks[:h])
        return gain / sum(1 / math.log2(j + 1) for j in range(1, min(k, t) + 1))
    return {
        "recall": h / t,
        "capped_recall": h / min(k, t),
        "precision": h / k,
        "hit_rate": float(h > 0),
        "map": sum(j / r for j, r in enumerate(ranks[:h], 1)) / min(k, t),
        "mrr": 1 / ranks[0] if ranks[0] <= k else 0.0,
    }[kind]


def evaluated(scores: np.ndarray, train: Any, test: Any, names: list[str]) -> dict[str, float]:
    """Means over the users that have test items among their candidates; no two scores are equal."""
    seen = np.zeros(scores.shape, bool) if train is None else table(train)[0] != 0
    wanted = table(test)[0] != 0
    found: dict[str, list[float]] = {name: [] for name in names}
    for u, row in enumerate(scores):
        relevant = set(np.flatnonzero(wanted[u] & ~seen[u]).tolist())
        if relevant:
            order = best(row, ~seen[u], int((~seen[u]).sum()))
            for name in names:
                found[name].append(metric(name, order, relevant))
    result: dict[str, float] = {"users": max(map(len, found.values()))}
    for name, values in found.items():
        known = [value for value in values if not math.isnan(value)]
        result[name] = sum(known) / len(known)
    return result
