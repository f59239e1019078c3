"""Exercises for the board: one cell, biases alone, sums of users, starts, ties of zeros, and torch beside them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import scipy.optimize
import scipy.sparse as sp

import lfm_np as library

from .case import Case, Group, installed
from .cases_exercises_in_closed_form import designed, fitted, near, scores_of, soft
from .working_days import csr, faultless, wrong

lfm_np: Any = library
losses: Any = library.losses
sampling: Any = library.sampling
_GROUP = Group("exercise class")
_holds = faultless(_GROUP)


def _sgd(X: Any, loss: Any, side: Any = library, **words: Any) -> Any:
    given = {"dtype": "float64", "random_state": 0, "factors": 3, "regularization": 0.0, **words}
    return side.sgd(sp.csr_array(X) if isinstance(X, np.ndarray) else X, loss, **given)


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


PLACES = (np.arange(4), np.array([2, 0, 3, 1]))


def _one_cell_each(loss: Any, x: Any, score: Callable[[float], float], lam: float, eta: float) -> list[str]:
    """One cell a row and a column: ‖u‖² = ‖v‖² = |s|, so that the slope of the loss at s is -λ sign(s)."""
    X = np.full((4, 4), np.nan)
    X[PLACES] = x
    fit = _sgd(csr(X), loss, sampler=None, epochs=800, learning_rate=eta, regularization=lam)
    mine = [score(value) for value in x]
    paid = [loss.value(s, 1.0 if hasattr(loss, "targets") else value) for s, value in zip(mine, x, strict=True)]
    return wrong(
        scores=near(scores_of(fit)[PLACES], mine),
        lengths=near((fit.user_factors**2).sum(1), np.abs(mine)),
        paid=near(fit.history[-1]["sampled_loss"], np.mean(paid)),
    )


def _biases_of_ratings() -> list[str]:
    """Factors of 0 stay; one rating a row and a column: x - s = λb on both sides, so b = (x - μ)/(2 + λ)."""
    x = np.array([5.0, 1, 2, 4])
    X = np.full((4, 4), np.nan)
    X[PLACES] = x
    zero = np.zeros((4, 3)), np.zeros((4, 3))
    fit = _sgd(
        csr(X), losses.Squared(), sampler=None, biases=True, init=zero, epochs=300, learning_rate=0.1,
        regularization={"user": 9.0, "item": 9.0, "bias": 0.5},
    )  # fmt: skip
    b = (x - 3) / 2.5
    return wrong(
        mean=near(fit.global_bias, 3.0, 1e-6), users=near(fit.user_bias, b, 1e-5),
        items=near(fit.item_bias[PLACES[1]], b, 1e-5), factors=not scores_of(fit).any(),
    )  # fmt: skip


def _biases_of_clicks(pairwise: bool, lam: float) -> list[str]:
    """One item liked, one not, biases ±b: σ(-2b) = λb for BPR and σ(-b) = λb for Logistic, whose μ is -log 1 = 0."""
    zero = np.zeros((1, 3)), np.zeros((2, 3))
    fit = _sgd(
        np.array([[1.0, 0]]), losses.BPR() if pairwise else losses.Logistic(), biases="item" if pairwise else True,
        init=zero, epochs=600, learning_rate=0.5, regularization={"bias": lam},
    )  # fmt: skip
    times = 2 if pairwise else 1
    b = scipy.optimize.brentq(lambda b: _sigmoid(-times * b) - lam * b, 0.0, 50.0)
    facts = {"items": near(fit.item_bias, [b, -b])}
    if not pairwise:  # the user's bias is pushed up and down alike
        facts |= {"user": abs(fit.user_bias[0]) < 1e-6, "mu": abs(fit.global_bias) < 1e-6}
        facts["items"] = near(fit.item_bias, [b, -b], 1e-6)
    return wrong(**facts)


def _on_the_sphere() -> list[str]:
    """A negative with a cosine of 0.9 is pushed until it is below the margin; then the positive gets all the way."""
    U, V = np.array([[1.0, 0, 0]]), np.array([[0.6, 0.8, 0], [0.9, 0.3, 0.3]])
    V /= np.linalg.norm(V, axis=1)[:, None]
    fit = _sgd(np.array([[1.0, 0]]), losses.CosineContrastive(), init=(U, V), epochs=300, learning_rate=0.1)
    s, t = scores_of(fit)[0]
    lengths = np.linalg.norm(np.vstack([fit.user_factors, fit.item_factors]), axis=1)
    first = 1 - 0.6 + V[1, 0] - 0.4
    return wrong(
        first=near(fit.history[0]["sampled_loss"], first, 1e-12), last=abs(fit.history[-1]["sampled_loss"]) < 1e-12,
        positive=near(s, 1.0, 1e-12), negative=0.2 < t <= 0.4 + 1e-9, lengths=near(lengths, np.ones(3), 1e-12),
    )  # fmt: skip


def _begun(cosine: bool) -> list[str]:
    """Rows start uniform with deviation 0.1/√k, or on the sphere, and at 0 where no stored cell brings them in."""
    X = np.zeros((2000, 40))
    X[np.arange(1990), np.arange(1990) % 38] = 1
    loss = losses.CosineContrastive() if cosine else losses.BPR()
    fit = _sgd(X, loss, factors=8, epochs=1, learning_rate=1e-12)
    squares, items = (fit.user_factors**2).sum(1), (fit.item_factors**2).sum(1)
    a = 0.1 / math.sqrt(8) * math.sqrt(3)  # of the uniform distribution; x² has the variance 4a⁴/45
    slack = 6 * math.sqrt(8 * 4 * a**4 / 45 / 1990)
    facts = {"absent": bool((squares[1990:] < 1e-18).all() and (items[38:] < 1e-18).all())}
    if cosine:
        facts["lengths"] = near(squares[:1990], np.ones(1990), 1e-12) and near(items[:38], np.ones(38), 1e-12)
    else:
        facts["deviation"] = abs(squares[:1990].mean() - 0.01) <= slack
        facts["bound"] = bool(squares.max() <= 8 * a**2 * (1 + 1e-9) and items.max() <= 8 * a**2 * (1 + 1e-9))
    return wrong(**facts)


def _added_up() -> list[str]:
    """Where all items are rated, folding in is linear: who rates what two others do together, or a third of it."""
    X = designed(9, 7, np.array([12.0, 7.0, 4.0, 1.0]))
    fit = fitted(csr(X), factors=3, weighting="ratings", regularization=2.0)
    U, (S, _) = fit.user_factors, soft(X, 2.0, 3)
    more = fit.update(csr(np.array([X[0] + X[1], X[2] / 3, X[4]])), users=[9, 10, 3])
    mine = np.vstack([S[:3], S[4], S[4:], S[0] + S[1], S[2] / 3])
    return wrong(
        scores=near(scores_of(more), mine), others=np.array_equal(more.user_factors[[0, 1, 2, 8]], U[[0, 1, 2, 8]])
    )


def _ridge_by_cells() -> list[str]:
    """With ν = 1 biases alone are ridge regression whose rows are held by λ n_u: (1 + λ) n_u on the diagonal."""
    draw = np.random.default_rng(9)
    X = np.where(draw.random((15, 10)) < 0.5, draw.integers(1, 6, (15, 10)), np.nan)
    X[:, 0], X[0] = 4, 2
    lam, mu, has = 0.4, float(np.nanmean(X)), ~np.isnan(X)
    A = np.block([[np.diag(has.sum(1) * (1 + lam)), has], [has.T, np.diag(has.sum(0) * (1 + lam))]])
    rest = np.where(has, X - mu, 0.0)
    b = np.linalg.solve(A, np.concatenate([rest.sum(1), rest.sum(0)]))
    words: dict[str, Any] = {"weighting": "ratings", "regularization": lam, "regularization_exponent": 1.0}
    fit = fitted(csr(X), factors=2, biases=True, iterations=200, init=(np.zeros((15, 2)), np.zeros((10, 2))), **words)
    J = ((rest - has * (b[:15, None] + b[15:])) ** 2).sum()
    J += lam * (has.sum(1) @ b[:15] ** 2 + has.sum(0) @ b[15:] ** 2)
    model = lfm_np.Factors(np.zeros((15, 2)), np.zeros((10, 2)), user_bias=b[:15], item_bias=b[15:], global_bias=mu)
    return wrong(
        users=near(fit.user_bias, b[:15]), items=near(fit.item_bias, b[15:]),
        history=near(fit.history[-1]["objective"], J, 1e-12),
        objective=near(lfm_np.objective(csr(X), model, **words), J, 1e-12),
    )  # fmt: skip


def _one_user_folded() -> list[str]:
    """The same rule for items: one cell by Sherman and Morrison, held by λ(1 + α₀m)."""
    draw = np.random.default_rng(12)
    U, a0, alpha, x = draw.normal(size=(6, 3)), 0.25, 1.5, 2.0
    inverse = np.linalg.inv(a0 * U.T @ U + 0.1 * (1 + a0 * 6) * np.eye(3))
    G = U @ inverse @ U.T
    c = 1 + alpha * x
    mine = [c * G[:, u] / (1 + (c - a0) * G[u, u]) for u in range(6)]
    new = lfm_np.Factors(U, np.zeros((1, 3))).fold_in_items(
        sp.csr_array(np.eye(6) * x), weighting="hu-koren", alpha=alpha, unobserved_weight=a0, regularization=0.1,
        regularization_exponent=1.0,
    )  # fmt: skip
    return wrong(scores=near(scores_of(new), np.column_stack(mine)), shape=new.shape == (6, 6))


def _one_by_one() -> list[str]:
    """A single cell by every weighting and solver: s = p - λ/c, J = λ(2p - λ/c), and nothing where λ ≥ c p."""
    facts = {}
    for weighting, c, p in (("hu-koren", 7.0, 1.0), ("ials", 6.5, 6 / 6.5), ("confidence", 6.0, 1.0)):
        for solver in ("exact", "cg", "subspace"):
            for lam in (1.5, 20.0):
                fit = fitted(
                    sp.csr_array([[3.0]]), factors=2, weighting=weighting, alpha=2.0, unobserved_weight=0.5,
                    regularization=lam, solver=solver, iterations=40,
                )  # fmt: skip
                s, J = (p - lam / c, lam * (2 * p - lam / c)) if lam < c * p else (0.0, c * p * p)
                found = float(scores_of(fit)[0, 0]), fit.history[-1]["objective"]
                facts[f"{weighting} {solver} {lam}"] = abs(found[0] - s) < 1e-9 and abs(found[1] - J) < 1e-9
    return wrong(**facts)


def _zeros_tie() -> list[str]:
    """0 and -0 are equal, whichever sign the products have: 150 of them come in the order of their ids."""
    draw = np.random.default_rng(1)
    V = np.where(draw.random((150, 2)) < 0.5, 0.0, -0.0)
    bias = np.where(draw.random(150) < 0.5, 0.0, -0.0)
    facts = {}
    for dtype in ("float32", "float64"):
        U = np.array([[1.0, -1.0], [-3.0, -2.0], [-0.0, 0.0]], dtype)
        for name, more in (("plain", {}), ("biased", {"item_bias": bias.astype(dtype)})):
            model = lfm_np.Factors(U, V.astype(dtype), **more)
            for N in (1, 40, 65, 150):
                found = model.recommend([0, 1, 2], N=N).ids
                facts[f"{dtype} {name} {N}"] = np.array_equal(found, np.tile(np.arange(N), (3, 1)))
    return wrong(**facts)


def _about_so_many() -> list[str]:
    """Each user's share is rounded at random: the sum is off by at most 6 times √m/2."""
    found = [lfm_np.datasets.planted(400, 60, 3000, random_state=seed).matrix for seed in range(3)]
    return wrong(
        sums=max(abs(X.nnz - 3000) for X in found) <= 3 * math.sqrt(400), ones=all((X.data == 1).all() for X in found),
        shape=all(X.shape == (400, 60) for X in found),
    )  # fmt: skip


def _by_length() -> list[str]:
    """A rank-one model: everybody's list is the items by length, or the other way round; PureSVD of one factor."""
    a, b = np.array([2.0, -1, 0.5]), np.array([3.0, 1, -2, 0, 7])
    ids, scores = lfm_np.Factors(a[:, None], b[:, None]).recommend([0, 1, 2], N=5)
    up = [4, 0, 1, 3, 2]
    return wrong(
        ids=ids.tolist() == [up, up[::-1], up],
        scores=near(scores, [a[0] * b[up], a[1] * b[up[::-1]], a[2] * b[up]], 1e-15),
    )


def _hidden_ratings() -> list[str]:
    """Ratings abᵀ and next to no λ: what is left of a row tells all that is hidden of it."""
    X = np.outer(np.arange(1.0, 13), np.array([1.0, 2, 0.5, 3, 1.5, 2.5]))
    model = lfm_np.sklearn.ALS(
        factors=1, weighting="ratings", regularization=1e-12, iterations=10, dtype="float64", random_state=0
    ).fit(X)
    good = model.score(X)
    return wrong(near_zero=-1e-5 <= good <= 0.0, predicted=near(model.inverse_transform(model.transform(X)), X, 1e-6))


def _same_first_draws() -> list[str]:
    """The first negative of a cell is the one that `sgd` draws: batches of one record shrink the same rows as often."""
    draw = np.random.default_rng(3)
    X = (draw.random((12, 9)) < 0.4) * 1.0
    X[:, 0], X[:, 8] = 1, 0
    start = draw.normal(size=(12, 3)), draw.normal(size=(9, 3))
    counts = []
    for side, words in ((lfm_np, {}), (lfm_np.torch_backend, {"batch_size": 1})):
        fit = _sgd(
            X, losses.MarginHinge(margin=-50.0), side, epochs=3, init=start, learning_rate=0.05,
            regularization={"negative": 0.02}, **words,
        )  # fmt: skip
        lengths = np.linalg.norm(fit.item_factors, axis=1) / np.linalg.norm(start[1], axis=1)
        counts.append(np.log(lengths) / math.log1p(-1e-3))
    return wrong(
        whole=abs(counts[1] - np.round(counts[1])).max() < 1e-6, sum=round(counts[1].sum()) == 3 * int(X.sum()),
        never=round(counts[1][0]) == 0, same=near(counts[0], counts[1], 1e-8),
    )  # fmt: skip


def _at_zero_on_torch(loss: Any, M: int, mine: float) -> list[str]:
    """Row 0 lacks three items, row 1 two, and row 2 none: it is skipped, with its five of ten cells."""
    X = np.array([[1.0, 1, 0, 0, 0], [1, 0, 1, 1, 0], [1, 1, 1, 1, 1]])
    fit = _sgd(
        X, loss, lfm_np.torch_backend, negatives=M, init=(np.zeros((3, 3)), np.zeros((5, 3))), epochs=2,
        regularization=0.1,
    )  # fmt: skip
    return wrong(
        paid=near([r["sampled_loss"] for r in fit.history], [mine] * 2, 1e-12), skipped=fit.params["skipped_rows"] == 1,
        factors=not fit.user_factors.any() and not fit.item_factors.any(),
    )  # fmt: skip


def _some_ratings() -> np.ndarray:
    draw = np.random.default_rng(14)
    X = np.where(draw.random((16, 8)) < 0.5, draw.integers(1, 6, (16, 8)), np.nan)
    X[:3, 3], X[5, :4] = 2, 5
    return X


def _with_bias(x: np.ndarray, F: np.ndarray, offset: np.ndarray, lam: float) -> np.ndarray:
    """Factors and bias of one side's row by least squares, from the other side's."""
    has = ~np.isnan(x)
    Y = np.column_stack([F[has], np.ones(has.sum())])
    A = Y.T @ Y + lam * math.sqrt(has.sum()) * np.eye(Y.shape[1])
    return np.linalg.solve(A, Y.T @ (x - offset)[has])


def _biased(X: np.ndarray) -> Any:
    return fitted(
        csr(X), factors=3, weighting="ratings", biases=True, regularization=0.2, regularization_exponent=0.5,
        iterations=3,
    )  # fmt: skip


def _twin_with_a_bias() -> list[str]:
    """Items are solved last, so a new item with the ratings of item 3 has its factors and its bias."""
    X = _some_ratings()
    fit = _biased(X)
    mine = _with_bias(X[:, 3], fit.user_factors, fit.global_bias + fit.user_bias, 0.2)
    more = fit.update(csr(X[:, [3]]), items=[8])
    return wrong(
        there=near([*fit.item_factors[3], fit.item_bias[3]], mine),
        twin=near([*more.item_factors[8], more.item_bias[8]], mine),
        others=np.array_equal(more.item_bias[:8], fit.item_bias) and np.array_equal(more.user_bias, fit.user_bias),
        mean=more.global_bias == fit.global_bias,
    )


def _explained_with_biases() -> list[str]:
    """The score is that of the user folded in, with a bias of its own; what is not of the ratings is the baseline."""
    X = _some_ratings()
    fit = _biased(X)
    facts = {}
    for user, item in ((5, 2), (5, 6), (0, 3)):
        new = _with_bias(X[user], fit.item_factors, fit.global_bias + fit.item_bias, 0.2)
        score = fit.global_bias + fit.item_bias[item] + np.append(fit.item_factors[item], 1.0) @ new
        why = fit.explain(user, item, csr(X))
        facts[f"{user} {item}"] = (
            near(why.score, score)
            and near(why.baseline + why.contributions.sum(), score)
            and sorted(why.items.tolist()) == np.flatnonzero(~np.isnan(X[user])).tolist()
        )
    return wrong(**facts)


def _lighter_than_nothing() -> list[str]:
    """Rows of few and of all items whose cells weigh 0.01 to 0.05 where empty ones weigh 5."""
    draw = np.random.default_rng(17)
    V = draw.normal(size=(12, 3))
    x = draw.integers(1, 6, (6, 12)) * (draw.random((6, 12)) < np.array([0.2, 0.4, 0.6, 0.8, 1, 1])[:, None]) * 1.0
    x[0, 5] = 3
    mine = []
    for row in x:
        C = np.where(row > 0, 0.01 * row, 5.0)
        mine.append(np.linalg.solve((V.T * C) @ V + 0.1 * np.eye(3), V.T @ (0.01 * row)))
    new = lfm_np.Factors(np.zeros((1, 3)), V).fold_in_users(
        sp.csr_array(x), weighting="confidence", alpha=0.01, unobserved_weight=5.0, regularization=0.1,
        regularization_exponent=0.0,
    )  # fmt: skip
    # the heavy part, α₀VᵀV, is 100 to 500 times what is left of it in full rows
    return wrong(users=near(new.user_factors, mine, 1e-10))


def _all_equal(dtype: str) -> list[str]:
    """Everybody rates everything with 4: μ says it all. J is 0 once the drawn items are gone."""
    X = np.full((6, 5), np.nan)
    X[np.random.default_rng(18).random(X.shape) < 0.6] = 4
    X[:, 0], X[0] = 4, 4
    fit = fitted(
        csr(X), factors=2, weighting="ratings", biases=True, regularization=0.1, tolerance=1e-3, iterations=4,
        dtype=dtype,
    )  # fmt: skip
    scores = fit.scores(np.repeat(np.arange(6), 5), np.tile(np.arange(5), 6))
    return wrong(
        items=all(r["objective"] == 0.0 for r in fit.history),
        users=all(r["objective_users"] == 0.0 for r in fit.history[1:]),
        scores=bool((scores == 4).all()),
    )


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    counts = np.array([5.0, 9.0, 3.0, 0.05])
    for name, loss, x, score, lam, eta in (
        ("Poisson: log(x ∓ λ)", losses.Poisson(), counts, lambda x: math.log(x - 0.2 if x > 1 else x + 0.2), 0.2, 0.05),
        ("Logistic: log(1/λ - 1)", losses.Logistic(), np.ones(4), lambda x: math.log(9), 0.1, 0.5),
        ("Squared: x ∓ λ", losses.Squared(), np.array([4.0, -2, 3, 5]), lambda x: x - math.copysign(0.5, x), 0.5, 0.05),
    ):
        yield _holds(f"one cell each, {name}", lambda a=loss, b=x, c=score, d=lam, e=eta: _one_cell_each(a, b, c, d, e))
    yield _holds("biases alone, ratings", _biases_of_ratings)
    for lam in (0.1, 0.3):
        yield _holds(f"biases alone, BPR, λ = {lam}", lambda a=lam: _biases_of_clicks(True, a))
        yield _holds(f"biases alone, Logistic, λ = {lam}", lambda a=lam: _biases_of_clicks(False, a))
    yield _holds("on the sphere a loss of 0 is reached", _on_the_sphere)
    yield _holds("how rows of sgd start", lambda: _begun(False))
    yield _holds("how rows of a cosine loss start", lambda: _begun(True))
    yield _holds("folding in full rows is linear", _added_up)
    yield _holds("biases alone with ν = 1, and J of them", _ridge_by_cells)
    yield _holds("one user folded in by Sherman and Morrison", _one_user_folded)
    yield _holds("one cell by every weighting and solver", _one_by_one)
    yield _holds("0 and -0 tie", _zeros_tie)
    yield _holds("an item's twin with its bias", _twin_with_a_bias)
    yield _holds("explained with biases", _explained_with_biases)
    yield _holds("rows lighter than empty cells", _lighter_than_nothing)
    for dtype in ("float32", "float64"):
        yield _holds(f"ratings that are all 4, {dtype}", lambda d=dtype: _all_equal(d))
    yield _holds("about so many planted cells", _about_so_many)
    yield _holds("lists of a model of rank one", _by_length)
    if installed("sklearn"):
        yield _holds("hidden ratings of rank one are found", _hidden_ratings)
    if installed("torch"):
        yield _holds("torch draws what sgd draws first", _same_first_draws)
        log2, log3, log4, log5 = (math.log(x) for x in (2, 3, 4, 5))
        for name, loss, M, mine in (
            ("BPR", losses.BPR(), 3, 3 * log2 / 2),
            ("SampledSoftmax", losses.SampledSoftmax(0.5), 4, (2 * log4 + 3 * log3) / 10),
            ("WARP", losses.WARP(2.0, trials=3), 1, 2 * log5 / 2),
        ):
            yield _holds(f"all at zero on torch, {name}", lambda a=loss, b=M, c=mine: _at_zero_on_torch(a, b, c))
