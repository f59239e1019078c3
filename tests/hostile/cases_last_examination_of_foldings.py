"""The last examination of `als`: starts, callbacks, checkpoints and foldings, beside loops and least squares."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

from .case import Case, Group
from .sentences_by_numpy import Rule, begun, canonical, lfm_np, near, product, with_gaps
from .working_days import NAN, csr, faultless, folder, raised, stars, start, tells, wrong

_GROUP = Group("the last examination, fits")
_holds = faultless(_GROUP)


def _last(fit: Any) -> float:
    return float(fit.history[-1]["objective"])


def _another_model_goes_on() -> list[str]:
    """Two sweeps by one rule, then two by another from where they ended."""
    X = with_gaps(9)
    first, second = Rule("ials", 0.5, 0.2, 0.6, 1.0), Rule("confidence", 1.5, 0.4, 0.05)
    U, V = first.sweeps(X, begun(X)[1], 2)
    U, V = second.sweeps(X, V, 2)
    fit = second.fit(X, 3, 2, init=first.fit(X, 3, 2))
    return wrong(scores=near(product(fit), U @ V.T, 1e-8), J=near(_last(fit), second.cost(X, U, V), 1e-8))


def _views_are_kept() -> list[str]:
    """What a callback has looked at stays what it was when later sweeps are done."""
    X, rule = with_gaps(10), Rule("ials", 0.8, 0.3, 0.2)
    kept: dict[int, Any] = {}

    def look(record: Any, factors: Any) -> None:
        if record["iteration"] in (1, 3):
            assert factors.user_factors.shape == (14, 3)
            assert factors.item_factors.shape == (10, 3)
            kept[record["iteration"]] = factors
        record["objective"] = -1.0

    fit = rule.fit(X, 3, 5, callback=look)
    facts = {"end": near(product(fit), np.matmul(*_outer(rule.sweeps(X, begun(X)[1], 5))))}
    for sweep, view in kept.items():
        U, V = rule.sweeps(X, begun(X)[1], sweep)
        facts[f"sweep {sweep}"] = near(product(view), U @ V.T) and canonical(view)
        facts[f"J {sweep}"] = near(fit.history[sweep - 1]["objective"], rule.cost(X, U, V))
    return wrong(**facts, both=sorted(kept) == [1, 3])


def _outer(pair: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    return pair[0], pair[1].T


def _tolerance_after_a_break() -> list[str]:
    """A run of three sweeps goes on until one gains less than the share, counted from the third."""
    X, rule = with_gaps(11), Rule(alpha=0.5, lam=0.5)
    costs, V = [], begun(X)[1]
    for _ in range(9):
        U, V = rule.sweeps(X, V, 1)
        costs.append(rule.cost(X, U, V))
    gains = [1 - b / a for a, b in itertools.pairwise(costs)]  # of sweep 2, 3, …
    last = next(s for s in range(5, 9) if min(gains[: s - 2]) > 1.2 * gains[s - 2])
    share = math.sqrt(min(gains[: last - 2]) * gains[last - 2])
    with folder() as place:
        path = place / "run"
        rule.fit(X, 3, 3, checkpoint=path)
        fit = rule.fit(X, 3, 40, tolerance=share, checkpoint=path)
    return wrong(
        sweeps=len(fit.history) == last,
        status=fit.status == lfm_np.Status.CONVERGED,
        J=near([record["objective"] for record in fit.history], costs[:last]),
    )


def _other_rules_fold() -> list[str]:
    """A model fitted to clicks solves ratings, and the other way round, when it is told all numbers."""
    X, Z = with_gaps(12), with_gaps(13, 6, 10)
    clicks, stars_ = Rule("ials", 0.5, 0.2, 0.6, 1.0), Rule("ratings", lam=0.2, nu=1.0)
    found = []
    for fitted, told in ((clicks, stars_), (stars_, clicks)):
        model = fitted.fit(X)
        new = model.fold_in_users(csr(Z), **told.words, unobserved_weight=told.empty) if told is stars_ else (
            model.fold_in_users(csr(Z), **told.words)
        )  # fmt: skip
        mine = told.half(Z, model.item_factors)
        found += wrong(**{told.weighting: near(new.user_factors, mine), "items": new.item_factors.shape == (10, 3)})
    return found


def _explained_where_empty_weighs_more() -> list[str]:
    """The share of a cell is v·A⁻¹·c·p·v_j, also where its c is below α₀."""
    X = with_gaps(14)
    rule = Rule("confidence", 0.3, 2.0, 0.05, 1.0)
    model = rule.fit(X)
    V, x, item = model.item_factors, X[7], 0
    has = ~np.isnan(x)
    c = np.where(has, 0.3 * np.nan_to_num(x), 2.0)
    A = (V.T * c) @ V + rule.strength(int(has.sum()), 10) * np.eye(3)
    shares = V[item] @ np.linalg.solve(A, (c * has) * V.T)
    why = model.explain(7, item, csr(X))
    return wrong(
        score=near(why.score, shares.sum(), 1e-9),
        items=sorted(int(i) for i in why.items) == np.flatnonzero(has).tolist(),
        shares=near(why.contributions, shares[np.asarray(why.items)], 1e-9),
        order=(np.diff(why.contributions) <= 0).all(),
        baseline=why.baseline == 0.0,
    )


def _objective_of_anything() -> list[str]:
    """A rating of 0 is a cell, which counts in (n_u)^ν; biases are held like their rows."""
    X = with_gaps(15)
    X[0, 1] = X[3, 1] = X[5, 2] = 0.0
    draw = np.random.default_rng(1)
    U, V, b, d = (draw.normal(size=shape) for shape in ((14, 2), (10, 2), 14, 10))
    model = lfm_np.Factors(U, V, user_bias=b, item_bias=d, global_bias=2.5)
    found = lfm_np.objective(csr(X), model, weighting="ratings", regularization=0.3, regularization_exponent=0.5)
    return wrong(J=near(found, Rule("ratings", lam=0.3, nu=0.5).cost(X, U, V, b, d, 2.5), 1e-12))


def _start_of_a_fit() -> list[str]:
    """The first half-sweep fails, so that the start is what the error holds: V of variance 0.01/k, and no U."""
    X = sp.csr_array(np.vstack([np.eye(1, 2000), np.ones((1, 2000))]))
    error = raised(
        lambda: lfm_np.als(X, factors=8, weighting="ratings", regularization=0.0, dtype="float64", random_state=4)
    )
    if not isinstance(error, lfm_np.SolverError) or error.factors is None:
        return [repr(error)]
    V = error.factors.item_factors
    spectrum = (V**2).sum(0)
    return wrong(
        users=not error.factors.user_factors.any(),
        squares=abs((V**2).sum() / 20 - 1) < 6 * math.sqrt(2 / 16_000),
        # 2.5 (1 ± √(8/2000))² = 2.19 … 2.83, and more than six times their fluctuations of some hundredths
        spectrum=spectrum.min() > 1.9 and spectrum.max() < 3.2,
    )


def _starts_as_they_lie() -> list[str]:
    """A start in Fortran's order, backwards, of float32; the users' is not looked at, since they are solved first."""
    X, rule = with_gaps(17), Rule(alpha=0.5, lam=0.3)
    V0 = begun(X)[1].astype(np.float32)
    U, V = rule.sweeps(X, V0.astype(np.float64), 2)
    turned = np.asfortranarray(V0)[:, ::-1]
    found = []
    for name, begin in (
        ("arrays", (np.full((14, 3), 1e6)[::-1], turned)),
        ("Factors", lfm_np.Factors(np.full((14, 3), 1e6, np.float32), V0)),
    ):
        fit = rule.fit(X, init=begin)
        found += wrong(**{name: near(product(fit), U @ V.T), f"J, {name}": near(_last(fit), rule.cost(X, U, V))})
    return found


def _nowhere_to_go() -> list[str]:
    """From V = 0 nothing moves: J is Σc, and the second sweep gains nothing."""
    X = with_gaps(18)
    fit = Rule(alpha=0.5, lam=0.3).fit(X, init=(np.ones((14, 3)), np.zeros((10, 3))), tolerance=1e-9, times=9)
    total = float(np.nansum(1 + 0.5 * X))
    return wrong(
        zero=not fit.user_factors.any() and not fit.item_factors.any(),
        J=near([record["objective"] for record in fit.history], [total, total], 1e-12),
        status=fit.status == lfm_np.Status.CONVERGED,
    )


def _grown_and_refreshed() -> list[str]:
    """Two users are added, one is replaced, and a fit of all of them goes on from there."""
    X, Z, rule = with_gaps(20), stars(3, 10, 21, 0.3), Rule("ials", 0.6, 0.3, 0.2, 0.5)
    U, V = rule.sweeps(X, begun(X)[1], 2)
    grown = rule.fit(X).update(csr(Z), users=[15, 4, 14])
    mine = np.vstack([U, np.zeros((2, 3))])
    mine[[15, 4, 14]] = rule.half(Z, V)
    after = np.vstack([X, np.full((2, 10), NAN)])
    after[[15, 4, 14]] = Z
    fit = rule.fit(after, init=grown, times=1)
    P, Q = rule.sweeps(after, V, 1)
    return wrong(
        update=near(product(grown), mine @ V.T),
        fit=near(product(fit), P @ Q.T),
        J=near(_last(fit), rule.cost(after, P, Q)),
    )


def _stopped_and_gone_on() -> list[str]:
    """StopIteration after the first sweep; the file has that sweep, and what the callback noted."""
    X, rule = with_gaps(22), Rule("confidence", 1.5, 0.5, 0.2)

    def stop(record: Any, factors: Any) -> None:
        record["noted"] = 7
        raise StopIteration

    with folder() as place:
        half = rule.fit(X, times=5, callback=stop, checkpoint=lfm_np.Checkpoint(place / "run", every=3600))
        fit = rule.fit(X, times=5, checkpoint=str(place / "run"))
    U, V = rule.sweeps(X, begun(X)[1], 5)
    P, Q = rule.sweeps(X, begun(X)[1], 1)
    return wrong(
        half=near(product(half), P @ Q.T) and half.status == lfm_np.Status.STOPPED,
        whole=near(product(fit), U @ V.T) and fit.status == lfm_np.Status.MAX_ITERATIONS,
        noted=[record.get("noted") for record in fit.history] == [7, None, None, None, None],
    )


def _broken_and_gone_on() -> list[str]:
    """The callback of the third sweep raises, so that this sweep is done again."""
    X, rule, seen = with_gaps(23), Rule(alpha=0.3, lam=0.4), list[int]()

    def breaks(record: Any, factors: Any) -> None:
        if record["iteration"] == 3:
            raise ZeroDivisionError("of the callback")

    def one(place: Path) -> list[str]:
        error = raised(lambda: rule.fit(X, times=5, callback=breaks, checkpoint=place / "run"))
        fit = rule.fit(
            X, times=5, callback=lambda record, factors: seen.append(record["iteration"]), checkpoint=place / "run"
        )
        U, V = rule.sweeps(X, begun(X)[1], 5)
        return wrong(error=tells(error, "of the callback"), again=seen == [3, 4, 5], scores=near(product(fit), U @ V.T))

    with folder() as place:
        return one(place)


def _twice_the_same_factor() -> list[str]:
    """Columns 0 and 2 of V are one: the scores are those of two columns, and λ = 1e-14 says how to share."""
    V, Z = start(12, 12, 3)[1], stars(5, 12, 31, 0.6)
    V[:, 2] = V[:, 0]
    new = lfm_np.Factors(np.zeros((1, 3)), V).fold_in_users(
        csr(Z), weighting="hu-koren", alpha=0.5, regularization=1e-14, regularization_exponent=0.0
    )
    root = np.sqrt(1 + 0.5 * np.nan_to_num(Z))
    mine = [
        V[:, :2] @ np.linalg.lstsq(r[:, None] * V[:, :2], r * ~np.isnan(z), rcond=None)[0]
        for r, z in zip(root, Z, strict=True)
    ]
    return wrong(scores=near(product(new), mine, 1e-5))  # the page on reliability: 5e-6 of the targets


def _ratings_of_every_size() -> list[str]:
    """A row of ratings 10ᵖ as large has factors 10ᵖ as large."""
    V, x, rule = start(12, 12, 3)[1], stars(1, 12, 32, 0.6)[0], Rule("ratings", lam=0.1)
    sizes = np.array([1e-100, 1e-3, 1.0, 1e3, 1e100])
    new = lfm_np.Factors(np.zeros((1, 3)), V).fold_in_users(csr(x * sizes[:, None]), **rule.words)
    return wrong(rows=near(new.user_factors / sizes[:, None], np.tile(rule.row(x, V), (5, 1)), 1e-10))


def _confidences_of_1e_minus_200() -> list[str]:
    """b is 1e-200 as large as it would be, and A lacks what the empty cells would add there."""
    V, x, lam = start(12, 12, 3)[1], np.full(12, NAN), 0.2
    x[[1, 4, 9]] = np.array([1.0, 2.0, 5.0]) * 1e-200
    has = ~np.isnan(x)
    A = V[~has].T @ V[~has] * 0.5 + lam * np.eye(3)
    mine = np.linalg.solve(A, V[has].T @ np.array([1.0, 2.0, 5.0]))
    new = lfm_np.Factors(np.zeros((1, 3)), V).fold_in_users(
        csr(x[None]), **Rule("confidence", alpha=1.0, a0=0.5, lam=lam).words
    )
    return wrong(row=near(new.user_factors[0] * 1e200, mine, 1e-9))


def _everything_and_next_to_nothing(dtype: Any, tolerance: float) -> list[str]:
    """A row with every item, each a millionth of an empty cell: no empty cell is left to weigh more."""
    V, x = start(40, 40, 4)[1].astype(dtype), np.random.default_rng(8).integers(1, 6, 40).astype(np.float64)
    rule = Rule("confidence", alpha=1e-6, lam=1e-6)
    new = lfm_np.Factors(np.zeros((1, 4), dtype), V).fold_in_users(csr(np.stack([x, stars(1, 40, 9)[0]])), **rule.words)
    W = V.astype(np.float64)
    return wrong(scores=near(W @ new.user_factors[0].astype(np.float64), W @ rule.row(x, W), tolerance))


def _columns_with_biases() -> list[str]:
    """A new item's factors and bias from users that have biases, which stay, as μ does."""
    draw, Z = np.random.default_rng(33), stars(9, 4, 33, 0.5)
    U, b = draw.normal(size=(9, 2)), draw.normal(size=9)
    model = lfm_np.Factors(U, draw.normal(size=(6, 2)), user_bias=b, item_bias=draw.normal(size=6), global_bias=3.0)
    rule = Rule("ratings", lam=0.15, nu=1.0)
    new = model.fold_in_items(csr(Z), **rule.words)
    mine = np.array([rule.row(z, U, 3.0 + b, True) for z in Z.T])
    return wrong(
        factors=near(new.item_factors, mine[:, :2]),
        biases=near(new.item_bias, mine[:, 2]),
        stay=np.array_equal(new.user_factors, U) and np.array_equal(new.user_bias, b) and new.global_bias == 3.0,
    )


def _fours() -> Any:
    """After the users' half-sweep all users are one, and without λ no item's pair of factors is the only one."""
    X = sp.csr_array(np.full((7, 6), 4.0))
    words = {"factors": 2, "weighting": "ratings", "regularization": 0.0, "dtype": "float64"}
    return product(lfm_np.als(X, iterations=1, init=start(7, 6, 2), **words))


def _beyond_float32(**words: Any) -> Any:
    return lfm_np.als(csr(_sevens()), factors=2, iterations=1, init=start(9, 7, 2), **words)


def _sevens() -> np.ndarray:
    X = np.random.default_rng(4).integers(1, 6, (9, 7)).astype(np.float64)
    X[0, 1] = X[4, 3] = X[7, 6] = NAN
    return X


def _held_to_nothing(fit: Any) -> bool:
    total = float(np.nansum(1 + _sevens()))
    return near(fit.history[0]["objective"] / total, 1.0, 1e-6) and not product_of_floats(fit).any()


def product_of_floats(fit: Any) -> np.ndarray:
    """Scores as float32 has them."""
    return fit.scores(np.repeat(np.arange(9), 7), np.tile(np.arange(7), 9))


def _all_ones(fit: Any) -> bool:
    """Weighted by the values, whatever multiplies them all."""
    V, W = start(9, 7, 2)[1], np.nan_to_num(_sevens())
    U = np.array([np.linalg.solve((V.T * w) @ V, V.T @ w) for w in W])
    V = np.array([np.linalg.solve((U.T * w) @ U, U.T @ w) for w in W.T])
    return near(product(fit), U @ V.T, 1e-3)


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    yield _holds("another rule goes on", _another_model_goes_on)
    yield _holds("what callbacks looked at stays", _views_are_kept)
    yield _holds("a tolerance after a break", _tolerance_after_a_break)
    yield _holds("foldings by another rule", _other_rules_fold)
    yield _holds("shares where empty cells weigh more", _explained_where_empty_weighs_more)
    yield _holds("J of factors from anywhere", _objective_of_anything)
    yield _holds("what a fit starts from", _start_of_a_fit)
    yield _holds("starts as they lie in memory", _starts_as_they_lie)
    yield _holds("a start of zeros", _nowhere_to_go)
    yield _holds("grown, refreshed, and fitted on", _grown_and_refreshed)
    yield _holds("stopped at once, gone on to the fifth", _stopped_and_gone_on)
    yield _holds("a callback's error, and the sweep once more", _broken_and_gone_on)
    yield _holds("a factor that is there twice", _twice_the_same_factor)
    yield _holds("ratings of 1e-100 to 1e100", _ratings_of_every_size)
    yield _holds("confidences of 1e-200", _confidences_of_1e_minus_200)
    for dtype, tolerance in ((np.float64, 1e-6), (np.float32, 1e-2)):
        yield _holds(
            f"everything, and next to no weight, {np.dtype(dtype)}",
            lambda d=dtype, t=tolerance: _everything_and_next_to_nothing(d, t),
        )
    yield _holds("new items of a model with biases", _columns_with_biases)
    errors = (ValueError, lfm_np.SolverError)
    yield _GROUP.either(
        "nothing but fours, and no λ",
        _fours,
        lambda S: near(S, np.full((7, 6), 4.0), 1e-6),
        "row|column|user|item",
        kind=errors,
    )
    yield _GROUP.either(
        "a λ of rows beyond float32",
        lambda: _beyond_float32(regularization=1e30, regularization_exponent=10.0),
        _held_to_nothing,
        "regularization|λ|overflow|finite",
        kind=errors,
    )
    yield _GROUP.either(
        "confidences beyond float32",
        lambda: _beyond_float32(alpha=1e39),
        _all_ones,
        "alpha|value|weight|confidence|overflow|finite|float32",
        kind=errors,
    )
