"""Exercises on metrics and lists: every permutation, every set of negatives, ties, cosines that are fractions."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from math import comb
from typing import Any

import numpy as np
import scipy.sparse as sp
import scipy.stats

import lfm_np as library

from .case import Case, Group
from .cases_exercises_in_closed_form import designed, fitted, near, soft
from .working_days import csr, faultless, wrong

lfm_np: Any = library
_GROUP = Group("exercise class")
_holds = faultless(_GROUP)


def by_scores(S: Any, dtype: Any = np.float64) -> Any:
    """A model whose scores are these."""
    S = np.asarray(S, dtype)
    return lfm_np.Factors(np.ascontiguousarray(S), np.eye(S.shape[1], dtype=dtype))


def all_orders(n: int) -> np.ndarray:
    return np.array(list(itertools.permutations(range(n))), float)


def rows_of(m: int, n: int, items: Any) -> Any:
    X = np.zeros((m, n))
    X[:, list(items)] = 1
    return sp.csr_array(X)


def _over_all_orders(n: int, t: int, k: int) -> dict[str, float]:
    """Means over all orders of n candidates, t of them relevant: any t ranks are as likely."""
    top = min(k, n)

    def precisions(depth: int) -> float:
        """Σ over ranks of P(relevant) times the expected precision there."""
        return sum(t / n * (1 + (r - 1) * (t - 1) / max(1, n - 1)) / r for r in range(1, depth + 1))

    def gains(depth: int) -> float:
        return sum(1 / math.log2(r + 1) for r in range(1, depth + 1))

    first = {r: comb(n - r, t - 1) / comb(n, t) for r in range(1, n + 1)}
    hit = 1 - comb(n - t, top) / comb(n, top)
    N = math.factorial(n)
    return {
        f"recall@{k}": top / n,
        f"precision@{k}": top * t / n / k,
        f"capped_recall@{k}": top * t / n / min(k, t),
        f"hit_rate@{k}": hit,
        f"hit_rate@{k}_se": math.sqrt(hit * (1 - hit) / (N - 1)),
        f"ndcg@{k}": t / n * gains(top) / gains(min(k, t)),
        f"map@{k}": precisions(top) / min(k, t),
        f"mrr@{k}": sum(p / r for r, p in first.items() if r <= k),
        "ndcg": t / n * gains(n) / gains(t),
        "map": precisions(n) / t,
        "mrr": sum(p / r for r, p in first.items()),
        "auc": 0.5,
        # Mann and Whitney: the variance of U is t(n - t)(n + 1)/12
        "auc_se": math.sqrt((n + 1) / (12 * t * (n - t)) / (N - 1)),
        "users": N,
    }


def _every_order(n: int, t: int, k: int) -> list[str]:
    S = all_orders(n)
    mine = _over_all_orders(n, t, k)
    names = [name for name in mine if name != "users" and not name.endswith("_se")]
    found = lfm_np.evaluate(by_scores(S), None, rows_of(len(S), n, range(t)), names)
    return wrong(**{name: near(found[name], value, 1e-12) for name, value in mine.items()})


def _beside_what_was_seen() -> list[str]:
    """Two of six items are in everybody's training row, one of them in the test row too: four candidates."""
    S = all_orders(6)
    mine = _over_all_orders(4, 2, 3)
    names = [name for name in mine if name != "users" and not name.endswith("_se")]
    found = lfm_np.evaluate(by_scores(S), rows_of(720, 6, [1, 4]), rows_of(720, 6, [0, 1, 5]), names)
    return wrong(
        **{name: near(found[name], mine[name], 1e-12) for name in names},
        users=found["users"] == 720,
        deviation=near(found["auc_se"], math.sqrt(5 / (12 * 2 * 2) / 719), 1e-12),
    )


def _every_set_of_negatives() -> list[str]:
    """The item of rank 4 of 8 among any three others: of the three above it h come with a hypergeometric chance."""
    S = np.arange(8.0)[::-1]
    sets = list(itertools.combinations([0, 1, 2, 4, 5, 6, 7], 3))
    found = lfm_np.evaluate(
        by_scores(np.tile(S, (len(sets), 1))), None, rows_of(len(sets), 8, [3]), ["hit_rate@2", "mrr", "auc", "ndcg@9"],
        negatives=np.array(sets),
    )  # fmt: skip
    chance = [comb(3, h) * comb(4, 3 - h) / comb(7, 3) for h in range(4)]
    return wrong(
        users=found["users"] == 35,
        hits=near(found["hit_rate@2"], chance[0] + chance[1], 1e-13),
        mrr=near(found["mrr"], sum(p / (h + 1) for h, p in enumerate(chance)), 1e-13),
        ndcg=near(found["ndcg@9"], sum(p / math.log2(h + 2) for h, p in enumerate(chance)), 1e-13),
        auc=near(found["auc"], 1 - 3 / 7, 1e-13),
    )


def _nobody_else() -> list[str]:
    """Whose negatives are all -1 has no other candidate: a recall of 1, and no part in the AUC."""
    found = lfm_np.evaluate(
        by_scores([[1.0, 2, 3], [1, 2, 3], [2, 1, 3]]), None, rows_of(3, 3, [1]), ["recall@1", "auc"],
        negatives=np.array([[-1, -1], [0, 2], [0, 2]]),
    )  # fmt: skip
    return wrong(
        users=found["users"] == 3, recall=near(found["recall@1"], 1 / 3, 1e-14), auc=near(found["auc"], 0.25, 1e-14),
        deviation=near(found["auc_se"], 0.25, 1e-14),
    )  # fmt: skip


def _rank_sums() -> list[str]:
    """AUC = (R - t(t + 1)/2)/(t f) by mid-ranks; scores of the other sign have one minus that, ties and all."""
    draw = np.random.default_rng(1)
    S = draw.integers(0, 4, (30, 17)).astype(float)
    test = draw.random((30, 17)) < 0.3
    test[:, 0], test[:, 1] = True, False
    aucs = []
    for s, relevant in zip(S, test, strict=True):
        t = int(relevant.sum())
        aucs.append((scipy.stats.rankdata(s)[relevant].sum() - t * (t + 1) / 2) / (t * (17 - t)))
    there, back = (lfm_np.evaluate(by_scores(sign * S), None, sp.csr_array(test * 1.0), ["auc"]) for sign in (1, -1))
    deviation = float(np.std(aucs, ddof=1) / math.sqrt(30))
    return wrong(
        auc=near(there["auc"], np.mean(aucs), 1e-13), turned=near(back["auc"], 1 - np.mean(aucs), 1e-13),
        deviations=near([there["auc_se"], back["auc_se"]], [deviation] * 2, 1e-12),
    )  # fmt: skip


def _cold() -> list[str]:
    """A user without cells has the zero vector: all items tie, lower ids first, and every pair counts half."""
    draw = np.random.default_rng(2)
    x = np.where(draw.random((12, 9)) < 0.5, 1.0, 0.0)
    x[4] = 0
    x[:, 0] = np.arange(12) != 4
    fit = lfm_np.als(sp.csr_array(x), factors=3, random_state=0, iterations=3)
    test = np.zeros((12, 9))
    test[4, [2, 6]] = 1
    found = lfm_np.evaluate(fit, sp.csr_array(x), sp.csr_array(test), ["auc", "mrr", "ndcg@5", "map@7", "recall@2"])
    ids, scores = fit.recommend(4, N=11, seen=sp.csr_array(x), exclude=[0])
    return wrong(
        ids=ids.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, -1, -1, -1], scores=not scores[:8].any(),
        auc=found["auc"] == 0.5, mrr=near(found["mrr"], 1 / 3), recall=found["recall@2"] == 0.0,
        ndcg=near(found["ndcg@5"], (1 / 2) / (1 + 1 / math.log2(3))), map=near(found["map@7"], (1 / 3 + 2 / 7) / 2),
    )  # fmt: skip


def _order_of_addition(dtype: str) -> list[str]:
    """u·v + b_i comes first, then μ + b_u: in float32 1 + 2²⁴ is 2²⁴, and 3 + 2²⁴ is 2²⁴ + 4."""
    big = 2.0**24
    model = lfm_np.Factors(
        np.ones((1, 1), dtype), np.array([[0.0], [1.0], [3.0]], dtype), item_bias=np.full(3, big, dtype),
        user_bias=np.zeros(1, dtype), global_bias=-big,
    )  # fmt: skip
    ids, scores = model.recommend(0, N=3)
    mine, order = ([0.0, 0.0, 4.0], [2, 0, 1]) if dtype == "float32" else ([0.0, 1.0, 3.0], [2, 1, 0])
    return wrong(
        scores=model.scores(0, [0, 1, 2]).tolist() == mine, ids=ids.tolist() == order,
        listed=scores.tolist() == [mine[i] for i in order],
    )  # fmt: skip


TRIPLES = np.array([[3.0, 4], [4, 3], [5, 12], [0, 0], [-3, -4], [6, 8], [1, 0]])


def _alike(dtype: str) -> list[str]:
    """Cosines that are fractions: 24/25, 63/65, 3/5; (6, 8) and (3, 4) tie; with a zero vector everything does."""
    model = lfm_np.Factors(np.zeros((1, 2), dtype), TRIPLES.astype(dtype))
    ids, cosines = model.similar_items([0, 4, 3], N=9)
    pad = [-1, -1]
    near_0 = [1, 1, 63 / 65, 24 / 25, 0.6, 0, -1]
    products = model.similar_items(0, N=7, metric="inner")
    found = {int(i): float(s) for i, s in zip(ids[1], cosines[1], strict=True)}
    return wrong(
        ids=ids[0].tolist()[2:] == [2, 1, 6, 3, 4, *pad] and set(ids[0].tolist()[:2]) == {0, 5},
        cosines=near(cosines[0, :7], near_0, 1e-6), rest=bool((cosines[:, 7:] == -np.inf).all()),
        opposite=ids[1].tolist()[:5] == [4, 3, 6, 1, 2] and near([found[0], found[5]], [-1, -1], 1e-6),
        zero=ids[2].tolist() == [0, 1, 2, 3, 4, 5, 6, *pad] and not cosines[2, :7].any(),
        inner=products.ids.tolist() == [2, 5, 0, 1, 6, 3, 4],
        products=products.scores.tolist() == [63, 50, 25, 24, 3, 0, -25],
    )  # fmt: skip


def _as_vectors() -> list[str]:
    """All item vectors have one length M, so that ‖i - u‖² = M² + ‖U_u‖² + 1 - 2 s: the nearest is the best."""
    draw = np.random.default_rng(3)
    U, V, b = draw.normal(size=(6, 3)), draw.normal(size=(11, 3)), draw.normal(size=11)
    model = lfm_np.Factors(U, V, item_bias=b, user_bias=np.arange(6.0), global_bias=2.0)
    from lfm_np import ann

    I, Q = (f(model).astype(np.float64) for f in (ann.item_vectors, ann.user_vectors))
    M2 = ((V**2).sum(1) + b**2).max()
    far = ((I[None] - Q[:, None]) ** 2).sum(2)
    mine = M2 + (U**2).sum(1)[:, None] + 1 - 2 * (U @ V.T + b)
    # float32 coordinates: √(M² - …) near 0 is known to √eps only, its square to eps
    return wrong(
        lengths=near((I**2).sum(1), np.full(11, M2), 1e-5), distances=near(far, mine, 1e-5),
        same_order=np.array_equal(np.argsort(far, axis=1)[:, :3], model.recommend(np.arange(6), N=3).ids),
    )  # fmt: skip


def _many_ties(k: int) -> list[str]:
    """130 items with scores of 0 to 3: lists of k, which a search finds, and whole rankings, which are counted."""
    draw = np.random.default_rng(7)
    S = draw.integers(0, 4, (12, 130)).astype(np.float32)
    test = draw.random((12, 130)) < 0.2
    values: dict[str, list[float]] = {}
    for s, relevant in zip(S, test, strict=True):
        order = np.lexsort((np.arange(130), -s))
        ranks = [int(r) for r in np.flatnonzero(relevant[order]) + 1]
        for name, top, depth in ((f"ndcg@{k}", [r for r in ranks if r <= k], k), ("ndcg", ranks, 130)):
            ideal = sum(1 / math.log2(j + 1) for j in range(1, min(depth, len(ranks)) + 1))
            values.setdefault(name, []).append(sum(1 / math.log2(r + 1) for r in top) / ideal)
            precision = sum(j / r for j, r in enumerate(top, 1)) / min(depth, len(ranks))
            values.setdefault(name.replace("ndcg", "map"), []).append(precision)
        values.setdefault("mrr", []).append(1 / ranks[0])
        values.setdefault(f"recall@{k}", []).append(sum(r <= k for r in ranks) / len(ranks))
    model = by_scores(S, np.float32)
    found = lfm_np.evaluate(model, None, sp.csr_array(test * 1.0), list(values))
    return wrong(**{name: near(found[name], np.mean(v), 1e-12) for name, v in values.items()})


def _without_factors() -> list[str]:
    """The most popular items have no factors: all cosines are those of zero vectors, and lists are by counts."""
    from lfm_np.evaluation import most_popular

    X = sp.csr_array(np.array([[1.0, 0, 1, 1, 0], [0, 0, 1, 1, 0], [0, 0, 1, 0, 1]]))
    model = most_popular(X)
    ids, cosines = model.similar_items([3, 0], N=6)
    listed = model.recommend([0, 1, 2], N=4, seen=X)
    return wrong(
        alike=ids.tolist() == [[0, 1, 2, 3, 4, -1]] * 2 and not cosines[:, :5].any(),
        lists=listed.ids.tolist() == [[4, 1, -1, -1], [0, 4, 1, -1], [3, 0, 1, -1]],
        counts=listed.scores[1, :3].tolist() == [1, 1, 0],
    )


def _of_singular_vectors() -> list[str]:
    """V = R√(σ - λ), U = L√(σ - λ): rating j adds x_j Σ R_jl R_il (1 - λ/σ_l) to the score of item i."""
    X = designed(9, 7, np.array([12.0, 7.0, 4.0, 1.0]))
    fit = fitted(csr(X), factors=3, weighting="ratings", regularization=2.0)
    left, values, right = np.linalg.svd(X, full_matrices=False)
    half, R, L = np.sqrt(values[:3] - 2), right[:3].T, left[:, :3]
    why = fit.explain(4, 2, csr(X))
    share = dict(zip(why.items.tolist(), why.contributions.tolist(), strict=True))
    facts = {"explained": near([share[j] for j in range(7)], X[4] * ((R * (1 - 2 / values[:3])) @ R[2]))}
    facts["score"] = near(why.score, soft(X, 2.0, 3)[0][4, 2])
    for name, F, found in (("items", R, fit.similar_items), ("users", L, fit.similar_users)):
        F = F * half
        cosines = F @ F.T / np.outer(np.linalg.norm(F, axis=1), np.linalg.norm(F, axis=1))
        ids, scores = found(np.arange(len(F)), N=4)
        facts[name] = near(scores, -np.sort(-cosines, axis=1)[:, :4])
        facts[f"order of {name}"] = np.array_equal(ids[:, 1:], np.argsort(-cosines, axis=1)[:, 1:4])
    return wrong(**facts)


def _cliques_are_found() -> list[str]:
    """Whoever is in a clique has its items first, and items are alike within it only."""
    X = np.zeros((12, 9))
    X[:5, :3], X[5:8, 3:7], X[8:, 7:] = 2, 1, 5
    fit = fitted(sp.csr_array(X), factors=3, alpha=1.5, unobserved_weight=0.3, regularization=3.0)
    names = ["auc", "map", "ndcg", "mrr", "recall@4", "precision@2", "capped_recall@1"]
    found = lfm_np.evaluate(fit, None, sp.csr_array(X), names)
    ids, cosines = fit.similar_items(np.arange(9), N=9)
    block = [set(range(3))] * 3 + [set(range(3, 7))] * 4 + [{7, 8}] * 2
    return wrong(
        ones=all(near(found[name], 1.0, 1e-14) for name in names), certain=found["auc_se"] == 0.0,
        alike=all(set(row[: len(b)].tolist()) == b for row, b in zip(ids, block, strict=True)),
        cosines=all(
            near(row, [1.0] * len(b) + [0.0] * (9 - len(b))) for row, b in zip(cosines, block, strict=True)
        ),
    )  # fmt: skip


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    for n, t, k in ((5, 2, 3), (5, 1, 4), (5, 3, 2), (6, 4, 6), (4, 2, 9)):
        yield _holds(
            f"all orders of {n} items, {t} relevant, lists of {k}", lambda a=n, b=t, c=k: _every_order(a, b, c)
        )
    yield _holds("all orders, some items seen, one of them in the test row", _beside_what_was_seen)
    yield _holds("all sets of three negatives", _every_set_of_negatives)
    yield _holds("negatives of -1 only", _nobody_else)
    yield _holds("AUC by mid-ranks, and of the other sign", _rank_sums)
    yield _holds("a cold user", _cold)
    for dtype in ("float32", "float64"):
        yield _holds(f"biases are added in the documented order, {dtype}", lambda d=dtype: _order_of_addition(d))
        yield _holds(f"cosines of Pythagorean triples, {dtype}", lambda d=dtype: _alike(d))
    yield _holds("the nearest vector is the best item", _as_vectors)
    for k in (1, 64, 65, 129, 130, 131):
        yield _holds(f"130 items that tie, lists of {k}", lambda k=k: _many_ties(k))
    yield _holds("a model without factors", _without_factors)
    yield _holds("explained and alike by singular vectors", _of_singular_vectors)
    yield _holds("cliques are found", _cliques_are_found)
