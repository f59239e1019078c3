"""A reviewer's programs, each to show a promise of the pages false: pictures, the report, what `check` says."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp

from .case import Case, Group, installed
from .cases_reviewers_bench_of_losses import Contrast, Flat, OnTheSphere, Ranked, Tempered
from .sentences_by_numpy import lfm_np, losses, near, ranked
from .working_days import NAN, csr, faultless, folder, judged, stars, wrong

_GROUP = Group("the reviewer's bench")
_holds = faultless(_GROUP)


class Naive(NamedTuple):
    """log(1 + eˢ) as nobody should write it."""

    def value(self, difference: float) -> float:
        return math.log(1.0 + math.exp(-difference))

    def gradient(self, difference: float) -> float:
        return -1.0 / (1.0 + math.exp(difference))


class LateMistake(Flat):
    """Right for the target of a stored cell."""

    def gradient(self, score: float, target: float) -> float:
        return (2.0 * self.up if target > 0.0 else self.down) * (score - target)


class LastMistake(Contrast):
    """Right but for the last of the negatives."""

    def gradient(self, positive: float, negatives: np.ndarray) -> tuple[float, np.ndarray]:
        pulls = np.empty(len(negatives))
        total = 1.0
        for m in range(len(negatives)):
            pulls[m] = math.exp(min((negatives[m] - positive) / self.temperature, 700.0))
            total += pulls[m]
        pulls /= total * self.temperature
        positive_slope = -pulls.sum()
        pulls[len(negatives) - 1] *= 1.125
        return positive_slope, pulls


def _curves_by_seconds() -> list[str]:
    """Pictures: `plots.training_curve(both, labels=labels, by="seconds", measure="ndcg@10")` - where one of both was
    broken off: 'seconds are summed over the sweeps'."""
    X = csr(stars(20, 9, 1))

    def mark(record: dict[str, Any], factors: Any) -> None:
        record["mark"] = 10.0 - record["iteration"] ** 2

    with folder() as place:
        words: dict[str, Any] = {"factors": 2, "random_state": 0, "callback": mark, "checkpoint": place / "c"}
        lfm_np.als(X, iterations=2, **words)
        one = lfm_np.als(X, iterations=5, **words)
    two = lfm_np.sgd(X, factors=2, epochs=3, random_state=0, callback=mark)
    ax = lfm_np.plots.training_curve([one, two], labels=["broken <off>", "whole"], by="seconds", measure="mark")
    lines, faults = {line.get_label(): line for line in ax.get_lines()}, []
    for name, fit, marks in (("broken <off>", one, (9, 6, 1, -6, -15)), ("whole", two, (9, 6, 1))):
        line = lines[name]
        faults += wrong(
            **{
                f"seconds {name}": near(line.get_xdata(), np.cumsum([r["seconds"] for r in fit.history]), 1e-12),
                f"marks {name}": np.array_equal(line.get_ydata(), marks),
            }
        )
    return faults + wrong(labels=[t.get_text() for t in ax.get_legend().get_texts()] == ["broken <off>", "whole"])


def _whole_model(m: int, n: int, seed: int) -> tuple[Any, np.ndarray]:
    draw = np.random.default_rng(seed)
    U, V = draw.integers(-3, 4, (m, 3)).astype(float), draw.integers(-3, 4, (n, 3)).astype(float)
    d = draw.integers(-2, 3, n).astype(float)
    return lfm_np.Factors(U, V, item_bias=d, global_bias=0.5), U @ V.T + d + 0.5


def _metric_beyond() -> list[str]:
    """Pictures: `plots.metric_at_n(both, train, test, "recall")`, with cutoffs beyond the items."""
    models = [_whole_model(11, 8, seed) for seed in (2, 3)]
    draw = np.random.default_rng(4)
    train, test = draw.random((11, 8)) < 0.3, draw.random((11, 8)) < 0.4
    faults = []
    for metric in ("recall", "ndcg", "map"):
        ax = lfm_np.plots.metric_at_n(
            [f for f, _ in models], sp.csr_array(train * 1.0), sp.csr_array(test * 1.0), metric, N=(1, 3, 8, 50)
        )
        for (_, S), line, name in zip(models, ax.get_lines()[:2], "ab", strict=True):
            mine = [judged(S, train, test, k)[f"{metric}@{k}"] for k in (1, 3, 8, 50)]
            faults += wrong(
                **{
                    f"{metric} {name}": near(line.get_ydata(), mine, 1e-12),
                    f"cutoffs of {metric} {name}": np.array_equal(line.get_xdata(), [1, 3, 8, 50]),
                }
            )
    return faults


def _coverage_of_some() -> list[str]:
    """Pictures: 'How much of the catalogue is ever shown?' - of some users, with biases, N beyond the items: 'The
    share of all items that are in the list of at least one user'."""
    factors, S = _whole_model(9, 8, 5)
    seen = np.random.default_rng(6).random((9, 8)) < 0.5
    seen[[1, 7], 3] = True
    ax = lfm_np.plots.coverage(factors, sp.csr_array(seen * 1.0), N=20, users=[7, 1])
    lists = [ranked(S[u], np.flatnonzero(~seen[u]), 20) for u in (7, 1)]
    line = ax.get_lines()[0]
    x, y = np.asarray(line.get_xdata()).astype(int), np.asarray(line.get_ydata())
    mine = [len({i for one in lists for i in one[:N]} - {-1}) / 8 for N in x]
    return wrong(many=x.max() >= 8, shares=near(y, mine, 1e-12), never_seen=y[-1] < 1)


def _places_by_popularity() -> list[str]:
    """Pictures: 'The dashed curve is what users chose', a solid one who gets the places; 'Along the axis lies the
    share of items, most popular first'."""
    m, counts = 10, (2, 9, 1, 7, 3, 5)
    seen = np.zeros((m, 6), bool)
    for i, count in enumerate(counts):
        seen[(np.arange(count) + 2 * i) % m, i] = True
    factors, S = _whole_model(m, 6, 7)
    ax = lfm_np.plots.popularity_bias(factors, sp.csr_array(seen * 1.0), N=2)
    order = np.argsort(-np.array(counts))
    places = np.zeros(6)
    for u in range(m):
        for i in ranked(S[u], np.flatnonzero(~seen[u]), 2):
            places[i] += i >= 0
    faults = []
    for name, dashed, total in (("chosen", True, np.array(counts, float)), ("places", False, places)):
        lines = [line for line in ax.get_lines() if (line.get_linestyle() == "--") == dashed]
        mine = np.cumsum(total[order]) / total.sum()
        found = [np.interp(np.arange(1, 7) / 6, line.get_xdata(), line.get_ydata()) for line in lines]
        faults += wrong(**{name: any(near(y, mine, 1e-9) for y in found)})
    return faults


def _spectrum_after_updates() -> list[str]:
    """Pictures: 'The singular values of U Vᵀ' - of a model that was updated and is no longer in its canonical basis."""
    X = csr(stars(14, 9, 8))
    fit = lfm_np.als(X, factors=4, random_state=1, dtype="float64", regularization=0.5)
    new = fit.update(X[[3, 4, 5]], users=[15, 2, 14]).update(csr(stars(16, 1, 9)), items=[9])
    mine = np.linalg.svd(new.user_factors @ new.item_factors.T, compute_uv=False)[:4]
    y = lfm_np.plots.factor_spectrum(new).get_lines()[0].get_ydata()
    return wrong(values=near(y, mine, 1e-7))


def _map_of_many() -> list[str]:
    """Pictures: 'The 500 most frequent items … The 40 most frequent that find room are labelled', with the colour of
    `counts`; the two directions are principal components of V[i] / ‖V[i]‖, 'Mirrored such that the largest …
    is positive'."""
    draw = np.random.default_rng(10)
    V, counts = draw.normal(size=(530, 5)) * [3, 2, 1, 1, 1], draw.permutation(530) + 1
    ax = lfm_np.plots.item_map(
        lfm_np.Factors(draw.normal(size=(4, 5)), V), labels=[f"film {i}" for i in range(530)], counts=counts
    )
    shown = np.argsort(-counts)[:500]
    Y = V[shown] / np.linalg.norm(V[shown], axis=1)[:, None]
    _, _, axes = np.linalg.svd(Y - Y.mean(0), full_matrices=False)
    both = []
    for P in (Y @ axes[:2].T, (Y - Y.mean(0)) @ axes[:2].T):
        both.append(P * np.sign(P[abs(P).argmax(0), [0, 1]]))
    points = np.vstack([np.asarray(c.get_offsets()) for c in ax.collections])
    found = points[np.lexsort(points.T)]
    names = [t.get_text() for t in ax.texts]
    most = [f"film {i}" for i in shown[:40]]
    return wrong(
        number=points.shape == (500, 2),
        places=any(near(found, P[np.lexsort(P.T)], 1e-6) for P in both),
        first=most[0] in names,
        labels=0 < len(names) <= 40 and set(names) <= {f"film {i}" for i in shown},
    )


def _page(kind: str) -> list[str]:
    """Pictures: 'It needs no script, no other file and no network' - the report of a folded-in model of ratings with
    biases, of three items, with labels and a title that HTML reads otherwise."""
    D = np.array([[5.0, 3, NAN], [NAN, 1, 4], [2, NAN, NAN], [4, 4, 1], [NAN, 2, 5]])
    words: dict[str, Any] = {"factors": 1, "random_state": 0, "iterations": 3}
    if kind == "ratings":
        words |= {"weighting": "ratings", "biases": True}
    fit = lfm_np.als(csr(D), **words)
    rows = np.array([[4.0, NAN, NAN], [NAN, 5.0, 1.0]])
    model = fit.fold_in_users(csr(rows))
    labels = ["Tom & <b>Jerry</b>", "a<script>x", "“ü” for $5_$"]
    test = csr(np.array([[NAN, 1.0, NAN], [1.0, NAN, NAN]])) if kind != "no test" else None
    with folder() as place:
        lfm_np.report.write_report(place / "p.html", model, csr(rows), test, labels=labels, title="x < y & <i>z")
        page = (place / "p.html").read_text(encoding="utf-8")
        left = [p.name for p in place.iterdir()]
    low = page.lower()
    return wrong(
        title="x &lt; y &amp; &lt;i&gt;z" in page and "<i>z" not in page,
        labels="Tom &amp; &lt;b&gt;Jerry&lt;/b&gt;" in page and "<b>Jerry" not in page,
        letters="“ü” for $5_$" in page,
        script="<script" not in low,
        network=low.count("<link") == low.count('<link rel="icon" href="data:,">')
        and not any(f'src="{there}' in low for there in ("http", "//", "file:")),
        alone=left == ["p.html"],
        quality=("recall@10" in page) == (kind != "no test"),
    )


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    check = losses.check
    sound = (Tempered(), Ranked(1.0, 2.0), Flat(0.5, 3.0), Contrast(2.5), OnTheSphere())
    yield _GROUP.right("check is silent about five sound ones", lambda: [check(x) for x in sound] == [None] * 5, bool)
    yield _GROUP.refused("check of an exponential", lambda: check(Naive()), "finite|inf", "1000", kind=ValueError)
    yield _GROUP.refused(
        "check of a slope at one target", lambda: check(LateMistake(1.0, 2.0)), "gradient", kind=ValueError
    )
    yield _GROUP.refused(
        "check of a slope of one negative", lambda: check(LastMistake(1.0)), "gradient", kind=ValueError
    )
    if installed("matplotlib"):
        yield _holds("curves by seconds, one of a fit that was broken off", _curves_by_seconds)
        yield _holds("a metric at cutoffs beyond the items", _metric_beyond)
        yield _holds("the coverage of some users' lists, N beyond the items", _coverage_of_some)
        yield _holds("places by popularity", _places_by_popularity)
        yield _holds("the spectrum of a model that was updated twice", _spectrum_after_updates)
        yield _holds("a map of the 500 most frequent", _map_of_many)
        for kind in ("ratings", "no test"):
            yield _holds(f"the report of a folded-in model of three items: {kind}", lambda k=kind: _page(k))
