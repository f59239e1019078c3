"""crosscheck(): both sides on the same input, compared step by step against what rounding may explain."""

from __future__ import annotations

import importlib.metadata
import itertools
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp

from lfm_np import datasets, losses
from lfm_np.factors import Factors
from lfm_np.kernels import random, sgd_loss
from lfm_np.losses import protocol
from lfm_np.quiet import quietly
from lfm_np.sgd import sgd as numba_sgd
from lfm_np.sgd_epoch import NEGATIVES, key
from lfm_np.torch_backend import crosscheck_als
from lfm_np.torch_backend.crosscheck_als import SLACK, als_rows, difference
from lfm_np.torch_backend.device import check_device, torch
from lfm_np.torch_backend.losses import evaluate as torch_loss
from lfm_np.torch_backend.report import CrossCheck, Row
from lfm_np.torch_backend.sgd import sgd as torch_sgd
from lfm_np.validation import check_int, check_matrix

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
        Of the ALS runs; those of "cg" and "subspace" take at least 40 factors, at most two sweeps and
        the first rows, as far as they hold 20,000 cells.
    random_state : int
    num_threads : int, optional

    Returns
    -------
    CrossCheck
        ``passed``, ``rows``, ``to_json``, ``to_html``; printing it gives a table. In float64, where the device has it,
        and in float32: for every weighting and solver of `als`, factors (canonical), scores and objective after
        every sweep, top-N lists and metrics at the end; for every loss of `sgd`, values and slopes, and a step from
        identical draws (by a constant rate in float64, by Adagrad in float32; both where there is no float64).

    Notes
    -----
    *Tolerances.* A Cholesky solve is off by at most about eps·κ, κ being the condition number of the row's system, and
    every half-sweep adds one. κ is bounded from the factors: (α₀Λ_max + λ + Σ|d|‖y‖²) / (α₀Λ_min + λ). A canonical
    column whose eigenvalue differs from the next by the relative gap g may turn by the error divided by g; where that
    is more than 0.1 the column is left to the scores. Lists may differ where scores tie within the tolerance. A step of
    "cg" or "subspace" depends on the basis in which it is taken, the eigenvectors of the other side's Gram matrix.
    Rounding turns two of them by eps/g, which changes the step's diagonal, or its blocks, by as much: 1/g of the
    smallest gap is added to 3κ, since each of three passes over the cells rounds. Those runs start from a V whose
    eigenvalues are apart and a random U, and every row takes a step.

    A matrix of equal values, which biases alone explain, gets values 1 to 5 for "ratings".

    Examples
    --------
    >>> from lfm_np.torch_backend import crosscheck
    >>> crosscheck(device="cpu", factors=4, sweeps=1).passed
    True
    """
    started = time.perf_counter()
    factors, sweeps = check_int("factors", factors, 1), check_int("sweeps", sweeps, 1)
    random_state = check_int("random_state", random_state, 0)  # both sides start from it
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
        for weighting, solver in itertools.product(crosscheck_als.MODELS, crosscheck_als.SOLVERS):
            table = rated if weighting == "ratings" else X
            rows += als_rows(table, weighting, solver, np.dtype(dtype), factors, sweeps, run)
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
        x = quietly(below, quietly(draw, stream, np.arange(m)), np.int64(n - 1))
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
        yield Row(part, f"scores after a step, {schedule}", difference(*values), tolerance, why)
        losses_seen = (factors.history[0]["sampled_loss"] for factors in (there, here))
        yield Row(part, f"sampled loss, {schedule}", difference(*losses_seen), tolerance, why)


def _moved(factors: Factors, items: np.ndarray) -> np.ndarray:
    """Scores of all users and the items that moved, and the biases that did."""
    scores = factors.user_factors.astype(np.float64) @ factors.item_factors[items].T.astype(np.float64)
    biases = factors.user_bias, None if factors.item_bias is None else factors.item_bias[items]
    return np.concatenate([scores.ravel(), *(bias for bias in biases if bias is not None)])
