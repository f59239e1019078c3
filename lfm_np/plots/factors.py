"""What is in the factors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lfm_np.canonical import gram
from lfm_np.factors import Factors
from lfm_np.plots.axes import GREY, is_sequence, make_axes, named, printable, tidy
from lfm_np.quiet import eigh, quietly
from lfm_np.ranking import unit_rows
from lfm_np.validation import check_choice, check_ids, check_values, shown

SHOWN = 500  # items of a map by default: where the rare ones are is mostly chance
LABELS = 40  # labels of a map at most


def factor_spectrum(
    results: Factors | Sequence[Factors], *, labels: Sequence[str] | None = None, ax: Any = None
) -> Any:
    """The singular values of U Vᵀ: how much each latent direction says about the scores.

    A spectrum that ends in a cliff has spare factors; one that is still flat at its end asks for more of them.

    Parameters
    ----------
    results : Factors or sequence of Factors
    labels : sequence of str, optional
        A name for each curve.
    ax : matplotlib Axes, optional

    Returns
    -------
    matplotlib Axes

    Notes
    -----
    O((m + n) k² + k³), from the Gram matrices: σ² are the eigenvalues of (VᵀV)^½ UᵀU (VᵀV)^½, exact to about √eps of
    the largest. Zeros have no place on the logarithmic axis.
    """
    curves = named(results, labels)
    spectra = [quietly(_singular_values, result.user_factors, result.item_factors) for result, _ in curves]
    ax = make_axes(ax)
    for values, (_, label) in zip(spectra, curves):
        ax.semilogy(np.arange(1, len(values) + 1), np.where(values > 0, values, np.nan), "o-", ms=3, label=label)
    ax.set(xlabel="latent direction", ylabel="singular value of $U V^T$")
    return tidy(ax, legend=labels is not None, labels=labels)


def _singular_values(U: np.ndarray, V: np.ndarray) -> np.ndarray:
    grams = [gram(U), gram(V)]
    sizes = [float(np.trace(products)) or 1.0 for products in grams]
    if not np.isfinite(sizes).all():
        raise ValueError("results have factors too large for a spectrum: sums of their squares are beyond float64")
    values, vectors = eigh(grams[1] / sizes[1])
    root = vectors * np.sqrt(np.maximum(values, 0.0))
    squares = quietly(np.linalg.eigvalsh, root.T @ (grams[0] / sizes[0]) @ root)
    return np.sqrt(sizes[0]) * np.sqrt(sizes[1]) * np.sqrt(np.maximum(squares, 0.0))[::-1]


def item_map(
    factors: Factors,
    *,
    items: Any = None,
    labels: Sequence[Any] | None = None,
    counts: Any = None,
    view: str = "projection",
    ax: Any = None,
) -> Any:
    """Items as points in the plane, near one another where the same users like them.

    Parameters
    ----------
    factors : Factors
    items : array of int, optional
        Which to show, those to label first at the beginning. By default the 500 most frequent where ``counts`` are
        given, else all.
    labels : sequence, shape (n,), optional
        A text for every item, shown or not. Up to 40 of the first 500 are written, and none over another.
    counts : array, shape (n,), optional
        How often each item occurs: the colour of its point, and who is labelled first.
    view : {"projection", "factors"}
        The two directions in which V[i] / ‖V[i]‖ differs most among the items shown (principal components, their mean
        at 0), or the two strongest canonical factors as they are. Mirrored such that the largest of either, by
        magnitude, is positive.
    ax : matplotlib Axes, optional

    Returns
    -------
    matplotlib Axes
    """
    check_choice("view", view, ("projection", "factors"))
    n = factors.shape[1]
    if labels is not None and not is_sequence(labels):
        raise TypeError(f"labels must be a sequence of texts, got {shown(labels)}")
    if labels is not None and len(labels) != n:
        raise ValueError(f"labels must have one entry for each of the {n} items, got {len(labels)}")
    if factors.item_factors.shape[1] < 2:
        raise ValueError(f"factors must have at least two latent dimensions for a map, got {shown(factors)}")
    frequency = np.ones(n) if counts is None else check_values("counts", counts, n, noun="item")
    if items is None:
        chosen = np.argsort(-frequency, kind="stable")[: n if counts is None else SHOWN]
    else:
        chosen = check_ids("items", items, n)
    if not len(chosen):
        raise ValueError(f"items must be at least one, got none of {n}")
    places = _places(factors.item_factors[chosen], view)
    texts = None if labels is None else _texts(labels, chosen.tolist())
    ax = make_axes(ax, (8, 6.5))
    _scatter(ax, places, None if counts is None else frequency[chosen])
    names = ("principal component", "canonical factor")[view == "factors"]
    ax.set(xlabel=f"{names} 1", ylabel=f"{names} 2")
    tidy(ax)
    if texts is not None:
        _write_labels(ax, places, texts)
    return ax


def _texts(labels: Any, chosen: list[int]) -> list[str]:
    """The labels of some items."""
    every = labels if isinstance(labels, Mapping) else list(labels)  # a Series counts by its index
    try:
        return [str(every[i]) for i in chosen]
    except KeyError as error:
        raise ValueError(
            f"labels must be a sequence, or a mapping with a key for every item; {error} has none"
        ) from None


def _places(V: np.ndarray, view: str) -> np.ndarray:
    """Two coordinates for every item."""
    places = V[:, :2].astype(np.float64)
    if view == "projection":
        unit = unit_rows(V).astype(np.float64)
        unit -= unit.mean(axis=0)
        places = unit @ eigh(unit.T @ unit)[1][:, :-3:-1]
    largest = np.abs(places).argmax(axis=0)
    return places * np.where(places[largest, [0, 1]] < 0, -1.0, 1.0)


def _scatter(ax: Any, places: np.ndarray, counts: np.ndarray | None) -> None:
    size = float(np.clip(4000 / max(len(places), 1), 3, 30))
    if counts is None:
        ax.scatter(*places.T, s=size, alpha=0.6, linewidths=0)
        return
    from matplotlib.colors import LogNorm

    last_on_top = slice(None, None, -1)
    points = ax.scatter(
        *places[last_on_top].T, s=size, c=np.maximum(counts, 1)[last_on_top], norm=LogNorm(), linewidths=0, alpha=0.8
    )
    ax.figure.colorbar(points, ax=ax, label="interactions of the item", shrink=0.7)


def _write_labels(ax: Any, places: np.ndarray, texts: list[str]) -> None:
    """Write labels, the first first, beside their points where they cover no other label."""
    ax.figure.canvas.figure.draw_without_rendering()  # the layout decides where a point is on the page
    taken: list[Any] = []
    for place, text in zip(places[:SHOWN], texts):  # where so many leave no room for forty, others will not find it
        if len(taken) == LABELS:
            return
        for shift, side in (((4, 3), "left"), ((-4, 3), "right"), ((4, -9), "left"), ((-4, -9), "right")):
            label = ax.annotate(
                printable(text), place, xytext=shift, textcoords="offset points", fontsize=7, ha=side, parse_math=False
            )
            box = label.get_window_extent()
            if ax.bbox.x0 <= box.x0 and box.x1 <= ax.bbox.x1 and not any(box.overlaps(other) for other in taken):
                taken.append(box.padded(2))
                ax.plot(*place, "o", ms=3, color="none", markeredgecolor=GREY)
                break
            label.remove()
