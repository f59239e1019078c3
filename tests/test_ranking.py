"""scores, recommend and similar_* against brute force: the same items in the same order with the same bits."""

from typing import NamedTuple

import numpy as np
import oracles_ranking as oracles
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st
from strategies import examples
from strategies_ranking import factor_models

from lfm_np import Factors, Interactions, ranking, sgd
from lfm_np.item_index import build_index, worthwhile_directions
from lfm_np.kernels import codes, seeds, topk
from lfm_np.kernels.jit import jit
from lfm_np.kernels.scores import PANEL
from lfm_np.kernels.simd import has_dot_bytes
from lfm_np.losses import Poisson, Squared


def brute_force(factors, users, N, forbidden):
    """Score every item with ``scores`` and sort; ``forbidden``: a set of items for each user."""
    items = np.arange(factors.shape[1])
    lists = [oracles.best(factors.scores(u, items), forbidden[r], N) for r, u in enumerate(users)]
    return np.array([ids for ids, _ in lists]), np.array([scores for _, scores in lists])


def assert_same(result, expected):
    np.testing.assert_array_equal(result[0], expected[0])
    np.testing.assert_array_equal(result[1], expected[1])


# ---- scores ---------------------------------------------------------------------------------------------------------


@examples(100)
@given(model=factor_models())
def test_scores_are_within_rounding_of_the_exact_sum(model):
    U, V, biases = model
    factors = Factors(U, V, **biases)
    users, items = (a.ravel() for a in np.indices(factors.shape))
    got = factors.scores(users, items)
    assert got.dtype == U.dtype
    for u, i, score in zip(users, items, got):
        exact, size = oracles.score(U, V, u, i, **biases)
        unit = np.finfo(U.dtype).eps / 2
        assert abs(score - exact) <= (U.shape[1] + 3) * (unit * size * 1.01 + np.finfo(U.dtype).tiny)


@pytest.mark.small
@pytest.mark.parametrize("k", [0, 1, 7, 8, 9, 16, 21])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_scores_of_small_integers_are_exact(k, dtype):
    rng = np.random.default_rng(k)
    U, V = rng.integers(-4, 5, (3, k)), rng.integers(-4, 5, (5, k))
    factors = Factors(U.astype(dtype), V.astype(dtype), item_bias=np.arange(5), global_bias=2.0)
    for u in range(3):
        np.testing.assert_array_equal(factors.scores(u, np.arange(5)), V @ U[u] + np.arange(5) + 2)


@pytest.mark.small
def test_scores_are_pairwise_and_a_scalar_goes_with_all():
    factors = Factors(np.eye(3), np.arange(12.0).reshape(4, 3))
    np.testing.assert_array_equal(factors.scores([0, 1, 2], [3, 3, 0]), [9, 10, 2])
    np.testing.assert_array_equal(factors.scores(1, [0, 2]), [1, 7])
    np.testing.assert_array_equal(factors.scores([0, 1], 3), [9, 10])
    assert factors.scores(2, 1).shape == ()
    assert factors.scores([], []).shape == (0,)
    with pytest.raises(ValueError, match="equally long, got 2 and 3"):
        factors.scores([0, 1], [0, 1, 2])


@jit
def _ranked(row, at, mask, by_rank):
    return seeds.ranked(row, at, mask, by_rank)


@pytest.mark.small
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("mask", [-1, 0, 1 << 62, -(1 << 63), 0x5A5A_0000_FFFF_1234])
def test_scores_are_ranked_by_counting(dtype, mask):
    row = np.random.default_rng(0).permutation(100).astype(dtype)[: 3 + seeds.SEEDS]
    by_rank = np.empty(seeds.SEEDS, np.int64)
    places = [p for p in range(seeds.SEEDS) if mask >> p & 1]
    ranks = _ranked(row, 3, np.int64(mask), by_rank)
    assert int(ranks) % 2**64 == 2 ** len(places) - 1
    assert by_rank[: len(places)].tolist() == sorted(places, key=lambda p: -row[3 + p])
    if len(places) > 1:  # two that are equal leave the better one's rank empty
        row[3 + by_rank[1]] = row[3 + by_rank[0]]
        assert not _ranked(row, 3, np.int64(mask), by_rank) & 1


# ---- recommend ------------------------------------------------------------------------------------------------------


@st.composite
def problems(draw):
    """A model and everything that can be asked of it."""
    U, V, biases = draw(factor_models(items=200))
    factors, (m, n) = Factors(U, V, **biases), (len(U), len(V))
    item = st.integers(0, n - 1)
    users = draw(st.lists(st.integers(0, m - 1), max_size=6))
    seen = sp.coo_array(np.random.default_rng(draw(st.integers(0, 99))).random((m, n)) < draw(st.floats(0, 1)))
    seen = draw(st.sampled_from([None, seen, seen.tocsr(), seen.tocsc(), sp.lil_matrix(seen)]))
    items = draw(st.none() | st.lists(item, max_size=n))
    exclude = draw(st.none() | st.lists(item, max_size=5))
    return factors, users, draw(st.integers(1, 4) | st.integers(1, n + 3)), seen, items, exclude


def forbidden_sets(factors, users, seen, items, exclude):
    n = factors.shape[1]
    everybody = set(exclude or ()) | (set() if items is None else set(range(n)) - set(items))
    dense = np.zeros(factors.shape) if seen is None else seen.toarray()
    return [everybody | set(np.flatnonzero(dense[u]).tolist()) for u in users]


@examples(300)
@given(problem=problems(), threads=st.integers(1, 3))
def test_recommend_equals_brute_force(problem, threads):
    factors, users, N, seen, items, exclude = problem
    result = factors.recommend(users, N=N, seen=seen, items=items, exclude=exclude, num_threads=threads)
    assert result.ids.shape == result.scores.shape == (len(users), N)
    forbidden = forbidden_sets(factors, users, seen, items, exclude)
    if users:
        assert_same(result, brute_force(factors, users, N, forbidden))


@examples(500)
@given(problem=problems(), directions=st.integers(1, 20), coded=st.booleans())
def test_sketches_and_codes_change_nothing(problem, directions, coded):
    factors, users, N, _, _, _ = problem
    users = np.array(users, np.int64)
    d = min(directions, factors.user_factors.shape[1])
    index = build_index(factors._model, np.arange(factors.shape[1]), d, coded)
    nothing = np.zeros(len(users), np.int64), np.zeros(2, np.int64), np.empty(0, np.int32)
    result = ranking.best(factors._model, index, users, N, nothing, np.empty(0, np.int64), 1)
    if len(users):
        assert_same(result, brute_force(factors, users, N, [set()] * len(users)))


@examples(150)
@given(model=factor_models(items=200), directions=st.integers(0, 20))
def test_bounds_are_bounds(model, directions):
    """No score as computed is above its sketch product or above the bound of its cell; the margin is for rounding."""
    U, V, biases = model
    biases.pop("user_bias", None), biases.pop("global_bias", None)  # added to both sides
    factors, (m, n) = Factors(U, V, **biases), (len(U), len(V))
    index = build_index(factors._model, np.arange(n), min(directions, U.shape[1]), coded=False)
    norms = np.empty(m)
    topk.row_norms(factors.user_factors, np.arange(m), index.slack, norms)
    scores = np.array([factors.scores(u, index.order) for u in range(m)]).astype(np.float64)
    for cell, (norm, bias, both) in enumerate(index.bounds):
        rest = scores[:, cell * topk.CELL * PANEL :].max(axis=1)
        assert np.all(rest <= norms * norm + bias)
        assert np.all(rest <= both + np.maximum(norms - index.pivot, 0) * norm)
    if index.sketches.size:
        ours = np.ones((m, index.sketches.shape[1]), U.dtype)
        topk.sketch(factors.user_factors, np.arange(m), index.directions, index.slack, ours)
        theirs = index.sketches.swapaxes(1, 2).reshape(-1, ours.shape[1])[:n].astype(np.float64)
        rounding = len(ours[0]) * np.finfo(U.dtype).eps / 2 * (np.abs(ours.astype(np.float64)) @ np.abs(theirs).T)
        assert np.all(scores <= ours.astype(np.float64) @ theirs.T - rounding)


@examples(300)
@given(model=factor_models(items=200))
def test_bounds_of_codes_are_bounds(model):
    """No score as computed is above the bound by bytes, whose sums are those of NumPy."""
    U, V, biases = model
    biases.pop("user_bias", None), biases.pop("global_bias", None)  # added to both sides
    factors, (m, n) = Factors(U, V, **biases), (len(U), len(V))
    index = build_index(factors._model, np.arange(n), coded=True)
    size = index.codes.shape[1]
    items = np.vstack(index.codes.swapaxes(1, 2))[:n].copy().view(np.uint8).astype(np.int64)
    terms = np.vstack(index.sketches.swapaxes(1, 2))[:n].astype(np.float64)
    packed, ours = np.empty((m, 1 + size), np.int32), np.ones((m, codes.TERMS), U.dtype)
    codes.encode_users(factors.user_factors, np.arange(m), index.slack, packed, ours)
    sums = packed[:, 1:].copy().view(np.int8).astype(np.int64) @ items.T + packed[:, :1]
    parts = sums * (ours[:, :1] * terms[:, 0]), ours[:, 1:2] * terms[:, 1], terms[:, 2]
    rounding = 4 * np.finfo(U.dtype).eps / 2 * sum(np.abs(part) for part in parts) + np.finfo(U.dtype).tiny
    scores = np.array([factors.scores(u, index.order) for u in range(m)]).astype(np.float64)
    assert np.all(scores <= sum(parts) - rounding)
    assert np.abs(sums).max(initial=0) <= 127 * 127 * U.shape[1]


@pytest.mark.parametrize("exponent", [-36, -20, 20, 36])
def test_codes_of_extreme_ranges(exponent):
    """A scale times a sum would leave the range of float32, or vanish."""
    factors = large_model("flat", m=40, n=600)
    size = np.float32(10.0**exponent)
    scaled = Factors(factors.user_factors * size, factors.item_factors / size)
    index = build_index(scaled._model, np.arange(600), coded=True)
    nothing = np.zeros(40, np.int64), np.zeros(2, np.int64), np.empty(0, np.int32)
    result = ranking.best(scaled._model, index, np.arange(40), 7, nothing, np.empty(0, np.int64), 1)
    assert_same(result, brute_force(scaled, range(40), 7, [set()] * 40))


def large_model(kind, dtype=np.float32, m=700, n=5000, k=40):
    """More items than the window of forbidden bits, more users than a block."""
    rng = np.random.default_rng(11)
    U, V = rng.normal(size=(m, k)), rng.normal(size=(n, k))
    if kind == "decaying":
        scale = 0.85 ** np.arange(k)
        U, V = U * scale, V * scale * rng.pareto(1.5, size=(n, 1))
    elif kind == "flat":
        V /= np.linalg.norm(V, axis=1, keepdims=True)
    elif kind == "tied":
        U, V = np.round(U * 0.7), np.round(V * 0.7)
    biases = {"item_bias": rng.normal(size=n) * 4, "user_bias": rng.normal(size=m)} if kind == "biased" else {}
    return Factors(U.astype(dtype), V.astype(dtype), **biases)


@pytest.mark.parametrize("kind", ["decaying", "flat", "tied", "biased"])
@pytest.mark.parametrize("screen", [{"d": 0}, {"d": 14}, {"coded": True}])
def test_many_users_and_items(kind, screen):
    factors = large_model(kind)
    m, n = factors.shape
    seen = sp.csr_array(np.random.default_rng(5).random((m, n)) < 0.02)
    users, exclude = np.arange(m), np.arange(0, n, 3)
    index = build_index(factors._model, np.arange(n), **screen)
    rows = users, seen.indptr.astype(np.int64), seen.indices
    results = [ranking.best(factors._model, index, users, 20, rows, exclude, threads) for threads in (1, 2, 3, 7)]
    for other in results[1:]:
        assert_same(other, results[0])
    some = users[::37]
    forbidden = [set(seen.indices[seen.indptr[u] : seen.indptr[u + 1]].tolist()) | set(exclude.tolist()) for u in some]
    assert_same((results[0].ids[some], results[0].scores[some]), brute_force(factors, some, 20, forbidden))


def test_an_index_skips_most_items_of_a_decaying_spectrum():
    """The guard that the bounds do prune: the forbidden items that a search meets are few."""
    factors = large_model("decaying")
    index = factors._index
    reach = factors._model.user_factors[:50] @ factors._model.item_factors.T
    tenth = np.sort(reach, axis=1)[:, -10]
    norms = np.linalg.norm(factors.user_factors[:50], axis=1)
    cells = [(norms[u] * index.bounds[:, 0] >= tenth[u]).sum() for u in range(50)]
    assert np.mean(cells) < 0.3 * len(index.bounds)


def test_sketches_are_made_where_the_spectrum_is_steep():
    rng = np.random.default_rng(6)
    scale = np.arange(1, 41.0) ** -1.5
    U, V = rng.normal(size=(300, 40)) * scale, rng.normal(size=(3000, 40)) * scale
    steep, everything = Factors(U.astype(np.float32), V.astype(np.float32)), np.arange(3000)
    assert build_index(steep._model, everything, coded=False).directions.shape[1] > 0
    assert build_index(large_model("flat")._model, everything, coded=False).directions.shape[1] == 0
    assert worthwhile_directions(steep._model, np.arange(100)) == 0  # too few items to be worth the look
    assert_same(steep.recommend(np.arange(20), N=7), brute_force(steep, range(20), 7, [set()] * 20))


@pytest.mark.parametrize("kind", ["decaying", "flat"])
def test_codes_let_few_items_pass(kind):
    """The guard that they prune, and that they are made where the processor multiplies bytes."""
    factors = large_model(kind, k=64)
    assert bool(len(factors._index.codes)) == has_dot_bytes()
    index = build_index(factors._model, np.arange(factors.shape[1]), coded=True)
    margins = np.outer(np.ones(50), index.sketches[:, 1].ravel()[: factors.shape[1]])
    ours = np.ones((50, codes.TERMS), np.float32)
    packed = np.empty((50, 1 + index.codes.shape[1]), np.int32)
    codes.encode_users(factors.user_factors, np.arange(50), index.slack, packed, ours)
    scores = factors.user_factors[:50] @ factors.item_factors[index.order].T
    passing = scores + 2 * margins * ours[:, 1:2] >= np.sort(scores, axis=1)[:, -10, None]
    assert passing.mean() < 2 * 10 / 5000 * (1.5 if kind == "flat" else 1)


@pytest.mark.small
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("screen", [{"d": 0}, {"d": 3}, {"coded": True}])
def test_small_problems_with_and_without_the_jit(dtype, screen):
    rng = np.random.default_rng(2)
    factors = Factors(
        rng.normal(size=(5, 9)).astype(dtype), rng.normal(size=(80, 9)).astype(dtype), item_bias=rng.normal(size=80)
    )
    index = build_index(factors._model, np.arange(80), **screen)
    seen = np.arange(5), np.arange(0, 20, 3), np.tile([1, 4, 6], 5).astype(np.int32)
    result = ranking.best(factors._model, index, np.arange(5), 6, seen, np.array([0]), 1)
    assert_same(result, brute_force(factors, range(5), 6, [{0, 1, 4, 6}] * 5))


@pytest.mark.small
def test_other_items_than_the_last_are_searched_anew():
    factors = Factors(np.eye(2), np.arange(12.0).reshape(6, 2))
    for items in ([0, 2, 4], [1, 3, 5], [5, 3, 1], [5, 3, 3], [4], None, [0, 2, 4]):
        expected = sorted(set(range(6) if items is None else items), reverse=True)
        found = factors.recommend([0, 1], N=6, items=items).ids
        assert found.tolist() == 2 * [expected + [-1] * (6 - len(expected))]


@pytest.mark.small
def test_lists_of_ten_unless_more_are_asked_for():
    factors = Factors(np.ones((30, 2)), np.ones((20, 2)))
    lists = factors.recommend(0), factors.similar_items(0), factors.similar_users(0)
    assert [ranked.ids.tolist() for ranked in lists] == [list(range(10))] * 3


@pytest.mark.small
def test_few_items_are_padded():
    factors = Factors(np.ones((2, 1)), np.ones((3, 1)))
    ids, scores = factors.recommend([1], N=5, exclude=[1])
    assert ids.tolist() == [[0, 2, -1, -1, -1]]
    assert scores.tolist() == [[1, 1, -np.inf, -np.inf, -np.inf]]
    assert factors.recommend(0, N=2, items=[]).ids.tolist() == [-1, -1]


@pytest.mark.small
def test_a_scalar_user_gives_flat_arrays():
    factors = Factors(np.eye(2), np.arange(6.0).reshape(3, 2))
    ids, scores = factors.recommend(1, N=2)
    assert (ids.tolist(), scores.tolist()) == ([2, 1], [5, 3])
    assert factors.recommend(np.array([1]), N=2).ids.shape == (1, 2)
    assert factors.recommend([], N=2).ids.shape == (0, 2)


@pytest.mark.small
def test_seen_may_be_unsorted_repeated_or_interactions():
    factors = Factors(np.ones((2, 1)), np.arange(4.0, 0, -1).reshape(4, 1))
    messy = sp.csr_array((np.ones(4), np.array([3, 0, 0, 1]), np.array([0, 3, 4])), shape=(2, 4))
    before = messy.indices.copy()
    assert factors.recommend([0, 1], N=2, seen=messy).ids.tolist() == [[1, 2], [0, 2]]
    np.testing.assert_array_equal(messy.indices, before)
    data = Interactions(sp.csr_array(np.array([[1.0, 0, 0, 0], [0, 1, 0, 0]])), np.arange(2), np.arange(4))
    assert factors.recommend([0, 1], N=1, seen=data).ids.tolist() == [[1], [0]]


class Ratings(NamedTuple):
    """A pointwise loss of one's own whose target is the stored value."""

    def value(self, score, target):
        return (score - target) ** 2

    def gradient(self, score, target):
        return 2.0 * (score - target)


@pytest.mark.small
def test_a_stored_zero_counts_as_absent_unless_the_model_is_of_ratings():
    zero = sp.csr_array((np.array([0.0, 1.0]), np.array([0, 1]), np.array([0, 2])), shape=(1, 3))
    U, V = np.ones((1, 1)), np.array([[3.0], [2.0], [1.0]])
    assert Factors(U, V).recommend(0, N=2, seen=zero).ids.tolist() == [0, 2]
    fits = [sgd(sp.csr_array(np.eye(2)), loss, sampler=None, epochs=1).params for loss in (Squared(), Ratings())]
    for params in ({"weighting": "ratings"}, {"loss": "Squared()"}, *fits):  # of a file before "zeros", too
        assert Factors(U, V, params=params).recommend(0, N=2, seen=zero).ids.tolist() == [2, -1]
    counts = sgd(sp.csr_array(np.eye(2)), Poisson(), sampler=None, epochs=1).params
    assert Factors(U, V, params=counts).recommend(0, N=2, seen=zero).ids.tolist() == [0, 2]


@pytest.mark.small
@pytest.mark.parametrize("users", [[1], np.arange(40)])
def test_a_corrupt_seen_matrix_is_refused(users):
    factors = Factors(np.ones((40, 1)), np.ones((4, 1)))
    for part, value in (("indices", 9), ("indices", -1), ("indptr", 50), ("indptr", -3)):
        seen = sp.csr_array(np.ones((40, 4)))
        getattr(seen, part)[5] = value
        with pytest.raises(ValueError, match="seen is not a valid sparse matrix"):
            factors.recommend(users, seen=seen)


@pytest.mark.small
@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"users": [2]}, ValueError, "users must be from 0 to 1, got 2"),
        ({"users": [-1]}, ValueError, "users must be from 0 to 1, got -1"),
        ({"users": [0.5]}, TypeError, "users must be integers"),
        ({"users": [[0]]}, ValueError, "users must be a scalar or one-dimensional"),
        ({"N": 0}, ValueError, "N must be an integer from 1 to 2147483647, got 0"),
        ({"N": 2.0}, TypeError, "N must be an integer"),
        ({"seen": sp.csr_array((1, 3))}, ValueError, r"whole matrix of shape \(2, 3\).*got shape \(1, 3\)"),
        ({"seen": np.ones((2, 3))}, TypeError, "seen must be a two-dimensional scipy.sparse"),
        ({"items": [3]}, ValueError, "items must be from 0 to 2"),
        ({"exclude": ["a"]}, TypeError, "exclude must be integers"),
        ({"num_threads": 0}, ValueError, "num_threads"),
    ],
)
def test_bad_arguments_are_named(arguments, error, says):
    factors = Factors(np.ones((2, 1)), np.ones((3, 1)))
    with pytest.raises(error, match=says):
        factors.recommend(**({"users": [0]} | arguments))


@pytest.mark.small
def test_scores_beyond_the_dtype_are_refused():
    factors = Factors(np.full((1, 2), 1e25, np.float32), np.full((1, 2), 1e25, np.float32))
    with pytest.raises(ValueError, match="beyond the range of float32"):
        factors.recommend(0)


@pytest.mark.small
@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("part", ["factors", "user_bias", "item_bias", "global_bias"])
def test_scores_may_take_a_quarter_of_the_range_of_the_dtype(part, sign):
    """Of whichever part they are, and of either sign."""

    def model(share):
        size = share * float(np.finfo(np.float32).max) / 4
        U, V = np.ones((1, 3), np.float32), np.ones((2, 3), np.float32)
        if part == "factors":  # one number of each is as large: the bound is k times their product
            U[0, 1], V[1, 0] = 2.0**60, sign * size / 3 / 2.0**60
            return Factors(U, V)
        bias = {"user_bias": np.zeros(1, np.float32), "item_bias": np.zeros(2, np.float32), "global_bias": 0.0}
        bias[part] = sign * size if part == "global_bias" else np.full(len(bias[part]), sign * size, np.float32)
        return Factors(U, V, **bias)

    assert np.isfinite(model(0.999).recommend(0, N=2).scores).all()
    with pytest.raises(ValueError, match="beyond the range of float32"):
        model(1.001).recommend(0)


@pytest.mark.small
@pytest.mark.parametrize("size", [1e-300, 1e-200, 1e160, 1e300])
@pytest.mark.parametrize("k", [8, 32])
def test_norms_may_leave_the_range_that_scores_stay_within(size, k):
    """Without a warning, and to the same lists."""
    rng = np.random.default_rng(k)
    U, V = rng.integers(-8, 9, (5, k)).astype(float), rng.integers(-8, 9, (2000, k)).astype(float)
    one = 2.0 ** np.round(np.log2(size))
    found, wanted = (Factors(U * by, V / by).recommend(np.arange(5)) for by in (one, 1.0))
    np.testing.assert_array_equal(found.ids, wanted.ids)
    np.testing.assert_array_equal(found.scores, wanted.scores)


@pytest.mark.small
def test_a_constant_beyond_the_dtype_is_refused():
    ones, most = np.ones((2, 1), np.float32), np.finfo(np.float32).max
    with pytest.raises(ValueError, match="beyond the range of float32"):
        Factors(ones, ones, user_bias=np.full(2, most), global_bias=float(most)).recommend(0)


# ---- similar --------------------------------------------------------------------------------------------------------


@examples(60)
@given(model=factor_models())
def test_similar_items_are_the_nearest_by_cosine(model):
    U, V, biases = model
    factors = Factors(U, V, **biases)
    ids, scores = factors.similar_items(np.arange(len(V)), N=len(V))
    for i in range(len(V)):
        assert sorted(ids[i]) == list(range(len(V)))
        assert np.all(np.diff(scores[i]) <= 0)
        expected = [oracles.cosine(V[i].astype(float), V[j].astype(float)) for j in ids[i]]
        np.testing.assert_allclose(scores[i], expected, rtol=0, atol=30 * np.finfo(V.dtype).eps)


@pytest.mark.small
def test_similar_users_and_inner_products():
    U = np.array([[1.0, 0], [10, 1], [0, 1], [0, 0]])
    factors = Factors(U, np.ones((1, 2)))
    assert factors.similar_users(0, N=2).ids.tolist() == [0, 1]
    assert factors.similar_users(0, N=2, metric="inner").ids.tolist() == [1, 0]
    assert factors.similar_users([3], N=4).scores.tolist() == [[0, 0, 0, 0]]
    with pytest.raises(ValueError, match="metric must be one of 'cosine', 'inner'"):
        factors.similar_users(0, metric="euclid")
