import copy
import math
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optional import require
from oracles_sgd import record_loss
from strategies import examples

import lfm_np
from lfm_np import losses
from lfm_np.kernels import sgd_loss
from lfm_np.losses import protocol

ALL = [
    losses.Squared(),
    losses.Logistic(),
    losses.Hinge(),
    losses.Poisson(),
    losses.BPR(),
    losses.MarginHinge(0.7),
    losses.WARP(0.7),
    losses.SampledSoftmax(0.6),
    losses.CosineContrastive(0.3, 1.5),
]
POINTWISE, PAIRWISE, LIST = ALL[:4], ALL[4:7], ALL[7:]
COMPILED = {id(loss): protocol.compiled(loss) for loss in ALL}
names = {"ids": lambda loss: type(loss).__name__}
scores = st.floats(-20, 20)
wide = st.floats(-1e3, 1e3)
lists = st.lists(scores, min_size=2, max_size=6)


def evaluate(loss, point):
    """Value and slopes of the compiled loss: what the epoch kernel calls."""
    return protocol._evaluate(protocol.read(loss).kind, COMPILED[id(loss)], np.asarray(point, np.float64))


def targets(loss):
    return loss.targets if hasattr(loss, "targets") else (0.0, 1.0, 4.0)


@pytest.mark.small
@pytest.mark.parametrize("loss", ALL, **names)
def test_check_passes(loss):
    losses.check(loss)


@pytest.mark.small
@pytest.mark.parametrize("loss", ALL, **names)
@examples(250)  # of each of nine losses
@given(data=st.data())
def test_values_and_slopes_are_the_textbook_formulas(loss, data):
    kind = protocol.read(loss).kind
    fields = {name: getattr(loss, name) for name in type(loss).__dataclass_fields__}
    name = type(loss).__name__
    if kind == "list":
        point = data.draw(lists)
        expected = record_loss(name, fields, point, 1.0)
    elif kind == "pairwise":
        point = [data.draw(scores)]
        value, slopes = record_loss(name, fields, [point[0], 0.0], 1.0)
        expected = value, slopes[:1]
    else:
        point = [data.draw(scores), data.draw(st.sampled_from(targets(loss)))]
        if hasattr(loss, "targets") and point[1] != loss.targets[0]:  # the negative's part of a record
            whole, alone = record_loss(name, fields, [0.5, point[0]], 1.0), record_loss(name, fields, [0.5], 1.0)
            expected = whole[0] - alone[0], whole[1][1:]
        else:
            value, slopes = record_loss(name, fields, point[:1], point[1])
            expected = value, slopes
    value, slopes = evaluate(loss, point)
    assert value == pytest.approx(expected[0], rel=1e-12, abs=1e-12)
    np.testing.assert_allclose(slopes, expected[1], rtol=1e-9, atol=1e-12)


@pytest.mark.small
@pytest.mark.parametrize("loss", ALL, **names)
@given(data=st.data())
def test_properties(loss, data):
    """Non-negative, finite for any score, convex; pairwise losses fall with the difference."""
    kind = protocol.read(loss).kind
    size = data.draw(st.integers(2, 5)) if kind == "list" else 1
    a, b = (np.array(data.draw(st.lists(wide, min_size=size, max_size=size))) for _ in range(2))
    target = [data.draw(st.sampled_from(targets(loss)))] if kind == "pointwise" else []
    (left, slopes), (right, _) = evaluate(loss, [*a, *target]), evaluate(loss, [*b, *target])
    middle, _ = evaluate(loss, [*(a + b) / 2, *target])
    if type(loss).__name__ != "CosineContrastive":  # 1 − s is negative beyond a cosine's range
        assert min(left, right) >= -1e-12
    assert np.isfinite([left, right, middle]).all()
    assert np.isfinite(slopes).all()
    slack = 1e-9 * (1 + abs(left) + abs(right))
    assert middle <= (left + right) / 2 + slack
    assert right >= left + np.dot(slopes[:size], b - a) - slack * 10  # above its tangents
    if kind == "pairwise":
        assert slopes[0] <= 0
    if kind == "list":
        assert slopes[0] <= 0 <= slopes[1:].min()


@pytest.mark.small
@given(point=lists, shift=st.floats(-50, 50))
def test_softmax_depends_on_differences_only(point, shift):
    loss = ALL[7]
    value, slopes = evaluate(loss, point)
    moved, moved_slopes = evaluate(loss, np.add(point, shift))
    assert moved == pytest.approx(value, rel=1e-9, abs=1e-9)
    np.testing.assert_allclose(moved_slopes, slopes, rtol=1e-7, atol=1e-9)
    assert slopes.sum() == pytest.approx(0, abs=1e-12)


@pytest.mark.small
@pytest.mark.parametrize(
    ("loss", "kink", "before", "after"),
    [
        (losses.Hinge(), [1.0, 1.0], [-1.0], [0.0]),
        (losses.Hinge(), [-1.0, -1.0], [0.0], [1.0]),
        (losses.MarginHinge(0.75), [0.75], [-1.0], [0.0]),
        (losses.WARP(0.75), [0.75], [-1.0], [0.0]),
        (losses.CosineContrastive(0.5, 2.0), [0.25, 0.5, 0.5], [-1.0, 0.0, 0.0], [-1.0, 1.0, 1.0]),
    ],
)
def test_at_a_kink_the_slope_is_zero(loss, kink, before, after):
    function, kind = protocol.compiled(loss), protocol.read(loss).kind
    moved = 2.0**-40 * np.array([0.0, 1.0, 1.0] if kind == "list" else [1.0, 0.0][: len(kink)])
    flat = [-1.0, 0.0, 0.0] if kind == "list" else [0.0]
    for step, slopes in ((0, flat), (-1, before), (1, after)):
        found = protocol._evaluate(kind, function, np.array(kink) + step * moved)
        assert found[0] == pytest.approx(0.75 if kind == "list" else 0.0, abs=1e-11)
        np.testing.assert_array_equal(found[1], slopes)


@pytest.mark.small
@pytest.mark.parametrize("score", [29.0, 29.5, 30.0, 30.5, 31.0, 45.0, 1000.0])
@pytest.mark.parametrize("target", [0.0, 1.0, 7.0])
def test_poisson_goes_on_as_the_tangent_of_the_exponential_at_30(score, target):
    rate = math.exp(score) if score <= 30 else math.exp(30) * (score - 29)
    entropy = target * math.log(target) - target if target else 0.0
    value, slopes = evaluate(POINTWISE[3], [score, target])
    assert value == pytest.approx(rate - target * score + entropy, rel=1e-15)
    assert slopes == pytest.approx(math.exp(min(score, 30)) - target, rel=1e-15)


@pytest.mark.small
def test_what_losses_are_without_arguments():
    made = [losses.Logistic(), losses.Hinge(), losses.BPR(), losses.MarginHinge(), losses.WARP()]
    assert list(map(repr, [*made, losses.SampledSoftmax(), losses.CosineContrastive()])) == [
        "Logistic(weighted=False)",
        "Hinge(weighted=False)",
        "BPR(weighted=False)",
        "MarginHinge(margin=1.0, weighted=False)",
        "WARP(margin=1.0, trials=20, weighted=False)",
        "SampledSoftmax(temperature=1.0, correct_logq=True, weighted=False)",
        "CosineContrastive(margin=0.4, weight=1.0, weighted=False)",
    ]


@pytest.mark.small
def test_softmax_with_one_negative_is_bpr():
    softmax, bpr = losses.SampledSoftmax(), losses.BPR()
    for a, b in ((0.3, -1.2), (5.0, 6.0)):
        assert softmax.value(a, np.array([b])) == pytest.approx(bpr.value(a - b))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("loss", ALL, **names)
def test_gradients_equal_autograd(loss, dtype):
    torch = require("torch")
    functions = {
        "Squared": lambda s, x: (s - x) ** 2 / 2,
        "Logistic": lambda s, x: torch.nn.functional.binary_cross_entropy_with_logits(s, x),
        "Hinge": lambda s, x: torch.relu(1 - x * s),
        "Poisson": lambda s, x: torch.nn.functional.poisson_nll_loss(s, x),
        "BPR": lambda d: -torch.nn.functional.logsigmoid(d),
        "MarginHinge": lambda d: torch.relu(0.7 - d),
        "WARP": lambda d: torch.relu(0.7 - d),
        "SampledSoftmax": lambda *s: torch.nn.functional.cross_entropy(torch.stack(s)[None] / 0.6, torch.tensor([0])),
        "CosineContrastive": lambda p, *n: 1 - p + 1.5 * torch.relu(torch.stack(n) - 0.3).mean(),
    }
    kind, rng = protocol.read(loss).kind, np.random.default_rng(0)
    for _ in range(20):
        point = rng.normal(size=4 if kind == "list" else 1).astype(dtype)
        s = [torch.tensor(v, requires_grad=True) for v in point]
        target = [rng.choice(targets(loss))] if kind == "pointwise" else []
        functions[type(loss).__name__](*s, *(torch.tensor(t, dtype=s[0].dtype) for t in target)).backward()
        _, slopes = evaluate(loss, [*point, *target])
        tolerance = 1e-12 if dtype == "float64" else 2e-6
        np.testing.assert_allclose(slopes, [v.grad for v in s], rtol=tolerance, atol=tolerance)


# ---- a loss of one's own ---------------------------------------------------------------------------------------------


def make_loss(factor):
    """Two calls give two classes of the same name and fields."""

    class Scaled(NamedTuple):
        power: float = 2.0

        def value(self, difference):
            return max(0.0, 1.0 - difference) ** self.power * factor

        def gradient(self, difference):
            return -factor * self.power * max(0.0, 1.0 - difference) ** (self.power - 1.0)

    return Scaled()


@pytest.mark.small
def test_classes_of_one_name_run_their_own_code():
    one, two = make_loss(1.0), make_loss(3.0)
    assert type(one).__name__ == type(two).__name__
    assert one == two  # as the tuples they are
    X = lfm_np.to_csr(lfm_np.datasets.make_interactions(30, 20, 5, random_state=0), shape=(30, 20))
    fits = [lfm_np.sgd(X, loss, factors=2, epochs=2, random_state=0, regularization=0) for loss in (one, two, one)]
    firsts = [fit.history[0]["sampled_loss"] for fit in fits]
    assert firsts[1] > 2 * firsts[0]
    assert firsts[2] == firsts[0]


@pytest.mark.small
def test_plain_class_and_instance_attributes():
    class Shifted:
        def __init__(self, shift):
            self.shift = shift

        def value(self, score, target):
            return (score - target - self.shift) ** 2

        def gradient(self, score, target):
            return 2.0 * (score - target - self.shift)

    losses.check(Shifted(3))
    value, slope = sgd_loss.call_point(protocol.compiled(Shifted(3)), 1.0, 0.5)
    assert (value, slope) == (6.25, -5.0)


class Slotted:
    __slots__ = "power"  # one name may stand alone
    targets = None

    def __init__(self, power):
        self.power = power

    def value(self, score, target):
        return abs(score - target) ** self.power

    def gradient(self, score, target):
        return self.power * abs(score - target) ** (self.power - 1.0) * (1.0 if score > target else -1.0)


@dataclass(slots=True)
class Wide(Slotted):
    power: float = 3.0
    scale: float = 0.5

    def value(self, score, target):
        return self.scale * abs(score - target) ** self.power

    def gradient(self, score, target):
        return self.scale * self.power * (score - target) * abs(score - target) ** (self.power - 2.0)


@pytest.mark.small
@pytest.mark.parametrize(
    ("loss", "named"), [(Slotted(2.0), "Slotted(power=2.0)"), (Wide(), "Wide(power=3.0, scale=0.5)")]
)
def test_attributes_in_slots_are_parameters(loss, named):
    losses.check(loss)
    X = lfm_np.to_csr(lfm_np.datasets.make_interactions(30, 20, 5, random_state=0), shape=(30, 20))
    assert lfm_np.sgd(X, loss, factors=2, epochs=1, random_state=0, sampler=None).params["loss"] == named
    with pytest.raises(TypeError, match=r"Slotted\.power must be a number"):
        protocol.read(Slotted("two"))


SCRIPT = """
import time
import numpy as np, scipy.sparse as sp, lfm_np

class Custom:
    def value(self, difference):
        return {factor} * max(0.0, 1.0 - difference)
    def gradient(self, difference):
        return -{factor} if difference < 1.0 else 0.0

X = sp.csr_array(np.random.default_rng(0).random((50, 40)) < 0.1, dtype=np.float32)
print(lfm_np.sgd(X, Custom(), factors=4, epochs=1, random_state=0).history[0]["sampled_loss"])
from lfm_np.kernels.sgd_cells import train_cells
print(getattr(train_cells, "stats", None) and sum(train_cells.stats.cache_misses.values()))
"""


def test_an_edited_class_runs_its_new_code_and_the_kernel_is_cached(tmp_path):
    script, outputs = tmp_path / "script.py", []
    environment = {**os.environ, "PYTHONPATH": str(Path(lfm_np.__file__).parents[1])}
    for factor in ("1.0", "4.0"):
        script.write_text(SCRIPT.format(factor=factor))
        done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True, env=environment)
        outputs.append(done.stdout.split())
    assert float(outputs[1][0]) > 2 * float(outputs[0][0])
    assert outputs[1][1] in ("0", "None")


def test_the_own_losses_are_compiled_once_and_those_of_others_every_time():
    class Mine(losses.BPR):
        pass

    class Edited(losses.BPR):
        def gradient(self, difference):
            return -1.0

    for loss in ALL:
        assert protocol.compiled(loss) is protocol.compiled(copy.copy(loss))
    assert protocol.compiled(Mine()) is protocol.compiled(losses.BPR())
    assert protocol.compiled(Edited()) is not protocol.compiled(Edited())
    at_zero = [sgd_loss.call_point(protocol.compiled(losses.MarginHinge(margin)), 0.0, 0.0) for margin in (0.5, 2.0)]
    assert at_zero == [(0.5, -1.0), (2.0, -1.0)]


def test_methods_of_no_module():
    class Mine(losses.BPR):
        def gradient(self, difference):
            return -1.0

    Mine.gradient.__module__ = None
    assert sgd_loss.call_point(protocol.compiled(Mine()), 0.0, 0.0) == (math.log(2), -1.0)


class NoGradient:
    def value(self, difference):
        return difference


class ByKeyword:
    def value(self, *, difference):
        return -difference

    def gradient(self, *, difference):
        return -1.0


class WrongNames:
    def value(self, s, t):
        return 0.0

    def gradient(self, s, t):
        return 0.0


class Mixed:
    def value(self, score, target):
        return 0.0

    def gradient(self, difference):
        return 0.0


class Overflows:
    def value(self, score, target):
        return math.log1p(math.exp(score))

    def gradient(self, score, target):
        return math.exp(score) / (1 + math.exp(score))


class WrongList:
    def value(self, positive, negatives):
        return negatives.sum() - positive

    def gradient(self, positive, negatives):
        return -1.0, 2 * np.ones(len(negatives))


class Halved:
    def value(self, difference):
        return difference**2

    def gradient(self, difference):
        return difference


class Spoils:
    """``sgd`` would go on with what is left of the scores."""

    def value(self, positive, negatives):
        negatives[:] = 0.0
        return -positive

    def gradient(self, positive, negatives):
        return -1.0, np.zeros(len(negatives))


class SpoilsToo(NamedTuple):
    def value(self, positive, negatives):
        return -positive

    def gradient(self, positive, negatives):
        negatives[:] = 0.0
        return -1.0, negatives


class Clips(NamedTuple):
    def value(self, positive, negatives):
        return negatives.max() - positive

    def gradient(self, positive, negatives):
        np.clip(negatives, -20.0, 20.0, negatives)
        return -1.0, (negatives == negatives.max()).astype(np.float64)


class Hidden:
    def __init__(self):
        self._margin = 1.0

    def value(self, difference):
        return self._margin - difference

    def gradient(self, difference):
        return -1.0


class Text:
    word = 3.0

    def __init__(self):
        self.name = "text"

    def value(self, difference):
        return 0.0

    def gradient(self, difference):
        return 0.0


class Listed(NamedTuple):
    targets = [1.0, -1.0]  # noqa: RUF012 (a mistake that users make)

    def value(self, score, target):
        return 0.0

    def gradient(self, score, target):
        return 0.0


class Aimless(Listed):
    targets = (float("nan"), 0.0)


class NeedsTrials(NamedTuple):
    trials: int = 3

    def value(self, score, target):
        return 0.0

    def gradient(self, score, target):
        return 0.0


@pytest.mark.small
@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (losses.BPR, "instance"),
        (NoGradient(), "method gradient"),
        (WrongNames(), "WrongNames.value must take"),
        (ByKeyword(), r"ByKeyword.value must take .*, got \(self, \*, difference\)"),
        (Mixed(), "value is pointwise but its gradient is pairwise"),
        (WrongList(), r"negatives\[0\]"),
        (Halved(), r"gradient is -5 at difference = -5, but finite differences of value give -10"),
        (losses.SampledSoftmax(temperature=0.0), "SampledSoftmax.temperature"),
        (losses.CosineContrastive(weight=-0.5), "CosineContrastive.weight"),
        (losses.WARP(trials=0), "WARP.trials"),
        (Spoils(), "Spoils.value must not write to negatives"),
        (SpoilsToo(), "SpoilsToo.gradient must not write to negatives"),
        (Clips(), "Clips.gradient must not write to negatives"),
        (Text(), "Text.name must be a number"),
        (Hidden(), "Hidden._margin must not begin with _"),
        (NeedsTrials(), "trials has a meaning for pairwise"),
        (losses.Logistic(weighted=1), "Logistic.weighted"),
        (Listed(), "Listed.targets must be a tuple of two floats"),
        (Aimless(), "Aimless.targets must be finite"),
    ],
)
def test_check_says_what_is_wrong(loss, message):
    with pytest.raises((TypeError, ValueError), match=message):
        losses.check(loss)


def test_check_finds_overflow_and_what_does_not_compile():
    with pytest.raises(ValueError, match=r"Overflows.value is not finite at score = 1000"):
        losses.check(Overflows())

    class Uncompilable:
        def value(self, difference):
            return open(difference)

        def gradient(self, difference):
            return 0.0

    with pytest.raises(TypeError, match="Uncompilable cannot be compiled"):
        losses.check(Uncompilable())


class Listed:
    """Its lists are loops of their own, for which newer Pythons note how to clean up after an exception."""

    def value(self, positive, negatives):
        return sum([max(0.0, 1.0 - positive + score) for score in negatives])

    def gradient(self, positive, negatives):
        slopes = np.array([1.0 if score > positive - 1.0 else 0.0 for score in negatives])
        return -slopes.sum(), slopes


class Tried:
    def value(self, difference):
        try:
            return max(0.0, 1.0 - difference)
        except ValueError:
            return 0.0

    def gradient(self, difference):
        return -1.0 if difference < 1.0 else 0.0


def test_a_comprehension_raises_nothing():
    losses.check(Listed())
    with pytest.raises(TypeError, match=r"Tried\.value must not raise or assert"):
        losses.check(Tried())
