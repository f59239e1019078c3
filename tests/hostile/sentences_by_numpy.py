"""What sentences of the documentation say, in float64 by NumPy: rows by least squares, lists by sorting."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

import lfm_np as library

from .working_days import csr, start

lfm_np: Any = library
losses: Any = library.losses
sampling: Any = library.sampling


class Rule(NamedTuple):
    """The parameters of the objective of `als`, with its documented defaults."""

    weighting: str = "hu-koren"
    alpha: float = 1.0
    a0: float = 1.0
    lam: float = 0.01
    nu: float = 0.0

    @property
    def words(self) -> dict[str, Any]:
        words: dict[str, Any] = {
            "weighting": self.weighting,
            "regularization": self.lam,
            "regularization_exponent": self.nu,
        }
        return words if self.weighting == "ratings" else {**words, "alpha": self.alpha, "unobserved_weight": self.a0}

    @property
    def empty(self) -> float:
        return 0.0 if self.weighting == "ratings" else self.a0

    def cell(self, x: float) -> tuple[float, float]:
        """Confidence and target of a stored value, as the table of `als` has them."""
        if self.weighting == "hu-koren":
            return 1 + self.alpha * x, 1.0
        if self.weighting == "ials":
            c = self.a0 + self.alpha * x
            return c, self.alpha * x / c if c else 0.0
        if self.weighting == "confidence":
            return self.alpha * x, 1.0
        return 1.0, x

    def strength(self, stored: int, others: int) -> float:
        n = stored + self.empty * others
        return self.lam * (n**self.nu if self.nu else 1.0)

    def row(self, x: np.ndarray, V: np.ndarray, offset: Any = 0.0, ones: bool = False) -> np.ndarray:
        """The minimiser for one row by least squares on stacked equations; with ``ones`` its bias comes last."""
        Y = np.column_stack([V, np.ones(len(V))]) if ones else V
        offset = np.broadcast_to(offset, x.shape)
        left, right = [], []
        for i, value in enumerate(x):
            c, p = (self.empty, 0.0) if np.isnan(value) else self.cell(value)
            if c:
                left.append(np.sqrt(c) * Y[i])
                right.append(np.sqrt(c) * (p - offset[i]))
        size = Y.shape[1]
        held = np.sqrt(self.strength(int((~np.isnan(x)).sum()), len(x)))
        A = np.vstack([*left, held * np.eye(size)])
        return np.linalg.lstsq(A, np.concatenate([right, np.zeros(size)]), rcond=None)[0]

    def half(self, X: np.ndarray, V: np.ndarray) -> np.ndarray:
        return np.array([self.row(x, V) if (~np.isnan(x)).any() else np.zeros(V.shape[1]) for x in X])

    def sweeps(self, X: np.ndarray, V: np.ndarray, times: int = 1) -> tuple[np.ndarray, np.ndarray]:
        for _ in range(times):
            U = self.half(X, V)
            V = self.half(X.T, U)
        return U, V

    def cost(self, X: np.ndarray, U: np.ndarray, V: np.ndarray, b: Any = None, d: Any = None, mu: float = 0.0) -> float:
        """J, cell after cell; b and d are the biases of rows and columns."""
        b = np.zeros(len(U)) if b is None else b
        d = np.zeros(len(V)) if d is None else d
        total = 0.0
        for u in range(X.shape[0]):
            for i in range(X.shape[1]):
                s = float(mu + b[u] + d[i] + U[u] @ V[i])
                c, p = (self.empty, 0.0) if np.isnan(X[u, i]) else self.cell(X[u, i])
                total += c * (p - s) ** 2
        for cells, F, bias in ((X, U, b), (X.T, V, d)):
            for x, f, one in zip(cells, F, bias, strict=True):
                total += self.strength(int((~np.isnan(x)).sum()), len(x)) * (float(f @ f) + float(one) ** 2)
        return total

    def fit(self, X: np.ndarray, k: int = 3, times: int = 2, **more: Any) -> Any:
        """`als` from `begun`, in float64."""
        words = {"factors": k, "iterations": times, "init": begun(X, k), "dtype": "float64", **self.words, **more}
        return lfm_np.als(csr(X), **words)


def begun(X: np.ndarray, k: int = 3) -> tuple[np.ndarray, np.ndarray]:
    return start(X.shape[0], X.shape[1], k)


def with_gaps(seed: int = 0, m: int = 14, n: int = 10) -> np.ndarray:
    """Whole values of 1 to 5 and NaN, two rows and a column of which are empty, and one row full."""
    draw = np.random.default_rng(seed)
    X = np.where(draw.random((m, n)) < 0.4, draw.integers(1, 6, (m, n)), np.nan)
    X[:, 1] = draw.integers(1, 6, m)
    X[5] = draw.integers(1, 6, n)
    X[[2, m - 1]] = np.nan
    X[:, 4] = np.nan
    return X


def product(factors: Any) -> np.ndarray:
    return factors.user_factors.astype(np.float64) @ factors.item_factors.astype(np.float64).T


def near(a: Any, b: Any, tolerance: float = 1e-9) -> bool:
    """Equal shapes, and differences of at most so much of the largest magnitude (or of one)."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return a.shape == b.shape and bool(abs(a - b).max(initial=0.0) <= tolerance * max(1.0, abs(b).max(initial=0.0)))


def canonical(factors: Any, tolerance: float = 1e-6) -> bool:
    """VᵀV is diagonal, and its diagonal descends."""
    V = factors.item_factors.astype(np.float64)
    G = V.T @ V
    diagonal = np.diag(G).copy()
    off = abs(G - np.diag(diagonal)).max()
    return bool(off <= tolerance * diagonal.max() and (np.diff(diagonal) <= tolerance * diagonal.max()).all())


def sigmoid(x: float) -> float:
    return float(1 / (1 + np.exp(-x)))


def ranked(scores: np.ndarray, allowed: Any, N: int) -> list[int]:
    """The N best of the allowed columns, the lower first where scores are equal, padded with -1."""
    order = sorted(allowed, key=lambda i: (-float(scores[i]), i))[:N]
    return [int(i) for i in order] + [-1] * (N - len(order))
