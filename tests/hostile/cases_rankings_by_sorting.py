"""Top lists, similar rows, folded-in users, explanations and metrics, beside sorting and sums in float64."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import scipy.sparse as sp

import lfm_np
from lfm_np.evaluation import most_popular

from .case import Case
from .least_squares import BAD, Heading, cells, cost, half, near, penalties, scores, weigh

_of = Heading("rankings by sorting")


def whole(m: int = 12, n: int = 40, k: int = 3, dtype: Any = np.float32, seed: int = 2, **words: Any) -> lfm_np.Factors:
    """Small whole numbers: scores are exact, and many are equal."""
    rng = np.random.default_rng(seed)
    return lfm_np.Factors(*(rng.integers(-2, 3, (rows, k)).astype(dtype) for rows in (m, n)), **words)


def lists(table: np.ndarray, users: Any, N: int, banned: Any = lambda u, i: False) -> tuple[list[Any], list[Any]]:
    """The best of each user, equal scores by falling id last."""
    ids, best = [], []
    for u in users:
        order = sorted((i for i in range(table.shape[1]) if not banned(u, i)), key=lambda i: (-table[u, i], i))[:N]
        ids.append(order + [-1] * (N - len(order)))
        best.append([table[u, i] for i in order] + [-math.inf] * (N - len(order)))
    return ids, best


def same(found: Any, table: np.ndarray, users: Any, N: int, banned: Any = lambda u, i: False) -> bool:
    ids, best = lists(table, users, N, banned)
    return found.ids.tolist() == ids and np.allclose(found.scores, best, rtol=1e-5)


def seen_of(m: int = 12, n: int = 40) -> sp.csr_array:
    rng = np.random.default_rng(8)
    return sp.csr_array(sp.random(m, n, 0.4, format="csr", random_state=rng))


def top() -> Iterator[Case]:
    yield _of.right(
        "many ties, N beyond the items, users twice and in any order",
        lambda f: f.recommend(np.array([3, 3, 11, 0], np.uint8), N=55),
        lambda found, f: same(found, scores(f), [3, 3, 11, 0], 55),
        lambda: {"f": whole()},
    )
    yield _of.right(
        "biases that decide ties",
        lambda f: f.recommend(range(12), N=7, seen=seen_of()),
        lambda found, f: same(found, scores(f), range(12), 7, lambda u, i: bool(seen_of()[u, i])),
        lambda: {
            "f": whole(
                user_bias=np.arange(12) - 5.0, item_bias=np.arange(40) % 3 * 0.5, global_bias=100.0, dtype=np.float64
            )
        },
    )
    yield _of.right(
        "allowed, denied and seen at once, all of them twice",
        lambda f: f.recommend([1, 2], N=6, seen=seen_of(), items=[5, 5, 7, 9, 30, 31], exclude=[7, 7, 0]),
        lambda found, f: same(
            found, scores(f), [1, 2], 6, lambda u, i: bool(seen_of()[u, i]) or i == 7 or i not in (5, 7, 9, 30, 31)
        ),
        lambda: {"f": whole()},
    )
    yield _of.right(
        "everything denied",
        lambda f: f.recommend(4, N=3, exclude=range(40)),
        lambda found, f: found.ids.tolist() == [-1] * 3 and np.isneginf(found.scores).all(),
        lambda: {"f": whole()},
    )
    yield _of.right(
        "nobody asks",
        lambda f: f.recommend(np.array([], int), N=3),
        lambda found, f: found.ids.shape == found.scores.shape == (0, 3),
        lambda: {"f": whole()},
    )
    yield _of.right(
        "seen: a zero is absent, NaN and duplicates are there",
        lambda f, seen: f.recommend([0], N=40, seen=seen),
        lambda found, f, seen: same(found, scores(f), [0], 40, lambda u, i: i in (3, 4)),
        lambda: {
            "f": whole(),
            "seen": sp.csr_array(
                (np.array([0, np.nan, 1, 1]), np.array([2, 3, 4, 4]), np.array([0] + [4] * 12)), (12, 40)
            ),
        },
    )
    yield _of.right(
        "seen of a model of ratings: a zero is a value",
        lambda X: lfm_np.als(X, weighting="ratings", factors=2, regularization=1.0).recommend(0, N=3, seen=X).ids,
        lambda ids, X: sorted(ids.tolist()) == [-1, 0, 2],
        lambda: {"X": sp.csr_array(([0.0, 3.0, 2.0], ([0, 1, 1], [1, 0, 2])))},
    )
    yield _of.right(
        "zeros of either sign are equal",
        lambda f: f.recommend(0, N=4).ids,
        lambda ids, f: ids.tolist() == [0, 1, 2, 3],
        lambda: {"f": lfm_np.Factors(np.ones((1, 1)), np.array([[-0.0], [0.0], [-0.0], [0.0]]))},
    )
    yield _of.right(
        "three thousand items of float32, k = 33, beside float64",
        lambda f: f.recommend(range(40), N=20),
        lambda found, f: all(
            np.allclose(np.sort(scores(f)[u])[::-1][:20], found.scores[u], rtol=1e-4, atol=1e-4)
            and (f.scores(u, found.ids[u]) == found.scores[u]).all()
            for u in range(40)
        ),
        lambda: {"f": uneven(40, 3000, 33)},
    )
    yield _of.right(
        "scores as small as subnormal numbers",
        lambda f: f.recommend(range(5), N=9),
        lambda found, f: all(
            found.ids[u].tolist() == sorted(range(30), key=lambda i, u=u: (-f.scores(u, i), i))[:9] for u in range(5)
        ),
        lambda: {"f": uneven(5, 30, 4, 1e-20)},
    )
    yield _of.refused(
        "scores that leave float32",
        lambda f: f.recommend(0),
        "score|range|overflow",
        make=lambda: {"f": lfm_np.Factors(np.full((2, 4), 1e19, np.float32), np.full((3, 4), 1e19, np.float32))},
    )
    yield _of.right(
        "no factors, biases alone",
        lambda X: most_popular(X).recommend([0, 1], N=4, seen=X),
        lambda found, X: same(
            found, np.tile((X.toarray() != 0).sum(0), (2, 1)).astype(float), [0, 1], 4, lambda u, i: X[u, i] != 0
        ),
        lambda: {"X": seen_of(2, 9)},
    )
    for word, value in {
        "users": [12],
        "N": 0,
        "items": [40],
        "exclude": [-1],
        "seen": seen_of(11, 40),
        "num_threads": 1.5,
    }.items():
        yield _of.refused(
            f"recommend, {word} is wrong",
            lambda f, w=word, v=value: f.recommend(**{"users": [0], w: v}),
            word,
            make=lambda: {"f": whole()},
        )
    yield _of.refused("users as a mask", lambda f: f.recommend(np.ones(12, bool)), "users", make=lambda: {"f": whole()})
    yield _of.refused(
        "lists that no memory holds",
        lambda f: f.recommend([0, 1, 2], N=2_000_000_000),
        "N=2000000000",
        make=lambda: {"f": whole()},
        kind=(*BAD, MemoryError),
    )


def uneven(m: int, n: int, k: int, scale: float = 1.0) -> lfm_np.Factors:
    rng = np.random.default_rng(6)
    U, V = rng.normal(size=(m, k)), rng.normal(size=(n, k)) * rng.pareto(2, (n, 1))
    return lfm_np.Factors(*(np.float32(side * scale) for side in (U, V)))


def cosines(A: np.ndarray) -> np.ndarray:
    with np.errstate(all="ignore"):
        A = np.asarray(A, np.longdouble)
        norms = np.sqrt((A**2).sum(1))
        unit = A / np.where(norms > 0, norms, 1)[:, None]
        return np.asarray(unit @ unit.T, float)


def similar() -> Iterator[Case]:
    for name, scale in (("1e30, whose squares leave float32", 1e30), ("1e-30", 1e-30)):
        yield _of.right(
            f"cosines of rows of {name}",
            lambda f: f.similar_items(range(20), N=20),
            lambda found, f: all(
                np.allclose(cosines(f.item_factors)[i][found.ids[i]], found.scores[i], atol=1e-5)
                and (np.diff(found.scores[i]) <= 0).all()
                for i in range(20)
            ),
            lambda scale=scale: {"f": lfm_np.Factors(np.ones((1, 3), np.float32), np.float32(items(20) * scale))},
        )
    yield _of.right(
        "a row of zeros is like nothing",
        lambda f: f.similar_items(2, N=5),
        lambda found, f: found.scores.tolist() == [0.0] * 5 and found.ids.tolist() == [0, 1, 2, 3, 4],
        lambda: {"f": lfm_np.Factors(np.ones((1, 3)), items(9) * (np.arange(9) != 2)[:, None])},
    )
    yield _of.right(
        "users by inner product, whatever their biases",
        lambda f: f.similar_users([0, 5], N=4, metric="inner"),
        lambda found, f: same(
            found, np.asarray(f.user_factors, float) @ np.asarray(f.user_factors, float).T, [0, 5], 4
        ),
        lambda: {"f": whole(user_bias=np.arange(12) * 10.0, dtype=np.float64)},
    )
    yield _of.refused(
        "metric euclidean", lambda f: f.similar_items(0, metric="euclidean"), "metric", make=lambda: {"f": whole()}
    )
    yield _of.right(
        "vectors for an index keep inner products",
        lambda f: lfm_np.ann.user_vectors(f) @ lfm_np.ann.item_vectors(f).T,
        lambda found, f: (
            near(found, scores(f) - f.user_bias[:, None], 1e-5)
            and np.allclose(np.ptp(np.linalg.norm(lfm_np.ann.item_vectors(f), axis=1)), 0, atol=1e-3)
        ),
        lambda: {"f": whole(user_bias=np.arange(12) * 1.0, item_bias=np.arange(40) * 0.5, dtype=np.float64)},
    )


def items(n: int) -> np.ndarray:
    return np.random.default_rng(4).normal(size=(n, 3))


def new_rows(r: int = 5, n: int = 15) -> sp.csr_array:
    rng = np.random.default_rng(11)
    X = sp.random(r, n, 0.4, format="lil", random_state=rng)
    X.data[:] = [[float(j % 4 + 1) for j, _ in enumerate(row)] for row in X.data]
    X[2:3, :] = 0
    return sp.csr_array(X.astype(np.float64))


def fitted(weighting: str = "hu-koren", dtype: str = "float64", **words: Any) -> lfm_np.Factors:
    X = sp.csr_array(np.random.default_rng(12).integers(0, 4, (20, 15)) * 1.0)
    return lfm_np.als(
        X, factors=4, weighting=weighting, dtype=dtype, random_state=0, regularization=0.3, iterations=3, **words
    )


def folded(f: Any, X: Any, weighting: str, lam: float, nu: float = 0.0, **words: Any) -> np.ndarray:
    with np.errstate(all="ignore"):
        c, p, mask, a0 = weigh(X, weighting, **words)
        return half(c, p, penalties(mask, a0, lam, nu), np.asarray(f.item_factors, float))


def folding() -> Iterator[Case]:
    for weighting, words, dtype, rtol in (
        ("hu-koren", {"alpha": 7.0}, "float64", 1e-9),
        ("ials", {"alpha": 2.0, "unobserved_weight": 0.05}, "float32", 1e-3),
        ("confidence", {"alpha": 2.0, "unobserved_weight": 3.0}, "float64", 1e-9),
        ("ratings", {}, "float64", 1e-9),
    ):
        theirs = {"a0" if key == "unobserved_weight" else key: value for key, value in words.items()}
        yield _of.right(
            f"new users, {weighting}, {dtype}",
            lambda f, X: f.fold_in_users(X).user_factors,
            lambda U, f, X, w=weighting, t=theirs, r=rtol: near(U, folded(f, X, w, 0.3, **t), r),
            lambda w=weighting, d=dtype, words=words: {"f": fitted(w, d, **words), "X": new_rows()},
        )
    yield _of.right(
        "new users of a model with biases",
        lambda f, X: scores(f.fold_in_users(X)),
        lambda found, f, X: near(found, folded_with_bias(f, X), 1e-9),
        lambda: {"f": fitted("ratings", biases=True), "X": new_rows()},
    )
    yield _of.right(
        "new items are new users the other way round",
        lambda f, X: f.fold_in_items(X.T).item_factors,
        lambda V, f, X: near(
            V,
            lfm_np.Factors(f.item_factors, f.user_factors)
            .fold_in_users(X, regularization=0.3, alpha=1.0, regularization_exponent=0.0, weighting="hu-koren")
            .user_factors,
            1e-9,
        ),
        lambda: {"f": fitted(), "X": new_rows(5, 20)},
    )
    yield _of.right(
        "another model's factors, lambda times each row's cells",
        lambda f, X: f.fold_in_users(
            X, weighting="ials", alpha=1.0, regularization=0.1, regularization_exponent=1.0, unobserved_weight=0.0
        ),
        lambda found, f, X: (
            near(found.user_factors[[0, 1, 3, 4]], folded(f, X, "ials", 0.1, 1.0, a0=0.0)[[0, 1, 3, 4]], 1e-9)
            and not found.user_factors[2].any()
        ),
        lambda: {"f": lfm_np.Factors(np.ones((1, 3)), items(15)), "X": new_rows()},
    )
    yield _of.right(
        "update writes its rows only",
        lambda f, X: f.update(X, users=[20, 3, 21, 0, 22]),
        lambda found, f, X: (
            found.shape == (23, 15)
            and (found.user_factors[[1, 2, *range(4, 20)]] == f.user_factors[[1, 2, *range(4, 20)]]).all()
            and near(found.user_factors[[20, 3, 21, 0, 22]], folded(f, X, "hu-koren", 0.3), 1e-9)
        ),
        lambda: {"f": fitted(), "X": new_rows()},
    )
    yield _of.right(
        "an explanation adds up to the score of one who is folded in",
        lambda f, X: f.explain(3, 7, X),
        lambda why, f, X: (
            abs(why.baseline + why.contributions.sum() - why.score) < 1e-9
            and abs(why.score - folded(f, X, "hu-koren", 0.3)[3] @ f.item_factors[7]) < 1e-9
            and sorted(why.items.tolist()) == np.flatnonzero(X.toarray()[3]).tolist()
        ),
        lambda: {"f": fitted(), "X": new_rows(20)},
    )
    yield _of.refused(
        "a gap after the last user", lambda f: f.update(new_rows(1), users=[21]), "users", make=lambda: {"f": fitted()}
    )
    yield _of.refused(
        "a user twice", lambda f: f.update(new_rows(2), users=[1, 1]), "users", make=lambda: {"f": fitted()}
    )
    yield _of.refused(
        "rows of other items", lambda f: f.fold_in_users(new_rows(2, 14)), "x", "15|14", make=lambda: {"f": fitted()}
    )
    yield _of.refused(
        "fold-in with lambda_",
        lambda f: f.fold_in_users(new_rows(), lambda_=1.0),
        "lambda_",
        make=lambda: {"f": fitted()},
    )
    yield _of.refused(
        "folding into sgd without parameters",
        lambda f: f.fold_in_users(new_rows()),
        "regularization|alpha|weighting",
        make=lambda: {"f": lfm_np.sgd(new_rows(), factors=2, epochs=1)},
    )


def folded_with_bias(f: Any, X: Any) -> np.ndarray:
    values, mask = cells(X)
    Y = np.column_stack([f.item_factors, np.ones(15)])
    targets = np.where(mask, values - f.global_bias - f.item_bias, 0)
    U = half(mask.astype(float), targets, penalties(mask, 0.0, 0.3, 0.0), Y)
    return f.global_bias + f.item_bias + U[:, [-1]] + U[:, :-1] @ f.item_factors.T


def metrics_by_hand(table: np.ndarray, train: Any, test: Any, negatives: Any = None) -> dict[str, float]:
    """The definitions, user by user."""
    found: dict[str, list[float]] = {}
    for u in range(len(table)):
        known = set(train[[u]].indices.tolist()) if train is not None else set()
        relevant = set(test[[u]].indices.tolist())
        candidates = [i for i in range(table.shape[1]) if i not in known]
        if negatives is not None:
            candidates = [i for i in candidates if i in relevant or i in set(negatives[u].tolist())]
        relevant &= set(candidates)
        if not relevant:
            continue
        order = sorted(candidates, key=lambda i: (-table[u, i], i))
        r = [order.index(i) + 1 for i in sorted(relevant, key=order.index)]
        t, k = len(r), 4
        h = sum(rank <= k for rank in r)
        dcg = lambda ranks: sum(1 / math.log2(rank + 1) for rank in ranks)  # noqa: E731
        others = [i for i in candidates if i not in relevant]
        values = {
            "recall@4": h / t,
            "capped_recall@4": h / min(k, t),
            "precision@4": h / k,
            "hit_rate@4": float(h > 0),
            "ndcg@4": dcg(r[:h]) / dcg(range(1, min(k, t) + 1)),
            "map@4": sum(j / rank for j, rank in enumerate(r[:h], 1)) / min(k, t),
            "mrr@4": 1 / r[0] if r[0] <= k else 0.0,
            "mrr": 1 / r[0],
            "ndcg": dcg(r) / dcg(range(1, t + 1)),
            "map": sum(j / rank for j, rank in enumerate(r, 1)) / t,
        }
        if others:
            wins = [(table[u, i] > table[u, j]) + 0.5 * (table[u, i] == table[u, j]) for i in relevant for j in others]
            values["auc"] = float(np.mean(wins))
        for name, value in values.items():
            found.setdefault(name, []).append(value)
    means = {name: float(np.mean(values)) for name, values in found.items()}
    errors = {f"{name}_se": float(np.std(v, ddof=1) / math.sqrt(len(v))) for name, v in found.items()}
    return means | errors


def judged() -> Iterator[Case]:
    names = [f"{name}@4" for name in ("recall", "capped_recall", "precision", "hit_rate", "ndcg", "map", "mrr")]
    names += ["mrr", "ndcg", "map", "auc"]

    def make(**words: Any) -> dict[str, Any]:
        test = sp.csr_array(sp.random(12, 40, 0.15, format="csr", random_state=np.random.default_rng(31)))
        return {"f": whole(**words), "train": seen_of(), "test": test}

    agree = lambda found, by_hand: all(abs(found[name] - by_hand[name]) < 1e-9 for name in by_hand)  # noqa: E731
    yield _of.right(
        "every metric, with ties and test items that were seen",
        lambda f, train, test: lfm_np.evaluate(f, train, test, names),
        lambda found, f, train, test: agree(found, metrics_by_hand(scores(f), train, test)),
        make,
    )
    yield _of.right(
        "every metric, with biases and nothing known",
        lambda f, train, test: lfm_np.evaluate(f, None, test, names),
        lambda found, f, train, test: agree(found, metrics_by_hand(scores(f), None, test)),
        lambda: make(item_bias=np.arange(40) % 5 * 0.25, user_bias=np.arange(12) * 1.0, dtype=np.float64),
    )
    drawn = np.random.default_rng(2).integers(-1, 40, (12, 9))
    yield _of.right(
        "every metric among negatives that repeat, were seen, or are -1",
        lambda f, train, test: lfm_np.evaluate(f, train, test, names, negatives=drawn),
        lambda found, f, train, test: agree(found, metrics_by_hand(scores(f), train, test, drawn)),
        make,
    )
    yield _of.right(
        "precision at a thousand million",
        lambda f, train, test: lfm_np.evaluate(f, None, test, ["precision@1000000000", "recall@1000000000"]),
        lambda found, f, train, test: found["recall@1000000000"] == 1.0 and 0 < found["precision@1000000000"] < 1e-7,
        make,
    )
    for name in ("recall@0", "recall@-1", "recall", "NDCG@10", "ndcg@1e1", "ndcg@10 ", "auc@5"):
        yield _of.refused(
            f"metric {name!r}",
            lambda f, train, test, n=name: lfm_np.evaluate(f, train, test, [n]),
            "metric|" + name.lower(),
            make=make,
        )
    yield _of.refused(
        "everything held out was seen",
        lambda f: lfm_np.evaluate(f, seen_of(), seen_of()),
        "test|user",
        make=lambda: {"f": whole()},
    )
    yield _of.right(
        "the objective of any factors, by all cells",
        lambda f, X: lfm_np.objective(
            X,
            f,
            weighting="confidence",
            alpha=2.0,
            unobserved_weight=0.5,
            regularization=0.1,
            regularization_exponent=0.5,
        ),
        lambda J, f, X: abs(J / by_all_cells(f, X) - 1) < 1e-9,
        lambda: {"f": whole(5, 15), "X": new_rows()},
    )


def by_all_cells(f: Any, X: Any) -> float:
    c, p, mask, a0 = weigh(X, "confidence", 2.0, 0.5)
    U, V = (np.asarray(side, float) for side in (f.user_factors, f.item_factors))
    return cost(c, p, penalties(mask, a0, 0.1, 0.5), penalties(mask.T, a0, 0.1, 0.5), U, V)


def cases() -> list[Case]:
    return [*top(), *similar(), *folding(), *judged()]
