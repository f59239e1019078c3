"""Pictures: what they show, not how they look."""

import sys

import numpy as np
import pytest
from optional import require

from lfm_np import Factors, plots

pytestmark = pytest.mark.small


def result(loss="objective", sweeps=4):
    history = [{"iteration": i + 1, loss: 10.0 - i, "seconds": 0.5} for i in range(sweeps)]
    return Factors(np.ones((2, 1)), np.ones((3, 1)), history=history)


def test_training_curve_shows_the_history():
    require("matplotlib")
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


def test_no_window_and_no_pyplot(tmp_path):
    require("matplotlib")
    before = "matplotlib.pyplot" in sys.modules
    plots.training_curve(result()).figure.savefig(tmp_path / "curve.png")
    assert (tmp_path / "curve.png").exists()
    assert ("matplotlib.pyplot" in sys.modules) == before


def test_bad_arguments(monkeypatch):
    with pytest.raises(ValueError, match="'iteration', 'seconds'"):
        plots.training_curve(result(), by="epoch")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"lfm_np\[plot\]"):
        plots.training_curve(result())


def test_nothing_to_draw():
    require("matplotlib")
    with pytest.raises(ValueError, match="no history"):
        plots.training_curve(result(sweeps=0))
