"""Interactions from frames, Parquet and CSV against plain loops over the same records."""

import datetime
import decimal
import gzip
import importlib
import os
import uuid

import numpy as np
import oracles_data as oracle
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st
from optional import require
from strategies import DUPLICATES, examples, records

import lfm_np
from lfm_np import Interactions, splits

pytestmark = pytest.mark.small

KINDS = ("pandas", "polars", "pyarrow")
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
IDS = {
    "int64": st.integers(-(2**63), 2**63 - 1),
    "uint8": st.integers(0, 255).map(np.uint8),
    "float64": st.floats(allow_nan=False, allow_infinity=False),
    "string": TEXT,
    "category": TEXT,
    "uuid": st.uuids(),
    "bytes": st.binary(max_size=5),
    "date": st.dates(),
    "time": st.datetimes(datetime.datetime(1900, 1, 1), datetime.datetime(2100, 1, 1)),
    "zone": st.datetimes(datetime.datetime(1900, 1, 1), datetime.datetime(2100, 1, 1), timezones=st.just(datetime.UTC)),
    "duration": st.timedeltas(datetime.timedelta(-9999), datetime.timedelta(9999)),
    "time of day": st.times(),
    "decimal": st.decimals(-999, 999, places=2),
    "bool": st.booleans(),
}


def make_frame(kind, columns):
    """A frame of the library called ``kind``; columns that start with "category" become categories."""
    library = require(kind)
    require("narwhals")
    pa = require("pyarrow")
    if kind == "pyarrow":
        arrays = {name: arrow(values) for name, values in columns.items()}
        categories = {name: a.dictionary_encode() if name.startswith("category") else a for name, a in arrays.items()}
        return pa.table(categories)
    frame = library.DataFrame({name: list(values) for name, values in columns.items()})
    if kind == "pandas":
        return frame.astype({name: "category" for name in columns if name.startswith("category")})
    return frame.with_columns(library.col(name).cast(library.Categorical) for name in columns if name[:8] == "category")


def arrow(values):
    pa = require("pyarrow")
    if len(values) and isinstance(values[0], uuid.UUID):
        return pa.array([value.bytes for value in values], pa.binary(16)).cast(pa.uuid())
    return pa.array(values)


def named_cells(data):
    rows = np.repeat(np.arange(data.shape[0]), np.diff(data.matrix.indptr))
    pairs = zip(data.users[rows].tolist(), data.items[data.matrix.indices].tolist())
    return dict(zip(pairs, data.matrix.data.tolist()))


# ---- ids ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("type", IDS)
@examples(20)
@given(st.data())
def test_ids_of_every_type_survive_the_round_trip(kind, type, drawn):
    ids = drawn.draw(st.lists(IDS[type], min_size=1, max_size=12))
    column = "category" if type == "category" else "who"
    data = Interactions.from_frame(make_frame(kind, {column: ids, "item": range(len(ids))}), user=column)
    plain = [value.item() if isinstance(value, np.generic) else value for value in ids]
    assert data.users.tolist() == sorted(set(plain))
    assert data.user_ids(data.rows_of(data.users)).tolist() == data.users.tolist()
    rows = np.array([data.users.tolist().index(value) for value in plain])
    np.testing.assert_array_equal(data.matrix.toarray(), np.eye(len(data.users))[rows].T)
    assert data.frame_backend == kind


@pytest.mark.parametrize("kind", ["string", "binary", "string_view", "binary_view", "null"])
def test_distinct_text_has_64_bit_offsets(kind):
    """Else the distinct ids of a column could not be more than 2 GiB of text (sixty million UUIDs)."""
    pa = require("pyarrow")
    from lfm_np.id_columns import IdEncoder

    encoder = IdEncoder("user", getattr(pa, kind)())
    encoder.add(pa.array([] if kind == "null" else ["b", "a", "b"], getattr(pa, kind)()))
    assert encoder._type in (pa.large_string(), pa.large_binary())
    assert encoder.finish()[1].tolist() == ([] if kind == "null" else [1, 0, 1])


@pytest.mark.parametrize("kind", ["string", "binary"])
def test_ids_of_more_than_2_gib_are_one_column(monkeypatch, kind):
    """Of which Arrow makes several arrays."""
    pa = require("pyarrow")
    from lfm_np import id_columns

    several = pa.chunked_array([["b", "a"], ["c"]], getattr(pa, kind)())
    monkeypatch.setattr(id_columns, "_inferred", lambda ids: several)
    whole = id_columns.to_arrow(np.array(several.to_pylist(), object))
    assert whole.type == getattr(pa, f"large_{kind}")()
    assert whole.to_pylist() == several.to_pylist()


def test_an_arrow_that_numbers_ids_anew_is_noticed(monkeypatch):
    """It does not promise which of the ids that it unifies come first; numbers given before would be of others."""
    pa = require("pyarrow")
    from types import SimpleNamespace

    from lfm_np import id_columns

    class Other:
        def __init__(self, chunks):
            self.chunks = chunks

        def unify_dictionaries(self):
            distinct = pa.array(sorted({id for chunk in self.chunks for id in chunk.dictionary.to_pylist()}))
            return SimpleNamespace(
                chunks=[
                    pa.DictionaryArray.from_arrays(
                        pa.array([distinct.to_pylist().index(id) for id in chunk.to_pylist()], pa.int32()), distinct
                    )
                    for chunk in self.chunks
                ]
            )

    encoder = id_columns.IdEncoder("user", pa.int64(), merge=1)
    monkeypatch.setattr(id_columns, "pa", SimpleNamespace(**{**vars(pa), "chunked_array": Other}))
    encoder.add(pa.array([5, 7]))
    with pytest.raises(RuntimeError, match="this version of Arrow numbers ids anew"):
        encoder.add(pa.array([1, 2, 7]))


def test_unused_categories_get_no_row():
    pd = require("pandas")
    frame = pd.DataFrame({"user": pd.Categorical(["b", "a"], ["c", "b", "a"]), "item": [1, 1]})
    assert make_and_read(frame).users.tolist() == ["a", "b"]


def make_and_read(frame, **options):
    require("pyarrow"), require("narwhals")
    return Interactions.from_frame(frame, **options)


@given(records(), st.sampled_from(DUPLICATES), st.integers(1, 7))
def test_batches_make_no_difference(drawn, duplicates, size):
    """Ids that are numbered batch by batch and merged after each give the same as all at once."""
    pa = require("pyarrow")
    from lfm_np import id_columns, reading

    pairs, values = drawn
    table = pa.table({"user": [f"u{i}" for i in pairs[:, 0]], "item": pairs[:, 1], "value": values})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(id_columns, "_MERGE", 2)
        patch.setattr(reading, "BATCH", size)
        data = Interactions.from_frame(table, value="value", duplicates=duplicates)
    expected = oracle.cells(pairs, values, duplicates)
    assert named_cells(data) == {
        (f"u{i}", j): pytest.approx(value, rel=1e-6) for (i, j), (value, _) in expected.items()
    }


def test_repeated_pairs_can_be_an_error():
    pa = require("pyarrow")
    with pytest.raises(ValueError, match=r"pair \('ann', 2\) occurs more than once"):
        Interactions.from_frame(pa.table({"user": ["abe", "ann", "ann"], "item": [1, 2, 2]}), duplicates="error")


def test_a_bad_value_is_named_by_its_record():
    pa = require("pyarrow")
    table = pa.table({"user": [1, None, 3], "item": [1, 1, 1], "x": [1.0, 1.0, np.inf]})
    with pytest.raises(ValueError, match="got inf in record without nulls 1"):
        Interactions.from_frame(table, value="x", nulls="drop")
    with pytest.raises(ValueError, match="got inf in record 2"):
        Interactions.from_frame(table.set_column(0, "user", pa.array([1, 2, 3])), value="x")


# ---- nulls, values, times -------------------------------------------------------------------------------------------


def test_half_floats_become_floats():
    pa = require("pyarrow")
    table = pa.table({"user": pa.array([np.float16(1.5), np.float16(-0.0), np.float16(0.0)]), "item": [1, 2, 3]})
    data = Interactions.from_frame(table)
    assert (data.users.tolist(), data.users.dtype) == ([0.0, 1.5], np.float32)


@pytest.mark.parametrize("kind", KINDS)
def test_nulls_are_counted_dropped_or_kept(kind):
    columns = {"user": ["a", None, "b", "b"], "item": [1, 2, 2, 3], "value": [1.5, 2.0, None, 3.0]}
    frame = make_frame(kind, columns)
    with pytest.raises(ValueError, match="of 4 records some have nulls: 1 in 'user', 1 in 'value'"):
        Interactions.from_frame(frame, value="value")
    assert named_cells(Interactions.from_frame(frame, value="value", nulls="drop")) == {("a", 1): 1.5, ("b", 3): 3.0}
    with pytest.raises(ValueError, match=r"of 4 records some have nulls: 1 in 'user'\. nulls='drop' leaves"):
        Interactions.from_frame(frame, value="value", nulls="keep")
    whole = make_frame(kind, {"user": ["a", "b"], "item": [1, 2], "value": [None, 2], "time": [7, None]})
    kept = Interactions.from_frame(whole, value="value", timestamp="time", nulls="keep")
    np.testing.assert_array_equal(kept.matrix.data, [np.nan, 2])
    np.testing.assert_array_equal(kept.timestamps, [7, np.nan])


def test_times_that_are_all_null(tmp_path):
    """As a CSV file has them whose column is empty."""
    require("pyarrow")
    (tmp_path / "a.csv").write_text("user,item,value,time\n1,2,,\n3,4,,\n")
    options = {"value": "value", "timestamp": "time"}
    kept = Interactions.from_csv(tmp_path / "a.csv", nulls="keep", **options)
    assert np.isnan(kept.matrix.data).all()
    assert np.isnan(kept.timestamps).all()
    assert kept.shape == (2, 2)
    assert Interactions.from_csv(tmp_path / "a.csv", nulls="drop", **options).shape == (0, 0)
    with pytest.raises(ValueError, match="of 2 records some have nulls: 2 in 'value', 2 in 'time'"):
        Interactions.from_csv(tmp_path / "a.csv", **options)


def test_a_nan_is_a_null():
    pa = require("pyarrow")
    table = pa.table({"user": [1.0, float("nan")], "item": [1, 2]})
    with pytest.raises(ValueError, match="1 in 'user'"):
        Interactions.from_frame(table)
    assert Interactions.from_frame(table, nulls="drop").shape == (1, 1)


def test_times_of_every_kind():
    pa = require("pyarrow")
    zone = datetime.timezone(datetime.timedelta(hours=2))
    base = {"user": [1, 1], "item": [1, 2]}
    for times, expected in [
        ([5, 2**62 + 1], np.array([5, 2**62 + 1])),
        ([0.5, 1.5], np.array([0.5, 1.5])),
        ([datetime.date(2020, 1, 2), datetime.date(2021, 1, 1)], np.array(["2020-01-02", "2021-01-01"], "M8[D]")),
        ([datetime.datetime(2020, 1, 2, 3, tzinfo=zone)] * 2, np.array(["2020-01-02T01"] * 2, "M8[us]")),
    ]:
        found = Interactions.from_frame(pa.table(base | {"time": times}), timestamp="time").timestamps
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)
    with pytest.raises(ValueError, match="integers beyond 2⁵³"):
        Interactions.from_frame(pa.table(base | {"time": [2**60 + 1, None]}), timestamp="time", nulls="keep")


def test_values_of_every_kind():
    pa = require("pyarrow")
    for values in ([1, 2], [True, False], [0.5, -1.0], [decimal.Decimal("1.5"), decimal.Decimal(2)]):
        table = pa.table({"user": [1, 1], "item": [1, 2], "v": values})
        assert Interactions.from_frame(table, value="v").matrix.data.tolist() == [float(value) for value in values]


def test_times_that_python_cannot_have_are_no_values_either():
    pa = require("pyarrow")
    for type in (pa.timestamp("s"), pa.duration("s")):
        far = pa.array([2**60]).cast(type)
        for column in (far, far.dictionary_encode()):
            with pytest.raises(TypeError, match="value must be a column of numbers"):
                Interactions.from_frame(pa.table({"user": [1], "item": [1], "v": column}), value="v")


@pytest.mark.parametrize("name", ["*", "^u.*$", "u$", "^u"])
@pytest.mark.parametrize("kind", ["DataFrame", "LazyFrame"])
def test_names_of_columns_are_no_patterns(name, kind):
    pl = require("polars")
    frame = getattr(pl, kind)({"ux": [7, 8], "item": ["b", "c"], name: [1, 2]})
    assert Interactions.from_frame(frame, user=name).users.tolist() == [1, 2]


def test_lazy_frames_are_collected():
    pl = require("polars")
    data = make_and_read(pl.LazyFrame({"user": ["a"], "item": ["b"], "more": [[1, 2]]}))
    assert (data.shape, data.frame_backend) == ((1, 1), "polars")


@pytest.mark.parametrize(
    ("columns", "options", "error", "words"),
    [
        ({"user": [1]}, {}, ValueError, "item='item' is no column; there are 'user'"),
        ({"user": [1], "item": [1]}, {"value": "stars"}, ValueError, "value='stars' is no column"),
        ({"user": [1], "item": [1]}, {"user": 3}, TypeError, "user must be the name of a column, got 3"),
        (
            {"user": [1, 2], "item": ["1", "a"]},
            {"value": "item"},
            TypeError,
            "value must be a column of numbers, got string in 'item', such as 'a'",
        ),
        ({"user": [1], "item": ["a"]}, {"timestamp": "item"}, TypeError, "timestamp must be a column of integers"),
        ({"user": [[1]], "item": [1]}, {}, TypeError, "user must hold integers, strings, UUIDs"),
        ({"user": [1], "item": [1]}, {"nulls": "ignore"}, ValueError, "'error', 'drop', 'keep'"),
        ({"user": [1], "item": [1]}, {"duplicates": "first"}, ValueError, "'count', 'error'"),
        ({"user": [1], "item": [1]}, {"min_user_interactions": 0}, ValueError, "min_user_interactions"),
    ],
)
def test_bad_columns_are_named(columns, options, error, words):
    pa = require("pyarrow")
    with pytest.raises(error, match=words):
        Interactions.from_frame(pa.table(columns), **options)


def test_what_is_no_frame_is_refused():
    with pytest.raises(TypeError, match="narwhals reads, got list"):
        make_and_read([1, 2])
    pd = require("pandas")
    with pytest.raises(TypeError, match="'user' of frame holds values of several kinds"):
        make_and_read(pd.DataFrame({"user": [1, "a"], "item": [1, 2]}))
    with pytest.raises(TypeError, match=r"'time' of frame holds values .* that Arrow lacks"):
        make_and_read(pd.DataFrame({"user": [1], "item": [2], "time": [1j]}), timestamp="time")


def test_sparse_columns_are_read():
    pd = require("pandas")
    frame = pd.DataFrame(
        {"user": pd.arrays.SparseArray([0, 3]), "item": [1, 2], "stars": pd.arrays.SparseArray([0.5, 0])}
    )
    data = make_and_read(frame, value="stars")
    assert (data.users.tolist(), data.matrix.data.tolist()) == ([0, 3], [0.5, 0])


DAY = datetime.datetime(2024, 1, 1)


@pytest.mark.parametrize(
    "ids",
    [
        (DAY.date(), DAY.replace(hour=5)),
        (DAY, DAY.replace(tzinfo=datetime.UTC)),
        (datetime.timedelta(1), 5),
        ("a", b"a"),
        (uuid.UUID(bytes=b"abcdefghijklmnop"), "abcdefghijklmnop"),
    ],
    ids=lambda ids: type(ids[1]).__name__,
)
@pytest.mark.parametrize("order", [1, -1])
def test_objects_of_several_kinds_do_not_become_one(ids, order):
    pd = require("pandas")
    frame = pd.DataFrame({"user": pd.Series(ids[::order], dtype=object), "item": [1, 2]})
    with pytest.raises(TypeError, match="'user' of frame holds values of several kinds"):
        make_and_read(frame)


def test_nanoseconds_of_objects_are_not_lost():
    pd = require("pandas")
    for start in (pd.Timestamp("2024-01-01"), pd.Timestamp("2024-01-01", tz="Europe/Berlin"), pd.Timedelta(0)):
        times = [start + pd.Timedelta(nanoseconds, "ns") for nanoseconds in (1, 2)]
        frame = pd.DataFrame({"user": pd.Series(times, dtype=object), "item": [1, 2]})
        assert pd.Series(make_and_read(frame).users).tolist() == times


# ---- the k-core -----------------------------------------------------------------------------------------------------


@given(records(), st.integers(1, 4), st.integers(1, 4), st.booleans())
def test_the_core_equals_the_loop(drawn, least_user, least_item, timed):
    pairs, values = drawn
    times = np.arange(len(pairs)) if timed else None
    data = Interactions.from_arrays(pairs[:, 0], pairs[:, 1] * 10, values, times)
    before = named_cells(data)
    part = data.core(least_user, least_item)
    kept = oracle.core(before, least_user, least_item)
    assert named_cells(part) == {pair: value for pair, value in before.items() if pair in kept}
    assert set(part.users.tolist()) == {user for user, _ in kept}
    assert set(part.items.tolist()) == {item for _, item in kept}
    if timed:
        when = dict(zip(before, data.timestamps.tolist()))
        assert part.timestamps.tolist() == [when[pair] for pair in named_cells(part)]


@pytest.mark.parametrize(
    ("least", "users", "items"),
    [
        ({}, [1, 2, 4], [10, 20, 40]),
        ({"min_user_interactions": 2}, [1, 2, 4], [10, 20, 40]),
        ({"min_item_interactions": 2}, [1, 2, 4], [10]),  # all users that have cells stay, and not all items
        ({"min_user_interactions": 3}, [4], [10, 20, 40]),  # and the other way round
        ({"min_user_interactions": 2, "min_item_interactions": 2}, [], []),
    ],
)
def test_a_core_of_all_of_one_side(least, users, items):
    cells = {(1, 10): 1.0, (1, 20): 2.0, (2, 10): 3.0, (2, 40): 4.0, (4, 10): 5.0, (4, 20): 6.0, (4, 40): 7.0}
    if least.get("min_item_interactions") == 2:
        del cells[4, 20], cells[4, 40]
    for rows, columns in (([1, 2, 4], [10, 20, 40]), ([1, 2, 3, 4], [10, 20, 40]), ([1, 2, 4], [10, 20, 30, 40])):
        places = [[rows.index(user) for user, _ in cells], [columns.index(item) for _, item in cells]]
        matrix = sp.csr_array((list(cells.values()), places), shape=(len(rows), len(columns)))
        part = Interactions(matrix, rows, columns).core(**least)
        assert (part.users.tolist(), part.items.tolist()) == (users, items)
        assert named_cells(part) == {(u, i): value for (u, i), value in cells.items() if u in users and i in items}


def test_the_core_looks_at_a_cell_once_however_many_rounds_there_are(monkeypatch):
    looked, real = [], splits._cells_of
    monkeypatch.setattr(splits, "_cells_of", lambda *args: looked.append(len(found := real(*args))) or found)
    chain = np.arange(500)  # of which every round takes an end
    data = Interactions.from_arrays(np.append(chain, chain[:-1]), np.append(chain, chain[1:]))
    assert data.core(2, 2).shape == (0, 0)
    assert sum(looked) <= 2 * data.matrix.nnz


def test_readers_take_the_core():
    pa = require("pyarrow")
    table = pa.table({"user": list("aabbc"), "item": [1, 2, 1, 2, 3]})
    assert Interactions.from_frame(table, min_user_interactions=2).users.tolist() == ["a", "b"]
    assert Interactions.from_frame(table, min_item_interactions=3).shape == (0, 0)


# ---- files ----------------------------------------------------------------------------------------------------------


def files(folder):
    """The same five records as one file, two files in folders, and CSV."""
    pa, pq = require("pyarrow"), require("pyarrow.parquet")
    table = pa.table({"user": list("abacb"), "item": [3, 1, 3, 2, 1], "value": [1.0, 2, 3, 4, 5], "unused": [0] * 5})
    pq.write_table(table, folder / "one.parquet")
    for name, part in (("x=1", table[:2]), ("x=2", table[2:])):
        (folder / "many" / name).mkdir(parents=True)
        pq.write_table(part, folder / "many" / name / "part.parquet", row_group_size=2)
    lines = [f"{u},{i},{v}\n" for u, i, v in zip(*table.select(["user", "item", "value"]).to_pydict().values())]
    (folder / "some.csv").write_text("user,item,value\n" + "".join(lines))
    with gzip.open(folder / "some.csv.gz", "wt") as file:
        file.write("".join(lines).replace(",", ";"))
    return {("a", 3): 3.0, ("b", 1): 5.0, ("c", 2): 4.0}


def test_files_folders_and_urls_give_the_same(tmp_path):
    expected = files(tmp_path)
    options = {"value": "value", "duplicates": "last"}
    for path in (tmp_path / "one.parquet", str(tmp_path / "many")):
        assert named_cells(Interactions.from_parquet(path, **options)) == expected
    assert named_cells(Interactions.from_csv(tmp_path / "some.csv", **options)) == expected
    names = ["user", "item", "value"]
    zipped = Interactions.from_csv(tmp_path / "some.csv.gz", delimiter=";", column_names=names, **options)
    assert named_cells(zipped) == expected
    assert Interactions.from_parquet(tmp_path / "many", item="x").items.tolist() == [1, 2]
    require("fsspec")
    assert named_cells(Interactions.from_parquet((tmp_path / "one.parquet").as_uri(), **options)) == expected


@pytest.mark.parametrize("ending", ["gz", "GZ", "bz2", "Bz2", "zst", "ZST"])
def test_files_are_unpacked_by_their_ending(tmp_path, ending):
    """Arrow knows some of these endings only, and takes other files for text."""
    pa = require("pyarrow")
    codec = {"gz": "gzip", "bz2": "bz2", "zst": "zstd"}[ending.lower()]
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / f"events.csv.{ending}"
    with pa.CompressedOutputStream(str(path), codec) as file:
        file.write(b"user,item,value\na,1,2\nb,2,3\n")
    with open(path, "ab") as whole, pa.CompressedOutputStream(whole, codec) as file:  # as `cat` joins two files
        file.write(b"a,2,4\n")
    sources = [path, path.parent]
    if ending == "zst":
        memory = require("fsspec").filesystem("memory")
        memory.pipe(f"/{tmp_path.name}/{path.name}", path.read_bytes())
        sources += [path.parent.as_uri(), f"memory://{tmp_path.name}", f"memory://{tmp_path.name}/{path.name}"]
    for source in sources:
        data = Interactions.from_csv(source, value="value")
        assert named_cells(data) == {("a", 1): 2.0, ("b", 2): 3.0, ("a", 2): 4.0}
    (tmp_path / "in" / "more.csv").write_text("user,item,value\nc,1,5\n")
    assert Interactions.from_csv(tmp_path / "in", value="value").users.tolist() == ["a", "b", "c"]


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege there")
def test_links_in_a_folder_with_a_file_that_arrow_does_not_unpack(tmp_path):
    pa = require("pyarrow")
    require("fsspec")
    for folder, user in ("in", "a"), ("else", "b"), ("else/more", "c"):
        (tmp_path / folder).mkdir()
        with pa.CompressedOutputStream(str(tmp_path / folder / "x.csv.zst"), "zstd") as file:
            file.write(f"user,item\n{user},1\n".encode())
    (tmp_path / "in" / "link.csv.zst").symlink_to(tmp_path / "else" / "x.csv.zst")
    (tmp_path / "in" / "folder").symlink_to(tmp_path / "else" / "more")
    for source in (tmp_path / "in", (tmp_path / "in").as_uri()):
        assert Interactions.from_csv(source).users.tolist() == ["a", "b", "c"]
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "folder").symlink_to(tmp_path / "else")
    assert Interactions.from_csv(tmp_path / "links").users.tolist() == ["b", "c"]


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@pytest.mark.parametrize("links", [[("in/a", "in")], [("in/a", "in/b"), ("in/b/c", "in")], [("in/a", ".")]])
def test_links_that_lead_round_in_circles_are_refused(tmp_path, kind, links):
    """Arrow follows one 40 times, so that every record counted 41 times, and two of a folder 2^40 times."""
    pa = require("pyarrow")
    name = {"csv": "write_csv", "parquet": "write_table"}[kind]
    write, read = getattr(importlib.import_module(f"pyarrow.{kind}"), name), getattr(Interactions, f"from_{kind}")
    for folder in "in", "in/b", "else":
        (tmp_path / folder).mkdir()
        write(pa.table({"user": [1], "item": [2]}), tmp_path / folder / f"x.{kind}")
    for name in "one", "two":  # twice the same, but in no circle
        (tmp_path / "in" / name).symlink_to(tmp_path / "else")
    assert read(tmp_path / "in").matrix.data.tolist() == [4]
    for name, target in links:
        (tmp_path / name).symlink_to(tmp_path / target)
    with pytest.raises(ValueError, match=r"path must hold no links in circles, got .*, which leads back to "):
        read(tmp_path / "in")


@pytest.mark.parametrize("nulls", ["error", "drop"])
@pytest.mark.parametrize("type", ["string_view", "binary_view", "decimal32", "decimal64"])
def test_types_that_arrow_can_do_little_with(tmp_path, type, nulls):
    """It does not number small decimals, nor filter views."""
    pa, pq = require("pyarrow"), require("pyarrow.parquet")
    require("narwhals")
    ids = [b"b", b"a", b"b"] if type == "binary_view" else ["b", "a", "b"]
    if type.startswith("decimal"):
        ids = [decimal.Decimal(text) for text in ("2.50", "-1.00", "2.50")]
    kind = getattr(pa, type)(9, 2) if type.startswith("decimal") else getattr(pa, type)()
    more = [None] if nulls == "drop" else []
    table = pa.table({"user": pa.array(ids + more, kind), "item": [1, 2, 2, 3][: 3 + len(more)]})
    expected = {(ids[0], 1): 1.0, (ids[0], 2): 1.0, (ids[1], 2): 1.0}
    assert named_cells(Interactions.from_frame(table, nulls=nulls)) == expected
    category = pa.DictionaryArray.from_arrays(pa.array([0, 1, 0, None][: 3 + len(more)]), pa.array(ids[:2], kind))
    assert named_cells(Interactions.from_frame(table.set_column(0, "user", category), nulls=nulls)) == expected
    try:
        pq.write_table(table, tmp_path / "a.parquet")
    except pa.ArrowNotImplementedError:
        return  # Arrow 21 does not write small decimals
    assert named_cells(Interactions.from_parquet(tmp_path / "a.parquet", nulls=nulls)) == expected
    stored = lfm_np.StoredMatrix.from_parquet(tmp_path / "a.parquet", tmp_path / "stored", nulls=nulls)
    assert stored.users.tolist() == [ids[1], ids[0]]


def test_categories_are_values_and_times(tmp_path):
    pd = require("pandas")
    require("narwhals"), require("pyarrow")
    frame = pd.DataFrame(
        {"user": ["a", "b"], "item": [1, 2], "value": [2.5, 4], "day": pd.to_datetime(["2024", "2025"])}
    )
    some = frame.astype({"value": "category", "day": "category"})
    some.to_parquet(tmp_path / "a.parquet")
    for data in (
        Interactions.from_frame(some, value="value", timestamp="day"),
        Interactions.from_parquet(tmp_path / "a.parquet", value="value", timestamp="day"),
    ):
        assert data.matrix.data.tolist() == [2.5, 4]
        assert data.timestamps.astype("M8[Y]").astype(str).tolist() == ["2024", "2025"]


def test_what_a_small_decimal_or_view_points_at_is_looked_at():
    pa = require("pyarrow")
    require("narwhals")
    bad = pa.DictionaryArray.from_arrays(pa.array([0, 9], pa.int32()), pa.array([1.5, 2]), safe=False)
    with pytest.raises(ValueError, match="invalid Arrow array"):
        Interactions.from_frame(pa.table({"user": [1, 2], "item": [1, 2], "value": bad}), value="value")


def test_integers_of_128_bits_are_refused_by_name():
    pl = require("polars")
    require("narwhals")
    if not hasattr(pl, "Int128"):
        pytest.skip("polars has no such integers")
    with pytest.raises(TypeError, match="column 'user' of frame"):
        Interactions.from_frame(pl.DataFrame({"user": [1, 2], "item": [1, 2]}).cast({"user": pl.Int128}))


def test_chunks_whose_dictionaries_hold_a_null():
    """Arrow cannot make one of such dictionaries."""
    pa = require("pyarrow")
    require("narwhals")
    some = pa.DictionaryArray.from_arrays(pa.array([0, 1, 2]), pa.array(["b", None, "a"]))
    other = pa.DictionaryArray.from_arrays(pa.array([0, 0, None]), pa.array(["c"]))
    table = pa.table({"user": pa.chunked_array([some, other]), "item": [1, 2, 3, 4, 5, 6]})
    data = Interactions.from_frame(table, nulls="drop")
    assert named_cells(data) == {("b", 1): 1.0, ("a", 3): 1.0, ("c", 4): 1.0, ("c", 5): 1.0}
    with pytest.raises(ValueError, match="of 6 records some have nulls: 2 in 'user'"):
        Interactions.from_frame(table)


TYPES = {  # the types of a column in some files, in either order, and what it becomes
    "small and large integers": ("user", "int32", [1, 2], "int64", [2**40, 2], [1, 2, 2**40]),
    "nulls and text": ("user", "null", [None, None], "string", ["a", "b"], ["a", "b"]),
    "integers and floats of pandas": ("user", "int64", [1, 2], "float64", [3.0, None], [1, 2, 3]),
    "categories and text": ("user", "category", ["a", "b"], "large_string", ["c", "b"], ["a", "b", "c"]),
    "values": ("value", "int64", [1, 2], "float32", [3.5, 4], [1, 2, 3.5, 4]),
    "a column that came later": ("value", "absent", [], "float64", [3.5, 4], [3.5, 4]),
}


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize(("column", "one", "some", "other", "more", "expected"), TYPES.values(), ids=TYPES)
def test_types_differ_from_file_to_file(tmp_path, turned, column, one, some, other, more, expected):
    pa, pq = require("pyarrow"), require("pyarrow.parquet")
    files = [(one, some), (other, more)]
    for number, (type, values) in enumerate(reversed(files) if turned else files):
        columns = {"user": ["a", "b"], "item": [0, 1], "remark": ["", ""] if number else [1, 2]}
        if type == "category":
            columns[column] = pa.array(values).dictionary_encode()
        elif type != "absent":
            columns[column] = pa.array(values, pa.type_for_alias(type))
        pq.write_table(pa.table(columns), tmp_path / f"{number}.parquet")
    value = "value" if column == "value" else None
    data = Interactions.from_parquet(tmp_path, value=value, nulls="drop", duplicates="max")
    if column == "user":
        assert (data.users.tolist(), type_of(data.users)) == (expected, type_of(expected))
    else:
        assert sorted(data.matrix.data.tolist()) == sorted(expected)[-2:]


def type_of(ids):
    return type(ids.tolist()[0] if isinstance(ids, np.ndarray) else ids[0])


@pytest.mark.parametrize("type", [np.int32, np.int64])
def test_folders_above_a_file_give_it_only_what_it_lacks(tmp_path, type):
    """As those above a folder give none; "item=5" replaced all items of the file, or was a conflict of types."""
    pa, pq = require("pyarrow"), require("pyarrow.parquet")
    folder = tmp_path / "item=5" / "day=3"
    folder.mkdir(parents=True)
    columns = {"user": np.array([1, 2], type), "item": np.array([7, 8], type)}
    pq.write_table(pa.table(columns), folder / "a.parquet")
    (folder / "a.csv").write_text("user,item\n1,7\n2,8\n")
    for data in (
        Interactions.from_parquet(folder / "a.parquet"),
        Interactions.from_csv(folder / "a.csv"),
        lfm_np.StoredMatrix.from_parquet(folder / "a.parquet", tmp_path / "stored"),
    ):
        assert data.items.tolist() == [7, 8]
    assert Interactions.from_parquet(folder / "a.parquet", item="day").items.tolist() == [3]


def test_types_that_do_not_go_together_are_refused(tmp_path):
    pa, pq = require("pyarrow"), require("pyarrow.parquet")
    for number, user in enumerate(([1], ["a"])):
        pq.write_table(pa.table({"user": user, "item": [1]}), tmp_path / f"{number}.parquet")
    with pytest.raises(ValueError, match="user has incompatible types: int64 vs string"):
        Interactions.from_parquet(tmp_path)


def test_types_of_csv_can_be_told(tmp_path):
    require("pyarrow")
    path = tmp_path / "a.csv"
    path.write_text("user,item\n007,x\n08,\n")
    assert Interactions.from_csv(path, nulls="drop").users.tolist() == [7]
    assert Interactions.from_csv(path, nulls="drop", column_types={"user": "string"}).users.tolist() == ["007"]
    with pytest.raises(ValueError, match="1 in 'item'"):
        Interactions.from_csv(path)
    path.write_text("user,item\n" + "1,x\n" * 300_000 + "A1,y\n")  # beyond the block that types are guessed from
    with pytest.raises(ValueError, match=r"invalid value 'A1'; types are guessed .* column_types"):
        Interactions.from_csv(path)
    with pytest.raises(ValueError, match="delimiter must be one character"):
        Interactions.from_csv(path, delimiter="::")


@pytest.mark.parametrize("sign", [-1, 1])
def test_numbers_of_csv_that_floats_round_are_refused(tmp_path, sign):
    """From 2⁵³ on, where a column that has a fraction too is read as floats."""
    require("pyarrow")
    path = tmp_path / "a.csv"
    path.write_text(f"user,item\n{sign * (2**53 - 1)},1\n200,2\n0.5,3\n")
    assert sorted(Interactions.from_csv(path).users.tolist()) == sorted([0.5, 200.0, sign * (2.0**53 - 1)])
    path.write_text(f"user,item\n{sign * 2**53},1\n0.5,2\n")
    with pytest.raises(ValueError, match=r"beyond 2⁵³, .* column_types=\{'user': 'string'\}"):
        Interactions.from_csv(path)
    texts = Interactions.from_csv(path, column_types={"user": "string"}).users.tolist()
    assert sorted(texts) == sorted(["0.5", str(sign * 2**53)])


def test_null_in_csv(tmp_path):
    require("pyarrow")
    path = tmp_path / "a.csv"
    path.write_text('user,item\nNA,1\n"NA",2\n,3\n"",4\nNaN,5\nNAN,6\n')
    assert Interactions.from_csv(path, nulls="drop").users.tolist() == ["", "NA", "NAN"]


def test_lines_end_within_quotes_too(tmp_path):
    require("pyarrow")
    path = tmp_path / "a.csv"
    remark = "two, lines\n1,2,3\n"
    path.write_text("user,item,remark\n" + "".join(f'u{i},{i % 7},"{remark * (i % 3)}"\n' for i in range(100_000)))
    data = Interactions.from_csv(path)  # several blocks of Arrow
    assert (data.shape, data.matrix.nnz) == ((100_000, 7), 100_000)


def test_a_name_with_a_colon_is_no_url(tmp_path, monkeypatch):
    pa, pq = require("pyarrow"), require("pyarrow.parquet")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "day:1.csv").write_text("user,item\n1,2\n")
    pq.write_table(pa.table({"user": [1], "item": [2]}), tmp_path / "day:1.parquet")
    assert Interactions.from_csv("day:1.csv").shape == Interactions.from_parquet("day:1.parquet").shape == (1, 1)
    assert lfm_np.StoredMatrix.from_parquet("day:1.parquet", "stored:1").items.tolist() == [2]


def test_two_dots_behind_a_link_lead_where_the_system_says(tmp_path):
    pa, pq = require("pyarrow"), require("pyarrow.parquet")
    (tmp_path / "far" / "in").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "far" / "in")
    for user, folder in enumerate((tmp_path, tmp_path / "far")):
        pq.write_table(pa.table({"user": [user], "item": [0]}), folder / "a.parquet")
    assert Interactions.from_parquet(tmp_path / "link" / ".." / "a.parquet").users.tolist() == [1]


@pytest.mark.parametrize("user", ["1_000", "+5", " 5", "٣", "007", "0x10", str(2**31)])
def test_a_folder_gives_a_file_what_it_gives_all(tmp_path, user):
    pa, pq = require("pyarrow"), require("pyarrow.parquet")
    (tmp_path / f"user={user}").mkdir()
    pq.write_table(pa.table({"item": [1, 2]}), tmp_path / f"user={user}" / "a.parquet")
    whole, one = (Interactions.from_parquet(path) for path in (tmp_path, tmp_path / f"user={user}" / "a.parquet"))
    assert (one.users.tolist(), one.users.dtype) == (whole.users.tolist(), whole.users.dtype)


OWN = {  # what the files themselves have beside a folder "item=5" or "item=7"
    "int64": (5, 7),
    "float64": (5.0, 7.0),
    "date32": (datetime.date(2024, 5, 1), datetime.date(2024, 5, 2)),
    "large_string": ("5", "7"),
    "string_view": ("5", "7"),
    "category": ("5", "7"),
}


@pytest.mark.parametrize("type", OWN)
def test_files_may_have_the_columns_of_their_folders_too(tmp_path, type):
    """As polars and DuckDB write them; Arrow refuses types other than those that it reads in the names."""
    pa, pq = require("pyarrow"), require("pyarrow.parquet")
    for item in OWN[type]:
        own = pa.array([item, item], "string" if type == "category" else type)
        own = own.dictionary_encode() if type == "category" else own
        (tmp_path / "in" / f"item={item}").mkdir(parents=True)
        pq.write_table(pa.table({"user": [1, 2], "item": own}), tmp_path / "in" / f"item={item}" / "a.parquet")
        (tmp_path / "text" / f"item={item}").mkdir(parents=True)
        (tmp_path / "text" / f"item={item}" / "a.csv").write_text(f"user,item\n1,{item}\n2,{item}\n")
    data = Interactions.from_parquet(tmp_path / "in")
    assert data.items.tolist() == list(OWN[type])
    assert data.matrix.toarray().tolist() == [[1, 1], [1, 1]]
    stored = lfm_np.StoredMatrix.from_parquet(tmp_path / "in", tmp_path / "stored")
    assert stored.items.tolist() == list(OWN[type])
    assert Interactions.from_csv(tmp_path / "text").shape == (2, 2)


@pytest.mark.parametrize("ending", ["parquet", "csv"])
def test_folders_give_numbers_and_times(tmp_path, ending):
    """They were text, of which no value and no time is made."""
    pa, pq = require("pyarrow"), require("pyarrow.parquet")
    nothing = "__HIVE_DEFAULT_PARTITION__"
    days = {"2024-05-01": "2.5", "2024-05-02 03%3A00%3A00": "3", nothing: nothing}
    for user, (day, value) in enumerate(days.items()):
        folder = tmp_path / "in" / f"day={day}" / f"value={value}" / f"other={nothing}"
        folder.mkdir(parents=True)
        pq.write_table(pa.table({"user": [user], "item": [0]}), folder / "a.parquet")
        (folder / "a.csv").write_text(f"user,item\n{user},0\n")
        (folder / ("a.csv" if ending == "parquet" else "a.parquet")).unlink()
    read = Interactions.from_parquet if ending == "parquet" else Interactions.from_csv
    options = {"value": "value", "timestamp": "day", "nulls": "keep"}
    data = read(tmp_path / "in", **options)
    np.testing.assert_array_equal(data.matrix.toarray(), [[2.5], [3], [np.nan]])
    np.testing.assert_array_equal(data.timestamps, np.array(["2024-05-01", "2024-05-02T03", "NaT"], "M8[us]"))
    assert read(tmp_path / "in", item="day", nulls="drop").items.tolist() == ["2024-05-01", "2024-05-02 03:00:00"]
    one = read(tmp_path / "in" / "day=2024-05-01" / "value=2.5" / f"other={nothing}" / f"a.{ending}", **options)
    assert (one.matrix.data[0], str(one.timestamps[0])[:10]) == (2.5, "2024-05-01")
    (tmp_path / "in" / "day=2024-05-01").rename(tmp_path / "in" / "day=monday")
    with pytest.raises(TypeError, match="timestamp must be a column of integers, floats, dates or times, got string"):
        read(tmp_path / "in", **options)


def test_a_url_may_have_a_signature():
    require("pyarrow")
    from lfm_np.arrow_files import _alias

    assert _alias("https://host/events.csv.gz?token=a.b") == ".gz"
    assert _alias("https://host/events.csv.gz?token=a.gz") == ""  # Arrow sees that itself
    assert _alias("folder/events.csv.gz?token=a.b") == ""  # a file of that name


def test_types_that_are_told_are_those_of_folders_too(tmp_path):
    """The users "007" and "7" were one."""
    require("pyarrow")
    for number, user in enumerate(("007", "7")):
        (tmp_path / "in" / f"user={user}").mkdir(parents=True)
        (tmp_path / "in" / f"user={user}" / "a.csv").write_text(f"item\n{number}\n")
    for path, users in ((tmp_path / "in", ["007", "7"]), (tmp_path / "in" / "user=007" / "a.csv", ["007"])):
        assert Interactions.from_csv(path, column_types={"user": "string"}).users.tolist() == users
    seconds = tmp_path / "seconds" / "time=4000000000"
    seconds.mkdir(parents=True)
    (seconds / "a.csv").write_text("user,item\n1,2\n")
    assert Interactions.from_csv(seconds.parent, timestamp="time").timestamps.tolist() == [4_000_000_000]
    data = Interactions.from_csv(tmp_path / "in", column_types={"user": "int64"})
    assert (data.users.tolist(), data.users.dtype) == ([7], np.int64)


def test_a_line_too_long_is_called_that(tmp_path):
    require("pyarrow")
    (tmp_path / "a.csv").write_text(f"user,item,remark\n1,2,{'x' * (3 << 20)}\n")
    with pytest.raises(ValueError, match="it has a line of more than 1 MiB"):
        Interactions.from_csv(tmp_path / "a.csv")


def test_bad_files_are_named(tmp_path):
    require("pyarrow")
    with pytest.raises(FileNotFoundError, match="absent"):
        Interactions.from_parquet(tmp_path / "absent.parquet")
    (tmp_path / "folder").mkdir()
    with pytest.raises(ValueError, match="there is no file in"):
        Interactions.from_parquet(tmp_path / "folder")
    (tmp_path / "text.parquet").write_text("no Parquet")
    with pytest.raises(ValueError, match=r"text\.parquet"):
        Interactions.from_parquet(tmp_path / "text.parquet")
    with pytest.raises(TypeError, match="from_parquet has no argument usr; it takes user, item"):
        Interactions.from_parquet(tmp_path / "text.parquet", usr="u")


def test_a_solver_takes_what_was_read(tmp_path):
    files(tmp_path)
    data = Interactions.from_parquet(tmp_path / "one.parquet")
    assert lfm_np.als(data, factors=2, iterations=1, random_state=0).shape == (3, 3)
