"""torch's tensors and global settings, and what scikit-learn's tools do with an estimator."""

from __future__ import annotations

import importlib.util
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import scipy.sparse as sp

import lfm_np

from .case import Case, Either, Group, Holds, raises
from .cases_odd_matrices import BAD, WORDS, finite, same_scores
from .matrices import M, N, plain

_refused, _right = Group("other packages").refused, Group("other packages").right


def tals(X: Any = None, **words: Any) -> lfm_np.Factors:
    return lfm_np.torch_backend.als(plain() if X is None else X, **{"iterations": 2} | WORDS | words)


def tsgd(X: Any = None, **words: Any) -> lfm_np.Factors:
    return lfm_np.torch_backend.sgd(plain() if X is None else X, **{"epochs": 2} | WORDS | words)


def _set(change: Callable[[Any], Any], get: Callable[[], Any], new: Any, fit: Any) -> Callable[[], Any]:
    """The scores and whether a global setting of torch is as it was, of a fit under it."""

    def run() -> bool:
        wanted, old = fit(), get()
        change(new)
        try:
            found = fit()
            return same_scores(found, wanted) and get() == new
        finally:
            change(old)

    return run


def torch() -> Iterator[Case]:
    import torch

    dense = torch.tensor(plain().toarray())
    for name, make in {
        "a dense tensor": lambda: dense,
        "a CSR tensor": lambda: _sparse(dense),
        "a COO tensor": dense.to_sparse,
        "a module": lambda: torch,
        "a parameter": lambda: torch.nn.Parameter(dense),
    }.items():
        for fit in (tals, tsgd, lambda X: lfm_np.als(X, factors=2)):
            yield _refused(
                f"X {name}, {getattr(fit, '__name__', 'als').strip('<>')}", lambda f=fit, m=make: f(m()), "X"
            )
    for name, words, word in (
        ("dtype of torch", {"dtype": torch.float32}, "dtype"),
        ("dtype half", {"dtype": torch.float16}, "dtype"),
        ("a generator of torch", {"random_state": torch.Generator()}, "random_state"),
        ("factors a tensor", {"factors": torch.tensor([3])}, "factors"),
        ("lambda nan", {"regularization": torch.nan}, "regularization"),
        ("init of half a tensor", {"init": (torch.zeros(M, 3),)}, "init"),
        ("device a dtype", {"device": torch.float32}, "device"),
    ):
        yield _refused(name, lambda w=words: tals(**w), word)
    tensors = torch.full((M, 3), 0.1), torch.full((N, 3), 0.1)
    yield Case(
        "other packages: init of tensors",
        lambda: tals(init=tensors),
        Either(Holds(lambda f: same_scores(f, tals(init=tuple(t.numpy() for t in tensors)))), raises(BAD, "init")),
    )
    yield _right("device of torch", lambda: tals(device=torch.device("cpu")), lambda f: same_scores(f, tals()))
    yield _right("threads of torch as before", lambda: _threads(torch))
    for fit in (tals, tsgd):
        name = fit.__name__
        yield _right(f"{name}, random state of torch as before", lambda f=fit: _state(torch, f))
        for what, case in {
            "default dtype": _set(torch.set_default_dtype, torch.get_default_dtype, torch.float64, fit),
            "no gradients": _set(torch.set_grad_enabled, torch.is_grad_enabled, False, fit),
            "default device": _set(torch.set_default_device, torch.get_default_device, torch.device("meta"), fit),
            "deterministic": _set(
                torch.use_deterministic_algorithms, torch.are_deterministic_algorithms_enabled, True, fit
            ),
        }.items():
            yield _right(f"{name}, {what}", case)
        yield _right(
            f"{name}, inference mode", lambda f=fit: _inference(torch, f), lambda f, fit=fit: same_scores(f, fit())
        )
        for shape in ((0, 0), (1, 1), (0, 3), (3, 0)):
            X = sp.csr_array(np.ones(shape, np.float32))
            yield _right(
                f"{name}, shape {shape}", lambda f=fit, X=X: f(X), lambda r, s=shape: r.shape == s and finite(r)
            )


def _sparse(dense: Any) -> Any:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, of a feature in beta
        return dense.to_sparse_csr()


def _threads(torch: Any) -> bool:
    before = torch.get_num_threads()
    tals(num_threads=1)
    return torch.get_num_threads() == before


def _state(torch: Any, fit: Any) -> bool:
    before = torch.get_rng_state()
    fit()
    return bool((torch.get_rng_state() == before).all())


def _inference(torch: Any, fit: Any) -> Any:
    with torch.inference_mode():
        return fit()


def sklearn() -> Iterator[Case]:
    import pandas as pd
    from sklearn.base import clone
    from sklearn.model_selection import GridSearchCV, cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer

    from lfm_np.sklearn import ALS, SGD, HeldOut

    make = lambda **words: ALS(**{"factors": 3, "iterations": 2, "random_state": 0, "num_threads": 1} | words)  # noqa: E731
    X = plain()
    wanted = make().fit_transform(X)
    equal = lambda U: np.allclose(np.asarray(U), wanted, atol=1e-5)  # noqa: E731
    for name, call in {
        "clone": lambda: clone(make()).fit_transform(X),
        "pickle": lambda: pickle.loads(pickle.dumps(make().fit(X))).transform(X),
        "fitted twice": lambda: make().fit(X[:5]).fit(X).transform(X),
        "dense": lambda: make().fit_transform(X.toarray()),
        "a pipeline": lambda: make_pipeline(FunctionTransformer(accept_sparse=True), make()).fit_transform(X),
        "y that is not looked at": lambda: make().fit(X, y=np.full(M, np.nan)).transform(X),
        "a frame": lambda: make().fit_transform(pd.DataFrame(X.toarray())),
        "output of pandas": lambda: make().set_output(transform="pandas").fit_transform(X),
        "lists": lambda: make().fit_transform(X.toarray().tolist()),
    }.items():
        yield _right(f"sklearn, {name}", call, equal)
    for name, call, word in (
        ("a flat row", lambda: make().fit(X).transform(np.ones(N)), "2d|dimension|reshape"),
        ("three dimensions", lambda: make().fit(np.ones((2, 3, 4))), "dim"),
        ("an unknown parameter", lambda: make().set_params(facotrs=3), "facotrs"),
        ("text", lambda: make().fit(np.array([["a", "b"]])), "x|numeric|convert"),
        ("no rows", lambda: make().fit(np.ones((0, 3))), "0 sample|rows|empty"),
        ("a metric unknown", lambda: HeldOut("f1@5")(make().fit(X), X), "metric"),
        ("a fraction of 1", lambda: HeldOut(test_fraction=1.0)(make().fit(X), X), "test_fraction"),
        ("a fraction of nan", lambda: HeldOut(test_fraction=np.nan)(make().fit(X), X), "test_fraction"),
        (
            "other names",
            lambda: make().fit(pd.DataFrame({"a": [1, 2], "b": [1, 0]})).transform(pd.DataFrame({"a": [1], "c": [2]})),
            "feature",
        ),
        ("fold_in text", lambda: SGD(factors=2, epochs=1, fold_in="als").fit(X).transform(X), "fold_in"),
        ("fold_in odd", lambda: SGD(factors=2, epochs=1, fold_in={"lambda": 1}).fit(X).transform(X), "fold_in|lambda"),
        (
            "nothing to hide",
            lambda: HeldOut()(make().fit(X), sp.csr_array((3, N), dtype=np.float32)),
            "x|test|user|cell",
        ),
    ):
        yield _refused(f"sklearn, {name}", call, word)
    search = lambda **grid: GridSearchCV(make(), grid, scoring=HeldOut("recall@5"), cv=2, error_score="raise").fit(X)  # noqa: E731
    yield _right("sklearn, a search", lambda: search(factors=[1, np.int64(2)]).best_params_["factors"] in (1, 2))
    yield _refused("sklearn, a search beyond", lambda: search(factors=[1, -2]), "factors")
    yield _right("sklearn, scores", lambda: cross_val_score(make(), X, scoring=HeldOut(), cv=2).shape == (2,))


def cases() -> list[Case]:
    found = list(torch()) if importlib.util.find_spec("torch") else []
    return found + (list(sklearn()) if all(map(importlib.util.find_spec, ("sklearn", "pandas"))) else [])
