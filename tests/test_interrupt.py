"""Ctrl-C: the last whole sweep, or KeyboardInterrupt where asked, and nothing left behind."""

import contextlib
import dis
import gc
import itertools
import os
import queue
import shutil
import signal
import sys
import threading
from concurrent import futures
from pathlib import Path

import numba
import numpy as np
import pytest
import threadpoolctl

import lfm_np
from lfm_np import atomic, persistence, signals
from lfm_np.kernels import jit
from lfm_np.stored import sides
from tests.optional import require

SOLVERS = ("als", "sgd", "torch als", "torch sgd")


@pytest.fixture(params=SOLVERS)
def solver(request):
    """``fit(sweeps, **options)`` of one of the four solvers on a small matrix."""
    side, name = request.param.rpartition(" ")[::2]
    if side:
        require("torch")
    function = getattr(lfm_np.torch_backend if side else lfm_np, name)
    X = lfm_np.to_csr(lfm_np.datasets.make_interactions(300, 40, 4, random_state=0), shape=(300, 40))
    count = "iterations" if name == "als" else "epochs"

    def fit(sweeps, **options):
        return function(X, **{"factors": 4, count: sweeps, "random_state": 0, "num_threads": 2} | options)

    return fit


def press(record, factors):
    if record["iteration"] == 2:
        signal.raise_signal(signal.SIGINT)


def test_ctrl_c_gives_the_last_whole_sweep(solver):
    found = solver(50, callback=press)
    assert (found.status, len(found.history)) == (lfm_np.Status.INTERRUPTED, 2)
    np.testing.assert_array_equal(found.item_factors, solver(2).item_factors)


def test_raise_on_interrupt_raises_and_keeps_the_checkpoint(solver, tmp_path):
    path = lfm_np.Checkpoint(tmp_path / "fit", every=1000.0)
    with pytest.raises(KeyboardInterrupt):
        solver(50, callback=press, raise_on_interrupt=True, checkpoint=path)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    resumed = solver(2, checkpoint=path)
    assert [record["iteration"] for record in resumed.history] == [1, 2]
    np.testing.assert_array_equal(resumed.item_factors, solver(2).item_factors)


@pytest.mark.parametrize("options", [{}, {"progress": True}, {"callback": press}], ids=["plain", "progress", "ctrl-c"])
def test_no_thread_is_left(solver, options, capsys):
    before = threading.enumerate()
    solver(3, **options)
    assert threading.enumerate() == before


def test_what_is_no_bool_is_refused(solver):
    with pytest.raises(TypeError, match="raise_on_interrupt must be True or False, got 1"):
        solver(1, raise_on_interrupt=1)


def test_a_press_when_the_fit_is_over_raises(tmp_path, monkeypatch):
    """At every line of Python that is run once Ctrl-C raises again; the checkpoint has all sweeps by then."""
    X = lfm_np.to_csr(lfm_np.datasets.make_interactions(60, 40, 4, random_state=0), shape=(60, 40))
    options = {"factors": 4, "iterations": 2, "random_state": 0, "num_threads": 2}
    whole, lost = lfm_np.als(X, **options), []
    monkeypatch.setattr(sys, "unraisablehook", lambda found: lost.append(found.object))  # of code that cannot raise

    def pressed_at(line):
        """How many lines of Python were run after the fit."""
        path, ran, last = tmp_path / str(line), 0, False

        def trace(frame, event, arg):
            nonlocal ran
            if last and event == "line" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
                ran += 1
                if ran == line:
                    signal.raise_signal(signal.SIGINT)
            return trace

        def callback(record, factors):
            nonlocal last
            last = record["iteration"] == options["iterations"]

        before = sys.gettrace()
        sys.settrace(trace)
        try:
            lfm_np.als(X, **options, callback=callback, checkpoint=lfm_np.Checkpoint(path, every=1000.0))
        except KeyboardInterrupt:
            sys.settrace(before)
            found = lfm_np.als(X, **options, checkpoint=path)
            np.testing.assert_array_equal(found.item_factors, whole.item_factors)
        else:
            assert line is None, f"line {line}: Ctrl-C vanished in {lost}"
        finally:
            sys.settrace(before)
        return ran

    lines = pressed_at(None)
    assert lines
    for line in range(1, lines + 1):
        pressed_at(line)


class Anywhere(BaseException):
    """What a handler of a signal raises."""


LOOKS = {"CALL", "CALL_FUNCTION_EX", "CALL_KW", "JUMP_BACKWARD", "RESUME"}  # after these, Python looks for signals


def raised_at(event, files, work):
    """Call ``work`` and raise at that moment of all at which these files hear of a signal; whether there was any."""
    count, last, handler = itertools.count(), {}, lambda *_: None

    def trace(frame, kind, _):
        if frame.f_code.co_filename not in files:
            return None
        frame.f_trace_opcodes = True
        if kind == "opcode":
            before = last.get(frame)
            last[frame] = dis.opname[frame.f_code.co_code[frame.f_lasti]]
            held = signal.getsignal(signal.SIGTERM) is not handler
            if before in LOOKS and not held and next(count) == event:
                raise Anywhere
        return trace

    before, own = sys.gettrace(), signal.signal(signal.SIGTERM, handler)
    sys.settrace(trace)
    try:
        work()
    except Anywhere:
        return True
    finally:
        sys.settrace(before)
        last.clear()
        signal.signal(signal.SIGTERM, own)
    return False


def test_an_exception_at_any_moment_of_a_pool_leaves_nothing_behind():
    """As of a handler of SIGALRM: BLAS's threads, Python's handlers and the helpers are as before."""

    def work():
        with jit.Pool(2) as pool:
            pool.run(lambda block, worker: None, 3)

    def around():
        for thread in threading.enumerate():
            if thread.name == "lfm_np":
                thread.join(5)
        blas = [library.num_threads for library in jit._blas().lib_controllers if library.user_api == "blas"]
        return blas, signal.getsignal(signal.SIGINT), [thread.name for thread in threading.enumerate()]

    work()
    with threadpoolctl.threadpool_limits(2, "blas"):
        before = around()
        for event in itertools.count():
            raised = raised_at(event, {jit.__file__, signals.__file__}, work)
            if any(thread.name == "lfm_np" for thread in threading.enumerate()):
                gc.collect()  # the exception and the frames that it left refer to one another
            assert around() == before, event
            if not raised:
                break
    assert event > 40


def call_of(name):
    """A call of each kind that has NumPy ignore what overflows, and one of NumPy's linear algebra."""
    X = lfm_np.to_csr(lfm_np.datasets.make_interactions(60, 40, 4, random_state=0), shape=(60, 40))
    factors = lfm_np.als(X, factors=4, iterations=1, random_state=0)
    return {
        "als": lambda: lfm_np.als(X, factors=4, iterations=1, random_state=0, num_threads=1),
        "sgd": lambda: lfm_np.sgd(X, factors=4, epochs=1, random_state=0, num_threads=1),
        "objective": lambda: lfm_np.objective(X, factors),
        "fold_in": lambda: factors.fold_in_users(X),
        "recommend": lambda: factors.recommend(range(60), N=3),
        "explain": lambda: factors.explain(3, 5, X),
        "Factors": lambda: lfm_np.Factors(factors.user_factors, factors.item_factors),
    }[name]


@pytest.mark.skipif(np.lib.NumpyVersion(np.__version__) < "2.0.0", reason="its errstate is not of a context")
@pytest.mark.parametrize("name", ["als", "sgd", "objective", "fold_in", "recommend", "explain", "Factors"])
def test_an_exception_where_numpy_changes_what_it_says_of_errors_leaves_that_as_it_was(name):
    work, files = call_of(name), {np.errstate.__enter__.__code__.co_filename}
    with np.errstate(over="raise", under="warn"):
        work()
        before = np.geterr(), np.geterrcall()
        for event in itertools.count():
            raised = raised_at(event, files, work)
            assert (np.geterr(), np.geterrcall()) == before, event
            if not raised:
                break
    assert event > 2


@pytest.mark.parametrize("name", ["als", "sgd", "recommend"])
def test_an_exception_within_numba_leaves_as_what_it_is(name):
    """Numba runs Python code where a kernel takes a function, and loses what a handler raises in it."""
    work, files = call_of(name), set(map(str, Path(numba.__file__).parent.rglob("*.py")))
    work()
    for event in itertools.count():
        if not raised_at(event, files, work):
            break


def test_an_exception_while_a_stored_matrix_is_read_ahead_leaves_as_what_it_is_and_no_thread(tmp_path):
    """A future's condition would make a RuntimeError of it, or hang."""
    X = lfm_np.to_csr(lfm_np.datasets.make_interactions(60, 40, 4, random_state=0), shape=(60, 40))
    stored = lfm_np.StoredMatrix.from_matrix(X, tmp_path / "stored")
    files = {sides.__file__, threading.__file__, queue.__file__, *map(str, Path(futures.__file__).parent.glob("*.py"))}
    before = threading.enumerate()
    for event in itertools.count():
        raised = raised_at(event, files, lambda: lfm_np.als(stored, factors=4, iterations=1, num_threads=1))
        gc.collect()
        assert threading.enumerate() == before
        if not raised:
            break
    assert event > 50


def folder_of(name, folder):
    """A call of each kind that writes or reads files, and what the folder may hold afterwards."""
    X = lfm_np.to_csr(lfm_np.datasets.make_interactions(60, 40, 4, random_state=0), shape=(60, 40))
    old, new = (lfm_np.als(X, factors=4, iterations=1, random_state=seed) for seed in range(2))
    old.save(folder / "old")
    return {
        "save": lambda: new.save(folder / "new"),
        "load": lambda: lfm_np.Factors.load(folder / "old"),
        "load, mapped": lambda: lfm_np.Factors.load(folder / "old", mmap=True),
        "StoredMatrix.from_matrix": lambda: lfm_np.StoredMatrix.from_matrix(X, folder / "new"),
    }[name]


def descriptors():
    gc.collect()  # the exception and the frames that it left refer to one another
    paths = [f"/proc/self/fd/{number}" for number in os.listdir("/proc/self/fd")]
    return sorted((path, os.readlink(path)) for path in paths if os.path.lexists(path))


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="needs a list of the open files")
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("name", ["save", "load", "load, mapped", "StoredMatrix.from_matrix"])
def test_an_exception_at_any_moment_of_files_leaves_nothing_open_and_nothing_half_done(name, tmp_path, request):
    work, before = folder_of(name, tmp_path), descriptors()
    gc.freeze()  # what is there already need not be looked at hundreds of times
    request.addfinalizer(gc.unfreeze)
    for event in itertools.count():
        raised = raised_at(event, {atomic.__file__, persistence.__file__, contextlib.__file__}, work)
        assert descriptors() == before, event
        assert set(os.listdir(tmp_path)) <= {"old", "new"}, event
        new = tmp_path / "new"
        if name == "save" and new.exists():
            lfm_np.Factors.load(new)
            new.unlink()
        elif new.exists():
            assert lfm_np.StoredMatrix(new).nnz
            shutil.rmtree(new)
        if not raised:
            break
    assert event > 50


def test_held_signals_reach_their_handlers_at_the_end_or_the_second_time():
    heard = []
    before = signal.signal(signal.SIGINT, lambda number, frame: heard.append(number))
    try:
        ours = signal.getsignal(signal.SIGINT)
        with signals.signals_held():
            signal.raise_signal(signal.SIGINT)
            assert heard == []
        assert heard == [signal.SIGINT]
        with signals.signals_held():
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
            assert heard == [signal.SIGINT] * 2
        assert heard == [signal.SIGINT] * 2
        assert signal.getsignal(signal.SIGINT) is ours
    finally:
        signal.signal(signal.SIGINT, before)


def test_held_signals_keep_those_that_are_ignored_and_raise_after_what_was_held():
    done = []

    def press():
        with signals.signals_held():
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGINT)
            done.append("all of the block")

    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with pytest.raises(KeyboardInterrupt):
            press()
        assert done
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)
