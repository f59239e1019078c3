"""The same problems on torch, on a dask cluster and in scikit-learn, beside least squares row by row."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import scipy.sparse as sp

import lfm_np
from lfm_np import losses

from .case import Case, installed
from .cases_fits_beside_lstsq import data, everything_in_one_row, start
from .cases_sgd_steps_by_hand import SLOPES, busy, diagonal, pairs_of, pairwise, pointwise, sigmoid
from .least_squares import BAD, Heading, biased_sweep, near, scores, sweeps

_of = Heading("on torch, dask and sklearn")


def torch_fit(X: Any, init: Any, **words: Any) -> lfm_np.Factors:
    return lfm_np.torch_backend.als(
        X,
        init=init,
        **{
            "factors": init[1].shape[1],
            "iterations": 1,
            "dtype": "float64",
            "solver": "exact",
            "num_threads": 1,
            **words,
        },
    )


def torch() -> Iterator[Case]:
    for weighting, words in (
        ("hu-koren", {"alpha": 40.0, "lam": 0.1, "nu": 1.0}),
        ("ials", {"a0": 0.01, "lam": 1.0}),
        ("confidence", {"alpha": 0.1, "a0": 10.0, "lam": 1.0}),
        ("ratings", {"lam": 0.2, "nu": 0.5}),
    ):
        ours = {"lam": "regularization", "nu": "regularization_exponent", "a0": "unobserved_weight"}
        asked = {ours.get(key, key): value for key, value in words.items()}
        for make in (data, lambda: {"X": everything_in_one_row(70), "init": start(12, 70, 5)}):
            yield _of.right(
                f"torch als, {weighting}, {make()['X'].shape[0]} rows",
                lambda X, init, w=weighting, a=asked: torch_fit(X, init, weighting=w, **a),
                lambda found, X, init, w=weighting, t=words: (
                    lambda U, V, J: (
                        near(scores(found), U @ V.T, 1e-8) and abs(found.history[0]["objective"] / J - 1) < 1e-8
                    )
                )(*sweeps(X, init[1], weighting=w, **t)),
                make,
            )
    yield _of.right(
        "torch als of ratings with biases, a MiB of budget",
        lambda X, init: torch_fit(X, init, weighting="ratings", biases=True, regularization=0.1, memory_budget=1 << 20),
        lambda found, X, init: near(scores(found), biased_sweep(X, init[1], 0.1, 0.0), 1e-8),
        data,
    )
    for name, (loss, slope) in SLOPES.items():
        yield _of.right(
            f"torch sgd, {name}, cells that share nothing",
            lambda X, init, loss=loss: torch_sgd(X, init, loss, sampler=None, epochs=3),
            lambda found, X, init, slope=slope: near(scores(found), pointwise(X, init, slope, 3), 1e-9),
            diagonal,
        )
    yield _of.right(
        "torch sgd, BPR, a user of two items",
        lambda X, init: torch_sgd(X, init, losses.BPR(), epochs=2),
        lambda found, X, init: near(scores(found), pairwise(init, lambda d: sigmoid(d) - 1), 1e-9),
        pairs_of,
    )
    yield _of.right("torch's own settings stay", settings, lambda same: same)
    yield _of.refused(
        "torch: a device that is not there",
        lambda X, init: torch_fit(X, init, device="cuda:99"),
        "device|cuda",
        make=data,
        kind=(*BAD, RuntimeError),
    )
    yield _of.refused(
        "torch: a device of no kind", lambda X, init: torch_fit(X, init, device="gpu"), "device", "gpu", make=data
    )
    yield _of.refused(
        "torch: a budget of nothing", lambda X, init: torch_fit(X, init, memory_budget=0), "memory_budget", make=data
    )
    yield _of.refused(
        "torch: batches of none",
        lambda X, init: torch_sgd(X, init, losses.BPR(), batch_size=0),
        "batch_size",
        make=pairs_of,
    )
    yield _of.refused(
        "torch: alpha beyond float32",
        lambda X, init: torch_fit(X, init, alpha=1e39, dtype="float32"),
        "alpha",
        make=data,
    )

    class Mine:
        def value(self, difference):
            return -difference

        def gradient(self, difference):
            return -1.0

    yield _of.refused(
        "torch: a loss without torch_value", lambda X: lfm_np.torch_backend.sgd(X, Mine()), "torch_value", make=busy
    )


def torch_sgd(X: Any, init: Any, loss: Any, **words: Any) -> lfm_np.Factors:
    words = {"factors": 3, "dtype": "float64", "epochs": 1, "random_state": 0, "learning_rate": 0.1, **words}
    return lfm_np.torch_backend.sgd(X, loss, init=init, num_threads=1, **words)


def settings() -> bool:
    import torch

    def now() -> Any:
        return (
            torch.get_num_threads(),
            torch.get_default_dtype(),
            torch.random.get_rng_state().tolist(),
            torch.is_grad_enabled(),
        )

    before = now()
    torch_fit(**data())
    torch_sgd(**pairs_of(), loss=losses.BPR())
    return now() == before


def clustered(X: Any, init: Any = None, **words: Any) -> Any:
    import distributed

    words = {"iterations": 1, "dtype": "float64", "random_state": 0, **words}
    with distributed.Client(
        processes=False, n_workers=2, threads_per_worker=1, dashboard_address=":0", set_as_default=False
    ) as client:
        return lfm_np.distributed.als(X, client=client, init=init, factors=init[1].shape[1] if init else 3, **words)


def dask() -> Iterator[Case]:
    for name, words in (("hu-koren", {"alpha": 4.0, "lam": 0.2}), ("ratings", {"lam": 0.2, "nu": 1.0})):
        ours = {"lam": "regularization", "nu": "regularization_exponent"}
        asked = {ours.get(key, key): value for key, value in words.items()}
        yield _of.right(
            f"dask, {name}, five shards",
            lambda X, init, w=name, a=asked: clustered(X, init, shards=5, weighting=w, **a),
            lambda found, X, init, w=name, t=words: (lambda U, V, J: near(scores(found), U @ V.T, 1e-8))(
                *sweeps(X, init[1], weighting=w, **t)
            ),
            data,
        )
    yield _of.right(
        "dask, more shards than rows, most of them empty",
        lambda X, init: clustered(X, init, shards=500, regularization=0.1),
        lambda found, X, init: (lambda U, V, J: near(scores(found), U @ V.T, 1e-8))(*sweeps(X, init[1], lam=0.1)),
        lambda: {"X": everything_in_one_row(9), "init": start(12, 9, 3)},
    )
    yield _of.refused(
        "dask: solver cg", lambda X: clustered(X, solver="cg"), "solver", "cg", make=lambda: {"X": data()["X"]}
    )


def estimators() -> Iterator[Case]:
    yield _of.right(
        "sklearn: transform is a half-step for rows that were not seen",
        lambda X: als_of(X),
        lambda found, X: near(found[0], found[1], 1e-6),
        lambda: {"X": data(40, 20)["X"]},
    )
    yield _of.refused(
        "sklearn: rows of other items",
        lambda X: model().fit(X).transform(X[:, :5]),
        "20|5|features|x",
        make=lambda: {"X": data()["X"]},
    )
    yield _of.refused(
        "sklearn: before fit",
        lambda X: model().transform(X),
        "fit",
        make=lambda: {"X": data()["X"]},
        kind=(*BAD, AttributeError),
    )
    yield _of.refused(
        "sklearn: a parameter that is wrong, by fit",
        lambda X: model(alpha=-1.0).fit(X),
        "alpha",
        make=lambda: {"X": data()["X"]},
    )
    yield _of.right(
        "sklearn: clones, searches and scores",
        search,
        lambda found: found[0] in (0.1, 100.0) and 0 <= found[1] <= 1,
    )


def model(**words: Any) -> Any:
    from lfm_np.sklearn import ALS

    return ALS(**{"factors": 3, "random_state": 0, "dtype": "float64", **words})


def als_of(X: Any) -> tuple[np.ndarray, np.ndarray]:
    fitted = model(regularization=0.5).fit(X[:30])
    return fitted.transform(X[30:]), fitted.factors_.fold_in_users(X[30:]).user_factors


def search() -> tuple[float, float]:
    from sklearn.base import clone
    from sklearn.model_selection import GridSearchCV

    from lfm_np.sklearn import HeldOut

    X = sp.csr_array((np.random.default_rng(0).random((60, 15)) < 0.4).astype(float))
    found = GridSearchCV(
        clone(model(num_threads=1)),
        {"regularization": [0.1, 100.0]},
        scoring=HeldOut("recall@5"),
        cv=2,
        error_score="raise",
    ).fit(X)
    return found.best_params_["regularization"], found.best_score_


def cases() -> list[Case]:
    found = list(torch()) if installed("torch") else []
    found += dask() if installed("distributed", "pyarrow") else []
    return found + (list(estimators()) if installed("sklearn") else [])
