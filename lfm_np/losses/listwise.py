"""Losses of a stored cell against all its negatives at once."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np


@dataclass(frozen=True)
class SampledSoftmax:
    """Cross-entropy of the stored item among itself and M drawn ones: log(eˢ + Σ_j e^(s_j)/(M·q_j)) − s.

    Convex in the scores. With the correction by log q the sum over the drawn items estimates, without bias, the sum
    over all items that the row has not stored; uncorrected it is a loss of its own (InfoNCE), gentler where M is small.
    With the sampler `Hard` of more than one candidate the estimate is biased: how likely the best-scored one is to be
    drawn is not known, and q_j is that of one uniform draw.

    Parameters
    ----------
    temperature : float > 0
        Every score s is divided by it first.
    correct_logq : bool
        Whether to divide by M·q_j; q_j is the probability of drawing j for this row, stored items excluded.
    weighted : bool
        Whether the value of the stored cell multiplies the loss.

    References
    ----------
    Bengio, Senécal (2008), "Adaptive importance sampling to accelerate training of a neural probabilistic language
    model".
    Rendle (2021), "Item recommendation from implicit feedback", section 4.3.

    Examples
    --------
    >>> import numpy as np
    >>> SampledSoftmax().gradient(0.0, np.zeros(2))[1]
    array([0.33333333, 0.33333333])
    """

    _bounds: ClassVar = {"temperature": (0.0, True)}
    temperature: float = 1.0
    correct_logq: bool = True
    weighted: bool = False

    def value(self, positive: float, negatives: np.ndarray) -> float:
        top = positive
        for score in negatives:
            top = max(top, score)
        total = math.exp((positive - top) / self.temperature)
        others = 0.0
        for score in negatives:
            share = math.exp((score - top) / self.temperature)
            others += share
            total += share
        if others < 1e-3:  # few digits of which are left in their sum with 1
            return math.log1p(others)
        return math.log(total) + (top - positive) / self.temperature

    def gradient(self, positive: float, negatives: np.ndarray) -> tuple[float, np.ndarray]:
        top = positive
        for score in negatives:
            top = max(top, score)
        shares = np.empty(len(negatives))
        total = 0.0
        for j in range(len(negatives)):
            shares[j] = math.exp((negatives[j] - top) / self.temperature)
            total += shares[j]
        others = total
        total += math.exp((positive - top) / self.temperature)
        for j in range(len(negatives)):
            shares[j] /= total * self.temperature
        return -others / (total * self.temperature), shares


@dataclass(frozen=True)
class CosineContrastive:
    """Cosine contrastive loss: (1 − s) + weight/M · Σ_j max(0, s_j − margin), s being cosines.

    Convex in the scores (not in the factors: cosines are not). Only negatives closer than the margin push; at it the
    slope is 0. The result has factors of length one, so that recommending by score is recommending by cosine.

    Parameters
    ----------
    margin : float
    weight : float
        Weight of the negatives together against the one positive.
    weighted : bool
        Whether the value of the stored cell multiplies the loss.

    References
    ----------
    Mao et al. (2021), "SimpleX: A simple and strong baseline for collaborative filtering", equation 1.

    Examples
    --------
    >>> import numpy as np
    >>> float(CosineContrastive(margin=0.5, weight=2.0).value(0.75, np.array([0.25, 1.0])))
    0.75
    """

    _bounds: ClassVar = {"weight": (0.0, False)}
    margin: float = 0.4
    weight: float = 1.0
    weighted: bool = False
    cosine: ClassVar[bool] = True

    def value(self, positive: float, negatives: np.ndarray) -> float:
        total = 0.0
        for score in negatives:
            total += max(0.0, score - self.margin)
        return 1.0 - positive + self.weight * total / len(negatives)

    def gradient(self, positive: float, negatives: np.ndarray) -> tuple[float, np.ndarray]:
        slopes = np.zeros(len(negatives))
        for j in range(len(negatives)):
            if negatives[j] > self.margin:
                slopes[j] = self.weight / len(negatives)
        return -1.0, slopes
