"""The fourth sitting, models: lists, metrics, pictures and foldings that can be counted, or have a closed form."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import scipy.sparse as sp

from lfm_np import ann
from lfm_np.evaluation import most_popular

from .case import Case, Group, installed
from .cases_fourth_sitting_models_of_forms import RULES, by_one, hadamard, wide_table
from .sentences_by_numpy import lfm_np, near, product
from .working_days import all_scores, csr, faultless, wrong

_GROUP = Group("fourth sitting, models")
_holds = faultless(_GROUP)


def codes(k: int) -> np.ndarray:
    """All words of k bits as rows of ±1: two of distance h have the product k - 2h, and all have one length."""
    return ((np.arange(2**k)[:, None] >> np.arange(k)) & 1) * 2.0 - 1


def sorted_lists(scores: np.ndarray, allowed: np.ndarray, N: int) -> tuple[np.ndarray, np.ndarray]:
    """By falling score, the lower id first; -1 and -inf for the rest."""
    ids, values = np.full((len(scores), N), -1), np.full((len(scores), N), -np.inf)
    for row, (s, a) in enumerate(zip(scores, allowed, strict=True)):
        one = np.flatnonzero(a)
        one = one[np.argsort(-s[one], kind="stable")][:N]
        ids[row, : len(one)], values[row, : len(one)] = one, s[one]
    return ids, values


def _words(dtype: Any, biases: bool) -> list[str]:
    """Whole and half numbers are the same in either dtype, and most of them tie: 70 items have four bits in common."""
    C = codes(8)
    more: dict[str, Any] = {}
    if biases:
        of_item, of_user = (np.arange(256) * 37 % 11 - 5).astype(dtype), (np.arange(256) % 3).astype(dtype)
        more = {"item_bias": of_item, "user_bias": of_user, "global_bias": 0.5}
    model = lfm_np.Factors(C.astype(dtype), C.astype(dtype), **more)
    scores = C @ C.T
    if biases:
        scores = scores + of_item + of_user[:, None] + 0.5
    close_by = C @ C.T >= 6
    close_by[5] = True
    some, out = np.arange(255, 0, -2), np.arange(0, 256, 7)
    among = np.zeros(256, bool)
    among[some] = True
    among[out] = False
    found = {}
    for N in (1, 32, 33, 100, 256, 260):
        for name, words, allowed in (
            ("all", {}, np.ones((256, 256), bool)),
            ("seen", {"seen": sp.csr_array(close_by.astype(np.float32))}, ~close_by),
            (
                "some",
                {"seen": sp.csr_array(close_by.astype(np.float32)), "items": some, "exclude": out},
                ~close_by & among,
            ),
        ):
            ids, values = model.recommend(np.arange(256), N=N, **words)
            mine = sorted_lists(scores, allowed, N)
            found[f"{name}_{N}"] = np.array_equal(ids, mine[0]) and np.array_equal(values, mine[1])
    return wrong(**found)


def _alike() -> list[str]:
    """Words of 16 bits, some of them twice, by cosines of whole sixteenths."""
    draw = np.random.default_rng(6)
    C = codes(8)
    V = np.hstack([C[draw.integers(0, 256, 300)], C[draw.integers(0, 4, 300)]])
    V[100:140] = V[:40]
    stretch = 2.0 ** draw.integers(-6, 7, 300)
    model, found = lfm_np.Factors((V * stretch[:, None]).astype(np.float32), V.astype(np.float32)), {}
    everybody = np.ones((300, 300), bool)
    for N in (1, 17, 300):
        ids, values = model.similar_items(np.arange(300), N=N)
        mine = sorted_lists(V @ V.T / 16, everybody, N)
        found[f"cosines_{N}"] = np.array_equal(ids, mine[0]) and near(values, mine[1], 1e-6)
        ids, values = model.similar_items(np.arange(300), N=N, metric="inner")
        found[f"products_{N}"] = np.array_equal(ids, mine[0]) and np.array_equal(values, 16 * mine[1])
        ids, values = model.similar_users(np.arange(300), N=N)
        found[f"users_cosines_{N}"] = np.array_equal(ids, mine[0]) and near(values, mine[1], 1e-6)
        ids, values = model.similar_users(np.arange(300), N=N, metric="inner")
        mine = sorted_lists((V @ V.T) * np.outer(stretch, stretch), everybody, N)
        found[f"users_{N}"] = np.array_equal(ids, mine[0]) and np.array_equal(values, mine[1])
    return wrong(**found)


ORDERS = np.array(list(itertools.permutations(range(5))), float)
METRICS = ("recall", "capped_recall", "precision", "hit_rate", "ndcg", "map", "mrr")


def all_orders() -> Any:
    """120 users who rank five items in all possible ways."""
    return lfm_np.Factors(ORDERS.astype(np.float32), np.eye(5, dtype=np.float32))


def column(*items: int) -> sp.csr_array:
    """Everybody has these."""
    X = np.zeros((120, 5))
    X[:, list(items)] = 1
    return sp.csr_array(X)


def of_ranks(ranks: tuple[int, ...], candidates: int, k: int) -> dict[str, float]:
    """The table of `evaluate` for one user."""
    t, top = len(ranks), [r for r in ranks if r <= k]
    h, others = len(top), candidates - len(ranks)
    return {
        "recall": h / t,
        "capped_recall": h / min(k, t),
        "precision": h / k,
        "hit_rate": float(h > 0),
        "ndcg": sum(1 / math.log2(r + 1) for r in top) / sum(1 / math.log2(j + 1) for j in range(1, min(k, t) + 1)),
        "map": sum(j / r for j, r in enumerate(top, 1)) / min(k, t),
        "mrr": 1 / ranks[0] if ranks[0] <= k else 0.0,
        "auc": sum(others - (r - j) for j, r in enumerate(ranks, 1)) / (t * others),
    }


def _orders() -> list[str]:
    """Every set of ranks is as frequent: five ranks of one item, and six pairs of ranks among four candidates."""
    found = {}
    names = [f"{metric}@{k}" for metric in METRICS for k in (1, 2, 3, 5, 7)] + ["ndcg", "map", "mrr", "auc"]
    for t, train, test, candidates in ((1, None, column(2), 5), (2, column(4), column(0, 3), 4)):
        result = lfm_np.evaluate(all_orders(), train, test, names)
        sets = list(itertools.combinations(range(1, candidates + 1), t))
        for name in names:
            metric, _, k = name.partition("@")
            values = np.repeat(
                [of_ranks(ranks, candidates, int(k or 1000))[metric] for ranks in sets], 120 // len(sets)
            )
            error = values.std(ddof=1) / math.sqrt(120)
            found[f"{name}_{t}"] = abs(result[name] - values.mean()) < 1e-12
            found[f"{name}_se_{t}"] = abs(result[f"{name}_se"] - error) < 1e-12
        found[f"users_{t}"] = result["users"] == 120
    result = lfm_np.evaluate(all_orders(), None, column(2), ("mrr", "precision@2", "auc"))
    found["harmonic"] = abs(result["mrr"] - (1 + 1 / 2 + 1 / 3 + 1 / 4 + 1 / 5) / 5) < 1e-12
    found["half"] = result["auc"] == 0.5 and abs(result["precision@2"] - 0.2) < 1e-12
    drawn = np.tile([1, 1, -1], (120, 1))
    result = lfm_np.evaluate(all_orders(), None, column(2), ("mrr", "hit_rate@1", "auc", "ndcg@2"), negatives=drawn)
    found["drawn"] = near(
        [result[name] for name in ("mrr", "hit_rate@1", "auc", "ndcg@2")],
        [0.75, 0.5, 0.5, (1 + 1 / math.log2(3)) / 2],
        1e-12,
    )
    return wrong(**found)


def _no_order() -> list[str]:
    """Every item is as popular: ranks go by ids among what is not known; two users know their test item."""
    n = 11
    known = np.zeros((n, n))
    for u in range(n):
        known[u, [(u + 1) % n, (u + 2) % n]] = 1
    test = np.zeros((n, n))
    test[np.arange(n), np.arange(n) * 3 % n] = 1
    ranks = []
    for u in range(n):
        j = u * 3 % n
        if not known[u, j]:
            ranks.append(1 + sum(not known[u, i] for i in range(j)))
    model = most_popular(sp.csr_array(known))
    result = lfm_np.evaluate(model, sp.csr_array(known), sp.csr_array(test), ("mrr", "recall@4", "auc", "ndcg"))
    return wrong(
        counts=model.item_bias.tolist() == [2.0] * n,
        users=result["users"] == len(ranks) == 9,
        mrr=abs(result["mrr"] - np.mean([1 / r for r in ranks])) < 1e-12,
        recall=abs(result["recall@4"] - np.mean([r <= 4 for r in ranks])) < 1e-12,
        ndcg=abs(result["ndcg"] - np.mean([1 / math.log2(r + 1) for r in ranks])) < 1e-12,
        auc=result["auc"] == 0.5 and result["auc_se"] < 1e-9,
    )


def _unknown_values() -> list[str]:
    """A cell of unknown value is there: it is seen, it is relevant, and it is counted."""
    rows, columns = [0, 0, 1, 1, 2], [0, 3, 1, 4, 2]
    values = np.array([1.0, np.nan, np.nan, 2.0, np.nan], np.float32)
    data = lfm_np.Interactions(sp.csr_array((values, (rows, columns)), shape=(3, 5)), np.arange(3), np.arange(5))
    model = lfm_np.Factors(np.ones((3, 1)), np.array([[5.0], [4.0], [3.0], [2.0], [1.0]]))
    held_out = data.select(np.isnan(data.matrix.data))
    result = lfm_np.evaluate(model, None, held_out, ("mrr", "recall@2"))
    return wrong(
        seen=model.recommend([0, 1, 2], N=5, seen=data).ids.tolist()
        == [[1, 2, 4, -1, -1], [0, 2, 3, -1, -1], [0, 1, 3, 4, -1]],
        popular=most_popular(data).item_bias.tolist() == [1.0, 1.0, 1.0, 1.0, 1.0],
        users=result["users"] == 3,
        mrr=abs(result["mrr"] - (1 / 4 + 1 / 2 + 1 / 3) / 3) < 1e-12,
        recall=abs(result["recall@2"] - 1 / 3) < 1e-12,
    )


def _pictures() -> list[str]:
    """Of 120 users k/5 have a hit among k, give or take √(p(1 - p)/119); and singular values that halve."""
    N = (1, 2, 3, 5)
    ax = lfm_np.plots.metric_at_n(all_orders(), sp.csr_array((120, 5)), column(1), "hit_rate", N=N)
    line, band = ax.lines[0], ax.collections[0].get_paths()[0].vertices
    p = np.array(N) / 5
    error = np.sqrt(p * (1 - p) / 119)
    edges = [[float(y) for x, y in band if abs(x - k) < 1e-9] for k in N]
    draw = np.random.default_rng(1)
    A, B, R = (np.linalg.qr(draw.normal(size=size))[0] for size in ((40, 20), (30, 20), (20, 20)))
    sigma = 8.0 * 0.5 ** np.arange(20)
    spectrum = lfm_np.plots.factor_spectrum(lfm_np.Factors(A * sigma**0.5 @ R, B * sigma**0.5 @ R)).lines[0]
    return wrong(
        at=near(line.get_xdata(), N, 1e-12),
        share=near(line.get_ydata(), p, 1e-12),
        low=near([min(edge) for edge in edges], p - error, 1e-9),
        high=near([max(edge) for edge in edges], p + error, 1e-9),
        spectrum=near(spectrum.get_ydata(), sigma, 1e-7),
    )


def _flat() -> list[str]:
    """Indexes that look at everything, by products and by distances, give the lists of all scores."""
    model = flat_model()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import faiss
    vectors, found = ann.item_vectors(model), {}
    scores = all_scores(model)
    for name in ("IndexFlatIP", "IndexFlatL2"):
        index = getattr(faiss, name)(8)
        index.add(vectors.copy())
        ids, values = ann.search(index, model, np.arange(5), N=40)
        mine = sorted_lists(scores, np.ones((5, 40), bool), 40)
        found[name] = np.array_equal(ids, mine[0]) and near(values, mine[1], 1e-5)
        one = ann.search(index, model, 3, N=7)
        found[f"{name}_one"] = one.ids.tolist() == mine[0][3, :7].tolist()
    return wrong(**found)


def flat_model() -> Any:
    draw = np.random.default_rng(242)
    return lfm_np.Factors(
        draw.normal(size=(5, 6)).astype(np.float32), draw.normal(size=(40, 6)).astype(np.float32),
        user_bias=np.arange(5, dtype=np.float32), item_bias=draw.normal(size=40).astype(np.float32), global_bias=-2.0,
    )  # fmt: skip


def _folded(dtype: Any) -> list[str]:
    """Each cell by itself: users beside items at right angles, items beside such users, and what that costs."""
    X, H, found = wide_table(), hadamard().astype(dtype), {}
    tolerance = 1e-9 if dtype == np.float64 else 1e-4
    nobody = np.zeros((1, 8), dtype)
    for rule in RULES:
        S = np.array([by_one(rule, x)[0] for x in X])
        users = lfm_np.Factors(nobody, H).fold_in_users(csr(X), **rule.words)
        items = lfm_np.Factors(H, nobody).fold_in_items(csr(X.T), **rule.words)
        J = sum(by_one(rule, x)[1] for x in X)
        J += sum(8 * rule.strength(int((~np.isnan(x)).sum()), 10) for x in X.T)
        found[f"users_{rule.weighting}"] = near(product(users), S, tolerance)
        found[f"items_{rule.weighting}"] = near(product(items), S.T, tolerance)
        found[f"J_{rule.weighting}"] = abs(lfm_np.objective(csr(X), users, **rule.words) / J - 1) < tolerance
        found[f"kept_{rule.weighting}"] = np.array_equal(users.item_factors, H) and users.item_factors.dtype == dtype
    return wrong(**found)


def _explained() -> list[str]:
    """Every score has one reason: the cell itself. Without it there is none, whatever else is stored."""
    X, H, found = wide_table(), hadamard(), {}
    model = lfm_np.Factors(np.zeros((10, 8)), H)
    for rule in RULES:
        facts = []
        for u in (0, 1, 3, 9):
            s, own = by_one(rule, X[u])[0], np.flatnonzero(~np.isnan(X[u])).tolist()
            for i in range(8):
                why = model.explain(u, i, csr(X), **rule.words)
                share = dict(zip(why.items.tolist(), why.contributions.tolist(), strict=True))
                room = 1e-9 * max(1.0, float(abs(s).max()))
                facts.append(sorted(share) == own and why.baseline == 0.0 and abs(why.score - s[i]) < room)
                facts.append(all(abs(share[j] - (s[i] if j == i else 0.0)) < room for j in own))
                facts.append(bool((np.diff(why.contributions) <= 0).all()))
        found[rule.weighting] = all(facts)
    return wrong(**found)


def _grown() -> list[str]:
    """Ten rows in any order, one of them of somebody who was there; two stay as they were."""
    X, H, found = wide_table(), hadamard(), {}
    where = [5, 3, 0, 4, 11, 7, 8, 9, 10, 6]
    old = np.arange(24.0).reshape(3, 8)
    for rule in RULES:
        grown = lfm_np.Factors(old, H).update(csr(X), users=where, **rule.words)
        S = np.zeros((12, 8))
        S[where] = [by_one(rule, x)[0] for x in X]
        S[1:3] = old[1:] @ H.T
        found[f"scores_{rule.weighting}"] = near(product(grown), S, 1e-9)
        found[f"old_{rule.weighting}"] = np.array_equal(grown.user_factors[1:3], old[1:])
        turned = lfm_np.Factors(H, old).update(csr(X.T), items=where, **rule.words)
        found[f"items_{rule.weighting}"] = near(product(turned), S.T, 1e-9)
    return wrong(**found)


def _rated() -> list[str]:
    """Beside μ and biases of items, a rating counts by what they leave of it, 1/(1 + λᵤ/8) of that."""
    draw, H = np.random.default_rng(12), hadamard()
    X = np.where(draw.random((6, 8)) < 0.5, draw.integers(-4, 5, (6, 8)), np.nan)
    X[2] = np.nan
    d, mu, found = draw.normal(size=8), 1.75, {}
    model = lfm_np.Factors(np.zeros((6, 8)), H, item_bias=d, global_bias=mu)
    for lam, nu in ((3.0, 0.0), (0.6, 1.0), (0.05, 2.0)):
        words = {"weighting": "ratings", "regularization": lam, "regularization_exponent": nu}
        new, S = model.fold_in_users(csr(X), **words), np.zeros((6, 8))
        for u, x in enumerate(X):
            n = int((~np.isnan(x)).sum())
            held = lam * n**nu / 8 if n else 0.0
            S[u] = mu + d + np.where(np.isnan(x), 0.0, x - mu - d) / (1 + held)
        found[f"scores_{nu}"] = all(near(new.scores(u, np.arange(8)), S[u], 1e-11) for u in range(6))
        found[f"biases_{nu}"] = np.array_equal(new.item_bias, d) and new.global_bias == mu and new.user_bias is None
        why = model.explain(4, 2, csr(X), **words)
        found[f"reason_{nu}"] = abs(why.baseline - mu - d[2]) < 1e-12 and abs(why.score - S[4, 2]) < 1e-11
    return wrong(**found)


def _estimator() -> list[str]:
    """Ratings of 2 everywhere: items are all v, and a row of n cells of y gets y·nv²/(nv² + λn^ν) everywhere."""
    from lfm_np.sklearn import ALS, HeldOut

    m, n, share, found = 6, 9, 0.25, {}
    whole = 2 * math.sqrt(m * n)
    for nu in (0.0, 1.0, 2.0):
        lam = share * whole / (m * n) ** (nu / 2)
        model = ALS(
            factors=1, weighting="ratings", regularization=lam, regularization_exponent=nu, iterations=40,
            init=(np.zeros((m, 1)), np.linspace(0.5, 1.5, n)[:, None]), dtype="float64",
        ).fit(np.full((m, n), 2.0))  # fmt: skip
        square = whole * (1 - share) * (n / m) ** (nu / 2) / n
        rows, mine = np.zeros((5, n)), np.zeros((5, n))
        for r in range(1, 5):
            rows[r, r : r + 2 * r - 1] = 3.0 * r
            count = int((rows[r] != 0).sum())
            mine[r] = 3.0 * r * count * square / (count * square + lam * count**nu)
        found[f"rows_{nu}"] = near(model.inverse_transform(model.transform(rows)), mine, 1e-9)
        hidden = np.zeros((7, n))
        hidden[:, 2:7] = 4.0  # two of five are hidden of each, and three are left
        left = 4.0 * lam * 3**nu / (3 * square + lam * 3**nu)
        scorer = HeldOut("neg_root_mean_squared_error", 0.4, random_state=8)
        found[f"hidden_{nu}"] = abs(scorer(model, sp.csr_array(hidden)) + left) < 1e-8
    return wrong(**found)


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    for dtype in (np.float32, np.float64):
        name = np.dtype(dtype).name
        yield _holds(f"lists of all words of eight bits, {name}", lambda d=dtype: _words(d, False))
        yield _holds(f"lists of all words of eight bits with biases, {name}", lambda d=dtype: _words(d, True))
        yield _holds(f"folded in beside what is at right angles, {name}", lambda d=dtype: _folded(d))
    yield _holds("words that are alike", _alike)
    yield _holds("metrics of all orders of five items", _orders)
    yield _holds("metrics where everything ties", _no_order)
    yield _GROUP.either(
        "cells of unknown value are there", _unknown_values, lambda found: found == [], "nan|unknown|finite|value"
    )
    yield _holds("reasons beside items at right angles", _explained)
    yield _holds("grown beside what is at right angles", _grown)
    yield _holds("ratings beside μ and items at right angles", _rated)
    if installed("matplotlib"):
        yield _holds("pictures of all orders, and of a spectrum that halves", _pictures)
    if installed("faiss"):
        yield _holds("indexes that look at everything", _flat)
    if installed("sklearn"):
        yield _holds("an estimator of one value", _estimator)
