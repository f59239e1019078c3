"""Recommendations as tables of ids: a data frame, or a Parquet file written in blocks of users."""

from __future__ import annotations

import importlib
import itertools
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lfm_np import validation as check
from lfm_np.atomic import replacing
from lfm_np.errors import failed_import, missing_extra
from lfm_np.factors import Factors
from lfm_np.interactions import Interactions, check_same_ids
from lfm_np.ranking import Ranked

if TYPE_CHECKING:
    import pyarrow as pa

ROWS = 1 << 17  # rows of a block of recommendations
BACKENDS = ("pandas", "polars", "pyarrow", "modin", "cudf")  # the eager ones of narwhals


def recommend_frame(
    factors: Factors,
    data: Interactions,
    users: Any = None,
    *,
    N: int = 10,
    seen: Any = None,
    items: Any = None,
    exclude: Any = None,
    backend: str | None = None,
    num_threads: int | None = None,
) -> Any:
    """The N best allowed items of each user, as a data frame of ids.

    Parameters
    ----------
    factors : Factors
    data : Interactions
        Whose rows and columns these factors are: it gives the ids.
    users : array of user ids, optional
        None: all, in the order of ``data.users``.
    N : int
        Length of a list.
    seen : sparse matrix or Interactions, shape (m, n), optional
        A user never gets an item of the own row; often ``data``. Interactions must have the ids of ``data``, in their
        order.
    items, exclude : array of item ids, optional
        Only these are allowed; nobody gets these.
    backend : {"pandas", "polars", "pyarrow", "modin", "cudf"}, optional
        None: the library that ``data`` came from, and pyarrow where it came from none of them.
    num_threads : int, optional
        None takes the cores this process may use.

    Returns
    -------
    frame
        Columns ``user``, ``item``, ``score``, ``rank`` (1 is the best), users in the order asked. A user with fewer
        than N allowed items has fewer rows.

    Raises
    ------
    TypeError, ValueError
        Factors of another shape than ``data``, ``seen`` of other ids, an unknown id, a bad argument.

    See Also
    --------
    recommend_parquet : the same into a file, in bounded memory.
    Factors.recommend : by row numbers, as arrays.

    Examples
    --------
    >>> import lfm_np, pyarrow as pa
    >>> table = pa.table({"user": ["ann", "ann", "bob", "eve"], "item": ["tea", "jam", "tea", "jam"]})
    >>> data = lfm_np.Interactions.from_frame(table)
    >>> factors = lfm_np.als(data, factors=2, random_state=0)
    >>> lfm_np.recommend_frame(factors, data, ["bob"], N=1, seen=data).select(["user", "item", "rank"]).to_pylist()
    [{'user': 'bob', 'item': 'jam', 'rank': 1}]
    """
    if backend is None:
        backend = data.frame_backend if getattr(data, "frame_backend", None) in BACKENDS else "pyarrow"
    check.check_choice("backend", backend, BACKENDS)
    pa = _library("pyarrow")
    if backend != "pyarrow":
        _library("narwhals")
        _library(backend)
    query = _Query.of(factors, data, users, N, seen, items, exclude)
    table = pa.Table.from_batches(_batches(factors, query, seen, num_threads), query.schema)
    return _native(table, backend)


def recommend_parquet(
    factors: Factors,
    data: Interactions,
    path: str | os.PathLike[str],
    users: Any = None,
    *,
    N: int = 10,
    seen: Any = None,
    items: Any = None,
    exclude: Any = None,
    num_threads: int | None = None,
) -> None:
    """Write what `recommend_frame` gives into a Parquet file, in blocks of users.

    Parameters
    ----------
    path : str or path
        Written in one step: a crash leaves the old file or none.
    factors, data, users, N, seen, items, exclude, num_threads
        As in `recommend_frame`.

    Notes
    -----
    In memory are a block of 131,072 rows and, once, the ids as Arrow arrays, however many users there are.
    """
    _library("pyarrow")
    query = _Query.of(factors, data, users, N, seen, items, exclude)
    write_parquet(path, _batches(factors, query, seen, num_threads))


class Entries(NamedTuple):
    """Lists of recommendations, or of similar rows, one entry after the other and without their padding."""

    places: np.ndarray
    """Of the lists among those asked for."""
    ids: np.ndarray
    scores: np.ndarray
    ranks: np.ndarray
    """int32, 1 is the best."""

    @classmethod
    def of(cls, found: Ranked, start: int = 0) -> Entries:
        places, ranks = np.nonzero(found.ids >= 0)
        return cls(places + start, found.ids[places, ranks], found.scores[places, ranks], (ranks + 1).astype(np.int32))


def recommend_blocks(factors: Factors, rows: np.ndarray, N: int, seen: Any = None, **options: Any) -> Iterator[Entries]:
    """What `Factors.recommend` gives for rows of users, in blocks of about `ROWS` entries; at least one block."""
    N = min(check.check_length("N", N), max(1, factors.shape[1]))  # the rest is padding, which is left out
    step = max(1, ROWS // N)
    if seen is not None and len(rows) > step:
        seen = check.as_rows("seen", seen, factors.shape)
    for start in range(0, max(len(rows), 1), step):
        yield Entries.of(factors.recommend(rows[start : start + step], N=N, seen=seen, **options), start)


def write_parquet(path: str | os.PathLike[str], batches: Iterator[pa.RecordBatch]) -> None:
    """Write one batch at least, and all of one schema, into a file that appears in one step."""
    import pyarrow.parquet as pq

    first = next(batches)
    with replacing(check.check_path("path", path)) as file, pq.ParquetWriter(file, first.schema) as writer:
        for batch in itertools.chain([first], batches):
            writer.write_batch(batch)


class _Query(NamedTuple):
    """What is asked for, in row and column numbers, and the ids to answer with."""

    rows: np.ndarray
    N: int
    items: np.ndarray | None
    exclude: np.ndarray | None
    user_ids: pa.Array
    """Of ``rows``."""
    item_ids: pa.Array
    schema: pa.Schema

    @classmethod
    def of(cls, factors: Any, data: Any, users: Any, N: int, seen: Any, items: Any, exclude: Any) -> _Query:
        import pyarrow as pa

        from lfm_np.id_columns import to_arrow

        if not isinstance(factors, Factors) or not isinstance(data, Interactions):
            kinds = f"{type(factors).__name__} and {type(data).__name__}"
            raise TypeError(f"factors must be Factors and data Interactions, got {kinds}")
        if factors.shape != data.shape:
            raise ValueError(
                f"factors are of shape {factors.shape} and data of shape {data.shape}; they must be the same"
            )
        check_same_ids("seen", seen, "data", data)
        rows = np.arange(len(data.users)) if users is None else data.rows_of(users)
        some = data.users[rows] if len(rows) else data.users[:1]  # for their type
        user_ids = to_arrow(some)[: len(rows)]
        item_ids = data._item_column
        types = [user_ids.type, item_ids.type, pa.from_numpy_dtype(factors.user_factors.dtype), pa.int32()]
        schema = pa.schema(list(zip(("user", "item", "score", "rank"), types)))
        only = None if items is None else data.columns_of(items)
        never = None if exclude is None else data._item_index._replace(name="exclude").find(exclude, None)
        return cls(rows, check.check_length("N", N), only, never, user_ids, item_ids, schema)


def _batches(factors: Factors, query: _Query, seen: Any, num_threads: int | None) -> Iterator[pa.RecordBatch]:
    import pyarrow as pa

    options = {"seen": seen, "items": query.items, "exclude": query.exclude, "num_threads": num_threads}
    for some in recommend_blocks(factors, query.rows, query.N, **options):
        users, items = query.user_ids.take(pa.array(some.places)), query.item_ids.take(pa.array(some.ids))
        columns = [users, items, pa.array(some.scores), pa.array(some.ranks)]
        yield pa.RecordBatch.from_arrays(columns, schema=query.schema)


def _library(name: Any) -> Any:
    """A library of frames; those that the extra does not bring are for those who have them."""
    try:
        return importlib.import_module(name)
    except ImportError:
        if name in ("pyarrow", "narwhals"):
            raise missing_extra(name, "io") from None
        raise ImportError(f"backend={name!r} needs {name}, which {failed_import(name)}") from None


def _native(table: pa.Table, backend: Any) -> Any:
    if backend == "pyarrow":
        return table
    import narwhals as nw
    import pyarrow as pa

    plain = table
    uuids = [name for name in table.column_names if isinstance(table.schema.field(name).type, pa.UuidType)]
    if backend == "polars":  # it has no UUIDs but as Python objects
        plain = table.drop_columns(uuids)
    frame = nw.from_arrow(plain, backend=backend).to_native()
    if backend == "pandas":  # Arrow before 26 gives it bytes
        for name in uuids:
            frame[name] = np.array(table[name].to_pylist(), object)
    if backend == "polars" and uuids:
        import polars as pl

        objects = [pl.Series(name, table[name].to_pylist(), dtype=pl.Object) for name in uuids]
        frame = frame.with_columns(objects).select(table.column_names)
    return frame
