"""What every iterative solver does around its sweeps: history, callback, tolerance, progress, Ctrl-C."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from tqdm import tqdm

from lfm_np.checkpoint import Run
from lfm_np.errors import SolverError
from lfm_np.factors import Factors, Status
from lfm_np.kernels.jit import Interrupted

Callback = Callable[[dict[str, Any], Factors], Any]

_FIELDS = frozenset(field.name for field in dataclasses.fields(Factors))


class FactorsView(Factors):
    """What a callback sees: Factors that are computed when first looked at, which must be while the callback runs."""

    def __init__(self, make: Callable[[], Factors]) -> None:
        object.__setattr__(self, "_make", make)

    def __getattribute__(self, name: str) -> Any:
        if name in _FIELDS and "_make" in (own := object.__getattribute__(self, "__dict__")):
            factors = own["_make"]()
            own.clear()
            own.update({field: getattr(factors, field) for field in _FIELDS})
        return object.__getattribute__(self, name)

    def __reduce__(self) -> tuple[Any, ...]:
        return dataclasses.replace(_plain(self)).__reduce__()

    def expire(self) -> None:
        """The solver goes on and overwrites its buffers."""
        if "_make" in self.__dict__:
            object.__setattr__(self, "_make", _expired)


def _plain(view: Factors) -> Factors:
    return Factors(**{field: getattr(view, field) for field in _FIELDS})


def _expired() -> Factors:
    raise RuntimeError(
        "a callback's factors must be looked at while the callback runs; keep factors.user_factors there"
    )


@contextlib.contextmanager
def sigint_noted() -> Iterator[Callable[[], bool]]:
    """A function that tells whether Ctrl-C was pressed. A second press raises KeyboardInterrupt at once.

    Only in the main thread and only where Python's own handler is in place: a program with a handler of its own keeps
    it. What Ctrl-C ends before the first sweep, when there is nothing to return, ends with KeyboardInterrupt.
    """
    pressed = threading.Event()

    def note(signum: int, frame: Any) -> None:
        if pressed.is_set():
            raise KeyboardInterrupt
        pressed.set()

    ours = threading.current_thread() is threading.main_thread()
    ours = ours and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if ours:
        signal.signal(signal.SIGINT, note)
    try:
        yield pressed.is_set
    except Interrupted:
        raise KeyboardInterrupt from None
    finally:
        if ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def run_sweeps(
    sweep: Callable[[], dict[str, Any]],
    result: Callable[[list[dict[str, Any]], Status], Factors],
    *,
    count: int,
    measure: str,
    tolerance: float,
    callback: Callback | None,
    progress: bool,
    interrupted: Callable[[], bool],
    run: Run,
) -> tuple[list[dict[str, Any]], Status]:
    """Run up to ``count`` sweeps; returns the history and why they ended.

    Parameters
    ----------
    sweep : callable
        Does one sweep, all or nothing, and returns its record, which holds ``measure``.
    result : callable
        Makes Factors of the last complete sweep, for the callback and for errors.
    measure : str
        What the tolerance watches: stop once it falls by less than ``tolerance`` times itself.
    run : Run
        Its history is gone on with, and it saves the state after a sweep.

    Raises
    ------
    SolverError
        From ``sweep``, with the number of the sweep and the last complete one's factors added.
    """
    history = run.history
    ended = Status.CONVERGED if _converged(history, measure, tolerance) else None
    with tqdm(total=count, initial=len(history), disable=not progress, unit="sweep") as bar:
        while ended is None and len(history) < count:
            started = time.perf_counter()
            try:
                record = {"iteration": len(history) + 1, **sweep()}
            except Interrupted:
                ended = Status.INTERRUPTED
                break
            except SolverError as error:
                message = f"sweep {len(history) + 1}: {error}"
                raise SolverError(message, result(history, Status.MAX_ITERATIONS)) from None
            record["seconds"] = time.perf_counter() - started
            history.append(record)
            bar.set_postfix({measure: f"{record[measure]:.6g}"}, refresh=False)
            bar.update()
            if callback and not _call(callback, record, result, history):
                ended = Status.STOPPED
            elif interrupted():
                ended = Status.INTERRUPTED
            elif _converged(history, measure, tolerance):
                ended = Status.CONVERGED
            run.swept(history)
    run.swept(history, last=True)
    return history, ended or Status.MAX_ITERATIONS


def _converged(history: list[dict[str, Any]], measure: str, tolerance: float) -> bool:
    """Whether the last sweep lowered the measure by less than the tolerance asks for."""
    if not tolerance or len(history) < 2:
        return False
    before, now = history[-2][measure], history[-1][measure]
    return before - now < tolerance * abs(before)


def _call(
    callback: Callback,
    record: dict[str, Any],
    result: Callable[[list[dict[str, Any]], Status], Factors],
    history: list[dict[str, Any]],
) -> bool:
    """Call the callback; False if it raised StopIteration."""
    view = FactorsView(lambda: result(history, Status.MAX_ITERATIONS))
    try:
        callback(record, view)
    except StopIteration:
        return False
    finally:
        view.expire()
    return True
