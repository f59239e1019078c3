"""Everything that docs/data.md names, at values that no example has, beside dictionaries and plain loops."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from typing import Any

import numpy as np
import scipy.sparse as sp

from .case import Case, Group
from .sentences_by_numpy import lfm_np
from .working_days import faultless, wrong

_holds = faultless(Group("second opinions"))
NAN = float("nan")


def cells_of(data: Any) -> dict[Any, tuple[float, Any]]:
    """What is stored, by ids."""
    matrix = data.matrix
    rows = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    times = [None] * matrix.nnz if data.timestamps is None else data.timestamps.tolist()
    users, items = data.users[rows].tolist(), data.items[matrix.indices].tolist()
    return {(u, i): (x, t) for u, i, x, t in zip(users, items, matrix.data.tolist(), times, strict=True)}


def grouped(pairs: Any, values: Any) -> dict[tuple[int, int], list[float]]:
    found: dict[tuple[int, int], list[float]] = {}
    for (i, j), x in zip(np.asarray(pairs).tolist(), np.asarray(values).tolist(), strict=True):
        found.setdefault((i, j), []).append(x)
    return found


def _matrix(cells: dict[tuple[int, int], float], shape: tuple[int, int]) -> np.ndarray:
    full = np.full(shape, np.nan)
    for (i, j), x in cells.items():
        full[i, j] = x
    return full


def _stored(X: Any) -> np.ndarray:
    full = np.full(X.shape, np.nan)
    for i in range(X.shape[0]):
        for at in range(int(X.indptr[i]), int(X.indptr[i + 1])):
            full[i, X.indices[at]] = X.data[at]
    return full


def _every_way_to_combine() -> list[str]:
    draw = np.random.default_rng(5)
    pairs = np.asfortranarray(np.column_stack([draw.integers(0, 31, 900), draw.integers(0, 7, 900)]).astype(np.uint8))
    values = draw.integers(-40, 41, 900) / 8
    values[:40] = draw.integers(1, 9, 40) * 1024.0
    groups = grouped(pairs, values)
    shape = (int(pairs[:, 0].max()) + 1, int(pairs[:, 1].max()) + 1)
    ways = {
        "sum": sum,
        "last": lambda x: x[-1],
        "mean": lambda x: float(np.float32(sum(x) / len(x))),
        "max": max,
        "count": len,
    }
    facts = {}
    for name, way in ways.items():
        X = lfm_np.to_csr(pairs, values=values, duplicates=name)
        mine = _matrix({cell: way(x) for cell, x in groups.items()}, shape)  # type: ignore[operator]
        facts[name] = X.shape == shape and np.array_equal(_stored(X), mine, equal_nan=True)
        facts[f"{name}, form"] = X.dtype == np.float32 and X.indices.dtype == np.int32 and X.nnz == len(groups)
        facts[f"{name}, order"] = all(
            (np.diff(X.indices[a:b]) > 0).all() for a, b in zip(X.indptr[:-1], X.indptr[1:], strict=True)
        )
    return wrong(**facts)


def _no_pair_at_all() -> list[str]:
    X = lfm_np.to_csr(np.empty((0, 2), np.int64), shape=(3, 4), values=np.empty(0), duplicates="mean")
    return wrong(shape=X.shape == (3, 4), none=X.nnz == 0, offsets=X.indptr.tolist() == [0, 0, 0, 0])


def _dictionary_with_gaps() -> list[str]:
    draw = np.random.default_rng(8)
    pairs = (draw.integers(0, 60, (700, 2)) * np.array([31, 500])).astype(np.int16)
    mine: dict[int, set[int]] = {}
    for i, j in pairs.tolist():
        mine.setdefault(i, set()).add(j)
    found = lfm_np.build_dict(pairs)
    return wrong(
        keys=list(found) == sorted(mine),
        lists=all(found[i].tolist() == sorted(mine[i]) for i in mine),
        dtype={array.dtype for array in found.values()} == {np.dtype(np.int16)},
        locked=not any(array.flags.writeable for array in found.values()),
    )


def _latest_of_uncertain_times() -> list[str]:
    draw = np.random.default_rng(2)
    hours = np.datetime64("1969-12-31T20", "h") + draw.integers(0, 11, 400)
    names = np.array([b"a", b"Z", b"zz", b"0", b"a0"])[draw.integers(0, 5, 400)]
    values, times = draw.integers(-9, 10, 400) / 4, draw.integers(0, 6, 400).astype(np.float64)
    times[draw.random(400) < 0.4] = np.nan
    best: dict[Any, tuple[float, float]] = {}
    for u, i, x, t in zip(hours.tolist(), names.tolist(), values.tolist(), times.tolist(), strict=True):
        before = best.get((u, i))
        late = before is None or np.isnan(before[1]) or t >= before[1]
        best[u, i] = (x, t) if late else before  # type: ignore[assignment]
    data = lfm_np.Interactions.from_arrays(hours, names, values, times, duplicates="last")
    found = cells_of(data)
    return wrong(
        users=np.array_equal(data.users, np.unique(hours)),
        items=data.items.tolist() == [b"0", b"Z", b"a", b"a0", b"zz"],
        keys=found.keys() == best.keys(),
        values=all(found[key][0] == best[key][0] for key in best),
        times=all(found[key][1] == t or (np.isnan(t) and np.isnan(found[key][1])) for key, (_, t) in best.items()),
    )


def _latest_time_whatever_the_values() -> list[str]:
    """Of the pair (7, 3): values 2, NaN, 5 at times 30, 10, 20; of the others nothing is unknown."""
    users, items = [7, 7, -2, 7, -2], [3, 3, 3, 3, 9]
    values, times = [2.0, NAN, 1.5, 5.0, -4.0], [30, 10, 8, 20, 99]
    facts = {}
    for way, mine in (("sum", NAN), ("mean", NAN), ("max", NAN), ("count", 3.0), ("last", 2.0)):
        found = cells_of(lfm_np.Interactions.from_arrays(users, items, values, times, duplicates=way))
        x, t = found[7, 3]
        facts[way] = t == 30 and (x == mine or (np.isnan(x) and np.isnan(mine)))
        single = {"count": (1.0, 1.0)}.get(way, (1.5, -4.0))
        facts[f"{way}, others"] = (found[-2, 3], found[-2, 9]) == ((single[0], 8), (single[1], 99))
    return wrong(**facts)


def _some(seed: int, count: int = 300, m: int = 40, n: int = 17, ties: int = 12) -> tuple[Any, dict[Any, Any]]:
    """Records without repetitions, in no order, and the dictionary of them; users 100, 103 … and items "i00" …"""
    draw = np.random.default_rng(seed)
    at = draw.permutation(draw.choice(m * n, count, replace=False))
    users, items = 100 + 3 * (at // n), np.array([f"i{j:02}" for j in at % n])
    values, times = draw.integers(1, 11, count) / 2, draw.integers(0, ties, count)
    data = lfm_np.Interactions.from_arrays(users, items, values, times)
    keys = zip(users.tolist(), items.tolist(), strict=True)
    return data, dict(zip(keys, zip(values.tolist(), times.tolist(), strict=True), strict=True))


def _by_user(cells: dict[Any, Any]) -> dict[Any, list[Any]]:
    found: dict[Any, list[Any]] = {}
    for key in cells:
        found.setdefault(key[0], []).append(key)
    return found


def _ids_there_and_back() -> list[str]:
    data, mine = _some(1)
    users, items = sorted({u for u, _ in mine}), sorted({i for _, i in mine})
    rows = np.array([[3, 0, len(users) - 1], [1, 1, 2]], np.uint16)
    asked = [users[5], -1, users[0], users[5]]
    return wrong(
        shape=data.shape == (len(users), len(items)),
        ids=data.user_ids(rows).tolist() == [[users[r] for r in row] for row in rows.tolist()],
        rows=data.rows_of(asked, missing=-1).tolist() == [5, -1, 0, 5],
        columns=data.columns_of([items[2], "zz"], missing=4).tolist() == [2, 4],
        dtype=data.columns_of(items).dtype == np.int64,
        filled=data.item_ids([[1, -1]], missing="none").tolist() == [[items[1], "none"]],
        other=data.item_ids([-1, 0], missing=0).tolist() == [0, items[0]],
    )


def _core_of_a_core() -> list[str]:
    data, mine = _some(3, 260, 60, 25)
    left = set(mine)
    while True:
        users = [u for u, _ in left]
        kept = {(u, i) for u, i in left if users.count(u) >= 4}
        items = [i for _, i in kept]
        kept = {(u, i) for u, i in kept if items.count(i) >= 7}
        if kept == left:
            break
        left = kept
    found = data.core(4, 7)
    return wrong(
        some=0 < len(left) < len(mine),
        cells=cells_of(found) == {key: mine[key] for key in left},
        users=found.users.tolist() == sorted({u for u, _ in left}),
        items=found.items.tolist() == sorted({i for _, i in left}),
        before=cells_of(data) == mine,
    )


def _selected_and_binarized() -> list[str]:
    data, mine = _some(4)
    cells = np.array([t % 3 != 0 for _, (_, t) in sorted(mine.items())])
    some = data.select(cells)
    high = some.binarize(threshold=2.5)
    left = {key: value for key, value in mine.items() if value[1] % 3}
    return wrong(
        some=cells_of(some) == left,
        shape=some.shape == high.shape == data.shape,
        high=cells_of(high) == {key: (1.0, t) for key, (x, t) in left.items() if x >= 2.5},
    )


def _last_two_with_ties() -> list[str]:
    data, mine = _some(6, 160, 60, 9, ties=4)
    test = set()
    for keys in _by_user(mine).values():
        late = sorted(keys, key=lambda key: (mine[key][1], key[1]), reverse=True)
        test |= set(late[: min(2, len(keys) - 1)])
    found = data.split("last", n=2)
    return wrong(
        test=cells_of(found[1]) == {key: mine[key] for key in test},
        train=cells_of(found[0]) == {key: mine[key] for key in mine.keys() - test},
        shapes=found[0].shape == found[1].shape == data.shape,
    )


def _latest_share() -> list[str]:
    data, mine = _some(9, 211, ties=23)
    facts = {}
    for share in (0.013, 0.31, 0.77):
        when = sorted({t for _, t in mine.values()}, reverse=True)
        test: set[Any] = set()
        for t in when:
            more = test | {key for key in mine if mine[key][1] == t}
            if len(more) > share * len(mine):
                break
            test = more
        train, held = data.split("time", test_fraction=share)
        facts[f"{share}"] = cells_of(held).keys() == test and cells_of(train).keys() == mine.keys() - test
    return wrong(**facts)


def _from_a_day_on() -> list[str]:
    draw = np.random.default_rng(12)
    days = np.datetime64("2024-02-20") + draw.integers(0, 20, 90)
    users, items = np.arange(90) // 4, np.arange(90) % 13
    data = lfm_np.Interactions.from_arrays(users, items, timestamps=days)
    train, test = data.split("time", at="2024-02-29")
    mine = {(int(u), int(i)): d for u, i, d in zip(users, items, days, strict=True)}
    late = {key for key, d in mine.items() if d >= np.datetime64("2024-02-29")}
    return wrong(test=cells_of(test).keys() == late, train=cells_of(train).keys() == mine.keys() - late)


def _random_share() -> list[str]:
    """300 users of 5 cells, 300 of 3, 100 of 1: 1.85 and 1.11 are held out in the mean, and never all."""
    sizes = np.repeat([5, 3, 1], [300, 300, 100])
    users = np.repeat(np.arange(700), sizes)
    items = np.concatenate([(np.arange(d) * 7 + u) % 40 for u, d in enumerate(sizes)])
    data = lfm_np.Interactions.from_arrays(users, items, np.arange(1, len(users) + 1))
    train, test = data.split("random", test_fraction=0.37, random_state=np.random.default_rng(4))
    held = np.diff(test.matrix.indptr)
    both = np.sort(np.concatenate([train.matrix.data, test.matrix.data]))
    return wrong(
        whole=np.array_equal(both, np.arange(1, len(users) + 1)),
        five=set(held[:300].tolist()) <= {1, 2},
        three=set(held[300:600].tolist()) <= {1, 2},
        one=not held[600:].any(),
        mean5=abs(held[:300].sum() - 555) < 6 * np.sqrt(300 * 0.85 * 0.15),
        mean3=abs(held[300:600].sum() - 333) < 6 * np.sqrt(300 * 0.11 * 0.89),
    )


def _made_by_hand() -> list[str]:
    draw = np.random.default_rng(15)
    full = np.where(draw.random((9, 6)) < 0.4, draw.integers(1, 99, (9, 6)) / 4, 0.0)
    users, items = np.array([f"u{j}" for j in range(9)]), np.arange(6) * 10 - 7
    data = lfm_np.Interactions(sp.csc_matrix(full), users, items)
    users[0], items[0] = "??", 0
    mine = {(f"u{i}", 10 * j - 7): (full[i, j], None) for i, j in zip(*np.nonzero(full), strict=True)}
    again = [copy.deepcopy(data), pickle.loads(pickle.dumps(data))]
    writable = data.matrix.copy()
    writable.data[:] = 0
    return wrong(
        cells=cells_of(data) == mine,
        again=all(cells_of(other) == mine for other in again),
        locked=not data.matrix.data.flags.writeable and not data.users.flags.writeable,
        type=isinstance(data.matrix, sp.csr_array) and data.matrix.dtype == np.float32,
    )


def _interactions_of_any_size() -> list[str]:
    facts: dict[str, Any] = {"one": lfm_np.datasets.make_interactions(1, 1, 1).tolist() == [[0, 0]]}
    for m, n, most in ((257, 3, 3), (12_000, 5, 3), (2, 1000, 1000)):
        pairs = lfm_np.datasets.make_interactions(m, n, most, random_state=np.random.RandomState(3))
        keys = pairs[:, 0].astype(np.int64) * n + pairs[:, 1]
        counts = np.bincount(pairs[:, 0], minlength=m)
        name = f"{m} x {n}"
        facts[f"{name} sorted"] = (np.diff(keys) > 0).all() and pairs.dtype == np.int32
        facts[f"{name} range"] = pairs[:, 1].min() >= 0 and pairs[:, 1].max() < n
        facts[f"{name} counts"] = len(counts) == m and 1 <= counts.min() <= counts.max() <= most
        if m > 10_000:
            share = np.bincount(counts, minlength=4)[1:]
            facts["uniform"] = abs(share - m / 3).max() < 6 * np.sqrt(m * 2 / 9)
    return wrong(**facts)


def _held_out_pairs() -> list[str]:
    """With up to two a row half as many pairs as rows can be spared, and 0.45 of all are more than those."""
    facts = {}
    for most, share in ((2, 0.45), (6, 0.45), (3, 0.0)):
        train, test = lfm_np.datasets.make_interactions_train_test(900, 50, most, share, random_state=7)
        both = {(int(i), int(j)) for i, j in np.concatenate([train, test])}
        whole = len(train) + len(test)
        name = f"{most}, {share}"
        facts[f"{name} distinct"] = len(both) == whole
        facts[f"{name} each"] = np.unique(train[:, 0]).tolist() == list(range(900))
        facts[f"{name} share"] = len(test) == whole - 900 if most == 2 else abs(len(test) - share * whole) <= 0.5
        facts[f"{name} order"] = all((np.diff(p[:, 0] * 50 + p[:, 1]) > 0).all() for p in (train, test))
    return wrong(**facts)


def _planted_at_its_limits() -> list[str]:
    facts = {}
    for m, n, cells, words in (
        (400, 20, 2000, {"rank": 20, "zipf": 0.0, "tail": 100.0}),
        (301, 64, 301, {"rank": 1, "zipf": 10.0, "tail": 1.1}),
    ):
        data = lfm_np.datasets.planted(m, n, cells, random_state=np.random.SeedSequence(3), **words)
        again = lfm_np.datasets.planted(m, n, cells, random_state=np.random.SeedSequence(3), **words)
        facts[f"{m} cells"] = abs(data.matrix.nnz - cells) <= 6 * np.sqrt(m) / 2
        facts[f"{m} ones"] = set(data.matrix.data.tolist()) == {1.0} and data.matrix.has_canonical_format
        facts[f"{m} ids"] = data.users.tolist() == list(range(m)) and data.items.tolist() == list(range(n))
        facts[f"{m} again"] = cells_of(again) == cells_of(data)
    return wrong(**facts)


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    for name, call in (
        ("five ways to combine 900 pairs of bytes", _every_way_to_combine),
        ("a matrix of no pairs", _no_pair_at_all),
        ("a dictionary of int16 pairs with gaps", _dictionary_with_gaps),
        ("the latest of records with uncertain times, users that are hours", _latest_of_uncertain_times),
        ("a cell has the latest time whatever becomes of values", _latest_time_whatever_the_values),
        ("ids there and back, in arrays of two dimensions", _ids_there_and_back),
        ("the core of 4 and 7 by a loop", _core_of_a_core),
        ("select and binarize after another", _selected_and_binarized),
        ("the last two of each user where times are tied", _last_two_with_ties),
        ("the latest share, equal times together", _latest_share),
        ("from a leap day on", _from_a_day_on),
        ("a random share of five, three and one", _random_share),
        ("interactions made of a csc_matrix, and ids that change later", _made_by_hand),
        ("pairs of any size from a RandomState", _interactions_of_any_size),
        ("pairs held out where there are too few to spare", _held_out_pairs),
        ("planted at the ends of its ranges", _planted_at_its_limits),
    ):
        yield _holds(name, call)
