"""Tables of recommendations against `Factors.recommend`, and the memory that writing them takes."""

import tracemalloc
import uuid

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optional import require
from strategies import examples
from test_reading import IDS, KINDS, make_frame

import lfm_np
from lfm_np import Factors, Interactions, recommend_frame, recommend_parquet, recommendations
from lfm_np.kernels.jit import JIT_DISABLED

pytestmark = pytest.mark.small


def sample(m=30, n=12, seed=0):
    rng = np.random.default_rng(seed)
    users, items = np.nonzero(rng.random((m, n)) < 0.3)
    users, items = np.append(users, np.arange(m)), np.append(items, np.arange(m) % n)
    data = Interactions.from_arrays([f"u{u:03}" for u in users], items * 5)
    return Factors(rng.normal(size=(m, 3)), rng.normal(size=(n, 3))), data


def rows_of(frame):
    """(user, item, score, rank) of every row."""
    columns = {name: list(frame[name]) for name in ("user", "item", "score", "rank")}
    if hasattr(frame, "to_pydict"):
        columns = frame.to_pydict()
    return list(zip(*(columns[name] for name in ("user", "item", "score", "rank"))))


def expected(factors, data, users, N, seen=None, **columns):
    found = []
    ids, scores = factors.recommend(data.rows_of(users), N=N, seen=seen, **columns)
    for user, row, theirs in zip(users, ids, scores):
        found += [
            (user, data.items[item], score, rank) for rank, (item, score) in enumerate(zip(row, theirs), 1) if item >= 0
        ]
    return found


@pytest.mark.parametrize("rows", [7, 1 << 17])
def test_rows_are_those_of_recommend(rows, monkeypatch):
    require("pyarrow")
    monkeypatch.setattr(recommendations, "ROWS", rows)
    factors, data = sample()
    everybody = recommend_frame(factors, data, N=5, seen=data)
    assert rows_of(everybody) == expected(factors, data, data.users, 5, data)
    some = ["u007", "u002"]
    chosen = recommend_frame(factors, data, some, N=20, seen=data, items=[0, 5, 10, 15], exclude=[10])
    assert rows_of(chosen) == expected(factors, data, some, 20, data, items=[0, 1, 2, 3], exclude=[2])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("type", IDS)
@examples(5)
@given(st.data())
def test_the_frame_is_of_the_kind_that_came_in_with_the_same_ids(kind, type, drawn):
    ids = drawn.draw(st.lists(IDS[type], min_size=1, max_size=8, unique=True))
    column = "category" if type == "category" else "who"
    frame = make_frame(kind, {column: ids, "item": range(len(ids))})
    data = Interactions.from_frame(frame, user=column)
    found = recommend_frame(Factors(np.ones((len(ids), 1)), np.ones((len(ids), 1))), data, N=1)
    assert found.__class__ is frame.__class__
    back = [plain(user) for user, *_ in rows_of(found)]
    assert back == data.users.tolist()
    again = Interactions.from_frame(found)
    assert again.users.tolist() == data.users.tolist()
    assert again.users.dtype == data.users.dtype


def plain(value):
    value = value.to_pydatetime() if hasattr(value, "to_pydatetime") else value
    return value.item() if isinstance(value, np.generic) else value


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("zone", [None, "UTC", "Europe/Berlin", "duration"])
@examples(5)
@given(st.lists(st.integers(-(2**62), 2**62), min_size=1, max_size=5, unique=True))
def test_nanoseconds_come_back(kind, zone, ticks):
    """Units of pandas, which Python's own times do not have."""
    pa, pd, pl = (require(name) for name in ("pyarrow", "pandas", "polars"))
    type = pa.duration("ns") if zone == "duration" else pa.timestamp("ns", zone)
    table = pa.table({"user": pa.array(ticks, type), "item": range(len(ticks))})
    frame = {"pandas": pa.Table.to_pandas, "polars": pl.from_arrow, "pyarrow": lambda table: table}[kind](table)
    data = Interactions.from_frame(frame)
    found = recommend_frame(Factors(np.ones((len(ticks), 1)), np.ones((len(ticks), 1))), data, N=1)
    back = pa.Table.from_pandas(found) if isinstance(found, pd.DataFrame) else found
    back = back.to_arrow() if isinstance(back, pl.DataFrame) else back
    assert back["user"].cast(type).cast(pa.int64()).to_pylist() == sorted(ticks)


@pytest.mark.parametrize("kind", KINDS)
def test_uuids_of_items_too(kind):
    library = require(kind)
    ids = [uuid.UUID(int=4), uuid.UUID(int=2)]
    data = Interactions.from_frame(make_frame(kind, {"user": [1, 2], "item": ids}))
    found = recommend_frame(Factors(np.eye(2), np.eye(2)), data, N=1)
    assert found.__class__.__module__.startswith(library.__name__)
    assert [item for _, item, *_ in rows_of(found)] == sorted(ids)


@pytest.mark.parametrize("dtype", ["U", ">U", "S"])
def test_text_does_not_end_at_a_nul(dtype, tmp_path):
    """Arrow ends NumPy's text there: two users became one."""
    pq = require("pyarrow.parquet")
    users = np.array(["x\0y", "x\0z", "w"]).astype(dtype)
    data = Interactions.from_arrays(users, [1, 2, 3])
    factors = lfm_np.als(data, factors=1, random_state=0)
    recommend_parquet(factors, data, tmp_path / "a.parquet", N=1)
    for table in (recommend_frame(factors, data, N=1), pq.read_table(tmp_path / "a.parquet")):
        assert table["user"].to_pylist() == data.users.tolist()


@pytest.mark.parametrize("unit", ["W", "D", "h", "m", "s"])
def test_durations_in_units_that_arrow_lacks(unit):
    require("pyarrow")
    users = np.array([3, 1, 2], f"m8[{unit}]")
    data = Interactions.from_arrays(users, [1, 2, 3])
    table = recommend_frame(lfm_np.als(data, factors=1, random_state=0), data, N=1)
    np.testing.assert_array_equal(np.asarray(table["user"]), np.sort(users))


def test_the_backend_can_be_chosen_and_defaults_to_pyarrow():
    factors, data = sample()
    pa, pl = require("pyarrow"), require("polars")
    assert isinstance(recommend_frame(factors, data), pa.Table)
    assert isinstance(recommend_frame(factors, data, backend="polars"), pl.DataFrame)
    with pytest.raises(ValueError, match="backend must be one of 'pandas', 'polars'"):
        recommend_frame(factors, data, backend="excel")


def test_parquet_holds_the_same_rows(tmp_path):
    pq = require("pyarrow.parquet")
    factors, data = sample()
    path = tmp_path / "lists.parquet"
    recommend_parquet(factors, data, path, N=5, seen=data)
    assert pq.read_table(path).equals(recommend_frame(factors, data, N=5, seen=data))
    assert [file.name for file in tmp_path.iterdir()] == ["lists.parquet"]
    with pytest.raises(ValueError, match="N must be"):
        recommend_parquet(factors, data, path, N=0)


def peak(call):
    """The most bytes that a call held in NumPy and in Arrow."""
    pa = require("pyarrow")
    before = pa.default_memory_pool()
    pool = pa.proxy_memory_pool(before)
    pa.set_memory_pool(pool)
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1] + pool.max_memory()
    finally:
        tracemalloc.stop()
        pa.set_memory_pool(before)


@pytest.mark.skipif(JIT_DISABLED, reason="lists of so many users take half a minute")
def test_writing_takes_the_memory_of_a_block(tmp_path, monkeypatch):
    """The table of 240,000 rows is 7 MB; blocks of 800 rows take a tenth, and all at once takes it all."""
    require("pyarrow")
    m, N = 8_000, 30
    factors = Factors(np.ones((m, 1)), np.arange(N, dtype=np.float64)[:, None])
    data = Interactions.from_arrays(np.arange(m), np.arange(m) % N)
    size = m * N * (8 + 8 + 8 + 4)
    recommend_frame(factors, data, [0], N=N)  # what is made once
    monkeypatch.setattr(recommendations, "ROWS", 800)
    assert peak(lambda: recommend_parquet(factors, data, tmp_path / "lists.parquet", N=N)) < size / 4
    assert peak(lambda: recommend_frame(factors, data, N=N)) > size


def test_nobody_has_the_types_of_somebody():
    pa, (factors, data) = require("pyarrow"), sample()
    data = Interactions(data.matrix, data.users.astype(object), data.items)
    nobody, somebody = (recommend_frame(factors, data, users) for users in ([], ["u001"]))
    assert nobody.schema == somebody.schema
    assert pa.concat_tables([nobody, somebody]).equals(somebody)


def test_seen_of_other_ids_is_refused(tmp_path):
    require("pyarrow")
    factors, data = sample()
    for ids in ((data.users[::-1], data.items), (data.users, data.items[::-1])):
        other = Interactions(data.matrix, *ids)
        side = "users" if ids[0][0] != data.users[0] else "items"
        with pytest.raises(ValueError, match=f"seen has other {side} than data, or in another order"):
            recommend_frame(factors, data, seen=other)
        with pytest.raises(ValueError, match=f"seen has other {side} than data"):
            recommend_parquet(factors, data, tmp_path / "lists.parquet", seen=other)
    same = Interactions(data.matrix, list(data.users), data.items)
    assert recommend_frame(factors, data, seen=same).equals(recommend_frame(factors, data, seen=data))


def test_what_does_not_fit_is_named():
    require("pyarrow")
    factors, data = sample()
    with pytest.raises(ValueError, match=r"factors are of shape \(2, 2\) and data of shape \(30, 12\)"):
        recommend_frame(Factors(np.eye(2), np.eye(2)), data)
    with pytest.raises(TypeError, match="data Interactions, got Factors and csr_array"):
        recommend_frame(factors, data.matrix)
    with pytest.raises(ValueError, match="users has no id 'nobody'"):
        recommend_frame(factors, data, ["nobody"])
    assert lfm_np.recommend_frame is recommend_frame


def test_what_is_seen_is_made_rows_of_once(monkeypatch):
    require("pyarrow")
    factors, data = sample()
    expected = rows_of(recommend_frame(factors, data, N=3, seen=data, backend="pyarrow"))
    made, real = [], lfm_np.validation.rankings.wrap_csr
    monkeypatch.setattr(recommendations, "ROWS", 9)
    monkeypatch.setattr("lfm_np.validation.rankings.wrap_csr", lambda *args: made.append(1) or real(*args))
    assert rows_of(recommend_frame(factors, data, N=3, seen=data.matrix.tocsc(), backend="pyarrow")) == expected
    assert len(made) == 1


def test_the_items_become_a_column_once(monkeypatch):
    require("pyarrow")
    factors, data = sample()
    recommend_frame(*sample(), backend="pyarrow")  # imports it
    made, real = [], lfm_np.id_columns.to_arrow
    monkeypatch.setattr("lfm_np.id_columns.to_arrow", lambda ids: made.append(len(ids)) or real(ids))
    for user in data.users[:3]:
        frame = recommend_frame(factors, data, [user], N=2, backend="pyarrow")
        assert rows_of(frame) == expected(factors, data, [user], 2)
    assert made.count(len(data.items)) == 1
