"""CSV and Parquet that other programs wrote, matrices on disk, lists written to Parquet, and estimates of memory."""

from __future__ import annotations

import bz2
import csv
import datetime
import decimal
import gzip
import io
import json
import os
import pickle
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

import lfm_np
from lfm_np import Factors, Interactions, StoredMatrix, estimate_memory

from .case import Case, Either, Group, Holds, installed, raises
from .places import holding, inside, largest_file, same, table, together, write_csv

_refused, _right = Group("tables read").refused, holding(Group("tables read"))
ROWS = 2**31 - 2


def of_csv(text: str | bytes, name: str = "events.csv", **words: Any) -> Callable[[], Interactions]:
    def work(folder: Path) -> Interactions:
        (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
        return Interactions.from_csv(folder / name, **words)

    return inside(work)


def cells(data: Interactions) -> dict[tuple[Any, Any], float]:
    """Every cell by its ids."""
    X = data.matrix.tocoo()
    rows, columns = X.coords
    return {(data.users[r], data.items[c]): float(v) for r, c, v in zip(rows, columns, X.data, strict=True)}


def csv_files() -> Iterator[Case]:
    yield _right(
        "an empty text in quotes is an id", of_csv('user,item\n"",a\n"b",a\n'), lambda d: list(d.users) == ["", "b"]
    )
    yield _refused("an empty field is a null", of_csv("user,item\n,a\nb,a\n"), "user", "null")

    def by_csv(text: str) -> dict[tuple[str, str], float]:
        found: dict[tuple[str, str], float] = defaultdict(float)
        for record in csv.DictReader(io.StringIO(text, newline="")):
            found[record["user"], record["item"]] += float(record.get("value") or 1)
        return dict(found)

    plain = 'user,item,value\r\n"a, b","tea\nfor ""two""",2\r\n"ü—🎧",jam,3\r\n" x ",jam,4\r\n" x ",jam,4.5\r\n'
    texts = {
        "quotes, commas, lines within cells, spaces": plain,
        "a byte-order mark": "\ufeff" + plain,
        "no line end at the end": plain.rstrip("\r\n"),
        "lines that end by \\n": plain.replace("\r\n", "\n"),
        "ids that look like numbers, as text": "user,item\n007,1e5\n7,1_000\n+7,0x10\n007,100000\n",
        "formulas as ids": "user,item\n=1+1,@x\n-2,+3\n=1+1,@y\n",
        "ids of ten thousand letters": f"user,item\n{'a' * 10_000},{'b' * 10_000}\n{'a' * 9_999},{'b' * 10_000}\n",
        "texts that differ by normal form": "user,item\n\u00e9,a\ne\u0301,a\n",
    }
    for name, text in texts.items():
        words: dict[str, Any] = {"column_types": {"user": "string", "item": "string"}}
        if "value" in text:
            words["value"] = "value"
        yield _right(name, of_csv(text, **words), lambda d, t=text: cells(d) == by_csv(t.removeprefix("\ufeff")))
    yield _right(
        "NA in quotes is somebody", of_csv('user,item\n"NA",a\n"NULL",b\n'), lambda d: list(d.users) == ["NA", "NULL"]
    )
    yield _refused("NA without quotes is a null", of_csv("user,item\nNA,a\nann,b\n"), "user", "null")
    yield _right(
        "the largest integers",
        of_csv(f"user,item\n{2**63 - 1},1\n{2**63 - 2},1\n{-(2**63)},1\n"),
        lambda d: [int(u) for u in d.users] == [-(2**63), 2**63 - 2, 2**63 - 1],
    )
    yield _right(
        "times of four kinds",
        of_csv("user,item,t\na,x,2024-02-29T23:59:59\na,y,1969-12-31T00:00:00\n", timestamp="t"),
        lambda d: (
            list(d.timestamps.astype("datetime64[s]").astype(str)) == ["2024-02-29T23:59:59", "1969-12-31T00:00:00"]
        ),
    )
    yield _right(
        "other columns of any kind", of_csv("x,user,y,item\n1,a,,b\nz,c,2024-01-01,b\n"), lambda d: d.shape == (2, 1)
    )
    yield _right(
        "two members in one .gz",
        of_csv(gzip.compress(b"user,item\na,x\n") + gzip.compress(b"b,y\n"), "e.csv.gz"),
        lambda d: d.shape == (2, 2),
    )
    yield _right(
        "two streams in one .bz2",
        of_csv(bz2.compress(b"user,item\na,x\n") + bz2.compress(b"b,y\n"), "e.csv.bz2"),
        lambda d: d.shape == (2, 2),
    )
    long = "user,item\n" + "".join(f"u{i * 7919 % 5003},i{i}\n" for i in range(5003))
    broken = gzip.compress(long.encode())
    anything = (TypeError, ValueError, OSError, EOFError)
    yield _refused(
        "a .gz that breaks off", of_csv(broken[: len(broken) // 2], "e.csv.gz"), "e.csv.gz|gz|trunc|end", kind=anything
    )
    yield _refused(
        "a .gz with a wrong checksum", of_csv(broken[:-8] + bytes(8), "e.csv.gz"), "e.csv.gz|crc|check", kind=anything
    )
    yield _refused("a .csv that is a .gz", of_csv(broken), "events.csv|utf|user", kind=anything)
    bad = {
        "semicolons": ("user;item\n1;2\n", {}, ("user",)),
        "a line that is too short": ("user,item\n1,2\n3\n", {}, ("column|2|line|row",)),
        "a line that is too long": ("user,item\n1,2\n3,4,5\n", {}, ("column|2|line|row",)),
        "a column twice": ("user,item,user\n1,2,3\n", {}, ("user",)),
        "nothing at all": ("", {}, ("events.csv|empty|user",)),
        "a decimal comma": ('user,item,v\n1,2,"3,5"\n', {"value": "v"}, ("value", "string")),
        "an infinite value": ("user,item,v\n1,2,inf\n", {"value": "v"}, ("value|v", "finite|inf")),
        "a value beyond float32": ("user,item,v\n1,2,1e39\n", {"value": "v"}, ("value|v", "finite|float32|inf")),
        "UTF-16": ("user,item\n1,2\n".encode("utf-16"), {}, ("events.csv",)),
        "Latin-1": ("user,item\nJosé,2\n".encode("latin-1"), {}, ("utf",)),
        "an open quote": ('user,item\n"ann,2\nbob,3\n', {}, ("quote|csv|item|column|end",)),
        "two letters between columns": ("user,item\n1,2\n", {"delimiter": "||"}, ("delimiter",)),
        "a type that is none": (
            "user,item\n1,2\n",
            {"column_types": {"user": "integer-ish"}},
            ("column_types|integer-ish",),
        ),
    }
    for name, (text, more, said) in bad.items():
        yield _refused(name, of_csv(text, **more), *said, kind=anything)
    yield Case(
        "tables read: a NUL among letters",
        of_csv("user,item\na\0b,1\na,2\n"),
        Either(Holds(lambda d: [str(u) for u in d.users] == ["a", "a\0b"]), raises(anything, "nul|csv|user")),
    )


def of_parquet(make: Callable[[Any, Any, Path], Any], **words: Any) -> Callable[[], Interactions]:
    def work(folder: Path) -> Interactions:
        import pyarrow as pa
        import pyarrow.parquet as pq

        (folder / "data").mkdir()
        where = make(pa, pq, folder / "data")
        return Interactions.from_parquet(where or folder / "data", **words)

    return inside(work)


def parquet_files() -> Iterator[Case]:
    def spark(pa: Any, pq: Any, folder: Path) -> None:
        for name, user in {"part-00000": "ann", "part-00001": "bob"}.items():
            pq.write_table(
                pa.table({"user": [user], "item": [1]}), folder / f"{name}.snappy.parquet", compression="snappy"
            )
            (folder / f".{name}.snappy.parquet.crc").write_bytes(b"crc\0" * 4)
        (folder / "_SUCCESS").touch()
        (folder / "._SUCCESS.crc").write_bytes(b"crc")

    yield _right("a folder of Spark's, with its marks", of_parquet(spark), lambda d: list(d.users) == ["ann", "bob"])

    def hive(pa: Any, pq: Any, folder: Path) -> None:
        for day in ("2024-01-01", "2024-01-02"):
            (folder / f"day={day}").mkdir()
            pq.write_table(pa.table({"user": [1, 2], "item": [3, 3]}), folder / f"day={day}" / "a.parquet")

    yield _right(
        "a column from the names of folders",
        of_parquet(hive, item="day"),
        lambda d: d.shape == (2, 2) and d.matrix.sum() == 4,
    )

    def one(columns: Callable[[Any], dict[str, Any]], **words: Any) -> Callable[[], Interactions]:
        return of_parquet(
            lambda pa, pq, f: pq.write_table(pa.table(columns(pa)), f / "a.parquet", row_group_size=2), **words
        )

    values = {
        "decimal values": lambda pa: pa.array(
            [decimal.Decimal("1.25"), decimal.Decimal("-2.5"), decimal.Decimal("3.75")]
        ),
        "float16 values": lambda pa: pa.array(np.array([1.25, -2.5, 3.75], np.float16)),
        "values of a dictionary": lambda pa: pa.array([1.25, -2.5, 3.75]).dictionary_encode(),
    }
    for name, make in values.items():
        yield _right(
            name,
            one(lambda pa, m=make: {"user": [1, 2, 1], "item": [1, 1, 2], "v": m(pa)}, value="v"),
            lambda d: cells(d) == {(1, 1): 1.25, (2, 1): -2.5, (1, 2): 3.75},
        )
    yield _right(
        "large unsigned ids",
        one(lambda pa: {"user": pa.array([2**64 - 1, 2**64 - 2], pa.uint64()), "item": [True, False]}),
        lambda d: [int(u) for u in d.users] == [2**64 - 2, 2**64 - 1],
    )
    yield _right(
        "a dictionary with nulls, dropped",
        one(
            lambda pa: {"user": pa.array(["b", None, "a", "b"]).dictionary_encode(), "item": [1, 2, 3, 4]}, nulls="drop"
        ),
        lambda d: list(d.users) == ["a", "b"] and list(d.items) == [1, 3, 4],
    )
    yield _right(
        "bytes as ids",
        one(lambda pa: {"user": [b"\xff\0", b"\xff", b""], "item": [1, 1, 1]}),
        lambda d: sorted(bytes(u) for u in d.users) == [b"", b"\xff", b"\xff\0"],
    )
    yield _right(
        "dates as ids",
        one(lambda pa: {"user": [datetime.date(1, 1, 1), datetime.date(9999, 12, 31)], "item": [1, 1]}),
        lambda d: [str(u)[:10] for u in d.users] == ["0001-01-01", "9999-12-31"],
    )
    yield _right(
        "a view of strings",
        one(lambda pa: {"user": pa.array(["long enough not to be inline", "b"], pa.string_view()), "item": [1, 1]}),
        lambda d: len(d.users) == 2,
    )
    yield _right(
        "no row groups, then some",
        of_parquet(
            lambda pa, pq, f: (
                [
                    pq.write_table(
                        pa.table({"user": pa.array(u, pa.int64()), "item": pa.array(u, pa.int64())}), f / name
                    )
                    for name, u in (("a.parquet", []), ("b.parquet", [5]))
                ]
                and None
            )
        ),
        lambda d: d.shape == (1, 1),
    )
    yield _refused("ids that are lists", one(lambda pa: {"user": [[1], [2]], "item": [1, 2]}), "user")
    yield _refused("ids that are structs", one(lambda pa: {"user": [{"a": 1}], "item": [1]}), "user")
    yield _refused("values that are text", one(lambda pa: {"user": [1], "item": [1], "v": ["5"]}, value="v"), "v")
    yield _refused("columns of another case", one(lambda pa: {"User": [1], "Item": [1]}), "user")
    yield _refused(
        "two columns of one name",
        of_parquet(
            lambda pa, pq, f: pq.write_table(
                pa.Table.from_arrays([pa.array([1]), pa.array([2]), pa.array([3])], names=["user", "item", "user"]),
                f / "a.parquet",
            )
        ),
        "duplicate field names",
        kind=(TypeError, ValueError),
    )

    def truncated(pa: Any, pq: Any, folder: Path) -> None:
        pq.write_table(pa.table({"user": list(range(1000)), "item": list(range(1000))}), folder / "a.parquet")
        os.truncate(folder / "a.parquet", 3000)

    yield _refused("a file that breaks off", of_parquet(truncated), "a.parquet|parquet", kind=(ValueError, OSError))
    yield _refused(
        "a CSV called .parquet",
        of_parquet(lambda pa, pq, f: write_csv(f / "a.parquet", "user,item\n1,2\n")),
        "a.parquet|parquet",
        kind=(ValueError, OSError),
    )

    def page(pa: Any, pq: Any, folder: Path) -> None:
        records = pa.table({"user": list(range(1000)), "item": list(range(1000))})
        pq.write_table(records, folder / "a.parquet", compression="zstd", write_page_checksum=True)
        data = bytearray((folder / "a.parquet").read_bytes())
        data[200:260] = bytes(60)
        (folder / "a.parquet").write_bytes(data)

    yield _refused(
        "a page that is damaged, with its checksum", of_parquet(page), "checksum|crc", kind=(ValueError, OSError)
    )
    if installed("pandas"):
        yield _right("a pandas frame of few of its categories", _few_categories, lambda d: list(d.users) == ["a", "c"])
        yield _right(
            "a pandas frame whose index says nothing",
            _repeated_index,
            lambda d: d.shape == (2, 2) and d.matrix.nnz == 3,
        )


def _few_categories() -> Interactions:
    import pandas as pd

    users = pd.Categorical(["c", "a", "c"], categories=["z", "c", "b", "a"], ordered=True)
    return Interactions.from_frame(pd.DataFrame({"user": users, "item": [1, 2, 3]}))


def _repeated_index() -> Interactions:
    import pandas as pd

    frame = pd.DataFrame({"user": [1, 2, 1], "item": [1, 2, 2]}, index=[7, 7, 7])
    return Interactions.from_frame(frame)


def als(X: Any, **words: Any) -> Factors:
    return lfm_np.als(X, **{"factors": 4, "iterations": 2, "random_state": 0, "num_threads": 2, **words})


def on_disk(X: Callable[[], Any] = table, **words: Any) -> Callable[[Callable[[Path], Any]], Callable[[], Any]]:
    """What ``work(folder)`` gives of a matrix stored in it."""

    def around(work: Callable[[Path], Any]) -> Callable[[], Any]:
        def call(folder: Path) -> Any:
            StoredMatrix.from_matrix(X(), folder / "X", **words)
            return work(folder / "X")

        return inside(call)

    return around


def repeated() -> sp.coo_array:
    X = table().tocoo()
    rows, columns = X.coords
    return sp.coo_array((np.tile(X.data.astype(np.int64), 2), (np.tile(rows, 2), np.tile(columns, 2))), shape=X.shape)


def stored() -> Iterator[Case]:
    rated = {"weighting": "ratings", "biases": True}
    for name, X, build, words in (
        ("COO of integers, repeated", repeated, {}, {}),
        ("CSC", lambda: sp.csc_matrix(table()), {}, {"weighting": "ials", "unobserved_weight": 0.1}),
        ("ratings of zero and below", lambda: _moved(table()), {"zeros": "keep"}, rated),
        ("float64", lambda: table().astype(np.float64) / 3, {"dtype": "float64"}, {"dtype": "float64"}),
        ("one cell", lambda: sp.csr_array(np.ones((1, 1), np.float32)), {}, {}),
        ("rows and columns of nothing", lambda: sp.csr_array(np.diag([0, 2.0, 0, 3, 0]).astype(np.float32)), {}, {}),
    ):
        yield _right(
            f"on disk: {name}",
            on_disk(X, **build)(lambda path, w=words: als(StoredMatrix(path), **w)),
            lambda f, X=X, w=words: same(f, als(X(), **w)),
        )
    yield _right(
        "on disk: by a link",
        on_disk()(lambda p: [(p.parent / "l").symlink_to(p), als(StoredMatrix(p.parent / "l"))][1]),
        lambda f: same(f, als(table())),
    )
    yield _right(
        "on disk: the factors too",
        on_disk()(lambda p: np.array(als(StoredMatrix(p, factors_in=p.parent)).item_factors)),
        lambda V: np.array_equal(V, als(table()).item_factors),
    )
    yield _right(
        "on disk: what a killed build left is no hindrance", inside(_left_over), lambda f: same(f, als(table()))
    )
    yield _right("on disk: two builds at once, one folder", inside(_two_builds))
    opened = on_disk()
    for memory in (0, -1, 2.5, "1GB", float("inf"), True):
        yield _refused(
            f"on disk: memory={memory!r}",
            opened(lambda p, m=memory: als(StoredMatrix(p, memory=m))),
            "memory",
            kind=(TypeError, ValueError, MemoryError),
        )
    yield _refused(
        "on disk: memory of a kilobyte",
        opened(lambda p: als(StoredMatrix(p, memory=1000))),
        "memory|bytes",
        kind=(ValueError, MemoryError),
    )
    yield _refused(
        "on disk: factors_in nowhere",
        opened(lambda p: als(StoredMatrix(p, factors_in=p / "no"))),
        "factors_in",
        kind=(ValueError, OSError),
    )
    yield _refused("on disk: sgd", opened(lambda p: lfm_np.sgd(StoredMatrix(p))), "x", kind=TypeError)
    yield _refused(
        "on disk: seen", opened(lambda p: als(table()).recommend([0], seen=StoredMatrix(p))), "seen", kind=TypeError
    )
    yield _refused(
        "on disk: torch",
        opened(lambda p: __import__("lfm_np.torch_backend").torch_backend.als(StoredMatrix(p))),
        "x",
        kind=(TypeError, ValueError),
    )
    yield _refused(
        "on disk: negative values but for ratings",
        on_disk(lambda: -table())(lambda p: als(StoredMatrix(p))),
        "x|negative",
        kind=ValueError,
    )
    yield _refused(
        "on disk: to a folder that is there",
        inside(lambda f: StoredMatrix.from_matrix(table(), f)),
        "folder|exist",
        kind=(ValueError, OSError),
    )

    def swapped(name: str, change: Callable[[Path], Any]) -> Callable[[], Any]:
        def work(path: Path) -> Any:
            change(path / name)
            return als(StoredMatrix(path))

        return opened(work)

    class Code:
        def __reduce__(self) -> Any:
            return os.mkdir, ("/tmp/lfm_np_was_here",)

    objects = np.empty(1, object)
    objects[0] = Code()
    changes: dict[str, tuple[str, Callable[[Path], Any]]] = {
        "a pickle": ("rows.data.npy", lambda p: np.save(p, objects, allow_pickle=True)),
        "another order": ("columns.indices.npy", lambda p: np.save(p, np.load(p)[::-1].copy())),
        "big-endian": ("rows.indices.npy", lambda p: np.save(p, np.load(p).astype(">i4"))),
        "a dimension more": ("rows.indptr.npy", lambda p: np.save(p, np.load(p)[None])),
        "nothing": ("columns.data.npy", lambda p: p.write_bytes(b"")),
        "a folder": ("rows.data.npy", lambda p: (p.unlink(), p.mkdir())),
        "a pipe": ("rows.data.npy", lambda p: (p.unlink(), os.mkfifo(p))),
    }
    for what, (name, change) in changes.items():
        yield _refused(f"on disk: {what} for {name}", swapped(name, change), name, kind=(ValueError, OSError))

    def told(**words: Any) -> Callable[[], Any]:
        return swapped("manifest.json", lambda p: p.write_text(json.dumps({**json.loads(p.read_text()), **words})))

    for words in (
        {"shape": [60, 26]},
        {"shape": [2**40, 2**40]},
        {"shape": "60"},
        {"dtype": "object"},
        {"version": 99},
    ):
        yield _refused(f"on disk: a manifest of {words}", told(**words), kind=(ValueError, OSError))
    yield _refused(
        "on disk: a manifest of nested lists",
        swapped("manifest.json", lambda p: p.write_text("[" * 100_000)),
        "manifest",
        kind=ValueError,
    )

    def moved(path: Path) -> Factors:
        matrix = StoredMatrix(path)
        path.rename(path.parent / "Y")
        return als(matrix)

    yield Case(
        "tables read: on disk: moved when it is open",
        opened(moved),
        Either(Holds(lambda f: same(f, als(table()))), raises((ValueError, OSError), "x")),
    )

    def pickled(path: Path) -> Factors:
        return als(pickle.loads(pickle.dumps(StoredMatrix(path))))

    yield Case(
        "tables read: on disk: pickled",
        opened(pickled),
        Either(Holds(lambda f: same(f, als(table()))), raises((TypeError, pickle.PicklingError), "pickle|stored")),
    )
    ids = {
        "text": ["b\0", "b", "ä", ""],
        "large": np.array([2**64 - 1, 0, 2**63, 5], np.uint64),
        "flags": [True, False, True, True],
    }
    for name, users in ids.items():
        yield _right(f"on disk: from Parquet, ids of {name}", inside(lambda f, u=users: _both(f, u)))
    yield _refused(
        "on disk: from Parquet, with times", inside(lambda f: _both(f, [1, 2, 3, 4], timestamp="item")), "timestamp"
    )
    yield _refused(
        "on disk: from Parquet, unknown values", inside(lambda f: _both(f, [1, 2, 3, 4], nulls="keep")), "nulls"
    )


def _moved(X: sp.csr_array) -> sp.csr_array:
    X.data -= 3
    return X


def _left_over(folder: Path) -> Factors:
    (folder / "X.partial").mkdir()
    (folder / "X.partial" / "rows.data.npy").write_bytes(b"half")
    (folder / "X.partial" / ".lfm_np.partial").touch()
    found = als(StoredMatrix.from_matrix(table(), folder / "X"))
    assert [p.name for p in folder.iterdir()] == ["X"]
    return found


def _two_builds(folder: Path) -> bool:
    found = together(2, lambda i: StoredMatrix.from_matrix(table(), folder / "X"))
    good = [f for f in found if isinstance(f, StoredMatrix)]
    bad = [f for f in found if not isinstance(f, StoredMatrix)]
    named = all(isinstance(e, (ValueError, OSError)) and "X" in str(e) for e in bad)
    return len(good) >= 1 and named and same(als(StoredMatrix(folder / "X")), als(table()))


def _both(folder: Path, users: Any, **words: Any) -> bool:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(
        pa.table({"user": pa.array(users), "item": ["x", "y", "x", "z"], "v": [1.5, 2.0, 3.0, 4.0]}),
        folder / "a.parquet",
    )
    one = StoredMatrix.from_parquet(folder / "a.parquet", folder / "X", value="v", **words)
    other = Interactions.from_parquet(folder / "a.parquet", value="v")
    alike = [repr(a) for a in one.users] == [repr(a) for a in other.users]  # type: ignore[union-attr]
    return alike and same(als(one), als(other)) and one.nnz == other.matrix.nnz


def lists() -> Iterator[Case]:
    def data() -> Interactions:
        X = table()
        return Interactions(X, np.array([f"u{i:02}" for i in range(60)]), np.arange(100, 125))

    def written(**words: Any) -> Callable[[], Any]:
        def work(folder: Path) -> Any:
            import pyarrow.parquet as pq

            lfm_np.recommend_parquet(als(data()), data(), folder / "best.parquet", **words)
            assert [p.name for p in folder.iterdir()] == ["best.parquet"]
            return pq.read_table(folder / "best.parquet").to_pylist()

        return inside(work)

    def wanted(
        users: list[int], count: int, seen: bool = False, exclude: tuple[int, ...] = ()
    ) -> list[tuple[Any, ...]]:
        factors, X = als(data()), table().toarray()
        found = []
        for user in users:
            allowed = [i for i in range(25) if i not in exclude and not (seen and X[user, i])]
            scores = {i: float(s) for i, s in zip(allowed, factors.scores(user, allowed), strict=True)}
            ranked = sorted(allowed, key=lambda i: (-scores[i], i))[:count]
            found += [(f"u{user:02}", 100 + i, scores[i], rank) for rank, i in enumerate(ranked, 1)]
        return found

    def equal(rows: list[dict[str, Any]], expected: list[tuple[Any, ...]]) -> bool:
        return [tuple(row[c] for c in ("user", "item", "score", "rank")) for row in rows] == expected

    yield _right(
        "lists of everybody, seen left out, longer than there are",
        written(N=40, seen=table()),
        lambda rows: equal(rows, wanted(list(range(60)), 40, seen=True)),
    )
    yield _right(
        "lists of users that repeat, in their order",
        written(N=3, users=["u07", "u01", "u07"], exclude=[100, 103]),
        lambda rows: equal(rows, wanted([7, 1, 7], 3, exclude=(0, 3))),
    )
    yield _right("lists of nobody", written(users=[]), lambda rows: rows == [])
    yield _refused("lists of somebody unknown", written(users=["u07", "u99"]), "u99")
    yield _refused("lists of ids that are numbers", written(users=[7]), "users", kind=(TypeError, ValueError))
    yield _refused("lists without an allowed item that is known", written(items=[99]), "99")

    def no_room(folder: Path) -> bool:
        (folder / "best.parquet").write_bytes(b"old")
        try:
            with largest_file(2000):
                lfm_np.recommend_parquet(als(data()), data(), folder / "best.parquet", N=25)
        except OSError:
            return (folder / "best.parquet").read_bytes() == b"old" and len(list(folder.iterdir())) == 1
        return False

    yield _right("lists for which there is no room", inside(no_room))
    yield _refused(
        "lists into a folder that is not there",
        inside(lambda f: lfm_np.recommend_parquet(als(data()), data(), f / "no" / "a.parquet")),
        "no",
        kind=OSError,
    )
    yield _refused(
        "lists of factors of other data",
        inside(lambda f: lfm_np.recommend_parquet(als(table()[:, :20]), data(), f / "a.parquet")),
        "factors|shape|25",
        kind=ValueError,
    )


def estimates() -> Iterator[Case]:
    def right(name: str, call: Callable[[], int], true: Callable[[int], bool]) -> Case:
        return _right(f"an estimate {name}", call, lambda found: type(found) is int and true(found))

    yield right(
        "of the largest matrix",
        lambda: estimate_memory(ROWS, ROWS, ROWS * 1000, factors=65536),
        lambda b: b > 2 * 2 * ROWS * 65536 * 4,
    )
    yield right(
        "of NumPy's small integers",
        lambda: estimate_memory(np.int32(2_000_000), np.uint32(1000), np.int64(10**9), factors=np.int8(64)),
        lambda b: b == estimate_memory(2_000_000, 1000, 10**9, factors=64),
    )  # type: ignore[arg-type]
    yield right(
        "of more threads is no less",
        lambda: estimate_memory(1000, 1000, 10**4, num_threads=64),
        lambda b: b >= estimate_memory(1000, 1000, 10**4, num_threads=1),
    )
    for solver in ("als", "sgd"):
        for backend in ("numpy", "torch"):
            yield right(
                f"of float64 is more: {solver}, {backend}",
                lambda s=solver, b=backend: estimate_memory(10**5, 10**4, 10**6, solver=s, backend=b, dtype="float64"),
                lambda n, s=solver, b=backend: n > estimate_memory(10**5, 10**4, 10**6, solver=s, backend=b),
            )
    bad: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
        "m": ((-1, 10, 10), {}),
        "n": ((10, 2**31, 10), {}),
        "nnz": ((10, 10, 101), {}),
        "factors": ((10, 10, 10), {"factors": 0}),
        "solver": ((10, 10, 10), {"solver": "ALS"}),
        "dtype": ((10, 10, 10), {"dtype": "float16"}),
        "num_threads": ((10, 10, 10), {"num_threads": 0}),
        "backend": ((10, 10, 10), {"backend": "cuda"}),
        "memory_budget": ((10, 10, 10), {"memory_budget": -1, "backend": "torch"}),
        "biases": ((10, 10, 10), {"biases": "yes"}),
    }
    for name, (arguments, words) in bad.items():
        yield _refused(f"an estimate, bad {name}", lambda a=arguments, w=words: estimate_memory(*a, **w), name)
    tall = lambda: sp.csr_array((np.ones(1, np.float32), ([0], [0])), shape=(2_000_000, 3))  # noqa: E731
    for name, fit in {"als": lfm_np.als, "sgd": lfm_np.sgd}.items():
        yield _refused(
            f"more than there is, {name}",
            lambda f=fit: f(tall(), factors=65536),
            "memory|gib|gb|bytes",
            kind=MemoryError,
        )


def cases() -> list[Case]:
    found = list(estimates())
    if installed("pyarrow"):
        found += [*csv_files(), *parquet_files(), *lists()]
    return [*found, *stored()]
