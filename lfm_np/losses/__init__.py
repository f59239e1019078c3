"""Losses of `sgd`: one small class each, the formula written once.

A loss is a dataclass, a NamedTuple or any class whose attributes are numbers, with two methods, ``value`` and
``gradient``, in plain Python that Numba can compile. The names of their parameters say what kind of loss it is:

* ``(self, score, target)``, pointwise: one cell. A drawn negative is a cell too. The target of a stored cell is its
  value, that of a negative 0, unless the class says ``targets = (of a stored cell, of a negative)``.
* ``(self, difference)``, pairwise: the score of a stored cell minus the score of a negative. ``gradient`` is the
  derivative by the difference.
* ``(self, positive, negatives)``, list: the score of a stored cell and an array of the scores of the negatives.
  ``gradient`` returns the derivative by ``positive`` and an array of the derivatives by ``negatives``.

`sgd` owns everything else: sparsity, sampling, weights, biases and regularisation. A class may say more:

* ``weighted`` (attribute or field): whether the value of a stored cell multiplies its loss;
* ``trials`` (pairwise): draw negatives until one has a positive loss, at most ``trials``, and weigh it by its estimated
  rank;
* ``cosine``: scores are cosines of the angle between the factors;
* ``correct_logq`` (list): a negative's score arrives as s − T·log(M·q), q being the probability of drawing it and T the
  attribute ``temperature`` of a loss that divides scores by it, or 1.

`check` verifies a loss. Every built-in loss is stable for scores of any size that occurs (tests: scores of ±1000).
"""

from lfm_np.losses.listwise import CosineContrastive, SampledSoftmax
from lfm_np.losses.pairwise import BPR, WARP, MarginHinge
from lfm_np.losses.pointwise import Hinge, Logistic, Poisson, Squared
from lfm_np.losses.protocol import check

__all__ = [
    "BPR",
    "WARP",
    "CosineContrastive",
    "Hinge",
    "Logistic",
    "MarginHinge",
    "Poisson",
    "SampledSoftmax",
    "Squared",
    "check",
]
