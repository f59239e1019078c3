"""Interrupts, loops and odd states of a process."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

import lfm_np
from lfm_np import Factors, Status

from .case import Case, Either, Group, Holds, raises
from .cases_states import als, sgd
from .places import digest, holding, inside, interpreter, model, same, table, together

_refused, _right = Group("states").refused, holding(Group("states"))


def sweeping(act: Callable[[], Any], **words: Any) -> Factors:
    """A fit that would take for ever; ``act`` is called after its second sweep."""

    sweeps = itertools.count(1)
    return als(2, iterations=10**6, callback=lambda r, f: act() if next(sweeps) == 2 else None, **words)


def interrupts() -> Iterator[Case]:
    def alarm(seconds: float, work: Callable[[], Any]) -> Any:
        def ring(number: int, frame: Any) -> None:
            raise TimeoutError("time is up")

        before = signal.signal(signal.SIGALRM, ring)
        signal.setitimer(signal.ITIMER_REAL, seconds)
        try:
            return work()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)

    def forever(ask: Callable[[], Any]) -> Any:
        for _ in itertools.count():
            ask()

    yield _refused(
        "a handler's exception leaves als",
        lambda: alarm(0.2, lambda: als(2, iterations=10**6)),
        "time is up",
        kind=TimeoutError,
    )
    yield _refused(
        "a handler's exception leaves sgd",
        lambda: alarm(0.2, lambda: sgd(2, epochs=10**6)),
        "time is up",
        kind=TimeoutError,
    )
    yield _refused(
        "a handler's exception leaves recommend",
        lambda: alarm(0.2, lambda: forever(lambda: als().recommend(range(60), num_threads=3))),
        "time is up",
        kind=TimeoutError,
    )

    def by_timer(work: Callable[[], Any]) -> Any:
        timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        try:
            return work()
        finally:
            timer.join()

    yield _right(
        "Ctrl-C at any moment",
        lambda: by_timer(lambda: als(2, iterations=10**6)),
        lambda f: (
            f.status is Status.INTERRUPTED and same(f, als(iterations=max(len(f.history), 1))) and len(f.history) > 0
        ),
    )
    yield _right(
        "Ctrl-C raised on demand",
        lambda: _raised(KeyboardInterrupt, lambda: by_timer(lambda: als(2, iterations=10**6, raise_on_interrupt=True))),
    )
    yield _right(
        "Ctrl-C among lists",
        lambda: _raised(
            KeyboardInterrupt, lambda: by_timer(lambda: forever(lambda: model().recommend([0], num_threads=2)))
        ),
    )

    def own_handler() -> bool:
        heard: list[int] = []

        def handler(number: int, frame: Any) -> None:
            heard.append(number)

        before = signal.signal(signal.SIGINT, handler)
        try:
            found = als(2, iterations=4, callback=lambda r, f: os.kill(os.getpid(), signal.SIGINT))
            return (
                signal.getsignal(signal.SIGINT) is handler
                and same(found, als(iterations=len(found.history)))
                and (bool(heard) or found.status is Status.INTERRUPTED)
            )
        finally:
            signal.signal(signal.SIGINT, before)

    yield _right("somebody's handler of SIGINT is back", own_handler)

    def ignored() -> bool:
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            found = als(2, iterations=4, callback=lambda r, f: os.kill(os.getpid(), signal.SIGINT))
            return signal.getsignal(signal.SIGINT) is signal.SIG_IGN and same(found, als(iterations=len(found.history)))
        finally:
            signal.signal(signal.SIGINT, before)

    yield _right("SIGINT that is ignored stays so", ignored)

    def in_thread() -> bool:
        found: list[Any] = []
        thread = threading.Thread(target=lambda: found.append(als(2, iterations=400)))
        thread.start()
        try:
            os.kill(os.getpid(), signal.SIGINT)
            thread.join()
        except KeyboardInterrupt:
            thread.join()
            return same(found[0], als(iterations=400))
        return False

    yield _right("Ctrl-C is the main thread's, a fit in another goes on", in_thread)
    yield _right("Ctrl-C while kernels are loaded", _loading)
    yield _right(
        "Ctrl-C twice",
        lambda: _raised(
            KeyboardInterrupt, lambda: sweeping(lambda: [os.kill(os.getpid(), signal.SIGINT) for _ in range(2)])
        ),
    )

    class Enough(StopIteration):
        pass

    def enough() -> None:
        raise Enough

    yield _right("a kind of StopIteration", lambda: sweeping(enough), lambda f: len(f.history) == 2 and same(f, als()))

    def writes(record: Any, factors: Factors) -> None:
        factors.user_factors[0] = 1

    yield _refused(
        "a callback that writes to the factors", lambda: als(callback=writes), "read-only|assignment", kind=ValueError
    )

    def thing(record: Any, factors: Factors) -> None:
        record["model"] = factors

    yield _refused(
        "a callback's record that no file can hold",
        inside(lambda f: als(callback=thing).save(f / "m")),
        "history",
        kind=TypeError,
    )

    def held() -> bool:
        seen: list[Factors] = []
        als(2, iterations=4, callback=lambda r, f: seen.append(f))
        return all(same(f, als(iterations=n + 1)) for n, f in enumerate(seen))

    yield _refused("factors of every sweep, looked at afterwards", held, "while the callback runs", kind=RuntimeError)


def _loading() -> bool:
    """The first call of a process, ended by Ctrl-C at 24 moments."""
    script = (
        "import signal, time, numpy as np, lfm_np\nfactors = lfm_np.Factors(np.eye(9, 4), np.eye(7, 4))\n"
        "signal.signal(signal.SIGALRM, lambda number, frame: signal.raise_signal(signal.SIGINT))\n"
        "for number in range(24):\n"
        "    try:\n"
        "        signal.setitimer(signal.ITIMER_REAL, 0.001 * (number + 1))\n"
        "        factors.recommend([0], num_threads=1)\n"
        "        time.sleep(0.05)\n"
        "    except KeyboardInterrupt:\n"
        "        pass\n"
        "print(factors.recommend([0], N=1).ids)\n"
    )
    return interpreter("-c", script) == (0, "[[0]]\n", "")


def _raised(kind: type[BaseException], work: Callable[[], Any]) -> bool:
    try:
        work()
    except kind:
        return True
    return False


def loops() -> Iterator[Case]:
    async def gathered() -> list[str]:
        return await asyncio.gather(*(asyncio.to_thread(lambda n=n: digest(als(n))) for n in (1, 2, 3)))

    yield _right(
        "asyncio, three fits in threads", lambda: asyncio.run(gathered()), lambda found: set(found) == {digest(als())}
    )

    async def cancelled() -> bool:
        task = asyncio.create_task(asyncio.to_thread(als, 2, iterations=300))
        await asyncio.sleep(0.01)
        task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            return same(als(2), als())
        return same(task.result(), als(iterations=300))

    yield _right("asyncio, a fit whose task is cancelled", lambda: asyncio.run(cancelled()))

    async def within() -> str:
        return digest(als(2))

    yield _right("a fit within a running loop", lambda: asyncio.run(within()), lambda found: found == digest(als()))

    async def never(record: Any, factors: Factors) -> None:
        raise AssertionError

    yield _refused("a coroutine as callback", lambda: als(callback=never), "callback", kind=(TypeError, ValueError))


def oddities() -> Iterator[Case]:
    def shallow() -> Factors:
        depth, frame = 0, sys._getframe()
        while frame := frame.f_back:  # type: ignore[assignment]
            depth += 1
        before = sys.getrecursionlimit()
        sys.setrecursionlimit(depth + 45)
        try:
            return als(2)
        finally:
            sys.setrecursionlimit(before)

    either = Either(Holds(lambda f: same(f, als())), raises(RecursionError, "recursion"))
    yield Case("states: a low limit of recursion", shallow, either)
    yield _right(
        "fits again after a low limit of recursion", lambda: (_ignored(shallow), als(3))[1], lambda f: same(f, als())
    )

    def silent() -> Factors:
        streams, sys.stdout, sys.stderr = (sys.stdout, sys.stderr), None, None  # type: ignore[assignment]
        try:
            return als(2, progress=True)
        finally:
            sys.stdout, sys.stderr = streams

    yield _right("progress without any stream", silent, lambda f: same(f, als()))

    def closed(folder: Path) -> bool:
        with open(folder / "err", "w") as file:
            sys.stderr, before = file, sys.stderr
        try:
            return same(als(2, progress=True), als())
        finally:
            sys.stderr = before

    yield _right("progress on a closed stream", inside(closed))

    def few_files(folder: Path) -> bool:
        als(2)  # loads its kernels
        before = resource.getrlimit(resource.RLIMIT_NOFILE)
        held = [os.open(os.devnull, os.O_RDONLY) for _ in range(3)]
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(held) + 1, before[1]))
        try:
            try:
                als(2, checkpoint=folder / "run")
            except OSError as error:
                return "too many open files" in str(error).lower() and same(als(2), als())
            return True
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
            for number in held:
                os.close(number)

    yield _right("no file may be opened", inside(few_files))

    def traced() -> bool:
        seen: list[str] = []
        sys.settrace(lambda frame, event, argument: seen.append(event))
        try:
            found = als(2)
        finally:
            sys.settrace(None)
        return same(found, als()) and bool(seen)

    yield _right("under a tracer", traced)

    def imported_again() -> bool:
        held = {name: sys.modules.pop(name) for name in list(sys.modules) if name.split(".")[0] == "lfm_np"}
        try:
            import lfm_np as fresh

            found = fresh.als(table(), factors=4, iterations=2, random_state=0, num_threads=2)
            return fresh is not held["lfm_np"] and np.array_equal(found.item_factors, als().item_factors)
        finally:
            sys.modules.update(held)

    yield _right("imported a second time", imported_again)

    def gone() -> bool:
        with __import__("tempfile").TemporaryDirectory() as folder:
            here = os.getcwd()
            os.chdir(folder)
        try:
            return same(als(2), als()) and len(als().recommend([0]).ids) == 1
        finally:
            os.chdir(here)

    yield _right("in a folder that is gone", gone)

    def clocks() -> bool:
        before, time.perf_counter, time.time = (time.perf_counter, time.time), lambda: 0.0, lambda: -1.0
        try:
            return same(als(2, progress=True), als())
        finally:
            time.perf_counter, time.time = before

    yield _right("clocks that stand still", clocks)
    yield _right(
        "an errstate of the caller's in a thread",
        lambda: together(2, lambda i: _under_errors(i)),
        lambda r: r == [True, True],
    )

    def subclassed() -> bool:
        class Mine(sp.csr_matrix):
            def tocsr(self, copy: bool = False) -> Any:
                raise AssertionError("called")

            def __getitem__(self, key: Any) -> Any:
                raise AssertionError("called")

        return same(lfm_np.als(Mine(table()), factors=4, iterations=2, random_state=0), als())

    yield Case(
        "states: a subclass of csr_matrix that misbehaves",
        subclassed,
        Either(Holds(bool), raises((AssertionError, TypeError, ValueError), "called|x")),
    )


def _under_errors(place: int) -> bool:
    with np.errstate(all="raise" if place else "ignore"):
        return same(als(2), als()) and np.geterr()["over"] == ("raise" if place else "ignore")


def _ignored(work: Callable[[], Any]) -> None:
    with contextlib.suppress(RecursionError):
        work()


def cases() -> list[Case]:
    return [case for make in (interrupts, loops, oddities) for case in make()]
