"""Journeys through losses, samplers and the torch side, with steps whose order or draws cannot matter."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp

import lfm_np
from lfm_np import losses, sampling
from lfm_np.evaluation import most_popular

from .case import Case, Group, installed
from .places import inside
from .working_days import NAN, Model, all_scores, best, close, csr, faultless, judged, stars, start, wrong

_GROUP = Group("quarter past four, losses")
_holds = faultless(_GROUP)
FREE = {"user": 0.0, "item": 0.0, "negative": 0.0, "bias": 0.0}


def all_but_one(m: int, n: int, seed: int = 0) -> np.ndarray:
    """Every user has all items but one, which is the only negative."""
    X = np.random.default_rng(seed).integers(1, 4, (m, n)).astype(float)
    X[np.arange(m), (np.arange(m) * 3) % n] = NAN
    return X


def softplus(x: Any) -> Any:
    return np.maximum(x, 0) + np.log1p(np.exp(-abs(x)))


def sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-np.asarray(x, float)))


Paid = Callable[[float, float, float], float]
PAID: dict[str, tuple[Any, dict[str, Any], Paid]] = {
    "BPR, weighted": (losses.BPR(True), {}, lambda s, t, x: x * softplus(t - s)),
    "MarginHinge, three negatives": (
        losses.MarginHinge(0.3), {"negatives": 3}, lambda s, t, x: 3 * max(0.0, 0.3 - s + t),
    ),
    "WARP of five items, weighted": (
        losses.WARP(0.8, 7, True), {}, lambda s, t, x: x * math.log(5) * max(0.0, 0.8 - s + t),
    ),
    "Logistic, weighted, by Popularity": (
        losses.Logistic(True), {"sampler": sampling.Popularity(2.0)}, lambda s, t, x: x * softplus(-s) + softplus(t),
    ),
    "Hinge, of a hard negative": (
        losses.Hinge(), {"sampler": sampling.Hard(3)}, lambda s, t, x: max(0.0, 1 - s) + max(0.0, 1 + t),
    ),
    "Squared with a negative": (losses.Squared(), {"negatives": 2}, lambda s, t, x: (s - x) ** 2 / 2 + t**2),
    "Poisson with a negative": (
        losses.Poisson(), {}, lambda s, t, x: math.exp(s) - x * s + x * math.log(x) - x + math.exp(t),
    ),
    "SampledSoftmax of a temperature": (
        losses.SampledSoftmax(0.5, True, True), {"negatives": 4}, lambda s, t, x: x * softplus((t - s) / 0.5),
    ),
    "SampledSoftmax uncorrected": (
        losses.SampledSoftmax(2.0, False), {"negatives": 3}, lambda s, t, x: softplus((t - s) / 2 + math.log(3)),
    ),
}  # fmt: skip


def _solved_then_paid(name: str) -> list[str]:
    """A model of als starts sgd, which pays what its scores say, and goes on being that model at next to no rate."""
    loss, words, paid = PAID[name]
    X = all_but_one(8, 5)
    model = Model("confidence", 1.0, 0.5, 0.3)
    first = lfm_np.als(csr(X), factors=3, iterations=2, init=start(8, 5, 3), dtype="float64", **model.words)
    U, V = model.sweeps(X, start(8, 5, 3)[1], 2)
    S = U @ V.T
    then = lfm_np.sgd(
        csr(X), loss, factors=3, epochs=1, learning_rate=1e-13, init=first, dtype="float64", random_state=4, **words
    )
    costs = [paid(S[u, i], S[u, np.isnan(X[u])][0], X[u, i]) for u, i in np.argwhere(~np.isnan(X))]
    found = lfm_np.evaluate(then, None, csr(X), ("auc",))
    told = judged(S, np.zeros(X.shape, bool), ~np.isnan(X), 1)
    return wrong(
        solved=close(all_scores(first), S, 1e-9),
        paid=close(then.history[0]["sampled_loss"], np.mean(costs), 1e-8),
        kept=close(all_scores(then), S, 1e-9),
        auc=close(found["auc"], told["auc"], 1e-12) and found["users"] == 8,
    )


def _unit(place: Path) -> list[str]:
    X = all_but_one(7, 4, 2)
    U, V = (f / np.linalg.norm(f, axis=1, keepdims=True) for f in start(7, 4, 3))
    S = U @ V.T
    loss = losses.CosineContrastive(0.1, 1.5, True)
    fit = lfm_np.sgd(
        csr(X),
        loss,
        factors=3,
        epochs=1,
        negatives=2,
        learning_rate=1e-13,
        init=(U, V),
        dtype="float64",
        random_state=0,
    )
    pay = [
        X[u, i] * (1 - S[u, i] + 1.5 * max(0.0, S[u, np.isnan(X[u])][0] - 0.1)) for u, i in np.argwhere(~np.isnan(X))
    ]
    fit.save(place / "f")
    again = lfm_np.Factors.load(place / "f")
    ids = again.similar_items([0, 3], N=4, metric="inner").ids
    W = V @ V.T
    return wrong(
        paid=close(fit.history[0]["sampled_loss"], np.mean(pay), 1e-9),
        length=close((again.user_factors**2).sum(1), np.ones(7), 1e-12),
        alike=ids.tolist() == [best(W[i], np.ones(4, bool), 4) for i in (0, 3)],
        value=close(loss.value(0.2, np.array([0.3, -1.0])), 0.8 + 0.75 * 0.2, 1e-12),
    )


class Cauchy(NamedTuple):
    """A rating far off counts little."""

    width: float = 1.5

    def value(self, score: float, target: float) -> float:
        e = (score - target) / self.width
        return 0.5 * math.log1p(e * e)

    def gradient(self, score: float, target: float) -> float:
        e = (score - target) / self.width
        return e / (1.0 + e * e) / self.width

    def torch_value(self, score: Any, target: Any) -> Any:
        import torch

        return 0.5 * torch.log1p(((score - target) / self.width) ** 2)


def _cauchy_steps(
    x: np.ndarray, U: np.ndarray, W: np.ndarray, epochs: int
) -> tuple[np.ndarray, np.ndarray, list[float]]:
    paid = []
    for _ in range(epochs):
        e = ((U * W).sum(1) - x) / 1.5
        paid.append(float((np.log1p(e * e) / 2).mean()))
        g = (e / (1 + e * e) / 1.5)[:, None]
        U, W = U - 0.3 * (g * W + 0.05 * U), W - 0.3 * (g * U + 0.05 * W)
    return U, W, paid


def _own_checked_and_gone_on(place: Path, torch: bool) -> list[str]:
    losses.check(Cauchy())
    losses.check(Cauchy(0.5))
    draw = np.random.default_rng(3)
    x, to = draw.integers(-9, 9, 9) / 4, draw.permutation(9)
    U, V = start(9, 9, 2, 5)
    X = sp.csr_array((x, (np.arange(9), to)), shape=(9, 9))
    solve = lfm_np.torch_backend.sgd if torch else lfm_np.sgd
    words: dict[str, Any] = {"batch_size": 4} if torch else {"num_threads": 2}
    words |= {"sampler": None, "factors": 2, "learning_rate": 0.3, "regularization": 0.05, "init": (U, V)}
    words |= {"dtype": "float64", "random_state": 0, "checkpoint": place / "c"}
    half = solve(X, Cauchy(), epochs=2, **words)
    fit = solve(X, Cauchy(), epochs=5, **words)
    A, B, paid = _cauchy_steps(x, U, V[to], 5)
    C, D, _ = _cauchy_steps(x, U, V[to], 2)
    users = np.arange(9)
    folded = fit.fold_in_users(
        X, weighting="ratings", regularization=0.2, regularization_exponent=1.0, alpha=1.0
    ).user_factors
    mine = x[:, None] * B / ((B**2).sum(1) + 0.2)[:, None]
    return wrong(
        half=close(half.scores(users, to), (C * D).sum(1), 1e-10),
        whole=close(fit.scores(users, to), (A * B).sum(1), 1e-10),
        paid=close([r["sampled_loss"] for r in fit.history], paid, 1e-10),
        folded=close((folded @ fit.item_factors[to].T).diagonal(), (mine * B).sum(1), 1e-9),
    )


class SoftStep(NamedTuple):
    slope: float = 2.0

    def value(self, difference: float) -> float:
        return math.log1p(math.exp(-self.slope * difference)) if difference > -40.0 else -self.slope * difference

    def gradient(self, difference: float) -> float:
        return -self.slope / (1.0 + math.exp(min(700.0, self.slope * difference)))


def _one_user_of_one_negative() -> list[str]:
    """Item 1 is the only negative: five epochs can be foretold."""
    losses.check(SoftStep())
    u, (v, w) = np.array([0.3, -0.2]), np.array([[0.1, 0.4], [0.5, -0.3]])
    X = sp.csr_array([[2.0, 0.0]])
    init, paid = (u[None].copy(), np.array([v, w])), []
    for e in range(5):
        d, rate = float(u @ (v - w)), 0.2 / (1 + e / 10)
        paid.append(3 * SoftStep(1.5).value(d))
        g = 3 * SoftStep(1.5).gradient(d)
        u, v, w = u - rate * (g * (v - w) + 0.1 * u), v - rate * (g * u + 0.2 * v), w + rate * g * u
    fit = lfm_np.sgd(
        X, SoftStep(1.5), negatives=3, factors=2, epochs=5, learning_rate=0.2, schedule="inverse", init=init,
        regularization={"user": 0.1, "item": 0.2}, dtype="float64", random_state=9,
    )  # fmt: skip
    curve = [r["sampled_loss"] for r in fit.history]
    ids, scores = fit.recommend(0, N=2, seen=X)
    return wrong(
        paid=close(curve, paid, 1e-12),
        scores=close(fit.scores(0, [0, 1]), [u @ v, u @ w], 1e-11),
        list=ids.tolist() == [1, -1] and np.isneginf(scores[1]),
        J=close(
            lfm_np.objective(X, fit, weighting="hu-koren", alpha=2.0, regularization=0.5),
            Model("hu-koren", 2.0, 1.0, 0.5).objective(np.array([[2.0, NAN]]), u[None], np.array([v, w])), 1e-10,
        ),
    )  # fmt: skip


def _drawn_by(sampler: Any, beta: float) -> list[str]:
    """What an epoch pays says which negatives were drawn: within five standard errors."""
    m, n = 1500, 7
    draw = np.random.default_rng(2)
    pairs = np.array([(u, i) for u in range(m) for i in {0, int(draw.choice(n, p=np.arange(1, 8) / 28))}])
    X = lfm_np.to_csr(pairs, shape=(m, n))
    counts = most_popular(X).item_bias
    U, V = np.ones((m, 1)), np.linspace(-2, 2, n)[:, None]
    fit = lfm_np.sgd(
        X, losses.BPR(), sampler=sampler, factors=1, epochs=1, learning_rate=1e-12, init=(U, V), dtype="float64",
        random_state=8,
    )  # fmt: skip
    stored = X.toarray() > 0
    mean = variance = 0.0
    for u, i in np.argwhere(stored):
        q = np.where(stored[u], 0.0, counts**beta)
        q /= q.sum()
        pay = softplus(V[:, 0] - V[i, 0])
        mean += q @ pay
        variance += q @ pay**2 - (q @ pay) ** 2
    total = fit.history[0]["sampled_loss"] * X.nnz
    return wrong(
        counts=np.array_equal(counts, stored.sum(0)),
        drawn=abs(total - mean) < 5 * math.sqrt(variance),
        skipped=not fit.params["skipped_rows"],
    )


def _torch_squared_in_one_batch() -> list[str]:
    X = stars(9, 6, seed=31)
    U, V = start(9, 6, 2)
    a, b, mu = np.zeros(9), np.zeros(6), float(np.nanmean(X))
    init = lfm_np.Factors(U, V, user_bias=a, item_bias=b, global_bias=0.0)
    has, paid = ~np.isnan(X), []
    E = np.zeros(X.shape)
    for _ in range(3):
        E[has] = (mu + a[:, None] + b + U @ V.T - X)[has]
        paid.append((E[has] ** 2).mean() / 2)
        nu, ni = has.sum(1), has.sum(0)
        U, V, a, b = (
            U - 0.02 * (E @ V + 0.1 * nu[:, None] * U), V - 0.02 * (E.T @ U + 0.2 * ni[:, None] * V),
            a - 0.02 * (E.sum(1) + 0.3 * nu * a), b - 0.02 * (E.sum(0) + 0.3 * ni * b),
        )  # fmt: skip
    fit = lfm_np.torch_backend.sgd(
        csr(X), losses.Squared(), sampler=None, biases=True, factors=2, epochs=3, learning_rate=0.02, init=init,
        regularization={"user": 0.1, "item": 0.2, "bias": 0.3}, dtype="float64", random_state=1, batch_size=100,
    )  # fmt: skip
    S = mu + a[:, None] + b + U @ V.T
    ids = fit.recommend(range(9), N=6, seen=csr(X)).ids
    return wrong(
        paid=close([r["sampled_loss"] for r in fit.history], paid, 1e-9),
        scores=close(all_scores(fit), S, 1e-9),
        lists=ids.tolist() == [best(s, ~h, 6) for s, h in zip(S, has, strict=True)],
        mean=close(fit.global_bias, mu, 1e-12),
    )


def _torch_one_negative(name: str) -> list[str]:
    """In a batch of everything all moves are of the start and add up."""
    X = all_but_one(6, 4, 3)
    U0, V0 = U, V = start(6, 4, 3)
    loss, M = {
        "BPR": (losses.BPR(True), 2),
        "Logistic": (losses.Logistic(), 3),
        "SampledSoftmax": (losses.SampledSoftmax(0.5), 2),
        "MarginHinge": (losses.MarginHinge(0.2), 1),
    }[name]
    paid = []
    for _ in range(2):
        S, dU, dV, pay = U @ V.T, np.zeros_like(U), np.zeros_like(V), []
        for u, i in np.argwhere(~np.isnan(X)):
            j = int(np.flatnonzero(np.isnan(X[u]))[0])
            s, t, x = S[u, i], S[u, j], X[u, i]
            gs, gt, cost = {
                "BPR": (-M * x * sigmoid(t - s), M * x * sigmoid(t - s), M * x * softplus(t - s)),
                "Logistic": (sigmoid(s) - 1, M * sigmoid(t), softplus(-s) + M * softplus(t)),
                "SampledSoftmax": (-2 * sigmoid(2 * (t - s)), 2 * sigmoid(2 * (t - s)), softplus(2 * (t - s))),
                "MarginHinge": (-float(s - t < 0.2), float(s - t < 0.2), max(0.0, 0.2 - s + t)),
            }[name]
            dU[u] += gs * V[i] + gt * V[j] + 0.1 * U[u]
            dV[i] += gs * U[u] + 0.2 * V[i]
            dV[j] += gt * U[u]
            pay.append(cost)
        paid.append(np.mean(pay))
        U, V = U - 0.05 * dU, V - 0.05 * dV
    fit = lfm_np.torch_backend.sgd(
        csr(X), loss, negatives=M, factors=3, epochs=2, learning_rate=0.05, init=(U0, V0), dtype="float64",
        regularization={"user": 0.1, "item": 0.2}, random_state=3, batch_size=1000, device="cpu",
    )  # fmt: skip
    found = lfm_np.evaluate(fit, None, csr(X), ("mrr", "ndcg@2"))
    told = judged(U @ V.T, np.zeros(X.shape, bool), ~np.isnan(X), 2)
    return wrong(
        paid=close([r["sampled_loss"] for r in fit.history], paid, 1e-9),
        scores=close(all_scores(fit), U @ V.T, 1e-9),
        judged=close(found["mrr"], told["mrr"], 1e-12) and close(found["ndcg@2"], told["ndcg@2"], 1e-12),
    )


def _torch_then_here(place: Path, model: Model) -> list[str]:
    """Two sweeps of torch, gone on with to three from its checkpoint, and one more here."""
    X = stars(17, 9, seed=33)
    words = {"factors": 3, "init": start(17, 9, 3), "dtype": "float64", "random_state": 0, **model.words}
    torch = lfm_np.torch_backend
    two = torch.als(csr(X), iterations=2, checkpoint=place / "c", **words)
    three = torch.als(csr(X), iterations=3, checkpoint=place / "c", **words)
    four = lfm_np.als(csr(X), iterations=1, **{**words, "init": three})
    facts = {}
    for n, fit in ((2, two), (3, three), (4, four)):
        U, V = model.sweeps(X, words["init"][1], n)
        facts[f"scores {n}"] = close(all_scores(fit), U @ V.T, 1e-7)
        facts[f"J {n}"] = close(fit.history[-1]["objective"], model.objective(X, U, V), 1e-8)
    rows = stars(3, 9, seed=34)
    folded = model.half(rows, four.item_factors)
    return wrong(**facts, folded=close(four.fold_in_users(csr(rows)).user_factors, folded, 1e-9))


def _crosschecked(place: Path) -> list[str]:
    X = lfm_np.datasets.planted(60, 20, 300, rank=3, random_state=1)
    report = lfm_np.torch_backend.crosscheck(X, device="cpu", factors=3, sweeps=1)
    report.to_json(place / "r.json")
    page, found = report.to_html(place / "r.html"), list(_leaves(json.loads((place / "r.json").read_text())))
    return wrong(
        passed=report.passed,
        rows=all(row.passed == (row.error <= row.tolerance) for row in report.rows),
        told=all(row.error in found and row.what in found for row in report.rows),
        page=(place / "r.html").read_text() == page and "<script" not in page,
        all_losses=all(any(name in row.part for row in report.rows) for name in ("BPR", "WARP", "Poisson", "hu-koren")),
    )


def _leaves(tree: Any) -> Iterator[Any]:
    if isinstance(tree, (list, dict)):
        for branch in tree.values() if isinstance(tree, dict) else tree:
            yield from _leaves(branch)
    else:
        yield tree


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    for name in PAID:
        yield _holds(f"als, then sgd pays: {name}", lambda n=name: _solved_then_paid(n))
    yield _holds("cosines of length one, kept, alike", inside(_unit))
    yield _holds("a loss of one's own, gone on with, folded in", inside(lambda p: _own_checked_and_gone_on(p, False)))
    yield _holds("one user, one negative, three times, inverse", _one_user_of_one_negative)
    for name, sampler, beta in (
        ("Uniform", sampling.Uniform(), 0.0), ("Popularity(1)", sampling.Popularity(1.0), 1.0),
        ("Popularity()", sampling.Popularity(), 0.75), ("Popularity(0)", sampling.Popularity(0.0), 0.0),
        ("Hard(1)", sampling.Hard(1), 0.0),
    ):  # fmt: skip
        yield _holds(f"pairs, counts, negatives by {name}", lambda s=sampler, b=beta: _drawn_by(s, b))
    if installed("torch"):
        yield _holds("a loss of one's own on torch, gone on", inside(lambda p: _own_checked_and_gone_on(p, True)))
        yield _holds("Squared with biases in one batch of torch", _torch_squared_in_one_batch)
        for name in ("BPR", "Logistic", "SampledSoftmax", "MarginHinge"):
            yield _holds(f"one batch of torch: {name}", lambda n=name: _torch_one_negative(n))
        for name, model in (
            ("hu-koren", Model("hu-koren", 2.0, 0.5, 0.4, 0.5)), ("ials", Model("ials", 1.0, 0.2, 0.05, 1.0)),
            ("confidence", Model("confidence", 4.0, 1.0, 0.3)), ("ratings", Model("ratings", lam=0.2, nu=1.0)),
        ):  # fmt: skip
            yield _holds(f"torch's checkpoint, then here: {name}", inside(lambda p, m=model: _torch_then_here(p, m)))
        yield _holds("crosscheck of planted data, as JSON and page", inside(_crosschecked))
