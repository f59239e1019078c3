"""crosscheck(): passes on what is right, fails on what is broken in any of the ways that have happened to others."""

import html.parser
import json
import sys

import numpy as np
import pytest
import scipy.sparse as sp
from optional import require

import lfm_np
from lfm_np.cli import main


@pytest.fixture(scope="module")
def torch():
    return require("torch")


@pytest.fixture(scope="module")
def backend(torch):
    return lfm_np.torch_backend


def small():
    return lfm_np.datasets.planted(200, 60, 2_000, rank=4, random_state=0).matrix


def check(backend, **options):
    return backend.crosscheck(small(), **({"device": "cpu", "factors": 4, "sweeps": 1, "num_threads": 1} | options))


@pytest.fixture
def only(backend, monkeypatch):
    """Check nothing but some models and solvers of als, or some losses of sgd."""

    def choose(models=(), losses=(), solvers=("exact",)):
        cross, als = module("crosscheck"), module("crosscheck_als")
        monkeypatch.setattr(als, "MODELS", {name: als.MODELS[name] for name in models})
        monkeypatch.setattr(als, "SOLVERS", solvers)
        monkeypatch.setattr(cross, "LOSSES", [loss for loss in cross.LOSSES if type(loss).__name__ in losses])

    return choose


def module(name):
    return sys.modules[f"lfm_np.torch_backend.{name}"]  # the name in the package may be a function


def test_passes_and_reports(backend, tmp_path):
    report = check(backend, sweeps=2)
    assert report.passed, str(report)
    assert not report.failures
    text = str(report)
    assert "als ials float64" in text
    assert "als confidence float32 subspace" in text
    assert "sgd CosineContrastive float32" in text
    assert text.splitlines()[-1].startswith("cpu: passed in ")
    read = json.loads(report.to_json(tmp_path / "report.json"))
    assert read == json.loads((tmp_path / "report.json").read_text())
    assert read["passed"] is True
    assert len(read["rows"]) == len(report.rows)
    page = report.to_html(tmp_path / "report.html")
    html.parser.HTMLParser().feed(page)
    assert page.count("<tr>") == len(report.rows) + 1
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == page


def test_a_column_is_judged_by_the_nearer_neighbour(backend):
    """Column 2 is far from column 1, and the same as column 3 but for rounding: it may be turned as rounding will."""
    V = np.diag([4.0, 2.0, 1e-9, 1e-9 * (1 + 1e-12)])
    here = lfm_np.Factors(np.ones((5, 4)), V)
    there = lfm_np.Factors(np.array([[1, 1, 1.3, 1.3]] * 5), V)
    row = module("crosscheck_als")._factor_row("als", 1, "user_factors", here, there, 1e-12, "")
    assert row.what == "user factors, sweep 1: 2 of 4 columns"
    assert row.error <= row.tolerance


def test_factors_of_more_columns_than_items_pass(only, backend):
    """Of 40 factors of 12 items 28 are rounding."""
    only(models=("ials", "ratings"), solvers=("cg",))
    rng = np.random.default_rng(3)
    X = sp.csr_array(np.where(rng.random((30, 12)) < 0.4, rng.integers(1, 6, (30, 12)), 0).astype(np.float32))
    report = backend.crosscheck(X, device="cpu", factors=3, sweeps=1, random_state=5, num_threads=1)
    assert report.passed, str(report)


def test_real_ratings(backend):
    path = require("data", "ml-100k.npz")
    with np.load(path) as data:
        X = sp.csr_array((data["value"].astype(np.float64), (data["user"], data["item"])), shape=(943, 1682))
    report = backend.crosscheck(X, device="cpu", num_threads=1)
    assert report.passed, str(report)


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_other_devices(backend, torch, device):
    found = torch.cuda.is_available() if device == "cuda" else torch.backends.mps.is_available()
    if not found:
        pytest.skip(f"torch sees no {device} device")
    report = backend.crosscheck(device=device)
    assert report.passed, str(report)


# ---- sabotage -------------------------------------------------------------------------------------------------------


def broken(monkeypatch, name, attribute, change):
    """Replace a function of the torch side by change(function)."""
    monkeypatch.setattr(module(name), attribute, change(getattr(module(name), attribute)))


def without(argument, value):
    """check_problem that ignores an argument, as implicit's GPU side did with alpha."""
    return lambda check_problem: lambda X, **options: check_problem(X, **(options | {argument: value}))


@pytest.mark.parametrize(
    ("argument", "value"), [("alpha", 1.0), ("unobserved_weight", None), ("exponent", 0.0), ("regularization", 0.1)]
)
def test_an_ignored_argument_fails(backend, only, monkeypatch, argument, value):
    only(models=["hu-koren", "ials"])
    assert check(backend).passed
    broken(monkeypatch, "als", "check_problem", without(argument, value))
    assert "als ials float64" in {row.part for row in check(backend).failures}


def test_a_wrong_sign_of_the_targets_fails(backend, only, monkeypatch):
    only(models=module("crosscheck_als").MODELS)

    def change(gathered):
        return lambda *arguments: ((rows, d, -t, own) for rows, d, t, own in gathered(*arguments))

    broken(monkeypatch, "systems", "gathered", change)
    assert len({row.part for row in check(backend).failures if row.part.startswith("als")}) == 8


@pytest.mark.parametrize("solve", ["solve_primal", "solve_dual"])
def test_a_missing_regulariser_fails(backend, only, monkeypatch, solve):
    only(models=["hu-koren"])

    def change(function):
        return lambda batch, fixed, lam, *rest: function(batch, fixed, lam * 1e-3, *rest)

    broken(monkeypatch, "systems", solve, change)
    assert any(row.part.startswith("als hu-koren") for row in check(backend, factors=16).failures)


def test_an_objective_without_its_penalty_fails(backend, only, monkeypatch):
    only(models=["confidence", "hu-koren"])

    def change(function):
        def solve(*arguments):
            solved = function(*arguments)
            return solved._replace(loss=solved.loss - solved.penalty)

        return solve

    broken(monkeypatch, "systems", "solve_dual", change)
    failed = check(backend, factors=16).failures
    assert failed
    assert all("objective" in row.what for row in failed)


BROKEN_STEPS = {
    "cold start": ("_old", lambda old: lambda batch, fixed: old(batch, fixed) * 0),
    "old values in another basis": ("_old", lambda _: lambda batch, fixed: fixed.old[batch.rows]),
    "no preconditioner": ("LEAST_ENTRY", lambda _: 1e3),
    "a block left out": ("blocks", lambda blocks: lambda k: list(blocks(k))[:-1]),
}


@pytest.mark.parametrize(
    ("solver", "name"),
    [
        ("cg", "cold start"),
        ("cg", "old values in another basis"),
        ("cg", "no preconditioner"),
        ("subspace", "cold start"),
        ("subspace", "old values in another basis"),
        ("subspace", "a block left out"),
    ],
)
def test_a_broken_step_fails(backend, only, monkeypatch, solver, name):
    only(models=["hu-koren"], solvers=[solver])
    broken(monkeypatch, "step_rows", *BROKEN_STEPS[name])
    expected = {f"als hu-koren {dtype} {solver}" for dtype in ("float32", "float64")}
    assert {row.part for row in check(backend).failures} == expected


@pytest.mark.parametrize("solver", ["cg", "subspace"])
def test_a_step_without_its_regulariser_fails(backend, only, monkeypatch, solver):
    only(models=["ratings"], solvers=[solver])
    assert check(backend).passed
    steps = module("step_rows").STEPS
    step = steps[solver]
    monkeypatch.setitem(steps, solver, lambda batch, fixed, lam, *rest: step(batch, fixed, lam * 0.9, *rest))
    assert len({row.part for row in check(backend).failures}) == 2


@pytest.mark.parametrize("name", ["BPR", "Squared", "SampledSoftmax", "CosineContrastive"])
def test_a_wrong_gradient_fails(backend, only, monkeypatch, name):
    only(losses=[name, "Hinge"])
    from lfm_np import losses

    table, kind = module("losses").BUILT_IN, getattr(losses, name)
    right = table[kind]

    def wrong(loss, *inputs):
        value, slopes = right(loss, *inputs)
        return value, slopes * 1.01

    monkeypatch.setitem(table, kind, wrong)
    failed = check(backend).failures
    assert {row.part.split()[1] for row in failed} == {name}
    assert {"slopes", "scores after a step, constant"} <= {row.what for row in failed}


def test_a_forgotten_penalty_of_the_negatives_fails(backend, only, monkeypatch):
    only(losses=["BPR"])

    def change(function):
        def to_factors(plan, *arguments):
            return function(plan._replace(rule=plan.rule._replace(negative=0.0)), *arguments)

        return to_factors

    broken(monkeypatch, "steps", "_to_factors", change)
    assert any(row.part == "sgd BPR float64" for row in check(backend).failures)


def test_other_random_numbers_fail(backend, only, monkeypatch):
    only(losses=["BPR"])
    broken(monkeypatch, "draws", "below", lambda below: lambda words, bound: (below(words, bound) + 1) % bound)
    assert any(row.part == "sgd BPR float64" for row in check(backend).failures)


# ---- the command ----------------------------------------------------------------------------------------------------


def test_the_command(torch, tmp_path, capsys):
    sp.save_npz(tmp_path / "X.npz", sp.csr_matrix(small()))
    asked = ["crosscheck", "--device", "cpu", "--data", str(tmp_path / "X.npz"), "--factors", "4", "--sweeps", "1"]
    assert main([*asked, "--json", str(tmp_path / "a.json"), "--html", str(tmp_path / "a.html")]) == 0
    assert "cpu: passed in" in capsys.readouterr().out
    assert json.loads((tmp_path / "a.json").read_text())["passed"]
    assert (tmp_path / "a.html").exists()


@pytest.mark.parametrize("random_state", [None, np.random.default_rng(0), -1])
def test_both_sides_start_from_an_integer(backend, random_state):
    with pytest.raises((TypeError, ValueError), match="random_state must be an integer ≥ 0"):
        check(backend, random_state=random_state)
