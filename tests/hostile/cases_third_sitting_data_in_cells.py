"""The third sitting: interactions by every subset, by counting draws and by the data sets that people publish."""

from __future__ import annotations

import datetime
import ipaddress
import os
from collections.abc import Iterator
from fractions import Fraction
from itertools import product
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import scipy.sparse as sp

import lfm_np

from .case import Case, Group, installed
from .working_days import faultless, raised, tells, wrong

_GROUP = Group("third sitting, data")
_holds = faultless(_GROUP)
_read_arrays = lfm_np.Interactions.from_arrays


def _values(data: Any) -> dict[Any, Any]:
    """The value of every pair of ids."""
    X = data.matrix.tocoo()
    pairs = zip(data.users[X.coords[0]].tolist(), data.items[X.coords[1]].tolist(), strict=True)
    return dict(zip(pairs, X.data.tolist(), strict=True))


def _one_generator() -> list[str]:
    """Two of ten cells, then two of the eight: what the second draw takes has nothing to do with the first.

    4,000 users; a count of probability p is within six of √(4000·p·(1 - p)) of 4000·p.
    """
    m, n = 4000, 10
    data = lfm_np.Interactions(sp.csr_array(np.ones((m, n))), np.arange(m), np.arange(n))
    draw = np.random.default_rng(7)
    rest, first = data.split("random", test_fraction=0.2, random_state=draw)
    kept, second = rest.split("random", test_fraction=0.25, random_state=draw)
    A, B, C = (part.matrix.toarray().astype(np.float64) for part in (first, second, kept))

    def likely(count: np.ndarray, p: float) -> bool:
        return bool((abs(count - m * p) < 6 * np.sqrt(m * p * (1 - p))).all())

    apart = ~np.eye(n, dtype=bool)
    pairs = A.T @ B  # that one cell is in the first part and another in the second: 1/5 · 8/9 · 1/4
    return wrong(
        parts=np.array_equal(A + B + C, np.ones((m, n))),
        sizes=bool((A.sum(1) == 2).all() and (B.sum(1) == 2).all()),
        first=likely(A.sum(0), 0.2),
        second=likely(B.sum(0), 0.2),
        pairs=likely(pairs[apart], 2 / 45),
    )


def _core(cells: np.ndarray, p: int, q: int) -> tuple[int, int]:
    """Users and items, as bits, of the union of all parts in which everybody has p cells and every item q."""
    m, n = cells.shape
    rows = [sum(1 << j for j in range(n) if cells[i, j]) for i in range(m)]
    columns = [sum(1 << i for i in range(m) if cells[i, j]) for j in range(n)]
    users = items = 0
    for a, b in product(range(1 << m), range(1 << n)):
        if all((rows[i] & b).bit_count() >= p for i in range(m) if a >> i & 1) and all(
            (columns[j] & a).bit_count() >= q for j in range(n) if b >> j & 1
        ):
            users, items = users | a, items | b
    return users, items


def _every_subset() -> list[str]:
    """The largest part of a matrix of 5 × 5, among all of its parts; cells keep their values and times."""
    draw, faults, kinds = np.random.default_rng(3), [], set()
    names, letters = np.array([50, 10, 40, 20, 30]), np.array(["e", "a", "d", "b", "c"])
    for number in range(12):
        cells = draw.random((5, 5)) < (0.35, 0.5, 0.65)[number % 3]
        p, q = ((1, 1), (2, 2), (3, 1), (1, 3))[number % 4]
        users, items = _core(cells, p, q)
        i, j = (np.array([k for k in range(5) if bits >> k & 1], np.int64) for bits in (users, items))
        kinds.add(len(i))
        if not len(i):
            continue
        X = sp.csr_array(np.where(cells, np.arange(1.0, 26.0).reshape(5, 5), 0.0))
        data = lfm_np.Interactions(X, names, letters, timestamps=X.data.astype(np.int64) * 2**57)
        part = data.core(p, q)
        mine = {(int(names[a]), str(letters[b])): 5.0 * a + b + 1 for a in i for b in j if cells[a, b]}
        times = [int(value) * 2**57 for value in part.matrix.data]
        if (
            part.users.tolist() != names[i].tolist()
            or part.items.tolist() != letters[j].tolist()
            or _values(part) != mine
            or part.timestamps.tolist() != times
        ):
            faults.append(f"{number}: {p}, {q}")
    return faults + wrong(several=len(kinds) > 2)


def _in_no_order() -> list[str]:
    """Ids that stand in no order, of a matrix by columns; all that is asked of parts of it."""
    dense = np.array([[0, 2, 0, 1], [4, 0, 0, 5], [0, 0, 0, 3], [1, 0, 0, 2]])
    users, items = np.array(["q", "bb", "zz", "a"]), np.array([7, -3, 100, 0], np.int16)
    data = lfm_np.Interactions(sp.csc_array(dense), users, items)
    pairs = [(i, j) for i in range(4) for j in range(4) if dense[i, j]]
    mine = {(str(users[i]), int(items[j])): float(dense[i, j]) for i, j in pairs}
    core, liked = data.core(2, 2), data.binarize(threshold=2)
    chosen = data.select(data.matrix.data != 2)
    return wrong(
        values=_values(data) == mine,
        rows=data.rows_of(["a", "q", "a", "b"], missing=-1).tolist() == [3, 0, 3, -1],
        columns=data.columns_of([0, 7, -3]).tolist() == [3, 0, 1],
        ids=data.item_ids([[3, 1], [0, 2]]).tolist() == [[0, -3], [7, 100]] and data.user_ids([2]).tolist() == ["zz"],
        # 100 and -3 have fewer than two cells; then "q" and "zz" have one each
        core=core.users.tolist() == ["bb", "a"] and core.items.tolist() == [7, 0],
        core_values=_values(core) == {("bb", 7): 4.0, ("bb", 0): 5.0, ("a", 7): 1.0, ("a", 0): 2.0},
        core_rows=core.rows_of(["a", "bb"]).tolist() == [1, 0],
        liked=_values(liked) == {pair: 1.0 for pair, value in mine.items() if value >= 2},
        chosen=_values(chosen) == {pair: value for pair, value in mine.items() if value != 2},
        shapes=liked.shape == chosen.shape == (4, 4) and core.shape == (2, 2),
    )


def _objects() -> list[str]:
    """Addresses, paths and fractions are sortable kinds of ids: by value, and not by their text."""
    address = ipaddress.IPv4Address
    kinds: dict[str, list[Any]] = {
        "addresses": [address("10.0.0.10"), address("10.0.0.9"), address("9.255.255.255")],
        "paths": [PurePosixPath("b"), PurePosixPath("a/c"), PurePosixPath("a")],
        "fractions": [Fraction(10, 3), Fraction(9, 2), Fraction(-1, 7)],
        "clocks": [datetime.time(23), datetime.time(1, 2), datetime.time(1, 2, 0, 1)],
    }
    faults = []
    for name, ids in kinds.items():
        data = _read_arrays([ids[0], ids[1], ids[0], ids[2]], [1, 1, 1, 2], values=[1.0, 2.0, 4.0, 8.0])
        order = sorted(ids)
        row = data.rows_of([ids[2], ids[0]]).tolist()
        mine = {(ids[0], 1): 5.0, (ids[1], 1): 2.0, (ids[2], 2): 8.0}
        if data.users.tolist() != order or row != [order.index(ids[2]), order.index(ids[0])] or _values(data) != mine:
            faults.append(name)
    return faults


def _by_position() -> list[str]:
    """Series of pandas whose labels stand in other orders: entry by entry, as arrays are."""
    import pandas as pd

    users = pd.Series(["u", "w", "u"], index=[2, 1, 0])
    items = pd.Series([5, 6, 5], index=[0, 1, 2])
    values = pd.Series([1.5, 2.5, 4.0], index=["x", "x", "y"])
    times = pd.Series(np.array(["2024-05-02", "2024-05-03", "2024-05-01"], "datetime64[s]"), index=[1, 0, 2])
    data = _read_arrays(users, items, values, times, duplicates="last")
    pairs = pd.DataFrame({"i": [1, 0, 1], "j": [0, 2, 0]}, index=[2, 0, 1])
    X = lfm_np.to_csr(pairs.to_numpy(), values=values, duplicates="last")
    return wrong(
        values=_values(data) == {("u", 5): 1.5, ("w", 6): 2.5},
        times=np.array_equal(data.timestamps.astype("datetime64[D]"), np.array(["2024-05-02", "2024-05-03"], "M8[D]")),
        rows=data.rows_of(pd.Series(["w", "u"], index=[1, 0])).tolist() == [1, 0],
        matrix=X.toarray().tolist() == [[0.0, 0.0, 2.5], [4.0, 0.0, 0.0]],
    )


def _file(name: str) -> Path | None:
    """A file of the folder that LFM_NP_DATA names, if it is there."""
    if "LFM_NP_DATA" not in os.environ:
        return None
    path = Path(os.environ["LFM_NP_DATA"]) / name
    return path if path.is_file() else None


def _three_twice(path: Path) -> list[str]:
    """FilmTrust: 35,497 ratings of 1,508 people and 2,071 films, of which three pairs stand there twice."""
    with np.load(path) as source:
        users, items = source["user_orig"][source["user"]], source["item_orig"][source["item"]]
        values = source["value"].astype(np.float64)
    of: dict[tuple[int, int], list[float]] = {}
    for u, i, x in zip(users.tolist(), items.tolist(), values.tolist(), strict=True):
        of.setdefault((u, i), []).append(x)
    ways: dict[str, Any] = {
        "sum": sum,
        "last": lambda found: found[-1],
        "mean": lambda found: sum(found) / len(found),  # of halves, so exact
        "max": max,
        "count": len,
    }
    faults = [
        way
        for way, combine in ways.items()
        if _values(_read_arrays(users, items, values, duplicates=way)) != {p: combine(x) for p, x in of.items()}
    ]
    error = raised(lambda: _read_arrays(users, items, values, duplicates="error"))
    twice = {pair for pair, found in of.items() if len(found) > 1}
    named = any(tells(error, str(user)) and tells(error, str(item)) for user, item in twice)
    known = len(users) == 35_497 and len(twice) == 3
    return faults + wrong(error=isinstance(error, ValueError) and named, cells=len(of) == 35_494 and known)


def _folds_of_the_archive(path: Path) -> list[str]:
    """Five folds are a partition; ua and ub hold out ten ratings of each user, none of them twice."""
    with np.load(path) as source:
        X = sp.coo_array((source["value"], (source["user"], source["item"])), shape=(943, 1682)).toarray()
    tests = {}
    faults = []
    for name in ("u1", "u2", "u3", "u4", "u5", "ua", "ub"):
        train, test, negatives = lfm_np.datasets.movielens_split("100k", name)
        A, tests[name] = train.matrix.toarray(), test.matrix.toarray()
        if negatives is not None or not np.array_equal(A + tests[name], X) or (A * tests[name]).any():
            faults.append(name)
    five = sum((tests[f"u{n}"] > 0).astype(int) for n in range(1, 6))
    return faults + wrong(
        partition=np.array_equal(five, X > 0) and all(np.count_nonzero(tests[f"u{n}"]) == 20_000 for n in range(1, 6)),
        ten=all(((tests[name] > 0).sum(1) == 10).all() for name in ("ua", "ub")),
        apart=not (tests["ua"] * tests["ub"]).any(),
    )


def _latest_of_films(path: Path) -> list[str]:
    """The five latest ratings of each of 943 people; films of one second go by their columns, which are numbers."""
    with np.load(path) as source:
        user, item, value, time = (source[name].astype(np.int64) for name in ("user", "item", "value", "timestamp"))
    order = np.lexsort((item, time, user))
    ends = np.cumsum(np.bincount(user))
    late = np.concatenate([order[end - 5 : end] for end in ends])
    mine = {(u + 1, i + 1): float(x) for u, i, x in zip(*(a[late].tolist() for a in (user, item, value)), strict=True)}
    train, test = lfm_np.datasets.movielens("100k").split("last", n=5)
    s = time[order]
    tied = sum(s[end - 6] == s[end - 5] for end in ends)
    at = dict(zip(zip((user + 1).tolist(), (item + 1).tolist(), strict=True), time.tolist(), strict=True))
    return wrong(
        test=_values(test) == mine,
        times=[at[pair] for pair in _values(test)] == test.timestamps.tolist(),
        rest=train.matrix.nnz == 100_000 - 5 * 943 and not set(_values(train)) & set(mine),
        ties=tied > 50,
    )


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    yield _holds("two draws by one generator know nothing of each other", _one_generator)
    yield _holds("the largest part among all of them", _every_subset)
    yield _holds("ids that stand in no order", _in_no_order)
    yield _holds("addresses, paths, fractions and clocks as ids", _objects)
    if installed("pandas"):
        yield _holds("series go by their positions", _by_position)
    trust, films = _file("filmtrust.npz"), _file("ml-100k.npz")
    if trust:
        yield _holds("three pairs of FilmTrust that stand there twice", lambda: _three_twice(trust))
    if films:
        yield _holds("five folds and two halves of MovieLens", lambda: _folds_of_the_archive(films))
        yield _holds("the five latest ratings of everybody", lambda: _latest_of_films(films))
