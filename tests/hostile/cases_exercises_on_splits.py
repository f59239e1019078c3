"""Exercises on splits, cores, estimators and pictures: shares that can be counted, curves that are known."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import scipy.sparse as sp

import lfm_np as library

from .case import Case, Group, installed
from .cases_exercises_in_closed_form import near
from .cases_exercises_on_lists import all_orders, by_scores, rows_of
from .working_days import csr, faultless, wrong

lfm_np: Any = library
_GROUP = Group("exercise class")
_holds = faultless(_GROUP)


def _crowd(lengths: Any, times: Any = None) -> Any:
    """Interactions of users with so many cells each."""
    users = np.repeat(np.arange(len(lengths)), lengths)
    items = np.concatenate([np.arange(d) for d in lengths])
    return lfm_np.Interactions.from_arrays(users, items, timestamps=times)


def _whole_shares(by: str) -> list[str]:
    """29/50, 63/90, 29/100 … are whole shares, although 0.58 * 50 is 28.999999999999996 in binary."""
    facts = {}
    for d, share, cells in ((50, 0.58, 29), (90, 0.7, 63), (100, 0.29, 29), (100, 0.07, 7), (180, 0.35, 63)):
        data = _crowd([d, d] if by == "random" else [d], np.arange(d) if by == "time" else None)
        train, test = data.split(by, test_fraction=share, random_state=0)
        found = np.diff(test.matrix.indptr).tolist()
        facts[f"{share} of {d}"] = set(found) == {cells} and train.matrix.nnz + test.matrix.nnz == data.matrix.nnz
    return wrong(**facts)


def _fair_rounding() -> list[str]:
    """Half of three cells is one or two, each half the time, and each cell with probability one half: 6 deviations."""
    train, test = _crowd([3] * 3000).split("random", test_fraction=0.5, random_state=1)
    counts = np.diff(test.matrix.indptr)
    slack = 6 * 0.5 / math.sqrt(3000)
    return wrong(
        one_or_two=set(counts.tolist()) == {1, 2}, mean=abs(counts.mean() - 1.5) <= slack,
        cells=bool((abs(test.matrix.toarray().mean(0) - 0.5) <= slack).all()),
        rest=train.matrix.nnz == 9000 - counts.sum(),
    )  # fmt: skip


def _fair_pairs() -> list[str]:
    """Half of four cells are two, and any two of them as often: 6 deviations of 500."""
    _, test = _crowd([4] * 3000).split("random", test_fraction=0.5, random_state=2)
    chosen = test.matrix.toarray() @ [1, 2, 4, 8]
    found = {int(code): int(number) for code, number in zip(*np.unique(chosen, return_counts=True), strict=True)}
    slack = 6 * math.sqrt(3000 * 5 / 36)
    return wrong(pairs=set(found) == {3, 5, 6, 9, 10, 12}, often=max(abs(v - 500) for v in found.values()) <= slack)


def _one_stays() -> list[str]:
    """Nine tenths: of one cell none, of two one (1.8 rounds, but one stays), of ten nine, of three two."""
    _, test = _crowd([1, 2, 3, 10] * 50).split("random", test_fraction=0.9, random_state=3)
    return wrong(counts=np.diff(test.matrix.indptr).tolist() == [0, 1, 2, 9] * 50)


def _latest() -> list[str]:
    """n = 2 of rows of 1 to 5 cells whose times tie: the higher column is the later."""
    data = _crowd([1, 2, 3, 4, 5], np.array([7, 1, 1, 3, 3, 3, 9, 2, 9, 9, 5, 4, 5, 4, 4]))
    _, test = data.split("last", n=2)
    found = [test.matrix.indices[a:b].tolist() for a, b in itertools.pairwise(test.matrix.indptr)]
    return wrong(cells=found == [[], [1], [1, 2], [2, 3], [0, 2]])


def _moments() -> list[str]:
    """Cells of one moment stay together: the largest set of latest ones within the share may be smaller, or none."""
    data = _crowd([6], np.array([1, 1, 2, 2, 2, 3]))
    found = [data.split("time", test_fraction=share)[1].matrix.nnz for share in (0.1, 0.17, 0.5, 0.66, 0.67, 0.99)]
    none = _crowd([4], np.full(4, 5)).split("time", test_fraction=0.9)
    return wrong(numbers=found == [0, 1, 1, 1, 4, 4], equal=[part.matrix.nnz for part in none] == [4, 0])


def _pairs_held_out() -> list[str]:
    """A share of all pairs, but nobody's last one: round(N·share), or all that can go."""
    facts = {}
    for share in (0.0, 0.25, 0.9):
        train, test = lfm_np.datasets.make_interactions_train_test(500, 20, 3, test_fraction=share, random_state=4)
        N = len(train) + len(test)
        left = np.bincount(train[:, 0], minlength=500)
        both = np.vstack([train, test])
        facts[f"{share}"] = (
            abs(len(test) - min(N * share, N - 500)) <= 0.5 and left.min() >= 1 and len(np.unique(both, axis=0)) == N
        )
        if share == 0.9:
            facts["one left of each"] = set(left.tolist()) == {1}
    return wrong(**facts)


def _peeled() -> list[str]:
    """A ring of users and items is its own 2-core; a chain of sixty falls from its ends, one after the other."""
    ring = [(u, i % 5) for u in range(5) for i in (u, u + 1)]
    chain = [(u, u + j) for u in range(100, 160) for j in (0, 1)]
    pairs = np.array(ring + chain)
    core = lfm_np.Interactions.from_arrays(pairs[:, 0], pairs[:, 1]).core(2, 2)
    return wrong(
        users=core.users.tolist() == list(range(5)), items=core.items.tolist() == list(range(5)),
        cells={(int(u), int(i)) for u, i in zip(*core.matrix.nonzero(), strict=True)} == set(ring),
    )  # fmt: skip


def _folded_by(ratings: bool) -> list[str]:
    """`transform` of a model of ratings holds a row by λ n_u; of any other it is "ials" with λ(n_u + n), λ = 0.1."""
    draw = np.random.default_rng(5)
    X = np.where(draw.random((20, 7)) < 0.5, draw.integers(1, 6, (20, 7)), 0).astype(float)
    X[:, 0] = 4
    losses, words = lfm_np.losses, {"factors": 3, "epochs": 5, "random_state": 0, "dtype": "float64"}
    if ratings:
        model = lfm_np.sklearn.SGD(losses.Squared(), sampler=None, regularization={"user": 0.3, "item": 0.1}, **words)
    else:
        model = lfm_np.sklearn.SGD(losses.BPR(), **words)
    found, V, mine = model.fit(X).transform(X), model.item_factors_, []
    for x in X:
        has = x > 0
        C = has * 1.0 if ratings else 1 + x
        penalty = 0.3 * has.sum() if ratings else 0.1 * (has.sum() + 7)
        mine.append(np.linalg.solve((V.T * C) @ V + penalty * np.eye(3), V.T @ x))
    return wrong(users=near(found, mine))


def _curve(ax: Any, dashed: bool = False) -> tuple[np.ndarray, np.ndarray]:
    line = next(line for line in ax.lines if (line.get_linestyle() in ("--", "dashed")) == dashed)
    return np.asarray(line.get_xdata(), float), np.asarray(line.get_ydata(), float)


def _covered() -> list[str]:
    """User u likes item u + 2 best and all others alike: the rest of a list are the lowest others."""
    S = np.zeros((6, 10))
    S[np.arange(6), np.arange(6) + 2] = 1
    x, y = _curve(lfm_np.plots.coverage(by_scores(S), N=10))
    mine = [
        len({i for u in range(2, 8) for i in [u, *[j for j in range(10) if j != u][: int(N) - 1]]}) / 10 for N in x
    ]  # 6, 7, 8, 8, 8, 8, 8, 8, 9, 10 tenths
    return wrong(lengths=x.max() == 10 and x.min() >= 1, share=near(y, mine, 1e-12))


def _recalled() -> list[str]:
    """Over all orders of five items recall@N is N/5."""
    S = all_orders(5)
    x, y = _curve(lfm_np.plots.metric_at_n(by_scores(S), None, rows_of(120, 5, [0, 3]), N=(1, 2, 4, 5)))
    return wrong(lengths=x.tolist() == [1, 2, 4, 5], recall=near(y, [0.2, 0.4, 0.8, 1.0], 1e-12))


def _spectrum() -> list[str]:
    """Singular values of UVᵀ for factors in no particular basis."""
    draw = np.random.default_rng(6)
    U, V = draw.normal(size=(9, 3)) * [1, 5, 0.2], draw.normal(size=(7, 3))
    _, y = _curve(lfm_np.plots.factor_spectrum(lfm_np.Factors(U, V)))
    return wrong(values=near(y, np.linalg.svd(U @ V.T)[1][:3], 1e-6))


def _places() -> list[str]:
    """Items of 4, 3, 2 and 1 cells of 10; lists of one give them 0, 1, 1 and 2 places of 4."""
    seen = np.array([[1.0, 1, 0, 0], [1, 0, 1, 0], [1, 1, 0, 1], [1, 1, 1, 0]])
    S = np.array([[0.0, 0, 1, 2], [0, 2, 0, 1], [9, 9, 1, 9], [9, 9, 9, 1]])
    ax = lfm_np.plots.popularity_bias(by_scores(S), sp.csr_array(seen), N=1)
    lines = {dashed: _curve(ax, dashed) for dashed in (True, False)}
    chosen, listed = (np.interp([0.25, 0.5, 0.75, 1.0], *lines[dashed]) for dashed in (True, False))
    return wrong(chosen=near(chosen, [0.4, 0.7, 0.9, 1.0], 1e-6), listed=near(listed, [0, 0.25, 0.5, 1.0], 1e-6))


def _times_go_along(by: str) -> list[str]:
    """Cells keep the times and values that they had, in either part."""
    draw = np.random.default_rng(7)
    users, items = np.nonzero(draw.random((14, 11)) < 0.5)
    order = draw.permutation(len(users))
    users, items = users[order], items[order]
    data = lfm_np.Interactions.from_arrays(users, items, users + 20.0 * items, 1000 * items + users)
    words: dict[str, Any] = {"random": {"random_state": 1}, "last": {"n": 2}, "time": {"test_fraction": 0.4}}[by]
    parts = data.split(by, **words)
    facts, cells = {}, []
    for name, part in zip(("train", "test"), parts, strict=True):
        coo = part.matrix.tocoo()
        u, i = data.users[coo.coords[0]], data.items[coo.coords[1]]
        facts[name] = np.array_equal(part.timestamps, 1000 * i + u) and np.array_equal(coo.data, u + 20.0 * i)
        cells += list(zip(u.tolist(), i.tolist(), strict=True))
    if by == "time":
        facts["earlier"] = parts[0].timestamps.max() < parts[1].timestamps.min()
    return wrong(**facts, once=sorted(cells) == sorted(zip(users.tolist(), items.tolist(), strict=True)))


def _all_but_one() -> list[str]:
    """The ten latest of fewer: all but the earliest, which stays."""
    lengths = [1, 2, 5, 10, 11, 12]
    times = np.concatenate([np.arange(d)[::-1] for d in lengths])
    train, test = _crowd(lengths, times).split("last", n=10)
    kept = [train.matrix.indices[a:b].tolist() for a, b in itertools.pairwise(train.matrix.indptr)]
    return wrong(
        counts=np.diff(test.matrix.indptr).tolist() == [0, 1, 4, 9, 10, 10],
        kept=kept == [[0], [1], [4], [9], [10], [10, 11]],
    )


def _uniform_lengths() -> list[str]:
    """1 to 5 columns a row, each as often: 6 deviations of 1,200 of 6,000."""
    pairs = lfm_np.datasets.make_interactions(6000, 30, 5, random_state=2)
    counts = np.bincount(np.bincount(pairs[:, 0], minlength=6000), minlength=7)
    slack = 6 * math.sqrt(6000 * 0.2 * 0.8)
    return wrong(
        none=counts[0] == counts[6] == 0, often=bool((abs(counts[1:6] - 1200) <= slack).all()),
        sorted=bool((np.diff(pairs[:, 0] * 30 + pairs[:, 1]) > 0).all()),
    )  # fmt: skip


def _learning_curve() -> list[str]:
    """One cell of -7 with λ = 2: J after every sweep, by two divisions."""
    fit = lfm_np.als(
        csr(np.array([[-7.0]])), factors=1, weighting="ratings", regularization=2.0, iterations=5, dtype="float64",
        init=(np.ones((1, 1)), np.full((1, 1), 0.5)),
    )  # fmt: skip
    v, mine = 0.5, []
    for _ in range(5):
        u = -7 * v / (v * v + 2)
        v = -7 * u / (u * u + 2)
        mine.append((-7 - u * v) ** 2 + 2 * (u * u + v * v))
    x, y = _curve(lfm_np.plots.training_curve(fit))
    return wrong(sweeps=np.diff(x).tolist() == [1.0] * 4, objective=near(y, mine, 1e-12))


def _mirrored() -> list[str]:
    """The two strongest canonical factors as they are, each mirrored so that its largest is positive."""
    V = np.array([[3.0, 0], [-4, 0], [0, 1], [0, -2]])
    ax = lfm_np.plots.item_map(lfm_np.Factors(np.ones((1, 2)), V), view="factors")
    points = [np.asarray(c.get_offsets(), float) for c in ax.collections]
    found = next(p for p in points if len(p) == 4)
    return wrong(points=sorted((p + 0.0).tolist() for p in found) == sorted([[-3.0, 0], [4, 0], [0, -1], [0, 2]]))


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    for by in ("random", "time"):
        yield _holds(f"shares that are whole but for binary, {by}", lambda b=by: _whole_shares(b))
    yield _holds("half of three cells", _fair_rounding)
    yield _holds("half of four cells", _fair_pairs)
    yield _holds("one cell stays", _one_stays)
    yield _holds("the latest two, with ties", _latest)
    yield _holds("cells of one moment stay together", _moments)
    yield _holds("pairs held out, none the last", _pairs_held_out)
    yield _holds("a ring and a chain", _peeled)
    for by in ("random", "last", "time"):
        yield _holds(f"times and values go along, {by}", lambda b=by: _times_go_along(b))
    yield _holds("the ten latest of fewer", _all_but_one)
    yield _holds("lengths of rows are uniform", _uniform_lengths)
    if installed("sklearn"):
        yield _holds("rows of an SGD of ratings", lambda: _folded_by(True))
        yield _holds("rows of an SGD of clicks", lambda: _folded_by(False))
    if installed("matplotlib"):
        yield _holds("coverage counted", _covered)
        yield _holds("recall over all orders is a straight line", _recalled)
        yield _holds("singular values of any basis", _spectrum)
        yield _holds("who gets the places of lists of one", _places)
        yield _holds("the learning curve of one cell", _learning_curve)
        yield _holds("a mirrored map", _mirrored)
