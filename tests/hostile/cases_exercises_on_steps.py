"""Exercises on `sgd`: all at zero, draws counted by how rows shrink, means by enumeration, minima in closed form."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import scipy.sparse as sp

import lfm_np as library

from .case import Case, Group, installed
from .cases_exercises_in_closed_form import near, scores_of
from .working_days import csr, faultless, wrong

lfm_np: Any = library
losses: Any = library.losses
sampling: Any = library.sampling
_GROUP = Group("exercise class")
_holds = faultless(_GROUP)


# Row 1 has every item, so that it leaves nothing to draw; row 3 has none.
TABLE = np.array(
    [
        [2.0, 0, 0, 5, 0, 0],
        [1, 2, 1, 3, 1, 1],
        [0, 1, 4, 0, 2, 0],
        [0, 0, 0, 0, 0, 0],
        [0, 0, 3, 0, 0, 0],
    ]
)


def _fit(X: Any, loss: Any, **words: Any) -> Any:
    given = {"dtype": "float64", "random_state": 0, "learning_rate": 0.05, "regularization": 0.0, **words}
    return lfm_np.sgd(sp.csr_array(X) if isinstance(X, np.ndarray) else X, loss, **given)


def _nothing(m: int, n: int, k: int = 2) -> tuple[np.ndarray, np.ndarray]:
    return np.zeros((m, k)), np.zeros((n, k))


def _at_zero(loss: Any, M: int, pays: Callable[[float, int], float], **words: Any) -> list[str]:
    """All scores are 0, so are all slopes of factors: every epoch pays the same, and the second ends the run."""
    fit = _fit(TABLE, loss, negatives=M, init=_nothing(5, 6), factors=2, regularization=0.1, tolerance=1e-6, **words)
    mine = sum(pays(x, int((row == 0).sum())) for row in TABLE for x in row[row > 0] if (row == 0).any()) / 12
    return wrong(
        paid=near([r["sampled_loss"] for r in fit.history], [mine] * 2, 1e-12), ended=fit.status == "converged",
        skipped=fit.params["skipped_rows"] == 1, factors=not fit.user_factors.any() and not fit.item_factors.any(),
    )  # fmt: skip


def _pattern(m: int = 60, n: int = 40, seed: int = 1) -> np.ndarray:
    """Popular items first; the first is in all rows, and the last in none."""
    draw = np.random.default_rng(seed)
    B = draw.random((m, n)) < 0.5 / (1 + np.arange(n) / 5)
    B[:, 0], B[:, n - 1] = True, False
    return B.astype(float)


APART = losses.MarginHinge(margin=-50.0)  # every pair is apart, so that rows are moved by λ alone


def _begun(m: int, n: int, k: int = 3) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(2)
    return draw.normal(size=(m, k)), draw.normal(size=(n, k))


def _shrunk(after: Any, before: Any, by: float) -> np.ndarray:
    """How many times rows were multiplied by 1 - by; lengths do not change as the basis turns."""
    return np.log(np.linalg.norm(after, axis=1) / np.linalg.norm(before, axis=1)) / math.log1p(-by)


def _visits() -> list[str]:
    """Every epoch visits every stored cell once: a user shrinks once a cell, whatever M, and so does a stored item."""
    B = (np.random.default_rng(3).random((400, 300)) < 0.05).astype(float)
    U, V = _begun(400, 300)
    fit = _fit(B, APART, negatives=3, factors=3, epochs=4, init=(U, V), regularization={"user": 0.02, "item": 0.04})
    users, items = _shrunk(fit.user_factors, U, 1e-3), _shrunk(fit.item_factors, V, 2e-3)
    return wrong(users=abs(users - 4 * B.sum(1)).max() < 1e-6, items=abs(items - 4 * B.sum(0)).max() < 1e-6)


def _drawn(sampler: Any, weights: Callable[[np.ndarray], np.ndarray]) -> list[str]:
    """Negatives counted one by one, and every item's number within 6 deviations of Σ q."""
    B = _pattern()
    U, V = _begun(*B.shape)
    fit = _fit(B, APART, sampler=sampler, factors=3, epochs=60, init=(U, V), regularization={"negative": 0.02})
    counts = _shrunk(fit.item_factors, V, 1e-3)
    mean, variance = np.zeros(40), np.zeros(40)
    for row in B:
        q = np.where(row == 0, weights(B.sum(0)), 0.0)
        q /= q.sum()
        mean += 60 * row.sum() * q
        variance += 60 * row.sum() * q * (1 - q)
    return wrong(
        whole=abs(counts - np.round(counts)).max() < 1e-6,
        all_of_them=np.round(counts).sum() == 60 * B.sum(),
        stored_by_all=round(counts[0]) == 0,
        by_q=bool((abs(counts - mean) <= 6 * np.sqrt(variance) + 1e-6).all()),
        users=near(np.linalg.norm(fit.user_factors, axis=1), np.linalg.norm(U, axis=1), 1e-12),
    )


def _several() -> list[str]:
    """M = 5: five times as many draws, none of them stored, and every row's first item is never among them."""
    B = _pattern()
    U, V = _begun(*B.shape)
    fit = _fit(
        B, APART, sampler=sampling.Hard(3), negatives=5, factors=3, epochs=3, init=(U, V),
        regularization={"negative": 0.02},
    )  # fmt: skip
    counts = _shrunk(fit.item_factors, V, 1e-3)
    return wrong(
        whole=abs(counts - np.round(counts)).max() < 1e-6, stored_by_all=round(counts[0]) == 0,
        all_of_them=np.round(counts).sum() == 5 * 3 * B.sum(),
    )  # fmt: skip


def _scheduled(schedule: str) -> list[str]:
    """λ alone moves a user: by η, by η/(1 + e/10) in epoch e, or by Adagrad's rate of its own sum."""
    B, (eta, lam) = _pattern(12, 9), (0.25, 0.5)
    U, V = _begun(12, 9)
    fit = _fit(
        B, APART, factors=3, epochs=4, init=(U, V), schedule=schedule, learning_rate=eta, regularization={"user": lam}
    )
    mine = []
    for u, cells in zip(U, B.sum(1), strict=True):
        left, seen = float(np.linalg.norm(u)), 0.0
        for epoch in range(4):
            for _ in range(int(cells)):
                seen += (lam * left) ** 2 / 3
                slower = {"constant": 1.0, "inverse": 1 + epoch / 10, "adagrad": math.sqrt(1 + seen)}[schedule]
                left *= 1 - lam * eta / slower
        mine.append(left)
    return wrong(
        users=near(np.linalg.norm(fit.user_factors, axis=1), mine, 1e-12),
        items=near(np.linalg.norm(fit.item_factors, axis=1), np.linalg.norm(V, axis=1), 1e-12),
    )


def _only_unpopular_left() -> list[str]:
    """By popularity an item that nobody has is never drawn: a row that lacks no other is skipped."""
    X = np.array([[1.0, 1, 1, 0], [1, 0, 1, 0], [0, 1, 0, 0]])
    fit = _fit(X, losses.BPR(), sampler=sampling.Popularity(1.0), factors=2, epochs=1, init=_nothing(3, 4))
    uniform = _fit(X, losses.BPR(), sampler=sampling.Popularity(0.0), factors=2, epochs=1, init=_nothing(3, 4))
    return wrong(
        skipped=fit.params["skipped_rows"] == 1, paid=near(fit.history[0]["sampled_loss"], math.log(2) * 3 / 6, 1e-13),
        by_beta_0=uniform.params["skipped_rows"] == 0, all_paid=near(uniform.history[0]["sampled_loss"], math.log(2)),
    )  # fmt: skip


def _softplus(x: float) -> float:
    return float(np.logaddexp(0.0, x))


FEW = np.array([[1.0, 0, 0, 0, 1, 0], [0, 1, 0, 0, 1, 0], [1, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 0]])
EPOCHS = 400
Outcomes = Callable[[float, dict[int, float], np.ndarray], list[tuple[float, float]]]


def _expected(
    loss: Any, sampler: Any, weights: Any, outcomes: Outcomes, fixed: Callable[[float], float] = lambda s: 0.0,
    M: int = 1,
) -> list[str]:  # fmt: skip
    """The mean over 400 epochs in which nothing moves, within 6 deviations of that over all outcomes.

    Cells are drawn for by themselves; the M negatives of one may hang together: at most M times the deviation of one.
    """
    draw = np.random.default_rng(4)
    U, V = draw.normal(size=(4, 2)), draw.normal(size=(6, 2))
    fit = _fit(
        FEW, loss, sampler=sampler, negatives=M, factors=2, epochs=EPOCHS, init=(U, V), learning_rate=1e-12,
    )  # fmt: skip
    if fit.params["blocks"] != 1:  # then candidates and trials come from the block of the first
        return []
    mean = variance = 0.0
    for u, i in zip(*np.nonzero(FEW), strict=True):
        s = V @ U[u]
        w = np.where(FEW[u] == 0, weights(FEW.sum(0)), 0.0)
        q = {int(j): float(w[j] / w.sum()) for j in np.flatnonzero(w)}
        found = outcomes(float(s[i]), q, s)
        one = sum(p * v for p, v in found)
        mean += fixed(float(s[i])) + M * one
        variance += M**2 * (sum(p * v**2 for p, v in found) - one**2)
    cells = FEW.sum()
    off = abs(float(np.mean([r["sampled_loss"] for r in fit.history])) - mean / cells)
    return wrong(records=len(fit.history) == EPOCHS, mean=off <= 6 * math.sqrt(variance / EPOCHS) / cells + 1e-8)


def _pairs(pay: Callable[[float], float]) -> Outcomes:
    return lambda s, q, scores: [(p, pay(s - float(scores[j]))) for j, p in q.items()]


def _softmaxed(temperature: float) -> Outcomes:
    """One negative: log(e^(s/T) + e^(s_j/T)/q_j) - s/T."""
    return lambda s, q, scores: [
        (p, _softplus((float(scores[j]) - s) / temperature - math.log(p))) for j, p in q.items()
    ]


def _hardest(candidates: int) -> Outcomes:
    """The best of c of F equal draws has rank r with probability ((F - r + 1)^c - (F - r)^c)/F^c."""

    def outcomes(s: float, q: dict[int, float], scores: np.ndarray) -> list[tuple[float, float]]:
        F, c = len(q), candidates
        order = sorted(q, key=lambda j: -scores[j])
        return [
            (((F - r + 1) ** c - (F - r) ** c) / F**c, _softplus(float(scores[j]) - s))
            for r, j in enumerate(order, 1)
        ]  # fmt: skip

    return outcomes


def _warped(margin: float, trials: int) -> Outcomes:
    """The t-th trial is the first to violate: log(1 + max(1, ⌊5/t⌋)) of the hinge. None does: nothing."""

    def outcomes(s: float, q: dict[int, float], scores: np.ndarray) -> list[tuple[float, float]]:
        pays = {j: margin - s + float(scores[j]) for j in q}
        apart = sum(p for j, p in q.items() if pays[j] <= 0)
        found = [(apart**trials, 0.0)]
        for t in range(1, trials + 1):
            rank = max(1, 5 // t)
            found += [(apart ** (t - 1) * q[j], math.log(1 + rank) * pay) for j, pay in pays.items() if pay > 0]
        return found

    return outcomes


def _full_softmax() -> list[str]:
    """10,000 negatives by popularity estimate the sum over all free items: T = ½, one row, within 6 deviations."""
    X = np.array([[1.0, 0, 0, 0, 0], [0, 1, 1, 0, 1], [0, 1, 0, 1, 0]])
    draw = np.random.default_rng(5)
    U, V = draw.normal(size=(3, 2)), draw.normal(size=(5, 2))
    fit = _fit(
        X, losses.SampledSoftmax(temperature=0.5), sampler=sampling.Popularity(1.0), negatives=10_000, factors=2,
        epochs=1, init=(U, V), learning_rate=1e-12,
    )  # fmt: skip
    if fit.params["blocks"] != 1:
        return []
    mine = slack = 0.0
    for u, i in zip(*np.nonzero(X), strict=True):
        e = np.exp(V @ U[u] / 0.5)
        q = np.where(X[u] == 0, X.sum(0), 0.0)
        q /= q.sum()
        free = q > 0
        total = e[free].sum()
        # the estimate of a sum S is off by its deviation, and log(e + S) by at most that over e + S, to first order
        spread = math.sqrt(float((e[free] ** 2 / q[free]).sum() - total**2) / 10_000)
        mine += math.log(float(e[i] + total)) - float(V[i] @ U[u]) / 0.5
        slack += 6 * spread / float(e[i] + total)
    cells = X.sum()
    return wrong(loss=abs(fit.history[0]["sampled_loss"] - mine / cells) <= 1.1 * slack / cells)


def _constant(loss: Any, mine: float, **words: Any) -> list[str]:
    """μ fits best, by itself, six cells with a sum of 17, and their negatives."""
    X = TABLE[[0, 2, 3, 4]]
    fit = _fit(X, loss, biases=True, factors=2, epochs=1, init=_nothing(4, 6), learning_rate=1e-12, **words)
    return wrong(mu=abs(fit.global_bias - mine) <= 1e-6)


def _matched(side: Any) -> list[str]:
    """One cell a row and a column: ½(s - x)² + ½λ(‖u‖² + ‖v‖²) has its minimum at s = x ∓ λ, with a loss of ½λ²."""
    x = np.array([5.0, -3, 2, 4])
    X = np.full((4, 4), np.nan)
    X[np.arange(4), [2, 0, 3, 1]] = x
    fit = side.sgd(
        csr(X), losses.Squared(), sampler=None, factors=3, epochs=350, learning_rate=0.05, regularization=0.5,
        dtype="float64", random_state=0,
    )  # fmt: skip
    return wrong(
        scores=near(scores_of(fit)[np.arange(4), [2, 0, 3, 1]], x - 0.5 * np.sign(x)),
        paid=near(fit.history[-1]["sampled_loss"], 0.125),
    )


def _two_items(loss: Any, lam: float) -> list[str]:
    """One user, one item liked, one not: w = -v, ‖u‖² = 2‖v‖², σ(-x) = λ/√2 at x = s - t (BPR) or s = -t (logistic)."""
    fit = _fit(np.array([[1.0, 0]]), loss, factors=2, epochs=600, learning_rate=0.5, regularization=lam)
    s, t = scores_of(fit)[0]
    x = math.log(math.sqrt(2) / lam - 1)
    pairwise = isinstance(loss, losses.BPR)
    return wrong(
        scores=near([s, t], [x / 2, -x / 2] if pairwise else [x, -x]),
        paid=near(fit.history[-1]["sampled_loss"], (1 if pairwise else 2) * _softplus(-x)),
    )


def _stays_exact(schedule: str) -> list[str]:
    """X = UVᵀ and λ = 0: no epoch moves or pays anything."""
    U, V = _begun(7, 5)
    X = U @ V.T
    fit = _fit(csr(X), losses.Squared(), sampler=None, factors=3, epochs=3, init=(U, V), schedule=schedule)
    # products of three terms, rounded differently by either side: eps of 10, squared
    return wrong(paid=max(r["sampled_loss"] for r in fit.history) < 1e-28, scores=near(scores_of(fit), X, 1e-13))


def _whole_batches() -> list[str]:
    """A batch of all records is gradient descent on Σ ½(s - x)² + ½λ of each record's rows."""
    U, V = _begun(8, 6)
    draw = np.random.default_rng(6)
    X = np.where(draw.random((8, 6)) < 0.6, draw.integers(1, 6, (8, 6)), np.nan)
    has = ~np.isnan(X)
    fit = lfm_np.torch_backend.sgd(
        csr(X), losses.Squared(), sampler=None, factors=3, epochs=4, init=(U, V), batch_size=int(has.sum()),
        learning_rate=0.01, regularization={"user": 0.3, "item": 0.7}, dtype="float64", random_state=0,
    )  # fmt: skip
    paid = []
    for _ in range(4):
        E = np.where(has, U @ V.T - X, 0.0)
        paid.append((E**2).sum() / 2 / has.sum())
        U, V = (
            U - 0.01 * (E @ V + 0.3 * has.sum(1)[:, None] * U),
            V - 0.01 * (E.T @ U + 0.7 * has.sum(0)[:, None] * V),
        )
    return wrong(
        scores=near(scores_of(fit), U @ V.T, 1e-12), paid=near([r["sampled_loss"] for r in fit.history], paid, 1e-12)
    )


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    log2 = math.log(2)
    zeros: tuple[tuple[str, Any, int, Callable[[float, int], float], dict[str, Any]], ...] = (
        ("BPR pays M log 2", losses.BPR(), 3, lambda x, F: 3 * log2, {"sampler": sampling.Popularity(1.0)}),
        ("weighted BPR pays x log 2", losses.BPR(True), 1, lambda x, F: x * log2, {}),
        ("MarginHinge pays M margins", losses.MarginHinge(0.5), 4, lambda x, F: 2.0, {"sampler": sampling.Hard(3)}),
        ("Hinge pays 1 + M", losses.Hinge(), 4, lambda x, F: 5.0, {}),
        ("weighted Logistic pays (x + M) log 2", losses.Logistic(True), 2, lambda x, F: (x + 2) * log2, {}),
        ("Squared pays x²/2", losses.Squared(), 2, lambda x, F: x * x / 2, {}),
        ("Poisson pays the deviance and 1 a negative", losses.Poisson(), 5, lambda x, F: x * math.log(x) - x + 6, {}),
        ("SampledSoftmax pays log(1 + free items)", losses.SampledSoftmax(0.5), 3, lambda x, F: math.log(1 + F), {}),
        ("uncorrected it pays log(1 + M)", losses.SampledSoftmax(2.0, False), 3, lambda x, F: math.log(4), {}),
        ("WARP pays log n margins", losses.WARP(2.0, trials=3, weighted=True), 1, lambda x, F: 2 * x * math.log(6), {}),
    )
    for name, loss, M, pays, words in zeros:
        yield _holds(f"all at zero: {name}", lambda a=loss, b=M, c=pays, d=words: _at_zero(a, b, c, **d))
    yield _holds("every cell once an epoch, counted by lengths", _visits)
    yield _holds("uniform draws counted by lengths", lambda: _drawn(sampling.Uniform(), np.ones_like))
    for beta in (1.0, 0.75):
        yield _holds(
            f"draws by popularity^{beta} counted by lengths",
            lambda b=beta: _drawn(sampling.Popularity(b), lambda counts: counts**b),
        )
    yield _holds("several hard negatives counted by lengths", _several)
    for schedule in ("constant", "inverse", "adagrad"):
        yield _holds(f"λ alone, {schedule}", lambda s=schedule: _scheduled(s))
        yield _holds(f"an exact product stays, {schedule}", lambda s=schedule: _stays_exact(s))
    yield _holds("a row that lacks only what nobody has", _only_unpopular_left)
    ones, squares, roots = np.ones_like, np.square, np.sqrt
    means: tuple[tuple[str, Any, Any, Any, Outcomes, dict[str, Any]], ...] = (
        ("BPR, uniform", losses.BPR(), sampling.Uniform(), ones, _pairs(lambda d: _softplus(-d)), {}),
        ("BPR, popularity²", losses.BPR(), sampling.Popularity(2.0), squares, _pairs(lambda d: _softplus(-d)), {}),
        ("BPR, best of 3", losses.BPR(), sampling.Hard(3), ones, _hardest(3), {}),
        ("MarginHinge, 3 negatives", losses.MarginHinge(0.7), sampling.Popularity(0.5), roots,
         _pairs(lambda d: max(0.0, 0.7 - d)), {"M": 3}),
        ("Logistic, 2 negatives", losses.Logistic(), sampling.Popularity(0.5), roots,
         lambda s, q, scores: [(p, _softplus(float(scores[j]))) for j, p in q.items()],
         {"M": 2, "fixed": lambda s: _softplus(-s)}),
        ("SampledSoftmax, popularity, T = ½", losses.SampledSoftmax(0.5), sampling.Popularity(1.0), np.copy,
         _softmaxed(0.5), {}),
        ("WARP, 3 trials", losses.WARP(0.3, trials=3), sampling.Uniform(), ones, _warped(0.3, 3), {}),
    )  # fmt: skip
    for name, loss, sampler, weights, outcomes, words in means:
        yield _holds(
            f"mean over all draws: {name}",
            lambda a=loss, b=sampler, c=weights, d=outcomes, w=words: _expected(a, b, c, d, **w),
        )
    yield _holds("many negatives are the full softmax", _full_softmax)
    for name, loss, mu, words in (
        ("Logistic has -log M", losses.Logistic(), -math.log(4), {"negatives": 4}),
        ("weighted Logistic has log(Σx/(M nnz))", losses.Logistic(True), math.log(17 / 18), {"negatives": 3}),
        ("Poisson has log(Σx/((1 + M) nnz))", losses.Poisson(), math.log(17 / 24), {"negatives": 3}),
        ("Poisson alone has log of the mean", losses.Poisson(), math.log(17 / 6), {"sampler": None}),
        ("Squared has Σx/((1 + M) nnz)", losses.Squared(), 17 / 18, {"negatives": 2}),
        ("Hinge of 3 negatives has -1", losses.Hinge(), -1.0, {"negatives": 3}),
        ("BPR has 0", losses.BPR(), 0.0, {}),
    ):
        yield _holds(f"μ: {name}", lambda a=loss, b=mu, w=words: _constant(a, b, **w))
    yield _holds("one rating a row and a column", lambda: _matched(lfm_np))
    for lam in (0.1, 0.3):
        for name, loss in (("BPR", losses.BPR()), ("Logistic", losses.Logistic())):
            yield _holds(f"two items, {name}, λ = {lam}", lambda a=loss, b=lam: _two_items(a, b))
    if installed("torch"):
        yield _holds("one rating a row and a column, on torch", lambda: _matched(lfm_np.torch_backend))
        yield _holds("a batch of all records is gradient descent", _whole_batches)
