"""Small analyses that end in lists: recommendations by ids, likenesses, reasons, newcomers and indexes, by sorting."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import scipy.sparse as sp

import lfm_np as library

from .case import Case, Group, installed
from .cases_notebooks_of_judgements import drawn_model
from .working_days import all_scores, best, close, csr, faultless, folder, stars, wrong

lfm_np: Any = library
_GROUP = Group("analysts' lists")
_holds = faultless(_GROUP)
TOWNS = ["Zug", "Bern", "Genf", "Chur", "Biel", "Thun", "Arth", "Visp", "Sion", "Olten", "Baden"]


def shopped() -> Any:
    """11 users, 13 items of the numbers 100, 93 … 16, in the order of the ids."""
    draw = np.random.default_rng(1)
    pairs = [(u, i) for u in range(11) for i in range(13) if draw.random() < 0.3 or (u + i) % 11 == 0]
    return lfm_np.Interactions.from_arrays([TOWNS[u] for u, _ in pairs], [100 - 7 * i for _, i in pairs])


def listed(model: Any, data: Any, users: Any, N: int, seen: bool, items: Any = None, out: Any = ()) -> list[Any]:
    """Rows of user, item, score and rank."""
    S, has = all_scores(model), data.matrix.toarray() > 0
    ids, rows = data.items.tolist(), data.users.tolist()
    found = []
    for user in users:
        u = rows.index(user)
        free = np.array([(items is None or i in items) and i not in out for i in ids])
        order = [c for c in best(S[u], free & ~(has[u] & seen), N) if c >= 0]
        found += [(user, ids[c], float(S[u, c]), rank) for rank, c in enumerate(order, 1)]
    return found


def table_is(rows: list[Any], mine: list[Any], tolerance: float = 1e-12) -> bool:
    """Ids and ranks are the same, scores within the tolerance."""
    return [(r[0], r[1], r[3]) for r in rows] == [(r[0], r[1], r[3]) for r in mine] and all(
        abs(r[2] - s[2]) <= tolerance for r, s in zip(rows, mine, strict=True)
    )


def _only_and_without() -> list[str]:
    """What is allowed, forbidden and seen together, with biases; lists longer than what remains."""
    draw = np.random.default_rng(2)
    model = drawn_model(17, 23, 3, 3, biases=True)
    seen = draw.random((17, 23)) < 0.3
    seen[4], seen[5] = True, False
    S = all_scores(model)
    users = np.array([4, 16, 5, 5, 0])
    facts: dict[str, Any] = {}
    for n, (items, out, N) in enumerate(
        (
            ([22, 3, 7, 11, 3], [7], 3),
            (None, [0, 0, 22], 23),
            ([5], [5], 2),
            (np.arange(22, -1, -1), None, 40),
            ([1, 2], [3, 4], 1),
        )
    ):
        ids, scores = model.recommend(users, N=N, seen=sp.csr_array(seen.astype(float)), items=items, exclude=out)
        free = np.isin(np.arange(23), np.arange(23) if items is None else items)
        free &= ~np.isin(np.arange(23), [] if out is None else out)
        mine = [best(S[u], free & ~seen[u], N) for u in users]
        facts[f"ids {n}"] = ids.tolist() == mine
        told = [[S[u, i] if i >= 0 else -np.inf for i in row] for u, row in zip(users, mine, strict=True)]
        facts[f"scores {n}"] = np.isneginf(scores).tolist() == np.isneginf(told).tolist() and close(
            scores[ids >= 0], np.array(told)[ids >= 0], 1e-12
        )
    return wrong(**facts)


def _scores_of_pairs() -> list[str]:
    model = drawn_model(6, 9, 2, 4, biases=True)
    S = all_scores(model)
    users, items = np.array([5, 0, 5, 2]), np.array([8, 8, 0, 3])
    lists = model.recommend([2, 5], N=9)
    return wrong(
        pairs=close(model.scores(users, items), S[users, items], 1e-13),
        one_user=close(model.scores(3, items), S[3, items], 1e-13),
        one_item=close(model.scores(users, 1), S[users, 1], 1e-13),
        single=np.shape(model.scores(2, 2)) == () and abs(float(model.scores(2, 2)) - S[2, 2]) < 1e-13,
        none=model.scores(np.array([], int), np.array([], int)).shape == (0,),
        same=np.array_equal(model.scores(np.repeat([2, 5], 9), lists.ids.ravel()), lists.scores.ravel()),
    )


def _frames(backend: str) -> list[str]:
    data = shopped()
    model = drawn_model(11, 13, 3, 5, biases=True)
    facts: dict[str, Any] = {}
    for n, (users, N, seen, items, out) in enumerate(
        (
            (["Thun", "Arth", "Thun"], 4, True, None, ()),
            (["Visp"], 50, True, None, (16, 93)),
            (["Zug", "Baden"], 3, False, (44, 51, 58, 16), (51,)),
            (None, 2, True, None, ()),
        )
    ):
        words = {"items": items, "exclude": out or None, "seen": data if seen else None}
        frame = lfm_np.recommend_frame(model, data, users, N=N, backend=backend, **words)
        columns = [
            frame[name].to_pylist() if backend == "pyarrow" else frame[name].to_list()
            for name in ("user", "item", "score", "rank")
        ]
        rows = list(zip(*columns, strict=True))
        facts[str(n)] = table_is(rows, listed(model, data, users or data.users.tolist(), N, seen, items, out))
    return wrong(**facts)


def _parquet() -> list[str]:
    """All users, of whom one has everything; lists longer than the catalogue."""
    pq: Any = importlib.import_module("pyarrow.parquet")
    days = np.datetime64("2024-01-30") + np.arange(5)
    has = np.random.default_rng(6).random((5, 4)) < 0.4
    has[2], has[0] = True, False
    X = sp.csr_array(has.astype(np.float32))
    data = lfm_np.Interactions(X, days, np.array(["d", "b", "a", "c"]))
    model = drawn_model(5, 4, 2, 7)
    with folder() as place:
        lfm_np.recommend_parquet(model, data, place / "all", N=9, seen=X, exclude=["b"])
        lfm_np.recommend_parquet(model, data, place / "two", users=days[[4, 0]], N=2, items=["c", "d"])
        every, two = ((pq.read_table(place / name)).to_pylist() for name in ("all", "two"))
    for row in every + two:
        row["user"] = np.datetime64(row["user"], "D").item()
    fields = ("user", "item", "score", "rank")
    facts = {
        "all": table_is(
            [[r[f] for f in fields] for r in every], listed(model, data, days.tolist(), 9, True, None, ["b"])
        ),
        "two": table_is(
            [[r[f] for f in fields] for r in two], listed(model, data, days[[4, 0]].tolist(), 2, False, ["c", "d"])
        ),
        "nobody": all(r["user"] != days[2].item() for r in every),
    }
    return wrong(**facts)


def _alike() -> list[str]:
    """Cosines and products, a zero vector among them; biases play no part; lists longer than all."""
    draw = np.random.default_rng(8)
    U, V = draw.normal(size=(6, 3)), draw.normal(size=(8, 3)) * np.logspace(-3, 3, 8)[:, None]
    V[5] = 0
    model = lfm_np.Factors(U, V, item_bias=draw.normal(size=8) * 100, user_bias=draw.normal(size=6))
    facts: dict[str, Any] = {}
    for name, F, call in (("items", V, model.similar_items), ("users", U, model.similar_users)):
        norms = np.sqrt((F**2).sum(1))
        unit = F / np.where(norms > 0, norms, 1)[:, None]
        asked = np.array([len(F) - 1, 0, 5])
        for metric, G in (("cosine", unit @ unit.T), ("inner", F @ F.T)):
            for N in (3, len(F) + 2):
                ids, scores = call(asked, N=N, metric=metric)
                mine = [best(G[a], np.ones(len(F), bool), N) for a in asked]
                right = [G[a, i] for a, row in zip(asked, mine, strict=True) for i in row if i >= 0]
                facts[f"{name} {metric} {N}"] = ids.tolist() == mine and close(scores[ids >= 0], right, 1e-12)
    one = model.similar_items(2, N=1)
    return wrong(itself=one.ids.tolist() == [2] and abs(float(one.scores[0]) - 1) < 1e-12, **facts)


def _solved(V: np.ndarray, x: np.ndarray, c: np.ndarray, t: np.ndarray, a0: float, lam: float) -> np.ndarray:
    """One row by its normal equations; c and t where x is stored."""
    has = ~np.isnan(x)
    A = a0 * V[~has].T @ V[~has] + (V[has].T * c[has]) @ V[has] + lam * np.eye(V.shape[1])
    solved: np.ndarray = np.linalg.solve(A, V[has].T @ (c[has] * t[has]))
    return solved


def _reasons() -> list[str]:
    """The contribution of item j to a score is v·A⁻¹v_j c_j p_j, in three weightings, for a model from elsewhere."""
    X = stars(8, 10, 9)
    model = drawn_model(8, 10, 3, 10)
    V = model.item_factors
    facts: dict[str, Any] = {}
    for weighting, alpha, a0, lam, nu in (
        ("hu-koren", 3.0, 0.5, 0.2, 1.0),
        ("ials", 0.7, 0.2, 2.0, 0.5),
        ("confidence", 2.0, 1.0, 0.1, 0.0),
    ):
        words = {"weighting": weighting, "alpha": alpha, "unobserved_weight": a0, "regularization": lam}
        for u, i in ((0, 9), (7, 0)):
            x, has = X[u], ~np.isnan(X[u])
            y = np.where(has, x, 0.0)
            c = {"hu-koren": 1 + alpha * y, "ials": a0 + alpha * y, "confidence": alpha * y}[weighting]
            p = alpha * y / c if weighting == "ials" else np.ones(10)
            held = lam * (has.sum() + a0 * 10) ** nu
            A = a0 * V[~has].T @ V[~has] + (V[has].T * c[has]) @ V[has] + held * np.eye(3)
            mine = {j: float(V[i] @ np.linalg.solve(A, V[j])) * c[j] * p[j] for j in np.flatnonzero(has).tolist()}
            why = model.explain(u, i, csr(X), regularization_exponent=nu, **words)
            found = dict(zip(why.items.tolist(), why.contributions.tolist(), strict=True))
            key = f"{weighting} {u}"
            facts[key] = set(found) == set(mine) and all(abs(found[j] - mine[j]) < 1e-10 for j in mine)
            facts[f"score {key}"] = abs(why.score - sum(mine.values())) < 1e-10 and abs(why.baseline) < 1e-12
    return wrong(**facts)


def _newcomers() -> list[str]:
    """Two new people, one of whom has nothing, of an iALS fit: rows by normal equations, lists by sorting."""
    X = stars(20, 12, 11)
    fit = lfm_np.als(
        csr(X), factors=4, weighting="ials", alpha=0.5, unobserved_weight=0.3, regularization=0.05,
        regularization_exponent=1.0, iterations=2, dtype="float64", random_state=0,
    )  # fmt: skip
    new = np.full((3, 12), np.nan)
    new[0, [3, 7, 8]], new[2, [0]] = [5, 1, 2], 4
    V = fit.item_factors
    mine = np.zeros((3, 4))
    for r in (0, 2):
        has = ~np.isnan(new[r])
        y = np.where(has, new[r], 0.0)
        c = 0.3 + 0.5 * y
        mine[r] = _solved(V, new[r], c, 0.5 * y / c, 0.3, 0.05 * (has.sum() + 0.3 * 12))
    people = fit.fold_in_users(csr(new))
    ids = people.recommend([0, 1, 2], N=12, seen=csr(new)).ids
    S = mine @ V.T
    return wrong(
        rows=close(people.user_factors, mine, 1e-9),
        items=np.array_equal(people.item_factors, V),
        lists=[ids[r].tolist() for r in (0, 2)] == [best(S[r], np.isnan(new[r]), 12) for r in (0, 2)],
        nothing=ids[1].tolist() == list(range(12)),
    )


def _new_films() -> list[str]:
    """Ratings with biases: new columns and their biases, from users whose biases and μ are subtracted."""
    X = stars(18, 9, 12)
    fit = lfm_np.als(
        csr(X), factors=2, weighting="ratings", biases=True, regularization=0.4, regularization_exponent=1.0,
        iterations=3, dtype="float64", random_state=1,
    )  # fmt: skip
    new = stars(18, 3, 13)
    grown = fit.fold_in_items(csr(new))
    Y = np.column_stack([fit.user_factors, np.ones(18)])
    mine = []
    for x in new.T:
        has = ~np.isnan(x)
        A = Y[has].T @ Y[has] + 0.4 * has.sum() * np.eye(3)
        mine.append(np.linalg.solve(A, Y[has].T @ (x[has] - fit.global_bias - fit.user_bias[has])))
    found = np.column_stack([grown.item_factors, grown.item_bias])
    mean = float(np.mean(X[~np.isnan(X)]))
    return wrong(
        columns=close(found, np.array(mine), 1e-9),
        users=np.array_equal(grown.user_factors, fit.user_factors) and np.array_equal(grown.user_bias, fit.user_bias),
        mean=abs(fit.global_bias - mean) < 1e-12 and grown.global_bias == fit.global_bias,
        shape=grown.shape == (18, 3),
    )


def _kept_up_to_date(side: str) -> list[str]:
    """One row is refreshed and two are added, out of order; all others keep their bits."""
    X = stars(10, 10, 14)
    fit = lfm_np.als(csr(X), factors=3, alpha=2.0, regularization=0.3, iterations=2, dtype="float64", random_state=2)
    old, other = (fit.user_factors, fit.item_factors) if side == "users" else (fit.item_factors, fit.user_factors)
    new, places = stars(3, 10, 15), np.array([10, 4, 11])
    mine = old.copy()
    mine = np.vstack([mine, np.zeros((2, 3))])
    for place, x in zip(places, new, strict=True):
        y = np.where(np.isnan(x), 0.0, x)
        mine[place] = _solved(other, x, 1 + 2 * y, np.ones(10), 1.0, 0.3)
    given = csr(new) if side == "users" else sp.csr_array(csr(new).T)
    found = fit.update(given, **{side: places})
    rows, still = (
        (found.user_factors, found.item_factors) if side == "users" else (found.item_factors, found.user_factors)
    )
    kept = np.setdiff1d(np.arange(10), places)
    return wrong(
        rows=close(rows, mine, 1e-9),
        kept=np.array_equal(rows[kept], old[kept]) and np.array_equal(still, other),
        before=np.array_equal(old, fit.user_factors if side == "users" else fit.item_factors),
        shape=found.shape == ((12, 10) if side == "users" else (10, 12)),
    )


def _twice_updated() -> list[str]:
    """Somebody added by `update` is explained and recommended to as anybody else."""
    X = stars(9, 11, 16)
    fit = lfm_np.als(
        csr(X), factors=3, weighting="confidence", alpha=1.5, regularization=0.2, dtype="float64", random_state=3
    )
    row = stars(1, 11, 17)
    row[0, [1, 4, 6, 7]] = np.nan
    first = fit.update(csr(np.full((1, 11), np.nan)), users=[9])
    second = first.update(csr(row), users=[9])
    y = np.where(np.isnan(row[0]), 0.0, row[0])
    mine = _solved(fit.item_factors, row[0], 1.5 * y, np.ones(11), 1.0, 0.2)
    S = fit.item_factors @ mine
    whole = csr(np.vstack([X, row]))
    why = second.explain(9, 4, whole)
    return wrong(
        nothing=not first.user_factors[9].any(),
        row=close(second.user_factors[9], mine, 1e-9),
        lists=second.recommend(9, N=11, seen=whole).ids.tolist() == best(S, np.isnan(row[0]), 11),
        why=abs(why.score - S[4]) < 1e-9 and abs(why.baseline + why.contributions.sum() - S[4]) < 1e-9,
    )


def _vectors() -> list[str]:
    """All items of one norm, and products that are U·V + b; float32 of numbers that it holds."""
    draw = np.random.default_rng(18)
    U, V, d = draw.integers(-8, 9, (4, 3)) / 4, draw.integers(-8, 9, (30, 3)) / 4, draw.integers(-8, 9, 30) / 4
    ann = importlib.import_module("lfm_np.ann")
    facts: dict[str, Any] = {}
    for name, bias in (("biased", d), ("plain", None)):
        model = lfm_np.Factors(U, V, item_bias=bias, user_bias=np.full(4, 9.0), global_bias=2.0)
        b = np.zeros(30) if bias is None else bias
        items, users = ann.item_vectors(model), ann.user_vectors(model)
        norms = (V**2).sum(1) + b**2
        facts[name] = items.shape == (30, 5) and users.shape == (4, 5) and items.dtype == users.dtype == np.float32
        facts[f"norm {name}"] = close((items.astype(float) ** 2).sum(1), np.full(30, norms.max()), 1e-6)
        facts[f"products {name}"] = close(users.astype(float) @ items.T.astype(float), U @ V.T + b, 1e-6)
        facts[f"some {name}"] = np.array_equal(ann.user_vectors(model, [3, 1]), users[[3, 1]]) and np.array_equal(
            ann.user_vectors(model, 2), users[2]
        )
    return wrong(**facts)


def _index(kind: str) -> list[str]:
    """A search that may look at every item finds what sorting does, with exact scores, and pads beyond all."""
    ann = importlib.import_module("lfm_np.ann")
    model = drawn_model(9, 40, 4, 19, biases=True)
    S = all_scores(model)
    if kind == "usearch":
        index = ann.usearch_index(model, num_threads=1, connectivity=32, expansion_add=200, expansion_search=400)
    else:
        index = ann.faiss_index(model, connectivity=32, expansion_add=200)
        index.hnsw.efSearch = 400
    ids, scores = ann.search(index, model, [8, 0, 3], N=5)
    single = ann.search(index, model, 4, N=3)
    many = ann.search(index, model, [1], N=45)
    everyone = np.ones(40, bool)
    mine = [best(S[u], everyone, 5) for u in (8, 0, 3)]
    return wrong(
        ids=ids.tolist() == mine,
        scores=close(scores, [[S[u, i] for i in row] for u, row in zip((8, 0, 3), mine, strict=True)], 1e-12),
        single=single.ids.tolist() == best(S[4], everyone, 3) and single.scores.shape == (3,),
        many=many.ids.tolist() == [best(S[1], everyone, 45)] and np.isneginf(many.scores[0, 40:]).all(),
    )


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    yield _holds("only these, without those, and nothing seen", _only_and_without)
    yield _holds("scores of pairs, of one user, of one item", _scores_of_pairs)
    yield _holds("what is like this, by cosine and by product", _alike)
    yield _holds("reasons of models from elsewhere, in closed form", _reasons)
    yield _holds("newcomers, one without anything", _newcomers)
    yield _holds("new films beside biased users", _new_films)
    for side in ("users", "items"):
        yield _holds(f"{side} refreshed and added out of order", lambda s=side: _kept_up_to_date(s))
    yield _holds("a user added empty, filled, and explained", _twice_updated)
    yield _holds("vectors for an index", _vectors)
    for kind, package in (("usearch", "usearch"), ("faiss", "faiss")):
        if installed(package):
            yield _holds(f"{kind} that looks at everything", lambda k=kind: _index(k))
    for backend in ("pandas", "polars", "pyarrow"):
        if installed(backend, "pyarrow", "narwhals"):
            yield _holds(f"lists by ids, for {backend}", lambda b=backend: _frames(b))
    if installed("pyarrow", "narwhals"):
        yield _holds("lists of days, in Parquet", _parquet)
