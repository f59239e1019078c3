"""What users of lightfm, spotlight, RecBole, xlearn, libfm and implicit's BPR asked: losses, negatives, epochs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp

import lfm_np
from lfm_np import losses, sampling

from .brute import scores as products
from .case import Case, Group
from .reference import best, near, sweeps, table, tastes, weighed

_group = Group("asked of sgd peers")
_right, _refused, _either = _group.right, _group.refused, _group.either


def _true(name: str, check: Callable[[], Any]) -> Case:
    return _right(name, check, bool)


def trained(loss: Any = None, X: Any = None, **words: Any) -> lfm_np.Factors:
    given = {"factors": 4, "epochs": 3, "random_state": 0, "num_threads": 1, **words}
    return lfm_np.sgd(tastes() if X is None else X, losses.BPR() if loss is None else loss, **given)


def ends_finite(factors: lfm_np.Factors) -> bool:
    return bool(np.isfinite(products(factors)).all())


class Signed(NamedTuple):
    """lightfm's logistic loss: cells of +1 and -1 in the data."""

    scale: float = 1.0

    def value(self, score, target):  # type: ignore[no-untyped-def]
        m = self.scale * target * score
        return max(0.0, -m) + np.log1p(np.exp(-abs(m)))

    def gradient(self, score, target):  # type: ignore[no-untyped-def]
        m = self.scale * target * score
        return -self.scale * target * (np.exp(-m) / (1.0 + np.exp(-m)) if m > 0 else 1.0 / (1.0 + np.exp(m)))


def first_losses() -> Iterator[Case]:
    """Factors of zero have no slope: the loss of every epoch is known beforehand."""
    X = tastes()
    x, n = X.data.astype(float), X.shape[1]
    zero = (np.zeros((30, 4), np.float32), np.zeros((20, 4), np.float32))
    stored = np.repeat(np.diff(X.indptr), np.diff(X.indptr))
    none: dict[str, Any] = {"sampler": None}
    expected: dict[str, tuple[Any, dict[str, Any], float]] = {
        "BPR": (losses.BPR(), {}, np.log(2)),
        "BPR of three negatives": (losses.BPR(), {"negatives": 3}, 3 * np.log(2)),
        "BPR by weight (sample_weight)": (losses.BPR(weighted=True), {}, np.log(2) * x.mean()),
        "WARP, the first negative is enough": (losses.WARP(), {}, np.log(n)),
        "a margin of 3": (losses.MarginHinge(3.0), {"negatives": 2}, 6.0),
        "hinge": (losses.Hinge(), {"negatives": 2}, 3.0),
        "logistic, a positive and four negatives": (losses.Logistic(), {"negatives": 4}, 5 * np.log(2)),
        "logistic by weight": (losses.Logistic(weighted=True), {}, np.log(2) * (x.mean() + 1)),
        "squared error": (losses.Squared(), none, (x**2).mean() / 2),
        "Poisson": (losses.Poisson(), none, (1 + x * np.log(x) - x).mean()),
        "softmax, all items estimated": (losses.SampledSoftmax(), {"negatives": 5}, np.log(1.0 + n - stored).mean()),
        "softmax of the drawn": (losses.SampledSoftmax(correct_logq=False), {"negatives": 5}, np.log(6)),
        "own loss, signs": (Signed(), none, np.log(2)),
    }
    for name, (loss, words, value) in expected.items():
        yield _right(
            f"loss per epoch: {name}",
            lambda p=loss, w=words: trained(p, init=zero, **w),
            lambda f, v=value: (
                [near(h["sampled_loss"], v, 1e-6) for h in f.history] == [True] * 3 and not products(f).any()
            ),
        )


def learned() -> Iterator[Case]:
    rng = np.random.default_rng(6)
    s, t = rng.choice([-1.0, 1.0], 12), rng.choice([-1.0, 1.0], 10)
    signs = sp.csr_array(np.outer(s, t))
    yield _right(
        "lightfm: likes and dislikes, logistic",
        lambda: trained(Signed(), signs, sampler=None, epochs=80, learning_rate=0.3, regularization=0.001),
        lambda f: np.array_equal(np.sign(products(f)), np.outer(s, t)),
    )
    yield _refused(
        "lightfm: dislikes for a ranking loss", lambda: trained(losses.WARP(), signs), "negative|≥ 0|>= 0|-1"
    )
    X = tastes()
    yield _right(
        "implicit: BPR differs from run to run",
        lambda: {trained(num_threads=t).item_factors.tobytes() for t in (1, 2, 3, 2)},
        lambda bits: len(bits) == 1,
    )
    yield _right(
        "lightfm: RandomState, a fresh one each time",
        lambda: {trained(random_state=np.random.RandomState(42)).item_factors.tobytes() for _ in range(2)},
        lambda bits: len(bits) == 1,
    )
    yield _right(
        "lightfm: other seeds, other factors",
        lambda: {trained(random_state=seed).item_factors.tobytes() for seed in (0, 1, 2)},
        lambda bits: len(bits) == 3,
    )

    def diverges() -> bool:
        try:
            trained(losses.Squared(), X * 100.0, sampler=None, learning_rate=1e4)
        except lfm_np.SolverError as error:
            told = str(error).lower()
            return "epoch" in told and "learning_rate" in told and ends_finite(error.factors)
        return False

    yield _true("lightfm: parameters that are not finite", diverges)
    yield _right(
        "lightfm: weights of a million",
        lambda: _or_error(lambda: trained(losses.BPR(weighted=True), X * 1e6)),
        lambda f: f is None or ends_finite(f),
    )
    blocks = sp.csr_array(np.kron(np.eye(2), np.ones((8, 6))) * (np.arange(12) != np.arange(16)[:, None]))
    yield _right(
        "implicit: BPR recommends the same to all",
        lambda: trained(X=blocks, epochs=200, factors=2),
        lambda f: [set(r) for r in f.recommend([0, 15], N=6).ids.tolist()] == [set(range(6)), set(range(6, 12))],
    )
    yield _right(
        "lightfm: fit_partial goes on from where it was",
        lambda: trained(init=trained(epochs=5), epochs=1, learning_rate=1e-9, regularization=0.0),
        lambda f: near(products(f), products(trained(epochs=5)), 1e-5),
    )
    yield _refused(
        "lightfm: fit_partial with more items", lambda: trained(X=tastes(30, 22), init=trained()), "init", "22|20"
    )
    yield _right(
        "xlearn: stop where it is best",
        lambda: trained(epochs=50, callback=_third),
        lambda f: len(f.history) == 3 and f.status.value == "stopped",
    )
    yield _right(
        "libfm: loss falls from epoch to epoch",
        lambda: trained(losses.Squared(), sampler=None, biases=True, epochs=100, learning_rate=0.1).history,
        lambda h: (
            h[-1]["sampled_loss"] < 0.7 * h[0]["sampled_loss"] and [r["iteration"] for r in h] == list(range(1, 101))
        ),
    )
    yield _right(
        "SimpleX: the result has length one",
        lambda: trained(losses.CosineContrastive(), negatives=4),
        lambda f: (
            near(np.linalg.norm(f.user_factors, axis=1), np.ones(30), 1e-5)
            and near(np.linalg.norm(f.item_factors, axis=1), np.ones(20), 1e-5)
        ),
    )
    yield _right(
        "lightfm: scores of a pair, an item, all items",
        lambda: trained(biases=True, loss=losses.Logistic()),
        lambda f: (
            near([f.scores(u, np.arange(20)) for u in range(30)], products(f), 1e-5)
            and f.scores(3, 4) == f.scores([3], [4])[0] == f.scores(np.full(20, 3), np.arange(20))[4]
        ),
    )
    yield _refused(
        "lightfm: as many users as items, or one", lambda: trained().scores([1, 2], [1, 2, 3]), "users|items"
    )
    # an objective to compare models by
    f = trained()
    c, p, _ = weighed(X, "ials", 2.0, 0.3)
    yield _right(
        "irspack: the objective of another model's factors",
        lambda: lfm_np.objective(
            X, f, weighting="ials", alpha=2.0, unobserved_weight=0.3, regularization=0.7, regularization_exponent=1.0
        ),
        lambda J: near(J / _cost(c, p, f, table(X)[1], 0.7, 0.3), 1.0),
    )
    yield _true("irspack: iALS with α₀ = 0.3, ν = 1", lambda: _ials())


def _cost(c: np.ndarray, p: np.ndarray, f: Any, stored: np.ndarray, lam: float, a0: float) -> float:
    U, V = f.user_factors.astype(float), f.item_factors.astype(float)
    m, n = stored.shape
    penalty = (stored.sum(1) + a0 * n) @ (U**2).sum(1) + (stored.sum(0) + a0 * m) @ (V**2).sum(1)
    return float((c * (p - U @ V.T) ** 2).sum() + lam * penalty)


def _ials() -> bool:
    X, V = tastes(), np.random.default_rng(1).normal(size=(20, 5))
    words: dict[str, Any] = {"weighting": "ials", "alpha": 2.0}
    found = lfm_np.als(
        X, factors=5, iterations=3, init=(np.zeros((30, 5)), V), dtype=np.float64, regularization=0.03,
        unobserved_weight=0.3, regularization_exponent=1.0, num_threads=1, **words,
    )  # fmt: skip
    A, B, J = sweeps(X, V, 3, 0.03, 1.0, a0=0.3, **words)
    return near(products(found), A @ B.T) and near(found.history[-1]["objective"] / J, 1.0)


def _third(record: dict[str, Any], factors: Any) -> None:
    if record["iteration"] == 3:
        raise StopIteration


def _or_error(fit: Callable[[], lfm_np.Factors]) -> lfm_np.Factors | None:
    try:
        return fit()
    except lfm_np.SolverError as error:
        if "epoch" not in str(error):
            raise
        return None


def drawn() -> Iterator[Case]:
    """Negative samplers that never end, or draw what is stored."""
    full = sp.csr_array(np.vstack([np.ones((1, 20)), tastes().toarray()]))
    for name, loss, sampler in (
        ("WARP", losses.WARP(trials=1000), sampling.Uniform()),
        ("BPR, popularity", losses.BPR(), sampling.Popularity(1.0)),
        ("softmax, hard", losses.SampledSoftmax(), sampling.Hard(100)),
    ):
        yield _right(
            f"RecBole: a user with all items, {name}",
            lambda p=loss, s=sampler: trained(p, full, sampler=s),
            lambda f: ends_finite(f) and f.params["skipped_rows"] == 1,
        )
    one_left = np.ones((6, 5))
    one_left[np.arange(6), np.arange(6) % 5] = 0
    for sampler in (sampling.Uniform(), sampling.Popularity(2.0), sampling.Hard(7)):
        yield _right(
            f"RecBole: one item is left to draw, {type(sampler).__name__}",
            lambda s=sampler: trained(X=sp.csr_array(one_left), sampler=s, epochs=150, factors=6, learning_rate=0.1),
            lambda f: [best(-row, np.ones(5, bool), 1)[0] for row in products(f)] == [u % 5 for u in range(6)],
        )
    yield _either(
        "RecBole: nothing is left to draw for anybody",
        lambda: trained(X=sp.csr_array(np.ones((4, 3)))),
        lambda f: ends_finite(f) and f.params["skipped_rows"] == 4,
        "x|negative|item|row",
    )
    yield _either(
        "spotlight: a catalogue of one",
        lambda: trained(X=sp.csr_array(([1.0], ([0], [0])), (3, 1))),
        ends_finite,
        "x|negative|item|column",
    )
    # ids from one: row and column 0 are empty
    from_one = sp.csr_array(np.pad(tastes().toarray(), ((1, 0), (1, 0))))
    yield _right(
        "spotlight: ids from 1",
        lambda: trained(X=from_one),
        lambda f: f.shape == (31, 21) and not f.user_factors[0].any() and ends_finite(f),
    )
    yield _right(
        "lightfm: cells twice in COO",
        lambda: trained(X=sp.coo_array((np.ones(4), ([0, 0, 1, 2], [1, 1, 0, 2])), (3, 4)), epochs=2),
        lambda f: np.array_equal(
            f.item_factors,
            trained(X=sp.csr_array(([2.0, 1, 1], ([0, 1, 2], [1, 0, 2])), (3, 4)), epochs=2).item_factors,
        ),
    )
    yield _refused("lightfm: a loss by its name", lambda: trained("warp"), "loss")
    yield _refused("lightfm: a class of losses, not a loss", lambda: trained(losses.BPR), "loss")
    yield _refused("lightfm: learning_schedule adadelta", lambda: trained(schedule="adadelta"), "schedule", "adagrad")
    yield _refused("RecBole: a rate below zero", lambda: trained(learning_rate=-0.05), "learning_rate")
    yield _refused("RecBole: more negatives than there can be", lambda: trained(negatives=-1), "negatives")
    yield _refused(
        "libfm: a part of the model that is none",
        lambda: trained(regularization={"users": 0.1}),
        "regularization",
        "users",
    )


def cases() -> list[Case]:
    return [*first_losses(), *learned(), *drawn()]
