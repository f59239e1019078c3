"""Sentences about samplers, weights and starts of `sgd`, by counting: an epoch's biases say what was drawn.

Where all factors are zero and the rate is tiny, every score stays 0, so that slopes are those at 0: a step adds a known
amount to the bias of its items.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp

import lfm_np
from lfm_np import losses, sampling

from .case import Case, Group
from .working_days import faultless, same, wrong

_GROUP = Group("late readers, draws")
_holds = faultless(_GROUP)
TINY = 1e-9


def _near(a: float, b: float, tolerance: float = 1e-12) -> bool:
    return abs(float(a) - b) <= tolerance * max(1.0, abs(b))


def _diagonal(x: np.ndarray) -> sp.csr_array:
    cells = np.arange(len(x))
    return sp.csr_array((x, (cells, cells)))


# --- draws ---------------------------------------------------------------------------------------


def _at_zero(X: Any, loss: Any, **words: Any) -> Any:
    m, n = X.shape
    given = {"factors": 1, "epochs": 1, "learning_rate": TINY, "regularization": 0.0, "random_state": 7, **words}
    return lfm_np.sgd(X, loss, init=(np.zeros((m, 1)), np.zeros((n, 1))), dtype="float64", **given)


def _drawn(X: sp.csr_array, sampler: Any) -> np.ndarray:
    """How often each item was a negative: BPR moves either bias by η/2 at a difference of 0."""
    fit = _at_zero(X, losses.BPR(), sampler=sampler, biases="item")
    stored = X[np.diff(X.indptr) < X.shape[1]]  # full rows are skipped
    return stored.sum(0) - np.asarray(fit.item_bias) * 2 / TINY


def _follow(X: sp.csr_array, sampler: Any, weight: Callable[[np.ndarray], np.ndarray]) -> list[str]:
    """Within five standard deviations of what a sum of independent draws is expected to be; all draws are whole."""
    has = X.toarray() > 0
    W = np.where(has, 0.0, weight(has.sum(0).astype(float)))
    W = W[W.sum(1) > 0]
    P = np.repeat(W / W.sum(1, keepdims=True), has[(~has).any(1)].sum(1), axis=0)
    mean, deviation = P.sum(0), np.sqrt((P * (1 - P)).sum(0))
    found = _drawn(X, sampler)
    return wrong(
        whole=bool((abs(found - found.round()) < 1e-2).all()),
        all=round(float(found.sum())) == len(P),
        each=bool((abs(found - mean) <= 5 * deviation + 0.5).all()),
    )


def _some_of_six() -> sp.csr_array:
    draw = np.random.default_rng(31)
    has = draw.random((500, 6)) < [0.8, 0.5, 0.5, 0.3, 0.1, 0.6]
    has[has.all(1), 3] = False
    has[~has.any(1), 0] = True
    has[:3] = True
    return sp.csr_array(has.astype(np.float64))


def _far_apart() -> sp.csr_array:
    """2,000 rows with item 0 only, and 10, 40 and 160 with one of the others."""
    items = np.repeat([0, 1, 2, 3], [2000, 10, 40, 160])
    return sp.csr_array((np.ones(len(items)), (np.arange(len(items)), items)))


def _skipped() -> list[str]:
    X = _some_of_six()
    fit = _at_zero(X, losses.BPR(), biases="item")
    return wrong(
        rows=fit.params is not None and fit.params["skipped_rows"] == 3,
        paid=_near(fit.history[0]["sampled_loss"], math.log(2) * (X.nnz - 18) / X.nnz, 1e-6),
    )


def _seven_negatives() -> list[str]:
    X = sp.csr_array(np.kron(np.eye(3), [[1.0, 1, 0]]))
    fit = _at_zero(X, losses.Logistic(), negatives=7, biases="item")
    total = float(np.sum(fit.item_bias)) * 2 / TINY
    return wrong(total=_near(total, 6 - 42, 1e-4), paid=_near(fit.history[0]["sampled_loss"], 8 * math.log(2), 1e-6))


def _corrected_by_popularity() -> list[str]:
    """Counts of 1, 1 and 3: the first two rows draw with ¼ and ¾, the others with ½; log(1 + 1/q) is paid."""
    X = sp.csr_array((np.ones(5), (np.arange(5), [0, 1, 2, 2, 2])), shape=(5, 3))
    rare, often, rest = math.log(5), math.log(7 / 3), 3 * math.log(3)
    mine = [rest + 2 * rare, rest + rare + often, rest + 2 * often]
    kinds = set()
    for seed in range(12):
        loss = losses.SampledSoftmax(temperature=0.3)
        fit = _at_zero(X, loss, sampler=sampling.Popularity(1.0), biases="item", random_state=seed)
        paid = 5 * fit.history[0]["sampled_loss"]
        kinds.add(next((i for i, p in enumerate(mine) if _near(paid, p, 1e-6)), -1))
    return wrong(known=-1 not in kinds, several=len(kinds) > 1)


def _first_trial() -> list[str]:
    """At scores of 0 the first draw violates the margin: the rank is n - 1."""
    X = sp.csr_array([[2.5, 0, 0, 0, 0, 0], [0, 0.5, 0, 0, 3.0, 0]])
    fit = _at_zero(X, losses.WARP(margin=0.75, weighted=True))
    return wrong(paid=_near(fit.history[0]["sampled_loss"], 2.0 * math.log(6) * 0.75, 1e-6))


def _zeros_kept_or_not() -> list[str]:
    X = sp.csr_array((np.array([3.0, 0.0, 1.0, 0.0]), ([0, 0, 1, 2], [0, 1, 2, 0])), shape=(3, 3))
    kept = _at_zero(X, losses.Squared(), sampler=None)
    dropped = _at_zero(X, losses.Logistic(weighted=True))
    return wrong(
        kept=_near(kept.history[0]["sampled_loss"], (9 + 1) / 2 / 4, 1e-6) and kept.params["zeros"] == "keep",
        dropped=_near(dropped.history[0]["sampled_loss"], 3 * math.log(2), 1e-6) and dropped.params["zeros"] == "drop",
    )


def _summed() -> list[str]:
    X = sp.coo_array((np.array([1.0, 2.0, 0.5]), ([0, 0, 1], [1, 1, 0])), shape=(2, 2))
    fit = _at_zero(X, losses.BPR(weighted=True))
    return wrong(paid=_near(fit.history[0]["sampled_loss"], math.log(2) * 3.5 / 2, 1e-6))


def _counts_with_negatives() -> list[str]:
    x = np.array([4.0, 0.5, 12.0])
    fit = _at_zero(_diagonal(x), losses.Poisson(), negatives=3)
    return wrong(paid=_near(fit.history[0]["sampled_loss"], float((1 + x * np.log(x) - x).mean()) + 3, 1e-6))


# --- starts --------------------------------------------------------------------------------------


def _default_start() -> list[str]:
    """Squares of 300·8 uniform numbers have a relative deviation of 0.894/√2400 in the mean."""
    X = _diagonal(np.linspace(1, 2, 300))
    X.resize((303, 302))
    fit: Any = lfm_np.sgd(
        X, losses.Squared(), sampler=None, factors=8, epochs=1, learning_rate=1e-12, dtype="float64", random_state=9
    )
    bad = []
    for name, F in (("users", fit.user_factors), ("items", fit.item_factors)):
        squares = (F**2).sum(1)
        if abs(squares[:300].mean() / 0.01 - 1) > 5 * 0.894 / math.sqrt(2400):
            bad.append(f"deviation of {name}")
        if squares.max() > 3 * 0.01 * (1 + 1e-6) or squares[:300].min() <= 0:
            bad.append(f"range of {name}")
        if squares[300:].any():
            bad.append(f"{name} without cells")
    return bad


def _unit_length() -> list[str]:
    X = _some_of_six()
    fit: Any = lfm_np.sgd(X, losses.CosineContrastive(0.1, 4.0), negatives=5, factors=3, epochs=2, random_state=0)
    norms = np.concatenate([np.linalg.norm(F.astype(np.float64), axis=1) for F in (fit.user_factors, fit.item_factors)])
    return wrong(float32=fit.user_factors.dtype == np.float32, one=bool((abs(norms[norms > 0] - 1) < 1e-6).all()))


def _seed_repeats() -> list[str]:
    X = _some_of_six()
    words: dict[str, Any] = {"factors": 3, "epochs": 2, "negatives": 2}
    first: Any = lfm_np.sgd(X, losses.Logistic(), **words)
    again = lfm_np.sgd(X, losses.Logistic(), random_state=first.params["seed"], **words)
    drawn: Any = lfm_np.sgd(X, losses.Logistic(), random_state=np.random.default_rng(1), **words)
    return wrong(repeats=same(first, again), none=drawn.params["seed"] is None)


class Doubled(NamedTuple):
    """A loss of one's own, least where the score is twice the value."""

    def value(self, score: float, target: float) -> float:
        return (score - 2.0 * target) ** 2

    def gradient(self, score: float, target: float) -> float:
        return 2.0 * (score - 2.0 * target)


def _mu(loss: Any, x: np.ndarray) -> float:
    fit: Any = lfm_np.sgd(
        _diagonal(x), loss, sampler=None, biases=True, factors=1, epochs=1, learning_rate=1e-6, dtype="float64",
        random_state=0,
    )  # fmt: skip
    return float(fit.global_bias if fit.global_bias is not None else math.nan)


def _mu_of_pairs() -> list[str]:
    fit = _at_zero(_some_of_six(), losses.BPR(), biases=True)
    return wrong(mu=fit.global_bias == 0, users=fit.user_bias is not None and not np.any(fit.user_bias))


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    for beta in (0.37, 2.0):
        yield _holds(
            f"β of {beta} over counts far apart",
            lambda b=beta: _follow(_far_apart(), sampling.Popularity(b), lambda c: c**b),
        )
    yield _holds(
        "popularity, those of the row excluded",
        lambda: _follow(_some_of_six(), sampling.Popularity(1.0), lambda c: c),
    )
    for sampler in (sampling.Uniform(), sampling.Popularity(0.0), sampling.Hard(1)):
        yield _holds(f"uniform by {sampler}", lambda s=sampler: _follow(_some_of_six(), s, np.ones_like))
    yield _holds("rows that leave nothing to draw pay 0", _skipped)
    yield _holds("seven negatives add up", _seven_negatives)
    yield _holds("1/q by popularity whatever the temperature", _corrected_by_popularity)
    yield _holds("the rank of a first trial among six items, weighted", _first_trial)
    yield _holds("a stored zero is a value or absent, by the loss", _zeros_kept_or_not)
    yield _holds("duplicates are summed before they weigh", _summed)
    yield _holds("negatives of counts pay one each", _counts_with_negatives)
    yield _holds("rows start uniform with 0.1/√k, and zero without cells", _default_start)
    yield _holds("cosine losses leave length one in float32", _unit_length)
    yield _holds("the seed in params repeats a fit that had none", _seed_repeats)
    x = np.array([2.0, 5.0, 11.0])
    yield _GROUP.right(
        "μ of counts is the log of their mean",
        lambda: _mu(losses.Poisson(), x),
        lambda mu: _near(mu, math.log(6), 1e-6),
    )
    yield _GROUP.right("μ of a loss of one's own", lambda: _mu(Doubled(), x), lambda mu: _near(mu, 12.0, 1e-6))
    yield _holds("μ is 0 and users' biases rest where only differences count", _mu_of_pairs)
