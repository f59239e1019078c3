"""Journeys over stored matrices, scikit-learn, clusters and indexes, every station beside float64 loops."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

import lfm_np
from lfm_np import losses

from .case import Case, Group, installed
from .places import inside
from .working_days import (
    NAN,
    Model,
    all_scores,
    best,
    biased_half,
    close,
    csr,
    faultless,
    same,
    stars,
    start,
    wrong,
)

_GROUP = Group("quarter past four, engines")
_holds = faultless(_GROUP)
MODELS = {
    "hu-koren": Model("hu-koren", 1.5, 0.7, 0.4, 0.5),
    "ials": Model("ials", 2.0, 0.2, 0.03, 1.0),
    "confidence": Model("confidence", 2.5, 1.0, 0.6),
    "ratings": Model("ratings", lam=0.15, nu=1.0),
}
ENOUGH = 64 << 20


def numbers(model: Model, X: np.ndarray, k: int, sweeps: int) -> np.ndarray:
    U, V = model.sweeps(X, start(*X.shape, k)[1], sweeps)
    return U @ V.T


def words_of(model: Model, shape: tuple[int, int], k: int) -> dict[str, Any]:
    return {"factors": k, "init": start(*shape, k), "dtype": "float64", "random_state": 0, **model.words}


def _stored_and_gone_on(place: Path, name: str) -> list[str]:
    """The folder by NumPy, a fit begun in memory and ended on the disk, folded in, listed."""
    model, X = MODELS[name], stars(19, 8, seed=40)
    stored = lfm_np.StoredMatrix.from_matrix(
        csr(X), place / "m", dtype="float64", zeros="keep" if name == "ratings" else "drop", num_threads=1
    )
    parts = [np.load(place / "m" / f"rows.{part}.npy", mmap_mode="r") for part in ("data", "indices", "indptr")]
    turned = [np.load(place / "m" / f"columns.{part}.npy", mmap_mode="r") for part in ("data", "indices", "indptr")]
    words = words_of(model, X.shape, 3)
    lfm_np.als(csr(X), iterations=2, checkpoint=place / "c", **words)
    disk = lfm_np.StoredMatrix(place / "m", memory=ENOUGH, factors_in=place)
    fit = lfm_np.als(disk, iterations=4, checkpoint=place / "c", **words)
    S, full = numbers(model, X, 3, 4), np.nan_to_num(X)
    ids = fit.recommend(range(19), N=3, seen=csr(X)).ids
    return wrong(
        told=stored.shape == (19, 8) and stored.nnz == (~np.isnan(X)).sum() and stored.dtype == np.float64,
        rows=np.array_equal(sp.csr_array(tuple(map(np.array, parts)), shape=(19, 8)).toarray(), full),
        columns=np.array_equal(sp.csr_array(tuple(map(np.array, turned)), shape=(8, 19)).toarray(), full.T),
        scores=close(all_scores(fit), S, 1e-8),
        J=close(fit.history[-1]["objective"], model.objective(X, *model.sweeps(X, words["init"][1], 4)), 1e-9),
        lists=ids.tolist() == [best(s, np.isnan(x), 3) for s, x in zip(S, X, strict=True)],
    )


def _records_stored(place: Path, how: str) -> list[str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    draw = np.random.default_rng(6)
    u, i, x = draw.integers(0, 12, 150), draw.integers(0, 7, 150), draw.integers(1, 6, 150).astype(float)
    users = [f"ü{n:03}" for n in u]
    (place / "in").mkdir()
    for n, part in enumerate((slice(0, 70), slice(70, 150))):
        table = pa.table({"who": users[part], "what": i[part] * 7, "x": x[part]})
        pq.write_table(table, place / "in" / f"{n}.parquet", row_group_size=30)
    stored = lfm_np.StoredMatrix.from_parquet(
        place / "in", place / "m", memory=ENOUGH, user="who", item="what", value="x", duplicates=how
    )
    cells: dict[tuple[int, int], list[float]] = {}
    for a, b, c in zip(u, i, x, strict=True):
        cells.setdefault((int(a), int(b)), []).append(float(c))
    X = np.full((12, 7), NAN)
    for cell, values in cells.items():
        X[cell] = {"sum": sum, "last": lambda v: v[-1], "max": max}[how](values)
    words = words_of(MODELS["ials"], X.shape, 2)
    small = tuple(f.astype(np.float32) for f in words["init"])
    fit = lfm_np.als(stored, iterations=3, **{**words, "dtype": "float32", "init": small})
    data = lfm_np.Interactions(csr(X), stored.users, stored.items)
    frame = lfm_np.recommend_frame(fit, data, N=7, seen=data, items=stored.items[:3], backend="pyarrow").to_pylist()
    S = numbers(MODELS["ials"], X, 2, 3)
    allowed = np.isnan(X)
    allowed[:, 3:] = False
    return wrong(
        users=list(stored.users) == [f"ü{n:03}" for n in range(12)],
        items=list(stored.items) == [7 * n for n in range(7)],
        scores=close(all_scores(fit), S, 1e-3),
        many=len(frame) == allowed.sum(),
        whom={(r["user"], r["item"]) for r in frame} == {(f"ü{a:03}", 7 * int(b)) for a, b in np.argwhere(allowed)},
        falling=all(
            [r["rank"] for r in some] == list(range(1, len(some) + 1))
            and [r["score"] for r in some] == sorted((r["score"] for r in some), reverse=True)
            for some in ([r for r in frame if r["user"] == user] for user in stored.users)
        ),
    )


def _transformed_and_back() -> list[str]:
    from lfm_np.sklearn import ALS

    X, new, model = stars(15, 8, seed=41), stars(4, 8, seed=42), MODELS["confidence"]
    fit = ALS(iterations=3, **words_of(model, X.shape, 3))
    T = fit.fit_transform(csr(X))
    V, Z = fit.item_factors_, model.sweeps(X, start(15, 8, 3)[1], 3)[1]
    back = fit.inverse_transform(fit.transform(csr(new)))
    fit.set_params(regularization=50.0, alpha=9.0)
    kept = fit.transform(csr(new))
    other = fit.fit(csr(X))
    W = other.item_factors_
    stiff = model._replace(lam=50.0, alpha=9.0)
    return wrong(
        one_more=close(T, model.half(X, V), 1e-9),
        fitted=close(V @ V.T, Z @ Z.T, 1e-7),
        back=close(back, model.half(new, V) @ V.T, 1e-9),
        kept=close(kept @ V.T, back, 1e-12),
        next=close(other.inverse_transform(other.transform(csr(X))), stiff.half(X, W) @ W.T, 1e-9),
        counted=other.n_iter_ == 3 and other.n_features_in_ == 8,
    )


def _rating_estimator() -> list[str]:
    from lfm_np.sklearn import ALS

    X, new = stars(14, 7, seed=43), stars(3, 7, seed=44)
    init = lfm_np.Factors(*start(14, 7, 2), user_bias=np.zeros(14), item_bias=np.zeros(7), global_bias=0.0)
    fit = ALS(factors=2, iterations=2, weighting="ratings", biases=True, regularization=0.5, dtype="float64", init=init)
    T = fit.fit(csr(X)).transform(csr(new))
    model = fit.factors_
    U, a = biased_half(new, model.item_factors, model.item_bias, model.global_bias, 0.5)
    S = model.global_bias + a[:, None] + model.item_bias + U @ model.item_factors.T
    ids = fit.fold_in_users(csr(new)).recommend([2, 0], N=4, seen=csr(new)).ids
    return wrong(
        shape=T.shape == (3, 3),
        parts=close(T, np.column_stack([U, a]), 1e-9),
        back=close(fit.inverse_transform(T), S, 1e-9),
        lists=ids.tolist() == [best(S[u], np.isnan(new[u]), 4) for u in (2, 0)],
        mean=close(model.global_bias, np.nanmean(X), 1e-12),
    )


def _sgd_estimator(kind: str) -> list[str]:
    from lfm_np.sklearn import SGD

    X, new = stars(14, 7, seed=45), stars(4, 7, seed=46)
    words: dict[str, Any] = {"factors": 3, "epochs": 2, "dtype": "float64", "random_state": 3}
    told = {"weighting": "confidence", "alpha": 2.0, "unobserved_weight": 0.25, "regularization": 0.5}
    loss, more, model = {
        "BPR": (losses.BPR(), {}, Model("ials", 1.0, 1.0, 0.1, 1.0)),
        "told": (
            losses.SampledSoftmax(), {"negatives": 3, "fold_in": {**told, "regularization_exponent": 0.0}},
            Model("confidence", 2.0, 0.25, 0.5),
        ),
        "Squared": (
            losses.Squared(), {"sampler": None, "regularization": {"user": 0.3, "item": 0.1}},
            Model("ratings", lam=0.3, nu=1.0),
        ),
    }[kind]  # fmt: skip
    fit = SGD(loss, **words, **more).fit(csr(X))
    T, V = fit.transform(csr(new)), fit.item_factors_
    again = lfm_np.sgd(csr(X), loss, **words, **{k: v for k, v in more.items() if k != "fold_in"})
    ids = fit.fold_in_users(csr(new)).recommend(range(4), N=7, seen=csr(new)).ids
    S = model.half(new, V) @ V.T
    return wrong(
        same=same(fit.factors_, again),
        solved=close(T, model.half(new, V), 1e-9),
        back=close(fit.inverse_transform(T), S, 1e-9),
        lists=ids.tolist() == [best(s, np.isnan(x), 7) for s, x in zip(S, new, strict=True)],
        sweeps=fit.n_iter_ == 2,
    )


def _squared_with_biases_folded() -> list[str]:
    from lfm_np.sklearn import SGD

    X, new = stars(16, 6, seed=47), stars(3, 6, seed=48)
    fit = SGD(
        losses.Squared(), sampler=None, biases=True, factors=2, epochs=3, dtype="float64", random_state=0,
        regularization={"user": 0.2, "item": 0.1, "bias": 0.05},
    ).fit(csr(X))  # fmt: skip
    model, rows = fit.factors_, []
    for x in new:
        lam = 0.2 * (~np.isnan(x)).sum()
        U, a = biased_half(x[None], model.item_factors, model.item_bias, model.global_bias, lam)
        rows.append(np.append(U[0], a[0]))
    mine = np.array(rows)
    S = model.global_bias + mine[:, 2:] + model.item_bias + mine[:, :2] @ model.item_factors.T
    T = fit.transform(csr(new))
    return wrong(rows=close(T, mine, 1e-9), back=close(fit.inverse_transform(T), S, 1e-9))


def _whatever_is_hidden() -> list[str]:
    """All ratings are 3 and all items the same, so that the error does not depend on what is hidden."""
    from lfm_np.sklearn import ALS, HeldOut

    X = np.full((6, 10), 3.0)
    model = Model("ratings", lam=0.8)
    fit = ALS(
        factors=1, iterations=3, init=(np.full((6, 1), 0.5), np.full((10, 1), 0.5)), dtype="float64", **model.words
    )
    fit.fit(csr(X))
    V = model.sweeps(X, np.full((10, 1), 0.5), 3)[1]
    v = float((V[0] ** 2)[0])
    half, fifth = (3 - 3 * kept * v / (kept * v + 0.8) for kept in (5, 8))
    new = csr(np.full((4, 10), 3.0))
    return wrong(
        half=close(HeldOut("neg_root_mean_squared_error", 0.5)(fit, new), -half, 1e-9),
        fifth=close(fit.score(new), -fifth, 1e-9),
        again=close(HeldOut("neg_root_mean_squared_error", 0.2, 77)(fit, new), -fifth, 1e-9),
    )


def _logarithms_in_a_pipeline() -> list[str]:
    import pandas as pd
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer

    from lfm_np.sklearn import ALS

    X, model = stars(13, 6, seed=49), MODELS["hu-koren"]
    L = np.log1p(X)
    line = make_pipeline(
        FunctionTransformer(lambda A: A.log1p(), accept_sparse=True), ALS(iterations=2, **words_of(model, X.shape, 2))
    )
    T = line.fit_transform(csr(X))
    V, Z = line[-1].item_factors_, model.sweeps(L, start(13, 6, 2)[1], 2)[1]
    frame = pd.DataFrame(np.nan_to_num(X), columns=[f"film {n}" for n in range(6)])
    other = ALS(iterations=2, **words_of(model, X.shape, 2)).set_output(transform="pandas")
    told = other.fit(frame).transform(frame)
    W = other.item_factors_
    return wrong(
        line=close(T @ V.T, model.half(L, Z) @ Z.T, 1e-8),
        names=list(told.columns) == ["als0", "als1"] and list(other.feature_names_in_) == list(frame.columns),
        frame=close(told.to_numpy(), model.half(X, W), 1e-9),
    )


@contextlib.contextmanager
def cluster() -> Iterator[Any]:
    import distributed

    with distributed.Client(processes=False, n_workers=2, threads_per_worker=1, dashboard_address=":0") as client:
        yield client


def _cluster_gone_on(place: Path, name: str) -> list[str]:
    model, X = MODELS[name], stars(21, 7, seed=50)
    words = {**words_of(model, X.shape, 3), "shards": 3, "checkpoint": place / "c", "checkpoint_every": 1}
    far = lfm_np.distributed
    with cluster() as client:
        two = far.als(csr(X), client=client, iterations=2, **words)
        four = far.als(csr(X), client=client, iterations=4, users_to=place / "u.npy", **words)
        on_disk = np.load(place / "u.npy")
        here = lfm_np.als(csr(X), iterations=1, **{**words_of(model, X.shape, 3), "init": four})
        return wrong(
            two=close(all_scores(two), numbers(model, X, 3, 2), 1e-8),
            four=close(all_scores(four), numbers(model, X, 3, 4), 1e-8),
            five=close(all_scores(here), numbers(model, X, 3, 5), 1e-8),
            disk=np.array_equal(on_disk, four.user_factors),
            history=[r["iteration"] for r in four.history] == [1, 2, 3, 4],
        )


def _cluster_from_files(place: Path) -> list[str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    X = stars(16, 6, seed=51)
    cells = np.argwhere(~np.isnan(X))[np.random.default_rng(0).permutation((~np.isnan(X)).sum())]
    (place / "in").mkdir()
    for n, part in enumerate(np.array_split(cells, 3)):
        columns = {"user": [f"p{u}" for u in part[:, 0]], "item": part[:, 1] + 100, "value": X[part[:, 0], part[:, 1]]}
        pq.write_table(pa.table(columns), place / "in" / f"{n}.parquet")
    with cluster() as client:
        data = lfm_np.distributed.from_parquet(
            place / "in", client=client, shards=2, staging=place / "split", value="value", duplicates="error"
        )
        users = data.users(client)
        fit = lfm_np.distributed.als(data, client=client, iterations=2, **words_of(MODELS["ratings"], X.shape, 2))
    rows = [int(str(u)[1:]) for u in users]
    Y = X[rows]
    told = lfm_np.Interactions(csr(Y), users, data.items)
    table = lfm_np.recommend_frame(fit, told, ["p3"], N=6, seen=told, backend="pyarrow").to_pylist()
    S = numbers(MODELS["ratings"], Y, 2, 2)
    at = rows.index(3)
    return wrong(
        everybody=sorted(rows) == list(range(16)) and data.shape == (16, 6) and sum(data.rows) == 16,
        items=data.items.tolist() == list(range(100, 106)),
        scores=close(all_scores(fit), S, 1e-8),
        table=[r["item"] - 100 for r in table] == [i for i in best(S[at], np.isnan(Y[at]), 6) if i >= 0],
    )


def _indexed(kind: str) -> list[str]:
    from lfm_np import ann

    X = stars(20, 12, seed=52)
    none: dict[str, Any] = {
        "user_bias": np.zeros(20, np.float32),
        "item_bias": np.zeros(12, np.float32),
        "global_bias": 0.0,
    }
    init = lfm_np.Factors(*(f.astype(np.float32) for f in start(20, 12, 3)), **none)
    fit = lfm_np.als(csr(X), factors=3, iterations=2, weighting="ratings", biases=True, regularization=0.3, init=init)
    P, Q = ann.item_vectors(fit), ann.user_vectors(fit, [4, 0])
    norms = (fit.item_factors.astype(float) ** 2).sum(1) + fit.item_bias.astype(float) ** 2
    if kind == "usearch":
        index = ann.usearch_index(fit, num_threads=1, expansion_search=128)
    else:
        index = ann.faiss_index(fit, connectivity=32)
        index.hnsw.efSearch = 128
    ids, scores = ann.search(index, fit, [4, 0], N=14)
    mine = fit.recommend([4, 0], N=14)
    S = all_scores(fit)
    return wrong(
        sphere=close((P.astype(float) ** 2).sum(1), np.full(12, norms.max()), 1e-5),
        product=close(P @ Q.T, (S - fit.global_bias - fit.user_bias[:, None])[[4, 0]].T, 1e-5),
        brute=mine.ids.tolist() == [best(S[u], np.ones(12, bool), 14) for u in (4, 0)],
        found=np.array_equal(ids, mine.ids) and np.array_equal(scores, mine.scores),
        one=np.array_equal(ann.search(index, fit, 4, N=3).ids, mine.ids[0, :3]),
    )


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    for name in MODELS:
        yield _holds(f"begun in memory, ended on the disk: {name}", inside(lambda p, n=name: _stored_and_gone_on(p, n)))
    if installed("pyarrow", "narwhals"):
        for how in ("sum", "last", "max"):
            yield _holds(f"records stored by {how}, fitted, a table", inside(lambda p, h=how: _records_stored(p, h)))
    if installed("sklearn"):
        yield _holds("an estimator there and back, and set anew", _transformed_and_back)
        yield _holds("an estimator of ratings with biases", _rating_estimator)
        for kind in ("BPR", "told", "Squared"):
            yield _holds(f"an estimator of sgd folds in: {kind}", lambda k=kind: _sgd_estimator(k))
        yield _holds("Squared with biases folds in by the users' λ", _squared_with_biases_folded)
        yield _holds("an error that does not depend on what is hidden", _whatever_is_hidden)
        if installed("pandas"):
            yield _holds("logarithms in a pipeline, and a frame", _logarithms_in_a_pipeline)
    if installed("dask", "distributed", "pyarrow"):
        for name in MODELS:
            yield _holds(f"a cluster goes on, then here: {name}", inside(lambda p, n=name: _cluster_gone_on(p, n)))
        yield _holds("a cluster reads, splits, fits, and a table", inside(_cluster_from_files))
    for kind in ("usearch", "faiss"):
        if installed(kind):
            yield _holds(f"ratings with biases in an index of {kind}", lambda k=kind: _indexed(k))
