"""torch, dask, scikit-learn and indexes with options that are rarely used together, beside least squares in float64."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import scipy.sparse as sp

from .case import Case, installed
from .cases_pairs_of_lists import whole
from .cases_pairs_of_solvers import PAIRS, Ask, carried, gaps, lfm_np, near, scores_of, swept
from .working_days import best, csr, faultless, folder, start, wrong

_holds = faultless(PAIRS)
RATINGS = Ask("ratings", lam=0.3, nu=1.0, biases=True)


def _torch(ask: Ask, kind: str, X: np.ndarray, k: int, **more: Any) -> list[str]:
    from lfm_np import torch_backend

    return swept(ask, kind, X, k, 3, solve=torch_backend.als, **more)


def _torch_resumed() -> list[str]:
    """Two sweeps with a budget, then a file and tolerance, then users who are folded in."""
    from lfm_np import torch_backend

    ask, X = Ask("ials", 2.0, 0.3, 0.4, 0.5), gaps()
    begin = start(*X.shape, 3)
    words = {"factors": 3, "init": begin, "dtype": "float64", **ask.words}
    with folder() as place:
        torch_backend.als(csr(X), iterations=2, checkpoint=place / "kept", num_threads=1, **words)
        fit = torch_backend.als(csr(X), iterations=5, checkpoint=place / "kept", tolerance=1e-12, **words)
    new = gaps(4, 9, 3)
    rows = ask.rows(new, fit.item_factors)[0]
    return wrong(
        scores=near(scores_of(fit), ask.sweeps(X, begin[1], 5).scores, 1e-8),
        folded=near(fit.fold_in_users(csr(new)).user_factors, rows, 1e-8),
        cost=near(lfm_np.objective(csr(X), fit), fit.history[-1]["objective"], 1e-9),
    )


def _torch_steps(solver: str) -> list[str]:
    from lfm_np import torch_backend

    ask, X = Ask("confidence", 4.0, 0.5, 0.5, 0.5), gaps(44, 40, 5, 0.75)
    fit = torch_backend.als(
        csr(X), factors=66, iterations=3, solver=solver, dtype="float64", random_state=0, **ask.words
    )
    told = [value for r in fit.history for value in (r["objective_users"], r["objective"])]
    return wrong(
        falls=(np.diff(told) <= 1e-12 * told[0]).all(),
        honest=near(told[-1], ask.cost(X, fit.user_factors, fit.item_factors), 1e-8),
    )


def _clustered(which: str) -> list[str]:
    """Three shards, beside the sweeps in float64."""
    import distributed

    ask = RATINGS if which == "ratings" else Ask("ials", 2.0, 0.2, 0.4, 0.5)
    X = gaps(values=(-1, 0, 3)) if which == "ratings" else gaps()
    begin = start(*X.shape, 3)
    words: dict[str, Any] = {"factors": 3, "init": begin, "dtype": "float64", "shards": 3, **ask.words}
    with (
        folder() as place,
        distributed.Client(processes=False, n_workers=2, threads_per_worker=1, dashboard_address=":0") as client,
    ):
        if which == "resumed":
            words |= {"checkpoint": place / "kept", "checkpoint_every": 2}
            lfm_np.distributed.als(csr(X), client=client, iterations=1, **words)
        elif which == "users on the disk":
            words["users_to"] = place / "users.npy"
        fit = lfm_np.distributed.als(csr(X), client=client, iterations=3, **words)
        mine = ask.sweeps(X, begin[1], 3)
        return wrong(
            scores=near(scores_of(fit), mine.scores, 1e-8),
            paid=near([r["objective"] for r in fit.history], [p for _, p in mine.paid], 1e-8),
            users=which != "users on the disk" or np.array_equal(np.load(place / "users.npy"), fit.user_factors),
        )


def _pipeline() -> list[str]:
    """Logarithms of values, then ials; new rows go the same way."""
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer

    from lfm_np.sklearn import ALS

    ask, X, new = Ask("ials", 3.0, 0.3, 0.2, 0.5), gaps(), gaps(5, 9, 3)
    begin = start(*X.shape, 3)
    model = ALS(factors=3, iterations=2, init=begin, dtype="float64", **ask.words)
    pipe = make_pipeline(FunctionTransformer(lambda M: M.log1p(), accept_sparse=True), model).fit(csr(X))
    fitted = pipe[-1]
    rows = ask.rows(np.log1p(new), fitted.item_factors_)[0]
    found = pipe.transform(csr(new))
    return wrong(
        fit=near(scores_of(fitted.factors_), ask.sweeps(np.log1p(X), begin[1], 2).scores, 1e-8),
        rows=near(found, rows, 1e-8),
        back=near(fitted.inverse_transform(found), rows @ fitted.item_factors_.T, 1e-8),
        lists=near(scores_of(fitted.fold_in_users(csr(np.log1p(new)))), rows @ fitted.item_factors_.T, 1e-8),
    )


def _estimated_ratings() -> list[str]:
    """Biases come last; a dense X has no zeros; fit_transform is one more half-step."""
    from lfm_np.sklearn import ALS

    X, new = gaps(values=(-2, 1, 3)), gaps(5, 9, 3, values=(-2, 1, 3))
    begin = start(*X.shape, 3)
    model = ALS(factors=3, iterations=2, init=begin, dtype="float64", **RATINGS.words)
    found = model.fit_transform(np.nan_to_num(X))
    mine, V = RATINGS.sweeps(X, begin[1], 2), model.item_factors_
    d, mu = model.factors_.item_bias, model.factors_.global_bias
    facts = {"fit": near(scores_of(model.factors_), mine.scores, 1e-8), "steps": model.n_iter_ == 2}
    for name, cells, rows in (("own", X, found), ("new", new, model.transform(sp.coo_array(csr(new))))):
        U, b = RATINGS.rows(cells, V, mu + d, True)
        facts[name] = near(rows, np.column_stack([U, b]), 1e-8)
        facts[f"{name} back"] = near(model.inverse_transform(rows), mu + b[:, None] + d + U @ V.T, 1e-8)
    return wrong(**facts)


def _estimated_sgd(which: str) -> list[str]:
    """What `transform` of an SGD solves: by default, and as told."""
    from lfm_np.sklearn import SGD

    X, new = gaps(20, 9, 2), gaps(5, 9, 3)
    words: dict[str, Any] = {"factors": 3, "epochs": 2, "dtype": "float64", "random_state": 0, "schedule": "inverse"}
    if which == "Squared":
        ask = Ask("ratings", lam=0.3, nu=1.0)
        words |= {"loss": lfm_np.losses.Squared(), "sampler": None, "regularization": {"user": 0.3, "item": 0.1}}
    elif which == "Logistic":
        ask = Ask("ials", 1.0, 1.0, 0.1, 1.0)
        words |= {"loss": lfm_np.losses.Logistic(True), "negatives": 2, "sampler": lfm_np.sampling.Popularity(0.5)}
    else:
        ask = Ask("confidence", 2.0, 0.4, 0.7, 0.5)
        words |= {"fold_in": ask.half, "sampler": lfm_np.sampling.Hard(2)}
    model = SGD(**words).fit(csr(X))
    rows = ask.rows(new, model.item_factors_)[0]
    return wrong(rows=near(model.transform(csr(new)), rows, 1e-8), shape=model.n_features_in_ == 9)


def _scorer(metric: str) -> list[str]:
    """One row of two cells: one of them is hidden, whichever."""
    from lfm_np.sklearn import ALS, HeldOut

    ask = RATINGS if metric.startswith("neg") else Ask("hu-koren", 3.0, 0.4, 0.2, 1.0)
    model = ALS(factors=3, iterations=2, random_state=0, dtype="float64", **ask.words).fit(csr(gaps()))
    row = np.full((1, 9), np.nan)
    row[0, [3, 6]] = 4.0, 1.0
    V, off = model.item_factors_, np.zeros(9)
    if ask.biases:
        off = model.factors_.global_bias + model.factors_.item_bias
    options = []
    for shown, hidden in ((3, 6), (6, 3)):
        x = np.full((1, 9), np.nan)
        x[0, shown] = row[0, shown]
        u, b = ask.rows(x, V, off, ask.biases)
        s = (off + b[0] + V @ u[0]).astype(np.float64)
        if ask.biases:
            options.append(-abs(float(s[hidden] - row[0, hidden])))
        else:
            options.append(1.0 / (1 + best(s, np.arange(9) != shown, 8).index(hidden)))
    found = [float(HeldOut(metric, 0.5, seed)(model, csr(row))) for seed in range(8)]
    return wrong(one=all(min(abs(f - o) for o in options) < 1e-8 for f in found))


def _torch_watched() -> list[str]:
    """A callback sees every sweep with biases and ends the third; init has items' biases of float32."""
    from lfm_np import torch_backend

    X, seen = gaps(values=(1, 2, 4.5)), []
    U, V = start(*X.shape, 3)
    draw = np.random.default_rng(8)
    b, d = draw.normal(size=len(U)).astype(np.float32), draw.normal(size=len(V)).astype(np.float32)
    U, V, mu = U.astype(np.float32), V.astype(np.float32), float(X[~np.isnan(X)].mean())
    init = lfm_np.Factors(U, V, user_bias=b, item_bias=d, global_bias=mu)

    def look(record: Any, factors: Any) -> None:
        seen.append(scores_of(factors))
        if record["iteration"] == 3:
            raise StopIteration

    fit = torch_backend.als(csr(X), factors=3, iterations=9, init=init, dtype="float64", callback=look, **RATINGS.words)
    mine = [RATINGS.sweeps(X, V.astype(np.float64), t, d.astype(np.float64)).scores for t in (1, 2, 3)]
    return wrong(
        seen=len(seen) == 3 and all(near(a, b, 1e-8) for a, b in zip(seen, mine, strict=True)),
        status=fit.status is lfm_np.Status.STOPPED,
        last=near(scores_of(fit), mine[-1], 1e-8),
    )


def _torch_begins() -> list[str]:
    """Both sides begin with the same factors: one sweep of either is the other's, and J is honest."""
    from lfm_np import torch_backend

    ask, X = Ask("ials", 2.0, 0.2, 0.3, 1.0), gaps(20, 12, 4)
    words = {"factors": 5, "iterations": 1, "random_state": np.random.SeedSequence(7).spawn(1)[0], "dtype": "float64"}
    there = torch_backend.als(csr(X), **words, **ask.words)
    here = lfm_np.als(csr(X), **{**words, "random_state": np.random.SeedSequence(7).spawn(1)[0]}, **ask.words)
    return wrong(
        same=near(scores_of(there), scores_of(here), 1e-8),
        honest=near(there.history[-1]["objective"], ask.cost(X, there.user_factors, there.item_factors), 1e-9),
    )


def _clustered_files() -> list[str]:
    """Files of users apart, the largest of several records, ν; users in the order that the data tell."""
    import distributed
    import pyarrow as pa
    import pyarrow.parquet as pq

    ask, X = Ask("ials", 2.0, 0.2, 0.4, 0.5), gaps()
    ids = np.array([f"u{u:02}" for u in range(13)])
    had = [u for u in range(13) if not np.isnan(X[u]).all()]
    columns = [i for i in range(9) if not np.isnan(X[:, i]).all()]
    begin = start(len(had), len(columns), 3)
    with (
        folder() as place,
        distributed.Client(processes=False, n_workers=1, threads_per_worker=2, dashboard_address=":0"),
    ):
        (place / "files").mkdir()
        for name, users in (("a", range(6)), ("b", range(6, 13))):
            cells = [
                (ids[u], i * 10, X[u, i] - less) for u in users for i in columns for less in (0, 0.5) if X[u, i] > 0
            ]
            table = pa.table(dict(zip(("user", "item", "stars"), map(list, zip(*cells, strict=True)), strict=True)))
            pq.write_table(table, place / "files" / f"{name}.parquet")
        data = lfm_np.distributed.from_parquet(place / "files", shards=2, value="stars", duplicates="max")
        order = [ids.tolist().index(str(user)) for user in data.users()]
        fit = lfm_np.distributed.als(data, factors=3, iterations=2, init=begin, dtype="float64", **ask.words)
        items = np.asarray(data.items).tolist()
    mine = ask.sweeps(X[np.ix_(order, columns)], begin[1], 2)
    return wrong(
        users=sorted(order) == had,
        items=items == [i * 10 for i in columns],
        scores=near(scores_of(fit), mine.scores, 1e-8),
        paid=near(fit.history[-1]["objective"], mine.paid[-1][1], 1e-8),
    )


def _cloned() -> list[str]:
    """A clone with another α, fitted to Interactions, and a data frame of new rows."""
    import pandas
    from sklearn.base import clone

    from lfm_np.sklearn import ALS

    ask, X, new = Ask("hu-koren", 5.0, 0.3, 0.2, 1.0), gaps(), gaps(5, 9, 3)
    begin = start(*X.shape, 3)
    first = ALS(factors=3, iterations=2, init=begin, dtype="float64", **ask._replace(alpha=1.0).words)
    with carried("interactions", X) as data:
        model = clone(first).set_params(alpha=5.0).fit(data)
    rows = ask.rows(new, model.item_factors_)[0]
    found = model.transform(pandas.DataFrame(np.nan_to_num(new)).to_numpy())
    return wrong(
        fit=near(scores_of(model.factors_), ask.sweeps(X, begin[1], 2).scores, 1e-8),
        rows=near(found, rows, 1e-8),
        before=first.get_params()["alpha"] == 1.0 and not hasattr(first, "factors_"),
    )


def _vectors() -> list[str]:
    """Of one norm, and with the scores less what is the same for a user."""
    from lfm_np import ann

    model = whole(6, 20, 4, seed=5, biases="user item", mu=3.0)
    items, users = ann.item_vectors(model), ann.user_vectors(model, [5, 0, 5])
    S = model.user_factors @ model.item_factors.T + model.item_bias
    long = np.sqrt((items.astype(np.float64) ** 2).sum(1))
    M = math.sqrt(float(((model.item_factors**2).sum(1) + model.item_bias**2).max()))
    return wrong(
        shape=items.shape == (20, 6) and users.shape == (3, 6) and items.dtype == np.float32,
        norm=near(long, np.full(20, M), 1e-6),
        scores=near(users @ items.T, S[[5, 0, 5]], 1e-5),
        everyone=near(ann.user_vectors(model) @ items.T, S, 1e-5),
        one=ann.user_vectors(model, 2).shape == (6,),
    )


def _searched(which: str, N: int) -> list[str]:
    """An index of 30 items holds them all: exact scores with biases and μ, short lists padded."""
    from lfm_np import ann

    draw = np.random.default_rng(3)
    words = {"user_bias": draw.normal(size=8), "item_bias": draw.normal(size=30), "global_bias": 0.5}
    model = lfm_np.Factors(draw.normal(size=(8, 5)), draw.normal(size=(30, 5)), **words)
    index = ann.usearch_index(model, num_threads=1) if which == "usearch" else ann.faiss_index(model, connectivity=16)
    ids, scores = ann.search(index, model, [7, 0, 7], N)
    S = scores_of(model)
    facts = {"shape": ids.shape == scores.shape == (3, N)}
    for place, u in enumerate((7, 0, 7)):
        mine = best(S[u], np.ones(30, bool), N)
        facts[f"ids {place}"] = ids[place].tolist() == mine
        facts[f"scores {place}"] = near(scores[place][: min(N, 30)], S[u][mine[:30]], 1e-12)
    return wrong(**facts)


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    if installed("torch"):
        signed, millions = gaps(values=(-3, 0, 2.5)), gaps(values=(1e6, 3e6))
        hu, budget = Ask("hu-koren", 2.5, 0.3, 0.2, 0.5), {"memory_budget": 1 << 20}
        for name, ask, kind, X, k, more in (
            ("hu-koren, pairs in two parts", hu, "halves", gaps(), 4, budget),
            ("ials, more factors than either side", Ask("ials", 1.5, 0.05, 0.3, 1.0), "interactions", gaps(), 16, {}),
            ("ratings at and below zero, biases", Ask("ratings", lam=0.2, nu=0.5, biases=True), "csc", signed, 3, {}),
            ("confidence without the other cells", Ask("confidence", 3.0, 0.0, 0.2, 1.0), "integers", gaps(), 3, {}),
            ("one user with biases", RATINGS, "csr", gaps(1, 6, 1, 0.9), 2, budget),
            ("millions, an α of millionths", Ask("confidence", 1e-6, 0.1, 0.1, 0.5), "csr", millions, 3, {}),
            ("17 factors, rows around", Ask("ials", 4.0, 0.1, 0.05, 1.0), "csr", gaps(30, 24, 2, 0.5), 17, budget),
        ):
            yield _holds(f"companions: torch, {name}", lambda a=(ask, kind, X, k), w=more: _torch(*a, **w))
        yield _holds("companions: torch, gone on, then folded in", _torch_resumed)
        yield _holds("companions: torch, a callback, init of float32 with biases", _torch_watched)
        yield _holds("companions: torch, a spawned seed, ials", _torch_begins)
        for solver in ("cg", "subspace"):
            yield _holds(f"companions: torch, {solver} of 66 factors, ν", lambda a=solver: _torch_steps(a))
    if installed("dask", "distributed"):
        for which in ("ratings", "resumed", "users on the disk"):
            yield _holds(f"companions: three shards, {which}", lambda a=which: _clustered(a))
        if installed("pyarrow"):
            yield _holds("companions: shards of files, the largest of records", _clustered_files)
    if installed("sklearn"):
        yield _holds("companions: logarithms in a pipeline, ials", _pipeline)
        yield _holds("companions: an estimator of ratings with biases, dense", _estimated_ratings)
        yield _holds("companions: a clone with another α, Interactions", _cloned)
        for which in ("Squared", "Logistic", "BPR as told"):
            yield _holds(f"companions: an estimator of SGD, {which}", lambda a=which: _estimated_sgd(a))
        for metric in ("neg_root_mean_squared_error", "mrr"):
            yield _holds(f"companions: one of two cells hidden, {metric}", lambda a=metric: _scorer(a))
    yield _holds("companions: vectors with biases on both sides and μ", _vectors)
    for which, package, N in (("usearch", "usearch", 9), ("usearch", "usearch", 33), ("faiss", "faiss", 33)):
        if installed(package):
            yield _holds(f"companions: {N} of 30 by {which}, biases", lambda a=(which, N): _searched(*a))
