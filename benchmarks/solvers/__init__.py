"""The competitors, one file each.

A file has ``PACKAGES``, what it imports (when missing, it is skipped with that reason), and ``SOLVERS``, a dict of
`Entry` by name. A solver is made from (train, task), where nothing but arguments may be prepared, and has

* ``step()``: one more iteration or epoch; returns its seconds by the library's own clock, or None;
* ``factors()``: the model so far as `lfm_np.Factors`;
* where it goes on in a thread, ``end()``.

Packages are imported inside of functions, so that listing the solvers needs none of them.
"""

from __future__ import annotations

import importlib
import importlib.util
import threading
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import scipy.sparse as sp

import lfm_np
from benchmarks.tasks import Task

MODULES = ("lfm_np_cpu", "lfm_np_torch", "irspack", "implicit", "cmfrec", "lightfm", "torch_autograd", "spark")


class Solver(Protocol):
    def step(self) -> float | None: ...

    def factors(self) -> lfm_np.Factors: ...


class Entry(NamedTuple):
    """A solver under one name."""

    task: str
    make: Callable[[sp.csr_array, Task], Solver]
    note: str
    packages: tuple[str, ...] = ()

    @property
    def missing(self) -> str | None:
        """Why it cannot run here."""
        absent = [name for name in self.packages if importlib.util.find_spec(name) is None]
        return f"not installed: {', '.join(absent)}" if absent else None


def entries() -> dict[str, Entry]:
    """Every solver by name."""
    found: dict[str, Entry] = {}
    for name in MODULES:
        module = importlib.import_module(f"benchmarks.solvers.{name}")
        found |= {key: entry._replace(packages=module.PACKAGES) for key, entry in module.SOLVERS.items()}
    return found


class Ended(Exception):
    """Leaves a fit through its callback."""


class Paused:
    """A ``fit(callback)`` that runs from one callback to the next, in a thread of its own.

    Libraries whose fit loops inside are measured as their users run them, and still in turn with the others.
    """

    def __init__(self, fit: Callable[[Callable[..., None]], Any]) -> None:
        self._go, self._done = threading.Semaphore(0), threading.Semaphore(0)
        self._error: BaseException | None = None
        self._ended = False
        self._fit, self._pause_arguments = fit, ()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        self._go.acquire()
        if self._ended:
            return
        try:
            self._fit(self._pause)
            self._error = RuntimeError("fit has ended: there are no more iterations")
        except BaseException as error:
            self._error = error
        self._done.release()

    def _pause(self, *arguments: Any) -> None:
        self._pause_arguments = arguments
        self._done.release()
        self._go.acquire()
        if self._ended:
            raise Ended

    def end(self) -> None:
        """End the fit and its thread, whose OpenMP workers would go on costing the next fit half of its speed."""
        self._ended = True
        self._go.release()
        self._thread.join()

    def step(self) -> tuple[Any, ...]:
        """Run to the next callback; returns its arguments."""
        self._go.release()
        self._done.acquire()
        if self._error is not None:
            raise self._error
        return self._pause_arguments
