"""Models that another library fitted, taken over: neighbours, EASE, NMF, SVD and BPR by sorting what NumPy scores."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import scipy.sparse as sp

from .case import Case, Group, installed
from .cases_moved_in_with_fits import NAME
from .cases_moved_in_with_models import PLAIN, lists
from .sentences_by_numpy import lfm_np, near, ranked
from .working_days import csr, faultless, judged, stars, start, wrong

_holds = faultless(Group(NAME))


def _bpr_of_implicit() -> tuple[np.ndarray, np.ndarray]:
    """Its factors: the last column of the items is the bias, that of the users is 1."""
    draw = np.random.default_rng(8)
    U, V = (draw.normal(size=(size, 4)).astype(np.float32) for size in (6, 30))
    U[:, -1] = 1
    V[:, -1] *= 3
    return U, V


def _taken_over() -> list[str]:
    U, V = _bpr_of_implicit()
    S = U.astype(np.float64) @ V.T.astype(np.float64)
    model = lfm_np.Factors(U[:, :-1], V[:, :-1], item_bias=V[:, -1])
    ids, scores = model.recommend(np.arange(6), N=30)
    mine = lists(S, np.ones(S.shape, bool), 30)
    return wrong(lists=np.array_equal(ids, mine), scores=near(scores, np.take_along_axis(S, mine, 1), 1e-6))


def _alike(whole: bool) -> list[str]:
    """implicit's cosines have the bias in them; here they have it only where it is handed over as a factor."""
    U, V = _bpr_of_implicit()
    F = V.astype(np.float64) if whole else V[:, :-1].astype(np.float64)
    F = F / np.linalg.norm(F, axis=1)[:, None]
    C = F @ F.T
    model = lfm_np.Factors(U, V) if whole else lfm_np.Factors(U[:, :-1], V[:, :-1], item_bias=V[:, -1])
    ids, cosines = model.similar_items(np.arange(30), N=12)
    best = -np.sort(-C, 1)[:, :12]
    return wrong(
        cosines=near(cosines, best, 1e-6),
        ids=near(np.take_along_axis(C, ids, 1), best, 1e-6),
        itself=np.array_equal(ids[:, 0], np.arange(30)),
    )


def _clicks(m: int, n: int, share: float, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).random((m, n)) < share).astype(np.float32)


def _together_in_rows() -> list[str]:
    """Items as columns of X: inner products are counts of common users, whole numbers with many ties."""
    X = _clicks(25, 40, 0.2)
    X[:, 7] = 0
    C = X.T @ X
    ids, counts = lfm_np.Factors(np.zeros((1, 25), np.float32), np.ascontiguousarray(X.T)).similar_items(
        np.arange(40), N=40, metric="inner"
    )
    mine = lists(C, np.ones((40, 40), bool), 40)
    return wrong(ids=np.array_equal(ids, mine), counts=np.array_equal(counts, np.take_along_axis(C, mine, 1)))


def _cosines_of_columns() -> list[str]:
    """implicit's CosineRecommender; a product that nobody bought is like nothing, the lower ids first."""
    X = _clicks(25, 40, 0.2, 1).astype(np.float64)
    X[:, 7] = 0
    norms = np.linalg.norm(X, axis=0)
    C = X.T @ X / np.where(norms > 0, norms, 1) / np.where(norms > 0, norms, 1)[:, None]
    ids, cosines = lfm_np.Factors(np.zeros((1, 25)), X.T).similar_items(np.arange(40), N=9)
    best = -np.sort(-C, 1)[:, :9]
    return wrong(
        cosines=near(cosines, best, 1e-12),
        ids=near(np.take_along_axis(C, ids, 1), best, 1e-12),
        nobody=ids[7].tolist() == list(range(9)) and not cosines[7].any(),
    )


def _neighbours(n: int, N: int) -> list[str]:
    """implicit's ItemItemRecommender: rows of X times counts of common users, whole numbers below 2²⁴."""
    X = _clicks(12, n, 0.05, n)
    C = X.T @ X
    S = X @ C
    allowed = np.random.default_rng(1).permutation(n)[: n - 3]
    banned = allowed[:2]
    free = X == 0
    free[:, np.setdiff1d(np.arange(n), allowed)] = False
    free[:, banned] = False
    ids, scores = lfm_np.Factors(X, C).recommend(
        np.arange(12), N=N, seen=sp.csr_array(X), items=allowed, exclude=banned
    )
    mine = lists(S, free, N)
    at = np.where(mine < 0, -np.inf, np.take_along_axis(S, np.maximum(mine, 0), 1))
    return wrong(ids=np.array_equal(ids, mine), scores=np.array_equal(scores, at), ties=len(np.unique(S)) < n)


def _ease() -> list[str]:
    """EASE as a factor model of n factors: scores X·B, B = I - P/diag P, P the inverse of XᵀX + λ."""
    X = _clicks(30, 18, 0.25, 2).astype(np.float64)
    P = np.linalg.inv(X.T @ X + 2.0 * np.eye(18))
    B = -P / np.diag(P)
    np.fill_diagonal(B, 0)
    model = lfm_np.Factors(X, np.ascontiguousarray(B.T))
    held = (np.random.default_rng(3).random(X.shape) < 0.3) & (X == 0)
    mine = judged(X @ B, X > 0, held, 5)
    found = lfm_np.evaluate(
        model, sp.csr_array(X), sp.csr_array(held.astype(float)), ["ndcg@5", "map@5", "recall@5", "mrr", "auc"]
    )
    return wrong(**{name: near(found[name], mine[name], 1e-12) for name in found})


def _nmf() -> list[str]:
    """Lee and Seung's steps; H lies across, and a user without events has a row of zeros and ties everywhere."""
    X = np.nan_to_num(stars(12, 9, 7))
    X[3] = 0
    draw = np.random.default_rng(0)
    W, H = draw.random((12, 3)), draw.random((3, 9))
    for _ in range(50):
        H *= (W.T @ X) / (W.T @ W @ H + 1e-12)
        W *= (X @ H.T) / (W @ H @ H.T + 1e-12)
    W[3] = 0
    ids, scores = lfm_np.Factors(np.asfortranarray(W), H.T).recommend(np.arange(12), N=9, seen=sp.csr_array(X))
    mine = lists(np.where(W.any(1)[:, None], W @ H, 0.0), X == 0, 9)
    return wrong(lists=np.array_equal(ids, mine), zeros=ids[3].tolist() == list(range(9)) and not scores[3].any())


def _svd() -> list[str]:
    """A row that is known in full is projected, as by TruncatedSVD.transform; k known cells are met."""
    X = np.random.default_rng(5).normal(size=(9, 7))
    V = np.linalg.svd(X, full_matrices=False)[2][:3].T
    words = {"weighting": "ratings", "regularization": 0.0, **PLAIN}
    model = lfm_np.Factors(X @ V, V)
    rows = np.random.default_rng(6).normal(size=(4, 7))
    full = model.fold_in_users(sp.csr_array(rows), **words).user_factors
    some = np.full((1, 7), np.nan)
    some[0, [1, 4, 6]] = [2.0, 0.0, -1.0]
    three = model.fold_in_users(csr(some), **words)
    return wrong(
        projected=near(full, rows @ V),
        met=near(three.scores(0, [1, 4, 6]), [2.0, 0.0, -1.0]),
        factors=near(three.user_factors[0], np.linalg.solve(V[[1, 4, 6]], [2.0, 0.0, -1.0])),
    )


def _lightfm(biased: bool) -> list[str]:
    """predict(user, items) in float32, and lists that a user's bias does not move."""
    draw = np.random.default_rng(9)
    U, V, bu, bi = (draw.normal(size=size).astype(np.float32) for size in ((5, 10), (40, 10), (5,), (40,)))
    S = U.astype(np.float64) @ V.T + bi + (bu[:, None] if biased else 0.0)
    model = lfm_np.Factors(U, V, item_bias=bi, user_bias=bu if biased else None)
    items = draw.permutation(40)
    known = _clicks(5, 40, 0.3, 3)
    ids = model.recommend(np.arange(5), N=40, seen=sp.csr_array(known)).ids
    return wrong(
        predicted=near(model.scores(3, items), S[3, items], 1e-5),
        pairs=near(model.scores([4, 0, 4], [39, 0, 1]), S[[4, 0, 4], [39, 0, 1]], 1e-5),
        lists=np.array_equal(ids, lists(U.astype(np.float64) @ V.T + bi, known == 0, 40)),
    )


def _for_all_users() -> list[str]:
    """Spark's recommendForAllUsers, which leaves nothing out: ids of text and of 64 bits, pandas in and out."""
    import pandas as pd

    frame = pd.DataFrame({"who": ["u10", "u9", "é", "u10", "Z"], "what": [2**40 + 1, 2**40, 7, 7, -3]})
    data = lfm_np.Interactions.from_frame(frame, "who", "what")
    U, V = start(4, 4, 2)
    found = lfm_np.recommend_frame(lfm_np.Factors(U, V), data, N=3)
    who, what = ["Z", "u10", "u9", "é"], [-3, 7, 2**40, 2**40 + 1]
    S, mine = U @ V.T, []
    for u, name in enumerate(who):
        mine += [(name, what[i], r) for r, i in enumerate(ranked(S[u], range(4), 3), 1)]
    return wrong(
        pandas=isinstance(found, pd.DataFrame),
        rows=list(zip(found["user"], found["item"], found["rank"], strict=True)) == mine,
        scores=near(found["score"], [S[who.index(a), what.index(b)] for a, b, _ in mine], 1e-12),
    )


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    yield _holds("implicit: a BPR model taken over", _taken_over)
    for whole in (True, False):
        yield _holds(f"implicit: cosines {'with' if whole else 'without'} the bias", lambda a=whole: _alike(a))
    yield _holds("implicit: items by common users", _together_in_rows)
    yield _holds("implicit: cosines of columns", _cosines_of_columns)
    for n, N in ((257, 256), (255, 257), (40, 3)):
        yield _holds(f"implicit: neighbours, {N} of {n}", lambda a=n, b=N: _neighbours(a, b))
    yield _holds("irspack: EASE as factors", _ease)
    yield _holds("scikit-learn: NMF taken over", _nmf)
    yield _holds("scikit-learn: TruncatedSVD taken over", _svd)
    for biased in (True, False):
        yield _holds(f"lightfm: predict {'with' if biased else 'without'} a user's bias", lambda a=biased: _lightfm(a))
    if installed("pandas", "narwhals", "pyarrow"):
        yield _holds("Spark: recommendForAllUsers", _for_all_users)
