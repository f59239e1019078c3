"""Callbacks, losses and arguments that raise, lie, write to what they get or call again, and a plain fit afterwards."""

from __future__ import annotations

import copy
import gc
import pickle
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import lfm_np
from lfm_np import losses

from .case import Case
from .cases_rough_treatment_of_matrices import (
    HOW,
    V0,
    Spilled,
    X,
    at,
    caught,
    fit,
    follows,
    listed,
    names,
    rough,
    throw,
    watched,
)
from .working_days import Model, close, csr, stars, start, tells, wrong


def _own_error(home: Path) -> list[str]:
    mine, path = Spilled("milk"), home / "run"
    got = caught(lambda: fit(iterations=4, callback=at(2, throw(mine)), checkpoint=path))
    went_on = fit(iterations=4, checkpoint=path)
    return wrong(
        itself=got is mine,
        went_on=follows(went_on, 4),
        counted=[r["iteration"] for r in went_on.history] == [1, 2, 3, 4],
        alone=names(home) == ["run"],
    )


def _fit_within(home: Path) -> list[str]:
    Y = stars(9, 14, seed=3)
    P, Q = start(9, 14, 2, seed=4)
    how = Model("ratings", lam=0.7)
    inner: list[Any] = []

    def callback(record: Any, factors: Any) -> None:
        inner.append(lfm_np.als(csr(Y), **how.words, factors=2, init=(P, Q), iterations=2, dtype="float64"))

    outer = fit(callback=callback)
    return wrong(outer=follows(outer, 3), inner=len(inner) == 3 and all(follows(one, 2, Y, Q, how) for one in inner))


def _emptied_record(home: Path) -> list[str]:
    def callback(record: Any, factors: Any) -> None:
        turn = record["iteration"]
        record.clear()
        record["mine"] = 10 * turn
        record["objective"] = "nonsense"

    done = fit(callback=callback)
    values = [HOW.objective(X, *HOW.sweeps(X, V0, t)) for t in (1, 2, 3)]
    return wrong(
        kept=[r.get("mine") for r in done.history] == [10, 20, 30],
        objective=close([r.get("objective", 0) for r in done.history], values, 1e-8),
        counted=[r.get("iteration") for r in done.history] == [1, 2, 3],
    )


def _unwritable_record(home: Path) -> list[str]:
    def callback(record: Any, factors: Any) -> None:
        record["thing"] = object()

    done = fit(callback=callback)
    got = caught(lambda: done.save(home / "model"))
    return wrong(
        right=follows(done, 3), error=isinstance(got, TypeError) and tells(got, "history"), nothing=names(home) == []
    )


def _looked_at_late(home: Path) -> list[str]:
    kept: list[Any] = []
    done = fit(callback=lambda record, factors: kept.append(factors))
    found = [f"sweep {t} became another" for t, view in enumerate(kept, 1) if not _late(view, t)]
    return found + wrong(right=follows(done, 3))


def _late(view: Any, sweep: int) -> bool:
    try:
        return follows(view, sweep)
    except (RuntimeError, ValueError, TypeError, AttributeError) as error:
        return tells(error, "callback")


def _kept_views(home: Path) -> list[str]:
    kept: list[Any] = []

    def callback(record: Any, factors: Any) -> None:
        assert factors.user_factors.shape == (30, 3)
        kept.extend((factors, copy.deepcopy(factors), pickle.loads(pickle.dumps(factors))))

    fit(callback=callback)
    return [f"view {n}" for n, view in enumerate(kept) if not (follows(view, n // 3 + 1) and listed(view))]


def _written_view(home: Path) -> list[str]:
    def spoil(factors: Any) -> None:
        factors.item_factors[0, 0] = 1e9

    path = home / "run"
    got = caught(lambda: fit(callback=at(1, spoil), checkpoint=path))
    return wrong(error=isinstance(got, ValueError) and tells(got, "read-only"), whole=follows(fit(checkpoint=path), 3))


class _Enough(StopIteration):
    pass


def _enough(home: Path) -> list[str]:
    done = fit(iterations=50, callback=at(2, throw(_Enough("said", 5))))
    return wrong(stopped=done.status is lfm_np.Status.STOPPED, two=len(done.history) == 2, right=follows(done, 2))


def _left_by(error: BaseException) -> Callable[[Path], list[str]]:
    def work(home: Path) -> list[str]:
        got = caught(lambda: fit(callback=at(3, throw(error)), checkpoint=home / "run", num_threads=2))
        return wrong(itself=got is error, whole=follows(fit(iterations=5, checkpoint=home / "run"), 5))

    return work


def _generator_stays(home: Path) -> list[str]:
    bad = csr(stars(3000, 20, seed=2))
    bad.data[-2] = np.nan
    draw = np.random.default_rng(5)
    before = copy.deepcopy(draw.bit_generator.state)
    rank: Any = np.random.RandomState(5)
    old = rank.get_state()[1].tolist()
    errors = [
        caught(lambda: lfm_np.als(bad, factors=2, random_state=draw)),
        caught(lambda: lfm_np.sgd(bad, losses.Squared(), sampler=None, factors=2, random_state=rank)),
        caught(lambda: fit(init=None, callback="no", random_state=draw)),
    ]
    return wrong(
        refused=all(isinstance(e, (TypeError, ValueError)) for e in errors),
        row=tells(errors[0] or Spilled(), "2999") and tells(errors[1] or Spilled(), "2999"),
        generator=draw.bit_generator.state == before,
        state=rank.get_state()[1].tolist() == old,
    )


def _pressed(home: Path) -> list[str]:
    done = fit(iterations=40, callback=at(2, lambda factors: signal.raise_signal(signal.SIGINT)))
    return wrong(told=done.status is lfm_np.Status.INTERRUPTED, right=follows(done, len(done.history)))


def _pressed_twice(home: Path) -> list[str]:
    def press(factors: Any) -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    got = caught(lambda: fit(iterations=9, callback=at(4, press), checkpoint=home / "run"))
    return wrong(
        raised=isinstance(got, KeyboardInterrupt), whole=follows(fit(iterations=9, checkpoint=home / "run"), 9)
    )


def _pressed_in_sgd(home: Path) -> list[str]:
    words: dict[str, Any] = {"factors": 3, "epochs": 6, "random_state": 4, "dtype": "float64"}
    path = home / "run"
    press = at(3, lambda factors: signal.raise_signal(signal.SIGINT))
    got = caught(lambda: lfm_np.sgd(csr(X), callback=press, checkpoint=path, raise_on_interrupt=True, **words))
    went_on = lfm_np.sgd(csr(X), checkpoint=path, **words)
    plain = lfm_np.sgd(csr(X), **words)
    return wrong(
        raised=isinstance(got, KeyboardInterrupt),
        bits=np.array_equal(went_on.item_factors, plain.item_factors),
        six=[r["iteration"] for r in went_on.history] == [1, 2, 3, 4, 5, 6],
        lists=listed(went_on),
    )


def _watchdog(home: Path) -> list[str]:
    def sleep(factors: Any) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0.005)
        time.sleep(2)

    with watched():
        got = caught(lambda: fit(callback=at(2, sleep), checkpoint=home / "run"))
    return wrong(
        itself=isinstance(got, Spilled), whole=follows(fit(checkpoint=home / "run"), 3), alone=names(home) == ["run"]
    )


def _fit_in_thread(home: Path) -> list[str]:
    inner: list[Any] = []

    def callback(record: Any, factors: Any) -> None:
        thread = threading.Thread(target=lambda: inner.append(fit(iterations=record["iteration"], num_threads=1)))
        thread.start()
        thread.join()

    outer = fit(callback=callback, num_threads=2)
    return wrong(outer=follows(outer, 3), inner=[follows(one, t) for t, one in enumerate(inner, 1)] == [True] * 3)


def _saved_each_sweep(home: Path) -> list[str]:
    found: list[str] = []

    def callback(record: Any, factors: Any) -> None:
        (home / "last").unlink(missing_ok=True)
        factors.save(home / "last")
        if not follows(lfm_np.Factors.load(home / "last", mmap=True), record["iteration"]):
            found.append(f"file of {record['iteration']}")

    return found + wrong(right=follows(fit(callback=callback), 3), alone=names(home) == ["last"])


def _own_end(home: Path) -> list[str]:
    """The only name of X is gone, and what is collected fits too."""
    inner: list[Any] = []

    class Last:
        def __init__(self) -> None:
            self.me = self

        def __del__(self) -> None:
            inner.append(fit(iterations=1, num_threads=1))

    def callback(record: Any, factors: Any) -> None:
        Last()
        gc.collect()

    done = fit(callback=callback)
    return wrong(outer=follows(done, 3), inner=len(inner) == 3 and all(follows(one, 1) for one in inner))


def cases() -> list[Case]:
    return [
        rough("a callback's own exception leaves as itself, and the run goes on from the file", _own_error),
        rough("a callback that fits another model", _fit_within),
        rough("a callback that empties its record", _emptied_record),
        rough("a callback's record that no file can hold", _unwritable_record),
        rough("views that are looked at after the fit", _looked_at_late),
        rough("views that were looked at, copied and pickled stay those of their sweep", _kept_views),
        rough("a callback that writes to the view", _written_view),
        rough("a kind of StopIteration with values", _enough),
        rough("SystemExit of a callback", _left_by(SystemExit(3))),
        rough("GeneratorExit of a callback", _left_by(GeneratorExit())),
        rough("KeyboardInterrupt that a callback raises", _left_by(KeyboardInterrupt("mine"))),
        rough("a generator stays where it is when something deep in X is refused", _generator_stays),
        rough("a press within a callback", _pressed),
        rough("two presses within one callback", _pressed_twice),
        rough("a press within a callback of sgd that is to raise", _pressed_in_sgd),
        rough("a watchdog's exception within a callback", _watchdog),
        rough("a callback that waits for a thread that fits", _fit_in_thread),
        rough("a callback that saves, maps and removes the file each time", _saved_each_sweep),
        rough("a finaliser that fits, and a cycle collected in a callback", _own_end),
    ]
