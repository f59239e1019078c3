"""Id maps and tables of programs that came from elsewhere: every kind of id, by dictionaries and sorting."""

from __future__ import annotations

import datetime
import math
import uuid
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np

from .case import Case, Group, installed
from .cases_moved_in_with_fits import NAME
from .places import inside
from .sentences_by_numpy import lfm_np, near, ranked
from .working_days import dense, faultless, start, wrong

_GROUP = Group(NAME)
_holds = faultless(_GROUP)
TABLES = installed("pandas", "narwhals", "pyarrow")


def _filled(users: list[Any], items: list[Any], values: list[float]) -> tuple[list[Any], list[Any], np.ndarray]:
    """Ids in ascending order, and the sums of the values of every pair, NaN where there is none."""
    rows, columns = sorted(set(users)), sorted(set(items))
    full = np.full((len(rows), len(columns)), np.nan)
    for u, i, x in zip(users, items, values, strict=True):
        at = rows.index(u), columns.index(i)
        full[at] = x if np.isnan(full[at]) else full[at] + x
    return rows, columns, full


def _read(data: Any, users: list[Any], items: list[Any], values: list[float], *given: Any) -> list[str]:
    """Small whole values, whose float32 sums are exact."""
    rows, columns, full = _filled(users, items, values)
    asked, sought = given or (users, items)
    found = data.rows_of(asked)
    return wrong(
        users=data.users.tolist() == rows,
        items=data.items.tolist() == columns,
        cells=np.array_equal(dense(data), full, equal_nan=True),
        rows=found.tolist() == [rows.index(u) for u in users],
        columns=data.columns_of(sought[::-1]).tolist() == [columns.index(i) for i in items[::-1]],
        back=data.user_ids(found).tolist() == users,
    )


COUNTS = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0]


def _arrays(users: list[Any], items: list[Any], users_as: Any = None) -> list[str]:
    given = users if users_as is None else np.array(users, users_as)
    return _read(lfm_np.Interactions.from_arrays(given, items, COUNTS), users, items, COUNTS, given, items)


NUMBERS = [3, 1, 3, 2, 1, 3]
ARROW: dict[str, tuple[list[Any], str]] = {
    "decimals": ([Decimal(x) for x in ("10.00", "2.50", "-0.05", "10.00", "2.50", "9.99")], "decimal128(6, 2)"),
    "text of Arrow": (["～", "😀", "z", "～", "é", ""], "string()"),
    "text of Arrow that ends in NUL": (["a\x00", "a", "b", "a\x00", "a", "b"], "string()"),
    "bytes of Arrow": ([b"\xff", b"ab", b"a", b"", b"\xff", b"a"], "binary()"),
    "bytes of Arrow that end in NUL": ([b"a\x00", b"a", b"b", b"a\x00", b"a", b"b"], "binary()"),
    "times of day": ([datetime.time(h, 30) for h in (23, 1, 12, 23, 1, 0)], "time32('s')"),
    "booleans of Arrow": ([True, False, True, True, False, False], "bool_()"),
    "64 bits without sign": ([2**64 - 1, 2**63, 2**53 + 1, 2**53, 0, 2**63], "uint64()"),
}


def _columns(name: str) -> list[str]:
    """The same from a table of Arrow."""
    import pyarrow as pa

    users, kind = ARROW[name]
    of, _, sizes = kind.rstrip(")").partition("(")
    sized = [int(size) if size.strip().isdigit() else size.strip("'") for size in sizes.split(",") if size]
    table = pa.table({"user": pa.array(users, getattr(pa, of)(*sized)), "item": NUMBERS, "n": COUNTS})
    return _read(lfm_np.Interactions.from_frame(table, value="n"), users, NUMBERS, COUNTS)


WHO = [uuid.UUID(int=2**127 + i) for i in (5, 1)] + [uuid.UUID(int=i) for i in (2**64, 3)]
UUIDS = [WHO[0], WHO[3], WHO[1], WHO[2], WHO[0], WHO[3]]


def _uuids_of_pandas() -> list[str]:
    import pandas as pd

    frame = pd.DataFrame({"user": UUIDS, "item": [9, 8, 9, 9, 9, 7], "n": COUNTS})
    data = lfm_np.Interactions.from_frame(frame, value="n")
    return _read(data, UUIDS, frame["item"].tolist(), COUNTS)


def _days() -> list[str]:
    """Dates as ids: the place of a column that is none is no date."""
    days = np.array(["2024-03-01", "1969-12-31", "2024-02-29", "1969-12-31"], "datetime64[D]")
    data = lfm_np.Interactions.from_arrays([1, 1, 2, 3], days)
    found = data.item_ids(np.array([[2, 0], [-1, 1]]), missing=np.datetime64("NaT", "D"))
    expected = np.array([["2024-03-01", "1969-12-31"], ["NaT", "2024-02-29"]], "datetime64[D]")
    return wrong(
        sorted=data.items.tolist() == sorted(set(days.tolist())),
        cells=np.array_equal(np.nan_to_num(dense(data)), [[1, 0, 1], [0, 1, 0], [1, 0, 0]]),
        shape=found.shape == (2, 2),
        found=[str(day) for day in found.ravel()] == [str(day) for day in expected.ravel()],
    )


def _categories(numbers: bool) -> list[str]:
    """By their values, not in the order that the categories have; one that no record has is no column."""
    import pandas as pd

    order = [30, 10, 20, 99] if numbers else ["m", "b", "Z", "unused"]
    codes = [0, 1, 0, 2, 1, 0]
    column = pd.Categorical.from_codes(codes, categories=order, ordered=True)
    frame = pd.DataFrame({"user": ["x", "x", "y", "y", "z", "x"], "item": column, "n": COUNTS})
    data = lfm_np.Interactions.from_frame(frame, value="n")
    return _read(data, frame["user"].tolist(), [order[c] for c in codes], COUNTS)


def _extremes() -> list[str]:
    """Neighbours beyond 2⁵³, which floats cannot tell apart."""
    signed = np.array([2**53 + 1, 2**53, -(2**63), 2**63 - 1, 2**63 - 2, 2**53 + 1])
    unsigned = np.array([2**64 - 1, 2**64 - 2, 2**63, 0, 2**63 + 1, 2**64 - 1], np.uint64)
    data = lfm_np.Interactions.from_arrays(signed, unsigned, COUNTS)
    return _read(data, signed.tolist(), unsigned.tolist(), COUNTS, signed, unsigned)


def _beyond_both() -> Any:
    """Whole numbers that neither int64 nor uint64 holds together: as floats the last two would be one user."""
    return lfm_np.Interactions.from_arrays([-1, 2**63 + 1, 2**63 + 3], [1, 1, 1])


def _with_nul() -> Any:
    return lfm_np.Interactions.from_arrays(["a", "a\x00", "b"], [1, 1, 1])


def _three(data: Any) -> bool:
    return bool(data.shape == (3, 1) and len(set(data.users.tolist())) == 3)


def _mapped() -> list[str]:
    """lightfm's Dataset numbers ids as they come; its factors are put in the order of ``data``."""
    users = ["tom", "ann", "tom", "zoe", "bob", "ann"]
    items = ["w", "k", "a", "k", "w", "z"]
    numbers: tuple[dict[str, int], dict[str, int]] = {}, {}
    for ids, number in zip((users, items), numbers, strict=True):
        for one in ids:
            number.setdefault(one, len(number))
    U, V = start(4, 4, 3)
    data = lfm_np.Interactions.from_arrays(users, items)
    model = lfm_np.Factors(
        U[[numbers[0][one] for one in data.users.tolist()]], V[[numbers[1][one] for one in data.items.tolist()]]
    )
    ids, scores = model.recommend(data.rows_of(["zoe", "tom"]), N=4, seen=data)
    named = data.item_ids(ids, missing="").tolist()
    bad = []
    for name, found, paid in zip(("zoe", "tom"), named, scores, strict=True):
        of = {i: float(U[numbers[0][name]] @ V[numbers[1][i]]) for i in set(items)}
        free = set(items) - {i for u, i in zip(users, items, strict=True) if u == name}
        mine = sorted(free, key=lambda i: -of[i])
        if found != mine + [""] * (4 - len(mine)) or not near(paid[: len(mine)], [of[i] for i in mine], 1e-12):
            bad.append(name)
    return bad


def _dropped() -> list[str]:
    """coldStartStrategy="drop": pairs of unknown ids are left out of the error."""
    data = lfm_np.Interactions.from_arrays(["u1", "u2", "u3"], ["x", "y", "x"], [3.0, 4.0, 5.0])
    U, V = start(3, 2, 2)
    model = lfm_np.Factors(U, V, global_bias=3.5)
    test = [("u3", "y", 4.0), ("u9", "x", 1.0), ("u1", "q", 2.0), ("u2", "x", 3.0), ("", "", 0.0)]
    rows = data.rows_of([u for u, _, _ in test], missing=-1)
    columns = data.columns_of([i for _, i, _ in test], missing=-1)
    known = (rows >= 0) & (columns >= 0)
    error = model.scores(rows[known], columns[known]) - np.array([x for _, _, x in test])[known]
    mine = [3.5 + U[2] @ V[1] - 4.0, 3.5 + U[1] @ V[0] - 3.0]
    return wrong(
        rows=rows.tolist() == [2, -1, 0, 1, -1],
        columns=columns.tolist() == [1, 0, -1, 0, -1],
        rmse=near(math.sqrt((error**2).mean()), math.sqrt(np.mean(np.square(mine))), 1e-12),
    )


def _parquet(duplicates: str) -> list[str]:
    """userCol, itemCol, ratingCol of 64 bits, in two row groups; of two records the later in time is the last."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    users = [2**40, 5, 2**40, -7, 5, 2**40]
    items = [2**33, 2**33, 2**33, 1, 2**33, 1]
    stars, times = [2.0, 4.0, 5.0, 1.0, 3.0, 4.5], [30, 10, 20, 5, 40, 1]

    def work(folder: Path) -> Any:
        table = pa.table({"t": times, "stars": stars, "who": users, "what": items})
        pq.write_table(table, folder / "ratings.parquet", row_group_size=2)
        return lfm_np.Interactions.from_parquet(
            folder / "ratings.parquet", user="who", item="what", value="stars", timestamp="t", duplicates=duplicates
        )

    data = inside(work)()
    records: dict[tuple[int, int], list[tuple[int, float]]] = {}
    for u, i, x, t in zip(users, items, stars, times, strict=True):
        records.setdefault((u, i), []).append((t, x))
    count = {
        "last": lambda r: max(r)[1],
        "mean": lambda r: sum(x for _, x in r) / len(r),
        "max": lambda r: max(x for _, x in r),
    }
    order = sorted(records)
    full = {pair: count[duplicates](records[pair]) for pair in order}
    rows, columns = np.nonzero(~np.isnan(dense(data)))
    found = list(zip(data.users[rows].tolist(), data.items[columns].tolist(), strict=True))
    return wrong(
        pairs=found == order,
        values=near(data.matrix.data, [full[pair] for pair in order], 1e-6),
        times=np.asarray(data.timestamps).tolist() == [max(t for t, _ in records[pair]) for pair in order],
    )


def _thresholds() -> list[str]:
    """A rating of 0.7 is at least 0.7, whatever kind of float says so."""
    data = lfm_np.Interactions.from_arrays([1, 1, 2, 2], [1, 2, 1, 2], [0.7, 0.6, 0.8, 0.1])
    return [
        str(type(kind).__name__)
        for kind in (0.7, np.float32(0.7), np.float64(0.7))
        if data.binarize(kind).matrix.toarray().tolist() != [[1.0, 0.0], [1.0, 0.0]]
    ]


def _means() -> list[str]:
    """Several opinions of a film: the mean, unknown where one is unknown; then only what is known, for ratings."""
    users, items = [1, 1, 2, 1, 2, 3], ["a", "a", "a", "b", "a", "b"]
    data = lfm_np.Interactions.from_arrays(users, items, [4.0, 1.0, 3.0, 0.0, np.nan, 2.0], duplicates="mean")
    known = data.select(~np.isnan(data.matrix.data))
    fit = lfm_np.als(
        known, factors=1, weighting="ratings", biases=True, regularization=1.0, iterations=1, random_state=0
    )
    return wrong(
        cells=np.array_equal(data.matrix.data, [2.5, 0.0, np.nan, 2.0], equal_nan=True),
        known=known.matrix.data.tolist() == [2.5, 0.0, 2.0] and known.shape == (3, 2),
        mean=near(fit.global_bias, 1.5, 1e-6),
        empty=not fit.user_factors[1].any() and fit.user_bias[1] == 0,
    )


def _zones() -> list[str]:
    """Half past eleven in the evening, two hours west of Greenwich, is the next day."""
    import pandas as pd

    zone = datetime.timezone(datetime.timedelta(hours=-2))
    times = [datetime.datetime(2024, 5, 1, hour, 30, tzinfo=zone) for hour in (21, 22, 23, 12)]
    frame = pd.DataFrame({"user": ["a", "a", "b", "b"], "item": [1, 2, 1, 2], "t": pd.Series(times)})
    data = lfm_np.Interactions.from_frame(frame, timestamp="t")
    late = data.split("time", at="2024-05-02")[1]
    moments = [np.datetime64(t.astimezone(datetime.UTC).replace(tzinfo=None), "s") for t in times]
    return wrong(
        late=np.array_equal(np.nan_to_num(dense(late)), [[0, 1], [1, 0]]),
        utc=[str(t) for t in data.timestamps.astype("datetime64[s]")] == [str(t) for t in moments],
    )


def _moments() -> list[str]:
    """The first moment of the test set, by whatever says it; times are of microseconds."""
    stamps = np.datetime64("2024-05-01T00:00:00", "us") + np.array([0, 1, 2, 3]) * np.timedelta64(6, "h")
    data = lfm_np.Interactions.from_arrays([1, 1, 2, 2], [1, 2, 1, 2], timestamps=stamps)
    said = {
        "text": "2024-05-01T12:00",
        "datetime": datetime.datetime(2024, 5, 1, 12),
        "hours": np.datetime64("2024-05-01T12", "h"),
        "nanoseconds": np.datetime64("2024-05-01T12:00:00.000000000", "ns"),
    }
    return [name for name, at in said.items() if np.diff(data.split("time", at=at)[1].matrix.indptr).tolist() != [0, 2]]


def _frame_of_days() -> list[str]:
    """recommend_frame speaks of the ids that came: dates of pandas, wanted and left out by id."""
    import pandas as pd

    days = [datetime.datetime(2024, 5, day) for day in (3, 1, 2, 1)]
    frame = pd.DataFrame({"user": [7, 7, 3, 3], "item": pd.Series(days)})
    data = lfm_np.Interactions.from_frame(frame)
    U, V = start(2, 3, 2)
    table = lfm_np.recommend_frame(lfm_np.Factors(U, V), data, [7, 3], N=2, exclude=[pd.Timestamp("2024-05-02")])
    S = U @ V.T
    mine = [(u, pd.Timestamp(2024, 5, 1 + i)) for u, r in ((7, 1), (3, 0)) for i in ranked(S[r], (0, 2), 2)]
    return wrong(
        rows=list(zip(table["user"], table["item"], strict=True)) == mine, ranks=list(table["rank"]) == [1, 2] * 2
    )


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    for name, users, kind in (
        ("UUIDs", UUIDS, None),
        ("dates of Python", [datetime.date(2024, 1, d) for d in (31, 2, 31, 9, 2, 2)], None),
        ("text beyond 16 bits", ["～", "😀", "z", "～", "é", "10"], None),
        ("figures as text", ["10", "9", "09", "10", "9", "-1"], None),
        ("bytes", [b"\xff", b"b", b"ab", b"\xff", b"b", b""], None),
        ("durations", [datetime.timedelta(hours=h) for h in (5, -3, 5, 0, -3, 1)], "timedelta64[h]"),
        ("booleans", [True, False, True, True, False, False], None),
    ):
        yield _holds(f"ids: {name}", lambda a=users, b=kind: _arrays(a, NUMBERS, b))
    yield _holds("ids: dates as columns, and none", _days)
    yield _holds("ids: neighbours beyond 2⁵³", _extremes)
    yield _GROUP.either("ids: whole numbers beyond int64 and uint64", _beyond_both, _three, "users")
    yield _GROUP.either("ids: text that ends in NUL", _with_nul, _three, "users")
    yield _holds("lightfm: factors numbered as they came", _mapped)
    yield _holds("Spark: unknown ids dropped from an error", _dropped)
    yield _holds("Surprise: thresholds of tenths", _thresholds)
    yield _holds("Surprise: means of ratings, one unknown", _means)
    yield _holds("LensKit: moments said in many ways", _moments)
    if TABLES:
        for name in ARROW:
            yield _holds(f"ids: {name}", lambda a=name: _columns(a))
        yield _holds("ids: UUIDs of pandas", _uuids_of_pandas)
        for whole in (True, False):
            yield _holds(f"ids: categories of {'numbers' if whole else 'text'}", lambda a=whole: _categories(a))
        for duplicates in ("last", "mean", "max"):
            yield _holds(f"Spark: columns of 64 bits, {duplicates}", lambda a=duplicates: _parquet(a))
        yield _holds("LensKit: times of a zone", _zones)
        yield _holds("LensKit: lists of dates", _frame_of_days)
