"""A program's runs on clusters, second sitting: drivers that die, states begun anew, users in files, Ctrl-C."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import lfm_np

from .case import Case, Group, installed
from .cases_second_sitting_of_life_in_runs import press_at
from .cases_second_sitting_of_life_on_disks import U0, V0, M, X, listing, whole
from .working_days import Model, faultless, folder, raised, tells, wrong

_GROUP = Group("second sitting, life")
_holds = faultless(_GROUP)


def _on_a_cluster(work: Callable[[Any], list[str]]) -> list[str]:
    """In a process of its own, whose threads and loops end with it."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(read)
            import distributed

            words = {"processes": False, "n_workers": 1, "threads_per_worker": 2, "dashboard_address": ":0"}
            with distributed.Client(**words) as client:
                told = work(client)
            os.write(write, json.dumps(told).encode())
        except BaseException as error:
            os.write(write, json.dumps([repr(error)[:300]]).encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        text = pipe.read()
    os.waitpid(pid, 0)
    found: list[str] = json.loads(text) if text else ["the process ended"]
    return found


def _there(client: Any, sweeps: int, model: Model = M, **words: Any) -> Any:
    given = {"factors": 3, "init": (U0, V0), "dtype": "float64", "random_state": 0, "shards": 3, **model.words, **words}
    return lfm_np.distributed.als(X, client=client, iterations=sweeps, **given)


def _cluster_goes_on(client: Any) -> list[str]:
    class Break(Exception):
        pass

    def breaks(record: Any, factors: Any) -> None:
        if record["iteration"] == 5:
            raise Break

    with folder() as place:
        words = {"checkpoint": place / "state", "checkpoint_every": 2}
        error = raised(lambda: _there(client, 8, callback=breaks, **words))
        seen: list[int] = []
        last = _there(client, 8, callback=listing(seen), **words)
        return wrong(
            error=isinstance(error, Break), whole=whole(last, 8), on=bool(seen) and 1 < seen[0] <= 6,
            each=seen == list(range(seen[0], 9)),
        )  # fmt: skip


def _cluster_begins_anew(client: Any) -> list[str]:
    other = Model(lam=0.9)
    with folder() as place:
        words = {"checkpoint": place / "state", "checkpoint_every": 2}
        first = _there(client, 4, **words)
        error = raised(lambda: _there(client, 4, other, **words))
        anew = _there(client, 4, other, resume="never", **words)
        seen: list[int] = []
        last = _there(client, 7, other, callback=listing(seen), **words)
        return wrong(
            first=whole(first, 4), refused=isinstance(error, ValueError), anew=whole(anew, 4, other),
            on=bool(seen) and 1 < seen[0] <= 5, last=whole(last, 7, other),
        )  # fmt: skip


def _cluster_users_to(client: Any) -> list[str]:
    """The old array is there until the new one is whole."""
    with folder() as place:
        path = place / "users.npy"
        np.save(path, np.arange(5))
        old = path.read_bytes()
        kept: list[bool] = []

        def stops(record: Any, factors: Any) -> None:
            kept.append(path.read_bytes() == old)
            if record["iteration"] == 2 and len(kept) == 2:
                raise RuntimeError("enough")

        error = raised(lambda: _there(client, 4, users_to=path, callback=stops))
        kept.append(path.read_bytes() == old)
        last = _there(client, 4, users_to=path, callback=stops)
        return wrong(
            error=tells(error, "enough"), kept=kept == [True] * 7, whole=whole(last, 4),
            file=np.array_equal(np.load(path), last.user_factors),
        )  # fmt: skip


def _cluster_pressed(client: Any) -> list[str]:
    found = _there(client, 6, callback=press_at(3))
    error = raised(lambda: _there(client, 6, callback=press_at(2), raise_on_interrupt=True))
    return wrong(
        status=found.status is lfm_np.Status.INTERRUPTED, whole=whole(found, 3),
        raised=isinstance(error, KeyboardInterrupt), after=whole(_there(client, 5), 5),
    )  # fmt: skip


def _cases() -> Iterator[Case]:
    if installed("distributed"):
        for name, work in (
            ("goes on after its driver", _cluster_goes_on),
            ("begins anew where it is told to", _cluster_begins_anew),
            ("keeps the old users until the new are whole", _cluster_users_to),
            ("is pressed", _cluster_pressed),
        ):
            yield _holds(f"a cluster that {name}", lambda w=work: _on_a_cluster(w))


def cases() -> list[Case]:
    return list(_cases())
