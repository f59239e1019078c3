"""Sentences about `als` and `objective`, beside normal equations row by row in float64."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp

import lfm_np
from lfm_np import losses

from .case import Case, Group
from .working_days import all_scores, close, csr, faultless, start, wrong

_GROUP = Group("late readers, fits")
_holds = faultless(_GROUP)
NAN = np.nan


class Rows(NamedTuple):
    """c, p, λ_u of a row, as the table of `als` says."""

    weighting: str
    lam: float = 0.1
    nu: float = 0.0
    alpha: float = 1.0
    a0: float = 1.0

    @property
    def words(self) -> dict[str, Any]:
        words = {"weighting": self.weighting, "regularization": self.lam, "regularization_exponent": self.nu}
        return words if self.weighting == "ratings" else {**words, "alpha": self.alpha, "unobserved_weight": self.a0}

    def row(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
        """Confidences and targets of all cells (NaN: not stored), and the row's λ."""
        has = ~np.isnan(x)
        x = np.where(has, x, 0.0)
        a0 = 0.0 if self.weighting == "ratings" else self.a0
        if self.weighting == "hu-koren":
            c, p = 1 + self.alpha * x, np.ones(len(x))
        elif self.weighting == "ials":
            c = a0 + self.alpha * x
            p = np.where(has, self.alpha * x / np.where(has, c, 1.0), 0.0)
        elif self.weighting == "confidence":
            c, p = self.alpha * x, np.ones(len(x))
        else:
            c, p = np.ones(len(x)), x
        return np.where(has, c, a0), np.where(has, p, 0.0), self.lam * float(has.sum() + a0 * len(x)) ** self.nu

    def solve(self, x: np.ndarray, Y: np.ndarray, offset: Any = 0.0) -> np.ndarray:
        c, p, lam = self.row(x)
        if not c.any():
            return np.zeros(Y.shape[1])
        A = (Y.T * c) @ Y + lam * np.eye(Y.shape[1])
        return np.linalg.solve(A, Y.T @ (c * (p - offset)))

    def half(self, X: np.ndarray, Y: np.ndarray) -> np.ndarray:
        return np.array([self.solve(x, Y) for x in X])

    def J(self, X: np.ndarray, U: np.ndarray, V: np.ndarray, S: Any = None, b: Any = None, d: Any = None) -> float:
        """S: the scores where they are not U Vᵀ alone; b and d: biases that are penalised."""
        S, total = U @ V.T if S is None else S, 0.0
        for x, s in zip(X, S, strict=True):
            c, p, _ = self.row(x)
            total += float((c * (p - s) ** 2).sum())
        for M, F, f in ((X, U, b), (X.T, V, d)):
            f = np.zeros(len(F)) if f is None else f
            total += sum(self.row(x)[2] * float(row @ row + bias**2) for x, row, bias in zip(M, F, f, strict=True))
        return total


def data(m: int = 17, n: int = 11, seed: int = 5, share: float = 0.35, top: float = 6.0) -> np.ndarray:
    """Values that are no integers, and a row and a column of nothing."""
    draw = np.random.default_rng(seed)
    X = np.where(draw.random((m, n)) < share, draw.integers(1, 4 * int(top), (m, n)) / 4, NAN)
    X[3], X[:, 2] = NAN, NAN
    return X


def _swept(model: Rows, X: np.ndarray, k: int = 4, times: int = 3, **words: Any) -> list[str]:
    """Scores after some sweeps, and J after either half of each."""
    m, n = X.shape
    U, V = start(m, n, k)
    init, halves, wholes = (U, V), [], []
    for _ in range(times):
        U = model.half(X, V)
        halves.append(model.J(X, U, V))
        V = model.half(X.T, U)
        wholes.append(model.J(X, U, V))
    fit: Any = lfm_np.als(
        csr(X), factors=k, iterations=times, solver="exact", init=init, dtype="float64", **model.words, **words
    )
    return wrong(
        scores=close(all_scores(fit), U @ V.T, 1e-8),
        halves=close([record["objective_users"] for record in fit.history], halves, 1e-9),
        wholes=close([record["objective"] for record in fit.history], wholes, 1e-9),
        empty=not np.any(fit.user_factors[np.isnan(X).all(1)]) and not np.any(fit.item_factors[np.isnan(X).all(0)]),
        canonical=_canonical(fit.item_factors),
    )


def _canonical(V: np.ndarray) -> bool:
    G = V.T @ V
    diagonal = np.diag(G)
    return bool(
        abs(G - np.diag(diagonal)).max() <= 1e-9 * diagonal.max() and (np.diff(diagonal) <= 1e-9 * diagonal.max()).all()
    )


def _tolerance() -> list[str]:
    model, X = Rows("ials", lam=0.02, nu=0.5, alpha=2.0, a0=0.1), data(seed=8)
    U, V = start(17, 11, 3)
    init, J = (U, V), []
    for _ in range(40):
        U = model.half(X, V)
        V = model.half(X.T, U)
        J.append(model.J(X, U, V))
    gains = [1 - after / before for before, after in pairwise(J)]
    share = float(np.sqrt(gains[4] * gains[5])) if gains[4] > gains[5] else gains[4]
    sweeps = 2 + next(i for i, gain in enumerate(gains) if gain < share)
    fit: Any = lfm_np.als(csr(X), factors=3, iterations=40, tolerance=share, init=init, dtype="float64", **model.words)
    return wrong(sweeps=len(fit.history) == sweeps, status=fit.status == "converged")


def _biased(nu: float) -> list[str]:
    """Users and their biases from the items', then the items; μ stays the mean."""
    model, X = Rows("ratings", lam=0.3, nu=nu), data(top=5.0)
    mu = float(np.nanmean(X))
    U, V = init = start(17, 11, 3)
    b, d, J = np.zeros(17), np.zeros(11), []

    def solved(M: np.ndarray, F: np.ndarray, f: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        Y = np.column_stack([F, np.ones(len(F))])
        both = np.array([model.solve(x, Y, mu + f) for x in M])
        return both[:, :-1], both[:, -1]

    for _ in range(3):
        U, b = solved(X, V, d)
        V, d = solved(X.T, U, b)
        J.append(model.J(X, U, V, mu + b[:, None] + d + U @ V.T, b, d))
    fit: Any = lfm_np.als(csr(X), factors=3, iterations=3, biases=True, init=init, dtype="float64", **model.words)
    return wrong(
        mu=close(fit.global_bias, mu, 1e-12),
        biases=close(fit.user_bias, b, 1e-8) and close(fit.item_bias, d, 1e-8),
        scores=close(all_scores(fit), mu + b[:, None] + d + U @ V.T, 1e-8),
        objective=close([record["objective"] for record in fit.history], J, 1e-9),
    )


def _zeros_and_dislikes() -> list[str]:
    """Ratings below 0, a stored 0, and rows that are empty or have one cell."""
    X = data(9, 13, seed=2) - 2.5
    X[0, 4], X[5], X[5, 7] = 0.0, NAN, -4.0
    cells = ~np.isnan(X)
    stored = sp.csr_array((X[cells], np.nonzero(cells)), shape=X.shape)
    model = Rows("ratings", lam=0.7, nu=0.5)
    U, V = start(9, 13, 2)
    init = (U, V)
    for _ in range(2):
        U = model.half(X, V)
        V = model.half(X.T, U)
    fit: Any = lfm_np.als(stored, factors=2, iterations=2, init=init, dtype="float64", **model.words)
    return wrong(
        zero=stored.nnz == cells.sum() and bool((stored.data == 0).any()), scores=close(all_scores(fit), U @ V.T, 1e-8)
    )


def _warm_from_float32() -> list[str]:
    model, X = Rows("confidence", lam=0.4, alpha=3.0, a0=0.5), data(seed=9)
    first = lfm_np.als(csr(X, np.float32), factors=3, iterations=2, random_state=1, **model.words)
    V = first.item_factors.astype(np.float64)
    U = model.half(X, V)
    V = model.half(X.T, U)
    more = lfm_np.als(csr(X), factors=3, iterations=1, init=first, dtype="float64", **model.words)
    return wrong(
        single=first.item_factors.dtype == np.float32,
        double=more.item_factors.dtype == np.float64,
        scores=close(all_scores(more), U @ V.T, 1e-8),
    )


def _large_ratings() -> list[str]:
    """float32 leaves an objective as good as float64's: residuals are far greater than rounding."""
    model, X = Rows("ratings", lam=0.1), data(30, 20, seed=4) * 1e6
    U, V = start(30, 20, 3)
    fit: Any = lfm_np.als(csr(X), factors=3, iterations=1, init=(U, V), **model.words)
    U = model.half(X, V)
    V = model.half(X.T, U)
    S = all_scores(fit)
    mine = model.J(X, U, V)
    theirs = model.J(X, fit.user_factors.astype(float), fit.item_factors.astype(float), S)
    return wrong(
        objective=abs(theirs / mine - 1) < 0.01, told=abs(float(fit.history[0]["objective"]) / theirs - 1) < 1e-3
    )


def _stepped(solver: str, k: int) -> list[str]:
    """J is told exactly, and never rises."""
    model, X = Rows("hu-koren", lam=0.5, alpha=2.0, a0=0.3, nu=0.4), data(90, 70, seed=6, share=0.5)
    fit: Any = lfm_np.als(
        csr(X), factors=k, iterations=4, solver=solver, init=start(90, 70, k), dtype="float64", **model.words
    )
    told = [record[name] for record in fit.history for name in ("objective_users", "objective")]
    return wrong(
        exact=close(told[-1], model.J(X, fit.user_factors, fit.item_factors), 1e-9),
        falls=all(after <= before * (1 + 1e-12) for before, after in pairwise(told)),
    )


# --- objective -----------------------------------------------------------------------------------


def plain(m: int, n: int, k: int, dtype: Any = np.float64, **words: Any) -> lfm_np.Factors:
    U, V = start(m, n, k, seed=3)
    return lfm_np.Factors(U.astype(dtype), V.astype(dtype), **words)


def _objective(model: Rows, X: np.ndarray) -> list[str]:
    m, n = X.shape
    factors = plain(m, n, 3)
    found = lfm_np.objective(csr(X), factors, **model.words)
    return wrong(number=close(found, model.J(X, factors.user_factors, factors.item_factors), 1e-11))


def _objective_with_biases() -> list[str]:
    X, model = data(), Rows("ratings", lam=0.6, nu=1.0)
    draw = np.random.default_rng(1)
    b, d = draw.normal(size=17), draw.normal(size=11)
    factors = plain(17, 11, 3, user_bias=b, item_bias=d, global_bias=2.25)
    U, V = factors.user_factors, factors.item_factors
    mine = model.J(X, U, V, 2.25 + b[:, None] + d + U @ V.T, b, d)
    return wrong(number=close(lfm_np.objective(csr(X), factors, **model.words), mine, 1e-11))


def _objective_of_bytes() -> list[str]:
    """uint8 cells of one place add up to 300; a stored zero is no cell, and counts in no λ."""
    X = sp.coo_array((np.array([200, 100, 0, 7], np.uint8), ([0, 0, 1, 2], [1, 1, 0, 2])), shape=(3, 4))
    full = np.full((3, 4), NAN)
    full[0, 1], full[2, 2] = 300.0, 7.0
    model, factors = Rows("hu-koren", lam=0.2, nu=1.0, alpha=0.5, a0=0.25), plain(3, 4, 2)
    found = lfm_np.objective(X, factors, **model.words)
    return wrong(number=close(found, model.J(full, factors.user_factors, factors.item_factors), 1e-11))


def _objective_of_sgd() -> list[str]:
    X = csr(data())
    fit: Any = lfm_np.sgd(X, losses.BPR(), factors=2, epochs=3, dtype="float64", random_state=0)
    model = Rows("hu-koren", lam=0.3)
    mine = model.J(data(), fit.user_factors, fit.item_factors)
    try:
        lfm_np.objective(X, fit)
    except ValueError as error:
        refused = "regularization" in str(error)
    else:
        refused = False
    return wrong(needs=refused, number=close(lfm_np.objective(X, fit, regularization=0.3), mine, 1e-10))


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    X = data()
    for name, model, words in (
        ("hu-koren at odd α, α₀ and ν", Rows("hu-koren", 0.8, 0.6, 0.37, 0.2), {}),
        ("ials with ν beyond 1", Rows("ials", 0.01, 1.3, 3.5, 0.05), {}),
        ("confidence below that of empty cells", Rows("confidence", 0.5, 0.0, 0.02, 2.0), {}),
        ("confidence alone, nothing unobserved", Rows("confidence", 0.5, 0.5, 1.5, 0.0), {}),
        ("hu-koren with α of 0", Rows("hu-koren", 0.3, 1.0, 0.0, 1.0), {}),
        ("ratings with ν of ¼", Rows("ratings", 0.9, 0.25), {}),
        ("more factors than rows and columns", Rows("ials", 0.3, 0.0, 2.0, 0.5), {"k": 19}),
    ):
        yield _holds(name, lambda model=model, words=words: _swept(model, X, **words))
    yield _holds("a sweep that lowers J by less than a share", _tolerance)
    for nu in (0.0, 1.0):
        yield _holds(f"each bias penalised like its row's factors, ν = {nu}", lambda nu=nu: _biased(nu))
    yield _holds("stored zeros and ratings below 0", _zeros_and_dislikes)
    yield _holds("a warm start from float32", _warm_from_float32)
    yield _holds("ratings of millions in float32", _large_ratings)
    for solver, k in (("cg", 33), ("subspace", 67)):
        yield _holds(f"J of {solver} never rises, and is exact", lambda solver=solver, k=k: _stepped(solver, k))
    yield _holds("J of any factors, ials", lambda: _objective(Rows("ials", 0.7, 0.9, 0.6, 0.15), X))
    yield _holds("J of stored cells only", lambda: _objective(Rows("hu-koren", 0.7, 2.0, 5.0, 0.0), X))
    yield _holds("J with biases and μ", _objective_with_biases)
    yield _holds("J of bytes that are stored twice", _objective_of_bytes)
    yield _holds("J of factors of sgd", _objective_of_sgd)
