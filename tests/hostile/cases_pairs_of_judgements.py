"""Metrics with cutoffs, negatives, zeros and ties at once, and splits in several turns, beside counting."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import scipy.sparse as sp

from .case import Case
from .cases_pairs_of_lists import whole
from .cases_pairs_of_solvers import PAIRS, lfm_np, scores_of
from .working_days import faultless, folder, wrong

_holds = faultless(PAIRS)
ALL = ("recall", "capped_recall", "precision", "hit_rate", "ndcg", "map", "mrr")


def _of_user(s: np.ndarray, had: np.ndarray, held: np.ndarray, drawn: Any) -> tuple[list[int], int, float | None]:
    """Ranks of the relevant candidates, their number, and the share of pairs in the right order."""
    relevant = held & ~had
    candidates = ~had
    if drawn is not None:
        among = np.zeros(len(s), bool)
        among[[j for j in drawn if j >= 0]] = True
        candidates = (among & ~had & ~held) | relevant
    order = sorted(np.flatnonzero(candidates), key=lambda i: (-float(s[i]), int(i)))
    ranks = [r for r, i in enumerate(order, 1) if relevant[i]]
    others = [i for i in order if not relevant[i]]
    if not others or not ranks:
        return ranks, len(ranks), None
    points = sum((s[i] > s[j]) + 0.5 * (s[i] == s[j]) for i in np.flatnonzero(relevant) for j in others)
    return ranks, len(ranks), float(points) / (len(ranks) * len(others))


def counted(S: np.ndarray, had: np.ndarray, held: np.ndarray, metrics: Any, drawn: Any = None) -> dict[str, float]:
    """What `evaluate` says it gives."""
    of: dict[str, list[float]] = {name: [] for name in metrics}
    users = 0
    for u in range(len(S)):
        ranks, t, auc = _of_user(S[u], had[u], held[u], None if drawn is None else drawn[u])
        if not t:
            continue
        users += 1
        for name in metrics:
            kind, _, cut = name.partition("@")
            if kind == "auc":
                if auc is not None:
                    of[name].append(auc)
                continue
            k = int(cut) if cut else 10**9
            top = [r for r in ranks if r <= k]
            short, h = min(k, t), len(top)
            of[name].append(
                {
                    "recall": h / t,
                    "capped_recall": h / short,
                    "precision": h / k,
                    "hit_rate": float(h > 0),
                    "ndcg": sum(1 / math.log2(r + 1) for r in top)
                    / sum(1 / math.log2(j + 1) for j in range(1, short + 1)),
                    "map": sum(j / r for j, r in enumerate(top, 1)) / short,
                    "mrr": 1 / ranks[0] if ranks[0] <= k else 0.0,
                }[kind]
            )
    out: dict[str, float] = {"users": users}
    for name, values in of.items():
        v = len(values)
        out[name] = sum(values) / v if v else math.nan
        mean = out[name]
        out[f"{name}_se"] = math.sqrt(sum((x - mean) ** 2 for x in values) / (v - 1) / v) if v > 1 else math.nan
    return out


def alike(found: Any, mine: dict[str, float]) -> list[str]:
    def near(a: float, b: float) -> bool:
        return (math.isnan(a) and math.isnan(b)) or abs(a - b) <= 1e-12

    return [name for name in mine if name not in found or not near(float(found[name]), float(mine[name]))] + [
        f"more: {name}" for name in found if name not in mine
    ]


def _masks(m: int, n: int, seed: int, both: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """What users had and what was held out; of the latter a share was there before too."""
    draw = np.random.default_rng(seed)
    had = draw.random((m, n)) < 0.25
    held = (draw.random((m, n)) < 0.2) & (~had | (draw.random((m, n)) < both))
    held[0] = False
    return had, held


def _csr(mask: np.ndarray, value: float = 1.0) -> Any:
    return sp.csr_array(mask.astype(np.float64) * value)


def _judged(
    model: Any, metrics: Any, both: float = 0.0, seed: int = 1, known: bool = True, q: int = 0, **words: Any
) -> list[str]:
    m, n = model.shape
    had, held = _masks(m, n, seed, both)
    drawn = None
    if q:
        drawn = np.random.default_rng(seed).integers(-1, n, (m, q))
        words["negatives"] = drawn
    if not known:
        had = np.zeros_like(had)
    found = lfm_np.evaluate(model, _csr(had, 3.0) if known else None, _csr(held, 0.5), metrics, **words)
    return alike(found, counted(scores_of(model), had, held, metrics, drawn))


def _everything_relevant() -> list[str]:
    """Two users have all that they had not in their test row: they have no AUC."""
    had, held = _masks(6, 8, 3)
    held[2:4] = ~had[2:4]
    model = whole(6, 8, seed=4, dtype="float32")
    metrics = ("auc", "ndcg@3", "map", "recall@8")
    return alike(lfm_np.evaluate(model, _csr(had), _csr(held), metrics), counted(scores_of(model), had, held, metrics))


def _one_user(q: int) -> list[str]:
    """A standard error of one user is NaN."""
    had, held = _masks(4, 30, 5)
    held[1:] = False
    held[2] = ~had[2] & (np.arange(30) % 7 == 1)
    drawn = np.random.default_rng(1).integers(0, 30, (4, q)) if q else None
    model, metrics = whole(4, 30, seed=6, biases="item"), ("mrr", "auc", "precision@31", "ndcg")
    found = lfm_np.evaluate(model, _csr(had), _csr(held), metrics, negatives=drawn)
    return alike(found, counted(scores_of(model), had, held, metrics, drawn))


def _of_ratings(which: str) -> list[str]:
    """Zeros are held out and had in a model of ratings; absent in any other."""
    draw = np.random.default_rng(7)
    X = np.where(draw.random((8, 7)) < 0.4, draw.integers(0, 3, (8, 7)), np.nan)
    Y = np.where((draw.random((8, 7)) < 0.4) & np.isnan(X), draw.integers(0, 2, (8, 7)), np.nan)
    X[0, :2], Y[1, 3:] = 2.0, np.nan

    def matrix(A: np.ndarray) -> Any:
        places = np.nonzero(~np.isnan(A))
        return sp.csr_array((A[places], places), shape=A.shape)

    words = {"factors": 2, "random_state": 0, "dtype": "float64"}
    if which == "als":
        model = lfm_np.als(matrix(X), weighting="ratings", iterations=3, **words)
    elif which == "als, biases, from a file":
        with folder() as place:
            lfm_np.als(matrix(X), weighting="ratings", biases=True, iterations=3, **words).save(place / "m")
            model = lfm_np.Factors.load(place / "m", mmap=True)
    elif which == "Squared":
        model = lfm_np.sgd(matrix(X), lfm_np.losses.Squared(), sampler=None, epochs=2, **words)
    else:
        model = lfm_np.als(matrix(X), weighting="ials", iterations=3, **words)
    value = which != "ials"
    had, held = (~np.isnan(A) if value else ~np.isnan(A) & (A != 0) for A in (X, Y))
    S = np.array([model.scores(u, np.arange(7)) for u in range(8)])
    metrics = ("recall@2", "ndcg@9", "auc", "map")
    return alike(lfm_np.evaluate(model, matrix(X), matrix(Y), metrics), counted(S, had, held, metrics))


def _popular(q: int) -> list[str]:
    """Most popular, with a stored zero that does not count; equal counts by id."""
    from lfm_np.evaluation import most_popular

    had, held = _masks(9, 12, 8)
    X = _csr(had)
    zero = X.copy()
    zero.data[::4] = 0.0
    counts = (zero.toarray() != 0).sum(0)
    S = np.tile(counts.astype(np.float64), (9, 1))
    drawn = np.random.default_rng(2).integers(-1, 12, (9, q)) if q else None
    metrics = ("capped_recall@3", "mrr@2", "auc", "ndcg", "precision@13")
    found = lfm_np.evaluate(most_popular(zero), X, _csr(held), metrics, negatives=drawn)
    return alike(found, counted(S, had, held, metrics, drawn))


def _rounded_scores() -> list[str]:
    """μ rounds float32 scores to equal ones; then the lower id is first, and half a pair is right."""
    draw = np.random.default_rng(9)
    U, V = draw.integers(-3, 4, (7, 2)).astype(np.float32), draw.integers(-3, 4, (20, 2)).astype(np.float32)
    model = lfm_np.Factors(U, V, global_bias=1e8)
    S = (U @ V.T + np.float32(1e8)).astype(np.float32)
    had, held = _masks(7, 20, 2)
    metrics = ("recall@4", "auc", "mrr", "ndcg@5")
    return alike(
        lfm_np.evaluate(model, _csr(had), _csr(held), metrics), counted(S.astype(np.float64), had, held, metrics)
    )


def _data(times: Any, m: int = 12, n: int = 9, seed: int = 0) -> Any:
    draw = np.random.default_rng(seed)
    users, items = np.nonzero(draw.random((m, n)) < 0.5)
    when = draw.integers(0, 6, len(users)) if times == "ties" else draw.permutation(len(users))
    return lfm_np.Interactions.from_arrays(
        users * 3, np.char.add("i", items.astype(str)), draw.integers(1, 6, len(users)), when
    )


def _cells(data: Any) -> dict[tuple[int, int], tuple[float, float]]:
    coo = data.matrix.tocoo()
    when = np.zeros(coo.nnz) if data.timestamps is None else data.timestamps
    return {(int(u), int(i)): (float(x), float(t)) for u, i, x, t in zip(*coo.coords, coo.data, when, strict=True)}


def _last(cells: dict[tuple[int, int], tuple[float, float]], n: int) -> set[tuple[int, int]]:
    out = set()
    for user in {u for u, _ in cells}:
        mine = sorted((place for place in cells if place[0] == user), key=lambda p: (cells[p][1], p[1]))
        out |= set(mine[len(mine) - min(n, len(mine) - 1) :])
    return out


def _last_twice(n: int) -> list[str]:
    """A test, then a validation part of what is left, of a selection; then the metrics of both."""
    data = _data("ties")
    chosen = data.select(data.matrix.data >= 2)
    rest, test = chosen.split("last", n=n)
    train, check = rest.split("last", n=2)
    cells = _cells(chosen)
    mine = _last(cells, n)
    left = {place: cell for place, cell in cells.items() if place not in mine}
    second = _last(left, 2)
    had, held = (np.zeros(data.shape, bool) for _ in range(2))
    for place in left:
        had[place] = True
    for place in mine:
        held[place] = True
    model, metrics = whole(*data.shape, seed=3), ("recall@3", "auc", "map@20")
    found = lfm_np.evaluate(model, rest, test, metrics)
    return wrong(
        test=_cells(test) == {place: cells[place] for place in mine},
        check=_cells(check) == {place: cells[place] for place in second},
        train=_cells(train) == {place: cell for place, cell in left.items() if place not in second},
        same=all(
            np.array_equal(part.users, data.users) and np.array_equal(part.items, data.items) for part in (train, test)
        ),
    ) + alike(found, counted(scores_of(model), had, held, metrics))


def _by_share(share: float, kind: str) -> list[str]:
    """The largest set of latest cells within the share, equal times together; `at` gives the same."""
    data = _data(kind, seed=5)
    cells = _cells(data)
    moments = sorted({t for _, t in cells.values()})
    fit = [t for t in moments if sum(cell[1] >= t for cell in cells.values()) <= share * len(cells)]
    mine = {place for place, cell in cells.items() if fit and cell[1] >= fit[0]}
    train, test = data.split("time", test_fraction=share)
    facts = {"test": set(_cells(test)) == mine, "train": set(_cells(train)) == set(cells) - mine}
    if fit:
        facts["at"] = set(_cells(data.split("time", at=int(fit[0]))[1])) == mine
    return wrong(**facts)


def _random_twice(fraction: float) -> list[str]:
    """A random split of a core of binarized cells: counts of every user, nothing lost, one cell left."""
    data = _data("all", 40, 30, 7).binarize(threshold=2).core(3, 4)
    rest, test = data.split(test_fraction=fraction, random_state=np.random.SeedSequence(5))
    again = data.split(test_fraction=fraction, random_state=np.random.SeedSequence(5))[1]
    cells, left, held = _cells(data), _cells(rest), _cells(test)
    facts: dict[str, Any] = {
        "same": _cells(again) == held,
        "cells": {**left, **held} == cells and not set(left) & set(held),
    }
    for u in range(data.shape[0]):
        d, t = (sum(place[0] == u for place in part) for part in (cells, held))
        facts[f"user {u}"] = t in {min(math.floor(fraction * d), d - 1), min(math.ceil(fraction * d), d - 1)}
    facts["core"] = min(np.bincount([u for u, _ in cells])) >= 3 and min(np.bincount([i for _, i in cells])) >= 4
    return wrong(**facts)


def _mean_of_splits() -> list[str]:
    """Over many seeds a user of five cells has a third of them held out, on average."""
    data = lfm_np.Interactions.from_arrays(np.repeat(np.arange(400), 5), np.tile(np.arange(5), 400))
    held = [data.split("random", test_fraction=1 / 3, random_state=seed)[1].matrix.nnz for seed in range(10)]
    off = abs(np.mean(held) / 2000 - 1 / 3)
    # a user has 1 or 2 of 5, p = 2/3 of 2: a deviation of 0.471 each, over 4000 draws of mean 5/3
    return wrong(mean=off < 5 * 0.4715 / 5 / math.sqrt(4000))


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    past = tuple(f"{kind}@{k}" for kind in ALL for k in (1, 12, 40))
    full = ("ndcg", "map", "mrr", "auc")
    for name, model, words in (
        ("every metric around and past the items, ties", {"m": 20, "n": 12}, {"metrics": past}),
        ("every metric, nothing known", {"m": 20, "n": 12, "dtype": "float32"}, {"metrics": past, "known": False}),
        (
            "every metric, test cells that were known",
            {"m": 20, "n": 12, "biases": "item"},
            {"metrics": past, "both": 0.5},
        ),
        ("every metric among negatives", {"m": 20, "n": 12}, {"metrics": past, "q": 6}),
        (
            "negatives, known test cells, biases, float32",
            {"m": 15, "n": 30, "biases": "user item", "mu": 2.0, "dtype": "float32"},
            {"metrics": (*full, "recall@5"), "q": 9, "both": 0.4},
        ),
        ("one negative, nothing known", {"m": 15, "n": 30}, {"metrics": (*full, "hit_rate@1"), "q": 1, "known": False}),
        ("more negatives than items", {"m": 15, "n": 10}, {"metrics": (*full, "ndcg@10"), "q": 40}),
        ("257 users, two threads, whole rankings", {"m": 257, "n": 9}, {"metrics": full, "num_threads": 2}),
        (
            "257 users and negatives, cutoffs",
            {"m": 257, "n": 9, "dtype": "float32"},
            {"metrics": ("map@3", "mrr@4", "auc"), "q": 4},
        ),
        ("256 users, nothing known, AUC alone", {"m": 256, "n": 7}, {"metrics": ("auc",), "known": False}),
        (
            "512 users, biases, a cutoff of 1 alone",
            {"m": 512, "n": 9, "biases": "item"},
            {"metrics": ("precision@1",), "num_threads": 1},
        ),
        (
            "257 items, cutoffs of 255 to 257",
            {"m": 6, "n": 257},
            {"metrics": ("recall@255", "map@256", "ndcg@257", "precision@300", "mrr")},
        ),
        (
            "without factors, users' biases",
            {"m": 9, "n": 14, "k": 0, "biases": "user item"},
            {"metrics": (*full, "recall@3"), "q": 5},
        ),
        (
            "300 items among 70 negatives, 17 factors",
            {"m": 8, "n": 300, "k": 17},
            {"metrics": (*full, "recall@64", "ndcg@65"), "q": 70},
        ),
    ):
        yield _holds(f"judged: {name}", lambda a=model, w=words: _judged(whole(**{"seed": 2, **a}), **w))
    yield _holds("judged: users without other candidates, beside others", _everything_relevant)
    yield _holds("judged: one user", lambda: _one_user(0))
    yield _holds("judged: one user among negatives", lambda: _one_user(5))
    for which in ("als", "als, biases, from a file", "Squared", "ials"):
        yield _holds(f"judged: zeros held out and had, {which}", lambda a=which: _of_ratings(a))
    yield _holds("judged: most popular of stored zeros", lambda: _popular(0))
    yield _holds("judged: most popular of stored zeros, among negatives", lambda: _popular(6))
    yield _holds("judged: scores rounded to equal by μ, float32", _rounded_scores)
    for n in (1, 3):
        yield _holds(f"judged: a selection split by last {n}, then by last 2", lambda a=n: _last_twice(a))
    for share, kind in ((0.2, "ties"), (0.9, "ties"), (0.35, "all")):
        yield _holds(f"judged: split by time, a share of {share}, {kind}", lambda a=(share, kind): _by_share(*a))
    for fraction in (0.2, 0.5, 0.95):
        yield _holds(f"judged: a core of binarized cells, {fraction} at random", lambda a=fraction: _random_twice(a))
    yield _holds("judged: the mean of random splits", _mean_of_splits)
