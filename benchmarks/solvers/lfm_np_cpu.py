"""This library."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import scipy.sparse as sp

import lfm_np
from benchmarks.solvers import Entry, Paused
from benchmarks.tasks import Task

PACKAGES = ("lfm_np",)
ENDLESS = 1_000_000


def arguments(task: Task) -> dict[str, Any]:
    """The keywords that als and sgd, here and on torch, share."""
    if task.name == "als":
        own = {"alpha": task.alpha, "iterations": ENDLESS}
    else:
        own = {"learning_rate": task.learning_rate, "epochs": ENDLESS}
    return own | {"factors": task.factors, "regularization": task.regularization, "random_state": task.seed}


class Fit:
    """als or sgd, of either backend."""

    def __init__(self, train: sp.csr_array, fit: Any, options: dict[str, Any]) -> None:
        self._now: lfm_np.Factors | None = None
        self._wanted = False
        self._paused = Paused(lambda pause: fit(train, callback=lambda *both: self._look(pause, both), **options))

    def _look(self, pause: Any, both: tuple[dict[str, Any], lfm_np.Factors]) -> None:
        pause(*both)
        while self._wanted:  # factors can be looked at only while the callback runs
            self._wanted = False
            view = both[1]
            self._now = lfm_np.Factors(
                view.user_factors,
                view.item_factors,
                user_bias=view.user_bias,
                item_bias=view.item_bias,
                global_bias=view.global_bias,
            )
            pause(*both)

    def end(self) -> None:
        self._paused.end()

    def step(self) -> float:
        record, _ = self._paused.step()
        return record["seconds"]

    def factors(self) -> lfm_np.Factors:
        self._wanted = True
        self._paused.step()
        assert self._now is not None
        return self._now


def als(train: sp.csr_array, task: Task, solver: str = "exact") -> Fit:
    own = {"num_threads": task.threads, "dtype": np.float32, "solver": solver}
    return Fit(train, lfm_np.als, arguments(task) | own)


def sgd(train: sp.csr_array, task: Task) -> Fit:
    return Fit(train, lfm_np.sgd, arguments(task) | {"num_threads": task.threads, "dtype": np.float32})


SOLVERS = {
    "lfm_np": Entry("als", als, "exact"),
    "lfm_np-auto": Entry("als", partial(als, solver="auto"), "exact or CG, as the cost model says"),
    "lfm_np-cg": Entry("als", partial(als, solver="cg"), "inexact: 2 CG steps a row, or exact where that is cheaper"),
    "lfm_np-subspace": Entry("als", partial(als, solver="subspace"), "inexact: iALS++ by 64 factors, or exact"),
    "lfm_np-sgd": Entry("bpr", sgd, "verified negatives, deterministic"),
}
