"""Every metric by plain loops: one sorted list a user, and means and errors of what they give."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import scipy.sparse as sp

import lfm_np as library

from .case import Case, Group
from .working_days import faultless, wrong

lfm_np: Any = library
_GROUP = Group("the last examination, lists: judges")
_holds = faultless(_GROUP)
CUT = ("recall", "capped_recall", "precision", "hit_rate", "ndcg", "map", "mrr")
WHOLE = ("ndcg", "map", "mrr", "auc")


def names(*cutoffs: int) -> list[str]:
    return [f"{name}@{k}" for k in cutoffs for name in CUT] + list(WHOLE)


def of_a_user(s: Sequence[float], train: set[int], test: set[int], name: str, drawn: Any = None) -> float | None:
    """One metric of one user, None where it has none."""
    relevant = test - train
    others = set(range(len(s))) - train - relevant
    if drawn is not None:
        others = {int(i) for i in drawn if i >= 0} - train - test
    t = len(relevant)
    if not t:
        return None
    if name == "auc":
        if not others:
            return None
        points = 0.0
        for i in relevant:
            for j in others:
                points += 1.0 if s[i] > s[j] else 0.5 if s[i] == s[j] else 0.0
        return points / (t * len(others))
    what, _, cut = name.partition("@")
    k = int(cut) if cut else t + len(others)
    ranked = sorted(relevant | others, key=lambda i: (-s[i], i))
    ranks = [r for r, i in enumerate(ranked, 1) if i in relevant]
    top = [r for r in ranks if r <= k]
    h = len(top)
    if what == "recall":
        return h / t
    if what == "capped_recall":
        return h / min(k, t)
    if what == "precision":
        return h / k
    if what == "hit_rate":
        return 1.0 if h else 0.0
    if what == "ndcg":
        best = math.fsum(1 / math.log2(j + 1) for j in range(1, min(k, t) + 1))
        return math.fsum(1 / math.log2(r + 1) for r in top) / best
    if what == "map":
        return math.fsum(j / r for j, r in enumerate(top, 1)) / min(k, t)
    assert what == "mrr"
    return 1 / ranks[0] if h else 0.0


def by_loops(S: Any, train: Any, test: Any, metrics: Sequence[str], drawn: Any = None) -> dict[str, float]:
    """What `evaluate` promises, of masks ``train`` and ``test``."""
    out: dict[str, float] = {}
    rows = np.asarray(S, np.float64).tolist()
    sets = [
        (set(np.flatnonzero(a).tolist()), set(np.flatnonzero(b).tolist())) for a, b in zip(train, test, strict=True)
    ]
    for name in metrics:
        found = []
        for u, (a, b) in enumerate(sets):
            value = of_a_user(rows[u], a, b, name, None if drawn is None else drawn[u])
            if value is not None:
                found.append(value)
        mean = math.fsum(found) / len(found)
        out[name] = mean
        spread = math.fsum((x - mean) ** 2 for x in found)
        out[f"{name}_se"] = math.sqrt(spread / (len(found) - 1) / len(found)) if len(found) > 1 else math.nan
    out["users"] = sum(1 for a, b in sets if b - a)
    return out


def differs(found: dict[str, float], mine: dict[str, float]) -> list[str]:
    """Names that are missing or more than rounding away: means of numbers of up to 1 in float64."""
    bad = [name for name in mine if name not in found]
    for name in mine.keys() & found.keys():
        a, b = float(found[name]), float(mine[name])
        if math.isnan(a) != math.isnan(b) or (not math.isnan(a) and abs(a - b) > 1e-11):
            bad.append(f"{name}: {a!r}, not {b!r}")
    return sorted(bad)


def whole(shape: tuple[int, int], seed: int, most: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).integers(-most, most + 1, shape).astype(np.float64)


def masks(m: int, n: int, seed: int, a: float = 0.3, b: float = 0.3) -> tuple[np.ndarray, np.ndarray]:
    """Train and test, that overlap."""
    draw = np.random.default_rng(seed)
    return draw.random((m, n)) < a, draw.random((m, n)) < b


def matrix(mask: np.ndarray, dtype: Any = np.float32) -> Any:
    return sp.csr_array(mask.astype(dtype))


def as_table(S: np.ndarray, dtype: Any = np.float64) -> Any:
    """A model whose score of user u and item i is S[u, i]."""
    return lfm_np.Factors(np.eye(len(S), dtype=dtype), np.array(S.T, dtype))


def _all_metrics(dtype: Any, m: int, n: int, cutoffs: Sequence[int]) -> list[str]:
    """Small whole scores, so that most items tie with others."""
    U, V = whole((m, 2), m), whole((n, 2), n + 1)
    train, test = masks(m, n, m + n)
    test[3], train[5], train[7], test[7] = False, True, False, True
    factors = lfm_np.Factors(U.astype(dtype), V.astype(dtype))
    asked = names(*cutoffs)
    return differs(lfm_np.evaluate(factors, matrix(train), matrix(test), asked), by_loops(U @ V.T, train, test, asked))


def _user_after_user(m: int) -> list[str]:
    """User u has u mod 21 test items of 21; those with all of them have no AUC."""
    n = 21
    S = whole((m, n), m, 9)
    test = np.array([np.isin(np.random.default_rng(u).permutation(n), range(u % (n + 1))) for u in range(m)])
    train = np.zeros((m, n), bool)
    asked = ["auc", "map", "recall@20", "ndcg@4", "mrr@2"]
    return differs(lfm_np.evaluate(as_table(S, np.float32), None, matrix(test), asked), by_loops(S, train, test, asked))


def _rounded_by_the_user() -> list[str]:
    """Beside b_u = 2²⁴ scores of 0 and 1 are one float32, and so are 3, 4 and 5: ranks and halves of ties follow."""
    draw = np.random.default_rng(1)
    v = draw.integers(0, 6, 90).astype(np.float32)
    b = np.array([2.0**24, 0.0, -(2.0**24), 2.0**25], np.float32)
    factors = lfm_np.Factors(np.ones((4, 1), np.float32), v[:, None], user_bias=b)
    S = np.array([v + x for x in b])
    assert [len(set(row)) for row in S.tolist()] == [3, 6, 6, 2]
    train, test = masks(4, 90, 2, 0.1, 0.2)
    asked = names(1, 7, 40)
    return differs(lfm_np.evaluate(factors, matrix(train), matrix(test), asked), by_loops(S, train, test, asked))


def _in_its_own_dtype() -> list[str]:
    """1 + 1e-12 is above 1 in float64, and 1 in float32, where the lower id is first."""
    V = np.array([[1.0], [1 + 1e-12], [0.5]])
    test = matrix(np.array([[False, True, False]]))
    found = [
        lfm_np.evaluate(lfm_np.Factors(np.ones((1, 1), d), V.astype(d)), None, test, ["mrr", "auc"])
        for d in ("f4", "f8")
    ]
    return wrong(
        single=(found[0]["mrr"], found[0]["auc"]) == (0.5, 0.75), double=(found[1]["mrr"], found[1]["auc"]) == (1, 1)
    )


def _drawn(dtype: Any) -> list[str]:
    """Negatives of every kind: repeated, absent, of the training row, of the test row, one's own test items."""
    S, draw = whole((50, 30), 4, 5), np.random.default_rng(5)
    train, test = masks(50, 30, 6, 0.2, 0.15)
    drawn = draw.integers(-1, 30, (50, 12))
    drawn[8], drawn[9], drawn[10, 1:] = -1, 4, -1
    asked = names(1, 2, 5, 40)
    found = lfm_np.evaluate(as_table(S), matrix(train), matrix(test), asked, negatives=drawn.astype(dtype))
    return differs(found, by_loops(S, train, test, asked, drawn))


def _far_down() -> list[str]:
    """Ranks beyond 2¹⁶, among 70,000 items, one of which is known and five are ties of the test item."""
    n = 70_000
    s = np.arange(n, dtype=np.float64)[::-1].copy()  # item i has rank i + 1
    s[[9, 1000, 50_000, 66_666, 69_999]] = s[66_666]
    train, test = np.zeros((1, n), bool), np.zeros((1, n), bool)
    train[0, 1], test[0, [66_000, 66_666]] = True, True
    others = np.flatnonzero(~train[0] & ~test[0])
    ranks = []
    for i in (66_000, 66_666):
        above = (s > s[i]) | ((s == s[i]) & (np.arange(n) < i))
        ranks.append(1 + int((above & ~train[0]).sum()))
    right = sum(float((s[others] < s[i]).sum()) + 0.5 * float((s[others] == s[i]).sum()) for i in (66_000, 66_666))
    facts = {}
    for dtype in ("f4", "f8"):
        factors = lfm_np.Factors(np.ones((1, 1), dtype), s[:, None].astype(dtype))
        got = lfm_np.evaluate(factors, matrix(train), matrix(test), ["mrr", "map", "ndcg", "auc", "recall@66000"])
        gain = sum(1 / math.log2(r + 1) for r in ranks) / (1 + 1 / math.log2(3))
        facts[dtype] = (
            abs(got["mrr"] * ranks[0] - 1) < 1e-12
            and abs(got["map"] - (1 / ranks[0] + 2 / ranks[1]) / 2) < 1e-15
            and abs(got["ndcg"] - gain) < 1e-12
            and abs(got["auc"] - right / 2 / len(others)) < 1e-12
            and got["recall@66000"] == sum(r <= 66_000 for r in ranks) / 2
        )
    return wrong(order=ranks == sorted(ranks), **facts)


def _best_and_worst() -> list[str]:
    """The extremes are exact: 1, and what is left where all test items stand last."""
    test = np.zeros((4, 12), bool)
    for u in range(4):
        test[u, u : 2 * u + 1] = True  # 1 to 4 of them
    S = np.where(test, 1.0, -1.0)
    asked = names(1, 3, 12, 50)
    top = lfm_np.evaluate(as_table(S), None, matrix(test), asked)
    low = lfm_np.evaluate(as_table(-S), None, matrix(test), asked)
    ones = [f"{name}@{k}" for k in (1, 3, 12, 50) for name in ("capped_recall", "hit_rate", "ndcg", "map", "mrr")]
    return wrong(
        ones=all(abs(top[name] - 1) < 1e-12 and top[f"{name}_se"] < 1e-12 for name in [*ones, *WHOLE]),
        recall=abs(top["recall@3"] - (1 + 1 + 1 + 3 / 4) / 4) < 1e-15 and top["recall@12"] == 1,
        precision=abs(top["precision@3"] - (1 / 3 + 2 / 3 + 1 + 1) / 4) < 1e-15
        and abs(top["precision@50"] - 0.05) < 1e-15,
        last=low["auc"] == 0 and low["hit_rate@3"] == 0 and low["ndcg@3"] == 0 and low["recall@12"] == 1,
        first=abs(low["mrr"] - (1 / 12 + 1 / 11 + 1 / 10 + 1 / 9) / 4) < 1e-15,
        whole=not differs(low, by_loops(-S, np.zeros_like(test), test, asked)),
    )


def _one_place() -> list[str]:
    """Of a list of one item all metrics but recall are the same, and it is the share of users who get a test item."""
    S = np.random.default_rng(7).normal(size=(35, 18))
    train, test = masks(35, 18, 8, 0.3, 0.4)
    hits = []
    for u in range(35):
        free = [i for i in range(18) if not train[u, i]]
        if any(test[u, i] for i in free):
            hits.append(float(test[u, max(free, key=lambda i: S[u, i])]))
    share = sum(hits) / len(hits)
    error = math.sqrt(share * (1 - share) / (len(hits) - 1))  # of zeros and ones
    one = [f"{name}@1" for name in CUT if name != "recall"]
    got = lfm_np.evaluate(as_table(S), matrix(train), matrix(test), one)
    return wrong(
        means=all(abs(got[name] - share) < 1e-12 for name in one),
        errors=all(abs(got[f"{name}_se"] - error) < 1e-12 for name in one),
        users=got["users"] == len(hits),
        some=0 < share < 1,
    )


def _few_users() -> list[str]:
    """Of two users with test items one has nothing else: the mean of AUC is that of one, and has no error."""
    S = np.array([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0], [0.0, 0.0, 0.0]])
    train = np.array([[False, False, False], [False, True, False], [False, False, False]])
    test = np.array([[False, True, False], [True, False, True], [False, False, False]])
    got = lfm_np.evaluate(as_table(S), matrix(train), matrix(test), ["auc", "mrr"])
    return wrong(
        auc=got["auc"] == 0.5 and math.isnan(got["auc_se"]),
        mrr=got["mrr"] == 0.75 and abs(got["mrr_se"] - 0.25) < 1e-15,
        users=got["users"] == 2,
    )


def _values_do_not_count() -> list[str]:
    S = whole((30, 22), 9, 4)
    train, test = masks(30, 22, 10)
    draw = np.random.default_rng(11)
    sizes = [np.where(mask, 10.0 ** draw.integers(-30, 30, mask.shape), 0) for mask in (train, test)]
    asked = names(2, 9)
    found = lfm_np.evaluate(as_table(S), sp.csc_array(sizes[0]), sp.coo_array(sizes[1]), asked)
    return differs(found, by_loops(S, train, test, asked))


def _nothing_known() -> list[str]:
    S, test = whole((30, 22), 12, 4), masks(30, 22, 13)[1]
    asked, empty = names(3, 21), np.zeros((30, 22), bool)
    mine = by_loops(S, empty, test, asked)
    return [
        *differs(lfm_np.evaluate(as_table(S), None, matrix(test), asked), mine),
        *differs(lfm_np.evaluate(as_table(S), sp.csr_array((30, 22)), matrix(test), asked), mine),
    ]


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    for dtype in ("float32", "float64"):
        yield _holds(
            f"every metric of 40 users and 33 items, {dtype}",
            lambda d=dtype: _all_metrics(d, 40, 33, (1, 2, 5, 32, 33, 34, 1000)),
        )
    yield _holds("every metric of 12 users and 300 items", lambda: _all_metrics("float32", 12, 300, (10, 64, 257)))
    yield _holds(
        "255 to 513 users with none to all items held out",
        lambda: [bad for m in (255, 256, 257, 513) for bad in _user_after_user(m)],
    )
    yield _holds("ties that only the user's bias makes", _rounded_by_the_user)
    yield _holds("a difference that one dtype has", _in_its_own_dtype)
    for dtype in ("int64", "int8"):
        yield _holds(f"drawn negatives of every kind, {dtype}", lambda d=dtype: _drawn(d))
    yield _holds("ranks beyond 65,536", _far_down)
    yield _holds("the best and the worst ranking", _best_and_worst)
    yield _holds("lists of one item", _one_place)
    yield _holds("one user with an AUC of two", _few_users)
    yield _holds("values from 1e-30 to 1e29", _values_do_not_count)
    yield _holds("no training data, and empty ones", _nothing_known)
