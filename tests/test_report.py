"""The report: its numbers are those of the library, and a browser shows it as it should."""

import dataclasses
import io
import re

import numpy as np
import pytest
from optional import require

import lfm_np
from lfm_np import evaluation, report

HOSTILE = '<script>alert("x")</script> & Söhne 🎸'


@pytest.fixture(scope="module")
def data():
    require("matplotlib")
    pairs = lfm_np.datasets.make_interactions(800, 60, 8, random_state=0)
    items = np.array([HOSTILE, *(f"item {i}" for i in range(1, 60))])
    whole = lfm_np.Interactions.from_arrays(pairs[:, 0], items[pairs[:, 1]])
    return whole.split(test_fraction=0.25, random_state=0)


@pytest.fixture(scope="module")
def factors(data):
    return lfm_np.als(data[0], factors=8, alpha=10.0, iterations=4, random_state=0)


@pytest.fixture(scope="module")
def page(data, factors, tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    report.write_report(path, factors, *data, title=HOSTILE)
    return path


def test_the_page_says_what_evaluate_says(page, data, factors):
    text = page.read_text(encoding="utf-8")
    rows = re.findall(r"<tr><td>(this model|most popular)</td>(.*?)</tr>", text)
    for (name, cells), model in zip(rows, (factors, evaluation.most_popular(data[0])), strict=True):
        found = lfm_np.evaluate(model, *data, report.METRICS)
        expected = [f"{found[metric]:.4f} ± {found[metric + '_se']:.4f}" for metric in report.METRICS]
        assert re.findall(r'class="number">(.*?)<', cells) == expected, name
    assert "<b>800</b><span>users" in text
    assert f"<b>{data[0].matrix.nnz:,}</b><span>interactions" in text


def test_a_model_with_another_history_has_no_training_curve(data, factors, tmp_path):
    other = dataclasses.replace(factors, history=[{"epoch": 1, "rmse": 0.5}])
    start = dataclasses.replace(factors, history=[{"iteration": 0}, *factors.history])
    for model in (factors, start, other):
        report.write_report(tmp_path / "report.html", model, data[0])
        assert ("after every sweep" in (tmp_path / "report.html").read_text(encoding="utf-8")) == (model is not other)


def test_the_examples_are_those_of_the_library(page, data, factors):
    text = page.read_text(encoding="utf-8").replace("&quot;", '"').replace("&lt;", "<").replace("&gt;", ">")
    text = text.replace("&amp;", "&")
    user = int(re.search(r"<h2>Recommendations.*?<td>(\d+)</td>", text)[1])
    row = data[0].rows_of([user])[0]
    best = data[0].item_ids(factors.recommend(row, N=5, seen=data[0]).ids)
    assert " · ".join(best) in text
    most = int(np.bincount(data[0].matrix.indices, minlength=60).argmax())
    ids, scores = factors.similar_items(most, N=6)
    first = next((i, s) for i, s in zip(ids, scores) if i != most)
    assert f"{data[0].items[first[0]]} ({first[1]:.2f}) · " in text


def test_the_page_needs_nothing_else(page):
    text = page.read_text(encoding="utf-8")
    assert "<script" not in text
    assert HOSTILE not in text
    assert not re.search(r"(https?:)?//\w", re.sub(r"data:image/png;base64,[\w+/=]+", "", text))
    assert len(re.findall('src="', text)) == len(re.findall('src="data:', text)) == 7


@pytest.mark.parametrize("width", [1280, 400])
def test_a_browser_shows_the_page(page, width):
    require("chromium")
    from browser import look
    from matplotlib.image import imread

    found = look(page, width)
    assert found.problems == []
    assert found.requests == []
    assert found.width == width, "nothing sticks out"
    assert found.height > 2000
    assert HOSTILE in found.text
    assert "Quality on held-out interactions" in found.text
    pixels = imread(io.BytesIO(found.png), format="png")
    assert pixels.shape[:2] == (found.height, width)
    assert len(found.images) == 7
    for image in found.images:
        assert image["decoded"] > 500_000, image
        x, y, w, h = (int(length) for length in image["box"])
        assert w > 0.7 * min(width, 570)
        drawn = pixels[y : y + h, x : x + w, :3]
        assert drawn.std() > 0.03, f"blank: {image['alt']}"
        assert drawn.mean() > 0.5, f"black: {image['alt']}"


def test_a_browser_sees_what_is_wrong(tmp_path):
    """The guard of the test above."""
    require("chromium")
    from browser import look

    path = tmp_path / "wrong.html"
    path.write_text(
        '<!doctype html><meta charset="utf-8"><body><div style="width:3000px">wide</div>'
        '<img src="data:image/png;base64,AAAA"><img src="nothing.png"><script>nope()</script>'
    )
    found = look(path)
    assert found.width > 3000 - 1
    assert [image["decoded"] for image in found.images] == [0, 0]
    assert len(found.problems) >= 2
    assert [address.rsplit("/", 1)[1] for address in found.requests] == ["nothing.png"]


def test_every_kind_of_model(tmp_path, data):
    """No held-out data, ids, history or factors: what cannot be said is left out."""
    train = data[0].matrix
    ratings = train.copy()
    ratings.data[:] = np.random.default_rng(0).integers(1, 6, ratings.nnz)
    models = {
        "popular": (evaluation.most_popular(train), train),
        "one factor": (lfm_np.als(train, factors=1, iterations=2, random_state=0), train),
        "ratings": (lfm_np.als(ratings, factors=4, weighting="ratings", biases=True, random_state=0), ratings),
        "sgd": (lfm_np.sgd(train, factors=4, epochs=2, random_state=0), train),
    }
    pictures = {}
    for name, (model, X) in models.items():
        path = tmp_path / f"{name}.html"
        report.write_report(path, model, X, labels=range(60))
        text = path.read_text(encoding="utf-8")
        assert "Quality" not in text
        assert "nan" not in re.sub(r"base64,[\w+/=]+", "", text)
        pictures[name] = text.count("<img")
    assert pictures == {"popular": 2, "one factor": 4, "ratings": 5, "sgd": 5}


def test_bad_arguments(tmp_path, data, factors):
    path = tmp_path / "report.html"
    with pytest.raises(ValueError, match="labels must have one entry for each of the 60 items, got 2"):
        report.write_report(path, factors, data[0], labels=["a", "b"])
    with pytest.raises(TypeError, match="factors must be a Factors"):
        report.write_report(path, 3, data[0])
    with pytest.raises(ValueError, match="train must be the whole matrix of shape"):
        report.write_report(path, factors, data[0].matrix[:5])
    assert not list(tmp_path.iterdir())
    with pytest.raises(OSError, match="nowhere"):
        report.write_report(tmp_path / "nowhere" / "report.html", factors, data[0])
