"""The second sitting, models: what fitted models answer to rarely asked questions, beside loops and closed forms."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import scipy.sparse as sp

from .case import Case, Group, installed
from .cases_second_sitting_models_of_engines import Law, begun, by_dask, counts, lfm_np, near, stars
from .working_days import NAN, all_scores, best, csr, faultless, folder, judged, raised, tells, wrong

losses: Any = lfm_np.losses
_holds = faultless(Group("second sitting, models"))
LAW = Law("ratings", lam=0.4, nu=0.5)


def _one_sided() -> Iterator[tuple[str, Any, np.ndarray, np.ndarray, Any, Any, Any]]:
    """Models with and without users' biases, items' biases and μ."""
    draw = np.random.default_rng(51)
    for has_b, has_d, has_mu in itertools.product((False, True), repeat=3):
        U, V, b, d, mu = draw.normal(size=(7, 3)), draw.normal(size=(9, 3)), *draw.normal(size=(2, 9)), 2.5
        b, d, mu = b[:7] if has_b else None, d if has_d else None, mu if has_mu else None
        name = f"b{has_b:d}_d{has_d:d}_mu{has_mu:d}"
        yield name, lfm_np.Factors(U, V, user_bias=b, item_bias=d, global_bias=mu), U, V, b, d, mu


def _alike(one: Any, other: Any) -> bool:
    return one is None if other is None else one is not None and near(one, other, 1e-9)


def _new_users_of_one_sided() -> list[str]:
    """μ and d are taken off the ratings; b is solved where the model has some; and shares add up to the score."""
    X, facts = stars(7, 9, 52), {}
    for name, model, _, V, b, d, mu in _one_sided():
        offset = (mu or 0.0) + (np.zeros(9) if d is None else d)
        mine, bias = LAW.half(X, V, offset, own=b is not None)
        new = model.fold_in_users(csr(X), **LAW.words)
        facts[name] = near(new.user_factors, mine, 1e-9) and _alike(new.user_bias, None if b is None else bias)
        facts[f"{name}_kept"] = np.array_equal(new.item_factors, V) and new.global_bias == mu
        facts[f"{name}_d"] = _alike(new.item_bias, d)
        why = model.explain(3, 4, csr(X), **LAW.words)
        has = np.flatnonzero(~np.isnan(X[3]))
        Y = V if b is None else np.column_stack([V, np.ones(9)])
        A = Y[has].T @ Y[has] + LAW.held(X[3]) * np.eye(Y.shape[1])
        share = dict(zip(has.tolist(), (Y[4] @ np.linalg.solve(A, Y[has].T)) * (X[3] - offset)[has]))
        facts[f"{name}_order"] = list(why.items) == sorted(share, key=lambda i, s=share: -s[i])
        facts[f"{name}_shares"] = near(why.contributions, sorted(share.values(), reverse=True), 1e-9)
        facts[f"{name}_sum"] = near([why.baseline, why.score], [offset[4], offset[4] + sum(share.values())], 1e-9)
    return wrong(**facts)


def _new_items_of_one_sided() -> list[str]:
    """The same for items: one is replaced, and one comes after the last."""
    X, facts = stars(7, 2, 53, 0.7), {}
    for name, model, U, V, b, d, mu in _one_sided():
        offset = (mu or 0.0) + (np.zeros(7) if b is None else b)
        mine, bias = LAW.half(X.T, U, offset, own=d is not None)
        new = model.fold_in_items(csr(X), **LAW.words)
        facts[name] = near(new.item_factors, mine, 1e-9) and _alike(new.item_bias, None if d is None else bias)
        after = model.update(csr(X), items=[9, 2], **LAW.words)
        W, e = np.vstack([V, mine[:1]]), None if d is None else np.append(d, bias[0])
        W[2] = mine[1]
        if e is not None:
            e[2] = bias[1]
        facts[f"{name}_all"] = near(after.item_factors, W, 1e-9) and _alike(after.item_bias, e)
        facts[f"{name}_kept"] = np.array_equal(after.user_factors, U) and after.global_bias == mu
        facts[f"{name}_b"] = _alike(after.user_bias, b)
    return wrong(**facts)


def _converged() -> list[str]:
    """An explanation's score is that of the model, once a fit has converged."""
    X = counts(12, 9, 54)
    fit = lfm_np.als(csr(X), factors=3, iterations=600, regularization=3.0, init=begun(12, 9, 3, 55), dtype="float64")
    facts = {}
    for u in (0, 4, 11):
        why = [fit.explain(u, i, csr(X)).score for i in range(9)]
        facts[f"user_{u}"] = near(why, all_scores(fit)[u], 1e-6) and abs(np.array(why)).max() > 0.05
    return wrong(**facts)


def _bases() -> list[str]:
    """VᵀV is diagonal, the largest first, of every solver; and cosine losses give rows of length one."""
    X, R = csr(counts(30, 20, 56)), csr(stars(30, 20, 57))
    words = {"factors": 6, "dtype": "float64", "random_state": 0}
    backs: list[tuple[str, Any, dict[str, Any]]] = [("numba", lfm_np, {})]
    if installed("torch"):
        backs.append(("torch", lfm_np.torch_backend, {"num_threads": 1}))
    fits, facts = {}, {}
    for name, back, more in backs:
        now = {**words, **more}
        for solver in ("exact", "cg", "subspace"):
            fits[f"{name}_{solver}"] = back.als(X, solver=solver, iterations=3, **now)
        fits[f"{name}_wide"] = back.als(X, iterations=2, **{**now, "factors": 25})
        fits[f"{name}_ratings"] = back.als(R, weighting="ratings", biases=True, iterations=3, **now)
        fits[f"{name}_bpr"] = back.sgd(X, losses.BPR(), biases="item", epochs=3, **now)
        fits[f"{name}_squared"] = back.sgd(R, losses.Squared(), sampler=None, biases=True, epochs=3, **now)
        fits[f"{name}_cosine"] = back.sgd(R, losses.CosineContrastive(), negatives=3, epochs=3, **now)
    if installed("distributed"):
        fits["dask"] = by_dask(X, factors=6, iterations=3, random_state=0)
    for name, fit in fits.items():
        G = fit.item_factors.T @ fit.item_factors
        size, slack = np.diag(G), 1e-9 * np.diag(G).max()
        facts[name] = abs(G - np.diag(size)).max() <= slack and bool((np.diff(size) <= slack).all())
        if name.endswith("cosine"):
            rows = np.vstack([fit.user_factors, fit.item_factors])
            facts[f"{name}_length"] = near((rows**2).sum(1), np.ones(50), 1e-9)
    return wrong(**facts)


def _nothing_latent() -> list[str]:
    """A model of counts has zero vectors: everything is like everything to 0, the lower id first."""
    from lfm_np import ann

    has = np.random.default_rng(58).random((6, 9)) < 0.5
    model = lfm_np.evaluation.most_popular(sp.csr_array(has.astype(float)))
    had, facts = has.sum(0).astype(float), {}
    for metric in ("cosine", "inner"):
        items, users = (f([5, 0], N=4, metric=metric) for f in (model.similar_items, model.similar_users))
        for name, (ids, scores) in (("items", items), ("users", users)):
            facts[f"{metric}_{name}"] = ids.tolist() == [[0, 1, 2, 3]] * 2 and scores.tolist() == [[0.0] * 4] * 2
    vectors = ann.item_vectors(model)
    facts["vectors"] = vectors.dtype == np.float32 and near(
        vectors, np.column_stack([had, np.sqrt(had.max() ** 2 - had**2)]), 1e-6
    )
    facts["people"] = ann.user_vectors(model).tolist() == [[1.0, 0.0]] * 6
    return wrong(**facts)


def _halves_of_floats() -> list[str]:
    """An index of 16-bit floats cannot tell these scores apart, but lists are in the order of the exact ones."""
    from lfm_np import ann

    draw = np.random.default_rng(59)
    V = np.array([1.0, 0.5, -0.25]) + 1e-5 * draw.normal(size=(60, 3))
    model = lfm_np.Factors(draw.normal(size=(5, 3)) + 2, V, item_bias=1e-5 * draw.normal(size=60))
    index = ann.usearch_index(model, dtype="f16", connectivity=32, expansion_search=256, num_threads=1)
    ids, scores = ann.search(index, model, [4, 0, 2], N=25)
    facts = {"shape": ids.shape == scores.shape == (3, 25)}
    for u, row, found in zip((4, 0, 2), ids, scores):
        here = row[row >= 0]
        facts[f"scores_{u}"] = np.array_equal(found[: len(here)], model.scores(u, here))
        facts[f"order_{u}"] = bool((np.diff(found[: len(here)]) <= 0).all()) and len(here) > 1
        facts[f"once_{u}"] = len(set(here.tolist())) == len(here)
    return wrong(**facts)


def _beside() -> list[str]:
    """Popularity beside a model of ratings counts zeros, as `evaluate` does then; beside one of clicks it does not."""
    draw = np.random.default_rng(60)
    stored, later = draw.random((20, 15)) < 0.3, draw.random((20, 15)) < 0.3
    values = np.where(draw.random((20, 15)) < 0.4, 0.0, 3.0)
    train = csr(np.where(stored, values, NAN))
    test = csr(np.where(later & ~stored, values, NAN))
    assert train.nnz == stored.sum()
    facts = {}
    for weighting in ("ratings", "hu-koren"):
        model = lfm_np.als(train, factors=2, weighting=weighting, iterations=2, dtype="float64", random_state=0)
        some = np.ones((20, 15), bool) if weighting == "ratings" else values > 0
        known, held = stored & some, later & ~stored & some
        popular = lfm_np.evaluation.beside(model, train)
        facts[f"{weighting}_counts"] = popular.item_bias.tolist() == known.sum(0).tolist()
        for name, one in (("model", model), ("popular", popular)):
            got = lfm_np.evaluate(one, train, test, ["ndcg@5", "mrr", "auc"])
            mine = judged(all_scores(one), known, held, 5)
            facts[f"{weighting}_{name}"] = all(
                abs(got[x] - mine[x]) <= 1e-9 for x in ("ndcg@5", "mrr", "auc", "mrr_se", "users")
            )
    return wrong(**facts)


def _zeros_of_newcomers() -> list[str]:
    """A zero is a rating of those who are folded in too, also in a file and after an update; a click it is not."""
    X = stars(10, 8, 61)
    row = np.full((1, 8), NAN)
    row[0, [1, 4, 6]] = 0.0, 3.0, 0.0
    facts = {}
    for weighting, seen in (("ratings", {1, 4, 6}), ("ials", {4})):
        fit = lfm_np.als(csr(X), factors=2, weighting=weighting, iterations=2, random_state=0)
        new = fit.fold_in_users(csr(row))
        with folder() as place:
            new.save(place / "m")
            again = lfm_np.Factors.load(place / "m")
        after = fit.update(csr(row), users=[10])
        whole = sp.vstack([csr(X), csr(row)], format="csr")
        lists = {
            "new": new.recommend(0, N=8, seen=csr(row)).ids,
            "again": again.recommend(0, N=8, seen=csr(row)).ids,
            "after": after.recommend(10, N=8, seen=whole).ids,
        }
        for name, ids in lists.items():
            facts[f"{weighting}_{name}"] = set(ids[ids >= 0].tolist()) == set(range(8)) - seen
    return wrong(**facts)


def _tables_of_newcomers() -> list[str]:
    """People who come later, with names of their own, beside the items of the fit."""
    draw = np.random.default_rng(62)
    data = lfm_np.Interactions.from_arrays(draw.integers(0, 20, 120), draw.integers(0, 9, 120) * 11)
    fit = lfm_np.als(data, factors=3, alpha=2.0, regularization=0.5, dtype="float64", random_state=0)
    X = counts(3, 9, 63, 0.4)
    people = lfm_np.Interactions(csr(X), np.array(["zoe", "yan", "xia"]), data.items)
    new = fit.fold_in_users(people)
    table = lfm_np.recommend_frame(new, people, ["xia", "zoe"], N=4, seen=people, exclude=[33]).to_pylist()
    S = Law(alpha=2.0, lam=0.5).half(X, fit.item_factors)[0] @ fit.item_factors.T
    mine = []
    for name, u in (("xia", 2), ("zoe", 0)):
        allowed = np.isnan(X[u]) & (data.items != 33)
        mine += [(name, int(data.items[i]), S[u, i], r) for r, i in enumerate(best(S[u], allowed, 4), 1) if i >= 0]
    return wrong(
        rows=[(row["user"], row["item"], row["rank"]) for row in table] == [(a, b, r) for a, b, _, r in mine],
        scores=near([row["score"] for row in table], [s for _, _, s, _ in mine], 1e-9),
        some=len(mine) > 4,
    )


def _catalogue() -> list[str]:
    """Everybody has the same list of popular items, so that lists of N show N/n of all, and no more than all."""
    from lfm_np import plots

    has = np.random.default_rng(64).random((7, 12)) < 0.5
    axes = plots.coverage(lfm_np.evaluation.most_popular(sp.csr_array(has.astype(float))), users=[3, 1, 3], N=30)
    x, y = axes.lines[0].get_xdata(), axes.lines[0].get_ydata()
    return wrong(
        share=near(y, np.minimum(x, 12) / 12, 1e-12), lengths=min(x) == 1 and {*range(1, 13)} <= {*map(int, x)}
    )


def _estimated() -> list[str]:
    """Columns of a frame for factors and bias; and scores from them."""
    from lfm_np.sklearn import ALS

    X, new, law = stars(14, 9, 65), stars(5, 9, 66), Law("ratings", lam=0.2, nu=1.0)
    model = ALS(factors=3, biases=True, iterations=3, dtype="float64", random_state=0, **law.words).fit(csr(X))
    V, d, mu = model.item_factors_, model.factors_.item_bias, model.factors_.global_bias
    U, b = law.half(new, V, mu + d, own=True)
    plain = model.transform(csr(new))
    frame = model.set_output(transform="pandas").transform(csr(new))
    names = [f"als{n}" for n in range(4)]
    return wrong(
        plain=near(plain, np.column_stack([U, b]), 1e-9),
        names=list(frame.columns) == names == list(model.get_feature_names_out()),
        frame=np.array_equal(frame.to_numpy(), plain),
        scores=near(model.inverse_transform(plain), mu + b[:, None] + d + U @ V.T, 1e-9),
        mean=near(mu, np.nanmean(X), 1e-12),
    )


def _parameters_of_the_next() -> list[str]:
    """set_params is for the next fit, except ``fold_in``; what stands in for BPR is "ials" of 1, 1, 0.1 and 1."""
    from lfm_np.sklearn import ALS, SGD

    X, new, law = counts(14, 9, 67), counts(5, 9, 68), Law("hu-koren", 2.0, 0.5, 0.7, 0.3)
    model = ALS(factors=3, iterations=2, dtype="float64", random_state=0, **law.words).fit(csr(X))
    mine = law.half(new, model.item_factors_)[0]
    model.set_params(alpha=90.0, regularization=7.0, weighting="confidence", factors=5)
    facts = {"old": near(model.transform(csr(new)), mine, 1e-9)}
    model.fit(csr(X))
    later = Law("confidence", 90.0, 0.5, 7.0, 0.3)
    facts["new"] = near(model.transform(csr(new)), later.half(new, model.item_factors_)[0], 1e-9)
    ranked = SGD(factors=3, epochs=4, dtype="float64", random_state=0).fit(csr(X))
    V = ranked.item_factors_
    facts["bpr"] = near(ranked.transform(csr(new)), Law("ials", 1.0, 1.0, 0.1, 1.0).half(new, V)[0], 1e-9)
    words = {"weighting": "hu-koren", "alpha": 3.0, "regularization": 0.2, "regularization_exponent": 0.0}
    ranked.set_params(fold_in=words, learning_rate=9.0)
    facts["told"] = near(ranked.transform(csr(new)), Law("hu-koren", 3.0, 1.0, 0.2).half(new, V)[0], 1e-9)
    return wrong(**facts)


class Plain:
    """A pointwise loss whose target is the stored value."""

    def value(self, score: float, target: float) -> float:
        return (score - target) ** 2

    def gradient(self, score: float, target: float) -> float:
        return 2.0 * (score - target)


def _stand_ins() -> list[str]:
    """Without a sampler λ of users, which is 0 where others are named; with one "ials", but not with biases."""
    from lfm_np.sklearn import SGD

    X, new, words = stars(20, 9, 69, 0.6), stars(4, 9, 70, 0.9), {"factors": 2, "epochs": 5, "random_state": 0}
    words |= {"dtype": "float64", "learning_rate": 0.02}
    free = SGD(Plain(), sampler=None, regularization={"item": 0.1}, **words).fit(csr(X))
    V, mine = free.item_factors_, []
    for x in new:
        has = ~np.isnan(x)
        mine.append(V @ np.linalg.lstsq(V[has], x[has], rcond=None)[0])
    held = SGD(Plain(), sampler=None, regularization={"user": 0.3, "item": 0.1}, **words).fit(csr(X))
    drawn = SGD(losses.Squared(), negatives=2, **words).fit(csr(X))
    biased = SGD(losses.Squared(), negatives=2, biases=True, **words).fit(csr(X))
    W, Z = held.item_factors_, drawn.item_factors_
    return wrong(
        free=near(free.inverse_transform(free.transform(csr(new))), mine, 1e-6),
        held=near(held.transform(csr(new)), Law("ratings", lam=0.3, nu=1.0).half(new, W)[0], 1e-8),
        drawn=near(drawn.transform(csr(new)), Law("ials", 1.0, 1.0, 0.1, 1.0).half(new, Z)[0], 1e-8),
        biased=tells(raised(lambda: biased.transform(csr(new))), "bias|μ|constant"),
    )


def _hidden(ratings: bool) -> list[str]:
    """Two of a row's five cells are hidden: one of ten choices, each with a number of its own; and one of five."""
    from lfm_np.sklearn import ALS, HeldOut

    X = stars(25, 14, 71)
    law = Law("ratings", lam=0.2, nu=1.0) if ratings else Law("ials", 1.0, 0.3, 0.2, 1.0)
    model = ALS(factors=3, biases=ratings, iterations=3, dtype="float64", random_state=0, **law.words).fit(csr(X))
    V, row = model.item_factors_, np.full((1, 14), NAN)
    row[0, [2, 3, 7, 8, 12]] = 1.0, 4.5, 2.0, 5.0, 3.5
    mu, d = (model.factors_.global_bias, model.factors_.item_bias) if ratings else (0.0, np.zeros(14))
    values: dict[int, list[float]] = {1: [], 2: []}
    for size in (1, 2):
        for hide in map(list, itertools.combinations((2, 3, 7, 8, 12), size)):
            left = row.copy()
            left[0, hide] = NAN
            U, b = law.half(left, V, mu + d, own=ratings)
            s = mu + b[0] + d + V @ U[0]
            if ratings:
                values[size].append(-math.sqrt(np.mean((s[hide] - row[0, hide]) ** 2)))
            else:
                test = np.isin(np.arange(14), hide)
                values[size].append(judged(s[None], ~np.isnan(left), test[None], 10)["ndcg@10"])
    metric = "neg_root_mean_squared_error" if ratings else "ndcg@10"
    got = [HeldOut(metric, 0.4, seed)(model, csr(row)) for seed in range(12)]
    known = [min(abs(x - y) for y in values[2]) <= 1e-9 for x in got]
    one = model.score(csr(row))
    return wrong(
        known=all(known),
        several=len({round(x, 9) for x in got}) > 1,
        again=HeldOut(metric, 0.4, 7)(model, csr(row)) == got[7],
        score=min(abs(one - y) for y in values[1]) <= 1e-9,
        same=HeldOut(metric)(model, csr(row)) == one,
    )


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    yield _holds("new users and reasons of eight kinds of models", _new_users_of_one_sided)
    yield _holds("new and changed items of eight kinds of models", _new_items_of_one_sided)
    yield _holds("explanations of a converged fit", _converged)
    yield _holds("the canonical basis of every solver", _bases)
    yield _holds("likenesses and vectors of a model of counts", _nothing_latent)
    if installed("usearch"):
        yield _holds("an index of 16-bit floats", _halves_of_floats)
    yield _holds("popularity beside models of ratings and of clicks", _beside)
    yield _holds("zeros of those who are folded in", _zeros_of_newcomers)
    if installed("pyarrow", "narwhals"):
        yield _holds("tables of those who are folded in", _tables_of_newcomers)
    if installed("matplotlib"):
        yield _holds("how much of a catalogue popularity shows", _catalogue)
    if installed("sklearn"):
        yield _holds("parameters of the next fit", _parameters_of_the_next)
        yield _holds("what stands in for losses when rows are transformed", _stand_ins)
        for ratings in (False, True):
            yield _holds(f"what HeldOut may hide of a row, ratings: {ratings}", lambda r=ratings: _hidden(r))
    if installed("sklearn", "pandas"):
        yield _holds("frames of factors and biases", _estimated)
