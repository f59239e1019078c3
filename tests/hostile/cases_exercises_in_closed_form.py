"""Exercises on `als` whose answer is a formula: soft-thresholded singular values, cliques, one user or one item."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import scipy.optimize
import scipy.sparse as sp

import lfm_np as library

from .case import Case, Group, installed
from .working_days import csr, faultless, folder, wrong

lfm_np: Any = library
_GROUP = Group("exercise class")
_holds = faultless(_GROUP)


def near(a: Any, b: Any, tolerance: float = 1e-9) -> bool:
    """Differences of at most so much of the largest magnitude: fits here converge to 1e-12 within their sweeps."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return a.shape == b.shape and bool(abs(a - b).max(initial=0.0) <= tolerance * abs(b).max(initial=0.0))


def scores_of(fit: Any) -> np.ndarray:
    return fit.user_factors.astype(np.float64) @ fit.item_factors.astype(np.float64).T


def gram_of(F: Any) -> np.ndarray:
    return F.astype(np.float64).T @ F.astype(np.float64)


def designed(m: int, n: int, values: Any, seed: int = 1) -> np.ndarray:
    """A full matrix of these singular values."""
    draw = np.random.default_rng(seed)
    left, right = (np.linalg.qr(draw.normal(size=(size, len(values))))[0] for size in (m, n))
    return (left * values) @ right.T


def soft(X: np.ndarray, t: float, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The minimiser of ‖X - S‖² + 2t‖S‖* of rank k, and its singular values."""
    left, values, right = np.linalg.svd(X, full_matrices=False)
    values = np.maximum(values - t, 0)
    values[k:] = 0
    return (left * values) @ right, values


def fitted(X: Any, **words: Any) -> Any:
    return lfm_np.als(X, **{"dtype": "float64", "random_state": 0, "iterations": 80, **words})


SPECTRUM = np.array([12.0, 7.0, 4.0, 1.0])


def _thresholded() -> list[str]:
    """λ(‖U‖² + ‖V‖²) is at least 2λ times the nuclear norm: singular values fall by λ; both sides share them."""
    X = designed(9, 7, SPECTRUM)
    fit = fitted(csr(X), factors=4, weighting="ratings", regularization=2.0)
    S, values = soft(X, 2.0, 4)
    return wrong(
        scores=near(scores_of(fit), S),
        objective=near(fit.history[-1]["objective"], ((X - S) ** 2).sum() + 4 * values.sum(), 1e-12),
        users=near(gram_of(fit.user_factors), np.diag(values[:4])),
        items=near(gram_of(fit.item_factors), np.diag(values[:4])),
    )


def _of_size(t: float) -> list[str]:
    """X and λ of another unit, in float32: the same shares; 40 sweeps, sums of 7 products of eps 6e-8."""
    X = designed(9, 7, SPECTRUM) * t
    fit = fitted(csr(X, np.float32), factors=4, weighting="ratings", regularization=2.0 * t, dtype="float32")
    S, values = soft(X, 2.0 * t, 4)
    J = ((X - S) ** 2).sum() + 4 * t * values.sum()
    return wrong(scores=near(scores_of(fit), S, 2e-5), objective=near(fit.history[-1]["objective"], J, 1e-6))


def _more_than_needed(k: int) -> list[str]:
    """The nuclear norm does not ask for a rank: all four singular values fall by λ, and spare factors are 0."""
    X = designed(9, 7, np.array([12.0, 7.0, 4.0, 3.0]))
    fit = fitted(csr(X), factors=k, weighting="ratings", regularization=0.5, iterations=250)
    S, values = soft(X, 0.5, k)
    mine = np.zeros(k)
    mine[:4] = values[:4]
    return wrong(
        scores=near(scores_of(fit), S), items=near(gram_of(fit.item_factors), np.diag(mine)),
        users=near(gram_of(fit.user_factors), np.diag(mine)),
        objective=near(fit.history[-1]["objective"], ((X - S) ** 2).sum() + values.sum(), 1e-12),
    )  # fmt: skip


def _wr() -> list[str]:
    """With ν = 1 rows pay λn and columns λm: the threshold is λ√(mn), and V takes √(n/m) of the singular value."""
    X, lam = designed(9, 7, SPECTRUM), 0.25
    fit = fitted(csr(X), factors=4, weighting="ratings", regularization=lam, regularization_exponent=1.0)
    S, values = soft(X, lam * np.sqrt(63), 4)
    return wrong(
        scores=near(scores_of(fit), S),
        items=near(gram_of(fit.item_factors), np.diag(values[:4]) * np.sqrt(7 / 9)),
        users=near(gram_of(fit.user_factors), np.diag(values[:4]) * np.sqrt(9 / 7)),
    )


def _twice() -> list[str]:
    """Everybody twice is everybody once with λ/√2."""
    X = designed(9, 7, SPECTRUM)
    fit = fitted(csr(np.vstack([X, X])), factors=3, weighting="ratings", regularization=2.0)
    S, _ = soft(X, np.sqrt(2), 3)
    return wrong(first=near(scores_of(fit)[:9], S), second=near(scores_of(fit)[9:], S))


def indicator(m: int = 10, n: int = 8, seed: int = 5, share: float = 0.45) -> np.ndarray:
    return (np.random.default_rng(seed).random((m, n)) < share).astype(float)


def _values_do_not_count() -> list[str]:
    """α = 0 and α₀ = 1 weigh all cells alike: a truncated SVD of the pattern, whatever the values."""
    B = indicator()
    X = sp.csr_array(B * 10.0 ** np.random.default_rng(1).integers(-3, 4, B.shape))
    fit = fitted(X, factors=3, alpha=0.0, regularization=0.5, iterations=200)
    S, values = soft(B, 0.5, 3)
    return wrong(
        scores=near(scores_of(fit), S), items=near(np.diag(gram_of(fit.item_factors)), values[:3]),
        objective=near(fit.history[-1]["objective"], ((B - S) ** 2).sum() + values.sum(), 1e-12),
    )  # fmt: skip


def _one_confidence() -> list[str]:
    """αx = α₀: the same with a threshold of λ/α₀."""
    B = indicator()
    fit = fitted(
        sp.csr_array(B * 2), factors=3, weighting="confidence", alpha=0.125, unobserved_weight=0.25,
        regularization=0.125, iterations=200,
    )  # fmt: skip
    S, values = soft(B, 0.5, 3)
    J = 0.25 * ((B - S) ** 2).sum() + 2 * 0.125 * values.sum()
    return wrong(scores=near(scores_of(fit), S), objective=near(fit.history[-1]["objective"], J, 1e-12))


def _regular(messy: bool) -> list[str]:
    """Rows of 2 cells and columns of 3: λ_u = λ(2 + 8α₀)^ν, λ_i = λ(3 + 12α₀)^ν; the threshold is √(λ_u λ_i)/α₀.

    Messy: every cell comes in two halves, and zeros are stored wherever there is none; neither counts in n_u.
    """
    B, a0, lam, nu = np.kron(np.ones((3, 2)), np.eye(4)), 0.5, 0.1, 0.75
    X: Any = sp.csr_array(B)
    if messy:
        rows, columns = np.indices(B.shape).reshape(2, -1)
        X = sp.coo_array((np.tile(B.ravel() / 2, 2), (np.tile(rows, 2), np.tile(columns, 2))), shape=B.shape)
    fit = fitted(
        X, factors=4, weighting="confidence", alpha=a0, unobserved_weight=a0, regularization=lam,
        regularization_exponent=nu,
    )  # fmt: skip
    by_row, by_column = lam * 6.0**nu, lam * 9.0**nu
    S, values = soft(B, np.sqrt(by_row * by_column) / a0, 4)
    J = a0 * ((B - S) ** 2).sum() + 2 * np.sqrt(by_row * by_column) * values.sum()
    return wrong(
        scores=near(scores_of(fit), S),
        objective=near(fit.history[-1]["objective"], J, 1e-12),
        items=near(gram_of(fit.item_factors), np.diag(values[:4]) * np.sqrt(by_row / by_column)),
    )


CLIQUES = ((slice(0, 5), slice(0, 3), 2.0), (slice(5, 8), slice(3, 7), 1.0), (slice(8, 12), slice(7, 9), 5.0))


def _cliques(
    weighting: str, lam: float = 3.0, fit: Any = fitted, alpha: float = 1.5, a0: float = 0.3, **words: Any
) -> list[str]:
    """Cliques that share nobody: scores of 0 between them, and of max(0, p - λ/(c√(mn))) within one of m × n."""
    X, S = np.zeros((12, 9)), np.zeros((12, 9))
    J, strengths = 0.0, []
    for rows, columns, x in CLIQUES:
        X[rows, columns] = x
        size = X[rows, columns].size
        c = {"hu-koren": 1 + alpha * x, "ials": a0 + alpha * x, "confidence": alpha * x}[weighting]
        p = alpha * x / c if weighting == "ials" else 1.0
        s = S[rows, columns] = max(0.0, p - lam / (c * np.sqrt(size)))
        J += size * c * (p - s) ** 2 + 2 * lam * s * np.sqrt(size)
        strengths.append(s * np.sqrt(size))
    found = fit(
        sp.csr_array(X), factors=3, weighting=weighting, alpha=alpha, unobserved_weight=a0, regularization=lam,
        iterations=300, **words,
    )  # fmt: skip
    return wrong(
        scores=near(scores_of(found), S),
        objective=near(found.history[-1]["objective"], J, 1e-12),
        items=near(gram_of(found.item_factors), np.diag(sorted(strengths, reverse=True))),
    )


def _on_torch(X: Any, **words: Any) -> Any:
    return lfm_np.torch_backend.als(X, dtype="float64", random_state=0, **words)


def _alone(weighting: str, side: str) -> list[str]:
    """One user: v_i = c p u/(c u² + λ_i), and u² = t solves λ_u = Σ λ_i (c p)²/(c t + λ_i)². Or the transpose."""
    x, alpha, a0, lam, nu = np.array([1.0, 4, 0, 2.5, 9, 0, 0.5]), 1.5, 0.3, 0.4, 0.7
    has = x > 0
    c = {"hu-koren": 1 + alpha * x, "ials": a0 + alpha * x, "confidence": alpha * x}[weighting]
    p = alpha * x / c if weighting == "ials" else 1.0 * has
    c, p = np.where(has, c, a0), np.where(has, p, 0.0)
    one, many = lam * (has.sum() + a0 * len(x)) ** nu, lam * (has + a0) ** nu
    t = scipy.optimize.brentq(lambda t: one - (many * (c * p / (c * t + many)) ** 2).sum(), 1e-9, 1e3)
    s = c * p * t / (c * t + many)
    J = (c * (p - s) ** 2).sum() + one * t + (many * (s / np.sqrt(t)) ** 2).sum()
    X = sp.csr_array(x[None] if side == "user" else x[:, None])
    fit = fitted(
        X, factors=3, weighting=weighting, alpha=alpha, unobserved_weight=a0, regularization=lam,
        regularization_exponent=nu, iterations=160,
    )  # fmt: skip
    lonely, others = fit.user_factors, fit.item_factors
    if side == "item":
        lonely, others = others, lonely
    with np.errstate(under="ignore"):  # directions that are not needed vanish
        return wrong(
            scores=near(scores_of(fit).ravel(), s),
            length=near((lonely**2).sum(), t),
            absent=not others[~has].any(),  # (α₀uuᵀ + λI) v = 0
            objective=near(fit.history[-1]["objective"], J, 1e-12),
        )


def _apart() -> list[str]:
    """Ratings in two full blocks share the factors and nothing else: each block has all k for itself."""
    one, two = designed(6, 5, np.array([9.0, 5.0, 2.0]), 3), designed(5, 4, np.array([8.0, 3.0, 1.0]), 4)
    X = np.full((11, 9), np.nan)
    X[:6, :5], X[6:, 5:] = one, two
    fit = fitted(csr(X), factors=3, weighting="ratings", regularization=1.5)
    (S, a), (T, b) = soft(one, 1.5, 3), soft(two, 1.5, 3)
    J = ((one - S) ** 2).sum() + ((two - T) ** 2).sum() + 3 * (a.sum() + b.sum())
    found = scores_of(fit)
    return wrong(
        one=near(found[:6, :5], S), two=near(found[6:, 5:], T),
        objective=near(fit.history[-1]["objective"], J, 1e-12),
    )  # fmt: skip


def _zeros_are_ratings() -> list[str]:
    """A full matrix with zeros, from a folder too."""
    X = np.random.default_rng(3).integers(0, 4, (9, 6)).astype(float)
    assert (X == 0).sum() > 5
    words = {"factors": 3, "weighting": "ratings", "regularization": 1.0, "iterations": 400}
    S, values = soft(X, 1.0, 3)
    J = ((X - S) ** 2).sum() + 2 * values.sum()
    with folder() as place:
        stored = lfm_np.StoredMatrix.from_matrix(csr(X), place / "matrix", zeros="keep", dtype="float64")
        fits = {"memory": fitted(csr(X), **words), "disk": fitted(stored, **words)}
    return wrong(
        cells=stored.nnz == 54,
        **{f"scores, {name}": near(scores_of(fit), S) for name, fit in fits.items()},
        **{f"J, {name}": near(fit.history[-1]["objective"], J, 1e-12) for name, fit in fits.items()},
    )


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    yield _holds("ratings everywhere: singular values fall by λ, halves to either side", _thresholded)
    for t in (1e6, 1e-6):
        yield _holds(f"ratings everywhere, in units of {t:g}, float32", lambda t=t: _of_size(t))
    yield _holds("ratings everywhere with ν = 1: the threshold is λ√(mn)", _wr)
    yield _holds("everybody twice is everybody once with λ/√2", _twice)
    yield _holds("α = 0 and α₀ = 1 is the SVD of the pattern", _values_do_not_count)
    yield _holds("αx = α₀ is the SVD of the pattern with λ/α₀", _one_confidence)
    yield _holds("a regular pattern with ν = ¾: the threshold is √(λ_u λ_i)/α₀", lambda: _regular(False))
    yield _holds("the same in halves, with zeros stored", lambda: _regular(True))
    for k in (16, 17, 33):
        yield _holds(f"more factors than items, {k}", lambda k=k: _more_than_needed(k))
    for solver in ("exact", "cg", "subspace"):
        yield _holds(
            f"cliques whose cells weigh less than empty ones, {solver}",
            lambda s=solver: _cliques("confidence", 0.3, alpha=0.2, a0=4.0, solver=s),
        )
    for weighting in ("hu-koren", "ials", "confidence"):
        yield _holds(f"cliques, {weighting}", lambda w=weighting: _cliques(w))
        for side in ("user", "item"):
            yield _holds(f"one {side}, {weighting}: the root of one equation", lambda w=weighting, s=side: _alone(w, s))
    yield _holds("a clique too small for λ is not recommended to itself", lambda: _cliques("hu-koren", 12.0))
    yield _holds("blocks of ratings that share nothing", _apart)
    yield _holds("zeros are ratings, in memory and on disk", _zeros_are_ratings)
    if installed("torch"):
        yield _holds("cliques, on torch", lambda: _cliques("ials", fit=_on_torch))
