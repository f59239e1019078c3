"""The second year of a service: days on disks and lists in files, recounted with dictionaries and sorting."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

import lfm_np

from .case import Case, Group, installed
from .cases_second_year_of_tables import Records, cells, combined, of_these_ids
from .places import inside
from .working_days import Model, all_scores, best, close, csr, faultless, raised, stars, start, wrong

_GROUP = Group("second year in production")
_holds = faultless(_GROUP)


DAYS: dict[str, Records] = {  # in the order of the names
    "10.parquet": [("ann", 3, 1.0, None), ("bob", 1, 2.0, None), ("ann", 3, 4.0, None), ("eve", 2, 5.0, None)],
    "8.parquet": [("bob", 1, 3.0, None), ("ann", 1, 1.5, None)],
    "9.parquet": [("ann", 3, 2.0, None), ("cid", 2, 2.5, None), ("eve", 2, 1.0, None), ("bob", 1, 3.0, None)],
}


def _written(place: Path) -> Path:
    """A folder of days, the latest written first, with columns in other orders and of other types."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    (place / "days").mkdir()
    kinds = iter([(pa.int64(), pa.float64()), (pa.int32(), pa.float32()), (pa.int16(), pa.float64())])
    for number, (name, records) in enumerate(reversed(DAYS.items())):
        of_item, of_value = next(kinds)
        columns = {
            "item": pa.array([r[1] for r in records], of_item),
            "user": pa.array([r[0] for r in records], pa.large_string() if number else pa.string()),
            "extra": pa.array([None] * len(records), pa.string()),
            "value": pa.array([r[2] for r in records], of_value),
        }
        names = sorted(columns, reverse=bool(number % 2))
        pq.write_table(pa.table({n: columns[n] for n in names}), place / "days" / name, row_group_size=2)
    (place / "days" / "_SUCCESS").write_text("")
    return place / "days"


def _days_in_a_folder(place: Path, duplicates: str) -> list[str]:
    mine = combined([r for records in DAYS.values() for r in records], duplicates)
    folder, memory = _written(place), 64 << 20
    data = lfm_np.Interactions.from_parquet(folder, value="value", duplicates=duplicates)
    lfm_np.StoredMatrix.from_parquet(folder, place / "made", value="value", duplicates=duplicates, memory=memory)
    (place / "made").rename(place / "moved")
    stored = lfm_np.StoredMatrix(place / "moved", memory=memory)
    users, items = (sorted(set(side)) for side in zip(*mine, strict=True))
    D = np.array([[mine.get((u, i), 0.0) for i in items] for u in users])
    halves = {}
    for side in ("rows", "columns"):
        arrays = [np.load(place / "moved" / f"{side}.{part}.npy") for part in ("data", "indices", "indptr")]
        halves[side] = sp.csr_array(tuple(arrays), shape=D.shape if side == "rows" else D.T.shape).toarray()
    return wrong(
        memory=cells(data).keys() == mine.keys() and close(list(cells(data).values()), D[D > 0], 1e-6),
        rows=close(halves["rows"], D, 1e-6),
        columns=np.array_equal(halves["columns"], halves["rows"].T),
        ids=list(stored.users) == users and list(stored.items) == items,
        size=(stored.shape, stored.nnz) == (D.shape, len(mine)),
    )


def _zeros_on_disk(place: Path) -> list[str]:
    """Ratings of zero are values where they are kept, and no cells where they are not."""
    X = stars(14, 9, 42) - 1.0
    rule, (U, V) = Model("ratings", lam=0.2, nu=1.0), start(14, 9, 3)
    lfm_np.StoredMatrix.from_matrix(csr(X), place / "keep", zeros="keep", dtype="float64")
    dropped = lfm_np.StoredMatrix.from_matrix(csr(X), place / "drop", dtype="float64")
    fit = lfm_np.als(
        lfm_np.StoredMatrix(place / "keep"), init=(U, V), factors=3, iterations=3, dtype="float64", **rule.words
    )
    P, Q = rule.sweeps(X, V, 3)
    lists = fit.recommend(0, N=9, seen=csr(X))
    return wrong(
        scores=close(all_scores(fit), P @ Q.T, 1e-8),
        objective=close(fit.history[-1]["objective"], rule.objective(X, P, Q), 1e-9),
        cells=dropped.nnz == int((np.nan_to_num(X) > 0).sum()),
        list=lists.ids.tolist() == best((P @ Q.T)[0], np.isnan(X[0]), 9),
    )


def _memory_then_disk(place: Path) -> list[str]:
    """Two sweeps in memory, two from the disk, the last in memory: one checkpoint."""
    rule, X, (U, V) = Model("ials", 1.5, 0.4, 0.3, 0.5), stars(16, 12, 43), start(16, 12, 3)
    stored = lfm_np.StoredMatrix.from_matrix(csr(X), place / "m", dtype="float64")
    words: dict[str, Any] = {
        "init": (U, V), "factors": 3, "solver": "exact", "dtype": "float64",
        "random_state": 0, **rule.words, "checkpoint": place / "c"
    }  # fmt: skip
    for iterations, source in ((2, csr(X)), (4, stored), (5, csr(X))):
        fit = lfm_np.als(source, iterations=iterations, **words)
    J, Q = [], V
    for _ in range(5):
        P, Q = rule.sweeps(X, Q, 1)
        J.append(rule.objective(X, P, Q))
    return wrong(J=close([r["objective"] for r in fit.history], J, 1e-9), scores=close(all_scores(fit), P @ Q.T, 1e-8))


def _compressed_days(place: Path) -> list[str]:
    """Text files in the order of their names; NA in quotes is an id, without quotes it is nothing."""
    (place / "days").mkdir()
    (place / "days" / "b.csv").write_text('user;item;stars\n007;"NA";3\n07;x;\n007;x;1\n', "utf-8")
    (place / "days" / "a.csv.gz").write_bytes(
        gzip.compress(b'user;item;stars\n007;"NA";5\n007;NA;4\n7;"a;b";2\n07;x;4.5\n')
    )
    data = lfm_np.Interactions.from_csv(
        place / "days", delimiter=";", column_types={"user": "string", "item": "string", "stars": "float64"},
        value="stars", duplicates="last", nulls="drop",
    )  # fmt: skip
    mine = {("007", "NA"): 3.0, ("007", "x"): 1.0, ("07", "x"): 4.5, ("7", "a;b"): 2.0}
    return wrong(cells=cells(data) == mine, ids=of_these_ids(mine, data))


def _across_the_block(place: Path) -> list[str]:
    """140,000 users, one cell in three lists left: rows of 0, 1 and 2 on both sides of row 131,072."""
    import pyarrow.parquet as pq

    m = 140_000
    u = np.arange(m)
    some = u % 3 > 0
    rows, columns = np.r_[u[some], u[u % 3 == 2]], np.r_[np.zeros(some.sum(), int), np.ones((u % 3 == 2).sum(), int)]
    seen = sp.csr_array((np.ones(len(rows), np.float32), (rows, columns)), shape=(m, 2))
    data = lfm_np.Interactions(seen, 7 * u, np.array([10, 20]))
    sign = 1 - 2 * (u % 2)
    model = lfm_np.Factors(sign[:, None].astype(np.float32), np.array([[1], [2]], np.float32))
    lfm_np.recommend_parquet(model, data, place / "all.parquet", N=2, seen=data)
    table = pq.read_table(place / "all.parquet")
    first = np.where(sign > 0, 2, 1)  # the better item of those who have seen none
    pairs = np.array([[first, 3 - first], [np.full(m, 2), np.zeros(m, int)], [np.zeros(m, int)] * 2])[u % 3, :, u]
    kept = pairs > 0
    where, rank = np.nonzero(kept)
    item = pairs[kept]
    found = {name: table[name].to_numpy() for name in table.column_names}
    return wrong(
        user=np.array_equal(found["user"], 7 * where),
        item=np.array_equal(found["item"], 10 * item),
        score=np.array_equal(found["score"], sign[where] * item),
        rank=np.array_equal(found["rank"], rank + 1),
    )


def _lists_are_events(place: Path) -> list[str]:
    """What was written is read again: the scores are where they were."""
    X = stars(9, 7, 45)
    data = lfm_np.Interactions(csr(X), np.array([f"user {u}" for u in range(9)]), np.arange(7) * 100)
    U, V = (abs(F) for F in start(9, 7, 3))
    lfm_np.recommend_parquet(lfm_np.Factors(U, V), data, place / "lists.parquet", N=3, seen=data)
    back = lfm_np.Interactions.from_parquet(place / "lists.parquet", value="score", duplicates="error")
    mine = {}
    for u, s in enumerate(U @ V.T):
        mine |= {(f"user {u}", 100 * i): s[i] for i in best(s, np.isnan(X[u]), 3) if i >= 0}
    found = cells(back)
    return wrong(keys=found.keys() == mine.keys(), scores=close([found[p] for p in mine], list(mine.values()), 1e-6))


def _core_of_cells(place: Path) -> list[str]:
    """Somebody who plays one song a hundred times has one cell."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    draw = np.random.default_rng(57)
    records = [(int(u), int(i)) for u, i in draw.integers(0, (12, 9), (60, 2))] + [(77, 1)] * 9 + [(3, 88)] * 9
    pq.write_table(pa.table({"user": [r[0] for r in records], "item": [r[1] for r in records]}), place / "p.parquet")
    data = lfm_np.Interactions.from_parquet(place / "p.parquet", min_user_interactions=4, min_item_interactions=4)
    left = set(records)
    while True:
        counts = [{side: sum(r[p] == side for r in left) for side in {r[p] for r in left}} for p in (0, 1)]
        kept = {r for r in left if counts[0][r[0]] >= 4}
        kept = {r for r in kept if sum(q[1] == r[1] for q in kept) >= 4}
        if kept == left:
            break
        left = kept
    mine = {pair: float(records.count(pair)) for pair in left}
    return wrong(cells=cells(data) == mine, ids=of_these_ids(mine, data), some=len(mine) == 32)


def _files_of_any_build(place: Path) -> list[str]:
    """One thread or two, little memory or much: the same bytes, and they are those of the matrix and its transpose."""
    X = stars(40, 30, 71)
    kept: dict[str, set[bytes]] = {}
    for number, (threads, memory) in enumerate(((1, 34 << 20), (2, 64 << 20), (2, 34 << 20))):
        folder = place / str(number)
        lfm_np.StoredMatrix.from_matrix(csr(X), folder, dtype="float64", num_threads=threads, memory=memory)
        for path in sorted(folder.glob("*.npy")):
            kept.setdefault(path.name, set()).add(path.read_bytes())
    bad = [name for name, files in kept.items() if len(files) > 1]
    for side, D in (("rows", X), ("columns", X.T)):
        has = ~np.isnan(D)
        mine = {"indptr": np.r_[0, np.cumsum(has.sum(1))], "indices": np.nonzero(has)[1], "data": D[has]}
        bad += [
            f"{side} {part}"
            for part, array in mine.items()
            if not np.array_equal(np.load(place / "0" / f"{side}.{part}.npy"), array)
        ]
    return bad + wrong(six=len(kept) == 6)


def _extended(place: Path) -> list[str]:
    """A folder that is there is not built over; the larger one is built beside it and takes its name."""
    X, (U, V), rule = stars(14, 9, 72), start(14, 9, 3), Model("ials", 1.5, 0.3, 0.2, 0.5)
    lfm_np.StoredMatrix.from_matrix(csr(X[:9]), place / "live", dtype="float64")
    before = {path.name: path.read_bytes() for path in (place / "live").iterdir()}
    error = raised(lambda: lfm_np.StoredMatrix.from_matrix(csr(X), place / "live", dtype="float64"))
    after = {path.name: path.read_bytes() for path in (place / "live").iterdir()}
    lfm_np.StoredMatrix.from_matrix(csr(X), place / "next", dtype="float64")
    (place / "live").rename(place / "old")
    (place / "next").rename(place / "live")
    bad = []
    for name, D in (("live", X), ("old", X[:9])):
        stored = lfm_np.StoredMatrix(place / name)
        fit = lfm_np.als(stored, init=(U[: len(D)], V), factors=3, iterations=2, dtype="float64", **rule.words)
        P, Q = rule.sweeps(D, V, 2)
        bad += wrong(**{
            name: close(all_scores(fit), P @ Q.T, 1e-8),
            f"{name} J": close(fit.history[-1]["objective"], rule.objective(D, P, Q), 1e-9),
            f"size of {name}": (stored.shape, stored.nnz) == (D.shape, int((~np.isnan(D)).sum())),
        })  # fmt: skip
    return bad + wrong(
        refused=isinstance(error, (OSError, ValueError)),
        kept=before == after,
        rest=sorted(path.name for path in place.iterdir()) == ["live", "old"],
    )


def _mapped_for_something_else(place: Path) -> list[str]:
    """The arrays of the folder, mapped, are a matrix for `als` and for a list's `seen`; the files stay as they are."""
    X, (U, V), rule = stars(14, 9, 73), start(14, 9, 3), Model("hu-koren", 1.5, 0.3, 0.2)
    lfm_np.StoredMatrix.from_matrix(csr(X), place / "m", dtype="float64")
    before = [path.read_bytes() for path in sorted((place / "m").iterdir())]
    arrays = tuple(np.load(place / "m" / f"rows.{part}.npy", mmap_mode="r") for part in ("data", "indices", "indptr"))
    mapped = sp.csr_array(arrays, shape=X.shape)
    fit = lfm_np.als(mapped, init=(U, V), factors=3, iterations=2, dtype="float64", **rule.words)
    P, Q = rule.sweeps(X, V, 2)
    lists = fit.recommend(np.arange(14), N=4, seen=mapped).ids.tolist()
    return wrong(
        scores=close(all_scores(fit), P @ Q.T, 1e-8),
        lists=lists == [best(s, np.isnan(x), 4) for s, x in zip(P @ Q.T, X, strict=True)],
        files=[path.read_bytes() for path in sorted((place / "m").iterdir())] == before,
    )


def _factors_on_the_disk(place: Path) -> list[str]:
    """They have no name there, and serve when the folder itself is gone."""
    X, (U, V), rule = stars(14, 9, 74), start(14, 9, 3), Model("confidence", 1.5, 0.3, 0.2)
    lfm_np.StoredMatrix.from_matrix(csr(X), place / "m", dtype="float64")
    (place / "big").mkdir()
    stored = lfm_np.StoredMatrix(place / "m", factors_in=place / "big")
    fit = lfm_np.als(stored, init=(U, V), factors=3, iterations=2, dtype="float64", **rule.words)
    names = list((place / "big").iterdir())
    (place / "big").rmdir()
    P, Q = rule.sweeps(X, V, 2)
    fit.save(place / "model")
    lists = lfm_np.Factors.load(place / "model").recommend(3, N=9).ids.tolist()
    return wrong(
        names=names == [],
        scores=close(all_scores(fit), P @ Q.T, 1e-8),
        lists=lists == best((P @ Q.T)[3], np.ones(9, bool), 9),
    )


def _a_column_from_the_folders(place: Path) -> list[str]:
    """Folders named column=value say who it was; names with a dot or an underscore in front are no data."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    mine: dict[tuple[Any, Any], float] = {}
    for shop, name, items in (
        ("north", "b.parquet", [1, 2, 2]), ("north", "a.parquet", [2, 7]), ("south", "c.parquet", [7]),
        ("east side", "c.parquet", [1, 1]), ("_west", "c.parquet", [9]), ("south", ".d.parquet", [8]),
    ):  # fmt: skip
        folder = place / "data" / (shop if shop.startswith("_") else f"shop={shop}")
        folder.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"item": items}), folder / name)
        if not (shop.startswith("_") or name.startswith(".")):
            for item in items:
                mine[shop, item] = mine.get((shop, item), 0.0) + 1
    data = lfm_np.Interactions.from_parquet(place / "data", user="shop", duplicates="count")
    return wrong(cells=cells(data) == mine, ids=of_these_ids(mine, data))


def _nothing_but_nulls(place: Path) -> list[str]:
    """Who has nothing but records that are left out is no row, on the disk as in memory."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    users, items = ["a", "b", None, "c", "a", "d", "c"], [5, None, 6, 7, 5, 8, None]
    values, notes = [1.0, 2.0, 3.0, None, 2.5, 4.0, 1.0], [None, "x", "y", "z", None, None, "w"]
    table = pa.table({"note": notes, "value": values, "item": items, "user": users})
    pq.write_table(table, place / "t.parquet", row_group_size=3)
    data = lfm_np.Interactions.from_parquet(place / "t.parquet", value="value", nulls="drop")
    stored = lfm_np.StoredMatrix.from_parquet(
        place / "t.parquet", place / "s", value="value", nulls="drop", memory=64 << 20
    )
    return wrong(
        memory=cells(data) == {("a", 5): 3.5, ("d", 8): 4.0} and data.users.tolist() == ["a", "d"],
        disk=(list(stored.users), list(stored.items), stored.nnz) == (["a", "d"], [5, 8], 2),
        values=np.load(place / "s" / "rows.data.npy").tolist() == [3.5, 4.0],
    )


def _some_users_by_their_lists(place: Path) -> list[str]:
    """A file for some users, in the order asked, of what is allowed; an old file is replaced, another stays."""
    import pyarrow.parquet as pq

    X = stars(12, 9, 75)
    data = lfm_np.Interactions(csr(X), np.array([f"u{u:02}" for u in range(12)]), np.arange(9) * 11)
    U, V = start(12, 9, 3)
    path = place / "lists.parquet"
    path.write_text("yesterday")
    asked, allowed, none = ["u07", "u00", "u11"], np.array([88, 0, 33, 44, 55]), np.array([33, 22])
    lfm_np.recommend_parquet(lfm_np.Factors(U, V), data, path, asked, N=3, seen=data, items=allowed, exclude=none)
    mine = []
    for user in asked:
        u = int(user[1:])
        ok = np.isin(np.arange(9) * 11, allowed) & ~np.isin(np.arange(9) * 11, none) & np.isnan(X[u])
        s = V @ U[u]
        mine += [(user, 11 * i, s[i], rank) for rank, i in enumerate(best(s, ok, 3), 1) if i >= 0]
    found = pq.read_table(path).to_pylist()
    return wrong(
        rows=[(r["user"], r["item"], r["rank"]) for r in found] == [(a, b, d) for a, b, _, d in mine],
        scores=close([r["score"] for r in found], [c for *_, c, _ in mine], 1e-12),
        alone=[p.name for p in place.iterdir()] == ["lists.parquet"],
    )


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    for name, work in (
        ("zeros on disk", _zeros_on_disk),
        ("memory, disk, memory: one checkpoint", _memory_then_disk),
        ("files of any build", _files_of_any_build),
        ("a larger matrix takes the name", _extended),
        ("arrays mapped for something else", _mapped_for_something_else),
        ("factors on the disk, without a name", _factors_on_the_disk),
    ):
        yield _holds(name, inside(work))
    if not installed("pyarrow", "narwhals"):
        return
    for duplicates in ("sum", "mean", "max", "last", "count"):
        name = f"days in a folder, in memory and on disk: {duplicates}"
        yield _holds(name, inside(lambda place, d=duplicates: _days_in_a_folder(place, d)))
    for name, work in (
        ("compressed days of text", _compressed_days),
        ("lists across the block of 131,072 rows", _across_the_block),
        ("lists are events again", _lists_are_events),
        ("a core of cells, not of records", _core_of_cells),
        ("a column from the folders", _a_column_from_the_folders),
        ("nothing but nulls", _nothing_but_nulls),
        ("some users by their lists", _some_users_by_their_lists),
    ):
        yield _holds(name, inside(work))
