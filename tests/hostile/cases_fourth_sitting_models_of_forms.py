"""The fourth sitting, models: fits whose minima, or whose sweeps, have a closed form or are exact fractions."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp

from .case import Case, Group, installed
from .sentences_by_numpy import Rule, begun, canonical, lfm_np, near, product, with_gaps
from .working_days import csr, faultless, folder, same, wrong

_holds = faultless(Group("fourth sitting, models"))
NAN = np.nan
ENGINES = {"memory": "numpy", "disk": "numpy", "torch": "torch", "dask": "distributed"}
SIDES = tuple(side for side, package in ENGINES.items() if installed(package))


@contextlib.contextmanager
def engine(side: str) -> Iterator[Callable[..., Any]]:
    """``als`` of float64 matrices, of one kind."""
    if side == "memory":
        yield lfm_np.als
    elif side == "torch":
        yield lfm_np.torch_backend.als
    elif side == "disk":
        with folder() as place:
            names = iter(range(1000))

            def stored(X: Any, **words: Any) -> Any:
                zeros = "keep" if words.get("weighting") == "ratings" else "drop"
                made = lfm_np.StoredMatrix.from_matrix(X, place / str(next(names)), zeros=zeros, dtype=np.float64)
                return lfm_np.als(made, **words)

            yield stored
    else:
        import distributed

        with distributed.Client(processes=False, n_workers=2, threads_per_worker=1, dashboard_address=":0") as client:
            yield lambda X, **words: lfm_np.distributed.als(X, client=client, shards=3, **words)


def _one_value(side: str) -> list[str]:
    """All cells of 6 × 9 are x: one singular value p√(mn), of which √(λᵤλᵢ)/c is taken, here two fifths of it.

    One sweep brings the start nearer by (1 - 2·0.4)² = 0.04, so that 14 leave rounding (1e-19)."""
    m, n, share, found = 6, 9, 0.4, {}
    with engine(side) as als:
        for weighting, x, alpha, a0, c, p, nu in (
            ("hu-koren", 3.0, 0.5, 1.0, 2.5, 1.0, 0.0),
            ("ials", 3.0, 2.0, 0.2, 6.2, 6 / 6.2, 1.0),
            ("confidence", 3.0, 2.0, 0.7, 6.0, 1.0, 0.5),
            ("ratings", -3.0, 1.0, 0.0, 1.0, -3.0, 1.0),
        ):
            whole = abs(p) * np.sqrt(m * n)
            lam = share * c * whole / ((n + a0 * n) * (m + a0 * m)) ** (nu / 2)
            of_row, of_column = lam * (n + a0 * n) ** nu, lam * (m + a0 * m) ** nu
            words = {"weighting": weighting, "regularization": lam, "regularization_exponent": nu}
            if weighting != "ratings":
                words |= {"alpha": alpha, "unobserved_weight": a0}
            fit = als(
                sp.csr_array(np.full((m, n), x)), factors=1, iterations=14, dtype="float64",
                init=(np.zeros((m, 1)), np.linspace(0.5, 1.5, n)[:, None]), **words,
            )  # fmt: skip
            kept = whole * (1 - share)
            J = c * (whole - kept) ** 2 + 2 * np.sqrt(of_row * of_column) * kept
            found[f"scores_{weighting}"] = near(product(fit), np.full((m, n), p * (1 - share)), 1e-10)
            found[f"J_{weighting}"] = abs(fit.history[-1]["objective"] / J - 1) < 1e-10
            squares = float((fit.item_factors**2).sum())
            found[f"sides_{weighting}"] = abs(squares / (kept * np.sqrt(of_row / of_column)) - 1) < 1e-9
    return wrong(**found)


def _threshold(side: str) -> list[str]:
    """Ratings everywhere: singular values 16, 8, 4 and 0.5, of which λ√(nm)^ν = 2 is taken, as far as there is so much.

    The slowest comes nearer by (1 - 2·2/16)² a sweep, 0.5625^70 = 1e-17."""
    m, n, take = 8, 12, 2.0
    draw = np.random.default_rng(21)
    A, B = (np.linalg.qr(draw.normal(size=(size, 4)))[0] for size in (m, n))
    sigma = np.array([16.0, 8.0, 4.0, 0.5])
    X, kept, found = (A * sigma) @ B.T, np.maximum(sigma - take, 0.0), {}
    with engine(side) as als:
        for nu in (1.0,) if side == "dask" else (0.0, 1.0, 2.0):
            fit = als(
                sp.csr_array(X), weighting="ratings", factors=4, regularization=take / np.sqrt(m * n) ** nu,
                regularization_exponent=nu, iterations=70, dtype="float64", random_state=3,
            )  # fmt: skip
            J = float(((sigma - kept) ** 2).sum() + 2 * take * kept.sum())
            squares = (fit.item_factors**2).sum(0)
            found[f"scores_{nu}"] = near(product(fit), (A * kept) @ B.T, 1e-9)
            found[f"J_{nu}"] = abs(fit.history[-1]["objective"] / J - 1) < 1e-9
            found[f"diagonal_{nu}"] = near(squares, kept * (n / m) ** (nu / 2), 1e-8)
            found[f"basis_{nu}"] = canonical(fit, 1e-8)
    return wrong(**found)


class Exact(NamedTuple):
    """The objective of `als` in fractions, of two factors; None where nothing is stored."""

    weighting: str
    alpha: Fraction
    a0: Fraction
    lam: Fraction
    nu: int

    def cell(self, x: int | None) -> tuple[Fraction, Fraction]:
        if x is None:
            return self.a0, Fraction(0)
        return {
            "hu-koren": (1 + self.alpha * x, Fraction(1)),
            "ials": (self.a0 + self.alpha * x, self.alpha * x / (self.a0 + self.alpha * x)),
            "confidence": (self.alpha * x, Fraction(1)),
            "ratings": (Fraction(1), Fraction(x)),
        }[self.weighting]

    def strength(self, row: list[Any]) -> Fraction:
        return self.lam * (sum(x is not None for x in row) + self.a0 * len(row)) ** self.nu

    def half(self, X: list[list[Any]], V: list[Any]) -> list[Any]:
        """Cramer's rule for every row."""
        found = []
        for row in X:
            a = d = self.strength(row)
            b = e = f = Fraction(0)
            for x, (v, w) in zip(row, V, strict=True):
                c, p = self.cell(x)
                a, b, d = a + c * v * v, b + c * v * w, d + c * w * w
                e, f = e + c * p * v, f + c * p * w
            below = a * d - b * b
            found.append(((e * d - f * b) / below, (a * f - b * e) / below) if below else (Fraction(0), Fraction(0)))
        return found

    def cost(self, X: list[list[Any]], U: list[Any], V: list[Any]) -> Fraction:
        total = Fraction(0)
        for row, u in zip(X, U, strict=True):
            total += self.strength(row) * (u[0] ** 2 + u[1] ** 2)
            for x, v in zip(row, V, strict=True):
                c, p = self.cell(x)
                total += c * (p - u[0] * v[0] - u[1] * v[1]) ** 2
        for column, v in zip(zip(*X, strict=True), V, strict=True):
            total += self.strength(list(column)) * (v[0] ** 2 + v[1] ** 2)
        return total


TABLE = [[2, None, 1, 5], [None, 3, None, 1], [None, None, None, None], [4, 1, 3, None], [None, None, 7, None]]
BEGIN = [(Fraction(1, 2), Fraction(1, 4)), (Fraction(-3, 8), 1), (1, Fraction(-1, 2)), (Fraction(5, 8), Fraction(3, 4))]


def exact_rules() -> list[Exact]:
    half, quarter, three = Fraction(1, 2), Fraction(1, 4), Fraction(3, 8)
    return [
        Exact("hu-koren", half, quarter, three, 1),
        Exact("ials", Fraction(2), half, three, 2),
        Exact("confidence", three, Fraction(3), half, 0),
        Exact("ratings", Fraction(1), Fraction(0), three, 1),
    ]


def _fractions(side: str) -> list[str]:
    """Two sweeps of 5 × 4, one row empty. Conditions are below 100, so that 1e-11 leaves room for four solutions."""
    X = csr(np.array([[NAN if x is None else x for x in row] for row in TABLE], float))
    V0 = np.array([[float(x) for x in v] for v in BEGIN])
    found = {}
    with engine(side) as als:
        for rule in exact_rules():
            words: dict[str, Any] = {"regularization": float(rule.lam), "regularization_exponent": float(rule.nu)}
            if rule.weighting != "ratings":
                words |= {"alpha": float(rule.alpha), "unobserved_weight": float(rule.a0)}
            fit = als(
                X, weighting=rule.weighting, factors=2, iterations=2, dtype="float64", init=(np.zeros((5, 2)), V0),
                **words,
            )  # fmt: skip
            V, J = list(BEGIN), []
            for _ in range(2):
                U = rule.half(TABLE, V)
                before = rule.cost(TABLE, U, V)
                V = rule.half([list(column) for column in zip(*TABLE, strict=True)], U)
                J.append((before, rule.cost(TABLE, U, V)))
            mine = [[float(u[0] * v[0] + u[1] * v[1]) for v in V] for u in U]
            found[f"scores_{rule.weighting}"] = near(product(fit), mine, 1e-11)
            found[f"J_{rule.weighting}"] = all(
                abs(record["objective_users"] / float(one) - 1) < 1e-11
                and abs(record["objective"] / float(two) - 1) < 1e-11
                for record, (one, two) in zip(fit.history, J, strict=True)
            )
            found[f"empty_{rule.weighting}"] = not fit.user_factors[2].any()
    return wrong(**found)


def ratings_of_halves() -> np.ndarray:
    """7 × 5 ratings, 20 of them; every row and column has some."""
    draw = np.random.default_rng(4)
    X = np.full((7, 5), NAN)
    for u in range(7):
        X[u, [u % 5, (u + 2) % 5]] = draw.integers(2, 11, 2) / 2
    for u in range(6):
        X[u, (u + 3) % 5] = draw.integers(2, 11) / 2
    return X


def ridge(X: np.ndarray, lam: float, nu: float) -> tuple[float, np.ndarray, np.ndarray, float]:
    """μ, the biases of both sides that minimise J together, and that J."""
    has = ~np.isnan(X)
    m, n = X.shape
    mu = float(X[has].mean())
    A = np.diag(np.r_[lam * has.sum(1) ** nu, lam * has.sum(0) ** nu].astype(float))
    b = np.zeros(m + n)
    for u, i in zip(*np.nonzero(has), strict=True):
        for one in (u, m + i):
            b[one] += X[u, i] - mu
            for two in (u, m + i):
                A[one, two] += 1
    z = np.linalg.solve(A, b)
    apart = (X - mu - z[:m, None] - z[None, m:])[has]
    held = lam * (has.sum(1) ** nu @ z[:m] ** 2 + has.sum(0) ** nu @ z[m:] ** 2)
    return mu, z[:m], z[m:], float(apart @ apart + held)


def _biases_alone(side: str) -> list[str]:
    """Factors that start from 0 stay there, and the biases go where both sides' equations hold together."""
    X, found = ratings_of_halves(), {}
    with engine(side) as als:
        for lam, nu, times in ((0.5, 0.0, 150), (0.4, 1.0, 40), (1.5, 0.5, 40))[side == "dask" :]:
            fit = als(
                csr(X), weighting="ratings", biases=True, factors=2, iterations=times, regularization=lam,
                regularization_exponent=nu, init=(np.zeros((7, 2)), np.zeros((5, 2))), dtype="float64",
            )  # fmt: skip
            mu, b, d, J = ridge(X, lam, nu)
            found[f"mean_{nu}"] = abs(fit.global_bias - mu) < 1e-12
            found[f"users_{nu}"] = near(fit.user_bias, b, 1e-9)
            found[f"items_{nu}"] = near(fit.item_bias, d, 1e-9)
            found[f"J_{nu}"] = abs(fit.history[-1]["objective"] / J - 1) < 1e-9
            found[f"factors_{nu}"] = not fit.user_factors.any() and not fit.item_factors.any()
    return wrong(**found)


def hadamard() -> np.ndarray:
    """8 × 8 of ±1, whose rows are at right angles."""
    one = np.array([[1.0, 1.0], [1.0, -1.0]])
    return np.kron(np.kron(one, one), one)


def wide_table() -> np.ndarray:
    """10 × 8 of values from 2^-10 to 2^10, the first row full, the second empty; every column has some."""
    draw = np.random.default_rng(8)
    X = np.where(draw.random((10, 8)) < 0.4, 2.0 ** draw.integers(-10, 11, (10, 8)), NAN)
    X[0] = 2.0 ** np.arange(-4, 4)
    X[1] = NAN
    return X


RULES = (
    Rule("hu-koren", 0.5, 0.25, 0.8, 1.0),
    Rule("ials", 3.0, 0.5, 0.4, 0.5),
    Rule("confidence", 0.01, 2.0, 0.1, 0.0),
    Rule("ratings", 1.0, 1.0, 0.7, 2.0),
)


def by_one(rule: Rule, x: np.ndarray) -> tuple[np.ndarray, float]:
    """The scores of a row beside `hadamard`, and what they cost: every cell by itself, c(p - s)² + λᵤs²/8."""
    has = ~np.isnan(x)
    held = rule.strength(int(has.sum()), len(x)) / 8
    s, cost = np.zeros(len(x)), 0.0
    for i in np.flatnonzero(has):
        c, p = rule.cell(float(x[i]))
        s[i], cost = c * p / (c + held), cost + c * p * p * held / (c + held)
    return s, cost


def _half_a_sweep(side: str) -> list[str]:
    """From items at right angles: J after the users, cell by cell, and J after the items, over all cells."""
    X, H, found = wide_table(), hadamard(), {}
    with engine(side) as als:
        for rule in RULES:
            fit = als(csr(X), factors=8, iterations=1, init=(np.zeros((10, 8)), H), dtype="float64", **rule.words)
            J = sum(by_one(rule, x)[1] for x in X)
            J += sum(8 * rule.strength(int((~np.isnan(x)).sum()), 10) for x in X.T)
            whole = rule.cost(X, fit.user_factors, fit.item_factors)
            found[f"users_{rule.weighting}"] = abs(fit.history[0]["objective_users"] / J - 1) < 1e-10
            found[f"items_{rule.weighting}"] = abs(fit.history[0]["objective"] / whole - 1) < 1e-9
            found[f"fall_{rule.weighting}"] = fit.history[0]["objective"] < fit.history[0]["objective_users"]
    return wrong(**found)


def _currencies(side: str) -> list[str]:
    """Ratings and λ times 4^p, the start times 2^p: so are the factors, and J is times 16^p.

    float32 rounds 6e-8 of systems with a condition below 1,000 (1 + Σ‖v‖²/λ), four times over."""
    X, rule = with_gaps(), Rule("ratings", lam=0.3, nu=1.0)
    U0, V0 = begun(X)
    U, V = rule.sweeps(X, V0, 2)
    J, found = rule.cost(X, U, V), {}
    with engine(side) as als:
        for dtype, p, tolerance in (
            ("float64", 20, 1e-9),
            ("float64", -20, 1e-9),
            ("float32", 5, 1e-3),
            ("float32", -5, 1e-3),
        ):
            fit = als(
                csr(X * 4.0**p, dtype), factors=3, iterations=2, init=(U0 * 2.0**p, V0 * 2.0**p), dtype=dtype,
                weighting="ratings", regularization=0.3 * 4.0**p, regularization_exponent=1.0,
            )  # fmt: skip
            found[f"scores_{dtype}_{p}"] = near(product(fit) / 4.0**p, U @ V.T, tolerance)
            found[f"J_{dtype}_{p}"] = abs(fit.history[-1]["objective"] / 16.0**p / J - 1) < tolerance
    return wrong(**found)


def _units(side: str) -> list[str]:
    """α, α₀ and λ times 2^p leave the factors, and J is times 2^p."""
    X, found = with_gaps(1), {}
    U0, V0 = begun(X)
    with engine(side) as als:
        for rule in (Rule("confidence", 0.7, 0.4, 0.5), Rule("ials", 0.7, 0.4, 0.5)):
            U, V = rule.sweeps(X, V0, 2)
            J = rule.cost(X, U, V)
            for dtype, p, tolerance in (
                ("float64", 70, 1e-9),
                ("float64", -70, 1e-9),
                ("float32", 20, 1e-3),
                ("float32", -20, 1e-3),
            ):
                fit = als(
                    csr(X, dtype), factors=3, iterations=2, init=(U0, V0), dtype=dtype, weighting=rule.weighting,
                    alpha=0.7 * 2.0**p, unobserved_weight=0.4 * 2.0**p, regularization=0.5 * 2.0**p,
                )  # fmt: skip
                found[f"scores_{rule.weighting}_{dtype}_{p}"] = near(product(fit), U @ V.T, tolerance)
                found[f"J_{rule.weighting}_{dtype}_{p}"] = (
                    abs(fit.history[-1]["objective"] / 2.0**p / J - 1) < tolerance
                )
    return wrong(**found)


def _steps_from_disk() -> list[str]:
    """130 factors of 40 × 30 by steps, mapped and not: the bits of memory, and the J of all cells."""
    draw = np.random.default_rng(2)
    X = np.where(draw.random((40, 30)) < 0.5, draw.integers(1, 9, (40, 30)), NAN)
    X[7], X[:, 3] = NAN, NAN
    rule, found = Rule("ials", 0.5, 0.3, 0.2, 0.5), {}
    weights = sum(c * p * p for c, p in (rule.cell(float(x)) for x in X[~np.isnan(X)]))
    with folder() as place:
        lfm_np.StoredMatrix.from_matrix(csr(X), place / "matrix")
        for solver in ("cg", "subspace"):
            words = {"factors": 130, "iterations": 3, "solver": solver, "random_state": 5, **rule.words}
            here = lfm_np.als(csr(X, np.float32), **words)
            for name, more in (("memory", {"memory": 256 << 20}), ("mapped", {"factors_in": place})):
                there = lfm_np.als(lfm_np.StoredMatrix(place / "matrix", **more), **words)
                found[f"bits_{solver}_{name}"] = same(here, there)
                J = rule.cost(X, *(F.astype(float) for F in (there.user_factors, there.item_factors)))
                found[f"J_{solver}_{name}"] = abs(there.history[-1]["objective"] - J) < 2e-5 * weights
                del there
    return wrong(**found)


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    for side in SIDES:
        yield _holds(f"one value everywhere, {side}", lambda s=side: _one_value(s))
        yield _holds(f"singular values, less what λ takes, {side}", lambda s=side: _threshold(s))
        yield _holds(f"sweeps in fractions, {side}", lambda s=side: _fractions(s))
        yield _holds(f"biases alone, {side}", lambda s=side: _biases_alone(s))
        yield _holds(f"users beside items at right angles, {side}", lambda s=side: _half_a_sweep(s))
    for side in ("memory", "torch"):
        if side in SIDES:
            yield _holds(f"ratings in another currency, {side}", lambda s=side: _currencies(s))
            yield _holds(f"weights in another unit, {side}", lambda s=side: _units(s))
    yield _holds("steps of many factors from a disk", _steps_from_disk)
