"""What fits, lists and metrics must be, by loops over all cells in float64. Nothing here looks at lfm_np."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.sparse as sp

Weighting = tuple[np.ndarray, np.ndarray]


def counts(m: int = 12, n: int = 9, share: float = 0.35, seed: int = 0) -> sp.csr_array:
    """Numbers 1 to 5 in about this share of the cells, none in row 3 and column 2."""
    rng = np.random.default_rng(seed)
    dense = np.where(rng.random((m, n)) < share, rng.integers(1, 6, (m, n)), 0)
    if m > 3 and n > 2:
        dense[3], dense[:, 2] = 0, 0
    return sp.csr_array(dense.astype(np.float32))


def starts(m: int, n: int, k: int, seed: int = 0, scale: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed + 100)
    return rng.normal(0, scale, (m, k)), rng.normal(0, scale, (n, k))


def full(X: Any) -> tuple[np.ndarray, np.ndarray]:
    """Values of all cells, and which are stored (a stored zero is)."""
    cells = sp.coo_array(X)
    dense, stored = np.zeros(X.shape), np.zeros(X.shape, bool)
    np.add.at(dense, cells.coords, cells.data.astype(float))
    stored[cells.coords] = True
    return dense, stored


def weigh(x: np.ndarray, stored: np.ndarray, weighting: str, alpha: float, a0: float) -> Weighting:
    """Confidence and target of every cell."""
    if weighting == "ratings":
        return stored * 1.0, x
    c = {"hu-koren": 1 + alpha * x, "ials": a0 + alpha * x, "confidence": alpha * x}[weighting]
    p = alpha * x / np.where(c > 0, c, 1) if weighting == "ials" else np.ones_like(x)
    return np.where(stored, c, a0), np.where(stored, p, 0.0)


def strengths(stored: np.ndarray, lam: float, nu: float, a0: float) -> tuple[np.ndarray, np.ndarray]:
    m, n = stored.shape
    return lam * (stored.sum(1) + a0 * n) ** nu, lam * (stored.sum(0) + a0 * m) ** nu


def half(c: np.ndarray, p: np.ndarray, Y: np.ndarray, lam: np.ndarray) -> np.ndarray:
    """Rows that minimise Σ c (p − x·y)² + λ‖x‖², the shortest where there are several."""
    solved = np.zeros((len(c), Y.shape[1]))
    for u in range(len(c)):
        A = (Y.T * c[u]) @ Y + lam[u] * np.eye(Y.shape[1])
        solved[u] = np.linalg.lstsq(A, Y.T @ (c[u] * p[u]), rcond=None)[0]
    return solved


def als(
    X: Any,
    init: Weighting,
    sweeps: int,
    *,
    weighting: str = "hu-koren",
    regularization: float = 0.01,
    alpha: float = 1.0,
    unobserved_weight: float | None = None,
    regularization_exponent: float = 0.0,
    biases: bool = False,
) -> dict[str, Any]:
    """Scores of all cells after so many sweeps, and J after each half of one."""
    with np.errstate(all="ignore"):
        x, stored = full(X)
        if weighting != "ratings":
            stored &= x != 0
        a0 = unobserved_weight if unobserved_weight is not None else float(weighting != "ratings")
        c, p = weigh(x, stored, weighting, alpha, a0)
        of_users, of_items = strengths(stored, regularization, regularization_exponent, a0)
        mean = x[stored].mean() if biases else 0.0
        p = np.where(stored, p - mean, 0) if biases else p
        U, V = (np.array(side, float) for side in init)
        b_u, b_i = np.zeros(len(U)), np.zeros(len(V))
        values = []

        def value() -> float:
            fit = (c * (p - U @ V.T - b_u[:, None] - b_i) ** 2).sum()
            held = (of_users * ((U**2).sum(1) + b_u**2)).sum() + (of_items * ((V**2).sum(1) + b_i**2)).sum()
            return float(fit + held)

        for _ in range(sweeps):
            if biases:
                solved = half(c, p - b_i, np.column_stack([V, np.ones(len(V))]), of_users)
                U, b_u = solved[:, :-1], solved[:, -1]
                values.append(value())
                solved = half(c.T, (p - b_u[:, None]).T, np.column_stack([U, np.ones(len(U))]), of_items)
                V, b_i = solved[:, :-1], solved[:, -1]
            else:
                U = half(c, p, V, of_users)
                values.append(value())
                V = half(c.T, p.T, U, of_items)
            values.append(value())
        return {"scores": mean + b_u[:, None] + b_i + U @ V.T, "values": values, "U": U, "V": V}


def value(X: Any, scores: np.ndarray, U: np.ndarray, V: np.ndarray, **words: Any) -> float:
    """J of factors without biases, whose scores these are."""
    weighting, alpha = words.get("weighting", "hu-koren"), words.get("alpha", 1.0)
    a0 = words.get("unobserved_weight", float(weighting != "ratings"))
    x, stored = full(X)
    c, p = weigh(x, stored, weighting, alpha, a0)
    lam, nu = words.get("regularization", 0.01), words.get("regularization_exponent", 0.0)
    of_users, of_items = strengths(stored, lam, nu, a0)
    held = (of_users * (U.astype(float) ** 2).sum(1)).sum() + (of_items * (V.astype(float) ** 2).sum(1)).sum()
    return float((c * (p - scores) ** 2).sum() + held)


def scores(factors: Any) -> np.ndarray:
    """μ + b_u + b_i + u·v of all pairs, in float64."""
    with np.errstate(all="ignore"):
        total = factors.user_factors.astype(float) @ factors.item_factors.astype(float).T
        if factors.user_bias is not None:
            total = total + factors.user_bias.astype(float)[:, None]
        if factors.item_bias is not None:
            total = total + factors.item_bias.astype(float)
        return total + (factors.global_bias or 0.0)


def near(found: Any, expected: Any, relative: float) -> bool:
    found, expected = np.asarray(found, float), np.asarray(expected, float)
    if found.shape != expected.shape or not np.isfinite(found).all():
        return False
    with np.errstate(all="ignore"):
        return bool(np.abs(found - expected).max(initial=0) <= relative * max(np.abs(expected).max(initial=0), 1e-300))


def ranking(row: np.ndarray, allowed: np.ndarray) -> list[int]:
    """The allowed items by falling score, the lower id first."""
    return sorted(np.flatnonzero(allowed).tolist(), key=lambda i: (-row[i], i))


def lists(table: np.ndarray, N: int, seen: Any = None, items: Any = None, exclude: Any = ()) -> np.ndarray:
    """The N best of every row, −1 for the rest."""
    found = np.full((len(table), N), -1)
    for u, row in enumerate(table):
        allowed = np.zeros(len(row), bool)
        allowed[slice(None) if items is None else items] = True
        allowed[list(exclude)] = False
        if seen is not None:
            allowed[np.flatnonzero(seen[u])] = False
        best = ranking(row, allowed)[:N]
        found[u, : len(best)] = best
    return found


def metric(name: str, ranks: list[int]) -> float:
    """A metric of the ranks, from 1, of the relevant items of one user."""
    base, _, at = name.partition("@")
    t, k = len(ranks), int(at) if at else 10**9
    hits = [r for r in ranks if r <= k]
    best = min(k, t)
    if base == "ndcg":
        return sum(1 / math.log2(r + 1) for r in hits) / sum(1 / math.log2(j + 2) for j in range(best))
    if base == "map":
        return sum((j + 1) / r for j, r in enumerate(hits)) / best
    if base == "mrr":
        return 1 / ranks[0] if ranks[0] <= k else 0.0
    h = len(hits)
    return {"recall": h / t, "capped_recall": h / best, "precision": h / k, "hit_rate": float(h > 0)}[base]


def evaluate(table: np.ndarray, train: Any, test: Any, names: list[str], negatives: Any = None) -> dict[str, float]:
    """Means over the users that have test items among their candidates."""
    found: dict[str, list[float]] = {name: [] for name in names}
    users = 0
    for u, row in enumerate(table):
        candidates = np.ones(len(row), bool) if train is None else train[u] == 0
        relevant = np.flatnonzero((test[u] != 0) & candidates)
        if not len(relevant):
            continue
        users += 1
        if negatives is not None:
            among = np.zeros(len(row), bool)
            among[[j for j in negatives[u] if j >= 0]] = True
            candidates &= among
            candidates[relevant] = True
        order = ranking(row, candidates)
        ranks = sorted(order.index(i) + 1 for i in relevant.tolist())
        others = [j for j in order if j not in set(relevant.tolist())]
        for name in names:
            if name == "auc":
                pairs = [(row[i] > row[j]) + 0.5 * (row[i] == row[j]) for i in relevant for j in others]
                found[name] += [float(np.mean(pairs))] if pairs else []
            else:
                found[name].append(metric(name, ranks))
    means = {name: float(np.mean(values)) for name, values in found.items()}
    errors = {
        f"{name}_se": float(np.std(values, ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.nan
        for name, values in found.items()
    }
    return {**means, **errors, "users": users}


Slope = Callable[[float, float], float]


def lone_cells(
    x: np.ndarray,
    init: Weighting,
    epochs: int,
    *,
    rate: float = 0.05,
    lam: tuple[float, float, float] = (0.0, 0.0, 0.0),
    schedule: str = "constant",
    biases: bool = False,
) -> tuple[np.ndarray, list[float]]:
    """Squared loss where cell j is the only one of row j and column j, so that no order matters: scores and losses."""
    U, V = (np.array(side, float) for side in init)
    b_u, b_i = np.zeros(len(x)), np.zeros(len(x))
    sum_u, sum_v = np.ones(len(x)), np.ones(len(x))
    mean = x.mean() if biases else 0.0
    losses = []
    for epoch in range(epochs):
        eta = rate / (1 + epoch / 10) if schedule == "inverse" else rate
        error = mean + b_u + b_i + (U * V).sum(1) - x
        losses.append(float((error**2).mean() / 2))
        g_u, g_v = error[:, None] * V + lam[0] * U, error[:, None] * U + lam[1] * V
        step_u = step_v = np.full(len(x), eta)
        if schedule == "adagrad":
            sum_u, sum_v = sum_u + (g_u**2).mean(1), sum_v + (g_v**2).mean(1)
            step_u, step_v = eta / np.sqrt(sum_u), eta / np.sqrt(sum_v)
        U, V = U - step_u[:, None] * g_u, V - step_v[:, None] * g_v
        if biases:
            b_u, b_i = b_u - eta * (error + lam[2] * b_u), b_i - eta * (error + lam[2] * b_i)
    return mean + b_u + b_i + (U * V).sum(1), losses


def one_user(
    kind: str,
    value: Slope,
    slope: Slope,
    init: Weighting,
    epochs: int,
    *,
    rate: float = 0.05,
    lam: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0),
    times: int = 1,
    weight: float = 1.0,
    targets: tuple[float, float] = (1.0, 0.0),
    item_bias: bool = False,
) -> tuple[np.ndarray, list[float]]:
    """One user, item 0 stored and item 1 therefore the negative, ``times`` times a step: scores and losses."""
    (u,), (v, w) = (np.array(side, float) for side in init)
    a = b = 0.0
    losses = []
    for _ in range(epochs):
        s, t = a + u @ v, b + u @ w
        if kind == "pointwise":
            losses.append(weight * value(s, targets[0]) + times * value(t, targets[1]))
            g, h = weight * slope(s, targets[0]), times * slope(t, targets[1])
        else:
            losses.append(times * weight * value(s - t, 0.0))
            g = times * weight * slope(s - t, 0.0)
            h = -g
        steps = g * v + h * w + lam[0] * u, g * u + lam[1] * v, h * u + lam[2] * w
        u, v, w = u - rate * steps[0], v - rate * steps[1], w - rate * steps[2]
        if item_bias:
            a, b = a - rate * (g + lam[3] * a), b - rate * (h + lam[3] * b)
    return np.array([a + u @ v, b + u @ w]), losses
