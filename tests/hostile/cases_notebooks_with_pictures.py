"""Small analyses that end in pictures and pages: the numbers that curves, points and tables show."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from html import unescape
from typing import Any

import numpy as np
import scipy.sparse as sp

import lfm_np as library

from .case import Case, Group, installed
from .cases_notebooks_of_judgements import drawn_model, masks, most_popular, of_all
from .working_days import all_scores, best, close, csr, faultless, folder, raised, stars, tells, wrong

lfm_np: Any = library
_GROUP = Group("analysts' pictures")
_holds = faultless(_GROUP)


def _only_line(ax: Any) -> tuple[np.ndarray, np.ndarray]:
    x, y = ax.get_lines()[0].get_data()
    return np.asarray(x, float), np.asarray(y, float)


def _plots() -> Any:
    return importlib.import_module("lfm_np.plots")


def _covered() -> list[str]:
    """The share of the catalogue in lists of every length, by sets; for some users, and with seen items out."""
    model = drawn_model(12, 31, 3, 15, biases=True)
    seen = masks(12, 31, 16)[0]
    facts: dict[str, Any] = {}
    for N, users in ((31, None), (40, [2, 7, 9]), (1, [5])):
        x, y = _only_line(_plots().coverage(model, sp.csr_array(seen.astype(float)), N=N, users=users))
        S = all_scores(model)
        lists = [best(S[u], ~seen[u], N) for u in (range(12) if users is None else users)]
        mine = {k: len({i for row in lists for i in row[:k] if i >= 0}) / 31 for k in range(1, N + 1)}
        scale = 100.0 if y.max() > 1 + 1e-9 else 1.0
        found = {round(k): v / scale for k, v in zip(x, y, strict=True) if k >= 1}
        facts[f"{N} {users}"] = bool(found) and all(abs(found[k] - mine[min(k, N)]) < 1e-9 for k in found)
        facts[f"longest {N} {users}"] = max(found) in (N, min(N, 31))
    return wrong(**facts)


def _spectrum() -> list[str]:
    """Singular values of the scores without biases, of two models of unlike k."""
    two = [drawn_model(9, 14, 4, 17), drawn_model(20, 6, 3, 18, biases=True)]
    lines = _plots().factor_spectrum(two, labels=["four", "three"]).get_lines()
    facts: dict[str, Any] = {"two": len(lines) == 2}
    for model, line in zip(two, lines, strict=True):
        k = model.user_factors.shape[1]
        mine = np.linalg.svd(model.user_factors @ model.item_factors.T, compute_uv=False)[:k]
        y = np.asarray(line.get_ydata(), float)
        facts[f"values {k}"] = close(y, mine, 1e-6)
        facts[f"places {k}"] = np.asarray(line.get_xdata()).tolist() == list(range(1, k + 1))
        facts[f"label {k}"] = line.get_label() in ("four", "three")
    return wrong(**facts)


def _curve_of_a_metric() -> list[str]:
    """Means at cutoffs within and beyond the catalogue, and a band of one standard error."""
    model = drawn_model(18, 12, 3, 19)
    train, test = masks(18, 12, 20)
    cutoffs = (1, 3, 12, 50)
    mine = of_all(all_scores(model), train, test, *cutoffs)
    X, Y = (sp.csr_array(part.astype(float)) for part in (train, test))
    ax = _plots().metric_at_n(model, X, Y, "ndcg", N=cutoffs)
    x, y = _only_line(ax)
    corners = np.concatenate([path.vertices for band in ax.collections for path in band.get_paths()])
    found = {(round(float(a)), round(float(b), 9)) for a, b in corners}
    edges = {(k, round(mine[f"ndcg@{k}"] + s * mine[f"ndcg@{k}_se"], 9)) for k in cutoffs for s in (-1, 1)}
    near = all(any(k == a and abs(v - b) < 1e-7 for a, b in found) for k, v in edges)
    return wrong(x=x.tolist() == list(cutoffs), y=close(y, [mine[f"ndcg@{k}"] for k in cutoffs], 1e-12), band=near)


def _shares_of_places() -> list[str]:
    """Items of unlike popularity: the first j have so much of the cells, and of the places in lists."""
    n, m = 8, 40
    order = np.array([3, 6, 0, 7, 1, 5, 2, 4])
    seen = np.zeros((m, n), bool)
    for place, i in enumerate(order):
        seen[: 26 - 3 * place, i] = True
    seen[::2] = np.roll(seen[::2], 5, axis=0)
    model = drawn_model(m, n, 2, 21)
    ax = _plots().popularity_bias(model, sp.csr_array(seen.astype(float)), N=2)
    counted = seen.sum(0)[order].astype(float)
    S = all_scores(model)
    places = np.zeros(n)
    for u in range(m):
        for i in best(S[u], ~seen[u], 2):
            if i >= 0:
                places[i] += 1
    chosen, given = (np.cumsum(a) / a.sum() for a in (counted, places[order]))
    facts: dict[str, Any] = {"unlike": len(set(counted.tolist())) == n}
    for name, style, mine in (("chosen", "--", chosen), ("given", "-", given)):
        lines = [line for line in ax.get_lines() if line.get_linestyle() == style and len(line.get_xdata()) >= n]
        facts[f"one {name}"] = len(lines) == 1
        for line in lines:
            x, y = (np.asarray(a, float) for a in line.get_data())
            x, y = x / x.max(), y / y.max()
            facts[name] = close(np.interp(np.arange(1, n + 1) / n, x, y), mine, 1e-9)
    return wrong(**facts)


def _objective_by_seconds() -> list[str]:
    def measure(record: dict[str, Any], factors: Any) -> None:
        record["odd"] = -record["iteration"]

    fit = lfm_np.als(csr(stars()), factors=3, iterations=4, random_state=9, callback=measure)
    seconds = np.cumsum([record["seconds"] for record in fit.history])
    x, y = _only_line(_plots().training_curve(fit, by="seconds"))
    a, b = _only_line(_plots().training_curve(fit, measure="odd"))
    error = raised(lambda: _plots().training_curve(fit, measure="even"))
    return wrong(
        seconds=close(x, seconds, 1e-12),
        objective=y.tolist() == [record["objective"] for record in fit.history],
        odd=a.tolist() == [record["iteration"] for record in fit.history] and b.tolist() == (-a).tolist(),
        none=isinstance(error, ValueError) and tells(error, "even"),
    )


def _map_of_items() -> list[str]:
    """Principal components of rows of length one, of those shown only, mirrored so that the largest is positive."""
    draw = np.random.default_rng(22)
    V = draw.normal(size=(30, 4)) * np.array([3.0, 2, 1, 0.5])
    model = lfm_np.Factors(draw.normal(size=(5, 4)), V)
    shown = np.array([4, 29, 0, 11, 13, 7, 8, 21, 22, 5])
    unit = V[shown] / np.sqrt((V[shown] ** 2).sum(1))[:, None]
    centred = unit - unit.mean(0)
    mine = centred @ np.linalg.svd(centred)[2][:2].T
    ax = _plots().item_map(model, items=shown, labels=[f"film {i}" for i in range(30)])
    points = np.asarray(ax.collections[0].get_offsets(), float)
    texts = {text.get_text() for text in ax.texts}
    moved = points - points.mean(0)
    moved *= np.sign((moved * mine).sum(0))
    return wrong(
        number=points.shape == (10, 2),
        places=close(moved, mine, 1e-6),
        mirrored=(points[abs(points).argmax(0), [0, 1]] > 0).all(),
        labels=bool(texts) and texts <= {f"film {i}" for i in shown},
    )


def _charts_cover() -> list[str]:
    """The charts show as many items as a list is long; beside them a model that gives everybody an item of his own."""
    seen = sp.csr_array(np.triu(np.ones((6, 6))))
    popular = most_popular(seen)
    each = lfm_np.Factors(np.eye(6), np.eye(6))
    ax = _plots().coverage([popular, each], N=6, labels=["charts", "own"])
    lines = {line.get_label(): [np.asarray(a, float) for a in line.get_data()] for line in ax.get_lines()}
    scale = max(1.0, lines["own"][1].max())
    charts, own = (dict(zip(x.tolist(), (y / scale).tolist(), strict=True)) for x, y in (lines["charts"], lines["own"]))
    return wrong(
        charts=all(abs(charts[k] - k / 6) < 1e-9 for k in charts if k),
        own=all(abs(own[k] - 1) < 1e-9 for k in own if k),
    )


def _strongest_factors() -> list[str]:
    """The first two canonical factors as they are, but for their signs."""
    fit = lfm_np.als(csr(stars(25, 12, 23)), factors=4, iterations=3, dtype="float64", random_state=10)
    V = fit.item_factors
    G = V.T @ V
    points = np.asarray(_plots().item_map(fit, view="factors", items=np.arange(12)).collections[0].get_offsets(), float)
    signs = np.sign((points * V[:, :2]).sum(0))
    return wrong(
        canonical=abs(G - np.diag(np.diag(G))).max() < 1e-8 * G.max() and (np.diff(np.diag(G)) <= 0).all(),
        places=close(points * signs, V[:, :2], 1e-9),
        mirrored=(points[abs(points).argmax(0), [0, 1]] > 0).all(),
    )


def _most_frequent() -> list[str]:
    """Of 520 items the 500 most frequent, and at most 40 names of those."""
    draw = np.random.default_rng(24)
    model = lfm_np.Factors(np.ones((2, 2)), draw.normal(size=(520, 2)))
    counts = draw.permutation(520) + 1
    ax = _plots().item_map(model, counts=counts, labels=[str(c) for c in counts])
    points = np.asarray(ax.collections[0].get_offsets(), float)
    V = model.item_factors[counts > 20]
    unit = V / np.sqrt((V**2).sum(1))[:, None]
    mine = (unit - unit.mean(0)) @ np.linalg.svd(unit - unit.mean(0), full_matrices=False)[2].T
    moved = points - points.mean(0)
    named = [int(text.get_text()) for text in ax.texts]
    which = [
        any(close(np.sort(sign * moved[:, axis]), np.sort(mine[:, axis]), 1e-6) for sign in (-1, 1)) for axis in (0, 1)
    ]
    return wrong(
        number=points.shape == (500, 2),
        which=all(which),
        names=0 < len(named) <= 40 and max(named) == 520 and min(named) > 20,
    )


def _page() -> list[str]:
    """Whatever metrics the page names, their numbers are there, of the model and of the charts."""
    pairs = lfm_np.datasets.make_interactions(60, 30, 8, random_state=25)
    data = lfm_np.Interactions.from_arrays(pairs[:, 0], pairs[:, 1])
    train, test = data.split("random", test_fraction=0.4, random_state=26)
    fit = lfm_np.als(train, factors=4, iterations=2, dtype="float64", random_state=11)
    report = importlib.import_module("lfm_np.report")
    labels = [f"<film & {i}>" for i in range(len(data.items))]
    with folder() as place:
        report.write_report(place / "page.html", fit, train, test, labels=labels, title='A <b> & "c"')
        page = (place / "page.html").read_text("utf-8")
    text = re.sub(r"(?s)<svg.*?</svg>|data:[^\"']*|<style.*?</style>", " ", page)
    words = unescape(re.sub(r"<[^>]*>", " ", text))
    words_of_metrics = r"\b(?:recall|ndcg|map|mrr|precision|hit_rate)@\d+|\bauc\b"
    named = set(re.findall(words_of_metrics, words.lower()))
    cutoffs = sorted({int(name.split("@")[1]) for name in named if "@" in name})
    numbers = [(float(n), len(n.split(".")[1])) for n in re.findall(r"\d+\.\d+", words)]
    a, b = (np.asarray(part.matrix.toarray() > 0) for part in (train, test))
    facts: dict[str, Any] = {"some": bool(named)}
    for kind, model in (("model", fit), ("charts", most_popular(train))):
        mine = of_all(all_scores(model), a, b, *cutoffs)
        for name in named:
            facts[f"{name} {kind}"] = any(
                abs(n / scale - mine[name]) <= 0.501 * 10.0**-digits / scale
                for n, digits in numbers
                for scale in (1.0, 100.0)
                if digits + (scale > 1) * 2 > 2
            )
    return wrong(
        title='A <b> & "c"' in words and "<b> &" not in page,
        labels="<film & " in words and "<film" not in page,
        alone="<script" not in page.lower() and not re.search(r"src=[\"']?https?:", page),
        **facts,
    )


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    if installed("matplotlib"):
        yield _holds("how much of the catalogue is shown, by sets", _covered)
        yield _holds("spectra of two models", _spectrum)
        yield _holds("a metric and its band at four cutoffs", _curve_of_a_metric)
        yield _holds("places of lists by popularity", _shares_of_places)
        yield _holds("objectives by seconds, and a measure of one's own", _objective_by_seconds)
        yield _holds("a map of some items", _map_of_items)
        yield _holds("the charts beside items of one's own", _charts_cover)
        yield _holds("the two strongest factors", _strongest_factors)
        yield _holds("the most frequent of many items", _most_frequent)
        yield _holds("a page and its numbers", _page)
