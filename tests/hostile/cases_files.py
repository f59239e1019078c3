"""Data frames and files, models, indexes, pages and commands. Each part needs its packages and is left out without."""

from __future__ import annotations

import gzip
import io
import json
import os
import tempfile
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

from lfm_np import Factors, Interactions, StoredMatrix, ann

from .case import Case, Holds, installed, raises
from .cases_formats import _coo, _falling
from .cases_results import made
from .matrices import at, changed, plain

BAD = (TypeError, ValueError)
DAMAGED = raises(ValueError, "not a whole and valid")


def cases() -> list[Case]:
    found = [
        Case(f"stored: {name}", _stored, expect, lambda damage=damage: {"damage": damage})
        for name, (damage, expect) in STORED.items()
    ]
    if installed("narwhals", "pandas", "polars", "pyarrow"):
        found += [
            Case(f"frame: {name}", lambda make=make: _ids(Interactions.from_frame(make())), expect)
            for name, (make, expect) in _frames().items()
        ]
    if installed("pyarrow"):
        found += [
            Case(f"csv: {name}", lambda text=text, options=options: _csv(text, options), expect)
            for name, (text, options, expect) in CSV.items()
        ]
        found += [
            Case(f"path: {name}", lambda path=path: Interactions.from_parquet(path), expect)
            for name, (path, expect) in PATHS.items()
        ]
    if installed("usearch", "faiss"):
        found += [Case(f"ann: {name}", call, expect) for name, (call, expect) in ANN.items()]
    if installed("sklearn"):
        found += [
            Case(f"sklearn: {name}", _estimate, expect, lambda make=make: {"X": make()})
            for name, (make, expect) in SKLEARN.items()
        ]
    if installed("typer", "rich"):
        found += [
            Case(f"npz: {name}", lambda arrays=arrays: _info(arrays), says(*words))
            for name, (arrays, words) in NPZ.items()
        ]
    if installed("matplotlib"):
        found += [
            Case(f"report: {name}", lambda options=options: _page(**options), expect)
            for name, (options, expect) in PAGES.items()
        ]
    return found


def says(*words: str) -> Holds:
    """A command that ends with status 2 or 3 and one line with these words."""
    return Holds(lambda r, **_: r[0] in (2, 3) and r[1].count("\n") == 1 and all(word in r[1] for word in words))


# ---- a matrix on disk -----------------------------------------------------------------------------------------------


def _stored(damage: Callable[[Path], Any]) -> StoredMatrix:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place, "matrix")
        StoredMatrix.from_matrix(plain(), folder, num_threads=1)
        damage(folder)
        return StoredMatrix(folder)


def _manifest(**changes: Any) -> Callable[[Path], Any]:
    def damage(folder: Path) -> None:
        path = folder / "manifest.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return damage


def _bytes(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path], Any]:
    return lambda folder: (folder / name).write_bytes(change((folder / name).read_bytes()))


STORED: dict[str, tuple[Callable[[Path], Any], Any]] = {
    "untouched": (lambda folder: None, Holds(lambda r, **_: r.shape == plain().shape)),
    "deep manifest": (_bytes("manifest.json", lambda b: b"[" * 10**5 + b"]" * 10**5), DAMAGED),
    "manifest a list": (_bytes("manifest.json", lambda b: b"[1]"), DAMAGED),
    "manifest of bytes": (_bytes("manifest.json", lambda b: b"\xff\xfe"), DAMAGED),
    "integer of 5000 digits": (_bytes("manifest.json", lambda b: b'{"format":' + b"1" * 5000 + b"}"), DAMAGED),
    "huge shape": (_manifest(shape=[10**18, 10**18]), DAMAGED),
    "shape null": (_manifest(shape=None), DAMAGED),
    "negative shape": (_manifest(shape=[-1, 30]), DAMAGED),
    "nnz true": (_manifest(nnz=True), DAMAGED),
    "dtype object": (_manifest(dtype="object"), DAMAGED),
    "another least value": (_manifest(rows={"lowest": 0}), DAMAGED),
    "values cut": (_bytes("rows.data.npy", lambda b: b[:-3]), DAMAGED),
    "a value changed": (_bytes("rows.data.npy", lambda b: b[:200] + b"\1" + b[201:]), DAMAGED),
    "values of objects": (_bytes("rows.data.npy", lambda b: b.replace(b"'<f4'", b"'|O' ")), DAMAGED),
    "index 2147483647": (_bytes("columns.indices.npy", lambda b: b[:128] + b"\xff\xff\xff\x7f" + b[132:]), DAMAGED),
    "a file of ids appears": (lambda folder: (folder / "users.parquet").write_bytes(b"junk"), DAMAGED),
    "ids a FIFO": (lambda folder: os.mkfifo(folder / "users.parquet"), DAMAGED),
}


# ---- tables ---------------------------------------------------------------------------------------------------------


def _ids(data: Interactions) -> list[Any]:
    return data.users.tolist()


def _frames() -> dict[str, tuple[Callable[[], Any], Any]]:
    """Each with a column of users that is odd."""
    import pandas as pd
    import polars as pl
    import pyarrow as pa

    def arrow(users: Any) -> Any:
        return pa.table({"user": users, "item": list(range(len(users)))})

    def buffers(offsets: list[int], text: bytes) -> Any:
        places = pa.py_buffer(np.array(offsets, np.int32))
        return arrow(pa.Array.from_buffers(pa.string(), 2, [None, places, pa.py_buffer(text)]))

    def objects(*values: Any) -> Any:
        return pd.DataFrame({"user": np.array([*values, None], object)[:-1], "item": range(len(values))})

    def indexed(numbers: list[int], values: Any) -> Any:
        return pa.DictionaryArray.from_arrays(pa.array(numbers), pa.array(values), safe=False)

    kinds, invalid = raises(TypeError, "kind"), raises(ValueError, "invalid arrow")
    return {
        "offsets that lead away": (lambda: buffers([0, 10**8, 2], b"ab"), invalid),
        "text that is not UTF-8": (lambda: buffers([0, 1, 2], b"\xff\xfe"), invalid),
        "dictionary, index too large": (lambda: arrow(indexed([0, 99], ["a", "b"])), invalid),
        "dictionary, equal values": (lambda: arrow(indexed([0, 1], ["a", "a"])), Holds(lambda r, **_: r == ["a"])),
        "dictionary, null value": (lambda: arrow(indexed([0, 1], ["a", None])), raises(ValueError, "null", "user")),
        "lists": (lambda: arrow(pa.array([[1], [2]])), kinds),
        "structs": (lambda: arrow(pa.array([{"a": 1}])), kinds),
        "months and days": (lambda: arrow(pa.array([(1, 2, 3)], pa.month_day_nano_interval())), kinds),
        "text and bytes": (lambda: objects("a", b"a"), kinds),
        "1 and '1'": (lambda: objects(1, "1"), kinds),
        "beyond uint64": (lambda: objects(2**64, 1), kinds),
        "complex": (lambda: pd.DataFrame({"user": [1j], "item": [1]}), kinds),
        "half a surrogate pair": (lambda: objects("\ud800", "a"), raises(BAD, "surrogates")),
        "unknown integer": (
            lambda: pd.DataFrame({"user": pd.array([1, None], "Int64"), "item": [1, 2]}),
            raises(ValueError, "null", "user"),
        ),
        "equal names": (
            lambda: pd.DataFrame([[1, 2, 3]], columns=["user", "user", "item"]),
            raises(ValueError, "unique", "user"),
        ),
        "no columns": (pd.DataFrame, raises(ValueError, "user", "no column")),
        "no rows": (lambda: pl.DataFrame({"user": [], "item": []}), Holds(lambda r, **_: r == [])),
        "polars objects": (lambda: pl.DataFrame({"user": pl.Series([{1}], dtype=pl.Object), "item": [1]}), kinds),
    }


def _csv(text: bytes, options: dict[str, Any]) -> list[Any]:
    with tempfile.TemporaryDirectory() as place:
        path = Path(place, options.pop("name", "table.csv"))
        path.write_bytes(text)
        return _ids(Interactions.from_csv(path, **options))


HEAD = b"user,item\n"
UNREADABLE = raises(ValueError, "cannot read", ".csv")
CSV: dict[str, tuple[bytes, dict[str, Any], Any]] = {
    "UTF-16": ("user,item\na,b\n".encode("utf-16"), {}, UNREADABLE),
    "Latin-1": (HEAD + b"\xe9,1\n", {}, raises(ValueError, "user", "utf-8")),
    "byte order mark": (b"\xef\xbb\xbf" + HEAD + b"a,b\n", {}, Holds(lambda r: r == ["a"])),
    "NUL": (HEAD + b"a\0,b\na,c\n", {}, Holds(lambda r: r == ["a", "a\0"])),
    "empty": (b"", {}, UNREADABLE),
    "lines of unequal length": (HEAD + b"1,2\n3\n", {}, UNREADABLE),
    "open quotes": (HEAD + b'"a,2\n3,4\n', {}, UNREADABLE),
    "equal names": (b"user,user,item\n1,2,3\n", {}, UNREADABLE),
    "integers beyond 64 bits": (
        HEAD + b"99999999999999999999,1\n99999999999999999998,2\n",
        {},
        raises(ValueError, "user", "column_types"),
    ),
    "told to be text": (
        HEAD + b"99999999999999999999,1\n99999999999999999998,2\n",
        {"column_types": {"user": "string"}},
        Holds(lambda r: len(r) == 2),
    ),
    "no gzip": (HEAD + b"1,2\n", {"name": "table.csv.gz"}, UNREADABLE),
    "gzip, cut": (
        gzip.compress(HEAD + os.urandom(999).hex().encode() + b",1\n")[:-20],
        {"name": "table.csv.gz"},
        UNREADABLE,
    ),
    "value nan": (b"user,item,value\n1,2,nan\n", {"value": "value"}, raises(ValueError, "null", "value")),
    "denormal value": (b"user,item,value\n1,2,1e-310\n", {"value": "value"}, Holds(lambda r: r == [1])),
    "value 1e400": (b"user,item,value\n1,2,1e400\n", {"value": "value"}, raises(ValueError, "value", "float32")),
    "types of no column": (
        HEAD + b"1,2\n",
        {"column_types": {"usr": "string"}},
        raises(ValueError, "column_types", "usr"),
    ),
    "type unknown": (HEAD + b"1,2\n", {"column_types": {"user": "strin"}}, raises(ValueError, "column_types", "strin")),
    "type a number": (HEAD + b"1,2\n", {"column_types": {"user": 5}}, raises(ValueError, "column_types")),
    "types a number": (HEAD + b"1,2\n", {"column_types": 5}, raises(TypeError, "column_types")),
    "names a text": (b"1,2\n", {"column_names": "ui"}, raises(TypeError, "column_names")),
    "names numbers": (b"1,2\n", {"column_names": [1, 2]}, raises(TypeError, "column_names")),
    "delimiter a quote": (HEAD, {"delimiter": '"'}, raises(ValueError, "delimiter")),
    "delimiter not ASCII": (HEAD, {"delimiter": "ä"}, raises(ValueError, "delimiter")),
    "user None": (HEAD, {"user": None}, raises(TypeError, "user")),
}
PATHS: dict[str, tuple[Any, Any]] = {
    "None": (None, raises(TypeError, "path")),
    "a number": (7, raises(TypeError, "path")),
    "empty": ("", raises(ValueError, "path")),
    "NUL": ("a\0b", raises(ValueError, "path")),
    "not there": ("nowhere.parquet", raises(OSError, "nowhere.parquet")),
    "no Parquet": (__file__, raises(ValueError, "cannot read", ".py")),
}


# ---- models ---------------------------------------------------------------------------------------------------------


def _index(library: str = "usearch", factors: Factors | None = None) -> Any:
    options = {"num_threads": 1} if library == "usearch" else {}
    return getattr(ann, f"{library}_index")(factors or made(), **options)


def _of(m: int, n: int, k: int, value: float = 1.0) -> Factors:
    return Factors(np.full((m, k), value), np.full((n, k), value))


OTHER = raises(ValueError, "index", "item_vectors")
ANN: dict[str, tuple[Callable[[], Any], Any]] = {
    "one user": (lambda: ann.search(_index(), made(), [3]).ids.shape, Holds(lambda r: r == (1, 10))),
    "nobody": (lambda: ann.search(_index(), made(), []).ids.shape, Holds(lambda r: r == (0, 10))),
    "more than there are": (
        lambda: ann.search(_index(), made(), [3], N=99).ids[0, 30:],
        Holds(lambda r: bool((r == -1).all())),
    ),
    "no items": (
        lambda: ann.search(_index("usearch", _of(2, 0, 3)), _of(2, 0, 3), [0], N=2).ids.tolist(),
        Holds(lambda r: r == [[-1, -1]]),
    ),
    "of more items": (lambda: ann.search(_index(), _of(2, 5, 4), [0]), OTHER),
    "of other factors": (lambda: ann.search(_index("faiss"), _of(2, 30, 3), [0]), OTHER),
    "None": (lambda: ann.search(None, made(), [0]), raises(TypeError, "index")),
    "of a matrix": (lambda: ann.item_vectors(plain()), raises(TypeError, "factors")),
    "connectivity 10^9": (lambda: ann.faiss_index(made(), connectivity=10**9), raises(ValueError, "connectivity")),
    "items beyond float32": (
        lambda: ann.item_vectors(_of(2, 3, 2, 1e200)),
        raises(ValueError, "item_factors", "float32"),
    ),
    "users beyond float32": (
        lambda: ann.user_vectors(_of(2, 3, 2, 1e200)),
        raises(ValueError, "user_factors", "float32"),
    ),
}


def _estimate(X: Any) -> Any:
    from lfm_np.sklearn import ALS

    return ALS(factors=2, iterations=1, num_threads=1, weighting="ratings", regularization=1.0).fit(X)


SKLEARN: dict[str, tuple[Callable[[], Any], Any]] = {
    "csc, indptr falls": (lambda: _falling(sp.csc_array((3, 3))), raises(ValueError, "X", "valid sparse")),
    "coo, row 2^40": (
        lambda: _coo(lambda rows: rows.astype(np.int64) + 2**40),
        raises(ValueError, "X", "valid sparse"),
    ),
    "index too large": (lambda: changed("indices", at(0, 10**6)), raises(ValueError, "X", "valid sparse")),
    "a rating twice": (
        lambda: sp.coo_array((np.ones(2), ([0, 0], [1, 1])), shape=(3, 3)),
        raises(ValueError, "X", "more than once"),
    ),
    "nan": (lambda: np.array([[1.0, np.nan]]), raises(ValueError, "x", "nan")),
    "interactions": (lambda: Interactions(plain(), np.arange(40), np.arange(30)), Holds(lambda r, X: r.n_iter_ == 1)),
}


def _info(arrays: dict[str, Any]) -> tuple[int, str]:
    """Status and last words of ``lfm-np info`` on a file of these arrays."""
    from lfm_np.cli import main

    said = io.StringIO()
    with tempfile.TemporaryDirectory() as place, redirect_stderr(said), redirect_stdout(said):
        path = os.path.join(place, "data.npz")
        np.savez(path, **arrays)
        return main(["info", path]), said.getvalue()


def _sparse(format: bytes, shape: Any = (3, 3), **arrays: Any) -> dict[str, Any]:
    return {"format": np.array(format), "shape": np.array(shape), "data": np.ones(0)} | arrays


AWAY: dict[str, Any] = {"indices": np.empty(0, np.int32), "indptr": np.array([0, 10**8, 5, 0])}
NPZ: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "csc, indptr falls": (_sparse(b"csc", **AWAY), ("valid sparse", "indptr")),
    "bsr, indptr falls": (_sparse(b"bsr", (6, 6), **AWAY | {"data": np.ones((0, 2, 2))}), ("valid sparse", "indptr")),
    "csr, index too large": (
        _sparse(b"csr", indices=np.array([10**6]), indptr=np.array([0, 1, 1, 1]), data=np.ones(1)),
        ("valid sparse", "indices"),
    ),
    "coo, row 2^40": (_sparse(b"coo", row=np.array([2**40]), col=np.array([0]), data=np.ones(1)), ("valid .npz",)),
    "format unknown": (_sparse(b"xyz"), ("valid .npz", "xyz")),
    "negative shape": (_sparse(b"csr", (-3, 3), **AWAY), ("valid .npz",)),
    "objects": ({"user": np.array([1, "a"], object)}, ("valid .npz", "allow_pickle=False")),
    "no users": ({"x": np.arange(3)}, ("user", "x")),
    "columns of unequal length": ({"user": np.arange(3), "item": np.arange(2)}, ("items", "3 records")),
}


def _page(factors: Factors | None = None, **options: Any) -> bytes:
    from lfm_np.report import write_report

    with tempfile.TemporaryDirectory() as place:
        path = Path(place, "page.html")
        model = factors or made()
        write_report(path, model, sp.csr_array(np.eye(*model.shape)), **options)
        return path.read_bytes()


PAGES: dict[str, tuple[dict[str, Any], Any]] = {
    "odd labels": (
        {"labels": ["\ud800", "a\0b", "$\\frac{$", "<script>", "x" * 9999] * 6, "title": "\ud800"},
        Holds(lambda r: b"<script>" not in r and b"&lt;script&gt;" in r),
    ),
    "labels a text": ({"labels": "x" * 30}, raises(TypeError, "labels")),
    "too few labels": ({"labels": ["x"]}, raises(ValueError, "labels", "30")),
    "no items": ({"factors": _of(3, 0, 2)}, raises(ValueError, "factors", "item")),
}
