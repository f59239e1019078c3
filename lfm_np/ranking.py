"""Scores and recommendations, cut into blocks for the kernels; arguments are checked already."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from lfm_np.kernels import topk
from lfm_np.kernels.forbidden import Forbidden
from lfm_np.kernels.jit import Pool
from lfm_np.kernels.scores import Model, pair_scores
from lfm_np.memory import refuse_lists_that_cannot_fit
from lfm_np.quiet import quietly
from lfm_np.validation import read_only

BLOCK = 512  # users of a block: enough to share the work on a panel of items
PAIRS = 65536  # pairs of a block of `scores`
ROWS = 8192  # rows that are float64 at a time


class Ranked(NamedTuple):
    """A list of the best, best first. Padded with id −1 and score −inf. Read-only."""

    ids: np.ndarray
    scores: np.ndarray


def make_model(
    U: np.ndarray, V: np.ndarray, user_bias: np.ndarray | None, item_bias: np.ndarray | None, global_bias: float | None
) -> Model:
    """What a score is made of, in the form that kernels take.

    Raises
    ------
    ValueError
        Some score could leave the range of the dtype.
    """
    constant = np.zeros(len(U)) if user_bias is None else user_bias.astype(np.float64)
    constant = quietly(lambda: (constant + (global_bias or 0.0)).astype(U.dtype))
    bias = np.zeros(len(V), V.dtype) if item_bias is None else item_bias
    largest = [max(float(a.max(initial=0.0)), -float(a.min(initial=0.0))) for a in (U, V, constant, bias)]
    reach = U.shape[1] * largest[0] * largest[1] + largest[2] + largest[3]
    if not reach < float(np.finfo(U.dtype).max) / 4:
        raise ValueError(
            f"scores of these factors can be as large as {reach:.1e}, beyond the range of {U.dtype} that they may take "
            "(a quarter)"
        )
    return Model(*read_only(U, V, constant, bias))


def scores(model: Model, users: np.ndarray, items: np.ndarray, num_threads: int) -> np.ndarray:
    """Scores of pairs."""
    out = np.empty(len(users), model.user_factors.dtype)

    def work(block: int, worker: int) -> None:
        part = slice(block * PAIRS, (block + 1) * PAIRS)
        some, theirs = read_only(users[part], items[part])
        pair_scores(model, some, theirs, len(some), out[part])

    with Pool(num_threads) as pool:
        pool.run(work, -(-len(users) // PAIRS))
    return out


def best(
    model: Model,
    index: topk.Index,
    users: np.ndarray,
    N: int,
    seen: tuple[np.ndarray, np.ndarray, np.ndarray],
    exclude: np.ndarray,
    num_threads: int,
) -> Ranked:
    """The N best allowed items of each user. ``seen``: the row of each user, indptr, indices; ``exclude``: sorted."""
    refuse_lists_that_cannot_fit(len(users), N, model.user_factors.itemsize)
    ids = np.empty((len(users), N), np.int64)
    found = np.empty((len(users), N), model.user_factors.dtype)
    block_size = min(BLOCK, max(32, -(-len(users) // 64) * 4))  # a few users still make work for several threads
    rows, indptr, indices = seen
    indptr, indices, exclude = read_only(indptr, indices, exclude)

    def work(block: int, worker: int) -> None:
        part = slice(block * block_size, (block + 1) * block_size)
        some, their_rows = read_only(users[part], rows[part])
        forbidden = Forbidden(their_rows, indptr, indices, exclude)
        topk.best_items(model, index, forbidden, some, found[part], ids[part])

    with Pool(num_threads) as pool:
        pool.run(work, -(-len(users) // block_size))
    return Ranked(*read_only(ids, found))


def unit_rows(A: np.ndarray) -> np.ndarray:
    """Rows scaled to norm 1 in float64 and rounded once; zero rows stay zero."""
    unit = np.empty_like(A)
    for start in range(0, len(A), ROWS):
        rows = A[start : start + ROWS].astype(np.float64)
        rows /= np.maximum(np.abs(rows).max(axis=1, keepdims=True, initial=0.0), np.finfo(np.float64).tiny)
        norms = np.sqrt((rows * rows).sum(axis=1, keepdims=True))
        unit[start : start + ROWS] = rows / np.where(norms == 0, 1.0, norms)
    return unit
