"""Journeys of clicks from fit to fold-in, file, list and judgement; every step beside float64 loops."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

import lfm_np
from lfm_np.evaluation import most_popular

from .case import Case, Group
from .places import inside
from .working_days import (
    NAN,
    Model,
    all_scores,
    best,
    close,
    csr,
    dense,
    faultless,
    judged,
    raised,
    same,
    stars,
    start,
    tells,
    wrong,
)

_GROUP = Group("quarter past four")
_holds = faultless(_GROUP)
HU = Model("hu-koren", 2.0, 1.0, 0.5)
RENDLE = Model("ials", 1.5, 0.3, 0.02, 1.0)
CONFIDENT = Model("confidence", 3.0, 0.4, 0.7, 0.5)


def fitted(X: np.ndarray, model: Model, k: int = 3, sweeps: int = 3, **words: Any) -> Any:
    words = {"init": start(*X.shape, k), "dtype": "float64", "random_state": 0, **model.words, **words}
    return lfm_np.als(csr(X), factors=k, iterations=sweeps, **words)


def product(X: np.ndarray, model: Model, k: int = 3, sweeps: int = 3) -> np.ndarray:
    U, V = model.sweeps(X, start(*X.shape, k)[1], sweeps)
    return U @ V.T


def lists(S: np.ndarray, allowed: np.ndarray, N: int) -> list[list[int]]:
    return [best(s, a, N) for s, a in zip(S, allowed, strict=True)]


def _folded_and_listed() -> list[str]:
    X, new = stars(24, 9), stars(5, 9, seed=4)
    fit = fitted(X, RENDLE)
    folded = fit.fold_in_users(csr(new))
    S = RENDLE.half(new, fit.item_factors) @ fit.item_factors.T
    ids, scores = folded.recommend(range(5), N=9, seen=csr(new))
    mine = lists(S, np.isnan(new), 9)
    padded = all(np.isneginf(s[i == -1]).all() for i, s in zip(ids, scores, strict=True))
    return wrong(
        fit=close(all_scores(fit), product(X, RENDLE), 1e-8),
        folded=close(all_scores(folded), S, 1e-8),
        lists=ids.tolist() == mine,
        padded=padded and (ids == -1).any(),
        items=np.array_equal(folded.item_factors, fit.item_factors),
    )


def _mapped_updated_explained(place: Path) -> list[str]:
    X, rows = stars(20, 8, seed=1), stars(3, 8, seed=2)
    fit = fitted(X, HU)
    fit.save(place / "model")
    again = lfm_np.Factors.load(place / "model", mmap=True)
    more = again.update(csr(rows), users=[21, 4, 20])
    whole = np.vstack([X, np.full((2, 8), NAN)])
    whole[[21, 4, 20]] = rows
    U = HU.half(rows, fit.item_factors)
    why = more.explain(21, 5, csr(whole))
    has = ~np.isnan(rows[0])
    V, c = fit.item_factors, 1 + 2.0 * rows[0][has]
    A = V.T @ V + (V[has].T * (c - 1)) @ V[has] + 0.5 * np.eye(3)
    parts = dict(zip(np.flatnonzero(has), (V[has] * c[:, None]) @ np.linalg.solve(A, V[5]), strict=True))
    return wrong(
        bits=same(again, fit),
        rows=close(more.user_factors[[21, 4, 20]], U, 1e-9),
        rest=np.array_equal(np.delete(more.user_factors, [4, 20, 21], 0), np.delete(fit.user_factors, 4, 0)),
        items=sorted(why.items) == sorted(parts),
        parts=close(why.contributions, [parts[int(i)] for i in why.items], 1e-9),
        score=close(why.score, U[0] @ V[5], 1e-9) and close(why.baseline + why.contributions.sum(), why.score, 1e-9),
    )


def _users_then_items() -> list[str]:
    X = stars(18, 10, seed=3)
    old = X[:15, :8]
    fit = fitted(old, CONFIDENT)
    grown = fit.update(csr(X[15:, :8]), users=[15, 16, 17])
    wide = grown.update(csr(X[:, 8:]), items=[8, 9])
    U = np.vstack([fit.user_factors, CONFIDENT.half(X[15:, :8], fit.item_factors)])
    V = np.vstack([fit.item_factors, CONFIDENT.half(X[:, 8:].T, U)])
    return wrong(
        shape=wide.shape == (18, 10),
        users=close(wide.user_factors, U, 1e-9),
        items=close(wide.item_factors, V, 1e-9),
        J=close(lfm_np.objective(csr(X), wide), CONFIDENT.objective(X, U, V), 1e-9),
        old=close(lfm_np.objective(csr(old), fit), CONFIDENT.objective(old, *map(np.array, (U[:15], V[:8]))), 1e-9),
    )


def _new_items_ranked() -> list[str]:
    X = stars(16, 11, seed=5)
    fit = fitted(X[:, :7], RENDLE, 2)
    fresh = fit.fold_in_items(csr(X[:, 7:]))
    V = RENDLE.half(X[:, 7:].T, fit.user_factors)
    S = fit.user_factors @ V.T
    ids, scores = fresh.recommend([3, 3, 0], N=6, seen=csr(X[:, 7:]), exclude=[2])
    allowed = np.isnan(X[:, 7:])
    allowed[:, 2] = False
    mine = [best(S[u], allowed[u], 6) for u in (3, 3, 0)]
    return wrong(
        shape=fresh.shape == (16, 4),
        items=close(fresh.item_factors, V, 1e-9),
        lists=ids.tolist() == mine,
        scores=all(close(s[i >= 0], S[u, i[i >= 0]], 1e-9) for u, i, s in zip((3, 3, 0), ids, scores, strict=True)),
    )


def _watched() -> list[str]:
    X, seen = stars(14, 9, seed=6), []

    def look(record: Any, factors: Any) -> None:
        seen.append(all_scores(factors))
        record["own"] = float(record["iteration"]) ** 2

    fit = fitted(X, HU, sweeps=4, callback=look)
    facts, V = {}, start(14, 9, 3)[1]
    for n, record in enumerate(fit.history):
        U = HU.half(X, V)
        facts[f"users {n}"] = close(record["objective_users"], HU.objective(X, U, V), 1e-9)
        V = HU.half(X.T, U)
        facts[f"both {n}"] = close(record["objective"], HU.objective(X, U, V), 1e-9)
        facts[f"seen {n}"] = close(seen[n], U @ V.T, 1e-8) and record["own"] == record["iteration"] ** 2
    G = fit.item_factors.T @ fit.item_factors
    facts["canonical"] = abs(G - np.diag(np.diag(G))).max() < 1e-10 * G.max() and bool((np.diff(np.diag(G)) <= 0).all())
    return wrong(**facts, many=len(fit.history) == len(seen) == 4)


def _stopped_where_foreseen() -> list[str]:
    X = stars(14, 9, seed=7)
    V, J = start(14, 9, 3)[1], []
    for _ in range(30):
        U = RENDLE.half(X, V)
        V = RENDLE.half(X.T, U)
        J.append(RENDLE.objective(X, U, V))
    falls = [(J[n] - J[n + 1]) / J[n] for n in range(29)]
    at = next(n for n in range(4, 29) if falls[n] < min(falls[:n]) * 0.97)
    tolerance = float(np.sqrt(falls[at] * min(falls[:at])))
    fit = fitted(X, RENDLE, sweeps=30, tolerance=tolerance)
    short = fitted(X, RENDLE, sweeps=at + 1, tolerance=tolerance)
    return wrong(
        converged=fit.status == lfm_np.Status.CONVERGED,
        sweeps=len(fit.history) == at + 2,
        J=close([r["objective"] for r in fit.history], J[: at + 2], 1e-8),
        not_yet=short.status == "max_iterations" and len(short.history) == at + 1,
    )


def _stopped_and_gone_on(place: Path) -> list[str]:
    X = stars(14, 9, seed=8)

    def enough(record: Any, factors: Any) -> None:
        if record["iteration"] == 2:
            raise StopIteration

    first = fitted(X, CONFIDENT, sweeps=9, callback=enough, checkpoint=place / "c")
    copied = pickle.loads(pickle.dumps(copy.deepcopy(first)))
    then = fitted(X, CONFIDENT, sweeps=4, checkpoint=lfm_np.Checkpoint(place / "c", every=50))
    return wrong(
        stopped=first.status == "stopped" and len(first.history) == 2,
        two=close(all_scores(first), product(X, CONFIDENT, sweeps=2), 1e-8),
        copied=same(copied, first) and copied.status == "stopped",
        four=close(all_scores(then), product(X, CONFIDENT, sweeps=4), 1e-8),
        history=[r["iteration"] for r in then.history] == [1, 2, 3, 4] and then.status == "max_iterations",
    )


def _by_name() -> list[str]:
    draw = np.random.default_rng(3)
    users, items = [f"u{i:02}" for i in draw.integers(0, 15, 70)], [f"tëa {i}" for i in draw.integers(0, 8, 70)]
    data = lfm_np.Interactions.from_arrays(users, items, duplicates="count")
    counts: dict[tuple[str, str], int] = {}
    for pair in zip(users, items, strict=True):
        counts[pair] = counts.get(pair, 0) + 1
    X = np.full((len(set(users)), len(set(items))), NAN)
    for (u, i), n in counts.items():
        X[sorted(set(users)).index(u), sorted(set(items)).index(i)] = n
    init = start(*X.shape, 2)
    fit = lfm_np.als(data, factors=2, iterations=2, init=init, dtype="float64", **HU.words)
    V = HU.sweeps(X, init[1], 2)[1]
    unit = V / np.linalg.norm(V, axis=1, keepdims=True)
    place = int(data.columns_of(["tëa 3"])[0])
    ids, cosines = fit.similar_items(place, N=4)
    mine = best(unit @ unit[place], np.ones(len(V), bool), 4)
    return wrong(
        matrix=np.array_equal(dense(data), X, equal_nan=True),
        names=data.item_ids(ids).tolist() == [sorted(set(items))[i] for i in mine],
        cosines=close(cosines, (unit @ unit[place])[mine], 1e-9),
    )


def _last_judged() -> list[str]:
    X, draw = stars(22, 12, seed=9), np.random.default_rng(1)
    times = np.full(X.shape, NAN)
    times[~np.isnan(X)] = draw.integers(0, 40, (~np.isnan(X)).sum())
    cells = csr(X)
    data = lfm_np.Interactions(cells, np.arange(22), np.arange(12), times[~np.isnan(X)].astype(int))
    train, test = data.split("last", n=2)
    held = np.zeros(X.shape, bool)
    for u in range(22):
        mine = sorted(np.flatnonzero(~np.isnan(X[u])), key=lambda i, u=u: (times[u, i], i))
        held[u, mine[max(1, len(mine) - 2) :]] = True
    known = np.where(held, NAN, X)
    init = start(22, 12, 3)
    fit = lfm_np.als(train, factors=3, iterations=3, init=init, dtype="float64", **CONFIDENT.words)
    names = ("recall@3", "ndcg@3", "map@3", "mrr@3", "mrr", "auc", "precision@3", "hit_rate@3", "capped_recall@3")
    found = lfm_np.evaluate(fit, train, test, names)
    mine_too = judged(product(known, CONFIDENT), ~np.isnan(known), held, 3)
    return wrong(
        train=np.array_equal(dense(train), known, equal_nan=True),
        test=np.array_equal(~np.isnan(dense(test)), held),
        users=found["users"] == mine_too["users"],
        **{name: close(found[name], mine_too[name], 1e-12) for name in names},
        se=close(found["ndcg@3_se"], mine_too["ndcg@3_se"], 1e-9),
    )


def _liked_core_listed() -> list[str]:
    X = stars(20, 12, seed=10)
    data = lfm_np.Interactions(csr(X), np.arange(100, 120), np.array([f"i{n:02}" for n in range(12)]))
    liked = data.binarize(threshold=3).core(2, 3)
    L = np.where(np.nan_to_num(X) >= 3, 1.0, NAN)
    rows, columns = np.arange(20), np.arange(12)
    while True:
        keep = (~np.isnan(L)).sum(1) >= 2
        rows, L = rows[keep], L[keep]
        other = (~np.isnan(L)).sum(0) >= 3
        columns, L = columns[other], L[:, other]
        if keep.all() and other.all():
            break
    init = start(*L.shape, 2)
    fit = lfm_np.als(liked, factors=2, iterations=3, init=init, dtype="float64", **RENDLE.words)
    S = product(L, RENDLE, 2)
    names = liked.items.tolist()
    table = lfm_np.recommend_frame(
        fit, liked, liked.users[[2, 0]], N=3, seen=liked, items=names[1:], exclude=names[3:4], backend="pyarrow"
    ).to_pylist()
    allowed = np.isnan(L)
    allowed[:, [0, 3]] = False
    mine = [
        (int(liked.users[u]), names[i], rank)
        for u in (2, 0)
        for rank, i in enumerate((i for i in best(S[u], allowed[u], 3) if i >= 0), 1)
    ]
    return wrong(
        ids=liked.users.tolist() == (rows + 100).tolist() and names == [f"i{n:02}" for n in columns],
        ones=np.array_equal(dense(liked), L, equal_nan=True),
        table=[(row["user"], row["item"], row["rank"]) for row in table] == mine,
        scores=close(
            [r["score"] for r in table], [S[list(liked.users).index(u), names.index(i)] for u, i, _ in mine], 1e-8
        ),
    )


def _popular_written(place: Path) -> list[str]:
    import pyarrow.parquet as pq

    X = stars(13, 7, seed=11)
    data = lfm_np.Interactions(csr(X), np.arange(13), np.arange(7) * 10)
    train, test = data.split("random", test_fraction=0.4, random_state=5)
    model, counts = most_popular(train), (~np.isnan(dense(train))).sum(0)
    S = np.tile(counts.astype(float), (13, 1))
    lfm_np.recommend_parquet(model, data, place / "p.parquet", N=2, seen=train)
    rows = pq.read_table(place / "p.parquet").to_pylist()
    mine = [
        (u, 10 * i, counts[i], r)
        for u in range(13)
        for r, i in enumerate((i for i in best(S[u], np.isnan(dense(train))[u], 2) if i >= 0), 1)
    ]
    found = lfm_np.evaluate(model, train, test, ("auc", "ndcg@2"))
    told = judged(S, ~np.isnan(dense(train)), ~np.isnan(dense(test)), 2)
    return wrong(
        halves=train.matrix.nnz + test.matrix.nnz == data.matrix.nnz,
        rows=[(r["user"], r["item"], r["score"], r["rank"]) for r in rows] == mine,
        auc=close(found["auc"], told["auc"], 1e-12) and close(found["ndcg@2"], told["ndcg@2"], 1e-12),
    )


def _largest_of_pairs() -> list[str]:
    pairs, values = np.array([(0, 1), (2, 0), (0, 1), (1, 2), (2, 0), (0, 0)]), [1.0, 5, 4, 2, 3, 1]
    X = np.array([[1, 4, NAN], [NAN, NAN, 2], [5, NAN, NAN], [NAN, NAN, NAN]])
    Y = lfm_np.to_csr(pairs, shape=(4, 3), values=values, duplicates="max")
    fit = lfm_np.als(Y, factors=2, iterations=2, init=start(4, 3, 2), dtype="float64", **RENDLE.words)
    U, V = RENDLE.sweeps(X, start(4, 3, 2)[1], 2)
    other = RENDLE._replace(alpha=5.0, nu=0.25)
    return wrong(
        matrix=np.array_equal(dense(Y), X, equal_nan=True) and Y.dtype == np.float32,
        scores=close(all_scores(fit), U @ V.T, 1e-9),
        nobody=not fit.user_factors[3].any(),
        own=close(lfm_np.objective(Y, fit), RENDLE.objective(X, U, V), 1e-9),
        other=close(lfm_np.objective(Y, fit, alpha=5.0, regularization_exponent=0.25), other.objective(X, U, V), 1e-9),
    )


def _dict_is_what_is_seen() -> list[str]:
    pairs = lfm_np.datasets.make_interactions(40, 12, 9, random_state=2)
    seen = lfm_np.build_dict(pairs)
    X = lfm_np.to_csr(pairs, shape=(40, 12))
    fit = lfm_np.als(X, factors=3, iterations=2, dtype="float64", random_state=1, regularization=0.3)
    ids, _ = fit.recommend(range(40), N=12, seen=X)
    S = all_scores(fit)
    allowed = np.ones((40, 12), bool)
    for u, items in seen.items():
        allowed[u, items] = False
    U = Model(lam=0.3).half(dense(X), fit.item_factors)
    return wrong(
        lists=ids.tolist() == lists(S, allowed, 12),
        folded=close(fit.fold_in_users(X).user_factors, U, 1e-8),
        keys=list(seen) == list(range(40)) and sum(map(len, seen.values())) == len(pairs),
    )


def _svd_served() -> list[str]:
    X = np.nan_to_num(stars(12, 8, seed=12))
    P, s, Qt = np.linalg.svd(X)
    model = lfm_np.Factors(P[:, :3] * s[:3], np.ascontiguousarray(Qt[:3].T))
    words = {"weighting": "confidence", "alpha": 2.0, "unobserved_weight": 0.5, "regularization": 0.3}
    words["regularization_exponent"] = 1.0
    rows = np.full((2, 8), NAN)
    rows[0, [1, 4]] = [1.0, 2.0]
    folded = model.fold_in_users(csr(rows), **words)
    mine = Model("confidence", 2.0, 0.5, 0.3, 1.0).half(rows, Qt[:3].T)
    truncated = (P[:, :3] * s[:3]) @ Qt[:3]
    users, items = np.nonzero(X)
    return wrong(
        scores=close(model.scores(users, items), truncated[users, items], 1e-12),
        folded=close(folded.user_factors, mine, 1e-10) and not folded.user_factors[1].any(),
        told=tells(raised(lambda: model.fold_in_users(csr(rows))), "regularization|weighting|alpha"),
    )


def _without_one_user(place: Path) -> list[str]:
    """A stored zero and an empty row and column all along."""
    X = sp.csr_array(np.nan_to_num(stars(9, 7, seed=13)))
    X = sp.csr_array((X.data.copy(), X.indices.copy(), X.indptr.copy()), shape=X.shape)
    X.data[X.indptr[4] : X.indptr[5]] = 0
    X.data[X.indices == 2] = 0
    full = np.where(X.toarray() == 0, NAN, X.toarray())
    fit = lfm_np.als(X, factors=2, iterations=2, init=start(9, 7, 2), dtype="float64", **HU.words)
    fit.save(place / "m")
    ids, scores = lfm_np.Factors.load(place / "m").recommend(4, N=8, seen=X)
    ends = lfm_np.evaluate(fit, None, X, ("mrr", "auc"))
    none = np.zeros((9, 7), bool)
    told = judged(all_scores(fit), none, ~np.isnan(full), 3)
    return wrong(
        scores=close(all_scores(fit), product(full, HU, 2, 2), 1e-9),
        zeros=not fit.user_factors[4].any() and not fit.item_factors[2].any(),
        order=ids.tolist() == [0, 1, 2, 3, 4, 5, 6, -1] and not scores[:7].any(),
        judged=close(ends["mrr"], told["mrr"], 1e-12) and close(ends["auc"], told["auc"], 1e-12),
        users=ends["users"] == told["users"] == 8,
    )


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    yield _holds("ials, folded in, listed to the end", _folded_and_listed)
    yield _holds("saved, mapped, updated out of order, explained", inside(_mapped_updated_explained))
    yield _holds("users added, then items, then the objective", _users_then_items)
    yield _holds("new items beside old users, listed with a scalar's twin", _new_items_ranked)
    yield _holds("a callback looks on, and so does NumPy", _watched)
    yield _holds("tolerance ends where NumPy's objective says", _stopped_where_foreseen)
    yield _holds("stopped, copied, gone on from the file", inside(_stopped_and_gone_on))
    yield _holds("names counted, fitted, and the like", _by_name)
    yield _holds("last two held out, confidence, all metrics", _last_judged)
    yield _holds("liked, cored, fitted, a table of some", _liked_core_listed)
    yield _holds("popular items into Parquet, and judged", inside(_popular_written))
    yield _holds("largest of pairs, ν of 1, two objectives", _largest_of_pairs)
    yield _holds("build_dict names what recommend leaves out", _dict_is_what_is_seen)
    yield _holds("an SVD of NumPy's folds in by confidence", _svd_served)
    yield _holds("stored zeros all the way", inside(_without_one_user))
