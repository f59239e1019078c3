"""What operators keep as matrices: in folders, on clusters, as a local MovieLens; read by NumPy, fitted by loops."""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

import lfm_np

from .case import Case, Group
from .cases_operators_at_their_tables import cells_of, standing, written
from .places import together
from .working_days import (
    Model,
    all_scores,
    best,
    close,
    csr,
    faultless,
    folder,
    judged,
    same,
    stars,
    start,
    wrong,
)  # fmt: skip

_GROUP = Group("operators")
_holds = faultless(_GROUP)
Of = lfm_np.Interactions
RATINGS = Model("ratings", lam=0.4, nu=1.0)


@contextlib.contextmanager
def variable(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _read_back(place: Path, side: str) -> sp.csr_array:
    data, indices, indptr = (np.load(place / f"{side}.{name}.npy") for name in ("data", "indices", "indptr"))
    width = int(indices.max()) + 1
    return sp.csr_array((data, indices, indptr), shape=(len(indptr) - 1, width))


def _dictionaries_stored() -> list[str]:
    """Row groups with dictionaries of other orders, nulls that are dropped; the folder read by NumPy and pyarrow."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with folder() as place:
        source = place / "in"
        one, two = ["eve", None, "ann", "eve"], ["ann", "zoe", "eve", None]
        written(
            source / "1.parquet", {"user": pa.array(one).dictionary_encode(), "item": [4, 4, 9, 9], "v": [1.5, 2, 3, 4]}
        )
        written(
            source / "2.parquet", {"user": pa.array(two).dictionary_encode(), "item": [9, 4, 4, 4], "v": [0.5, 6, 7, 8]}
        )
        lfm_np.StoredMatrix.from_parquet(source, place / "out", value="v", nulls="drop")
        users, items = (
            pq.read_table(place / "out" / f"{name}.parquet").column(0).to_pylist() for name in ("users", "items")
        )
        rows, columns = _read_back(place / "out", "rows").toarray(), _read_back(place / "out", "columns").toarray()
        shape = json.loads((place / "out" / "manifest.json").read_text())["shape"]
    mine = np.array([[0, 3.5], [8.5, 4], [6, 0]])
    return wrong(
        ids=users == ["ann", "eve", "zoe"] and items == [4, 9],
        rows=np.array_equal(rows, mine),
        columns=np.array_equal(columns, mine.T),
        shape=list(shape) == [3, 2],
    )


def _zeros_after_means() -> list[str]:
    """The mean of 0 and 3 is 1.5 whether zeros count or not; a mean of 0 counts only where zeros do."""
    found = {}
    with folder() as place:
        records = {"user": [1, 1, 1, 2, 2, 2], "item": [5, 5, 6, 5, 5, 6], "v": [0.0, 3.0, 0.0, 2.0, -2.0, 1.0]}
        path = written(place / "x.parquet", records)
        for zeros in ("drop", "keep"):
            out = place / zeros
            lfm_np.StoredMatrix.from_parquet(path, out, value="v", duplicates="mean", zeros=zeros)
            X = sp.coo_array(_read_back(out, "rows"))
            found[zeros] = dict(zip(zip(*(c.tolist() for c in X.coords), strict=True), X.data.tolist(), strict=True))
    return wrong(
        drop=found["drop"] == {(0, 0): 1.5, (1, 1): 1.0},
        keep=found["keep"] == {(0, 0): 1.5, (0, 1): 0.0, (1, 0): 0.0, (1, 1): 1.0},
    )


def _order_of_names() -> list[str]:
    """part-10 comes before part-2, as names are sorted, whenever they were written."""
    with folder() as place:
        for part in (2, 10, 1):
            written(place / "in" / f"part-{part}.parquet", {"user": [1], "item": [1], "v": [float(part)]})
        data: Any = Of.from_parquet(place / "in", value="v", duplicates="last")
        lfm_np.StoredMatrix.from_parquet(place / "in", place / "out", value="v", duplicates="last")
        stored = np.load(place / "out" / "rows.data.npy")
    return wrong(memory=data.matrix.data.tolist() == [2.0], disk=stored.tolist() == [2.0])


def _stored_odd_matrix() -> list[str]:
    """COO with pairs twice, stored zeros, no order, an empty row and column, integers."""
    rows, columns, values = [3, 0, 3, 1, 3], [2, 1, 2, 0, 0], [2, 5, 3, 0, 7]
    X = sp.coo_array((np.array(values, np.int64), (rows, columns)), shape=(5, 4))
    mine = np.zeros((5, 4))
    mine[3, 2], mine[0, 1], mine[3, 0] = 5, 5, 7
    with folder() as place:
        stored = lfm_np.StoredMatrix.from_matrix(X, place / "m", dtype="float64", num_threads=1)
        by_row = [np.load(place / "m" / f"rows.{name}.npy").tolist() for name in ("indptr", "indices", "data")]
        by_column = [np.load(place / "m" / f"columns.{name}.npy").tolist() for name in ("indptr", "indices", "data")]
        facts = {"shape": stored.shape == (5, 4), "nnz": stored.nnz == 3, "ids": stored.users is None is stored.items}
    return wrong(
        rows=by_row == [[0, 1, 1, 1, 3, 3], [1, 0, 2], [5.0, 7.0, 5.0]],
        columns=by_column == [[0, 1, 2, 3, 3], [3, 0, 3], [7.0, 5.0, 5.0]],
        **facts,
    )


def _moved_and_fitted() -> list[str]:
    """Built here, moved there, opened by a relative path through a link, fitted from elsewhere; beside loops."""
    draw = np.random.default_rng(8)
    X = np.where(draw.random((40, 17)) < 0.3, draw.integers(1, 6, (40, 17)), np.nan)
    rows, columns = np.nonzero(~np.isnan(X))
    given = sp.csr_array((X[rows, columns], (rows, columns)), shape=X.shape)
    model, init = Model("ials", 0.7, 0.2, 0.3, 0.5), start(40, 17, 3)
    U, V = model.sweeps(X, init[1], 3)
    words: dict[str, Any] = {"factors": 3, "iterations": 3, "init": init, "dtype": "float64", "solver": "exact"}
    with folder() as place:
        lfm_np.StoredMatrix.from_matrix(given, place / "old", dtype="float64")
        (place / "old").rename(place / "new one")
        (place / "link").symlink_to("new one", target_is_directory=True)
        (place / "elsewhere").mkdir()
        with standing(place):
            stored = lfm_np.StoredMatrix("link", memory=64 << 20, factors_in="elsewhere")
            os.chdir("elsewhere")
            fit = lfm_np.als(stored, **model.words, **words)
        left = list((place / "elsewhere").iterdir())
    here = lfm_np.als(given, **model.words, **words)
    return wrong(
        scores=close(fit.user_factors @ fit.item_factors.T, U @ V.T, 1e-9),
        objective=abs(fit.history[-1]["objective"] / model.objective(X, U, V) - 1) < 1e-9,
        bits=np.array_equal(fit.item_factors, here.item_factors),
        left=left == [],
    )


def _local_films() -> list[str]:
    """A folder of one's own, by a relative path, then another; columns are in the order of the source's ids."""
    films, found = np.array([50, 7, 11]), []
    with folder() as place, standing(place):
        for name, more in (("one", 0.0), ("two", 1.0)):
            Path(name).mkdir()
            np.savez(
                Path(name) / "ml-100k.npz", user=np.array([1, 0, 2, 0]), item=np.array([0, 1, 2, 2]),
                value=np.array([1, 2, 3, 4], np.float32) + np.float32(more), timestamp=np.array([40, 30, 20, 10]),
                known=np.array([True, True, False, True]), movie_id=films[[0, 1, 2, 2]],
                u1_test=np.array([False, False, True, True]),
            )  # fmt: skip
            with variable("LFM_NP_DATA", name):
                data: Any = lfm_np.datasets.movielens("100k")
                split = lfm_np.datasets.movielens_split("100k", "u1")
            X = np.full((3, 3), -1.0)
            coo = sp.coo_array(data.matrix)
            X[coo.coords[0], coo.coords[1]] = np.nan_to_num(coo.data, nan=9.0)
            mine = np.array([[2 + more, 4 + more, -1], [-1, -1, 1 + more], [-1, 9, -1]])
            ids = data.users.tolist() == [1, 2, 3] and data.items.tolist() == [7, 11, 50]
            times = np.array_equal(data.timestamps, [30, 10, 40, np.nan], equal_nan=True)
            parts = (set(cells_of(split.train)), set(cells_of(split.test)))
            cut = parts == ({(2, 50), (1, 7)}, {(3, 11), (1, 11)})
            found.append(wrong(ids=ids, values=np.array_equal(X, mine), times=times, cut=cut))
    return [f"{n}: {what}" for n, bad in enumerate(found) for what in bad]


def _drawn_negatives() -> list[str]:
    """Ids fall where numbers rise, so that columns are the other way round; a negative that is the test item is -1."""
    item = np.arange(300, dtype=np.int32)
    user = (item >= 150).astype(np.int32)
    negatives = np.array([np.arange(150, 249), np.arange(0, 99)], np.int32)
    negatives[0, 5] = 149
    with folder() as place:
        np.savez(
            place / "ml-1m.npz", user=user, item=item, value=np.full(300, 4, np.float32), timestamp=np.arange(300),
            known=np.ones(300, bool), movie_id=1000 - item, ncf_split=np.where(np.isin(item, [149, 299]), 2, 0),
            ncf_test_negatives=negatives,
        )  # fmt: skip
        with variable("LFM_NP_DATA", str(place)):
            split = lfm_np.datasets.movielens_split("1m", "ncf")
    mine = 299 - negatives
    mine[0, 5] = -1
    return wrong(
        test=set(cells_of(split.test)) == {(1, 1000 - 149), (2, 1000 - 299)},
        train=split.train.matrix.nnz == 298,
        negatives=[sorted(row) for row in np.asarray(split.negatives).tolist()]
        == [sorted(row) for row in mine.tolist()],
    )


def _threads_of_a_build() -> list[str]:
    draw = np.random.default_rng(11)
    X = sp.random_array((900, 257), density=0.02, rng=draw, format="csr", dtype=np.float64)
    T = X.T.tocsr()
    T.sort_indices()
    files: list[dict[str, bytes]] = []
    with folder() as place:
        for threads in (1, 2, 5):
            lfm_np.StoredMatrix.from_matrix(X, place / str(threads), dtype="float64", num_threads=threads)
            files.append({path.name: path.read_bytes() for path in (place / str(threads)).iterdir()})
        found = [np.load(place / "5" / f"columns.{name}.npy") for name in ("data", "indices", "indptr")]
    return wrong(
        same=files[0] == files[1] == files[2],
        transpose=all(map(np.array_equal, found, (T.data, T.indices, T.indptr))),
    )


def _to_disk_and_back() -> list[str]:
    """Two sweeps in memory, two more from the disk, one in memory again: the scores of five by loops."""
    X, init = stars(24, 13, seed=5), start(24, 13, 4)
    U, V = RATINGS.sweeps(X, init[1], 5)
    words: dict[str, Any] = {**RATINGS.words, "factors": 4, "init": init, "dtype": "float64"}
    with folder() as place:
        stored = lfm_np.StoredMatrix.from_matrix(csr(X), place / "m", zeros="keep", dtype="float64")
        for source, times in ((csr(X), 2), (stored, 4), (csr(X), 5)):
            fit = lfm_np.als(source, iterations=times, checkpoint=place / "c", **words)
    whole = lfm_np.als(csr(X), iterations=5, **words)
    return wrong(
        scores=close(all_scores(fit), U @ V.T),
        bits=same(fit, whole),
        history=len(fit.history) == 5 and math.isclose(fit.history[-1]["objective"], RATINGS.objective(X, U, V)),
    )


def _mapped_files() -> list[str]:
    """The files of the folder, mapped by NumPy, are a matrix for fits, lists and judgements."""
    X, test = stars(26, 15, seed=7), stars(26, 15, seed=8)
    model, init = Model(alpha=0.5, lam=0.2), start(26, 15, 3)
    U, V = model.sweeps(X, init[1], 2)
    has, held = ~np.isnan(X), ~np.isnan(test)
    with folder() as place:
        lfm_np.StoredMatrix.from_matrix(csr(X), place / "m", dtype="float64")
        before = {path.name: path.read_bytes() for path in (place / "m").iterdir()}
        names = ("data", "indices", "indptr")
        parts = [np.load(place / "m" / f"rows.{name}.npy", mmap_mode="r") for name in names]
        given = sp.csr_array(tuple(parts), shape=X.shape)
        fit = lfm_np.als(given, factors=3, iterations=2, init=init, dtype="float64", **model.words)
        found = lfm_np.evaluate(fit, given, csr(test), ("recall@4", "ndcg@4", "mrr", "auc"))
        ids = fit.recommend(np.arange(26), N=5, seen=Of(given, np.arange(26), np.arange(15))).ids
        kept = before == {path.name: path.read_bytes() for path in (place / "m").iterdir()}
    mine = judged(U @ V.T, has, held, 4)
    lists = [best(row, ~own, 5) for row, own in zip(U @ V.T, has, strict=True)]
    return wrong(
        kept=kept,
        lists=ids.tolist() == lists,
        scores=close(fit.user_factors @ fit.item_factors.T, U @ V.T),
        judged=all(abs(found[name] - mine[name]) < 1e-12 for name in found),
    )


def _fits_at_once() -> list[str]:
    """Four threads fit one stored matrix by four models."""
    X = stars(31, 14, seed=9)
    models = [
        Model(),
        Model("ials", 2.0, 0.3, 0.5),
        Model("confidence", 3.0, 0.5, 1.0),
        Model("hu-koren", 4.0, 0.1, 2.0, 0.5),
    ]
    with folder() as place:
        stored = lfm_np.StoredMatrix.from_matrix(csr(X), place / "m", dtype="float64")

        def fit(n: int) -> Any:
            words: dict[str, Any] = {"init": start(31, 14, n + 1), "num_threads": n % 2 + 1, **models[n].words}
            return lfm_np.als(stored, factors=n + 1, iterations=2, dtype="float64", **words)

        found = together(4, fit)
    facts = {}
    for n, model in enumerate(models):
        U, V = model.sweeps(X, start(31, 14, n + 1)[1], 2)
        facts[f"model {n}: {found[n]!r:.60}"] = close(all_scores(found[n]), U @ V.T)
    return wrong(**facts)


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    yield _holds("dictionaries of every file, stored and read by NumPy", _dictionaries_stored)
    yield _holds("zeros are left out after means, not before", _zeros_after_means)
    yield _holds("part-10 before part-2", _order_of_names)
    yield _holds("a matrix of COO, read back from the disk", _stored_odd_matrix)
    yield _holds("a stored matrix that moved", _moved_and_fitted)
    yield _holds("a build by one, two and five threads", _threads_of_a_build)
    yield _holds("a checkpoint that goes to the disk and back", _to_disk_and_back)
    yield _holds("files that NumPy maps", _mapped_files)
    yield _holds("four fits of one stored matrix at once", _fits_at_once)
    yield _holds("a folder of MovieLens of one's own", _local_films)
    yield _holds("drawn negatives of a local file", _drawn_negatives)
