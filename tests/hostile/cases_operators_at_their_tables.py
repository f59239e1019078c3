"""What operators feed: exports in CSV, folders of Parquet, matrices on disk, a folder of MovieLens, all recounted."""

from __future__ import annotations

import bz2
import contextlib
import datetime
import decimal
import gzip
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

import lfm_np

from .case import Case, Group
from .working_days import faultless, folder, raised, tells, wrong

_GROUP = Group("operators")
_holds = faultless(_GROUP)
Of = lfm_np.Interactions
Decimal = decimal.Decimal


def cells_of(data: Any) -> dict[tuple[Any, Any], float]:
    """{(user, item): value} of Interactions."""
    coo = sp.coo_array(data.matrix)
    users, items = data.users.tolist(), data.items.tolist()
    places = zip(coo.coords[0], coo.coords[1], coo.data, strict=True)
    return {(users[u], items[i]): float(x) for u, i, x in places}


def written(path: Path, columns: dict[str, Any], **words: Any) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, **words)
    return path


@contextlib.contextmanager
def standing(place: Path) -> Iterator[None]:
    before = os.getcwd()
    os.chdir(place)
    try:
        yield
    finally:
        os.chdir(before)


def _quoting() -> list[str]:
    text = 'user,item,plays\n"a,""b""",1,2\n"NA",1,3\n"",2,4\nNA,2,5\n,1,6\nann,"1",7\n'
    with folder() as place:
        (place / "x.csv").write_text(text, newline="")
        data: Any = Of.from_csv(place / "x.csv", value="plays", nulls="drop")
    mine = {('a,"b"', 1): 2.0, ("NA", 1): 3.0, ("", 2): 4.0, ("ann", 1): 7.0}
    return wrong(cells=cells_of(data) == mine, order=data.users.tolist() == ["", "NA", 'a,"b"', "ann"])


def _office_export() -> list[str]:
    """A mark of byte order, semicolons, CRLF, gzip, empty lines at the end, and the mean of what is there twice."""
    lines = ["Kunde;Artikel;Menge;Zeit", "Zoë;7;2;2024-05-01T10:00:00", "Zoë;7;5;2024-05-03T10:00:00"]
    lines += ["Zoë;7;2;2024-05-02T10:00:00", "Abel;9;4;2024-05-05T00:00:01", "", ""]
    with folder() as place:
        raw = "\ufeff" + "\r\n".join(lines)
        (place / "x.csv.gz").write_bytes(gzip.compress(raw.encode()))
        data: Any = Of.from_csv(
            place / "x.csv.gz", delimiter=";", user="Kunde", item="Artikel", value="Menge", timestamp="Zeit",
            duplicates="mean",
        )  # fmt: skip
    times = np.array(["2024-05-05T00:00:01", "2024-05-03T10:00:00"], "datetime64[s]")
    return wrong(
        cells=cells_of(data) == {("Abel", 9): 4.0, ("Zoë", 7): 3.0},
        times=np.array_equal(data.timestamps.astype("datetime64[s]"), times),
    )


def _bytes_of_csv(raw: bytes) -> Any:
    with folder() as place:
        (place / "x.csv").write_bytes(raw)
        return cells_of(Of.from_csv(place / "x.csv"))


def _mixed_folder() -> list[str]:
    """Headers in another order, files packed in two ways, one with a header only; the last file counts."""
    with folder() as place:
        (place / "a.csv").write_text("user,item,v\n")
        (place / "b.csv.gz").write_bytes(gzip.compress(b"v,item,user\n5,11,007\n3,12,7\n"))
        (place / "c.csv.bz2").write_bytes(bz2.compress(b"item,user,v\n11,007,2\n12,08,9\n"))
        data: Any = Of.from_csv(place, value="v", duplicates="last", column_types={"user": "string"})
    mine = {("007", 11): 2.0, ("7", 12): 3.0, ("08", 12): 9.0}
    return wrong(cells=cells_of(data) == mine, users=data.users.tolist() == ["007", "08", "7"])


def _wide_numbers() -> list[str]:
    big, least, most = 2**53, -(2**63), 2**63 - 1
    with folder() as place:
        (place / "x.csv").write_text(f"user,item\n{big + 1},{least}\n{big},{most}\n{big + 1},{most}\n")
        data: Any = Of.from_csv(place / "x.csv")
    mine = {(big + 1, least): 1.0, (big, most): 1.0, (big + 1, most): 1.0}
    return wrong(cells=cells_of(data) == mine, rows=data.rows_of([big + 1, big]).tolist() == [1, 0])


def _offsets() -> list[str]:
    """09:00 of Greenwich is after 10:00+02:00, and 08:30 lies between."""
    text = (
        "user,item,v,t\n1,5,2,2024-05-01T09:00:00Z\n1,5,7,2024-05-01T10:00:00+02:00\n1,6,3,2024-05-01T10:15:00+02:00\n"
    )
    with folder() as place:
        (place / "x.csv").write_text(text)
        data: Any = Of.from_csv(place / "x.csv", value="v", timestamp="t", duplicates="last")
    train, test = data.split("time", at="2024-05-01T08:30")
    times = data.timestamps.astype("datetime64[m]").astype(str).tolist()
    return wrong(
        cells=cells_of(data) == {(1, 5): 2.0, (1, 6): 3.0},
        times=times == ["2024-05-01T09:00", "2024-05-01T08:15"],
        parts=cells_of(train) == {(1, 6): 3.0} and cells_of(test) == {(1, 5): 2.0},
    )


def _an_hour_twice() -> list[str]:
    """02:30 comes twice in Berlin: first as 00:30 of UTC, then as 01:30."""
    import pyarrow as pa

    of = datetime.datetime
    moments = [of(2024, 10, 27, 1, 30), of(2024, 10, 27, 0, 30)]
    berlin = pa.array([moment.replace(tzinfo=datetime.UTC) for moment in moments], pa.timestamp("ms", "Europe/Berlin"))
    with folder() as place:
        path = written(place / "x.parquet", {"user": ["a", "a"], "item": [1, 2], "t": berlin})
        data: Any = Of.from_parquet(path, timestamp="t")
    times = data.timestamps.astype("datetime64[m]").astype(str).tolist()
    return wrong(
        times=times == ["2024-10-27T01:30", "2024-10-27T00:30"],
        last=cells_of(data.split("last")[1]) == {("a", 1): 1.0},
    )


def _no_header() -> list[str]:
    with folder() as place:
        (place / "x.tsv").write_text("3|9|0.5\n3|8|0.25\n1|9|4")
        words: dict[str, Any] = {"user": "who", "item": "what", "value": "how"}
        data = Of.from_csv(place / "x.tsv", delimiter="|", column_names=["who", "what", "how"], **words)
    return wrong(cells=cells_of(data) == {(3, 9): 0.5, (3, 8): 0.25, (1, 9): 4.0})


def _types_by_file() -> list[str]:
    import pyarrow as pa

    with folder() as place:
        first = {"user": pa.array([1, 2**31 - 1], pa.int32()), "item": pa.array(["x", "y"]).dictionary_encode()}
        second = {"user": pa.array([2**40, 1], pa.int64()), "item": pa.array(["z", "x"], pa.large_string())}
        written(place / "1.parquet", {**first, "v": pa.array([3, 4], pa.int16())})
        written(place / "2.parquet", {**second, "v": pa.array([0.5, 3.5], pa.float64())})
        data: Any = Of.from_parquet(place, value="v", duplicates="max")
    mine = {(1, "x"): 3.5, (2**31 - 1, "y"): 4.0, (2**40, "z"): 0.5}
    return wrong(cells=cells_of(data) == mine, items=data.items.tolist() == ["x", "y", "z"])


def _partitions() -> list[str]:
    with folder() as place:
        written(place / "item=10" / "a.parquet", {"user": ["ann", "bob"], "n": [2, 3]})
        written(place / "item=2" / "a.parquet", {"user": ["bob", "bob"], "n": [4, 5]})
        data: Any = Of.from_parquet(place, value="n")
    found = {(user, int(item)): x for (user, item), x in cells_of(data).items()}
    return wrong(cells=found == {("ann", 10): 2.0, ("bob", 10): 3.0, ("bob", 2): 9.0})


def _ids_as_they_were() -> list[str]:
    """Every kind of id: the row of every id is its number, and the cells are where they were."""
    import pyarrow as pa

    day = datetime.date(2024, 2, 28)
    kinds = {
        "decimals": pa.array([Decimal("-1.50"), Decimal("10.25"), Decimal("2.00")], pa.decimal128(9, 2)),
        "dates": pa.array([day, datetime.date(2024, 3, 1), datetime.date(2024, 2, 29)], pa.date32()),
        "times": pa.array([0, 90_000_000_001, 60_000_000_000], pa.timestamp("ns")),
        "durations": pa.array([5, 1_000, 70], pa.duration("s")),
        "booleans": pa.array([False, True, True]),
        "bytes": pa.array([b"\x00", b"\xff\xfe", b"\x00\x01"], pa.binary()),
        "floats": pa.array([-0.5, 1e300, 1e-300], pa.float64()),
        "small": pa.array([-128, 127, 0], pa.int8()),
    }
    found = {}
    for name, ids in kinds.items():
        # the given order is: least, largest, middle (of booleans: least, largest, largest)
        data: Any = Of.from_frame(pa.table({"user": ids, "item": [1, 2, 3]}))
        rows = data.rows_of(data.users)
        mine = [[1, 0, 0], [0, 1, 1]] if name == "booleans" else [[1, 0, 0], [0, 0, 1], [0, 1, 0]]
        found[name] = data.matrix.toarray().tolist() == mine and rows.tolist() == list(range(len(mine)))
    return wrong(**found)


def _uuids() -> list[str]:
    names = [uuid.UUID(int=n) for n in (2**127, 3, 2**64)]
    data = Of.from_arrays(names, [1, 1, 2], values=[5.0, 6.0, 7.0])
    order = sorted(names, key=lambda u: u.int)
    return wrong(
        order=[str(u) for u in data.users.tolist()] == [str(u) for u in order],
        cells=data.matrix.toarray().tolist() == [[6, 0], [0, 7], [5, 0]],
        rows=data.rows_of(names).tolist() == [2, 0, 1],
    )


def _money() -> list[str]:
    """Decimals as values: added up in float64, rounded once."""
    import pyarrow as pa

    prices = pa.array(
        [Decimal("0.10"), Decimal("0.20"), Decimal("12345678.90"), Decimal("-3.05")], pa.decimal128(12, 2)
    )
    with folder() as place:
        path = written(place / "x.parquet", {"user": [1, 1, 2, 3], "item": [1, 1, 1, 1], "price": prices})
        X = Of.from_parquet(path, value="price").matrix
    return wrong(data=np.array_equal(X.data, np.array([0.3, 12345678.9, -3.05]).astype(np.float32)))


def _unknowns() -> list[str]:
    import pyarrow as pa

    table = {
        "user": ["a", "a", "a", "b"],
        "item": [1, 1, 2, 1],
        "v": pa.array([2.0, 9.0, None, 4.0]),
        "t": pa.array([5, None, 6, None], pa.timestamp("s")),
    }
    with folder() as place:
        path = written(place / "x.parquet", table)
        words: dict[str, Any] = {"value": "v", "timestamp": "t"}
        data: Any = Of.from_parquet(path, nulls="keep", duplicates="last", **words)
        dropped = Of.from_parquet(path, nulls="drop", **words)
        error = raised(lambda: Of.from_parquet(path, **words))
    times = data.timestamps.astype("datetime64[s]")
    return wrong(
        values=np.array_equal(data.matrix.data, [2, np.nan, 4], equal_nan=True),
        times=np.isnat(times).tolist() == [False, False, True] and times[:2].astype(int).tolist() == [5, 6],
        dropped=cells_of(dropped) == {("a", 1): 2.0},
        error=isinstance(error, ValueError) and tells(error, "null"),
    )


def _core_of_files() -> list[str]:
    """Pairs that are there twice count once; users first, then items, until nothing changes."""
    draw = np.random.default_rng(4)
    pairs = np.column_stack([draw.integers(0, 25, 200), draw.integers(0, 15, 200)])
    kept = {(int(u), int(i)) for u, i in pairs}
    while True:
        users = [u for u in {u for u, _ in kept} if sum(a == u for a, _ in kept) >= 5]
        rest = {(u, i) for u, i in kept if u in users}
        items = [i for i in {i for _, i in rest} if sum(b == i for _, b in rest) >= 7]
        rest = {(u, i) for u, i in rest if i in items}
        if rest == kept:
            break
        kept = rest
    assert len(kept) == 107
    with folder() as place:
        for part in range(3):
            rows = pairs[part::3]
            written(place / f"{part}.parquet", {"user": rows[:, 0], "item": rows[:, 1]})
        data: Any = Of.from_parquet(place, min_user_interactions=5, min_item_interactions=7, duplicates="count")
    return wrong(
        cells=set(cells_of(data)) == kept,
        users=data.users.tolist() == sorted({u for u, _ in kept}),
        items=data.items.tolist() == sorted({i for _, i in kept}),
        total=data.matrix.sum() == sum((int(u), int(i)) in kept for u, i in pairs),
    )


def _of_spark() -> dict[tuple[Any, Any], float]:
    with folder() as place:
        written(place / "part-00000-c000.snappy.parquet", {"user": [1, 2], "item": [3, 3]}, compression="snappy")
        (place / "_SUCCESS").write_bytes(b"")
        (place / ".part-00000-c000.snappy.parquet.crc").write_bytes(b"crc\x00\x01")
        return cells_of(Of.from_parquet(place))


def _odd_names(kind: str) -> list[str]:
    names = ("a b", "100%25", "x#y?", "day:1", "-dash", "~x", "ü☃", "[1]*", "a=b", "$HOME")
    found = {}
    with folder() as place, standing(place):
        for n, name in enumerate(names):
            path = f"{name}.{kind}"
            if kind == "csv":
                Path(path).write_text(f"user,item\n{n},1\n")
            else:
                written(Path(path).absolute(), {"user": [n], "item": [1]})
            read: Any = Of.from_csv if kind == "csv" else Of.from_parquet
            found[name] = cells_of(read(path)) == {(n, 1): 1.0}
    return [name for name, right in found.items() if not right]


def _links() -> list[str]:
    with folder() as place:
        written(place / "real" / "x.parquet", {"user": [1, 2], "item": [1, 1]})
        (place / "linked").mkdir()
        (place / "linked" / "y.parquet").symlink_to("../real/x.parquet")
        (place / "way").symlink_to("linked", target_is_directory=True)
        with standing(place / "real"):
            found = [Of.from_parquet(path) for path in ("../way", "../linked/y.parquet", Path("../real"))]
    return wrong(cells=all(cells_of(data) == {(1, 1): 1.0, (2, 1): 1.0} for data in found))


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    either = _GROUP.either
    yield _holds("quotes make text of NA and of nothing", _quoting)
    yield _holds("an export of an office", _office_export)
    yield either(
        "Latin-1", lambda: _bytes_of_csv(b"user,item\ncaf\xe9,1\nbar,1\n"),
        lambda found: found in ({(b"caf\xe9", 1): 1.0, (b"bar", 1): 1.0}, {("café", 1): 1.0, ("bar", 1): 1.0}),
        "utf|encod|text|csv",
    )  # fmt: skip
    yield either(
        "lines that end as on an old Mac", lambda: _bytes_of_csv(b"user,item\r1,2\r3,4\r"),
        lambda found: found == {(1, 2): 1.0, (3, 4): 1.0}, "user|line|csv|column",
    )  # fmt: skip
    wide = b"user,item\n18446744073709551615,1\n18446744073709551614,1\n"
    yield either(
        "integers between 63 and 64 bits", lambda: _bytes_of_csv(wide),
        lambda found: found == {(2**64 - 1, 1): 1.0, (2**64 - 2, 1): 1.0}, "column_types|64|integer|float",
    )  # fmt: skip
    yield either(
        "text far below what looked like numbers",
        lambda: _bytes_of_csv(b"user,item\n" + b"1234567890,12\n" * 150_000 + b"x12,5\n"),
        lambda found: found == {("1234567890", 12): 150_000.0, ("x12", 5): 1.0}, "x12|column_types|user",
    )  # fmt: skip
    yield _holds("a folder of CSV that is packed in two ways, headers in any order", _mixed_folder)
    yield _holds("integers of 64 bits in CSV stay what they are", _wide_numbers)
    yield _holds("offsets of time zones within one CSV", _offsets)
    yield _holds("the hour that comes twice", _an_hour_twice)
    yield _holds("bars between columns without names", _no_header)
    yield _holds("types that differ from file to file", _types_by_file)
    yield _holds("a partition that is the item", _partitions)
    yield _holds("ids of eight kinds", _ids_as_they_were)
    yield _holds("UUIDs", _uuids)
    yield _holds("decimals are values", _money)
    yield _holds("null values and times, kept and dropped", _unknowns)
    yield _holds("the core of a folder", _core_of_files)
    yield either(
        "a folder of Spark", _of_spark, lambda found: found == {(1, 3): 1.0, (2, 3): 1.0}, "_SUCCESS|crc",
        kind=(ValueError, OSError),
    )  # fmt: skip
    for kind in ("csv", "parquet"):
        yield _holds(f"strange names of files: {kind}", lambda k=kind: _odd_names(k))
    yield _holds("links to files and folders", _links)
