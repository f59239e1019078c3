"""Odd jobs: rows of every length, sizes far apart, models handed on, matrices on a disk, made data."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import scipy.sparse as sp

import lfm_np as _library

from .case import Case, Group
from .cases_eleventh_hour_with_clicks import FILM, SHOP, fitted, mask, parts, product, scored
from .cases_eleventh_hour_with_ratings import Rating
from .working_days import (
    NAN,
    Model,
    best,
    close,
    csr,
    faultless,
    folder,
    judged,
    raised,
    same,
    stars,
    start,
    tells,
    wrong,
)

lfm_np: Any = _library
losses: Any = _library.losses
_GROUP = Group("eleventh hour")
_holds = faultless(_GROUP)


def _staircase(n: int, seed: int = 0) -> np.ndarray:
    """Rows of 0, 1, 2 … n cells."""
    draw = np.random.default_rng(seed)
    X = np.full((n + 1, n), NAN)
    for length in range(n + 1):
        X[length, draw.permutation(n)[:length]] = draw.integers(1, 5, length)
    return X


def _every_length(model: Model, k: int, dtype: str, near: float) -> list[str]:
    """Newcomers with 0 to n cells at once, and each by itself."""
    X = _staircase(48, seed=k)
    draw = np.random.default_rng(k)
    V = draw.normal(0, 0.5, (48, k)).astype(dtype)
    holder = lfm_np.Factors(np.zeros((2, k), dtype), V)
    given = {"alpha": model.alpha, **model.words}
    new = holder.fold_in_users(csr(X), **given)
    mine = model.half(X[1:], V.astype(float))
    single = np.vstack([holder.fold_in_users(csr(X[[r]]), **given).user_factors for r in (1, 7, 30, 48)])
    return wrong(
        rows=close(new.user_factors[1:], mine, near),
        nobody=not new.user_factors[0].any(),
        single=close(single, mine[[0, 6, 29, 47]], near),
        dtype=new.user_factors.dtype == dtype,
    )


def _by_lstsq(x: np.ndarray, V: np.ndarray, model: Model, lam: float) -> np.ndarray:
    """A row as a least-squares problem, without a product of matrices."""
    has = ~np.isnan(x)
    weights, target = np.full(len(x), model.a0), np.zeros(len(x))
    weights[has], target[has] = 1 + model.alpha * x[has], 1.0
    A = np.vstack([np.sqrt(weights)[:, None] * V, math.sqrt(lam) * np.eye(V.shape[1])])
    found: np.ndarray = np.linalg.lstsq(A, np.r_[np.sqrt(weights) * target, np.zeros(V.shape[1])], rcond=None)[0]
    return found


def _ill(kind: str) -> list[str]:
    """Items that are nearly the same, or of sizes far apart, next to no λ: scores of least squares."""
    draw = np.random.default_rng(3)
    V = draw.normal(size=(30, 6))
    lam = 1e-7
    if kind == "sizes":
        V = V * 10.0 ** draw.integers(-3, 4, (30, 1))
    elif kind == "columns":
        V, lam = V * 10.0 ** np.arange(-3.0, 3.0), 1e-5
    else:
        V[:, 5] = V[:, 4] + 1e-5 * draw.normal(size=30)
    X = stars(12, 30, seed=4)
    model = Model("hu-koren", alpha=5.0, a0=0.3)
    new = lfm_np.Factors(np.zeros((1, 6)), V).fold_in_users(
        csr(X), weighting="hu-koren", alpha=5.0, unobserved_weight=0.3, regularization=lam, regularization_exponent=0.0
    )
    mine = np.array([_by_lstsq(x, V, model, lam) for x in X])
    return wrong(scores=bool(abs(new.user_factors @ V.T - mine @ V.T).max() < 1e-5))


def _scalar(weighting: str) -> list[str]:
    """One user, one item, one factor: J as a function of two numbers."""
    model = Model(weighting, alpha=0.8, a0=0.6, lam=0.05, nu=1.0)
    X = np.array([[3.0]])
    U, V = model.sweeps(X, np.array([[0.9]]), 4)
    fit = lfm_np.als(
        csr(X), factors=1, iterations=4, init=(np.array([[-1.0]]), np.array([[0.9]])), dtype="float64", **model.words
    )
    return wrong(
        score=close(fit.scores(0, 0), U[0, 0] * V[0, 0], 1e-10),
        J=close(fit.history[-1]["objective"], model.objective(X, U, V), 1e-10),
        list=fit.recommend(0, N=3).ids.tolist() == [0, -1, -1],
        alone=fit.recommend(0, N=1, seen=csr(X)).ids.tolist() == [-1],
    )


def _no_cells() -> list[str]:
    """Nothing happened yet: zeros, a J of zero, and lists in the order of the columns."""
    X = sp.csr_array((4, 5))
    fit = lfm_np.als(X, factors=3, iterations=2, random_state=0)
    popular = lfm_np.evaluation.most_popular(X)
    return wrong(
        zero=not fit.user_factors.any() and not fit.item_factors.any(),
        J=[r["objective"] for r in fit.history] == [0.0, 0.0],
        list=fit.recommend([3], N=6).ids.tolist() == [[0, 1, 2, 3, 4, -1]],
        popular=popular.recommend(1, N=2).ids.tolist() == [0, 1],
        alike=fit.similar_items(2, N=2).ids.tolist() == [0, 1],
    )


def _handed_on() -> list[str]:
    """Steps first, then sweeps from there; steps again from the sweeps, judged by the objective of the sweeps."""
    X = stars(20, 12, seed=5)
    first = lfm_np.sgd(csr(X), losses.BPR(), factors=3, epochs=2, dtype="float64", random_state=0)
    fit = fitted(X, SHOP, init=first)
    U, V = SHOP.sweeps(X, first.item_factors, 2)
    after = lfm_np.sgd(
        csr(X), losses.BPR(), factors=3, epochs=1, learning_rate=1e-9, regularization=0.0, init=fit, dtype="float64",
        random_state=0,
    )  # fmt: skip
    words = SHOP.words
    told = lfm_np.objective(csr(X), after, **words)
    lacking = raised(lambda: lfm_np.objective(csr(X), after, alpha=2.0))
    return wrong(
        fit=close(product(fit), U @ V.T, 1e-8),
        after=close(product(after), U @ V.T, 1e-6),
        objective=close(told, SHOP.objective(X, after.user_factors, after.item_factors), 1e-12),
        near=close(told, fit.history[-1]["objective"], 1e-5),
        lacking=tells(lacking, "regularization"),
    )


def _objectives(weighting: str) -> list[str]:
    """J of any factors under any assumptions, on other rows than those of the fit too."""
    X, other = stars(15, 9, seed=6), stars(15, 9, seed=7)
    fit = fitted(X, FILM)
    U, V = fit.user_factors, fit.item_factors
    model = Model(weighting, alpha=0.3, a0=0.0 if weighting == "ratings" else 1.7, lam=0.9, nu=0.4)
    words = model.words if weighting != "ratings" else {**model.words, "unobserved_weight": 0.0}
    return wrong(
        own=close(lfm_np.objective(csr(X), fit), FILM.objective(X, U, V), 1e-12),
        other=close(lfm_np.objective(csr(other), fit, **words), model.objective(other, U, V), 1e-12),
        partly=close(lfm_np.objective(csr(X), fit, alpha=9.0), FILM._replace(alpha=9.0).objective(X, U, V), 1e-12),
    )


def _whole_numbers(dtype: Any) -> list[str]:
    """Clicks as booleans or whole numbers of any width weigh what they say."""
    X = stars(14, 9, seed=8)
    if dtype == "bool":
        X = np.where(mask(X), 1.0, NAN)
    elif dtype == "int64":
        X = X * 2.0**30
    model = SHOP if dtype != "int64" else SHOP._replace(alpha=2.0**-30)
    rows, columns = np.nonzero(mask(X))
    matrix = sp.coo_array((X[rows, columns].astype(dtype), (rows, columns)), shape=X.shape)
    fit = lfm_np.als(
        matrix, factors=3, iterations=2, init=start(14, 9, 3), dtype="float64", solver="exact", **model.words
    )
    U, V = model.sweeps(X, start(14, 9, 3)[1], 2)
    return wrong(
        scores=close(product(fit), U @ V.T, 1e-8),
        seen=fit.recommend(0, N=9, seen=matrix).ids.tolist() == best(scored(fit)[0], ~mask(X)[0], 9)
    )  # fmt: skip


def _untidy() -> list[str]:
    """Columns in any order, cells in two parts, zeros that say nothing: the fit of the tidy matrix, bit for bit."""
    X = stars(13, 8, seed=9)
    tidy = csr(X)
    rows, columns = np.nonzero(mask(X))
    order = np.random.default_rng(0).permutation(len(rows))
    halves = np.r_[X[rows, columns][order] - 0.5, X[rows, columns][::-1] * 0 + 0.5, [0.0, 0.0]]
    r, c = np.r_[rows[order], rows[::-1], 0, 12], np.r_[columns[order], columns[::-1], 7, 0]
    place = np.argsort(r, kind="stable")
    indptr = np.r_[0, np.cumsum(np.bincount(r, minlength=13))]
    loose = sp.csr_matrix((halves[place], c[place], indptr), shape=(13, 8))
    before = loose.data.copy(), loose.indices.copy()
    words = {"factors": 3, "iterations": 2, "random_state": 1, "dtype": "float64"}
    one, two = lfm_np.als(tidy, **words), lfm_np.als(loose, **words)
    refused = raised(lambda: lfm_np.als(loose, weighting="ratings", **words))
    three, four = (lfm_np.sgd(Z, factors=2, epochs=2, random_state=1) for Z in (tidy, loose))
    return wrong(
        als=same(one, two), sgd=same(three, four),
        kept=np.array_equal(loose.data, before[0]) and np.array_equal(loose.indices, before[1]),
        ratings=tells(refused, "duplicate|repeat|twice|more than once"),
    )  # fmt: skip


def _on_disk(weighting: str) -> list[str]:
    """A folder in a few bytes, its factors in another folder: sweeps, lists, judges and the arrays themselves."""
    learn, test = parts(stars(31, 17, seed=10))
    model = FILM._replace(weighting=weighting, a0=0.0 if weighting == "ratings" else 0.2)
    with folder() as place:
        (place / "factors").mkdir()
        lfm_np.StoredMatrix.from_matrix(
            csr(learn), place / "m", dtype="float64", zeros="keep" if weighting == "ratings" else "drop"
        )
        stored = lfm_np.StoredMatrix(place / "m", memory=64 << 20, factors_in=place / "factors")
        seen: list[float] = []
        fit = lfm_np.als(
            stored, factors=3, iterations=2, init=start(31, 17, 3), dtype="float64", solver="exact",
            callback=lambda _, factors: seen.append(lfm_np.evaluate(factors, csr(learn), csr(test), ["mrr"])["mrr"]),
            **model.words,
        )  # fmt: skip
        U, V = model.sweeps(learn, start(31, 17, 3)[1], 2)
        arrays = [np.load(place / "m" / f"columns.{name}.npy") for name in ("data", "indices", "indptr")]
        turned = sp.csr_array(tuple(arrays), shape=(17, 31)).toarray()
        mrr = judged(scored(fit), mask(learn), mask(test), 1)["mrr"]
        facts = {
            "scores": close(product(fit), U @ V.T, 1e-8),
            "J": close(fit.history[-1]["objective"], model.objective(learn, U, V), 1e-9),
            "judged": len(seen) == 2 and close(seen[1], mrr, 1e-12),
            "columns": np.array_equal(turned, np.nan_to_num(learn).T),
            "told": stored.shape == (31, 17) and stored.nnz == mask(learn).sum() and stored.dtype == np.float64,
        }
    return wrong(**facts)


def _shown() -> list[str]:
    """A bar of progress goes to standard error and changes nothing."""
    X = csr(stars(12, 8, seed=11))
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        fits = [lfm_np.als(X, factors=2, iterations=3, random_state=0, progress=shown) for shown in (True, False)]
        steps = [lfm_np.sgd(X, factors=2, epochs=3, random_state=0, progress=shown) for shown in (True, False)]
    return wrong(same=same(*fits) and same(*steps), out=out.getvalue() == "", err=err.getvalue() != "")


def _singular() -> list[str]:
    """Ratings without λ: who rated too little is named; with a little λ the loops agree."""
    X = stars(12, 9, seed=12, share=0.8)
    X[4] = NAN
    X[4, 2] = 5.0
    init = start(12, 9, 3)
    words: dict[str, Any] = {"factors": 3, "iterations": 2, "weighting": "ratings", "init": init, "dtype": "float64"}
    error: Any = raised(lambda: lfm_np.als(csr(X), regularization=0.0, **words))
    fit = lfm_np.als(csr(X), regularization=1e-3, **words)
    U, V, _, _, _ = Rating(1e-3, 0.0, False).sweeps(X, init[1], np.zeros(9), 2)
    return wrong(
        kind=isinstance(error, lfm_np.SolverError),
        row="4" in str(error), fit=close(product(fit), U @ V.T, 1e-7),
    )  # fmt: skip


def _made(test_fraction: float) -> list[str]:
    """Planted pairs: distinct, sorted, lengths uniform; the cut keeps one of everybody."""
    pairs = lfm_np.datasets.make_interactions(4000, 30, 5, random_state=np.random.RandomState(3))
    counts = np.bincount(pairs[:, 0], minlength=4000)
    lengths = np.bincount(counts, minlength=6)[1:]
    learn, test = lfm_np.datasets.make_interactions_train_test(4000, 30, 5, test_fraction=test_fraction, random_state=3)
    both = np.vstack([learn, test])
    share = len(test) / len(both)
    return wrong(
        distinct=(len(np.unique(pairs, axis=0)) == len(pairs) and pairs.max() < 30) or pairs[:, 1].max() < 30,
        sorted=np.array_equal(pairs, pairs[np.lexsort(pairs.T[::-1])]) and pairs.dtype == np.int32,
        uniform=len(lengths) == 5 and bool((abs(lengths - 800) < 6 * np.sqrt(4000 * 0.2 * 0.8)).all()),
        cut=len(np.unique(both, axis=0)) == len(both) and np.unique(learn[:, 0]).size == 4000,
        share=abs(share - test_fraction) < 0.02 if test_fraction <= 0.3 else share <= test_fraction + 0.02,
        order=np.array_equal(test, test[np.lexsort(test.T[::-1])]),
    )


def _cells() -> list[str]:
    """Sums in float64, counts whatever the values, the smallest shape, a dictionary of columns."""
    pairs = np.array([(2, 0), (0, 3), (2, 0), (2, 0), (0, 3), (2, 0)], np.int64)
    values = [1e8, 7.0, 1.0, 1.0, -7.0, -1e8]
    table = {
        how: lfm_np.to_csr(pairs, values=values, duplicates=how) for how in ("sum", "mean", "max", "count", "last")
    }
    mine = {"sum": (0, 2), "mean": (0, 0.5), "max": (7, 1e8), "count": (2, 4), "last": (-7, -1e8)}
    columns = lfm_np.build_dict(pairs)
    return wrong(
        **{how: (table[how][0, 3], table[how][2, 0]) == mine[how] for how in mine},
        zeros=table["sum"].nnz == 2 and table["sum"].shape == (3, 4),
        dictionary={i: j.tolist() for i, j in columns.items()} == {0: [3], 2: [0]} and list(columns) == [0, 2],
        dtype=columns[0].dtype == np.int64 and not columns[0].flags.writeable,
        error=tells(raised(lambda: lfm_np.to_csr(pairs, duplicates="error")), "0|2"),
    )


def _estimated() -> list[str]:
    """Half of the factors of very many rows, and four bytes a cell for values that are read."""
    m, n, nnz = 3_000_000, 1_000_000, 8_000_000
    bytes_of = lfm_np.estimate_memory
    wide, narrow = (bytes_of(m, n, nnz, factors=k, num_threads=1) for k in (128, 64))
    double = bytes_of(m, n, nnz, factors=64, dtype="float64", num_threads=1)
    reads = [bytes_of(m, n, nnz, factors=16, solver="sgd", uses_values=u, num_threads=1) for u in (False, True)]
    return wrong(
        factors=0.85 < (wide - narrow) / (2 * (m + n) * 64 * 4) < 1.15,
        double=0.85 < (double - narrow) / (2 * (m + n) * 64 * 4 + nnz * 4) < 1.15,
        reads=reads[1] >= reads[0],
        whole=all(isinstance(x, int) for x in (wide, narrow, double)),
    )


def _stopped_and_gone_on() -> list[str]:
    """A callback that stops after two epochs by a sampler of popularity; the checkpoint goes on to the whole run."""
    X = csr(stars(30, 15, seed=13))
    words: dict[str, Any] = {
        "negatives": 3, "factors": 4, "sampler": lfm_np.sampling.Popularity(0.4), "biases": "item",
        "schedule": "adagrad", "random_state": 6,
    }  # fmt: skip

    def stop(record: dict[str, Any], factors: Any) -> None:
        if record["iteration"] == 2:
            raise StopIteration

    loss = losses.SampledSoftmax(0.8)
    with folder() as place:
        first = lfm_np.sgd(X, loss, epochs=6, checkpoint=place / "c", callback=stop, **words)
        again = lfm_np.sgd(X, loss, epochs=6, checkpoint=place / "c", **words)
        another = raised(lambda: lfm_np.sgd(X, losses.SampledSoftmax(0.7), epochs=6, checkpoint=place / "c", **words))
    two = lfm_np.sgd(X, loss, epochs=2, **words)
    whole = lfm_np.sgd(X, loss, epochs=6, **words)
    return wrong(
        first=same(first, two) and first.status == lfm_np.Status.STOPPED, again=same(again, whole),
        history=[r["sampled_loss"] for r in again.history] == [r["sampled_loss"] for r in whole.history],
        another=tells(another, "loss|temperature"),
    )  # fmt: skip


def _seen_unknown() -> list[str]:
    """What happened is seen, though nobody knows how it was liked."""
    data = lfm_np.Interactions.from_arrays([0, 0, 1, 2], [0, 2, 1, 3], [NAN, 4.0, NAN, 1.0])
    model = lfm_np.Factors(np.ones((3, 1)), np.array([[1.0], [4.0], [3.0], [2.0]]))
    known = data.select(~np.isnan(data.matrix.data))
    return wrong(
        seen=model.recommend([0, 1, 2], N=4, seen=data).ids.tolist() == [[1, 3, -1, -1], [2, 3, 0, -1], [1, 2, 0, -1]],
        known=model.recommend([0, 1], N=4, seen=known).ids.tolist() == [[1, 3, 0, -1], [1, 2, 3, 0]],
        refused=tells(raised(lambda: lfm_np.als(data, factors=1)), "non-finite value in row 0"),
        popular=lfm_np.evaluation.most_popular(data).item_bias.tolist() == [1, 1, 1, 1],
    )


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    for name, model, k, dtype, near in (
        ("three factors", Model("hu-koren", 2.0, 0.3, 0.2, 1.0), 3, "float64", 1e-9),
        ("as many as a few cells", Model("ials", 1.0, 0.1, 0.05, 0.5), 20, "float64", 1e-8),
        ("more than cells", Model("hu-koren", 1.0, 0.2, 0.3, 0.0), 70, "float64", 1e-8),
        ("less than what is absent", Model("confidence", 0.2, 1.5, 0.4, 0.0), 12, "float64", 1e-8),
        ("float32", Model("ials", 2.0, 0.4, 0.5, 1.0), 17, "float32", 3e-4),
        ("nothing absent", Model("confidence", 2.0, 0.0, 0.3, 0.0), 9, "float64", 1e-8),
    ):
        yield _holds(f"rows of every length: {name}", lambda a=model, b=k, c=dtype, d=near: _every_length(a, b, c, d))
    for kind in ("sizes", "columns", "twins"):
        yield _holds(f"next to no λ: {kind}", lambda a=kind: _ill(a))
    for weighting in ("hu-koren", "ials", "confidence"):
        yield _holds(f"one number by one: {weighting}", lambda a=weighting: _scalar(a))
    yield _holds("nothing happened yet", _no_cells)
    yield _holds("from steps to sweeps and back", _handed_on)
    for weighting in ("hu-koren", "ials", "confidence", "ratings"):
        yield _holds(f"J under other assumptions: {weighting}", lambda a=weighting: _objectives(a))
    for dtype in ("bool", "uint8", "int64"):
        yield _holds(f"clicks of {dtype}", lambda a=dtype: _whole_numbers(a))
    yield _holds("an untidy matrix", _untidy)
    for weighting in ("ials", "ratings"):
        yield _holds(f"a folder and its factors: {weighting}", lambda a=weighting: _on_disk(a))
    yield _holds("a bar of progress", _shown)
    yield _holds("ratings without λ", _singular)
    for share in (0.2, 0.6):
        yield _holds(f"made and cut, {share}", lambda a=share: _made(a))
    yield _holds("cells of pairs", _cells)
    yield _holds("bytes of a fit", _estimated)
    yield _holds("stopped, and gone on", _stopped_and_gone_on)
    yield _holds("seen, and not known how", _seen_unknown)
