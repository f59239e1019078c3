"""Sentences about `als`, folding in, updates, explanations and the objective, each held to numbers of its own."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import scipy.sparse as sp

from .case import Case, Group
from .sentences_by_numpy import Rule, begun, canonical, lfm_np, near, product, with_gaps
from .working_days import NAN, csr, faultless, folder, raised, same, stars, tells, wrong

_GROUP = Group("sentence fits")
_holds = faultless(_GROUP)
X = with_gaps()
IALS = Rule("ials", alpha=2.0, a0=0.3, lam=0.05, nu=0.5)
KOREN = Rule("hu-koren", alpha=3.0, a0=0.5, lam=0.2, nu=1.0)
RATINGS = Rule("ratings", lam=0.3, nu=1.0)


def _defaults_of_the_objective() -> list[str]:
    U, V = begun(X)
    fit = lfm_np.als(csr(X), factors=3, iterations=1, init=(U, V), dtype="float64")
    mine = Rule().sweeps(X, V)
    return wrong(
        scores=near(product(fit), mine[0] @ mine[1].T), J=near(fit.history[-1]["objective"], Rule().cost(X, *mine))
    )


def _defaults_of_the_run() -> list[str]:
    fit = lfm_np.als(csr(X, np.float32), random_state=0)
    return wrong(
        shapes=fit.user_factors.shape == (14, 64) and fit.item_factors.shape == (10, 64),
        dtype=fit.user_factors.dtype == fit.item_factors.dtype == np.float32,
        sweeps=[r["iteration"] for r in fit.history] == list(range(1, 16)),
        status=fit.status is lfm_np.Status.MAX_ITERATIONS,
        keys=all(set(r) == {"iteration", "objective_users", "objective", "seconds"} for r in fit.history),
        no_biases=fit.user_bias is None and fit.item_bias is None and fit.global_bias is None,
        order=fit.user_factors.flags.c_contiguous and fit.item_factors.flags.c_contiguous,
    )


def _stops(rule: Rule) -> list[str]:
    whole = rule.fit(X, times=40)
    J = [r["objective"] for r in whole.history]
    falls = [(a - b) / a for a, b in pairwise(J)]
    at = next(n for n, fall in enumerate(falls) if fall < 0.002)
    limit = (falls[at] + min(falls[:at])) / 2
    fit = rule.fit(X, times=40, tolerance=limit)
    return wrong(
        length=len(fit.history) == at + 2, status=fit.status is lfm_np.Status.CONVERGED, early=at + 2 < 40,
        bits=same(fit, rule.fit(X, times=at + 2)),
    )  # fmt: skip


def _never_early() -> list[str]:
    fit = lfm_np.als(
        sp.csr_array([[2.0]]), factors=1, iterations=60, random_state=0, dtype="float64", regularization=10.0
    )
    J = [r["objective"] for r in fit.history]
    return wrong(length=len(J) == 60, flat=J[-1] == J[-2], status=fit.status is lfm_np.Status.MAX_ITERATIONS)


def _checkpoint_may_differ() -> list[str]:
    words: dict[str, Any] = {"factors": 3, "random_state": 7}
    with folder() as place:
        lfm_np.als(csr(X), iterations=2, checkpoint=place / "c", tolerance=0.0, num_threads=1, **words)
        seen: list[int] = []
        fit = lfm_np.als(
            csr(X), iterations=5, checkpoint=place / "c", tolerance=1e-300, num_threads=2, raise_on_interrupt=True,
            callback=lambda record, factors: seen.append(record["iteration"]), **words,
        )  # fmt: skip
        error = raised(lambda: lfm_np.als(csr(X), iterations=4, checkpoint=place / "c", **words))
        again = lfm_np.als(csr(X), iterations=5, checkpoint=place / "c", **words)
    return wrong(
        bits=same(fit, lfm_np.als(csr(X), iterations=5, **words)), sweeps=seen == [3, 4, 5], again=same(again, fit),
        fewer=isinstance(error, ValueError) and tells(error, "iterations"),
        history=[r["iteration"] for r in again.history] == [1, 2, 3, 4, 5],
    )  # fmt: skip


CHANGES: dict[str, Any] = {
    "factors": 4,
    "regularization": 0.02,
    "alpha": 2.0,
    "unobserved_weight": 0.5,
    "regularization_exponent": 0.5,
    "weighting": "ials",
    "solver": "subspace",
    "dtype": "float64",
    "random_state": 8,
}


def _checkpoint_refuses() -> list[str]:
    """The arguments whose change is not refused by name."""
    found = []
    for name, value in CHANGES.items():
        words: dict[str, Any] = {"factors": 3, "random_state": 7, name: value}
        with folder() as place:
            lfm_np.als(csr(X, np.float32), iterations=1, checkpoint=place / "c", factors=3, random_state=7)
            words |= {"iterations": 2, "checkpoint": place / "c"}
            error = raised(partial(lfm_np.als, csr(X, np.float32), **words))
        found += [] if isinstance(error, ValueError) and tells(error, name) else [name]
    return found


def _checkpoint_of_one_value_more() -> BaseException:
    other = X.copy()
    other[5, 3] += 1
    with folder() as place:
        lfm_np.als(csr(X), iterations=1, checkpoint=place / "c", factors=3, random_state=7)
        return raised(lambda: lfm_np.als(csr(other), iterations=2, checkpoint=place / "c", factors=3, random_state=7))


def _empty_rows(rule: Rule) -> list[str]:
    fit = rule.fit(X, times=2)
    mine = rule.sweeps(X, begun(X)[1], 2)
    return wrong(
        users=not fit.user_factors[[2, 13]].any(), item=not fit.item_factors[4].any(),
        others=bool(fit.user_factors[[0, 1, 5]].any(1).all()), scores=near(product(fit), mine[0] @ mine[1].T, 1e-8),
    )  # fmt: skip


def _after_either_half(rule: Rule) -> list[str]:
    V = begun(X)[1]
    half = rule.half(X, V)
    fit = rule.fit(X, times=1)
    whole = rule.half(X.T, half)
    record = fit.history[0]
    return wrong(
        users=near(record["objective_users"], rule.cost(X, half, V), 1e-10),
        both=near(record["objective"], rule.cost(X, half, whole), 1e-10),
    )


def _objective_of_bare_factors() -> list[str]:
    U, V = begun(X)
    bare = lfm_np.Factors(U, V)
    part = lfm_np.objective(csr(X), bare, alpha=4.0, regularization_exponent=0.5)
    return wrong(
        defaults=near(lfm_np.objective(csr(X), bare), Rule().cost(X, U, V), 1e-12),
        some=near(part, Rule(alpha=4.0, nu=0.5).cost(X, U, V), 1e-12),
        ratings=near(lfm_np.objective(csr(X), bare, weighting="ratings"), Rule("ratings").cost(X, U, V), 1e-12),
        kind=type(part) is float,
    )


def _objective_as_fitted() -> list[str]:
    fit = IALS.fit(X)
    U, V = fit.user_factors, fit.item_factors
    return wrong(
        own=near(lfm_np.objective(csr(X), fit), IALS.cost(X, U, V), 1e-11),
        other=near(lfm_np.objective(csr(X), fit, regularization=9.0), IALS._replace(lam=9.0).cost(X, U, V), 1e-11),
    )


def _biases() -> list[str]:
    full = np.where(np.isnan(X), NAN, X - 3)  # with zeros and negative ratings
    full[2] = full[13] = [1.0, *[NAN] * 9]
    full[0, 4] = 2.0
    V = begun(full)[1]
    mu = float(np.nanmean(full))
    rows = np.array([RATINGS.row(x, V, mu, ones=True) for x in full])
    columns = np.array([RATINGS.row(x, rows[:, :3], mu + rows[:, 3], ones=True) for x in full.T])
    fit = RATINGS.fit(full, times=1, biases=True)
    S = rows[:, :3] @ columns[:, :3].T + rows[:, 3:] + columns[:, 3] + mu
    J = RATINGS.cost(full, rows[:, :3], columns[:, :3], rows[:, 3], columns[:, 3], mu)
    return wrong(
        mean=near(fit.global_bias, mu, 1e-12), users=near(fit.user_bias, rows[:, 3], 1e-9),
        items=near(fit.item_bias, columns[:, 3], 1e-9), J=near(fit.history[0]["objective"], J, 1e-10),
        scores=near(product(fit) + fit.user_bias[:, None] + fit.item_bias + fit.global_bias, S, 1e-9),
        asked=near(lfm_np.objective(csr(full), fit), J, 1e-10),
    )  # fmt: skip


def _alpha_of_zero(weighting: str) -> list[str]:
    rule = Rule(weighting, alpha=0.0, a0=0.7, lam=0.1)
    mine = rule.sweeps(X, begun(X)[1], 1)
    fit = rule.fit(X, times=1)
    return wrong(
        scores=near(product(fit), mine[0] @ mine[1].T), J=near(fit.history[0]["objective"], rule.cost(X, *mine))
    )


def _same_problem(one: Rule, X1: np.ndarray, other: Rule, X2: np.ndarray) -> list[str]:
    a, b = one.fit(X1, times=3), other.fit(X2, times=3)
    mine = one.sweeps(X1, begun(X1)[1], 3)
    return wrong(same=near(product(a), product(b), 1e-8), right=near(product(a), mine[0] @ mine[1].T, 1e-8))


def _reordered() -> list[str]:
    rows, columns = np.random.default_rng(1).permutation(14), np.random.default_rng(2).permutation(10)
    U, V = begun(X)
    moved = KOREN.fit(X[rows][:, columns], init=(U[rows], V[columns]))
    mine = KOREN.sweeps(X, V, 2)
    return wrong(scores=near(product(moved), (mine[0] @ mine[1].T)[rows][:, columns], 1e-8))


def _update(words: dict[str, Any]) -> Any:
    return KOREN.fit(X).update(csr(X[:2]), **words)


def _seed_again(kind: str) -> list[str]:
    solve: Any = lfm_np.als if kind == "als" else lfm_np.sgd
    seeds = [solve(csr(X), factors=3, random_state=seed).params.get("seed") for seed in (7, 7, None, None)]
    return wrong(told=type(seeds[0]) is int, same=seeds[0] == seeds[1], chance=seeds[2] != seeds[3])


def _looked_at_too_late() -> Any:
    kept: list[Any] = []
    lfm_np.als(csr(X), factors=3, random_state=0, callback=lambda record, factors: kept.append(factors))
    return kept[3].item_factors


def _which_is_auto() -> list[str]:
    words: dict[str, Any] = {"iterations": 2, "random_state": 0}
    few = [lfm_np.als(csr(X), factors=63, solver=s, **words) for s in ("auto", "exact")]
    rated = [lfm_np.als(csr(X), factors=70, weighting="ratings", solver=s, **words) for s in ("auto", "exact")]
    return wrong(
        few=same(*few), rated=same(*rated), told=few[0].params["solver"] == rated[0].params["solver"] == "exact"
    )


def _never_rises(solver: str, rule: Rule) -> list[str]:
    wide = stars(80, 60, seed=3, share=0.7)
    fit = rule.fit(wide, k=70, times=6, solver=solver)
    J = [record[key] for record in fit.history for key in ("objective_users", "objective")]
    mine = rule.cost(wide, fit.user_factors, fit.item_factors)
    return wrong(falls=all(b <= a * (1 + 1e-12) for a, b in pairwise(J)), J=near(J[-1], mine, 1e-9))


def _users_come_first() -> list[str]:
    U, V = begun(X)
    one, other = (IALS.fit(X, init=(first, V), solver="exact") for first in (U, np.zeros_like(U)))
    mine = IALS.sweeps(X, V, 2)
    return wrong(bits=same(one, other), right=near(product(one), mine[0] @ mine[1].T, 1e-8))


def _stopped_at_once() -> list[str]:
    def stop(record: dict[str, Any], factors: Any) -> None:
        record["looked"] = float(factors.item_factors[0, 0])
        raise StopIteration

    fit = IALS.fit(X, times=9, callback=stop)
    return wrong(
        status=fit.status is lfm_np.Status.STOPPED, one=len(fit.history) == 1, bits=same(fit, IALS.fit(X, times=1)),
        added=fit.history[0]["looked"] == float(fit.item_factors[0, 0]),
    )  # fmt: skip


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    refused = _GROUP.refused
    yield _holds("als without a word takes λ = 0.01, α = 1, α₀ = 1 of Hu and Koren", _defaults_of_the_objective)
    yield _holds("64 factors, 15 sweeps, float32, four entries a record", _defaults_of_the_run)
    yield _holds("stop once a sweep lowers J by less than tolerance · J", lambda: _stops(Rule(lam=1.0)))
    yield _holds("0 never stops early", _never_early)
    yield _holds("six arguments may differ from those of a checkpoint", _checkpoint_may_differ)
    yield _holds("a checkpoint of any other argument is refused by name", _checkpoint_refuses)
    yield _GROUP.right(
        "a checkpoint of another X is refused", _checkpoint_of_one_value_more,
        lambda error: isinstance(error, ValueError) and tells(error, "another matrix|other matrix|another x|x "),
    )  # fmt: skip
    for rule in (KOREN, RATINGS, IALS._replace(a0=0.0, nu=1.0), Rule("confidence", 2.0, 0.0, 0.1, 0.0)):
        yield _holds(f"an empty row or column gets the zero vector: {rule.weighting}", lambda r=rule: _empty_rows(r))
    for rule in (KOREN, IALS, RATINGS, Rule("confidence", 2.0, 5.0, 0.1, 0.5)):
        yield _holds(f"J after either half-sweep, exact: {rule.weighting}", lambda r=rule: _after_either_half(r))
    yield _holds("None takes the default of als where factors hold none", _objective_of_bare_factors)
    yield _holds("None takes the value the factors were fitted with", _objective_as_fitted)
    yield _holds("μ the mean rating, each bias penalised like its row's factors", _biases)
    for weighting in ("hu-koren", "ials", "confidence"):
        yield _holds(f"α of 0 is allowed: {weighting}", lambda w=weighting: _alpha_of_zero(w))
    plain = Rule("ials", 2.0, 0.0, 0.1)
    for name, one, other, X2 in (
        ("without empty cells ials is confidence", plain, plain._replace(weighting="confidence"), X),
        ("hu-koren is confidence with X + 1", Rule(lam=0.3), Rule("confidence", lam=0.3), X + 1),
        ("α counts only beside α₀ and λ", Rule("ials", 1.0, 0.2, 0.1), Rule("ials", 8.0, 1.6, 0.8), X),
        ("only αx counts, not α", KOREN, KOREN._replace(alpha=6.0), X / 2),
    ):
        yield _holds(name, lambda a=one, b=other, Z=X2: _same_problem(a, X, b, Z))
    yield _holds("rows and columns in another order give the same scores in that order", _reordered)
    odd: tuple[tuple[str, Any, str], ...] = (
        ("a gap", {"users": [3, 15]}, "gap|users|follow"), ("a repeated id", {"users": [3, 3]}, "users|repeated|twice"),
        ("both", {"users": [3, 4], "items": [0, 1]}, "users|items"), ("neither", {}, "users|items"),
        ("one id too few", {"users": [3]}, "shape|rows|users|x"), ("an id below 0", {"users": [-1, 3]}, "users"),
    )  # fmt: skip
    for name, words, said in odd:
        yield refused(f"update refuses {name}", partial(_update, words), said)
    for kind in ("als", "sgd"):
        yield _holds(f"params of {kind} say which seed was drawn", lambda k=kind: _seed_again(k))
    yield refused(
        "factors must be looked at within the callback",
        _looked_at_too_late,
        "callback",
        kind=(RuntimeError, ValueError),
    )
    yield refused(
        "estimate_memory refuses a cell more than m · n", lambda: lfm_np.estimate_memory(3, 4, 13), "nnz|cells"
    )
    yield _holds("auto is exact below 64 factors and for ratings", _which_is_auto)
    yield _holds("the objective of cg never rises", lambda: _never_rises("cg", KOREN))
    yield _holds("the objective of subspace on ratings never rises", lambda: _never_rises("subspace", RATINGS))
    yield _holds("a sweep solves all users from V, so that U is nothing to begin with", _users_come_first)
    yield _holds("StopIteration ends the run with what there is", _stopped_at_once)
    yield refused(
        "ratings allow no unobserved_weight", lambda: RATINGS.fit(X, unobserved_weight=0.5), "unobserved_weight"
    )
    yield _GROUP.right(
        "ratings allow an unobserved_weight of 0",
        lambda: RATINGS.fit(X, unobserved_weight=0),
        lambda f: same(f, RATINGS.fit(X)),
    )
    yield refused("biases are for ratings", lambda: KOREN.fit(X, biases=True), "biases")
    yield _GROUP.right(
        "init may be Factors", lambda: IALS.fit(X, init=lfm_np.Factors(*begun(X))), lambda fit: same(fit, IALS.fit(X))
    )
    yield _GROUP.right(
        "the result is in the canonical basis", lambda: IALS.fit(X, k=5, times=4), lambda f: canonical(f, 1e-9)
    )
