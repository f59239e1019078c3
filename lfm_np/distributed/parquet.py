"""Interactions in Parquet files that the workers read: the driver sees the ids of items, and never a record."""

from __future__ import annotations

import functools
import itertools
import os
import uuid
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as dataset
import pyarrow.parquet as pq
import scipy.sparse as sp

from lfm_np import paths
from lfm_np.arrow_records import assemble
from lfm_np.distributed import blocks
from lfm_np.distributed.cluster import Cluster, check_client, fewer
from lfm_np.id_columns import IdEncoder, to_arrow
from lfm_np.interactions import Interactions
from lfm_np.owned import owned
from lfm_np.problem import Problem, same_problem
from lfm_np.reading import Plan, named, open_files, plan_columns
from lfm_np.signals import pass_on, signals_held
from lfm_np.sweeps import sigint_noted
from lfm_np.validation import absolute, check_choice, check_int, check_path, share_csr, shown

_PARTS = "bucket={:05d}"


@dataclass(frozen=True)
class ShardedInteractions:
    """Interactions in files that workers read, cut into shards of users.

    Attributes
    ----------
    items : ndarray, shape (n,)
        The id of every column, ascending; read-only.
    rows : tuple of int
        Users of each shard.
    """

    items: np.ndarray
    rows: tuple[int, ...]
    parts: tuple[tuple[str, ...], ...]
    """The files (or folders) of each shard; every user is in one of them."""
    plan: Plan
    schema: pa.Schema
    """Columns of the files, in types that hold what all have."""
    digests: dict[str, int]
    """Of the records of each file (or folder), so that one that is no longer what it was is noticed."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "items", owned(self.items))

    def __reduce__(self) -> tuple[Any, ...]:
        # Through the constructor: NumPy's own pickle would give a writable array back.
        return type(self), (self.items, self.rows, self.parts, self.plan, self.schema, self.digests)

    @property
    def shape(self) -> tuple[int, int]:
        """Number of users and of items."""
        return sum(self.rows), len(self.items)

    def __repr__(self) -> str:
        return f"ShardedInteractions({self.shape[0]} users × {self.shape[1]} items, {len(self.rows)} shards)"

    def users(self, client: Any = None) -> np.ndarray:
        """The id of every row (m,), read again from the files by the workers and brought here."""
        with sigint_noted() as interrupted:
            cluster = Cluster(check_client(client), interrupted)
            tasks = [cluster.task("ids", _users_of, self._files(part), self.plan, self.schema) for part in self.parts]
            return np.concatenate(cluster.gather(cluster.groups(tasks)[0]))

    def sources(self, cluster: Cluster, problem: Problem) -> list[tuple[Any, ...]]:
        """What makes each shard of ``problem`` on a worker."""
        firsts = itertools.accumulate(self.rows, initial=0)
        items = cluster.task("item_ids", np.asarray, self.items)
        return [
            (_shard, problem, self._files(part), self.plan, self.schema, items, first, len(self.parts))
            for part, first in zip(self.parts, firsts)
        ]

    def _files(self, part: tuple[str, ...]) -> dict[str, int]:
        return {file: self.digests[file] for file in part}


def from_parquet(
    path: str | os.PathLike[str],
    *,
    client: Any = None,
    shards: int | None = None,
    staging: str | os.PathLike[str] | None = None,
    user: str = "user",
    item: str = "item",
    value: str | None = None,
    duplicates: str = "sum",
    nulls: str = "error",
) -> ShardedInteractions:
    """Interactions of one record for each row of the Parquet files in a folder, which every worker sees.

    Parameters
    ----------
    path : str or path
        A folder of files, or a file. Where the files hold disjoint ranges of users they are read as they are; otherwise
        ``staging`` is needed.
    client : distributed.Client, optional
        None takes dask's current one.
    shards : int, optional
        Into how many shards the users go; None makes one for each thread of the workers. Without staging there are no
        more of them than files.
    staging : str or path, optional
        An empty folder, or one to be made, that every worker sees: the records are first split there by a hash of their
        users, in files of their own for each shard. After an error or Ctrl-C it is to be emptied, or another named:
        workers may still be writing.
    user, item, value, duplicates, nulls
        As in `Interactions.from_parquet`; unknown values (``nulls="keep"``) are refused.

    Returns
    -------
    ShardedInteractions
        Give it to `lfm_np.distributed.als` in place of a matrix.

    Raises
    ------
    TypeError, ValueError
        As `Interactions.from_parquet`; also when a user may be in several files and there is no staging. Files that
        change afterwards are noticed when they are read again: other records are an error then.

    Notes
    -----
    The driver holds the distinct items. A worker holds the records of one file, or of one shard, and the distinct items
    of some files. Rows are in ascending order of user ids; with staging only those of a shard are.

    Examples
    --------
    >>> import distributed, lfm_np, os, pyarrow as pa, pyarrow.parquet as pq, tempfile
    >>> with tempfile.TemporaryDirectory() as folder, distributed.Client(processes=False, dashboard_address=":0"):
    ...     for name, users in {"a": ["ann", "ann"], "b": ["bob", "eve"]}.items():
    ...         pq.write_table(pa.table({"user": users, "item": [10, 30]}), os.path.join(folder, name))
    ...     data = lfm_np.distributed.from_parquet(folder, shards=2)
    ...     factors = lfm_np.distributed.als(data, factors=1, random_state=0)
    >>> data
    ShardedInteractions(3 users × 2 items, 2 shards)
    >>> factors.shape
    (3, 2)
    """
    client = check_client(client)
    plan = plan_columns(
        "from_parquet",
        {
            "user": user,
            "item": item,
            "value": value,
            "duplicates": duplicates,
            "nulls": check_choice("nulls", nulls, ("error", "drop")),
        },
    )
    files = _files(path)
    schema = _schema(path, plan)
    plan = plan._replace(root=absolute(os.fsdecode(path)) if paths.is_folder(path) else None)
    with sigint_noted() as interrupted:
        cluster = Cluster(client, interrupted)
        count = cluster.workers().threads if shards is None else check_int("shards", shards, 1)
        if staging is None:
            peeks, items = _seen(cluster, files, plan, schema)
            peeks = sorted((peek for peek in peeks if peek.rows), key=lambda peek: peek.first)
            _refuse_overlap(peeks)
            parts = _grouped(peeks, min(count, len(peeks)))
        else:
            parts = _staged(cluster, files, plan, schema, _empty_folder(staging), count)
            peeks, items = _seen(cluster, [place for (place,) in parts], plan, schema)
        rows = {peek.file: peek.rows for peek in peeks}
        if not sum(rows.values()):
            raise ValueError(f"path must hold records, got {shown(path)}, whose {len(files)} files have none")
        return ShardedInteractions(
            items,
            tuple(sum(rows[file] for file in part) for part in parts),
            tuple(parts),
            plan,
            schema,
            {peek.file: peek.digest for peek in peeks},
        )


# ---- on the driver --------------------------------------------------------------------------------------------------


def _files(path: Any) -> list[str]:
    path = check_path("path", path)
    if not paths.exists(path):
        raise FileNotFoundError(f"path must be a folder of Parquet files that every worker sees, got {shown(path)}")
    paths.files_below(path)  # refuses links in circles
    with named(path):
        files = dataset.dataset(absolute(path), format="parquet").files
    if not files:
        raise ValueError(f"path must hold Parquet files, got {shown(path)}, which has none")
    return sorted(files)


def _schema(path: Any, plan: Plan) -> pa.Schema:
    """The columns that are read, in types that hold what all files have."""
    schema, _ = open_files(path, "parquet", plan)
    for argument in ("user", "item"):
        IdEncoder(argument, schema.field(plan.names[argument]).type)  # refuses what cannot be ids
    return pa.schema([schema.field(name) for name in dict.fromkeys(plan.names.values())])


def _empty_folder(staging: Any) -> str:
    folder = absolute(check_path("staging", staging))
    try:
        with signals_held():
            os.makedirs(folder, exist_ok=True)
        if there := os.listdir(folder):
            raise ValueError(f"staging must be an empty folder, got {folder}, which holds {max(there)}")
        with open(os.path.join(folder, ".taken"), "x"):  # of two that found it empty at once one may have it
            return folder
    except OSError as error:
        pass_on(error)
        raise type(error)(error.errno, f"staging must be an empty folder: {error.strerror}", folder) from None


class Peek(NamedTuple):
    """What the driver learns of a file, or a folder of staged ones."""

    file: str
    rows: int  # distinct users
    first: Any  # the least user
    last: Any
    digest: int


class Seen(NamedTuple):
    """What one pass over a file finds out."""

    peek: Peek
    items: np.ndarray  # distinct, ascending


def _seen(cluster: Cluster, files: Sequence[str], plan: Plan, schema: pa.Schema) -> tuple[list[Peek], np.ndarray]:
    """What is known of every file, and the distinct items of all."""
    if not files:
        return [], np.empty(0)
    seen = [cluster.task("seen", _see, file, plan, schema) for file in files]
    peeks = [cluster.task("peek", _peek_of, one) for one in seen]
    items = fewer(cluster, "items_of", _union, [cluster.task("items", _items_of, one) for one in seen])
    peeks, unions = cluster.groups(peeks, [cluster.task("items_of", _union, items)])
    return cluster.gather(peeks), cluster.gather(unions)[0]


def _refuse_overlap(peeks: list[Peek]) -> None:
    for one, other in itertools.pairwise(peeks):
        if other.first <= one.last:
            raise ValueError(
                f"users of {one.file} ({one.first!r} to {one.last!r}) may be in {other.file} too (from "
                f"{other.first!r}), and a user's records must be in one place; give staging=, a folder to split them in"
            )


def _grouped(peeks: list[Peek], count: int) -> list[tuple[str, ...]]:
    """Neighbouring files in ``count`` groups of about as many users."""
    done = np.cumsum([peek.rows for peek in peeks], dtype=np.int64)
    group = np.minimum((done - 1) * count // done[-1], count - 1) if len(peeks) else done
    files = np.array([peek.file for peek in peeks], object)
    return [tuple(files[group == number]) for number in np.unique(group)]


def _staged(
    cluster: Cluster, files: list[str], plan: Plan, schema: pa.Schema, folder: str, count: int
) -> list[tuple[str, ...]]:
    """Split every file by user; returns the folder of each shard that has records."""
    cluster.groups(
        [cluster.task("split", _split, file, plan, schema, folder, number, count) for number, file in enumerate(files)]
    )
    places = (os.path.join(folder, _PARTS.format(number)) for number in range(count))
    return [(place,) for place in places if paths.is_folder(place)]


# ---- on workers -----------------------------------------------------------------------------------------------------


def _read(file: str, plan: Plan, schema: pa.Schema, digest: int | None = None) -> Interactions:
    """The records of a file, which must be those that it had, if that is known."""
    try:
        data = assemble(Interactions, plan, *open_files(file, "parquet", plan, schema=schema), None)
    except (TypeError, ValueError) as error:
        pass_on(error)
        raise error if file in str(error) else type(error)(f"{file}: {error}") from None
    if digest is not None and digest != _digest(data):
        raise ValueError(f"{file} has other records than when from_parquet read it; call from_parquet again")
    return data


def _digest(data: Interactions) -> int:
    found = 0
    for ids in (data.users, data.items):
        array = to_arrow(ids)
        for part in (str(array.type).encode(), *filter(None, array.buffers())):
            found = zlib.crc32(part, found)
    for part in (data.matrix.indptr, data.matrix.indices, data.matrix.data):
        found = zlib.crc32(np.ascontiguousarray(part).data, found)
    return found


def _see(file: str, plan: Plan, schema: pa.Schema) -> Seen:
    data = _read(file, plan, schema)
    first, last = data.users[[0, -1]].tolist() if len(data.users) else (None, None)
    return Seen(Peek(file, len(data.users), first, last, _digest(data)), data.items)


def _peek_of(seen: Seen) -> Peek:
    return seen.peek


def _items_of(seen: Seen) -> np.ndarray:
    return seen.items


def _union(parts: list[np.ndarray]) -> np.ndarray:
    return functools.reduce(np.union1d, parts)


def _users_of(files: dict[str, int], plan: Plan, schema: pa.Schema) -> np.ndarray:
    return np.concatenate([_read(file, plan, schema, digest).users for file, digest in files.items()])


def _shard(
    problem: Problem,
    files: dict[str, int],
    plan: Plan,
    schema: pa.Schema,
    items: np.ndarray,
    first: int,
    shards: int,
) -> blocks.Shard:
    """The records of a shard as rows over all items."""
    pieces = []
    for file, digest in files.items():
        data = _read(file, plan, schema, digest)
        place = np.searchsorted(items, data.items).astype(data.matrix.indices.dtype)  # ascending, so rows stay sorted
        matrix = data.matrix
        pieces.append(share_csr(matrix.data, place[matrix.indices], matrix.indptr, (matrix.shape[0], len(items))))
    try:
        X = same_problem(problem, sp.vstack(pieces, format="csr")).X
    except ValueError as error:
        pass_on(error)
        raise ValueError(f"{error} (of the shard of {', '.join(files)}, which begins at row {first})") from None
    return blocks.make_shard(problem, X, first, shards)


def _split(file: str, plan: Plan, schema: pa.Schema, folder: str, number: int, count: int) -> None:
    """Write the records of a file to the folders of their users' shards."""
    _, batches = open_files(file, "parquet", plan, schema=schema)
    writers: dict[int, pq.ParquetWriter] = {}
    places: dict[str, str] = {}
    try:
        for batch in batches:
            shard = _bucket(batch.column(plan.names["user"]), count)
            for bucket in np.unique(shard).tolist():
                if bucket not in writers:
                    place = os.path.join(folder, _PARTS.format(bucket), f"part-{number:05d}.parquet")
                    os.makedirs(os.path.dirname(place), exist_ok=True)
                    # a name of its own: a run that dask has given up may go on beside this one, with the same pid too
                    unfinished = os.path.join(folder, f".{bucket}-{number}-{uuid.uuid4().hex}")
                    places[unfinished] = place
                    writers[bucket] = pq.ParquetWriter(unfinished, batch.schema)
                writers[bucket].write_batch(batch.filter(pa.array(shard == bucket)))
    finally:
        for writer in writers.values():
            writer.close()
    for unfinished, place in places.items():
        os.replace(unfinished, place)


def _bucket(users: pa.Array, count: int) -> np.ndarray:
    """The shard of every user: of the same id the same, in whatever file and of whatever integer or string type."""
    if isinstance(users.type, pa.UuidType):
        users = users.storage
    elif pa.types.is_float16(users.type):
        users = users.cast(pa.float32())
    encoded = users if isinstance(users, pa.DictionaryArray) else users.dictionary_encode()
    ids = encoded.dictionary
    if pa.types.is_integer(ids.type):
        distinct = ids.to_numpy(zero_copy_only=False).astype(np.uint64)
        hashed = (distinct * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(33)
    else:
        if pa.types.is_floating(ids.type):
            ids = pc.add(ids, 0.0)  # -0.0 is the user 0.0
        hashed = np.array([zlib.crc32(str(id).encode()) for id in ids.to_pylist()], np.uint64)
    codes = pc.fill_null(encoded.indices, 0).to_numpy(zero_copy_only=False)
    buckets = (hashed % np.uint64(count)).astype(np.int64) if len(hashed) else np.zeros(1, np.int64)
    return buckets[codes]
