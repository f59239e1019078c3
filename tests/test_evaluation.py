"""evaluate against loops over the definitions, against other libraries, and on a published protocol."""

import enum
import itertools
import math

import numpy as np
import oracles_ranking as oracles
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st
from optional import require
from strategies_ranking import factor_models

from lfm_np import Factors, Interactions, evaluate
from lfm_np.cli import quality
from lfm_np.evaluation import most_popular

LISTS = ("recall@3", "capped_recall@3", "precision@3", "hit_rate@1", "ndcg@5", "map@2", "mrr@4", "recall@1000")
WHOLE = ("ndcg", "map", "mrr", "auc", "recall@2")


@st.composite
def tasks(draw):
    U, V, biases = draw(factor_models(users=7, items=40))
    shape = len(U), len(V)
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    train, test = (rng.random(shape) < draw(st.sampled_from([0.0, 0.1, 0.5, 1.0])) for _ in range(2))
    test[0, draw(st.integers(0, shape[1] - 1))] = True
    return Factors(U, V, **biases), train, test, rng


def rows(matrix):
    return [np.flatnonzero(row).tolist() for row in matrix]


def all_scores(factors):
    m, n = factors.shape
    return [factors.scores(u, np.arange(n)).tolist() for u in range(m)]


def compare(result, expected):
    for name, (mean, error) in expected.items():
        np.testing.assert_allclose([result[name], result[f"{name}_se"]], [mean, error], rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("names", [LISTS, WHOLE])
@given(task=tasks())
def test_every_metric_equals_its_definition(names, task):
    factors, train, test, _ = task
    if not (test & ~train).any():
        with pytest.raises(ValueError, match="test has no user"):
            evaluate(factors, sp.csr_array(train), sp.csr_array(test), names)
        return
    result = evaluate(factors, sp.csr_array(train), sp.csr_array(test), names)
    assert result["users"] == (test & ~train).any(axis=1).sum()
    compare(result, oracles.evaluate(all_scores(factors), rows(train), rows(test), names))


@given(task=tasks(), many=st.integers(0, 30))
def test_sampled_negatives_equal_their_definition(task, many):
    factors, train, test, rng = task
    test[0] &= ~train[0]
    test[0, np.argmin(train[0])] = not train[0].all()
    if not (test & ~train).any():
        return
    m, n = factors.shape
    negatives = rng.integers(-1, n, (m, many))
    names = LISTS + WHOLE
    result = evaluate(factors, sp.csr_array(train), sp.csr_array(test), names, negatives=negatives)
    compare(result, oracles.evaluate(all_scores(factors), rows(train), rows(test), names, negatives.tolist()))


def random_task(m=900, n=700, k=12):
    rng = np.random.default_rng(8)
    factors = Factors(rng.normal(size=(m, k)).astype(np.float32), rng.normal(size=(n, k)).astype(np.float32))
    train, test = (sp.csr_array(rng.random((m, n)) < 0.02) for _ in range(2))
    return factors, train, test


@pytest.mark.parametrize("names", [LISTS, WHOLE])
@pytest.mark.parametrize("many", [None, 30])
@pytest.mark.parametrize("kind", ["coo", "csr", "csc"])
def test_a_repeated_cell_counts_once(kind, many, names):
    factors, train, test = random_task()
    negatives = None if many is None else np.random.default_rng(1).integers(-1, 700, (900, many))
    again = [repeated(X) if kind == "coo" else as_stored(repeated(X), kind) for X in (train, test)]
    expected = evaluate(factors, train, test, names, negatives=negatives)
    for pair in (again, (train, again[1]), (again[0], test)):
        assert evaluate(factors, *pair, names, negatives=negatives) == expected
    np.testing.assert_array_equal(most_popular(again[0]).item_bias, most_popular(train).item_bias)


def repeated(X):
    """Every third cell is there twice, with values that add up to zero or of which one is zero."""
    coo = X.tocoo()
    rows, columns = (np.append(part, part[::3]) for part in (coo.row, coo.col))
    again = np.where(np.arange(len(coo.row[::3])) % 2, -1.0, 0.0)
    return sp.coo_array((np.append(np.ones(coo.nnz), again), (rows, columns)), shape=X.shape)


def as_stored(coo, kind):
    """As CSR or CSC that keeps repeated cells, which SciPy's conversion would add up."""
    major, minor = (coo.row, coo.col) if kind == "csr" else (coo.col, coo.row)
    order = np.lexsort((minor, major))
    offsets = np.append(0, np.cumsum(np.bincount(major, minlength=coo.shape[kind == "csc"])))
    make = sp.csr_array if kind == "csr" else sp.csc_array
    return make((coo.data[order], minor[order], offsets), shape=coo.shape)


@pytest.mark.parametrize("names", [LISTS, WHOLE])
def test_the_number_of_threads_changes_no_bit(names):
    task = random_task()
    results = [evaluate(*task, names, num_threads=threads) for threads in (1, 2, 3, 7)]
    assert all(result == results[0] for result in results)


def test_a_list_and_the_whole_ranking_give_the_same():
    task = random_task()
    lists = evaluate(*task, LISTS)
    whole = evaluate(*task, (*LISTS, "auc"))
    assert {name: whole[name] for name in lists} == lists


@pytest.mark.filterwarnings("ignore")  # ranx compiles with Numba and does not heed its warnings
def test_agrees_with_ranx():
    ranx = require("ranx")
    factors, train, test = random_task(m=120, n=90)
    test = sp.csr_array(test.toarray() & ~train.toarray())
    ids, scores = factors.recommend(np.arange(120), N=90, seen=train)
    users = np.flatnonzero(np.diff(test.indptr))
    qrels = {str(u): {str(i): 1 for i in test.indices[test.indptr[u] : test.indptr[u + 1]]} for u in users}
    run = {str(u): {str(i): float(s) for i, s in zip(ids[u], scores[u]) if i >= 0} for u in users}
    # ranx divides average precision by |T|, so it is compared where k ≥ |T|
    names = {"recall@7": "recall@7", "precision@7": "precision@7", "hit_rate@2": "hit_rate@2"}
    names |= {"ndcg@7": "ndcg@7", "map@80": "map@80", "mrr": "mrr", "ndcg": "ndcg"}
    theirs = ranx.evaluate(ranx.Qrels(qrels), ranx.Run(run), list(names.values()))
    ours = evaluate(factors, train, test, list(names))
    for name, their_name in names.items():
        assert ours[name] == pytest.approx(theirs[their_name], abs=1e-12)


def test_agrees_with_scikit_learn():
    sklearn_metrics = require("sklearn.metrics")
    factors, _, test = random_task(m=60, n=50)
    test = test[np.flatnonzero(np.diff(test.indptr))]
    factors = Factors(factors.user_factors[: test.shape[0]], factors.item_factors)
    scores, truth = np.array(all_scores(factors)), test.toarray().astype(float)
    ours = evaluate(factors, None, test, ("ndcg@10", "ndcg", "auc"))
    assert ours["ndcg@10"] == pytest.approx(sklearn_metrics.ndcg_score(truth, scores, k=10), abs=1e-12)
    assert ours["ndcg"] == pytest.approx(sklearn_metrics.ndcg_score(truth, scores), abs=1e-12)
    areas = [sklearn_metrics.roc_auc_score(t, s) for t, s in zip(truth, scores)]
    assert ours["auc"] == pytest.approx(np.mean(areas), abs=1e-12)


def test_most_popular_on_the_published_ml_1m_protocol():
    """Leave one out, 99 negatives: HR@10 0.4538 and NDCG@10 0.2545 (Ferrari Dacrema et al. 2019)."""
    data = np.load(require("data", "ml-1m.npz"))
    matrices = [
        sp.csr_array((np.ones(chosen.sum()), (data["user"][chosen], data["item"][chosen])), shape=(6040, 3706))
        for chosen in (data["ncf_split"] == 0, data["ncf_split"] == 2)
    ]
    popular = most_popular(matrices[0])
    result = evaluate(popular, *matrices, ("hit_rate@10", "ndcg@10"), negatives=data["ncf_test_negatives"])
    assert result["users"] == 6040
    assert result["hit_rate@10"] == pytest.approx(0.4538, abs=2e-3)  # popularity ties are broken differently
    assert result["ndcg@10"] == pytest.approx(0.2545, abs=2e-3)


@pytest.mark.small
def test_a_worked_example():
    """Ranking 0 1 2 3 4 5; the user trained on 1 and is tested on 2 and 5, so the ranks are 2 and 5 of 0 2 3 4 5."""
    factors = Factors(np.ones((1, 1)), np.arange(6.0, 0, -1).reshape(6, 1))
    train, test = sp.csr_array([[0, 1, 0, 0, 0, 0]]), sp.csr_array([[0, 1, 1, 0, 0, 1]])
    result = evaluate(factors, train, test, ("recall@2", "precision@2", "ndcg@2", "map", "mrr", "auc"))
    ideal = 1 + 1 / math.log2(3)
    assert result["recall@2"] == 0.5
    assert result["precision@2"] == 0.5
    assert result["ndcg@2"] == pytest.approx(1 / math.log2(3) / ideal)
    assert result["map"] == pytest.approx((1 / 2 + 2 / 5) / 2)
    assert result["mrr"] == 0.5
    assert result["auc"] == pytest.approx(2 / 6)
    assert (result["users"], math.isnan(result["map_se"])) == (1, True)


@pytest.mark.small
def test_ties_rank_by_id_and_count_half_in_auc():
    factors = Factors(np.zeros((1, 1)), np.zeros((4, 1)))
    result = evaluate(factors, None, sp.csr_array([[0, 0, 1, 0]]), ("mrr", "auc", "hit_rate@2"))
    assert (result["mrr"], result["auc"], result["hit_rate@2"]) == (pytest.approx(1 / 3), 0.5, 0)


@pytest.mark.small
def test_a_user_without_negatives_has_no_auc():
    factors = Factors(np.ones((2, 1)), np.arange(3.0).reshape(3, 1))
    result = evaluate(factors, None, sp.csr_array([[1, 1, 1], [0, 0, 1]]), ("auc", "recall@3"))
    assert (result["auc"], result["recall@3"], result["users"]) == (1, 1, 2)


@pytest.mark.small
def test_interactions_of_other_ids_are_refused():
    train = Interactions.from_arrays(["ann", "ann", "bob"], [1, 2, 2])
    test = Interactions.from_arrays(np.array(["ann", "bob"], object), [2, 1])
    factors = Factors(np.eye(2), np.eye(2))
    assert evaluate(factors, train, test)["users"] == 1
    for side in ("users", "items"):
        ids = {"users": test.users, "items": test.items}
        other = Interactions(test.matrix, **ids | {side: ids[side][::-1]})
        with pytest.raises(ValueError, match=f"test has other {side} than train, or in another order"):
            evaluate(factors, train, other)
        assert evaluate(factors, train.matrix, other)["users"] == 1
    large = [np.array([1, 2**53 + 1]), np.array([1.0, 2.0**53])]  # which NumPy finds equal
    for ids in itertools.permutations(large):
        with pytest.raises(ValueError, match="test has other items"):
            evaluate(factors, *(Interactions(data.matrix, data.users, own) for data, own in zip((train, test), ids)))
    days = np.array(["99999-01-01", "2024-05-01"], "M8[D]")  # the first is beyond nanoseconds, and wraps to its twin
    with pytest.raises(ValueError, match="test has other items"):
        evaluate(
            factors,
            Interactions(train.matrix, train.users, days),
            Interactions(test.matrix, test.users, np.array(["1793-12-01T23:13:36.795328512", "2024-05-01"], "M8[ns]")),
        )


@pytest.mark.small
def test_most_popular_counts_stored_cells():
    popular = most_popular(sp.csr_array(([1.0, 5.0, 0.0, 1.0], ([0, 1, 1, 1], [2, 2, 0, 1])), shape=(2, 4)))
    with pytest.raises(TypeError, match=r"X must be a two-dimensional scipy\.sparse matrix or Interactions, got None"):
        most_popular(None)
    assert popular.item_bias.tolist() == [0, 1, 2, 0]
    assert popular.recommend([0], N=4).ids.tolist() == [[2, 1, 0, 3]]


@pytest.mark.small
@pytest.mark.parametrize("X", [sp.coo_array(np.ones(3)), sp.csr_array(np.ones(3)), np.ones(3)])
def test_most_popular_of_what_is_no_matrix_is_refused(X):
    with pytest.raises((TypeError, ValueError), match="X must"):
        most_popular(X)


@pytest.mark.small
def test_most_popular_beside_a_model_of_ratings_is_judged_by_the_same_items():
    """User 0 has rated items 0 (with a zero) and 1, which leaves 2, the test item, and 3."""
    cells = [0.0, 5.0, 1.0, 1.0, 0.0], ([0, 0, 1, 1, 1], [0, 1, 0, 3, 1])
    train, test = sp.csr_array(cells, shape=(2, 4)), sp.csr_array(([0.0], ([0], [2])), shape=(2, 4))
    scores = Factors(np.ones((2, 1)), np.array([[4.0], [3.0], [2.0], [1.0]]), params={"weighting": "ratings"})
    table = quality.compare(scores, train, test, ("mrr", "recall@1"))
    assert (table["model"], table["popular"], table["users"]) == ([1.0, 1.0], [0.5, 0.0], [1, 1])
    counts = most_popular(train, zeros="keep")
    assert counts.item_bias.tolist() == [2, 2, 0, 1]
    assert counts.recommend(0, N=4, seen=train).ids.tolist() == [3, 2, -1, -1]
    assert most_popular(train).recommend(0, N=4, seen=train).ids.tolist() == [0, 3, 2, -1]
    with pytest.raises(ValueError, match="zeros must be one of 'drop', 'keep'"):
        most_popular(train, zeros=True)


@pytest.mark.small
@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"metrics": "recall"}, ValueError, "metrics must be recall@k"),
        ({"metrics": ["auc@5"]}, ValueError, "got 'auc@5'"),
        ({"metrics": ["ndcg@0"]}, ValueError, "got 'ndcg@0'"),
        ({"metrics": [3]}, ValueError, "got 3"),
        ({"metrics": []}, ValueError, "at least one"),
        ({"factors": np.ones((2, 3))}, TypeError, "factors must be a Factors"),
        ({"test": None}, TypeError, "test must be a two-dimensional scipy.sparse matrix"),
        ({"test": sp.csr_array((2, 3))}, ValueError, "test has no user"),
        ({"test": sp.csr_array((3, 2))}, ValueError, "test must be the whole matrix"),
        ({"train": sp.csr_array((1, 3))}, ValueError, "train must be the whole matrix"),
        ({"negatives": np.zeros((2, 2))}, TypeError, "negatives must be integers"),
        ({"negatives": np.zeros((3, 2), int)}, ValueError, "negatives must have a row for each of the 2 users"),
        ({"negatives": np.full((2, 2), 3)}, ValueError, "negatives must be from 0 to 2, or -1"),
    ],
)
def test_bad_arguments_are_named(changes, error, says):
    good = {
        "factors": Factors(np.ones((2, 1)), np.ones((3, 1))),
        "train": None,
        "test": sp.csr_array(np.eye(2, 3)),
        "metrics": ["mrr"],
    }
    with pytest.raises(error, match=says):
        evaluate(**(good | changes))


def test_names_and_choices_that_are_members_of_an_enum():
    class Name(str, enum.Enum):  # noqa: UP042 (whose str is "Name.KEEP")
        KEEP = "keep"
        RECALL = "recall@1"

    X = sp.csr_array(np.array([[1.0, 2.0], [0.0, 3.0]]))
    X.data[0] = 0
    popular = most_popular(X, zeros=Name.KEEP)
    assert popular.params == most_popular(X, zeros="keep").params
    assert popular._zero_is_a_value
    assert evaluate(popular, None, X, [Name.RECALL]).keys() == {"recall@1", "recall@1_se", "users"}
    assert {str(name) for name in evaluate(popular, None, X, [Name.RECALL])} == {"recall@1", "recall@1_se", "users"}


@pytest.mark.parametrize("few", [0, 64])
@pytest.mark.parametrize("levels", [3, 10**6])
def test_users_with_many_items_of_either_kind(few, levels):
    rng = np.random.default_rng(0)
    n = 300
    factors = Factors(np.ones((4, 1)), rng.integers(-levels, levels, (n, 1)).astype(np.float64) / 8)
    kind = rng.integers(0, 3, (4, n))
    kind[1, 5:] = 0
    kind[1, 0] = 1
    train, test = kind == 2, kind == 1
    expected = oracles.evaluate(all_scores(factors), rows(train), rows(test), WHOLE)
    compare(evaluate(factors, sp.csr_array(train), sp.csr_array(test), WHOLE), expected)
    lists = np.argsort(rng.random((4, n)), axis=1)[:, : n - few]
    found = evaluate(factors, sp.csr_array(train), sp.csr_array(test), WHOLE, negatives=lists)
    compare(found, oracles.evaluate(all_scores(factors), rows(train), rows(test), WHOLE, lists.tolist()))
