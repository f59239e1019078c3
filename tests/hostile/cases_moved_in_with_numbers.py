"""Numbers that programs from elsewhere bring along: small integers, nanoseconds, a mean of a million, bare counts."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

from .case import Case, Group, installed
from .cases_moved_in_with_fits import F64, NAME, biased_rows, solved, swept
from .places import inside
from .sentences_by_numpy import lfm_np, near, product, ranked, with_gaps
from .working_days import csr, dense, faultless, judged, stars, start, wrong

_GROUP = Group(NAME)
_holds = faultless(_GROUP)


def _scaled(factor: float = 1.0) -> tuple[Any, np.ndarray]:
    """One factor and a μ of a million in float32, where numbers lie 1/16 apart: scores are rounded sums, with ties."""
    v = (np.random.default_rng(0).integers(-40, 40, 30) / 64.0).astype(np.float32)
    model = lfm_np.Factors(np.full((6, 1), factor, np.float32), v[:, None], global_bias=1e6)
    return model, np.tile(np.float32(factor) * v + np.float32(1e6), (6, 1))


def _million() -> list[str]:
    model, S = _scaled()
    known = np.random.default_rng(1).random((6, 30)) < 0.3
    ids, scores = model.recommend(np.arange(6), N=12, seen=sp.csr_array(known.astype(float)))
    mine = np.array([ranked(s, np.flatnonzero(~a), 12) for s, a in zip(S, known, strict=True)])
    return wrong(
        ties=len(np.unique(S)) < 25,
        scores=np.array_equal(scores, np.take_along_axis(S, mine, 1)),
        ids=np.array_equal(ids, mine),
        pairs=np.array_equal(model.scores(3, np.arange(30)), S[3]),
    )


def _million_judged() -> list[str]:
    """The same scores are judged: equal ones in the order of their ids, and half a pair of AUC."""
    model, S = _scaled(0.5)
    draw = np.random.default_rng(2)
    train = draw.random((6, 30)) < 0.2
    test = (draw.random((6, 30)) < 0.2) & ~train
    names = ["ndcg@5", "map@5", "mrr", "auc"]
    found = lfm_np.evaluate(model, *(sp.csr_array(mask.astype(float)) for mask in (train, test)), names)
    mine = judged(S.astype(np.float64), train, test, 5)
    return wrong(**{name: near(found[name], mine[name], 1e-12) for name in names})


def _explained(weighting: str) -> list[str]:
    """The assertion of docs/tutorial.md holds in float32 for every kind of model, and the score is the folded row's."""
    X = stars(16, 12, 21)
    words: dict[str, Any] = {"biases": True} if weighting == "ratings" else {"alpha": 2.0, "unobserved_weight": 0.3}
    fit = lfm_np.als(
        csr(X), factors=3, weighting=weighting, regularization=0.05, regularization_exponent=1.0, iterations=3,
        random_state=0, **words,
    )  # fmt: skip
    V = fit.item_factors.astype(np.float64)
    if weighting == "ratings":
        bi = fit.item_bias.astype(np.float64)
        P, b = biased_rows(X, V, bi, float(fit.global_bias), lambda n: 0.05 * n)
        S = float(fit.global_bias) + b[:, None] + bi + P @ V.T
    else:
        cell = {
            "hu-koren": lambda x: (1 + 2 * x, 1.0),
            "ials": lambda x: (0.3 + 2 * x, 2 * x / (0.3 + 2 * x)),
            "confidence": lambda x: (2 * x, 1.0),
        }[weighting]
        S = solved(X, V, cell, 0.3, lambda n: 0.05 * (n + 0.3 * 12)) @ V.T
    whys = [[fit.explain(u, i, csr(X)) for i in (0, 5, 11)] for u in range(16)]
    return wrong(
        sums=all(abs(w.baseline + w.contributions.sum() - w.score) < 1e-9 for row in whys for w in row),
        scores=near([[w.score for w in row] for row in whys], S[:, [0, 5, 11]], 1e-4),
    )


def _small_integers(kind: str, x: float) -> list[str]:
    """Repeated cells, whose sums eight bits do not hold."""
    draw = np.random.default_rng(3)
    rows, columns = np.divmod(draw.permutation(60)[:25], 10)
    rows, columns = np.append(rows, rows[:8]), np.append(columns, columns[:8])
    values = np.full(33, x, kind)
    X = np.full((6, 10), np.nan)
    for u, i in zip(rows, columns, strict=True):
        X[u, i] = x + (0 if np.isnan(X[u, i]) else X[u, i])
    mine = swept(X, start(6, 10, 2)[1], 2, lambda x: (1 + 0.1 * x, 1.0), 1.0, lambda n: 0.5)
    fit = lfm_np.als(
        sp.coo_matrix((values, (rows, columns)), shape=(6, 10)), factors=2, alpha=0.1, regularization=0.5, iterations=2,
        init=start(6, 10, 2), **F64,
    )  # fmt: skip
    data = lfm_np.Interactions.from_arrays(rows, columns, values)
    pairs = np.column_stack([rows, columns])
    means = lfm_np.to_csr(pairs, shape=(6, 10), values=values, duplicates="mean")
    return wrong(
        fit=near(product(fit), mine[0] @ mine[1].T),
        sums=np.array_equal(np.sort(data.matrix.data), [x] * 17 + [2 * x] * 8),
        to_csr=np.array_equal(dense(lfm_np.to_csr(pairs, shape=(6, 10), values=values)), X, equal_nan=True),
        means=set(means.data.tolist()) == {x} and means.nnz == 25,
    )


NOW = 1_700_000_000_000_000_000


def _nanoseconds(shift: int, kind: Any) -> list[str]:
    """The lower column is the later, by one nanosecond, which float64 cannot tell."""
    times = np.array([NOW + shift + 1, NOW + shift, NOW + shift + 3, NOW + shift + 2], kind)
    data = lfm_np.Interactions.from_arrays([1, 1, 2, 2], [1, 2, 1, 2], timestamps=times)
    again = lfm_np.Interactions.from_arrays(
        [1, 1, 2, 2], [1, 1, 1, 1], [5.0, 2.0, 4.0, 3.0], timestamps=times, duplicates="last"
    )
    at = np.array(NOW + shift + 2, kind)[()] if kind == "datetime64[ns]" else NOW + shift + 2
    return wrong(
        last=data.split("last")[1].matrix.toarray().tolist() == [[1, 0], [1, 0]],
        at=data.split("time", at=at)[1].matrix.toarray().tolist() == [[0, 0], [1, 1]],
        quarter=data.split("time", test_fraction=0.25)[1].matrix.toarray().tolist() == [[0, 0], [1, 0]],
        duplicates=again.matrix.toarray().tolist() == [[5], [4]],
        kept=np.asarray(data.timestamps).astype(np.uint64).tolist() == times.astype(np.uint64).tolist(),
    )


def _nanoseconds_of(table: str) -> list[str]:
    """The same from a frame and from Parquet, whose last record is not the latest."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    frame = pa.table(
        {"user": [1, 1, 2, 2], "item": [7] * 4, "x": [5.0, 2.0, 3.0, 4.0], "t": [NOW + 1, NOW, NOW, NOW + 1]}
    )
    words: dict[str, Any] = {"user": "user", "item": "item", "value": "x", "timestamp": "t", "duplicates": "last"}

    def work(folder: Path) -> Any:
        pq.write_table(frame, folder / "t.parquet", row_group_size=1)
        return lfm_np.Interactions.from_parquet(folder / "t.parquet", **words)

    data = inside(work)() if table == "Parquet" else lfm_np.Interactions.from_frame(frame, **words)
    return wrong(
        values=data.matrix.toarray().tolist() == [[5], [4]],
        times=[int(t) for t in data.timestamps] == [NOW + 1, NOW + 1],
    )


def _newcomers_split() -> list[str]:
    """New users with ids of their own over the fitted items: split, folded in by one part, judged by the other."""
    R = with_gaps(14)
    R[[2, 13]] = R[[0, 1]]
    V = start(14, 10, 3)[1]
    data = lfm_np.Interactions(csr(R), np.array([f"n{u:02}" for u in range(14)]), np.arange(100, 110))
    rows, test = data.split("random", test_fraction=0.4, random_state=5)
    new = lfm_np.Factors(np.zeros((1, 3)), V).fold_in_users(
        rows, weighting="ials", alpha=1.0, unobserved_weight=0.1, regularization=0.2, regularization_exponent=0.0
    )
    X = dense(rows)
    U = solved(X, V, lambda x: (0.1 + x, x / (0.1 + x)), 0.1, lambda n: 0.2)
    found = lfm_np.evaluate(new, rows, test, ["ndcg@3", "recall@3", "auc"])
    mine = judged(U @ V.T, ~np.isnan(X), ~np.isnan(dense(test)), 3)
    parts = [np.nansum(dense(part), axis=1) for part in (rows, test)]
    return wrong(
        factors=near(new.user_factors, U),
        whole=near(parts[0] + parts[1], np.nansum(R, axis=1)),
        **{name: near(found[name], mine[name], 1e-12) for name in ("ndcg@3", "recall@3", "auc", "users")},
    )


def _without_factors() -> list[str]:
    """A model of counts alone: nothing is like anything, and negatives are ranked by their counts."""
    from lfm_np.evaluation import most_popular

    X = with_gaps(15)
    counts = (~np.isnan(X)).sum(0).astype(float)
    model = most_popular(csr(X))
    ids, cosines = model.similar_items([3, 0], N=4)
    test = np.isnan(X) & (np.random.default_rng(4).random(X.shape) < 0.3)
    negatives = np.random.default_rng(5).integers(-1, 10, (14, 5))
    hidden = np.ones(X.shape, bool)
    for u in range(14):
        hidden[u, negatives[u][negatives[u] >= 0]] = False
    mine = judged(np.tile(counts, (14, 1)), (hidden | ~np.isnan(X)) & ~test, test, 2)
    found = lfm_np.evaluate(model, csr(X), sp.csr_array(test.astype(float)), ["ndcg@2", "mrr"], negatives=negatives)
    return wrong(
        ids=ids.tolist() == [[0, 1, 2, 3]] * 2,
        cosines=not cosines.any(),
        scores=near(model.scores([0, 13], [4, 1]), counts[[4, 1]], 1e-12),
        **{name: near(found[name], mine[name], 1e-12) for name in ("ndcg@2", "mrr", "users")},
    )


def _begun_small() -> list[str]:
    """Surprise's init_std_dev is here 0.1/√k, uniform: of 12,800 squares the mean is 0.8 % away by one sigma."""
    X = sp.csr_array(np.random.default_rng(6).integers(1, 6, (200, 200)).astype(float))
    fit = lfm_np.sgd(
        X, lfm_np.losses.Squared(), sampler=None, factors=64, epochs=1, learning_rate=1e-12, random_state=0, **F64
    )
    means = [float((F**2).mean() * 64 / 0.01) for F in (fit.user_factors, fit.item_factors)]
    return wrong(both=all(abs(mean - 1) < 6 * math.sqrt(0.8 / 12_800) for mean in means))


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    yield _holds("Surprise: lists of a mean of a million in float32", _million)
    yield _holds("Surprise: a mean of a million in float32, judged", _million_judged)
    for weighting in ("hu-koren", "ials", "confidence", "ratings"):
        yield _holds(f"implicit: explanations in float32, {weighting}", lambda a=weighting: _explained(a))
    for kind, x in (("int8", 100.0), ("uint8", 200.0)):
        yield _holds(f"implicit: plays in {kind}", lambda a=kind, b=x: _small_integers(a, b))
    for name, dtype in (("whole numbers", np.int64), ("times", "datetime64[ns]")):
        yield _holds(f"LensKit: nanoseconds as {name}", lambda a=dtype: _nanoseconds(0, a))
    yield _GROUP.either(
        "LensKit: nanoseconds beyond int64",
        lambda: _nanoseconds(2**63, np.uint64),
        lambda found: found == [],
        "timestamps",
    )
    if installed("pyarrow", "narwhals"):
        for table in ("a frame", "Parquet"):
            yield _holds(f"LensKit: nanoseconds of {table}", lambda a=table: _nanoseconds_of(a))
    yield _holds("irspack: newcomers split, folded in and judged", _newcomers_split)
    yield _holds("irspack: a model without factors", _without_factors)
    yield _holds("Surprise: how factors begin", _begun_small)
