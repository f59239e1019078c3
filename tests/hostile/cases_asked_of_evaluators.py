"""What users of the evaluations and splits of implicit, lightfm, RecBole, RecTools, recommenders and Cornac asked."""

from __future__ import annotations

import datetime
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import scipy.sparse as sp

import lfm_np
from lfm_np.evaluation import most_popular

from .brute import scores as products
from .case import Case, Group
from .reference import best, evaluated, metric, near, table, tastes

_group = Group("asked of evaluators")
_right, _refused, _either = _group.right, _group.refused, _group.either

KINDS = ("recall", "capped_recall", "precision", "hit_rate", "ndcg", "map", "mrr")


def _true(name: str, check: Callable[[], Any]) -> Case:
    return _right(name, check, bool)


def drawn(seed: int = 0, m: int = 30, n: int = 20) -> lfm_np.Factors:
    rng = np.random.default_rng(seed)
    return lfm_np.Factors(rng.normal(size=(m, 3)), rng.normal(size=(n, 3)))


def halves(seed: int = 0) -> tuple[sp.csr_array, sp.csr_array]:
    """Two parts of one matrix; some users have no cell in the second."""
    x = tastes(seed=seed).toarray()
    second = np.random.default_rng(seed).random(x.shape) < 0.4
    second[::7] = False
    return sp.csr_array(np.where(second, 0, x)), sp.csr_array(np.where(second, x, 0))


def agrees(factors: Any, train: Any, test: Any, names: list[str]) -> bool:
    found = lfm_np.evaluate(factors, train, test, names, num_threads=1)
    expected = evaluated(products(factors), train, test, names)
    return all(near(found[name], value, 1e-10) for name, value in expected.items())


def metrics() -> Iterator[Case]:
    train, test = halves()
    f = drawn()
    for kind in KINDS:
        # precision that is recall, an IDCG of too many items, MAP by another number than the paper's
        yield _true(
            f"implicit: {kind} at lengths below and above what users have",
            lambda kind=kind: agrees(f, train, test, [f"{kind}@{k}" for k in (1, 2, 5, 10, 20)]),
        )
    yield _true("recommenders: whole rankings", lambda: agrees(f, train, test, ["ndcg", "map", "mrr", "auc"]))
    yield _right(
        "implicit: K beyond the number of items",
        lambda: lfm_np.evaluate(f, train, test, ["recall@1000", "precision@1000", "ndcg@1000", "ndcg"]),
        lambda r: (
            r["recall@1000"] == 1
            and near(r["precision@1000"], test.nnz / r["users"] / 1000, 1e-12)
            and near(r["ndcg@1000"], r["ndcg"], 1e-12)
        ),
    )
    # lightfm: an error for data that is in both parts, or numbers that are too good
    both = train + test
    yield _true(
        "lightfm: a test part that has the training part in it", lambda: agrees(f, train, both, ["recall@5", "auc"])
    )
    yield _refused("lightfm: the test part is the training part", lambda: lfm_np.evaluate(f, train, train), "test")
    yield _true("lightfm: nothing was known", lambda: agrees(f, None, test, ["precision@3", "auc"]))
    flat = lfm_np.Factors(np.zeros((30, 1)), np.zeros((20, 1)))
    yield _right(
        "lightfm: AUC of a model that has learnt nothing (NaN)",
        lambda: lfm_np.evaluate(flat, train, test, ["auc"])["auc"],
        lambda auc: auc == 0.5,
    )

    def by_id() -> bool:
        found = lfm_np.evaluate(flat, train, test, ["recall@5", "ndcg@5"])
        seen, wanted = table(train)[1], table(test)[1]
        order = [np.flatnonzero(~s).tolist() for s in seen]
        lists = [(o, set(np.flatnonzero(w).tolist())) for o, w in zip(order, wanted, strict=True) if w.any()]
        return all(near(found[k], np.mean([metric(k, *pair) for pair in lists]), 1e-12) for k in ("recall@5", "ndcg@5"))

    yield _true("RecBole: equal scores, the lower id first", by_id)
    yield _true("lightfm: a user who wants all that is left has no AUC", _all_left)
    x = test.toarray()
    noise = sp.csr_array(np.where(x > 0, x, 1.0))
    noise.data[noise.data == 1.0] = 0.0
    kept = sp.csr_array(np.where(x > 1, x, 0))
    yield _right(
        "implicit: zeros that are stored are no wishes",
        lambda: [lfm_np.evaluate(f, None, X, ["recall@5", "mrr"]) for X in (noise, kept)],
        lambda r: r[0] == r[1],
    )
    rated = lfm_np.als(tastes(), factors=2, weighting="ratings", iterations=1, random_state=0, num_threads=1)
    zero = lfm_np.to_csr([(0, 3), (1, 4)], (30, 20), [0, 0])
    yield _right(
        "Surprise: a rating of zero was rated",
        lambda: lfm_np.evaluate(rated, None, zero, ["recall@20"]),
        lambda r: r["users"] == 2 and r["recall@20"] == 1,
    )
    yield _true("RecBole: precision falls as lists grow", _falls)
    yield _true("RecBole: the most popular, ties by id", _popular)
    yield _true("RecBole: uni100, a fixed set of negatives", _among_some)
    yield _refused(
        "RecBole: negatives of fewer users",
        lambda: lfm_np.evaluate(f, train, test, negatives=np.zeros((7, 5), int)),
        "negatives",
    )
    yield _refused(
        "RecBole: negatives that are no items",
        lambda: lfm_np.evaluate(f, train, test, negatives=np.full((30, 5), 20)),
        "negatives",
        "20",
    )

    def deviations() -> bool:
        found = lfm_np.evaluate(f, train, test, ["ndcg@5"])
        seen, wanted = table(train)[1], table(test)[1]
        one = [
            metric("ndcg@5", best(s, ~k, int((~k).sum())), set(np.flatnonzero(w).tolist()))
            for s, k, w in zip(products(f), seen, wanted, strict=True) if w.any()
        ]  # fmt: skip
        return near(found["ndcg@5_se"], np.std(one, ddof=1) / math.sqrt(len(one)), 1e-10)

    yield _true("recommenders: how sure is the mean", deviations)
    single = sp.csr_array(([1.0], ([4], [7])), (30, 20))
    yield _right(
        "recommenders: one user only",
        lambda: lfm_np.evaluate(f, None, single, ["ndcg@5"]),
        lambda r: r["users"] == 1 and math.isnan(r["ndcg@5_se"]),
    )
    for name in ("Recall@10", "precision_at_k", "ndcg@0", "recall@", "recall", "auc@10", "rmse"):
        yield _refused(
            f"NVIDIA Merlin: metric {name}", lambda name=name: lfm_np.evaluate(f, train, test, [name]), "metric"
        )
    yield _either(
        "RecTools: one metric, not a list of them",
        lambda: lfm_np.evaluate(f, train, test, "recall@5"),  # type: ignore[arg-type]
        lambda r: r["recall@5"] == lfm_np.evaluate(f, train, test, ["recall@5"])["recall@5"],
        "metrics",
    )
    yield _refused(
        "lightfm: users of the test part alone", lambda: lfm_np.evaluate(f, train, test[:10]), "test", "shape|30"
    )
    yield _refused("lightfm: nobody has a test item", lambda: lfm_np.evaluate(f, train, sp.csr_array((30, 20))), "test")


def _all_left() -> bool:
    train = sp.csr_array(np.array([[1, 1, 0, 0], [1, 0, 0, 0]]))
    test = sp.csr_array(np.array([[0, 0, 1, 1], [0, 1, 0, 0]]))
    f = drawn(3, 2, 4)
    found = lfm_np.evaluate(f, train, test, ["auc", "recall@1"])
    s = products(f)[1]
    return near(found["auc"], ((s[1] > s[2]) + (s[1] > s[3])) / 2, 1e-12) and found["users"] == 2


def _falls() -> bool:
    train, test = halves(4)
    good = lfm_np.Factors(np.eye(30), (table(test)[1] + 1e-3 * products(drawn())).T.copy())
    found = lfm_np.evaluate(good, train, test, [f"precision@{k}" for k in range(1, 21)])
    one = [found[f"precision@{k}"] for k in range(1, 21)]
    return one == sorted(one, reverse=True) and near(one[-1], test.nnz / found["users"] / 20, 1e-12)


def _popular() -> bool:
    train, test = halves(2)
    counts = table(train)[1].sum(0)
    f = most_popular(train)
    orders = [best(counts, ~s, 20) for s in table(train)[1]]
    lists = [o[: o.index(-1)] if -1 in o else o for o in orders]
    wanted = table(test)[1]
    one = [metric("ndcg@5", o, set(np.flatnonzero(w).tolist())) for o, w in zip(lists, wanted, strict=True) if w.any()]
    found = lfm_np.evaluate(f, train, test, ["ndcg@5"])["ndcg@5"]
    return near(found, np.mean(one), 1e-12) and f.recommend(np.arange(30), N=20, seen=train).ids.tolist() == orders


def _among_some() -> bool:
    """Repeated negatives once, those of the own rows not at all, -1 is none; test items beside one another."""
    train, test = halves(1)
    f, rng = drawn(1), np.random.default_rng(1)
    negatives = rng.integers(-1, 20, (30, 9))
    names = ["hit_rate@2", "ndcg@3", "mrr", "auc", "recall@4"]
    seen, wanted, scores = table(train)[1], table(test)[1], products(f)
    one: dict[str, list[float]] = {name: [] for name in names}
    for u in np.flatnonzero(wanted.any(axis=1)).tolist():
        allowed = wanted[u].copy()
        allowed[[i for i in negatives[u].tolist() if i >= 0]] = True
        allowed &= ~seen[u]
        for name in names:
            value = metric(name, best(scores[u], allowed, int(allowed.sum())), set(np.flatnonzero(wanted[u]).tolist()))
            if not math.isnan(value):
                one[name].append(value)
    found = lfm_np.evaluate(f, train, test, names, negatives=negatives)
    return all(near(found[name], np.mean(values), 1e-10) for name, values in one.items())


# ---- splits ---------------------------------------------------------------------------------------------------------


def events(seed: int = 0, high: int = 6) -> tuple[list[int], list[int], list[int]]:
    """Distinct pairs with few different times, so that many are equal."""
    rng = np.random.default_rng(seed)
    pairs = np.argwhere(rng.random((15, 12)) < 0.35)
    pairs = pairs[rng.permutation(len(pairs))]
    return pairs[:, 0].tolist(), (pairs[:, 1] * 10).tolist(), rng.integers(0, high, len(pairs)).tolist()


def cells(data: lfm_np.Interactions) -> set[tuple[Any, Any]]:
    found = data.matrix.tocoo()
    return set(zip(data.user_ids(found.row).tolist(), data.item_ids(found.col).tolist(), strict=True))


def splits() -> Iterator[Case]:
    users, items, times = events()
    data = lfm_np.Interactions.from_arrays(users, items, timestamps=times)
    records = set(zip(users, items, strict=True))

    def last(n: int) -> bool:
        train, test = data.split("last", n=n)
        expected = set()
        for u in set(users):
            own = sorted((t, i) for v, i, t in zip(users, items, times, strict=True) if v == u)
            expected |= {(u, i) for _, i in own[max(1, len(own) - n) :]}
        return cells(test) == expected and cells(train) == records - expected

    yield _true("RecTools: the last of each user, equal times by item", lambda: last(1))
    yield _true("RecTools: the last three, one stays", lambda: last(3))
    yield _true("RecTools: the last hundred, one stays", lambda: last(100))

    def by_time(fraction: float) -> bool:
        train, test = data.split("time", test_fraction=fraction)
        when = dict(zip(zip(users, items, strict=True), times, strict=True))
        cut = min(c for c in [*times, max(times) + 1] if sum(t >= c for t in times) <= fraction * len(times))
        return cells(test) == {pair for pair, t in when.items() if t >= cut} and cells(train) == records - cells(test)

    for fraction in (0.1, 0.3, 0.5, 0.9):
        yield _true(f"recommenders: no future in the training part, {fraction}", lambda f=fraction: by_time(f))

    def random(fraction: float) -> bool:
        sizes = {u: users.count(u) for u in set(users)}
        taken = []
        for seed in range(60):
            train, test = data.split("random", test_fraction=fraction, random_state=seed)
            if cells(train) | cells(test) != records or cells(train) & cells(test):
                return False
            each = {u: sum(v == u for v, _ in cells(test)) for u in sizes}
            if any(d * fraction - 1 >= each[u] or each[u] >= d * fraction + 1 for u, d in sizes.items() if d > 3):
                return False
            if any(each[u] >= d for u, d in sizes.items()):
                return False
            taken.append(sum(each.values()))
        return abs(np.mean(taken) / (fraction * len(users)) - 1) < 0.15

    yield _true("Cornac: a ratio of each user's cells", lambda: random(0.2))
    yield _right(
        "implicit: the same split for the same seed",
        lambda: [cells(data.split(random_state=5)[1]) for _ in range(2)],
        lambda r: r[0] == r[1],
    )
    # nanoseconds, which float64 does not tell apart
    base = 1_700_000_000_000_000_000
    close = lfm_np.Interactions.from_arrays([1, 1, 1], [10, 20, 30], timestamps=np.array([base + 1, base + 2, base]))
    yield _right("pandas: times one nanosecond apart", lambda: cells(close.split("last")[1]), lambda c: c == {(1, 20)})
    yield _right(
        "pandas: from that nanosecond on",
        lambda: cells(close.split("time", at=base + 1)[1]),
        lambda c: c == {(1, 10), (1, 20)},
    )
    whole = {(1, 10), (1, 20), (1, 30)}
    precise = lfm_np.Interactions.from_arrays(
        [1] * 3, [10, 20, 30], timestamps=np.array([base + 1, base + 2, base], "M8[ns]")
    )
    for at, after in {
        "9999-12-31": set(),
        "0001-01-01": whole,
        "2023-11-14T22:13:20.000000001": {(1, 10), (1, 20)},
    }.items():
        yield _right(
            f"pandas: nanoseconds from {at} on",
            lambda at=at: cells(precise.split("time", at=at)[1]),
            lambda c, a=after: c == a,
        )
    zone = datetime.datetime.fromtimestamp(1_700_000_001, datetime.timezone(datetime.timedelta(hours=9)))
    yield _right("pandas: a time in Tokyo", lambda: cells(precise.split("time", at=zone)[1]), lambda c: c == set())
    for at in ("NaT", "soon", 5):
        yield _refused(
            f"pandas: from {at!r} on", lambda at=at: precise.split("time", at=at), "at must", str(at).lower()
        )
    yield _refused(
        "pandas: nanoseconds in a list with a NaN",
        lambda: lfm_np.Interactions.from_arrays([1, 1, 1], [10, 20, 30], timestamps=[base + 2, math.nan, base + 1]),
        "timestamps",
    )
    days = np.array(["2024-05-01", "2024-05-03", "2024-05-02"], "datetime64[D]")
    dated = lfm_np.Interactions.from_arrays(["a", "a", "b"], [1, 2, 3], timestamps=days)
    for at in (
        "2024-05-02",
        datetime.date(2024, 5, 2),
        datetime.datetime(2024, 5, 2),
        np.datetime64("2024-05-02", "ns"),
    ):
        yield _right(
            f"Cornac: a day as {type(at).__name__}",
            lambda at=at: cells(dated.split("time", at=at)[1]),
            lambda c: c == {("a", 2), ("b", 3)},
        )
    yield _refused(
        "beta-recsys: leave one out without times",
        lambda: lfm_np.Interactions.from_arrays([1, 1], [1, 2]).split("last"),
        "time",
    )
    unknown = lfm_np.Interactions.from_arrays([1, 1], [1, 2], timestamps=[1.0, np.nan])
    yield _refused("beta-recsys: a time that is not known", lambda: unknown.split("time", at=1.0), "time|unknown")
    yield _refused("recommenders: a fraction in per cent", lambda: data.split(test_fraction=20), "test_fraction", "20")
    # one pair several times: the latest is what counts, and no pair is in both parts
    twice = lfm_np.Interactions.from_arrays(
        [1, 1, 1, 1], [5, 6, 5, 7], [1.0, 2.0, 3.0, 4.0], timestamps=[1, 2, 9, 3], duplicates="last"
    )
    yield _right(
        "recommenders: a film that is seen again",
        lambda: twice.split("last"),
        lambda r: cells(r[1]) == {(1, 5)} and r[1].matrix.data.tolist() == [3.0] and cells(r[0]) == {(1, 6), (1, 7)},
    )


def cases() -> list[Case]:
    return [*metrics(), *splits()]
