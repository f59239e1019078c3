"""Programs of people with ratings, by `als`: biases, zeros, newcomers and errors, once more in float64 by loops."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp

import lfm_np as _library

from .case import Case, Group
from .working_days import (
    NAN,
    all_scores,
    best,
    close,
    csr,
    faultless,
    folder,
    judged,
    raised,
    same,
    stars,
    start,
    tells,
    wrong,
)

lfm_np: Any = _library
_GROUP = Group("eleventh hour")
_holds = faultless(_GROUP)


class Rating(NamedTuple):
    """x ≈ μ + b_u + b_i + u·v, everything of a row held by λ·n_u^ν."""

    lam: float = 0.5
    nu: float = 0.0
    biased: bool = True

    @property
    def words(self) -> dict[str, Any]:
        words = {"regularization": self.lam, "regularization_exponent": self.nu, "weighting": "ratings"}
        return {**words, "biases": True} if self.biased else words

    def half(self, X: np.ndarray, V: np.ndarray, b: np.ndarray, mu: float) -> tuple[np.ndarray, np.ndarray]:
        """Rows of X from the other side's factors and biases; nothing of a row without ratings."""
        F, f = np.zeros((len(X), V.shape[1])), np.zeros(len(X))
        for r, x in enumerate(X):
            has = ~np.isnan(x)
            if has.any():
                Y = np.column_stack([V[has], np.ones(has.sum())]) if self.biased else V[has]
                A = Y.T @ Y + self.lam * has.sum() ** self.nu * np.eye(Y.shape[1])
                solved = np.linalg.solve(A, Y.T @ (x[has] - mu - b[has]))
                F[r] = solved[: V.shape[1]]
                f[r] = solved[-1] if self.biased else 0.0
        return F, f

    def sweeps(self, X: np.ndarray, V: np.ndarray, b: np.ndarray, times: int) -> tuple[Any, ...]:
        mu = float(np.nanmean(X)) if self.biased else 0.0
        for _ in range(times):
            U, a = self.half(X, V, b, mu)
            V, b = self.half(X.T, U, a, mu)
        return U, V, a, b, mu

    def objective(self, X: np.ndarray, U: np.ndarray, V: np.ndarray, a: np.ndarray, b: np.ndarray, mu: float) -> float:
        has = ~np.isnan(X)
        S = mu + a[:, None] + b + U @ V.T
        total = float(((X - S)[has] ** 2).sum())
        for counts, F, f in ((has.sum(1), U, a), (has.sum(0), V, b)):
            weights = self.lam * np.where(counts > 0, counts, 0.0) ** self.nu
            total += float((weights * ((F**2).sum(1) + f**2)).sum())
        return total


def rated(X: np.ndarray, model: Rating, k: int = 2, times: int = 3, **words: Any) -> Any:
    init = start(X.shape[0], X.shape[1], k)
    given = {"init": init, "dtype": "float64", **model.words, **words}
    return lfm_np.als(csr(X), factors=k, iterations=times, **given)


def _near(a: Any, b: Any, relative: float) -> bool:
    """Of ratings near one: what is zero may be off by rounding."""
    return bool(np.abs(np.subtract(a, b)).max() <= relative * max(1.0, np.abs(b).max()))


def _fitted(model: Rating, X: np.ndarray, k: int, times: int) -> list[str]:
    V0, none = start(X.shape[0], X.shape[1], k)[1], np.zeros(X.shape[1])
    U, V, a, b, mu = model.sweeps(X, V0, none, times)
    fit = rated(X, model, k, times)
    facts = {
        "scores": _near(all_scores(fit), mu + a[:, None] + b + U @ V.T, 1e-8),
        "objective": _near(fit.history[-1]["objective"], model.objective(X, U, V, a, b, mu), 1e-9),
        "again": _near(lfm_np.objective(csr(X), fit), model.objective(X, U, V, a, b, mu), 1e-9),
    }
    if model.biased:
        facts["biases"] = _near(fit.user_bias, a, 1e-8) and _near(fit.item_bias, b, 1e-8)
        facts["mean"] = _near(fit.global_bias, mu, 1e-12)
    else:
        facts["none"] = fit.user_bias is fit.item_bias is fit.global_bias is None
    return wrong(**facts)


def _silent() -> list[str]:
    """A user without ratings, an item without any: zero rows, no biases, lists by the items' biases alone."""
    X = stars(14, 9, seed=2)
    X[5], X[:, 3] = NAN, NAN
    model = Rating(0.7, 1.0)
    _, V, _, b, mu = model.sweeps(X, start(14, 9, 2)[1], np.zeros(9), 3)
    fit = rated(X, model)
    S = all_scores(fit)
    return wrong(
        user=not fit.user_factors[5].any() and fit.user_bias[5] == 0,
        item=not fit.item_factors[3].any() and fit.item_bias[3] == 0,
        scores=close(S[5], mu + b, 1e-8) and close(V[3], [0, 0], 1e-9),
        list=fit.recommend(5, N=9).ids.tolist() == best(S[5], np.ones(9, bool), 9),
    )


def _warm() -> list[str]:
    """Biases of the first fit serve the first half-sweep of the second, whose mean is that of its own ratings."""
    X = stars(12, 8, seed=3)
    model = Rating(0.4, 0.5)
    fit = rated(X, model)
    later = X.copy()
    later[2, 1], later[7, 7] = 5.0, 1.0
    U, V, a, b, mu = model.sweeps(later, fit.item_factors, fit.item_bias, 2)
    again = rated(later, model, times=2, init=fit)
    return wrong(
        scores=close(all_scores(again), mu + a[:, None] + b + U @ V.T, 1e-8), item=close(again.item_bias, b, 1e-8)
    )


def _newcomers(words: dict[str, Any], model: Rating) -> list[str]:
    """New users, new films, and both of them at once by updates."""
    X, rows, columns = stars(13, 9, seed=4), stars(4, 9, seed=5), stars(13, 2, seed=6)
    rows[2] = NAN
    fit = rated(X, Rating(0.4, 0.5))
    mu = fit.global_bias
    U, a = model.half(rows, fit.item_factors, fit.item_bias, mu)
    V, b = model.half(columns.T, fit.user_factors, fit.user_bias, mu)
    new, films = fit.fold_in_users(csr(rows), **words), fit.fold_in_items(csr(columns), **words)
    more = fit.update(csr(rows), users=[13, 0, 14, 15], **words)
    wide = fit.update(csr(columns), items=[1, 9], **words)
    return wrong(
        users=close(new.user_factors, U, 1e-9) and close(new.user_bias, a, 1e-9),
        films=close(films.item_factors, V, 1e-9) and close(films.item_bias, b, 1e-9),
        rest=np.array_equal(new.item_bias, fit.item_bias) and new.global_bias == films.global_bias == mu,
        updated=close(more.user_bias[[13, 0, 14, 15]], a, 1e-9) and close(more.user_factors[[13, 0, 14, 15]], U, 1e-9),
        kept=np.array_equal(more.user_bias[1:13], fit.user_bias[1:]),
        wide=close(wide.item_bias[[1, 9]], b, 1e-9) and np.array_equal(wide.item_bias[2:9], fit.item_bias[2:]),
        scores=close(more.scores(14, range(9)), mu + fit.item_bias, 1e-9),
    )


def _explained(model: Rating) -> list[str]:
    """baseline + Σ shares = the score folded in; with equal μ and biases the share of a rating is linear in it."""
    X = stars(11, 7, seed=7)
    fit = rated(X, model)
    mu = fit.global_bias or 0.0
    b = fit.item_bias if model.biased else np.zeros(7)
    U, a = model.half(X[[4]], fit.item_factors, b, mu)
    score = mu + a[0] + b[6] + U[0] @ fit.item_factors[6]
    why = fit.explain(4, 6, csr(X))
    has = ~np.isnan(X[4])
    Y = np.column_stack([fit.item_factors, np.ones(7)]) if model.biased else fit.item_factors
    A = Y[has].T @ Y[has] + model.lam * has.sum() ** model.nu * np.eye(Y.shape[1])
    shares = (Y @ np.linalg.solve(A, Y[6])) * (np.nan_to_num(X[4]) - mu - b)
    return wrong(
        score=close(why.score, score, 1e-9),
        sum=close(why.baseline + why.contributions.sum(), score, 1e-9),
        shares=close(why.contributions, shares[why.items], 1e-9),
        items=sorted(why.items.tolist()) == np.flatnonzero(has).tolist(),
        baseline=close(why.baseline, mu + b[6], 1e-9),
    )


def _zeros() -> list[str]:
    """A rating of zero is a rating: in the mean, in the fit, in what was seen and in what is to be found."""
    X = stars(16, 10, seed=8) - 3.0
    X[[0, 3], [0, 3]] = 0.0
    model = Rating(0.6)
    out = np.zeros(X.shape, bool)
    out[np.arange(10), np.arange(10)] = True
    learn, test = np.where(out, NAN, X), np.where(out, X, NAN)
    U, V, a, b, mu = model.sweeps(learn, start(16, 10, 2)[1], np.zeros(10), 3)
    fit = rated(learn, model)
    S = all_scores(fit)
    found = lfm_np.evaluate(fit, csr(learn), csr(test), ["ndcg@4", "recall@4", "auc"])
    mine = judged(S, ~np.isnan(learn), ~np.isnan(test), 4)
    lists = fit.recommend(range(16), N=10, seen=csr(learn)).ids.tolist()
    popular = lfm_np.evaluation.most_popular(csr(learn)).item_bias
    with folder() as place:
        fit.save(place / "model")
        read = lfm_np.Factors.load(place / "model")
        kept = read.recommend(range(16), N=10, seen=csr(learn)).ids.tolist()
    return wrong(
        there=(learn == 0).any() and (test == 0).any(),
        scores=close(S, mu + a[:, None] + b + U @ V.T, 1e-8),
        judged=found["users"] == 10
        and all(close(found[name], mine[name], 1e-12) for name in ("ndcg@4", "recall@4", "auc")),
        lists=lists == [best(s, np.isnan(x), 10) for s, x in zip(S, learn, strict=True)],
        kept=kept == lists,
        popular=popular.tolist() == (np.nan_to_num(learn) != 0).sum(0).tolist(),
    )


def _far_away(offset: float, scale: float) -> list[str]:
    """The same ratings on another scale: μ moves, and the rest grows as they do."""
    X = stars(15, 9, seed=9)
    lam = 0.5
    model = Rating(lam)
    U, V, a, b, mu = model.sweeps(X, start(15, 9, 2)[1], np.zeros(9), 1)
    init = tuple(np.sqrt(abs(scale)) * F for F in start(15, 9, 2))
    plain = Rating(lam, biased=False)
    P, Q, _, _, _ = plain.sweeps(X * scale, init[1], np.zeros(9), 2)
    fit = rated(X * scale, plain, times=2, init=init)
    moved = rated(X + offset, model, times=1)
    return wrong(
        scaled=close(all_scores(fit), P @ Q.T, 1e-7),
        mean=close(moved.global_bias, mu + offset, 1e-13),
        moved=close(all_scores(moved) - moved.global_bias, a[:, None] + b + U @ V.T, 1e-7),
    )


def _full(nu: float) -> list[str]:
    """All cells rated: the SVD, each σ less the geometric mean of the two sides' λ; zeros are stored."""
    X = np.random.default_rng(2).integers(-2, 4, (8, 6)).astype(float)
    left, sigma, right = np.linalg.svd(X, full_matrices=False)
    lam = float(sigma[1] + sigma[2]) / 2 / (48.0 ** (nu / 2))
    kept = np.maximum(sigma - lam * 48.0 ** (nu / 2), 0)
    fit = lfm_np.als(
        sp.csr_array((X.ravel(), (np.repeat(range(8), 6), np.tile(range(6), 8))), shape=(8, 6)), weighting="ratings",
        factors=5, regularization=lam, regularization_exponent=nu, iterations=200, dtype="float64", random_state=1,
    )  # fmt: skip
    return wrong(scores=close(all_scores(fit), (left * kept) @ right, 1e-6), rank=int((kept > 0).sum()) == 2)


def _held_out() -> list[str]:
    """Errors on ratings held out, clipped to the scale, and liked ones found again."""
    data = lfm_np.datasets.planted(40, 25, 240, random_state=1)
    stars_of = 1.0 + (np.arange(data.matrix.nnz) * 7 % 5)
    marked = lfm_np.Interactions(
        sp.csr_array((stars_of, data.matrix.indices, data.matrix.indptr), shape=(40, 25)), data.users, data.items
    )
    train, test = marked.split("random", test_fraction=0.3, random_state=5)
    model = Rating(1.5)
    learn, later = (np.full((40, 25), NAN) for _ in range(2))
    for full, part in ((learn, train), (later, test)):
        rows = np.repeat(np.arange(40), np.diff(part.matrix.indptr))
        full[rows, part.matrix.indices] = part.matrix.data
    U, V, a, b, mu = model.sweeps(learn, start(40, 25, 2)[1], np.zeros(25), 3)
    fit = rated(learn, model)
    rows, columns = np.nonzero(~np.isnan(later))
    mine = np.clip((mu + a[:, None] + b + U @ V.T)[rows, columns], 1, 5)
    told = np.clip(fit.scores(rows, columns), 1, 5)
    liked = test.binarize(threshold=4)
    found = lfm_np.evaluate(fit, train, liked, ["recall@5", "mrr@5"])
    right = judged(all_scores(fit), ~np.isnan(learn), np.nan_to_num(later) >= 4, 5)
    return wrong(
        whole=np.array_equal(~np.isnan(learn) ^ ~np.isnan(later), marked.matrix.toarray() > 0),
        rmse=close(
            np.sqrt(((told - later[rows, columns]) ** 2).mean()),
            np.sqrt(((mine - later[rows, columns]) ** 2).mean()),
            1e-9,
        ),
        liked=found["users"] == right["users"] and close(found["recall@5"], right["recall@5"], 1e-12),
        first=close(found["mrr@5"], right["mrr@5"], 1e-12) and close(found["mrr@5_se"], right["mrr@5_se"], 1e-9),
    )


def _resumed(stored: bool) -> list[str]:
    """Two sweeps, a break, three more: a fit with biases, numbers by loops and bits by the whole run."""
    X = stars(13, 8, seed=10)
    X[3, 2] = 0.0
    model = Rating(0.3, 1.0)
    V0, none = start(13, 8, 2)[1], np.zeros(8)
    U, V, a, b, mu = model.sweeps(X, V0, none, 5)
    words: dict[str, Any] = {"factors": 2, "init": start(13, 8, 2), "dtype": "float64", **model.words}
    with folder() as place:
        path = place / "run"
        source = (
            lfm_np.StoredMatrix.from_matrix(csr(X), place / "m", zeros="keep", dtype="float64") if stored else csr(X)
        )
        lfm_np.als(source, iterations=2, checkpoint=lfm_np.Checkpoint(path, every=3600), **words)
        again = lfm_np.als(csr(X), iterations=5, checkpoint=str(path), **words)
        changed = csr(X)
        changed.data[0] += 1
        other = raised(lambda: lfm_np.als(changed, iterations=5, checkpoint=path, **words))
        whole = lfm_np.als(source, iterations=5, **words)
    return wrong(
        bits=same(again, whole), other=tells(other, "checkpoint|matrix|x"),
        scores=close(all_scores(again), mu + a[:, None] + b + U @ V.T, 1e-8),
        history=[r["iteration"] for r in again.history] == [1, 2, 3, 4, 5],
    )  # fmt: skip


def _from_elsewhere() -> list[str]:
    """Factors and biases of another library serve, judge, explain and fold in; ν of ALS-WR."""
    draw = np.random.default_rng(4)
    U, V, a, b = draw.normal(size=(9, 3)), draw.normal(size=(7, 3)), draw.normal(size=9), draw.normal(size=7)
    model = lfm_np.Factors(U, V, user_bias=a, item_bias=b, global_bias=3.25)
    X, rows = stars(9, 7, seed=1), stars(3, 7, seed=2)
    words = {
        "weighting": "ratings",
        "regularization": 0.2,
        "regularization_exponent": 1.0,
        "unobserved_weight": 0.0,
        "alpha": 1.0,
    }
    loops = Rating(0.2, 1.0)
    F, f = loops.half(rows, V, b, 3.25)
    new = model.fold_in_users(csr(rows), **words)
    lacking = raised(lambda: model.fold_in_users(csr(rows), weighting="ratings", regularization_exponent=1.0))
    clicks = raised(lambda: model.fold_in_users(csr(rows), **{**words, "weighting": "hu-koren"}))
    S = 3.25 + a[:, None] + b + U @ V.T
    return wrong(
        scores=close(model.scores(4, range(7)), S[4], 1e-14),
        lists=model.recommend([8, 1], N=3).ids.tolist() == [best(S[u], np.ones(7, bool), 3) for u in (8, 1)],
        folded=close(new.user_factors, F, 1e-9) and close(new.user_bias, f, 1e-9),
        objective=close(
            lfm_np.objective(csr(X), model, weighting="ratings", regularization=0.2, regularization_exponent=1.0),
            loops.objective(X, U, V, a, b, 3.25), 1e-12,
        ),
        lacking=tells(lacking, "regularization|alpha"), clicks=tells(clicks, "ratings"),
    )  # fmt: skip


def _one_sided(side: str) -> list[str]:
    """Biases of one side only: newcomers' ratings are less by what there is."""
    draw = np.random.default_rng(6)
    U, V, a, b = draw.normal(size=(8, 2)), draw.normal(size=(6, 2)), draw.normal(size=8), draw.normal(size=6)
    known: dict[str, Any] = {"items": {"item_bias": b}, "users": {"user_bias": a}, "neither": {"global_bias": 2.5}}
    given = known[side]
    model = lfm_np.Factors(U, V, **given)
    rows, columns = stars(3, 6, seed=2), stars(8, 2, seed=3)
    words = {"weighting": "ratings", "regularization": 0.4, "regularization_exponent": 0.0, "alpha": 1.0}
    mu = 2.5 if side == "neither" else 0.0
    has_a, has_b = side == "users", side == "items"
    F, f = Rating(0.4, 0.0, has_a).half(rows, V, b * has_b, mu)
    G, g = Rating(0.4, 0.0, has_b).half(columns.T, U, a * has_a, mu)
    new, films = model.fold_in_users(csr(rows), **words), model.fold_in_items(csr(columns), **words)
    return wrong(
        users=close(new.user_factors, F, 1e-9) and (close(new.user_bias, f, 1e-9) if has_a else new.user_bias is None),
        films=close(films.item_factors, G, 1e-9)
        and (close(films.item_bias, g, 1e-9) if has_b else films.item_bias is None),
        scores=close(
            new.scores([0, 2], [5, 1]), [mu + f[u] + has_b * b[i] + F[u] @ V[i] for u, i in ((0, 5), (2, 1))], 1e-9
        ),
    )


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    for name, model, X, k, times in (
        ("ALS-WR with biases", Rating(0.05, 1.0), stars(20, 12, seed=1), 3, 3),
        ("biases and ν of a half", Rating(0.8, 0.5), stars(9, 17, seed=2), 2, 4),
        ("biases and more factors than ratings", Rating(0.3), stars(8, 6, seed=3, share=0.1), 11, 2),
        ("no biases and negative ratings", Rating(0.2, 1.0, False), stars(14, 11, seed=4) - 3.5, 3, 3),
        ("ratings that are all the same", Rating(0.2), np.where(np.isnan(stars(10, 7, seed=5)), NAN, 4.0), 2, 2),
        ("one row of ratings", Rating(0.5), np.array([[3.0, NAN, 1.0, 5.0]]), 2, 2),
        ("one column of ratings", Rating(0.5, 2.0), np.array([[3.0], [NAN], [1.0], [5.0]]), 1, 3),
        ("prices beside cents", Rating(0.3), np.where(np.arange(11) % 2, 100.0, 1.0) * stars(15, 11, seed=6), 2, 1),
    ):
        yield _holds(f"a fit of {name}", lambda a=model, b=X, c=k, d=times: _fitted(a, b, c, d))
    yield _holds("who did not rate, and what nobody rated", _silent)
    yield _holds("biases to start from, and another mean", _warm)
    for name, words, model in (
        ("as fitted", {}, Rating(0.4, 0.5)),
        ("held more tightly, by length", {"regularization": 2.0, "regularization_exponent": 1.0}, Rating(2.0, 1.0)),
    ):
        yield _holds(f"newcomers and new films {name}", lambda a=words, b=model: _newcomers(a, b))
    for model in (Rating(0.4, 1.0), Rating(0.4, 0.0, False)):
        yield _holds(f"why this rating, {'biases' if model.biased else 'plain'}", lambda a=model: _explained(a))
    yield _holds("zeros are ratings, also in a file", _zeros)
    for name, offset, scale in (("years", 2000.0, -1e-3), ("millions", 1e6, 1e3)):
        yield _holds(f"ratings in {name}", lambda a=offset, b=scale: _far_away(a, b))
    for nu in (0.0, 1.0):
        yield _holds(f"a full table is a soft SVD, ν of {nu:.0f}", lambda a=nu: _full(a))
    yield _holds("errors on what was held out", _held_out)
    for stored in (False, True):
        yield _holds(f"a break of a fit with biases{', on the disk' if stored else ''}", lambda a=stored: _resumed(a))
    yield _holds("biases from elsewhere", _from_elsewhere)
    for side in ("items", "users", "neither"):
        yield _holds(f"biases of {side} only", lambda a=side: _one_sided(a))
