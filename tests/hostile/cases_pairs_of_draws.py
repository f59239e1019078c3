"""Forced and counted negatives of `sgd` under several options at once, and its torch version, beside steps by hand."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import permutations, product
from typing import Any

import numpy as np
import scipy.sparse as sp

from .case import Case, installed
from .cases_pairs_of_solvers import PAIRS, lfm_np
from .cases_pairs_of_steps import (
    ADAGRAD,
    EVERY,
    INVERSE,
    ITEMS,
    RESUMED,
    Rule,
    Run,
    _given,
    alone,
    begin,
    bpr,
    cubed,
    hinge,
    logistic,
    losses,
    margin,
    poisson,
    sampling,
    softmax,
    squared,
    warp,
)  # fmt: skip
from .working_days import faultless, folder, wrong

_holds = faultless(PAIRS)
VALUES = np.array([[3.0, 0, 1, 0, 0], [0, 2, 0, 0, 4], [1, 1, 0, 5, 0], [0, 0, 0.5, 0, 0]])


def _forced(rule: Rule, X: Any, epochs: int, mu: float = 0.0, how: str = "", **words: Any) -> list[str]:
    """Every row has all items but one, so that its negative is known; cells come in any order, epoch after epoch."""
    X = np.asarray(X, np.float64)
    biases = words.get("biases", False)
    start = begin(*X.shape, 2, biases, 4)
    drawn = [None if "sampler" in words and words["sampler"] is None else int(np.argmin(row != 0)) for row in X]
    cells = [(int(u), int(i), float(X[u, i]), drawn[u]) for u, i in zip(*np.nonzero(X), strict=True)]
    options = {"factors": 2, "init": _given(start, biases), "dtype": "float64", "random_state": 11, **words}
    if how == "resumed":
        with folder() as place:
            lfm_np.sgd(sp.csr_array(X), rule.loss, epochs=1, checkpoint=place / "kept", **options)
            fit = lfm_np.sgd(
                sp.csr_array(X), rule.loss, epochs=epochs, checkpoint=place / "kept", num_threads=2, **options
            )
    else:
        M = sp.coo_array(X)
        if how == "halves":
            M = sp.coo_array((np.tile(M.data / 2, 2), tuple(np.tile(place, 2) for place in M.coords)), shape=X.shape)
        fit = lfm_np.sgd(M, rule.loss, epochs=epochs, **options)
    closest: list[str] = ["no order at all"]
    for orders in product(permutations(cells), repeat=epochs):
        run, paid = Run(rule, start, words, mu), []
        for epoch, order in enumerate(orders):
            paid.append(float(np.mean([run.step(epoch, *cell) for cell in order])))
        found = run.agrees(fit, paid, 1e-9)
        if not found:
            return []
        closest = min(closest, found, key=len) if closest != ["no order at all"] else found
    return closest


def _constant(rule: Rule, mu: float, **words: Any) -> list[str]:
    """The best constant, which stays; rows leave something to draw."""
    X = sp.csr_array(VALUES)
    given = {
        "factors": 2,
        "epochs": 1,
        "learning_rate": 1e-9,
        "biases": True,
        "dtype": "float64",
        "regularization": 0.0,
    }
    fit = lfm_np.sgd(X, rule.loss, random_state=2, **{**given, **words})
    return wrong(mu=abs(fit.global_bias - mu) < 1e-6, biases=abs(fit.user_bias).max() < 1e-6)


def _drawn(beta: float | None, hard: int, temperature: float, correct: bool, M: int, weighted: bool) -> list[str]:
    """User 0 may get item 1 or 2, every other row has one item left; what is paid tells which was drawn."""
    rows = [[2.0, 0, 0]] + [[1.0, 3.0, 0]] * 9 + [[1.0, 0, 2.0]]
    X = np.array(rows)
    U, V, _, _ = begin(11, 3, 2, seed=6)
    sampler = sampling.Hard(hard) if hard else sampling.Uniform() if beta is None else sampling.Popularity(beta)
    counts = np.array([9.0, 1.0]) ** (beta or 0.0)
    q = counts / counts.sum()
    if hard:
        q = np.full(2, 0.5)
    S = U @ V.T / temperature

    def paid(u: int, i: int, drawn: list[tuple[int, float]]) -> float:
        terms = [S[u, j] - S[u, i] - (math.log(M * share) if correct else 0.0) for j, share in drawn]
        return float((X[u, i] if weighted else 1.0) * math.log(1 + sum(map(math.exp, terms))))

    known = sum(
        paid(u, int(i), [(int(np.flatnonzero(X[u] == 0)[0]), 1.0)] * M)
        for u in range(1, 11)
        for i in np.flatnonzero(X[u])
    )
    options = [paid(0, 0, [(1, q[0])] * a + [(2, q[1])] * (M - a)) for a in range(M + 1)]
    fit = lfm_np.sgd(
        sp.csr_array(X), losses.SampledSoftmax(temperature, correct, weighted), sampler=sampler, negatives=M, factors=2,
        init=(U, V), epochs=300, learning_rate=1e-15, regularization=0.0, dtype="float64", random_state=5,
    )  # fmt: skip
    nnz = int((X > 0).sum())
    gaps = abs(np.array([r["sampled_loss"] for r in fit.history])[:, None] * nnz - known - np.array(options))
    facts = {"known": (gaps.min(1) < 1e-8).all(), "apart": abs(np.diff(options)).min() > 1e-6}
    if not hard:
        share = gaps.argmin(1).mean() / M
        facts["share"] = abs(share - q[0]) < 5 * math.sqrt(q[0] * q[1] / 300)
    return wrong(**facts)


def _there(
    rule: Rule, values: Any, epochs: int, mu: float = 0.0, k: int = 3, tolerance: float = 1e-9, **words: Any
) -> list[str]:
    """On a torch device, cells that share no row are steps of their own, whatever the batch."""
    from lfm_np import torch_backend

    device: dict[str, Any] = {
        name: words.pop(name) for name in ("batch_size", "memory_budget", "dtype") if name in words
    }
    run, paid, X, init = alone(rule, values, epochs, mu, k, **words)
    options = {"sampler": None, "factors": k, "init": init, "dtype": "float64", **words, **device}
    with folder() as place:
        torch_backend.sgd(X, rule.loss, epochs=1, checkpoint=place / "kept", **options)
        fit = torch_backend.sgd(X, rule.loss, epochs=epochs, checkpoint=place / "kept", **options)
    return run.agrees(fit, paid, tolerance)


def _together(rule: Rule, X: Any, epochs: int, mu: float = 0.0, **words: Any) -> list[str]:
    """All records of a batch move by the slopes before it, and moves of one row add up. M = 1."""
    from lfm_np import torch_backend

    X = np.asarray(X, np.float64)
    biases = words.get("biases", False)
    start = begin(*X.shape, 2, biases, 4)
    cells = [
        (int(u), int(i), float(X[u, i]), int(np.flatnonzero(X[u] == 0)[0])) for u, i in zip(*np.nonzero(X), strict=True)
    ]
    run, paid = Run(rule, start, words, mu), []
    for epoch in range(epochs):
        now = (run.U, run.V, run.b, run.d)
        moves = [np.zeros_like(part) for part in now]
        costs = []
        for cell in cells:
            one = Run(rule, now, words, mu)
            costs.append(one.step(epoch, *cell))
            for move, after, before in zip(moves, (one.U, one.V, one.b, one.d), now, strict=True):
                move += after - before
        run.U, run.V, run.b, run.d = (before + move for before, move in zip(now, moves, strict=True))
        paid.append(float(np.mean(costs)))
    options = {"factors": 2, "init": _given(start, biases), "dtype": "float64", "batch_size": 256, **words}
    fit = torch_backend.sgd(sp.csr_array(X), rule.loss, epochs=epochs, random_state=0, **options)
    return run.agrees(fit, paid, 1e-9)


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    two, three = [[3, 0], [0, 0.5]], [[2, 0, 1, 4]]
    eta: dict[str, Any] = {"learning_rate": 0.125}
    popular: Any = {beta: {"sampler": sampling.Popularity(beta)} for beta in (0.5, 0.75, 1.0, 2.0)}
    hard: Any = {c: {"sampler": sampling.Hard(c)} for c in (2, 3, 4)}
    M: Any = {m: {"negatives": m} for m in (2, 3)}
    held: Any = {part: {"regularization": {part: 0.3}} for part in ("user", "item", "negative")}
    users = {"regularization": {"user": 0.2, "negative": 0.4}}
    both = {"regularization": {"user": 0.2, "item": 0.3}}
    odds = {**EVERY, "mu": math.log(3.5 / 4)}
    row, corner, stored = [[5, -2, 3]], [[2, 0], [3, 1]], {"sampler": None}
    all_parts = {"regularization": {"user": 0.3, "item": 0.1, "bias": 0.4, "negative": 9.0}}
    for name, rule, X, epochs, words in (
        ("weighted BPR, Popularity, inverse, two λ", bpr(True), two, 3, {**popular[0.5], **INVERSE, **users}),
        ("BPR, Hard, three negatives, items' biases", bpr(), two, 2, {**hard[3], **M[3], **ITEMS, **held["item"]}),
        ("weighted Logistic, two negatives, all biases", logistic(True), two, 2, {**M[2], **odds, **both}),
        (
            "Hinge, Popularity, M 2, items' biases",
            hinge(),
            two,
            3,
            {**popular[1.0], **M[2], **ITEMS, **held["negative"]},
        ),
        ("Squared, M 2, all biases", squared(), three, 2, {**M[2], **EVERY, **held["user"], "mu": 7 / 9}),
        ("Poisson, Popularity, all biases, one λ", poisson(), two, 2, {**popular[2.0], **odds, "regularization": 0.2}),
        ("weighted WARP, items' biases, inverse", warp(3.0, 2, True), two, 3, {**ITEMS, **INVERSE}),
        ("WARP of three of four, two λ", warp(4.0, 4), three, 2, users),
        ("weighted SampledSoftmax, T of a half", softmax(0.5, True, True), two, 3, {**M[3], **popular[2.0], **INVERSE}),
        ("SampledSoftmax uncorrected, T of 2", softmax(2.0, False), three, 2, {**M[2], **ITEMS, "regularization": 0.0}),
        ("SampledSoftmax, Hard, λ of negatives", softmax(1.0, True), two, 3, {**M[2], **hard[4], **held["negative"]}),
        ("weighted MarginHinge, Adagrad, gone on", margin(3.0, True), two, 3, {**ADAGRAD, **RESUMED}),
        ("BPR, Hard, Adagrad, gone on", bpr(), three, 3, {**hard[2], **ADAGRAD, **RESUMED}),
        ("Logistic, Popularity, gone on", logistic(), two, 3, {**popular[0.75], **ITEMS, **INVERSE, **RESUMED}),
        ("weighted BPR, two negatives held", bpr(True), three, 2, {**M[2], **held["negative"]}),
        ("one's own, weighted, M 2, inverse", cubed(0.25), two, 3, {**M[2], **INVERSE, **held["item"]}),
        ("weighted BPR, pairs in two parts", bpr(True), two, 3, {"how": "halves", **INVERSE}),
        ("weighted WARP in two parts, Adagrad", warp(4.0, 4, True), three, 2, {"how": "halves", **ADAGRAD}),
        (
            "stored cells of one user, Squared, all biases",
            squared(),
            row,
            3,
            {**EVERY, **stored, **all_parts, "mu": 2.0},
        ),
        ("stored cells, Poisson, Adagrad, gone on", poisson(), corner, 3, {**stored, **ADAGRAD, **RESUMED}),
        ("stored cells, one's own, items' biases", cubed(0.02), corner, 2, {**stored, **ITEMS, **all_parts, **INVERSE}),
    ):
        yield _holds(f"draws: {name}", lambda a=(rule, X, epochs), w={**eta, **words}: _forced(*a, **w))
    total, nnz = float(VALUES.sum()), int((VALUES != 0).sum())
    odds, rate = math.log(total / (3 * nnz)), total / nnz
    for name, rule, mu, words in (
        ("weighted Logistic, three negatives, Popularity", logistic(True), odds, {"negatives": 3, **popular[1.0]}),
        ("Poisson, two negatives, Hard", poisson(), odds, {"negatives": 2, **hard[2]}),
        ("Poisson, stored cells only, Adagrad", poisson(), math.log(rate), {"sampler": None, **ADAGRAD}),
        ("Hinge, three negatives, Adagrad", hinge(), -1.0, {"negatives": 3, **ADAGRAD}),
        ("Squared, four negatives, inverse", squared(), rate / 5, {"negatives": 4, **INVERSE}),
        ("Logistic, two negatives, float32", logistic(), -math.log(2), {"negatives": 2, "dtype": "float32"}),
    ):
        yield _holds(f"draws: μ of {name}", lambda a=(rule, mu), w=words: _constant(*a, **w))
    for beta, many, temperature, correct, size, weighted in (
        (0.5, 0, 1.0, True, 1, False),
        (1.0, 0, 0.5, True, 1, True),
        (0.25, 0, 2.0, True, 2, False),
        (None, 0, 0.7, True, 1, True),
        (None, 3, 0.5, True, 2, False),
        (1.0, 0, 1.5, False, 1, False),
    ):
        kind = f"Hard({many})" if many else "Uniform" if beta is None else f"Popularity({beta})"
        yield _holds(
            f"draws: {'corrected' if correct else 'plain'} softmax, {kind}, T {temperature}, M {size}, {weighted}",
            lambda a=(beta, many, temperature, correct, size, weighted): _drawn(*a),
        )
    if not installed("torch"):
        return
    counts, mixed = (1, 2, 5, 1), (2, -1, 0, 5, 0.5)
    parts = {"regularization": {"user": 0.3, "item": 0.1, "bias": 0.4}}
    wide = {"k": 17, "dtype": "float32", "batch_size": 300, "tolerance": 1e-4, "mu": 1.3}
    for name, rule, values, epochs, words in (
        ("Squared, all biases, three λ, inverse", squared(), mixed, 3, {**EVERY, **parts, **INVERSE, "mu": 1.3}),
        ("Squared, Adagrad, batches of 2", squared(), mixed, 4, {**ADAGRAD, "batch_size": 2}),
        ("weighted Logistic, items' biases", logistic(True), counts, 3, {**ITEMS, **parts, "batch_size": 3}),
        (
            "Poisson, all biases, a budget",
            poisson(),
            counts,
            3,
            {**EVERY, "mu": math.log(9 / 4), "memory_budget": 1 << 20},
        ),
        ("Squared in float32, 17 factors", squared(), mixed, 3, {**EVERY, **wide}),
    ):
        yield _holds(f"draws: torch, {name}, gone on", lambda a=(rule, values, epochs), w=words: _there(*a, **w))
    for name, rule, X, epochs, words in (
        ("weighted BPR, items' biases, Popularity", bpr(True), two, 3, {**ITEMS, **popular[0.5], **INVERSE}),
        ("Logistic, all biases, Hard", logistic(), two, 3, {**EVERY, **hard[2], "mu": 0.0, "regularization": 0.2}),
        ("weighted MarginHinge of three of four", margin(4.0, True), three, 3, users),
        ("SampledSoftmax, T of a half, of three of four", softmax(0.5, True), three, 2, {**INVERSE, **both}),
    ):
        yield _holds(
            f"draws: torch, a batch, {name}", lambda a=(rule, X, epochs), w={**eta, **words}: _together(*a, **w)
        )
