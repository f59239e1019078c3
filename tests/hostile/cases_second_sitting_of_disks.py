"""The second sitting: builds that fail, files of which a part is broken, arrays that are mapped, and MovieLens."""

from __future__ import annotations

import contextlib
import math
import os
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

import lfm_np

from .case import Case, Group
from .places import command, inside
from .working_days import csr, faultless, raised, same, stars, wrong

_GROUP = Group("second sitting, data")
_holds = faultless(_GROUP)
_read_parquet = lfm_np.Interactions.from_parquet
_stored = lfm_np.StoredMatrix
_MEMORY = 64 << 20


def _values(data: Any) -> dict[Any, float]:
    X = data.matrix.tocoo()
    pairs = zip(data.users[X.coords[0]].tolist(), data.items[X.coords[1]].tolist(), strict=True)
    return dict(zip(pairs, X.data.tolist(), strict=True))


def _on_disk(stored: Any, place: Path) -> dict[Any, float]:
    data, columns, starts = (np.load(place / f"rows.{part}.npy") for part in ("data", "indices", "indptr"))
    rows = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    pairs = zip(stored.users[rows].tolist(), stored.items[columns].tolist(), strict=True)
    return dict(zip(pairs, data.tolist(), strict=True))


def _failed_builds(place: Path) -> list[str]:
    """What is wrong stands in the last file; nothing of that name is there, and the next build may have it."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    faults = []
    for name, user, item, n in (
        ("null", None, 3, 1.0),
        ("infinite", "u1", 3, math.inf),
        ("unknown", "u1", 3, None),
        ("twice", "u1", 1, 4.0),
    ):
        folder = place / name
        folder.mkdir()
        for number in range(3):
            users, items, values = [f"u{number}", f"u{number}"], [number, 9], [1.0 + number, 2.0]
            if number == 2:
                users, items, values = [*users, user], [*items, item], [*values, n]
            table = pa.table({"user": users, "item": items, "n": pa.array(values, pa.float64())})
            pq.write_table(table, folder / f"{number}.parquet")
        words: dict[str, Any] = {"value": "n", "memory": _MEMORY}
        error = raised(partial(_stored.from_parquet, folder, place / "m", duplicates="error", **words))
        if not isinstance(error, (TypeError, ValueError)) or not str(error) or (place / "m").exists():
            faults.append(f"{name}: {error!r}")
        (folder / "2.parquet").unlink()
        stored = _stored.from_parquet(folder, place / "m", duplicates="error", **words)
        if _on_disk(stored, place / "m") != {("u0", 0): 1, ("u0", 9): 2, ("u1", 1): 2, ("u1", 9): 2}:
            faults.append(f"{name}: built again")
        (place / "m").rename(place / f"m {name}")
    twice = sp.coo_array(([1.0, 2.0, 3.0], ([0, 1, 1], [1, 0, 0])), shape=(2, 2))
    error = raised(lambda: _stored.from_matrix(twice, place / "m", zeros="keep"))
    return faults + wrong(matrix=isinstance(error, ValueError) and not (place / "m").exists())


def _from_disk_to_memory(place: Path) -> list[str]:
    """Ratings, some of them 0, with biases and ν = 1: two sweeps on the disk, then three in memory."""
    X = stars(24, 15, seed=2)
    X[X == 1] = 0
    M = csr(X)
    lam, words = 0.05, {
        "factors": 3, "weighting": "ratings", "biases": True, "regularization": 0.05, "regularization_exponent": 1.0,
        "dtype": "float64", "random_state": 4,
    }  # fmt: skip
    disk = _stored.from_matrix(M, place / "m", zeros="keep", dtype="float64")
    path = place / "fit.checkpoint"
    lfm_np.als(disk, iterations=2, checkpoint=path, **words)
    fit = lfm_np.als(M, iterations=5, checkpoint=path, **words)
    alone = lfm_np.als(_stored(place / "m", memory=_MEMORY), iterations=5, **words)
    U, b, mu = fit.user_factors, fit.user_bias, fit.global_bias
    V, d = [], []
    for x in X.T:
        has = ~np.isnan(x)
        Y = np.column_stack([U[has], np.ones(has.sum())])
        both = np.linalg.solve(Y.T @ Y + lam * has.sum() * np.eye(4), Y.T @ (x[has] - mu - b[has]))
        V.append(both[:3])
        d.append(both[3])
    return wrong(
        zeros=(M.data == 0).any() and disk.nnz == M.nnz,
        same=same(fit, alone),
        sweeps=len(fit.history) == 5,
        mean=abs(mu - np.nanmean(X)) < 1e-12,
        items=abs(fit.item_factors - V).max() < 1e-9 and abs(fit.item_bias - d).max() < 1e-9,
    )


def _factors_without_a_name(place: Path) -> list[str]:
    """No file of the factors is ever to be seen in their folder; the result lives without the matrix."""
    X = csr(stars(40, 25, seed=3), np.float32)
    _stored.from_matrix(X, place / "m")
    (place / "factors").mkdir()
    seen = []

    def look(record: Any, factors: Any) -> None:
        seen.append((os.listdir(place / "factors"), factors.user_factors.copy()))

    stored = _stored(place / "m", memory=_MEMORY, factors_in=place / "factors")
    fit = lfm_np.als(stored, factors=4, iterations=3, alpha=2.0, regularization=0.5, random_state=1, callback=look)
    for file in (place / "m").iterdir():
        file.unlink()
    (place / "factors").rmdir()
    U, D = fit.user_factors.astype(np.float64), X.toarray().astype(np.float64)
    mine = [
        np.linalg.solve((U.T * (1 + 2.0 * x)) @ U + 0.5 * np.eye(4), U.T @ np.where(x > 0, 1 + 2.0 * x, 0)) for x in D.T
    ]
    return wrong(
        empty=[names for names, _ in seen] == [[], [], []],
        moved=all((a != b).any() for (_, a), (_, b) in pairwise(seen)),
        items=abs(fit.item_factors - mine).max() < 1e-3 * abs(np.array(mine)).max(),  # float32, cond. below 1e3
    )


def _broken_beside(place: Path) -> list[str]:
    """Every byte of the pages of columns that nobody asks for is another."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    draw = np.random.default_rng(6)
    who, what, n = draw.integers(0, 9, 300), draw.integers(0, 7, 300), draw.integers(1, 6, 300)
    names = [f"u{u}" for u in who]
    columns = {"before": np.arange(300.0), "user": names, "between": [f"x{k}" for k in range(300)]}
    table = pa.table({**columns, "item": what, "n": n, "behind": np.arange(300)})
    path = place / "x.parquet"
    pq.write_table(table, path, row_group_size=100, compression="snappy")
    raw, about = bytearray(path.read_bytes()), pq.read_metadata(path)
    broken = 0
    for group in range(about.num_row_groups):
        for number in (0, 2, 5):
            column = about.row_group(group).column(number)
            start = column.dictionary_page_offset or column.data_page_offset
            for byte in range(start, start + column.total_compressed_size):
                raw[byte] ^= 0xA5
                broken += 1
    path.write_bytes(raw)
    mine: dict[Any, float] = {}
    for u, i, v in zip(names, what.tolist(), n.tolist(), strict=True):
        mine[u, i] = mine.get((u, i), 0.0) + v
    stored = _stored.from_parquet(path, place / "m", value="n", memory=_MEMORY)
    return wrong(
        broken=broken > 3000,
        unreadable=isinstance(raised(lambda: pq.read_table(path, columns=["between"], use_threads=False)), Exception),
        parquet=_values(_read_parquet(path, value="n")) == mine,
        stored=_on_disk(stored, place / "m") == mine,
    )


def _names_of_folders(place: Path) -> list[str]:
    """A file has its own column; what it lacks comes from the folders above it, as numbers too."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    data = place / "data"
    folder = data / "item=77" / "n=10"
    folder.mkdir(parents=True)
    pq.write_table(pa.table({"user": ["a", "b"], "item": [1, 2]}), folder / "own.parquet")
    alone = _values(_read_parquet(folder / "own.parquet", value="n"))
    (folder / "own.parquet").unlink()
    pq.write_table(pa.table({"user": ["a", "b", "a"]}), folder / "x.parquet")
    (data / "item=9" / "n=2").mkdir(parents=True)
    pq.write_table(pa.table({"user": ["b", "a"]}), data / "item=9" / "n=2" / "x.parquet")
    one, all_of_them = _read_parquet(folder / "x.parquet", value="n"), _read_parquet(data, value="n")
    stored = _stored.from_parquet(data, place / "m", value="n", duplicates="count", memory=_MEMORY)
    return wrong(
        alone=alone == {("a", 1): 10, ("b", 2): 10},
        one=_values(one) == {("a", 77): 20, ("b", 77): 10},
        all_of_them=_values(all_of_them) == {("a", 77): 20, ("b", 77): 10, ("a", 9): 2, ("b", 9): 2},
        order=all_of_them.items.tolist() == [9, 77],
        stored=_on_disk(stored, place / "m") == {("a", 77): 2, ("b", 77): 1, ("a", 9): 1, ("b", 9): 1},
    )


def _who_can_write(place: Path) -> list[str]:
    """Arrays of a mapped file are taken as they are; a view that is read-only of what somebody can write is not."""
    X = csr(stars(12, 8, seed=7), np.float32)
    parts = {"data": X.data, "indices": X.indices.astype(np.int32), "indptr": X.indptr.astype(np.int32)}
    for name, array in {**parts, "times": np.arange(X.nnz)}.items():
        np.save(place / f"{name}.npy", array)
    ids = np.arange(12), np.arange(8)
    mapped = {name: np.load(place / f"{name}.npy", mmap_mode="r") for name in (*parts, "times")}
    M = sp.csr_array((mapped["data"], mapped["indices"], mapped["indptr"]), shape=X.shape)
    lying = lfm_np.Interactions(M, *ids, mapped["times"])
    data, times, names = X.data.copy(), np.arange(X.nnz), np.arange(12)
    views = [array.view() for array in (data, times, names)]
    for view in views:
        view.flags.writeable = False
    own = lfm_np.Interactions(
        sp.csr_array((views[0], parts["indices"], parts["indptr"]), shape=X.shape), views[2], ids[1], views[1]
    )
    data[:], times[:], names[:] = 99, -1, 5
    return wrong(
        taken=not np.shares_memory(M.data, mapped["data"]) or np.shares_memory(lying.matrix.data, mapped["data"]),
        times=np.shares_memory(lying.timestamps, mapped["times"]),
        read=(lying.matrix.toarray() == X.toarray()).all(),
        kept=(own.matrix.toarray() == X.toarray()).all(),
        kept_times=own.timestamps.tolist() == list(range(X.nnz)),
        kept_ids=own.users.tolist() == list(range(12)) and own.rows_of([7]).tolist() == [7],
    )


@contextlib.contextmanager
def _at(place: Path) -> Iterator[None]:
    before = os.environ.get("LFM_NP_DATA")
    os.environ["LFM_NP_DATA"] = str(place)
    try:
        yield
    finally:
        if before is None:
            del os.environ["LFM_NP_DATA"]
        else:
            os.environ["LFM_NP_DATA"] = before


def _both_forms(place: Path) -> list[str]:
    """Ratings are those of the .npz, whose ids are numbers and one; titles are those of the archive."""
    np.savez(
        place / "ml-20m.npz", user=np.array([1, 0, 1]), item=np.array([2, 0, 0]), value=np.array([4.5, 3, 0.5]),
        timestamp=np.array([30, 10, 20]),
    )  # fmt: skip
    with zipfile.ZipFile(place / "ml-20m.zip", "w") as archive:
        archive.writestr("ml-20m/ratings.csv", "userId,movieId,rating,timestamp\n8,9,1.0,5\n")
        archive.writestr("ml-20m/movies.csv", 'movieId,title,genres\n9,"Nine, The (2009)",Drama\n3,Three,Comedy\n')
    with _at(place):
        data, records = lfm_np.datasets.movielens("20m"), lfm_np.datasets.movielens_records("20m")
        titles = lfm_np.datasets.movielens_titles("20m")
        (place / "ml-20m.npz").unlink()
        later = lfm_np.datasets.movielens("20m")
    return wrong(
        data=_values(data) == {(2, 3): 4.5, (1, 1): 3, (2, 1): 0.5} and data.timestamps.tolist() == [10, 20, 30],
        records=[part.tolist() for part in records] == [[2, 1, 2], [3, 1, 1], [4.5, 3, 0.5], [30, 10, 20]],
        titles=titles == {9: "Nine, The (2009)", 3: "Three"},
        later=_values(later) == {(8, 9): 1} and later.timestamps.tolist() == [5],
    )


def _films(place: Path) -> list[str]:
    """Ratings count with --value or --threshold, and are events without; the times are there in any case."""
    draw = np.random.default_rng(9)
    cells = draw.choice(10 * 8, 40, replace=False)
    user, item = cells // 8, cells % 8
    value, time = draw.integers(1, 11, 40) / 2, draw.permutation(40) + 978_300_000
    np.savez(place / "ml-100k.npz", user=user, item=item, value=value, timestamp=time)
    names = list(zip((user + 1).tolist(), (item + 1).tolist(), strict=True))
    mine = {
        (): dict.fromkeys(names, 1.0),
        ("--value", "stars"): dict(zip(names, value.tolist(), strict=True)),
        ("--threshold", "3.5"): {name: 1.0 for name, v in zip(names, value.tolist(), strict=True) if v >= 3.5},
    }
    when, faults = dict(zip(names, time.tolist(), strict=True)), []
    for words, found in mine.items():
        with _at(place):
            said = command(
                "fit", "movielens:100k", *words, "--factors", "2", "--iterations", "1", "-o", place / "m.safetensors"
            )
        if said.status:
            faults.append(said.err)
            continue
        path = place / "m.interactions.npz"
        with np.load(path) as file:
            users, items, times = file["users"], file["items"], file["timestamps"]
        X = sp.csr_array(sp.load_npz(path)).tocoo()
        pairs = list(zip(users[X.coords[0]].tolist(), items[X.coords[1]].tolist(), strict=True))
        if dict(zip(pairs, X.data.tolist(), strict=True)) != found:
            faults.append(f"values with {words}")
        if dict(zip(pairs, times.tolist(), strict=True)) != {name: when[name] for name in found}:
            faults.append(f"times with {words}")
    return faults


def cases() -> list[Case]:
    return list(_cases())


def _inside(name: str, work: Callable[[Path], Any]) -> Case:
    return _holds(name, inside(work))


def _cases() -> Iterator[Case]:
    yield _inside("builds of a stored matrix that fail in the last file", _failed_builds)
    yield _inside("ratings of 0 from the disk on in memory", _from_disk_to_memory)
    yield _inside("factors in a folder where nothing is to be seen", _factors_without_a_name)
    yield _inside("broken columns that nobody asks for", _broken_beside)
    yield _inside("a file's own column, and those of the folders above", _names_of_folders)
    yield _inside("arrays that nobody can write to, and such as look so", _who_can_write)
    yield _inside("MovieLens in both forms at once", _both_forms)
    yield _inside("fit: MovieLens as events, as ratings and above a threshold", _films)
