"""Working days with ratings: read, split, fit, fold in, judge, save and load, beside float64 by hand."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import scipy.sparse as sp

import lfm_np
from lfm_np import losses

from .case import Case, Group, installed
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
    folder,
    same,
    stars,
    start,
    wrong,
)

_GROUP = Group("day with ratings")
_day = faultless(_GROUP)


def _semicolons_to_rmse() -> list[str]:
    draw = np.random.default_rng(3)
    records, expected = [], {}
    for time in draw.permutation(400).tolist():
        user, item, value = f"O'Hara; {draw.integers(25)}", int(draw.integers(15)), int(draw.integers(1, 6))
        records.append((user, item, value, time))
    for user, item, value, time in sorted(records, key=lambda record: record[3]):
        expected[user, item] = (value, time)
    users, items = sorted({u for u, _ in expected}), sorted({i for _, i in expected})
    with folder() as place:
        lines = ["who;what;stars;when", *(f'"{u}";{i};{v};{t}' for u, i, v, t in records)]
        (place / "export.csv").write_text("\r\n".join(lines) + "\r\n")
        data = lfm_np.Interactions.from_csv(
            place / "export.csv",
            delimiter=";",
            user="who",
            item="what",
            value="stars",
            timestamp="when",
            duplicates="last",
        )
    read = {
        (data.users[u], int(data.items[i])): (int(data.matrix[u, i]), int(t))
        for u, i, t in zip(*data.matrix.nonzero(), data.timestamps, strict=True)
    }
    train, test = data.split("last")
    latest = {u: max((t, i) for (v, i), (_, t) in expected.items() if v == u) for u in users}
    alone = {u: sum(v == u for v, _ in expected) == 1 for u in users}
    held = {(u, latest[u][1]) for u in users if not alone[u]}
    left = {(data.users[u], int(data.items[i])) for u, i in zip(*test.matrix.nonzero(), strict=True)}
    model = lfm_np.als(
        train, factors=3, weighting="ratings", biases=True, regularization=0.7, iterations=4, dtype="float64"
    )
    X, mu = dense(train), float(np.nanmean(dense(train)))
    V, b = biased_half(X.T, model.user_factors, model.user_bias, mu, 0.7)
    Y = dense(test)
    rows, columns = np.nonzero(~np.isnan(Y))
    mine = Y[rows, columns] - (
        mu + model.user_bias[rows] + b[columns] + (model.user_factors[rows] * V[columns]).sum(axis=1)
    )
    rmse = np.sqrt(np.mean((Y[rows, columns] - model.scores(rows, columns)) ** 2))
    return wrong(
        ids=data.users.tolist() == users and data.items.tolist() == items,
        cells=read == expected,
        held_out=left == held,
        mean=close(model.global_bias, mu, 1e-7),
        items_solved=close(model.item_factors, V, 1e-7) and close(model.item_bias, b, 1e-7),
        rmse=close(rmse, np.sqrt(np.mean(mine**2)), 1e-7),
    )


def _zeros_are_values() -> list[str]:
    X = stars(24, 14, seed=5) - 3.0  # -2 … 2, zeros among them
    rule, (U, V) = Model("ratings", lam=0.5, nu=1.0), start(24, 14, 3)
    words = {"factors": 3, "iterations": 3, "init": (U, V), "dtype": "float64", **rule.words}
    with folder() as place:
        stored = lfm_np.StoredMatrix.from_matrix(csr(X), place / "matrix", zeros="keep", dtype="float64")
        there = lfm_np.als(stored, **words)
        here = lfm_np.als(csr(X), **words)
        here.save(place / "model")
        again = lfm_np.Factors.load(place / "model", mmap=True)
        new = np.full((2, 14), NAN)
        new[0, [1, 4]], new[1, [0, 2, 9]] = [0.0, 0.0], [0.0, 2.0, -1.0]
        folded = again.fold_in_users(csr(new))
        lists = folded.recommend([0, 1], N=14, seen=csr(new)).ids
    mine = rule.sweeps(X, V, 3)
    solved = rule.half(new, np.asarray(here.item_factors))
    brute = [best(row, np.isnan(x), 14) for row, x in zip(all_scores(folded), new, strict=True)]
    return wrong(
        cells=stored.nnz == int((~np.isnan(X)).sum()),
        disk=same(there, here),
        loop=close(all_scores(here), mine[0] @ mine[1].T, 1e-8),
        objective=close(here.history[-1]["objective"], rule.objective(X, *mine), 1e-8),
        folded=close(folded.user_factors, solved, 1e-8),
        zeros_seen=lists.tolist() == brute,
    )


def _categories_and_means() -> list[str]:
    import pandas as pd

    draw = np.random.default_rng(8)
    users = draw.choice(["zoe", "Äda", "bob", "élan", "Bob"], 120)
    items, values = draw.integers(0, 9, 120) * 10, draw.integers(1, 11, 120) / 2
    frame = pd.DataFrame({"user": pd.Categorical(users, categories=["unused", *sorted(set(users))[::-1]])})
    frame["item"], frame["stars"] = pd.Series(items).astype("Int64"), values
    frame.index = draw.permutation(120)
    data = lfm_np.Interactions.from_frame(frame, value="stars", duplicates="mean")
    of: dict[tuple[str, int], list[float]] = {}
    for u, i, v in zip(users, items, values, strict=True):
        of.setdefault((str(u), int(i)), []).append(v)
    X = dense(data)
    mine = np.array([[np.float32(np.mean(of[u, i])) if (u, i) in of else NAN for i in data.items] for u in data.users])
    rule, (U, V) = Model("ratings", lam=0.3), start(*X.shape, 2)
    fit = lfm_np.als(data, factors=2, iterations=2, init=(U, V), dtype="float64", **rule.words)
    ours = rule.sweeps(X, V, 2)
    table = lfm_np.recommend_frame(fit, data, ["Äda"], N=20)
    row = data.users.tolist().index("Äda")
    order = [int(data.items[i]) for i in best(all_scores(fit)[row], np.ones(X.shape[1], bool), X.shape[1])]
    return wrong(
        sorted_ids=data.users.tolist() == sorted(set(map(str, users))),
        means=np.allclose(X, mine, rtol=1e-6, equal_nan=True),
        fit=close(all_scores(fit), ours[0] @ ours[1].T, 1e-8),
        pandas=type(table).__module__.startswith("pandas"),
        list=[int(i) for i in table["item"]] == order and table["rank"].tolist() == list(range(1, len(order) + 1)),
    )


def _first_epoch_by_hand(values: np.ndarray) -> list[str]:
    U, V = start(*values.shape, 3)
    fit = lfm_np.sgd(
        csr(values),
        losses.Squared(),
        sampler=None,
        factors=3,
        learning_rate=1e-12 / np.nanmax(abs(values)),
        regularization=0.0,
        epochs=2,
        init=(U, V),
        dtype="float64",
        random_state=3,
    )
    known = ~np.isnan(values)
    loss = 0.5 * np.mean((values - U @ V.T)[known] ** 2)
    return wrong(
        loss=all(close(record["sampled_loss"], loss, 1e-6) for record in fit.history),
        epochs=len(fit.history) == 2,
        still=close(all_scores(fit), U @ V.T, 1e-6),
    )


def _sgd_constant_is_the_mean() -> list[str]:
    X = stars(40, 25, seed=6)
    fit = lfm_np.sgd(csr(X), losses.Squared(), sampler=None, factors=4, biases=True, epochs=30, random_state=0)
    rows, columns = np.nonzero(~np.isnan(X))
    before, after = np.nanstd(X), np.sqrt(np.mean((fit.scores(rows, columns) - X[rows, columns]) ** 2))
    return wrong(mean=close(fit.global_bias, np.nanmean(X), 1e-6), learns=after < before)


def _newcomers_with_biases() -> list[str]:
    X, new = stars(30, 20), stars(3, 20, seed=9)
    fit = lfm_np.als(csr(X), factors=3, weighting="ratings", biases=True, regularization=0.4, dtype="float64")
    folded = fit.fold_in_users(csr(new))
    U, b = biased_half(new, fit.item_factors, fit.item_bias, fit.global_bias, 0.4)
    grown = fit.update(csr(new), users=[30, 31, 32])
    seen = csr(np.vstack([X, new]))
    lists = grown.recommend([31, 4], N=5, seen=seen, exclude=[0, 7])
    allowed = np.isnan(np.vstack([X, new]))
    allowed[:, [0, 7]] = False
    S = all_scores(grown)
    why = grown.explain(31, int(lists.ids[0, 0]), seen)
    return wrong(
        folded=close(folded.user_factors, U, 1e-8) and close(folded.user_bias, b, 1e-8),
        grown=close(grown.user_factors[30:], U, 1e-8) and np.array_equal(grown.user_factors[:30], fit.user_factors),
        lists=lists.ids.tolist() == [best(S[u], allowed[u], 5) for u in (31, 4)],
        scores=close(lists.scores, np.take_along_axis(S[[31, 4]], lists.ids, 1), 1e-9),
        explained=close(why.score, S[31, lists.ids[0, 0]], 1e-8)
        and close(why.baseline + why.contributions.sum(), why.score, 1e-8)
        and set(why.items.tolist()) == set(np.flatnonzero(~np.isnan(new[1])).tolist()),
    )


def _core_of_a_log() -> list[str]:
    draw = np.random.default_rng(11)
    pairs = {(f"u{draw.integers(30)}", int(draw.integers(25) ** 2)) for _ in range(130)}
    users, items = zip(*sorted(pairs), strict=True)
    data = lfm_np.Interactions.from_arrays(list(users), list(items)).core(4, 3)
    left = set(pairs)
    while True:
        kept = {p for p in left if sum(q[0] == p[0] for q in left) >= 4}
        kept = {p for p in kept if sum(q[1] == p[1] for q in kept) >= 3}
        if kept == left:
            break
        left = kept
    found = {(data.users[u], int(data.items[i])) for u, i in zip(*data.matrix.nonzero(), strict=True)}
    return wrong(cells=found == left and bool(left), users=data.users.tolist() == sorted({u for u, _ in left}))


def _centred_by_hand() -> list[str]:
    X = stars(26, 17, seed=12)
    X[4, ~np.isnan(X[4])] = 3.0  # a user of one opinion, whose centred ratings are all zero
    Z = X - np.nanmean(X, axis=1, keepdims=True)
    rule, (U, V) = Model("ratings", lam=0.2, nu=0.5), start(26, 17, 4)
    fit = lfm_np.als(csr(Z), factors=4, iterations=2, init=(U, V), dtype="float64", **rule.words)
    mine = rule.sweeps(Z, V, 2)
    return wrong(fit=close(all_scores(fit), mine[0] @ mine[1].T, 1e-8), zero=close(fit.user_factors[4], np.zeros(4), 0))


def _strong_lambda() -> list[str]:
    X = stars()
    fit = lfm_np.als(csr(X), factors=4, weighting="ratings", regularization=1e30, random_state=0)
    rows, columns = np.nonzero(~np.isnan(X))
    total = float((X[rows, columns] ** 2).sum())
    return wrong(
        small=abs(fit.scores(rows, columns)).max() < 1e-6, objective=close(fit.history[-1]["objective"], total, 1e-6)
    )


def _one_row_holds_everything() -> list[str]:
    X = np.full((12, 40), NAN)
    X[7] = np.arange(40) % 5 + 1.0
    rule, (U, V) = Model("ratings", lam=0.3), start(12, 40, 6)
    fit = lfm_np.als(csr(X), factors=6, iterations=3, init=(U, V), dtype="float64", **rule.words)
    mine = rule.sweeps(X, V, 3)
    return wrong(scores=close(all_scores(fit), mine[0] @ mine[1].T, 1e-8), others=not fit.user_factors[:7].any())


def _prices() -> list[str]:
    X = stars(30, 20, seed=13) * 1e8 + 12345.0
    rule, (U, V) = Model("ratings", lam=1e-3), start(30, 20, 3)
    fit = lfm_np.als(csr(X, np.float32), factors=3, iterations=1, init=(U, V), **rule.words)
    low = csr(X, np.float32).toarray().astype(np.float64)
    mine = rule.sweeps(np.where(np.isnan(X), NAN, low), V.astype(np.float32).astype(np.float64), 1)
    known = ~np.isnan(X)
    return wrong(scores=close(all_scores(fit)[known], (mine[0] @ mine[1].T)[known], 1e-2))


def _constant_without_penalty() -> Any:
    X = np.where(np.isnan(stars(15, 6, share=0.6)), NAN, 3.0)
    return lfm_np.als(csr(X), factors=9, weighting="ratings", regularization=0.0, random_state=0, iterations=3), X


def _constant_is_met(found: Any) -> bool:
    fit, X = found
    rows, columns = np.nonzero(~np.isnan(X))
    return bool(abs(fit.scores(rows, columns) - 3.0).max() < 1e-2)


def _three_evenings() -> list[str]:
    X = stars(40, 22, seed=14)
    words: dict[str, Any] = {
        "factors": 5,
        "weighting": "ratings",
        "biases": True,
        "regularization": 0.3,
        "random_state": 4,
    }
    whole = lfm_np.als(csr(X), iterations=9, num_threads=1, **words)
    with folder() as place:
        for evening, threads in ((3, 2), (6, 1), (9, 3)):
            last = lfm_np.als(
                csr(X), iterations=evening, num_threads=threads, checkpoint=place / "night.checkpoint", **words
            )
        left = sorted(path.name for path in place.iterdir())
    return wrong(
        bits=same(last, whole),
        history=[r["iteration"] for r in last.history] == list(range(1, 10)),
        objective=[r["objective"] for r in last.history] == [r["objective"] for r in whole.history],
        files=left == ["night.checkpoint"],
    )


def _half_of_them_unknown() -> list[str]:
    rows, columns = np.nonzero(~np.isnan(stars(20, 12)))
    values = np.where(np.arange(len(rows)) % 2, 4.0, NAN)
    data = lfm_np.Interactions.from_arrays(rows, columns, values)
    known = data.select(~np.isnan(data.matrix.data))
    liked = data.binarize(threshold=4)
    fit = lfm_np.als(known, factors=2, weighting="ratings", regularization=0.1, random_state=0)
    return wrong(
        select=known.matrix.nnz == int((~np.isnan(values)).sum()) and known.shape == data.shape,
        binarize=liked.matrix.nnz == known.matrix.nnz and set(liked.matrix.data.tolist()) == {1.0},
        every=data.binarize().matrix.nnz == len(rows),
        fit=bool(np.isfinite(fit.item_factors).all()),
    )


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    if installed("pyarrow"):
        yield _day("semicolons, quotes, CRLF and changed ratings, to the RMSE of the last ones", _semicolons_to_rmse)
    yield _day("zeros are values on disk, in memory, folded in and seen", _zeros_are_values)
    if installed("pandas", "narwhals", "pyarrow"):
        yield _day("categories, nullable integers and means of repeated ratings", _categories_and_means)
    yield _day("sgd, losses of dislikes before tiny steps", lambda: _first_epoch_by_hand(stars(20, 12) - 3.5))
    yield _day("sgd, losses of ratings of a billion", lambda: _first_epoch_by_hand(stars(20, 12) * 1e9))
    yield _day("sgd with biases, the constant is the mean", _sgd_constant_is_the_mean)
    yield _day("newcomers of a model with biases: folded in, added, listed, explained", _newcomers_with_biases)
    yield _day("core of a log, by sets", _core_of_a_log)
    yield _day("centred by the user, one of whom is all zeros", _centred_by_hand)
    yield _day("lambda of 1e30", _strong_lambda)
    yield _day("one row holds everything, the others nothing", _one_row_holds_everything)
    yield _day("prices of a hundred millions in float32", _prices)
    yield _GROUP.either(
        "constant, k beyond n, no penalty",
        _constant_without_penalty,
        _constant_is_met,
        "row|user|item",
        "regularization",
        kind=lfm_np.SolverError,
    )
    yield _day("three evenings with other threads, to the bits of one", _three_evenings)
    yield _day("half of the values unknown", _half_of_them_unknown)
    yield _GROUP.refused(
        "unknown values into a fit",
        lambda: lfm_np.als(lfm_np.Interactions.from_arrays([0, 1], [0, 1], [NAN, 2.0]), weighting="ratings"),
        "nan|unknown|finite",
    )
    yield _GROUP.refused(
        "ratings stored twice",
        lambda: lfm_np.als(
            sp.coo_array((np.array([3.0, 4.0]), ([0, 0], [1, 1])), shape=(2, 2)), weighting="ratings", factors=1
        ),
        "duplicate|twice|more than once|repeat",
    )
