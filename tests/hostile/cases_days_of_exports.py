"""Exports of other people's systems, read as they come, and pages written about them."""

from __future__ import annotations

import datetime
import decimal
from collections.abc import Iterator
from typing import Any

import numpy as np

import lfm_np

from .case import Case, Group, installed
from .working_days import csr, dense, faultless, folder, stars, typed, wrong

_GROUP = Group("day of exports")
_day = faultless(_GROUP)
BAD = (TypeError, ValueError)


def _read(data: Any) -> dict[tuple[Any, Any], float]:
    full = dense(data)
    rows, columns = np.nonzero(~np.isnan(full))
    return {
        (data.users[u], data.items[i]): float(full[u, i]) for u, i in zip(rows.tolist(), columns.tolist(), strict=True)
    }


def _csv(content: bytes, expected: dict[tuple[Any, Any], float], **words: Any) -> list[str]:
    with folder() as place:
        (place / "x.csv").write_bytes(content)
        data = lfm_np.Interactions.from_csv(place / "x.csv", **words)
    found = _read(data)
    return [] if found == expected else [repr(found)]


def _csv_refused(content: bytes, **words: Any) -> Any:
    with folder() as place:
        (place / "x.csv").write_bytes(content)
        return lfm_np.Interactions.from_csv(place / "x.csv", **words)


def _late_text() -> Any:
    lines = ["user,item", *(f"{u},{u % 7}" for u in range(300_000)), "ann,3"]
    return _csv_refused("\n".join(lines).encode())


def _parquets(tables: dict[str, Any], expected: dict[tuple[Any, Any], float], **words: Any) -> list[str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with folder() as place:
        for name, table in tables.items():
            path = place / "t" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(table, bytes):
                path.write_bytes(table)
            else:
                pq.write_table(pa.table(table), path)
        data = lfm_np.Interactions.from_parquet(place / "t", **words)
    found = _read(data)
    return [] if found == expected else [repr(found)]


def _spark() -> list[str]:
    tables = {"_SUCCESS": b"", "part-0.parquet": {"user": [1, 2], "item": ["a", "b"]}, ".part-0.crc": b"crc"}
    return _parquets(tables, {(1, "a"): 1.0, (2, "b"): 1.0})


def _empty_part() -> list[str]:
    import pyarrow as pa

    none = {"user": pa.array([], pa.int64()), "item": pa.array([], pa.string())}
    tables = {"0.parquet": none, "1.parquet": {"user": [5, 5], "item": ["a", "a"]}}
    return _parquets(tables, {(5, "a"): 2.0})


def _partitioned_by_user() -> list[str]:
    tables = {f"user={u}/x.parquet": {"item": [10 * u, 3]} for u in (7, 1)}
    return _parquets(tables, {(7, 70): 1.0, (7, 3): 1.0, (1, 10): 1.0, (1, 3): 1.0})


def _of_many_types() -> list[str]:
    import pyarrow as pa

    D = decimal.Decimal
    found = []
    days = [datetime.date(2024, 2, 29), datetime.date(1969, 12, 31)]
    ids: dict[str, Any] = {
        "large_string": (pa.array(["b", "a"], pa.large_string()), ["a", "b"]),
        "uint64": (pa.array([2**64 - 1, 2**63], pa.uint64()), [2**63, 2**64 - 1]),
        "binary": (pa.array([b"\xff", b"\x00a"], pa.binary()), [b"\x00a", b"\xff"]),
        "bool": (pa.array([True, False]), [False, True]),
        "date": (pa.array(days), sorted(days)),
        "dictionary": (pa.array(["y", "x"]).dictionary_encode(), ["x", "y"]),
        "decimal": (pa.array([D("1.10"), D("-2.00")]), [D("-2.00"), D("1.10")]),
        "float": (pa.array([0.5, -1e300]), [-1e300, 0.5]),
    }
    for name, (column, expected) in ids.items():
        frame = pa.table({"user": column, "item": [1, 2], "v": pa.array([D("2.5"), D("0.25")])})
        data = lfm_np.Interactions.from_frame(frame, value="v")
        users = [u.astype(object) if isinstance(u, np.generic) and hasattr(u, "astype") else u for u in data.users]
        right = [2.5 if column[0].as_py() == e else 0.25 for e in expected]
        read = [float(data.matrix[[r]].sum()) for r in range(2)]
        found += wrong(**{f"{name} ids {users}": users == expected, f"{name} values": read == right})
    return found


def _zones() -> list[str]:
    import pandas as pd

    times = pd.to_datetime(["2024-03-31 01:30", "2024-03-31 03:30", "2024-10-27 02:15"]).tz_localize(
        "Europe/Berlin", ambiguous=np.array([True, True, False])
    )
    frame = pd.DataFrame({"user": ["a", "a", "a"], "item": [1, 2, 3], "t": times})
    data = lfm_np.Interactions.from_frame(frame, timestamp="t")
    train, test = data.split("time", at="2024-03-31T01:30")  # UTC: half past three in Berlin
    return wrong(
        utc=[str(t)[:16] for t in data.timestamps] == ["2024-03-31T00:30", "2024-03-31T01:30", "2024-10-27T01:15"],
        split=train.matrix.nnz == 1 and test.matrix.nnz == 2,
    )


def _lazy_polars() -> list[str]:
    import polars as pl

    frame = pl.LazyFrame({"u": ["x", "x", None, "z"], "i": [3, 3, 3, 4], "v": [1.5, None, 2.0, 7.0]})
    data = lfm_np.Interactions.from_frame(frame.filter(pl.col("i") > 0), "u", "i", "v", nulls="drop")
    fit = lfm_np.als(data, factors=1, random_state=0)
    table = lfm_np.recommend_frame(fit, data, ["z", "x", "z"], N=9, seen=data)
    return wrong(
        cells=_read(data) == {("x", 3): 1.5, ("z", 4): 7.0},
        polars=type(table).__module__.startswith("polars"),
        rows=table["user"].to_list() == ["z", "x", "z"] and table["item"].to_list() == [3, 4, 3],
    )


def _script_as_id() -> list[str]:
    evil = '<script>alert("1")</script>'
    with folder() as place:
        lines = ["user,item", *(f'u{u},"{evil.replace(chr(34), chr(34) * 2)}{u % 6}"' for u in range(40))]
        lines += [f"u{u},plain{u % 5}" for u in range(40)]
        (place / "e.csv").write_text("\n".join(lines) + "\n")
        fit = typed(place, "fit", "e.csv", "--factors", 2, "--hold-out", "t.csv", "-o", "m.safetensors")
        page = typed(place, "report", "m.safetensors", "--test", "t.csv", "--title", evil, "-o", "r.html")
        text = (place / "r.html").read_text() if page.status == 0 else ""
        out = typed(place, "recommend", "m.safetensors", "-n", 2, "-o", "all.json")
    return wrong(status=[fit.status, page.status, out.status] == [0, 0, 0], escaped="<script>alert" not in text) + (
        [page.err[-200:]] if page.status else []
    )


def _popular_kept() -> list[str]:
    from lfm_np.evaluation import most_popular

    X = csr(stars(), np.float32)
    model = most_popular(X)
    with folder() as place:
        model.save(place / "popular")
        again, mapped = (lfm_np.Factors.load(place / "popular", mmap=m) for m in (False, True))
        lists = [m.recommend(range(30), N=5, seen=X) for m in (model, again, mapped)]
        del mapped
    counts = (~np.isnan(stars())).sum(axis=0)
    like = model.similar_items([3], N=4)
    return wrong(
        lists=all(np.array_equal(a.ids, lists[0].ids) and np.array_equal(a.scores, lists[0].scores) for a in lists),
        scores=np.array_equal(model.scores(4, np.arange(20)), counts),
        like=like.ids.tolist() == [[0, 1, 2, 3]] and not like.scores.any(),
        judged=lfm_np.evaluate(again, None, X, ["auc"]) == lfm_np.evaluate(model, None, X, ["auc"]),
    )


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    yield _day("most popular, without factors, kept in a file", _popular_kept)
    if not installed("pyarrow", "narwhals"):
        return
    two = {("ann", 1): 2.0, ("bob", 2): 3.0}
    head = "user,item,value\n"
    yield _day(
        "a BOM before the names",
        lambda: _csv(b"\xef\xbb\xbf" + f"{head}ann,1,2\nbob,2,3\n".encode(), two, value="value"),
    )
    yield _day(
        "quoted newlines, commas and quotes",
        lambda: _csv(b'user,item\n"a\nb",1\n"c, ""d""",2\n', {("a\nb", 1): 1.0, ('c, "d"', 2): 1.0}),
    )
    yield _day("a quoted NA is Namibia", lambda: _csv(b'user,item\n"NA",1\nfr,1\n', {("NA", 1): 1.0, ("fr", 1): 1.0}))
    yield _GROUP.refused(
        "an unquoted NA is null", lambda: _csv_refused(b"user,item\nNA,1\nfr,1\n"), "null", "user", kind=BAD
    )
    yield _day(
        "names from outside, columns in another order",
        lambda: _csv(b"2,ann,1\n3,bob,2\n", two, value="value", column_names=["value", "user", "item"]),
    )
    yield _day("numbers with exponents", lambda: _csv(f"{head}ann,1,2e0\nbob,2,30e-1\n".encode(), two, value="value"))
    yield _GROUP.refused(
        "UTF-16", lambda: _csv_refused("user,item\nann,1\n".encode("utf-16")), "utf|user|column|x.csv", kind=BAD
    )
    yield _GROUP.refused("a name twice", lambda: _csv_refused(b"user,item,item\nann,1,2\n"), "item", kind=BAD)
    yield _GROUP.refused(
        "decimal commas", lambda: _csv_refused(b'user,item,value\nann,1,"2,5"\n', value="value"), "value", kind=BAD
    )
    yield _GROUP.refused("text after 300,000 numbers", _late_text, "user|ann|column_types", kind=BAD)
    yield _day("Spark's folder with _SUCCESS and a crc", _spark)
    yield _day("an empty part first", _empty_part)
    yield _day("partitioned by the user", _partitioned_by_user)
    yield _day("ids of eight types and decimals as values", _of_many_types)
    if installed("pandas"):
        yield _day("times in Berlin on the days of the change", _zones)
    if installed("polars"):
        yield _day("a lazy polars frame with nulls, asked twice for one user", _lazy_polars)
    if installed("typer", "rich", "matplotlib"):
        yield _day("a script as id and title", _script_as_id)
