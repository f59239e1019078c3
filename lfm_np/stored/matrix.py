"""StoredMatrix: a matrix on disk, in both orders, that `als` fits in a given amount of memory."""

from __future__ import annotations

import json
import math
import os
import tempfile
from pathlib import Path
from typing import Any, Unpack

import numpy as np

from lfm_np import paths
from lfm_np import validation as check
from lfm_np.atomic import appearing
from lfm_np.fingerprint import PIECE
from lfm_np.kernels.als_rows import aligned
from lfm_np.kernels.jit import Pool
from lfm_np.mapped_files import mapped
from lfm_np.memory import available_memory
from lfm_np.npy_files import allocate
from lfm_np.reading import Columns, load_arrow, plan_columns
from lfm_np.signals import pass_on
from lfm_np.stored.buckets import Budget, transpose
from lfm_np.stored.files import OFFSET, StoredCsr, Writer, file_of, mean_of
from lfm_np.stored.records import ids_digests, read_ids, write_records

_FORMAT, _VERSION = "lfm_np.stored_matrix", 2
_LEAST = 1 << 20
_ARROW = 32 << 20  # what pyarrow and malloc keep for themselves while records are read and sorted: measured
_LEAST_RECORDS = _ARROW + (2 << 20)

_ABSENT = (FileNotFoundError, NotADirectoryError, IsADirectoryError)  # what is no stored matrix


class StoredMatrix:
    """A sparse matrix in a folder, by rows and by columns, which `als` takes in place of one in memory.

    Parameters
    ----------
    folder : str or path
        What `from_matrix` or `from_parquet` made. All of it is read and checked once.
    memory : int, optional
        Bytes that a fit may take, with its factors; half of what is available by default.
    factors_in : str or path, optional
        A folder on whose disk the factor matrices are, mapped and without a name: they need no memory of their own
        then, and are gone with the result. A disk that is too full is an OSError before the first sweep. A child that
        a callback forks shares them, and is refused to go on with the fit. None keeps them in memory.

    Attributes
    ----------
    shape : (int, int)
    nnz : int
    dtype : numpy.dtype
    users, items : array or None
        The ids of rows and columns, where it was made from records.

    Raises
    ------
    ValueError
        The folder is no stored matrix, or anything in it was changed or damaged; the message names the file, or the
        rows, columns or ids that do not match their checksum.
    OSError
        A file cannot be opened or read, for want of descriptors, say.

    Notes
    -----
    `als` gives the same factors, bit for bit, as for the matrix in memory. docs/out_of_core.md has measurements.

    Examples
    --------
    >>> import lfm_np, os, tempfile
    >>> X = lfm_np.to_csr(lfm_np.datasets.make_interactions(300, 40, 4, random_state=0), shape=(300, 40))
    >>> with tempfile.TemporaryDirectory() as place:
    ...     stored = lfm_np.StoredMatrix.from_matrix(X, os.path.join(place, "matrix"))
    ...     factors = lfm_np.als(stored, factors=4, random_state=0)
    >>> bool((factors.item_factors == lfm_np.als(X, factors=4, random_state=0).item_factors).all())
    True
    """

    def __init__(self, folder: Any, *, memory: int | None = None, factors_in: Any = None) -> None:
        self.folder = Path(check.absolute(check.check_path("folder", folder)))
        self.memory = _check_memory(memory)
        self._factors_in = None if factors_in is None else check.absolute(check.check_path("factors_in", factors_in))
        if self._factors_in is not None and not paths.is_folder(self._factors_in):
            raise ValueError(f"factors_in must be a folder that exists, got {self._factors_in}")
        try:
            self._manifest = _read_manifest(self.folder)
            self.rows, self.columns = (order.noted() for order in _orders(self.folder, self._manifest))
            found = _examined(self.rows, self.columns) | {"ids": ids_digests(self.folder)}
        except (*_ABSENT, ValueError, KeyError, TypeError, RecursionError) as error:
            pass_on(error)
            raise ValueError(f"{self.folder} is not a whole and valid stored matrix: {error}") from None
        for part, value in found.items():
            if value != self._manifest.get(part):
                raise ValueError(
                    f"{self.folder} is not a whole and valid stored matrix: the checksum of {part} does not match; "
                    "it was changed or damaged after it was made"
                )

    @classmethod
    def from_matrix(
        cls,
        X: Any,
        folder: Any,
        *,
        zeros: str = "drop",
        dtype: Any = np.float32,
        memory: int | None = None,
        num_threads: int | None = None,
    ) -> StoredMatrix:
        """Store a matrix that is in memory, or mapped.

        Parameters
        ----------
        X : sparse matrix or array, or Interactions
            Duplicates are summed; with ``zeros="keep"`` they are refused.
        folder : str or path
            Must not exist. It appears, whole, when everything is on the disk; ``folder.partial`` is there before.
        zeros : {"drop", "keep"}
            A stored zero counts as absent, or is a value, as ``als(weighting="ratings")`` wants it.
        dtype : {float32, float64}
            Of the values, and of fits.
        memory : int, optional
            Bytes that sorting may take beside X, and what the result has.
        num_threads : int, optional
            None takes the cores this process may use. The files are the same for any number.
        """
        check.check_choice("zeros", zeros, ("drop", "keep"))
        dtype = check.check_dtype("dtype", dtype)
        twice = "sum" if zeros == "drop" else "refuse"
        csr = check.check_matrix("X", X, zeros=zeros, duplicates=twice, negative=True, dtype=dtype)

        def write(place: Path, scratch: Path, budget: Budget) -> tuple[int, int]:
            parts = {"indptr": (csr.indptr, np.int64), "indices": (csr.indices, np.int32), "data": (csr.data, dtype)}
            for name, (array, kind) in parts.items():
                with Writer(file_of(place, "rows", name), kind) as file:
                    for lo in range(0, len(array), PIECE):
                        file.append(array[lo : lo + PIECE])
            return csr.shape

        budget, threads = _check_memory(memory), check.check_num_threads(num_threads)
        return cls._made(write, folder, csr.dtype, Budget(budget, budget), threads, memory)

    @classmethod
    def from_parquet(
        cls,
        path: str | os.PathLike[str],
        folder: Any,
        *,
        zeros: str = "drop",
        memory: int | None = None,
        num_threads: int | None = None,
        **columns: Unpack[Columns],
    ) -> StoredMatrix:
        """Store the records of Parquet files, read once and in batches, as `Interactions.from_parquet` reads them.

        Parameters
        ----------
        path : str or path
            A file, a folder or a URL.
        folder, zeros, num_threads
            As in `from_matrix`.
        memory : int, optional
            Bytes that the build may take, and the result has; at least 34 MiB.
        **columns
            ``user``, ``item``, ``value``, ``duplicates`` (by default "sum"; "last" is the last in the order of the
            files) and ``nulls`` ("error" or "drop").

        Raises
        ------
        MemoryError
            The distinct ids, or the records of one user, do not fit; with what they need.

        Notes
        -----
        ``memory`` must hold 32 MiB for Arrow, and one after the other the distinct ids with their copies and the cells
        that are sorted, with 36 bytes a row and column. On the disk, for a while, 32 bytes a record.
        """
        check.check_names("from_parquet", columns, ("user", "item", "value", "duplicates", "nulls"))
        check.check_choice("zeros", zeros, ("drop", "keep"))
        check.check_choice("nulls", columns.get("nulls", "error"), ("error", "drop"))
        plan, threads = plan_columns("from_parquet", columns), check.check_num_threads(num_threads)
        load_arrow("pyarrow")

        def write(place: Path, scratch: Path, budget: Budget) -> tuple[int, int]:
            return write_records(path, plan, zeros, place, scratch, budget, threads)

        budget = _check_memory(memory, _LEAST_RECORDS)
        return cls._made(write, folder, np.dtype(np.float32), Budget(budget, budget - _ARROW), threads, memory)

    @classmethod
    def _made(
        cls, write: Any, folder: Any, dtype: np.dtype, budget: Budget, threads: int, given: int | None
    ) -> StoredMatrix:
        """``write(place, scratch, budget)`` the rows, and all the rest here; ``given``: the memory of the result."""
        folder = Path(check.absolute(check.check_path("folder", folder)))  # Arrow takes "day:1" for a URI
        # The real folder: tempfile makes "link/.." the folder that the link is in.
        with appearing(folder) as place, paths.temporary_folder(Path(paths.real(place))) as scratch:
            shape = write(place, scratch, budget)
            nnz = (file_of(place, "rows", "indices").stat().st_size - OFFSET) // 4
            manifest = {"format": _FORMAT, "version": _VERSION, "shape": shape, "nnz": nnz, "dtype": dtype.name}
            rows, columns = _orders(place, manifest)
            transpose(rows, place, scratch, budget.sorting(shape), threads)
            manifest |= _examined(rows, columns) | {"ids": ids_digests(place)}
            _write_text(place / "manifest.json", json.dumps(manifest, indent=1))
        return cls(folder, memory=given)

    def __repr__(self) -> str:
        (m, n), where = self.shape, str(self.folder)
        return f"StoredMatrix({m} × {n}, {self.nnz} cells, {self.dtype}, {where!r})"

    @property
    def shape(self) -> tuple[int, int]:
        m, n = self._manifest["shape"]
        return m, n

    @property
    def nnz(self) -> int:
        return self._manifest["nnz"]

    @property
    def dtype(self) -> np.dtype:
        return self.rows.data.dtype

    @property
    def users(self) -> np.ndarray | None:
        return read_ids(self.folder, "users", self._manifest["ids"])

    @property
    def items(self) -> np.ndarray | None:
        return read_ids(self.folder, "items", self._manifest["ids"])

    @property
    def fingerprint(self) -> str:
        """That of the same matrix in memory: a checkpoint serves both."""
        return self._manifest["rows"]["sha256"]

    @property
    def lowest(self) -> float:
        return self._manifest["rows"]["lowest"]

    @property
    def highest(self) -> float:
        return self._manifest["rows"]["highest"]

    @property
    def mean(self) -> float:
        return mean_of(self._manifest["rows"]["sum"], self.nnz)

    def checked(self, name: str, negative: bool, zeros: bool, dtype: np.dtype) -> StoredMatrix:
        """Itself, if its values are allowed."""
        if dtype != self.dtype:
            raise ValueError(f"dtype must be {self.dtype}, that of the stored matrix {name}, got {dtype}")
        if self.lowest < 0 and not negative:
            raise ValueError(f'{name} has a negative value, {self.lowest:g}; only weighting="ratings" takes such')
        if self._manifest["rows"]["zeros"] and not zeros:
            raise ValueError(f'{name} was stored with zeros="keep" and has zeros; store it with zeros="drop"')
        return self

    def factor_matrix(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """An uninitialised array for factors, mapped if so asked."""
        if self._factors_in is None or 0 in shape:
            return aligned(shape, dtype)
        with tempfile.TemporaryFile(dir=self._factors_in) as file:
            allocate(file, math.prod(shape) * np.dtype(dtype).itemsize, self._factors_in)
            return mapped(file, shape, dtype, writeable=True)

    @property
    def maps_factors(self) -> bool:
        return self._factors_in is not None


def _check_memory(memory: int | None, least: int = _LEAST) -> int:
    if memory is None:
        have = available_memory()
        return max(least, (4 << 30 if have is None else have) // 2)
    return check.check_int("memory", memory, least)


def _orders(folder: Path, manifest: dict[str, Any]) -> tuple[StoredCsr, StoredCsr]:
    if absent := {"shape", "nnz", "dtype"}.difference(manifest):
        raise ValueError(f"manifest.json has no {', '.join(sorted(absent))}")
    m, n = (check.check_int("shape in manifest.json", size, 0) for size in manifest["shape"])
    nnz = check.check_int("nnz in manifest.json", manifest["nnz"], 0)
    dtype = check.check_dtype("dtype in manifest.json", manifest["dtype"])
    return StoredCsr.at(folder, "rows", (m, n), nnz, dtype), StoredCsr.at(folder, "columns", (n, m), nnz, dtype)


def _examined(rows: StoredCsr, columns: StoredCsr) -> dict[str, dict[str, Any]]:
    with Pool(2) as pool:
        found = pool.begin(columns.examine)
        return {"rows": rows.examine(), "columns": found()}


def _write_text(path: Path, text: str) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / "manifest.json"
    if not paths.is_file(path):
        raise ValueError("it has no manifest.json")
    try:
        manifest = check.check_dict("manifest.json", json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, RecursionError) as error:
        pass_on(error)
        raise ValueError(f"manifest.json is no JSON: {error}") from None
    asked = {"format": _FORMAT, "version": _VERSION}
    for name, value in asked.items():
        if (manifest or {}).get(name) != value:
            raise ValueError(f"the {name} in its manifest.json is not {value!r}")
    return manifest
