"""The last examination: planted data, and MovieLens in every form that a local file may have."""

from __future__ import annotations

import contextlib
import math
import os
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

import lfm_np

from .case import Case, Group
from .places import inside
from .working_days import faultless, wrong

_GROUP = Group("the last examination, data")
_holds = faultless(_GROUP)
_sets = lfm_np.datasets
_WHERE = "LFM_NP_DATA"


@contextlib.contextmanager
def _at(place: Path) -> Iterator[None]:
    before = os.environ.get(_WHERE)
    os.environ[_WHERE] = str(place)
    try:
        yield
    finally:
        if before is None:
            del os.environ[_WHERE]
        else:
            os.environ[_WHERE] = before


def _cells(data: Any) -> dict[Any, Any]:
    """Value and time of every pair of ids; NaN is None."""
    X = data.matrix.tocoo()
    pairs = zip(data.users[X.coords[0]].tolist(), data.items[X.coords[1]].tolist(), strict=True)
    known = [[None if math.isnan(x) else float(x) for x in column] for column in (X.data, data.timestamps)]
    return dict(zip(pairs, zip(*known, strict=True), strict=True))


def _packed(place: Path, name: str, files: dict[str, bytes]) -> None:
    with zipfile.ZipFile(place / name, "w") as archive:
        for path, raw in files.items():
            archive.writestr(path, raw)


def _held_out_pairs() -> list[str]:
    """Of two whole numbers equally near, the even one; and no row is left without a pair."""
    faults = []
    for seed in range(12):
        for m, n, longest, share in (
            (41, 12, 4, 0.5),
            (30, 9, 3, 0.125),
            (25, 8, 2, 0.875),
            (33, 7, 1, 0.25),
            (9, 5, 5, 0.0),
        ):
            train, test = lfm_np.datasets.make_interactions_train_test(m, n, longest, share, random_state=seed)
            pairs = len(train) + len(test)
            both = {(int(i), int(j)) for part in (train, test) for i, j in part}
            ordered = all((np.diff(part[:, 0].astype(np.int64) * n + part[:, 1]) > 0).all() for part in (train, test))
            if len(test) != min(round(share * pairs), pairs - m):
                faults.append(f"share of {m}, {seed}")
            if len(both) != pairs or not ordered or set(train[:, 0].tolist()) != set(range(m)):
                faults.append(f"pairs of {m}, {seed}")
    return faults


def _steep_tail() -> list[str]:
    """P(more than d) ∝ d⁻¹⁰⁰ leaves all users near the mean of 15; the sum is within six of √m/2."""
    data = lfm_np.datasets.planted(4000, 64, 60_000, tail=100.0, rank=4, random_state=2)
    held = np.diff(data.matrix.indptr)
    return wrong(
        sum=abs(int(held.sum()) - 60_000) <= 6 * math.sqrt(4000) / 2,
        near=held.min() >= 13 and held.max() <= 18,
        ones=(data.matrix.data == 1).all() and data.matrix.has_canonical_format,
        ids=data.users.tolist() == list(range(4000)) and data.items.tolist() == list(range(64)),
        smallest=lfm_np.datasets.planted(1, 4, 1, rank=1, random_state=0).shape == (1, 4),
    )


def _without_extras(place: Path) -> list[str]:
    np.savez(
        place / "ml-latest-small.npz", user=np.array([2, 0, 2, 1, 0]), item=np.array([1, 0, 2, 0, 2]),
        value=np.array([4.5, 0.5, 3.0, 2.0, 5.0], np.float32), timestamp=np.array([10**9, 5, 7, 8, 9]),
    )  # fmt: skip
    with _at(place):
        data, records = _sets.movielens("latest-small"), _sets.movielens_records("latest-small")
    mine = {(3, 2): (4.5, 1e9), (1, 1): (0.5, 5), (3, 3): (3, 7), (2, 1): (2, 8), (1, 3): (5, 9)}
    return wrong(
        cells=_cells(data) == mine,
        ids=data.users.tolist() == [1, 2, 3] and data.items.tolist() == [1, 2, 3],
        float64=data.timestamps.dtype == np.float64,
        order=list(zip(records.users.tolist(), records.items.tolist(), strict=True)) == list(mine),
        types=(records.users.dtype, records.values.dtype, records.timestamps.dtype)
        == (np.int64, np.float32, np.float64),
    )


def _unknown_and_renamed(place: Path) -> list[str]:
    """Columns are in the order of the source's ids, which is not that of the item numbers."""
    np.savez(
        place / "ml-25m.npz", user=np.array([1, 0, 1, 0], np.int32), item=np.array([0, 1, 2, 0], np.int32),
        movie_id=np.array([900, 20, 300, 900], np.int16), known=np.array([True, False, True, True]),
        value=np.array([3.5, 99.0, 1.0, 5.0], np.float32), timestamp=np.array([10, 99, 30, 40]),
    )  # fmt: skip
    with _at(place):
        data, records = _sets.movielens("25m"), _sets.movielens_records("25m")
    return wrong(
        items=data.items.tolist() == [20, 300, 900] and data.users.tolist() == [1, 2],
        cells=_cells(data) == {(1, 20): (None, None), (1, 900): (5, 40), (2, 300): (1, 30), (2, 900): (3.5, 10)},
        order=records.items.tolist() == [900, 20, 300, 900] and records.users.tolist() == [2, 1, 2, 1],
        unknown=np.isnan(records.values).tolist()
        == np.isnan(records.timestamps).tolist()
        == [False, True, False, False],
        liked=set(_cells(data.binarize(threshold=3.5))) == {(1, 900), (2, 900)},
    )


def _negatives_by_column(place: Path) -> list[str]:
    """Item j is film 40 - 10·j, so column 3 - j."""
    tests, others = [1, 3, 3], [[2, 3], [0, 1], [0, 2]]
    negatives = np.array([np.resize(pair, 99) for pair in others], np.int32)
    negatives[:, 5] = tests
    item = np.array([0, 1, 2, 3, 1, 3], np.int32)
    np.savez(
        place / "ml-1m.npz", user=np.array([0, 0, 1, 1, 2, 2], np.int32), item=item,
        movie_id=(40 - 10 * item).astype(np.int16), value=np.arange(1, 7, dtype=np.float32),
        timestamp=np.arange(6), known=np.ones(6, bool), ncf_split=np.array([0, 2, 0, 2, 0, 2], np.int8),
        ncf_test_negatives=negatives,
    )  # fmt: skip
    with _at(place):
        train, test, found = _sets.movielens_split("1m", "ncf")
    mine = 3 - negatives
    mine[:, 5] = -1
    return wrong(
        items=train.items.tolist() == test.items.tolist() == [10, 20, 30, 40],
        train=_cells(train) == {(1, 40): (1, 0), (2, 20): (3, 2), (3, 30): (5, 4)},
        test=_cells(test) == {(1, 30): (2, 1), (2, 10): (4, 3), (3, 10): (6, 5)},
        negatives=found is not None and np.array_equal(found, mine),
    )


def _masks(place: Path) -> list[str]:
    """The first rating is in two tests."""
    user, item = np.array([1, 0, 0, 1, 2]), np.array([0, 0, 1, 1, 1])
    u1, ua = np.array([True, False, True, False, False]), np.array([True, True, False, False, False])
    np.savez(
        place / "ml-100k.npz", user=user, item=item, value=np.array([1.0, 2, 3, 4, 5], np.float32),
        timestamp=np.arange(5), u1_test=u1, ua_test=ua,
    )  # fmt: skip
    faults = []
    with _at(place):
        for name, mask in (("u1", u1), ("ua", ua)):
            train, test, none = _sets.movielens_split("100k", name)
            for part, chosen in ((train, ~mask), (test, mask)):
                mine = {(int(user[j]) + 1, int(item[j]) + 1): (j + 1.0, float(j)) for j in np.flatnonzero(chosen)}
                if _cells(part) != mine or part.shape != (3, 2) or none is not None:
                    faults.append(name)
    return faults


def _archive_of_100k(place: Path) -> list[str]:
    """Tabs, Latin-1, and folds that are files of their own."""
    film = "{}|{}|01-Jan-1995||http://us.imdb.com/M/{}" + "|0" * 19 + "\n"
    titles = {1: "Toy Story (1995)", 5: "Mis\u00e9rables, Les (1995)", 9: "Never Rated (1990)"}
    lines = ["7\t5\t3\t881250949\n", "2\t1\t5\t881250950\n", "7\t1\t1\t881250951\n", "2\t5\t4\t881250948\n"]
    _packed(
        place, "ml-100k.zip", {
            "ml-100k/u.data": "".join(lines).encode(),
            "ml-100k/u.item": "".join(film.format(i, t, i) for i, t in titles.items()).encode("latin-1"),
            "ml-100k/u1.base": "".join(lines[1:3]).encode(),
            "ml-100k/u1.test": "".join([lines[3], lines[0]]).encode(),
        },
    )  # fmt: skip
    with _at(place):
        data, records = _sets.movielens("100k"), _sets.movielens_records("100k")
        said, split = _sets.movielens_titles("100k"), _sets.movielens_split("100k", "u1")
    return wrong(
        cells=_cells(data)
        == {(2, 1): (5, 881250950), (2, 5): (4, 881250948), (7, 1): (1, 881250951), (7, 5): (3, 881250949)},
        order=records.timestamps.tolist() == [881250949, 881250950, 881250951, 881250948],
        titles=said == titles,
        train=_cells(split.train) == {(2, 1): (5, 881250950), (7, 1): (1, 881250951)},
        test=_cells(split.test) == {(2, 5): (4, 881250948), (7, 5): (3, 881250949)},
        ids=split.train.items.tolist() == split.test.items.tolist() == [1, 5],
    )


def _archives_of_colons(place: Path) -> list[str]:
    """Of a million in Latin-1, of ten millions in UTF-8, in a folder of another name and with half stars."""
    faults = []
    for name, folder, encoding, half in (("1m", "ml-1m", "latin-1", "4"), ("10m", "ml-10M100K", "utf-8", "4.5")):
        ratings = f"3::661::{half}::978302109\n1::1193::5::978300760\n3::1193::1::978300000\n"
        films = "661::Mis\u00e9rables, Les (1995)::Drama|Musical\n1193::One Flew: Over (1975)::Drama\n"
        _packed(
            place, f"ml-{name}.zip", {
                f"{folder}/ratings.dat": ratings.encode(), f"{folder}/movies.dat": films.encode(encoding)
            },
        )  # fmt: skip
        with _at(place):
            data, titles = _sets.movielens(name), _sets.movielens_titles(name)
        mine = {(3, 661): (float(half), 978302109), (1, 1193): (5, 978300760), (3, 1193): (1, 978300000)}
        if _cells(data) != mine:
            faults.append(f"cells of {name}")
        if titles != {661: "Mis\u00e9rables, Les (1995)", 1193: "One Flew: Over (1975)"}:
            faults.append(f"titles of {name}")
    return faults


def _archives_of_commas(place: Path) -> list[str]:
    """Titles with commas and quotes; ids beyond 16 bits."""
    films = (
        'movieId,title,genres\n11,"American President, The (1995)",Comedy\n'
        '131072,"""Great Performances"" Cats (1998)",Musical\n7,Am\u00e9lie (2001),Comedy|Romance\n'
    )
    ratings = "userId,movieId,rating,timestamp\n70000,11,3.5,1112486027\n5,131072,0.5,1112484676\n70000,131072,4.0,1\n"
    faults = []
    for name in ("20m", "latest-small"):
        files = {f"ml-{name}/movies.csv": films.encode(), f"ml-{name}/ratings.csv": ratings.encode()}
        _packed(place, f"ml-{name}.zip", files)
        with _at(place):
            data, titles = _sets.movielens(name), _sets.movielens_titles(name)
            order = _sets.movielens_records(name).users.tolist()
        mine = {(70000, 11): (3.5, 1112486027), (5, 131072): (0.5, 1112484676), (70000, 131072): (4, 1)}
        if _cells(data) != mine or order != [70000, 5, 70000]:
            faults.append(f"cells of {name}")
        if titles != {
            11: "American President, The (1995)", 131072: '"Great Performances" Cats (1998)', 7: "Am\u00e9lie (2001)"
        }:  # fmt: skip
            faults.append(f"titles of {name}")
    return faults


def _latest_eighth() -> list[str]:
    """Of the real 100,000 ratings, an eighth at most, and no second is in both parts; then the part with 20 and 15."""
    with np.load(Path(os.environ[_WHERE]) / "ml-100k.npz") as file:
        user, item, when = (file[name].astype(np.int64) for name in ("user", "item", "timestamp"))
    data = _sets.movielens("100k")
    train, test = data.split("time", test_fraction=0.125)
    moments, counts = np.unique(when, return_counts=True)
    late = np.cumsum(counts[::-1])
    number = int((late <= 12_500).sum())
    first = moments[::-1][number - 1]
    kept = np.ones(len(user), bool)
    while True:
        of_user, of_item = np.bincount(user[kept], minlength=943), np.bincount(item[kept], minlength=1682)
        fewer = kept & (of_user[user] >= 20) & (of_item[item] >= 15)
        if fewer.sum() == kept.sum():
            break
        kept = fewer
    core = data.core(20, 15)
    return wrong(
        test=test.matrix.nnz == late[number - 1] and test.timestamps.min() == first,
        train=train.matrix.nnz == 100_000 - late[number - 1] and train.timestamps.max() < first,
        core=core.matrix.nnz == kept.sum() and core.shape == (len(set(user[kept])), len(set(item[kept]))),
        ids=core.items.tolist() == sorted({int(i) + 1 for i in item[kept]}),
    )


def cases() -> list[Case]:
    return list(_cases())


def _inside(name: str, work: Callable[[Path], Any]) -> Case:
    return _holds(name, inside(work))


def _cases() -> Iterator[Case]:
    yield _holds("pairs held out are a rounded share", _held_out_pairs)
    yield _holds("a planted tail of 100 makes all users alike", _steep_tail)
    yield _inside("a local MovieLens without what is optional", _without_extras)
    yield _inside("a local MovieLens with other ids and unknown ratings", _unknown_and_renamed)
    yield _inside("drawn negatives are columns, not item numbers", _negatives_by_column)
    yield _inside("folds of a local MovieLens by its masks", _masks)
    yield _inside("an archive with tabs and folds", _archive_of_100k)
    yield _inside("archives with colons, of two encodings", _archives_of_colons)
    yield _inside("archives with commas in titles", _archives_of_commas)
    if _WHERE in os.environ:
        yield _holds("the latest eighth of MovieLens, and its core", _latest_eighth)
