"""Sweeps of `als` beside stacked least squares in float64, and minima that have a closed form."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

import lfm_np

from .case import Case, Group
from .working_days import close, csr, faultless, stars, wrong

_GROUP = Group("mathematicians")
_holds = faultless(_GROUP)
NAN = np.nan


class Sides(NamedTuple):
    """U, V, their biases and μ."""

    U: np.ndarray
    V: np.ndarray
    b: np.ndarray
    d: np.ndarray
    mu: float

    @property
    def scores(self) -> np.ndarray:
        return self.mu + self.b[:, None] + self.d + self.U @ self.V.T


class Sum(NamedTuple):
    """J with all m·n cells written out; X is dense, NaN where nothing is stored."""

    weighting: str = "hu-koren"
    alpha: float = 1.0
    a0: float = 1.0
    lam: float = 0.1
    nu: float = 0.0
    biased: bool = False

    @property
    def words(self) -> dict[str, Any]:
        same = {"weighting": self.weighting, "regularization": self.lam, "regularization_exponent": self.nu}
        if self.weighting == "ratings":
            return {**same, "biases": self.biased} if self.biased else same
        return {**same, "alpha": self.alpha, "unobserved_weight": self.a0}

    def cells(self, X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        has = ~np.isnan(X)
        C, P = np.full(X.shape, 0.0 if self.weighting == "ratings" else self.a0), np.zeros(X.shape)
        x = X[has]
        if self.weighting == "ratings":
            C[has], P[has] = 1.0, x
        elif self.weighting == "ials":
            C[has] = self.a0 + self.alpha * x
            P[has] = self.alpha * x / C[has]
        else:
            C[has], P[has] = (self.weighting == "hu-koren") + self.alpha * x, 1.0
        return C, P

    def penalties(self, X: np.ndarray) -> np.ndarray:
        a0 = 0.0 if self.weighting == "ratings" else self.a0
        return self.lam * ((~np.isnan(X)).sum(1) + a0 * X.shape[1]) ** self.nu

    def half(self, X: np.ndarray, Y: np.ndarray, others: Any = 0.0, mu: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
        """The rows of X and their biases, by least squares, which forms no products."""
        C, P = self.cells(X)
        design = np.column_stack([Y, np.ones(len(Y))]) if self.biased else Y
        width, rows = design.shape[1], []
        for c, p, penalty in zip(C, P - mu - others, self.penalties(X), strict=True):
            if width > 48:  # as good where λ is not small, and faster
                rows.append(np.linalg.solve((design.T * c) @ design + penalty * np.eye(width), design.T @ (c * p)))
                continue
            above = np.vstack([np.sqrt(c)[:, None] * design, np.sqrt(penalty) * np.eye(width)])
            rows.append(np.linalg.lstsq(above, np.concatenate([np.sqrt(c) * p, np.zeros(width)]), rcond=None)[0])
        found = np.array(rows)
        return (found[:, :-1], found[:, -1]) if self.biased else (found, np.zeros(len(X)))

    def start(self, X: np.ndarray, V: np.ndarray) -> Sides:
        mu = float(np.nanmean(X)) if self.biased else 0.0
        return Sides(np.zeros((len(X), V.shape[1])), V, np.zeros(len(X)), np.zeros(X.shape[1]), mu)

    def sweep(self, X: np.ndarray, s: Sides) -> Sides:
        U, b = self.half(X, s.V, s.d, s.mu)
        V, d = self.half(X.T, U, b, s.mu)
        return Sides(U, V, b, d, s.mu)

    def path(self, X: np.ndarray, V: np.ndarray, times: int) -> list[Sides]:
        found = [self.start(X, V)]
        for _ in range(times):
            found.append(self.sweep(X, found[-1]))
        return found[1:]

    def J(self, X: np.ndarray, s: Sides) -> float:
        C, P = self.cells(X)
        held = self.penalties(X) @ ((s.U**2).sum(1) + s.b**2) + self.penalties(X.T) @ ((s.V**2).sum(1) + s.d**2)
        return float((C * (P - s.scores) ** 2).sum() + held)

    def als(self, X: np.ndarray, V: np.ndarray, times: int, **words: Any) -> Any:
        given = {"dtype": "float64", "random_state": 0, "init": (np.zeros((len(X), V.shape[1])), V), **words}
        return lfm_np.als(csr(X), factors=V.shape[1], iterations=times, **self.words, **given)


def sides(fit: Any) -> Sides:
    U, V = (np.asarray(part, np.float64) for part in (fit.user_factors, fit.item_factors))
    b = np.zeros(len(U)) if fit.user_bias is None else np.asarray(fit.user_bias, np.float64)
    d = np.zeros(len(V)) if fit.item_bias is None else np.asarray(fit.item_bias, np.float64)
    return Sides(U, V, b, d, float(fit.global_bias or 0.0))


def scores_of(fit: Any) -> np.ndarray:
    """All of them; what is left of directions that have died out may be next to nothing."""
    with np.errstate(under="ignore"):
        return sides(fit).scores


def canonical(fit: Any, relative: float = 1e-9) -> bool:
    """VᵀV is diagonal, and descends."""
    V = fit.item_factors.astype(np.float64)
    with np.errstate(under="ignore"):
        G = V.T @ V
    diagonal, size = np.diag(G), max(1e-300, abs(G).max(initial=0))
    return bool(abs(G - np.diag(diagonal)).max() <= relative * size and (np.diff(diagonal) <= relative * size).all())


def lengths(fit: Any) -> np.ndarray:
    """The diagonal of VᵀV."""
    with np.errstate(under="ignore"):
        return (fit.item_factors.astype(np.float64) ** 2).sum(0)


def first(n: int, k: int, seed: int = 0, scale: float = 0.4) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, scale, (n, k))


def some(m: int, n: int, share: float, seed: int = 0, high: float = 4.0) -> np.ndarray:
    """Values between 0.25 and ``high``, as they come: rows and columns may be empty."""
    draw = np.random.default_rng(seed)
    return np.where(draw.random((m, n)) < share, draw.uniform(0.25, high, (m, n)), NAN)


def beside(model: Sum, X: np.ndarray, k: int, times: int = 2, relative: float = 1e-8, **words: Any) -> list[str]:
    """A fit from the same V, its history and `objective` beside the sums."""
    V = first(X.shape[1], k)
    path, fit = model.path(X, V, times), model.als(X, V, times, **words)
    J = [model.J(X, s) for s in path]
    return wrong(
        scores=close(scores_of(fit), path[-1].scores, relative),
        history=close([record["objective"] for record in fit.history], J, 10 * relative),
        objective=close(lfm_np.objective(csr(X), fit), J[-1], 10 * relative),
        canonical=canonical(fit),
    )


def _empty_everywhere(model: Sum) -> list[str]:
    X = some(14, 11, 0.4, 3)
    X[[0, 6]], X[:, [2, 10]] = NAN, NAN
    fit = model.als(X, first(11, 4), 2)
    zero = not fit.user_factors[[0, 6]].any() and not fit.item_factors[[2, 10]].any()
    biases = not model.biased or not (fit.user_bias[[0, 6]].any() or fit.item_bias[[2, 10]].any())
    return beside(model, X, 4) + wrong(zero=zero, biases=biases)


def _full_but_two(m: int, n: int) -> np.ndarray:
    X = some(m, n, 1.1, 5, 1.0)
    X[0, 0] = X[m - 1, n - 1] = NAN
    return X


def _one_row() -> list[str]:
    X = np.full((7, 30), NAN)
    X[3] = np.linspace(0.5, 4, 30)
    model = Sum("ials", 2.0, 0.3, 0.2, 0.5)
    fit = model.als(X, first(30, 6), 3)
    rank = np.linalg.matrix_rank(fit.item_factors, tol=1e-8)
    return beside(model, X, 6, 3) + wrong(others=not np.delete(fit.user_factors, 3, 0).any(), rank=rank == 1)


def _twins() -> list[str]:
    X = some(25, 9, 0.5, 8)
    X[:, 7], X[:, 8], X[20] = X[:, 1], X[:, 4], X[2]
    model = Sum("confidence", 3.0, 0.5, 0.1, 1.0)
    fit = model.als(X, first(9, 3), 4)
    U, V = fit.user_factors, fit.item_factors
    return beside(model, X, 3, 4) + wrong(columns=close(V[[7, 8]], V[[1, 4]], 1e-11), rows=close(U[20], U[2], 1e-11))


def _scaled(size: float) -> list[str]:
    """All weights and λ times ``size`` have the same minimisers."""
    X, plain = some(16, 13, 0.4, 9), Sum("confidence", 1.5, 0.75, 0.25)
    V = first(13, 5)
    fit = plain._replace(alpha=1.5 * size, a0=0.75 * size, lam=0.25 * size).als(X, V, 3)
    path = plain.path(X, V, 3)
    return wrong(
        scores=close(scores_of(fit), path[-1].scores, 1e-9),
        J=close([r["objective"] for r in fit.history], [size * plain.J(X, s) for s in path], 1e-8),
    )


def _weightless(model: Sum) -> list[str]:
    """What is wanted has no weight, or is 0: nothing is left but zeros, and J with them is 0."""
    fit = model.als(some(9, 8, 0.4), first(8, 3), 3)
    return wrong(
        zeros=not fit.user_factors.any() and not fit.item_factors.any(), J=abs(fit.history[-1]["objective"]) < 1e-12
    )


def _shrunk(X: np.ndarray, threshold: float, k: int) -> tuple[np.ndarray, np.ndarray]:
    L, s, R = np.linalg.svd(X, full_matrices=False)
    left = np.maximum(s[:k] - threshold, 0)
    return (L[:, :k] * left) @ R[:k], left


def _spectrum(m: int, n: int, values: list[float], seed: int = 4) -> np.ndarray:
    draw = np.random.default_rng(seed)
    L, _ = np.linalg.qr(draw.normal(size=(m, len(values))))
    R, _ = np.linalg.qr(draw.normal(size=(n, len(values))))
    return (L * values) @ R.T


def _soft(nu: float, k: int) -> list[str]:
    """All cells rated: the minimum is the SVD, each singular value less √(λ_u·λ_i), and V has √(λ_u/λ_i) of it."""
    X = _spectrum(14, 9, [40.0, 25.0, 15.0, 1.5, 1.0, 0.5])
    model = Sum("ratings", lam=0.25 if nu else 3.0, nu=nu)
    on_users, on_items = 0.25 * 9.0**nu if nu else 3.0, 0.25 * 14.0**nu if nu else 3.0
    threshold = np.sqrt(on_users * on_items)
    S, left = _shrunk(X, threshold, k)
    fit = model.als(X, first(9, k), 120)
    s = np.linalg.svd(X, compute_uv=False)
    kept = np.where(np.arange(len(s)) < k, np.maximum(s - threshold, 0), 0)
    J = ((s - kept) ** 2).sum() + 2 * threshold * kept.sum()
    return wrong(
        scores=close(scores_of(fit), S, 1e-8),
        J=close(fit.history[-1]["objective"], J, 1e-9),
        lengths=close(lengths(fit)[:9], left * np.sqrt(on_users / on_items), 1e-7),
        rest=lengths(fit)[9:].sum() < 1e-12,
        canonical=canonical(fit, 1e-8),
    )


def _unheld() -> list[str]:
    """Without λ the minimum over all cells is the SVD cut off."""
    X = _spectrum(11, 13, [30.0, 20.0, 10.0, 1.0, 0.5])
    fit = Sum("ratings", lam=0.0, nu=1.0).als(X, first(13, 3), 60)
    return wrong(
        scores=close(scores_of(fit), _shrunk(X, 0.0, 3)[0], 1e-9),
        J=close(fit.history[-1]["objective"], 1.25, 1e-8),
    )


def _pattern(weight: float, lam: float) -> list[str]:
    """Every cell weighs the same: the SVD of the zeros and ones, less λ over the weight."""
    draw = np.random.default_rng(6)
    ones = np.zeros((20, 15))
    ones[:9, :6] = ones[9:, 6:] = 1
    ones[draw.integers(0, 20, 12), draw.integers(0, 15, 12)] = 1
    X = np.where(ones > 0, 1.0, NAN)
    S, _ = _shrunk(ones, lam / weight, 2)
    model = Sum("confidence", weight, weight, lam)
    assert np.linalg.svd(ones, compute_uv=False)[2] < 0.8 * lam / weight
    fit = model.als(X, first(15, 6), 200)
    return wrong(scores=close(scores_of(fit), S, 1e-8), rank=lengths(fit)[2:].sum() < 1e-12)


def _blocks(solver: str, dtype: str, k: int) -> list[str]:
    """Blocks of ones of r × s: every solver ends with 1 - λ/√(r·s) in them, and 0 elsewhere."""
    X, S, lam = np.full((90, 70), NAN), np.zeros((90, 70)), 5.0
    for rows, columns in ((slice(0, 40), slice(0, 25)), (slice(40, 70), slice(25, 50)), (slice(70, 90), slice(50, 70))):
        size = (rows.stop - rows.start) * (columns.stop - columns.start)
        X[rows, columns], S[rows, columns] = 1.0, 1 - lam / np.sqrt(size)
    fit = Sum(alpha=0.0, lam=lam).als(X, first(70, k, scale=0.1), 60, solver=solver, dtype=dtype)
    J = sum(2 * lam * s - lam**2 for s in np.sqrt([1000, 750, 400]))
    tight, loose = (1e-8, 1e-9) if dtype == "float64" else (2e-5, 1e-5)
    return wrong(scores=close(scores_of(fit), S, tight), J=close(fit.history[-1]["objective"], J, loose))


def _one_cell() -> list[str]:
    """c(1 - uv)² + λ(u² + v²) is least where uv = 1 - λ/c."""
    found = []
    for x, k in ((3.0, 1), (0.5, 4), (7.0, 17)):
        fit = Sum(alpha=2.0, lam=0.4).als(np.array([[x]]), first(1, k), 200)
        c = 1 + 2 * x
        found += [
            close(scores_of(fit), [[1 - 0.4 / c]], 1e-10),
            close(fit.history[-1]["objective"], 0.8 - 0.4**2 / c, 1e-10),
        ]
    return wrong(all=all(found))


def _dies() -> list[str]:
    """A λ above the greatest singular value leaves nothing but the sum of the weights."""
    X = some(10, 12, 0.3, 2)
    lam = 3 * np.sqrt((~np.isnan(X)).sum())
    fit = Sum(alpha=0.0, lam=float(lam)).als(X, first(12, 4, scale=1.0), 10)
    return wrong(
        zeros=bool(abs(scores_of(fit)).max() < 1e-12),
        J=close(fit.history[-1]["objective"], float((~np.isnan(X)).sum()), 1e-12),
    )


def each(label: str, of: Iterable[Any], call: Callable[[Any], list[str]]) -> Callable[[], list[str]]:
    """What is wrong with any of several."""
    several = list(of)
    return lambda: [f"{label} {n}: {fault}" for n, one in enumerate(several) for fault in call(one)]


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    for model in (
        Sum("confidence", 2.0, 0.03, 0.1, 0.37),
        Sum("ratings", lam=0.2, nu=1.0),
        Sum("ratings", lam=0.2, nu=1.0, biased=True),
        Sum("hu-koren", 1.0, 0.0, 0.1, 2.0),
    ):
        name = f"{model.weighting}{', biases' * model.biased}, ν = {model.nu:g}"
        yield _holds(
            f"empty rows and columns have no penalty and no factors: {name}", lambda m=model: _empty_everywhere(m)
        )
    yield _holds("little of ials, ν = 2", lambda: beside(Sum("ials", 0.25, 4.0, 1e-3, 2.0), some(15, 12, 0.5), 5, 3))
    yield _holds(
        "stored cells weigh less than others, rows all but full",
        each("k", (3, 12, 40), lambda k: beside(Sum("hu-koren", 0.5, 5.0, 0.3), _full_but_two(13, 12), k)),
    )
    yield _holds(
        "stored cells weigh less than others, few cells, k = 33",
        lambda: beside(Sum("confidence", 0.1, 2.0, 0.3, 0.5), some(40, 30, 0.08, 2), 33),
    )
    yield _holds(
        "ials of 127 to 129 factors",
        each("k", (127, 128, 129), lambda k: beside(Sum("ials", 3.0, 0.5, 0.2, 0.5), some(9, 21, 0.5), k, 1)),
    )
    yield _holds(
        "ratings with biases and 255 to 257 factors",
        each("k", (255, 256, 257), lambda k: beside(Sum("ratings", lam=0.3, nu=1.0, biased=True), stars(5, 7), k, 1)),
    )
    yield _holds("one factor, many rows", lambda: beside(Sum("ials", 5.0, 0.1, 0.2), some(257, 6, 0.4), 1, 3))
    yield _holds(
        "one row, one column, one cell",
        each(
            "shape",
            ((1, 19), (19, 1), (1, 1)),
            lambda s: beside(Sum("hu-koren", 2.0, 0.5, 0.1, 1.0), some(s[0], s[1], 1.1), 3, 3),
        ),
    )
    yield _holds("one row has everything", _one_row)
    yield _holds(
        "one column has everything, biases",
        lambda: beside(
            Sum("ratings", lam=0.1, biased=True), np.where(np.arange(6) == 2, stars(23, 6, share=1.1), NAN), 4, 3
        ),
    )
    yield _holds("equal columns get equal factors", _twins)
    yield _holds("all weights times 2^-30 or 2^40", each("size", (2.0**-30, 2.0**40), _scaled))
    yield _holds(
        "α of 1e6 beside α₀ of 1e-3",
        lambda: beside(Sum("confidence", 1e6, 1e-3, 0.1), some(12, 14, 0.4), 4, 1, relative=1e-6),
    )
    yield _holds("α of 1e-9 is as good as none", lambda: beside(Sum(alpha=1e-9, lam=0.5), some(15, 11, 0.4), 6, 3))
    yield _holds(
        "confidence and ials of α = 0",
        each("model", (Sum("confidence", 0.0, 1.0, 0.1), Sum("ials", 0.0, 0.5, 0.1, 1.0)), _weightless),
    )
    yield _holds("the SVD, shrunk by λ", each("k", (3, 20), lambda k: _soft(0.0, k)))
    yield _holds("the SVD, shrunk by two λ, ν = 1", lambda: _soft(1.0, 3))
    yield _holds("the SVD, cut off", _unheld)
    yield _holds("zeros and ones, shrunk by λ over the weight", lambda: _pattern(4.0, 14.0))
    for solver, dtype, k in (("cg", "float64", 70), ("subspace", "float64", 130), ("auto", "float32", 64)):
        yield _holds(f"blocks by {solver} in {dtype}, k = {k}", lambda s=solver, d=dtype, k=k: _blocks(s, d, k))
    yield _holds("one cell", _one_cell)
    yield _holds("nothing survives a great λ", _dies)
