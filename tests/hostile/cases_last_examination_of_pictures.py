"""Numbers in pictures and in the report: shares, errors and singular values by loops and NumPy's svd."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import scipy.sparse as sp

from .case import Case, Group, installed
from .cases_last_examination_of_judges import as_table, by_loops, lfm_np, masks, matrix, of_a_user, whole
from .cases_last_examination_of_lists import sorted_by
from .working_days import faultless, folder, wrong

_GROUP = Group("the last examination, lists: pictures")
_holds = faultless(_GROUP)


def _plots() -> Any:
    import lfm_np.plots

    return lfm_np.plots


def _axes() -> Any:
    from matplotlib.figure import Figure

    return Figure().subplots()


def _points(line: Any) -> tuple[np.ndarray, np.ndarray]:
    return np.asarray(line.get_xdata(), float), np.asarray(line.get_ydata(), float)


def _lists(S: np.ndarray, seen: np.ndarray, N: int, users: Any) -> list[list[int]]:
    found = [sorted_by(S[u], N, set(np.flatnonzero(~seen[u]).tolist()))[0] for u in users]
    return [[i for i in ids if i >= 0] for ids in found]


def _ever_shown() -> list[str]:
    """Of 30 items, in lists of up to 40; somebody has seen all of them, and somebody all but one."""
    S = whole((12, 30), 1, 6)
    seen = masks(12, 30, 2, 0.4)[0]
    seen[4], seen[5] = True, np.arange(30) != 29
    facts = {}
    for name, users in (("everybody", None), ("some", [5, 0, 7])):
        line = _plots().coverage(as_table(S), matrix(seen), N=40, users=users).lines[0]
        x, y = _points(line)
        for length in (1, 2, 3, 7, 15, 29, 30):
            ids = {i for row in _lists(S, seen, length, range(12) if users is None else users) for i in row}
            facts[f"{name}_{length}"] = abs(np.interp(length, x, y) - len(ids) / 30) < 1e-12
        facts[f"{name}_from_one"] = x[0] == 1
    x, y = _points(_plots().coverage(as_table(S), N=3).lines[0])
    ids = {i for row in _lists(S, np.zeros_like(seen), 3, range(12)) for i in row}
    facts["unseen"] = abs(y[-1] - len(ids) / 30) < 1e-12 and x[-1] == 3
    return wrong(**facts)


def _places_of_the_popular() -> list[str]:
    """Item p[j] was chosen by 3 + j people: shares of the choices, and of the places that are not empty."""
    draw = np.random.default_rng(3)
    order = draw.permutation(25)
    seen = np.zeros((40, 25), bool)
    for j, item in enumerate(order):
        seen[draw.permutation(40)[: 3 + j], item] = True
    seen[0] = True  # who is shown nothing
    counts = seen.sum(0)
    ranked = sorted(range(25), key=lambda i: -counts[i])
    # Ties have no order that is promised: look between them only.
    cuts = [j for j in range(1, 25) if counts[ranked[j - 1]] > counts[ranked[j]]] + [25]
    S = whole((40, 25), 4, 9)
    axes = _plots().popularity_bias(as_table(S), matrix(seen), N=6)
    dashed = [line for line in axes.lines if line.get_linestyle() == "--"]
    solid = [line for line in axes.lines if line.get_linestyle() == "-"]
    shown = [i for row in _lists(S, seen, 6, range(40)) for i in row]
    facts = {"two": len(dashed) == len(solid) == 1, "many": len(cuts) > 12}
    x, y = _points(solid[0])
    a, b = _points(dashed[0])
    facts["begin"] = (x[0], y[0], a[0], b[0]) == (0, 0, 0, 0)
    for cut in cuts:
        top = set(ranked[:cut])
        facts[f"places{cut}"] = abs(np.interp(cut / 25, x, y) - sum(i in top for i in shown) / len(shown)) < 1e-9
        facts[f"chosen{cut}"] = abs(np.interp(cut / 25, a, b) - counts[list(top)].sum() / counts.sum()) < 1e-9
    return wrong(**facts)


def _spectrum() -> list[str]:
    """Singular values of U Vᵀ, of factors that are nobody's canonical ones; Gram matrices halve the digits."""
    draw = np.random.default_rng(5)
    U, V = draw.normal(size=(31, 5)) * 2.0 ** np.arange(5), draw.normal(size=(17, 5)) @ draw.normal(size=(5, 5))
    facts = {}
    for dtype, rest in (("float64", 1e-7), ("float32", 1e-3)):
        factors = lfm_np.Factors(U.astype(dtype), V.astype(dtype), item_bias=np.ones(17, dtype))
        y = _points(_plots().factor_spectrum(factors).lines[0])[1]
        mine = np.linalg.svd(U @ V.T, compute_uv=False)[:5]
        facts[dtype] = y.shape == (5,) and abs(y - mine).max() < rest * mine[0]
    return wrong(**facts)


def _longer_lists() -> list[str]:
    """Means and the band of an error to either side, at cutoffs up to beyond the items."""
    S, (train, test) = whole((30, 12), 6, 4), masks(30, 12, 7)
    other = -S
    facts = {}
    for metric in ("ndcg", "precision", "map", "recall"):
        axes = _plots().metric_at_n(
            [as_table(S), as_table(other)], matrix(train), matrix(test), metric, N=(1, 3, 8, 20)
        )
        asked = [f"{metric}@{k}" for k in (1, 3, 8, 20)]
        for place, scores in enumerate((S, other)):
            mine = by_loops(scores, train, test, asked)
            x, y = _points(axes.lines[place])
            facts[f"{metric}_line{place}"] = x.tolist() == [1, 3, 8, 20] and all(
                abs(a - mine[name]) < 1e-9 for a, name in zip(y.tolist(), asked, strict=True)
            )
            corners = np.vstack([path.vertices for path in axes.collections[place].get_paths()])
            for k, name in zip((1, 3, 8, 20), asked, strict=True):
                at = corners[abs(corners[:, 0] - k) < 1e-9, 1]
                facts[f"{name}_band{place}"] = (
                    abs(at.min() - mine[name] + mine[f"{name}_se"]) < 1e-9
                    and abs(at.max() - mine[name] - mine[f"{name}_se"]) < 1e-9
                )
    return wrong(**facts)


def _history() -> list[str]:
    """Seconds are summed, and a field of one's own is drawn as it is."""
    records = [
        {"iteration": n, "objective": 100.0 / n, "seconds": 0.25 * n, "mine": -float(n % 3)} for n in range(1, 8)
    ]
    factors = lfm_np.Factors(np.ones((2, 1)), np.ones((3, 1)), history=records)
    late = lfm_np.Factors(
        np.ones((2, 1)), np.ones((3, 1)), history=[{"iteration": 4, "sampled_loss": 0.5, "seconds": 2.0, "mine": 9.0}]
    )
    plain, sampled = (_plots().training_curve(one, ax=_axes()) for one in (factors, late))
    timed = _plots().training_curve([factors, late], by="seconds", measure="mine", ax=_axes())
    found = [[a.tolist() for a in _points(line)] for line in [*plain.lines, *sampled.lines, *timed.lines]]
    sums = [0.25, 0.75, 1.5, 2.5, 3.75, 5.25, 7.0]
    return wrong(
        plain=found[0] == [[*range(1, 8)], [100.0 / n for n in range(1, 8)]],
        sampled=found[1] == [[4], [0.5]],
        timed=found[2] == [sums, [-1, -2, 0, -1, -2, 0, -1]],
        late=found[3] == [[2], [9]],
    )


def _mirrored(P: np.ndarray) -> np.ndarray:
    return P * np.sign(P[abs(P).argmax(0), [0, 1]])


def _same_points(axes: Any, P: np.ndarray, rest: float) -> bool:
    """In any order."""
    got = np.asarray(axes.collections[0].get_offsets(), float)
    if got.shape != P.shape:
        return False
    return bool(abs(got[got[:, 0].argsort()] - P[P[:, 0].argsort()]).max() < rest)


def _directions() -> list[str]:
    """Principal components of V[i] / ‖V[i]‖, whatever their lengths, mirrored."""
    draw = np.random.default_rng(8)
    V = draw.normal(size=(40, 4)) * [3.0, 2.0, 1.0, 0.5]
    V[:, 3] += 1
    V *= 10.0 ** draw.integers(-2, 3, (40, 1))
    few = np.array([39, 3, 17, 8, 21, 30, 0, 11])
    facts = {}
    for name, shown in (("all", np.arange(40)), ("few", few)):
        unit = np.array([v / np.sqrt(v @ v) for v in V[shown]])
        left = unit - unit.mean(0)
        P = _mirrored(left @ np.linalg.svd(left, full_matrices=False)[2][:2].T)
        axes = _plots().item_map(
            lfm_np.Factors(np.ones((2, 4)), V), items=None if name == "all" else shown,
            labels=[f"<{i}>" for i in range(40)], ax=_axes(),
        )  # fmt: skip
        facts[name] = _same_points(axes, P, 1e-6)
        said = {text.get_text() for text in axes.texts}
        hidden = {f"<{i}>" for i in range(40)} - {f"<{i}>" for i in shown}
        facts[f"{name}_said"] = not said & hidden and bool(said & {f"<{i}>" for i in shown})
    return wrong(**facts)


def _frequent() -> list[str]:
    """Of 504 items the 500 most frequent, by canonical factors as they are: whose columns are orthogonal already."""
    draw = np.random.default_rng(9)
    Q = np.linalg.qr(draw.normal(size=(504, 3)))[0]
    V = Q * [50.0, 20.0, 5.0]
    counts = draw.permutation(504) + 1
    U = np.linalg.qr(draw.normal(size=(60, 3)))[0] * 7.0
    axes = _plots().item_map(lfm_np.Factors(U, V), counts=counts, view="factors", ax=_axes())
    return wrong(points=_same_points(axes, _mirrored(V[counts > 4][:, :2]), 1e-9))


def _page() -> list[str]:
    """Test items of eight people are among the first ten of three of them, and popularity has five."""
    draw = np.random.default_rng(138)
    S, train = draw.normal(size=(16, 20)), draw.random((16, 20)) < 0.3
    test = np.zeros((16, 20), bool)
    for u in range(8):
        test[u, draw.choice(np.flatnonzero(~train[u]))] = True
    known = [set(np.flatnonzero(row).tolist()) for row in train]
    held = [set(np.flatnonzero(row).tolist()) for row in test]
    counts = [float(x) for x in train.sum(0)]
    hits = [
        sum(of_a_user(scores[u], known[u], held[u], "hit_rate@10") or 0.0 for u in range(8)) / 8
        for scores in (S.tolist(), [counts] * 16)
    ]
    assert hits == [0.375, 0.625], hits
    history = [{"iteration": n, "objective": 9.0 / n, "seconds": 0.5} for n in (1, 2)]
    factors = lfm_np.Factors(np.eye(16), np.array(S.T, order="C"), history=history)
    from lfm_np.report import write_report

    with folder() as place:
        write_report(place / "page.html", factors, matrix(train), sp.coo_array(test.astype(float)))
        page = (place / "page.html").read_text("utf-8")
    words = re.sub(r"<svg.*?</svg>|<img[^>]*>|<style.*?</style>", "", page, flags=re.DOTALL)
    return wrong(
        model=any(x in words for x in ("0.375", "37.5", "0.38")),
        popular=any(x in words for x in ("0.625", "62.5", "0.62", "0.63")),
        alone="<script" not in page.lower(),
    )


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    if not installed("matplotlib"):
        return
    yield _holds("the share of items that are ever shown", _ever_shown)
    yield _holds("the places of the popular", _places_of_the_popular)
    yield _holds("singular values", _spectrum)
    yield _holds("metrics and their bands", _longer_lists)
    yield _holds("a history by iterations and by seconds", _history)
    yield _holds("items by their directions", _directions)
    yield _holds("the five hundred most frequent items", _frequent)
    yield _holds("the quality in the report", _page)
