"""The command line: every command end to end."""

import csv
import decimal
import io
import itertools
import json
import re
import sys
import uuid

import numpy as np
import pytest
import scipy.sparse as sp
from cli_runs import COLUMNS, SMALL, data_of, rows, run
from optional import require

import lfm_np
from lfm_np import evaluation, recommendations

pytestmark = pytest.mark.usefixtures("typer")


def test_fit_is_als_on_the_training_part(cli_folder):
    train, test = data_of(cli_folder).split(test_fraction=0.2, random_state=0)
    expected = lfm_np.als(train, factors=8, iterations=4, alpha=10.0, random_state=0)
    found = lfm_np.Factors.load(cli_folder / "m.safetensors")
    np.testing.assert_array_equal(found.user_factors, expected.user_factors)
    held_out = lfm_np.Interactions.from_csv(cli_folder / "test.csv", user="who", item="what", timestamp="when")
    assert held_out.matrix.nnz == test.matrix.nnz
    assert set(held_out.timestamps) == set(test.timestamps)
    matrix = sp.load_npz(cli_folder / "m.interactions.npz")
    np.testing.assert_array_equal(matrix.toarray(), train.matrix.toarray())


@pytest.mark.parametrize("ending", ["csv", "json", "parquet"])
def test_recommend_writes_what_recommend_says(cli_folder, tmp_path, ending):
    path = tmp_path / f"lists.{ending}"
    assert run("recommend", cli_folder / "m.safetensors", "-n", "3", "-o", path) == 0
    if ending == "csv":
        table = [
            {**row, "what": int(row["what"]), "rank": int(row["rank"])}
            for row in csv.DictReader(io.StringIO(path.read_text()))
        ]
    elif ending == "json":
        table = json.loads(path.read_text())
    else:
        table = require("pyarrow.parquet").read_table(path).to_pylist()
    train, _ = data_of(cli_folder).split(test_fraction=0.2, random_state=0)
    ids, scores = lfm_np.Factors.load(cli_folder / "m.safetensors").recommend(np.arange(300), N=3, seen=train)
    assert [row["who"] for row in table] == np.repeat(train.users, 3).tolist()
    assert [row["what"] for row in table] == train.items[ids].ravel().tolist()
    assert [row["rank"] for row in table] == [1, 2, 3] * 300
    np.testing.assert_allclose([float(row["score"]) for row in table], scores.ravel(), rtol=1e-6)


def test_recommend_to_some(cli_folder, capsys, monkeypatch):
    capsys.readouterr()
    assert run("recommend", cli_folder / "m.safetensors", "--user", "u007", "--user", "u003", "-n", "40") == 0
    table = rows(capsys)
    assert list(dict.fromkeys(row["who"] for row in table)) == ["u007", "u003"]
    assert len(table) < 80, "what they have is left out, and so is the padding"
    assert run("recommend", cli_folder / "m.safetensors", "--user", "u007", "-n", "40", "--include-seen") == 0
    assert len(rows(capsys)) == 40


def test_blocks_of_users_make_one_table(cli_folder, capsys, monkeypatch):
    capsys.readouterr()
    run("recommend", cli_folder / "m.safetensors", "-n", "2")
    whole = capsys.readouterr().out
    monkeypatch.setattr(recommendations, "ROWS", 7)
    run("recommend", cli_folder / "m.safetensors", "-n", "2")
    assert capsys.readouterr().out == whole


def test_similar(cli_folder, capsys):
    factors, train = lfm_np.Factors.load(cli_folder / "m.safetensors"), data_of(cli_folder)
    capsys.readouterr()
    assert run("similar", cli_folder / "m.safetensors", "--item", "105", "-n", "4") == 0
    table = rows(capsys)
    ids, scores = factors.similar_items(train.columns_of([105]), N=4)
    assert [int(row["similar"]) for row in table] == train.items[ids[0]].tolist()
    np.testing.assert_allclose([float(row["score"]) for row in table], scores[0], rtol=1e-6)
    assert run("similar", cli_folder / "m.safetensors", "--user", "u001", "-n", "2", "--metric", "inner") == 0
    assert [row["similar"] for row in rows(capsys)] == train.users[
        factors.similar_users(1, N=2, metric="inner").ids
    ].tolist()


def test_evaluate(cli_folder, capsys):
    train, test = data_of(cli_folder).split(test_fraction=0.2, random_state=0)
    capsys.readouterr()
    status = run(
        "evaluate", cli_folder / "m.safetensors", cli_folder / "test.csv", "--metric", "recall@5", "--metric", "auc"
    )
    assert status == 0
    table = rows(capsys)
    for name, model in (
        ("model", lfm_np.Factors.load(cli_folder / "m.safetensors")),
        ("popular", evaluation.most_popular(train)),
    ):
        found = lfm_np.evaluate(model, train, test, ("recall@5", "auc"))
        assert [float(row[name]) for row in table] == [found["recall@5"], found["auc"]]
        assert [float(row[f"{name}_se"]) for row in table] == [found["recall@5_se"], found["auc_se"]]


def test_evaluate_as_a_check(cli_folder, capsys):
    for bound, status in (("0.01", 0), ("0.99", 1)):
        assert (
            run("evaluate", cli_folder / "m.safetensors", cli_folder / "test.csv", "--at-least", f"recall@10={bound}")
            == status
        )
    assert "failed: recall@10 is 0." in capsys.readouterr().err


def test_a_metric_without_a_value_fails_the_check(tmp_path, capsys):
    """Nobody has an item that is neither learned from nor held out, so that auc is not defined."""
    (tmp_path / "all.csv").write_text("user,item\n" + "".join(f"{u},{i}\n" for u in range(4) for i in range(5)))
    model, test = tmp_path / "m.safetensors", tmp_path / "test.csv"
    assert run("fit", tmp_path / "all.csv", "--hold-out", test, *SMALL, "-o", model) == 0
    assert run("evaluate", model, test, "--at-least", "auc=0.5") == 1
    assert "failed: auc is nan" in capsys.readouterr().err
    assert run("evaluate", model, test, "--metric", "auc", "-o", tmp_path / "q.json") == 0
    (found,) = json.loads((tmp_path / "q.json").read_text(), parse_constant=pytest.fail)
    assert found["model"] is None


def test_what_was_held_out_has_its_values(cli_folder, tmp_path, capsys):
    """So that a threshold finds them again."""
    model, test = tmp_path / "m.safetensors", tmp_path / "test.csv"
    liked = ("--value", "stars", "--threshold", "4", "--hold-out", test)
    assert run("fit", cli_folder / "events.csv", *COLUMNS, *liked, *SMALL, "-o", model) == 0
    fitted = rows(capsys)
    assert run("evaluate", model, test) == 0
    assert rows(capsys) == fitted
    data = lfm_np.Interactions.from_csv(cli_folder / "events.csv", user="who", item="what", value="stars")
    train, _ = data.select(data.matrix.data >= 4).binarize().split(test_fraction=0.2, random_state=0)
    expected = lfm_np.als(train, factors=8, iterations=4, alpha=10.0, random_state=0)
    np.testing.assert_array_equal(lfm_np.Factors.load(model).item_factors, expected.item_factors)


@pytest.mark.parametrize("duplicates", ["sum", "count"])
@pytest.mark.parametrize("kind", ["counts", "npz"])
def test_what_was_held_out_is_found_without_values(tmp_path, capsys, kind, duplicates):
    """A threshold of counts, or of values that no column has, is not asked of the held-out file again."""
    pairs = lfm_np.datasets.make_interactions(300, 40, 8, random_state=0)
    counts = np.random.default_rng(0).integers(1, 4, len(pairs))
    source, model, test = tmp_path / f"events.{kind}", tmp_path / "m.safetensors", tmp_path / "test.csv"
    if kind == "npz":
        sp.save_npz(source, sp.csr_array((counts.astype(float), pairs.T)))
    else:
        source = source.with_suffix(".csv")
        np.savetxt(source, np.repeat(pairs, counts, axis=0), "%d", ",", header="user,item", comments="")
    options = ("--threshold", "2", "--duplicates", duplicates, "--hold-out", test)
    assert run("fit", source, *options, *SMALL, "-o", model) == 0
    fitted = rows(capsys)
    assert run("evaluate", model, test) == 0
    assert rows(capsys) == fitted
    assert run("update", model, test, "-o", tmp_path / "more.safetensors") == 0
    known = sp.load_npz(tmp_path / "more.interactions.npz")
    assert (known.nnz, set(known.data)) == ((counts > 1).sum(), {1.0})
    capsys.readouterr()
    assert run("evaluate", tmp_path / "more.safetensors", source) == 2  # nothing else is left, and the threshold stands
    assert "no user with an item" in capsys.readouterr().err


def test_what_was_held_out_can_be_judged_by_another_threshold(tmp_path, capsys):
    pairs = lfm_np.datasets.make_interactions(200, 40, 8, random_state=0)
    records = np.column_stack((pairs, np.arange(len(pairs)) % 5 + 1))
    np.savetxt(tmp_path / "events.csv", records, "%d", ",", header="user,item,rating", comments="")
    model, test = tmp_path / "m.safetensors", tmp_path / "test.csv"
    threshold = ("--value", "rating", "--threshold", "3", "--hold-out", test)
    assert run("fit", tmp_path / "events.csv", *threshold, *SMALL, "-o", model) == 0
    capsys.readouterr()
    assert run("evaluate", model, test, "--threshold", "5") == 0
    with open(test) as file:
        users = {record["user"] for record in csv.DictReader(file) if float(record["rating"]) == 5}
    assert int(rows(capsys)[0]["users"]) == len(users)


@pytest.mark.parametrize("unit", ["us", "ns"])
def test_times_are_written_as_times(tmp_path, capsys, unit):
    pa, pq = require("pyarrow"), require("pyarrow.parquet")
    pairs = lfm_np.datasets.make_interactions(100, 30, 8, random_state=0)
    hours = pairs[:, 1] * np.timedelta64(1, "h") + np.datetime64("2024-01-01", unit)
    seconds = np.arange(len(pairs)) * np.timedelta64(1, "s") + np.datetime64("2024-05-01T00:00:00.000001", unit)
    pq.write_table(pa.table({"user": pairs[:, 0], "item": hours, "t": seconds}), tmp_path / "events.parquet")
    model, test = tmp_path / "m.safetensors", tmp_path / "test.csv"
    held_out = ("--by", "time", "--timestamp", "t", "--hold-out", test)
    assert run("fit", tmp_path / "events.parquet", *held_out, *SMALL, "-o", model) == 0
    fitted = rows(capsys)
    assert run("evaluate", model, test) == 0
    assert rows(capsys) == fitted
    assert run("update", model, test, "-o", tmp_path / "more.safetensors") == 0
    known = np.load(tmp_path / "more.interactions.npz")
    np.testing.assert_array_equal(np.sort(known["timestamps"]), seconds)
    (tmp_path / "numbers.csv").write_text("user,item,t\n1,2024-01-01 05:00:00,7\n")
    capsys.readouterr()
    assert run("update", model, tmp_path / "numbers.csv", "-o", tmp_path / "more.safetensors") == 2
    assert "the times of the new interactions are int64" in capsys.readouterr().err
    assert run("similar", model, "--item", "2024-01-01T05", "-n", "1") == 0
    assert np.datetime64(rows(capsys)[0]["item"]) == np.datetime64("2024-01-01T05")
    assert run("similar", model, "--item", "2024-01-01T05:00:00.0000000001", "-n", "1") == 2
    assert run("similar", model, "--item", "99999-01-01", "-n", "1") == 2


@pytest.mark.parametrize("unit", ["us", "ns"])
def test_durations_are_their_text(tmp_path, capsys, unit):
    pa, pq = require("pyarrow"), require("pyarrow.parquet")
    pairs = lfm_np.datasets.make_interactions(100, 30, 8, random_state=0)
    hours = pairs[:, 1] * np.timedelta64(1, "h").astype(f"m8[{unit}]")
    pq.write_table(pa.table({"user": pairs[:, 0], "item": hours}), tmp_path / "events.parquet")
    model, test = tmp_path / "m.safetensors", tmp_path / "test.csv"
    assert run("fit", tmp_path / "events.parquet", "--hold-out", test, *SMALL, "-o", model) == 0
    fitted = rows(capsys)
    assert run("evaluate", model, test) == 0
    assert rows(capsys) == fitted
    assert run("similar", model, "--item", "2:00:00", "-n", "1") == 0
    assert rows(capsys)[0]["item"] == "2:00:00"


def test_large_ids_stay_whole_in_an_update(tmp_path, capsys):
    pa, pq = require("pyarrow"), require("pyarrow.parquet")
    users = np.array([2**60 + 1, 2**60 + 2, 2**63 + 1], np.uint64)
    pq.write_table(pa.table({"user": users, "item": [1, 2, 1]}), tmp_path / "events.parquet")
    (tmp_path / "more.csv").write_text(f"user,item\n{2**60 + 3},1\n")
    model = tmp_path / "m.safetensors"
    assert run("fit", tmp_path / "events.parquet", *SMALL, "-o", model) == 0
    assert run("update", model, tmp_path / "more.csv", "-o", model) == 0
    assert np.load(tmp_path / "m.interactions.npz")["users"].tolist() == [*users.tolist(), 2**60 + 3]


def test_an_update_without_times_says_that_the_model_has_none_any_more(tmp_path, capsys):
    cells = sp.csr_array(([1.0, 1, 1, 1], ([0, 0, 1, 2], [0, 1, 1, 0])))
    for name, times in (("timed", {"timestamps": np.arange(4)}), ("more", {})):
        sp.save_npz(tmp_path / f"{name}.npz", cells)
        arrays = dict(np.load(tmp_path / f"{name}.npz"))
        np.savez(tmp_path / f"{name}.npz", **arrays, **times)
    model = tmp_path / "m.safetensors"
    assert run("fit", tmp_path / "timed.npz", *SMALL, "-o", model) == 0
    for source, said in (("timed", False), ("more", True)):
        capsys.readouterr()
        assert run("update", model, tmp_path / f"{source}.npz", "-o", tmp_path / "new.safetensors") == 0
        assert ("has no times" in capsys.readouterr().err) is said
        assert ("timestamps" in np.load(tmp_path / "new.interactions.npz")) is not said


def test_evaluate_leaves_out_whom_the_model_does_not_know(cli_folder, tmp_path, capsys):
    text = (cli_folder / "test.csv").read_text()
    (tmp_path / "more.csv").write_text(text + "stranger,101,1\nu001,999,1\n")
    capsys.readouterr()
    outputs = []
    for path in (cli_folder / "test.csv", tmp_path / "more.csv"):
        assert run("evaluate", cli_folder / "m.safetensors", path) == 0
        outputs.append(capsys.readouterr())
    assert outputs[0].out == outputs[1].out
    assert "more.csv: 2 of" in outputs[1].err


@pytest.mark.parametrize("timestamp", [True, False])
def test_update_takes_further_events_in(cli_folder, tmp_path, capsys, timestamp):
    """As a model of all events whose items, and whose other users, stay as they were."""
    columns = COLUMNS if timestamp else COLUMNS[:4]
    old, new = tmp_path / "m.safetensors", tmp_path / "new.safetensors"
    assert run("fit", cli_folder / "events.csv", *columns, *SMALL, "-o", old) == 0
    (tmp_path / "more.csv").write_text(
        "who,what,when\nu003,101,900\nnewt,120,901\nu003,120,902\nada,101,903\nx,7,904\n"
    )
    events = (cli_folder / "events.csv").read_text().splitlines()[1:]
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


def test_fit_goes_on_from_a_checkpoint(cli_folder, tmp_path):
    kept = ("--checkpoint", tmp_path / "fit.checkpoint", "--solver", "cg")
    fit = ("fit", cli_folder / "events.csv", *COLUMNS, *SMALL)
    assert run(*fit, *kept, "--iterations", "2", "-o", tmp_path / "m.safetensors") == 0
    assert run(*fit, *kept, "--iterations", "5", "-o", tmp_path / "m.safetensors") == 0
    found = lfm_np.Factors.load(tmp_path / "m.safetensors")
    expected = lfm_np.als(data_of(cli_folder), factors=8, iterations=5, alpha=10.0, random_state=0, solver="cg")
    np.testing.assert_array_equal(found.user_factors, expected.user_factors)
    assert found.params["solver"] == "cg"
    assert run(*fit, *kept, "--iterations", "5", "--factors", "4", "-o", tmp_path / "m.safetensors") == 2


def test_report(cli_folder, tmp_path):
    require("matplotlib")
    (tmp_path / "labels.csv").write_text(
        "\ufeffitem,label\n" + "".join(f"{item},Film {item}\n" for item in range(100, 139))
    )
    arguments = (
        "--test",
        cli_folder / "test.csv",
        "--labels",
        tmp_path / "labels.csv",
        "--title",
        "Films",
        "-o",
        tmp_path / "r.html",
    )
    assert run("report", cli_folder / "m.safetensors", *arguments) == 0
    page = (tmp_path / "r.html").read_text()
    assert all(text in page for text in ("<h1>Films</h1>", "Film 1", "most popular"))


def test_info(cli_folder, capsys):
    capsys.readouterr()
    said = []
    for arguments in ([cli_folder / "m.safetensors"], [cli_folder / "events.csv", *COLUMNS, "--value", "stars"], []):
        assert run("info", *arguments) == 0
        said.append({row["what"]: row["value"] for row in rows(capsys)})
    model, data, installation = said
    history = lfm_np.Factors.load(cli_folder / "m.safetensors").history
    assert (model["users"], model["sweeps"], model["alpha"]) == ("300", "4", "10")
    assert float(model["objective"]) == pytest.approx(history[-1]["objective"], rel=1e-5)
    X = data_of(cli_folder).matrix
    assert data["interactions"] == str(X.nnz)
    assert data["interactions of a user: least, median, most"].endswith(f" · {np.diff(X.indptr).max()}")
    assert data["times: first, last"] == f"0 · {X.nnz - 1}"
    assert installation["lfm_np"] == lfm_np.__version__


def test_info_of_a_model_with_another_history(tmp_path, capsys):
    lfm_np.Factors(np.eye(2), np.eye(2), history=[{"epoch": 1, "rmse": 0.5}]).save(tmp_path / "m.safetensors")
    assert run("info", tmp_path / "m.safetensors") == 0
    assert {row["what"]: row["value"] for row in rows(capsys)}["sweeps"] == "1"


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


def test_sgd_and_its_options(cli_folder, tmp_path):
    arguments = ("--method", "sgd", "--loss", "WARP", "--iterations", "2", "--learning-rate", "0.01", "--factors", "4")
    assert run("fit", cli_folder / "events.csv", *COLUMNS, *arguments, "-o", tmp_path / "s.safetensors") == 0
    expected = lfm_np.sgd(
        data_of(cli_folder), lfm_np.losses.WARP(), epochs=2, learning_rate=0.01, factors=4, random_state=0
    )
    found = lfm_np.Factors.load(tmp_path / "s.safetensors")
    np.testing.assert_array_equal(found.item_factors, expected.item_factors)


def test_ratings(cli_folder, tmp_path):
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
    assert run("fit", cli_folder / "events.csv", *COLUMNS, *arguments, "-o", tmp_path / "s.safetensors") == 0
    data = lfm_np.Interactions.from_csv(
        cli_folder / "events.csv", user="who", item="what", timestamp="when", value="stars", min_item_interactions=5
    )
    expected = lfm_np.als(data, weighting="ratings", biases=True, factors=2, random_state=0)
    np.testing.assert_array_equal(lfm_np.Factors.load(tmp_path / "s.safetensors").item_bias, expected.item_bias)


def test_cells_that_a_matrix_stores_twice_are_summed(tmp_path, capsys):
    source, model = tmp_path / "x.npz", tmp_path / "m.safetensors"
    cells = sp.coo_array(([1.0, 2, 3, 4], ([0, 1, 0, 2], [1, 0, 1, 1])), shape=(3, 2))
    sp.save_npz(source, cells)
    assert run("fit", source, *SMALL, "-o", model) == 0
    np.testing.assert_array_equal(sp.load_npz(tmp_path / "m.interactions.npz").toarray(), cells.toarray())
    assert run("fit", source, *SMALL, "--duplicates", "last", "-o", model) == 2
    assert "stores a cell more than once" in capsys.readouterr().err


def test_nulls_of_arrays_are_those_of_tables(tmp_path, capsys):
    source, model = tmp_path / "d.npz", tmp_path / "m.safetensors"
    user, item = np.repeat(np.arange(6), 2), np.arange(12) % 5
    value = np.where(np.arange(12) == 3, np.nan, 1.0 + np.arange(12))
    np.savez(
        source,
        user=user,
        item=item,
        value=value,
        time=np.where(item == 4, np.datetime64("NaT", "D"), item.astype("M8[D]")),
    )
    fit = "fit", source, "--value", "value", "--timestamp", "time", "--factors", "2", "-o", model
    for more in ((), ("--threshold", "2")):
        assert run(*fit, *more) == 2
        assert "of 12 records some have nulls: 1 in 'value', 2 in 'time'" in capsys.readouterr().err
    assert run(*fit, "--nulls", "keep") == 2
    assert run(*fit, "--nulls", "drop") == 0
    assert np.load(tmp_path / "m.interactions.npz")["data"].tolist() == value[(item != 4) & (value == value)].tolist()


def test_ids_that_are_true_or_false(tmp_path, capsys):
    source, model = tmp_path / "d.npz", tmp_path / "m.safetensors"
    np.savez(source, user=np.array([False, True, True]), item=np.array([1, 1, 2]))
    assert run("fit", source, "--factors", "1", "-o", model) == 0
    capsys.readouterr()
    for text, item in (("False", 2), ("true", None)):
        assert run("recommend", model, "--user", text, "-n", "1") == 0
        assert [(row["user"], row["item"]) for row in rows(capsys)] == [("False", str(item))] * (item is not None)
    assert run("recommend", model, "--user", "no") == 2
    assert "--user must be bool like those of the model, got ['no']" in capsys.readouterr().err


def test_fit_judges_with_its_threads(cli_folder, tmp_path, monkeypatch):
    from lfm_np.cli import quality

    asked, evaluate = [], quality.evaluate
    monkeypatch.setattr(
        quality, "evaluate", lambda *args, num_threads: asked.append(num_threads) or evaluate(*args, num_threads=1)
    )
    files = "--hold-out", tmp_path / "test.csv", "-o", tmp_path / "m.safetensors"
    assert run("fit", cli_folder / "events.csv", *COLUMNS, "--factors", "2", "--threads", "1", *files) == 0
    assert asked == [1, 1]


def test_squared_has_negatives_where_they_are_asked_for(cli_folder, tmp_path):
    fit = "fit", cli_folder / "events.csv", *COLUMNS, "--method", "sgd", "--loss", "Squared", "--iterations", "1"
    for more, M in (((), 0), (("--negatives", "3"), 3)):
        assert run(*fit, "--factors", "2", *more, "-o", tmp_path / "m.safetensors") == 0
        assert lfm_np.Factors.load(tmp_path / "m.safetensors").params["negatives"] == M


@pytest.mark.parametrize("kind", ["matrix", "arrays", "parquet", "cli_folder", "url"])
def test_every_kind_of_source_is_the_same(cli_folder, tmp_path, kind):
    data = data_of(cli_folder)
    source, columns = tmp_path / "source.npz", COLUMNS
    if kind == "matrix":
        sp.save_npz(source, data.matrix)
        columns = ()
    elif kind == "arrays":
        coo = data.matrix.tocoo()
        np.savez(source, who=data.users[coo.row].astype(str), what=data.items[coo.col], when=data.timestamps)
    else:
        table = require("pyarrow.csv").read_csv(cli_folder / "events.csv")
        source = tmp_path / ("events.parquet" if kind == "parquet" else "tables")
        if kind in ("cli_folder", "url"):
            source.mkdir()
        require("pyarrow.parquet").write_table(table, source if kind == "parquet" else source / "part.parquet")
    if kind == "url":
        require("fsspec")
        source = source.as_uri()
    assert run("fit", source, *columns, *SMALL, "-o", tmp_path / "m.safetensors") == 0
    expected = lfm_np.als(data, factors=8, iterations=4, alpha=10.0, random_state=0)
    np.testing.assert_array_equal(lfm_np.Factors.load(tmp_path / "m.safetensors").item_factors, expected.item_factors)


TEXT_IDS = {
    "numbers": ("007", "08", "1e5", "-0", "0x1"),
    "dates": ("2024-01-01", "2024-01-01T00:00:00Z", "10:30"),
    "words": ("true", "FALSE", "NA", "null", "nan", "N/A", ""),
    "marks": ("a,b", 'a"b', "a\nb", "a\rb", "a;b", " a ", "\t", "ä€"),
}


@pytest.mark.parametrize("delimiter", [",", ";", "\\t"])
@pytest.mark.parametrize("ids", TEXT_IDS.values(), ids=TEXT_IDS)
def test_text_stays_text_in_what_was_held_out(tmp_path, capsys, ids, delimiter):
    """Ids come from Parquet as text, go into a CSV file as what looks like something else, and are read from it."""
    pa, pq = require("pyarrow"), require("pyarrow.parquet")
    pairs = [(user, item, order) for order, (user, item) in enumerate(itertools.product(ids, ids))]
    pq.write_table(pa.table(dict(zip(("user", "item", "t"), zip(*pairs)))), tmp_path / "events.parquet")
    model, test = tmp_path / "m.safetensors", tmp_path / "test.csv"
    held_out = ("--by", "last", "--timestamp", "t", "--hold-out", test, "--delimiter", delimiter)
    assert run("fit", tmp_path / "events.parquet", *held_out, *SMALL, "-o", model) == 0
    fitted = rows(capsys)
    assert run("evaluate", model, test) == 0
    said = capsys.readouterr()
    assert (said.err, list(csv.DictReader(said.out.splitlines()))) == ("", fitted)
    assert run("update", model, test, "-o", tmp_path / "more.safetensors") == 0
    assert f"0 users added, {len(ids)} solved again" in capsys.readouterr().err
    known = np.load(tmp_path / "more.interactions.npz")
    assert known["users"].tolist() == known["items"].tolist() == sorted(ids)


def test_objects_are_their_text(tmp_path, capsys):
    pa, pq = require("pyarrow"), require("pyarrow.parquet")
    uuids = [uuid.UUID(int=i) for i in (3, 1, 2)]
    prices = [decimal.Decimal(text) for text in ("10.0", "2.0", "2.5")]
    table = pa.table({"user": pa.array([u.bytes for u in uuids], pa.binary(16)).cast(pa.uuid()), "item": prices})
    pq.write_table(table, tmp_path / "a.parquet")
    model = tmp_path / "m.safetensors"
    assert run("fit", tmp_path / "a.parquet", *SMALL, "-o", model) == 0
    assert run("recommend", model, "-n", "1", "--include-seen", "--user", uuids[0]) == 0
    assert [(row["user"], row["item"]) for row in rows(capsys)] == [(str(uuids[0]), "10.0")]
    assert run("update", model, tmp_path / "a.parquet", "-o", model) == 0
    assert "0 users added, 3 solved again" in capsys.readouterr().err
    pq.write_table(pa.table({"user": [b"\xff"], "item": [1]}), tmp_path / "b.parquet")
    assert run("fit", tmp_path / "b.parquet", *SMALL, "-o", model) == 2
    assert "ids of bytes that are no text" in capsys.readouterr().err


def test_ids_of_csv_are_text_on_request(cli_folder, tmp_path, capsys):
    (tmp_path / "a.tsv").write_text("user\titem\n007\t1\n08\t2\n")
    assert run("fit", tmp_path / "a.tsv", "--text", "user", *SMALL, "-o", tmp_path / "m.safetensors") == 0
    assert run("recommend", tmp_path / "m.safetensors", "-n", "1", "--user", "007") == 0
    assert [(row["user"], row["item"]) for row in rows(capsys)] == [("007", "2")]


def test_a_model_from_elsewhere_takes_its_data_along(cli_folder, tmp_path, capsys):
    train, _ = data_of(cli_folder).split(test_fraction=0.2, random_state=0)
    lfm_np.als(train, factors=2, iterations=1).save(tmp_path / "m.safetensors")
    assert run("recommend", tmp_path / "m.safetensors") == 2
    assert "give --data" in capsys.readouterr().err
    assert run("recommend", tmp_path / "m.safetensors", "--data", cli_folder / "m.interactions.npz", "-n", "1") == 0
    assert rows(capsys)[0]["user"] == "u000"


def test_data_with_other_ids_or_in_another_order_is_refused(tmp_path, capsys):
    model = tmp_path / "m.safetensors"
    for name, text in {"a": "ann,1\nbob,2\n", "b": "eve,1\nbob,2\n", "c": "ann,1\nbob,3\n"}.items():
        (tmp_path / f"{name}.csv").write_text("user,item\n" + text)
    assert run("fit", tmp_path / "a.csv", *SMALL, "-o", model) == 0
    assert run("recommend", model, "--data", tmp_path / "a.csv", "-n", "1") == 0
    data = lfm_np.Interactions.from_csv(tmp_path / "a.csv")
    np.savez(tmp_path / "d.npz", user=data.users.astype(str), item=np.array([1, 2]))
    assert run("recommend", model, "--data", tmp_path / "d.npz", "-n", "1") == 0
    with np.load(tmp_path / "m.interactions.npz") as file:
        arrays = dict(file)
    np.savez(tmp_path / "e.npz", **arrays | {"users": arrays["users"][::-1]})
    for name, side in {"b.csv": "users", "c.csv": "items", "e.npz": "users"}.items():
        capsys.readouterr()
        assert run("recommend", model, "--data", tmp_path / name) == 2
        assert f"{name} has other {side} than" in capsys.readouterr().err


def test_a_table_on_a_terminal(cli_folder, capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert run("similar", cli_folder / "m.safetensors", "--item", "105", "-n", "2") == 0
    said = re.sub(r"\x1b\[[\d;]*m", "", capsys.readouterr().out).splitlines()
    assert said[0].split() == ["item", "similar", "score", "rank"]
    assert said[1].split() == ["105", "105", "1.0000", "1"]
