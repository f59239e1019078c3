"""The README, the pages and the notebook say what is true: commands and code run, links lead somewhere."""

import importlib.util
import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from optional import require

import lfm_np
from lfm_np.datasets import grouplens

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = sorted([README, *(ROOT / "docs").glob("**/*.md")])

_spec = importlib.util.spec_from_file_location("run_page", ROOT / "docs" / "run_page.py")
run_page = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(run_page)


# ---- what pages must find besides running to their end ---------------------------------------------------------------


def check_readme(found, said, folder):
    assert "recall@10" in said
    assert (folder / "model.safetensors").exists()


def check_data(found, said, folder):
    assert found["X"][0, 1] == 2
    assert found["Z"][0, 1] == 4


def check_tutorial(found, said, folder):
    """What the page quotes of MovieLens; on synthetic data only their order."""
    said = [float(value) for value in re.findall(r"ndcg@10 ([\d.]+)", said)] + [found["final"]["ndcg@10"]]
    assert said == sorted(said), "most popular, defaults, chosen parameters"
    assert len(said) == 3
    if found["liked"].matrix.nnz == 55_375:
        prose = re.sub(r"^```.*?^```$", "", (ROOT / "docs" / "tutorial.md").read_text("utf-8"), flags=re.M | re.S)
        assert [float(value) for value in re.findall(r"\b0\.\d{3}\b", prose)] == pytest.approx(said, abs=5e-3)
        assert found["best"] == (0.1, 0.03)
    assert (folder / "films.html").stat().st_size > 100_000


def check_add_a_loss(found, said, folder):
    assert float(re.search(r"'recall@10': (?:np\.float64\()?([\d.]+)", said)[1]) > 0.3


def check_pictures(found, said, folder):
    counts = np.bincount(found["train"].matrix.indices, minlength=300)
    calls = re.findall(r"\| `(plots\..*)` \|", (ROOT / "docs" / "pictures.md").read_text(encoding="utf-8"))
    assert len(calls) == 7
    for call in calls:
        assert eval(call, found | {"counts": counts}).get_xlabel()
    assert (folder / "models.png").exists()
    assert (folder / "report.html").exists()


def no_download(name, checksum):
    raise OSError(f"tests have no network for {name}")


def check_tuning(found, said, folder):
    quality = {name: report["ndcg@10"] for name, report in found["report"].items()}
    assert quality["tuned"] > 1.2 * quality["defaults"] > quality["most popular"]
    assert {trial.state.name for trial in found["study"].trials} == {"COMPLETE", "PRUNED"}
    assert (folder / "tuning.png").exists()
    X, strength = found["train"].matrix, 0.01
    sides = [np.diff(X.indptr) + 0.1 * X.shape[1], np.diff(X.tocsc().indptr) + 0.1 * X.shape[0]]
    same = found["same_strength"](X, strength, 0.1, 0.3)
    totals = [sum(a * (n**b).sum() for n in sides) for a, b in ((strength, 1.0), (same, 0.3))]
    assert totals[0] == pytest.approx(totals[1])


def check_command_line(found, said, folder):
    """Every command has its example."""
    import lfm_np.cli.app

    text = (ROOT / "docs" / "command_line.md").read_text(encoding="utf-8")
    shown = set(re.findall(r"lfm-np (\w+)", "".join(re.findall(r"^(?:\$ |lfm-np).*", text, re.MULTILINE))))
    assert shown == {command.callback.__name__ for command in lfm_np.cli.app.app.registered_commands}


CHECKS = {
    "docs/command_line.md": check_command_line,
    "docs/tuning.md": check_tuning,
    "README.md": check_readme,
    "docs/data.md": check_data,
    "docs/tutorial.md": check_tutorial,
    "docs/add_a_loss.md": check_add_a_loss,
    "docs/pictures.md": check_pictures,
}


def script(tmp_path_factory):
    """A folder with the script ``lfm-np``, for where the package is not installed."""
    folder = tmp_path_factory.mktemp("bin")
    (folder / "lfm-np").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m lfm_np "$@"\n')
    (folder / "lfm-np").chmod(0o755)
    return folder


@pytest.mark.parametrize("page", [str(page.relative_to(ROOT)) for page in PAGES])
def test_the_blocks_of_the_page_run(page, tmp_path, tmp_path_factory, monkeypatch, capfd):
    for block in run_page.blocks(ROOT / page):
        for name in block.needs:
            require(name)
    monkeypatch.setattr(grouplens, "_download", no_download)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))))
    monkeypatch.setenv("PATH", os.pathsep.join((os.environ["PATH"], str(script(tmp_path_factory)))))
    found = run_page.run(ROOT / page, tmp_path)
    CHECKS.get(page, lambda *_: None)(found, capfd.readouterr().out, tmp_path)


def test_a_wrong_gradient_on_the_page_would_be_seen():
    source = run_page.blocks(ROOT / "docs" / "add_a_loss.md")[0].code
    wrong = source.replace("return -gap / ", "return -2.0 * gap / ")
    assert wrong != source
    with pytest.raises(ValueError, match=r"SoftHinge.gradient"):
        exec(compile(wrong, "page", "exec"), {"__name__": "page"})


@pytest.mark.small
def test_no_command_hides_from_the_runner():
    """Every block has a language that says whether it runs, and what is only shown says why."""
    shown = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        assert not re.search(r"^ {4}(\$ |python |pip |lfm-np )", text, re.MULTILINE), f"{page}: fence commands as sh"
        for block in run_page.blocks(page):
            where = f"{page.name}, line {block.line}"
            assert block.language in ("python", "sh", "console", "text") or block.language.startswith("{"), where
            assert not block.note.startswith("not run") or re.match(r"not run: \w.{10}", block.note), where
            assert block.language != "text" or not re.match(r"(\$ |python |pip |lfm-np )", block.code), where
            shown += [where] * block.note.startswith("not run")
    assert len(shown) <= 6, shown


@pytest.mark.small
def test_a_block_that_fails_is_an_error(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("text\n\n```python\nx = 1\n```\n\n```sh\nfalse\necho on\n```\n")
    with pytest.raises(RuntimeError, match=r"page.md, line 8: exit status 1"):
        run_page.run(page, tmp_path)
    page.write_text("<!-- not run: it would fail -->\n\n```sh\nfalse\n```\n\n```python\ny = 2\n```\n")
    assert run_page.run(page, tmp_path)["y"] == 2
    page.write_text("```console\n$ echo one two; false\none …\n$ echo $?\n1\n$ echo three\nfour\n```\n")
    with pytest.raises(RuntimeError, match=r"page.md, line 2: \$ echo three\nprints\nthree\n\nnot\nfour\n"):
        run_page.run(page, tmp_path)


@pytest.mark.small
def test_the_two_set_up_commands_are_one_line_each():
    commands = [block.code.strip() for block in run_page.blocks(README) if block.installs]
    assert len(commands) == 2
    for command, last in zip(commands, ("python -m lfm_np demo", "python -m pytest")):
        assert re.fullmatch(r"pip install \S.* && " + re.escape(last), command)
        assert "\n" not in command


@pytest.mark.small
def test_links_within_the_repository_lead_somewhere():
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("**/*.md")]:
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.small
def test_the_readme_quotes_the_benchmarks():
    """Its table of speed is that of docs/benchmarks.md, rounded."""
    tables = []
    for page in ("README.md", "docs/benchmarks.md"):
        rows = [line.split("|") for line in (ROOT / page).read_text(encoding="utf-8").splitlines() if "|" in line]
        head = next(i for i, row in enumerate(rows) if row[-2].strip() == "implicit CG")
        tables.append([cell.strip(" *") for row in rows[head + 2 : head + 8] for cell in row[-6:-1]])
    assert len(tables[0]) == len(tables[1]) == 30
    for quoted, measured in zip(*tables):
        digits = len(quoted.partition(".")[2])
        assert abs(float(quoted) - float(measured)) <= 0.5000001 * 10**-digits, (quoted, measured)


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


@pytest.mark.small
def test_tests_that_a_page_names_are_there():
    named = set(re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", (ROOT / "docs" / "reliability.md").read_text()))
    assert len(named) > 10
    for file, test in named:
        assert f"def {test}" in (ROOT / file).read_text(), (file, test)


def test_the_reference_names_everything_public():
    text = "".join(page.read_text() for page in (ROOT / "docs" / "reference").glob("*.rst"))
    missing = [name for name in lfm_np.__all__ if not re.search(rf":: (lfm_np\.)?{name}$", text, re.MULTILINE)]
    assert missing == ["__version__"]
