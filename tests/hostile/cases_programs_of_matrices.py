"""Pipelines of matrices in odd formats, and of ids and times of every type, beside dictionaries and sorting."""

from __future__ import annotations

import datetime as dt
import decimal
import fractions
import uuid
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.sparse as sp

import lfm_np

from .case import Case
from .programs import BAD, RULE, Programs, listed, plain, swept
from .working_days import NAN, all_scores, close, csr, dense, folder, raised, stars, start, tells, wrong

program = Programs("program pipeline")
X = stars()
S = swept(X, start(30, 20, 3)[1], 2)


def _fit(Z: Any) -> lfm_np.Factors:
    return lfm_np.als(Z, factors=3, iterations=2, init=start(*Z.shape, 3), dtype="float64", **RULE.words)


def _right(Z: Any) -> bool:
    return close(all_scores(_fit(Z)), S, 1e-8)


def _frozen(Z: Any) -> Any:
    for part in (Z.data, Z.indices, Z.indptr):
        part.flags.writeable = False
    return Z


def _big_endian(Z: Any) -> Any:
    Z.data = Z.data.astype(">f8")
    return Z


def _twice(Z: sp.csr_array) -> sp.coo_array:
    """Every cell in two halves, in no order, with 64-bit coordinates."""
    coo = Z.tocoo()
    order = np.random.default_rng(0).permutation(2 * coo.nnz)
    rows, columns = (np.tile(c.astype(np.int64), 2)[order] for c in coo.coords)
    return sp.coo_array((np.tile(coo.data / 2, 2)[order], (rows, columns)), shape=coo.shape)


def _shuffled(Z: sp.csr_array) -> sp.csr_array:
    """The cells of each row from right to left, with 64-bit indices."""
    parts = [np.arange(a, b)[::-1] for a, b in zip(Z.indptr[:-1], Z.indptr[1:], strict=True)]
    order = np.concatenate(parts)
    other = sp.csr_array((Z.data[order], Z.indices[order].astype(np.int64), Z.indptr.astype(np.int64)), shape=Z.shape)
    other.has_sorted_indices = False
    return other


def _with_zeros(Z: sp.csr_array) -> sp.coo_array:
    coo, empty = Z.tocoo(), np.argwhere(np.isnan(X))[::3].T
    places = tuple(np.concatenate(pair) for pair in zip(coo.coords, empty, strict=True))
    return sp.coo_array((np.concatenate([coo.data, np.zeros(empty.shape[1])]), places), shape=Z.shape)


FORMATS: dict[str, Callable[[], Any]] = {
    "cells in halves, unsorted, int64": lambda: _twice(csr(X)),
    "rows from right to left, int64, read-only": lambda: _frozen(_shuffled(csr(X))),
    "explicit zeros in COO": lambda: _with_zeros(csr(X)),
    "explicit zeros in CSC, read-only": lambda: _frozen(_with_zeros(csr(X)).tocsc()),
    "int8 in BSR": lambda: csr(X).astype(np.int8).tobsr((5, 4)),
    "big-endian doubles in CSC": lambda: _big_endian(csr(X).tocsc()),
    "unsigned 64 bits in LIL": lambda: csr(X).astype(np.uint64).tolil(),
    "DIA": lambda: csr(X).todia(),
    "a matrix of the old kind, by keys": lambda: sp.dok_matrix(csr(X)),
    "every other row of a taller one": lambda: sp.csr_array(np.repeat(np.nan_to_num(X), 2, axis=0))[::2],
    "the transpose of a transpose": lambda: sp.csc_array(csr(X).T).T,
    "columns turned twice": lambda: csr(X)[:, ::-1][:, ::-1],
    "blocks put together": lambda: sp.bmat([[csr(X)[:7, :9], csr(X)[:7, 9:]], [csr(X)[7:, :9], csr(X)[7:, 9:]]]),
    "from an array in Fortran order": lambda: sp.csr_array(np.asfortranarray(np.nan_to_num(X))),
    "a subclass": lambda: type("Mine", (sp.csr_array,), {})(csr(X)),
}
for _name in FORMATS:

    def _make(name: str = _name) -> dict[str, Any]:
        return {"Z": FORMATS[name]()}

    @program(f"the same cells as {_name}, beside normal equations", make=_make)
    def _same_cells(Z: Any) -> list[str]:
        return wrong(
            scores=_right(Z),
            seen=plain(_fit(Z), X, N=3) and listed(_fit(Z).recommend(range(30), N=3, seen=Z), S, np.isnan(X), 3),
        )


@program("clicks of bool, of half precision and of bytes that add up beyond a byte")
def _small_types() -> list[str]:
    ones = np.where(np.isnan(X), NAN, 1.0)
    flat = swept(ones, start(30, 20, 3)[1], 2)
    found = wrong(bool=close(all_scores(_fit(csr(ones).astype(bool))), flat, 1e-8))
    rows, columns = np.nonzero(~np.isnan(X))
    many = sp.coo_array((np.full(3 * len(rows), 200, np.uint8), (np.tile(rows, 3), np.tile(columns, 3))), shape=X.shape)
    big = swept(ones * 600, start(30, 20, 3)[1], 2)
    found += wrong(bytes=close(all_scores(_fit(many)), big, 1e-6))
    half = csr(X)
    half.data = half.data.astype(np.float16)
    try:
        found += wrong(half=_right(half))
    except BAD as error:
        found += wrong(half=tells(error, "float16|dtype|x "))
    return found


@program("a matrix whose arrays are mapped from files, which stay as they are")
def _mapped() -> list[str]:
    with folder() as place:
        Z = csr(X, np.float32)
        for name in ("data", "indices", "indptr"):
            np.save(place / name, getattr(Z, name))
        raw = {p.name: p.read_bytes() for p in place.iterdir()}
        parts = {n: np.load(place / f"{n}.npy", mmap_mode="r") for n in ("data", "indices", "indptr")}
        mapped = sp.csr_array((parts["data"], parts["indices"], parts["indptr"]), shape=X.shape)
        found = wrong(scores=_right(mapped), files={p.name: p.read_bytes() for p in place.iterdir()} == raw)
        del mapped, parts
    return found


@program("matrices that cannot be, each in its turn, then the good one")
def _bad_then_good() -> list[str]:
    def broken(**parts: Any) -> Any:
        Z = csr(X)
        for name, value in parts.items():
            setattr(Z, name, value)
        return Z

    Z = csr(X)
    beyond, below, falling = Z.indices.copy(), Z.indices.copy(), Z.indptr.copy()
    beyond[5], below[5], falling[3] = 20, -1, falling[-1]
    odd: dict[str, Any] = {
        "beyond": broken(indices=beyond),
        "below": broken(indices=below),
        "falling": broken(indptr=falling),
        "complex": csr(X).astype(complex),
        "negative": -csr(X),
        "infinite": csr(np.where(X == 5, np.inf, X)),
        "too large": csr(X) * 1e300,
        "long doubles": csr(X).astype(np.longdouble),
        "one axis": sp.coo_array(np.ones(5)),
        "dates": broken(data=Z.data.astype("datetime64[s]")),
        "text": [["a", "b"]],
    }
    errors = {n: raised(lambda z=z: lfm_np.als(z, factors=2)) for n, z in odd.items()}
    told = {n: isinstance(e, BAD) and tells(e, "x |indices|indptr|index") for n, e in errors.items()}
    return wrong(**told, good=_right(csr(X)))


@program("the upper limit of float32 in a value, a sum and a mean of to_csr")
def _limits_of_to_csr() -> list[str]:
    top = float(np.finfo(np.float32).max)
    pairs = [(0, 0), (0, 0), (1, 1)]
    mean = lfm_np.to_csr(pairs, values=[top, top, 1.0], duplicates="mean").toarray()
    error = raised(lambda: lfm_np.to_csr(pairs, values=[top, top, 1.0]))
    again = lfm_np.to_csr(pairs, values=[1e8, 1.0, 0.0]).toarray()
    cancel = lfm_np.to_csr([(0, 0)] * 3, values=[1e8, 1.0, -1e8]).toarray()
    return wrong(
        mean=mean[0, 0] == np.float32(top),
        said=isinstance(error, BAD) and tells(error, "value|finite|float32"),
        again=again[0, 0] == np.float32(1e8 + 1),
        cancel=cancel[0, 0] == 1.0,
    )


@program("all ways with duplicates, with times that are equal, unknown and in any order, beside a dictionary")
def _duplicates_by_dictionary() -> list[str]:
    draw = np.random.default_rng(5)
    u, i = draw.integers(0, 6, 200), draw.integers(0, 5, 200)
    v, t = draw.integers(-4, 9, 200) / 4, np.where(draw.random(200) < 0.2, NAN, draw.integers(0, 9, 200))
    found = []
    groups: dict[tuple[int, int], list[int]] = {}
    for n, pair in enumerate(zip(u.tolist(), i.tolist(), strict=True)):
        groups.setdefault(pair, []).append(n)

    def last(ns: list[int]) -> float:
        return float(v[max(ns, key=lambda n: (-np.inf if np.isnan(t[n]) else t[n], n))])

    ways: dict[str, Callable[[list[int]], float]] = {
        "sum": lambda ns: float(v[ns].sum()),
        "mean": lambda ns: float(v[ns].mean()),
        "max": lambda ns: float(v[ns].max()),
        "count": lambda ns: float(len(ns)),
        "last": last,
    }
    for way, of in ways.items():
        data = lfm_np.Interactions.from_arrays(u, i, v, t, duplicates=way)
        coo = data.matrix.tocoo()
        times = dict(zip(zip(*(c.tolist() for c in coo.coords), strict=True), data.timestamps.tolist(), strict=True))
        cells = dict(zip(zip(*(c.tolist() for c in coo.coords), strict=True), coo.data.tolist(), strict=True))
        latest = {p: np.nan if np.isnan(t[ns]).all() else np.nanmax(t[ns]) for p, ns in groups.items()}
        found += wrong(
            **{
                f"{way} cells": set(cells) == set(groups)
                and all(abs(cells[p] - of(ns)) < 1e-5 for p, ns in groups.items()),
                f"{way} times": all(np.array_equal(times[p], latest[p], equal_nan=True) for p in groups),
            }
        )
    return found


IDS: dict[str, list[Any]] = {
    "numbers beyond 63 bits": [2**64 - 1, 2**63, 5, 2**63 + 1],
    "negative numbers": [-5, 3, -(2**63), 0],
    "text of all kinds": ["", " ", "e\u0301", "\u00e9", "E", "e", "𝄞", "10", "9"],
    "bytes": [b"\xff", b"", b"a", b"a\x01"],
    "UUIDs": [uuid.UUID(int=n) for n in (2**100, 3, 7)],
    "days": [dt.date(2024, 2, 29), dt.date(1, 1, 1), dt.date(9999, 12, 31)],
    "moments": [dt.datetime(2024, 2, 29, 1, 2, 3, 4), dt.datetime(1970, 1, 1), dt.datetime(2300, 1, 1)],
    "decimals": [decimal.Decimal("1.10"), decimal.Decimal("-3"), decimal.Decimal("1.2")],
    "truths": [True, False],
    "fractions of numbers": [0.5, -1.25, 1e300],
    "fractions": [fractions.Fraction(1, 3), fractions.Fraction(-1, 2)],
    "pairs": [("a", 1), ("a", 0), ("b", -1)],
}
for _name in IDS:

    @program(f"ids that are {_name} come back as they were, or are refused by name")
    def _ids_of_a_kind(name: str = _name) -> list[str]:
        ids = IDS[name]
        users = ids + ids[::-1]
        try:
            data = lfm_np.Interactions.from_arrays(users, [1, 2] * len(ids))
        except BAD as error:
            return wrong(said=tells(error, "users"), promised=name in ("fractions", "pairs", "decimals", "UUIDs"))
        rows = data.rows_of(ids).tolist()
        back = data.user_ids(rows).tolist()
        counts = {n: [users[j] for j in range(len(users)) if j % 2 == n] for n in (0, 1)}
        mine = [[float(counts[n].count(u)) for n in (0, 1)] for u in sorted(ids)]
        unknown = raised(lambda: data.rows_of([ids[0], None]))
        return wrong(
            order=rows == [sorted(ids).index(u) for u in ids],
            back=back == ids,
            cells=data.matrix.toarray().tolist() == mine,
            unknown=isinstance(unknown, BAD) and tells(unknown, "users"),
        )


@program("ids that are missing or mixed are refused by name, and clean ones follow")
def _ids_missing_or_mixed() -> list[str]:
    odd: tuple[Any, ...] = (
        [1, None],
        ["a", NAN],
        ["a", 1],
        [NAN, 1.0],
        np.array(["2024", "NaT"], "M8[D]"),
        [[1], [2]],
        5,
    )
    errors = [raised(lambda o=o: lfm_np.Interactions.from_arrays(o, [1, 2])) for o in odd]
    errors += [raised(lambda: lfm_np.Interactions.from_arrays([1, 2], [1]))]
    data = lfm_np.Interactions.from_arrays(["b", "a", "b"], [7, 7, 9])
    return wrong(
        errors=all(isinstance(e, BAD) and tells(e, "users|items|length") for e in errors),
        then=data.matrix.toarray().tolist() == [[1, 0], [1, 1]] and data.users.tolist() == ["a", "b"],
    )


@program("each user's last two, with ties of time and one who has a single cell, by sorting")
def _last_by_sorting() -> list[str]:
    draw = np.random.default_rng(9)
    cells = np.argwhere(~np.isnan(X))
    times = draw.permutation(len(cells)) + 10**18
    data = lfm_np.Interactions.from_arrays(cells[:, 0], cells[:, 1], X[cells[:, 0], cells[:, 1]], times)
    train, test = data.split("last", n=2)
    mine = np.full(X.shape, NAN)
    for u in range(30):
        own = sorted(np.flatnonzero(cells[:, 0] == u), key=lambda n: times[n])
        for n in own[max(1, len(own) - 2) :]:
            mine[u, cells[n, 1]] = X[u, cells[n, 1]]
    rest = np.where(np.isnan(mine), X, NAN)
    return wrong(
        test=np.array_equal(dense(test), mine, equal_nan=True),
        train=np.array_equal(dense(train), rest, equal_nan=True),
        errors=all(tells(raised(lambda n=n: data.split("last", n=n)), "n") for n in (0, -1, 1.5)),
    )


@program("cut at moments of other time zones, across the change of clocks", "pandas")
def _cut_across_zones() -> list[str]:
    import pandas as pd

    stamps = pd.date_range("2024-10-26 20:00", periods=12, freq="h", tz="UTC")
    frame = pd.DataFrame({"user": np.arange(12) % 3, "item": np.arange(12), "t": stamps.tz_convert("Europe/Berlin")})
    data = lfm_np.Interactions.from_frame(frame, timestamp="t")
    berlin = pd.Timestamp("2024-10-27 00:30", tz="UTC").tz_convert("Europe/Berlin")  # half past two in summer
    found = []
    cuts: tuple[Any, ...] = (
        berlin,
        berlin.to_pydatetime(),
        pd.Timestamp("2024-10-26 21:15:00.000000001", tz="America/New_York"),
        "2024-10-27T01:00",
        np.datetime64("2024-10-27T00:30"),
        dt.date(2024, 10, 27),
        dt.datetime(2024, 10, 27, 5, tzinfo=dt.timezone(dt.timedelta(hours=3, minutes=30))),
    )
    for cut in cuts:
        moment = pd.Timestamp(cut)
        moment = moment.tz_localize("UTC") if moment.tz is None else moment
        later = [n for n in range(12) if stamps[n] >= moment]
        train, test = data.split("time", at=cut)
        found += wrong(
            **{f"{cut!r:.60}": sorted(test.matrix.indices.tolist()) == later and train.matrix.nnz == 12 - len(later)}
        )
    odd = [raised(lambda a=a: data.split("time", at=a)) for a in ("yesterday", "", pd.NaT, 3.5)]
    return found + wrong(odd=all(isinstance(e, BAD) and tells(e, "at") for e in odd))


@program("a share of each user's cells at random: sizes, no cell lost, none twice, at least one to learn from")
def _random_share() -> list[str]:
    data = lfm_np.Interactions.from_arrays(*np.nonzero(~np.isnan(X)))
    found = []
    for share in (0.01, 0.5, 0.99):
        train, test = data.split("random", test_fraction=share, random_state=3)
        a, b = ~np.isnan(dense(train)), ~np.isnan(dense(test))
        found += wrong(
            **{
                f"{share} parts": not (a & b).any() and np.array_equal(a | b, ~np.isnan(X)),
                f"{share} one left": bool(a.sum(axis=1).min() >= 1),
                f"{share} sizes": bool((abs(b.sum(axis=1) - share * (a | b).sum(axis=1)) <= 1).all()),
            }
        )
    odd = [raised(lambda s=s: data.split("random", test_fraction=s)) for s in (0.0, 1.0, -0.1, 20, "half")]
    return found + wrong(odd=all(isinstance(e, BAD) and tells(e, "test_fraction") for e in odd))


@program("ids of rows through a join in pandas and back, padded and unknown ones among them", "pandas")
def _ids_through_a_join() -> list[str]:
    import pandas as pd

    frame = pd.DataFrame({"user": ["ann", "bob", "eve", "eve"], "item": [10, 20, 30, 30], "value": [1, 2, 2.5, 0.5]})
    data = lfm_np.Interactions.from_frame(frame, value="value")
    asked = pd.Series(["eve", "nobody", "ann"], index=[9, 9, 1])
    rows = data.rows_of(asked, missing=-1)
    refused = raised(lambda: data.rows_of(asked))
    ids = data.item_ids(np.array([[0, -1], [2, 1]], np.int8), missing=0)
    beyond = [raised(lambda c=c: data.item_ids(c)) for c in ([3], [-2], [0.5], ["a"])]
    return wrong(
        rows=rows.tolist() == [2, -1, 0] and rows.dtype == np.int64,
        refused=isinstance(refused, ValueError) and tells(refused, "nobody"),
        ids=ids.tolist() == [[10, 0], [30, 20]],
        beyond=all(isinstance(e, (*BAD, IndexError)) and tells(e, "column") for e in beyond),
        sums=close([data.matrix.toarray()[2, 2]], [3.0]),
    )


def cases() -> list[Case]:
    return program.found
