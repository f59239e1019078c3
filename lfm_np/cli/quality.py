"""How good a model is, beside recommending what is most popular; and whether that is good enough."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lfm_np.evaluation import beside, evaluate
from lfm_np.factors import Factors
from lfm_np.validation import check_float

DEFAULT = ("recall@10", "ndcg@10", "map@10", "mrr@10")


def compare(
    factors: Factors, train: Any, test: Any, metrics: Sequence[str], num_threads: int | None = None
) -> dict[str, list[Any]]:
    """A row for each metric: the model, its standard error, most popular, its standard error."""
    models = factors, beside(factors, train)
    found = [evaluate(model, train, test, metrics, num_threads=num_threads) for model in models]
    table: dict[str, list[Any]] = {"metric": list(metrics)}
    for name, values in zip(("model", "popular"), found):
        table[name] = [values[metric] for metric in metrics]
        table[f"{name}_se"] = [values[f"{metric}_se"] for metric in metrics]
    return table | {"users": [int(found[0]["users"])] * len(metrics)}


def parse_bounds(texts: Sequence[str]) -> dict[str, float]:
    """The least value of each metric, from texts such as ``recall@10=0.2``."""
    bounds = {}
    for text in texts:
        name, _, value = text.partition("=")
        try:
            bounds[name] = check_float("", float(value))
        except ValueError:
            raise ValueError(f"--at-least must be METRIC=NUMBER, such as recall@10=0.2; got {text}") from None
    return bounds
