"""Negative samplers of `sgd`: which items stand for all those that a row has not stored.

Every negative is verified: an item that the row has stored is never drawn. A row that leaves nothing to draw is
skipped, and counted in ``params["skipped_rows"]``.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from lfm_np.validation import check_float, check_int, shown

_TOTAL = 2.0**52  # masses are integers, so that sums are exact in any order


class Uniform(NamedTuple):
    """Every item that the row has not stored with the same probability.

    The unbiased choice for BPR as its paper states it, and the cheapest: one random number and a binary search in the
    row.

    References
    ----------
    Rendle, Freudenthaler, Gantner, Schmidt-Thieme (2009), "BPR: Bayesian personalized ranking from implicit feedback".
    """


class Popularity(NamedTuple):
    """Items with probability proportional to (number of stored cells)^beta, those of the row excluded.

    Harder negatives than uniform ones; pushes popular items down where the loss does not correct for it (SampledSoftmax
    does). β = 0 is `Uniform`, β = 1 the empirical distribution. With β > 0 an item that nobody has is never drawn, and
    no other has less than 2⁻⁵² of the probability of all: with a β of 5 and more, rows that hold all the frequent items
    draw the rare ones more alike than that.

    Parameters
    ----------
    beta : float
        β, 0 to 10.

    References
    ----------
    Mikolov et al. (2013), "Distributed representations of words and phrases and their compositionality", section 2.2
    (β = 0.75).
    """

    beta: float = 0.75


class Hard(NamedTuple):
    """The best-scored of ``candidates`` uniform draws: dynamic negative sampling.

    For the first negative of a step the first candidate is drawn from all items that the row has not stored. All other
    candidates come from those of them in its block: `sgd` deals the items to 2G random blocks anew each epoch, G being
    ``params["blocks"]``, or to a single one where G = 1. `torch_backend.sgd` draws all candidates from all items.

    Costs one score a candidate. Many candidates find stored-but-missing positives as well as hard negatives. Which item
    is best changes with the scores, so its probability is not known: SampledSoftmax corrects by that of one uniform
    draw.

    Parameters
    ----------
    candidates : int
        1, which is `Uniform`, to 10,000.

    References
    ----------
    Zhang, Chen, Wang, Yu (2013), "Optimizing top-N collaborative filtering via dynamic negative item sampling".
    """

    candidates: int = 4


def check_sampler(sampler: Any) -> Any:
    """``sampler`` with its parameters checked; None means stored cells only."""
    if isinstance(sampler, Popularity):
        return Popularity(check_float("Popularity.beta", sampler.beta, 0.0, 10.0))
    if isinstance(sampler, Hard):
        return Hard(check_int("Hard.candidates", sampler.candidates, 1, 10_000))
    if sampler is None or isinstance(sampler, Uniform):
        return sampler
    raise TypeError(f"sampler must be sampling.Uniform(), Popularity(…), Hard(…) or None, got {shown(sampler)}")


def masses(sampler: Any, counts: np.ndarray) -> np.ndarray | None:
    """Integer mass of every item, proportional to q to 2⁻⁵² of the total; None for `Uniform`.

    Parameters
    ----------
    counts : ndarray, shape (n,)
        Stored cells of every item.
    """
    if not isinstance(sampler, Popularity):
        return None
    q = counts.astype(np.float64) ** sampler.beta
    total = q.sum()
    scaled = np.rint(q * (_TOTAL / total)) if total > 0 else q
    return np.where(q > 0, np.maximum(scaled, 1), 0).astype(np.int64)


def cumulative(weights: np.ndarray | None, n: int) -> np.ndarray:
    """Masses before every item and in all, (n + 1,) int64; (1,), n, where all are 1."""
    if weights is None:
        return np.array([n], np.int64)
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(weights)])
