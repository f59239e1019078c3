"""Tables, files and folders that docs/data.md names, at values that no example has, beside dictionaries."""

from __future__ import annotations

import gzip
import importlib
import json
import os
from collections.abc import Iterator
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

from .case import Case, Group, installed
from .cases_second_opinions_of_data import cells_of, grouped
from .sentences_by_numpy import lfm_np
from .working_days import Model, all_scores, biased_half, close, csr, faultless, folder, stars, start, wrong

_holds = faultless(Group("second opinions"))


def _pandas_categories() -> list[str]:
    pd: Any = importlib.import_module("pandas")

    frame = pd.DataFrame(
        {
            "who": pd.Categorical(["y", "x", "y", "x", "w", "y"], categories=["z", "y", "x", "w"]),
            "what": pd.array([4, 2, 4, None, 2, 2], "Int64"),
            "n": [1.5, 2.0, 4.0, 8.0, 16.0, 32.0],
            "at": pd.to_datetime(["2024-03-31 03:30"] * 5 + ["2024-03-31 04:00"]).tz_localize("Europe/Berlin"),
        }
    )
    data = lfm_np.Interactions.from_frame(
        frame, "who", "what", "n", "at", duplicates="mean", nulls="drop", min_user_interactions=2
    )
    matrix, times = data.matrix.toarray(), np.asarray(data.timestamps)
    return wrong(
        users=list(data.users) == ["y"],
        items=[int(i) for i in data.items] == [2, 4],
        values=matrix.tolist() == [[32.0, 2.75]],
        utc=times.astype("datetime64[m]").tolist()
        == np.array(["2024-03-31T02:00", "2024-03-31T01:30"], "datetime64[m]").tolist(),
    )


def _polars_dates() -> list[str]:
    import polars as pl

    frame = pl.DataFrame(
        {
            "user": [date(2023, 1, 2), date(1960, 5, 4), date(2023, 1, 2), date(1960, 5, 4)],
            "item": [True, False, False, False],
            "v": [None, 2.5, -1.0, 3.0],
        }
    ).lazy()
    data = lfm_np.Interactions.from_frame(frame, value="v", nulls="keep", duplicates="max")
    matrix = data.matrix.toarray()
    return wrong(
        users=[np.datetime64(u, "D") for u in data.users] == [np.datetime64("1960-05-04"), np.datetime64("2023-01-02")],
        items=[bool(i) for i in data.items] == [False, True],
        known=matrix[:, 0].tolist() == [3.0, -1.0],
        unknown=bool(np.isnan(matrix[1, 1])) and data.matrix.nnz == 3,
    )


def _decimals_in_arrow() -> list[str]:
    import pyarrow as pa

    ids = [Decimal("10.50"), Decimal("9.75"), Decimal("-3.00"), Decimal("10.50")]
    table = pa.table({"user": ids, "item": pa.array(["é", "z", "e", "é"]).dictionary_encode(), "other": [None] * 4})
    data = lfm_np.Interactions.from_frame(table)
    return wrong(
        users=[Decimal(u) for u in data.users.tolist()] == sorted(set(ids)),
        items=data.items.tolist() == ["e", "z", "é"],
        counts=data.matrix.toarray().tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 2]],
    )


def _csv_without_names() -> list[str]:
    text = '007;"a;b";1e2\n7;"NA";-0.5\n007;"a;b";2.25\n0x1F;c;\n'
    with folder() as place:
        path = place / "data.csv.gz"
        path.write_bytes(gzip.compress(text.encode()))
        data = lfm_np.Interactions.from_csv(
            path, delimiter=";", column_names=["u", "i", "x"], column_types={"u": "string", "i": "string"},
            user="u", item="i", value="x", nulls="keep",
        )  # fmt: skip
    found = cells_of(data)
    return wrong(
        keys=list(found) == [("007", "a;b"), ("0x1F", "c"), ("7", "NA")],
        sums=found["007", "a;b"][0] == 102.25 and found["7", "NA"][0] == -0.5,
        unknown=bool(np.isnan(found["0x1F", "c"][0])),
    )


def _parquet_in_folders() -> list[str]:
    """The later file by name counts, whatever the order they were written in; the folder says the item."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with folder() as place:
        for item, types in (("b", pa.int64()), ("a", pa.int16())):
            for name, step in (("2", 10), ("1", 1)):
                (place / f"item={item}").mkdir(exist_ok=True)
                kind = pa.float32() if name == "1" else pa.float64()
                table = pa.table({"v": pa.array([step * 0.5, step * 1.5], kind), "user": pa.array([300, 4], types)})
                pq.write_table(table, place / f"item={item}" / f"{name}.parquet")
        data = lfm_np.Interactions.from_parquet(place, value="v", duplicates="last")
    mine = {(u, i): (x, None) for i in "ab" for u, x in ((4, 15.0), (300, 5.0))}
    return wrong(cells=cells_of(data) == mine)


def _stored_folder() -> list[str]:
    draw = np.random.default_rng(31)
    full = np.where(draw.random((257, 5)) < 0.2, draw.integers(1, 9, (257, 5)) / 3, 0.0)
    rows, columns = np.nonzero(full)
    halves = [full[rows, columns] * 0.25, full[rows, columns] * 0.75]
    X = sp.coo_array((np.concatenate(halves), (np.tile(rows, 2), np.tile(columns, 2))), shape=full.shape)
    with folder() as place:
        stored = lfm_np.StoredMatrix.from_matrix(X, place / "it", dtype="float64", memory=48 << 20, num_threads=1)
        facts: dict[str, Any] = {
            "said": (stored.shape, stored.nnz, stored.dtype) == ((257, 5), len(rows), np.float64),
            "no ids": stored.users is stored.items is None,
            "no rest": not (place / "it.partial").exists(),
            "manifest": isinstance(json.loads((place / "it" / "manifest.json").read_text()), dict),
        }
        for side, mine in (("rows", full), ("columns", full.T)):
            offsets, indices, values = (
                np.load(place / "it" / f"{side}.{part}.npy") for part in ("indptr", "indices", "data")
            )
            facts[f"{side} offsets"] = offsets.tolist() == [0, *np.cumsum((mine != 0).sum(1)).tolist()]
            facts[f"{side} indices"] = indices.tolist() == np.nonzero(mine)[1].tolist()
            facts[f"{side} values"] = close(values, mine[np.nonzero(mine)], 1e-15)
    return wrong(**facts)


def _factors_on_the_disk() -> list[str]:
    """Ratings of which some are zero, that are a value here; the factors' files have no name."""
    X = stars(41, 10) - 3.0
    zeros = int((X == 0).sum())
    with folder() as place:
        lfm_np.StoredMatrix.from_matrix(csr(X), place / "it", zeros="keep", dtype="float64")
        (place / "factors").mkdir()
        stored = lfm_np.StoredMatrix(str(place / "it"), memory=40 << 20, factors_in=place / "factors")
        fit = lfm_np.als(
            stored, factors=2, iterations=2, init=start(41, 10, 2), weighting="ratings", biases=True,
            regularization=0.8, dtype="float64",
        )  # fmt: skip
        names = list((place / "factors").iterdir())
        scores = all_scores(fit)
    V, d, mu = start(41, 10, 2)[1], np.zeros(10), float(np.nanmean(X))
    for _ in range(2):
        U, b = biased_half(X, V, d, mu, 0.8)
        V, d = biased_half(X.T, U, b, mu, 0.8)
    return wrong(
        some=zeros > 10,
        cells=stored.nnz == int((~np.isnan(X)).sum()),
        scores=close(scores, mu + b[:, None] + d + U @ V.T, 1e-8),
        nameless=names == [],
    )


def _stored_records() -> list[str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    draw = np.random.default_rng(33)
    users, items = draw.integers(0, 21, 300), draw.integers(0, 6, 300)
    names = [f"kött {u:x}" for u in users]
    counts = grouped(np.column_stack([users, items]), np.ones(300))
    order = sorted(set(names))
    X = np.full((len(order), 6), np.nan)
    for (u, i), ones in counts.items():
        X[order.index(f"kött {u:x}"), i] = len(ones)
    model, V = Model("hu-koren", alpha=2.5, lam=0.7), start(len(order), 6, 2)
    with folder() as place:
        table = pa.table({"who": names, "what": items, "x": draw.normal(size=300)})
        pq.write_table(table, place / "r.parquet", row_group_size=70)
        stored = lfm_np.StoredMatrix.from_parquet(
            place / "r.parquet", place / "it", user="who", item="what", value="x", duplicates="count", memory=80 << 20
        )
        fit = lfm_np.als(stored, factors=2, iterations=2, init=tuple(f.astype(np.float32) for f in V), **model.words)
        ids = pq.read_table(place / "it" / "users.parquet").column(0).to_pylist()
        known = list(stored.users)
    U, W = model.sweeps(X, V[1], 2)
    return wrong(
        users=known == order == ids,
        cells=(stored.shape, stored.nnz) == (X.shape, len(counts)),
        fit=close(fit.user_factors @ fit.item_factors.T, U @ W.T, 1e-4),
    )


class _Local:
    """A folder of data of one's own, named by LFM_NP_DATA."""

    def __init__(self, place: Path, name: str, **arrays: Any) -> None:
        np.savez(place / f"ml-{name}.npz", **arrays)
        self.place, self.before = place, os.environ.get("LFM_NP_DATA")

    def __enter__(self) -> None:
        os.environ["LFM_NP_DATA"] = str(self.place)

    def __exit__(self, *_: object) -> None:
        del os.environ["LFM_NP_DATA"]
        if self.before is not None:
            os.environ["LFM_NP_DATA"] = self.before


def _own_ratings(count: int = 60) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(40)
    at = draw.permutation(12 * 8)[:count]
    return {
        "user": (at // 8).astype(np.int32), "item": (at % 8).astype(np.int32),
        "value": (draw.integers(1, 11, count) / 2).astype(np.float32), "timestamp": draw.integers(10, 10**9, count),
    }  # fmt: skip


def _a_film_site_of_ones_own() -> list[str]:
    have = _own_ratings()
    known, movie = np.arange(60) % 7 != 2, (have["item"] * 11 + 2).astype(np.int64)
    with folder() as place, _Local(place, "latest-small", known=known, movie_id=movie, **have):
        data, records = (getattr(lfm_np.datasets, name)("latest-small") for name in ("movielens", "movielens_records"))
    users, times = have["user"] + 1, have["timestamp"]
    values = np.where(known, have["value"], np.nan)
    found = cells_of(data)
    facts = [
        (found[u, i] == (x, t)) if k else bool(np.isnan(found[u, i]).all())
        for u, i, x, t, k in zip(
            users.tolist(), movie.tolist(), values.tolist(), times.tolist(), known.tolist(), strict=True
        )
    ]
    return wrong(
        cells=all(facts) and len(found) == 60,
        users=np.array_equal(records.users, users) and np.array_equal(records.items, movie),
        values=np.array_equal(records.values, values, equal_nan=True),
        times=np.array_equal(records.timestamps, np.where(known, times, np.nan), equal_nan=True),
        dtypes=[a.dtype.name for a in records] == ["int64", "int64", "float32", "float64"],
    )


def _splits_of_ones_own() -> list[str]:
    have = _own_ratings()
    held = np.random.default_rng(41).random(60) < 0.3
    facts: dict[str, Any] = {}
    with folder() as place, _Local(place, "100k", u4_test=held, **have):
        train, test, none = lfm_np.datasets.movielens_split("100k", "u4")
    keys = [(u + 1, i + 1) for u, i in zip(have["user"].tolist(), have["item"].tolist(), strict=True)]
    facts["test"] = cells_of(test).keys() == {key for key, h in zip(keys, held, strict=True) if h}
    facts["train"] = cells_of(train).keys() == {key for key, h in zip(keys, held, strict=True) if not h}
    facts["same"] = train.shape == test.shape and none is None
    return wrong(**facts)


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    for name, call in (
        ("a film site of one's own in LFM_NP_DATA", _a_film_site_of_ones_own),
        ("a split of one's own in LFM_NP_DATA", _splits_of_ones_own),
        ("the files of a stored matrix of 257 rows", _stored_folder),
        ("zeros kept on the disk, and factors beside them", _factors_on_the_disk),
    ):
        yield _holds(name, call)
    if installed("pyarrow", "narwhals"):
        yield _holds("decimals and dictionaries of Arrow", _decimals_in_arrow)
        yield _holds("a compressed CSV without names, semicolons in quotes", _csv_without_names)
        yield _holds("a tree of Parquet folders, types of their own in each file", _parquet_in_folders)
        yield _holds("records counted into a stored matrix and fitted", _stored_records)
    if installed("pandas", "narwhals"):
        yield _holds("pandas categories, nullable items and Berlin's time", _pandas_categories)
    if installed("polars", "narwhals"):
        yield _holds("a lazy frame of dates and booleans", _polars_dates)
