"""Services: they answer while models change, fold in, take updates, obey the shop's rules, survive bad requests."""

from __future__ import annotations

import asyncio
import copy
import pickle
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import scipy.sparse as sp

import lfm_np

from .case import Case
from .places import together
from .programs import BAD, RULE, Programs, clicked, listed, plain, row, seen_of, served
from .working_days import NAN, all_scores, best, close, csr, folder, raised, same, stars, tells, wrong

program = Programs("program service")
X = stars()


@program("the model is reloaded while three threads answer")
def _reloaded_while_answering() -> list[str]:
    models = [served(seed) for seed in range(3)]
    lists = [[best(s, a, 4) for s, a in zip(all_scores(m), np.isnan(X), strict=True)] for m in models]
    with folder() as place:
        for n, m in enumerate(models):
            m.save(place / f"{n}.safetensors")
        holder = [models[0]]

        def work(me: int) -> list[Any]:
            if me == 3:
                for turn in range(12):
                    holder[0] = lfm_np.Factors.load(place / f"{turn % 3}.safetensors", mmap=turn % 2 == 0)
                return []
            return [holder[0].recommend(np.arange(30), N=4, seen=csr(X)).ids.tolist() for _ in range(15)]

        answers = together(4, work)
        holder.clear()
    return wrong(threads=all(isinstance(a, list) for a in answers), lists=all(x in lists for a in answers for x in a))


@program("a truncated file at the nightly reload leaves the old model serving")
def _truncated_at_reload() -> list[str]:
    with folder() as place:
        old = served(1)
        old.save(place / "m")
        serving = lfm_np.Factors.load(place / "m", mmap=True)
        raw = (place / "m").read_bytes()
        (place / "new").write_bytes(raw[: len(raw) * 2 // 3])
        error = raised(lambda: lfm_np.Factors.load(place / "new"))
        (place / "m").unlink()
        return wrong(said=isinstance(error, ValueError) and tells(error, "new"), lists=plain(serving, X))


@program("a mapped model keeps its numbers while saves replace its file")
def _replaced_while_mapped() -> list[str]:
    with folder() as place:
        first, second = served(0), served(5)
        first.save(place / "m")
        mapped = lfm_np.Factors.load(place / "m", mmap=True)
        second.save(place / "m")
        again = lfm_np.Factors.load(place / "m", mmap=True)
        return wrong(old=same(mapped, first) and plain(mapped, X), new=same(again, second))


@program("a session grows item by item")
def _growing_session() -> list[str]:
    fit, items = served(), [3, 17, 0, 9, 12]
    bits = pickle.dumps((fit.user_factors, fit.item_factors))
    found = []
    for n in range(1, 6):
        new = fit.fold_in_users(row(20, items[:n], np.arange(1.0, n + 1)))
        mine = clicked(fit.item_factors, items[:n], np.arange(1.0, n + 1))
        mask = np.ones((1, 20), bool)
        mask[0, items[:n]] = False
        ranked = new.recommend([0], N=6, seen=row(20, items[:n]))
        found += wrong(
            **{
                f"{n} factors": close(new.user_factors[0], mine, 1e-8),
                f"{n} lists": listed(ranked, (fit.item_factors @ mine)[None], mask, 6),
            }
        )
    return found + wrong(model=bits == pickle.dumps((fit.user_factors, fit.item_factors)))


@program("a request with an unknown item fails, the next ones do not")
def _unknown_item_in_between() -> list[str]:
    fit = served()
    before = fit.fold_in_users(row(20, [1, 2])).user_factors.copy()
    errors = [
        raised(lambda: fit.fold_in_users(row(21, [20]))),
        raised(lambda: fit.fold_in_users(row(20, [1], [-2.0]))),
        raised(lambda: fit.fold_in_users(row(20, [1], [NAN]))),
    ]
    after = fit.fold_in_users(row(20, [1, 2])).user_factors
    return wrong(
        errors=all(isinstance(e, BAD) and tells(e, "x|column|item|negative|nan|finite") for e in errors),
        bits=np.array_equal(before, after),
        number=close(after[0], clicked(fit.item_factors, [1, 2], [1, 1]), 1e-8),
    )


@program("five days of updates of old and new users")
def _days_of_updates() -> list[str]:
    draw, fit, rows = np.random.default_rng(4), served(), dict[int, np.ndarray]()
    start = fit.user_factors.copy()
    for day in range(5):
        users = [int(draw.integers(0, 30)), fit.shape[0], fit.shape[0] + 1]
        bought = [np.sort(draw.choice(20, 3 + day, replace=False)) for _ in users]
        new = sp.csr_array(sp.vstack([row(20, b, np.full(len(b), 2.0)) for b in bought]))
        fit = fit.update(new, users=users)
        rows |= {u: clicked(fit.item_factors, b, np.full(len(b), 2.0)) for u, b in zip(users, bought, strict=True)}
    others = [u for u in range(30) if u not in rows]
    return wrong(
        shape=fit.shape == (40, 20),
        solved=all(close(fit.user_factors[u], r, 1e-8) for u, r in rows.items()),
        others=np.array_equal(fit.user_factors[others], start[others]),
    )


@program("updates that cannot be are refused half way through a queue")
def _bad_updates_in_a_queue() -> list[str]:
    fit, two = served(), sp.csr_array(sp.vstack([row(20, [1]), row(20, [2, 3])]))
    queue: list[Any] = [[30, 31], [4, 4], [33, 34], [7, 40], [-1, 0], [1], [0.5, 1.0], [5, 32]]
    told, done = [], []
    for users in queue:
        try:
            fit = fit.update(two, users=users)
            done.append(users)
        except BAD as error:
            told.append(tells(error, "users|x|rows"))
    return wrong(
        told=told == [True] * 6,
        done=done == [[30, 31], [5, 32]],
        number=close(fit.user_factors[32], clicked(fit.item_factors, [2, 3], [1, 1]), 1e-8),
        same=np.array_equal(fit.user_factors[30], fit.user_factors[5]),
    )


@program("new films enter, then somebody who saw only these")
def _films_then_people() -> list[str]:
    fit = served()
    column = np.full((30, 2), NAN)
    column[[0, 4, 9], 0], column[[1, 2], 1] = 3.0, 1.0
    wider = fit.update(csr(column), items=[20, 21])
    mine = np.vstack([fit.item_factors, RULE.half(column.T, fit.user_factors)])
    new = wider.fold_in_users(row(22, [20, 21], [1, 4]))
    return wrong(
        items=close(wider.item_factors, mine, 1e-8),
        person=close(new.user_factors[0], clicked(mine, [20, 21], [1, 4]), 1e-7),
        lists=listed(new.recommend([0], N=22), new.user_factors @ mine.T, np.ones((1, 22), bool), 22),
    )


@program("allowed and excluded items of a request overlap, repeat and come in any order")
def _rules_of_a_request() -> list[str]:
    fit, draw, found = served(2), np.random.default_rng(0), []
    for turn in range(12):
        allow, deny = draw.integers(0, 20, 9), draw.integers(0, 20, 4)
        mask = np.zeros(20, bool)
        mask[allow] = True
        mask[deny] = False
        users = draw.integers(0, 30, 3)
        ranked = fit.recommend(users, N=5, items=allow, exclude=deny, seen=csr(X))
        allowed = mask & np.isnan(X)[users]
        found += wrong(**{f"request {turn}": listed(ranked, all_scores(fit)[users], allowed, 5)})
    return found


@program("short lists become ids with a word for nothing")
def _short_lists_as_ids() -> list[str]:
    data = lfm_np.Interactions.from_arrays([1, 1, 2, 2, 2], ["a", "b", "a", "b", "c"])
    fit = lfm_np.als(data, factors=2, random_state=0)
    ids = fit.recommend([0, 1], N=2, seen=data).ids
    error = raised(lambda: data.item_ids(ids))
    texts = data.item_ids(ids, missing="nothing")
    return wrong(ids=texts.tolist() == [["c", "nothing"], ["nothing"] * 2], said=tells(error, "missing|-1|column"))


def _users(kind: str) -> Any:
    import pandas as pd

    u = [4, 0, 29, 4]
    return {
        "uint8": lambda: np.array(u, np.uint8),
        "big-endian": lambda: np.array(u, ">i8"),
        "every other": lambda: np.repeat(u, 2)[::2],
        "backwards": lambda: np.array(u[::-1])[::-1],
        "tuple": lambda: tuple(u),
        "numbers of NumPy": lambda: [np.int8(4), np.uint64(0), np.int32(29), 4],
        "Index": lambda: pd.Index(u),
        "Series": lambda: pd.Series(u, index=[7, 7, 1, 0]),
        "Int64": lambda: pd.array(u, dtype="Int64"),
        "objects": lambda: np.array(u, object),
    }[kind]()


@program("users of every kind of integers get the same lists", "pandas")
def _kinds_of_users() -> list[str]:
    fit, found = served(3), []
    S, allowed = all_scores(fit)[[4, 0, 29, 4]], np.ones((4, 20), bool)
    for kind in ("uint8", "big-endian", "every other", "backwards", "tuple", "numbers of NumPy", "Index", "Series"):
        found += wrong(**{kind: listed(fit.recommend(_users(kind), N=3), S, allowed, 3)})
    for kind in ("Int64", "objects"):  # integers too, but the pages do not promise them
        try:
            found += wrong(**{kind: listed(fit.recommend(_users(kind), N=3), S, allowed, 3)})
        except BAD as error:
            found += wrong(**{kind: tells(error, "users")})
    return found


for _name, _asked in {
    "fractions": [0.0, 1.0],
    "a mask": np.ones(30, bool),
    "a column": np.zeros((3, 1), int),
    "text": ["0"],
    "somebody beyond the last": [30],
    "minus one": [-1],
    "times": np.array([1, 2], "timedelta64[s]"),
}.items():

    @program(f"users are {_name}: refused, and the next request is served")
    def _refused_users(asked: Any = _asked) -> list[str]:
        fit = served()
        errors = [
            raised(lambda: fit.recommend(asked, N=2)),
            raised(lambda: fit.scores(asked, 0)),
            raised(lambda: fit.similar_users(asked)),
        ]
        return wrong(said=all(isinstance(e, BAD) and tells(e, "users") for e in errors), next=plain(fit, X))


@program("a mask of items where their numbers belong")
def _mask_of_items() -> list[str]:
    fit, mask = served(), np.arange(20) % 2 == 0
    try:
        ranked = fit.recommend([0], N=3, items=mask)
    except BAD as error:
        return wrong(said=tells(error, "items"))
    return wrong(as_a_mask=listed(ranked, all_scores(fit)[:1], mask[None], 3))


@program("neighbours by cosine and by product, one of them nobody knows")
def _neighbours() -> list[str]:
    U, V = np.random.default_rng(1).normal(size=(2, 9, 3))
    V[4] = 0.0
    fit, one = lfm_np.Factors(U, V), np.ones((9, 9), bool)
    length = np.sqrt((V * V).sum(axis=1))
    length[4] = 1.0
    cosines = (V / length[:, None]) @ (V / length[:, None]).T
    by_cosine = fit.similar_items(np.arange(9), N=9)
    others = [n for n in range(9) if n != 4]
    sets = [
        [set(np.flatnonzero(np.isclose(c, s)).tolist()) for s in by_cosine.scores[r]] for r, c in enumerate(cosines)
    ]
    in_place = all(i in sets[r][p] for r, ids in enumerate(by_cosine.ids.tolist()) for p, i in enumerate(ids))
    return wrong(
        falling=bool((np.diff(by_cosine.scores, axis=1) <= 0).all()),
        numbers=close(by_cosine.scores[others], -np.sort(-cosines[others], axis=1), 1e-12),
        places=in_place and all(sorted(ids) == list(range(9)) for ids in by_cosine.ids.tolist()),
        nobody=by_cosine.scores[4].tolist() == [0.0] * 9 and by_cosine.ids[4].tolist() == list(range(9)),
        inner=listed(fit.similar_items(np.arange(9), N=5, metric="inner"), V @ V.T, one, 5),
    )


@program("why: shares of somebody folded in from today's row")
def _explained_after_fold_in() -> list[str]:
    fit, user, item = served(), 3, 11
    why, V = fit.explain(user, item, csr(X)), fit.item_factors
    has = seen_of(X)[user]
    weights = np.where(has, 1 + RULE.alpha * np.nan_to_num(X[user]), 1.0)
    A = (V.T * weights) @ V + RULE.lam * np.eye(4)
    share = {int(i): V[item] @ np.linalg.solve(A, V[i]) * weights[i] for i in np.flatnonzero(has)}
    told = dict(zip(why.items.tolist(), why.contributions.tolist(), strict=True))
    return wrong(
        items=set(told) == set(share),
        numbers=all(abs(told[i] - share[i]) < 1e-9 for i in share),
        score=abs(why.score - sum(share.values()) - why.baseline) < 1e-9 and abs(why.baseline) < 1e-9,
    )


@program("eight threads ask a model that has just been made, each for something else")
def _first_requests_together() -> list[str]:
    fit, own = served(4), csr(stars(seed=4))
    S, every = all_scores(fit), np.ones((30, 20), bool)
    asked = [
        lambda: listed(fit.recommend(np.arange(30), N=7, num_threads=2), S, every, 7),
        lambda: listed(fit.recommend(np.arange(30), N=20), S, every, 20),
        lambda: close(fit.scores(np.arange(20), np.arange(20)), np.diag(S[:20]), 1e-12),
        lambda: close(fit.fold_in_users(row(20, [5])).user_factors[0], clicked(fit.item_factors, [5], [1]), 1e-8),
        lambda: listed(
            fit.similar_items(np.arange(20), N=3, metric="inner"),
            fit.item_factors @ fit.item_factors.T,
            np.ones((20, 20), bool),
            3,
        ),
        lambda: same(pickle.loads(pickle.dumps(fit)), fit),
        lambda: same(copy.deepcopy(fit), fit),
        lambda: close(fit.explain(0, 0, own).score, fit.fold_in_users(own[[0]]).scores(0, 0), 1e-9),
    ]
    answers = together(8, lambda me: [asked[me]() for _ in range(3)])
    return [f"thread {n}: {a!r:.80}" for n, a in enumerate(answers) if a != [True] * 3]


@program("an asynchronous service, with a request that fails among the others")
def _asynchronous() -> list[str]:
    fit = served(1)

    async def one(user: int) -> Any:
        return await asyncio.to_thread(lambda: fit.recommend(user, N=3).ids.tolist())

    async def all_of_them() -> list[Any]:
        return await asyncio.gather(*(one(u) for u in [*range(30), 99]), return_exceptions=True)

    answers = asyncio.run(all_of_them())
    mine = [best(s, np.ones(20, bool), 3) for s in all_scores(fit)]
    return wrong(lists=answers[:30] == mine, error=isinstance(answers[30], ValueError) and tells(answers[30], "users"))


@program("a pool of threads folds whole carts in")
def _pool_of_fold_ins() -> list[str]:
    fit, draw = served(), np.random.default_rng(2)
    carts = [np.sort(draw.choice(20, int(draw.integers(0, 12)), replace=False)) for _ in range(40)]
    with ThreadPoolExecutor(4) as pool:
        new = list(pool.map(lambda c: fit.fold_in_users(row(20, c), num_threads=1).user_factors[0], carts))
    return [
        f"cart {n}"
        for n, (u, c) in enumerate(zip(new, carts, strict=True))
        if not (close(u, clicked(fit.item_factors, c, np.ones(len(c))), 1e-8) if len(c) else not u.any())
    ]


@program("promotions as biases of items, and one that is infinite")
def _promotions() -> list[str]:
    fit, lift = served(), np.zeros(20)
    lift[[2, 7]] = 0.5, 10.0
    promoted = lfm_np.Factors(fit.user_factors, fit.item_factors, item_bias=lift)
    lift_too = lift.copy()
    lift_too[3] = np.inf
    error = raised(lambda: lfm_np.Factors(fit.user_factors, fit.item_factors, item_bias=lift_too))
    S = fit.user_factors @ fit.item_factors.T + lift
    return wrong(
        lists=listed(promoted.recommend(np.arange(30), N=6), S, np.ones((30, 20), bool), 6),
        said=isinstance(error, BAD) and tells(error, "item_bias"),
        as_before=plain(fit, X),
    )


@program("two models blended by laying their factors side by side")
def _blended() -> list[str]:
    one, other = served(0), served(6, factors=3)
    both = lfm_np.Factors(
        np.hstack([0.3 * one.user_factors, 0.7 * other.user_factors]),
        np.hstack([one.item_factors, other.item_factors]),
        user_bias=np.arange(30.0),
        global_bias=-2,
    )
    S = 0.3 * all_scores(one) + 0.7 * all_scores(other) + np.arange(30.0)[:, None] - 2
    users, items = np.divmod(np.arange(600), 20)
    return wrong(
        scores=close(both.scores(users, items), S.ravel(), 1e-13),
        lists=listed(both.recommend(np.arange(30), N=4), S, np.ones((30, 20), bool), 4),
    )


@program("half of the users get lists of one model, half of the other")
def _two_arms() -> list[str]:
    arms, test = (served(0), lfm_np.evaluation.most_popular(csr(X))), stars(seed=9, share=0.15)
    found = []
    for arm, fit in enumerate(arms):
        S = all_scores(fit) if fit.user_factors.shape[1] else np.tile(seen_of(X).sum(axis=0), (30, 1)).astype(float)
        users = [u for u in range(30) if u % 2 == arm]
        hits = []
        for u in users:
            relevant = set(np.flatnonzero(seen_of(test)[u] & np.isnan(X[u])).tolist())
            if relevant:
                hits.append(len(relevant & set(best(S[u], np.isnan(X[u]), 5))) / len(relevant))
        mine = np.where((np.arange(30) % 2 == arm)[:, None], test, NAN)
        told = lfm_np.evaluate(fit, csr(X), csr(mine), ["recall@5"])
        found += wrong(**{f"arm {arm}": close(told["recall@5"], np.mean(hits), 1e-12) and told["users"] == len(hits)})
    return found


def cases() -> list[Case]:
    return program.found
