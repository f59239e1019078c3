"""The second year of a service: windows of tables, splits, disks and lists, recounted with dictionaries and sorting."""

from __future__ import annotations

import datetime
import math
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

import lfm_np

from .case import Case, Group, installed
from .working_days import NAN, Model, best, close, faultless, raised, start, tells, wrong

_GROUP = Group("second year in production")
_holds = faultless(_GROUP)
Records = list[tuple[Any, Any, Any, Any]]  # user, item, value, time; None is unknown


def combined(records: Records, duplicates: str) -> dict[tuple[Any, Any], Any]:
    """The value of every pair; the order of the records is that of their times, unknown ones first."""
    of: dict[tuple[Any, Any], list[Any]] = {}
    for user, item, value, _ in sorted(records, key=lambda r: (r[3] is not None, r[3] or 0)):
        of.setdefault((user, item), []).append(value)

    def one(values: list[Any]) -> Any:
        if duplicates == "count":
            return len(values)
        if duplicates == "last":
            return values[-1]
        if None in values:
            return None
        return {"sum": sum(values), "max": max(values), "mean": sum(values) / len(values)}[duplicates]

    return {pair: one(values) for pair, values in of.items()}


def cells(data: Any) -> dict[tuple[Any, Any], Any]:
    """The value of every cell by its ids, None for NaN."""
    M, users, items = data.matrix, data.users.tolist(), data.items.tolist()
    found = {}
    for r, user in enumerate(users):
        for p in range(M.indptr[r], M.indptr[r + 1]):
            value = float(M.data[p])
            found[user, items[M.indices[p]]] = None if math.isnan(value) else value
    return found


def of_these_ids(mine: Iterable[tuple[Any, Any]], data: Any) -> bool:
    users, items = (sorted(set(side)) for side in zip(*mine, strict=True))
    return bool(data.users.tolist() == users and data.items.tolist() == items)


def _columns(frame: Any) -> dict[str, list[Any]]:
    if hasattr(frame, "to_pydict"):
        return dict(frame.to_pydict())
    return dict(frame.to_dict(as_series=False) if hasattr(frame, "lazy") else frame.to_dict("list"))


def _framed(library: str, columns: dict[str, Any]) -> Any:
    if library == "pyarrow":
        import pyarrow as pa

        return pa.table(columns)
    if library == "polars":
        import polars as pl

        return pl.DataFrame(columns)
    import pandas as pd

    return pd.DataFrame(columns)


def _the_hour_that_comes_twice(library: str) -> list[str]:
    """02:50 of summer time is before 02:10 of winter time; midnight in Berlin is 22:00 or 23:00 of the day before."""
    utc = [datetime.datetime(2024, 10, d, h, minute) for d, h, minute in (
        (27, 0, 50), (27, 1, 10), (26, 21, 59), (26, 22, 0), (27, 22, 59), (27, 23, 0),
    )]  # fmt: skip
    users, items, values = (
        ["ann", "ann", "bob", "bob", "eve", "eve"],
        [1, 1, 1, 2, 1, 2],
        [5.0, 2.0, 1.0, 3.0, 4.0, 2.5],
    )
    place = [1, 0, 4, 3, 5, 2]  # as they stand in the table
    columns: dict[str, Any] = {
        "user": [users[p] for p in place], "item": [items[p] for p in place], "value": [values[p] for p in place]
    }  # fmt: skip
    times = [utc[p].replace(tzinfo=datetime.UTC) for p in place]
    if library == "pandas":
        import pandas as pd

        columns["when"] = pd.to_datetime(times, utc=True).tz_convert("Europe/Berlin")
    elif library == "polars":
        import polars as pl

        columns["when"] = pl.Series(times).dt.convert_time_zone("Europe/Berlin")
    else:
        import pyarrow as pa

        columns["when"] = pa.array(times, pa.timestamp("us", tz="Europe/Berlin"))
    data = lfm_np.Interactions.from_frame(_framed(library, columns), value="value", timestamp="when", duplicates="last")
    when = {("ann", 1): utc[1], ("bob", 1): utc[2], ("bob", 2): utc[3], ("eve", 1): utc[4], ("eve", 2): utc[5]}
    train, test = data.split("time", at="2024-10-27T01:10")
    order = [when[user, item] for user, item in cells(data)]
    return wrong(
        latest=cells(data) == dict(zip(when, (2.0, 1.0, 3.0, 4.0, 2.5), strict=True)),
        times=np.array_equal(data.timestamps.astype("datetime64[s]"), np.array(order, "datetime64[s]")),
        test=set(cells(test)) == {("ann", 1), ("eve", 1), ("eve", 2)},
        train=set(cells(train)) == {("bob", 1), ("bob", 2)},
    )


def _kept_unknown(duplicates: str, library: str) -> list[str]:
    """Values and times that nobody knows, among events that came twice."""
    draw, records = np.random.default_rng(41), []
    for _ in range(90):
        u, i, v, t = (int(x) for x in draw.integers(0, (6, 5, 9, 40)))
        records.append((f"u{u}", 10 * i, None if v < 2 else float(v), None if t < 6 else 1000 + t))
    columns = {name: [r[p] for r in records] for p, name in enumerate(("user", "item", "value", "time"))}
    if library == "pandas":
        import pandas as pd

        columns["time"] = pd.array(columns["time"], "Int64")
        columns["value"] = pd.array(columns["value"], "Float64")
    data = lfm_np.Interactions.from_frame(
        _framed(library, columns), value="value", timestamp="time", duplicates=duplicates, nulls="keep"
    )
    mine, found = combined(records, duplicates), cells(data)
    times = {}
    for user, item, _, t in records:
        times[user, item] = max(times.get((user, item), -1), -1 if t is None else t)
    stamps = [None if math.isnan(t) else t for t in data.timestamps.astype(float).tolist()]
    bright = {p: 1.0 for p, v in mine.items() if v is not None and v >= 4}
    return wrong(
        ids=of_these_ids(mine, data),
        known=[p for p in mine if mine[p] is None] == [p for p in mine if found.get(p, 0.0) is None],
        values=found.keys() == mine.keys() and close([found[p] or 0 for p in mine], [mine[p] or 0 for p in mine], 1e-6),
        times=stamps == [None if times[p] < 0 else times[p] for p in found],
        bright=cells(data.binarize(threshold=4)) == bright,
    )


def _only_the_named_columns(library: str) -> list[str]:
    """A null in a column that is not asked for drops nothing; ids beyond 2⁵³ stay apart beside nulls."""
    big = 2**53
    users = [big, big + 1, None, big + 2, big, big + 3]
    items = [2**63 - 1, 2**63 - 2, 7, None, 2**63 - 2, 7]
    columns: dict[str, Any] = {"user": users, "item": items, "note": [None, "a", "b", None, None, "c"]}
    if library == "pandas":
        import pandas as pd

        columns |= {name: pd.array(columns[name], "Int64") for name in ("user", "item")}
    data = lfm_np.Interactions.from_frame(_framed(library, columns), nulls="drop")
    mine = {(u, i): 1.0 for u, i in zip(users, items, strict=True) if u is not None and i is not None}
    back = data.rows_of([big + 3, 5, big + 1], missing=-1)
    return wrong(cells=cells(data) == mine, ids=of_these_ids(mine, data), rows=back.tolist() == [2, -1, 1])


def _dictionaries_of_two_days() -> list[str]:
    """Code 0 of Monday is code 1 of Tuesday, and some categories have no event."""
    import pyarrow as pa

    names = pa.chunked_array([
        pa.DictionaryArray.from_arrays(pa.array([0, 1, 0]), pa.array(["tea", "jam", "rum"])),
        pa.DictionaryArray.from_arrays(pa.array([1, 0, 2, None]), pa.array(["jam", "tea", "ale"])),
    ])  # fmt: skip
    data = lfm_np.Interactions.from_frame(pa.table({"user": [1, 1, 2, 1, 2, 3, 3], "item": names}), nulls="drop")
    mine = {(1, "tea"): 2.0, (1, "jam"): 1.0, (2, "tea"): 1.0, (2, "jam"): 1.0, (3, "ale"): 1.0}
    return wrong(cells=cells(data) == mine, ids=of_these_ids(mine, data))


def _lists_by_ids(library: str) -> list[str]:
    """Whole factors, so that scores are exact and tied; users in the order asked; short lists are short."""
    draw = np.random.default_rng(44)
    day = datetime.date(2024, 2, 27)
    days = [day + datetime.timedelta(int(d)) for d in range(9)]
    pairs = sorted({(f"u{int(u)}", days[int(i)]) for u, i in draw.integers(0, (7, 9), (40, 2))})
    columns: dict[str, Any] = {"who": [p[0] for p in pairs], "day": [p[1] for p in pairs]}
    if library == "pandas":
        import pandas as pd

        columns["day"] = pd.to_datetime(columns["day"])
    data = lfm_np.Interactions.from_frame(_framed(library, columns), "who", "day")
    who, items = sorted({p[0] for p in pairs}), sorted({p[1] for p in pairs})
    U, V = draw.integers(-1, 2, (len(who), 2)).astype(float), draw.integers(-1, 2, (len(items), 2)).astype(float)
    asked, allowed, none = [who[4], who[0], who[5]], items[:8], items[2:4]
    frame = lfm_np.recommend_frame(
        lfm_np.Factors(U, V), data, asked, N=5, seen=data, items=data.items[7::-1], exclude=data.items[2:4]
    )
    mine = []
    for user in asked:
        ok = np.array([i in allowed and i not in none and (user, i) not in pairs for i in items])
        s = V @ U[who.index(user)]
        mine += [(user, items[i], s[i], r) for r, i in enumerate(best(s, ok, 5), 1) if i >= 0]
    found = _columns(frame)
    back = [d.date() if library == "pandas" else d for d in found["item"]]
    return wrong(
        library=type(frame).__module__.split(".")[0] == library,
        columns=list(found) == ["user", "item", "score", "rank"],
        rows=list(zip(found["user"], back, found["score"], found["rank"], strict=True)) == mine,
    )


def _split_counted() -> list[str]:
    """Two whole numbers beside 0.3·d, their mean exact over twenty seeds, within six standard deviations."""
    d = np.arange(60) % 12 + 1
    data = lfm_np.Interactions.from_arrays(np.repeat(np.arange(60), d), np.concatenate([np.arange(x) for x in d]))
    total, bad = 0, set()
    for seed in range(20):
        train, test = data.split("random", test_fraction=0.3, random_state=seed)
        counts = np.diff(test.matrix.indptr)
        total += counts.sum()
        low = np.floor(0.3 * d)
        if not ((counts == low) | ((counts == np.ceil(0.3 * d)) & (d > 1))).all():
            bad.add("counts")
        if not np.array_equal((train.matrix + test.matrix).toarray(), data.matrix.toarray()):
            bad.add("cells")
    p = (0.3 * d % 1)[d > 1]
    return [*sorted(bad), *wrong(mean=abs(total - 20 * 0.3 * d[d > 1].sum()) < 6 * math.sqrt(20 * (p * (1 - p)).sum()))]


def _timed(seed: int, moments: int) -> tuple[Any, dict[tuple[int, int], int]]:
    draw = np.random.default_rng(seed)
    pairs = sorted({(int(u), int(i)) for u, i in draw.integers(0, (9, 11), (60, 2))})[:40]
    times = dict(zip(pairs, draw.integers(0, moments, len(pairs)).tolist(), strict=True))
    order = draw.permutation(len(pairs))
    rows = [pairs[p] for p in order]
    data = lfm_np.Interactions.from_arrays(
        [u for u, _ in rows], [i for _, i in rows], timestamps=[times[pair] for pair in rows]
    )
    return data, times


def _last_of_each(n: int) -> list[str]:
    data, times = _timed(46, 4)
    mine = set()
    for user in {u for u, _ in times}:
        own = sorted((t, i) for (u, i), t in times.items() if u == user)
        mine |= {(user, i) for _, i in own[max(1, len(own) - n) :]}
    train, test = data.split("last", n=n)
    return wrong(test=set(cells(test)) == mine, train=set(cells(train)) == set(times) - mine)


def _last_share(share: float) -> list[str]:
    data, times = _timed(47, 9)
    mine: set[tuple[int, int]] = set()
    for moment in sorted(set(times.values()), reverse=True):
        more = mine | {pair for pair, t in times.items() if t == moment}
        if len(more) > share * len(times):
            break
        mine = more
    train, test = data.split("time", test_fraction=share)
    return wrong(test=set(cells(test)) == mine, train=set(cells(train)) == set(times) - mine)


def _yesterdays_ids() -> list[str]:
    """Rows and columns of another day's ids, brought over by name; what is new is solved, and lists are of ids."""
    rule = Model("hu-koren", 2.0, 0.5, 0.3)
    old = lfm_np.Interactions.from_arrays(list("bdfbdf"), [20, 40, 60, 40, 60, 20])
    new = lfm_np.Interactions.from_arrays(list("aabbcdddf"), [10, 40, 20, 30, 40, 10, 20, 60, 30])
    U, V = start(3, 3, 2)
    columns, rows = old.columns_of(new.items, missing=-1), old.rows_of(new.users, missing=-1)
    P, Q = (np.where((p >= 0)[:, None], F[p], 0.0) for p, F in ((rows, U), (columns, V)))
    X = np.where(new.matrix.toarray() > 0, 1.0, NAN)
    fresh, late = np.flatnonzero(columns < 0), np.flatnonzero(rows < 0)[::-1]
    model = lfm_np.Factors(P.copy(), Q.copy()).update(new.matrix[:, fresh], items=fresh, **rule.words)
    model = model.update(new.matrix[late], users=late, **rule.words)
    Q[fresh] = rule.half(X[:, fresh].T, P)
    P[late] = rule.half(X[late], Q)
    users, items = list("abcdf"), [10, 20, 30, 40, 60]
    frame = lfm_np.recommend_frame(model, new, ["f", "c", "a"], N=2, seen=new, backend="pyarrow")
    mine = [(u, items[i]) for u in "fca" for i in best((P @ Q.T)[users.index(u)], np.isnan(X[users.index(u)]), 2)]
    found = frame.to_pydict()
    return wrong(
        rows=rows.tolist() == [-1, 0, -1, 1, 2] and columns.tolist() == [-1, 0, -1, 1, 2],
        users=close(model.user_factors, P, 1e-9),
        items=close(model.item_factors, Q, 1e-9),
        lists=list(zip(found["user"], found["item"], strict=True)) == mine,
    )


def _seen_of_another_day() -> list[str]:
    one = lfm_np.Interactions.from_arrays(["a", "b"], [1, 2])
    other = lfm_np.Interactions.from_arrays(["a", "c"], [1, 2])
    model = lfm_np.Factors(np.eye(2), np.eye(2))
    error = raised(lambda: lfm_np.recommend_frame(model, one, seen=other, backend="pyarrow"))
    judging = raised(lambda: lfm_np.evaluate(model, one, other))
    return wrong(
        lists=isinstance(error, (TypeError, ValueError)) and tells(error, "seen"),
        judged=isinstance(judging, (TypeError, ValueError)),
    )


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    yield _holds("two whole numbers beside 0.3·d", _split_counted)
    for n in (1, 2, 100):
        yield _holds(f"the last {n} of each, times tied", lambda n=n: _last_of_each(n))
    for share in (0.05, 0.25, 0.5, 0.9):
        yield _holds(f"the last {share} of all, times tied", lambda s=share: _last_share(s))
    if not installed("pyarrow", "narwhals"):
        return
    for library in filter(installed, ("pandas", "polars", "pyarrow")):
        yield _holds(f"the hour that comes twice, {library}", lambda y=library: _the_hour_that_comes_twice(y))
        yield _holds(f"only the named columns, {library}", lambda y=library: _only_the_named_columns(y))
        yield _holds(f"lists by ids, {library}", lambda y=library: _lists_by_ids(y))
        for duplicates in ("sum", "mean", "max", "last", "count"):
            name = f"unknown values and times, {duplicates}, {library}"
            yield _holds(name, lambda d=duplicates, y=library: _kept_unknown(d, y))
    yield _holds("dictionaries of two days", _dictionaries_of_two_days)
    yield _holds("yesterday's ids, brought over", _yesterdays_ids)
    yield _holds("what was seen under other ids", _seen_of_another_day)
