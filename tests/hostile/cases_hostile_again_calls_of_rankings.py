"""Numbers of eight bits, names of metrics and squares that are none, given to rankings and to data."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import scipy.sparse as sp

import lfm_np
from lfm_np.evaluation import most_popular

from .case import Case
from .cases_hostile_again_calls_of_solvers import GROUP, HOW, X, either, refuses
from .working_days import Model, best, close, csr, faultless, start, wrong

_holds = faultless(GROUP)


def _lists_of_eight_bits() -> list[str]:
    draw = np.random.default_rng(5)
    U, V = draw.integers(-2, 3, (256, 2)).astype(float), draw.integers(-2, 3, (257, 2)).astype(float)
    model = lfm_np.Factors(U, V)
    users, items = np.array([0, 200, 255], np.uint8), np.arange(256).astype(np.uint8)
    out = np.array([0, 17, 255], np.int16)
    allowed = np.ones(257, bool)
    allowed[[0, 17, 255, 256]] = False
    found = model.recommend(users, N=np.uint8(254), items=items, exclude=out)
    mine = [best(U[u] @ V.T, allowed, 254) for u in (0, 200, 255)]
    alike = model.similar_items(np.uint8(255), N=np.int8(127), metric="inner")
    return wrong(
        lists=found.ids.tolist() == mine,
        alike=alike.ids.tolist() == best(V[255] @ V.T, np.ones(257, bool), 127),
        scores=np.array_equal(model.scores(users, np.uint8(250)), U[[0, 200, 255]] @ V[250]),
    )


def _memory_of_few_bits() -> list[str]:
    """m·n and what cells take are beyond 32 bits."""
    m, n, nnz = 50_000, 60_000, 2_000_000_000
    sides, facts = 2 * (m + n) * 64 * 4, {}
    for solver, least in (("als", sides + 8 * nnz), ("sgd", sides + 16 * nnz)):
        found = lfm_np.estimate_memory(np.int32(m), np.int32(n), np.int32(nnz), factors=np.int8(64), solver=solver)
        facts[f"{solver}_size"] = least <= found <= 1.15 * least
        facts[f"{solver}_same"] = found == lfm_np.estimate_memory(m, n, nnz, factors=64, solver=solver)
    small = (np.uint16(60_000), np.uint16(60_000), np.uint16(65_535))
    facts["small"] = lfm_np.estimate_memory(*small, factors=np.uint8(255)) >= 2 * 120_000 * 256 * 4
    return wrong(**facts)


def _data_of_few_bits() -> list[str]:
    pairs = lfm_np.datasets.make_interactions(np.int8(100), np.int8(120), np.int8(100), random_state=np.uint8(3))
    lengths = np.bincount(pairs[:, 0].astype(np.int64), minlength=100)
    codes = pairs[:, 0].astype(np.int64) * 120 + pairs[:, 1]
    films = lfm_np.datasets.planted(np.int16(200), np.int16(300), np.int16(6000), rank=np.int8(100), random_state=0)
    return wrong(
        rows=len(lengths) == 100 and lengths.min() >= 1 and lengths.max() <= 100,
        columns=pairs[:, 1].min() >= 0 and pairs[:, 1].max() < 120,
        ascending=bool((np.diff(codes) > 0).all()),
        mean=abs(lengths.mean() - 50.5) < 17.4,  # uniform on 1 to 100: six times 28.9/√100
        cells=abs(films.matrix.nnz - 6000) <= 43,  # six times √200/2
        shape=films.shape == (200, 300),
    )


def _splits_of_eight_bits() -> list[str]:
    """Times of eight bits, of which 44 come twice; 255 of 300 cells are the latest."""
    times = (np.arange(300) % 256).astype(np.uint8)
    data = lfm_np.Interactions.from_arrays(np.zeros(300, np.int8), np.arange(300), timestamps=times)
    train, test = data.split("last", n=np.uint8(255))
    latest = sorted(range(300), key=lambda c: (c % 256, c))[-255:]
    after = data.split("time", at=np.uint8(200))[1]
    core = data.core(np.uint8(255), np.uint8(1))
    return wrong(
        latest=test.matrix.indices.tolist() == sorted(latest),
        rest=train.matrix.indices.tolist() == sorted(set(range(300)) - set(latest)),
        after=after.matrix.indices.tolist() == [c for c in range(300) if c % 256 >= 200],
        core=core.shape == (1, 300),
    )


def _another_weighting() -> list[str]:
    """What was fitted to clicks, asked as ratings: α₀ was 0.5, which "ratings" has not."""
    U0, V0 = start(30, 20, 3, seed=4)
    fit = lfm_np.als(csr(X), factors=3, iterations=1, init=(U0, V0), dtype="float64", solver="exact", **HOW.words)
    U, V = fit.user_factors, fit.item_factors
    as_ratings = Model("ratings", lam=0.3, nu=0.5)
    return wrong(
        objective=either(
            lambda: lfm_np.objective(csr(X), fit, weighting="ratings"),
            lambda J: close(J, as_ratings.objective(X, U, V), 1e-9),
            "unobserved_weight",
        ),
        told=close(
            lfm_np.objective(csr(X), fit, weighting="ratings", unobserved_weight=0.0),
            as_ratings.objective(X, U, V), 1e-9,
        ),
        folded=either(
            lambda: fit.fold_in_users(csr(X[:4]), weighting="ratings"),
            lambda new: close(new.user_factors, as_ratings.half(X[:4], V), 1e-8),
            "unobserved_weight",
        ),
    )  # fmt: skip


def _names_of_metrics() -> list[str]:
    """Ranks 2, 5 and 11 are relevant."""
    model = lfm_np.Factors(np.ones((1, 1)), np.arange(12.0, 0.0, -1.0)[:, None])
    test = sp.csr_array(([1.0] * 3, ([0] * 3, [1, 4, 10])), shape=(1, 12))
    facts = {}
    for name, k in (
        ("recall@1_0", 10), ("recall@٣", 3), ("recall@ 3", 3), ("recall@3\n", 3), ("recall@+5", 5), ("recall@05", 5),
        ("recall@" + "9" * 5000, 12), ("recall@" + "9" * 30, 12), ("RECALL@5", 5), (" recall@5", 5), ("recall@5.0", 5),
        ("recall@1e1", 10),
    ):  # fmt: skip
        mine = sum(r <= k for r in (2, 5, 11)) / 3
        facts[f"{len(name)} {name[:12]}"] = either(
            lambda n=name: lfm_np.evaluate(model, None, test, [n]),
            lambda found, n=name, k=k, mine=mine: abs(found.get(n, found.get(f"recall@{k}")) - mine) < 1e-12,
            "metric|recall",
        )
    for name in ("recall@0", "recall@-3", "recall@", "@3", "auc@3", "recall", "", "recall@3@5", "recall@nan"):
        facts[f"not {name!r}"] = refuses(lambda n=name: lfm_np.evaluate(model, None, test, [n]), "metric|recall|auc|@")
    facts["twice"] = abs(lfm_np.evaluate(model, None, test, ["mrr", "mrr"])["mrr"] - 0.5) < 1e-12
    return wrong(**facts)


def _judged_among_nobody() -> list[str]:
    """Nothing but -1 to rank among: the relevant items have one another, and there is no pair for AUC."""
    model = lfm_np.Factors(np.ones((2, 1)), np.array([[4.0], [3.0], [2.0], [1.0]]))
    test = sp.csr_array(np.array([[0, 0, 1, 1], [1, 0, 0, 0]]))
    return wrong(
        either=either(
            lambda: lfm_np.evaluate(
                model, None, test, ["recall@1", "mrr", "ndcg", "auc"], negatives=np.full((2, 3), -1)
            ),
            lambda found: (
                abs(found["recall@1"] - 0.75) < 1e-12
                and found["mrr"] == 1.0
                and abs(found["ndcg"] - 1.0) < 1e-12
                and math.isnan(found.get("auc", math.nan))
            ),
            "auc|negatives|candidate",
        )
    )


def _cosines_of_extremes() -> list[str]:
    """Squares that overflow, vanish, or stand beside one another; numbers below the normal ones."""
    turned = np.array([[1.0, 0.0], [3.0, 4.0], [0.0, 1.0], [-4.0, 3.0]])
    mine = turned @ turned.T / np.outer(*[np.sqrt((turned**2).sum(1))] * 2)
    facts = {}
    for name, scale, dtype in (
        ("large", [1e160] * 4, np.float64), ("small", [1e-170] * 4, np.float64),
        ("both", [1e160, 1e-170, 1.0, 1e-160], np.float64), ("large32", [1e30, 1e35, 1e30, 1e20], np.float32),
        ("small32", [1e-30, 1e-33, 1e-25, 1e-37], np.float32),
    ):  # fmt: skip
        V = (turned * np.array(scale)[:, None]).astype(dtype)
        found = lfm_np.Factors(np.ones((1, 2), dtype), V).similar_items(np.arange(4), N=4)
        got = np.take_along_axis(found.scores.astype(np.float64), np.argsort(found.ids, 1), 1)
        facts[name] = abs(got - mine).max() < (1e-12 if dtype is np.float64 else 1e-5)
    return wrong(**facts)


def _one_dimension() -> list[str]:
    """Arrays of SciPy with one dimension, and with three, are no matrices."""
    model = lfm_np.Factors(np.ones((3, 1)), np.ones((3, 1)))
    good, said, facts = sp.csr_array(np.eye(3)), "dimension|shape|matri|2-d|two|1-d|3-d", {}
    flat, line = sp.coo_array(np.array([1.0, 0.0, 2.0])), sp.csr_array(np.array([1.0, 0.0, 2.0]))
    cube = sp.coo_array(([1.0], ([0], [1], [2])), shape=(3, 3, 3))
    for name, bad in (("flat", flat), ("line", line), ("cube", cube)):
        for what, call in (
            ("als", lambda bad=bad: lfm_np.als(bad, factors=1)),
            ("sgd", lambda bad=bad: lfm_np.sgd(bad, factors=1)),
            ("seen", lambda bad=bad: model.recommend([0], N=1, seen=bad)),
            ("train", lambda bad=bad: lfm_np.evaluate(model, bad, good)),
            ("test", lambda bad=bad: lfm_np.evaluate(model, good, bad)),
            ("objective", lambda bad=bad: lfm_np.objective(bad, model, regularization=1.0)),
            ("popular", lambda bad=bad: most_popular(bad)),
            ("interactions", lambda bad=bad: lfm_np.Interactions(bad, [0, 1, 2], [0, 1, 2])),
        ):
            facts[f"{what} {name}"] = refuses(call, said)
    return wrong(**facts)


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    yield _holds("lists, users and items in eight bits", _lists_of_eight_bits)
    yield _holds("sizes of estimates in 16 and 32 bits", _memory_of_few_bits)
    yield _holds("sizes of made data in few bits", _data_of_few_bits)
    yield _holds("times and numbers of cells in eight bits", _splits_of_eight_bits)
    yield _holds("clicks that are asked as ratings", _another_weighting)
    yield _holds("names of metrics that are all but numbers", _names_of_metrics)
    yield _holds("judged among nobody", _judged_among_nobody)
    yield _holds("cosines of what has no squares", _cosines_of_extremes)
    yield _holds("arrays of one dimension and of three", _one_dimension)
