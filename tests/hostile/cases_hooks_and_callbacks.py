"""Tracers, collectors, clocks, and callbacks of every kind."""

from __future__ import annotations

import concurrent.futures
import contextlib
import cProfile
import faulthandler
import functools
import gc
import io
import os
import sys
import tempfile
import threading
import time
import tracemalloc
import warnings
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

import lfm_np
from lfm_np import Status

from .case import Case, Group
from .cases_scarce_resources import als, ranked, sgd
from .matrices import plain
from .places import child, holding, inside, same, together

group = Group("moments")
right, refused = holding(group), group.refused


def hooks() -> Iterator[Case]:
    wanted, drawn = als(), sgd()

    def fine() -> bool:
        return same(als(), wanted) and same(sgd(), drawn) and wanted.recommend([1], N=5).ids.shape == (1, 5)

    def traced() -> bool:
        seen: set[str] = set()

        def tracer(frame: Any, event: str, argument: Any) -> Any:
            seen.add(frame.f_code.co_name)
            return tracer

        before = sys.gettrace()
        threading.settrace(tracer)
        sys.settrace(tracer)
        try:
            return fine() and sys.gettrace() is tracer and "als" in seen
        finally:
            sys.settrace(before)
            threading.settrace(None)  # type: ignore[arg-type]

    yield right("a tracer looks on, in threads too", traced)

    def profiled() -> bool:
        profile = cProfile.Profile()
        return profile.runcall(fine) and any("als" in str(entry.code) for entry in profile.getstats())

    yield right("a profiler looks on", profiled)

    def traced_memory() -> bool:
        tracemalloc.start(3)
        try:
            return fine()
        finally:
            tracemalloc.stop()

    yield right("tracemalloc looks on", traced_memory)

    def dumped() -> bool:
        with open(os.devnull, "w") as nowhere:
            faulthandler.enable(nowhere)
            try:
                found = als(callback=lambda record, f: faulthandler.dump_traceback(nowhere, all_threads=True))
                return same(found, wanted) and fine()
            finally:
                faulthandler.disable()

    yield right("faulthandler writes in every sweep", dumped)

    def audited() -> bool:
        events: list[str] = []
        sys.addaudithook(lambda event, arguments: events.append(event))
        with tempfile.TemporaryDirectory() as folder:
            wanted.save(Path(folder) / "m")
            loaded = lfm_np.Factors.load(Path(folder) / "m")
        code = {"pickle.find_class", "exec", "compile"} & set(events)
        return not code and fine() and same(loaded, wanted)

    yield right("an audit hook sees no code come from a model file", audited)

    def hurried() -> bool:
        before = sys.getswitchinterval()
        sys.setswitchinterval(1e-6)
        try:
            found = together(4, lambda place: (als(num_threads=place + 1), sgd(num_threads=4 - place)))
        finally:
            sys.setswitchinterval(before)
        return all(same(one, wanted) and same(two, drawn) for one, two in found)

    yield right("threads that switch every microsecond", hurried)

    def collected() -> bool:
        class Last:
            def __init__(self) -> None:
                self.itself = self  # only the collector frees it

            def __del__(self) -> None:
                made.append(als())

        made: list[lfm_np.Factors] = []
        before = gc.get_threshold()
        gc.set_threshold(1, 1, 1)
        try:
            Last(), Last()
            found = fine()
        finally:
            gc.set_threshold(*before)
        gc.collect()
        return found and len(made) == 2 and all(same(f, wanted) for f in made)

    yield right("a collector that runs all the time, and objects that fit when they go", collected)

    def watched() -> bool:
        found: list[bool] = []

        def look(phase: str, info: Any) -> None:
            if phase == "stop" and len(found) < 3:
                found.append(np.array_equal(wanted.recommend(np.arange(20), N=5).ids, ranked(wanted)))

        gc.callbacks.append(look)
        try:
            als(callback=lambda record, f: gc.collect())
        finally:
            gc.callbacks.remove(look)
        return bool(found) and all(found)

    yield right("the collector's callback ranks", watched)

    def weak() -> bool:
        factors = als()
        gone = weakref.ref(factors)
        factors.recommend([1, 2], N=3)
        factors.fold_in_users(plain()[:2])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            del factors
            gc.collect()
        return gone() is None

    yield right("factors that were used go when nobody holds them", weak)

    def jumped(clock: Callable[[], float]) -> Callable[[Path], bool]:
        def work(folder: Path) -> bool:
            names = ("time", "monotonic")
            before = {name: getattr(time, name) for name in names}
            for name in names:
                setattr(time, name, clock)
            try:
                found = als(progress=True, checkpoint=lfm_np.Checkpoint(folder / "c", every=5))
            finally:
                for name in names:
                    setattr(time, name, before[name])
            more = als(iterations=5, checkpoint=folder / "c")
            return same(found, wanted) and same(more, als(iterations=5))

        return work

    backwards = iter(range(10**6, 0, -3600))
    yield right("a clock that goes backwards", inside(jumped(lambda: float(next(backwards)))))
    yield right("a clock that stands", inside(jumped(lambda: 0.0)))
    yield right("a clock of the year 9999", inside(jumped(lambda: 2.5e11)))

    def last_words() -> bool:
        """At the exit of a thread's executor, whose threads are gone."""
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            future = pool.submit(als, num_threads=3)
        return same(future.result(), wanted)

    yield right("a fit that an executor's end waits for", last_words)


def callbacks() -> Iterator[Case]:
    wanted, drawn = als(), sgd()

    def generator(record: Any, factors: Any) -> Iterator[None]:
        yield

    async def stream(record: Any, factors: Any) -> Any:
        yield 1

    class Awaited:
        async def __call__(self, record: Any, factors: Any) -> None:
            raise AssertionError

    for name, callback in {
        "a generator function": generator,
        "an asynchronous generator": stream,
        "an object with an asynchronous call": Awaited(),
        "a partial of a generator function": functools.partial(generator),
    }.items():
        for solver, fit in {"als": als, "sgd": sgd}.items():
            yield refused(
                f"callback of {solver} that would never run: {name}",
                lambda f=fit, c=callback: f(callback=c),
                "callback",
            )

    class Quiet(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no text")

    class Enough(StopIteration):
        pass

    class Base(BaseException):
        pass

    for error in (
        Quiet(),
        Base("b"),
        GeneratorExit("g"),
        StopAsyncIteration("a"),
        MemoryError("m"),
        RecursionError("r"),
    ):
        for solver, fit in {"als": als, "sgd": sgd}.items():

            def through(fit: Any = fit, error: BaseException = error) -> bool:
                def throw(record: Any, factors: Any) -> None:
                    raise error

                try:
                    fit(callback=throw)
                except BaseException as found:
                    return found is error
                return False

            if solver == "als" or isinstance(error, (Quiet, Base)):
                yield right(f"callback of {solver} raises {type(error).__name__}, which leaves as it is", through)

    def enough(record: Any, factors: Any) -> None:
        raise Enough

    for solver, fit in {"als": als, "sgd": sgd}.items():
        yield right(
            f"callback of {solver} raises a kind of StopIteration",
            lambda f=fit: f(callback=enough),
            lambda f: f.status is Status.STOPPED and len(f.history) == 1,
        )

    def rude(record: Any, factors: Any) -> None:
        record.clear()

    yield right("callback empties the record", lambda: als(callback=rude), lambda f: same(f, wanted))

    def kept(record: Any, factors: Any) -> None:
        record["self"] = record

    def circle(folder: Path) -> bool:
        factors = als(callback=kept)
        try:
            factors.save(folder / "m")
        except (TypeError, ValueError) as error:
            return "history" in str(error) and os.listdir(folder) == []
        return False

    yield right("callback puts the record into itself: save says so", inside(circle))

    def settings() -> bool:
        import numba
        from threadpoolctl import threadpool_limits

        cores, threads = os.sched_getaffinity(0), numba.get_num_threads()
        filters = warnings.filters[:]

        def change(record: Any, factors: Any) -> None:
            np.seterr(all="ignore")
            numba.set_num_threads(1)
            os.sched_setaffinity(0, {min(cores)})
            warnings.simplefilter("ignore")

        with threadpool_limits(1):
            found = als(callback=change), sgd(callback=change)
        os.sched_setaffinity(0, cores)
        numba.set_num_threads(threads)
        warnings.filters[:] = filters
        np.seterr(all="raise")
        return same(found[0], wanted) and same(found[1], drawn)

    yield right("callback changes everybody's settings", settings)

    def at_files(change: Callable[[Path], Any], last: bool = True) -> Callable[[Path], bool]:
        def work(folder: Path) -> bool:
            path = folder / "c"

            def callback(record: Any, factors: Any) -> None:
                if record["iteration"] == 2:
                    change(path)

            found = als(checkpoint=path, callback=callback)
            return same(found, wanted) and same(als(iterations=5, checkpoint=path), als(iterations=5))

        return work

    yield right("callback removes the checkpoint", inside(at_files(lambda path: path.unlink(missing_ok=True))))
    yield right("callback cuts the checkpoint", inside(at_files(lambda path: os.truncate(path, 50))))
    yield right(
        "callback puts another run's checkpoint there",
        inside(at_files(lambda path: [path.unlink(), als(factors=2, checkpoint=path)])),
    )

    def in_the_way(folder: Path) -> bool:
        path = folder / "c"

        def callback(record: Any, factors: Any) -> None:
            if record["iteration"] == 2:
                path.unlink()
                path.mkdir()
                (path / "precious").write_text("mine")

        try:
            als(checkpoint=path, callback=callback)
        except OSError as error:
            return str(path) in str(error) and (path / "precious").read_text() == "mine"
        return False

    yield right("callback puts a folder in the checkpoint's way", inside(in_the_way))

    def same_file(folder: Path) -> bool:
        path = folder / "c"

        def callback(record: Any, factors: Any) -> None:
            als(iterations=record["iteration"], checkpoint=path)

        try:
            found = als(checkpoint=path, callback=callback)
        except (ValueError, OSError) as error:
            return bool(str(error))
        return same(found, wanted) and same(als(iterations=5, checkpoint=path), als(iterations=5))

    yield right("callback fits with the same checkpoint", inside(same_file))

    def nested() -> bool:
        found: list[lfm_np.Factors] = []

        def fit(depth: int) -> lfm_np.Factors:
            def callback(record: Any, factors: Any) -> None:
                if depth and record["iteration"] == 1:
                    found.append(fit(depth - 1))
                    found.append(sgd(num_threads=depth))

            return als(num_threads=depth + 1, callback=callback)

        outer = fit(3)
        return same(outer, wanted) and all(same(f, wanted) or same(f, drawn) for f in found) and len(found) == 6

    yield right("fits within fits within fits within a fit", nested)

    def forked() -> bool:
        told: list[int] = []
        als(callback=lambda record, f: told.append(child(lambda: same(als(), wanted) and same(sgd(), drawn))))
        sgd(callback=lambda record, f: told.append(child(lambda: same(als(num_threads=3), wanted))))
        return told == [0] * 6

    yield right("callback forks, and the child fits", forked)

    def later() -> bool:
        """A fit that is a step of a generator which nobody ends."""

        def sweeps() -> Iterator[float]:
            with np.errstate(all="ignore"):
                for iterations in (1, 2, 3):
                    yield als(iterations=iterations).history[-1]["objective"]

        steps = sweeps()
        first = next(steps)
        whole = same(als(), wanted)
        steps.close()
        np.seterr(all="raise")
        return whole and abs(first - wanted.history[0]["objective"]) <= 1e-9 * first

    yield right("a fit in a generator left half way", later)

    def printed() -> bool:
        text = io.StringIO()
        with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
            fit = same(als(), wanted) and same(sgd(), drawn)
        return fit and text.getvalue() == ""

    yield right("without a bar nothing is printed", printed)


def cases() -> list[Case]:
    return [case for make in (hooks, callbacks) for case in make()]
