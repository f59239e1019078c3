"""What users of implicit, and of indexes such as faiss and annoy, asked: lists, neighbours, new users, reasons."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import scipy.sparse as sp

import lfm_np

from .brute import scores as products
from .case import Case, Group
from .reference import best, near, start, sweeps, table, tastes

_group = Group("asked of implicit")
_right, _refused, _either = _group.right, _group.refused, _group.either


def _true(name: str, check: Callable[[], Any]) -> Case:
    return _right(name, check, bool)


M, N = 30, 20


def fitted(X: Any = None, **words: Any) -> lfm_np.Factors:
    given = {"factors": 4, "iterations": 3, "dtype": np.float64, "random_state": 0, "num_threads": 1, **words}
    return lfm_np.als(tastes() if X is None else X, **given)


def swept(X: Any, k: int = 4, count: int = 3, lam: float = 0.1, **words: Any) -> bool:
    """Whether a float64 fit and its objective are those of the dense loops."""
    U, V = start(X, k)
    names = {"a0": "unobserved_weight", "nu": "regularization_exponent"}
    given = {names.get(name, name): value for name, value in words.items()}
    found = fitted(X, factors=k, iterations=count, init=(U, V), regularization=lam, **given)
    A, B, J = sweeps(X, V, count, lam, **words)
    return near(products(found), A @ B.T) and near(found.history[-1]["objective"] / J, 1.0)


def lists(factors: Any, seen: Any = None, allowed: Any = None, length: int = 10) -> list[list[int]]:
    free = np.ones(factors.shape, bool) if allowed is None else np.tile(allowed, (factors.shape[0], 1))
    if seen is not None:
        free &= table(seen)[0] == 0
    return [best(s, f, length) for s, f in zip(products(factors), free, strict=True)]


def numbers() -> Iterator[Case]:
    X = tastes()
    # NaN factors where there are more factors than rows or columns
    yield _true("more factors than items, identity", lambda: swept(sp.csr_array(np.eye(10, dtype="f4")), 15, 2))
    # NaN outputs of a dense 0..4 matrix with many factors
    dense = sp.csr_array(np.random.default_rng(3).integers(0, 5, (40, 60)).astype(float))
    yield _true("most cells full, 50 factors", lambda: swept(dense, 50, 2))
    # what alpha means, and whether it is X or alpha that is multiplied
    yield _true("alpha of 40", lambda: swept(X, alpha=40.0))
    yield _right(
        "X times 40 in double, or alpha=40",
        lambda: (fitted((X * 40).astype("double")), fitted(X, alpha=40.0)),
        lambda found: near(products(found[0]), products(found[1]), 1e-7),
    )
    yield _true("confidence without the one", lambda: swept(X, weighting="confidence", alpha=3.0))
    yield _right(
        "hu-koren is confidence of X + 1",
        lambda: (fitted(X), fitted(sp.csr_array((X.data + 1, X.indices, X.indptr), X.shape), weighting="confidence")),
        lambda found: near(products(found[0]), products(found[1]), 1e-7),
    )

    def bm25() -> bool:
        counts, length = X.astype(float), np.asarray(X.sum(axis=1)).ravel()
        norm = 0.2 + 0.8 * length / length.mean()
        row = np.repeat(np.arange(M), np.diff(X.indptr))
        idf = np.log(M / (1 + np.bincount(X.indices, minlength=N)))
        counts.data = counts.data * 101 / (100 * norm[row] + counts.data) * np.maximum(idf, 0.01)[X.indices]
        return swept(counts, weighting="confidence")

    yield _true("weights of BM25", bm25)
    # NaN after 50 and 100 iterations
    yield _right(
        "a hundred iterations, next to no regularization, float32",
        lambda: fitted(X, iterations=100, regularization=1e-6, dtype=np.float32, factors=10).history,
        lambda h: len(h) == 100 and all(b["objective"] <= a["objective"] * 1.00001 for a, b in itertools.pairwise(h)),
    )
    yield _either(
        "no regularization, more factors than rank",
        lambda: fitted(constant(), regularization=0.0, factors=6),
        lambda f: near(products(f), np.ones((8, 6)), 1e-5),
        "row|column",
        kind=lfm_np.SolverError,
    )
    # a matrix all of whose cells are one and the same: one singular value, shrunk by λ/c
    yield _right(
        "a constant matrix",
        lambda: fitted(constant(), factors=3, iterations=300, regularization=2.0, alpha=1.0),
        lambda f: near(products(f), np.full((8, 6), (np.sqrt(48) - 2.0 / 2.0) / np.sqrt(48)), 1e-6),
    )
    # results that differ from run to run, and with threads
    yield _right(
        "the same seed, other threads",
        lambda: [fitted(X, num_threads=t, dtype=np.float32).item_factors.tobytes() for t in (1, 2, 3, 1)],
        lambda bits: len(set(bits)) == 1,
    )
    yield _refused("a dislike", lambda: fitted(sp.csr_array(np.array([[1.0, -3.0], [2.0, 0.0]]))), "negative|≥ 0|>= 0")
    yield _refused("a dense pivot table", lambda: fitted(X.toarray()), "sparse")
    yield _refused("NaN from a pivot", lambda: fitted(sp.csr_array(np.array([[1, np.nan], [2, 1]]))), "nan|finite")


def constant() -> sp.csr_array:
    return sp.csr_array(np.ones((8, 6)))


def recommended() -> Iterator[Case]:
    X, f = tastes(), fitted()
    everyone = np.arange(M)
    zeros = X.copy()
    zeros.data[::3] = 0
    yield _right(
        "K beyond the number of items",
        lambda: f.recommend(everyone, N=50),
        lambda r: r.ids.tolist() == lists(f, length=50) and bool(np.isneginf(r.scores[:, N:]).all()),
    )
    yield _right(
        "zeros that are stored are not liked",
        lambda: f.recommend(everyone, seen=zeros).ids.tolist(),
        lambda ids: ids == lists(f, zeros),
    )
    # recommend left the first item out, and scores that are not those of rank_items
    yield _right(
        "the first item comes too, all items, scores as of scores()",
        lambda: f.recommend(everyone, N=N),
        lambda r: (
            r.ids.tolist() == lists(f, length=N)
            and all(np.array_equal(r.scores[u], f.scores(u, r.ids[u])) for u in everyone)
        ),
    )
    few = np.isin(np.arange(N), [3, 5, 9])
    yield _right(
        "a short list of items and seen ones, N greater",
        lambda: f.recommend(everyone, N=10, seen=X, items=[3, 5, 9]).ids.tolist(),
        lambda ids: ids == lists(f, X, few),
    )
    yield _either(
        "an item twice in items",
        lambda: f.recommend([0], N=5, items=[9, 3, 9, 5]).ids[0].tolist(),
        lambda ids: ids == lists(f, None, few, 5)[0],
        "items",
    )
    yield _right(
        "filtered items are replaced by the next",
        lambda: f.recommend(everyone, N=6, exclude=[0, 7, 7, 12]).ids.tolist(),
        lambda ids: ids == lists(f, None, ~np.isin(np.arange(N), [0, 7, 12]), 6),
    )
    full = sp.csr_array(np.vstack([np.ones((1, N)), X.toarray()[1:]]))
    yield _right(
        "a bot that has seen everything",
        lambda: f.recommend([0, 1], seen=full),
        lambda r: r.ids.tolist() == lists(f, full)[:2] and bool(np.isneginf(r.scores[0]).all()),
    )
    yield _right(
        "one by one or in a batch",
        lambda: [f.recommend(u, seen=X) for u in range(M)],
        lambda one: all(np.array_equal(r.scores, f.recommend(everyone, seen=X).scores[u]) for u, r in enumerate(one)),
    )
    empty = sp.csr_array(np.vstack([np.zeros((1, N), "f4"), X.toarray()[1:]]))
    yield _right(
        "a user without a single liked item",
        lambda: fitted(empty).recommend(0, N=4),
        lambda r: r.ids.tolist() == [0, 1, 2, 3] and not r.scores.any(),
    )
    # ids that are not contiguous: 10, 20, 30, 40
    sparse = lfm_np.to_csr([(10, 0), (20, 1), (30, 2), (40, 5)])
    yield _right(
        "users 10, 20, 30 and 40 of 41",
        lambda: fitted(sparse),
        lambda g: g.shape == (41, 6) and set(np.flatnonzero(g.user_factors.any(axis=1))) == {10, 20, 30, 40},
    )
    yield _right("nobody asks", lambda: f.recommend(np.array([], int), N=3).ids.shape, lambda shape: shape == (0, 3))
    yield _right(
        "unsigned ids", lambda: f.recommend(np.array([4, 2], np.uint64)).ids.tolist(),
        lambda ids: ids == [lists(f)[4], lists(f)[2]],
    )  # fmt: skip
    yield _refused("the user's own row only", lambda: f.recommend(7, seen=X[[7]]), "seen")
    yield _refused("item × user instead of user × item", lambda: f.recommend(7, seen=X.T.tocsr()), "seen")
    yield _refused("a user id beyond the matrix", lambda: f.recommend(300_000), "users", "300000|300_000|300,000")
    yield _refused("a buyer where suppliers are rows", lambda: f.similar_users(M), "users", "30")
    yield _refused("a mask of users", lambda: f.recommend(np.ones(M, bool)), "users")
    yield _refused("ids as floats", lambda: f.recommend(np.array([1.5, 2.0])), "users")
    yield _refused("a list of no items at all", lambda: f.recommend(0, N=0), "n ")
    yield _refused("-1 among filtered items", lambda: f.recommend(0, exclude=[-1]), "exclude", "-1")
    # NaN factors of a GPU, then items that were liked
    bad = np.full((3, 2), np.nan)
    yield _refused("factors of NaN", lambda: lfm_np.Factors(np.ones((2, 2)), bad), "item_factors", "nan|finite")


def neighbours() -> Iterator[Case]:
    rng = np.random.default_rng(5)
    V = rng.normal(size=(50, 6)) * np.exp(rng.normal(0, 3, (50, 1)))
    V[7] = 0
    V[30] = 2 * V[4]
    f = lfm_np.Factors(rng.normal(size=(9, 6)), V)
    norm = np.linalg.norm(V, axis=1)
    cosine = (V @ V.T) / np.where(norm[:, None] * norm > 0, norm[:, None] * norm, 1)
    yield _right(
        "scores of similar items above one (faiss too)",
        lambda: f.similar_items(np.arange(50), N=50),
        lambda r: near(np.take_along_axis(cosine, r.ids, 1), r.scores, 1e-12) and r.scores.max() <= 1 + 1e-12,
    )
    yield _right(
        "an item of zeros is like nothing",
        lambda: f.similar_items(7, N=50),
        lambda r: not r.scores.any() and r.ids.tolist() == list(range(50)),
    )
    # inner product: a longer vector is nearer than the item itself (annoy's dot, lucene)
    yield _right(
        "inner product, a longer twin first",
        lambda: f.similar_items(4, N=50, metric="inner").ids.tolist(),
        lambda ids: ids == best(V @ V[4], np.ones(50, bool), 50) and ids.index(30) < ids.index(4),
    )
    # all scores below zero (hnswlib's signs)
    U, W = -np.abs(rng.normal(size=(5, 3))), np.abs(rng.normal(size=(40, 3)))
    yield _right(
        "only negative scores",
        lambda: lfm_np.Factors(U, W).recommend(np.arange(5), N=8).ids.tolist(),
        lambda ids: ids == [best(W @ u, np.ones(40, bool), 8) for u in U],
    )
    twins = np.repeat(rng.integers(-2, 3, (7, 3)), 6, axis=0).astype(np.float32)
    one = rng.integers(-2, 3, (5, 3)).astype(np.float32)
    yield _right(
        "many equal items (ties of faiss)",
        lambda: lfm_np.Factors(one, twins).recommend(np.arange(5), N=11).ids.tolist(),
        lambda ids: ids == [best(twins @ u, np.ones(42, bool), 11) for u in one],
    )
    yield _right(
        "another library's arrays, column-major",
        lambda: lfm_np.Factors(np.asfortranarray(one), np.asfortranarray(twins)).recommend(0, N=42).ids.tolist(),
        lambda ids: ids == best(twins @ one[0], np.ones(42, bool), 42),
    )
    yield _refused("float32 and float64 in one model", lambda: lfm_np.Factors(one.astype(float), twins), "dtype|float")

    def renewed() -> tuple[Any, np.ndarray]:
        old = fitted()
        old.similar_items([0])
        new = old.update(tastes(seed=9)[:, [3]], items=[3])
        W = new.item_factors
        length = np.linalg.norm(W, axis=1)
        return new.similar_items(3, N=N), (W @ W[3] / (length * length[3]))

    # norms of before a partial fit
    yield _right("norms after an update", renewed, lambda r: near(r[1][r[0].ids], r[0].scores, 1e-12))


def newcomers() -> Iterator[Case]:
    X, f = tastes(), fitted(regularization=0.5, alpha=3.0)
    c, p = np.where(table(X)[1], 1 + 3.0 * table(X)[0], 1.0), table(X)[1].astype(float)
    V = f.item_factors

    def solved(u: int) -> np.ndarray:
        return np.linalg.solve((V.T * c[u]) @ V + 0.5 * np.eye(4), V.T @ (c[u] * p[u]))

    yield _right(
        "partial fit gives what a fit would",
        lambda: f.fold_in_users(X).user_factors,
        lambda U: near(U, [solved(u) for u in range(M)]),
    )
    yield _right(
        "a user who was not trained, own row as seen",
        lambda: f.fold_in_users(X[[8]]).recommend([0], seen=X[[8]]).ids[0].tolist(),
        lambda ids: ids == best(V @ solved(8), p[8] == 0, 10),
    )
    yield _right(
        "an old user refreshed and two new ones",
        lambda: f.update(X[[3, 4, 5]], users=[0, M, M + 1]).user_factors,
        lambda U: (
            near(U[[0, M, M + 1]], [solved(3), solved(4), solved(5)]) and np.array_equal(U[1:M], f.user_factors[1:])
        ),
    )
    yield _refused("a new user beyond a gap", lambda: f.update(X[[3]], users=[M + 5]), "users|gap")

    def reasons(u: int, i: int) -> bool:
        why = f.explain(u, i, X)
        inverse = np.linalg.inv((V.T * c[u]) @ V + 0.5 * np.eye(4))
        shares = {j: V[i] @ inverse @ V[j] * c[u, j] for j in np.flatnonzero(p[u]).tolist()}
        given = dict(zip(why.items.tolist(), why.contributions.tolist(), strict=True))
        total = why.baseline + sum(given.values())
        return (
            set(given) == set(shares) and near([given[j] for j in shares], list(shares.values()))
            and near([total, why.score], [V[i] @ solved(u)] * 2)
        )  # fmt: skip

    yield _right("contributions, negative ones too", lambda: [reasons(u, 2 * u % N) for u in range(M)], all)
    none = sp.csr_array(np.vstack([np.zeros((1, N), "f4"), X.toarray()[1:]]))
    yield _right(
        "a reason for nobody's liking",
        lambda: f.explain(0, 1, none),
        lambda why: len(why.items) == 0 and why.score == why.baseline == 0,
    )


def cases() -> list[Case]:
    return [*numbers(), *recommended(), *neighbours(), *newcomers()]
