"""Model files and checkpoints that somebody wrote who can compute their checksums, and files that are none."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pickle
import resource
import signal
import struct
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

import lfm_np
from lfm_np import Factors

from .case import Case, Either, Group, Holds, raises

_model, _resume = Group("sealed model"), Group("sealed checkpoint")
X = sp.csr_array(np.add.outer(np.arange(8), 3 * np.arange(6)) % 4 * 1.0)
OPTIONS: dict[str, Any] = {"factors": 3, "iterations": 3, "random_state": 0, "num_threads": 1}


def unsealed(content: bytes) -> tuple[dict[str, Any], bytes]:
    size = struct.unpack("<Q", content[:8])[0]
    return json.loads(content[8 : 8 + size]), content[8 + size :]


def sealed(header: Any, body: bytes) -> bytes:
    """A file of this header and these bytes whose SHA-256 agrees, as the module `lfm_np.persistence` describes it."""
    if not isinstance(header, bytes):
        header["__metadata__"]["sha256"] = "0" * 64
        header = json.dumps(header, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    content = struct.pack("<Q", len(header)) + header + body
    return content.replace(b"0" * 64, hashlib.sha256(content).hexdigest().encode(), 1)


def factors() -> Factors:
    return lfm_np.als(X, biases=True, weighting="ratings", **OPTIONS)


def forged(
    change: Callable[[dict[str, Any], bytearray], Any], load: Callable[[str], Any] = Factors.load
) -> Callable[[], Any]:
    """Load a model file whose header and body ``change`` changed, or for which it gave other bytes."""

    def run() -> Any:
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "model.safetensors")
            factors().save(path)
            header, body = unsealed(Path(path).read_bytes())
            bytes_ = bytearray(body)
            other = change(header, bytes_)
            Path(path).write_bytes(other if isinstance(other, bytes) else sealed(header, bytes(bytes_)))
            return load(path)

    return run


def described(**changes: Any) -> Callable[[dict[str, Any], bytearray], None]:
    """Put other values into the JSON that describes the model; a value of ``del`` takes the key away."""

    def change(header: dict[str, Any], body: bytearray) -> None:
        model = json.loads(header["__metadata__"]["model"])
        for key, value in changes.items():
            if value is del_:
                del model[key]
            else:
                model[key] = value
        header["__metadata__"]["model"] = json.dumps(model)

    return change


del_ = object()


def text(key: str, raw: str) -> Callable[[dict[str, Any], bytearray], None]:
    """Put into that JSON what ``json.dumps`` would not write."""

    def change(header: dict[str, Any], body: bytearray) -> None:
        described(**{key: "@"})(header, body)
        header["__metadata__"]["model"] = header["__metadata__"]["model"].replace('"@"', raw)

    return change


def tensor(name: str, **changes: Any) -> Callable[[dict[str, Any], bytearray], None]:
    return lambda header, body: header[name].update(changes)


def models() -> Iterator[Case]:
    yield _model.right(
        "unchanged, and sealed here",
        forged(lambda header, body: None),
        lambda f: np.array_equal(f.item_factors, factors().item_factors) and f.params["weighting"] == "ratings",
    )

    def nan(header: dict[str, Any], body: bytearray) -> None:
        begin = header["item_factors"]["data_offsets"][0]
        body[begin + 4 : begin + 8] = struct.pack("<f", float("nan"))

    def longer(header: dict[str, Any], body: bytearray) -> None:
        header["__metadata__"]["model"] = "[" * 200_000

    def extra(header: dict[str, Any], body: bytearray) -> None:
        header["code"] = {"dtype": "F32", "shape": [1], "data_offsets": [len(body), len(body) + 4]}
        body += b"exec"

    def both(header: dict[str, Any], body: bytearray) -> None:
        header["user_factors"]["data_offsets"] = header["item_factors"]["data_offsets"]

    def doubled(header: dict[str, Any], body: bytearray) -> bytes:
        header["__metadata__"]["sha256"] = "0" * 64
        said = json.dumps(header, separators=(",", ":"))
        return sealed((said[:-1] + ',"item_bias":' + json.dumps(header["item_bias"]) + "}").encode(), bytes(body))

    refused: dict[str, tuple[Any, str]] = {
        "a factor that is nan": (nan, "item_factors"),
        "half precision": (tensor("user_factors", dtype="F16", shape=[8, 6]), "user_factors|F16"),
        "another k": (tensor("item_factors", shape=[9, 2]), "factors"),
        "a shape of -8 × -3": (tensor("user_factors", shape=[-8, -3]), "shape|user_factors|header"),
        "a shape of fractions": (tensor("user_factors", shape=[8.0, 3.0]), "shape|user_factors|header"),
        "a shape of 2**62 × 0": (tensor("user_factors", shape=[2**62, 0]), "user_factors|header|shape"),
        "a shape whose product wraps around": (tensor("user_factors", shape=[2**61 + 8, 3]), "user_factors|header"),
        "offsets that overlap": (both, "offset|overlap|header|bytes"),
        "offsets beyond the file": (tensor("user_factors", data_offsets=[0, 2**40]), "offset|header|bytes|size"),
        "a tensor more": (extra, "code"),
        "a tensor fewer": (lambda header, body: header.pop("item_factors"), "item_factors|offset"),
        "one tensor twice": (doubled, "item_bias|twice"),
        "version 2": (lambda header, body: header["__metadata__"].update(version="2"), "version"),
        "another format": (lambda header, body: header["__metadata__"].update(format="lfm_np.fit"), "format|lfm_np"),
        "a header of 2**63 bytes": (lambda header, body: struct.pack("<Q", 2**63) + bytes(64), "header|short"),
        "a header of no bytes": (lambda header, body: bytes(64), "header|json|safetensors"),
        "JSON that is nested 200,000 deep": (longer, "model|json|nested"),
        "a status that there is not": (described(status="done"), "status"),
        "a μ of text": (described(global_bias="3"), "global_bias"),
        "a μ beyond float64": (text("global_bias", "1e999"), "global_bias|finite"),
        "a key more": (described(loader="os.system"), "keys"),
        "a key fewer": (described(history=del_), "history"),
        "a history of numbers": (described(history=[1, 2]), "history"),
        "parameters in a list": (described(params=["als"]), "params"),
        "an integer of 10,000 digits": (text("params", '{"n": ' + "9" * 10_000 + "}"), "digit|model|params|integer"),
    }  # fmt: skip
    for name, (change, words) in refused.items():
        yield Case(f"sealed model: {name}", forged(change), raises((ValueError,), words))
    asked = {"weighting": "hu-koren", "regularization": 1.0, "regularization_exponent": 0.0, "alpha": 1.0}
    for name, params in {
        "λ below zero": {"regularization": -5.0},
        "α of text": {"alpha": "1e9"},
        "a weighting that there is not": {"weighting": "__import__"},
        "ν of a list": {"regularization_exponent": [1.0]},
    }.items():
        yield Case(
            f"sealed model: parameters of {name}, folded into",
            forged(described(params=asked | params), lambda path: Factors.load(path).fold_in_users(X)),
            raises((ValueError, TypeError), next(iter(params))),
        )


def shells() -> Iterator[Case]:
    def with_file(content: bytes, load: Callable[[str], Any]) -> Callable[[], Any]:
        return forged(lambda header, body: content, load)

    class Bomb:
        def __reduce__(self) -> Any:
            return (os._exit, (77,))

    yield Case("sealed model: a pickle", with_file(pickle.dumps(Bomb()), Factors.load), raises((ValueError,), "model"))

    def device(path: str) -> Any:
        signal.alarm(10)
        try:
            return Factors.load("/dev/zero")
        finally:
            signal.alarm(0)

    yield Case("sealed model: /dev/zero", with_file(b"", device), raises((ValueError, OSError), "file|/dev/zero"))

    def pipe(path: str) -> Any:
        os.mkfifo(path + ".fifo")
        return Factors.load(path + ".fifo")

    yield Case(
        "sealed model: a FIFO that nobody writes", with_file(b"", pipe), raises((ValueError, OSError), "file|fifo")
    )
    yield Case(
        "sealed model: a folder",
        with_file(b"", lambda p: Factors.load(os.path.dirname(p))),
        raises((OSError, ValueError), "direc|folder|file"),
    )
    yield Case(
        "sealed model: a name with a NUL",
        with_file(b"", lambda p: Factors.load(p + "\0")),
        raises((ValueError,), "null|nul|path"),
    )

    def cut() -> Any:
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "m")
            factors().save(path)
            content, taken = Path(path).read_bytes(), []
            for end in range(0, len(content), 37):
                Path(path).write_bytes(content[:end])
                with contextlib.suppress(ValueError):
                    taken.append(Factors.load(path))
            return taken

    yield _model.right("cut anywhere", cut, lambda taken: not taken)

    def replaced(path: str) -> Any:
        mapped = Factors.load(path, mmap=True)
        before = np.array(mapped.item_factors)
        lfm_np.als(X, **{**OPTIONS, "random_state": 5}).save(path)
        return before, mapped, Factors.load(path)

    yield _model.right(
        "replaced while it is mapped",
        forged(lambda header, body: None, replaced),
        lambda r: (
            np.array_equal(r[0], r[1].item_factors)
            and not r[1].item_factors.flags.writeable
            and not np.array_equal(r[0], r[2].item_factors)
        ),
    )

    def other_reader(path: str) -> Any:
        from safetensors.numpy import load_file

        return load_file(path), Factors.load(path)

    yield _model.right(
        "what safetensors reads",
        forged(lambda header, body: None, other_reader),
        lambda r: (
            sorted(r[0]) == ["item_bias", "item_factors", "user_bias", "user_factors"]
            and all(np.array_equal(value, getattr(r[1], key)) for key, value in r[0].items())
        ),
    )

    def too_large(path: str) -> Any:
        old = Path(path).read_bytes()
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
        try:
            Factors(np.ones((500, 9)), np.ones((3, 9))).save(path)
        except OSError as error:
            return error, old == Path(path).read_bytes(), os.listdir(os.path.dirname(path))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    yield _model.right(
        "saved where a file may have 1,000 bytes",
        forged(lambda header, body: None, too_large),
        lambda r: r[1] and r[2] == ["model.safetensors"] and str(r[0]),
    )
    yield Case(
        "sealed model: a history that JSON cannot hold",
        forged(lambda h, b: None, lambda p: Factors(np.eye(2), np.eye(2), history=[{"when": object()}]).save(p)),
        raises((TypeError,), "history|when|json"),
    )


# ---- checkpoints ----------------------------------------------------------------------------------------------------


def resumed(change: Callable[[str], Any], then: Callable[[str], Any]) -> Callable[[], Any]:
    def run() -> Any:
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "fit.checkpoint")
            lfm_np.als(X, checkpoint=path, **OPTIONS)
            change(path)
            return then(path)

    return run


def go_on(path: str, X: Any = X, **options: Any) -> Any:
    return lfm_np.als(X, checkpoint=path, **{**OPTIONS, "iterations": 6, **options})


def rewritten(key: str | None, value: Any, tensors: bool = False) -> Callable[[str], None]:
    """Put ``value`` at the place of every entry of the description in turn; here at that of ``key``."""

    def change(path: str) -> None:
        header, body = unsealed(Path(path).read_bytes())
        if tensors:
            body = np.full(len(body) // 4 + 1, value, np.float32).tobytes()[: len(body)]
        else:
            model = json.loads(header["__metadata__"]["model"])
            for own in list(model):
                if key in (None, own):
                    model[own] = value
            header["__metadata__"]["model"] = json.dumps(model)
        Path(path).write_bytes(sealed(header, body))

    return change


def checkpoints() -> Iterator[Case]:
    nothing: Callable[[str], Any] = lambda path: None  # noqa: E731
    whole = lambda: lfm_np.als(X, **{**OPTIONS, "iterations": 6})  # noqa: E731
    yield _resume.right(
        "gone on from, with other threads and a tolerance",
        resumed(nothing, lambda p: go_on(p, num_threads=3, tolerance=1e-30)),
        lambda f: np.array_equal(f.item_factors, whole().item_factors) and len(f.history) == 6,
    )
    other = X.copy()
    other.data[5] += 1
    for name, words, then in (
        ("another X of the same shape", "X|matrix", lambda p: go_on(p, X=other)),
        ("another α", "alpha", lambda p: go_on(p, alpha=2.0)),
        ("another dtype", "dtype", lambda p: go_on(p, dtype="float64")),
        ("another seed", "random_state|seed", lambda p: go_on(p, random_state=1)),
        ("fewer sweeps than done", "iterations", lambda p: go_on(p, iterations=2)),
        ("of als for sgd", "checkpoint|solver|als", lambda p: lfm_np.sgd(X, factors=3, epochs=9, checkpoint=p)),
        ("a checkpoint for a model", "model|format", Factors.load),
    ):
        yield Case(f"sealed checkpoint: {name}", resumed(nothing, then), raises((ValueError,), words))
    for name, value in {
        "null": None,
        "-1": -1,
        "10**30": 10**30,
        "text": "x",
        "a list": [[]],
        "a map": {"0": 1},
    }.items():
        yield Case(
            f"sealed checkpoint: {name} for everything that it says",
            resumed(rewritten(None, value), go_on),
            raises((ValueError,), "checkpoint"),
        )
    for name, value in {"nan": np.nan, "inf": np.inf}.items():
        yield Case(
            f"sealed checkpoint: {name} for every number",
            resumed(rewritten(None, value, tensors=True), go_on),
            raises((ValueError,), "checkpoint|finite"),
        )

    def every_key(path: str) -> Any:
        kept = Path(path).read_bytes()
        header, _ = unsealed(kept)
        odd = []
        for key in json.loads(header["__metadata__"]["model"]):
            for value in (None, -1, 2**70, "x", [], {}, 0.5, True):
                Path(path).write_bytes(kept)
                rewritten(key, value)(path)
                try:
                    found = go_on(path)
                    if not np.isfinite(found.item_factors).all() or len(found.history) != 6:
                        odd.append((key, value, found))
                except ValueError as error:
                    if not str(error):
                        odd.append((key, value, error))
                except Exception as error:
                    odd.append((key, value, error))
        return odd

    yield _resume.right("every entry by itself", resumed(nothing, every_key), lambda odd: not odd)

    def thrown(path: str) -> Any:
        def stop(record: dict[str, Any], factors: Any) -> None:
            if record["iteration"] == 5:
                raise KeyError("mine")

        try:
            go_on(path, callback=stop)
        except KeyError:
            return go_on(path)

    yield _resume.right("a callback throws, and the run is gone on with", resumed(nothing, thrown),
                        lambda f: np.array_equal(f.item_factors, whole().item_factors))  # fmt: skip
    for every in (-1.0, float("nan"), "60"):
        yield Case(
            f"sealed checkpoint: every {every!r} seconds",
            lambda e=every: lfm_np.als(X, checkpoint=lfm_np.Checkpoint("/nowhere/at/all", every=e), **OPTIONS),
            raises((ValueError, TypeError), "every"),
        )
    yield Case(
        "sealed checkpoint: in a folder that is not there",
        lambda: lfm_np.als(X, checkpoint="/nowhere/at/all", **OPTIONS),
        Either(Holds(lambda f: False), raises((OSError, ValueError), "/nowhere")),
    )


def cases() -> list[Case]:
    return [*models(), *shells(), *checkpoints()]
