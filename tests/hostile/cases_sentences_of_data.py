"""Sentences about pairs, ids, tables, splits and data sets, each recounted with dictionaries."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import scipy.sparse as sp

from .case import Case, Group
from .sentences_by_numpy import lfm_np
from .working_days import NAN, faultless, raised, tells, wrong

_GROUP = Group("sentence data")
_holds = faultless(_GROUP)
_refused = _GROUP.refused
BIG = np.float32(3e38)


def _records(seed: int = 0, N: int = 300) -> tuple[Any, Any, Any, Any]:
    draw = np.random.default_rng(seed)
    return (
        draw.integers(0, 12, N),
        draw.integers(0, 8, N),
        draw.integers(-9, 10, N).astype(float),
        draw.integers(0, 40, N),
    )


COMBINED: dict[str, Any] = {
    "sum": lambda values: math.fsum(values),
    "last": lambda values: values[-1],
    "mean": lambda values: math.fsum(values) / len(values),
    "max": max,
    "count": len,
}


def _by_pair(duplicates: str) -> list[str]:
    users, items, values, _ = _records()
    cells: dict[tuple[int, int], list[float]] = {}
    for u, i, x in zip(users.tolist(), items.tolist(), values.tolist(), strict=True):
        cells.setdefault((u, i), []).append(x)
    X = lfm_np.to_csr(np.column_stack([users, items]), shape=(15, 9), values=values, duplicates=duplicates)
    rows = np.repeat(np.arange(15), np.diff(X.indptr))
    mine = [(u, i, np.float32(COMBINED[duplicates](cells[u, i]))) for u, i in sorted(cells)]
    return wrong(
        cells=list(zip(rows.tolist(), X.indices.tolist(), X.data.tolist(), strict=True)) == mine,
        zeros=duplicates not in ("sum", "mean") or (X.data == 0).any(),
        kind=X.dtype == np.float32 and X.shape == (15, 9),
        indices=X.indices.dtype == X.indptr.dtype == np.int32 and X.has_canonical_format,
    )


def _in_float64() -> list[str]:
    pairs = np.zeros((1002, 2), int)
    pairs[-1] = 0, 1
    values = [2.0**25, *[1.0] * 1000, 5.0]
    summed = lfm_np.to_csr(pairs, values=values)
    mean = lfm_np.to_csr([(0, 0)] * 4, values=[BIG, BIG, -BIG, BIG], duplicates="mean")
    small = lfm_np.to_csr([(0, 0)] * 2, values=[BIG, -BIG])
    return wrong(
        sum=summed.data.tolist() == [np.float32(2.0**25 + 1000), 5.0], shape=summed.shape == (1, 2),
        mean=mean.data.tolist() == [np.float32(BIG.astype(float) / 2)], zero=small.nnz == 1 and small.data[0] == 0,
    )  # fmt: skip


def _dictionary(dtype: Any) -> list[str]:
    users, items, _, _ = _records(4)
    pairs = np.column_stack([users, items]).astype(dtype)
    found = lfm_np.build_dict(pairs)
    mine: dict[int, list[int]] = {}
    for u, i in sorted(set(map(tuple, pairs.tolist()))):
        mine.setdefault(u, []).append(i)
    arrays = list(found.values())
    return wrong(
        same={k: v.tolist() for k, v in found.items()} == mine, order=list(found) == sorted(mine),
        keys=all(type(k) is int for k in found), dtype=all(v.dtype == np.dtype(dtype) for v in arrays),
        read_only=not any(v.flags.writeable for v in arrays), one=len({id(v.base) for v in arrays}) == 1,
    )  # fmt: skip


def _timed(duplicates: str) -> list[str]:
    """The latest record of a pair: an unknown time is the earliest, equal times count in the order given."""
    users, items, values, times = _records(1)
    stamps = times.astype(float)
    stamps[::5] = NAN
    data = lfm_np.Interactions.from_arrays(users, items, values, stamps, duplicates=duplicates)
    cells: dict[tuple[int, int], list[tuple[float, float]]] = {}
    for u, i, x, t in zip(users.tolist(), items.tolist(), values.tolist(), stamps.tolist(), strict=True):
        cells.setdefault((u, i), []).append((-math.inf if math.isnan(t) else t, x))
    want, when = [], []
    for pair in sorted(cells):
        ordered = sorted(cells[pair], key=lambda record: record[0])  # stable
        want.append(np.float32(COMBINED[duplicates]([x for _, x in ordered])))
        when.append(NAN if ordered[-1][0] == -math.inf else ordered[-1][0])
    return wrong(
        values=data.matrix.data.tolist() == want, times=np.array_equal(data.timestamps, when, equal_nan=True)
    )  # fmt: skip


def _unknown_values() -> list[str]:
    users, items = ["a", "a", "a", "b", "b"], [1, 1, 2, 1, 1]
    make = lfm_np.Interactions.from_arrays
    summed = make(users, items, [1.0, NAN, 3.0, NAN, NAN]).matrix.data
    counted = make(users, items, [1.0, NAN, 3.0, NAN, NAN], duplicates="count").matrix.data
    times = np.array(["2024-01-02", "NaT", "2024-01-01", "NaT", "NaT"], "datetime64[D]")
    last = make(users, items, [1.0, NAN, 3.0, 7.0, 8.0], times, duplicates="last")
    return wrong(
        sum=np.array_equal(summed, [NAN, 3, NAN], equal_nan=True), count=counted.tolist() == [2, 1, 2],
        last=last.matrix.data.tolist() == [1, 3, 8],
        times=np.array_equal(np.isnat(last.timestamps), [False, False, True]) and last.timestamps.dtype.kind == "M",
    )  # fmt: skip


def _ids_in_order() -> list[str]:
    texts = ["b", "B", "é", "e\u0301", "\U0001f600", "\uffee", "", " a"]
    days = np.array(["2024-03-01", "1969-12-31", "2024-02-29"], "datetime64[D]")
    data = lfm_np.Interactions.from_arrays(texts, np.resize(days, 8))
    rows = data.rows_of(["é", "nobody", "B"], missing=-1)
    shaped = data.item_ids(np.array([[0, 2], [1, 1]]))
    padded = data.user_ids(np.array([[7, 0]]))
    return wrong(
        users=data.users.tolist() == sorted(texts),
        items=data.items.tolist() == sorted(days.tolist()),
        rows=rows.tolist() == [sorted(texts).index("é"), -1, sorted(texts).index("B")] and rows.dtype == np.int64,
        shaped=shaped.shape == (2, 2)
        and shaped.tolist() == [[days.min().item(), days.max().item()], [days[2].item()] * 2],
        users_shape=padded.tolist() == [[sorted(texts)[7], sorted(texts)[0]]],
    )


def _thresholds() -> list[str]:
    values = [4.0, 3.9999, NAN, 5.0, 0.0, -1.0]
    data = lfm_np.Interactions.from_arrays([0, 0, 1, 1, 2, 3], [0, 1, 0, 1, 0, 1], values, [6, 5, 4, 3, 2, 1])
    liked, all_of = data.binarize(threshold=4), data.binarize()
    known = data.select(~np.isnan(data.matrix.data))
    return wrong(
        liked=liked.matrix.toarray().tolist() == [[1, 0], [0, 1], [0, 0], [0, 0]],
        times=liked.timestamps.tolist() == [6, 3],
        all=all_of.matrix.data.tolist() == [1.0] * 6,
        known=known.matrix.nnz == 5 and known.timestamps.tolist() == [6, 5, 3, 2, 1],
        rows=liked.shape == known.shape == (4, 2),
        untouched=np.array_equal(data.matrix.data, np.asarray(values, np.float32), equal_nan=True),
    )


def _core() -> list[str]:
    users, items, _, times = _records(7, 110)
    users, items = users * 2, items % 7
    data = lfm_np.Interactions.from_arrays(users, items, timestamps=times, duplicates="last")
    cells = set(zip(users.tolist(), items.tolist(), strict=True))
    before = None
    while before != cells:
        before = set(cells)
        cells = {c for c in cells if sum(d[0] == c[0] for d in cells) >= 3}
        cells = {c for c in cells if sum(d[1] == c[1] for d in cells) >= 8}
    core = data.core(3, 8)
    rows = np.repeat(np.arange(core.shape[0]), np.diff(core.matrix.indptr))
    found = set(zip(core.users[rows].tolist(), core.items[core.matrix.indices].tolist(), strict=True))
    latest = {}
    for u, i, t in sorted(zip(users.tolist(), items.tolist(), times.tolist(), strict=True), key=lambda r: r[2]):
        latest[u, i] = t
    mine = [latest[u, i] for u, i in sorted(cells)]
    return wrong(
        cells=found == cells and 0 < len(cells) < data.matrix.nnz,
        times=core.timestamps.tolist() == mine,
        ids=core.users.tolist() == sorted({c[0] for c in cells})
        and core.items.tolist() == sorted({c[1] for c in cells}),
    )


def _pairs(data: Any) -> set[tuple[int, int]]:
    return set(zip(*(part.tolist() for part in data.matrix.nonzero()), strict=True))


def _whole(data: Any, train: Any, test: Any) -> bool:
    both = _pairs(train), _pairs(test)
    return (
        both[0] | both[1] == _pairs(data)
        and not both[0] & both[1]
        and train.shape == test.shape == data.shape
        and np.array_equal(train.users, data.users)
        and np.array_equal(test.items, data.items)
    )


def _at_random() -> list[str]:
    m = 3000
    lengths = np.resize([1, 2, 3, 10], m)
    users = np.repeat(np.arange(m), lengths)
    items = np.concatenate([np.arange(d) for d in lengths])
    data = lfm_np.Interactions.from_arrays(users, items, timestamps=users * 100 + items)
    train, test = data.split("random", test_fraction=0.45, random_state=3)
    held = np.diff(test.matrix.indptr)
    facts = {f"of {d}": set(held[lengths == d].tolist()) == want
             for d, want in ((1, {0}), (2, {0, 1}), (3, {1, 2}), (10, {4, 5}))}  # fmt: skip
    for d in (2, 3, 10):
        share = 0.45 * d - math.floor(0.45 * d)
        facts[f"mean of {d}"] = bool(
            abs(held[lengths == d].mean() - 0.45 * d) < 6 * math.sqrt(share * (1 - share) / (m / 4))
        )
    greedy = data.split("random", test_fraction=0.95, random_state=3)[0]
    rows = np.repeat(np.arange(m), held)
    again = data.split("random", test_fraction=0.45, random_state=3)[1]
    return wrong(
        **facts,
        whole=_whole(data, train, test),
        stays=bool((np.diff(greedy.matrix.indptr) >= 1).all()),
        times=test.timestamps.tolist() == (rows * 100 + test.matrix.indices).tolist(),
        again=_pairs(again) == _pairs(test),
    )


def _by_last(n: int) -> list[str]:
    users, items, _, times = _records(2, 120)
    data = lfm_np.Interactions.from_arrays(users, items, timestamps=times // 8)
    train, test = data.split("last", n=n)
    mine = set()
    for row in range(data.shape[0]):
        at = slice(*data.matrix.indptr[row : row + 2])
        cells = sorted(zip(data.timestamps[at].tolist(), data.matrix.indices[at].tolist(), strict=True))
        mine |= {(row, column) for _, column in cells[max(1, len(cells) - n) :]}
    return wrong(test=_pairs(test) == mine, whole=_whole(data, train, test))


def _by_time() -> list[str]:
    when = np.concatenate([np.arange(28), [50, 50], np.full(10, 60)])  # of 40 cells ten are the latest, then two
    data = lfm_np.Interactions.from_arrays(np.arange(40) % 7, np.arange(40), timestamps=when)
    sizes = {f: data.split("time", test_fraction=f)[1].matrix.nnz for f in (0.25, 0.29, 0.3, 0.325)}
    at = data.split("time", at=50)
    return wrong(
        sizes=sizes == {0.25: 10, 0.29: 10, 0.3: 12, 0.325: 13},
        at=at[1].matrix.nnz == 12 and at[0].timestamps.max() == 27,
        nothing=data.split("time", at=61)[1].matrix.nnz == 0,
        whole=_whole(data, *at),
    )


def _by_moment() -> list[str]:
    when = np.array(["2024-05-01", "2024-05-02", "2024-05-03", "2024-05-04"], "datetime64[D]")
    data = lfm_np.Interactions.from_arrays([1, 1, 2, 2], [1, 2, 1, 2], timestamps=when)
    asked = ("2024-05-03", dt.datetime(2024, 5, 3), dt.date(2024, 5, 3), np.datetime64("2024-05-02T00:00:00.000000001"))
    return [repr(at) for at in asked if data.split("time", at=at)[1].matrix.toarray().tolist() != [[0, 0], [1, 1]]]


def _built_by_hand() -> list[str]:
    coo = sp.coo_array((np.array([3.0, NAN, 1.0]), ([1, 0, 1], [2, 1, 0])), shape=(2, 3))
    users, items, times = np.array(["x", "y"]), np.array([9, 3, 5]), np.array([1, 2, 3])
    bare = lfm_np.Interactions(coo, users, items)
    data = lfm_np.Interactions(bare.matrix.astype(float), users, items, times)
    error = raised(lambda: lfm_np.Interactions(coo, users, items, times))
    return wrong(
        canonical=data.matrix.indices.tolist() == [1, 0, 2] and data.matrix.dtype == np.float32,
        values=np.array_equal(data.matrix.data, [NAN, 1, 3], equal_nan=True),
        times=data.timestamps.tolist() == [1, 2, 3],
        ids=data.columns_of([5, 9]).tolist() == [2, 0],
        bare=abs(data.matrix - bare.matrix).nnz == 1,
        order=isinstance(error, ValueError) and tells(error, "canonical", "timestamps"),
    )


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    make = lfm_np.Interactions.from_arrays
    for duplicates in COMBINED:
        yield _holds(f"several records of a pair, {duplicates}, by a dictionary", lambda d=duplicates: _by_pair(d))
        yield _holds(
            f"the cell gets the latest time whatever becomes of values: {duplicates}", lambda d=duplicates: _timed(d)
        )
    yield _holds("sums and means in float64, zeros kept", _in_float64)
    yield _refused("a sum beyond float32", lambda: lfm_np.to_csr([(0, 0)] * 2, values=[BIG, BIG]), "values|sum")
    yield _refused("a value beyond float32", lambda: lfm_np.to_csr([(0, 0)], values=[1e39]), "values")
    yield _refused("a pair outside the shape", lambda: lfm_np.to_csr([(0, 3)], shape=(3, 3)), "shape|column|pairs")
    yield _refused(
        "a pair that is there twice", lambda: lfm_np.to_csr([(4, 2), (0, 1), (4, 2)], duplicates="error"), "4", "2"
    )
    for dtype in ("uint8", "int64"):
        yield _holds(f"a dictionary of {dtype}", lambda d=dtype: _dictionary(d))
    yield _holds("NaN among summed values, counted ones, and NaT", _unknown_values)
    yield _holds("ids ascend by code point, and come back in any shape", _ids_in_order)
    yield _refused("an unknown id is named", lambda: make(["a", "b"], [1, 2]).rows_of(["b", "zed"]), "zed")
    yield _refused("column -1 is not the last item", lambda: make(["a", "b"], [1, 2]).item_ids([0, -1]), "-1|missing")
    yield _holds("of every cell, or of those whose value is known and at least the threshold", _thresholds)
    yield _holds("the largest part in which all have so many cells", _core)
    yield _holds("at random, rounded so that the mean is exact", _at_random)
    for n in (1, 3):
        yield _holds(f"the {n} latest, the higher column later", lambda n=n: _by_last(n))
    yield _holds("the largest set of latest cells that does not exceed the share", _by_time)
    yield _holds("the first moment of the test set, however it is said", _by_moment)
    yield _refused("last without times", lambda: make([1, 1], [1, 2]).split("last"), "timestamps|times")
    yield _refused(
        "time with an unknown one",
        lambda: make([1, 1], [1, 2], timestamps=[1.0, NAN]).split("time"),
        "timestamps|times|unknown",
    )
    yield _holds("a matrix becomes canonical float32", _built_by_hand)
