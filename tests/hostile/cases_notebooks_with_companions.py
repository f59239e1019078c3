"""Small analyses with scikit-learn: pipelines, scorers and searches, their numbers by NumPy."""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterator
from operator import methodcaller
from typing import Any

import numpy as np
import scipy.sparse as sp

import lfm_np as library

from .case import Case, Group, installed
from .cases_notebooks_of_judgements import of_all
from .working_days import close, csr, faultless, raised, stars, wrong

lfm_np: Any = library
_GROUP = Group("analysts' estimators")
_holds = faultless(_GROUP)


def estimators() -> Any:
    return importlib.import_module("lfm_np.sklearn")


def solved(X: np.ndarray, V: np.ndarray, alpha: float, a0: float, lam: float, nu: float = 0.0) -> np.ndarray:
    """Rows by the normal equations of "ials"; zero is absent."""
    found = np.zeros((len(X), V.shape[1]))
    for u, x in enumerate(X):
        has = x > 0
        if has.any():
            c = a0 + alpha * x[has]
            A = a0 * V[~has].T @ V[~has] + (V[has].T * c) @ V[has]
            A += lam * (has.sum() + a0 * len(x)) ** nu * np.eye(V.shape[1])
            found[u] = np.linalg.solve(A, V[has].T @ (alpha * x[has]))
    return found


def rated(X: np.ndarray, Y: np.ndarray, lam: float, nu: float, offset: Any = 0.0) -> np.ndarray:
    """Rows of ratings by ridge regression; NaN is absent."""
    found = np.zeros((len(X), Y.shape[1]))
    offset = np.broadcast_to(offset, X.shape[1])
    for u, x in enumerate(X):
        has = ~np.isnan(x)
        A = Y[has].T @ Y[has] + lam * has.sum() ** nu * np.eye(Y.shape[1])
        found[u] = np.linalg.solve(A, Y[has].T @ (x[has] - offset[has]))
    return found


def counts(m: int = 40, n: int = 14, seed: int = 0) -> np.ndarray:
    return np.nan_to_num(stars(m, n, seed))


def _transformed() -> list[str]:
    """The same numbers from sparse, dense, and frames of other rows, and back to scores."""
    X, new = counts(), counts(9, 14, 1)
    words = {"weighting": "ials", "alpha": 0.5, "unobserved_weight": 0.25, "regularization": 0.1}
    model = estimators().ALS(
        factors=3, regularization_exponent=1.0, iterations=3, dtype="float64", random_state=0, **words
    )
    fitted = model.fit(X)
    V = fitted.item_factors_
    mine = solved(new, V, 0.5, 0.25, 0.1, 1.0)
    dense = fitted.transform(new)
    alone = lfm_np.als(csr(np.where(X > 0, X, np.nan)), factors=3, regularization_exponent=1.0, iterations=3,
                       dtype="float64", random_state=0, **words)  # fmt: skip
    return wrong(
        dense=close(dense, mine, 1e-9),
        sparse=np.array_equal(fitted.transform(sp.coo_array(new)), dense),
        lists=np.array_equal(fitted.fold_in_users(sp.csr_array(new)).user_factors, dense),
        scores=close(fitted.inverse_transform(dense), mine @ V.T, 1e-9),
        fitted=close(fitted.fit_transform(X), solved(X, V, 0.5, 0.25, 0.1, 1.0), 1e-9),
        as_als=np.array_equal(V, alone.item_factors),
        n=fitted.n_iter_ == 3 and fitted.n_features_in_ == 14,
        names=fitted.get_feature_names_out().tolist() == ["als0", "als1", "als2"],
    )


def _rated_with_biases() -> list[str]:
    """A model of ratings with biases: k + 1 columns, and predictions back from them."""
    X, new = stars(25, 10, 2), stars(6, 10, 3)
    model = (
        estimators()
        .ALS(
            factors=2,
            weighting="ratings",
            biases=True,
            regularization=0.3,
            iterations=3,
            dtype="float64",
            random_state=1,
        )
        .fit(csr(X))
    )
    F = model.factors_
    Y = np.column_stack([F.item_factors, np.ones(10)])
    mine = rated(new, Y, 0.3, 0.0, F.global_bias + F.item_bias)
    found = model.transform(csr(new))
    return wrong(
        rows=close(found, mine, 1e-9),
        back=close(model.inverse_transform(found), mine @ Y.T + F.global_bias + F.item_bias, 1e-9),
    )


def _folded_by_default() -> list[str]:
    """What `SGD` solves rows by: its very objective for `Squared`, "ials" with λ = 0.1, ν = 1 for BPR, or as told."""
    SGD = estimators().SGD
    words = {"factors": 3, "epochs": 2, "dtype": "float64", "random_state": 2}
    X, new = stars(20, 9, 4), stars(5, 9, 5)
    squared = SGD(lfm_np.losses.Squared(), sampler=None, regularization={"user": 0.2, "item": 0.7}, **words).fit(csr(X))
    clicks, more = counts(20, 9, 6), counts(5, 9, 7)
    bpr = SGD(**words).fit(clicks)
    told = SGD(
        fold_in={"weighting": "ials", "alpha": 2.0, "unobserved_weight": 0.5, "regularization": 3.0,
                 "regularization_exponent": 0.0}, **words,
    ).fit(clicks)  # fmt: skip
    return wrong(
        squared=close(squared.transform(csr(new)), rated(new, squared.item_factors_, 0.2, 1.0), 1e-9),
        bpr=close(bpr.transform(more), solved(more, bpr.item_factors_, 1.0, 1.0, 0.1, 1.0), 1e-9),
        told=close(told.transform(more), solved(more, told.item_factors_, 2.0, 0.5, 3.0), 1e-9),
    )


def watched(model: Any) -> tuple[Any, list[Any]]:
    """A pipeline of a step that changes nothing, and the model; and what the step was asked to transform."""
    pipeline, preprocessing = (importlib.import_module(f"sklearn.{name}") for name in ("pipeline", "preprocessing"))
    seen: list[Any] = []

    def remember(X: Any) -> Any:
        seen.append(sp.csr_array(X))
        return X

    step = preprocessing.FunctionTransformer(remember, accept_sparse=True)
    return pipeline.Pipeline([("seen", step), ("model", model)]), seen


def _hidden() -> list[str]:
    """What a scorer hides is what the steps do not see: a whole number of each row's cells; its metrics by loops."""
    X, new = counts(40, 14, 8), counts(23, 14, 9)
    new[5, 1:] = 0
    new[5, 0] = 2
    model = estimators().ALS(factors=4, weighting="ials", regularization=0.5, dtype="float64", random_state=3)
    pipe, seen = watched(model)
    pipe.fit(sp.csr_array(X))
    facts: dict[str, Any] = {}
    for metric, share in (("ndcg@10", 0.2), ("recall@3", 0.5), ("auc", 0.9), ("map", 0.34)):
        found = estimators().HeldOut(metric, test_fraction=share, random_state=4)(pipe, sp.csr_array(new))
        shown = seen[-1].toarray()
        hidden = (new > 0) & (shown == 0)
        d = (new > 0).sum(1)
        S = solved(shown, pipe[-1].item_factors_, 1.0, 1.0, 0.5) @ pipe[-1].item_factors_.T
        k = int(metric.split("@")[1]) if "@" in metric else 1
        mine = of_all(S, shown > 0, hidden, k)
        facts[metric] = abs(found - mine[metric]) < 1e-12
        facts[f"part {metric}"] = (shown[shown > 0] == new[shown > 0]).all()
        most, least = np.ceil(share * d + 1e-9), np.floor(share * d - 1e-9)
        facts[f"sizes {metric}"] = (hidden.sum(1) <= np.minimum(most, d - 1)).all() and (
            hidden.sum(1) >= np.minimum(least, d - 1)
        ).all()
    return wrong(**facts)


def _hidden_ratings() -> list[str]:
    """The error of hidden ratings, by the rows that were shown; `score` is that of a fifth."""
    X, new = stars(30, 12, 10), stars(15, 12, 11)
    model = estimators().ALS(
        factors=2, weighting="ratings", regularization=0.4, regularization_exponent=1.0, dtype="float64", random_state=5
    )
    pipe, seen = watched(model)
    pipe.fit(csr(X))
    V = pipe[-1].item_factors_
    errors = []
    for share in (0.2, 0.6):
        found = estimators().HeldOut("neg_root_mean_squared_error", share)(pipe, csr(new))
        shown = seen[-1].toarray()  # no rating is zero
        hidden = ~np.isnan(new) & (shown == 0)
        S = rated(np.where(shown > 0, shown, np.nan), V, 0.4, 1.0) @ V.T
        errors.append((found, -math.sqrt(float(((S - new)[hidden] ** 2).mean()))))
    return wrong(
        fifth=abs(errors[0][0] - errors[0][1]) < 1e-9,
        more=abs(errors[1][0] - errors[1][1]) < 1e-9,
        score=abs(pipe[-1].score(csr(new)) - errors[0][1]) < 1e-9,
    )


def _grid() -> list[str]:
    """A grid search over a pipeline: every fold fitted by `als`, its rows solved and its metric counted by NumPy."""
    pipeline, selection, preprocessing = (
        importlib.import_module(f"sklearn.{name}") for name in ("pipeline", "model_selection", "preprocessing")
    )
    X = counts(36, 12, 12)
    pipe = pipeline.Pipeline(
        [
            ("log", preprocessing.FunctionTransformer(methodcaller("log1p"), accept_sparse=True)),
            ("als", estimators().ALS(factors=3, weighting="ials", iterations=3, dtype="float64", random_state=6)),
        ]
    )
    folds = [(np.flatnonzero(np.arange(36) % 3 != f), np.flatnonzero(np.arange(36) % 3 == f)) for f in range(3)]

    def missed(fitted: Any, rows: Any, y: Any = None) -> float:
        dense = np.log1p(rows.toarray())
        lam = fitted[-1].regularization
        U = solved(dense, fitted[-1].item_factors_, 1.0, 1.0, lam)
        same = close(fitted.transform(rows), U, 1e-9)
        return -float((((dense > 0) - U @ fitted[-1].item_factors_.T) ** 2).mean()) if same else math.nan

    grid = {"als__regularization": [0.05, 1.0, 30.0]}
    search = selection.GridSearchCV(pipe, grid, scoring=missed, cv=folds).fit(sp.csr_array(X))
    mine = []
    for lam in grid["als__regularization"]:
        scores = []
        for a, b in folds:
            logs = sp.csr_array(np.log1p(X[a]))
            V = lfm_np.als(
                logs, factors=3, weighting="ials", iterations=3, dtype="float64", random_state=6, regularization=lam
            ).item_factors
            dense = np.log1p(X[b])
            scores.append(-float((((dense > 0) - solved(dense, V, 1.0, 1.0, lam) @ V.T) ** 2).mean()))
        mine.append(sum(scores) / 3)
    return wrong(
        scores=close(search.cv_results_["mean_test_score"], mine, 1e-9),
        best=search.best_params_["als__regularization"] == grid["als__regularization"][int(np.argmax(mine))],
        refit=search.best_estimator_[-1].factors_.shape == (36, 12),
    )


def _parameters_and_clones() -> list[str]:
    """A clone is not fitted; parameters that are set count in the next fit and not before."""
    base = importlib.import_module("sklearn.base")
    X = counts(20, 8, 13)
    model = estimators().ALS(factors=2, weighting="ials", regularization=0.1, dtype="float64", random_state=7).fit(X)
    before = model.transform(X)
    other = base.clone(model).set_params(factors=5)
    model.set_params(regularization=50.0, alpha=9.0)
    after = model.transform(X)
    V = model.item_factors_
    again = model.fit(X)
    return wrong(
        same=np.array_equal(before, after) and close(after, solved(X, V, 1.0, 1.0, 0.1), 1e-9),
        clone=not hasattr(other, "factors_") and other.get_params()["regularization"] == 0.1,
        five=other.fit(X).transform(X).shape == (20, 5),
        again=close(again.transform(X), solved(X, again.item_factors_, 9.0, 1.0, 50.0), 1e-9),
    )


def _frames_out() -> list[str]:
    pd: Any = importlib.import_module("pandas")
    X = counts(12, 6, 14)
    frame = pd.DataFrame(X, columns=[f"item {i}" for i in range(6)], index=[f"u{u}" for u in range(12)])
    model = (
        estimators().ALS(factors=2, weighting="ials", dtype="float64", random_state=8).set_output(transform="pandas")
    )
    found = model.fit(frame).transform(frame)
    return wrong(
        numbers=close(found.to_numpy(), solved(X, model.item_factors_, 1.0, 1.0, 0.01), 1e-9),
        names=list(found.columns) == ["als0", "als1"] and list(found.index) == list(frame.index),
        columns=model.feature_names_in_.tolist() == list(frame.columns),
        order=isinstance(raised(lambda: model.transform(frame[frame.columns[::-1]])), ValueError),
    )


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    if installed("sklearn"):
        yield _holds("rows from anything, and scores back", _transformed)
        yield _holds("ratings with biases, and predictions back", _rated_with_biases)
        yield _holds("how rows of SGD are solved", _folded_by_default)
        yield _holds("what a scorer hides, and four metrics of it", _hidden)
        yield _holds("hidden ratings", _hidden_ratings)
        yield _holds("a grid over a pipeline, fold by fold", _grid)
        yield _holds("parameters that are set after the fit, and clones", _parameters_and_clones)
    if installed("sklearn", "pandas"):
        yield _holds("frames in and out of an estimator", _frames_out)
