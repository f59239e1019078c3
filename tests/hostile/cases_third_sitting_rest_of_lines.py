"""The third sitting, the rest: people and items on a line, whose lists, metrics and pictures can be counted off."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import scipy.sparse as sp

from .case import Case, Group, installed
from .cases_third_sitting_rest_of_epochs import biases_of, lfm_np, losses, some
from .places import child, together
from .working_days import close, faultless, folder, wrong

_holds = faultless(Group("third sitting, the rest"))
SIZE = 2000
ASKED = [0, 1, 2, 255, 256, 257, 999, 1998, 1999]


def line(size: int = SIZE, dtype: Any = np.float32) -> Any:
    """User u scores item i by u² - (i - u)² = 2ui - i²: whole numbers below 2²⁴, which float32 holds."""
    at = np.arange(size)
    return lfm_np.Factors(
        np.column_stack([2 * at, np.ones(size)]).astype(dtype), np.column_stack([at, -(at**2)]).astype(dtype)
    )


def nearest(u: int, N: int, allowed: Callable[[int], bool], size: int = SIZE) -> tuple[list[int], list[float]]:
    """The nearer first, the left one first where two are as near."""
    found = sorted((i for i in range(size) if allowed(i)), key=lambda i: (abs(i - u), i))[:N]
    short = N - len(found)
    return found + [-1] * short, [float(u * u - (i - u) ** 2) for i in found] + [-math.inf] * short


def beside(size: int, *steps: int) -> Any:
    """User u has the items u + step."""
    pairs = [(u, u + step) for u in range(size) for step in steps if 0 <= u + step < size]
    rows, columns = np.array(pairs).T
    return sp.csr_array((np.ones(len(pairs), np.float32), (rows, columns)), shape=(size, size))


def _neighbours(dtype: Any) -> list[str]:
    """The index is asked for long and short lists, and for some items only, one after another."""
    model, facts = line(dtype=dtype), {}
    seen = beside(SIZE, -2, 0, 1)
    even, out = np.arange(0, SIZE, 2)[::-1].copy(), np.array([3, 254, 258, 1997, 1999])

    def agrees(N: int, allowed: Callable[[int, int], bool], **words: Any) -> bool:
        ids, scores = model.recommend(ASKED, N=N, **words)
        mine = [nearest(u, N, lambda i, u=u: allowed(u, i)) for u in ASKED]
        return ids.tolist() == [each[0] for each in mine] and scores.tolist() == [each[1] for each in mine]

    for N in (1, 32, 33, 256, 257, 2001):
        facts[f"all_{N}"] = agrees(N, lambda u, i: True)
        facts[f"seen_{N}"] = agrees(N, lambda u, i: i - u not in (-2, 0, 1), seen=seen)
        facts[f"even_{N}"] = agrees(
            N,
            lambda u, i: i % 2 == 0 and i not in (254, 258) and i - u not in (-2, 0, 1),
            seen=seen,
            items=even,
            exclude=out,
        )
    return wrong(**facts)


def _neighbours_elsewhere() -> list[str]:
    """The same lists from a file that is mapped, from a pickle and from a model with constants on both sides."""
    facts, N = {}, 40
    model = line(dtype=np.float64)
    mine = [nearest(u, N, lambda i: True) for u in ASKED]
    # of a constant of each user and one of all, a list keeps its order and a score its distance
    moved = lfm_np.Factors(model.user_factors, model.item_factors, user_bias=np.arange(SIZE) / 4.0, global_bias=-0.5)
    with folder() as place:
        model.save(place / "line")
        kinds = {"mapped": lfm_np.Factors.load(place / "line", mmap=True), "pickled": pickle.loads(pickle.dumps(model))}
        for name, other in {**kinds, "moved": moved}.items():
            ids, scores = other.recommend(ASKED, N=N)
            by = [(u / 4.0 - 0.5) if name == "moved" else 0.0 for u in ASKED]
            facts[name] = ids.tolist() == [each[0] for each in mine] and scores.tolist() == [
                [s + plus for s in each[1]] for each, plus in zip(mine, by)
            ]
        del kinds
    return wrong(**facts)


def _alike_on_a_line() -> list[str]:
    """Users are (2u, 1): by inner product the last is most like all but user 0, who is as like to one as to another."""
    model = line(300)
    ids, scores = model.similar_users([0, 1, 299], N=5, metric="inner")
    last = [299, 298, 297, 296, 295]
    few, whole = model.similar_users(0, N=301, metric="inner")
    return wrong(
        ids=ids.tolist() == [[0, 1, 2, 3, 4], last, last],
        scores=scores.tolist() == [[1.0] * 5, [4.0 * i + 1 for i in last], [4.0 * 299 * i + 1 for i in last]],
        all_of_them=few.tolist() == [*range(300), -1] and whole.tolist() == [1.0] * 300 + [-math.inf],
    )


def _metrics_on_a_line() -> list[str]:
    """Who knows u and looks for u + 3 finds it at the sixth place, but at the ends; so say whole rankings and lists."""
    size, facts = 400, {}
    train, test = beside(size, 0), beside(size, 3)
    ranks = []
    for u in range(size - 3):
        order = nearest(u, size, lambda i, u=u: i != u, size)[0]
        ranks.append(order.index(u + 3) + 1)
    r, tied = np.array(ranks, float), np.arange(size - 3) >= 3  # item u - 3 is as near as u + 3
    got = lfm_np.evaluate(line(size), train, test, ("mrr", "mrr@5", "recall@6", "ndcg@10", "map", "auc", "precision@4"))
    mine = {
        "mrr": 1 / r,
        "mrr@5": np.where(r <= 5, 1 / r, 0),
        "recall@6": (r <= 6).astype(float),
        "ndcg@10": np.where(r <= 10, 1 / np.log2(r + 1), 0),
        "map": 1 / r,
        "auc": 1 - (r - 1 - tied / 2) / (size - 2),
        "precision@4": (r <= 4) / 4,
    }
    for name, each in mine.items():
        facts[name] = abs(got[name] - each.mean()) < 1e-12
        facts[f"{name}_se"] = abs(got[f"{name}_se"] - each.std(ddof=1) / math.sqrt(len(each))) < 1e-12
    # at the left end there is less on that side: the first three are found at places 3, 4 and 5
    return wrong(**facts, ranks=ranks[:5] == [3, 4, 5, 6, 6], users=got["users"] == size - 3)


def _pictures_of_a_line() -> list[str]:
    """Two people a hundred apart see twice as many items as a list is long; neighbours see one more than a list."""
    model, size = line(400), 400
    plots = lfm_np.plots

    def drawn(axes: Any, y: Any) -> bool:
        return any(close(each.get_ydata(), y, 1e-12) for each in axes.lines)

    lengths = np.arange(1, 10)
    train, test = beside(size, 0), beside(size, 3)
    inner = sp.csr_array(test.toarray() * (np.arange(size) >= 3)[:, None])
    steps = plots.metric_at_n(model, train, inner, "recall", N=(1, 5, 6, 50))
    return wrong(
        apart=drawn(plots.coverage(model, N=9, users=[100, 200]), 2 * lengths / size),
        twice=drawn(plots.coverage(model, N=9, users=[100, 100]), lengths / size),
        # from 100 and 101: each sees itself, then the left one first; 101's list reaches one item further
        beside=drawn(plots.coverage(model, N=9, users=[100, 101]), (lengths + 1) / size),
        steps=drawn(steps, [0.0, 0.0, 1.0, 1.0]),
    )


def _counts_in_a_crowd() -> list[str]:
    """Six threads, with three schedules and one or two threads of their own, then a child: every visit is counted."""
    X, eta = some(90, 30, 22), 1e-3
    n = (X > 0).sum(0)
    mine = {
        "constant": 4 * eta * n,
        "inverse": sum(eta / (1 + e / 10) for e in range(4)) * n,
        "adagrad": np.array([eta * sum(1 / math.sqrt(1 + t) for t in range(1, 4 * int(c) + 1)) for c in n]),
    }

    def work(place: int) -> bool:
        schedule = list(mine)[place % 3]
        words = {"sampler": None, "factors": 2, "learning_rate": eta, "epochs": 4, "num_threads": 1 + place % 2}
        return close(biases_of(lfm_np.sgd, X, losses.Hinge(), schedule=schedule, **words), mine[schedule], 1e-11)

    found = together(6, work)
    return wrong(threads=found == [True] * 6, child=child(lambda: work(1)) == 0, after=work(2))


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    for dtype in ("float32", "float64"):
        yield _holds(f"neighbours on a line, {dtype}", lambda d=dtype: _neighbours(d))
    yield _holds("neighbours on a line, from elsewhere", _neighbours_elsewhere)
    yield _holds("who is alike on a line", _alike_on_a_line)
    yield _holds("metrics on a line", _metrics_on_a_line)
    if installed("matplotlib"):
        yield _holds("pictures of a line", _pictures_of_a_line)
    yield _holds("visits counted in a crowd", _counts_in_a_crowd)
