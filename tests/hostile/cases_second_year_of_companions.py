"""The second year of a service: scikit-learn, torch and dask in the place of what was there, beside closed forms."""

from __future__ import annotations

import math
import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

import lfm_np

from .case import Case, Group, installed
from .places import inside
from .working_days import NAN, Model, all_scores, biased_half, close, csr, faultless, raised, stars, start, wrong

_GROUP = Group("second year in production")
_holds = faultless(_GROUP)
LIKING = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 1.5, 2.5, 3.5, 4.5, 5.5])  # what a user gives to every item


def _level(c: np.ndarray, n: int, lam: float) -> float:
    """v², where one factor of n equal columns comes to rest: u = c·nv/(nv² + λ), v = Σuc/(Σu² + λ)."""
    v = 0.3
    for _ in range(2000):
        u = c * n * v / (n * v * v + lam)
        v = float(u @ c / (u @ u + lam))
    return v * v


def _missed(c: np.ndarray, shown: np.ndarray, hidden: np.ndarray, level: float, lam: float) -> float:
    """The root mean squared error of c·dv²/(dv² + λ) over the hidden cells, d being what is shown."""
    off = c * lam / (shown * level + lam)
    return math.sqrt(float((hidden * off**2).sum() / hidden.sum()))


def _als(lam: float, **words: Any) -> Any:
    from lfm_np.sklearn import ALS

    return ALS(
        factors=1, weighting="ratings", regularization=lam, iterations=300, dtype="float64", random_state=0, **words
    )


def _searched() -> list[str]:
    """Every split of a grid search over ratings that each user gives to all alike, in closed form."""
    from sklearn.model_selection import GridSearchCV, KFold

    from lfm_np.sklearn import HeldOut

    X, grid = np.outer(LIKING, np.ones(10)), [1.0, 3.0, 10.0]
    search = GridSearchCV(
        _als(99.0), {"regularization": grid}, scoring=HeldOut("neg_root_mean_squared_error"), cv=KFold(2)
    )
    search.fit(sp.csr_array(X))
    bad = []
    means = []
    for place, lam in enumerate(grid):
        mine = []
        for fold, rows in enumerate((slice(0, 5), slice(5, 10))):
            c, level = LIKING[rows], _level(np.delete(LIKING, np.arange(10)[rows]), 10, lam)
            mine.append(-_missed(c, np.full(5, 8), np.full(5, 2), level, lam))
            found = search.cv_results_[f"split{fold}_test_score"][place]
            if not close(found, mine[-1], 1e-6):  # sweeps that have come to rest but for 1e-12
                bad.append(f"λ = {lam}, fold {fold}: {found} beside {mine[-1]}")
        means.append(sum(mine) / 2)
    return bad + wrong(
        means=close(search.cv_results_["mean_test_score"], means, 1e-6),
        best=search.best_params_ == {"regularization": grid[int(np.argmax(means))]},
        refit=close(search.best_estimator_.item_factors_**2, np.full((10, 1), _level(LIKING, 10, 1.0)), 1e-6),
    )


def _rows_of_two_lengths() -> list[str]:
    """Of five cells one is hidden, of ten two: the error is over cells; `score` is that of the default scorer."""
    from lfm_np.sklearn import HeldOut

    lam = 2.0
    model = _als(lam).fit(sp.csr_array(np.outer(LIKING, np.ones(10))))
    new = np.outer([2.0, 4.0, 1.0], np.ones(10))
    new[1, ::2] = NAN
    level = _level(LIKING, 10, lam)
    mine = -_missed(np.array([2.0, 4.0, 1.0]), np.array([8, 4, 8]), np.array([2, 1, 2]), level, lam)
    more = HeldOut("neg_root_mean_squared_error", test_fraction=0.6, random_state=7)(model, csr(new))
    other = -_missed(np.array([2.0, 4.0, 1.0]), np.array([4, 2, 4]), np.array([6, 3, 6]), level, lam)
    return wrong(score=close(model.score(csr(new)), mine, 1e-6), more=close(more, other, 1e-6))


def _pipeline() -> list[str]:
    """What a pipeline solves is what its first step made, by the parameters of its last fit."""
    from sklearn.base import clone
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import Binarizer

    from lfm_np.sklearn import ALS

    rule, X, new = Model("ials", 2.0, 0.3, 0.4, 0.5), stars(24, 11, 61), stars(5, 11, 62)
    pipe = Pipeline([
        ("high", Binarizer(threshold=2)),
        ("als", ALS(factors=3, iterations=3, dtype="float64", random_state=0, **rule.words)),
    ])  # fmt: skip
    pipe.fit(csr(X))
    V = pipe[-1].item_factors_
    high = np.where(np.nan_to_num(new) > 2, 1.0, NAN)
    before = pipe.transform(csr(new))
    pipe.set_params(als__regularization=50.0, als__alpha=9.0)
    after = pipe.transform(csr(new))
    copied = pickle.loads(pickle.dumps(pipe)).transform(csr(new))
    fresh = clone(pipe)
    empty = raised(lambda: fresh[-1].transform(csr(new)))
    fresh.fit(csr(X))
    other = Model("ials", 9.0, 0.3, 50.0, 0.5)
    return wrong(
        before=close(before, rule.half(high, V), 1e-9),
        after=np.array_equal(before, after) and np.array_equal(before, copied),
        unfitted=type(empty).__name__ == "NotFittedError",
        refitted=close(fresh.transform(csr(new)), other.half(high, fresh[-1].item_factors_), 1e-9),
    )


def _scores_with_biases() -> list[str]:
    """Factors and bias of new users, and all scores from them, as a frame and as an array."""
    from lfm_np.sklearn import ALS

    X, new = stars(20, 8, 63), stars(4, 8, 64, 0.6)
    model = ALS(
        factors=2, weighting="ratings", biases=True, regularization=0.7, iterations=4, dtype="float64", random_state=0
    ).fit(csr(X))
    f = model.factors_
    U, b = biased_half(new, f.item_factors, f.item_bias, float(np.nanmean(X)), 0.7)
    found = model.transform(csr(new))
    facts = {
        "shape": found.shape == (4, 3),
        "users": close(found, np.column_stack([U, b]), 1e-9),
        "scores": close(
            model.inverse_transform(found), np.nanmean(X) + b[:, None] + f.item_bias + U @ f.item_factors.T, 1e-9
        ),
        "names": model.get_feature_names_out().tolist() == ["als0", "als1", "als2"],
    }
    if installed("pandas"):
        frame = model.set_output(transform="pandas").transform(csr(new))
        facts["frame"] = list(frame.columns) == ["als0", "als1", "als2"] and np.array_equal(frame.to_numpy(), found)
    return wrong(**facts)


def _reordered() -> list[str]:
    """The columns of another day, in another order: an error, not another user."""
    import pandas as pd

    from lfm_np.sklearn import ALS

    X = np.nan_to_num(stars(12, 5, 65))
    frame = pd.DataFrame(X, columns=list("abcde"))
    model = ALS(factors=2, iterations=2, dtype="float64", random_state=0).fit(frame)
    error = raised(lambda: model.transform(frame[list("bacde")]))
    right = Model("hu-koren", 1.0, 1.0, 0.01).half(np.where(X > 0, X, NAN), model.item_factors_)
    return wrong(
        refused=isinstance(error, ValueError),
        names=model.feature_names_in_.tolist() == list("abcde"),
        same_order=close(model.transform(frame), right, 1e-9),
    )


def _torch_nights(place: Path, weighting: str, X: np.ndarray) -> list[str]:
    """Two nights on torch from a copied checkpoint, in the smallest batches."""
    rule, (U, V) = Model(weighting, 2.0, 0.4, 0.3, 0.6), start(*X.shape, 4)
    words: dict[str, Any] = {
        "init": (U, V), "factors": 4, "solver": "exact", "dtype": "float64", "device": "cpu", "memory_budget": 1 << 20,
        "random_state": 0, **rule.words,
    }  # fmt: skip
    lfm_np.torch_backend.als(csr(X), iterations=2, checkpoint=place / "a", **words)
    shutil.copy(place / "a", place / "b")
    fit = lfm_np.torch_backend.als(csr(X), iterations=5, checkpoint=place / "b", **words)
    J, Q = [], V
    for _ in range(5):
        P, Q = rule.sweeps(X, Q, 1)
        J.append(rule.objective(X, P, Q))
    probe = stars(3, X.shape[1], 66)
    fit.save(place / "m")
    folded = lfm_np.Factors.load(place / "m").fold_in_users(csr(probe))
    return wrong(
        J=close([r["objective"] for r in fit.history], J, 1e-8),
        scores=close(all_scores(fit), P @ Q.T, 1e-7),
        folded=close(folded.user_factors, rule.half(probe, fit.item_factors), 1e-9),
    )


def _one_batch(place: Path, M: int, schedule: str) -> list[str]:
    """Three users, two items: all negatives are known. A batch moves all rows by the slopes before it."""
    eta, a, b, c = 0.25, 0.3, 0.2, 0.1
    U = np.array([[0.4, -0.3], [0.1, 0.5], [-0.6, 0.2]])
    V = np.array([[0.2, 0.6], [0.7, 0.1]])
    X = sp.csr_array(np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]))
    P, Q, paid = U.copy(), V.copy(), []
    for epoch in range(3):
        rate = eta / (1 + epoch / 10) if schedule == "inverse" else eta
        dP, dQ, losses = np.zeros_like(P), np.zeros_like(Q), []
        for u, i in ((0, 0), (1, 1), (2, 0)):
            j, d = 1 - i, float(P[u] @ Q[i] - P[u] @ Q[1 - i])
            g = -1 / (1 + math.exp(d))
            losses.append(M * math.log1p(math.exp(-d)))
            dP[u] += M * g * (Q[i] - Q[j]) + a * P[u]
            dQ[i] += M * g * P[u] + b * Q[i]
            dQ[j] += M * (-g * P[u] + c * Q[j])
        P, Q = P - rate * dP, Q - rate * dQ
        paid.append(sum(losses) / 3)
    for epochs in (1, 3):
        fit = lfm_np.torch_backend.sgd(
            X, lfm_np.losses.BPR(), init=(U, V), factors=2, negatives=M, epochs=epochs, learning_rate=eta,
            schedule=schedule, regularization={"user": a, "item": b, "negative": c}, dtype="float64", random_state=0,
            device="cpu", batch_size=16, checkpoint=place / "c",
        )  # fmt: skip
    F, G = np.vstack([fit.user_factors, fit.item_factors]), np.vstack([P, Q])
    return wrong(
        moved=close(F @ F.T, G @ G.T, 1e-10),
        paid=close([r["sampled_loss"] for r in fit.history], paid, 1e-10),
        told={"batch_size", "device"} <= set(fit.params or {}) and "blocks" not in (fit.params or {}),
    )


def _client() -> Any:
    import distributed

    return distributed.Client(processes=False, n_workers=2, threads_per_worker=1, dashboard_address=":0")


def _dask_nights(place: Path) -> list[str]:
    """Two sweeps, then three more from the file, in three shards."""
    rule, X = Model("hu-koren", 2.0, 0.4, 0.3, 0.6), stars(22, 12, 67)
    U, V = start(22, 12, 3)
    words: dict[str, Any] = {
        "init": (U, V), "factors": 3, "dtype": "float64", "shards": 3, "checkpoint": place / "c",
        "checkpoint_every": 1, "random_state": 0, **rule.words,
    }  # fmt: skip
    with _client() as client:
        lfm_np.distributed.als(csr(X), client=client, iterations=2, **words)
        fit = lfm_np.distributed.als(csr(X), client=client, iterations=5, **words)
    P, Q = rule.sweeps(X, V, 5)
    return wrong(
        scores=close(all_scores(fit), P @ Q.T, 1e-8),
        objective=close(fit.history[-1]["objective"], rule.objective(X, P, Q), 1e-9),
        sweeps=[r["iteration"] for r in fit.history] == [1, 2, 3, 4, 5],
    )


def _dask_days(place: Path) -> list[str]:
    """Files of days in which the same users come again: their sums, wherever the rows went."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    draw, mine, days = np.random.default_rng(68), {}, place / "days"
    days.mkdir()
    for day in range(3):
        u, i, x = draw.integers(0, 9, 30), draw.integers(0, 7, 30), draw.integers(1, 4, 30)
        for key, value in zip(zip(u.tolist(), i.tolist(), strict=True), x.tolist(), strict=True):
            mine[key] = mine.get(key, 0) + value
        columns = {"item": i * 10, "plays": x, "user": [f"u{v}" for v in u]}
        pq.write_table(pa.table(columns), days / f"{day}.parquet")
    rule = Model("ials", 1.5, 0.2, 0.3, 0.4)
    with _client() as client:
        data = lfm_np.distributed.from_parquet(days, client=client, shards=2, staging=place / "staging", value="plays")
        users, items = data.users(client).tolist(), data.items.tolist()
        X = np.array([[mine.get((int(u[1:]), i // 10), NAN) for i in items] for u in users], float)
        U, V = start(len(users), len(items), 2)
        fit = lfm_np.distributed.als(
            data, client=client, init=(U, V), factors=2, iterations=3, dtype="float64", **rule.words
        )
    P, Q = rule.sweeps(X, V, 3)
    return wrong(
        users=sorted(users) == sorted({f"u{u}" for u, _ in mine}),
        items=items == sorted({10 * i for _, i in mine}),
        rows=sum(data.rows) == len(users),
        scores=close(all_scores(fit), P @ Q.T, 1e-8),
        objective=close(fit.history[-1]["objective"], rule.objective(X, P, Q), 1e-9),
    )


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    if installed("sklearn"):
        yield _holds("a grid search in closed form", _searched)
        yield _holds("hidden cells of rows of two lengths", _rows_of_two_lengths)
        yield _holds("a pipeline, set_params, clone and pickle", _pipeline)
        yield _holds("scores with biases, in a frame", _scores_with_biases)
        if installed("pandas"):
            yield _holds("columns in another order", _reordered)
    if installed("torch"):
        for weighting in ("hu-koren", "ials", "confidence", "ratings"):
            for m, n in ((18, 13), (9, 31)):
                work = inside(lambda p, w=weighting, s=(m, n): _torch_nights(p, w, stars(*s, 69)))
                yield _holds(f"two nights on torch: {weighting}, {m} × {n}", work)
        for schedule in ("constant", "inverse"):
            for M in (1, 3):
                work = inside(lambda p, M=M, s=schedule: _one_batch(p, M, s))
                yield _holds(f"one batch on torch, {M} negatives, {schedule}", work)
    if installed("distributed", "dask"):
        yield _holds("two nights on a cluster", inside(_dask_nights))
        if installed("pyarrow"):
            yield _holds("days of files on a cluster", inside(_dask_days))
