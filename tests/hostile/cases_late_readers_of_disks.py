"""Sentences about data sets, model files, checkpoints, stored matrices and memory, beside bytes, loops and sums."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

import lfm_np
from lfm_np import datasets

from .case import Case, Group, installed
from .cases_late_readers_of_fits import Rows, data
from .cases_late_readers_of_tables import cells_of, times_of
from .places import inside
from .working_days import all_scores, close, csr, faultless, same, start, tells, wrong

_GROUP = Group("late readers, disks")
_holds = faultless(_GROUP)


# --- data sets -----------------------------------------------------------------------------------


def _uniform_lengths() -> list[str]:
    pairs = datasets.make_interactions(3000, 5, 5, random_state=8)
    lengths = np.bincount(np.bincount(pairs[:, 0]), minlength=6)[1:]
    return wrong(
        each=bool((abs(lengths - 600) < 5 * math.sqrt(3000 * 0.2 * 0.8)).all()),
        sorted=bool((np.diff(pairs[:, 0].astype(np.int64) * 5 + pairs[:, 1]) > 0).all()),
        dtype=pairs.dtype == np.int32 and len(np.unique(pairs[:, 0])) == 3000,
    )


def _shares() -> list[str]:
    """Rows of up to thirty cells: hardly one has a single one, and the share is met."""
    train, test = datasets.make_interactions_train_test(400, 60, 30, test_fraction=0.35, random_state=2)
    none = datasets.make_interactions_train_test(50, 9, 3, test_fraction=0.0, random_state=2)[1]
    both = np.concatenate([train, test])
    return wrong(
        share=abs(len(test) / len(both) - 0.35) < 0.02,
        distinct=len(np.unique(both, axis=0)) == len(both),
        train=set(train[:, 0].tolist()) == set(range(400)),
        none=none.shape == (0, 2),
    )


def _planted() -> list[str]:
    data = datasets.planted(300, 200, 5000, rank=3, tail=2.5, zipf=0.3, random_state=1)
    return wrong(
        cells=abs(data.matrix.nnz / 5000 - 1) < 0.03,
        values=set(data.matrix.data.tolist()) == {1.0},
        ids=data.users.tolist() == list(range(300)) and data.items.tolist() == list(range(200)),
    )


def _own_movielens(where: Path) -> list[str]:
    """Users are numbers plus one; items have the source's ids; what is not known is NaN."""
    np.savez(
        where / "ml-latest-small.npz", user=np.array([2, 0, 1, 0], np.int32), item=np.array([1, 0, 1, 2], np.int32),
        value=np.array([4.5, 3.0, 2.0, 0.5], np.float32), timestamp=np.array([40, 10, 30, 20]),
        known=np.array([True, True, False, True]), movie_id=np.array([5, 90, 5, 12]),
    )  # fmt: skip
    before = os.environ.get("LFM_NP_DATA")
    os.environ["LFM_NP_DATA"] = str(where)
    try:
        data = datasets.movielens("latest-small")
        records = datasets.movielens_records("latest-small")
    finally:
        if before is None:
            del os.environ["LFM_NP_DATA"]
        else:
            os.environ["LFM_NP_DATA"] = before
    found = cells_of(data)
    return wrong(
        unknown=math.isnan(found.pop((2, 5))) and math.isnan(records.values[2]) and math.isnan(records.timestamps[2]),
        cells=found == {(1, 90): 3.0, (1, 12): 0.5, (3, 5): 4.5},
        order=records.users.tolist() == [3, 1, 2, 1] and records.items.tolist() == [5, 90, 5, 12],
        times=close([times_of(data)[3, 5], times_of(data)[1, 12]], [40, 20]) and records.timestamps.dtype == np.float64,
    )


# --- model files ---------------------------------------------------------------------------------


def _by_hand(where: Path) -> list[str]:
    """A safetensors file that anybody can read, and a hash over all of it with its own digits as zeros."""
    U, V = start(5, 3, 2)
    d = np.array([0.5, -1.25, 3.0])
    factors = lfm_np.Factors(U, V, item_bias=d, global_bias=-0.375, params={"alpha": 2.5, "pair": (1, 2)})
    factors.save(where / "odd.name")
    raw = (where / "odd.name").read_bytes()
    size = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + size])
    meta = header.pop("__metadata__")
    model, sealed = json.loads(meta["model"]), meta["sha256"]
    tensors = {}
    for name, told in header.items():
        first, end = told["data_offsets"]
        assert told["dtype"] == "F64"
        tensors[name] = np.frombuffer(raw[8 + size + first : 8 + size + end]).reshape(told["shape"])
    again: Any = lfm_np.Factors.load(where / "odd.name", mmap=True)
    return wrong(
        names=sorted(tensors) == ["item_bias", "item_factors", "user_factors"],
        arrays=np.array_equal(tensors["user_factors"], U) and np.array_equal(tensors["item_factors"], V),
        biases=np.array_equal(tensors["item_bias"], d) and model["global_bias"] == -0.375,
        model=sorted(model) == ["global_bias", "history", "params", "status"] and model["status"] == "max_iterations",
        kind=meta["format"] == "lfm_np.factors" and meta["version"] == "1",
        sealed=hashlib.sha256(raw.replace(sealed.encode(), b"0" * 64)).hexdigest() == sealed,
        again=same(again, factors) and again.params["alpha"] == 2.5 and list(again.params["pair"]) == [1, 2],
        alone=sorted(path.name for path in where.iterdir()) == ["odd.name"],
    )


# --- checkpoints ---------------------------------------------------------------------------------


def _gone_on(where: Path) -> list[str]:
    """The last sweep is saved whatever ``every`` is, and the history goes on from it."""
    model, X = Rows("ials", lam=0.3, nu=0.5, alpha=2.0, a0=0.2), data(seed=31)
    U, V = init = start(17, 11, 3)
    J = []
    for _ in range(4):
        U = model.half(X, V)
        V = model.half(X.T, U)
        J.append(model.J(X, U, V))
    words: dict[str, Any] = {"factors": 3, "init": init, "dtype": "float64", **model.words}
    path = where / "fit"
    lfm_np.als(csr(X), iterations=2, checkpoint=lfm_np.Checkpoint(path, every=1e6), **words)
    kept = path.exists()
    fit: Any = lfm_np.als(csr(X), iterations=4, tolerance=1e-9, checkpoint=path, **words)
    whole: Any = lfm_np.als(csr(X), iterations=4, **words)
    return wrong(
        kept=kept,
        numbers=[record["iteration"] for record in fit.history] == [1, 2, 3, 4],
        objective=close([record["objective"] for record in fit.history], J, 1e-9),
        scores=close(all_scores(fit), U @ V.T, 1e-8),
        bits=same(fit, whole),
    )


def _refused(where: Path) -> list[str]:
    """Fewer iterations than were done, another λ, another X by one value; the file stays as it was."""
    X, path = csr(data(seed=32)), where / "fit"
    words: dict[str, Any] = {"factors": 2, "random_state": 1, "checkpoint": path}
    lfm_np.als(X, iterations=3, regularization=0.5, **words)
    raw = path.read_bytes()
    other = X.copy()
    other.data[-1] += 0.25
    bad = []
    for name, call, word in (
        ("fewer", lambda: lfm_np.als(X, iterations=2, regularization=0.5, **words), "iterations"),
        ("λ", lambda: lfm_np.als(X, iterations=3, regularization=0.25, **words), "regularization"),
        ("X", lambda: lfm_np.als(other, iterations=3, regularization=0.5, **words), "x"),
    ):
        try:
            call()
            bad.append(f"{name} taken")
        except ValueError as error:
            if not tells(error, word):
                bad.append(f"{name}: {error}")
    return bad + wrong(stays=path.read_bytes() == raw)


# --- stored matrices -----------------------------------------------------------------------------


def _both_orders(zeros: str, where: Path) -> list[str]:
    """CSR of the matrix and of its transpose; a stored 0 is dropped, or a value."""
    full = np.where(np.isnan(data(9, 6, seed=5)), 0.0, data(9, 6, seed=5))
    cells = np.argwhere(full > 0)
    cells = np.vstack([cells, [8, 2]])
    values = np.append(full[full > 0], 0.0)
    X = sp.coo_array((values, tuple(cells.T)), shape=(9, 6))
    stored = lfm_np.StoredMatrix.from_matrix(X, where / "m", zeros=zeros, dtype="float64")
    kept = len(values) - (zeros == "drop")
    bad = wrong(shape=stored.shape == (9, 6), nnz=stored.nnz == kept, dtype=stored.dtype == np.float64)
    for name, matrix in (("rows", X), ("columns", X.T)):
        order = np.lexsort((matrix.coords[1], matrix.coords[0]))
        order = order[(matrix.data[order] > 0) | (zeros == "keep")]
        parts = [np.load(where / "m" / f"{name}.{part}.npy") for part in ("indptr", "indices", "data")]
        lengths = np.bincount(matrix.coords[0][order], minlength=matrix.shape[0])
        mine = (np.append(0, np.cumsum(lengths)), matrix.coords[1][order], matrix.data[order])
        if not all(map(np.array_equal, parts, mine)):
            bad.append(name)
    return bad


def _stored_biases(where: Path) -> list[str]:
    """Three sweeps of ratings with μ and biases from the disk, beside least squares."""
    model, X = Rows("ratings", lam=0.6, nu=0.0), data(seed=33)
    mu = float(np.nanmean(X))
    U, V = init = start(17, 11, 2)
    d = np.zeros(11)
    for _ in range(3):
        both = np.array([model.solve(x, np.column_stack([V, np.ones(11)]), mu + d) for x in X])
        U, b = both[:, :2], both[:, 2]
        both = np.array([model.solve(x, np.column_stack([U, np.ones(17)]), mu + b) for x in X.T])
        V, d = both[:, :2], both[:, 2]
    stored = lfm_np.StoredMatrix.from_matrix(csr(X), where / "m", zeros="keep", dtype="float64")
    fit: Any = lfm_np.als(stored, factors=2, iterations=3, biases=True, init=init, dtype="float64", **model.words)
    return wrong(
        mu=close(fit.global_bias, mu, 1e-12),
        biases=close(fit.user_bias, b, 1e-8) and close(fit.item_bias, d, 1e-8),
        scores=close(all_scores(fit), mu + b[:, None] + d + U @ V.T, 1e-8),
    )


def _stored_records(where: Path) -> list[str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table(
        {"who": ["b", "a", "b", "a", "b", None], "what": [9, 9, 9, 4, 9, 4], "n": [4.0, 2.0, 7.0, 1.5, None, 3.0]}
    )
    pq.write_table(table, where / "r.parquet", row_group_size=2)
    bad = []
    for how, value in (("mean", 5.5), ("max", 7.0), ("last", 7.0), ("count", 2.0), ("sum", 11.0)):
        stored = lfm_np.StoredMatrix.from_parquet(
            where / "r.parquet", where / how, user="who", item="what", value="n", duplicates=how, nulls="drop"
        )
        found = [np.load(where / how / f"rows.{part}.npy").tolist() for part in ("indptr", "indices", "data")]
        ones = [1.0, 1.0] if how == "count" else [1.5, 2.0]
        if found != [[0, 2, 3], [0, 1, 1], [*ones, value]]:
            bad.append(how)
        if list(np.asarray(stored.users)) != ["a", "b"] or list(np.asarray(stored.items)) != [4, 9]:
            bad.append(f"ids of {how}")
    return bad


# --- memory --------------------------------------------------------------------------------------


def _as_measured() -> list[str]:
    """The estimates of docs/reliability.md, in MB or MiB, of two threads."""
    bad = []
    for m, n, nnz, als, sgd in (
        (1_000_000, 1_000, 2_500_000, 577, 834),
        (138_000, 27_000, 8_000_000, 157, 260),
        (500_000, 100_000, 8_000_000, 398, 604),
    ):
        for solver, told in (("als", als), ("sgd", sgd)):
            found = lfm_np.estimate_memory(m, n, nnz, factors=64, solver=solver, num_threads=2)
            if not 0.98 * told * 1e6 < found < 1.02 * told * 2**20:
                bad.append(f"{m} {solver}: {found}")
    return bad


def _differences() -> list[str]:
    """Of a billion cells: 4 bytes for a value that is read, 4 for a negative; padding to 16 factors."""
    nnz = 10**9

    def sgd(**words: Any) -> int:
        return lfm_np.estimate_memory(10**5, 10**5, nnz, factors=16, solver="sgd", num_threads=1, **words)

    def als(k: int, dtype: str = "float32") -> int:
        return lfm_np.estimate_memory(10**7, 10**6, 10**7, factors=k, dtype=dtype, num_threads=1)

    return wrong(
        values=3.9 < (sgd(uses_values=True) - sgd()) / nnz < 4.1,
        negatives=3.9 < (sgd() - sgd(sampled=False)) / nnz < 4.1,
        all=15.5 < sgd() / nnz < 17,
        padded=abs(als(17) - als(32)) < 0.2 * als(32) and als(17) > 1.5 * als(16),
        factors=0.95 < als(64) / (2 * 11e6 * 64 * 4) < 1.15,
        double=1.9 < als(64, "float64") / als(64) < 2.05,
    )


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    yield _holds("tensors, metadata and hash of a model file", inside(_by_hand))
    yield _holds("a checkpoint that is seldom saved", inside(_gone_on))
    yield _holds("checkpoints of other arguments are refused", inside(_refused))
    for zeros in ("keep", "drop"):
        yield _holds(f"both orders on the disk, zeros: {zeros}", inside(partial(_both_orders, zeros)))
    yield _holds("biases from the disk", inside(_stored_biases))
    if installed("pyarrow"):
        yield _holds("records of several groups by every rule", inside(_stored_records))
    yield _holds("estimates of memory as documented", _as_measured)
    yield _holds("what a cell and a factor cost", _differences)
    yield _holds("lengths of rows are uniform up to all columns", _uniform_lengths)
    yield _holds("every row keeps a pair to learn from", _shares)
    yield _holds("planted cells at odd parameters", _planted)
    yield _holds("a MovieLens file of one's own", inside(_own_movielens))
