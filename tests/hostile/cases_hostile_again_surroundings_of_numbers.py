"""Numbers at the ends of their types in fits, lists, metrics, ids, times and seeds; all by Python's own arithmetic."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

import lfm_np

from .case import Case, Group
from .cases_hostile_again_surroundings_of_alarms import RATED, U0, V0, X, epochs, fit, stop_at, whole
from .places import inside
from .working_days import Model, close, faultless, raised, start, tells, wrong

GROUP = Group("hostile again, surroundings")
_holds = faultless(GROUP)
ODD = (ValueError, TypeError, MemoryError, OverflowError)
# powers of two and their like, so that products with 1, -1, 2 and 1/2 are exact in both types
ENDS = {
    "float64": [5e-324, 0.0, -5e-324, 1e-323, 2.0**1020, -(2.0**1020), 2.0**-1022, 1.0, 2.0**-537, -(2.0**600)],
    "float32": [2.0**-149, 0.0, -(2.0**-149), 2.0**-148, 2.0**124, -(2.0**124), 2.0**-126, 1.0, 2.0**-75, -(2.0**70)],
}
USERS = [1.0, -1.0, 2.0, 0.0]


def _model(dtype: str) -> lfm_np.Factors:
    V = np.array(ENDS[dtype], dtype)[:, None]
    return lfm_np.Factors(np.array(USERS, dtype)[:, None], V)


def _lists_at_the_ends(dtype: str) -> list[str]:
    found = _model(dtype).recommend(np.arange(len(USERS)), N=12)
    facts = {}
    for u, weight in enumerate(USERS):
        scores = [weight * value for value in ENDS[dtype]]
        order = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
        facts[f"ids_{u}"] = found.ids[u].tolist() == [*order, -1, -1]
        facts[f"scores_{u}"] = found.scores[u].tolist() == [*(scores[i] for i in order), -math.inf, -math.inf]
    some = _model(dtype).recommend(0, N=3, items=[0, 2, 3], exclude=[3])
    return wrong(**facts, some=some.ids.tolist() == [0, 2, -1], dtype=found.scores.dtype == dtype)


def _judged_at_the_ends(dtype: str) -> list[str]:
    """The held out items are the smallest number above 0, and one in the middle; user 3 has ties only."""
    test = sp.csr_array((np.ones(4), ([0, 1, 2, 3], [0, 2, 8, 7])), shape=(4, 10))
    found = lfm_np.evaluate(_model(dtype), None, test, metrics=("mrr", "auc", "recall@3", "ndcg@6"))
    ranks, auc = [], []
    for weight, item in zip(USERS, (0, 2, 8, 7), strict=True):
        scores = [weight * value for value in ENDS[dtype]]
        order = sorted(range(10), key=lambda i: (-scores[i], i))
        ranks.append(order.index(item) + 1)
        others = [scores[item] - s if s != scores[item] else 0.0 for i, s in enumerate(scores) if i != item]
        auc.append(sum(1.0 if d > 0 else 0.5 if d == 0 else 0.0 for d in others) / 9)
    facts = {
        "mrr": sum(1 / r for r in ranks) / 4,
        "auc": sum(auc) / 4,
        "recall@3": sum(r <= 3 for r in ranks) / 4,
        "ndcg@6": sum(1 / math.log2(r + 1) for r in ranks if r <= 6) / 4,
    }
    return [name for name, value in facts.items() if abs(found[name] - value) > 1e-12]


def _cosines_at_the_ends(dtype: str) -> list[str]:
    """(3, 4), (4, 3) and their like, times powers of two that cannot be squared: exact but for rounding."""
    far = 1000 if dtype == "float64" else 120
    directions = [(3.0, 4.0), (4.0, 3.0), (-3.0, -4.0), (4.0, -3.0), (0.0, 5.0)]
    powers = [-far, far, 0, far // 2, -far // 2]
    rows = [(x * 2.0**p, y * 2.0**p, x, y) for p in powers for x, y in directions]
    V = np.array([row[:2] for row in rows] + [(0.0, 0.0)], dtype)
    found = lfm_np.Factors(np.ones((1, 2), dtype), V).similar_items(np.arange(len(V)), N=len(V))
    eps = 16 * float(np.finfo(dtype).eps)  # a dot product of two, two roots and a quotient
    good = []
    for i in range(len(rows)):
        true = [(rows[i][2] * x + rows[i][3] * y) / 25 for _, _, x, y in rows] + [0.0]
        ids, scores = found.ids[i].tolist(), found.scores[i].tolist()
        good.append(sorted(ids) == list(range(len(V))))
        good.append(all(abs(s - true[j]) <= eps for j, s in zip(ids, scores, strict=True)))
        good.append(scores == sorted(scores, reverse=True))
    return wrong(each=all(good), none=not np.any(found.scores[-1]))


def _scaled_ratings(power: int) -> list[str]:
    """Without a penalty, ratings that are 2^p as large have scores that are 2^p as large."""
    rated = np.random.default_rng(5).integers(1, 6, (7, 6)).astype(float)
    U1, V1 = start(7, 6, 2, seed=6)
    V = V1
    for _ in range(4):
        U = np.linalg.lstsq(V, rated.T, rcond=None)[0].T
        V = np.linalg.lstsq(U, rated, rcond=None)[0].T
    S, J = U @ V.T, float(((U @ V.T - rated) ** 2).sum())
    scale = 2.0**power
    data = sp.csr_array(rated * scale)
    found = lfm_np.als(
        data, factors=2, weighting="ratings", regularization=0.0, iterations=4, init=(U1, V1), dtype="float64",
        solver="exact",
    )  # fmt: skip
    scores = (found.user_factors @ found.item_factors.T) / scale
    objective = found.history[-1]["objective"] / scale / scale
    # conditions of V'V and U'U are below 1e4, J is 7 % of the squares
    return wrong(scores=close(scores, S, 1e-9), objective=abs(objective - J) <= 1e-9 * J)


def _ends_of_times() -> list[str]:
    """Integers of 64 bits, signed or not, stay what they are."""
    users, items = [0, 0, 0, 1, 1], [0, 1, 2, 0, 1]
    good = []
    for kind, low in ((np.int64, -(2**63)), (np.uint64, 0)):
        top = int(np.iinfo(kind).max)
        times = np.array([low, top, top - 2, top - 1, top], kind)
        data = lfm_np.Interactions.from_arrays(users, items, timestamps=times)
        _, last = data.split("last")
        _, from_top = data.split("time", at=top)
        _, from_next = data.split("time", at=top - 1)
        _, from_low = data.split("time", at=low + 1)
        good += [
            data.timestamps.tolist() == times.tolist(),
            last.matrix.toarray().tolist() == [[0, 1, 0], [0, 1, 0]],
            from_top.matrix.toarray().tolist() == [[0, 1, 0], [0, 1, 0]],
            from_next.matrix.toarray().tolist() == [[0, 1, 0], [1, 1, 0]],
            from_low.matrix.toarray().tolist() == [[0, 1, 1], [1, 1, 0]],
        ]
    return wrong(each=all(good))


def _ends_of_ids() -> list[str]:
    users = np.array([2**64 - 1, 2**63, 0, 1, 2**64 - 1], np.uint64)
    items = np.array([-(2**63), 2**63 - 1, 0, -1, 2**63 - 1])
    data = lfm_np.Interactions.from_arrays(users, items)
    large = [10**30, -(10**30), 10**30 + 1, 2**64, -(2**63) - 1]
    wide = lfm_np.Interactions.from_arrays(large, [0.0, 5e-324, 1.7e308, -5e-324, -1.7e308])
    return wrong(
        users=[int(u) for u in data.users] == [0, 1, 2**63, 2**64 - 1],
        rows=data.rows_of(np.array([2**64 - 1, 2**63], np.uint64)).tolist() == [3, 2],
        columns=data.columns_of(np.array([2**63 - 1, -(2**63)])).tolist() == [3, 0],
        cells=data.matrix.toarray().tolist() == [[0, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 1], [1, 0, 0, 1]],
        wide=[int(u) for u in wide.users] == sorted(large) and wide.rows_of(large).tolist() == [3, 0, 4, 2, 1],
        small=wide.columns_of([5e-324, -5e-324, 0.0]).tolist() == [3, 1, 2],
    )


def _ends_of_values() -> list[str]:
    """Sums beyond float32 are refused, means and maxima of the same are not."""
    pairs, top = [(0, 1), (0, 1), (1, 0)], 3.0e38
    values = [top, top, 2.0**-149]
    mean, most = (lfm_np.to_csr(pairs, values=values, duplicates=how).toarray() for how in ("mean", "max"))
    error = raised(lambda: lfm_np.to_csr(pairs, values=values))
    beyond = raised(lambda: lfm_np.to_csr(pairs, values=[1.0, 1e39, 1.0]))
    ones = lfm_np.to_csr([(0, 2**31 - 2)], shape=(1, 2**31 - 1))
    return wrong(
        mean=mean.tolist() == most.tolist() == [[0.0, float(np.float32(top))], [2.0**-149, 0.0]],
        refused=all(isinstance(e, ValueError) and tells(e, "value|finite|float32|sum") for e in (error, beyond)),
        last=ones.shape == (1, 2**31 - 1) and ones.indices.tolist() == [2**31 - 2],
    )


def _ends_of_lengths() -> list[str]:
    """Lists that no machine holds."""
    model = lfm_np.Factors(U0, V0)
    errors = [raised(lambda N=N: model.recommend(0, N=N)) for N in (2**45, 2**62, 2**63 - 1, 2**64, 10**30, -(2**63))]
    errors += [raised(lambda N=N: model.similar_users([1, 2], N=N)) for N in (2**61, 2**63, 10**400)]
    best = np.argsort(-(U0 @ V0.T)[0]).tolist()
    return wrong(
        kinds=[type(e).__name__ for e in errors if not isinstance(e, ODD) or not str(e)] == [],
        after=model.recommend(0, N=9).ids.tolist() == best,
    )


def _or_told(call: Callable[[], Any], true: Callable[[Any], bool], *words: str) -> bool:
    try:
        found = call()
    except ODD as error:
        return tells(error, *words)
    return true(found)


def _ends_of_counts() -> list[str]:
    many = [2**31 - 1, 2**31, 2**63, 2**64 + 1, 10**30]
    sweeps = [_or_told(lambda n=n: fit(n, callback=stop_at(2)), lambda f: whole(f, 2), "iterations") for n in many]
    passes = [
        _or_told(lambda n=n: epochs(n, callback=stop_at(2)), lambda f: len(f.history) == 2, "epochs") for n in many
    ]
    threads = [
        _or_told(lambda n=n: fit(num_threads=n), lambda f: whole(f, 3), "thread|memory") for n in (64, *many[1:])
    ]
    wide = [raised(lambda k=k: lfm_np.als(X, factors=k)) for k in (2**31, 2**64, 65_537)]
    return wrong(
        sweeps=all(sweeps), passes=all(passes), threads=all(threads),
        wide=all(isinstance(e, ODD) and tells(e, "factors|memory") for e in wide),
    )  # fmt: skip


def _ends_of_tolerances() -> list[str]:
    """A share of nearly all ends the second sweep; the smallest number ends none that lowers J."""
    most, least = fit(10, tolerance=float(np.nextafter(1.0, 0.0))), fit(6, tolerance=5e-324)
    return wrong(
        most=whole(most, 2) and most.status == "converged", least=whole(least, 6) and least.status == "max_iterations"
    )


def _ends_of_rates() -> list[str]:
    """A rate of nothing moves nothing; one of 10^308 diverges, and the error has what was there before."""
    S = float(U0[0] @ V0[0])
    rated = sp.csr_array([[-2.5]])

    def run(rate: float, **words: Any) -> Any:
        return lfm_np.sgd(
            rated, lfm_np.losses.Squared(), sampler=None, factors=3, epochs=3, learning_rate=rate, dtype="float64",
            random_state=0, init=(U0[:1], V0[:1]), **words,
        )  # fmt: skip

    still = [float(run(5e-324, schedule=name).scores(0, 0)) for name in ("constant", "inverse", "adagrad")]
    error = raised(lambda: run(1e308))
    kept = error.factors if isinstance(error, lfm_np.SolverError) else None
    return wrong(
        still=close(still, [S] * 3, 1e-12), told=isinstance(error, (lfm_np.SolverError, ValueError)),
        words=tells(error, "epoch|learning_rate|diverg"),
        kept=kept is None or bool(np.isfinite(kept.user_factors).all()),
    )  # fmt: skip


def _ends_of_seeds() -> list[str]:
    """Seeds of which only the bits above the 64th differ are other seeds; the same ones are the same."""
    seeds = [5, 5 + 2**64, 5 + 2**128, 2**32 + 5, 2**200 + 5]
    fits = [
        lambda s: lfm_np.als(X, factors=2, iterations=1, random_state=s).item_factors,
        lambda s: lfm_np.sgd(X, factors=2, epochs=1, random_state=s).user_factors,
        lambda s: lfm_np.datasets.make_interactions(40, 12, 5, random_state=s),
    ]
    apart, again = [], []
    for draw in fits:
        drawn = [draw(s).tobytes() for s in seeds]
        apart.append(len(set(drawn)) == len(seeds))
        again.append(drawn == [draw(s).tobytes() for s in seeds])
    return wrong(apart=all(apart), again=all(again))


def _seed_of_many_digits(place: Path) -> list[str]:
    """Of more digits than Python writes: a model that comes back with it, or an error."""
    seed, path = 10**5000 + 1, place / "m"
    lfm_np.Factors(U0, V0).save(path)

    def through() -> bool:
        found, again = (lfm_np.als(X, factors=2, iterations=1, random_state=seed) for _ in range(2))
        assert np.array_equal(found.item_factors, again.item_factors)
        found.save(path)
        other = lfm_np.Factors.load(path)
        return other.params["seed"] == seed and np.array_equal(other.item_factors, found.item_factors)

    told = _or_told(through, bool, "digit|json|params|seed|random_state")
    return wrong(told=told, whole=lfm_np.Factors.load(path).shape == (14, 9))


def _ends_of_weights() -> list[str]:
    """Implicit feedback whose weights are 2^p as large, and the penalty: the same factors, J 2^p as large."""
    base = fit(3)
    good = [whole(base, 3)]
    for power in (-500, 500):
        scale = 2.0**power
        found = lfm_np.als(
            X, factors=3, iterations=3, init=(U0, V0), dtype="float64", solver="exact", weighting="ials",
            alpha=2.0 * scale, unobserved_weight=scale, regularization=0.3 * scale,
        )  # fmt: skip
        plain = lfm_np.als(
            X, factors=3, iterations=3, init=(U0, V0), dtype="float64", solver="exact", weighting="ials", alpha=2.0,
            unobserved_weight=1.0, regularization=0.3,
        )  # fmt: skip
        mine = _ials(3)
        good.append(close(plain.user_factors @ plain.item_factors.T, mine, 1e-8))
        good.append(close(found.user_factors @ found.item_factors.T, mine, 1e-8))
        good.append(close(found.history[-1]["objective"] / scale, plain.history[-1]["objective"], 1e-9))
    return wrong(each=all(good))


def _ials(sweeps: int) -> np.ndarray:
    U, V = Model("ials", alpha=2.0, a0=1.0, lam=0.3).sweeps(RATED, V0, sweeps)
    return U @ V.T


def _cases() -> Iterator[Case]:
    for dtype in ENDS:
        yield _holds(f"lists at the ends of {dtype}", lambda d=dtype: _lists_at_the_ends(d))
        yield _holds(f"metrics at the ends of {dtype}", lambda d=dtype: _judged_at_the_ends(d))
        yield _holds(f"cosines at the ends of {dtype}", lambda d=dtype: _cosines_at_the_ends(d))
    for power in (-300, 300):
        yield _holds(f"ratings times 2^{power}", lambda p=power: _scaled_ratings(p))
    yield _holds("ends of times", _ends_of_times)
    yield _holds("ends of ids", _ends_of_ids)
    yield _holds("ends of values", _ends_of_values)
    yield _holds("ends of lengths", _ends_of_lengths)
    yield _holds("ends of counts", _ends_of_counts)
    yield _holds("ends of tolerances", _ends_of_tolerances)
    yield _holds("ends of rates", _ends_of_rates)
    yield _holds("ends of seeds", _ends_of_seeds)
    yield _holds("a seed of many digits", inside(_seed_of_many_digits))
    yield _holds("ends of weights", _ends_of_weights)


def cases() -> list[Case]:
    return list(_cases())
