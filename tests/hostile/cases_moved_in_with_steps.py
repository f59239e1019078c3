"""Minima of closed form, and steps that can be foretold, for who came from scikit-learn, Surprise and lightfm."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import product as pairs
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp

from .case import Case, Group
from .cases_moved_in_with_fits import F64, NAME, all_of, swept
from .sentences_by_numpy import lfm_np, losses, near, product, sampling, sigmoid, with_gaps
from .working_days import csr, faultless, stars, start, wrong

_holds = faultless(Group(NAME))


def soft(X: np.ndarray, k: int, lam: float) -> tuple[np.ndarray, np.ndarray, float]:
    """The minimum of ‖X - UVᵀ‖² + λ(‖U‖² + ‖V‖²): singular values less λ; scores, those values, and J."""
    P, s, Qt = np.linalg.svd(X, full_matrices=False)
    left = np.maximum(s[:k] - lam, 0)
    J = (np.minimum(s[:k], lam) ** 2 + 2 * lam * left).sum() + (s[k:] ** 2).sum()
    return (P[:, :k] * left) @ Qt[:k], left, float(J)


def shaped(values: tuple[float, ...], m: int = 9, n: int = 7) -> np.ndarray:
    draw = np.random.default_rng(3)
    P, Q = (np.linalg.qr(draw.normal(size=(size, len(values))))[0] for size in (m, n))
    return np.asarray((P * values) @ Q.T)


def _converged(fit: Any, X: np.ndarray, k: int, lam: float) -> list[str]:
    S, left, J = soft(X, k, lam)
    G, H = (F.T @ F for F in (fit.user_factors, fit.item_factors))
    return wrong(
        scores=near(product(fit), S, 1e-7),
        objective=near(fit.history[-1]["objective"], J, 1e-9),
        items=near(H, np.diag(left), 1e-6),
        users=near(G, np.diag(left), 1e-6),
    )


def _truncated_svd(lam: float) -> list[str]:
    """All cells are ratings, also negative ones: the truncated SVD, its values less λ; both sides share them evenly."""
    X = shaped((6.0, 4.0, 2.0, 0.5))
    fit = lfm_np.als(
        sp.csr_array(X), factors=3, weighting="ratings", regularization=lam, iterations=80, init=start(9, 7, 3), **F64
    )
    return _converged(fit, X, 3, lam)


BOUGHT = np.kron(np.eye(3), np.ones((3, 2)))[:, [0, 2, 4, 1, 3]]  # singular values √6, √6, √3


def _pure_svd(weighting: str, alpha: float) -> list[str]:
    """Cells of weight 1 like all others: the SVD of the matrix of ones and zeros."""
    X = np.where(BOUGHT > 0, 1.0, np.nan)
    X[0, 1] = 1.0
    fit = lfm_np.als(
        csr(X),
        factors=2,
        weighting=weighting,
        alpha=alpha,
        regularization=0.9,
        iterations=150,
        init=start(9, 5, 2),
        **F64,
    )
    return _converged(fit, np.nan_to_num(X), 2, 0.9)


def _exact_rank() -> list[str]:
    """λ = 0, and all cells of a matrix of rank 2: one sweep finds it."""
    X = shaped((5.0, 3.0), 6, 8)
    fit = lfm_np.als(
        sp.csr_array(X), factors=2, weighting="ratings", regularization=0.0, iterations=1, init=start(6, 8, 2), **F64
    )
    return wrong(scores=near(product(fit), X, 1e-9), paid=abs(fit.history[-1]["objective"]) < 1e-9)


def _stopped() -> list[str]:
    """The callback of docs/tuning.md ends the run after its third sweep."""
    X = stars(10, 8, 13)

    def watch(record: Any, factors: Any) -> None:
        record["mine"] = float(abs(factors.user_factors).max())
        if record["iteration"] == 3:
            raise StopIteration

    fit = lfm_np.als(csr(X), factors=2, regularization=0.4, iterations=9, init=start(10, 8, 2), callback=watch, **F64)
    U, V = swept(X, start(10, 8, 2)[1], 3, lambda x: (1 + x, 1.0), 1.0, lambda n: 0.4)
    return wrong(
        scores=near(product(fit), U @ V.T), sweeps=len(fit.history) == 3, status=fit.status == lfm_np.Status.STOPPED,
        kept=near(fit.history[-1]["mine"], abs(fit.user_factors).max()),
    )  # fmt: skip


def _same_strength() -> list[str]:
    """same_strength of docs/tuning.md: rows of length one pay the same in all for every ν."""
    X, a0, strength = csr(with_gaps(6)), 0.05, 0.003
    draw = np.random.default_rng(0)
    U, V = (F / np.linalg.norm(F, axis=1)[:, None] for F in (draw.normal(size=(s, 3)) for s in (14, 10)))
    model = lfm_np.Factors(U, V)
    sides = (np.diff(X.indptr) + a0 * 10, np.bincount(X.indices, minlength=10) + a0 * 14)
    words = {"weighting": "ials", "alpha": 1.0, "unobserved_weight": a0}
    free = lfm_np.objective(X, model, regularization=0.0, regularization_exponent=0.0, **words)
    paid = []
    for nu in (0.0, 0.3, 1.0, 2.0):
        lam = strength * sum(n.sum() for n in sides) / sum((n**nu).sum() for n in sides)
        paid.append(lfm_np.objective(X, model, regularization=lam, regularization_exponent=nu, **words) - free)
    return wrong(same=near(paid, np.full(4, strength * sum(n.sum() for n in sides)), 1e-10))


def _objective_of_arrays() -> list[str]:
    """Factors that know nothing of a fit: the defaults of `als`, and float64 for float32 arrays."""
    X = stars(9, 7, 14)
    U, V = (F.astype(np.float32) for F in start(9, 7, 3))
    S, has = U.astype(np.float64) @ V.astype(np.float64).T, ~np.isnan(X)
    J = ((1 + X[has]) * (1 - S[has]) ** 2).sum() + (S[~has] ** 2).sum()
    J += 0.01 * sum((F.astype(np.float64) ** 2).sum() for F in (U, V))
    return wrong(loss=near(lfm_np.objective(csr(X), lfm_np.Factors(U, V)) / J, 1.0, 1e-12))


STARS = np.array([4.0, 1.0, 5.0, 3.0, 0.0, -2.0])  # a rating of each user for an item that nobody else has


def _surprise_svd(schedule: str) -> list[str]:
    """No two cells share a row or a column, so that their order does not matter; μ may be searched for, to 1e-6."""
    (P, Q), mu = start(6, 6, 3), float(STARS.mean())
    bu, bi = np.linspace(-0.3, 0.4, 6), np.linspace(0.2, -0.5, 6)
    begin = lfm_np.Factors(P, Q, user_bias=bu.copy(), item_bias=bi.copy(), global_bias=99.0)
    lam = {"user": 0.02, "item": 0.05, "bias": 0.1}
    fit = lfm_np.sgd(
        sp.csr_array((STARS, (np.arange(6), np.arange(6)))),
        losses.Squared(), sampler=None, factors=3, epochs=20, learning_rate=0.05, schedule=schedule,
        regularization=lam, biases=True, init=begin, random_state=0, **F64,
    )  # fmt: skip
    for epoch in range(20):
        rate = 0.05 / (1 + epoch / 10) if schedule == "inverse" else 0.05
        e = STARS - (mu + bu + bi + (P * Q).sum(1))
        bu, bi = bu + rate * (e - 0.1 * bu), bi + rate * (e - 0.1 * bi)
        P, Q = P + rate * (e[:, None] * Q - 0.02 * P), Q + rate * (e[:, None] * P - 0.05 * Q)
    return wrong(
        mean=near(fit.global_bias, mu, 1e-6), biases=near(fit.user_bias, bu, 1e-6) and near(fit.item_bias, bi, 1e-6),
        scores=near(all_of(fit), mu + bu[:, None] + bi + P @ Q.T, 2e-6),
        paid=near(fit.history[-1]["sampled_loss"], (e**2).mean() / 2, 1e-5),
    )  # fmt: skip


def _counts_by_adagrad() -> list[str]:
    """Poisson counts of cells that share nothing; every row has its sum, λ in the slopes."""
    x, (P, Q) = np.array([3.0, 1.0, 7.0, 2.0, 4.0]), start(5, 5, 2)
    fit = lfm_np.sgd(
        sp.csr_array(np.diag(x)), losses.Poisson(), sampler=None, factors=2, epochs=12, learning_rate=0.2,
        schedule="adagrad", regularization={"user": 0.03, "item": 0.01}, init=start(5, 5, 2), random_state=0, **F64,
    )  # fmt: skip
    sums = np.zeros((2, 5))
    for _ in range(12):
        g = (np.exp((P * Q).sum(1)) - x)[:, None]
        slopes = g * Q + 0.03 * P, g * P + 0.01 * Q
        sums += [(s**2).mean(1) for s in slopes]
        rates = 0.2 / np.sqrt(1 + sums)
        P, Q = P - rates[0][:, None] * slopes[0], Q - rates[1][:, None] * slopes[1]
    return wrong(scores=near(product(fit), P @ Q.T))


class PlusMinus(NamedTuple):
    """lightfm's logistic loss of cells of +1 and -1."""

    scale: float = 1.0

    def value(self, score: float, target: float) -> float:
        z = -target * score
        return self.scale * (max(z, 0.0) + math.log1p(math.exp(-abs(z))))

    def gradient(self, score: float, target: float) -> float:
        return -self.scale * target / (1.0 + math.exp(min(target * score, 700.0)))


def _plus_minus() -> list[str]:
    """μ is the logit of the share of +1: log 5/3. It is searched for, to 1e-6 at least."""
    y, (P, Q) = np.array([1.0, 1, -1, 1, -1, -1, 1, 1]), start(8, 8, 2)
    fit = lfm_np.sgd(
        sp.csr_array(np.diag(y)), PlusMinus(), sampler=None, factors=2, epochs=10, learning_rate=0.1, biases=True,
        regularization=0.02, init=start(8, 8, 2), random_state=0, **F64,
    )  # fmt: skip
    mu, bu, bi = math.log(5 / 3), np.zeros(8), np.zeros(8)
    for _ in range(10):
        g = -y / (1 + np.exp(y * (mu + bu + bi + (P * Q).sum(1))))
        bu, bi = bu - 0.1 * (g + 0.02 * bu), bi - 0.1 * (g + 0.02 * bi)
        P, Q = P - 0.1 * (g[:, None] * Q + 0.02 * P), Q - 0.1 * (g[:, None] * P + 0.02 * Q)
    return wrong(mean=near(fit.global_bias, mu, 1e-6), scores=near(all_of(fit), mu + bu[:, None] + bi + P @ Q.T, 2e-6))


def _constant(loss: Any, negatives: int, expected: Any) -> list[str]:
    """μ fits all stored cells and as many negatives each; no row is full."""
    X = stars(15, 12, 15)
    fit = lfm_np.sgd(csr(X), loss, negatives=negatives, factors=2, epochs=1, biases=True, random_state=0, **F64)
    return wrong(mean=near(fit.global_bias, expected(X[~np.isnan(X)]), 1e-6))


def _implicit_bpr(values: tuple[float, float], weighted: bool) -> list[str]:
    """Two users with an item each, so that the other's is the negative: one of two orders in each of two epochs."""
    (P, Q), d = start(2, 2, 2), np.array([0.3, -0.2])
    fit = lfm_np.sgd(
        sp.csr_array(np.diag(values)), losses.BPR(weighted), sampler=sampling.Popularity(1.0), biases="item", factors=2,
        epochs=2, learning_rate=0.1, regularization=0.01, init=lfm_np.Factors(P, Q, item_bias=d.copy()),
        random_state=0, **F64,
    )  # fmt: skip
    hits = []
    for orders in pairs(((0, 1), (1, 0)), repeat=2):
        U, V, b = P.copy(), Q.copy(), d.copy()
        for u in orders[0] + orders[1]:
            i, j = u, 1 - u
            z = sigmoid(-(U[u] @ (V[i] - V[j]) + b[i] - b[j])) * (values[u] if weighted else 1.0)
            one = U[u].copy()
            U[u] += 0.1 * (z * (V[i] - V[j]) - 0.01 * U[u])
            V[i] += 0.1 * (z * one - 0.01 * V[i])
            V[j] += 0.1 * (-z * one - 0.01 * V[j])
            b[i] += 0.1 * (z - 0.01 * b[i])
            b[j] += 0.1 * (-z - 0.01 * b[j])
        hits.append(near(product(fit) + fit.item_bias, U @ V.T + b, 1e-12))
    return wrong(one=any(hits))


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    for lam in (1.5, 3.0):
        yield _holds(f"TruncatedSVD: singular values less {lam:g}", lambda a=lam: _truncated_svd(a))
    for weighting, alpha in (("hu-koren", 0.0), ("confidence", 1.0)):
        yield _holds(f"PureSVD: {weighting} with α = {alpha:g}", lambda a=weighting, b=alpha: _pure_svd(a, b))
    yield _holds("TruncatedSVD: a matrix of rank two in a sweep", _exact_rank)
    yield _holds("Optuna: a callback that ends the run", _stopped)
    yield _holds("Optuna: the same strength for every exponent", _same_strength)
    yield _holds("implicit: the objective of bare arrays", _objective_of_arrays)
    for schedule in ("constant", "inverse"):
        yield _holds(f"Surprise: SVD, twenty epochs, {schedule}", lambda a=schedule: _surprise_svd(a))
    yield _holds("lightfm: counts by adagrad", _counts_by_adagrad)
    yield _holds("lightfm: logistic of plus and minus one", _plus_minus)
    for name, loss, M, expected in (
        ("weighted Logistic", losses.Logistic(True), 3, lambda x: math.log(x.sum() / (3 * len(x)))),
        ("Poisson", losses.Poisson(), 2, lambda x: math.log(x.sum() / (3 * len(x)))),
        ("Squared", losses.Squared(), 4, lambda x: x.sum() / (5 * len(x))),
    ):
        yield _holds(f"lightfm: μ of {name} beside {M} negatives", lambda a=loss, b=M, c=expected: _constant(a, b, c))
    for name, values, weighted in (
        ("implicit: BPR of two users, negatives by popularity", (1.0, 5.0), False),
        ("lightfm: the same with a weight for each sample", (3.0, 0.5), True),
    ):
        yield _holds(name, lambda a=values, b=weighted: _implicit_bpr(a, b))
