"""`als` and `objective`, at values that no example has, beside loops in float64."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import scipy.sparse as sp

from .case import Case, Group
from .sentences_by_numpy import lfm_np
from .working_days import Model, biased_half, close, csr, faultless, folder, raised, same, stars, start, tells, wrong

_holds = faultless(Group("second opinions"))


def _counts(m: int, n: int, share: float = 0.3, seed: int = 0) -> np.ndarray:
    """Counts, NaN where there is none, and an empty row and column."""
    draw = np.random.default_rng(seed)
    X = np.where(draw.random((m, n)) < share, draw.integers(1, 8, (m, n)), np.nan)
    X[m // 2], X[:, n // 2] = np.nan, np.nan
    return X


def _product(fit: Any) -> np.ndarray:
    product: np.ndarray = fit.user_factors.astype(np.float64) @ fit.item_factors.astype(np.float64).T
    return product


def _more_factors_than_items() -> list[str]:
    X, model, V = _counts(257, 3, 0.6), Model("ials", 0.5, 0.3, 0.05, 0.7), start(257, 3, 5)
    fit = lfm_np.als(csr(X).tocsc(), factors=5, iterations=2, init=V, dtype="float64", num_threads=3, **model.words)
    U, W = model.sweeps(X, V[1], 2)
    gram = fit.item_factors.T @ fit.item_factors
    return wrong(
        scores=close(_product(fit), U @ W.T, 1e-8),
        shapes=fit.user_factors.shape == (257, 5) and fit.item_factors.shape == (3, 5),
        diagonal=abs(gram - np.diag(np.diag(gram))).max() < 1e-8 * gram.max(),
        descending=(np.diff(np.diag(gram)) <= 1e-12).all(),
        empty=not fit.user_factors[128].any() and not fit.item_factors[1].any(),
    )


def _both_halves() -> list[str]:
    X, model = _counts(23, 31), Model("confidence", 3.0, 0.2, 0.4, 0.0)
    fit = lfm_np.als(csr(X), factors=4, iterations=3, init=start(23, 31, 4), dtype="float64", **model.words)
    V = start(23, 31, 4)[1]
    mine: list[float] = []
    for _ in range(3):
        U = model.half(X, V)
        mine.append(model.objective(X, U, V))
        V = model.half(X.T, U)
        mine.append(model.objective(X, U, V))
    found = [record[name] for record in fit.history for name in ("objective_users", "objective")]
    return wrong(
        objectives=close(found, mine, 1e-10),
        iterations=[record["iteration"] for record in fit.history] == [1, 2, 3],
        status=fit.status == "max_iterations",
        objective=close([lfm_np.objective(csr(X), fit)], mine[-1:], 1e-10),
    )


def _biases_from_a_start() -> list[str]:
    X = stars(40, 12) * 3.0 - 1000.0
    U, V = start(40, 12, 2)
    draw = np.random.default_rng(3)
    b, d = draw.normal(size=40), draw.normal(size=12)
    given = lfm_np.Factors(U, V, user_bias=b, item_bias=d, global_bias=77.0)
    fit = lfm_np.als(
        csr(X),
        factors=2,
        weighting="ratings",
        biases=True,
        regularization=0.6,
        iterations=2,
        init=given,
        dtype="float64",
    )
    mu = float(np.nanmean(X))
    for _ in range(2):
        U, b = biased_half(X, V, d, mu, 0.6)
        V, d = biased_half(X.T, U, b, mu, 0.6)
    return wrong(
        mu=close([fit.global_bias], [mu], 1e-12),
        users=close(fit.user_bias, b, 1e-8),
        items=close(fit.item_bias, d, 1e-8),
        product=close(_product(fit), U @ V.T, 1e-7),
    )


def _values_of_six_magnitudes() -> list[str]:
    draw = np.random.default_rng(6)
    X = np.where(draw.random((50, 30)) < 0.3, 10.0 ** draw.uniform(-3, 3, (50, 30)), np.nan)
    model, V = Model("hu-koren", 2.0, 1.0, 20.0, 0.0), start(50, 30, 6)
    given = tuple(f.astype(np.float32) for f in V)
    fit = lfm_np.als(csr(X, np.float32), factors=6, iterations=2, init=given, solver="exact", **model.words)
    U, W = model.sweeps(X, V[1], 2)
    return wrong(scores=close(_product(fit), U @ W.T, 2e-3), dtype=fit.item_factors.dtype == np.float32)


def _when_to_stop() -> list[str]:
    X, model, V = stars(40, 25), Model("ratings", lam=2.0), start(40, 25, 3)[1]
    J: list[float] = []
    W = V
    for _ in range(30):
        U = model.half(X, W)
        W = model.half(X.T, U)
        J.append(model.objective(X, U, W))
    gains = [(a - b) / a for a, b in itertools.pairwise(J)]
    facts = {}
    for wanted in (1, 4, 9):
        tolerance = (gains[wanted - 1] + min(gains[: wanted - 1], default=1.0)) / 2
        mine = next(i for i, gain in enumerate(gains) if gain < tolerance) + 2
        fit = lfm_np.als(
            csr(X), factors=3, iterations=30, tolerance=tolerance, init=start(40, 25, 3), dtype="float64", **model.words
        )
        facts[f"{wanted}"] = len(fit.history) == mine == wanted + 1 and fit.status == lfm_np.Status.CONVERGED
    return wrong(**facts)


def _steps_that_never_rise(solver: str) -> list[str]:
    X, model = _counts(60, 150, 0.7), Model("hu-koren", 5.0, 0.5, 0.1, 0.3)
    fit = lfm_np.als(
        csr(X), factors=70, iterations=4, solver=solver, init=start(60, 150, 70), dtype="float64", **model.words
    )
    J = [record[name] for record in fit.history for name in ("objective_users", "objective")]
    last = model.objective(X, np.asarray(fit.user_factors), np.asarray(fit.item_factors))
    return wrong(falls=(np.diff(J) <= 1e-12 * J[0]).all(), last=close(J[-1:], [last]), sweeps=len(J) == 8)


def _objective_of_strangers() -> list[str]:
    X, (U, V) = _counts(19, 8), start(19, 8, 3)
    rows, columns = np.nonzero(~np.isnan(X))
    values, half = X[rows, columns], len(rows) // 2
    cells = (np.r_[rows, rows[:half], 0], np.r_[columns, columns[:half], 4])
    twice = sp.coo_matrix((np.r_[values[:half] * 0.25, values[half:], values[:half] * 0.75, 0.0], cells), X.shape)
    facts = {}
    for weighting in ("hu-koren", "ials", "confidence"):
        model = Model(weighting, 1.7, 0.4, 0.3, 0.6)
        facts[weighting] = close(
            [lfm_np.objective(twice, lfm_np.Factors(U, V), **model.words)], [model.objective(X, U, V)]
        )
    none = lfm_np.Factors(np.empty((19, 0)), np.empty((8, 0)))
    facts["no factors"] = close([lfm_np.objective(csr(X), none, weighting="confidence", alpha=2.0)], [2 * values.sum()])
    return wrong(**facts)


def _objective_of_biases() -> list[str]:
    X, (U, V), draw = stars(14, 9), start(14, 9, 2), np.random.default_rng(2)
    b, d, mu, lam, nu = draw.normal(size=14), draw.normal(size=9), 2.75, 0.3, 0.5
    has = ~np.isnan(X)
    mine = np.nansum((X - mu - b[:, None] - d - U @ V.T) ** 2)
    mine += lam * (has.sum(1) ** nu @ ((U**2).sum(1) + b**2) + has.sum(0) ** nu @ ((V**2).sum(1) + d**2))
    model = lfm_np.Factors(U, V, user_bias=b, item_bias=d, global_bias=mu)
    words = {"weighting": "ratings", "regularization": lam, "regularization_exponent": nu}
    return wrong(objective=close([lfm_np.objective(csr(X), model, **words)], [mine], 1e-12))


def _watched_and_stopped() -> list[str]:
    X, model = stars(20, 15), Model("ratings", lam=0.5, nu=1.0)
    seen: list[bool] = []

    def watch(record: dict[str, Any], factors: Any) -> None:
        if record["iteration"] == 2:
            now = model.objective(X, np.asarray(factors.user_factors), np.asarray(factors.item_factors))
            seen.append(close([record["objective"]], [now]))
        record["twice"] = 2 * record["iteration"]
        if record["iteration"] == 4:
            raise StopIteration

    fit = lfm_np.als(csr(X), factors=3, init=start(20, 15, 3), dtype="float64", callback=watch, **model.words)
    U, V = model.sweeps(X, start(20, 15, 3)[1], 4)
    return wrong(
        seen=seen == [True],
        added=[record["twice"] for record in fit.history] == [2, 4, 6, 8],
        status=fit.status is lfm_np.Status.STOPPED,
        scores=close(_product(fit), U @ V.T),
    )


def _gone_on_three_times() -> list[str]:
    X, model, V = _counts(21, 13), Model("ials", 2.0, 0.1, 0.2, 1.0), start(21, 13, 3)
    words = {"factors": 3, "dtype": "float64", "init": V, **model.words}
    with folder() as place:
        for at, (count, threads) in enumerate(((1, 1), (4, 2), (4, 3), (7, 1))):
            path = place / "run"
            given = lfm_np.Checkpoint(path, 3600.0) if at % 2 else str(path)
            fit = lfm_np.als(csr(X), iterations=count, num_threads=threads, checkpoint=given, **words)
    U, W = model.sweeps(X, V[1], 7)
    return wrong(
        bits=same(fit, lfm_np.als(csr(X), iterations=7, **words)),
        scores=close(_product(fit), U @ W.T, 1e-8),
        history=[record["iteration"] for record in fit.history] == list(range(1, 8)),
    )


def _seed_of_nobody() -> list[str]:
    X, model = _counts(30, 20), Model()
    facts = {}
    for name, fit in (
        ("als", lambda seed: lfm_np.als(csr(X), factors=3, regularization=0.1, iterations=3, random_state=seed)),
        ("sgd", lambda seed: lfm_np.sgd(csr(X), factors=3, epochs=3, random_state=seed)),
    ):
        one = fit(None)
        facts[name] = same(one, fit(one.params["seed"])) and not same(one, fit(None))
        if name == "als":
            F = [f.astype(np.float64) for f in (one.user_factors, one.item_factors)]
            facts["objective"] = close([one.history[-1]["objective"]], [model.objective(X, *F)], 1e-5)
    return wrong(**facts)


def _start_of_a_failure() -> list[str]:
    """Rows of one cell leave four factors open: what comes back is the start, of V 3,000 entries a 400th large."""
    X = sp.csr_array((np.full(1000, 2.5), (np.arange(1000), np.arange(1000) % 750)), shape=(1000, 750))
    error: Any = raised(lambda: lfm_np.als(X, factors=4, weighting="ratings", regularization=0.0, random_state=1))
    found = float((error.factors.item_factors.astype(np.float64) ** 2).sum())
    return wrong(
        kind=isinstance(error, lfm_np.SolverError) and isinstance(error, RuntimeError),
        told=tells(error, "row|user", "singular|regularization"),
        spread=abs(found / (3000 * 0.01 / 4) - 1) < 6 * math.sqrt(2 / 3000),
        users=not error.factors.user_factors.any(),
        none=len(error.factors.history) == 0,
    )


TABLE = (  # docs/reliability.md: m, n, nnz, megabytes of als and of sgd with BPR
    (1_000_000, 1_000, 2_500_000, 577, 834),
    (138_000, 27_000, 8_000_000, 157, 260),
    (500_000, 100_000, 8_000_000, 398, 604),
)


def _memory() -> list[str]:
    facts = {}
    for m, n, nnz, als, sgd in TABLE:
        for solver, mine in (("als", als), ("sgd", sgd)):
            found = lfm_np.estimate_memory(m, n, nnz, factors=64, solver=solver, num_threads=2)
            facts[f"{solver} {m}"] = abs(found / 1e6 / mine - 1) < 0.03
        least = 2 * (m + n) * 32 * 8 + nnz * 12
        facts[f"float64 {m}"] = (
            least <= lfm_np.estimate_memory(m, n, nnz, factors=17, dtype="float64", num_threads=1) < 1.5 * least
        )
    return wrong(**facts)


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    for name, call in (
        ("five factors of three items, columns for rows", _more_factors_than_items),
        ("the objective after every half", _both_halves),
        ("biases from a start that has another μ", _biases_from_a_start),
        ("values of six magnitudes in float32", _values_of_six_magnitudes),
        ("three tolerances, and the sweep at which each ends", _when_to_stop),
        ("the objective of factors that nobody fitted, of cells in two parts", _objective_of_strangers),
        ("the objective of ratings with biases at ν = 1/2", _objective_of_biases),
        ("watched at the second sweep and stopped at the fourth", _watched_and_stopped),
        ("gone on three times, with a file and with a Checkpoint", _gone_on_three_times),
        ("the seed that nobody gave", _seed_of_nobody),
        ("the start that a failure gives back", _start_of_a_failure),
        ("memory as the table of docs/reliability.md has it", _memory),
    ):
        yield _holds(name, call)
    for solver in ("cg", "subspace"):
        yield _holds(f"70 factors by {solver}", lambda s=solver: _steps_that_never_rise(s))
