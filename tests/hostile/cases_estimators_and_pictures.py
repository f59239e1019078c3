"""Estimators, indexes, pictures, data sets, losses and samplers, compared with what they are said to compute."""

from __future__ import annotations

import io
import itertools
import math
import os
import pickle
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import scipy.sparse as sp

import lfm_np
from lfm_np import Factors, losses, sampling

from .case import Case, Group, Holds, installed
from .dense import best, grid, near, solved

BAD = (TypeError, ValueError)
_group = Group("numbers of extras")
_refused, _right, _either = _group.refused, _group.right, _group.either


def model(m: int = 9, n: int = 40, k: int = 4, scale: float = 1.0, dtype: Any = float) -> Factors:
    rng = np.random.default_rng(3)
    U, V = rng.normal(0, scale, (m, k)).astype(dtype), rng.normal(0, scale, (n, k)).astype(dtype)
    return Factors(U, V, item_bias=rng.normal(size=n).astype(dtype))


def counts(m: int = 30, n: int = 12) -> Any:
    rng = np.random.default_rng(4)
    dense = rng.integers(1, 6, (m, n)) * (rng.random((m, n)) < 0.5)
    return sp.csr_array(dense.astype(float))


# ---- indexes --------------------------------------------------------------------------------------------------------


def indexes() -> Iterator[Case]:
    from lfm_np import ann

    def vectors(both: Any) -> bool:
        V, U = (np.asarray(one, float) for one in both)
        f = model()
        lengths = np.linalg.norm(V, axis=1)
        scores = np.asarray(f.user_factors) @ np.asarray(f.item_factors).T + f.item_bias
        return near(lengths, np.full(40, lengths[0]), 1e-6) and near(U @ V.T, scores, 1e-5)

    yield _right("vectors of one length", lambda: (ann.item_vectors(model()), ann.user_vectors(model())), vectors)
    yield _either(
        "vectors of factors beyond float32",
        lambda: ann.item_vectors(model(scale=1e60)),
        lambda V: np.isfinite(V).all(),
        "float32|large|overflow",
        kind=(ValueError, ArithmeticError),
    )
    yield _right(
        "vectors of factors whose squares are beyond float32",
        lambda: ann.item_vectors(model(scale=1e25)),
        lambda V: np.isfinite(V).all() and near(V[:, :4], model(scale=1e25).item_factors, 1e-6),
    )
    makers: dict[str, Callable[[Factors], Any]] = {
        "usearch": lambda f: ann.usearch_index(f, num_threads=1),
        "faiss": lambda f: ann.faiss_index(f),
    }
    for name, make in makers.items():
        yield _right(
            f"{name} finds what is best, and no more than there is",
            lambda make=make: ann.search(make(model()), model(), [8, 0, 8], N=45),
            lambda found: (
                np.array_equal(found.ids, model().recommend([8, 0, 8], N=45).ids)
                and np.array_equal(found.scores, model().recommend([8, 0, 8], N=45).scores)
            ),
        )
        yield _either(
            f"{name}, an index of more items than the model",
            lambda make=make: ann.search(make(model()), model(n=10), [0], N=5),
            lambda found: found.ids.max() < 10,
            "index",
        )
        yield _refused(
            f"{name}, an index of other factors",
            lambda make=make: ann.search(make(model(k=6)), model(), [0], N=5),
            "index",
        )
    yield _refused("usearch, an option it has not", lambda: ann.usearch_index(model(), expansion=3), "expansion")
    yield _refused("faiss, no neighbours", lambda: ann.faiss_index(model(), connectivity=0), "connectivity")


# ---- estimators -----------------------------------------------------------------------------------------------------


def estimators() -> Iterator[Case]:
    if not installed("sklearn"):
        return
    from sklearn.base import clone
    from sklearn.exceptions import NotFittedError
    from sklearn.model_selection import GridSearchCV, cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer, MaxAbsScaler

    from lfm_np.sklearn import ALS, SGD, HeldOut

    words: dict[str, Any] = {"factors": 3, "regularization": 0.5, "iterations": 3, "random_state": 0, "dtype": float}

    def rows(found: np.ndarray) -> bool:
        V = ALS(**words).fit(counts()).item_factors_
        return near(found, solved(*grid(counts()), V, regularization=0.5))

    for name, form in {
        "a dense array": lambda: counts().toarray(),
        "a dense array of float32 in Fortran order": lambda: np.asfortranarray(counts().toarray().astype("f4")),
        "a csc matrix": lambda: sp.csc_matrix(counts()),
        "lists": lambda: counts().toarray().tolist(),
    }.items():
        yield Case(
            f"numbers of extras: fit_transform of {name}",
            lambda X: ALS(**words).fit_transform(X),
            Holds(lambda found, X: rows(found)),
            lambda form=form: {"X": form()},
        )

    def named(library: str) -> Any:
        import importlib

        columns = {f"film {j}": column for j, column in enumerate(counts().toarray().T)}
        frame = importlib.import_module(library).DataFrame(columns)
        als = ALS(**words).set_output(transform=library)
        return als.fit_transform(frame), als, frame

    for library in ("pandas", "polars"):
        yield _right(
            f"a frame of {library} in and out",
            lambda library=library: named(library),
            lambda found, library=library: (
                type(found[0]).__module__.startswith(library)
                and rows(found[0].to_numpy())
                and list(found[0].columns) == list(found[1].get_feature_names_out())
                and found[1].feature_names_in_.tolist() == [f"film {j}" for j in range(12)]
            ),
        )

    def renamed() -> Any:
        import pandas as pd

        frame = pd.DataFrame(counts().toarray(), columns=list("abcdefghijkl"))
        return ALS(**words).fit(frame).transform(frame[list("bacdefghijkl")])

    yield _refused("columns in another order", renamed, "feature names|order|columns")
    yield _refused(
        "rows of a model that is not fitted",
        lambda: ALS().transform(counts()),
        "fit",
        kind=(NotFittedError, ValueError),
    )
    yield _refused("rows over other items", lambda: ALS(**words).fit(counts()).transform(counts(n=13)), "13", "12")
    yield _refused("rows with a dislike", lambda: ALS(**words).fit(counts()).transform(-counts()), "negative|-")

    def copies(loss: Any) -> bool:
        first = SGD(loss, factors=3, epochs=2, random_state=5, regularization={"user": 0.1})
        second = clone(first).set_params(random_state=5)
        third = pickle.loads(pickle.dumps(first.fit(counts())))
        second.fit(counts())
        return np.array_equal(second.item_factors_, first.item_factors_) and np.array_equal(
            third.transform(counts()), second.transform(counts())
        )

    yield _right("clones and pickles", lambda: copies(losses.WARP(trials=3)))
    yield _right(
        "a pipeline that scales and takes logarithms",
        lambda: make_pipeline(
            FunctionTransformer(lambda X: X.log1p(), accept_sparse=True), MaxAbsScaler(), ALS(**words)
        ).fit_transform(counts()),
        lambda found: np.array_equal(found, ALS(**words).fit_transform(MaxAbsScaler().fit_transform(counts().log1p()))),
    )

    def searched() -> Any:
        grid_ = {"als__regularization": [0.1, 1e6], "als__weighting": ["ials", "hu-koren"]}
        pipe = make_pipeline(FunctionTransformer(accept_sparse=True), ALS(**words))
        return GridSearchCV(pipe, grid_, scoring=HeldOut("ndcg@5"), cv=3, error_score="raise").fit(counts(60))

    yield _right(
        "a search through a pipeline",
        searched,
        lambda s: np.isfinite(s.cv_results_["mean_test_score"]).all() and 0 < s.best_score_ <= 1,
    )

    def hidden(estimator: Any) -> np.ndarray:
        return cross_val_score(estimator, counts(60), scoring=HeldOut("neg_root_mean_squared_error"), cv=3)

    yield _right(
        "errors of hidden ratings",
        lambda: hidden(ALS(**{**words, "regularization": 1e12}, weighting="ratings")),
        lambda found: near(found, np.full(3, found.mean()), 0.25) and (found < -2.5).all() and (found > -4.5).all(),
    )
    yield _refused(
        "a score that nobody knows", lambda: HeldOut("accuracy")(ALS(**words).fit(counts()), counts()), "accuracy"
    )
    yield _refused(
        "hiding everything",
        lambda: HeldOut("ndcg@5", test_fraction=1.5)(ALS(**words).fit(counts()), counts()),
        "test_fraction",
    )
    yield _refused(
        "folding in by a word that is none",
        lambda: SGD(factors=3, epochs=1, fold_in={"lambda": 1}).fit(counts()).transform(counts()),
        "fold_in|lambda",
    )


# ---- pictures -------------------------------------------------------------------------------------------------------


def pictures() -> Iterator[Case]:
    from lfm_np import plots

    def line(ax: Any, which: int = 0) -> tuple[np.ndarray, np.ndarray]:
        found = ax.get_lines()[which]
        return np.asarray(found.get_xdata(), float), np.asarray(found.get_ydata(), float)

    yield _right(
        "singular values, more factors than items",
        lambda: line(plots.factor_spectrum(model(30, 5, 8)))[1],
        lambda found: (
            near(found[:5], np.linalg.svd(model(30, 5, 8).user_factors @ model(30, 5, 8).item_factors.T)[1], 1e-6)
            and not (found[5:] > 1e-6 * found[0]).any(),  # of zero there is no logarithm
        ),
    )

    def shown(xy: Any) -> bool:
        f = model()
        S = np.asarray(f.user_factors) @ np.asarray(f.item_factors).T + f.item_bias
        shares = {n: len({i for s in S for i in best(s, np.ones(40, bool), n)}) / 40 for n in range(1, 13)}
        return all(math.isclose(y, shares[round(x)]) for x, y in zip(*xy, strict=True)) and 12 in xy[0]

    yield _right("coverage", lambda: line(plots.coverage(model(), N=12)), shown)
    test = sp.csr_array((np.random.default_rng(0).random((9, 40)) < 0.2).astype(float))
    yield _right(
        "a metric at cutoffs in any order",
        lambda: line(plots.metric_at_n(model(), None, test, "precision", N=(7, 1, 3))),
        lambda xy: (
            all(
                math.isclose(
                    y, lfm_np.evaluate(model(), None, test, [f"precision@{round(x)}"])[f"precision@{round(x)}"]
                )
                for x, y in zip(*xy, strict=True)
            )
            and sorted(xy[0]) == [1, 3, 7]
        ),
    )
    yield _refused("a cutoff of zero", lambda: plots.metric_at_n(model(), None, test, N=(0, 5)), "N|@0")
    yield _refused(
        "three names for two curves", lambda: plots.coverage([model()] * 2, labels=["a", "b", "c"]), "labels"
    )
    yield _refused("a curve of no history", lambda: plots.training_curve(model()), "history")

    def drawn(labels: list[str]) -> bytes:
        ax = plots.item_map(model(9, 3), labels=labels)
        buffer = io.BytesIO()
        ax.figure.savefig(buffer, format="png")
        return buffer.getvalue()

    yield _right(
        "titles with dollars and braces",
        lambda: drawn(["$9.99 \\frac{", "A$$ and {x}^", "_private $1 $"]),
        lambda png: png.startswith(b"\x89PNG"),
    )
    yield _refused("fewer titles than items", lambda: plots.item_map(model(9, 3), labels=["a", "b"]), "labels", "3")

    def page() -> str:
        from lfm_np.report import write_report

        f = lfm_np.als(counts(), factors=3, iterations=2, random_state=0)
        held = sp.csr_array(np.eye(30, 12))
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "page.html")
            titles = [f"</title><script>alert({j})</script>\"'&" for j in range(12)]
            write_report(path, f, counts(), held, labels=titles, title="<img src=x onerror=alert(1)>")
            with open(path, encoding="utf-8") as file:
                return file.read()

    yield _right(
        "a page of titles that are scripts",
        page,
        lambda text: "<script>alert" not in text and "<img src=x" not in text and "&lt;img src=x" in text,
    )


# ---- data sets ------------------------------------------------------------------------------------------------------


class Evil:
    """Unpickled, it would leave a file."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (open, (self.path, "w"))


def local(name: str = "ml-100k.npz", **arrays: Any) -> tuple[Any, list[str]]:
    """What `movielens` makes of a local file, and the files that are there afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["LFM_NP_DATA"] = folder
        good = {"user": [1, 0, 1], "item": [0, 0, 2], "value": [3.0, 4.0, 5.0], "timestamp": [10, 20, 30]}
        good = {key: np.array(value) for key, value in good.items()} | arrays
        if "evil" in arrays:
            good = {**good, "value": np.array([Evil(os.path.join(folder, "ran"))] * 3)}
            del good["evil"]
        np.savez(os.path.join(folder, name), **{k: v for k, v in good.items() if v is not None})
        try:
            return lfm_np.datasets.movielens("100k"), sorted(os.listdir(folder))
        finally:
            if os.path.exists(os.path.join(folder, "ran")):
                raise SystemError("the file ran code")


def sets() -> Iterator[Case]:
    make, planted = lfm_np.datasets.make_interactions, lfm_np.datasets.planted

    def proper(pairs: np.ndarray, m: int, n: int, most: int) -> bool:
        rows = np.bincount(pairs[:, 0], minlength=m)
        distinct = len({tuple(pair) for pair in pairs.tolist()}) == len(pairs)
        ordered = pairs.tolist() == sorted(pairs.tolist())
        return bool(
            distinct
            and ordered
            and rows.min() >= 1
            and rows.max() <= most
            and pairs.min() >= 0
            and pairs[:, 1].max() < n
        )

    for m, n, most in ((1, 1, 1), (50, 1, 1), (300, 7, 7), (40, 3000, 2)):
        yield _right(
            f"made pairs, {m} × {n}, at most {most}",
            lambda m=m, n=n, most=most: make(m, n, most, random_state=np.random.SeedSequence(2**100)),
            lambda pairs, m=m, n=n, most=most: proper(pairs, m, n, most) and pairs.dtype == np.int32,
        )
    yield _refused("made pairs, more a row than columns", lambda: make(5, 3, 4), "max_j_per_i", "3")
    yield _right(
        "made pairs, cut in two",
        lambda: lfm_np.datasets.make_interactions_train_test(200, 20, 6, 0.99, random_state=1),
        lambda parts: (
            proper(parts[0], 200, 20, 6) and not set(map(tuple, parts[0].tolist())) & set(map(tuple, parts[1].tolist()))
        ),
    )
    yield _right(
        "planted, as full as it may be",
        lambda: planted(40, 20, 200, rank=20, tail=1.01, zipf=0, random_state=3),
        lambda d: d.shape == (40, 20) and abs(d.matrix.nnz - 200) <= 2 and set(d.matrix.data.tolist()) == {1.0},
    )
    for name, words, said in (
        ("more cells than a quarter", {"cells": 201}, "cells"),
        ("a tail of one", {"tail": 1}, "tail"),
        ("more topics than items", {"rank": 21}, "rank"),
    ):
        yield _refused(f"planted, {name}", lambda words=words: planted(40, 20, **{"cells": 100, **words}), said)
    yield _refused("MovieLens of a size that is none", lambda: lfm_np.datasets.movielens("1M"), "1M")
    yield _right(
        "MovieLens from a local file, one user without ratings",
        lambda: local(user=np.array([2, 0, 2], np.uint8))[0],
        lambda d: d.items.tolist() == [1, 3] or (d.items.tolist() == [1, 2, 3] and d.matrix.nnz == 3),
    )
    for name, arrays, said in (
        ("objects in it", {"evil": 1}, "value|pickle|object"),
        ("no items in it", {"item": None}, "item"),
        ("users of -1", {"user": np.array([0, -1, 1])}, "user"),
        ("users that are not whole", {"user": np.array([0, 0.5, 1])}, "user"),
        ("arrays of two lengths", {"value": np.ones(4)}, "value|length"),
        ("ratings that are infinite", {"value": np.array([1, np.inf, 2])}, "value|finite"),
    ):
        yield _refused(f"MovieLens from a local file with {name}", lambda arrays=arrays: local(**arrays), said)

    def bomb() -> Any:
        with tempfile.TemporaryDirectory() as folder:
            os.environ["LFM_NP_DATA"] = folder
            header = {"descr": "<i8", "fortran_order": False, "shape": (2**50,)}
            text = repr(header).encode().ljust(117) + b"\n"
            npy = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text
            with zipfile.ZipFile(os.path.join(folder, "ml-100k.npz"), "w") as file:
                for name in ("user", "item", "value", "timestamp"):
                    file.writestr(name + ".npy", npy)
            return lfm_np.datasets.movielens("100k")

    yield _refused("MovieLens from a local file that says it is huge", bomb, "ml-100k", kind=(ValueError, OSError))

    def archive() -> Any:
        with tempfile.TemporaryDirectory() as folder:
            os.environ["LFM_NP_DATA"] = folder
            with zipfile.ZipFile(os.path.join(folder, "ml-100k.zip"), "w") as file:
                file.writestr("ml-100k/u.data", "1\t2\tfive\t3\n")
            return lfm_np.datasets.movielens("100k")

    yield _refused("MovieLens from an archive with words for ratings", archive, "u.data|checksum|ml-100k")


# ---- losses and samplers --------------------------------------------------------------------------------------------


def formulas() -> Iterator[Case]:
    def stable(pair: Any) -> bool:
        return all(np.isfinite(value).all() for value in pair)

    for loss in (losses.BPR(), losses.WARP(), losses.MarginHinge(2.0)):
        yield _right(
            f"{type(loss).__name__} at scores of ±1e300",
            lambda loss=loss: np.array(
                [[loss.value(d), loss.gradient(d)] for d in (-1e300, -800.0, 0.0, 800.0, 1e300)]
            ),
            lambda found: stable(found) and (found[:, 0] >= 0).all() and (np.diff(found[:, 0]) <= 0).all(),
        )
    yield _right(
        "Poisson goes on as its tangent",
        lambda: [losses.Poisson().value(s, 2.0) for s in (29.0, 31.0, 33.0, 1000.0)],
        lambda v: (
            near(v[0], math.exp(29) - 58 + 2 * math.log(2) - 2)
            and near(v[2] - v[1], 2 * (math.exp(30) - 2))
            and near(v[3] - v[1], 969 * (math.exp(30) - 2))
        ),
    )
    drawn = np.array([1000.0, -1000.0, 0.5])
    yield _right(
        "softmax of scores far apart",
        lambda: losses.SampledSoftmax(temperature=0.5).gradient(3.0, drawn),
        lambda g: near(g[0], -2.0) and near(g[1], [2.0, 0, 0]) and abs(g[0] + g[1].sum()) < 1e-12,
    )
    yield _right(
        "cosines, formula",
        lambda: losses.CosineContrastive(margin=-0.5, weight=3.0).value(0.25, np.array([0.0, -0.75, 1.0])),
        lambda value: near(value, 0.75 + 3 * (0.5 + 1.5) / 3),
    )
    for name, loss, said in (
        ("a temperature of zero", losses.SampledSoftmax(temperature=0.0), "temperature"),
        ("a margin of NaN", losses.MarginHinge(margin=math.nan), "margin"),
        ("half a trial", losses.WARP(trials=1.5), "trials"),  # type: ignore[arg-type]
        ("a class instead of a loss", losses.BPR, "loss|BPR()"),
        ("the name of a loss", "bpr", "loss|bpr"),
    ):
        yield _refused(f"sgd, {name}", lambda loss=loss: lfm_np.sgd(counts(), loss, factors=2, epochs=1), said)
    for name, sampler, said in (
        ("no candidates", sampling.Hard(0), "candidates"),
        ("popularity to the -1", sampling.Popularity(-1.0), "beta"),
        ("popularity to the NaN", sampling.Popularity(math.nan), "beta"),
        ("a class instead of a sampler", sampling.Popularity, "sampler|Popularity()"),
    ):
        yield _refused(f"sgd, {name}", lambda s=sampler: lfm_np.sgd(counts(), sampler=s, factors=2, epochs=1), said)

    class Far:
        """Its slope is wrong below -3 only."""

        def value(self, difference: float) -> float:
            return (1.0 - difference) ** 2

        def gradient(self, difference: float) -> float:
            return -2.0 * (1.0 - difference) if difference > -3.0 else 0.0

    class Mixed:
        def value(self, score: float, target: float) -> float:
            return (score - target) ** 2

        def gradient(self, difference: float) -> float:
            return 2.0 * difference

    class Named:
        def value(self, s: float, x: float) -> float:
            return (s - x) ** 2

        def gradient(self, s: float, x: float) -> float:
            return 2.0 * (s - x)

    class Short:
        def value(self, positive: float, negatives: np.ndarray) -> float:
            return float(negatives.sum() - positive)

        def gradient(self, positive: float, negatives: np.ndarray) -> Any:
            return -1.0, np.ones(len(negatives) - 1)

    for loss, words in (
        (Far(), ("gradient",)),
        (Mixed(), ("gradient",)),
        (Named(), ("score",)),
        (Short(), ("gradient",)),
    ):
        name = type(loss).__name__
        yield _refused(f"a loss to check, {name}", lambda loss=loss: losses.check(loss), name, *words)
    yield _right(
        "every loss of the library passes its check",
        lambda: [losses.check(loss) for loss in (losses.Poisson(), losses.CosineContrastive(0.1, 0.5), losses.Hinge())],
    )


def cases() -> list[Case]:
    parts = (indexes, estimators, pictures, sets, formulas)
    return list(itertools.chain.from_iterable(part() for part in parts))
