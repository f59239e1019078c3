"""Files: equal after a round trip, atomic, and refused when anything about them is wrong."""

import json
import os

import numpy as np
import pytest
from model_files import assert_equal, forge, model
from optional import require
from safetensors.numpy import load_file

from lfm_np import Factors

pytestmark = pytest.mark.small


@pytest.mark.parametrize("mmap", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "changes", [{}, {"k": 0}, {"user_bias": None, "global_bias": None}, {"user_bias": None, "item_bias": None}]
)
def test_round_trip(tmp_path, mmap, dtype, changes):
    factors = model(dtype, **changes)
    path = tmp_path / "any name.model"
    factors.save(path)
    assert os.listdir(tmp_path) == ["any name.model"]
    assert_equal(factors, Factors.load(path, mmap=mmap))
    assert_equal(factors, Factors.load(str(path), mmap=mmap))


def test_a_mapped_file_may_be_replaced(tmp_path):
    path = tmp_path / "m"
    model().save(path)
    mapped = Factors.load(path, mmap=True)
    model(k=8).save(path)
    assert_equal(mapped, model())
    assert Factors.load(path).user_factors.shape == (5, 8)


def test_a_name_without_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model().save("here")
    assert_equal(Factors.load("here"), model())


def test_any_safetensors_reader_can_read_it(tmp_path):
    model().save(tmp_path / "m")
    tensors = load_file(tmp_path / "m")
    np.testing.assert_array_equal(tensors["item_factors"], model().item_factors)


def test_a_failed_save_leaves_the_old_file(tmp_path):
    path = tmp_path / "m"
    model().save(path)
    with pytest.raises(TypeError, match="params and history must hold what JSON can: set is not JSON"):
        model(params={"a": {1}}).save(path)
    assert os.listdir(tmp_path) == ["m"]
    assert_equal(Factors.load(path), model())


def test_what_cannot_be_read_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        Factors.load(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError):
        model().save(tmp_path / "no folder" / "m")
    with pytest.raises(IsADirectoryError):
        Factors.load(tmp_path)
    with pytest.raises(TypeError, match="mmap must be True or False"):
        Factors.load(tmp_path, mmap=1)


# ---- wrong files ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mmap", [False, True])
def test_mutated_files_are_never_accepted(tmp_path, mmap):
    """2,000 random changes: bits, bytes, runs, cuts, insertions, and lengths and numbers in the header."""
    path, bad = tmp_path / "m", tmp_path / "bad"
    model().save(path)
    whole = path.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    rng = np.random.default_rng(9)
    for _ in range(1000):
        data = bytearray(whole)
        at = int(rng.integers(0, header if rng.random() < 0.6 else len(data)))
        kind = rng.integers(0, 6)
        if kind == 0:
            data[at] ^= 1 << int(rng.integers(0, 8))
        elif kind == 1:
            data[at] = int(rng.integers(0, 256))
        elif kind == 2:
            del data[at:]
        elif kind == 3:
            del data[at : at + int(rng.integers(1, 9))]
        elif kind == 4:
            data[at:at] = rng.bytes(int(rng.integers(1, 9)))
        else:
            size = int(rng.integers(1, 40))
            data[at : at + size] = bytes(data[at : at + size][::-1])
        if bytes(data) == whole:
            continue
        bad.write_bytes(data)
        with pytest.raises(ValueError, match="is not a whole and valid model file"):
            Factors.load(bad, mmap=mmap)


def test_the_forgery_itself_is_accepted(tmp_path):
    forge(tmp_path / "m")
    assert Factors.load(tmp_path / "m").shape == (2, 4)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"metadata": {"format": "other"}}, "its format is 'other'"),
        ({"metadata": {"format": None}}, "its format is None"),
        ({"metadata": {"version": "2"}}, "its version is '2', this library reads '1'"),
        ({"metadata": {"extra": "x"}}, "its metadata are"),
        ({"metadata": {"sha256": "1" * 64}}, "its checksum does not match"),
        ({"metadata": {"sha256": "short"}}, "must have one sha256"),
        ({"tensors": {"item_factors": None}}, "its tensors are"),
        ({"tensors": {"more": np.ones(2)}}, "its tensors are"),
        ({"tensors": {"item_factors": np.ones((4, 3), np.float32)}}, "its dtypes are"),
        ({"tensors": {"item_factors": np.ones((4, 3), int), "user_factors": np.ones((2, 3), int)}}, "its dtypes are"),
        ({"tensors": {"item_factors": np.ones((4, 2))}}, "its shapes do not fit"),
        ({"tensors": {"item_factors": np.ones(4)}}, "its shapes do not fit"),
        ({"tensors": {"user_bias": np.ones(4)}}, "its shapes do not fit"),
        ({"tensors": {"item_bias": np.ones((4, 1))}}, "its shapes do not fit"),
        ({"tensors": {"item_factors": np.full((4, 3), np.nan)}}, "item_factors has a non-finite value"),
        ({"text": {"global_bias": float("inf")}}, "global_bias"),
        ({"text": {"status": "unheard of"}}, "unheard of"),
        ({"text": {"params": 3}}, "params must be a dict"),
        ({"text": {"history": {"a": 1}}}, "history must be a sequence of dicts"),
        ({"text": {"more": 1}}, "must have the keys"),
        ({"text": "{}"}, "must have the keys global_bias"),
        ({"text": "[]"}, "must have the keys"),
        ({"text": "nonsense"}, "Expecting value"),
        ({"text": "[" * 100_000}, "is not a whole"),
    ],
)
def test_wrong_contents_are_named(tmp_path, changes, says):
    forge(tmp_path / "m", **changes)
    with pytest.raises(ValueError, match=says):
        Factors.load(tmp_path / "m")


@pytest.mark.parametrize("content", [b"", b"\x00" * 7, b"\xff" * 64, b"\x00" * 4096, b"PK\x03\x04 a zip file"])
@pytest.mark.parametrize("mmap", [False, True])
def test_other_files_are_refused(tmp_path, content, mmap):
    (tmp_path / "m").write_bytes(content)
    with pytest.raises(ValueError, match="is not a whole and valid model file"):
        Factors.load(tmp_path / "m", mmap=mmap)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_torch_reads_a_model_with_equal_scores(tmp_path, dtype):
    """Through safetensors alone, as a program without this library would."""
    torch = require("torch")
    from safetensors import safe_open
    from safetensors.torch import load_file as load_tensors

    factors = model(dtype)
    factors.save(tmp_path / "model.safetensors")
    tensors = load_tensors(tmp_path / "model.safetensors")
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        constants = json.loads(file.metadata()["model"])
    for name, tensor in tensors.items():
        assert torch.equal(tensor, torch.tensor(getattr(factors, name)))
    scores = tensors["user_factors"] @ tensors["item_factors"].T
    scores += constants["global_bias"] + tensors["user_bias"][:, None] + tensors["item_bias"]
    users, items = np.indices(factors.shape).reshape(2, -1)
    ours = factors.scores(users, items).reshape(factors.shape)
    np.testing.assert_allclose(scores.numpy(), ours, rtol=8 * np.finfo(dtype).eps, atol=8 * np.finfo(dtype).eps)
    assert torch.equal(scores.argmax(dim=1), torch.tensor(factors.recommend(np.arange(5), N=1).ids[:, 0]))
