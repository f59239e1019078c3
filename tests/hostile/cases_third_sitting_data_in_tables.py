"""The third sitting: tables by names, places, clocks and types that examples do not use, added up by dictionaries."""

from __future__ import annotations

import datetime
import gzip
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import lfm_np

from .case import Case, Group, installed
from .places import inside, write_csv
from .working_days import faultless, raised, wrong

_GROUP = Group("third sitting, data")
_holds = faultless(_GROUP)
_read_csv = lfm_np.Interactions.from_csv
_read_frame = lfm_np.Interactions.from_frame
_read_parquet = lfm_np.Interactions.from_parquet


def _values(data: Any) -> dict[Any, Any]:
    """The value of every pair of ids; NaN is None."""
    X = data.matrix.tocoo()
    pairs = zip(data.users[X.coords[0]].tolist(), data.items[X.coords[1]].tolist(), strict=True)
    return dict(zip(pairs, [None if math.isnan(x) else x for x in X.data.tolist()], strict=True))


def _stored(path: Path | str, place: Path, **words: Any) -> dict[Any, Any]:
    """The same of a stored matrix, read from its files."""
    stored = lfm_np.StoredMatrix.from_parquet(path, place, memory=64 << 20, **words)
    data, columns, starts = (np.load(place / f"rows.{part}.npy") for part in ("data", "indices", "indptr"))
    rows = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    pairs = zip(stored.users[rows].tolist(), stored.items[columns].tolist(), strict=True)
    return dict(zip(pairs, data.tolist(), strict=True))


def _frames(table: Any, **words: Any) -> dict[str, Any]:
    """What becomes of an Arrow table as a frame of every library."""
    found = {"arrow": _read_frame(table, **words)}
    if installed("pandas"):
        found["pandas"] = _read_frame(table.to_pandas(), **words)
    if installed("polars"):
        import polars as pl

        found["polars"] = _read_frame(pl.from_arrow(table), **words)
    return found


def _save(table: Any, path: Path, **words: Any) -> Path:
    import pyarrow.parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(table, path, **words)
    return path


def _dots(place: Path) -> list[str]:
    """A column "a.b" beside a structure "a" that has a field "b", and others whose names begin alike."""
    import pyarrow as pa

    table = pa.table(
        {
            "a": [{"b": 7, "c": 1.0}, {"b": 7, "c": 1.0}, {"b": 8, "c": 1.0}],
            "a.b": [1, 2, 1],
            "c.d": ["x", "y", "z"],
            "c": ["p", "p", "p"],
            "n.": [2.0, 4.0, 8.0],
            "n": [{"": 16.0}, {"": 16.0}, {"": 16.0}],
        }
    )
    path = _save(table, place / "x.parquet")
    words = {"user": "a.b", "item": "c.d", "value": "n."}
    mine = {(1, "x"): 2.0, (2, "y"): 4.0, (1, "z"): 8.0}
    found = {name: _values(data) for name, data in _frames(table, **words).items()}
    found["parquet"] = _values(_read_parquet(path, **words))
    found["stored"] = _stored(path, place / "m", **words)
    found["csv"] = _values(_read_csv(write_csv(place / "x.csv", "a,a.b,c.d,n.\n9,1,x,2\n9,2,y,4\n9,1,z,8\n"), **words))
    return wrong(**{name: values == mine for name, values in found.items()})


def _crossed(place: Path) -> list[str]:
    """Every role in a column that has another role's name; the last record of a pair is the latest."""
    import pyarrow as pa

    columns = {
        "timestamp": [2.0, 4.0, 8.0, 16.0],  # values
        "value": ["p", "q", "p", "p"],  # items
        "user": [40, 20, 10, 30],  # times
        "item": [5, 6, 5, 7],  # users
    }
    words = {"user": "item", "item": "value", "value": "timestamp", "timestamp": "user", "duplicates": "last"}
    mine = {(5, "p"): 2.0, (6, "q"): 4.0, (7, "p"): 16.0}
    table = pa.table(columns)
    found = _frames(table, **words)
    found["parquet"] = _read_parquet(_save(table, place / "x.parquet"), **words)
    lines = "".join(f"{t},{i},{w},{u}\n" for t, i, w, u in zip(*columns.values(), strict=True))
    found["csv"] = _read_csv(write_csv(place / "x.csv", "timestamp,value,user,item\n" + lines), **words)
    faults = [name for name, data in found.items() if _values(data) != mine or data.timestamps.tolist() != [40, 20, 30]]
    names = {name: column for name, column in words.items() if name in ("user", "item", "value")}
    disk = _stored(place / "x.parquet", place / "m", **names)
    return faults + wrong(disk=disk == {(5, "p"): 10.0, (6, "q"): 4.0, (7, "p"): 16.0})


def _in_memory(place: Path, wanted: str) -> list[str]:
    """Parquet and packed lines in a file system that is memory, and the folders of a disk by file://."""
    import fsspec
    import pyarrow as pa

    one, two = pa.table({"user": ["ann", "bob"], "item": [1, 1]}), pa.table({"item": [2, 1]})
    system, root = fsspec.filesystem("memory"), "/third-sitting"
    url = f"memory:/{root}"
    pair = {("ann", 1): 1.0, ("bob", 1): 1.0}
    named = {("ann", 1): 1.0, ("ann", 2): 1.0, ("eve", 1): 1.0, ("eve", 2): 1.0}
    try:
        for name, table in (("d/a.parquet", one), ("h/user=eve/x.parquet", two), ("h/user=ann/x.parquet", two)):
            system.pipe_file(f"{root}/{name}", _save(table, place / name).read_bytes())
        for name in ("d/_SUCCESS", "d/.a.parquet.crc", "d/_old/a.parquet"):
            system.pipe_file(f"{root}/{name}", b"nothing")
        system.pipe_file(f"{root}/x.csv.gz", gzip.compress(b"user,item\nann,3\nann,3\n"))
        if wanted == "files":
            return wrong(
                file=_values(_read_parquet(f"{url}/d/a.parquet")) == pair,
                packed=_values(_read_csv(f"{url}/x.csv.gz")) == {("ann", 3): 2.0},
                stored=_stored(f"{url}/d/a.parquet", place / "m") == pair,
                local=_values(_read_parquet(f"file://{place}/d/a.parquet")) == pair,
            )
        return wrong(
            folder=_values(_read_parquet(f"{url}/d")) == pair,
            names=_values(_read_parquet(f"{url}/h")) == named,
            stored=_stored(f"{url}/h", place / "m") == named,
            local=_values(_read_parquet(f"file://{place}/h")) == named,
        )
    finally:
        if system.exists(root):
            system.rm(root, recursive=True)


def _lazily() -> list[str]:
    """A column that cannot be computed is not asked for."""
    import polars as pl

    def broken(column: Any) -> Any:
        raise AssertionError("the other column was computed")

    frame = pl.LazyFrame({"user": [3, 1, 3], "item": ["a", "a", "b"], "n": [1.5, 2.5, 4.0]})
    frame = frame.with_columns(other=pl.col("n").map_batches(broken, return_dtype=pl.Float64))
    data = _read_frame(frame, value="n")
    return wrong(values=_values(data) == {(3, "a"): 1.5, (1, "a"): 2.5, (3, "b"): 4.0})


def _index_of_pandas() -> list[str]:
    """Labels of rows that are repeated, of two levels or in no order say nothing; the last row is the last."""
    import pandas as pd

    columns = {
        "user": pd.array([2**60 + 1, 5, 2**60 + 1, 5], "Int64"),
        "item": pd.array(["a", "a", "a", "b"], "string"),
        "n": pd.array([1.5, None, 3.5, 2.5], "Float32"),
    }
    frames = {
        "repeated": pd.DataFrame(columns, index=[0, 0, 1, 0]),
        "levels": pd.DataFrame(columns, index=pd.MultiIndex.from_tuples([("x", 1), ("x", 1), ("a", 2), ("a", 1)])),
        "falling": pd.DataFrame(columns, index=[3, 2, 1, 0]),
        "named": pd.DataFrame(columns, index=pd.Index([9, 8, 9, 8], name="user")),
    }
    words = {"value": "n", "nulls": "keep", "duplicates": "last"}
    mine = {(2**60 + 1, "a"): 3.5, (5, "a"): None, (5, "b"): 2.5}
    faults = [name for name, frame in frames.items() if _values(_read_frame(frame, **words)) != mine]
    back = _values(_read_frame(frames["falling"].iloc[::-1], **words))
    return faults + wrong(back=back == {**mine, (2**60 + 1, "a"): 1.5})


def _clocks_back(place: Path) -> list[str]:
    """Half past two comes twice that night; one hour later, in UTC, is later."""
    import pyarrow as pa

    zone = datetime.UTC
    moments = [datetime.datetime(2024, 10, 27, hour, 30, tzinfo=zone) for hour in (1, 0, 2)]
    table = pa.table(
        {
            "user": ["u", "u", "w"],
            "item": ["i", "i", "i"],
            "n": [1.0, 2.0, 3.0],
            "at": pa.array(moments, pa.timestamp("us", "Europe/Berlin")),
        }
    )
    words = {"value": "n", "timestamp": "at", "duplicates": "last"}
    found = _frames(table, **words)
    found["parquet"] = _read_parquet(_save(table, place / "x.parquet"), **words)
    lines = "u,i,1,2024-10-27T02:30:00+01:00\nu,i,2,2024-10-27T02:30:00+02:00\nw,i,3,2024-10-27T03:30:00+01:00\n"
    found["csv"] = _read_csv(write_csv(place / "x.csv", "user,item,n,at\n" + lines), **words)
    hours = np.array(["2024-10-27T01:30", "2024-10-27T02:30"], "datetime64[s]")
    late = datetime.datetime(2024, 10, 27, 3, 30, tzinfo=datetime.timezone(datetime.timedelta(hours=1)))
    return [
        name
        for name, data in found.items()
        if _values(data) != {("u", "i"): 1.0, ("w", "i"): 3.0}
        or not np.array_equal(data.timestamps.astype("datetime64[s]"), hours)
        or data.split("time", at=late)[1].matrix.toarray().tolist() != [[0.0], [3.0]]
    ]


def _old_times(place: Path) -> list[str]:
    """Spark's times of 96 bits, before 1970 too, in nanoseconds."""
    import pyarrow as pa

    texts = ["1969-12-31T23:59:59.999999999", "1970-01-01T00:00:00", "2024-05-01T12:00:00.000000001"]
    at = np.array(texts, "datetime64[ns]")
    table = pa.table({"user": [1, 1, 2], "item": [1, 1, 1], "n": [5.0, 3.0, 4.0], "at": pa.array(at[[1, 0, 2]])})
    path = _save(table, place / "x.parquet", use_deprecated_int96_timestamps=True)
    data = _read_parquet(path, value="n", timestamp="at", duplicates="last")
    return wrong(
        values=_values(data) == {(1, 1): 5.0, (2, 1): 4.0},
        times=np.array_equal(data.timestamps.astype("datetime64[ns]"), at[1:]),
        split=data.split("time", at=at[2])[1].matrix.toarray().tolist() == [[0.0], [4.0]],
    )


def _nothing_known(place: Path) -> list[str]:
    """A file of no records whose columns have no type, and one whose values have none."""
    import pyarrow as pa

    empty = pa.table({name: pa.array([], pa.null()) for name in ("user", "item", "n")})
    _save(empty, place / "f" / "1.parquet")
    _save(pa.table({"user": ["a", "b"], "item": [1, 2], "n": [2.5, 3.5]}), place / "f" / "2.parquet")
    _save(pa.table({"user": ["a", "c"], "item": [1, 2], "n": pa.nulls(2)}), place / "f" / "3.parquet")
    known = {("a", 1): 2.5, ("b", 2): 3.5}
    kept = _values(_read_parquet(place / "f", value="n", nulls="keep"))
    error = raised(lambda: _read_parquet(place / "f", value="n"))
    return wrong(
        keep=kept == {("a", 1): None, ("b", 2): 3.5, ("c", 2): None},
        drop=_values(_read_parquet(place / "f", value="n", nulls="drop")) == known,
        disk=_stored(place / "f", place / "m", value="n", nulls="drop") == known,
        counts=_values(_read_parquet(place / "f")) == {("a", 1): 2.0, ("b", 2): 1.0, ("c", 2): 1.0},
        error=isinstance(error, ValueError) and re.search(r"\b2\b", str(error)),
    )


def _kinds_of_text(place: Path) -> list[str]:
    """Texts of three types and integers of three widths are one user and one item."""
    import pyarrow as pa

    texts = (pa.string(), pa.large_string(), pa.dictionary(pa.int8(), pa.string()))
    whole = (pa.int8(), pa.uint16(), pa.int64())
    for number, (text, integer) in enumerate(zip(texts, whole, strict=True)):
        users, items = pa.array(["b", "a", "b"], text), pa.array([100, 3, number], integer)
        _save(pa.table({"user": users, "item": items}), place / "f" / f"{number}.parquet")
    mine = {("b", 100): 3.0, ("a", 3): 3.0, ("b", 0): 1.0, ("b", 1): 1.0, ("b", 2): 1.0}
    return wrong(parquet=_values(_read_parquet(place / "f")) == mine, disk=_stored(place / "f", place / "m") == mine)


def _told_types(place: Path) -> list[str]:
    """Types of Arrow: values beyond float32's whole numbers add up in float64, times keep their milliseconds."""
    import pyarrow as pa

    lines = (
        "007,1,16777217,2024-05-01 00:00:00.250\n007,1,16777219,2024-05-01 00:00:00.125\n"
        "7,1,0.5,1969-12-31 23:59:59.999\n"
    )
    path = write_csv(place / "x.csv", "user,item,n,at\n" + lines)
    types = {"user": pa.string(), "n": pa.float64(), "at": pa.timestamp("ms")}
    data = _read_csv(path, value="n", timestamp="at", column_types=types)
    at = np.array(["2024-05-01T00:00:00.250", "1969-12-31T23:59:59.999"], "datetime64[ms]")
    return wrong(
        values=_values(data) == {("007", 1): 33554436.0, ("7", 1): 0.5},  # 2²⁵ + 4, of numbers that float32 rounds
        times=np.array_equal(data.timestamps.astype("datetime64[ms]"), at),
    )


def _nulls_of_both_kinds() -> list[str]:
    """Two nulls and three NaN are five; a column that nobody asks for may have as many as it likes."""
    import pyarrow as pa

    nan = math.nan
    table = pa.table(
        {
            "user": [1, 2, 3, 4, 5, 6],
            "item": [1, 1, 1, 1, 1, 1],
            "n": pa.array([nan, None, nan, 2.0, None, nan], from_pandas=False),
            "other": pa.nulls(6),
        }
    )
    faults = []
    frames: dict[str, Any] = {"arrow": table}
    if installed("polars"):
        import polars as pl

        frames["polars"] = pl.from_arrow(table)
    for name, frame in frames.items():
        error = raised(lambda frame=frame: _read_frame(frame, value="n"))
        numbers = set(re.findall(r"\d+", str(error)))
        if not isinstance(error, ValueError) or not ("5" in numbers or {"2", "3"} <= numbers):
            faults.append(f"{name}: {error}")
        if _values(_read_frame(frame, value="n", nulls="drop")) != {(4, 1): 2.0}:
            faults.append(f"{name}: drop")
        if _values(_read_frame(frame)) != {(user, 1): 1.0 for user in range(1, 7)}:
            faults.append(f"{name}: other")
    return faults


def _separated_by_one(place: Path) -> list[str]:
    """The separator of Hive; spaces belong to an id, and an id in quotes may have a separator."""
    text = 'user\x01item\nx \x01 1,5\n x\x01 1,5\nx\x01" 1\x015"\n" x"\x01 1,5\n'
    words: dict[str, Any] = {"delimiter": "\x01", "column_types": {"user": "string", "item": "string"}}
    data = _read_csv(write_csv(place / "x.csv", text), **words)
    mine = {("x ", " 1,5"): 1.0, (" x", " 1,5"): 2.0, ("x", " 1\x015"): 1.0}
    return wrong(values=_values(data) == mine, order=data.users.tolist() == [" x", "x", "x "])


_WRITTEN: dict[str, dict[str, Any]] = {
    "zstd": {"compression": "zstd", "row_group_size": 7},
    "gzip": {"compression": "gzip", "data_page_version": "2.0", "use_dictionary": False},
    "none": {"compression": "none", "data_page_size": 1, "write_page_checksum": True},
    "old": {"version": "1.0", "write_statistics": False, "store_schema": False},
    "packed": {
        "use_dictionary": False,
        "column_encoding": {"user": "DELTA_BYTE_ARRAY", "item": "DELTA_BINARY_PACKED", "n": "BYTE_STREAM_SPLIT"},
    },
    "lengths": {
        "use_dictionary": ["item"],
        "column_encoding": {"user": "DELTA_LENGTH_BYTE_ARRAY", "n": "PLAIN"},
        "row_group_size": 31,
    },
}


def _encodings(place: Path) -> list[str]:
    """Codecs, encodings, pages and row groups of other writers; records of unknown value are left out."""
    import pyarrow as pa

    draw = np.random.default_rng(5)
    users = [f"https://example.org/user/{'x' * (u % 5)}{u}" for u in draw.integers(0, 9, 100).tolist()]
    items = draw.integers(-(2**62), 2**62, 7)[draw.integers(0, 7, 100)].tolist()
    values = [None if x < 2 else x / 4 for x in draw.integers(0, 12, 100).tolist()]
    mine: dict[Any, float] = {}
    for user, item, x in zip(users, items, values, strict=True):
        if x is not None:
            mine[user, item] = mine.get((user, item), 0.0) + x
    table = pa.table({"user": users, "item": items, "n": values})
    words: dict[str, Any] = {"value": "n", "nulls": "drop"}
    faults = [
        name
        for name, options in _WRITTEN.items()
        if _values(_read_parquet(_save(table, place / "f" / f"{name}.parquet", **options), **words)) != mine
    ]
    six = {pair: 6 * x for pair, x in mine.items()}
    return faults + wrong(
        folder=_values(_read_parquet(place / "f", **words)) == six,
        disk=_stored(place / "f", place / "m", **words) == six,
    )


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    if not installed("pyarrow", "narwhals"):
        return
    for name, call in (
        ("columns with dots beside structures", _dots),
        ("every role in a column of another role's name", _crossed),
        ("clocks that are put back", _clocks_back),
        ("times of 96 bits", _old_times),
        ("files of no type", _nothing_known),
        ("texts and integers of other types in every file", _kinds_of_text),
        ("types of Arrow for CSV", _told_types),
        ("fields between characters of number one", _separated_by_one),
        ("files of six writers", _encodings),
    ):
        yield _holds(name, inside(call))
    if installed("fsspec"):
        yield _holds("files by their URLs", inside(lambda place: _in_memory(place, "files")))
        yield _GROUP.either(
            "folders by their URLs",
            inside(lambda place: _in_memory(place, "folders")),
            lambda found: found == [],
            "folder|director|url|file",
            kind=(TypeError, ValueError, OSError),
        )
    if installed("polars"):
        yield _holds("a lazy column that cannot be computed", _lazily)
    if installed("pandas"):
        yield _holds("labels of pandas that say nothing", _index_of_pandas)
    yield _holds("nulls and NaN are counted together", _nulls_of_both_kinds)
