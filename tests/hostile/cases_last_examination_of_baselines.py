"""What every model must beat, and what scikit-learn's searches see: counts by dictionaries, errors in closed form."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

from lfm_np.evaluation import beside, most_popular

from .case import Case, Group, installed
from .cases_last_examination_of_judges import by_loops, differs, lfm_np, masks, matrix, names, whole
from .working_days import faultless, folder, wrong

_GROUP = Group("the last examination, lists: baselines")
_holds = faultless(_GROUP)


def _popularity() -> list[str]:
    train, test = masks(60, 25, 3, 0.4, 0.2)
    counts = [sum(1 for u in range(60) if train[u, i]) for i in range(25)]
    asked = names(1, 3, 10, 24, 25)
    return differs(
        lfm_np.evaluate(most_popular(matrix(train)), matrix(train), matrix(test), asked),
        by_loops([counts] * 60, train, test, asked),
    )


def _stored_zeros(keeps: bool) -> list[str]:
    """A stored zero of either matrix counts for models of ratings, and of popularity that keeps it, only."""
    draw = np.random.default_rng(14)
    parts = [sp.csr_array(np.where(mask, 2.0, 0.0)) for mask in masks(20, 14, 15)]
    for part in parts:
        part.data[draw.random(part.nnz) < 0.4] = 0.0
    stored = []
    for part in parts:
        rows = np.repeat(np.arange(20), np.diff(part.indptr))
        mask = np.zeros((20, 14), bool)
        mask[rows, part.indices] = True if keeps else part.data != 0
        stored.append(mask)
    train, test = parts
    X = sp.csr_array(whole((20, 14), 16, 2) ** 2 + 1)
    model = lfm_np.als(
        X, factors=2, weighting="ratings" if keeps else "confidence", iterations=1, random_state=0, dtype="float64"
    )
    asked = names(2, 6)
    S = [[float(x) for x in model.scores(u, np.arange(14))] for u in range(20)]
    popular = most_popular(train, zeros="keep" if keeps else "drop")
    counts = [sum(1 for u in range(20) if stored[0][u, i]) for i in range(14)]
    return [
        *differs(lfm_np.evaluate(model, train, test, asked), by_loops(S, *stored, asked)),
        *differs(lfm_np.evaluate(popular, train, test, asked), by_loops([counts] * 20, *stored, asked)),
        *differs(lfm_np.evaluate(beside(model, train), train, test, asked), by_loops([counts] * 20, *stored, asked)),
    ]


def _last_of_each() -> list[str]:
    """Events, the last of each person held out, popularity of the rest, all by dictionaries."""
    draw = np.random.default_rng(17)
    pairs = sorted({(int(u), int(draw.integers(0, 9) * draw.integers(0, 3))) for u in draw.integers(0, 25, 160)})
    times = draw.permutation(len(pairs)) // 3  # some at the same time
    of: dict[int, list[tuple[int, int]]] = {}
    for (u, i), time in zip(pairs, times.tolist(), strict=True):
        of.setdefault(u, []).append((time, i))
    held = {u: max(cells)[1] for u, cells in of.items() if len(cells) > 1}
    counts: dict[int, int] = {}
    for u, i in pairs:
        counts[i] = counts.get(i, 0) + (held.get(u) != i)
    ranks = []
    for u, item in held.items():
        free = [i for i in counts if i not in {j for _, j in of[u]} or i == item]
        ranks.append(1 + sorted(free, key=lambda i: (-counts[i], i)).index(item))
    data = lfm_np.Interactions.from_arrays([f"u{u:02}" for u, _ in pairs], [i for _, i in pairs], timestamps=times)
    train, test = data.split("last")
    got = lfm_np.evaluate(most_popular(train), train, test, ["hit_rate@1", "hit_rate@3", "mrr", "recall@2"])
    return wrong(
        users=got["users"] == len(ranks),
        one=abs(got["hit_rate@1"] - sum(r <= 1 for r in ranks) / len(ranks)) < 1e-12,
        three=abs(got["hit_rate@3"] - sum(r <= 3 for r in ranks) / len(ranks)) < 1e-12,
        two=abs(got["recall@2"] - sum(r <= 2 for r in ranks) / len(ranks)) < 1e-12,
        mrr=abs(got["mrr"] - math.fsum(1 / r for r in ranks) / len(ranks)) < 1e-12,
    )


def _after_a_file() -> list[str]:
    """The popular model in a file has no factors, and float64 counts; it is judged as before."""
    train, test = masks(40, 16, 18, 0.5, 0.3)
    counts = train.sum(0).tolist()
    asked = names(4)
    with folder() as place:
        most_popular(matrix(train)).save(place / "popular")
        again = lfm_np.Factors.load(place / "popular", mmap=True)
        found = lfm_np.evaluate(again, matrix(train), matrix(test), asked)
        kept = again.item_bias.tolist() == counts and again.item_factors.shape == (16, 0)
    return [*differs(found, by_loops([counts] * 40, train, test, asked)), *wrong(kept=kept)]


def _folds_of_movielens() -> list[str]:
    """u1 of MovieLens-100k: the films that most of the training ratings are of, beside 459 users' test films."""
    with np.load(Path(os.environ["LFM_NP_DATA"]) / "ml-100k.npz") as file:
        user, item, held = file["user"], file["item"], file["u1_test"]
    train, test = np.zeros((943, 1682), bool), np.zeros((943, 1682), bool)
    train[user[~held], item[~held]], test[user[held], item[held]] = True, True
    counts = np.bincount(item[~held], minlength=1682)
    order = np.lexsort((np.arange(1682), -counts))
    found: dict[str, list[float]] = {"recall@20": [], "mrr": [], "ndcg@10": []}
    for a, b in zip(train, test, strict=True):
        if b.any():
            ranks = np.flatnonzero(b[[i for i in order if not a[i]]]) + 1
            found["recall@20"].append(float((ranks <= 20).mean()))
            found["mrr"].append(1 / float(ranks[0]))
            ideal = math.fsum(1 / math.log2(j + 1) for j in range(1, min(10, len(ranks)) + 1))
            found["ndcg@10"].append(math.fsum(1 / math.log2(r + 1) for r in ranks.tolist() if r <= 10) / ideal)
    split = lfm_np.datasets.movielens_split("100k", "u1")
    got = lfm_np.evaluate(most_popular(split.train), split.train, split.test, list(found))
    facts = {name: abs(got[name] - math.fsum(v) / len(v)) < 1e-12 for name, v in found.items()}
    for name, v in found.items():
        facts[f"{name}_se"] = abs(got[f"{name}_se"] - float(np.std(v, ddof=1)) / math.sqrt(len(v))) < 1e-12
    return wrong(**facts, users=got["users"] == 459 == len(found["mrr"]))


def _estimators() -> Any:
    import lfm_np.sklearn

    return lfm_np.sklearn


def _crowds(seed: int) -> np.ndarray:
    """Six crowds of five items each: eight people have all items of theirs, and some people one item only."""
    full = np.kron(np.eye(6), np.ones((8, 5)))
    lone = np.eye(30)[np.random.default_rng(seed).permutation(30)[:7]]
    return np.vstack([full, lone])


def _hidden_among_friends() -> list[str]:
    """Whatever is hidden of five items that always go together comes first; who has one item hides none."""
    made = _estimators()
    X = _crowds(0)
    model = made.ALS(factors=6, alpha=10.0, regularization=0.1, iterations=6, random_state=1, dtype="float64").fit(
        X[:48]
    )
    facts = {"score": abs(model.score(X) - 1) < 1e-12}
    for seed in range(3):
        for metric in ("hit_rate@1", "recall@1", "mrr", "auc", "ndcg", "precision@1"):
            facts[f"{metric}_{seed}"] = abs(made.HeldOut(metric, 0.2, seed)(model, X) - 1) < 1e-12
    facts["fifths"] = abs(made.HeldOut("precision@5", 0.2)(model, X) - 0.2) < 1e-12
    facts["most"] = abs(made.HeldOut("recall@2", 0.6)(model, X[:48]) - 2 / 3) < 1e-12
    facts["capped"] = abs(made.HeldOut("capped_recall@2", 0.6)(model, X[:48]) - 1) < 1e-12
    return wrong(**facts)


def _constant(m: int, n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Everybody gives one rating, the own one, to everything."""
    c = np.random.default_rng(seed).integers(1, 6, m).astype(float)
    return c, np.repeat(c[:, None], n, 1)


def _left_over(c: np.ndarray, s: float, lam: float, shown: int, nu: float, scale: float = 1.0) -> float:
    """-RMSE of ratings c where u = Σ scale·c·v / (shown·s + λ_u) was solved from so many cells, and s = ‖v‖²."""
    predicted = scale * c * shown * s / (shown * s + lam * shown**nu)
    return -math.sqrt(sum((x - y) ** 2 for x, y in zip(c.tolist(), predicted.tolist(), strict=True)) / len(c))


def _ratings_by_hand(nu: float) -> list[str]:
    """All items have one and the same factor, so that what is hidden does not matter."""
    made = _estimators()
    X = _constant(9, 4, 1)[1]
    model = made.ALS(
        factors=2, weighting="ratings", regularization=0.8, regularization_exponent=nu, iterations=2, random_state=3,
        dtype="float64",
    ).fit(X)  # fmt: skip
    s = float((model.item_factors_**2).sum(1).mean())
    d, Y = _constant(31, 4, 2)
    held = {
        shown: made.HeldOut("neg_root_mean_squared_error", fraction, 5)(model, Y)
        for shown, fraction in ((3, 0.25), (2, 0.5), (1, 0.75))
    }
    wide, Z = _constant(9, 5, 3)
    other = made.ALS(
        factors=1, weighting="ratings", regularization=0.8, regularization_exponent=nu, iterations=2, random_state=3,
        dtype="float64",
    ).fit(Z)  # fmt: skip
    r = float((other.item_factors_**2).sum(1).mean())
    return wrong(
        equal=abs(model.item_factors_ - model.item_factors_[:1]).max() < 1e-12,
        score=abs(other.score(Z) - _left_over(wide, r, 0.8, 4, nu)) < 1e-10,
        **{f"shown{shown}": abs(found - _left_over(d, s, 0.8, shown, nu)) < 1e-10 for shown, found in held.items()},
    )


def _behind_a_step() -> list[str]:
    """A pipeline that halves ratings predicts halves, and is judged by the ratings that were hidden, not by halves."""
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer

    made = _estimators()
    _, X = _constant(8, 4, 4)
    lam = 0.3
    model = make_pipeline(
        FunctionTransformer(_half),
        made.ALS(factors=1, weighting="ratings", regularization=lam, iterations=3, random_state=0, dtype="float64"),
    ).fit(sp.csr_array(X))
    s = float((model[-1].item_factors_ ** 2).sum(1).mean())
    d, Y = _constant(17, 4, 5)
    found = made.HeldOut("neg_root_mean_squared_error", 0.5)(model, sp.csr_array(Y))
    return wrong(found=abs(found - _left_over(d, s, lam, 2, 0.0, 0.5)) < 1e-10)


def _half(X: Any) -> Any:
    return X * 0.5


def _searched() -> list[str]:
    """One sweep of one factor from V = 1: u = c·n/(n + λ), v = Σuc/(Σu² + λ), and the error of either fold by hand."""
    from sklearn.model_selection import GridSearchCV

    made = _estimators()
    c, X = _constant(12, 4, 6)
    model = made.ALS(
        factors=1, weighting="ratings", iterations=1, init=(np.zeros((6, 1)), np.ones((4, 1))), dtype="float64",
        random_state=0,
    )  # fmt: skip
    strengths = [4.0, 0.01, 0.5]
    search = GridSearchCV(
        model, {"regularization": strengths}, scoring=made.HeldOut("neg_root_mean_squared_error", 0.5), cv=2,
        refit=False,
    ).fit(X)  # fmt: skip
    mine = np.zeros((3, 2))
    for row, lam in enumerate(strengths):
        for fold, (learn, judge) in enumerate(((c[6:], c[:6]), (c[:6], c[6:]))):
            u = learn * 4 / (4 + lam)
            v = float(u @ learn) / (float(u @ u) + lam)
            mine[row, fold] = _left_over(judge, v * v, lam, 2, 0.0)
    found = np.array([search.cv_results_[f"split{fold}_test_score"] for fold in range(2)]).T
    return wrong(
        folds=abs(found - mine).max() < 1e-10,
        best=search.best_params_["regularization"] == strengths[int(mine.mean(1).argmax())],
        ranks=search.cv_results_["rank_test_score"].tolist() == (np.argsort(np.argsort(-mine.mean(1))) + 1).tolist(),
    )


def _ratings_with_biases() -> list[str]:
    """`SGD` solves new rows by λ = 0.3 of "user" times their cells, biases of users too, and scores add up."""
    made = _estimators()
    draw = np.random.default_rng(7)
    X = np.where(draw.random((40, 9)) < 0.6, draw.integers(1, 6, (40, 9)), 0).astype(float)
    model = made.SGD(
        lfm_np.losses.Squared(), sampler=None, factors=3, epochs=4, biases=True, dtype="float64", random_state=0,
        regularization={"user": 0.3, "item": 0.05, "bias": 0.01},
    ).fit(sp.csr_array(X))  # fmt: skip
    f, new = model.factors_, np.array([[5.0, 0, 0, 1, 0, 2, 0, 0, 4], [0, 3.0, 3, 0, 1, 0, 0, 0, 0]])
    rows, scores = model.transform(sp.csr_array(new)), np.zeros((2, 9))
    mine = []
    for x in new:
        has = np.flatnonzero(x)
        Y = np.column_stack([f.item_factors[has], np.ones(len(has))])
        y = x[has] - f.global_bias - f.item_bias[has]
        mine.append(np.linalg.solve(Y.T @ Y + 0.3 * len(has) * np.eye(4), Y.T @ y))
    for r in range(2):
        for i in range(9):
            scores[r, i] = f.global_bias + f.item_bias[i] + mine[r][3] + float(f.item_factors[i] @ mine[r][:3])
    got = model.inverse_transform(rows)
    best = model.fold_in_users(sp.csr_array(new)).recommend([0, 1], N=9)
    return wrong(
        rows=rows.shape == (2, 4) and abs(rows - np.array(mine)).max() < 1e-9,
        scores=got.shape == (2, 9) and abs(got - scores).max() < 1e-9,
        lists=best.ids.tolist() == np.argsort(-scores, 1).tolist(),
    )


def _clicks_without_a_closed_form() -> list[str]:
    """Rows of BPR's models are solved by "ials" with α = α₀ = 1, λ = 0.1, ν = 1, or as ``fold_in`` says."""
    made = _estimators()
    draw = np.random.default_rng(8)
    X = sp.csr_array((draw.random((50, 11)) < 0.4).astype(float))
    new = np.array([[2.0, 0, 0, 1, 0, 0.5, 0, 0, 0, 3, 0], [0.0] * 11, [0.0] * 10 + [1.0]])
    model = made.SGD(factors=4, epochs=5, random_state=0, dtype="float64").fit(X)
    V = model.item_factors_

    def solved(c: Any, p: Any, a0: float, lam: Any) -> np.ndarray:
        out = []
        for x in new:
            has = x > 0
            weight = np.where(has, c(x), a0)
            A = (V.T * weight) @ V + lam(int(has.sum())) * np.eye(4)
            out.append(np.linalg.solve(A, V.T @ (weight * np.where(has, p(x), 0.0))))
        return np.array(out)

    first = model.transform(sp.csr_array(new))
    own = {"weighting": "confidence", "alpha": 4.0, "unobserved_weight": 0.5, "regularization": 0.2,
           "regularization_exponent": 0.0}  # fmt: skip
    second = model.set_params(fold_in=own).transform(sp.csr_array(new))
    return wrong(
        default=abs(first - solved(lambda x: 1 + x, lambda x: x / (1 + x), 1.0, lambda d: 0.1 * (d + 11))).max() < 1e-9,
        own=abs(second - solved(lambda x: 4 * x, lambda x: 1.0, 0.5, lambda d: 0.2)).max() < 1e-9,
    )


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    yield _holds("popularity by counting", _popularity)
    for keeps in (True, False):
        yield _holds(f"stored zeros, kept: {keeps}", lambda k=keeps: _stored_zeros(k))
    yield _holds("the last event of each person", _last_of_each)
    yield _holds("a popular model from a mapped file", _after_a_file)
    if "LFM_NP_DATA" in os.environ:
        yield _holds("the popular films of u1", _folds_of_movielens)
    if installed("sklearn"):
        yield _holds("HeldOut among items that go together", _hidden_among_friends)
        for nu in (0.0, 1.0):
            yield _holds(f"HeldOut of constant ratings, ν = {nu}", lambda nu=nu: _ratings_by_hand(nu))
        yield _holds("HeldOut behind a step that halves", _behind_a_step)
        yield _holds("a search whose folds are known", _searched)
        yield _holds("new rows of ratings, by SGD with biases", _ratings_with_biases)
        yield _holds("new rows of clicks, by SGD", _clicks_without_a_closed_form)
