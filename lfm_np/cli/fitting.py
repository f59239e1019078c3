"""``lfm-np fit``."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from lfm_np import losses
from lfm_np.als import als
from lfm_np.cli import models, tables
from lfm_np.cli.options import (
    DATA,
    FILES,
    MODEL_PANEL,
    Delimiter,
    Item,
    Nulls,
    Seed,
    Source,
    Text,
    Threads,
    Threshold,
    Timestamp,
    User,
    Value,
    say,
)
from lfm_np.cli.quality import DEFAULT, compare
from lfm_np.cli.sources import Columns, delimiter_of, read_values
from lfm_np.factors import Status
from lfm_np.interactions import Interactions
from lfm_np.sgd import sgd
from lfm_np.validation import check_choice, check_float

INTERRUPTED = 130


def _of_model(help: str, **more: Any) -> Any:
    return typer.Option(help=help, rich_help_panel=MODEL_PANEL, **more)


def fit(
    data: Source,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The model file: NAME.safetensors.", rich_help_panel=FILES)
    ] = Path("model.safetensors"),
    user: User = "user",
    item: Item = "item",
    value: Value = None,
    timestamp: Timestamp = None,
    threshold: Threshold = None,
    duplicates: Annotated[
        str, typer.Option(help="Several records of a pair: sum, last, mean, max, count or error.", rich_help_panel=DATA)
    ] = "sum",
    nulls: Nulls = "error",
    delimiter: Delimiter = None,
    text: Text = None,
    min_user_interactions: Annotated[
        int, typer.Option(min=1, help="Leave out users with fewer.", rich_help_panel=DATA)
    ] = 1,
    min_item_interactions: Annotated[
        int, typer.Option(min=1, help="Leave out items with fewer.", rich_help_panel=DATA)
    ] = 1,
    hold_out: Annotated[
        Path | None,
        typer.Option(
            help="Hold interactions out into this .csv or .parquet, and judge by them.", rich_help_panel=FILES
        ),
    ] = None,
    by: Annotated[
        str | None,
        typer.Option(help="Hold out at random (default), each user's last, or by time.", rich_help_panel=FILES),
    ] = None,
    fraction: Annotated[
        float | None,
        typer.Option(help="Share to hold out, 0.2 by default; `last` takes one of each user.", rich_help_panel=FILES),
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(help="Keep the state of the fit here after every sweep, or go on from it.", rich_help_panel=FILES),
    ] = None,
    method: Annotated[str, _of_model("als or sgd.")] = "als",
    factors: Annotated[int, _of_model("k, the number of latent dimensions.")] = 64,
    regularization: Annotated[float, _of_model("λ.")] = 0.01,
    iterations: Annotated[
        int | None, _of_model("Sweeps of als (15) or epochs of sgd (20).", min=1, show_default=False)
    ] = None,
    alpha: Annotated[float | None, _of_model("als: weight of a value.")] = None,
    weighting: Annotated[str | None, _of_model("als: hu-koren, ials, confidence or ratings.")] = None,
    unobserved_weight: Annotated[float | None, _of_model("als: weight of what is not there.")] = None,
    regularization_exponent: Annotated[float | None, _of_model("als: 1 scales λ with a row's size.")] = None,
    solver: Annotated[str | None, _of_model("als: auto, exact, or for many factors cg or subspace.")] = None,
    loss: Annotated[str | None, _of_model("sgd: BPR, WARP, Logistic, SampledSoftmax, Squared, …")] = None,
    negatives: Annotated[int | None, _of_model("sgd: drawn negatives of an interaction; 1, none for Squared.")] = None,
    learning_rate: Annotated[float | None, _of_model("sgd: length of a step.")] = None,
    biases: Annotated[bool | None, _of_model("Fit biases too.")] = None,
    seed: Seed = 0,
    threads: Threads = None,
    progress: Annotated[
        bool | None, typer.Option(help="A bar with objective and rate; by default on a terminal.")
    ] = None,
) -> None:
    """Factor interactions and write the model, and beside it the interactions with their ids.

    Ctrl-C ends the fit early, writes the model of the last complete sweep, and leaves with status 130. With
    --checkpoint the same command goes on where the last one ended, to the same model as without a break.

    Examples:

    `lfm-np fit plays.parquet --user listener --item track --value plays --alpha 40`

    `lfm-np fit events.csv --timestamp time --hold-out test.csv --by last --factors 128 -o events.safetensors`

    `lfm-np fit movielens:1m --method sgd --loss WARP --learning-rate 0.01`

    `lfm-np fit events.csv --factors 256 --solver subspace --checkpoint events.checkpoint`
    """
    columns = Columns(
        "user" if user is None else user, "item" if item is None else item, value, timestamp, threshold, duplicates,
        nulls, delimiter,
        min_user_interactions, min_item_interactions,
        [check_choice("--text", side, ("user", "item")) for side in text or ()],
    )  # fmt: skip
    tables.check_output(output, ("safetensors",))
    tables.check_output(hold_out, ("csv", "parquet"))
    files = {"--output": output, "the file beside --output": models.beside(output), "--hold-out": hold_out}
    tables.check_distinct({"DATA": data, **files, "--checkpoint": checkpoint})
    by, fraction = _held_out_by(hold_out, by, fraction)
    separator = delimiter_of(str(hold_out), delimiter)
    given = {
        "alpha": alpha, "weighting": weighting, "unobserved_weight": unobserved_weight, "negatives": negatives,
        "regularization_exponent": regularization_exponent, "learning_rate": learning_rate, "loss": loss,
        "biases": biases, "iterations": iterations, "solver": solver, "checkpoint": checkpoint,
    }  # fmt: skip
    solve, options = _solver(method, {name: option for name, option in given.items() if option is not None})
    train = read_values(data, columns)
    say(f"{data}: {len(train.users):,} users × {len(train.items):,} items, {train.matrix.nnz:,} interactions")
    if not train.matrix.nnz:
        raise ValueError(f"{data} leaves no interactions to learn from")
    test = None
    if hold_out is not None:
        train, test = train.split(by, test_fraction=fraction, random_state=seed)
        say(f"{hold_out}: {test.matrix.nnz:,} interactions held out, {train.matrix.nnz:,} to learn from")
    held_out = test
    if threshold is not None:
        train, test = train.binarize(), test and test.binarize()
    result = solve(
        train,
        factors=factors,
        regularization=regularization,
        random_state=seed,
        num_threads=threads,
        progress=sys.stderr.isatty() if progress is None else progress,
        **options,
    )
    if hold_out is not None and held_out is not None:  # not before: a fit that fails leaves the file of the last model
        tables.write([_records(held_out, columns)], hold_out, separator)
    result = models.save(output, result, train, columns, hold_out)
    say(f"{output} and {models.beside(output).name}: {len(result.history)} sweeps, {result.status}")
    if test is not None:
        tables.write([compare(result, train, test, DEFAULT, threads)], None)
    if result.status is Status.INTERRUPTED:
        raise typer.Exit(INTERRUPTED)


def _held_out_by(file: Path | None, by: str | None, fraction: float | None) -> tuple[str, float]:
    """--by and --fraction, or their defaults; ValueError where one that is given would mean nothing."""
    for name, given in (("--by", by), ("--fraction", fraction)):
        if given is not None and file is None:
            raise ValueError(f"{name} says what --hold-out takes, and there is no --hold-out")
    if by == "last" and fraction is not None:
        raise ValueError("--fraction is no option of --by last, which takes one interaction of each user")
    fraction = 0.2 if fraction is None else fraction
    check_choice("--by", by or "random", ("random", "last", "time"))
    return by or "random", check_float("--fraction", fraction, 0, 1, open_low=True, open_high=True)


def _solver(method: str, given: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The solver and its own options.

    Raises
    ------
    ValueError
        No such method or loss, or an option that is another method's.
    """
    solvers: dict[str, Any] = {"als": als, "sgd": sgd}
    if method not in solvers:
        raise ValueError(f"--method must be als or sgd, got {method}")
    solve = solvers[method]
    if method == "sgd" and "iterations" in given:
        given["epochs"] = given.pop("iterations")
    for name in given:
        if name not in inspect.signature(solve).parameters:
            raise ValueError(f"--{name.replace('_', '-')} is no option of --method {method}")
    if "loss" in given:
        names = [name for name in losses.__all__ if name != "check"]
        if given["loss"] not in names:
            raise ValueError(f"--loss must be one of {', '.join(names)}, got {given['loss']}")
        given["loss"] = getattr(losses, given["loss"])()
        if isinstance(given["loss"], losses.Squared) and "negatives" not in given:
            given["sampler"] = None
    return solve, given


def _records(data: Interactions, columns: Columns) -> tables.Columns:
    """A column for each part of the interactions, under the names that they came with."""
    coo = data.matrix.tocoo()
    records = {columns.user: data.users[coo.row], columns.item: data.items[coo.col]}
    if columns.value is not None:
        records[columns.value] = coo.data
    if data.timestamps is not None:
        records[columns.timestamp or "timestamp"] = data.timestamps
    return records
