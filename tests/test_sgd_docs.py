"""The code of the page "Add a loss" runs, in its order."""

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[1] / "docs" / "add_a_loss.md"


def test_add_a_loss_runs(capsys):
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 3
    namespace = {"__name__": "add_a_loss"}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), namespace)
    recall = float(re.search(r"'recall@10': (?:np\.float64\()?([\d.]+)", capsys.readouterr().out)[1])
    assert recall > 0.3


def test_a_wrong_gradient_would_be_seen():
    source = re.search(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)[1]
    wrong = source.replace("return -gap / ", "return -2.0 * gap / ")
    assert wrong != source
    with pytest.raises(ValueError, match=r"SoftHinge.gradient"):
        exec(compile(wrong, str(PAGE), "exec"), {"__name__": "add_a_loss"})
