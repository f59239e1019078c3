"""Checkpoints: a run that was ended and called again gives the bits of one that was not, or is refused by name."""

import errno
import itertools
import os
import signal
import threading
from contextlib import nullcontext

import numpy as np
import pytest
import scipy.sparse as sp
from model_files import assert_equal as assert_same_model
from optional import require

import lfm_np
from lfm_np import Checkpoint, Factors, Status, checkpoint, losses, persistence, row_plan, sampling, sgd_grid

SEED = 3


def matrix(m=60, n=40, seed=0, values=(0.5, 1.0, 3.0)):
    """Rows of 0 to 20 cells and one of all; an empty column."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, 21, m)
    lengths[1] = n - 1
    rows = np.repeat(np.arange(m), lengths)
    columns = np.concatenate([rng.choice(n - 1, length, replace=False) for length in lengths])
    return sp.csr_array((rng.choice(values, len(rows)), (rows, columns)), shape=(m, n))


X = matrix()
ALS = [
    {"weighting": "hu-koren", "solver": "exact"},
    {"weighting": "ials", "unobserved_weight": 0.1, "regularization_exponent": 1.0, "dtype": "float64"},
    {"weighting": "confidence", "alpha": 10.0, "factors": 17},
    {"weighting": "ials", "solver": "cg", "factors": 17},
    {"weighting": "ratings", "solver": "subspace", "factors": 40, "biases": True},
    {"weighting": "ratings"},
    {"weighting": "ratings", "biases": True, "dtype": "float64"},
    {"weighting": "ratings", "biases": True, "factors": 16},
]
SGD = [
    {"schedule": "constant"},
    {"schedule": "inverse", "loss": losses.WARP(), "biases": "item"},
    {"schedule": "adagrad", "biases": True, "loss": losses.Logistic(), "negatives": 3, "dtype": "float64"},
    {"schedule": "adagrad", "loss": losses.SampledSoftmax(), "negatives": 4, "sampler": sampling.Popularity()},
    {"schedule": "adagrad", "loss": losses.BPR(), "sampler": sampling.Hard(3)},
    {"schedule": "constant", "loss": losses.Squared(), "sampler": None, "biases": True},
]


@pytest.fixture
def blocks(monkeypatch):
    """Several blocks in a small matrix, so that threads have something to share."""
    monkeypatch.setattr(sgd_grid, "CELLS_A_TASK", 1)
    monkeypatch.setattr(sgd_grid, "ITEMS_A_BLOCK", 1)


def fit(name, sweeps, X=X, **options):
    """``name``: als or sgd, here or in the torch backend."""
    backend, _, solver = name.rpartition(".")
    if backend:
        require("torch")
    function = getattr(getattr(lfm_np, backend) if backend else lfm_np, solver)
    count = "iterations" if solver == "als" else "epochs"
    steps = row_plan.every_row_steps(width=16) if options.get("solver") in row_plan.STEP_COSTS else nullcontext()
    threads = 1 if backend else None  # torch rounds by their number
    with steps:
        return function(X, **{"factors": 5, "random_state": SEED, "num_threads": threads, count: sweeps} | options)


def assert_same_fit(a, b):
    """All bits, and all records but for the time they took."""
    untimed = [[{k: v for k, v in record.items() if k != "seconds"} for record in f.history] for f in (a, b)]
    assert untimed[0] == untimed[1]
    assert a.params == b.params
    plain = [lfm_np.Factors(**{n: getattr(f, n) for n in NAMES}, status=f.status) for f in (a, b)]
    assert_same_model(*plain)


NAMES = ("user_factors", "item_factors", "user_bias", "item_bias", "global_bias")
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


def test_without_a_seed_two_runs_differ(tmp_path):
    a, b = (fit("sgd", 1, checkpoint=tmp_path / name, random_state=None) for name in "ab")
    assert a.params["seed"] != b.params["seed"]


@pytest.mark.parametrize("name", ["als", "sgd"])
def test_a_warm_start_is_part_of_the_run(tmp_path, name):
    path, start, other = tmp_path / "c", fit(name, 1), fit(name, 2)
    fit(name, 2, checkpoint=path, init=start)
    assert_same_fit(fit(name, 4, checkpoint=path, init=start), fit(name, 4, init=start))
    for wrong in (other, None):
        with pytest.raises(ValueError, match="belongs to another run: init has other values"):
            fit(name, 4, checkpoint=path, init=wrong)


# ---- refused by name ------------------------------------------------------------------------------------------------

OTHER_ALS = {
    "factors": 6,
    "regularization": 0.02,
    "alpha": 2.0,
    "unobserved_weight": 0.5,
    "regularization_exponent": 0.5,
    "weighting": "ials",
    "dtype": "float64",
    "random_state": SEED + 1,
}
OTHER_SGD = {
    "loss": losses.Logistic(),
    "sampler": sampling.Popularity(),
    "negatives": 2,
    "factors": 6,
    "learning_rate": 0.1,
    "schedule": "inverse",
    "regularization": {"user": 0.01},
    "biases": "item",
    "dtype": "float64",
    "random_state": SEED + 1,
}
OTHERS = [("als", *item) for item in OTHER_ALS.items()] + [("sgd", *item) for item in OTHER_SGD.items()]
OTHERS += [(f"torch_backend.{name}", *item) for name, *item in OTHERS]
OTHERS += [("torch_backend.sgd", "batch_size", 7), ("torch_backend.als", "memory_budget", 2**21)]


@pytest.mark.parametrize(("name", "argument", "value"), OTHERS)
def test_other_arguments_are_refused_by_name(tmp_path, name, argument, value):
    path = tmp_path / "c"
    fit(name, 1, checkpoint=path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=rf"belongs to another run: (.*, )?{argument} is .* there and .* here"):
        fit(name, 2, checkpoint=path, **{argument: value})
    assert path.read_bytes() == before


def test_biases_and_the_solver_are_named(tmp_path):
    path = tmp_path / "c"
    fit("als", 1, checkpoint=path, weighting="ratings")
    with pytest.raises(ValueError, match="biases is False there and True here"):
        fit("als", 1, checkpoint=path, weighting="ratings", biases=True)
    with pytest.raises(ValueError, match="function is 'als' there and 'sgd' here;"):
        fit("sgd", 1, checkpoint=path)


def changed(kind):
    Y = X.copy()
    if kind == "a value":
        Y.data[-1] += 1
    elif kind == "a cell":
        row = Y.indices[: Y.indptr[1]]
        row[-1] = next(j for j in range(39) if j not in row)
        Y.sort_indices()
    elif kind == "a shape":
        Y = sp.csr_array((Y.data, Y.indices, Y.indptr), shape=(60, 41))
    elif kind == "a row":
        Y = Y[np.r_[1, 0, 2:60]]
    return Y


@pytest.mark.parametrize("name", ["als", "sgd"])
@pytest.mark.parametrize("kind", ["a value", "a cell", "a shape", "a row"])
def test_another_matrix_is_refused(tmp_path, name, kind):
    fit(name, 1, checkpoint=tmp_path / "c")
    with pytest.raises(ValueError, match="belongs to another run: X is another matrix;"):
        fit(name, 2, X=changed(kind), checkpoint=tmp_path / "c")


def test_the_same_matrix_in_another_form_is_the_same(tmp_path):
    path = tmp_path / "c"
    fit("als", 1, checkpoint=path)
    wide = sp.csr_array((X.data.astype(np.float32), X.indices.astype(np.int64), X.indptr.astype(np.int64)), X.shape)
    for Y in (X.tocoo(), X.tocsc(), wide, sp.csr_matrix(X)):
        assert len(fit("als", 1, X=Y, checkpoint=path).history) == 1


@pytest.mark.parametrize(("name", "count"), [("als", "iterations"), ("sgd", "epochs")])
def test_fewer_sweeps_than_the_file_has_are_refused(tmp_path, name, count):
    fit(name, 3, checkpoint=tmp_path / "c")
    with pytest.raises(ValueError, match=f"{count} must be at least 3, the sweeps that checkpoint .* got 2"):
        fit(name, 2, checkpoint=tmp_path / "c")


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (3, TypeError, "checkpoint must be a path"),
        (True, TypeError, "checkpoint must be a path"),
        (b"bytes", TypeError, "checkpoint must be a path"),
        ("", ValueError, "checkpoint must name a file"),
        ("a\0b", ValueError, "checkpoint must name a file"),
        (Checkpoint("c", every=-1.0), ValueError, r"checkpoint.every must be a finite number in \[0"),
        (Checkpoint("c", every="1"), TypeError, "checkpoint.every must be"),
        (Checkpoint(None), TypeError, "checkpoint must be a path"),
        ("no folder/c", FileNotFoundError, "nothing was written"),
        (".", IsADirectoryError, "."),
        (os.devnull, ValueError, "must name a regular file"),
    ],
)
@pytest.mark.parametrize("name", ["als", "sgd"])
def test_bad_checkpoints_are_named_before_the_first_sweep(tmp_path, monkeypatch, name, value, error, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message):
        fit(name, 1, checkpoint=value, callback=lambda *_: pytest.fail("a sweep was done"))
    assert os.listdir(tmp_path) == []


def test_other_files_are_not_overwritten(tmp_path):
    path = tmp_path / "m"
    fit("als", 1).save(path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"not a whole and valid checkpoint: its format is 'lfm_np.factors'"):
        fit("als", 1, checkpoint=path)
    assert path.read_bytes() == before
    fit("als", 1, checkpoint=tmp_path / "c")
    with pytest.raises(ValueError, match=r"not a whole and valid model file: its format is 'lfm_np.checkpoint'"):
        Factors.load(tmp_path / "c")


def forged(path, **changes):
    """The checkpoint at ``path`` with another content and a checksum that is right."""
    parts, model = persistence.load(path, checkpoint.FORMAT)
    persistence.save(path, checkpoint.FORMAT, parts | changes.pop("parts", {}), model | changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"parts": {"users": None}},
        {"parts": {"users": np.zeros((60, 4), np.float32)}},
        {"parts": {"users": np.zeros((60, 5))}},
        {"parts": {"users": np.full((60, 5), np.nan, np.float32)}},
        {"parts": {"more": np.zeros(3)}},
        {"asked": []},
        {"entropy": "x"},
        {"entropy": -1},
        {"history": [{}]},
        {"history": [{"iteration": 2, "objective": 1.0}]},
        {"history": [{"iteration": 1}]},
        {"history": 3},
        {"more": 1},
    ],
    ids=str,
)
def test_wrong_contents_are_refused(tmp_path, changes):
    path = tmp_path / "c"
    fit("als", 1, checkpoint=path)
    forged(path)
    fit("als", 1, checkpoint=path)  # the forgery itself is accepted
    forged(path, **changes)
    with pytest.raises(ValueError, match="is not a whole and valid checkpoint"):
        fit("als", 2, checkpoint=path)


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

        found = fit(name, 30, checkpoint=path, callback=first, num_threads=2, **options)
        alarm.cancel()
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
