"""Options of tables, stored matrices and pairs that are rarely used together, beside dictionaries."""

from __future__ import annotations

import datetime as dt
import gzip
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import scipy.sparse as sp

from .case import Case, installed
from .cases_pairs_of_solvers import PAIRS, Ask, lfm_np, near, scores_of
from .working_days import faultless, folder, raised, start, wrong

_holds = faultless(PAIRS)
Record = tuple[Any, Any, Any, Any]
Cells = dict[tuple[Any, Any], tuple[float, Any]]
DAY = dt.datetime(2024, 5, 1)


def records(seed: int, nulls: str = "", count: int = 60) -> list[Record]:
    """User, item, value, time; several of a pair, equal times, nulls in columns whose first letters are given."""
    draw = np.random.default_rng(seed)
    users, out = ["007", "7", "ann", "Ann", "zoë", "b b"], []
    for _ in range(count):
        row = [
            users[draw.integers(6)],
            int(draw.integers(1, 7) * 10),
            float(draw.integers(-8, 20)) / 4,
            DAY + dt.timedelta(hours=int(draw.integers(0, 30))),
        ]
        for place, letter in enumerate("uivt"):
            if letter in nulls and draw.random() < 0.12:
                row[place] = None
        out.append(tuple(row))
    return out


def gathered(rows: list[Record], duplicates: str, nulls: str, mins: tuple[int, int], value: bool, timed: bool) -> Cells:
    """What becomes of the records, one dictionary entry a pair."""
    by: dict[tuple[Any, Any], list[tuple[float, Any, int]]] = {}
    for order, (user, item, x, t) in enumerate(rows):
        x, t = (x if value else 1.0), (t if timed else 0)
        if nulls == "drop" and None in (user, item, x, t):
            continue
        by.setdefault((user, item), []).append((math.nan if x is None else x, t, order))
    cells: Cells = {}
    for pair, many in by.items():
        times = [t for _, t, _ in many if t is not None]
        values = [x for x, _, _ in many]
        last = max(many, key=lambda one: (one[1] is not None, one[1] if one[1] is not None else 0, one[2]))
        cells[pair] = (
            {
                "sum": lambda values=values: math.fsum(values),
                "mean": lambda values=values: math.fsum(values) / len(values),
                "max": lambda values=values: max(values),
                "count": lambda values=values: float(len(values)),
                "last": lambda last=last: last[0],
            }[duplicates](),
            max(times) if times else None,
        )
    while True:
        users = [user for user, _ in cells]
        short = {user for user in users if users.count(user) < mins[0]}
        cells = {pair: cell for pair, cell in cells.items() if pair[0] not in short}
        items = [item for _, item in cells]
        few = {item for item in items if items.count(item) < mins[1]}
        cells = {pair: cell for pair, cell in cells.items() if pair[1] not in few}
        if not short and not few:
            return cells


def told(data: Any, timed: bool) -> Cells:
    coo = data.matrix.tocoo()
    when: list[Any] = [0] * coo.nnz
    if timed:
        stamps = data.timestamps.astype("datetime64[us]")
        when = [None if np.isnat(t) else t.item() for t in stamps]
    users, items = data.users.tolist(), data.items.tolist()
    return {(users[u], items[i]): (float(x), t) for u, i, x, t in zip(*coo.coords, coo.data, when, strict=True)}


def alike(found: Cells, mine: Cells) -> bool:
    def same(a: float, b: float) -> bool:
        return (math.isnan(a) and math.isnan(b)) or float(np.float32(b)) == a

    return set(found) == set(mine) and all(same(found[p][0], mine[p][0]) and found[p][1] == mine[p][1] for p in mine)


def _source(kind: str, rows: list[Record], place: Path, zone: Any = None) -> Any:
    """The reader of `Interactions` and what it is to read."""
    names = ("who", "what", "how much", "when")
    columns: dict[str, Any] = {name: [row[i] for row in rows] for i, name in enumerate(names)}
    if zone is not None:
        columns["when"] = [t.replace(tzinfo=dt.UTC).astimezone(zone) for t in columns["when"]]
    if kind == "csv":
        text = "\n".join(";".join("" if x is None else str(x) for x in row) for row in rows)
        (place / "rows.csv.gz").write_bytes(gzip.compress(text.encode()))
        words: dict[str, Any] = {"delimiter": ";", "column_names": names, "column_types": {"who": "string"}}
        return lambda **more: lfm_np.Interactions.from_csv(place / "rows.csv.gz", **words, **more)
    if kind == "parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        half = len(rows) // 2
        (place / "files").mkdir()
        for name, part in (("a", slice(0, half)), ("b", slice(half, None))):
            table = pa.table({column: values[part] for column, values in columns.items()})
            if name == "b":  # types differ from file to file
                table = table.set_column(1, "what", table["what"].cast(pa.int16()))
                table = table.set_column(2, "how much", table["how much"].cast(pa.float32()))
            pq.write_table(table, place / "files" / f"{name}.parquet", row_group_size=7)
        return lambda **more: lfm_np.Interactions.from_parquet(place / "files", **more)
    if kind == "pyarrow":
        import pyarrow as pa

        frame: Any = pa.table(columns)
    elif kind == "polars":
        import polars

        frame = polars.DataFrame(columns).lazy()
    else:
        import pandas

        frame = pandas.DataFrame(columns)
        if any(x is None for x in columns["what"]):
            frame["what"] = frame["what"].astype("Int64")
    return lambda **more: lfm_np.Interactions.from_frame(frame, **more)


def _table(kind: str, duplicates: str, nulls: str, has: str, mins: Any, named: str, zone: Any) -> list[str]:
    rows, value, timed = records(0, has), "v" in named, "t" in named
    words: dict[str, Any] = {"user": "who", "item": "what", "duplicates": duplicates, "nulls": nulls}
    words |= {"value": "how much"} if value else {}
    words |= {"timestamp": "when"} if timed else {}
    words |= {"min_user_interactions": mins[0], "min_item_interactions": mins[1]}
    with folder() as place:
        data = _source(kind, rows, place, zone)(**words)
    mine = gathered(rows, duplicates, nulls, mins, value, timed)
    users, items = sorted({user for user, _ in mine}), sorted({item for _, item in mine})
    return wrong(
        cells=alike(told(data, timed), mine),
        ids=data.users.tolist() == users and data.items.tolist() == items,
        times=timed or data.timestamps is None,
    )


def _arrays(duplicates: str, dtype: str) -> list[str]:
    """Times of a kind each, unknown ones among them, and unknown values."""
    rows = records(3, "vt")
    values = np.array([math.nan if x is None else x for _, _, x, _ in rows])
    hours = [None if t is None else int((t - DAY).total_seconds()) // 3600 for *_, t in rows]
    stamps: Any = np.array(["NaT" if h is None else str(DAY + dt.timedelta(hours=h)) for h in hours], "datetime64[s]")
    if dtype == "float":
        stamps = np.array([math.nan if h is None else float(h) for h in hours])
    data = lfm_np.Interactions.from_arrays(
        [r[0] for r in rows], [r[1] for r in rows], values, stamps, duplicates=duplicates
    )
    mine = gathered(rows, duplicates, "keep", (1, 1), True, True)
    if dtype != "float":
        return wrong(cells=alike(told(data, True), mine))
    plain = told(data, False)
    coo = data.matrix.tocoo()
    found = {
        (data.users[u], int(data.items[i])): None if math.isnan(t) else DAY + dt.timedelta(hours=float(t))
        for u, i, t in zip(*coo.coords, data.timestamps, strict=True)
    }
    return wrong(
        values=alike({p: (plain[p][0], None) for p in plain}, {p: (mine[p][0], None) for p in mine}),
        times=found == {p: mine[p][1] for p in mine},
    )


def _stored(duplicates: str, nulls: str, zeros: str, value: bool) -> list[str]:
    """A stored matrix of records: its files of rows and of columns, and its ids."""
    rows = [
        (u, i, None if x is None else float(round(x)), t) for u, i, x, t in records(5, "uv" if nulls == "drop" else "")
    ]
    if duplicates == "error":
        rows = list({row[:2]: row for row in rows}.values())
    with folder() as place:
        _source("parquet", rows, place)
        words: dict[str, Any] = {"value": "how much"} if value else {}
        stored = lfm_np.StoredMatrix.from_parquet(
            place / "files", place / "matrix", user="who", item="what", duplicates=duplicates, nulls=nulls, zeros=zeros,
            memory=128 << 20, **words,
        )  # fmt: skip
        parts = [
            np.load(place / "matrix" / f"{side}.{name}.npy")
            for side in ("rows", "columns")
            for name in ("data", "indices", "indptr")
        ]
        users, items = (np.asarray(ids).tolist() for ids in (stored.users, stored.items))
        shape, nnz = stored.shape, stored.nnz
    if not value:  # a column that is not named has no nulls
        rows = [(u, i, 1.0, t) for u, i, _, t in rows]
    kept = [row for row in rows if None not in row[:3]]
    mine = gathered(kept, "last" if duplicates == "error" else duplicates, "error", (1, 1), True, False)
    who, what = sorted({u for u, _ in mine}), sorted({i for _, i in mine})
    mine = {pair: cell for pair, cell in mine.items() if zeros == "keep" or cell[0] != 0}
    found = []
    for side, turned in ((parts[:3], False), (parts[3:], True)):
        size = (len(items), len(users)) if turned else (len(users), len(items))
        coo = sp.csr_array(tuple(side), shape=size).tocoo()
        pairs = coo.coords[::-1] if turned else coo.coords
        found.append({(users[u], items[i]): (float(x), 0) for u, i, x in zip(*pairs, coo.data, strict=True)})
    return wrong(
        rows=alike(found[0], mine),
        columns=alike(found[1], mine),
        nnz=nnz == len(mine),
        ids=users == who and items == what,
        shape=shape == (len(who), len(what)),
    )


def _stored_fit() -> list[str]:
    """Ratings of a table on the disk, zero among them, fitted with biases."""
    rows = [(u, i, float(round(x)), t) for u, i, x, t in records(8)]
    ask = Ask("ratings", lam=0.3, nu=1.0, biases=True)
    mine = gathered(rows, "max", "error", (1, 1), True, False)
    users, items = sorted({u for u, _ in mine}), sorted({i for _, i in mine})
    X = np.full((len(users), len(items)), np.nan)
    for (u, i), (x, _) in mine.items():
        X[users.index(u), items.index(i)] = x
    with folder() as place:
        _source("parquet", rows, place)
        stored = lfm_np.StoredMatrix.from_parquet(
            place / "files", place / "matrix", user="who", item="what", value="how much", duplicates="max", zeros="keep"
        )
        begin = tuple(f.astype(np.float32) for f in start(*X.shape, 2))
        fit = lfm_np.als(stored, factors=2, iterations=2, init=begin, **ask.words)
    return wrong(
        zeros=(X == 0).any(), scores=near(scores_of(fit), ask.sweeps(X, begin[1].astype(np.float64), 2).scores, 1e-3)
    )


def _csr(duplicates: str, values: Any, dtype: Any, shape: Any) -> list[str]:
    draw = np.random.default_rng(2)
    pairs = draw.integers(0, 6, (40, 2)).astype(dtype)
    given = None if values is None else draw.choice(values, 40)
    X = lfm_np.to_csr(pairs, shape=shape, values=given, duplicates=duplicates)
    rows = [
        (int(u), int(i), 1.0 if given is None else float(given[k]), None) for k, (u, i) in enumerate(pairs.tolist())
    ]
    mine = gathered(rows, duplicates, "keep", (1, 1), True, False)
    found = {(int(u), int(i)): (float(x), 0) for u, i, x in zip(*X.tocoo().coords, X.data, strict=True)}
    return wrong(
        cells=alike(found, mine),
        shape=X.shape == (shape or tuple(int(size) + 1 for size in pairs.max(0))),
        canonical=X.has_canonical_format and X.indices.dtype == np.int32 and X.dtype == np.float32,
    )


def _dictionary(dtype: Any) -> list[str]:
    pairs = np.random.default_rng(3).integers(0, 9, (50, 2)).astype(dtype)[::-1]
    found = lfm_np.build_dict(pairs)
    mine = {i: sorted({j for a, j in pairs.tolist() if a == i}) for i in sorted({i for i, _ in pairs.tolist()})}
    return wrong(
        same=list(found) == list(mine) and all(found[i].tolist() == mine[i] for i in mine),
        dtype=all(row.dtype == np.dtype(dtype) and not row.flags.writeable for row in found.values()),
    )


def _chosen() -> list[str]:
    """Known values, then at least 2, then a core, then ids with some that are missing."""
    rows = records(9, "v", 90)
    data = lfm_np.Interactions.from_arrays(
        [r[0] for r in rows],
        [r[1] for r in rows],
        [math.nan if r[2] is None else r[2] for r in rows],
        duplicates="last",
    )
    cells = gathered(rows, "last", "keep", (1, 1), True, False)
    for threshold, mins in ((2.0, (3, 1)), (1.25, (2, 4))):
        liked = data.binarize(threshold).core(*mins)
        kept = [(u, i, 1.0, None) for (u, i), (x, _) in cells.items() if x >= threshold]
        mine = gathered(kept, "last", "keep", mins, True, False)
        if not alike(told(liked, False), mine):
            return [f"core of {threshold}"]
    known = data.select(~np.isnan(data.matrix.data))
    users = ["nobody", "zoë", "007", "zoë"]
    columns = np.array([[0, -1], [len(data.items) - 1, 0]])
    return wrong(
        known=alike(told(known, False), {pair: cell for pair, cell in cells.items() if not math.isnan(cell[0])}),
        rows=data.rows_of(users, missing=-1).tolist() == [-1, *(data.users.tolist().index(u) for u in users[1:])],
        ids=data.item_ids(columns, missing=-7).tolist()
        == [[int(data.items[0]), -7], [int(data.items[-1]), int(data.items[0])]],
        error="nobody" in str(raised(lambda: data.rows_of(users))),
    )


def _held_out(most: int, fraction: float) -> list[str]:
    """All pairs are distinct, every row keeps one, and no more than the share is held out."""
    train, test = lfm_np.datasets.make_interactions_train_test(60, 7, most, test_fraction=fraction, random_state=4)
    pairs = [tuple(p) for p in np.concatenate([train, test]).tolist()]
    lengths = np.bincount([i for i, _ in pairs], minlength=60)
    return wrong(
        distinct=len(set(pairs)) == len(pairs),
        every=set(train[:, 0].tolist()) == set(range(60)),
        lengths=lengths.min() >= 1 and lengths.max() <= most,
        share=len(test) <= math.ceil(fraction * len(pairs)) and (len(test) == 0 or (fraction > 0 and most > 1)),
        sorted=all((np.lexsort(part.T[::-1]) == np.arange(len(part))).all() for part in (train, test)),
        dtype=train.dtype == test.dtype == np.int32 and test.shape[1] == 2,
    )


def _published(split: str) -> list[str]:
    """A split of MovieLens beside the arrays of its file, liked cells only."""
    with np.load(Path(os.environ["LFM_NP_DATA"]) / "ml-100k.npz") as file:
        user, item, value, held = (file[name] for name in ("user", "item", "value", f"{split}_test"))
    found = lfm_np.datasets.movielens_split("100k", split)
    facts = {"negatives": found.negatives is None}
    for name, part, mask in (("train", found.train, ~held), ("test", found.test, held)):
        liked = part.binarize(threshold=4)
        keep = mask & (value >= 4)
        mine = sp.csr_array((np.ones(keep.sum(), np.float32), (user[keep], item[keep])), shape=(943, 1682))
        facts[name] = liked.shape == mine.shape and abs(liked.matrix - mine).sum() == 0 and liked.matrix.nnz == mine.nnz
    return wrong(**facts)


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    if installed("pyarrow", "narwhals", "pandas", "polars"):
        one, berlin = (1, 1), ZoneInfo("Europe/Berlin")
        for name, kind, duplicates, nulls, has, mins, named, zone in (
            ("last by time, nulls kept, lazy", "polars", "last", "keep", "vt", one, "vt", None),
            ("sum, nulls kept", "pandas", "sum", "keep", "v", one, "v", None),
            ("mean, nulls dropped everywhere, cores", "pyarrow", "mean", "drop", "uivt", (2, 2), "vt", None),
            ("count of dropped nulls, null integers", "pandas", "count", "drop", "uiv", one, "v", None),
            ("last by time of a zone", "pandas", "last", "error", "", one, "vt", berlin),
            ("max of times of a zone, a core of items", "polars", "max", "error", "", (1, 5), "vt", berlin),
            ("two types, last by time, nulls dropped", "parquet", "last", "drop", "uvt", one, "vt", None),
            ("two types, mean, cores of both", "parquet", "mean", "error", "", (5, 4), "v", None),
            ("two types, count, nulls kept, times", "parquet", "count", "keep", "vt", one, "t", None),
            ("compressed, without names, last by time", "csv", "last", "drop", "vt", one, "vt", None),
            ("compressed, without names, sum, cores", "csv", "sum", "error", "", (5, 4), "v", None),
            ("compressed, max, nulls dropped, a core", "csv", "max", "drop", "iv", (3, 1), "v", None),
        ):
            yield _holds(
                f"tables: {kind}, {name}", lambda a=(kind, duplicates, nulls, has, mins, named, zone): _table(*a)
            )
        for duplicates, nulls, zeros, value in (
            ("mean", "drop", "keep", True),
            ("last", "error", "drop", True),
            ("count", "drop", "keep", False),
            ("error", "drop", "drop", True),
            ("sum", "error", "keep", True),
        ):
            yield _holds(
                f"tables: stored, {duplicates}, nulls {nulls}, zeros {zeros}, {'values' if value else 'no values'}",
                lambda a=(duplicates, nulls, zeros, value): _stored(*a),
            )
        yield _holds("tables: stored, the largest of ratings, biases", _stored_fit)
    for duplicates, dtype in (("last", "float"), ("last", "datetime"), ("sum", "datetime"), ("count", "float")):
        yield _holds(
            f"tables: arrays, {duplicates}, unknown values and {dtype} times", lambda a=(duplicates, dtype): _arrays(*a)
        )
    for duplicates, values, dtype, shape in (
        ("mean", (1e8, 1.0, -1e8), np.uint8, None),
        ("sum", (16777216.0, 1.0, -16777216.0), np.int64, (9, 7)),
        ("max", (-3.0, -1.5, -7.0), np.int16, (6, 2**31 - 1)),
        ("count", (0.0, 5.0), np.uint32, (1000, 6)),
        ("last", (0.0, -2.0), np.int8, None),
    ):
        yield _holds(
            f"tables: to_csr, {duplicates}, {np.dtype(dtype)}, {shape}",
            lambda a=(duplicates, values, dtype, shape): _csr(*a),
        )
    yield _holds("tables: build_dict backwards, uint8", lambda: _dictionary(np.uint8))
    yield _holds("tables: known, liked, in a core, and ids that are missing", _chosen)
    for most, fraction in ((1, 0.5), (7, 0.0), (7, 0.9)):
        yield _holds(f"tables: up to {most} of 7, {fraction} held out", lambda a=(most, fraction): _held_out(*a))
    if "LFM_NP_DATA" in os.environ:
        for split in ("u3", "ub"):
            yield _holds(f"tables: the liked cells of {split}", lambda a=split: _published(a))
