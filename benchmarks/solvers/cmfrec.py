"""cmfrec: implicit-feedback ALS in C. Without a callback, every step fits anew, with half as many iterations more."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import numpy as np
import scipy.sparse as sp

import lfm_np
from benchmarks.solvers import Entry
from benchmarks.tasks import Task

PACKAGES = ("cmfrec",)


class Als:
    """The time of a step is the difference to the fit before; what is not part of an iteration cancels."""

    def __init__(self, train: sp.csr_array, task: Task, use_cg: bool) -> None:
        self._X, self._task, self._use_cg = sp.coo_matrix(train), task, use_cg
        self._model: Any = None
        self._iterations, self._before = 0, self._fit(0)

    def _fit(self, iterations: int) -> float:
        from cmfrec import CMF_implicit

        self._model = CMF_implicit(
            k=self._task.factors,
            lambda_=self._task.regularization,
            alpha=self._task.alpha,
            use_cg=self._use_cg,
            max_cg_steps=3,
            finalize_chol=False,
            niter=iterations,
            precompute_for_predictions=False,
            use_float=True,
            random_state=self._task.seed + 1,
            nthreads=self._task.threads,
        )
        started = time.perf_counter()
        self._model.fit(self._X)
        return time.perf_counter() - started

    def step(self) -> float:
        self._iterations += max(1, self._iterations // 2)  # 1, 2, 3, 4, 6, 9, 13, 19, …
        total = self._fit(self._iterations)
        spent, self._before = max(total - self._before, 0.0), total
        return spent

    def factors(self) -> lfm_np.Factors:
        return lfm_np.Factors(np.array(self._model.A_), np.array(self._model.B_))


SOLVERS = {
    "cmfrec-cholesky": Entry("als", partial(Als, use_cg=False), "exact"),
    "cmfrec-cg": Entry("als", partial(Als, use_cg=True), "inexact: 3 CG steps a row"),
}
