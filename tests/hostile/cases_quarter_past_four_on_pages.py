"""Journeys that end in a picture, a page, a list or a judgement; what is drawn is read off the axes again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

import lfm_np
from lfm_np import losses
from lfm_np.evaluation import most_popular

from .case import Case, Group, installed
from .cases_quarter_past_four_in_a_shell import LIGHT, NAMES, written
from .places import inside
from .working_days import (
    NAN,
    Model,
    all_scores,
    best,
    close,
    csr,
    faultless,
    judged,
    stars,
    start,
    typed,
    wrong,
)

_GROUP = Group("quarter past four, pages")
_holds = faultless(_GROUP)
HU = Model("hu-koren", 1.0, 1.0, 0.5)


def fitted(X: Any, shape: tuple[int, int], k: int = 3, sweeps: int = 3, **words: Any) -> Any:
    words = {"init": start(*shape, k), "dtype": "float64", **HU.words, **words}
    return lfm_np.als(X, factors=k, iterations=sweeps, **words)


def axes() -> Any:
    from matplotlib.figure import Figure

    return Figure().subplots()


def halves(X: np.ndarray, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    to_test = np.random.default_rng(seed).random(X.shape) < 0.3
    return np.where(to_test, NAN, X), np.where(to_test, X, NAN)


def ys(line: Any) -> list[float]:
    return np.asarray(line.get_ydata(), float).tolist()


def xs(line: Any) -> list[float]:
    return np.asarray(line.get_xdata(), float).tolist()


def _curve_of_quality() -> list[str]:
    from lfm_np import plots

    A, B = halves(stars(20, 11, seed=80))

    def measure(record: Any, factors: Any) -> None:
        record["map@4"] = lfm_np.evaluate(factors, csr(A), csr(B), ["map@4"])["map@4"]

    fit = fitted(csr(A), A.shape, sweeps=4, callback=measure)
    V, mine, J = start(20, 11, 3)[1], [], []
    for _ in range(4):
        U = HU.half(A, V)
        V = HU.half(A.T, U)
        J.append(HU.objective(A, U, V))
        mine.append(judged(U @ V.T, ~np.isnan(A), ~np.isnan(B), 4)["map@4"])
    one = plots.training_curve(fit, measure="map@4", ax=axes()).lines[0]
    two = plots.training_curve([fit, fit], by="seconds", labels=["a", "b"], ax=axes()).lines
    seconds = np.cumsum([record["seconds"] for record in fit.history])
    return wrong(
        quality=close(ys(one), mine, 1e-9) and xs(one) == [1, 2, 3, 4],
        objective=all(close(ys(line), J, 1e-9) for line in two[:2]),
        seconds=close(xs(two[0]), seconds, 1e-9),
    )


def _metric_by_length(metric: str) -> list[str]:
    from lfm_np import plots

    A, B = halves(stars(22, 12, seed=81), 1)
    fit, popular = fitted(csr(A), A.shape), most_popular(csr(A))
    ax = plots.metric_at_n([fit, popular], csr(A), csr(B), metric, N=(1, 3, 12), labels=["x", "y"], ax=axes())
    lines = [line for line in ax.lines if len(ys(line)) == 3]
    facts = {}
    for n, model in enumerate((fit, popular)):
        S = np.broadcast_to(all_scores(model), A.shape)
        mine = [judged(S, ~np.isnan(A), ~np.isnan(B), k)[f"{metric}@{k}"] for k in (1, 3, 12)]
        facts[f"model {n}"] = close(ys(lines[n]), mine, 1e-9)
    legend = {text.get_text() for text in ax.get_legend().get_texts()}
    return wrong(**facts, legend={"x", "y"} <= legend, lengths=xs(lines[0]) == [1, 3, 12])


def _spectrum(solver: str) -> list[str]:
    from lfm_np import plots

    X = stars(17, 9, seed=82)
    if solver == "als":
        fit = fitted(csr(X), X.shape, 4)
        U, V = HU.sweeps(X, start(17, 9, 4)[1], 3)
        S = U @ V.T
    else:
        fit = lfm_np.sgd(csr(X), losses.BPR(), factors=4, epochs=3, dtype="float64", random_state=0)
        S = fit.user_factors @ fit.item_factors.T
    line = plots.factor_spectrum(fit, ax=axes()).lines[0]
    values = np.linalg.svd(S)[1][:4]
    twice = lfm_np.Factors(2 * fit.user_factors, 3 * fit.item_factors)
    other = plots.factor_spectrum(twice, labels=["six"], ax=axes()).lines[0]
    return wrong(values=close(ys(line), values, 1e-6), six=close(ys(other), 6 * values, 1e-6), x=len(xs(line)) == 4)


def _covered() -> list[str]:
    from lfm_np import plots

    X = stars(14, 16, seed=83)
    fit = fitted(csr(X), X.shape, 2)
    S, shares, some = all_scores(fit), list[float](), [9, 2, 5]
    for n in range(1, 6):
        shown = {i for u in some for i in best(S[u], np.isnan(X[u]), n) if i >= 0}
        shares.append(len(shown) / 16)
    line = plots.coverage(fit, csr(X), N=5, users=some, ax=axes()).lines[0]
    free = plots.coverage(fit, N=16, ax=axes()).lines[0]
    return wrong(
        shares=close(ys(line)[-5:], shares, 1e-12), all=ys(free)[-1] == 1.0, x=xs(line)[-5:] == [1, 2, 3, 4, 5]
    )


def _places_of_the_popular() -> list[str]:
    from lfm_np import plots

    X = stars(18, 10, seed=84)
    fit = fitted(csr(X), X.shape, 2)
    counts = (~np.isnan(X)).sum(0)
    order = np.lexsort((np.arange(10), -counts))
    S = all_scores(fit)
    places = np.zeros(10)
    for u in range(18):
        for i in best(S[u], np.isnan(X[u]), 3):
            places[i] += i >= 0
    ax = plots.popularity_bias(fit, csr(X), N=3, ax=axes())
    curves = [np.asarray(ys(line)) for line in ax.lines]
    wanted = [np.cumsum(n[order]) / n.sum() for n in (places, counts)]
    ties = len(set(counts.tolist())) < 10
    found = [any(len(c) >= 10 and close(c[-10:], w, 1e-9) for c in curves) for w in wanted]
    return wrong(
        model=found[0] or ties, users=found[1], end=all(abs(c[-1] - 1) < 1e-12 for c in curves if len(c) >= 10)
    )


def _mapped(view: str) -> list[str]:
    from lfm_np import plots

    X = stars(19, 8, seed=85)
    fit = fitted(csr(X), X.shape, 3)
    some = [6, 1, 4, 0, 7]
    V = fit.item_factors[some].astype(float)
    if view == "projection":
        unit = V / np.linalg.norm(V, axis=1, keepdims=True)
        unit -= unit.mean(0)
        P = unit @ np.linalg.svd(unit)[2][:2].T
    else:
        P = V[:, :2]
    P = P * np.sign([p[abs(p).argmax()] for p in P.T])
    ax = plots.item_map(fit, items=some, labels=[f"n{i}" for i in range(8)], view=view, ax=axes())
    points = np.asarray(ax.collections[0].get_offsets())
    shown = {text.get_text() for text in ax.texts} - {""}
    return wrong(points=close(points, P, 1e-7), labels=shown <= {f"n{i}" for i in some} and "n6" in shown)


def _report_of_python(place: Path) -> list[str]:
    from lfm_np.report import write_report

    A, B = halves(stars(24, 14, seed=86), 2)
    fit = fitted(csr(A), A.shape)
    fit.save(place / "m")
    names = [f"<b>{i}</b>" for i in range(14)]
    write_report(place / "r.html", lfm_np.Factors.load(place / "m"), csr(A), csr(B), labels=names, title="Q & A")
    page = (place / "r.html").read_text()
    U, V = HU.sweeps(A, start(24, 14, 3)[1], 3)
    told = judged(U @ V.T, ~np.isnan(A), ~np.isnan(B), 10)
    return wrong(
        title="Q &amp; A" in page and "Q & A" not in page,
        labels="<td><b>" not in page and "&lt;b&gt;" in page,
        numbers=all(any(f"{told[n]:.{d}f}" in page for d in (2, 3, 4)) for n in ("recall@10", "ndcg@10", "mrr@10")),
    )


def _whole_numbers(n: int, dtype: str) -> list[str]:
    """Scores are whole, so that many are equal."""
    draw = np.random.default_rng(n)
    U, V = draw.integers(-2, 3, (6, 3)).astype(dtype), draw.integers(-2, 3, (n, 3)).astype(dtype)
    model = lfm_np.Factors(U, V, item_bias=draw.integers(0, 2, n).astype(dtype))
    seen = draw.random((6, n)) < 0.3
    seen[2] = True
    seen[2, n - 2 :] = False
    test = (draw.random((6, n)) < 0.2) & ~seen
    test[2, n - 1] = True
    S = all_scores(model)
    N = n - 1
    ids, scores = model.recommend([5, 2, 0, 2], N=N, seen=sp.csr_array(seen.astype(float)), exclude=[0, n // 2])
    allowed = ~seen
    allowed[:, [0, n // 2]] = False
    names = ("ndcg", "map", "mrr", "auc", "recall@2", "map@2")
    found = lfm_np.evaluate(model, sp.csr_array(seen * 1.0), sp.csr_array(test * 1.0), names)
    whole, two = judged(S, seen, test, n), judged(S, seen, test, 2)
    cosines = model.similar_items(n - 1, N=n, metric="inner")
    W = V.astype(float) @ V[n - 1].astype(float)
    return wrong(
        lists=ids.tolist() == [best(S[u], allowed[u], N) for u in (5, 2, 0, 2)],
        scores=np.array_equal(scores[0][ids[0] >= 0], S[5][ids[0][ids[0] >= 0]]),
        ndcg=close(found["ndcg"], whole[f"ndcg@{n}"], 1e-12) and close(found["map"], whole[f"map@{n}"], 1e-12),
        short=all(close(found[name], two[name], 1e-12) for name in ("mrr", "auc", "recall@2", "map@2")),
        inner=cosines.ids.tolist() == best(W, np.ones(n, bool), n),
        users=found["users"] == whole["users"],
    )


def _written_and_read(place: Path) -> list[str]:
    import pyarrow.parquet as pq

    X = stars(11, 9, seed=87)
    data = lfm_np.Interactions(csr(X), np.array([f"u{n:02}" for n in range(11)]), np.arange(9) - 4)
    fit = fitted(data, X.shape)
    some, items, out = ["u07", "u00", "u10"], [3, -4, 0, 4, 1], [0]
    words: dict[str, Any] = {"N": 3, "seen": data, "items": items, "exclude": out}
    lfm_np.recommend_parquet(fit, data, place / "p", some, **words)
    rows = pq.read_table(place / "p").to_pylist()
    frame = lfm_np.recommend_frame(fit, data, some, backend="pyarrow", **words).to_pylist()
    S = all_scores(fit)
    mine = []
    for u in (7, 0, 10):
        allowed = np.isnan(X[u]) & np.isin(data.items, items) & ~np.isin(data.items, out)
        mine += [(f"u{u:02}", i - 4, r) for r, i in enumerate(best(S[u], allowed, 3), 1) if i >= 0]
    return wrong(
        file=[(r["user"], r["item"], r["rank"]) for r in rows] == mine,
        frame=frame == rows,
        scores=close([r["score"] for r in rows], [S[int(u[1:]), i + 4] for u, i, _ in mine], 1e-12),
    )


def _among_negatives() -> list[str]:
    X = stars(15, 12, seed=88)
    A, B = halves(X, 3)
    fit = fitted(csr(A), A.shape)
    draw = np.random.default_rng(4)
    negatives = draw.integers(-1, 12, (15, 6))
    found = lfm_np.evaluate(fit, csr(A), csr(B), ("ndcg@2", "mrr", "auc", "hit_rate@1"), negatives=negatives)
    S, train, test = all_scores(fit), ~np.isnan(A), ~np.isnan(B)
    # everything that is no candidate was seen, as it were
    known = train.copy()
    for u in range(15):
        for i in range(12):
            known[u, i] |= not test[u, i] and i not in negatives[u]
    told, one = judged(S, known, test, 2), judged(S, known, test, 1)
    return wrong(
        ndcg=close(found["ndcg@2"], told["ndcg@2"], 1e-12),
        mrr=close(found["mrr"], told["mrr"], 1e-12),
        auc=close(found["auc"], told["auc"], 1e-12),
        hits=close(found["hit_rate@1"], one["hit_rate@1"], 1e-12) and found["users"] == told["users"],
    )


def _zeros_kept_or_dropped() -> list[str]:
    pairs = [(0, 0), (0, 1), (1, 1), (1, 2), (2, 2), (2, 0), (3, 2)]
    X = lfm_np.to_csr(pairs, shape=(4, 4), values=[0, 2, 0, 1, 3, 0, 0])
    keep, drop = most_popular(X, zeros="keep"), most_popular(X)
    test = lfm_np.to_csr([(0, 2), (1, 3), (3, 1)], shape=(4, 4))
    cells, some = np.zeros((4, 4), bool), X.toarray() > 0
    cells[tuple(np.array(pairs).T)] = True
    facts = {}
    for name, model, mask in (("keep", keep, cells), ("drop", drop, some)):
        S = np.tile(mask.sum(0).astype(float), (4, 1))
        found = lfm_np.evaluate(model, X, test, ("mrr", "auc"))
        told = judged(S, mask, test.toarray() > 0, 1)
        facts[f"counts {name}"] = model.item_bias.tolist() == mask.sum(0).tolist()
        facts[f"lists {name}"] = model.recommend(range(4), N=4, seen=X).ids.tolist() == [
            best(s, ~a, 4) for s, a in zip(S, mask, strict=True)
        ]
        facts[f"judged {name}"] = close(found["mrr"], told["mrr"], 1e-12) and close(found["auc"], told["auc"], 1e-12)
    return wrong(**facts)


def _reported(place: Path) -> list[str]:
    X, T = stars(12, 6, seed=72), stars(12, 6, seed=73)
    written(place / "d.csv", X)
    written(place / "t.csv", T)
    typed(place, "fit", "d.csv", *NAMES, *LIGHT, "--regularization", 1, "-o", "m.safetensors")
    (place / "l.csv").write_text("item,label\n" + "".join(f"{10 * i},Record & Song {i}\n" for i in range(6)))
    said = typed(
        place, "report", "m.safetensors", "--test", "t.csv", "--labels", "l.csv", "--title", "A < B", "-o", "r.html"
    )
    page = (place / "r.html").read_text()
    S = all_scores(lfm_np.Factors.load(place / "m.safetensors"))
    value = judged(S, ~np.isnan(X), ~np.isnan(T), 10)["recall@10"]
    return wrong(
        said=said.status == 0,
        title="A &lt; B" in page and "A < B" not in page,
        labels="Record &amp; Song" in page and "Record & Song" not in page,
        number=any(f"{value:.{digits}f}" in page for digits in (2, 3, 4)),
        alone="<script" not in page,
    )


def _alike_with_empty_rows() -> list[str]:
    """Two of the new users have nothing: their cosines are 0, with themselves too."""
    A, rows = stars(12, 8, seed=180), stars(6, 8, seed=181)
    rows[[1, 4]] = NAN
    fit = fitted(csr(A), A.shape)
    folded = fit.fold_in_users(csr(rows))
    U = HU.half(rows, HU.sweeps(A, start(12, 8, 3)[1], 3)[1])
    norms = np.linalg.norm(U, axis=1)
    C = np.divide(U @ U.T, np.outer(norms, norms), out=np.zeros((6, 6)), where=np.outer(norms, norms) > 0)
    C[(norms > 0) & np.eye(6, dtype=bool)] = 1.0
    ids, cosines = folded.similar_users([4, 0, 1, 5], N=6)
    found = np.array([c[np.argsort(i)] for c, i in zip(cosines, ids, strict=True)])
    return wrong(
        everybody=np.sort(ids, 1).tolist() == [list(range(6))] * 4,
        cosines=close(found, C[[4, 0, 1, 5]], 1e-8),
        nothing=ids[0].tolist() == ids[2].tolist() == list(range(6)) and not cosines[0].any(),
        falling=bool((np.diff(cosines, axis=1) <= 0).all()),
    )


def _judged_before_and_after() -> list[str]:
    """The users of the test rows are solved again from all they have, and judged by what else they like."""
    A, B = halves(stars(20, 12, seed=182), 5)
    C, D = halves(B, 6)
    fit = fitted(csr(A), A.shape)
    users = np.flatnonzero((~np.isnan(C)).any(1))
    known = np.where(np.isnan(C), A, C)
    more = fit.update(csr(known[users]), users=users)
    U, V = HU.sweeps(A, start(20, 12, 3)[1], 3)
    W = U.copy()
    W[users] = HU.half(known[users], V)
    names, facts = ("ndcg@4", "auc", "mrr"), {}
    for name, model, S, train in (("before", fit, U @ V.T, A), ("after", more, W @ V.T, known)):
        found = lfm_np.evaluate(model, csr(train), csr(D), names)
        told = judged(S, ~np.isnan(train), ~np.isnan(D), 4)
        facts[name] = all(close(found[n], told[n], 1e-12) for n in names) and found["users"] == told["users"]
    return wrong(**facts, J=close(lfm_np.objective(csr(known), more), HU.objective(known, W, V), 1e-9))


def _vectors_of_everybody() -> list[str]:
    from lfm_np import ann

    X = stars(10, 9, seed=183)
    fit = lfm_np.sgd(csr(X), losses.BPR(), biases="item", factors=3, epochs=4, random_state=2, dtype="float64")
    P, Q, one = ann.item_vectors(fit), ann.user_vectors(fit), ann.user_vectors(fit, 6)
    V, b = fit.item_factors, fit.item_bias
    norms = (V**2).sum(1) + b**2
    S = all_scores(fit)
    far = ((P[:, None].astype(float) - Q[None].astype(float)) ** 2).sum(2)
    return wrong(
        items=P.dtype == np.float32 and close(P[:, :4], np.column_stack([V, b]), 1e-6),
        sphere=close((P.astype(float) ** 2).sum(1), np.full(9, norms.max()), 1e-5),
        users=close(Q, np.column_stack([fit.user_factors, np.ones(10), np.zeros(10)]), 1e-6),
        one=np.array_equal(one, Q[6]) and one.shape == (5,),
        nearest=fit.recommend(range(10), N=1).ids[:, 0].tolist() == far.argmin(0).tolist() == S.argmax(1).tolist(),
    )


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    if installed("matplotlib"):
        yield _holds("a callback measures, the curve shows", _curve_of_quality)
        for metric in ("recall", "ndcg", "precision", "capped_recall", "map", "mrr", "hit_rate"):
            yield _holds(f"{metric} by the length of lists", lambda m=metric: _metric_by_length(m))
        for solver in ("als", "sgd"):
            yield _holds(f"singular values of {solver}, then six times", lambda s=solver: _spectrum(s))
        yield _holds("what three users are shown", _covered)
        yield _holds("places of the popular", _places_of_the_popular)
        for view in ("projection", "factors"):
            yield _holds(f"a map of some items: {view}", lambda v=view: _mapped(v))
        yield _holds("a model from a file on a page", inside(_report_of_python))
        if installed("typer", "pyarrow", "narwhals"):
            yield _holds("a report with labels that need escaping", inside(_reported))
    for n, dtype in ((2, "float64"), (3, "float32"), (255, "float32"), (256, "float64"), (257, "float32")):
        yield _holds(f"whole scores of {n} items, {dtype}", lambda a=n, b=dtype: _whole_numbers(a, b))
    if installed("pyarrow", "narwhals"):
        yield _holds("some to some, into a file and a frame", inside(_written_and_read))
    yield _holds("among drawn items, some of them twice", _among_negatives)
    yield _holds("popular with zeros and without", _zeros_kept_or_dropped)
    yield _holds("users alike, two of them empty", _alike_with_empty_rows)
    yield _holds("judged before an update and after", _judged_before_and_after)
    yield _holds("vectors of everybody, with biases of items", _vectors_of_everybody)
