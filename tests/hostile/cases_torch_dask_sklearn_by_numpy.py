"""torch, dask, scikit-learn and the vectors of `ann` beside the same NumPy as the functions of the core."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np
import scipy.sparse as sp

import lfm_np

from .case import Case, Either, Group, Holds, installed, raises
from .cases_normal_equations_by_numpy import WEIGHTINGS, close, matches, scores, start, swept, table
from .cases_single_steps_and_brute_lists import ETA, PARTS, SLOPES, U0, V0, stepped, x

_torch, _dask, _sklearn, _ann = map(Group, ("by NumPy, torch", "by NumPy, dask", "by NumPy, sklearn", "by NumPy, ann"))


def torch() -> Iterator[Case]:
    if not installed("torch"):
        return
    X, UV = table(12, 8, 4, 0.5), start(12, 8, 3)

    def als(**options: Any) -> Any:
        from lfm_np import torch_backend

        return torch_backend.als(X, **{"init": UV, "factors": 3, "dtype": "float64", "iterations": 2, **options})

    for weighting, kind in WEIGHTINGS.items():
        options = {
            "weighting": weighting,
            "regularization": 0.2,
            "regularization_exponent": 0.5,
            "iterations": 2,
            **kind,
        }
        yield _torch.right(f"als, {weighting}", lambda o=options: als(**o), matches(X, UV, options))

    def single(loss: Any) -> Any:
        from lfm_np import torch_backend

        return torch_backend.sgd(
            sp.csr_array(([x], [0], [0, 1]), (1, 2)), loss, init=(U0, V0), factors=3, learning_rate=ETA, epochs=3,
            schedule="inverse", dtype="float64", regularization=PARTS, biases="item", random_state=0,
        )  # fmt: skip

    for name in ("BPR weighted", "WARP", "Logistic weighted", "Poisson", "SampledSoftmax"):
        loss, slopes = SLOPES[name]
        want, found = stepped(slopes, 3, "inverse", PARTS)
        yield _torch.right(
            f"sgd, {name}",
            lambda loss=loss: single(loss),
            lambda f, w=want, s=found: (
                np.allclose(f.scores(0, [0, 1]), w, 1e-9)
                and np.allclose([r["sampled_loss"] for r in f.history], s, 1e-9)
            ),
        )

    def inference() -> Any:
        import torch

        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.float16)
        try:
            with torch.inference_mode():
                return als(), torch.get_default_dtype() == torch.float16, torch.is_inference_mode_enabled()
        finally:
            torch.set_default_dtype(before)

    yield _torch.right(
        "in inference mode, with halves by default",
        inference,
        lambda r: (
            close(scores(r[0]), scores(lfm_np.als(X, init=UV, factors=3, dtype="float64", iterations=2))) or not r[1]
        ),
    )
    for name, options in {
        "device": {"device": "warp:0"},
        "memory_budget": {"memory_budget": 10},
        "dtype": {"dtype": "bfloat16"},
        "regularization": {"regularization": float("nan")},
    }.items():
        yield _torch.refused(f"a wrong {name}", lambda o=options: als(**o), name)

    def wide(solver: str) -> Any:
        from lfm_np import torch_backend

        return getattr(torch_backend, solver)(sp.csr_array(([1.0], [2**30], [0, 1]), (1, 2**31 - 2)))

    for solver in ("als", "sgd"):
        yield _torch.refused(f"{solver} of a wide matrix", lambda s=solver: wide(s), "memory", kind=MemoryError)

    def cuda() -> Any:
        import torch

        return als(device="cuda:7") if not torch.cuda.is_available() else thrown()

    def thrown() -> Any:
        raise ValueError("device cuda")

    yield Case("by NumPy, torch: a device that is not there", cuda, raises((ValueError, RuntimeError), "cuda"))


def dask() -> Iterator[Case]:
    if not installed("distributed", "pyarrow", "narwhals"):
        return
    X, UV = table(40, 9, 4, 0.5), start(40, 9, 3)

    def on(call: Any) -> Any:
        import distributed

        with (
            tempfile.TemporaryDirectory() as folder,
            distributed.Client(
                processes=False, n_workers=2, threads_per_worker=1, dashboard_address=":0", local_directory=folder
            ) as client,
        ):
            return call(client, os.path.join(folder, "there"))

    def als(client: Any, X: Any = X, **options: Any) -> Any:
        from lfm_np import distributed

        return distributed.als(
            X, client=client, **{"init": UV, "factors": 3, "dtype": "float64", "iterations": 2, **options}
        )

    options = {"weighting": "ials", "alpha": 2.0, "unobserved_weight": 0.1, "regularization": 0.2, "iterations": 2}
    yield _dask.right(
        "als on 1, 3 and 40 shards",
        lambda: on(lambda client, _: [als(client, shards=s, **options) for s in (1, 3, 40)]),
        lambda fits: all(matches(X, UV, options)(f) for f in fits),
    )

    def records(client: Any, path: str) -> Any:
        import pyarrow as pa
        import pyarrow.parquet as pq

        from lfm_np import distributed

        C = X.tocoo()
        pq.write_to_dataset(pa.table({"user": [f"u{r:02}" for r in C.row], "item": C.col, "v": C.data}), path)
        data = distributed.from_parquet(path, client=client, value="v", staging=path + ".split", shards=3)
        rows, columns = [int(u[1:]) for u in data.users(client).tolist()], data.items
        f = als(client, data, init=(UV[0][rows], UV[1][columns]), weighting="ratings", regularization=0.3)
        return f, X[rows][:, columns], (UV[0][rows], UV[1][columns])

    def right(result: Any) -> bool:
        f, Y, init = result
        U, V, _ = swept(Y, init, 2, 0.3, weighting="ratings")
        return close(scores(f), U @ V.T)

    yield _dask.right("als of ratings in files", lambda: on(records), right)

    def mistakes(client: Any, path: str) -> list[str]:
        said = []
        als(client, checkpoint=path, shards=2)
        for options in (
            {"solver": "cg"},
            {"checkpoint": path, "shards": 3, "iterations": 4},
            {"checkpoint": path, "shards": 2, "iterations": 4, "alpha": 5.0},
            {"shards": 0},
            {"resume": "always"},
            {"checkpoint_every": 0},
        ):
            try:
                als(client, **options)
                said.append("")
            except (ValueError, TypeError) as error:
                said.append(str(error))
        return said

    yield _dask.right(
        "als, six mistakes",
        lambda: on(mistakes),
        lambda said: all(
            word in text
            for word, text in zip(("solver", "shards", "alpha", "shards", "resume", "checkpoint_every"), said)
        ),
    )


def sklearn() -> Iterator[Case]:
    if not installed("sklearn"):
        return
    X = table(40, 12, 3, 0.5)

    def fitted(**options: Any) -> Any:
        from lfm_np.sklearn import ALS

        return ALS(factors=3, random_state=0, dtype="float64", **options).fit(X[:30])

    def rows(result: Any) -> bool:
        model, U = result
        V = np.asarray(model.item_factors_, float)
        stored = X[30:].toarray() > 0
        want = [
            np.linalg.solve(V.T @ V + (V.T * (2 * a)) @ V + 0.5 * np.eye(3), V.T @ ((1 + 2 * a) * s))
            for a, s in zip(X[30:].toarray(), stored)
        ]
        return close(U, want, 1e-7)

    yield _sklearn.right(
        "transform solves rows that are new",
        lambda: (lambda m: (m, m.transform(X[30:])))(fitted(alpha=2.0, regularization=0.5)),
        rows,
    )

    def cloned() -> Any:
        from sklearn.base import clone

        a = clone(fitted(alpha=3.0)).set_params(regularization=0.2).fit(X)
        return a, lfm_np.als(X, factors=3, random_state=0, dtype="float64", alpha=3.0, regularization=0.2)

    yield _sklearn.right(
        "a clone with another λ", cloned, lambda r: np.array_equal(r[0].item_factors_, r[1].item_factors)
    )
    yield _sklearn.refused("rows of other items", lambda: fitted().transform(X[:, :5]), "5|features|12")
    yield Case(
        "by NumPy, sklearn: transform before fit",
        lambda: __import__("lfm_np.sklearn").sklearn.ALS().transform(X),
        raises((ValueError, AttributeError), "fit"),
    )
    yield _sklearn.refused("a parameter that is wrong is found by fit", lambda: fitted(alpha=-1.0), "alpha")

    def hidden() -> Any:
        from lfm_np.sklearn import HeldOut

        rated = fitted(weighting="ratings", regularization=0.5)
        return HeldOut("neg_root_mean_squared_error")(rated, X[30:]), HeldOut("ndcg@3")(rated, X[30:])

    yield _sklearn.right("scores of what was hidden", hidden, lambda r: -10 < r[0] < 0 <= r[1] <= 1)


def ann() -> Iterator[Case]:
    rng = np.random.default_rng(1)
    U, V, b = rng.normal(size=(6, 4)), rng.normal(size=(30, 4)), rng.normal(size=30)
    model = lfm_np.Factors(U, V, item_bias=b, user_bias=np.ones(6), global_bias=2.0)

    def vectors() -> Any:
        from lfm_np import ann

        return ann.item_vectors(model), ann.user_vectors(model)

    yield _ann.right(
        "vectors of one norm whose products are the scores",
        vectors,
        lambda r: (
            np.allclose(np.linalg.norm(r[0], axis=1), np.sqrt((V**2).sum(1) + b**2).max(), rtol=1e-5)
            and np.allclose(r[1] @ r[0].T, U @ V.T + b, atol=1e-4)
        ),
    )
    for package, make in {"usearch": "usearch_index", "faiss": "faiss_index"}.items():

        def found(make: str = make) -> Any:
            from lfm_np import ann

            return ann.search(getattr(ann, make)(model), model, np.arange(6), 40)

        if installed(package):
            yield Case(
                f"by NumPy, ann: {package}, more than there are",
                found,
                Either(
                    Holds(
                        lambda r: (
                            r.ids.shape == (6, 40)
                            and all(
                                np.allclose(s[i >= 0], (2 + 1 + U[u] @ V.T + b)[i[i >= 0]], atol=1e-6)
                                and (i >= 0).sum() <= 30
                                for u, (i, s) in enumerate(zip(*r))
                            )
                        )
                    ),
                    raises((ValueError,), "N"),
                ),
            )


def cases() -> list[Case]:
    return [*torch(), *dask(), *sklearn(), *ann()]
