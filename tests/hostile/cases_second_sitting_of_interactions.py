"""The second sitting: ids, times, splits and lists, beside loops over what was given."""

from __future__ import annotations

import datetime
import math
import pickle
from collections import Counter
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np

import lfm_np

from .case import Case, Group, installed
from .places import inside
from .working_days import all_scores, best, faultless, wrong

_GROUP = Group("second sitting, data")
_holds = faultless(_GROUP)
_arrays = lfm_np.Interactions.from_arrays


def _pairs(data: Any) -> list[Any]:
    X = data.matrix.tocoo()
    return list(zip(data.users[X.coords[0]].tolist(), data.items[X.coords[1]].tolist(), strict=True))


def _moments() -> list[str]:
    """What is at or after a moment that is finer than the times, or of another zone."""
    days = np.array(["2024-05-01", "2024-05-02", "2024-05-03", "2024-05-04", "2024-05-05"], "datetime64[D]")
    zone = lambda hours: datetime.timezone(datetime.timedelta(hours=hours))  # noqa: E731
    moments = [
        (datetime.datetime(2024, 5, 3, 1, tzinfo=zone(2)), 3),  # 23:00 of the day before
        (datetime.datetime(2024, 5, 2, 22, tzinfo=zone(-5)), 2),  # 03:00 of the day after
        (datetime.datetime(2024, 5, 3, 5, 30, tzinfo=zone(5.5)), 3),  # midnight
        (datetime.datetime(2024, 5, 3), 3),
        (np.datetime64("2024-05-03T00:00:00.000000001", "ns"), 2),
        ("2024-05-04", 2),
        ("2024-05-03T00:00:00.001", 2),
        (np.datetime64("2024-05-02T23:59:59", "s"), 3),
    ]
    faults = []
    for unit in ("D", "h", "s", "ms", "us", "ns"):
        data = _arrays([1, 1, 2, 2, 2], [5, 4, 3, 2, 1], timestamps=days.astype(f"datetime64[{unit}]"))
        for at, count in moments:
            test = data.split("time", at=at)[1]
            if sorted(i for _, i in _pairs(test)) != list(range(1, count + 1)):
                faults.append(f"{unit}, {at}: {test.matrix.nnz}, not {count}")
    return faults


def _moments_in_numbers() -> list[str]:
    """Integers beyond 2⁵³ and 2⁶³ against whole numbers and fractions."""
    signed = np.array([-5, 2**53, 2**53 + 1, 2**53 + 2, 2**62 + 1], np.int64)
    unsigned = np.array([1, 2, 2**63 - 1, 2**63, 2**64 - 1], np.uint64)
    faults = []
    for times, at, count in (
        (signed, 2**53 + 1, 3),
        (signed, 2.0**53, 4),
        (signed, 2**62 + 1, 1),
        (signed, -4.5, 4),
        (unsigned, 2**64 - 1, 1),
        (unsigned, 2**63, 2),
        (unsigned, 1.5, 4),
        (unsigned, 2**63 - 1, 3),
    ):
        data = _arrays(list("aabbb"), [5, 4, 3, 2, 1], timestamps=times)
        train, test = data.split("time", at=at)
        if sorted(i for _, i in _pairs(test)) != list(range(1, count + 1)) or train.matrix.nnz != 5 - count:
            faults.append(f"{times.dtype}, {at}: {test.matrix.nnz}, not {count}")
    latest = _arrays([1] * 4, [3, 3, 4, 4], [1, 2, 4, 8], unsigned[[4, 3, 2, 3]], duplicates="last")
    if latest.matrix.toarray().tolist() != [[1, 8]] or latest.timestamps.tolist() != [2**64 - 1, 2**63]:
        faults.append("last")
    if _pairs(latest.split("last")[1]) != [(1, 3)]:
        faults.append("split by last")
    return faults


def _drawn_cells() -> list[str]:
    """2.1 of seven cells: two, or in a tenth of all rows three; every cell and every two of them as often (6 sigma)."""
    m = 6000
    users, items = np.repeat(np.arange(m), 7), np.tile(np.arange(7), m)
    data = _arrays(np.append(users, np.arange(m, m + 50)), np.append(items, np.zeros(50, int)))
    test = data.split("random", test_fraction=0.3, random_state=12)[1].matrix.toarray() > 0
    own = test[:m].astype(np.int64)
    sums, both = own.sum(1), own.T @ own
    apart = both[np.triu_indices(7, 1)]
    two = _arrays([0, 0, 1, 1, 2, 2, 3, 3], [0, 1] * 4).split("random", test_fraction=0.95, random_state=3)[1]
    # E t = 2.1, Var t = 0.09; P(one cell) = 0.3; P(two given ones) = E t(t - 1) / 42 = 2.4 / 42
    return wrong(
        sizes=set(sums.tolist()) == {2, 3},
        total=abs(int(sums.sum()) - 2.1 * m) < 6 * math.sqrt(0.09 * m),
        cells=abs(both.diagonal() - 0.3 * m).max() < 6 * math.sqrt(0.21 * m),
        pairs=abs(apart - 2.4 / 42 * m).max() < 6 * math.sqrt(2.4 / 42 * m),
        alone=not test[m:].any(),
        one_stays=np.diff(two.matrix.indptr).tolist() == [1] * 4,
    )


def _cores() -> list[str]:
    """Cells of value 0 and of unknown value are cells; times stay with theirs."""
    faults = []
    for seed in range(5):
        draw = np.random.default_rng(seed)
        cells = draw.choice(20 * 12, 70, replace=False)
        values = draw.choice([0.0, 1.0, math.nan, -2.0], 70)
        times = draw.permutation(70)
        u, i = cells // 12, cells % 12
        data = _arrays(u, i, values, times)
        for least, fewest in ((2, 3), (3, 4), (1, 6), (4, 1)):
            left = {pair: n for n, pair in enumerate(zip(u.tolist(), i.tolist(), strict=True))}
            before = -1
            while before != len(left):
                before = len(left)
                for side, bound in ((0, least), (1, fewest)):
                    has = Counter(pair[side] for pair in left)
                    left = {pair: n for pair, n in left.items() if has[pair[side]] >= bound}
            core = data.core(least, fewest)
            order = sorted(left)
            mine = [left[pair] for pair in order]
            if (
                _pairs(core) != order
                or not np.array_equal(core.matrix.data, values[mine].astype(np.float32), equal_nan=True)
                or core.timestamps.tolist() != times[mine].tolist()
                or core.shape != (len({p[0] for p in order}), len({p[1] for p in order}))
            ):
                faults.append(f"{seed}, {least}, {fewest}: {len(mine)}, {core.matrix.nnz}")
    return faults


def _wrapped_ids() -> list[str]:
    """What another type of integer would take for an id that is there is not there."""
    small = _arrays(np.array([-128, 5, 127], np.int8), [1, 1, 1])
    signed = _arrays(np.array([-1, 5]), [1, 1])
    unsigned = _arrays(np.array([0, 2**64 - 1, 2**63], np.uint64), [1, 1, 1])
    mixed = _arrays([-1, 2**64 - 1, 2**64 - 2, 10**30], [1, 2, 3, 4])
    return wrong(
        small=small.rows_of([128, 261, -129, 127, -128], missing=-1).tolist() == [-1, -1, -1, 2, 0],
        signed=signed.rows_of(np.array([2**64 - 1, 5], np.uint64), missing=-1).tolist() == [-1, 1],
        unsigned=unsigned.rows_of(np.array([-1, -(2**63), 0]), missing=-1).tolist() == [-1, -1, 0],
        both=unsigned.rows_of([-1, 2**64 - 1, 2**63], missing=-1).tolist() == [-1, 2, 1],
        mixed=mixed.users.tolist() == [-1, 2**64 - 2, 2**64 - 1, 10**30],
        found=mixed.rows_of([10**30, 2**64 - 2, 2**64], missing=7).tolist() == [3, 1, 7],
    )


def _zeros_at_the_end(place: Path) -> list[str]:
    """ "a" and "a" followed by NUL are two ids, as text and as bytes, by every way in."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    texts = ["a\0", "a", "", "\0", "a\0\0", "a\0b"]
    faults = []
    for kind, ids in (("text", texts), ("bytes", [text.encode() for text in texts])):
        table = pa.table({"user": ids, "item": [10, 20, 30, 40, 50, 60]})
        pq.write_table(table, place / f"{kind}.parquet")
        found: dict[str, Any] = {
            "arrays": _arrays(ids, [10, 20, 30, 40, 50, 60]),
            "arrow": lfm_np.Interactions.from_frame(table),
            "parquet": lfm_np.Interactions.from_parquet(place / f"{kind}.parquet"),
        }
        if installed("polars"):
            import polars as pl

            found["polars"] = lfm_np.Interactions.from_frame(pl.from_arrow(table))
        items = [10 * (1 + ids.index(name)) for name in sorted(ids)]
        for name, data in found.items():
            again = pickle.loads(pickle.dumps(data))
            if data.users.tolist() != sorted(ids) or (data.matrix @ data.items).tolist() != items:
                faults.append(f"{kind}, {name}")
            if again.users.tolist() != sorted(ids) or data.rows_of(ids).tolist() != [sorted(ids).index(n) for n in ids]:
                faults.append(f"{kind}, {name}: rows, or pickled")
        stored = lfm_np.StoredMatrix.from_parquet(place / f"{kind}.parquet", place / kind, memory=64 << 20)
        if list(stored.users) != sorted(ids):
            faults.append(f"{kind}, stored")
    return faults


def _ids_on_disk(place: Path) -> list[str]:
    """Ids of every type are in the order of their values, and what they were."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    day, hour = datetime.date(2024, 2, 29), datetime.timedelta(hours=1)
    noon = datetime.datetime(2024, 5, 1, 12)
    kinds = {
        "uint64": ([2**64 - 1, 0, 2**63], pa.uint64()),
        "float": ([2.5, -1e300, 1e-300], pa.float64()),
        "bool": ([True, False, True], pa.bool_()),
        "decimal": ([Decimal("10.10"), Decimal("9.90"), Decimal("-1.00")], pa.decimal128(30, 2)),
        "date": ([day, datetime.date(1969, 12, 31), day.replace(year=2020)], pa.date32()),
        "time": ([noon, noon - hour, noon + 1000 * hour], pa.timestamp("us")),
        "clock": ([datetime.time(9, 5), datetime.time(0), datetime.time(23, 59, 59)], pa.time64("us")),
        "duration": ([hour, -hour, 3 * hour], pa.duration("us")),
        "category": (["z", "m", "\u00e9"], pa.dictionary(pa.int8(), pa.string())),
    }
    faults = []
    for kind, (ids, dtype) in kinds.items():
        table = pa.table({"user": pa.array(ids * 2, dtype), "item": [1, 2, 3, 4, 5, 6], "n": [1, 2, 4, 8, 16, 32]})
        pq.write_table(table, place / f"{kind}.parquet", row_group_size=4)
        data = lfm_np.Interactions.from_parquet(place / f"{kind}.parquet", value="n")
        stored = lfm_np.StoredMatrix.from_parquet(place / f"{kind}.parquet", place / kind, value="n", memory=64 << 20)
        sums = [sum(2**k for k in range(6) if ids[k % 3] == name) for name in sorted(set(ids))]
        starts, cells = (np.load(place / kind / f"rows.{part}.npy") for part in ("indptr", "data"))
        for way, users, found in (
            ("parquet", data.users, data.matrix.sum(1)),
            ("stored", stored.users, np.add.reduceat(cells, starts[:-1])),
        ):
            users = users.astype("datetime64[D]") if kind == "date" else users
            if users.tolist() != sorted(set(ids)) or found.tolist() != sums:
                faults.append(f"{kind}, {way}: {users.tolist()}")
        if data.rows_of(data.users[::-1]).tolist() != list(range(len(sums)))[::-1]:
            faults.append(f"{kind}: rows")
    return faults


def _buffer(array: Any) -> int:
    while isinstance(array.base, np.ndarray):
        array = array.base
    return id(array)


def _views_of_one_buffer() -> list[str]:
    """Rows of an array in Fortran's order that may not be written, backwards, of 16 bits."""
    draw = np.random.default_rng(4)
    pairs = np.asfortranarray(draw.integers(0, 40, (300, 2)).astype(np.uint16))
    pairs.flags.writeable = False
    faults = []
    for name, given in (("whole", pairs), ("backwards", pairs[::-2]), ("columns", pairs[:, ::-1])):
        found = lfm_np.build_dict(given)
        mine: dict[int, set[int]] = {}
        for i, j in given.tolist():
            mine.setdefault(i, set()).add(j)
        if [(i, js.tolist()) for i, js in found.items()] != [(i, sorted(mine[i])) for i in sorted(mine)]:
            faults.append(name)
        if (
            any(js.dtype != np.uint16 or js.flags.writeable for js in found.values())
            or len(set(map(_buffer, found.values()))) != 1
        ):
            faults.append(f"{name}: not read-only views of one buffer")
    return faults


def _last_column() -> list[str]:
    """The highest column that 32 bits and every sentence about them allow."""
    wide = 2**31 - 2
    pairs = [(1, wide - 1), (0, 5), (1, wide - 1), (1, 0)]
    X = lfm_np.to_csr(pairs, shape=(2, wide), values=[1, 2, 4, 8], duplicates="mean")
    Y = lfm_np.to_csr(np.array(pairs), values=[1, 2, 4, 8], duplicates="count")
    return wrong(
        cells=X.indices.tolist() == [5, 0, wide - 1] and X.data.tolist() == [2, 8, 2.5],
        types=X.indices.dtype == np.int32 and X.data.dtype == np.float32 and X.has_canonical_format,
        shape=X.shape == Y.shape == (2, wide),
        counts=Y.data.tolist() == [1, 1, 2],
    )


def _frames_of_its_parts() -> list[str]:
    """Whatever part of the data is asked, lists are frames of the library that they came from."""
    frames: dict[str, Any] = {}
    columns = {"who": [3, 1, 2, 1, 3, 2], "what": ["d", "a", "b", "c", "a", "d"], "day": [1, 2, 3, 4, 5, 6]}
    if installed("pandas"):
        import pandas as pd

        frames["pandas"] = (pd.DataFrame, pd.DataFrame(columns))
    if installed("polars"):
        import polars as pl

        frames["polars"] = (pl.DataFrame, pl.DataFrame(columns))
    if installed("pyarrow"):
        import pyarrow as pa

        frames["pyarrow"] = (pa.Table, pa.table(columns))
    draw = np.random.default_rng(8)
    factors = lfm_np.Factors(draw.normal(size=(3, 2)), draw.normal(size=(4, 2)), item_bias=draw.normal(size=4))
    S, faults = all_scores(factors), []
    for name, (kind, frame) in frames.items():
        data = lfm_np.Interactions.from_frame(frame, "who", "what", timestamp="day")
        parts = {
            "select": data.select(data.timestamps > 2),
            "binarize": data.binarize(),
            "split": data.split("last")[0],
            "core": data.core(1, 1),
            "pickled": pickle.loads(pickle.dumps(data)),
        }
        for part, own in parts.items():
            found = lfm_np.recommend_frame(factors, own, [3, 2, 3], N=9, seen=own, items=list("abd"), exclude=["b"])
            mine = []
            for user in (2, 1, 2):
                has = own.matrix.toarray()[user] > 0
                allowed = np.array([True, False, False, True]) & ~has
                ids = [i for i in best(S[user], allowed, 4) if i >= 0]
                mine += [(user + 1, "abcd"[i], rank) for rank, i in enumerate(ids, 1)]
            if not isinstance(found, kind):
                faults.append(f"{name}, {part}: {type(found)}")
                continue
            lists = [list(found[column].to_pylist() if name == "pyarrow" else found[column].to_list()) for column in
                     ("user", "item", "rank")]  # fmt: skip
            if list(zip(*lists, strict=True)) != mine:
                faults.append(f"{name}, {part}: {lists}")
    return faults


def _blocks_of_lists(place: Path) -> list[str]:
    """Over 131,072 rows, of lists that run short at every place; scores are whole numbers with many ties."""
    import pyarrow.parquet as pq

    draw = np.random.default_rng(15)
    m, n, N = 450, 380, 345
    factors = lfm_np.Factors(draw.integers(-4, 5, (m, 3)).astype(float), draw.integers(-4, 5, (n, 3)).astype(float))
    has = draw.random((m, n)) < 0.1
    has[np.arange(m), np.arange(m) % n] = True
    u, i = np.nonzero(has)
    data = _arrays([f"u{k:03d}" for k in u], 1000 + i)
    lfm_np.recommend_parquet(factors, data, place / "x.parquet", N=N, seen=data)
    found = pq.read_table(place / "x.parquet", use_threads=False)
    S = np.where(has, -np.inf, all_scores(factors))
    order = np.argsort(-S, axis=1, kind="stable")[:, :N]
    scores = np.take_along_axis(S, order, 1)
    there = np.isfinite(scores)
    columns = [np.nonzero(there)[0], 1000 + order[there], scores[there], np.nonzero(there)[1] + 1]
    users = np.array([int(name[1:]) for name in found["user"].to_pylist()])
    return wrong(
        many=len(users) > 131_072 and not there.all(),
        users=np.array_equal(users, columns[0]),
        items=np.array_equal(found["item"].to_numpy(), columns[1]),
        scores=np.array_equal(found["score"].to_numpy(), columns[2]),
        ranks=np.array_equal(found["rank"].to_numpy(), columns[3]),
    )


def cases() -> list[Case]:
    return list(_cases())


def _inside(name: str, work: Callable[[Path], Any]) -> Case:
    return _holds(name, inside(work))


def _cases() -> Iterator[Case]:
    yield _holds("a moment finer than the times, or of another zone", _moments)
    yield _holds("moments and latest of integers beyond 2⁵³ and 2⁶³", _moments_in_numbers)
    yield _holds("every cell and every two cells are held out as often", _drawn_cells)
    yield _holds("cores of cells with zeros and unknown values", _cores)
    yield _holds("ids that another type of integer takes for others", _wrapped_ids)
    yield _inside("ids that end in NUL", _zeros_at_the_end)
    yield _inside("ids of every type in files, and on the disk", _ids_on_disk)
    yield _holds("views of one buffer of what nobody may write", _views_of_one_buffer)
    yield _holds("the last column of 32 bits", _last_column)
    yield _holds("frames of the parts of data", _frames_of_its_parts)
    yield _inside("lists of more than a block, that run short", _blocks_of_lists)
