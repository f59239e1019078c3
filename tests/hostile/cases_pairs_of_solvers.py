"""Options of `als` that are rarely used together, beside least squares on stacked equations in float64."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp

import lfm_np as library

from .case import Case, Group
from .working_days import csr, faultless, folder, start, wrong

lfm_np: Any = library
PAIRS = Group("pairs of options")
_holds = faultless(PAIRS)


class Found(NamedTuple):
    """What the oracle has after some sweeps."""

    U: np.ndarray
    V: np.ndarray
    b: np.ndarray
    d: np.ndarray
    mu: float
    paid: list[tuple[float, float]]

    @property
    def scores(self) -> np.ndarray:
        return self.mu + self.b[:, None] + self.d + self.U @ self.V.T


class Ask(NamedTuple):
    """Parameters of the objective, as the docstring of `als` has them."""

    weighting: str = "hu-koren"
    alpha: float = 1.0
    a0: float = 1.0
    lam: float = 0.1
    nu: float = 0.0
    biases: bool = False

    @property
    def half(self) -> dict[str, Any]:
        """The arguments of a half-step."""
        words: dict[str, Any] = {"weighting": self.weighting, "regularization": self.lam}
        words["regularization_exponent"] = self.nu
        return words if self.weighting == "ratings" else {**words, "alpha": self.alpha, "unobserved_weight": self.a0}

    @property
    def words(self) -> dict[str, Any]:
        return {**self.half, "biases": True} if self.biases else self.half

    @property
    def empty(self) -> float:
        return 0.0 if self.weighting == "ratings" else self.a0

    def weights(self, X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Confidence and target of every cell; NaN is a cell that is not stored."""
        C, P = np.full(X.shape, self.empty), np.zeros(X.shape)
        for place in zip(*np.nonzero(~np.isnan(X)), strict=True):
            x = float(X[place])
            if self.weighting == "hu-koren":
                C[place], P[place] = 1 + self.alpha * x, 1.0
            elif self.weighting == "ials":
                c = self.a0 + self.alpha * x
                C[place], P[place] = c, self.alpha * x / c if c else 0.0
            elif self.weighting == "confidence":
                C[place], P[place] = self.alpha * x, 1.0
            else:
                C[place], P[place] = 1.0, x
        return C, P

    def held(self, x: np.ndarray) -> float:
        """λ of a row."""
        return float(self.lam * (float((~np.isnan(x)).sum()) + self.empty * len(x)) ** self.nu)

    def rows(self, X: np.ndarray, V: np.ndarray, off: Any = 0.0, ones: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """Factors and biases (zero without ``ones``) of the rows of X from the other side's."""
        Y = np.column_stack([V, np.ones(len(V))]) if ones else V
        C, P = self.weights(X)
        found = np.zeros((len(X), Y.shape[1]))
        for u, x in enumerate(X):
            if np.isnan(x).all():
                continue
            use, root = C[u] > 0, np.sqrt(C[u])
            A = np.vstack([(root[:, None] * Y)[use], np.sqrt(self.held(x)) * np.eye(Y.shape[1])])
            t = np.concatenate([(root * (P[u] - off))[use], np.zeros(Y.shape[1])])
            found[u] = np.linalg.lstsq(A, t, rcond=None)[0]
        return (found[:, :-1], found[:, -1]) if ones else (found, np.zeros(len(X)))

    def sweeps(self, X: np.ndarray, V: np.ndarray, times: int, d: Any = None) -> Found:
        mu = float(X[~np.isnan(X)].mean()) if self.biases else 0.0
        d, paid = np.zeros(len(V)) if d is None else d, []
        for _ in range(times):
            U, b = self.rows(X, V, mu + d, self.biases)
            before = self.cost(X, U, V, b, d, mu)
            V, d = self.rows(X.T, U, mu + b, self.biases)
            paid.append((before, self.cost(X, U, V, b, d, mu)))
        return Found(U, V, b, d, mu, paid)

    def cost(self, X: np.ndarray, U: Any, V: Any, b: Any = None, d: Any = None, mu: float = 0.0) -> float:
        """J, over every cell."""
        b = np.zeros(len(U)) if b is None else b
        d = np.zeros(len(V)) if d is None else d
        C, P = self.weights(X)
        total = float((C * (P - (mu + b[:, None] + d + U @ V.T)) ** 2).sum())
        for side, F, bias in ((X, U, b), (X.T, V, d)):
            total += sum(self.held(x) * float(f @ f + c * c) for x, f, c in zip(side, F, bias, strict=True))
        return total


def near(a: Any, b: Any, tolerance: float) -> bool:
    """Equal shapes, and differences of at most so much of the largest magnitude of b."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return a.shape == b.shape and bool(abs(a - b).max(initial=0.0) <= tolerance * max(1e-6, abs(b).max(initial=0.0)))


def scores_of(factors: Any) -> np.ndarray:
    S = factors.user_factors.astype(np.float64) @ factors.item_factors.astype(np.float64).T
    S = S if factors.item_bias is None else S + factors.item_bias.astype(np.float64)
    S = S if factors.user_bias is None else S + factors.user_bias.astype(np.float64)[:, None]
    return S if factors.global_bias is None else S + factors.global_bias


def gaps(m: int = 13, n: int = 9, seed: int = 0, share: float = 0.4, values: Any = (1, 2, 3, 4, 5)) -> np.ndarray:
    """Values here and there, NaN elsewhere; from four rows and columns on, a row and a column are empty, a row full."""
    draw = np.random.default_rng(seed)
    X = np.where(draw.random((m, n)) < share, draw.choice(values, (m, n)), np.nan).astype(np.float64)
    X[0, 0] = values[0]
    if min(m, n) > 3:
        X[1] = draw.choice(values, n)
        X[m - 2] = np.nan
        X[:, 2] = np.nan
    return X


@contextlib.contextmanager
def carried(kind: str, X: np.ndarray, zeros: str = "drop") -> Iterator[Any]:
    """The cells of X as something that `als` takes."""
    M = csr(X)
    if kind == "csc":
        yield sp.csc_array(M)
    elif kind == "halves":
        coo = M.tocoo()
        order = np.random.default_rng(1).permutation(2 * coo.nnz)
        data = np.concatenate([coo.data - 1, np.ones(coo.nnz)])[order]
        places = [np.concatenate([place, place])[order] for place in coo.coords]
        yield sp.coo_array((data, tuple(places)), shape=X.shape)
    elif kind == "integers":
        yield sp.csr_matrix(M.astype(np.int64))
    elif kind == "booleans":
        yield sp.csc_matrix(M.astype(bool))
    elif kind == "interactions":
        ids = np.arange(X.shape[0]) * 10 - 5, np.array([f"item {i:03}" for i in range(X.shape[1])])
        yield lfm_np.Interactions(M.astype(np.float32), *ids)
    elif kind in ("stored", "stored, factors too"):
        with folder() as place:
            made = lfm_np.StoredMatrix.from_matrix(M, place / "matrix", zeros=zeros, dtype="float64")
            if kind != "stored":
                (place / "factors").mkdir()
                made = lfm_np.StoredMatrix(place / "matrix", memory=256 << 20, factors_in=place / "factors")
            yield made
    else:
        yield M


def swept(
    ask: Ask, kind: str, X: np.ndarray, k: int, times: int, tol: float = 1e-8, solve: Any = None, **more: Any
) -> list[str]:
    begin = start(*X.shape, k)
    words = {"factors": k, "iterations": times, "init": begin, "dtype": "float64", **ask.words, **more}
    zeros = "keep" if ask.weighting == "ratings" else "drop"
    mine = ask.sweeps(X, begin[1], times)
    with carried(kind, X, zeros) as matrix:
        fit = (solve or lfm_np.als)(matrix, **words)
        V = fit.item_factors.astype(np.float64)
        G = V.T @ V
        top = max(np.diag(G).max(), 1e-300)
        facts: dict[str, Any] = {
            "scores": near(scores_of(fit), mine.scores, tol),
            "objective": near([r["objective"] for r in fit.history], [p for _, p in mine.paid], tol),
            "users": near([r["objective_users"] for r in fit.history], [p for p, _ in mine.paid], tol),
            "canonical": abs(G - np.diag(np.diag(G))).max() <= 1e2 * tol * top
            and (np.diff(np.diag(G)) <= 1e2 * tol * top).all(),
            "sweeps": [r["iteration"] for r in fit.history] == list(range(1, times + 1)),
        }
        if ask.biases:
            facts["mu"] = near(fit.global_bias, mine.mu, tol)
            facts["biases"] = near(fit.user_bias, mine.b, tol) and near(fit.item_bias, mine.d, tol)
    return wrong(**facts)


def _steps(ask: Ask, solver: str, kind: str, k: int) -> list[str]:
    """Whatever rows took a step: J never rises, and is that of the factors which come back."""
    X = gaps(48, 40, 5, 0.75)
    with carried(kind, X) as matrix:
        words = {"factors": k, "iterations": 4, "dtype": "float64", "random_state": 3, "solver": solver}
        fit = lfm_np.als(matrix, **words, **ask.words)
    told = [value for r in fit.history for value in (r["objective_users"], r["objective"])]
    best = ask.cost(X, ask.rows(X, fit.item_factors)[0], fit.item_factors)
    return wrong(
        falls=all(b <= a * (1 + 1e-12) for a, b in itertools.pairwise(told)),
        honest=near(told[-1], ask.cost(X, fit.user_factors, fit.item_factors), 1e-8),
        beyond=best <= told[-1] * (1 + 1e-9),
    )


def _same_v() -> list[str]:
    """The exact solver begins with the users, so that those of ``init`` do not matter."""
    ask, X = Ask("ials", 2.0, 0.2, 0.3, 1.0), gaps()
    U, V = start(*X.shape, 4)
    words = {"factors": 4, "iterations": 2, "dtype": "float64", "solver": "exact", **ask.words}
    fits = [lfm_np.als(csr(X), init=(W, np.asfortranarray(V)), **words) for W in (U, 100.0 * U[::-1], np.zeros_like(U))]
    mine = ask.sweeps(X, V, 2).scores
    return wrong(**{f"start {i}": near(scores_of(fit), mine, 1e-8) for i, fit in enumerate(fits)})


def _from_biases(dtype: str) -> list[str]:
    """A start that has items' biases."""
    ask, X = Ask("ratings", lam=0.4, nu=0.5, biases=True), gaps(values=(1, 2, 4.5))
    U, V = (f.astype(dtype) for f in start(*X.shape, 3))
    draw = np.random.default_rng(8)
    b, d = draw.normal(size=len(U)).astype(dtype), draw.normal(size=len(V)).astype(dtype)
    mu = float(X[~np.isnan(X)].mean())
    begin = lfm_np.Factors(U, V, user_bias=b, item_bias=d, global_bias=mu)
    fit = lfm_np.als(csr(X), factors=3, iterations=1, init=begin, dtype="float64", **ask.words)
    mine = ask.sweeps(X, V.astype(np.float64), 1, d.astype(np.float64))
    return wrong(
        scores=near(scores_of(fit), mine.scores, 1e-8), paid=near(fit.history[0]["objective"], mine.paid[0][1], 1e-8)
    )


def _twice(ask: Ask) -> list[str]:
    """Two fits in a row, the second from the first."""
    X = gaps(11, 8, 3)
    begin = start(*X.shape, 3)
    words = {"factors": 3, "dtype": "float64", **ask.words}
    first = lfm_np.als(csr(X), iterations=2, init=begin, **words)
    with carried("stored", X, "keep" if ask.biases else "drop") as stored:
        second = lfm_np.als(stored, iterations=3, init=first, **words)
    mine = ask.sweeps(X, begin[1], 5)
    return wrong(scores=near(scores_of(second), mine.scores, 1e-8), records=len(second.history) == 3)


def _gone_on(ask: Ask, first: str, then: str) -> list[str]:
    """A callback ends the fit after two sweeps; the checkpoint goes on with another carrier."""
    X = gaps(12, 9, 6)
    begin = start(*X.shape, 4)
    zeros = "keep" if ask.weighting == "ratings" else "drop"

    def enough(record: Any, factors: Any) -> None:
        record["looked"] = float(factors.item_factors[0, 0])
        if record["iteration"] == 2:
            raise StopIteration

    words = {"factors": 4, "init": begin, "dtype": "float64", **ask.words}
    with folder() as place, carried(first, X, zeros) as one, carried(then, X, zeros) as other:
        path = place / "kept"
        half = lfm_np.als(one, iterations=9, callback=enough, checkpoint=lfm_np.Checkpoint(path, 3600.0), **words)
        whole = lfm_np.als(other, iterations=5, checkpoint=str(path), tolerance=0.0, num_threads=1, **words)
    mine, two = ask.sweeps(X, begin[1], 5), ask.sweeps(X, begin[1], 2)
    return wrong(
        stopped=half.status is lfm_np.Status.STOPPED,
        half=near(scores_of(half), two.scores, 1e-8),
        whole=near(scores_of(whole), mine.scores, 1e-8),
        done=whole.status is lfm_np.Status.MAX_ITERATIONS,
        paid=near([r["objective"] for r in whole.history], [p for _, p in mine.paid], 1e-8),
    )


def _tolerance(ask: Ask, resumed: bool) -> list[str]:
    """The first sweep that lowers J by less than this share is foretold by the oracle."""
    X = gaps(12, 9, 4)
    begin = start(*X.shape, 3)
    J = [p for _, p in ask.sweeps(X, begin[1], 12).paid]
    falls = [(a - b) / a for a, b in itertools.pairwise(J)]
    last = next(i for i in range(3, 11) if falls[i] < 0.9 * min(falls[:i]))
    share = float(np.sqrt(falls[last] * min(falls[:last])))
    words = {"factors": 3, "init": begin, "dtype": "float64", **ask.words}
    with folder() as place:
        kept = {"checkpoint": place / "kept"} if resumed else {}
        if resumed:
            lfm_np.als(csr(X), iterations=2, **kept, **words)
        fit = lfm_np.als(csr(X), iterations=40, tolerance=share, **kept, **words)
    return wrong(sweeps=len(fit.history) == last + 2, status=fit.status is lfm_np.Status.CONVERGED)


def _watched(ask: Ask, kind: str) -> list[str]:
    """What a callback sees are the factors after each sweep."""
    X = gaps(10, 8, 9)
    begin, seen = start(*X.shape, 3), []
    with carried(kind, X, "keep" if ask.biases else "drop") as matrix:
        lfm_np.als(
            matrix, factors=3, iterations=3, init=begin, dtype="float64",
            callback=lambda record, factors: seen.append(scores_of(factors)), **ask.words,
        )  # fmt: skip
    return wrong(
        **{str(i): near(seen[i], ask.sweeps(X, begin[1], i + 1).scores, 1e-8) for i in range(3)}, n=len(seen) == 3
    )


def _seed_again() -> list[str]:
    """Without a seed ``params`` names the one that repeats the fit."""
    ask, X = Ask("ratings", lam=0.2, nu=1.0, biases=True), gaps(20, 12, 2)
    first = lfm_np.als(csr(X), factors=5, iterations=2, dtype="float64", **ask.words)
    again = lfm_np.als(csr(X), factors=5, iterations=2, dtype="float64", random_state=first.params["seed"], **ask.words)
    J = ask.cost(X, first.user_factors, first.item_factors, first.user_bias, first.item_bias, first.global_bias)
    return wrong(
        bits=np.array_equal(first.item_factors, again.item_factors)
        and np.array_equal(first.user_bias, again.user_bias),
        objective=near(first.history[-1]["objective"], J, 1e-9),
    )


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    mixed, millions = gaps(values=(0.001, 1.0, 250.0)), gaps(values=(1e6, 3e6))
    signed, plain, large = gaps(values=(-3, 0, 2.5)), gaps(), gaps(20, 14, 3)
    ratings, root = Ask("ratings", lam=0.3, nu=1.0, biases=True), Ask("ratings", lam=0.2, nu=0.5, biases=True)
    hu, ials, conf, exact = (
        partial(Ask, "hu-koren"),
        partial(Ask, "ials"),
        partial(Ask, "confidence"),
        {"solver": "exact"},
    )
    both = "stored, factors too"
    for name, ask, kind, X, k, more in (
        ("hu-koren, all its numbers, pairs in two parts", hu(2.5, 0.3, 0.2, 0.5), "halves", plain, 4, {}),
        ("ials, more factors than either side", ials(1.5, 0.05, 0.3, 1.0), "interactions", plain, 16, {}),
        ("confidence of values far apart", conf(40.0, 0.5, 0.7, 0.5), "csc", mixed, 3, {"num_threads": 2}),
        ("ratings with biases and ν, from the disk", ratings, "stored", plain, 3, {"num_threads": 1}),
        ("ratings below and at zero, biases, ν of a half", root, "csc", signed, 3, {}),
        ("ratings at zero on the disk, factors too", root, both, signed, 4, {}),
        ("hu-koren of α zero and ν of two", hu(0.0, 0.25, 0.02, 2.0), "integers", plain, 3, exact),
        ("ials of α zero has nothing to find", ials(0.0, 0.5, 0.1, 1.0), "csr", plain, 3, {}),
        ("confidence without the other cells", conf(3.0, 0.0, 0.2, 1.0), "interactions", plain, 4, {}),
        ("ials without the other cells, ν of 0.3", ials(2.0, 0.0, 0.4, 0.3), "halves", plain, 3, {}),
        ("confidence on the disk, heavy empty cells", conf(0.5, 2.0, 0.3, 0.5), both, plain, 5, {}),
        ("one user with biases", ratings, "csr", gaps(1, 6, 1, 0.9), 2, {"raise_on_interrupt": True}),
        ("one item, ν of a half", hu(3.0, 0.5, 0.2, 0.5), "csc", gaps(7, 1, 1, 0.9), 2, {"num_threads": 3}),
        ("rows around 17 factors", ials(4.0, 0.1, 0.05, 1.0), "csr", gaps(40, 30, 2, 0.5), 17, {}),
        ("booleans with α and ν", hu(3.0, 0.4, 0.1, 1.0), "booleans", gaps(values=(1,)), 3, {}),
        ("λ of zero, empty cells that weigh", hu(2.0, 0.5, 0.0, 1.0), "integers", plain, 2, {}),
        ("65 factors, biases, ν", Ask("ratings", lam=0.5, nu=0.25, biases=True), "csr", large, 65, exact),
        ("64 factors, ials, exact by word, the disk", ials(2.0, 0.3, 0.5, 0.5), "stored", large, 64, exact),
        ("millions beside an α of millionths", conf(1e-6, 0.1, 0.1, 0.5), "csr", millions, 3, {}),
        ("ratings without biases, ν of two", Ask("ratings", lam=0.02, nu=2.0), "integers", plain, 3, {}),
    ):
        name = f"als: {name}"
        yield _holds(name, lambda a=(ask, kind, X, k), w=more: swept(*a, 3, **w))
    for name, ask in (
        ("als: float32 with biases and ν", ratings),
        ("als: float32, hu-koren, α of 20, ν of a half", Ask("hu-koren", 20.0, 0.5, 1.0, 0.5)),
    ):
        yield _holds(name, lambda a=ask: swept(a, "csc", gaps(), 3, 2, tol=2e-3, dtype="float32"))
    for solver, kind, ask, k in (
        ("cg", "stored", Ask("ials", 2.0, 0.2, 0.4, 0.5), 70),
        ("cg", "csc", Ask("hu-koren", 10.0, 0.7, 2.0, 0.0), 34),
        ("subspace", "interactions", Ask("confidence", 5.0, 0.5, 1.0, 0.5), 70),
        ("subspace", "stored, factors too", Ask("ials", 1.0, 1.0, 0.05, 1.0), 65),
        ("auto", "halves", Ask("hu-koren", 0.5, 0.1, 0.3, 1.0), 96),
    ):
        yield _holds(f"als: {solver} of {k} factors from {kind}", lambda a=(ask, solver, kind, k): _steps(*a))
    yield _holds("als: the users of init, Fortran's order, ials", _same_v)
    for dtype in ("float64", "float32"):
        yield _holds(f"als: init with biases of {dtype} in a fit of float64, ν", lambda t=dtype: _from_biases(t))
    for ask in (ratings, Ask("confidence", 2.0, 0.3, 0.2, 1.0)):
        yield _holds(f"als: from factors in memory to the disk, {ask.weighting}", lambda a=ask: _twice(a))
    for first, then, ask in (
        ("csr", "stored", Ask("ials", 2.0, 0.3, 0.2, 1.0)),
        ("stored", "csr", ratings),
        ("stored, factors too", "stored", Ask("confidence", 3.0, 0.4, 0.2, 0.5)),
    ):
        yield _holds(f"als: stopped, kept, gone on from {first} to {then}", lambda a=(ask, first, then): _gone_on(*a))
    yield _holds("als: tolerance with biases and ν", lambda: _tolerance(ratings, False))
    yield _holds(
        "als: tolerance that comes with the second half", lambda: _tolerance(Ask("ials", 2.0, 0.2, 0.3, 0.5), True)
    )
    yield _holds("als: a callback sees biases of every sweep, from the disk", lambda: _watched(ratings, "stored"))
    yield _holds(
        "als: a callback sees every sweep of Interactions, ials",
        lambda: _watched(Ask("ials", 3.0, 0.2, 0.1), "interactions"),
    )
    yield _holds("als: the seed of a fit with biases that had none", _seed_again)
