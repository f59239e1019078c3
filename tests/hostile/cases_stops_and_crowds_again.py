"""Fits that are stopped, crowded or short of memory, and caches of kernels that others may write."""

from __future__ import annotations

import concurrent.futures
import copy
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

import lfm_np
from lfm_np import Factors, Status

from .case import Case, Group
from .places import holding, inside

_group = Group("afresh, stops and crowds")
_refused, _either = _group.refused, _group.either
_right = holding(_group)


def clicks(m: int = 40, n: int = 15, seed: int = 4) -> sp.csr_array:
    rng = np.random.default_rng(seed)
    return sp.csr_array(np.where(rng.random((m, n)) < 0.3, rng.integers(1, 5, (m, n)), 0).astype(np.float32))


def als(X: Any = None, **words: Any) -> Factors:
    return lfm_np.als(clicks() if X is None else X, **{"factors": 4, "iterations": 5, "random_state": 0, **words})


def sgd(X: Any = None, **words: Any) -> Factors:
    return lfm_np.sgd(clicks() if X is None else X, **{"factors": 4, "epochs": 5, "random_state": 0, **words})


def same(a: Factors, b: Factors) -> bool:
    return np.array_equal(a.user_factors, b.user_factors) and np.array_equal(a.item_factors, b.item_factors)


# ---- stopped --------------------------------------------------------------------------------------------------------


def pressed_at(sweep: int) -> Callable[[Any, Any], None]:
    def callback(record: dict[str, Any], factors: Factors) -> None:
        if record["iteration"] == sweep:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.05)

    return callback


def interrupted(fit: Callable[..., Factors], word: str, folder: Path) -> bool:
    """Two whole sweeps, in the result and in the checkpoint, and the whole run from there."""
    found = fit(callback=pressed_at(2), checkpoint=folder / "c")
    return (
        found.status is Status.INTERRUPTED
        and len(found.history) == 2
        and same(found, fit(**{word: 2}))
        and same(fit(checkpoint=folder / "c"), fit())
    )


def raising() -> bool:
    try:
        als(callback=pressed_at(2), raise_on_interrupt=True)
    except KeyboardInterrupt:
        return True
    return False


class Enough(Exception):
    pass


def enough(record: dict[str, Any], factors: Factors) -> None:
    raise Enough(f"after {record['iteration']}")


def watchdog() -> Any:
    def late(*_: Any) -> None:
        raise TimeoutError("the watchdog")

    old = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    try:
        return als(iterations=10_000_000)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)


def scribble(record: dict[str, Any], factors: Factors) -> None:
    factors.user_factors[0] = 7


def kept_from_callbacks() -> bool:
    """Factors that a callback keeps are those of their sweep, and what it adds to the record stays."""
    kept: list[np.ndarray] = []

    def keep(record: dict[str, Any], factors: Factors) -> None:
        kept.append(factors.item_factors)
        record["mine"] = len(kept)

    found = als(callback=keep)
    return [r["mine"] for r in found.history] == [1, 2, 3, 4, 5] and all(
        np.array_equal(item, als(iterations=i).item_factors) for i, item in enumerate(kept, 1)
    )


def nested() -> bool:
    inner: list[Factors] = []
    found = als(num_threads=2, callback=lambda record, factors: inner.append(als(num_threads=1)))
    return same(found, als()) and all(same(found, other) for other in inner)


def stopping(record: dict[str, Any], factors: Factors) -> None:
    if record["iteration"] == 3:
        raise StopIteration


def stops() -> Iterator[Case]:
    yield _right("Ctrl-C in the second sweep of als", inside(lambda f: interrupted(als, "iterations", f)))
    yield _right("Ctrl-C in the second epoch of sgd", inside(lambda f: interrupted(sgd, "epochs", f)))
    yield _right("Ctrl-C that shall raise", raising)
    yield _refused("a callback's own error, als", lambda: als(callback=enough), "after 1", kind=Enough)
    yield _refused("a callback's own error, sgd", lambda: sgd(callback=enough), "after 1", kind=Enough)
    yield _refused("a watchdog's alarm", watchdog, "the watchdog", kind=TimeoutError)
    yield _refused(
        "a callback that writes into the factors", lambda: als(callback=scribble), "read-only", kind=ValueError
    )
    yield _right("what callbacks keep is of its sweep", kept_from_callbacks)
    yield _right("a fit within a callback", nested)
    yield _right(
        "enough after three", lambda: sgd(callback=stopping), lambda f: len(f.history) == 3 and same(f, sgd(epochs=3))
    )
    yield _refused("a callback that is a string", lambda: als(callback="print"), "callback", kind=TypeError)
    yield _refused(
        "a checkpoint in a folder that is not there",
        lambda: als(checkpoint="/nowhere/at/all"),
        "/nowhere",
        kind=(OSError, ValueError),
    )


# ---- crowds and memory ----------------------------------------------------------------------------------------------


def at_once() -> bool:
    wanted = [als(solver="exact"), sgd()]
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        jobs = [
            (pool.submit(als, solver="exact", num_threads=1 + i % 3), pool.submit(sgd, num_threads=1 + i % 4))
            for i in range(6)
        ]
        return all(same(a.result(), wanted[0]) and same(b.result(), wanted[1]) for a, b in jobs)


def in_a_process(kind: str) -> bool:
    context = multiprocessing.get_context(kind)
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        found = pool.submit(lfm_np.als, clicks(), factors=4, iterations=2, random_state=0, num_threads=2).result(60)
    return same(found, als(iterations=2)) and found.params == als(iterations=2).params


def copies() -> bool:
    found = als(weighting="ratings", biases=True)
    wanted = found.recommend(np.arange(40), N=5)
    for other in (copy.deepcopy(found), pickle.loads(pickle.dumps(found)), copy.copy(found)):
        ids, scores = other.recommend(np.arange(40), N=5)
        if (
            not (np.array_equal(ids, wanted.ids) and np.array_equal(scores, wanted.scores))
            or other.user_factors.flags.writeable
        ):
            return False
    return True


def crowds() -> Iterator[Case]:
    yield _right("twelve fits of two kinds at once", at_once)
    yield _right("a fit in a spawned process", lambda: in_a_process("spawn"))
    yield _right("a fit in a forked process, after one here", lambda: als() and in_a_process("fork"))
    yield _right("copies and pickles recommend the same", copies)
    wide = sp.csr_array(([1.0], ([0], [0])), shape=(2_000_000, 2_000_000))
    yield _refused(
        "131 GB of factors", lambda: lfm_np.als(wide, factors=4096), "memory", "factors|gb|gib", kind=MemoryError
    )
    yield _refused(
        "131 GB of factors by sgd", lambda: lfm_np.sgd(wide, factors=4096), "memory", "factors|gb|gib", kind=MemoryError
    )
    yield _refused(
        "lists of 12 TB",
        lambda: Factors(np.ones((10**6, 1), "f"), np.ones((10**6, 1), "f")).recommend(np.arange(10**6), N=10**6),
        "memory|gb|gib|tib|bytes",
        kind=MemoryError,
    )
    yield _refused("more cells than m · n", lambda: lfm_np.estimate_memory(10, 10, 101), "nnz", kind=ValueError)
    yield _refused("no threads", lambda: als(num_threads=0), "num_threads", "0", kind=ValueError)
    yield _refused("a seed below zero", lambda: als(random_state=-1), "random_state", "-1", kind=ValueError)


# ---- kernels --------------------------------------------------------------------------------------------------------

SCORES = (
    "import lfm_np, numpy as np; print(lfm_np.Factors(np.eye(2), np.ones((3, 2)) * 3).scores(1, [0, 2], num_threads=1))"
)


def scored(cache: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", SCORES],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "LFM_NP_CACHE_DIR": str(cache)},
    )


def open_to_all(folder: Path) -> bool:
    (folder / "c").mkdir()
    (folder / "c").chmod(0o777)
    found = scored(folder / "c")
    return (
        found.stdout.strip() == "[3. 3.]"
        and str(folder / "c") in found.stderr
        and not any((folder / "c").rglob("*.nb?"))
    )


def a_file(folder: Path) -> bool:
    (folder / "c").write_text("not a folder")
    return scored(folder / "c").stdout.strip() == "[3. 3.]" and (folder / "c").read_text() == "not a folder"


def kernels() -> Iterator[Case]:
    yield _right("a cache that everyone may write", inside(open_to_all))
    yield _right("a file in place of a cache", inside(a_file))


def cases() -> list[Case]:
    return [*stops(), *crowds(), *kernels()]
