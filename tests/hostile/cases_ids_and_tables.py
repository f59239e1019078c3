"""Odd pairs, ids, splits, folders, frames and pictures."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import scipy.sparse as sp

import lfm_np
from lfm_np import datasets

from .case import Case, Either, Group, Holds, raises
from .cases_lists import model
from .cases_odd_matrices import BAD
from .matrices import plain

_refused, _right = Group("ids and tables").refused, Group("ids and tables").right

# ---- data -----------------------------------------------------------------------------------------------------------

PAIRS: dict[str, Any] = {
    "generator": ((i, i) for i in range(3)),
    "set": {(0, 1)},
    "dict": {0: 1},
    "text": "01",
    "flat": [0, 1],
    "triples": [[0, 1, 2]],
    "float": np.ones((2, 2)),
    "nan": [[np.nan, 1]],
    "negative": [[0, -1]],
    "huge": [[0, 2**63]],
    "bool": np.ones((2, 2), bool),
    "complex": np.ones((2, 2), complex),
    "datetime": np.ones((2, 2), "M8[D]"),
    "masked": np.ma.masked_array([[0, 1]], [[0, 1]]),
    "structured": np.array([(0, 1)], [("i", int), ("j", int)]),
    "ragged": [[0], [1, 2]],
    "none": None,
    "0-d": np.array(3),
    "objects": np.array([[object(), 1]]),
    "sparse": sp.csr_array(np.ones((2, 2), int)),
}
IDS: dict[str, Any] = {
    "0-d": np.array("a"),
    "two-dimensional": [["a"], ["b"]],
    "nan": [1.0, np.nan],
    "none": ["a", None],
    "NaT": np.array(["NaT", "2020"], "M8[D]"),
    "mixed": ["a", 1],
    "dicts": [{}, {}],
    "masked": np.ma.masked_array([1, 2], [0, 1]),
    "sparse": sp.csr_array(np.ones((1, 2))),
    "text": "ab",
    "number": 3,
    "generator": (c for c in "ab"),
    "arrays": [np.ones(2), np.ones(3)],
    "complex nan": [1j, complex(np.nan)],
}


def data() -> Iterator[Case]:
    make = lfm_np.Interactions.from_arrays
    for name, pairs in PAIRS.items():
        yield _refused(f"to_csr, pairs {name}", lambda p=pairs: lfm_np.to_csr(p), "pairs")
        yield _refused(f"build_dict, pairs {name}", lambda p=pairs: lfm_np.build_dict(p), "pairs")
    for name, ids in IDS.items():
        yield _refused(f"from_arrays, users {name}", lambda i=ids: make(i, [1, 2]), "users")
        yield _refused(f"from_arrays, items {name}", lambda i=ids: make([1, 2], i), "items")
    for name, values in {
        "text": ["1", "2"],
        "infinite": [1, np.inf],
        "complex": [1, 1j],
        "one": [1],
        "datetime": np.ones(2, "M8[D]"),
        "masked": np.ma.masked_array([1, 2], [0, 1]),
        "object": [1, None],
        "2-d": [[1], [2]],
    }.items():
        yield _refused(f"from_arrays, values {name}", lambda v=values: make([1, 2], [3, 4], v), "values")
        yield _refused(f"to_csr, values {name}", lambda v=values: lfm_np.to_csr([[0, 1], [1, 0]], values=v), "values")
    for name, shape in {
        "text": "22",
        "one": (2,),
        "three": (2, 2, 2),
        "float": (2.0, 2),
        "small": (1, 2),
        "negative": (-2, 2),
        "huge": (2**31, 2),
        "none": (None, 2),
        "array": np.array([[2, 2]]),
        "bool": (True, 2),
    }.items():
        yield _refused(f"to_csr, shape {name}", lambda s=shape: lfm_np.to_csr([[0, 1], [1, 0]], shape=s), "shape")
    yield _right(
        "to_csr, big-endian",
        lambda: lfm_np.to_csr(np.array([[0, 1]], ">u2")).toarray(),
        lambda d: d.tolist() == [[0, 1]],
    )
    yield _right(
        "to_csr, Fortran order",
        lambda: lfm_np.to_csr(np.asfortranarray([[0, 1], [2, 0]])).toarray(),
        lambda d: d[2, 0] == 1 and d.sum() == 2,
    )
    yield _right(
        "to_csr, shape of NumPy numbers",
        lambda: lfm_np.to_csr([[0, 1]], shape=np.array([3, 4])),
        lambda X: X.shape == (3, 4),
    )
    yield _right(
        "to_csr, no pairs", lambda: lfm_np.to_csr(np.empty((0, 2), int), shape=(0, 0)), lambda X: X.shape == (0, 0)
    )
    for name, ids in {
        "dates": np.array(["2020", "2019"], "M8[D]"),
        "bools": [True, False],
        "bytes": [b"b", b"a"],
        "tuples": [(1, 2), (0, 1)],
        "floats": [0.5, -0.0],
        "big integers": [2**63, 2**63 + 1],
        "empty text": ["", " "],
        "surrogate": ["\ud800", "a"],
        "infinite": [np.inf, 1.0],
        "fractions of a day": np.array([3, 1], "m8[h]"),
    }.items():
        expect = Either(
            Holds(
                lambda d, i=ids: d.shape == (2, 2) and d.rows_of(i).tolist() == [int(i[0] > i[1]), int(i[0] <= i[1])]
            ),
            raises(BAD, "users"),
        )
        yield Case(f"ids and tables: from_arrays, ids {name}", lambda i=ids: make(i, [1, 2]), expect)
    d = make(["a", "b", "a"], [10, 20, 20], timestamps=[1, 2, 3])
    for name, words in {
        "by odd": {"by": "user"},
        "fraction 1": {"test_fraction": 1.0},
        "fraction nan": {"test_fraction": np.nan},
        "fraction bool": {"test_fraction": True},
        "n 0": {"by": "last", "n": 0},
        "n True": {"by": "last", "n": True},
        "at text": {"by": "time", "at": "now"},
        "at nan": {"by": "time", "at": np.nan},
        "at array": {"by": "time", "at": np.array([1, 2])},
    }.items():
        yield _refused(f"split, {name}", lambda w=words: d.split(**w), [*words][-1])
    for name, ids in {
        "unknown": ["z"],
        "other kind": [3],
        "nan": [np.nan],
        "none": None,
        "generator": (c for c in "a"),
        "text": "a",
        "set": {"a"},
    }.items():
        expect = raises((TypeError, ValueError, KeyError), "users")
        if name == "text":
            expect = Either(Holds(lambda r: np.ravel(r).tolist() == [0]), expect)
        yield Case(f"ids and tables: rows_of, {name}", lambda i=ids: d.rows_of(i), expect)
    for name, rows in {
        "negative": [-1],
        "beyond": [2],
        "float": [0.0],
        "bool": [True],
        "text": ["a"],
        "huge": [2**70],
    }.items():
        yield _refused(f"user_ids, {name}", lambda r=rows: d.user_ids(r), "rows|users")
    for name, cells in {
        "short mask": [True],
        "float": [0.5],
        "beyond": [9],
        "negative": [-1],
        "text": "x",
        "none": None,
    }.items():
        yield _refused(f"select, {name}", lambda c=cells: d.select(c), "cells")
    for name, least in {"-1": -1, "1.5": 1.5, "True": True, "nan": np.nan, "text": "1"}.items():
        yield _refused(f"core, {name}", lambda n=least: d.core(n), "min_user_interactions")
    yield _refused("binarize, nan", lambda: d.binarize(np.nan), "threshold")
    for name, sizes in {
        "m 0": (0, 3, 1),
        "n 0": (3, 0, 1),
        "more than n": (3, 2, 5),
        "bool": (True, 3, 1),
        "float": (3.0, 3, 1),
        "huge": (2**40, 3, 1),
    }.items():
        expect = Either(Holds(lambda p: p.shape[1] == 2), raises((*BAD, MemoryError), "m|n|max_j_per_i"))
        yield Case(f"ids and tables: make_interactions, {name}", lambda s=sizes: datasets.make_interactions(*s), expect)
    for name in ("", "1M", "../100k", None, 3, b"100k", ["100k"], "100k\0"):
        yield _refused(f"movielens {name!r}", lambda n=name: datasets.movielens(n), "name")
    for name, folder in {"none": None, "number": 3, "NUL": "a\0b", "empty": ""}.items():
        yield _refused(f"StoredMatrix, folder {name}", lambda p=folder: lfm_np.StoredMatrix(p), "folder")
        yield _refused(
            f"from_matrix, folder {name}", lambda p=folder: lfm_np.StoredMatrix.from_matrix(plain(), p), "folder"
        )


# ---- frames and pictures --------------------------------------------------------------------------------------------


def frames() -> Iterator[Case]:
    f = lfm_np.Factors(np.eye(2, dtype=np.float32), np.ones((3, 2), np.float32))
    d = lfm_np.Interactions.from_arrays(["a", "b", "a"], [10, 20, 30])
    frame = lfm_np.recommend_frame
    for name, call, word in (
        ("data a matrix", lambda: frame(f, d.matrix), "data"),
        ("factors none", lambda: frame(None, d), "factors"),
        ("other factors", lambda: frame(model(), d), "factors|data"),
        ("users unknown", lambda: frame(f, d, ["z"]), "users"),
        ("users rows", lambda: frame(f, d, [0]), "users"),
        ("items unknown", lambda: frame(f, d, items=[11]), "items"),
        ("exclude text", lambda: frame(f, d, exclude=["10"]), "exclude"),
        ("N bool", lambda: frame(f, d, N=True), "N"),
        ("backend odd", lambda: frame(f, d, backend="excel"), "backend"),
        ("seen dense", lambda: frame(f, d, seen=np.ones((2, 3))), "seen"),
    ):
        yield _refused(f"recommend_frame, {name}", call, word)
    yield _right(
        "recommend_frame, users twice",
        lambda: frame(f, d, ["b", "b"], N=1, backend="pyarrow"),
        lambda t: t.num_rows == 2,
    )
    yield _right("recommend_frame, nobody", lambda: frame(f, d, [], backend="pyarrow"), lambda t: t.num_rows == 0)
    for name, path in {"number": 3, "NUL": "a\0b", "empty": "", "none": None}.items():
        yield _refused(f"recommend_parquet, path {name}", lambda p=path: lfm_np.recommend_parquet(f, d, p), "path")
    plots = lfm_np.plots
    for name, call, word in (
        ("spectrum of nothing", lambda: plots.factor_spectrum([]), "results|factors"),
        ("spectrum of text", lambda: plots.factor_spectrum("x"), "results|factors"),
        ("spectrum, ax text", lambda: plots.factor_spectrum(f, ax="x"), "ax"),
        ("spectrum, labels short", lambda: plots.factor_spectrum([f, f], labels=["a"]), "labels"),
        ("map, view odd", lambda: plots.item_map(f, view="tsne"), "view"),
        ("map, items generator", lambda: plots.item_map(f, items=(i for i in [0])), "items"),
        ("map, counts short", lambda: plots.item_map(f, counts=[1]), "counts"),
        ("curve of none", lambda: plots.training_curve(None), "results|factors"),
        ("curve without history", lambda: plots.training_curve(f), "history"),
        ("metric odd", lambda: plots.metric_at_n(f, None, d.matrix, "f1"), "metric"),
        ("metric, N empty", lambda: plots.metric_at_n(f, None, d.matrix, N=[]), "N"),
        ("coverage, N text", lambda: plots.coverage(f, d.matrix, N="12"), "N"),
    ):
        yield _refused(f"plots, {name}", call, word)


def cases() -> list[Case]:
    return [*data(), *frames()]
