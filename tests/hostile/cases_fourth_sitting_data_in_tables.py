"""The fourth sitting: folders, indices, chunks and quotes of tables, and what is named where a pair stands twice."""

from __future__ import annotations

import csv
import datetime as dt
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import lfm_np
from lfm_np import Interactions

from .case import Case, Group, installed
from .cases_fourth_sitting_data_in_cells import told
from .places import inside, write_csv
from .working_days import faultless, raised, tells, wrong

_GROUP = Group("fourth sitting, data")
_holds = faultless(_GROUP)


def _save(table: Any, path: Path, **options: Any) -> Path:
    import pyarrow.parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(table, path, **options)
    return path


def _folders_of_values(place: Path) -> list[str]:
    """User, value and time are those of folders; users are numbers only where all of them are such of 32 bits."""
    import pyarrow as pa

    root = place / "data"
    days = {"2024-05-01": "01", "2024-05-03": "03"}
    cells = [("3", "4.5", "2024-05-01", 9), ("12", "-2", "2024-05-03", 9), ("007", "3", "2024-05-03", 4)]

    def add(who: str, stars: str, day: str, item: int) -> Path:
        table = pa.table({"item": [item], "other": ["?"]})
        return _save(table, root / f"who={who}" / f"stars={stars}" / f"day={day}" / "part.parquet")

    def read(path: Path) -> dict[Any, Any]:
        data = Interactions.from_parquet(path, user="who", item="item", value="stars", timestamp="day")
        assert data.timestamps is not None
        when = {text: np.datetime64(f"2024-05-{day}") for text, day in days.items()}
        texts = [next(text for text, day in when.items() if time == day) for time in data.timestamps]
        rows = np.repeat(np.arange(data.shape[0]), np.diff(data.matrix.indptr))
        pairs = zip(data.user_ids(rows).tolist(), data.item_ids(data.matrix.indices).tolist(), strict=True)
        return dict(zip(pairs, zip(data.matrix.data.tolist(), texts, strict=True), strict=True))

    paths = [add(*cell) for cell in cells]
    bad = wrong(
        numbers=list(read(root).items())
        == [((int(w), i), (float(v), d)) for w, v, d, i in sorted(cells, key=lambda cell: int(cell[0]))],
        alone=read(paths[2]) == {(7, 4): (3.0, "2024-05-03")},
    )
    for more in ("3000000000", "x"):
        cells.append((more, "1.25", "2024-05-01", 5))
        add(*cells[-1])
        mine = [((w, i), (float(v), d)) for w, v, d, i in sorted(cells)]
        bad += [] if list(read(root).items()) == mine else [more]
    return bad


def _indices(place: Path) -> list[str]:
    """pandas writes an index as a column of the file; of a frame it is none."""
    import pandas as pd

    frame = pd.DataFrame({"what": [30, 10, 30, 20]}, index=pd.Index(["eve", "ann", "eve", "bob"], name="customer"))
    frame.to_parquet(place / "named.parquet")
    frame.rename_axis(None).to_parquet(place / "nameless.parquet")
    levels = frame.set_index("what", append=True).assign(price=[1.5, 2.0, 3.0, 4.0])
    levels.to_parquet(place / "levels.parquet")
    mine = {("eve", 30): (2.0, None), ("ann", 10): (1.0, None), ("bob", 20): (1.0, None)}
    prices = {("eve", 30): (4.5, None), ("ann", 10): (2.0, None), ("bob", 20): (4.0, None)}
    words = {"user": "customer", "item": "what"}
    return wrong(
        named=told(Interactions.from_parquet(place / "named.parquet", **words)) == mine,
        nameless=told(
            Interactions.from_parquet(place / "nameless.parquet", user="__index_level_0__", item="what"),
        )
        == mine,
        levels=told(Interactions.from_parquet(place / "levels.parquet", value="price", **words)) == prices,
        reset=told(Interactions.from_frame(frame.reset_index(), **words)) == mine,
        refused=tells(raised(lambda: Interactions.from_frame(frame, **words)), "customer"),
    )


def _one_column_for_three(place: Path) -> list[str]:
    """The numbers of items are values and times, too."""
    import pandas as pd
    import pyarrow as pa

    columns = {"user": ["b", "a", "a", "a"], "item": [5, 3, 5, 3]}
    table = pa.table(columns)
    write_csv(place / "t.csv", "user,item\n" + "".join(f"{u},{i}\n" for u, i in zip(*columns.values(), strict=True)))
    _save(table, place / "t.parquet")
    words = {"value": "item", "timestamp": "item"}
    mine = {("a", 3): (6.0, 3), ("a", 5): (5.0, 5), ("b", 5): (5.0, 5)}
    found = {
        "arrow": Interactions.from_frame(table, **words),
        "pandas": Interactions.from_frame(pd.DataFrame(columns), **words),
        "csv": Interactions.from_csv(place / "t.csv", **words),
        "parquet": Interactions.from_parquet(place / "t.parquet", **words),
    }
    diagonal = Interactions.from_parquet(place / "t.parquet", user="item", item="item", value="item")
    return [name for name, data in found.items() if told(data) != mine] + wrong(
        diagonal=told(diagonal) == {(3, 3): (6.0, None), (5, 5): (10.0, None)}
    )


def _kinds_of_days(place: Path) -> list[str]:
    """The same days in seven types of Arrow, cut at the same moments."""
    import pyarrow as pa

    midnights = [dt.datetime(2024, 5, day) for day in (1, 2, 3, 3, 4, 6)]
    numbers = list(range(len(midnights)))
    types = {"date32": pa.date32(), "date64": pa.date64()}
    types |= {unit: pa.timestamp(unit) for unit in ("s", "ms", "us", "ns")}
    types["zone"] = pa.timestamp("us", "UTC")
    moments: dict[str, tuple[Any, int]] = {
        "a day": ("2024-05-03", 2),
        "a month": (np.datetime64("2024-05", "M"), 0),
        "a minute after": ("2024-05-03T00:01", 4),
        "a nanosecond after": (np.datetime64("2024-05-03T00:00:00.000000001"), 4),
        "the same elsewhere": (dt.datetime(2024, 5, 3, 3, tzinfo=dt.timezone(dt.timedelta(hours=3))), 2),
        "a second before, elsewhere": (
            dt.datetime(2024, 5, 2, 18, 59, 59, tzinfo=dt.timezone(dt.timedelta(hours=-5))),
            2,
        ),
        "a second after, elsewhere": (dt.datetime(2024, 5, 2, 19, 0, 1, tzinfo=dt.timezone(dt.timedelta(hours=-5))), 4),
    }
    bad = []
    for name, kind in types.items():
        column = pa.array(midnights, pa.timestamp("us")).cast(kind)
        path = _save(pa.table({"user": numbers, "item": numbers, "day": column}), place / f"{name}.parquet")
        data = Interactions.from_parquet(path, timestamp="day")
        for what, (at, first) in moments.items():
            train, test = data.split("time", at=at)
            parts = [[pair[0] for pair in told(part)] for part in (train, test)]
            if parts != [numbers[:first], numbers[first:]]:
                bad.append(f"{name}, {what}")
        if [len(told(data.split("time", test_fraction=f)[1])) for f in (0.3, 0.34, 0.5, 0.6, 0.67)] != [1, 2, 2, 2, 4]:
            bad.append(f"{name}, shares")
    return bad


def _names_without_lines(place: Path) -> list[str]:
    """The first two files have names of columns and nothing else: types are those of the third."""
    (place / "day").mkdir()
    write_csv(place / "day" / "a.csv", "user,item,n\n")
    write_csv(place / "day" / "b.csv", "n,user,item\n")
    write_csv(place / "day" / "c.csv", "user,item,n\n12,tea,2\n7,jam,3\n12,tea,4\n")
    write_csv(place / "day" / "d.csv", "item,n,user\n")
    write_csv(place / "day" / "e.csv", "item,n,user\njam,10,7\nrum,1,-3\n")
    data = Interactions.from_csv(place / "day", value="n")
    last = Interactions.from_csv(place / "day", value="n", duplicates="last")
    text = Interactions.from_csv(place / "day", value="n", column_types={"user": "string"})
    mine = {(-3, "rum"): 1.0, (7, "jam"): 13.0, (12, "tea"): 6.0}
    return wrong(
        numbers={pair: cell[0] for pair, cell in told(data).items()} == mine and data.users.tolist() == [-3, 7, 12],
        last=[cell[0] for cell in told(last).values()] == [1.0, 10.0, 4.0],
        text=text.users.tolist() == ["-3", "12", "7"],
        text_cells={pair: cell[0] for pair, cell in told(text).items()}
        == {(str(u), i): v for (u, i), v in mine.items()},
    )


def _chain_in_tables(place: Path) -> list[str]:
    """Item 0 has two records of one cell, which is too little; everything falls after it, but for a ring."""
    import pyarrow as pa

    length = 130
    chain = [pair for number in range(length) for pair in ((number, number), (number, number + 1))]
    ring = [(900, 900), (900, 901), (901, 900), (901, 901)]
    pairs = [*chain, (0, 0), *ring, (900, length)]
    columns = {"user": [f"u{u}" for u, _ in pairs], "item": [i for _, i in pairs]}
    write_csv(place / "t.csv", "user,item\n" + "".join(f"{u},{i}\n" for u, i in zip(*columns.values(), strict=True)))
    _save(pa.table(columns), place / "t.parquet", row_group_size=7)
    words = {"min_user_interactions": 2, "min_item_interactions": 2}
    found = {
        "frame": Interactions.from_frame(pa.table(columns), **words),
        "csv": Interactions.from_csv(place / "t.csv", **words),
        "parquet": Interactions.from_parquet(place / "t.parquet", **words),
    }
    mine = {(f"u{u}", i): (1.0, None) for u, i in ring}
    shapes = [data.shape for data in found.values()]
    return [name for name, data in found.items() if told(data) != mine] + wrong(shapes=shapes == [(2, 2)] * 3)


def _named_pairs(place: Path) -> list[str]:
    """The pair that is there twice is told by its ids, wherever it comes from."""
    import pyarrow as pa

    columns = {"user": ["ann", "bob", "eve", "bob"], "item": ["tea", "jam", "jam", "jam"]}
    table = pa.table(columns)
    write_csv(place / "t.csv", "user,item\n" + "".join(f"{u},{i}\n" for u, i in zip(*columns.values(), strict=True)))
    _save(table, place / "t.parquet")
    errors = {
        "arrays": raised(lambda: Interactions.from_arrays(*columns.values(), duplicates="error")),
        "frame": raised(lambda: Interactions.from_frame(table, duplicates="error")),
        "csv": raised(lambda: Interactions.from_csv(place / "t.csv", duplicates="error")),
        "parquet": raised(lambda: Interactions.from_parquet(place / "t.parquet", duplicates="error")),
    }
    bad = [
        name for name, e in errors.items() if not (isinstance(e, ValueError) and tells(e, "bob") and tells(e, "jam"))
    ]
    numbers = raised(lambda: lfm_np.to_csr([(5, 6), (41, 57), (5, 7), (41, 57)], duplicates="error"))
    return bad + wrong(numbers=isinstance(numbers, ValueError) and tells(numbers, "41", "57"))


def _uneven_chunks() -> list[str]:
    """Columns whose chunks begin elsewhere, some of them empty, beside a column of nulls that nobody asks for."""
    import pyarrow as pa

    draw = np.random.default_rng(62)
    count = 769
    users, items = (draw.integers(0, top, count).tolist() for top in (30, 20))
    values, times = (draw.integers(-9, 10, count) / 4).tolist(), draw.integers(0, 9, count).tolist()

    def chunked(values: list[Any], sizes: tuple[int, ...], kind: Any) -> Any:
        ends = np.cumsum([0, *sizes]).tolist()
        assert ends[-1] == count
        chunks = [pa.array(values[a:b], kind) for a, b in itertools.pairwise(ends)]
        return pa.chunked_array(chunks, kind)

    table = pa.table(
        {
            "nothing": pa.nulls(count, pa.int32()),
            "user": chunked([f"u{u}" for u in users], (0, 1, 255, 0, 256, 257), pa.string()),
            "item": chunked(items, (257, 0, 0, 256, 255, 1), pa.int16()),
            "value": chunked(values, (512, 257), pa.float64()),
            "time": chunked(times, (769, 0), pa.uint8()),
        }
    )
    of: dict[Any, list[Any]] = {}
    for user, item, value, time in zip(users, items, values, times, strict=True):
        of.setdefault((f"u{user}", item), []).append((value, time))
    mine = {
        "sum": lambda r: sum(v for v, _ in r),
        "max": lambda r: max(v for v, _ in r),
        "count": lambda r: float(len(r)),
        "last": lambda r: [v for v, t in r if t == max(t for _, t in r)][-1],
    }
    bad = []
    for how, rule in mine.items():
        data = Interactions.from_frame(table, value="value", timestamp="time", duplicates=how)
        cells = {pair: (rule(r), max(t for _, t in r)) for pair, r in of.items()}  # quarters are exact in float32
        part = Interactions.from_frame(table.slice(256, 300), value="value", timestamp="time", duplicates=how)
        few: dict[Any, list[Any]] = {}
        for user, item, value, time in list(zip(users, items, values, times, strict=True))[256:556]:
            few.setdefault((f"u{user}", item), []).append((value, time))
        some = {pair: (rule(r), max(t for _, t in r)) for pair, r in few.items()}
        bad += [f"{how}: {fact}" for fact in wrong(whole=told(data) == cells, part=told(part) == some)]
    return bad


def _upside_down() -> list[str]:
    """The last record of a pair is the first one of the frame turned round, in three libraries."""
    import pandas as pd
    import polars as pl
    import pyarrow as pa

    draw = np.random.default_rng(63)
    columns: dict[str, Any] = {
        "user": draw.integers(0, 12, 400).tolist(),
        "item": [f"i{i}" for i in draw.integers(0, 9, 400)],
        "value": draw.integers(1, 100, 400).tolist(),
    }
    records = list(zip(*columns.values(), strict=True))
    ways = {
        "pandas": (pd.DataFrame(columns), lambda frame: frame.iloc[::-1]),
        "pandas, in order of an index": (pd.DataFrame(columns), lambda frame: frame.sort_index(ascending=False)),
        "polars": (pl.DataFrame(columns), lambda frame: frame.reverse()),
        "polars, lazy": (pl.DataFrame(columns).lazy(), lambda frame: frame.reverse()),
        "arrow": (pa.table(columns), lambda table: table.take(list(range(399, -1, -1)))),
    }
    last = {(u, i): (float(v), None) for u, i, v in records}
    first = {(u, i): (float(v), None) for u, i, v in reversed(records)}
    bad = []
    for name, (frame, turn) in ways.items():
        for what, given, mine in (("as it is", frame, last), ("turned", turn(frame), first)):
            if told(Interactions.from_frame(given, value="value", duplicates="last")) != mine:
                bad.append(f"{name}, {what}")
    return bad


def _between_quotes(place: Path) -> list[str]:
    """What stands in quotes is text, whatever it looks like; both ends of lines and both kinds of packing."""
    import gzip

    odd = [
        "",
        " ",
        "NULL",
        "NA",
        "nan",
        "007",
        "1e3",
        "a,b",
        'say "so"',
        "two\nlines",
        "two\r\nlines",
        "#",
        "\\",
        "\\n",
    ]
    odd += ["'", "true", "2024-05-01", "0x1F", "-", "\t", ";", "ä", "\u2028", "a ", " a", "\U0001f375", "é", "e\u0301"]
    records = [
        (user, odd[(place_of * 5 + step) % len(odd)], place_of + step)
        for place_of, user in enumerate(odd)
        for step in (0, 3)
    ]
    bad = []
    for end, delimiter in (("\n", ","), ("\r\n", ";"), ("\n", "\t")):
        path = place / f"{len(end)}{ord(delimiter)}.csv.gz"
        with gzip.open(path, "wt", encoding="utf-8", newline="") as file:
            table = csv.writer(file, delimiter=delimiter, lineterminator=end, quoting=csv.QUOTE_ALL)
            table.writerow(["user", "item", "n"])
            table.writerows(records)
        types = {"user": "string", "item": "string", "n": "float64"}
        data = Interactions.from_csv(path, delimiter=delimiter, value="n", column_types=types)
        mine = {(user, item): (float(n), None) for user, item, n in records}
        facts = {"cells": told(data) == mine, "order": data.users.tolist() == sorted(odd)}
        bad += [f"{delimiter!r}: {fact}" for fact in wrong(**facts)]
    return bad


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    if not installed("pyarrow", "narwhals"):
        return
    yield _holds("user, value and time are those of folders", inside(_folders_of_values))
    yield _holds("days in seven types, cut at seven moments", inside(_kinds_of_days))
    yield _holds("CSV files with names of columns only, before others", inside(_names_without_lines))
    yield _holds("a chain in tables that falls from its end", inside(_chain_in_tables))
    yield _holds("a pair that is there twice, by its name", inside(_named_pairs))
    yield _holds("columns whose chunks begin elsewhere", _uneven_chunks)
    yield _holds("what stands in quotes is text", inside(_between_quotes))
    if installed("pandas"):
        yield _holds("an index of pandas, in files and in frames", inside(_indices))
        yield _holds("one column as item, value and time", inside(_one_column_for_three))
    if installed("pandas", "polars"):
        yield _holds("the last record, and the last of the frame turned round", _upside_down)
