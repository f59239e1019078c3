"""Everything that one does with `Factors`."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp

import lfm_np
from lfm_np import Factors

from . import matrices
from .case import Case, Holds, raises
from .matrices import M, N, at, changed, plain

BAD = (TypeError, ValueError)
K = 4


def made(biases: bool = False, **params: Any) -> Factors:
    rng = np.random.default_rng(5)
    fitted = {"regularization": 0.1, "alpha": 1.0, "weighting": "hu-koren", "regularization_exponent": 0.0}
    return Factors(
        rng.standard_normal((M, K)).astype(np.float32),
        rng.standard_normal((N, K)).astype(np.float32),
        user_bias=np.ones(M) if biases else None,
        item_bias=rng.standard_normal(N) if biases else None,
        global_bias=3.0 if biases else None,
        params=fitted | params,
    )


def brute(factors: Factors, user: int, allowed: np.ndarray, N: int) -> np.ndarray:
    """Ids by sorting all scores."""
    scores = factors.item_factors.astype(float) @ factors.user_factors[user].astype(float)
    order = allowed[np.argsort(-scores[allowed], kind="stable")][:N]
    return np.concatenate((order, np.full(N - len(order), -1)))


def listed(user: int, N: int, allowed: Any = None) -> Holds:
    """The list of ``user`` is what sorting all allowed items gives."""

    def true(result: Any, factors: Factors, **_: Any) -> bool:
        every = np.arange(factors.shape[1]) if allowed is None else np.asarray(allowed, np.int64)
        ids = result.ids if result.ids.ndim == 1 else result.ids[0]
        return bool(np.array_equal(ids, brute(factors, user, every, N)))

    return Holds(true)


def unseen(user: int) -> np.ndarray:
    return np.flatnonzero(plain().toarray()[user] == 0)


IDS: dict[str, tuple[Any, Any]] = {
    "negative": (-1, raises(ValueError, "from 0 to", "-1")),
    "too large": (10**6, raises(ValueError, "from 0 to", "1000000")),
    "2^63 - 1": (2**63 - 1, raises(ValueError, "from 0 to")),
    "2^64 - 1": (np.array([2**64 - 1], np.uint64), raises(ValueError, "from 0 to")),
    "2^70": (2**70, raises(BAD, "integers|from 0 to")),
    "fraction": (1.5, raises(TypeError, "integers", "float64")),
    "nan": (np.nan, raises(TypeError, "integers")),
    "text": ("3", raises(TypeError, "integers")),
    "None": (None, raises(TypeError, "integers")),
    "mask": (np.ones(3, bool), raises(TypeError, "integers", "bool")),
    "two dimensions": ([[0, 1]], raises(ValueError, "one-dimensional")),
    "ragged": ([[0], [1, 2]], raises(BAD, "users|items|user", "unequal length")),
    "set": ({1, 2}, raises(TypeError, "integers")),
}
RECOMMEND: dict[str, tuple[dict[str, Any], Any]] = {
    "N 0": ({"N": 0}, raises(ValueError, "N must be")),
    "N -1": ({"N": -1}, raises(ValueError, "N must be")),
    "N 2.0": ({"N": 2.0}, raises(TypeError, "N must be")),
    "N beyond the items": ({"N": 50}, listed(0, 50)),
    "N 10^12": ({"N": 10**12}, raises((MemoryError, ValueError), "N")),
    "threads 0": ({"num_threads": 0}, raises(ValueError, "num_threads")),
    "threads 64": ({"num_threads": 64}, listed(0, 10)),
    "nobody": ({"users": []}, Holds(lambda r, **_: r.ids.shape == (0, 10) and r.scores.shape == (0, 10))),
    "repeated users": ({"users": [0, 0, 0]}, listed(0, 10)),
    "scalar user": ({"users": np.int8(0)}, listed(0, 10)),
    "seen": ({"seen": plain()}, listed(0, 10, unseen(0))),
    "seen, list longer than what is left": ({"seen": plain(), "N": 30}, listed(0, 30, unseen(0))),
    "seen everything": ({"seen": sp.csr_array(np.ones((M, N)))}, listed(0, 10, [])),
    "seen rows of the users only": ({"seen": plain()[[0]]}, raises(ValueError, "seen", "whole matrix")),
    "seen transposed": ({"seen": plain().T}, raises(ValueError, "seen", "whole matrix")),
    "seen dense": ({"seen": plain().toarray()}, raises(TypeError, "seen", "sparse")),
    "seen True": ({"seen": True}, raises(TypeError, "seen", "sparse")),
    "seen with a bad index": ({"seen": changed("indices", at(0, 10**6))}, raises(ValueError, "seen", "valid sparse")),
    "seen with a negative index": ({"seen": changed("indices", at(0, -1))}, raises(ValueError, "seen", "valid sparse")),
    "seen with a falling indptr": (
        {"seen": changed("indptr", at(1, 10**6))},
        raises(ValueError, "seen", "valid sparse"),
    ),
    "seen with a negative indptr": ({"seen": changed("indptr", at(1, -7))}, raises(ValueError, "seen", "valid sparse")),
    "seen complex": ({"seen": plain() * 1j}, raises(TypeError, "seen", "real")),
    "seen unsorted": ({"seen": matrices.unsorted()}, listed(0, 10, unseen(0))),
    "seen repeated": ({"seen": matrices.duplicated()}, listed(0, 10, unseen(0))),
    "seen with zeros": ({"seen": matrices.with_zeros()}, listed(0, 10, unseen(0))),
    "seen with nan": ({"seen": changed("data", lambda a: a * np.nan)}, listed(0, 10, unseen(0))),
    "seen in coo": ({"seen": matrices.coo_repeated()}, listed(0, 10, unseen(0))),
    "seen, users by thousands": ({"users": np.zeros(3000, int), "seen": plain()}, listed(0, 10, unseen(0))),
    "items": ({"items": [4, 2, 2]}, listed(0, 10, [2, 4])),
    "items empty": ({"items": []}, listed(0, 10, [])),
    "items text": ({"items": "all"}, raises(TypeError, "items", "integers")),
    "items out of range": ({"items": [N]}, raises(ValueError, "items", "from 0 to")),
    "items mask": ({"items": np.ones(N, bool)}, raises(TypeError, "items", "integers")),
    "exclude": ({"exclude": [5, 5, 0]}, listed(0, 10, np.delete(np.arange(N), [0, 5]))),
    "exclude all": ({"exclude": np.arange(N)}, listed(0, 10, [])),
    "exclude negative": ({"exclude": [-1]}, raises(ValueError, "exclude", "from 0 to")),
}


def cases() -> list[Case]:
    found = []
    for name, (ids, expect) in IDS.items():
        data = lambda ids=ids: {"factors": made(), "ids": ids}  # noqa: E731
        found += [
            Case(f"recommend: users {name}", lambda factors, ids: factors.recommend(ids), expect, data),
            Case(f"scores: users {name}", lambda factors, ids: factors.scores(ids, 0), expect, data),
            Case(f"scores: items {name}", lambda factors, ids: factors.scores(0, ids), expect, data),
            Case(f"similar: items {name}", lambda factors, ids: factors.similar_items(ids), expect, data),
            Case(f"similar: users {name}", lambda factors, ids: factors.similar_users(ids), expect, data),
            Case(f"explain: user {name}", lambda factors, ids: factors.explain(ids, 0, plain()), expect, data),
        ]
    for name, (asked, expect) in RECOMMEND.items():
        call = lambda factors, **given: factors.recommend(**({"users": [0], "num_threads": 1} | given))  # noqa: E731
        found.append(Case(f"recommend: {name}", call, expect, lambda asked=asked: {"factors": made()} | asked))
    for group, table in (
        ("scores", _scores()),
        ("similar", _similar()),
        ("fold_in", _fold_in()),
        ("update", _update()),
    ):
        found += [Case(f"{group}: {name}", call, expect, make) for name, (call, expect, make) in table.items()]
    for group, table in (("explain", _explain()), ("Factors", _constructor())):
        found += [Case(f"{group}: {name}", call, expect, make) for name, (call, expect, make) in table.items()]
    return found


Table = dict[str, tuple[Any, Any, Any]]


def _own(**asked: Any) -> Any:
    return lambda: {"factors": made()} | asked


def _scores() -> Table:
    extreme = Factors(np.full((2, 2), 3e38, np.float32), np.full((2, 2), 3e38, np.float32))
    exact = lambda r, factors, **_: bool(  # noqa: E731
        np.allclose(r, np.einsum("pk,pk->p", factors.user_factors[[0, 1]], factors.item_factors[[2, 3]]), rtol=1e-5)
    )
    return {
        "pairs of unequal length": (
            lambda factors: factors.scores([0, 1], [0, 1, 2]),
            raises(ValueError, "equally long"),
            _own(),
        ),
        "pairs": (lambda factors: factors.scores([0, 1], [2, 3]), Holds(exact), _own()),
        "no pairs": (lambda factors: factors.scores([], []), Holds(lambda r, **_: r.shape == (0,)), _own()),
        "overflow": (
            lambda factors: factors.scores([0], [0]),
            raises(ValueError, "scores", "beyond the range of float32"),
            lambda: {"factors": extreme},
        ),
        "overflow in recommend": (
            lambda factors: factors.recommend([0], N=2),
            raises(ValueError, "scores", "beyond the range of float32"),
            lambda: {"factors": extreme},
        ),
        "denormal in recommend": (
            lambda factors: factors.recommend([0], N=2),
            Holds(lambda r, **_: sorted(r.ids[0]) == [0, 1]),
            lambda: {"factors": Factors(np.full((2, 2), 1e-40, np.float32), np.full((2, 2), 1e-40, np.float32))},
        ),
        "no users": (
            lambda factors: factors.recommend([]),
            Holds(lambda r, **_: r.ids.shape == (0, 10)),
            lambda: {"factors": Factors(np.zeros((0, 2)), np.zeros((4, 2)))},
        ),
        "no items": (
            lambda factors: factors.recommend([0], N=3),
            Holds(lambda r, **_: r.ids.tolist() == [[-1, -1, -1]] and bool(np.isneginf(r.scores).all())),
            lambda: {"factors": Factors(np.zeros((2, 2)), np.zeros((0, 2)))},
        ),
        "no items, any user out of range": (
            lambda factors: factors.recommend([2], N=3),
            raises(ValueError, "users", "0 to 1"),
            lambda: {"factors": Factors(np.zeros((2, 2)), np.zeros((0, 2)))},
        ),
    }


def _similar() -> Table:
    zero = Factors(np.zeros((3, 2)), np.zeros((4, 2)))
    huge = Factors(np.full((3, 2), 1e30, np.float32), np.full((4, 2), 1e30, np.float32))
    tiny = Factors(np.full((3, 2), 1e-30, np.float32), np.full((4, 2), 1e-30, np.float32))
    ones = Holds(lambda r, **_: bool(np.allclose(r.scores, 1, rtol=1e-5)))
    return {
        "metric unknown": (
            lambda factors: factors.similar_items(0, metric="euclid"),
            raises(ValueError, "metric", "cosine"),
            _own(),
        ),
        "N 0": (lambda factors: factors.similar_items(0, N=0), raises(ValueError, "N must be"), _own()),
        "N beyond": (
            lambda factors: factors.similar_items(0, N=N + 5),
            Holds(lambda r, **_: r.ids[-1] == -1 and len(set(r.ids[:N])) == N),
            _own(),
        ),
        "zero vectors": (
            lambda factors: factors.similar_items([0], N=3),
            Holds(lambda r, **_: r.ids.tolist() == [[0, 1, 2]] and not r.scores.any()),
            lambda: {"factors": zero},
        ),
        "huge vectors": (lambda factors: factors.similar_items(0, N=4), ones, lambda: {"factors": huge}),
        "tiny vectors": (lambda factors: factors.similar_items(0, N=4), ones, lambda: {"factors": tiny}),
    }


def _fold_in() -> Table:
    fold = lambda factors, X: factors.fold_in_users(X)  # noqa: E731
    bare = Factors(made().user_factors, made().item_factors)
    found: Table = {
        f"users, {name}": (fold, raises(BAD, *words), lambda make=make: {"factors": made(), "X": make()})
        for name, (make, words) in matrices.REFUSED.items()
    }
    finite = Holds(lambda r, **_: bool(np.isfinite(r.user_factors).all()))
    same = lambda canonical: Holds(  # noqa: E731
        lambda r, factors, X: bool(
            np.allclose(r.user_factors, factors.fold_in_users(canonical()).user_factors, rtol=1e-4, atol=1e-5)
        )
    )
    for name, (make, canonical) in matrices.SAME.items():
        found[f"users, {name}"] = (fold, same(canonical), lambda make=make: {"factors": made(), "X": make()})
    return found | {
        "users, wrong number of items": (fold, raises(ValueError, "X", f"{N} columns"), _own(X=plain()[:, :9])),
        "items, wrong number of users": (
            lambda factors, X: factors.fold_in_items(X),
            raises(ValueError, "X", f"{M} rows"),
            _own(X=plain()[:9]),
        ),
        "users, none": (fold, Holds(lambda r, **_: r.shape == (0, N)), _own(X=sp.csr_array((0, N), dtype=np.float32))),
        "users, factors of no fit": (
            fold,
            raises(ValueError, "als", "regularization"),
            lambda: {"factors": bare, "X": plain()},
        ),
        "users, regularization nan": (
            lambda factors, X: factors.fold_in_users(X, regularization=np.nan),
            raises(ValueError, "regularization"),
            _own(X=plain()),
        ),
        "users, weighting unknown": (
            lambda factors, X: factors.fold_in_users(X, weighting="best"),
            raises(ValueError, "weighting"),
            _own(X=plain()),
        ),
        "users, alpha 1e30": (lambda factors, X: factors.fold_in_users(X, alpha=1e30), finite, _own(X=plain())),
        "users, regularization 0": (
            lambda factors, X: factors.fold_in_users(X, regularization=0.0),
            finite,
            _own(X=plain()),
        ),
        "users, spoilt params": (
            fold,
            raises(BAD, "regularization|alpha|weighting"),
            lambda: {"factors": made(regularization="lots"), "X": plain()},
        ),
    }


def _update() -> Table:
    update = lambda factors, X, **ids: factors.update(X, **ids)  # noqa: E731
    return {
        "nobody named": (update, raises(TypeError, "users or items"), _own(X=plain()[:2])),
        "both named": (update, raises(TypeError, "users or items"), _own(X=plain()[:2], users=[0], items=[0])),
        "repeated": (update, raises(ValueError, "users", "distinct"), _own(X=plain()[:2], users=[0, 0])),
        "a gap": (update, raises(ValueError, "users", "gap"), _own(X=plain()[:2], users=[0, M + 1])),
        "negative": (update, raises(ValueError, "users"), _own(X=plain()[:2], users=[0, -1])),
        "2^62": (update, raises(ValueError, "users", "gap"), _own(X=plain()[:2], users=[0, 2**62])),
        "too few rows": (update, raises(ValueError, "X", "row"), _own(X=plain()[:2], users=[0, 1, 2])),
        "too few columns": (update, raises(ValueError, "X", "columns"), _own(X=plain()[:2, :5], users=[0, 1])),
        "bad matrix": (
            update,
            raises(ValueError, "X", "valid sparse"),
            _own(X=changed("indices", at(0, 10**6)), users=np.arange(M)),
        ),
        "new users": (update, Holds(lambda r, **_: r.shape == (M + 2, N)), _own(X=plain()[:2], users=[M + 1, M])),
        "new items": (update, Holds(lambda r, **_: r.shape == (M, N + 1)), _own(X=plain()[:, :1], items=[N])),
    }


def _explain() -> Table:
    explain = lambda factors, X, **which: factors.explain(which.get("user", 0), which.get("item", 0), X)  # noqa: E731
    whole = lambda r, factors, X: bool(  # noqa: E731
        np.isclose(r.score, r.baseline + r.contributions.sum())
        and np.isclose(r.score, factors.fold_in_users(plain()).scores(0, 0), rtol=1e-3, atol=1e-4)
    )
    return {
        "its score": (explain, Holds(whole), _own(X=plain())),
        "unsorted": (explain, Holds(whole), _own(X=matrices.unsorted())),
        "coo": (explain, Holds(whole), _own(X=matrices.coo_repeated())),
        "a row": (explain, raises(ValueError, "X", "whole"), _own(X=plain()[[0]])),
        "dense": (explain, raises(BAD, "X", "sparse"), _own(X=plain().toarray())),
        "None": (explain, raises(BAD, "X", "sparse"), _own(X=None)),
        "bad index": (explain, raises(ValueError, "X", "valid sparse"), _own(X=changed("indices", at(0, 10**6)))),
        "bad indptr": (explain, raises(ValueError, "X", "valid sparse"), _own(X=changed("indptr", at(1, 10**6)))),
        "indptr too short": (
            explain,
            raises(ValueError, "X", "valid sparse"),
            _own(X=changed("indptr", lambda a: a[:1])),
        ),
        "nan": (explain, raises(ValueError, "X", "non-finite"), _own(X=changed("data", at(0, np.nan)))),
        "user without cells": (
            lambda factors, X: factors.explain(7, 0, X),
            Holds(lambda r, **_: r.score == 0 and len(r.items) == 0),
            _own(X=plain()),
        ),
        "item -1": (lambda factors, X: factors.explain(0, -1, X), raises(ValueError, "item"), _own(X=plain())),
        "two users": (lambda factors, X: factors.explain([0, 1], 0, X), raises(BAD, "user"), _own(X=plain())),
        "no users": (lambda factors, X: factors.explain([], 0, X), raises(BAD, "user"), _own(X=plain())),
        "two items": (lambda factors, X: factors.explain(0, [0, 1], X), raises(BAD, "item"), _own(X=plain())),
    }


def _constructor() -> Table:
    build = lambda U, V, **rest: Factors(U, V, **rest)  # noqa: E731
    U, V = np.ones((3, 2), np.float32), np.ones((4, 2), np.float32)
    own = lambda U=U, V=V, **rest: lambda: {"U": U, "V": V} | rest  # noqa: E731
    return {
        "nan": (build, raises(ValueError, "user_factors", "non-finite"), own(U=U * np.nan)),
        "inf": (build, raises(ValueError, "item_factors", "non-finite"), own(V=V * np.inf)),
        "two dtypes": (build, raises(TypeError, "one dtype"), own(V=V.astype(float))),
        "two k": (build, raises(ValueError, "columns"), own(V=np.ones((4, 3), np.float32))),
        "complex": (build, raises(TypeError, "user_factors", "real"), own(U=U * 1j)),
        "text": (build, raises(TypeError, "user_factors", "real"), own(U=U.astype(str))),
        "object": (build, raises(TypeError, "user_factors", "real"), own(U=U.astype(object))),
        "long double": (build, raises(TypeError, "user_factors", "real"), own(U=U.astype(np.longdouble))),
        "one dimension": (build, raises(ValueError, "user_factors", "dimensions"), own(U=U[0])),
        "ragged": (build, raises(BAD, "user_factors"), own(U=[[1.0], [1.0, 2.0]])),
        "sparse": (build, raises(BAD, "user_factors"), own(U=sp.csr_array(U))),
        "None": (build, raises(BAD, "user_factors"), own(U=None)),
        "bias too short": (build, raises(ValueError, "item_bias", "4"), own(item_bias=np.ones(3))),
        "bias nan": (build, raises(ValueError, "user_bias", "non-finite"), own(user_bias=np.full(3, np.nan))),
        "global bias nan": (build, raises(ValueError, "global_bias"), own(global_bias=np.nan)),
        "status unknown": (build, raises(ValueError, "status", "converged"), own(status="fine")),
        "history of numbers": (build, raises(TypeError, "history"), own(history=[1, 2])),
        "params a list": (build, raises(TypeError, "params"), own(params=[1])),
        "column order": (
            build,
            Holds(lambda r, **_: r.user_factors.flags.c_contiguous and not r.user_factors.flags.writeable),
            own(U=np.asfortranarray(U)),
        ),
        "integers": (
            build,
            Holds(lambda r, **_: r.user_factors.dtype == np.float64),
            own(U=U.astype(int), V=V.astype(int)),
        ),
        "no factors": (
            lambda U, V: build(U, V).recommend([0], N=2).ids.tolist(),
            Holds(lambda r, **_: r == [[0, 1]]),
            own(U=np.empty((3, 0)), V=np.empty((4, 0))),
        ),
        "attribute set": (lambda U, V: setattr(build(U, V), "user_factors", 3), raises(AttributeError), own()),
        "result written": (
            lambda U, V: lfm_np.als(plain(), factors=2, iterations=1).user_factors.__setitem__(0, 1),
            raises(ValueError, "read-only"),
            own(),
        ),
    }
