"""Losses that raise, spoil what they get, change their minds or give too little, beside steps by hand."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

import lfm_np
from lfm_np import losses, sampling

from .case import Case, installed
from .cases_rough_treatment_of_matrices import (
    GROUP,
    U0,
    V0,
    Spilled,
    X,
    after,
    at,
    caught,
    fit,
    listed,
    names,
    rough,
    throw,
)
from .working_days import close, csr, tells, wrong

RATINGS: dict[str, Any] = {"sampler": None, "factors": 3, "dtype": "float64", "random_state": 0, "init": (U0, V0)}
ONE = sp.csr_array(([1.0], ([0], [0])), shape=(1, 2))
u, V = np.array([[0.4, -0.3]]), np.array([[0.2, 0.6], [0.7, 0.1]])
S, T = float(u[0] @ V[0]), float(u[0] @ V[1])
ETA = 0.125


def _gram(*parts: Any) -> np.ndarray:
    F = np.vstack(parts)
    return F @ F.T


def _step(loss: Any, **words: Any) -> lfm_np.Factors:
    """One user who has item 0, so that item 1 is the only negative; one step."""
    given = {"factors": 2, "epochs": 1, "learning_rate": ETA, "regularization": 0.0, "dtype": "float64", **words}
    return lfm_np.sgd(ONE, loss, init=(u, V), random_state=0, **given)


def _went(done: lfm_np.Factors, by_positive: float, by_negative: float, paid: float) -> list[str]:
    mine = _gram(
        u[0] - ETA * (by_positive * V[0] + by_negative * V[1]),
        V[0] - ETA * by_positive * u[0],
        V[1] - ETA * by_negative * u[0],
    )
    return wrong(
        moved=close(_gram(done.user_factors, done.item_factors), mine, 1e-12),
        paid=close(done.history[0]["sampled_loss"], paid, 1e-12),
    )


class Fragile:
    """Divides by nothing where the rating is 4."""

    def value(self, score: float, target: float) -> float:
        return (score - target) ** 2 / (target - 4.0)

    def gradient(self, score: float, target: float) -> float:
        return 2 * (score - target) / (target - 4.0)


class Blind:
    """Has no slope where the rating is 4."""

    def value(self, score: float, target: float) -> float:
        return 0.5 * (score - target) ** 2

    def gradient(self, score: float, target: float) -> float:
        return math.nan if target == 4.0 else score - target


class Loud:
    def value(self, score: float, target: float) -> float:
        if target == 5.0:
            raise ValueError("five is too much")
        return 0.5 * (score - target) ** 2

    def gradient(self, score: float, target: float) -> float:
        if target == 5.0:
            raise ValueError("five is too much")
        return score - target


class Short:
    """Gives a slope too few where there are three negatives."""

    def value(self, positive: float, negatives: Any) -> float:
        return 0.5 * (negatives.sum() - positive) ** 2

    def gradient(self, positive: float, negatives: Any) -> Any:
        slope = negatives.sum() - positive
        return -slope, np.full(2 if len(negatives) == 3 else len(negatives), slope)


class Rude:
    """Leaves nothing of the scores that it was given."""

    def value(self, positive: float, negatives: Any) -> float:
        total = 1.0
        for m in range(len(negatives)):
            total += math.exp(negatives[m] - positive)
            negatives[m] = 1e6
        return math.log(total)

    def gradient(self, positive: float, negatives: Any) -> Any:
        pulls = np.empty(len(negatives))
        total = 1.0
        for m in range(len(negatives)):
            pulls[m] = math.exp(min(negatives[m] - positive, 700.0))
            total += pulls[m]
            negatives[m] = -1e6
        pulls /= total
        return -pulls.sum(), pulls


class Moody:
    """A margin that its owner changes."""

    def __init__(self, margin: float) -> None:
        self.margin = margin

    def value(self, difference: float) -> float:
        return max(0.0, self.margin - difference)

    def gradient(self, difference: float) -> float:
        return -1.0 if self.margin > difference else 0.0


class Steep:
    """The slope of another loss."""

    def value(self, score: float, target: float) -> float:
        return 0.5 * (score - target) ** 2

    def gradient(self, score: float, target: float) -> float:
        return score - target if abs(score) < 100.0 else math.inf


def _fragile(home: Path) -> list[str]:
    got = caught(lambda: lfm_np.sgd(csr(X), Fragile(), epochs=2, checkpoint=home / "run", **RATINGS))
    told = isinstance(got, Exception) and tells(got, "division|fragile|value|gradient|loss|diverged")
    return ([] if told else [repr(got)]) + wrong(nothing=names(home) == [])


def _blind(home: Path) -> list[str]:
    got = caught(lambda: lfm_np.sgd(csr(X), Blind(), epochs=2, learning_rate=0.01, **RATINGS))
    if not isinstance(got, lfm_np.SolverError):
        told = isinstance(got, (ValueError, TypeError)) and tells(got, "blind|loss|gradient")
        return [] if told else [repr(got)]
    before: Any = got.factors
    return wrong(
        epoch=tells(got, "epoch"),
        start=close(_gram(before.user_factors, before.item_factors), _gram(U0, V0), 1e-10),
    )


def _loud(home: Path) -> list[str]:
    got = caught(lambda: lfm_np.sgd(csr(X), Loud(), epochs=2, **RATINGS))
    return [] if isinstance(got, Exception) and tells(got, "five|loud|loss|value|gradient") else [repr(got)]


def _short(home: Path) -> list[str]:
    got = caught(lambda: lfm_np.sgd(csr(X), Short(), negatives=3, factors=2, epochs=1, random_state=0))
    told = isinstance(got, (ValueError, TypeError)) and tells(got, "gradient|slope|negatives|short|derivative")
    return [] if told else [repr(got)]


def _rude(home: Path) -> list[str]:
    """Right as if the scores were the loss's own, or an error that says that they are not."""
    e = math.exp(T - S)
    p = e / (1 + 2 * e)
    try:
        done = _step(Rude(), negatives=2)
    except (TypeError, ValueError) as error:
        return wrong(told=tells(error, "rude|negatives|read-only|readonly"))
    return _went(done, -2 * p, 2 * p, math.log(1 + 2 * e))


def _moody(home: Path) -> list[str]:
    loss = Moody(1.0)
    found = _went(_step(loss), -1.0, 1.0, 1.0 - (S - T))
    loss.margin = 2.5
    found += _went(_step(loss), -1.0, 1.0, 2.5 - (S - T))
    loss.margin = -9.0
    return found + _went(_step(loss), 0.0, 0.0, 0.0)


def _moody_within(home: Path) -> list[str]:
    """The margin of the call is that of its beginning, and a run with another does not go on."""
    loss, path = Moody(1.0), home / "run"

    def change(factors: Any) -> None:
        loss.margin = 50.0

    try:
        done = _step(loss, epochs=2, callback=at(1, change), checkpoint=path)
    except (TypeError, ValueError) as error:
        return wrong(told=tells(error, "loss|moody|margin"))
    v, w, z = V[0] + ETA * u[0], V[1] - ETA * u[0], u[0] + ETA * (V[0] - V[1])
    old = path.read_bytes()
    got = caught(lambda: _step(loss, epochs=3, checkpoint=path))
    return wrong(
        second=close(done.history[1]["sampled_loss"], 1.0 - z @ (v - w), 1e-12),
        refused=isinstance(got, ValueError) and tells(got, "loss|moody|margin"),
        whole=path.read_bytes() == old,
    )


def _pickled(home: Path) -> list[str]:
    """A loss that went through a pickle is the same loss for a checkpoint."""
    path = home / "run"
    _step(Moody(1.0), checkpoint=path)
    done = _step(pickle.loads(pickle.dumps(Moody(1.0))), epochs=2, checkpoint=path)
    plain = _step(Moody(1.0), epochs=2)
    return wrong(
        bits=np.array_equal(done.item_factors, plain.item_factors),
        two=[r["iteration"] for r in done.history] == [1, 2],
        first=_went(_step(Moody(1.0)), -1.0, 1.0, 1.0 - (S - T)) == [],
    )


def _far_scores(home: Path) -> list[str]:
    got = caught(lambda: losses.check(Steep()))
    return [] if isinstance(got, ValueError) and tells(got, "steep", "finite|inf") else [repr(got)]


def _diverged(home: Path) -> list[str]:
    """One step a cell along 10⁶ times the slope, and the start is what is left."""
    words: dict[str, Any] = {**RATINGS, "regularization": 0.0}
    path = home / "run"
    got = caught(lambda: lfm_np.sgd(csr(X), losses.Squared(), epochs=9, learning_rate=1e6, checkpoint=path, **words))
    if not isinstance(got, lfm_np.SolverError):
        return [repr(got)]
    left: Any = got.factors
    return wrong(
        epoch=tells(got, "epoch"),
        finite=bool(np.isfinite(left.user_factors).all() and np.isfinite(left.item_factors).all()),
        history=all(np.isfinite(r["sampled_loss"]) for r in left.history),
        pickled=isinstance(pickle.loads(pickle.dumps(got)), lfm_np.SolverError),
    )


def _nothing_to_draw(home: Path) -> list[str]:
    """A user who has everything pays nothing and stays; the other's step is as if alone."""
    both = sp.csr_array(np.array([[1.0, 1.0], [1.0, 0.0]]))
    start = np.vstack([[0.5, 0.5], u]), V
    done = lfm_np.sgd(
        both, losses.BPR(), factors=2, epochs=1, init=start, learning_rate=ETA, regularization=0.0, dtype="float64",
        sampler=sampling.Hard(3), random_state=0,
    )  # fmt: skip
    g = -1 / (1 + math.exp(S - T))
    mine = _gram(start[0][0], u[0] - ETA * g * (V[0] - V[1]), V[0] - ETA * g * u[0], V[1] + ETA * g * u[0])
    return wrong(
        skipped=(done.params or {})["skipped_rows"] == 1,
        moved=close(_gram(done.user_factors, done.item_factors), mine, 1e-12),
        paid=close(done.history[0]["sampled_loss"], math.log1p(math.exp(T - S)) / 3, 1e-12),
    )


def _thrown_in_sgd(home: Path) -> list[str]:
    mine, path = Spilled("tea"), home / "run"
    words: dict[str, Any] = {**RATINGS, "schedule": "adagrad", "learning_rate": 0.01}
    got = caught(
        lambda: lfm_np.sgd(csr(X), losses.Squared(), epochs=4, callback=at(3, throw(mine)), checkpoint=path, **words)
    )
    on = lfm_np.sgd(csr(X), losses.Squared(), epochs=4, checkpoint=path, **words)
    plain = lfm_np.sgd(csr(X), losses.Squared(), epochs=4, **words)
    return wrong(
        itself=got is mine,
        bits=np.array_equal(on.user_factors, plain.user_factors),
        history=[r["sampled_loss"] for r in on.history] == [r["sampled_loss"] for r in plain.history],
        alone=names(home) == ["run"],
    )


class Torn:
    """Ends in the middle of being read."""

    def __len__(self) -> int:
        return 5

    def __getitem__(self, place: int) -> int:
        if place > 2:
            raise RuntimeError("torn")
        return place

    def __iter__(self) -> Iterator[int]:
        return (self[place] for place in range(5))


class Locked(Mapping[str, float]):
    def __getitem__(self, key: str) -> float:
        if key == "item":
            raise OSError("locked")
        return 0.5

    def __iter__(self) -> Iterator[str]:
        return iter(("user", "item"))

    def __len__(self) -> int:
        return 2


def _torn(home: Path) -> list[str]:
    done = fit(iterations=2)
    got = caught(lambda: done.recommend(0, items=Torn()))
    return wrong(
        error=isinstance(got, (RuntimeError, TypeError, ValueError)) and tells(got, "torn|items"), right=listed(done)
    )


def _locked(home: Path) -> list[str]:
    got = caught(lambda: lfm_np.sgd(csr(X), factors=2, epochs=1, regularization=Locked(), random_state=0))
    return wrong(error=isinstance(got, Exception) and tells(got, "locked|regularization"))


def _metrics_used_up(home: Path) -> list[str]:
    done, T = fit(iterations=1), np.where(np.isnan(X), 1.0, np.nan)
    metrics = (name for name in ("hit_rate@20",))
    found: list[float] = []

    def judge() -> None:
        found.append(lfm_np.evaluate(done, csr(X), csr(T), metrics)["hit_rate@20"])  # type: ignore[arg-type]

    one, two = caught(judge), caught(judge)
    return wrong(
        first=found == [1.0] if one is None else tells(one, "metrics"),
        second=two is not None and tells(two, "metrics|hit_rate"),
    )


def _torch_state() -> tuple[Any, ...]:
    import torch

    state = int(torch.get_rng_state().sum())
    return torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled(), state


def _in_torch(method: str) -> Callable[[Path], list[str]]:
    def work(home: Path) -> list[str]:
        before, mine = _torch_state(), Spilled("ink")
        words: dict[str, Any] = {"factors": 3, "init": (U0, V0), "dtype": "float64", "callback": at(2, throw(mine))}
        if method == "als":
            got = caught(lambda: lfm_np.torch_backend.als(csr(X), iterations=4, **words))
        else:
            got = caught(lambda: lfm_np.torch_backend.sgd(csr(X), losses.BPR(), epochs=4, random_state=0, **words))
        return wrong(itself=got is mine, torch=before == _torch_state())

    return work


def _torch_case(method: str) -> Case:
    call = after(_in_torch(method))

    def warm() -> list[str]:
        _torch_state()
        return call()

    return GROUP.right(f"a callback of torch's {method} that raises", warm, lambda found: found == [])


def cases() -> list[Case]:
    found = [
        rough("a loss that divides by nothing in some cells", _fragile),
        rough("a loss whose slope is not a number in some cells", _blind),
        rough("a loss that raises in some cells", _loud),
        rough("a list loss with a slope too few for three negatives", _short),
        rough("a list loss that spoils the scores that it gets", _rude),
        rough("a loss whose margin changes between calls", _moody),
        rough("a loss whose margin changes during a call", _moody_within),
        rough("a loss out of a pickle goes on with a checkpoint", _pickled),
        rough("a loss that is infinite only far away", _far_scores),
        rough("steps that are far too long", _diverged),
        rough("a user with nothing to draw beside one with, by hard draws", _nothing_to_draw),
        rough("a callback of sgd by adagrad that raises", _thrown_in_sgd),
        rough("items that tear while they are read", _torn),
        rough("a mapping that is locked", _locked),
        rough("metrics from a generator, twice", _metrics_used_up),
    ]
    if installed("torch"):
        found += [_torch_case("als"), _torch_case("sgd")]
    return found
