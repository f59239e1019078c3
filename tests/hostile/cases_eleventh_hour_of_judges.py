"""Programs that judge, rank and draw models: metrics by counting, lists by sorting, curves by their numbers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import scipy.sparse as sp

import lfm_np as _library

from .case import Case, Group, installed
from .working_days import best, close, faultless, folder, judged, wrong

lfm_np: Any = _library
losses: Any = _library.losses
_GROUP = Group("eleventh hour")
_holds = faultless(_GROUP)
METRICS = ("recall", "capped_recall", "precision", "hit_rate", "ndcg", "map", "mrr")


def _bits(factors: Any) -> np.ndarray:
    """All scores, by `scores`."""
    m, n = factors.shape
    S: np.ndarray = factors.scores(np.repeat(range(m), n), np.tile(range(n), m)).reshape(m, n)
    return S


def _model(m: int = 18, n: int = 14, k: int = 3, seed: int = 0, **biases: Any) -> Any:
    """Whole numbers, so that many scores are equal."""
    draw = np.random.default_rng(seed)
    U, V = draw.integers(-2, 3, (m, k)).astype(float), draw.integers(-2, 3, (n, k)).astype(float)
    return lfm_np.Factors(U, V, **biases)


def _masks(m: int = 18, n: int = 14, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    return draw.random((m, n)) < 0.3, draw.random((m, n)) < 0.25


def _whole(ks: tuple[int, ...]) -> list[str]:
    """Ties, test items that were learnt from, users without any, k beyond what there is."""
    factors = _model(item_bias=np.arange(14.0) % 2)
    learn, test = _masks()
    test[4] = False
    names = [f"{name}@{k}" for name in METRICS for k in ks] + ["auc", "mrr"]
    found = lfm_np.evaluate(factors, sp.csr_array(learn * 2.0), sp.csr_array(test * 1.0), names)
    mine: dict[str, float] = {}
    for k in ks:
        mine |= judged(_bits(factors), learn, test, k)
    return [
        name
        for name in names
        if not close(found[name], mine[name], 1e-12) or abs(found[f"{name}_se"] - mine[f"{name}_se"]) > 1e-9
    ] + wrong(users=found["users"] == mine["users"], keys=set(found) == {*names, *(f"{n}_se" for n in names), "users"})


def _without_cutoff() -> list[str]:
    """ndcg and map of the whole ranking are those of a cutoff at its end; nothing learnt from."""
    factors = _model(seed=3, user_bias=np.arange(18.0))
    _, test = _masks(seed=4)
    found = lfm_np.evaluate(factors, None, sp.csr_array(test * 3.0), ["ndcg", "map", "mrr", "auc"])
    mine = judged(_bits(factors), np.zeros_like(test), test, 14)
    return wrong(
        ndcg=close(found["ndcg"], mine["ndcg@14"], 1e-12), map=close(found["map"], mine["map@14"], 1e-12),
        mrr=close(found["mrr"], mine["mrr"], 1e-12), auc=close(found["auc"], mine["auc"], 1e-12),
    )  # fmt: skip


def _few() -> list[str]:
    """One user has no standard error; who has nothing else to rank has no AUC."""
    V = np.array([[3.0], [2.0], [1.0]])
    factors = lfm_np.Factors(np.ones((2, 1)), V)
    learn, test = np.array([[1.0, 0, 0], [0, 0, 0]]), np.array([[0, 1.0, 1], [0, 0, 1]])
    both = lfm_np.evaluate(factors, sp.csr_array(learn), sp.csr_array(test), ["auc", "ndcg@2", "recall@9"])
    one = lfm_np.evaluate(factors, sp.csr_array(learn), sp.csr_array(test * [[1], [0]]), ["ndcg@2"])
    return wrong(
        auc=both["auc"] == 0.0 and np.isnan(both["auc_se"]), users=both["users"] == 2, one=np.isnan(one["ndcg@2_se"]),
        ndcg=close([one["ndcg@2"], both["ndcg@2"]], [1.0, 0.5], 1e-12), recall=both["recall@9"] == 1.0,
    )  # fmt: skip


def _ranked(n: int, k: int, N: int, dtype: str, kind: str) -> list[str]:
    """The lists are those of sorting every score, whatever the bounds say."""
    draw = np.random.default_rng(n + k)
    U, V = draw.normal(size=(9, k)), draw.normal(size=(n, k))
    biases: dict[str, Any] = {}
    if kind == "sizes":
        U, V = U * 10.0 ** draw.integers(-6, 7, (9, 1)), V * 10.0 ** draw.integers(-9, 10, (n, 1))
    elif kind == "twins":
        V = V[draw.integers(0, max(1, n // 8), n)]
    elif kind == "negative":
        U, V = abs(U), -abs(V)
        biases = {"item_bias": draw.normal(size=n).astype(dtype), "user_bias": draw.normal(size=9).astype(dtype)}
    elif kind == "one direction":
        V = np.outer(draw.normal(size=n), draw.normal(size=k)) + 1e-5 * V
    elif kind == "biases above all":
        biases = {"item_bias": (draw.integers(0, 4, n) * 1e4).astype(dtype), "global_bias": -7.5}
    factors = lfm_np.Factors(U.astype(dtype), V.astype(dtype), **biases)
    seen = draw.random((9, n)) < 0.2
    seen[3] = True
    S = _bits(factors)
    ids, scores = factors.recommend(range(9), N=N, seen=sp.csr_array(seen * 1.0))
    mine = [best(s, ~row, N) for s, row in zip(S, seen, strict=True)]
    got = np.where(ids < 0, -np.inf, np.take_along_axis(S, np.maximum(ids, 0), 1))
    return wrong(ids=ids.tolist() == mine, scores=np.array_equal(scores, got), none=(ids[3] == -1).all())


def _among_drawn() -> list[str]:
    """Ranks among 6 given items: repeated ones once, stored ones not at all, −1 for none."""
    draw = np.random.default_rng(3)
    learn, test = draw.random((15, 12)) < 0.2, draw.random((15, 12)) < 0.1
    test[:, 3] |= ~learn[:, 3]
    negatives = draw.integers(-1, 12, (15, 6))
    negatives[:, 5] = negatives[:, 0]
    fit = lfm_np.sgd(sp.csr_array(learn * 1.0), losses.BPR(), factors=3, epochs=3, biases="item", random_state=1)
    asked = np.zeros((15, 12), bool)
    for u, row in enumerate(negatives):
        asked[u, row[row >= 0]] = True
    out = ~(asked | test) | learn
    names = ["hit_rate@2", "ndcg@3", "mrr", "auc"]
    found = lfm_np.evaluate(fit, sp.csr_array(learn * 1.0), sp.csr_array(test * 1.0), names, negatives=negatives)
    mine: dict[str, float] = {}
    for k in (2, 3):
        mine |= judged(_bits(fit).astype(float), out, test, k)
    return wrong(
        **{name: close(found[name], mine[name], 1e-12) for name in names}, users=found["users"] == mine["users"]
    )


def _cosines() -> list[str]:
    """Factors of length one: lists by score are lists by cosine, and an item's neighbours are its inner products'."""
    X = (np.random.default_rng(8).random((40, 12)) < 0.4) * 1.0
    loss = losses.CosineContrastive(0.2, 2.0)
    fit = lfm_np.sgd(sp.csr_array(X), loss, negatives=6, factors=4, epochs=4, schedule="adagrad", random_state=2)
    U, V = fit.user_factors.astype(float), fit.item_factors.astype(float)
    ids, scores = fit.recommend(range(40), N=12)
    near, cosines = fit.similar_items([3, 7], N=4)
    return wrong(
        length=close((U**2).sum(1), np.ones(40), 1e-5) and close((V**2).sum(1), np.ones(12), 1e-5),
        scores=close(scores, np.take_along_axis(U @ V.T, ids, 1), 1e-5) and bool((np.diff(scores) <= 0).all()),
        near=near[:, 0].tolist() == [3, 7] and close(cosines, np.take_along_axis((V @ V.T)[[3, 7]], near, 1), 1e-5),
    )


def _axes() -> Any:
    from matplotlib.figure import Figure

    return Figure().subplots()


def _lines(axes: Any) -> list[tuple[np.ndarray, np.ndarray]]:
    return [(np.asarray(line.get_xdata(), float), np.asarray(line.get_ydata(), float)) for line in axes.lines]


def _curve_of_metric(metric: str) -> list[str]:
    """Means of two models at every cutoff, in the order asked."""
    models = [_model(seed=3), lfm_np.evaluation.most_popular(sp.csr_array(_masks()[0] * 1.0))]
    learn, test = _masks()
    N = (1, 3, 4, 11)
    train, held = sp.csr_array(learn * 1.0), sp.csr_array(test * 1.0)
    axes = lfm_np.plots.metric_at_n(models, train, held, metric, N=N, labels=["<a>", "b"], ax=_axes())
    mine = [[judged(_bits(model), learn, test, k)[f"{metric}@{k}"] for k in N] for model in models]
    drawn = _lines(axes)
    return wrong(
        curves=all(any(np.array_equal(x, N) and close(y, m, 1e-12) for x, y in drawn) for m in mine),
        labels={"<a>", "b"} <= {line.get_label() for line in axes.lines},
    )


def _covered() -> list[str]:
    """How many items somebody is shown, by the length of the lists, of chosen users."""
    factors, (learn, _) = _model(n=25, seed=5), _masks(n=25)
    users = [0, 3, 17]
    axes = lfm_np.plots.coverage(factors, sp.csr_array(learn * 1.0), N=6, users=users, ax=_axes())
    S = _bits(factors)
    lists = np.array([best(S[u], ~learn[u], 6) for u in users])
    mine = {k: len(set(lists[:, :k].ravel().tolist()) - {-1}) / 25 for k in range(7)}
    return wrong(
        curve=any(all(close(y[i], mine[int(a)], 1e-12) for i, a in enumerate(x)) for x, y in _lines(axes) if len(x) > 1)
    )


def _charts() -> list[str]:
    """Places by popularity: what is recommended, beside what was chosen."""
    draw = np.random.default_rng(2)
    X = np.zeros((30, 10))
    for item, count in enumerate(draw.permutation(np.arange(2, 22, 2))):
        X[draw.permutation(30)[:count], item] = 1.0
    factors = _model(m=30, n=10, seed=6)
    axes = lfm_np.plots.popularity_bias(factors, sp.csr_array(X), N=3, ax=_axes())
    S, order = _bits(factors), np.argsort(-X.sum(0))
    shown = np.zeros(10)
    for s, row in zip(S, X, strict=True):
        for item in best(s, row == 0, 3):
            shown[item] += item >= 0
    mine = [np.cumsum(counts[order]) / counts.sum() for counts in (shown, X.sum(0))]
    return wrong(curves=all(any(len(y) >= 10 and close(y[-10:], m, 1e-9) for _, y in _lines(axes)) for m in mine))


def _spectrum() -> list[str]:
    """Singular values of U·Vᵀ, not those of U, V, or the biases."""
    draw = np.random.default_rng(1)
    U, V = draw.normal(size=(20, 4)) * [5, 1, 1, 0.2], draw.normal(size=(11, 4)) @ draw.normal(size=(4, 4))
    factors = lfm_np.Factors(U, V, item_bias=np.arange(11.0))
    axes = lfm_np.plots.factor_spectrum(factors, ax=_axes())
    mine = np.linalg.svd(U @ V.T)[1][:4]
    return wrong(curve=any(len(y) == 4 and close(y, mine, 1e-7) for _, y in _lines(axes)))


def _training() -> list[str]:
    """Seconds add up; what a callback wrote in some records only is drawn as it is asked."""
    X = sp.csr_array(_masks()[0] * 1.0)
    fit = lfm_np.als(
        X,
        factors=2,
        iterations=5,
        random_state=0,
        callback=lambda record, _: record.update(half=record["iteration"] / 2),
    )
    other = lfm_np.sgd(X, factors=2, epochs=4, random_state=0)
    seconds = np.cumsum([record["seconds"] for record in fit.history])
    objective = [record["objective"] for record in fit.history]
    by_seconds = _lines(lfm_np.plots.training_curve(fit, by="seconds", ax=_axes()))
    half = _lines(lfm_np.plots.training_curve(fit, measure="half", ax=_axes()))
    sampled = _lines(lfm_np.plots.training_curve(other, ax=_axes()))
    return wrong(
        seconds=any(close(x[-5:], seconds, 1e-9) and close(y[-5:], objective, 1e-12) for x, y in by_seconds),
        half=any(x.tolist() == [1, 2, 3, 4, 5] and close(y, [0.5, 1, 1.5, 2, 2.5], 1e-12) for x, y in half),
        sampled=any(close(y, [record["sampled_loss"] for record in other.history], 1e-12) for _, y in sampled),
    )


def _mapped(view: str) -> list[str]:
    """Points of chosen items: principal components of their directions, or the first two factors."""
    draw = np.random.default_rng(9)
    X = sp.csr_array((draw.random((40, 15)) < 0.4) * 1.0)
    fit = lfm_np.als(X, factors=5, iterations=6, regularization=0.5, dtype="float64", random_state=0)
    shown = [14, 2, 3, 9, 10, 0, 7, 8]
    axes = lfm_np.plots.item_map(fit, items=shown, labels=[f"<{i}>" for i in range(15)], view=view, ax=_axes())
    V = fit.item_factors[shown]
    if view == "projection":
        D = V / np.linalg.norm(V, axis=1, keepdims=True)
        D = D - D.mean(0)
        P = D @ np.linalg.svd(D)[2][:2].T
    else:
        P = V[:, :2]
    P = P * np.sign(P[abs(P).argmax(0), [0, 1]])
    points = np.vstack(
        [np.asarray(collection.get_offsets()) for collection in axes.collections if len(collection.get_offsets())]
    )
    return wrong(points=len(points) == 8 and close(points[np.lexsort(points.T)], P[np.lexsort(P.T)], 1e-7))


def _reported() -> list[str]:
    """A page by itself, in which names are text and the quality is that of `evaluate`."""
    from lfm_np.report import write_report

    draw = np.random.default_rng(5)
    learn = draw.random((50, 20)) < 0.3
    test = (draw.random((50, 20)) < 0.1) & ~learn
    train, held = sp.csr_array(learn * 1.0), sp.csr_array(test * 1.0)
    fit = lfm_np.als(train, factors=3, iterations=3, random_state=0)
    labels = [f"film <b>{i}</b> & co" for i in range(20)]
    with folder() as place:
        write_report(place / "page", fit, train, held, labels=labels, title="Tom & <i>Jerry</i>")
        page = (place / "page").read_text("utf-8")
    return wrong(
        title="Tom &amp; &lt;i&gt;Jerry" in page and "<i>Jerry" not in page,
        labels="&lt;b&gt;" in page and "<b>1</b> & co" not in page,
        alone="<script" not in page
        and 'src="http' not in page
        and "<link" not in page.replace('<link rel="icon" href="data:,">', ""),
    )


def _vectors(kind: str) -> list[str]:
    """Items of one norm, whose inner products with users are scores less what is the same for all items."""
    draw = np.random.default_rng(4)
    b = {"biases": draw.normal(size=12), "popular": np.arange(12.0)}.get(kind)
    k = 0 if kind == "popular" else 5
    U, V = draw.normal(size=(7, k)), draw.normal(size=(12, k))
    words = {} if b is None else {"item_bias": b}
    factors = lfm_np.Factors(U, V, user_bias=np.arange(7.0), global_bias=3.0, **words)
    items, users = lfm_np.ann.item_vectors(factors), lfm_np.ann.user_vectors(factors)
    b = np.zeros(12) if b is None else b
    norms = (items.astype(float) ** 2).sum(1)
    return wrong(
        shapes=items.shape == (12, k + 2) and users.shape == (7, k + 2) and items.dtype == users.dtype == np.float32,
        norms=close(norms, np.full(12, ((V**2).sum(1) + b**2).max()), 1e-5),
        scores=close(users.astype(float) @ items.T.astype(float), U @ V.T + b, 1e-5),
        some=np.array_equal(lfm_np.ann.user_vectors(factors, [6, 2]), users[[6, 2]]),
        one=np.array_equal(lfm_np.ann.user_vectors(factors, 4), users[4]),
    )


def _searched(which: str) -> list[str]:
    """An index of so few items finds all; scores are the exact ones, also those of biases that it does not know."""
    draw = np.random.default_rng(7)
    factors = lfm_np.Factors(
        draw.normal(size=(9, 4)),
        draw.normal(size=(30, 4)),
        item_bias=draw.normal(size=30),
        user_bias=draw.normal(size=9),
        global_bias=1.5,
    )
    index = lfm_np.ann.usearch_index(factors, num_threads=1) if which == "usearch" else lfm_np.ann.faiss_index(factors)
    ids, scores = lfm_np.ann.search(index, factors, [8, 0, 3], N=30)
    more = lfm_np.ann.search(index, factors, [2], N=33).ids
    S = _bits(factors)
    return wrong(
        ids=ids.tolist() == [best(S[u], np.ones(30, bool), 30) for u in (8, 0, 3)],
        scores=np.array_equal(scores, np.take_along_axis(S[[8, 0, 3]], ids, 1)),
        padded=more.shape == (1, 33)
        and (more[0, 30:] == -1).all()
        and sorted(more[0, :30].tolist()) == list(range(30)),
    )


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    for ks in ((1, 2), (5, 14), (13, 300)):
        yield _holds(f"judged with ties, cutoffs {ks}", lambda a=ks: _whole(a))
    yield _holds("judged over whole rankings", _without_cutoff)
    yield _holds("judged by one or two", _few)
    for n, k, N, dtype, kind in (
        (257, 17, 10, "float32", "sizes"), (256, 64, 33, "float32", "twins"), (255, 1, 64, "float64", "sizes"),
        (65, 65, 65, "float32", "negative"), (300, 33, 32, "float32", "one direction"), (64, 8, 1, "float32", "twins"),
        (500, 16, 100, "float32", "biases above all"), (3, 130, 5, "float64", "negative"),
        (129, 48, 31, "float32", "sizes"),
    ):  # fmt: skip
        yield _holds(f"{N} of {n} items, {k} factors, {dtype}: {kind}", lambda a=(n, k, N, dtype, kind): _ranked(*a))
    yield _holds("ranks among what was drawn", _among_drawn)
    yield _holds("a model of cosines", _cosines)
    for kind in ("biases", "plain", "popular"):
        yield _holds(f"vectors for an index: {kind}", lambda a=kind: _vectors(a))
    for which in ("usearch", "faiss"):
        if installed(which):
            yield _holds(f"a search by {which}", lambda a=which: _searched(a))
    if installed("matplotlib"):
        for metric in ("capped_recall", "map"):
            yield _holds(f"a curve of {metric}", lambda a=metric: _curve_of_metric(a))
        yield _holds("a curve of coverage", _covered)
        yield _holds("curves of popularity", _charts)
        yield _holds("a spectrum", _spectrum)
        yield _holds("curves of training", _training)
        for view in ("projection", "factors"):
            yield _holds(f"a map of items: {view}", lambda a=view: _mapped(a))
        yield _holds("a report with names like HTML", _reported)
