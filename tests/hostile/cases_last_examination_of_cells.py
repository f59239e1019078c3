"""The last examination: pairs, ids, times and parts of them, each counted again by dictionaries and sorting."""

from __future__ import annotations

import datetime
import math
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import combinations
from typing import Any

import numpy as np

import lfm_np

from .case import Case, Group
from .working_days import faultless, wrong

_GROUP = Group("the last examination, data")
_holds = faultless(_GROUP)
_from = lfm_np.Interactions.from_arrays


def _cells(data: Any) -> dict[Any, Any]:
    """Value and time of every pair of ids."""
    X = data.matrix.tocoo()
    times = [None] * X.nnz if data.timestamps is None else data.timestamps.tolist()
    pairs = zip(data.users[X.coords[0]].tolist(), data.items[X.coords[1]].tolist(), strict=True)
    return dict(zip(pairs, zip(X.data.tolist(), times, strict=True), strict=True))


def _one_buffer() -> list[str]:
    """Two arrays of their own would be at least 16 bytes apart."""
    pairs = np.array([(255, 3), (0, 255), (255, 0), (0, 1), (255, 3), (0, 255)], np.uint8)
    found = lfm_np.build_dict(pairs)
    rows = list(found.values())
    apart = rows[1].__array_interface__["data"][0] - rows[0].__array_interface__["data"][0]
    return wrong(
        keys=list(found) == [0, 255],
        columns=[row.tolist() for row in rows] == [[1, 255], [0, 3]],
        dtype=all(row.dtype == np.uint8 for row in rows),
        frozen=not any(row.flags.writeable for row in rows),
        one=0 < abs(apart) < 12,
    )


def _other_endian() -> list[str]:
    pairs = np.asfortranarray(np.array([(2, 1), (0, 3), (2, 1), (1, 0)], ">i2"))[::-1]
    X = lfm_np.to_csr(pairs, (3, 4), np.array([1.5, -2.0, 4.0, 8.0], ">f8")[::-1], "last")
    users, items = np.array(["b", "a", "b"], ">U1"), np.array([7, 5, 7], ">u4")
    numbers = _from(users, items, np.array([1, 2, 3], ">f4"), np.array([5, 6, 4], ">i8"), duplicates="last")
    moments = np.array(["2024-05-05", "2024-05-06", "2024-05-04"], ">M8[s]")
    dates = _from(users, items, timestamps=moments, duplicates="max")
    return wrong(
        last=X.toarray().tolist() == [[0, 0, 0, -2], [8, 0, 0, 0], [0, 1.5, 0, 0]],
        cells=_cells(numbers) == {("b", 7): (1.0, 5), ("a", 5): (2.0, 6)},
        row=numbers.rows_of(np.array(["b"], ">U1")).tolist() == [1],
        column=numbers.columns_of(np.array([7], ">i2")).tolist() == [1],
        later=_cells(numbers.split("time", at=6)[1]) == {("a", 5): (2.0, 6)},
        dates=(dates.timestamps == np.array(["2024-05-06", "2024-05-05"], "M8[s]")).all(),
    )


def _share_of_a_hundred() -> list[str]:
    """0.29 · 100 is 28.999999999999996 in floats; one row of 28 would come once in 10¹⁴."""
    data = _from(np.repeat(np.arange(40), 100), np.tile(np.arange(100), 40))
    train, test = data.split("random", test_fraction=0.29, random_state=3)
    both = train.matrix + test.matrix
    return wrong(
        test=np.diff(test.matrix.indptr).tolist() == [29] * 40,
        train=np.diff(train.matrix.indptr).tolist() == [71] * 40,
        once=both.nnz == 4000 and (both.data == 1).all(),
    )


def _every_choice_alike() -> list[str]:
    """Half of four cells are two: six choices, each a sixth; and two users' choices know nothing of each other."""
    m = 3000
    data = _from(np.repeat(np.arange(m), 4), np.tile(np.arange(4), m))
    test = data.split("random", test_fraction=0.5, random_state=11)[1].matrix.toarray().astype(int)
    names = {choice: place for place, choice in enumerate(combinations(range(4), 2))}
    chosen = [names.get(tuple(np.flatnonzero(row).tolist()), -1) for row in test]
    single = Counter(chosen)
    double = Counter(zip(chosen[::2], chosen[1::2], strict=True))
    within = 6 * math.sqrt(m / 6 * 5 / 6)
    both = 6 * math.sqrt(m / 2 / 36 * 35 / 36)
    return wrong(
        two=-1 not in single,
        alike=all(abs(single[choice] - m / 6) < within for choice in range(6)),
        apart=all(abs(double[a, b] - m / 72) < both for a in range(6) for b in range(6)),
    )


def _largest_late_part() -> list[str]:
    """Shares of sixteen cells that are exact in binary; ties stay together."""
    draw = np.random.default_rng(8)
    kinds: tuple[tuple[Any, int], ...] = (
        (np.uint64, 2**64 - 12), (np.int64, -(2**62)), (np.float64, -3), ("M8[ns]", 2**60), (np.int8, -5)
    )  # fmt: skip
    faults, empty = [], 0
    for kind, base in kinds:
        for share in (0.0625, 0.25, 0.5, 0.75):
            for ties in (2, 5, 11):
                steps = draw.integers(0, ties, 16).tolist()
                numbers = np.array([base + step for step in steps], np.uint64 if base > 2**63 else np.int64)
                times = numbers.astype(kind)
                cells = draw.permutation(30)[:16]
                data = _from(cells // 6, cells % 6, timestamps=times)
                late: set[int] = set()
                for at in sorted(set(steps), reverse=True):
                    part = {int(c) for c, step in zip(cells, steps, strict=True) if step >= at}
                    if len(part) > share * 16:
                        break
                    late = part
                empty += not late
                train, test = data.split("time", test_fraction=share)
                found = {6 * u + i for u, i in _cells(test)}
                rest = {6 * u + i for u, i in _cells(train)}
                if found != late or rest != {*cells.tolist()} - late:
                    faults.append(f"{kind} {share} {ties}")
    return faults + wrong(some_are_empty=empty > 0)


def _moments_of_other_kinds() -> list[str]:
    """Times of 64 bits without a sign, and moments that they cannot be."""
    times = np.array([0, 5, 2**63, 2**63 + 1, 2**64 - 1], np.uint64)
    data = _from([0] * 5, list(range(5)), timestamps=times)
    expected = {-1: 5, 2**63 + 1: 2, 2**64 - 1: 1, 4.5: 4, 5.5: 3, float(2**63): 3, 1e300: 0, -1e300: 5}
    return [f"at {at!r}" for at, count in expected.items() if _last_columns(data.split("time", at=at)[1], 5) != count]


def _last_columns(test: Any, n: int) -> int:
    """How many of the last columns of one row are there, if it is these."""
    columns = test.matrix.indices.tolist()
    return len(columns) if columns == list(range(n - len(columns), n)) else -1


def _moments_between_days() -> list[str]:
    """A day is its midnight, which half past twelve is later than."""
    days = np.array(["2024-05-02", "2024-05-03", "2024-05-04"], "M8[D]")
    data = _from([0] * 3, list(range(3)), timestamps=days)
    expected: tuple[tuple[Any, int], ...] = (
        ("2024-05-03", 2),
        ("2024-05-03T12:30", 1),
        (np.datetime64("2024-05-03T00:00:00.000000001"), 1),
        (np.datetime64("2024-05-02T23:59:59.999999999"), 2),
        (datetime.datetime(2024, 5, 2, 0, 0, 0, 1), 2),
        (np.datetime64("2024-05"), 3),
        (np.datetime64("2024"), 3),
        (np.datetime64("2025"), 0),
    )
    return [str(at) for at, count in expected if _last_columns(data.split("time", at=at)[1], 3) != count]


def _zone() -> Any:
    """Eleven in the evening of the day before, in UTC."""
    days = np.array(["2024-05-02T22:00", "2024-05-02T23:30", "2024-05-03T00:30"], "M8[m]")
    data = _from([0] * 3, list(range(3)), timestamps=days)
    east = datetime.timezone(datetime.timedelta(hours=2))
    return data.split("time", at=datetime.datetime(2024, 5, 3, 1, 0, tzinfo=east))[1]


def _what_to_put_there() -> list[str]:
    words, raw = _from([0, 1], ["ab", "c"]), _from([0, 1], [b"ab", b"c"])
    days = _from([0, 1], np.array(["2024-05-01", "2024-05-02"], "M8[D]"))
    numbers, whole = _from([0, 1], [0.5, 1.5]), _from([0, 1], np.array([3, 9], np.int8))
    noon = np.datetime64("2024-01-01T12:00")
    nat = days.item_ids([-1, 1], missing=np.datetime64("NaT"))
    finer = days.item_ids([1, -1], missing=noon)
    nan = numbers.item_ids([0, -1], missing=np.nan)
    mixed = whole.item_ids(np.array([[-1, 1]], np.int8), missing="none")
    return wrong(
        words=words.item_ids([[1, -1], [0, -1]], missing="nobody").tolist() == [["c", "nobody"], ["ab", "nobody"]],
        raw=raw.item_ids([-1, 0], missing=b"nothing").tolist() == [b"nothing", b"ab"],
        nat=np.isnat(np.datetime64(nat[0])) and np.datetime64(nat[1]) == np.datetime64("2024-05-02"),
        finer=[np.datetime64(one) for one in finer] == [np.datetime64("2024-05-02"), noon],
        nan=nan[0] == 0.5 and math.isnan(nan[1]),
        mixed=mixed.dtype == object and mixed.tolist() == [["none", 9]],
        own=whole.item_ids([-1, 0], missing=-1).tolist() == [-1, 3],
    )


def _shapes_of_asking() -> list[str]:
    data = _from(["a", "b", "c"], [10, 20, 30])
    deep = data.user_ids(np.array([[[2], [0]]], np.uint8))
    return wrong(
        one=np.shape(data.user_ids(np.array(2))) == () and str(data.user_ids(np.array(2))) == "c",
        none=data.user_ids(np.zeros((0, 4), np.int64)).shape == (0, 4),
        deep=deep.shape == (1, 2, 1) and deep.ravel().tolist() == ["c", "a"],
        none_missing=data.item_ids(np.zeros((2, 0), np.int32), missing=0).shape == (2, 0),
        nobody=data.rows_of([]).shape == (0,) and data.rows_of([]).dtype == np.int64,
        repeated=data.columns_of([30, 10, 30]).tolist() == [2, 0, 2],
    )


def _one_zero() -> list[str]:
    data = _from([0.0, -0.0, 1.0, -1.0], [1, 1, 2, 1], [2.0, 3.0, 4.0, 5.0])
    return wrong(
        users=data.users.tolist() == [-1.0, 0.0, 1.0],
        cell=data.matrix.toarray().tolist() == [[5, 0], [5, 0], [0, 4]],
        rows=data.rows_of([-0.0, 0.0, 1.0]).tolist() == [1, 1, 2],
    )


def _absent(call: Callable[[], Any]) -> bool:
    """Not there, or said to be of another kind."""
    try:
        return call().tolist() == [-1]
    except (TypeError, ValueError):
        return True


def _nearly() -> list[str]:
    """What would be an id once it is cut off, rounded or wrapped around."""
    words, whole = _from(["abc", "b"], np.array([1, 44], np.uint8)), _from([1, 2], [2**53, 7])
    raw = _from([b"abc", b"b"], [1, 2])
    days = _from(np.array(["2024-05-01", "2024-05-02"], "M8[D]"), np.array([5, -3], "m8[s]"))
    noon, midnight = np.array(["2024-05-01T12:00"], "M8[m]"), np.array(["2024-05-02T00:00"], "M8[m]")
    return wrong(
        longer=words.rows_of(["abcdef"], missing=-1).tolist() == [-1],
        longer_bytes=raw.rows_of([b"abcd"], missing=-1).tolist() == [-1],
        wrapped=words.columns_of([300, 44, -212], missing=-1).tolist() == [-1, 1, -1],
        fraction=_absent(lambda: whole.rows_of([1.5], missing=-1)),
        rounded=whole.columns_of([2**53 + 1], missing=-1).tolist() == [-1],
        noon=_absent(lambda: days.rows_of(noon, missing=-1)),
        midnight=days.rows_of(midnight).tolist() == [1],
        duration=_absent(lambda: days.columns_of(np.array([5001], "m8[ms]"), missing=-1)),
        same_duration=days.columns_of(np.array([5000], "m8[ms]")).tolist() == [1],
    )


def _beyond_64_bits() -> list[str]:
    ids = [2**64, -(2**70), 2**64 + 1, 5, 2**64]
    data = _from(ids, [1, 1, 1, 2, 1])
    train, test = data.split("random", test_fraction=0.5, random_state=0)
    return wrong(
        order=data.users.tolist() == [-(2**70), 5, 2**64, 2**64 + 1],
        sum=data.matrix.toarray().tolist() == [[1, 0], [0, 1], [2, 0], [1, 0]],
        rows=data.rows_of([2**64 + 1, 5]).tolist() == [3, 1],
        unknown=data.rows_of([2**64 + 2, 2**70], missing=-1).tolist() == [-1, -1],
        back=int(data.user_ids([2])[0]) == 2**64,
        kept=train.users.tolist() == data.users.tolist() and test.matrix.nnz == 0,
    )


def _by_steps() -> list[str]:
    """Known and at least 2; then two cells a user and three an item; then the two latest of each user."""
    draw = np.random.default_rng(28)
    names = np.array([f"u{n:02d}" for n in draw.permutation(12)])
    numbers = -draw.permutation(np.arange(9)) * 7
    cells = draw.permutation(108)[:50]
    values = np.where(draw.random(50) < 0.15, np.nan, draw.integers(1, 6, 50))
    times = draw.integers(0, 4, 50)
    users, items = names[cells // 9], numbers[cells % 9]
    data = _from(users, items, values, times)
    records = zip(users, items, values, times, strict=True)
    kept = {(str(u), int(i)): (float(v), int(t)) for u, i, v, t in records if v >= 2}
    chosen = data.select(data.matrix.data >= 2)
    facts = {"select": _cells(chosen) == kept, "same_rows": chosen.users.tolist() == sorted(set(users.tolist()))}
    while True:
        of_user, of_item = Counter(u for u, _ in kept), Counter(i for _, i in kept)
        fewer = {c: v for c, v in kept.items() if of_user[c[0]] >= 2 and of_item[c[1]] >= 3}
        if len(fewer) == len(kept):
            break
        kept = fewer
    core = chosen.core(2, 3)
    facts["core"] = _cells(core) == kept and len(kept) == 25
    facts["users"] = core.users.tolist() == sorted({u for u, _ in kept})
    facts["items"] = core.items.tolist() == sorted({i for _, i in kept})
    late = set()
    for name in {u for u, _ in kept}:
        own = sorted((c for c in kept if c[0] == name), key=lambda c: (kept[c][1], c[1]))
        late |= set(own[-min(2, len(own) - 1) :])
    train, test = core.split("last", n=2)
    facts["test"] = _cells(test) == {c: kept[c] for c in late}
    facts["train"] = _cells(train) == {c: kept[c] for c in kept.keys() - late}
    return wrong(**facts)


def _zeros_are_cells() -> list[str]:
    data = _from(["a", "a", "b", "c"], [1, 2, 1, 3], [0.0, 0.0, 3.0, 0.0], [4, 5, 6, 7]).core(2, 1)
    once = _from(["a", "a"], [1, 1], [2.0, -2.0])
    return wrong(
        users=data.users.tolist() == ["a"],
        items=data.items.tolist() == [1, 2],
        cells=_cells(data) == {("a", 1): (0.0, 4), ("a", 2): (0.0, 5)},
        sum=once.matrix.nnz == 1 and once.matrix.data[0] == 0,
        judged=once.binarize(threshold=0).matrix.data.tolist() == [1.0] and once.binarize(1e-30).matrix.nnz == 0,
    )


def _combined(values: list[float], times: list[Any], how: str) -> float:
    if how == "count":
        return float(len(values))
    if how == "last":
        return values[max(range(len(values)), key=lambda j: (times[j] is not None, times[j] or 0, j))]
    if any(math.isnan(value) for value in values):
        return math.nan
    return {"sum": sum(values), "mean": sum(values) / len(values), "max": max(values)}[how]


def _same_number(one: float, other: float) -> bool:
    return math.isnan(one) and math.isnan(other) if math.isnan(one) or math.isnan(other) else one == other


def _records(kind: Any, base: int, unknown: bool) -> list[str]:
    """Values are eighths of small numbers, so that sums are exact; a mean is one division, then rounded."""
    draw = np.random.default_rng(21)
    users, items = draw.integers(0, 6, 150), draw.integers(0, 5, 150)
    values = np.where(draw.random(150) < 0.1, np.nan, draw.integers(-40, 40, 150) / 8)
    steps = [base + int(step) for step in draw.integers(0, 9, 150)]
    times = np.array(steps, np.uint64 if base > 2**63 else np.int64).astype(kind)
    lost = (draw.random(150) < 0.3) & unknown
    if unknown:
        times[lost] = np.array("NaT" if times.dtype.kind == "M" else np.nan, times.dtype)
    stamps = [None if gone else step for step, gone in zip(steps, lost, strict=True)]
    groups: dict[tuple[int, int], list[int]] = {}
    for place, pair in enumerate(zip(users.tolist(), items.tolist(), strict=True)):
        groups.setdefault(pair, []).append(place)
    faults = []
    for how in ("sum", "last", "mean", "max", "count"):
        data = _from(users, items, values, times, duplicates=how)
        X = data.matrix.tocoo()
        if X.nnz != len(groups) or not (np.diff(X.coords[0]) >= 0).all():
            faults.append(f"{how}: cells")
        found = data.timestamps
        blank = np.isnat(found) if found.dtype.kind == "M" else np.isnan(found)
        if found.dtype.kind == "M":
            whole = found.astype(times.dtype).astype(np.int64).tolist()
        else:
            whole = np.where(blank, 0, found).astype(np.int64).tolist() if unknown else found.tolist()
        for u, i, value, gone, at in zip(*X.coords, X.data, blank, whole, strict=True):
            own = groups[int(data.users[u]), int(data.items[i])]
            is_known = [stamps[j] for j in own if stamps[j] is not None]
            mine = _combined([float(values[j]) for j in own], [stamps[j] for j in own], how)
            if not _same_number(float(value), float(np.float32(mine))):
                faults.append(f"{how}: value of {u}, {i}")
            if bool(gone) != (not is_known) or (is_known and int(at) != max(is_known)):
                faults.append(f"{how}: time of {u}, {i}")
    return faults


def _weighed() -> list[str]:
    """TF-IDF, weighed before; the data that it came from stay."""
    draw = np.random.default_rng(6)
    cells = draw.permutation(63)[:30]
    plays = draw.integers(1, 9, 30).astype(float)
    data = _from(cells // 9, [f"i{c % 9}" for c in cells], plays, draw.integers(0, 100, 30))
    before = data.matrix.toarray().copy()
    X = data.matrix.copy()
    held = np.bincount(X.indices, minlength=X.shape[1])
    X.data *= np.log(X.shape[0] / held).astype(np.float32)[X.indices]
    weighed = lfm_np.Interactions(X, data.users, data.items, data.timestamps)
    mine = before * np.log(X.shape[0] / (before > 0).sum(0))
    X.data[:] = 0
    high = weighed.binarize(threshold=2.0)
    clear = abs(mine - 2.0).min() > 1e-3
    return wrong(
        weights=abs(weighed.matrix.toarray() - mine).max() < 1e-5 * mine.max(),
        old=(data.matrix.toarray() == before).all(),
        frozen=not weighed.matrix.data.flags.writeable,
        high=clear and (high.matrix.toarray() == (mine >= 2.0)).all(),
        times=len(high.timestamps) == high.matrix.nnz == int((mine >= 2).sum()),
    )


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    yield _holds("the arrays of build_dict lie in one buffer of the pairs' dtype", _one_buffer)
    yield _holds("pairs, values, ids and times of the other byte order", _other_endian)
    yield _holds("a share of 0.29 of a hundred cells is 29 of each user", _share_of_a_hundred)
    yield _holds("every choice of two of four cells is as likely, whatever the neighbour's", _every_choice_alike)
    yield _holds("the largest late part, by five kinds of times", _largest_late_part)
    yield _holds("split by moments that times without a sign cannot be", _moments_of_other_kinds)
    yield _holds("split by moments between days", _moments_between_days)
    yield _GROUP.either(
        "split by a moment of another zone", _zone, lambda test: test.matrix.indices.tolist() == [1, 2], "at"
    )
    yield _holds("what stands for no item is not cut to the ids' width or unit", _what_to_put_there)
    yield _holds("ids of no rows, of one and of a block of them", _shapes_of_asking)
    yield _holds("0.0 and -0.0 are one id", _one_zero)
    yield _holds("what is nearly an id is none", _nearly)
    yield _holds("ids of more than 64 bits, asked for and split", _beyond_64_bits)
    yield _holds("select, core and the two latest, by dictionaries", _by_steps)
    yield _holds("stored zeros count in a core", _zeros_are_cells)
    yield _holds(
        "five ways to combine records, by times without a sign and of a byte",
        lambda: _records(np.uint64, 2**64 - 10, False) + _records(np.int8, -6, False),
    )
    yield _holds(
        "five ways to combine records, where some times are unknown",
        lambda: _records(np.float32, -4, True) + _records("M8[ns]", 2**60 + 1, True) + _records("M8[Y]", -20, True),
    )
    yield _holds("weights of TF-IDF made before", _weighed)
