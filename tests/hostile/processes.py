"""Every case in a forked process of its own, with a limit on time and on memory."""

from __future__ import annotations

import os
import resource
import select
import signal
import time
import warnings
from collections.abc import Callable, Sequence

import numpy as np

from .case import Case, Outcome, judge

MEMORY = 3 << 30  # bytes of address space a case may add
SECONDS = 30.0


def run(
    cases: Sequence[Case], *, workers: int | None = None, seconds: float = SECONDS, lenient: bool = False
) -> dict[str, Outcome]:
    """The outcome of every case by name; ``lenient`` tolerates warnings and changed settings of the process."""
    waiting, running, found = list(reversed(cases)), {}, {}
    workers = workers or len(os.sched_getaffinity(0))
    while waiting or running:
        while waiting and len(running) < workers:
            case = waiting.pop()
            pid, pipe = _start(lambda case=case: judge(case, strict=not lenient), lenient)
            running[pipe] = case.name, pid, time.monotonic() + seconds
        ready, _, _ = select.select(list(running), [], [], 0.2)
        for pipe in list(running):
            name, pid, deadline = running[pipe]
            if pipe in ready or time.monotonic() > deadline:
                found[name] = _finish(pipe, pid, late=pipe not in ready)
                del running[pipe]
    return {case.name: found[case.name] for case in cases}


def _start(work: Callable[[], Outcome], lenient: bool) -> tuple[int, int]:
    """Fork a process that writes what ``work`` returns to a pipe; its id and the pipe."""
    read, write = os.pipe()
    pid = os.fork()
    if pid:
        os.close(write)
        return pid, read
    try:
        _limit()
        if not lenient:
            warnings.simplefilter("error")
            warnings.filterwarnings("ignore", "Creating scratch directories is taking")  # dask on a busy machine
            np.seterr(all="raise")
        outcome = work()
        os.write(write, "\n".join(outcome).encode()[:4000])
    except MemoryError:
        os.write(write, b"obscure error\nMemoryError in the case itself")
    finally:
        os._exit(0)


def _limit() -> None:
    with open("/proc/self/statm") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + MEMORY, now + MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)


def _finish(pipe: int, pid: int, late: bool) -> Outcome:
    if late:
        os.kill(pid, signal.SIGKILL)
    message = b"" if late else b"".join(iter(lambda: os.read(pipe, 1 << 16), b""))
    os.close(pipe)
    status = os.waitpid(pid, 0)[1]
    if late:
        return Outcome("hang", "no answer in time")
    if not message:
        number = os.waitstatus_to_exitcode(status)
        return Outcome("crash", signal.Signals(-number).name if number < 0 else f"exit {number}")
    return Outcome(*message.decode(errors="replace").split("\n", 1))
