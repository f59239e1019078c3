"""From records to matrices: `to_csr`, `build_dict`, `Interactions`, splits, data sets, the cross-check."""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np
import scipy.sparse as sp

import lfm_np
from lfm_np import Interactions, datasets

from . import matrices
from .case import Case, Either, Holds, raises
from .matrices import plain

BAD = (TypeError, ValueError)
PAIRS = np.array([[0, 1], [2, 0], [0, 1]])
Table = dict[str, tuple[dict[str, Any], Any]]

PAIRS_REFUSED: Table = {
    "fractions": ({"pairs": PAIRS + 0.5}, raises(TypeError, "pairs", "integers")),
    "whole floats": ({"pairs": PAIRS * 1.0}, raises(TypeError, "pairs", "integers")),
    "negative": ({"pairs": PAIRS - 1}, raises(ValueError, "pairs", "negative")),
    "text": ({"pairs": PAIRS.astype(str)}, raises(TypeError, "pairs", "integers")),
    "objects": ({"pairs": PAIRS.astype(object)}, raises(TypeError, "pairs", "integers")),
    "bools": ({"pairs": PAIRS > 0}, raises(TypeError, "pairs", "integers")),
    "complex": ({"pairs": PAIRS * 1j}, raises(TypeError, "pairs", "integers")),
    "dates": ({"pairs": PAIRS.astype("datetime64[s]")}, raises(TypeError, "pairs", "integers")),
    "three columns": ({"pairs": np.ones((4, 3), int)}, raises(ValueError, "pairs", "(N, 2)")),
    "one dimension": ({"pairs": np.arange(6)}, raises(ValueError, "pairs", "(N, 2)")),
    "three dimensions": ({"pairs": np.ones((2, 2, 2), int)}, raises(ValueError, "pairs", "(N, 2)")),
    "a number": ({"pairs": 7}, raises(BAD, "pairs", "(N, 2)")),
    "None": ({"pairs": None}, raises(BAD, "pairs")),
    "ragged": ({"pairs": [[1, 2], [3]]}, raises(ValueError, "pairs", "unequal length")),
    "a dict": ({"pairs": {0: 1}}, raises(BAD, "pairs")),
    "a sparse matrix": ({"pairs": plain()}, raises(BAD, "pairs")),
    "nan": ({"pairs": [[np.nan, 1.0]]}, raises(TypeError, "pairs", "integers")),
}
TO_CSR: Table = {
    "id 2^40": ({"pairs": [[2**40, 0]]}, raises(ValueError, "shape|pairs", "2147483647")),
    "id 2^63": ({"pairs": np.array([[2**63, 0]], np.uint64)}, raises(ValueError, "shape|pairs", "2147483647")),
    "shape too small": ({"pairs": PAIRS, "shape": (2, 2)}, raises(ValueError, "shape", "rows")),
    "shape negative": ({"pairs": PAIRS, "shape": (-1, 2)}, raises(ValueError, "shape")),
    "shape fraction": ({"pairs": PAIRS, "shape": (3.0, 2)}, raises(TypeError, "shape")),
    "shape number": ({"pairs": PAIRS, "shape": 5}, raises(TypeError, "shape", "pair")),
    "shape of three": ({"pairs": PAIRS, "shape": (5, 5, 5)}, raises(TypeError, "shape", "pair")),
    "shape text": ({"pairs": PAIRS, "shape": "55"}, raises(TypeError, "shape")),
    "shape beyond int32": ({"pairs": PAIRS, "shape": (2**31, 5)}, raises(ValueError, "shape", "2147483647")),
    "shape an array": (
        {"pairs": PAIRS, "shape": np.array([3, 2])},
        Either(Holds(lambda r, **_: r.shape == (3, 2)), raises(TypeError, "shape")),
    ),
    "values too few": ({"pairs": PAIRS, "values": [1.0]}, raises(ValueError, "values", "3")),
    "values nan": ({"pairs": PAIRS, "values": [1, np.nan, 2]}, raises(ValueError, "values", "record 1")),
    "values inf": ({"pairs": PAIRS, "values": [1, np.inf, 2]}, raises(ValueError, "values", "record 1")),
    "values 1e39": ({"pairs": PAIRS, "values": [1, 1e39, 2]}, raises(ValueError, "values", "float32")),
    "values text": ({"pairs": PAIRS, "values": ["1", "2", "3"]}, raises(TypeError, "values", "real")),
    "values complex": ({"pairs": PAIRS, "values": [1j, 2, 3]}, raises(TypeError, "values", "real")),
    "values objects": ({"pairs": PAIRS, "values": [None, 2, 3]}, raises(TypeError, "values", "real")),
    "values of two dimensions": (
        {"pairs": PAIRS, "values": np.ones((3, 1))},
        raises(ValueError, "values", "one-dimensional"),
    ),
    "values a number": ({"pairs": PAIRS, "values": 2.0}, raises(ValueError, "values")),
    "values ragged": ({"pairs": PAIRS, "values": [[1], [1, 2], []]}, raises(BAD, "values")),
    "sum beyond float32": ({"pairs": PAIRS, "values": [3e38, 0, 3e38]}, raises(ValueError, "float32")),
    "duplicates unknown": ({"pairs": PAIRS, "duplicates": "first"}, raises(ValueError, "duplicates", "last")),
    "duplicates refused": ({"pairs": PAIRS, "duplicates": "error"}, raises(ValueError, "(0, 1)", "more than once")),
    "uint8 ids that wrap": (
        {"pairs": np.array([[200, 200]], np.uint8), "shape": (256, 256)},
        Holds(lambda r, **_: r[[200]].indices.tolist() == [200]),
    ),
    "uint8 values that wrap": (
        {"pairs": PAIRS, "values": np.array([200, 1, 200], np.uint8)},
        Holds(lambda r, **_: r.toarray()[0, 1] == 400),
    ),
    "nothing": ({"pairs": []}, Holds(lambda r, **_: r.shape == (0, 0))),
    "read-only, Fortran": (
        {"pairs": np.asfortranarray(PAIRS)},
        Holds(lambda r, **_: r.toarray().tolist() == [[0, 2], [0, 0], [1, 0]]),
    ),
    "masked": ({"pairs": np.ma.masked_equal(PAIRS, 2)}, raises(BAD, "pairs", "mask")),
    "masked values": (
        {"pairs": PAIRS, "values": np.ma.masked_equal([1.0, 2.0, 3.0], 2.0)},
        raises(BAD, "values", "mask"),
    ),
    "float16 values": (
        {"pairs": PAIRS, "values": np.array([1, 2, 3], np.float16)},
        Holds(lambda r, **_: r.toarray()[0, 1] == 4),
    ),
}
ARRAYS: Table = {
    "unequal lengths": ({"users": [1, 2], "items": [1]}, raises(ValueError, "items", "2 records")),
    "users nan": ({"users": [1.0, np.nan], "items": [1, 2]}, raises(ValueError, "users", "missing")),
    "users None": ({"users": ["a", None], "items": [1, 2]}, raises(BAD, "users", "None")),
    "users all None": ({"users": np.array([None, None]), "items": [1, 2]}, raises(BAD, "users", "None|missing")),
    "users NaT": (
        {"users": np.array(["NaT", "2020"], "M8[D]"), "items": [1, 2]},
        raises(ValueError, "users", "missing"),
    ),
    "users of two kinds": (
        {"users": np.array([1, "a"], object), "items": [1, 2]},
        raises(TypeError, "users", "int", "str"),
    ),
    "users complex": ({"users": [1j, 2j], "items": [1, 2]}, raises(TypeError, "users", "complex")),
    "users dicts": ({"users": np.array([{}, {}], object), "items": [1, 2]}, raises(TypeError, "users", "dict|sort")),
    "users nan objects": (
        {"users": np.array([np.nan, np.nan], object), "items": [1, 2]},
        raises(BAD, "users", "missing"),
    ),
    "users of two dimensions": ({"users": [[1, 2]], "items": [1, 2]}, raises(ValueError, "users", "one-dimensional")),
    "users a scalar": ({"users": 5, "items": 6}, raises(ValueError, "users", "one-dimensional")),
    "users text": ({"users": "ann", "items": "x"}, raises(ValueError, "users", "one-dimensional")),
    "users ragged": ({"users": [[1], [1, 2]], "items": [1, 2]}, raises(BAD, "users")),
    "ids from both ends of int64": (
        {"users": np.array([-(2**63), 2**63 - 1]), "items": [1, 2]},
        Holds(lambda r, **_: r.users.tolist() == [-(2**63), 2**63 - 1]),
    ),
    "uint64 ids": (
        {"users": np.array([2**64 - 1, 0], np.uint64), "items": [1, 2]},
        Holds(lambda r, **_: r.users.tolist() == [0, 2**64 - 1]),
    ),
    "bool ids": ({"users": [True, False], "items": [1, 2]}, Holds(lambda r, **_: r.shape == (2, 2))),
    "empty": ({"users": [], "items": []}, Holds(lambda r, **_: r.shape == (0, 0))),
    "values inf": ({"users": [1, 2], "items": [1, 2], "values": [1, np.inf]}, raises(ValueError, "values", "record 1")),
    "values too many": (
        {"users": [1, 2], "items": [1, 2], "values": [1, 2, 3]},
        raises(ValueError, "values", "2 records"),
    ),
    "values nan": (
        {"users": [1, 2], "items": [1, 2], "values": [1, np.nan]},
        Holds(lambda r, **_: np.isnan(r.matrix.data).tolist() == [False, True]),
    ),
    "timestamps text": ({"users": [1], "items": [1], "timestamps": ["today"]}, raises(TypeError, "timestamps")),
    "timestamps too few": ({"users": [1, 2], "items": [1, 2], "timestamps": [1]}, raises(ValueError, "timestamps")),
    "duplicates unknown": ({"users": [1], "items": [1], "duplicates": "any"}, raises(ValueError, "duplicates")),
    "duplicates refused": (
        {"users": [1, 1], "items": [1, 1], "duplicates": "error"},
        raises(ValueError, "more than once"),
    ),
    "masked ids": ({"users": np.ma.masked_equal([1, 2], 2), "items": [1, 2]}, raises(BAD, "users", "mask")),
}
INTERACTIONS: Table = {
    "ids too few": ({"users": np.arange(9), "items": np.arange(30)}, raises(ValueError, "users", "40")),
    "ids repeated": (
        {"users": np.zeros(40, int), "items": np.arange(30)},
        raises(ValueError, "users", "distinct", "0"),
    ),
    "ids nan": ({"users": np.full(40, np.nan), "items": np.arange(30)}, raises(ValueError, "users", "missing")),
    "ids None": ({"users": None, "items": np.arange(30)}, raises(BAD, "users")),
}
MAKE: Table = {
    "m 0": ({"m": 0, "n": 5, "max_j_per_i": 2}, raises(ValueError, "m must be")),
    "m -5": ({"m": -5, "n": 5, "max_j_per_i": 2}, raises(ValueError, "m must be")),
    "m 2.0": ({"m": 2.0, "n": 5, "max_j_per_i": 2}, raises(TypeError, "m must be")),
    "m 2^31": ({"m": 2**31, "n": 5, "max_j_per_i": 2}, raises(ValueError, "m must be")),
    "m 2^31 - 1": ({"m": 2**31 - 1, "n": 5, "max_j_per_i": 2}, raises(MemoryError, "GiB")),
    "n 0": ({"m": 5, "n": 0, "max_j_per_i": 2}, raises(ValueError, "n must be")),
    "n 2^31 - 1": (
        {"m": 5, "n": 2**31 - 1, "max_j_per_i": 3},
        Either(Holds(lambda r, **_: len(r) >= 5), raises(MemoryError, "GiB")),
    ),
    "more per row than columns": ({"m": 5, "n": 3, "max_j_per_i": 4}, raises(ValueError, "max_j_per_i", "3")),
    "none per row": ({"m": 5, "n": 3, "max_j_per_i": 0}, raises(ValueError, "max_j_per_i")),
    "every column": ({"m": 50, "n": 7, "max_j_per_i": 7}, Holds(lambda r, **_: len(np.unique(r, axis=0)) == len(r))),
    "seed text": ({"m": 5, "n": 3, "max_j_per_i": 2, "random_state": "x"}, raises(TypeError, "random_state")),
    "one": ({"m": 1, "n": 1, "max_j_per_i": 1}, Holds(lambda r, **_: r.tolist() == [[0, 0]])),
}
SPLIT: Table = {
    "by what": ({"by": "user"}, raises(ValueError, "by", "random")),
    "fraction 0": ({"test_fraction": 0}, raises(ValueError, "test_fraction")),
    "fraction 1": ({"test_fraction": 1.0}, raises(ValueError, "test_fraction")),
    "fraction nan": ({"test_fraction": np.nan}, raises(ValueError, "test_fraction")),
    "fraction 1e-300": ({"test_fraction": 1e-300}, Holds(lambda r, **_: r[1].matrix.nnz == 0)),
    "last without times": ({"by": "last"}, raises(ValueError, "timestamps")),
    "time without times": ({"by": "time"}, raises(ValueError, "timestamps")),
    "n 0": ({"by": "last", "n": 0}, raises(ValueError, "n must|timestamps")),
    "seed -1": ({"random_state": -1}, raises(ValueError, "random_state")),
    "random": ({"random_state": 1}, Holds(lambda r, data: r[0].matrix.nnz + r[1].matrix.nnz == data.matrix.nnz)),
}
TIMED: Table = {
    "at text": ({"by": "time", "at": "noon"}, raises(TypeError, "at must")),
    "at nan": ({"by": "time", "at": np.nan}, raises(ValueError, "at must")),
    "at before all": ({"by": "time", "at": -1}, Holds(lambda r, **_: r[0].matrix.nnz == 0)),
    "n 10^12": ({"by": "last", "n": 10**12}, Holds(lambda r, **_: int(np.diff(r[0].matrix.indptr).max()) == 1)),
    "n fraction": ({"by": "last", "n": 1.5}, raises(TypeError, "n must")),
}
LOOKUPS: dict[str, tuple[Any, Any]] = {
    "rows_of unknown": (lambda data: data.rows_of([99]), raises(ValueError, "users", "99")),
    "rows_of text": (lambda data: data.rows_of(["1"]), raises(TypeError, "users", "dtype")),
    "rows_of nan": (lambda data: data.rows_of([np.nan]), raises(BAD, "users")),
    "rows_of None": (lambda data: data.rows_of(None), raises(BAD, "users")),
    "rows_of mixed": (lambda data: data.rows_of([1, None]), raises(BAD, "users")),
    "rows_of nobody": (lambda data: data.rows_of([]), Holds(lambda r, **_: r.shape == (0,))),
    "user_ids -1": (lambda data: data.user_ids([-1]), raises(ValueError, "rows")),
    "user_ids fraction": (lambda data: data.user_ids([0.5]), raises(TypeError, "rows")),
    "item_ids -1": (lambda data: data.item_ids([-1]), raises(ValueError, "columns")),
    "item_ids -1, missing": (
        lambda data: data.item_ids([-1, 0], missing=-7),
        Holds(lambda r, **_: r.tolist() == [-7, 5]),
    ),
    "item_ids -2, missing": (lambda data: data.item_ids([-2], missing=0), raises(ValueError, "columns")),
    "select numbers": (lambda data: data.select([0, 1]), raises(TypeError, "cells", "bool")),
    "select too few": (lambda data: data.select([True]), raises(ValueError, "cells", "shape")),
    "binarize nan": (lambda data: data.binarize(np.nan), raises(ValueError, "threshold")),
    "binarize text": (lambda data: data.binarize("4"), raises(TypeError, "threshold")),
    "matrix written": (lambda data: setattr(data, "matrix", None), raises(AttributeError)),
    "ids written": (lambda data: data.users.__setitem__(0, 5), raises(ValueError, "read-only")),
}


def cases() -> list[Case]:
    groups: list[tuple[str, Any, Table]] = [
        ("to_csr", lfm_np.to_csr, PAIRS_REFUSED | TO_CSR),
        ("build_dict", lfm_np.build_dict, PAIRS_REFUSED | _dicts()),
        ("from_arrays", Interactions.from_arrays, ARRAYS),
        ("make_interactions", datasets.make_interactions, MAKE),
        ("train_test", datasets.make_interactions_train_test, _train_test()),
        ("movielens", datasets.movielens, MOVIELENS),
    ]
    found = [
        Case(f"{group}: {name}", function, expect, lambda given=given: dict(given))
        for group, function, table in groups
        for name, (given, expect) in table.items()
    ]
    for name, (given, expect) in INTERACTIONS.items():
        found.append(
            Case(f"Interactions: {name}", Interactions, expect, lambda given=given: {"matrix": plain()} | given)
        )
    for name, (make, words) in matrices.REFUSED.items():
        if name in ("nan", "negative", "nan among duplicates"):
            continue  # an unknown value, and a rating: Interactions holds both
        words = ("matrix", *words[1:]) if "duplicates" not in name else ("matrix",)
        own = lambda make=make: {"matrix": make(), "users": np.arange(40), "items": np.arange(30)}  # noqa: E731
        found.append(Case(f"Interactions: {name}", Interactions, raises(BAD, *words), own))
    for name, (given, expect) in (SPLIT | TIMED).items():
        times = np.arange(3) if name in TIMED else None
        data = lambda times=times: {"data": Interactions.from_arrays([1, 1, 2], [5, 6, 5], timestamps=times)}  # noqa: E731
        found.append(Case(f"split: {name}", lambda data, given=given: data.split(**given), expect, data))
    for name, (call, expect) in LOOKUPS.items():
        data = lambda: {"data": Interactions.from_arrays([1, 1, 2], [5, 6, 5])}  # noqa: E731
        found.append(Case(f"Interactions: {name}", call, expect, data))
    if importlib.util.find_spec("torch"):
        crosscheck = lfm_np.torch_backend.crosscheck
        found += [
            Case(f"crosscheck: {name}", crosscheck, expect, lambda given=given: dict(given))
            for name, (given, expect) in CROSSCHECK.items()
        ]
    return found


def _dicts() -> Table:
    return {
        "nothing": ({"pairs": []}, Holds(lambda r, **_: r == {})),
        "id 2^62": ({"pairs": [[2**62, 2**62]]}, Holds(lambda r, **_: r[2**62].tolist() == [2**62])),
        "id 2^63": ({"pairs": np.array([[2**63, 1]], np.uint64)}, Holds(lambda r, **_: list(r) == [2**63])),
        "masked": ({"pairs": np.ma.masked_equal(PAIRS, 2)}, raises(BAD, "pairs", "mask")),
        "repeated": ({"pairs": PAIRS}, Holds(lambda r, **_: {i: j.tolist() for i, j in r.items()} == {0: [1], 2: [0]})),
    }


def _train_test() -> Table:
    size = {"m": 20, "n": 10, "max_j_per_i": 4}
    return {
        "fraction 1": (size | {"test_fraction": 1.0}, raises(ValueError, "test_fraction")),
        "fraction -0.1": (size | {"test_fraction": -0.1}, raises(ValueError, "test_fraction")),
        "fraction text": (size | {"test_fraction": "half"}, raises(TypeError, "test_fraction")),
        "fraction 0": (size | {"test_fraction": 0}, Holds(lambda r, **_: len(r[1]) == 0)),
    }


MOVIELENS: Table = {
    "unknown": ({"name": "2m"}, raises(ValueError, "name", "1m")),
    "None": ({"name": None}, raises(ValueError, "name", "1m")),
    "a path": ({"name": "../../etc/passwd"}, raises(ValueError, "name", "1m")),
}
CROSSCHECK: Table = {
    "device unknown": ({"device": "tpu"}, raises(ValueError, "device")),
    "factors 0": ({"factors": 0}, raises(ValueError, "factors")),
    "sweeps -1": ({"sweeps": -1}, raises(ValueError, "sweeps")),
    "negative": ({"X": matrices.changed("data", matrices.at(0, -1))}, raises(ValueError, "X", "negative")),
    "dense": ({"X": np.eye(3)}, raises(TypeError, "X", "sparse")),
    "bad index": ({"X": matrices.changed("indices", matrices.at(0, 10**6))}, raises(ValueError, "X", "valid sparse")),
    "no cells": (
        {"X": sp.csr_array((5, 5), dtype=np.float32)},
        Either(Holds(lambda r, **_: bool(r.passed)), raises(ValueError, "X")),
    ),
}
