"""Sentences about tables, files of records and data sets, recounted."""

from __future__ import annotations

import datetime as dt
import gzip
import math
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

from .case import Case, Group, installed
from .cases_sentences_of_data import _pairs
from .sentences_by_numpy import lfm_np
from .working_days import NAN, faultless, folder, raised, tells, wrong

_GROUP = Group("sentence tables")
_holds = faultless(_GROUP)
_refused = _GROUP.refused


def _made_pairs() -> list[str]:
    pairs = lfm_np.datasets.make_interactions(6000, 40, 4, random_state=1)
    train, test = lfm_np.datasets.make_interactions_train_test(6000, 40, 4, test_fraction=0.3, random_state=1)
    both = sorted(map(tuple, np.vstack([train, test]).tolist()))
    lengths = np.bincount(pairs[:, 0], minlength=6000)
    full = lfm_np.datasets.make_interactions(200, 3, 3, random_state=0)
    nothing = lfm_np.datasets.make_interactions_train_test(50, 9, 3, test_fraction=0.0, random_state=0)[1]
    listed = list(map(tuple, pairs.tolist()))
    return wrong(
        sorted=listed == sorted(set(listed)),
        rows=set(pairs[:, 0].tolist()) == set(range(6000)),
        dtype=pairs.dtype == np.int32,
        uniform=all(abs((lengths == d).mean() - 0.25) < 6 * math.sqrt(0.1875 / 6000) for d in (1, 2, 3, 4)),
        distinct=len(set(both)) == len(both),
        train=set(train[:, 0].tolist()) == set(range(6000)),
        ordered=all(list(map(tuple, part.tolist())) == sorted(map(tuple, part.tolist())) for part in (train, test)),
        full=np.bincount(full[:, 0]).max() == 3 and full[:, 1].max() == 2,
        nothing=nothing.shape == (0, 2),
    )


def _planted() -> list[str]:
    data = lfm_np.datasets.planted(500, 100, 6000, random_state=0)
    dense = lfm_np.datasets.planted(80, 40, 80 * 40 // 4, random_state=0)
    errors = [raised(partial(lfm_np.datasets.planted, 80, 40, c, random_state=0)) for c in (79, 801)]
    return wrong(
        cells=abs(data.matrix.nnz - 6000) <= 120,
        most=abs(dense.matrix.nnz - 800) <= 40,
        ones=set(data.matrix.data.tolist()) == {1.0},
        ids=data.users.tolist() == list(range(500)) and data.items.tolist() == list(range(100)),
        refused=all(isinstance(e, ValueError) and tells(e, "cells") for e in errors),
    )


def _movielens() -> list[str]:
    with np.load(Path(os.environ["LFM_NP_DATA"]) / "ml-100k.npz") as file:
        raw = {name: file[name] for name in file}
    data, records = lfm_np.datasets.movielens("100k"), lfm_np.datasets.movielens_records("100k")
    split = lfm_np.datasets.movielens_split("100k", "u1")
    film = raw.get("movie_id", np.arange(raw["item"].max() + 1) + 1)[raw["item"]]
    X = sp.csr_array((raw["value"].astype(np.float32), (raw["user"], raw["item"])), shape=data.shape)
    held = sp.csr_array((raw["u1_test"].astype(float), (raw["user"], raw["item"])), shape=data.shape)
    held.eliminate_zeros()
    return wrong(
        order=np.array_equal(records.items, film) and np.array_equal(records.values, raw["value"].astype(np.float32)),
        kinds=(records.users.dtype, records.values.dtype, records.timestamps.dtype)
        == (np.int64, np.float32, np.float64),
        times=np.array_equal(records.timestamps, raw["timestamp"]),
        matrix=abs(data.matrix - X).nnz == 0,
        ids=np.array_equal(data.items, np.sort(np.unique(film))) and bool((np.diff(data.users) > 0).all()),
        test=_pairs(split.test) == set(zip(*(p.tolist() for p in held.nonzero()), strict=True)),
        none=split.negatives is None,
        train=split.train.matrix.nnz + split.test.matrix.nnz == len(raw["user"]),
    )


CSV = 'user,item,value\n007,x,1\n,x,2\nNULL,y,3\n"NULL",y,4\nN/A,z,5\n"",z,6\nNA,x,7\n"NaN",x,8\n7,x,\n'


def _nulls_of_csv() -> list[str]:
    with folder() as place:
        (place / "a.csv").write_text(CSV)
        words: dict[str, Any] = {"value": "value", "column_types": {"user": "string"}}
        error = raised(lambda: lfm_np.Interactions.from_csv(place / "a.csv", **words))
        data = lfm_np.Interactions.from_csv(place / "a.csv", nulls="drop", **words)
        kept = raised(lambda: lfm_np.Interactions.from_csv(place / "a.csv", nulls="keep", **words))
        (place / "b.csv").write_text("user,item,value\n007,x,1\n7,x,\n7,y,NaN\n")
        unknown = lfm_np.Interactions.from_csv(place / "b.csv", nulls="keep", **words)
    return wrong(
        counts=isinstance(error, ValueError) and tells(error, "null|nan") and tells(error, "4|5"),
        users=data.users.tolist() == ["", "007", "NULL", "NaN"],
        values=sorted(data.matrix.data.tolist()) == [1, 4, 6, 8],
        ids=isinstance(kept, ValueError) and tells(kept, "null", "user"),
        unknown=np.array_equal(unknown.matrix.toarray(), np.array([[1.0, 0.0], [NAN, NAN]]), equal_nan=True),
    )


def _a_folder_of_csv() -> list[str]:
    with folder() as place:
        (place / "in").mkdir()
        (place / "in" / "b.csv").write_text("u;i;v\n1;5;2.5\n")
        (place / "in" / "a.csv").write_text("u;i;v\n")
        with gzip.open(place / "in" / "c.csv.gz", "wt") as file:
            file.write("u;i;v\n1;5;4.0\n2;6;1\n")
        words: dict[str, Any] = {"delimiter": ";", "user": "u", "item": "i", "value": "v", "duplicates": "last"}
        data = lfm_np.Interactions.from_csv(place / "in", **words)
        (place / "bare.csv").write_text("1;5;2.5\n3;5;1\n")
        bare = lfm_np.Interactions.from_csv(place / "bare.csv", column_names=["u", "i", "v"], **words)
    return wrong(
        last=data.matrix.toarray().tolist() == [[4, 0], [0, 1]], ids=data.users.tolist() == [1, 2],
        bare=bare.users.tolist() == [1, 3] and bare.matrix.data.tolist() == [2.5, 1],
    )  # fmt: skip


def _a_folder_of_parquet() -> list[str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with folder() as place:
        for shop, users, kind in (("north", [3, 1], pa.int8()), ("south", [1, 2**40], pa.int64())):
            (place / f"item={shop}").mkdir()
            pq.write_table(
                pa.table({"user": pa.array(users, kind), "v": [1.5, 2.0]}), place / f"item={shop}" / "f.parquet"
            )
        data = lfm_np.Interactions.from_parquet(place, value="v")
    return wrong(
        users=data.users.tolist() == [1, 3, 2**40], items=data.items.tolist() == ["north", "south"],
        cells=data.matrix.toarray().tolist() == [[2, 1.5], [1.5, 0], [0, 2]],
    )  # fmt: skip


def _frames(kind: str) -> list[str]:
    import pandas as pd
    import polars as pl
    import pyarrow as pa

    zone = dt.timezone(dt.timedelta(hours=5, minutes=30))
    columns: dict[str, Any] = {
        "user": ["b", "a", "b", "c", "a"], "item": [1, 1, 2, 3, 2], "v": [1.0, 2.0, 3.0, 4.0, 5.0],
        "t": [dt.datetime(2024, 1, d, 2, tzinfo=zone) for d in (1, 2, 3, 4, 5)],
    }  # fmt: skip
    frame: Any = {
        "pandas": lambda: pd.DataFrame(columns).astype({"user": pd.CategoricalDtype(["c", "b", "a"])}),
        "polars": lambda: pl.LazyFrame(columns).with_columns(pl.col("user").cast(pl.Categorical)),
        "pyarrow": lambda: pa.table(columns),
    }[kind]()
    data = lfm_np.Interactions.from_frame(
        frame, value="v", timestamp="t", min_user_interactions=2, min_item_interactions=2
    )
    train = data.split("last")[0]
    factors = lfm_np.Factors(np.eye(2), np.array([[1.0, 0.0], [2.0, 1.0]]))
    lists = lfm_np.recommend_frame(factors, train, N=1)
    library = type(lists).__module__.split(".")[0]
    first = np.datetime64("2024-01-01T20:30")
    return wrong(
        users=data.users.tolist() == ["a", "b"], items=data.items.tolist() == [1, 2],
        cells=data.matrix.toarray().tolist() == [[2, 5], [1, 3]], utc=data.timestamps[0] == first,
        train=train.matrix.toarray().tolist() == [[2, 0], [1, 0]], library=library == kind,
    )  # fmt: skip


def _nullable() -> list[str]:
    import pandas as pd

    frame = pd.DataFrame({"user": pd.array([7, None, 8], "Int64"), "item": [1.0, 2.0, NAN]})
    plain = pd.DataFrame({"user": [7, None, 8], "item": [1, 2, 3]})
    data = lfm_np.Interactions.from_frame(frame, nulls="drop")
    other = lfm_np.Interactions.from_frame(plain, nulls="drop")
    return wrong(
        whole=data.users.tolist() == [7] and data.users.dtype.kind == "i", item=data.items.tolist() == [1.0],
        floats=other.users.tolist() == [7.0, 8.0] and other.users.dtype.kind == "f",
    )  # fmt: skip


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    yield _holds("pairs sorted and distinct, lengths uniform, every row in train", _made_pairs)
    yield _holds("planted cells to about one per cent, from m to m·n/4", _planted)
    if "LFM_NP_DATA" in os.environ:
        yield _holds("MovieLens in the order of the source's file", _movielens)
    if installed("pyarrow", "narwhals"):
        yield _holds("in CSV null is an empty field, NULL, NA, N/A and NaN, unless in quotes", _nulls_of_csv)
        yield _holds("a folder of CSV in the order of names, one with only names, one compressed", _a_folder_of_csv)
        yield _holds("folders named column=value, types that differ", _a_folder_of_parquet)
    if installed("pyarrow", "narwhals", "pandas", "polars"):
        yield _holds("nullable integers stay integers", _nullable)
        for kind in ("pandas", "polars", "pyarrow"):
            yield _holds(f"categories by value, zones to UTC, lists of the library: {kind}", lambda k=kind: _frames(k))
