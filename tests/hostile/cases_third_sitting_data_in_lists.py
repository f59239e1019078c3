"""The third sitting: lists as tables, with ids of every type, read back as data and beside loops."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np

import lfm_np

from .case import Case, Group, installed
from .places import inside
from .working_days import best, faultless, wrong

_GROUP = Group("third sitting, data")
_holds = faultless(_GROUP)
_read_frame = lfm_np.Interactions.from_frame
_read_parquet = lfm_np.Interactions.from_parquet

_DAY = datetime.date(2024, 2, 29)
_HOUR = datetime.timedelta(hours=1)
_KINDS: dict[str, list[Any]] = {
    "dates": [_DAY, datetime.date(1969, 12, 31), datetime.date(2300, 1, 1)],
    "moments": [datetime.datetime(2024, 2, 29, 1, 2, 3, 4), datetime.datetime(1, 1, 1), datetime.datetime(9999, 1, 1)],
    "clocks": [datetime.time(9, 5), datetime.time(0), datetime.time(23, 59, 59, 999999)],
    "durations": [_HOUR, -_HOUR, 1000 * _HOUR],
    "decimals": [Decimal("10.10"), Decimal("9.90"), Decimal("-1.00")],
    "bytes": [b"z", b"", b"\xff\x00\x01"],
    "floats": [0.1, -1e300, 5e-324],
    "texts": ["", "\u00e9", "e\u0301"],
    "integers": [2**63 - 1, -(2**63), 0],
}


def _lists_as_data(place: Path, kind: str) -> list[str]:
    """Lists of everything, read back as data: the scores are the matrix."""
    import pyarrow as pa

    ids = _KINDS[kind]
    data = _read_frame(pa.table({"user": [20, 10, 20], "item": ids}))
    U, V = np.array([[1.0, 2.0], [3.0, 1.0]]), np.array([[1.0, 1.0], [5.0, 2.0], [0.5, 4.0]])
    factors = lfm_np.Factors(U.astype(np.float32), V.astype(np.float32))
    lfm_np.recommend_parquet(factors, data, place / "lists.parquet", N=5)
    back = _read_parquet(place / "lists.parquet", value="score", timestamp="rank", duplicates="error")
    S = U @ V.T
    ranks = np.argsort(np.argsort(-S, 1), 1) + 1
    return wrong(
        items=back.items.tolist() == sorted(ids) and [type(i) for i in back.items.tolist()] == [type(i) for i in ids],
        users=back.users.tolist() == [10, 20],
        scores=np.array_equal(back.matrix.toarray(), S),
        ranks=np.array_equal(back.timestamps, ranks.ravel()),
    )


def _lists_by_hand(library: str) -> list[str]:
    """Allowed, forbidden and seen at once; float64, ties, a user with nothing left."""
    import pyarrow as pa

    table: Any = pa.table({"user": [3, 1, 2, 3], "item": ["d", "c", "b", "a"]})
    if library == "pandas":
        table = table.to_pandas()
    elif library == "polars":
        import polars as pl

        table = pl.from_arrow(table)
    data = _read_frame(table)
    U, V = np.array([[1.0, 0.0], [0.0, 1.0], [2.0, -1.0]]), np.array([[1.0, 3.0], [1.0, 0.0], [2.0, 0.0], [1.0, 1.0]])
    known = np.array([[0, 0, 1, 0], [0, 0, 0, 0], [1, 1, 0, 1]])  # of other data, with the same ids
    rows, columns = np.nonzero(known)
    seen = lfm_np.Interactions(lfm_np.to_csr(np.column_stack([rows, columns]), shape=(3, 4)), data.users, data.items)
    frame = lfm_np.recommend_frame(
        lfm_np.Factors(U, V), data, [3, 1, 2], N=3, seen=seen, items=["d", "a", "b", "c"], exclude=["c", "c"]
    )
    allowed, mine = np.array([True, True, False, True]), []
    for user in (3, 1, 2):
        s = V @ U[user - 1]
        columns = [i for i in best(s, allowed & (known[user - 1] == 0), 3) if i >= 0]
        mine += [{"user": user, "item": "abcd"[i], "score": s[i], "rank": r} for r, i in enumerate(columns, 1)]
    made = {"arrow": "to_pylist", "polars": "to_dicts"}
    found = frame.to_dict("records") if library == "pandas" else getattr(frame, made[library])()
    return wrong(rows=found == mine, some=len(mine) == 6)


def _files_of_floats(place: Path) -> list[str]:
    """Scores have the type of the factors, ids theirs; 300 users, whose lists are of the file's 900 rows in order."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    m, n = 300, 4
    users = np.arange(m, dtype=np.int16)[::-1] - 100
    data = _read_frame(pa.table({"user": pa.array(np.repeat(users, n)), "item": ["b", "a", "d", "c"] * m}))
    U, V = np.arange(1.0, m + 1)[:, None] / 8, np.array([[1.0], [3.0], [-2.0], [3.0]])
    faults = []
    for dtype, kind in ((np.float32, pa.float32()), (np.float64, pa.float64())):
        path = place / f"{kind}.parquet"
        lfm_np.recommend_parquet(lfm_np.Factors(U.astype(dtype), V.astype(dtype)), data, path, N=3)
        table = pq.read_table(path, use_threads=False)
        ranked = [1, 3, 0]  # 3, 3 and 1 times a positive number: the lower column first
        facts = {
            "names": table.column_names == ["user", "item", "score", "rank"],
            "score": table.schema.field("score").type == kind,
            "rank": pa.types.is_integer(table.schema.field("rank").type),
            "user": pa.types.is_integer(table.schema.field("user").type),
            "users": table["user"].to_pylist() == np.repeat(np.sort(users), 3).tolist(),
            "items": table["item"].to_pylist() == ["abcd"[i] for i in ranked] * m,
            "scores": table["score"].to_pylist() == (U * V[ranked].T).ravel().tolist(),
            "ranks": table["rank"].to_pylist() == [1, 2, 3] * m,
        }
        faults += [f"{kind}: {fault}" for fault in wrong(**facts)]
    return faults


def _arrays_of_libraries() -> list[str]:
    """Ids as the libraries of frames hand them out: columns, distinct values, categories, an index."""
    import pyarrow as pa
    import pyarrow.compute as pc

    texts = pa.chunked_array([["eve", "ann"], ["eve"], ["bob", "ann"]])
    data = _read_frame(pa.table({"user": texts, "item": [1, 1, 2, 2, 3]}))
    asked: dict[str, Any] = {"chunks": texts, "distinct": pc.unique(texts)}
    if installed("pandas"):
        import pandas as pd

        column = texts.to_pandas()
        asked |= {"column": column, "values": column.unique(), "index": pd.Index(column)}
        asked |= {"category": column.astype("category"), "categories": pd.Categorical(column)}
    if installed("polars"):
        import polars as pl

        asked |= {"series": pl.Series(texts.to_pylist()), "unique": pl.Series(["eve", "ann", "bob"])}
    place = {"ann": 0, "bob": 1, "eve": 2}
    full, once = ["eve", "ann", "eve", "bob", "ann"], ["eve", "ann", "bob"]
    factors = lfm_np.Factors(np.array([[1.0], [2.0], [4.0]]), np.array([[1.0], [3.0], [2.0]]))
    faults = []
    for name, ids in asked.items():
        names = once if name in ("distinct", "values", "unique") else full
        frame = lfm_np.recommend_frame(factors, data, ids, N=1, backend="pyarrow")
        mine = [{"user": user, "item": 2, "score": 3.0 * 2.0 ** place[user], "rank": 1} for user in names]
        if data.rows_of(ids).tolist() != [place[user] for user in names] or frame.to_pylist() != mine:
            faults.append(name)
    return faults


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    if not installed("pyarrow", "narwhals"):
        return
    for kind in _KINDS:
        yield _holds(f"lists read back as data, {kind}", inside(lambda place, kind=kind: _lists_as_data(place, kind)))
    for library in ("arrow", "pandas", "polars"):
        if library == "arrow" or installed(library):
            yield _holds(f"lists of allowed, forbidden and seen, {library}", lambda name=library: _lists_by_hand(name))
    yield _holds("lists of users of 16 bits, in both types of scores", inside(_files_of_floats))
    yield _holds("ids as libraries of frames hand them out", _arrays_of_libraries)
