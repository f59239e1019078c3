"""Checkpoints of another run, of another kind or with wrong contents are refused by name."""

import os
import subprocess
import sys

import numpy as np
import pytest
import scipy.sparse as sp
from checkpoint_runs import SEED, X, fit

from lfm_np import Checkpoint, Factors, checkpoint, losses, persistence, sampling
from lfm_np.losses import protocol
from lfm_np.losses.code import code_of

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


LOSS = """
import math, numba, numpy as np
from typing import NamedTuple
from lfm_np import losses

SHIFT = 0.0
ARRAY = np.zeros(2)

@numba.njit
def halved(x, by=2.0):
    return x / by

@numba.njit
def plus(x):
    return x + halved(0.0)

class Mine(NamedTuple):
    scale = 1.0
    targets = (1.0, 0.0)

    def value(self, score, target):
        '''Once.'''
        return self.scale * 0.5 * (plus(score) - target + SHIFT + ARRAY[0]) ** 2

    def gradient(self, score, target):
        return self.scale * sum([plus(score) - target + SHIFT + ARRAY[0] for _ in (1, 2)]) / 2

    def torch_value(self, score, target):
        return self.scale * 0.5 * (score - target + SHIFT) ** 2 * ("a" in {"a", "b", "c"})

class Small(losses.BPR):
    trials = 2

loss = Mine()
"""


def loss_of(text):
    found = {"__name__": "mine"}
    exec(text, found)
    return found["loss"]


def code(loss):
    return code_of(loss, protocol.read(loss), "torch_value")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("scale = 1.0", "scale = 2.0"),
        ("targets = (1.0, 0.0)", "targets = (2.0, 0.0)"),
        ("* 0.5 * (plus", "* 0.25 * (plus"),
        ("sum([plus", "sum([-plus"),
        ("SHIFT = 0.0", "SHIFT = 1.0"),
        ("np.zeros(2)", "np.ones(2)"),
        ("x + halved", "x - halved"),
        ("by=2.0", "by=3.0"),
        ("return x / by", "return x * by"),
        ("(score - target", "(target - score"),
        ("loss = Mine()", "loss = Small()"),
        ("halved(0.0)", "math.sin(0.0)"),
    ],
)
def test_a_loss_that_computes_something_else_is_another(before, after):
    assert before in LOSS
    assert code(loss_of(LOSS)) != code(loss_of(LOSS.replace(before, after)))


def test_what_does_not_change_a_loss_does_not_make_it_another():
    for changed in (LOSS.replace("Once.", "Twice."), "\n\n" + LOSS.replace("SHIFT = 0.0", "SHIFT = 0.0; OTHER = 1")):
        assert code(loss_of(LOSS)) == code(loss_of(changed)) is not None
    assert code(losses.BPR()) is None
    script = "from test_checkpoint_refusals import *; print(code(loss_of(LOSS)))"
    for seed in "01":  # of the order of sets
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)}
        found = subprocess.check_output([sys.executable, "-c", script], text=True, env=environment)
        assert found.strip() == code(loss_of(LOSS))


@pytest.mark.parametrize("name", ["sgd", "torch_backend.sgd"])
def test_a_loss_of_the_same_name_and_fields_is_refused(tmp_path, name):
    path = tmp_path / "c"
    fit(name, 1, checkpoint=path, loss=loss_of(LOSS))
    fit(name, 2, checkpoint=path, loss=loss_of(LOSS))
    with pytest.raises(ValueError, match=r"another run: code of loss is '\w+' there and '\w+' here;"):
        fit(name, 3, checkpoint=path, loss=loss_of(LOSS.replace("scale = 1.0", "scale = 2.0")))
    for one in (losses.BPR(), losses.BPR(weighted=True)):
        with pytest.raises(ValueError, match=r"another run: (.*, )?loss is .* there and .* here"):
            fit(name, 3, checkpoint=path, loss=one)


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
        {"history": [{"iteration": 2, "objective": 1.0, "seconds": 1.0}]},
        {"history": [{"iteration": True, "objective": 1.0, "seconds": 1.0}]},
        {"history": [{"iteration": 1, "objective": 1, "seconds": 1.0}]},
        {"history": [{"iteration": 1, "objective": np.nan, "seconds": 1.0}]},
        {"history": [{"iteration": 1, "seconds": 1.0}]},
        {"history": [{"iteration": 1, "objective": 1.0}]},
        {"history": [{"iteration": 1, "objective": 1.0, "seconds": -1.0}]},
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
