"""Programs that begin with tables and end with lists of ids: records by dictionaries, splits and cores by counting."""

from __future__ import annotations

import datetime
import gzip
import importlib
import os
import uuid
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np

import lfm_np as _library

from .case import Case, Group, installed
from .working_days import NAN, Model, all_scores, best, close, dense, faultless, folder, raised, start, tells, wrong

lfm_np: Any = _library
_GROUP = Group("eleventh hour")
_holds = faultless(_GROUP)
SHOP = Model("hu-koren", alpha=1.5, a0=0.3, lam=0.4, nu=0.5)


def _records(count: int = 160, seed: int = 0) -> list[tuple[str, int, float, int]]:
    """User, item, value and second; many pairs and times come twice."""
    draw = np.random.default_rng(seed)
    return [
        (
            f"u{draw.integers(0, 14):x}",
            int(draw.integers(0, 9)) * 10 - 20,
            float(draw.integers(1, 9)) / 2,
            int(draw.integers(0, 50)),
        )
        for _ in range(count)
    ]


def _combined(records: Any, how: str) -> tuple[dict[Any, float], dict[Any, int]]:
    groups = defaultdict(list)
    for u, i, x, t in records:
        groups[u, i].append((t, x))
    rules: dict[str, Any] = {
        "sum": lambda g: sum(x for _, x in g),
        "last": lambda g: sorted(g, key=lambda r: r[0])[-1][1],
        "mean": lambda g: sum(x for _, x in g) / len(g),
        "max": lambda g: max(x for _, x in g),
        "count": lambda g: float(len(g)),
    }
    return {c: rules[how](g) for c, g in groups.items()}, {c: max(t for t, _ in g) for c, g in groups.items()}


def _table(kind: str, columns: dict[str, Any]) -> Any:
    module = importlib.import_module(kind)
    return module.table(columns) if kind == "pyarrow" else module.DataFrame(columns)


def _read(frame: Any) -> dict[str, list[Any]]:
    if hasattr(frame, "to_pydict"):
        return dict(frame.to_pydict())
    return dict(
        frame.to_dict(as_series=False) if type(frame).__module__.startswith("polars") else frame.to_dict("list")
    )


def _square(values: dict[Any, float], users: list[Any], items: list[Any]) -> np.ndarray:
    return np.array([[values.get((u, i), NAN) for i in items] for u in users])


def _day(kind: str, how: str) -> list[str]:
    """A table, the last purchase held out, a fit of the rest, lists in ids for some, with one item for nobody."""
    records = _records()
    columns = dict(zip(("who", "what", "price", "when"), map(list, zip(*records, strict=True)), strict=True))
    data = lfm_np.Interactions.from_frame(_table(kind, columns), "who", "what", "price", "when", duplicates=how)
    values, times = _combined(records, how)
    users, items = (sorted({c[side] for c in values}) for side in (0, 1))
    X = _square(values, users, items)
    T = _square({c: float(t) for c, t in times.items()}, users, items)
    facts = {
        "ids": list(data.users) == users and list(data.items) == items,
        "cells": np.array_equal(dense(data), X.astype(np.float32), equal_nan=True),
        "times": np.array_equal(np.asarray(data.timestamps, float), T[~np.isnan(T)]),
    }
    train, test = data.split("last", n=2)
    held = np.zeros(X.shape, bool)
    for u in range(len(users)):
        cells = sorted(np.flatnonzero(~np.isnan(X[u])), key=lambda i: (T[u, i], i))
        held[u, cells[max(1, len(cells) - 2) :]] = True
    learn = np.where(held, NAN, X)
    facts["split"] = np.array_equal(~np.isnan(dense(test)), held) and np.array_equal(
        ~np.isnan(dense(train)), ~np.isnan(learn)
    )
    fit = lfm_np.als(
        train, factors=2, iterations=2, init=start(X.shape[0], X.shape[1], 2), dtype="float64", **SHOP.words
    )
    U, V = SHOP.sweeps(learn.astype(np.float32).astype(float), start(X.shape[0], X.shape[1], 2)[1], 2)
    facts["fit"] = close(all_scores(fit), U @ V.T, 1e-7)
    some, hidden = [users[5], users[0]], items[3]
    frame = lfm_np.recommend_frame(fit, data, some, N=7, seen=train, exclude=[hidden])
    mine: dict[str, list[Any]] = {"user": [], "item": [], "rank": []}
    for u in some:
        allowed = np.isnan(learn[users.index(u)])
        allowed[3] = False
        listed = [i for i in best((U @ V.T)[users.index(u)], allowed, 7) if i >= 0]
        mine["user"] += [u] * len(listed)
        mine["item"] += [items[i] for i in listed]
        mine["rank"] += list(range(1, len(listed) + 1))
    got = _read(frame)
    facts["lists"] = all(list(got[name]) == column for name, column in mine.items())
    facts["kind"] = type(frame).__module__.split(".")[0] == kind
    rows = data.rows_of(mine["user"])
    facts["scores"] = close(got["score"], fit.scores(rows, data.columns_of(mine["item"])), 1e-12)
    return wrong(**facts)


def _csv() -> list[str]:
    """Compressed files without names in a folder: "007", a quoted NA that is an id, an empty field that is null."""
    types = {"who": "string", "what": "string"}
    words = {"user": "who", "item": "what", "value": "n", "column_names": ["who", "what", "n"], "column_types": types}
    with folder() as place:
        (place / "in").mkdir()
        with gzip.open(place / "in" / "a.csv.gz", "wt", encoding="utf-8") as file:
            file.write('007;tea;2\n7;tea;4\n007;"NA";1\n007;tea;3\n')
        with gzip.open(place / "in" / "b.csv.gz", "wt", encoding="utf-8") as file:
            file.write('é;"NA";9\n7;jam;\n7;"a;b";5\né;tea;8\nonce;tea;8\n')
        read = lfm_np.Interactions.from_csv
        kept = {"duplicates": "mean", "nulls": "drop", "min_user_interactions": 2}
        data = read(place / "in", delimiter=";", **words, **kept)
        lost = raised(lambda: read(place / "in", delimiter=";", **words))
    mine = np.array([[1, NAN, 2.5], [NAN, 5, 4], [9, NAN, 8]])
    return wrong(
        users=list(data.users) == ["007", "7", "é"], items=list(data.items) == ["NA", "a;b", "tea"],
        cells=np.array_equal(dense(data), mine, equal_nan=True), lost=tells(lost, "null"),
    )  # fmt: skip


def _partitioned(kind: str) -> list[str]:
    """Folders named column=value, types that differ, a stored matrix and interactions of the same files."""
    import pyarrow
    import pyarrow.parquet

    with folder() as place:
        for shop, price, dtype in (("north", [1.0, 2.0, 6.0], "float32"), ("south", [4, 0, 5], "int16")):
            (place / "in" / f"shop={shop}").mkdir(parents=True)
            table = pyarrow.table(
                {"what": ["tea", "jam", "tea"], "price": pyarrow.array(price, dtype), "note": ["x"] * 3}
            )
            pyarrow.parquet.write_table(table, place / "in" / f"shop={shop}" / "part.parquet")
        words = {"user": "shop", "item": "what", "value": "price", "duplicates": kind}
        data = lfm_np.Interactions.from_parquet(place / "in", **words)
        stored = lfm_np.StoredMatrix.from_parquet(place / "in", place / "out", zeros="keep", memory=64 << 20, **words)
        ids = list(stored.users), list(stored.items)
        fit = lfm_np.als(
            lfm_np.StoredMatrix(place / "out"), weighting="ratings", factors=1, iterations=1, regularization=0.5,
            init=(np.ones((2, 1)), np.array([[0.5], [2.0]])),
        )  # fmt: skip
        arrays = [np.load(place / "out" / f"rows.{name}.npy") for name in ("indptr", "indices", "data")]
    table = {
        "max": [[2.0, 6.0], [0.0, 5.0]],
        "mean": [[2.0, 3.5], [0.0, 4.5]],
        "count": [[1.0, 2.0], [1.0, 2.0]],
        "last": [[2.0, 6.0], [0.0, 5.0]],
    }[kind]
    X, V = np.array(table), np.array([[0.5], [2.0]])
    U = X @ V / (4.25 + 0.5)
    W = X.T @ U / ((U**2).sum() + 0.5)
    return wrong(
        ids=ids == (["north", "south"], ["jam", "tea"]) and list(data.users) == ids[0] and list(data.items) == ids[1],
        cells=np.array_equal(dense(data), X) and np.array_equal(arrays[2], X.ravel()),
        places=arrays[0].tolist() == [0, 2, 4] and arrays[1].tolist() == [0, 1, 0, 1],
        fit=close(all_scores(fit), U @ W.T, 1e-5),
    )  # fmt: skip


def _by_time() -> list[str]:
    """The largest set of latest cells within the share; cells of one time stay together."""
    facts = {}
    times = np.array([5, 1, 9, 9, 9, 2, 7, 7, 3, 4])
    data = lfm_np.Interactions.from_arrays(np.arange(10) % 4, np.arange(10), timestamps=times)
    stored = data.timestamps
    order = np.sort(times)
    for share in (0.31, 0.49, 0.51, 0.7, 0.95):
        train, test = data.split("time", test_fraction=share)
        most = max(n for n in range(1, int(share * 10) + 1) if order[10 - n] > order[9 - n])
        facts[str(share)] = test.matrix.nnz == most and train.matrix.nnz == 10 - most
        facts[f"{share} later"] = test.timestamps.min() > train.timestamps.max()
    train, test = data.split("time", at=7)
    facts["at"] = sorted(test.timestamps.tolist()) == [7, 7, 9, 9, 9] and train.shape == test.shape == (4, 10)
    facts["data"] = np.array_equal(stored, data.timestamps) and data.matrix.nnz == 10
    days = lfm_np.Interactions.from_arrays(
        [1, 1, 2], [1, 2, 1], timestamps=np.array(["2024-02-28", "2024-03-01", "2024-02-29"], "M8[D]")
    )
    facts["days"] = days.split("time", at="2024-02-29")[1].matrix.nnz == 2
    facts["dates"] = days.split("time", at=datetime.date(2024, 3, 1))[1].matrix.nnz == 1
    return wrong(**facts)


def _at_random() -> list[str]:
    """Of each user's d cells 0.3·d, rounded down or up such that the mean is exact; one stays."""
    lengths = np.repeat([1, 2, 3, 7], 400)
    users = np.repeat(np.arange(1600), lengths)
    items = np.concatenate([np.arange(d) for d in lengths])
    data = lfm_np.Interactions.from_arrays(users, items, users + 1.0)
    train, test = data.split("random", test_fraction=0.3, random_state=np.random.default_rng(5))
    held, kept = (np.diff(part.matrix.indptr) for part in (test, train))
    facts = {
        "sum": np.array_equal(held + kept, lengths) and kept.min() >= 1,
        "cells": np.array_equal((train.matrix + test.matrix).toarray(), data.matrix.toarray()),
        "again": np.array_equal(
            data.split(test_fraction=0.3, random_state=9)[1].matrix.toarray(),
            data.split(test_fraction=0.3, random_state=9)[1].matrix.toarray(),
        ),
    }
    for d in (2, 3, 7):
        some = held[lengths == d]
        facts[f"{d} rounded"] = set(some.tolist()) <= {int(0.3 * d), int(0.3 * d) + 1}
        part = 0.3 * d % 1
        facts[f"{d} mean"] = bool(abs(some.mean() - 0.3 * d) < 5 * np.sqrt(part * (1 - part) / 400))
    first = test.matrix[:, [0]].toarray().ravel()[lengths == 7].mean() > 0
    return wrong(**facts, first=first)


def _many_kinds(*asked: str) -> list[str]:
    """Ids come back as they were: dates, decimals, booleans, bytes, UUIDs, floats, categories."""
    import pyarrow

    kinds: dict[str, list[Any]] = {
        "dates": [datetime.date(2024, 1, 2), datetime.date(1969, 12, 31), datetime.date(2024, 1, 2)],
        "decimals": [Decimal("1.10"), Decimal("-2.25"), Decimal("1.10")],
        "booleans": [True, False, True],
        "bytes": [b"\x00\xff", b"\x00", b"\x00\xff"],
        "floats": [0.1, -1e300, 0.1],
        "integers": [2**62 + 1, -5, 2**62 + 1],
        "uuids": [uuid.UUID(int=2**100), uuid.UUID(int=7), uuid.UUID(int=2**100)],
    }
    found = []
    for kind in asked or set(kinds) - {"uuids"}:
        ids = kinds[kind]
        column = pyarrow.array([i.bytes for i in ids], pyarrow.binary(16)) if kind == "uuids" else pyarrow.array(ids)
        if kind == "uuids":
            column = pyarrow.ExtensionArray.from_storage(pyarrow.uuid(), column)
        table = pyarrow.table({"user": ["a", "b", "c"], "item": column})
        data = lfm_np.Interactions.from_frame(table)
        model = lfm_np.Factors(np.ones((3, 1)), np.array([[1.0], [2.0]]))
        back = lfm_np.recommend_frame(model, data, ["c"], N=2).to_pydict()["item"]
        low, high = sorted(set(ids))
        if kind == "uuids":
            back = [i if isinstance(i, uuid.UUID) else uuid.UUID(bytes=i) for i in back]
        if back != [high, low] or data.columns_of(data.items[[1, 0]]).tolist() != [1, 0]:
            found.append(f"{kind}: {back}")
    return found


def _to_file() -> list[str]:
    """Lists of everybody in a file: only some items, no padding, ranks from 1, a file there before is replaced."""
    import pyarrow.parquet

    records = _records(90, seed=3)
    data = lfm_np.Interactions.from_arrays([r[0] for r in records], [str(r[1]) for r in records])
    model = lfm_np.Factors(
        np.random.default_rng(1).normal(size=(data.shape[0], 2)),
        np.random.default_rng(2).normal(size=(data.shape[1], 2)),
    )
    only = list(data.items[[1, 4, 6]])
    with folder() as place:
        for N in (1, 5):
            lfm_np.recommend_parquet(model, data, place / "lists", N=N, seen=data, items=only)
        got = pyarrow.parquet.read_table(place / "lists").to_pydict()
        left = sorted(os.listdir(place))
    allowed = np.isnan(dense(data))
    allowed[:, [0, 2, 3, 5, *range(7, data.shape[1])]] = False
    mine = [[i for i in best(s, a, 5) if i >= 0] for s, a in zip(all_scores(model), allowed, strict=True)]
    return wrong(
        users=got["user"] == [u for u, row in zip(data.users, mine, strict=True) for _ in row],
        items=got["item"] == [data.items[i] for row in mine for i in row], left=left == ["lists"],
        ranks=got["rank"] == [r for row in mine for r in range(1, len(row) + 1)],
        scores=close(got["score"], [all_scores(model)[u, i] for u, row in enumerate(mine) for i in row], 1e-12),
    )  # fmt: skip


def _unknown(how: str) -> list[str]:
    """Values and times that nobody knows, three records of a pair."""
    values, times = [NAN, 3.0, 1.0, 5.0], np.array(["NaT", "2024-01-02", "2024-01-01", "NaT"], "M8[s]")
    data = lfm_np.Interactions.from_arrays(list("aaab"), ["x"] * 4, values, times, duplicates=how)
    first = {"sum": NAN, "mean": NAN, "last": 3.0, "count": 3.0}[how]
    unknown = raised(lambda: data.split("last"))
    known = data.select(~np.isnan(data.matrix.data))
    return wrong(
        value=np.array_equal(data.matrix.data, [first, 1.0 if how == "count" else 5.0], equal_nan=True),
        times=data.timestamps[0] == np.datetime64("2024-01-02") and bool(np.isnat(data.timestamps[1])),
        unknown=tells(unknown, "time"),
        known=known.matrix.nnz == (1 if first != first else 2) and known.shape == (2, 1),
        ones=data.binarize().matrix.data.tolist() == [1.0, 1.0],
    )  # fmt: skip


def _core(users: int, items: int) -> list[str]:
    """What is left when nobody is short any more, with its times; ids, not rows, stay."""
    cells = {(u, i): t for u, i, _, t in _records(70, seed=8)}
    pairs = sorted(cells)
    data = lfm_np.Interactions.from_arrays(
        [c[0] for c in pairs], [c[1] for c in pairs], timestamps=[cells[c] for c in pairs]
    )
    left, size = set(pairs), -1
    while len(left) != size:
        size = len(left)
        left = {c for c in left if sum(d[0] == c[0] for d in left) >= users}
        left = {c for c in left if sum(d[1] == c[1] for d in left) >= items}
    part = data.core(min_user_interactions=users, min_item_interactions=items)
    rows = np.repeat(part.users, np.diff(part.matrix.indptr))
    found = {
        (str(u), int(i)): int(t) for u, i, t in zip(rows, part.items[part.matrix.indices], part.timestamps, strict=True)
    }
    return wrong(
        cells=found == {c: cells[c] for c in left}, ids=part.users.tolist() == sorted({c[0] for c in left}),
        there=0 < len(left) < len(pairs), still=data.matrix.nnz == len(pairs),
    )  # fmt: skip


@contextmanager
def _data_in(place: Path) -> Iterator[None]:
    before = os.environ.get("LFM_NP_DATA")
    os.environ["LFM_NP_DATA"] = str(place)
    try:
        yield
    finally:
        if before is None:
            del os.environ["LFM_NP_DATA"]
        else:
            os.environ["LFM_NP_DATA"] = before


def _own_films() -> list[str]:
    """A file of one's own in place of MovieLens: films numbered otherwise, ratings that are not known, a fold."""
    user, item = np.array([1, 0, 1, 2, 0]), np.array([2, 0, 0, 1, 1])
    value, seconds = np.array([5.0, 3, 1, 4, 2], np.float32), np.array([50, 10, 20, 40, 30])
    known = np.array([True, True, False, True, True])
    test = np.array([True, False, False, True, False])
    with folder() as place, _data_in(place):
        np.savez(
            place / "ml-100k.npz", user=user, item=item, value=value, timestamp=seconds, known=known,
            movie_id=np.array([70, 20, 90])[item], u3_test=test,
        )  # fmt: skip
        data, records = lfm_np.datasets.movielens("100k"), lfm_np.datasets.movielens_records("100k")
        split = lfm_np.datasets.movielens_split("100k", "u3")
    ids = np.array([70, 20, 90])[item]
    cells = {(u, i): x for u, i, x in zip(user.tolist(), ids.tolist(), np.where(known, value, NAN), strict=True)}
    users = sorted(data.users.tolist())
    shift = users[0]
    X = _square({(u + shift, i): x for (u, i), x in cells.items()}, users, [20, 70, 90])
    stored = data.matrix.toarray()
    held = split.test.matrix
    return wrong(
        items=data.items.tolist() == [20, 70, 90] and data.shape == (3, 3),
        values=np.array_equal(stored[~np.isnan(X)], X[~np.isnan(X)]) and int(np.isnan(stored).sum()) == 1,
        order=records.items.tolist() == ids.tolist(),
        told=np.array_equal(records.values, np.where(known, value, NAN), equal_nan=True),
        times=np.array_equal(records.timestamps, np.where(known, seconds, NAN), equal_nan=True),
        fold=held.toarray().tolist() == [[0, 0, 0], [0, 0, 5], [4, 0, 0]],
        rest=held.nnz == 2 and split.train.matrix.nnz == 3,
        none=split.negatives is None,
    )  # fmt: skip


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    yield _holds("a split by time at every share", _by_time)
    yield _holds("a split at random of 1,600 users", _at_random)
    for how in ("sum", "mean", "last", "count"):
        yield _holds(f"what nobody knows, {how}", lambda a=how: _unknown(a))
    for users, items in ((2, 3), (4, 1), (3, 6)):
        yield _holds(f"a core of {users} and {items} with times", lambda a=users, b=items: _core(a, b))
    yield _holds("films of one's own", _own_films)
    if installed("pyarrow", "narwhals"):
        for kind, how in (
            ("pandas", "last"),
            ("polars", "mean"),
            ("pyarrow", "max"),
            ("polars", "count"),
            ("pandas", "sum"),
        ):
            if installed(kind):
                yield _holds(f"a day with {kind}, {how}", lambda a=kind, b=how: _day(a, b))
        yield _holds("compressed files without names", _csv)
        for kind in ("max", "mean", "count", "last"):
            yield _holds(f"folders that are users, {kind}", lambda a=kind: _partitioned(a))
        yield _holds("ids of six kinds there and back", _many_kinds)
        yield _holds("UUIDs there and back", lambda: _many_kinds("uuids"))
        yield _holds("lists of everybody in a file", _to_file)
