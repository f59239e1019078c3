"""Help of the command line, and one line instead of a traceback for whatever a user does wrong."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cli_runs import COLUMNS, SMALL, python, run
from optional import require

import lfm_np

pytestmark = pytest.mark.usefixtures("typer")
COMMANDS = ["fit", "recommend", "similar", "evaluate", "update", "report", "info", "crosscheck", "demo"]


@pytest.mark.small
@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example(command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert run(command, "--help") == 0
    said = capsys.readouterr().out
    assert f"lfm-np {command}" in said.split("Usage", 1)[1].split("\n", 1)[1]


@pytest.mark.small
def test_usage(capsys):
    assert run("--version") == 0
    assert capsys.readouterr().out == f"lfm_np {lfm_np.__version__}\n"
    assert run("--help") == 0
    said = capsys.readouterr().out
    assert all(command in said for command in COMMANDS)
    assert run("nothing") == 2
    assert run("fit") == 2
    assert run() == 2


@pytest.mark.small
def test_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "typer", None)
    assert run("demo") == 2
    assert capsys.readouterr().err == "error: typer is not installed; install it with: pip install 'lfm_np[cli]'\n"


def mistakes(cli_folder):
    """Commands, and words of the one line that answers them."""
    model, events, test = cli_folder / "m.safetensors", cli_folder / "events.csv", cli_folder / "test.csv"
    bad = cli_folder / "bad"
    bad.mkdir(exist_ok=True)
    (bad / "corrupt.safetensors").write_bytes(model.read_bytes()[:-5] + b"wrong")
    (bad / "text.safetensors").write_text("hello")
    (bad / "lone.safetensors").write_bytes(model.read_bytes())
    (bad / "other.safetensors").write_bytes(model.read_bytes())
    (bad / "other.interactions.npz").write_bytes((cli_folder / "m.interactions.npz").read_bytes() + b" ")
    (bad / "text.npz").write_text("hello")
    (text := bad / "text.checkpoint").write_text("hello")
    (bad / "text.parquet").write_text("hello")
    (bad / "empty.csv").write_text("")
    (bad / "folder").mkdir(exist_ok=True)
    (bad / "nan.csv").write_text("who,what,stars\na,1,nan\nb,2,3\n")
    (bad / "negative.csv").write_text("who,what,stars\na,1,-1\nb,2,3\n")
    (bad / "latin.csv").write_bytes("who,what\nJürgen,1\n".encode("latin-1"))
    np.savez(bad / "objects.npz", user=np.array(["a", 1], dtype=object), item=np.array([1, 2]))
    fit = ("fit", events, *COLUMNS, "-o", bad / "m.safetensors")
    names = ("--user", "who", "--item", "what", "--value", "stars", "-o", bad / "m.safetensors")
    return [
        (("fit", cli_folder / "none.csv"), "none.csv: No such file or folder"),
        (("fit", cli_folder / "none.npz"), "none.npz: No such file"),
        (("fit", events), "user='user' is no column; there are 'who', 'what'"),
        (("fit", Path(__file__)), "data must be .parquet or a folder of such, .csv, .tsv, .npz, or movielens:NAME"),
        (("fit", "movielens:2m"), "100k"),
        (("fit", bad / "text.npz"), "not a whole and valid .npz file"),
        (("fit", bad / "objects.npz"), "not a whole and valid .npz file"),
        (("fit", bad / "text.parquet"), "text.parquet"),
        (("fit", bad / "empty.csv"), "empty.csv"),
        (("fit", bad / "folder"), "there is no file in"),
        ((*fit, "--threshold", "2"), "events.csv leaves no interactions to learn from"),
        ((*fit, "--text", "when"), "--text must be one of 'user', 'item', got 'when'"),
        (("fit", bad / "nan.csv", *names), "nulls"),
        (("fit", bad / "nan.csv", *names, "--nulls", "keep"), "non-finite value in row 0"),
        (("fit", bad / "negative.csv", *names), "negative"),
        (("fit", bad / "latin.csv", *names[:4], "-o", bad / "m.safetensors"), ""),
        ((*fit[:-1], cli_folder / "model.pkl"), ".safetensors"),
        ((*fit[:-1], cli_folder / "nowhere" / "m.safetensors"), "No such file or directory"),
        ((*fit, "--alpha", "nan"), "alpha"),
        ((*fit, "--factors", "0"), "factors"),
        (("fit", events, "--user", "", *COLUMNS[2:]), "user='' is no column"),
        (("info", events, "--item", "", *COLUMNS[:2]), "item='' is no column"),
        ((*fit, "--hold-out", "x.csv", "--fraction", "2"), "--fraction must be a finite number in (0, 1)"),
        ((*fit, "--threads", "5000"), "--threads"),
        ((*fit, "--method", "sgd", "--iterations", "0"), "--iterations"),
        (("demo", "--data", "synthetic", "--rows", "99999999999"), "--rows"),
        ((*fit, "--factors", "many"), "--factors"),
        ((*fit, "--weighting", "heavy"), "hu-koren"),
        ((*fit, "--method", "svd"), "--method must be als or sgd"),
        ((*fit, "--method", "sgd", "--alpha", "2"), "--alpha is no option of --method sgd"),
        ((*fit, "--method", "sgd", "--solver", "cg"), "--solver is no option of --method sgd"),
        ((*fit, "--checkpoint", text), "not a whole and valid checkpoint"),
        (("update", model, events, "-o", "m.pkl"), "must end in one of .safetensors"),
        (("update", model, cli_folder / "none.csv", "-o", bad / "m.safetensors"), "none.csv: No such file"),
        ((*fit, "--method", "sgd", "--loss", "L2"), "--loss must be one of BPR"),
        ((*fit, "--hold-out", cli_folder / "x.json"), ".csv, .parquet"),
        ((*fit, "--hold-out", cli_folder / "x.csv", "--by", "moon"), "'random', 'last', 'time'"),
        ((*fit, "--by", "last"), "--by says what --hold-out takes"),
        ((*fit, "--fraction", "0.3"), "--fraction says what --hold-out takes"),
        ((*fit, "--hold-out", "x.csv", "--by", "last", "--fraction", "0.3"), "--fraction is no option of --by last"),
        ((*fit, "--duplicates", "most"), "duplicates"),
        (("recommend", cli_folder / "none.safetensors"), "none.safetensors: No such file"),
        (("recommend", bad / "corrupt.safetensors"), "checksum"),
        (("recommend", bad / "text.safetensors"), "not a whole and valid model file"),
        (("recommend", bad / "lone.safetensors"), "give --data with what it was fitted to"),
        (("recommend", bad / "other.safetensors"), "does not belong to"),
        (("recommend", model, "--data", test), "the model is for"),
        (("recommend", model, "--user", "nobody"), "no id 'nobody'"),
        (("recommend", model, "-n", "0"), "-n"),
        (("recommend", model, "-n", "99999999999"), "-n"),
        (("recommend", model, "-o", "lists.xml"), ".csv, .json, .parquet"),
        (("similar", model), "either --item or --user"),
        (("similar", model, "--item", "tea"), "--item must be int64"),
        (("similar", model, "--item", "105", "--metric", "angle"), "cosine"),
        (("evaluate", model, cli_folder / "none.csv"), "none.csv: No such file"),
        (("evaluate", model, test, "--metric", "recall"), "recall@k"),
        (("evaluate", model, test, "--at-least", "recall@10"), "METRIC=NUMBER"),
        (("evaluate", model, test, "--at-least", "recall@10=nan"), "METRIC=NUMBER"),
        (("evaluate", model, test, "--item", "who"), "items have ids of dtype int64, got dtype <U4"),
        (("report", model, "-o", "page.pdf"), ".html"),
        (("report", model, "--labels", test), "columns item and label"),
        (("crosscheck", "--device", "abacus"), "abacus"),
        (("crosscheck", "--json", bad / "nowhere" / "x.json"), "No such file or directory"),
        (("demo", "--data", "imdb"), "imdb"),
        (("demo", "--data", "synthetic", "--output", events), "File exists"),
    ]


def check_answer(arguments, words, status, said):
    where = f"{arguments}: {said}"
    assert status == 2, where
    assert "Traceback" not in said, where
    assert words in " ".join(said.replace("│", " ").split()), where
    if "Usage:" not in said:  # typer's own mistakes have a box
        assert said.splitlines()[-1].startswith("error: "), where


def test_a_mistake_is_one_line_and_status_2(cli_folder, capsys, monkeypatch):
    table = mistakes(cli_folder)
    monkeypatch.chdir(cli_folder / "bad")
    capsys.readouterr()
    for arguments, words in table:
        check_answer(arguments, words, run(*arguments), capsys.readouterr().err)
    assert not (cli_folder / "bad" / "m.safetensors").exists()


def test_the_same_in_a_process_of_its_own(cli_folder):
    """A missing file, a wrong column, a NaN, a wrong ending, a damaged model."""
    chosen = [found for found in mistakes(cli_folder) if found[1] in OWN_PROCESS]
    assert len(chosen) == len(OWN_PROCESS)
    for arguments, words in chosen:
        found = python(*arguments, cwd=cli_folder / "bad")
        check_answer(arguments, words, found.returncode, found.stderr)
        assert found.stdout == ""


OWN_PROCESS = {
    "none.csv: No such file or folder",
    "user='user' is no column; there are 'who', 'what'",
    "nulls",
    ".safetensors",
    "checksum",
}


def test_no_permission(cli_folder, tmp_path, monkeypatch, capsys):
    """As any user but root sees it."""

    def refused(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("lfm_np.cli.tables.check_place", refused)
    assert run("recommend", cli_folder / "m.safetensors", "-o", tmp_path / "lists.csv") == 2
    assert capsys.readouterr().err == f"error: {tmp_path / 'lists.csv'}: Permission denied\n"


def test_traceback_on_request(cli_folder, capsys):
    assert run("--traceback", "info", cli_folder / "none.csv") == 2
    err = capsys.readouterr().err
    assert err.startswith("Traceback (most recent call last)")
    assert "\nerror: " in err


def test_arithmetic_is_status_3(cli_folder, tmp_path, capsys):
    arguments = (
        "--method",
        "sgd",
        "--loss",
        "Squared",
        "--value",
        "stars",
        "--learning-rate",
        "1000",
        "-o",
        tmp_path / "m.safetensors",
    )
    assert run("fit", cli_folder / "events.csv", *COLUMNS, *arguments) == 3
    assert "diverged" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_output_that_is_closed(cli_folder):
    command = f"{sys.executable} -m lfm_np info {cli_folder / 'm.safetensors'} >&-"
    found = subprocess.run(["sh", "-c", command], capture_output=True, text=True)
    assert (found.returncode, found.stderr) == (2, "error: standard output is closed\n")


def test_output_that_is_not_unicode(tmp_path):
    """Help has λ and ×, and ids are any text; where the locale is not UTF-8, a pipe gets UTF-8 all the same."""
    require("pyarrow")
    (tmp_path / "a.csv").write_text("user,item\nλ,1\nä,2\nä,1\n", encoding="utf-8")
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "TERM": "dumb"}
    options = {"cwd": tmp_path, "env": environment, "encoding": "utf-8"}
    assert "λ" in python("fit", "--help", **options).stdout
    assert python("fit", "a.csv", *SMALL, **options).returncode == 0
    assert python("recommend", "model.safetensors", "-n", "1", **options).stdout.splitlines()[1][:4] == "λ,2,"


def test_nobody_reads(cli_folder):
    command = [sys.executable, "-m", "lfm_np", "recommend", str(cli_folder / "m.safetensors"), "-n", "40"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "who,what,score,rank\n"
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 141


def test_ctrl_c_keeps_the_last_sweep(cli_folder, tmp_path):
    arguments = ("--factors", "64", "--iterations", "1000000", "--progress", "-o", str(tmp_path / "m.safetensors"))
    command = [sys.executable, "-m", "lfm_np", "fit", str(cli_folder / "events.csv"), *COLUMNS, *arguments]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
        said = b""
        while b"objective=" not in said:
            said += process.stderr.read(64)
        process.send_signal(signal.SIGINT)
        said += process.stderr.read()
    assert process.returncode == 130
    assert b"Traceback" not in said
    assert b"sweep/s, objective=" in said or b"s/sweep, objective=" in said
    assert lfm_np.Factors.load(tmp_path / "m.safetensors").status is lfm_np.Status.INTERRUPTED
    assert python("recommend", tmp_path / "m.safetensors", "-n", "1").returncode == 0


def test_a_fit_that_fails_leaves_what_was_held_out_before(cli_folder, tmp_path, capsys):
    test, model = tmp_path / "test.csv", tmp_path / "m.safetensors"
    events = ("fit", cli_folder / "events.csv", *COLUMNS, "--hold-out", test, "-o", model)
    assert run(*events, *SMALL, "--seed", 1) == 0
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    assert run(*events, "--seed", 2, "--factors", 0) == 2
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("command", ["fit", "update"])
def test_a_model_that_cannot_be_written_leaves_both_files(command, cli_folder, tmp_path, monkeypatch, capsys):
    model = tmp_path / "m.safetensors"
    fit = ("fit", cli_folder / "events.csv", *COLUMNS, *SMALL, "-o", model)
    assert run(*fit) == 0
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(lfm_np.Factors, "save", full)
    again = (*fit, "--seed", 5) if command == "fit" else ("update", model, cli_folder / "test.csv", "-o", model)
    assert run(*again) == 2
    monkeypatch.undo()
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert run("recommend", model, "--user", "u001") == 0
