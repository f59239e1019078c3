"""Fold-in, update, explain, objective and files, with options that are rarely used together."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import scipy.sparse as sp

from .case import Case
from .cases_pairs_of_solvers import PAIRS, Ask, gaps, lfm_np, near, scores_of
from .working_days import best, csr, faultless, folder, start, wrong

_holds = faultless(PAIRS)
RATINGS = Ask("ratings", lam=0.3, nu=1.0, biases=True)


def _fitted(ask: Ask, X: np.ndarray, k: int = 3, **more: Any) -> Any:
    words = {"factors": k, "iterations": 2, "init": start(*X.shape, k), "dtype": "float64", **ask.words, **more}
    return lfm_np.als(csr(X), **words)


def _given(
    m: int = 7, n: int = 9, k: int = 3, seed: int = 2, dtype: Any = np.float64, biases: str = "", mu: Any = None
) -> Any:
    """Factors that nobody fitted; ``biases`` names the sides that have some."""
    draw = np.random.default_rng(seed)
    words: dict[str, Any] = {"global_bias": mu}
    for side, size in (("user", m), ("item", n)):
        if side in biases:
            words[f"{side}_bias"] = draw.normal(size=size).astype(dtype)
    return lfm_np.Factors(draw.normal(size=(m, k)).astype(dtype), draw.normal(size=(n, k)).astype(dtype), **words)


def _zero_or(x: Any) -> Any:
    return 0.0 if x is None else x.astype(np.float64) if isinstance(x, np.ndarray) else x


def _folded(
    model: Any, ask: Ask, X: np.ndarray, side: str, tolerance: float = 1e-8, cells: Any = None, **words: Any
) -> list[str]:
    """New rows (or columns) of X beside the other side of the model."""
    users = side == "users"
    other = (model.item_factors if users else model.user_factors).astype(np.float64)
    theirs = _zero_or(model.item_bias if users else model.user_bias)
    own = (model.user_bias if users else model.item_bias) is not None
    mine, bias = ask.rows(X if users else X.T, other, _zero_or(model.global_bias) + theirs, own)
    given = csr(X) if cells is None else cells
    new = model.fold_in_users(given, **words) if users else model.fold_in_items(given, **words)
    found = new.user_factors if users else new.item_factors
    found_bias = new.user_bias if users else new.item_bias
    kept = new.item_factors if users else new.user_factors
    return wrong(
        factors=near(found, mine, tolerance),
        bias=near(found_bias, bias, tolerance) if own else found_bias is None,
        kept=np.array_equal(kept, model.item_factors if users else model.user_factors),
        mu=new.global_bias == model.global_bias,
        dtype=found.dtype == kept.dtype == model.item_factors.dtype,
    )


def _after_mmap() -> list[str]:
    ask, X = Ask("confidence", 4.0, 0.3, 0.2, 1.0), gaps()
    with folder() as place:
        _fitted(ask, X, dtype="float32").save(place / "model")
        model = lfm_np.Factors.load(place / "model", mmap=True)
        return _folded(model, ask, gaps(5, 9, 4), "users", 1e-3)


def _of_sgd() -> list[str]:
    """Without unobserved_weight it is 1."""
    X = gaps(12, 9, 5)
    model = lfm_np.sgd(csr(X), factors=3, epochs=3, dtype="float64", schedule="adagrad", random_state=1)
    ask = Ask("ials", 2.0, 1.0, 0.4, 0.5)
    words = {name: value for name, value in ask.half.items() if name != "unobserved_weight"}
    return _folded(model, ask, gaps(4, 9, 6), "users", **words)


def _items_of_folded() -> list[str]:
    """Users folded in, and items beside them; parameters are those of the fit all along."""
    ask, X = Ask("ials", 3.0, 0.2, 0.3, 0.5), gaps()
    model = _fitted(ask, X)
    rows, columns = gaps(6, 9, 7), gaps(6, 4, 8, values=(1, 2))
    new = model.fold_in_users(csr(rows)).fold_in_items(csr(columns))
    U = ask.rows(rows, model.item_factors)[0]
    V = ask.rows(columns.T, U)[0]
    return wrong(shape=new.shape == (6, 4), scores=near(scores_of(new), U @ V.T, 1e-8))


def _cost(model: Any, ask: Ask, X: np.ndarray, matrix: Any = None, **words: Any) -> list[str]:
    parts = (model.user_bias, model.item_bias)
    biases = [None if part is None else part.astype(np.float64) for part in parts]
    U, V = model.user_factors.astype(np.float64), model.item_factors.astype(np.float64)
    mine = ask.cost(X, U, V, *biases, _zero_or(model.global_bias))
    found = lfm_np.objective(csr(X) if matrix is None else matrix, model, **words)
    return wrong(near=near(found, mine, 1e-9), plain=isinstance(found, float))


def _cost_of_sgd() -> list[str]:
    X = gaps(12, 9, 5)
    model = lfm_np.sgd(csr(X), factors=3, epochs=2, dtype="float64", random_state=1, regularization={"user": 0.5})
    return _cost(model, Ask("hu-koren", 2.0, 1.0, 0.3, 0.0), X, regularization=0.3, alpha=2.0)


def _cost_of_file() -> list[str]:
    X = gaps(values=(-1, 0, 2))
    with folder() as place:
        _fitted(RATINGS, X).save(place / "model")
        return _cost(lfm_np.Factors.load(place / "model", mmap=True), RATINGS, X)


def _popular_cost() -> list[str]:
    """k = 0: what is left are the items' counts, as ratings."""
    from lfm_np.evaluation import most_popular

    X = gaps(6, 5, 1)
    model = most_popular(csr(X))
    counts = (~np.isnan(X)).sum(0).astype(np.float64)
    ask = Ask("ratings", lam=0.3, nu=0.5)
    mine = ask.cost(X, np.zeros((6, 0)), np.zeros((5, 0)), None, counts)
    found = lfm_np.objective(csr(X), model, **ask.half)
    return wrong(counts=np.array_equal(model.item_bias, counts), cost=near(found, mine, 1e-12))


def _updated_users(ask: Ask, dtype: str, tolerance: float, **words: Any) -> list[str]:
    X = gaps()
    model = _fitted(ask, X, dtype=dtype)
    rows, places = gaps(3, 9, 11), [4, 13, 14]
    new = model.update(csr(rows), users=places, **words)
    asked = ask._replace(lam=words.get("regularization", ask.lam))
    off = _zero_or(model.global_bias) + _zero_or(model.item_bias)
    mine, bias = asked.rows(rows, model.item_factors.astype(np.float64), off, ask.biases)
    others = np.delete(np.arange(13), 4)
    return wrong(
        shape=new.shape == (15, 9),
        rows=near(new.user_factors[places], mine, tolerance),
        others=np.array_equal(new.user_factors[others], model.user_factors[others]),
        items=np.array_equal(new.item_factors, model.item_factors),
        bias=near(new.user_bias[places], bias, tolerance) if ask.biases else new.user_bias is None,
        old=model.shape == (13, 9),
    )


def _updated_items() -> list[str]:
    X = gaps(values=(-2, 0, 3))
    model = _fitted(RATINGS, X)
    columns = gaps(13, 2, 12, values=(-2, 0, 3))
    new = model.update(sp.csc_array(csr(columns)), items=np.array([3, 9], np.int32))
    mine, bias = RATINGS.rows(columns.T, model.user_factors, model.global_bias + model.user_bias, True)
    others = np.delete(np.arange(9), 3)
    return wrong(
        items=near(new.item_factors[[3, 9]], mine, 1e-8) and near(new.item_bias[[3, 9]], bias, 1e-8),
        others=np.array_equal(new.item_factors[others], model.item_factors[others])
        and np.array_equal(new.item_bias[others], model.item_bias[others]),
        users=np.array_equal(new.user_factors, model.user_factors) and np.array_equal(new.user_bias, model.user_bias),
    )


def _grown_and_ranked() -> list[str]:
    """Users, then an item are added; lists leave out what the enlarged matrix has."""
    ask, X = Ask("ials", 2.0, 0.3, 0.2), gaps()
    rows, column = gaps(2, 9, 3), gaps(15, 1, 4, 0.6)
    model = _fitted(ask, X).update(csr(rows), users=[13, 14]).update(csr(column), items=[9])
    whole = np.column_stack([np.vstack([X, rows]), column])
    U = np.vstack([model.user_factors[:13], ask.rows(rows, model.item_factors[:9])[0]])
    ids = model.recommend(np.arange(15), N=10, seen=csr(whole)).ids
    S = model.user_factors @ model.item_factors.T
    new = ask.rows(column.T, U)[0]
    return wrong(
        item=near(model.item_factors[[9]], new, 1e-8),
        lists=all(ids[u].tolist() == best(S[u], np.isnan(whole[u]), 10) for u in range(15)),
    )


def _mapped_and_replaced() -> list[str]:
    """A mapped model is updated and saved over its own file; the mapped one stays as it was."""
    ask, X = Ask("hu-koren", 3.0, 0.5, 0.2, 1.0), gaps()
    with folder() as place:
        first = _fitted(ask, X, dtype="float32")
        first.save(place / "model")
        mapped = lfm_np.Factors.load(place / "model", mmap=True)
        mapped.update(csr(gaps(1, 9, 2)), users=[0]).save(place / "model")
        again = lfm_np.Factors.load(place / "model")
        mine = ask.rows(gaps(1, 9, 2), first.item_factors.astype(np.float64))[0]
        return wrong(
            mapped=np.array_equal(mapped.user_factors, first.user_factors),
            new=near(again.user_factors[:1], mine, 1e-3),
            rest=np.array_equal(again.user_factors[1:], first.user_factors[1:]),
        )


def _explained(ask: Ask, user: int, item: int, grown: bool = False) -> list[str]:
    """Every cell's share by the inverse of the row's normal equations."""
    X = gaps(values=(1, 2.5, 4))
    model = _fitted(ask, X)
    if grown:
        X = np.vstack([X, gaps(1, 9, 3)])
        model = model.update(csr(X[-1:]), users=[13])
    V = model.item_factors
    off = (model.global_bias + model.item_bias) if ask.biases else np.zeros(9)
    Y = np.column_stack([V, np.ones(9)]) if ask.biases else V
    C, P = ask.weights(X[user : user + 1])
    A = (Y.T * C[0]) @ Y + ask.held(X[user]) * np.eye(Y.shape[1])
    cells = np.flatnonzero(~np.isnan(X[user]))
    pulls = {int(i): np.linalg.solve(A, Y[i]) * C[0, i] * (P[0, i] - off[i]) for i in cells}
    shares = {i: float(Y[item] @ pull) for i, pull in pulls.items()}
    plain = {i: float(V[item] @ pull[:3]) for i, pull in pulls.items()}  # the user's bias may stay in the baseline
    why = model.explain(user, item, csr(X))
    found = dict(zip(np.asarray(why.items).tolist(), np.asarray(why.contributions).tolist(), strict=True))
    score = off[item] + sum(shares.values())
    return wrong(
        items=set(found) == set(shares),
        shares=set(found) == set(shares)
        and any(near([found[i] for i in part], list(part.values()), 1e-8) for part in (shares, plain)),
        score=near(why.score, score, 1e-8),
        sum=abs(why.baseline + np.sum(why.contributions) - why.score) < 1e-9,
        folded=near(scores_of(model.fold_in_users(csr(X[user : user + 1])))[0, item], score, 1e-8),
    )


def _read_by_others() -> list[str]:
    """The tensors by the safetensors library: no user bias, float64."""
    from safetensors.numpy import load_file

    model = _given(biases="item", mu=0.25)
    with folder() as place:
        model.save(place / "a model without ending")
        tensors = {name: array.copy() for name, array in load_file(place / "a model without ending").items()}
        again = lfm_np.Factors.load(place / "a model without ending", mmap=True)
        return wrong(
            names=set(tensors) == {"user_factors", "item_factors", "item_bias"},
            same=all(np.array_equal(tensors[name], getattr(model, name)) for name in tensors),
            mu=again.global_bias == 0.25 and again.user_bias is None,
            scores=near(again.scores(np.arange(7), 3), scores_of(model)[:, 3], 1e-12),
        )


def _kept_story() -> list[str]:
    """History that a callback wrote, status and parameters, through a file, a pickle and a deep copy."""
    X = gaps()

    def tell(record: Any, factors: Any) -> None:
        record["said"] = f"größer {record['iteration']}"
        record["sizes"] = [1, 2.5, None]
        if record["iteration"] == 2:
            raise StopIteration

    model = lfm_np.als(csr(X), factors=3, callback=tell, random_state=4, dtype="float64", **RATINGS.words)
    facts = {}
    with folder() as place:
        model.save(place / "m")
        mapped = lfm_np.Factors.load(place / "m", mmap=True)
        for name, other in (
            ("file", mapped),
            ("pickle", pickle.loads(pickle.dumps(mapped))),
            ("copy", copy.deepcopy(mapped)),
        ):
            facts[name] = (
                [(r["iteration"], r["said"], r["sizes"]) for r in other.history]
                == [(i, f"größer {i}", [1, 2.5, None]) for i in (1, 2)]
                and other.status is lfm_np.Status.STOPPED
                and other.params["weighting"] == "ratings"
                and other.params["regularization_exponent"] == 1.0
                and [r["objective"] for r in other.history] == [r["objective"] for r in model.history]
                and np.array_equal(other.user_bias, model.user_bias)
            )
    return wrong(**facts)


def _popular_file() -> list[str]:
    """k = 0 in a file."""
    from lfm_np.evaluation import most_popular

    X = gaps(9, 7, 3)
    with folder() as place:
        most_popular(csr(X)).save(place / "m")
        again = lfm_np.Factors.load(place / "m", mmap=True)
        counts = (~np.isnan(X)).sum(0)
        ids, scores = again.recommend(np.arange(9), N=8, seen=csr(X), exclude=[0])
        allowed = np.isnan(X) & (np.arange(7) != 0)
        return wrong(
            ids=all(ids[u].tolist() == best(counts, allowed[u], 8) for u in range(9)),
            scores=all((scores[u][ids[u] >= 0] == counts[ids[u][ids[u] >= 0]]).all() for u in range(9)),
        )


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    X, new = gaps(), gaps(6, 9, 13)
    low, low_rows, low_columns = (gaps(m, n, m, values=(-2, 0, 3)) for m, n in ((13, 9), (6, 9), (13, 4)))
    columns, more_columns = gaps(7, 4, 3), gaps(13, 3, 2)
    ials, conf, hu = (partial(Ask, name) for name in ("ials", "confidence", "hu-koren"))
    free, none = Ask("ratings", lam=0.25, nu=0.5), Ask("ratings", lam=0.0, nu=1.0)
    one, two = ials(2.0, 0.3, 0.2, 0.5), hu(2.0, 0.3, 0.2, 0.5)
    told, exactly = ({**ask.half, "alpha": 1.0} for ask in (free, none))  # factors that nobody fitted need all of them
    for name, model, ask, cells, side, words in (
        ("ratings below zero, biases, ν", lambda: _fitted(RATINGS, low), RATINGS, low_rows, "users", {}),
        ("items of ratings, biases, ν", lambda: _fitted(RATINGS, low), RATINGS, low_columns, "items", {}),
        ("items' biases and μ only", lambda: _given(biases="item", mu=1.5), free, low_rows, "users", told),
        ("users' biases and μ only", lambda: _given(biases="user", mu=1.5), free, low_rows, "users", told),
        ("items beside users' biases only", lambda: _given(biases="user"), free, columns, "items", told),
        ("items beside items' biases, no μ", lambda: _given(biases="item"), free, columns, "items", told),
        ("a bare μ", lambda: _given(mu=-2.0), free, low_rows, "users", told),
        ("another α", lambda: _fitted(one, X), one._replace(alpha=7.0), new, "users", {"alpha": 7.0}),
        (
            "another ν for items",
            lambda: _fitted(two, X),
            two._replace(nu=1.5),
            more_columns,
            "items",
            {"regularization_exponent": 1.5},
        ),
        (
            "another weighting and α₀",
            lambda: _fitted(two, X),
            conf(2.0, 0.7, 0.2, 0.5),
            new,
            "users",
            {"weighting": "confidence", "unobserved_weight": 0.7},
        ),
        ("257 rows, two threads", lambda: _fitted(one, X, 5), one, gaps(257, 9, 1, 0.5), "users", {"num_threads": 2}),
        ("more cells than factors, λ of zero", _given, none, gaps(5, 9, 1, 2.0), "users", exactly),
    ):
        yield _holds(f"fold-in: {name}", lambda f=model, a=(ask, cells, side), w=words: _folded(f(), *a, **w))
    coo = csr(new).tocoo()
    twice = sp.coo_array((np.tile(coo.data, 2), tuple(np.tile(place, 2) for place in coo.coords)), shape=new.shape)
    yield _holds("fold-in: pairs stored twice, ν", lambda: _folded(_fitted(two, X), two, 2 * new, "users", cells=twice))
    yield _holds("fold-in: a mapped file of float32, ν", _after_mmap)
    yield _holds("fold-in: of Adagrad, without unobserved_weight", _of_sgd)
    yield _holds("fold-in: items beside users who were folded in", _items_of_folded)
    yield PAIRS.either(
        "fold-in: ratings of a model of hu-koren, α₀ left out",
        lambda: _folded(_fitted(two, X), free, new, "users", weighting="ratings", regularization=0.25),
        lambda found: found == [],
        "unobserved_weight",
    )
    held = csr(X)
    held.data[::3] = 0.0
    without = np.where(np.isnan(X), np.nan, held.toarray())
    without[without == 0] = np.nan
    other = Ask("confidence", 2.0, 0.0, 0.2, 0.5)
    for name, model, ask, words, matrix in (
        ("another α of a fit of ials", lambda: _fitted(one, X), one._replace(alpha=5.0), {"alpha": 5.0}, None),
        ("defaults of factors in float32", lambda: _given(13, dtype=np.float32), hu(1.0, 1.0, 0.01, 0.0), {}, None),
        ("biases on one side and μ", lambda: _given(13, biases="item", mu=0.7), free, told, None),
        ("biases on the users' side, no μ", lambda: _given(13, biases="user"), free, free.half, None),
        (
            "confidence without empty cells of a fit of hu-koren",
            lambda: _fitted(two, X),
            other,
            {"weighting": "confidence", "unobserved_weight": 0.0},
            None,
        ),
        ("stored zeros of an implicit fit", lambda: _fitted(one, X), one, {"regularization": 0.2}, held),
    ):
        cells = X if matrix is None else without
        yield _holds(f"objective: {name}", lambda f=model, a=ask, c=cells, x=matrix, w=words: _cost(f(), a, c, x, **w))
    yield _holds("objective: factors of sgd with λ and α", _cost_of_sgd)
    yield _holds("objective: a mapped file, biases, ν, ratings of zero", _cost_of_file)
    yield _holds("objective: without factors, ratings, ν of a half", _popular_cost)
    yield PAIRS.either(
        "objective: ratings of a model of hu-koren, α₀ left out",
        lambda: _cost(_fitted(two, X), Ask("ratings", lam=0.2, nu=0.5), X, weighting="ratings"),
        lambda found: found == [],
        "unobserved_weight",
    )
    yield _holds(
        "update: ials, another λ, old and new users", lambda: _updated_users(one, "float64", 1e-8, regularization=2.0)
    )
    yield _holds("update: ratings with biases, ν, old and new users", lambda: _updated_users(RATINGS, "float64", 1e-8))
    yield _holds("update: hu-koren in float32", lambda: _updated_users(two, "float32", 1e-3, num_threads=2))
    yield _holds("update: items of ratings with biases, CSC, ids of int32", _updated_items)
    yield _holds("update: users, then an item, then lists", _grown_and_ranked)
    yield _holds("update: a mapped model, saved over its own file", _mapped_and_replaced)
    for ask, user, item, grown in (
        (hu(3.0, 0.4, 0.2, 1.0), 1, 5, False),
        (ials(2.0, 0.1, 0.3, 0.5), 0, 0, False),
        (conf(5.0, 0.3, 0.2, 1.0), 4, 8, True),
        (RATINGS, 1, 3, False),
        (Ask("ratings", lam=0.4, nu=0.5), 6, 7, False),
        (hu(1.5, 0.7, 0.1, 0.0), 13, 4, True),
        (RATINGS, 13, 6, True),
    ):
        said = f"explain: {ask.weighting}, ν of {ask.nu}, user {user}{', after an update' if grown else ''}"
        yield _holds(said, lambda a=(ask, user, item, grown): _explained(*a))
    yield _holds("files: items' biases only, read by the safetensors library", _read_by_others)
    yield _holds("files: history, status and parameters by way of mmap", _kept_story)
    yield _holds("files: no factors at all, mapped, then lists", _popular_file)
