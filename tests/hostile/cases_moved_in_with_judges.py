"""Metrics and splits as implicit, lightfm, Spark, NCF and others define them, each written out with loops."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import scipy.sparse as sp
from scipy.stats import rankdata

from .case import Case, Group
from .cases_moved_in_with_fits import F64, NAME, solved
from .sentences_by_numpy import lfm_np, near, ranked, with_gaps
from .working_days import csr, dense, faultless, judged, start, wrong

_holds = faultless(Group(NAME))


def _halves(m: int, n: int, seed: int, tests: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Masks of training and test cells; ``tests`` of each user, or some of every third user none."""
    draw = np.random.default_rng(seed)
    train = draw.random((m, n)) < 0.3
    train[:, :6] = False
    test = (draw.random((m, n)) < 0.25) & ~train
    if tests is None:
        test[::3] = False
    else:
        test[:] = False
        for u in range(m):
            test[u, draw.permutation(np.flatnonzero(~train[u]))[:tests]] = True
    return train, test


def _model(m: int, n: int, seed: int, k: int = 4) -> tuple[Any, np.ndarray]:
    draw = np.random.default_rng(seed)
    U, V = draw.normal(size=(m, k)), draw.normal(size=(n, k))
    return lfm_np.Factors(U, V), U @ V.T


def _sparse(mask: np.ndarray) -> sp.csr_array:
    return sp.csr_array(mask.astype(np.float64))


def cellwise(factors: Any) -> np.ndarray:
    """Scores one by one, so that items of equal factors have equal scores."""
    return np.array([[u @ v for v in factors.item_factors] for u in factors.user_factors])


def _agree(found: dict[str, Any], mine: dict[str, float]) -> list[str]:
    """Means of shares in float64: only their sums round."""
    return wrong(**{name: near(found[name], value, 1e-12) for name, value in mine.items()})


def _implicit(K: int) -> list[str]:
    """ranking_metrics_at_k: "precision" is hits over Σ min(K, t), which with equal t is a mean of capped recalls."""
    (train, test), (model, S) = _halves(20, 30, 0, 3), _model(20, 30, 1)
    hits = div = ap = ndcg = 0.0
    for s, a, b in zip(S, train, test, strict=True):
        likes = set(np.flatnonzero(b).tolist())
        div += min(K, len(likes))
        relevant, mine, gain = 0, 0.0, 0.0
        for place, item in enumerate(ranked(s, np.flatnonzero(~a), K)):
            if item in likes:
                relevant += 1
                mine += relevant / (place + 1)
                gain += 1 / math.log2(place + 2)
        hits, ap = hits + relevant, ap + mine / min(K, len(likes))
        ndcg += gain / sum(1 / math.log2(i + 2) for i in range(min(K, len(likes))))
    names = [f"capped_recall@{K}", f"map@{K}", f"ndcg@{K}"]
    found = lfm_np.evaluate(model, _sparse(train), _sparse(test), names)
    return _agree(found, dict(zip(names, (hits / div, ap / 20, ndcg / 20), strict=True)))


def _lightfm() -> list[str]:
    """Everything from predict_rank, which counts the items that are not of training and score higher."""
    (train, test), (model, S) = _halves(21, 34, 2), _model(21, 34, 3)
    of: dict[str, list[float]] = {"precision@4": [], "recall@4": [], "mrr": [], "auc": []}
    for s, a, b in zip(S, train, test, strict=True):
        if not b.any():
            continue
        ranks = np.sort([int((s[~a] > s[i]).sum()) for i in np.flatnonzero(b)])
        of["precision@4"].append((ranks < 4).sum() / 4)
        of["recall@4"].append((ranks < 4).sum() / b.sum())
        of["mrr"].append(1 / (ranks[0] + 1))
        of["auc"].append(1 - ((ranks - np.arange(len(ranks))) / (34 - b.sum() - a.sum())).mean())
    found = lfm_np.evaluate(model, _sparse(train), _sparse(test), list(of))
    return _agree(found, {name: float(np.mean(v)) for name, v in of.items()} | {"users": float(len(of["mrr"]))})


def _spark(k: int) -> list[str]:
    """RankingMetrics: precisionAt divides by k, also beyond the items there are; meanAveragePrecision by the labels."""
    (train, test), (model, S) = _halves(18, 25, 4), _model(18, 25, 5)
    of: dict[str, list[float]] = {
        name: [] for name in (f"precision@{k}", f"recall@{k}", f"ndcg@{k}", f"map@{k}", "map")
    }
    for s, a, b in zip(S, train, test, strict=True):
        labels = set(np.flatnonzero(b).tolist())
        if not labels:
            continue
        predicted = ranked(s, np.flatnonzero(~a), int((~a).sum()))
        found = [item in labels for item in predicted]
        precisions = [sum(found[: i + 1]) / (i + 1) if hit else 0.0 for i, hit in enumerate(found)]
        best = sum(1 / math.log(i + 2) for i in range(min(len(labels), k)))
        of[f"precision@{k}"].append(sum(found[:k]) / k)
        of[f"recall@{k}"].append(sum(found[:k]) / len(labels))
        of[f"ndcg@{k}"].append(sum(1 / math.log(i + 2) for i, hit in enumerate(found[:k]) if hit) / best)
        of[f"map@{k}"].append(sum(precisions[:k]) / min(len(labels), k))
        of["map"].append(sum(precisions) / len(labels))
    found = lfm_np.evaluate(model, _sparse(train), _sparse(test), list(of))
    return _agree(found, {name: float(np.mean(v)) for name, v in of.items()})


def _rank_sums() -> list[str]:
    """roc_auc_score: Mann and Whitney's U from mean ranks, of whole scores with many ties."""
    draw = np.random.default_rng(6)
    U, V = draw.integers(-1, 2, (30, 3)).astype(float), draw.integers(-1, 2, (40, 3)).astype(float)
    train, test = _halves(30, 40, 7)
    mine = []
    for s, a, b in zip(U @ V.T, train, test, strict=True):
        if b.any():
            ranks, y = rankdata(s[~a]), b[~a]
            t = y.sum()
            mine.append((ranks[y].sum() - t * (t + 1) / 2) / (t * (len(y) - t)))
    found = lfm_np.evaluate(lfm_np.Factors(U, V), _sparse(train), _sparse(test), ["auc"])
    return _agree(found, {"auc": float(np.mean(mine)), "auc_se": float(np.std(mine, ddof=1) / math.sqrt(len(mine)))})


def _ncf() -> list[str]:
    """He et al.: heapq.nlargest of the test item and its negatives, a dict, so that repeated ones count once."""
    draw, (model, S) = np.random.default_rng(8), _model(16, 60, 9)
    train = draw.random((16, 60)) < 0.2
    held = np.array([draw.choice(np.flatnonzero(~row)) for row in train])
    test = np.zeros_like(train)
    test[np.arange(16), held] = True
    negatives = np.array([draw.choice(np.flatnonzero(~(a | b)), 25) for a, b in zip(train, test, strict=True)])
    negatives[::2, :4] = -1
    hr, ndcg = [], []
    for u in range(16):
        scores = {int(i): S[u, i] for i in [*negatives[u][negatives[u] >= 0], held[u]]}
        top = heapq.nlargest(5, scores, key=scores.__getitem__)
        hr.append(float(held[u] in top))
        ndcg.append(math.log(2) / math.log(top.index(held[u]) + 2) if held[u] in top else 0.0)
    found = lfm_np.evaluate(
        model, _sparse(train), _sparse(test), ["hit_rate@5", "ndcg@5", "recall@5"], negatives=negatives
    )
    p = float(np.mean(hr))
    return _agree(
        found,
        {"hit_rate@5": p, "recall@5": p, "ndcg@5": float(np.mean(ndcg)), "hit_rate@5_se": math.sqrt(p * (1 - p) / 15)},
    )


def _sampled_with_several() -> list[str]:
    """Test items are ranked among the negatives and one another; what a user has stored is no negative."""
    draw, (train, test), (model, S) = np.random.default_rng(10), _halves(15, 30, 11, 2), _model(15, 30, 12)
    negatives = draw.integers(-1, 30, (15, 14))
    hidden = np.ones((15, 30), bool)
    for u in range(15):
        hidden[u, negatives[u][negatives[u] >= 0]] = False
    found = lfm_np.evaluate(model, _sparse(train), _sparse(test), ["ndcg@3", "mrr", "auc"], negatives=negatives)
    mine = judged(S, (hidden | train) & ~test, test, 3)
    return _agree(found, {name: mine[name] for name in ("ndcg@3", "mrr", "auc")})


def _all_negatives() -> list[str]:
    """Sampled metrics of every item as a negative are no samples."""
    (train, test), (model, S) = _halves(15, 30, 13), _model(15, 30, 14)
    everything = np.tile(np.random.default_rng(0).permutation(30), (15, 1))
    found = lfm_np.evaluate(model, _sparse(train), _sparse(test), ["ndcg@6", "auc", "mrr"], negatives=everything)
    mine = judged(S, train, test, 6)
    return _agree(found, {name: mine[name] for name in ("ndcg@6", "auc", "mrr")})


def _strong_generalisation() -> list[str]:
    """Liang et al.: users of whom four fifths are folded in; recall over min(R, t), NDCG@100 of 40 items."""
    (rows, test), (U, V) = _halves(12, 40, 15), start(12, 40, 3)
    X = np.where(rows, 1.0, np.nan)
    S = solved(X, V, lambda x: (11.0 * x, 1.0), 1.0, lambda n: 0.5) @ V.T
    new = lfm_np.Factors(U[:1], V).fold_in_users(
        csr(X), weighting="hu-koren", alpha=10.0, regularization=0.5, regularization_exponent=0.0
    )
    of: dict[str, list[float]] = {"capped_recall@3": [], "ndcg@100": []}
    for s, a, b in zip(S, rows, test, strict=True):
        if b.any():
            order = ranked(s, np.flatnonzero(~a), int((~a).sum()))
            of["capped_recall@3"].append(b[order[:3]].sum() / min(3, b.sum()))
            gains = 1 / np.log2(np.arange(2, 102))
            of["ndcg@100"].append((b[order[:100]] * gains[: len(order)]).sum() / gains[: b.sum()].sum())
    found = lfm_np.evaluate(new, csr(X), _sparse(test), list(of))
    return _agree(found, {name: float(np.mean(v)) for name, v in of.items()})


def _events(seed: int, times: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Users of 1 to 9 cells among 12 items, at few different times."""
    draw = np.random.default_rng(seed)
    pairs = [(u, i) for u in range(15) for i in draw.permutation(12)[: u % 9 + 1]]
    users, items = np.array(pairs)[draw.permutation(len(pairs))].T
    return users, items, draw.integers(0, times, len(users))


def _latest(n: int) -> list[str]:
    """Leave the last ones out: of equal times the higher column is the later; one cell stays."""
    users, items, times = _events(1, 4)
    data = lfm_np.Interactions.from_arrays(users, items, timestamps=times)
    train, test = data.split("last", n=n)
    T, A = np.zeros((15, 12), bool), np.zeros((15, 12), bool)
    A[users, items] = True
    for u in range(15):
        own = sorted((int(t), int(i)) for v, i, t in zip(users, items, times, strict=True) if v == u)
        for _, i in own[max(1, len(own) - n) :]:
            T[u, i] = True
    model, S = _model(15, 12, 16)
    found = lfm_np.evaluate(model, train, test, ["hit_rate@3", "mrr@3", "ndcg@3"])
    mine = judged(S, A & ~T, T, 3)
    p, t = mine["hit_rate@3"], mine["users"]
    return wrong(
        test=np.array_equal(~np.isnan(dense(test)), T), train=np.array_equal(~np.isnan(dense(train)), A & ~T)
    ) + _agree(
        found, {name: mine[name] for name in ("hit_rate@3", "mrr@3", "ndcg@3", "users")}
        | {"hit_rate@3_se": math.sqrt(p * (1 - p) / (t - 1))},
    )  # fmt: skip


def _from_a_day_on(at: Any) -> list[str]:
    """A service's view: users without a past have factors of 0, and get the items by their numbers."""
    users, items, hours = _events(2, 96)
    hours[users == 4] += 60
    stamps = np.datetime64("2024-05-01T00:00:00", "s") + hours.astype("timedelta64[h]")
    data = lfm_np.Interactions.from_arrays(users, items, timestamps=stamps)
    train, test = data.split("time", at=at)
    late = np.zeros((15, 12), bool)
    A = late.copy()
    A[users, items], late[users, items] = True, hours >= 48
    fit = lfm_np.als(train, factors=2, regularization=0.3, iterations=3, random_state=0, **F64)
    found = lfm_np.evaluate(fit, train, test, ["ndcg@4", "map@4", "mrr", "auc"])
    mine = judged(cellwise(fit), A & ~late, late, 4)
    return wrong(
        test=np.array_equal(~np.isnan(dense(test)), late),
        some=bool((~(A & ~late).any(1) & late.any(1)).any()),
        zero=not fit.user_factors[~(A & ~late).any(1)].any(),
    ) + _agree(found, {name: mine[name] for name in ("ndcg@4", "map@4", "mrr", "auc", "users")})


def _shares_of_time() -> list[str]:
    """The largest set of latest cells that does not exceed the share: 29 of 100 are 0.29."""
    bad = []
    for cells, share, count in (
        (100, 0.29, 29),
        (100, 0.57, 57),
        (90, 0.7, 63),
        (50, 0.14, 7),
        (10, 0.99, 9),
        (9, 0.1, 0),
    ):
        order = np.random.default_rng(cells).permutation(cells)
        data = lfm_np.Interactions.from_arrays(np.arange(cells) % 7, np.arange(cells), timestamps=order)
        test = data.split("time", test_fraction=share)[1]
        held = np.sort(np.asarray(test.timestamps)).tolist()
        if held != list(range(cells - count, cells)):
            bad.append(f"{len(held)} of {cells} for {share}")
    return bad


def _ties_of_time() -> list[str]:
    """Five cells at 0, three at 1 and two at 2: equal times stay together."""
    data = lfm_np.Interactions.from_arrays([0, 1] * 5, np.arange(10), timestamps=[0] * 5 + [1] * 3 + [2] * 2)
    return [
        f"{share}"
        for share, count in ((0.1, 0), (0.2, 2), (0.45, 2), (0.5, 5), (0.9, 5))
        if data.split("time", test_fraction=share)[1].matrix.nnz != count
    ]


def _shares_of_users() -> list[str]:
    """Of d cells share·d; where that is a whole number, so many; and one stays."""
    bad = []
    for share, sizes, counts in (
        (0.29, (100, 1, 200), (29, 0, 58)),
        (0.14, (50, 100, 150), (7, 14, 21)),
        (0.99, (2, 1, 100), (1, 0, 99)),
        (0.5, (2, 4, 6), (1, 2, 3)),
    ):
        users = np.repeat(np.arange(3), sizes)
        items = np.concatenate([np.arange(d) for d in sizes])
        data = lfm_np.Interactions.from_arrays(users, items)
        for seed in range(20):
            train, test = data.split("random", test_fraction=share, random_state=seed)
            if np.diff(test.matrix.indptr).tolist() != list(counts) or (np.diff(train.matrix.indptr) < 1).any():
                bad.append(f"{share}, seed {seed}: {np.diff(test.matrix.indptr)}")
    return bad


def _zeros_judged(fitted: bool) -> list[str]:
    """A rating of 0 was seen, and is relevant, where the model is known to be one of ratings; else it is absent."""
    R = with_gaps(12) - 3
    later = np.random.default_rng(1).random(R.shape) < 0.3
    train, test = np.where(later, np.nan, R), np.where(later, R, np.nan)
    fit = lfm_np.als(csr(train), factors=2, weighting="ratings", regularization=0.5, random_state=0, **F64)
    model = fit if fitted else lfm_np.Factors(fit.user_factors, fit.item_factors)
    masks = [~np.isnan(Z) if fitted else ~np.isnan(Z) & (Z != 0) for Z in (train, test)]
    found = lfm_np.evaluate(model, csr(train), csr(test), ["ndcg@3", "recall@3", "auc"])
    mine = judged(cellwise(fit), *masks, 3)
    return wrong(zeros=(train == 0).any() and (test == 0).any()) + _agree(
        found, {name: mine[name] for name in ("ndcg@3", "recall@3", "auc", "users")}
    )


def _popular(zeros: str) -> list[str]:
    """The first thing to beat: counts of cells, ties by number."""
    from lfm_np.evaluation import most_popular

    R = with_gaps(13) - 3
    later = np.random.default_rng(2).random(R.shape) < 0.3
    train, test = np.where(later, np.nan, R), np.where(later, R, np.nan)
    masks = [~np.isnan(Z) if zeros == "keep" else ~np.isnan(Z) & (Z != 0) for Z in (train, test)]
    model = most_popular(csr(train), zeros=zeros)
    S = np.tile(masks[0].sum(0).astype(float), (14, 1))
    mine = judged(S, *masks, 3)
    found = lfm_np.evaluate(model, csr(train), csr(test), ["ndcg@3", "mrr", "auc"])
    ids = model.recommend(np.arange(14), N=10, seen=csr(train)).ids
    lists = [ranked(s, np.flatnonzero(~a), 10) for s, a in zip(S, masks[0], strict=True)]
    return wrong(lists=ids.tolist() == lists) + _agree(found, {name: mine[name] for name in ("ndcg@3", "mrr", "auc")})


def _known_already() -> list[str]:
    """Test cells that are training cells too are no candidates; who has no others does not count."""
    (train, test), (model, S) = _halves(15, 20, 17), _model(15, 20, 18)
    test[2], test[5] = train[2], train[5] | test[5]
    found = lfm_np.evaluate(model, _sparse(train), _sparse(test), ["recall@4", "precision@4", "ndcg", "mrr@4"])
    mine, order = judged(S, train, test & ~train, 4), []
    for s, a, b in zip(S, train, test & ~train, strict=True):
        if b.any():
            hits = b[ranked(s, np.flatnonzero(~a), int((~a).sum()))]
            gains = 1 / np.log2(np.arange(2, 2 + len(hits)))
            order.append((hits * gains).sum() / gains[: b.sum()].sum())
    return _agree(
        found,
        {name: mine[name] for name in ("recall@4", "precision@4", "mrr@4", "users")} | {"ndcg": float(np.mean(order))},
    )


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    for K in (2, 5, 50):
        yield _holds(f"implicit: ranking_metrics_at_k, K = {K}", lambda a=K: _implicit(a))
    yield _holds("lightfm: metrics of predict_rank", _lightfm)
    for k in (1, 7, 60):
        yield _holds(f"Spark: RankingMetrics at {k}", lambda a=k: _spark(a))
    yield _holds("scikit-learn: AUC by rank sums of ties", _rank_sums)
    yield _holds("NCF: one among negatives, and its standard error", _ncf)
    yield _holds("NCF: several among negatives of any kind", _sampled_with_several)
    yield _holds("NCF: every item a negative", _all_negatives)
    yield _holds("LensKit: strong generalisation of folded rows", _strong_generalisation)
    for n in (1, 2):
        yield _holds(f"LensKit: the last {n} left out, by few times", lambda a=n: _latest(a))
    for name, at in (("text", "2024-05-03"), ("seconds", np.datetime64("2024-05-03T00:00:00", "s"))):
        yield _holds(f"LensKit: from a day on, as {name}", lambda a=at: _from_a_day_on(a))
    yield _holds("LensKit: shares of time", _shares_of_time)
    yield _holds("LensKit: ties at the cut of time", _ties_of_time)
    yield _holds("lightfm: shares of users", _shares_of_users)
    for fitted, how in ((True, "a fit"), (False, "arrays")):
        yield _holds(f"Surprise: zeros judged by {how}", lambda a=fitted: _zeros_judged(a))
    for zeros in ("drop", "keep"):
        yield _holds(f"implicit: most popular, zeros {zeros}", lambda a=zeros: _popular(a))
    yield _holds("irspack: test cells that were known", _known_already)
