"""Odd input to what needs an extra: torch, indexes, scikit-learn and the command line."""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

import lfm_np

from .case import Case, Group, installed
from .cases_lists import model
from .cases_odd_arguments import EqualsAll, NoRepr
from .cases_odd_matrices import finite
from .matrices import M, N, plain

_refused, _right = Group("extras").refused, Group("extras").right
WORDS: dict[str, Any] = {"factors": 3, "random_state": 0, "num_threads": 1}


def torch() -> Iterator[Case]:
    for name, sweeps in (("als", "iterations"), ("sgd", "epochs")):
        fit = lambda name=name, sweeps=sweeps, **words: getattr(lfm_np.torch_backend, name)(  # noqa: E731
            plain(), **WORDS | {sweeps: 1} | words
        )
        for device in (
            "gpu",
            "cuda:99",
            "cpu:1:2",
            "",
            "CPU\0",
            0,
            None,
            ["cpu"],
            b"cpu",
            NoRepr(),
            "meta",
            "xla",
            "cuda:-1",
        ):
            yield _refused(
                f"torch {name}, device {type(device).__name__} {device if type(device) is str else ''!r}",
                lambda d=device, f=fit: f(device=d),
                "device",
            )
        for budget in (0, -1, 1.5, True, "1G", np.inf, 2**10):
            yield _refused(
                f"torch {name}, memory_budget {budget!r}", lambda b=budget, f=fit: f(memory_budget=b), "memory_budget"
            )
        yield _right(f"torch {name}, memory_budget 2^62", lambda f=fit: f(memory_budget=2**62), finite)
        for budget in (np.int64(1 << 20), np.uint64(1 << 21)):
            yield _right(f"torch {name}, memory_budget {budget!r}", lambda b=budget, f=fit: f(memory_budget=b), finite)
    for size in (0, -1, 1.5, True, "64"):
        yield _refused(
            f"torch sgd, batch_size {size!r}",
            lambda s=size: lfm_np.torch_backend.sgd(plain(), batch_size=s, **WORDS),
            "batch_size",
        )
    yield _right(
        "torch sgd, batch_size 2^62",
        lambda: lfm_np.torch_backend.sgd(plain(), batch_size=2**62, epochs=1, **WORDS),
        finite,
    )


def sklearn() -> Iterator[Case]:
    from lfm_np.sklearn import ALS

    make = lambda **words: ALS(**{"factors": 3, "iterations": 1, "random_state": 0} | words)  # noqa: E731
    for name, words, X, word in (
        ("factors text", {"factors": "3"}, plain(), "factors"),
        ("nothing", {}, None, "X"),
        ("nan", {}, plain() * np.nan, "X"),
        ("text", {}, "X", "X"),
        ("equal to all", {"solver": EqualsAll()}, plain(), "solver"),
        ("no repr", {"weighting": NoRepr()}, plain(), "weighting"),
    ):
        yield _refused(f"sklearn, {name}", lambda w=words, X=X: make(**w).fit(X), word)
    yield _refused("sklearn, transform before fit", lambda: make().transform(plain()), "fit")
    yield _refused(
        "sklearn, other width", lambda: make().fit(plain()).transform(sp.csr_array((2, N + 1))), "feature|column|shape"
    )
    yield _right(
        "sklearn, NumPy's words",
        lambda: make(solver=np.str_("cg")).fit(plain()).transform(plain()),
        lambda U: U.shape == (M, 3),
    )


def indexes() -> Iterator[Case]:
    f = model()
    for name, users in {
        "nan": [np.nan],
        "beyond": [M],
        "negative": [-1],
        "bool": [True],
        "generator": (u for u in [1]),
    }.items():
        yield _refused(f"ann, users {name}", lambda u=users: lfm_np.ann.user_vectors(f, u), "users")
    for name, index in {"none": None, "text": "index", "array": np.ones((3, 4)), "no repr": NoRepr()}.items():
        yield _refused(f"ann, index {name}", lambda i=index: lfm_np.ann.search(i, f, [1]), "index")
    yield _refused("ann, factors none", lambda: lfm_np.ann.item_vectors(None), "factors")


def command(*words: str) -> tuple[int, str]:
    """Exit code and what was printed."""
    from lfm_np.cli import main

    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            code = main(list(words))
        except SystemExit as end:
            code = end.code
    return code, said.getvalue()


def told(word: str) -> Any:
    """A failure of one of the usual codes that names the word, without a traceback."""
    return lambda result: (
        result[0] not in (0, None) and word in result[1].lower() and "traceback" not in result[1].lower()
    )


def commands() -> Iterator[Case]:
    with tempfile.TemporaryDirectory() as folder:
        gone = str(Path(folder) / "gone")
    for name, words, word in (
        ("no file", ("fit", gone), "gone"),
        ("a folder", ("recommend", "/"), "/"),
        ("a device", ("recommend", "/dev/zero"), "/dev/zero"),
        ("k text", ("fit", gone, "--factors", "many"), "factors"),
        ("unknown command", ("fitt",), "fitt"),
        ("unknown option", ("fit", "--facotrs", "3"), "facotrs"),
    ):
        yield _right(f"command, {name}", lambda w=words: command(*w), told(word))


def cases() -> list[Case]:
    found = list(commands()) if installed("typer", "rich") else []
    for package, make in (("torch", torch), ("sklearn", sklearn), ("usearch", indexes)):
        if installed(package):
            found += make()
    return found
