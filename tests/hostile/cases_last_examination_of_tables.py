"""The last examination: CSV, Parquet, frames and matrices on disk, beside dictionaries of what was written."""

from __future__ import annotations

import bz2
import datetime
import gzip
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

_GROUP = Group("the last examination, data")
_holds = faultless(_GROUP)
_read_csv = lfm_np.Interactions.from_csv
_read_parquet = lfm_np.Interactions.from_parquet
_read_frame = lfm_np.Interactions.from_frame


def _values(data: Any) -> dict[Any, float]:
    X = data.matrix.tocoo()
    pairs = zip(data.users[X.coords[0]].tolist(), data.items[X.coords[1]].tolist(), strict=True)
    return dict(zip(pairs, X.data.tolist(), strict=True))


def _times(data: Any) -> dict[Any, Any]:
    X = data.matrix.tocoo()
    pairs = zip(data.users[X.coords[0]].tolist(), data.items[X.coords[1]].tolist(), strict=True)
    return dict(zip(pairs, data.timestamps, strict=True))


def _members(place: Path) -> list[str]:
    """What ``cat one.gz two.gz`` makes: two streams, the first of which ends within a line."""
    import pyarrow as pa

    text = "user,item,n\n" + "".join(f"u{row % 7},{row % 11},{row % 5 + 1}\n" for row in range(700))
    raw, mine = text.encode(), {}
    for row in range(700):
        mine[f"u{row % 7}", row % 11] = mine.get((f"u{row % 7}", row % 11), 0) + row % 5 + 1
    faults = []
    for ending, pack in (
        ("gz", gzip.compress),
        ("bz2", bz2.compress),
        ("zst", lambda part: pa.compress(part, codec="zstd", asbytes=True)),
    ):
        path = place / f"events.csv.{ending}"
        path.write_bytes(pack(raw[:4312]) + pack(raw[4312:]))
        found = _values(_read_csv(path, value="n"))
        if found != mine:
            faults.append(f"{ending}: {sum(found.values())} of {sum(mine.values())}")
    return faults


def _spreadsheet(place: Path) -> list[str]:
    """A byte order mark, ends of lines with two characters, quotes in quotes, an empty line."""
    rows = '"Ann; B.";7;"4.5"\r\n"Bob ""X""";9;"2"\r\n"Ann; B.";9;"1"\r\n\r\n'
    path = write_csv(place / "export.csv", '\ufeff"user";"item";"stars"\r\n' + rows)
    data = _read_csv(path, delimiter=";", value="stars", column_types={"stars": "double"})
    named = _read_csv(
        write_csv(place / "bare.csv", rows), delimiter=";", column_names=["who", "what", "much"], user="who",
        item="what", value="much", column_types={"much": "float32", "what": "string"},
    )  # fmt: skip
    mine = {("Ann; B.", 7): 4.5, ('Bob "X"', 9): 2.0, ("Ann; B.", 9): 1.0}
    return wrong(cells=_values(data) == mine, named=_values(named) == {(u, str(i)): v for (u, i), v in mine.items()})


def _words_for_nothing(place: Path) -> list[str]:
    """An empty field and four words, unless in quotes; None is none of them."""
    lines = ["NA,1", '"NA",1', "None,2", '"",3', ",4", "NULL,1", "N/A,1", "NaN,1", '"NaN",2']
    path = write_csv(place / "names.csv", "\n".join(["user,item", *lines]) + "\n")
    words: dict[str, Any] = {"column_types": {"user": "string"}}
    data = _read_csv(path, nulls="drop", **words)
    return wrong(
        kept=_values(data) == {("", 3): 1, ("NA", 1): 1, ("NaN", 2): 1, ("None", 2): 1},
        order=data.users.tolist() == ["", "NA", "NaN", "None"],
        counted=re.search(r"(?<!\w)5(?!\w)", str(raised(lambda: _read_csv(path, **words)))) is not None,
    )


def _zones(place: Path) -> list[str]:
    """10:00 two hours east is before half past three five hours west."""
    text = (
        "user,item,when\na,1,2024-05-01T10:00:00+02:00\na,2,2024-05-01T09:00:00Z\na,3,2024-05-01T03:30:00-05:00\n"
        "b,1,2024-05-01T23:30:00-05:00\nb,2,2024-05-02T01:00:00+02:00\n"
    )
    data = _read_csv(write_csv(place / "zones.csv", text), timestamp="when")
    hours = ["2024-05-01T08:00", "2024-05-01T09:00", "2024-05-01T08:30", "2024-05-02T04:30", "2024-05-01T23:00"]
    last = data.split("last")[1]
    day = data.split("time", at="2024-05-02")[1]
    return wrong(
        hours=(data.timestamps == np.array(hours, "M8[m]")).all(),
        last=set(_values(last)) == {("a", 2), ("b", 1)},
        day=set(_values(day)) == {("b", 1)},
    )


def _names_in_order(place: Path) -> list[str]:
    """ "10" comes before "9"; what begins with "_" or "." is not there."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    lines = place / "lines"
    lines.mkdir()
    for number, value in (("9", 9), ("10", 10), (".8", 8), ("_99", 99)):
        write_csv(lines / f"{number}.csv", f"user,item,n\nu,i,{value}\nu,j{number},1\n")
    folder = place / "tables"
    for part in ("_old", ".tmp"):
        (folder / part).mkdir(parents=True)
    for number, value in (("9", 9), ("10", 10), ("_old/91", 91), (".tmp/92", 92), ("_SUCCESS", 93)):
        table = pa.table({"user": ["u", "u"], "item": ["i", f"j{number}"], "n": [value, 1]})
        pq.write_table(table, folder / f"{number}.parquet")
    mine = {("u", "i"): 9.0, ("u", "j9"): 1.0, ("u", "j10"): 1.0}
    return wrong(
        csv=_values(_read_csv(lines, value="n", duplicates="last")) == mine,
        parquet=_values(_read_parquet(folder, value="n", duplicates="last")) == mine,
    )


def _folders_that_are_columns(place: Path) -> list[str]:
    """What pyarrow writes, with the names of folders that it makes of such values."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    items = ["a/b", "c d", "\u00e9", "5%"]
    table = pa.table({"user": [3, 1, 2, 1], "item": items, "n": [1.0, 2.0, 3.0, 4.0]})
    pq.write_to_dataset(table, place / "set", partition_cols=["item"])
    found = _read_parquet(place / "set", value="n")
    return wrong(
        cells=_values(found) == dict(zip(zip([3, 1, 2, 1], items, strict=True), [1, 2, 3, 4], strict=True)),
        order=found.items.tolist() == sorted(items),
    )


def _two_roles_in_files(place: Path) -> list[str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"user": ["a", "a", "b"], "item": [4, 6, 4], "day": [3, 5, 7]}), place / "x.parquet")
    write_csv(place / "x.csv", "user,item,day\na,4,3\na,6,5\nb,4,7\n")
    faults = []
    for read, name in ((_read_parquet, "x.parquet"), (_read_csv, "x.csv")):
        data = read(place / name, value="day", timestamp="day")
        mine = {("a", 4): 3, ("a", 6): 5, ("b", 4): 7}
        if _values(data) != mine or {c: int(t) for c, t in _times(data).items()} != mine:
            faults.append(f"{name}: day")
        data = read(place / name, value="item", timestamp="item")
        mine = {("a", 4): 4, ("a", 6): 6, ("b", 4): 4}
        if _values(data) != mine or {c: int(t) for c, t in _times(data).items()} != mine:
            faults.append(f"{name}: item")
    return faults


def _two_roles_in_frames() -> list[str]:
    import pyarrow as pa

    faults = []
    for name in ("pyarrow", "pandas", "polars"):
        if not installed(name):
            continue
        table: Any = pa.table({"user": ["a", "a", "b"], "item": [4, 6, 4], "day": [3, 5, 7]})
        if name == "pandas":
            table = table.to_pandas()
        elif name == "polars":
            import polars as pl

            table = pl.from_arrow(table).lazy()
        data = _read_frame(table, value="day", timestamp="day")
        mine = {("a", 4): 3, ("a", 6): 5, ("b", 4): 7}
        if _values(data) != mine or {c: int(t) for c, t in _times(data).items()} != mine:
            faults.append(name)
    return faults


def _types_that_differ(place: Path) -> list[str]:
    """The first file is later by a nanosecond, which is more than the other's seconds can say."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    second = datetime.datetime(2024, 5, 1, 12)
    (place / "set").mkdir()
    when = pa.array([1714564800 * 10**9 + 1, 1714564800 * 10**9 + 2], pa.timestamp("ns"))
    first = {
        "user": pa.array([2, 2**40]), "item": pa.array(["y", "x"]).dictionary_encode(),
        "n": pa.array([0.5, 2.25]), "when": when,
    }  # fmt: skip
    other = {
        "user": pa.array([1, 2], pa.int32()), "item": pa.array(["x", "y"], pa.large_string()),
        "n": pa.array([1, 2], pa.uint8()), "when": pa.array([second, second], pa.timestamp("s")),
    }  # fmt: skip
    pq.write_table(pa.table(first), place / "set" / "1.parquet")
    pq.write_table(pa.table(other), place / "set" / "2.parquet")
    data = _read_parquet(place / "set", value="n", timestamp="when", duplicates="last")
    whole = {c: int(t.astype("M8[ns]").astype(np.int64)) - 1714564800 * 10**9 for c, t in _times(data).items()}
    return wrong(
        values=_values(data) == {(1, "x"): 1, (2, "y"): 0.5, (2**40, "x"): 2.25},
        times=whole == {(1, "x"): 0, (2, "y"): 1, (2**40, "x"): 2},
    )


def _money(place: Path) -> list[str]:
    """Decimals as values and as ids, which come back as they were."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    price = pa.array([Decimal("0.25"), Decimal("10.50"), Decimal("-3.75"), Decimal("0.25")], pa.decimal128(9, 2))
    pq.write_table(pa.table({"user": ["a", "a", "b", "b"], "item": price, "paid": price}), place / "x.parquet")
    data = _read_parquet(place / "x.parquet", value="paid")
    ids = [Decimal("-3.75"), Decimal("0.25"), Decimal("10.50")]
    return wrong(
        items=data.items.tolist() == ids,
        cells=data.matrix.toarray().tolist() == [[0, 0.25, 10.5], [-3.75, 0.25, 0]],
        asked=data.columns_of([Decimal("10.5"), Decimal("0.250")]).tolist() == [2, 1],
    )


def _sparse_records(place: Path) -> list[str]:
    """Records with a null are dropped, repeated ones become one cell, and only then are cells counted."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    draw = np.random.default_rng(40)
    users, items = draw.integers(0, 12, 90).tolist(), draw.integers(0, 9, 90).tolist()
    values = [None if gone else int(v) for gone, v in zip(draw.random(90) < 0.3, draw.integers(1, 9, 90), strict=True)]
    kept: dict[tuple[int, int], list[int]] = {}
    for u, i, v in zip(users, items, values, strict=True):
        if v is not None:
            kept.setdefault((u, i), []).append(v)
    start = len(kept)
    while True:
        rows, columns = [u for u, _ in kept], [i for _, i in kept]
        fewer = {c: v for c, v in kept.items() if rows.count(c[0]) >= 4 and columns.count(c[1]) >= 4}
        if len(fewer) == len(kept):
            break
        kept = fewer
    mine = {c: float(np.float32(sum(v) / len(v))) for c, v in kept.items()}
    table = pa.table({"user": users, "item": items, "n": values})
    pq.write_table(table, place / "x.parquet", row_group_size=13)
    words: dict[str, Any] = {
        "value": "n", "nulls": "drop", "duplicates": "mean", "min_user_interactions": 4, "min_item_interactions": 4
    }  # fmt: skip
    found = [_read_frame(table, **words), _read_parquet(place / "x.parquet", **words)]
    return wrong(
        some=len(kept) == 26 and start == 49,
        cells=all(_values(data) == mine for data in found),
        rows=all(data.users.tolist() == sorted({u for u, _ in kept}) for data in found),
        columns=all(data.items.tolist() == sorted({i for _, i in kept}) for data in found),
    )


def _categories() -> list[str]:
    """In another order than that of the values, and with some that nothing has."""
    import pyarrow as pa

    codes = pa.array([0, 2, 0, 3], pa.int32())
    user: Any = pa.DictionaryArray.from_arrays(codes, pa.array(["z", "unused", "m", "a"]))
    frames: dict[str, Any] = {"pyarrow": pa.table({"user": user, "item": [1, 1, 2, 2]})}
    if installed("pandas"):
        import pandas as pd

        kind = pd.CategoricalDtype(["z", "unused", "m", "a"], ordered=True)
        frames["pandas"] = pd.DataFrame(
            {"user": pd.Categorical(["z", "m", "z", "a"], dtype=kind), "item": [1, 1, 2, 2]}
        )
    if installed("polars"):
        import polars as pl

        kind = pl.Enum(["z", "unused", "m", "a"])
        frames["polars"] = pl.DataFrame({"user": pl.Series(["z", "m", "z", "a"], dtype=kind), "item": [1, 1, 2, 2]})
    mine = {("z", 1): 1.0, ("m", 1): 1.0, ("z", 2): 1.0, ("a", 2): 1.0}
    found = {name: _read_frame(frame) for name, frame in frames.items()}
    return [n for n, data in found.items() if data.users.tolist() != ["a", "m", "z"] or _values(data) != mine]


def _code_points(place: Path) -> list[str]:
    """U+1F600 is after U+FFFD, though its first half in UTF-16 is before."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = ["\U0001f600", "\ufffd", "\u00e9", "z", "Z", "a", "e\u0301", "aa"]
    mine = ["Z", "a", "aa", "e\u0301", "z", "\u00e9", "\ufffd", "\U0001f600"]
    table = pa.table({"user": names, "item": list(range(8))})
    pq.write_table(table, place / "x.parquet", row_group_size=3)
    write_csv(place / "x.csv", "user,item\n" + "".join(f"{name},{n}\n" for n, name in enumerate(names)))
    found = {
        "arrays": lfm_np.Interactions.from_arrays(names, list(range(8))),
        "objects": lfm_np.Interactions.from_arrays(np.array(names, object), list(range(8))),
        "frame": _read_frame(table),
        "parquet": _read_parquet(place / "x.parquet"),
        "csv": _read_csv(place / "x.csv"),
    }
    stored = lfm_np.StoredMatrix.from_parquet(place / "x.parquet", place / "m", memory=40 << 20)
    columns = [names.index(name) for name in mine]
    faults = [n for n, data in found.items() if data.users.tolist() != mine or data.matrix.indices.tolist() != columns]
    return faults + wrong(
        stored=list(stored.users) == mine, cells=np.load(place / "m" / "rows.indices.npy").tolist() == columns
    )


def _one_zero(place: Path) -> list[str]:
    """No two ids are equal, so 0.0 and -0.0 are one."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({"user": [0.0, -0.0, 1.5], "item": ["i", "i", "j"]})
    pq.write_table(table, place / "x.parquet")
    write_csv(place / "x.csv", "user,item\n0.0,i\n-0.0,i\n1.5,j\n")
    found = {
        "frame": _read_frame(table), "parquet": _read_parquet(place / "x.parquet"), "csv": _read_csv(place / "x.csv")
    }  # fmt: skip
    return [
        name
        for name, data in found.items()
        if data.users.tolist() != [0.0, 1.5]
        or data.matrix.toarray().tolist() != [[2, 0], [0, 1]]
        or data.rows_of([-0.0]).tolist() != [0]
    ]


def _lists_of_nobody(place: Path) -> list[str]:
    """Scores are sums of small whole numbers; a user may be asked for twice, or nobody."""
    import pyarrow.parquet as pq

    U, V = np.array([[1.0, 2], [0, -1], [3, 0]]), np.array([[1.0, 1], [2, 0], [0, 3], [1, -1]])
    factors = lfm_np.Factors(U, V)
    data = lfm_np.Interactions.from_arrays(["ann", "bob", "eve", "eve"], [30, 10, 20, 40])
    lfm_np.recommend_parquet(factors, data, place / "none.parquet", [], N=3)
    lfm_np.recommend_parquet(factors, data, place / "x.parquet", ["eve", "ann", "eve"], N=9, seen=data, exclude=[10])
    none, some = pq.read_table(place / "none.parquet"), pq.read_table(place / "x.parquet").to_pylist()
    mine = []
    for user in (2, 0, 2):
        scores = U[user] @ V.T
        has = data.matrix.toarray()[user] > 0
        best = sorted((-scores[i], i) for i in range(4) if not has[i] and data.items[i] != 10)
        for rank, (score, i) in enumerate(best, 1):
            mine.append(
                {"user": ["ann", "bob", "eve"][user], "item": int(data.items[i]), "score": -score, "rank": rank}
            )
    return wrong(
        none=none.num_rows == 0 and none.column_names == ["user", "item", "score", "rank"],
        some=some == mine and len(mine) == 4,
    )


def cases() -> list[Case]:
    return list(_cases())


def _inside(name: str, work: Callable[[Path], Any]) -> Case:
    return _holds(name, inside(work))


def _cases() -> Iterator[Case]:
    yield _inside("files of two compressed streams", _members)
    yield _inside("a spreadsheet's export", _spreadsheet)
    yield _inside("which words of a CSV file are null", _words_for_nothing)
    yield _inside("times of several zones in one column", _zones)
    yield _inside("files in the order of their names, but for hidden ones", _names_in_order)
    yield _inside("folders of values that cannot be names", _folders_that_are_columns)
    yield _inside("one column as value and time, in files", _two_roles_in_files)
    yield _holds("one column as value and time, in frames", _two_roles_in_frames)
    yield _inside("files of different types, later by a nanosecond", _types_that_differ)
    yield _inside("decimals as values and as ids", _money)
    yield _inside("cells are counted after nulls and repeated records are gone", _sparse_records)
    yield _holds("categories by their values, whatever their order", _categories)
    yield _inside("text is in the order of code points by every way in", _code_points)
    yield _inside("0.0 and -0.0 of a table are one id", _one_zero)
    yield _inside("lists of nobody, and of one user twice", _lists_of_nobody)
