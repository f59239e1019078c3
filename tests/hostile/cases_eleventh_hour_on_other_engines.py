"""The same programs by scikit-learn, torch and dask, each beside loops of its own in float64."""

from __future__ import annotations

import importlib
import itertools
import json
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

import lfm_np as _library

from .case import Case, Group, installed
from .cases_eleventh_hour_step_by_step import BUILT, PARTS, Alone, Huber
from .cases_eleventh_hour_with_clicks import FILM, SHOP, mask, product, soft_svd
from .cases_eleventh_hour_with_ratings import Rating
from .places import child
from .working_days import (
    NAN,
    Model,
    all_scores,
    best,
    close,
    csr,
    faultless,
    folder,
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
FACTORS = {"factors": 2, "iterations": 3, "dtype": "float64", "random_state": 1}


class TorchHuber(Huber):
    def torch_value(self, score: Any, target: Any) -> Any:
        import torch

        off = (score - target).abs()
        return torch.where(off < self.width, 0.5 * off**2, self.width * (off - 0.5 * self.width))


def _sk(name: str) -> Any:
    return getattr(importlib.import_module("lfm_np.sklearn"), name)


def _learn(name: str, attribute: str) -> Any:
    return getattr(importlib.import_module(f"sklearn.{name}"), attribute)


def _estimated(kind: str) -> list[str]:
    """Fitted to a table of any kind: new rows solved from the items, scores, lists, and names."""
    X, rows = stars(14, 9, seed=1), stars(4, 9, seed=2)
    rows[1] = NAN
    full, new = np.nan_to_num(X), np.nan_to_num(rows)
    tables: dict[str, Callable[[np.ndarray], Any]] = {
        "array": lambda Z: Z, "csr": sp.csr_array, "csc": sp.csc_matrix, "integers": lambda Z: Z.astype(np.int64),
        "pandas": lambda Z: importlib.import_module("pandas").DataFrame(Z, columns=[f"film {i}" for i in range(9)]),
    }  # fmt: skip
    make = tables[kind]
    model = _sk("ALS")(**FACTORS, **SHOP.words).fit(make(full))
    V = model.item_factors_
    U = SHOP.half(rows, V)
    S = model.inverse_transform(U)
    again = _sk("ALS")(**FACTORS, **SHOP.words).fit_transform(make(full))
    lists = model.fold_in_users(make(new)).recommend([2, 0], N=9, seen=sp.csr_array(new)).ids
    facts = {
        "items": close(V, SHOP.half(X.T, model.factors_.user_factors), 1e-8),
        "new": close(model.transform(make(new)), U, 1e-9),
        "scores": close(S, U @ V.T, 1e-12),
        "again": close(again, SHOP.half(X, V), 1e-9),
        "lists": lists.tolist() == [best((U @ V.T)[u], ~mask(rows)[u], 9) for u in (2, 0)],
        "told": model.n_features_in_ == 9 and model.n_iter_ == 3,
    }
    if kind == "pandas":
        facts["names"] = list(model.feature_names_in_) == [f"film {i}" for i in range(9)]
    return wrong(**facts)


def _estimated_ratings() -> list[str]:
    """A column more for the users' biases; scores with μ and both biases; the error of hidden ratings."""
    X = stars(16, 8, seed=3)
    loops = Rating(0.4, 1.0)
    model = _sk("ALS")(**FACTORS, **loops.words).fit(csr(X))
    V, b, mu = model.item_factors_, model.factors_.item_bias, model.factors_.global_bias
    rows = np.full((3, 8), NAN)
    rows[0, [1, 6]], rows[1, [0, 3]], rows[2, [7, 2]] = [5.0, 2.0], [1.0, 4.0], [3.0, 3.0]
    U, a = loops.half(rows, V, b, mu)
    given = model.transform(csr(rows))
    scored = _sk("HeldOut")("neg_root_mean_squared_error", test_fraction=0.5, random_state=4)(model, csr(rows))
    found = []
    for hidden in itertools.product(*(np.flatnonzero(mask(rows)[u]) for u in range(3))):
        kept = rows.copy()
        kept[range(3), hidden] = NAN
        P, p = loops.half(kept, V, b, mu)
        errors = [mu + p[u] + b[i] + P[u] @ V[i] - rows[u, i] for u, i in enumerate(hidden)]
        found.append(-float(np.sqrt(np.mean(np.square(errors)))))
    return wrong(
        given=close(given, np.column_stack([U, a]), 1e-9),
        scores=close(model.inverse_transform(given), mu + a[:, None] + b + U @ V.T, 1e-9),
        error=any(abs(scored - f) < 1e-9 for f in found),
    )


def _stepped(kind: str) -> list[str]:
    """New rows of a model of steps: by its own least squares, by those of iALS, or as one says."""
    X, rows = stars(12, 8, seed=4), stars(3, 8, seed=5)
    SGD = _sk("SGD")
    words = {"factors": 2, "epochs": 2, "dtype": "float64", "random_state": 0}
    if kind == "ratings":
        model = SGD(
            losses.Squared(), sampler=None, biases=True, regularization={"user": 0.3, "item": 0.1, "bias": 0.3}, **words
        )
    elif kind == "own":
        model = SGD(Huber(0.9), sampler=None, regularization={"user": 0.2}, **words)
    else:
        model = SGD(losses.BPR(), **words)
    own = Model("hu-koren", alpha=4.0, a0=0.5, lam=0.2, nu=0.0)
    if kind == "as one says":
        model.set_params(fold_in=own.words)
    model.fit(csr(X))
    V = model.item_factors_
    if kind in ("ratings", "own"):
        biased = kind == "ratings"
        b, mu = (model.factors_.item_bias, model.factors_.global_bias) if biased else (np.zeros(8), 0.0)
        U, a = Rating(0.3 if biased else 0.2, 1.0, biased).half(rows, V, b, mu)
        expected = np.column_stack([U, a]) if biased else U
    else:
        expected = (own if kind == "as one says" else Model("ials", 1.0, 1.0, 0.1, 1.0)).half(rows, V)
    return wrong(rows=close(model.transform(csr(rows)), expected, 1e-9))


def _two_tastes(users: int = 24, each: int = 5) -> np.ndarray:
    """Whoever likes one thing of a kind likes all of it."""
    X: np.ndarray = np.kron(np.eye(2), np.ones((1, each)))[np.arange(users) % 2]
    return X


def _searched() -> list[str]:
    """What is hidden of a taste is found first, in every fold, whatever the grid."""
    X = sp.csr_array(_two_tastes())
    HeldOut, ALS = _sk("HeldOut"), _sk("ALS")
    model = ALS(factors=2, regularization=0.1, random_state=0)
    parts = _learn("model_selection", "cross_val_score")(model, X, scoring=HeldOut("recall@1"), cv=4)
    two = HeldOut("recall@2", test_fraction=0.4, random_state=3)(model.fit(X), X)
    auc = HeldOut("auc", test_fraction=0.6)(model, X)
    search = _learn("model_selection", "GridSearchCV")(
        model, {"regularization": [0.1, 0.2], "weighting": ["ials", "hu-koren"]}, scoring=HeldOut("map@5"), cv=3
    ).fit(X)
    return wrong(
        parts=parts.tolist() == [1.0] * 4, two=two == 1.0, auc=auc == 1.0, own=close(model.score(X), 1.0, 1e-12),
        grid=search.best_score_ == 1.0 and len(search.cv_results_["params"]) == 4,
        best=close(search.best_estimator_.transform(X).shape, (24, 2), 0),
    )  # fmt: skip


def _piped() -> list[str]:
    """A logarithm before the fit, in a pipeline that is copied and told another λ."""
    X, rows = stars(15, 9, seed=6), stars(3, 9, seed=7)
    log = _learn("preprocessing", "FunctionTransformer")(lambda Z: Z.log1p())
    pipe = _learn("pipeline", "Pipeline")([("log", log), ("als", _sk("ALS")(**FACTORS, **FILM.words))])
    other = _learn("base", "clone")(pipe).set_params(als__regularization=0.7)
    full, new = sp.csr_array(np.nan_to_num(X)), sp.csr_array(np.nan_to_num(rows))
    pipe.fit(full)
    other.fit(full)
    facts = {}
    X, rows = (np.where(mask(Z), np.log1p(np.nan_to_num(Z)), NAN) for Z in (X, rows))
    for name, fitted, model in (("first", pipe, FILM), ("other", other, FILM._replace(lam=0.7))):
        V, U = fitted[-1].item_factors_, fitted[-1].factors_.user_factors
        facts[f"{name} items"] = close(V, model.half(X.T, U), 1e-8)
        facts[f"{name} rows"] = close(fitted.transform(new), model.half(rows, V), 1e-9)
    told = pipe[-1].get_params()
    return wrong(
        **facts, told=told["regularization"] == FILM.lam and told["alpha"] == FILM.alpha and told["factors"] == 2
    )


def _by_torch(weighting: str) -> list[str]:
    """Two sweeps in the smallest batches; the objectives; a newcomer and a file."""
    model = Model(weighting, alpha=1.3, a0=0.6, lam=0.3, nu=0.0 if weighting == "hu-koren" else 0.8)
    X, rows = stars(22, 13, seed=8), stars(2, 13, seed=9)
    fit = lfm_np.torch_backend.als(
        csr(X), factors=4, iterations=2, init=start(22, 13, 4), dtype="float64", memory_budget=1 << 20, **model.words
    )
    _, V1 = model.sweeps(X, start(22, 13, 4)[1], 1)
    U, V = model.sweeps(X, start(22, 13, 4)[1], 2)
    with folder() as place:
        fit.save(place / "m")
        read = lfm_np.Factors.load(place / "m")
    return wrong(
        scores=close(product(fit), U @ V.T, 1e-8),
        objective=close(fit.history[1]["objective"], model.objective(X, U, V), 1e-9),
        users=close(fit.history[1]["objective_users"], model.objective(X, U, V1), 1e-9), file=same(read, fit),
        new=close(read.fold_in_users(csr(rows)).user_factors, model.half(rows, fit.item_factors), 1e-9),
    )  # fmt: skip


def _ratings_by_torch() -> list[str]:
    """Biases, ν, a rating of zero, who rated nothing, and a break."""
    X = stars(15, 9, seed=10)
    X[4], X[0, 0] = NAN, 0.0
    loops = Rating(0.3, 1.0)
    U, V, a, b, mu = loops.sweeps(X, start(15, 9, 2)[1], np.zeros(9), 3)
    words: dict[str, Any] = {"factors": 2, "init": start(15, 9, 2), "dtype": "float64", "num_threads": 1, **loops.words}
    solve = lfm_np.torch_backend.als
    with folder() as place:
        solve(csr(X), iterations=1, checkpoint=place / "c", **words)
        fit = solve(csr(X), iterations=3, checkpoint=place / "c", **words)
    return wrong(
        scores=close(all_scores(fit), mu + a[:, None] + b + U @ V.T, 1e-8), biases=close(fit.user_bias, a, 1e-8),
        whole=close(all_scores(solve(csr(X), iterations=3, **words)), all_scores(fit), 1e-12),
        objective=close(fit.history[-1]["objective"], loops.objective(X, U, V, a, b, mu), 1e-9),
    )  # fmt: skip


def _steps_by_torch(name: str, schedule: str, biases: Any, batch: Any) -> list[str]:
    """Cells that share nothing, in batches of any size."""
    way = Alone(45, seed=12, whole=name != "Huber")
    own = {**BUILT, "Huber": TorchHuber(0.7)}
    lam = {} if schedule == "adagrad" else PARTS
    way.mu = float(way.x.mean()) if biases is True else 0.0
    begin, X = way.init(biases), way.X
    way.walk(name, 0.06, 4, lam, schedule, biases)
    fit = lfm_np.torch_backend.sgd(
        X, own[name], sampler=None, factors=3, epochs=4, learning_rate=0.06, schedule=schedule, biases=biases,
        regularization=lam or 0.0, init=begin, dtype="float64", random_state=3, batch_size=batch,
    )  # fmt: skip
    return wrong(
        scores=close(all_scores(fit), way.scores(biases), 1e-9),
        paid=close([r["sampled_loss"] for r in fit.history], way.paid, 1e-9),
    )


def _checked() -> list[str]:
    """A cross-check of one's own matrix: every row within its tolerance, and the same in JSON."""
    X = csr(stars(30, 12, seed=3)).astype(np.float32)
    check = lfm_np.torch_backend.crosscheck(X, factors=3, sweeps=1, random_state=5, num_threads=1)
    json.loads(check.to_json())
    return wrong(
        passed=check.passed and all(row.error <= row.tolerance for row in check.rows),
        rows=len(check.rows) > 10,
        unchanged=X.data.min() >= 1,
    )  # fmt: skip


def _apart(work: Callable[[Path, Any], list[str]]) -> Callable[[], list[str]]:
    """With a cluster in a process of its own, whose threads end with it."""

    def call() -> list[str]:
        with folder() as place, warnings.catch_warnings():
            warnings.simplefilter("ignore")

            def inside() -> bool:
                distributed = importlib.import_module("distributed")
                try:
                    with distributed.Client(
                        processes=False, n_workers=2, threads_per_worker=1, dashboard_address=":0"
                    ) as client:
                        found = work(place, client)
                except BaseException as error:
                    found = [repr(error)]
                (place / "found.json").write_text(json.dumps(found))
                return True

            status = child(inside)
            return list(json.loads((place / "found.json").read_text())) if status == 0 else [f"exit status {status}"]

    return call


def _clustered(place: Path, client: Any) -> list[str]:
    """Clicks in three shards, ν, and a callback that stops; more shards than rows."""
    X = stars(23, 9, seed=1)
    seen: list[float] = []

    def watch(record: dict[str, Any], factors: Any) -> None:
        seen.append(FILM.objective(X, factors.user_factors, factors.item_factors))
        if len(seen) == 2:
            raise StopIteration

    words: dict[str, Any] = {"client": client, "factors": 3, "init": start(23, 9, 3), "dtype": "float64", **FILM.words}
    fit = lfm_np.distributed.als(csr(X), shards=3, iterations=5, callback=watch, **words)
    many = lfm_np.distributed.als(csr(X), shards=50, iterations=2, **words)
    U, V = FILM.sweeps(X, start(23, 9, 3)[1], 2)
    return wrong(
        scores=close(product(fit), U @ V.T, 1e-8), many=close(product(many), U @ V.T, 1e-8),
        seen=close(seen, [r["objective"] for r in fit.history], 1e-9), status=fit.status == lfm_np.Status.STOPPED,
    )  # fmt: skip


def _clustered_ratings(place: Path, client: Any) -> list[str]:
    """Biases and zeros, a break, users into a file."""
    X = stars(19, 8, seed=2)
    X[3, 3] = 0.0
    loops = Rating(0.3, 0.5)
    U, V, a, b, mu = loops.sweeps(X, start(19, 8, 2)[1], np.zeros(8), 3)
    words: dict[str, Any] = {
        "client": client,
        "shards": 2,
        "factors": 2,
        "init": start(19, 8, 2),
        "dtype": "float64",
        **loops.words,
    }
    words["checkpoint_every"] = 1
    solve = lfm_np.distributed.als
    solve(csr(X), iterations=1, checkpoint=place / "c", **words)
    fit = solve(csr(X), iterations=3, checkpoint=place / "c", users_to=place / "users.npy", **words)
    whole = solve(csr(X), iterations=3, **words)
    other = raised(lambda: solve(csr(X), iterations=3, checkpoint=place / "c", **{**words, "regularization": 0.4}))
    return wrong(
        scores=close(all_scores(fit), mu + a[:, None] + b + U @ V.T, 1e-8), bits=same(fit, whole),
        file=close(np.load(place / "users.npy")[:, :2], fit.user_factors, 1e-12), other=tells(other, "regularization"),
        objective=close(fit.history[-1]["objective"], loops.objective(X, U, V, a, b, mu), 1e-9),
    )  # fmt: skip


def _clustered_files(place: Path, client: Any) -> list[str]:
    """Records of a user in several files, split by users first; ids in the order of the rows."""
    import pyarrow
    import pyarrow.parquet

    X = stars(17, 7, seed=3)
    cells = list(zip(*np.nonzero(mask(X)), strict=True))
    (place / "in").mkdir()
    for part in range(3):
        some = cells[part::3] + cells[:4]
        who, what = [f"user {u}" for u, _ in some], [int(i) * 7 for _, i in some]
        table = pyarrow.table({"who": who, "what": what, "n": [float(X[u, i]) for u, i in some]})
        pyarrow.parquet.write_table(table, place / "in" / f"{part}.parquet")
    data = lfm_np.distributed.from_parquet(
        place / "in",
        client=client,
        shards=2,
        staging=place / "out",
        user="who",
        item="what",
        value="n",
        duplicates="max",
    )
    users = [str(u) for u in data.users(client)]
    Z = X[[int(name.split()[1]) for name in users]]
    fit = lfm_np.distributed.als(
        data, client=client, factors=2, iterations=2, init=start(17, 7, 2), dtype="float64", **SHOP.words
    )
    U, V = SHOP.sweeps(Z, start(17, 7, 2)[1], 2)
    needed = raised(
        lambda: lfm_np.distributed.from_parquet(place / "in", client=client, user="who", item="what", value="n")
    )
    return wrong(
        users=sorted(users) == sorted(f"user {u}" for u in range(17)),
        items=list(data.items) == [i * 7 for i in range(7)],
        scores=close(product(fit), U @ V.T, 1e-8), shape=data.shape == (17, 7),
        rows=sum(data.rows) == 17, needed=tells(needed, "staging"),
    )  # fmt: skip


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    if installed("sklearn"):
        for kind in ("array", "csr", "csc", "integers", "pandas"):
            if kind != "pandas" or installed("pandas"):
                yield _holds(f"an estimator of {kind}", lambda a=kind: _estimated(a))
        yield _holds("an estimator of ratings with biases", _estimated_ratings)
        for kind in ("ratings", "own", "clicks", "as one says"):
            yield _holds(f"rows of a model of steps: {kind}", lambda a=kind: _stepped(a))
        yield _holds("two tastes in every fold", _searched)
        yield _holds("a pipeline with a logarithm", _piped)
    if installed("torch"):
        for weighting in ("hu-koren", "ials", "confidence"):
            yield _holds(f"by torch in small batches: {weighting}", lambda a=weighting: _by_torch(a))
        yield _holds("by torch: ratings with biases and a break", _ratings_by_torch)
        yield _holds("by torch: a soft SVD", lambda: soft_svd(lfm_np.torch_backend.als))
        for arguments in (
            ("Squared", "inverse", True, 7), ("weighted", "constant", "item", 1), ("Hinge", "adagrad", False, 100_000),
            ("Huber", "adagrad", False, None),
        ):  # fmt: skip
            yield _holds(f"by torch: steps apart, {arguments}", lambda a=arguments: _steps_by_torch(*a))
        yield _holds("by torch: a check of one's own matrix", _checked)
    if installed("distributed"):
        yield _holds("on a cluster: clicks", _apart(_clustered))
        yield _holds("on a cluster: ratings", _apart(_clustered_ratings))
        if installed("pyarrow"):
            yield _holds("on a cluster: files", _apart(_clustered_files))
