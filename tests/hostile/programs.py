"""How small programs are registered as cases, and what several of them share: a model, its oracle, its lists."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.sparse as sp

import lfm_np

from .case import Case, Group, Holds, installed
from .working_days import Model, all_scores, best, csr, stars

BAD = (TypeError, ValueError)
RULE = Model("hu-koren", alpha=3.0, lam=0.4)


class Programs:
    """Cases of one heading, each a function that lists what is wrong."""

    def __init__(self, heading: str) -> None:
        self.group, self.found = Group(heading), list[Case]()

    def __call__(
        self, name: str, *needs: str, make: Callable[[], dict[str, Any]] = dict
    ) -> Callable[[Callable[..., list[str]]], Callable[..., list[str]]]:
        def keep(call: Callable[..., list[str]]) -> Callable[..., list[str]]:
            if installed(*needs):
                case = Case(f"{self.group.name}: {name}", call, Holds(lambda found, **_: found == []), make)
                self.found.append(case)
            return call

        return keep


def served(seed: int = 0, sweeps: int = 3, **words: Any) -> lfm_np.Factors:
    """A float64 model of ``stars(seed=seed)``, fitted by RULE."""
    words = {"factors": 4, "iterations": sweeps, "dtype": "float64", "random_state": seed, **RULE.words, **words}
    return lfm_np.als(csr(stars(seed=seed)), **words)


def seen_of(X: np.ndarray) -> np.ndarray:
    return ~np.isnan(X)


def solved(V: np.ndarray, weights: np.ndarray, targets: np.ndarray, penalty: float) -> np.ndarray:
    """The row that minimises Σ w (t − u·v)² + penalty ‖u‖², by stacked least squares."""
    k = V.shape[1]
    A = np.vstack([np.sqrt(weights)[:, None] * V, np.sqrt(penalty) * np.eye(k)])
    return np.linalg.lstsq(A, np.concatenate([np.sqrt(weights) * targets, np.zeros(k)]), rcond=None)[0]


def clicked(V: np.ndarray, items: Any, values: Any, rule: Model = RULE) -> np.ndarray:
    """The factors of somebody who has these items, by the rule of Hu, Koren and Volinsky."""
    weights, targets = np.full(len(V), rule.a0), np.zeros(len(V))
    for i, x in zip(items, values, strict=True):
        weights[i], targets[i] = 1 + rule.alpha * x, 1.0
    return solved(V, weights, targets, rule.lam)


def row(n: int, items: Any, values: Any = None, dtype: Any = np.float64) -> sp.csr_array:
    values = np.ones(len(items), dtype) if values is None else np.asarray(values, dtype)
    return sp.csr_array((values, (np.zeros(len(items), int), np.asarray(items, int))), shape=(1, n))


def listed(ranked: Any, S: np.ndarray, allowed: np.ndarray, N: int) -> bool:
    """Whether lists are those of sorting the scores of allowed columns."""
    return ranked.ids.tolist() == [best(s, a, N) for s, a in zip(S, allowed, strict=True)]


def plain(fit: Any, X: np.ndarray, N: int = 5, users: Any = None) -> bool:
    """Whether a model recommends what sorting its scores gives, without what is in X."""
    users = np.arange(len(X)) if users is None else np.asarray(users)
    return listed(fit.recommend(users, N=N, seen=csr(X)), all_scores(fit)[users], np.isnan(X)[users], N)


def swept(X: np.ndarray, V: np.ndarray, times: int, rule: Model = RULE) -> np.ndarray:
    U, V = rule.sweeps(X, V, times)
    return U @ V.T
