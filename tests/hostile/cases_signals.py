"""Signals in every phase, watchdogs and event loops."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
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
from lfm_np import Status

from .case import Case, Group
from .cases_scarce_resources import als, large, ranked, sgd, shop
from .matrices import plain
from .places import holding, inside, same

group = Group("moments")
right, refused = holding(group), group.refused


class Late(Exception):
    """Of a watchdog."""


@contextlib.contextmanager
def alarms(first: float, then: float = 0.0, handler: Callable[..., Any] | None = None) -> Iterator[None]:
    """SIGALRM after ``first`` seconds and every ``then``; without a handler it raises `Late`."""

    def late(*_: Any) -> None:
        raise Late("too late")

    before = signal.signal(signal.SIGALRM, handler or late)
    signal.setitimer(signal.ITIMER_REAL, first, then)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def cut(call: Callable[[], Any], moments: int = 12) -> int:
    """How often `Late` ended ``call``, at moments spread over the time that it takes."""
    start = time.perf_counter()
    call()
    whole, count = time.perf_counter() - start, 0
    for moment in range(moments):
        try:
            with alarms(max(whole * (moment + 0.5) / moments, 1e-5)):
                call()
        except Late:
            count += 1
    return count


def watchdogs() -> Iterator[Case]:
    def saving(folder: Path) -> bool:
        old, new, path = large(), large(2.0), folder / "m"
        old.save(path)

        def call() -> None:
            new.save(path)

        for _ in range(3):
            cut(call)
            kept = lfm_np.Factors.load(path)
            if os.listdir(folder) != ["m"] or not (same(kept, old) or same(kept, new)):
                return False
        return True

    yield right("a watchdog ends save", inside(saving))

    def open_files() -> list[str]:
        return sorted(os.listdir("/proc/self/fd"))

    def loading(folder: Path) -> bool:
        wanted = large()
        wanted.save(folder / "m")
        before = open_files()
        for mmap in (False, True):
            cut(lambda mmap=mmap: lfm_np.Factors.load(folder / "m", mmap=mmap))
        gc.collect()
        return open_files() == before and same(lfm_np.Factors.load(folder / "m"), wanted)

    yield right("a watchdog ends load", inside(loading))

    factors = large()
    wanted = ranked(factors, 2000)
    test = sp.random_array((2000, 300), density=0.02, rng=0, format="csr", dtype=np.float32)
    judged = lfm_np.evaluate(factors, None, test, ("auc", "ndcg@5"))
    everybody = np.arange(2000)
    for name, call, check in (
        (
            "recommend",
            lambda: large().recommend(everybody, N=5),
            lambda: np.array_equal(large().recommend(everybody, N=5).ids, wanted),
        ),
        (
            "evaluate",
            lambda: lfm_np.evaluate(factors, None, test, ("auc", "ndcg@5")),
            lambda: lfm_np.evaluate(factors, None, test, ("auc", "ndcg@5")) == judged,
        ),
        (
            "similar_items",
            lambda: factors.similar_items(np.arange(300), N=2),
            lambda: np.array_equal(factors.similar_items(np.arange(300), N=1).ids[:, 0], np.arange(300)),
        ),
        (
            "fold_in",
            lambda: large().fold_in_users(test, regularization=1.0, alpha=1.0, weighting="ials",
                                          regularization_exponent=0.0),
            lambda: large().fold_in_users(test, regularization=1.0, alpha=1.0, weighting="ials",
                                          regularization_exponent=0.0).shape == (2000, 300),
        ),
        ("als", lambda: als(test), lambda: same(als(test), als(test, num_threads=1))),
        ("sgd", lambda: sgd(test), lambda: same(sgd(test), sgd(test, num_threads=1))),
    ):  # fmt: skip
        yield right(f"a watchdog ends {name}", lambda call=call, check=check: [cut(call), check()][1])

    def storing(folder: Path) -> bool:
        for moment in range(12):
            place = folder / str(moment)
            try:
                with alarms(0.0005 * (moment + 1)):
                    lfm_np.StoredMatrix.from_matrix(plain(), place)
            except Late:
                if place.exists() and not same(als(lfm_np.StoredMatrix(place)), als()):
                    return False
            if not place.exists():
                lfm_np.StoredMatrix.from_matrix(plain(), place)
        stored = all(lfm_np.StoredMatrix(folder / str(moment)).nnz == plain().nnz for moment in range(12))
        return stored and sorted(os.listdir(folder)) == sorted(map(str, range(12)))

    yield right("a watchdog ends from_matrix", inside(storing))

    def reading(folder: Path) -> bool:
        import pyarrow as pa
        import pyarrow.parquet as pq

        users, items = np.arange(20_000) % 997, np.arange(20_000) % 89
        pq.write_table(pa.table({"user": users, "item": items}), folder / "t.parquet")
        np.savetxt(folder / "t.csv", np.c_[users, items], "%d", ",", header="user,item", comments="")
        before = open_files()
        for read in (
            lambda: lfm_np.Interactions.from_parquet(folder / "t.parquet"),
            lambda: lfm_np.Interactions.from_csv(folder / "t.csv"),
        ):
            cut(read, 8)
            if read().matrix.sum() != 20_000:
                return False
        gc.collect()
        return len(open_files()) <= len(before)

    yield right("a watchdog ends readers", inside(reading))

    def writing(folder: Path) -> bool:
        data, path = shop(), folder / "p"
        factors = als(data)

        def call() -> None:
            lfm_np.recommend_parquet(factors, data, path, N=5)

        call()
        before = path.read_bytes()
        cut(call)
        return path.read_bytes() == before and os.listdir(folder) == ["p"]

    yield right("a watchdog ends recommend_parquet", inside(writing))

    def going_on(folder: Path) -> bool:
        wanted = als(iterations=6)
        for moment in range(10):
            path = folder / str(moment)
            for _ in range(3):
                with contextlib.suppress(Late), alarms(0.001 * (moment + 1)):
                    als(iterations=6, checkpoint=path)
            if not same(als(iterations=6, checkpoint=path), wanted):
                return False
        return sorted(os.listdir(folder)) == sorted(map(str, range(10)))

    yield right("a watchdog ends fits that go on from their checkpoint", inside(going_on))


def signals() -> Iterator[Case]:
    wanted = als()

    def press(record: Any, factors: Any) -> None:
        if record["iteration"] == 1:
            os.kill(os.getpid(), signal.SIGINT)

    def with_handler(handler: Any, call: Callable[[], Any]) -> Callable[[], Any]:
        def run() -> Any:
            before = signal.signal(signal.SIGINT, handler)
            try:
                found = call()
                return found if signal.getsignal(signal.SIGINT) is handler else f"{signal.getsignal(signal.SIGINT)}"
            finally:
                signal.signal(signal.SIGINT, before)

        return run

    ignored = with_handler(signal.SIG_IGN, lambda: als(callback=press))
    yield right("Ctrl-C that is ignored, as by nohup, is ignored", ignored, lambda f: same(f, wanted))
    pressed: list[int] = []
    own = with_handler(lambda *_: pressed.append(1), lambda: als(callback=press))
    yield right(
        "Ctrl-C for a handler of the caller's: that is called, or the fit ends",
        own,
        lambda f: f.status is Status.INTERRUPTED or (bool(pressed) and same(f, wanted)),
    )

    def system_exit(folder: Path) -> bool:
        def leave(*_: Any) -> None:
            sys.exit(3)

        before = signal.signal(signal.SIGTERM, leave)

        def send(record: Any, factors: Any) -> None:
            if record["iteration"] == 2:
                os.kill(os.getpid(), signal.SIGTERM)

        status = None
        try:
            als(iterations=6, checkpoint=folder / "c", callback=send)
        except SystemExit as error:
            status = error.code
        finally:
            signal.signal(signal.SIGTERM, before)
        return status == 3 and same(als(iterations=6, checkpoint=folder / "c"), als(iterations=6))

    yield right("SIGTERM as SystemExit leaves, and the checkpoint goes on", inside(system_exit))

    def storm(folder: Path) -> bool:
        count: list[int] = []

        def handler(*_: Any) -> None:
            count.append(len(bytearray(1000)))

        drawn, path = sgd(), folder / "m"
        with alarms(0.0003, 0.0003, handler):
            for _ in range(5):
                fine = same(als(), wanted) and same(sgd(), drawn)
                wanted.save(path)
                fine &= same(lfm_np.Factors.load(path), wanted)
                fine &= np.array_equal(wanted.recommend(np.arange(20), N=5).ids, ranked(wanted))
        return fine and len(count) > 10

    yield right("a storm of signals changes nothing", inside(storm))

    def handler_fits() -> bool:
        found: list[lfm_np.Factors] = []
        busy: list[int] = []

        def handler(*_: Any) -> None:
            if not busy and len(found) < 5:
                busy.append(1)
                found.append(als())
                busy.clear()

        with alarms(0.001, 0.004, handler):
            outer = [als(iterations=30) for _ in range(5)]
        reference = als(iterations=30)
        return bool(found) and all(same(f, wanted) for f in found) and all(same(f, reference) for f in outer)

    yield right("a signal's handler fits too", handler_fits)

    def inner_press() -> bool:
        inner: list[lfm_np.Factors] = []

        def nested(record: Any, factors: Any) -> None:
            if record["iteration"] == 1:
                inner.append(als(callback=press))

        outer = als(callback=nested)
        return inner[0].status is Status.INTERRUPTED and np.isfinite(outer.item_factors).all()

    yield right("Ctrl-C within a fit within a callback ends the inner one", inner_press)

    def elsewhere() -> bool:
        found: list[lfm_np.Factors] = []
        thread = threading.Thread(target=lambda: found.append(als(callback=press)))
        raised = False
        try:
            thread.start()
            time.sleep(1)
        except KeyboardInterrupt:
            raised = True
        while not found:  # join of an interrupted join does not wait, in Python 3.11
            time.sleep(0.01)
        thread.join()
        return raised and same(found[0], wanted)

    yield right("Ctrl-C while a thread fits comes to the main thread", elsewhere)

    def stopped() -> bool:
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            with contextlib.suppress(BaseException):
                os.write(write, b"1")
                os._exit(0 if same(als(iterations=400), als(iterations=400, num_threads=1)) else 1)
            os._exit(2)
        os.read(read, 1)
        for _ in range(5):
            os.kill(pid, signal.SIGSTOP)
            time.sleep(0.01)
            os.kill(pid, signal.SIGCONT)
            time.sleep(0.01)
        os.close(read), os.close(write)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0

    yield right("a process that is stopped and continued", stopped)

    def masked() -> bool:
        every = set(signal.valid_signals()) - {signal.SIGKILL, signal.SIGSTOP}
        before = signal.pthread_sigmask(signal.SIG_BLOCK, every)
        try:
            found = als(callback=press)
            inside = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        finally:
            try:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
                time.sleep(0.01)
            except KeyboardInterrupt:
                pass
        return same(found, wanted) and signal.SIGINT in inside

    yield right("all signals are blocked by the caller, and stay so", masked)

    def by_default() -> bool:
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        found = same(als(), wanted)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        return found

    yield right("SIGPIPE at its default, children that are not waited for", by_default)


def loops() -> Iterator[Case]:
    wanted, drawn = als(), sgd()

    async def at_once() -> bool:
        fits = [asyncio.to_thread(als, num_threads=n) for n in (1, 2, 3)] + [asyncio.to_thread(sgd)]
        found = await asyncio.gather(*fits)
        return all(same(f, wanted) for f in found[:3]) and same(found[3], drawn) and same(als(), wanted)

    yield right("an event loop: fits in threads, and one in the loop", lambda: asyncio.run(at_once()))

    async def too_late() -> bool:
        done: list[lfm_np.Factors] = []

        def slow(record: Any, factors: Any) -> None:
            time.sleep(0.02)

        try:
            await asyncio.wait_for(asyncio.to_thread(lambda: done.append(als(callback=slow))), 0.02)
        except TimeoutError:
            while not done:
                await asyncio.sleep(0.01)
            return same(done[0], wanted)
        return False

    yield right("an event loop that waits no longer", lambda: asyncio.run(too_late()))

    async def pressed() -> Any:
        return als(callback=lambda record, f: os.kill(os.getpid(), signal.SIGINT))

    def loop_pressed() -> bool:
        try:
            return asyncio.run(pressed()).status is Status.INTERRUPTED
        except KeyboardInterrupt:
            return True

    yield right("Ctrl-C in a fit of an event loop", loop_pressed)

    async def waking() -> bool:
        loop, told = asyncio.get_running_loop(), asyncio.Event()
        loop.add_signal_handler(signal.SIGUSR1, told.set)
        found = als(callback=lambda record, f: os.kill(os.getpid(), signal.SIGUSR1))
        await asyncio.wait_for(told.wait(), 2)
        loop.remove_signal_handler(signal.SIGUSR1)
        return same(found, wanted)

    yield right("an event loop's own signal comes through", lambda: asyncio.run(waking()))


def cases() -> list[Case]:
    return [case for make in (watchdogs, signals, loops) for case in make()]
