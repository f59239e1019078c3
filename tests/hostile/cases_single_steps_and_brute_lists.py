"""Steps of `sgd` on a matrix that leaves nothing to chance, and lists by sorting all scores."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import scipy.sparse as sp

import lfm_np
from lfm_np import losses, sampling

from .case import Case, Either, Group, Holds, raises

_steps, _lists = Group("single steps"), Group("brute lists")
ETA, PARTS = 0.3, {"user": 0.02, "item": 0.05, "negative": 0.07, "bias": 0.11}
U0, V0 = np.array([[0.4, -0.3, 0.2]]), np.array([[0.1, 0.5, -0.2], [-0.6, 0.2, 0.3]])


def sigmoid(x: float) -> float:
    return 1.0 / (1.0 + math.exp(-x))


# ---- one row, one stored cell, one item to draw ---------------------------------------------------------------------

x = 3.0
SLOPES: dict[str, tuple[Any, Any]] = {  # a loss, and from two scores the loss with its slopes by either
    "BPR": (losses.BPR(), lambda a, b: (math.log1p(math.exp(b - a)), -sigmoid(b - a), sigmoid(b - a))),
    "BPR weighted": (
        losses.BPR(weighted=True),
        lambda a, b: (x * math.log1p(math.exp(b - a)), -x * sigmoid(b - a), x * sigmoid(b - a)),
    ),
    "MarginHinge": (losses.MarginHinge(2.0), lambda a, b: (max(0, 2 - a + b), -(a - b < 2.0), (a - b < 2.0))),
    "WARP": (
        losses.WARP(margin=2.0),
        lambda a, b: tuple(math.log(2) * part for part in (max(0, 2 - a + b), -(a - b < 2), (a - b < 2))),
    ),
    "Logistic": (
        losses.Logistic(),
        lambda a, b: (math.log1p(math.exp(-a)) + math.log1p(math.exp(b)), -sigmoid(-a), sigmoid(b)),
    ),
    "Logistic weighted": (
        losses.Logistic(weighted=True),
        lambda a, b: (x * math.log1p(math.exp(-a)) + math.log1p(math.exp(b)), -x * sigmoid(-a), sigmoid(b)),
    ),
    "Hinge": (losses.Hinge(), lambda a, b: (max(0, 1 - a) + max(0, 1 + b), -(a < 1), (b > -1))),
    "Poisson": (
        losses.Poisson(),
        lambda a, b: (math.exp(a) - x * a + x * math.log(x) - x + math.exp(b), math.exp(a) - x, math.exp(b)),
    ),
    "Squared": (losses.Squared(), lambda a, b: ((a - x) ** 2 / 2 + b * b / 2, a - x, b)),
    "SampledSoftmax": (
        losses.SampledSoftmax(temperature=0.5),  # the one item is drawn for sure: log(M q) = 0
        lambda a, b: (math.log1p(math.exp(2 * (b - a))), -2 * sigmoid(2 * (b - a)), 2 * sigmoid(2 * (b - a))),
    ),
}


def stepped(slopes: Any, epochs: int, schedule: str, parts: dict[str, float]) -> tuple[np.ndarray, list[float]]:
    """Scores of both items, and the loss before every step; with a bias of every item."""
    u, (v, w), b, c = U0[0].copy(), V0.copy(), 0.0, 0.0
    found = []
    for epoch in range(epochs):
        eta = ETA / (1 + epoch / 10) if schedule == "inverse" else ETA
        loss, g, h = map(float, slopes(float(b + u @ v), float(c + u @ w)))
        found.append(loss)
        u, v, w = (
            u - eta * (g * v + h * w + parts["user"] * u),
            v - eta * (g * u + parts["item"] * v),
            w - eta * (h * u + parts["negative"] * w),
        )
        b, c = b - eta * (g + parts["bias"] * b), c - eta * (h + parts["bias"] * c)
    return np.array([b + u @ v, c + u @ w]), found


def steps() -> Iterator[Case]:
    X = sp.csr_array(([x], [0], [0, 1]), (1, 2))
    for name, (loss, slopes) in SLOPES.items():
        for schedule, epochs in {"constant": 1, "inverse": 3}.items():
            want, found = stepped(slopes, epochs, schedule, PARTS)

            def right(f: Any, want: Any = want, found: Any = found) -> bool:
                got = [record["sampled_loss"] for record in f.history]
                return np.allclose(f.scores(0, [0, 1]), want, 1e-9, 1e-9) and np.allclose(got, found, 1e-9, 1e-9)

            yield _steps.right(
                f"{name}, {epochs} of {schedule}",
                lambda loss=loss, s=schedule, e=epochs: lfm_np.sgd(
                    X,
                    loss,
                    init=(U0, V0),
                    factors=3,
                    learning_rate=ETA,
                    schedule=s,
                    epochs=e,
                    dtype="float64",
                    regularization=PARTS,
                    biases="item",
                    random_state=0,
                ),
                right,
            )

    def alone() -> Any:
        return lfm_np.sgd(
            X,
            losses.Squared(),
            sampler=None,
            init=(U0, V0),
            factors=3,
            epochs=1,
            dtype="float64",
            biases=True,
            learning_rate=ETA,
            regularization=0.1,
        )

    def one_rating(f: Any) -> bool:  # μ = 3 is the one rating
        u, v, g = U0[0], V0[0], U0[0] @ V0[0]
        new = (u - ETA * (g * v + 0.1 * u)) @ (v - ETA * (g * u + 0.1 * v)) - 2 * ETA * g + x
        return bool(np.isclose(f.scores(0, 0), new, 1e-10))

    yield _steps.right("one rating with all biases", alone, one_rating)

    class Thrice:
        """A pairwise loss whose slope is the same wherever it is."""

        def value(self, difference: float) -> float:
            return 5.0 - 2.0 * difference

        def gradient(self, difference: float) -> float:
            return -2.0

    yield _steps.right(
        "a loss of one's own, three negatives add up",
        lambda: lfm_np.sgd(
            X,
            Thrice(),
            negatives=3,
            init=(U0, V0),
            factors=3,
            epochs=1,
            dtype="float64",
            learning_rate=0.1,
            regularization=0.0,
        ),
        lambda f: np.allclose(
            f.user_factors @ f.item_factors.T,
            (U0 + 0.6 * (V0[0] - V0[1])) @ np.vstack([V0[0] + 0.6 * U0[0], V0[1] - 0.6 * U0[0]]).T,
        ),
    )


def mistakes() -> Iterator[Case]:
    rng = np.random.default_rng(0)
    X = sp.csr_array((rng.random((20, 12)) < 0.3) * 2.0)

    def sgd(X: Any = X, loss: Any = None, **options: Any) -> Any:
        return lfm_np.sgd(
            X, losses.BPR() if loss is None else loss, **{"factors": 3, "epochs": 2, "random_state": 1, **options}
        )

    yield _steps.right(
        "a row that has everything is skipped and counted",
        lambda: sgd(sp.vstack([X, np.ones((2, 12))]).tocsr()),
        lambda f: f.params["skipped_rows"] == 2 and np.isfinite(f.user_factors).all(),
    )
    yield _steps.either(
        "nothing to draw for anybody",
        lambda: sgd(sp.csr_array(np.ones((4, 3)))),
        lambda f: f.params["skipped_rows"] == 4 and np.isfinite(f.item_factors).all(),
        "draw|negative|row|every",
    )
    yield _steps.right(
        "cosine losses: rows of length one",
        lambda: sgd(loss=losses.CosineContrastive(), negatives=4, epochs=3),
        lambda f: np.allclose(np.linalg.norm(f.item_factors[X.sum(0) > 0], axis=1), 1, atol=1e-5),
    )
    yield _steps.right(
        "WARP by popularity with biases on 1, 2, 3 and 7 threads",
        lambda: [
            sgd(loss=losses.WARP(), sampler=sampling.Popularity(0.5), biases=True, num_threads=t, learning_rate=0.01)
            for t in (1, 2, 3, 7)
        ],
        lambda fits: all(
            np.array_equal(f.item_factors, fits[0].item_factors) and np.array_equal(f.user_bias, fits[0].user_bias)
            for f in fits
        ),
    )
    for word, options in {
        "negatives": {"negatives": 0},
        "sampler": {"sampler": None},
        "schedule": {"schedule": "linear"},
        "biases": {"biases": "user"},
        "regularization": {"regularization": {"users": 0.1}},
        "learning_rate": {"learning_rate": float("inf")},
        "loss": {"loss": "BPR"},
        "epochs": {"epochs": -1},
        "beta": {"sampler": sampling.Popularity(-1.0)},
        "candidates": {"sampler": sampling.Hard(0)},
        "margin": {"loss": losses.WARP(margin=float("nan"))},
        "temperature": {"loss": losses.SampledSoftmax(temperature=0.0)},
    }.items():
        yield _steps.refused(f"a wrong {word}", lambda o=options: sgd(**o), word)
    yield Case(
        "single steps: a rate of a million names the epoch and keeps what was finite",
        lambda: sgd(loss=losses.Squared(), sampler=None, learning_rate=1e6, epochs=20),
        raises((lfm_np.SolverError,), "epoch"),
    )
    yield _steps.refused(
        "counts below zero for Poisson",
        lambda: sgd(sp.csr_array(X * -1.0), losses.Poisson(), sampler=None),
        "negative|below|X",
    )


# ---- lists ----------------------------------------------------------------------------------------------------------


def brute(s: np.ndarray, N: int, banned: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    ids, best = np.full((len(s), N), -1), np.full((len(s), N), -np.inf)
    for r, row in enumerate(s):
        order = [i for i in np.lexsort((np.arange(len(row)), -row)) if not banned[r, i]][:N]
        ids[r, : len(order)], best[r, : len(order)] = order, row[order]
    return ids, best


def lists() -> Iterator[Case]:
    rng = np.random.default_rng(4)
    U, V = rng.integers(-2, 3, (30, 5)).astype(float), rng.integers(-2, 3, (90, 5)).astype(float)
    a, b = rng.integers(-3, 4, 30).astype(float), rng.integers(-3, 4, 90).astype(float)
    s = 0.5 + a[:, None] + b + U @ V.T  # small integers and halves: exact in any order, with many ties
    model = lfm_np.Factors(U, V, user_bias=a, item_bias=b, global_bias=0.5)
    seen = sp.csr_array((rng.random((30, 90)) < 0.5).astype(float))
    allowed, excluded = rng.permutation(90)[:40], rng.permutation(90)[:20]
    users = rng.integers(0, 30, 50)
    for name, options, banned in (
        ("everything", {}, np.zeros((30, 90), bool)),
        ("seen, some allowed, some excluded", {"seen": seen, "items": allowed, "exclude": excluded}, None),
        ("seen as CSC", {"seen": seen.tocsc()}, seen.toarray() > 0),
    ):
        out = (seen.toarray() > 0) | ~np.isin(range(90), allowed) | np.isin(range(90), excluded)
        want = brute(s, 100, out if banned is None else banned)
        for N in (1, 17, 100):
            yield _lists.right(
                f"{name}, N = {N}, ties",
                lambda o=options, N=N: model.recommend(users, N=N, **o),
                lambda r, w=want, N=N: (
                    np.array_equal(r.ids, w[0][users, :N]) and np.array_equal(r.scores, w[1][users, :N])
                ),
            )
    zeros = seen.copy()
    zeros.data[::2] = 0.0
    yield _lists.right(
        "a stored zero is not seen",
        lambda: model.recommend(users, N=90, seen=zeros),
        lambda r: np.array_equal(r.ids, brute(s, 90, zeros.toarray() > 0)[0][users]),
    )
    yield _lists.right(
        "a stored zero is a rating, and seen",
        lambda: lfm_np.als(zeros, factors=2, weighting="ratings", random_state=0).recommend(
            np.arange(30), N=90, seen=zeros
        ),
        lambda r: all(not set(r.ids[u]) & set(zeros.indices[zeros.indptr[u] : zeros.indptr[u + 1]]) for u in range(30)),
    )
    norms = np.linalg.norm(V, axis=1)
    cosines = (V @ V.T) / np.where(norms > 0, norms, 1)[:, None] / np.where(norms > 0, norms, 1)
    yield _lists.right(
        "similar items by cosine, with items of zeros",
        lambda: model.similar_items(np.arange(90), N=90),
        lambda r: (
            np.allclose(r.scores, -np.sort(-cosines, axis=1), atol=1e-12)
            and np.allclose(np.take_along_axis(cosines, r.ids, 1), r.scores, atol=1e-12)
        ),
    )
    yield _lists.right(
        "similar users by inner product, without their biases",
        lambda: model.similar_users(7, N=30, metric="inner"),
        lambda r: np.array_equal(r.ids, brute((U @ U.T)[[7]], 30, np.zeros((1, 30), bool))[0][0]),
    )
    tiny = lfm_np.Factors((U * 1e-20).astype(np.float32), (V * 1e-22).astype(np.float32))
    yield _lists.right(
        "scores that are denormal in float32",
        lambda: tiny.recommend(np.arange(30), N=90),
        lambda r: (
            np.array_equal(r.scores, tiny.scores(np.repeat(range(30), 90), r.ids.ravel()).reshape(30, 90))
            and (np.diff(r.scores, axis=1) <= 0).all()
        ),
    )
    huge = lfm_np.Factors(U * 1e200, V * 1e200)
    yield _lists.either(
        "scores beyond float64",
        lambda: huge.recommend(np.arange(30), N=5),
        lambda r: not np.isnan(r.scores).any(),
        "overflow|beyond|finite|large",
        kind=(ValueError, OverflowError, FloatingPointError),
    )
    bare = lfm_np.Factors(np.empty((3, 0)), np.empty((4, 0)), item_bias=[1.0, 3.0, 3.0, -2.0])
    yield _lists.right(
        "biases and no factors", lambda: bare.recommend(2, N=4), lambda r: r.ids.tolist() == [1, 2, 0, 3]
    )
    yield _lists.right("nobody", lambda: model.recommend([], N=4), lambda r: r.ids.shape == r.scores.shape == (0, 4))
    for word, options in {
        "users": {"users": [0, -1]},
        "N": {"N": 0},
        "seen": {"seen": seen[:3]},
        "items": {"items": np.ones(90, bool)},
        "exclude": {"exclude": [90]},
        "num_threads": {"num_threads": -1},
    }.items():
        yield _lists.refused(f"a wrong {word}", lambda o=options: model.recommend(**{"users": [0, 1], **o}), word)
    yield Case(
        "brute lists: more than memory holds",
        lambda: model.recommend(np.zeros(10**6, int), N=10**12),
        Either(Holds(lambda r: False), raises((MemoryError, ValueError), "memory|N")),
    )
    clicks = sp.csr_array((rng.random((15, 10)) < 0.4) * 1.0)

    def shares() -> Any:
        fit = lfm_np.als(clicks, factors=3, dtype="float64", random_state=0)
        return [(fit.explain(u, 4, clicks), fit.fold_in_users(clicks).scores(u, 4)) for u in range(15)]

    yield _lists.right(
        "shares of a score",
        shares,
        lambda pairs: all(
            abs(e.baseline + e.contributions.sum() - s) < 1e-8 and set(e.items) == set(clicks[[u]].indices)
            for u, (e, s) in enumerate(pairs)
        ),
    )


def cases() -> list[Case]:
    return [*steps(), *mistakes(), *lists()]
