"""Small analyses of tables: records to cells, cores, thresholds and splits, recounted with dictionaries."""

from __future__ import annotations

import datetime
import gzip
import importlib
import math
import pickle
import uuid
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp

import lfm_np as library

from .case import Case, Group, installed
from .working_days import faultless, folder, wrong

lfm_np: Any = library
_GROUP = Group("analysts' tables")
_holds = faultless(_GROUP)
RULES = ("sum", "last", "mean", "max", "count")


class Record(NamedTuple):
    user: Any
    item: Any
    value: float | None = 1.0
    time: Any = None


def log(users: Any, items: Any, count: int, seed: int = 0) -> list[Record]:
    """Records with repeated pairs; values are quarters, times whole numbers with repetitions."""
    draw = np.random.default_rng(seed)
    return [
        Record(users[a], items[b], float(v) / 4, int(t))
        for a, b, v, t in zip(
            draw.integers(0, len(users), count),
            draw.integers(0, len(items), count),
            draw.integers(-20, 60, count),
            draw.integers(0, count // 3, count),
            strict=True,
        )
    ]


def gathered(records: list[Record], how: str) -> dict[tuple[Any, Any], tuple[float | None, Any]]:
    """Value and time of every pair; None is unknown, and earliest."""
    of: dict[tuple[Any, Any], list[Record]] = {}
    for record in records:
        of.setdefault((record.user, record.item), []).append(record)
    found: dict[tuple[Any, Any], tuple[float | None, Any]] = {}
    for pair, several in of.items():
        last = max(range(len(several)), key=lambda n: (-math.inf if several[n].time is None else several[n].time, n))
        values = [r.value for r in several]
        value: float | None
        if how == "count":
            value = float(len(values))
        elif how == "last":
            value = values[last]
        elif None in values:
            value = None
        else:
            known = [v for v in values if v is not None]
            value = {"sum": math.fsum(known), "mean": math.fsum(known) / len(known), "max": max(known)}[how]
        found[pair] = (None if value is None else float(np.float32(value)), several[last].time)
    return found


def spelled(data: Any, as_user: Callable[[Any], Any] = lambda x: x) -> dict[tuple[Any, Any], tuple[float | None, Any]]:
    """The same of Interactions."""
    X, users, items = data.matrix, data.users.tolist(), data.items.tolist()
    rows = np.repeat(np.arange(X.shape[0]), np.diff(X.indptr))
    times = [None] * X.nnz if data.timestamps is None else data.timestamps.tolist()
    return {
        (as_user(users[r]), items[c]): (None if v != v else v, None if t != t else t)
        for r, c, v, t in zip(rows.tolist(), X.indices.tolist(), X.data.tolist(), times, strict=True)
    }


def made(records: list[Record], how: str = "sum", timed: bool = True) -> Any:
    users, items, values, times = (list(column) for column in zip(*records, strict=True))
    more = {"timestamps": [np.nan if t is None else t for t in times]} if timed else {}
    numbers = [np.nan if v is None else v for v in values]
    return lfm_np.Interactions.from_arrays(users, items, numbers, duplicates=how, **more)


def _rules() -> list[str]:
    names = ["Zoë", "anna", "Ärger", "zoe", "Anna", "\N{SNOWMAN}", "an na", "~"]
    records = [r._replace(time=None if n % 7 == 0 else r.time) for n, r in enumerate(log(names, range(-3, 6), 150))]
    facts: dict[str, Any] = {}
    for how in RULES:
        data = made(records, how)
        facts[how] = spelled(data) == gathered(records, how)
        facts[f"order {how}"] = data.users.tolist() == sorted(names) and data.items.tolist() == list(range(-3, 6))
    return wrong(**facts)


def _unknown_values() -> list[str]:
    records = [r._replace(value=None if n % 5 == 0 else r.value) for n, r in enumerate(log("abcdef", range(5), 70, 1))]
    facts = {how: spelled(made(records, how)) == gathered(records, how) for how in RULES}
    return wrong(**facts)


def _core_counts_cells() -> list[str]:
    import pyarrow as pa

    records = [("a", 1), ("a", 1), ("a", 1), ("b", 1), ("b", 2), ("c", 2), ("c", 1), ("d", 3), ("d", 1), ("d", 2)]
    table = pa.table({"user": [u for u, _ in records], "item": [i for _, i in records]})
    data = lfm_np.Interactions.from_frame(
        table, min_user_interactions=2, min_item_interactions=2, duplicates="count"
    )  # a has one cell of three records; without it and item 3, b, c and d have two each
    mine = {(u, i): (1.0, None) for u in "bcd" for i in (1, 2)}
    return wrong(cells=spelled(data) == mine, gone=data.users.tolist() == ["b", "c", "d"])


def _thresholds() -> list[str]:
    """A value of 3.3 is at least 3.3, however a number is stored."""
    values = [n / 10 for n in range(1, 51)] + [None]
    data = made([Record(n, n % 4, v) for n, v in enumerate(values)], timed=False)
    facts: dict[str, Any] = {}
    for n in (1, 3, 7, 17, 33, 41, 50):
        count = sum(v is not None and v >= n / 10 for v in values)
        for t in (n / 10, np.float64(n / 10), np.float32(n / 10)):
            liked = data.binarize(threshold=t)
            facts[f"{n} {type(t).__name__}"] = liked.matrix.nnz == count and (liked.matrix.data == 1).all()
    every = data.binarize()
    return wrong(all=every.matrix.nnz == 51 and (every.matrix.data == 1).all(), same=data.matrix.nnz == 51, **facts)


def _pandas() -> list[str]:
    pd: Any = importlib.import_module("pandas")

    draw = np.random.default_rng(10)
    cities = draw.choice(["Rom", "Bern", "Oslo"], 60).tolist()
    items: list[Any] = [None if n % 11 == 3 else 2**60 + int(draw.integers(0, 5)) for n in range(60)]
    values = (draw.integers(1, 40, 60) / 4).tolist()
    frame = pd.DataFrame(
        {
            "city": pd.Categorical(cities, categories=["Rom", "Wien", "Oslo", "Bern"], ordered=True),
            "thing": pd.array(items, dtype="Int64"),
            "sum": values,
        }
    )
    records = [Record(c, i, v) for c, i, v in zip(cities, items, values, strict=True) if i is not None]
    facts: dict[str, Any] = {}
    for how in RULES:
        data = lfm_np.Interactions.from_frame(frame, "city", "thing", "sum", duplicates=how, nulls="drop")
        facts[how] = spelled(data) == gathered(records, how)
    return wrong(users=data.users.tolist() == ["Bern", "Oslo", "Rom"], **facts)


def _polars() -> list[str]:
    import polars as pl

    day = datetime.date(2024, 2, 27)
    days = [day + datetime.timedelta(n % 5) for n in range(40)]
    values = [None if n % 6 == 1 else n % 13 / 2 for n in range(40)]
    items = [f"i{n * n % 7}" for n in range(40)]
    frame = pl.DataFrame({"user": days, "item": items, "stars": values})
    records = [Record(d, i, v) for d, i, v in zip(days, items, values, strict=True)]
    facts: dict[str, Any] = {}
    for how in RULES:
        data = lfm_np.Interactions.from_frame(frame, value="stars", duplicates=how, nulls="keep")
        mine = gathered(records, how)
        facts[how] = spelled(data, lambda d: np.datetime64(d, "D").item()) == mine
    total = lfm_np.Interactions.from_frame(frame, value="stars", nulls="keep")
    known = total.select(~np.isnan(total.matrix.data))
    facts["select"] = known.matrix.nnz == sum(v is not None for v, _ in gathered(records, "sum").values())
    return wrong(**facts)


def _odd_ids() -> list[str]:
    import pyarrow as pa

    prices = [Decimal("1.10"), Decimal("-0.05"), Decimal("10.00"), Decimal("1.10"), Decimal("2.00")]
    flags = [True, False, True, True, False]
    table = pa.table({"user": pa.array(prices, pa.decimal128(9, 2)), "item": flags})
    data = lfm_np.Interactions.from_frame(table)
    mine = gathered([Record(p, f) for p, f in zip(prices, flags, strict=True)], "sum")
    return wrong(
        users=data.users.tolist() == sorted(set(prices)),
        items=data.items.tolist() == [False, True],
        cells=spelled(data) == mine,
        rows=data.rows_of([Decimal("10.00"), Decimal("-0.05")]).tolist() == [3, 0],
    )


def _uuids() -> list[str]:
    pd: Any = importlib.import_module("pandas")

    ids = [uuid.UUID(int=n * 2**100 + 7) for n in (9, 1, 5, 9, 12, 1)]
    frame = pd.DataFrame({"user": ids, "item": [3, 3, 4, 4, 3, 3]})
    data = lfm_np.Interactions.from_frame(frame, duplicates="count")
    mine = gathered([Record(u, i) for u, i in zip(ids, [3, 3, 4, 4, 3, 3], strict=True)], "count")
    return wrong(
        users=data.users.tolist() == sorted(set(ids)),
        cells=spelled(data) == mine,
        back=data.user_ids(data.rows_of(ids)).tolist() == ids,
    )


def _csv() -> list[str]:
    lines = [("007", "tea; green", "2.5"), ("7", "NA", "1"), ("007", "tea; green", "4"), ("07", 'say "yes"', "0.25")]
    with folder() as place:
        logs = place / "logs"
        logs.mkdir()
        for name, some in (("a.csv.gz", lines[:2]), ("b.csv.gz", lines[2:])):
            text = "".join(";".join('"' + f.replace('"', '""') + '"' for f in line) + "\n" for line in some)
            (logs / name).write_bytes(gzip.compress(text.encode()))
        data = lfm_np.Interactions.from_csv(
            logs, delimiter=";", column_names=["who", "what", "much"], user="who", item="what", value="much",
            column_types={"who": "string", "what": "string", "much": "float64"}, duplicates="last",
        )  # fmt: skip
    mine = gathered([Record(u, i, float(v)) for u, i, v in lines], "last")
    return wrong(cells=spelled(data) == mine, users=data.users.tolist() == ["007", "07", "7"])


def _parquet_by_shop() -> list[str]:
    """The folders say whose records they are; one file has ids of 32 bits, the other of 64."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    parts = {12: ([5, 1, 5, 9], "int32"), 3: ([1, 1, 2**40], "int64"), 100: ([9], "int64")}
    with folder() as place:
        for shop, (things, kind) in parts.items():
            (place / "all" / f"shop={shop}").mkdir(parents=True)
            table = pa.table({"thing": pa.array(things, kind), "paid": [0.5 * n for n in range(len(things))]})
            pq.write_table(table, place / "all" / f"shop={shop}" / "part.parquet")
        data = lfm_np.Interactions.from_parquet(place / "all", user="shop", item="thing", value="paid")
    mine = gathered([Record(s, t, 0.5 * n) for s, (ts, _) in parts.items() for n, t in enumerate(ts)], "sum")
    return wrong(cells=spelled(data, int) == mine)


def _sums_in_float64() -> list[str]:
    draw = np.random.default_rng(11)
    count = 4000
    pairs = np.column_stack([draw.integers(0, 3, count), draw.integers(0, 2, count)]).astype(np.uint8)
    values = np.where(draw.random(count) < 0.5, 2.0**24, 1.0) * draw.choice([-1.0, 1.0, 1.0], count)
    of: dict[tuple[int, int], list[float]] = {}
    for (r, c), v in zip(pairs.tolist(), values.tolist(), strict=True):
        of.setdefault((r, c), []).append(v)
    facts: dict[str, Any] = {}
    for how in RULES:
        X = lfm_np.to_csr(pairs, values=values, duplicates=how)
        mine = np.zeros((3, 2))
        for cell, several in of.items():
            total = math.fsum(several)
            mine[cell] = {"sum": total, "mean": total / len(several), "max": max(several), "count": len(several)}.get(
                how, several[-1]
            )
        facts[how] = (X.toarray() == mine.astype(np.float32)).all() and X.dtype == np.float32
    back = lfm_np.to_csr([(0, 1), (2, 0), (0, 1)], shape=(4, 2), values=[5, 2, -5])
    facts["a zero that is left"] = back.nnz == 2 and back.indptr.tolist() == [0, 1, 1, 2, 2] and back.data[0] == 0
    none = lfm_np.to_csr(np.empty((0, 2), int), shape=(2, 257))
    return wrong(none=none.shape == (2, 257) and none.nnz == 0 and none.indptr.tolist() == [0, 0, 0], **facts)


def _dictionary() -> list[str]:
    draw = np.random.default_rng(12)
    pairs = draw.integers(250, 260, (300, 2)).astype(np.uint16)[::-1]
    mine: dict[int, set[int]] = {}
    for i, j in pairs.tolist():
        mine.setdefault(i, set()).add(j)
    found = lfm_np.build_dict(pairs)
    return wrong(
        keys=list(found) == sorted(mine),
        values=all(found[i].tolist() == sorted(mine[i]) for i in mine),
        kind=all(a.dtype == np.uint16 and not a.flags.writeable for a in found.values()),
    )


def _large_numbers() -> list[str]:
    users = [2**62 + 1, 2**62, -(2**62), 2**53 + 1, 2**53, 0]
    data = lfm_np.Interactions.from_arrays(users, ["x", "yy", "", "x", "zzz", ""])
    grid = data.item_ids(np.array([[3, -1], [0, 1]]), missing="?!?!?")
    return wrong(
        users=data.users.tolist() == sorted(users),
        rows=data.rows_of(users).tolist() == [5, 4, 0, 3, 2, 1],
        absent=data.rows_of([1, 2**53], missing=-1).tolist() == [-1, 2],
        grid=grid.tolist() == [["zzz", "?!?!?"], ["", "x"]],
        many=data.user_ids(np.array([[[5]], [[0]]])).tolist() == [[[2**62 + 1]], [[-(2**62)]]],
        columns=data.columns_of(["yy", "nobody"], missing=99).tolist() == [2, 99],
    )


def _constructed() -> list[str]:
    """Canonical CSR, for whose cells there are times."""
    matrix = sp.csr_array(([3.0, 1.0, 6.5], ([0, 0, 2], [0, 1, 1])), shape=(3, 2))
    times = np.array(["2020-01-01", "NaT", "2019-01-01"], "datetime64[s]")
    data = lfm_np.Interactions(matrix, np.array(["c", "a", "b"]), np.array([9, 8]), times)
    again = pickle.loads(pickle.dumps(data))
    mine = {("c", 9): 3.0, ("c", 8): 1.0, ("b", 8): 6.5}
    facts: dict[str, Any] = {}
    for name, one in (("it", data), ("its copy", again)):
        cells = spelled(one)
        facts[name] = {pair: v for pair, (v, _) in cells.items()} == mine
        facts[f"times of {name}"] = np.array_equal(one.timestamps, times, equal_nan=True)
        facts[f"rows of {name}"] = one.rows_of(["b", "c"]).tolist() == [2, 0] and one.shape == (3, 2)
    return wrong(**facts)


def _hours() -> list[str]:
    moments = np.array(["2024-03-31T01", "2024-03-31T03", "2024-03-31T01", "1950-01-01T00"], "datetime64[h]")
    lasts = np.array([90, 30, 90, -5], "timedelta64[m]")
    data = lfm_np.Interactions.from_arrays(moments, lasts, [1, 2, 3, 4], duplicates="mean")
    mine = sorted(set(moments.tolist()))
    return wrong(
        users=data.users.astype("datetime64[h]").tolist() == mine,
        items=data.items.astype("timedelta64[m]").astype(int).tolist() == [-5, 30, 90],
        cells=data.matrix.toarray().tolist() == [[4, 0, 0], [0, 0, 2], [0, 2, 0]],
        rows=data.rows_of(moments).tolist() == [1, 2, 1, 0],
    )


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    yield _holds("several opinions of a pair, five rules, some times unknown", _rules)
    yield _holds("several opinions of a pair, five rules, some values unknown", _unknown_values)
    yield _holds("thresholds that float32 does not hold", _thresholds)
    yield _holds("long sums and means of large and small values", _sums_in_float64)
    yield _holds("a dictionary of uint16 pairs, read backwards", _dictionary)
    yield _holds("numbers beyond floats, and ids in grids", _large_numbers)
    yield _holds("a matrix with times, and its pickle", _constructed)
    yield _holds("hours and durations as ids", _hours)
    if installed("pyarrow", "narwhals"):
        yield _holds("cores count cells and not records", _core_counts_cells)
        yield _holds("decimals and booleans as ids", _odd_ids)
        yield _holds("a folder of compressed CSV without names", _csv)
        yield _holds("a folder of Parquet whose folders are users", _parquet_by_shop)
    if installed("pandas", "pyarrow", "narwhals"):
        yield _holds("pandas: ordered categories and nullable integers", _pandas)
        yield _holds("pandas: UUIDs", _uuids)
    if installed("polars", "narwhals", "pyarrow"):
        yield _holds("polars: days, and values that are null", _polars)
