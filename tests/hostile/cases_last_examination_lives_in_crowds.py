"""Threads, forks and processes at once, each beside loops in float64, and files that many of them write."""

from __future__ import annotations

import io
import os
import runpy
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import threadpoolctl

import lfm_np
from lfm_np import Factors, Status, StoredMatrix

from .case import Case, installed
from .cases_last_examination_lives_in_surroundings import lists
from .cases_last_examination_lives_interrupted import (
    GROUP,
    STARS,
    M,
    descend,
    fit,
    fork,
    pools,
    stepped,
    swept,
    whole_or_start,
)
from .places import interpreter, together
from .places import model as drawn
from .working_days import Model, all_scores, best, close, csr, faultless, folder, judged, same, typed, wrong

_holds = faultless(GROUP)


def _first_uses() -> list[str]:
    """Ten threads are the first to use a result, in five ways, in which something is prepared and kept."""
    X, found = csr(STARS), []
    has = ~np.isnan(STARS)
    odd = np.indices(STARS.shape).sum(0) % 2 == 1
    for _ in range(3):
        factors = fit(3)
        V = factors.item_factors
        folded = M.half(STARS, V)
        length = np.linalg.norm(V, axis=1)
        cosines = V @ V.T / np.outer(length, length)

        def listed(factors: Factors = factors) -> bool:
            return lists(factors, factors.recommend(np.arange(40), N=6, num_threads=2).ids, 6)

        def alike(factors: Factors = factors, cosines: np.ndarray = cosines) -> bool:
            ids, scores = factors.similar_items(np.arange(25), N=4, num_threads=1)
            mine = [best(row, np.arange(25) != i, 3) for i, row in enumerate(cosines)]
            right = ids[:, 0].tolist() == list(range(25)) and ids[:, 1:].tolist() == mine
            return right and close(scores, np.take_along_axis(cosines, ids, 1), 1e-12)

        def new(factors: Factors = factors, folded: np.ndarray = folded) -> bool:
            return close(factors.fold_in_users(X, num_threads=3).user_factors, folded)

        def told(factors: Factors = factors, folded: np.ndarray = folded, V: np.ndarray = V) -> bool:
            why = factors.explain(7, 3, X)
            total = why.baseline + why.contributions.sum()
            return close(why.score, folded[7] @ V[3]) and bool(abs(total - why.score) < 1e-9)

        def measured(factors: Factors = factors) -> bool:
            train, test = (csr(np.where(has & part, STARS, np.nan)) for part in (odd, ~odd))
            mine = judged(all_scores(factors), has & odd, has & ~odd, 5)
            names = ["recall@5", "ndcg@5", "map@5", "mrr", "auc"]
            told = lfm_np.evaluate(factors, train, test, names, num_threads=2)
            return all(close(told[name], mine[name], 1e-12) for name in names)

        ways = (listed, alike, new, told, measured)
        done = together(10, lambda at, ways=ways: ways[at % 5]())  # type: ignore[misc]
        found += [f"{ways[at % 5].__name__}: {one!r:.99}" for at, one in enumerate(done) if one is not True]
    return found


def _many_writers() -> list[str]:
    """Three threads and another process save to one path, two threads load: always one of the models, whole."""
    models = [drawn(seed=seed, biases=seed == 2) for seed in range(4)]
    with folder() as place:
        path = place / "m"
        models[0].save(path)

        def save(model: Factors, times: int) -> bool:
            for _ in range(times):
                model.save(path)
            return True

        def known(model: Factors) -> bool:
            return any(same(model, one) for one in models)

        def load(mmap: bool) -> bool:
            return all(known(Factors.load(path, mmap=mmap)) for _ in range(40))

        with ThreadPoolExecutor(1) as beside:
            process = beside.submit(fork, lambda: save(models[3], 30))
            done = together(5, lambda at: save(models[at], 30) if at < 3 else load(at == 4))
            found = wrong(threads=done == [True] * 5, process=process.result() == 0)
        return found + wrong(last=known(Factors.load(path)), listing=os.listdir(place) == ["m"])


def _many_builders() -> list[str]:
    """The folder must not exist: one of four builders made it."""
    found: list[str] = []
    for _ in range(3):
        with folder() as place:

            def build(_: int, place: Path = place) -> StoredMatrix:
                return StoredMatrix.from_matrix(csr(STARS), place / "s", dtype=np.float64, num_threads=2)

            done = together(4, build)
            errors = [one for one in done if not isinstance(one, StoredMatrix)]
            found += wrong(
                one=len(errors) == 3,
                errors=all(isinstance(error, (OSError, ValueError)) and str(error) for error in errors),
                listing=os.listdir(place) == ["s"],
                numbers=swept(fit(3, StoredMatrix(place / "s")), 3),
            )
    return found


def _forked_beside_a_fit() -> list[str]:
    """A thread forks while the main one fits; the children fit for themselves."""
    status: list[int] = []

    def forks() -> None:
        for threads in (1, 2, 3):
            time.sleep(0.03)
            status.append(fork(lambda threads=threads: swept(fit(3, num_threads=threads), 3)))  # type: ignore[misc]

    fit(2)
    beside = threading.Thread(target=forks)

    def callback(record: Any, factors: Any) -> None:
        if record["iteration"] == 1:
            beside.start()
        if len(status) == 3:
            raise StopIteration

    found = fit(10**6, callback=callback, num_threads=2)
    beside.join()
    return wrong(children=status == [0, 0, 0], stopped=found.status is Status.STOPPED, whole=whole_or_start(found))


def _goes_on(run: Callable[..., Factors], place: Path) -> tuple[Any, int]:
    """A callback forks in its second sweep; the child saves what it has in the end. And its exit status."""
    pids: list[int] = []

    def callback(record: Any, factors: Any) -> None:
        if record["iteration"] == 2:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                pids.append(os.fork())

    status = 3
    try:
        found = run(5, callback=callback, num_threads=2)
        if pids == [0]:
            found.save(place / run.__name__)
            status = 0
    except Exception as error:
        if pids != [0]:
            raise
        status = 4 if str(error) else 5
    finally:
        if pids == [0]:
            os._exit(status)
    return found, os.waitstatus_to_exitcode(os.waitpid(pids[0], 0)[1])


def _forked_in_a_callback() -> list[str]:
    with folder() as place:
        found = []
        for run, right in ((fit, swept), (descend, stepped)):
            here, status = _goes_on(run, place)
            found += wrong(child=status == 0, here=right(here, 5))
            found += wrong(there=right(Factors.load(place / run.__name__), 5))
            found += wrong(bits=same(here, Factors.load(place / run.__name__)))
        return found


def _forked_with_mapped_factors() -> list[str]:
    with folder() as place:
        StoredMatrix.from_matrix(csr(STARS), place / "s", dtype=np.float64)
        (place / "f").mkdir()

        def mapped(iterations: int, **words: Any) -> Factors:
            return fit(iterations, StoredMatrix(place / "s", factors_in=place / "f"), **words)

        here, status = _goes_on(mapped, place)
        return wrong(refused=status == 4, here=swept(here, 5), listing=sorted(os.listdir(place)) == ["f", "s"])


SPAWN = """
import multiprocessing, sys
import numpy as np
from tests.hostile.cases_last_examination_lives_interrupted import fit, descend
factors = fit(3)
with multiprocessing.get_context("spawn").Pool(1) as pool:
    print(pool.apply(factors.recommend, (np.arange(40),), {"N": 4, "num_threads": 2}).ids.tolist())
    pool.apply(descend, (4,)).save(sys.argv[1] + "/sgd")
factors.save(sys.argv[1] + "/als")
"""

ENDED = """
import atexit, sys, threading
from tests.hostile.cases_last_examination_lives_interrupted import fit
def late(name):
    fit(4, num_threads=2).save(sys.argv[1] + "/" + name)
def thread():
    threading.main_thread().join()
    late("thread")
atexit.register(late, "atexit")
threading.Thread(target=thread).start()
"""


def _spawned() -> list[str]:
    with folder() as place:
        said = interpreter("-c", SPAWN, str(place))
        if said.status:
            return [said.err[-300:]]
        factors, epochs = Factors.load(place / "als"), Factors.load(place / "sgd")
        return wrong(
            numbers=swept(factors, 3) and stepped(epochs, 4),
            bits=same(factors, fit(3)) and same(epochs, descend(4)),
            lists=lists(factors, np.array(eval(said.out)), 4),
        )


def _after_the_end() -> list[str]:
    """A thread that fits when the main one has ended, and a fit among the last things of the interpreter."""
    with folder() as place:
        said = interpreter("-c", ENDED, str(place))
        if said.status or said.err:
            return [said.err[-300:]]
        both = [Factors.load(place / name) for name in ("thread", "atexit")]
        return wrong(numbers=all(swept(one, 4) for one in both), bits=same(*both) and same(both[0], fit(4)))


def _pressed_beside() -> list[str]:
    """Ctrl-C is for the main thread; a fit in another one goes on until it is told."""
    stop, results = threading.Event(), []

    def callback(record: Any, factors: Any) -> None:
        if stop.is_set():
            raise StopIteration

    fit(2)
    thread = threading.Thread(target=lambda: results.append(fit(10**6, callback=callback)))
    press = threading.Timer(0.15, os.kill, (os.getpid(), signal.SIGINT))
    raised = 0
    thread.start()
    try:
        press.start()
        for _ in range(200):
            time.sleep(0.02)
    except KeyboardInterrupt:
        raised = 1
    alive = thread.is_alive()
    stop.set()
    thread.join()
    press.join()
    return wrong(
        main=raised == 1, went_on=alive, stopped=results[0].status is Status.STOPPED, whole=whole_or_start(results[0])
    )


def _pools_in_pools() -> list[str]:
    """Three threads with two of their own each, under a limit that is the program's."""

    def inner(at: int) -> bool:
        with ThreadPoolExecutor(2) as pool:
            one, other = pool.submit(fit, 1 + at, num_threads=2), pool.submit(descend, 1 + at, num_threads=3)
            return swept(one.result(), 1 + at) and stepped(other.result(), 1 + at)

    fit(2)
    before = pools()
    with threadpoolctl.threadpool_limits(1):
        limited = pools()
        with ThreadPoolExecutor(3) as pool:
            right = list(pool.map(inner, range(6)))
        kept = pools() == limited
    return wrong(right=right == [True] * 6, limit=kept, before=pools() == before)


def _by_joblib() -> list[str]:
    import joblib

    work = [joblib.delayed(fit)(h, num_threads=h) for h in range(1, 7)]
    found = joblib.Parallel(n_jobs=4, backend="threading")(work)
    return wrong(numbers=all(swept(one, h) for h, one in enumerate(found, 1)))


def _one_stored_matrix() -> list[str]:
    """Four fits by four solvers read one object at once."""
    with folder() as place:
        StoredMatrix.from_matrix(csr(STARS), place / "s", dtype=np.float64)
        stored = StoredMatrix(place / "s", memory=64 << 20)
        solvers = ("exact", "cg", "subspace", "auto")
        done = together(4, lambda at: fit(2 + at, stored, solver=solvers[at], num_threads=1 + at))
        here = [fit(2 + at, solver=solvers[at]) for at in range(4)]
        return wrong(
            bits=all(same(one, other) for one, other in zip(done, here, strict=True)),
            numbers=swept(done[0], 2) and swept(done[3], 5),
        )


def _command(place: Path, *words: str) -> tuple[int, Any]:
    """`lfm-np WORDS` in a fork that gets Ctrl-C once its checkpoint is there, or after 2.5 s: status and model."""
    state = place / "fit.checkpoint"
    before = state.stat().st_mtime_ns if state.exists() else 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pid = os.fork()
    if pid == 0:
        status = 70
        try:
            os.chdir(place)
            sys.stdout, sys.stderr = (io.TextIOWrapper(io.BytesIO(), "utf-8") for _ in range(2))
            sys.argv = ["lfm-np", *words]
            warnings.simplefilter("ignore")
            np.seterr(all="warn")
            runpy.run_module("lfm_np", run_name="__main__", alter_sys=True)
            status = 0
        except SystemExit as leave:
            status = leave.code if isinstance(leave.code, int) else 1
        finally:
            os._exit(status)
    end = time.monotonic() + 2.5
    while time.monotonic() < end and not (state.exists() and state.stat().st_mtime_ns > before):
        time.sleep(0.01)
    time.sleep(0.1)
    os.kill(pid, signal.SIGINT)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), Factors.load(place / "m.safetensors")


def _command_goes_on() -> list[str]:
    """Ctrl-C twice, in the first run and in the one that goes on: the bits of a run without a break."""
    lines = [f"{u},{i},{STARS[u, i]}" for u, i in np.argwhere(~np.isnan(STARS))]
    with folder() as place:
        (place / "events.csv").write_text("user,item,value\n" + "\n".join(lines) + "\n")
        words = ("fit", "events.csv", "--value", "value", "--factors", "3", "--alpha", "2", "--regularization", "0.5")
        given = (*words, "--seed", "5", "-o", "m.safetensors")
        X = csr(STARS, np.float32)
        lfm_np.als(X, factors=3, alpha=2.0, regularization=0.5, iterations=1, random_state=5)  # loads what forks need
        typed(place, *given, "--iterations", 1)
        runs = [_command(place, *given, "--iterations", "1000000", "--checkpoint", "fit.checkpoint") for _ in range(2)]
        (first, one), (second, other) = runs
        plain = typed(place, *given, "--iterations", len(other.history))
        unbroken, params = Factors.load(place / "m.safetensors"), other.params
        a0 = 1.0 if params["unobserved_weight"] is None else params["unobserved_weight"]
        mine = Model(params["weighting"], 2.0, a0, 0.5, params["regularization_exponent"])
        return wrong(
            status={first, second} <= {130, -signal.SIGINT} and plain.status == 0,
            told=one.status is other.status is Status.INTERRUPTED,
            further=0 < len(one.history) < len(other.history),
            sweeps=[record["iteration"] for record in other.history] == list(range(1, len(other.history) + 1)),
            bits=same(other, unbroken),
            # float32, and systems whose condition is far below 1000
            whole=close(other.item_factors, mine.half(STARS.T, other.user_factors), 1e-3),
        )


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    yield _holds("ten threads are the first to use a result", _first_uses)
    yield _holds("four writers and two readers of one path", _many_writers)
    yield _holds("four builders of one folder", _many_builders)
    yield _holds("children of a thread beside a fit", _forked_beside_a_fit)
    yield _holds("children of callbacks", _forked_in_a_callback)
    yield _holds("a child of a callback whose factors are mapped", _forked_with_mapped_factors)
    yield _holds("work for a process that was spawned", _spawned)
    yield _holds("fits after the main thread, and after all threads", _after_the_end)
    yield _holds("Ctrl-C beside a fit", _pressed_beside)
    yield _holds("pools within pools, under the program's limit", _pools_in_pools)
    if installed("joblib"):
        yield _holds("threads of joblib", _by_joblib)
    yield _holds("one stored matrix for four fits at once", _one_stored_matrix)
    if installed("typer", "pyarrow", "narwhals"):
        yield _holds("a command that is interrupted twice", _command_goes_on)
