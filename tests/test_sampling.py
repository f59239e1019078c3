"""The draws of whole epochs, seen from outside: a loss of slope −1 makes the item bias count them."""

import math

import numpy as np
import pytest
import scipy.sparse as sp
from scipy import stats

import lfm_np
from lfm_np import sampling, sgd_grid

RATE = 2.0**-40  # so small that scores stay what they are, and a power of two, so that counting is exact


class Count:
    """Pairwise: every negative lowers its item's bias by the learning rate, every stored item gains it."""

    def value(self, difference):
        return -difference

    def gradient(self, difference):
        return -1.0


class CountList:
    def value(self, positive, negatives):
        return negatives.sum() - positive * len(negatives)

    def gradient(self, positive, negatives):
        return -float(len(negatives)), np.ones(len(negatives))


def drawn(X, sampler, negatives=1, epochs=1, loss=None, init=None, seed=0):
    """How often each item was drawn as a negative in all epochs together."""
    fit = lfm_np.sgd(
        X, loss or Count(), sampler=sampler, negatives=negatives, factors=1, learning_rate=RATE, regularization=0,
        biases="item", epochs=epochs, dtype=np.float64, random_state=seed, num_threads=1, init=init,
    )  # fmt: skip
    stored = np.bincount(X.indices, minlength=X.shape[1]) * negatives * epochs
    counts = stored - fit.item_bias / RATE
    assert np.array_equal(counts, np.rint(counts))
    return counts.astype(int), fit


def expected(X, beta, draws=1):
    """Σ over the stored cells of q(j | row), q ∝ count^beta outside of the row."""
    counts = np.bincount(X.indices, minlength=X.shape[1]).astype(float)
    free = (X.toarray() == 0) * counts**beta
    lengths = np.diff(X.indptr)
    return draws * (free / np.maximum(free.sum(axis=1), 1e-300)[:, None] * lengths[:, None]).sum(axis=0)


def p_value(counts, mean):
    keep = mean > 0
    assert counts[~keep].sum() == 0
    statistic = ((counts[keep] - mean[keep]) ** 2 / mean[keep]).sum()
    return stats.chi2.sf(statistic, keep.sum() - 1)


def zipf_matrix(m=3000, n=48, seed=1):
    """Skewed items; rows of 1 to about 20 of them."""
    rng = np.random.default_rng(seed)
    popularity = 1 / np.arange(1, n + 1) ** 0.8
    dense = rng.random((m, n)) < popularity * rng.uniform(0.2, 1.2, m)[:, None]
    return sp.csr_array(dense.astype(np.float32))


@pytest.mark.parametrize("G", [1, 2, 4])
@pytest.mark.parametrize("negatives", [1, 3])
@pytest.mark.parametrize("sampler", [sampling.Uniform(), sampling.Popularity(0.5), sampling.Popularity(1.0)], ids=str)
@pytest.mark.parametrize("loss", [Count(), CountList()], ids=["pairwise", "list"])
def test_an_epoch_follows_the_sampler(monkeypatch, sampler, negatives, G, loss):
    """Chi-square over all items, block structure included; negatives of a record share a block but each follows q.

    Draws that share a block are correlated, so with three of them the statistic is compared at the level of
    independent draws inflated by their number.
    """
    monkeypatch.setattr(sgd_grid, "blocks_for", lambda *_: G)
    X, epochs = zipf_matrix(), 4
    counts, fit = drawn(X, sampler, negatives, epochs, loss)
    assert counts.sum() == X.nnz * negatives * epochs
    mean = expected(X, getattr(sampler, "beta", 0.0), negatives * epochs)
    assert fit.params["skipped_rows"] == 0
    assert p_value(counts / negatives, mean / negatives) > 1e-3


def test_the_test_sees_a_wrong_distribution():
    """The guard itself: uniform draws against popularity, and draws confined to blocks that hold few of the cells."""
    X = zipf_matrix()
    counts, _ = drawn(X, sampling.Uniform())
    assert p_value(counts, expected(X, 0.5)) < 1e-6


@pytest.mark.parametrize("G", [1, 2])
def test_hard_takes_the_best_of_its_candidates(monkeypatch, G):
    """With fixed scores, common to all users, the distribution of the winner's rank is known.

    The ranking changes from run to run, since items of like counts are dealt to different blocks.
    """
    monkeypatch.setattr(sgd_grid, "blocks_for", lambda *_: G)
    n, m, C, runs = 80, 4000, 3, 20
    X = sp.csr_array((np.ones(m, np.float32), (np.arange(m), np.arange(m) % n)), shape=(m, n))
    by_rank = np.zeros(n)
    for seed in range(runs):
        ranks = np.random.default_rng(seed).permutation(n)
        counts, _ = drawn(X, sampling.Hard(C), seed=seed, init=(np.ones((m, 1)), ranks[:, None].astype(float)))
        by_rank[ranks] += counts
    chance = best_of(C, n, n // (2 * G) if G > 1 else n)
    bins = np.arange(n) // 8
    assert stats.chisquare(np.bincount(bins, by_rank), np.bincount(bins, chance) * runs * m).pvalue > 1e-3


def best_of(C, n, block):
    """Chance of every item, by rank, to win among C draws from one random block, the user's own item excluded."""
    own = (block - 1) / (n - 1)  # chance that the user's own item is in the block of the first negative

    def distinct(size):  # chance of d different items among C draws from a block of this size
        chance = {0: 1.0}
        for _ in range(C):
            after = {}
            for d, p in chance.items():
                after[d] = after.get(d, 0) + p * d / size
                after[d + 1] = after.get(d + 1, 0) + p * (size - d) / size
            chance = after
        return chance

    number = {d: own * distinct(block - 1).get(d, 0) + (1 - own) * p for d, p in distinct(block).items() if d}

    def wins(below):  # of the other n − 2 items that may be drawn, `below` score lower
        return sum(p * math.comb(below, d - 1) / math.comb(n - 1, d) for d, p in number.items())

    return np.array([((r * wins(r - 1) if r else 0) + (n - 1 - r) * wins(r)) / n for r in range(n)])


@pytest.mark.small
@pytest.mark.parametrize("sampler", [sampling.Uniform(), sampling.Popularity(0.75), sampling.Hard(5)], ids=str)
def test_negatives_are_never_stored(sampler):
    """Rows that leave one item: it is the negative, whatever is drawn."""
    n = 12
    dense = np.ones((40, n), np.float32)
    dense[np.arange(40), np.arange(40) % n] = 0
    counts, _ = drawn(sp.csr_array(dense), sampler)
    expected_counts = np.bincount(np.arange(40) % n, minlength=n) * (n - 1)
    np.testing.assert_array_equal(counts, expected_counts)


@pytest.mark.small
def test_rows_without_negatives_are_skipped_and_counted():
    dense = np.eye(5, 8, dtype=np.float32)
    dense[2] = 1
    fit = lfm_np.sgd(sp.csr_array(dense), factors=2, epochs=1, random_state=0)
    assert fit.params["skipped_rows"] == 1
    assert not fit.user_factors[2].any()
    assert fit.user_factors[0].any()


@pytest.mark.small
def test_popularity_leaves_rows_that_hold_all_its_items():
    """Items that nobody has stored have mass 0: a row with all others has nothing to draw."""
    dense = np.zeros((3, 6), np.float32)
    dense[0, :3], dense[1, 0], dense[2, 1] = 1, 1, 1
    fit = lfm_np.sgd(sp.csr_array(dense), sampler=sampling.Popularity(), factors=2, epochs=1, random_state=0)
    assert fit.params["skipped_rows"] == 1


@pytest.mark.small
def test_popularity_of_zero_is_uniform():
    X = zipf_matrix(60, 20)
    np.testing.assert_array_equal(drawn(X, sampling.Popularity(0.0))[0] > 0, drawn(X, sampling.Uniform())[0] > 0)
    assert len(set(sampling.masses(sampling.Popularity(0.0), np.arange(5)).tolist())) == 1


@pytest.mark.small
@pytest.mark.parametrize(
    ("sampler", "error", "message"),
    [
        (sampling.Popularity(-1.0), ValueError, "Popularity.beta"),
        (sampling.Popularity(10.5), ValueError, "Popularity.beta"),
        (sampling.Hard(0), ValueError, "Hard.candidates"),
        (sampling.Hard(10_001), ValueError, "Hard.candidates"),
        ("uniform", TypeError, "sampler must be"),
        (sampling.Uniform, TypeError, "sampler must be"),
    ],
)
def test_bad_samplers_are_named(sampler, error, message):
    with pytest.raises(error, match=message):
        lfm_np.sgd(sp.csr_array(np.eye(3)), sampler=sampler)


@pytest.mark.small
@pytest.mark.parametrize("sampler", [sampling.Popularity(0), sampling.Popularity(10), sampling.Hard(1)])
def test_the_ends_of_a_range_are_within_it(sampler):
    fit = lfm_np.sgd(sp.csr_array(np.eye(3)), sampler=sampler, factors=2, epochs=1)
    assert fit.params["sampler"] == repr(sampling.check_sampler(sampler))


@pytest.mark.small
def test_what_samplers_are_without_arguments():
    made = [sampling.Uniform(), sampling.Popularity(), sampling.Hard()]
    assert list(map(repr, made)) == ["Uniform()", "Popularity(beta=0.75)", "Hard(candidates=4)"]


@pytest.mark.small
@pytest.mark.parametrize(
    ("counts", "beta", "expected"),
    [
        ([1, 0, 3], 1.0, [2**50, 0, 3 * 2**50]),
        ([0, 1, 1, 9], 0.5, [0, round(2**52 / 5), round(2**52 / 5), round(3 * 2**52 / 5)]),
        ([4, 0, 2], 0.0, [round(2**52 / 3)] * 3),
        ([1, 0, 1000], 10.0, [1, 0, 2**52]),  # rounds to 0, and may be drawn all the same
        ([0, 0], 0.75, [0, 0]),
    ],
)
def test_masses_are_popularities_in_units_of_2_to_the_minus_52_of_all(counts, beta, expected):
    found = sampling.masses(sampling.Popularity(beta), np.array(counts))
    assert found.dtype == np.int64
    assert found.tolist() == expected
    assert sampling.cumulative(found, len(counts)).tolist() == [sum(expected[:i]) for i in range(len(counts) + 1)]


@pytest.mark.small
@pytest.mark.parametrize("sampler", [sampling.Uniform(), sampling.Hard(), None])
def test_others_have_no_masses(sampler):
    assert sampling.masses(sampler, np.array([1, 2])) is None
    assert sampling.cumulative(None, 2).tolist() == [2]
