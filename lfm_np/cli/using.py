"""Commands that take a fitted model: recommend, similar, evaluate, update, report."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from lfm_np.cli import models, tables
from lfm_np.cli.options import Fitted, Item, Length, Model, Output, Threads, Threshold, Timestamp, User, Value, say
from lfm_np.cli.quality import DEFAULT, compare, parse_bounds
from lfm_np.cli.sources import read
from lfm_np.factors import Factors
from lfm_np.interactions import Interactions
from lfm_np.recommendations import Entries, recommend_blocks
from lfm_np.signals import pass_on

FAILED = 1


def recommend(
    model: Model,
    user: Annotated[list[str] | None, typer.Option(help="For this user; repeat for more. By default all.")] = None,
    n: Length = 10,
    include_seen: Annotated[bool, typer.Option("--include-seen", help="Also what the user has already.")] = False,
    output: Output = None,
    data: Fitted = None,
    threads: Threads = None,
) -> None:
    """Recommend items to users: a row for each user and rank.

    Examples:

    `lfm-np recommend model.safetensors --user ann --user bob -n 5`

    `lfm-np recommend model.safetensors -o everybody.parquet`
    """
    tables.check_output(output)
    tables.check_distinct({"--data": data, "--output": output})
    factors, known = models.load(model, data)
    rows = np.arange(len(known.users))
    if user:
        rows = known.rows_of(models.parse_ids("--user", user, known.users))
    seen = None if include_seen else known
    asked, columns = known.users[rows], models.columns_of(factors)
    names = columns.user, columns.item
    if len({*names, "score", "rank"}) < 4:  # two columns of one name would be one
        names = "user", "item"
    blocks = recommend_blocks(factors, rows, n, seen=seen, num_threads=threads)
    count = tables.write((_table(names[0], asked, names[1], known.items, some) for some in blocks), output)
    if output is not None:
        say(f"{output}: {count:,} recommendations for {len(rows):,} users")


def similar(
    model: Model,
    item: Annotated[list[str] | None, typer.Option(help="Like this item; repeat for more.")] = None,
    user: Annotated[list[str] | None, typer.Option(help="Like this user; repeat for more.")] = None,
    n: Length = 10,
    metric: Annotated[str, typer.Option(help="cosine or inner.")] = "cosine",
    output: Output = None,
    data: Fitted = None,
    threads: Threads = None,
) -> None:
    """Find the items, or the users, that are most similar to given ones.

    Examples:

    `lfm-np similar model.safetensors --item 50 -n 5`

    `lfm-np similar model.safetensors --user ann --metric inner -o like_ann.csv`
    """
    if bool(item) == bool(user):
        raise ValueError("similar needs either --item or --user")
    tables.check_output(output)
    tables.check_distinct({"--data": data, "--output": output})
    factors, known = models.load(model, data)
    if item:
        name, ids = "item", known.items
        rows = known.columns_of(models.parse_ids("--item", item, ids))
        found = factors.similar_items(rows, N=n, metric=metric, num_threads=threads)
    else:
        name, ids = "user", known.users
        rows = known.rows_of(models.parse_ids("--user", user or [], ids))
        found = factors.similar_users(rows, N=n, metric=metric, num_threads=threads)
    tables.write([_table(name, ids[rows], "similar", ids, Entries.of(found))], output)


def _table(name: str, asked: np.ndarray, other: str, ids: np.ndarray, entries: Entries) -> tables.Columns:
    """A row for each entry of the lists."""
    return {name: asked[entries.places], other: ids[entries.ids], "score": entries.scores, "rank": entries.ranks}


def evaluate(
    model: Model,
    test: Annotated[str, typer.Argument(help="Held-out interactions, like DATA of `fit`.", show_default=False)],
    metric: Annotated[list[str] | None, typer.Option(help="Such as recall@20, ndcg@20, mrr, auc; repeat.")] = None,
    at_least: Annotated[
        list[str] | None, typer.Option(metavar="METRIC=NUMBER", help="Leave with status 1 below this; repeat.")
    ] = None,
    user: User = None,
    item: Item = None,
    value: Value = None,
    timestamp: Timestamp = None,
    threshold: Threshold = None,
    output: Output = None,
    data: Fitted = None,
) -> None:
    """Judge a model by interactions that it has not seen, beside recommending what is most popular.

    Columns have the names that `fit` was told, if no others are given.

    Examples:

    `lfm-np evaluate model.safetensors test.csv --metric recall@20 --metric auc`

    `lfm-np evaluate model.safetensors test.csv --at-least ndcg@10=0.25`
    """
    tables.check_output(output)
    tables.check_distinct({"TEST": test, "--output": output})
    tables.check_distinct({"--data": data, "--output": output})
    bounds = parse_bounds(at_least or [])
    factors, known = models.load(model, data)
    given = {"user": user, "item": item, "value": value, "timestamp": timestamp, "threshold": threshold}
    held_out = _held_out(test, factors, known, given)
    metrics = list(dict.fromkeys([*(metric or ([] if bounds else DEFAULT)), *bounds]))
    table = compare(factors, known, held_out, metrics)
    tables.write([table], output)
    values = dict(zip(table["metric"], table["model"]))
    low = [  # a metric that is NaN has not reached anything
        f"{name} is {values[name]:.4f}, less than {bound:g}"
        for name, bound in bounds.items()
        if not values[name] >= bound
    ]
    if low:
        say("failed: " + "; ".join(low))
        raise typer.Exit(FAILED)


def _held_out(source: str, factors: Factors, known: Interactions, given: dict[str, Any]) -> Any:
    asked = {name: one for name, one in given.items() if one is not None}
    columns = models.columns_of(factors, None if "threshold" in asked else source)._replace(**asked)
    columns = columns._replace(min_user_interactions=1, min_item_interactions=1)
    matrix, unknown = models.align(read(source, columns), known)
    if unknown:
        say(f"{source}: {unknown:,} of {unknown + matrix.nnz:,} interactions are of unknown users or items, left out")
    return matrix


def update(
    model: Model,
    new: Annotated[str, typer.Argument(metavar="DATA", help="Further interactions, like DATA of `fit`.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The new model file.")],
    data: Fitted = None,
    threads: Threads = None,
) -> None:
    """Take further interactions into a model of als without a refit: those who have some are solved again or added.

    All items and all other users stay as they are, and items that the model does not know are left out. A pair that is
    there already is combined as `fit --duplicates` said (with a threshold: it counts 1; a mean: of old and new). The
    interactions beside the new model have times if those of both have.

    Examples:

    `lfm-np update model.safetensors today.csv -o model.safetensors`
    """
    tables.check_output(output, ("safetensors",))
    tables.check_distinct({"DATA": new, "--output": output, "the file beside --output": models.beside(output)})
    factors, known = models.load(model, data)
    columns = models.columns_of(factors)
    more = read(new, models.columns_of(factors, new)._replace(min_user_interactions=1, min_item_interactions=1))
    duplicates = (
        "max" if columns.threshold is not None else {"count": "sum"}.get(columns.duplicates, columns.duplicates)
    )
    whole, rows, unknown = models.extend(known, more, duplicates)
    if unknown:
        say(f"{new}: {unknown:,} of {more.matrix.nnz:,} interactions are of unknown items, left out")
    if known.timestamps is not None and whole.timestamps is None:
        say(f"{new} has no times: {models.beside(output)} has none either")
    models.save(output, factors.update(whole.matrix[rows], users=rows, num_threads=threads), whole, columns)
    added = len(whole.users) - len(known.users)
    say(f"{output}: {added:,} users added, {len(rows) - added:,} solved again")


def report(
    model: Model,
    output: Annotated[Path, typer.Option("--output", "-o", help="The page.")] = Path("report.html"),
    test: Annotated[str | None, typer.Option(metavar="DATA", help="Held-out interactions.")] = None,
    labels: Annotated[
        Path | None, typer.Option(help="A .csv with the columns `item` and `label`: what to call the items.")
    ] = None,
    title: Annotated[str | None, typer.Option(help="By default the name of the model file.")] = None,
    data: Fitted = None,
) -> None:
    """Write an HTML page about a model that needs nothing else: quality, pictures, examples.

    Examples:

    `lfm-np report model.safetensors --test test.csv --labels titles.csv -o report.html`
    """
    from lfm_np.report import write_report

    tables.check_output(output, ("html",))
    factors, known = models.load(model, data)
    held_out = None if test is None else _held_out(test, factors, known, {})
    texts = None if labels is None else _labels(labels, known)
    write_report(output, factors, known, held_out, labels=texts, title=title or model.stem)
    say(f"{output} written")


def _labels(path: Path, known: Interactions) -> list[str]:
    """What to call every item: its label, or its id where there is none."""
    with open(path, encoding="utf-8-sig", newline="") as file:
        table = csv.DictReader(file)
        try:
            if not {"item", "label"} <= set(table.fieldnames or ()):
                raise ValueError(f"the columns item and label must be there, got {table.fieldnames}")
            labels = {row["item"]: row["label"] or row["item"] for row in table}
        except (csv.Error, ValueError) as error:
            pass_on(error)
            raise ValueError(f"cannot read labels from {path}: {error}") from None
    return [labels.get(str(item), str(item)) for item in tables.cells(known.items)]
