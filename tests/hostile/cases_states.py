"""Threads, forks, copies, interpreters of their own and kernel caches."""

from __future__ import annotations

import concurrent.futures
import copy
import gc
import multiprocessing
import os
import pickle
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numba
import numpy as np
import threadpoolctl

import lfm_np
from lfm_np import Checkpoint, Factors, Status, losses

from .case import Case, Group, Holds
from .places import FIT, child, digest, fitted, holding, inside, interpreter, model, same, table, together

_refused, _right = Group("states").refused, holding(Group("states"))


def als(threads: int = 1, **words: Any) -> Factors:
    words = {"factors": 4, "iterations": 2, "random_state": 0, **words}
    return lfm_np.als(table(), num_threads=threads, **words)


def sgd(threads: int = 1, **words: Any) -> Factors:
    words = {"factors": 4, "epochs": 2, "random_state": 0, **words}
    return lfm_np.sgd(table(), losses.BPR(), num_threads=threads, **words)


def best(factors: Factors, count: int, X: Any = None) -> tuple[np.ndarray, np.ndarray]:
    """Top-N lists by sorting all scores in float64, of what is not stored in X."""
    scores = factors.user_factors.astype(np.float64) @ factors.item_factors.astype(np.float64).T
    if X is not None:
        scores[X.toarray() != 0] = -np.inf
    order = np.argsort(-scores, axis=1, kind="stable")[:, :count]
    return order, np.take_along_axis(scores, order, 1)


def agree(found: Any, wanted: tuple[np.ndarray, np.ndarray]) -> bool:
    with np.errstate(invalid="ignore"):
        close = np.isclose(found.scores, wanted[1], rtol=1e-4, atol=1e-6)
    return bool((close | (np.isneginf(found.scores) & np.isneginf(wanted[1]))).all())


def threads() -> Iterator[Case]:
    yield _right(
        "seven threads fit with one to seven threads",
        lambda: together(7, lambda i: digest(als(i + 1))),
        lambda found: set(found) == {digest(als())},
    )
    yield _right(
        "als and sgd in turn in eight threads",
        lambda: together(8, lambda i: digest((als, sgd)[i % 2](1 + i % 3))),
        lambda found: found == [digest(als()), digest(sgd())] * 4,
    )

    def shared() -> bool:
        factors, X = als(), table()
        X.indices = X.indices.copy()
        for row in range(60):  # unsorted
            part = slice(X.indptr[row], X.indptr[row + 1])
            X.indices[part], X.data[part] = X.indices[part][::-1], X.data[part][::-1]
        X.has_sorted_indices = False
        before = X.indices.copy()
        lists = together(8, lambda i: factors.recommend(range(60), N=25, seen=X, num_threads=1 + i % 4))
        return all(agree(found, best(factors, 25, X)) for found in lists) and np.array_equal(X.indices, before)

    yield _right("eight threads recommend from one model, seen unsorted", shared)

    def first_questions() -> bool:
        factors = als()
        asked: list[Callable[[], Any]] = [
            lambda: factors.recommend([3], N=5, num_threads=2).ids,
            lambda: factors.similar_items([3], N=5, num_threads=2).ids,
            lambda: factors.similar_users([3], N=5, num_threads=2).ids,
            lambda: factors.fold_in_users(table()[:3], num_threads=2).user_factors,
            lambda: factors.scores(3, range(25), num_threads=2),
            lambda: pickle.loads(pickle.dumps(factors)).item_factors,
        ]
        alone = [work() for work in asked]
        factors = als()
        found = together(12, lambda i: asked[i % 6]())
        return all(np.array_equal(found[i], alone[i % 6]) for i in range(12))

    yield _right("the first questions of a model, all at once", first_questions)

    def nested() -> bool:
        inner: list[str] = []

        def callback(record: Any, factors: Factors) -> None:
            with concurrent.futures.ThreadPoolExecutor(3) as pool:
                inner.extend(pool.map(lambda n: digest(sgd(n)), (1, 2, 3)))
            factors.recommend([0], num_threads=3)

        outer = als(2, callback=callback)
        return same(outer, als()) and set(inner) == {digest(sgd())}

    yield _right("a callback fits in a pool of its own", nested)

    def small_stack() -> bool:
        before = threading.stack_size(256 << 10)
        try:
            return together(2, lambda i: digest(als(3))) == [digest(als())] * 2
        finally:
            threading.stack_size(before)

    yield _right("threads with stacks of 256 KiB", small_stack)

    def limits() -> bool:
        with threadpoolctl.threadpool_limits(1, "blas"):
            before = threadpoolctl.threadpool_info()
            together(3, lambda i: als(i + 1))
            return threadpoolctl.threadpool_info() == before

    yield _right("BLAS held to one thread stays so", limits)

    def of_numba() -> bool:
        numba.set_num_threads(1)
        als(4)
        sgd(3)
        return numba.get_num_threads() == 1

    yield _right("Numba held to one thread stays so", of_numba)

    def affinity() -> bool:
        before = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {min(before)})
        try:
            return same(als(4), als()) and same(lfm_np.als(table(), factors=4, iterations=2, random_state=0), als())
        finally:
            os.sched_setaffinity(0, before)

    yield _right("one core for four threads", affinity)
    yield _refused("a billion threads", lambda: als(10**9), "num_threads", kind=ValueError)
    yield _refused(
        "minus one threads for a list", lambda: als().recommend([0], num_threads=-1), "num_threads", kind=ValueError
    )

    def joblib_threads() -> bool:
        joblib, before = __import__("joblib"), threading.active_count()
        found = joblib.Parallel(4, backend="threading")(joblib.delayed(als)(n) for n in (1, 2, 3, 4))
        while threading.active_count() > before:  # joblib does not wait for its threads to end
            time.sleep(0.01)
        return all(same(f, als()) for f in found)

    yield _right("joblib with threads", joblib_threads)


def forks() -> Iterator[Case]:
    yield _right("a fork after fits fits and recommends", lambda: (als(3), child(lambda: same(als(2), als(1))))[1] == 0)

    def during() -> bool:
        done: list[int] = []
        als(
            2, callback=lambda r, f: done.append(child(lambda: same(sgd(2), sgd(1)) and len(f.recommend([0]).ids) == 1))
        )
        return done == [0, 0]

    yield _right("a fork in a callback fits by another method", during)

    def beside() -> bool:
        stop = threading.Event()

        def busy() -> None:
            while not stop.is_set():
                als(2)
                als(1).recommend(range(60), num_threads=2)

        thread = threading.Thread(target=busy)
        thread.start()
        try:
            return [child(lambda: same(als(2), als(1))) for _ in range(5)] == [0] * 5
        finally:
            stop.set()
            thread.join()

    yield _right("five forks while a thread fits", beside)

    def grandchild() -> bool:
        return child(lambda: als(2) is not None and child(lambda: same(als(3), als())) == 0) == 0

    yield _right("a fork of a fork", grandchild)

    def pool() -> bool:
        context = multiprocessing.get_context("fork")
        with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as processes:
            found = list(processes.map(als, (1, 2, 3, 4)))
        return all(same(f, als()) for f in found)

    yield _right("a pool of forked processes gives factors back", pool)

    def raising(folder: Path) -> bool:
        def once(record: Any, factors: Factors) -> None:
            raise StopIteration

        status = child(lambda: len(als(2, callback=once, checkpoint=folder / "run").history) == 1)
        return status == 0 and same(als(checkpoint=folder / "run"), als())

    yield _right("a child's checkpoint is gone on with by its parent", inside(raising))


def copies() -> Iterator[Case]:
    whole = {
        "history": [{"iteration": 1, "objective": 2.0}],
        "params": {"a": [1, {"b": None}]},
        "biases": True,
        "global_bias": 1.5,
    }

    def equal(f: Factors) -> bool:
        wanted = model(**whole)
        return same(f, wanted) and list(map(dict, f.history)) == whole["history"] and dict(f.params) == whole["params"]

    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        yield _right(
            f"pickle, protocol {protocol}", lambda p=protocol: pickle.loads(pickle.dumps(model(**whole), p)), equal
        )

    def buffers() -> Factors:
        held: list[Any] = []
        text = pickle.dumps(model(**whole), 5, buffer_callback=held.append)
        return pickle.loads(text, buffers=[bytes(buffer) for buffer in held])

    yield _right("pickle with buffers apart", buffers, equal)
    yield _right("deepcopy of a copy of a copy", lambda: copy.deepcopy(copy.copy(copy.deepcopy(model(**whole)))), equal)
    yield _right(
        "what was unpickled is read-only",
        lambda: pickle.loads(pickle.dumps(model())),
        lambda f: not f.user_factors.flags.writeable and not f.item_factors.flags.writeable,
    )

    def asked() -> bool:
        factors = als()
        factors.recommend([0])
        factors.fold_in_users(table()[:2])
        other = pickle.loads(pickle.dumps(factors))
        return (
            np.array_equal(other.recommend(range(60)).ids, factors.recommend(range(60)).ids)
            and len(pickle.dumps(other)) < 10_000
        )

    yield _right("a model that was asked before is pickled without its index", asked)
    for thing in (Status.INTERRUPTED, Checkpoint("a", 3.0), losses.WARP(), lfm_np.sampling.Popularity()):
        yield _right(
            f"pickle of {thing!r:.40}",
            lambda t=thing: pickle.loads(pickle.dumps(t)),
            lambda t, w=thing: repr(t) == repr(w),
        )
    error = lfm_np.SolverError("row 3 is singular", model())
    yield _right(
        "pickle of a SolverError",
        lambda: pickle.loads(pickle.dumps(error)),
        lambda e: str(e) == str(error) and same(e.factors, model()),
    )

    def answers() -> bool:
        found = als().recommend([0, 1], N=3)
        other = pickle.loads(pickle.dumps(found))
        return type(other) is type(found) and np.array_equal(other.ids, found.ids)

    yield _right("pickle of a list", answers)

    def thrown() -> bool:
        """Models are freed as they go."""
        model().recommend([0], N=2, num_threads=1)
        gc.collect()
        for _ in range(200):
            model().recommend([0], N=2, num_threads=1)
        return gc.collect() < 10_000

    yield _right("two hundred models, asked once", thrown)


def interpreters() -> Iterator[Case]:
    def prints(threads: int = 2) -> str:
        return FIT.replace("THREADS", str(threads))

    right = lambda said: said.status == 0 and said.out.split()[-1:] == [digest(fitted())]  # noqa: E731
    bare = dict.fromkeys(("HOME", "XDG_CACHE_HOME", "PATH", "LANG", "USER", "LOGNAME", "TMPDIR"))
    environments: dict[str, dict[str, str | None]] = {
        "NUMBA_NUM_THREADS=1 and four threads": {"NUMBA_NUM_THREADS": "1"},
        "one thread of BLAS and another layer": {"OPENBLAS_NUM_THREADS": "1", "NUMBA_THREADING_LAYER": "workqueue"},
        "hardly any environment": {**bare, "LFM_NP_CACHE_DIR": os.environ.get("LFM_NP_CACHE_DIR", _cache())},
    }
    for name, env in environments.items():
        yield _right(name, lambda e=env: interpreter("-c", prints(4), env=e), right)
    yield _right("python -OO -W error", lambda: interpreter("-OO", "-W", "error", "-c", prints()), right)
    yield _right(
        "kernels as plain Python",
        lambda: interpreter(
            "-c",
            prints(1).replace("print(digest(", "print(np.abs(").replace("=1)))", "=1).item_factors).sum())"),
            env={"NUMBA_DISABLE_JIT": "1"},
        ),
        lambda said: said.status == 0 and np.isclose(float(said.out), np.abs(fitted().item_factors).sum(), rtol=1e-4),
    )
    yield _right(
        "a daemon thread fits when the interpreter ends",
        lambda: interpreter(
            "-c",
            prints() + "\nimport threading\n"
            "threading.Thread(target=lambda: lfm_np.als(table(), iterations=10**9), daemon=True).start()\n",
        ),
        right,
    )
    yield _right(
        "an atexit function fits and recommends",
        lambda: interpreter(
            "-c",
            "import atexit\ndef last():\n"
            + "".join(f"    {line}\n" for line in prints(3).strip().split("\n"))
            + "    lfm_np.als(table(), iterations=1).recommend([0], num_threads=2)\natexit.register(last)\n",
        ),
        right,
    )
    yield _right(
        "standard streams closed: no file takes their place",
        inside(lambda folder: _closed_streams(folder)),
    )

    def spawned(folder: Path) -> Any:
        (folder / "main.py").write_text(
            "import multiprocessing, lfm_np\nfrom tests.hostile.places import fitted, digest\n"
            "if __name__ == '__main__':\n"
            "    with multiprocessing.get_context('spawn').Pool(2) as pool:\n"
            "        found = pool.map(digest, [fitted(), fitted()]) \n"
            "        found += [digest(f) for f in pool.starmap(fitted, [(), ()])]\n"
            "    assert len(set(found)) == 1\n    print(found[0])\n"
        )
        return interpreter(str(folder / "main.py"))

    yield _right("a pool of spawned processes", inside(spawned), right)

    def loky() -> Any:
        return interpreter(
            "-c",
            "import joblib\nfrom tests.hostile.places import fitted, digest\n"
            "found = joblib.Parallel(2)(joblib.delayed(fitted)() for _ in range(3))\n"
            "assert len(set(map(digest, found))) == 1\nprint(digest(found[0]))",
        )

    yield _right("joblib with processes", loky, right)
    yield Case(
        "states: NUMBA_NUM_THREADS=0",
        lambda: interpreter("-c", prints(1), env={"NUMBA_NUM_THREADS": "0"}),
        Holds(lambda said: right(said) or (said.status == 1 and "threads" in said.err.lower())),
    )


def _cache() -> str:
    return os.path.join(os.path.expanduser("~"), ".cache", "lfm_np")


def _closed_streams(folder: Path) -> bool:
    script = (
        "import os\nfor number in (0, 1, 2): os.close(number)\n"
        "import lfm_np\nfrom tests.hostile.places import fitted, table\n"
        f"fitted().save({str(folder / 'm')!r})\n"
        "words = dict(factors=4, iterations=2, random_state=0, progress=True)\n"
        f"lfm_np.als(table(), checkpoint={str(folder / 'run')!r}, **words)\n"
        "os.system('echo stray')\n"
    )
    said = interpreter("-c", script)
    return (
        said.status == 0
        and same(Factors.load(folder / "m"), fitted())
        and same(lfm_np.als(table(), factors=4, iterations=2, random_state=0, checkpoint=folder / "run"), fitted())
    )


def caches() -> Iterator[Case]:
    def damaged(damage: Callable[[bytes], bytes]) -> Callable[[], Any]:
        def work(folder: Path) -> Any:
            """Compiles one small kernel into a cache of its own, damages it, and runs again."""
            script = (
                "import lfm_np, numpy as np\n"
                "f = lfm_np.Factors(np.eye(3, 2), np.arange(8.0).reshape(4, 2))\n"
                "print(f.scores([0, 1], [1, 3], num_threads=1).tolist())\n"
            )
            env: dict[str, str | None] = {"LFM_NP_CACHE_DIR": str(folder / "cache")}
            first = interpreter("-c", script, env=env)
            files = [path for path in (folder / "cache").rglob("*") if path.is_file()]
            for path in files:
                path.write_bytes(damage(path.read_bytes()))
            second = interpreter("-c", script, env=env)
            return bool(files) and first.out == second.out == "[2.0, 7.0]\n" and (first.status, second.status) == (0, 0)

        return inside(work)

    yield _right(
        "a cache with every tenth byte flipped",
        damaged(lambda data: bytes(b ^ (i % 10 == 0) for i, b in enumerate(data))),
    )

    def no_folder(where: Callable[[Path], str]) -> Callable[[], Any]:
        script = (
            "import warnings, lfm_np, numpy as np\nwarnings.simplefilter('always')\n"
            "f = lfm_np.Factors(np.eye(3, 2), np.arange(8.0).reshape(4, 2))\n"
            "print(f.scores([0, 1], [1, 3], num_threads=1).tolist())\n"
        )
        return inside(lambda folder: interpreter("-c", script, env={"LFM_NP_CACHE_DIR": where(folder)}))

    fine = lambda said: said.status == 0 and said.out == "[2.0, 7.0]\n"  # noqa: E731

    def a_file(folder: Path) -> str:
        (folder / "file").write_text("x")
        return str(folder / "file")

    yield _right("a file where the cache should be", no_folder(a_file), fine)


def cases() -> list[Case]:
    return [case for make in (threads, forks, copies, interpreters, caches) for case in make()]
