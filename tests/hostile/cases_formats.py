"""Matrices of other formats whose arrays were changed after they were made, and ids that NumPy would make equal."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import numpy as np
import scipy.sparse as sp

import lfm_np
from lfm_np import Interactions
from lfm_np.validation import check_matrix

from . import matrices
from .case import Case, Holds, raises
from .matrices import changed, plain

BAD = (TypeError, ValueError)
INVALID = raises(ValueError, "X", "valid sparse")
EQUAL = Holds(lambda r, X: bool((r != plain()).nnz == 0))


class Subclass(np.ndarray):
    """An array of another class."""


def _with(X: Any, **parts: Any) -> Any:
    for name, part in parts.items():
        setattr(X, name, part)
    return X


def _falling(X: Any) -> Any:
    """An indptr that leads far away and comes back, over no cells."""
    rows = len(X.indptr)
    falling = np.concatenate([[0, 10**8], np.zeros(rows - 2)]).astype(np.int32)
    return _with(X, indptr=falling, indices=np.empty(0, np.int32), data=X.data[:0])


def _coo(change: Callable[[np.ndarray], Any]) -> sp.coo_array:
    X = plain().tocoo()
    return _with(X, coords=(change(X.coords[0]), X.coords[1]))


def _lil(row: list[Any] | None = None, values: list[Any] | None = None) -> sp.lil_array:
    X = plain().tolil()
    if row is not None:
        X.rows[0] = row
    if values is not None:
        X.data[0] = values
    return X


def _masked(part: str) -> sp.csr_array:
    return changed(part, lambda a: np.ma.masked_array(a, np.arange(len(a)) == 3))


def _wrapping() -> sp.coo_array:
    """Cells twice, 200 + 200 in eight bits, in the format whose conversion adds up."""
    X = plain().tocoo()
    return sp.coo_array((np.full(2 * X.nnz, 200, np.uint8), [np.tile(c, 2) for c in X.coords]), shape=X.shape)


DIA = plain().todia
MATRICES: dict[str, tuple[Callable[[], Any], Any]] = {
    "csc, indptr falls": (lambda: _falling(sp.csc_array((3, 3))), INVALID),
    "csr, indptr falls": (lambda: _falling(sp.csr_array((3, 3))), INVALID),
    "bsr, indptr falls": (lambda: _falling(sp.bsr_array(np.ones((4, 4)), blocksize=(2, 2))), INVALID),
    "bsr, too few blocks": (lambda: (lambda X: _with(X, data=X.data[:2]))(plain().tobsr((2, 3))), INVALID),
    "bsr, blocks of another size": (lambda: (lambda X: _with(X, data=X.data[:, :1]))(plain().tobsr((2, 3))), INVALID),
    "bsr, data of two dimensions": (lambda: (lambda X: _with(X, data=X.data[0]))(plain().tobsr((2, 3))), INVALID),
    "coo, row 2^40": (lambda: _coo(lambda rows: rows.astype(np.int64) + 2**40), INVALID),
    "coo, row that wraps to right": (lambda: _coo(lambda rows: rows.astype(np.int64) + 2**32), INVALID),
    "coo, fractions": (lambda: _coo(lambda rows: rows + 0.5), INVALID),
    "coo, too few rows": (lambda: _coo(lambda rows: rows[:-1]), INVALID),
    "coo, too few values": (lambda: (lambda X: _with(X, data=X.data[:-1]))(plain().tocoo()), INVALID),
    "coo, masked": (lambda: (lambda X: _with(X, data=np.ma.masked_less(X.data, 2)))(plain().tocoo()), INVALID),
    "coo, three coordinates": (lambda: (lambda X: _with(X, coords=X.coords * 2))(plain().tocoo()), INVALID),
    "dia, too few offsets": (lambda: _with(DIA(), offsets=DIA().offsets[:2]), INVALID),
    "dia, equal offsets": (lambda: _with(DIA(), offsets=DIA().offsets * 0), INVALID),
    "dia, offsets of fractions": (lambda: _with(DIA(), offsets=DIA().offsets + 0.5), INVALID),
    "dia, data of one dimension": (lambda: _with(DIA(), data=np.ones(3)), INVALID),
    "lil, too few values": (lambda: _lil(values=[1.0]), INVALID),
    "lil, too few columns": (lambda: _lil(row=[1]), INVALID),
    "lil, fractions": (lambda: _lil(row=[1.5], values=[1.0]), INVALID),
    "lil, negative": (lambda: _lil(row=[-1], values=[1.0]), INVALID),
    "lil, text": (lambda: _lil(row=[1], values=["a"]), INVALID),
    "lil, no list": (lambda: _with(plain().tolil(), rows=np.full(40, None)), INVALID),
    "lil, too few rows": (lambda: (lambda X: _with(X, rows=X.rows[:5]))(plain().tolil()), INVALID),
    "lil, unsorted": (lambda: (lambda X: _lil(X.rows[0][::-1], X.data[0][::-1]))(plain().tolil()), EQUAL),
    "data masked": (lambda: _masked("data"), INVALID),
    "indices masked": (lambda: _masked("indices"), INVALID),
    "indptr masked": (lambda: _masked("indptr"), INVALID),
    "data None": (lambda: changed("data", lambda a: None), INVALID),
    "data a list": (lambda: changed("data", lambda a: a.tolist()), INVALID),
    "data dates": (lambda: changed("data", lambda a: a.astype("M8[s]")), raises(TypeError, "X", "real")),
    "indptr None": (lambda: changed("indptr", lambda a: None), INVALID),
    "indices of 64 bits, unsigned": (lambda: changed("indices", lambda a: a.astype(np.uint64) + 2**63), INVALID),
    "data of a subclass": (lambda: changed("data", lambda a: a.view(Subclass)), EQUAL),
    "indices of a subclass": (lambda: changed("indices", lambda a: a.view(Subclass)), EQUAL),
    "huge, without cells": (lambda: sp.coo_array((2**31 - 2, 3)), raises(MemoryError, "X", "2147483646")),
    "too many rows": (lambda: sp.coo_array((2**31 - 1, 3)), raises(ValueError, "X", "at most")),
    "largest uint64": (lambda: changed("data", lambda a: np.full(len(a), 2**64 - 1, np.uint64)), Holds(
        lambda r, X: bool((r.data == np.float32(2.0**64)).all())
    )),
    "least int64": (lambda: changed("data", lambda a: np.full(len(a), -(2**63))), raises(ValueError, "X", "negative")),
    "negative zero": (lambda: changed("data", matrices.at(0, -0.0)), Holds(lambda r, X: r.nnz == X.nnz - 1)),
    "coo, sums beyond eight bits": (_wrapping, Holds(lambda r, X: bool((r.data == 400).all()))),
}  # fmt: skip
OBJECTS: Callable[..., np.ndarray] = lambda *values: np.array([*values, None], object)[:-1]  # noqa: E731
KIND = raises(TypeError, "users", "sortable kind")
MISSING = raises(ValueError, "users", "missing")
IDS: dict[str, tuple[Callable[[], Any], Any]] = {  # users of three records -> the rows that they become, or an error
    "1 and '1'": (lambda: [1, "1", 2], KIND),
    "text and bytes": (lambda: ["a", b"a", "b"], KIND),
    "text and nan": (lambda: ["a", float("nan"), "nan"], KIND),
    "integer and fraction beyond 2^53": (lambda: [2**53, 2**53 + 1, 0.5], KIND),
    "integers and fractions": (lambda: [1, 2.5, 1], [0, 1, 0]),
    "NUL at the end": (lambda: ["a\0", "a", "a\0"], [1, 0, 1]),
    "beyond int64": (lambda: [2**63, 2**63 + 1, -1], [1, 2, 0]),
    "beyond uint64": (lambda: [2**64, 2**64 + 1, 5], [1, 2, 0]),
    "half a surrogate pair": (lambda: ["\ud800", "a", "\ud801"], [1, 0, 2]),
    "empty text": (lambda: ["", "a", ""], [0, 1, 0]),
    "one text of ten million": (lambda: ["x" * 10**7, *["y"] * 300], [0, *[1] * 300]),
    "negative zero": (lambda: [0.0, -0.0, 1.0], [0, 0, 1]),
    "denormal numbers": (lambda: [5e-324, 0.0, 1e-323], [1, 0, 2]),
    "unknown duration": (lambda: np.array(["NaT", 1, "NaT"], "m8[s]"), MISSING),
    "signalling nan": (lambda: OBJECTS(Decimal("sNaN"), Decimal(1), Decimal(2)), MISSING),
    "sets": (lambda: [frozenset([1]), frozenset([2]), frozenset([1])], KIND),
    "arrays": (lambda: OBJECTS(np.arange(2), np.arange(3), np.arange(4)), KIND),
    "times with and without a zone": (
        lambda: [datetime.datetime(2020, 1, d, tzinfo=z) for d, z in ((1, None), (2, datetime.UTC), (3, None))],
        KIND,
    ),
    "tuples": (lambda: OBJECTS((1, 2), (0,), (1, 2)), [1, 0, 1]),
}  # fmt: skip
if np.lib.NumpyVersion(np.__version__) >= "2.0.0":
    IDS["StringDType"] = (lambda: np.array(["b", "a\0", "a"], np.dtypes.StringDType()), [2, 1, 0])
    IDS["StringDType, unknown"] = (lambda: np.array(["b", None, "a"], np.dtypes.StringDType(na_object=None)), KIND)
LARGE = np.array([2**53, 2**53 + 1])
FIND: dict[str, tuple[Any, Any, Any]] = {  # ids, those to find, rows or an error
    "NUL at the end": (["a", "b"], ["a\0"], raises(ValueError, "users", "unknown")),
    "1 and '1'": (["1", "b"], [1, "1"], raises(TypeError, "users")),
    "unsigned in signed": (LARGE, LARGE[1:].astype(np.uint64), [1]),
    "signed in unsigned": (np.append(LARGE, 7).astype(np.uint64), LARGE[1:], [2]),
    "beyond the signed": (LARGE, np.array([2**64 - 1], np.uint64), raises(ValueError, "users", "unknown")),
    "negative in unsigned": (LARGE.astype(np.uint64), [-1], raises(ValueError, "users", "unknown")),
    "unknown date": (
        np.array(["2020", "2021"], "M8[D]"),
        np.array(["NaT"], "M8[D]"),
        raises(ValueError, "users", "unknown"),
    ),
    "dates of another unit": (np.array(["2020", "2021"], "M8[D]"), np.array(["2021"], "M8[s]"), [1]),
}


def cases() -> list[Case]:
    found = [
        Case(f"formats: {name}", lambda X: check_matrix("X", X), expect, lambda make=make: {"X": make()})
        for name, (make, expect) in MATRICES.items()
    ]
    for name, fit in (
        ("als", lambda X: lfm_np.als(X, weighting="ratings", factors=2)),
        ("sgd", lambda X: lfm_np.sgd(X, lfm_np.losses.Squared(), sampler=None, factors=2)),
    ):
        twice = raises(ValueError, "X", "more than once")
        found.append(Case(f"formats: {name}, ratings twice in coo", fit, twice, lambda: {"X": matrices.coo_repeated()}))
    for name, (make, wanted) in IDS.items():
        found.append(Case(f"ids: {name}", _numbers, _rows(wanted), lambda make=make: {"users": make()}))
    for name, (ids, wanted, rows) in FIND.items():
        data = lambda ids=ids, wanted=wanted: {"ids": ids, "wanted": wanted}  # noqa: E731
        found.append(Case(f"rows_of: {name}", _find, _rows(rows), data))
    return found


def _rows(wanted: Any) -> Any:
    return Holds(lambda r, **_: r.tolist() == wanted) if isinstance(wanted, list) else wanted


def _numbers(users: Any) -> np.ndarray:
    """The row of every record."""
    return Interactions.from_arrays(users, np.arange(len(users))).matrix.tocsc().indices


def _find(ids: Any, wanted: Any) -> np.ndarray:
    return Interactions.from_arrays(ids, np.arange(len(ids))).rows_of(wanted)
