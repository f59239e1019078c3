"""Fits that are interrupted and stopped, beside normal equations and steps by loops in float64."""

from __future__ import annotations

import contextlib
import copy
import os
import shutil
import signal
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import scipy.sparse as sp
import threadpoolctl

import lfm_np
from lfm_np import Checkpoint, Factors, Status, StoredMatrix, losses

from .case import Case, Group
from .places import child
from .places import model as drawn
from .working_days import Model, close, csr, faultless, folder, raised, same, stars, start, wrong

GROUP = Group("the last examination, life")
_holds = faultless(GROUP)

# als: 40 × 25 cells of 1 to 5, whose sweeps `Model` repeats by loops; products of factors are the same in any basis
M = Model(alpha=2.0, lam=0.5)
K, STARS = 4, stars(40, 25, seed=4)
U0, V0 = start(40, 25, K)
WORDS: dict[str, Any] = {**M.words, "factors": K, "init": (U0, V0), "dtype": "float64", "random_state": 0}
# sgd: a user for every item, so that no step meets the row of another, whatever the order
RATINGS, ETA, LAM = np.linspace(1.0, 5.0, 30), 0.05, 0.05
P0, Q0 = start(30, 30, K, seed=7)
STEPS: dict[str, Any] = {
    "sampler": None, "factors": K, "learning_rate": ETA, "regularization": LAM, "init": (P0, Q0), "dtype": "float64",
    "random_state": 0,
}  # fmt: skip


def fit(iterations: int = 5, X: Any = None, **words: Any) -> Factors:
    return lfm_np.als(csr(STARS) if X is None else X, iterations=iterations, **{**WORDS, **words})


def descend(epochs: int = 5, **words: Any) -> Factors:
    X = sp.csr_array((RATINGS, (np.arange(30), np.arange(30))), shape=(30, 30))
    return lfm_np.sgd(X, losses.Squared(), epochs=epochs, **{**STEPS, **words})


def swept(factors: Any, times: int) -> bool:
    """So many sweeps from U0 and V0; float64 and systems of a modest condition: 1e-9 is 10⁶ eps."""
    U, V = M.sweeps(STARS, V0, times)
    return close(factors.user_factors @ factors.item_factors.T, U @ V.T)


def stepped(factors: Any, epochs: int) -> bool:
    u, v, _ = steps(epochs)
    return close(factors.user_factors @ factors.item_factors.T, u @ v.T)


def steps(epochs: int) -> tuple[np.ndarray, np.ndarray, list[float]]:
    """Rows after so many epochs, and what each of these paid."""
    u, v, paid = P0, Q0, []
    for _ in range(epochs):
        e = (u * v).sum(1) - RATINGS
        paid.append(float((e * e / 2).mean()))
        u, v = u - ETA * (e[:, None] * v + LAM * u), v - ETA * (e[:, None] * u + LAM * v)
    return u, v, paid


def whole(factors: Any) -> bool:
    """The items solve their equations beside these users: no half of another sweep."""
    return close(factors.item_factors, M.half(STARS.T, factors.user_factors), 1e-8)


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def pools() -> list[int]:
    return [pool["num_threads"] for pool in threadpoolctl.threadpool_info()]


def fork(work: Callable[[], Any]) -> int:
    """`child`, without Python's remark that there are threads."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return child(work)


@contextlib.contextmanager
def alarm(seconds: float, act: Callable[[], Any], every: float = 0.0) -> Iterator[None]:
    before = signal.signal(signal.SIGALRM, lambda *_: act())
    try:
        signal.setitimer(signal.ITIMER_REAL, seconds, every)
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def late() -> None:
    raise TimeoutError("too late")


def _presses(at: int, times: int = 1) -> Callable[..., None]:
    def callback(record: Any, factors: Any) -> None:
        if record["iteration"] == at:
            for _ in range(times):
                signal.raise_signal(signal.SIGINT)

    return callback


def _pressed_once() -> list[str]:
    """An hour between two saves, but the last sweep is always saved."""
    with folder() as place:
        path = place / "fit"
        part = fit(6, checkpoint=Checkpoint(path, every=3600), callback=_presses(3))
        seen: list[int] = []
        rest = fit(6, checkpoint=path, num_threads=3, callback=lambda record, _: seen.append(record["iteration"]))
        return wrong(
            told=part.status is Status.INTERRUPTED and len(part.history) == 3,
            sweeps=swept(part, 3),
            rest=seen == [4, 5, 6] and rest.status is Status.MAX_ITERATIONS,
            numbers=swept(rest, 6),
            bits=same(rest, fit(6, num_threads=2)),
        )


def _raised_at_once() -> list[str]:
    with folder() as place:
        path = place / "fit"
        words: dict[str, Any] = {"checkpoint": path, "raise_on_interrupt": True}
        error = raised(lambda: descend(5, callback=_presses(3), **words))
        fewer = raised(lambda: descend(2, **words))
        seen: list[int] = []
        rest = descend(5, callback=lambda record, _: seen.append(record["iteration"]), **words)
        return wrong(
            raised=type(error) is KeyboardInterrupt,
            kept=isinstance(fewer, ValueError) and "epochs" in str(fewer),
            seen=seen == [4, 5],
            numbers=stepped(rest, 5),
            bits=same(rest, descend(5)),
            paid=close([record["sampled_loss"] for record in rest.history], steps(5)[2], 1e-12),
        )


def _pressed_twice() -> list[str]:
    with folder() as place:
        path = place / "fit"
        error = raised(lambda: fit(6, checkpoint=path, callback=_presses(3, times=2)))
        seen: list[int] = []
        rest = fit(6, checkpoint=path, callback=lambda record, _: seen.append(record["iteration"]))
        return wrong(
            raised=type(error) is KeyboardInterrupt,
            seen=seen in ([3, 4, 5, 6], [4, 5, 6]),
            numbers=swept(rest, 6),
            bits=same(rest, fit(6)),
            listing=os.listdir(place) == ["fit"],
        )


def _at_any_moment(run: Callable[..., Factors], sound: Callable[[Factors], bool]) -> list[str]:
    """Ctrl-C at a moment of its own: raised while the fit is prepared, else the last whole sweep."""
    run(2)
    bad, ended = [], 0
    for delay in (0.04, 0.07, 0.11, 0.16, 0.22, 0.3):
        timer = threading.Timer(delay, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        try:
            found = run(10**6)
        except KeyboardInterrupt:
            found = None
        timer.join()
        if found is not None:
            ended += 1
            numbers = [record["iteration"] for record in found.history] == list(range(1, len(found.history) + 1))
            if found.status is not Status.INTERRUPTED or not numbers or not sound(found):
                bad.append(f"after {delay}")
    return bad + wrong(ended=ended)


def whole_or_start(factors: Factors) -> bool:
    if not factors.history:
        return close(factors.user_factors @ factors.item_factors.T, U0 @ V0.T)
    J = M.objective(STARS, factors.user_factors, factors.item_factors)
    return whole(factors) and close(factors.history[-1]["objective"], J)


def _watchdog() -> list[str]:
    """A handler that raises: its exception leaves, and the state that is kept is that of a whole sweep."""
    found: list[str] = []
    fit(2)
    for delay in (0.03, 0.08, 0.13, 0.2):
        with folder() as place:
            path = place / "fit"
            before, threads = (descriptors(), pools()), threading.active_count()
            try:
                with alarm(delay, late):
                    fit(10**6, checkpoint=path)
            except TimeoutError as error:
                found += wrong(it=str(error) == "too late")
            found += wrong(process=(descriptors(), pools()) == before, threads=threading.active_count() == threads)
            done: list[int] = []

            def stop(record: Any, _: Any, done: list[int] = done) -> None:
                done.append(record["iteration"])
                raise StopIteration

            rest = fit(10**6, checkpoint=path, callback=stop)
            found += wrong(
                one=len(done) == 1 and len(rest.history) == done[0],
                stopped=rest.status is Status.STOPPED,
                whole=whole_or_start(rest),
                listing=os.listdir(place) == ["fit"],
            )
    return found


def _saves_cut_short() -> list[str]:
    one, other = drawn(seed=1), drawn(seed=2)
    found: list[str] = []
    with folder() as place:
        path = place / "m"
        one.save(path)
        Factors.load(path)
        before = descriptors()
        for moment in range(30):
            try:
                with alarm(2e-4 + 3e-4 * moment, late):
                    for _ in range(500):
                        other.save(path)
                        one.save(path)
            except TimeoutError:
                pass
            now = Factors.load(path)
            found += wrong(one_of_both=same(now, one) or same(now, other))
        found += wrong(files=descriptors() == before)
        one.save(path)
        return found + wrong(listing=os.listdir(place) == ["m"], last=same(Factors.load(path), one))


def _builds_cut_short() -> list[str]:
    found: list[str] = []
    with folder() as place:
        path = place / "s"
        for moment in range(24):
            try:
                with alarm(1e-3 * (moment + 1), late):
                    StoredMatrix.from_matrix(csr(STARS), path, dtype=np.float64)
            except TimeoutError:
                pass
            if path.exists():
                found += wrong(opens=StoredMatrix(path).nnz == (~np.isnan(STARS)).sum())
                shutil.rmtree(path)
        stored = StoredMatrix.from_matrix(csr(STARS), path, dtype=np.float64)
        return found + wrong(listing=os.listdir(place) == ["s"], numbers=swept(fit(3, stored), 3))


def _polite_end() -> list[str]:
    """SIGTERM tells a callback, which ends the fit: the handler is still the program's own."""
    told: list[int] = []

    def handler(number: int, _: Any) -> None:
        told.append(number)

    def callback(record: Any, _: Any) -> None:
        if told:
            raise StopIteration("enough")

    before = signal.signal(signal.SIGTERM, handler)
    timer = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGTERM))
    timer.start()
    try:
        found = fit(10**6, callback=callback)
        mine = signal.getsignal(signal.SIGTERM) is handler
    finally:
        timer.join()
        signal.signal(signal.SIGTERM, before)
    return wrong(
        told=told == [signal.SIGTERM], mine=mine, status=found.status is Status.STOPPED, whole=whole_or_start(found)
    )


def _fits_within_a_handler() -> list[str]:
    """Five fits in a handler of signals, in the middle of another fit."""
    inner: list[Factors] = []
    busy = threading.Lock()

    def act() -> None:
        if len(inner) < 5 and busy.acquire(blocking=False):  # signals come within a handler too
            inner.append(fit(2, num_threads=1 + len(inner) % 2))
            busy.release()

    fit(2)
    with alarm(0.005, act, every=0.005):
        outer = fit(150, callback=lambda *_: None)
        while len(inner) < 5:
            signal.pause()
    return wrong(outer=swept(outer, 150), inner=all(swept(one, 2) for one in inner), handled=len(inner) == 5)


class Mine(Exception):
    pass


class End(StopIteration):
    pass


def _as_it_was_raised() -> list[str]:
    found = []
    for run in (fit, descend):
        for error in (
            Mine(3),
            SystemExit(7),
            GeneratorExit(),
            KeyboardInterrupt("mine"),
            StopAsyncIteration(),
            OSError(28),
        ):

            def callback(record: Any, factors: Any, error: BaseException = error) -> None:
                raise error

            if raised(lambda run=run, callback=callback: run(3, callback=callback)) is not error:  # type: ignore[misc]
                found.append(f"{run.__name__} {error!r}")

        def end(record: Any, factors: Any) -> None:
            if record["iteration"] == 2:
                raise End(5)

        ended = run(4, callback=end)
        found += wrong(ended=ended.status is Status.STOPPED and len(ended.history) == 2)
        found += wrong(numbers=swept(ended, 2) if run is fit else stepped(ended, 2))
    return found


def _views() -> list[str]:
    """What was looked at stays as it was; what was not is no longer to be had."""
    kept: list[Any] = []
    copies: list[Any] = []
    with folder() as place:

        def callback(record: Any, factors: Any) -> None:
            kept.append(factors)
            if record["iteration"] != 3:
                assert factors.item_factors.shape == (25, K)
                copies.append(copy.deepcopy(factors))
                factors.save(place / str(record["iteration"]))

        fit(5, callback=callback)
        error = raised(lambda: kept[2].user_factors)
        sweeps = (1, 2, 4, 5)
        return wrong(
            kept=all(swept(kept[h - 1], h) for h in sweeps),
            copies=all(swept(one, h) for one, h in zip(copies, sweeps, strict=True)),
            saved=all(swept(Factors.load(place / str(h)), h) for h in sweeps),
            late=isinstance(error, Exception) and bool(str(error)),
        )


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    yield _holds("Ctrl-C once, with an hour between two saves", _pressed_once)
    yield _holds("Ctrl-C that raises, and the epoch that it leaves", _raised_at_once)
    yield _holds("Ctrl-C twice within one callback", _pressed_twice)
    yield _holds("Ctrl-C at six moments of sweeps", lambda: _at_any_moment(fit, whole_or_start))
    yield _holds(
        "Ctrl-C at six moments of epochs",
        lambda: _at_any_moment(descend, lambda factors: stepped(factors, len(factors.history))),
    )
    yield _holds("a watchdog over fits that keep their state", _watchdog)
    yield _holds("a watchdog over saves", _saves_cut_short)
    yield _holds("a watchdog over builds", _builds_cut_short)
    yield _holds("SIGTERM, told to a callback", _polite_end)
    yield _holds("fits within a handler, within a fit", _fits_within_a_handler)
    yield _holds("what a callback raises is what leaves", _as_it_was_raised)
    yield _holds("views that were looked at, copied, saved and forgotten", _views)
