"""Handlers that raise, and callbacks that misbehave, beside loops in float64."""

from __future__ import annotations

import asyncio
import itertools
import math
import os
import resource
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

import lfm_np
from lfm_np import losses

from .case import Case, Group
from .places import inside
from .working_days import Model, close, csr, faultless, raised, same, stars, start, wrong

GROUP = Group("hostile again, surroundings")
_holds = faultless(GROUP)

RATED = stars(14, 9, seed=23, share=0.4)
X = csr(RATED)
U0, V0 = start(14, 9, 3, seed=24)
M = Model(alpha=2.0, lam=0.3)
ETA, LAM, PAID = 0.05, 0.1, -2.5
FOREVER = 10**6


def fit(sweeps: int = 3, data: Any = None, **words: Any) -> lfm_np.Factors:
    return lfm_np.als(
        X if data is None else data, factors=3, iterations=sweeps, init=(U0, V0), dtype="float64", solver="exact",
        random_state=0, **M.words, **words,
    )  # fmt: skip


def product(sweeps: int) -> np.ndarray:
    U, V = M.sweeps(RATED, V0, sweeps)
    return U @ V.T


def whole(found: Any, sweeps: int) -> bool:
    """Rounding of float64 beside systems whose condition is below 1e4."""
    return len(found.history) == sweeps and close(found.user_factors @ found.item_factors.T, product(sweeps), 1e-8)


def epochs(number: int, **words: Any) -> lfm_np.Factors:
    """One rating, so that an epoch is one step."""
    return lfm_np.sgd(
        sp.csr_array([[PAID]]), losses.Squared(), sampler=None, factors=3, epochs=number, learning_rate=ETA,
        regularization=LAM, dtype="float64", random_state=0, init=(U0[:1], V0[:1]), **words,
    )  # fmt: skip


def steps(number: int) -> tuple[float, float]:
    """The score after so many steps, and what the last one paid."""
    u, v, paid = U0[0].copy(), V0[0].copy(), 0.0
    for _ in range(number):
        e = float(u @ v) - PAID
        paid = e * e / 2
        u, v = u - ETA * (e * v + LAM * u), v - ETA * (e * u + LAM * v)
    return float(u @ v), paid


def alarmed(call: Callable[[], Any], error: BaseException, after: float) -> BaseException:
    """What leaves the call when a handler raises ``error``; again after half a second, should Python drop it."""

    def handler(*_: Any) -> None:
        raise error

    before = signal.signal(signal.SIGALRM, handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, after, 0.5)
        return raised(call)
    except BaseException as early:  # before the call, or right after it
        if early is not error:
            raise
        return early
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def stop_at(sweep: int, seen: list[Any] | None = None) -> Callable[[Any, Any], None]:
    def callback(record: Any, factors: Any) -> None:
        if seen is not None:
            seen.append((record["iteration"], record.get("sampled_loss")))
        if record["iteration"] >= sweep:
            raise StopIteration

    return callback


class Away(BaseException):
    """Of no kind that anybody catches."""


def _caught_kinds() -> list[str]:
    """Kinds that a library may catch from what it calls itself."""
    fit()
    kinds = [
        OSError(28, "no space"), FileNotFoundError("none"), ValueError("bad"), MemoryError("memory"),
        ImportError("torch"), AttributeError("shape"), FloatingPointError("underflow"),
        np.linalg.LinAlgError("singular"), lfm_np.SolverError("mine"), KeyError("k"),
        OverflowError("large"), RuntimeError("can't start new thread"),
    ]  # fmt: skip
    left = [alarmed(lambda: fit(FOREVER), error, 0.01 + 0.003 * n) is error for n, error in enumerate(kinds)]
    return wrong(each=all(left), after=whole(fit(), 3))


def _base_kinds(place: Path) -> list[str]:
    epochs(1)
    found = []
    for n, error in enumerate((SystemExit(3), GeneratorExit(), asyncio.CancelledError(), Away("x"))):
        path = place / f"s{n}"
        left = alarmed(lambda path=path: epochs(FOREVER, checkpoint=path), error, 0.03 + 0.007 * n)
        seen: list[Any] = []
        # where the state was of epoch r, the next one is r + 1; one more epoch is done before the callback stops it
        epochs(FOREVER, checkpoint=path, callback=stop_at(0, seen))
        found.append(left is error and len(seen) == 1 and close(seen[0][1], steps(seen[0][0])[1], 1e-9))
    return wrong(each=all(found), files=sorted(os.listdir(place)) == ["s0", "s1", "s2", "s3"])


def _while_saving(place: Path) -> list[str]:
    a, b = (lfm_np.Factors(U0 * s, V0) for s in (1.0, 2.0))

    def forever() -> None:
        for f in itertools.cycle((a, b)):
            f.save(place / "m")

    found = []
    for n in range(12):
        error = (TimeoutError("late"), FileExistsError("there"), KeyboardInterrupt())[n % 3]
        left = alarmed(forever, error, 0.002 + 0.0017 * n)
        names = os.listdir(place)
        good = names == [] or any(same(lfm_np.Factors.load(place / "m"), f) for f in (a, b))
        found.append(left is error and names in ([], ["m"]) and good)
    return wrong(each=all(found))


def _while_building(place: Path) -> list[str]:
    kind = TimeoutError("late")

    def forever(where: Path) -> None:
        for n in itertools.count():
            lfm_np.StoredMatrix.from_matrix(X, where / str(n), dtype="float64")

    found = []
    for n in range(5):
        where = place / f"b{n}"
        where.mkdir()
        left = alarmed(lambda where=where: forever(where), kind, 0.01 + 0.006 * n)
        there = [name for name in os.listdir(where) if name.isdigit()]
        last = where / str(len(there))
        lfm_np.StoredMatrix.from_matrix(X, last, dtype="float64")
        opened = [lfm_np.StoredMatrix(where / name).nnz == X.nnz for name in os.listdir(where)]
        found.append(left is kind and all(opened) and whole(fit(data=lfm_np.StoredMatrix(last)), 3))
    return wrong(each=all(found))


def _cpu_time() -> list[str]:
    """SIGXCPU, whose handler raises."""
    fit()
    error = TimeoutError("seconds of the processor")

    def handler(*_: Any) -> None:
        raise error

    used, limits = time_used(), resource.getrlimit(resource.RLIMIT_CPU)
    before = signal.signal(signal.SIGXCPU, handler)
    try:
        resource.setrlimit(resource.RLIMIT_CPU, (int(used + 0.2) + 1, limits[1]))
        left = raised(lambda: fit(FOREVER))
    finally:
        resource.setrlimit(resource.RLIMIT_CPU, limits)
        signal.signal(signal.SIGXCPU, before)
    return wrong(left=left is error, after=whole(fit(), 3))


def time_used() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _handler_that_saves(place: Path) -> list[str]:
    """A handler that writes a model whenever the alarm rings."""
    kept, rung, ended = lfm_np.Factors(U0, V0), [0], []

    def handler(*_: Any) -> None:
        kept.save(place / "m")
        rung[0] += 1
        if not ended:
            signal.setitimer(signal.ITIMER_REAL, 0.05)  # never while it runs

    def until(record: Any, factors: Any) -> None:
        if rung[0] >= 3 and record["iteration"] >= 4:
            raise StopIteration

    before = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.02)
    try:
        found = fit(FOREVER, callback=until)
    finally:
        ended.append(True)
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    J = [M.objective(RATED, *M.sweeps(RATED, V0, sweep)) for sweep in range(1, 5)]
    last = close(M.half(RATED.T, found.user_factors), found.item_factors, 1e-8)  # what a sweep solves last
    near = last and close([record["objective"] for record in found.history[:4]], J, 1e-9)
    return wrong(near=near, stopped=found.status == "stopped", saved=same(lfm_np.Factors.load(place / "m"), kept))


def _ends_of_callbacks() -> list[str]:
    class Enough(StopIteration):
        pass

    cause = ValueError("cause")
    thrown = ExceptionGroup("many", [KeyError("a"), ValueError("b")])

    def accident(record: Any, factors: Any) -> None:
        next(iter(()))

    def enough(record: Any, factors: Any) -> None:
        if record["iteration"] == 2:
            raise Enough("value")

    def later(record: Any, factors: Any) -> None:
        raise StopAsyncIteration("no")

    def chained(record: Any, factors: Any) -> None:
        raise RuntimeError("effect") from cause

    def several(record: Any, factors: Any) -> None:
        raise thrown

    one, two = fit(callback=accident), fit(callback=enough)
    effect = raised(lambda: fit(callback=chained))
    return wrong(
        one=whole(one, 1) and one.status == "stopped", two=whole(two, 2) and two.status == "stopped",
        leaves=type(raised(lambda: fit(callback=later))) is StopAsyncIteration,
        chained=str(effect) == "effect" and effect.__cause__ is cause,
        group=raised(lambda: fit(callback=several)) is thrown,
    )  # fmt: skip


def _cleared_records() -> list[str]:
    """The end by ``tolerance`` is that of the objective, whatever became of the record."""
    J = [M.objective(RATED, *M.sweeps(RATED, V0, s)) for s in range(1, 16)]
    shares = [(a - b) / a for a, b in itertools.pairwise(J)]  # of sweeps 2, 3, …
    tolerance = math.sqrt(shares[2] * shares[3])
    last = next(n for n, share in enumerate(shares) if share < tolerance) + 2

    def callback(record: Any, factors: Any) -> None:
        number = record["iteration"]
        record.clear()
        record["objective"] = 0.0
        record["mine"] = number

    found = fit(15, tolerance=tolerance, callback=callback)
    return wrong(
        ends=len(found.history) == last and found.status == "converged",
        mine=[record.get("mine") for record in found.history] == list(range(1, last + 1)),
        J=close([record["objective"] for record in found.history], J[:last], 1e-9),
    )


def _odd_answers() -> list[str]:
    class Neither:
        def __bool__(self) -> bool:
            raise ZeroDivisionError("no truth")

        __eq__ = __bool__  # type: ignore[assignment]
        __hash__ = None  # type: ignore[assignment]

    answers = [np.array([1, 2]), Neither(), NotImplemented, StopIteration(), False, np.nan, lfm_np.Status.INTERRUPTED]
    found = [fit(callback=lambda record, factors, a=a: a) for a in answers]
    return wrong(each=all(whole(f, 3) and f.status == "max_iterations" for f in found))


def _child_goes_on(place: Path) -> list[str]:
    """Parent and child write the same states into one file."""
    parent, pids = os.getpid(), []

    def callback(record: Any, factors: Any) -> None:
        if record["iteration"] == 2:
            pids.append(os.fork())

    try:
        found = fit(5, callback=callback, checkpoint=place / "s")
        good = whole(found, 5)
    except BaseException:
        if os.getpid() != parent:
            os._exit(2)
        raise
    if os.getpid() != parent:
        os._exit(0 if good else 1)
    status = os.waitstatus_to_exitcode(os.waitpid(pids[0], 0)[1])
    seen: list[Any] = []
    more = fit(6, callback=stop_at(9, seen), checkpoint=place / "s")
    return wrong(
        parent=good, child=status == 0, files=os.listdir(place) == ["s"], more=whole(more, 6), seen=seen == [(6, None)]
    )


def _nested() -> list[str]:
    found: list[Any] = []

    def down(depth: int) -> None:
        def callback(record: Any, factors: Any) -> None:
            if record["iteration"] == 2 and depth:
                down(depth - 1)
                found.append(epochs(3))

        found.append(fit(callback=callback, num_threads=1 + depth % 3))

    down(12)
    fits = [f for f in found if f.shape == (14, 9)]
    scores = [float(f.scores(0, 0)) for f in found if f.shape == (1, 1)]
    return wrong(
        fits=len(fits) == 13 and all(whole(f, 3) for f in fits), steps=close(scores, [steps(3)[0]] * 12, 1e-10)
    )


def _cases() -> Iterator[Case]:
    yield _holds("handlers that raise what libraries catch", _caught_kinds)
    yield _holds("handlers that raise what nobody catches", inside(_base_kinds))
    yield _holds("alarms while models are saved", inside(_while_saving))
    yield _holds("alarms while matrices are built", inside(_while_building))
    yield _holds("a second of the processor", _cpu_time)
    yield _holds("a handler that saves", inside(_handler_that_saves))
    yield _holds("five ends of callbacks", _ends_of_callbacks)
    yield _holds("records that are cleared, with a tolerance", _cleared_records)
    yield _holds("callbacks that answer", _odd_answers)
    yield _holds("a child that goes on beside its parent, one file", inside(_child_goes_on))
    yield _holds("twelve fits within fits, of both kinds", _nested)


def cases() -> list[Case]:
    return list(_cases())
