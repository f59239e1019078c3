"""What the lists of recommendations are like: how good, how varied, how much like the charts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from lfm_np.evaluation import evaluate
from lfm_np.factors import Factors
from lfm_np.plots.axes import GREY, make_axes, named, tidy
from lfm_np.validation import as_rows, check_ids, check_length, check_seen, shown

LENGTHS = (1, 2, 5, 10, 20, 50, 100)
USERS, ENTRIES = 8192, 1 << 22  # users whose lists are in memory at a time, and their entries


def metric_at_n(
    results: Factors | Sequence[Factors],
    train: Any,
    test: Any,
    metric: str = "recall",
    *,
    N: Sequence[int] = LENGTHS,
    labels: Sequence[str] | None = None,
    ax: Any = None,
) -> Any:
    """A ranking metric against the length of the list, with a band of one standard error to either side.

    Parameters
    ----------
    results : Factors or sequence of Factors
    train, test : sparse matrix or Interactions, shape (m, n)
        As in `lfm_np.evaluate`.
    metric : str
        One of its metrics with a cutoff, without the cutoff.
    N : sequence of int
        The cutoffs.
    labels : sequence of str, optional
        A name for each curve.
    ax : matplotlib Axes, optional

    Returns
    -------
    matplotlib Axes
    """
    curves = named(results, labels)
    if not isinstance(N, Iterable) or not (N := list(N)):
        raise TypeError(f"N must be a sequence of at least one length, got {shown(N)}")
    cutoffs = sorted({check_length("N", length) for length in N})
    names = [f"{metric}@{length}" for length in cutoffs]
    drawn = [(evaluate(result, train, test, names), label) for result, label in curves]
    ax = make_axes(ax)
    for found, label in drawn:
        means = np.array([found[f"{metric}@{length}"] for length in cutoffs])
        errors = np.array([found[f"{metric}@{length}_se"] for length in cutoffs])
        (line,) = ax.plot(cutoffs, means, "o-", ms=4, label=label)
        ax.fill_between(cutoffs, means - errors, means + errors, color=line.get_color(), alpha=0.2, linewidth=0)
    ax.set(xlabel="N, length of the list", ylabel=f"{metric.replace('_', ' ')} at N")
    _length_axis(ax, cutoffs)
    return tidy(ax, legend=labels is not None, labels=labels)


def coverage(
    results: Factors | Sequence[Factors],
    seen: Any = None,
    *,
    N: int = 100,
    users: Any = None,
    labels: Sequence[str] | None = None,
    ax: Any = None,
) -> Any:
    """The share of all items, 0 to 1, that are in somebody's list, against the length of the lists, from 1.

    Parameters
    ----------
    results : Factors or sequence of Factors
    seen : sparse matrix or Interactions, shape (m, n), optional
        As in `Factors.recommend`.
    N : int
        Length of the longest list.
    users : array of int, optional
        Whose lists; by default everybody's.
    labels : sequence of str, optional
        A name for each curve.
    ax : matplotlib Axes, optional

    Returns
    -------
    matplotlib Axes
    """
    curves = named(results, labels)
    N = check_length("N", N)
    _some_items(curves)
    shares = []
    for result, _ in curves:
        first = np.full(result.shape[1], N)  # the best place that an item has in any list
        for ids in _lists(result, seen, users, N):
            who, places = np.nonzero(ids >= 0)
            np.minimum.at(first, ids[who, places], places)
        shares.append(np.cumsum(np.bincount(first, minlength=N + 1)[:N]) / len(first))
    ax = make_axes(ax)
    for share, (_, label) in zip(shares, curves):
        ax.plot(np.arange(1, N + 1), share, label=label)
    ax.set(xlabel="N, length of the list", ylabel="share of items in some list", ylim=(0, 1.02))
    _length_axis(ax, [length for length in LENGTHS if length <= N])
    return tidy(ax, legend=labels is not None, labels=labels)


def popularity_bias(
    results: Factors | Sequence[Factors],
    seen: Any,
    *,
    N: int = 10,
    users: Any = None,
    labels: Sequence[str] | None = None,
    ax: Any = None,
) -> Any:
    """Who gets the places in the lists: their share that goes to the most popular items, beside what users chose.

    Along the axis lies the share of items, 0 to 1, most popular first; either curve begins at (0, 0).
    A curve above that of the interactions makes popular items more popular still.

    Parameters
    ----------
    results : Factors or sequence of Factors
    seen : sparse matrix or Interactions, shape (m, n)
        The interactions: they say how popular an item is, and what is not recommended.
    N : int
        Length of the lists.
    users : array of int, optional
        Whose lists; by default everybody's.
    labels : sequence of str, optional
        A name for each curve.
    ax : matplotlib Axes, optional

    Returns
    -------
    matplotlib Axes
    """
    curves = named(results, labels)
    N = check_length("N", N)
    n = _some_items(curves)
    counts = item_counts("seen", seen, curves[0][0].shape)
    order = np.argsort(-counts, kind="stable")
    shares = []
    for result, _ in curves:
        places = np.zeros(n, np.int64)
        for ids in _lists(result, seen, users, N):
            places += np.bincount(ids[ids >= 0], minlength=n)
        shares.append(_shares(places[order]))
    ax = make_axes(ax)
    share_of_items = np.arange(n + 1) / n
    ax.plot(share_of_items, _shares(counts[order]), "--", color=GREY, label="interactions")
    for share, (_, label) in zip(shares, curves):
        ax.plot(share_of_items, share, label=label or f"first {N} recommended")
    ax.set(xlabel="share of items, most popular first", ylabel="their share", xlim=(0, 1), ylim=(0, 1.02))
    return tidy(ax, legend=True, labels=labels)


def _some_items(curves: list[tuple[Factors, str | None]]) -> int:
    """The number of items of the first result; none may have none, of which there is no share."""
    for result, _ in curves:
        if not result.shape[1]:
            raise ValueError(f"results must have an item at least, got shape {result.shape}")
    return curves[0][0].shape[1]


def item_counts(name: str, X: Any, shape: tuple[int, int]) -> np.ndarray:
    """How many stored cells each item has in the argument ``name``."""
    _, _, indices = check_seen(name, X, np.arange(shape[0]), shape)
    return np.bincount(indices, minlength=shape[1])


def _shares(counts: np.ndarray) -> np.ndarray:
    """What the first 0, 1, … entries have of the whole."""
    total = np.concatenate([[0], np.cumsum(counts)])
    return total / max(int(total[-1]), 1)


def _lists(result: Factors, seen: Any, users: Any, N: int) -> Iterator[np.ndarray]:
    """The users' lists, some users at a time, so that memory stays bounded."""
    m, n = result.shape
    rows = np.arange(m) if users is None else check_ids("users", users, m)
    step = max(1, min(USERS, ENTRIES // min(N, n)))
    if seen is not None and len(rows) > step:
        seen = as_rows("seen", seen, result.shape)
    for lo in range(0, len(rows), step):
        yield result.recommend(rows[lo : lo + step], N=min(N, n), seen=seen).ids


def _length_axis(ax: Any, ticks: Sequence[int]) -> None:
    ax.set_xscale("log")
    ax.set_xticks(ticks, [str(tick) for tick in ticks])
    ax.minorticks_off()
