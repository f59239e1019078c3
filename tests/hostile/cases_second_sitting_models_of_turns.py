"""The second sitting, models: one object or one name asked in turn for different things, and shapes of clusters."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import scipy.sparse as sp

from .case import Case, Group, installed
from .cases_second_sitting_models_of_engines import Law, begun, counts, lfm_np, near, stars, with_client
from .cases_second_sitting_models_of_steps import ETA, START, forced, gram, losses, sides
from .working_days import NAN, all_scores, best, csr, faultless, wrong

_holds = faultless(Group("second sitting, models"))


def _foldings() -> list[str]:
    """What is prepared for one rule and kept with the object is not taken for another, for either side of the model."""
    draw, facts = np.random.default_rng(81), {}
    U, V = begun(30, 70, 20, 82)
    X = np.full((35, 70), NAN)
    for u, x in enumerate(X):  # rows of 0 to 68 cells, shorter and longer than the 20 factors
        x[draw.choice(70, 2 * u, replace=False)] = draw.integers(1, 5, 2 * u)
    Y = np.where(draw.random((30, 4)) < [0.0, 0.1, 0.5, 1.0], 2.0, NAN)
    model = lfm_np.Factors(U, V)
    rules = [
        Law("hu-koren", 2.0, 1.0, 0.5, 0.0),
        Law("hu-koren", 2.0, 0.1, 0.5, 0.0),
        Law("ials", 2.0, 0.1, 0.5, 0.0),
        Law("ials", 2.0, 0.1, 0.5, 1.0),
        Law("ials", 2.0, 0.1, 3.0, 0.0),
        Law("confidence", 2.0, 0.1, 0.5, 0.0),
        Law("ratings", lam=0.5),
        Law("ratings", lam=0.5, nu=0.5),
    ]
    for turn, place in enumerate([0, 1, 2, 3, 4, 5, 6, 7, 0, 6, 3, 1, 5, 2]):
        law = rules[place]
        if law.weighting == "ratings" and law.nu:  # a row of nothing would be held by nothing
            x, mine = X[1:], law.half(X[1:], V)[0]
        else:
            x, mine = X, law.half(X, V)[0]
        facts[f"users_{turn}"] = near(model.fold_in_users(csr(x), **law.words).user_factors, mine, 1e-8)
        y = Y[:, 1:]
        facts[f"items_{turn}"] = near(model.fold_in_items(csr(y), **law.words).item_factors, law.half(y.T, U)[0], 1e-8)
    return wrong(**facts)


def _likenesses() -> list[str]:
    """Lists by cosine, by inner product and by score of one object, in turn, of two sides."""
    draw = np.random.default_rng(83)
    U, V = draw.normal(size=(40, 5)), draw.normal(size=(33, 5)) * draw.choice([0.1, 1.0, 10.0], 33)[:, None]
    d = draw.normal(size=33)
    model = lfm_np.Factors(U, V, item_bias=d, global_bias=1.5)
    unit = [F / np.sqrt((F**2).sum(1))[:, None] for F in (U, V)]
    tables = {
        ("users", "cosine"): unit[0] @ unit[0].T,
        ("users", "inner"): U @ U.T,
        ("items", "cosine"): unit[1] @ unit[1].T,
        ("items", "inner"): V @ V.T,
        ("scores", ""): 1.5 + d + U @ V.T,
    }
    facts = {}
    for turn, (kind, metric) in enumerate([*tables, *reversed(tables), *tables]):
        S, asked, N = tables[kind, metric], np.array([7, 32, 0]), 3 + 9 * (turn % 3)
        if kind == "scores":
            ids, scores = model.recommend(asked, N=N)
        else:
            ids, scores = getattr(model, f"similar_{kind}")(asked, N=N, metric=metric)
        mine = [best(S[u], np.ones(S.shape[1], bool), N) for u in asked]
        facts[f"{turn}_{kind}_{metric}"] = ids.tolist() == mine and near(
            scores, [S[u, list_] for u, list_ in zip(asked, mine)], 1e-12
        )
    return wrong(**facts)


def _drawn_negatives() -> list[str]:
    """Negatives whose training or test cell is a stored zero: of ratings they are none, of clicks they are."""
    draw = np.random.default_rng(84)
    kind = draw.choice(4, p=[0.2, 0.45, 0.25, 0.1], size=(18, 16))  # nothing, train, test, and nothing
    values = np.where(draw.random((18, 16)) < 0.5, 0.0, 2.0)
    train, test = (csr(np.where(kind == which, values, NAN)) for which in (1, 2))
    negatives = draw.integers(-1, 16, (18, 9))
    facts = {}
    for weighting in ("ratings", "confidence"):
        model = lfm_np.als(train, factors=3, weighting=weighting, iterations=2, dtype="float64", random_state=0)
        some = np.ones((18, 16), bool) if weighting == "ratings" else values > 0
        of: dict[str, list[float]] = {"recall@3": [], "ndcg": [], "map@4": [], "auc": []}
        for s, known, held, drawn in zip(all_scores(model), (kind == 1) & some, (kind == 2) & some, negatives):
            others = {i for i in drawn.tolist() if i >= 0 and not known[i] and not held[i]}
            relevant = np.flatnonzero(held).tolist()
            if not relevant:
                continue
            t, order = len(relevant), sorted([*relevant, *others], key=lambda i, s=s: (-s[i], i))
            ranks = [r for r, i in enumerate(order, 1) if i in relevant]
            of["recall@3"].append(sum(r <= 3 for r in ranks) / t)
            of["ndcg"].append(
                sum(1 / math.log2(r + 1) for r in ranks) / sum(1 / math.log2(j + 1) for j in range(1, t + 1))
            )
            of["map@4"].append(sum(j / r for j, r in enumerate(ranks, 1) if r <= 4) / min(4, t))
            if others:
                pairs = [0.5 * (s[i] == s[j]) + (s[i] > s[j]) for i in relevant for j in others]
                of["auc"].append(float(np.mean(pairs)))
        got = lfm_np.evaluate(model, train, test, list(of), negatives=negatives)
        for name, each in of.items():
            mean, error = float(np.mean(each)), float(np.std(each, ddof=1)) / math.sqrt(len(each))
            facts[f"{weighting}_{name}"] = abs(got[name] - mean) + abs(got[f"{name}_se"] - error) <= 1e-9
        facts[f"{weighting}_users"] = got["users"] == len(of["ndcg"])
    return wrong(**facts)


def _one_name(fit: Callable[..., Any]) -> list[str]:
    """Numbers are those of the fit's beginning, and formulas those of the class, whatever it is called."""

    def made(power: int) -> Any:
        class Bowl:
            def __init__(self, far: float) -> None:
                self.far = far

            def value(self, score: float, target: float) -> float:
                return (score - target - self.far) ** 2

            def gradient(self, score: float, target: float) -> float:
                return 2.0 * (score - target - self.far)

            def torch_value(self, score: Any, target: Any) -> Any:
                return (score - target - self.far) ** 2

        class Other:
            def __init__(self, far: float) -> None:
                self.far = far

            def value(self, score: float, target: float) -> float:
                return (score - target - self.far) ** 4

            def gradient(self, score: float, target: float) -> float:
                return 4.0 * (score - target - self.far) ** 3

            def torch_value(self, score: Any, target: Any) -> Any:
                return (score - target - self.far) ** 4

        Other.__name__, Other.__qualname__ = Bowl.__name__, Bowl.__qualname__
        return Bowl if power == 2 else Other

    u, v = START[0][0], START[1][0]
    s, x, facts = float(u @ v), 0.75, {}
    one, other = made(2)(0.5), made(4)(0.5)
    for turn, (loss, far, power) in enumerate(
        [(one, 0.5, 2), (other, 0.5, 4), (one, -0.25, 2), (made(2)(1.0), 1.0, 2), (other, 0.125, 4), (one, 0.5, 2)]
    ):
        loss.far = far
        e = s - x - far
        g = power * e ** (power - 1)
        got = forced(fit, loss, x, sampler=None)
        facts[f"paid_{turn}"] = near(got.history[0]["sampled_loss"], e**power, 1e-12)
        facts[f"moved_{turn}"] = near(
            gram(got.user_factors, got.item_factors[0]), gram(u - ETA * g * v, v - ETA * g * u), 1e-12
        )
    return wrong(**facts)


def _tolerated(fit: Callable[..., Any]) -> list[str]:
    """One rating held by λ: the loss falls by less and less, and the epoch is known that is not worth it."""
    u, v, x, lam, tolerance = START[0][0], START[1][0], 3.0, 0.2, 0.02
    paid: list[float] = []
    for _ in range(200):
        e = float(u @ v) - x
        paid.append(e * e / 2)
        u, v = u - ETA * (e * v + lam * u), v - ETA * (e * u + lam * v)
    shares = [(a - b) / a for a, b in itertools.pairwise(paid)]  # of epochs 2, 3, …
    mine = 2 + next(n for n, share in enumerate(shares) if share < tolerance)
    assert 3 < mine < 190
    assert min(abs(share / tolerance - 1) for share in shares[: mine - 1]) > 1e-6
    got = forced(fit, losses.Squared(), x, sampler=None, epochs=200, tolerance=tolerance, regularization=lam)
    return wrong(
        epochs=len(got.history) == mine,
        status=got.status == "converged",
        paid=near([record["sampled_loss"] for record in got.history], paid[:mine], 1e-9),
    )


def _shapes_of_clusters() -> list[str]:
    """More shards than rows; shards of nothing; few items, so that equations travel, and few users, so that they do."""
    draw, facts, shapes = np.random.default_rng(85), {}, {"few": (2, 5, 9), "tall": (60, 3, 7), "wide": (5, 90, 4)}
    X = {name: np.where(draw.random((m, n)) < 0.5, 2.0, NAN) for name, (m, n, _) in shapes.items()}
    X["tall"][20:50] = NAN
    X["few"][0, :2] = 1.0
    law = Law("confidence", 1.5, 0.3, 0.2, 0.4)
    starts = {name: begun(m, n, 2, 86) for name, (m, n, _) in shapes.items()}

    def work(client: Any) -> dict[str, Any]:
        return {
            name: lfm_np.distributed.als(
                csr(X[name]), client=client, shards=shards, factors=2, iterations=3, init=starts[name],
                dtype="float64", **law.words,
            )
            for name, (_, _, shards) in shapes.items()
        }  # fmt: skip

    for name, got in with_client(work).items():
        U, V = law.sweeps(X[name], starts[name][1], 3)
        facts[name] = near(all_scores(got), U @ V.T, 1e-9)
        facts[f"{name}_J"] = near(got.history[-1]["objective"], law.cost(X[name], U, V), 1e-9)
    return wrong(**facts)


def _biases_of_wide_clusters() -> list[str]:
    """Ratings with biases where users travel: 10 people, 40 items."""
    X, law = stars(10, 40, 87, 0.5), Law("ratings", lam=0.1, nu=1.0)
    U, V = begun(10, 40, 3, 88)
    mu, d = float(np.nanmean(X)), np.zeros(40)
    start = (U, V)

    def work(client: Any) -> Any:
        return lfm_np.distributed.als(
            csr(X), client=client, shards=4, factors=3, iterations=3, biases=True, init=start, dtype="float64",
            **law.words,
        )  # fmt: skip

    got = with_client(work)
    for _ in range(3):
        U, b = law.half(X, V, mu + d, own=True)
        V, d = law.half(X.T, U, mu + b, own=True)
    new = got.fold_in_users(csr(X[:2]))
    again, bias = law.half(X[:2], V, mu + d, own=True)
    return wrong(
        scores=near(all_scores(got), mu + b[:, None] + d + U @ V.T, 1e-9),
        biases=near(np.append(got.user_bias, got.item_bias), np.append(b, d), 1e-8),
        J=near(got.history[-1]["objective"], law.cost(X, U, V, b, d, mu), 1e-9),
        new=near(all_scores(new), mu + bias[:, None] + d + again @ V.T, 1e-8),
    )


def _grown_in_turn() -> list[str]:
    """Users, items, and users again are added or solved anew, each from what was there; lists are of the last model."""
    law = Law("ials", 1.5, 0.4, 0.3, 0.6)
    X = counts(9, 11, 89, 0.4)
    U, V = begun(6, 8, 3, 90)
    model = lfm_np.Factors(U, V, params=dict(law.words))
    steps: list[tuple[str, list[int]]] = [("users", [7, 2, 6, 8]), ("items", [10, 8, 0, 9]), ("users", [0, 7])]
    facts = {}
    for turn, (side, ids) in enumerate(steps):
        if side == "users":
            rows, F = X[ids][:, : len(V)], V
        else:
            rows, F = X[: len(U)][:, ids].T, U
        mine = law.half(rows, F)[0]
        model.recommend(0, N=3)  # what was prepared for the old model is not for the new one
        model = model.update(csr(rows if side == "users" else rows.T), **{side: ids})
        G = np.zeros((max(len(U if side == "users" else V), max(ids) + 1), 3))
        old = U if side == "users" else V
        G[: len(old)] = old
        G[ids] = mine
        U, V = (G, V) if side == "users" else (U, G)
        facts[f"users_{turn}"] = near(model.user_factors, U, 1e-9)
        facts[f"items_{turn}"] = near(model.item_factors, V, 1e-9)
        S, has = U @ V.T, ~np.isnan(X[: len(U), : len(V)])
        lists = model.recommend(np.arange(len(U)), N=4, seen=sp.csr_array(has.astype(float))).ids
        facts[f"lists_{turn}"] = lists.tolist() == [best(s, ~x, 4) for s, x in zip(S, has)]
    return wrong(**facts)


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    yield _holds("foldings of one object by eight rules in turn", _foldings)
    yield _holds("likenesses and lists of one object in turn", _likenesses)
    yield _holds("drawn negatives that were rated 0", _drawn_negatives)
    yield _holds("a model that grows on either side in turn", _grown_in_turn)
    for side, fit in sides():
        yield _holds(f"losses of one name in turn, {side}", lambda f=fit: _one_name(f))
        yield _holds(f"the epoch at which a tolerance ends, {side}", lambda f=fit: _tolerated(f))
    if installed("distributed"):
        yield _holds("clusters for few rows, for empty shards, for few items", _shapes_of_clusters)
        yield _holds("biases of a cluster where users travel", _biases_of_wide_clusters)
