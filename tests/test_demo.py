"""The demo end to end on little data, and what it says when something is missing."""

import sys

import pytest
from optional import require

import lfm_np
from lfm_np import demo
from lfm_np.cli import main
from lfm_np.datasets import grouplens


def test_demo_on_synthetic_data(tmp_path, capsys):
    require("matplotlib")
    require("typer")
    assert main(["demo", "--data", "synthetic", "--rows", "3000", "--output", str(tmp_path / "new")]) == 0
    said = capsys.readouterr().out
    assert said.startswith("Synthetic interactions: 3,000 × 1,000")
    popular, model = (line.split() for line in said.splitlines() if line.startswith(("most popular", "als ")))
    assert float(model[1]) > float(popular[2])
    assert (tmp_path / "new" / "lfm_np_demo.png").read_bytes()[:4] == b"\x89PNG"
    factors = lfm_np.Factors.load(tmp_path / "new" / "lfm_np_demo.safetensors")
    assert factors.user_factors.shape[0] == 3000


def test_demo_takes_movielens_where_it_is(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("LFM_NP_DATA", str(require("data", "ml-1m.npz").parent))
    demo.demo(output=tmp_path)
    said = capsys.readouterr().out
    assert said.startswith("MovieLens-1M, every rating an interaction: 6,040 × 3,706")


def test_demo_says_why_not_movielens(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("LFM_NP_DATA", raising=False)
    monkeypatch.setitem(sys.modules, "pooch", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    demo.demo(rows=2000, output=tmp_path)
    said = capsys.readouterr().out
    assert "No MovieLens: pooch is not installed; install it with: pip install 'lfm_np[io]'" in said
    assert "picture: none (matplotlib is not installed" in said
    with pytest.raises(ImportError, match="pooch"):
        demo.demo("movielens")


@pytest.mark.small
def test_a_failed_download_is_a_reason_too(monkeypatch, capsys):
    def fails(*_):
        raise OSError("cannot download")

    monkeypatch.delenv("LFM_NP_DATA", raising=False)
    monkeypatch.setattr(grouplens, "_download", fails)
    problem = demo._problem("auto", 50, 0)
    assert problem.what == "Synthetic interactions"
    assert capsys.readouterr().out == "No MovieLens: cannot download. Taking synthetic interactions instead.\n"
    with pytest.raises(OSError, match="cannot download"):
        demo._problem("movielens", 50, 0)
