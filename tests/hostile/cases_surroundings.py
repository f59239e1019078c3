"""Numbers and arrays of NumPy's kinds as every argument, odd callbacks, and odd states of the process."""

from __future__ import annotations

import concurrent.futures
import gc
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import lfm_np
from lfm_np import losses, sampling

from .case import Case, Either, Group, Holds, raises
from .cases_lists import model
from .cases_odd_matrices import BAD, Loud, als, finite, same_scores, sgd
from .matrices import M, N, at, changed, plain, raw

_refused, _right = Group("surroundings").refused, Group("surroundings").right

# ---- numbers and arrays ---------------------------------------------------------------------------------------------


def numbers() -> Iterator[Case]:
    expected = {"factors": 3, "iterations": 2, "regularization": 0.5, "alpha": 2.0, "tolerance": 0.0, "random_state": 7}
    kinds: dict[str, tuple[type, ...]] = {
        "factors": (np.int8, np.uint64, np.int16),
        "iterations": (np.uint8, np.int64),
        "num_threads": (np.int8, np.uint32),
        "regularization": (np.float16, np.float32, np.longdouble),
        "alpha": (np.float32, np.int8, np.float16),
        "tolerance": (np.float64, np.float16),
        "random_state": (np.uint32, np.int64, np.uint8),
    }
    for word, types in kinds.items():
        for kind in types:
            words = {"num_threads": 2, **expected, word: kind({"num_threads": 2, **expected}[word])}
            yield _right(
                f"als, {word} {kind.__name__}",
                lambda w=words: als(plain(), **w),
                lambda f: same_scores(f, als(plain(), **expected)),
            )
    for word, value in {"biases": np.True_, "progress": np.False_, "raise_on_interrupt": np.True_}.items():
        expect = Either(Holds(finite), raises(BAD, word))
        yield Case(
            f"surroundings: als, {word} {value!r}",
            lambda w=word, v=value: als(plain(), weighting="ratings", **{w: v}),
            expect,
        )
    for word, value in {
        "learning_rate": np.float16(0.5),
        "negatives": np.int8(2),
        "epochs": np.uint8(2),
        "schedule": np.str_("constant"),
        "regularization": {"user": np.float32(0.1), np.str_("item"): np.float64(0.1)},
        "sampler": sampling.Popularity(np.float32(0.5)),
        "loss": losses.WARP(np.float32(1), np.int8(3)),
    }.items():
        yield _right(f"sgd, {word} of NumPy's", lambda w=word, v=value: sgd(plain(), **{w: v}), finite)
    data = lfm_np.Interactions.from_arrays(np.arange(40) % 8, np.arange(40) % 5, timestamps=np.arange(40))
    for name, call in {
        "split": lambda: (
            data.split("random", test_fraction=np.float32(0.5), random_state=np.int64(1))[1].matrix.nnz > 0
        ),
        "split last": lambda: data.split(np.str_("last"), n=np.uint8(1))[1].matrix.nnz == 8,
        "split at": lambda: data.split("time", at=np.int8(20))[1].matrix.nnz == 20,
        "split at 0-d": lambda: data.split("time", at=np.array(20)[()])[1].matrix.nnz == 20,
        "core": lambda: data.core(np.int8(1), np.uint64(1)).shape == (8, 5),
        "binarize": lambda: data.binarize(np.float16(1)).matrix.nnz == 40,
        "metrics": lambda: lfm_np.evaluate(model(), None, plain(), np.array(["recall@5", "auc"]))["users"] > 0,
        "estimate": lambda: lfm_np.estimate_memory(np.int32(9), np.uint8(9), np.int64(9), factors=np.int8(2)) > 0,
        "make": lambda: len(lfm_np.datasets.make_interactions(np.int8(5), np.uint8(4), np.int64(2), np.uint32(1))) >= 5,
        "explain": lambda: np.isfinite(als(plain()).explain(np.int8(0), np.uint16(3), plain()).score),
        "a 0-d user": lambda: model().recommend(np.array(3), N=np.uint8(4)).ids.shape == (4,),
        "objective": lambda: (
            lfm_np.objective(plain(), als(plain()), alpha=np.float16(1), regularization=np.int8(1)) > 0
        ),
    }.items():
        yield _right(f"{name} of NumPy's", call)
    start = np.random.default_rng(0).standard_normal((M, 3)), np.random.default_rng(1).standard_normal((N, 3))
    wanted = als(plain(), init=start)
    for name, change in {
        "Fortran order": np.asfortranarray,
        "big-endian": lambda a: a.astype(">f8"),
        "read-only": _read_only,
        "subclass": lambda a: a.view(Loud),
        "backwards": lambda a: a[::-1].copy()[::-1],
        "lists": lambda a: a.tolist(),
        "long doubles": lambda a: a.astype(np.longdouble),
        "matrix": lambda a: a.view(np.matrix),
    }.items():
        expect: Any = Holds(lambda f: same_scores(f, wanted))
        if name in ("lists", "long doubles", "matrix"):
            expect = Either(expect, raises(BAD, "init"))
        init = tuple(map(change, start))
        yield Case(f"surroundings: init, {name}", lambda i=init: als(plain(), init=i), expect)
    for name, change in {
        "masked": lambda a: np.ma.masked_array(a, a > 0),
        "nan": lambda a: a * np.nan,
        "complex": lambda a: a * 1j,
        "text": lambda a: a.astype(str),
        "objects": lambda a: a.astype(object),
        "beyond float32": lambda a: a * 1e300,
        "transposed": lambda a: a.T,
        "0-d": lambda a: np.array(1.0),
    }.items():
        yield _refused(f"init, {name}", lambda c=change: als(plain(), init=tuple(map(c, start))), "init")
    small = plain()[:6]
    bytes_ = raw(small.data, small.indices.astype(np.int8), small.indptr.astype(np.int8), small.shape)
    yield _right("X with indptr of bytes", lambda: als(bytes_), lambda f: same_scores(f, als(small)))
    wrapped = raw(plain().data, plain().indices, plain().indptr.astype(np.int8))
    yield _refused("X with indptr of bytes that wrapped", lambda: als(wrapped), "X", "indptr|valid sparse")
    yield _refused(
        "X with half an infinity", lambda: als(changed("data", lambda a: at(0, np.inf)(a.astype("f2")))), "X"
    )


def _read_only(array: np.ndarray) -> np.ndarray:
    copy = array.copy()
    copy.flags.writeable = False
    return copy


# ---- callbacks ------------------------------------------------------------------------------------------------------


def _kept(fit: Callable[..., Any], word: str) -> bool:
    """Results that a callback keeps, and looks at when all is over: those of their sweeps, or a refusal."""
    held: list[Any] = []
    fit(plain(), callback=lambda record, f: held.append(f), **{word: 3})
    return all(same_scores(f, fit(plain(), **{word: sweeps})) for sweeps, f in enumerate(held, 1))


async def _coroutine(record: Any, f: Any) -> None:
    raise StopIteration


def _generator(record: Any, f: Any) -> Any:
    yield


def _moved() -> bool:
    """A callback leaves the folder in which a checkpoint is named."""
    before = os.getcwd()
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as other:
        os.chdir(folder)
        try:
            als(plain(), iterations=3, checkpoint="state", callback=lambda record, f: os.chdir(other))
            return os.listdir(folder) == ["state"] and not os.listdir(other)
        finally:
            os.chdir(before)


class Mine(StopIteration):
    pass


def _raise(error: Any) -> Callable[..., None]:
    def callback(record: Any, f: Any) -> None:
        raise error

    return callback


def callbacks() -> Iterator[Case]:
    plainly = lambda f: same_scores(f, als(plain()))  # noqa: E731
    for fit, word in ((als, "iterations"), (sgd, "epochs")):
        yield Case(
            f"surroundings: {fit.__name__}, a callback keeps results",
            lambda f=fit, w=word: _kept(f, w),
            Either(Holds(bool), raises(RuntimeError, "while the callback runs")),
        )
    yield _right("a callback leaves the folder", _moved)
    for fit in (als, sgd):
        for name, callback in {"a coroutine": _coroutine, "a generator": _generator}.items():
            yield _refused(
                f"{fit.__name__}, callback {name}", lambda f=fit, c=callback: f(plain(), callback=c), "callback"
            )
    for name, callback in {
        "returns True": lambda record, f: True,
        "returns text": lambda record, f: "stop",
        "is a partial": __import__("functools").partial(lambda more, record, f: None, 1),
        "is a class": dict.fromkeys,
    }.items():
        if name != "is a class":
            yield _right(f"a callback {name}", lambda c=callback: als(plain(), callback=c), plainly)
    yield _right(
        "a callback clears its record",
        lambda: als(plain(), callback=lambda r, f: r.clear()).user_factors,
        lambda U: U.shape == (M, 3),
    )
    yield _right(
        "a callback stops in its own way",
        lambda: als(plain(), callback=_raise(Mine())),
        lambda f: f.status == "stopped",
    )
    for error in (StopAsyncIteration("own"), RecursionError("own"), lfm_np.SolverError("own"), Warning("own")):
        yield _refused(
            f"a callback raises {type(error).__name__}",
            lambda e=error: als(plain(), callback=_raise(e)),
            "own",
            kind=type(error),
        )
    yield _refused("a callback of one argument", lambda: als(plain(), callback=lambda record: None), "argument")
    yield _refused(
        "a callback writes factors", lambda: als(plain(), callback=lambda r, f: f.user_factors.fill(0)), "read-only"
    )


# ---- the process ----------------------------------------------------------------------------------------------------


def _alarm() -> bool:
    """A time limit by SIGALRM, in the middle of a fit; then a fit."""

    def end(signum: int, frame: Any) -> None:
        raise TimeoutError("own")

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    try:
        als(plain(), iterations=10**6)
    except TimeoutError:
        return same_scores(als(plain()), als(plain()))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    return False


def _ignored() -> Any:
    """SIGINT where it is ignored, as under nohup."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        found = als(plain(), iterations=3, callback=lambda r, f: os.kill(os.getpid(), signal.SIGINT))
        return found.status == "max_iterations" and signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def _during(change: Callable[[Any], Any], old: Any, new: Any) -> Callable[[], Any]:
    """A fit while a setting of the process is another one."""

    def run() -> Any:
        change(new)
        try:
            return als(plain(), progress=new is None)
        finally:
            change(old)

    return run


def _crowd() -> bool:
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda threads: als(plain(), num_threads=threads), [1, 2, 3, 4] * 4))
    return all((f.item_factors == found[0].item_factors).all() for f in found)


def _stream(name: str) -> Callable[[Any], None]:
    return lambda value: setattr(sys, name, value)


def _in_a_thread(call: Callable[[], Any]) -> Any:
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(call()), daemon=True)
    thread.start()
    thread.join()
    return found[0]


def process() -> Iterator[Case]:
    plainly = lambda f: same_scores(f, als(plain()))  # noqa: E731
    yield _right("a limit of time by SIGALRM", _alarm)
    yield _right("SIGINT that is ignored", _ignored)
    yield _right("eight threads", _crowd)
    yield _right("a daemon thread", lambda: _in_a_thread(lambda: als(plain())), plainly)
    yield _right("a low limit of recursion", _during(sys.setrecursionlimit, sys.getrecursionlimit(), 150), plainly)
    yield _right("no stderr", _during(_stream("stderr"), sys.stderr, None), plainly)
    yield _right("no stdout", _during(_stream("stdout"), sys.stdout, None), plainly)
    yield _right("a tracer", _during(sys.settrace, None, lambda *_: None), plainly)
    yield _right("a profiler", _during(sys.setprofile, None, lambda *_: None), plainly)
    yield _right("no collector", _during(lambda on: gc.enable() if on else gc.disable(), True, False), plainly)
    for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "MKL_NUM_THREADS"):
        yield _right(
            f"{name} of garbage", _during(lambda v, n=name: os.environ.__setitem__(n, v), "2", "many"), plainly
        )


def cases() -> list[Case]:
    return [*numbers(), *callbacks(), *process()]
