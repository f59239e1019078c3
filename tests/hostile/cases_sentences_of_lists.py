"""Sentences about scores, lists, neighbours, metrics and model files, recounted by sorting and by reading bytes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import scipy.sparse as sp

from .case import Case, Group
from .sentences_by_numpy import lfm_np, losses, near, ranked
from .working_days import NAN, faultless, folder, raised, tells, wrong

_GROUP = Group("sentence lists")
_holds = faultless(_GROUP)
_refused = _GROUP.refused
most_popular = lfm_np.evaluation.most_popular


def _whole_numbers(dtype: Any = np.float32, biases: bool = False, seed: int = 0, m: int = 9, n: int = 30) -> Any:
    """Small whole numbers, so that scores are exact and often tied."""
    draw = np.random.default_rng(seed)
    U, V = draw.integers(-2, 3, (m, 4)).astype(dtype), draw.integers(-2, 3, (n, 4)).astype(dtype)
    V[3], V[-13 % n], U[4 % m] = 0, 0, 0
    words = {"user_bias": draw.integers(-3, 4, m).astype(dtype), "item_bias": draw.integers(-3, 4, n).astype(dtype)}
    return lfm_np.Factors(U, V, **words, global_bias=0.5) if biases else lfm_np.Factors(U, V)


def _table(factors: Any) -> np.ndarray:
    S = factors.user_factors.astype(float) @ factors.item_factors.astype(float).T
    if factors.user_bias is not None and factors.item_bias is not None:
        S = S + factors.user_bias[:, None] + factors.item_bias + float(factors.global_bias or 0.0)
    return S


def _order_of_the_sum() -> list[str]:
    """In float32 2²⁴ + 1 is 2²⁴: dot + b_i, and then μ + b_u."""
    big = np.float32(2.0**24)
    zero = np.zeros((1, 1), np.float32)
    one = lfm_np.Factors(zero, zero, user_bias=np.ones(1, np.float32), item_bias=np.array([big]), global_bias=1.0)
    two = lfm_np.Factors(
        np.array([[big]]),
        np.ones((1, 1), np.float32),
        user_bias=np.array([-big]),
        item_bias=np.ones(1, np.float32),
        global_bias=1.0,
    )
    return wrong(
        later=one.scores(0, 0) == np.float32(2.0**24 + 2),
        first=two.scores(0, 0) == np.float32(1.0),
        lists=one.recommend(0, N=1).scores[0] == np.float32(2.0**24 + 2),
        other=two.recommend([0], N=1).scores[0, 0] == np.float32(1),
    )


def _shapes_of_scores() -> list[str]:
    factors = _whole_numbers(biases=True)
    S = _table(factors)
    both, one, many = factors.scores(2, 5), factors.scores(2, [5, 0, 5]), factors.scores([1, 2], [7, 8])
    return wrong(
        both=both.shape == () and both.dtype == np.float32 and float(both) == S[2, 5],
        one=one.tolist() == S[2, [5, 0, 5]].tolist(),
        many=many.tolist() == [S[1, 7], S[2, 8]],
        wrong=tells(raised(lambda: factors.scores([1, 2], [1, 2, 3])), "users|items"),
    )


def _lists(dtype: Any, biases: bool, N: int) -> list[str]:
    factors = _whole_numbers(dtype, biases)
    S = _table(factors)
    draw = np.random.default_rng(1)
    seen = (draw.random(S.shape) < 0.3).astype(float)
    seen[6] = 1.0
    items, exclude = [29, 3, 3, 17, 5, 8, 0, 11, 12, 20], [8, 29, 29]
    plain = factors.recommend(np.arange(9)[::-1], N=N)
    strict = factors.recommend(range(9), N=N, seen=sp.csr_array(seen), items=items, exclude=exclude, num_threads=2)
    allowed = [[i for i in set(items) - set(exclude) if not seen[u, i]] for u in range(9)]
    mine = [ranked(S[u], allowed[u], N) for u in range(9)]
    scores = [[S[u, i] if i >= 0 else -math.inf for i in row] for u, row in enumerate(mine)]
    alone = factors.recommend(3, N=N)
    return wrong(
        plain=plain.ids.tolist() == [ranked(S[u], range(30), N) for u in range(8, -1, -1)],
        strict=strict.ids.tolist() == mine,
        scores=strict.scores.tolist() == scores,
        kinds=plain.ids.dtype == np.int64 and plain.scores.dtype == dtype,
        alone=alone.ids.shape == (N,) and alone.ids.tolist() == ranked(S[3], range(30), N),
    )


def _read_only() -> list[str]:
    factors = _whole_numbers()
    found = factors.recommend([0, 1], N=3)
    arrays = {"ids": found.ids, "scores": found.scores, "users": factors.user_factors, "items": factors.item_factors}
    return [name for name, array in arrays.items() if array.flags.writeable]


def _a_stored_zero(kind: str) -> list[str]:
    """It is a value where the model was fitted to ratings, and else nobody has seen it."""
    X = sp.csr_array(([1.0, 0.0, 2.0, 1.0], ([0, 0, 1, 2], [0, 1, 1, 2])), shape=(3, 4))
    words: dict[str, Any] = {"factors": 2, "random_state": 0}
    factors = {
        "hu-koren": lambda: lfm_np.als(X, **words),
        "ratings": lambda: lfm_np.als(X, weighting="ratings", **words),
        "BPR": lambda: lfm_np.sgd(X, losses.BPR(), **words),
        "Squared": lambda: lfm_np.sgd(X, losses.Squared(), sampler=None, **words),
    }[kind]()
    counts = kind in ("ratings", "Squared")
    found = factors.recommend(0, N=4, seen=X).ids.tolist()
    with folder() as place:
        factors.save(place / "m")
        later = lfm_np.Factors.load(place / "m").recommend(0, N=4, seen=X).ids.tolist()
    test = sp.csr_array(([0.0, 1.0], ([0, 1], [3, 2])), shape=(3, 4))
    judged = lfm_np.evaluate(factors, X, test, ["recall@4"])
    return wrong(
        seen=(1 in found) is not counts and 0 not in found,
        kept=found == later,
        users=judged["users"] == (2 if counts else 1),
        popular=most_popular(X).item_bias.tolist() == [1, 1, 1, 0],
    )


def _neighbours(metric: str, of: str) -> list[str]:
    factors = _whole_numbers(np.float64, biases=True)
    F = factors.item_factors if of == "items" else factors.user_factors
    G = F @ F.T
    if metric == "cosine":
        length = np.sqrt(np.diag(G))
        length[length == 0] = 1.0
        G = G / length[:, None] / length
    asked = [3, 0, 4, 8]
    found = getattr(factors, f"similar_{of}")(asked, N=len(F) + 2, metric=metric)
    facts = {}
    for q, ids, scores in zip(asked, found.ids, found.scores, strict=True):
        facts[f"all of {q}"] = sorted(ids[:-2].tolist()) == list(range(len(F))) and ids[-2:].tolist() == [-1, -1]
        facts[f"scores of {q}"] = near(scores[:-2], np.sort(G[q])[::-1], 1e-14) and near(
            scores[:-2], G[q][ids[:-2]], 1e-14
        )
        ties = scores[:-3] == scores[1:-2]
        facts[f"ties of {q}"] = bool((ids[:-3] < ids[1:-2])[ties].all())
        if metric == "inner":
            facts[f"order of {q}"] = ids.tolist() == ranked(G[q], range(len(F)), len(F) + 2)
    return wrong(**facts)


def _judged(k: int, biases: bool) -> list[str]:
    """Every metric by its formula, user by user, among ties."""
    factors = _whole_numbers(np.float32, biases, seed=5, m=25, n=12)
    draw = np.random.default_rng(2)
    train, test = draw.random((25, 12)) < 0.3, draw.random((25, 12)) < 0.25
    train[0], test[0] = True, True  # no candidates
    train[1], test[1] = False, True  # nothing but relevant ones
    train[2], test[2] = True, False
    train[2, 5], test[2, 5] = False, True
    test[3] = False
    S = _table(factors)
    of: dict[str, list[float]] = {}
    for u in range(25):
        candidates = [i for i in range(12) if not train[u, i]]
        relevant = [i for i in candidates if test[u, i]]
        if not relevant:
            continue
        order = ranked(S[u], candidates, len(candidates))
        t, r = len(relevant), sorted(order.index(i) + 1 for i in relevant)
        h = [x for x in r if x <= k]
        gain = sum(1 / math.log2(x + 1) for x in h) / sum(1 / math.log2(j + 1) for j in range(1, min(k, t) + 1))
        mine = {
            "recall": len(h) / t,
            "capped_recall": len(h) / min(k, t),
            "precision": len(h) / k,
            "hit_rate": float(bool(h)),
            "ndcg": gain,
            "map": sum(j / x for j, x in enumerate(h, 1)) / min(k, t),
            "mrr": 1 / r[0] if h else 0.0,
        }
        mine = {f"{name}@{k}": value for name, value in mine.items()}
        mine["ndcg"] = sum(1 / math.log2(x + 1) for x in r) / sum(1 / math.log2(j + 1) for j in range(1, t + 1))
        mine["map"], mine["mrr"] = sum(j / x for j, x in enumerate(r, 1)) / t, 1 / r[0]
        others = [i for i in candidates if i not in relevant]
        if others:
            pairs = [(S[u, i] > S[u, j]) + 0.5 * (S[u, i] == S[u, j]) for i in relevant for j in others]
            mine["auc"] = float(np.mean(pairs))
        for name, value in mine.items():
            of.setdefault(name, []).append(value)
    found = lfm_np.evaluate(factors, sp.csr_array(train.astype(float)), sp.csr_array(test * 7.0), tuple(of))
    facts = {name: near(found[name], np.mean(values), 1e-12) for name, values in of.items()}
    for name, values in of.items():
        facts[f"{name}_se"] = near(found[f"{name}_se"], np.std(values, ddof=1) / math.sqrt(len(values)), 1e-12)
    return wrong(**facts, users=found["users"] == len(of["mrr"]), fewer=len(of["auc"]) < len(of["mrr"]))


def _judged_by_default() -> list[str]:
    factors = _whole_numbers()
    test = sp.csr_array(np.eye(9, 30))
    found, told = lfm_np.evaluate(factors, None, test), lfm_np.evaluate(factors, sp.csr_array((9, 30)), test)
    names = {"recall@20", "ndcg@20", "map@20", "mrr", "auc"}
    one = lfm_np.evaluate(factors, None, sp.csr_array(([1.0], ([2], [3])), shape=(9, 30)), ["mrr"])
    return wrong(
        keys=set(found) == names | {f"{name}_se" for name in names} | {"users"}, none=found == told,
        kinds=all(type(v) is float or isinstance(v, np.float64) for name, v in found.items() if name != "users"),
        one=math.isnan(one["mrr_se"]) and one["users"] == 1 and not math.isnan(one["mrr"]),
    )  # fmt: skip


def _among_negatives() -> list[str]:
    """Repeated ones count once, those of the own rows not at all, -1 is none."""
    V = np.arange(12, 0, -1.0)[:, None]  # the lower the id, the better
    factors = lfm_np.Factors(np.ones((3, 1)), V)
    train = sp.csr_array(([1.0, 1], ([0, 1], [0, 2])), shape=(3, 12))
    test = sp.csr_array(([1.0, 1, 1, 1], ([0, 0, 1, 2], [6, 9, 5, 4])), shape=(3, 12))
    negatives = np.array([[0, 3, 3, 9, 8, 8], [2, 2, 1, 4, 4, -1], [-1] * 6])
    found = lfm_np.evaluate(factors, train, test, ["mrr", "recall@2", "auc"], negatives=negatives)
    auc = [0.25, 0.0]  # 6 is above 8 but not 3, 9 above neither; 5 below 1 and 4; nothing for the third
    return wrong(
        mrr=near(found["mrr"], (1 / 2 + 1 / 3 + 1) / 3, 1e-12),
        recall=near(found["recall@2"], (0.5 + 0 + 1) / 3, 1e-12),
        auc=near(found["auc"], np.mean(auc), 1e-12),
        users=found["users"] == 3,
    )


def _of_popularity() -> list[str]:
    X = np.array([[1.0, 0, 5, 0, 2], [0, 0, 1, 1, 1], [0, 0, 0, 3, 0]])
    model = most_popular(sp.csr_array(X))
    counts = (X != 0).sum(0)
    lists = model.recommend([0, 1, 2], N=5, seen=sp.csr_array(X))
    alike = model.similar_items(2, N=3)
    with folder() as place:
        model.save(place / "m.safetensors")
        again = lfm_np.Factors.load(place / "m.safetensors", mmap=True).recommend([0, 1, 2], N=5, seen=sp.csr_array(X))
    return wrong(
        counts=model.item_bias.tolist() == counts.tolist() and model.item_bias.dtype == np.float64,
        k=model.user_factors.shape == (3, 0),
        lists=lists.ids.tolist() == [ranked(counts, np.flatnonzero(row == 0), 5) for row in X],
        alike=alike.ids.tolist() == [0, 1, 2] and not alike.scores.any(),
        kept=again.ids.tolist() == lists.ids.tolist(),
    )


def _the_whole_matrix() -> Any:
    return _whole_numbers().recommend([0, 1], N=3, seen=sp.csr_array((2, 30)))


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    ones = np.ones((2, 2))
    yield _holds("the dot product, then b_i, then μ + b_u", _order_of_the_sum)
    yield _holds("scores are pairwise, and of shape () where both are scalars", _shapes_of_scores)
    for dtype, biases, N in (
        (np.float32, False, 4),
        (np.float64, True, 7),
        (np.float32, True, 40),
        (np.float64, False, 33),
    ):
        name = f"best first, equal scores by id, {np.dtype(dtype).name}, {'with' if biases else 'no'} biases, N = {N}"
        yield _holds(name, lambda d=dtype, b=biases, n=N: _lists(d, b, n))
    yield _holds("result arrays are read-only", _read_only)
    for kind in ("hu-koren", "ratings", "BPR", "Squared"):
        yield _holds(f"a stored zero of a model of {kind}", lambda k=kind: _a_stored_zero(k))
    for metric in ("cosine", "inner"):
        for of in ("items", "users"):
            yield _holds(
                f"biases play no part, 0 for zero vectors: {metric} of {of}", lambda a=metric, b=of: _neighbours(a, b)
            )
    for k, biases in ((3, True), (12, False), (50, True)):
        yield _holds(f"metrics by their formulas, k = {k}", lambda k=k, b=biases: _judged(k, b))
    yield _holds("five metrics, their errors and the users, by default", _judged_by_default)
    yield _holds("among given negatives only, and one another", _among_negatives)
    yield _holds("counts are the biases of a model without factors", _of_popularity)
    yield _refused("always the whole matrix as seen", _the_whole_matrix, "seen", "shape|rows|9")
    yield _refused(
        "an item out of range to leave out", lambda: _whole_numbers().recommend(0, exclude=[30]), "exclude", "30"
    )
    yield _refused("a user below 0", lambda: _whole_numbers().recommend([0, -1]), "users", "-1")
    yield _refused(
        "no user with test items", lambda: lfm_np.evaluate(_whole_numbers(), None, sp.csr_array((9, 30))), "test"
    )
    yield _refused("an unknown metric among others", lambda: lfm_np.evaluate(
        _whole_numbers(), None, sp.csr_array(np.eye(9, 30)), ["mrr", "recal@5"]), "recal@5")  # fmt: skip
    yield _refused("capped_recall without a cutoff", lambda: lfm_np.evaluate(
        _whole_numbers(), None, sp.csr_array(np.eye(9, 30)), ["capped_recall"]), "capped_recall")  # fmt: skip
    yield _refused("factors of two dtypes", lambda: lfm_np.Factors(ones.astype(np.float32), ones), "item_factors|dtype")
    yield _refused(
        "a bias that is not finite", lambda: lfm_np.Factors(ones, ones, item_bias=np.array([0.0, NAN])), "item_bias"
    )
    yield _refused("a bias of another length", lambda: lfm_np.Factors(ones, ones, user_bias=np.zeros(3)), "user_bias")
