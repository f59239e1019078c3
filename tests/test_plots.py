"""Pictures: what they show, not how they look."""

import sys

import numpy as np
import pytest
import scipy.sparse as sp
from optional import require

import lfm_np
from lfm_np import Factors, evaluation, plots
from lfm_np.plots import axes, lists
from lfm_np.report import write_report

pytestmark = pytest.mark.small


@pytest.fixture(autouse=True)
def matplotlib():
    return require("matplotlib")


def result(loss="objective", sweeps=4):
    history = [{"iteration": i + 1, loss: 10.0 - i, "seconds": 0.5} for i in range(sweeps)]
    return Factors(np.ones((2, 1)), np.ones((3, 1)), history=history)


def model(m=30, n=12, k=3, seed=0):
    rng = np.random.default_rng(seed)
    return Factors(rng.normal(size=(m, k)), rng.normal(size=(n, k)))


def matrix(m=30, n=12, seed=0, density=0.3):
    return sp.csr_array((np.random.default_rng(seed).random((m, n)) < density).astype(np.float32))


def heights(ax):
    return [line.get_ydata() for line in ax.get_lines()]


# ---- training -------------------------------------------------------------------------------------------------------


def test_training_curve_shows_the_history():
    ax = plots.training_curve([result(), result(sweeps=2)], labels=["long", "short"])
    long, short = ax.get_lines()
    np.testing.assert_array_equal(long.get_xydata(), [[1, 10], [2, 9], [3, 8], [4, 7]])
    assert len(short.get_xydata()) == 2
    assert ax.get_ylabel() == "objective"
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["long", "short"]
    again = plots.training_curve(result("sampled_loss"), by="seconds", ax=ax)
    assert again is ax
    assert ax.get_ylabel() == "sampled loss"
    np.testing.assert_array_equal(ax.get_lines()[2].get_xdata(), [0.5, 1.0, 1.5, 2.0])


@pytest.mark.parametrize(
    "draw",
    [
        plots.training_curve,
        plots.factor_spectrum,
        lambda results, labels: plots.coverage(results, sp.csr_array((2, 3)), labels=labels),
        lambda results, labels: plots.popularity_bias(results, sp.csr_array((2, 3)), labels=labels),
        lambda results, labels: plots.metric_at_n(
            results, sp.csr_array((2, 3)), sp.csr_array(np.eye(2, 3)), N=[1], labels=labels
        ),
    ],
)
def test_labels_of_curves_are_taken_literally(draw, tmp_path):
    """What begins with "_" had no entry, and dollar signs were a formula, or an error."""
    ax = draw([result()] * 3, labels=["_a", r"$\frac$ and $6", "b\0"])
    ax.figure.savefig(tmp_path / "picture.png")
    texts = [text.get_text() for text in ax.get_legend().get_texts()]
    assert texts[-3:] == ["_a", r"$\frac$ and $6", "b\ufffd"]
    assert texts[:-3] in ([], ["interactions"])


def test_a_measure_is_no_formula(tmp_path):
    history = [{"iteration": 1, "objective": 1.0, "seconds": 1.0, r"$\frac$": 2.0}]
    ax = plots.training_curve(Factors(np.ones((2, 1)), np.ones((3, 1)), history=history), measure=r"$\frac$")
    ax.figure.savefig(tmp_path / "picture.png")
    assert ax.get_ylabel() == r"$\frac$"


def test_training_curve_shows_what_a_callback_measured():
    history = [
        {"iteration": i, "objective": 1.0, "seconds": i} | ({"ndcg": i / 10} if i % 2 else {}) for i in (1, 2, 3)
    ]
    ax = plots.training_curve(Factors(np.ones((2, 1)), np.ones((3, 1)), history=history), by="seconds", measure="ndcg")
    np.testing.assert_array_equal(ax.get_lines()[0].get_xydata(), [[1, 0.1], [6, 0.3]])
    with pytest.raises(ValueError, match=r"no history of 'recall' to draw; there is .*objective"):
        plots.training_curve(result(), measure="recall")


# ---- factors --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("m", "n", "k"), [(9, 7, 4), (3, 8, 5), (4, 4, 0)])
def test_spectrum_is_that_of_all_scores(m, n, k):
    factors = model(m, n, k)
    ax = plots.factor_spectrum(factors)
    whole = np.linalg.svd(factors.user_factors @ factors.item_factors.T, compute_uv=False)
    expected = np.zeros(k)
    expected[: min(k, m, n)] = whole[:k]
    np.testing.assert_allclose(np.nan_to_num(heights(ax)[0]), expected, atol=1e-6)


def points(ax):
    return np.asarray(ax.collections[0].get_offsets())


def test_map_of_canonical_factors():
    factors = model(k=4)
    ax = plots.item_map(factors, view="factors", items=[3, 1])
    V = (
        factors.item_factors[:, :2]
        * np.sign(factors.item_factors[np.abs(factors.item_factors).argmax(0), range(4)])[:2]
    )
    np.testing.assert_allclose(points(ax), V[[3, 1]])


def test_projection_keeps_as_much_as_two_directions_can():
    factors = model(n=40, k=5)
    unit = factors.item_factors / np.linalg.norm(factors.item_factors, axis=1, keepdims=True)
    spread = np.linalg.svd(unit - unit.mean(0), compute_uv=False)[:2]
    np.testing.assert_allclose((points(plots.item_map(factors)) ** 2).sum(0), spread**2)


@pytest.mark.parametrize("view", ["projection", "factors"])
@pytest.mark.parametrize("items", [[3, 1], [1, 3], [0, 5, 7, 9, 2], None])
def test_a_map_is_mirrored_by_the_items_that_it_shows(view, items):
    factors = model(k=4, seed=5)
    V = factors.item_factors[slice(None) if items is None else items]
    if view == "projection":
        unit = V / np.linalg.norm(V, axis=1, keepdims=True)
        unit -= unit.mean(0)
        V = unit @ np.linalg.svd(unit)[2].T
    V = V[:, :2]
    signs = [np.sign(column[np.abs(column).argmax()]) for column in V.T]
    found = points(plots.item_map(factors, view=view, items=items))
    if items is not None and len(items) == 2 and view == "projection":  # of two, one is as far from the mean
        found, V, signs = np.abs(found), np.abs(V), [1, 1]
    np.testing.assert_allclose(found, V * signs, atol=1e-7)


def test_the_colour_of_a_point_is_the_count_of_its_item():
    counts = np.array([5, 0, 7, 2, 9, 1, 3, 0, 4, 8, 6, 2])
    ax = plots.item_map(model(), counts=counts, items=[4, 1, 0])
    assert ax.collections[0].get_array().tolist() == [5, 1, 9], "the first is drawn last; none counts as one"
    assert plots.item_map(model(), counts=counts).collections[0].get_array()[::-1].tolist() == sorted(
        np.maximum(counts, 1), reverse=True
    )


def test_map_labels_the_most_frequent_and_covers_none():
    counts = np.arange(200)
    ax = plots.item_map(model(n=200), labels=[f"item {i}" for i in range(200)], counts=counts)
    texts = [text.get_text() for text in ax.texts]
    assert texts[0] == "item 199"
    assert 10 < len(texts) <= 40
    boxes = [text.get_window_extent() for text in ax.texts]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_map_takes_the_most_frequent_of_many():
    counts = np.random.default_rng(0).permutation(900)
    factors = model(n=900)
    ax = plots.item_map(factors, counts=counts, view="factors")
    assert len(points(ax)) == 500
    most = factors.item_factors[np.argsort(-counts)[:500], 0]
    np.testing.assert_allclose(np.abs(points(ax)[::-1, 0]), np.abs(most))


# ---- lists ----------------------------------------------------------------------------------------------------------


def test_metric_at_n_is_that_of_evaluate():
    factors, train, test = model(), matrix(seed=1), matrix(seed=2)
    ax = plots.metric_at_n([factors, model(seed=3)], train, test, "ndcg", N=(5, 1), labels=["a", "b"])
    found = lfm_np.evaluate(factors, train, test, ("ndcg@1", "ndcg@5"))
    np.testing.assert_array_equal(ax.get_lines()[0].get_xydata(), [[1, found["ndcg@1"]], [5, found["ndcg@5"]]])
    band = ax.collections[0].get_paths()[0].vertices
    for length in (1, 5):
        mean, error = found[f"ndcg@{length}"], found[f"ndcg@{length}_se"]
        assert set(np.round(band[band[:, 0] == length, 1], 12)) == {round(mean - error, 12), round(mean + error, 12)}
    with pytest.raises(ValueError, match="metrics must be recall@k"):
        plots.metric_at_n(factors, train, test, "recal")


def naive_lists(factors, X, N):
    """Full scores of unseen items, sorted."""
    for u, seen in enumerate(X.toarray() > 0):
        scores = factors.user_factors[u] @ factors.item_factors.T
        yield [i for i in np.argsort(-scores, kind="stable") if not seen[i]][:N]


def test_coverage_counts_the_items_of_all_lists(monkeypatch):
    monkeypatch.setattr(lists, "USERS", 7)
    factors, X = model(n=40), matrix(n=40)
    ax = plots.coverage(factors, X, N=6)
    for N, share in ax.get_lines()[0].get_xydata():
        assert share == len({i for best in naive_lists(factors, X, int(N)) for i in best}) / 40
    some = plots.coverage(factors, X, N=6, users=[4])
    assert heights(some)[0].tolist() == [N / 40 for N in range(1, 7)]


def test_long_lists_come_in_smaller_blocks(monkeypatch):
    factors, X = model(n=40), matrix(n=40)
    expected = heights(plots.coverage(factors, X, N=40))[0]
    monkeypatch.setattr(lists, "ENTRIES", 90)
    asked, real = [], Factors.recommend
    monkeypatch.setattr(
        Factors, "recommend", lambda *args, **options: asked.append(len(args[1])) or real(*args, **options)
    )
    assert heights(plots.coverage(factors, X.tocsc(), N=40))[0].tolist() == expected.tolist()
    assert asked == [2] * 15


def test_labels_that_find_no_room_are_given_up(monkeypatch):
    monkeypatch.setattr("lfm_np.plots.factors.SHOWN", 5)
    tried, real = [], axes.printable
    monkeypatch.setattr("lfm_np.plots.factors.printable", lambda label: tried.append(label) or real(label))
    plots.item_map(model(n=60), labels=["wide " * 40] * 60)
    assert len(tried) == 4 * 5


def test_popularity_bias_is_the_share_of_the_popular():
    factors, X = model(), matrix(density=0.4)
    ax = plots.popularity_bias(factors, X, N=3)
    counts = X.toarray().sum(0)
    order = np.argsort(-counts, kind="stable")
    places = np.zeros(12)
    for best in naive_lists(factors, X, 3):
        places[best] += 1
    for drawn, amounts in zip(heights(ax), (counts, places)):
        np.testing.assert_allclose(drawn, np.concatenate([[0], np.cumsum(amounts[order])]) / amounts.sum())


def test_lists_of_some_users_and_of_ten_without_a_length():
    factors, X = model(n=40), matrix(n=40)
    for users in (None, [4], [4, 7, 7]):
        best = list(naive_lists(factors, X, 10))
        places = np.bincount(np.concatenate([best[u] for u in (range(30) if users is None else users)]), minlength=40)
        order = np.argsort(-X.toarray().sum(0), kind="stable")
        ax = plots.popularity_bias(factors, X, users=users)
        np.testing.assert_allclose(heights(ax)[1], np.append(0, np.cumsum(places[order])) / places.sum())
        np.testing.assert_array_equal(ax.get_lines()[1].get_xdata(), np.arange(41) / 40)
    assert len(heights(plots.coverage(model(n=140)))[0]) == 100


def test_a_list_longer_than_the_catalogue():
    popular = evaluation.most_popular(matrix())
    ax = plots.coverage(popular, matrix(), N=50)
    assert heights(ax)[0][-1] == 1.0
    assert len(heights(ax)[0]) == 50


# ---- all ------------------------------------------------------------------------------------------------------------

CALLS = {
    "training_curve": lambda ax: plots.training_curve(result(), ax=ax),
    "factor_spectrum": lambda ax: plots.factor_spectrum(model(), ax=ax),
    "item_map": lambda ax: plots.item_map(model(), ax=ax, labels=range(12), counts=np.arange(12)),
    "metric_at_n": lambda ax: plots.metric_at_n(model(), matrix(seed=1), matrix(seed=2), ax=ax),
    "coverage": lambda ax: plots.coverage(model(), ax=ax),
    "popularity_bias": lambda ax: plots.popularity_bias(model(), matrix(), ax=ax),
}


def test_every_picture_is_called_here():
    assert set(CALLS) == set(plots.__all__)


@pytest.mark.parametrize("name", plots.__all__)
def test_draws_into_given_axes_without_a_window(name, matplotlib, tmp_path):
    from matplotlib.figure import Figure

    before = "matplotlib.pyplot" in sys.modules
    left, right = Figure(figsize=(9, 4)).subfigures(1, 2)
    ax = right.add_subplot()
    assert CALLS[name](ax) is ax
    assert not left.axes
    CALLS[name](None).figure.savefig(tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 5000
    assert ("matplotlib.pyplot" in sys.modules) == before


@pytest.mark.parametrize("name", plots.__all__)
def test_says_what_to_install(name, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"lfm_np\[plot\]"):
        CALLS[name](None)


def test_bad_arguments():
    for call, words in [
        (lambda: plots.training_curve(result(), by="epoch"), "'iteration', 'seconds'"),
        (lambda: plots.training_curve(result(sweeps=0)), "no history"),
        (lambda: plots.training_curve([]), "at least one"),
        (lambda: plots.item_map(model(), items=[]), "items must be at least one"),
        (lambda: plots.coverage(Factors(np.ones((2, 2)), np.ones((0, 2)))), "an item at least"),
        (lambda: plots.popularity_bias(Factors(np.ones((2, 2)), np.ones((0, 2))), matrix(2, 0)), "an item at least"),
        (lambda: plots.factor_spectrum([model(), model()], labels="ab"), "labels must be a sequence of 2"),
        (lambda: plots.factor_spectrum([model()], labels=["a", "b"]), "labels must be a sequence of 1"),
        (lambda: plots.factor_spectrum([model()], labels=np.array("one")), "labels must be a sequence of 1"),
        (lambda: plots.item_map(model(), view="tsne"), "'projection', 'factors'"),
        (lambda: plots.item_map(model(k=1)), "at least two latent dimensions"),
        (lambda: plots.item_map(model(), counts=[1]), "counts must have one entry for each of the 12 items, got 1"),
        (lambda: plots.item_map(model(), labels=["a"]), "labels must have one entry for each of the 12 items, got 1"),
        (lambda: plots.coverage(model(), N=0), "N must be"),
        (lambda: plots.popularity_bias(model(), matrix(n=5)), "shape"),
    ]:
        with pytest.raises(ValueError, match=words):
            call()
    for call, words in [
        (lambda: plots.coverage([3]), "results must be a Factors"),
        (lambda: plots.popularity_bias(model(), None), "seen must be a two-dimensional"),
        (lambda: plots.item_map(model(), labels=5), "labels must be a sequence"),
        (lambda: plots.item_map(model(), labels="twelve items"), "labels must be a sequence"),
        (lambda: plots.item_map(model(), labels=np.array("one")), "labels must be a sequence"),
        (lambda: plots.item_map(model(), counts=["a"] * 12), "counts must be real numbers"),
    ]:
        with pytest.raises(TypeError, match=words):
            call()
    bare = [Factors(np.eye(2), np.eye(2), history=[record]) for record in ({"objective": 1.0}, {"iteration": 1})]
    for call, words in [
        (lambda: plots.item_map(model(), counts=[np.nan] * 12), "counts must be .* nan in item 0"),
        (lambda: plots.item_map(model(), counts=5), "counts must be one-dimensional"),
        (lambda: plots.item_map(model(), labels=dict.fromkeys(range(1, 13))), "every item; 0 has none"),
        (lambda: plots.training_curve(bare[0]), "'iteration' in every record"),
        (lambda: plots.training_curve(bare[1], measure="iteration", by="seconds"), "'seconds' in every record"),
    ]:
        with pytest.raises(ValueError, match=words):
            call()


def test_an_error_leaves_the_axes_as_they_were():
    """The second result is one that cannot be drawn."""
    figure = pytest.importorskip("matplotlib.figure")
    X = lfm_np.to_csr(lfm_np.datasets.make_interactions(60, 20, 4, random_state=0), shape=(60, 20))
    one = lfm_np.als(X, factors=3, iterations=2, random_state=0)
    other = lfm_np.als(X[:, :15], factors=3, iterations=2, random_state=0)
    silent = lfm_np.Factors(one.user_factors, one.item_factors)
    huge = lfm_np.Factors(np.full((60, 3), 1e200), np.full((20, 3), 1e200))
    ax = figure.Figure().add_subplot()
    before = list(ax.get_children())
    for draw in (
        lambda: plots.training_curve([one, silent], ax=ax),
        lambda: plots.metric_at_n([one, other], None, X, ax=ax),
        lambda: plots.coverage([one, other], X, ax=ax),
        lambda: plots.popularity_bias([one, other], X, ax=ax),
        lambda: plots.factor_spectrum([one, huge], ax=ax),
        lambda: plots.item_map(one, labels=dict.fromkeys("abcdefghijklmnopqrst"), ax=ax),
    ):
        with pytest.raises((ValueError, KeyError), match=r"must be the whole matrix|have no history|beyond float64|0"):
            draw()
        assert ax.get_children() == before


def test_labels_in_a_series_count_by_place(tmp_path):
    pd = require("pandas")
    rng = np.random.default_rng(0)
    factors = lfm_np.Factors(rng.standard_normal((4, 3)), rng.standard_normal((5, 3)))
    labels = [f"item {i}" for i in range(5)]
    series = pd.Series(labels, index=range(5)[::-1])
    both = (plots.item_map(factors, labels=given) for given in (labels, series))
    plain, indexed = ({(text.get_text(), tuple(text.xy)) for text in ax.texts} for ax in both)
    assert plain == indexed
    assert plain
    X = sp.csr_array(np.eye(4, 5))
    write_report(tmp_path / "report.html", factors, X, labels=series)
    with pytest.raises(TypeError, match="path must be"):
        write_report(None, factors, X)
    with pytest.raises(TypeError, match="train must be"):
        write_report(tmp_path / "report.html", factors, None)
    with pytest.raises(ValueError, match="counts must be one-dimensional"):
        plots.item_map(factors, counts=np.ones((5, 2)))
