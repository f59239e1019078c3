"""Signals, callbacks, memory, threads, processes and copies: a user's process around a fit."""

from __future__ import annotations

import concurrent.futures
import copy
import gc
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

import lfm_np
from lfm_np import Status, losses, sampling

from .case import Case, Either, Group, Holds, installed, raises

_signal, _call, _memory, _crowd, _copies, _cache = map(
    Group, ("interrupted", "called back", "memory", "crowded", "copied", "kernels on disk")
)  # fmt: skip
X = sp.csr_array(np.add.outer(5 * np.arange(30), 3 * np.arange(14)) % 7 // 4 * 1.0)
FITS: dict[str, Callable[..., Any]] = {
    "als": lambda sweeps=5, **o: lfm_np.als(X, factors=4, iterations=sweeps, random_state=0, **o),
    "sgd": lambda sweeps=5, **o: lfm_np.sgd(X, factors=4, epochs=sweeps, random_state=0, **o),
}


def equal(a: Any, b: Any) -> bool:
    return np.array_equal(a.user_factors, b.user_factors) and np.array_equal(a.item_factors, b.item_factors)


def at(sweep: int, do: Callable[[], Any]) -> Callable[[dict[str, Any], Any], None]:
    def callback(record: dict[str, Any], factors: Any) -> None:
        if record["iteration"] == sweep:
            do()

    return callback


def thrown(error: BaseException) -> None:
    raise error


def press() -> None:
    signal.raise_signal(signal.SIGINT)


def interrupted() -> Iterator[Case]:
    for name, fit in FITS.items():
        yield _signal.right(
            f"{name}, Ctrl-C in the second sweep",
            lambda f=fit: f(callback=at(2, press)),
            lambda r, f=fit: (
                r.status is Status.INTERRUPTED and len(r.history) in (2, 3) and equal(r, f(len(r.history)))
            ),
        )

        def raising(f: Any = fit) -> Any:
            try:
                return f(callback=at(2, press), raise_on_interrupt=True)
            except KeyboardInterrupt:
                return None

        yield _signal.right(f"{name}, Ctrl-C shall raise", raising, lambda r: r is None)

        def kept(f: Any = fit) -> Any:
            with tempfile.TemporaryDirectory() as folder:
                path = os.path.join(folder, "c")
                first = f(callback=at(3, press), checkpoint=lfm_np.Checkpoint(path, every=1e6))
                return first, f(checkpoint=path)

        yield _signal.right(
            f"{name}, Ctrl-C, and gone on from a checkpoint that was not due",
            kept,
            lambda r, f=fit: r[0].status is Status.INTERRUPTED and equal(r[1], f()),
        )

        def alarmed(f: Any = fit) -> Any:
            before = signal.signal(signal.SIGALRM, lambda *_: thrown(TimeoutError("the watchdog")))
            try:
                f(callback=at(2, lambda: signal.raise_signal(signal.SIGALRM)))
            finally:
                signal.signal(signal.SIGALRM, before)

        yield Case(f"interrupted: {name}, a watchdog", alarmed, raises((TimeoutError,), "the watchdog"))

        def beside(f: Any = fit) -> Any:
            """Ctrl-C reaches the main thread; a fit in another one goes on."""
            with concurrent.futures.ThreadPoolExecutor(1) as pool:
                future = pool.submit(f, 30)
                try:
                    press()
                    time.sleep(0.01)
                except KeyboardInterrupt:
                    return future.result()

        yield _signal.right(f"{name} in another thread", beside, lambda r, f=fit: equal(r, f(30)))

    def ignored() -> Any:
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            return FITS["als"](callback=at(2, press))
        finally:
            signal.signal(signal.SIGINT, before)

    yield _signal.right(
        "where Ctrl-C is ignored",
        ignored,
        lambda r: (r.status is Status.INTERRUPTED and len(r.history) in (2, 3)) or equal(r, FITS["als"]()),
    )  # fmt: skip


def called() -> Iterator[Case]:
    class Mine(BaseException):
        pass

    for name, fit in FITS.items():
        for error in (
            Mine("stop that"),
            SystemExit("stop that"),
            RecursionError("stop that"),
            MemoryError("stop that"),
        ):
            yield Case(
                f"called back: {name}, {type(error).__name__}",
                lambda f=fit, e=error: f(callback=at(2, lambda: thrown(e))),
                raises((type(error),), "stop that"),
            )
        yield _call.right(
            f"{name} is enough after three",
            lambda f=fit: f(callback=at(3, lambda: thrown(StopIteration()))),
            lambda r, f=fit: r.status is Status.STOPPED and equal(r, f(3)),
        )
        yield Case(
            f"called back: {name}, writes into what it is shown",
            lambda f=fit: f(callback=lambda record, factors: factors.item_factors.fill(0)),
            raises((ValueError,), "read-only"),
        )
        yield _call.right(
            f"{name} fits, recommends and evaluates within",
            lambda f=fit: f(
                callback=lambda record, factors: record.update(
                    best=factors.recommend(0).ids.tolist(), inner=f(2).history[-1]["iteration"],
                    mrr=lfm_np.evaluate(factors, None, X, ["mrr"])["mrr"],
                )
            ),
            lambda r, f=fit: equal(r, f()) and all(record["inner"] == 2 and "mrr" in record for record in r.history),
        )  # fmt: skip
        yield _call.either(
            f"{name} empties its record",
            lambda f=fit: f(callback=lambda record, factors: record.clear()),
            lambda r, f=fit: equal(r, f()) and len(r.history) == 5,
            "record|history|iteration",
            kind=(ValueError, TypeError, KeyError),
        )
        shown: list[Any] = []

        def late(f: Any = fit, shown: list[Any] = shown) -> Any:
            f(callback=lambda record, factors: shown.append(factors))
            return shown[0].item_factors

        yield Case(
            f"called back: {name}, looks at the first sweep after the last",
            late,
            Either(
                Holds(lambda V, f=fit: np.array_equal(V, f(1).item_factors)),
                raises((RuntimeError, ValueError), "callback"),
            ),
        )
        yield _call.refused(f"{name}, of no use", lambda f=fit: f(callback="print"), "callback")


def memory() -> Iterator[Case]:
    nothing = lfm_np.Factors(np.ones((2, 1)), np.ones((3, 1)))
    wide = sp.csr_array(([1.0], [2**30], [0, 1]), (1, 2**31 - 2))
    for name, call, words in (
        ("als of a billion factors", lambda: lfm_np.als(X, factors=10**9), "memory|factors"),
        ("sgd of a billion factors", lambda: lfm_np.sgd(X, factors=10**9), "memory|factors"),
        ("als of 2**70 factors", lambda: lfm_np.als(X, factors=2**70), "factors"),
        ("a wide matrix", lambda: lfm_np.als(wide), "memory|factors"),
        ("sgd of a wide matrix", lambda: lfm_np.sgd(wide), "memory|factors"),
        ("lists of 10**15", lambda: nothing.recommend([0, 1], N=10**15), "memory|N"),
        ("similar items of 10**15", lambda: nothing.similar_items([0], N=10**15), "memory|N"),
    ):
        yield Case(f"memory: {name}", call, raises((MemoryError, ValueError), words))
    yield _memory.refused("more cells than there are", lambda: lfm_np.estimate_memory(10, 10, 101), "nnz")
    yield _memory.right(
        "an estimate is above what must be there",
        lambda: lfm_np.estimate_memory(10**6, 10**5, 10**8, factors=100),
        lambda b: 2 * 1_100_000 * 112 * 4 + 8 * 10**8 <= b < 3 * (2 * 1_100_000 * 112 * 4 + 8 * 10**8),
    )


def crowds() -> Iterator[Case]:
    for name, fit in FITS.items():

        def together(f: Any = fit) -> Any:
            with concurrent.futures.ThreadPoolExecutor(6) as pool:
                return list(pool.map(lambda t: f(num_threads=t), (1, 2, 3, 5, 7, 2)))

        yield _crowd.right(
            f"six of {name}, threads of their own", together, lambda r, f=fit: all(equal(a, f()) for a in r)
        )

        def forked(f: Any = fit) -> int:
            """A child of a process whose other thread fits, which fits and leaves."""
            running = threading.Thread(target=f, args=(200,))
            running.start()
            child = os.fork()
            if not child:
                os._exit(0 if equal(f(), f(num_threads=1)) else 3)
            status = os.waitpid(child, 0)[1]
            running.join()
            return os.waitstatus_to_exitcode(status)

        yield _crowd.right(f"a fork beside {name}", forked, lambda code: code == 0)
        yield _crowd.either(
            f"{name}, a million threads",
            lambda f=fit: f(num_threads=10**6),
            lambda r, f=fit: equal(r, f()),
            "num_threads",
        )

    def lists() -> Any:
        model = FITS["als"]()
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            return model, list(pool.map(lambda _: model.recommend(np.arange(30), N=5, seen=X).ids, range(16)))

    yield _crowd.right(
        "eight threads ask a model for its first lists",
        lists,
        lambda r: (
            all(np.array_equal(ids, r[1][0]) for ids in r[1])
            and np.array_equal(r[1][0], FITS["als"]().recommend(np.arange(30), N=5, seen=X).ids)
        ),
    )

    def joblib() -> Any:
        from joblib import Parallel, delayed

        return Parallel(n_jobs=2, backend="threading")(delayed(FITS["als"])(num_threads=t) for t in (1, 2, 4))

    if installed("joblib"):
        yield _crowd.right("joblib's threads", joblib, lambda r: all(equal(a, FITS["als"]()) for a in r))
    script = """
import threading, numpy as np, scipy.sparse as sp, lfm_np
X = sp.random_array((3000, 500), density=0.02, rng=np.random.default_rng(0), format="csr")
threading.Thread(target=lambda: lfm_np.als(X, factors=32, iterations=10**6), daemon=True).start()
lfm_np.als(X[:50], factors=2, iterations=1)
"""
    yield _crowd.right(
        "the interpreter ends while a daemon thread fits",
        lambda: subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=40, text=True),
        lambda done: done.returncode == 0 and "Traceback" not in done.stderr,
    )

    def nowhere() -> Any:
        here = os.getcwd()
        with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as gone:
            inner = os.path.join(gone, "x")
            os.mkdir(inner)
            os.chdir(inner)
            os.rmdir(inner)
            try:
                model = FITS["als"](checkpoint=os.path.join(folder, "c"))
                model.save(os.path.join(folder, "m"))
                return model, lfm_np.Factors.load(os.path.join(folder, "m"))
            finally:
                os.chdir(here)

    yield _crowd.right("in a folder that is gone", nowhere, lambda r: equal(*r))

    def mute() -> Any:
        out, err = sys.stdout, sys.stderr
        sys.stdout = sys.stderr = None  # type: ignore[assignment]
        try:
            return FITS["als"](progress=True)
        finally:
            sys.stdout, sys.stderr = out, err

    yield _crowd.right("a bar without a terminal", mute, lambda r: equal(r, FITS["als"]()))


def copies() -> Iterator[Case]:
    made: dict[str, Callable[[], Any]] = {
        "factors": lambda: FITS["als"](),
        "interactions": lambda: lfm_np.Interactions.from_arrays(["a", "b"], [1, 2], timestamps=[3, 4]),
        "a checkpoint": lambda: lfm_np.Checkpoint("x", every=3.0),
        "a loss": lambda: losses.WARP(margin=0.5, trials=3),
        "a sampler": lambda: sampling.Popularity(0.25),
        "a status": lambda: Status.CONVERGED,
    }

    def alike(a: Any, b: Any) -> bool:
        if isinstance(a, lfm_np.Factors):
            return equal(a, b) and a.history == b.history and a.params == b.params and a.status is b.status
        if isinstance(a, lfm_np.Interactions):
            return a.users.tolist() == b.users.tolist() and a.timestamps.tolist() == b.timestamps.tolist()
        return bool(a == b and type(a) is type(b))

    for name, make in made.items():
        yield _copies.right(
            name,
            lambda m=make: (
                lambda a: (a, [copy.copy(a), copy.deepcopy(a), *(pickle.loads(pickle.dumps(a, p)) for p in (2, 5))])
            )(m()),
            lambda r: all(alike(r[0], other) for other in r[1]),
        )
    error = lfm_np.SolverError("row 3 is singular", lfm_np.Factors(np.eye(2), np.eye(2)))
    yield _copies.right(
        "an error with its factors",
        lambda: pickle.loads(pickle.dumps(error)),
        lambda e: str(e) == "row 3 is singular" and equal(e.factors, error.factors),
    )

    def used() -> Any:
        """A copy of a model that has made its index, after the model is gone."""
        model = FITS["als"]()
        want = model.recommend(np.arange(30)).ids
        other = pickle.loads(pickle.dumps(model))
        del model
        gc.collect()
        return want, other.recommend(np.arange(30)).ids

    yield _copies.right("a model in use", used, lambda r: np.array_equal(*r))


def kernels() -> Iterator[Case]:
    script = """
import sys, numpy as np, lfm_np
f = lfm_np.Factors(np.eye(3), np.arange(12.0).reshape(4, 3))
print(f.scores([0, 1, 2], [3, 2, 1]).tolist())
"""

    def fresh(folder: str) -> Any:
        there = {**os.environ, "LFM_NP_CACHE_DIR": folder, "PYTHONWARNINGS": "default"}
        return subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=60, text=True, env=there)

    def right(done: Any) -> bool:
        return done.returncode == 0 and done.stdout.strip() == "[9.0, 7.0, 5.0]" and "Traceback" not in done.stderr

    def spoiled() -> Any:
        with tempfile.TemporaryDirectory() as folder:
            first = fresh(folder)
            files = [path for path in Path(folder).rglob("*") if path.is_file()]
            for number, path in enumerate(files):
                content = bytearray(path.read_bytes())
                if number % 2:
                    content[len(content) // 2 :] = b""
                elif content:
                    content[len(content) // 2] ^= 255
                path.write_bytes(content)
            return files, first, fresh(folder)

    yield _cache.right("cut and flipped", spoiled, lambda r: bool(r[0]) and right(r[1]) and right(r[2]))

    def file() -> Any:
        with tempfile.NamedTemporaryFile() as there:
            return fresh(there.name)

    yield _cache.right("the folder is a file", file, right)

    def shared() -> Any:
        """A folder that everybody may write, in which pickles lie that leave a trace."""
        with tempfile.TemporaryDirectory() as folder:
            trace = os.path.join(folder, "trace")
            cache = os.path.join(folder, "cache")
            os.mkdir(cache)
            fresh(cache)
            for path in Path(cache).rglob("*"):
                if path.is_file():
                    path.write_bytes(b"cos\nsystem\n(S'touch " + trace.encode() + b"'\ntR.")
                else:
                    path.chmod(0o777)
            Path(cache).chmod(0o777)
            return fresh(cache), os.path.exists(trace)

    yield _cache.right("pickles in a folder that all may write", shared, lambda r: right(r[0]) and not r[1])


def cases() -> list[Case]:
    return [*interrupted(), *called(), *memory(), *crowds(), *copies(), *kernels()]
