"""The torch side of this library."""

from __future__ import annotations

from functools import partial
from typing import Any

import scipy.sparse as sp

import lfm_np
from benchmarks.solvers import Entry
from benchmarks.solvers.lfm_np_cpu import Fit, arguments
from benchmarks.tasks import Task

PACKAGES = ("torch",)


def _fit(train: sp.csr_array, task: Task, name: str, **own: Any) -> Fit:
    import torch

    torch.set_num_threads(task.threads)
    solver: Any = getattr(lfm_np.torch_backend, name)
    return Fit(train, solver, arguments(task) | {"device": task.device} | own)


def als(train: sp.csr_array, task: Task, solver: str = "exact") -> Fit:
    return _fit(train, task, "als", solver=solver)


def sgd(train: sp.csr_array, task: Task) -> Fit:
    return _fit(train, task, "sgd")


SOLVERS = {
    "lfm_np-torch": Entry("als", als, "exact, padded batches"),
    "lfm_np-torch-cg": Entry("als", partial(als, solver="cg"), "inexact: 2 CG steps a row, padded batches"),
    "lfm_np-torch-sgd": Entry("bpr", sgd, "minibatches, verified negatives"),
}
