"""The second sitting: tables by every way in, added up by dictionaries of Python's numbers."""

from __future__ import annotations

import bz2
import gzip
import math
import re
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np

import lfm_np

from .case import Case, Group, installed
from .places import inside, write_csv
from .working_days import faultless, raised, wrong

_GROUP = Group("second sitting, data")
_holds = faultless(_GROUP)
_read_arrays = lfm_np.Interactions.from_arrays
_read_csv = lfm_np.Interactions.from_csv
_read_frame = lfm_np.Interactions.from_frame
_read_parquet = lfm_np.Interactions.from_parquet


def _values(data: Any) -> dict[Any, Any]:
    """The value of every pair of ids; NaN is None."""
    X = data.matrix.tocoo()
    pairs = zip(data.users[X.coords[0]].tolist(), data.items[X.coords[1]].tolist(), strict=True)
    return dict(zip(pairs, [None if math.isnan(x) else x for x in X.data.tolist()], strict=True))


def _disk(path: Path, place: Path, **words: Any) -> dict[Any, Any]:
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


def _folders(place: Path, tables: list[Any]) -> tuple[Path, Path]:
    """The tables as files of two folders, of Parquet and of CSV."""
    import pyarrow.csv
    import pyarrow.parquet as pq

    for kind in ("parquet", "csv"):
        (place / kind).mkdir()
    for number, table in enumerate(tables):
        pq.write_table(table, place / "parquet" / f"{number}.parquet", row_group_size=2)
        pyarrow.csv.write_csv(table, place / "csv" / f"{number}.csv")
    return place / "parquet", place / "csv"


def _long_sums(place: Path) -> list[str]:
    """2²⁴ + 1 + 1 is 2²⁴ in float32, and a third of it 5592405.5."""
    import pyarrow as pa

    big, one = 2**24, 1
    tables = [
        pa.table({"user": [7, 8], "item": ["i", "i"], "n": [big, one]}),
        pa.table({"user": [7, 8, 8], "item": ["i", "i", "j"], "n": [one, big, 3]}),
        pa.table({"user": [8, 7], "item": ["i", "i"], "n": [one, one]}),
    ]
    whole = pa.concat_tables(tables)
    parquet, lines = _folders(place, tables)
    users, items, n = (whole[name].to_numpy() for name in ("user", "item", "n"))
    faults = []
    for how, value in (("sum", 16777218.0), ("mean", 5592406.0)):
        mine = {(7, "i"): value, (8, "i"): value, (8, "j"): 3.0}
        words = {"value": "n", "duplicates": how}
        found = {name: _values(data) for name, data in _frames(whole, **words).items()}
        found["parquet"], found["csv"] = _values(_read_parquet(parquet, **words)), _values(_read_csv(lines, **words))
        found["stored"] = _disk(parquet, place / how, **words)
        found["arrays"] = _values(_read_arrays(users, items.astype(str), n, duplicates=how))
        pairs = np.column_stack([users - 7, items == "j"]).astype(int)
        plain = lfm_np.to_csr(pairs, values=n.astype(np.float32), duplicates=how).toarray()
        faults += [f"{how}, {name}" for name, values in found.items() if values != mine]
        faults += [] if plain.tolist() == [[value, 0], [value, 3]] else [f"{how}, to_csr"]
    return faults


def _small_types(place: Path) -> list[str]:
    """Sums, means and maxima that the type of the values cannot hold, or that are below zero."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = {
        "uint8": ([200, 100, 255], (555.0, 185.0, 255.0)),
        "int8": ([-100, -128, -3], (-231.0, -77.0, -3.0)),
        "int64": ([2**62, 2**62, 2**62], (3.0 * 2**62, 2.0**62, 2.0**62)),
        "uint64": ([2**63, 2**63, 2**62], (2.5 * 2**63, None, 2.0**63)),
        "float32": ([2.0**127, -(2.0**127), 2.0**126], (2.0**126, None, 2.0**127)),
    }
    faults = []
    for kind, (values, expected) in kinds.items():
        n = np.array(values, kind)
        table = pa.table({"user": [5, 5, 5], "item": [2, 2, 2], "n": n})
        pq.write_table(table, place / f"{kind}.parquet")
        for how, value in zip(("sum", "mean", "max"), expected, strict=True):
            if value is None:
                continue
            words = {"value": "n", "duplicates": how}
            found = {name: _values(data) for name, data in _frames(table, **words).items()}
            found["parquet"] = _values(_read_parquet(place / f"{kind}.parquet", **words))
            found["stored"] = _disk(place / f"{kind}.parquet", place / f"{kind} {how}", **words)
            found["arrays"] = _values(_read_arrays([5] * 3, [2] * 3, n, duplicates=how))
            plain = lfm_np.to_csr([(5, 2)] * 3, values=n, duplicates=how)
            found["to_csr"] = {(5, 2): float(plain[5, 2])} if plain.nnz == 1 else {}
            faults += [f"{kind}, {how}, {name}" for name, cells in found.items() if cells != {(5, 2): value}]
    return faults


def _halves() -> list[str]:
    """60,000 and 60,000 in float16, which ends at 65,504."""
    n = np.array([60000, 60000, 1], np.float16)
    plain = lfm_np.to_csr([(0, 0), (0, 0), (1, 1)], values=n)
    data = _read_arrays(["a", "a", "b"], [1, 1, 2], n)
    return wrong(
        plain=plain.toarray().tolist() == [[120000, 0], [0, 1]], data=_values(data) == {("a", 1): 120000, ("b", 2): 1}
    )


def _unknown_records(place: Path) -> list[str]:
    """Records of unknown value count with "keep", and are not there with "drop"."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    n = [5.0, None, 1.0, None, None, 2.0]
    who, what = list("aababb"), [1, 1, 1, 2, 1, 3]
    table = pa.table({"user": who, "item": what, "n": pa.array(n, pa.float64())})
    pq.write_table(table, place / "x.parquet", row_group_size=2)
    text = "".join(f"{u},{i},{'' if v is None else v}\n" for u, i, v in zip(who, what, n, strict=True))
    write_csv(place / "x.csv", "user,item,n\n" + text)
    a1, a2, b1, b3 = ("a", 1), ("a", 2), ("b", 1), ("b", 3)
    mine = {
        ("count", "keep"): {a1: 2, a2: 1, b1: 2, b3: 1},
        ("count", "drop"): {a1: 1, b1: 1, b3: 1},
        ("sum", "keep"): {a1: None, a2: None, b1: None, b3: 2},
        ("max", "keep"): {a1: None, a2: None, b1: None, b3: 2},
        ("last", "keep"): {a1: None, a2: None, b1: None, b3: 2},
        ("last", "drop"): {a1: 5, b1: 1, b3: 2},
    }
    faults = []
    for (how, nulls), cells in mine.items():
        words = {"value": "n", "duplicates": how, "nulls": nulls}
        found = {name: _values(data) for name, data in _frames(table, **words).items()}
        found["parquet"] = _values(_read_parquet(place / "x.parquet", **words))
        found["csv"] = _values(_read_csv(place / "x.csv", **words))
        if nulls == "keep":
            found["arrays"] = _values(
                _read_arrays(who, what, [math.nan if v is None else v for v in n], duplicates=how)
            )
        else:
            found["stored"] = _disk(place / "x.parquet", place / f"m {how}", **words)
        faults += [f"{how}, {nulls}, {name}" for name, values in found.items() if values != cells]
    return faults


def _latest_where_some_are_unknown(place: Path) -> list[str]:
    """An unknown time counts as earliest, equal times in the order given; the cell has the latest time."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    draw = np.random.default_rng(11)
    who, what, when = draw.integers(0, 6, 250), draw.integers(0, 9, 250), draw.integers(0, 5, 250)
    known = draw.random(250) < 0.6
    n = np.arange(1.0, 251)
    best: dict[Any, Any] = {}
    for u, i, t, k, v in zip(who.tolist(), what.tolist(), when.tolist(), known.tolist(), n.tolist(), strict=True):
        time = t if k else None
        old = best.get((u, i))
        if old is None or (-1 if time is None else time) >= (-1 if old[1] is None else old[1]):
            best[u, i] = (v, time)
    start = 1_700_000_000_000_000
    date = (start + when).astype("datetime64[us]")
    date[~known] = np.datetime64("NaT")
    table = pa.table({"user": who, "item": what, "n": n, "t": pa.array(date, pa.timestamp("us"))})
    pq.write_table(table, place / "x.parquet", row_group_size=50)
    words = {"value": "n", "timestamp": "t", "duplicates": "last", "nulls": "keep"}
    found = {**_frames(table, **words), "parquet": _read_parquet(place / "x.parquet", **words)}
    found["dates"] = _read_arrays(who, what, n, date, duplicates="last")
    found["floats"] = _read_arrays(who, what, n, np.where(known, when, math.nan), duplicates="last")
    faults = wrong(some=0 < sum(t is None for _, t in best.values()) < len(best))
    for name, data in found.items():
        times = data.timestamps
        if times.dtype.kind == "M":
            days = times.astype("datetime64[us]")
            times = [None if np.isnat(t) else int(t.astype(np.int64)) - start for t in days]
        else:
            times = [None if math.isnan(t) else int(t) for t in times.tolist()]
        cells = _values(data)
        if dict(zip(cells, zip(cells.values(), times, strict=True), strict=True)) != best:
            faults.append(name)
    return faults


def _slices_of_dictionaries() -> list[str]:
    """Chunks with a dictionary each, one of which holds a null, cut within a chunk; values with a null."""
    import pyarrow as pa

    chunks = [
        pa.DictionaryArray.from_arrays(pa.array([0, 1, 2, 1, 0], pa.int8()), pa.array(["b", None, "a"])),
        pa.DictionaryArray.from_arrays(pa.array([], pa.int8()), pa.array(["never"])),
        pa.DictionaryArray.from_arrays(pa.array([1, 0, None, 1, 0], pa.int8()), pa.array(["a", "c"])),
    ]
    table = pa.table(
        {
            "user": pa.chunked_array(chunks),
            "item": pa.chunked_array([[True, False, True, False], [True, True, False, True, False, False]]),
            "n": pa.chunked_array([[1.0, 2.0, 4.0], [8.0, 16.0, None, 64.0, 128.0, 256.0, 512.0]]),
        }
    ).slice(1, 8)
    # Of the ten records b1 -2 a4 -8 b16 c? a64 -128 c256 a512 these are left:
    mine = {("a", True): 4, ("b", True): 16, ("a", False): 64, ("c", False): 256}
    data = _read_frame(table, value="n", nulls="drop")
    return wrong(
        values=_values(data) == mine,
        users=data.users.tolist() == ["a", "b", "c"],
        items=data.items.tolist() == [False, True],
        told=isinstance(raised(lambda: _read_frame(table, value="n")), ValueError),
    )


def _counted_nulls(place: Path) -> list[str]:
    """11 in the first file, none in the second, 12 in the third: 23."""
    import pyarrow as pa

    def table(nulls: int, offset: int) -> Any:
        items = [None if row < nulls else row + offset for row in range(20)]
        return pa.table({"user": list(range(20)), "item": pa.array(items, pa.int64())})

    tables = [table(11, 0), table(0, 5), table(12, 9)]
    parquet, lines = _folders(place, tables)
    errors = {
        "parquet": raised(lambda: _read_parquet(parquet)),
        "csv": raised(lambda: _read_csv(lines)),
        "frame": raised(lambda: _read_frame(pa.concat_tables(tables))),
    }
    return [
        f"{name}: {error}"
        for name, error in errors.items()
        if not isinstance(error, ValueError) or not re.search(r"\b23\b", str(error).replace(str(place), ""))
    ]


def _columns_anywhere(place: Path) -> list[str]:
    """Each file has its own order of columns; the first has a line of names only."""
    write_csv(place / "a.csv", "item,n,user\n")
    write_csv(place / "b.csv", "n,user,item\n2,u,7\n3,v,9\n")
    write_csv(place / "c.csv", 'user,remark,item,n\nu,"x, y",7,10\nw,,8,20\n')
    write_csv(place / "d.csv", "item,n,user\n9,100,u\n")
    data = _read_csv(place, value="n")
    return wrong(
        values=_values(data) == {("u", 7): 12, ("v", 9): 3, ("w", 8): 20, ("u", 9): 100},
        items=data.items.tolist() == [7, 8, 9],
    )


def _mixed_endings(place: Path) -> list[str]:
    """The last record is that of the file of the highest name, however it is packed."""
    import pyarrow as pa

    packs: list[tuple[str, Callable[[bytes], bytes]]] = [
        ("1.csv", bytes),
        ("2.csv.gz", gzip.compress),
        ("3.CSV.BZ2", bz2.compress),
        ("4.csv.zst", lambda raw: pa.compress(raw, codec="zstd", asbytes=True)),
        ("5.CSV", bytes),
        ("6.Csv.Gz", gzip.compress),
    ]
    (place / "all").mkdir()
    faults = []
    for number, (name, pack) in enumerate(packs, 1):
        raw = f"user,item,n\na,i,{number}\nb,i{number},{number}\n".encode()
        (place / "all" / name).write_bytes(pack(raw))
        own = {f"i{k}": k for k in range(1, number + 1)}
        last, total = (
            _values(_read_csv(place / "all", value="n", duplicates=how, column_types={"n": "double"}))
            for how in ("last", "sum")
        )
        mine = {("b", item): float(value) for item, value in own.items()}
        if last != {**mine, ("a", "i"): number} or total != {**mine, ("a", "i"): number * (number + 1) / 2}:
            faults.append(name)
    return faults


def _lines_in_quotes(place: Path) -> list[str]:
    """Ids with an end of line, in a file of a few lines and in one of some megabytes: right, or refused."""
    faults = []
    for count in (6, 60_000):
        rows = "".join(f'"user\n{row % 5}","{"long " * 8}\n{row % 7}"\n' for row in range(count))
        path = write_csv(place / f"{count}.csv", "user,item\n" + rows)
        mine: dict[Any, int] = {}
        for row in range(count):
            pair = (f"user\n{row % 5}", f"{'long ' * 8}\n{row % 7}")
            mine[pair] = mine.get(pair, 0) + 1
        try:
            found = _values(_read_csv(path))
        except ValueError as error:
            faults += [] if str(error) else ["no message"]
        else:
            faults += [] if found == mine else [f"{count}: {len(found)} pairs, {sum(found.values())} records"]
    return faults


def _unsigned_in_text(place: Path) -> list[str]:
    """Integers of 64 bits without a sign are two users, or refused until their type is told."""
    path = write_csv(place / "x.csv", f"user,item\n{2**64 - 1},1\n{2**64 - 2},1\n{2**64 - 1},2\n")
    told = _read_csv(path, column_types={"user": "uint64"})
    mine = {(2**64 - 1, 1): 1, (2**64 - 2, 1): 1, (2**64 - 1, 2): 1}
    try:
        guessed = _values(_read_csv(path)) == mine
    except (TypeError, ValueError):
        guessed = True
    return wrong(told=_values(told) == mine, guessed=guessed, rows=told.rows_of([2**64 - 1]).tolist() == [1])


def _without_names(place: Path) -> list[str]:
    """Every file's first line is a record, packed or not."""
    write_csv(place / "1.csv", "5|a|1\n6|a|2\n")
    (place / "2.csv.gz").write_bytes(gzip.compress(b"7|b|4\n5|a|8\n"))
    write_csv(place / "3.csv", "user|a|16")
    words = {"delimiter": "|", "column_names": ["user", "item", "n"], "value": "n"}
    data = _read_csv(place, column_types={"user": "string", "n": "int16"}, **words)
    return wrong(values=_values(data) == {("5", "a"): 9, ("6", "a"): 2, ("7", "b"): 4, ("user", "a"): 16})


def _money_in_text(place: Path) -> list[str]:
    """Decimals as ids of a CSV file come back as they were; their order is that of numbers."""
    path = write_csv(place / "x.csv", "user,item\n10.10,1\n9.90,1\n-0.50,2\n9.9,2\n")
    import pyarrow as pa

    data = _read_csv(path, column_types={"user": pa.decimal128(12, 2)})
    return wrong(
        users=data.users.tolist() == [Decimal("-0.50"), Decimal("9.90"), Decimal("10.10")],
        values=data.matrix.toarray().tolist() == [[0, 1], [1, 1], [1, 0]],
        row=data.rows_of([Decimal("10.1")]).tolist() == [2],
    )


def cases() -> list[Case]:
    return list(_cases())


def _inside(name: str, work: Callable[[Path], Any]) -> Case:
    return _holds(name, inside(work))


def _cases() -> Iterator[Case]:
    yield _inside("sums and means in float64, across files and batches", _long_sums)
    yield _inside("sums, means and maxima beyond the type of the values", _small_types)
    yield _holds("sums beyond float16", _halves)
    yield _inside("records of unknown value, counted, added up and dropped", _unknown_records)
    yield _inside("the latest where some times are unknown", _latest_where_some_are_unknown)
    yield _holds("slices of chunks with dictionaries of their own", _slices_of_dictionaries)
    yield _inside("how many nulls there are, in all files", _counted_nulls)
    yield _inside("CSV files with columns in any order", _columns_anywhere)
    yield _inside("a folder of files packed in every way", _mixed_endings)
    yield _inside("ends of lines within quotes", _lines_in_quotes)
    yield _inside("integers of 64 bits without a sign in CSV", _unsigned_in_text)
    yield _inside("CSV files without names, packed or not", _without_names)
    yield _inside("decimals as ids in CSV", _money_in_text)
