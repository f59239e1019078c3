"""Fits of both solvers and both backends, compared with dense sweeps, steps by hand and counted draws."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import scipy.sparse as sp

import lfm_np
from lfm_np import SolverError, Status, losses, sampling

from .case import Case, Group, Holds
from .dense import best, grid, near, objective, solved, sweep

BAD = (TypeError, ValueError)
_group = Group("numbers of fits")
_refused, _right, _either = _group.refused, _group.right, _group.either


def counts(m: int = 12, n: int = 9, seed: int = 1) -> Any:
    """Small counts; row 4 and column 6 are empty."""
    rng = np.random.default_rng(seed)
    dense = rng.integers(1, 6, (m, n)) * (rng.random((m, n)) < 0.4)
    dense[4], dense[:, 6] = 0, 0
    return sp.csr_array(dense.astype(np.float64))


def start(m: int = 12, n: int = 9, k: int = 4, scale: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(7)
    return rng.normal(0, scale, (m, k)), rng.normal(0, scale, (n, k))


def product(factors: Any) -> np.ndarray:
    return np.asarray(factors.user_factors, float) @ np.asarray(factors.item_factors, float).T


def torch_als(X: Any, **parameters: Any) -> Any:
    from lfm_np import torch_backend

    return torch_backend.als(X, **parameters)


def torch_sgd(X: Any, *loss: Any, **parameters: Any) -> Any:
    from lfm_np import torch_backend

    return torch_backend.sgd(X, *loss, **parameters)


# ---- sweeps of als --------------------------------------------------------------------------------------------------

WEIGHTINGS: dict[str, dict[str, Any]] = {
    "hu-koren": {"alpha": 3.0, "unobserved_weight": 0.3},
    "ials": {"alpha": 0.5, "unobserved_weight": 0.2},
    "confidence": {"alpha": 2.0, "unobserved_weight": 1.5},
    "ratings": {},
}


def sweeps() -> Iterator[Case]:
    for weighting, more in WEIGHTINGS.items():
        for k in (4, 20):  # 20 factors are more than there are rows or columns
            words = {"weighting": weighting, "regularization": 0.2, "regularization_exponent": 0.5, **more}
            init = start(k=k)

            def swept(factors: Any, X: Any, words: Any = words, init: Any = init) -> bool:
                U, V = sweep(X, init[1], **words)
                J = objective(X, U, V, **words)
                return near(product(factors), U @ V.T) and near(factors.history[0]["objective"], J)

            yield Case(
                f"numbers of fits: a sweep, {weighting}, {k} factors",
                lambda X, words=words, init=init, k=k: lfm_np.als(
                    X, factors=k, iterations=1, init=init, dtype=float, **words
                ),
                Holds(swept),
                lambda: {"X": counts()},
            )
    yield _right(
        "a sweep on torch, all weightings",
        lambda: [
            (w, torch_als(counts(), factors=20, iterations=1, init=start(k=20), dtype=float, weighting=w, **more))
            for w, more in WEIGHTINGS.items()
        ],
        lambda found: all(
            near(product(f), np.matmul(*_swept(counts(), start(k=20), weighting=w, **WEIGHTINGS[w])), 1e-8)
            for w, f in found
        ),
    )
    for name, X in {
        "every cell the same": sp.csr_array(np.full((8, 6), 3.0)),
        "one row that holds everything": sp.csr_array(np.arange(1.0, 301)[None]),
        "one column that holds everything": sp.csr_array(np.arange(1.0, 301)[:, None]),
        "a million times between the values": sp.csr_array(np.diag([1e-3, 1e3, 1.0]) + np.eye(3, k=1)),
    }.items():
        yield _right(
            f"a sweep, {name}",
            lambda X=X: lfm_np.als(X, factors=3, iterations=1, init=start(*X.shape, 3), dtype=float),
            lambda f, X=X: near(product(f), np.matmul(*_swept(X, start(*X.shape, 3))), 1e-7),
        )
    yield _right(
        "a sweep, λ of 1e30",
        lambda: lfm_np.als(counts(), factors=4, iterations=1, init=start(), dtype=float, regularization=1e30),
        lambda f: near(f.item_factors @ f.item_factors.T, _gram(regularization=1e30), 1e-6),
    )
    yield _either(
        "a sweep, α of 1e30",
        lambda: lfm_np.als(counts(), factors=9, iterations=2, dtype=float, alpha=1e30, random_state=0),
        lambda f: np.allclose(product(f)[grid(counts())[1]], 1, atol=1e-6),
        "row",
        kind=SolverError,
    )
    yield _either(
        "ratings without penalty, more factors than cells",
        lambda: lfm_np.als(
            counts(), factors=11, iterations=1, dtype=float, weighting="ratings", regularization=0, init=start(k=11)
        ),
        lambda f: np.allclose(product(f)[grid(counts())[1]], grid(counts())[0][grid(counts())[1]], atol=1e-5),
        "row",
        kind=SolverError,
    )


def _swept(X: Any, init: Any, **words: Any) -> tuple[np.ndarray, np.ndarray]:
    U, V = sweep(X, init[1], **words)
    return U, V.T


def _gram(**words: Any) -> np.ndarray:
    V = sweep(counts(), start()[1], **words)[1]
    return np.asarray(V @ V.T)


def inputs() -> Iterator[Case]:
    def bits(X: Any, **words: Any) -> np.ndarray:
        return np.asarray(lfm_np.als(X, factors=3, iterations=2, random_state=0, **words).item_factors)

    def same_bits(X: Any, **words: Any) -> Callable[[np.ndarray], bool]:
        return lambda found: np.array_equal(found, bits(X, **words))

    zeros = counts()
    zeros.data[::3] = 0
    clean = zeros.copy()
    clean.eliminate_zeros()
    yield _right("implicit zeros are absent", lambda: bits(zeros), same_bits(clean))
    yield _right(
        "rated zeros are values",
        lambda: lfm_np.als(zeros, factors=4, iterations=1, init=start(), dtype=float, weighting="ratings"),
        lambda f: near(product(f), np.matmul(*_swept(zeros, start(), weighting="ratings"))),
    )
    for name, make in {
        "bsr": lambda: sp.bsr_array(counts(), blocksize=(3, 3)),
        "dok": lambda: sp.dok_array(counts()),
        "big-endian csr": lambda: sp.csr_array(
            (counts().data.astype(">f8"), counts().indices.astype(np.int64), counts().indptr.astype(np.int64)),
            shape=(12, 9),
        ),
        "uint8 csc": lambda: sp.csc_array(counts().astype(np.uint8)),
    }.items():
        yield _right(f"a matrix as {name}", lambda make=make: bits(make()), same_bits(counts()))

    def lying() -> Any:
        X = sp.csr_array((np.ones(4), np.array([1, 0, 1, 2]), np.array([0, 3, 4])), shape=(2, 3))
        X.has_canonical_format = X.has_sorted_indices = True
        return X

    yield _either(
        "a matrix that says it has no duplicates",
        lambda: bits(lying()),
        same_bits(sp.csr_array([[1.0, 2, 0], [0, 0, 1]])),
        "x",
    )
    yield _refused("values of more than 64 bits", lambda: bits(counts().astype(np.longdouble)), "x", "real", "64 bits")
    yield _refused("complex values", lambda: bits(counts().astype(complex)), "x")
    yield _refused("a negative count", lambda: bits(sp.csr_array([[1.0, 2], [-3, 0]])), "negative", "row 1")
    yield _refused(
        "α times a value beyond float32", lambda: bits(sp.csr_array([[1e20, 2]]), alpha=1e20), "alpha", "float32"
    )
    yield _right(
        "the same α times the same value in float64",
        lambda: lfm_np.als(sp.csr_array([[1e20, 2]]), alpha=1e20, factors=1, dtype=float, random_state=0),
        lambda f: np.allclose(product(f), 1, atol=1e-3),
    )
    yield _either("nothing stored", lambda: bits(sp.csr_array((4, 3))), lambda found: not found.any(), "x")
    yield _refused("U and V the wrong way round", lambda: bits(counts(), init=start(k=3)[::-1]), "init")


# ---- courses of a fit -----------------------------------------------------------------------------------------------


def courses() -> Iterator[Case]:
    ratings: dict[str, Any] = {"weighting": "ratings", "regularization": 0.3, "regularization_exponent": 1.0}

    def biased() -> Any:
        return lfm_np.als(counts(), factors=3, iterations=4, dtype=float, random_state=0, biases=True, **ratings)

    def of_biased(f: Any) -> bool:
        X = counts()
        values, stored = grid(X)
        mean = values[stored].mean()
        known = mean + np.broadcast_to(f.user_bias, (9, 12))
        b_v = solved(values.T, stored.T, f.user_factors, offset=known, **ratings)
        fitted = b_v[:, :1].T + f.user_factors @ b_v[:, 1:].T
        J = objective(
            X,
            f.user_factors,
            f.item_factors,
            constant=mean,
            biases=(f.user_bias, f.item_bias),
            **ratings,
        )
        return (
            math.isclose(f.global_bias, mean)
            and near(f.item_bias[None] + product(f), fitted, 1e-8)
            and near(f.history[-1]["objective"], J)
        )

    yield _right("biases: the items are the minimum given the users", biased, of_biased)

    def later(als: Any) -> list[tuple[float, float]]:
        kept: list[Any] = []
        als(counts(), factors=3, iterations=4, dtype=float, random_state=0, callback=lambda *pair: kept.append(pair))
        return [(record["objective"], objective(counts(), f.user_factors, f.item_factors)) for record, f in kept]

    for name, als in {"als": lfm_np.als, "torch": torch_als}.items():
        yield _refused(
            f"{name}: results of a callback that are looked at after the fit",
            lambda als=als: later(als),
            "while the callback runs",
            kind=RuntimeError,
        )
    yield _right(
        "two sweeps and three are five",
        lambda: [
            lfm_np.als(
                counts(),
                factors=3,
                iterations=3,
                dtype=float,
                init=lfm_np.als(counts(), factors=3, iterations=2, dtype=float, random_state=0),
            ),
            lfm_np.als(counts(), factors=3, iterations=5, dtype=float, random_state=0),
        ],
        lambda pair: near(product(pair[0]), product(pair[1]), 1e-8),
    )

    def tolerant(f: Any) -> bool:
        J = [record["objective"] for record in f.history]
        small = [a - b < 1e-3 * a for a, b in itertools.pairwise(J)]
        return f.status is Status.CONVERGED and small[-1] and not any(small[:-1])

    yield _right(
        "tolerance stops at the first small step",
        lambda: lfm_np.als(counts(), factors=3, iterations=500, tolerance=1e-3, dtype=float, random_state=0),
        tolerant,
    )

    def stop(record: Any, factors: Any) -> None:
        record["score"] = float(factors.scores(0, 0))
        raise StopIteration

    yield _right(
        "a callback that stops at once",
        lambda: lfm_np.als(counts(), factors=3, iterations=9, random_state=0, callback=stop),
        lambda f: f.status is Status.STOPPED and len(f.history) == 1 and f.history[0]["score"] == f.scores(0, 0),
    )

    def nested(record: Any, factors: Any) -> None:
        record["inner"] = lfm_np.als(counts(), factors=2, iterations=2, random_state=3).item_factors.sum().item()

    yield _right(
        "a fit within the callback of a fit",
        lambda: [
            lfm_np.als(counts(), factors=3, iterations=3, random_state=0, callback=c, num_threads=2).item_factors
            for c in (nested, None)
        ],
        lambda pair: np.array_equal(*pair),
    )
    rng = np.random.default_rng(2)
    dense = sp.csr_array((rng.random((150, 120)) < 0.7) * rng.integers(1, 4, (150, 120)))
    for solver, k in {"cg": 70, "subspace": 130}.items():
        words: dict[str, Any] = {"factors": k, "dtype": float, "random_state": 0, "regularization": 5.0}

        def stepped(pair: Any) -> bool:
            J = [record["objective"] for record in pair[0].history]
            lowest = pair[1].history[-1]["objective"]
            falls = all(a >= b * (1 - 1e-12) for a, b in itertools.pairwise(J))
            return falls and J[-1] < 1.02 * lowest and near(J[-1], objective(dense, *_parts(pair[0]), regularization=5))

        yield _right(
            f"{solver} never rises and comes down to what exact finds",
            lambda solver=solver, words=words: [
                lfm_np.als(dense, iterations=12, solver=s, **words) for s in (solver, "exact")
            ],
            stepped,
        )
        yield _right(
            f"{solver} has the same bits on one, two and three threads",
            lambda solver=solver, words=words: [
                lfm_np.als(dense, iterations=2, solver=solver, num_threads=t, **{**words, "dtype": "f4"}).item_factors
                for t in (1, 2, 3)
            ],
            lambda found: np.array_equal(found[0], found[1]) and np.array_equal(found[0], found[2]),
        )
    yield _right(
        "factors that a fit could never hold",
        lambda: lfm_np.estimate_memory(2**31 - 2, 2**31 - 2, 2**40, factors=1024, dtype=float),
        lambda size: isinstance(size, int) and size > 2 * (2**32 - 4) * 1024 * 8,
    )
    yield _refused(
        "more factors than memory", lambda: lfm_np.als(counts(), factors=10**9), "factors|memory", kind=Exception
    )


def _parts(factors: Any) -> tuple[np.ndarray, np.ndarray]:
    return factors.user_factors, factors.item_factors


# ---- steps of sgd by hand -------------------------------------------------------------------------------------------


def one_cell(rating: float, epochs: int, schedule: str, penalties: dict[str, float], rate: float) -> list[float]:
    """The score of the only cell after ``epochs`` steps; with "adagrad" both ways to count the step's own slope."""
    ends = []
    for own in (True, False) if schedule == "adagrad" else (True,):
        u, v = np.array([0.5, -0.2]), np.array([0.3, 0.1])
        sums = [0.0, 0.0]
        for epoch in range(epochs):
            error = u @ v - rating
            slopes = [error * v + penalties.get("user", 0) * u, error * u + penalties.get("item", 0) * v]
            steps = []
            for side in (0, 1):
                before = sums[side]
                sums[side] += float((slopes[side] ** 2).mean())
                step = rate / (1 + epoch / 10) if schedule == "inverse" else rate
                steps.append(step / math.sqrt(1 + (sums[side] if own else before)) if schedule == "adagrad" else step)
            u, v = u - steps[0] * slopes[0], v - steps[1] * slopes[1]
        ends.append(float(u @ v))
    return ends


def steps() -> Iterator[Case]:
    penalties = {"user": 0.3, "item": 0.1}
    for sgd in (lfm_np.sgd, torch_sgd):
        for schedule in ("constant", "inverse", "adagrad"):
            yield _right(
                f"{sgd.__name__}, steps of one cell by hand, {schedule}",
                lambda sgd=sgd, schedule=schedule: sgd(
                    sp.csr_array([[4.0]]),
                    losses.Squared(),
                    sampler=None,
                    factors=2,
                    epochs=5,
                    learning_rate=0.2,
                    schedule=schedule,
                    regularization=penalties,
                    dtype=float,
                    init=(np.array([[0.5, -0.2]]), np.array([[0.3, 0.1]])),
                ),
                lambda f, schedule=schedule: any(
                    near(f.scores(0, 0), end) for end in one_cell(4.0, 5, schedule, penalties, 0.2)
                ),
            )

    def weighted(scale: float, rate: float) -> np.ndarray:
        loss = losses.BPR(weighted=True)
        words: dict[str, Any] = {"factors": 3, "epochs": 3, "dtype": float, "random_state": 4, "regularization": 0}
        return product(lfm_np.sgd(counts() * scale, loss, learning_rate=rate, **words))

    yield _right(
        "weights twice as large are a rate twice as large",
        lambda: (weighted(1, 0.1), weighted(2, 0.05)),
        lambda pair: near(pair[0], pair[1], 1e-12) and np.abs(pair[0]).max() > 0.01,
    )

    class Mine:
        def value(self, difference: float) -> float:
            return max(-difference, 0.0) + math.log1p(math.exp(-abs(difference)))

        def gradient(self, difference: float) -> float:
            return -1.0 / (1.0 + math.exp(min(difference, 700.0)))

    yield _right(
        "a loss of one's own that is BPR",
        lambda: [
            product(lfm_np.sgd(counts(), loss, factors=3, epochs=4, dtype=float, random_state=4))
            for loss in (losses.BPR(), Mine())
        ],
        lambda pair: near(pair[0], pair[1], 1e-10),
    )
    yield _refused("torch, a loss of one's own without its formula", lambda: torch_sgd(counts(), Mine()), "torch_value")

    class Half:
        scale = 0.5

        def __init__(self, floor: float) -> None:
            self.floor = floor

        def value(self, score: float, target: float) -> float:
            return self.scale * (score - target) ** 2 + self.floor

        def gradient(self, score: float, target: float) -> float:
            return 2 * self.scale * (score - target)

    yield _right(
        "a pointwise loss of one's own, negative ratings and a rated zero",
        lambda: [
            product(
                lfm_np.sgd(
                    sp.csr_array((np.array([-2.0, 0, 3]), ([0, 0, 1], [0, 1, 1])), shape=(2, 2)),
                    loss,
                    sampler=None,
                    factors=2,
                    epochs=9,
                    dtype=float,
                    random_state=1,
                    biases=True,
                )
            )
            for loss in (losses.Squared(), Half(0.0))
        ],
        lambda pair: near(pair[0], pair[1], 1e-6),
    )
    yield _refused(
        "a rate that makes factors diverge",
        lambda: lfm_np.sgd(counts(), losses.Squared(), sampler=None, learning_rate=1e9, factors=3, random_state=0),
        "epoch",
        "learning_rate",
        kind=SolverError,
    )
    yield _refused(
        "a penalty of a part that is none",
        lambda: lfm_np.sgd(counts(), regularization={"users": 0.1}),
        "regularization",
        "users",
    )


def constants() -> Iterator[Case]:
    """μ is the constant that fits best by itself."""

    def constant(X: Any, loss: Any, sampler: Any = None, sgd: Any = lfm_np.sgd) -> float:
        words: dict[str, Any] = {"factors": 2, "epochs": 1, "random_state": 0, "biases": True, "dtype": float}
        return float(sgd(X, loss, sampler=sampler, **words).global_bias)

    some = counts()
    mean = float(some.data.mean())
    yield _right("the constant of ratings", lambda: constant(some, losses.Squared()), lambda mu: near(mu, mean))
    yield _right(
        "the constant of counts", lambda: constant(some, losses.Poisson()), lambda mu: near(mu, math.log(mean))
    )
    ones = sp.csr_array(np.ones((3, 2)))
    nothing = sp.csr_array((np.zeros(3), ([0, 1, 2], [0, 1, 0])), shape=(3, 2))
    for name, X, loss in (
        ("of clicks and nothing else", ones, losses.Logistic()),
        ("of a hinge and nothing else", ones, losses.Hinge()),
        ("of counts that are all zero", nothing, losses.Poisson()),
    ):
        yield _either(
            f"the constant {name}", lambda X=X, loss=loss: constant(X, loss), math.isfinite, "bias|constant|x"
        )
    yield _either(
        "torch, the constant of counts that are all zero",
        lambda: constant(nothing, losses.Poisson(), sgd=torch_sgd),
        math.isfinite,
        "bias|constant|x",
    )


# ---- draws ----------------------------------------------------------------------------------------------------------


def shop(m: int = 3000, n: int = 14) -> Any:
    rng = np.random.default_rng(6)
    popular = np.array([0.9, 0.6, 0.5, 0.4, 0.3, 0.3, 0.2, 0.2, 0.1, 0.1, 0.1, 0.05, 0.05, 0.02])[:n]
    return sp.csr_array((rng.random((m, n)) < popular).astype(float))


def drawn(sampler: Any, sgd: Any = lfm_np.sgd) -> np.ndarray:
    """How often an epoch drew each item: steps so small that V sums them up."""
    X, rate = shop(), 1e-9
    init = np.ones((X.shape[0], 1)), np.zeros((X.shape[1], 1))
    f = sgd(
        X,
        losses.BPR(),
        sampler=sampler,
        factors=1,
        epochs=1,
        learning_rate=rate,
        regularization=0,
        dtype=float,
        init=init,
        random_state=11,
    )
    moved = product(f).mean(0) / (rate / 2)
    return np.asarray(X.sum(0) - moved)


def expected(beta: float) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of `drawn`."""
    X = shop().toarray() > 0
    mass = np.where(X, 0.0, X.sum(0).astype(float) ** beta)
    total = mass.sum(1, keepdims=True)
    q = np.divide(mass, total, out=np.zeros_like(mass), where=total > 0)
    times = X.sum(1)
    return times @ q, times @ (q * (1 - q))


def draws() -> Iterator[Case]:
    for name, sampler, beta, sgd in (
        ("uniform", sampling.Uniform(), 0.0, lfm_np.sgd),
        ("by popularity", sampling.Popularity(0.75), 0.75, lfm_np.sgd),
        ("by popularity squared", sampling.Popularity(2.0), 2.0, lfm_np.sgd),
        ("of one hard candidate", sampling.Hard(1), 0.0, lfm_np.sgd),
        ("uniform, on torch", sampling.Uniform(), 0.0, torch_sgd),
    ):

        def fair(found: np.ndarray, beta: float = beta) -> bool:
            mean, variance = expected(beta)
            whole = np.abs(found - np.round(found)).max() < 0.02
            return bool(whole and np.abs((found - mean) / np.sqrt(variance)).max() < 5)

        yield _right(f"draws {name}", lambda sampler=sampler, sgd=sgd: drawn(sampler, sgd), fair)
    full = sp.csr_array(np.ones((5, 3)))
    for loss, sampler in (
        (losses.WARP(), sampling.Uniform()),
        (losses.WARP(), sampling.Popularity()),
        (losses.BPR(), sampling.Hard(9)),
    ):
        yield _right(
            f"rows that leave nothing to draw, {sampler}",
            lambda loss=loss, sampler=sampler: lfm_np.sgd(
                full, loss, sampler=sampler, factors=2, epochs=2, random_state=0
            ),
            lambda f: f.params["skipped_rows"] == 5 and np.isfinite(product(f)).all(),
        )
    unloved = sp.csr_array([[1.0, 1, 0, 0], [1, 1, 0, 0]])
    yield _right(
        "rows that have all popular items, by popularity",
        lambda: lfm_np.sgd(unloved, sampler=sampling.Popularity(1.0), factors=2, epochs=2, random_state=0),
        lambda f: np.isfinite(product(f)).all(),
    )
    yield _either(
        "popularity to the power of a thousand",
        lambda: lfm_np.sgd(shop(50), sampler=sampling.Popularity(1e3), factors=2, epochs=2, random_state=0),
        lambda f: np.isfinite(product(f)).all(),
        "beta",
    )
    yield _right(
        "a thousand negatives of four items",
        lambda: lfm_np.sgd(
            unloved + sp.eye_array(2, 4),
            losses.SampledSoftmax(),
            negatives=1000,
            factors=2,
            epochs=60,
            learning_rate=0.2,
            random_state=0,
        ),
        lambda f: best(product(f)[0], np.ones(4, bool), 2) == [0, 1],
    )
    yield _right(
        "cosines, and a user without cells",
        lambda: lfm_np.sgd(
            counts(), losses.CosineContrastive(), negatives=3, factors=3, epochs=3, dtype=float, random_state=0
        ),
        lambda f: (
            np.allclose(np.delete(np.linalg.norm(f.user_factors, axis=1), 4), 1)
            and min(abs(np.linalg.norm(f.user_factors[4]) - end) for end in (0, 1)) < 1e-9
        ),
    )


def cases() -> list[Case]:
    return [case for part in (sweeps, inputs, courses, steps, constants, draws) for case in part()]
