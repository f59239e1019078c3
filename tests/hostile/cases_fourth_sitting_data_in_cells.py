"""The fourth sitting: times of every unit; cells peeled off, put together and turned round, by dictionaries."""

from __future__ import annotations

import datetime as dt
import itertools
import math
import uuid
from collections.abc import Iterator
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import scipy.sparse as sp

import lfm_np
from lfm_np import Interactions

from .case import Case, Group
from .working_days import NAN, all_scores, faultless, judged, wrong

_GROUP = Group("fourth sitting, data")
_holds = faultless(_GROUP)


def told(data: Interactions) -> dict[tuple[Any, Any], tuple[float, Any]]:
    """Value and time of every cell, by ids."""
    cells = data.matrix.tocoo()
    rows, columns = (np.asarray(part, np.int64) for part in cells.coords)
    times = [None] * cells.nnz if data.timestamps is None else data.timestamps.tolist()
    pairs = zip(data.user_ids(rows).tolist(), data.item_ids(columns).tolist(), strict=True)
    return dict(zip(pairs, zip(cells.data.tolist(), times, strict=True), strict=True))


def _alone(times: Any) -> Interactions:
    """A user and an item for every time."""
    numbers = np.arange(len(times))
    return Interactions.from_arrays(numbers, numbers, timestamps=times)


def _has(part: Interactions) -> list[int]:
    return np.flatnonzero(np.diff(part.matrix.indptr)).tolist()


def _units() -> list[str]:
    """Moments of other units than the times', which a unit's value stands for the beginning of."""
    draw = np.random.default_rng(41)
    first, last = (np.datetime64(f"{year}-01-01", "ns").astype(np.int64) for year in (2001, 2029))
    whole = [np.datetime64(text, "ns").astype(np.int64) for text in ("2015-03-01", "2015-03-02T07:30", "2015-03-05")]
    exact = np.concatenate([draw.integers(first, last, 40), whole, [whole[0] + 1, whole[1] - 1]])
    moments: list[tuple[Any, str]] = [
        ("2015-03-01", "2015-03-01"),
        ("2015-03-02T07:30", "2015-03-02T07:30"),
        (np.datetime64("2015-03", "M"), "2015-03-01"),
        (np.datetime64("2015", "Y"), "2015-01-01"),
        (np.datetime64("2015-03-05", "W"), "2015-03-05"),  # a Thursday, as 1970-01-01 was
        (np.datetime64("2015-03-01T00:00:00.000000001", "ns"), "2015-03-01T00:00:00.000000001"),
        (dt.datetime(2015, 3, 1, tzinfo=dt.timezone(dt.timedelta(hours=5, minutes=30))), "2015-02-28T18:30"),
    ]
    bad = []
    for unit in ("Y", "M", "W", "D", "h", "m", "s", "ms", "us", "ns"):
        times = exact.view("M8[ns]").astype(f"M8[{unit}]")
        begins = times.astype("M8[ns]").astype(np.int64).tolist()
        data = _alone(times)
        for at, same in moments:
            moment = int(np.datetime64(same, "ns").astype(np.int64))
            late = [number for number, begin in enumerate(begins) if begin >= moment]
            train, test = data.split("time", at=at)
            good = _has(test) == late and _has(train) == sorted(set(range(len(times))) - set(late))
            if not (good and (test.timestamps == times[late]).all()):
                bad.append(f"{unit}, {at}")
    return bad


def _fine_and_coarse() -> list[str]:
    """Ticks of 10^-18 seconds, of a quarter of an hour and of ten days, compared as whole numbers of attoseconds."""
    ticks = {"as": 1, "fs": 10**3, "ps": 10**6, "15m": 900 * 10**18, "10D": 864_000 * 10**18}
    moments = {
        "1970-01-01T00:00:01": 10**18,
        "1970-01-01": 0,
        "1969-12-31T23:59:59": -(10**18),
        "2024-05-03": (dt.date(2024, 5, 3) - dt.date(1970, 1, 1)).days * 86_400 * 10**18,
        "1901-01-01": (dt.date(1901, 1, 1) - dt.date(1970, 1, 1)).days * 86_400 * 10**18,
    }
    bad = []
    for unit, size in ticks.items():
        second = max(1, 10**18 // size)
        numbers = [-second - 1, -second, -1, 0, 1, second - 1, second, second + 1, 5 * second]
        numbers = list(dict.fromkeys(numbers))
        if unit in ("15m", "10D"):
            numbers += [n for at in moments.values() for n in (at // size, at // size + 1)]
        data = _alone(np.array(numbers, np.int64).view(f"M8[{unit}]"))
        for text, moment in moments.items():
            late = [place for place, number in enumerate(numbers) if number * size >= moment]
            if _has(data.split("time", at=text)[1]) != late:
                bad.append(f"{unit}, {text}")
    return bad


def _peeled() -> list[str]:
    """The latest cell of everybody, again and again, until everybody has one."""
    draw = np.random.default_rng(42)
    users, items = np.nonzero(draw.random((12, 30)) < draw.random((12, 1)))
    values, times = draw.integers(1, 6, len(users)), draw.integers(0, 7, len(users))
    of: dict[int, list[tuple[int, int, int]]] = {}
    for user, item, value, time in zip(users.tolist(), items.tolist(), values.tolist(), times.tolist(), strict=True):
        of.setdefault(user, []).append((time, item, value))
    rest = Interactions.from_arrays(users, items, values, times)
    three = told(rest.split("last", n=3)[1])
    bad: list[str] = []
    taken: dict[Any, Any] = {}
    for turn in range(40):
        rest, test = rest.split("last")
        mine = {}
        for user, cells in of.items():
            if len(cells) > turn + 1:
                time, item, value = sorted(cells)[-1 - turn]
                mine[user, item] = (float(value), time)
        if told(test) != mine:
            bad.append(f"turn {turn}")
        if turn < 3:
            taken.update(mine)
        if not mine:
            break
    first = {(user, sorted(cells)[0][1]) for user, cells in of.items()}
    return bad + wrong(first=set(told(rest)) == first, at_once=three == taken, several=turn > 5)


def _newcomers() -> list[str]:
    """Who has nothing before the moment is a zero vector, for whom all items are alike."""
    draw = np.random.default_rng(43)
    X = draw.random((14, 11)) < 0.55
    users, items = np.nonzero(X)
    times = draw.integers(0, 200, len(users))
    times[users >= 11] = 150
    train, test = Interactions.from_arrays(users, items, timestamps=times).split("time", at=120)
    fit = lfm_np.als(train, factors=3, regularization=0.3, iterations=4, dtype="float64", random_state=0)
    known, held = (np.zeros(X.shape, bool) for _ in range(2))
    for user, item, time in zip(users, items, times, strict=True):
        (held if time >= 120 else known)[user, item] = True
    ids, scores = fit.recommend([11, 12, 13], N=12, seen=train)
    names = [f"{name}@4" for name in ("recall", "capped_recall", "precision", "hit_rate", "ndcg", "map", "mrr")]
    found = lfm_np.evaluate(fit, train, test, [*names, "mrr", "auc"])
    mine = judged(all_scores(fit), known, held, 4)
    return wrong(
        zero=not fit.user_factors[11:].any(),
        lists=ids.tolist() == [[*range(11), -1]] * 3,
        scores=(scores[:, :11] == 0).all() and (scores[:, 11] == -np.inf).all(),
        names=set(found) == set(mine),
        # sums of 14 numbers of at most 1 in float64
        means=all(abs(found[name] - value) < 1e-12 for name, value in mine.items()),
    )


def _by_dictionaries() -> list[str]:
    """Means, known ones, those of 3 and more, their core, without the two latest, cut in time."""
    draw = np.random.default_rng(44)
    count = 900
    users = [f"u{number}" for number in draw.integers(0, 40, count)]
    items = (draw.integers(0, 25, count) * 7 - 60).tolist()
    values = np.where(draw.random(count) < 0.05, NAN, draw.integers(1, 6, count))
    times = draw.integers(-50, 50, count).tolist()
    of: dict[Any, list[Any]] = {}
    for user, item, value, time in zip(users, items, values.tolist(), times, strict=True):
        of.setdefault((user, item), []).append((value, time))
    cells = {pair: (float(np.float32(np.mean([v for v, _ in r]))), max(t for _, t in r)) for pair, r in of.items()}
    data = Interactions.from_arrays(users, items, values, times, duplicates="mean")
    bad = wrong(means=all(same(told(data)[pair], cell) for pair, cell in cells.items()), all=len(told(data)) == len(of))

    data = data.select(~np.isnan(data.matrix.data)).binarize(threshold=3.0)
    cells = {pair: (1.0, time) for pair, (value, time) in cells.items() if value >= 3}
    bad += wrong(liked=told(data) == cells)

    data = data.core(min_user_interactions=6, min_item_interactions=8)
    while True:
        sizes = [{}, {}]
        for pair in cells:
            for size, part in zip(sizes, pair, strict=True):
                size[part] = size.get(part, 0) + 1
        kept = {p: c for p, c in cells.items() if sizes[0][p[0]] >= 6 and sizes[1][p[1]] >= 8}
        if kept == cells:
            break
        cells = kept
    left = [sorted({pair[side] for pair in cells}) for side in range(2)]
    bad += wrong(core=told(data) == cells, ids=[data.users.tolist(), data.items.tolist()] == left, some=len(cells) > 99)

    train, test = data.split("last", n=2)
    late = {
        p for user in left[0] for p in sorted((p for p in cells if p[0] == user), key=lambda p: (cells[p][1], p))[-2:]
    }
    bad += wrong(latest=set(told(test)) == late, train=set(told(train)) == set(cells) - late)

    early, after = train.split("time", test_fraction=0.25)
    cells = {pair: cell for pair, cell in cells.items() if pair not in late}
    allowed = [at for at in range(-50, 51) if 4 * sum(time >= at for _, time in cells.values()) <= len(cells)]
    mine = {pair: cell for pair, cell in cells.items() if cell[1] >= min(allowed)}
    rest = {pair: cell for pair, cell in cells.items() if cell[1] < min(allowed)}
    return bad + wrong(after=told(after) == mine and len(mine) > 0, early=told(early) == rest)


def same(one: tuple[float, Any], other: tuple[float, Any]) -> bool:
    return one[1] == other[1] and (one[0] == other[0] or (math.isnan(one[0]) and math.isnan(other[0])))


def _every_order() -> list[str]:
    """Four records of one pair in all 24 orders; two of them at once, one at an unknown time."""
    records = [(1.0, "2024-01-02"), (7.0, "2024-01-05"), (3.0, "2024-01-05"), (9.0, "NaT")]
    bad = []
    for order in itertools.permutations(records):
        latest = [value for value, day in order if day == "2024-01-05"][-1]
        days = np.array([day for _, day in order], "M8[D]")
        for how, mine in (("sum", 20.0), ("mean", 5.0), ("max", 9.0), ("count", 4.0), ("last", latest)):
            data = Interactions.from_arrays(["a"] * 4, [5] * 4, [v for v, _ in order], days, duplicates=how)
            cell = data.matrix.toarray().tolist() == [[mine]] and (
                data.timestamps == np.datetime64("2024-01-05")
            ).tolist() == [True]
            if not cell:
                bad.append(f"{how}: {order}")
        plain = lfm_np.to_csr([(0, 0)] * 4, values=[v for v, _ in order], duplicates="last")
        if plain.toarray().tolist() != [[order[-1][0]]]:
            bad.append(f"without times: {order}")
    return bad


def _long_chain() -> list[str]:
    """Who is left out leaves the next one with too little, 400 times over; a ring at the end holds."""
    length, ring = 400, [(1000, 1000), (1000, 1001), (1001, 1000), (1001, 1001)]
    chain = [pair for number in range(length) for pair in ((number, number), (number, number + 1))]
    pairs = np.array([*chain, (1000, length), *ring])
    pairs = np.random.default_rng(45).permutation(pairs)
    data = Interactions.from_arrays(pairs[:, 0], pairs[:, 1], timestamps=np.arange(len(pairs)))
    core = data.core(min_user_interactions=2, min_item_interactions=2)
    when = {tuple(pair): number for number, pair in enumerate(pairs.tolist())}
    return wrong(
        cells=told(core) == {pair: (1.0, when[pair]) for pair in ring},
        users=core.users.tolist() == [1000, 1001],
        items=core.items.tolist() == [1000, 1001],
        # item 0 has one cell, so that user 0 keeps one, so that item 1 keeps one, and so on
        one_side=len(told(data.core(min_item_interactions=2))) == len(pairs) - 1,
        whole=data.core().shape == data.shape,
    )


def _zero_and_minus_zero() -> list[str]:
    """0.0 and -0.0 are one moment: the higher column is the later one, and so is the record given last."""
    times = [0.0, -0.0, -0.0, 0.0]
    data = Interactions.from_arrays([0, 0, 1, 1], [0, 1, 0, 1], timestamps=times)
    twice = [
        Interactions.from_arrays([5, 5], [5, 5], [1.0, 2.0], order, duplicates="last").matrix.data.tolist()
        for order in ([0.0, -0.0], [-0.0, 0.0])
    ]
    return wrong(
        last=set(told(data.split("last")[1])) == {(0, 1), (1, 1)},
        at=[len(told(data.split("time", at=at)[1])) for at in (0.0, -0.0, 0, 1e-300, -1e-300)] == [4, 4, 4, 0, 4],
        share=[len(told(data.split("time", test_fraction=share)[1])) for share in (0.5, 0.99)] == [0, 0],
        given_last=twice == [[2.0], [2.0]],
    )


def _put_together() -> list[str]:
    """Cells taken apart by their ids are the same data, and so are two halves that are joined."""
    draw = np.random.default_rng(46)
    kinds: dict[str, list[Any]] = {
        "texts": ["", "a", "a ", "B", "ä", "\U0001f600", "\uffff"],
        "bytes": [b"", b"a", b"\xff", b"a\x00b", b"b", b"aa", b"\x00a"],
        "days": [dt.date(2024, 5, day) for day in range(1, 8)],
        "names": [uuid.UUID(int=number**9) for number in range(7)],
        "decimals": [Decimal(number) / 8 for number in range(-3, 4)],
        "fractions": [Fraction(number, 7) for number in range(-3, 4)],
        "integers": [-(2**63), -1, 0, 1, 2**31, 2**53 + 1, 2**63 - 1],
        "reals": [-1.5, 0.0, 1e-300, 1.0, 2.5, 3.5, 1e300],
    }
    bad = []
    for name, ids in kinds.items():
        cells = [(u, i) for u in range(7) for i in range(7) if draw.random() < 0.4 or u == i]
        values = draw.integers(-3, 4, len(cells)).astype(np.float64)
        times = draw.integers(0, 99, len(cells))
        pick = [np.array([ids[cell[side]] for cell in cells], object) for side in range(2)]
        pick = [side.astype(np.array(ids).dtype) if name in ("integers", "reals") else side for side in pick]
        data = Interactions.from_arrays(*(side.tolist() for side in pick), values, times)
        mine = {(ids[u], ids[i]): (v, t) for (u, i), v, t in zip(cells, values.tolist(), times.tolist(), strict=True)}
        coo = data.matrix.tocoo()
        rows, columns = (np.asarray(part, np.int64) for part in coo.coords)
        halves = [rows % 2 == 0, rows % 2 == 1]
        again = Interactions.from_arrays(
            np.concatenate([data.user_ids(rows[half]) for half in halves]),
            np.concatenate([data.item_ids(columns[half]) for half in halves]),
            np.concatenate([data.matrix.data[half] for half in halves]),
            np.concatenate([data.timestamps[half] for half in halves]),
            duplicates="error",
        )
        facts = {
            "told": told(data) == mine,
            "again": told(again) == mine,
            "order": data.users.tolist() == again.users.tolist() == sorted(ids),
            "items": data.items.tolist() == again.items.tolist() == sorted(ids),
            "places": np.array_equal(data.matrix.indices, again.matrix.indices),
        }
        bad += [f"{name}: {fact}" for fact in wrong(**facts)]
    return bad


def _turned_round() -> list[str]:
    """Items as rows, with the times of their cells: the latest customer of every item."""
    draw = np.random.default_rng(47)
    users, items = np.nonzero(draw.random((15, 9)) < 0.5)
    values, times = draw.random(len(users)), draw.integers(0, 5, len(users))
    data = Interactions.from_arrays(users + 100, items - 3, values, times)
    places = sp.csr_array((np.arange(1, data.matrix.nnz + 1), data.matrix.indices, data.matrix.indptr), data.shape)
    order = places.T.tocsr()
    order.sort_indices()
    turned = Interactions(data.matrix.T.tocsr(), data.items, data.users, data.timestamps[order.data - 1])
    cells = {(i - 3, u + 100): (float(np.float32(v)), int(t)) for u, i, v, t in zip(users, items, values, times)}
    latest = {
        max((p for p in cells if p[0] == item), key=lambda p: (cells[p][1], p[1]))
        for item in {p[0] for p in cells}
        if sum(p[0] == item for p in cells) > 1
    }
    return wrong(
        cells=told(turned) == cells,
        latest=set(told(turned.split("last")[1])) == latest,
        back=told(data) == {(p[1], p[0]): cell for p, cell in cells.items()},
        late=set(told(turned.split("time", at=3)[1])) == {p for p, cell in cells.items() if cell[1] >= 3},
    )


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    yield _holds("moments of seven kinds, times of ten units", _units)
    yield _holds("times of attoseconds, of quarters of an hour, of ten days", _fine_and_coarse)
    yield _holds("the latest cell of everybody, peeled off one by one", _peeled)
    yield _holds("who comes after the moment is judged by the order of columns", _newcomers)
    yield _holds("means, known, liked, a core, without the latest, cut in time", _by_dictionaries)
    yield _holds("four records of a pair in all their orders", _every_order)
    yield _holds("a chain of four hundred that a core undoes from its end", _long_chain)
    yield _holds("the moment 0.0 is the moment -0.0", _zero_and_minus_zero)
    yield _holds("taken apart by ids of eight kinds and put together", _put_together)
    yield _holds("the latest customer of every item", _turned_round)
