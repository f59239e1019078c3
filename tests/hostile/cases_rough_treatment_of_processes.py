"""Children that end in the middle, alarms anywhere, small memory, threads that fail, streams that are gone."""

from __future__ import annotations

import os
import resource
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import lfm_np

from .case import Case, Group
from .cases_rough_treatment_of_matrices import (
    HOW,
    PLAIN,
    U0,
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
from .places import child, limited, together
from .working_days import best, close, csr, wrong

_GROUP = Group("rough treatment of processes")


def _case(name: str, work: Callable[[Path], list[str]]) -> Case:
    return rough(name, work, _GROUP)


def _dies(how: Callable[[], Any], status: int) -> Callable[[Path], list[str]]:
    """A child dies in the third sweep, and the run goes on from its file."""

    def work(home: Path) -> list[str]:
        path = home / "run"
        got = child(lambda: fit(iterations=6, checkpoint=path, callback=at(3, lambda factors: how())))
        on = fit(iterations=6, checkpoint=path)
        return wrong(died=got == status, on=follows(on, 6), six=len(on.history) == 6, alone=names(home) == ["run"])

    return work


def _forked(home: Path) -> list[str]:
    """The child of a callback goes on with the fit, and so does its parent."""
    pids: list[int] = []
    mine = os.getpid()
    try:
        done = fit(iterations=4, callback=at(2, lambda factors: pids.append(os.fork())))
        right = follows(done, 4) and listed(done)
    except BaseException:
        if os.getpid() == mine:
            raise
        os._exit(3)
    if os.getpid() != mine:
        os._exit(0 if right else 1)
    return wrong(parent=right, child=os.waitstatus_to_exitcode(os.waitpid(pids[0], 0)[1]) == 0)


def _mapped_in_a_child(home: Path) -> list[str]:
    PLAIN.save(home / "model")
    mapped = lfm_np.Factors.load(home / "model", mmap=True)

    def work() -> bool:
        (home / "model").unlink()
        new = mapped.fold_in_users(csr(X), **HOW.words)
        return listed(mapped) and close(new.user_factors, HOW.half(X, V0), 1e-8)

    return wrong(child=child(work) == 0, parent=listed(mapped), gone=names(home) == [])


def _alarms(call: Callable[[Path], Any], right: Callable[[Any], bool], left: Callable[[Path], bool]) -> Any:
    """An alarm after ever more time leaves as itself, or comes too late; then the call is right."""

    def work(home: Path) -> list[str]:
        call(home)
        found = []
        for delay in (0.00005, 0.0002, 0.0008, 0.002, 0.005, 0.012):
            with watched():
                try:
                    signal.setitimer(signal.ITIMER_REAL, delay)
                    result = call(home)
                    signal.setitimer(signal.ITIMER_REAL, 0)
                except Spilled:
                    result = None
            if result is not None and not right(result):
                found.append(f"after {delay}")
            if not left(home):
                found.append(f"after {delay} there is {names(home)}")
        return found + wrong(again=right(call(home)))

    return work


def _is_sorted(result: Any) -> bool:
    S = U0 @ V0.T
    mine = [best(S[u], np.isnan(X[u]), 7) for u in range(30)]
    return bool(result.ids.tolist() == mine * 40)


def _saved(home: Path) -> lfm_np.Factors:
    PLAIN.save(home / "model")
    return lfm_np.Factors.load(home / "model")


def _built(home: Path) -> Any:
    pairs = np.argwhere(~np.isnan(X))
    return lfm_np.to_csr(np.tile(pairs, (50, 1)), shape=X.shape)


def _memory() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * resource.getpagesize()


def _little_memory(home: Path) -> list[str]:
    users, records = np.zeros(2_000_000, np.int64), np.broadcast_to(np.int64(3), 200_000_000)
    PLAIN.recommend(0)
    most, hard = _memory() + (300 << 20), resource.getrlimit(resource.RLIMIT_AS)[1]
    with limited(resource.RLIMIT_AS, most if hard == resource.RLIM_INFINITY else min(most, hard)):
        lists = caught(lambda: PLAIN.recommend(users, N=200))
        made = caught(lambda: lfm_np.Interactions.from_arrays(records, records))
    return wrong(lists=isinstance(lists, MemoryError), made=isinstance(made, MemoryError))


def _threads_that_fail(home: Path) -> list[str]:
    """Eight threads meet at one model that has no index yet; every other one asks what cannot be."""
    fresh = lfm_np.Factors(U0.copy(), V0.copy())

    def work(place: int) -> Any:
        if place % 2:
            return fresh.recommend([0, 30 + place], N=3)
        return fresh.recommend(np.arange(30), N=7, seen=csr(X)).ids.tolist()

    done = together(8, work)
    mine = [best(s, np.isnan(x), 7) for s, x in zip(U0 @ V0.T, X, strict=True)]
    return wrong(
        lists=all(one == mine for one in done[::2]),
        refused=all(isinstance(one, (ValueError, IndexError)) and "users" in str(one) for one in done[1::2]),
    )


def _threads_that_stop(home: Path) -> list[str]:
    """Of six fits at once three are left by exceptions of their own."""
    mine = [Spilled(str(n)) for n in range(6)]

    def work(place: int) -> Any:
        callback = at(1 + place % 3, throw(mine[place])) if place < 3 else None
        return fit(iterations=2 + place, callback=callback, num_threads=1 + place % 2)

    done = together(6, work)
    found = [f"fit {n}" for n, one in enumerate(done) if n < 3 and one is not mine[n]]
    return found + [f"fit {n}" for n, one in enumerate(done) if n > 2 and not follows(one, 2 + n)]


def _no_stream(home: Path) -> list[str]:
    before = sys.stdout, sys.stderr
    sys.stdout = sys.stderr = None
    try:
        done = fit(progress=True)
    finally:
        sys.stdout, sys.stderr = before
    return wrong(right=follows(done, 3))


def _deep(home: Path) -> list[str]:
    """Near the end of the stack a fit is right or a RecursionError."""

    def down(n: int, call: Callable[[], Any]) -> Any:
        return call() if n == 0 else down(n - 1, call)

    depth, frame = 0, sys._getframe()
    while frame is not None:
        depth, frame = depth + 1, frame.f_back  # type: ignore[assignment]
    room = sys.getrecursionlimit() - depth
    found = []
    for left in (15, 30, 60, 120):
        got: list[Any] = []
        error = caught(lambda n=room - left, g=got: down(n, lambda: g.append(fit())))
        if not (isinstance(error, RecursionError) or (error is None and follows(got[0], 3))):
            found.append(f"{left} frames left: {error!r}")
    return found


def _folder_gone(home: Path) -> list[str]:
    (home / "inner").mkdir()
    before = os.getcwd()
    os.chdir(home / "inner")
    try:
        (home / "inner").rmdir()
        done = fit()
        saved, began = caught(lambda: done.save("model")), caught(lambda: fit(checkpoint="run"))
    finally:
        os.chdir(before)
    errors = all(isinstance(e, OSError) for e in (saved, began))
    return wrong(right=follows(done, 3) and listed(done), errors=errors, nothing=names(home) == [])


def _calls_of_numpy(home: Path) -> list[str]:
    """NumPy is told to call something at every overflow, and this is what it calls afterwards too."""
    heard: list[Any] = []
    call = lambda kind, flag: heard.append(kind)  # noqa: E731
    before = np.seterrcall(call)
    try:
        with np.errstate(all="call"):
            done = fit(callback=lambda record, factors: record.update(mine=1))
            lists = done.recommend(np.arange(30), N=3)
            told = np.geterr() == dict.fromkeys(("divide", "over", "under", "invalid"), "call")
            same = np.geterrcall() is call
    finally:
        np.seterrcall(before)
    return wrong(right=follows(done, 3), told=told, same=same, shape=lists.ids.shape == (30, 3))


def _traced(home: Path) -> list[str]:
    """A tracer of every line, in this thread and in others, is there afterwards."""
    lines = [0]

    def trace(frame: Any, event: str, argument: Any) -> Any:
        lines[0] += 1
        return trace

    before = sys.gettrace()
    threading.settrace(trace)
    sys.settrace(trace)
    try:
        done = fit(num_threads=2)
        same = sys.gettrace() is trace
    finally:
        sys.settrace(before)
        threading.settrace(before)
    return wrong(right=follows(done, 3), same=same, some=lines[0] > 10)


def cases() -> list[Case]:
    pairs = 50.0 * ~np.isnan(X)
    return [
        _case("a child that ends at once in its third sweep", _dies(lambda: os._exit(41), 41)),
        _case("a child that is killed", _dies(lambda: os.kill(os.getpid(), signal.SIGKILL), -signal.SIGKILL)),
        _case("a child that gets SIGTERM", _dies(lambda: os.kill(os.getpid(), signal.SIGTERM), -signal.SIGTERM)),
        _case("a child that gets SIGUSR1", _dies(lambda: signal.raise_signal(signal.SIGUSR1), -signal.SIGUSR1)),
        _case("a callback that forks", _forked),
        _case("a mapped model in a child that removes it", _mapped_in_a_child),
        _case(
            "alarms while lists are made",
            _alarms(
                lambda home: PLAIN.recommend(np.tile(np.arange(30), 40), N=7, seen=csr(X)),
                _is_sorted,
                lambda home: True,
            ),
        ),
        _case(
            "alarms while a model is saved and read",
            _alarms(
                _saved,
                lambda f: np.array_equal(f.user_factors, U0) and np.array_equal(f.item_factors, V0),
                lambda home: names(home) == ["model"],
            ),
        ),
        _case(
            "alarms while pairs become a matrix",
            _alarms(_built, lambda A: np.array_equal(A.toarray(), pairs), lambda home: True),
        ),
        _case(
            "alarms while rows are folded in",
            _alarms(
                lambda home: PLAIN.fold_in_users(csr(X), **HOW.words),
                lambda f: close(f.user_factors, HOW.half(X, V0), 1e-8),
                lambda home: True,
            ),
        ),
        _case("little memory for lists and records", _little_memory),
        _case("threads that ask what cannot be", _threads_that_fail),
        _case("threads that are left by exceptions", _threads_that_stop),
        _case("a bar of progress without any stream", _no_stream),
        _case("the end of the stack", _deep),
        _case("a working folder that is gone", _folder_gone),
        _case("NumPy calls something of the caller's", _calls_of_numpy),
        _case("every line is traced", _traced),
    ]
