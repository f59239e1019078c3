"""Interactions in Parquet files that the workers read: the driver sees the ids of items, and never a record."""

from __future__ import annotations

import functools
import itertools
import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp

from lfm_np.distributed import blocks
from lfm_np.distributed.cluster import Cluster, check_client
from lfm_np.errors import missing_extra
from lfm_np.interactions import Interactions
from lfm_np.problem import Problem, same_problem
from lfm_np.reading import BATCH
from lfm_np.sweeps import sigint_noted
from lfm_np.validation import check_int, check_path, share_csr, shown

try:
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.dataset as dataset
    import pyarrow.parquet as pq
except ImportError:
    raise missing_extra("pyarrow", "distributed") from None

_PARTS = "bucket={:05d}"


@dataclass(frozen=True)
class ShardedInteractions:
    """Interactions in files that workers read, cut into shards of users.

    Attributes
    ----------
    items : ndarray, shape (n,)
        The id of every column, ascending.
    rows : tuple of int
        Users of each shard.
    """

    items: np.ndarray
    rows: tuple[int, ...]
    parts: tuple[tuple[str, ...], ...]
    """The files (or folders) of each shard; every user is in one of them."""
    columns: dict[str, Any]

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
            tasks = [cluster.task("ids", _users_of, part, self.columns) for part in self.parts]
            return np.concatenate(cluster.gather(cluster.groups(tasks)[0]))

    def sources(self, cluster: Cluster, problem: Problem) -> list[tuple[Any, ...]]:
        """What makes each shard of ``problem`` on a worker."""
        firsts = itertools.accumulate(self.rows, initial=0)
        items = cluster.task("item_ids", np.asarray, self.items)
        return [
            (_shard, problem, part, self.columns, items, first, len(self.parts))
            for part, first in zip(self.parts, firsts)
        ]


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
        users, in files of their own for each shard.
    user, item, value, duplicates
        As in `Interactions.from_parquet`.

    Returns
    -------
    ShardedInteractions
        Give it to `lfm_np.distributed.als` in place of a matrix.

    Raises
    ------
    TypeError, ValueError
        As `Interactions.from_parquet`; also when a user may be in several files and there is no staging.

    Notes
    -----
    The driver holds the distinct items of one file beside those of all. A worker holds the records of one file, or of
    one shard. Rows are in ascending order of user ids; with staging only those of a shard are.

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
    columns = {"user": user, "item": item, "value": value, "duplicates": duplicates}
    files = _files(path, columns)
    with sigint_noted() as interrupted:
        cluster = Cluster(client, interrupted)
        count = cluster.workers().threads if shards is None else check_int("shards", shards, 1)
        if staging is None:
            peeks = _peeks(cluster, [(file,) for file in files], columns)
            peeks = sorted((peek for peek in peeks if peek.rows), key=lambda peek: peek.first)
            _refuse_overlap(peeks)
            parts = _grouped(peeks, min(count, len(peeks)))
        else:
            parts = _staged(cluster, files, columns, _empty_folder(staging), count)
            peeks = _peeks(cluster, parts, columns)
        rows = {file: peek.rows for peek in peeks for file in peek.files}
        return ShardedInteractions(
            _items(cluster, parts, columns),
            tuple(sum(rows[file] for file in part) for part in parts),
            tuple(parts),
            columns,
        )


# ---- on the driver --------------------------------------------------------------------------------------------------


def _files(path: Any, columns: dict[str, Any]) -> list[str]:
    path = check_path("path", path)
    if not os.path.exists(path):
        raise FileNotFoundError(f"path must be a folder of Parquet files that every worker sees, got {shown(path)}")
    files = dataset.dataset(os.path.abspath(path), format="parquet").files
    if not files:
        raise ValueError(f"path must hold Parquet files, got {shown(path)}, which has none")
    return sorted(files)


def _empty_folder(staging: Any) -> str:
    folder = os.path.abspath(check_path("staging", staging))
    os.makedirs(folder, exist_ok=True)
    if os.listdir(folder):
        raise ValueError(f"staging must be an empty folder, got {folder}, which holds {os.listdir(folder)[0]}")
    return folder


class Peek(NamedTuple):
    """What the driver learns of files."""

    files: tuple[str, ...]
    rows: int  # distinct users
    first: Any  # the least user
    last: Any


def _peeks(cluster: Cluster, parts: Sequence[tuple[str, ...]], columns: dict[str, Any]) -> list[Peek]:
    return cluster.gather(cluster.groups([cluster.task("peek", _peek, part, columns) for part in parts])[0])


def _refuse_overlap(peeks: list[Peek]) -> None:
    for one, other in itertools.pairwise(peeks):
        if other.first <= one.last:
            raise ValueError(
                f"users of {one.files[0]} ({one.first!r} to {one.last!r}) may be in {other.files[0]} too (from "
                f"{other.first!r}), and a user's records must be in one place; give staging=, a folder to split them in"
            )


def _grouped(peeks: list[Peek], count: int) -> list[tuple[str, ...]]:
    """Neighbouring files in ``count`` groups of about as many users."""
    done = np.cumsum([peek.rows for peek in peeks])
    group = np.minimum((done - 1) * count // done[-1], count - 1) if len(peeks) else done
    files = np.array([peek.files[0] for peek in peeks], object)
    return [tuple(files[group == number]) for number in np.unique(group)]


def _staged(
    cluster: Cluster, files: list[str], columns: dict[str, Any], folder: str, count: int
) -> list[tuple[str, ...]]:
    """Split every file by user; returns the folder of each shard that has records."""
    names = [columns[name] for name in ("user", "item", "value") if columns[name] is not None]
    cluster.groups(
        [cluster.task("split", _split, file, names, folder, number, count) for number, file in enumerate(files)]
    )
    places = (os.path.join(folder, _PARTS.format(number)) for number in range(count))
    return [(place,) for place in places if os.path.isdir(place)]


def _items(cluster: Cluster, parts: Sequence[tuple[str, ...]], columns: dict[str, Any]) -> np.ndarray:
    """The distinct items of all, with those of one more part at a time."""
    (futures,) = cluster.groups([cluster.task("items_of", _items_of, part, columns) for part in parts])
    found = (cluster.gather([future])[0] for future in futures)
    return functools.reduce(np.union1d, found)


# ---- on workers -----------------------------------------------------------------------------------------------------


def _read(file: str, columns: dict[str, Any]) -> Interactions:
    return Interactions.from_parquet(file, **columns)


def _peek(files: tuple[str, ...], columns: dict[str, Any]) -> Peek:
    users = _users_of(files, columns)
    return Peek(files, len(users), *(users[[0, -1]].tolist() if len(users) else (None, None)))


def _users_of(files: tuple[str, ...], columns: dict[str, Any]) -> np.ndarray:
    return np.concatenate([_read(file, columns).users for file in files])


def _items_of(files: tuple[str, ...], columns: dict[str, Any]) -> np.ndarray:
    return functools.reduce(np.union1d, (_read(file, columns).items for file in files))


def _shard(
    problem: Problem, files: tuple[str, ...], columns: dict[str, Any], items: np.ndarray, first: int, shards: int
) -> blocks.Shard:
    """The records of a shard as rows over all items."""
    pieces = []
    for file in files:
        data = _read(file, columns)
        place = np.searchsorted(items, data.items).astype(data.matrix.indices.dtype)  # ascending, so rows stay sorted
        matrix = data.matrix
        pieces.append(share_csr(matrix.data, place[matrix.indices], matrix.indptr, (matrix.shape[0], len(items))))
    X = same_problem(problem, sp.vstack(pieces, format="csr")).X
    return blocks.make_shard(problem, X, first, shards)


def _split(file: str, names: list[str], folder: str, number: int, count: int) -> None:
    """Write the records of a file to the folders of their users' shards."""
    source = dataset.dataset(file, format="parquet")
    writers: dict[int, pq.ParquetWriter] = {}
    places: dict[str, str] = {}
    try:
        for batch in source.to_batches(columns=names, batch_size=BATCH):
            shard = _bucket(batch.column(names[0]), count)
            for bucket in np.unique(shard).tolist():
                if bucket not in writers:
                    place = os.path.join(folder, _PARTS.format(bucket), f"part-{number:05d}.parquet")
                    os.makedirs(os.path.dirname(place), exist_ok=True)
                    unfinished = os.path.join(folder, f".{bucket}-{number}-{os.getpid()}")
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
    encoded = users if isinstance(users, pa.DictionaryArray) else users.dictionary_encode()
    ids = encoded.dictionary
    if pa.types.is_integer(ids.type):
        distinct = ids.to_numpy(zero_copy_only=False).astype(np.uint64)
        hashed = (distinct * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(33)
    else:
        hashed = np.array([zlib.crc32(str(id).encode()) for id in ids.to_pylist()], np.uint64)
    codes = pc.fill_null(encoded.indices, 0).to_numpy(zero_copy_only=False)
    buckets = (hashed % np.uint64(count)).astype(np.int64) if len(hashed) else np.zeros(1, np.int64)
    return buckets[codes]
