"""What happened during the fit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lfm_np.factors import Factors
from lfm_np.plots.axes import make_axes, named, tidy
from lfm_np.validation import check_choice, shown


def training_curve(
    results: Factors | Sequence[Factors],
    *,
    labels: Sequence[str] | None = None,
    by: str = "iteration",
    measure: str | None = None,
    ax: Any = None,
) -> Any:
    """The objective (or sampled loss) after every sweep, or whatever a callback added to the history.

    Parameters
    ----------
    results : Factors or sequence of Factors
    labels : sequence of str, optional
        A name for each curve.
    by : {"iteration", "seconds"}
        What the horizontal axis shows; seconds are summed over the sweeps, without the callback's own.
    measure : str, optional
        A field of the history, such as "ndcg@10" where the callback does ``record["ndcg@10"] = …``. By default
        "objective" or "sampled_loss".
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
        A result without history, without that field in it, or with a record that has no iteration, or no seconds.
    """
    check_choice("by", by, ("iteration", "seconds"))
    curves = named(results, labels)
    found = []
    for result, label in curves:
        name = measure or measured(result)
        records = [record for record in result.history if name in record]
        if not records:
            fields = sorted({field for record in result.history for field in record})
            raise ValueError(
                f"results have no history of {name!r} to draw" + (f"; there is {fields}" if fields else "")
            )
        places = _places(result, by)
        found.append((label, name, [places[record["iteration"]] for record in records], [r[name] for r in records]))
    ax = make_axes(ax)
    for label, name, where, values in found:
        ax.plot(where, values, "o-", ms=4)
        ax.get_lines()[-1].set_label(label)
        ax.set_ylabel(name.replace("_", " "), parse_math=False)
    ax.set_xlabel(by)
    if by == "iteration":
        ax.xaxis.get_major_locator().set_params(integer=True)
    return tidy(ax, legend=labels is not None, labels=labels)


def measured(result: Factors) -> str:
    """What a history measures: the field that is drawn by default."""
    return "sampled_loss" if result.history and "sampled_loss" in result.history[0] else "objective"


def _places(result: Factors, by: str) -> dict[int, float]:
    """Where each iteration is on the horizontal axis."""
    for record in result.history:
        if absent := sorted({"iteration", by} - record.keys()):
            raise ValueError(f"results must have {absent[0]!r} in every record of their history, got {shown(record)}")
    iterations = [record["iteration"] for record in result.history]
    if by == "iteration":
        return dict(zip(iterations, iterations))
    return dict(zip(iterations, np.cumsum([record["seconds"] for record in result.history]).tolist()))
