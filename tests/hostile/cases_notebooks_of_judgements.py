"""Small analyses of quality: every metric of `evaluate` for models, catalogues and masks of several kinds, by loops."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import scipy.sparse as sp

import lfm_np as library
from lfm_np.evaluation import most_popular as _most_popular

from .case import Case, Group
from .working_days import all_scores, close, csr, faultless, folder, raised, stars, tells, wrong

lfm_np: Any = library
most_popular: Any = _most_popular
_GROUP = Group("analysts' judgements")
_holds = faultless(_GROUP)
KINDS = ("recall", "capped_recall", "precision", "hit_rate", "ndcg", "map", "mrr")
WHOLE = ("ndcg", "map", "mrr", "auc")


def names(*cutoffs: int) -> list[str]:
    return [f"{kind}@{k}" for kind in KINDS for k in cutoffs] + list(WHOLE)


def of_user(s: np.ndarray, relevant: set[int], pool: set[int], cutoffs: tuple[int, ...]) -> dict[str, float]:
    """All metrics of one user, as the table of `evaluate` has them."""
    order = sorted(pool, key=lambda i: (-s[i], i))
    ranks = [order.index(i) + 1 for i in sorted(relevant, key=order.index)]
    t = len(ranks)
    found: dict[str, float] = {}
    for k in (*cutoffs, len(order)):
        h = [r for r in ranks if r <= k]
        some = {
            "recall": len(h) / t,
            "capped_recall": len(h) / min(k, t),
            "precision": len(h) / k,
            "hit_rate": float(len(h) > 0),
            "ndcg": sum(1 / math.log2(r + 1) for r in h) / sum(1 / math.log2(j + 1) for j in range(1, min(k, t) + 1)),
            "map": sum(j / r for j, r in enumerate(h, 1)) / min(k, t),
            "mrr": 1 / ranks[0] if ranks[0] <= k else 0.0,
        }
        if k in cutoffs:
            found |= {f"{name}@{k}": value for name, value in some.items()}
    found |= {name: some[name] for name in ("ndcg", "map", "mrr")}
    others = pool - relevant
    if others:
        pairs = [float(s[i] > s[j]) + 0.5 * float(s[i] == s[j]) for i in relevant for j in others]
        found["auc"] = sum(pairs) / len(pairs)
    return found


def of_all(S: np.ndarray, train: np.ndarray, test: np.ndarray, *cutoffs: int, drawn: Any = None) -> dict[str, float]:
    """Means and standard errors; ``train`` and ``test`` are masks, ``drawn`` the items beside which to rank."""
    values: dict[str, list[float]] = {}
    users = 0
    for u in range(len(S)):
        relevant = set(np.flatnonzero(test[u] & ~train[u]).tolist())
        if not relevant:
            continue
        users += 1
        if drawn is None:
            pool = set(np.flatnonzero(~train[u]).tolist())
        else:
            free = set(np.flatnonzero(~train[u] & ~test[u]).tolist())
            pool = relevant | (set(drawn[u].tolist()) & free)
        for name, value in of_user(S[u], relevant, pool, cutoffs).items():
            values.setdefault(name, []).append(value)
    out: dict[str, float] = {"users": users}
    for name, several in values.items():
        mean = math.fsum(several) / len(several)
        out[name] = mean
        spread = math.fsum((v - mean) ** 2 for v in several)
        out[name + "_se"] = math.sqrt(spread / (len(several) - 1) / len(several)) if len(several) > 1 else math.nan
    return out


def agree(found: Any, mine: dict[str, float], tolerance: float = 1e-12) -> bool:
    """The same names, and numbers within the tolerance; NaN where NaN is."""
    return set(found) == set(mine) and all(
        (found[n] != found[n]) if mine[n] != mine[n] else abs(found[n] - mine[n]) <= tolerance for n in mine
    )


def masks(m: int, n: int, seed: int, share: float = 0.25) -> tuple[np.ndarray, np.ndarray]:
    """Training and test cells that overlap in places; every fourth user has no test cell."""
    draw = np.random.default_rng(seed)
    train, test = draw.random((m, n)) < share, draw.random((m, n)) < share
    test[::4] = False
    return train, test


def cells(mask: np.ndarray, least: float = 0.25) -> sp.csr_array:
    """Several values where the mask is."""
    draw = np.random.default_rng(0)
    return sp.csr_array(np.where(mask, draw.choice([least, 0.5, 7.0], mask.shape), 0.0))


def drawn_model(m: int, n: int, k: int = 4, seed: int = 0, **biases: bool) -> Any:
    draw = np.random.default_rng(seed)
    U, V = draw.normal(size=(m, k)), draw.normal(size=(n, k))
    b, d = draw.normal(size=m), draw.normal(size=n)
    words: dict[str, Any] = {"user_bias": b, "item_bias": d, "global_bias": 0.75} if biases.get("biases") else {}
    return lfm_np.Factors(U, V, **words)


def _beyond_the_catalogue() -> list[str]:
    train, test = masks(21, 11, 1)
    model = drawn_model(21, 11, biases=True)
    cutoffs = (1, 2, 10, 11, 12, 500)
    found = lfm_np.evaluate(model, cells(train, -2.0), cells(test, -2.0), names(*cutoffs))
    return wrong(all=agree(found, of_all(all_scores(model), train, test, *cutoffs)), users=found["users"] < 16)


def _ties() -> list[str]:
    """Scores are small whole numbers in any precision: many are equal."""
    draw = np.random.default_rng(2)
    train, test = masks(30, 40, 3)
    facts: dict[str, Any] = {}
    for dtype in (np.float32, np.float64):
        U, V = draw.integers(-1, 2, (30, 2)).astype(dtype), draw.integers(-1, 2, (40, 2)).astype(dtype)
        model = lfm_np.Factors(U, V, item_bias=draw.integers(0, 2, 40).astype(dtype))
        found = lfm_np.evaluate(model, cells(train), cells(test), names(1, 7, 39))
        facts[np.dtype(dtype).name] = agree(found, of_all(all_scores(model), train, test, 1, 7, 39))
    return wrong(**facts)


def _all_equal() -> list[str]:
    """A model that says nothing ranks by number; its AUC is a half, exactly."""
    train, test = masks(16, 9, 4)
    model = lfm_np.Factors(np.zeros((16, 3), np.float32), np.ones((9, 3), np.float32))
    found = lfm_np.evaluate(model, cells(train), cells(test), names(3))
    return wrong(
        all=agree(found, of_all(np.zeros((16, 9)), train, test, 3)), half=found["auc"] == 0.5, se=found["auc_se"] == 0.0
    )


def _no_training() -> list[str]:
    _, test = masks(13, 8, 5)
    model = drawn_model(13, 8)
    none = np.zeros((13, 8), bool)
    mine = of_all(all_scores(model), none, test, 2)
    facts = {
        "None": agree(lfm_np.evaluate(model, None, cells(test), names(2)), mine),
        "empty": agree(lfm_np.evaluate(model, sp.csr_array((13, 8)), cells(test), names(2)), mine),
    }
    return wrong(**facts)


def _drawn_negatives() -> list[str]:
    """Some are repeated, some -1, some in the user's own rows."""
    train, test = masks(20, 15, 6)
    model = drawn_model(20, 15, seed=7)
    draw = np.random.default_rng(8)
    drawn = draw.integers(-1, 15, (20, 9))
    drawn[1], drawn[2] = -1, 3
    mine = of_all(all_scores(model), train, test, 1, 4, 20, drawn=drawn)
    facts: dict[str, Any] = {}
    for dtype in (np.int64, np.int8):
        found = lfm_np.evaluate(model, cells(train), cells(test), names(1, 4, 20), negatives=drawn.astype(dtype))
        facts[np.dtype(dtype).name] = agree(found, mine)
    return wrong(**facts)


def _one_negative_each() -> list[str]:
    """A test item among one negative: AUC is how often it is above, MRR a half more or less."""
    m, n = 50, 6
    draw = np.random.default_rng(9)
    U, V = draw.integers(-2, 3, (m, 2)).astype(float), draw.integers(-2, 3, (n, 2)).astype(float)
    held = draw.integers(0, n, m)
    other = (held + draw.integers(1, n, m)) % n
    test = sp.csr_array((np.ones(m), (np.arange(m), held)), shape=(m, n))
    gaps = ((V[held] - V[other]) * U).sum(1)
    first = (gaps > 0) | ((gaps == 0) & (held < other))
    found = lfm_np.evaluate(
        lfm_np.Factors(U, V), None, test, ["auc", "mrr", "hit_rate@1", "ndcg@1", "recall@2"], negatives=other[:, None]
    )
    return wrong(
        auc=abs(found["auc"] - ((gaps > 0) + 0.5 * (gaps == 0)).mean()) < 1e-12,
        mrr=abs(found["mrr"] - np.where(first, 1.0, 0.5).mean()) < 1e-12,
        hit=abs(found["hit_rate@1"] - first.mean()) < 1e-12,
        ndcg=abs(found["ndcg@1"] - first.mean()) < 1e-12,
        recall=found["recall@2"] == 1.0 and found["recall@2_se"] == 0.0,
        ties=bool((gaps == 0).any()),
    )


def _no_other_candidates() -> list[str]:
    """User 0 has all items in one part or the other, user 1 has not, user 2 is not judged."""
    train = np.array([[1, 0, 0, 1], [1, 0, 0, 0], [0, 1, 1, 0]], bool)
    test = np.array([[0, 1, 1, 0], [0, 0, 0, 1], [0, 1, 0, 0]], bool)
    model = drawn_model(3, 4, 2, 10)
    found = lfm_np.evaluate(model, cells(train), cells(test), names(1, 3))
    mine = of_all(all_scores(model), train, test, 1, 3)
    alone = lfm_np.evaluate(model, cells(train), cells(test & (np.arange(3) == 1)[:, None]), ["auc", "map"])
    return wrong(
        all=agree(found, mine),
        two=found["users"] == 2 and math.isnan(found["auc_se"]),
        alone=alone["users"] == 1 and math.isnan(alone["map_se"]) and alone["auc"] == found["auc"],
    )


def _nobody() -> list[str]:
    train = np.array([[1, 0], [1, 1]], bool)
    error = raised(lambda: lfm_np.evaluate(drawn_model(2, 2), cells(train), cells(train), ["mrr"]))
    return wrong(said=isinstance(error, ValueError) and tells(error, "test"))


def _popular() -> list[str]:
    """Counts of cells, whatever their values, rank alike for all, and ties go to the lower item."""
    train, test = masks(60, 14, 11)
    model = most_popular(cells(train))
    counts = train.sum(0)
    S = np.tile(counts.astype(float), (60, 1))
    order = sorted(range(14), key=lambda i: (-counts[i], i))
    listed = model.recommend(np.arange(60), N=14, seen=cells(train)).ids
    mine = [[i for i in order if not train[u, i]] for u in range(60)]
    return wrong(
        scores=model.scores(3, np.arange(14)).tolist() == counts.tolist(),
        k=model.user_factors.shape == (60, 0) and model.item_factors.shape == (14, 0),
        metrics=agree(lfm_np.evaluate(model, cells(train), cells(test), names(1, 5)), of_all(S, train, test, 1, 5)),
        lists=[[i for i in row if i >= 0] for row in listed.tolist()] == mine,
        ties=len(set(counts.tolist())) < 14,
    )


def _zeros() -> tuple[sp.csr_array, np.ndarray, np.ndarray]:
    """Ratings with zeros among them: the matrix, the mask of all cells, that of cells that are not zero."""
    X = np.where(np.isnan(stars(24, 12, 12)), np.nan, np.random.default_rng(13).integers(-2, 3, (24, 12)))
    return csr(X), ~np.isnan(X), ~np.isnan(X) & (X != 0)


def _zeros_of_ratings() -> list[str]:
    """A zero is a rating to a model of ratings, and to the popularity beside it that is told so; nothing to others."""
    X, stored, nonzero = _zeros()
    draw = np.random.default_rng(14)
    held = stored & (draw.random(stored.shape) < 0.4)
    coo = sp.coo_array(X)
    rows, columns = coo.coords
    hide = held[rows, columns]
    train, test = (sp.csr_array((coo.data[w], (rows[w], columns[w])), shape=X.shape) for w in (~hide, hide))
    known, words = stored & ~held, {"factors": 3, "dtype": "float64", "random_state": 0}
    rated = lfm_np.als(train, weighting="ratings", regularization=0.5, iterations=2, biases=True, **words)
    stepped = lfm_np.sgd(train, lfm_np.losses.Squared(), sampler=None, epochs=2, **words)
    popular, plain = most_popular(train, zeros="keep"), most_popular(train)
    drawn = drawn_model(24, 12, seed=15)
    facts: dict[str, Any] = {}
    for name, model, zeros in (
        ("als", rated, True),
        ("sgd", stepped, True),
        ("popular, keep", popular, True),
        ("popular, drop", plain, False),
        ("from elsewhere", drawn, False),
    ):
        a, b = (known, held) if zeros else (known & nonzero, held & nonzero)
        found = lfm_np.evaluate(model, train, test, names(2, 5))
        facts[name] = agree(found, of_all(all_scores(model), a, b, 2, 5))
        ids = model.recommend(np.arange(24), N=12, seen=train).ids
        facts[f"seen by {name}"] = all(
            set(ids[u].tolist()) - {-1} == set(np.flatnonzero(~a[u]).tolist()) for u in range(24)
        )
    return wrong(
        counts=popular.item_bias.tolist() == known.sum(0).tolist(),
        fewer=plain.item_bias.tolist() == (known & nonzero).sum(0).tolist(),
        **facts,
    )


def _comparison() -> list[str]:
    """Three fitted models and the charts, judged by the same loops."""
    pairs = lfm_np.datasets.make_interactions(90, 30, 8, random_state=16)
    data = lfm_np.Interactions.from_arrays([f"u{a:03}" for a in pairs[:, 0]], pairs[:, 1])
    train, test = data.split("random", test_fraction=0.4, random_state=17)
    a, b = (np.asarray(part.matrix.toarray() > 0) for part in (train, test))
    words = {"factors": 5, "dtype": "float64", "random_state": 18}
    models = {
        "als": lfm_np.als(train, alpha=20.0, regularization=3.0, iterations=3, **words),
        "bpr": lfm_np.sgd(train, epochs=4, biases="item", **words),
        "logistic": lfm_np.sgd(train, lfm_np.losses.Logistic(), negatives=3, biases=True, epochs=3, **words),
        "popular": most_popular(train),
    }
    facts: dict[str, Any] = {}
    for name, model in models.items():
        mine = of_all(all_scores(model), a, b, 1, 5, 20)
        facts[name] = agree(lfm_np.evaluate(model, train, test, names(1, 5, 20), num_threads=2), mine)
    return wrong(**facts)


def _watched() -> list[str]:
    """What a callback measured after each sweep is what the history says, and the last what the result has."""
    pairs = lfm_np.datasets.make_interactions(70, 25, 6, random_state=19)
    data = lfm_np.Interactions.from_arrays(pairs[:, 0], pairs[:, 1])
    train, test = data.split("random", test_fraction=0.4, random_state=20)
    a, b = (np.asarray(part.matrix.toarray() > 0) for part in (train, test))
    mine: list[float] = []

    def measure(record: dict[str, Any], factors: Any) -> None:
        record["map"] = lfm_np.evaluate(factors, train, test, ["map"])["map"]
        mine.append(of_all(all_scores(factors), a, b)["map"])
        if len(mine) == 3:
            raise StopIteration

    fit = lfm_np.als(train, factors=4, iterations=9, dtype="float64", random_state=0, callback=measure)
    found = [record["map"] for record in fit.history]
    return wrong(
        history=len(found) == 3 and close(found, mine, 1e-12),
        last=abs(of_all(all_scores(fit), a, b)["map"] - mine[-1]) < 1e-12,
        stopped=fit.status is lfm_np.Status.STOPPED,
    )


def _from_a_file() -> list[str]:
    """float32 factors mapped from a file are judged as their numbers in memory are."""
    train, test = masks(33, 257, 21, 0.1)
    draw = np.random.default_rng(22)
    U, V = (draw.integers(-64, 65, shape) / 16 for shape in ((33, 3), (257, 3)))
    model = lfm_np.Factors(U.astype(np.float32), V.astype(np.float32))
    with folder() as place:
        model.save(place / "m")
        mapped = lfm_np.Factors.load(place / "m", mmap=True)
        found = lfm_np.evaluate(mapped, cells(train), cells(test), names(1, 100, 256, 257))
        del mapped
    return wrong(all=agree(found, of_all(U @ V.T, train, test, 1, 100, 256, 257)))


def _by_ids() -> list[str]:
    """The same ids in another order are other rows: an error, not other numbers."""
    users, items = np.array(["a", "b", "c"]), np.array([1, 2, 3])
    X = sp.csr_array([[1.0, 0, 0], [0, 1, 0], [1, 0, 0]])
    Y = sp.csr_array([[0, 1.0, 0], [1, 0, 0], [0, 0, 0]])
    train, test = lfm_np.Interactions(X, users, items), lfm_np.Interactions(Y, users, items)
    model = drawn_model(3, 3)
    mine = of_all(all_scores(model), X.toarray() > 0, Y.toarray() > 0, 1)
    facts: dict[str, Any] = {"right": agree(lfm_np.evaluate(model, train, test, names(1)), mine)}
    for name, other in (
        ("users", lfm_np.Interactions(Y, users[[1, 0, 2]], items)),
        ("items", lfm_np.Interactions(Y, users, items[::-1])),
    ):
        error = raised(partial(lfm_np.evaluate, model, train, other, names(1)))
        facts[name] = isinstance(error, ValueError) and tells(error, "id|" + name)
    return wrong(mixed=agree(lfm_np.evaluate(model, X, test, names(1)), mine), **facts)


def _objectives() -> list[str]:
    """J of factors that nobody fitted, cell by cell, for what was asked in the call."""
    X = stars(9, 7, 23)
    has = ~np.isnan(X)
    draw = np.random.default_rng(24)
    U, V = draw.normal(size=(9, 3)), draw.normal(size=(7, 3))
    b, d = draw.normal(size=9), draw.normal(size=7)
    S = U @ V.T
    x = np.where(has, X, 0.0)
    facts: dict[str, Any] = {}
    for lam, alpha, a0, nu in ((0.3, 2.0, 0.25, 0.5), (0.0, 1.0, 0.0, 1.0), (5.0, 0.5, 3.0, 0.0)):
        held = [
            lam * float((((side.sum(1) + a0 * side.shape[1]) ** nu) * (F**2).sum(1)).sum())
            for side, F in ((has, U), (has.T, V))
        ]
        for weighting in ("hu-koren", "ials", "confidence"):
            stored = {"hu-koren": 1 + alpha * x, "ials": a0 + alpha * x, "confidence": alpha * x}
            c = np.where(has, stored[weighting], a0)
            p = np.where(has, alpha * x / np.where(has, a0 + alpha * x, 1.0) if weighting == "ials" else 1.0, 0.0)
            found = lfm_np.objective(
                csr(X), lfm_np.Factors(U, V), weighting=weighting, regularization=lam, alpha=alpha,
                unobserved_weight=a0, regularization_exponent=nu,
            )  # fmt: skip
            facts[f"{weighting} {lam}"] = close(found, float((c * (p - S) ** 2).sum()) + sum(held), 1e-11)
    rated = lfm_np.Factors(U, V, user_bias=b, item_bias=d, global_bias=3.0)
    found = lfm_np.objective(csr(X), rated, weighting="ratings", regularization=0.7, regularization_exponent=1.0)
    mine = (has * (x - S - 3.0 - b[:, None] - d) ** 2).sum()
    mine += 0.7 * ((has.sum(1) * ((U**2).sum(1) + b**2)).sum() + (has.sum(0) * ((V**2).sum(1) + d**2)).sum())
    return wrong(ratings=close(found, float(mine), 1e-11), **facts)


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    yield _holds("every metric, with cutoffs beyond the catalogue and biases", _beyond_the_catalogue)
    yield _holds("every metric, where most scores are equal", _ties)
    yield _holds("a model that says nothing", _all_equal)
    yield _holds("nothing known before", _no_training)
    yield _holds("every metric among drawn negatives, some of which are none", _drawn_negatives)
    yield _holds("one negative each, in closed form", _one_negative_each)
    yield _holds("users with nothing to be ranked against", _no_other_candidates)
    yield _holds("test cells that were all known", _nobody)
    yield _holds("the charts, by counting", _popular)
    yield _holds("zeros among ratings, judged and recommended by five models", _zeros_of_ratings)
    yield _holds("four models on one split of ids", _comparison)
    yield _holds("a metric watched over the sweeps", _watched)
    yield _holds("a mapped model of 257 items", _from_a_file)
    yield _holds("ids in another order", _by_ids)
    yield _holds("objectives of given factors", _objectives)
