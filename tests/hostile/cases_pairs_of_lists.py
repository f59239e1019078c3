"""Lists under several filters at once, beside sorting: ties, sizes at limits, numbers of very different sizes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import scipy.sparse as sp

from .case import Case, installed
from .cases_pairs_of_solvers import PAIRS, lfm_np, scores_of
from .working_days import best, faultless, folder, wrong

_holds = faultless(PAIRS)


def whole(m: int, n: int, k: int = 3, seed: int = 0, dtype: Any = "float64", biases: str = "", mu: Any = None) -> Any:
    """Factors of small whole numbers: every score is exact, and many are equal."""
    draw = np.random.default_rng(seed)
    words: dict[str, Any] = {"global_bias": mu}
    for side, size in (("user", m), ("item", n)):
        if side in biases:
            words[f"{side}_bias"] = draw.integers(-2, 3, size).astype(dtype)
    U, V = (draw.integers(-2, 3, (size, k)).astype(dtype) for size in (m, n))
    return lfm_np.Factors(U, V, **words)


def _matrix(kind: str, had: np.ndarray) -> Any:
    rows, columns = np.nonzero(had)
    ones = np.ones(len(rows))
    if kind == "twice":
        return sp.coo_array((np.tile(ones, 2), (np.tile(rows, 2), np.tile(columns, 2))), shape=had.shape)
    if kind == "bool":
        return sp.csc_matrix(had)
    if kind == "int8":
        return sp.csr_matrix(had.astype(np.int8))
    if kind == "interactions":
        M = sp.csr_array((ones, (rows, columns)), shape=had.shape)
        return lfm_np.Interactions(M, np.arange(had.shape[0]), np.arange(had.shape[1])[::-1].copy())
    if kind == "zeros":  # a zero beside every cell
        others = np.nonzero(~had)
        data = np.concatenate([ones, np.zeros(len(others[0]))])
        places = tuple(np.concatenate(pair) for pair in zip((rows, columns), others, strict=True))
        return sp.coo_array((data, places), shape=had.shape).tocsr()
    return sp.csr_array((ones, (rows, columns)), shape=had.shape)


def _lists(
    model: Any, users: Any, N: int, seen: str = "", items: Any = None, exclude: Any = None, **words: Any
) -> list[str]:
    m, n = model.shape
    had = np.random.default_rng(9).random((m, n)) < 0.3 if seen else np.zeros((m, n), bool)
    allowed = ~had
    if items is not None:
        allowed &= np.isin(np.arange(n), items)
    if exclude is not None:
        allowed &= ~np.isin(np.arange(n), exclude)
    S = scores_of(model)
    if seen:
        words["seen"] = _matrix(seen, had)
    found = model.recommend(users, N=N, items=items, exclude=exclude, **words)
    rows = np.atleast_1d(users)
    mine = np.array([best(S[u], allowed[u], N) for u in rows], np.int64).reshape(len(rows), N)
    paid = np.where(mine < 0, -np.inf, np.take_along_axis(S[rows], np.maximum(mine, 0), 1))
    if np.ndim(users) == 0:
        mine, paid = mine[0], paid[0]
    return wrong(
        ids=np.array_equal(found.ids, mine),
        scores=np.array_equal(found.scores, paid),
        types=found.ids.dtype == np.int64 and found.scores.dtype == model.item_factors.dtype,
    )


def _rounded(dtype: Any, biases: str, mu: float | None, at: float) -> list[str]:
    """A constant so large that scores are rounded to equal ones: then the lower id comes first."""
    draw = np.random.default_rng(4)
    U, V = draw.integers(-2, 3, (5, 3)).astype(dtype), draw.integers(-2, 3, (40, 3)).astype(dtype)
    b = (draw.integers(0, 3, 5) + (at if "user" in biases else 0)).astype(dtype) if "user" in biases else None
    d = (draw.integers(0, 3, 40) + (at if "item" in biases else 0)).astype(dtype) if "item" in biases else None
    model = lfm_np.Factors(U, V, user_bias=b, item_bias=d, global_bias=mu)
    S = U @ V.T
    if d is not None:
        S = (S + d).astype(dtype)
    one = np.zeros(5, dtype) if b is None else b
    S = (S + (np.asarray(mu or 0.0, dtype) + one)[:, None].astype(dtype)).astype(dtype)
    ids, scores = model.recommend(np.arange(5), N=12, exclude=[0, 39])
    inner = (np.arange(40) > 0) & (np.arange(40) < 39)
    return wrong(
        ids=all(ids[u].tolist() == best(S[u], inner, 12) for u in range(5)),
        scores=all(np.array_equal(scores[u], S[u][ids[u]]) for u in range(5)),
        pairs=np.array_equal(model.scores(np.repeat(np.arange(5), 40), np.tile(np.arange(40), 5)).reshape(5, 40), S),
    )


def _scaled(left: int, right: int, k: int, seen: str) -> list[str]:
    """Powers of two beside whole numbers: squares of these float32 leave its range, scores do not."""
    draw = np.random.default_rng(k)
    U = draw.integers(-3, 4, (6, k)) * 2.0**left
    V = draw.integers(-3, 4, (70, k)) * 2.0 ** (right - draw.integers(0, 2, 70))[:, None]
    model = lfm_np.Factors(U.astype(np.float32), V.astype(np.float32))
    return _lists(model, np.arange(6), 33, seen, exclude=np.arange(0, 70, 7))


def _like(side: str, asked: Any, N: int, metric: str, scale: float = 1.0, dtype: Any = "float64") -> list[str]:
    """The most similar of 40; one has no factors at all. Cosines are compared as numbers, and their order by size."""
    draw = np.random.default_rng(6)
    F = draw.integers(-4, 5, (40, 3)) if metric == "inner" else draw.normal(size=(40, 3))
    F[7] = 0
    F = (F * scale).astype(dtype)
    other = np.ones((4, 3), dtype)
    biases = {"user_bias": np.arange(40 if side == "users" else 4).astype(dtype), "global_bias": 3.0}
    model = lfm_np.Factors(*((F, other) if side == "users" else (other, F)), **biases)
    G = F.astype(np.float64) / scale
    S = G @ G.T
    if metric == "cosine":
        long = np.sqrt(np.diag(S))
        long[7] = 1.0
        S = S / long[:, None] / long
    else:
        S = S * scale**2
    found = getattr(model, f"similar_{side}")(asked, N=N, metric=metric)
    rows = np.atleast_1d(asked)
    ids, scores = np.atleast_2d(found.ids), np.atleast_2d(found.scores)
    facts = {"shape": found.ids.shape == (*np.shape(asked), N)}
    for place, i in enumerate(rows):
        mine = best(S[i], np.ones(40, bool), N)
        there = np.array(mine) >= 0
        if metric == "inner" or i != 7:
            facts[f"ids {place}"] = ids[place].tolist() == mine
        facts[f"scores {place}"] = abs(scores[place][there] - S[i][ids[place][there]]).max() <= 1e-6 * max(1.0, S.max())
        facts[f"rest {place}"] = (scores[place][~there] == -np.inf).all()
    return wrong(**facts)


def _zeros(which: str) -> list[str]:
    """Whether a stored zero of ``seen`` was seen: only where zero is a value to the model."""
    cells = {
        (0, 0): 3.0,
        (0, 1): 0.0,
        (1, 2): 0.0,
        (1, 0): 2.0,
        (2, 3): 4.0,
        (2, 1): 0.0,
        (3, 4): 1.0,
        (3, 2): 5.0,
        (0, 4): 2.0,
    }
    X = sp.csr_array((list(cells.values()), tuple(zip(*cells, strict=True))), shape=(4, 5))
    words = {"factors": 2, "random_state": 0, "dtype": "float64"}
    if which == "confidence":
        model = lfm_np.als(X, weighting="confidence", **words)
    elif which == "BPR":
        model = lfm_np.sgd(X, lfm_np.losses.BPR(weighted=True), epochs=2, **words)
    elif which == "Poisson":
        model = lfm_np.sgd(X, lfm_np.losses.Poisson(), sampler=None, epochs=2, **words)
    elif which == "Squared":
        model = lfm_np.sgd(X, lfm_np.losses.Squared(), sampler=None, biases=True, epochs=2, **words)
    else:
        model = lfm_np.als(X, weighting="ratings", biases=True, **words)
    if which == "ratings, folded in":
        model = model.fold_in_users(X)
    elif which == "ratings, updated":
        model = model.update(X[[0]], users=[0])
    elif which == "ratings, from a file":
        with folder() as place:
            model.save(place / "m")
            model = lfm_np.Factors.load(place / "m")
    counts = which in ("Squared", "ratings") or which.startswith("ratings,")
    allowed = np.ones((4, 5), bool)
    for place, value in cells.items():
        allowed[place] = value == 0 and not counts
    S = np.array([model.scores(u, np.arange(5)) for u in range(4)])
    ids = model.recommend(np.arange(4), N=5, seen=X, exclude=[4]).ids
    allowed[:, 4] = False
    return wrong(**{f"user {u}": ids[u].tolist() == best(S[u], allowed[u], 5) for u in range(4)})


def _minus_zero() -> list[str]:
    """0 and -0 are equal scores."""
    V = np.array([[-1.0, 0.0], [0.0, 0.0], [-0.0, -0.0], [0.0, 1.0], [0.0, -1.0], [-0.0, 0.0]])
    model = lfm_np.Factors(
        np.array([[1.0, 0.0], [-1.0, 0.0]]), V, item_bias=np.array([0.0, -0.0, 0.0, -0.0, 0.0, -0.0])
    )
    ids = model.recommend([0, 1], N=6, exclude=[4]).ids
    return wrong(first=ids[0].tolist() == [1, 2, 3, 5, 0, -1], second=ids[1].tolist() == [0, 1, 2, 3, 5, -1])


def _unknown_values() -> list[str]:
    """Cells of Interactions whose value is unknown happened."""
    data = lfm_np.Interactions.from_arrays([0, 0, 1, 2, 2], [0, 2, 1, 0, 3], [np.nan, 1.0, np.nan, 2.0, 3.0])
    model = whole(3, 4, seed=3)
    S = scores_of(model)
    allowed = np.array([[0, 1, 0, 1], [1, 0, 1, 1], [0, 1, 1, 0]], bool)
    ids = model.recommend([0, 1, 2], N=3, seen=data, items=[3, 1, 0]).ids
    allowed[:, 2] = False
    return wrong(**{str(u): ids[u].tolist() == best(S[u], allowed[u], 3) for u in range(3)})


def _paired(users: Any, items: Any, dtype: str) -> list[str]:
    model = whole(6, 5, biases="user", mu=0.5, dtype=dtype)
    found = model.scores(users, items)
    mine = scores_of(model)[np.asarray(users, np.int64), np.asarray(items, np.int64)]
    return wrong(
        same=np.array_equal(found, mine), shape=np.shape(found) == mine.shape, dtype=found.dtype == np.dtype(dtype)
    )


def _frame(backend: str, origin: str, users: Any, N: int, items: Any, exclude: Any, parquet: bool = False) -> list[str]:
    """Rows of a table of ids, beside dictionaries."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    who = np.array(["zoë", "ann", "bob", "ann", "eve", "bob", "zoë"])
    what = np.array([30, 10, 30, 20, 50, 40, 10])
    data = lfm_np.Interactions.from_arrays(who, what)
    if origin:
        frame = __import__(origin).DataFrame({"user": who.tolist(), "item": what.tolist()})
        data = lfm_np.Interactions.from_frame(frame)
    names, goods = ["ann", "bob", "eve", "zoë"], [10, 20, 30, 40, 50]
    model = whole(4, 5, biases="item", seed=8)
    S, had = scores_of(model), set(zip(who.tolist(), what.tolist(), strict=True))
    mine = []
    for name in names if users is None else users:
        fit = [i for i in goods if (name, i) not in had and (items is None or i in items) and i not in (exclude or ())]
        row = S[names.index(name)]
        fit.sort(key=lambda i: (-row[goods.index(i)], i))
        mine += [(name, i, row[goods.index(i)], r) for r, i in enumerate(fit[:N], 1)]
    words = {"N": N, "seen": data, "items": items, "exclude": exclude}
    if parquet:
        with folder() as place:
            lfm_np.recommend_parquet(model, data, place / "best.parquet", users, **words)
            found = pq.read_table(place / "best.parquet")
    else:
        found = lfm_np.recommend_frame(model, data, users, backend=backend or None, **words)
    library = type(found).__module__.split(".")[0]
    columns = found.to_pydict() if isinstance(found, pa.Table) else {name: list(found[name]) for name in found.columns}
    rows = list(zip(*(columns[name] for name in ("user", "item", "score", "rank")), strict=True))
    return wrong(
        rows=[tuple(row) for row in rows] == mine, library=parquet or library == (backend or origin or "pyarrow")
    )


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    every = np.arange(9)
    for name, model, users, N, words in (
        (
            "beyond the items, seen, some items, equal scores",
            {"n": 20, "dtype": "float32"},
            every,
            25,
            {"seen": "bool", "items": [17, 3, 9, 3, 0, 12]},
        ),
        (
            "items and exclude overlap, seen twice",
            {"n": 30},
            every,
            8,
            {"seen": "twice", "items": np.arange(5, 25), "exclude": np.arange(0, 30, 3)},
        ),
        ("255 of 256 items, biases of items", {"n": 256, "biases": "item"}, every, 255, {"exclude": [255]}),
        (
            "256 of 257 items in float32, seen",
            {"n": 257, "dtype": "float32"},
            every,
            256,
            {"seen": "int8", "num_threads": 2},
        ),
        (
            "257 of 255 items, all biases, seen",
            {"n": 255, "biases": "user item", "mu": -3.0},
            every,
            257,
            {"seen": "interactions"},
        ),
        ("32 of 64, ties, 16 factors", {"n": 64, "k": 16, "dtype": "float32"}, every, 32, {"exclude": [0, 1, 63]}),
        ("33 of 65, ties, 17 factors", {"n": 65, "k": 17, "dtype": "float32"}, every, 33, {"seen": "zeros"}),
        (
            "users twice and backwards, whole matrix of zeros too",
            {"n": 30},
            [8, 0, 8, 3],
            6,
            {"seen": "zeros", "exclude": [2, 2]},
        ),
        (
            "a scalar user, items, seen",
            {"n": 30, "biases": "user"},
            4,
            5,
            {"seen": "int8", "items": np.arange(20, dtype=np.uint8)},
        ),
        ("a scalar user for whom nothing is left", {"n": 6}, np.int32(2), 3, {"items": [1, 4], "exclude": [4, 1, 0]}),
        ("the best of all but one", {"n": 12, "k": 1}, every, 1, {"exclude": [5]}),
        ("one item, three places, its bias and μ", {"n": 1, "biases": "item", "mu": 7.0}, every, 3, {}),
        ("nobody asked", {"n": 12}, np.zeros(0, np.int64), 4, {"seen": "bool", "exclude": [1]}),
        (
            "without factors, all biases",
            {"n": 70, "k": 0, "biases": "user item", "mu": 0.25},
            every,
            66,
            {"seen": "twice"},
        ),
    ):
        yield _holds(f"lists: {name}", lambda a=model, u=users, N=N, w=words: _lists(whole(9, **a), u, N, **w))
    for dtype, biases, mu, at in (
        ("float32", "", 1e8, 0.0),
        ("float32", "user", None, 1e8),
        ("float32", "item", None, 6e7),
        ("float32", "user item", -1e8, 3e7),
        ("float64", "user item", 3e16, 0.0),
    ):
        yield _holds(
            f"lists: rounded to equal, {dtype}, {biases or 'no'} biases of {at:g}, μ {mu}",
            lambda a=(dtype, biases, mu, at): _rounded(*a),
        )
    for left, right, k, seen in ((-30, 80, 3, "bool"), (30, -80, 9, ""), (80, -50, 2, "int8"), (-60, -60, 17, "twice")):
        yield _holds(
            f"lists: 2^{left} by 2^{right}, {k} factors, {seen or 'nothing'} seen",
            lambda a=(left, right, k, seen): _scaled(*a),
        )
    for side, asked, N, metric, scale, dtype in (
        ("items", [3, 7, 3], 45, "inner", 1.0, "float32"),
        ("users", 5, 40, "inner", 0.5, "float64"),
        ("items", [0, 39], 41, "cosine", 1e-3, "float64"),
        ("users", [7, 1], 6, "cosine", 1.0, "float32"),
        ("items", 11, 39, "cosine", 2.0**70, "float32"),
        ("users", [2, 2], 3, "cosine", 2.0**-75, "float32"),
    ):
        yield _holds(
            f"lists: {N} {side} like {asked}, {metric}, times {scale:g}, {dtype}",
            lambda a=(side, asked, N, metric, scale, dtype): _like(*a),
        )
    for which in (
        "confidence",
        "BPR",
        "Poisson",
        "Squared",
        "ratings, folded in",
        "ratings, updated",
        "ratings, from a file",
    ):
        yield _holds(f"lists: zeros that were seen, {which}", lambda a=which: _zeros(a))
    yield _holds("lists: zero and minus zero, biases and factors", _minus_zero)
    yield _holds("lists: unknown values are seen, some items only", _unknown_values)
    yield _holds(
        "lists: scores of a scalar and an array of int8", lambda: _paired(4, np.array([0, 4, 4], np.int8), "float32")
    )
    yield _holds("lists: scores of two scalars with biases", lambda: _paired(np.uint16(2), 3, "float64"))
    yield _holds("lists: scores of no pair", lambda: _paired(np.zeros(0, np.int32), np.zeros(0, np.int64), "float32"))
    if installed("pyarrow", "narwhals", "pandas", "polars"):
        for name, a in (
            ("polars from pandas, two users", ("polars", "pandas", ["zoë", "ann"], 3, None, [10])),
            ("the origin's library, some items", ("", "polars", None, 2, [50, 20, 10], None)),
            ("pandas from arrays, both filters", ("pandas", "", ["bob"], 9, [10, 20, 30], [20])),
            ("a file of some, asked twice", ("", "pandas", ["eve", "bob"], 4, [10, 20, 40], [40], True)),
            ("a file of all, short lists", ("", "", None, 5, None, [30, 50], True)),
        ):
            yield _holds(f"lists: table, {name}", lambda a=a: _frame(*a))
