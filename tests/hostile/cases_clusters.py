"""Odd clients, matrices and arguments of `lfm_np.distributed.als`."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

import lfm_np

from .case import Case, Either, Group, Holds, installed, raises
from .cases_odd_arguments import EqualsAll, NoRepr
from .cases_odd_matrices import BAD, finite, same_scores
from .matrices import REFUSED, SAME, M, N, plain

_refused, _right = Group("clusters").refused, Group("clusters").right
WORDS: dict[str, Any] = {"factors": 3, "iterations": 2, "random_state": 0}


@contextlib.contextmanager
def cluster(workers: int = 1, **words: Any) -> Iterator[Any]:
    """The client of workers that are threads of this process."""
    from distributed import Client

    options = {"processes": False, "n_workers": workers, "threads_per_worker": 2, "dashboard_address": ":0"} | words
    with Client(**options) as client:
        yield client


def on(call: Callable[[Any], Any], **words: Any) -> Callable[[], Any]:
    """``call(client)`` of a cluster that is there no longer."""

    def run() -> Any:
        with cluster(**words) as client:
            return call(client)

    return run


def als(client: Any, X: Any = None, **words: Any) -> lfm_np.Factors:
    return lfm_np.distributed.als(plain() if X is None else X, **{"client": client} | WORDS | words)


def here(X: Any = None, **words: Any) -> lfm_np.Factors:
    return lfm_np.als(plain() if X is None else X, solver="exact", num_threads=1, **WORDS | words)


def as_here(result: Any) -> bool:
    return same_scores(result, here())


def filed(call: Callable[[Path], Any]) -> Callable[[], Any]:
    """``call(folder)`` of a new folder."""

    def run() -> Any:
        with tempfile.TemporaryDirectory() as folder:
            return call(Path(folder))

    return run


def on_filed(call: Callable[[Any, Path], Any], **words: Any) -> Callable[[], Any]:
    """``call(client, folder)``."""
    return filed(lambda folder: on(lambda client: call(client, folder), **words)())


# ---- clients --------------------------------------------------------------------------------------------------------


async def _asynchronous() -> Any:
    from distributed import Client

    options = {"processes": False, "n_workers": 1, "dashboard_address": ":0", "asynchronous": True}
    async with Client(**options) as client:
        return als(client)


def _closed() -> Any:
    with cluster() as client:
        pass
    return als(client)


def _of_the_cluster(client: Any) -> Any:
    return als(client.cluster)


def _within_a_coroutine(client: Any) -> Any:
    async def cell() -> Any:
        return als(client)

    return asyncio.run(cell())


def _by_two_threads(client: Any) -> bool:
    found: list[Any] = []
    threads = [threading.Thread(target=lambda: found.append(als(client, shards=2))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return len(found) == 2 and bool((found[0].item_factors == found[1].item_factors).all())


def _adaptive(client: Any, **words: Any) -> Any:
    client.cluster.adapt(minimum=0, maximum=2, interval="50ms")
    return als(client, **words)


def _configured(client: Any, **settings: Any) -> Any:
    import dask

    with dask.config.set({name.replace("__", ".").replace("_", "-"): value for name, value in settings.items()}):
        return als(client)


def clients() -> Iterator[Case]:
    for name, client in {
        "an address": "tcp://127.0.0.1:8786", "a number": 8786, "true": True, "equal to all": EqualsAll(),
        "no repr": NoRepr(), "a list": [], "a module": np, "an event loop": threading.current_thread(),
    }.items():  # fmt: skip
        yield _refused(f"client {name}", lambda c=client: als(c), "client")
    yield _refused("client, none at all", lambda: als(None), "client", "no current")
    yield _refused("client, its class", lambda: als(__import__("distributed").Client), "client")
    yield _refused("client is a cluster", on(_of_the_cluster), "client")
    yield _refused("client closed", _closed, "client", "closed")
    yield _refused("client asynchronous", lambda: asyncio.run(_asynchronous()), "client", "synchronous")
    yield _right("client of a notebook's coroutine", on(_within_a_coroutine), as_here)
    yield _right("client of two threads", on(_by_two_threads))
    yield _right("client current", on(lambda client: als(None)), as_here)
    yield _right("client with a name", on(lambda client: als(client), name="a name"), as_here)
    yield _right("one client in another", on(lambda client: on(als)() and als(client)), as_here)
    yield _right("workers without a limit of memory", on(als, memory_limit=None), as_here)
    yield _right("workers of one thread", on(als, workers=3, threads_per_worker=1), as_here)
    yield _right("adaptive from none, shards given", on(lambda c: _adaptive(c, shards=2), workers=0), as_here)
    yield _right("adaptive from none", on(_adaptive, workers=0), as_here)
    for name, settings in {
        "another scheduler": {"scheduler": "synchronous"},
        "no failures allowed": {"distributed__scheduler__allowed_failures": 0},
        "saturated workers": {"distributed__scheduler__worker_saturation": float("inf")},
        "no work stealing": {"distributed__scheduler__work_stealing": False},
        "a rooted folder of spill": {"temporary_directory": tempfile.gettempdir()},
    }.items():
        yield _right(f"configured: {name}", on(lambda c, s=settings: _configured(c, **s)), as_here)
    yield Case(
        "clusters: called within a task",
        on(lambda client: client.submit(lambda: als(None), pure=False).result()),
        Either(Holds(as_here), raises(BAD, "client")),
    )
    yield Case(
        "clusters: called within the only thread's task",
        on(lambda client: client.submit(lambda: als(None), pure=False).result(), threads_per_worker=1),
        Either(Holds(as_here), raises((*BAD, RuntimeError), "client|task")),
    )


# ---- matrices -------------------------------------------------------------------------------------------------------

KINDS: dict[str, Callable[[Any], Any]] = {
    "a path": lambda client: "interactions",
    "a Path": lambda client: Path("interactions"),
    "none, as an array": lambda client: np.array(None),
    "a future": lambda client: client.scatter(plain()),
    "a delayed": lambda client: __import__("dask").delayed(plain)(),
    "a list of matrices": lambda client: [plain(), plain()],
    "a frame": lambda client: __import__("pandas").DataFrame({"user": [1], "item": [2]}),
    "records": lambda client: np.array([[0, 1], [1, 2]]),
    "a result": lambda client: here(),
    "the class of shards": lambda client: lfm_np.distributed.ShardedInteractions,
}
SHAPES: dict[str, tuple[int, int]] = {
    "0 × 0": (0, 0), "0 × 5": (0, 5), "5 × 0": (5, 0), "1 × 1": (1, 1), "1 × 30": (1, 30), "30 × 1": (30, 1),
}  # fmt: skip


def matrices() -> Iterator[Case]:
    for name, make in KINDS.items():
        yield _refused(f"X {name}", on(lambda c, make=make: als(c, make(c))), "X|source")
    for name in ("nan", "index too large", "bsr with a bad index"):
        make, words = REFUSED[name]
        named = ("source" if word == "X" else word for word in words)
        yield _refused(f"X {name}", on(lambda c, make=make: als(c, make())), *named)
    for name in ("coo", "big-endian indices", "duplicates", "stored zeros", "misaligned values", "flags that lie"):
        odd, even = SAME[name]
        yield _right(
            f"X {name}",
            on(lambda c, odd=odd: als(c, odd(), shards=3)),
            lambda f, even=even: same_scores(f, here(even())),
        )
    for name, shape in SHAPES.items():
        for fill in (0, 1):
            X = sp.csr_array(np.full(shape, fill, np.float32))
            yield _right(
                f"X {name}, {'full' if fill else 'no cell'}",
                on(lambda c, X=X: als(c, X, shards=2)),
                lambda f, X=X: f.shape == X.shape and finite(f) and same_scores(f, here(X)),
            )
    ids = lfm_np.Interactions.from_arrays(["b", "a"], [1, 1])
    yield _right("X interactions", on(lambda c: als(c, ids)), lambda f: f.shape == (2, 1))


# ---- arguments ------------------------------------------------------------------------------------------------------

ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "shards": (0, 1.5, True, "2", [1]),
    "checkpoint_every": (0, True, None, np.nan),
    "num_threads": (0, 10**30),
    "resume": ("always", True, EqualsAll()),
    "checkpoint": (3, "a\0b"),
    "users_to": (3, ""),
    "solver": ("cg", None),
    "init": ("warm", (np.zeros((M, 2)), np.zeros((N, 2)))),
    "callback": ("print",),
    "dtype": ("float16",),
}


def arguments() -> Iterator[Case]:
    for word, values in ARGUMENTS.items():
        for place, value in enumerate(values):
            yield _refused(
                f"{word} {place} {type(value).__name__}", on(lambda c, w=word, v=value: als(c, **{w: v})), word
            )
    for name, words in {
        "shards int8": {"shards": np.int8(2)}, "shards beyond the users": {"shards": 10**4},
        "every uint64": {"checkpoint_every": np.uint64(1)}, "solver NumPy's text": {"solver": np.str_("exact")},
        "threads NumPy's": {"num_threads": np.int16(1)}, "every 2^62": {"checkpoint_every": 2**62},
        "resume NumPy's text": {"resume": np.str_("auto")},
    }.items():  # fmt: skip
        yield _right(name, on(lambda c, w=words: als(c, **w)), as_here)
    yield Case(
        "clusters: shards 2^70", on(lambda c: als(c, shards=2**70)), Either(Holds(as_here), raises(BAD, "shards"))
    )
    yield _right("init a result", on(lambda c: als(c, init=here())), finite)


def cases() -> list[Case]:
    return [*clients(), *matrices(), *arguments()] if installed("distributed", "pyarrow") else []
