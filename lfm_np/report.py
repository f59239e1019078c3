"""One page about one model: how good it is, what it looks like, what it recommends. Needs the extra ``plot``."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence, Set
from html import escape
from typing import Any, NamedTuple

import numpy as np

from lfm_np import plots
from lfm_np import validation as check
from lfm_np._version import __version__
from lfm_np.atomic import replacing
from lfm_np.evaluation import beside, evaluate
from lfm_np.factors import Factors
from lfm_np.plots.lists import item_counts
from lfm_np.plots.training import measured

METRICS = ("recall@10", "ndcg@10", "map@10", "mrr@10", "hit_rate@10")
LISTS = 20_000  # users whose lists the pictures of lists look at, at most
ITEMS, USERS, EACH = 8, 6, 5  # rows of the two tables of examples, and entries of a row

_STYLE = """
:root{color-scheme:light}body{font:15px/1.5 system-ui,sans-serif;color:#1f2937;background:#f8fafc;margin:0}
main{max-width:76rem;margin:auto;padding:1.5rem}h1{margin:.2em 0}h2{margin:2em 0 .6em;font-size:1.25rem}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(8rem,1fr));gap:.8rem;margin:1.2rem 0}
.card,figure,.table{background:#fff;border:1px solid #e2e8f0;border-radius:.5rem}
.card{padding:.6rem .9rem}.card b{display:block;font-size:1.3rem}.card span,figcaption,.note{color:#64748b}
.pictures{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(30rem,100%),1fr));gap:1rem}
figure{margin:0;padding:.8rem}figure.wide{grid-column:1/-1}figure img{width:100%;height:auto;display:block}
figure.wide img{max-width:60rem;margin:auto}figcaption{font-size:.9rem;margin-top:.5rem}
.table{overflow-x:auto}table{border-collapse:collapse;width:100%}
th,td{padding:.4rem .8rem;text-align:left;border-bottom:1px solid #eef2f7;vertical-align:top}
td.number,th.number{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}tr:last-child td{border:0}
"""


def write_report(
    path: str | os.PathLike[str],
    factors: Factors,
    train: Any,
    test: Any = None,
    *,
    labels: Sequence[Any] | None = None,
    title: str = "Latent factor model",
) -> None:
    """Write an HTML page that needs nothing else: no scripts, no other files, no network.

    Parameters
    ----------
    path : str or path
        Written in one step: a crash leaves the old page or the new one.
    factors : Factors
    train : Interactions or sparse matrix, shape (m, n)
        What the model was fitted to.
    test : Interactions or sparse matrix, shape (m, n), optional
        What was held out. With it, the page says how good the model is, beside recommending what is most popular.
    labels : sequence, shape (n,), optional
        A text for every item; by default the ids of ``train``, or numbers.
    title : str

    Raises
    ------
    MissingExtraError
        matplotlib is not installed.
    TypeError, ValueError, OSError
        A bad argument, or the page cannot be written.

    Notes
    -----
    The pictures of lists look at up to 20,000 users, evenly spaced; the metrics at all.
    """
    if not isinstance(factors, Factors):
        raise TypeError(f"factors must be a Factors, got {check.shown(factors)}")
    path = check.check_path("path", path)
    counts = item_counts("train", train, factors.shape)
    if not factors.shape[1]:
        raise ValueError(f"factors must have an item at least, got shape {factors.shape}")
    if labels is not None and (isinstance(labels, (str, Set, Mapping)) or not isinstance(labels, Collection)):
        raise TypeError(f"labels must be a sequence of texts, got {check.shown(labels)}")
    title = str(title)
    texts = _texts("items", train, factors.shape[1]) if labels is None else [str(label) for label in labels]
    if len(texts) != factors.shape[1]:
        raise ValueError(f"labels must have one entry for each of the {factors.shape[1]} items, got {len(texts)}")
    model = _Model(factors, train, test, counts, texts)
    body = "".join((_cards(model), _quality(model), _pictures(model), _alike(model), _examples(model), _origin(model)))
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        'style-src \'unsafe-inline\'"><meta name="viewport" content="width=device-width,initial-scale=1">'
        f'<title>{escape(title)}</title><link rel="icon" href="data:,"><style>{_STYLE}</style></head>'
        f"<body><main><h1>{escape(title)}</h1>{body}</main></body></html>\n"
    )
    with replacing(path) as file:
        file.write(page.encode(errors="replace"))  # half a surrogate pair, which UTF-8 lacks


class _Model(NamedTuple):
    factors: Factors
    train: Any
    test: Any
    counts: np.ndarray
    """(n,) interactions of each item."""
    items: list[str]
    """(n,) what to call each item."""


def _texts(side: str, data: Any, size: int) -> list[str]:
    """What to call the rows or columns: their ids, or their numbers."""
    return [str(value) for value in getattr(data, side, range(size))]


# ---- numbers --------------------------------------------------------------------------------------------------------


def _cards(model: _Model) -> str:
    (m, n), factors = model.factors.shape, model.factors
    total = int(model.counts.sum())
    facts = {
        "users": f"{m:,}",
        "items": f"{n:,}",
        "interactions": f"{total:,}",
        "of all cells": f"{total / max(m * n, 1):.3%}",
        "latent factors": f"{factors.user_factors.shape[1]:,}",
        "sweeps": f"{len(factors.history):,}",
        "seconds of training": f"{sum(record.get('seconds', 0.0) for record in factors.history):,.1f}",
        "ended": str(factors.status).replace("_", " "),
    }
    cards = (f'<div class="card"><b>{escape(value)}</b><span>{name}</span></div>' for name, value in facts.items())
    return f'<div class="cards">{"".join(cards)}</div>'


def _quality(model: _Model) -> str:
    if model.test is None:
        return ""
    rows, users = [], 0
    for name, factors in (("this model", model.factors), ("most popular", beside(model.factors, model.train))):
        found = evaluate(factors, model.train, model.test, METRICS)
        users = int(found["users"])
        rows.append([name, *(f"{found[metric]:.4f} ± {found[f'{metric}_se']:.4f}" for metric in METRICS)])
    note = f'<p class="note">Means over {users:,} users with held-out items, ± one standard error.</p>'
    return f"<h2>Quality on held-out interactions</h2>{_table(['', *METRICS], rows, numbers=True)}{note}"


def _origin(model: _Model) -> str:
    params = {"lfm_np": __version__, **(model.factors.params or {})}
    rows = [[str(name), str(value)] for name, value in params.items()]
    return f"<h2>How it was made</h2>{_table(['parameter', 'value'], rows)}"


def _table(head: list[str], rows: list[list[str]], *, numbers: bool = False) -> str:
    """A table; with ``numbers`` all columns but the first are flush right."""

    def line(cells: list[str], tag: str) -> str:
        kinds = ["", *[' class="number"' * numbers] * (len(cells) - 1)]
        return "<tr>" + "".join(f"<{tag}{kind}>{escape(cell)}</{tag}>" for kind, cell in zip(kinds, cells)) + "</tr>"

    body = "".join(line(cells, "td") for cells in rows)
    return f'<div class="table"><table><thead>{line(head, "th")}</thead><tbody>{body}</tbody></table></div>'


# ---- pictures -------------------------------------------------------------------------------------------------------


def _pictures(model: _Model) -> str:
    figures = "".join(
        f'<figure class="{"wide" if wide else ""}"><img alt="{escape(caption)}" src="{_picture(draw)}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
        for draw, caption, wide in _chosen(model)
    )
    return f'<h2>Pictures</h2><div class="pictures">{figures}</div>'


def _chosen(model: _Model) -> Iterator[tuple[Callable[[], Any], str, bool]]:
    """What to draw, what it says, and whether it takes the whole width."""
    factors, train, test = model.factors, model.train, model.test
    k = factors.user_factors.shape[1]
    history = factors.history
    if any(measured(factors) in record for record in history) and all("iteration" in record for record in history):
        yield lambda: plots.training_curve(factors), "What the solver minimises, after every sweep.", False
    if test is not None:
        both, labels = [factors, beside(factors, train)], ["this model", "most popular"]
        caption = "Recall at N: the share of held-out interactions among the first N recommended."
        yield lambda: plots.metric_at_n(both, train, test, "recall", labels=labels), caption, False
        caption = "NDCG at N: the same, where the first places count most."
        yield lambda: plots.metric_at_n(both, train, test, "ndcg", labels=labels), caption, False
    if k:
        caption = "Singular values of U Vᵀ. Flat at its end: more factors may help. A cliff: some are spare."
        yield lambda: plots.factor_spectrum(factors), caption, False
    users = np.unique(np.linspace(0, factors.shape[0] - 1, min(factors.shape[0], LISTS)).astype(np.int64))
    whose = f"{len(users):,} users"
    caption = f"Coverage: the share of items in the list of at least one of {whose}."
    yield lambda: plots.coverage(factors, train, users=users), caption, False
    caption = f"Popularity bias: who gets the first ten places of {whose}, beside who gets the interactions."
    yield lambda: plots.popularity_bias(factors, train, users=users), caption, False
    if k >= 2:
        caption = (
            "The most frequent items: neighbours are liked by the same users. Principal components of V's directions."
        )
        yield lambda: plots.item_map(factors, labels=model.items, counts=model.counts), caption, True


def _picture(draw: Callable[[], Any]) -> str:
    """The picture in a URL of its own."""
    file = io.BytesIO()
    draw().figure.savefig(file, format="png", dpi=160)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


# ---- examples -------------------------------------------------------------------------------------------------------


def _alike(model: _Model) -> str:
    if not model.factors.user_factors.shape[1]:
        return ""
    chosen = np.argsort(-model.counts, kind="stable")[:ITEMS]
    found = model.factors.similar_items(chosen, N=min(EACH + 1, model.factors.shape[1]))
    rows = []
    for item, ids, scores in zip(chosen, found.ids, found.scores):
        others = [f"{model.items[i]} ({score:.2f})" for i, score in zip(ids, scores) if i != item]
        rows.append([model.items[item], f"{model.counts[item]:,}", " · ".join(others[:EACH])])
    return f"<h2>Similar items</h2>{_table(['item', 'interactions', 'most similar (cosine)'], rows)}"


def _examples(model: _Model) -> str:
    _, indptr, indices = check.check_seen("train", model.train, np.arange(model.factors.shape[0]), model.factors.shape)
    enough = np.flatnonzero(np.diff(indptr) >= min(3, np.diff(indptr).max(initial=0)))
    chosen = enough[np.unique(np.linspace(0, len(enough) - 1, min(USERS, len(enough))).astype(np.int64))]
    names = _texts("users", model.train, model.factors.shape[0])
    rows = []
    for user, ids in zip(chosen, model.factors.recommend(chosen, N=EACH, seen=model.train).ids):
        own = indices[indptr[user] : indptr[user + 1]]
        known = own[np.argsort(model.counts[own], kind="stable")][:EACH]
        more = f" and {len(own) - len(known):,} more" if len(own) > len(known) else ""
        best = (model.items[i] for i in ids if i >= 0)
        rows.append([names[user], " · ".join(model.items[i] for i in known) + more, " · ".join(best)])
    return f"<h2>Recommendations</h2>{_table(['user', 'has (the rarest first)', 'is recommended'], rows)}"
