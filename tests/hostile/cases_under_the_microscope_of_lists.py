"""Scores, lists and metrics at both ends of the types: whole numbers times powers of two, which sums have exactly."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy as np
import scipy.sparse as sp

from .case import Case, Group, installed
from .sentences_by_numpy import lfm_np
from .working_days import close, faultless, judged, wrong

_GROUP = Group("under the microscope")
_holds = faultless(_GROUP)
TINY = 2.0**-149
SIZES = (1, 15, 16, 17, 64, 65)


def _whole(k: int, m: int = 6, n: int = 2000, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng((seed, k))
    return draw.integers(-3, 4, (m, k)), draw.integers(-3, 4, (n, k))


def _times(whole: np.ndarray, power: int, dtype: Any) -> np.ndarray:
    """Exact, denormals too."""
    return np.array([math.ldexp(int(x), power) for x in whole.ravel()]).reshape(whole.shape).astype(dtype)


def _best(S: np.ndarray, N: int) -> np.ndarray:
    columns = np.arange(S.shape[1])
    return np.array([np.lexsort((columns, -row))[:N] for row in S])


def _listed(model: Any, S: np.ndarray, power: int, N: int, **words: Any) -> bool:
    """The lists of all users, and their scores to the bit."""
    ids, scores = model.recommend(np.arange(len(S)), N=N, num_threads=1, **words)
    mine = _best(S, N)
    values = _times(np.take_along_axis(S, mine, 1), power, scores.dtype)
    pairs = model.scores(np.repeat(np.arange(len(S)), N), mine.ravel()).reshape(mine.shape)
    return np.array_equal(ids, mine) and np.array_equal(scores, values) and np.array_equal(pairs, values)


def _ranked(dtype: str, p: int, q: int) -> list[str]:
    faults = []
    for k in SIZES:
        U, V = _whole(k)
        model = lfm_np.Factors(_times(U, p, dtype), _times(V, q, dtype))
        if not _listed(model, U @ V.T, p + q, 10):
            faults.append(f"k={k}")
    return faults


def _lengths() -> list[str]:
    """Scores of 2⁻¹⁴⁰ and many ties."""
    U, V = _whole(17)
    model = lfm_np.Factors(_times(U, -70, "float32"), _times(V, -70, "float32"))
    return [f"N={N}" for N in (1, 31, 32, 33, 64, 65, 2000) if not _listed(model, U @ V.T, -140, N)]


def _an_enormous_column(dtype: str, power: int) -> list[str]:
    """One dimension of 2^power in the items, which users take 0, or 2^-power times, into account."""
    faults = []
    for k in (16, 17, 65):
        U, V = _whole(k)
        S = U[:, 1:] @ V[:, 1:].T
        big = _times(V, 0, dtype)
        big[:, 0] = _times(V[:, 0], power, dtype)
        for name, part in (("none", np.zeros(len(U), int)), ("some", U[:, 0])):
            users = _times(U, 0, dtype)
            users[:, 0] = _times(part, -power, dtype)
            if not _listed(lfm_np.Factors(users, big), S + part[:, None] * V[:, 0], 0, 10):
                faults.append(f"k={k}, {name}")
    return faults


def _an_enormous_item() -> list[str]:
    """Of 2⁶⁰ beside 1,999 small ones: first for whom it is positive, last for whom it is negative."""
    U, V = _whole(16)
    V[7] = 0
    V[7, 3] = 1
    U[:, 3] = [1, -1, 2, -2, 3, -3]
    S = (U @ V.T).astype(object)
    S[:, 7] = [int(x) * 2**60 for x in U[:, 3]]
    items = _times(V, 0, "float32")
    items[7, 3] = 2.0**60
    ids, scores = lfm_np.Factors(_times(U, 0, "float32"), items).recommend(np.arange(6), N=2000)
    mine = np.array([sorted(range(2000), key=lambda i, row=row: (-row[i], i)) for row in S])
    values = [[float(row[i]) for i in order] for row, order in zip(S, mine, strict=True)]
    return wrong(ids=np.array_equal(ids, mine), scores=np.array_equal(scores, np.array(values, np.float32)))


def _by_bias(dtype: str, power: int) -> list[str]:
    """Users know nothing, and items differ by what is added only."""
    draw = np.random.default_rng(1)
    b = draw.integers(-200, 200, 300)
    model = lfm_np.Factors(np.zeros((2, 3), dtype), np.zeros((300, 3), dtype), item_bias=_times(b, power, dtype))
    S = np.array([b, b])
    return wrong(
        all=_listed(model, S, power, 300),
        some=np.array_equal(model.recommend(0, N=5, exclude=_best(S, 5)[0]).ids, _best(S, 10)[0, 5:]),
    )


def _zeros_tie() -> list[str]:
    V = np.array([[-0.0], [0.0], [0.0], [-0.0], [1.0]])
    model = lfm_np.Factors(np.array([[1.0], [-1.0], [-0.0]]), V)
    return wrong(
        lists=model.recommend([0, 1, 2], N=5).ids.tolist() == [[4, 0, 1, 2, 3], [0, 1, 2, 3, 4], [0, 1, 2, 3, 4]],
        similar=model.similar_items(0, N=5, metric="inner").ids.tolist() == [0, 1, 2, 3, 4],
        cosines=model.similar_items(3, N=5).scores.tolist() == [0.0] * 5,
    )


def _in_this_order() -> list[str]:
    """The dot product, "then b_i, then μ + b_u": of float32 near 2³⁰ every 64 are one, and 2⁵³ + 1 is 2⁵³."""
    U, V = _whole(16, 3, 400)
    b, mu = np.float32(2.0**30), -(2.0**30)
    near = lfm_np.Factors(
        _times(U, 0, "float32"), _times(V, 0, "float32"), item_bias=np.full(400, b), user_bias=np.zeros(3, np.float32),
        global_bias=mu,
    )  # fmt: skip
    S = np.array([[round(Fraction(int(s) + 2**30, 64)) * 64 - 2**30 for s in row] for row in U @ V.T])
    S = np.where(U @ V.T >= 0, [[round(Fraction(int(s), 128)) * 128 for s in row] for row in U @ V.T], S)
    far = lfm_np.Factors(
        np.ones((1, 1)), np.ones((2, 1)), item_bias=np.array([0.0, 2.0]), user_bias=np.ones(1), global_bias=2.0**53
    )
    return wrong(
        rounded=_listed(near, S, 0, 20),
        ties=len(np.unique(S)) < 12,
        far=far.scores(0, [0, 1]).tolist() == [2.0**53, 2.0**53 + 4],
    )


def _single(x: float) -> float:
    return float(struct.unpack("f", struct.pack("f", x))[0])


def _one_and_two_factors() -> list[str]:
    """A product is rounded once, and the sum of two products once more; float64 has both exactly enough for that."""
    draw = np.random.default_rng(2)
    bits = draw.integers(0, 2**23, (4, 200), dtype=np.uint32)
    faults = []
    for name, p, q in (("common", 127, 127), ("tiny", 60, 62), ("denormal", 0, 127), ("large", 180, 190)):
        u = (bits[:2] | np.uint32(p << 23)).view(np.float32)
        v = (bits[2:] | np.uint32(q << 23)).view(np.float32)
        v[1] = -v[1]
        one = lfm_np.Factors(u[0][:, None].copy(), v[0][:, None].copy()).scores(np.arange(200), np.arange(200))
        two = lfm_np.Factors(u.T.copy(), v.T.copy()).scores(np.arange(200), np.arange(200))
        mine = [[_single(float(a) * float(b)) for a, b in zip(u[j], v[j], strict=True)] for j in range(2)]
        both = [
            {
                _single(a + b),  # in two chains, or in one, the other product unrounded
                _single(float(Fraction(a) + Fraction(float(u[1, t])) * Fraction(float(v[1, t])))),
                _single(float(Fraction(b) + Fraction(float(u[0, t])) * Fraction(float(v[0, t])))),
            }
            for t, (a, b) in enumerate(zip(*mine, strict=True))
        ]
        if one.tolist() != mine[0]:
            faults.append(f"{name}, k=1")
        if not all(s in allowed for s, allowed in zip(two.tolist(), both, strict=True)):
            faults.append(f"{name}, k=2")
    return faults


def _cancelled() -> list[str]:
    """Each of eight chains rounds ⌈k/8⌉ times (⌈k/16⌉·2 with padding), the tree three times more."""
    faults = []
    for k in SIZES:
        draw = np.random.default_rng(k)
        U = draw.normal(size=(50, k)) * 10.0 ** draw.integers(-6, 7, (50, k))
        V = draw.normal(size=(50, k)) * 10.0 ** draw.integers(-6, 7, (50, k))
        half = k // 2
        V[:, half : 2 * half], U[:, half : 2 * half] = -V[:, :half], U[:, :half] * (1 + 1e-6)
        for dtype, eps in (("float32", Fraction(1, 2**24)), ("float64", Fraction(1, 2**53))):
            A, B = U.astype(dtype), V.astype(dtype)
            found = lfm_np.Factors(A, B).scores(np.arange(50), np.arange(50)).tolist()
            for s, u, v in zip(found, A.tolist(), B.tolist(), strict=True):
                parts = [Fraction(a) * Fraction(b) for a, b in zip(u, v, strict=True)]
                bound = eps * (2 * math.ceil(k / 16) + 3) * sum(map(abs, parts)) * Fraction(1001, 1000)
                if abs(Fraction(s) - sum(parts)) > bound:
                    faults.append(f"k={k}, {dtype}: {s!r}")
                    break
    return faults


def _never_nan(work: str) -> bool:
    """1e30·1e30 - 1e30·1e30 is 0, and beyond float32 on the way; it may be an error, and not NaN."""
    model = lfm_np.Factors(np.array([[1e30, 1e30]], np.float32), np.array([[1e30, -1e30], [1.0, 1.0]], np.float32))
    if work == "scores":
        return bool(model.scores(0, 0) == 0.0)
    ids, scores = model.recommend(0, N=2)
    return bool(ids.tolist() == [1, 0] and scores[1] == 0.0)


def _cosines(dtype: str, power: int) -> list[str]:
    """(3, 4) and (4, 3) have a cosine of 24/25, whatever their size, and none with nothing."""
    V = _times(np.array([[3, 4], [4, 3], [6, 8], [-3, -4], [0, 0], [4, -3]]), power, dtype)
    V[1] = _times(np.array([4, 3]), 0, dtype)  # one of common size
    model = lfm_np.Factors(V, V)
    eps = 1e-6 if dtype == "float32" else 1e-14
    faults = []
    for name, found in (("items", model.similar_items(0, N=6)), ("users", model.similar_users(0, N=6))):
        faults += wrong(
            **{
                f"{name} ids": [sorted(part.tolist()) for part in np.split(found.ids, [2, 3, 5])]
                == [[0, 2], [1], [4, 5], [3]]
            },
            **{f"{name} scores": bool(abs(found.scores - [1, 1, 0.96, 0, 0, -1]).max() < eps)},
        )
    return faults


def _evaluated(dtype: str, p: int, q: int) -> list[str]:
    U, V = _whole(17, 12, 60, 5)
    draw = np.random.default_rng(6)
    part = draw.integers(0, 6, (12, 60))
    train, test = part == 0, part == 1
    names = [f"{name}@7" for name in ("recall", "precision", "ndcg", "map", "mrr", "hit_rate")] + ["mrr", "auc"]
    found = lfm_np.evaluate(
        lfm_np.Factors(_times(U, p, dtype), _times(V, q, dtype)), sp.csr_array(train * 1.0), sp.csr_array(test * 1.0),
        names, num_threads=1,
    )  # fmt: skip
    mine = judged((U @ V.T).astype(float), train, test, 7)
    return wrong(
        users=found["users"] == mine["users"],
        **{name: close(found[name], mine[name], 1e-12) for name in names},
        **{f"{name}_se": close(found[f"{name}_se"], mine[f"{name}_se"], 1e-9) for name in names},
    )


def _cut_far_away() -> list[str]:
    """h/k at every k, and the other metrics as of the whole list."""
    U, V = _whole(3, 2, 9, 7)
    model = lfm_np.Factors(_times(U, 0, "float64"), _times(V, 0, "float64"))
    test = sp.csr_array(np.array([[0, 1, 0, 0, 1, 0, 0, 0, 1.0]] * 2))
    faults = []
    for k in (9, 10, 2**31, 2**32, 2**32 + 3, 2**62):
        names = [f"{name}@{k}" for name in ("precision", "recall", "capped_recall", "hit_rate", "ndcg", "map", "mrr")]
        found = lfm_np.evaluate(model, None, test, [*names, "ndcg", "map", "mrr"])
        if not (
            abs(found[names[0]] * k - 3) < 1e-12
            and [found[name] for name in names[1:4]] == [1.0] * 3
            and all(abs(found[f"{name}@{k}"] - found[name]) < 1e-15 for name in ("ndcg", "map", "mrr"))
        ):
            faults.append(f"k={k}")
    return faults


def _equal_users() -> list[str]:
    """All users have the same tenth: s is 0, and a difference of sums of squares would be some 1e-9, or NaN."""
    V = np.arange(40.0, 0.0, -1.0)[:, None]
    test = np.zeros((1000, 40))
    test[:, [2, *range(31, 40)]] = 1
    found = lfm_np.evaluate(lfm_np.Factors(np.ones((1000, 1)), V), None, sp.csr_array(test), ("recall@3", "mrr", "auc"))
    auc = Fraction(28 + 0, 300)  # item 2 is above 28 of the 30 others, those at the end above none
    return wrong(
        recall=abs(found["recall@3"] - 0.1) < 1e-15 and 0 <= found["recall@3_se"] < 1e-16,
        mrr=abs(found["mrr"] - 1 / 3) < 1e-15 and 0 <= found["mrr_se"] < 1e-16,
        auc=abs(found["auc"] - float(auc)) < 1e-15 and 0 <= found["auc_se"] < 1e-16,
    )


def _vectors(power: int) -> list[str]:
    """All items have norm M, and the products with users are the scores; float32 rounds each of 5 parts."""
    U, V = _whole(3, 4, 30, 8)
    b = np.arange(-15, 15)
    model = lfm_np.Factors(
        _times(U, 0, "float32"), _times(V, power, "float32"), item_bias=_times(b, power, "float32")
    )  # fmt: skip
    from lfm_np import ann

    items = ann.item_vectors(model).astype(np.float64) * 2.0**-power
    users = ann.user_vectors(model).astype(np.float64)
    M2 = float(((V**2).sum(1) + b**2).max())
    return wrong(
        norms=bool(abs((items**2).sum(1) / M2 - 1).max() < 1e-6),
        scores=bool(abs(users @ items.T - (U @ V.T + b)).max() < 1e-5),
    )


def _spectrum(p: int, q: int) -> list[str]:
    """σ of U Vᵀ for orthogonal columns of lengths 6·2 and 2·5, exact to √eps, on log axes that reach far."""
    U = np.zeros((4, 2))
    U[0, 0], U[1, 1] = 6 * 2.0**p, 2 * 2.0**p
    V = np.zeros((3, 2))
    V[0, 0], V[2, 1] = 2 * 2.0**q, 5 * 2.0**q
    axes = lfm_np.plots.factor_spectrum(lfm_np.Factors(U, V))
    found = np.asarray(axes.get_lines()[0].get_ydata(), float)
    return wrong(sigma=found.shape == (2,) and bool(abs(found * 2.0 ** -(p + q) / [12, 10] - 1).max() < 1e-7))


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    for dtype, p, q in (
        ("float32", -100, 100),
        ("float32", 100, -100),
        ("float32", -149, 100),
        ("float32", 20, -145),
        ("float32", -70, -70),
        ("float32", 40, 76),
        ("float64", -500, 500),
        ("float64", -530, -530),
        ("float64", 400, 600),
        ("float64", -1074, 900),
    ):
        yield _holds(f"lists of users of 2^{p} and items of 2^{q}, {dtype}", lambda a=(dtype, p, q): _ranked(*a))
    yield _holds("lists of every length where scores are denormals", _lengths)
    for dtype, power in (("float32", 100), ("float64", 900)):
        yield _holds(f"one enormous dimension, {dtype}", lambda d=dtype, p=power: _an_enormous_column(d, p))
    yield _holds("one enormous item", _an_enormous_item)
    for dtype, power in (("float32", -149), ("float32", 118), ("float64", -1074), ("float64", 1000)):
        yield _holds(f"biases of 2^{power} alone, {dtype}", lambda d=dtype, p=power: _by_bias(d, p))
    yield _holds("zeros of both signs tie", _zeros_tie)
    yield _holds("what is added when", _in_this_order)
    yield _holds("scores of one and of two factors, to the bit", _one_and_two_factors)
    yield _holds("scores that cancel, against fractions", _cancelled)
    for work in ("scores", "recommend"):
        yield _GROUP.either(
            f"products that leave float32 and cancel, {work}",
            lambda w=work: _never_nan(w),
            bool,
            "overflow|finite|large|nan|score|float32",
            kind=(ValueError, OverflowError, lfm_np.SolverError),
        )
    for dtype, power in (("float32", 100), ("float32", -100), ("float32", -147), ("float64", 900), ("float64", -1000)):
        yield _holds(f"cosines of vectors of 2^{power}, {dtype}", lambda d=dtype, p=power: _cosines(d, p))
    for dtype, p, q in (("float32", -70, -70), ("float32", 76, 40), ("float64", -530, -530)):
        yield _holds(f"metrics of scores of 2^{p + q}, {dtype}", lambda a=(dtype, p, q): _evaluated(*a))
    yield _holds("cutoffs beyond 32 bits", _cut_far_away)
    yield _holds("standard errors of equal users", _equal_users)
    for power in (100, -100):
        yield _holds(f"vectors of items of 2^{power}", lambda p=power: _vectors(p))
    if installed("matplotlib"):
        for p, q in ((-240, 240), (200, -200), (-200, -100)):
            yield _holds(f"the spectrum of 2^{p} and 2^{q}", lambda a=(p, q): _spectrum(*a))
