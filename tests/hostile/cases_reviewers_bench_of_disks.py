"""A reviewer's programs, each to show a promise of the pages false: matrices on disk, and on several machines."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

from .case import Case, Group, installed
from .places import child
from .sentences_by_numpy import Rule, lfm_np, near, product
from .working_days import NAN, Model, csr, faultless, folder, raised, same, stars, start, tells, wrong

_GROUP = Group("the reviewer's bench")
_holds = faultless(_GROUP)


def _mapped(place: Path, name: str = "rows") -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    files = [np.load(place / f"{name}.{part}.npy", mmap_mode="r") for part in ("data", "indices", "indptr")]
    return files[0], files[1], files[2]


def _built_twice() -> list[str]:
    """Out of core: 'a folder, made once'; `from_matrix`: 'The files are the same for any number' of threads, the
    folder 'must not exist'. X has unsorted int64 indices and cells that are stored twice."""
    draw = np.random.default_rng(9)
    rows, columns = draw.integers(0, 57, 900), draw.integers(0, 23, 900)
    values = draw.integers(-3, 4, 900).astype(np.float64)
    X = sp.coo_array((values, (rows.astype(np.int64), columns.astype(np.int64))), shape=(57, 23))
    D, has = np.zeros((57, 23)), np.zeros((57, 23), bool)
    for r, c, v in zip(rows, columns, values, strict=True):
        D[r, c] += v
        has[r, c] = True
    has &= D != 0  # a sum of zero is a stored zero, which counts as absent
    with folder() as place:
        for name, threads in (("a", 1), ("b", 3)):
            lfm_np.StoredMatrix.from_matrix(X, place / name, dtype="float64", num_threads=threads, memory=threads << 25)
        before = {p.name: p.read_bytes() for p in (place / "a").iterdir()}
        error = raised(lambda: lfm_np.StoredMatrix.from_matrix(X, place / "a", dtype="float64"))
        after = {p.name: p.read_bytes() for p in (place / "a").iterdir()}
        equal = all(
            (place / "a" / p.name).read_bytes() == p.read_bytes() for p in (place / "b").iterdir() if p.suffix == ".npy"
        )
        stored = lfm_np.StoredMatrix(place / "b")
        by_rows = sp.csr_array(_mapped(place / "b"), shape=(57, 23))
        by_columns = sp.csc_array(_mapped(place / "b", "columns"), shape=(57, 23))
        return wrong(
            refused=isinstance(error, (ValueError, OSError)) and tells(error, "already"),
            kept=before == after,
            equal=equal,
            only=sorted(p.name for p in place.iterdir()) == ["a", "b"],
            size=(stored.shape, stored.nnz, stored.dtype) == ((57, 23), int(has.sum()), np.float64),
            rows=np.array_equal(by_rows.toarray(), D) and by_rows.nnz == has.sum(),
            columns=np.array_equal(by_columns.toarray(), D) and by_columns.nnz == has.sum(),
        )


def _there_and_back() -> list[str]:
    """Out of core: 'a checkpoint of a fit in memory can be gone on with from the disk' - there and back,
    of ratings with zeros and biases in float64, the factors on the disk too, beside a callback."""
    D = stars(30, 14, 10) - 3.0  # with zeros, and below
    X = csr(D)
    words: dict[str, Any] = {
        "factors": 3, "weighting": "ratings", "biases": True, "dtype": "float64", "random_state": 4,
        "regularization": 0.7, "solver": "exact",
    }  # fmt: skip
    marks: list[tuple[int, float]] = []

    def note(record: dict[str, Any], factors: Any) -> None:
        S = product(factors) + factors.global_bias + factors.user_bias[:, None] + factors.item_bias
        error = float(((S - D)[~np.isnan(D)] ** 2).sum())
        held = sum(float((part**2).sum()) for part in (factors.user_factors, factors.item_factors))
        held += float((factors.user_bias**2).sum() + (factors.item_bias**2).sum())
        marks.append((record["iteration"], error + 0.7 * held))

    with folder() as place:
        lfm_np.StoredMatrix.from_matrix(X, place / "m", zeros="keep", dtype="float64")
        stored = lfm_np.StoredMatrix(place / "m", memory=64 << 20, factors_in=place)
        for times, source in enumerate((X, stored, X), 1):
            last = lfm_np.als(source, iterations=2 * times, checkpoint=place / "c", callback=note, **words)
        left = sorted(p.name for p in place.iterdir())
    whole = lfm_np.als(X, iterations=6, **words)
    J = [r["objective"] for r in last.history]
    return wrong(
        bits=same(last, whole),
        iterations=[s for s, _ in marks] == [1, 2, 3, 4, 5, 6],
        objectives=near(J, [j for _, j in marks], 1e-10),
        mean=near(last.global_bias, np.nanmean(D), 1e-12),
        left=left == ["c", "m"],
    )


def _mapped_as_any() -> list[str]:
    """Out of core: '`numpy.load(…, mmap_mode="r")` maps them for whatever else you do': fit, fold in, judge, list."""
    X, rule = stars(24, 15, 11), Rule("confidence", 2.0, 0.5, 0.3)
    T = np.where(np.random.default_rng(1).random((24, 15)) < 0.2, 1.0, NAN)
    with folder() as place:
        lfm_np.StoredMatrix.from_matrix(csr(X, np.float32), place / "m")
        mine = sp.csr_array(_mapped(place / "m"), shape=(24, 15))
        words = {"factors": 3, "random_state": 0, **rule.words}
        fit, disk = lfm_np.als(mine, **words), lfm_np.als(lfm_np.StoredMatrix(place / "m"), **words)
        data = lfm_np.Interactions(mine, np.arange(24) * 3, np.arange(15) + 100)
        ids, scores = fit.recommend(np.arange(24), N=15, seen=data)
        row = fit.fold_in_users(mine[[7]]).user_factors[0]
        found = lfm_np.evaluate(fit, mine, csr(T), ["hit_rate@3"])["users"]
    few = [int(np.isnan(x).sum()) for x in X]
    return wrong(
        bits=same(fit, disk),
        seen=all(np.isnan(X[u, i[i >= 0]]).all() and (i >= 0).sum() == few[u] for u, i in enumerate(ids)),
        scores=all((np.diff(s[:q]) <= 0).all() and (s[q:] == -np.inf).all() for s, q in zip(scores, few, strict=True)),
        row=near(row, rule.row(X[7], fit.item_factors.astype(np.float64)), 1e-4),  # float32, 15 cells, κ below 100
        users=found == int((~np.isnan(T) & np.isnan(X)).any(1).sum()),
    )


def _from_two_files(duplicates: str) -> list[str]:
    """Out of core: 'from Parquet, in batches, with ids of any kind';
    '"last" means the last in the order of the files'."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    draw = np.random.default_rng(12)
    cells: dict[tuple[str, int], list[float]] = {}
    order: list[tuple[list[str], list[int], list[float]]] = []
    with folder() as place:
        (place / "in").mkdir()
        for name in ("b.parquet", "a.parquet"):  # a is read first, though written last
            users = [f"u{draw.integers(40):03}" for _ in range(300)]
            items = draw.integers(-5, 12, 300).tolist()
            values = (draw.integers(1, 64, 300) / 8.0).tolist()
            table = pa.table({"who": users, "what": items, "x": values, "other": ["-"] * 300})
            pq.write_table(table, place / "in" / name, row_group_size=70)
            order.insert(0, (users, items, values))
        for records in order:
            for u, i, x in zip(*records, strict=True):
                cells.setdefault((u, i), []).append(x)
        stored = lfm_np.StoredMatrix.from_parquet(
            place / "in", place / "m", user="who", item="what", value="x", duplicates=duplicates, memory=40 << 20
        )
        users, items = sorted({u for u, _ in cells}), sorted({i for _, i in cells})
        combine: Any = {"sum": sum, "last": lambda x: x[-1], "mean": np.mean, "max": max, "count": len}[duplicates]
        D = np.zeros((len(users), len(items)))
        for (u, i), x in cells.items():
            D[users.index(u), items.index(i)] = combine(x)
        by_rows = sp.csr_array(_mapped(place / "m"), shape=D.shape)
        by_columns = sp.csc_array(_mapped(place / "m", "columns"), shape=D.shape)
        again = lfm_np.StoredMatrix(place / "m")
        return wrong(
            ids=list(stored.users) == users and list(again.items) == items,
            rows=near(by_rows.toarray(), D, 1e-7) and by_rows.nnz == len(cells),  # float32 of the values
            columns=np.array_equal(by_columns.toarray(), by_rows.toarray()),
            input=sorted(p.name for p in (place / "in").iterdir()) == ["a.parquet", "b.parquet"],
        )


def _on_workers(work: Any) -> bool:
    """In a process of its own, whose threads end with it."""

    def run() -> bool:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            import distributed

            with distributed.Client(processes=False, n_workers=1, threads_per_worker=2, dashboard_address=":0"):
                return bool(work())

    return child(run) == 0


def _either_way() -> bool:
    """On several machines: items from 'equations' (many users, few items) and from 'users' (else) are a
    sweep's."""
    model, good = Model("ials", 2.0, 0.3, 0.4, 0.5), True
    for m, n in ((160, 4), (9, 40)):
        X, first = stars(m, n, 13), start(m, n, 3)
        fit = lfm_np.distributed.als(
            csr(X), shards=3, factors=3, iterations=2, init=first, dtype="float64", **model.words
        )
        U, V = model.sweeps(X, first[1], 2)
        good &= near(product(fit), U @ V.T) and near(fit.history[-1]["objective"], model.objective(X, U, V), 1e-8)
    return good


def _broken_off_on_workers() -> bool:
    """On several machines: 'the same call again goes on from the file'; a callback sees the rest; `users_to`."""
    X, first = stars(50, 8, 14), start(50, 8, 2)
    words: dict[str, Any] = {"factors": 2, "init": first, "dtype": "float64", "shards": 2, **Model().words}
    seen: list[int] = []
    with folder() as place:
        words["checkpoint"] = place / "c"
        lfm_np.distributed.als(csr(X), iterations=3, checkpoint_every=1, **words)
        fit = lfm_np.distributed.als(
            csr(X),
            iterations=5,
            callback=lambda r, f: seen.append(r["iteration"]),
            users_to=place / "u.npy",
            **words,
        )
        error = raised(lambda: lfm_np.distributed.als(csr(X), iterations=6, **{**words, "shards": 3}))
        file = np.load(place / "u.npy")
        del words["checkpoint"]
        whole = lfm_np.distributed.als(csr(X), iterations=5, **words)
        U, V = Model().sweeps(X, first[1], 5)
        return bool(
            same(fit, whole)
            and np.array_equal(file, whole.user_factors)
            and seen == [4, 5]
            and near(product(fit), U @ V.T)
            and isinstance(error, ValueError)
        )


def _split_by_hash() -> bool:
    """On several machines: 'every record is first written to `staging=`, a folder for each shard, by a hash of its
    user'; `data.items, data.users()` are the ids of the rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    draw = np.random.default_rng(15)
    users, items = draw.integers(0, 30, 240), draw.integers(0, 9, 240) * 7 - 20
    with folder() as place:
        (place / "in").mkdir()
        for part in range(3):
            table = pa.table({"user": [f"n{u}" for u in users[part::3]], "item": items[part::3]})
            pq.write_table(table, place / "in" / f"{part}.parquet")
        data = lfm_np.distributed.from_parquet(place / "in", shards=3, staging=place / "split")
        names, columns = list(data.users()), list(data.items)
        X = np.full((len(names), len(columns)), NAN)
        for u, i in zip(users, items, strict=True):
            cell = names.index(f"n{u}"), columns.index(i)
            X[cell] = np.nan_to_num(X[cell]) + 1.0
        first = start(*X.shape, 2)
        fit = lfm_np.distributed.als(data, factors=2, iterations=2, init=first, dtype="float64", **Model().words)
        U, V = Model().sweeps(X, first[1], 2)
        return sorted(names) == sorted({f"n{u}" for u in users}) and near(product(fit), U @ V.T)


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    yield _holds("a stored matrix built twice", _built_twice)
    yield _holds("a checkpoint to the disk and back, with zeros and biases", _there_and_back)
    yield _holds("mapped rows of a stored matrix, for whatever else", _mapped_as_any)
    if installed("pyarrow", "narwhals"):
        yield _holds("two files become a stored matrix: the last", lambda: _from_two_files("last"))
        others = ("mean", "max", "count")
        yield _holds(
            "two files become a stored matrix: the rest", lambda: [x for d in others for x in _from_two_files(d)]
        )
    if installed("distributed"):
        yield _GROUP.right("items by equations and by users", lambda: _on_workers(_either_way), bool)
        yield _GROUP.right("broken off on workers, users to a file", lambda: _on_workers(_broken_off_on_workers), bool)
        if installed("pyarrow"):
            yield _GROUP.right("records split by a hash of their users", lambda: _on_workers(_split_by_hash), bool)
