"""Odd frames, pandas' extension types, and CSV files as people have them."""

from __future__ import annotations

import decimal
import importlib.util
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lfm_np import Interactions

from .case import Case, Either, Group, Holds, raises
from .cases_clusters import filed
from .cases_odd_matrices import BAD

_refused, _right = Group("tables").refused, Group("tables").right


def users(data: Interactions) -> list[Any]:
    return [str(user) for user in data.users]


def _frame(user: Callable[[Any], Any], **words: Any) -> Callable[[], Any]:
    """Interactions of a frame with one odd column of two users."""

    def run() -> Any:
        import pandas as pd

        return Interactions.from_frame(pd.DataFrame({"user": user(pd), "item": [10, 20]}), **words)

    return run


# ---- pandas ---------------------------------------------------------------------------------------------------------

COLUMNS: dict[str, tuple[Callable[[Any], Any], list[str]]] = {
    "string": (lambda pd: pd.array(["b", "a"], "string"), ["a", "b"]),
    "string of Python": (lambda pd: pd.array(["b", "a"], "string[python]"), ["a", "b"]),
    "string of Arrow": (lambda pd: pd.array(["b", "a"], "string[pyarrow]"), ["a", "b"]),
    "Int64": (lambda pd: pd.array([2, 1], "Int64"), ["1", "2"]),
    "UInt64 beyond int64": (lambda pd: pd.array([2**64 - 1, 1], "UInt64"), ["1", str(2**64 - 1)]),
    "boolean": (lambda pd: pd.array([True, False], "boolean"), ["False", "True"]),
    "int64 of Arrow": (lambda pd: pd.array([2, 1], "int64[pyarrow]"), ["1", "2"]),
    "dictionary": (lambda pd: pd.Categorical(["b", "a"], ["c", "b", "a"]), ["a", "b"]),
    "ordered dictionary": (lambda pd: pd.Categorical([2, 1], [3, 2, 1], ordered=True), ["1", "2"]),
    "decimals": (lambda pd: [decimal.Decimal("2.5"), decimal.Decimal("1.5")], ["1.5", "2.5"]),
    "UUIDs": (lambda pd: [uuid.UUID(int=2), uuid.UUID(int=1)], [str(uuid.UUID(int=i)) for i in (1, 2)]),
    "big-endian": (lambda pd: np.array([2, 1], ">i8"), ["1", "2"]),
    "int8": (lambda pd: np.array([2, -1], np.int8), ["-1", "2"]),
    "strided": (lambda pd: np.array([2, 9, 1, 9])[::2], ["1", "2"]),
    "object of integers": (lambda pd: np.array([2, 1], object), ["1", "2"]),
}
ODD: dict[str, Callable[[Any], Any]] = {  # either as text or number, or refused by name
    "periods": lambda pd: pd.period_range("2020", periods=2),
    "intervals": lambda pd: pd.interval_range(0, 2),
    "sparse": lambda pd: pd.arrays.SparseArray([1, 2]),
    "tuples": lambda pd: [(1, 2), (0, 1)],
    "complex": lambda pd: [1j, 2j],
    "float16": lambda pd: np.array([1, 2], np.float16),
    "time zones": lambda pd: pd.date_range("2020", periods=2, tz="Europe/Berlin"),
    "sets": lambda pd: [{1}, {2}],
    "types": lambda pd: [int, str],
    "long doubles": lambda pd: np.array([1, 2], np.longdouble),
}
MISSING: dict[str, Callable[[Any], Any]] = {
    "NA in Int64": lambda pd: pd.array([1, None], "Int64"), "NA in string": lambda pd: pd.array(["a", None], "string"),
    "NaN": lambda pd: [1.0, np.nan], "None": lambda pd: ["a", None], "NaT": lambda pd: pd.to_datetime(["2020", None]),
    "a category of none": lambda pd: pd.Categorical(["a", None]), "pd.NA in objects": lambda pd: [pd.NA, "a"],
    "NaN beside text": lambda pd: ["a", np.nan], "NA in boolean": lambda pd: pd.array([True, None], "boolean"),
}  # fmt: skip


def pandas() -> Iterator[Case]:
    for name, (make, wanted) in COLUMNS.items():
        yield _right(f"users {name}", _frame(make), lambda d, w=wanted: users(d) == w and d.matrix.nnz == 2)
    for name, make in ODD.items():
        yield Case(
            f"tables: users {name}", _frame(make), Either(Holds(lambda d: d.shape == (2, 2)), raises(BAD, "user|frame"))
        )
    for name, make in MISSING.items():
        yield _refused(f"users {name}", _frame(make), "null", "user")
        yield _right(f"users {name}, dropped", _frame(make, nulls="drop"), lambda d: d.shape == (1, 1))
    import pandas as pd

    whole = pd.DataFrame({"user": ["b", "a", "b"], "item": [1, 2, 2], "value": [1.0, 2.0, 3.0]})
    agrees = lambda d: users(d) == ["a", "b"] and d.matrix.toarray().tolist() == [[0, 1], [1, 1]]  # noqa: E731
    for name, frame in {
        "an index out of order": whole.set_index(pd.Index([5, 5, -1])),
        "an index of levels": whole.set_index(pd.MultiIndex.from_tuples([(0, 1), (0, 0), (1, 1)])),
        "a view of rows": pd.concat([whole, whole]).iloc[3:],
        "a view backwards": whole.iloc[::-1],
        "Arrow's types": whole.convert_dtypes(dtype_backend="pyarrow"),
        "attributes": whole.assign().rename_axis(index="user"),
    }.items():
        yield _right(f"frame, {name}", lambda f=frame: Interactions.from_frame(f), agrees)
    values = {
        "Float64": pd.array([1, 2, 3], "Float64"), "float of Arrow": pd.array([1.0, 2, 3], "double[pyarrow]"),
        "boolean": pd.array([True, False, True], "boolean"), "decimals": [decimal.Decimal(i) for i in (1, 2, 3)],
    }  # fmt: skip
    for name, value in values.items():
        wanted = 2 if name == "boolean" else 6
        yield _right(
            f"values {name}",
            lambda v=value: Interactions.from_frame(whole.assign(value=v), value="value"),
            lambda d, w=wanted: d.matrix.sum() == w,
        )
    for name, value in {
        "NA": pd.array([1, None, 3], "Float64"), "text": ["1", "2", "3"], "dates": pd.date_range("2020", periods=3),
        "complex": [1j, 2, 3], "infinite": [1, np.inf, 2], "objects": [1, "2", 3], "beyond": [1e300, 1, 1],
        "categories": pd.Categorical([1, 2, 3]), "durations": pd.to_timedelta([1, 2, 3]),
    }.items():  # fmt: skip
        expect: Any = raises(BAD, "value")
        if name == "categories":
            expect = Either(Holds(lambda d: d.matrix.sum() == 6), expect)
        if name in ("complex", "objects"):
            expect = raises(BAD, "value|frame")
        call = lambda v=value: Interactions.from_frame(whole.assign(value=v), value="value")  # noqa: E731
        yield Case(f"tables: values {name}", call, expect)
    for name, frame in {
        "a series": whole["user"], "records": whole.to_dict("records"), "a dict": whole.to_dict("list"), "none": None,
        "a structured array": whole.to_records(), "groups": whole.groupby("user"), "text": whole.to_csv(),
        "a path": Path("x.parquet"), "the class": pd.DataFrame, "an array": whole.to_numpy(),
        "a generator": iter([whole]),
    }.items():  # fmt: skip
        yield _refused(f"frame {name}", lambda f=frame: Interactions.from_frame(f), "frame")
    for name, frame in {
        "names of numbers": pd.DataFrame([[1, 2]]),
        "names of levels": pd.DataFrame({("user", 1): [1], ("item", 1): [2]}),
        "another case": whole.rename(columns=str.upper), "spaces": whole.rename(columns=lambda name: f" {name}"),
    }.items():  # fmt: skip
        yield _refused(f"frame, {name}", lambda f=frame: Interactions.from_frame(f), "user|frame")
    for name, words in {
        "user none": {"user": None}, "user a list": {"user": ["user"]}, "item is user": {"item": "user"},
        "value is gone": {"value": "stars"}, "nulls odd": {"nulls": "ignore"}, "core 0": {"min_user_interactions": 0},
        "core text": {"min_item_interactions": "2"}, "duplicates none": {"duplicates": None},
    }.items():  # fmt: skip
        word = next(iter(words))
        expect = raises(BAD, word if word != "value" else "value|stars")
        if name == "item is user":
            expect = Either(Holds(lambda d: d.shape == (2, 2)), expect)
        yield Case(f"tables: {name}", lambda w=words: Interactions.from_frame(whole, **w), expect)


# ---- other frames ---------------------------------------------------------------------------------------------------


def others() -> Iterator[Case]:
    import polars as pl
    import pyarrow as pa

    columns = {"user": ["b", "a", "b"], "item": [1, 2, 2]}
    agrees = lambda d: users(d) == ["a", "b"] and d.matrix.nnz == 3  # noqa: E731
    table = pa.table(columns)
    for name, make in {
        "lazy": lambda: pl.LazyFrame(columns),
        "categorical": lambda: pl.DataFrame(columns, schema_overrides={"user": pl.Categorical}),
        "enum": lambda: pl.DataFrame(columns, schema_overrides={"user": pl.Enum(["b", "a", "z"])}),
        "chunks": lambda: pl.concat([pl.DataFrame(columns)[:1], pl.DataFrame(columns)[1:]], rechunk=False),
        "a slice of Arrow": lambda: pa.concat_tables([table, table])[3:],
        "chunks of nothing": lambda: pa.concat_tables([table[:0], table, table[:0]]),
    }.items():
        yield _right(f"frame, {name}", lambda m=make: Interactions.from_frame(m()), agrees)
    for name, make in {
        "a batch": lambda: table.to_batches()[0],
        "a reader": lambda: table.to_reader(),
        "a polars series": lambda: pl.Series([1]),
        "an array of Arrow": lambda: pa.array([1]),
    }.items():
        yield Case(
            f"tables: frame {name}",
            lambda m=make: Interactions.from_frame(m()),
            Either(Holds(agrees), raises(BAD, "frame")),
        )


# ---- CSV ------------------------------------------------------------------------------------------------------------


def csv(files: Mapping[str, bytes], **words: Any) -> Callable[[], Any]:
    """Interactions of the CSV files of a folder."""

    def run(folder: Path) -> Any:
        for name, data in files.items():
            (folder / name).write_bytes(data)
        return Interactions.from_csv(folder / next(iter(files)) if len(files) == 1 else folder, **words)

    return filed(run)


HEAD = b"user,item\n"


def text_files() -> Iterator[Case]:
    ids = lambda *wanted: lambda d: users(d) == list(wanted)  # noqa: E731
    for name, files, words, wanted in (
        ("a first file of only names", {"a.csv": HEAD, "b.csv": HEAD + b"1,2\n3,4\n"}, {}, ("1", "3")),
        ("first files of only names, text", {"a.csv": HEAD, "b.csv": HEAD, "c.csv": HEAD + b"x,2\n"}, {}, ("x",)),
        ("a middle file of only names", {"a.csv": HEAD + b"1,2\n", "b.csv": HEAD, "c.csv": HEAD + b"3,4\n"}, {},
         ("1", "3")),
        ("a first file of only names, CRLF", {"a.csv": b"user,item\r\n", "b.csv": b"user,item\r\n1,2\r\n"}, {}, ("1",)),
        ("a first file of only names, with types", {"a.csv": HEAD, "b.csv": HEAD + b"007,2\n"},
         {"column_types": {"user": "string"}}, ("007",)),
        ("other order of columns", {"a.csv": HEAD + b"1,2\n", "b.csv": b"item,user\n2,3\n"}, {}, ("1", "3")),
        ("CRLF", {"a.csv": b"user,item\r\n1,2\r\n"}, {}, ("1",)),
        ("lines that end in CR", {"a.csv": b"user,item\r1,2\r"}, {}, ("1",)),
        ("empty lines", {"a.csv": HEAD + b"\n1,2\n\n"}, {}, ("1",)),
        ("line ends in quotes", {"a.csv": HEAD + b'"a\nb",1\n'}, {}, ("a\nb",)),
        ("quotes in quotes", {"a.csv": HEAD + b'"a""b",1\n'}, {}, ('a"b',)),
        ("spaces around", {"a.csv": HEAD + b" a ,1\n"}, {}, (" a ",)),
        ("NA in quotes", {"a.csv": HEAD + b'"NA",1\n'}, {}, ("NA",)),
        ("tabs", {"a.csv": b"user\titem\n1\t2\n"}, {"delimiter": "\t"}, ("1",)),
        ("semicolons", {"a.csv": b"user;item\n1,5;2\n"}, {"delimiter": ";"}, ("1,5",)),
        ("no names", {"a.csv": b"1,2\n"}, {"column_names": ["user", "item"]}, ("1",)),
        ("names as a tuple", {"a.csv": b"1,2\n"}, {"column_names": ("user", "item")}, ("1",)),
        ("more columns", {"a.csv": b"x,user,y,item\n0,1,0,2\n"}, {}, ("1",)),
    ):  # fmt: skip
        yield _right(f"csv, {name}", csv(files, **words), ids(*wanted))
    for name, files, words, word in (
        ("numbers, then text", {"a.csv": HEAD + b"1,2\n", "b.csv": HEAD + b"x,2\n"}, {}, "column_types"),
        ("a first file of only names, no line end", {"a.csv": HEAD[:-1], "b.csv": HEAD + b"1,2\n"}, {}, "line break"),
        ("a file without a column", {"a.csv": HEAD + b"1,2\n", "b.csv": b"user\n1\n"}, {}, "item|null"),
        ("another delimiter", {"a.csv": b"user;item\n1;2\n"}, {}, "user"),
        ("a file of other names", {"a.csv": HEAD + b"1,2\n", "b.csv": b"u,i\n3,4\n"}, {}, "user|null"),
        ("empty ids", {"a.csv": HEAD + b",1\n"}, {}, "null"),
        ("a delimiter at the end of lines", {"a.csv": HEAD + b"1,2,\n"}, {}, "a.csv"),
        ("delimiter of two", {"a.csv": HEAD}, {"delimiter": ",,"}, "delimiter"),
        ("delimiter none", {"a.csv": HEAD}, {"delimiter": None}, "delimiter"),
        ("delimiter a line end", {"a.csv": HEAD}, {"delimiter": "\n"}, "delimiter"),
        ("names too few", {"a.csv": b"1,2\n"}, {"column_names": ["user"]}, "item|a.csv"),
        ("names twice", {"a.csv": b"1,2\n"}, {"column_names": ["user", "user"]}, "user|item"),
        ("names none of it", {"a.csv": b"1,2\n"}, {"column_names": []}, "user|column_names"),
        ("types by number", {"a.csv": HEAD}, {"column_types": {0: "string"}}, "column_types"),
    ):
        yield _refused(f"csv, {name}", csv(files, **words), word)
    for name, files in {"only names": {"a.csv": HEAD}, "two of only names": {"a.csv": HEAD, "b.csv": HEAD}}.items():
        yield Case(
            f"tables: csv, {name}",
            csv(files),
            Either(Holds(lambda d: d.matrix.nnz == 0 and d.shape == (0, 0)), raises(BAD, "records|rows|column_types")),
        )


def cases() -> list[Case]:
    found = list(text_files()) if importlib.util.find_spec("pyarrow") else []
    if all(map(importlib.util.find_spec, ("pandas", "pyarrow", "narwhals"))):
        found += pandas()
    if all(map(importlib.util.find_spec, ("polars", "pyarrow", "narwhals"))):
        found += others()
    return found
