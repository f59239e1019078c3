"""Fits that are stopped or watched, beside others in threads and processes, with little memory or a bad cache."""

from __future__ import annotations

import concurrent.futures
import copy
import multiprocessing
import os
import pathlib
import pickle
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numba
import numpy as np
import scipy.sparse as sp
import threadpoolctl

import lfm_np

from .case import Case, installed
from .cases_forged_files import fit, matrix
from .cases_records_by_dictionaries import inside
from .least_squares import BAD, Heading

_of = Heading("stopped and shared")


class Own(Exception):
    """The caller's."""


def at(sweep: int, act: Callable[[], Any]) -> Callable[..., None]:
    def callback(record: dict[str, Any], factors: Any) -> None:
        if record["iteration"] == sweep:
            act()

    return callback


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def throw(error: BaseException) -> Callable[[], None]:
    def act() -> None:
        raise error

    return act


def sgd(**words: Any) -> lfm_np.Factors:
    return lfm_np.sgd(matrix(), **{"factors": 3, "epochs": 4, "random_state": 0, **words})


def stopped() -> Iterator[Case]:
    runs = [
        ("als", lambda **words: fit(None, 9, **words), lambda: fit(None, 2)),
        ("sgd", lambda **words: sgd(epochs=9, **words), lambda: sgd(epochs=2)),
    ]
    if installed("torch"):
        runs += [("torch als", lambda **words: torch_als(9, **words), lambda: torch_als(2))]
    for name, run, short in runs:
        yield _of.right(
            f"{name}: Ctrl-C in the second sweep's callback leaves two sweeps",
            lambda run=run: run(callback=at(2, interrupt)),
            lambda f, short=short: (
                f.status == "interrupted" and len(f.history) == 2 and (f.item_factors == short().item_factors).all()
            ),
        )
        yield _of.right(
            f"{name}: raise_on_interrupt raises",
            lambda run=run: raised(lambda: run(callback=at(2, interrupt), raise_on_interrupt=True)),
            lambda kind: kind is KeyboardInterrupt,
        )
        yield _of.right(
            f"{name}: StopIteration is the end, with all of the sweep",
            lambda run=run: run(callback=at(2, throw(StopIteration("enough")))),
            lambda f, short=short: f.status == "stopped" and (f.item_factors == short().item_factors).all(),
        )
        error = Own("mine")
        yield _of.right(
            f"{name}: an error of the caller's leaves as it is",
            lambda run=run, error=error: caught(lambda: run(callback=at(1, throw(error)))),
            lambda found, error=error: found is error,
        )

    def interrupted_and_resumed(folder: pathlib.Path) -> Any:
        kind = raised(lambda: fit(folder / "c", 5, callback=at(3, interrupt), raise_on_interrupt=True))
        return kind is KeyboardInterrupt and (fit(folder / "c", 5).item_factors == fit(None, 5).item_factors).all()

    yield _of.right(
        "Ctrl-C, and the checkpoint goes on to the same bits", inside(interrupted_and_resumed), lambda equal: equal
    )
    yield _of.right(
        "a fit that ignores Ctrl-C, as under nohup",
        ignored,
        lambda f: f.status == "max_iterations" and len(f.history) == 4,
    )
    yield _of.right(
        "SystemExit leaves too",
        lambda: raised(lambda: fit(callback=at(1, throw(SystemExit(3))))),
        lambda kind: kind is SystemExit,
    )
    yield _of.right("a watchdog's TimeoutError leaves", watchdog, lambda kind: kind is Own)
    yield _of.right(
        "what a callback adds stays, what it takes away does not harm",
        lambda: fit(callback=lambda record, f: record.update(loss=record.pop("seconds", 0.0))),
        lambda f: all("loss" in record for record in f.history) and len(f.history) == 3,
    )

    def writes(record: Any, f: Any) -> None:
        f.item_factors[0] = 7

    yield _of.refused("a callback that writes to the factors", lambda: fit(callback=writes), "read-only")
    kept: list[Any] = []
    yield _of.either(
        "factors that are looked at when the fit is over",
        lambda: (fit(callback=lambda record, f: kept.append(f)), kept[0].item_factors.shape)[1],
        lambda shape: shape == (9, 3),
        "callback",
        kind=(*BAD, RuntimeError, AttributeError),
    )
    yield _of.right(
        "a fit within a callback of a fit",
        lambda: fit(callback=lambda record, f: record.update(inner=float(fit(None, 1).item_factors.sum()))),
        lambda f: (
            (f.item_factors == fit().item_factors).all()
            and f.history[0]["inner"] == float(fit(None, 1).item_factors.sum())
        ),
    )
    yield _of.refused(
        "a callback that takes one argument", lambda: fit(callback=lambda record: None), "callback|argument"
    )
    yield _of.refused(
        "a history that JSON cannot hold",
        inside(lambda d: fit(callback=lambda r, f: r.update(x={1, 2})).save(d / "m")),
        "history",
        "x|set",
        kind=TypeError,
    )


def torch_als(iterations: int, **words: Any) -> lfm_np.Factors:
    return lfm_np.torch_backend.als(matrix(), factors=3, random_state=0, iterations=iterations, num_threads=1, **words)


def raised(call: Callable[[], Any]) -> Any:
    return type(caught(call))


def caught(call: Callable[[], Any]) -> BaseException | None:
    try:
        call()
    except BaseException as error:
        return error
    return None


def ignored() -> Any:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        return fit(None, 4, callback=at(2, interrupt))
    finally:
        signal.signal(signal.SIGINT, before)


def watchdog() -> Any:
    def alarm(*_: Any) -> None:
        raise Own("late")

    before = signal.signal(signal.SIGALRM, alarm)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        return raised(lambda: fit(None, 10**6))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def wide() -> sp.csr_array:
    return sp.csr_array(sp.random(150, 90, 0.2, format="csr", random_state=np.random.default_rng(3)))


def together() -> Iterator[Case]:
    def jobs() -> list[bytes]:
        X = wide()
        work = [
            *(
                lambda t=t: lfm_np.als(X, factors=8, iterations=2, random_state=0, num_threads=t).user_factors
                for t in (1, 2, 3)
            ),
            *(
                lambda t=t: lfm_np.sgd(X, factors=8, epochs=2, random_state=0, num_threads=t).user_factors
                for t in (1, 2, 3)
            ),
        ]
        with concurrent.futures.ThreadPoolExecutor(6) as pool:
            return [array.tobytes() for array in pool.map(lambda call: call(), work)]

    yield _of.right(
        "six fits in threads, with 1, 2 and 3 threads each",
        jobs,
        lambda found: len(set(found[:3])) == 1 and len(set(found[3:])) == 1,
    )

    def one_result() -> Any:
        f = fit()
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            lists = list(
                pool.map(lambda t: f.recommend(range(12), N=5, num_threads=t % 3 + 1).ids.tobytes(), range(24))
            )
            rows = list(
                pool.map(lambda t: f.fold_in_users(matrix(), num_threads=t % 3 + 1).user_factors.tobytes(), range(24))
            )
        return len(set(lists)), len(set(rows))

    yield _of.right("one model asked by eight threads at once", one_result, lambda found: found == (1, 1))
    yield _of.right(
        "copies and pickles recommend the same, and are read-only",
        lambda: [copy.deepcopy(fit()), pickle.loads(pickle.dumps(fit())), copy.copy(fit())],
        lambda found: all(
            (f.recommend(1).ids == fit().recommend(1).ids).all()
            and not f.item_factors.flags.writeable
            and f.status == "max_iterations"
            for f in found
        ),
    )

    def from_thread() -> Any:
        found: list[Any] = []
        thread = threading.Thread(target=lambda: found.append(fit().item_factors))
        thread.start()
        thread.join()
        return found[0]

    yield _of.right(
        "a fit in a thread that is not the main one", from_thread, lambda V: (fit().item_factors == V).all()
    )
    yield _of.right("a pool of forked processes", forked, lambda found: found == [fit_bits(1)] * 3)
    spawned = """
import multiprocessing, numpy as np, scipy.sparse as sp, lfm_np
X = sp.csr_array(np.arange(48.0).reshape(8, 6) % 4)
def fit(threads):
    return lfm_np.als(X, factors=3, random_state=0, num_threads=threads).item_factors.tobytes()
if __name__ == "__main__":
    here = fit(2)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        print(all(found == here for found in pool.map(fit, [1, 3])))
"""
    yield _of.right("a spawned process", inside(lambda d: python(d, spawned)), lambda said: said == (0, "True\n", ""))
    yield _of.right("joblib's threads", in_joblib, lambda found: len(set(found)) == 1)
    daemon = """
import threading, time, numpy as np, scipy.sparse as sp, lfm_np
X = sp.csr_array(np.arange(4800.0).reshape(80, 60) % 4)
lfm_np.als(X, factors=3, iterations=1)
threading.Thread(target=lambda: lfm_np.als(X, factors=30, iterations=10**6), daemon=True).start()
time.sleep(0.2)
"""
    yield _of.right(
        "an exit during a daemon's fit", inside(lambda d: python(d, daemon)), lambda said: said == (0, "", "")
    )
    yield _of.right("threads of BLAS and Numba stay as they were", threads_around, lambda changed: not changed)


def fit_bits(threads: int) -> bytes:
    return fit(num_threads=threads).item_factors.tobytes()


def forked() -> list[bytes]:
    with multiprocessing.get_context("fork").Pool(2) as pool:
        found = pool.map(fit_bits, [1, 2, 3])
        pool.close()
        pool.join()
    return found


def in_joblib() -> list[bytes]:
    import joblib

    before = threading.active_count()
    found = joblib.Parallel(2, backend="threading")(joblib.delayed(fit_bits)(threads) for threads in (1, 2, 3))
    while threading.active_count() > before:  # joblib does not wait for its threads to end
        time.sleep(0.01)
    return found


def threads_around() -> dict[str, Any]:
    """What has changed."""

    def now() -> dict[str, int]:
        pools = {lib["filepath"]: lib["num_threads"] for lib in threadpoolctl.threadpool_info()}
        return pools | {"numba": numba.get_num_threads()}

    numba.get_num_threads()  # starts Numba's threads, which sets those of another OpenMP in the process
    before = now()
    caught(lambda: fit(callback=at(1, throw(Own()))))
    sgd(num_threads=1)
    after = now()  # others may have been loaded
    return {name: (number, after.get(name)) for name, number in before.items() if number != after.get(name)}


def python(folder: pathlib.Path, script: str, *arguments: str, **environment: str) -> tuple[int, str, str]:
    (folder / "script.py").write_text(script)
    done = subprocess.run(
        [sys.executable, str(folder / "script.py"), *arguments],
        capture_output=True,
        text=True,
        timeout=25,
        check=False,
        env={**os.environ, **environment},
        cwd=folder,
    )
    return done.returncode, done.stdout, done.stderr


def scarce() -> Iterator[Case]:
    def too_little_room(folder: pathlib.Path) -> Any:
        fit().save(folder / "m")
        before = (folder / "m").read_bytes()
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
        try:
            error = caught(lambda: sgd().save(folder / "m"))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        return (
            isinstance(error, OSError)
            and str(folder / "m") in str(error)
            and (folder / "m").read_bytes() == before
            and os.listdir(folder) == ["m"]
        )

    yield _of.right("a limit on the size of files: the old model stays", inside(too_little_room), lambda kept: kept)
    yield _of.right(
        "a link stays a link, and its mode",
        inside(through_a_link),
        lambda found: found == (True, 0o640, True),
    )
    for words in (
        {"m": 10, "n": 10, "nnz": 101},
        {"m": -1, "n": 1, "nnz": 0},
        {"m": 1, "n": 1, "nnz": 1, "factors": 0},
        {"m": 1, "n": 1, "nnz": 1, "solver": "cg"},
        {"m": 1, "n": 1, "nnz": 1, "backend": "jax"},
    ):
        wrong = "m" if words["m"] < 0 else list(words)[-1]
        yield _of.refused(f"estimate_memory of {words}", lambda w=words: lfm_np.estimate_memory(**w), wrong)
    yield _of.right(
        "an estimate of what no machine has is still a number",
        lambda: lfm_np.estimate_memory(2**31 - 2, 2**31 - 2, 10**15, factors=10**6, num_threads=1),
        lambda b: isinstance(b, int) and b >= 4 * 2**31 * 10**6 * 4,
    )
    for name, call in (
        ("sgd", lambda X: lfm_np.sgd(X, factors=60_000)),
        ("torch als", lambda X: lfm_np.torch_backend.als(X, factors=60_000)),
        (
            "similar_items",
            lambda X: lfm_np.Factors(np.ones((2, 1)), np.ones((300_000, 1))).similar_items(
                np.arange(300_000), N=300_000
            ),
        ),
    ):
        yield _of.refused(
            f"{name} beyond all memory, at once",
            call,
            "are available",
            make=lambda: {"X": sp.csr_array(([1.0], ([999_999], [9])), (1_000_000, 10))},
            kind=(*BAD, MemoryError),
        )


def through_a_link(folder: pathlib.Path) -> Any:
    fit().save(folder / "real")
    os.chmod(folder / "real", 0o640)
    os.symlink("real", folder / "link")
    sgd().save(folder / "link")
    same = (lfm_np.Factors.load(folder / "real").item_factors == sgd().item_factors).all()
    return os.path.islink(folder / "link"), os.stat(folder / "real").st_mode & 0o777, bool(same)


SCORES = """
import numpy as np, lfm_np
print(lfm_np.Factors(np.ones((2, 3)), np.ones((2, 3))).scores(0, [0, 1]).tolist())
"""


def kernels() -> Iterator[Case]:
    def spoilt(spoil: Callable[[pathlib.Path], Any]) -> Callable[[], Any]:
        def work(folder: pathlib.Path) -> Any:
            cache = folder / "cache"
            first = python(folder, SCORES, LFM_NP_CACHE_DIR=str(cache))
            for path in [path for path in cache.rglob("*") if path.is_file()]:
                spoil(path)
            return first[1], python(folder, SCORES, LFM_NP_CACHE_DIR=str(cache))[:2]

        return inside(work)

    def garbage(path: pathlib.Path) -> None:
        content = path.read_bytes()
        path.write_bytes(b"" if len(path.name) % 2 else content[: len(content) // 2] + b"\x80\x04garbage")

    expected = "[3.0, 3.0]\n"
    yield _of.right(
        "kernels that were emptied, cut and scribbled on",
        spoilt(garbage),
        lambda found: found == (expected, (0, expected)),
    )

    def a_file(folder: pathlib.Path) -> Any:
        (folder / "cache").write_text("no folder")
        return python(folder, SCORES, LFM_NP_CACHE_DIR=str(folder / "cache"))[:2], (folder / "cache").read_text()

    yield _of.right("a cache that is a file", inside(a_file), lambda found: found == ((0, expected), "no folder"))


def cases() -> list[Case]:
    return [*stopped(), *together(), *scarce(), *kernels()]
