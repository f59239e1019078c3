"""Programs of people with clicks, by `als`: every number once more in float64, by loops."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import lfm_np as _library

from .case import Case, Group
from .working_days import (
    NAN,
    Model,
    all_scores,
    best,
    close,
    csr,
    faultless,
    judged,
    stars,
    start,
    wrong,
)

lfm_np: Any = _library
_GROUP = Group("eleventh hour")
_holds = faultless(_GROUP)
SHOP = Model("hu-koren", alpha=2.5, a0=0.4, lam=0.3, nu=0.5)
FILM = Model("ials", alpha=1.5, a0=0.2, lam=0.05, nu=1.0)


def fitted(X: np.ndarray, model: Model, k: int = 3, times: int = 2, **words: Any) -> Any:
    given = {"init": start(X.shape[0], X.shape[1], k), "dtype": "float64", "solver": "exact", **words}
    return lfm_np.als(csr(X), factors=k, iterations=times, **model.words, **given)


def product(factors: Any) -> np.ndarray:
    found: np.ndarray = factors.user_factors.astype(float) @ factors.item_factors.astype(float).T
    return found


def scored(factors: Any) -> np.ndarray:
    """Every score as `scores` gives it, by which lists go to the last bit."""
    m, n = factors.shape
    found: np.ndarray = factors.scores(np.repeat(range(m), n), np.tile(range(n), m)).reshape(m, n)
    return found


def mask(X: np.ndarray) -> np.ndarray:
    return ~np.isnan(X)


def parts(X: np.ndarray, seed: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Cells to learn from, and others to be judged by."""
    out = mask(X) & (np.random.default_rng(seed).random(X.shape) < 0.3)
    return np.where(out, NAN, X), np.where(out, X, NAN)


def _week(model: Model, m: int, n: int, k: int, times: int) -> list[str]:
    """Fit, judge, recommend, fold in, explain."""
    learn, test = parts(stars(m, n, seed=m))
    V0 = start(m, n, k)[1]
    U, V = model.sweeps(learn, V0, times)
    fit = fitted(learn, model, k, times)
    before = model.sweeps(learn, V0, times - 1)[1] if times > 1 else V0
    G = fit.item_factors.T @ fit.item_factors
    facts = {
        "scores": close(product(fit), U @ V.T, 1e-8),
        "objective": close(fit.history[-1]["objective"], model.objective(learn, U, V), 1e-9),
        "objective_users": close(fit.history[-1]["objective_users"], model.objective(learn, U, before), 1e-9),
        "basis": close(G, np.diag(np.diag(G)), 1e-9) and bool((np.diff(np.diag(G)) <= 1e-12).all()),
    }
    S = scored(fit)
    facts["bits"] = close(S, all_scores(fit), 1e-12)
    names = ("recall@3", "capped_recall@3", "precision@3", "hit_rate@3", "ndcg@3", "map@3", "mrr@3", "mrr", "auc")
    found, mine = lfm_np.evaluate(fit, csr(learn), csr(test), names), judged(S, mask(learn), mask(test), 3)
    facts["judged"] = all(close(found[name], mine[name], 1e-12) for name in names) and found["users"] == mine["users"]
    facts["errors"] = all(abs(found[f"{name}_se"] - mine[f"{name}_se"]) < 1e-9 for name in names)
    lists = fit.recommend(range(m), N=n, seen=csr(learn)).ids
    facts["lists"] = lists.tolist() == [best(s, ~has, n) for s, has in zip(S, mask(learn), strict=True)]
    new = stars(4, n, seed=99)
    facts["newcomers"] = close(
        all_scores(fit.fold_in_users(csr(new))), model.half(new, fit.item_factors) @ fit.item_factors.T, 1e-9
    )
    why = fit.explain(1, n - 1, csr(learn))
    again = model.half(learn[1:2], fit.item_factors)[0] @ fit.item_factors[n - 1]
    facts["explained"] = close(why.score, again, 1e-9) and close(why.baseline + why.contributions.sum(), again, 1e-9)
    facts["who"] = sorted(why.items.tolist()) == np.flatnonzero(mask(learn)[1]).tolist()
    return wrong(**facts)


def _shares() -> list[str]:
    """Each share is c·p·vᵀA⁻¹y, the best first."""
    X = stars(12, 9, seed=5)
    fit = fitted(X, FILM)
    V, has = fit.item_factors, mask(X)[4]
    c = FILM.a0 + FILM.alpha * X[4, has]
    lam = FILM.lam * (has.sum() + FILM.a0 * 9)
    A = (V[has].T * c) @ V[has] + FILM.a0 * V[~has].T @ V[~has] + lam * np.eye(3)
    mine = dict(zip(np.flatnonzero(has), (FILM.alpha * X[4, has]) * (V[has] @ np.linalg.solve(A, V[2])), strict=True))
    why = fit.explain(4, 2, csr(X))
    return wrong(
        baseline=why.baseline == 0.0,
        shares=close(why.contributions, [mine[i] for i in why.items.tolist()], 1e-9),
        whole=len(why.items) == len(mine),
    )


def _grown() -> list[str]:
    """Three more users come; the next fit starts from what is there."""
    X = stars(18, 11, seed=2)
    fit = fitted(X, SHOP, times=3)
    more = np.vstack([X, stars(3, 11, seed=7)])
    warm = np.vstack([fit.user_factors, np.zeros((3, 3))]), fit.item_factors
    U, V = SHOP.sweeps(more, fit.item_factors, 2)
    again = fitted(more, SHOP, init=warm)
    by_result = fitted(X, SHOP, init=fit)
    U5, V5 = SHOP.sweeps(X, start(18, 11, 3)[1], 5)
    return wrong(
        grown=close(product(again), U @ V.T, 1e-8),
        gone_on=close(product(by_result), U5 @ V5.T, 1e-8),
        numbered=[r["iteration"] for r in by_result.history] == [1, 2],
    )


def _settled() -> list[str]:
    """A tolerance between two relative falls of J."""
    X = stars(20, 10, seed=4)
    V, J = start(20, 10, 3)[1], []
    for _ in range(12):
        U, V = SHOP.sweeps(X, V, 1)
        J.append(SHOP.objective(X, U, V))
    falls = [(a - b) / a for a, b in itertools.pairwise(J)]
    place = next(i for i in range(2, 11) if falls[i] < 0.8 * min(falls[:i]))
    tolerance = (falls[place] + min(falls[:place])) / 2
    fit = fitted(X, SHOP, times=40, tolerance=tolerance)
    return wrong(
        sweeps=len(fit.history) == place + 2,
        status=fit.status == lfm_np.Status.CONVERGED,
        falls=close([r["objective"] for r in fit.history], J[: place + 2], 1e-9),
    )


def _patient() -> list[str]:
    """A callback that measures, stops by itself and writes nonsense over the record."""
    learn, test = parts(stars(24, 14, seed=8))
    seen: list[float] = []

    def measure(record: dict[str, Any], factors: Any) -> None:
        found = judged(scored(factors), mask(learn), mask(test), 5)["ndcg@5"]
        told = lfm_np.evaluate(factors, csr(learn), csr(test), ["ndcg@5"])["ndcg@5"]
        assert close(told, found, 1e-12)
        record["ndcg@5"], record["objective"], record["iteration"] = told, -1.0, 77
        seen.append(found)
        if len(seen) == 3:
            raise StopIteration

    fit = fitted(learn, SHOP, times=9, callback=measure)
    U, V = SHOP.sweeps(learn, start(24, 14, 3)[1], 3)
    return wrong(
        status=fit.status == lfm_np.Status.STOPPED,
        kept=close([r["ndcg@5"] for r in fit.history], seen, 1e-12),
        unchanged=[r["iteration"] for r in fit.history] == [1, 2, 3]
        and close(fit.history[2]["objective"], SHOP.objective(learn, U, V), 1e-9),
        factors=close(product(fit), U @ V.T, 1e-8),
    )


def _updated() -> list[str]:
    """Two newcomers and one who came back, in one call; then a new item, then its first buyer."""
    X = stars(15, 8, seed=6)
    fit = fitted(X, FILM)
    V = fit.item_factors
    rows = stars(3, 8, seed=61)
    more = fit.update(csr(rows), users=[15, 2, 16])
    U = np.vstack([fit.user_factors, np.zeros((2, 3))])
    U[[15, 2, 16]] = FILM.half(rows, V)
    column = np.full((17, 1), NAN)
    column[[0, 16, 5]] = [[4.0], [1.0], [2.0]]
    wider = more.update(csr(column), items=[8])
    W = np.vstack([V, FILM.half(column.T, U)])
    buyer = np.full((1, 9), NAN)
    buyer[0, [8, 0]] = 3.0
    last = wider.update(csr(buyer), users=[0], regularization=2.0)
    U2 = U.copy()
    U2[0] = FILM._replace(lam=2.0).half(buyer, W)[0]
    allowed = np.ones(9, bool)
    allowed[[8, 0]] = False
    S = U2 @ W.T
    seen = np.vstack([buyer, np.full((16, 9), NAN)])
    return wrong(
        users=close(more.user_factors @ V.T, U @ V.T, 1e-9),
        others=np.array_equal(more.user_factors[[0, 1, 3, 14]], fit.user_factors[[0, 1, 3, 14]]),
        items=np.array_equal(more.item_factors, V) and close(wider.item_factors, W, 1e-9),
        buyer=close(product(last), S, 1e-8),
        list=last.recommend(0, N=9, seen=csr(seen)).ids.tolist() == best(scored(last)[0], allowed, 9),
        old=fit.shape == (15, 8) and more.shape == (17, 8),
    )


def _overridden(words: dict[str, Any], model: Model) -> list[str]:
    """A fitted model, asked for new rows under other assumptions."""
    X, rows = stars(14, 9, seed=11), stars(5, 9, seed=12)
    rows[3], some = NAN, [0, 1, 2, 4]
    fit = fitted(X, SHOP)
    columns = stars(14, 2, seed=13)
    new, wide = fit.fold_in_users(csr(rows), **words), fit.fold_in_items(csr(columns), **words)
    return wrong(
        users=close(new.user_factors[some], model.half(rows[some], fit.item_factors), 1e-9),
        nobody=not new.user_factors[3].any() and new.recommend(3, N=4).ids.tolist() == [0, 1, 2, 3],
        items=close(wide.item_factors, model.half(columns.T, fit.user_factors), 1e-9),
        shapes=new.shape == (5, 9) and wide.shape == (14, 2),
    )


def _as_ratings() -> Any:
    """α₀ of the fit does not go with "ratings"."""
    X, rows = stars(14, 9, seed=11), stars(5, 9, seed=12)
    fit = fitted(X, SHOP)
    new = fit.fold_in_users(csr(rows), weighting="ratings", unobserved_weight=0.0)
    return close(new.user_factors, Model("ratings", lam=SHOP.lam, nu=SHOP.nu).half(rows, fit.item_factors), 1e-9)


def _no_weight(weighting: str) -> list[str]:
    """α = 0: what is there says nothing, or as much as what is not."""
    X = stars(7, 6, seed=1)
    fit = fitted(X, Model(weighting, alpha=0.0, a0=0.7, lam=0.2))
    return wrong(
        zero=not fit.user_factors.any() and not fit.item_factors.any(), paid=abs(fit.history[-1]["objective"]) < 1e-12
    )


def soft_svd(backend: Callable[..., Any], **words: Any) -> list[str]:
    """α = 0, α₀ = 1: every cell weighs 1, so that the minimum is the SVD of zeros and ones, each σ less λ."""
    X = np.where(np.random.default_rng(0).random((9, 7)) < 0.5, 1.0, NAN)
    left, sigma, right = np.linalg.svd(np.nan_to_num(X), full_matrices=False)
    lam = float(sigma[2] + sigma[3]) / 2
    kept = np.maximum(sigma - lam, 0)
    fit = backend(
        csr(X), factors=7, alpha=0.0, regularization=lam, iterations=150, dtype="float64", random_state=3, **words
    )
    least = float((np.minimum(sigma, lam) ** 2).sum() + 2 * lam * kept.sum())
    return wrong(
        scores=close(product(fit), (left * kept) @ right, 1e-6),
        spectrum=close(np.sort((fit.item_factors**2).sum(0))[::-1], kept, 1e-6),
        least=close(fit.history[-1]["objective"], least, 1e-9),
    )


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    for name, model, m, n, k, times in (
        ("more factors than items", Model("hu-koren", 3.0, 0.1, 0.2, 0.7), 14, 5, 9, 2),
        ("more factors than users and items", Model("confidence", 0.5, 0.6, 0.1, 0.3), 6, 7, 17, 1),
        ("nothing said of what is not there", Model("ials", 2.0, 0.0, 0.4, 1.0), 15, 12, 3, 2),
        ("what is not there weighs more than what is", Model("confidence", 0.3, 2.0, 0.1, 0.0), 20, 9, 3, 3),
        ("ν of two", Model("ials", 1.0, 0.05, 0.001, 2.0), 13, 16, 4, 2),
        ("one factor", Model("hu-koren", 10.0, 0.9, 1.0, 0.0), 17, 10, 1, 3),
        ("λ of nothing, many cells", Model("hu-koren", 1.0, 0.5, 0.0, 0.0), 16, 15, 2, 2),
        ("weights of a millionth", Model("confidence", 1e-6, 1e-6, 1e-7, 0.0), 12, 11, 3, 2),
        ("weights of a million", Model("ials", 1e6, 1e5, 1e4, 0.5), 12, 11, 3, 2),
    ):
        yield _holds(f"a week with {name}", lambda a=model, b=m, c=n, d=k, e=times: _week(a, b, c, d, e))
    yield _holds("shares of an iALS score", _shares)
    yield _holds("a fit that starts from last week's", _grown)
    yield _holds("a tolerance between two falls", _settled)
    yield _holds("a callback with patience and a red pen", _patient)
    yield _holds("newcomers, a new item and its first buyer", _updated)
    for name, words, model in (
        ("another α and λ", {"alpha": 0.2, "regularization": 3.0}, SHOP._replace(alpha=0.2, lam=3.0)),
        ("no word of absent cells", {"unobserved_weight": 0.0}, SHOP._replace(a0=0.0)),
        (
            "the weights of iALS",
            {"weighting": "ials", "regularization_exponent": 0.0},
            SHOP._replace(weighting="ials", nu=0),
        ),
    ):
        yield _holds(f"new rows by {name}", lambda a=words, b=model: _overridden(a, b))
    yield _GROUP.right("new rows as ratings by a model of clicks", _as_ratings, bool)
    for weighting in ("ials", "confidence"):
        yield _holds(f"α of 0: {weighting}", lambda w=weighting: _no_weight(w))
    yield _holds("equal weights are a soft SVD", lambda: soft_svd(lfm_np.als))
