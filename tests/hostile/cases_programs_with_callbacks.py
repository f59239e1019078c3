"""Studies whose callbacks measure, save, stop, raise and call again, and losses of one's own beside loops."""

from __future__ import annotations

import itertools
import math
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp

import lfm_np
from lfm_np import losses

from .case import Case
from .places import together
from .programs import RULE, Programs, listed, plain, served, swept
from .working_days import all_scores, close, csr, folder, judged, raised, same, stars, start, tells, wrong

program = Programs("program study")
X = stars()
SGD: dict[str, Any] = {"factors": 3, "epochs": 4, "random_state": 2}


def _fit(kind: str, n: int = 4, **words: Any) -> lfm_np.Factors:
    if kind == "als":
        return served(0, sweeps=n, **words)
    return lfm_np.sgd(csr(X), losses.BPR(), **{**SGD, "epochs": n, **words})


@program("patience by a metric, and the model of the best sweep fitted again")
def _patience() -> list[str]:
    test, curve = stars(seed=5), []

    def watch(record: dict[str, Any], factors: Any) -> None:
        record["mrr"] = lfm_np.evaluate(factors, csr(X), csr(test), ["mrr"])["mrr"]
        curve.append(record["mrr"])
        if len(curve) - 1 - int(np.argmax(curve)) >= 2:
            raise StopIteration

    fit = lfm_np.als(
        csr(X), init=start(30, 20, 3), factors=3, iterations=12, dtype="float64", callback=watch, **RULE.words
    )
    mine = [
        judged(swept(X, start(30, 20, 3)[1], n), ~np.isnan(X), ~np.isnan(test), 1)["mrr"]
        for n in range(1, len(curve) + 1)
    ]
    ends = fit.status is lfm_np.Status.STOPPED if len(curve) < 12 else len(curve) == 12
    return wrong(curve=close(curve, mine, 1e-10), ends=ends, kept=[r["mrr"] for r in fit.history] == curve)


for _kind in ("als", "sgd"):

    @program(f"{_kind}: a model saved after every sweep, loaded side by side")
    def _saved_every_sweep(kind: str = _kind) -> list[str]:
        with folder() as place:
            _fit(kind, callback=lambda record, factors: factors.save(place / str(record["iteration"])))
            loaded = [lfm_np.Factors.load(place / str(n)) for n in range(1, 5)]
            return [
                f"sweep {n}" for n, one in enumerate(loaded, 1) if not same(one, _fit(kind, n)) or not plain(one, X)
            ]

    @program(f"{_kind}: an error of the user's own at the third sweep, then on from the checkpoint")
    def _own_error(kind: str = _kind) -> list[str]:
        class DiskFull(Exception):
            pass

        def fail(record: dict[str, Any], factors: Any) -> None:
            if record["iteration"] == 3:
                raise DiskFull(record["iteration"])

        with folder() as place:
            error = raised(lambda: _fit(kind, 6, callback=fail, checkpoint=place / "c"))
            again = raised(lambda: _fit(kind, 6, callback=fail))
            on = _fit(kind, 6, checkpoint=place / "c")
            return wrong(
                error=type(error) is DiskFull and error.args == (3,) and type(again) is DiskFull,
                on=same(on, _fit(kind, 6)),
                history=[r["iteration"] for r in on.history] == [1, 2, 3, 4, 5, 6],
            )

    @program(f"{_kind}: callbacks that fit within fits, four deep")
    def _four_deep(kind: str = _kind) -> list[str]:
        inner: list[Any] = []

        def deeper(left: int) -> Callable[[Any, Any], None]:
            def call(record: dict[str, Any], factors: Any) -> None:
                if left and record["iteration"] == 2:
                    inner.append(_fit("sgd" if left % 2 else "als", 3, callback=deeper(left - 1)))

            return call

        outer = _fit(kind, 3, callback=deeper(4))
        kinds = ["sgd", "als", "sgd", "als"]
        return wrong(outer=same(outer, _fit(kind, 3)), inner=all(map(same, inner, [_fit(k, 3) for k in kinds])))

    @program(f"{_kind}: whatever leaves the callback leaves the fit, which is then as before")
    def _whatever_leaves(kind: str = _kind) -> list[str]:
        class Odd(BaseException):
            pass

        class Enough(StopIteration):
            pass

        def leave(what: BaseException) -> Callable[[Any, Any], None]:
            def call(record: dict[str, Any], factors: Any) -> None:
                raise what

            return call

        found = []
        for what in (
            Odd(),
            KeyboardInterrupt(),
            SystemExit(4),
            GeneratorExit(),
            StopAsyncIteration(),
            RecursionError(),
        ):
            error = raised(lambda what=what: _fit(kind, callback=leave(what)))
            found += wrong(**{type(what).__name__: error is what})
        stopped = _fit(kind, callback=leave(Enough()))
        return found + wrong(
            stopped=stopped.status is lfm_np.Status.STOPPED and same(stopped, _fit(kind, 1)),
            after=same(_fit(kind), _fit(kind)) and plain(_fit(kind), X),
        )

    @program(f"{_kind}: factors that a callback kept are looked at when the fit has ended")
    def _looked_at_late(kind: str = _kind) -> list[str]:
        kept: list[Any] = []

        def keep(record: dict[str, Any], factors: Any) -> None:
            kept.append(factors)
            if record["iteration"] % 2:  # the others are not looked at before the fit has ended
                factors.scores(0, 0)

        fit = _fit(kind, callback=keep)
        found = []
        for n, factors in enumerate(kept, 1):
            try:
                right = same(factors, _fit(kind, n)) and plain(factors, X)
                if kind == "als":
                    told = RULE.objective(X, factors.user_factors, factors.item_factors)
                    right = right and close(fit.history[n - 1]["objective"], told, 1e-9)
            except Exception as error:
                right = n % 2 == 0 and tells(error, "callback")
            found += wrong(**{f"sweep {n}": right})
        return found

    @program(f"{_kind}: what is written into records is there, what cannot be kept is told when it is saved")
    def _records(kind: str = _kind) -> list[str]:
        def note(record: dict[str, Any], factors: Any) -> None:
            record.update(day="Mon", twice=[1, 2], best=float(record["iteration"]), odd=np.float32(1.5))

        fit = _fit(kind, callback=note)
        notes = [(r["day"], r["twice"], r["best"], float(r["odd"])) for r in fit.history]
        with folder() as place:
            try:
                fit.save(place / "m")
            except TypeError as error:
                saved = tells(error, "history") and not list(place.iterdir())
            else:
                saved = [float(r["odd"]) for r in lfm_np.Factors.load(place / "m").history] == [1.5] * 4
        return wrong(
            notes=notes == [("Mon", [1, 2], n + 1.0, 1.5) for n in range(4)], saved=saved, same=same(fit, _fit(kind))
        )


@program("an argument too few in the callback: an error that leaves the next fit as it was")
def _callback_of_one_argument() -> list[str]:
    errors = [raised(lambda c=c: _fit("als", callback=c)) for c in (lambda record: None, 5, "print", [print])]
    return wrong(
        errors=all(isinstance(e, TypeError) for e in errors),
        told=all(tells(e, "callback") for e in errors[1:]),
        on=same(_fit("als"), _fit("als", callback=None)),
    )


@program("one callback object in three fits at once")
def _shared_callback() -> list[str]:
    lock, seen = threading.Lock(), list[tuple[int, int, int]]()

    def count(record: dict[str, Any], factors: Any) -> None:
        with lock:
            seen.append((threading.get_ident(), factors.shape[1], record["iteration"]))
        time.sleep(0.002)

    fits = together(3, lambda me: _fit(("als", "sgd", "als")[me], 5, callback=count))
    of = {t: [i for s, _, i in seen if s == t] for t in {s for s, _, _ in seen}}
    return wrong(
        records=sorted(of.values()) == [[1, 2, 3, 4, 5]] * 3,
        lists=all(plain(f, X) for f in fits),
        bits=all(same(f, _fit(k, 5)) for f, k in zip(fits, ("als", "sgd", "als"), strict=True)),
    )


@program("a callback that measures the objective by every cell")
def _objective_in_callback() -> list[str]:
    mine: list[float] = []

    def measure(record: dict[str, Any], factors: Any) -> None:
        mine.append(RULE.objective(X, factors.user_factors, factors.item_factors))
        record["own"] = lfm_np.objective(csr(X), factors)

    fit = served(0, sweeps=5, callback=measure)
    told = [r["objective"] for r in fit.history]
    return wrong(told=close(told, mine, 1e-9), own=close([r["own"] for r in fit.history], mine, 1e-9))


@program("checkpoints of a grid in one folder, one of them by mistake for two points")
def _checkpoints_of_a_grid() -> list[str]:
    with folder() as place:
        words: dict[str, Any] = {"factors": 3, "iterations": 3, "random_state": 0}
        for n, lam in enumerate((0.1, 1.0)):
            lfm_np.als(csr(X), regularization=lam, checkpoint=place / f"{n}", **words)
        raw = (place / "1").read_bytes()
        error = raised(lambda: lfm_np.als(csr(X), regularization=10.0, checkpoint=place / "1", **words))
        left = (place / "1").read_bytes() == raw
        more = {**words, "iterations": 5}
        longer = [
            lfm_np.als(csr(X), regularization=r, checkpoint=place / f"{n}", **more) for n, r in enumerate((0.1, 1.0))
        ]
        fewer = raised(lambda: lfm_np.als(csr(X), regularization=0.1, checkpoint=place / "0", **words))
        return wrong(
            said=isinstance(error, ValueError) and tells(error, "regularization"),
            left=left,
            longer=all(
                same(f, lfm_np.als(csr(X), regularization=r, **more)) for f, r in zip(longer, (0.1, 1.0), strict=True)
            ),
            fewer=isinstance(fewer, ValueError) and tells(fewer, "iterations"),
            best=listed(longer[0].recommend(range(30), N=3), all_scores(longer[0]), np.ones((30, 20), bool), 3),
        )


class Pointwise(NamedTuple):
    """A loss by its formulas, as a loop takes it."""

    loss: Any
    value: Callable[[float, float], float]
    slope: Callable[[float, float], float]


class PseudoHuber(NamedTuple):
    width: float = 1.0

    def value(self, score, target):  # type: ignore[no-untyped-def]
        return self.width**2 * (math.sqrt(1.0 + ((score - target) / self.width) ** 2) - 1.0)

    def gradient(self, score, target):  # type: ignore[no-untyped-def]
        return (score - target) / math.sqrt(1.0 + ((score - target) / self.width) ** 2)


POINTWISE = {
    "Squared": Pointwise(losses.Squared(), lambda s, x: (s - x) ** 2 / 2, lambda s, x: s - x),
    "Poisson": Pointwise(
        losses.Poisson(), lambda s, x: math.exp(s) - x * s + x * math.log(x) - x, lambda s, x: math.exp(s) - x
    ),
    "Logistic": Pointwise(
        losses.Logistic(), lambda s, x: math.log1p(math.exp(-s)), lambda s, x: -1 / (1 + math.exp(s))
    ),
    "weighted Logistic": Pointwise(
        losses.Logistic(weighted=True),
        lambda s, x: x * math.log1p(math.exp(-s)),
        lambda s, x: -x / (1 + math.exp(s)),
    ),
    "Hinge": Pointwise(losses.Hinge(), lambda s, x: max(0.0, 1 - s), lambda s, x: -1.0 if s < 1 else 0.0),
    "one's own": Pointwise(
        PseudoHuber(0.5),
        lambda s, x: 0.25 * (math.sqrt(1 + 4 * (s - x) ** 2) - 1),
        lambda s, x: (s - x) / math.sqrt(1 + 4 * (s - x) ** 2),
    ),
}


def _stepped(
    loss: Pointwise, x: np.ndarray, U: np.ndarray, V: np.ndarray, lam: dict[str, float], rates: list[float]
) -> tuple[np.ndarray, list[float]]:
    """Scores after epochs over cells (u, u), none of which meets another, and the mean loss of each epoch."""
    U, V, told = U.copy(), V.copy(), []
    for rate in rates:
        paid = 0.0
        for u in range(len(x)):
            s = float(U[u] @ V[u])
            paid += loss.value(s, x[u])
            g = loss.slope(s, x[u])
            U[u], V[u] = U[u] - rate * (g * V[u] + lam["user"] * U[u]), V[u] - rate * (g * U[u] + lam["item"] * V[u])
        told.append(paid / len(x))
    return U @ V.T, told


for _loss, _schedule in itertools.product(POINTWISE, ("constant", "inverse")):

    @program(f"cells that never meet, {_loss}, {_schedule}: every step by a loop")
    def _cells_alone(name: str = _loss, schedule: str = _schedule) -> list[str]:
        loss, x = POINTWISE[name], np.arange(1.0, 10.0) / 2
        U, V = start(9, 9, 3, seed=6)
        lam = {"user": 0.1, "item": 0.02}
        rates = [0.1 / (1 + e / 10) if schedule == "inverse" else 0.1 for e in range(5)]
        fit = lfm_np.sgd(
            sp.diags_array(x).tocsr(),
            loss.loss,
            sampler=None,
            init=(U, V),
            factors=3,
            epochs=5,
            learning_rate=0.1,
            schedule=schedule,
            regularization=lam,
            dtype="float64",
            random_state=0,
        )
        S, told = _stepped(loss, x, U, V, lam, rates)
        return wrong(
            scores=close(all_scores(fit), S, 1e-10), told=close([r["sampled_loss"] for r in fit.history], told, 1e-10)
        )


def cases() -> list[Case]:
    return program.found
