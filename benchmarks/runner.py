"""Runs solvers side by side: iteration 1 of each, iteration 2 of each, … so that a busy machine is busy for all."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import solvers
from benchmarks.tasks import Task, as_dict

DISTRIBUTIONS = ("numpy", "scipy", "numba", "torch", "implicit", "irspack", "cmfrec", "lightfm", "pyspark")
BUSY_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


class Failed(RuntimeError):
    """A solver could not go on; the message is its own."""


class Worker:
    """A solver in its process."""

    def __init__(self, name: str, dataset: str, task: Task) -> None:
        self.name = name
        environment = os.environ | dict.fromkeys(BUSY_THREADS, str(task.threads)) | {"OPENBLAS_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.worker", name, dataset, json.dumps(as_dict(task))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        try:
            self.ready = self._read()
        except Failed:
            self.close()
            raise

    def ask(self, command: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(command + "\n")
        self._process.stdin.flush()
        return self._read()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        answer = json.loads(line) if line else {"error": f"the process ended ({self._process.poll()})"}
        if "error" in answer:
            raise Failed(answer["error"])
        return answer

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()


def machine() -> dict[str, Any]:
    """What a timing depends on besides the code."""
    versions = {"python": platform.python_version()}
    for name in DISTRIBUTIONS:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"cpu": _cpu(), "cores": cores, "system": platform.platform(), "versions": versions}


def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def compare(
    names: list[str], dataset: str, task: Task, *, iterations: int, judged: str = "every", limit: float = 300.0
) -> Iterator[dict[str, Any]]:
    """Records of the solvers' iterations on one data set, as they are done.

    Parameters
    ----------
    judged : {"every", "objective", "last", "never"}
        After which iterations quality is measured; its time is not counted. "objective": after every one, without
        rankings, which cost the most where there are many items.
    limit : float
        A solver that has trained for this many seconds does no further iteration.

    Yields
    ------
    dict
        ``kind``: "machine" once, "skipped" with a reason, "ready" (``warm_up``: import, JIT and a first iteration on a
        small matrix; ``resident_mb``: memory before the solver is made), "step" (``seconds`` by the library's own
        clock where it has one, ``wall`` with everything; ``total`` so far: what prepares, the first iteration with
        everything, later ones by the library's clock, since cmfrec's repeat what went before; ``peak_mb``) and
        "quality".
    """
    common = {"dataset": dataset, "started": time.strftime("%Y-%m-%dT%H:%M:%S"), **as_dict(task)}
    common["task"] = common.pop("name")
    yield {"kind": "machine", **common, **machine()}
    known = solvers.entries()
    workers: list[Worker] = []
    try:
        for name in names:
            reason = known[name].missing
            try:
                if reason:
                    raise Failed(reason)
                worker = Worker(name, dataset, task)
            except Failed as failure:
                yield {"kind": "skipped", "solver": name, **common, "reason": str(failure)}
                continue
            workers.append(worker)
            yield {"kind": "ready", "solver": name, "note": known[name].note, **common, **worker.ready}
        yield from _rounds(workers, common, iterations, judged, limit)
    finally:
        for worker in workers:
            worker.close()


def _rounds(
    workers: list[Worker], common: dict[str, Any], iterations: int, judged: str, limit: float
) -> Iterator[dict[str, Any]]:
    total = {worker.name: worker.ready["prepare"] for worker in workers}
    spent = dict(total)
    active = list(workers)
    for iteration in range(1, iterations + 1):
        for worker in list(active):
            base = {"solver": worker.name, **common, "iteration": iteration}
            try:
                step = worker.ask("step")
                total[worker.name] += step["wall" if iteration == 1 else "seconds"]
                spent[worker.name] += step["wall"]
                yield {"kind": "step", **base, **step, "total": total[worker.name]}
                last = iteration == iterations or spent[worker.name] > limit
                if judged in ("every", "objective") or (judged == "last" and last):
                    command = "objective" if judged == "objective" else "judge"
                    yield {"kind": "quality", **base, "total": total[worker.name], **worker.ask(command)}
                if last:
                    active.remove(worker)
            except Failed as failure:
                active.remove(worker)
                yield {"kind": "skipped", **base, "reason": str(failure)}
