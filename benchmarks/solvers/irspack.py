"""irspack: iALS in C++ with Eigen. Its "ORIGINAL" loss is Hu, Koren, Volinsky's; confidence is alpha0 + value."""

from __future__ import annotations

from functools import partial

import numpy as np
import scipy.sparse as sp

import lfm_np
from benchmarks.solvers import Entry
from benchmarks.tasks import Task

PACKAGES = ("irspack",)
CG_STEPS, SUBSPACE = 3, 64


class Als:
    def __init__(self, train: sp.csr_array, task: Task, solver: str) -> None:
        from irspack.recommenders.ials import IALSTrainer, LossType, str_to_solver_type

        self._trainer = IALSTrainer(
            X=sp.csr_matrix(train) * np.float32(task.alpha),
            n_components=task.factors,
            alpha0=1.0,
            reg=task.regularization,
            nu=0.0,
            init_std=0.1 / np.sqrt(task.factors),
            solver_type=str_to_solver_type(solver),
            max_cg_steps=CG_STEPS,
            ialspp_subspace_dimension=SUBSPACE,
            loss_type=LossType.ORIGINAL,
            random_seed=task.seed,
            n_threads=task.threads,
            prediction_time_max_cg_steps=CG_STEPS,
            prediction_time_ialspp_iteration=1,
        )

    def step(self) -> None:
        self._trainer.run_epoch()

    def factors(self) -> lfm_np.Factors:
        core = self._trainer.core_trainer
        return lfm_np.Factors(np.array(core.user), np.array(core.item))


SOLVERS = {
    "irspack-cholesky": Entry("als", partial(Als, solver="CHOLESKY"), "exact"),
    "irspack-subspace": Entry("als", partial(Als, solver="IALSPP"), "inexact: iALS++ by 64 factors"),
    "irspack-cg": Entry("als", partial(Als, solver="CG"), "inexact: 3 CG steps a row"),
}
