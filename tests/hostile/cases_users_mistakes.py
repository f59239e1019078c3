"""What people get wrong with their own data, and what they may well do although it looks wrong."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np
import scipy.sparse as sp

import lfm_np
from lfm_np import losses

from . import brute
from .case import Case, Group

_refused, _right, _either = (getattr(Group("users' mistakes"), kind) for kind in ("refused", "right", "either"))


def X() -> sp.csr_array:
    return brute.counts(20, 15)


def with_value(value: float, row: int = 5) -> sp.csr_array:
    found = X()
    found.data[found.indptr[row]] = value
    return found


def model(**words: Any) -> Any:
    return lfm_np.als(X(), factors=4, iterations=2, random_state=0, **words)


def matrices() -> Iterator[Case]:
    fits: dict[str, Any] = {
        "als": lambda Y: lfm_np.als(Y, factors=2, iterations=1),
        "sgd": lambda Y: lfm_np.sgd(Y, factors=2, epochs=1),
        "torch": lambda Y: lfm_np.torch_backend.als(Y, factors=2, iterations=1),
    }
    for name, run in fits.items():
        yield _refused(f"{name}, a rating is NaN", lambda r=run: r(with_value(np.nan)), "nan|non-finite", "row 5")
        yield _refused(f"{name}, a rating is infinite", lambda r=run: r(with_value(-np.inf)), "inf|non-finite", "row 5")
        yield _refused(f"{name}, a dislike", lambda r=run: r(with_value(-1)), "negative|-1|≥ 0|>= 0", "row 5|(5,")
    yield _refused("a dense array", lambda: lfm_np.als(X().toarray(), factors=2), "sparse")
    yield _refused("pairs as the matrix", lambda: lfm_np.als([(0, 1), (1, 0)], factors=2), "sparse")
    yield _refused(
        "ratings twice",
        lambda: lfm_np.als(sp.coo_array(([4.0, 5.0], ([1, 1], [0, 0])), shape=(2, 2)), weighting="ratings", factors=2),
        "duplicate|twice|more than once|repeated",
    )
    yield _refused("biases of clicks", lambda: lfm_np.als(X(), factors=2, biases=True), "biases", "ratings")
    yield _refused(
        "absent ratings are weighed",
        lambda: lfm_np.als(X(), factors=2, weighting="ratings", unobserved_weight=0.5),
        "unobserved_weight",
    )
    yield _refused(
        "unknown values",
        lambda: lfm_np.als(lfm_np.Interactions.from_arrays([1, 2], [1, 2], [5.0, np.nan]), factors=2),
        "nan|non-finite",
    )
    yield _either(
        "no cell at all",
        lambda: lfm_np.als(sp.csr_array((4, 3), dtype=np.float32), factors=2),
        lambda found: not brute.scores(found).any(),
        "x",
    )
    yield _either(
        "no users",
        lambda: lfm_np.als(sp.csr_array((0, 3), dtype=np.float32), factors=2),
        lambda found: found.user_factors.shape == (0, 2),
        "x",
    )
    yield _either(
        "values of strings of digits",
        lambda: lfm_np.to_csr([(0, 1)], values=["5"]),
        lambda found: found[0, 1] == 5,
        "values",
    )
    yield _refused("values beyond float32", lambda: lfm_np.to_csr([(0, 1)], values=[1e39]), "values")
    yield _right(
        "values below float32 become zero or the nearest denormal",
        lambda: lfm_np.to_csr([(0, 1), (1, 1)], values=[1e-50, 1e-42]).toarray(),
        lambda found: found[0, 1] == 0 and found[1, 1] == np.float32(1e-42),
    )


def ids() -> Iterator[Case]:
    yield _refused("ids from 1, in the shape of ids from 0", lambda: lfm_np.to_csr([(1, 1), (3, 2)], (3, 3)), "3")
    yield _refused("an id of −1", lambda: lfm_np.to_csr([(0, -1)], (3, 3)), "-1|negative")
    yield _refused("fractional ids", lambda: lfm_np.to_csr(np.array([[0.5, 1.0]]), (3, 3)), "pairs|integer")
    yield _either(
        "whole floats as ids",
        lambda: lfm_np.to_csr(np.array([[2.0, 1.0]]), (3, 3)),
        lambda found: found[2, 1] == 1 and found.nnz == 1,
        "integer",
    )
    yield _refused("users and items as rows of pairs", lambda: lfm_np.to_csr(np.zeros((2, 50), int)), "(n, 2)|(2, 50)")
    yield _refused("the last user + 1", lambda: model().recommend([0, 20]), "20")
    yield _refused("a user of −1", lambda: model().recommend(-1), "-1")
    yield _refused("a user's name", lambda: model().recommend(["ann"]), "users|integer")
    yield _refused("a mask of users", lambda: model().recommend(np.arange(20) < 3), "bool|integer")
    yield _refused("items to exclude by name", lambda: model().recommend(0, exclude=["tea"]), "exclude")
    yield _refused("an item that is not there", lambda: model().scores(0, 15), "15")
    yield _refused("as many users as not as many items", lambda: model().scores([0, 1, 2], [0, 1]), "users|items")
    yield _refused("an unknown id", lambda: lfm_np.Interactions.from_arrays(["ann"], ["tea"]).rows_of(["bob"]), "bob")
    yield _refused(
        "ids of another kind",
        lambda: lfm_np.Interactions.from_arrays([1, 2], [1, 2]).rows_of(["1"]),
        "1|kind|str",
    )
    yield _refused(
        "column −1 for an id", lambda: lfm_np.Interactions.from_arrays([1], [7]).item_ids([0, -1]), "-1", "columns"
    )
    yield _refused(
        "two users of one name",
        lambda: lfm_np.Interactions(sp.csr_array(np.ones((2, 1))), np.array(["a", "a"]), np.array([1])),
        "users",
    )
    yield _refused(
        "more timestamps than records", lambda: lfm_np.Interactions.from_arrays([1], [1], [1.0], [1, 2]), "1", "2"
    )


def shapes() -> Iterator[Case]:
    found = lambda: model()  # noqa: E731 (fitted within the case)
    yield _refused("seen transposed", lambda: found().recommend(0, seen=X().T), "seen", "shape|(15, 20)")
    yield _refused("seen of these users only", lambda: found().recommend([0, 1], seen=X()[:2]), "seen", "shape|(2, 15)")
    yield _refused("seen of another catalogue", lambda: found().recommend(0, seen=brute.counts(20, 16)), "seen")
    yield _refused("objective of the transpose", lambda: lfm_np.objective(X().T, found()), "shape|(15, 20)")
    yield _refused("judged by another catalogue", lambda: lfm_np.evaluate(found(), X(), brute.counts(20, 14)), "test")
    yield _refused("judged after other users", lambda: lfm_np.evaluate(found(), brute.counts(19, 15), X()), "train")
    yield _refused("new users over other items", lambda: found().fold_in_users(brute.counts(3, 14)), "14", "15")
    yield _refused("new items as rows", lambda: found().fold_in_items(brute.counts(3, 20)), "20")
    yield _refused("an update with a gap", lambda: found().update(X()[:2], users=[20, 22]), "users")
    yield _refused("an update of one user twice", lambda: found().update(X()[:2], users=[3, 3]), "users", "3")
    yield _refused("an update of neither", lambda: found().update(X()[:2]), "users", "items")
    yield _refused("explained by new users' rows", lambda: found().explain(0, 1, X()[:1]), "shape|(1, 15)")
    yield _refused("a start of another k", lambda: lfm_np.als(X(), factors=5, init=found()), "init", "(20, 5)|5")
    yield _refused(
        "a start of the transpose",
        lambda: lfm_np.als(X().T, factors=4, init=found()),
        "init",
    )
    yield _refused("sides of two models", lambda: lfm_np.Factors(np.ones((3, 4)), np.ones((5, 3))), "4", "3")
    yield _refused("sides of two dtypes", lambda: lfm_np.Factors(np.ones((3, 4), "f4"), np.ones((5, 4))), "dtype|float")
    yield _refused(
        "lists by ids of other data",
        lambda: lfm_np.recommend_frame(found(), lfm_np.Interactions.from_arrays([1, 2], [1, 2])),
        "(20, 15)|20",
    )
    yield _right(
        "a test that overlaps training counts what is new only",
        lambda: lfm_np.evaluate(found(), X(), X() + sp.csr_array(([1.0], ([4], [2])), shape=(20, 15)), ("recall@15",)),
        lambda result: result["users"] == 1 and result["recall@15"] == 1.0,
    )
    yield _refused("a test that is training", lambda: lfm_np.evaluate(found(), X(), X()), "test")
    yield _refused("a metric without its k", lambda: lfm_np.evaluate(found(), None, X(), ("recall",)), "recall")
    yield _either(
        "a metric as a string",
        lambda: lfm_np.evaluate(found(), None, X(), "ndcg@10"),
        lambda result: result == lfm_np.evaluate(found(), None, X(), ["ndcg@10"]),
        "metrics",
    )


def runs() -> Iterator[Case]:
    for word, other in {"regularization": 0.5, "alpha": 2.0, "weighting": "ials", "dtype": "float64"}.items():
        yield _refused(f"gone on with another {word}", lambda w=word, o=other: gone_on(X(), **{w: o}), word)
    yield _refused("gone on with other data", lambda: gone_on(with_value(2.5)), "x")
    yield _refused(
        "gone on by steps with a run of sweeps",
        lambda: gone_on(X(), then=lambda **words: lfm_np.sgd(words.pop("X"), epochs=3, **words)),
        "als|solver|sgd",
    )
    yield _refused("gone on with fewer sweeps than there are", lambda: gone_on(X(), iterations=1), "iterations", "2")
    yield _refused(
        "folded into a model of BPR without saying how",
        lambda: lfm_np.sgd(X(), factors=2, epochs=1).fold_in_users(X()),
        "weighting|regularization",
    )
    yield _refused("a class as the loss", lambda: lfm_np.sgd(X(), losses.BPR, factors=2), "loss|bpr")
    yield _refused("a loss by name", lambda: lfm_np.sgd(X(), "bpr", factors=2), "loss")
    yield _refused("no threads", lambda: lfm_np.als(X(), factors=2, num_threads=0), "num_threads")
    yield _refused("k of a half", lambda: lfm_np.als(X(), factors=2.5), "factors")
    yield _refused("λ below zero", lambda: lfm_np.als(X(), factors=2, regularization=-0.1), "regularization")
    yield _refused("α that is NaN", lambda: lfm_np.als(X(), factors=2, alpha=np.nan), "alpha")
    yield _refused("integers as dtype", lambda: lfm_np.als(X(), factors=2, dtype=int), "dtype")
    yield _refused("half precision", lambda: lfm_np.als(X(), factors=2, dtype=np.float16), "dtype")


def gone_on(Y: Any, then: Any = None, **words: Any) -> Any:
    base = {"factors": 3, "random_state": 0}
    with tempfile.TemporaryDirectory() as place:
        path = os.path.join(place, "run")
        lfm_np.als(X(), iterations=2, checkpoint=path, **base)
        if then is not None:
            return then(X=Y, checkpoint=path, **base)
        return lfm_np.als(Y, checkpoint=path, **{**base, "iterations": 4, **words})


def cases() -> list[Case]:
    return [*matrices(), *ids(), *shapes(), *runs()]
