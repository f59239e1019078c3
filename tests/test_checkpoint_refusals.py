"""Checkpoints of another run, of another kind or with wrong contents are refused by name."""

import os

import numpy as np
import pytest
import scipy.sparse as sp
from checkpoint_runs import SEED, X, fit

from lfm_np import Checkpoint, Factors, checkpoint, losses, persistence, sampling

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
