"""What every iterative solver does around its sweeps: history, callback, tolerance, progress, Ctrl-C."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from tqdm import tqdm

from lfm_np.checkpoint import Run
from lfm_np.errors import SolverError
from lfm_np.factors import Factors, Status
from lfm_np.kernels.jit import Interrupted
from lfm_np.signals import getsignal, in_main_thread, pass_on, set_signal, signals_held
from lfm_np.validation import check_bool, check_callback, check_float, check_int

Callback = Callable[[dict[str, Any], Factors], Any]

_FIELDS = frozenset(field.name for field in dataclasses.fields(Factors))


class FactorsView(Factors):
    """What a callback sees: Factors that are computed when first looked at, which must be while the callback runs."""

    def __new__(cls, *make: Callable[[], Factors], **fields: Any) -> Any:
        """A view; of ``fields``, as `dataclasses.replace` and so folding in give them, Factors as everywhere."""
        return Factors(**fields) if fields else super().__new__(cls)

    def __init__(self, make: Callable[[], Factors]) -> None:
        object.__setattr__(self, "_make", make)

    def __getattribute__(self, name: str) -> Any:
        if name in _FIELDS and (make := (own := object.__getattribute__(self, "__dict__")).get("_make")):
            factors = make()
            own.update({field: getattr(factors, field) for field in _FIELDS})
            own.pop("_make", None)  # afterwards: another thread would find the defaults of the class meanwhile
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


class CtrlC:
    """Called, tells whether Ctrl-C was pressed. Until ``noting``, there is nothing to return, and a press raises.

    ``around``: that of the fit within whose callback this one runs, which is the one that is pressed. One that was
    pressed before this fit is prepared does not stop it then, but at its first sweep.
    """

    def __init__(self, around: CtrlC | None = None) -> None:
        self.noting = self._pressed = self._said = False
        self._outermost: CtrlC = self if around is None else around._outermost

    def __call__(self) -> bool:
        return self.noting and self._outermost._pressed

    def press(self, signum: int, frame: Any) -> None:
        """Note the first press; raise KeyboardInterrupt at the second."""
        if self._pressed or not self.noting:
            raise KeyboardInterrupt
        self._pressed = True

    def said_in(self, factors: Factors, raising: bool) -> Factors:
        """The result of a fit with a press in its status, also one that came after its last sweep."""
        pressed = self._outermost._said = self._outermost._pressed
        if not pressed or factors.status is Status.INTERRUPTED:
            return factors
        if raising:
            raise KeyboardInterrupt
        return dataclasses.replace(factors, status=Status.INTERRUPTED)

    @property
    def unsaid(self) -> bool:
        """Whether there was a press that nobody has heard of."""
        return self._pressed and not self._said


@contextlib.contextmanager
def sigint_noted() -> Iterator[CtrlC]:
    """Ctrl-C as `CtrlC` has it, in the main thread and where Python's own handler is in place.

    A program with a handler of its own keeps it. A fit within a callback heeds the presses of the fit around it: one
    ends both.
    """
    main = in_main_thread()
    handler = getsignal(signal.SIGINT) if main else None
    around = getattr(handler, "__self__", None)
    pressed = CtrlC(around if isinstance(around, CtrlC) else None)
    ours = main and handler is signal.default_int_handler
    try:
        if ours:
            set_signal(signal.SIGINT, pressed.press)
        yield pressed
    finally:
        if ours:
            try:
                set_signal(signal.SIGINT, signal.default_int_handler)
            except BaseException:  # a handler of another signal raised before it was done
                set_signal(signal.SIGINT, signal.default_int_handler)
                raise
    if ours and pressed.unsaid:
        raise KeyboardInterrupt


class Loop(NamedTuple):
    """The arguments of every solver that say how far its sweeps go."""

    name: str  # of ``limit``: "iterations" or "epochs"
    limit: int
    tolerance: float
    measure: str  # what the tolerance watches: stop once it falls by less than ``tolerance`` times itself
    callback: Callback | None
    progress: bool
    raise_on_interrupt: bool

    @property
    def params(self) -> dict[str, Any]:
        """What a result's params keep of it."""
        return {self.name: self.limit, "tolerance": self.tolerance}


def check_loop(
    name: str, limit: Any, tolerance: Any, measure: str, callback: Any, progress: Any, raise_on_interrupt: Any
) -> Loop:
    return Loop(
        name,
        check_int(name, limit, 1),
        check_float("tolerance", tolerance, 0.0),
        measure,
        check_callback(callback),
        check_bool("progress", progress),
        check_bool("raise_on_interrupt", raise_on_interrupt),
    )


def run_sweeps(
    loop: Loop,
    sweep: Callable[[], dict[str, Any]],
    result: Callable[[list[dict[str, Any]], Status], Factors],
    interrupted: CtrlC,
    run: Run,
) -> tuple[list[dict[str, Any]], Status]:
    """Run up to ``loop.limit`` sweeps; returns the history and why they ended.

    Parameters
    ----------
    sweep : callable
        Does one sweep, all or nothing, and returns its record, which holds ``loop.measure``.
    result : callable
        Makes Factors of the last complete sweep, for the callback and for errors.
    run : Run
        Its history is gone on with, and it saves the state after a sweep.

    Raises
    ------
    SolverError
        From ``sweep``, with the number of the sweep and the last complete one's factors added.
    KeyboardInterrupt
        Ctrl-C was pressed and ``loop.raise_on_interrupt``.
    """
    interrupted.noting = True
    history = run.history
    ended = Status.CONVERGED if _converged(loop, history) else None
    with _bar(loop, len(history)) as bar:
        while ended is None and len(history) < loop.limit:
            started = time.perf_counter()
            try:
                record = {"iteration": len(history) + 1, **sweep()}
            except Interrupted:
                ended = Status.INTERRUPTED
                break
            except SolverError as error:
                pass_on(error)
                message = f"sweep {len(history) + 1}: {error}"
                raise SolverError(message, result(history, Status.MAX_ITERATIONS)) from None
            record["seconds"] = time.perf_counter() - started
            history.append(record)
            if bar is not None:
                bar.set_postfix({loop.measure: f"{record[loop.measure]:.6g}"}, refresh=False)
                bar.update()
            if loop.callback is not None and not _call(loop.callback, record, result, history):
                ended = Status.STOPPED
            elif interrupted():
                ended = Status.INTERRUPTED
            elif _converged(loop, history):
                ended = Status.CONVERGED
            run.swept(history)
    run.swept(history, last=True)
    if ended is Status.INTERRUPTED and loop.raise_on_interrupt:
        raise KeyboardInterrupt
    return history, ended or Status.MAX_ITERATIONS


class _Bar(tqdm):
    """A progress bar without tqdm's monitor, a thread that would outlive the fit. No fit ends for want of a reader."""

    monitor_interval = 0

    def display(self, *args: Any, **keywords: Any) -> None:
        with signals_held(), contextlib.suppress(OSError, ValueError):  # not a watchdog's TimeoutError
            super().display(*args, **keywords)

    def close(self) -> None:
        with signals_held(), contextlib.suppress(OSError, ValueError):
            super().close()


def _bar(loop: Loop, done: int) -> contextlib.AbstractContextManager[_Bar | None]:
    """No bar at all without progress: even a disabled one starts the monitor, and takes a lock that forks inherit."""
    if not loop.progress or sys.stderr is None or getattr(sys.stderr, "closed", False):  # pythonw, daemons
        return contextlib.nullcontext()
    return _Bar(total=loop.limit, initial=done, unit="sweep")


def _converged(loop: Loop, history: list[dict[str, Any]]) -> bool:
    """Whether the last sweep lowered the measure by less than the tolerance asks for."""
    if not loop.tolerance or len(history) < 2:
        return False
    before, now = (record[loop.measure] for record in history[-2:])
    return before - now < loop.tolerance * abs(before)


def _call(
    callback: Callback,
    record: dict[str, Any],
    result: Callable[[list[dict[str, Any]], Status], Factors],
    history: list[dict[str, Any]],
) -> bool:
    """Call the callback; False if it raised StopIteration. The record keeps what it adds, not what it changes."""
    view, given = FactorsView(lambda: result(history, Status.MAX_ITERATIONS)), dict(record)
    try:
        callback(given, view)
    except StopIteration:
        return False
    finally:
        view.expire()
        record.update({name: value for name, value in given.items() if name not in record})
    return True
