"""Recommendations: the model and the index over the items, cut into blocks of users for the kernel in topk.py."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from lfm_np.kernels import topk
from lfm_np.kernels.jit import Pool
from lfm_np.validation import read_only

BLOCK = 512  # users of a block: enough to share the work on a panel of items
PAIRS = 65536  # pairs of a block of `scores`
ROWS = 8192  # rows that are float64 at a time


class Ranked(NamedTuple):
    """A list of the best, best first. Padded with id −1 and score −inf."""

    ids: np.ndarray
    scores: np.ndarray


def make_model(
    U: np.ndarray, V: np.ndarray, user_bias: np.ndarray | None, item_bias: np.ndarray | None, global_bias: float | None
) -> topk.Model:
    """What a score is made of, in the form that kernels take.

    Raises
    ------
    ValueError
        Some score could leave the range of the dtype.
    """
    constant = np.zeros(len(U)) if user_bias is None else user_bias.astype(np.float64)
    constant = (constant + (global_bias or 0.0)).astype(U.dtype)
    bias = np.zeros(len(V), V.dtype) if item_bias is None else item_bias
    largest = [float(np.abs(a).max(initial=0.0)) for a in (U, V, constant, bias)]
    reach = U.shape[1] * largest[0] * largest[1] + largest[2] + largest[3]
    if not reach < float(np.finfo(U.dtype).max) / 4:
        raise ValueError(f"scores of these factors can be as large as {reach:.1e}, beyond the range of {U.dtype}")
    return topk.Model(*read_only(U, V, constant, bias))


def scores(model: topk.Model, users: np.ndarray, items: np.ndarray, num_threads: int) -> np.ndarray:
    """Scores of pairs."""
    out = np.empty(len(users), model.user_factors.dtype)

    def work(block: int, worker: int) -> None:
        part = slice(block * PAIRS, (block + 1) * PAIRS)
        some, theirs = read_only(users[part], items[part])
        topk.pair_scores(model, some, theirs, len(some), out[part])

    with Pool(num_threads) as pool:
        pool.run(work, -(-len(users) // PAIRS))
    return out


def best(
    model: topk.Model,
    index: topk.Index,
    users: np.ndarray,
    N: int,
    seen: tuple[np.ndarray, np.ndarray, np.ndarray],
    exclude: np.ndarray,
    num_threads: int,
) -> Ranked:
    """The N best allowed items of each user. ``seen``: the row of each user, indptr, indices; ``exclude``: sorted."""
    ids = np.empty((len(users), N), np.int64)
    found = np.empty((len(users), N), model.user_factors.dtype)
    block_size = min(BLOCK, max(32, -(-len(users) // 64) * 4))  # a few users still make work for several threads
    rows, indptr, indices = seen
    indptr, indices, exclude = read_only(indptr, indices, exclude)

    def work(block: int, worker: int) -> None:
        part = slice(block * block_size, (block + 1) * block_size)
        some, their_rows = read_only(users[part], rows[part])
        forbidden = topk.Forbidden(their_rows, indptr, indices, exclude)
        topk.best_items(model, index, forbidden, some, found[part], ids[part])

    with Pool(num_threads) as pool:
        pool.run(work, -(-len(users) // block_size))
    return Ranked(ids, found)


def unit_rows(A: np.ndarray) -> np.ndarray:
    """Rows scaled to norm 1 in float64 and rounded once; zero rows stay zero."""
    unit = np.empty_like(A)
    for start in range(0, len(A), ROWS):
        rows = A[start : start + ROWS].astype(np.float64)
        rows /= np.maximum(np.abs(rows).max(axis=1, keepdims=True, initial=0.0), np.finfo(np.float64).tiny)
        norms = np.sqrt((rows * rows).sum(axis=1, keepdims=True))
        unit[start : start + ROWS] = rows / np.where(norms == 0, 1.0, norms)
    return unit


# ---- the index ------------------------------------------------------------------------------------------------------


def build_index(model: topk.Model, candidates: np.ndarray, d: int = 0) -> topk.Index:
    """Order the candidate items by how high they can score, and sketch them in ``d`` directions."""
    V, bias = model.item_factors, model.item_bias
    n, k = V.shape
    directions, residual = leading_directions(V, candidates, d)
    slack = rounding_slack(V.dtype, k, d, residual)
    candidates, slack, directions = read_only(candidates, slack, directions)
    norms = np.empty(len(candidates))
    topk.row_norms(V, candidates, slack, norms)
    highest = bias[candidates].astype(np.float64)
    highest += slack[0] * np.abs(highest) + slack[1]
    pivot = typical_norm(model.user_factors)
    promise = pivot * norms + highest
    by_promise = np.argsort(-promise, kind="stable")
    (order,) = read_only(candidates[by_promise])
    position = np.full(n, len(order), np.int64)
    position[order] = np.arange(len(order))
    step = topk.PANEL * topk.CELL
    bounds = np.column_stack([suffix_maximum(a[by_promise], step) for a in (norms, highest, promise)])
    panels = -(-len(order) // topk.PANEL)
    rows = np.full((panels * topk.PANEL if d else 0, d + 2), np.nan, V.dtype)
    if d:
        topk.sketch(V, order, directions, slack, rows[: len(order)])
        rows[: len(order), -1] = np.nextafter(highest[by_promise].astype(V.dtype), np.inf)
    sketches = rows.reshape(-1, topk.PANEL, d + 2).swapaxes(1, 2)
    position, bounds, sketches = read_only(position, bounds, sketches)
    return topk.Index(order, position, bounds, pivot, slack, directions, sketches)


def suffix_maximum(values: np.ndarray, step: int) -> np.ndarray:
    """Largest of values[start:] for start = 0, step, 2·step, …"""
    return np.maximum.accumulate(values[::-1])[::-1][::step]


def typical_norm(U: np.ndarray) -> float:
    """Root mean square of (a sample of) the users' norms."""
    sample = U[:: max(1, len(U) // 1024)].astype(np.float64)
    return float(np.sqrt((sample**2).sum(axis=1).mean())) if len(sample) else 0.0


def rounding_slack(dtype: np.dtype, k: int, d: int, residual: float) -> np.ndarray:
    """How far rounding can move what the kernel compares: [relative, absolute] of a product, relative of a sum.

    With unit roundoff e, a chain of j operations on terms x_i is within γ_j Σ|x_i| of the exact sum, γ_j = je/(1 − je)
    (Higham 2002, §3.1), and Σ|x_i| ≤ ‖u‖‖v‖ + |b|. A score has at most k + 2 roundings a term, a sketch product
    d + 2 and two per coordinate; twice their sum leaves room for the second order and for float64's part: the
    coordinates' own rounding, and directions that are orthonormal only up to ``residual``. The absolute part covers
    products that underflow.
    """
    unit = float(np.finfo(dtype).eps) / 2
    double = float(np.finfo(np.float64).eps)
    terms = k + d + 16
    relative = 2 * terms * unit + 16 * (k + 1) * double + 8 * residual
    return np.array([relative, terms * float(np.finfo(dtype).tiny), 8 * unit])


def leading_directions(V: np.ndarray, candidates: np.ndarray, d: int) -> tuple[np.ndarray, float]:
    """Orthonormal columns that hold most of the rows of V, and how far from orthonormal they are."""
    k = V.shape[1]
    gram = np.zeros((k, k))
    for start in range(0, len(candidates) if d else 0, ROWS):
        rows = V[candidates[start : start + ROWS]].astype(np.float64)
        gram += rows.T @ rows
    directions = np.linalg.eigh(gram)[1][:, ::-1][:, :d]
    return directions, float(np.linalg.norm(directions.T @ directions - np.eye(d)))
