"""What a handler of a signal raises leaves a call at any moment as what it is, and everything else as it was."""

import contextlib
import functools
import gc
import itertools
import os
import signal
import sys
import weakref
from collections import Counter
from pathlib import Path

import llvmlite
import numba
import numpy as np
import pytest
import threadpoolctl

import lfm_np
from lfm_np import atomic, paths, persistence, signals, sweeps
from lfm_np.kernels import jit, simd
from tests import moments
from tests.optional import require

pytestmark = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning", "ignore::RuntimeWarning"
)
NUMBA = str(Path(numba.__file__).parent)
ERRSTATE = np.errstate.__enter__.__code__.co_filename


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder and the calls that use it."""
    require("pyarrow")
    folder = tmp_path_factory.mktemp("moments")
    return folder, moments.calls(folder)


def needs(name):
    if name.startswith("torch"):
        require("torch")
    if name == "scikit-learn":
        require("sklearn")


def test_the_first_moment_is_noticed_and_a_lost_exception_too(tmp_path):
    def deaf():
        with contextlib.suppress(OSError):
            atomic.check_place(tmp_path / "new")

    tried, found = moments.faults(deaf, tmp_path)
    assert tried > 50
    assert len(found) == tried
    assert all(fault.endswith(": lost") for fault in found)


NAMES = [
    *("als", "als, ratings", "als, cg", "als, subspace", "als, stored", "als, checkpoint", "sgd", "sgd, softmax"),
    *("losses.check", "objective", "recommend", "recommend, new", "similar_items", "fold_in_users", "explain"),
    *("evaluate", "to_csr", "from_csv", "from_csv, folder", "from_parquet", "from .npz", "split", "recommend_parquet"),
    *("save", "load", "load, mapped", "scikit-learn", "StoredMatrix.from_matrix", "StoredMatrix.from_parquet"),
    *("torch als", "torch sgd"),
]


@pytest.mark.parametrize("name", NAMES)
def test_some_moments_of_every_call(place, name):
    """All of them by ``python -m tests.moments``."""
    folder, calls = place
    needs(name)
    assert sorted(calls) == sorted(NAMES) or not {"torch als", "scikit-learn"} <= set(calls)
    tried, found = moments.faults(calls[name], folder, first=len(name), step=197)
    assert found == []
    assert tried


def test_all_moments_of_a_pool(tmp_path):
    def work():
        with jit.Pool(2) as pool:
            pool.run(lambda block, worker: None, 3)
            assert pool.begin(lambda: 3)() == 3

    files = {jit.__file__, signals.__file__}
    with threadpoolctl.threadpool_limits(2, "blas"):
        tried, found = moments.faults(work, tmp_path, files.__contains__)
    assert found == []
    assert tried > 40


@pytest.mark.parametrize("name", ["als", "sgd", "recommend"])
def test_all_moments_at_which_handlers_are_put_in_their_places(place, name):
    """One was lost: that of SIGINT, of a fit whose end another signal disturbed."""
    folder, calls = place
    files = signals.__file__, sweeps.__file__, signal.__file__
    tried, found = moments.faults(calls[name], folder, counts=lambda file: file in files)
    assert found == []
    assert tried > 30


@pytest.mark.parametrize("name", ["als", "sgd", "objective", "fold_in_users", "explain", "load", "scikit-learn"])
def test_all_moments_at_which_numpy_changes_what_it_says_of_errors(place, name):
    if np.lib.NumpyVersion(np.__version__) < "2.0.0":
        pytest.skip("errstate does not belong to a context")
    needs(name)
    folder, calls = place
    with np.errstate(over="raise", under="warn"):
        tried, found = moments.faults(calls[name], folder, ERRSTATE.__eq__)
    assert found == []
    assert tried > 2


def test_all_moments_within_numba(place):
    """It runs Python code where a kernel takes a function, and loses what is raised there."""
    folder, calls = place
    assert moments.faults(calls["sgd"], folder, lambda file: file.startswith(NUMBA))[1] == []


def test_all_moments_at_which_the_processor_is_asked_what_it_can(place):
    """llvmlite would free its answer twice, which ends the process."""
    folder, calls = place

    def work():
        simd.has_dot_bytes.cache_clear()
        calls["recommend, new"]()

    files = NUMBA, str(Path(llvmlite.__file__).parent), simd.__file__
    tried, found = moments.faults(work, folder, lambda file: file.startswith(files))
    assert found == []
    assert tried


OF_FILES = {module.__file__ for module in (atomic, paths, persistence)}
OF_PATHS = "posixpath", "genericpath", "pathlib", "shutil", "zipfile"  # they take any OSError for a "no"


@pytest.mark.parametrize("name", ["save", "load", "StoredMatrix.from_matrix"])
def test_all_moments_of_files(place, name):
    folder, calls = place
    tried, found = moments.faults(calls[name], folder, OF_FILES.__contains__)
    assert found == []
    assert tried > 20


@pytest.mark.parametrize(
    "name", ["save", "load", "als, checkpoint", "from_csv, folder", "from .npz", "recommend_parquet"]
)
def test_all_moments_of_looking_at_files(place, name):
    folder, calls = place
    tried, found = moments.faults(calls[name], folder, lambda file: any(part in file for part in OF_PATHS))
    assert found == []
    assert tried > 3


def test_all_moments_of_reading_ahead(place):
    """A future's condition would make a RuntimeError of it, or hang."""
    folder, calls = place
    files = "threading.py", "queue.py", f"concurrent{os.sep}futures", f"stored{os.sep}sides.py"
    tried, found = moments.faults(calls["als, stored"], folder, lambda file: any(part in file for part in files))
    assert found == []
    assert tried > 50


FITS = "als", "als, stored", "sgd", "torch als", "torch sgd"


@pytest.mark.parametrize("name", FITS)
def test_ctrl_c_is_heard_at_any_moment(place, name, monkeypatch):
    """The last whole sweep, or KeyboardInterrupt before the first and when the fit is over. Never the next line."""
    needs(name)
    lost = []
    monkeypatch.setattr(sys, "unraisablehook", lambda found: lost.append(found.object))  # of code that cannot raise
    folder, calls = place
    whole = {}

    def note(record, factors):
        whole[record["iteration"]] = factors.item_factors.copy()

    calls[name](callback=note)
    before, ends = moments.surroundings(folder), Counter()
    for event in itertools.count(step=47):
        where, outcome = moments.at(event, moments.of_all, calls[name], press=True)
        if not where:
            break
        if not isinstance(outcome, KeyboardInterrupt):
            assert isinstance(outcome, lfm_np.Factors), (where, outcome)
            assert outcome.status is lfm_np.Status.INTERRUPTED, (where, lost)
            if sweeps := len(outcome.history):
                np.testing.assert_array_equal(outcome.item_factors, whole[sweeps])
        ends[len(outcome.history) if isinstance(outcome, lfm_np.Factors) else "raised"] += 1
    gc.collect()
    assert moments.surroundings(folder) == before
    assert {0, 1, "raised"} <= set(ends)


@pytest.mark.parametrize("raising", [False, True])
@pytest.mark.parametrize("late", ["made", "closed"])
def test_ctrl_c_after_the_last_sweep_is_in_the_status_or_raises(monkeypatch, raising, late):
    """While the result is made, and when it is made."""
    X = lfm_np.to_csr(lfm_np.datasets.make_interactions(60, 40, 4, random_state=0), shape=(60, 40))
    owner, name = (lfm_np.als.__globals__["_State"], "result") if late == "made" else (jit.Pool, "__exit__")
    real, last = getattr(owner, name), []

    def press(*args, **keywords):
        if last:
            signal.raise_signal(signal.SIGINT)
        return real(*args, **keywords)

    monkeypatch.setattr(owner, name, press)

    def fit():
        return lfm_np.als(
            X, factors=4, iterations=2, raise_on_interrupt=raising,
            callback=lambda record, factors: last.append(1) if record["iteration"] == 2 else None,
        )  # fmt: skip

    if raising or late == "closed":
        with pytest.raises(KeyboardInterrupt):
            fit()
    else:
        found = fit()
        assert (found.status, len(found.history)) == (lfm_np.Status.INTERRUPTED, 2)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


class Watchdog:
    def bark(self, *_):
        raise moments.Late("too late")

    __call__ = bark


@pytest.mark.parametrize(
    "handler", [Watchdog().bark, Watchdog(), functools.partial(Watchdog.bark, None), lambda *_: Watchdog().bark()]
)
def test_what_a_handler_raises_is_no_error_of_a_file_however_it_is_written(handler, tmp_path, monkeypatch):
    path, check = tmp_path / "model", persistence._check_digest
    lfm_np.Factors(np.ones((2, 1)), np.ones((3, 1))).save(path)
    damaged = tmp_path / "damaged"
    damaged.write_bytes(path.read_bytes()[:-1] + b"!")
    before = signal.signal(signal.SIGTERM, handler)
    try:
        with pytest.raises(ValueError, match="damaged is not a whole and valid model file"):
            lfm_np.Factors.load(damaged)
        monkeypatch.setattr(persistence, "_check_digest", lambda *a: (signal.raise_signal(signal.SIGTERM), check(*a)))
        with pytest.raises(moments.Late):
            lfm_np.Factors.load(path)
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGQUIT"])
@pytest.mark.parametrize("held", [False, True])
def test_what_a_handler_raises_that_serves_once_or_another_signal(name, held):
    number = getattr(signal, name)

    def handler(*_):
        signal.signal(number, signal.SIG_DFL)
        raise moments.Late("too late")

    class Array:
        def __array__(self, *args, **keywords):
            with signals.signals_held() if held else contextlib.nullcontext():
                signal.raise_signal(number)
            return np.ones(3)

    before = signal.signal(number, handler)
    try:
        with pytest.raises(moments.Late):
            lfm_np.validation.as_array("x", Array())
    finally:
        signal.signal(number, before)


@pytest.mark.parametrize("kind", ["epoch", "time", "file"])
def test_what_a_handler_raises_is_not_what_is_said_of_other_errors_of_its_kind(kind, tmp_path, monkeypatch):
    late = {"epoch": lfm_np.SolverError("late"), "time": ValueError("late"), "file": OSError(1, "late")}[kind]

    def handler(*_):
        raise late

    def rung(*_, **__):
        signal.raise_signal(signal.SIGTERM)
        return "2024"

    class Moment:
        __str__ = rung

    data = lfm_np.Interactions.from_arrays([0, 1], [0, 1], timestamps=np.array(["2023", "2024"], "M8[D]"))
    monkeypatch.setattr("lfm_np.sgd_plan.canonical", rung)
    monkeypatch.setattr(os, "fsync", rung)
    work = {
        "epoch": lambda: lfm_np.sgd(data, factors=2, epochs=1),
        "time": lambda: data.split("time", at=Moment()),
        "file": lambda: lfm_np.evaluation.most_popular(data).save(tmp_path / "m"),
    }[kind]
    before = signal.signal(signal.SIGTERM, handler)
    try:
        with pytest.raises(type(late)) as found:
            work()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert found.value is late


def test_what_is_looked_at_for_a_handler_is_freed_at_once():
    """A response that waited for the collector left its socket open."""

    class Held:
        pass

    def fails(held):
        raise ValueError

    def catches(held):
        try:
            fails(held)
        except ValueError as error:
            signals.pass_on(error)
        return weakref.ref(held)

    gc.disable()
    try:
        freed = catches(Held())
        assert freed() is None
    finally:
        gc.enable()


def test_what_others_do_with_their_arguments_makes_no_handler_of_them():
    def changed(first, *rest):
        first = rest = None
        raise ValueError(first, rest)

    def gone(first, *rest):
        del first, rest
        raise ValueError

    def another(*frames):
        raise ValueError

    for function in (changed, gone, another):
        try:
            function(sys._getframe().f_back, np.ones(3))
        except ValueError as error:
            signals.pass_on(error)
