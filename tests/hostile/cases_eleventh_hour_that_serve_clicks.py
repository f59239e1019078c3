"""Programs that go on with a model of clicks: kept, blended, broken off, served and asked from all sides."""

from __future__ import annotations

import copy
import itertools
import pickle
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import scipy.sparse as sp

import lfm_np as _library

from .case import Case, Group
from .cases_eleventh_hour_with_clicks import FILM, SHOP, fitted, mask, parts, product, scored
from .working_days import (
    NAN,
    Model,
    best,
    close,
    csr,
    dense,
    faultless,
    folder,
    judged,
    raised,
    same,
    stars,
    start,
    tells,
    wrong,
)

lfm_np: Any = _library
_GROUP = Group("eleventh hour")
_holds = faultless(_GROUP)


def _seeded(method: str) -> list[str]:
    X = csr(stars(12, 9, seed=1))

    def run(seed: Any) -> Any:
        if method == "als":
            return lfm_np.als(X, factors=4, iterations=2, random_state=seed)
        return lfm_np.sgd(X, factors=4, epochs=2, random_state=seed)

    chance = run(None)
    drawn = run(np.random.default_rng(5))
    return wrong(
        told=same(run(chance.params["seed"]), chance),
        given=run(17).params["seed"] == 17,
        none=drawn.params["seed"] is None and same(drawn, run(np.random.default_rng(5))),
        chance=not same(run(None), chance),
    )


def _weighed() -> list[str]:
    """BM25 before the fit, counts that are summed, and one great number among small ones."""
    pairs = np.random.default_rng(1).integers(0, [12, 8], (150, 2))
    pairs[:40] = [3, 3]
    counts = np.zeros((12, 8))
    np.add.at(counts, tuple(pairs.T), 1)
    X = lfm_np.to_csr(pairs, shape=(12, 8)).astype(np.float64)
    length = counts.sum(1, keepdims=True)
    idf = np.log(12 / (1 + (counts > 0).sum(0)) + 1)
    table = counts * 2.2 / (1.2 * (0.25 + 0.75 * length / length.mean()) + counts) * idf
    Y = X.copy()
    rows = np.repeat(np.arange(12), np.diff(X.indptr))
    Y.data = table[rows, X.indices] * 1e4
    model = Model("confidence", alpha=1e-3, a0=1.0, lam=0.5)
    fit = lfm_np.als(Y, factors=3, iterations=2, init=start(12, 8, 3), dtype="float64", solver="exact", **model.words)
    U, V = model.sweeps(np.where(counts > 0, table * 1e4, NAN), start(12, 8, 3)[1], 2)
    return wrong(counts=np.array_equal(X.toarray(), counts), scores=close(product(fit), U @ V.T, 1e-8))


def _blended() -> list[str]:
    """A blend of two models and popularity is one model with more factors; it can be kept, and judged."""
    learn, test = parts(stars(20, 13, seed=3))
    one, two = fitted(learn, SHOP), fitted(learn, FILM, k=2)
    counts = mask(learn).sum(0)
    popular = lfm_np.evaluation.most_popular(csr(learn))
    blend = lfm_np.Factors(
        np.hstack([one.user_factors, 0.5 * two.user_factors]),
        np.hstack([one.item_factors, two.item_factors]),
        item_bias=0.01 * popular.item_bias,
    )
    S = product(one) + 0.5 * product(two) + 0.01 * counts
    with folder() as place:
        blend.save(place / "blend")
        kept = lfm_np.Factors.load(place / "blend", mmap=True)
    found = lfm_np.evaluate(kept, csr(learn), csr(test), ["map@4", "ndcg@4"])
    mine = judged(scored(blend), mask(learn), mask(test), 4)
    return wrong(
        scores=close(scored(kept), S, 1e-12),
        judged=close([found["map@4"], found["ndcg@4"]], [mine["map@4"], mine["ndcg@4"]], 1e-12),
        popular=popular.recommend(7, N=13).ids.tolist() == best(counts.astype(float), np.ones(13, bool), 13),
        counts=popular.item_bias.tolist() == counts.tolist() and popular.user_factors.shape == (20, 0),
    )


def _broken_off(stored: bool) -> list[str]:
    """An exception of the callback in the third sweep; the same call again, from memory or from the disk."""
    X = csr(stars(16, 10, seed=9)).astype(np.float32)
    words: dict[str, Any] = {"factors": 3, "random_state": 4, "alpha": 3.0, "unobserved_weight": 0.5}
    seen: list[int] = []

    def stumble(record: dict[str, Any], factors: Any) -> None:
        seen.append(record["iteration"])
        if record["iteration"] == 3:
            raise LookupError("away")

    with folder() as place:
        error = raised(lambda: lfm_np.als(X, iterations=6, checkpoint=place / "run", callback=stumble, **words))
        source = lfm_np.StoredMatrix.from_matrix(X, place / "matrix") if stored else X
        seen.append(0)
        again = lfm_np.als(
            source,
            iterations=6,
            checkpoint=place / "run",
            num_threads=2,
            callback=lambda r, f: seen.append(r["iteration"]),
            **words,
        )
        whole = lfm_np.als(X, iterations=6, **words)
        other = raised(lambda: lfm_np.als(X, iterations=6, checkpoint=place / "run", **{**words, "alpha": 3.5}))
        fewer = raised(lambda: lfm_np.als(X, iterations=2, checkpoint=place / "run", **words))
        done = lfm_np.als(source, iterations=6, checkpoint=place / "run", **words)
    return wrong(
        left=isinstance(error, LookupError),
        same=same(again, whole) and same(done, whole),
        gone_on=seen[:4] == [1, 2, 3, 0] and seen[-1] == 6 and seen[4] in (3, 4),
        history=[r["iteration"] for r in again.history] == [1, 2, 3, 4, 5, 6],
        objective=close([r["objective"] for r in again.history], [r["objective"] for r in whole.history], 1e-6),
        other=tells(other, "alpha"),
        fewer=tells(fewer, "iterations"),
    )


def _kept() -> list[str]:
    """Saved, pickled, copied, mapped while a new one takes its place: the same model, and it still folds in."""
    X, rows = stars(12, 9, seed=1), stars(2, 9, seed=2)
    fit = fitted(X, FILM, callback=lambda record, factors: record.update(note=[record["iteration"], "ok"]))
    mine = FILM.half(rows, fit.item_factors)
    with folder() as place:
        path = place / "a model"
        fit.save(path)
        read, mapped = lfm_np.Factors.load(str(path)), lfm_np.Factors.load(path, mmap=True)
        fitted(X, SHOP, k=2).save(path)
        all_of_them = [read, mapped, pickle.loads(pickle.dumps(mapped)), copy.deepcopy(fit)]
        facts = {
            "bits": all(same(fit, one) for one in all_of_them),
            "history": all([r["note"] for r in one.history] == [[1, "ok"], [2, "ok"]] for one in all_of_them),
            "folds": all(close(one.fold_in_users(csr(rows)).user_factors, mine, 1e-9) for one in all_of_them),
            "objective": all(
                close(lfm_np.objective(csr(X), one), FILM.objective(X, fit.user_factors, fit.item_factors), 1e-10)
                for one in all_of_them
            ),
            "new": lfm_np.Factors.load(path).item_factors.shape == (9, 2),
        }
    return wrong(**facts)


def _served() -> list[str]:
    """Threads that start at once with a model nobody has asked: lists, neighbours, newcomers, updates."""
    X = stars(60, 40, seed=5)
    fit = fitted(X, SHOP, k=6)
    S, rows = scored(lfm_np.Factors(fit.user_factors, fit.item_factors)), stars(8, 40, seed=6)
    mine = SHOP.half(rows, fit.item_factors)
    gate = threading.Barrier(8)
    faults: list[str] = []

    def serve(t: int) -> None:
        gate.wait()
        try:
            ask(t)
        except Exception as error:
            faults.append(repr(error))

    def ask(t: int) -> None:
        for u in range(t, 60, 8):
            ids, scores = fit.recommend(u, N=7, seen=csr(X), num_threads=1 + t % 3)
            if ids.tolist() != best(S[u], ~mask(X)[u], 7) or not np.array_equal(scores, fit.scores(u, ids)):
                faults.append(f"list of {u}")
        if not close(fit.fold_in_users(csr(rows[[t]])).user_factors, mine[[t]], 1e-9):
            faults.append(f"newcomer {t}")
        if not close(fit.update(csr(rows[[t]]), users=[60]).user_factors[60], mine[t], 1e-9):
            faults.append(f"update {t}")

    threads = [threading.Thread(target=serve, args=(t,)) for t in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return faults


def _steps(solver: str) -> list[str]:
    """Steps for long rows of many factors: what is reported is what is returned, and never rises."""
    X = stars(90, 80, seed=1, share=0.6)
    told: list[float] = []
    fit = fitted(
        X,
        SHOP,
        k=66,
        times=4,
        solver=solver,
        callback=lambda r, f: told.append(SHOP.objective(X, f.user_factors, f.item_factors)),
    )
    J = [r["objective"] for r in fit.history]
    halves = [x for r in fit.history for x in (r["objective_users"], r["objective"])]
    return wrong(
        told=close(J, told, 1e-8), falls=all(b <= a * (1 + 1e-12) for a, b in itertools.pairwise(halves)),
        solver=fit.params["solver"] == solver,
    )  # fmt: skip


def _among() -> list[str]:
    """Lists under three conditions at once, for a user twice, of more places than there are items."""
    X = stars(9, 12, seed=4)
    fit = fitted(X, SHOP)
    S = scored(fit)
    items, exclude = [11, 0, 5, 7, 2], [7, 3]
    allowed = ~mask(X)
    allowed[:, [i for i in range(12) if i not in items or i in exclude]] = False
    seen = csr(X)
    zeros = sp.csr_array(
        (np.r_[seen.data, 0.0], np.r_[seen.indices, 11], np.r_[seen.indptr[:-1], seen.nnz + 1]), shape=(9, 12)
    )
    users = [8, 0, 8]
    ids, scores = fit.recommend(users, N=14, seen=seen, items=items, exclude=exclude)
    last = fit.recommend(8, N=14, seen=zeros, items=items, exclude=exclude).ids
    return wrong(
        ids=ids.tolist() == [best(S[u], allowed[u], 14) for u in users],
        scores=bool(((ids < 0) == np.isneginf(scores)).all()) and scores.dtype == np.float64,
        absent=last.tolist() == ids[0].tolist(),
        one=last.shape == (14,),
    )


def _alike(side: str) -> list[str]:
    """Neighbours with ties, a zero vector and one of twice the length."""
    F = np.array([[1.0, 2.0], [2.0, 4.0], [0.0, 0.0], [2.0, -1.0], [-1.0, -2.0], [1.0, 2.0]])
    other = np.eye(2)
    fit = lfm_np.Factors(F, other) if side == "users" else lfm_np.Factors(other, F, item_bias=np.arange(6.0))
    ask = fit.similar_users if side == "users" else fit.similar_items
    inner = F @ F.T
    lengths = np.sqrt((F**2).sum(1))
    ids, cosines = ask([3, 0, 2], N=6)
    mine = [[3, 0, 1, 2, 4, 5], None, [0, 1, 2, 3, 4, 5]]
    first = np.array([inner[0, j] / (lengths[0] * lengths[j]) if lengths[j] else 0.0 for j in ids[1]])
    by_inner, products = ask(4, N=8, metric="inner")
    return wrong(
        orthogonal=ids[0].tolist() == mine[0] and close(cosines[0], [1, 0, 0, 0, 0, 0], 4e-15),
        nothing=ids[2].tolist() == mine[2] and not cosines[2].any(),
        cosines=close(cosines[1], first, 4e-15) and sorted(ids[1].tolist()) == [0, 1, 2, 3, 4, 5] and ids[1][5] == 4,
        inner=by_inner.tolist() == [4, 2, 3, 0, 5, 1, -1, -1] and close(products[:6], [5, 0, 0, -5, -5, -10], 4e-15),
    )


def _whatever_the_threads() -> list[str]:
    X, test = parts(stars(50, 30, seed=2))
    fits = [fitted(X, FILM, k=5, num_threads=t) for t in (1, 2, 5)]
    found = [lfm_np.evaluate(fit, csr(X), csr(test), num_threads=t) for fit, t in zip(fits, (3, 1, 2), strict=True)]
    return wrong(bits=all(same(fits[0], fit) for fit in fits), judged=found[0] == found[1] == found[2])


def _narrow() -> list[str]:
    """float32 beside float64: the same start, what rounding explains, and lists by its own scores."""
    X = stars(30, 20, seed=2)
    init = tuple(F.astype(np.float32) for F in start(30, 20, 4))
    wide, fit = (fitted(X, SHOP, k=4, dtype=t, init=init) for t in ("float64", "float32"))
    S = scored(fit)
    return wrong(
        scores=close(product(fit), product(wide), 1e-4),
        dtype=fit.user_factors.dtype == np.float32 and S.dtype == np.float32,
        lists=fit.recommend(range(30), N=20).ids.tolist() == [best(s, np.ones(20, bool), 20) for s in S],
        objective=close(fit.history[-1]["objective"], wide.history[-1]["objective"], 1e-5),
    )


def _of_interactions() -> list[str]:
    """Known opinions only, from three on, of users and items with two each; lists in ids."""
    X = stars(20, 9, seed=13, share=0.5)
    rows, columns = np.nonzero(mask(X))
    values = X[rows, columns]
    values[::7] = NAN
    data = lfm_np.Interactions.from_arrays([f"u{r:02d}" for r in rows], 100 - columns, values)
    liked = data.binarize(threshold=3).core(2, 2)
    cells = {(f"u{r:02d}", 100 - c) for r, c, x in zip(rows, columns, values, strict=True) if x >= 3}
    while True:
        users = {u for u, _ in cells if sum(a == u for a, _ in cells) >= 2}
        fewer = {(u, i) for u, i in cells if u in users}
        items = {i for _, i in fewer if sum(b == i for _, b in fewer) >= 2}
        fewer = {(u, i) for u, i in fewer if i in items}
        if fewer == cells:
            break
        cells = fewer
    us, its = sorted({u for u, _ in cells}), sorted({i for _, i in cells})
    Z = np.array([[1.0 if (u, i) in cells else NAN for i in its] for u in us])
    fit = lfm_np.als(
        liked, factors=2, iterations=2, init=start(Z.shape[0], Z.shape[1], 2), dtype="float64", **SHOP.words
    )
    U, V = SHOP.sweeps(Z, start(Z.shape[0], Z.shape[1], 2)[1], 2)
    lists = fit.recommend(liked.rows_of(us[:2]), N=len(its), seen=liked).ids
    mine = [best(s, ~h, len(its)) for s, h in zip(scored(fit)[:2], mask(Z)[:2], strict=True)]
    said = liked.item_ids(lists, missing=-5)
    return wrong(
        ids=liked.users.tolist() == us and liked.items.tolist() == its,
        cells=np.array_equal(np.isnan(dense(liked)), np.isnan(Z)),
        scores=close(product(fit), U @ V.T, 1e-8),
        lists=said.tolist() == [[its[c] if c >= 0 else -5 for c in row] for row in mine],
    )


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    for method in ("als", "sgd"):
        yield _holds(f"a chance run repeated: {method}", lambda a=method: _seeded(a))
    yield _holds("counts, BM25 and a great number", _weighed)
    yield _holds("a blend with popularity", _blended)
    for stored in (False, True):
        yield _holds(f"broken off, gone on from {'the disk' if stored else 'memory'}", lambda s=stored: _broken_off(s))
    yield _holds("four copies of a model", _kept)
    yield _holds("eight threads and a new model", _served)
    for solver in ("cg", "subspace"):
        yield _holds(f"what steps report: {solver}", lambda s=solver: _steps(s))
    yield _holds("three conditions at once", _among)
    for side in ("users", "items"):
        yield _holds(f"neighbours of {side} with ties", lambda s=side: _alike(s))
    yield _holds("threads of fits and of judges", _whatever_the_threads)
    yield _holds("float32 beside float64", _narrow)
    yield _holds("opinions, a core and lists in ids", _of_interactions)
