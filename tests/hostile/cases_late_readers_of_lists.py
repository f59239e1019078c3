"""Sentences about lists, similarity, metrics and indexes, beside sorting; whole numbers make every score exact."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import scipy.sparse as sp

import lfm_np
from lfm_np import ann
from lfm_np.evaluation import most_popular

from .case import Case, Group, installed
from .working_days import best, close, faultless, judged, wrong

_GROUP = Group("late readers, lists")
_holds = faultless(_GROUP)


def _whole(m: int, n: int, k: int, seed: int = 0, dtype: Any = np.float32, biases: bool = False) -> Any:
    """Factors of small whole numbers: many scores are equal, and none is rounded."""
    draw = np.random.default_rng(seed)
    U, V = draw.integers(-2, 3, (m, k)).astype(dtype), draw.integers(-2, 3, (n, k)).astype(dtype)
    if not biases:
        return lfm_np.Factors(U, V)
    b, d = draw.integers(-3, 4, m).astype(dtype), draw.integers(-3, 4, n).astype(dtype)
    return lfm_np.Factors(U, V, user_bias=b, item_bias=d, global_bias=0.5)


def _scores(factors: Any) -> np.ndarray:
    S = factors.user_factors.astype(np.float64) @ factors.item_factors.astype(np.float64).T
    if factors.item_bias is not None:
        S = S + factors.item_bias
    if factors.user_bias is not None:
        S = S + np.asarray(factors.user_bias)[:, None]
    return S + (factors.global_bias or 0.0)


def _mask(m: int, n: int, share: float, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random((m, n)) < share


def _matrix(mask: np.ndarray) -> sp.csr_array:
    return sp.csr_array(mask.astype(np.float32))


def _as_sorted(found: Any, S: np.ndarray, allowed: np.ndarray, N: int) -> list[str]:
    ids = np.array([best(s, a, N) for s, a in zip(S, allowed, strict=True)])
    scores = np.where(ids < 0, -np.inf, np.take_along_axis(S, np.maximum(ids, 0), 1))
    return wrong(ids=np.array_equal(found.ids, ids), scores=np.array_equal(found.scores.astype(np.float64), scores))


def _lists(n: int, N: int, dtype: Any, biases: bool) -> list[str]:
    """Seen, allowed and denied items at once; some of them are both."""
    m = 9
    factors, seen = _whole(m, n, 5, n, dtype, biases), _mask(m, n, 0.4, n + 1)
    draw = np.random.default_rng(n + 2)
    items, exclude = draw.permutation(n)[: 3 * n // 4], draw.permutation(n)[: n // 5]
    users = [8, 0, 3, 3, 5]
    allowed = ~seen[users]
    allowed[:, np.setdiff1d(np.arange(n), items)] = False
    allowed[:, exclude] = False
    found = factors.recommend(users, N=N, seen=_matrix(seen), items=items, exclude=exclude)
    return _as_sorted(found, _scores(factors)[users], allowed, N)


def _one_user() -> list[str]:
    factors = _whole(4, 6, 3, 8, np.float64, True)
    found = factors.recommend(2, N=9, exclude=[1])
    allowed = np.arange(6) != 1
    S = _scores(factors)[2]
    ids = best(S, allowed, 9)
    return wrong(
        shape=found.ids.shape == found.scores.shape == (9,),
        ids=found.ids.tolist() == ids,
        scores=found.scores.tolist() == [-math.inf if i < 0 else S[i] for i in ids],
    )


def _nothing_allowed() -> list[str]:
    factors = _whole(3, 4, 2)
    found = factors.recommend([0, 2], N=2, items=np.array([], np.int64))
    return wrong(ids=bool((found.ids == -1).all()), scores=bool(np.isneginf(found.scores).all()))


def _of_very_different_size() -> list[str]:
    """Whatever is not in a list is below its last entry, but for rounding: (k + 2)·eps·‖u‖·‖v‖ at most."""
    draw = np.random.default_rng(77)
    U, V = ((draw.normal(size=(c, 17)) * 10 ** draw.uniform(-3, 3, (c, 1))).astype(np.float32) for c in (40, 300))
    ids, scores = lfm_np.Factors(U, V).recommend(np.arange(40), N=12)
    S = U.astype(np.float64) @ V.astype(np.float64).T
    bound = 19 * 2.0**-23 * np.linalg.norm(U.astype(float), axis=1) * np.linalg.norm(V.astype(float), axis=1).max()
    bad = []
    for u in range(40):
        listed = S[u, ids[u]]
        rest = np.delete(S[u], ids[u])
        if len(set(ids[u].tolist())) != 12 or abs(scores[u] - listed).max() > bound[u]:
            bad.append(f"scores {u}")
        if (np.diff(listed) > 2 * bound[u]).any() or rest.max() > listed.min() + 2 * bound[u]:
            bad.append(f"order {u}")
    return bad


def _broadcast() -> list[str]:
    factors = _whole(5, 7, 3, 4, np.float32, True)
    S = _scores(factors)
    items = np.array([6, 0, 6, 2])
    return wrong(
        user=np.array_equal(factors.scores(3, items), S[3, items]),
        item=np.array_equal(factors.scores([4, 0], 5), S[[4, 0], 5]),
        pairs=np.array_equal(factors.scores([1, 2], [2, 1]), S[[1, 2], [2, 1]]),
        both=factors.scores(1, 1).shape == () and float(factors.scores(1, 1)) == S[1, 1],
        none=factors.scores([], 3).shape == (0,),
        dtype=factors.scores([0], [0]).dtype == np.float32,
    )


# --- similar -------------------------------------------------------------------------------------

PLANE = np.array([[3.0, 4], [4, 3], [0, 0], [-3, -4], [6, 8], [-4, 3]])


def _cosines() -> list[str]:
    """Of vectors of lengths 5 and 10, and one of 0, whose cosines are 0."""
    norms = np.array([5.0, 5, 1, 5, 10, 5])
    C = PLANE @ PLANE.T / np.outer(norms, norms)
    found = lfm_np.Factors(np.ones((1, 2)), PLANE).similar_items([0, 2, 5], N=8)
    bad = []
    for place, item in enumerate((0, 2, 5)):
        ids = found.ids[place].tolist()
        if sorted(ids) != [-1, -1, 0, 1, 2, 3, 4, 5] or ids[6:] != [-1, -1]:
            bad.append(f"{item}: all of them")
        elif not close(found.scores[place, :6], C[item, ids[:6]], 1e-14) or (np.diff(C[item, ids[:6]]) > 1e-14).any():
            bad.append(f"{item}: in order")
    if found.ids[1].tolist()[:6] != [0, 1, 2, 3, 4, 5]:
        bad.append("equal scores in ascending order")
    return bad


def _inner(side: str) -> list[str]:
    factors = _whole(8, 8, 4, 3, np.float64, True)
    F = factors.user_factors if side == "users" else factors.item_factors
    call = factors.similar_users if side == "users" else factors.similar_items
    found = call([7, 1], N=5, metric="inner")
    return _as_sorted(found, (F @ F.T)[[7, 1]], np.ones((2, 8), bool), 5)


# --- metrics -------------------------------------------------------------------------------------


def _all_metrics(k: int, n: int) -> list[str]:
    factors, train, test = _whole(40, n, 3, k), _mask(40, n, 0.3, k), _mask(40, n, 0.15, k + 1)
    of = ("recall", "capped_recall", "precision", "hit_rate", "ndcg", "map", "mrr")
    names = [*(f"{name}@{k}" for name in of), "mrr", "auc"]
    found = lfm_np.evaluate(factors, _matrix(train), _matrix(test), names)
    mine = judged(_scores(factors), train, test, k)
    return [name for name in (*names, *(f"{name}_se" for name in names), "users") if not close(found[name], mine[name])]


def _whole_ranking() -> list[str]:
    """ndcg and map without a cutoff are those of a list of all items."""
    factors, train, test = _whole(30, 23, 3, 6), _mask(30, 23, 0.3, 6), _mask(30, 23, 0.2, 7)
    found = lfm_np.evaluate(factors, _matrix(train), _matrix(test), ("ndcg", "map", "mrr"))
    mine = judged(_scores(factors), train, test, 23)
    return [name for name in ("ndcg", "map", "mrr") if not close(found[name], mine[f"{name}@23"])]


def _without_training() -> list[str]:
    factors, test = _whole(20, 11, 2, 1), _mask(20, 11, 0.2, 3)
    found = lfm_np.evaluate(factors, None, _matrix(test), ("map@4", "auc"))
    mine = judged(_scores(factors), np.zeros((20, 11), bool), test, 4)
    return [name for name in ("map@4", "auc", "auc_se", "users") if not close(found[name], mine[name])]


def _among_negatives() -> list[str]:
    """Repeated ones count once; -1, and those of the user's own rows, not at all; test items are ranked together."""
    m, n = 25, 18
    factors, train, test = _whole(m, n, 3, 9), _mask(m, n, 0.25, 9), _mask(m, n, 0.15, 10)
    negatives = np.random.default_rng(5).integers(-1, n, (m, 9))
    negatives[:, 3] = negatives[:, 0]
    S, sums = _scores(factors), []
    for u in range(m):
        relevant = set(np.flatnonzero(test[u] & ~train[u]).tolist())
        others = {int(i) for i in negatives[u]} - {-1} - set(np.flatnonzero(test[u] | train[u]).tolist())
        if not relevant:
            continue
        order = sorted(relevant | others, key=lambda i: (-S[u, i], i))
        ranks = [r for r, i in enumerate(order, 1) if i in relevant]
        top = [r for r in ranks if r <= 2]
        sums.append((len(top) / len(ranks), 1 / ranks[0], sum(1 / math.log2(r + 1) for r in ranks)))
        sums[-1] = (*sums[-1][:2], sums[-1][2] / sum(1 / math.log2(j + 1) for j in range(1, len(ranks) + 1)))
    found = lfm_np.evaluate(factors, _matrix(train), _matrix(test), ("recall@2", "mrr", "ndcg"), negatives=negatives)
    mine = np.mean(sums, axis=0)
    return wrong(
        users=found["users"] == len(sums),
        **{name: close(found[name], mine[place]) for place, name in enumerate(("recall@2", "mrr", "ndcg"))},
    )


def _standard_errors() -> list[str]:
    """Of two users s/√2 is half of how far they are apart; of one it is NaN."""
    factors = lfm_np.Factors(np.ones((2, 1)), np.array([[4.0], [3], [2], [1]]))
    test = np.array([[0, 1, 0, 0], [0, 0, 0, 1]])
    two = lfm_np.evaluate(factors, None, sp.csr_array(test), ("mrr", "auc"))
    one = lfm_np.evaluate(factors, None, sp.csr_array(test * [[1], [0]]), ("mrr", "precision@7"))
    return wrong(
        mrr=close([two["mrr"], two["mrr_se"]], [0.375, 0.125]),
        auc=close([two["auc"], two["auc_se"]], [1 / 3, 1 / 3]),
        one=math.isnan(one["mrr_se"]) and one["users"] == 1 and one["mrr"] == 0.5,
        beyond=close(one["precision@7"], 1 / 7),
    )


def _no_other_candidates() -> list[str]:
    """The first user's candidates are all relevant: no AUC, but a recall; the third's test item is known already."""
    factors = lfm_np.Factors(np.ones((3, 1)), np.array([[4.0], [3], [2], [1]]))
    train = sp.csr_array([[1, 1, 0, 0], [0, 0, 0, 0], [1, 0, 0, 0]])
    test = sp.csr_array([[0, 0, 1, 1], [0, 0, 1, 0], [1, 0, 0, 0]])
    found = lfm_np.evaluate(factors, train, test, ("auc", "recall@1"))
    return wrong(
        users=found["users"] == 2,
        auc=close(found["auc"], 1 / 3) and math.isnan(found["auc_se"]),
        recall=close([found["recall@1"], found["recall@1_se"]], [0.25, 0.25]),
    )


def _zeros(weighting: str) -> list[str]:
    """A stored 0 is seen, and relevant, for a model of ratings only."""
    X = sp.csr_array(np.arange(1.0, 13).reshape(3, 4))
    factors = lfm_np.als(X, factors=2, iterations=1, weighting=weighting, random_state=0, dtype="float64")
    cells = sp.csr_array((np.array([0.0, 1.0]), ([0, 1], [2, 1])), shape=(3, 4))
    found = factors.recommend([0, 1], N=4, seen=cells)
    users = lfm_np.evaluate(factors, None, cells, ("mrr",))["users"]
    kept = weighting == "ratings"
    return wrong(
        seen=(2 not in found.ids[0]) == kept and 1 not in found.ids[1],
        padded=(found.ids[0, 3] == -1) == kept,
        relevant=users == (2 if kept else 1),
    )


def _popular(zeros: Any) -> list[str]:
    X = sp.csr_array((np.array([5.0, 0, 1, 2, 0, 0]), ([0, 1, 1, 2, 2, 3], [1, 1, 3, 3, 0, 0])), shape=(4, 5))
    counts = [2.0, 2, 0, 2, 0] if zeros == "keep" else [0.0, 1, 0, 2, 0]
    model: Any = most_popular(X, zeros=zeros)
    order = best(np.array(counts), np.ones(5, bool), 5)
    return wrong(
        shape=model.user_factors.shape == (4, 0) and model.item_factors.shape == (5, 0),
        counts=model.item_bias.tolist() == counts and model.item_bias.dtype == np.float64,
        same=np.array_equal(model.recommend([0, 3], N=5).ids, [order, order]),
    )


# --- indexes -------------------------------------------------------------------------------------


def _vectors() -> list[str]:
    factors = _whole(6, 9, 4, 13, np.float64, True)
    V, d = factors.item_factors, np.asarray(factors.item_bias)
    squares = (V**2).sum(1) + d**2
    mine = np.column_stack([V, d, np.sqrt(squares.max() - squares)])
    found = ann.item_vectors(factors)
    asked = ann.user_vectors(factors, [5, 5, 0])
    U = np.column_stack([factors.user_factors, np.ones(6), np.zeros(6)])
    return wrong(
        items=found.dtype == np.float32 and close(found, mine, 1e-6),
        norms=close((found.astype(float) ** 2).sum(1), np.full(9, squares.max()), 1e-6),
        users=asked.dtype == np.float32 and np.array_equal(asked, U[[5, 5, 0]]),
        one=np.array_equal(ann.user_vectors(factors, 3), U[3]),
        all=np.array_equal(ann.user_vectors(factors), U),
    )


def _vectors_of_one_norm() -> list[str]:
    """No biases, and items of one length: both more coordinates are 0."""
    V = np.array([[3.0, 4], [-4, 3], [5, 0]])
    found = ann.item_vectors(lfm_np.Factors(np.ones((1, 2)), V))
    return wrong(vectors=close(found, np.column_stack([V, np.zeros((3, 2))]), 1e-6))


def _indexed(library: str) -> list[str]:
    """Forty items are all candidates of a search; scores are exact, with μ and the user's bias."""
    draw = np.random.default_rng(40)
    U, V = draw.normal(size=(5, 6)).astype(np.float32), draw.normal(size=(40, 6)).astype(np.float32)
    b, d = (draw.normal(size=c).astype(np.float32) for c in (5, 40))
    factors = lfm_np.Factors(U, V, user_bias=b, item_bias=d, global_bias=2.0)
    index = ann.usearch_index(factors) if library == "usearch" else ann.faiss_index(factors)
    found = ann.search(index, factors, [4, 1], N=5)
    S = _scores(factors)[[4, 1]]
    mine = np.argsort(-S, axis=1)[:, :5]
    return wrong(
        ids=np.array_equal(found.ids, mine),
        scores=close(found.scores, np.take_along_axis(S, mine, 1), 1e-5),
        exact=np.array_equal(found.scores[0], factors.scores(4, found.ids[0])),
        one=ann.search(index, factors, 1, N=3).ids.tolist() == mine[1, :3].tolist(),
    )


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    for n, N in ((3, 2), (255, 300), (256, 33), (257, 1), (1000, 65)):
        for dtype, biases in ((np.float32, False), (np.float64, True)):
            yield _holds(
                f"the {N} best of {n}, ties to the lower id, {'biases' if biases else 'float32'}",
                lambda n=n, N=N, dtype=dtype, biases=biases: _lists(n, N, dtype, biases),
            )
    yield _holds("one user, more than there are", _one_user)
    yield _holds("only these are allowed, and these are none", _nothing_allowed)
    yield _holds("norms over six orders of magnitude", _of_very_different_size)
    yield _holds("a scalar goes with all entries of the other", _broadcast)
    yield _holds("cosines of the plane, 0 for zero vectors", _cosines)
    for side in ("users", "items"):
        yield _holds(f"biases play no part among similar {side}", lambda side=side: _inner(side))
    for k, n in ((1, 12), (7, 31), (50, 20)):
        yield _holds(f"every metric at {k} of {n}", lambda k=k, n=n: _all_metrics(k, n))
    yield _holds("metrics of the whole ranking", _whole_ranking)
    yield _holds("no training matrix", _without_training)
    yield _holds("ranked among drawn negatives", _among_negatives)
    yield _holds("standard errors of two and of one", _standard_errors)
    yield _holds("users without other candidates have no AUC", _no_other_candidates)
    for weighting in ("ratings", "confidence"):
        yield _holds(f"a stored zero beside a model of {weighting}", lambda weighting=weighting: _zeros(weighting))
    for zeros in ("keep", "drop"):
        yield _holds(f"counts of stored cells, zeros: {zeros}", lambda zeros=zeros: _popular(zeros))
    yield _holds("items of one norm by two more coordinates", _vectors)
    yield _holds("items that had one norm", _vectors_of_one_norm)
    for library in ("usearch", "faiss"):
        if installed(library):
            yield _holds(f"an index of {library} with exact scores", lambda library=library: _indexed(library))
