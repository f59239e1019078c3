"""Tables of recommendations, pictures and pages, beside the same sums by NumPy."""

from __future__ import annotations

import html
from collections.abc import Iterator
from typing import Any

import numpy as np
import scipy.sparse as sp

from .case import Case, Group, installed
from .sentences_by_numpy import lfm_np
from .working_days import all_scores, best, close, faultless, folder, judged, wrong

_holds = faultless(Group("second opinions"))


def _mask(m: int, n: int, share: float, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random((m, n)) < share


def _whole(m: int, n: int, k: int, seed: int) -> Any:
    draw = np.random.default_rng(seed)
    return lfm_np.Factors(*(draw.integers(-3, 4, (size, k)).astype(np.float64) for size in (m, n)))


def _shop() -> tuple[Any, Any, np.ndarray]:
    """Ids of text whose order is not that of numbers, and one user who has everything."""
    has = _mask(13, 12, 0.3, 1)
    has[np.arange(13), np.arange(13) % 12] = True
    has[5] = True
    users, items = np.array(sorted(f"u{j}" for j in range(13))), np.array(sorted(f"é{j * 7}" for j in range(12)))
    rows, columns = np.nonzero(has)
    return lfm_np.Interactions.from_arrays(users[rows], items[columns]), _whole(13, 12, 2, 3), has


def _framed() -> list[str]:
    data, model, has = _shop()
    asked, items, exclude = ["u3", "u12", "u3", "u0"], [0, 2, 3, 5, 8, 9, 11], [9, 1]
    allowed = ~has & np.isin(np.arange(12), items) & ~np.isin(np.arange(12), exclude)
    S, users = all_scores(model), data.users.tolist()
    mine = [
        {"user": user, "item": data.items[i], "score": S[u, i], "rank": rank}
        for user, u in ((user, users.index(user)) for user in asked)
        for rank, i in enumerate(best(S[u], allowed[u], 5), 1)
        if i >= 0
    ]
    facts = {}
    for backend in filter(installed, ("polars", "pyarrow")):
        frame = lfm_np.recommend_frame(
            model, data, asked, N=5, seen=data, items=data.items[items], exclude=data.items[exclude], backend=backend
        )
        facts[backend] = (frame.to_dicts() if backend == "polars" else frame.to_pylist()) == mine
    return wrong(**facts)


def _in_a_file() -> list[str]:
    import pyarrow.parquet as pq

    data, model, has = _shop()
    S = all_scores(model)
    with folder() as place:
        lfm_np.recommend_parquet(model, data, place / "lists", N=7, seen=data.matrix, num_threads=2)
        found = pq.read_table(place / "lists")
        files = len(list(place.iterdir()))
    lists = [(u, rank, i) for u in range(13) for rank, i in enumerate(best(S[u], ~has[u], 7), 1) if i >= 0]
    return wrong(
        names=found.column_names == ["user", "item", "score", "rank"],
        users=found["user"].to_pylist() == [data.users[u] for u, _, _ in lists],
        items=found["item"].to_pylist() == [data.items[i] for _, _, i in lists],
        ranks=found["rank"].to_pylist() == [rank for _, rank, _ in lists],
        scores=found["score"].to_pylist() == [S[u, i] for u, _, i in lists],
        alone=files == 1,
    )


def _line(ax: Any, at: int = 0) -> tuple[np.ndarray, np.ndarray]:
    line = ax.get_lines()[at]
    return np.asarray(line.get_xdata(), np.float64), np.asarray(line.get_ydata(), np.float64)


def _spectrum() -> list[str]:
    from lfm_np import plots

    draw = np.random.default_rng(3)
    U, V = draw.normal(size=(40, 5)) * [9, 1, 3, 0.5, 2], draw.normal(size=(30, 5))
    x, y = _line(plots.factor_spectrum([lfm_np.Factors(U, V)], labels=["one"]))
    return wrong(values=close(y, np.linalg.svd(U @ V.T, compute_uv=False)[:5], 1e-6), numbers=len(x) == 5)


def _curve() -> list[str]:
    from lfm_np import plots

    seconds, values = [0.5, 0.25, 2.0, 0.125], [0.1, 0.4, 0.3, 0.2]
    history = [
        {"iteration": 3 * at, "seconds": s, "objective": 7.0, "mine": v}
        for at, (s, v) in enumerate(zip(seconds, values, strict=True), 1)
    ]
    model = lfm_np.Factors(np.ones((2, 1)), np.ones((2, 1)), history=history)
    x, y = _line(plots.training_curve(model, by="seconds", measure="mine"))
    z, w = _line(plots.training_curve([model, model]), 1)
    return wrong(
        seconds=close(x, np.cumsum(seconds)),
        mine=close(y, values),
        sweeps=close(z, [3, 6, 9, 12]),
        all=close(w, [7.0] * 4),
    )


def _quality_by_length() -> list[str]:
    from lfm_np import plots

    model, train, test = _whole(25, 30, 2, 4), _mask(25, 30, 0.2, 4), _mask(25, 30, 0.15, 5)
    S, known, held = all_scores(model), sp.csr_array(1.0 * train), sp.csr_array(1.0 * test)
    x, y = _line(plots.metric_at_n(model, known, held, "capped_recall", N=(2, 3, 11)))
    mine = [judged(S, train, test, k)[f"capped_recall@{k}"] for k in (2, 3, 11)]
    return wrong(lengths=x.tolist() == [2, 3, 11], values=close(y, mine))


def _covered() -> list[str]:
    from lfm_np import plots

    model, has, users = _whole(15, 50, 2, 6), _mask(15, 50, 0.1, 6), [1, 4, 14]
    S = all_scores(model)
    x, y = _line(plots.coverage(model, sp.csr_array(1.0 * has), N=9, users=users))
    shares = [len({i for u in users for i in best(S[u], ~has[u], int(N))}) / 50 for N in x]
    return wrong(
        shares=any(close(y / scale, shares) for scale in (1, 100)),
        lengths=x.max() == 9,
    )


def _bias() -> list[str]:
    """Eight items that 8, 7 … 1 users have, in another order; the share of places by popularity."""
    from lfm_np import plots

    model, order = _whole(10, 8, 2, 9), np.array([3, 0, 7, 5, 1, 2, 6, 4])
    has = np.zeros((10, 8), bool)
    for rank, i in enumerate(order):
        has[(np.arange(8 - rank) * 3 + rank) % 10, i] = True
    S = all_scores(model)
    places = [i for u in range(10) for i in best(S[u], ~has[u], 3) if i >= 0]
    mine = [np.cumsum([places.count(i) for i in order]) / len(places), np.cumsum(np.arange(8, 0, -1)) / 36]
    ax = plots.popularity_bias(model, sp.csr_array(1.0 * has), N=3)
    lines = [_line(ax, at) for at in range(len(ax.get_lines()))]
    at = np.arange(1, 9) / 8
    return wrong(
        **{
            name: any(close(np.interp(at, x / x.max(), y / y.max()), curve) for x, y in lines if len(x) >= 8)
            for name, curve in zip(("lists", "users"), mine, strict=True)
        }
    )


def _map() -> list[str]:
    from lfm_np import plots

    Q = np.linalg.qr(np.random.default_rng(10).normal(size=(30, 3)))[0]
    V = Q * [5.0, 3.0, 1.0]
    model = lfm_np.Factors(np.random.default_rng(11).normal(size=(20, 3)), V)
    ax = plots.item_map(model, view="factors", counts=np.arange(30), labels=[f"<{j}>" for j in range(30)])
    points = np.concatenate([np.asarray(drawn.get_offsets(), np.float64) for drawn in ax.collections])
    mine = V[:, :2] * np.sign(np.take_along_axis(V[:, :2], abs(V[:, :2]).argmax(0)[None], 0))
    return wrong(points=close(points[np.argsort(points[:, 0])], mine[np.argsort(mine[:, 0])], 1e-6))


def _page() -> list[str]:
    from lfm_np.report import write_report

    data, model, _ = _shop()
    train, test = data.split(test_fraction=0.3, random_state=0)
    title, labels = 'Tea & "jam" <b>', [f"<i>{j}" for j in range(12)]
    with folder() as place:
        write_report(place / "page", model, train, test, labels=labels, title=title)
        text = (place / "page").read_text("utf-8")
        files = len(list(place.iterdir()))
    return wrong(
        title=html.escape(title) in text or html.escape(title, quote=False) in text,
        raw=title not in text and "<i>0" not in text and "<i>11" not in text,
        labels=any(f"&lt;i&gt;{j}" in text for j in range(12)),
        scripts="<script" not in text.lower() and files == 1,
    )


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    if installed("pyarrow", "narwhals"):
        yield _holds("lists of some items in frames", _framed)
        yield _holds("everybody's lists in a file", _in_a_file)
    if installed("matplotlib"):
        for name, call in (
            ("a spectrum", _spectrum),
            ("a curve by seconds", _curve),
            ("capped recall by length", _quality_by_length),
            ("a catalogue covered by three users", _covered),
            ("places by popularity", _bias),
            ("a map of canonical factors", _map),
            ("a page of labels that look like markup", _page),
        ):
            yield _holds(name, call)
