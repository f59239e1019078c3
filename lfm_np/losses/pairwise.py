"""Losses of the difference between the scores of a stored cell and of a negative."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class BPR:
    """Bayesian personalised ranking: −log σ(s_i − s_j) for a stored i and a drawn j.

    Convex in the difference, decreasing, ¼-smooth. A smooth bound on the AUC of a row: it counts a misplaced pair the
    same at the top of the list as at its end.

    Parameters
    ----------
    weighted : bool
        Whether the value of the stored cell multiplies the loss.

    References
    ----------
    Rendle, Freudenthaler, Gantner, Schmidt-Thieme (2009), "BPR: Bayesian personalized ranking from implicit feedback",
    BPR-Opt in section 4.1.

    Examples
    --------
    >>> BPR().gradient(0.0)
    -0.5
    """

    weighted: bool = False

    def value(self, difference: float) -> float:
        return max(-difference, 0.0) + math.log1p(math.exp(-abs(difference)))

    def gradient(self, difference: float) -> float:
        e = math.exp(-abs(difference))
        return -(e if difference > 0.0 else 1.0) / (1.0 + e)


@dataclass(frozen=True)
class MarginHinge:
    """max(0, margin − (s_i − s_j)) for a stored i and a drawn j.

    Convex in the difference, nonincreasing; the gradient at the kink is 0. A pair apart by the margin is left alone but
    for regularisation.

    Parameters
    ----------
    margin : float
    weighted : bool
        Whether the value of the stored cell multiplies the loss.

    References
    ----------
    Herbrich, Graepel, Obermayer (1999), "Support vector learning for ordinal regression".

    Examples
    --------
    >>> MarginHinge(2.0).value(0.5), MarginHinge().gradient(3.0)
    (1.5, 0.0)
    """

    margin: float = 1.0
    weighted: bool = False

    def value(self, difference: float) -> float:
        return max(0.0, self.margin - difference)

    def gradient(self, difference: float) -> float:
        return -1.0 if difference < self.margin else 0.0


@dataclass(frozen=True)
class WARP:
    """Weighted approximate-rank pairwise loss: log(1 + rank) · max(0, margin − (s_i − s_j)).

    Negatives are drawn until one violates the margin, at most ``trials``; when the t-th is the first, the rank of the
    stored item is estimated as max(1, ⌊(n − 1)/t⌋), n being the number of all items. No violation, no update. For a
    fixed rank convex in the difference and nonincreasing. ``value`` and ``gradient`` are those of the hinge; `sgd`
    supplies the weight.

    The paper's weight is the harmonic number of the rank; log(1 + rank) differs from it by less than 0.58.

    Parameters
    ----------
    margin : float
    trials : int
        Most negatives drawn for one stored cell, 1 to 10,000.
    weighted : bool
        Whether the value of the stored cell multiplies the loss.

    References
    ----------
    Weston, Bengio, Usunier (2011), "WSABIE: Scaling up to large vocabulary image annotation", algorithm 1.

    Examples
    --------
    >>> WARP().value(0.25), WARP(margin=0.5).gradient(0.25)
    (0.75, -1.0)
    """

    _bounds: ClassVar = {"trials": (1.0, False)}
    margin: float = 1.0
    trials: int = 20
    weighted: bool = False

    def value(self, difference: float) -> float:
        return max(0.0, self.margin - difference)

    def gradient(self, difference: float) -> float:
        return -1.0 if difference < self.margin else 0.0
