"""What users of Spark, cmfrec, Surprise, LensKit, libmf, rsparse and scikit-learn's decompositions asked: ratings."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import scipy.sparse as sp

import lfm_np
from lfm_np import losses

from .brute import scores as products
from .case import Case, Group
from .reference import best, near, start, sweeps, table, tastes

_group = Group("asked of rating models")
_right, _refused, _either = _group.right, _group.refused, _group.either


def _true(name: str, check: Callable[[], Any]) -> Case:
    return _right(name, check, bool)


def rated(X: Any, **words: Any) -> lfm_np.Factors:
    given = {"factors": 3, "iterations": 2, "dtype": np.float64, "random_state": 0, "regularization": 0.3, **words}
    return lfm_np.als(X, weighting="ratings", num_threads=1, **given)


def swept(X: Any, k: int = 3, count: int = 2, lam: float = 0.3, nu: float = 0.0, **words: Any) -> bool:
    U, V = start(X, k)
    found = rated(X, factors=k, iterations=count, init=(U, V), regularization=lam, regularization_exponent=nu, **words)
    A, B, J = sweeps(X, V, count, lam, nu, "ratings")
    return near(products(found), A @ B.T) and near(found.history[-1]["objective"] / J, 1.0)


def shrunk(A: np.ndarray, k: int, lam: float) -> np.ndarray:
    """The minimum for a matrix that is known everywhere: singular values less λ."""
    U, s, Vt = np.linalg.svd(A)
    return (U[:, :k] * np.maximum(s[:k] - lam, 0)) @ Vt[:k]


def with_zeros() -> sp.csr_array:
    """Ratings of 0 and 1, the zeros stored."""
    rng = np.random.default_rng(4)
    pairs = np.argwhere(rng.random((25, 15)) < 0.5)
    return lfm_np.to_csr(pairs, (25, 15), rng.integers(0, 2, len(pairs)))


def spark() -> Iterator[Case]:
    X = tastes()
    yield _true("Spark: ALS-WR", lambda: swept(X, nu=1.0))
    yield _true("Spark: rank above the number of items", lambda: swept(X, k=33, nu=1.0))
    yield _true("Spark: regParam of 1e30", lambda: swept(X, lam=1e30))
    yield _true(
        "Spark: one user has rated everything", lambda: swept(sp.csr_array(np.vstack([np.full(20, 4.0), X.toarray()])))
    )
    # a random split leaves users without ratings: NaN predictions, then NaN as the error of a whole search
    bare = sp.csr_array(np.vstack([X.toarray()[:10], np.zeros((2, 20)), X.toarray()[10:]]))
    yield _right(
        "Spark: a user without ratings in the training part",
        lambda: rated(bare),
        lambda f: not f.user_factors[10:12].any() and np.isfinite(products(f)).all(),
    )
    yield _either(
        "Spark: the same with λ times the number of ratings, which is none",
        lambda: rated(bare, regularization_exponent=1.0),
        lambda f: not f.user_factors[10:12].any() and np.isfinite(products(f)).all(),
        "10",
        kind=lfm_np.SolverError,
    )
    # "implicitPrefs" with its own λ·n_u, served by folding in a row at a time
    f = lfm_np.als(X, factors=3, dtype=np.float64, random_state=0)
    V, stored = f.item_factors, table(X)[1]

    def served(u: int) -> bool:
        n_u = int(stored[u].sum())
        found = f.fold_in_users(
            X[[u]], weighting="hu-koren", alpha=40.0, regularization=0.1 * n_u, regularization_exponent=0.0
        )
        c = 1 + 40 * table(X)[0][u]
        return near(
            found.user_factors[0], np.linalg.solve((V.T * c) @ V + 0.1 * n_u * np.eye(3), V.T @ (c * stored[u]))
        )

    yield _right("Spark: implicitPrefs served", lambda: [served(u) for u in range(30)], all)
    # "ids must be within the integer value range"
    ids = np.array([2**40 + 3, -7, 2**62, 2**31])

    def big() -> bool:
        data = lfm_np.Interactions.from_arrays(ids[[0, 1, 2, 3, 0]], ids[[3, 2, 1, 0, 1]], [5, 4, 3, 2, 1])
        cells = {(int(ids[a]), int(ids[b])): x for a, b, x in zip([0, 1, 2, 3, 0], [3, 2, 1, 0, 1], [5, 4, 3, 2, 1])}
        cells_of = data.matrix.tocoo()
        row, column = cells_of.row, cells_of.col
        found = zip(data.user_ids(row).tolist(), data.item_ids(column).tolist(), data.matrix.data.tolist())
        return {(u, i): x for u, i, x in found} == cells

    yield _true("Spark: ids beyond 32 bits", big)
    yield _refused("Spark: an unknown user", lambda: lfm_np.Interactions.from_arrays([1, 2], [1, 2]).rows_of([5]), "5")
    yield _refused(
        "Spark: two ratings of one film",
        lambda: rated(sp.coo_array(([3, 4], ([0, 0], [1, 1])), (2, 2))),
        "duplicate|twice|more than once|repeated",
    )


def decompositions() -> Iterator[Case]:
    A = np.random.default_rng(8).normal(size=(14, 9)) + 3
    whole = sp.csr_array(A)
    slow = {"iterations": 600, "factors": 4}
    yield _right(
        "TruncatedSVD: everything known",
        lambda: rated(whole, **slow, regularization=1e-9),
        lambda f: near(products(f), shrunk(A, 4, 0.0), 1e-5),
    )
    yield _right(
        "SVD with soft thresholds: everything known",
        lambda: rated(whole, **slow, regularization=2.0),
        lambda f: near(products(f), shrunk(A, 4, 2.0), 1e-5),
    )
    yield _right(
        "NMF: the least error there is, as the objective",
        lambda: (rated(whole, **slow, regularization=2.0).history[-1]["objective"], np.linalg.svd(A)[1]),
        lambda r: near(r[0], (np.minimum(r[1][:4], 2.0) ** 2).sum() + (r[1][4:] ** 2).sum()
                       + 4.0 * np.maximum(r[1][:4] - 2.0, 0).sum(), 1e-6),
    )  # fmt: skip
    yield _right(
        "cmfrec: one rating, one user, one item",
        lambda: rated(sp.csr_array(np.array([[5.0]])), factors=1, iterations=400),
        lambda f: near(products(f), [[4.7]], 1e-6),
    )
    yield _right(
        "Surprise: one rating that λ is greater than",
        lambda: rated(sp.csr_array(np.array([[5.0]])), factors=1, iterations=400, regularization=6.0),
        lambda f: abs(products(f)).max() < 1e-6,
    )
    # scikit-learn: fit_transform must be transform(fit)
    yield _right(
        "scikit-learn: fit_transform and transform",
        _transformed,
        lambda r: np.array_equal(r[0], r[1]) and near(r[0], r[2], 1e-4),
    )


def _transformed() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    from lfm_np.sklearn import ALS

    X = tastes()
    model = ALS(factors=3, regularization=1.0, random_state=0, num_threads=1)
    both = model.fit_transform(X)
    V = model.item_factors_.astype(float)
    c = 1 + table(X)[0]
    byhand = [np.linalg.solve((V.T * w) @ V + np.eye(3), V.T @ (w * (w > 1))) for w in c]
    return both, model.transform(X), np.array(byhand)


def surprise() -> Iterator[Case]:
    X = tastes()
    signed = sp.csr_array((np.random.default_rng(2).uniform(-1, 1, X.nnz), X.indices, X.indptr), X.shape)
    yield _true("Surprise: a scale from -1 to 1 (libmf: crash)", lambda: swept(signed))
    yield _true("Surprise: ratings of 0 and 1, the zeros count", lambda: swept(with_zeros()))
    # results of 0..5 and of 0..1 that are not five times one another
    U, V = start(X, 3)
    yield _right(
        "Surprise: another scale, λ with it",
        lambda: (
            rated(X, init=(U, V)),
            rated(X * 5.0, init=(U * 5**0.5, V * 5**0.5), regularization=1.5),
        ),
        lambda r: near(5 * products(r[0]), products(r[1]), 1e-9),
    )
    yield _right(
        "Surprise: everybody rates everything 4",
        lambda: rated(sp.csr_array(np.where(table(X)[1], 4.0, 0)), biases=True),
        lambda f: near(products(f), np.full(X.shape, 4.0), 1e-9),
    )

    def stationary(found: lfm_np.Factors, lam: float = 0.3) -> bool:
        x, stored = table(X)
        error = np.where(stored, products(found) - x, 0.0)
        slopes = [
            error @ found.item_factors + lam * found.user_factors,
            error.T @ found.user_factors + lam * found.item_factors,
            error.sum(1) + lam * found.user_bias,
            error.sum(0) + lam * found.item_bias,
        ]
        return near(found.global_bias, X.data.mean(), 1e-6) and max(abs(s).max() for s in slopes) < 1e-3

    yield _right("Surprise: biases, no slope left", lambda: rated(X, biases=True, iterations=1500), stationary)
    bare = sp.csr_array(np.vstack([np.zeros((1, 20)), X.toarray()]))
    yield _right(
        "Surprise: an unknown user gets μ + b_i (cmfrec: NaN)",
        lambda: rated(bare, biases=True),
        lambda f: f.user_bias[0] == 0 and near(f.scores(0, np.arange(20)), f.global_bias + f.item_bias, 1e-12),
    )

    def inner_ids() -> bool:
        rng = np.random.default_rng(0)
        users = np.array([f"u{i}" for i in rng.permutation(30_000)])
        items = rng.integers(0, 999, 30_000) * 7
        data = lfm_np.Interactions.from_arrays(users, items, np.arange(1, 30_001))
        rows, columns = data.rows_of(users), data.columns_of(items)
        cells = data.matrix.tocoo()
        found = dict(zip(zip(cells.row.tolist(), cells.col.tolist()), cells.data.tolist()))
        return (
            found == dict(zip(zip(rows.tolist(), columns.tolist()), map(float, range(1, 30_001))))
            and (data.user_ids(rows) == users).all()
        )

    yield _true("Surprise: wrong inner ids beyond 25,000 rows", inner_ids)
    data = lfm_np.Interactions.from_arrays([196, 186], [242, 302], [3, 3])
    yield _refused("Surprise: text for a number", lambda: data.rows_of(["196"]), "users", "int64")
    yield _right(
        "Surprise: SVD's μ is the mean",
        lambda: lfm_np.sgd(X, losses.Squared(), sampler=None, biases=True, factors=2, epochs=1, random_state=0),
        lambda f: near(f.global_bias, X.data.mean(), 1e-6),
    )


def others() -> Iterator[Case]:
    X = tastes()
    f = rated(X, biases=True, iterations=8)
    x, stored = table(X)

    def folded() -> bool:
        W = np.hstack([f.item_factors, np.ones((20, 1))])
        new = f.fold_in_users(X[:6])
        for u in range(6):
            w = stored[u]
            found = np.linalg.solve(
                W[w].T @ W[w] + 0.3 * np.eye(4), W[w].T @ (x[u, w] - f.global_bias - f.item_bias[w])
            )
            if not near([*new.user_factors[u], new.user_bias[u]], found):
                return False
        return True

    yield _true("LensKit: a new user's ratings, with a bias", folded)
    other = tastes(seed=77)
    yield _right(
        "rsparse: leave out another matrix than that of the fit",
        lambda: f.recommend(np.arange(30), N=6, seen=other).ids.tolist(),
        lambda ids: ids == [best(s, ~w, 6) for s, w in zip(products(f), table(other)[0] != 0)],
    )

    def on_disk() -> bool:
        with TemporaryDirectory() as place:
            stored = lfm_np.StoredMatrix.from_matrix(with_zeros(), Path(place) / "m", zeros="keep", num_threads=1)
            one, two = rated(stored, dtype=np.float32), rated(with_zeros(), dtype=np.float32)
            return one.item_factors.tobytes() == two.item_factors.tobytes() and np.isfinite(products(one)).all()

    yield _true("libmf: NaN when trained from the disk", on_disk)
    # the constant of counts without a factor to explain them
    counts = sp.csr_array((np.arange(1.0, X.nnz + 1) % 7 + 1, X.indices, X.indptr), X.shape)
    yield _right(
        "spotlight: Poisson's constant is the log of the mean",
        lambda: lfm_np.sgd(counts, losses.Poisson(), sampler=None, biases=True, factors=2, epochs=1, random_state=0),
        lambda g: near(g.global_bias, np.log(counts.data.mean()), 1e-5),
    )
    yield _right(
        "Cornac: a threshold of 4 on ratings of which some are unknown",
        lambda: lfm_np.Interactions.from_arrays(
            [1, 1, 2, 2, 3], [1, 2, 1, 3, 2], [4.0, np.nan, 3.999, 5.0, 0.0]
        ).binarize(threshold=4),
        lambda d: d.shape == (3, 3) and d.matrix.toarray().tolist() == [[1, 0, 0], [0, 0, 1], [0, 0, 0]],
    )
    yield _refused(
        "recommenderlab: unknown ratings in a fit",
        lambda: rated(lfm_np.Interactions.from_arrays([1, 2], [1, 2], [np.nan, 1.0])),
        "nan|unknown|finite",
    )
    yield _right(
        "cmfrec: no ratings at all but one user's",
        lambda: rated(sp.csr_array(([3.0, 5.0], ([0, 0], [1, 4])), (6, 8)), biases=True),
        lambda g: np.isfinite(products(g)).all() and g.global_bias == 4.0,
    )
    yield _refused("Surprise: nonsense for a rating", lambda: lfm_np.to_csr([(0, 1)], values=["five"]), "values")
    yield _refused(
        "rsparse: R's columns from 1 in a shape from 0", lambda: lfm_np.to_csr([(1, 20)], (30, 20)), "shape|20"
    )


def cases() -> list[Case]:
    return [*spark(), *decompositions(), *surprise(), *others()]
