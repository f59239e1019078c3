"""Python's signal handlers, held back for as long as an exception of theirs would do harm."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import functools
import inspect
import os
import signal
import threading
from types import CodeType, FrameType
from typing import Any

# Those of `signal` look for enums, and lose a ValueError on the way.
getsignal, set_signal = _signal.getsignal, _signal.signal

_NAMES = ("SIGINT", "SIGTERM", "SIGALRM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGVTALRM", "SIGPROF")
_NUMBERS = tuple(getattr(signal, name) for name in _NAMES if hasattr(signal, name))  # Windows has few


def in_main_thread() -> bool:
    """Whether this is the thread that runs handlers."""
    return threading.current_thread() is threading.main_thread() and _may_set_handlers()


@functools.cache
def _may_set_handlers() -> bool:
    """Asked in what `threading` takes for the main thread: before Python 3.13 the one that imported it first.

    That may be another where a program of another language embeds Python, and calls it from threads of its own.
    """
    number = next((number for number in _NUMBERS if getsignal(number) is not None), None)
    try:
        if number is not None:
            set_signal(number, getsignal(number))
    except ValueError as error:
        pass_on(error)
        return False
    return True


class signals_held:
    """Handlers of signals run when the block is done (in a fork too, but for what its parent got); at a second signal
    of the same number, at once.

    A handler may raise (KeyboardInterrupt, the TimeoutError of a watchdog) between any two instructions of the main
    thread: within llvmlite, which then frees memory twice; where an object is freed, which loses the exception; or
    before what was changed of the process is noted, so that nobody changes it back.
    """

    def __init__(self) -> None:
        self._handlers: dict[int, Any] = {}
        self._came: list[int] = []
        self._process, self._thread = os.getpid(), threading.get_ident()

    def __enter__(self) -> None:
        if not in_main_thread():
            return
        try:
            for number in _NUMBERS:
                handler = getsignal(number)
                if callable(handler):
                    self._handlers[number] = handler
                    set_signal(number, self._note)
        except BaseException:
            self._give_back()
            raise

    def __exit__(self, *error: Any) -> None:
        self._give_back()
        while self._came and self._process == os.getpid():
            number = self._came.pop(0)
            self._handlers[number](number, None)
        self._handlers.clear()

    def _note(self, number: int, frame: Any) -> None:
        if threading.get_ident() != self._thread:  # forked by another thread: here the block never ends
            self._handlers[number](number, frame)
        elif number in self._came:
            self._came.remove(number)
            self._handlers[number](number, frame)
        else:
            self._came.append(number)

    def _give_back(self) -> None:
        """Also when a handler that is back already raises."""
        done: set[int] = set()
        try:
            for number, handler in self._handlers.items():
                set_signal(number, handler)
                done.add(number)
        finally:
            for number in self._handlers.keys() - done:
                set_signal(number, self._handlers[number])


def pass_on(error: BaseException) -> None:
    """Raise it once more if the handler of a signal raised it, and not the code that was interrupted: for `except`
    clauses of kinds that a handler's exception may be of."""
    # By its code, as it may have dropped its arguments; or by these.
    codes = {signals_held.__exit__.__code__, *(_code(getsignal(number)) for number in _NUMBERS)}
    caught = error.__traceback__
    step = caught and caught.tb_next  # to look at the locals of who caught it would tie them to the error: a cycle
    while step is not None:
        if step.tb_frame.f_code in codes or _got_the_frame_before(step.tb_frame):
            raise error
        step = step.tb_next


def _got_the_frame_before(frame: FrameType) -> bool:
    """As Python calls handlers: also one of another signal, or that has put another in its place before it raised."""
    arguments, rest, _, values = inspect.getargvalues(frame)
    given = [values.get(name) for name in arguments]
    if isinstance(more := values.get(rest or ""), tuple):
        given += more
    return any(value is frame.f_back for value in given if value is not None)


def _code(handler: Any) -> CodeType | None:
    """What Python runs for a function, a method, a partial or an object that can be called."""
    while isinstance(handler, functools.partial):
        handler = handler.func
    function = getattr(handler, "__func__", handler)
    if not hasattr(function, "__code__"):
        function = type(function).__call__ if callable(function) else None
    return getattr(function, "__code__", None)
