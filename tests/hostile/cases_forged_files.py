"""Models, checkpoints and data that somebody has edited, the checksum made right again."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pathlib
import pickle
import re
import struct
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import scipy.sparse as sp

import lfm_np
from lfm_np import Factors

from .case import Case
from .cases_records_by_dictionaries import inside
from .least_squares import BAD, Heading

_of = Heading("forged files")
PLACE = "/name/that/no/file/has"


def matrix(seed: int = 1) -> sp.csr_array:
    X = sp.random(12, 9, 0.5, format="csr", random_state=np.random.default_rng(seed))
    X.data[:] = 1 + np.arange(len(X.data)) % 3
    return sp.csr_array(X)


def fit(checkpoint: Any = None, iterations: int = 3, X: Any = None, **words: Any) -> Factors:
    return lfm_np.als(
        matrix() if X is None else X,
        **{"factors": 3, "random_state": 0, "iterations": iterations, "checkpoint": checkpoint, **words},
    )


def parts(path: pathlib.Path) -> tuple[dict[str, Any], bytearray]:
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), bytearray(content[8 + length :])


def seal(path: pathlib.Path, header: dict[str, Any] | bytes, body: bytes) -> None:
    """Write both, with the checksum that belongs to them."""
    if isinstance(header, dict):
        header["__metadata__"]["sha256"] = "0" * 64
        header = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        header += b" " * (-len(header) % 8)
    content = struct.pack("<Q", len(header)) + header + body
    digest = hashlib.sha256(content).hexdigest().encode()
    path.write_bytes(content.replace(b'"sha256":"' + b"0" * 64, b'"sha256":"' + digest))


def forge(path: pathlib.Path, change: Callable[[dict[str, Any], dict[str, Any], bytearray], Any]) -> None:
    """``change(header, model, body)`` edits a file; ``model`` is the JSON of all that is no tensor."""
    header, body = parts(path)
    model = json.loads(header["__metadata__"]["model"])
    change(header, model, body)
    header["__metadata__"]["model"] = json.dumps(model)
    seal(path, header, bytes(body))


def forged(change: Any, after: Callable[[Factors], Any] = lambda factors: factors, **words: Any) -> Callable[[], Any]:
    def work(folder: pathlib.Path) -> Any:
        fit(**words).save(folder / "model")
        forge(folder / "model", change)
        return after(Factors.load(folder / "model"))

    return inside(work)


def put(part: str, value: Any) -> Any:
    return lambda header, model, body: model.__setitem__(part, value)


def tensor(name: str, **fields: Any) -> Any:
    return lambda header, model, body: header[name].update(fields)


def extra_tensor(header: Any, model: Any, body: bytearray) -> None:
    header["evil"] = {"dtype": "F32", "shape": [1], "data_offsets": [len(body), len(body) + 4]}
    body += b"\0" * 4


def bias_of_other_length(header: Any, model: Any, body: bytearray) -> None:
    header["user_bias"] = {"dtype": "F32", "shape": [2], "data_offsets": [len(body), len(body) + 8]}
    body += b"\0" * 8


def nan_inside(header: Any, model: Any, body: bytearray) -> None:
    body[4:8] = struct.pack("<f", np.nan)


def overlapping(header: Any, model: Any, body: bytearray) -> None:
    header["item_factors"]["data_offsets"] = [0, 9 * 3 * 4]


def meta(key: str, value: Any) -> Any:
    return lambda header, model, body: header["__metadata__"].__setitem__(key, value)


def models() -> Iterator[Case]:
    yield _of.right(
        "a model sealed again without a change is the model",
        forged(lambda *_: None),
        lambda f: (f.item_factors == fit().item_factors).all(),
    )
    changes: dict[str, tuple[Any, tuple[str, ...]]] = {
        "a status that there is not": (put("status", "evil"), ("status", "evil")),
        "history that is a mapping": (put("history", {"a": 1}), ("history",)),
        "history of numbers": (put("history", [1]), ("history",)),
        "params that are a list": (put("params", [1]), ("params",)),
        "a constant that is text": (put("global_bias", "1"), ("global_bias",)),
        "a constant of true": (put("global_bias", True), ("global_bias",)),
        "a constant beyond float64": (put("global_bias", float("inf")), ("global_bias|infinity",)),
        "a part more": (put("code", "import os"), ("keys",)),
        "a part less": (lambda h, m, b: m.pop("history"), ("history",)),
        "another version": (meta("version", "2"), ("version", "2")),
        "another format": (meta("format", "lfm_np.checkpoint"), ("format|checkpoint|model",)),
        "metadata more": (meta("author", "me"), ("author|metadata",)),
        "a tensor more": (extra_tensor, ("evil",)),
        "two biases of twelve users": (bias_of_other_length, ("user_bias", "12|2")),
        "NaN in a factor": (nan_inside, ("factors", "nan|finite")),
        "tensors one over the other": (overlapping, ("offset|overlap|size|item_factors",)),
        "a shape of 2^62 by 0": (tensor("user_factors", shape=[2**62, 0]), ("shape|user_factors|size",)),
        "a shape that is negative": (tensor("user_factors", shape=[-12, -3]), ("shape|user_factors|header|-12",)),
        "bytes for floats": (tensor("user_factors", dtype="U8", shape=[12, 12]), ("user_factors|dtype|u8",)),
        "factors of another length": (tensor("item_factors", shape=[27, 1]), ("factors|shape|columns",)),
    }
    for name, (change, words) in changes.items():
        yield _of.refused(name, forged(change), *words)
    yield _of.refused("JSON that is deeply nested", inside(deep), "model")


def deep(folder: pathlib.Path) -> Any:
    fit().save(folder / "model")
    header, body = parts(folder / "model")
    header["__metadata__"]["model"] = '{"params":' + "[" * 200_000 + "]" * 200_000 + "}"
    seal(folder / "model", header, bytes(body))
    return Factors.load(folder / "model")


def parameters() -> Iterator[Case]:
    row = sp.csr_array([[1.0, 0, 2, 0, 0, 0, 0, 0, 1]])
    for name, value in {
        "alpha": "x",
        "regularization": -5.0,
        "weighting": "evil",
        "unobserved_weight": [1],
        "regularization_exponent": None,
        "iterations": "9",
    }.items():
        yield _of.either(
            f"params with {name}={value!r}, used to fold in",
            forged(lambda h, m, b, n=name, v=value: m["params"].__setitem__(n, v), lambda f: f.fold_in_users(row)),
            lambda found, name=name: (
                name in ("iterations", "regularization_exponent") and np.isfinite(found.user_factors).all()
            ),
            name,
        )
    yield _of.either(
        "params that are empty, used for the objective",
        forged(put("params", {}), lambda f: lfm_np.objective(matrix(), f)),
        lambda J: abs(J / fit().history[-1]["objective"] - 1) < 1e-5,
        "params|regularization|weighting",
    )
    yield _of.right(
        "a history without objectives still loads, recommends and is copied",
        forged(put("history", [{}]), lambda f: (f.recommend(0, N=2).ids, pickle.loads(pickle.dumps(f)).history)),
        lambda found: (found[0] == fit().recommend(0, N=2).ids).all() and list(found[1]) == [{}],
    )


def raw(name: str, content: Callable[[bytes], bytes], *words: str) -> Case:
    def work(folder: pathlib.Path) -> Any:
        fit().save(folder / "model")
        (folder / "model").write_bytes(content((folder / "model").read_bytes()))
        return Factors.load(folder / "model")

    return _of.refused(name, inside(work), "model", *words)


class Bomb:
    """What unpickles to a file in the folder that the environment names."""

    def __reduce__(self):
        return os.mkdir, (os.environ["BOMB"],)


def unexploded(work: Callable[[pathlib.Path], Any]) -> Callable[[], Any]:
    """``work``, which must raise an OSError or ValueError, and must not have run what was pickled."""

    def call(folder: pathlib.Path) -> Any:
        os.environ["BOMB"] = str(folder / "exploded")
        try:
            work(folder)
        except (OSError, ValueError, TypeError) as error:
            return str(error), (folder / "exploded").exists()
        return "no error", (folder / "exploded").exists()

    return inside(call)


def not_models() -> Iterator[Case]:
    yield raw("nothing in it", lambda b: b"")
    yield raw("a header of 2^60 bytes", lambda b: struct.pack("<Q", 2**60) + b[8:])
    yield raw("a byte more at the end", lambda b: b + b"\0")
    yield raw("the last byte missing", lambda b: b[:-1])
    yield raw(
        "the checksum in capitals",
        lambda b: re.sub(
            rb'"sha256":"([0-9a-f]{64})"', lambda m: m.group(0).replace(m.group(1), m.group(1).upper()), b
        ),
    )
    yield raw("the same tensor twice", twice_the_same)
    yield raw("text", lambda b: b"hello " * 100)

    def a_pickle(folder: pathlib.Path) -> Any:
        (folder / "m").write_bytes(pickle.dumps(Bomb()))
        return Factors.load(folder / "m")

    def arrays(folder: pathlib.Path) -> Any:
        buffer = io.BytesIO()
        np.savez(buffer, user=np.array([Bomb()], object), item=[1], value=[1.0], timestamp=[1])
        (folder / "ml-100k.npz").write_bytes(buffer.getvalue())
        os.environ["LFM_NP_DATA"] = str(folder)
        return lfm_np.datasets.movielens("100k")

    def matrix_of_objects(folder: pathlib.Path) -> Any:
        lfm_np.StoredMatrix.from_matrix(matrix(), folder / "m")
        np.save(folder / "m" / "rows.data.npy", np.array([Bomb()] * 40, object), allow_pickle=True)
        return lfm_np.StoredMatrix(folder / "m")

    for name, work in {
        "a pickle": a_pickle,
        "ratings of objects": arrays,
        "a stored matrix of objects": matrix_of_objects,
    }.items():
        yield _of.right(
            f"{name} is refused, and runs nothing",
            unexploded(work),
            lambda found: found[0] not in ("", "no error") and not found[1],
        )
    yield _of.refused("a folder", inside(lambda folder: Factors.load(folder)), "folder|directory", kind=(*BAD, OSError))
    yield _of.refused("a device", lambda: Factors.load("/dev/zero"), "/dev/zero")
    yield _of.refused("a name with a NUL", lambda: Factors.load("a\0b"), "path|null|nul", kind=(*BAD, OSError))


def twice_the_same(content: bytes) -> bytes:
    (length,) = struct.unpack("<Q", content[:8])
    header = content[8 : 8 + length].rstrip()
    entry = re.search(rb'"user_factors":\{[^}]*\}', header).group(0)
    header = header.replace(b'"user_factors"', entry + b',"user_factors"', 1)
    header = re.sub(rb'("sha256":")[0-9a-f]{64}', rb"\g<1>" + b"0" * 64, header)
    header += b" " * (-len(header) % 8)
    with tempfile.NamedTemporaryFile() as file:
        seal(pathlib.Path(file.name), header, content[8 + length :])
        return pathlib.Path(file.name).read_bytes()


def resumed(change: Any = None, again: Callable[[pathlib.Path], Any] = lambda path: fit(path, 5), **words: Any) -> Any:
    def work(folder: pathlib.Path) -> Any:
        fit(folder / "state", 3, **words)
        if change:
            forge(folder / "state", change)
        return again(folder / "state")

    return inside(work)


def checkpoints() -> Iterator[Case]:
    whole = lambda f: (f.item_factors == fit(None, 5).item_factors).all() and len(f.history) == 5  # noqa: E731
    yield _of.right("a checkpoint sealed again goes on to the same bits", resumed(lambda *_: None), whole)
    yield _of.right(
        "going on with other threads, a tolerance and a callback",
        resumed(None, lambda path: fit(path, 5, num_threads=2, tolerance=0.0, callback=lambda record, f: None)),
        whole,
    )
    yield _of.refused("fewer sweeps than were done", resumed(None, lambda path: fit(path, 2)), "iterations", "2|3")
    one_more = matrix()
    one_more.data[5] += 1
    others: dict[str, tuple[dict[str, Any], str]] = {
        "another value": ({"X": one_more}, "x|matrix"),
        "another lambda": ({"regularization": 0.02}, "regularization"),
        "another seed": ({"random_state": 1}, "random_state|seed"),
        "another dtype": ({"dtype": "float64"}, "dtype"),
        "another start": ({"init": (np.ones((12, 3)), np.ones((9, 3)))}, "init|start"),
        "another solver": ({"solver": "subspace"}, "solver"),
    }
    for name, (words, said) in others.items():
        yield _of.refused(name, resumed(None, lambda path, w=words: fit(path, 5, **w)), said)
    yield _of.refused(
        "a checkpoint of als for sgd",
        resumed(None, lambda path: lfm_np.sgd(matrix(), factors=3, random_state=0, checkpoint=path)),
        "als|sgd|solver",
    )
    yield _of.refused("a model file as a checkpoint", inside(model_as_checkpoint), "checkpoint|model")
    for name, change, said in (
        ("a history that is shorter", lambda h, m, b: m["history"].pop(), "history|sweep|iteration"),
        ("a sweep's number", lambda h, m, b: m["history"][1].update(iteration=9), "history|iteration"),
        ("an objective of text", lambda h, m, b: m["history"][-1].update(objective="0"), "history|objective"),
        ("NaN in the state", lambda h, m, b: b.__setitem__(slice(0, 4), struct.pack("<f", np.nan)), "finite|nan"),
        ("history of nobody", lambda h, m, b: m.update(history=[]), "history|sweep"),
    ):
        yield _of.either(
            f"a checkpoint with {name}",
            resumed(change),
            lambda f, name=name: name.split()[-1] in ("shorter", "nobody") and np.isfinite(f.item_factors).all(),
            said,
        )
    yield _of.refused("every NaN seconds", inside(lambda d: fit(lfm_np.Checkpoint(d / "c", every=np.nan))), "every")
    yield _of.refused(
        "in a folder that is not there, before a sweep",
        lambda: fit(PLACE + "/x", callback=lambda record, f: too_late()),
        PLACE,
        kind=OSError,
    )


def too_late() -> None:
    raise AssertionError("a sweep was done before the checkpoint's place was looked at")


def model_as_checkpoint(folder: pathlib.Path) -> Any:
    fit().save(folder / "m")
    return fit(folder / "m", 5)


def cases() -> list[Case]:
    return [*models(), *parameters(), *not_models(), *checkpoints()]
