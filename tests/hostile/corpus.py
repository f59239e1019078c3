"""Every case against lfm_np."""

from __future__ import annotations

import contextlib
import importlib
import os
from pathlib import Path

import numpy as np

import lfm_np

from . import matrices, problems
from .case import Case
from .solvers import solvers

HERE = Path(__file__).parent


def cases() -> list[Case]:
    found = [case for solver in solvers() for case in problems.cases(solver)]
    for path in sorted(HERE.glob("cases_*.py")):
        found += importlib.import_module(f"{__package__}.{path.stem}").cases()
    names = [case.name for case in found]
    repeated = {name for name in names if names.count(name) > 1}
    if repeated:
        raise ValueError(f"cases must have distinct names: {sorted(repeated)}")
    return found


PACKAGES = (
    "distributed", "faiss", "lfm_np.distributed", "lfm_np.report", "lfm_np.sklearn", "matplotlib.backends.backend_svg",
    "matplotlib.figure", "narwhals", "pandas", "polars", "pyarrow.dataset", "rich", "torch", "typer", "usearch.index",
)  # fmt: skip


def warm_up() -> None:
    """Load packages and, on one thread, kernels once, so that the forked processes have them.

    They are compiled in a process that ends: what a compiler leaves in memory makes every fork slower. Losses are
    not, which nothing keeps on disk.
    """
    for name in PACKAGES:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    compiles = os.fork()
    if not compiles:
        try:
            _run_kernels()
        finally:
            os._exit(0)
    os.waitpid(compiles, 0)
    _run_kernels()


def _run_kernels() -> None:
    for dtype in (np.float32, np.float64):
        for make in (matrices.plain, matrices.FINITE["full"]):  # short rows and long ones
            als = lfm_np.als(make(), factors=4, iterations=1, num_threads=1, dtype=dtype)
        for name in sorted({*lfm_np.losses.__all__} - {"check"}):
            loss = getattr(lfm_np.losses, name)()
            sgd = lfm_np.sgd(matrices.plain(), loss=loss, factors=4, epochs=1, num_threads=1, dtype=dtype)
        for factors in (als, sgd):
            factors.recommend([0], num_threads=1)
            factors.similar_items([0], num_threads=1)
            lfm_np.evaluate(factors, None, matrices.plain(), num_threads=1)
