"""Interactions from data frames, Parquet and CSV, in batches of Arrow records; bound to `Interactions` as methods."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict, Unpack

from lfm_np import paths
from lfm_np import validation as check
from lfm_np.arrow_records import assemble
from lfm_np.cells import DUPLICATES
from lfm_np.errors import missing_extra
from lfm_np.signals import pass_on

if TYPE_CHECKING:
    import pyarrow as pa

    from lfm_np.interactions import Interactions

BATCH = 1 << 17  # records of a batch
READAHEAD = 4  # batches in memory besides the one that is looked at
NULL_TEXTS = {"", "NULL", "null", "NA", "N/A", "n/a", "#N/A", "#NA", "NaN", "nan", "-NaN", "-nan"}  # unquoted in CSV


class Columns(TypedDict, total=False):
    """Which columns to read and what becomes of them, as in `Interactions.from_frame`."""

    user: str
    item: str
    value: str | None
    timestamp: str | None
    duplicates: str
    nulls: str
    min_user_interactions: int
    min_item_interactions: int


def from_frame(
    cls: type[Interactions],
    frame: Any,
    user: str = "user",
    item: str = "item",
    value: str | None = None,
    timestamp: str | None = None,
    *,
    duplicates: str = "sum",
    nulls: str = "error",
    min_user_interactions: int = 1,
    min_item_interactions: int = 1,
) -> Interactions:
    """Interactions of one record for each row of a data frame.

    Parameters
    ----------
    frame : pandas, polars or pyarrow frame, or any other that narwhals reads
        A lazy one is collected, the columns named here only.
    user, item : str
        Columns of ids: integers, strings, UUIDs, categories, dates … A category counts by its value.
    value : str, optional
        A column of numbers; without it every record has value 1.
    timestamp : str, optional
        A column of integers, floats, dates or times; those with a time zone become UTC.
    duplicates : {"sum", "last", "mean", "max", "count", "error"}
        What becomes of several records of one pair, as in `Interactions.from_arrays`.
    nulls : {"error", "drop", "keep"}
        What becomes of records with a null, or NaN, in one of the columns. "error" counts them. "drop" leaves them out.
        "keep" makes null values and times unknown (NaN, NaT) and still refuses null ids.
    min_user_interactions, min_item_interactions : int
        Keep only users and items with at least so many cells among those kept, as in `Interactions.core`.

    Returns
    -------
    Interactions
        Rows and columns in ascending order of the ids (strings by code point).

    Raises
    ------
    TypeError, ValueError
        Not a frame, a column that is absent or of a kind that cannot serve, nulls, repeated pairs with "error".

    Examples
    --------
    >>> import lfm_np, pyarrow as pa
    >>> table = pa.table({"user": ["ann", "bob", "ann"], "item": [30, 10, 10], "stars": [5, 3, 4]})
    >>> data = lfm_np.Interactions.from_frame(table, value="stars")
    >>> data.users, data.matrix.toarray()
    (array(['ann', 'bob'], dtype=object), array([[4., 5.],
           [3., 0.]], dtype=float32))
    """
    plan = plan_columns(
        "from_frame",
        {
            "user": user,
            "item": item,
            "value": value,
            "timestamp": timestamp,
            "duplicates": duplicates,
            "nulls": nulls,
            "min_user_interactions": min_user_interactions,
            "min_item_interactions": min_item_interactions,
        },
    )
    table, backend = _arrow_table(frame, plan)
    return assemble(cls, plan, table.schema, table.to_batches(max_chunksize=BATCH), backend)


def from_parquet(cls: type[Interactions], path: str | os.PathLike[str], **columns: Unpack[Columns]) -> Interactions:
    """Interactions of one record for each row of Parquet files, which are read in batches.

    Parameters
    ----------
    path : str or path
        A file; a folder, with all files below it in the order of their names, but for those whose name, or that of a
        folder, begins with "_" or "." (``_SUCCESS``), links followed unless they lead in circles; or a URL (``s3://…``,
        ``https://…``), which takes fsspec. Folders in it named ``column=value`` give a column, and those above a file
        what it lacks: of the type that the files have it in, if they have it too, else int32 where all are such (007 is
        7), numbers and times where they serve as value and timestamp, and else text. Types may differ from file to
        file.
    **columns
        ``user``, ``item``, ``value``, ``timestamp``, ``duplicates``, ``nulls``, ``min_user_interactions``,
        ``min_item_interactions`` as in `Interactions.from_frame`.

    Returns
    -------
    Interactions

    Notes
    -----
    Other columns are not read. In memory are a few batches, per record two int32 numbers (and 8 bytes each for a value
    and a time), and while records become cells 60 to 130 bytes a record. docs/data.md has measurements.
    """
    plan = plan_columns("from_parquet", columns)
    return assemble(cls, plan, *open_files(path, "parquet", plan), None)


def from_csv(
    cls: type[Interactions],
    path: str | os.PathLike[str],
    *,
    delimiter: str = ",",
    column_names: Sequence[str] | None = None,
    column_types: Mapping[str, Any] | None = None,
    **columns: Unpack[Columns],
) -> Interactions:
    """Interactions of one record for each line of CSV files, which are read in batches.

    Parameters
    ----------
    path : str or path
        As in `Interactions.from_parquet`; files may be compressed (``.csv.gz``, ``.csv.bz2``, ``.csv.zst``).
    delimiter : str
        One character.
    column_names : sequence of str, optional
        Where the files have no line of names.
    column_types : mapping of str to str or pyarrow.DataType, optional
        Types that are not to be guessed from the first lines: ``{"user": "string"}`` keeps the zeros of "007". Integers
        of more than 64 bits need it, which would be read as floats.
    **columns
        As in `Interactions.from_parquet`. Null is an empty field, and NULL, NA, N/A, NaN and the like,
        unless in quotes.

    Returns
    -------
    Interactions
    """
    plan = plan_columns("from_csv", columns)
    load_arrow("pyarrow")
    from lfm_np.csv_files import csv_format, refuse_misread

    format, types = csv_format(delimiter, column_names, column_types)
    schema, batches = open_files(path, format, plan)
    if unknown := sorted(set(types) - set(schema.names)):
        raise ValueError(f"column_types has {', '.join(unknown)}; there are {', '.join(map(repr, schema.names))}")
    data = assemble(cls, plan, schema, batches, None)
    for argument, ids in (("user", data.users), ("item", data.items)):
        refuse_misread(argument, plan.names[argument], ids, types)
    return data


# ---- what to read ---------------------------------------------------------------------------------------------------


class Plan(NamedTuple):
    names: dict[str, str]
    """The column of every argument that names one."""
    duplicates: str
    nulls: str
    least: tuple[int, int]
    root: str | None = None
    """The folder of which single files are read."""

    @property
    def required(self) -> list[str]:
        """The arguments whose columns must not be null."""
        return ["user", "item"] if self.nulls == "keep" else list(self.names)

    @property
    def noun(self) -> str:
        """What a message numbers."""
        return "record without nulls" if self.nulls == "drop" else "record"


def plan_columns(function: str, columns: Columns) -> Plan:
    check.check_names(function, columns, Columns.__annotations__)
    asked: Mapping[str, Any] = {"user": "user", "item": "item", **columns}
    optional = [name for name in ("value", "timestamp") if asked.get(name) is not None]
    names = {name: asked[name] for name in ("user", "item", *optional)}
    for argument, name in names.items():
        if not isinstance(name, str):
            raise TypeError(f"{argument} must be the name of a column, got {check.shown(name)}")
    least = [
        check.check_int(name, columns.get(name, 1), 1) for name in ("min_user_interactions", "min_item_interactions")
    ]
    return Plan(
        names,
        check.check_choice("duplicates", columns.get("duplicates", "sum"), DUPLICATES),
        check.check_choice("nulls", columns.get("nulls", "error"), ("error", "drop", "keep")),
        (least[0], least[1]),
    )


def _check_present(plan: Plan, available: Sequence[str]) -> list[str]:
    """The names of the columns to read, each once."""
    for argument, name in plan.names.items():
        if name not in available:
            raise ValueError(f"{argument}={name!r} is no column; there are {', '.join(map(repr, available)) or 'none'}")
    return list(dict.fromkeys(plan.names.values()))


# ---- sources --------------------------------------------------------------------------------------------------------


def load_arrow(*modules: str) -> list[Any]:
    """Modules of pyarrow, or the error that says how to install it."""
    import importlib

    try:
        return [importlib.import_module(module) for module in modules]
    except ImportError:
        raise missing_extra("pyarrow", "io") from None


def _arrow_table(frame: Any, plan: Plan) -> tuple[pa.Table, str]:
    """The columns of the plan, and the name of the frame's library."""
    (pa,) = load_arrow("pyarrow")
    try:
        import narwhals as nw
    except ImportError:
        raise missing_extra("narwhals", "io") from None
    from lfm_np.id_columns import frame_column, workable

    try:
        wrapped = nw.from_native(frame)
    except TypeError:
        raise TypeError(
            f"frame must be a pandas, polars, pyarrow or other frame that narwhals reads, got {type(frame).__name__}"
        ) from None
    available = wrapped.collect_schema().names()
    asked: list[Any] = _check_present(plan, available)
    patterns = any(name == "*" or (name[:1] == "^" and name[-1:] == "$") for name in asked)  # to polars
    some = wrapped if patterns else wrapped.select(asked)
    eager = some.collect() if isinstance(some, nw.LazyFrame) else some
    arguments = {name: argument for argument, name in plan.names.items()}
    columns = {name: workable(frame_column(eager[name]), arguments[name]) for name in asked}
    return pa.table(columns), eager.implementation.value


def without_query(name: str) -> str:
    """A path, or a URL without what follows its path, such as a signature."""
    return name.partition("?")[0] if name.startswith(("http://", "https://")) else name


def open_files(
    path: str | os.PathLike[str], format: Any, plan: Plan, records: int | None = None, schema: pa.Schema | None = None
) -> tuple[pa.Schema, Iterable[pa.RecordBatch]]:
    """The schema of the files, or the one given, and the plan's columns in batches of at most so many records."""
    records = records or BATCH
    load_arrow("pyarrow.dataset")
    name: str = check.check_path("path", path)
    filesystem = None
    if "://" in name:
        try:
            from fsspec.core import url_to_fs
            from fsspec.implementations.local import LocalFileSystem
        except ImportError:
            raise missing_extra("fsspec", "io") from None
        filesystem, name = url_to_fs(name)
        if isinstance(filesystem, LocalFileSystem):
            filesystem = None
    from lfm_np.arrow_files import data_set, one_of
    from lfm_np.csv_files import typed
    from lfm_np.parquet_files import common_schema, parquet_batches

    with named(name):
        if plan.root is None or schema is None or not paths.is_file(name):
            source = data_set(name, filesystem, format, plan.names)
        else:
            source = one_of(plan.root, name, schema)
        source = source if format == "parquet" else typed(source, plan.names.values())
        schema = schema or (common_schema(source, plan.names) if format == "parquet" else source.schema)
    if not source.files:
        raise ValueError(f"there is no file in {name}")
    columns = _check_present(plan, schema.names)
    if format == "parquet":
        return schema, _read(name, parquet_batches(source, schema, columns, records))
    batches = source.to_batches(
        columns=columns, batch_size=records, batch_readahead=READAHEAD, fragment_readahead=1, cache_metadata=False
    )
    return schema, _read(name, batches)


def _read(path: str, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    with named(path):
        yield from batches


@contextlib.contextmanager
def named(path: str) -> Iterator[None]:
    """Arrow's errors with the path, and a remedy where values are not what the first ones let expect."""
    import pyarrow as pa

    from lfm_np.csv_files import hint

    try:
        yield
    except FileNotFoundError:
        what = "neither a regular file nor a folder" if paths.exists(path) else "no such file or folder"
        raise FileNotFoundError(errno.ENOENT, what, path) from None
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        pass_on(error)
        system = isinstance(error, OSError) and (error.errno or type(error) is not OSError)  # Arrow's own has no number
        if system or isinstance(error, MemoryError):
            raise
        raise ValueError(f"cannot read {path}: {error}{hint(error)}") from None
