"""Matrices, models and indexes on disk: odd arguments, folders that are spoilt, and files that change under way."""

from __future__ import annotations

import copy
import json
import os
import pickle
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

import lfm_np

from .case import Case, Either, Group, Holds, raises
from .cases_clusters import filed
from .cases_odd_matrices import BAD, WORDS, als, finite, parts, same_scores
from .matrices import REFUSED, plain, raw

_refused, _right = Group("on disk").refused, Group("on disk").right
FILES = (*BAD, OSError)
FULL = sp.csr_array(np.ones((50, 4000), np.float32))


def stored(folder: Path, X: Any = NotImplemented, **words: Any) -> lfm_np.StoredMatrix:
    return lfm_np.StoredMatrix.from_matrix(plain() if X is NotImplemented else X, folder / "matrix", **words)


def made(call: Callable[[Path, lfm_np.StoredMatrix], Any], X: Any = NotImplemented, **words: Any) -> Callable[[], Any]:
    """``call(folder, matrix)`` of a new folder."""
    return filed(lambda folder: call(folder, stored(folder, X, **words)))


def same(X: Any) -> Callable[[Any], bool]:
    """The same bits as of the matrix in memory."""
    return lambda f: bool((f.item_factors == als(X).item_factors).all() and f.shape == X.shape)


def mapped(folder: Path, mode: Any = "r") -> Any:
    """`plain` whose arrays are files."""
    for name, array in parts(plain()).items():
        np.save(folder / name, array)
    return raw(**{name: np.load(folder / f"{name}.npy", mmap_mode=mode) for name in parts(plain())})


# ---- arguments ------------------------------------------------------------------------------------------------------

WORD: dict[str, tuple[Any, ...]] = {
    "zeros": ("kept", None, True, 0),
    "dtype": ("float16", int, None, "nonsense"),
    "memory": (0, -1, 1.5, True, "1G", np.inf),
    "num_threads": (0, -1, 1.5, True, "2"),
}


def arguments() -> Iterator[Case]:
    for word, values in WORD.items():
        for value in values:
            yield _refused(
                f"from_matrix, {word} {value!r}", filed(lambda f, w=word, v=value: stored(f, **{w: v})), word
            )
    for name in ("nan", "complex", "dense array", "None", "index too large", "indptr falls", "coo with a bad index"):
        make, words = REFUSED[name]
        yield _refused(f"from_matrix, X {name}", filed(lambda f, make=make: stored(f, make())), *words)
    for value in (0, -1, 1.5, True, "1G"):
        yield _refused(
            f"memory {value!r}",
            made(lambda f, s, v=value: lfm_np.StoredMatrix(f / "matrix", memory=v)),
            "memory",
        )
    for name, value in {"a number": 3, "no folder": "/nowhere/at/all", "a file": __file__, "empty": ""}.items():
        yield _refused(
            f"factors_in {name}",
            made(lambda f, s, v=value: als(lfm_np.StoredMatrix(f / "matrix", factors_in=v))),
            "factors_in|nowhere|cases_on_disk",
            kind=FILES,
        )
    yield _right("factors_in its own folder", made(
        lambda f, s: als(lfm_np.StoredMatrix(f / "matrix", factors_in=f / "matrix"))), same(plain()))  # fmt: skip
    yield _right("memory of NumPy's kind", made(
        lambda f, s: als(lfm_np.StoredMatrix(f / "matrix", memory=np.int64(1 << 28)))), same(plain()))  # fmt: skip
    yield _refused(
        "memory for less than a row",
        made(lambda f, s: als(lfm_np.StoredMatrix(f / "matrix", memory=1 << 12)), FULL),
        "memory",
        kind=(*BAD, MemoryError),
    )
    for name, make in {
        "there, empty": lambda f: (f / "matrix").mkdir(), "a file": lambda f: (f / "matrix").write_bytes(b"x"),
    }.items():  # fmt: skip
        yield _refused(f"folder {name}", filed(lambda f, make=make: (make(f), stored(f))), "matrix", kind=FILES)
    yield _refused("folder twice", made(lambda f, s: stored(f)), "matrix", kind=FILES)
    yield _refused(
        "folder in no folder",
        filed(lambda f: lfm_np.StoredMatrix.from_matrix(plain(), f / "no" / "matrix")),
        "no",
        kind=FILES,
    )
    yield _right("folder with a slash", filed(
        lambda f: als(lfm_np.StoredMatrix.from_matrix(plain(), f"{f}/matrix/"))), same(plain()))  # fmt: skip
    twice = raw(np.ones(2 * plain().nnz, np.float32), np.repeat(plain().indices, 2), plain().indptr * 2)
    yield _refused(
        "duplicates kept", filed(lambda f: stored(f, twice, zeros="keep")), "X", "more than once|duplicate|twice"
    )


# ---- matrices -------------------------------------------------------------------------------------------------------


def matrices() -> Iterator[Case]:
    for shape in ((0, 0), (0, 5), (5, 0), (1, 1), (1, 40), (40, 1)):
        for fill in (0, 1):
            X = sp.csr_array(np.full(shape, fill, np.float32))
            yield _right(f"shape {shape} of {fill}", made(lambda f, s: als(s), X), same(X))
    for mode in ("r", "r+", "c"):
        yield _right(f"als, mapped {mode}", filed(lambda f, m=mode: als(mapped(f, m))), lambda f: same(plain())(f))
        yield _right(
            f"from_matrix, mapped {mode}", filed(lambda f, m=mode: als(stored(f, mapped(f, m)))), same(plain())
        )
    yield _right("seen, mapped", filed(lambda f: als(plain()).recommend([0], N=5, seen=mapped(f))[0]),
                 lambda ids: (ids == als(plain()).recommend([0], N=5, seen=plain())[0]).all())  # fmt: skip
    for name, use in {
        "deep copy": copy.deepcopy, "pickle": lambda s: pickle.loads(pickle.dumps(s)), "copy": copy.copy,
    }.items():  # fmt: skip
        either = Either(Holds(same(plain())), raises(BAD, "pickle|copy|StoredMatrix"))
        yield Case(f"on disk: {name}", made(lambda f, s, use=use: als(use(s))), either)
    f = als(plain())
    for name, use in {
        "sgd": lambda s: lfm_np.sgd(s, **{**WORDS, "epochs": 1}), "recommend": lambda s: f.recommend([0], seen=s),
        "evaluate": lambda s: lfm_np.evaluate(f, None, s), "objective": lambda s: lfm_np.objective(s, f),
        "fold_in": lambda s: f.fold_in_users(s), "explain": lambda s: f.explain(0, 0, s),
        "torch": lambda s: lfm_np.torch_backend.als(s, **WORDS), "itself": lambda s: stored(Path("/tmp"), s),
        "array": lambda s: lfm_np.als(np.asarray(s)),
        "split": lambda s: s.split(),
    }.items():  # fmt: skip
        yield Case(
            f"on disk: not for {name}",
            made(lambda folder, s, use=use: use(s)),
            Either(
                Holds(lambda r: r is not None), raises((*BAD, AttributeError), "X|seen|test|sparse|StoredMatrix|split")
            ),
        )
    ids = lfm_np.Interactions.from_arrays(["b", "a", "c"], [2, 1, 1])
    yield _right("of interactions", made(lambda folder, s: als(s), ids), same(ids.matrix))


# ---- folders that are spoilt ----------------------------------------------------------------------------------------


def _manifest(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], Any]:
    def spoil(place: Path) -> None:
        found = json.loads((place / "manifest.json").read_text())
        (place / "manifest.json").write_text(json.dumps(change(found)))

    return spoil


def _other(place: Path) -> None:
    """The rows of another matrix of the same shape."""
    other = place.parent / "other"
    lfm_np.StoredMatrix.from_matrix(plain(1), other)
    shutil.copy(other / "rows.indices.npy", place / "rows.indices.npy")


def _longer(place: Path) -> None:
    with open(place / "rows.data.npy", "ab") as file:
        file.write(b"\0" * 4)


def _objects(place: Path) -> None:
    np.save(place / "rows.data.npy", np.array([{}], object), allow_pickle=True)


def folders() -> Iterator[Case]:
    for name, spoil in {
        "no manifest": lambda p: (p / "manifest.json").unlink(),
        "a manifest of bytes": lambda p: (p / "manifest.json").write_bytes(b"\xff\xfe{"),
        "an empty manifest": lambda p: (p / "manifest.json").write_bytes(b""),
        "a manifest with a list": _manifest(lambda m: [m]),
        "a manifest of huge shape": _manifest(lambda m: m | {"shape": [2**62, 2**62]}),
        "a manifest of negative shape": _manifest(lambda m: m | {"shape": [-1, 3]}),
        "a manifest of no shape": _manifest(lambda m: {k: v for k, v in m.items() if k != "shape"}),
        "a manifest of another dtype": _manifest(lambda m: m | {"dtype": "float64"}),
        "a manifest very deep": lambda p: (p / "manifest.json").write_text("[" * 10**5),
        "no columns": lambda p: (p / "columns.data.npy").unlink(),
        "a file that is a folder": lambda p: ((p / "rows.data.npy").unlink(), (p / "rows.data.npy").mkdir()),
        "a file that is a FIFO": lambda p: ((p / "rows.data.npy").unlink(), os.mkfifo(p / "rows.data.npy")),
        "a link to nothing": lambda p: ((p / "rows.data.npy").unlink(), os.symlink("nowhere", p / "rows.data.npy")),
        "a longer file": _longer,
        "rows of another matrix": _other,
        "objects": _objects,
    }.items():
        yield _refused(
            f"folder with {name}",
            made(lambda f, s, spoil=spoil: (spoil(f / "matrix"), als(lfm_np.StoredMatrix(f / "matrix")))),
            "manifest" if "manifest" in name and "huge" not in name and "dtype" not in name else ".npy",
            kind=FILES,
        )
    yield _refused("a folder of nothing", filed(lambda f: lfm_np.StoredMatrix(f)), "folder|manifest", kind=FILES)
    moved = lambda f, s: (os.rename(f / "matrix", f / "new"), als(lfm_np.StoredMatrix(f / "new")))[1]  # noqa: E731
    yield _right("a folder that moved", made(moved), same(plain()))
    gone = lambda f, s: (shutil.rmtree(f / "matrix"), als(s))[1]  # noqa: E731
    yield Case(
        "on disk: a folder that went while open", made(gone), Either(Holds(same(plain())), raises(FILES, "matrix"))
    )
    yield Case(
        "on disk: another folder that came", made(_exchanged), Either(Holds(same(plain())), raises(FILES, "matrix"))
    )
    yield Case("on disk: indices that changed while open", made(_overwritten), raises(FILES, "rows.indices|matrix|X"))
    yield Case(
        "on disk: a folder named from a folder that was left",
        made(_left),
        Either(Holds(same(plain())), raises(FILES, "matrix")),
    )


def _exchanged(folder: Path, s: Any) -> Any:
    shutil.rmtree(folder / "matrix")
    lfm_np.StoredMatrix.from_matrix(plain(3), folder / "matrix")
    return als(s)


def _overwritten(folder: Path, s: Any) -> Any:
    with open(folder / "matrix" / "rows.indices.npy", "r+b") as file:
        file.seek(-40, os.SEEK_END)
        file.write(b"\xff\xff\xff\x7f" * 10)
    return als(s)


def _left(folder: Path, s: Any) -> Any:
    os.chdir(folder)
    named = lfm_np.StoredMatrix("matrix")
    os.chdir("/")
    return als(named)


# ---- from Parquet ---------------------------------------------------------------------------------------------------


def _from_parquet(columns: dict[str, Any], **words: Any) -> Callable[[], Any]:
    def run(folder: Path) -> Any:
        import pyarrow as pa
        from pyarrow import parquet

        (folder / "in").mkdir()
        parquet.write_table(pa.table(columns), folder / "in" / "a.parquet")
        found = lfm_np.StoredMatrix.from_parquet(folder / "in", folder / "matrix", **words)
        return found.shape, found.nnz, als(found)

    return filed(run)


def parquet() -> Iterator[Case]:
    pairs = {"user": ["b", "a", "b"], "item": [1, 2, 1], "value": [1.0, 2.0, 3.0]}
    yield _right("from_parquet", _from_parquet(pairs), lambda r: r[:2] == ((2, 2), 2) and finite(r[2]))
    for name, columns, words, word in (
        ("null ids", pairs | {"user": ["b", None, "a"]}, {}, "null"),
        ("lists", pairs | {"user": [[1], [2], [3]]}, {}, "user"),
        ("no user", {"item": [1]}, {}, "user"),
        ("values infinite", pairs | {"value": [1.0, np.inf, 1.0]}, {"value": "value"}, "value"),
        ("values beyond float32", pairs | {"value": [1.0, 1e300, 1.0]}, {"value": "value"}, "value"),
        ("values text", pairs | {"value": ["1", "2", "3"]}, {"value": "value"}, "value"),
        ("values null", pairs | {"value": [1.0, None, 1.0]}, {"value": "value"}, "value"),
        ("duplicates odd", pairs, {"duplicates": "first"}, "duplicates"),
        ("duplicates refused", pairs, {"duplicates": "error"}, "duplicate|more than once|repeat"),
        ("nulls keep", pairs, {"nulls": "keep"}, "nulls"),
        ("a time", pairs, {"timestamp": "value"}, "timestamp"),
        ("memory of a byte", pairs, {"memory": 1}, "memory"),
        ("memory text", pairs, {"memory": "1G"}, "memory"),
        ("zeros odd", pairs, {"zeros": "no"}, "zeros"),
        ("misspelt", pairs, {"users": "user"}, "users"),
    ):
        yield _refused(f"from_parquet, {name}", _from_parquet(columns, **words), word, kind=(*BAD, MemoryError))
    nothing = {"user": np.array([], str), "item": np.array([], int)}
    yield Case(
        "on disk: from_parquet, no records",
        _from_parquet(nothing),
        Either(Holds(lambda r: r[:2] == ((0, 0), 0)), raises(BAD, "records|path")),
    )


# ---- models ---------------------------------------------------------------------------------------------------------


def _model(folder: Path) -> tuple[Path, Any]:
    f = als(plain())
    f.save(folder / "model")
    return folder / "model", f


def models() -> Iterator[Case]:
    def replaced(folder: Path) -> Any:
        path, f = _model(folder)
        held = lfm_np.Factors.load(path, mmap=True)
        als(plain(1)).save(path)
        return same_scores(held, f)

    def removed(folder: Path) -> Any:
        path, f = _model(folder)
        held = lfm_np.Factors.load(path, mmap=True)
        path.unlink()
        return same_scores(held, f) and (held.recommend([0], N=5)[0] == f.recommend([0], N=5)[0]).all()

    def over_itself(folder: Path) -> Any:
        path, f = _model(folder)
        held = lfm_np.Factors.load(path, mmap=True)
        held.save(path)
        return same_scores(held, f) and same_scores(lfm_np.Factors.load(path), f)

    def linked(folder: Path) -> Any:
        path, _ = _model(folder)
        (folder / "link").symlink_to(path)
        als(plain(1)).save(folder / "link")
        return (folder / "link").is_symlink() and same_scores(lfm_np.Factors.load(path), als(plain(1)))

    for call in (replaced, removed, over_itself, linked):
        yield _right(f"a mapped model, {call.__name__}", filed(call))
    for name, make in {
        "a folder": lambda f: f, "a pickle": lambda f: _write(f, pickle.dumps(als)),
        "nothing": lambda f: _write(f, b""),
        "zeros": lambda f: _write(f, bytes(1000)), "a huge header": lambda f: _write(f, b"\xff" * 7 + b"\x7f" + b"{}"),
        "a FIFO": lambda f: (os.mkfifo(f / "x"), f / "x")[1], "a device": lambda f: "/dev/zero",
    }.items():  # fmt: skip
        for mmap in (False, True):
            yield _refused(
                f"load {name}{', mapped' if mmap else ''}",
                filed(lambda f, make=make, mmap=mmap: lfm_np.Factors.load(make(f), mmap=mmap)),
                "model|regular|directory|/dev/zero",
                kind=FILES,
            )


def _write(folder: Path, data: bytes) -> Path:
    (folder / "x").write_bytes(data)
    return folder / "x"


def cases() -> list[Case]:
    return [*arguments(), *matrices(), *folders(), *parquet(), *models()]
