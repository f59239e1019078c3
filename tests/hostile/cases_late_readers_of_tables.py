"""Sentences about pairs, ids, times, splits and tables, beside dictionaries and counting."""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import lfm_np

from .case import Case, Group, installed
from .places import inside
from .working_days import faultless, wrong

_GROUP = Group("late readers, tables")
_holds = faultless(_GROUP)
NAN = np.nan
Interactions = lfm_np.Interactions


def cells_of(data: Any) -> dict[tuple[Any, Any], float]:
    """{(user, item): value} by ids."""
    coo = data.matrix.tocoo()
    return {
        (data.users[r], data.items[c]): float(v)
        for r, c, v in zip(coo.coords[0].tolist(), coo.coords[1].tolist(), coo.data.tolist(), strict=True)
    }


def times_of(data: Any) -> dict[tuple[Any, Any], Any]:
    return dict(zip(cells_of(data), data.timestamps.tolist(), strict=True))


# --- pairs ---------------------------------------------------------------------------------------


def _sums_in_double() -> list[str]:
    """2²⁴ + 1 is 2²⁴ in float32, so that a sum of three needs more."""
    pairs, values = [(1, 2), (0, 0), (1, 2), (1, 2)], [2.0**24, 3.0, 1.0, 1.0]
    total = lfm_np.to_csr(pairs, values=values)
    mean = lfm_np.to_csr(pairs, values=values, duplicates="mean")
    return wrong(
        shape=total.shape == (2, 3),
        sum=total[1, 2] == 2.0**24 + 2,
        mean=mean[1, 2] == np.float32((2.0**24 + 2) / 3),
        single=total[0, 0] == mean[0, 0] == 3.0,
    )


def _of_negatives() -> list[str]:
    pairs, values = [(0, 1), (0, 1), (1, 0), (1, 0), (1, 1)], [-5.0, -2.5, 0.0, -1.0, 0.0]
    largest = lfm_np.to_csr(pairs, (2, 4), values, "max")
    last = lfm_np.to_csr(pairs, (2, 4), values, "last")
    count = lfm_np.to_csr(pairs, (2, 4), values, "count")
    return wrong(
        max=largest.data.tolist() == [-2.5, 0.0, 0.0] and largest.indices.tolist() == [1, 0, 1],
        last=last.data.tolist() == [-2.5, -1.0, 0.0],
        count=count.data.tolist() == [2.0, 2.0, 1.0],
        kept=largest.nnz == 3 and largest.shape == (2, 4),
    )


def _dict_of_bytes() -> list[str]:
    found = lfm_np.build_dict(np.array([[255, 7], [3, 200], [255, 7], [3, 0], [255, 1]], np.uint8))
    return wrong(
        keys=list(found) == [3, 255],
        values=[a.tolist() for a in found.values()] == [[0, 200], [1, 7]],
        dtype=all(a.dtype == np.uint8 and not a.flags.writeable for a in found.values()),
    )


# --- records -------------------------------------------------------------------------------------


def _last_by_time() -> list[str]:
    """Unknown times are earliest; of equal times the later record counts."""
    data = Interactions.from_arrays(
        ["a"] * 7, ["x", "x", "x", "y", "y", "z", "z"], [1.0, 2, 3, 4, 5, 6, 7], [NAN, 2.5, 2.5, 9.0, NAN, NAN, NAN],
        duplicates="last",
    )  # fmt: skip
    times = times_of(data)
    return wrong(
        values=list(cells_of(data).values()) == [3.0, 4.0, 7.0],
        times=times["a", "x"] == 2.5 and times["a", "y"] == 9.0 and math.isnan(times["a", "z"]),
    )


def _latest_time_of_any() -> list[str]:
    bad = []
    for how, value in (("max", 8.0), ("mean", 4.0), ("sum", 12.0), ("count", 3.0), ("last", 1.0)):
        data = Interactions.from_arrays([4, 4, 4], [2, 2, 2], [8.0, 1.0, 3.0], [10, 30, 20], duplicates=how)
        if cells_of(data) != {(4, 2): value} or data.timestamps.tolist() != [30]:  # type: ignore[union-attr]
            bad.append(how)
    return bad


def _unknown_values() -> list[str]:
    bad = []
    for how, value in (("max", NAN), ("mean", NAN), ("sum", NAN), ("count", 2.0), ("last", 3.0)):
        data = Interactions.from_arrays([1, 1, 1], [5, 5, 6], [NAN, 3.0, 2.0], duplicates=how)
        found = list(cells_of(data).values())
        if not np.array_equal(found, [value, 1.0 if how == "count" else 2.0], equal_nan=True):
            bad.append(how)
    return bad


def _ids_of_kinds() -> list[str]:
    """Rows in ascending order, strings by code point, and every id back from its row."""
    bad = []
    for name, ids, ordered in (
        ("text", ["b", "é", "Z", "B", "z"], ["B", "Z", "b", "z", "é"]),
        ("dates", np.array(["2024-02-29", "1969-12-31", "2100-01-01"], "datetime64[D]"), None),
        ("lengths", np.array([90, -5, 60], "timedelta64[m]"), None),
        ("large", np.array([2**63 + 1, 2**63, 5], np.uint64), None),
        ("small", np.array([-128, 127, 0], np.int8), None),
        ("floats", np.array([0.5, -1e-300, 1e300]), None),
        ("bools", np.array([True, False]), None),
    ):
        given = np.asarray(ids)
        data = Interactions.from_arrays(given, np.zeros(len(given), int))
        mine = np.sort(given) if ordered is None else np.array(ordered)
        back = data.user_ids(data.rows_of(given))
        if data.users.tolist() != mine.tolist() or back.tolist() != given.tolist():
            bad.append(name)
    return bad


def _missing_ids() -> list[str]:
    data = Interactions.from_arrays(["p", "q", "r"], [30, 10, 20])
    columns = np.array([[2, -1], [0, 1], [-1, -1]])
    as_number, as_text = data.item_ids(columns, missing=-7), data.item_ids(columns, missing="none")
    return wrong(
        number=as_number.tolist() == [[30, -7], [10, 20], [-7, -7]] and as_number.dtype.kind == "i",
        text=as_text.tolist() == [[30, "none"], [10, 20], ["none", "none"]] and as_text.dtype == object,
        rows=data.rows_of(["q", "nobody", "p"], missing=-1).tolist() == [1, -1, 0],
        column=data.columns_of([10, 11], missing=5).tolist() == [0, 5] and data.columns_of([20]).dtype == np.int64,
        users=data.user_ids([[1], [2]]).tolist() == [["q"], ["r"]],
    )


def _binarized() -> list[str]:
    values = [NAN, -1.5, 0.0, 0.25, 4.0]
    data = Interactions.from_arrays([0, 1, 2, 3, 4], [0, 1, 0, 1, 0], values, [5, 6, 7, 8, 9])
    every, some, low = data.binarize(), data.binarize(0), data.binarize(-1.5)
    return wrong(
        every=cells_of(every) == {(u, u % 2): 1.0 for u in range(5)},
        some=cells_of(some) == {(2, 0): 1.0, (3, 1): 1.0, (4, 0): 1.0},
        low=list(cells_of(low)) == [(1, 1), (2, 0), (3, 1), (4, 0)],
        shape=some.shape == (5, 2) and some.users.tolist() == [0, 1, 2, 3, 4],
        times=list(times_of(some).values()) == [7, 8, 9],
    )


def _cores() -> list[str]:
    """Users first, then items of what remains, until nothing changes."""
    draw = np.random.default_rng(3)
    cells = sorted({(int(u), int(i)) for u, i in zip(draw.integers(0, 40, 170), draw.integers(0, 25, 170) ** 2 // 25)})
    users, items = (np.array(side) for side in zip(*cells, strict=True))
    data = Interactions.from_arrays(users, items, timestamps=users * 100 + items)
    kept = set(cells)
    while True:
        by_user = {u: sum(a == u for a, _ in kept) for u, _ in kept}
        fewer = {(u, i) for u, i in kept if by_user[u] >= 4}
        by_item = {i: sum(b == i for _, b in fewer) for _, i in fewer}
        fewer = {(u, i) for u, i in fewer if by_item[i] >= 3}
        if fewer == kept:
            break
        kept = fewer
    assert 0 < len(kept) < len(cells)
    found = data.core(4, 3)
    return wrong(
        cells=set(cells_of(found)) == kept,
        users=found.users.tolist() == sorted({u for u, _ in kept}),
        items=found.items.tolist() == sorted({i for _, i in kept}),
        times=all(time == u * 100 + i for (u, i), time in times_of(found).items()),
    )


# --- splits --------------------------------------------------------------------------------------


def _timed(seed: int, latest: int = 6) -> Any:
    draw = np.random.default_rng(seed)
    cells = np.unique(draw.integers(0, [12, 15], (70, 2)), axis=0)
    return Interactions.from_arrays(cells[:, 0], cells[:, 1], timestamps=draw.integers(0, latest, len(cells)))


def _last_ones(n: int) -> list[str]:
    """Equal times: the higher column is later; one cell stays in any case."""
    data, mine = _timed(n), set()
    times = times_of(data)
    for u in data.users.tolist():
        own = sorted((time, i) for (v, i), time in times.items() if v == u)
        mine |= {(u, i) for _, i in own[max(1, len(own) - n) :]}
    train, test = data.split("last", n=n)
    return wrong(
        test=set(cells_of(test)) == mine,
        train=set(cells_of(train)) == set(times) - mine,
        times={**times_of(train), **times_of(test)} == times,
    )


def _latest_share(share: float) -> list[str]:
    """The largest set of latest cells that does not exceed the share; equal times stay together."""
    data = _timed(9)
    times = times_of(data)
    sizes = [sum(time >= at for time in times.values()) for at in range(7)]
    at = next(at for at in range(7) if sizes[at] <= share * len(times))
    _, test = data.split("time", test_fraction=share)
    return wrong(test=set(cells_of(test)) == {cell for cell, time in times.items() if time >= at})


def _from_a_moment() -> list[str]:
    stamps = np.array(["2024-05-03T11:59", "2024-05-03T12:00", "NaT", "2024-05-04T00:00"], "datetime64[m]")
    known = Interactions.from_arrays([1, 1, 2], [1, 2, 1], timestamps=stamps[[0, 1, 3]])
    whole = Interactions.from_arrays([1, 1, 2], [1, 2, 1], timestamps=[2, 3, 4])
    try:
        Interactions.from_arrays([1, 1], [1, 2], timestamps=stamps[[1, 2]]).split("time", at="2024-05-03")
    except ValueError:
        refused = True
    else:
        refused = False
    return wrong(
        text=set(cells_of(known.split("time", at="2024-05-03T12")[1])) == {(1, 2), (2, 1)},
        scalar=set(cells_of(known.split("time", at=np.datetime64("2024-05-04"))[1])) == {(2, 1)},
        exactly=set(cells_of(whole.split("time", at=4)[0])) == {(1, 1), (1, 2)},
        unknown=refused,
    )


def _fractions() -> list[str]:
    """0.4 of three cells are 1 or 2, 1.2 in the mean; of one nothing is left out, of two at most one."""
    users = np.concatenate([np.repeat(np.arange(2000), 3), np.arange(2000, 2300), np.repeat(np.arange(2300, 2600), 2)])
    items = np.concatenate([np.tile([0, 1, 2], 2000), np.zeros(300, int), np.tile([1, 2], 300)])
    data = Interactions.from_arrays(users, items)
    d, e = (np.diff(data.split("random", test_fraction=f, random_state=5)[1].matrix.indptr) for f in (0.4, 0.95))
    deviation = math.sqrt(0.2 * 0.8 / 2000)
    return wrong(
        three=set(d[:2000].tolist()) == {1, 2} and abs(d[:2000].mean() - 1.2) < 5 * deviation,
        one=not d[2000:2300].any() and not e[2000:2300].any(),
        stays=bool((e[2300:] == 1).all()) and bool((e[:2000] == 2).all()),
        two=set(d[2300:].tolist()) == {0, 1},
    )


# --- tables --------------------------------------------------------------------------------------


def _categories() -> list[str]:
    pd = importlib.import_module("pandas")
    names = pd.Categorical(["low", "high", "mid", "low"], categories=["mid", "unused", "low", "high"], ordered=True)
    frame = pd.DataFrame({"who": names, "what": [2, 1, 1, 1], "stars": [1.0, None, 3.0, 4.0]})
    dropped = Interactions.from_frame(frame, "who", "what", "stars", nulls="drop")
    kept = Interactions.from_frame(frame, "who", "what", "stars", nulls="keep")
    found = cells_of(kept)
    return wrong(
        drop=cells_of(dropped) == {("low", 1): 4.0, ("low", 2): 1.0, ("mid", 1): 3.0},
        users=kept.users.tolist() == ["high", "low", "mid"],
        keep=math.isnan(found.pop(("high", 1))) and found == cells_of(dropped),
    )


def _zones() -> list[str]:
    import pyarrow as pa

    hours = pa.array([0, 3_600_000], pa.timestamp("ms", tz="Asia/Kolkata"))
    data = Interactions.from_frame(pa.table({"user": [1, 2], "item": ["a", "a"], "when": hours}), timestamp="when")
    mine = np.array(["1970-01-01T00", "1970-01-01T01"], "datetime64[ms]")
    return wrong(utc=np.array_equal(np.asarray(data.timestamps), mine))


def _lines(where: Path) -> list[str]:
    path = where / "a.csv"
    path.write_text('007;"NA";4\n07;b;N/A\n007;b;2\n7;c;NULL\n007;"NA";\n', encoding="utf-8")
    data = Interactions.from_csv(
        path, delimiter=";", column_names=["u", "i", "v"], column_types={"u": "string"}, user="u", item="i", value="v",
        nulls="drop",
    )  # fmt: skip
    counted = Interactions.from_csv(
        path, delimiter=";", column_names=["u", "i", "v"], column_types={"u": "string"}, user="u", item="i",
        min_user_interactions=2,
    )  # fmt: skip
    return wrong(
        values=cells_of(data) == {("007", "NA"): 4.0, ("007", "b"): 2.0},
        counted=cells_of(counted) == {("007", "NA"): 2.0, ("007", "b"): 1.0},
    )


def _folders(where: Path) -> list[str]:
    """A folder's name is a column; the last in the order of the files' names counts."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    for folder, file, stars in (("year=2024", "b", [9.0]), ("year=2023", "z", [1.0]), ("year=2024", "a", [5.0])):
        (where / "d" / folder).mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"user": ["u"], "stars": stars}), where / "d" / folder / f"{file}.parquet")
    data = Interactions.from_parquet(where / "d", user="user", item="year", value="stars", duplicates="last")
    return wrong(
        cells=list(cells_of(data).values()) == [1.0, 9.0], years=list(map(str, data.items)) == ["2023", "2024"]
    )


def _frame_of_lists() -> list[str]:
    import polars as pl

    data = Interactions.from_frame(pl.DataFrame({"user": ["a", "b", "c"], "item": [30, 10, 20]}))
    factors = lfm_np.Factors(np.array([[1.0], [-1], [0]]), np.array([[1.0], [2], [3]]))  # of 10, 20, 30
    frame = lfm_np.recommend_frame(factors, data, ["b", "a"], N=3, seen=data, exclude=[20])
    pandas = lfm_np.recommend_frame(factors, data, ["c"], N=2, items=[30, 20], backend="pandas")
    return wrong(
        polars=isinstance(frame, pl.DataFrame) and frame.columns == ["user", "item", "score", "rank"],
        rows=frame.rows() == [("b", 30, -3.0, 1), ("a", 10, 1.0, 1)],
        ties=pandas.to_numpy().tolist() == [["c", 20, 0.0, 1], ["c", 30, 0.0, 2]],
    )


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    yield _holds("sums and means of one pair are accumulated in float64", _sums_in_double)
    yield _holds("the largest of values below 0, zeros kept", _of_negatives)
    yield _holds("a dictionary of bytes", _dict_of_bytes)
    yield _holds("unknown times are earliest", _last_by_time)
    yield _holds("the latest time whatever becomes of the values", _latest_time_of_any)
    yield _holds("unknown values by every rule for duplicates", _unknown_values)
    yield _holds("ids of seven kinds there and back", _ids_of_kinds)
    yield _holds("ids and rows for what is missing", _missing_ids)
    yield _holds("known and at least a threshold of 0, or less", _binarized)
    yield _holds("a core of four and three", _cores)
    for n in (1, 2, 9):
        yield _holds(f"the {n} latest cells of each user", lambda n=n: _last_ones(n))
    for share in (0.1, 0.5, 0.02):
        yield _holds(f"a share of {share} of the latest cells", lambda share=share: _latest_share(share))
    yield _holds("everything from a moment on", _from_a_moment)
    yield _holds("rounded down or up so that the mean is exact", _fractions)
    if installed("pandas", "narwhals"):
        yield _holds("categories count by their values", _categories)
    if installed("pyarrow", "narwhals"):
        yield _holds("times with a zone become UTC", _zones)
    if installed("pyarrow"):
        yield _holds("lines without names, text between quotes", inside(_lines))
        yield _holds("folders that are a column", inside(_folders))
    if installed("polars", "pandas", "narwhals"):
        yield _holds("a frame of the library that the data came from", _frame_of_lists)
