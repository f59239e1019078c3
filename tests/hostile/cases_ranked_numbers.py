"""Lists, metrics, folded-in rows, explanations and objectives, each compared with all scores, sorted."""

from __future__ import annotations

import copy
import datetime as dt
import math
import os
import pickle
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np
import scipy.sparse as sp

import lfm_np
from lfm_np import Factors, Interactions, evaluation

from .case import Case, Group, Holds
from .dense import best, confidences, grid, measured, near, objective, penalties, solved

BAD = (TypeError, ValueError)
_group = Group("numbers of rankings")
_refused, _right, _either = _group.refused, _group.right, _group.either


def tied(dtype: Any = np.float32, **more: Any) -> Factors:
    """Whole numbers, so that many scores are equal and all are exact."""
    rng = np.random.default_rng(9)
    U, V = rng.integers(-2, 3, (8, 3)).astype(dtype), rng.integers(-2, 3, (30, 3)).astype(dtype)
    return Factors(U, V, **more)


def known(factors: Factors, seed: int = 2) -> Any:
    rng = np.random.default_rng(seed)
    return sp.csr_array((rng.random(factors.shape) < 0.3).astype(np.float32))


def full(factors: Factors) -> np.ndarray:
    S = np.asarray(factors.user_factors, float) @ np.asarray(factors.item_factors, float).T
    if factors.user_bias is not None:
        S = S + np.asarray(factors.user_bias, float)[:, None]
    if factors.item_bias is not None:
        S = S + np.asarray(factors.item_bias, float)
    return np.asarray(S + (factors.global_bias or 0.0))


def listed(found: Any, factors: Factors, users: Any, N: int, allowed: np.ndarray) -> bool:
    S = full(factors)
    ids = [best(S[user], allowed[user], N) for user in users]
    scores = [[S[u, i] if i >= 0 else -np.inf for i in row] for u, row in zip(users, ids, strict=True)]
    return found.ids.tolist() == ids and found.scores.tolist() == scores


# ---- lists ----------------------------------------------------------------------------------------------------------


def lists() -> Iterator[Case]:
    model = tied()
    everything = np.ones(model.shape, bool)
    unseen = ~(known(model).toarray() > 0)
    half = np.zeros(30, bool)
    half[[7, 3, 29, 0, 11]] = True
    users = [5, 0, 5, 7]
    for name, words, allowed in (
        ("ties", {"N": 12}, everything),
        ("more than all items", {"N": 44}, everything),
        ("seen, more than are left", {"N": 30, "seen": known(model)}, unseen),
        ("few items in any order", {"N": 4, "items": [7, 3, 29, 0, 11]}, everything & half),
        ("few items, some of them seen", {"N": 5, "items": [7, 3, 29, 0, 11], "seen": known(model)}, unseen & half),
        ("all but few", {"N": 28, "exclude": np.array([11, 7, 3, 29, 0], np.uint8)}, everything & ~half),
        ("allowed and excluded", {"N": 3, "items": [1, 3, 7], "exclude": [7, 3, 9]}, everything & (np.arange(30) == 1)),
        ("items named twice", {"N": 3, "items": [3, 7, 7, 3, 0, 29, 11]}, everything & half),
        ("all excluded", {"N": 3, "exclude": range(30)}, everything & False),
    ):
        yield Case(
            f"numbers of rankings: lists, {name}",
            lambda users, words=words: tied().recommend(users, **words),
            Holds(lambda found, users, words=words, allowed=allowed: listed(found, tied(), users, words["N"], allowed)),
            lambda: {"users": list(users)},
        )
    biased = {"user_bias": np.arange(8.0), "item_bias": np.arange(30.0) % 3, "global_bias": -7.5}
    yield _right(
        "lists, biases, float64",
        lambda: tied(float, **biased).recommend(range(8), N=30, seen=known(model).tocsc()),
        lambda found: listed(found, tied(float, **biased), range(8), 30, unseen),
    )
    zeros = known(model)
    zeros.data[::2] = 0
    yield _right(
        "lists, zeros that count as absent",
        lambda: tied().recommend(range(8), N=30, seen=zeros),
        lambda found: listed(found, tied(), range(8), 30, ~(zeros.toarray() > 0)),
    )
    yield _refused("a mask instead of items", lambda: model.recommend([0], items=half), "items")
    yield _refused("a mask instead of users", lambda: model.recommend(np.ones(8, bool)), "users")
    yield _refused("a mask instead of what to leave out", lambda: model.recommend([0], exclude=half), "exclude")
    yield _right(
        "minus zero and zero are equal scores",
        lambda: Factors(np.array([[1.0], [-1.0]]), np.array([[0.0], [-0.0], [0.0]])).recommend([0, 1], N=3),
        lambda found: found.ids.tolist() == [[0, 1, 2]] * 2,
    )
    yield _right("no users", lambda: model.recommend([], N=4), lambda r: r.ids.shape == r.scores.shape == (0, 4))
    yield _right(
        "a user as an array without axes",
        lambda: model.recommend(np.array(5, np.uint16), N=4),
        lambda r: r.ids.shape == (4,) and r.ids.tolist() == model.recommend([5], N=4).ids[0].tolist(),
    )
    yield _refused("a list of true items", lambda: model.recommend([0], N=True), "N")
    yield _refused("a list of all numbers", lambda: model.recommend([0], N=2**50), "N|memory", kind=Exception)
    yield _refused("what was seen, turned round", lambda: model.recommend([0], seen=known(model).T), "seen", "(8, 30)")


def extremes() -> Iterator[Case]:
    large = np.full((2, 2), 3e19, np.float32)
    V = np.array([[3e19, 3e19], [3e19, -3e19], [-3e19, -3e19], [1, 0]], np.float32)
    for name, call in {
        "lists": lambda: Factors(large, V).recommend([0], N=4).scores,
        "scores": lambda: Factors(large, V).scores(0, range(4)),
        "similar items": lambda: Factors(large, V).similar_items([0], N=4, metric="inner").scores,
    }.items():
        yield _either(
            f"{name}, scores beyond float32 are never NaN",
            call,
            lambda scores: not np.isnan(scores).any(),
            "overflow|float|finite|large",
            kind=(ValueError, ArithmeticError),
        )
    for name, scale in {"tiny": 1e-30, "huge": 1e30}.items():
        W = np.array([[1, 2], [2, 4], [2, -1], [0, 0]], np.float32)

        def cosines(found: Any) -> bool:
            return found.ids.tolist() == [[0, 1, 2, 3]] and np.allclose(found.scores, [[1, 1, 0, 0]], atol=1e-6)

        yield _right(
            f"cosines of {name} factors",
            lambda W=W, scale=scale: Factors(W[:1], W * np.float32(scale)).similar_items([0], N=4),
            cosines,
        )
        yield _right(
            f"cosines of {name} users",
            lambda W=W, scale=scale: Factors(W * np.float32(scale), W).similar_users([0], N=4),
            cosines,
        )
    yield _right(
        "similar items of a model without factors",
        lambda: evaluation.most_popular(known(tied())).similar_items(7, N=3),
        lambda found: found.ids.tolist() == [0, 1, 2] and found.scores.tolist() == [0, 0, 0],
    )
    yield _right(
        "inner products, ties and all",
        lambda: tied().similar_items(range(30), N=30, metric="inner"),
        lambda found: all(
            row.tolist() == best(s, np.ones(30, bool), 30)
            for row, s in zip(
                found.ids, tied().item_factors.astype(float) @ tied().item_factors.T.astype(float), strict=True
            )
        ),
    )
    yield _right(
        "a model that was pickled and copied",
        lambda: [copy.deepcopy(tied()), pickle.loads(pickle.dumps(tied()))],
        lambda both: all(
            np.array_equal(f.recommend(range(8)).ids, tied().recommend(range(8)).ids)
            and not f.user_factors.flags.writeable
            for f in both
        ),
    )


# ---- metrics --------------------------------------------------------------------------------------------------------

METRICS = (
    "recall@3", "capped_recall@7", "precision@40", "hit_rate@1", "ndcg@5", "map@5", "mrr@4",
    "ndcg", "map", "mrr", "auc",
)  # fmt: skip


def held_out() -> Any:
    test = known(tied(), seed=5).tolil()
    test[3] = 0  # a user without test items
    test[6] = known(tied()).toarray()[6]  # one whose test items are all known
    test[7] = 1  # one without other candidates
    return sp.csr_array(test)


def metrics() -> Iterator[Case]:
    def mean(train: Any, test: Any, metric: str, among: Any = None) -> tuple[float, float, int]:
        S, seen, relevant = full(tied()), train.toarray() > 0, test.toarray() > 0
        found = []
        for u in range(8):
            candidates = ~seen[u]
            wanted = relevant[u] & candidates
            if among is not None:
                candidates &= np.isin(np.arange(30), among[u]) | wanted
            if wanted.any():
                found.append(measured(S[u], candidates, wanted, metric))
        users, kept = len(found), [value for value in found if not math.isnan(value)]
        return float(np.mean(kept)), float(np.std(kept, ddof=1) / math.sqrt(len(kept))), users

    def agree(found: dict[str, float], train: Any, test: Any, among: Any = None) -> bool:
        for metric in METRICS:
            value, error, users = mean(train, test, metric, among)
            if not (
                near(found[metric], value) and near(found[metric + "_se"], error, 1e-6) and found["users"] == users
            ):
                return False
        return True

    yield Case(
        "numbers of rankings: all metrics, ties, users without test items or other candidates",
        lambda train, test: lfm_np.evaluate(tied(), train, test, METRICS),
        Holds(agree),
        lambda: {"train": known(tied()), "test": held_out()},
    )
    yield _right(
        "all metrics, no training data",
        lambda: lfm_np.evaluate(tied(), None, held_out(), METRICS),
        lambda found: agree(found, sp.csr_array((8, 30)), held_out()),
    )
    among = np.random.default_rng(1).integers(-1, 30, (8, 9))
    yield _right(
        "all metrics, among drawn items",
        lambda: lfm_np.evaluate(tied(), known(tied()), held_out(), METRICS, negatives=among),
        lambda found: agree(found, known(tied()), held_out(), among),
    )
    one = sp.csr_array(([1.0], ([0], [4])), shape=(8, 30))
    yield _refused("everything held out is known", lambda: lfm_np.evaluate(tied(), one, one), "test")
    yield _right(
        "one user has no standard error",
        lambda: lfm_np.evaluate(tied(), None, one, ["mrr"]),
        lambda found: math.isnan(found["mrr_se"]) and found["users"] == 1,
    )
    yield _either(
        "one metric as text",
        lambda: lfm_np.evaluate(tied(), None, one, "ndcg@10"),
        lambda found: "ndcg@10" in found,
        "metrics",
    )
    for metric in ("recall@0", "recall@-1", "recall@1e3", "recall@5 ", "recall@", "recall", "ndcg@٣", "auc@5"):
        yield _refused(
            f"the metric {metric!r}", lambda m=metric: lfm_np.evaluate(tied(), None, one, [m]), metric.strip()
        )
    yield _refused(
        "a drawn item beyond all items",
        lambda: lfm_np.evaluate(tied(), None, one, ["mrr"], negatives=np.full((8, 2), 30)),
        "negatives",
        "30",
    )


# ---- new rows -------------------------------------------------------------------------------------------------------

PARAMETERS: dict[str, dict[str, Any]] = {
    "hu-koren": {"alpha": 3.0, "unobserved_weight": 0.3, "regularization": 0.2, "regularization_exponent": 0.5},
    "ials": {"alpha": 0.5, "unobserved_weight": 0.2, "regularization": 0.1, "regularization_exponent": 1.0},
    "confidence": {"alpha": 2.0, "unobserved_weight": 1.5, "regularization": 1.0, "regularization_exponent": 0.0},
    "ratings": {"regularization": 0.3, "regularization_exponent": 1.0},
}


def counts(m: int, n: int, seed: int = 1) -> Any:
    rng = np.random.default_rng(seed)
    dense = rng.integers(1, 6, (m, n)) * (rng.random((m, n)) < 0.4)
    dense[0] = 0
    return sp.csr_array(dense.astype(float))


def fitted(weighting: str = "hu-koren", **more: Any) -> Factors:
    words = {**PARAMETERS[weighting], **more}
    return lfm_np.als(
        counts(15, 11), factors=4, iterations=3, dtype=float, random_state=0, weighting=weighting, **words
    )


def new_rows() -> Iterator[Case]:
    for weighting, words in PARAMETERS.items():

        def users(f: Factors, weighting: str = weighting, words: Any = words) -> bool:
            V = fitted(weighting).item_factors
            expected = solved(*grid(counts(5, 11, 3)), V, weighting=weighting, **words)
            return near(f.user_factors, expected) and np.array_equal(f.item_factors, V)

        yield Case(
            f"numbers of rankings: new users, {weighting}",
            lambda X, weighting=weighting: fitted(weighting).fold_in_users(X),
            Holds(lambda f, X, users=users: users(f)),
            lambda: {"X": counts(5, 11, 3)},
        )
        yield _right(
            f"new items, {weighting}",
            lambda weighting=weighting: fitted(weighting).fold_in_items(counts(6, 15, 3).T),
            lambda f, weighting=weighting, words=words: near(
                f.item_factors,
                solved(*grid(counts(6, 15, 3)), fitted(weighting).user_factors, weighting=weighting, **words),
            ),
        )

    def biased(f: Factors) -> bool:
        model = fitted("ratings", biases=True)
        values, stored = grid(counts(5, 11, 3)[1:])
        offset = np.broadcast_to(model.global_bias + np.asarray(model.item_bias), (4, 11))
        rows = solved(values, stored, model.item_factors, weighting="ratings", offset=offset, **PARAMETERS["ratings"])
        return near(f.user_bias, rows[:, 0], 1e-8) and near(f.user_factors, rows[:, 1:], 1e-8)

    # A user without ratings has λ·0 as penalty, and any bias is its minimum: it is left out.
    yield _right(
        "new users with biases",
        lambda: fitted("ratings", biases=True).fold_in_users(counts(5, 11, 3)[1:]),
        biased,
    )
    yield _right(
        "no new users", lambda: fitted().fold_in_users(sp.csr_array((0, 11))), lambda f: f.user_factors.shape == (0, 4)
    )
    yield _refused("new users over other items", lambda: fitted().fold_in_users(counts(5, 12)), "12", "11")
    model = tied(float)
    yield _refused(
        "new users of a model that nobody fitted", lambda: model.fold_in_users(known(model)), "regularization|weighting"
    )
    yield _right(
        "new users of a model that nobody fitted, parameters given",
        lambda: model.fold_in_users(known(model), weighting="ials", **PARAMETERS["ials"]),
        lambda f: near(
            f.user_factors, solved(*grid(known(model)), model.item_factors, weighting="ials", **PARAMETERS["ials"])
        ),
    )

    def updated(f: Factors) -> bool:
        rows = solved(*grid(counts(4, 11, 3)), fitted().item_factors, **PARAMETERS["hu-koren"])
        U = np.vstack([fitted().user_factors, np.zeros((2, 4))])
        U[[16, 2, 15, 9]] = rows
        return near(f.user_factors, U) and f.shape == (17, 11)

    yield _right(
        "two users refreshed, two added, in any order",
        lambda: fitted().update(counts(4, 11, 3), users=[16, 2, 15, 9]),
        updated,
    )
    yield _right(
        "an item added is recommended",
        lambda: fitted().update(sp.csr_array(np.full((15, 1), 5.0)), items=[11]),
        listed_near,
    )
    for name, words, said in (
        ("a gap", {"users": [15, 17, 1, 2]}, ("users", "gap", "17")),
        ("a user twice", {"users": [1, 2, 3, 1]}, ("users", "1")),
        ("a negative user", {"users": [0, 1, 2, -1]}, ("users", "-1")),
        ("neither users nor items", {}, ("users", "items")),
        ("a mask of users", {"users": np.arange(15) < 4}, ("users",)),
    ):
        yield _refused(f"an update, {name}", lambda words=words: fitted().update(counts(4, 11), **words), *said)


def listed_near(f: Factors) -> bool:
    """Whether the lists are those of all scores, which here are all different."""
    S = full(f)
    found = f.recommend(range(f.shape[0]), N=12).ids.tolist()
    return f.shape == (15, 12) and found == [best(s, np.ones(12, bool), 12) for s in S]


def explained() -> Iterator[Case]:
    def shares(why: Any, user: int, item: int) -> bool:
        model, words = fitted(), PARAMETERS["hu-koren"]
        values, stored = grid(counts(15, 11))
        V = np.asarray(model.item_factors)
        C, P = confidences(values, stored, "hu-koren", words["alpha"], words["unobserved_weight"])
        penalty = penalties(stored, words["regularization"], words["unobserved_weight"], 0.5)[user]
        A = (V.T * C[user]) @ V + penalty * np.eye(4)
        parts = (V @ np.linalg.solve(A, V[item])) * (C * P)[user]
        own = {int(i): parts[i] for i in np.flatnonzero(stored[user])}
        found = dict(zip(np.asarray(why.items).tolist(), np.asarray(why.contributions).tolist(), strict=True))
        return (
            found.keys() == own.keys()
            and all(math.isclose(found[i], own[i], rel_tol=1e-8, abs_tol=1e-12) for i in own)
            and math.isclose(why.score, math.fsum(own.values()), rel_tol=1e-8, abs_tol=1e-12)
        )

    yield _right("shares of a score", lambda: fitted().explain(3, 7, counts(15, 11)), lambda why: shares(why, 3, 7))
    yield _right("shares of nothing", lambda: fitted().explain(0, 7, counts(15, 11)), lambda why: shares(why, 0, 7))
    yield _refused("shares of item -1", lambda: fitted().explain(3, -1, counts(15, 11)), "item", "-1")


def objectives() -> Iterator[Case]:
    U, V = np.random.default_rng(0).normal(size=(15, 3)), np.random.default_rng(1).normal(size=(11, 3))
    for weighting, words in PARAMETERS.items():
        yield _right(
            f"the objective of any factors, {weighting}",
            lambda weighting=weighting, words=words: lfm_np.objective(
                counts(15, 11), Factors(U, V), weighting=weighting, **words
            ),
            lambda J, weighting=weighting, words=words: near(
                J, objective(counts(15, 11), U, V, weighting=weighting, **words)
            ),
        )
    more: dict[str, Any] = {"user_bias": np.arange(15.0), "item_bias": -np.arange(11.0), "global_bias": 2.5}
    yield _right(
        "the objective of biases",
        lambda: lfm_np.objective(counts(15, 11), Factors(U, V, **more), weighting="ratings", **PARAMETERS["ratings"]),
        lambda J: near(
            J,
            objective(
                counts(15, 11),
                U,
                V,
                weighting="ratings",
                constant=2.5,
                biases=(more["user_bias"], more["item_bias"]),
                **PARAMETERS["ratings"],
            ),
        ),
    )
    yield _either(
        "the objective of factors of 1e200",
        lambda: lfm_np.objective(counts(15, 11), Factors(U * 1e200, V * 1e200)),
        lambda J: np.isposinf(J),
        "objective|overflow|factors|float64|finite",
        kind=(ValueError, ArithmeticError),
    )


# ---- tables ---------------------------------------------------------------------------------------------------------


def tables() -> Iterator[Case]:
    def sold(backend: str | None = None) -> Interactions:
        days = [dt.date(2024, 5, 1), dt.date(2024, 5, 2), dt.date(2024, 5, 3)]
        users = ["eve", "ann", "ann", "bob"]
        found = Interactions.from_arrays(users, np.array([days[i] for i in (0, 1, 2, 0)], "M8[D]"))
        return Interactions(found.matrix, found.users, found.items, frame_backend=backend)

    model = Factors(np.array([[1.0], [2], [3]]), np.array([[1.0], [3], [2]]))
    for backend in ("pandas", "polars", "pyarrow"):

        def rows(frame: Any) -> list[Any]:
            import narwhals as nw

            found = nw.from_native(frame).to_dict(as_series=False)
            days = [str(day)[:10] for day in found["item"]]
            return list(zip(found["user"], days, found["score"], found["rank"], strict=True))

        yield _right(
            f"a table of {backend}",
            lambda backend=backend: lfm_np.recommend_frame(
                model, sold(backend), ["eve", "ann"], N=2, exclude=np.array(["2024-05-02"], "M8[D]")
            ),
            lambda frame, backend=backend, rows=rows: (
                type(frame).__module__.startswith(backend)
                and rows(frame)
                == [
                    ("eve", "2024-05-03", 6.0, 1),
                    ("eve", "2024-05-01", 3.0, 2),
                    ("ann", "2024-05-03", 2.0, 1),
                    ("ann", "2024-05-01", 1.0, 2),
                ]
            ),
        )
    yield _right(
        "a table of nobody",
        lambda: lfm_np.recommend_frame(model, sold(), [], N=2),
        lambda table: table.num_rows == 0 and table.column_names == ["user", "item", "score", "rank"],
    )
    yield _refused(
        "a table of a stranger", lambda: lfm_np.recommend_frame(model, sold(), ["tom"]), "tom", kind=Exception
    )

    def over() -> bytes:
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "best.parquet")
            with open(path, "wb") as file:
                file.write(b"the old file")
            try:
                lfm_np.recommend_parquet(model, sold(), path, ["ann", "tom"])
            except (KeyError, ValueError):
                with open(path, "rb") as file:
                    return file.read() + str(len(os.listdir(folder))).encode()
            return b""

    yield _right("a file that an error leaves as it was", over, lambda content: content == b"the old file1")

    def kept(value: Any) -> Any:
        def callback(record: Any, _: Any) -> None:
            record["mine"] = value

        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "model")
            lfm_np.als(counts(6, 5), factors=2, iterations=1, random_state=0, callback=callback).save(path)
            return Factors.load(path).history[0]["mine"]

    yield _either("a NaN in the history, saved and loaded", lambda: kept(math.nan), math.isnan, "history|json")
    yield _either("an infinity in the history", lambda: kept(-math.inf), lambda v: v == -math.inf, "history|json")
    yield _either(
        "a NumPy number in the history", lambda: kept(np.float32(0.25)), lambda v: v == 0.25, "history|json|float32"
    )
    yield _either("text that no encoding has", lambda: kept("\ud800"), lambda v: v == "\ud800", "history|json|utf")


def cases() -> list[Case]:
    parts = (lists, extremes, metrics, new_rows, explained, objectives, tables)
    return [case for part in parts for case in part()]
