"""The part of crosscheck() that compares als: factors, scores and objective after every half-sweep, lists, metrics."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import scipy.sparse as sp

from lfm_np.als import als as numba_als
from lfm_np.canonical import gram
from lfm_np.evaluation import evaluate
from lfm_np.factors import Factors
from lfm_np.problem import check_problem
from lfm_np.quiet import quietly
from lfm_np.row_plan import STEP_COSTS, every_row_steps
from lfm_np.torch_backend.als import als as torch_als
from lfm_np.torch_backend.report import Row

# Every argument at a value that is not its default, so that none can be ignored on one side.
MODELS: dict[str, dict[str, Any]] = {
    "hu-koren": {"alpha": 3.0, "regularization": 0.7, "unobserved_weight": 0.4},
    "ials": {"alpha": 2.0, "regularization": 0.05, "unobserved_weight": 0.2, "regularization_exponent": 0.5},
    "confidence": {"alpha": 0.6, "regularization": 0.9, "unobserved_weight": 1.5},
    "ratings": {"regularization": 0.3, "regularization_exponent": 1.0, "biases": True},
}
SOLVERS = ("exact", *STEP_COSTS)
SLACK = 8  # constants of the error bounds that are not worth working out
WIDEST = 0.1  # a column is compared by itself where rounding may turn it by less than this
LISTED = 10  # N of the top-N lists
USERS = 2000  # users whose scores and lists are compared
STEP_FACTORS, STEP_WIDTH = 40, 32  # of the steps: two blocks, which overlap
STEP_PASSES = 3  # over the cells: a gradient and two products of "cg", scores and two blocks of "subspace"
STEP_CELLS = 20_000  # the first rows, as far as they hold so many
STEP_SWEEPS = 2  # the second starts from the first one's factors


def difference(found: Any, expected: Any) -> float:
    """Largest difference, relative to the largest magnitude."""
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    scale = max(float(abs(expected).max(initial=0)), np.finfo(np.float64).tiny)
    return float(abs(found - expected).max(initial=0) / scale)


def als_rows(
    X: sp.csr_array, weighting: str, solver: str, dtype: np.dtype, factors: int, sweeps: int, run: dict[str, Any]
) -> Iterator[Row]:
    """Both sides from the same start, compared after every half-sweep."""
    steps = solver in STEP_COSTS
    if steps:
        factors, sweeps = max(factors, STEP_FACTORS), min(sweeps, STEP_SWEEPS)
        X = X[: max(1, int(np.searchsorted(X.indptr, STEP_CELLS)))]
    model = {"weighting": weighting, "factors": factors, "dtype": dtype, **MODELS[weighting]}
    shared = {"iterations": sweeps, "solver": solver, **model}
    shared |= {name: run[name] for name in ("num_threads", "random_state")}
    start = _start(X, factors, run["random_state"]) if steps else None
    seen: list[list[Factors]] = [[], []]
    sides: tuple[tuple[Any, dict[str, Any]], ...] = ((numba_als, {}), (torch_als, {"device": run["device"]}))
    with every_row_steps(STEP_WIDTH) if steps else contextlib.nullcontext():
        for side, (fit, extra) in enumerate(sides):
            note = lambda _, view, side=side: seen[side].append(_snapshot(view))  # noqa: E731
            fit(X, callback=note, init=start, **shared, **extra)
    part = f"als {weighting} {dtype.name}" + (f" {solver}" if steps else "")
    turn = 0.0
    for sweep, (here, there) in enumerate(zip(*seen), 1):
        kappa = (STEP_PASSES if steps else 1) * _condition(X, here, model)
        if start and weighting != "ratings":  # whose shared part is 0 in any basis
            V = start[1] if sweep == 1 else seen[0][sweep - 2].item_factors
            turn = max(turn, 1 / _least_gap(V), 1 / _least_gap(here.user_factors))
        error = SLACK * 2 * sweep * float(np.finfo(dtype).eps) * (kappa + turn)
        factor = f"({STEP_PASSES}κ + 1/g) = {kappa + turn:.1e}" if steps else f"κ = {kappa:.1e}"
        why = f"{SLACK} · {2 * sweep} half-sweeps · eps · {factor}"
        yield from _sweep_rows(part, sweep, here, there, error, why)
    if not steps:
        yield from _list_rows(X, part, seen[0][-1], seen[1][-1], error, weighting)


def _start(X: sp.csr_array, factors: int, random_state: Any) -> tuple[np.ndarray, np.ndarray]:
    """A random U, and V with eigenvalues that are apart: from 1 down to 1/4, as far as n goes."""
    rng, (m, n) = np.random.default_rng(random_state), X.shape
    V = np.zeros((n, factors))
    rank = min(n, factors)
    basis, _ = quietly(np.linalg.qr, rng.standard_normal((n, rank)))
    V[:, :rank] = basis * np.sqrt(np.linspace(1, 0.25, rank) * n / factors)
    return rng.standard_normal((m, factors)) * 0.3, V * 0.1


def _least_gap(Y: np.ndarray) -> float:
    """Smallest distance of neighbouring eigenvalues of YᵀY, relative to the largest; those that vanish are one."""
    values = quietly(np.linalg.eigvalsh, gram(Y))
    kept = values[values > len(values) * np.finfo(Y.dtype).eps * values[-1]]
    return float(np.diff(kept, prepend=0.0).min(initial=np.inf) / values[-1])


def _snapshot(view: Factors) -> Factors:
    """A copy that outlives the callback."""
    names = ("user_bias", "item_bias", "global_bias", "history")
    return Factors(view.user_factors, view.item_factors, **{name: getattr(view, name) for name in names})


def _sweep_rows(part: str, sweep: int, here: Factors, there: Factors, error: float, why: str) -> Iterator[Row]:
    for side in ("user_factors", "item_factors"):
        yield _factor_row(part, sweep, side, here, there, error, why)
    if here.user_bias is not None:
        for name in ("user_bias", "item_bias"):
            found = difference(getattr(there, name), getattr(here, name))
            yield Row(part, f"{name.replace('_', ' ')}, sweep {sweep}", found, error, why)
    yield Row(part, f"scores, sweep {sweep}", difference(_scores(there), _scores(here)), error, why)
    for measure in ("objective_users", "objective"):
        found = difference(there.history[-1][measure], here.history[-1][measure])
        yield Row(part, f"{measure.replace('_', ' after ')}, sweep {sweep}", found, error, why)


def _factor_row(part: str, sweep: int, side: str, here: Factors, there: Factors, error: float, why: str) -> Row:
    """Columns by themselves, as far as eigenvalues are apart; the error is in units of each column's tolerance."""
    V = here.item_factors.astype(np.float64)
    values = np.einsum("nf,nf->f", V, V)
    gap = np.full(len(values), np.inf)
    apart = abs(np.diff(values)) / max(values.max(initial=0), np.finfo(np.float64).tiny)
    gap[:-1] = apart
    gap[1:] = np.minimum(gap[1:], apart)
    tolerance = error * (1 + 1 / np.maximum(gap, np.finfo(np.float64).tiny))
    fine = np.flatnonzero(tolerance < WIDEST)
    A, B = (getattr(factors, side)[:, fine].astype(np.float64) for factors in (there, here))
    scale = max(float(abs(B).max(initial=0)), np.finfo(np.float64).tiny)
    share = float((abs(A - B).max(axis=0, initial=0) / scale / tolerance[fine]).max(initial=0))
    name = f"{side.replace('_', ' ')}, sweep {sweep}: {len(fine)} of {len(values)} columns"
    return Row(part, name, share * error, error, f"{why}; of a column, divided by its relative gap")


def _scores(factors: Factors) -> np.ndarray:
    """Dense scores of the first users."""
    U, V = factors.user_factors[:USERS].astype(np.float64), factors.item_factors.astype(np.float64)
    scores = U @ V.T
    if factors.user_bias is not None and factors.item_bias is not None:
        scores += (factors.global_bias or 0.0) + factors.user_bias[:USERS, None] + factors.item_bias
    return scores


def _condition(X: sp.csr_array, factors: Factors, model: dict[str, Any]) -> float:
    """A bound on the condition number of every row's system, on both sides."""
    problem = check_problem(
        X,
        factors=model["factors"],
        regularization=model["regularization"],
        alpha=model.get("alpha", 1.0),
        unobserved_weight=model.get("unobserved_weight"),
        exponent=model.get("regularization_exponent", 0.0),
        weighting=model["weighting"],
        biases=model.get("biases", False),
        dtype=np.float64,
    )
    d0, d1, _, _, a0 = problem.weights
    largest = 1.0
    for csr, Y in ((problem.X, factors.item_factors), (sp.csr_array(problem.X.T), factors.user_factors)):
        Y = Y.astype(np.float64)
        lam = problem.row_regularization(np.diff(csr.indptr), csr.shape[1]).astype(np.float64)
        values = quietly(np.linalg.eigvalsh, a0 * Y.T @ Y).clip(min=0)
        d = sp.csr_array((abs(d0 + d1 * csr.data), csr.indices, csr.indptr), shape=csr.shape)
        own = d @ ((Y * Y).sum(1) + problem.biases)
        low = lam if (d0 + d1 * csr.data < 0).any() else values[0] + lam
        solved = np.diff(csr.indptr) > 0
        largest = max(largest, float(((values[-1] + lam + own)[solved] / low[solved]).max(initial=1)))
    return largest


def _list_rows(
    X: sp.csr_array, part: str, here: Factors, there: Factors, error: float, weighting: str
) -> Iterator[Row]:
    """Lists may differ only where scores tie within the tolerance; metrics only for users whose lists differ."""
    N = min(LISTED, X.shape[1])
    users = np.arange(min(USERS, X.shape[0]))
    ids, other = (factors.recommend(users, N=N).ids for factors in (here, there))
    scores = _scores(here)
    regret = abs(np.take_along_axis(scores, ids, 1) - np.take_along_axis(scores, other, 1)).max(initial=0)
    overlap = np.mean([len(np.intersect1d(a, b)) / N for a, b in zip(ids, other)])
    scale = max(float(abs(scores).max(initial=0)), np.finfo(np.float64).tiny)
    name = f"top {N} lists ({overlap:.2%} the same)"
    yield Row(part, name, float(regret / scale), 2 * error, "scores at the same place tie within twice the tolerance")
    test = X[: len(users)]
    if not test.nnz:
        return
    found = []
    for factors in (here, there):
        some = Factors(
            factors.user_factors[: len(users)],
            factors.item_factors,
            user_bias=None if factors.user_bias is None else factors.user_bias[: len(users)],
            item_bias=factors.item_bias,
            global_bias=factors.global_bias,
        )
        found.append(evaluate(some, None, test, metrics=(f"recall@{N}", f"ndcg@{N}")))
    differing = float((ids != other).any(axis=1).mean()) + 1e-12
    for name in (f"recall@{N}", f"ndcg@{N}"):
        yield Row(part, name, abs(found[0][name] - found[1][name]), differing, "share of users whose lists differ")
