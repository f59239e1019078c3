"""Commands that say what is there and whether it works: info, crosscheck, demo."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from lfm_np._version import __version__
from lfm_np.atomic import check_place
from lfm_np.cli import models, tables
from lfm_np.cli.options import LONGEST, Item, Output, Seed, Timestamp, User, Value
from lfm_np.cli.sources import KINDS, Columns, read
from lfm_np.factors import Factors
from lfm_np.validation import check_num_threads

FAILED = 1
PACKAGES = ("numpy", "scipy", "numba", "safetensors", "typer", "pyarrow", "narwhals", "matplotlib", "torch")


def info(
    path: Annotated[str | None, typer.Argument(help=f"A model file, or data: {KINDS}.", show_default=False)] = None,
    user: User = "user",
    item: Item = "item",
    value: Value = None,
    timestamp: Timestamp = None,
    output: Output = None,
) -> None:
    """Say what a model or a data set is; without a path, what this installation is.

    Examples:

    `lfm-np info`

    `lfm-np info model.safetensors`

    `lfm-np info events.parquet --user listener --item track`
    """
    tables.check_output(output)
    tables.check_distinct({"PATH": path, "--output": output})
    if path is None:
        facts = _installation()
    elif path.lower().endswith(".safetensors"):
        facts = models.facts(Factors.load(path))
    else:
        facts = _data(
            path,
            Columns("user" if user is None else user, "item" if item is None else item, value, timestamp, nulls="keep"),
        )
    tables.write([{"what": list(facts), "value": [_text(fact) for fact in facts.values()]}], output)


def _text(fact: Any) -> str:
    """Numbers and lists of numbers as one reads them."""
    if isinstance(fact, tuple):
        return " · ".join(map(_text, fact))
    return f"{fact:.6g}" if isinstance(fact, float) else str(fact)


def _installation() -> dict[str, Any]:
    facts: dict[str, Any] = {"lfm_np": __version__, "python": platform.python_version(), "system": platform.platform()}
    facts["threads"] = check_num_threads(None)
    for name in PACKAGES:
        try:
            facts[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            facts[name] = "not installed"
    return facts | {name: text for name, text in sorted(os.environ.items()) if name.startswith("LFM_NP_")}


def _data(source: str, columns: Columns) -> dict[str, Any]:
    data = read(source, columns)
    X, (m, n) = data.matrix, data.shape
    facts: dict[str, Any] = {"users": m, "items": n, "interactions": X.nnz, "of all cells": X.nnz / max(m * n, 1)}
    per = {"a user": np.diff(X.indptr), "an item": np.bincount(X.indices, minlength=n)}
    for name, counts in per.items():
        if len(counts):
            facts[f"interactions of {name}: least, median, most"] = tuple(
                int(count) for count in np.quantile(counts, (0, 0.5, 1), method="lower")
            )
    known = X.data[~np.isnan(X.data)]
    if len(known):
        facts["values: least, mean, most"] = (float(known.min()), float(known.mean()), float(known.max()))
    facts["values unknown"] = X.nnz - len(known)
    facts["ids"] = f"{data.users.dtype}, {data.items.dtype}"
    if data.timestamps is not None:
        times = data.timestamps[~np.isnan(data.timestamps)]
        if len(times):
            facts["times: first, last"] = (str(times.min()), str(times.max()))
        facts["times unknown"] = X.nnz - len(times)
    return facts


def crosscheck(
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps or auto.")] = "auto",
    data: Annotated[str | None, typer.Option(help=f"{KINDS}; by default planted interactions.")] = None,
    factors: Annotated[int, typer.Option(min=1)] = 16,
    sweeps: Annotated[int, typer.Option(min=1, help="Of als.")] = 3,
    json: Annotated[Path | None, typer.Option(help="Write the report here as JSON.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write the report here as a page.")] = None,
) -> None:
    """Compare the solvers with their torch versions on a device, number by number; status 1 where they differ.

    Examples:

    `lfm-np crosscheck --device cuda --html crosscheck.html`
    """
    from lfm_np.torch_backend import crosscheck as compare

    tables.check_distinct({"--data": data, "--json": json, "--html": html})
    for page in filter(None, (json, html)):
        check_place(page)
    X = None if data is None else read(data, Columns()).matrix
    report = compare(X, device=device, factors=factors, sweeps=sweeps)
    if json:
        report.to_json(json)
    if html:
        report.to_html(html)
    typer.echo(report)
    if not report.passed:
        raise typer.Exit(FAILED)


def demo(
    data: Annotated[str, typer.Option(help="auto, movielens or synthetic.")] = "auto",
    rows: Annotated[int, typer.Option(min=1, max=LONGEST, help="Rows of the synthetic data.")] = 1_000_000,
    output: Annotated[Path, typer.Option(help="Folder for the model and the picture.")] = Path(),
    seed: Seed = 0,
) -> None:
    """Factor MovieLens-1M or synthetic data, judge the model, save it and draw its training curve.

    Examples:

    `lfm-np demo --data synthetic --rows 100000 --output demo`
    """
    from lfm_np.demo import demo as run

    run(data, rows=rows, output=output, random_state=seed)
