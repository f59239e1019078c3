"""The README and the notebook say what is true: commands and code run, links lead somewhere, outputs are there."""

import re
from pathlib import Path

import pytest
from optional import require

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(text, language):
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


@pytest.mark.small
def test_the_two_set_up_commands_are_one_line_each():
    commands = [block.strip() for block in blocks(README, "") if block.startswith("pip install")]
    assert len(commands) == 2
    for command, last in zip(commands, ("python -m lfm_np demo", "python -m pytest")):
        assert re.fullmatch(r"pip install \S.* && " + re.escape(last), command)
        assert "\n" not in command


def run_blocks(page, folder, monkeypatch):
    monkeypatch.chdir(folder)
    namespace = {}
    for block in blocks((ROOT / page).read_text(), "python"):
        exec(compile(block, page, "exec"), namespace)
    return namespace


def test_the_readmes_code_runs(tmp_path, monkeypatch, capsys):
    run_blocks("README.md", tmp_path, monkeypatch)
    assert "recall@10" in capsys.readouterr().out
    assert (tmp_path / "model.safetensors").exists()


@pytest.mark.small
def test_the_code_of_the_data_page_runs(tmp_path, monkeypatch):
    found = run_blocks("docs/data.md", tmp_path, monkeypatch)
    assert found["X"][0, 1] == 2
    assert found["Z"][0, 1] == 4


@pytest.mark.small
def test_links_within_the_repository_lead_somewhere():
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("**/*.md")]:
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.small
def test_the_notebook_is_executed_and_complete():
    nbformat = require("nbformat")
    notebook = nbformat.read(ROOT / "docs" / "latent_factor_models.ipynb", as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(pictures) >= 6
