"""Ctrl-C: the last whole sweep, or KeyboardInterrupt where asked, and nothing left behind."""

import contextlib
import signal
import threading

import numpy as np
import pytest

import lfm_np
from lfm_np import signals
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


@pytest.mark.parametrize("raising", [False, True])
def test_a_press_before_a_fit_of_the_callback_ends_both(solver, raising):
    inner = []

    def callback(record, view):
        press(record, view)
        if record["iteration"] == 2:
            inner.append(solver(5, raise_on_interrupt=raising))

    with pytest.raises(KeyboardInterrupt) if raising else contextlib.nullcontext():
        found = solver(50, callback=callback)
        assert (found.status, len(found.history)) == ("interrupted", 2)
        assert [(one.status, len(one.history)) for one in inner] == [("interrupted", 0)]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize("options", [{}, {"progress": True}, {"callback": press}], ids=["plain", "progress", "ctrl-c"])
def test_no_thread_is_left(solver, options, capsys):
    before = threading.enumerate()
    solver(3, **options)
    assert threading.enumerate() == before


def test_what_is_no_bool_is_refused(solver):
    with pytest.raises(TypeError, match="raise_on_interrupt must be True or False, got 1"):
        solver(1, raise_on_interrupt=1)


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
