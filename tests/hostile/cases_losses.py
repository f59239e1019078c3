"""Losses of the user's own that are wrong, for `sgd` and `losses.check`."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

import lfm_np
from lfm_np import losses

from .case import Case, Either, Holds, raises
from .cases_solvers import FINE
from .matrices import plain

BAD = (TypeError, ValueError)


class Pointwise:
    def value(self, score, target):
        return 0.5 * (score - target) ** 2

    def gradient(self, score, target):
        return score - target


class Fine(Pointwise):
    pass


class WrongSign(Pointwise):
    def gradient(self, score, target):
        return target - score


class GivesNan(Pointwise):
    def gradient(self, score, target):
        return math.nan


class GivesInfinity(Pointwise):
    def value(self, score, target):
        return math.inf


class Overflows(Pointwise):
    def value(self, score, target):
        return math.exp(score * score)

    def gradient(self, score, target):
        return 2 * score * math.exp(score * score)


class Divides(Pointwise):
    def value(self, score, target):
        return 1 / (score - score)


class LogOfNegative(Pointwise):
    def value(self, score, target):
        return math.log(score)

    def gradient(self, score, target):
        return 1 / score


class GivesText(Pointwise):
    def value(self, score, target):
        return "loss"


class GivesNothing(Pointwise):
    def gradient(self, score, target):
        pass


class GivesComplex(Pointwise):
    def gradient(self, score, target):
        return 1j * score


class GivesPair(Pointwise):
    def gradient(self, score, target):
        return score, target


class GivesInt(Pointwise):
    def value(self, score, target):
        return 1

    def gradient(self, score, target):
        return 0


class NeedsModule(Pointwise):
    def value(self, score, target):
        import json

        return len(json.dumps(score))


class Undefined(Pointwise):
    def value(self, score, target):
        return no_such_name(score)  # noqa: F821


class Throws(Pointwise):
    def value(self, score, target):
        raise ValueError("no loss today")


class ThrowsRarely(Pointwise):
    def gradient(self, score, target):
        if score > 1e-3:
            raise ValueError("no slope today")
        return score - target


class TextParameter(Pointwise):
    mode = "fast"

    def value(self, score, target):
        return score if self.mode == "fast" else target


class NoGradient:
    def value(self, score, target):
        return score


class OddNames:
    def value(self, s, x):
        return s

    def gradient(self, s, x):
        return 1.0


class TwoKinds:
    def value(self, score, target):
        return score

    def gradient(self, difference):
        return 1.0


class OddTargets(Pointwise):
    targets = (1, 0)


class OddTrials:
    trials = 2.5

    def value(self, difference):
        return max(0.0, -difference)

    def gradient(self, difference):
        return -1.0 if difference < 0 else 0.0


class ListUnfilled:
    """Leaves the slopes of the negatives as they were."""

    def value(self, positive, negatives):
        return -positive

    def gradient(self, positive, negatives, slopes=None):
        return -1.0


class ListTooLong:
    def value(self, positive, negatives):
        return -positive

    def gradient(self, positive, negatives):
        return -1.0, np.ones(len(negatives) + 100_000)


class ListTooShort(ListTooLong):
    def gradient(self, positive, negatives):
        return -1.0, np.ones(0)


class ListWrites(ListTooLong):
    """Overwrites the scores that it is given."""

    def gradient(self, positive, negatives):
        negatives[:] = 0.0
        return -1.0, negatives


class Raising:
    @property
    def value(self):
        raise RuntimeError("not even a method")


SLOPES = raises(ValueError, "gradient", "one slope for each of negatives")
TOLD = raises((TypeError, ValueError), "value|gradient")
SGD: dict[str, tuple[Any, Any]] = {
    "a class": (losses.BPR, raises(TypeError, "loss", "instance")),
    "None": (None, raises(TypeError, "loss")),
    "text": ("bpr", raises(TypeError, "loss")),
    "a function": (lambda s: s, raises(TypeError, "loss")),
    "no gradient": (NoGradient(), raises(TypeError, "gradient")),
    "odd names": (OddNames(), raises(TypeError, "score, target")),
    "two kinds": (TwoKinds(), raises(TypeError, "pointwise", "pairwise")),
    "odd targets": (OddTargets(), raises(TypeError, "targets")),
    "odd trials": (OddTrials(), raises(TypeError, "trials")),
    "odd list": (ListUnfilled(), raises(TypeError, "gradient")),
    "list too long": (ListTooLong(), SLOPES),
    "list too short": (ListTooShort(), SLOPES),
    "list that writes": (ListWrites(), raises(ValueError, "gradient must not write to negatives")),
    "a property that raises": (Raising(), raises(BAD, "value")),
    "its own": (Fine(), FINE),
    "wrong sign": (WrongSign(), Either(FINE, raises((RuntimeError, ValueError), "epoch|gradient"))),
    "nan": (GivesNan(), raises((RuntimeError, ValueError), "epoch|gradient")),
    "infinite": (GivesInfinity(), raises((RuntimeError, ValueError), "epoch|value")),
    "overflows": (Overflows(), Either(FINE, raises((RuntimeError, ValueError), "epoch"))),
    "divides by zero": (Divides(), raises((RuntimeError, ValueError), "epoch|value")),
    "log of negative": (LogOfNegative(), raises((RuntimeError, ValueError), "epoch|value")),
    "text value": (GivesText(), TOLD),
    "no value": (GivesNothing(), TOLD),
    "complex value": (GivesComplex(), TOLD),
    "pair": (GivesPair(), TOLD),
    "ints": (GivesInt(), FINE),
    "imports": (NeedsModule(), raises(TypeError, "NeedsModule", "compiled")),
    "undefined name": (Undefined(), TOLD),
    "always raises": (Throws(), raises(TypeError, "Throws.value", "raise")),
    "rarely raises": (ThrowsRarely(), raises(TypeError, "ThrowsRarely.gradient", "raise")),
    "text parameter": (TextParameter(), raises(TypeError, "mode")),
}
CHECK: dict[str, tuple[Any, Any]] = {
    "fine": (Fine(), Holds(lambda result, **_: result is None)),
    "wrong sign": (WrongSign(), raises(ValueError, "gradient", "finite differences")),
    "nan": (GivesNan(), raises(ValueError, "gradient", "finite")),
    "infinite": (GivesInfinity(), raises(ValueError, "value", "finite")),
    "overflows": (Overflows(), raises(ValueError, "finite")),
    "divides by zero": (Divides(), raises(ValueError, "finite")),
    "log of negative": (LogOfNegative(), raises(ValueError, "finite")),
    "text value": (GivesText(), TOLD),
    "no value": (GivesNothing(), TOLD),
    "always raises": (Throws(), raises(TypeError, "Throws.value", "raise")),
    "list too long": (ListTooLong(), SLOPES),
    "list too short": (ListTooShort(), SLOPES),
    "a class": (losses.BPR, raises(TypeError, "loss", "instance")),
}


def cases() -> list[Case]:
    usual = {"factors": 4, "epochs": 2, "random_state": 0, "num_threads": 1}
    found = [
        Case(
            f"sgd: loss: {name}",
            lambda X, loss: lfm_np.sgd(X, loss, **usual),
            expect,
            lambda loss=loss: {"X": plain(), "loss": loss},
        )
        for name, (loss, expect) in SGD.items()
    ]
    return found + [
        Case(f"losses.check: {name}", losses.check, expect, lambda loss=loss: {"loss": loss})
        for name, (loss, expect) in CHECK.items()
    ]
