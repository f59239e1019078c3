"""lightfm: BPR with Adagrad and Hogwild threads in Cython."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

import lfm_np
from benchmarks.solvers import Entry
from benchmarks.tasks import Task

PACKAGES = ("lightfm",)


class Bpr:
    def __init__(self, train: sp.csr_array, task: Task) -> None:
        from lightfm import LightFM

        coo = sp.coo_matrix(train)
        places = coo.row.astype(np.int32), coo.col.astype(np.int32)  # it takes no others
        self._X, self._threads = sp.coo_matrix((coo.data, places), shape=train.shape), task.threads
        self._model = LightFM(
            no_components=task.factors, loss="bpr", learning_rate=task.learning_rate, random_state=task.seed
        )

    def step(self) -> None:
        self._model.fit_partial(self._X, epochs=1, num_threads=self._threads)

    def factors(self) -> lfm_np.Factors:
        user_bias, U = self._model.get_user_representations()
        item_bias, V = self._model.get_item_representations()
        return lfm_np.Factors(U, V, user_bias=user_bias, item_bias=item_bias)


SOLVERS = {"lightfm-bpr": Entry("bpr", Bpr, "Adagrad, uniform negatives, Hogwild")}
