"""Small analyses of parts of the data: cores, splits and data sets, recounted with dictionaries."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from .case import Case, Group
from .cases_notebooks_of_tables import Record, gathered, lfm_np, log, made, spelled
from .working_days import faultless, folder, wrong

_GROUP = Group("analysts' parts")
_holds = faultless(_GROUP)


def peeled(pairs: set[tuple[Any, Any]], a: int, b: int) -> set[tuple[Any, Any]]:
    """Users with fewer than a, or items with fewer than b, out one after another."""
    while True:
        for place, least in ((0, a), (1, b)):
            ids = {pair[place] for pair in pairs}
            poor = [one for one in ids if sum(pair[place] == one for pair in pairs) < least]
            if poor:
                pairs = {pair for pair in pairs if pair[place] != poor[0]}
                break
        else:
            return pairs


def _core() -> list[str]:
    records = log([f"u{n:02}" for n in range(24)], range(100, 118), 95, 2)
    cells, data = gathered(records, "mean"), made(records, "mean")
    facts: dict[str, Any] = {}
    for a, b in ((1, 1), (3, 2), (2, 5), (4, 4)):
        kept = peeled(set(cells), a, b)
        if not kept:
            continue
        core = data.core(min_user_interactions=a, min_item_interactions=b)
        facts[f"cells {a} {b}"] = spelled(core) == {pair: cells[pair] for pair in kept}
        facts[f"ids {a} {b}"] = core.users.tolist() == sorted({p[0] for p in kept}) and core.items.tolist() == sorted(
            {p[1] for p in kept}
        )
    return wrong(some=len(facts) >= 4, less=len(peeled(set(cells), 3, 2)) < len(cells), **facts)


def _degrees(data: Any) -> np.ndarray:
    return np.diff(data.matrix.indptr)


def _random_split() -> list[str]:
    draw = np.random.default_rng(3)
    pairs = [(u, i) for u in range(40) for i in draw.choice(30, 1 + u % 12, replace=False).tolist()]
    records = [Record(u, i, float(n % 9), n) for n, (u, i) in enumerate(pairs)]
    data, cells = made(records), gathered(records, "sum")
    d = np.array([1 + u % 12 for u in range(40)])
    facts: dict[str, Any] = {}
    for share in (1e-9, 0.25, 0.5, 2 / 3, 0.999):
        train, test = data.split("random", test_fraction=share, random_state=4)
        a, b = spelled(train), spelled(test)
        found = _degrees(test)
        facts[f"parts {share}"] = not set(a) & set(b) and {**a, **b} == cells
        low, high = np.floor(share * d - 1e-6), np.ceil(share * d + 1e-6)
        facts[f"sizes {share}"] = (found >= np.minimum(low, d - 1)).all() and (found <= np.minimum(high, d - 1)).all()
        facts[f"ids {share}"] = train.users.tolist() == test.users.tolist() == list(range(40))
    nearly = data.split("random", test_fraction=1e-9, random_state=4)[1]
    halves = _degrees(data.split("random", test_fraction=0.5, random_state=5)[1])
    return wrong(none=nearly.matrix.nnz == 0, exact=(halves[d % 2 == 0] == d[d % 2 == 0] // 2).all(), **facts)


def _random_mean() -> list[str]:
    """0.6 of three cells is none or one; each of the three as often as the others, within five deviations."""
    m = 3000
    data = made([Record(u, i) for u in range(m) for i in range(3)], timed=False)
    test = data.split("random", test_fraction=0.2, random_state=6)[1]
    found = _degrees(test)
    columns = np.bincount(test.matrix.indices, minlength=3)
    return wrong(
        none_or_one=set(found.tolist()) == {0, 1},
        mean=abs(found.sum() - 0.6 * m) < 5 * math.sqrt(m * 0.6 * 0.4),
        columns=(abs(columns - 0.2 * m) < 5 * math.sqrt(m * 0.2 * 0.8)).all(),
    )


def _last_split() -> list[str]:
    records = [r._replace(value=1.0) for r in log(list("abcdefgh"), range(9), 40, 7)]
    records += [Record("one", 3, 1.0, 5), Record("two", 8, 1.0, 5), Record("two", 2, 1.0, 5)]
    cells, data = gathered(records, "max"), made(records, "max")
    facts: dict[str, Any] = {}
    for n in (1, 2, 5, 100):
        mine = set()
        for user in {u for u, _ in cells}:
            own = sorted((i for u, i in cells if u == user), key=lambda i: (cells[user, i][1], i))
            mine |= {(user, i) for i in own[max(1, len(own) - n) :]}
        train, test = data.split("last", n=n)
        facts[f"test {n}"] = spelled(test) == {pair: cells[pair] for pair in mine}
        facts[f"train {n}"] = spelled(train) == {pair: cells[pair] for pair in cells if pair not in mine}
    return wrong(**facts)


def _by_share(times: list[int], share: float) -> int:
    """Cells of the largest set of latest ones that does not exceed the share."""
    sizes = [sum(t >= moment for t in times) for moment in set(times)]
    return max([size for size in sizes if size / len(times) <= share], default=0)


def _time_split() -> list[str]:
    draw = np.random.default_rng(8)
    times = np.sort(draw.integers(0, 12, 60)).tolist()
    data = made([Record(n % 7, n // 7, 1.0, t) for n, t in enumerate(times)])
    facts: dict[str, Any] = {}
    for share in (0.01, 0.2, 0.5, 0.95):
        train, test = data.split("time", test_fraction=share)
        facts[f"size {share}"] = test.matrix.nnz == _by_share(times, share)
        facts[f"order {share}"] = (
            not test.matrix.nnz or not train.matrix.nnz or train.timestamps.max() < test.timestamps.min()
        )
        facts[f"all {share}"] = {**spelled(train), **spelled(test)} == spelled(data)
    tied = made([Record(n, n, 1.0, 3) for n in range(6)]).split("time", test_fraction=0.9)
    return wrong(tied=(tied[0].matrix.nnz, tied[1].matrix.nnz) == (6, 0), **facts)


def _time_split_of_a_hundred() -> list[str]:
    """29 of 100 cells are a share of 0.29, which 0.29 does not exceed, though 0.29 · 100 is below 29 in float64."""
    data = made([Record(n % 10, n // 10, 1.0, n) for n in range(100)])
    shares = (0.01, 0.07, 0.14, 0.28, 0.29, 0.55, 0.57, 0.58)
    return wrong(**{str(s): data.split("time", test_fraction=s)[1].matrix.nnz == round(100 * s) for s in shares})


def _time_split_at_noon() -> list[str]:
    days = np.array(["2024-05-01", "2024-05-02", "2024-05-02", "2024-05-03", "1969-12-31"], "datetime64[D]")
    data = lfm_np.Interactions.from_arrays([1, 1, 2, 2, 3], [1, 2, 1, 2, 1], timestamps=days)
    facts: dict[str, Any] = {}
    for at, mine in (("2024-05-02T12:00", 1), ("2024-05-02", 3), ("1970-01-01", 4)):
        train, test = data.split("time", at=np.datetime64(at))
        facts[at] = (train.matrix.nnz, test.matrix.nnz) == (5 - mine, mine)
        facts[f"as text {at}"] = data.split("time", at=at)[1].matrix.nnz == mine
    return wrong(**facts)


def _three_parts() -> list[str]:
    """Learn, validate, test; the last of each user is held out of what the random split left."""
    records = log(range(20), range(15), 160, 9)
    cells, data = gathered(records, "max"), made(records, "max")
    rest, test = data.split("random", test_fraction=0.3, random_state=0)
    train, check = rest.split("last", n=1)
    parts = [spelled(part) for part in (train, check, test)]
    left = spelled(rest)
    last = {}
    for user in {u for u, _ in left}:
        own = [i for u, i in left if u == user]
        if len(own) > 1:
            best = max(own, key=lambda i: (left[user, i][1], i))
            last[user, best] = left[user, best]
    return wrong(
        whole={**parts[0], **parts[1], **parts[2]} == cells,
        apart=sum(map(len, parts)) == len(cells),
        last=parts[1] == last,
        shape=train.shape == test.shape == data.shape,
    )


def _chain() -> list[str]:
    """Only recent cells, of those the liked ones, of those a core: times go with their cells."""
    records = [Record(f"u{n % 13}", n * n % 17, (n * 7 % 11) / 2, 1000 - n) for n in range(150)]
    cells = gathered(records, "last")
    data = made(records, "last")
    recent = data.select(data.timestamps >= 900)
    liked = recent.binarize(threshold=2.5)
    core = liked.core(3, 2)
    kept = {p: (1.0, t) for p, (v, t) in cells.items() if t >= 900 and v is not None and v >= 2.5}
    best = peeled(set(kept), 3, 2)
    return wrong(
        recent=spelled(recent) == {p: c for p, c in cells.items() if c[1] >= 900},
        liked=spelled(liked) == kept and liked.shape == data.shape,
        core=len(best) > 5 and spelled(core) == {p: kept[p] for p in best},
    )


def _made_pairs() -> list[str]:
    pairs = lfm_np.datasets.make_interactions(6000, 5, 5, random_state=13)
    d = np.bincount(pairs[:, 0], minlength=6000)
    counts = np.bincount(d, minlength=6)[1:]
    keys = pairs[:, 0].astype(np.int64) * 5 + pairs[:, 1]
    one = lfm_np.datasets.make_interactions(1, 1, 1, random_state=0)
    return wrong(
        sorted=(np.diff(keys) > 0).all(),
        every=d.min() == 1 and d.max() == 5,
        uniform=((counts - 1200.0) ** 2 / 1200).sum() < 30,  # χ² of 4 degrees of freedom: 5e-6
        kind=pairs.dtype == np.int32,
        one=one.tolist() == [[0, 0]],
        again=np.array_equal(pairs, lfm_np.datasets.make_interactions(6000, 5, 5, random_state=13)),
    )


def _made_parts() -> list[str]:
    facts: dict[str, Any] = {}
    for share in (0.0, 0.2, 0.9):
        train, test = lfm_np.datasets.make_interactions_train_test(2000, 20, 2, share, random_state=14)
        a, b = ({tuple(p) for p in part.tolist()} for part in (train, test))
        d = np.bincount([i for i, _ in a | b], minlength=2000)
        facts[f"apart {share}"] = not a & b and len(a) == len(train) and len(b) == len(test)
        facts[f"every {share}"] = {i for i, _ in a} == set(range(2000)) and d.max() <= 2
        facts[f"sorted {share}"] = train.tolist() == sorted(train.tolist()) and test.tolist() == sorted(test.tolist())
        facts[f"share {share}"] = len(b) <= share * d.sum() + 5 * math.sqrt(d.sum() / 4)
        facts[f"some {share}"] = bool(len(b)) == bool(share)
    return wrong(**facts)


def _planted() -> list[str]:
    facts: dict[str, Any] = {}
    for rank, tail, zipf in ((1, 1.5, 1.0), (16, 5.0, 0.0), (60, 1.1, 2.0)):
        data = lfm_np.datasets.planted(700, 60, 7000, rank=rank, tail=tail, zipf=zipf, random_state=15)
        X = data.matrix
        facts[f"cells {rank}"] = abs(X.nnz - 7000) <= 0.015 * 7000 and (X.data == 1).all() and X.shape == (700, 60)
        facts[f"ids {rank}"] = data.users.tolist() == list(range(700)) and data.items.tolist() == list(range(60))
        popular = np.sort(np.bincount(X.indices, minlength=60))
        facts[f"popular {rank}"] = (popular[-6:].mean() > 2 * popular[:6].mean()) or zipf < 2
    return wrong(**facts)


def _in_data_folder(arrays: dict[str, Any], name: str, work: Callable[[], list[str]]) -> list[str]:
    before = os.environ.get("LFM_NP_DATA")
    with folder() as place:
        np.savez(Path(place) / f"ml-{name}.npz", **arrays)
        os.environ["LFM_NP_DATA"] = str(place)
        try:
            return work()
        finally:
            if before is None:
                del os.environ["LFM_NP_DATA"]
            else:
                os.environ["LFM_NP_DATA"] = before


def _own_movielens() -> list[str]:
    """Numbers of items are not in the order of the source's ids; two ratings are unknown."""
    user, item = np.array([2, 0, 1, 0, 2, 1]), np.array([0, 2, 1, 0, 1, 2])
    ids = np.array([50, 7, 20])
    arrays = {
        "user": user, "item": item, "value": np.array([5, 3, 4, 1, 2, 9], np.float32),
        "timestamp": np.array([100, 200, 300, 400, 500, 600]), "movie_id": ids[item],
        "known": np.array([True, True, True, False, True, False]),
        "u1_test": np.array([True, False, False, True, False, False]),
    }  # fmt: skip

    def work() -> list[str]:
        records = lfm_np.datasets.movielens_records("100k")
        data = lfm_np.datasets.movielens("100k")
        mine = {
            (u + 1, int(ids[i])): (v, t) if k else (None, None)
            for u, i, v, t, k in zip(
                user.tolist(), item.tolist(), [5.0, 3.0, 4.0, 1.0, 2.0, 9.0], range(100, 700, 100), arrays["known"]
            )
        }
        train, test, negatives = lfm_np.datasets.movielens_split("100k", "u1")
        return wrong(
            order=records.users.tolist() == (user + 1).tolist() and records.items.tolist() == ids[item].tolist(),
            unknown=np.isnan(records.values).tolist() == (~arrays["known"]).tolist(),
            cells=spelled(data) == mine,
            items=data.items.tolist() == [7, 20, 50],
            test=spelled(test) == {p: mine[p] for p in ((3, 50), (1, 50))},
            train=spelled(train) == {p: c for p, c in mine.items() if p not in ((3, 50), (1, 50))},
            none=negatives is None and train.shape == test.shape == (3, 3),
        )

    return _in_data_folder(arrays, "100k", work)


def _own_negatives() -> list[str]:
    """Negatives are numbers of items in the file and columns in the split, where source ids turn the order round."""
    n, m = 130, 10
    item, user = np.arange(n), np.arange(n) % m
    held = {u: u + 10 * u for u in range(m)}
    part = np.where(np.isin(item, list(held.values())), 2, 0)
    draw = np.random.default_rng(16)
    drawn = np.array([draw.permutation(item[user != u])[:99] for u in range(m)])
    drawn[3, 50], drawn[7, 0] = held[3], held[7]
    arrays = {
        "user": user, "item": item, "movie_id": 1000 - 3 * item, "value": np.ones(n, np.float32),
        "timestamp": np.arange(n), "ncf_split": part, "ncf_test_negatives": drawn,
    }  # fmt: skip

    def work() -> list[str]:
        train, test, negatives = lfm_np.datasets.movielens_split("1m", "ncf")
        mine = [[-1 if i == held[u] else n - 1 - i for i in drawn[u].tolist()] for u in range(m)]
        return wrong(
            columns=negatives.tolist() == mine,
            test=sorted(spelled(test)) == sorted((u + 1, 1000 - 3 * i) for u, i in held.items()),
            train=train.matrix.nnz == n - m and train.shape == test.shape == (m, n),
        )

    return _in_data_folder(arrays, "1m", work)


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    yield _holds("cores of unlike limits, users and items peeled one by one", _core)
    yield _holds("random splits from next to nothing to all but one", _random_split)
    yield _holds("random splits hold each cell out equally often", _random_mean)
    yield _holds("the last n of each user, with ties and short rows", _last_split)
    yield _holds("the latest share of all, with ties", _time_split)
    yield _holds("shares that come out even", _time_split_of_a_hundred)
    yield _holds("days split at noon", _time_split_at_noon)
    yield _holds("three parts of the data", _three_parts)
    yield _holds("recent, liked, and of a core", _chain)
    yield _holds("rows of one to all columns, uniformly", _made_pairs)
    yield _holds("made training and test pairs at both ends of the share", _made_parts)
    yield _holds("planted cells of several ranks, tails and popularities", _planted)
    yield _holds("a MovieLens file of one's own, with ids in another order", _own_movielens)
    yield _holds("negatives of a leave-one-out file, with ids in another order", _own_negatives)
