"""SGD where the order of the cells and the negatives are forced, beside float64 loops: every loss and schedule."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp

import lfm_np
from lfm_np import losses, sampling

from . import brute
from .case import Case, Group

_refused, _right, _either = (getattr(Group("steps by loops"), kind) for kind in ("refused", "right", "either"))
X5 = np.array([5.0, -1.0, 0.0, 3.5, 2.0])


def run(X: Any, loss: Any, k: int, device: str | None, **words: Any) -> Any:
    words = {"factors": k, "init": brute.starts(*X.shape, k), "dtype": "float64", "epochs": 4, **words}
    words = {"regularization": 0.0, "random_state": 3, **words}
    return lfm_np.sgd(X, loss, **words) if device is None else lfm_np.torch_backend.sgd(X, loss, device=device, **words)


def lone(device: str | None = None, k: int = 3, **words: Any) -> Any:
    cells = np.arange(5)
    X = sp.coo_array((X5, (cells, cells)), shape=(5, 5))
    return run(X, losses.Squared(), k, device, sampler=None, **words)


def is_lone(found: Any, tolerance: float = 1e-11, k: int = 3, **words: Any) -> bool:
    scores, values = brute.lone_cells(X5, brute.starts(5, 5, k), 4, **words)
    said = [record["sampled_loss"] for record in found.history]
    return brute.near(np.diag(brute.scores(found)), scores, tolerance) and brute.near(said, values, tolerance)


LONE: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "squared": ({}, {}),
    "squared, inverse": ({"schedule": "inverse", "learning_rate": 0.2}, {"schedule": "inverse", "rate": 0.2}),
    "squared, adagrad": ({"schedule": "adagrad", "learning_rate": 0.2}, {"schedule": "adagrad", "rate": 0.2}),
    "squared, biases": ({"biases": True}, {"biases": True}),
    "squared, regularized": ({"regularization": 0.3}, {"lam": (0.3, 0.3, 0.3)}),
    "squared, biases, regularized apart": (
        {"biases": True, "regularization": {"user": 0.2, "item": 0.5, "bias": 0.1}},
        {"biases": True, "lam": (0.2, 0.5, 0.1)},
    ),
    "squared, items held only": ({"regularization": {"item": 0.5}}, {"lam": (0.0, 0.5, 0.0)}),
}


def alone() -> Iterator[Case]:
    for name, (words, oracle) in LONE.items():
        for device in (None, "cpu"):
            yield _right(
                name + (", torch" if device else ""),
                lambda w=words, d=device: lone(d, **w),
                lambda found, o=oracle: is_lone(found, **o),
            )
    yield _right(
        "squared, float32, 17 factors", lambda: lone(k=17, dtype=np.float32), lambda found: is_lone(found, 1e-5, 17)
    )


# ---- one user, one stored item, one other ----------------------------------------------------------------------------


def softplus(s: float) -> float:
    return max(s, 0.0) + math.log1p(math.exp(-abs(s)))


def sigma(s: float) -> float:
    return 1 / (1 + math.exp(-s))


class SoftHinge(NamedTuple):
    margin: float = 1.0

    def value(self, difference: float) -> float:
        gap = max(0.0, self.margin - difference)
        return math.sqrt(1.0 + gap * gap) - 1.0

    def gradient(self, difference: float) -> float:
        gap = max(0.0, self.margin - difference)
        return -gap / math.sqrt(1.0 + gap * gap)


PAIRS: dict[str, tuple[Any, str, Any, Any, dict[str, Any]]] = {
    "BPR": (losses.BPR(), "pairwise", lambda d, _: softplus(-d), lambda d, _: -sigma(-d), {}),
    "BPR weighted": (
        losses.BPR(weighted=True), "pairwise", lambda d, _: softplus(-d), lambda d, _: -sigma(-d), {"weight": 2.5},
    ),
    "WARP": (
        losses.WARP(margin=5.0), "pairwise",
        lambda d, _: math.log(2) * max(0.0, 5 - d), lambda d, _: -math.log(2) * (d < 5), {},
    ),
    "MarginHinge": (
        losses.MarginHinge(3.0), "pairwise", lambda d, _: max(0.0, 3 - d), lambda d, _: -1.0 * (d < 3), {},
    ),
    "SampledSoftmax": (
        losses.SampledSoftmax(temperature=2.0), "pairwise",
        lambda d, _: softplus(-d / 2), lambda d, _: -sigma(-d / 2) / 2, {},
    ),
    "a loss of one's own": (
        SoftHinge(2.0), "pairwise", lambda d, _: SoftHinge(2.0).value(d), lambda d, _: SoftHinge(2.0).gradient(d), {},
    ),
    "Logistic": (losses.Logistic(), "pointwise", lambda s, y: softplus(s) - y * s, lambda s, y: sigma(s) - y, {}),
    "Logistic weighted": (
        losses.Logistic(weighted=True), "pointwise",
        lambda s, y: softplus(s) - y * s, lambda s, y: sigma(s) - y, {"weight": 2.5},
    ),
    "Hinge": (
        losses.Hinge(), "pointwise",
        lambda s, y: max(0.0, 1 - y * s), lambda s, y: -y * (y * s < 1), {"targets": (1.0, -1.0)},
    ),
    "Poisson": (
        losses.Poisson(), "pointwise",
        lambda s, x: math.exp(s) - x * s + (x * math.log(x) - x if x else 0.0), lambda s, x: math.exp(s) - x,
        {"targets": (2.5, 0.0)},
    ),
}  # fmt: skip


def pair(loss: Any, device: str | None = None, k: int = 3, **words: Any) -> Any:
    return run(sp.csr_array([[2.5, 0.0]]), loss, k, device, **words)


def is_pair(found: Any, name: str, tolerance: float = 1e-11, **words: Any) -> bool:
    _, kind, value, slope, more = PAIRS[name]
    scores, values = brute.one_user(kind, value, slope, brute.starts(1, 2, 3), 4, **more, **words)
    said = [record["sampled_loss"] for record in found.history]
    return brute.near(brute.scores(found)[0], scores, tolerance) and brute.near(said, values, tolerance)


HELD: dict[str, Any] = {"regularization": {"user": 0.1, "item": 0.2, "negative": 0.3, "bias": 0.4}}
THREE: dict[str, Any] = {"negatives": 3}


def pairs() -> Iterator[Case]:
    for name, (loss, *_) in PAIRS.items():
        yield _right(name, lambda x=loss: pair(x), lambda found, n=name: is_pair(found, n))
        if name != "a loss of one's own":
            yield _right(
                f"{name}, torch, regularized apart",
                lambda x=loss: pair(x, "cpu", **HELD),
                lambda found, n=name: is_pair(found, n, lam=(0.1, 0.2, 0.3, 0.4)),
            )
    for sampler in (sampling.Hard(4), sampling.Popularity(0.0)):
        yield _right(
            f"BPR, {sampler}", lambda s=sampler: pair(losses.BPR(), sampler=s), lambda found: is_pair(found, "BPR")
        )
    for name in ("BPR", "Logistic"):
        for device in (None, "cpu"):
            yield _right(
                f"{name}, the same negative three times" + (", torch" if device else ""),
                lambda n=name, d=device: pair(PAIRS[n][0], d, **THREE),
                lambda found, n=name: is_pair(found, n, times=3),
            )
    yield _right(
        "BPR, item biases, regularized apart",
        lambda: pair(losses.BPR(), biases="item", **HELD),
        lambda found: is_pair(found, "BPR", item_bias=True, lam=(0.1, 0.2, 0.3, 0.4)),
    )
    yield _right(
        "cosines: the loss of the first epoch, and lengths of one",
        lambda: pair(losses.CosineContrastive(0.1, 2.0), epochs=1),
        lambda found: is_cosine(found),
    )


def is_cosine(found: Any) -> bool:
    (u,), (v, w) = brute.starts(1, 2, 3)
    near, far = ((u @ y) / np.linalg.norm(u) / np.linalg.norm(y) for y in (v, w))
    lengths = np.linalg.norm(np.vstack([found.user_factors, found.item_factors]), axis=1)
    value = 1 - near + 2 * max(0.0, far - 0.1)
    return brute.near(lengths, np.ones(3), 1e-12) and brute.near(found.history[0]["sampled_loss"], value, 1e-12)


def is_start(found: Any) -> bool:
    U, V = brute.starts(1, 2, 3)
    return brute.near(brute.scores(found), U @ V.T, 1e-12)


# ---- what does not depend on the draws -------------------------------------------------------------------------------


def gone_on(break_at: int, **words: Any) -> bool:
    X = brute.counts(30, 20)
    words = {"factors": 5, "random_state": 4, **words}
    with tempfile.TemporaryDirectory() as place:
        path = os.path.join(place, "run")
        lfm_np.sgd(X, epochs=break_at, checkpoint=path, num_threads=1, **words)
        rest = lfm_np.sgd(X, epochs=6, checkpoint=path, num_threads=2, **words)
    whole = lfm_np.sgd(X, epochs=6, **words)
    same = [record["sampled_loss"] for record in rest.history] == [record["sampled_loss"] for record in whole.history]
    return same and bool((rest.item_factors == whole.item_factors).all())


def others() -> Iterator[Case]:
    yield _right("gone on with, adagrad", lambda: gone_on(3, schedule="adagrad", loss=losses.BPR()), bool)
    yield _right(
        "gone on with, inverse, biases",
        lambda: gone_on(1, schedule="inverse", biases=True, loss=losses.Squared(), sampler=None),
        bool,
    )
    yield _right(
        "rows that have everything are skipped and counted",
        lambda: lfm_np.sgd(sp.csr_array([[1.0, 1.0], [1.0, 0.0], [1.0, 1.0]]), factors=2, epochs=2, random_state=0),
        lambda found: found.params["skipped_rows"] == 2 and np.isfinite(brute.scores(found)).all(),
    )
    yield _either(
        "one item: nothing is left to draw",
        lambda: lfm_np.sgd(sp.csr_array([[1.0], [1.0]]), factors=2, epochs=2, random_state=0),
        lambda found: found.params["skipped_rows"] == 2 and np.isfinite(brute.scores(found)).all(),
        "item|negative|row",
    )
    yield _right(
        "by popularity nothing is drawn that nobody has",
        lambda: pair(losses.BPR(), sampler=sampling.Popularity(0.75)),
        lambda found: found.params["skipped_rows"] == 1 and is_start(found),
    )
    yield _right(
        "rows without cells are zero",
        lambda: lfm_np.sgd(brute.counts(), losses.Squared(), sampler=None, factors=2, epochs=2, random_state=0),
        lambda found: not found.user_factors[3].any() and not found.item_factors[2].any(),
    )
    yield _refused(
        "ratings far from the start diverge in a named epoch",
        lambda: lone(learning_rate=10.0, epochs=200),
        "epoch",
        kind=lfm_np.SolverError,
    )
    yield _refused(
        "a loss of lists where there is nothing to draw",
        lambda: run(brute.counts(), losses.SampledSoftmax(), 2, None, sampler=None),
        "sampler",
    )
    yield _right(
        "a user's bias is kept as it is by a pairwise loss without regularization",
        lambda: pair(losses.BPR(), biases=True),
        lambda found: found.user_bias is not None and found.user_bias[0] == 0,
    )


def cases() -> list[Case]:
    return [*alone(), *pairs(), *others()]
