"""Pairs, ids, splits, CSV, Parquet and frames beside dictionaries."""

from __future__ import annotations

import datetime
import decimal
import gzip
import os
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

import lfm_np
from lfm_np import Interactions

from .case import Case, Group, Holds, installed

_pairs, _ids, _splits, _text, _tables = (
    Group(f"recounted {what}") for what in ("pairs", "ids", "splits", "CSV", "tables")
)


def cells(data: Any) -> dict[tuple[Any, Any], float]:
    C = data.matrix.tocoo()
    users, items = data.users.tolist(), data.items.tolist()
    return {(users[r], items[c]): float(v) for r, c, v in zip(C.row, C.col, C.data)}


COMBINED: dict[str, Callable[[list[float]], float]] = {
    "sum": lambda v: float(np.float32(sum(v))),
    "last": lambda v: v[-1],
    "mean": lambda v: float(np.float32(sum(v) / len(v))),
    "max": max,
    "count": lambda v: float(len(v)),
}


def pairs() -> Iterator[Case]:
    rng = np.random.default_rng(2)
    many = rng.integers(0, 6, (80, 2))
    values = rng.integers(-4, 9, 80) * 0.25
    gathered: dict[tuple[int, int], list[float]] = defaultdict(list)
    for (r, c), v in zip(many.tolist(), values.tolist()):
        gathered[r, c].append(v)
    for way, combine in COMBINED.items():
        yield Case(
            f"recounted pairs: {way}",
            lambda pairs, values, w=way: lfm_np.to_csr(pairs, shape=(7, 9), values=values, duplicates=w),
            Holds(
                lambda X, pairs, values, c=combine: (
                    {(int(r), int(k)): float(v) for r, k, v in zip(X.tocoo().row, X.tocoo().col, X.data)}
                    == {key: c(found) for key, found in gathered.items()}
                    and X.shape == (7, 9)
                    and X.has_canonical_format
                )
            ),
            lambda: {"pairs": many.copy(), "values": values.copy()},
        )
    yield _pairs.right(
        "a sum that float32 alone would lose",
        lambda: lfm_np.to_csr([(0, 0)] * 3, values=[16777216.0, 1.0, 1.0]),
        lambda X: X.data.tolist() == [16777218.0],
    )
    for name, call, words in (
        ("a sum beyond float32", lambda: lfm_np.to_csr([(0, 0)] * 2, values=[3e38, 3e38]), "values|float32|finite"),
        ("a value beyond float32", lambda: lfm_np.to_csr([(0, 0)], values=[1e39]), "values|float32|finite"),
        ("numbers from 2**63 on", lambda: lfm_np.to_csr(np.array([[2**63, 0]], np.uint64)), "pairs|row|2"),
        ("a half", lambda: lfm_np.to_csr(np.array([[0.5, 1.0]])), "pairs"),
        ("outside the shape", lambda: lfm_np.to_csr([(0, 5)], shape=(5, 5)), "shape|pairs|column"),
        ("one value too few", lambda: lfm_np.to_csr([(0, 1), (1, 1)], values=[1.0]), "values"),
        ("a pair twice", lambda: lfm_np.to_csr([(3, 1), (3, 1)], duplicates="error"), "3"),
        ("three columns", lambda: lfm_np.to_csr(np.zeros((4, 3), int)), "pairs"),
    ):
        yield _pairs.refused(name, call, words)
    yield _pairs.right(
        "a dictionary of rows, of uint8",
        lambda: lfm_np.build_dict(np.array([(200, 3), (7, 255), (200, 0), (200, 3)], np.uint8)),
        lambda d: {k: v.tolist() for k, v in d.items()} == {7: [255], 200: [0, 3]} and d[200].dtype == np.uint8,
    )


def ids() -> Iterator[Case]:
    day = np.array(["2024-02-29", "1969-12-31", "2024-02-29"], "datetime64[D]")
    for name, users, distinct in (
        ("dates", day, 2),
        ("the ends of int64", np.array([-(2**63), 2**63 - 1, 0]), 3),
        ("uint64 beyond int64", np.array([2**64 - 1, 2**63, 2**64 - 1], np.uint64), 2),
        ("zeros of both signs", np.array([0.0, -0.0, 1.5]), 2),
        ("é composed and decomposed", ["é", "e\u0301", "é"], 2),
        ("empty text and blanks", ["", " ", "  "], 3),
        ("bools", [True, False, True], 2),
        ("bytes", [b"a", b"a\xff", b"a"], 2),
    ):
        yield _ids.right(
            name,
            lambda u=users: (Interactions.from_arrays(u, [1, 2, 3]), u),
            lambda r, d=distinct: (
                r[0].shape == (d, 3)
                and [r[0].users[row] for row in r[0].rows_of(r[1])] == list(r[1])
                and sum(cells(r[0]).values()) == 3
            ),
        )
    for name, call, words in (
        ("1 and '1'", lambda: Interactions.from_arrays([1, "1"], [1, 2]), "users"),
        ("NaT", lambda: Interactions.from_arrays(np.array(["NaT", "2024-01-01"], "M8[D]"), [1, 2]), "users"),
        ("nan", lambda: Interactions.from_arrays([1.0, float("nan")], [1, 2]), "users"),
        ("None among texts", lambda: Interactions.from_arrays(["a", "b"], ["x", None]), "items"),
        ("of two dimensions", lambda: Interactions.from_arrays(np.zeros((2, 2), int), [1, 2]), "users"),
        ("a user twice", lambda: Interactions(sp.csr_array(np.eye(2)), ["a", "a"], [1, 2]), "users"),
        ("an unknown one", lambda: Interactions.from_arrays(["a"], [1]).rows_of(["b"]), "b"),
        ("padding without a word for it", lambda: Interactions.from_arrays(["a"], [1]).item_ids([-1]), "missing|-1"),
    ):
        yield _ids.refused(name, call, words)
    yield _ids.either(
        "texts that differ in a NUL",
        lambda: Interactions.from_arrays(["a", "a\0"], [1, 1]),
        lambda d: d.shape == (2, 1) and d.users.tolist() == ["a", "a\0"],
        "users|nul",
    )
    yield _ids.right(
        "the latest of a pair: no time is the earliest, of equal times the later record",
        lambda: Interactions.from_arrays(
            [1, 1, 1, 2, 2],
            [5, 5, 5, 5, 5],
            [1.0, 2.0, 3.0, 4.0, 6.0],
            [7.0, 7.0, np.nan, np.nan, np.nan],
            duplicates="last",
        ),
        lambda d: cells(d) == {(1, 5): 2.0, (2, 5): 6.0} and d.timestamps[0] == 7 and np.isnan(d.timestamps[1]),
    )


def splits() -> Iterator[Case]:
    rng = np.random.default_rng(6)
    at = np.unique(rng.integers(0, 20 * 30, 250))
    users, items = at // 30, at % 30
    times = rng.integers(0, 40, len(at))
    data = Interactions.from_arrays(users, items, timestamps=times)
    when = dict(zip(zip(users.tolist(), items.tolist()), times.tolist()))

    def parts(pair: Any) -> tuple[set[Any], set[Any]]:
        train, test = (set(cells(part)) for part in pair)
        assert not train & test
        assert train | test == set(when)
        return train, test

    def by_share(pair: Any) -> bool:
        _, test = parts(pair)
        for user in range(20):
            d = sum(u == user for u, _ in when)
            held = sum(u == user for u, _ in test)
            if d and (held not in (int(0.3 * d), int(0.3 * d) + 1) or held >= d):
                return False
        return True

    def two_latest(pair: Any) -> bool:
        _, test = parts(pair)
        want = set()
        for user in range(20):
            own = sorted((t, i) for (u, i), t in when.items() if u == user)
            want |= {(user, i) for _, i in own[max(1, len(own) - 2) :]}
        return test == want

    def latest_share(pair: Any) -> bool:
        _, test = parts(pair)
        ordered = sorted(set(when.values()))
        sets = [{key for key, t in when.items() if t >= moment} for moment in ordered]
        return test == max((s for s in sets if len(s) <= 0.25 * len(when)), key=len, default=set())

    yield _splits.right("random", lambda: data.split(test_fraction=0.3, random_state=5), by_share)
    yield _splits.right("the last two", lambda: data.split("last", n=2), two_latest)
    yield _splits.right("by time, a share", lambda: data.split("time", test_fraction=0.25), latest_share)
    yield _splits.right(
        "by time, from a moment on",
        lambda: data.split("time", at=17),
        lambda pair: parts(pair)[1] == {key for key, t in when.items() if t >= 17},
    )

    def core(found: Any) -> bool:
        left = set(when)
        while True:
            kept = {(u, i) for u, i in left if sum(a == u for a, _ in left) >= 12}
            kept = {(u, i) for u, i in kept if sum(b == i for _, b in kept) >= 6}
            if kept == left:
                return set(cells(found)) == left and found.shape == (
                    len({u for u, _ in left}),
                    len({i for _, i in left}),
                )
            left = kept

    yield _splits.right("the core", lambda: data.core(12, 6), core)
    unknown = Interactions.from_arrays([1, 1, 2], [1, 2, 1], [np.nan, 4.0, 3.5])
    yield _splits.right(
        "from 4 up, and known", lambda: unknown.binarize(threshold=4), lambda d: cells(d) == {(1, 2): 1.0}
    )
    for name, call, words in (
        ("last, without times", lambda: unknown.split("last"), "time"),
        ("a share of 1", lambda: data.split(test_fraction=1.0), "test_fraction"),
        ("by day", lambda: data.split("day"), "by"),
        ("mask of another length", lambda: data.select([True, False]), "cells"),
        ("mask of numbers", lambda: data.select(np.ones(len(when))), "cells"),
    ):
        yield _splits.refused(name, call, words)


# ---- files ----------------------------------------------------------------------------------------------------------


def in_folder(name: str, content: bytes | None, read: Callable[[str], Any]) -> Callable[[], Any]:
    def run() -> Any:
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, name)
            if content is not None:
                Path(path).write_bytes(content)
            return read(path)

    return run


def text() -> Iterator[Case]:
    if not installed("pyarrow", "narwhals"):
        return
    odd = 'user,item,n\r\n"a, b",x,2\r\n"say ""hi""","two\nlines",3\r\n"NA",x,4\r\n'
    want = {("a, b", "x"): 2.0, ('say "hi"', "two\nlines"): 3.0, ("NA", "x"): 4.0}
    read = lambda path, **o: Interactions.from_csv(path, **o)  # noqa: E731
    for name, file, content, options, cells_ in (
        ("quotes, line ends, a text NA", "a.csv", odd.encode(), {"value": "n"}, want),
        ("the same with a mark of byte order", "a.csv", b"\xef\xbb\xbf" + odd.encode(), {"value": "n"}, want),
        ("the same, compressed", "a.csv.gz", gzip.compress(odd.encode()), {"value": "n"}, want),
        (
            "no names, semicolons, zeros in front",
            "a.csv",
            b"007;1\n7;1\n007;1\n",
            {"delimiter": ";", "column_names": ["user", "item"], "column_types": {"user": "string"}},
            {("007", 1): 2.0, ("7", 1): 1.0},
        ),
        (
            "nulls dropped",
            "a.csv",
            b"user,item\nann,1\n,2\nNULL,3\nbob,4\n",
            {"nulls": "drop"},
            {("ann", 1): 1.0, ("bob", 4): 1.0},
        ),
    ):
        yield _text.right(
            name, in_folder(file, content, lambda p, o=options: read(p, **o)), lambda d, w=cells_: cells(d) == w
        )
    for name, content, options, words in (
        ("nulls counted", b"user,item\nann,1\n,2\n,3\n", {}, "2"),
        ("a column that is not there", b"usr,item\nann,1\n", {}, "user"),
        ("a line that is too long", b"user,item\nann,1\nbob,2,3\n", {}, "3|column|line|row"),
        ("values that are words", b"user,item,v\nann,1,good\n", {"value": "v"}, "v"),
        ("nothing", b"", {}, "empty|a.csv|names"),
        ("two characters between", b"user,item\n", {"delimiter": "::"}, "delimiter"),
        ("text in another encoding", "user,item\nJosé,1\n".encode("latin-1"), {}, "utf|encod|user"),
    ):
        yield _text.refused(name, in_folder("a.csv", content, lambda p, o=options: read(p, **o)), words)


def tables() -> Iterator[Case]:
    if not installed("pyarrow", "narwhals", "pandas", "polars"):
        return

    def categories() -> Any:
        import pandas as pd

        frame = pd.DataFrame(
            {"user": pd.Categorical(["b", "a", "b"], ["z", "b", "a"]), "item": [1, 2, 2]}, index=[9, 9, 9]
        )
        return Interactions.from_frame(frame)

    yield _tables.right(
        "categories of pandas, one of them unused",
        categories,
        lambda d: d.users.tolist() == ["a", "b"] and cells(d) == {("b", 1): 1, ("a", 2): 1, ("b", 2): 1},
    )

    def lazy() -> Any:
        import polars as pl

        frame = pl.LazyFrame({"user": [3, None, 3], "item": ["x", "y", "z"], "n": [1, 2, None]})
        return Interactions.from_frame(frame.with_columns(n=pl.col("n") * 2), value="n", nulls="drop")

    yield _tables.right("a lazy frame of polars with nulls", lazy, lambda d: cells(d) == {(3, "x"): 2.0})

    def parquet(columns: dict[str, Any], **options: Any) -> Callable[[], Any]:
        def read(path: str) -> Any:
            import pyarrow as pa
            import pyarrow.parquet as pq

            pq.write_table(pa.table(columns), path, row_group_size=2)
            return Interactions.from_parquet(path, **options)

        return in_folder("a.parquet", None, read)

    cents = [decimal.Decimal("1.10"), decimal.Decimal("1.1"), decimal.Decimal("2.00")]
    yield _tables.right(
        "decimals",
        parquet({"user": cents, "item": ["a", "b", "a"]}),
        lambda d: cells(d) == {(cents[0], "a"): 1, (cents[0], "b"): 1, (cents[2], "a"): 1},
    )
    zone = datetime.timezone(datetime.timedelta(hours=5))
    moments = [
        datetime.datetime(2024, 1, 1, 3, tzinfo=zone),
        datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC),
    ]
    yield _tables.right(
        "times with a zone become UTC",
        parquet({"user": [1, 1], "item": [1, 2], "when": moments}, timestamp="when"),
        lambda d: (
            d.timestamps.astype("M8[s]").tolist()
            == [datetime.datetime(2023, 12, 31, 22), datetime.datetime(2024, 1, 1)]
        ),
    )

    def folders(path: str) -> Any:
        import pyarrow as pa
        import pyarrow.parquet as pq

        for user, items in {"ann": [1, 2], "bob": [2]}.items():
            os.makedirs(f"{path}/user={user}")
            pq.write_table(
                pa.table({"item": pa.array(items, pa.int32() if user == "ann" else pa.int64())}),
                f"{path}/user={user}/0.parquet",
            )
        return Interactions.from_parquet(path)

    yield _tables.right(
        "folders that name users",
        in_folder("a", None, folders),
        lambda d: cells(d) == {("ann", 1): 1, ("ann", 2): 1, ("bob", 2): 1},
    )
    yield _tables.refused(
        "an infinite value", parquet({"user": [1], "item": [1], "v": [float("inf")]}, value="v"), "v|finite"
    )
    yield _tables.refused("a list for an id", parquet({"user": [[1], [2]], "item": [1, 2]}), "user")
    yield _tables.refused("user and item from one column", parquet({"user": [1]}, item="user", user="usr"), "usr")


def cases() -> list[Case]:
    return [*pairs(), *ids(), *splits(), *text(), *tables()]
