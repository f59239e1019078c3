"""The command line: what one command reads and writes is what the next one reads, and no file serves twice."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
from cli_runs import rows, run
from optional import require

import lfm_np

pytestmark = pytest.mark.usefixtures("typer")

FIT = ("--factors", "2", "--iterations", "2")
PAIRS = lfm_np.datasets.make_interactions(12, 9, 6, random_state=0)
USERS, ITEMS = PAIRS.T


def _same_when_read_back(tmp_path, capsys, source, ending, *options):
    """`fit` and `evaluate` judge alike by what was held out."""
    model, test = tmp_path / "m.safetensors", tmp_path / f"test.{ending}"
    assert run("fit", source, *options, *FIT, "--hold-out", test, "-o", model) == 0
    fitted = rows(capsys)
    assert run("evaluate", model, test) == 0
    assert rows(capsys) == fitted
    return model, test


def test_bytes_are_their_text(tmp_path, capsys):
    source = tmp_path / "d.npz"
    np.savez(source, user=np.array([b"u%02d" % user for user in USERS]), item=ITEMS)
    require("pyarrow")
    model, _ = _same_when_read_back(tmp_path, capsys, source, "csv")
    assert run("recommend", model, "--user", "u0123") == 2  # it was u01
    assert run("recommend", model, "--user", "u01", "-n", "1") == 0
    assert rows(capsys)[0]["user"] == "u01"


@pytest.mark.parametrize("ending", ["csv", "parquet"])
@pytest.mark.parametrize(
    "kind", ["M8[Y]", "M8[M]", "M8[W]", "M8[D]", "M8[h]", "M8[m]", "M8[s]", "M8[ns]", ">i8", ">f8"]
)
def test_every_unit_and_order_of_bytes_can_be_held_out(tmp_path, capsys, kind, ending):
    require("pyarrow")
    source = tmp_path / "d.npz"
    times = np.arange(len(USERS)).astype(kind)
    np.savez(source, user=USERS.astype(kind), item=ITEMS, time=times)
    model, _ = _same_when_read_back(tmp_path, capsys, source, ending, "--timestamp", "time")
    assert run("recommend", model, "-o", tmp_path / f"all.{ending}") == 0


@pytest.mark.parametrize("ids", [np.uint64(2**63) + USERS.astype(np.uint64), USERS * 1e17])
def test_large_numbers_are_read_back(tmp_path, capsys, ids):
    require("pyarrow")
    np.savez(tmp_path / "d.npz", user=ids, item=ITEMS)
    model, test = _same_when_read_back(tmp_path, capsys, tmp_path / "d.npz", "csv")
    assert run("update", model, test, "-o", model) == 0
    assert "0 users added" in capsys.readouterr().err


def test_unknown_times_beside_text_that_looks_like_null(tmp_path, capsys):
    pa, pq = require("pyarrow"), require("pyarrow.parquet")
    names = np.array(["NA", "", "nan", *"abcdefghi"])
    seconds = pa.array([None if n % 3 == 0 else n for n in range(len(USERS))], pa.timestamp("s"))
    pq.write_table(pa.table({"user": names[USERS], "item": ITEMS, "t": seconds}), tmp_path / "d.parquet")
    _same_when_read_back(tmp_path, capsys, tmp_path / "d.parquet", "csv", "--timestamp", "t", "--nulls", "keep")


def test_another_threshold_is_of_the_values(tmp_path, capsys):
    require("pyarrow")
    lines = [f"{user},{item},{2 + (user + item) % 4}\n" for user, item in PAIRS.tolist()]
    (tmp_path / "r.csv").write_text("user,item,stars\n" + "".join(lines))
    options = "--value", "stars", "--threshold", "2", "--fraction", "0.5"
    model, test = _same_when_read_back(tmp_path, capsys, tmp_path / "r.csv", "csv", *options)
    assert run("evaluate", model, test, "--threshold", "4") == 0
    found = rows(capsys)
    assert run("evaluate", model, test, "--threshold", "4", "--value", "stars") == 0
    assert rows(capsys) == found


def test_times_of_any_unit_are_the_same_data(tmp_path, capsys):
    pa, pq = require("pyarrow"), require("pyarrow.parquet")
    days = USERS + np.datetime64("2024-01-01")
    pq.write_table(pa.table({"user": days.astype("M8[ns]"), "item": ITEMS}), tmp_path / "d.parquet")
    pq.write_table(pa.table({"user": days.astype("M8[s]"), "item": ITEMS}), tmp_path / "s.parquet")
    model = tmp_path / "m.safetensors"
    assert run("fit", tmp_path / "d.parquet", *FIT, "-o", model) == 0
    assert run("recommend", model, "--data", tmp_path / "s.parquet") == 0


@pytest.mark.parametrize("kind", ["csr", "csc", "coo", "bsr", "dia"])
def test_nulls_of_matrices_are_those_of_tables(tmp_path, capsys, kind):
    source, model = tmp_path / "d.npz", tmp_path / "m.safetensors"
    X = lfm_np.to_csr(PAIRS, values=1.0 + np.arange(len(PAIRS)))
    sp.save_npz(source, X.asformat(kind))
    assert run("info", source) == 0
    X.data[3] = np.nan
    sp.save_npz(source, X.asformat(kind))
    fit = "fit", source, "--threshold", "2", *FIT, "-o", model
    capsys.readouterr()
    assert run(*fit) == 2
    assert f"of {X.nnz} records some have nulls: 1 in 'value'" in capsys.readouterr().err
    assert run(*fit, "--nulls", "nothing") == 2
    assert run(*fit, "--nulls", "drop") == 0
    assert np.load(tmp_path / "m.interactions.npz")["data"].size == X.nnz - 2
    capsys.readouterr()
    assert run("info", source) == 0
    assert {row["what"]: row["value"] for row in rows(capsys)}["values unknown"] == "1"


def test_no_file_serves_twice(tmp_path, capsys):
    pa, pq = require("pyarrow"), require("pyarrow.parquet")
    own, folder, model = tmp_path / "m.interactions.npz", tmp_path / "events", tmp_path / "m.safetensors"
    folder.mkdir()
    pq.write_table(pa.table({"user": USERS, "item": ITEMS}), folder / "a.parquet")
    assert run("fit", folder, *FIT, "-o", model) == 0
    before = own.read_bytes()
    for command, words in (
        (("fit", own, *FIT, "-o", model), "the file beside --output must be another file than DATA"),
        (("update", model, own, "-o", model), "the file beside --output must be another file than DATA"),
        (("info", folder / "a.parquet", "-o", folder / "a.parquet"), "--output must be another file than PATH"),
        (("crosscheck", "--data", own, "--json", own), "--json must be another file than --data"),
        (("fit", folder, "--hold-out", folder / "b.parquet", "-o", model), "--hold-out must not be in the folder DATA"),
        (("recommend", model, "--data", folder, "-o", folder / "b.csv"), "--output must not be in the folder --data"),
    ):
        capsys.readouterr()
        assert run(*command) == 2
        assert words in capsys.readouterr().err
    assert own.read_bytes() == before
    assert [file.name for file in folder.iterdir()] == ["a.parquet"]


def test_a_file_of_two_names_serves_once(tmp_path, capsys):
    """As "Events.csv" and "events.csv" where capitals make no difference; here by a link."""
    for name, other in (("events.csv", "Events.csv"), ("caf\u00e9.csv", "cafe\u0301.csv")):
        text = "user,item\n" + "".join(f"{u},{i}\n" for u in range(9) for i in range(u % 3, 9))
        (tmp_path / name).write_text(text)
        os.link(tmp_path / name, tmp_path / other)
        command = "fit", tmp_path / name, *FIT, "--hold-out", tmp_path / other, "-o", tmp_path / "m.safetensors"
        assert run(*command) == 2
        assert "--hold-out must be another file than DATA" in capsys.readouterr().err
        assert (tmp_path / name).read_text() == text


def test_endings_in_capitals(tmp_path):
    require("pyarrow")
    (tmp_path / "D.TSV").write_text("user\titem\n" + "".join(f"{user}\t{item}\n" for user, item in PAIRS.tolist()))
    assert run("fit", tmp_path / "D.TSV", *FIT, "-o", tmp_path / "M.SAFETENSORS") == 0
    assert run("info", tmp_path / "M.SAFETENSORS") == 0
    (tmp_path / "d.tsv").write_text("user\titem\n1\t2\n1\t3\n")
    assert run("fit", tmp_path / "d.tsv", *FIT, "-o", tmp_path / "M.safetensors") == 0
    for name in ("M.SAFETENSORS", "M.safetensors"):  # of which one had lost its interactions
        assert run("recommend", tmp_path / name, "-o", tmp_path / "out.csv") == 0


@pytest.mark.parametrize(("user", "item"), [("score", "item"), ("user", "rank"), ("item", "item")])
def test_columns_of_one_name_are_told_apart(tmp_path, capsys, user, item):
    """Users were replaced by the scores."""
    np.savez(tmp_path / "d.npz", **{user: USERS, item: ITEMS})
    assert run("fit", tmp_path / "d.npz", "--user", user, "--item", item, *FIT, "-o", tmp_path / "m.safetensors") == 0
    capsys.readouterr()
    assert run("recommend", tmp_path / "m.safetensors", "--include-seen", "-n", "1") == 0
    found = rows(capsys)
    assert list(found[0]) == ["user", "item", "score", "rank"]
    assert {row["rank"] for row in found} == {"1"}


def test_an_array_may_have_the_name_of_a_part_of_a_matrix(tmp_path):
    np.savez(tmp_path / "d.npz", user=USERS, item=ITEMS, format=ITEMS)
    assert run("fit", tmp_path / "d.npz", *FIT, "-o", tmp_path / "m.safetensors") == 0


def test_only_the_ending_says_what_separates_fields(tmp_path):
    require("pyarrow")
    (tmp_path / "was.tsv.csv").write_text("user,item\n1,2\n")
    assert run("info", tmp_path / "was.tsv.csv") == 0


def test_a_name_of_a_column_may_have_ends_of_lines(tmp_path):
    pa, pq = require("pyarrow"), require("pyarrow.parquet")
    pq.write_table(pa.table({"us\rer": USERS, "item": ITEMS}), tmp_path / "d.parquet")
    hold_out = "--user", "us\rer", "--hold-out", tmp_path / "test.csv"
    assert run("fit", tmp_path / "d.parquet", *hold_out, *FIT, "-o", tmp_path / "m.safetensors") == 0
    assert run("evaluate", tmp_path / "m.safetensors", tmp_path / "test.csv") == 0


def test_params_of_another_program_are_no_note(tmp_path, capsys):
    np.savez(tmp_path / "d.npz", user=USERS, item=ITEMS)
    assert run("fit", tmp_path / "d.npz", *FIT, "-o", tmp_path / "m.safetensors") == 0
    factors = lfm_np.Factors.load(tmp_path / "m.safetensors")
    dataclasses.replace(factors, params={"command_line": "mine"}).save(tmp_path / "other.safetensors")
    assert run("recommend", tmp_path / "other.safetensors", "--data", tmp_path / "d.npz", "-n", "1") == 0
    dataclasses.replace(factors, params={"command_line": {"columns": {"planet": "item"}}}).save(
        tmp_path / "other.safetensors"
    )
    assert run("recommend", tmp_path / "other.safetensors", "--data", tmp_path / "d.npz") == 2
    assert "is not one of this version: {'planet': 'item'}" in capsys.readouterr().err


def test_a_number_with_an_underscore_is_no_id(tmp_path, capsys):
    np.savez(tmp_path / "d.npz", user=[10, 10, 11], item=[1, 2, 2])
    model = tmp_path / "m.safetensors"
    assert run("fit", tmp_path / "d.npz", "--factors", "1", "-o", model) == 0
    assert run("similar", model, "--user", "10") == 0
    assert run("similar", model, "--user", "1_0") == 2
    assert "--user must be int64 like those of the model, got ['1_0']" in capsys.readouterr().err


def test_a_bad_delimiter_is_seen_before_the_fit(tmp_path, capsys):
    np.savez(tmp_path / "d.npz", user=USERS, item=ITEMS)
    hold_out = "--delimiter", ";;", "--hold-out", tmp_path / "test.csv"
    assert run("fit", tmp_path / "d.npz", *hold_out, *FIT, "-o", tmp_path / "m.safetensors") == 2
    assert capsys.readouterr().err.startswith("error: delimiter must be one character")


def test_ids_on_a_terminal_are_no_markup(tmp_path, capsys, monkeypatch):
    names = np.array(["[bold]x", "[/b]", "a:heart:b", "\x1b[2Jc", *"abcdefgh"])
    np.savez(tmp_path / "d.npz", user=names[USERS], item=ITEMS)
    assert run("fit", tmp_path / "d.npz", *FIT, "-o", tmp_path / "m.safetensors") == 0
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    for name in names[:4]:
        assert run("similar", tmp_path / "m.safetensors", "--user", name, "-n", "1") == 0
        assert name.replace("\x1b", r"\x1b") in capsys.readouterr().out


def test_labels_of_times(tmp_path):
    pa, pq = require("pyarrow"), require("pyarrow.parquet")
    require("matplotlib")
    hours = (ITEMS + np.datetime64("2024-01-01T00", "h")).astype("M8[ns]")
    pq.write_table(pa.table({"user": USERS, "item": hours}), tmp_path / "d.parquet")
    (tmp_path / "labels.csv").write_text("item,label\n2024-01-01 01:00:00.000000000,one o'clock\n")
    model, page = tmp_path / "m.safetensors", tmp_path / "report.html"
    assert run("fit", tmp_path / "d.parquet", *FIT, "-o", model) == 0
    assert run("report", model, "--labels", tmp_path / "labels.csv", "-o", page) == 0
    assert "2024-01-01 02:00:00" in page.read_text()


def test_a_matrix_of_one_dimension_is_refused(tmp_path, capsys):
    vector = sp.coo_array(np.ones((1, 3)))
    sp.save_npz(tmp_path / "d.npz", vector)
    with np.load(tmp_path / "d.npz") as file:
        parts = dict(file)
    np.savez(tmp_path / "d.npz", **{**parts, "shape": np.array([3]), "coords": np.array([[0, 1, 2]])})
    assert run("info", tmp_path / "d.npz") == 2
    assert "d.npz" in capsys.readouterr().err


def test_text_is_not_compared_with_bytes(tmp_path):
    """Of which Python warns, or with -bb makes an error."""
    require("pyarrow")
    (tmp_path / "d.csv").write_text("user,item\nann,1\nbob,2\n")
    code = "import sys; from lfm_np.cli.sources import Columns, read; print(read(sys.argv[1], Columns()))"
    command = [sys.executable, "-bb", "-c", code, tmp_path / "d.csv"]
    found = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert found.stdout.startswith("Interactions(2 users"), found.stderr


def test_ids_that_end_in_nul_are_refused(tmp_path, capsys):
    """The text of NumPy loses it, and the model would speak of other ids."""
    pa, pq = require("pyarrow"), require("pyarrow.parquet")
    pq.write_table(pa.table({"user": ["a\0", "b"], "item": [1, 2]}), tmp_path / "d.parquet")
    assert run("fit", tmp_path / "d.parquet", *FIT, "-o", tmp_path / "m.safetensors") == 2
    assert "d.parquet has ids that end in NUL" in capsys.readouterr().err
