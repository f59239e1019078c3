"""implicit: ALS and BPR in Cython. Confidence is alpha·x, hence 1 + alpha here."""

from __future__ import annotations

from functools import partial
from typing import Any

import scipy.sparse as sp

import lfm_np
from benchmarks.solvers import Entry, Paused
from benchmarks.solvers.lfm_np_cpu import ENDLESS
from benchmarks.tasks import Task

PACKAGES = ("implicit",)


class Fit:
    def __init__(self, train: sp.csr_array, model: Any, biased: bool = False) -> None:
        self._model, self._biased, X = model, biased, sp.csr_matrix(train)
        self._paused = Paused(lambda pause: model.fit(X, show_progress=False, callback=pause))

    def end(self) -> None:
        self._paused.end()

    def step(self) -> float:
        return self._paused.step()[1]

    def factors(self) -> lfm_np.Factors:
        U, V = self._model.user_factors, self._model.item_factors
        if self._biased:  # BPR keeps the item biases in the last column, against ones
            return lfm_np.Factors(U[:, :-1].copy(), V[:, :-1].copy(), item_bias=V[:, -1].copy())
        return lfm_np.Factors(U.copy(), V.copy())


def als(train: sp.csr_array, task: Task, use_cg: bool) -> Fit:
    from implicit.cpu.als import AlternatingLeastSquares

    model = AlternatingLeastSquares(
        factors=task.factors,
        regularization=task.regularization,
        alpha=task.confidence,
        iterations=ENDLESS,
        use_cg=use_cg,
        num_threads=task.threads,
        random_state=task.seed,
    )
    return Fit(train, model)


def bpr(train: sp.csr_array, task: Task) -> Fit:
    from implicit.cpu.bpr import BayesianPersonalizedRanking

    model = BayesianPersonalizedRanking(
        factors=task.factors - 1,  # it adds a column for the item biases
        learning_rate=task.learning_rate,
        regularization=task.regularization,
        iterations=ENDLESS,
        verify_negative_samples=True,
        num_threads=task.threads,
        random_state=task.seed,
    )
    return Fit(train, model, biased=True)


SOLVERS = {
    "implicit-cholesky": Entry("als", partial(als, use_cg=False), "exact"),
    "implicit-cg": Entry("als", partial(als, use_cg=True), "inexact: 3 CG steps a row"),
    "implicit-bpr": Entry("bpr", bpr, "negatives ∝ popularity, verified; Hogwild"),
}
