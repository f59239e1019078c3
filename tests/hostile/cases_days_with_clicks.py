"""Working days with clicks and counts: logs, weightings, lists, metrics and newcomers, beside float64 by hand."""

from __future__ import annotations

import copy
import itertools
import pickle
import uuid
from collections.abc import Iterator
from typing import Any

import numpy as np
import scipy.sparse as sp

import lfm_np
from lfm_np import losses, sampling
from lfm_np.evaluation import most_popular

from .case import Case, Group, installed
from .working_days import (
    NAN,
    Model,
    all_scores,
    best,
    close,
    csr,
    dense,
    faultless,
    folder,
    judged,
    same,
    stars,
    start,
    wrong,
)

_GROUP = Group("day with clicks")
_day = faultless(_GROUP)


def _log_to_lists(rule: Model, solver: str) -> list[str]:
    draw = np.random.default_rng(21)
    log = np.column_stack([draw.integers(0, 35, 500), draw.zipf(1.6, 500) % 18]).astype(np.uint16)
    X = np.full((35, 18), NAN)
    for u, i in log.tolist():
        X[u, i] = (0 if np.isnan(X[u, i]) else X[u, i]) + 1
    counts = lfm_np.to_csr(log, shape=(35, 18))
    U, V = start(35, 18, 4)
    fit = lfm_np.als(counts, factors=4, iterations=2, init=(U, V), dtype="float64", solver=solver, **rule.words)
    mine = rule.sweeps(X, V, 2)
    S = all_scores(fit)
    lists = fit.recommend(np.arange(35), N=6, seen=counts)
    return wrong(
        counts=np.array_equal(dense(counts), X, equal_nan=True),
        scores=close(S, mine[0] @ mine[1].T, 1e-7),
        objective=close(fit.history[-1]["objective"], rule.objective(X, *mine), 1e-7),
        half=close(fit.history[-1]["objective_users"], rule.objective(X, mine[0], rule.sweeps(X, V, 1)[1]), 1e-7),
        lists=lists.ids.tolist() == [best(s, np.isnan(x), 6) for s, x in zip(S, X, strict=True)],
    )


def _past_and_future() -> list[str]:
    draw = np.random.default_rng(22)
    pairs = [(u, i) for u in range(24) for i in range(15) if draw.random() < 0.35]
    users, items = map(np.array, zip(*pairs, strict=True))
    days = np.datetime64("2024-02-27", "D") + draw.integers(0, 5, len(pairs))
    days[users == 3] = np.datetime64("2024-03-02", "D")  # somebody who came on the last day
    data = lfm_np.Interactions.from_arrays(users, items, timestamps=days)
    train, test = data.split("time", at="2024-03-01")
    late = days >= np.datetime64("2024-03-01", "D")
    A, B = np.zeros((24, 15), bool), np.zeros((24, 15), bool)
    A[users[~late], items[~late]], B[users[late], items[late]] = True, True
    fit = lfm_np.als(train, factors=3, alpha=5.0, regularization=1.0, dtype="float64", random_state=1)
    names = [f"{m}@4" for m in ("recall", "capped_recall", "precision", "hit_rate", "ndcg", "map", "mrr")]
    found = lfm_np.evaluate(fit, train, test, [*names, "mrr", "auc"])
    mine = judged(all_scores(fit), A, B, 4)
    popular = lfm_np.evaluate(most_popular(train), train, test, [*names, "mrr", "auc"])
    base = judged(np.tile(A.sum(axis=0), (24, 1)), A, B, 4)
    return wrong(
        split=np.array_equal(~np.isnan(dense(train)), A) and np.array_equal(~np.isnan(dense(test)), B),
        came_late=not fit.user_factors[3].any() and fit.recommend(3, N=4).ids.tolist() == [0, 1, 2, 3],
        metrics=set(found) == set(mine) and all(close(found[name], mine[name], 1e-12) for name in mine),
        popular=all(close(popular[name], base[name], 1e-12) for name in base),
    )


def _among_sampled() -> list[str]:
    X, Y = ~np.isnan(stars(20, 30, seed=23, share=0.2)), np.zeros((20, 30), bool)
    draw = np.random.default_rng(24)
    for u in range(20):
        Y[u, draw.choice(np.flatnonzero(~X[u]))] = True
    negatives = draw.integers(-1, 30, (20, 9))  # repeated ones, -1, and some of the user's own
    fit = lfm_np.Factors(draw.normal(size=(20, 3)), draw.normal(size=(30, 3)))
    train, test = (sp.csr_array(M.astype(np.float32)) for M in (X, Y))
    found = lfm_np.evaluate(fit, train, test, ["hit_rate@3", "ndcg@3", "mrr", "auc"], negatives=negatives)
    S = all_scores(fit)
    outside = np.ones((20, 30), bool)
    for u in range(20):
        outside[u, [j for j in negatives[u] if j >= 0]] = False
    mine = judged(S, X | (outside & ~Y), Y, 3)
    return wrong(**{name: close(found[name], mine[name], 1e-12) for name in ("hit_rate@3", "ndcg@3", "mrr", "auc")})


def _ids_of_uuids_and_days() -> list[str]:
    import pyarrow.parquet as pq

    draw = np.random.default_rng(25)
    people = [uuid.UUID(int=int(x)) for x in draw.integers(1, 2**60, 8)]
    days = np.datetime64("1969-12-28", "D") + np.arange(7)
    cells = [(u, d) for u in range(8) for d in range(7) if draw.random() < 0.5]
    data = lfm_np.Interactions.from_arrays([str(people[u]) for u, _ in cells], days[[d for _, d in cells]])
    fit = lfm_np.als(data, factors=2, regularization=0.5, random_state=2)
    S, X = all_scores(fit), dense(data)
    mine = []
    for u in range(len(data.users)):
        ids = fit.recommend(u, N=3, seen=data).ids
        if {i for i in ids if i >= 0} - set(np.flatnonzero(np.isnan(X[u]))) or len(set(ids)) < len(ids[ids >= 0]):
            return ["a seen or repeated item"]
        mine += [(data.users[u], data.items[i], r) for r, i in enumerate(ids, 1) if i >= 0]
    with folder() as place:
        lfm_np.recommend_parquet(fit, data, place / "all.parquet", N=3, seen=data)
        table = pq.read_table(place / "all.parquet")
    read = list(zip(*(table[name].to_pylist() for name in ("user", "item", "rank")), strict=True))
    frame = lfm_np.recommend_frame(fit, data, N=3, seen=data)
    expected = [(str(u), d.astype(object), r) for u, d, r in mine]
    return wrong(file=read == expected, frame=frame.to_pylist() == table.to_pylist(), scores=bool(np.isfinite(S).all()))


def _nothing_moves() -> list[str]:
    X = csr(stars(20, 15), np.float32)
    fit = lfm_np.sgd(X, losses.BPR(), factors=3, epochs=2, init=(np.zeros((20, 3)), np.zeros((15, 3))), dtype="float64")
    return wrong(
        loss=all(close(record["sampled_loss"], np.log(2), 1e-12) for record in fit.history),
        still=not fit.user_factors.any() and not fit.item_factors.any(),
    )


def _who_has_everything() -> list[str]:
    X = stars(18, 12, seed=26)
    X[5], X[11] = 1.0, 2.0
    found = []
    for loss in (losses.BPR(), losses.WARP(), losses.SampledSoftmax(), losses.Logistic()):
        fit = lfm_np.sgd(csr(X, np.float32), loss, factors=3, epochs=2, negatives=1, random_state=0)
        lists = fit.recommend([5, 0], N=3, seen=csr(X)).ids
        name = type(loss).__name__
        found += wrong(
            **{
                f"{name} skipped": fit.params["skipped_rows"] == 2,
                f"{name} lists": lists[0].tolist() == [-1, -1, -1],
                f"{name} finite": bool(np.isfinite(all_scores(fit)).all()),
            }
        )
    return found


def _a_cold_item() -> list[str]:
    X = stars(25, 12, seed=27)
    X[:, 4] = NAN
    fit = lfm_np.als(csr(X, np.float32), factors=3, regularization=0.3, random_state=1)
    V = fit.item_factors.astype(np.float64)
    length = np.linalg.norm(V, axis=1)
    cosines = V @ V.T / np.where(length > 0, length, 1)[:, None] / np.where(length > 0, length, 1)
    ids, scores = fit.similar_items(np.arange(12), N=12)
    inner = fit.similar_items([2], N=3, metric="inner")
    return wrong(
        zero=not V[4].any(),
        every=all(sorted(row) == list(range(12)) for row in ids.tolist()),
        cosines=abs(scores - np.take_along_axis(cosines, ids, 1)).max() < 1e-5,
        falling=bool((np.diff(scores, axis=1) <= 0).all()),
        cold=not scores[4].any() and ids[4].tolist() == list(range(12)),
        inner=inner.ids[0].tolist() == best((V @ V.T)[2], np.ones(12, bool), 3),
    )


def _a_new_film() -> list[str]:
    X, new = stars(25, 12, seed=28), stars(25, 2, seed=29)
    rule = Model("ials", alpha=2.0, a0=0.3, lam=0.05, nu=1.0)
    fit = lfm_np.als(csr(X), factors=3, dtype="float64", random_state=1, **rule.words)
    V = rule.half(new.T, fit.user_factors)
    grown = fit.update(csr(new), items=[12, 13])
    again = fit.update(csr(X[:, [3]]), items=[3])
    S = all_scores(grown)
    seen = np.hstack([X, new])
    return wrong(
        folded=close(fit.fold_in_items(csr(new)).item_factors, V, 1e-8),
        grown=close(grown.item_factors[12:], V, 1e-8) and np.array_equal(grown.item_factors[:12], fit.item_factors),
        fitted=close(again.item_factors, fit.item_factors, 1e-7),
        lists=grown.recommend(range(25), N=4, seen=csr(seen)).ids.tolist()
        == [best(s, np.isnan(x), 4) for s, x in zip(S, seen, strict=True)],
    )


def _steps(solver: str) -> list[str]:
    X = stars(70, 60, seed=30, share=0.7)
    rule, looked = Model("hu-koren", alpha=3.0, lam=0.5), []

    def look(record: dict[str, Any], factors: Any) -> None:
        U, V = factors.user_factors.astype(np.float64), factors.item_factors.astype(np.float64)
        looked.append(close(record["objective"], rule.objective(X, U, V), 1e-7))

    fit = lfm_np.als(
        csr(X), factors=66, solver=solver, iterations=4, dtype="float64", random_state=3, callback=look, **rule.words
    )
    J = [value for record in fit.history for value in (record["objective_users"], record["objective"])]
    return wrong(
        seen=len(looked) == 4 and all(looked), falls=all(b <= a * (1 + 1e-12) for a, b in itertools.pairwise(J))
    )


def _warm() -> list[str]:
    X, rule = stars(30, 20, seed=31), Model("confidence", alpha=4.0, a0=0.5, lam=0.2)
    words = {"factors": 4, "dtype": "float64", "random_state": 5, **rule.words}
    first, whole = (lfm_np.als(csr(X), iterations=n, **words) for n in (3, 4))
    on = lfm_np.als(csr(X), iterations=1, init=first, **words)
    pairs = lfm_np.als(csr(X), iterations=1, init=(first.user_factors, first.item_factors), **words)
    return wrong(scores=close(all_scores(on), all_scores(whole), 1e-9), same=same(on, pairs))


def _watched() -> list[str]:
    X = stars(40, 25, seed=32)
    data = lfm_np.Interactions(csr(X, np.float32), np.arange(40), np.arange(25))
    train, test = data.split("random", test_fraction=0.25, random_state=7)
    A, B = ~np.isnan(dense(train)), ~np.isnan(dense(test))
    scored = []

    def watch(record: dict[str, Any], factors: Any) -> None:
        record["ndcg@5"] = lfm_np.evaluate(factors, train, test, ["ndcg@5"])["ndcg@5"]
        scored.append(judged(all_scores(factors), A, B, 5)["ndcg@5"])
        if record["iteration"] == 3:
            raise StopIteration

    words: dict[str, Any] = {"factors": 4, "random_state": 1, "dtype": "float64", "regularization": 0.5}
    with folder() as place:
        fit = lfm_np.als(train, iterations=9, callback=watch, checkpoint=place / "c", **words)
        fit.save(place / "m")
        again = lfm_np.Factors.load(place / "m")
        on = lfm_np.als(train, iterations=5, checkpoint=place / "c", **words)
    three, five = (lfm_np.als(train, iterations=n, **words) for n in (3, 5))
    return wrong(
        stopped=fit.status is lfm_np.Status.STOPPED and again.status is lfm_np.Status.STOPPED,
        parts=bool((A ^ B).sum() == (~np.isnan(X)).sum() and A.any(axis=1).all()),
        ndcg=close([r["ndcg@5"] for r in fit.history], scored, 1e-12) and len(scored) == 3,
        kept=[r["ndcg@5"] for r in again.history] == [r["ndcg@5"] for r in fit.history],
        three=same(fit, three),
        five=same(on, five),
    )


def _copies() -> list[str]:
    X = csr(stars(20, 15, seed=33), np.float32)
    fit = lfm_np.sgd(X, losses.WARP(), sampler=sampling.Popularity(0.5), factors=4, epochs=3, random_state=0)
    expected = fit.recommend(range(20), N=15, seen=X)
    found = []
    with folder() as place:
        fit.save(place / "m")
        copies = {
            "deepcopy": copy.deepcopy(fit),
            "pickle": pickle.loads(pickle.dumps(fit)),
            "file": lfm_np.Factors.load(place / "m"),
            "mapped": lfm_np.Factors.load(place / "m", mmap=True),
        }
        for name, other in copies.items():
            lists = other.recommend(range(20), N=15, seen=X, num_threads=1)
            found += wrong(
                **{
                    f"{name} ids": np.array_equal(lists.ids, expected.ids),
                    f"{name} scores": np.array_equal(lists.scores, expected.scores),
                    f"{name} history": list(other.history) == list(fit.history),
                }
            )
        del copies, other, lists
    return found


def _small_integers() -> list[str]:
    rows, columns = np.array([0, 0, 1, 2, 0]), np.array([1, 1, 0, 2, 1])
    coo = sp.coo_array((np.array([200, 200, 7, 1, 100], np.uint8), (rows, columns)), shape=(3, 3))
    X = np.array([[NAN, 500, NAN], [7, NAN, NAN], [NAN, NAN, 1]])
    rule, (U, V) = Model("hu-koren", alpha=0.1, lam=0.1), start(3, 3, 2)
    fit = lfm_np.als(coo, factors=2, iterations=1, init=(U, V), dtype="float64", **rule.words)
    mine = rule.sweeps(X, V, 1)
    return wrong(scores=close(all_scores(fit), mine[0] @ mine[1].T, 1e-9))


def _huge_alpha(dtype: str, alpha: float, value: float) -> Any:
    X = csr(np.where(np.isnan(stars(12, 8)), NAN, value))
    return lfm_np.als(X, factors=3, alpha=alpha, weighting="hu-koren", dtype=dtype, random_state=0, iterations=2)


def _ones(fit: Any) -> bool:
    rows, columns = np.nonzero(~np.isnan(stars(12, 8)))
    return bool(np.isfinite(fit.scores(rows, columns)).all())


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    for rule in (
        Model("hu-koren", alpha=2.5, a0=0.4, lam=0.3, nu=0.5),
        Model("ials", alpha=0.7, a0=0.05, lam=0.02, nu=1.0),
        Model("confidence", alpha=40.0, a0=1.0, lam=3.0),
        Model("confidence", alpha=1e-3, a0=0.0, lam=1e-2),
    ):
        for solver in ("auto",):
            yield _day(
                f"a log of uint16 pairs to lists, {rule.weighting}, alpha0 {rule.a0}, {solver}",
                lambda r=rule, s=solver: _log_to_lists(r, s),
            )
    yield _day("by days over a leap day, with somebody who came late", _past_and_future)
    yield _day("among drawn negatives, some repeated, absent or one's own", _among_sampled)
    if installed("pyarrow", "narwhals"):
        yield _day("text of UUIDs and days before 1970, as file and frame", _ids_of_uuids_and_days)
    yield _day("BPR from zeros moves nothing and loses log 2", _nothing_moves)
    yield _day("two who have everything are skipped and get nothing", _who_has_everything)
    yield _day("a cold item is like nothing", _a_cold_item)
    yield _day("new films, folded in and added", _a_new_film)
    yield _day("objective of the steps of cg, as a callback sees it", lambda: _steps("cg"))
    yield _day("objective of the steps of subspace, as a callback sees it", lambda: _steps("subspace"))
    yield _day("warm start is one more sweep", _warm)
    yield _day("measured, stopped early, saved, and gone on", _watched)
    yield _day("copies list the same", _copies)
    yield _day("uint8 added up beyond 255", _small_integers)
    yield _GROUP.right("alpha of 1e30 in float64", lambda: _huge_alpha("float64", 1e30, 1e9), _ones)
    yield _GROUP.refused(
        "alpha of 1e30 and values of 1e9 in float32", lambda: _huge_alpha("float32", 1e30, 1e9), "alpha"
    )
