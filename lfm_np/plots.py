"""Pictures of results. Needs the extra ``plot`` (matplotlib); every function draws into given axes or makes its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lfm_np.errors import missing_extra
from lfm_np.factors import Factors


def training_curve(
    results: Factors | Sequence[Factors], *, labels: Sequence[str] | None = None, by: str = "iteration", ax: Any = None
) -> Any:
    """The objective (or sampled loss) after every sweep.

    Parameters
    ----------
    results : Factors or sequence of Factors
    labels : sequence of str, optional
        A name for each curve.
    by : {"iteration", "seconds"}
        What the horizontal axis shows; seconds are summed over the sweeps.
    ax : matplotlib Axes, optional
        By default those of a new figure.

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    MissingExtraError
        matplotlib is not installed.
    ValueError
        A result without history.
    """
    from lfm_np.validation import check_choice

    check_choice("by", by, ("iteration", "seconds"))
    results = [results] if isinstance(results, Factors) else list(results)
    ax = _axes(ax)
    for position, result in enumerate(results):
        if not result.history:
            raise ValueError("results have no history to draw")
        loss = "objective" if "objective" in result.history[0] else "sampled_loss"
        heights = [record[loss] for record in result.history]
        places = [record[by] for record in result.history]
        ax.plot(
            np.cumsum(places) if by == "seconds" else places,
            heights,
            marker="o",
            markersize=4,
            label=labels[position] if labels else None,
        )
        ax.set_ylabel(loss.replace("_", " "))
    ax.set_xlabel(by)
    if by == "iteration":
        ax.xaxis.get_major_locator().set_params(integer=True)
    if labels:
        ax.legend(frameon=False)
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(alpha=0.3)
    return ax


def _axes(ax: Any) -> Any:
    if ax is not None:
        return ax
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise missing_extra("matplotlib", "plot") from None
    return Figure(figsize=(6, 4), layout="constrained").add_subplot()  # no pyplot: no window, no global state
