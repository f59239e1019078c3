"""What the solvers are asked to minimise, stated once for all of them, and how a result is judged."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp

import lfm_np
from benchmarks import datasets
from lfm_np.evaluation import most_popular

JUDGED_USERS = 20_000  # users whose lists are ranked, the same for every solver


@dataclass(frozen=True)
class Task:
    """A model and its parameters.

    ``als``: Hu, Koren, Volinsky's objective, confidence 1 + alpha·x on stored cells and 1 elsewhere, plain λ. ``bpr``:
    pairwise ranking against uniform negatives.
    """

    name: str
    factors: int = 64
    regularization: float = 0.1
    alpha: float = 10.0
    learning_rate: float = 0.05
    threads: int = 2
    device: str = "cpu"
    seed: int = 0

    @property
    def confidence(self) -> float:
        """Weight of a stored cell of value 1."""
        return 1.0 + self.alpha


def make_task(name: str, **options: Any) -> Task:
    defaults = {"als": {"regularization": 0.1}, "bpr": {"regularization": 0.002}}
    if name not in defaults:
        raise ValueError(f"task must be one of {', '.join(defaults)}, got {name!r}")
    return Task(name, **(defaults[name] | options))


def judge(task: Task, train: sp.csr_array, test: sp.csr_array | None, factors: lfm_np.Factors) -> dict[str, Any]:
    """Objective (float64, over all cells; als only), and ranking quality on the test cells, if given, of some users."""
    started = time.perf_counter()
    found: dict[str, Any] = {}
    if task.name == "als":
        found["objective"] = lfm_np.objective(
            train, factors, regularization=task.regularization, alpha=task.alpha, weighting="hu-koren"
        )
    if test is not None:
        metrics = lfm_np.evaluate(factors, train, some_users(test), metrics=("recall@20", "ndcg@20"))
        found |= {name: float(metrics[name]) for name in ("recall@20", "ndcg@20", "recall@20_se")}
    return found | {"judged_in": time.perf_counter() - started}


def recall_of_popular(dataset: str) -> float:
    """recall@20 of recommending the most popular items to everyone."""
    data = datasets.load(dataset)
    return float(
        lfm_np.evaluate(most_popular(data.train), data.train, some_users(data.test), metrics="recall@20")["recall@20"]
    )


def some_users(test: sp.csr_array) -> sp.csr_array:
    """``test`` with all but JUDGED_USERS rows emptied."""
    lengths = np.diff(test.indptr)
    users = np.flatnonzero(lengths)
    if len(users) <= JUDGED_USERS:
        return test
    chosen = np.zeros(len(lengths), bool)
    chosen[np.random.default_rng(0).choice(users, JUDGED_USERS, replace=False)] = True
    kept = np.repeat(chosen, lengths)
    indptr = np.concatenate([[0], np.cumsum(np.where(chosen, lengths, 0))])
    return sp.csr_array((test.data[kept], test.indices[kept], indptr), shape=test.shape)


def as_dict(task: Task) -> dict[str, Any]:
    return asdict(task)
