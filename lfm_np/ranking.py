"""Recommendations: the index over the items, the blocks of users, and the arguments of both."""

from __future__ import annotations

import numpy as np

from lfm_np.kernels import topk
from lfm_np.kernels.jit import Pool

USERS = 512  # users of a block


def build_index(model: topk.Model, candidates: np.ndarray, d: int = 0) -> topk.Index:
    """Order the candidate items by how high they can score, and sketch them in ``d`` directions."""
    V, bias = model.item_factors, model.item_bias
    n, k = V.shape
    directions, residual = leading_directions(V, candidates, d)
    slack = rounding_slack(V.dtype, k, d, residual)
    norms = np.empty(len(candidates))
    topk.row_norms(V, candidates, slack, norms)
    highest = bias[candidates].astype(np.float64)
    highest += slack[0] * np.abs(highest) + slack[1]
    pivot = typical_norm(model.user_factors)
    promise = pivot * norms + highest
    by_promise = np.argsort(-promise, kind="stable")
    order = candidates[by_promise]
    position = np.full(n, len(order), np.int64)
    position[order] = np.arange(len(order))
    step = topk.PANEL * topk.CELL
    bounds = np.column_stack([suffix_maximum(a[by_promise], step) for a in (norms, highest, promise)])
    bounds = np.ascontiguousarray(bounds)
    panels = -(-len(order) // topk.PANEL)
    rows = np.full((panels * topk.PANEL if d else 0, d + 2), np.nan, V.dtype)
    if d:
        topk.sketch(V, order, directions, slack, rows[: len(order)])
        rows[: len(order), -1] = np.nextafter(highest[by_promise].astype(V.dtype), np.inf)
    sketches = np.ascontiguousarray(rows.reshape(-1, topk.PANEL, d + 2).swapaxes(1, 2))
    return topk.Index(order, position, bounds, pivot, slack, directions, sketches)


def suffix_maximum(values: np.ndarray, step: int) -> np.ndarray:
    """Largest of values[start:] for start = 0, step, 2·step, …"""
    return np.maximum.accumulate(values[::-1])[::-1][::step]


def typical_norm(U: np.ndarray) -> float:
    sample = U[:: max(1, len(U) // 1024)].astype(np.float64)
    return float(np.sqrt((sample**2).sum(axis=1).mean())) if len(sample) else 0.0


def rounding_slack(dtype: np.dtype, k: int, d: int, residual: float) -> np.ndarray:
    unit = float(np.finfo(dtype).eps) / 2
    double = float(np.finfo(np.float64).eps)
    terms = k + d + 16
    return np.array([2 * terms * unit + 16 * k * double + 8 * residual, terms * float(np.finfo(dtype).tiny), 8 * unit])


def leading_directions(V: np.ndarray, candidates: np.ndarray, d: int) -> tuple[np.ndarray, float]:
    """Orthonormal columns that hold most of the rows of V, and how far from orthonormal they are."""
    k = V.shape[1]
    gram = np.zeros((k, k))
    for start in range(0, len(candidates) if d else 0, 8192):
        rows = V[candidates[start : start + 8192]].astype(np.float64)
        gram += rows.T @ rows
    directions = np.ascontiguousarray(np.linalg.eigh(gram)[1][:, ::-1][:, :d])
    return directions, float(np.linalg.norm(directions.T @ directions - np.eye(d)))
