"""A model to save, and files that are wrong in what they say."""

import hashlib
import json

import numpy as np
from safetensors.numpy import save_file

from lfm_np import Factors, Status, persistence


def model(dtype=np.float32, k=3, **changes):
    rng = np.random.default_rng(4)
    values = {
        "user_bias": rng.normal(size=5),
        "item_bias": rng.normal(size=7),
        "global_bias": 0.1,
        "history": [{"iteration": 1, "objective": np.float64(2.5), "seconds": 0.25}],
        "status": Status.STOPPED,
        "params": {"factors": k, "seed": np.int64(3), "sha256": "0" * 64, "name": "ä"},
    }
    U, V = rng.normal(size=(5, k)).astype(dtype), rng.normal(size=(7, k)).astype(dtype)
    return Factors(U, V, **(values | changes))


def assert_equal(a, b):
    for name in ("user_factors", "item_factors", "user_bias", "item_bias"):
        mine, its = getattr(a, name), getattr(b, name)
        assert (mine is None) == (its is None)
        if mine is not None:
            np.testing.assert_array_equal(mine, its, strict=True)
            assert its.flags.aligned
            assert not its.flags.writeable
    assert (a.global_bias, a.status, a.params, a.history) == (b.global_bias, b.status, b.params, b.history)


def forge(path, tensors=None, metadata=None, text=None):
    """A file that is wrong in what it says, with a checksum that is right."""
    whole = {"user_factors": np.ones((2, 3)), "item_factors": np.ones((4, 3))}
    content = {"global_bias": None, "status": "stopped", "params": {}, "history": []}
    text = json.dumps(content | (text or {})) if not isinstance(text, str) else text
    good = {
        "format": persistence.FACTORS.name,
        "version": persistence.FACTORS.version,
        "model": text,
        "sha256": "0" * 64,
    }
    merged = {k: v for k, v in (good | (metadata or {})).items() if v is not None}
    save_file({k: v for k, v in (whole | (tensors or {})).items() if v is not None}, path, merged)
    data = path.read_bytes()
    digest = hashlib.sha256(data).hexdigest().encode()
    path.write_bytes(data.replace(b'"sha256":"' + b"0" * 64, b'"sha256":"' + digest))
