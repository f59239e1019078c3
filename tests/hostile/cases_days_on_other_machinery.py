"""Working days on torch, dask, scikit-learn, stored matrices and indexes, beside float64 by hand."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np

import lfm_np
from lfm_np import losses

from .case import Case, Group, installed
from .working_days import (
    NAN,
    Model,
    all_scores,
    best,
    biased_half,
    close,
    csr,
    dense,
    faultless,
    folder,
    raised,
    same,
    stars,
    start,
    tells,
    wrong,
)

_GROUP = Group("day on other machinery")
_day = faultless(_GROUP)


def _torch_sweeps(rule: Model) -> list[str]:
    X, (U, V) = stars(30, 20, seed=51), start(30, 20, 4)
    X[3] = NAN
    X[:, 6] = NAN
    X[5] = 1.0
    words: dict[str, Any] = {"factors": 4, "init": (U, V), "dtype": "float64", **rule.words}
    with folder() as place:
        lfm_np.torch_backend.als(csr(X), iterations=1, num_threads=1, checkpoint=place / "c", **words)
        fit = lfm_np.torch_backend.als(csr(X), iterations=3, num_threads=1, checkpoint=place / "c", **words)
        whole = lfm_np.torch_backend.als(csr(X), iterations=3, num_threads=1, **words)
    mine = rule.sweeps(X, V, 3)
    S = all_scores(fit)
    return wrong(
        bits=same(fit, whole),
        scores=close(S, mine[0] @ mine[1].T, 1e-8),
        objective=close(fit.history[-1]["objective"], rule.objective(X, *mine), 1e-8),
        lists=fit.recommend(range(30), N=4, seen=csr(X)).ids.tolist()
        == [best(s, np.isnan(x), 4) for s, x in zip(S, X, strict=True)],
    )


def _torch_then_here() -> list[str]:
    X, new = stars(25, 15, seed=52), stars(2, 15, seed=53)
    fit = lfm_np.torch_backend.als(
        csr(X), factors=3, weighting="ratings", biases=True, regularization=0.3, dtype="float64", random_state=1
    )
    V, b = biased_half(X.T, fit.user_factors, fit.user_bias, float(np.nanmean(X)), 0.3)
    with folder() as place:
        fit.save(place / "m")
        folded = lfm_np.Factors.load(place / "m").fold_in_users(csr(new))
    U, a = biased_half(new, fit.item_factors, fit.item_bias, fit.global_bias, 0.3)
    return wrong(
        items=close(fit.item_factors, V, 1e-7) and close(fit.item_bias, b, 1e-7),
        folded=close(folded.user_factors, U, 1e-7) and close(folded.user_bias, a, 1e-7),
    )


def _torch_sgd_first_epoch() -> list[str]:
    X, (U, V) = stars(25, 15, seed=54) * 1e3, start(25, 15, 3)
    words: dict[str, Any] = {
        "sampler": None,
        "factors": 3,
        "learning_rate": 1e-13,
        "regularization": 0.0,
        "epochs": 1,
        "init": (U, V),
        "dtype": "float64",
    }
    there = lfm_np.torch_backend.sgd(csr(X), losses.Squared(), random_state=0, **words)
    loss = 0.5 * np.nanmean((X - U @ V.T) ** 2)
    odd = raised(lambda: lfm_np.torch_backend.als(csr(X), factors=2, device="tpu"))
    small = raised(lambda: lfm_np.torch_backend.als(csr(X), factors=2, memory_budget=10))
    return wrong(
        loss=close(there.history[0]["sampled_loss"], loss, 1e-6),
        device=isinstance(odd, (TypeError, ValueError)) and tells(odd, "device"),
        budget=isinstance(small, (TypeError, ValueError)) and tells(small, "memory_budget"),
    )


def _stored_from_parquet() -> list[str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    draw = np.random.default_rng(55)
    users = np.array(["zoé", "Ann", "ann", "", "日本", "bob"])[draw.integers(0, 6, 150)]
    items, plays = draw.integers(-5, 6, 150), draw.integers(1, 4, 150).astype(float)
    plays[draw.random(150) < 0.1] = NAN
    with folder() as place:
        table = pa.table({"who": users, "what": items, "plays": pa.array(plays, mask=np.isnan(plays))})
        pq.write_table(table, place / "r.parquet", row_group_size=17)
        names: dict[str, Any] = {"user": "who", "item": "what", "value": "plays", "nulls": "drop", "duplicates": "max"}
        stored = lfm_np.StoredMatrix.from_parquet(place / "r.parquet", place / "s", memory=64 << 20, **names)
        data = lfm_np.Interactions.from_parquet(place / "r.parquet", **names)
        ids = list(stored.users), list(stored.items)
        half = lfm_np.als(stored, factors=3, iterations=2, random_state=1, alpha=2.0, checkpoint=place / "c")
        here = lfm_np.als(data, factors=3, iterations=4, random_state=1, alpha=2.0, checkpoint=place / "c")
        there = lfm_np.als(lfm_np.StoredMatrix(place / "s"), factors=3, iterations=4, random_state=1, alpha=2.0)
        again = raised(lambda: lfm_np.StoredMatrix.from_parquet(place / "r.parquet", place / "s", **names))
    of: dict[tuple[str, int], float] = {}
    for u, i, p in zip(users.tolist(), items.tolist(), plays.tolist(), strict=True):
        if p == p:
            of[u, i] = max(p, of.get((u, i), 0))
    X = np.array([[of.get((u, i), NAN) for i in ids[1]] for u in ids[0]])
    return wrong(
        ids=ids == (sorted({u for u, _ in of}), sorted({i for _, i in of})),
        cells=np.array_equal(dense(data), X, equal_nan=True) and stored.nnz == len(of),
        half=len(half.history) == 2,
        bits=same(here, there),
        again=isinstance(again, (OSError, ValueError)) and tells(again, "s"),
    )


def _sklearn_by_hand() -> list[str]:
    from sklearn.base import clone
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer

    from lfm_np.sklearn import ALS

    X, new = stars(30, 18, seed=56), stars(4, 18, seed=57)
    rule = Model("confidence", alpha=3.0, a0=1.0, lam=0.4)
    model = ALS(factors=3, random_state=0, dtype="float64", iterations=3, **rule.words)
    pipe = make_pipeline(FunctionTransformer(np.log1p, accept_sparse=True), clone(model)).fit(csr(X))
    inner = pipe[-1]
    U = rule.half(np.log1p(new), inner.item_factors_)
    bare = raised(lambda: model.transform(csr(new)))
    return wrong(
        rows=close(pipe.transform(csr(new)), U, 1e-6),
        scores=close(inner.inverse_transform(U), U @ inner.item_factors_.T, 1e-9),
        counted=inner.n_features_in_ == 18 and inner.n_iter_ == 3,
        unfitted=type(bare).__name__ == "NotFittedError",
        width=tells(raised(lambda: inner.transform(csr(stars(3, 17)))), "17", "18"),
        dense=close(model.fit(np.nan_to_num(X)).item_factors_, clone(model).fit(csr(X)).item_factors_, 1e-12),
    )


def _searched() -> list[str]:
    from sklearn.model_selection import GridSearchCV

    from lfm_np.sklearn import ALS, HeldOut

    X = csr(stars(45, 18, seed=58), np.float32)
    grid = {"regularization": [0.1, 1e30], "factors": [2]}
    search = GridSearchCV(ALS(random_state=0, iterations=3, num_threads=1), grid, scoring=HeldOut("auc"), cv=3).fit(X)
    scores = search.cv_results_["mean_test_score"]
    ratings = ALS(factors=2, weighting="ratings", random_state=0, regularization=0.5).fit(X)
    return wrong(range=bool(((scores >= 0) & (scores <= 1)).all()), rmse=-5 < ratings.score(X) < 0)


def _cluster(rule: Model) -> list[str]:
    import distributed

    X, (U, V) = stars(40, 16, seed=59), start(40, 16, 3)
    words: dict[str, Any] = {"factors": 3, "init": (U, V), "dtype": "float64", **rule.words}
    with warnings.catch_warnings(), folder() as place:
        warnings.simplefilter("ignore")
        with distributed.Client(processes=False, n_workers=2, threads_per_worker=1, dashboard_address=None) as client:
            run = lambda **more: lfm_np.distributed.als(csr(X), client=client, **{**words, **more})  # noqa: E731
            run(shards=3, iterations=2, checkpoint=place / "c")
            fit = run(shards=3, iterations=4, checkpoint=place / "c", users_to=place / "u.npy")
            whole = run(shards=3, iterations=4)
            other = raised(lambda: run(shards=2, iterations=5, checkpoint=place / "c"))
            solver = raised(lambda: run(solver="cg"))
            users = np.load(place / "u.npy")
            equal = same(fit, whole) and np.array_equal(users, whole.user_factors)
            S = all_scores(whole)
            del fit
    mine = rule.sweeps(X, V, 4)
    return wrong(
        bits=equal,
        scores=close(S, mine[0] @ mine[1].T, 1e-8),
        objective=close(whole.history[-1]["objective"], rule.objective(X, *mine), 1e-8),
        shards=isinstance(other, (TypeError, ValueError)) and tells(other, "shard"),
        solver=isinstance(solver, (TypeError, ValueError)) and tells(solver, "solver", "cg"),
    )


def _index(kind: str) -> list[str]:
    draw = np.random.default_rng(60)
    fit = lfm_np.Factors(
        draw.normal(size=(12, 5)).astype(np.float32),
        draw.normal(size=(40, 5)).astype(np.float32),
        item_bias=draw.normal(size=40).astype(np.float32),
    )
    index = getattr(lfm_np.ann, f"{kind}_index")(fit)
    found = lfm_np.ann.search(index, fit, np.arange(12), N=5)
    S = all_scores(fit)
    exact = fit.recommend(np.arange(12), N=5)
    hits = np.mean([len(set(a) & set(b)) / 5 for a, b in zip(found.ids.tolist(), exact.ids.tolist(), strict=True)])
    vectors = lfm_np.ann.item_vectors(fit)
    return wrong(
        recall=hits > 0.9,
        scores=abs(found.scores - np.take_along_axis(S, found.ids, 1)).max() < 1e-5,
        product=abs(lfm_np.ann.user_vectors(fit) @ vectors.T - S).max() < 1e-4,
        norms=np.ptp(np.linalg.norm(vectors, axis=1)) < 1e-4,
    )


def _served_from_foreign_arrays() -> list[str]:
    draw = np.random.default_rng(61)
    U, V = draw.normal(size=(9, 4)).astype(np.float32), np.asfortranarray(draw.normal(size=(14, 4)).astype(np.float32))
    b = draw.normal(size=14).astype(np.float32)
    fit, X = lfm_np.Factors(U, V, item_bias=b), stars(9, 14, seed=62)
    S = all_scores(fit)
    some = [13, 2, 5, 7, 0]
    allowed = np.zeros(14, bool)
    allowed[some] = True
    lists = fit.recommend(range(9), N=4, seen=csr(X), items=some)
    rule = Model("hu-koren", alpha=40.0, lam=0.7)
    served = lfm_np.Factors(U.astype(np.float64), V.astype(np.float64)).fold_in_users(csr(X), **rule.words)
    bare = raised(lambda: lfm_np.Factors(U, V).fold_in_users(csr(X)))
    return wrong(
        lists=lists.ids.tolist() == [best(s, allowed & np.isnan(x), 4) for s, x in zip(S, X, strict=True)],
        folded=close(served.user_factors, rule.half(X, V.astype(np.float64)), 1e-8),
        bare=isinstance(bare, (TypeError, ValueError)) and tells(bare, "weighting|regularization|alpha"),
        mixed=isinstance(raised(lambda: lfm_np.Factors(U, V.astype(np.float64))), (TypeError, ValueError)),
    )


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    if installed("torch"):
        for rule in (
            Model("hu-koren", alpha=9.0, a0=1.0, lam=0.2),
            Model("ials", alpha=1.0, a0=0.1, lam=0.01, nu=1.0),
            Model("ratings", lam=0.6),
        ):
            yield _day(f"torch, {rule.weighting}, in two parts, to the lists", lambda r=rule: _torch_sweeps(r))
        yield _day("torch with biases, saved and served by numba", _torch_then_here)
        yield _day("torch's sgd before a tiny step, and two bad words", _torch_sgd_first_epoch)
    if installed("pyarrow"):
        yield _day("records with nulls to a stored matrix, gone on with in memory", _stored_from_parquet)
    if installed("sklearn"):
        yield _day("a scikit-learn pipeline by hand", _sklearn_by_hand)
        yield _day("a grid with a hopeless lambda", _searched)
    if installed("distributed"):
        yield _day("a cluster, hu-koren, in two parts", lambda: _cluster(Model("hu-koren", alpha=5.0, lam=0.3)))
        yield _day("a cluster, ratings, in two parts", lambda: _cluster(Model("ratings", lam=0.5, nu=1.0)))
    for kind in ("usearch", "faiss"):
        if installed(kind):
            yield _day(f"an index of {kind}", lambda k=kind: _index(k))
    yield _day("arrays from elsewhere, listed and folded in", _served_from_foreign_arrays)
