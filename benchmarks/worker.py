"""One solver in a process of its own: commands come in as lines, answers go out as JSON lines.

``python -m benchmarks.worker SOLVER DATASET TASK`` (TASK: JSON of `benchmarks.tasks.Task`) is started by
`benchmarks.runner`. A process each keeps the libraries' threads, memory and settings apart.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any, TextIO

import numpy as np

from benchmarks import datasets, solvers
from benchmarks.tasks import Task, judge

MEGA = 1 << 20


def main(name: str, dataset: str, description: str) -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what a library prints is no answer
    try:
        _serve(name, dataset, Task(**json.loads(description)), answers)
    except Exception as error:
        _answer(answers, error=f"{type(error).__name__}: {error}")
    os._exit(0)  # a fit may wait in its thread


def _serve(name: str, dataset: str, task: Task, answers: TextIO) -> None:
    entry = solvers.entries()[name]
    data = datasets.load(dataset)
    started = time.perf_counter()
    warm = entry.make(datasets.load("small").train, task)
    warm.step()
    warm_up = time.perf_counter() - started
    if hasattr(warm, "end"):
        warm.end()
    del warm
    before = _resident()
    started = time.perf_counter()
    solver = entry.make(data.train, task)
    made = time.perf_counter() - started
    _answer(answers, shape=data.train.shape, nnz=data.train.nnz, warm_up=warm_up, prepare=made, resident_mb=before)
    done = 0
    for command in sys.stdin:
        if command.strip() == "step":
            started = time.perf_counter()
            own = solver.step()
            wall = time.perf_counter() - started
            done += 1
            _answer(answers, iteration=done, seconds=wall if own is None else own, wall=wall, peak_mb=_peak())
        else:
            found = solver.factors()
            finite = all(np.isfinite(array).all() for array in (found.user_factors, found.item_factors))
            test = data.test if command.strip() == "judge" else None
            _answer(answers, finite=bool(finite), **judge(task, data.train, test, found))


def _answer(answers: TextIO, **values: Any) -> None:
    answers.write(json.dumps(values) + "\n")


def _peak() -> float:
    """Largest resident memory so far, MiB."""
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / MEGA if sys.platform == "darwin" else peak / 1024


def _resident() -> float:
    """Resident memory now, MiB; NaN where the system does not say."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / MEGA
    except OSError:
        return float("nan")


if __name__ == "__main__":
    main(*sys.argv[1:])
