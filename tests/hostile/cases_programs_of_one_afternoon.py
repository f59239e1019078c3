"""Small programs of one afternoon: shared matrices, watchdogs, ties, ids of calendars, indexes of other libraries."""

from __future__ import annotations

import datetime as dt
import decimal
import pickle
import signal
from typing import Any

import numpy as np
import scipy.sparse as sp

import lfm_np

from .case import Case
from .places import together
from .programs import BAD, RULE, Programs, clicked, listed, plain, row, served, swept
from .working_days import (
    NAN,
    Model,
    all_scores,
    best,
    close,
    csr,
    folder,
    judged,
    raised,
    same,
    stars,
    start,
    tells,
    wrong,
)

service, study, pipeline = Programs("program service"), Programs("program study"), Programs("program pipeline")
X = stars()


def _unsorted() -> dict[str, Any]:
    Z = csr(X)
    for a, b in zip(Z.indptr[:-1], Z.indptr[1:], strict=True):
        Z.indices[a:b], Z.data[a:b] = Z.indices[a:b][::-1].copy(), Z.data[a:b][::-1].copy()
    return {"Z": sp.csr_array((Z.data, Z.indices, Z.indptr), shape=Z.shape)}


@pipeline("one unsorted matrix fitted, judged and asked by four threads", make=_unsorted)
def _one_matrix_for_all(Z: Any) -> list[str]:
    S, old = swept(X, start(30, 20, 3)[1], 2), served()

    def work(me: int) -> bool:
        if me % 2:
            fit = lfm_np.als(Z, factors=3, iterations=2, init=start(30, 20, 3), dtype="float64", **RULE.words)
            return close(all_scores(fit), S, 1e-8) and plain(fit, X)
        lists = listed(old.recommend(range(30), N=6, seen=Z), all_scores(old), np.isnan(X), 6)
        return lists and close(lfm_np.objective(Z, old), RULE.objective(X, old.user_factors, old.item_factors), 1e-9)

    return [f"thread {n}: {a!r:.90}" for n, a in enumerate(together(4, work)) if a is not True]


@service("a watchdog of the program ends a fit that takes too long, and the next one is right")
def _watchdog() -> list[str]:
    class TooLong(Exception):
        pass

    def ring(*_: Any) -> None:
        raise TooLong

    before = signal.signal(signal.SIGALRM, ring)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.15)
        error = raised(lambda: served(0, sweeps=10**7, factors=8))
        signal.setitimer(signal.ITIMER_REAL, 0.15)
        other = raised(lambda: lfm_np.sgd(csr(X), factors=8, epochs=10**7, random_state=0))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    fit = lfm_np.als(csr(X), factors=3, iterations=2, init=start(30, 20, 3), dtype="float64", **RULE.words)
    return wrong(
        als=type(error) is TooLong,
        sgd=type(other) is TooLong,
        next=close(all_scores(fit), swept(X, start(30, 20, 3)[1], 2), 1e-8),
    )


@service("many ties: factors of whole numbers, lower ids first everywhere")
def _ties() -> list[str]:
    draw = np.random.default_rng(1)
    U, V = draw.integers(-1, 2, (40, 3)).astype(np.float32), draw.integers(-1, 2, (70, 3)).astype(np.float32)
    fit = lfm_np.Factors(U, V, item_bias=draw.integers(0, 2, 70).astype(np.float32))
    S = (U @ V.T + fit.item_bias).astype(float)
    seen = draw.random((40, 70)) < 0.3
    test = (draw.random((40, 70)) < 0.1) & ~seen
    told = lfm_np.evaluate(
        fit, sp.csr_array(seen.astype("f4")), sp.csr_array(test.astype("f4")), ["ndcg@7", "mrr", "auc"]
    )
    mine = judged(S, seen, test, 7)
    return wrong(
        lists=listed(fit.recommend(range(40), N=33, seen=sp.csr_array(seen.astype("i1"))), S, ~seen, 33),
        inner=listed(
            fit.similar_items(range(70), N=9, metric="inner"), (V @ V.T).astype(float), np.ones((70, 70), bool), 9
        ),
        metrics=all(abs(told[n] - mine[n]) < 1e-12 for n in ("ndcg@7", "mrr", "auc", "auc_se")),
    )


@service("lengths of lists as numbers of every kind")
def _lengths() -> list[str]:
    fit, S = served(), all_scores(served())
    good = [np.int64(5), np.uint8(5), 5]
    found = [f"{n!r}" for n in good if not listed(fit.recommend(range(30), N=n), S, np.ones((30, 20), bool), 5)]
    for bad in (0, -1, 5.0, np.array(5), "5", None, 2**70, [5], NAN):
        error = raised(lambda b=bad: fit.recommend([0], N=b))
        found += wrong(**{f"{bad!r}": isinstance(error, (*BAD, MemoryError, OverflowError)) and tells(error, "n ")})
    return found


@service("ratings with biases: somebody new, by least squares with a column of ones")
def _biased_newcomer() -> list[str]:
    fit = lfm_np.als(
        csr(X), weighting="ratings", biases=True, factors=3, regularization=0.6, random_state=0, dtype="float64"
    )
    items, stars_of = [2, 5, 11], np.array([5.0, 1.0, 4.0])
    Y = np.column_stack([fit.item_factors[items], np.ones(3)])
    b = np.concatenate([stars_of - fit.global_bias - fit.item_bias[items], np.zeros(4)])
    u = np.linalg.lstsq(np.vstack([Y, np.sqrt(0.6) * np.eye(4)]), b, rcond=None)[0]
    new = fit.fold_in_users(row(20, items, stars_of))
    S = fit.item_factors @ u[:3] + u[3] + fit.item_bias + fit.global_bias
    why = fit.update(row(20, items, stars_of), users=[30])
    return wrong(
        factors=close(new.user_factors[0], u[:3], 1e-8),
        bias=close(new.user_bias[0], u[3], 1e-8),
        scores=close(new.scores(0, np.arange(20)), S, 1e-8) and close(why.scores(30, np.arange(20)), S, 1e-8),
    )


@service("a model of sgd folds in when it is told how, and says what it was not told")
def _fold_in_of_sgd() -> list[str]:
    fit = lfm_np.sgd(csr(X), factors=3, epochs=2, random_state=0, dtype="float64")
    error = raised(lambda: fit.fold_in_users(row(20, [1, 4])))
    words: dict[str, Any] = {
        "weighting": "hu-koren",
        "alpha": 2.0,
        "regularization": 0.5,
        "regularization_exponent": 0.0,
    }
    some = {k: v for k, v in words.items() if k != "alpha"}
    lacking = raised(lambda: fit.fold_in_users(row(20, [1, 4]), **some))
    unknown = raised(lambda: fit.fold_in_users(row(20, [1, 4]), lam=3.0, **words))
    new = fit.fold_in_users(row(20, [1, 4], [1, 3]), **words)
    mine = clicked(fit.item_factors, [1, 4], [1, 3], Model(alpha=2.0, lam=0.5))
    return wrong(
        error=isinstance(error, BAD) and tells(error, "regularization|alpha|weighting"),
        lacking=isinstance(lacking, BAD) and tells(lacking, "alpha"),
        unknown=isinstance(unknown, TypeError) and tells(unknown, "lam"),
        number=close(new.user_factors[0], mine, 1e-8),
    )


@service("most popular as a fallback for those without a row, beside counts", make=lambda: {"Z": csr(X)})
def _fallback(Z: Any) -> list[str]:
    popular, fit = lfm_np.evaluation.most_popular(Z), served()
    counts = (~np.isnan(X)).sum(axis=0).astype(float)
    nobody = fit.fold_in_users(sp.csr_array((1, 20)))
    with folder() as place:
        popular.save(place / "p")
        again = lfm_np.Factors.load(place / "p")
    return wrong(
        counts=listed(again.recommend(range(30), N=4, seen=Z), np.tile(counts, (30, 1)), np.isnan(X), 4),
        scores=again.scores(3, np.arange(20)).tolist() == counts.tolist(),
        nobody=nobody.recommend([0], N=3).ids.tolist() == [[0, 1, 2]],
        similar=isinstance(popular.similar_items([0], N=2).ids, np.ndarray),
    )


@service("an exact index of usearch beside sorting", "usearch")
def _index_of_usearch() -> list[str]:
    from usearch.index import Index

    fit = served(factors=8)
    vectors = lfm_np.ann.item_vectors(fit)
    index = Index(ndim=vectors.shape[1], metric="ip", dtype="f32")
    index.add(np.arange(20), vectors.astype(np.float32))
    found = lfm_np.ann.search(index, fit, [3, 4, 29], N=5)
    S = all_scores(fit)
    lists = [best(S[u], np.ones(20, bool), 5) for u in (3, 4, 29)]
    error = raised(lambda: lfm_np.ann.search(index, fit, [30], N=5))
    return wrong(
        lists=found.ids.tolist() == lists,
        scores=close(found.scores, [S[u][i] for u, i in zip((3, 4, 29), lists, strict=True)], 1e-9),
        norms=close(
            (vectors.astype(float) ** 2).sum(axis=1), np.full(20, (vectors.astype(float) ** 2).sum(axis=1).max()), 1e-5
        ),
        error=isinstance(error, BAD) and tells(error, "users"),
    )


def _calendar() -> dict[str, list[Any]]:
    zone = dt.timezone(dt.timedelta(hours=-5))
    return {
        "moments with a zone": [dt.datetime(2024, 3, 10, 1, 30, n, tzinfo=zone) for n in range(4)],
        "moments without": [dt.datetime(1969, 12, 31, 23, 59, 59, n) for n in range(4)],
        "times of day": [dt.time(0, 0, 1), dt.time(23, 59, 59, 999999), dt.time(12), dt.time(12, 0, 0, 1)],
        "durations": [dt.timedelta(days=-1), dt.timedelta(0), dt.timedelta(microseconds=1), dt.timedelta(days=400)],
        "decimals": [decimal.Decimal(t) for t in ("0.10", "-2.50", "99.99", "0.00")],
        "days": [dt.date(1, 1, 1), dt.date(9999, 12, 31), dt.date(1970, 1, 1), dt.date(2024, 2, 29)],
        "truths": [True, False],
        "bytes": [b"\x00a", b"", b"\xff\x00", b"a"],
    }


for _name in (
    "moments with a zone",
    "moments without",
    "times of day",
    "durations",
    "decimals",
    "days",
    "truths",
    "bytes",
):

    @pipeline(f"ids that are {_name} go through Arrow and polars into lists and back", "pyarrow", "polars")
    def _ids_of_calendars(name: str = _name) -> list[str]:
        import polars as pl
        import pyarrow as pa
        import pyarrow.parquet as pq

        ids = _calendar()[name]
        found = []
        for library, frame in {
            "Arrow": pa.table({"user": ["a"] * len(ids) + ["b"], "item": [*ids, ids[0]]}),
            "polars": pl.DataFrame({"user": ["a"] * len(ids) + ["b"], "item": [*ids, ids[0]]}),
        }.items():
            data = lfm_np.Interactions.from_frame(frame)
            order = sorted(range(len(ids)), key=lambda n: ids[n])
            fit = lfm_np.Factors(np.zeros((2, 1)), np.zeros((len(ids), 1)), item_bias=np.arange(len(ids), 0.0, -1))
            table = lfm_np.recommend_frame(fit, data, ["b"], N=9, seen=data, backend="pyarrow")
            left = [ids[n] for n in order if ids[n] != ids[0]]
            with folder() as place:
                lfm_np.recommend_parquet(fit, data, place / "l.parquet", ["b"], N=9, seen=data)
                file = pq.read_table(place / "l.parquet")["item"].to_pylist()
            columns = [int(data.columns_of([i])[0]) for i in ids]
            found += wrong(
                **{
                    f"{library} order": columns == [order.index(n) for n in range(len(ids))],
                    f"{library} lists": table["item"].to_pylist() == left,
                    f"{library} file": file == left,
                }
            )
        return found


@pipeline(
    "pairs as lists, frames, unsigned, of Fortran order, of whole floats; those that are none are refused", "pandas"
)
def _pairs_of_every_kind() -> list[str]:
    import pandas as pd

    pairs = [(2, 1), (0, 0), (2, 1), (1, 2), (0, 2)]
    mine = np.zeros((3, 4))
    for i, j in pairs:
        mine[i, j] += 1
    table = {i: sorted({b for a, b in pairs if a == i}) for i in (0, 1, 2)}
    kinds: dict[str, Any] = {
        "list": pairs,
        "uint8": np.array(pairs, np.uint8),
        "big-endian": np.array(pairs, ">i4"),
        "Fortran": np.asfortranarray(pairs),
        "backwards": np.array(pairs)[::-1],
        "int16 in a view": np.array([[*p, 9] for p in pairs], np.int16)[:, :2],
    }
    found = []
    for name, kind in kinds.items():
        told = lfm_np.build_dict(kind)
        found += wrong(
            **{
                name: np.array_equal(lfm_np.to_csr(kind, shape=(3, 4)).toarray(), mine),
                f"dict of {name}": {i: j.tolist() for i, j in told.items()} == table and list(told) == [0, 1, 2],
            }
        )
    for name, kind in {"frame": pd.DataFrame(pairs), "floats": np.array(pairs, float)}.items():
        try:
            found += wrong(**{name: np.array_equal(lfm_np.to_csr(kind, shape=(3, 4)).toarray(), mine)})
        except BAD as error:
            found += wrong(**{name: tells(error, "pairs")})
    odd: list[Any] = [[(0, -1)], [(0, 4)], [(0.5, 1)], [(0, 1, 2)], [("a", "b")], [(NAN, 1.0)], 3, [[]], [(0, 2**40)]]
    errors = [raised(lambda o=o: lfm_np.to_csr(o, shape=(3, 4))) for o in odd]
    return found + wrong(odd=all(isinstance(e, BAD) and tells(e, "pairs") for e in errors))


@pipeline("records of Parquet stored on disk in ids of text, beside a dictionary and sweeps", "pyarrow")
def _stored_from_parquet() -> list[str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    r, c = np.nonzero(~np.isnan(X))
    order = np.random.default_rng(0).permutation(2 * len(r))
    users = np.array([f"user {n:03}" for n in np.tile(r, 2)])[order]
    items, values = np.tile(c, 2)[order] * 1000, np.tile(X[r, c] / 2, 2)[order]
    with folder() as place:
        pq.write_table(
            pa.table({"user": users, "item": items, "value": values}), place / "r.parquet", row_group_size=50
        )
        lacking = raised(lambda: lfm_np.StoredMatrix.from_parquet(place / "r.parquet", place / "m", value="price"))
        small = raised(lambda: lfm_np.StoredMatrix.from_parquet(place / "r.parquet", place / "m", memory=1000))
        stored = lfm_np.StoredMatrix.from_parquet(place / "r.parquet", place / "m", value="value")
        fit = lfm_np.als(stored, factors=3, iterations=2, init=start(30, 20, 3, 1), dtype="float32", **RULE.words)
        S = swept(X, start(30, 20, 3)[1], 2)
        return wrong(
            lacking=isinstance(lacking, (*BAD, KeyError)) and tells(lacking, "price"),
            small=isinstance(small, (ValueError, MemoryError)) and tells(small, "memory"),
            scores=close(all_scores(fit), S, 1e-4),
            ids=list(stored.users)[7] == "user 007" and list(stored.items) == list(range(0, 20000, 1000)),
            files=sorted(p.name for p in place.iterdir()) == ["m", "r.parquet"],
        )


@study("estimators pickled, cloned with a generator, and asked in wrong shapes", "sklearn")
def _estimators() -> list[str]:
    from sklearn.base import clone

    from lfm_np.sklearn import ALS

    model = ALS(factors=3, random_state=0, dtype="float64", **RULE.words).fit(csr(X))
    again = pickle.loads(pickle.dumps(model))
    wide = raised(lambda: model.transform(sp.csr_array((2, 21))))
    flat = raised(lambda: model.transform(np.ones(20)))
    inverse = raised(lambda: model.inverse_transform(np.ones((2, 4))))
    Z = stars(seed=4)
    return wrong(
        rows=close(again.transform(csr(Z)), RULE.half(Z, model.item_factors_), 1e-8),
        dense=close(again.transform(np.nan_to_num(Z)), RULE.half(Z, model.item_factors_), 1e-8),
        inverse=close(model.inverse_transform(np.eye(3)), model.item_factors_.T, 1e-12),
        clone=same(clone(model).fit(csr(X)).factors_, model.factors_),
        errors=all(isinstance(e, BAD) and tells(e, "feature|x |shape|column") for e in (wide, flat, inverse)),
    )


@study("ratings of a study with zeros and negatives, and the judge that takes a zero for a cell")
def _ratings_with_zeros() -> list[str]:
    Z = stars(seed=2) - 3
    rule = Model("ratings", lam=0.5, nu=1.0)
    fit = lfm_np.als(csr(Z), factors=3, iterations=3, init=start(30, 20, 3), dtype="float64", **rule.words)
    test = np.where(np.isnan(Z), stars(seed=3) - 3, NAN)
    told = lfm_np.evaluate(fit, csr(Z), csr(test), ["recall@4", "auc"])
    mine = judged(all_scores(fit), ~np.isnan(Z), ~np.isnan(test), 4)
    twice = sp.coo_array((np.ones(2), ([0, 0], [1, 1])), shape=(30, 20))
    error = raised(lambda: lfm_np.als(twice, factors=3, **rule.words))
    clicks = raised(lambda: lfm_np.als(csr(Z), factors=3))
    return wrong(
        scores=close(all_scores(fit), swept(Z, start(30, 20, 3)[1], 3, rule), 1e-8),
        recall=close(told["recall@4"], mine["recall@4"], 1e-12) and close(told["auc"], mine["auc"], 1e-12),
        error=isinstance(error, ValueError) and tells(error, "duplicate|twice|repeated"),
        clicks=isinstance(clicks, ValueError) and tells(clicks, "negative"),
    )


def cases() -> list[Case]:
    return service.found + study.found + pipeline.found
