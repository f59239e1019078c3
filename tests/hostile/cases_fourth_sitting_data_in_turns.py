"""The fourth sitting: popularity day by day, files in turn, and shares and numbers at their ends."""

from __future__ import annotations

import gzip
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import lfm_np
from lfm_np import Interactions, StoredMatrix
from lfm_np.evaluation import most_popular

from .case import Case, Group, installed
from .cases_fourth_sitting_data_in_cells import told
from .places import inside
from .working_days import faultless, judged, wrong

_GROUP = Group("fourth sitting, data")
_holds = faultless(_GROUP)


def _popular_day_by_day() -> list[str]:
    """What was popular until each day, and how good it was from that day on, by counting."""
    draw = np.random.default_rng(101)
    m, n = 18, 13
    users, items = np.nonzero(draw.random((m, n)) < 0.5)
    days = np.datetime64("2024-02-26") + draw.integers(0, 8, len(users))
    data = Interactions.from_arrays(users, items, timestamps=days)
    bad = wrong(shape=data.shape == (m, n))
    for day in np.arange("2024-02-27", "2024-03-05", dtype="M8[D]"):  # with the 29th of February
        train, test = data.split("time", at=str(day))
        known, held = (np.zeros((m, n), bool) for _ in range(2))
        for user, item, when in zip(users, items, days, strict=True):
            (held if when >= day else known)[user, item] = True
        counts = known.sum(0)
        order = sorted(range(n), key=lambda item, counts=counts: (-counts[item], item))
        model = most_popular(train)
        ids, scores = model.recommend(0, N=n)
        found = lfm_np.evaluate(model, train, test, ["recall@4", "precision@4", "map@4", "mrr", "auc"])
        mine = judged(np.tile(counts, (m, 1)), known, held, 4)
        facts = {
            "lists": ids.tolist() == order and scores.tolist() == [float(counts[item]) for item in order],
            # means of at most 18 numbers of at most 1 in float64
            "means": all(abs(found[name] - mine[name]) < 1e-12 for name in found),
            "users": found["users"] == mine["users"] > 2,
        }
        bad += [f"{day}: {fact}" for fact in wrong(**facts)]
    return bad


def _last_of_the_files(place: Path) -> list[str]:
    """10 comes before 9, and hidden files not at all: the last record of a pair, in memory and on the disk."""
    import pyarrow as pa
    import pyarrow.parquet

    draw = np.random.default_rng(102)
    (place / "day").mkdir()
    mine: dict[tuple[str, int], tuple[float, None]] = {}
    # in the order of the names, which is that of the characters
    for name in ("1.parquet", "10.parquet", "9.parquet", "_11.parquet", "a.parquet"):
        users = [f"u{number}" for number in draw.integers(0, 9, 60)]
        items = draw.integers(0, 7, 60).tolist()
        values = draw.integers(-99, 100, 60).tolist()
        table = pa.table({"user": users, "item": items, "n": values})
        pyarrow.parquet.write_table(table, place / "day" / name, row_group_size=13)
        if name[0] != "_":
            mine |= {(user, item): (float(v), None) for user, item, v in zip(users, items, values, strict=True)}
    data = Interactions.from_parquet(place / "day", value="n", duplicates="last")
    stored = StoredMatrix.from_parquet(
        place / "day", place / "m", value="n", duplicates="last", zeros="keep", memory=64 << 20
    )
    parts = [np.load(place / "m" / f"rows.{part}.npy") for part in ("data", "indices", "indptr")]
    turned = [np.load(place / "m" / f"columns.{part}.npy") for part in ("data", "indices", "indptr")]
    users, items = stored.users.tolist(), stored.items.tolist()
    rows = np.repeat(np.arange(len(users)), np.diff(parts[2]))
    columns = np.repeat(np.arange(len(items)), np.diff(turned[2]))
    by_rows = {(users[r], items[c]): (float(v), None) for r, c, v in zip(rows, parts[1], parts[0], strict=True)}
    by_columns = {(users[r], items[c]): (float(v), None) for r, c, v in zip(turned[1], columns, turned[0], strict=True)}
    return wrong(memory=told(data) == mine, rows=by_rows == mine, columns=by_columns == mine)


def _files_without_names(place: Path) -> list[str]:
    """The latest record of a pair counts where some times and values are not known, in packed files without names."""
    draw = np.random.default_rng(103)
    (place / "day").mkdir()
    of: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for number in range(3):
        lines = []
        for _ in range(80):
            user, item = f"u{draw.integers(0, 8)}", int(draw.integers(0, 6))
            value, time = float(draw.integers(-20, 21)) / 4, float(draw.integers(0, 12))
            texts = [str(value), str(int(time))]
            if draw.random() < 0.25:
                time, texts[1] = math.nan, ("", "NA", "null")[number]
            if draw.random() < 0.1:
                value, texts[0] = math.nan, ""
            lines.append("|".join([texts[1], user, "?", str(item), texts[0]]) + "\n")
            of.setdefault((user, item), []).append((value, time))
        (place / "day" / f"{number}.csv.gz").write_bytes(gzip.compress("".join(lines).encode()))
    of_names = {"column_names": ["when", "user", "other", "item", "value"], "delimiter": "|"}
    words: dict[str, Any] = {**of_names, "value": "value", "timestamp": "when", "nulls": "keep"}
    bad = []
    for how in ("last", "count"):
        mine = {}
        for pair, records in of.items():
            # the place of the latest: an unknown time is the earliest, of equal ones the later record counts
            times = [-1.0 if math.isnan(time) else time for _, time in records]
            latest = max(range(len(records)), key=lambda place, times=times: (times[place], place))
            value = records[latest][0] if how == "last" else float(len(records))
            mine[pair] = (value, records[latest][1])
        found = told(Interactions.from_csv(place / "day", duplicates=how, **words))
        cells = {pair: (value, float(time)) for pair, (value, time) in found.items()}
        bad += [] if repr(sorted(cells.items())) == repr(sorted(mine.items())) else [how]
    return bad


def _at_their_ends() -> list[str]:
    """Shares of next to nothing and of nearly all, and more of the latest than anybody has."""
    draw = np.random.default_rng(104)
    users, items = np.nonzero(draw.random((25, 16)) < draw.random((25, 1)))
    times = draw.integers(3, 9, len(users))
    data = Interactions.from_arrays(users, items, timestamps=times)
    cells = {(u, i): (1.0, t) for u, i, t in zip(users.tolist(), items.tolist(), times.tolist(), strict=True)}
    of: dict[int, list[tuple[int, int]]] = {}
    for (user, item), (_, time) in cells.items():
        of.setdefault(user, []).append((time, item))
    first = {(user, min(records)[1]) for user, records in of.items()}
    earliest = {pair for pair, (_, time) in cells.items() if time == min(times)}
    # the chance that any of 25 users gets another number by these shares is below 1e-9
    few, none = data.split("random", test_fraction=1e-12, random_state=0)
    ones, most = data.split("random", test_fraction=1 - 1e-12, random_state=0)
    last = [data.split("last", n=n) for n in (15, 16, 2**31, 10**18)]
    early, late = data.split("time", test_fraction=1 - 1e-6)
    whole, nothing = data.split("time", test_fraction=1e-6)
    return wrong(
        few=told(few) == cells and told(none) == {},
        most=sorted(pair[0] for pair in told(ones)) == sorted(of) and {**told(ones), **told(most)} == cells,
        parted=len(told(ones)) + len(told(most)) == len(cells),
        last=all(set(told(train)) == first for train, _ in last),
        rest=all(
            {**told(train), **told(test)} == cells and len(told(test)) == len(cells) - len(of) for train, test in last
        ),
        early=set(told(early)) == earliest and set(told(late)) == set(cells) - earliest,
        none_late=told(whole) == cells and told(nothing) == {},
        shapes={part.shape for part in (few, none, ones, most, early, late, nothing)} == {data.shape},
    )


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    yield _holds("popular until each day, and from that day on", _popular_day_by_day)
    yield _holds("shares and numbers of cells at their ends", _at_their_ends)
    if installed("pyarrow", "narwhals"):
        yield _holds("the last of the files, in memory and on the disk", inside(_last_of_the_files))
        yield _holds("the latest in files without names", inside(_files_without_names))
