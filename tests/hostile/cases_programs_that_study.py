"""Studies: grids over losses, weights and seeds, in threads and searches of others, told apart by counting."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import scipy.sparse as sp

import lfm_np

from .case import Case
from .programs import BAD, RULE, Programs, clicked, plain, served, swept
from .working_days import (
    NAN,
    Model,
    all_scores,
    biased_half,
    close,
    csr,
    judged,
    raised,
    same,
    stars,
    start,
    tells,
    wrong,
)

program = Programs("program study")
X = stars()
WORDS: dict[str, Any] = {"factors": 3, "iterations": 2, "dtype": "float64"}


def _fit(rule: Model, **words: Any) -> lfm_np.Factors:
    return lfm_np.als(csr(X), init=start(30, 20, 3), **{**WORDS, **rule.words, **words})


GRID = [
    Model(weighting, alpha, a0, lam, nu)
    for weighting, (alpha, a0), (lam, nu) in itertools.product(
        ("hu-koren", "ials", "confidence"), ((1.0, 1.0), (5.0, 0.2)), ((0.3, 0.0), (0.02, 1.0))
    )
]


@program("a grid of twelve points in threads of joblib, each beside normal equations", "joblib")
def _grid_in_threads() -> list[str]:
    from joblib import Parallel, delayed

    fits = Parallel(n_jobs=3, prefer="threads")(delayed(_fit)(rule, num_threads=1) for rule in GRID)
    found = []
    for rule, fit in zip(GRID, fits, strict=True):
        U, V = rule.sweeps(X, start(30, 20, 3)[1], 2)
        J = rule.objective(X, U, V)
        good = close(all_scores(fit), U @ V.T, 1e-8) and abs(fit.history[-1]["objective"] / J - 1) < 1e-9
        found += [] if good else [str(rule)]
    return found


@program("a grid in which a third of the points cannot be, and the best of the others")
def _grid_with_bad_points() -> list[str]:
    test, told, quality = stars(seed=8), 0, {}
    points = [(a, w) for a in (-1.0, 0.5, NAN, 4.0) for w in ("hu-koren", "ials", "warp")]
    for alpha, weighting in points:
        try:
            fit = _fit(Model("hu-koren", lam=0.5), alpha=alpha, weighting=weighting)
        except BAD as error:
            told += tells(error, "alpha|weighting")
            continue
        quality[alpha, weighting] = lfm_np.evaluate(fit, csr(X), csr(test), ["ndcg@5"])["ndcg@5"]
    mine = {}
    for alpha, weighting in quality:
        S = swept(X, start(30, 20, 3)[1], 2, Model(weighting, alpha, lam=0.5))
        mine[alpha, weighting] = judged(S, ~np.isnan(X), ~np.isnan(test), 5)["ndcg@5"]
    return wrong(told=told == 8, points=len(quality) == 4, quality=all(abs(mine[p] - quality[p]) < 1e-12 for p in mine))


@program("the same seed in every type that holds it")
def _types_of_seeds() -> list[str]:
    one = served(3)
    made: dict[str, Any] = {
        "SeedSequence": lambda: np.random.SeedSequence(3),
        "Generator": lambda: np.random.default_rng(3),
        "RandomState": lambda: np.random.RandomState(3),
    }
    found = [repr(s) for s in (np.int64(3), np.uint8(3)) if not same(served(3, random_state=s), one)]
    found += [n for n, f in made.items() if not same(served(3, random_state=f()), served(3, random_state=f()))]
    for bad in (-1, 3.0, np.array(3), "3", [1, -2], NAN, True):
        try:
            served(3, random_state=bad)
        except BAD as error:
            found += wrong(**{repr(bad): tells(error, "random_state")})
        else:
            found += wrong(**{f"{bad!r} taken": bad is True})
    return found


@program("one generator through a study gives other fits, and again the same in the same order")
def _one_generator() -> list[str]:
    def study() -> list[Any]:
        draw = np.random.default_rng(11)
        return [served(0, random_state=draw), lfm_np.sgd(csr(X), factors=2, epochs=2, random_state=draw), draw.random()]

    one, other = study(), study()
    legacy = [np.random.RandomState(5) for _ in range(2)]
    old = [[served(0, random_state=state) for _ in range(2)] for state in legacy]
    return wrong(
        als=same(one[0], other[0]),
        sgd=same(one[1], other[1]),
        state=one[2] == other[2],
        legacy=same(old[0][0], old[1][0]) and same(old[0][1], old[1][1]),
        apart=not same(old[0][0], old[0][1]),
    )


@program("children of a SeedSequence, fitted in any order")
def _spawned_seeds() -> list[str]:
    def fits(order: list[int]) -> list[Any]:
        seeds = np.random.SeedSequence(7).spawn(3)
        made = {n: served(0, random_state=seeds[n]) for n in order}
        return [made[n] for n in range(3)]

    one, other = fits([0, 1, 2]), fits([2, 0, 1])
    pairs = itertools.combinations(one, 2)
    return wrong(bits=all(map(same, one, other)), apart=not any(same(a, b) for a, b in pairs))


@program("a seed that was drawn is in params and brings the fit back")
def _seed_told() -> list[str]:
    first = lfm_np.sgd(csr(X), factors=2, epochs=2)
    second = lfm_np.sgd(csr(X), factors=2, epochs=2)
    again = lfm_np.sgd(csr(X), factors=2, epochs=2, random_state=first.params["seed"])
    return wrong(again=same(first, again), apart=not same(first, second))


@program("mean and deviation over seeds, from the means of users that were counted")
def _over_seeds() -> list[str]:
    test, told, mine = stars(seed=5), [], []
    for seed in range(5):
        fit = served(seed, random_state=seed)
        own = stars(seed=seed)
        told.append(lfm_np.evaluate(fit, csr(own), csr(test), ["map@4", "mrr", "auc"]))
        mine.append(judged(all_scores(fit), ~np.isnan(own), ~np.isnan(test), 4))
    names = ("map@4", "map@4_se", "mrr", "mrr_se", "auc", "auc_se", "users")
    return [n for n in names if not close([t[n] for t in told], [m[n] for m in mine], 1e-11)]


@program("the difference of two models user by user, from evaluations of one user each")
def _paired_difference() -> list[str]:
    test, fits, of = stars(seed=5), (served(0), served(0, factors=2)), []
    for u in range(30):
        only = np.full(X.shape, NAN)
        only[u] = test[u]
        if not (~np.isnan(only) & np.isnan(X)).any():
            error = raised(lambda only=only: lfm_np.evaluate(fits[0], csr(X), csr(only)))
            if not tells(error, "test"):
                return ["a user without test cells"]
            continue
        pair = [lfm_np.evaluate(f, csr(X), csr(only), ["recall@5", "ndcg@5"]) for f in fits]
        of.append([p["recall@5"] for p in pair])
        if not all(np.isnan(p["recall@5_se"]) and p["users"] == 1 for p in pair):
            return ["standard error of one user"]
    whole = [judged(all_scores(f), ~np.isnan(X), ~np.isnan(test), 5) for f in fits]
    return wrong(means=close(np.mean(of, axis=0), [w["recall@5"] for w in whole], 1e-12))


for _name, _asked in {
    "a letter for a number": ["recall@k"],
    "no number where one is needed": ["precision"],
    "zero": ["map@0"],
    "a fraction": ["ndcg@2.5"],
    "a sign": ["recall@+5"],
    "a space": ["recall@ 5"],
    "a name of scikit-learn": ["roc_auc"],
    "nothing": [],
    "a number beside a name": ["mrr", 5],
}.items():

    @program(f"a metric with {_name}: refused by name, and the study goes on")
    def _odd_metric(asked: Any = _asked) -> list[str]:
        fit, test = served(), stars(seed=5)
        error = raised(lambda: lfm_np.evaluate(fit, csr(X), csr(test), asked))
        told = lfm_np.evaluate(fit, csr(X), csr(test), ["hit_rate@3"])
        mine = judged(all_scores(fit), ~np.isnan(X), ~np.isnan(test), 3)
        return wrong(
            said=isinstance(error, BAD) and tells(error, "metric"), on=close(told["hit_rate@3"], mine["hit_rate@3"])
        )


@program("metrics as a tuple, a generator, an array, twice the same, and one word alone")
def _metrics_in_containers() -> list[str]:
    fit, test = served(), stars(seed=5)
    mine = judged(all_scores(fit), ~np.isnan(X), ~np.isnan(test), 1000)
    found = []
    for asked in (("recall@1000",), (m for m in ["recall@1000"]), np.array(["recall@1000"]), ["recall@1000"] * 2):
        told = lfm_np.evaluate(fit, csr(X), csr(test), asked)  # type: ignore[arg-type]
        found += wrong(**{type(asked).__name__: told["recall@1000"] == mine["recall@1000"] == 1.0})
    try:
        found += wrong(
            word=lfm_np.evaluate(fit, csr(X), csr(test), "precision@1000")["precision@1000"] == mine["precision@1000"]
        )
    except BAD as error:
        found += wrong(word=tells(error, "metrics"))
    return found


@program("leave one out among negatives that repeat, were seen, or are the one that is looked for")
def _negatives_by_hand() -> list[str]:
    fit, draw, ndcg = served(), np.random.default_rng(3), []
    held = np.array([int(draw.choice(np.flatnonzero(np.isnan(x)))) for x in X])
    negatives = draw.integers(-1, 20, (30, 12))
    S = all_scores(fit)
    for u in range(30):
        rivals = {int(j) for j in negatives[u] if j >= 0 and np.isnan(X[u, j]) and j != held[u]}
        rank = 1 + sum(S[u, j] > S[u, held[u]] or (S[u, j] == S[u, held[u]] and j < held[u]) for j in rivals)
        ndcg.append(1 / np.log2(rank + 1) if rank <= 3 else 0.0)
    test = sp.csr_array((np.ones(30), (np.arange(30), held)), shape=(30, 20))
    told = lfm_np.evaluate(fit, csr(X), test, ["ndcg@3"], negatives=negatives)
    bad = negatives.copy()
    bad[4, 4] = 20
    error = raised(lambda: lfm_np.evaluate(fit, csr(X), test, ["ndcg@3"], negatives=bad))
    return wrong(number=close(told["ndcg@3"], np.mean(ndcg), 1e-12), said=tells(error, "negatives"))


@program("ratings with biases from a warm start, beside rows solved one by one")
def _ratings_with_biases() -> list[str]:
    V, mu = start(30, 20, 3)[1], float(np.nanmean(X))
    c, b = np.zeros(20), np.zeros(30)
    U = np.zeros((30, 3))
    for _ in range(3):
        U, b = biased_half(X, V, c, mu, 0.7)
        V, c = biased_half(X.T, U, b, mu, 0.7)
    fit = _fit(Model("ratings", lam=0.7), biases=True, iterations=3)
    S = U @ V.T + b[:, None] + c + mu
    rmse = np.sqrt(np.nanmean((X - S) ** 2))
    mine = np.sqrt(np.nanmean((X - all_scores(fit)) ** 2))
    return wrong(
        scores=close(all_scores(fit), S, 1e-8), rmse=abs(rmse - mine) < 1e-9, mu=abs(fit.global_bias - mu) < 1e-12
    )


@program("tolerance ends each fit where its own history says")
def _tolerances() -> list[str]:
    found = []
    long = served(0, sweeps=40)
    J = [r["objective"] for r in long.history]
    for tolerance in (0.3, 0.03, 0.004):
        falls = [(a - b) / a for a, b in itertools.pairwise(J)]
        stop = next(n for n, fall in enumerate(falls, 2) if fall < tolerance)
        fit = served(0, sweeps=40, tolerance=tolerance)
        good = len(fit.history) == stop and fit.status is lfm_np.Status.CONVERGED and same(fit, served(0, sweeps=stop))
        found += wrong(**{str(tolerance): good})
    return found + wrong(never=long.status is lfm_np.Status.MAX_ITERATIONS)


@program("a learning curve over shares of the users, each part beside its own oracle")
def _learning_curve() -> list[str]:
    found = []
    for m in (3, 11, 30):
        fit = lfm_np.als(csr(X[:m]), init=start(m, 20, 3), **WORDS, **RULE.words)
        found += wrong(**{str(m): close(all_scores(fit), swept(X[:m], start(m, 20, 3)[1], 2), 1e-8)})
    return found


@program("five folds of cells, and the sum of squares over all of them")
def _folds() -> list[str]:
    cells = np.argwhere(~np.isnan(X))
    fold = np.random.default_rng(0).integers(0, 5, len(cells))
    rule, told, mine = Model("ratings", lam=0.8), 0.0, 0.0
    for f in range(5):
        part = X.copy()
        held = cells[fold == f]
        part[held[:, 0], held[:, 1]] = NAN
        fit = lfm_np.als(csr(part), init=start(30, 20, 3), **WORDS, **rule.words)
        S = swept(part, start(30, 20, 3)[1], 2, rule)
        truth = X[held[:, 0], held[:, 1]]
        told += float(((fit.scores(held[:, 0], held[:, 1]) - truth) ** 2).sum())
        mine += float(((S[held[:, 0], held[:, 1]] - truth) ** 2).sum())
    return wrong(sum=abs(told / mine - 1) < 1e-8)


@program("the objective of shrunken, doubled and random factors, by every cell")
def _objectives_of_any_factors() -> list[str]:
    found = []
    for rule, scale in itertools.product((GRID[1], GRID[6], Model("ratings", lam=0.4, nu=1.0)), (0.0, 0.5, 2.0)):
        U, V = (scale * F for F in start(30, 20, 3, seed=9))
        told = lfm_np.objective(csr(X), lfm_np.Factors(U, V), **rule.words)
        found += wrong(**{f"{rule} {scale}": abs(told / rule.objective(X, U, V) - 1) < 1e-10})
    return found


@program("words of implicit, Spark, lightfm and scikit-learn are refused by their names")
def _words_of_others() -> list[str]:
    words = ("rank", "n_components", "no_components", "n_factors", "maxIter", "reg", "use_gpu", "n_jobs", "lr_all")
    errors = {w: raised(lambda w=w: lfm_np.als(csr(X), **{w: 3})) for w in words}
    return [w for w, e in errors.items() if not (isinstance(e, TypeError) and w in str(e))]


@program("values of other libraries: each is refused by its name or taken for what it says")
def _values_of_others() -> list[str]:
    values: dict[str, tuple[Any, ...]] = {
        "num_threads": (0, -1, 2.0, "all"),
        "factors": (0, -8, 8.0, "8", None, True),
        "iterations": (-1, 2.5, None, "10"),
        "regularization": (-0.1, NAN, np.inf, "0.1", None, [0.1, 0.1]),
        "alpha": (-1.0, np.inf, "40", [1.0]),
        "dtype": ("float16", np.int32, "double precision", complex),
        "solver": ("cholesky", "lbfgs", None, 1),
        "weighting": ("linear", None, "Hu-Koren "),
        "tolerance": (-1e-3, NAN, "auto"),
        "biases": ("item", 2, None),
        "init": ("normal", np.zeros((30, 3)), (np.zeros((30, 3)),)),
    }
    found = []
    for name, odd in values.items():
        for value in odd:
            error = raised(lambda n=name, v=value: lfm_np.als(csr(X), **{"factors": 3, "weighting": "hu-koren", n: v}))
            found += wrong(**{f"{name}={value!r:.20}": isinstance(error, BAD) and tells(error, name)})
    return found


@program("a search of scikit-learn over grids, then the best by hand", "sklearn")
def _grid_search() -> list[str]:
    from sklearn.base import clone
    from sklearn.model_selection import GridSearchCV

    from lfm_np.sklearn import ALS, HeldOut

    model = ALS(factors=3, iterations=2, random_state=0, dtype="float64", alpha=3.0)
    search = GridSearchCV(model, {"regularization": [0.1, 5.0]}, scoring=HeldOut("recall@5"), cv=3, error_score="raise")
    search.fit(csr(X))
    best_one = clone(model).set_params(**search.best_params_).fit(csr(X))
    V = best_one.item_factors_
    rule = RULE._replace(lam=search.best_params_["regularization"])
    return wrong(
        refit=same(search.best_estimator_.factors_, best_one.factors_),
        fitted=not hasattr(clone(best_one), "factors_"),
        rows=close(search.transform(csr(stars(seed=4))), rule.half(stars(seed=4), V), 1e-8),
        same_twice=search.cv_results_["mean_test_score"].tolist()
        == GridSearchCV(model, {"regularization": [0.1, 5.0]}, scoring=HeldOut("recall@5"), cv=3)
        .fit(csr(X))
        .cv_results_["mean_test_score"]
        .tolist(),
    )


@program("a pipeline that weighs cells before, with names of columns that change half way", "sklearn", "pandas")
def _pipeline() -> list[str]:
    import pandas as pd
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer

    from lfm_np.sklearn import ALS

    frame = pd.DataFrame(np.nan_to_num(X), columns=[f"film {n}" for n in range(20)])
    model = ALS(factors=3, random_state=0, dtype="float64", alpha=2.0, regularization=0.3)
    pipe = make_pipeline(FunctionTransformer(np.log1p), model).fit(frame)
    V = pipe[-1].item_factors_
    mine = [clicked(V, np.flatnonzero(~np.isnan(x)), np.log1p(x[~np.isnan(x)]), Model(alpha=2.0, lam=0.3)) for x in X]
    error = raised(lambda: pipe.transform(frame.rename(columns={"film 3": "film 33"})))
    return wrong(
        rows=close(pipe.transform(frame), mine, 1e-8),
        names=list(pipe[-1].feature_names_in_) == list(frame.columns),
        said=isinstance(error, ValueError) and tells(error, "film 33|feature names"),
        scores=close(pipe[-1].inverse_transform(np.array(mine)), np.array(mine) @ V.T, 1e-8),
    )


@program("an estimator that fails to fit keeps what it had, and says which parameter", "sklearn")
def _estimator_that_fails() -> list[str]:
    from lfm_np.sklearn import ALS, SGD

    found = []
    for model, name in (
        (ALS(factors=3, random_state=0, iterations=2), "alpha"),
        (SGD(factors=3, random_state=0), "epochs"),
    ):
        model.fit(csr(X))
        old = model.factors_
        error = raised(lambda m=model, n=name: m.set_params(**{n: -1}).fit(csr(X)))
        unknown = raised(lambda m=model: m.set_params(rank=3))
        found += wrong(
            **{
                f"{name} said": isinstance(error, BAD) and tells(error, name),
                f"{name} unknown": isinstance(unknown, ValueError) and tells(unknown, "rank"),
                f"{name} serves": plain(old, X),
            }
        )
    fresh = raised(lambda: ALS().transform(csr(X)))
    return found + wrong(fresh=tells(fresh, "fit"))


def cases() -> list[Case]:
    return program.found
