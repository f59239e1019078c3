"""Checkpoints and files of `lfm_np.distributed.als` that are spoilt, and what befalls a run under way."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

import lfm_np

from .case import Case, Either, Group, Holds, installed, raises
from .cases_clusters import WORDS, als, as_here, here, on, on_filed
from .cases_odd_matrices import BAD, finite, same_scores
from .matrices import plain

_refused, _right = Group("cluster runs").refused, Group("cluster runs").right
BAD_FILE = (*BAD, OSError)

# ---- files of the driver --------------------------------------------------------------------------------------------


def _checkpoint(spoil: Callable[[Path], Any], **words: Any) -> Callable[[], Any]:
    """A run, its checkpoint spoilt, the run again."""

    def run(client: Any, folder: Path) -> Any:
        path = folder / "run.checkpoint"
        als(client, checkpoint=path, shards=2)
        spoil(path)
        return als(client, checkpoint=path, **{"shards": 2} | words)

    return on_filed(run)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-40] ^= 255
    path.write_bytes(data)


def _of_one_process(path: Path) -> None:
    path.unlink()
    lfm_np.als(plain(), checkpoint=path, num_threads=1, **WORDS)


def _users_to(client: Any, folder: Path, name: str = "users.npy", before: bytes | None = None) -> Any:
    if before is not None:
        (folder / name).write_bytes(before)
    found = als(client, users_to=folder / name)
    return as_here(found) and bool((np.load(folder / name) == found.user_factors).all())


def driver_files() -> Iterator[Case]:
    keep = lambda path: None  # noqa: E731
    for name, spoil, words, word in (
        ("of other factors", keep, {"factors": 2}, "factors"),
        ("of another matrix", keep, {"X": plain(1)}, "X|matrix"),
        ("of other shards", keep, {"shards": 3}, "shards"),
        ("of another seed", keep, {"random_state": 1}, "random_state|seed"),
        ("of another dtype", keep, {"dtype": "float64"}, "dtype"),
        ("cut", _cut, {}, "checkpoint"),
        ("with a flipped bit", _flip, {}, "checkpoint"),
        ("empty", lambda path: path.write_bytes(b""), {}, "checkpoint"),
        ("of one process", _of_one_process, {}, "checkpoint"),
        ("of a model", lambda path: here().save(path), {}, "checkpoint"),
        ("now a folder", lambda path: (path.unlink(), path.mkdir()), {}, "checkpoint"),
    ):
        yield _refused(f"checkpoint {name}", _checkpoint(spoil, **words), word, kind=BAD_FILE)
    yield _right(
        "checkpoint gone on with", _checkpoint(keep, iterations=4), lambda f: same_scores(f, here(iterations=4))
    )
    yield _right("checkpoint damaged, resume never", _checkpoint(_cut, resume="never"), as_here)
    yield _refused(
        "checkpoint in no folder",
        on_filed(lambda c, folder: als(c, checkpoint=folder / "no" / "run")),
        "no",
        kind=BAD_FILE,
    )
    yield _right("users_to", on_filed(_users_to))
    yield _right("users_to, no suffix", on_filed(lambda c, folder: _users_to(c, folder, "users")))
    yield _right("users_to, file there", on_filed(lambda c, folder: _users_to(c, folder, before=b"old")))
    yield _right("users_to, odd name", on_filed(lambda c, folder: _users_to(c, folder, "ü %s {}\n.npy")))
    for name, make in {
        "a folder": lambda folder: folder, "in no folder": lambda folder: folder / "no" / "users.npy",
        "in a file": lambda folder: Path(__file__) / "users.npy",
    }.items():  # fmt: skip
        yield _refused(
            f"users_to {name}", on_filed(lambda c, f, m=make: als(c, users_to=m(f))), "users_to", kind=BAD_FILE
        )
    both = lambda c, folder: als(c, users_to=folder / "one", checkpoint=folder / "one")  # noqa: E731
    yield _refused("users_to is the checkpoint", on_filed(both), "users_to", "checkpoint")
    nobody = sp.csr_array((0, 5), dtype=np.float32)
    yield _right(
        "users_to of nobody", on_filed(lambda c, folder: als(c, nobody, users_to=folder / "u.npy").shape), (0, 5).__eq__
    )


# ---- under way ------------------------------------------------------------------------------------------------------


def _callback(do: Callable[[Any], Any], **words: Any) -> Callable[[], Any]:
    """A run of four sweeps, in the first of which ``do(client)`` is called."""

    def run(client: Any) -> Any:
        return als(
            client, callback=lambda r, f: do(client) if r["iteration"] == 1 else None, **{"iterations": 4} | words
        )

    return on(run)


def _fail(client: Any) -> None:
    raise ValueError("the callback's own")


def _stop(client: Any) -> None:
    raise StopIteration


def _then_again(client: Any) -> Any:
    with contextlib.suppress(ValueError):
        als(client, callback=lambda r, f: _fail(client))
    return als(client)


def _interrupt(client: Any) -> None:
    os.kill(os.getpid(), signal.SIGINT)


def _interrupted() -> bool:
    try:
        _callback(_interrupt, raise_on_interrupt=True)()
    except KeyboardInterrupt:
        return True
    return False


def _impatient(do: Callable[[Any], Any]) -> Callable[[], Any]:
    """As `_callback`, and the fit waits three seconds for workers in place of five minutes."""

    def run() -> Any:
        import lfm_np.distributed.cluster as waiting

        waiting.PATIENCE = 3.0  # type: ignore[misc] (in this process only)
        return _callback(do)()

    return run


def under_way() -> Iterator[Case]:
    four = lambda f: same_scores(f, here(iterations=4))  # noqa: E731
    lost = raises(lfm_np.SolverError, "client|worker")
    yield _refused("a callback fails", _callback(_fail), "the callback's own")
    yield _right("after a callback failed", on(_then_again), as_here)
    yield _right("a callback stops", _callback(_stop), lambda f: f.status == "stopped" and len(f.history) == 1)
    yield _right("a callback fits on the same cluster", _callback(lambda client: als(client)), four)
    yield Case("cluster runs: a callback closes the client", _callback(lambda c: c.close()), Either(Holds(four), lost))
    yield Case(
        "cluster runs: a callback ends the cluster", _impatient(lambda c: c.cluster.close()), Either(Holds(four), lost)
    )
    yield _right("a callback adds a worker", _callback(lambda c: c.cluster.scale(2)), four)
    yield _right(
        "a callback changes the workers",
        # dask fails where a worker is to go that is still to come
        _callback(lambda c: (c.cluster.scale(3), c.wait_for_workers(3, timeout=60), c.cluster.scale(1))),
        four,
    )
    yield Case(
        "cluster runs: a callback restarts the workers",
        _impatient(lambda c: c.restart(wait_for_workers=False)),
        Either(Holds(four), lost),
    )
    yield _right("a callback interrupts", _callback(_interrupt), lambda f: f.status == "interrupted" and finite(f))
    yield _right("a callback interrupts, to raise", _interrupted)


def cases() -> list[Case]:
    return [*driver_files(), *under_way()] if installed("distributed", "pyarrow") else []
