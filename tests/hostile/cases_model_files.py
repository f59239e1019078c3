"""Model files that were edited, sealed again, swapped, shared, linked or written where they cannot be."""

from __future__ import annotations

import copy
import json
import os
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

import lfm_np
from lfm_np import Factors

from .case import Case, Either, Group, Holds, raises
from .places import child, holding, inside, largest_file, model, parts, same, sealed, table, together

_refused, _right = Group("model files").refused, holding(Group("model files"))
UNREADABLE = (ValueError, OSError)


def edited(change: Callable[[dict[str, Any], bytearray], Any], **words: Any) -> Callable[[], Factors]:
    """Loads a file whose header and tensors were changed and whose checksum is right again."""

    def work(folder: Path) -> Factors:
        path = folder / "model.safetensors"
        model(biases=True, global_bias=0.5, **words).save(path)
        header, body = parts(path)
        tensors = bytearray(body)
        change(header, tensors)
        path.write_bytes(sealed(header, bytes(tensors)))
        return Factors.load(path)

    return inside(work)


def says(**changes: Any) -> Callable[[dict[str, Any], bytearray], None]:
    """Changes of what the metadata say of the model."""

    def change(header: dict[str, Any], body: bytearray) -> None:
        held = {**json.loads(header["__metadata__"]["model"]), **changes}
        header["__metadata__"]["model"] = json.dumps(held)

    return change


def tensor(name: str, **changes: Any) -> Callable[[dict[str, Any], bytearray], None]:
    return lambda header, body: header[name].update(changes)


def number(name: str, value: float) -> Callable[[dict[str, Any], bytearray], None]:
    """The first number of a tensor."""

    def change(header: dict[str, Any], body: bytearray) -> None:
        start = header[name]["data_offsets"][0]
        body[start : start + 4] = np.float32(value).tobytes()

    return change


def renamed(header: dict[str, Any], body: bytearray) -> None:
    header["user_factor"] = header.pop("user_factors")


def extra(header: dict[str, Any], body: bytearray) -> None:
    header["evil"] = {"dtype": "F32", "shape": [1], "data_offsets": [len(body), len(body) + 4]}
    body += b"\0" * 4


def overlapping(header: dict[str, Any], body: bytearray) -> None:
    header["user_bias"]["data_offsets"] = header["user_factors"]["data_offsets"]
    header["user_bias"]["shape"] = header["user_factors"]["shape"]


def by_hand() -> Iterator[Case]:
    whole = model(biases=True, global_bias=0.5)
    yield _right("nothing changed, sealed again", edited(lambda header, body: None), lambda f: same(f, whole))
    changes: dict[str, tuple[Callable[[dict[str, Any], bytearray], Any], tuple[str, ...]]] = {
        "a tensor of another name": (renamed, ("user_factor",)),
        "a tensor more": (extra, ("evil",)),
        "items of fewer factors": (tensor("item_factors", shape=[15, 1]), ("factors",)),
        "a flat matrix": (tensor("user_factors", shape=[21]), ("user_factors",)),
        "numbers that are integers": (tensor("user_factors", dtype="I32"), ("i32|dtype|float",)),
        "twice as many numbers of half the size": (tensor("user_factors", dtype="F16", shape=[7, 6]), ("f16|dtype",)),
        "a size beyond 64 bits": (tensor("user_factors", shape=[1 << 40, 1 << 40]), ("user_factors|header|invalid",)),
        "a negative size": (tensor("user_factors", shape=[-7, -3]), ("header|invalid|shape|user_factors",)),
        "tensors that overlap": (overlapping, ("user_bias|header|offset|invalid",)),
        "NaN among users": (number("user_factors", np.nan), ("user_factors",)),
        "infinity among items' biases": (number("item_bias", -np.inf), ("item_bias",)),
        "a text as μ": (says(global_bias="0.5"), ("global_bias",)),
        "NaN as μ": (says(global_bias=float("nan")), ("global_bias|nan",)),
        "true as μ": (says(global_bias=True), ("global_bias",)),
        "a list as μ": (says(global_bias=[0.5]), ("global_bias",)),
        "an unknown status": (says(status="finished"), ("status|finished",)),
        "no status": (says(status=None), ("status",)),
        "history that is no list": (says(history={"0": {}}), ("history",)),
        "history of numbers": (says(history=[1, 2]), ("history",)),
        "params that are a list": (says(params=[1]), ("params",)),
        "a key more": (says(code="import os"), ("code|keys|key",)),
        "the next version": (lambda h, b: h["__metadata__"].update(version="2"), ("version",)),
        "a version that is a number": (lambda h, b: h["__metadata__"].update(version=1), ("header|version|metadata",)),
        "another format": (lambda h, b: h["__metadata__"].update(format="pt"), ("format|model|lfm_np",)),
        "no metadata": (lambda h, b: h.pop("__metadata__"), ("format|metadata|lfm_np|model",)),
        "model that is no JSON": (lambda h, b: h["__metadata__"].update(model="{'a': 1}"), ("json|model|metadata",)),
        "model nested a hundred thousand deep": (
            lambda h, b: h["__metadata__"].update(model="[" * 100_000),
            ("json|model|metadata|nested",),
        ),
        "a number of five thousand digits": (
            lambda h, b: h["__metadata__"].update(model='{"global_bias":' + "9" * 5000 + "}"),
            ("json|model|metadata|global_bias|digits",),
        ),
        "bytes beyond the last tensor": (
            lambda h, b: b.extend(b"\0" * 64),
            ("bytes|long|size|header|invalid|damaged",),
        ),
        "no tensors": (
            lambda h, b: [h.pop(name) for name in list(h) if name != "__metadata__"],
            ("factors|header|size",),
        ),
    }
    for name, (change, words) in changes.items():
        yield _refused(name, edited(change), *words, kind=ValueError)


def raw(write: Callable[[bytes], bytes]) -> Callable[[], Factors]:
    def work(folder: Path) -> Factors:
        path = folder / "model.safetensors"
        model().save(path)
        path.write_bytes(write(path.read_bytes()))
        return Factors.load(path)

    return inside(work)


def twice(data: bytes, key: bytes) -> bytes:
    """A header in which a key stands twice."""
    length = int.from_bytes(data[:8], "little")
    header, body = data[8 : 8 + length].rstrip(), data[8 + length :]
    start = header.index(key)
    end = header.index(b"}", start) + 1
    return sealed(header[:start] + header[start:end] + b"," + header[start:], body)


def status_twice(data: bytes) -> bytes:
    length = int.from_bytes(data[:8], "little")
    header = data[8 : 8 + length].rstrip().replace(rb"\"status\":", rb"\"status\":\"tolerance\",\"status\":", 1)
    return sealed(header, data[8 + length :])


def foreign() -> Iterator[Case]:
    yield _refused("a header of 2⁶³ bytes", raw(lambda d: (1 << 63).to_bytes(8, "little") + d[8:]), kind=ValueError)
    yield _refused("a header of no bytes", raw(lambda d: bytes(8) + d[8:]), kind=ValueError)
    yield _refused("a header of all there is", raw(lambda d: len(d).to_bytes(8, "little") + d[8:]), kind=ValueError)
    yield _refused("seven bytes", raw(lambda d: d[:7]), kind=ValueError)
    yield _refused(
        "a tensor twice",
        raw(lambda d: twice(d, b'"user_factors":{')),
        "user_factors|twice|dupl|repeat|header",
        kind=ValueError,
    )
    yield _refused("status twice", raw(status_twice), "status|twice|dupl|repeat|key", kind=ValueError)
    yield _refused("two models in one file", raw(lambda d: d + d), kind=ValueError)
    yield _refused("capital digits of the checksum", raw(_capitals), "sha256|checksum|damaged", kind=ValueError)
    yield _refused("a pickle", raw(lambda d: pickle.dumps(model())), kind=ValueError)
    yield _refused("a page of HTML", raw(lambda d: b"<!DOCTYPE html><html>not found</html>"), kind=ValueError)

    def other(folder: Path) -> Factors:
        path = folder / "embeddings.safetensors"
        arrays = {"user_factors": np.ones((3, 2), np.float32), "item_factors": np.ones((4, 2), np.float32)}
        safetensors.numpy.save_file(arrays, path, metadata={"format": "pt"})
        return Factors.load(path)

    yield _refused("safetensors of torch", inside(other), "format|lfm_np|model", kind=ValueError)

    def arrays(folder: Path) -> Factors:
        np.savez(folder / "model.npz", user_factors=np.ones((3, 2)), item_factors=np.ones((4, 2)))
        return Factors.load(folder / "model.npz")

    yield _refused("an .npz", inside(arrays), kind=ValueError)

    def checkpoint(folder: Path) -> Factors:
        lfm_np.als(table(), factors=2, iterations=1, checkpoint=folder / "run")
        return Factors.load(folder / "run")

    yield _refused("a checkpoint", inside(checkpoint), "checkpoint|format|model", kind=ValueError)

    def read_elsewhere(folder: Path) -> bool:
        fitted = model(biases=True)
        fitted.save(folder / "m")
        there = safetensors.numpy.load_file(folder / "m")
        return all(np.array_equal(there[name], getattr(fitted, name)) for name in there) and len(there) == 4

    yield _right("another program reads it", inside(read_elsewhere))


def _capitals(data: bytes) -> bytes:
    start = data.index(b'"sha256":"') + 10
    return data[:start] + data[start : start + 64].upper() + data[start + 64 :]


def again(fitted: Factors, name: str = "m", mmap: bool = False) -> Callable[[], Factors]:
    """Saved and loaded."""

    def work(folder: Path) -> Factors:
        fitted.save(folder / name)
        found = Factors.load(folder / name, mmap=mmap)
        return copy.deepcopy(found)  # outlives the folder

    return inside(work)


def round_trips() -> Iterator[Case]:
    rng = np.random.default_rng(0)
    smallest = np.array([[-0.0, 5e-324, 1.7976931348623157e308]])
    fortran = np.asfortranarray(rng.normal(size=(7, 3)))
    models = {
        "zeros of either sign, the least and the largest": Factors(smallest, smallest.copy()),
        "columns first": Factors(fortran, rng.normal(size=(5, 3))),
        "every second row": Factors(rng.normal(size=(14, 3))[::2], rng.normal(size=(5, 3))),
        "biases of users only": Factors(np.ones((2, 1)), np.ones((3, 1)), user_bias=np.array([1.0, -2.0])),
        "biases of items only": Factors(np.ones((2, 1)), np.ones((3, 1)), item_bias=np.array([1.0, -2.0, 0.0])),
        "a constant only": Factors(np.ones((2, 1)), np.ones((3, 1)), global_bias=-1.5),
    }
    for name, fitted in models.items():
        for mmap in (False, True):
            yield _right(
                f"{name}, mmap={mmap}",
                again(fitted, mmap=mmap),
                lambda f, m=fitted: (
                    same(f, m) and np.array_equal(np.signbit(f.user_factors), np.signbit(m.user_factors))
                ),
            )
    for name in (
        "ümläut 模型 🎧",
        os.fsdecode(b"\xff\xfe.bin"),
        "a" * 250,
        " ",
        "new\nline",
        "-o",
        "model%20.safetensors",
    ):
        shown = ascii(name[:20])
        yield _right(f"a file called {shown}", again(model(), name), lambda f: same(f, model()))
    yield _refused("a name of 300 letters", again(model(), "a" * 300), kind=OSError)
    kept = {"tuple": (1, 2), "deep": {"a": [None, True, -1.5e-300]}, "text": "ü\n\"'\\\u2028"}
    yield _right(
        "params of every kind that JSON has",
        again(model(params=kept)),
        lambda f: f.params == {**kept, "tuple": [1, 2]},
    )
    yield _right(
        "an integer of 400 digits in params", again(model(params={"a": 10**400})), lambda f: f.params["a"] == 10**400
    )
    bad: dict[str, Any] = {
        "bytes": {"a": b"x"},
        "an array": {"a": np.ones(2)},
        "a set": {"a": {1}},
        "an integer of 5000 digits": {"a": 10**4999},
    }
    for name, value in bad.items():
        yield _refused(f"{name} in params", lambda v=value: again(model(params=v))(), "params")
    either: dict[str, Any] = {
        "a number as key": {1: 2},
        "NaN": {"a": float("nan")},
        "half a surrogate pair": {"a": "\ud800"},
        "None as key": {None: 2},
    }
    for name, value in either.items():
        yield Case(
            f"model files: {name} in params",
            lambda v=value: again(model(params=v))(),
            Either(
                Holds(lambda f, v=value: repr(dict(f.params)) == repr(v)),
                raises((TypeError, ValueError), "params"),
            ),
        )


def places() -> Iterator[Case]:
    yield _refused("load a folder", inside(lambda f: Factors.load(f)), kind=UNREADABLE)
    yield _refused("load what is not there", inside(lambda f: Factors.load(f / "none")), "none", kind=OSError)
    yield _refused("load below a file", inside(lambda f: Factors.load(_saved(f) / "x")), kind=OSError)

    def fifo(folder: Path) -> Factors:
        os.mkfifo(folder / "pipe")
        return Factors.load(folder / "pipe")

    yield _refused("load a pipe that nobody writes", inside(fifo), "pipe|regular|fifo", kind=UNREADABLE)

    def loop(folder: Path) -> Factors:
        (folder / "a").symlink_to(folder / "b")
        (folder / "b").symlink_to(folder / "a")
        return Factors.load(folder / "a")

    yield _refused("load links that lead in a circle", inside(loop), kind=OSError)
    yield _refused("load /dev/zero", lambda: Factors.load("/dev/zero"), "/dev/zero", kind=UNREADABLE)
    yield _refused("save to /dev/full", lambda: model().save("/dev/full"), "/dev/full", kind=ValueError)
    yield _refused("save below /proc", lambda: model().save("/proc/model"), "/proc/model", kind=OSError)
    yield _refused("a number as path", lambda: model().save(3), "path", kind=TypeError)  # type: ignore[arg-type]

    def onto_folder(folder: Path) -> Any:
        (folder / "m").mkdir()
        try:
            model().save(folder / "m")
        finally:
            assert [entry.name for entry in folder.iterdir()] == ["m"]
            assert list((folder / "m").iterdir()) == []

    yield _refused("save onto a folder", inside(onto_folder), kind=UNREADABLE)
    yield _refused("save to NAME/", inside(lambda f: model().save(f"{f}/m/")), kind=UNREADABLE)

    def linked(folder: Path) -> bool:
        _saved(folder)
        (folder / "latest").symlink_to(folder / "m")
        model(seed=6).save(folder / "latest")
        return same(Factors.load(folder / "latest"), model(seed=6)) and _only(folder, "m", "latest")

    yield _right("save through a link", inside(linked))

    def small(folder: Path) -> bool:
        _saved(folder)
        rng = np.random.default_rng(0)
        try:
            with largest_file(1000):
                Factors(rng.normal(size=(100, 9)), rng.normal(size=(100, 9))).save(folder / "m")
        except OSError:
            return same(Factors.load(folder / "m"), model()) and _only(folder, "m")
        return False

    yield _right("no room: the old file stays, alone", inside(small))

    def gone(folder: Path) -> bool:
        here = os.getcwd()
        (folder / "gone").mkdir()
        os.chdir(folder / "gone")
        (folder / "gone").rmdir()
        try:
            _saved(folder)
            return same(Factors.load(folder / "m"), model())
        finally:
            os.chdir(here)

    yield _right("an absolute path from a folder that was removed", inside(gone))

    class Path2:
        def __init__(self, path: Path) -> None:
            self.path = path

        def __fspath__(self) -> str:
            return str(self.path)

    yield _right(
        "an object of another library as path", inside(lambda f: same(Factors.load(Path2(_saved(f))), model()))
    )

    def replaced(folder: Path) -> bool:
        old = Factors.load(_saved(folder), mmap=True)
        model(seed=6).save(folder / "m")
        return same(old, model()) and same(Factors.load(folder / "m"), model(seed=6))

    yield _right("a mapped model whose file is replaced", inside(replaced))
    yield _right(
        "a mapped model cannot be written to",
        inside(lambda f: not Factors.load(_saved(f), mmap=True).user_factors.flags.writeable),
    )

    def pickled(folder: Path) -> bool:
        mapped = Factors.load(_saved(folder), mmap=True)
        text = pickle.dumps(mapped)
        os.remove(folder / "m")
        return same(pickle.loads(text), model()) and same(copy.deepcopy(mapped), model())

    yield _right("a mapped model is pickled, its file gone", inside(pickled))

    def writers(folder: Path) -> bool:
        _saved(folder)
        some = [model(seed=seed) for seed in range(6)]

        def work(place: int) -> bool:
            if place < 3:
                for _ in range(5):
                    some[place].save(folder / "m")
                return True
            read = [Factors.load(folder / "m") for _ in range(10)]
            return all(any(same(found, written) for written in [*some, model()]) for found in read)

        return together(6, work) == [True] * 6 and _only(folder, "m")

    yield _right("three threads write and three read", inside(writers))

    def processes(folder: Path) -> bool:
        done = together(3, lambda place: child(lambda: model(seed=place).save(folder / "m") is None))
        return (
            done == [0] * 3
            and _only(folder, "m")
            and any(same(Factors.load(folder / "m"), model(seed=s)) for s in range(3))
        )

    yield _right("three processes write one file", inside(processes))


def _saved(folder: Path) -> Path:
    model().save(folder / "m")
    return folder / "m"


def _only(folder: Path, *names: str) -> bool:
    """No temporary file is left."""
    return sorted(entry.name for entry in folder.iterdir()) == sorted(names)


def cases() -> list[Case]:
    return [*by_hand(), *foreign(), *round_trips(), *places()]
