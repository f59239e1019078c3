"""Odd requests to `evaluate`, `objective` and others that judge a model or a size."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import scipy.sparse as sp

import lfm_np
from lfm_np import evaluation, losses

from . import matrices
from .case import Case, Either, Group, Holds, raises
from .cases_lists import model
from .cases_results import BAD, Table, made
from .matrices import M, N, plain

_refused, _right = Group("judges").refused, Group("judges").right


def _evaluate() -> Table:
    judge = lambda factors, train, test, **rest: lfm_np.evaluate(factors, train, test, **rest)  # noqa: E731
    train, test = plain(0), plain(1)
    own = lambda **rest: lambda: {"factors": made(), "train": train, "test": test} | rest  # noqa: E731
    finite = Holds(lambda r, **_: 0 <= r["recall@20"] <= 1 and 0 <= r["auc"] <= 1 and r["users"] > 0)
    found: Table = {}
    for side in ("train", "test"):
        for name in ("dense array", "list", "text", "one-dimensional", "complex", "object", "strings"):
            make = matrices.REFUSED[name][0]
            found[f"{side} {name}"] = (
                judge,
                raises(BAD, side, "sparse|real|two-dimensional"),
                lambda s=side, m=make: own(**{s: m()})(),
            )
        for name in ("index too large", "index negative", "indptr falls", "data too short", "indptr past the end"):
            make = matrices.REFUSED[name][0]
            found[f"{side} {name}"] = (
                judge,
                raises(ValueError, side, "valid sparse"),
                lambda s=side, m=make: own(**{s: m()})(),
            )
        found[f"{side} of another shape"] = (judge, raises(ValueError, side, "shape"), own(**{side: plain()[:5]}))
    metrics = {
        "metric unknown": ("recal@20", ValueError), "metric k = 0": ("recall@0", ValueError),
        "metric k < 0": ("recall@-1", ValueError), "metric without k": ("recall", ValueError),
        "metric with a space": ("recall@ 20", ValueError), "metric auc@5": ("auc@5", ValueError),
        "metric number": (20, (TypeError, ValueError)), "metric k = 2^63": ("recall@9223372036854775808", ValueError),
    }  # fmt: skip
    for name, (metric, kind) in metrics.items():
        found[name] = (judge, raises(kind, "metrics"), own(metrics=[metric]))
    return found | {
        "no metrics": (judge, raises(ValueError, "metrics"), own(metrics=[])),
        "metrics None": (judge, raises(BAD, "metrics"), own(metrics=None)),
        "metrics a number": (judge, raises(BAD, "metrics"), own(metrics=5)),
        "test None": (judge, raises(TypeError, "test"), own(test=None)),
        "test empty": (judge, raises(ValueError, "test", "no user"), own(test=plain() * 0)),
        "test is train": (judge, raises(ValueError, "test", "training row"), own(test=plain(0))),
        "train None": (judge, finite, own(train=None)),
        "test unsorted": (judge, finite, own(test=matrices.unsorted(), train=plain(1))),
        "factors an array": (judge, raises(TypeError, "factors"), own(factors=np.ones((M, 2)))),
        "threads -1": (judge, raises(ValueError, "num_threads"), own(num_threads=-1)),
        "recall beyond the items": (
            judge,
            Holds(lambda r, **_: r["recall@1000000000"] == 1.0),
            own(metrics=["recall@1000000000"]),
        ),
        "negatives too few": (judge, raises(ValueError, "negatives"), own(negatives=np.zeros((3, 2), int))),
        "negatives out of range": (judge, raises(ValueError, "negatives"), own(negatives=np.full((M, 2), N))),
        "negatives fractions": (judge, raises(TypeError, "negatives"), own(negatives=np.zeros((M, 2)))),
        "negatives none": (
            judge,
            Holds(lambda r, **_: r["users"] > 0),
            own(negatives=np.full((M, 2), -1), metrics=["mrr"]),
        ),
    }


def _objective() -> dict[str, tuple[Any, ...]]:
    call = lambda X, factors, **rest: lfm_np.objective(X, factors, **rest)  # noqa: E731
    own = lambda **rest: lambda: {"X": plain(), "factors": made()} | rest  # noqa: E731
    found = {
        name: (call, raises(BAD, *words), lambda make=make: {"X": make(), "factors": made()})
        for name, (make, words) in matrices.REFUSED.items()
        if "float32" not in words
    }
    return found | {
        "another shape": (call, raises(ValueError, "X", f"{M} rows"), own(X=plain()[:9])),
        "factors an array": (call, raises(TypeError, "factors"), own(factors=np.ones((M, 2)))),
        "weighting unknown": (call, raises(ValueError, "weighting"), own(weighting="x")),
        "regularization nan": (call, raises(ValueError, "regularization"), own(regularization=np.nan)),
        "biases without ratings": (call, raises(ValueError, "biases", "ratings"), own(factors=made(biases=True))),
        "finite": (call, Holds(lambda r, **_: np.isfinite(r) and r > 0), own()),
    }


def judges() -> Iterator[Case]:
    f, X = model(), plain()
    for name, metrics in {
        "text": "recall@5",
        "none": None,
        "empty": [],
        "zero": ["recall@0"],
        "negative": ["ndcg@-1"],
        "fraction": ["map@1.5"],
        "huge": ["recall@" + "9" * 30],
        "bytes": [b"recall@5"],
        "spaces": [" recall@5"],
        "other digits": ["recall@٥"],
        "number": 5,
        "none inside": [None],
        "unknown": ["f1@5"],
        "twice @": ["recall@5@6"],
        "no cutoff": ["recall"],
    }.items():
        expect: Any = raises(BAD, "metric")
        if name in ("huge", "text", "empty"):
            expect = Either(Holds(lambda r: isinstance(r, dict)), expect)
        yield Case(
            f"judges: evaluate, metrics {name}", lambda m=metrics: lfm_np.evaluate(f, None, X, metrics=m), expect
        )
    for name, test in {
        "transposed": X.T,
        "none": None,
        "dense": X.toarray(),
        "rows": X[:2],
        "nothing": sp.csr_array((M, N)),
    }.items():
        yield _refused(f"evaluate, test {name}", lambda t=test: lfm_np.evaluate(f, None, t), "test")
    yield _refused("evaluate, train transposed", lambda: lfm_np.evaluate(f, X.T, X), "train")
    yield Case(
        "judges: evaluate, all of test in train",
        lambda: lfm_np.evaluate(f, X, X),
        Either(Holds(lambda r: False), raises(BAD, "test")),
    )
    for name, negatives in {
        "number": 3,
        "flat": np.arange(M),
        "float": np.ones((M, 2)),
        "text": "x",
        "out of range": np.full((M, 2), N),
    }.items():
        yield _refused(
            f"evaluate, negatives {name}", lambda n=negatives: lfm_np.evaluate(f, None, X, negatives=n), "negatives"
        )
    yield _refused("evaluate, factors text", lambda: lfm_np.evaluate("model", None, X), "factors")
    yield _refused("objective, factors none", lambda: lfm_np.objective(X, None), "factors")
    yield _refused("objective, X transposed", lambda: lfm_np.objective(X.T, f), "X")
    yield _refused("objective, alpha bool", lambda: lfm_np.objective(X, f, alpha=True), "alpha")
    yield _refused("objective, weighting odd", lambda: lfm_np.objective(X, f, weighting="Ratings"), "weighting")
    yield _right(
        "objective, ratings of nothing",
        lambda: lfm_np.objective(sp.csr_array((M, N)), f, weighting="ratings", regularization=0.0),
        lambda o: o == 0,
    )
    yield _refused("most_popular, dense", lambda: evaluation.most_popular(np.eye(3)), "X")
    yield _right(
        "most_popular, nothing",
        lambda: evaluation.most_popular(sp.csr_array((3, 4))).recommend([0], N=4)[0],
        lambda r: r.tolist() == [[0, 1, 2, 3]],
    )
    for name, sizes in {
        "negative": (-1, 2, 3),
        "float": (1.0, 2, 3),
        "huge": (2**70, 1, 1),
        "text": ("1", 2, 3),
        "bool": (True, 2, 3),
        "nan": (1, np.nan, 3),
    }.items():
        yield Case(
            f"judges: estimate_memory, {name}",
            lambda s=sizes: lfm_np.estimate_memory(*s),
            Either(Holds(lambda r: r > 0), raises(BAD, "m must|n must")),
        )
    for loss in (losses.BPR, 3, None, "bpr", object()):
        yield _refused(f"losses.check {type(loss).__name__} {loss!r:.8}", lambda v=loss: losses.check(v), "loss")


def cases() -> list[Case]:
    found = [Case(f"evaluate: {name}", call, expect, make) for name, (call, expect, make) in _evaluate().items()]
    return [*found, *(Case(f"objective: {name}", *rest) for name, rest in _objective().items()), *judges()]
