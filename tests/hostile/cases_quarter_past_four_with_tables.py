"""Journeys that begin with a table of ratings: read, split, fitted, kept, folded in and judged, beside NumPy."""

from __future__ import annotations

import contextlib
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import lfm_np
from lfm_np import datasets, losses
from lfm_np.evaluation import most_popular

from .case import Case, Group, installed
from .places import inside
from .working_days import (
    NAN,
    Model,
    all_scores,
    best,
    biased_half,
    close,
    csr,
    dense,
    faultless,
    judged,
    same,
    stars,
    start,
    wrong,
)

_GROUP = Group("quarter past four, tables")
_holds = faultless(_GROUP)
Biased = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, float]


def biased(X: np.ndarray, V: np.ndarray, lam: float, sweeps: int) -> Biased:
    mu, b = float(np.nanmean(X)), np.zeros(X.shape[1])
    for _ in range(sweeps):
        U, a = biased_half(X, V, b, mu, lam)
        V, b = biased_half(X.T, U, a, mu, lam)
    return U, V, a, b, mu


def total(parts: Biased) -> np.ndarray:
    U, V, a, b, mu = parts
    return mu + a[:, None] + b + U @ V.T


def plain_start(m: int, n: int, k: int) -> Any:
    return lfm_np.Factors(*start(m, n, k), user_bias=np.zeros(m), item_bias=np.zeros(n), global_bias=0.0)


def rated(X: Any, shape: tuple[int, int], k: int = 2, sweeps: int = 2, lam: float = 0.4, **words: Any) -> Any:
    return lfm_np.als(
        X, factors=k, iterations=sweeps, weighting="ratings", biases=True, regularization=lam, dtype="float64",
        init=plain_start(*shape, k), **words,
    )  # fmt: skip


def records(X: np.ndarray, seed: int = 0) -> list[tuple[int, int, float]]:
    """The cells in an order of chance."""
    cells = [(int(u), int(i), float(X[u, i])) for u, i in np.argwhere(~np.isnan(X))]
    return [cells[n] for n in np.random.default_rng(seed).permutation(len(cells))]


def _read_by_time_and_told(place: Path) -> list[str]:
    """Text ids with zeros in front; days; the record's number is its time."""
    X = stars(14, 8, seed=20)
    rows = records(X)
    lines = [f"{u:03},it{i},{x:g},{n}" for n, (u, i, x) in enumerate(rows)]
    (place / "t.tsv").write_text("\n".join(["who,what,stars,when", *lines]).replace(",", "\t"))
    data = lfm_np.Interactions.from_csv(
        place / "t.tsv", user="who", item="what", value="stars", timestamp="when", delimiter="\t",
        column_types={"who": "string"},
    )  # fmt: skip
    at = int(len(rows) * 0.7)
    train, test = data.split("time", at=at)
    known, held = np.full(X.shape, NAN), np.full(X.shape, NAN)
    for n, (u, i, x) in enumerate(rows):
        (known if n < at else held)[u, i] = x
    fit = rated(train, X.shape)
    S = total(biased(known, start(14, 8, 2)[1], 0.4, 2))
    fit.save(place / "m")
    again = lfm_np.Factors.load(place / "m", mmap=True)
    table = lfm_np.recommend_frame(again, data, ["013", "002"], N=3, seen=train, backend="pyarrow").to_pylist()
    mine = [(f"{u:03}", f"it{i}") for u in (13, 2) for i in best(S[u], np.isnan(known[u]), 3) if i >= 0]
    return wrong(
        ids=data.users.tolist() == [f"{u:03}" for u in range(14)],
        train=np.array_equal(dense(train), known, equal_nan=True),
        test=np.array_equal(dense(test), held, equal_nan=True),
        scores=close(all_scores(again), S, 1e-8) and same(fit, again),
        table=[(row["user"], row["item"]) for row in table] == mine,
    )


def _two_files_last_counts(place: Path) -> list[str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    X = stars(12, 7, seed=21)
    rows = records(X, 4)
    early = [(u, i, 9.0) for u, i, _ in rows[:20]]
    (place / "d").mkdir()
    for name, part, kind in (("a", early, pa.int16()), ("b", rows, pa.int64())):
        columns = {
            "user": pa.array([r[0] for r in part], kind),
            "item": [r[1] for r in part],
            "v": [r[2] for r in part],
        }
        pq.write_table(pa.table(columns), place / "d" / f"{name}.parquet")
    data = lfm_np.Interactions.from_parquet(place / "d", value="v", duplicates="last")
    model = Model("ratings", lam=0.1, nu=1.0)
    fit = lfm_np.als(data, factors=2, iterations=3, init=start(12, 7, 2), dtype="float64", **model.words)
    U, V = model.sweeps(X, start(12, 7, 2)[1], 3)
    folded = fit.fold_in_users(data.matrix[[4, 1]])
    return wrong(
        read=np.array_equal(dense(data), X, equal_nan=True),
        scores=close(all_scores(fit), U @ V.T, 1e-8),
        J=close(fit.history[-1]["objective"], model.objective(X, U, V), 1e-9),
        told=close(lfm_np.objective(data, fit), model.objective(X, U, V), 1e-9),
        folded=close(all_scores(folded), model.half(X[[4, 1]], V) @ V.T, 1e-8),
    )


def _diagonal(schedule: str) -> list[str]:
    """Each row and column has one rating, so that the order of the steps does not matter."""
    import pandas as pd

    draw = np.random.default_rng(7)
    x, to = draw.normal(0, 2, 6), draw.permutation(6)
    frame = pd.DataFrame({"user": range(7), "item": [*to.tolist(), 3], "value": [*x.tolist(), NAN]})
    data = lfm_np.Interactions.from_frame(frame, value="value", nulls="drop")
    x = x.astype(np.float32).astype(np.float64)
    U, V = start(6, 6, 2, 3)
    U0, V0 = U.copy(), V.copy()
    lam = (0.0, 0.0) if schedule == "adagrad" else (0.1, 0.3)
    W, sums, paid = V[to], np.zeros((2, 6)), []
    for e in range(3):
        r = (U * W).sum(1) - x
        gu, gw = r[:, None] * W + lam[0] * U, r[:, None] * U + lam[1] * W
        if schedule == "adagrad":
            sums += [(g**2).mean(1) for g in (r[:, None] * W, r[:, None] * U)]
        rate = 0.2 / np.sqrt(1 + sums) if schedule == "adagrad" else np.full((2, 6), 0.2)
        rate = rate / (1 + e / 10) if schedule == "inverse" else rate
        paid.append((r**2).mean() / 2)
        U, W = U - rate[0][:, None] * gu, W - rate[1][:, None] * gw
    fit = lfm_np.sgd(
        data, losses.Squared(), sampler=None, factors=2, epochs=3, learning_rate=0.2, schedule=schedule,
        regularization={"user": lam[0], "item": lam[1]}, init=(U0, V0), dtype="float64", random_state=1,
    )  # fmt: skip
    V = np.empty_like(W)
    V[to] = W
    J = lfm_np.objective(data, fit, weighting="ratings", regularization=0.25)
    X = np.full((6, 6), NAN)
    X[np.arange(6), to] = x
    return wrong(
        read=np.array_equal(dense(data), X.astype(np.float32), equal_nan=True),
        scores=close(all_scores(fit), U @ V.T, 1e-10),
        J=close(J, Model("ratings", lam=0.25).objective(X, U, V), 1e-10),
        paid=close([r["sampled_loss"] for r in fit.history], paid, 1e-10),
    )


def _biases_folded_and_updated(place: Path) -> list[str]:
    X, new = stars(15, 9, seed=22), stars(2, 9, seed=23)
    fit = rated(csr(X), X.shape, 3, 3, 0.6)
    U, V, a, b, mu = biased(X, start(15, 9, 3)[1], 0.6, 3)
    N, c = biased_half(new, V, b, mu, 0.6)
    folded = fit.fold_in_users(csr(new))
    fit.save(place / "f")
    more = lfm_np.Factors.load(place / "f").update(csr(new), users=[0, 15])
    why = more.explain(15, 4, csr(np.vstack([new[:1], X[1:], new[1:]])))
    S = np.vstack([mu + c[:1, None] + b + N[:1] @ V.T, total((U, V, a, b, mu))[1:], mu + c[1:, None] + b + N[1:] @ V.T])
    return wrong(
        mean=close(fit.global_bias, mu, 1e-12),
        folded=close(all_scores(folded), mu + c[:, None] + b + N @ V.T, 1e-8),
        biases=close(folded.user_bias, c, 1e-8) and np.array_equal(folded.item_bias, fit.item_bias),
        updated=close(all_scores(more), S, 1e-8),
        rest=np.array_equal(more.user_bias[1:15], fit.user_bias[1:15]),
        why=close(why.score, S[15, 4], 1e-8) and close(why.baseline + why.contributions.sum(), why.score, 1e-9),
        whose=sorted(why.items) == np.flatnonzero(~np.isnan(new[1])).tolist(),
    )


def _biased_objective() -> list[str]:
    X = stars(11, 8, seed=24)
    X[0, :3] = [0.0, -2.5, 1e3]
    fit = rated(csr(X), X.shape, 2, 3, 2.0)
    U, V, a, b, mu = biased(X, start(11, 8, 2)[1], 2.0, 3)
    S = mu + a[:, None] + b + U @ V.T
    J = np.nansum((X - S) ** 2) + 2.0 * sum((f**2).sum() for f in (U, V, a, b))
    users = fit.recommend([0, 5], N=8, seen=csr(X))
    mine = [best(S[u], np.isnan(X[u]), 8) for u in (0, 5)]
    return wrong(
        scores=close(all_scores(fit), S, 1e-7),
        history=close(fit.history[-1]["objective"], J, 1e-8),
        told=close(lfm_np.objective(csr(X), fit), J, 1e-8),
        zero_is_seen=users.ids.tolist() == mine and 0 not in users.ids[0],
    )


def _unknown_then_selected() -> list[str]:
    X = stars(12, 8, seed=25)
    rows = records(X, 2)
    values = np.array([x for *_, x in rows])
    values[::5] = NAN
    days = np.datetime64("2024-02-27") + np.arange(len(rows))
    data = lfm_np.Interactions.from_arrays([r[0] for r in rows], [r[1] for r in rows], values, days)
    known = data.select(~np.isnan(data.matrix.data))
    train, test = known.split("time", test_fraction=0.25)
    kept = [n for n in range(len(rows)) if n % 5]
    late = set(kept[len(kept) - int(0.25 * len(kept)) :])
    A, B = np.full(X.shape, NAN), np.full(X.shape, NAN)
    for n in kept:
        (B if n in late else A)[rows[n][0], rows[n][1]] = values[n]
    fit = rated(train, X.shape)
    S = total(biased(A, start(12, 8, 2)[1], 0.4, 2))
    u, i = np.nonzero(~np.isnan(B))
    found = lfm_np.evaluate(fit, train, test.binarize(4), ("ndcg@3", "mrr"))
    told = judged(S, ~np.isnan(A), np.nan_to_num(B) >= 4, 3)
    return wrong(
        train=np.array_equal(dense(train), A, equal_nan=True),
        test=np.array_equal(dense(test), B, equal_nan=True),
        rmse=close(np.sqrt(((fit.scores(u, i) - B[u, i]) ** 2).mean()), np.sqrt(((S - B)[u, i] ** 2).mean()), 1e-8),
        judged=all(close(found[name], told[name], 1e-10) for name in told if name in found),
        times=train.timestamps.max() < test.timestamps.min(),
    )


@contextlib.contextmanager
def _local(place: Path) -> Iterator[None]:
    before = os.environ.get("LFM_NP_DATA")
    os.environ["LFM_NP_DATA"] = str(place)
    try:
        yield
    finally:
        if before is None:
            del os.environ["LFM_NP_DATA"]
        else:
            os.environ["LFM_NP_DATA"] = before


def _own_100k(place: Path) -> list[str]:
    X = stars(10, 7, seed=26)
    rows = records(X, 6)
    user, item = (np.array([r[n] for r in rows], np.int32) for n in (0, 1))
    value, when = np.array([r[2] for r in rows], np.float32), np.arange(len(rows), dtype=np.int64) * 1000
    fold = np.arange(len(rows)) % 4 == 1
    np.savez(place / "ml-100k.npz", user=user, item=item, value=value, timestamp=when, u3_test=fold)
    with _local(place):
        data, (train, test, negatives) = datasets.movielens("100k"), datasets.movielens_split("100k", "u3")
        told = datasets.movielens_records("100k")
    A, B = X.copy(), np.full(X.shape, NAN)
    A[user[fold], item[fold]], B[user[fold], item[fold]] = NAN, value[fold]
    fit = rated(train, X.shape)
    return wrong(
        all=np.array_equal(dense(data), X, equal_nan=True) and data.items.tolist() == list(range(1, 8)),
        records=np.array_equal(told.items, item + 1) and np.array_equal(told.values, value),
        times=np.array_equal(told.timestamps, when.astype(float)),
        train=np.array_equal(dense(train), A, equal_nan=True),
        test=np.array_equal(dense(test), B, equal_nan=True) and negatives is None,
        fit=close(all_scores(fit), total(biased(A, start(10, 7, 2)[1], 0.4, 2)), 1e-8),
    )


def _own_leave_one_out(place: Path) -> list[str]:
    """User 0 has every item, user 2 is known by the pairs only; a drawn negative of user 1 is the test item."""
    draw = np.random.default_rng(5)
    rows = [(0, i) for i in range(120)] + [(1, i) for i in range(6)] + [(2, i) for i in range(3, 9)]
    user, item = (np.array([r[a] for r in rows], np.int32) for a in (0, 1))
    hidden = {0: 119, 1: 5, 2: 8}
    split = np.array([2 if hidden[u] == i else 0 for u, i in rows])
    negatives = np.array([draw.permutation(119)[:99] for _ in range(3)], np.int32)
    negatives[1, 7], negatives[2][negatives[2] == 8] = 5, 118
    np.savez(
        place / "ml-1m.npz", user=user, item=item, value=np.full(132, 4, np.float32), timestamp=np.arange(132),
        known=user < 2, ncf_split=split, ncf_test_negatives=negatives,
    )  # fmt: skip
    with _local(place):
        train, test, drawn = datasets.movielens_split("1m", "ncf")
    told = np.where(negatives == np.array([[119], [5], [8]]), -1, negatives)
    found = lfm_np.evaluate(
        most_popular(train.binarize()), train.binarize(), test.binarize(), ("ndcg@10", "mrr"), negatives=drawn
    )
    counts = np.bincount(item[split == 0], minlength=120)
    ranks = []
    for u, t in hidden.items():
        others = set(negatives[u].tolist()) - set(item[(user == u) & (split == 0)].tolist()) - {t}
        ranks.append(1 + sum((-counts[c], c) < (-counts[t], t) for c in others))
    return wrong(
        test=[(int(u), int(i)) for u, i in np.argwhere(~np.isnan(dense(test.binarize())))] == list(hidden.items()),
        unknown=np.isnan(train.matrix[[2]].data).all() and not np.isnan(train.matrix[[1]].data).any(),
        drawn=np.array_equal(drawn, told),
        ndcg=close(found["ndcg@10"], np.mean([1 / np.log2(r + 1) if r <= 10 else 0.0 for r in ranks]), 1e-12),
        mrr=close(found["mrr"], np.mean([1 / r for r in ranks]), 1e-12),
    )


def _own_archive(place: Path) -> list[str]:
    import hashlib

    X = stars(6, 5, seed=27) / 2 + 0.5
    lines = ["userId,movieId,rating,timestamp"]
    lines += [f"{u + 1},{10 * i + 10},{x:.1f},{1000 + n}" for n, (u, i, x) in enumerate(sorted(records(X)))]
    films = ["movieId,title,genres", '10,"Good, the Bad (1966)",Western', "20,Amélie (2001),Comedy"]
    films += [f"{10 * i},Film {i} (2000),Drama" for i in (3, 4, 5)]
    with zipfile.ZipFile(place / "ml-latest-small.zip", "w") as archive:
        archive.writestr("ml-latest-small/ratings.csv", "\n".join(lines) + "\n")
        archive.writestr("ml-latest-small/movies.csv", "\n".join(films) + "\n")
    seal = "sha256:" + hashlib.sha256((place / "ml-latest-small.zip").read_bytes()).hexdigest()
    with _local(place):
        data = datasets.movielens("latest-small", checksum=seal)
        titles = datasets.movielens_titles("latest-small", checksum=seal)
    fit = rated(data, X.shape)
    names = [titles[i] for i in data.item_ids(fit.recommend(2, N=5).ids)]
    S = total(biased(X, start(6, 5, 2)[1], 0.4, 2))
    told = ["Good, the Bad (1966)", "Amélie (2001)", "Film 3 (2000)", "Film 4 (2000)", "Film 5 (2000)"]
    return wrong(
        read=np.array_equal(dense(data), X, equal_nan=True) and data.items.tolist() == [10, 20, 30, 40, 50],
        titles=list(titles.values()) == told,
        names=names == [told[i] for i in best(S[2], np.ones(5, bool), 5)],
    )


def _duplicates_of(how: str) -> list[str]:
    import pyarrow as pa

    draw = np.random.default_rng(8)
    u, i, x = draw.integers(0, 9, 120), draw.integers(0, 6, 120), draw.integers(1, 9, 120) / 2
    when = draw.permutation(120)
    table = pa.table({"user": u, "item": i, "x": x, "t": when})
    data = lfm_np.Interactions.from_frame(table, value="x", timestamp="t", duplicates=how)
    cells: dict[tuple[int, int], list[tuple[int, float]]] = {}
    for a, b, c, t in zip(u, i, x, when, strict=True):
        cells.setdefault((int(a), int(b)), []).append((int(t), float(c)))
    make = {"mean": lambda v: sum(c for _, c in v) / len(v), "last": lambda v: max(v)[1], "count": len}[how]
    X, T = np.full((9, 6), NAN), np.full((9, 6), NAN)
    for place, found in cells.items():
        X[place], T[place] = make(found), max(found)[0]
    train, test = data.split("last", n=1)
    A = X.copy()
    for row in range(9):
        A[row, np.nanargmax(T[row])] = NAN
    model = Model("ratings", lam=0.7)
    fit = lfm_np.als(train, factors=2, iterations=2, init=start(9, 6, 2), dtype="float64", **model.words)
    U, V = model.sweeps(A.astype(np.float32).astype(float), start(9, 6, 2)[1], 2)
    return wrong(
        read=np.array_equal(dense(data), X.astype(np.float32), equal_nan=True),
        train=np.array_equal(dense(train), A.astype(np.float32), equal_nan=True) and test.matrix.nnz == 9,
        fit=close(all_scores(fit), U @ V.T, 1e-8),
    )


def _items_of_ratings_new() -> list[str]:
    X, wide = stars(13, 6, seed=28), stars(13, 2, seed=29)
    fit = rated(csr(X), X.shape, 2, 2, 0.8)
    U, V, a, b, mu = biased(X, start(13, 6, 2)[1], 0.8, 2)
    W, c = biased_half(wide.T, U, a, mu, 0.8)
    more = fit.update(csr(wide[:, ::-1]), items=[7, 6])
    S = total((U, np.vstack([V, W]), a, np.append(b, c), mu))
    ids = more.recommend([0, 12], N=3, items=[7, 6, 2]).ids
    only = np.isin(np.arange(8), [2, 6, 7])
    return wrong(
        scores=close(all_scores(more), S, 1e-8),
        lists=ids.tolist() == [best(S[u], only, 3) for u in (0, 12)],
        cosines=close(more.similar_items(6, N=8).scores.max(), 1.0, 1e-12),
    )


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    tables = installed("pyarrow", "narwhals")
    if tables:
        yield _holds("tabs, zeros in front, by time, biases, mapped, a frame", inside(_read_by_time_and_told))
        yield _holds("two files of two types, the last one counts, ALS-WR", inside(_two_files_last_counts))
        for how in ("mean", "last", "count"):
            yield _holds(f"records by {how}, the last held out, ratings", lambda h=how: _duplicates_of(h))
        yield _holds("an archive of one's own, with titles", inside(_own_archive))
    if tables and installed("pandas"):
        for schedule in ("constant", "inverse", "adagrad"):
            yield _holds(f"a frame with a null, steps that do not meet: {schedule}", lambda s=schedule: _diagonal(s))
    yield _holds("biases folded in, kept, updated and explained", inside(_biases_folded_and_updated))
    yield _holds("a rating of 0, one of -2.5 and one of 1,000", _biased_objective)
    yield _holds("unknown values, known ones by days, judged by likes", _unknown_then_selected)
    yield _holds("a MovieLens of one's own, fold u3", inside(_own_100k))
    yield _holds("leave-one-out of one's own", inside(_own_leave_one_out))
    yield _holds("new items of ratings, out of order", _items_of_ratings_new)
