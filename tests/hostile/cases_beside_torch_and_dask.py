"""The torch backend among torch's own settings, and small fits on a cluster of threads."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

import lfm_np
from lfm_np import Factors, Status, losses

from .case import Case, Either, Group, Holds, installed, raises
from .places import holding, inside, same, table

_refused, _right = Group("torch and dask").refused, holding(Group("torch and dask"))


def here(**words: Any) -> Factors:
    return lfm_np.als(
        table(), **{"factors": 4, "iterations": 2, "random_state": 0, "num_threads": 1, "solver": "exact", **words}
    )


def there(X: Any = None, **words: Any) -> Factors:
    from lfm_np import torch_backend

    words = {"factors": 4, "iterations": 2, "random_state": 0, "num_threads": 1, **words}
    return torch_backend.als(table() if X is None else X, **words)


def steps(**words: Any) -> Factors:
    from lfm_np import torch_backend

    words = {"factors": 4, "epochs": 2, "random_state": 0, "num_threads": 1, **words}
    return torch_backend.sgd(table(), losses.BPR(), **words)


def near(one: Factors, other: Factors, error: float = 1e-4) -> bool:
    scores = [np.asarray(f.user_factors, float) @ np.asarray(f.item_factors, float).T for f in (one, other)]
    return bool(np.allclose(*scores, atol=error))


def with_torch(change: Callable[[Any], Any], work: Callable[[], Any]) -> Callable[[], Any]:
    """``change(torch)`` gives a function that takes the change back; NumPy's errors are ignored as torch needs."""

    def call() -> Any:
        import torch

        back = change(torch)
        try:
            return work()
        finally:
            back()

    return call


def torch_cases() -> Iterator[Case]:
    for device in ("cuda:7", "meta", 3.5):
        yield _refused(
            f"device={device!r}", lambda d=device: there(device=d), "device", kind=(TypeError, ValueError, RuntimeError)
        )
    for budget in (0, "32MB"):
        yield _refused(f"memory_budget={budget!r}", lambda b=budget: there(memory_budget=b), "memory_budget")
    for size in (0, 2.0):
        yield _refused(f"batch_size={size!r}", lambda s=size: steps(batch_size=s), "batch_size")
    yield Case(
        "torch and dask: memory_budget=1",
        lambda: there(memory_budget=1),
        Either(Holds(lambda f: near(f, here())), raises((ValueError, MemoryError), "memory_budget")),
    )
    yield _right(
        "batches of more than there is", lambda: steps(batch_size=10**9), lambda f: np.isfinite(f.item_factors).all()
    )

    def double(torch: Any) -> Callable[[], Any]:
        torch.set_default_dtype(torch.float64)
        return lambda: torch.set_default_dtype(torch.float32)

    def nowhere(torch: Any) -> Callable[[], Any]:
        torch.set_default_device("meta")
        return lambda: torch.set_default_device(None)

    def inference(torch: Any) -> Callable[[], Any]:
        mode = torch.inference_mode()
        mode.__enter__()
        return lambda: mode.__exit__(None, None, None)

    for change in (double, nowhere, inference):
        name = change.__name__
        yield _right(
            f"als, torch set to {name}",
            with_torch(change, there),
            lambda f: f.user_factors.dtype == np.float32 and near(f, here()),
        )
        yield _right(f"sgd, torch set to {name}", with_torch(change, steps), lambda f: same(f, steps()))

    def state() -> bool:
        import torch

        torch.manual_seed(1)
        before = (
            torch.get_rng_state().clone(),
            torch.get_num_threads(),
            torch.get_default_dtype(),
            torch.is_grad_enabled(),
        )
        there(num_threads=2)
        steps(num_threads=2)
        after = torch.get_rng_state(), torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled()
        return bool((before[0] == after[0]).all()) and before[1:] == after[1:]

    yield _right("torch's random state and threads are as before", state)
    if not installed("torch"):
        return
    yield _right("a torch.device", lambda: there(device=__import__("torch").device("cpu")), lambda f: near(f, here()))
    for words in (
        {"weighting": "ratings", "biases": True},
        {"weighting": "ials", "unobserved_weight": 0.1},
        {"alpha": 1e6},
    ):
        yield _right(
            f"als in float64 with {words}",
            lambda w=words: there(dtype="float64", **w),
            lambda f, w=words: near(f, here(dtype="float64", **w), 1e-6),
        )

    def gone_on(folder: Path) -> bool:
        there(iterations=1, checkpoint=folder / "run")
        return same(there(iterations=3, checkpoint=folder / "run"), there(iterations=3))

    yield _right("a checkpoint is gone on with", inside(gone_on))
    yield Case(
        "torch and dask: a checkpoint of torch's is given to Numba",
        inside(lambda f: (there(iterations=1, checkpoint=f / "run"), here(checkpoint=f / "run"))[1]),
        Either(Holds(lambda f: near(f, here())), raises(ValueError, "run|checkpoint|solver|torch")),
    )
    yield _right(
        "Ctrl-C",
        lambda: there(iterations=10**6, callback=lambda r, f: os.kill(os.getpid(), signal.SIGINT)),
        lambda f: f.status is Status.INTERRUPTED and near(f, here(iterations=max(len(f.history), 1))),
    )


def on_threads(work: Callable[[Any], Any], workers: int = 2) -> Callable[[], Any]:
    """``work(client)`` with a cluster of threads, which is closed before the threads are counted."""

    def call() -> Any:
        import warnings

        import distributed

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with distributed.Client(
                processes=False, n_workers=workers, threads_per_worker=1, dashboard_address=None
            ) as client:
                return work(client)

    return call


def shared(client: Any, X: Any = None, **words: Any) -> Factors:
    words = {"factors": 4, "iterations": 2, "random_state": 0, **words}
    return lfm_np.distributed.als(table() if X is None else X, client=client, **words)


def dask_cases() -> Iterator[Case]:
    import lfm_np.distributed

    yield _right(
        "one worker and three, the same bits",
        lambda: [on_threads(lambda c: shared(c, shards=3), n)() for n in (1, 3)],
        lambda found: same(*found) and near(found[0], here(), 1e-3),
    )
    yield _right(
        "more shards than rows", on_threads(lambda c: shared(c, shards=10**6)), lambda f: near(f, here(), 1e-3)
    )
    yield _right(
        "COO with repeated cells",
        on_threads(lambda c: shared(c, _doubled())),
        lambda f: near(f, lfm_np.als(_doubled(), factors=4, iterations=2, random_state=0, solver="exact"), 1e-3),
    )
    wrong: dict[str, dict[str, Any]] = {
        "shards": {"shards": 0},
        "solver": {"solver": "cg"},
        "checkpoint_every": {"checkpoint_every": 0},
        "resume": {"resume": "maybe"},
        "users_to": {"users_to": "/proc/users.npy"},
        "num_threads": {"num_threads": 0},
        "factors": {"factors": 0},
    }
    for name, words in wrong.items():
        yield _refused(
            f"a cluster, {words}",
            on_threads(lambda c, w=words: shared(c, **w)),
            name,
            kind=(TypeError, ValueError, OSError),
        )
    yield _refused("without a client", lambda: shared(None), "client", kind=(TypeError, ValueError))
    yield _refused(
        "a client that is a text", lambda: shared("tcp://127.0.0.1:1"), "client", kind=(TypeError, ValueError)
    )

    def other_shards(folder: Path) -> Any:
        return on_threads(lambda c: [shared(c, shards=n, checkpoint=folder / "run") for n in (2, 3)])()

    yield _refused("a checkpoint of other shards", inside(other_shards), "shards", kind=ValueError)

    def raised(client: Any) -> Factors:
        def callback(record: Any, factors: Factors) -> None:
            raise KeyError("of the callback")

        return shared(client, callback=callback)

    yield _refused("a callback raises on a cluster", on_threads(raised), "of the callback", kind=KeyError)


def _doubled() -> sp.coo_array:
    X = table().tocoo()
    rows, columns = X.coords
    return sp.coo_array((np.tile(X.data, 2), (np.tile(rows, 2), np.tile(columns, 2))), shape=X.shape)


def cases() -> list[Case]:
    found: list[Case] = []
    if installed("torch"):
        found += torch_cases()
    if installed("distributed"):
        found += dask_cases()
    return found
