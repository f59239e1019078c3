"""Pairs, ids, times, masks and splits, each compared with a dictionary, a set or a loop."""

from __future__ import annotations

import collections
import copy
import datetime as dt
import decimal
import gzip
import math
import os
import pickle
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import scipy.sparse as sp

import lfm_np
from lfm_np import Interactions

from .case import Case, Either, Group, Holds, raises

BAD = (TypeError, ValueError)
_group = Group("numbers of data")
_refused, _right = _group.refused, _group.right


def _either(name: str, call: Callable[[], Any], true: Callable[[Any], Any], *words: str) -> Case:
    holds = Holds(lambda result: bool(true(result)))
    return Case(f"{_group.name}: {name}", lambda: call(), Either(holds, raises(BAD, *words)))


def records() -> dict[str, Any]:
    rng = np.random.default_rng(3)
    pairs = rng.integers(0, [9, 6], (300, 2))
    return {"pairs": pairs, "values": np.round(rng.normal(0, 3, 300), 2), "times": rng.integers(0, 40, 300)}


FOLDED: dict[str, Callable[[list[float]], float]] = {
    "sum": math.fsum,
    "last": lambda values: values[-1],
    "mean": lambda values: math.fsum(values) / len(values),
    "max": max,
    "count": len,
}


def cells_of(pairs: Any, values: Any) -> dict[tuple[int, int], list[float]]:
    cells = collections.defaultdict(list)
    for pair, value in zip(np.asarray(pairs).tolist(), np.asarray(values).tolist(), strict=True):
        cells[tuple(pair)].append(value)
    return dict(cells)


def entries(X: Any) -> dict[tuple[int, int], float]:
    coo = sp.coo_array(X)
    return dict(zip(zip(coo.row.tolist(), coo.col.tolist(), strict=True), coo.data.tolist(), strict=True))


def same_cells(found: dict[Any, float], expected: dict[Any, float]) -> bool:
    return found.keys() == expected.keys() and all(
        math.isclose(found[cell], np.float32(value), rel_tol=1e-6, abs_tol=1e-6) for cell, value in expected.items()
    )


def canonical(X: Any) -> bool:
    return bool(X.indices.dtype == np.int32 and X.dtype == np.float32 and sp.csr_array(X).has_canonical_format)


# ---- pairs ----------------------------------------------------------------------------------------------------------


def pairs() -> Iterator[Case]:
    layouts: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "sum": lambda pairs: pairs.astype(">i4"),
        "last": np.asfortranarray,
        "mean": lambda pairs: np.repeat(pairs, 2, 0)[::2],
        "max": lambda pairs: pairs.astype(np.uint8),
        "count": lambda pairs: pairs[:, ::-1].copy()[:, ::-1],
    }
    for how, layout in layouts.items():

        def laid_out(layout: Any = layout) -> dict[str, Any]:
            found = records()
            return {"pairs": layout(found["pairs"]), "values": found["values"].astype(">f8")}

        def folded(X: Any, pairs: Any, values: Any, how: str = how) -> bool:
            expected = {cell: FOLDED[how](all_) for cell, all_ in cells_of(pairs, values).items()}
            return canonical(X) and same_cells(entries(X), expected)

        yield Case(
            f"numbers of data: to_csr, {how}, arrays of an odd layout",
            lambda pairs, values, how=how: lfm_np.to_csr(pairs, (9, 6), values, how),
            Holds(folded),
            laid_out,
        )
    twice = [(0, 1), (0, 1)]
    yield _refused("to_csr, a sum beyond float32", lambda: lfm_np.to_csr(twice, values=[3e38, 3e38]), "values|sum")
    yield _right(
        "to_csr, the mean of values whose sum is beyond float32",
        lambda: lfm_np.to_csr(twice, values=[3e38, 3e38], duplicates="mean").data,
        lambda data: data.tolist() == [np.float32(3e38)],
    )
    yield _right(
        "to_csr, values that cancel leave a stored zero",
        lambda: lfm_np.to_csr([*twice, (0, 0)], values=[2.5, -2.5, 1]),
        lambda X: X.nnz == 2 and X.toarray().tolist() == [[1, 0]],
    )
    yield _right(
        "to_csr, the largest of negative values",
        lambda: lfm_np.to_csr(twice, values=[-3, -1], duplicates="max").data,
        lambda data: data.tolist() == [-1],
    )
    yield _right(
        "to_csr, a sum of 100,000 tenths",
        lambda: lfm_np.to_csr(np.zeros((100_000, 2), int), values=np.full(100_000, 0.1)).data,
        lambda data: data.tolist() == [np.float32(10_000)],
    )
    yield _either(
        "to_csr, a value that float32 rounds to zero",
        lambda: lfm_np.to_csr([(0, 0), (1, 1)], values=[1e-60, 1.0]),
        lambda X: X.nnz == 2 and X.data.tolist() == [0, 1],
        "values",
    )
    yield _refused(
        "to_csr, unsigned numbers that int64 makes negative",
        lambda: lfm_np.to_csr(np.array([[2**63 + 1, 0]], np.uint64)),
        "pairs|shape|row",
    )
    yield _right(
        "to_csr, no pairs and a shape",
        lambda: lfm_np.to_csr(np.empty((0, 2), np.int16), (np.int8(3), np.uint64(2))),
        lambda X: X.shape == (3, 2) and X.nnz == 0 and canonical(X),
    )
    yield _refused(
        "to_csr, count of a NaN", lambda: lfm_np.to_csr(twice, values=[1, np.nan], duplicates="count"), "values"
    )


def dictionaries() -> Iterator[Case]:
    def same(found: dict[int, np.ndarray], pairs: np.ndarray) -> bool:
        expected: dict[int, set[int]] = {}
        for i, j in sorted(map(tuple, pairs.tolist())):
            expected.setdefault(i, set()).add(j)
        return list(found) == list(expected) and all(
            found[i].tolist() == sorted(js) and found[i].dtype == pairs.dtype and not found[i].flags.writeable
            for i, js in expected.items()
        )

    rng = np.random.default_rng(0)
    for name, pairs in {
        "numbers near 2⁶²": rng.integers(2**62 - 4, 2**62, (60, 2)),
        "int8 up to 127": rng.integers(120, 128, (60, 2)).astype(np.int8),
        "unsigned 64-bit beyond 2⁶³": rng.integers(2**63, 2**63 + 9, (60, 2), dtype=np.uint64),
        "every second row of a Fortran array": np.asfortranarray(rng.integers(0, 9, (80, 2)))[::2],
        "none at all": np.empty((0, 2), np.int32),
    }.items():
        yield Case(
            f"numbers of data: build_dict, {name}",
            lambda pairs: lfm_np.build_dict(pairs),
            Holds(lambda found, pairs: same(found, pairs)),
            lambda pairs=pairs: {"pairs": pairs},
        )
    yield _refused("build_dict, a mask instead of pairs", lambda: lfm_np.build_dict(np.eye(2, dtype=bool)), "pairs")
    yield _refused("build_dict, the transposed array", lambda: lfm_np.build_dict(np.zeros((2, 5), int)), "pairs", "2")


# ---- ids ------------------------------------------------------------------------------------------------------------


def ids() -> Iterator[Case]:
    def of(users: Any) -> Interactions:
        return Interactions.from_arrays(users, np.arange(len(users)))

    yield _right(
        "text in two Unicode forms is two users", lambda: of(["caf\u00e9", "cafe\u0301"]), lambda d: d.shape == (2, 2)
    )
    yield _right(
        "minus zero is the user zero",
        lambda: of(np.array([0.0, -0.0, 1.5])),
        lambda d: d.shape == (2, 3) and d.rows_of([-0.0, 1.5]).tolist() == [0, 1],
    )
    big = [2**63 + 5, 2**63 + 4, 7]
    yield _right(
        "unsigned ids beyond 2⁶³",
        lambda: of(np.array(big, np.uint64)),
        lambda d: d.users.tolist() == sorted(big) and d.rows_of(big).tolist() == [2, 1, 0],
    )
    yield _refused(
        "the id -1 of unsigned ids", lambda: of(np.array([2**64 - 1, 3], np.uint64)).rows_of([-1]), "-1", kind=Exception
    )
    yield _refused("text for ids that are numbers", lambda: of([1, 2]).rows_of(["1"]), "1", kind=Exception)
    yield _refused("half an id", lambda: of([1, 2]).rows_of([1.5]), "users", "float64")
    yield _refused("text for ids that are bytes", lambda: of([b"ann", b"bob"]).rows_of(["ann"]), "users", "dtype")
    yield _either(
        "days for ids that are seconds",
        lambda: of(np.array(["2024-05-01T00:00:00", "2024-05-01T00:00:01"], "M8[s]")).rows_of(
            np.array(["2024-05-01"], "M8[D]")
        ),
        lambda rows: rows.tolist() == [0],
        "2024|datetime",
    )
    yield _refused("a time that is none as an id", lambda: of(np.array(["2024-05-01", "NaT"], "M8[D]")), "users")
    yield _refused("None among the ids", lambda: of(["ann", None, "bob"]), "users")
    yield _right(
        "dates as ids come back as dates",
        lambda: of([dt.date(2024, 5, 2), dt.date(2024, 5, 1)]),
        lambda d: d.rows_of([dt.date(2024, 5, 1), dt.date(2024, 5, 2)]).tolist() == [0, 1],
    )
    yield _either(
        "decimals of one value and two ways to write it",
        lambda: of([decimal.Decimal("1.10"), decimal.Decimal("1.1"), decimal.Decimal(2)]),
        lambda d: d.shape[0] == 2 and d.rows_of([decimal.Decimal("1.100")]).tolist() == [0],
        "users",
    )
    short = Interactions.from_arrays([0, 1], ["ab", "cd"])
    yield _right(
        "a missing id longer than all ids is not cut",
        lambda: short.item_ids([[1, -1], [0, 1]], missing="nothing at all"),
        lambda found: found.tolist() == [["cd", "nothing at all"], ["ab", "cd"]],
    )
    tiny = Interactions.from_arrays([0, 1], np.array([5, 7], np.int8))
    yield _either(
        "a missing id beyond the ids' type does not wrap",
        lambda: tiny.item_ids([1, -1], missing=300),
        lambda found: found.tolist() == [7, 300],
        "missing",
    )
    yield _refused("an id for column -2", lambda: short.item_ids([-2], missing=""), "-2", kind=Exception)
    yield _refused(
        "users that occur twice", lambda: Interactions(sp.eye_array(2, format="csr"), ["a", "a"], ["x", "y"]), "users"
    )


def unsorted(format_: str) -> tuple[Any, np.ndarray]:
    """A matrix whose cell (i, j) has value 10 i + j + 1 and time 100 i + j, in the order of its data."""
    X = sp.csr_array((np.zeros(5), np.array([2, 0, 1, 2, 0]), np.array([0, 2, 2, 5])), shape=(3, 3))
    X = X.asformat(format_)
    coo = X.tocoo()
    X.data[:] = 10 * coo.row + coo.col + 1
    return X, np.asarray(100 * coo.row + coo.col)


def times() -> Iterator[Case]:
    for format_ in ("csr", "csc", "coo"):

        def call(X: Any, times: Any) -> Interactions:
            return Interactions(X, [0, 1, 2], [0, 1, 2], times)

        def follows(data: Interactions, X: Any, times: Any) -> bool:
            coo = data.matrix.tocoo()
            return data.timestamps is not None and data.timestamps.tolist() == (100 * coo.row + coo.col).tolist()

        yield Case(
            f"numbers of data: times of an unsorted {format_} matrix follow its cells",
            call,
            Either(Holds(follows), raises(BAD, "timestamps|matrix")),
            lambda format_=format_: dict(zip(("X", "times"), unsorted(format_), strict=True)),
        )
    near = 2**60
    yield _right(
        "last, of times that floats cannot tell apart",
        lambda: Interactions.from_arrays(
            [1, 1, 1], [1, 1, 1], [1, 2, 3], [near + 1, near + 2, near], duplicates="last"
        ),
        lambda d: d.matrix.data.tolist() == [2] and d.timestamps.tolist() == [near + 2],
    )
    unknown = np.array(["NaT", "2024-05-01", "NaT"], "M8[ns]")
    yield _right(
        "last, where times are unknown",
        lambda: Interactions.from_arrays([1, 1, 1], [1, 1, 1], [1, 2, 3], unknown, duplicates="last"),
        lambda d: d.matrix.data.tolist() == [2] and d.timestamps[0] == unknown[1],
    )

    def latest(data: Interactions, pairs: Any, values: Any, times: Any) -> bool:
        means = {cell: FOLDED["mean"](all_) for cell, all_ in cells_of(pairs, values).items()}
        last = {cell: max(all_) for cell, all_ in cells_of(pairs, times).items()}
        dated = data.matrix.copy()
        dated.data = data.timestamps.astype(float)
        return same_cells(entries(data.matrix), means) and same_cells(entries(dated), last)

    yield Case(
        "numbers of data: mean values have the latest times",
        lambda pairs, values, times: Interactions.from_arrays(
            pairs[:, 0], pairs[:, 1], values, times, duplicates="mean"
        ),
        Holds(latest),
        records,
    )


# ---- parts ----------------------------------------------------------------------------------------------------------


def dated() -> Interactions:
    rng = np.random.default_rng(8)
    pairs = np.unique(rng.integers(0, [60, 25], (700, 2)), axis=0)
    return Interactions.from_arrays(pairs[:, 0], pairs[:, 1], timestamps=rng.integers(0, 30, len(pairs)))


def parts_fit(data: Interactions, train: Interactions, test: Interactions) -> bool:
    """Every cell with its time is in exactly one part."""
    seen = collections.Counter()
    for part in (train, test):
        coo = part.matrix.tocoo()
        seen.update(zip(coo.row.tolist(), coo.col.tolist(), part.timestamps.tolist(), strict=True))
    coo = data.matrix.tocoo()
    whole = collections.Counter(zip(coo.row.tolist(), coo.col.tolist(), data.timestamps.tolist(), strict=True))
    return seen == whole and train.shape == test.shape == data.shape


def splits() -> Iterator[Case]:
    data = dated()
    rows = np.diff(data.matrix.indptr)

    def at_random(parts: Any) -> bool:
        held = np.diff(parts[1].matrix.indptr)
        low, high = np.floor(rows * 0.3 + 1e-9), np.minimum(np.ceil(rows * 0.3 - 1e-9), rows - 1)
        return parts_fit(data, *parts) and bool(((held >= np.minimum(low, rows - 1)) & (held <= high)).all())

    yield _right("split at random", lambda: data.split("random", test_fraction=0.3, random_state=1), at_random)

    def last_of_each(parts: Any) -> bool:
        expected = set()
        for u in range(data.shape[0]):
            cells = slice(*data.matrix.indptr[u : u + 2])
            order = sorted(zip(data.timestamps[cells].tolist(), data.matrix.indices[cells].tolist(), strict=True))
            expected |= {(u, j) for _, j in order[max(1, len(order) - 3) :]}
        return parts_fit(data, *parts) and set(entries(parts[1].matrix)) == expected

    yield _right("split off the last three, with equal times", lambda: data.split("last", n=3), last_of_each)

    def latest_share(parts: Any) -> bool:
        t = data.timestamps
        sizes = [int((t >= moment).sum()) for moment in np.unique(t)]
        return parts_fit(data, *parts) and parts[1].matrix.nnz == max(s for s in [*sizes, 0] if s <= 0.25 * len(t))

    yield _right("split by time, with equal times", lambda: data.split("time", test_fraction=0.25), latest_share)
    yield _right(
        "split at a moment between whole times",
        lambda: data.split("time", at=14.5),
        lambda parts: parts_fit(data, *parts) and parts[1].timestamps.min() == 15 and parts[0].timestamps.max() == 14,
    )
    days = Interactions.from_arrays(
        [1, 1, 2], [1, 2, 1], timestamps=np.array(["2024-05-01T23:59", "2024-05-02", "2024-05-03"], "M8[s]")
    )
    for at in (dt.date(2024, 5, 2), dt.datetime(2024, 5, 2), np.datetime64("2024-05-02", "ns")):
        yield _right(
            f"split at a {type(at).__name__}", lambda at=at: days.split("time", at=at)[1], lambda t: t.matrix.nnz == 2
        )
    same = Interactions.from_arrays([1, 1, 2, 2], [1, 2, 1, 2], timestamps=[5, 5, 5, 5])
    yield _either(
        "split by time where all times are equal",
        lambda: same.split("time", test_fraction=0.5),
        lambda parts: parts[0].matrix.nnz == 4 and parts[1].matrix.nnz == 0,
        "time",
    )


def chosen() -> Iterator[Case]:
    data = dated()

    def core(found: Interactions) -> bool:
        cells = set(entries(data.matrix))
        while True:
            users = collections.Counter(u for u, _ in cells)
            kept = {(u, i) for u, i in cells if users[u] >= 9}
            items = collections.Counter(i for _, i in kept)
            kept = {(u, i) for u, i in kept if items[i] >= 12}
            if kept == cells:
                break
            cells = kept
        ids = {(found.users[u], found.items[i]) for u, i in entries(found.matrix)}
        return ids == {(data.users[u], data.items[i]) for u, i in cells} and len(cells) > 0

    yield _right("the core of users and items", lambda: data.core(9, 12), core)
    yield _refused("cells chosen by numbers", lambda: data.select(np.arange(3)), "cells")
    yield _refused("cells chosen by a mask of another length", lambda: data.select(np.ones(3, bool)), "cells")
    yield _right(
        "no cell chosen",
        lambda: data.select(np.zeros(data.matrix.nnz, bool)),
        lambda d: d.shape == data.shape and d.matrix.nnz == 0 and len(d.timestamps) == 0,
    )
    rated = Interactions.from_arrays([0, 0, 1], [0, 1, 1], [np.nan, 4.0, 3.5])
    yield _right(
        "ones of what is known and high enough",
        lambda: rated.binarize(threshold=3.75),
        lambda d: entries(d.matrix) == {(0, 1): 1.0} and d.shape == (2, 2),
    )
    yield _refused("ones from NaN up", lambda: rated.binarize(threshold=np.nan), "threshold")
    yield _refused("unknown values in a fit", lambda: lfm_np.als(rated, factors=2), "x", "non-finite", "row 0")
    yield _right(
        "a deep copy and a pickle",
        lambda: (copy.deepcopy(data), pickle.loads(pickle.dumps(data))),
        lambda both: all(
            d.users.tolist() == data.users.tolist()
            and d.timestamps.tolist() == data.timestamps.tolist()
            and entries(d.matrix) == entries(data.matrix)
            for d in both
        ),
    )


# ---- tables ---------------------------------------------------------------------------------------------------------


def tables() -> Iterator[Case]:
    def categories() -> Any:
        import pandas as pd

        users = pd.Categorical(["b", "a", "b"], categories=["z", "b", "a"], ordered=True)
        return Interactions.from_frame(pd.DataFrame({"user": users, "item": [3, 1, 1]}))

    yield _right(
        "categories that no row has", categories, lambda d: d.users.tolist() == ["a", "b"] and d.shape == (2, 2)
    )

    def missing() -> Any:
        import pandas as pd

        frame = pd.DataFrame({"user": pd.array([1, None, 2, None], "Int64"), "item": [1, 2, 3, 4]})
        return Interactions.from_frame(frame)

    yield _refused("two nullable integers that are null", missing, "user", "2")

    def zoned() -> Any:
        import polars as pl

        moments = pl.Series([dt.datetime(2024, 5, 1, 23), dt.datetime(2024, 5, 2, 1)]).dt.replace_time_zone(
            "America/New_York"
        )
        frame = pl.DataFrame({"user": [1, 1], "item": [1, 2], "when": moments})
        return Interactions.from_frame(frame.lazy(), timestamp="when").split("time", at=dt.datetime(2024, 5, 2, 4))

    yield _right("times with a zone become UTC", zoned, lambda parts: entries(parts[1].matrix) == {(0, 1): 1.0})

    def text(name: str, content: str, **options: Any) -> Any:
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, name)
            with gzip.open(path, "wt") if name.endswith(".gz") else open(path, "w") as file:
                file.write(content)
            return Interactions.from_csv(path, **options)

    yield _right(
        "CSV, a user called NA in quotes",
        lambda: text("a.csv", 'user,item\n"NA",1\nx,2\n"007",2\n'),
        lambda d: d.users.tolist() == ["007", "NA", "x"],
    )
    yield _refused("CSV, a user called NA", lambda: text("a.csv", "user,item\nNA,1\nx,2\n"), "user", "1")
    yield _right(
        "CSV, compressed, with tabs and a mark at its start",
        lambda: text("a.csv.gz", "\ufeffuser\titem\tstars\nann\t1\t2.5\n", delimiter="\t", value="stars"),
        lambda d: d.users.tolist() == ["ann"] and d.matrix.data.tolist() == [2.5],
    )

    def partitioned() -> Any:
        import pyarrow as pa
        import pyarrow.parquet as pq

        with tempfile.TemporaryDirectory() as folder:
            for country, type_ in {"DE": pa.int64(), "AT": pa.int8()}.items():
                os.mkdir(os.path.join(folder, f"country={country}"))
                table = pa.table({"item": pa.array([3, 3, 5], type_)})
                pq.write_table(table, os.path.join(folder, f"country={country}", "x.parquet"))
            return Interactions.from_parquet(folder, user="country", duplicates="count", min_item_interactions=2)

    yield _right(
        "Parquet, users in the names of folders, items of two types",
        partitioned,
        lambda d: d.users.tolist() == ["AT", "DE"] and d.matrix.toarray().tolist() == [[2, 1], [2, 1]],
    )


def cases() -> list[Case]:
    return [case for part in (pairs, dictionaries, ids, times, splits, chosen, tables) for case in part()]
