"""MovieLens, from a local folder or from GroupLens, and its published splits.

The data may be used for research only and may not be passed on: https://grouplens.org/datasets/movielens. Nothing of it
comes with this library.
"""

from __future__ import annotations

import csv
import io
import os
import zipfile
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lfm_np import paths
from lfm_np import validation as check
from lfm_np.errors import missing_extra
from lfm_np.interactions import Interactions
from lfm_np.npz_files import read_arrays
from lfm_np.signals import pass_on, signals_held

FOLDER = "LFM_NP_DATA"  # environment variable
_SERVER = "https://files.grouplens.org/datasets/movielens"

# What GroupLens publishes beside each archive as ml-NAME.zip.md5. "latest-small" is the edition of September 2018,
# which GroupLens may replace: `checksum` is for that day.
_CHECKSUMS = {
    "100k": "md5:0e33842e24a9c977be4e0107933c0723",
    "1m": "md5:c4d9eecfca2ab87c1945afe126590906",
    "10m": "md5:ce571fd55effeba0271552578f2648bd",
    "20m": "md5:cd245b17a1ae2cc31bb14903e1204af3",
    "25m": "md5:6b51fb2759a8657d3bfcbfc42b592ada",
    "32m": "md5:d472be332d4daa821edc399621853b57",
    "latest-small": "md5:31a303aabbc519bd33d025e44d6c2570",
}
_SPLITS = {"100k": ("u1", "u2", "u3", "u4", "u5", "ua", "ub"), "1m": ("ncf",)}


class Records(NamedTuple):
    """Ratings in the order of the source's file; every array has shape (N,).

    users, items : int64 ids of the source. values : float32. timestamps : float64, seconds since 1970. Values and
    timestamps are NaN where unknown.
    """

    users: np.ndarray
    items: np.ndarray
    values: np.ndarray
    timestamps: np.ndarray


class Split(NamedTuple):
    """A published split. ``negatives``, shape (users, 99), holds columns; -1 where there is none. None without them."""

    train: Interactions
    test: Interactions
    negatives: np.ndarray | None


def movielens(name: str, *, checksum: str | None = None) -> Interactions:
    """The ratings of a MovieLens data set.

    Looks for ``ml-NAME.npz`` or ``ml-NAME.zip`` in the folder that the environment variable LFM_NP_DATA names, and
    downloads the archive from GroupLens otherwise: once, verified, into the user's cache folder.

    Parameters
    ----------
    name : {"100k", "1m", "10m", "20m", "25m", "32m", "latest-small"}
    checksum : str, optional
        What the download is verified against instead of the MD5 that GroupLens published, as "sha256:…" or "md5:…": for
        "latest-small", which GroupLens may replace by a newer edition. A file in LFM_NP_DATA is yours: it is read as it
        is.

    Returns
    -------
    Interactions
        Users and items in ascending order of the source's ids; values the ratings; timestamps in seconds since 1970,
        float64. Both are NaN where the local file does not know them.

    Raises
    ------
    MissingExtraError
        A download is needed and pooch is not installed.
    OSError
        The download failed.
    ValueError
        Unknown name, an archive with the wrong checksum, or a damaged file.

    Notes
    -----
    A text archive is read at about a million ratings a second.

    References
    ----------
    F. M. Harper, J. A. Konstan: The MovieLens Datasets: History and Context. ACM TiiS 5(4), 2015. Cite it when you use
    the data.
    """
    records = movielens_records(name, checksum=checksum)
    return Interactions.from_arrays(*records, duplicates="error")


def movielens_records(name: str, *, checksum: str | None = None) -> Records:
    """The ratings of `movielens` one by one, in the order of the source's file, on which some protocols rely.

    Surprise's five folds of "100k", for instance, are five equal chunks of the order that
    ``numpy.random.RandomState(0).shuffle`` gives ``numpy.arange(100_000)``.
    """
    check.check_choice("name", name, tuple(_CHECKSUMS))
    path = _find(name, checksum)
    return _from_arrays(path, read_arrays(path)) if path.suffix == ".npz" else _from_zip(path)


def movielens_titles(name: str, *, checksum: str | None = None) -> dict[int, str]:
    """The title of every film of a MovieLens data set, by the source's item id.

    Only the archive has titles: an ``ml-NAME.zip`` in the folder LFM_NP_DATA, else the download. Parameters and errors
    are those of `movielens`.
    """
    check.check_choice("name", name, tuple(_CHECKSUMS))
    path = _find(name, checksum, suffixes=(".zip",))
    for member, delimiter in (("u.item", "|"), ("movies.dat", "::"), ("movies.csv", ",")):
        text = _text(path, member)
        if text is not None:
            return _titles(f"{member} in {path}", text, delimiter)
    raise ValueError(f"{path} has no titles: no u.item, movies.dat or movies.csv")


def movielens_split(name: str, split: str) -> Split:
    """A published split of a MovieLens data set.

    Parameters
    ----------
    name, split : str
        "100k" with "u1" … "u5" (five folds), "ua" or "ub" (ten ratings of each user held out), which the archive
        contains. "1m" with "ncf": leave-one-out with 99 drawn negatives for each user, by He et al. (2017), which only
        an ``ml-1m.npz`` with arrays ``ncf_split`` (0 or 2, 2 for test) and ``ncf_test_negatives`` contains. Ranking a
        test item among so few negatives is a protocol to compare with old papers, not one to choose a model by
        (Krichene and Rendle 2020).

    Returns
    -------
    Split
        ``train`` and ``test`` over the same users and items, and ``negatives``. A drawn negative that is the test item
        itself became -1.

    References
    ----------
    Xiangnan He et al.: Neural Collaborative Filtering. WWW 2017, section 4.1.
    W. Krichene, S. Rendle: On Sampled Metrics for Item Recommendation. KDD 2020.
    """
    check.check_choice("name", name, tuple(_SPLITS))
    check.check_choice("split", split, _SPLITS[name])
    path = _find(name, None)
    if path.suffix == ".npz":
        arrays = read_arrays(path)
        records = _from_arrays(path, arrays)
        key = "ncf_split" if split == "ncf" else f"{split}_test"
        held = check.check_column(f"{key} in {path}", _array(path, arrays, key), len(records.items)) != 0
        negatives = _array(path, arrays, "ncf_test_negatives") if split == "ncf" else None
        item = arrays["item"].astype(np.int64)
    elif split == "ncf":
        raise ValueError(
            f'the split "ncf" is not part of MovieLens; put an ml-1m.npz that has it into the folder ${FOLDER}'
        )
    else:
        records, held, negatives, item = _from_zip(path), _held_out(path, split), None, None
    data = Interactions.from_arrays(*records, duplicates="error")
    rows, columns = data.rows_of(records.users), data.columns_of(records.items)
    held = held[np.lexsort((columns, rows))]  # from the file's order to that of the cells
    test = data.select(held)
    if negatives is not None and item is not None:
        if np.any(np.diff(test.matrix.indptr) != 1):
            raise ValueError(f"ncf_split in {path} must hold out one rating of every user")
        column_of_item = np.full(item.max() + 2, -1, np.int64)  # the last one for -1
        column_of_item[item] = columns
        shape, name = (data.shape[0], len(column_of_item) - 1), f"ncf_test_negatives in {path}"
        negatives = column_of_item[check.check_negatives(negatives, shape, name)]
        negatives[negatives == test.matrix.indices[:, None]] = -1
    return Split(data.select(~held), test, negatives)


# ---- files ----------------------------------------------------------------------------------------------------------


def _find(name: str, checksum: str | None, suffixes: tuple[str, ...] = (".npz", ".zip")) -> Path:
    folder = os.environ.get(FOLDER)
    for suffix in suffixes:
        if folder and paths.is_file(path := Path(os.path.expanduser(folder)) / f"ml-{name}{suffix}"):
            return path
    return _download(name, checksum or _CHECKSUMS[name])


def _download(name: str, checksum: str) -> Path:
    try:
        import pooch
    except ImportError:
        raise missing_extra("pooch", "io") from None
    url = f"{_SERVER}/ml-{name}.zip"
    remedy = f"fetch {url} yourself and put it into the folder that the environment variable {FOLDER} names"
    try:
        return Path(pooch.retrieve(url, checksum, fname=f"ml-{name}.zip", path=pooch.os_cache("lfm_np")))
    except ValueError as error:
        pass_on(error)
        raise ValueError(
            f"{error} If GroupLens has a new edition, pass its checksum: movielens(…, checksum=…)."
        ) from None
    except OSError as error:  # what requests raises derives from it
        pass_on(error)
        raise OSError(f"cannot download {url} ({type(error).__name__}); {remedy}") from error


def _from_arrays(path: Path, arrays: dict[str, np.ndarray]) -> Records:
    """0-based ``user`` and ``item``, ``value`` and ``timestamp``, with ``known`` saying where the last two are.

    The source's item ids are ``movie_id`` (one a record); without it, ids count from 1 as MovieLens' do.
    """
    users, items, values, timestamps = (_array(path, arrays, key) for key in ("user", "item", "value", "timestamp"))
    records = _records(path, users, items, values, timestamps)
    users, items = records.users + 1, records.items + 1
    if "movie_id" in arrays:
        items = check.check_whole(f"movie_id in {path}", arrays["movie_id"], len(users))
    if "known" in arrays:
        unknown = ~check.check_mask(f"known in {path}", arrays["known"], len(users))
        records.values[unknown] = np.nan
        records.timestamps[unknown] = np.nan
    return records._replace(users=users, items=items)


def _array(path: Path, arrays: dict[str, np.ndarray], key: str) -> np.ndarray:
    if key not in arrays:
        raise ValueError(f"{path} has no array {key!r}")
    return arrays[key]


def _records(source: Any, users: Any, items: Any, values: Any, timestamps: Any) -> Records:
    """Columns of a file, checked and copied."""
    users = check.check_whole(f"user in {source}", users)
    items = check.check_whole(f"item in {source}", items, len(users))
    values = check.check_values(f"value in {source}", values, len(users), unknown=True)
    timestamps = check.check_values(f"timestamp in {source}", timestamps, len(users), unknown=True)
    return Records(users, items, values.astype(np.float32), timestamps.copy())


def _from_zip(path: Path) -> Records:
    """u.data, ratings.dat or ratings.csv, whichever the archive has."""
    for member, delimiter, header in (("u.data", "\t", 0), ("ratings.dat", "::", 0), ("ratings.csv", ",", 1)):
        table = _table(path, member, delimiter, header)
        if table is not None:
            return _records(f"{member} in {path}", *table.T)
    raise ValueError(f"{path} is not a MovieLens archive: it has no u.data, ratings.dat or ratings.csv")


def _table(path: Path, member: str, delimiter: str, header: int) -> Any:
    """The numbers of a text file in an archive, shape (N, 4), or None when it is not there."""
    text = _text(path, member)
    if text is None:
        return None
    if len(delimiter) > 1:
        text, delimiter = text.replace(delimiter.encode(), b","), ","
    try:
        table = np.loadtxt(io.BytesIO(text), np.float64, delimiter=delimiter, skiprows=header, ndmin=2)
    except ValueError as error:
        pass_on(error)
        raise ValueError(f"cannot read {member} in {path}: {error}") from None
    if table.shape[1] != 4:
        raise ValueError(f"cannot read {member} in {path}: it has {table.shape[1]} columns instead of 4")
    return table


def _text(path: Path, member: str) -> bytes | None:
    """A file in an archive, whatever its folder, or None when it is not there."""
    try:
        with open(path, "rb") as file:
            with signals_held():  # zipfile takes any OSError, also that of a handler, for a file that is no archive
                archive = zipfile.ZipFile(file)
            names = [name for name in archive.namelist() if name.rsplit("/", 1)[-1] == member]
            return archive.read(names[0]) if names else None
    except (zipfile.BadZipFile, zlib.error, EOFError, MemoryError, RuntimeError) as error:
        pass_on(error)
        raise ValueError(f"cannot read {member} in {path}: {error}") from None


def _titles(what: str, text: bytes, delimiter: str) -> dict[int, str]:
    """Title by id; a line is id, title and more. The old editions are Latin-1, the others UTF-8."""
    try:
        whole = text.decode()
    except UnicodeDecodeError:
        whole = text.decode("latin-1")
    file = io.StringIO(whole, newline="" if delimiter == "," else None)  # lines end at line ends only
    try:
        rows = list(csv.reader(file))[1:] if delimiter == "," else [line.rstrip("\n").split(delimiter) for line in file]
        return {int(row[0]): row[1] for row in rows if row}
    except (ValueError, IndexError, csv.Error) as error:
        pass_on(error)
        raise ValueError(f"cannot read {what}: {error}") from None


def _held_out(path: Path, split: str) -> np.ndarray:
    """Which records of u.data are in the split's test file."""
    records, table = _from_zip(path), _table(path, f"{split}.test", "\t", 0)
    if table is None:
        raise ValueError(f"{path} has no {split}.test")
    width = records.items.max() + 1
    return np.isin(
        records.users * width + records.items, table[:, 0].astype(np.int64) * width + table[:, 1].astype(np.int64)
    )
