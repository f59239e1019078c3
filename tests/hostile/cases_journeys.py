"""From records to recommendations and back, each number on the way beside a count or a loop."""

from __future__ import annotations

import copy
import os
import pickle
import tempfile
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import scipy.sparse as sp

import lfm_np
from lfm_np import losses
from lfm_np.evaluation import most_popular

from . import brute
from .case import Case, Group

_refused, _right, _either = (getattr(Group("journeys"), kind) for kind in ("refused", "right", "either"))
NAMES = [
    f"{base}{at}"
    for base in ("recall", "capped_recall", "precision", "hit_rate", "ndcg", "map", "mrr")
    for at in ("@1", "@3", "@50")
] + ["ndcg", "map", "mrr", "auc"]


def records(seed: int = 0, size: int = 150) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Users, items, values and times, with repeated pairs."""
    rng = np.random.default_rng(seed)
    users = np.array(["ann", "Bob", "eve", "Zoë", "", "ann ", "张伟", "10", "9"])[rng.integers(0, 9, size)]
    items = rng.choice([10**12, -5, 0, 7, 2**62, 33, 34, 35, 36, 40, 41], size)
    return users, items, rng.integers(1, 6, size).astype(float), rng.permutation(size)


def data(**words: Any) -> Any:
    users, items, values, times = records()
    return lfm_np.Interactions.from_arrays(users, items, values, times, **words)


def cells(found: Any) -> dict[tuple[str, int], float]:
    """Values by ids."""
    part = sp.coo_array(found.matrix)
    rows, columns = part.coords
    ids = zip(found.users[rows].tolist(), found.items[columns].tolist(), strict=True)
    return dict(zip(ids, part.data.tolist(), strict=True))


def by_hand(duplicates: str) -> dict[tuple[str, int], float]:
    users, items, values, times = records()
    groups: dict[tuple[str, int], list[tuple[int, float]]] = {}
    for u, i, x, t in zip(users.tolist(), items.tolist(), values.tolist(), times.tolist(), strict=True):
        groups.setdefault((u, i), []).append((t, x))
    reduce: dict[str, Any] = {
        "sum": lambda g: sum(x for _, x in g),
        "last": lambda g: max(g)[1],
        "mean": lambda g: sum(x for _, x in g) / len(g),
        "max": lambda g: max(x for _, x in g),
        "count": len,
    }
    return {pair: reduce[duplicates](group) for pair, group in groups.items()}


def close(found: dict[Any, float], expected: dict[Any, float]) -> bool:
    return found.keys() == expected.keys() and all(abs(found[key] - expected[key]) < 1e-5 for key in found)


def getting_in() -> Iterator[Case]:
    for duplicates in ("sum", "last", "mean", "max", "count"):
        yield _right(
            f"records by ids, {duplicates}",
            lambda d=duplicates: cells(data(duplicates=d)),
            lambda found, d=duplicates: close(found, by_hand(d)),
        )
    yield _right("pairs of numbers, every duplicates=", lambda: [of_pairs(d) for d in KINDS], all)
    yield _right("build_dict is a dict of sets", lambda: lfm_np.build_dict(some_pairs()), is_dict)
    yield _right("a core is one", lambda: data().core(12, 10), lambda core: is_core(core, 12, 10))
    yield _right("a threshold", lambda: cells(data(duplicates="max").binarize(4)), is_threshold)
    for fraction in (0.2, 0.5, 0.93):
        yield _right(
            f"a random split, {fraction}",
            lambda f=fraction: data().split("random", test_fraction=f, random_state=1),
            lambda parts, f=fraction: is_random_split(parts, f),
        )
    yield _right("the last two", lambda: data().split("last", n=2), is_last_split)
    yield _right("by time", lambda: data().split("time", test_fraction=0.3), is_time_split)
    yield _right(
        "planted pairs are distinct, and every row has one",
        lambda: lfm_np.datasets.make_interactions_train_test(200, 30, 6, 0.4, random_state=3),
        is_planted,
    )


KINDS = ("sum", "last", "mean", "max", "count")


def some_pairs() -> np.ndarray:
    return np.random.default_rng(5).integers(0, 7, (60, 2))


def of_pairs(duplicates: str) -> bool:
    pairs, values = some_pairs(), np.random.default_rng(6).normal(size=60)
    found = lfm_np.to_csr(pairs, (9, 8), values, duplicates)
    expected = np.zeros((9, 8))
    for i in range(9):
        for j in range(8):
            here = values[(pairs == (i, j)).all(1)]
            if len(here):
                reduce = {
                    "sum": here.sum(),
                    "last": here[-1],
                    "mean": here.mean(),
                    "max": here.max(),
                    "count": len(here),
                }
                expected[i, j] = reduce[duplicates]
    return brute.near(found.toarray(), expected, 1e-6) and found.has_canonical_format


def is_dict(found: dict[int, np.ndarray]) -> bool:
    expected: dict[int, set[int]] = {}
    for i, j in some_pairs().tolist():
        expected.setdefault(i, set()).add(j)
    return {i: js.tolist() for i, js in found.items()} == {i: sorted(js) for i, js in expected.items()}


def is_core(core: Any, users: int, items: int) -> bool:
    kept = dict.fromkeys(by_hand("sum"), 1)
    while True:
        of_users, of_items = Counter(u for u, _ in kept), Counter(i for _, i in kept)
        kept_users = {pair for pair in kept if of_users[pair[0]] >= users}
        of_items = Counter(i for _, i in kept_users)
        fewer = dict.fromkeys((pair for pair in kept_users if of_items[pair[1]] >= items), 1)
        if fewer == kept:
            break
        kept = fewer
    return cells(core).keys() == kept.keys() and len(core.users) == len({u for u, _ in kept})


def is_threshold(found: dict[Any, float]) -> bool:
    return found == {pair: 1.0 for pair, value in by_hand("max").items() if value >= 4}


def parted(parts: Any) -> bool:
    """Whether both parts together are all cells, none twice, over the same ids."""
    train, test = map(cells, parts)
    same = all(np.array_equal(part.users, data().users) and np.array_equal(part.items, data().items) for part in parts)
    return same and not train.keys() & test.keys() and {**train, **test} == cells(data())


def is_random_split(parts: Any, fraction: float) -> bool:
    all_, test = np.diff(data().matrix.indptr), np.diff(parts[1].matrix.indptr)
    low, high = np.floor(fraction * all_), np.ceil(fraction * all_)
    return parted(parts) and bool(((test >= np.minimum(low, all_ - 1)) & (test <= high) & (test < all_)).all())


def latest() -> dict[tuple[str, int], int]:
    times: dict[tuple[str, int], int] = {}
    for u, i, _, t in zip(*(array.tolist() for array in records()), strict=True):
        times[u, i] = max(t, times.get((u, i), -1))
    return times


def is_last_split(parts: Any) -> bool:
    times = latest()
    expected = set()
    for user in {u for u, _ in times}:
        own = sorted((pair for pair in times if pair[0] == user), key=times.__getitem__)
        expected |= set(own[max(1, len(own) - 2) :])
    return parted(parts) and cells(parts[1]).keys() == expected


def is_time_split(parts: Any) -> bool:
    times = latest()
    train, test = (list(cells(part)) for part in parts)
    return (
        parted(parts) and len(test) == int(0.3 * len(times)) and max(map(times.get, train)) < min(map(times.get, test))
    )


def is_planted(parts: Any) -> bool:
    train, test = (list(map(tuple, part.tolist())) for part in parts)
    both = train + test
    sizes = Counter(i for i, _ in both)
    inside = all(0 <= i < 200 and 0 <= j < 30 for i, j in both)
    return (
        inside and len(set(both)) == len(both) and {i for i, _ in train} == set(range(200)) and max(sizes.values()) <= 6
    )


# ---- lists and metrics -----------------------------------------------------------------------------------------------


def fitted(**words: Any) -> Any:
    return lfm_np.als(brute.counts(30, 20), factors=6, iterations=3, random_state=0, **words)


def held_out() -> sp.csr_array:
    """Cells that partly are in training too, and users without any."""
    return brute.counts(30, 20, 0.2, seed=11)


def measured(found: Any, train: Any, test: Any, negatives: Any = None) -> bool:
    got = lfm_np.evaluate(found, train, test, NAMES, negatives=negatives)
    users, items = np.divmod(np.arange(found.user_factors.shape[0] * 20), 20)
    table = found.scores(users, items).reshape(-1, 20).astype(float)
    dense = [None if X is None else X.toarray() for X in (train, test)]
    expected = brute.evaluate(table, *dense, NAMES, negatives)
    return got.keys() == expected.keys() and all(
        np.isclose(got[name], expected[name], rtol=1e-9, atol=1e-12, equal_nan=True) for name in expected
    )


def tied() -> Any:
    rng = np.random.default_rng(3)
    return lfm_np.Factors(rng.integers(0, 2, (30, 2)).astype(float), rng.integers(0, 3, (20, 2)).astype(float))


def listed(found: Any, N: int, **words: Any) -> bool:
    users = [4, 4, 0, 29, 3]
    seen = words.get("seen")
    table = found.scores(*(a.ravel() for a in np.indices((30, 20)))).reshape(30, 20)
    dense = None if seen is None else seen.toarray()[users]
    expected = brute.lists(table[users], N, dense, words.get("items"), words.get("exclude", ()))
    ids, values = found.recommend(users, N=N, **words)
    right = np.where(expected >= 0, table[np.array(users)[:, None], expected], -np.inf)
    return np.array_equal(ids, expected) and np.array_equal(values, right)


def similar(metric: str) -> bool:
    V = np.random.default_rng(2).normal(size=(12, 3))
    V[[3, 8]] = 0
    V[5] = 2 * V[1]
    norms = np.linalg.norm(V, axis=1)
    table = V @ V.T
    if metric == "cosine":
        table = table / np.where(norms, norms, 1) / np.where(norms, norms, 1)[:, None]
    ids, values = lfm_np.Factors(np.ones((1, 3)), V).similar_items(np.arange(12), N=12, metric=metric)
    right = np.take_along_axis(table, ids, 1)
    whole = all(sorted(row) == list(range(12)) for row in ids.tolist())
    return whole and brute.near(values, right, 1e-12) and bool((np.diff(right, axis=1) <= 1e-12).all())


def lists() -> Iterator[Case]:
    X = brute.counts(30, 20)
    yield _right("every metric", lambda: measured(fitted(), X, held_out()), bool)
    yield _right("every metric, nothing known before", lambda: measured(fitted(biases=False), None, held_out()), bool)
    yield _right("every metric, ties", lambda: measured(tied(), X, held_out()), bool)
    yield _right("every metric, popularity", lambda: measured(most_popular_rows(X), X, held_out()), bool)
    yield _right(
        "every metric among negatives",
        lambda: measured(tied(), X, held_out(), np.random.default_rng(1).integers(-1, 20, (30, 6))),
        bool,
    )
    yield _right("every metric, one user", lambda: measured(tied(), None, one_user()), bool)
    for N in (1, 5, 20, 33):
        yield _right(f"{N} best, seen", lambda n=N: listed(fitted(dtype="float64"), n, seen=X), bool)
        yield _right(f"{N} best, ties, excluded", lambda n=N: listed(tied(), n, seen=X, exclude=[0, 19, 7]), bool)
    yield _right("the best of a few", lambda: listed(tied(), 4, seen=X, items=[19, 3, 3, 5], exclude=[5]), bool)
    yield _right("cosines of zero vectors", lambda: similar("cosine"), bool)
    yield _right("inner products", lambda: similar("inner"), bool)
    yield _right(
        "scores of scalars and arrays",
        lambda: (tied().scores(3, 4), tied().scores(3, [4, 5]), tied().scores([3, 2], np.int8(4))),
        lambda got: [np.shape(x) for x in got] == [(), (2,), (2,)] and got[0] == got[1][0] == got[2][0],
    )


def most_popular_rows(X: Any) -> Any:
    return most_popular(X)


def one_user() -> sp.csr_array:
    return sp.csr_array(held_out().toarray() * (np.arange(30) == 4)[:, None])


# ---- kept and gone on with -------------------------------------------------------------------------------------------


def same(a: Any, b: Any) -> bool:
    sides = ("user_factors", "item_factors", "user_bias", "item_bias")
    arrays = all(np.array_equal(getattr(a, side), getattr(b, side)) for side in sides)
    return arrays and a.global_bias == b.global_bias and a.params == b.params and a.status == b.status


def rated() -> sp.csr_array:
    X = brute.counts(30, 20)
    X.data -= 3
    return X


def saved(mmap: bool) -> bool:
    found = lfm_np.als(rated(), factors=4, weighting="ratings", biases=True, regularization=0.1, iterations=3)
    with tempfile.TemporaryDirectory() as place:
        path = os.path.join(place, "a model.safetensors")
        found.save(path)
        again = lfm_np.Factors.load(path, mmap=mmap)
        folded = [model.fold_in_users(rated()[:4]).recommend(range(4), N=3, seen=None) for model in (found, again)]
        again.save(path)  # over the file that it may be mapped from
        third = lfm_np.Factors.load(path)
    return same(found, again) and same(again, third) and np.array_equal(folded[0].ids, folded[1].ids)


def resumed(**words: Any) -> bool:
    X = rated() if words.get("weighting") == "ratings" else brute.counts(30, 20)
    words = {"factors": 5, "random_state": 9, **words}
    with tempfile.TemporaryDirectory() as place:
        path = os.path.join(place, "run")
        for sweeps in (1, 2, 2, 6):
            got = lfm_np.als(X, iterations=sweeps, checkpoint=path, **words)
    whole = lfm_np.als(X, iterations=6, **words)
    values = [[record["objective"] for record in found.history] for found in (got, whole)]
    return same(got, whole) and values[0] == values[1]


def warm() -> bool:
    """Three sweeps and two from there are five."""
    X, init = brute.counts(30, 20), brute.starts(30, 20, 4)
    words = {"factors": 4, "dtype": "float64", "alpha": 5.0}
    first = lfm_np.als(X, iterations=3, init=init, **words)
    second = lfm_np.als(X, iterations=2, init=first, **words)
    whole = lfm_np.als(X, iterations=5, init=init, **words)
    return brute.near(brute.scores(second), brute.scores(whole), 1e-9)


def stops() -> bool:
    X, seen = brute.counts(30, 20), []

    def watch(record: dict[str, Any], found: Any) -> None:
        record["own"] = float(lfm_np.objective(X, found))
        seen.append(found)
        if len(seen) == 3:
            raise StopIteration

    found = lfm_np.als(X, factors=4, iterations=10, random_state=0, dtype="float64", callback=watch)
    short = lfm_np.als(X, factors=4, iterations=3, random_state=0, dtype="float64")
    own = all(np.isclose(record["own"], record["objective"], rtol=1e-9) for record in found.history)
    return own and len(found.history) == 3 and np.array_equal(found.item_factors, short.item_factors)


def tolerated() -> bool:
    X = brute.counts(30, 20)
    words = {"factors": 4, "random_state": 0, "regularization": 1.0, "iterations": 60}
    J = [record["objective"] for record in lfm_np.als(X, **words).history]
    expected = next(s + 1 for s in range(1, 60) if J[s - 1] - J[s] < 1e-3 * J[s])
    return len(lfm_np.als(X, tolerance=1e-3, **words).history) == expected


def framed() -> bool:
    import pyarrow.parquet

    interactions = data()
    found = lfm_np.als(interactions, factors=3, random_state=0)
    asked = ["张伟", "", "ann "]
    words: dict[str, Any] = {"N": 4, "seen": interactions, "exclude": [2**62]}
    table = lfm_np.recommend_frame(found, interactions, asked, backend="pyarrow", **words).to_pylist()
    with tempfile.TemporaryDirectory() as place:
        path = os.path.join(place, "lists.parquet")
        lfm_np.recommend_parquet(found, interactions, path, asked, **words)
        written = pyarrow.parquet.read_table(path).to_pylist()
    rows = interactions.rows_of(asked)
    table_of = found.scores(*(a.ravel() for a in np.indices(interactions.shape))).reshape(interactions.shape)
    banned = interactions.columns_of([2**62]).tolist()
    best = brute.lists(table_of[rows], 4, interactions.matrix.toarray()[rows], exclude=banned)
    expected = [
        (user, int(interactions.items[i]), rank)
        for user, row in zip(asked, best.tolist(), strict=True)
        for rank, i in enumerate((i for i in row if i >= 0), 1)
    ]
    return [(r["user"], r["item"], r["rank"]) for r in table] == expected and written == table


def searched() -> bool:
    """A grid search's best score is what a loop over its folds finds."""
    from sklearn.model_selection import GridSearchCV, KFold

    from lfm_np.sklearn import ALS, HeldOut

    X = lfm_np.to_csr(lfm_np.datasets.make_interactions(90, 20, 8, random_state=0), shape=(90, 20))
    scorer, folds = HeldOut("ndcg@5"), KFold(3)
    model = ALS(factors=3, random_state=0, iterations=3)
    search = GridSearchCV(model, {"regularization": [0.1, 50.0]}, scoring=scorer, cv=folds).fit(X)
    means = []
    for lam in (0.1, 50.0):
        one = ALS(factors=3, random_state=0, iterations=3, regularization=lam)
        means.append(np.mean([scorer(one.fit(X[train]), X[test]) for train, test in folds.split(np.arange(90))]))
    return np.allclose(search.cv_results_["mean_test_score"], means, rtol=1e-12)


def estimated(loss: bool) -> bool:
    """What an estimator makes of rows is the solution of their equations."""
    from lfm_np.sklearn import ALS, SGD

    X = rated() if loss else brute.counts(30, 20)
    model: Any
    if loss:
        model = SGD(losses.Squared(), sampler=None, factors=3, regularization={"user": 0.2}, dtype="float64")
        words: dict[str, Any] = {"weighting": "ratings", "regularization": 0.2, "regularization_exponent": 1.0}
    else:
        words = {"weighting": "ials", "unobserved_weight": 0.3, "regularization": 0.2}
        model = ALS(factors=3, dtype="float64", **words)
    model.set_params(random_state=1).fit(X)
    V = model.item_factors_
    expected = brute.als(X, (np.zeros((30, 3)), V), 1, **words)["U"]
    got = model.transform(X)
    return brute.near(got, expected, 1e-8) and brute.near(model.inverse_transform(got), expected @ V.T, 1e-8)


def keeping() -> Iterator[Case]:
    for mmap in (False, True):
        yield _right(f"saved, loaded, folded in, saved over itself, mmap={mmap}", lambda m=mmap: saved(m), bool)
    yield _right("gone on with in four runs", lambda: resumed(), bool)
    yield _right(
        "gone on with in four runs, ratings, biases",
        lambda: resumed(weighting="ratings", biases=True, dtype="float64", regularization=0.1),
        bool,
    )
    yield _right("three sweeps and two are five", warm, bool)
    yield _right("a callback measures and ends the run", stops, bool)
    yield _right("a tolerance ends the run where it says", tolerated, bool)
    yield _right(
        "copied and pickled",
        lambda: (fitted(), copy.deepcopy(fitted()), pickle.loads(pickle.dumps(fitted()))),
        lambda got: same(got[0], got[1]) and same(got[0], got[2]),
    )
    yield _right("lists by ids, as a table and as a file", framed, bool)
    yield _right("a grid search", searched, bool)
    yield _right("an estimator's rows", lambda: estimated(False), bool)
    yield _right("an estimator's rows, trained by steps", lambda: estimated(True), bool)


def cases() -> list[Case]:
    return [*getting_in(), *lists(), *keeping()]
