"""The half-sweeps and the objective of als once more: float64, dense, every row by numpy.linalg.lstsq."""

from __future__ import annotations

from typing import Any

import numpy as np

from .case import Case, Either, Holds, raises

BAD = (TypeError, ValueError)


def cells(X: Any) -> tuple[np.ndarray, np.ndarray]:
    """Values (0 where there is none) and the mask of stored cells; duplicates are summed."""
    coo = X.tocoo() if hasattr(X, "tocoo") else X
    values, mask = np.zeros(coo.shape), np.zeros(coo.shape, bool)
    for i, j, x in zip(coo.row.tolist(), coo.col.tolist(), coo.data.tolist()):
        values[i, j] += x
        mask[i, j] = True
    return values, mask


def weigh(X: Any, weighting: str, alpha: float = 1.0, a0: float | None = None) -> tuple[np.ndarray, ...]:
    """Confidence and target of every cell, the mask of those that count as stored, and α₀."""
    values, mask = cells(X)
    a0 = (0.0 if weighting == "ratings" else 1.0) if a0 is None else a0
    if weighting != "ratings":
        mask &= values != 0
    stored = {
        "hu-koren": lambda x: (1 + alpha * x, np.ones_like(x)),
        "ials": lambda x: (a0 + alpha * x, alpha * x / np.maximum(a0 + alpha * x, 1e-300)),
        "confidence": lambda x: (alpha * x, np.ones_like(x)),
        "ratings": lambda x: (np.ones_like(x), x),
    }
    c, p = stored[weighting](values)
    return np.where(mask, c, a0), np.where(mask, p, 0.0), mask, np.float64(a0)


def penalties(mask: np.ndarray, a0: float, lam: float, nu: float) -> np.ndarray:
    return lam * (mask.sum(1) + a0 * mask.shape[1]) ** nu


def half(c: np.ndarray, p: np.ndarray, lam: np.ndarray, Y: np.ndarray) -> np.ndarray:
    rows = []
    for weights, targets, held in zip(c, p, lam):
        A = np.vstack([np.sqrt(weights)[:, None] * Y, np.sqrt(held) * np.eye(Y.shape[1])])
        b = np.concatenate([np.sqrt(weights) * targets, np.zeros(Y.shape[1])])
        rows.append(np.linalg.lstsq(A, b, rcond=None)[0])
    return np.array(rows)


def sweeps(
    X: Any, V: Any, count: int = 1, weighting: str = "hu-koren", lam: float = 0.01, nu: float = 0.0, **words: Any
) -> tuple[np.ndarray, np.ndarray, float]:
    """U, V and the objective after so many sweeps from these item factors."""
    with np.errstate(all="ignore"):
        c, p, mask, a0 = weigh(X, weighting, **words)
        lam_u, lam_i = penalties(mask, a0, lam, nu), penalties(mask.T, a0, lam, nu)
        V = np.asarray(V, float)
        for _ in range(count):
            U = half(c, p, lam_u, V)
            V = half(c.T, p.T, lam_i, U)
        return U, V, cost(c, p, lam_u, lam_i, U, V)


def cost(c: Any, p: Any, lam_u: Any, lam_i: Any, U: np.ndarray, V: np.ndarray) -> float:
    loss = (c * (p - U @ V.T) ** 2).sum()
    return float(loss + (lam_u * (U**2).sum(1)).sum() + (lam_i * (V**2).sum(1)).sum())


def biased_sweep(X: Any, V: Any, lam: float, nu: float, count: int = 1) -> np.ndarray:
    """Predicted ratings after so many sweeps of biases and factors, from item factors and no biases."""
    values, mask = cells(X)
    mean = values[mask].mean()
    lam_u, lam_i = penalties(mask, 0.0, lam, nu), penalties(mask.T, 0.0, lam, nu)
    V = np.column_stack([np.asarray(V, float), np.zeros(mask.shape[1])])
    c = mask.astype(float)
    for _ in range(count):
        U = half(c, np.where(mask, values - mean - V[:, -1], 0), lam_u, np.column_stack([V[:, :-1], np.ones(len(V))]))
        V = half(
            c.T, np.where(mask, values - mean - U[:, [-1]], 0).T, lam_i, np.column_stack([U[:, :-1], np.ones(len(U))])
        )
    return mean + U[:, [-1]] + V[:, -1] + U[:, :-1] @ V[:, :-1].T


def scores(factors: Any) -> np.ndarray:
    """All scores in float64."""
    with np.errstate(all="ignore"):
        found = np.asarray(factors.user_factors, float) @ np.asarray(factors.item_factors, float).T
        if factors.user_bias is not None:
            found += np.asarray(factors.user_bias, float)[:, None]
        if factors.item_bias is not None:
            found += np.asarray(factors.item_bias, float)
        return found + (factors.global_bias or 0.0)


def near(found: Any, expected: Any, rtol: float) -> bool:
    """Apart by no more than that share of the largest number."""
    found, expected = np.asarray(found, float), np.asarray(expected, float)
    if found.shape != expected.shape or not np.isfinite(found).all():
        return False
    return bool(np.abs(found - expected).max(initial=0) <= rtol * max(np.abs(expected).max(initial=0), 1e-300))


class Heading:
    """Cases of one heading: ``call(**make())`` beside what must come of it."""

    def __init__(self, name: str):
        self.name = name

    def right(self, name: str, call: Any, true: Any, make: Any = dict) -> Case:
        return Case(f"{self.name}: {name}", call, Holds(lambda result, **given: bool(true(result, **given))), make)

    def refused(self, name: str, call: Any, *words: str, make: Any = dict, kind: Any = BAD) -> Case:
        return Case(f"{self.name}: {name}", call, raises(kind, *words), make)

    def either(self, name: str, call: Any, true: Any, *words: str, make: Any = dict, kind: Any = BAD) -> Case:
        holds = Holds(lambda result, **given: bool(true(result, **given)))
        return Case(f"{self.name}: {name}", call, Either(holds, raises(kind, *words)), make)
