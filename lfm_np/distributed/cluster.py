"""Running tasks on a dask cluster: named, waited for, and never for ever."""

from __future__ import annotations

import asyncio
import concurrent.futures
import itertools
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError
from typing import Any, NamedTuple

import dask
import distributed
from distributed.scheduler import KilledWorker
from distributed.threadpoolexecutor import thread_state

from lfm_np.errors import SolverError
from lfm_np.kernels.jit import Interrupted
from lfm_np.signals import pass_on, signals_held
from lfm_np.validation import shown

PATIENCE = 300.0  # seconds without any worker that runs tasks, after which a fit gives up
RESTARTS = 2  # times that a sweep is done again after its tasks kept losing their workers
FAN_IN = 16  # parts that one task brings together
_LOST = KilledWorker, CancelledError, asyncio.CancelledError  # which asyncio makes of an older dask's
_POLL = 0.5  # seconds between two looks at Ctrl-C and the workers
_SETTINGS = {"distributed.admin.large-graph-warning-threshold": "1TiB"}  # what we send is meant to be sent


class Lost(Exception):
    """Tasks lost their workers as often as dask allows, or their results are gone."""


class NoWorkers(SolverError):
    """Nobody takes tasks."""


class Workers(NamedTuple):
    threads: int  # of all together
    memory: int | None  # bytes of the smallest; None where there is no limit


def check_client(client: Any) -> distributed.Client:
    """The client to use: the one given, or dask's current one."""
    if client is None:
        try:
            client = distributed.get_client()
        except ValueError as error:
            pass_on(error)
            raise ValueError(
                "client must be a dask.distributed Client, and there is no current one; "
                "make one: client = distributed.Client(address), or distributed.Client() on this machine"
            ) from None
    with signals_held():  # dask takes any RuntimeError for the want of a loop
        synchronous = isinstance(client, distributed.Client) and not client.asynchronous
    if not synchronous:
        raise TypeError(f"client must be a synchronous dask.distributed Client, got {shown(client)}")
    if client.status != "running":
        raise ValueError(f"client must be connected to a scheduler, got one that is {client.status}")
    return client


class Cluster:
    """The tasks of one run on a client's workers.

    Tasks are pure functions, so that dask computes again what a dead worker held.
    """

    def __init__(self, client: distributed.Client, interrupted: Callable[[], bool]) -> None:
        _leave_pool()
        self._client, self._interrupted = client, interrupted
        self._run = uuid.uuid4().hex
        self._numbers = itertools.count()

    def workers(self) -> Workers:
        """The workers there are, once there is one."""
        since = time.monotonic()
        asked = None if self._running() else self._client.submit(int, pure=False)  # adaptive clusters grow by demand
        while not (found := self._running()):
            self._look_up(since)
            time.sleep(_POLL)
        del asked
        limits = [worker["memory_limit"] for worker in found if worker["memory_limit"]]
        threads = sum(worker["nthreads"] for worker in found)
        return Workers(threads, min(limits, default=None))

    def task(self, name: str, function: Callable[..., Any], *arguments: Any) -> Any:
        """A task to be run; an argument may be a task or a future."""
        key = f"lfm_{name}-{self._run}-{next(self._numbers)}"
        with signals_held():  # dask goes on another way after any exception
            return dask.delayed(function, pure=False)(*arguments, dask_key_name=key)

    def send(self, *groups: Sequence[Any]) -> list[list[Any]]:
        """The futures of groups of tasks, which begin to run in one graph. What is a future already stays one."""
        self._look_up(time.monotonic())
        with signals_held(), dask.config.set(_SETTINGS):
            futures = self._client.compute([task for group in groups for task in group], optimize_graph=False)
        rest = iter(futures)
        return [[next(rest) for _ in group] for group in groups]

    def finish(self, futures: Sequence[Any], heed: bool = True) -> None:
        """Wait until they are run to the end.

        Raises
        ------
        Interrupted
            Ctrl-C was pressed, which ``heed=False`` ignores.
        Lost
            Workers kept dying.
        """
        while any(future.status != "finished" for future in futures):  # one may be lost again after it was done
            self._wait(futures, heed)
            self._raise_error(futures)

    def groups(self, *groups: Sequence[Any], heed: bool = True) -> list[list[Any]]:
        """The futures of groups of tasks, run to the end."""
        sent = self.send(*groups)
        self.finish([future for group in sent for future in group], heed)
        return sent

    def gather(self, futures: Sequence[distributed.Future]) -> list[Any]:
        """The results of futures."""
        with signals_held():  # asyncio takes any OSError for one of its pipe
            asked = self._client.gather(list(futures), asynchronous=True)
            loop = self._client.loop.asyncio_loop  # type: ignore[union-attr]
            coming = asyncio.run_coroutine_threadsafe(asked, loop)
        while True:
            with signals_held():
                done = bool(concurrent.futures.wait([coming], _POLL).done)
            if done:
                break
            self._look_up(time.monotonic())
        try:
            return coming.result()
        except _LOST as error:
            raise Lost(str(error)) from error

    def release(self, futures: Sequence[distributed.Future]) -> None:
        """Let workers free the results of futures now.

        To drop them is not enough: where a wait timed out they stay in a cycle until Python's collector finds it, and
        the workers' memory with them.
        """
        with signals_held():
            for future in futures:
                future.release()

    def _wait(self, futures: Sequence[distributed.Future], heed: bool) -> None:
        since = time.monotonic()
        while True:
            with signals_held():  # a watchdog's TimeoutError would pass for that of the wait
                done = self._done(futures)
            if done:
                return
            if heed and self._interrupted():
                raise Interrupted
            if self._running():
                since = time.monotonic()
            self._look_up(since)

    def _done(self, futures: Sequence[distributed.Future]) -> bool:
        """Whether they are, after some time at most."""
        try:
            with self._client.as_current():  # wait() asks the current one, which may be another or none
                distributed.wait(futures, timeout=_POLL)
            return True
        except CancelledError as error:
            raise Lost(str(error)) from error
        except TimeoutError:
            return False

    def _running(self) -> list[dict[str, Any]]:
        """The workers that take tasks; none while the scheduler cannot be reached."""
        if self._client.status != "running":
            return []
        return [worker for worker in self._all_workers() if worker["status"] == "running"]

    def _all_workers(self) -> list[dict[str, Any]]:
        try:
            return list(self._client.scheduler_info(n_workers=-1)["workers"].values())
        except TypeError:  # before 2025 it has no limit to lift
            return list(self._client.scheduler_info()["workers"].values())

    def _look_up(self, since: float) -> None:
        """Give up after too long without workers, and at once without a client."""
        if self._client.status in ("closing", "closed"):
            raise NoWorkers("client was closed before its tasks were done; keep it open until the call returns")
        if time.monotonic() - since > PATIENCE:
            raise NoWorkers(
                f"no worker of {self._client} took tasks for {PATIENCE:g} seconds: they are gone, or paused for want "
                "of memory; start workers, or take fewer factors or more shards"
            )

    def _raise_error(self, futures: Sequence[distributed.Future]) -> None:
        for future in futures:
            error = future.exception() if future.status == "error" else None
            if isinstance(error, (KilledWorker, CancelledError)):
                raise Lost(str(error)) from error
            if error is not None:
                raise error
        if any(future.status == "cancelled" for future in futures):
            raise Lost("the scheduler forgot tasks")


def fewer(cluster: Cluster, name: str, together: Callable[[list[Any]], Any], parts: list[Any]) -> list[Any]:
    """At most FAN_IN tasks, of which each brings neighbours among ``parts``, tasks too, together."""
    while len(parts) > FAN_IN:
        groups = (parts[lo : lo + FAN_IN] for lo in range(0, len(parts), FAN_IN))
        parts = [cluster.task(name, together, group) for group in groups]
    return parts


def _leave_pool() -> None:
    """Within a task of dask, let its worker run another one meanwhile: ours would wait for this thread."""
    try:
        distributed.get_worker()
    except ValueError as error:
        pass_on(error)
        return
    if getattr(thread_state, "proceed", False):  # a thread of the pool that has not left it yet
        distributed.secede()
