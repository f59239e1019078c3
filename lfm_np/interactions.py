"""Interactions: a matrix that remembers whose rows and columns these are, and when its cells happened."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp

from lfm_np import reading, splits
from lfm_np import validation as check
from lfm_np.cells import cells_of, encode, ids_in, matrix_of
from lfm_np.ids import IdIndex, same_ids, with_missing
from lfm_np.kept import kept
from lfm_np.owned import lock, owned
from lfm_np.quiet import quietly


@dataclass(frozen=True, eq=False, repr=False)
class Interactions:
    """An interaction matrix that knows whose rows and columns these are, and when its cells happened.

    Anything that takes a matrix takes an ``Interactions`` too.

    Parameters
    ----------
    matrix : scipy.sparse matrix or array, shape (m, n)
        Becomes a canonical float32 ``csr_array``; a cell that is stored twice is refused (`to_csr` combines them). A
        value may be NaN: it happened, but its value is unknown. Its arrays are copied, unless nobody can write to them
        (as to those of a file mapped for reading). The object's own cannot be written; ``data.matrix.copy()`` can. Nor
        must it be given other arrays, which Python cannot forbid: by SciPy's ``resize`` or ``setdiag``, say, or
        ``data.matrix.data = …``.
    users, items : array, shape (m,) and (n,)
        The id of every row and of every column, all distinct. They are copied.
    timestamps : array, shape (nnz,), optional
        The time of every cell, in the order of ``matrix.data``, which must be that of canonical CSR: integers, floats
        (NaN: unknown) or datetime64 (NaT: unknown). Copied, unless nobody can write to it.
    frame_backend : str, optional
        The library of the data frame that this came from, as narwhals names it: "pandas", "polars", "pyarrow" …
        `recommend_frame` answers with a frame of that library.

    See Also
    --------
    Interactions.from_arrays : from one array of users and one of items, with ids of any kind.
    Interactions.from_frame, Interactions.from_parquet, Interactions.from_csv : from tables.

    Examples
    --------
    >>> data = Interactions.from_arrays(["ann", "bob", "ann"], [30, 10, 10], timestamps=[1, 2, 3])
    >>> data
    Interactions(2 users × 2 items, 3 cells, with timestamps)
    >>> data.rows_of(["bob"]), data.item_ids([1, 0])
    (array([1]), array([30, 10]))
    >>> train, test = data.split("last")
    >>> test.matrix.toarray()
    array([[1., 0.],
           [0., 0.]], dtype=float32)
    """

    matrix: sp.csr_array
    users: np.ndarray
    items: np.ndarray
    timestamps: np.ndarray | None = None
    frame_backend: str | None = None

    def __post_init__(self) -> None:
        given = getattr(self.matrix, "matrix", self.matrix)
        matrix = check.check_matrix(
            "matrix", self.matrix, zeros="keep", duplicates="refuse", negative=True, unknown=True
        )
        for name, size in zip(("users", "items"), matrix.shape):
            ids = check.check_record_ids(name, getattr(self, name))
            if len(ids) != size:
                raise ValueError(f"{name} must have one id for each of the {size} rows or columns, got {len(ids)}")
            object.__setattr__(self, name, owned(ids))
        if self.timestamps is not None:
            timestamps = check.check_timestamps(self.timestamps, matrix.nnz)
            if not _same_order(matrix, given) and matrix.nnz:
                raise ValueError(
                    "with timestamps, matrix must be canonical CSR already, else its cells would change places"
                )
            object.__setattr__(self, "timestamps", owned(timestamps))
        names = "data", "indices", "indptr"
        data, indices, indptr = (owned(getattr(matrix, name), getattr(given, name, None)) for name in names)
        object.__setattr__(self, "matrix", check.share_csr(data, indices, indptr, matrix.shape))
        self._user_index, self._item_index  # noqa: B018  (refuses repeated ids)

    @classmethod
    def from_arrays(
        cls, users: Any, items: Any, values: Any = None, timestamps: Any = None, *, duplicates: str = "sum"
    ) -> Interactions:
        """Interactions of one record for each entry of the arrays; rows and columns in ascending order of the ids.

        Parameters
        ----------
        users, items : array, shape (N,)
            Ids of any one sortable kind each: integers of any size, floats, strings, bytes, booleans, dates, UUIDs …
        values : array, shape (N,), optional
            Numbers; NaN where unknown. 1 by default.
        timestamps : array, shape (N,), optional
            Integers of up to 64 bits, which stay exact, floats (NaN: unknown) or datetime64 (NaT: unknown).
        duplicates : {"sum", "last", "mean", "max", "count", "error"}
            What becomes of several records of one pair, as in `to_csr`. With timestamps "last" means the latest (an
            unknown time counts as earliest, and equal times count in the order given), and the cell gets the latest
            time whatever becomes of the values. A NaN makes the sum, mean or maximum NaN.

        Raises
        ------
        TypeError, ValueError
            Arrays of different lengths or the wrong kind, missing ids, infinite values, repeated pairs with "error".

        Notes
        -----
        O(N log N) time, O(N) memory.
        """
        user_ids, rows = encode("users", users)
        item_ids, columns = encode("items", items, len(rows))
        if values is not None:
            values = check.check_values("values", values, len(rows), unknown=True)
        if timestamps is not None:
            timestamps = check.check_timestamps(timestamps, len(rows))
        cells = cells_of(rows, columns, values, timestamps, duplicates, ids_in(user_ids, item_ids))
        return cls._own(matrix_of(cells, (len(user_ids), len(item_ids))), user_ids, item_ids, cells.timestamps)

    @classmethod
    def _own(
        cls, matrix: sp.csr_array, users: Any, items: Any, timestamps: Any = None, frame_backend: str | None = None
    ) -> Interactions:
        """Of a matrix and times that nobody else has: without a copy."""
        lock(matrix.data, matrix.indices, matrix.indptr, timestamps)
        return cls(matrix, users, items, timestamps, frame_backend)

    def __reduce__(self) -> tuple[Any, ...]:
        # Through the constructor: NumPy's own pickle would give writable arrays back.
        return _rebuild, (type(self), self.matrix, self.users, self.items, self.timestamps, self.frame_backend)

    from_frame = classmethod(reading.from_frame)
    from_parquet = classmethod(reading.from_parquet)
    from_csv = classmethod(reading.from_csv)

    def __repr__(self) -> str:
        times = "" if self.timestamps is None else ", with timestamps"
        return f"Interactions({len(self.users)} users × {len(self.items)} items, {self.matrix.nnz} cells{times})"

    @property
    def shape(self) -> tuple[int, int]:
        """Number of users and of items."""
        return self.matrix.shape

    # ---- ids ↔ rows -------------------------------------------------------------------------------------------------

    @kept
    def _user_index(self) -> IdIndex:
        return IdIndex.of("users", self.users)

    @kept
    def _item_index(self) -> IdIndex:
        return IdIndex.of("items", self.items)

    @kept
    def _item_column(self) -> Any:
        """The item ids as Arrow has them, for tables of recommendations."""
        from lfm_np.id_columns import to_arrow

        return to_arrow(self.items)

    def rows_of(self, users: Any, missing: int | None = None) -> np.ndarray:
        """The row (int64) of every given user id.

        Parameters
        ----------
        users : array of ids
        missing : int, optional
            The row for an id that is not there, at least −1; refused when not given.
        """
        return self._user_index.find(users, missing)

    def columns_of(self, items: Any, missing: int | None = None) -> np.ndarray:
        """The column (int64) of every given item id, as in `rows_of`."""
        return self._item_index.find(items, missing)

    def user_ids(self, rows: Any) -> np.ndarray:
        """The user id of every given row, in an array of any shape."""
        return self.users[check.check_positions("rows", rows, len(self.users))]

    def item_ids(self, columns: Any, missing: Any = None) -> np.ndarray:
        """The item id of every given column, in an array of any shape.

        Parameters
        ----------
        columns : integer array
        missing : optional
            The id for column -1, with which `Factors.recommend` pads a short list; refused when not given. One that
            is of another kind than the ids makes an array of objects.
        """
        columns = check.as_array("columns", columns)
        padded = columns == -1
        if missing is None or not padded.any():
            return self.items[check.check_positions("columns", columns, len(self.items))]
        ids = self.items[check.check_positions("columns", np.where(padded, 0, columns), len(self.items))]
        return with_missing(ids, padded, missing)

    # ---- parts ------------------------------------------------------------------------------------------------------

    def select(self, cells: Any) -> Interactions:
        """The interactions of the chosen cells, with the same rows and columns.

        Parameters
        ----------
        cells : bool array, shape (nnz,)
            In the order of ``matrix.data``. For example ``data.select(~numpy.isnan(data.matrix.data))`` keeps what has
            a known value.
        """
        cells = check.check_mask("cells", cells, self.matrix.nnz)
        times = None if self.timestamps is None else self.timestamps[cells]
        return self._own(splits.part_of(self.matrix, cells), self.users, self.items, times, self.frame_backend)

    def core(self, min_user_interactions: int = 1, min_item_interactions: int = 1) -> Interactions:
        """The largest part in which every user and every item has so many cells: the k-core.

        Users with fewer cells are left out, then items with fewer of the cells that remain, and again, until nothing
        changes. Only their rows and columns remain; with 1 and 1, those that have a cell at all.

        Examples
        --------
        >>> data = Interactions.from_arrays(["ann", "ann", "bob", "bob", "eve"], [1, 2, 1, 2, 3])
        >>> data.core(min_user_interactions=2).users
        array(['ann', 'bob'], dtype='<U3')
        """
        least = [
            check.check_int(name, value, 1)
            for name, value in (
                ("min_user_interactions", min_user_interactions),
                ("min_item_interactions", min_item_interactions),
            )
        ]
        cells, users, items = splits.core_cells(self.matrix, *least)
        if users.all() and items.all():
            return self
        part = self.select(cells)
        place = (np.cumsum(items) - 1).astype(part.matrix.indices.dtype)
        parts = part.matrix.data, place[part.matrix.indices], part.matrix.indptr[np.append(True, users)]
        matrix = sp.csr_array(parts, shape=(users.sum(), items.sum()))
        return self._own(matrix, self.users[users], self.items[items], part.timestamps, self.frame_backend)

    def binarize(self, threshold: float | None = None) -> Interactions:
        """Interactions of value 1: of every cell, or of those whose value is known and at least ``threshold``.

        The threshold is rounded to float32 as the values were: a value given as 0.7 reaches a threshold of 0.7.
        """
        chosen = self
        if threshold is not None:
            chosen = self._at_least(threshold)
        matrix = sp.csr_array(
            (np.ones(chosen.matrix.nnz, np.float32), chosen.matrix.indices, chosen.matrix.indptr), shape=self.shape
        )
        return self._own(matrix, self.users, self.items, chosen.timestamps, self.frame_backend)

    def _at_least(self, threshold: float) -> Interactions:
        """The cells whose value is known and at least ``threshold``, which may be beyond float32."""
        least = quietly(np.float32, check.check_float("threshold", threshold))
        if least == 0 < threshold:
            least = np.finfo(np.float32).smallest_subnormal
        return self.select(self.matrix.data >= least)

    def split(
        self,
        by: str = "random",
        *,
        test_fraction: float = 0.2,
        n: int = 1,
        at: Any = None,
        random_state: Any = None,
    ) -> tuple[Interactions, Interactions]:
        """Training and test interactions over the same rows and columns; every cell is in exactly one of them.

        Parameters
        ----------
        by : {"random", "last", "time"}
            "random": of each user's d cells, ``test_fraction * d`` at random, rounded down or up at random so that the
            mean is exact; but at least one stays in training, so that a user with one cell is never in the test.
            "last": the ``n`` latest cells of each user (leave-last-out); at least one stays in training. Of cells with
            equal times the one in the higher column counts as later.
            "time": everything later than one moment, the same for all users, so that no training cell comes after a
            test cell. Some users may have no training cell: that is what the future looks like.
        test_fraction : float in (0, 1)
            For "random", and for "time" without ``at``: the test set is the largest set of latest cells that does not
            exceed this share (cells with equal times stay together), which may be none.
        n : int
            For "last".
        at : time, optional
            For "time": the first moment of the test set; a number, or where timestamps are dates a text such as
            "2024-05-03", a datetime or a datetime64, in UTC (a datetime with a time zone is converted).
        random_state : None, int, SeedSequence, Generator or RandomState
            For "random". An integer gives the same split every time. Split a part again by another one, or both times
            by one Generator: the same integer draws for each user what it drew before. The other two splits involve no
            chance.

        Returns
        -------
        train, test : Interactions

        Raises
        ------
        ValueError
            Timestamps missing or unknown where the split goes by time.

        Examples
        --------
        >>> data = Interactions.from_arrays([1, 1, 2, 2], [1, 2, 1, 2], timestamps=[10, 20, 30, 40])
        >>> data.split("time", at=30)[1]
        Interactions(2 users × 2 items, 2 cells, with timestamps)
        """
        check.check_choice("by", by, ("random", "last", "time"))
        fraction = check.check_float("test_fraction", test_fraction, 0, 1, open_low=True, open_high=True)
        if by == "random":
            test = splits.random_cells(self.matrix.indptr, fraction, check.check_random_state(random_state))
        elif by == "last":
            times = splits.known_times(self.timestamps)
            n = min(check.check_int("n", n, 1), max(self.matrix.nnz, 1))
            test = splits.last_cells(self.matrix.indptr, times, n)
        else:
            test = splits.late_cells(splits.known_times(self.timestamps), fraction, at)
        return self.select(~test), self.select(test)


def check_same_ids(name: str, X: Any, other: str, Y: Any) -> None:
    """ValueError if both are Interactions and not of the same users and items in the same order."""
    if not (isinstance(X, Interactions) and isinstance(Y, Interactions)):
        return
    for side, a, b in (("users", X.users, Y.users), ("items", X.items, Y.items)):
        if not same_ids(a, b):
            raise ValueError(
                f"{name} has other {side} than {other}, or in another order; rows and columns are matched by number, "
                "so bring both to the same ids first"
            )


def _same_order(csr: sp.csr_array, given: Any) -> bool:
    """Whether the cells of ``given`` have the places that they have in the canonical ``csr`` made of it."""
    if given.format != "csr":
        return False
    return np.shares_memory(csr.indices, given.indices) or np.array_equal(csr.indices, given.indices[: csr.nnz])


def _rebuild(cls: type[Interactions], *parts: Any) -> Interactions:
    return cls._own(*parts)
