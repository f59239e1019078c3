"""Metrics by counting, one user after another."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import scipy.sparse as sp

import lfm_np

from .case import Case, Group

_metrics = Group("counted metrics")


def counted(s: np.ndarray, train: np.ndarray, test: np.ndarray, k: int, among: Any = None) -> dict[str, float]:
    found: dict[str, list[float]] = {name: [] for name in ("recall", "ndcg", "map", "mrr", "auc", "capped_recall")}
    users = 0
    for u in range(len(s)):
        candidates = {i for i in range(s.shape[1]) if not train[u, i]}
        relevant = {i for i in candidates if test[u, i]}
        if among is not None:
            candidates &= relevant | set(among[u])
        if not relevant:
            continue
        users += 1
        order = sorted(candidates, key=lambda i: (-s[u, i], i))
        ranks = [place for place, i in enumerate(order, 1) if i in relevant]
        t, top = len(ranks), [r for r in ranks if r <= k]
        found["recall"].append(len(top) / t)
        found["capped_recall"].append(len(top) / min(k, t))
        found["ndcg"].append(
            sum(1 / math.log2(r + 1) for r in top) / sum(1 / math.log2(j + 1) for j in range(1, min(k, t) + 1))
        )
        found["map"].append(sum(j / r for j, r in enumerate(top, 1)) / min(k, t))
        found["mrr"].append(1 / ranks[0])
        others = candidates - relevant
        if others:
            pairs = [(s[u, i] > s[u, j]) + (s[u, i] == s[u, j]) / 2 for i in relevant for j in others]
            found["auc"].append(sum(pairs) / len(pairs))
    means = {f"{name}@{k}": np.mean(found[name]) for name in ("recall", "ndcg", "map", "capped_recall")}
    errors = {f"ndcg@{k}_se": np.std(found["ndcg"], ddof=1) / math.sqrt(users)}
    return means | errors | {"mrr": np.mean(found["mrr"]), "auc": np.mean(found["auc"]), "users": users}


def metrics() -> Iterator[Case]:
    rng = np.random.default_rng(8)
    U, V = rng.integers(-1, 2, (40, 3)).astype(float), rng.integers(-1, 2, (25, 3)).astype(float)
    model = lfm_np.Factors(U, V)
    train, test = (rng.random((40, 25)) < 0.4).astype(float), (rng.random((40, 25)) < 0.15).astype(float)
    test[:3], train[5] = 0.0, 1.0  # some without anything to find, one who has everything
    test[6], train[6] = 1.0, 0.0  # and one for whom everything is right
    among = rng.integers(-1, 25, (40, 6))
    for k in (1, 4, 30):
        names = [f"recall@{k}", f"ndcg@{k}", f"map@{k}", f"capped_recall@{k}", "mrr", "auc"]
        for drawn in (None, among):
            want = counted(U @ V.T, train, test, k, None if drawn is None else drawn.tolist())
            yield _metrics.right(
                f"@{k}{'' if drawn is None else ' among negatives'}, with ties",
                lambda n=names, d=drawn: lfm_np.evaluate(
                    model, sp.csr_array(train), sp.csr_array(test), n, negatives=d
                ),
                lambda r, w=want: all(np.isclose(r[key], w[key], 1e-9, 1e-12) for key in w),
            )
    want = counted(U @ V.T, np.zeros_like(train), test, 5)
    yield _metrics.right(
        "without training data",
        lambda: lfm_np.evaluate(model, None, sp.csr_array(test), ["ndcg@5", "auc"]),
        lambda r: np.isclose(r["ndcg@5"], want["ndcg@5"]) and np.isclose(r["auc"], want["auc"]),
    )
    yield _metrics.right(
        "one user has no standard error",
        lambda: lfm_np.evaluate(model, None, sp.csr_array(test * (np.arange(40) == 9)[:, None]), ["mrr"]),
        lambda r: r["users"] == 1 and math.isnan(r["mrr_se"]),
    )
    yield _metrics.either(
        "a word for a list",
        lambda: lfm_np.evaluate(model, None, sp.csr_array(test), "ndcg@5"),
        lambda r: np.isclose(r["ndcg@5"], want["ndcg@5"]),
        "metrics",
    )
    for name, words, options in (
        ("recall@0", "recall@0|metric", {"metrics": ["recall@0"]}),
        ("NDCG@10", "ndcg@10|metric", {"metrics": ["NDCG@10"]}),
        ("test is empty", "test", {"test": sp.csr_array((40, 25))}),
        ("train is transposed", "train", {"train": sp.csr_array(train.T)}),
        ("negatives beyond the items", "negatives", {"negatives": among + 20}),
    ):
        good = {"train": sp.csr_array(train), "test": sp.csr_array(test), "metrics": ["mrr"]}
        yield _metrics.refused(name, lambda o=options, g=good: lfm_np.evaluate(model, **{**g, **o}), words)


def cases() -> list[Case]:
    return [*metrics()]
