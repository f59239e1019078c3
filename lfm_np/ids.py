"""Ids of users and items: whether they are the same, where each is, and one that stands for none."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from lfm_np import validation as check
from lfm_np.quiet import quietly


def same_ids(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether these are the same ids in the same order, of whatever dtype."""
    if a is b:
        return True
    kinds = {"f" if ids.dtype.kind in "biu" else ids.dtype.kind for ids in (a, b)}
    if len(kinds) == 2 and "O" not in kinds:
        return False
    if {a.dtype.kind, b.dtype.kind} in ({"f", "i"}, {"f", "u"}):  # NumPy rounds large integers to floats
        return a.tolist() == b.tolist()
    exact, fits = in_type(a, b.dtype)
    return bool(fits.all()) and np.array_equal(exact, b)


def plain(id: Any) -> Any:
    """An id as Python has it; a time, which may be finer than Python's, as text."""
    if isinstance(id, (np.datetime64, np.timedelta64)):
        return str(id)
    return id.item() if isinstance(id, np.generic) else id


class IdIndex(NamedTuple):
    """Where every id is."""

    name: str
    ids: np.ndarray  # ascending
    positions: np.ndarray

    @classmethod
    def of(cls, name: str, ids: np.ndarray) -> IdIndex:
        with check.sorting(name):
            if np.all(ids[1:] > ids[:-1]):  # as from records; a sort of strings takes long
                return cls(name, ids, np.arange(len(ids)))
            order = np.argsort(ids, kind="stable")
        ids = ids[order]
        same = ids[1:] == ids[:-1]
        if same.any():
            raise ValueError(f"{name} must be distinct ids, got {plain(ids[1:][same][0])!r} more than once")
        return cls(name, ids, order)

    def find(self, wanted: Any, missing: int | None) -> np.ndarray:
        wanted = np.atleast_1d(check.as_ids(self.name, wanted))
        if wanted.size == 0:
            return np.zeros(wanted.shape, np.int64)
        kinds = {"u": "i", "b": "?"}
        have, want = (kinds.get(kind, kind) for kind in (self.ids.dtype.kind, wanted.dtype.kind))
        if have != want and "O" not in (have, want):
            raise TypeError(f"{self.name} have ids of dtype {self.ids.dtype}, got dtype {wanted.dtype}")
        exact, fits = in_type(wanted, self.ids.dtype)
        try:
            place = np.searchsorted(self.ids, exact)
        except TypeError:
            raise TypeError(
                f"{self.name} have ids of dtype {self.ids.dtype}, got {check.shown(wanted.tolist())}"
            ) from None
        found = fits & (place < len(self.ids))
        found[found] = self.ids[place[found]] == exact[found]
        if found.all():
            return self.positions[place]
        if missing is None:
            raise ValueError(
                f"{self.name} has no id {plain(wanted[~found][0])!r} ({np.sum(~found)} of {wanted.size} unknown)"
            )
        rows = np.full(wanted.shape, check.check_int("missing", missing, -1), np.int64)
        rows[found] = self.positions[place[found]]
        return rows


def in_type(wanted: np.ndarray, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    """Ids as ``dtype``, and which of them fit.

    NumPy's common type of integers or times would round them or wrap around, and to bring all ids of an index to it
    takes as long as thousands of searches.
    """
    kinds = {wanted.dtype.kind, dtype.kind}
    if wanted.dtype == dtype or (len(kinds) == 2 and kinds != {"i", "u"}) or "O" in kinds:
        return wanted, np.ones(wanted.shape, np.bool_)
    if dtype.kind in "mM":
        return in_unit(wanted, dtype)
    found = quietly(wanted.astype, dtype)  # floats may be beyond it
    fits = found.astype(wanted.dtype) == wanted
    return found, fits & ((found < 0) == (wanted < 0)) if len(kinds) == 2 else fits


def in_unit(times: np.ndarray, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    """Times as ``dtype``, and which of them fit: NumPy makes others of those too far, or from 2.5 on raises."""
    try:
        found = times.astype(dtype)
        return found, np.isnat(times) | (found.astype(times.dtype) == times)
    except OverflowError:
        (most,) = np.array([2**63 - 1]).astype(dtype).astype(times.dtype).astype(np.int64)
        counts = times.astype(np.int64)
        fits = np.isnat(times) | ((counts > -most) & (counts <= most))  # NumPy itself brings -most back as another
        found = np.full(times.shape, "NaT", dtype)
        found[fits] = times[fits].astype(dtype)
        return found, fits


def with_missing(ids: np.ndarray, where: np.ndarray, missing: Any) -> np.ndarray:
    """``ids`` with ``missing`` in some places: in their dtype or a longer one, else as objects, so that both stay."""
    filler = check.as_ids("missing", [missing])
    if filler.shape != (1,):
        raise TypeError(f"missing must be one id, got {check.shown(missing)}")
    kinds = filler.dtype.kind + ids.dtype.kind
    same = kinds[0] == kinds[1]
    if (same or kinds in ("iu", "ui", "if", "uf")) and _retyped(filler, ids.dtype).tolist() == filler.tolist():
        found = ids.copy()
    elif same and all(_fits(part, np.result_type(ids, filler)) for part in (ids, filler)):
        found = ids.astype(np.result_type(ids, filler))
    else:
        found = np.empty(ids.shape, object)
        found.ravel()[:] = list(ids.ravel())  # as NumPy's scalars: of nanoseconds ``astype`` makes numbers
    found[where] = filler[0]
    return found


def joined(name: str, known: np.ndarray, more: np.ndarray) -> np.ndarray:
    """Both as one array; times in a unit that holds them all."""
    if known.dtype.kind in "mM" and more.dtype.kind == known.dtype.kind:
        common = np.result_type(known, more)
        if not (_fits(known, common) and _fits(more, common)):
            raise ValueError(f"{name} are {known.dtype} and {more.dtype}, and {common} does not hold them all")
    return np.append(known, more)


def _retyped(ids: np.ndarray, dtype: np.dtype) -> np.ndarray:
    return in_unit(ids, dtype)[0] if ids.dtype.kind in "mM" else ids.astype(dtype)


def _fits(times: np.ndarray, dtype: np.dtype) -> bool:
    """Whether ``dtype`` holds all of them: far times wrap around in fine units. What are no times fit."""
    return dtype.kind not in "mM" or bool(in_unit(times, dtype)[1].all())
