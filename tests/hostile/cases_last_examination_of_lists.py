"""Lists, likenesses and explanations: whole numbers that every dtype adds exactly, sorted by plain loops."""

from __future__ import annotations

import math
import pickle
from collections.abc import Iterator
from typing import Any

import numpy as np
import scipy.sparse as sp

import lfm_np as library
from lfm_np.evaluation import most_popular

from .case import Case, Group
from .working_days import faultless, folder, wrong

lfm_np: Any = library
_GROUP = Group("the last examination, lists")
_holds = faultless(_GROUP)
BOTH = (np.float32, np.float64)


def whole(shape: tuple[int, int], seed: int, most: int = 8) -> np.ndarray:
    """Whole numbers from -most to most: products of up to 257 of them are added without rounding."""
    return np.random.default_rng(seed).integers(-most, most + 1, shape).astype(np.float64)


def model_of(U: Any, V: Any, dtype: Any = np.float32, **biases: Any) -> Any:
    return lfm_np.Factors(np.array(U, dtype), np.array(V, dtype), **biases)


def sorted_by(scores: Any, N: int, allowed: Any = None) -> tuple[list[int], list[float]]:
    """The N best, the lower id first where equal, then -1 and -inf."""
    found = [float(s) for s in scores]
    which = [i for i in range(len(found)) if allowed is None or i in allowed]
    order = sorted(which, key=lambda i: (-found[i], i))[:N]
    rest = N - len(order)
    return order + [-1] * rest, [found[i] for i in order] + [-math.inf] * rest


def agrees(ranked: Any, S: np.ndarray, users: Any, N: int, allowed: Any = lambda user: None) -> bool:
    """All lists to the bit."""
    mine = [sorted_by(S[u], N, allowed(u)) for u in users]
    return ranked.ids.tolist() == [ids for ids, _ in mine] and ranked.scores.tolist() == [s for _, s in mine]


def _ties_across_norms(dtype: Any) -> list[str]:
    """Every score is 1, and the first ids are those of the shortest factors, where a search by falling norm ends."""
    n = 3000
    V = np.column_stack([np.ones(n), np.arange(n) / 4.0])
    factors = model_of([[1.0, 0.0], [1.0, 0.0]], V, dtype)
    seen = sp.csr_array((np.ones(3), ([1, 1, 1], [0, 2, 7])), shape=(2, n))
    plain = factors.recommend([0, 1], N=10, seen=seen)
    less = factors.recommend(0, N=40, exclude=np.arange(0, 30, 2))
    return wrong(
        first=plain.ids.tolist() == [list(range(10)), [1, 3, 4, 5, 6, 8, 9, 10, 11, 12]],
        ones=(plain.scores == 1).all(),
        excluded=less.ids.tolist() == [*range(1, 30, 2), *range(30, 55)],
    )


def _one_ulp() -> list[str]:
    """Scores 1 + i·eps, each a neighbour of the next."""
    facts = {}
    for dtype in BOTH:
        eps = float(np.finfo(dtype).eps)
        place = np.random.default_rng(0).permutation(1500)
        V = (1.0 + place * eps)[:, None]
        got = model_of([[1.0]], V, dtype).recommend(0, N=12)
        best = np.argsort(-place)[:12]
        facts[np.dtype(dtype).name] = got.ids.tolist() == best.tolist() and got.scores.tolist() == V[best, 0].tolist()
    return wrong(**facts)


def _rounded_by_the_user() -> list[str]:
    """Beside μ + b_u = 2²⁴ the scores 0 and 1, 3 and 4 and 5 are one float32: then the lower id comes first."""
    draw = np.random.default_rng(1)
    v, d = draw.integers(0, 6, 600).astype(np.float32), draw.integers(0, 3, 600).astype(np.float32)
    b = np.array([0.0, 2.0**24 - 1], np.float32)
    factors = model_of([[1.0], [1.0]], v[:, None], item_bias=d, user_bias=b, global_bias=1.0)
    S = np.array([(v + d) + np.float32(1.0 + float(x)) for x in b])
    assert S.dtype == np.float32
    assert len(set(S[1].tolist())) < len(set(S[0].tolist()))
    return wrong(
        short=agrees(factors.recommend([0, 1], N=5), S, (0, 1), 5),
        long=agrees(factors.recommend([0, 1], N=600), S, (0, 1), 600),
        pairs=np.array_equal(factors.scores(1, np.arange(600)), S[1]),
    )


def _bits_of_one_factor() -> list[str]:
    """u·v is rounded, then b_i is added, then μ + b_u, in float32."""
    draw = np.random.default_rng(2)
    u, b = draw.normal(size=3).astype(np.float32), draw.normal(size=3).astype(np.float32)
    v, d = draw.normal(size=200).astype(np.float32), draw.normal(size=200).astype(np.float32)
    mu = np.float32(0.7)
    factors = model_of(u[:, None], v[:, None], user_bias=b, item_bias=d, global_bias=float(mu))
    S = np.array([(u[r] * v + d) + (mu + b[r]) for r in range(3)])
    assert S.dtype == np.float32
    got = factors.scores(np.repeat([0, 1, 2], 200), np.tile(np.arange(200), 3)).reshape(3, 200)
    return wrong(pairs=np.array_equal(got, S), lists=agrees(factors.recommend([0, 1, 2], N=50), S, range(3), 50))


def _sizes_of_users() -> list[str]:
    """Rows of U times 2^±80, whose squares no float32 holds: the lists stay, the scores are multiplied exactly."""
    U, V = whole((5, 5), 3), whole((500, 5), 4)
    scale = 2.0 ** np.array([-80, -40, 0, 40, 80])
    seen = np.random.default_rng(5).random((5, 500)) < 0.1
    S = (U @ V.T) * scale[:, None]
    got = model_of(U * scale[:, None], V).recommend(np.arange(5), N=9, seen=sp.csr_array(seen.astype(float)))
    return wrong(lists=agrees(got, S, range(5), 9, lambda u: set(np.flatnonzero(~seen[u]).tolist())))


def _sizes_of_items() -> list[str]:
    """Rows of V times 2^±80, all in one model."""
    U, V = whole((4, 5), 6), whole((400, 5), 7)
    scale = 2.0 ** np.resize([-80, -30, 0, 30, 80], 400)
    S = (U @ V.T) * scale
    factors = model_of(U, V * scale[:, None])
    few = np.flatnonzero(scale == 2.0**-80)
    return wrong(
        all=agrees(factors.recommend(np.arange(4), N=11), S, range(4), 11),
        small=agrees(
            factors.recommend(np.arange(4), N=11, items=few[::-1]), S, range(4), 11, lambda u: set(few.tolist())
        ),
    )


def _every_length() -> list[str]:
    """Scores 0 to 3 only, so that whole stretches of a list are ties, at lengths where lists change their kind."""
    draw = np.random.default_rng(12)
    V = np.eye(4)[draw.integers(0, 4, 300)]
    U = np.array([draw.permutation(4) for _ in range(6)]).astype(float)
    S = U @ V.T
    factors = model_of(U, V)
    lengths = (1, 2, 31, 32, 33, 63, 64, 65, 127, 255, 256, 257, 299, 300, 301)
    return wrong(**{f"N{N}": agrees(factors.recommend(np.arange(6), N=N), S, range(6), N) for N in lengths})


def _every_k(dtype: Any) -> list[str]:
    facts = {}
    for k in (1, 2, 7, 8, 9, 15, 16, 17, 31, 33, 63, 65, 128, 255, 256, 257):
        U, V = whole((3, k), k), whole((130, k), 1000 + k)
        d = whole((1, 130), 2000 + k)[0]
        S = U @ V.T + d
        got = model_of(U, V, dtype, item_bias=d.astype(dtype)).recommend([2, 0, 1], N=6)
        facts[f"k{k}"] = agrees(got, S, (2, 0, 1), 6)
    return wrong(**facts)


def _beside_a_giant() -> list[str]:
    """Items differ by 2^-10 in one coordinate beside 2^20 in another, which the user does not look at."""
    place = np.random.default_rng(13).permutation(1000)
    facts = {}
    for k in (2, 64):
        V = np.zeros((1000, k))
        V[:, 0], V[:, -1] = 2.0**20, place / 1024.0
        U = np.zeros((2, k))
        U[:, -1] = 1.0, -1.0
        got = model_of(U, V).recommend([0, 1], N=10)
        want = [np.argsort(-place)[:10].tolist(), np.argsort(place)[:10].tolist()]
        facts[f"k{k}"] = got.ids.tolist() == want
        facts[f"scores{k}"] = got.scores.tolist() == [
            [i / 1024 for i in range(999, 989, -1)],
            [-i / 1024 for i in range(10)],
        ]
    return wrong(**facts)


def _cancelling() -> list[str]:
    """(a, d - a) · (1, 1) = d: scores a ten-thousandth of the product of the norms, and exact."""
    draw = np.random.default_rng(14)
    a, d = draw.integers(-512, 513, 1500).astype(float), draw.permutation(1500) / 8192.0
    V = np.column_stack([a, d - a])
    assert np.array_equal(V.astype(np.float32).astype(float), V)
    got = model_of([[1.0, 1.0], [-1.0, -1.0]], V).recommend([0, 1], N=25)
    return wrong(lists=agrees(got, np.array([d, -d]), (0, 1), 25))


def _one_after_another() -> list[str]:
    """The index is made once: what one call left out is there in the next."""
    U, V = whole((8, 6), 15), whole((257, 6), 16)
    S, factors = U @ V.T, model_of(U, V)
    seen = np.random.default_rng(17).random((8, 257)) < 0.4
    matrix, everybody = sp.csr_array(seen.astype(np.int8)), set(range(257))
    few = [200, 3, 77, 256, 0]
    free = [set(np.flatnonzero(~row).tolist()) for row in seen]
    first = factors.recommend(np.arange(8), N=257, seen=matrix)
    return wrong(
        seen=agrees(first, S, range(8), 257, lambda u: free[u]),
        all=agrees(factors.recommend(np.arange(8), N=3), S, range(8), 3),
        few=agrees(factors.recommend([5], N=7, items=few), S, [5], 7, lambda u: set(few)),
        both=agrees(
            factors.recommend([6, 6], N=4, items=few, exclude=[77, 3], seen=matrix), S, [6, 6], 4,
            lambda u: (set(few) - {77, 3}) & free[u],
        ),
        none=(factors.recommend(2, N=3, items=np.array([], np.int64)).ids == -1).all(),
        again=agrees(factors.recommend(np.arange(8), N=300, exclude=[1]), S, range(8), 300, lambda u: everybody - {1}),
        kept=agrees(first, S, range(8), 257, lambda u: free[u]),
    )  # fmt: skip


def _zeros_that_are_ratings() -> list[str]:
    """A stored zero of ``seen`` is there for a model of ratings, also one that was kept in a file, and else is not."""
    X = sp.csr_array(np.arange(1.0, 13.0).reshape(4, 3) % 5 + 1)
    seen = sp.csr_array((np.array([0.0, 2.0]), np.array([1, 2]), np.array([0, 2, 2, 2, 2])), shape=(4, 3))
    facts = {}
    for weighting, left in (("ratings", {0}), ("ials", {0, 1}), ("confidence", {0, 1})):
        factors = lfm_np.als(X, factors=2, weighting=weighting, iterations=2, random_state=0)
        with folder() as place:
            factors.save(place / "model")
            again = lfm_np.Factors.load(place / "model")
        for name, model in (("fitted", factors), ("loaded", again), ("pickled", pickle.loads(pickle.dumps(factors)))):
            got = model.recommend(0, N=3, seen=seen).ids.tolist()
            facts[f"{weighting}_{name}"] = {i for i in got if i >= 0} == left and got.count(-1) == 3 - len(left)
    return wrong(**facts)


def _asked_again_and_again() -> list[str]:
    """700 requests of 9 users, in any order."""
    U, V = whole((9, 5), 21), whole((90, 5), 22)
    users = np.random.default_rng(23).integers(0, 9, 700)
    seen = np.random.default_rng(24).random((9, 90)) < 0.3
    free = [set(np.flatnonzero(~row).tolist()) for row in seen]
    got = model_of(U, V).recommend(users, N=8, seen=sp.coo_array(seen.astype(float)))
    return wrong(all=agrees(got, U @ V.T, users.tolist(), 8, lambda u: free[u]))


def _nobody_writes() -> list[str]:
    factors = model_of(whole((3, 2), 25), whole((4, 2), 26), np.float64)
    X = sp.csr_array(np.eye(3, 4))
    why = factors.explain(0, 1, X, weighting="hu-koren", alpha=1.0, regularization=0.1, regularization_exponent=0.0)
    found = {
        "recommend": [*factors.recommend([0], N=2)],
        "scalar": [*factors.recommend(0, N=2)],
        "items": [*factors.similar_items([1], N=2)],
        "users": [*factors.similar_users(1, N=2, metric="inner")],
        "scores": [factors.scores([0, 1], [2, 3])],
        "explain": [why.items, why.contributions],
    }
    return wrong(**{name: not any(a.flags.writeable for a in arrays) for name, arrays in found.items()})


def _two_zeros() -> list[str]:
    """0 and -0 are equal scores."""
    V = np.array([[-0.0], [0.0], [-0.0], [0.0], [-1.0], [0.0]])
    d = np.array([-0.0, -0.0, 0.0, 0.0, 1.0, -0.0])
    facts = {}
    for sign in (1.0, -1.0):
        got = model_of([[sign]], V, np.float64, item_bias=d).recommend(0, N=6)
        facts[f"by{sign}"] = got.ids.tolist() == ([0, 1, 2, 3, 4, 5] if sign > 0 else [4, 0, 1, 2, 3, 5])
    return wrong(**facts)


def _popular() -> list[str]:
    """Counts of stored cells, whatever is in them; a stored zero only where it is asked for."""
    draw = np.random.default_rng(27)
    stored = draw.random((70, 40)) < 0.3
    values = np.where(draw.random((70, 40)) < 0.3, 0.0, 7.5)
    rows, columns = np.nonzero(stored)
    X = sp.csr_array((values[rows, columns], (rows, columns)), shape=(70, 40))
    assert X.nnz == stored.sum()
    facts = {}
    for zeros, counted in (("drop", stored & (values > 0)), ("keep", stored)):
        counts = [sum(1 for u in range(70) if counted[u, i]) for i in range(40)]
        got = most_popular(X, zeros=zeros).recommend(np.arange(70), N=40, seen=X)
        free = [set(np.flatnonzero(~row).tolist()) for row in counted]
        facts[zeros] = agrees(got, np.array([counts] * 70), range(70), 40, lambda u, f=free: f[u])
        facts[f"{zeros}_dtype"] = got.scores.dtype == np.float64
    return wrong(**facts)


def _false_cells() -> list[str]:
    """A stored False is a stored zero."""
    U, V = whole((3, 4), 28), whole((12, 4), 29)
    truth = np.random.default_rng(30).random((3, 12)) < 0.5
    rows, columns = np.indices((3, 12)).reshape(2, -1)
    seen = sp.csr_array((truth.ravel(), (rows, columns)), shape=(3, 12))
    assert seen.nnz == 36
    free = [set(np.flatnonzero(~row).tolist()) for row in truth]
    return wrong(
        lists=agrees(model_of(U, V).recommend(np.arange(3), N=12, seen=seen), U @ V.T, range(3), 12, lambda u: free[u])
    )


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    for dtype in BOTH:
        name = np.dtype(dtype).name
        yield _holds(
            f"ties go to the shortest factors where their ids are the lowest, {name}",
            lambda d=dtype: _ties_across_norms(d),
        )
        yield _holds(f"k from 1 to 257 with item biases, {name}", lambda d=dtype: _every_k(d))
    yield _holds("neighbours in floating point are told apart", _one_ulp)
    yield _holds("ties that only the user's bias makes", _rounded_by_the_user)
    yield _holds("a score of one factor to the bit", _bits_of_one_factor)
    yield _holds("users of lengths 2^-80 to 2^80", _sizes_of_users)
    yield _holds("items of lengths 2^-80 to 2^80", _sizes_of_items)
    yield _holds("stretches of ties at every length of a list", _every_length)
    yield _holds("small differences beside a giant coordinate", _beside_a_giant)
    yield _holds("scores that cancel", _cancelling)
    yield _holds("seen, items and exclude one call after another", _one_after_another)
    yield _holds("a stored zero of seen, before and after a file", _zeros_that_are_ratings)
    yield _holds("seven hundred requests of nine users", _asked_again_and_again)
    yield _holds("results that nobody may write to", _nobody_writes)
    yield _holds("0 and -0", _two_zeros)
    yield _holds("popular by counting, zeros dropped and kept", _popular)
    yield _holds("stored cells that are False", _false_cells)
