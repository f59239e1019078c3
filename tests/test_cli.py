"""The command line: every command end to end, and one line instead of a traceback for whatever a user does wrong."""

import csv
import io
import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
from optional import require

import lfm_np
from lfm_np import cli, evaluation, recommendations

COMMANDS = ["fit", "recommend", "similar", "evaluate", "update", "report", "info", "crosscheck", "demo"]


@pytest.fixture(autouse=True)
def typer():
    return require("typer")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Events of named users and numbered items, as a CSV file, and a model fitted to most of them."""
    require("pyarrow")
    folder = tmp_path_factory.mktemp("cli")
    pairs = lfm_np.datasets.make_interactions(300, 40, 8, random_state=0)
    with open(folder / "events.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["who", "what", "stars", "when"])
        for order, (u, i) in enumerate(pairs.tolist()):
            table.writerow([f"u{u:03}", 100 + i, 1 + (u * i) % 5, order])
    assert (
        run(
            "fit",
            folder / "events.csv",
            *COLUMNS,
            *SMALL,
            "--hold-out",
            folder / "test.csv",
            "-o",
            folder / "m.safetensors",
        )
        == 0
    )
    return folder


COLUMNS = ("--user", "who", "--item", "what", "--timestamp", "when")
SMALL = ("--factors", "8", "--iterations", "4", "--alpha", "10")


def run(*arguments):
    return cli.main([str(argument) for argument in arguments])


def python(*arguments, **options):
    command = [sys.executable, "-m", "lfm_np", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, **options)


def rows(capsys):
    return list(csv.DictReader(io.StringIO(capsys.readouterr().out)))


def data_of(folder):
    return lfm_np.Interactions.from_csv(folder / "events.csv", user="who", item="what", timestamp="when")


# ---- the commands ---------------------------------------------------------------------------------------------------


def test_fit_is_als_on_the_training_part(folder):
    train, test = data_of(folder).split(test_fraction=0.2, random_state=0)
    expected = lfm_np.als(train, factors=8, iterations=4, alpha=10.0, random_state=0)
    found = lfm_np.Factors.load(folder / "m.safetensors")
    np.testing.assert_array_equal(found.user_factors, expected.user_factors)
    held_out = lfm_np.Interactions.from_csv(folder / "test.csv", user="who", item="what", timestamp="when")
    assert held_out.matrix.nnz == test.matrix.nnz
    assert set(held_out.timestamps) == set(test.timestamps)
    matrix = sp.load_npz(folder / "m.interactions.npz")
    np.testing.assert_array_equal(matrix.toarray(), train.matrix.toarray())


@pytest.mark.parametrize("ending", ["csv", "json", "parquet"])
def test_recommend_writes_what_recommend_says(folder, tmp_path, ending):
    path = tmp_path / f"lists.{ending}"
    assert run("recommend", folder / "m.safetensors", "-n", "3", "-o", path) == 0
    if ending == "csv":
        table = [
            {**row, "what": int(row["what"]), "rank": int(row["rank"])}
            for row in csv.DictReader(io.StringIO(path.read_text()))
        ]
    elif ending == "json":
        table = json.loads(path.read_text())
    else:
        table = require("pyarrow.parquet").read_table(path).to_pylist()
    train, _ = data_of(folder).split(test_fraction=0.2, random_state=0)
    ids, scores = lfm_np.Factors.load(folder / "m.safetensors").recommend(np.arange(300), N=3, seen=train)
    assert [row["who"] for row in table] == np.repeat(train.users, 3).tolist()
    assert [row["what"] for row in table] == train.items[ids].ravel().tolist()
    assert [row["rank"] for row in table] == [1, 2, 3] * 300
    np.testing.assert_allclose([float(row["score"]) for row in table], scores.ravel(), rtol=1e-6)


def test_recommend_to_some(folder, capsys, monkeypatch):
    capsys.readouterr()
    assert run("recommend", folder / "m.safetensors", "--user", "u007", "--user", "u003", "-n", "40") == 0
    table = rows(capsys)
    assert list(dict.fromkeys(row["who"] for row in table)) == ["u007", "u003"]
    assert len(table) < 80, "what they have is left out, and so is the padding"
    assert run("recommend", folder / "m.safetensors", "--user", "u007", "-n", "40", "--include-seen") == 0
    assert len(rows(capsys)) == 40


def test_blocks_of_users_make_one_table(folder, capsys, monkeypatch):
    capsys.readouterr()
    run("recommend", folder / "m.safetensors", "-n", "2")
    whole = capsys.readouterr().out
    monkeypatch.setattr(recommendations, "ROWS", 7)
    run("recommend", folder / "m.safetensors", "-n", "2")
    assert capsys.readouterr().out == whole


def test_similar(folder, capsys):
    factors, train = lfm_np.Factors.load(folder / "m.safetensors"), data_of(folder)
    capsys.readouterr()
    assert run("similar", folder / "m.safetensors", "--item", "105", "-n", "4") == 0
    table = rows(capsys)
    ids, scores = factors.similar_items(train.columns_of([105]), N=4)
    assert [int(row["similar"]) for row in table] == train.items[ids[0]].tolist()
    np.testing.assert_allclose([float(row["score"]) for row in table], scores[0], rtol=1e-6)
    assert run("similar", folder / "m.safetensors", "--user", "u001", "-n", "2", "--metric", "inner") == 0
    assert [row["similar"] for row in rows(capsys)] == train.users[
        factors.similar_users(1, N=2, metric="inner").ids
    ].tolist()


def test_evaluate(folder, capsys):
    train, test = data_of(folder).split(test_fraction=0.2, random_state=0)
    capsys.readouterr()
    status = run("evaluate", folder / "m.safetensors", folder / "test.csv", "--metric", "recall@5", "--metric", "auc")
    assert status == 0
    table = rows(capsys)
    for name, model in (
        ("model", lfm_np.Factors.load(folder / "m.safetensors")),
        ("popular", evaluation.most_popular(train)),
    ):
        found = lfm_np.evaluate(model, train, test, ("recall@5", "auc"))
        assert [float(row[name]) for row in table] == [found["recall@5"], found["auc"]]
        assert [float(row[f"{name}_se"]) for row in table] == [found["recall@5_se"], found["auc_se"]]


def test_evaluate_as_a_check(folder, capsys):
    for bound, status in (("0.01", 0), ("0.99", 1)):
        assert (
            run("evaluate", folder / "m.safetensors", folder / "test.csv", "--at-least", f"recall@10={bound}") == status
        )
    assert "failed: recall@10 is 0." in capsys.readouterr().err


def test_evaluate_leaves_out_whom_the_model_does_not_know(folder, tmp_path, capsys):
    text = (folder / "test.csv").read_text()
    (tmp_path / "more.csv").write_text(text + "stranger,101,1\nu001,999,1\n")
    capsys.readouterr()
    outputs = []
    for path in (folder / "test.csv", tmp_path / "more.csv"):
        assert run("evaluate", folder / "m.safetensors", path) == 0
        outputs.append(capsys.readouterr())
    assert outputs[0].out == outputs[1].out
    assert "more.csv: 2 of" in outputs[1].err


@pytest.mark.parametrize("timestamp", [True, False])
def test_update_takes_further_events_in(folder, tmp_path, capsys, timestamp):
    """As a model of all events whose items, and whose other users, stay as they were."""
    columns = COLUMNS if timestamp else COLUMNS[:4]
    old, new = tmp_path / "m.safetensors", tmp_path / "new.safetensors"
    assert run("fit", folder / "events.csv", *columns, *SMALL, "-o", old) == 0
    (tmp_path / "more.csv").write_text(
        "who,what,when\nu003,101,900\nnewt,120,901\nu003,120,902\nada,101,903\nx,7,904\n"
    )
    events = (folder / "events.csv").read_text().splitlines()[1:]
    both = ["who,what,when", *(",".join(np.array(line.split(","))[[0, 1, 3]]) for line in events)]
    (tmp_path / "both.csv").write_text("\n".join(both) + "\nu003,101,900\nnewt,120,901\nu003,120,902\nada,101,903\n")
    capsys.readouterr()
    assert run("update", old, tmp_path / "more.csv", "-o", new) == 0
    assert "1 of 5 interactions are of unknown items" in (said := capsys.readouterr().err)
    assert "2 users added, 1 solved again" in said

    whole = lfm_np.Interactions.from_csv(tmp_path / "both.csv", user="who", item="what", timestamp="when")
    before, after = lfm_np.Factors.load(old), lfm_np.Factors.load(new)
    with np.load(tmp_path / "new.interactions.npz") as file:
        users, times = file["users"], file["timestamps"] if timestamp else None
    assert users[-2:].tolist() == ["ada", "newt"]
    place = whole.rows_of(users)
    np.testing.assert_array_equal(
        sp.load_npz(tmp_path / "new.interactions.npz").toarray(), whole.matrix[place].toarray()
    )
    assert times is None or set(times) == set(whole.timestamps)
    np.testing.assert_array_equal(after.item_factors, before.item_factors)
    changed = [*np.flatnonzero(users == "u003"), 300, 301]
    kept = np.delete(np.arange(300), changed[0])
    np.testing.assert_array_equal(after.user_factors[kept], before.user_factors[kept])
    folded = before.fold_in_users(whole.matrix[place[changed]]).user_factors
    np.testing.assert_array_equal(after.user_factors[changed], folded)
    assert run("recommend", new, "--user", "newt", "-n", "3") == 0
    assert "120" not in {row["what"] for row in rows(capsys)}


def test_fit_goes_on_from_a_checkpoint(folder, tmp_path):
    kept = ("--checkpoint", tmp_path / "fit.checkpoint", "--solver", "cg")
    fit = ("fit", folder / "events.csv", *COLUMNS, *SMALL)
    assert run(*fit, *kept, "--iterations", "2", "-o", tmp_path / "m.safetensors") == 0
    assert run(*fit, *kept, "--iterations", "5", "-o", tmp_path / "m.safetensors") == 0
    found = lfm_np.Factors.load(tmp_path / "m.safetensors")
    expected = lfm_np.als(data_of(folder), factors=8, iterations=5, alpha=10.0, random_state=0, solver="cg")
    np.testing.assert_array_equal(found.user_factors, expected.user_factors)
    assert found.params["solver"] == "cg"
    assert run(*fit, *kept, "--iterations", "5", "--factors", "4", "-o", tmp_path / "m.safetensors") == 2


def test_report(folder, tmp_path):
    require("matplotlib")
    (tmp_path / "labels.csv").write_text("item,label\n" + "".join(f"{item},Film {item}\n" for item in range(100, 139)))
    arguments = (
        "--test",
        folder / "test.csv",
        "--labels",
        tmp_path / "labels.csv",
        "--title",
        "Films",
        "-o",
        tmp_path / "r.html",
    )
    assert run("report", folder / "m.safetensors", *arguments) == 0
    page = (tmp_path / "r.html").read_text()
    assert all(text in page for text in ("<h1>Films</h1>", "Film 1", "most popular"))


def test_info(folder, capsys):
    capsys.readouterr()
    said = []
    for arguments in ([folder / "m.safetensors"], [folder / "events.csv", *COLUMNS, "--value", "stars"], []):
        assert run("info", *arguments) == 0
        said.append({row["what"]: row["value"] for row in rows(capsys)})
    model, data, installation = said
    history = lfm_np.Factors.load(folder / "m.safetensors").history
    assert (model["users"], model["sweeps"], model["alpha"]) == ("300", "4", "10")
    assert float(model["objective"]) == pytest.approx(history[-1]["objective"], rel=1e-5)
    X = data_of(folder).matrix
    assert data["interactions"] == str(X.nnz)
    assert data["interactions of a user: least, median, most"].endswith(f" · {np.diff(X.indptr).max()}")
    assert data["times: first, last"] == f"0 · {X.nnz - 1}"
    assert installation["lfm_np"] == lfm_np.__version__


def test_crosscheck_fails_with_status_1(tmp_path, capsys, monkeypatch):
    require("torch")
    from lfm_np import torch_backend

    row = torch_backend.Row("als", "scores", 2.0, 1.0, "a test")
    for rows_, status in (((row,), 1), ((torch_backend.Row("als", "scores", 0.5, 1.0, "a test"),), 0)):
        report = torch_backend.CrossCheck("cpu", rows_, {}, 0.0)
        monkeypatch.setattr(torch_backend, "crosscheck", lambda *_, report=report, **__: report)
        assert run("crosscheck", "--device", "cpu", "--json", tmp_path / "c.json") == status
        assert json.loads((tmp_path / "c.json").read_text())["passed"] is (status == 0)
    assert "FAILED" in capsys.readouterr().out


def test_sgd_and_its_options(folder, tmp_path):
    arguments = ("--method", "sgd", "--loss", "WARP", "--iterations", "2", "--learning-rate", "0.01", "--factors", "4")
    assert run("fit", folder / "events.csv", *COLUMNS, *arguments, "-o", tmp_path / "s.safetensors") == 0
    expected = lfm_np.sgd(
        data_of(folder), lfm_np.losses.WARP(), epochs=2, learning_rate=0.01, factors=4, random_state=0
    )
    found = lfm_np.Factors.load(tmp_path / "s.safetensors")
    np.testing.assert_array_equal(found.item_factors, expected.item_factors)


def test_ratings(folder, tmp_path):
    arguments = (
        "--value",
        "stars",
        "--weighting",
        "ratings",
        "--biases",
        "--factors",
        "2",
        "--min-item-interactions",
        "5",
    )
    assert run("fit", folder / "events.csv", *COLUMNS, *arguments, "-o", tmp_path / "s.safetensors") == 0
    data = lfm_np.Interactions.from_csv(
        folder / "events.csv", user="who", item="what", timestamp="when", value="stars", min_item_interactions=5
    )
    expected = lfm_np.als(data, weighting="ratings", biases=True, factors=2, random_state=0)
    np.testing.assert_array_equal(lfm_np.Factors.load(tmp_path / "s.safetensors").item_bias, expected.item_bias)


@pytest.mark.parametrize("kind", ["matrix", "arrays", "parquet", "folder"])
def test_every_kind_of_source_is_the_same(folder, tmp_path, kind):
    data = data_of(folder)
    source, columns = tmp_path / "source.npz", COLUMNS
    if kind == "matrix":
        sp.save_npz(source, data.matrix)
        columns = ()
    elif kind == "arrays":
        coo = data.matrix.tocoo()
        np.savez(source, who=data.users[coo.row].astype(str), what=data.items[coo.col], when=data.timestamps)
    else:
        table = require("pyarrow.csv").read_csv(folder / "events.csv")
        source = tmp_path / ("events.parquet" if kind == "parquet" else "tables")
        if kind == "folder":
            source.mkdir()
        require("pyarrow.parquet").write_table(table, source if kind == "parquet" else source / "part.parquet")
    assert run("fit", source, *columns, *SMALL, "-o", tmp_path / "m.safetensors") == 0
    expected = lfm_np.als(data, factors=8, iterations=4, alpha=10.0, random_state=0)
    np.testing.assert_array_equal(lfm_np.Factors.load(tmp_path / "m.safetensors").item_factors, expected.item_factors)


def test_a_model_from_elsewhere_takes_its_data_along(folder, tmp_path, capsys):
    train, _ = data_of(folder).split(test_fraction=0.2, random_state=0)
    lfm_np.als(train, factors=2, iterations=1).save(tmp_path / "m.safetensors")
    assert run("recommend", tmp_path / "m.safetensors") == 2
    assert "give --data" in capsys.readouterr().err
    assert run("recommend", tmp_path / "m.safetensors", "--data", folder / "m.interactions.npz", "-n", "1") == 0
    assert rows(capsys)[0]["user"] == "u000"


def test_a_table_on_a_terminal(folder, capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert run("similar", folder / "m.safetensors", "--item", "105", "-n", "2") == 0
    said = re.sub(r"\x1b\[[\d;]*m", "", capsys.readouterr().out).splitlines()
    assert said[0].split() == ["item", "similar", "score", "rank"]
    assert said[1].split() == ["105", "105", "1.0000", "1"]


# ---- help, and mistakes ---------------------------------------------------------------------------------------------


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


def mistakes(folder):
    """Commands, and words of the one line that answers them."""
    model, events, test = folder / "m.safetensors", folder / "events.csv", folder / "test.csv"
    bad = folder / "bad"
    bad.mkdir(exist_ok=True)
    (bad / "corrupt.safetensors").write_bytes(model.read_bytes()[:-5] + b"wrong")
    (bad / "text.safetensors").write_text("hello")
    (bad / "lone.safetensors").write_bytes(model.read_bytes())
    (bad / "other.safetensors").write_bytes(model.read_bytes())
    (bad / "other.interactions.npz").write_bytes((folder / "m.interactions.npz").read_bytes() + b" ")
    (bad / "text.npz").write_text("hello")
    (text := bad / "text.checkpoint").write_text("hello")
    (bad / "text.parquet").write_text("hello")
    (bad / "empty.csv").write_text("")
    (bad / "nan.csv").write_text("who,what,stars\na,1,nan\nb,2,3\n")
    (bad / "negative.csv").write_text("who,what,stars\na,1,-1\nb,2,3\n")
    (bad / "latin.csv").write_bytes("who,what\nJürgen,1\n".encode("latin-1"))
    np.savez(bad / "objects.npz", user=np.array(["a", 1], dtype=object), item=np.array([1, 2]))
    fit = ("fit", events, *COLUMNS, "-o", bad / "m.safetensors")
    names = ("--user", "who", "--item", "what", "--value", "stars", "-o", bad / "m.safetensors")
    return [
        (("fit", folder / "none.csv"), "none.csv: No such file or folder"),
        (("fit", folder / "none.npz"), "none.npz: No such file"),
        (("fit", events), "user='user' is no column; there are 'who', 'what'"),
        (("fit", Path(__file__)), "data must be .parquet or a folder of such, .csv, .npz, or movielens:NAME"),
        (("fit", "movielens:2m"), "100k"),
        (("fit", bad / "text.npz"), "not a whole and valid .npz file"),
        (("fit", bad / "objects.npz"), "not a whole and valid .npz file"),
        (("fit", bad / "text.parquet"), "text.parquet"),
        (("fit", bad / "empty.csv"), "empty.csv"),
        (("fit", bad / "nan.csv", *names), "nulls"),
        (("fit", bad / "nan.csv", *names, "--nulls", "keep"), "non-finite value in row 0"),
        (("fit", bad / "negative.csv", *names), "negative"),
        (("fit", bad / "latin.csv", *names[:4], "-o", bad / "m.safetensors"), ""),
        ((*fit[:-1], folder / "model.pkl"), ".safetensors"),
        ((*fit[:-1], folder / "nowhere" / "m.safetensors"), "No such file or directory"),
        ((*fit, "--alpha", "nan"), "alpha"),
        ((*fit, "--factors", "0"), "factors"),
        ((*fit, "--factors", "many"), "--factors"),
        ((*fit, "--weighting", "heavy"), "hu-koren"),
        ((*fit, "--method", "svd"), "--method must be als or sgd"),
        ((*fit, "--method", "sgd", "--alpha", "2"), "--alpha is no option of --method sgd"),
        ((*fit, "--method", "sgd", "--solver", "cg"), "--solver is no option of --method sgd"),
        ((*fit, "--checkpoint", text), "not a whole and valid checkpoint"),
        (("update", model, events, "-o", "m.pkl"), "must end in one of .safetensors"),
        (("update", model, folder / "none.csv", "-o", bad / "m.safetensors"), "none.csv: No such file"),
        ((*fit, "--method", "sgd", "--loss", "L2"), "--loss must be one of BPR"),
        ((*fit, "--hold-out", folder / "x.json"), ".csv, .parquet"),
        ((*fit, "--hold-out", folder / "x.csv", "--by", "moon"), "'random', 'last', 'time'"),
        ((*fit, "--duplicates", "most"), "duplicates"),
        (("recommend", folder / "none.safetensors"), "none.safetensors: No such file"),
        (("recommend", bad / "corrupt.safetensors"), "checksum"),
        (("recommend", bad / "text.safetensors"), "not a whole and valid model file"),
        (("recommend", bad / "lone.safetensors"), "give --data with what it was fitted to"),
        (("recommend", bad / "other.safetensors"), "does not belong to"),
        (("recommend", model, "--data", test), "the model is for"),
        (("recommend", model, "--user", "nobody"), "no id 'nobody'"),
        (("recommend", model, "-n", "0"), "-n"),
        (("recommend", model, "-o", "lists.xml"), ".csv, .json, .parquet"),
        (("similar", model), "either --item or --user"),
        (("similar", model, "--item", "tea"), "--item must be int64"),
        (("similar", model, "--item", "105", "--metric", "angle"), "cosine"),
        (("evaluate", model, folder / "none.csv"), "none.csv: No such file"),
        (("evaluate", model, test, "--metric", "recall"), "recall@k"),
        (("evaluate", model, test, "--at-least", "recall@10"), "METRIC=NUMBER"),
        (("evaluate", model, test, "--user", "what"), "users have ids of dtype <U4, got dtype int64"),
        (("report", model, "-o", "page.pdf"), ".html"),
        (("report", model, "--labels", test), "columns item and label"),
        (("crosscheck", "--device", "abacus"), "abacus"),
        (("demo", "--data", "imdb"), "imdb"),
    ]


def check_answer(arguments, words, status, said):
    where = f"{arguments}: {said}"
    assert status == 2, where
    assert "Traceback" not in said, where
    assert words in " ".join(said.replace("│", " ").split()), where
    if "Usage:" not in said:  # typer's own mistakes have a box
        assert said.splitlines()[-1].startswith("error: "), where


def test_a_mistake_is_one_line_and_status_2(folder, capsys, monkeypatch):
    table = mistakes(folder)
    monkeypatch.chdir(folder / "bad")
    capsys.readouterr()
    for arguments, words in table:
        check_answer(arguments, words, run(*arguments), capsys.readouterr().err)
    assert not (folder / "bad" / "m.safetensors").exists()


def test_the_same_in_a_process_of_its_own(folder):
    """A missing file, a wrong column, a NaN, a wrong ending, a damaged model."""
    chosen = [found for found in mistakes(folder) if found[1] in OWN_PROCESS]
    assert len(chosen) == len(OWN_PROCESS)
    for arguments, words in chosen:
        found = python(*arguments, cwd=folder / "bad")
        check_answer(arguments, words, found.returncode, found.stderr)
        assert found.stdout == ""


OWN_PROCESS = {
    "none.csv: No such file or folder",
    "user='user' is no column; there are 'who', 'what'",
    "nulls",
    ".safetensors",
    "checksum",
}


def test_no_permission(folder, tmp_path, monkeypatch, capsys):
    """As any user but root sees it."""

    def refused(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("lfm_np.cli.tables.check_place", refused)
    assert run("recommend", folder / "m.safetensors", "-o", tmp_path / "lists.csv") == 2
    assert capsys.readouterr().err == f"error: {tmp_path / 'lists.csv'}: Permission denied\n"


def test_traceback_on_request(folder):
    with pytest.raises(FileNotFoundError):
        run("--traceback", "info", folder / "none.csv")


def test_arithmetic_is_status_3(folder, tmp_path, capsys):
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
    assert run("fit", folder / "events.csv", *COLUMNS, *arguments) == 3
    assert "diverged" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_nobody_reads(folder):
    command = [sys.executable, "-m", "lfm_np", "recommend", str(folder / "m.safetensors"), "-n", "40"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "who,what,score,rank\n"
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 141


def test_ctrl_c_keeps_the_last_sweep(folder, tmp_path):
    arguments = ("--factors", "64", "--iterations", "1000000", "--progress", "-o", str(tmp_path / "m.safetensors"))
    command = [sys.executable, "-m", "lfm_np", "fit", str(folder / "events.csv"), *COLUMNS, *arguments]
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
