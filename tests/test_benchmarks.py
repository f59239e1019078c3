"""The benchmarks' own code: solvers found, one run end to end, tables, and quick mode's verdict on bad records."""

import json
from functools import partial

import numpy as np
import pytest
from optional import require

import lfm_np
from benchmarks import datasets, equivalence, report, runner, solvers
from benchmarks.__main__ import main
from benchmarks.tasks import make_task


@pytest.fixture(scope="module")
def records():
    """lfm_np on the small matrix, in a process of its own, and a solver whose package is not there."""
    found = list(runner.compare(["lfm_np"], "small", make_task("als", factors=8, threads=1), iterations=3))
    entry = solvers.Entry("als", lambda *_: None, "never", ("no_such_package",))
    assert entry.missing == "not installed: no_such_package"
    return found


def test_a_run_end_to_end(records, tmp_path, capsys):
    kinds = [record["kind"] for record in records]
    assert kinds == ["machine", "ready"] + ["step", "quality"] * 3
    objectives = [record["objective"] for record in records if record["kind"] == "quality"]
    assert objectives == sorted(objectives, reverse=True)
    assert all(0 < record["seconds"] <= record["wall"] for record in records if record["kind"] == "step")
    path = tmp_path / "run.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    assert main(["report", str(path)]) == 0
    table = capsys.readouterr().out
    assert "### als, small, k = 8, 1 thread\n" in table
    assert "| lfm_np | " in table
    assert "| solver | objective within 0.1 %: s (sweeps) | " in table
    assert "numba" in table


@pytest.mark.small
def test_time_to_quality_is_that_of_the_first_record_near_the_best():
    def curve(solver, *points):
        return [
            {"solver": solver, "iteration": i, "total": 10.0 * i, "objective": objective, "recall@20": recall}
            for i, (objective, recall) in enumerate(points, 1)
        ]

    own = curve("a", (200.0, 0.30), (100.09, 0.20), (100.0, 0.29)) + curve("b", (100.2, 0.2971), (100.11, 0.1))
    near = {measure: report.first_near(own, measure) for measure in report.NEAR}
    assert {solver: record["iteration"] for solver, record in near["objective"].items()} == {"a": 2}
    assert {solver: record["iteration"] for solver, record in near["recall@20"].items()} == {"a": 1, "b": 1}
    table = report.time_to_quality(own)
    assert "Lowest objective 100 (a, whose last sweep gained 9.0e-04), highest recall@20 0.3000." in table
    assert table.index("| a | 20 (2) | 10 (1) |") < table.index("| b | not | 10 (1) |")
    table = report.time_to_quality(
        [{key: value for key, value in record.items() if key != "recall@20"} for record in own]
    )
    assert table.startswith("Lowest objective 100 (a, whose last sweep gained 9.0e-04).\n")
    assert table.index("| a | 20 (2) |\n") < table.index("| b | not |\n")


def test_plots(records, tmp_path):
    require("matplotlib")
    more = [record | {"factors": 16, "started": "later"} for record in records]
    paths = report.plots(records + more, tmp_path)
    assert [path.name for path in paths] == [
        "quality-1-als-small-k8.png",
        "quality-2-als-small-k16.png",
        "scaling-factors.png",
    ]
    assert all(path.read_bytes()[:4] == b"\x89PNG" for path in paths)


def test_the_list_says_why_one_is_absent(capsys, monkeypatch):
    monkeypatch.delenv("LFM_NP_WORKLOADS", raising=False)
    assert main(["list"]) == 0
    said = capsys.readouterr().out
    for name in ("lfm_np", "lfm_np-torch", "implicit-cg", "irspack-cholesky", "cmfrec-cg", "lightfm-bpr", "spark"):
        assert f" {name} " in said
    assert "ml20m              absent: set LFM_NP_WORKLOADS" in said
    with pytest.raises(ValueError, match="no data set 'x'"):
        datasets.load("x")


def test_quick_mode_accepts_what_is_right_and_names_what_is_not(records):
    assert report.failures(records, popular=0.1) == []
    assert "most popular has 0.9" in report.failures(records, popular=0.9)[0]
    twin = [record | {"solver": "other"} for record in records]
    worse = [record | {"objective": record["objective"] * 1.2} if "objective" in record else record for record in twin]
    assert report.failures(records + worse, popular=0.1)[0].startswith("other: objective")
    drifted = [record | {"solver": "lfm_np-torch"} for record in records]
    drifted = [r | {"objective": r["objective"] * 1.001} if "objective" in r else r for r in drifted]
    assert "start alike but differ" in report.failures(records + drifted, popular=0.1)[0]
    broken = {**records[1], "kind": "skipped", "solver": "third", "reason": "ValueError: no"}
    assert report.failures([*records, broken], popular=0.1) == ["third failed: ValueError: no"]
    assert report.failures([], popular=0.1) == ["lfm_np itself did not run"]


def test_a_failing_solver_is_reported_not_raised():
    found = list(runner.compare(["lfm_np"], "no such data", make_task("als"), iterations=1))
    assert [record["kind"] for record in found] == ["machine", "skipped"]
    assert "no data set" in found[1]["reason"]


def test_runs_that_differ_in_one_size_make_a_line(records):
    runs = [
        record | {"dataset": f"planted:{m},400,80000", "started": str(m)} for m in (1000, 2000) for record in records
    ]
    lines = report._lines(report.summaries(runs), "users")
    assert [[row["users"] for row in rows] for rows in lines.values()] == [[1000, 2000]]
    assert report._lines(report.summaries(runs), "items") == {}
    assert report.exponent([1.0, 10.0, 100.0], [3.0, 30.0, 300.0]) == pytest.approx(1.0)


def test_equivalence_with_the_peers_that_are_here(monkeypatch, capsys):
    require("implicit")
    monkeypatch.setattr(equivalence, "missing", lambda peer: None if peer == "implicit" else f"no {peer}")
    assert equivalence.main([]) == 0
    said = capsys.readouterr().out
    assert "| implicit | ALS, 3 sweeps | `als(X, weighting='confidence')` | " in said
    assert "| spark | no spark |" in said
    monkeypatch.setattr(lfm_np, "als", partial(lfm_np.als, unobserved_weight=0.9))
    assert equivalence.main(["implicit"]) == 1
    assert "**above**" in capsys.readouterr().out


@pytest.mark.small
def test_a_half_step_with_the_rule_of_spark():
    """Beside the normal equations of Spark's code: VᵀV + Σ αx·vvᵀ + λ·n_u and Σ (1 + αx)·v, dense."""
    X = equivalence.interactions()[:40]
    V = np.random.default_rng(1).normal(size=(X.shape[1], 3))
    found = equivalence._half_step(X, V)
    for row, weights in zip(found, equivalence.ALPHA * X.toarray().astype(float)):
        A = V.T @ V + (V.T * weights) @ V + equivalence.LAMBDA * np.count_nonzero(weights) * np.eye(3)
        np.testing.assert_allclose(row, np.linalg.solve(A, V.T @ (weights + (weights > 0))), rtol=0, atol=1e-12)
