"""Checkpoints: a run that was ended and called again gives the bits of one that was not."""

import errno
import itertools
import os
import signal
import threading

import numpy as np
import pytest
from checkpoint_runs import ALS, SGD, X, assert_same_fit, fit

import lfm_np
from lfm_np import Checkpoint, Status, checkpoint, losses, persistence, sgd_grid


@pytest.fixture
def blocks(monkeypatch):
    """Several blocks in a small matrix, so that threads have something to share."""
    monkeypatch.setattr(sgd_grid, "CELLS_A_TASK", 1)
    monkeypatch.setattr(sgd_grid, "ITEMS_A_BLOCK", 1)


CASES = [("als", options) for options in ALS] + [("sgd", options) for options in SGD]
CASES += [(f"torch_backend.{name}", options) for name, options in CASES]


@pytest.mark.parametrize(("name", "options"), CASES, ids=str)
def test_a_resumed_run_equals_one_without_a_break(tmp_path, blocks, name, options):
    path = tmp_path / "c"
    whole = fit(name, 5, **options)
    threads = (1, 2) if name in ("als", "sgd") else (1, 1)
    assert_same_fit(fit(name, 2, checkpoint=path, num_threads=threads[0], **options), fit(name, 2, **options))
    assert_same_fit(fit(name, 3, checkpoint=str(path), num_threads=threads[1], **options), fit(name, 3, **options))
    resumed = fit(name, 5, checkpoint=Checkpoint(path), **options)
    assert_same_fit(resumed, whole)
    before = path.read_bytes()
    again = fit(name, 5, checkpoint=path, **options)
    assert_same_fit(again, resumed)
    assert again.history == resumed.history  # and the times: nothing was done again
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["c"]


@pytest.mark.parametrize("name", ["sgd", "torch_backend.sgd"])
def test_adagrad_adds_up_more_squares_than_float32_counts(tmp_path, name):
    """From sums of 2²⁴ on, float32 as files of before have them, squares near 1 are still added."""
    path, model = tmp_path / "c", {"schedule": "adagrad", "loss": losses.Squared(), "sampler": None, "biases": "item"}
    fit(name, 1, checkpoint=path, **model)
    parts, rest = persistence.load(path, checkpoint.FORMAT)
    parts["item_bias_squares"] = np.full(X.shape[1], 2.0**24, np.float32)
    persistence.save(path, checkpoint.FORMAT, parts, rest)
    fit(name, 2, checkpoint=path, **model)
    found = persistence.load(path, checkpoint.FORMAT)[0]["item_bias_squares"] - 2.0**24
    slopes = sum(X[:, [j]].power(2).sum() for j in range(X.shape[1]))  # scores are near 0
    assert found.sum() == pytest.approx(slopes, rel=0.3)


@pytest.mark.parametrize("name", ["als", "sgd", "torch_backend.als", "torch_backend.sgd"])
@pytest.mark.parametrize("random_state", ["none", "generator", "legacy", "sequence"])
def test_every_kind_of_random_state(tmp_path, name, random_state):
    def fresh():
        return {
            "none": lambda: None,
            "generator": lambda: np.random.default_rng(7),
            "legacy": lambda: np.random.RandomState(7),
            "sequence": lambda: np.random.SeedSequence(7),
        }[random_state]()

    path = tmp_path / "c"
    first = fit(name, 2, checkpoint=path, random_state=fresh())
    assert_same_fit(fit(name, 2, checkpoint=path, random_state=fresh()), first)
    resumed = fit(name, 4, checkpoint=path, random_state=fresh())
    if random_state != "none":
        assert_same_fit(resumed, fit(name, 4, random_state=fresh()))
        moved = fresh()
        if random_state != "sequence":
            moved.random()
            with pytest.raises(ValueError, match=r"random_state is '.*' there and '.*' here"):
                fit(name, 4, checkpoint=path, random_state=moved)
    with pytest.raises(ValueError, match=r"random_state is .* there and 5 here"):
        fit(name, 4, checkpoint=path, random_state=5)


@pytest.mark.parametrize("name", ["als", "sgd", "torch_backend.als", "torch_backend.sgd"])
def test_the_seed_in_params_repeats_a_fit(tmp_path, name):
    a, b = (fit(name, 2, checkpoint=path, random_state=None) for path in (None, tmp_path / "c"))
    assert a.params["seed"] != b.params["seed"]
    for fitted in (a, b):
        assert_same_fit(fit(name, 2, random_state=fitted.params["seed"]), fitted)
    assert fit(name, 1, random_state=np.int8(3)).params["seed"] == 3
    assert fit(name, 1, random_state=np.random.default_rng(3)).params["seed"] is None


@pytest.mark.parametrize("name", ["als", "sgd"])
def test_a_warm_start_is_part_of_the_run(tmp_path, name):
    path, start, other = tmp_path / "c", fit(name, 1), fit(name, 2)
    fit(name, 2, checkpoint=path, init=start)
    assert_same_fit(fit(name, 4, checkpoint=path, init=start), fit(name, 4, init=start))
    for wrong in (other, None):
        with pytest.raises(ValueError, match="belongs to another run: init has other values"):
            fit(name, 4, checkpoint=path, init=wrong)


# ---- when it is saved -----------------------------------------------------------------------------------------------


def saves(monkeypatch):
    """How many sweeps the file had at every save."""
    found, save = [], persistence.save

    def noted(path, kind, tensors, model):
        found.append(len(model["history"]))
        save(path, kind, tensors, model)

    monkeypatch.setattr(persistence, "save", noted)
    return found


@pytest.mark.parametrize("name", ["als", "sgd"])
def test_every_sweep_or_every_so_many_seconds(tmp_path, monkeypatch, name):
    clock = [0.0]
    monkeypatch.setattr(checkpoint.time, "monotonic", lambda: clock[0])

    def second(record, factors):
        clock[0] += 1

    found = saves(monkeypatch)
    fit(name, 5, checkpoint=tmp_path / "a", callback=second)
    assert found == [1, 2, 3, 4, 5]
    found.clear()
    fit(name, 7, checkpoint=Checkpoint(tmp_path / "b", every=3), callback=second)
    assert found == [3, 6, 7]
    found.clear()
    fit(name, 7, checkpoint=Checkpoint(tmp_path / "c", every=100), callback=second)
    assert found == [7]


@pytest.mark.parametrize("options", [{"checkpoint": "c"}, {"checkpoint": Checkpoint("c", every=1000.0)}], ids=str)
@pytest.mark.parametrize("name", ["als", "sgd", "torch_backend.als", "torch_backend.sgd"])
def test_a_stopped_run_goes_on(tmp_path, monkeypatch, name, options):
    monkeypatch.chdir(tmp_path)

    def stop(record, factors):
        record["seen"] = record["iteration"] * 2
        if record["iteration"] == 2:
            raise StopIteration

    stopped = fit(name, 5, callback=stop, **options)
    assert (stopped.status, len(stopped.history)) == (Status.STOPPED, 2)
    resumed = fit(name, 5, **options)
    assert [record.get("seen") for record in resumed.history] == [2, 4, None, None, None]
    for record in resumed.history[:2]:
        del record["seen"]
    assert_same_fit(resumed, fit(name, 5))


@pytest.mark.parametrize("options", ALS[:1] + SGD[2:3], ids=str)
def test_an_interrupted_run_goes_on(tmp_path, options):
    """Ctrl-C at random moments, within sweeps too."""
    path = Checkpoint(tmp_path / "c", every=1000.0)
    name = "als" if "weighting" in options else "sgd"
    whole = fit(name, 30, **options)
    found = fit(name, 30, checkpoint=path, callback=lambda *_: signal.raise_signal(signal.SIGINT), **options)
    assert (found.status, len(found.history)) == (Status.INTERRUPTED, 1)
    for delay in itertools.count(1):
        alarm = threading.Timer(0.003 * delay, signal.raise_signal, (signal.SIGINT,))

        def first(record, factors, alarm=alarm):
            if not alarm.is_alive() and not alarm.finished.is_set():
                alarm.start()

        try:
            found = fit(name, 30, checkpoint=path, callback=first, num_threads=2, **options)
            alarm.cancel()
            if alarm.is_alive():  # the press may be on its way
                alarm.join()
        except KeyboardInterrupt:  # pressed when the fit was over
            continue
        if found.status != Status.INTERRUPTED:
            break
    assert_same_fit(found, whole)


def test_an_exception_of_the_callback_keeps_what_was_saved(tmp_path):
    def fail(record, factors):
        if record["iteration"] == 3:
            raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        fit("als", 5, checkpoint=tmp_path / "c", callback=fail)
    seen = []
    resumed = fit("als", 5, checkpoint=tmp_path / "c", callback=lambda record, _: seen.append(record["iteration"]))
    assert seen == [3, 4, 5]
    assert_same_fit(resumed, fit("als", 5))


def test_convergence_is_remembered(tmp_path):
    path = tmp_path / "c"
    done = fit("als", 50, tolerance=0.05, checkpoint=path)
    assert done.status == Status.CONVERGED
    assert len(done.history) < 40
    again = fit("als", 50, tolerance=0.05, checkpoint=path)
    assert again.history == done.history
    assert_same_fit(again, done)
    assert_same_fit(fit("als", 50, tolerance=0.01, checkpoint=path), fit("als", 50, tolerance=0.01))


def test_what_json_cannot_hold_is_an_error(tmp_path):
    def put(record, factors):
        record["mine"] = {1}

    with pytest.raises(TypeError, match="history must hold what JSON can: set is not JSON"):
        fit("als", 2, checkpoint=tmp_path / "c", callback=put)
    assert os.listdir(tmp_path) == []


def test_a_full_disk_ends_the_run_with_the_last_good_file(tmp_path, monkeypatch):
    path = tmp_path / "c"

    def full(record, factors):
        if record["iteration"] == 2:
            monkeypatch.setattr(os, "fsync", no_space)

    def no_space(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OSError, match="No space left on device; nothing was written"):
        fit("als", 3, checkpoint=path, callback=full)
    monkeypatch.undo()
    assert os.listdir(tmp_path) == ["c"]
    found = []
    assert_same_fit(fit("als", 3, checkpoint=path, callback=lambda record, _: found.append(record)), fit("als", 3))
    assert len(found) == 2  # the first sweep was not done again


@pytest.mark.parametrize("solver", ["als", "sgd"])
def test_what_no_checkpoint_can_hold_is_refused_after_the_sweep_that_added_it(solver, tmp_path):
    X, seen = lfm_np.to_csr([(0, 1), (1, 0), (1, 2)]), []

    def callback(record, view):
        seen.append(record["iteration"])
        record["extra"] = 1.0 if record["iteration"] < 3 else object()

    with pytest.raises(TypeError, match="params and history must hold what JSON can"):
        getattr(lfm_np, solver)(X, factors=1, callback=callback, checkpoint=Checkpoint(tmp_path / "fit", 1e6))
    assert seen == [1, 2, 3]
