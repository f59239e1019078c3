"""A reviewer's programs, each to show a promise of the pages false: tables, unknown values, cores and splits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from .case import Case, Group, installed
from .sentences_by_numpy import lfm_np, ranked
from .working_days import NAN, faultless, folder, wrong

_GROUP = Group("the reviewer's bench")
_holds = faultless(_GROUP)
Cells = dict[tuple[Any, Any], Any]


def _core(cells: Cells, users: int, items: int) -> Cells:
    """'leave out users and items with fewer cells, until nothing changes'."""
    while True:
        kept = dict(cells)
        for side, least in ((0, users), (1, items)):
            has: dict[Any, int] = {}
            for cell in kept:
                has[cell[side]] = has.get(cell[side], 0) + 1
            kept = {cell: x for cell, x in kept.items() if has[cell[side]] >= least}
        if len(kept) == len(cells):
            return kept
        cells = kept


def _records(seed: int, count: int = 300) -> list[tuple[str, int, float, np.datetime64]]:
    """User, item, value (some NaN) and time, of which several are equal; pairs come again."""
    draw = np.random.default_rng(seed)
    users = [f"u{u}" for u in (draw.random(count) ** 2 * 40).astype(int)]
    items = (draw.random(count) ** 2 * 20).astype(int) * 5 - 20
    values = np.where(draw.random(count) < 0.15, NAN, draw.integers(1, 40, count) / 8)
    times = np.datetime64("2024-02-27T23:00:00", "ms") + draw.integers(0, 60, count).astype("timedelta64[h]")
    return list(zip(users, items.tolist(), values.tolist(), times, strict=True))


def _asked(data: Any) -> Cells:
    rows, columns = data.matrix.tocoo().coords
    times = [None] * len(rows) if data.timestamps is None else data.timestamps.astype("datetime64[s]").tolist()
    values = data.matrix.data.astype(float).tolist()
    users, items = data.users.tolist(), data.items.tolist()
    return {(users[r], items[c]): (x, t) for r, c, x, t in zip(rows, columns, values, times, strict=True)}


def _from_a_frame(library: str) -> list[str]:
    """Your data: '`nulls="drop"`', '`duplicates="last"` … with timestamps the latest', 'users and items with fewer
    cells', all at once; and Tutorial: 'pandas or polars where the data came from there', after `binarize`, `core`
    and `split`."""
    records = _records(1)
    columns: dict[str, Any] = {
        "who": [r[0] for r in records], "what": [r[1] for r in records],
        "x": [None if np.isnan(r[2]) else r[2] for r in records], "when": np.array([r[3] for r in records]),
    }  # fmt: skip
    frame: Any
    if library == "pandas":
        import pandas as pd

        frame = pd.DataFrame(columns)
    elif library == "polars":
        import polars as pl

        frame = pl.DataFrame(columns)
    else:
        import pyarrow as pa

        frame = pa.table(columns)
    data = lfm_np.Interactions.from_frame(
        frame, "who", "what", "x", "when", duplicates="last", nulls="drop", min_user_interactions=3,
        min_item_interactions=4,
    )  # fmt: skip
    cells: Cells = {}
    for u, i, x, t in records:
        if not np.isnan(x) and ((u, i) not in cells or t >= cells[u, i][1]):
            cells[u, i] = (x, t)
    cells = _core({cell: (x, t.astype("datetime64[s]").item()) for cell, (x, t) in cells.items()}, 3, 4)
    users, items = sorted({u for u, _ in cells}), sorted({i for _, i in cells})
    good = _core({cell: (1.0, t) for cell, (x, t) in cells.items() if x >= 2.5}, 2, 1)
    liked = data.binarize(threshold=2.5).core(min_user_interactions=2)
    train, test = liked.split("time", at="2024-02-29")
    late = {cell: x for cell, x in good.items() if x[1].isoformat() >= "2024-02-29"}
    draw = np.random.default_rng(2)
    U, V = (draw.integers(-2, 3, (size, 2)).astype(float) for size in liked.shape)
    best = lfm_np.recommend_frame(lfm_np.Factors(U, V), train, liked.users[::-1], N=50, seen=train)
    names, columns_of = sorted({u for u, _ in good}), sorted({i for _, i in good})
    rows = []
    for u in names[::-1]:
        s = V @ U[names.index(u)]
        left = [c for c, i in enumerate(columns_of) if (u, i) not in good or (u, i) in late]
        rows += [(u, columns_of[c], float(s[c]), r) for r, c in enumerate(ranked(s, left, len(left)), 1)]
    found = list(zip(*(list(best[name].to_numpy()) for name in ("user", "item", "score", "rank")), strict=True))
    return wrong(
        ids=data.users.tolist() == users and data.items.tolist() == items,
        cells=_asked(data) == cells and 50 < len(cells) < 200,
        liked=_asked(liked) == good,
        late=_asked(test) == late and 0 < len(late) < len(good),
        early=len(_asked(train)) == len(good) - len(late),
        library=type(best).__module__.split(".")[0] == library,
        lists=found == rows,
    )


def _alike(a: tuple[float, float], b: tuple[float, float]) -> bool:
    """NaN where NaN is, and else equal to float32."""
    return all(
        np.isnan(x) == np.isnan(y) and (np.isnan(x) or abs(x - y) <= 1e-6 * abs(y)) for x, y in zip(a, b, strict=True)
    )


def _unknown(duplicates: str) -> list[str]:
    """`from_arrays`: 'A NaN makes the sum, mean or maximum NaN', 'the cell gets the latest time whatever becomes of
    the values', 'an unknown time counts as earliest, and equal times count in the order given'; then
    `binarize(threshold)`."""
    draw = np.random.default_rng(3)
    users, items = draw.integers(0, 12, 200) * 3, draw.integers(0, 7, 200)
    values = np.where(draw.random(200) < 0.2, NAN, draw.integers(1, 6, 200))
    times = np.where(draw.random(200) < 0.2, NAN, draw.integers(0, 5, 200))
    data = lfm_np.Interactions.from_arrays(users, items, values, times, duplicates=duplicates)
    of: dict[tuple[int, int], list[tuple[float, float]]] = {}
    for u, i, x, t in zip(users.tolist(), items.tolist(), values.tolist(), times.tolist(), strict=True):
        of.setdefault((u, i), []).append((x, t))
    combine: Any = {"sum": sum, "mean": np.mean, "count": len, "max": np.max}.get(duplicates)
    mine = {}
    for cell, records in of.items():
        xs = [x for x, _ in records]
        order = sorted(range(len(records)), key=lambda j: (-1.0 if np.isnan(records[j][1]) else records[j][1], j))
        mine[cell] = (float(xs[order[-1]] if combine is None else combine(xs)), records[order[-1]][1])
    liked = data.binarize(threshold=3)
    faults = []
    for name, found, right in (
        ("cells", data, mine),
        ("liked", liked, {cell: (1.0, t) for cell, (x, t) in mine.items() if x >= 3}),
    ):
        coo = found.matrix.tocoo()
        told = {
            (int(found.users[r]), int(found.items[c])): (float(x), float(t))
            for r, c, x, t in zip(*coo.coords, coo.data, found.timestamps, strict=True)
        }
        faults += wrong(**{name: told.keys() == right.keys() and all(_alike(told[c], right[c]) for c in right)})
    return faults


def _in_float64() -> list[str]:
    """`to_csr`: 'Sums and means are accumulated in float64': 2²⁴ + 1 + 1, which float32 adds up to 2²⁴."""
    pairs, values = [(1, 2), (1, 2), (1, 2), (0, 0)], [2.0**24, 1.0, 1.0, 5.0]
    users, items = [u for u, _ in pairs], [i for _, i in pairs]
    faults = []
    for duplicates, mine in (("sum", 2.0**24 + 2), ("mean", 5592406.0)):
        found = {
            "to_csr": lfm_np.to_csr(pairs, (2, 3), values, duplicates).toarray()[1, 2],
            "from_arrays": lfm_np.Interactions.from_arrays(users, items, values, duplicates=duplicates).matrix.data[1],
        }
        if installed("pyarrow", "narwhals"):
            import pyarrow as pa
            import pyarrow.parquet as pq

            table = pa.table({"user": users, "item": items, "x": values})
            found["from_frame"] = lfm_np.Interactions.from_frame(table, value="x", duplicates=duplicates).matrix.data[1]
            with folder() as place:
                pq.write_table(table, place / "t.parquet", row_group_size=1)
                words = {"value": "x", "duplicates": duplicates}
                found["from_parquet"] = lfm_np.Interactions.from_parquet(place / "t.parquet", **words).matrix.data[1]
                lfm_np.StoredMatrix.from_parquet(place / "t.parquet", place / "m", memory=40 << 20, **words)
                found["stored"] = np.load(place / "m" / "rows.data.npy")[1]
        faults += [f"{name}, {duplicates}: {x}" for name, x in found.items() if float(x) != mine]
    return faults


def _too_few_to_hold_out() -> list[str]:
    """`make_interactions_train_test`: 'where there are too few others, all of them are held out'; 'a share of all
    pairs'."""
    faults = []
    for m, n, most, share, seed in ((40, 9, 3, 0.9, 0), (40, 9, 9, 0.37, 1), (1, 7, 7, 0.5, 2), (5, 3, 1, 0.5, 3)):
        pairs = lfm_np.datasets.make_interactions(m, n, most, random_state=seed)
        train, test = lfm_np.datasets.make_interactions_train_test(m, n, most, share, random_state=seed)
        both = sorted(map(tuple, np.vstack([train, test]).tolist()))
        count = len(both)
        faults += wrong(
            **{
                f"held out of {m}": abs(len(test) - min(share * count, count - m)) <= 0.5,
                f"every row of {m}": np.array_equal(np.unique(train[:, 0]), np.arange(m)),
                f"distinct in {m}": len(set(both)) == count and len(np.unique(pairs[:, 0])) == m,
            }
        )
    return faults


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    for library in ("pandas", "polars"):
        if installed(library, "narwhals", "pyarrow"):
            yield _holds(f"records, cores, likes, days and lists: {library}", lambda name=library: _from_a_frame(name))
    yield _holds("unknown values and times: the last", lambda: _unknown("last"))
    others = ("sum", "mean", "max", "count")
    yield _holds("unknown values and times: the rest", lambda: [x for name in others for x in _unknown(name)])
    yield _holds("sums in float64, wherever records come from", _in_float64)
    yield _holds("too few pairs to hold out", _too_few_to_hold_out)
