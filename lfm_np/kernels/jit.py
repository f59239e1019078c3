"""How kernels are compiled and run on threads. The only module with compiler options.

`jit` compiles a kernel: without the GIL, with the fast-math flags that keep NaN checks alive, and with a cache on disk
that an edit to any file of ``kernels/`` invalidates. `Pool` runs a kernel over row blocks.
"""

from __future__ import annotations

import contextlib
import functools
import os
import queue
import threading
from collections.abc import Callable, Generator, Iterator
from typing import Any, TypeVar

import numba
from llvmlite.binding import ffi as llvm
from numba.core import config
from numba.core.compiler_lock import global_compiler_lock
from threadpoolctl import ThreadpoolController

from lfm_np.kernels.cache import KernelCache
from lfm_np.quiet import quietly
from lfm_np.signals import signals_held

JIT_DISABLED = bool(config.DISABLE_JIT)
STACK = 8 << 20  # bytes of a helper's stack at least, as a main thread has: with 64 KiB LLVM ends the process

# "nnan" and "ninf" are left out on purpose: they delete the checks that find a failed factorisation.
FASTMATH = {"nsz", "arcp", "contract", "reassoc"}

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")


def jit(function: F) -> F:
    """Compile a kernel: no GIL, IEEE division, NaN-safe fast math, cached on disk."""
    return _compile(function, FASTMATH)


def exact_jit(function: F) -> F:
    """`jit` without fast math: every operation rounds as it is written, also those of `simd`."""
    return _compile(function, False)


def _compile(function: F, fastmath: Any) -> F:
    dispatcher = numba.njit(nogil=True, fastmath=fastmath, error_model="numpy")(function)
    if not JIT_DISABLED:
        dispatcher._cache = KernelCache(function)
        dispatcher._compile_for_args = _whole(dispatcher._compile_for_args)
    return dispatcher


def _whole(work: F) -> F:
    """``work`` that compiles or loads kernels, and is not left in the middle."""

    @functools.wraps(work)
    def call(*args: Any, **keywords: Any) -> Any:
        with signals_held(), global_compiler_lock:  # so that nothing forks meanwhile
            return work(*args, **keywords)

    return call  # type: ignore[return-value]


def inlined(function: F) -> F:
    """Compile a helper into every kernel that calls it. A call would push some eight words per array argument."""
    return numba.njit(nogil=True, fastmath=FASTMATH, error_model="numpy", forceinline=True)(function)


def jit_private(function: F) -> F:
    """Compile a function that only compiled code calls: a method of a loss. Never cached; arithmetic as written."""
    return numba.njit(nogil=True, error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)(function)


def jit_pointer(signature: Any, function: Callable[..., Any]) -> Any:
    """``function`` as a C function for kernels to call by its ``address``, compiled now and never cached."""
    return function if JIT_DISABLED else _whole(numba.cfunc(signature, error_model="numpy"))(function)


def exact_inlined(function: F) -> F:
    """`inlined` without fast math."""
    return numba.njit(nogil=True, error_model="numpy", forceinline=True)(function)


# ---- threads --------------------------------------------------------------------------------------------------------

_blas_lock = threading.RLock()  # for a handler of a signal that forks
_blas_users: dict[object, int] = {}  # the thread of each use that goes on
_blas_before: list[tuple[Any, int]] = []  # the libraries and their threads, while there are users


@functools.cache
def _blas() -> ThreadpoolController:
    return ThreadpoolController()  # finding the libraries takes milliseconds, so once a process


@contextlib.contextmanager
def single_threaded_blas() -> Iterator[None]:
    """One BLAS thread inside, the user's setting back afterwards, also when several fits overlap.

    Our blocks are the parallelism: BLAS threads on top oversubscribe the cores, and their number would change the
    rounding.
    """
    use = object()
    try:
        with _blas_lock:
            _blas_users[use] = threading.get_ident()
            _limit_blas()
        yield
    finally:
        try:
            _end_of_use(use)
        except BaseException:  # a handler raised in the middle
            _end_of_use(use)
            raise


def _end_of_use(use: object) -> None:
    with _blas_lock:
        _blas_users.pop(use, None)
        _restore_blas()


def _limit_blas() -> None:
    if not _blas_before:
        _disown_blas()
        libraries = [library for library in _blas().lib_controllers if library.user_api == "blas"]
        # One that has one thread is left alone: in a fork OpenBLAS would start all of its threads at a word.
        _blas_before.extend([(library, n) for library in libraries if (n := library.num_threads) != 1])
        for library, _ in _blas_before:
            library.set_num_threads(1)
        _disown_blas()


def _restore_blas() -> None:
    if not _blas_users and _blas_before:
        _disown_blas()
        for library, threads in _blas_before:
            library.set_num_threads(threads)
        _disown_blas()
        _blas_before.clear()


def _disown_blas() -> None:
    """Let any thread set the number of BLAS threads.

    From threadpoolctl 3.8 on, the first thread to set OpenBLAS's keeps the right to, and what others set is ignored:
    of two overlapping fits, the one that ends last could not restore what the first has set.
    """
    for library in _blas().lib_controllers:
        getattr(library, "clear_controlling_thread", lambda force: None)(force=True)


_at_fork: dict[int, contextlib.ExitStack] = {}  # what each thread that is forking holds


def _before_fork() -> None:
    """Fork between compilations, not within one: the child would wait for a lock of a thread that it does not have.

    LLVM's lock is also taken without the compiler's: by what frees compiled code.
    """
    with contextlib.ExitStack() as stack:
        for held in signals_held(), global_compiler_lock, llvm.lib._lock, _blas_lock:
            stack.enter_context(held)
        _at_fork[threading.get_ident()] = stack.pop_all()


def _after_fork() -> None:
    if stack := _at_fork.pop(threading.get_ident(), None):
        stack.close()


def _after_fork_in_child() -> None:
    """Only the thread that forked is here: what the others asked for is over."""
    for use in [use for use, thread in _blas_users.items() if thread != threading.get_ident()]:
        del _blas_users[use]
    _restore_blas()
    _after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork_in_child)


class Interrupted(BaseException):
    """`Pool.run` ended early because ``stop()`` said so."""


class _Task:
    """One `Pool.run`: its blocks, handed out in order, and the first exception, which ends it."""

    def __init__(self, work: Callable[[int, int], None], count: int, stop: Callable[[], bool]) -> None:
        self._work, self._blocks, self._stop, self._lock = work, iter(range(count)), stop, threading.Lock()
        self.error: BaseException | None = None
        self.helped: queue.SimpleQueue[None] = queue.SimpleQueue()  # one item of each helper that is done

    def drain(self, worker: int) -> None:
        """Take blocks while there are any.

        What NumPy is set to say of overflow and underflow holds in the calling thread only, and so not here: what comes
        out is checked to be finite.
        """
        quietly(self._take, worker)

    def _take(self, worker: int) -> None:
        try:
            while self.error is None:
                with self._lock:
                    block = next(self._blocks, None)
                if block is None:
                    return
                if self._stop():
                    raise Interrupted
                self._work(block, worker)
        except BaseException as error:
            self.error = self.error or error

    def raise_error(self) -> None:
        found, self.error = self.error, None
        if found is not None:
            try:
                raise found
            finally:
                del found  # its traceback holds this frame, and with it arrays


class Pool:
    """Threads that run ``work(block, worker)`` for every block, handed out in order.

    Which worker runs a block is up to the scheduler, so a result may depend on ``block`` only; ``worker`` (0 to
    ``num_threads`` − 1) is there to pick scratch memory. The first exception stops the hand-out and is raised in the
    caller. ``stop`` is asked before every block, and `Interrupted` raised when it returns True. Use as a context
    manager; no thread outlives it.

    Not a ThreadPoolExecutor: that refuses work once the main thread has ended, though others go on, and its threads
    keep the interpreter from exiting.
    """

    def __init__(self, num_threads: int, stop: Callable[[], bool] = lambda: False) -> None:
        self.num_threads = num_threads
        self._stop = stop
        self._helpers: list[_Helper] = []
        self._tasks: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        self._process = os.getpid()

    def __enter__(self) -> Pool:
        self._life = _life(self._helpers)
        next(self._life)
        return self

    def __exit__(self, *error: Any) -> None:
        self._life.close()

    def run(self, work: Callable[[int, int], None], count: int) -> None:
        """Call ``work(block, worker)`` for block = 0 … count − 1 and wait for all of them."""
        task = _Task(work, count, self._stop)
        try:
            self._finish(task, self._hand_out(task, min(self.num_threads, count) - 1))
        except BaseException as error:  # Ctrl-C outside of a block: the helpers end after theirs
            task.error = error
            raise
        task.raise_error()

    def begin(self, work: Callable[[], T]) -> Callable[[], T]:
        """Have a helper call ``work()`` meanwhile. The function returned gives what that returned or raised."""
        found: list[T] = []
        task = _Task(lambda block, worker: found.append(work()), 1, self._stop)
        helpers = self._hand_out(task, 1)

        def result() -> T:
            self._finish(task, helpers)
            task.raise_error()
            return found.pop()

        return result

    def _hand_out(self, task: _Task, wanted: int) -> int:
        helpers = self._start_helpers(wanted)
        for _ in range(helpers):
            self._tasks.put(task)
        return helpers

    def _finish(self, task: _Task, helpers: int) -> None:
        task.drain(0)  # the calling thread works too; a signal reaches it between two blocks
        for _ in range(helpers):
            task.helped.get()  # not a semaphore: a handler that raises within its Python code breaks it

    def _start_helpers(self, wanted: int) -> int:
        """How many threads help, of those wanted. Where no more can be started, fewer do, to the same bits."""
        if self._process != os.getpid():  # a fork, by a callback, has only the thread that forked
            self._helpers.clear()
            self._tasks, self._process = queue.SimpleQueue(), os.getpid()
        if len(self._helpers) < wanted:
            with signals_held():
                self._start(wanted)
        return min(max(wanted, 0), len(self._helpers))

    def _start(self, wanted: int) -> None:
        with _room_for_stacks():
            while len(self._helpers) < wanted:
                helper = _Helper(len(self._helpers) + 1, self._tasks)
                try:
                    helper.start()
                except RuntimeError:  # the process may have no more threads, or the interpreter is ending
                    break
                self._helpers.append(helper)


@contextlib.contextmanager
def _room_for_stacks() -> Iterator[None]:
    """Threads that start inside have the room that a compiler takes, though the program asks for less in its own."""
    with _blas_lock:  # of two at once the one would end within the other; forks wait for this one
        before = threading.stack_size()  # and now it is 0: the system's own
        try:
            if before:
                threading.stack_size(max(before, STACK))
            yield
        finally:
            threading.stack_size(before)


def _life(helpers: list[_Helper]) -> Generator[None, None, None]:
    """Of a pool: one BLAS thread, and no helpers afterwards.

    A generator ends also when it is freed, where a handler raised before ``__exit__`` could begin. (``__del__`` would
    run for every pool, and lose what a handler raises in it.)
    """
    with single_threaded_blas():
        try:
            yield
        finally:
            try:
                _end(helpers)
            except BaseException:
                _end(helpers)
                raise


def _end(helpers: list[_Helper]) -> None:
    if not helpers:
        return
    for tasks in [helper.tasks for helper in helpers]:
        tasks.put(None)
    with signals_held():  # Python code runs when a thread is freed, and would lose what a handler raises
        while helpers:
            helpers[-1].join()
            helpers.pop()


class _Helper(threading.Thread):
    """Runs blocks of tasks until it gets None."""

    def __init__(self, worker: int, tasks: queue.SimpleQueue[_Task | None]) -> None:
        super().__init__(name="lfm_np", daemon=True)
        self.worker, self.tasks = worker, tasks

    def run(self) -> None:
        while (task := self.tasks.get()) is not None:
            task.drain(self.worker)
            task.helped.put(None)
            del task
