"""Odd Parquet files for `lfm_np.distributed.from_parquet`, and files that are not what they were."""

from __future__ import annotations

import datetime
import decimal
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

import lfm_np

from .case import Case, Either, Group, Holds, installed, raises
from .cases_clusters import WORDS, cluster, filed
from .cases_odd_matrices import BAD

_refused, _right = Group("cluster files").refused, Group("cluster files").right
LOST = (*BAD, OSError, RuntimeError)
Tables = Mapping[str, Mapping[str, Any]]
PLAIN: Tables = {
    "a.parquet": {"user": ["ann", "ann", "bob"], "item": [10, 30, 10], "value": [1.0, 2.0, 3.0]},
    "b.parquet": {"user": ["eve", "eve", "fay"], "item": [30, 20, 10], "value": [1.0, 5.0, 2.0]},
}
MIXED: Tables = {"a.parquet": PLAIN["a.parquet"], "b.parquet": {"user": ["bob"], "item": [30], "value": [4.0]}}


def write(folder: Path, tables: Tables) -> Path:
    import pyarrow as pa
    from pyarrow import parquet

    place = folder / "in"
    for name, columns in tables.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        parquet.write_table(columns if isinstance(columns, pa.Table) else pa.table(dict(columns)), place / name)
    return place


def read(tables: Tables, then: Callable[..., Any] | None = None, **words: Any) -> Callable[[], Any]:
    """Files, shards of them, what ``then(folder, client, data)`` does, and a fit: with the same of a single process."""

    def run(folder: Path) -> Any:
        words_ = {name: value(folder) if callable(value) else value for name, value in words.items()}
        place = words_.pop("path", None)
        options = {name: words_[name] for name in ("user", "item", "value", "duplicates") if name in words_}
        if tables:
            write(folder, tables)
        with cluster() as client:
            data = lfm_np.distributed.from_parquet(folder / "in" if place is None else place, client=client, **words_)
            if then is not None:
                then(folder, client, data)
            factors = lfm_np.distributed.als(data, client=client, **WORDS)
            users = np.asarray(data.users(client))
        whole = lfm_np.Interactions.from_parquet(folder / "in", **options) if then is None and place is None else None
        return factors, users, data.items, whole

    return filed(run)


def agrees(result: Any) -> bool:
    """The factors are those of a single process, user by user."""
    factors, users, items, whole = result
    alone = lfm_np.als(whole, solver="exact", num_threads=1, **WORDS)
    if items.tolist() != whole.items.tolist() or sorted(users.tolist()) != whole.users.tolist():
        return False
    order = np.argsort(whole.rows_of(users))
    scores = (factors.user_factors @ factors.item_factors.T)[order]
    return bool(np.allclose(scores, alone.user_factors @ alone.item_factors.T, rtol=1e-3, atol=1e-4))


def _staged(folder: Path) -> Path:
    return folder / "staging"


# ---- the files ------------------------------------------------------------------------------------------------------


def _arrow(*columns: Any) -> Any:
    import pyarrow as pa

    return pa.table(list(columns), names=["user", "item"])


def _typed(user: Any, item: Any = ([10, 30], None)) -> Callable[[], Any]:
    import pyarrow as pa

    return lambda: _arrow(*(pa.array(values, kind) for values, kind in (user, item)))


def _large() -> Any:
    import pyarrow as pa

    return pa.large_string()


def ids() -> dict[str, Any]:
    import pyarrow as pa

    day = datetime.date(2024, 1, 1)
    return {
        "large text": _typed((["ann", "bob"], pa.large_string())),
        "text views": _typed((["ann", "bob"], pa.string_view())),
        "dictionaries": _typed((["ann", "bob"], pa.dictionary(pa.int8(), pa.string()))),
        "binary": _typed(([b"ann", b"bob"], pa.binary())),
        "uint64 beyond int64": _typed(([2**63, 2**64 - 1], pa.uint64())),
        "negative": _typed(([-5, 5], pa.int64())),
        "booleans": _typed(([False, True], pa.bool_())),
        "dates": _typed(([day, day + datetime.timedelta(1)], pa.date32())),
        "moments": _typed(([1, 2], pa.timestamp("us", tz="UTC"))),
        "decimals": _typed(([decimal.Decimal("1.5"), decimal.Decimal("2.5")], pa.decimal128(5, 1))),
        "empty text": _typed((["", " "], pa.string())),
        "text with NUL": _typed((["a", "a\0"], pa.string())),
        "floats": _typed(([0.5, 1.5], pa.float32())),
    }


REFUSED_IDS: dict[str, tuple[Any, Any]] = {
    "null users": ({"user": ["ann", None], "item": [1, 2]}, ("user", "null")),
    "null items": ({"user": ["ann", "bob"], "item": [1, None]}, ("item", "null")),
    "nan users": ({"user": [1.0, float("nan")], "item": [1, 2]}, ("user", "null|nan")),
    "lists": ({"user": [[1], [2]], "item": [1, 2]}, ("user",)),
    "structs": ({"user": [{"a": 1}], "item": [1]}, ("user",)),
    "nothing but nulls": ({"user": [None], "item": [1]}, ("user", "null")),
    "no item": ({"user": [1]}, ("item",)),
    "no columns": ({}, ("user|item",)),
}


def files() -> Iterator[Case]:
    yield _right("two files", read(PLAIN), agrees)
    yield _right("two files, staged", read(PLAIN, staging=_staged), agrees)
    yield _right("two files, staged for fifty", read(PLAIN, staging=_staged, shards=50), agrees)
    yield _right("two files for a hundred shards", read(PLAIN, shards=100), agrees)
    yield _right("a user of two files, staged", read(MIXED, staging=_staged, value="value"), agrees)
    yield _refused("a user of two files", read(MIXED), "staging")
    for name, make in ids().items():
        yield _right(f"ids {name}", lambda make=make: read({"a": make()}, staging=_staged)(), agrees)
    for name, (columns, words) in REFUSED_IDS.items():
        for staged in (False, True)[: 2 if name in ("null users", "lists") else 1]:
            yield _refused(
                f"ids {name}{', staged' if staged else ''}",
                read({"a": columns}, **{"staging": _staged} if staged else {}),
                *words,
            )
    for name, tables in {
        "int32 and int64": {
            "a": {"user": np.int32([1, 2]), "item": [1, 2]}, "b": {"user": np.int64([3, 4]), "item": [1, 2]},
        },
        "an empty one among them": {**PLAIN, "c": {"user": np.array([], str), "item": np.array([], int)}},
        "other order of columns": {**PLAIN, "b.parquet": dict(reversed(PLAIN["b.parquet"].items()))},
        "other columns beside": {**PLAIN, "b.parquet": {**PLAIN["b.parquet"], "more": [1, 2, 3]}},
        "names with spaces": {" a b.parquet": PLAIN["a.parquet"], "%20.parquet": PLAIN["b.parquet"]},
        "folders in folders": {"day=1/a.parquet": PLAIN["a.parquet"], "day=2/b.parquet": PLAIN["b.parquet"]},
    }.items():  # fmt: skip
        yield _right(f"files, {name}", read(tables), agrees)
    three = {"user": np.array([3, 4]), "item": [1, 2]}
    for name, tables in {
        "integers that pandas made floats": {"a": three, "b": {"user": [3.0, 5.0], "item": [3, 2]}},
        "two zeros": {"a": {"user": [0.0, 1.0], "item": [1, 2]}, "b": {"user": [-0.0, 2.0], "item": [3, 2]}},
        "text and large text": {"a": {"user": ["ann"], "item": [1]}, "b": _typed((["ann", "bob"], _large()))()},
    }.items():  # fmt: skip
        yield _right(f"files, staged, {name}", read(tables, staging=_staged, shards=7), agrees)
    yield Case(
        "cluster files: users in the names of folders",
        read({f"user={name}/part": {"item": [1, 2]} for name in ("ann", "bob")}),
        Either(Holds(agrees), raises(BAD, "user")),
    )
    for name, tables in {
        "numbers and text": {"a": {"user": [1, 2], "item": [1, 2]}, "b": {"user": ["1", "2"], "item": [1, 2]}},
        "items numbers and text": {"a": {"user": [1], "item": [1]}, "b": {"user": [2], "item": ["1"]}},
        "numbers and floats": {"a": {"user": [1, 2], "item": [1, 2]}, "b": {"user": [0.5, 4.0], "item": [1, 2]}},
    }.items():  # fmt: skip
        for staged in (False, True):
            yield Case(
                f"cluster files: {name}{', staged' if staged else ''}",
                read(tables, **{"staging": _staged} if staged else {}),
                Either(Holds(agrees), raises(LOST, "user|item")),
            )
    none: Tables = {"a": {"user": np.array([], str), "item": np.array([], int)}}
    for name, words in {"all empty": {}, "all empty, staged": {"staging": _staged}}.items():
        expect = Either(Holds(lambda r: r[0].shape == (0, 0)), raises(BAD, "path|records|rows|empty"))
        yield Case(f"cluster files: {name}", read(none, **words), expect)


# ---- arguments ------------------------------------------------------------------------------------------------------


def _garbage(name: str, data: bytes) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (write(folder, PLAIN) / name).write_bytes(data)
        return folder / "in"

    return make


def _cut(folder: Path) -> Path:
    file = write(folder, PLAIN) / "b.parquet"
    file.write_bytes(file.read_bytes()[:-9])
    return folder / "in"


class Pathlike:
    """A path that is no Path."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __fspath__(self) -> str:
        return str(self.path)


def arguments() -> Iterator[Case]:
    paths: dict[str, tuple[Any, tuple[str, ...]]] = {
        "none": (lambda folder: 3, ("path",)), "NUL": ("a\0b", ("path",)), "empty": ("", ("path",)),
        "a list": ([["a"]], ("path",)), "missing": (lambda folder: folder / "gone", ("path", "gone")),
        "an empty folder": (lambda folder: folder, ("path",)), "a device": ("/dev/null", ("path|/dev/null",)),
        "this module": (__file__, (".py",)),
        "not only Parquet": (_garbage("c.parquet", b"user,item\n"), ("c.parquet",)),
        "with an empty file": (_garbage("c.parquet", b""), ("c.parquet",)), "cut": (_cut, ("b.parquet",)),
    }  # fmt: skip
    for name, (path, words) in paths.items():
        tables: Tables = {} if callable(path) else PLAIN
        yield _refused(f"path {name}", read(tables, path=path), *words, kind=(*BAD, OSError))
    for name, file in {"Spark's mark": "_SUCCESS", "hidden": ".part.crc", "a checksum": "._SUCCESS.crc"}.items():
        marked = lambda folder, client, data: None  # noqa: E731
        yield _right(f"path with {name}", read({}, marked, path=_garbage(file, b"x")), lambda r: r[0].shape == (4, 3))
    for name, odd in {
        "like": lambda folder: Pathlike(write(folder, PLAIN)), "text": lambda folder: str(write(folder, PLAIN)) + "/",
        "one file": lambda folder: write(folder, {"a": {**PLAIN["a.parquet"]}, }) / "a",
    }.items():  # fmt: skip
        yield _right(f"path {name}", read({}, path=odd), lambda r: r[0].shape[1] >= 2)
    for word, values in {
        "shards": (0, True, "2"),
        "staging": (3, "a\0b", ""),
        "user": (None, "gone"),
        "item": ("gone", b"item"),
        "value": (3, "user"),
        "duplicates": ("first", None),
        "nulls": ("keep",),
        "client": ("tcp://127.0.0.1:1", 3),
    }.items():
        for place, value in enumerate(values):
            if word == "client":
                call = filed(lambda f, v=value: lfm_np.distributed.from_parquet(write(f, PLAIN), client=v))
            else:
                call = read(PLAIN, **{word: value})
            yield _refused(f"{word} {place} {type(value).__name__}", call, word)
    yield _refused("no client", filed(lambda folder: lfm_np.distributed.from_parquet(write(folder, PLAIN))), "client")
    for name, staging in {
        "not empty": lambda folder: folder / "in", "a file": lambda folder: folder / "in" / "a.parquet",
        "in no folder that can be made": lambda folder: folder / "in" / "a.parquet" / "x",
    }.items():  # fmt: skip
        yield _refused(f"staging {name}", read(PLAIN, staging=staging), "staging", kind=(*BAD, OSError))
    yield Case(
        "cluster files: staging in the folder itself",
        read(PLAIN, staging=lambda folder: folder / "in" / "staging"),
        Either(Holds(lambda r: r[0].shape == (4, 3)), raises(BAD, "staging")),
    )
    for how in ("sum", "mean", "max", "count"):
        twice = {"a": {"user": [1, 1, 2], "item": [5, 5, 6], "value": [2.0, 4.0, 1.0]}}
        for staged in (False, True)[: 2 if how == "mean" else 1]:
            words: dict[str, Any] = {"duplicates": how, "value": "value"} | ({"staging": _staged} if staged else {})
            yield _right(f"duplicates {how}{', staged' if staged else ''}", read(twice, **words), agrees)
    yield _refused(
        "duplicates error",
        read({"a": {"user": [1, 1], "item": [5, 5]}}, duplicates="error"),
        "duplicate|more than once|repeat",
    )
    for name, values in {
        "null": [1.0, None], "nan": [1.0, float("nan")], "infinite": [1.0, float("inf")], "negative": [1.0, -1.0],
        "text": ["1", "2"], "beyond float32": [1.0, 1e300], "lists": [[1.0], [2.0]],
    }.items():  # fmt: skip
        for staged in (False, True)[: 2 if name in ("null", "text") else 1]:
            table = {"a": {"user": [1, 2], "item": [5, 6], "value": values}}
            words = {"value": "value"} | ({"staging": _staged} if staged else {})
            yield _refused(
                f"values {name}{', staged' if staged else ''}",
                read(table, **words),
                "value|non-finite|negative",
                kind=LOST,
            )


# ---- files that are not what they were ------------------------------------------------------------------------------


def _again(tables: Tables) -> Callable[..., None]:
    def rewrite(folder: Path, client: Any, data: Any) -> None:
        shutil.rmtree(folder / "in")
        write(folder, tables)

    return rewrite


def changes() -> Iterator[Case]:
    gone = lambda folder, client, data: os.unlink(folder / "in" / "b.parquet")  # noqa: E731
    yield _refused("a file vanishes", read(PLAIN, gone), "b.parquet", kind=LOST)
    all_gone = lambda folder, client, data: shutil.rmtree(folder / "in")  # noqa: E731
    yield _refused("the folder vanishes", read(PLAIN, all_gone), "parquet", kind=LOST)
    unstaged = lambda folder, client, data: shutil.rmtree(folder / "staging")  # noqa: E731
    yield _refused("the staging vanishes", read(PLAIN, unstaged, staging=_staged), "staging", kind=LOST)
    yield _right(
        "the source of what is staged vanishes",
        read(PLAIN, all_gone, staging=_staged),
        lambda r: r[0].shape == (4, 3),
    )
    a, b = PLAIN["a.parquet"], PLAIN["b.parquet"]
    for name, table in {
        "more users": {"user": ["eve", "gus", "fay"], "item": [30, 20, 10]},
        "fewer users": {"user": ["eve", "eve", "eve"], "item": [30, 20, 10]},
        "another item": {"user": ["eve", "eve", "fay"], "item": [30, 25, 10]},
        "fewer items": {"user": ["eve", "eve", "fay"], "item": [30, 30, 10]},
        "users of another file": {"user": ["ann", "eve", "fay"], "item": [30, 20, 10]},
        "users of another type": {"user": [1, 1, 2], "item": [30, 20, 10]},
        "no rows": {"user": np.array([], str), "item": np.array([], int)},
        "null users": {"user": ["eve", None, "fay"], "item": [30, 20, 10]},
        "no item": {"user": ["eve", "eve", "fay"]},
        "as many other users": {"user": ["gus", "gus", "hal"], "item": [30, 20, 10]},
        "pairs of the same users and items": {"user": ["eve", "fay", "fay"], "item": [30, 20, 10]},
    }.items():
        changed = _again({"a.parquet": a, "b.parquet": table})
        yield _refused(f"a file changes: {name}", read(PLAIN, changed), "b.parquet|changed", kind=LOST)
    other = _again({"a.parquet": a, "b.parquet": {**b, "value": [1.0, 5.0, 3.0]}})
    yield _refused("a file changes: a value", read(PLAIN, other, value="value"), "b.parquet|changed", kind=LOST)
    yield Case(
        "cluster files: a file is added",
        read(PLAIN, _again({"a.parquet": a, "b.parquet": b, "c.parquet": {"user": ["zoe"], "item": [40]}})),
        Either(Holds(lambda r: r[0].shape == (4, 3)), raises(LOST, "c.parquet|changed")),
    )
    cut = lambda folder, client, data: (folder / "in" / "b.parquet").write_bytes(b"PAR1")  # noqa: E731
    yield _refused("a file is cut", read(PLAIN, cut), "b.parquet", kind=LOST)


def cases() -> list[Case]:
    return [*files(), *arguments(), *changes()] if installed("distributed", "pyarrow") else []
