"""crosscheck(): both sides on the same input, compared step by step against what rounding may explain."""

from __future__ import annotations

import importlib.metadata
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp

from lfm_np import datasets, losses
from lfm_np.als import als as numba_als
from lfm_np.evaluation import evaluate
from lfm_np.factors import Factors
from lfm_np.kernels import random, sgd_loss
from lfm_np.losses import protocol
from lfm_np.problem import check_problem
from lfm_np.sgd import sgd as numba_sgd
from lfm_np.sgd_epoch import NEGATIVES, key
from lfm_np.torch_backend.als import als as torch_als
from lfm_np.torch_backend.device import check_device, torch
from lfm_np.torch_backend.losses import evaluate as torch_loss
from lfm_np.torch_backend.report import CrossCheck, Row
from lfm_np.torch_backend.sgd import sgd as torch_sgd
from lfm_np.validation import check_int, check_matrix

# Every argument at a value that is not its default, so that none can be ignored on one side.
MODELS: dict[str, dict[str, Any]] = {
    "hu-koren": {"alpha": 3.0, "regularization": 0.7, "unobserved_weight": 0.4},
    "ials": {"alpha": 2.0, "regularization": 0.05, "unobserved_weight": 0.2, "regularization_exponent": 0.5},
    "confidence": {"alpha": 0.6, "regularization": 0.9, "unobserved_weight": 1.5},
    "ratings": {"regularization": 0.3, "regularization_exponent": 1.0, "biases": True},
}
LOSSES: tuple[Any, ...] = (
    losses.Squared(),
    losses.Logistic(weighted=True),
    losses.Hinge(weighted=True),
    losses.Poisson(),
    losses.BPR(weighted=True),
    losses.MarginHinge(0.5, weighted=True),
    losses.WARP(0.8, trials=1),  # further trials draw differently on either side
    losses.SampledSoftmax(0.7, weighted=True),
    losses.CosineContrastive(-0.2, 2.0),
)
SLACK = 8  # constants of the error bounds that are not worth working out
WIDEST = 0.1  # a column is compared by itself where rounding may turn it by less than this
LISTED = 10  # N of the top-N lists
USERS = 2000  # users whose scores and lists are compared


def crosscheck(
    X: Any = None,
    *,
    device: Any = "cpu",
    factors: int = 16,
    sweeps: int = 3,
    random_state: int = 0,
    num_threads: int | None = None,
) -> CrossCheck:
    """Compare the torch side on ``device`` with the Numba side.

    Parameters
    ----------
    X : sparse matrix or Interactions, optional
        Non-negative. By default 3,000 × 600 planted interactions.
    device : {"cpu", "cuda", "cuda:1", …, "mps", "auto"} or torch.device
    factors, sweeps : int
        Of the ALS runs.
    random_state : int
    num_threads : int, optional

    Returns
    -------
    CrossCheck
        ``passed``, ``rows``, ``to_json``, ``to_html``; printing it gives a table. In float64, where the device has it,
        and in float32: for every weighting of `als`, user and item factors (canonical), scores and objective after
        every sweep, top-N lists and metrics at the end; for every loss of `sgd`, values and slopes, and a step from
        identical draws (by a constant rate in float64, by Adagrad in float32; both where there is no float64).

    Notes
    -----
    *Tolerances.* A Cholesky solve is off by at most about eps·κ, κ being the condition number of the row's system, and
    every half-sweep adds one. κ is bounded from the factors: (α₀Λ_max + λ + Σ|d|‖y‖²) / (α₀Λ_min + λ). A canonical
    column whose eigenvalue differs from the next by the relative gap g may turn by the error divided by g; where that
    is more than 0.1 the column is left to the scores. Lists may differ where scores tie within the tolerance.

    A matrix of equal values, which biases alone explain, gets values 1 to 5 for "ratings".

    Examples
    --------
    >>> from lfm_np.torch_backend import crosscheck
    >>> crosscheck(device="cpu", factors=4, sweeps=1).passed
    True
    """
    started = time.perf_counter()
    factors, sweeps = check_int("factors", factors, 1), check_int("sweeps", sweeps, 1)
    where = check_device(device, np.dtype(np.float32))
    if X is None:
        X = datasets.planted(3000, 600, 40_000, rank=8, random_state=0)
    X = check_matrix("X", X, dtype=np.float64)
    if not X.nnz:
        raise ValueError("X must have a stored cell to compare anything, got none")
    rated = X
    if X.nnz and np.ptp(X.data) == 0:
        rated = sp.csr_array((1.0 + np.arange(X.nnz) * 7919 % 5, X.indices, X.indptr), shape=X.shape)
    run = {"device": where.device, "num_threads": num_threads, "random_state": random_state}
    rows: list[Row] = []
    wide = [(np.float64, ("constant",)), (np.float32, ("adagrad",))]
    for dtype, schedules in wide if where.wide == torch.float64 else [(np.float32, ("constant", "adagrad"))]:
        for weighting in MODELS:
            rows += _als_rows(rated if weighting == "ratings" else X, weighting, np.dtype(dtype), factors, sweeps, run)
        for loss in LOSSES:
            rows += _step_rows(loss, np.dtype(dtype), schedules, run)
    rows[:0] = [row for loss in LOSSES for row in _loss_rows(loss)]
    return CrossCheck(str(where.device), tuple(rows), _versions(where.device), time.perf_counter() - started)


def _versions(device: torch.device) -> dict[str, str]:
    names = ("lfm_np", "numpy", "numba", "torch")
    found = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found | {"device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type}


def _difference(found: Any, expected: Any) -> float:
    """Largest difference, relative to the largest magnitude."""
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    scale = max(float(abs(expected).max(initial=0)), np.finfo(np.float64).tiny)
    return float(abs(found - expected).max(initial=0) / scale)


# ---- als ------------------------------------------------------------------------------------------------------------


def _als_rows(
    X: sp.csr_array, weighting: str, dtype: np.dtype, factors: int, sweeps: int, run: dict[str, Any]
) -> Iterator[Row]:
    model = {"weighting": weighting, "factors": factors, "dtype": dtype, **MODELS[weighting]}
    shared = {"iterations": sweeps, **model, **{name: run[name] for name in ("num_threads", "random_state")}}
    seen: list[list[Factors]] = [[], []]
    sides: tuple[tuple[Any, dict[str, Any]], ...] = ((numba_als, {}), (torch_als, {"device": run["device"]}))
    for side, (solver, extra) in enumerate(sides):
        solver(X, callback=lambda _, view, side=side: seen[side].append(_snapshot(view)), **shared, **extra)
    part = f"als {weighting} {dtype.name}"
    for sweep, (here, there) in enumerate(zip(*seen), 1):
        kappa = _condition(X, here, model)
        error = SLACK * 2 * sweep * float(np.finfo(dtype).eps) * kappa
        why = f"{SLACK} · {2 * sweep} half-sweeps · eps · κ = {kappa:.1e}"
        yield from _sweep_rows(part, sweep, here, there, error, why)
    yield from _list_rows(X, part, seen[0][-1], seen[1][-1], error, weighting)


def _snapshot(view: Factors) -> Factors:
    """A copy that outlives the callback."""
    names = ("user_bias", "item_bias", "global_bias", "history")
    return Factors(view.user_factors, view.item_factors, **{name: getattr(view, name) for name in names})


def _sweep_rows(part: str, sweep: int, here: Factors, there: Factors, error: float, why: str) -> Iterator[Row]:
    for side in ("user_factors", "item_factors"):
        yield _factor_row(part, sweep, side, here, there, error, why)
    if here.user_bias is not None:
        for name in ("user_bias", "item_bias"):
            difference = _difference(getattr(there, name), getattr(here, name))
            yield Row(part, f"{name.replace('_', ' ')}, sweep {sweep}", difference, error, why)
    yield Row(part, f"scores, sweep {sweep}", _difference(_scores(there), _scores(here)), error, why)
    for measure in ("objective_users", "objective"):
        difference = _difference(there.history[-1][measure], here.history[-1][measure])
        yield Row(part, f"{measure.replace('_', ' after ')}, sweep {sweep}", difference, error, why)


def _factor_row(part: str, sweep: int, side: str, here: Factors, there: Factors, error: float, why: str) -> Row:
    """Columns by themselves, as far as eigenvalues are apart; the error is in units of each column's tolerance."""
    V = here.item_factors.astype(np.float64)
    values = np.einsum("nf,nf->f", V, V)
    gap = np.full(len(values), np.inf)
    apart = abs(np.diff(values)) / max(values.max(initial=0), np.finfo(np.float64).tiny)
    gap[:-1], gap[1:] = np.minimum(gap[:-1], apart), np.minimum(gap[1:], apart)
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
        values = np.linalg.eigvalsh(a0 * Y.T @ Y).clip(min=0)
        d = sp.csr_array((abs(d0 + d1 * csr.data), csr.indices, csr.indptr), shape=csr.shape)
        own = d @ ((Y * Y).sum(1) + problem.biases)
        low = lam if (d0 + d1 * csr.data < 0).any() else values[0] + lam
        largest = max(largest, float(((values[-1] + lam + own) / low).max(initial=1)))
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


# ---- sgd ------------------------------------------------------------------------------------------------------------


def _loss_rows(loss: Any) -> Iterator[Row]:
    """Values and slopes at scores up to 1000."""
    read, function = protocol.read(loss), protocol.compiled(loss)
    points = np.array([-1e3, -30.0, -5.0, -0.7, -1e-3, 0.0, 0.013, 0.4, 1.7, 5.0, 30.0, 1e3])
    if read.cosine:
        points = np.linspace(-1, 1, 12)
    scores = np.stack([points, np.roll(points, 1), np.roll(points, 5)], 1)
    x = 0.5 + np.arange(len(scores)) % 4
    values, slopes = torch_loss(loss, read, torch.tensor(scores), torch.tensor(x))
    expected = [_compiled_loss(read, function, row, own) for row, own in zip(scores, x)]
    tolerance = SLACK * float(np.finfo(np.float64).eps)
    for what, found, wanted in (
        ("values", values.numpy(), np.array([value for value, _ in expected])),
        ("slopes", slopes.numpy(), np.array([slope for _, slope in expected])),
    ):
        error = float((abs(found - wanted) / np.maximum(abs(wanted), 1)).max())
        yield Row(f"sgd {type(loss).__name__}", what, error, tolerance, f"{SLACK} · eps, relative where above 1")


def _compiled_loss(read: protocol.Protocol, function: Any, scores: np.ndarray, x: float) -> tuple[float, np.ndarray]:
    """One record's loss and slopes, from the function that the Numba kernels call."""
    weight, slopes = x if read.weighted else 1.0, np.zeros(len(scores))
    if read.kind == "list":
        value = sgd_loss.call_ranked(function, scores, slopes)
        return weight * value, weight * slopes
    value = 0.0
    stored, negative = read.targets or (x, 0.0)
    for m, score in enumerate(scores):
        if read.kind == "pairwise":
            if m == 0:
                continue
            part, slope = sgd_loss.call_point(function, scores[0] - score, 0.0)
            slopes[0], slopes[m], value = slopes[0] + weight * slope, -weight * slope, value + weight * part
        else:
            own = 1.0 if m else weight
            part, slope = sgd_loss.call_point(function, score, negative if m else stored)
            slopes[m], value = own * slope, value + own * part
    return value, slopes


class _Matching(NamedTuple):
    """Stored cells no two of which share a row or an item, not even by their negatives.

    On these, one step at a time and all at once are the same.
    """

    X: sp.csr_array
    items: np.ndarray  # stored ones and negatives
    seed: int


def _matching(m: int = 48, n: int = 20_000) -> _Matching:
    for seed in range(1000):
        rng = np.random.default_rng(seed)
        items = rng.choice(n, m, replace=False)
        stream = key(int(np.random.default_rng(seed).integers(2**62)), 1, NEGATIVES)
        draw, below = (getattr(f, "py_func", f) for f in (random.draw, random.below))
        with np.errstate(over="ignore"):
            x = below(draw(stream, np.arange(m)), np.int64(n - 1))
        touched = np.concatenate([items, x + (x >= items)])
        if len(np.unique(touched)) == 2 * m:
            X = sp.csr_array((rng.choice([1.0, 2.0, 3.0], m), (np.arange(m), items)), shape=(m, n))
            return _Matching(X, touched, seed)
    raise AssertionError("no matching in a thousand seeds, each of which succeeds more often than not")


def _step_rows(
    loss: Any, dtype: np.dtype, schedules: tuple[str, ...], run: dict[str, Any], k: int = 8
) -> Iterator[Row]:
    """One epoch on a matching: a single step of every record, from the same draws."""
    matching = _matching()
    rng = np.random.default_rng(1)
    start = tuple(rng.standard_normal((size, k)) * 0.5 for size in matching.X.shape)
    cosine = protocol.read(loss).cosine
    shared: dict[str, Any] = {"factors": k, "epochs": 1, "learning_rate": 0.1, "init": start, "dtype": dtype}
    shared |= {"random_state": matching.seed, "num_threads": run["num_threads"], "biases": not cosine}
    shared |= {"regularization": {"user": 0.3, "item": 0.2, "negative": 0.1, "bias": 0.4}}
    tolerance = SLACK * k * float(np.finfo(dtype).eps)
    part = f"sgd {type(loss).__name__} {dtype.name}"
    for schedule in schedules:
        here = numba_sgd(matching.X, loss, schedule=schedule, **shared)
        there = torch_sgd(matching.X, loss, schedule=schedule, device=run["device"], **shared)
        values = [_moved(factors, matching.items) for factors in (there, here)]
        why = f"{SLACK} · k · eps"
        yield Row(part, f"scores after a step, {schedule}", _difference(*values), tolerance, why)
        losses_seen = (factors.history[0]["sampled_loss"] for factors in (there, here))
        yield Row(part, f"sampled loss, {schedule}", _difference(*losses_seen), tolerance, why)


def _moved(factors: Factors, items: np.ndarray) -> np.ndarray:
    """Scores of all users and the items that moved, and the biases that did."""
    scores = factors.user_factors.astype(np.float64) @ factors.item_factors[items].T.astype(np.float64)
    biases = factors.user_bias, None if factors.item_bias is None else factors.item_bias[items]
    return np.concatenate([scores.ravel(), *(bias for bias in biases if bias is not None)])
