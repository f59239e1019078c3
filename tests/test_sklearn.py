"""The estimators against the functions they call, and against what scikit-learn asks of an estimator."""

import inspect
import pickle
import subprocess
import sys

import numpy as np
import oracles_ranking as oracle
import pytest
import scipy.sparse as sp
from optional import require

import lfm_np
from lfm_np.losses import BPR, Squared


@pytest.fixture(autouse=True)
def sklearn():
    return require("sklearn")


def planted(m=120, n=25, seed=0):
    return lfm_np.to_csr(lfm_np.datasets.make_interactions(m, n, 8, random_state=seed), shape=(m, n))


def rated(m=60, n=20, seed=0):
    rng = np.random.default_rng(seed)
    X = sp.random_array((m, n), density=0.4, rng=rng, format="csr")
    X.data = rng.choice([-1.0, 0.0, 2.0, 5.0], X.nnz)  # zero is a rating
    return X


ALS = {"factors": 4, "iterations": 3, "random_state": 0}
RATED = {"factors": 3, "regularization": 0.1, "random_state": 0}
SGD = {"factors": 3, "epochs": 1, "random_state": 0}
MEASURED = {**SGD, "loss": Squared(), "sampler": None, "learning_rate": 0.01, "regularization": 0.1}
ESTIMATORS = [
    ("ALS", ALS, planted),
    ("ALS", {**RATED, "weighting": "ratings"}, rated),
    ("ALS", {**RATED, "weighting": "ratings", "biases": True, "dtype": "float64"}, rated),
    ("SGD", SGD, planted),
    ("SGD", {**MEASURED, "biases": True}, rated),
]
all_estimators = pytest.mark.parametrize(("name", "parameters", "data"), ESTIMATORS)

EXPECTED = {
    "SGD": {"check_parameters_default_constructible": "loss and sampler default to immutable objects, as those of sgd"}
}


@pytest.mark.parametrize(("name", "parameters"), [chosen[:2] for chosen in (ESTIMATORS[0], *ESTIMATORS[2:4])])
def test_the_checks_of_scikit_learn(name, parameters):
    from sklearn.utils.estimator_checks import check_estimator

    estimator = getattr(lfm_np.sklearn, name)(**parameters)
    found = check_estimator(estimator, expected_failed_checks=EXPECTED.get(name, {}), on_skip=None)
    assert len([check for check in found if check["status"] == "passed"]) > 40
    assert {check["check_name"] for check in found if check["status"] == "xfail"} == set(EXPECTED.get(name, {}))


@pytest.mark.parametrize("name", ["als", "sgd"])
def test_parameters_are_the_arguments_of_the_function(name):
    wanted = dict(list(inspect.signature(getattr(lfm_np, name)).parameters.items())[1:])
    found = dict(inspect.signature(getattr(lfm_np.sklearn, name.upper())).parameters)
    assert found.pop("fold_in", None) is None or name == "sgd"
    assert {key: (one.default, one.kind) for key, one in found.items()} == {
        key: (one.default, one.kind) for key, one in wanted.items()
    }


@all_estimators
def test_results_are_those_of_the_functions(name, parameters, data):
    X = data()
    expected = getattr(lfm_np, name.lower())(X, **parameters)
    model = getattr(lfm_np.sklearn, name)(**parameters).fit(X)
    for field in ("user_factors", "item_factors", "item_bias"):
        np.testing.assert_array_equal(getattr(model.factors_, field), getattr(expected, field))
    assert model.item_factors_ is model.factors_.item_factors
    assert (model.n_features_in_, model.n_iter_) == (X.shape[1], len(expected.history))

    new = data(m=30, seed=1)
    folded = model.fold_in_users(new)
    if name == "ALS":
        np.testing.assert_array_equal(folded.user_factors, expected.fold_in_users(new).user_factors)
    found = model.transform(new)
    np.testing.assert_array_equal(found[:, : parameters["factors"]], folded.user_factors)
    np.testing.assert_array_equal(model.fit_transform(X), model.transform(X))
    users, items = np.indices((30, X.shape[1]))
    scores = folded.scores(users.ravel(), items.ravel()).reshape(30, -1)
    np.testing.assert_allclose(model.inverse_transform(found), scores, rtol=0, atol=1e-5 * abs(scores).max())


@pytest.mark.parametrize("form", ["dense", "csc", "coo matrix", "frame", "interactions"])
def test_forms_of_X(form):
    X = planted()
    make = {
        "dense": lambda: X.toarray(),
        "csc": lambda: X.tocsc(),
        "coo matrix": lambda: sp.coo_matrix(X),
        "frame": lambda: require("pandas").DataFrame(X.toarray(), columns=[f"item {i}" for i in range(25)]),
        "interactions": lambda: lfm_np.Interactions(X, np.arange(120), np.arange(25)),
    }
    plain, other = (lfm_np.sklearn.ALS(**ALS).fit(one) for one in (X, make[form]()))
    np.testing.assert_array_equal(other.item_factors_, plain.item_factors_)
    np.testing.assert_array_equal(other.transform(make[form]()), plain.transform(X))
    assert other.score(make[form]()) == plain.score(X)


class Absolute:
    def value(self, score, target):
        return abs(score - target)

    def gradient(self, score, target):
        return np.sign(score - target)


@pytest.mark.parametrize(
    "parts", [{}, {"regularization": {"user": 0.1, "bias": 0.7}}, {"loss": Absolute()}], ids=["one", "parts", "loss"]
)
def test_ratings_of_sgd_are_folded_in_by_least_squares(parts):
    """The gradient of Σ ½(x − s)² + ½λ n_u |u|², in the user's factors and bias, is zero for λ of the users."""
    X = rated()
    model = lfm_np.sklearn.SGD(**{**MEASURED, **parts}, biases=True, dtype="float64").fit(X)
    U, V, factors = model.transform(X), model.item_factors_, model.factors_
    for u in range(X.shape[0]):
        items, x = X.indices[X.indptr[u] : X.indptr[u + 1]], X.data[X.indptr[u] : X.indptr[u + 1]]
        Y = np.column_stack((V[items], np.ones(len(items))))
        slope = Y @ U[u] + factors.global_bias + factors.item_bias[items] - x
        np.testing.assert_allclose(Y.T @ slope + 0.1 * len(items) * U[u], 0, atol=1e-9)


def test_a_model_of_item_biases_gives_users_none():
    X = rated()
    model = lfm_np.sklearn.SGD(**MEASURED, biases="item", dtype="float64").fit(X)
    U, b = model.transform(X), model.factors_.item_bias
    assert U.shape == (60, 3) == (60, len(model.get_feature_names_out()))
    scores = model.fold_in_users(X).scores(np.repeat(np.arange(60), 20), np.tile(np.arange(20), 60)).reshape(60, 20)
    np.testing.assert_allclose(model.inverse_transform(U), scores, rtol=0, atol=1e-12)
    np.testing.assert_allclose(U @ model.item_factors_.T + b, scores, rtol=0, atol=1e-12)


def test_fold_in_of_sgd_is_a_parameter():
    X = planted()
    chosen = {"weighting": "hu-koren", "alpha": 3.0, "regularization": 2.0, "regularization_exponent": 0.0}
    model = lfm_np.sklearn.SGD(**SGD, fold_in=chosen).fit(X)
    np.testing.assert_array_equal(model.transform(X), model.factors_.fold_in_users(X, **chosen).user_factors)


@pytest.mark.parametrize(
    "options",
    [{"loss": BPR()}, {"loss": lfm_np.losses.Logistic()}, {"loss": Squared(), "regularization": 3.0}],
    ids=["pairwise", "pointwise", "sampled"],
)
def test_what_has_no_closed_solution_is_folded_in_by_ials(options):
    X = planted()
    model = lfm_np.sklearn.SGD(**{**SGD, **options}, dtype="float64").fit(X)
    U, V = model.transform(X), model.item_factors_.astype(np.float64)
    for u in range(0, 120, 7):  # Σ_Ω x(1 − s)² + Σ_all s² + 0.1 (n_u + n) |u|²
        items, x = X.indices[X.indptr[u] : X.indptr[u + 1]], X.data[X.indptr[u] : X.indptr[u + 1]].astype(float)
        A = (V[items].T * x) @ V[items] + V.T @ V + 0.1 * (len(items) + 25) * np.eye(3)
        np.testing.assert_allclose(U[u], np.linalg.solve(A, V[items].T @ x), rtol=1e-9)


def test_held_out_is_ndcg_at_10_of_a_fifth():
    model, new = lfm_np.sklearn.ALS(**ALS).fit(planted()), planted(m=40, seed=1)
    known, test = lfm_np.Interactions(new, np.arange(40), np.arange(25)).split(test_fraction=0.2, random_state=0)
    folded = model.fold_in_users(known.matrix)
    expected = lfm_np.evaluate(folded, known.matrix, test.matrix, ("ndcg@10",))["ndcg@10"]
    assert model.score(new) == lfm_np.sklearn.HeldOut()(model, new) == expected
    assert lfm_np.sklearn.HeldOut() == lfm_np.sklearn.HeldOut("ndcg@10", test_fraction=0.2, random_state=0)


def test_held_out_is_the_metric_of_what_was_hidden():
    X, new = planted(), planted(m=40, seed=1)
    model = lfm_np.sklearn.ALS(**ALS).fit(X)
    known, test = lfm_np.Interactions(new, np.arange(40), np.arange(25)).split(test_fraction=0.4, random_state=3)
    assert known.matrix.nnz + test.matrix.nnz == new.nnz
    scores = model.inverse_transform(model.transform(known.matrix))
    wanted = []
    for u in np.flatnonzero(np.diff(test.matrix.indptr)):
        best, _ = oracle.best(scores[u], known.matrix[[u]].indices, 5)
        hidden = test.matrix[[u]].indices
        wanted.append(len(set(best) & set(hidden)) / len(hidden))
    score = lfm_np.sklearn.HeldOut("recall@5", test_fraction=0.4, random_state=3)
    assert score(model, new) == pytest.approx(np.mean(wanted), abs=1e-12)
    assert lfm_np.sklearn.HeldOut()(model, new) == model.score(new)


def test_held_out_zeros_and_duplicates_are_those_of_fit():
    rng = np.random.default_rng(0)
    dense = (rng.random((40, 25)) < 0.2) * rng.integers(1, 6, (40, 25))
    X, absent = sp.coo_array(dense.astype(float)), np.argwhere(dense == 0)[:80]
    coords = tuple(np.append(ids, more) for ids, more in zip(X.coords, absent.T))
    zeros = sp.csr_array((np.append(X.data, np.zeros(80)), coords), shape=X.shape)
    model = lfm_np.sklearn.ALS(factors=3, random_state=0).fit(X)
    assert model.score(zeros) == model.score(X)
    twice = sp.coo_array((np.tile(X.data, 2), tuple(np.tile(ids, 2) for ids in X.coords)), shape=X.shape)
    assert model.score(twice) == model.score(X * 2)
    ratings = lfm_np.sklearn.ALS(factors=3, weighting="ratings", random_state=0).fit(zeros)
    assert ratings.score(zeros) != ratings.score(X)
    with pytest.raises(ValueError, match="stores a cell more than once"):
        ratings.score(twice)


def test_interactions_of_other_items_are_refused():
    X = planted()
    data = lfm_np.Interactions(X, np.arange(120), np.arange(25))
    model = lfm_np.sklearn.ALS(**ALS).fit(data)
    other = lfm_np.Interactions(X, data.users, data.items[::-1])
    for call in (model.transform, model.fold_in_users, model.score, lambda X: lfm_np.sklearn.HeldOut()(model, X)):
        call(data), call(X)
        with pytest.raises(ValueError, match="X has other items than those that the model was fitted to"):
            call(other)
    lfm_np.sklearn.ALS(**ALS).fit(X).transform(other)


@pytest.mark.parametrize("nobody", [np.empty((0, 25)), sp.csr_array((0, 25))], ids=["dense", "sparse"])
def test_nobody_is_folded_in(nobody):
    assert lfm_np.sklearn.ALS(**ALS).fit(planted()).fold_in_users(nobody).shape == (0, 25)


def test_held_out_takes_the_threads_of_the_model(monkeypatch):
    asked = []

    def evaluate(*args, num_threads=None):
        asked.append(num_threads)
        return lfm_np.evaluate(*args, num_threads=num_threads)

    monkeypatch.setattr(lfm_np.sklearn, "evaluate", evaluate)
    lfm_np.sklearn.ALS(**ALS, num_threads=1).fit(planted()).score(planted())
    assert asked == [1]


@pytest.mark.parametrize("step", ["dense", None, "passthrough"])
def test_held_out_of_a_pipeline_of_any_steps(step):
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import FunctionTransformer

    X = planted()
    if step == "dense":
        step = FunctionTransformer(lambda A: A.toarray(), accept_sparse=True)
    model = Pipeline([("first", step), ("als", lfm_np.sklearn.ALS(**ALS))]).fit(X)
    assert lfm_np.sklearn.HeldOut("recall@5")(model, X) == lfm_np.sklearn.HeldOut("recall@5")(model[-1], X)
    folded = model[-1].fold_in_users(X.toarray())
    np.testing.assert_array_equal(folded.user_factors, model.transform(X))


def test_held_out_ratings():
    X = rated()
    model = lfm_np.sklearn.ALS(**RATED, weighting="ratings", biases=True).fit(X)
    known, test = lfm_np.Interactions(X, np.arange(60), np.arange(20)).split(random_state=0)
    scores = model.inverse_transform(model.transform(known.matrix))
    hidden = test.matrix.tocoo()
    errors = scores[hidden.row, hidden.col] - hidden.data
    assert model.score(X) == pytest.approx(-np.sqrt(np.mean(errors**2)), rel=1e-6)


def test_a_score_of_nothing_hidden_is_refused():
    X = rated()
    model = lfm_np.sklearn.ALS(**RATED, weighting="ratings").fit(X)
    with pytest.raises(ValueError, match="X must have rows with enough cells"):
        model.score(sp.csr_array(np.eye(20)))
    with pytest.raises(ValueError, match="test has no user"):
        lfm_np.sklearn.HeldOut()(model, sp.csr_array(np.eye(20)))


def test_searches_over_pipelines():
    from sklearn.model_selection import GridSearchCV
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import Binarizer

    X = planted(m=300) * np.float32(0.5)
    scorers = {name: lfm_np.sklearn.HeldOut(name, 0.3) for name in ("ndcg@5", "recall@5")}
    steps = [("same", "passthrough"), ("ones", Binarizer(threshold=0.1)), ("als", lfm_np.sklearn.ALS(**ALS))]
    grid = {"als__regularization": [1.0, 1e4]}
    search = GridSearchCV(Pipeline(steps), grid, scoring=scorers, refit="ndcg@5", cv=3, error_score="raise").fit(X)
    table = search.cv_results_
    assert search.best_params_ == {"als__regularization": 1.0}
    assert table["mean_test_ndcg@5"][0] > 1.4 * table["mean_test_ndcg@5"][1]
    # By hand, the last fold.
    model = lfm_np.sklearn.ALS(**ALS, regularization=1.0).fit(X[:200] * 2)
    assert table["split2_test_recall@5"][0] == scorers["recall@5"](model, X[200:] * 2)
    assert search.score(X) > 0


@all_estimators
def test_clones_and_pickles(name, parameters, data):
    from sklearn.base import clone

    model = getattr(lfm_np.sklearn, name)(**parameters).fit(data())
    copy = clone(model)
    assert copy.get_params() == model.get_params()
    assert not hasattr(copy, "factors_")
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.transform(data()), model.transform(data()))
    assert repr(again.set_params(factors=2)) == repr(clone(model).set_params(factors=2))


def test_a_step_may_write_to_the_rows_it_is_given():
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import FunctionTransformer

    def doubled(X):
        X.data *= 2
        return X

    def copied(X):
        return doubled(X.copy())

    scores = []
    for work in doubled, copied:
        step = FunctionTransformer(work, accept_sparse=True)
        model = Pipeline([("double", step), ("als", lfm_np.sklearn.ALS(**ALS))]).fit(planted())
        scores.append(lfm_np.sklearn.HeldOut("ndcg@5")(model, planted()))
    assert scores[0] == scores[1]


@pytest.mark.parametrize(
    "mistake", [{"factors": 0}, {"callback": lambda record, view: 1 / 0}, {"random_state": -1}], ids=repr
)
@pytest.mark.parametrize("fitted", [True, False])
def test_a_fit_that_fails_leaves_the_estimator_as_it_was(mistake, fitted):
    frame = require("pandas").DataFrame(planted().toarray(), columns=[f"item {i}" for i in range(25)])
    model = lfm_np.sklearn.ALS(**ALS)
    if fitted:
        model.fit(frame)
    model.set_params(**mistake)
    before = vars(model).copy()
    with pytest.raises((ValueError, ZeroDivisionError)):
        model.fit(planted(n=19))
    assert vars(model) == before
    if fitted:
        assert model.transform(frame).shape == (120, 4)


def test_parameters_that_are_set_later_are_those_of_the_next_fit():
    X, counts = rated(), planted()
    ratings = lfm_np.sklearn.SGD(**MEASURED).fit(X)
    implicit = lfm_np.sklearn.ALS(**ALS).fit(counts)
    expected = ratings.transform(X), ratings.score(X), implicit.transform(counts), implicit.score(counts)
    ratings.set_params(loss=BPR(), sampler=lfm_np.sampling.Uniform(), regularization=7.0)
    implicit.set_params(weighting="ratings", alpha=3.0, regularization=9.0, unobserved_weight=0.0)
    found = ratings.transform(X), ratings.score(X), implicit.transform(counts), implicit.score(counts)
    for value, wanted in zip(found, expected):
        np.testing.assert_array_equal(value, wanted)
    with pytest.raises(ValueError, match="Negative"):
        implicit.transform(-counts)


def test_columns_have_names():
    require("pandas")
    model = lfm_np.sklearn.ALS(**ALS).set_output(transform="pandas")
    assert model.fit_transform(planted()).columns.tolist() == ["als0", "als1", "als2", "als3"]


def test_what_cannot_be_done_is_said():
    X = planted()
    with pytest.raises(ValueError, match="factors must be"):
        lfm_np.sklearn.ALS(factors=0).fit(X)
    with pytest.raises(ValueError, match="Negative values in data passed to SGD, whose values are confidences"):
        lfm_np.sklearn.SGD(**SGD).fit(-X)
    model = lfm_np.sklearn.ALS(**ALS).fit(X)
    with pytest.raises(ValueError, match="X must have 4 columns, as from transform, got 3"):
        model.inverse_transform(np.ones((2, 3)))
    with pytest.raises(ValueError, match="metrics must be"):
        lfm_np.sklearn.HeldOut("accuracy")(model, X)
    with pytest.raises(TypeError, match="estimator must be ALS or SGD, or a pipeline that ends in one, got"):
        lfm_np.sklearn.HeldOut()(lfm_np.als(X, factors=2), X)
    with pytest.raises(ValueError, match='biases need weighting="ratings"'):
        lfm_np.sklearn.SGD(BPR(), **SGD, biases="item").fit(X).transform(X)


def test_without_scikit_learn_the_extra_is_named():
    code = "import lfm_np, sys; sys.modules['sklearn'] = None; lfm_np.sklearn"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.stderr.endswith("scikit-learn is not installed; install it with: pip install 'lfm_np[sklearn]'\n")


def test_dense_arrays_of_any_real_dtype_and_masked_ones():
    dense = np.array([[1.0, 0.0, 2.0], [0.0, 3.0, 0.0], [1.0, 1.0, 0.0], [0.0, 2.0, 1.0]])
    model = lfm_np.sklearn.ALS(factors=2, iterations=2, random_state=0).fit(dense)
    for dtype in ("f2", ">f4", ">f8"):
        again = lfm_np.sklearn.ALS(factors=2, iterations=2, random_state=0).fit(dense.astype(dtype))
        assert np.array_equal(again.item_factors_, model.item_factors_)
        assert np.array_equal(again.transform(dense.astype(dtype)), model.transform(dense))
    masked = np.ma.array(dense, mask=dense > 2)
    for call in (model.fit, model.transform, model.fold_in_users, model.score, model.inverse_transform):
        with pytest.raises(ValueError, match="masked entries"):
            call(masked)
