"""The second year of a service: models that are folded in, saved, copied, continued and judged, beside loops."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import scipy.sparse as sp

import lfm_np

from .case import Case, Group
from .places import together
from .working_days import NAN, Model, all_scores, best, close, csr, faultless, judged, same, stars, start, wrong

_GROUP = Group("second year in production")
_holds = faultless(_GROUP)
ASKED = ("recall@3", "capped_recall@3", "ndcg@3", "map@3", "hit_rate@3", "precision@3", "mrr", "auc")


def clicks(draw: Any, m: int, n: int, share: float = 0.4) -> np.ndarray:
    """Values of 1 to 5, NaN elsewhere; rows may be empty or full."""
    return np.where(draw.random((m, n)) < share, draw.integers(1, 6, (m, n)), NAN)


def _thirty_days() -> list[str]:
    """Rows that no update names keep their bits; those that it names are solved from the items alone."""
    rule, draw, bad = Model("ials", 2.0, 0.3, 0.2, 0.6), np.random.default_rng(11), set()
    U, V = start(9, 8, 4)
    now, mine = lfm_np.Factors(U, V), {u: U[u] for u in range(9)}
    for _ in range(30):
        m = len(mine)
        known = draw.choice(m, int(draw.integers(1, 4)), replace=False).tolist()
        who = draw.permutation([*known, *range(m, m + int(draw.integers(0, 3)))])
        rows, before = clicks(draw, len(who), 8), now
        now = now.update(csr(rows), users=who, **rule.words)
        mine |= dict(zip(who.tolist(), rule.half(rows, V), strict=True))
        rest = np.setdiff1d(np.arange(m), known)
        if not np.array_equal(now.user_factors[rest], before.user_factors[rest]):
            bad.add("others")
        if not np.array_equal(now.item_factors, V):
            bad.add("items")
    # float64 systems of four unknowns, condition below 1e4
    return [*sorted(bad), *wrong(rows=close(now.user_factors, [mine[u] for u in range(len(mine))], 1e-10))]


def _both_sides_in_turn() -> list[str]:
    """What was prepared for the items of yesterday must not serve today's, nor their number in λ(n_u + α₀n)^ν."""
    rule, draw, bad = Model("hu-koren", 3.0, 0.5, 0.1, 0.8), np.random.default_rng(12), []
    U, V = start(7, 6, 3)
    now = old = lfm_np.Factors(U, V)
    probe = clicks(draw, 4, 6)
    first = old.fold_in_users(csr(probe), **rule.words)
    for day in range(6):
        m, n = len(U), len(V)
        if day % 2:
            rows = clicks(draw, 2, n)
            now = now.update(csr(rows), users=[m, day], **rule.words)
            new = rule.half(rows, V)
            U = np.vstack([U, new[:1]])
            U[day] = new[1]
        else:
            columns = clicks(draw, m, 2)
            now = now.update(csr(columns), items=[day, n], **rule.words)
            new = rule.half(columns.T, U)
            V = np.vstack([V, new[1:]])
            V[day] = new[0]
        if not (close(now.user_factors, U, 1e-9) and close(now.item_factors, V, 1e-9)):
            bad.append(f"day {day}")
        wide = clicks(draw, 3, len(V))
        if not close(now.fold_in_users(csr(wide), **rule.words).user_factors, rule.half(wide, V), 1e-9):
            bad.append(f"fold-in of day {day}")
    return bad + wrong(
        old=close(first.user_factors, rule.half(probe, start(7, 6, 3)[1]), 1e-9),
        again=same(first, old.fold_in_users(csr(probe), **rule.words)),
    )


def _biased(X: np.ndarray, V: np.ndarray, d: np.ndarray, mu: float, lam: float) -> tuple[np.ndarray, np.ndarray]:
    """ALS-WR (ν = 1) with biases: both are held by λ times the number of ratings."""
    found = []
    for x in X:
        has = ~np.isnan(x)
        Y = np.column_stack([V[has], np.ones(has.sum())])
        A = Y.T @ Y + lam * has.sum() * np.eye(Y.shape[1])
        found.append(np.linalg.solve(A, Y.T @ (x[has] - mu - d[has])))
    both = np.array(found)
    return both[:, :-1], both[:, -1]


def _ratings_grow_on_both_sides() -> list[str]:
    draw = np.random.default_rng(13)
    U, V = start(8, 7, 3)
    b, d, mu, lam = draw.normal(size=8), draw.normal(size=7), 3.25, 0.05
    now = lfm_np.Factors(U, V, user_bias=b, item_bias=d, global_bias=mu)
    words: dict[str, Any] = {"weighting": "ratings", "regularization": lam, "regularization_exponent": 1.0}
    rows = stars(3, 7, 14, 0.5)
    new, bias = _biased(rows, V, d, mu, lam)
    now = now.update(csr(rows), users=[9, 2, 8], **words)
    U, b = np.vstack([U, new[[2, 0]]]), np.append(b, bias[[2, 0]])
    U[2], b[2] = new[1], bias[1]
    columns = stars(10, 2, 15, 0.5)
    other, of_items = _biased(columns.T, U, b, mu, lam)
    now = now.update(csr(columns), items=[7, 0], **words)
    V, d = np.vstack([V, other[:1]]), np.append(d, of_items[0])
    V[0], d[0] = other[1], of_items[1]
    pairs = [(u, i) for u in (2, 8, 9) for i in (0, 3, 7)]
    scores = now.scores([u for u, _ in pairs], [i for _, i in pairs])
    return wrong(
        users=close(now.user_factors, U, 1e-9),
        user_bias=close(now.user_bias, b, 1e-9),
        items=close(now.item_factors, V, 1e-9),
        item_bias=close(now.item_bias, d, 1e-9),
        mu=now.global_bias == mu,
        scores=close(scores, [mu + b[u] + d[i] + U[u] @ V[i] for u, i in pairs], 1e-9),
    )


def _judged_before_and_after(grow: bool) -> list[str]:
    """The same split for a model and for its update; with ``grow`` items arrive that the old one cannot show."""
    rule, draw = Model("hu-koren", 4.0, 0.3, 0.2), np.random.default_rng(31)
    U, V = start(15, 12, 3, 32)
    X = clicks(draw, 15, 14, 0.3)
    X[4], X[5] = NAN, 1.0
    test = (draw.random(X.shape) < 0.2) | (np.arange(15)[:, None] == 5)
    test[6] = False
    n = 14 if grow else 12
    X, test = X[:, :n], test[:, :n]
    before = lfm_np.Factors(U, V)
    after = before.update(csr(X[::2, :12]), users=np.arange(0, 15, 2), **rule.words)
    if grow:
        before = lfm_np.Factors(U, np.vstack([V, np.zeros((2, 3))]))
        after = after.update(csr(X[:, 12:]), items=[12, 13], **rule.words)
    bad = []
    for name, model in (("before", before), ("after", after)):
        found = lfm_np.evaluate(model, csr(X), csr(np.where(test, 1.0, NAN)), ASKED)
        mine = judged(all_scores(model), ~np.isnan(X), test, 3)
        bad += [f"{name} {key}" for key in mine if key in found and not close(found[key], mine[key], 1e-12)]
        bad += [f"{name} lacks {key}" for key in (*ASKED, *(f"{a}_se" for a in ASKED), "users") if key not in found]
    return bad


def _who_left_the_window() -> list[str]:
    """Users and items without a cell in the window: zero vectors, and lists in the order of the columns."""
    X = stars(12, 10, 33)
    X[[3, 7]], X[:, [0, 4]] = NAN, NAN
    seen = np.zeros((12, 10), bool)
    seen[3, [0, 1, 5]] = True
    fit = lfm_np.als(csr(X), factors=3, iterations=2, regularization=0.5, random_state=0)
    lists = fit.recommend([3, 7], N=9, seen=sp.csr_array(seen.astype(np.float32)))
    return wrong(
        users=not fit.user_factors[[3, 7]].any() and fit.user_factors[[2, 8]].any(1).all(),
        items=not fit.item_factors[[0, 4]].any(),
        first=lists.ids[0].tolist() == [2, 3, 4, 6, 7, 8, 9, -1, -1],
        second=lists.ids[1].tolist() == list(range(9)),
        scores=not lists.scores[1].any() and lists.scores[0].tolist() == [0.0] * 7 + [-np.inf] * 2,
        alike=fit.similar_users(3, N=4).ids.tolist() == [0, 1, 2, 3],  # cosines with a zero vector are 0
    )


def _requests(dtype: Any) -> list[str]:
    """Factors of small whole numbers: every score is exact, and most are tied."""
    draw, m, n = np.random.default_rng(34), 20, 257
    U, V = draw.integers(-2, 3, (m, 3)).astype(dtype), draw.integers(-2, 3, (n, 3)).astype(dtype)
    d = draw.integers(-1, 2, n).astype(dtype)
    S = U.astype(float) @ V.T.astype(float) + d
    model, seen, bad = lfm_np.Factors(U, V, item_bias=d), draw.random((m, n)) < 0.3, set()
    matrix = sp.csr_array(seen.astype(np.float32))
    for request in range(80):
        who = draw.integers(0, m, int(draw.integers(1, 5)))
        N = (1, 2, 33, 257, 260)[request % 5]
        allowed = np.ones((len(who), n), bool)
        words: dict[str, Any] = {}
        if request % 2:
            words["items"] = draw.choice(n, (0, 1, 2, 100, 257)[request // 2 % 5], replace=False)
            allowed &= np.isin(np.arange(n), words["items"])
        if request % 3:
            words["exclude"] = draw.choice(n, (0, 1, 128, 256)[request % 4], replace=False)
            allowed &= ~np.isin(np.arange(n), words["exclude"])
        if request % 4:
            words["seen"] = matrix
            allowed &= ~seen[who]
        found = model.recommend(who, N=N, **words)
        for u, ok, ids, scores in zip(who, allowed, found.ids.tolist(), found.scores, strict=True):
            mine = best(S[u], ok, N)
            if ids != mine:
                bad.add("ids")
            if not np.array_equal(scores, [S[u, i] if i >= 0 else -np.inf for i in mine]):
                bad.add("scores")
    return sorted(bad)


def _served_while_another_fits() -> list[str]:
    X = csr(stars(40, 30, 35))
    models = [lfm_np.als(X, factors=4, iterations=1, dtype="float64", random_state=0)]
    start_of_fits = models[0]
    answers: list[Any] = []

    def work(place: int) -> None:
        draw = np.random.default_rng(place)
        for step in range(12):
            if not place:
                fit = lfm_np.als(X, factors=4, iterations=2, dtype="float64", init=start_of_fits, alpha=1.0 + step)
                models.append(fit.update(X[:3], users=[40, 2, 41]) if step % 2 else fit)
            else:
                model, who = models[-1], draw.integers(0, 40, 5)
                answers.append((model, who, model.recommend(who, N=6, seen=None if step % 2 else _tall(X, model))))

    errors = [found for found in together(4, work) if found is not None]
    seen, bad = ~np.isnan(stars(40, 30, 35)), set()
    for place, (model, who, lists) in enumerate(answers):
        S = all_scores(model)
        for u, ids in zip(who, lists.ids.tolist(), strict=True):
            # the gaps of 30 random float64 scores are far above their rounding
            mine = [best(S[u], ok, 6) for ok in (~seen[u], np.ones(30, bool))]
            if ids not in mine:
                bad.add(f"list {place}")
    return [*map(repr, errors), *sorted(bad), *wrong(all=len(answers) == 36 and len(models) == 13)]


def _tall(X: Any, model: Any) -> Any:
    """X with empty rows for the users that an update added."""
    extra = model.shape[0] - X.shape[0]
    return sp.csr_array(sp.vstack([X, sp.csr_array((extra, X.shape[1]))])) if extra else X


def _why_after_an_item_came() -> list[str]:
    rule = Model("confidence", 0.7, 0.4, 0.3, 0.5)
    X = stars(10, 9, 36, 0.5)
    U, V = start(10, 8, 3, 37)
    model = lfm_np.Factors(U, V).update(csr(X[:, 8:]), items=[8], **rule.words)
    V = np.vstack([V, rule.half(X[:, 8:].T, U)])
    x, bad = X[2], []
    has = ~np.isnan(x)
    Y, Z = V[has], V[~has]
    A = 0.7 * (Y.T * x[has]) @ Y + 0.4 * Z.T @ Z + 0.3 * (has.sum() + 0.4 * 9) ** 0.5 * np.eye(3)
    for item in (8, 0):
        shares = np.linalg.solve(A, V[item]) @ Y.T * 0.7 * x[has]
        why = model.explain(2, item, csr(X), **rule.words)
        order = np.argsort(why.items)
        bad += wrong(
            items=np.array_equal(np.sort(why.items), np.flatnonzero(has)),
            shares=close(np.asarray(why.contributions)[order], shares, 1e-9),
            score=close(why.score, shares.sum(), 1e-9),
            baseline=why.baseline == 0,
        )
    return bad


def _newcomers_of_every_length(weighting: str) -> list[str]:
    """257 rows of 0 to 40 cells in one call, on both sides of k."""
    rule, n, k = Model(weighting, 10.0, 0.2, 0.7, 0.3), 40, 17
    draw = np.random.default_rng(39)
    rows = np.full((257, n), NAN)
    for r, x in enumerate(rows):
        some = draw.choice(n, r % 41 or int(weighting == "ratings"), replace=False)
        x[some] = draw.integers(1, 6, len(some))
    V = start(1, n, k, 40)[1]
    found = lfm_np.Factors(np.zeros((1, k)), V).fold_in_users(csr(rows), **rule.words)
    return wrong(rows=close(found.user_factors, rule.half(rows, V), 1e-9), shape=found.shape == (257, n))


def _twice_the_events() -> list[str]:
    """Events that come as COO, some twice, some cancelled: the matrix that they add up to."""
    rule, (U, V) = Model("hu-koren", 1.5, 0.8, 0.2), start(3, 6, 2)
    rows, columns = [0, 0, 0, 1, 1, 2], [1, 1, 4, 2, 2, 0]
    values = [1.0, 2.0, 1.0, 3.0, 1.0, 0.0]
    X = np.full((3, 6), NAN)
    X[0, 1], X[0, 4], X[1, 2] = 3.0, 1.0, 4.0
    given = sp.coo_array((values, (rows, columns)), shape=(3, 6))
    found = lfm_np.Factors(U, V).update(given, users=[2, 3, 0], **rule.words)
    mine = rule.half(X, V)
    return wrong(
        rows=close(found.user_factors, [mine[2], U[1], mine[0], mine[1]], 1e-10),
        given=given.nnz == 6 and given.data.tolist() == values,
    )


def _newcomers_of_sgd(biases: Any) -> list[str]:
    """A model of `sgd` that learnt biases of items only, or of both sides, or none, takes newcomers by ratings."""
    X, rows, lam = stars(15, 9, 81), stars(4, 9, 82, 0.5), 0.35
    fit = lfm_np.sgd(
        csr(X), lfm_np.losses.Squared(), sampler=None, biases=biases, factors=3, epochs=2, dtype="float64",
        random_state=0,
    )  # fmt: skip
    new = fit.fold_in_users(csr(rows), weighting="ratings", regularization=lam, regularization_exponent=1.0)
    d = np.zeros(9) if fit.item_bias is None else fit.item_bias
    mu, V = fit.global_bias or 0.0, fit.item_factors
    U, b = [], []
    for x in rows:
        has = ~np.isnan(x)
        Y = np.column_stack([V[has], np.ones(has.sum())]) if biases is True else V[has]
        A = Y.T @ Y + lam * has.sum() * np.eye(Y.shape[1])
        found = np.linalg.solve(A, Y.T @ (x[has] - mu - d[has]))
        U.append(found[:3])
        b.append(found[3:])
    scores = np.array([mu + d + u @ V.T + (b_u[0] if len(b_u) else 0.0) for u, b_u in zip(U, b, strict=True)])
    lists = new.recommend(np.arange(4), N=9, seen=csr(rows))
    return wrong(
        users=close(new.user_factors, U, 1e-8),
        bias=new.user_bias is None if biases is not True else close(new.user_bias, np.ravel(b), 1e-8),
        items=np.array_equal(new.item_factors, V),
        lists=lists.ids.tolist() == [best(s, np.isnan(x), 9) for s, x in zip(scores, rows, strict=True)],
    )


def _for_whom_nothing_is_known() -> list[str]:
    """Most popular of the last seven of twelve days, for all alike but for what they have."""
    from lfm_np.evaluation import most_popular

    draw = np.random.default_rng(83)
    records = sorted({(int(u), int(i), int(t)) for u, i, t in draw.integers(0, (30, 8, 12), (150, 3))})
    pairs = sorted({(u, i) for u, i, t in records if t >= 5})
    has = np.zeros((31, 8), bool)
    has[tuple(zip(*pairs, strict=True))] = True
    window = csr(np.where(has, 1.0, NAN))
    counts = {i: sum(pair[1] == i for pair in pairs) for i in range(8)}
    mine = [sorted((i for i in range(8) if not has[u, i]), key=lambda i: (-counts[i], i))[:3] for u in range(31)]
    lists = most_popular(window).recommend(np.arange(31), N=3, seen=window).ids.tolist()
    return wrong(lists=[[i for i in ids if i >= 0] for ids in lists] == mine, unknown=not has[30].any())


def _what_is_like_the_new_item(metric: str) -> list[str]:
    """An item that came by update, among the others; one that nobody has, too."""
    rule, (U, V) = Model("hu-koren", 2.0, 0.4, 0.3), start(16, 9, 3)
    model = lfm_np.Factors(U, V)
    model.similar_items(0)
    columns = stars(16, 2, 84)
    columns[:, 1] = NAN
    model = model.update(csr(columns), items=[9, 10], **rule.words)
    V = np.vstack([V, rule.half(columns[:, :1].T, U), np.zeros((1, 3))])
    lengths = np.linalg.norm(V, axis=1)
    S = V @ V.T
    if metric == "cosine":
        S = S / np.where(lengths > 0, lengths, 1.0) / np.where(lengths > 0, lengths, 1.0)[:, None]
    found = model.similar_items([9, 10], N=11, metric=metric)
    return wrong(
        new=found.ids[0].tolist() == best(S[9], np.ones(11, bool), 11),
        empty=found.ids[1].tolist() == list(range(11)) and not found.scores[1].any(),
        scores=close(found.scores[0], -np.sort(-S[9]), 1e-9),
    )


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    yield _holds("thirty days of users, beside a dictionary of rows", _thirty_days)
    yield _holds("items and users are updated in turn", _both_sides_in_turn)
    yield _holds("ratings with biases grow on both sides, ν = 1", _ratings_grow_on_both_sides)
    for grow in (False, True):
        yield _holds(f"judged before and after, grow={grow}", lambda g=grow: _judged_before_and_after(g))
    yield _holds("who left the window", _who_left_the_window)
    for dtype in (np.float32, np.float64):
        yield _holds(f"eighty requests with their own lists, {dtype.__name__}", lambda d=dtype: _requests(d))
    yield _holds("three threads serve while a fourth fits and updates", _served_while_another_fits)
    yield _holds("why, after an item came", _why_after_an_item_came)
    for weighting in ("hu-koren", "ials", "confidence", "ratings"):
        yield _holds(f"newcomers of every length: {weighting}", lambda w=weighting: _newcomers_of_every_length(w))
    yield _holds("an update of events as they came", _twice_the_events)
    for biases in (False, "item", True):
        yield _holds(f"newcomers of sgd, biases={biases}", lambda b=biases: _newcomers_of_sgd(b))
    yield _holds("for whom nothing is known", _for_whom_nothing_is_known)
    for metric in ("cosine", "inner"):
        yield _holds(f"what is like the new item, {metric}", lambda m=metric: _what_is_like_the_new_item(m))
