"""The index over the items that a search for the best N walks through; see lfm_np.kernels.topk."""

from __future__ import annotations

import numpy as np

from lfm_np.kernels.codes import LARGEST_K, MIDDLE, TERMS, encode
from lfm_np.kernels.scores import PANEL, Model
from lfm_np.kernels.simd import has_dot_bytes
from lfm_np.kernels.topk import CELL, SPARSE, Index, row_norms, sketch
from lfm_np.quiet import eigh, quietly
from lfm_np.validation import read_only

ROWS = 8192  # rows that are float64 at a time
SAMPLE, USERS = 8192, 48  # items and users that the choice of the sketches looks at
TYPICAL_RANK = 40  # the threshold of a search for ten, when thirty better ones were seen
DIRECTIONS = (6, 14, 30)  # lengths of a sketch that are tried; two more fill whole vectors


def build_index(model: Model, candidates: np.ndarray, d: int | None = None, coded: bool | None = None) -> Index:
    """Order the candidate items by how high they can score, and encode them or sketch them in ``d`` directions.

    None: as it pays. Norms of float64 factors may leave its range: their bounds let everything pass.
    """
    return quietly(_build_index, model, candidates, d, coded)


def _build_index(model: Model, candidates: np.ndarray, d: int | None, coded: bool | None) -> Index:
    if coded is None:
        coded = d is None and worthwhile_codes(model, candidates)
    d = 0 if coded else worthwhile_directions(model, candidates) if d is None else d
    V, bias = model.item_factors, model.item_bias
    directions, residual = leading_directions(V, candidates, d)
    slack = rounding_slack(V.dtype, V.shape[1], d, residual)
    candidates, slack, directions = read_only(candidates, slack, directions)
    norms = np.empty(len(candidates))
    row_norms(V, candidates, slack, norms)
    highest = bias[candidates].astype(np.float64)
    highest += slack[0] * np.abs(highest) + slack[1]
    pivot = typical_norm(model.user_factors) or 1.0  # of no users, or of zeros, it would heed biases only
    promise = pivot * norms + highest
    by_promise = np.argsort(-promise, kind="stable")
    (order,) = read_only(candidates[by_promise])
    position = np.full(len(V), len(order), np.int32)
    position[order] = np.arange(len(order))
    step = PANEL * CELL
    bounds = np.column_stack([suffix_maximum(a[by_promise], step) for a in (norms, highest, promise)])
    screens = make_screens(V, order, highest[by_promise], directions, slack, coded)
    position, bounds, *screens = read_only(position, bounds, *screens)
    return Index(order, position, bounds, pivot, slack, directions, *screens)


def make_screens(
    V: np.ndarray, order: np.ndarray, highest: np.ndarray, directions: np.ndarray, slack: np.ndarray, coded: bool
) -> tuple[np.ndarray, np.ndarray]:
    """``sketches`` and ``codes`` of an index; ``highest``: the items' biases, in the order, with their slack."""
    k, d = directions.shape
    padded = -(-len(order) // PANEL) * PANEL
    rows = np.full((padded if d or coded else 0, TERMS if coded else d + 2), np.nan, V.dtype)
    codes = np.zeros((padded if coded else 0, 4 * -(-k // 4)), np.int8)
    if coded:
        encode(V, order, slack, codes, rows[: len(order)])
        codes ^= np.int8(-MIDDLE)  # unsigned
    elif d:
        sketch(V, order, directions, slack, rows[: len(order)])
    if len(rows):
        rows[: len(order), -1] = np.nextafter(highest.astype(V.dtype), np.inf)
    sketches, packed = (
        a.reshape(len(a) // PANEL, PANEL, a.shape[1]).swapaxes(1, 2) for a in (rows, codes.view(np.int32))
    )
    return sketches, packed


def worthwhile_codes(model: Model, candidates: np.ndarray) -> bool:
    """Whether products of bytes are cheap here and the search is long enough to gain."""
    k = model.item_factors.shape[1]
    return has_dot_bytes() and 16 <= k <= LARGEST_K and len(candidates) >= 16 * PANEL


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
    d + 2 and two per coordinate, a bound by codes eight, of terms a quarter larger; twice their sum leaves room for
    the second order and for float64's part: the coordinates' own rounding, and directions that are orthonormal only up
    to ``residual``. The absolute part covers products that underflow.
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
    directions = eigh(gram)[1][:, ::-1][:, :d]
    return directions, float(np.linalg.norm(directions.T @ directions - np.eye(d)))


def worthwhile_directions(model: Model, candidates: np.ndarray) -> int:
    """How many directions make the search cheapest, by its cost on a sample; 0: no sketches.

    The unit is a full score in a tile. A user meets the items whose norms reach the threshold; with sketches each of
    them costs (d + 2)/k, and those whose sketches reach it too cost SPARSE more. Steep spectra gain; factors of ALS
    rarely do, since theirs is rather flat. The result of a search does not depend on the choice.
    """
    k = model.item_factors.shape[1]
    if k < 24 or len(candidates) < 64 * PANEL:
        return 0
    some = candidates[:: -(-len(candidates) // SAMPLE)]
    V, bias = model.item_factors[some].astype(np.float64), model.item_bias[some].astype(np.float64)
    U = model.user_factors[:: max(1, len(model.user_factors) // USERS)][:USERS].astype(np.float64)
    scores = U @ V.T + bias
    N = max(1, len(some) * TYPICAL_RANK // len(candidates))
    threshold = np.partition(scores, -N, axis=1)[:, -N, None]
    reach = outer_norms(U, V) + bias >= threshold
    directions, _ = leading_directions(model.item_factors, some, k)
    cost = {0: 0.85 * reach.sum()}  # the model's own error: a gain must be clear
    for d in (d for d in DIRECTIONS if d + 2 < k):
        head, rest = directions[:, :d], directions[:, d:]
        bound = (U @ head) @ (V @ head).T + outer_norms(U @ rest, V @ rest) + bias
        cost[d] = (d + 2) / k * reach.sum() + SPARSE * (bound >= threshold)[reach].sum()
    return min(cost, key=lambda d: cost[d])


def outer_norms(A: np.ndarray, B: np.ndarray) -> np.ndarray:
    """‖a‖‖b‖ of all rows."""
    return np.outer(np.linalg.norm(A, axis=1), np.linalg.norm(B, axis=1))
