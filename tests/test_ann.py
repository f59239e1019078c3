"""Vectors whose neighbours are the items of the best scores, and what indexes over them find."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optional import require

from lfm_np import Factors, ann

pytestmark = pytest.mark.small


def model(n=300, k=8, biases=True, seed=0):
    """Items of very different norms and biases, where plain neighbours would be wrong."""
    rng = np.random.default_rng(seed)
    V = rng.normal(size=(n, k)) * rng.pareto(1.5, size=(n, 1))
    bias = {"item_bias": rng.normal(size=n) * 3, "user_bias": rng.normal(size=40), "global_bias": 2.0} if biases else {}
    return Factors(rng.normal(size=(40, k)).astype(np.float32), V.astype(np.float32), **bias)


@given(st.integers(0, 50), st.integers(0, 6), st.booleans(), st.integers(0, 99))
def test_distance_orders_items_as_the_score_does(n, k, biases, seed):
    factors = model(n, k, biases, seed)
    items, users = (vectors.astype(np.float64) for vectors in (ann.item_vectors(factors), ann.user_vectors(factors)))
    assert items.shape == (n, k + 2)
    norms = np.linalg.norm(items, axis=1)
    largest = norms.max(initial=0.0)
    np.testing.assert_allclose(norms, largest, rtol=1e-6)
    bias = 0.0 if factors.item_bias is None else factors.item_bias.astype(np.float64)
    scores = factors.user_factors.astype(np.float64) @ factors.item_factors.T.astype(np.float64) + bias
    np.testing.assert_allclose(users @ items.T, scores, rtol=1e-5, atol=1e-5 * max(largest, 1))
    distances = ((users[:, None] - items) ** 2).sum(axis=2)
    constant = (users**2).sum(axis=1)[:, None] + largest**2
    np.testing.assert_allclose(constant - distances, 2 * scores, atol=1e-4 * max(largest, 1) ** 2)


@pytest.mark.parametrize("library", ["usearch", "faiss"])
@pytest.mark.parametrize("biases", [False, True])
def test_an_index_finds_the_best_items(library, biases):
    require(library)
    factors = model(biases=biases)
    if library == "usearch":
        # on one thread, as a graph that several build at once differs from run to run
        index = ann.usearch_index(factors, num_threads=1, expansion_search=300, expansion_add=300)
    else:
        index = ann.faiss_index(factors)
        index.hnsw.efSearch = 300
    users = np.arange(40)
    ids, scores = ann.search(index, factors, users, N=10)
    exact = factors.recommend(users, N=10)
    assert np.mean([len(set(a) & set(b)) for a, b in zip(ids.tolist(), exact.ids.tolist())]) >= 9.9
    np.testing.assert_array_equal(scores, factors.scores(np.repeat(users, 10), ids.ravel()).reshape(40, 10))
    assert np.all(np.diff(scores) <= 0)


@pytest.mark.parametrize("library", ["usearch", "faiss"])
def test_more_than_there_are_is_padded(library):
    require(library)
    factors = model(n=3)
    index = getattr(ann, f"{library}_index")(factors)
    ids, scores = ann.search(index, factors, [0, 1], N=5)
    assert [part.tolist() for part in ann.search(index, factors, 1, N=5)] == [ids[1].tolist(), scores[1].tolist()]
    assert sorted(ids[0, :3].tolist()) == [0, 1, 2]
    assert (ids[:, 3:] == -1).all()
    assert (scores[:, 3:] == -np.inf).all()


class Found:
    """Of an index that has found ``counts`` items a vector, as usearch says it; what comes after them is anything."""

    ndim = 10

    def __init__(self, size, counts):
        self.size, self.counts = size, np.array(counts)

    def __len__(self):
        return self.size

    def search(self, vectors, count):
        self.asked, self.keys = count, np.tile(np.arange(count, dtype=np.uint64)[::-1], (len(vectors), 1))
        return self


def test_what_an_index_does_not_find_is_padded():
    factors, index = model(), Found(300, [0, 2, 4])
    ids, scores = ann.search(index, factors, [5, 6, 7], N=4)
    assert index.asked == 4
    assert (ids == -1).tolist() == [[True] * 4, [False, False, True, True], [False] * 4]
    np.testing.assert_array_equal(np.isneginf(scores), ids == -1)
    assert [set(ids[1, :2].tolist()), set(ids[2].tolist())] == [{2, 3}, {0, 1, 2, 3}]
    np.testing.assert_array_equal(scores[1, :2], factors.scores(6, ids[1, :2]))


def test_equal_scores_are_in_ascending_order_of_id():
    factors = Factors(np.ones((1, 8)), np.ones((300, 8)))
    assert ann.search(Found(300, [4]), factors, 0, N=4).ids.tolist() == [0, 1, 2, 3]


def test_an_index_of_other_factors_is_refused():
    with pytest.raises(ValueError, match="index must be of the item_vectors of these factors, 300 of 10 numbers"):
        ann.search(Found(301, [1]), model(), 0)
    with pytest.raises(ValueError, match="300 of 9 numbers, got 300 of 10"):
        ann.search(Found(300, [1]), model(k=7), 0)
    assert ann.search(Found(299, [10]), model(), 0).ids.shape == (10,)
    with pytest.raises(TypeError, match="index must be one of usearch or faiss"):
        ann.search([], model(), 0)


def test_options_of_indexes():
    require("faiss")
    require("usearch")
    index = ann.faiss_index(model(n=20))
    assert (index.hnsw.nb_neighbors(1), index.hnsw.efConstruction) == (32, 128)
    index = ann.faiss_index(model(n=20), connectivity=7, expansion_add=9)
    assert (index.hnsw.nb_neighbors(1), index.hnsw.efConstruction) == (7, 9)
    assert str(ann.usearch_index(model(n=20)).dtype).endswith("F32")
    assert str(ann.usearch_index(model(n=20), dtype="f16").dtype).endswith("F16")


def test_one_user_is_one_vector():
    factors = model()
    np.testing.assert_array_equal(ann.user_vectors(factors, 3), ann.user_vectors(factors)[3])
    with pytest.raises(ValueError, match="users must be from 0 to 39, got 40"):
        ann.user_vectors(factors, 40)
    with pytest.raises(TypeError, match="factors must be Factors, got None"):
        ann.search(None, None, 0)
