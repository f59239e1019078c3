"""Where fits of `als` end, what they tell on the way and go on from, beside least squares in float64."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

import lfm_np

from .case import Case, Group
from .cases_mathematicians_on_sweeps import Sides, Sum, canonical, each, first, scores_of, sides, some
from .places import inside
from .working_days import close, csr, faultless, same, stars, wrong

_GROUP = Group("mathematicians")
_holds = faultless(_GROUP)
MODELS = (
    Sum("hu-koren", 3.0, 0.5, 0.1, 0.5),
    Sum("ials", 0.5, 2.0, 0.1, 1.0),
    Sum("confidence", 2.0, 0.25, 0.2),
    Sum("ratings", lam=0.1, nu=1.0),
    Sum("ratings", lam=0.3, biased=True),
)


def _drops(model: Sum, X: np.ndarray, V: np.ndarray, times: int) -> tuple[list[float], list[float]]:
    J = [model.J(X, s) for s in model.path(X, V, times)]
    return J, [(a - b) / a for a, b in itertools.pairwise(J)]


def _tolerance(model: Sum) -> list[str]:
    """The first sweep but the first that lowers J by less than the share is the last."""
    X, V = some(24, 17, 0.4, 5), first(17, 4)
    J, drops = _drops(model, X, V, 14)
    share = float(np.sqrt(drops[5] * drops[6]))
    last = next(t for t, drop in enumerate(drops, 2) if drop < share)
    assert all(abs(np.log(drop / share)) > 1e-3 for drop in drops[: last - 1])
    fit = model.als(X, V, 40, tolerance=share)
    short = model.als(X, V, last - 1, tolerance=share)
    return wrong(
        sweeps=len(fit.history) == last,
        status=fit.status == lfm_np.Status.CONVERGED,
        J=close([r["objective"] for r in fit.history], J[:last], 1e-8),
        too_short=short.status == lfm_np.Status.MAX_ITERATIONS and len(short.history) == last - 1,
    )


def _at_once() -> list[str]:
    model, X, V = MODELS[0], some(24, 17, 0.4, 5), first(17, 4)
    _, drops = _drops(model, X, V, 2)
    assert drops[0] < 0.9
    fit = model.als(X, V, 9, tolerance=0.9)
    return wrong(two=len(fit.history) == 2, status=fit.status == lfm_np.Status.CONVERGED)


def _never() -> list[str]:
    """J stands still after one sweep of one factor of a matrix of rank one without λ; 0 goes on all the same."""
    X = np.outer(np.arange(1.0, 7), np.arange(1.0, 5))
    fit = Sum("ratings", lam=0.0).als(X, first(4, 1, scale=1.0), 7)
    return wrong(
        sweeps=[r["iteration"] for r in fit.history] == list(range(1, 8)),
        status=fit.status == lfm_np.Status.MAX_ITERATIONS,
        scores=close(scores_of(fit), X, 1e-12),
        J=all(0 <= r["objective"] < 1e-20 for r in fit.history),
    )


def _half_way(model: Sum) -> list[str]:
    X, V = some(19, 16, 0.45, 7), first(16, 5)
    fit = model.als(X, V, 3)
    before, found = model.start(X, V), []
    for record in fit.history:
        U, b = model.half(X, before.V, before.d, before.mu)
        found.append(close(record["objective_users"], model.J(X, Sides(U, before.V, b, before.d, before.mu)), 1e-8))
        before = model.sweep(X, before)
    return wrong(all=all(found), count=len(found) == 3)


def _watched(model: Sum) -> list[str]:
    """The callback sees the canonical factors of its sweep; what it writes over is not kept, what it adds is."""
    X, V = some(19, 16, 0.45, 7), first(16, 5)
    path = model.path(X, V, 3)
    seen: list[bool] = []

    def look(record: dict[str, Any], factors: Any) -> None:
        t = record["iteration"]
        record["dense"] = model.J(X, sides(factors))
        seen.append(canonical(factors) and close(scores_of(factors), path[t - 1].scores, 1e-8))
        record["objective"] = -1.0
        if t == 3:
            raise StopIteration

    fit = model.als(X, V, 9, callback=look, tolerance=1e-9)
    return wrong(
        seen=seen == [True] * 3,
        status=fit.status == lfm_np.Status.STOPPED,
        kept=close([r["objective"] for r in fit.history], [model.J(X, s) for s in path], 1e-8),
        added=close([r["dense"] for r in fit.history], [model.J(X, s) for s in path], 1e-8),
    )


def _gone_on(model: Sum) -> list[str]:
    """Three sweeps from the factors of two are five; the biases of the items are part of the start."""
    X, V = some(22, 15, 0.5, 3), first(15, 3)
    fit = model.als(X, V, 3, init=model.als(X, V, 2))
    return wrong(scores=close(scores_of(fit), model.path(X, V, 5)[-1].scores, 1e-8), history=len(fit.history) == 3)


def _odd_start() -> list[str]:
    """A start of another type and order, with NumPy's stride, that stays as it is."""
    model, X = MODELS[0], some(13, 18, 0.4, 2)
    V = np.asfortranarray(first(36, 4).astype(np.float32))[::2]
    U = np.full((13, 4), 7.0, np.float32)[:, ::-1]
    kept = V.copy()
    fit = model.als(X, V, 2, init=(U, V))
    end = model.path(X, kept.astype(np.float64), 2)[-1]
    return wrong(
        scores=close(scores_of(fit), end.scores, 1e-8),
        start=np.array_equal(V, kept) and bool((U == 7).all()),
        dtype=fit.item_factors.dtype == np.float64,
    )


def _single(k: int) -> list[str]:
    model, X, V = Sum("hu-koren", 10.0, 1.0, 1.0), some(40, 50, 0.3, 6), first(50, k, scale=0.1)
    path, fit = model.path(X, V, 2), model.als(X, V, 2, dtype="float32", solver="exact")
    J = [model.J(X, s) for s in path]
    return wrong(
        scores=close(scores_of(fit), path[-1].scores, 5e-4),
        J=close([r["objective"] for r in fit.history], J, 1e-4),
        own=close(fit.history[-1]["objective"], model.J(X, sides(fit)), 1e-5),
        type=fit.user_factors.dtype == np.float32,
    )


def _as_exact(model: Sum, solver: str, k: int) -> list[str]:
    """The path of least squares: one block of at most 64 factors, or a system that its own diagonal preconditions."""
    X, V = some(60, 55, 0.7, 4), first(55, k, scale=0.2)
    path, fit = model.path(X, V, 3), model.als(X, V, 3, solver=solver)
    return wrong(
        scores=close(scores_of(fit), path[-1].scores, 1e-8),
        J=close([r["objective"] for r in fit.history], [model.J(X, s) for s in path], 1e-8),
    )


def _never_rises(solver: str, model: Sum, k: int) -> list[str]:
    X, V = some(70, 60, 0.6, 4), first(60, k, scale=0.05)
    fit = model.als(X, V, 6, solver=solver)
    J = [value for r in fit.history for value in (r["objective_users"], r["objective"])]
    zero = model.J(X, model.start(X, V))
    return wrong(
        falls=all(b <= a * (1 + 1e-12) for a, b in itertools.pairwise([zero, *J])),
        last=close(J[-1], model.J(X, sides(fit)), 1e-9),
    )


def _pieces(path: Path) -> list[str]:
    """Two, three and two sweeps, each with other threads, are seven; the record is of all."""
    model, X, V = Sum("ratings", lam=0.1, nu=1.0, biased=True), stars(33, 21, 4), first(21, 6)
    for times, threads in ((2, 1), (5, 3), (7, 2)):
        fit = model.als(X, V, times, num_threads=threads, checkpoint=path / "fit")
    whole, end = model.als(X, V, 7, num_threads=1), model.path(X, V, 7)
    return wrong(
        bits=same(fit, whole),
        numbers=[r["iteration"] for r in fit.history] == list(range(1, 8)),
        J=close([r["objective"] for r in fit.history], [model.J(X, s) for s in end], 1e-8),
        scores=close(scores_of(fit), end[-1].scores, 1e-8),
    )


def _beyond_convergence(path: Path) -> list[str]:
    """A run that has converged goes on when the tolerance is lowered."""
    model, X, V = MODELS[2], some(24, 17, 0.4, 5), first(17, 4)
    early = model.als(X, V, 12, tolerance=0.9, checkpoint=path / "fit")
    late = model.als(X, V, 6, checkpoint=path / "fit")
    return wrong(
        early=early.status == lfm_np.Status.CONVERGED and len(early.history) == 2,
        late=late.status == lfm_np.Status.MAX_ITERATIONS and len(late.history) == 6,
        bits=same(late, model.als(X, V, 6)),
        scores=close(scores_of(late), model.path(X, V, 6)[-1].scores, 1e-8),
    )


def _from_disk(path: Path) -> list[str]:
    """Steps of "cg" in memory, then from the disk, with factors there too."""
    model, X, V = Sum("hu-koren", 5.0, 0.5, 0.5), some(70, 60, 0.6, 4), first(60, 80, scale=0.05)
    words: dict[str, Any] = {
        "init": (np.zeros((70, 80)), V),
        "factors": 80,
        "solver": "cg",
        "dtype": "float64",
        "random_state": 0,
    }
    place = path / "matrix"
    lfm_np.StoredMatrix.from_matrix(csr(X), place, dtype="float64")
    (path / "factors").mkdir()
    stored = lfm_np.StoredMatrix(place, memory=64 << 20, factors_in=path / "factors")
    model.als(X, V, 2, solver="cg", checkpoint=path / "fit")
    fit = lfm_np.als(stored, iterations=5, num_threads=2, checkpoint=path / "fit", **words, **model.words)
    whole = model.als(X, V, 5, solver="cg", num_threads=1)
    return wrong(bits=same(fit, whole), J=close(fit.history[-1]["objective"], model.J(X, sides(fit)), 1e-9))


def _stored(path: Path) -> list[str]:
    """Ratings of which some are 0 and some negative, with biases."""
    X = stars(41, 18, 9) - 3
    model, V = Sum("ratings", lam=0.2, nu=0.5, biased=True), first(18, 17)
    stored = lfm_np.StoredMatrix.from_matrix(csr(X), path / "matrix", zeros="keep", dtype="float64", memory=64 << 20)
    words: dict[str, Any] = {"init": (np.zeros((41, 17)), V), "factors": 17, "dtype": "float64", **model.words}
    fit = lfm_np.als(stored, iterations=3, num_threads=3, **words)
    end = model.path(X, V, 3)[-1]
    return wrong(
        cells=stored.nnz == int((~np.isnan(X)).sum()),
        bits=same(fit, model.als(X, V, 3, num_threads=1)),
        scores=close(scores_of(fit), end.scores, 1e-8),
    )


def _threads(dtype: str, solver: str, k: int) -> list[str]:
    model, X = Sum("ials", 4.0, 0.5, 0.3, 0.5), some(70, 40, 0.7, 1)
    V = first(40, k, scale=0.1)
    fits = [model.als(X, V, 2, dtype=dtype, solver=solver, num_threads=t) for t in (1, 2, 3, 7)]
    return wrong(
        bits=all(same(fits[0], fit) for fit in fits[1:]),
        J=close(fits[0].history[-1]["objective"], model.J(X, sides(fits[0])), 1e-5),
    )


def _objective(model: Sum) -> list[str]:
    """Of factors that nobody fitted, in either type; X in coordinates, with cells twice where they are summed."""
    X, draw = some(17, 13, 0.4, 8), np.random.default_rng(3)
    found = []
    for dtype in (np.float32, np.float64):
        U, V = draw.normal(size=(17, 6)).astype(dtype), draw.normal(size=(13, 6)).astype(dtype)
        parts: dict[str, Any] = {}
        if model.biased:
            parts = {"item_bias": draw.normal(size=13).astype(dtype), "global_bias": 0.75}
        coo = csr(X).tocoo()
        if model.weighting != "ratings":
            rows, columns = (np.concatenate([c, c]) for c in coo.coords)
            coo = sp.coo_array((np.concatenate([0.25 * coo.data, 0.75 * coo.data]), (rows, columns)), shape=X.shape)
        words = {name: value for name, value in model.words.items() if name != "biases"}
        factors = lfm_np.Factors(U, V, **parts)
        found.append(close(lfm_np.objective(coo, factors, **words), model.J(X, sides(factors)), 1e-6))
    return wrong(float32=found[0], float64=found[1])


def _half_told() -> list[str]:
    """What `objective` is not told it takes from the fit, a weight of 0 too."""
    model, X = Sum("ials", 2.0, 0.0, 0.2, 0.5), some(15, 12, 0.5)
    fit = model.als(X, first(12, 3), 2)
    X2 = some(15, 12, 0.3, 77)
    return wrong(
        λ=close(lfm_np.objective(csr(X2), fit, regularization=7.0), model._replace(lam=7.0).J(X2, sides(fit)), 1e-9),
        ν=close(
            lfm_np.objective(csr(X2), fit, regularization_exponent=0.0), model._replace(nu=0.0).J(X2, sides(fit)), 1e-9
        ),
        α=close(lfm_np.objective(csr(X2), fit, alpha=0.125), model._replace(alpha=0.125).J(X2, sides(fit)), 1e-9),
        a0=close(lfm_np.objective(csr(X2), fit, unobserved_weight=3.0), model._replace(a0=3.0).J(X2, sides(fit)), 1e-9),
    )


def _flat() -> list[str]:
    """Constant ratings are μ: nothing is left for factors and biases."""
    X = np.where(np.isnan(some(12, 9, 0.5)), np.nan, -2.5)
    fit = Sum("ratings", lam=0.1, nu=1.0, biased=True).als(X, first(9, 4), 3)
    left = sides(fit)
    return wrong(
        μ=fit.global_bias == -2.5,
        zeros=not (left.U.any() or left.V.any() or left.b.any() or left.d.any()),
        J=all(r["objective"] == 0 for r in fit.history),
    )


def _of_zero() -> list[str]:
    J = lfm_np.objective(
        sp.coo_array(([0.0, 2.0], ([0, 1], [0, 1])), shape=(2, 2)),
        lfm_np.Factors(np.array([[1.0], [2.0]]), np.array([[3.0], [0.5]])),
        weighting="ratings",
        regularization=0.5,
        regularization_exponent=1.0,
    )
    return wrong(J=close(J, 9.0 + 1.0 + 0.5 * (1 + 4 + 9 + 0.25), 1e-12))


def _zeros_count(weighting: str) -> list[str]:
    """A stored zero is absent, in n_u too, or a rating of 0."""
    X = some(12, 10, 0.5, 21)
    model = Sum(weighting, 1.0, 0.2, 0.1, 1.0)
    full = csr(X)
    full.data[::3] = 0
    without = X.copy()
    without[tuple(c[::3] for c in full.tocoo().coords)] = 0.0 if weighting == "ratings" else np.nan
    V = first(10, 3)
    fit = lfm_np.als(full, factors=3, iterations=2, init=(np.zeros((12, 3)), V), dtype="float64", **model.words)
    end = model.path(without, V, 2)[-1]
    return wrong(scores=close(scores_of(fit), end.scores, 1e-8), kept=bool((full.data[::3] == 0).all()))


def _permuted() -> list[str]:
    X, draw = some(31, 23, 0.35, 12), np.random.default_rng(1)
    rows, columns = draw.permutation(31), draw.permutation(23)
    model, V = Sum("hu-koren", 6.0, 0.4, 0.3, 0.7), first(23, 20)
    S = model.path(X, V, 2)[-1].scores
    fit = model.als(X[rows][:, columns], V[columns], 2)
    return wrong(scores=close(scores_of(fit), S[rows][:, columns], 1e-8))


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    yield _holds("the sweep that converges", each("model", (MODELS[0], MODELS[1], MODELS[4]), _tolerance))
    yield _holds("the second sweep may be the last", _at_once)
    yield _holds("tolerance 0 never stops, and 0 is left", _never)
    yield _holds("J after the users", each("model", (MODELS[1], MODELS[4]), _half_way))
    yield _holds("a callback beside the path", each("model", (MODELS[2], MODELS[4]), _watched))
    for model in (MODELS[3], MODELS[4]):
        yield _holds(f"a warm start is no new start{', biases' * model.biased}", lambda m=model: _gone_on(m))
    yield _holds("a start of odd strides and types", _odd_start)
    yield _holds("float32 beside float64", each("k", (48, 127), _single))
    yield _holds("a block of 64 is exact", lambda: _as_exact(Sum("confidence", 2.0, 1.0, 0.5), "subspace", 64))
    for solver in ("cg", "subspace"):
        yield _holds(f"a diagonal system is solved by {solver}", lambda s=solver: _as_exact(Sum(alpha=0.0), s, 80))
    for solver, model in (("cg", Sum("ials", 9.0, 0.1, 0.2, 1.0)), ("subspace", Sum("hu-koren", 40.0, 1.0, 2.0))):
        yield _holds(
            f"J never rises, and is that of all cells: {solver}", lambda s=solver, m=model: _never_rises(s, m, 96)
        )
    yield _holds("three runs of one checkpoint, biases", inside(_pieces))
    yield _holds("a checkpoint beyond convergence", inside(_beyond_convergence))
    yield _holds("steps go on from the disk", inside(_from_disk))
    yield _holds("ratings below and at 0 on the disk", inside(_stored))
    for dtype, solver, k in (("float32", "exact", 129), ("float64", "cg", 65), ("float32", "subspace", 129)):
        yield _holds(f"threads: {dtype}, {solver}, k = {k}", lambda d=dtype, s=solver, k=k: _threads(d, s, k))
    yield _holds("the objective of factors from nowhere", each("model", MODELS[:3], _objective))
    yield _holds("the objective of factors from nowhere, ratings", each("model", MODELS[3:], _objective))
    yield _holds("the objective takes the rest from the fit", _half_told)
    yield _holds("constant ratings with biases", _flat)
    yield _holds("a rating of 0 in coordinates is a cell", _of_zero)
    for weighting in ("ials", "ratings"):
        yield _holds(f"stored zeros, {weighting}, ν = 1", lambda w=weighting: _zeros_count(w))
    yield _holds("rows and columns in another order", _permuted)
