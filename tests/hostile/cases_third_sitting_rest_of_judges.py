"""The third sitting, the rest: metrics and their laws, solvers beside each other, companions and events."""

from __future__ import annotations

import asyncio
import json
import math
import signal
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any

import numpy as np
import scipy.sparse as sp

from .case import Case, Group, installed
from .cases_third_sitting_rest_of_epochs import FREE, biases_of, lfm_np, losses, sampling, sides, some
from .cases_third_sitting_rest_of_sweeps import begun, here
from .working_days import Model, biased_half, close, csr, faultless, folder, judged, wrong

_holds = faultless(Group("third sitting, the rest"))


def cut(m: int, n: int, known: int, hidden: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Masks of so many training and test cells of every user."""
    draw, train, test = np.random.default_rng(seed), np.zeros((m, n), bool), np.zeros((m, n), bool)
    for u in range(m):
        order = draw.permutation(n)
        train[u, order[:known]] = True
        test[u, order[known : known + hidden]] = True
    return train, test


def matrix(mask: np.ndarray) -> Any:
    return sp.csr_array(mask.astype(np.float32))


def factors(m: int, n: int, k: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    return draw.normal(size=(m, k)), draw.normal(size=(n, k))


# --- metrics ---


def _beside_sklearn() -> list[str]:
    """Of binary relevance, ndcg, AUC and average precision are the same there and here."""
    from sklearn.metrics import average_precision_score, ndcg_score, roc_auc_score

    m, n = 30, 40
    (U, V), (train, test) = factors(m, n, 4, 1), cut(m, n, 9, 6, 2)
    test[3:5] = False
    test[4, np.flatnonzero(~train[4])[:25]] = True
    S = U @ V.T
    names = ("ndcg@3", "ndcg@7", "ndcg", "auc", "map")
    of: dict[str, list[float]] = {name: [] for name in names}
    for s, known, held in zip(S, train, test):
        y, score = held[~known].astype(int), s[~known]
        if not y.any():
            continue
        for name, k in (("ndcg@3", 3), ("ndcg@7", 7), ("ndcg", None)):
            of[name].append(float(ndcg_score(y[None], score[None], k=k)))
        of["auc"].append(float(roc_auc_score(y, score)))
        of["map"].append(float(average_precision_score(y, score)))
    got = lfm_np.evaluate(lfm_np.Factors(U, V), matrix(train), matrix(test), names)
    return wrong(
        **{name: abs(got[name] - np.mean(values)) < 1e-12 for name, values in of.items()},
        **{
            f"{name}_se": abs(got[f"{name}_se"] - np.std(v, ddof=1) / math.sqrt(len(v))) < 1e-12
            for name, v in of.items()
        },
        users=got["users"] == 29,
    )


NAMES = ("recall@5", "precision@5", "ndcg@5", "map@5", "mrr@5", "hit_rate@5", "capped_recall@5", "mrr", "auc")


def _halves_add_up() -> list[str]:
    """Means, and squares about them, of 17 users and of 23 others give those of all 40."""
    m, n, at = 40, 30, 17
    U, V = factors(m, n, 3, 3)
    draw = np.random.default_rng(4)
    train, test = draw.random((m, n)) < 0.3, draw.random((m, n)) < 0.15
    mine, facts = judged(U @ V.T, train, test & ~train, 5), {}
    one, two, both = (
        lfm_np.evaluate(lfm_np.Factors(U[part], V), matrix(train[part]), matrix(test[part]), NAMES)
        for part in (slice(0, at), slice(at, m), slice(0, m))
    )
    a, b, c = one["users"], two["users"], both["users"]
    for name in NAMES:
        se = f"{name}_se"
        squares = sum(x[se] ** 2 * x["users"] * (x["users"] - 1) for x in (one, two))
        squares += a * b / c * (one[name] - two[name]) ** 2
        facts[name] = abs(both[name] - (a * one[name] + b * two[name]) / c) < 1e-12
        facts[se] = abs(both[se] - math.sqrt(squares / c / (c - 1))) < 1e-12
        facts[f"{name} by loops"] = abs(both[name] - mine[name]) < 1e-12
    return wrong(**facts, users=a + b == c == mine["users"])


def _only_the_order() -> list[str]:
    """Users' factors times powers of two, each its own, change no number; times -1 they turn the ranking round."""
    m, n = 25, 33
    (U, V), (train, test) = factors(m, n, 4, 5), cut(m, n, 6, 4, 6)
    by = np.exp2(np.random.default_rng(7).integers(-30, 31, m))[:, None]
    plain, scaled, turned = (
        lfm_np.evaluate(lfm_np.Factors(W, V), matrix(train), matrix(test), NAMES) for W in (U, U * by, -U)
    )
    mine, back = judged(U @ V.T, train, test, 5), judged(-U @ V.T, train, test, 5)
    return wrong(
        same=plain == scaled,
        mirrored=abs(turned["auc"] - (1 - plain["auc"])) < 1e-12 and abs(turned["auc_se"] - plain["auc_se"]) < 1e-12,
        **{name: abs(plain[name] - mine[name]) < 1e-12 for name in NAMES},
        **{f"{name} turned": abs(turned[name] - back[name]) < 1e-12 for name in NAMES},
    )


def _hopeless() -> list[str]:
    """Items that everybody likes least change no metric but the AUC, which becomes (a·N + z)/(N + z)."""
    m, n, z = 30, 24, 300
    (U, V), (train, test) = factors(m, n, 3, 8), cut(m, n, 5, 4, 9)
    others = n - 9
    more = np.zeros((m, z), bool)
    d = np.concatenate([np.zeros(n), np.full(z, -1e6)])
    wide = lfm_np.Factors(U, np.vstack([V, factors(1, z, 3, 10)[1]]), item_bias=d)
    was = lfm_np.evaluate(lfm_np.Factors(U, V), matrix(train), matrix(test), NAMES)
    now = lfm_np.evaluate(wide, matrix(np.hstack([train, more])), matrix(np.hstack([test, more])), NAMES)
    mine = judged(U @ V.T, train, test, 5)
    facts = {name: abs(now[name] - was[name]) < 1e-12 for name in NAMES if name != "auc"}
    facts |= {f"{name} by loops": abs(was[name] - mine[name]) < 1e-12 for name in NAMES}
    return wrong(
        **facts,
        auc=abs(now["auc"] - (was["auc"] * others + z) / (others + z)) < 1e-12,
        auc_se=abs(now["auc_se"] - was["auc_se"] * others / (others + z)) < 1e-12,
    )


class Misplaced:
    """1 where a pair is in the wrong order; nothing moves."""

    def value(self, difference):
        return 1.0 if difference < 0.0 else 0.0

    def gradient(self, difference):
        return 0.0


def _auc_by_draws() -> list[str]:
    """The share of drawn pairs in the wrong order is 1 - AUC where all users have as many cells; 6 standard errors."""
    m, n = 30, 25
    (U, V), (has, _) = factors(m, n, 3, 11), cut(m, n, 6, 0, 12)
    model = lfm_np.Factors(U, V)
    auc = lfm_np.evaluate(model, None, matrix(has), ["auc"])["auc"]
    mine = np.mean([(s[h][:, None] > s[~h]).mean() for s, h in zip(U @ V.T, has)])
    facts = {"auc": abs(auc - mine) < 1e-12}
    for name, sampler in (("uniform", sampling.Uniform()), ("β = 0", sampling.Popularity(0.0))):
        words = {"sampler": sampler, "factors": 3, "init": model, "epochs": 200, "learning_rate": 1e-12}
        made = lfm_np.sgd(sp.csr_array(has.astype(float)), Misplaced(), random_state=5, **words, **FREE)
        paid = np.array([record["sampled_loss"] for record in made.history])
        error = paid.std(ddof=1) / math.sqrt(len(paid))
        facts[name] = abs(paid.mean() - (1 - mine)) < 6 * error and 0 < error < 0.01
    return wrong(**facts)


# --- J and its minimum ---


def _slopes_of_j() -> list[str]:
    """J is linear in λ, α and α₀, and its slopes are sums."""
    m, n = 35, 22
    (U, V), X, facts = factors(m, n, 3, 13), some(m, n, 14).astype(float), {}
    model, S, has = lfm_np.Factors(U, V), U @ V.T, X > 0
    for weighting in ("hu-koren", "confidence"):

        def J(weighting: str = weighting, **words: Any) -> float:
            given = {"regularization": 0.5, "alpha": 1.0, "unobserved_weight": 0.25, "regularization_exponent": 0.5}
            return float(lfm_np.objective(sp.csr_array(X), model, weighting=weighting, **{**given, **words}))

        by_size = (has.sum(1) + 0.25 * n) ** 0.5 @ (U**2).sum(1) + (has.sum(0) + 0.25 * m) ** 0.5 @ (V**2).sum(1)
        flat = {"regularization_exponent": 0.0}
        facts[f"{weighting}_λ"] = close(J(regularization=2.5) - J(), 2.0 * by_size, 1e-10)
        facts[f"{weighting}_α"] = close(J(alpha=7.0) - J(), 6.0 * (X * (1 - S) ** 2).sum(), 1e-10)
        facts[f"{weighting}_α₀"] = close(J(unobserved_weight=1.25, **flat) - J(**flat), (S[~has] ** 2).sum(), 1e-10)
    return wrong(**facts)


def _spectrum_of_a_fit() -> list[str]:
    """Without gaps, the best product of three factors has the first three singular values, each less λ."""
    draw = np.random.default_rng(15)
    P, Q = (np.linalg.qr(draw.normal(size=(size, 5)))[0] for size in (14, 10))
    sigma = np.array([20.0, 12.0, 7.0, 2.0, 1.0])
    X = (P * sigma) @ Q.T
    words = {"weighting": "ratings", "regularization": 1.5, "factors": 3, "iterations": 300}
    made = here(sp.csr_array(X), init=begun(14, 10, 3, 16), **words)
    lines = lfm_np.plots.factor_spectrum(made).lines
    best = (1.5**2 + 2 * 1.5 * (sigma[:3] - 1.5)).sum() + (sigma[3:] ** 2).sum()
    return wrong(
        drawn=any(close(line.get_ydata(), sigma[:3] - 1.5, 1e-6) for line in lines),
        paid=close(made.history[-1]["objective"], best, 1e-9),
    )


def _one_minimum_for_two_solvers() -> list[str]:
    """Where als comes to rest with ν = 1 an epoch of sgd's steps of squared errors adds up to nothing."""
    facts, X = {}, sp.csr_array(some(20, 12, 17, 0.4).astype(float))
    rows, columns = X.tocoo().coords
    for biases in (False, True):
        words = {"weighting": "ratings", "regularization": 0.1, "regularization_exponent": 1.0, "biases": biases}
        best = here(X, factors=2, iterations=700, random_state=0, **words)
        S = _scores(best)
        r = S[rows, columns] - X.tocoo().data
        kept = {"user_bias": best.user_bias, "item_bias": best.item_bias, "global_bias": best.global_bias}
        aside = lfm_np.Factors(best.user_factors * 1.1, best.item_factors, **kept)
        for side, fit in sides():
            steps = {"sampler": None, "epochs": 1, "learning_rate": 1e-6, "regularization": 0.1, "biases": biases}
            there, away = (
                fit(X, losses.Squared(), factors=2, init=start, random_state=0, dtype="float64", **steps)
                for start in (best, aside)
            )
            name = f"{side}, {biases}"
            facts[name] = bool(abs(_scores(there) - S).max() < 2e-9)  # 100 steps of 1e-6, whose squares remain
            facts[f"{name}, aside"] = bool(abs(_scores(away) - _scores(aside)).max() > 1e-7)
            facts[f"{name}, paid"] = close(there.history[0]["sampled_loss"], (r**2).mean() / 2, 1e-4)
    return wrong(**facts)


def _scores(model: Any) -> np.ndarray:
    S = np.asarray(model.user_factors @ model.item_factors.T)
    if model.user_bias is not None:
        S = S + model.global_bias + model.user_bias[:, None] + model.item_bias
    return S


def _one_candidate() -> list[str]:
    """`Hard(1)` is `Uniform`: the same bits, and every item is drawn as often as it should, within 6 deviations."""
    X, eta, epochs = some(50, 16, 18), 1e-3, 60
    has = X > 0
    words = {"factors": 2, "learning_rate": eta, "epochs": epochs}
    far = losses.MarginHinge(1000.0)
    one, other = (
        biases_of(lfm_np.sgd, X, far, sampler=sampler, **words) for sampler in (sampling.Hard(1), sampling.Uniform())
    )
    drawn = epochs * has.sum(0) - one / eta
    q = ~has / (16 - has.sum(1))[:, None]
    times = epochs * has.sum(1)
    return wrong(
        bits=np.array_equal(one, other),
        whole=bool(abs(drawn - np.rint(drawn)).max() < 1e-6) and round(drawn.sum()) == times.sum(),
        often=bool((abs(drawn - times @ q) < 6 * np.sqrt(times @ (q * (1 - q)))).all()),
    )


# --- companions ---


def _two_models_in_one_union() -> list[str]:
    """A union of clicks and of stars with biases: its columns, what they are called, and what is in them."""
    from sklearn.pipeline import FeatureUnion

    from lfm_np.sklearn import ALS

    full = some(40, 18, 19).astype(float)
    X = np.where(full > 0, full, np.nan)
    words = {"iterations": 3, "regularization": 0.4, "dtype": "float64", "random_state": 0}
    clicks = ALS(factors=3, alpha=2.0, **words)
    stars = ALS(factors=2, weighting="ratings", biases=True, **words)
    union = FeatureUnion([("clicks", clicks), ("stars", stars)])
    found = union.fit_transform(csr(X))
    one, two = (part.factors_ for _, part in union.transformer_list)
    U = Model("hu-koren", 2.0, 1.0, 0.4).half(X, one.item_factors)
    W, b = biased_half(X, two.item_factors, two.item_bias, two.global_bias, 0.4)
    names = [*(f"clicks__als{i}" for i in range(3)), *(f"stars__als{i}" for i in range(3))]
    return wrong(
        shape=found.shape == (40, 6),
        names=list(union.get_feature_names_out()) == names,
        clicks=close(found[:, :3], U, 1e-9),
        stars=close(found[:, 3:5], W, 1e-9),
        biases=close(found[:, 5], b, 1e-9),
    )


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.said = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.add(tag)

    def handle_data(self, data: str) -> None:
        self.said += data


def _reports_by_hand() -> list[str]:
    """What a cross-check says of rows that somebody else made."""
    from lfm_np.torch_backend import CrossCheck, Row

    good = Row("als <zz> & float64", "ups", 1e-12, 1e-9, "eps·κ <yy>")
    bad = Row("sgd BPR", "downs", 2e-3, 1e-9, "a bound")
    unknown = Row("sgd WARP", "sides", math.nan, 1e-9, "a bound")
    endless = Row("sgd Hinge", "ends", math.inf, 1e-9, "a bound")
    versions = {"torch": "0.0.1", "device": 'a "chip" <xx>'}
    mixed = CrossCheck("cpu", (good, bad), versions, 1.5)
    with folder() as place:
        text, page = mixed.to_json(place / "a.json"), mixed.to_html(place / "a.html")
        kept = [(place / name).read_text("utf-8").strip() for name in ("a.json", "a.html")]
    seen = Page(page)
    told = json.dumps(json.loads(text), ensure_ascii=False)
    return wrong(
        rows=[bool(row.passed) for row in (good, bad, unknown, endless)] == [True, False, False, False],
        passed=[bool(CrossCheck("cpu", rows, versions, 0.0).passed) for rows in ((good,), (good, bad), (unknown,))]
        == [True, False, False],
        failures=list(mixed.failures) == [bad],
        kept=kept == [text.strip(), page.strip()],
        told=all(word in told for word in (good.part, good.what, good.why, bad.part, bad.what, "0.0.1", "cpu")),
        page=all(word in seen.said for word in (good.part, good.what, bad.part, bad.what)),
        tags=not seen.tags & {"zz", "yy", "xx", "script", "a", "link"},
        table="ups" in str(mixed) and "downs" in str(mixed),
    )


# --- events ---


def _within_a_loop_of_events() -> list[str]:
    """`asyncio.run` has a handler of its own: Ctrl-C cancels the coroutine, at what it awaits after the fit."""
    full = some(30, 20, 20).astype(float)
    X, model, start = np.where(full > 0, full, np.nan), Model("hu-koren", 1.0, 1.0, 0.5), begun(30, 20, 3, 21)
    words = {"factors": 3, "init": start, **model.words}
    facts: dict[str, bool] = {}

    def right(made: lfm_np.Factors, times: int) -> bool:
        U, V = model.sweeps(X, start[1], times)
        return close(made.user_factors @ made.item_factors.T, U @ V.T, 1e-9)

    def press(record: dict[str, Any], factors: Any) -> None:
        if record["iteration"] == 2:
            signal.raise_signal(signal.SIGINT)

    async def work() -> None:
        beside = await asyncio.gather(*(asyncio.to_thread(here, csr(X), iterations=t, **words) for t in (1, 2, 3)))
        facts["beside"] = all(right(made, times) for times, made in enumerate(beside, 1))
        handler = signal.getsignal(signal.SIGINT)
        facts["went_on"] = right(here(csr(X), iterations=9, callback=press, **words), 9)
        facts["handler"] = signal.getsignal(signal.SIGINT) is handler
        await asyncio.sleep(0)
        facts["never"] = False

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        asyncio.run(work())
    except KeyboardInterrupt:
        facts["cancelled"] = True
    finally:
        signal.signal(signal.SIGINT, before)
    return wrong(**facts) + wrong(all=len(facts) == 4)


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    if installed("sklearn"):
        yield _holds("metrics of scikit-learn", _beside_sklearn)
        yield _holds("two models in one union", _two_models_in_one_union)
    yield _holds("metrics of two halves of the users", _halves_add_up)
    yield _holds("metrics see the order alone", _only_the_order)
    yield _holds("three hundred hopeless items", _hopeless)
    yield _holds("AUC by draws of sgd", _auc_by_draws)
    yield _holds("slopes of J", _slopes_of_j)
    if installed("matplotlib"):
        yield _holds("the spectrum of a fit without gaps", _spectrum_of_a_fit)
    yield _holds("one minimum for two solvers", _one_minimum_for_two_solvers)
    yield _holds("one candidate is uniform", _one_candidate)
    if installed("torch"):
        yield _holds("cross-checks written by hand", _reports_by_hand)
    yield _holds("fits within a loop of events", _within_a_loop_of_events)
