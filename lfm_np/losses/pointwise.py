"""Losses of one cell at a time."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class Squared:
    """Half the squared error, ½(s − x)², for ratings and other measured values.

    Convex in s; 1-smooth. A stored zero is a value, and a stored value may be negative.

    References
    ----------
    Koren, Bell, Volinsky (2009), "Matrix factorization techniques for recommender systems", equation 2 (Funk's SVD).

    Examples
    --------
    >>> Squared().value(3.0, 5.0), Squared().gradient(3.0, 5.0)
    (2.0, -2.0)
    """

    def value(self, score: float, target: float) -> float:
        return 0.5 * (score - target) ** 2

    def gradient(self, score: float, target: float) -> float:
        return score - target


@dataclass(frozen=True)
class Logistic:
    """Cross-entropy of σ(s) with y = 1 for a stored cell and 0 for a negative: log(1 + eˢ) − y·s.

    Convex in s; ¼-smooth. σ(s) is a calibrated probability only with respect to the negatives that were drawn.

    Parameters
    ----------
    weighted : bool
        Whether the value of a stored cell multiplies its loss (the confidence of Johnson's model).

    References
    ----------
    Johnson (2014), "Logistic matrix factorization for implicit feedback data", equation 3.

    Examples
    --------
    >>> Logistic().gradient(0.0, 1.0), Logistic().gradient(0.0, 0.0)
    (-0.5, 0.5)
    """

    weighted: bool = False
    targets: ClassVar[tuple[float, float]] = (1.0, 0.0)

    def value(self, score: float, target: float) -> float:
        return max(score, 0.0) - target * score + math.log1p(math.exp(-abs(score)))

    def gradient(self, score: float, target: float) -> float:
        e = math.exp(-abs(score))
        up, down = (1.0, e) if score > 0.0 else (e, 1.0)  # σ(s) and 1 − σ(s), times 1 + e: σ(s) − y would round to 0
        return ((1.0 - target) * up - target * down) / (1.0 + e)


@dataclass(frozen=True)
class Hinge:
    """max(0, 1 − y·s) with y = +1 for a stored cell and −1 for a negative.

    Convex in s; not differentiable at y·s = 1, where the gradient is 0.

    Parameters
    ----------
    weighted : bool
        Whether the value of a stored cell multiplies its loss.

    References
    ----------
    Rennie, Srebro (2005), "Fast maximum margin matrix factorization for collaborative prediction".

    Examples
    --------
    >>> Hinge().value(0.25, 1.0), Hinge().gradient(0.25, 1.0), Hinge().gradient(2.0, 1.0)
    (0.75, -1.0, 0.0)
    """

    weighted: bool = False
    targets: ClassVar[tuple[float, float]] = (1.0, -1.0)

    def value(self, score: float, target: float) -> float:
        return max(0.0, 1.0 - target * score)

    def gradient(self, score: float, target: float) -> float:
        return -target if target * score < 1.0 else 0.0


@dataclass(frozen=True)
class Poisson:
    """Half the Poisson deviance of counts x with rate eˢ: eˢ − x·s + x·log x − x, which is 0 where eˢ = x.

    Convex in s. Beyond s = 30 (a rate of 10¹³) the exponential goes on as its tangent, so that nothing overflows.

    References
    ----------
    Chi, Kolda (2012), "On tensors, sparsity, and nonnegative factorizations", section 3 (there with rate s, here eˢ).

    Examples
    --------
    >>> Poisson().value(0.0, 1.0), Poisson().gradient(0.0, 3.0)
    (0.0, -2.0)
    """

    def value(self, score: float, target: float) -> float:
        rate = math.exp(min(score, 30.0)) * (1.0 + max(score - 30.0, 0.0))
        entropy = target * math.log(target) - target if target > 0.0 else 0.0
        return rate - target * score + entropy

    def gradient(self, score: float, target: float) -> float:
        return math.exp(min(score, 30.0)) - target
