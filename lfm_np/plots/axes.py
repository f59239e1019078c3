"""What the pictures have in common: axes to draw into, names of the curves, a plain look."""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Sized
from typing import Any

from lfm_np.errors import missing_extra
from lfm_np.factors import Factors
from lfm_np.validation import shown

GREY = "0.55"  # of what is only there to compare with


def make_axes(ax: Any, size: tuple[float, float] = (6, 4)) -> Any:
    """The given axes, or those of a new figure."""
    if ax is not None:
        if not hasattr(ax, "spines"):
            raise TypeError(f"ax must be Axes of matplotlib, got {shown(ax)}")
        return ax
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise missing_extra("matplotlib", "plot") from None
    return Figure(figsize=size, layout="constrained").add_subplot()  # no pyplot: no window, no global state


def named(results: Any, labels: Sequence[str] | None) -> list[tuple[Factors, str | None]]:
    """The results, each with its label.

    Raises
    ------
    TypeError, ValueError
        Something that is no Factors, no result at all, or not one label for each.
    """
    results = [results] if isinstance(results, Factors) else results
    if not isinstance(results, Iterable):
        raise TypeError(f"results must be a Factors or a sequence of them, got {shown(results)}")
    results = list(results)
    for result in results:
        if not isinstance(result, Factors):
            raise TypeError(f"results must be a Factors or a sequence of them, got {shown(result)}")
    if labels is None:
        labels = [None] * len(results)  # type: ignore[list-item]
    elif not is_sequence(labels) or len(labels) != len(results):
        raise ValueError(f"labels must be a sequence of {len(results)}, one for each result; got {shown(labels)}")
    if not results:
        raise ValueError("results must hold at least one Factors, got none")
    return list(zip(results, labels))


def is_sequence(value: Any) -> bool:
    """Whether it has entries, which a text and an array of no dimension have not."""
    return isinstance(value, Sized) and not isinstance(value, str) and getattr(value, "shape", None) != ()


def tidy(ax: Any, *, legend: bool = False, labels: Sequence[Any] | None = None) -> Any:
    """Axes without clutter; returns them.

    In the legend are the curves that have a label, the last of them as ``labels`` calls them: matplotlib would leave
    out what begins with "_", and take what is between dollar signs for a formula.
    """
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(alpha=0.3)
    if legend:
        own = dict(zip(list(ax.lines)[-len(labels) :], labels)) if labels else {}
        own = {curve: label for curve, label in own.items() if label not in (None, "")}
        others, names = ax.get_legend_handles_labels()
        before = {curve: name for curve, name in zip(others, names) if curve not in own}
        placeholders = [*before.values(), *("curve" for _ in own)]
        texts = ax.legend([*before, *own], placeholders, frameon=False).get_texts()
        for text, label in zip(texts[len(before) :], own.values()):
            text.set_parse_math(False)
            text.set_text(printable(label))
    return ax


def printable(label: Any) -> str:
    """Without what no font has, and not too long."""
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in str(label)[:200])
