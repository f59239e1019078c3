"""Synthetic data sets: their promises, and that there is something to learn."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import examples

import lfm_np
from lfm_np.datasets import make_interactions, make_interactions_train_test, planted, synthetic


@pytest.mark.small
@given(m=st.integers(1, 30), n=st.integers(1, 12), data=st.data(), seed=st.integers(0, 2**40))
def test_pairs_are_distinct_and_every_row_has_its_share(m, n, data, seed):
    most = data.draw(st.integers(1, n))
    pairs = make_interactions(m, n, most, seed)
    assert pairs.dtype == np.int32
    assert pairs.shape[1] == 2
    keys = pairs[:, 0] * n + pairs[:, 1]
    assert np.all(np.diff(keys) > 0)
    assert pairs[:, 1].min() >= 0
    assert pairs[:, 1].max() < n
    counts = np.bincount(pairs[:, 0], minlength=m)
    assert len(counts) == m
    assert counts.min() >= 1
    assert counts.max() <= most
    np.testing.assert_array_equal(pairs, make_interactions(m, n, most, seed))


@pytest.mark.small
def test_counts_are_uniform_and_full_rows_are_possible():
    counts = np.bincount(make_interactions(40_000, 30, 4, 1)[:, 0])
    np.testing.assert_allclose(np.bincount(counts)[1:] / 40_000, 0.25, atol=0.01)
    assert len(make_interactions(200, 60, 60, 0)) > 200 * 25


@pytest.mark.small
def test_more_cells_than_32_bits_count(monkeypatch):
    """Which NumPy 1 has for an integer on Windows."""

    class Narrow:
        def __getattr__(self, name):
            return getattr(np, name)

        def arange(self, *args, dtype=np.int32):
            return np.arange(*args, dtype=dtype)

    expected = make_interactions(60_000, 50_000, 1, 0)
    monkeypatch.setattr(synthetic, "np", Narrow())
    np.testing.assert_array_equal(make_interactions(60_000, 50_000, 1, 0), expected)


@pytest.mark.small
@given(m=st.integers(1, 40), most=st.integers(1, 6), fraction=st.floats(0, 0.95), seed=st.integers(0, 2**40))
def test_train_and_test_part_the_pairs(m, most, fraction, seed):
    train, test = make_interactions_train_test(m, 8, most, fraction, seed)
    both = np.concatenate([train, test])
    assert both.dtype == np.int32
    assert len(np.unique(both, axis=0)) == len(both)
    assert set(train[:, 0].tolist()) == set(range(m))
    assert len(test) == min(round(fraction * len(both)), len(both) - m)


@pytest.mark.small
def test_seeds_of_every_kind():
    for seed in (7, np.random.SeedSequence(7), np.random.default_rng(7)):
        np.testing.assert_array_equal(make_interactions(50, 20, 3, seed), make_interactions(50, 20, 3, 7))
    assert len(make_interactions(50, 20, 3, np.random.RandomState(1))) >= 50
    assert not np.array_equal(make_interactions(50, 20, 3, 1), make_interactions(50, 20, 3, 2))
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    make_interactions(50, 20, 3)
    np.testing.assert_array_equal(state, np.random.get_state()[1])  # noqa: NPY002


@pytest.mark.small
@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ((0, 5, 1), ValueError, "m must be an integer from 1"),
        ((5, 5.0, 1), TypeError, "n must be an integer"),
        ((5, 5, 6), ValueError, "max_j_per_i must be an integer from 1 to 5, got 6"),
        ((5, 5, 0), ValueError, "max_j_per_i"),
        ((2**31, 5, 1), ValueError, "m must be"),
        ((5, 5, 1, -1), ValueError, "random_state must not be negative"),
    ],
)
def test_bad_sizes(arguments, error, words):
    with pytest.raises(error, match=words):
        make_interactions(*arguments)


@pytest.mark.small
@pytest.mark.parametrize("make", [make_interactions, make_interactions_train_test])
def test_a_refused_call_draws_nothing(make):
    given = np.random.RandomState(0)
    with pytest.raises(ValueError, match="max_j_per_i"):
        make(5, 3, 4, random_state=given)
    assert given.randint(10**9) == np.random.RandomState(0).randint(10**9)


@pytest.mark.small
def test_bad_test_fraction():
    with pytest.raises(ValueError, match="test_fraction"):
        make_interactions_train_test(5, 5, 2, 1.0)


def recall_at_10(scores, X, test):
    """Share of the test pairs among the ten best columns of their row that the row does not have yet."""
    rows = np.unique(test[:, 0])
    block = scores(rows)
    for line, row in enumerate(rows):
        block[line, X.indices[X.indptr[row] : X.indptr[row + 1]]] = -np.inf
    best = np.argpartition(-block, 10, axis=1)[:, :10]
    hit = (best[np.searchsorted(rows, test[:, 0])] == test[:, 1:]).any(1)
    return hit.mean()


def test_there_is_something_to_learn():
    """A truncated SVD, no solver of ours, finds more than twice what popularity does."""
    from scipy.sparse.linalg import svds

    train, test = make_interactions_train_test(20_000, 500, 4, random_state=0)
    X = lfm_np.to_csr(train, (20_000, 500))
    U, s, Vt = svds(X.astype(np.float64), k=32, rng=0)
    popular = np.bincount(train[:, 1], minlength=500).astype(float)
    found = recall_at_10(lambda rows: (U[rows] * s) @ Vt, X, test)
    assert found >= 2 * recall_at_10(lambda rows: np.tile(popular, (len(rows), 1)), X, test)


def test_als_learns_it():
    """Also with default parameters."""
    train, test = make_interactions_train_test(20_000, 500, 4, random_state=0)
    X = lfm_np.to_csr(train, (20_000, 500))
    factors = lfm_np.als(X, random_state=0)
    popular = np.bincount(train[:, 1], minlength=500).astype(float)
    found = recall_at_10(lambda rows: factors.user_factors[rows] @ factors.item_factors.T, X, test)
    assert found >= 2 * recall_at_10(lambda rows: np.tile(popular, (len(rows), 1)), X, test)


def test_planted_can_be_learnt_too():
    from scipy.sparse.linalg import svds

    train, test = planted(5_000, 2_000, 150_000, rank=8, random_state=0).split(random_state=0)
    U, s, Vt = svds(train.matrix.astype(np.float64), k=8, rng=0)
    popular = np.bincount(train.matrix.indices, minlength=2_000).astype(float)
    pairs = np.column_stack(test.matrix.nonzero())
    found = recall_at_10(lambda rows: (U[rows] * s) @ Vt, train.matrix, pairs)
    assert found >= 1.5 * recall_at_10(lambda rows: np.tile(popular, (len(rows), 1)), train.matrix, pairs)


# ---- planted --------------------------------------------------------------------------------------------------------


def test_planted_has_the_shape_of_real_data():
    data = planted(5_000, 2_000, 150_000, rank=8, random_state=0)
    assert data.shape == (5_000, 2_000)
    assert data.matrix.nnz == pytest.approx(150_000, rel=0.02)
    assert np.all(data.matrix.data == 1)
    users = np.sort(np.diff(data.matrix.indptr))[::-1]
    assert users[-1] >= 1
    assert users[:500].sum() > 0.3 * users.sum()  # a tenth of the users, a third of the cells
    items = np.sort(np.bincount(data.matrix.indices, minlength=2_000))[::-1]
    assert items[:200].sum() > 0.35 * items.sum()
    again = planted(5_000, 2_000, 150_000, rank=8, random_state=0).matrix
    np.testing.assert_array_equal(again.indices, data.matrix.indices)


@pytest.mark.small
@examples(30)
@given(m=st.integers(1, 40), n=st.integers(4, 30), data=st.data(), seed=st.integers(0, 2**40))
def test_planted_is_valid_at_any_size(m, n, data, seed):
    cells = data.draw(st.integers(m, max(m, m * n // 4)))
    found = planted(m, n, cells, rank=data.draw(st.integers(1, n)), random_state=seed)
    found.matrix.check_format(full_check=True)
    assert np.all(np.diff(found.matrix.indptr) >= 1)


@pytest.mark.small
def test_planted_and_its_split_of_one_seed_draw_apart():
    """Whose share is rounded up does not follow from who has how many cells."""
    total, of_four = 0.0, []
    for seed in range(20):
        data = planted(2000, 500, 20_000, random_state=seed)
        _, test = data.split(test_fraction=0.2, random_state=seed)
        counts, held = (np.diff(part.matrix.indptr) for part in (data, test))
        mean = 0.2 * counts
        share = mean - np.floor(mean + 1e-9)
        rounded = (counts > 1) & (share > 1e-9)
        total += (held - mean)[rounded].sum() ** 2 / (share * (1 - share))[rounded].sum()
        of_four.append(held[counts == 4].mean())
    assert total < 20 + 6 * np.sqrt(2 * 20)  # χ² of 20 seeds
    np.testing.assert_allclose(of_four, 0.8, atol=6 * 0.4 / np.sqrt(300))  # of some 450 users


@pytest.mark.small
def test_bad_planted_sizes():
    for arguments, options, words in [
        ((10, 10, 5), {}, "cells must be an integer from 10"),
        ((10, 10, 26), {}, "cells must be"),
        ((10, 10, 20), {"rank": 11}, "rank"),
        ((10, 10, 20), {"rank": 2, "tail": 1.0}, "tail"),
    ]:
        with pytest.raises(ValueError, match=words):
            planted(*arguments, **options)
