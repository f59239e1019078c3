"""torch_backend.als against the Numba side: the same arguments, the same numbers."""

import contextlib
import dataclasses
import inspect
import signal
import sys
import threading

import numpy as np
import pytest
import scipy.sparse as sp
from als_problems import all_cells_beside_a_large_weight
from optional import require
from torch_memory import Counter

import lfm_np
from lfm_np import row_plan


@pytest.fixture(scope="module")
def torch():
    return require("torch")


@pytest.fixture(scope="module")
def backend(torch):
    return lfm_np.torch_backend


def matrix(m=60, n=40, seed=0, longest=30, values=(0.5, 1.0, 3.0)):
    """Rows of 0 … longest cells, so that some are empty and some longer than k; one column is empty."""
    rng = np.random.default_rng(seed)
    rows, columns = [], []
    for u, length in enumerate(rng.integers(0, longest + 1, m)):
        rows += [u] * length
        columns += rng.choice(n - 1, length, replace=False).tolist()
    return sp.csr_array((rng.choice(values, len(rows)), (rows, columns)), shape=(m, n))


def scores(factors):
    found = factors.user_factors @ factors.item_factors.T
    if factors.global_bias is not None:
        found = found + factors.global_bias + factors.user_bias[:, None] + factors.item_bias
    return found


def both(backend, X, memory_budget=None, **options):
    options = {"factors": 7, "iterations": 5, "dtype": np.float64, "random_state": 3, "num_threads": 1} | options
    return lfm_np.als(X, **options), backend.als(X, memory_budget=memory_budget, **options)


def assert_same(here, there, tolerance=1e-9):
    np.testing.assert_allclose(scores(there), scores(here), rtol=0, atol=tolerance)
    for name in ("objective_users", "objective"):
        found, expected = ([record[name] for record in side.history] for side in (there, here))
        np.testing.assert_allclose(found, expected, rtol=tolerance)


STEPS = ("cg", "subspace")

# Every argument of the model at a value that is not its default, in every weighting that has it. implicit's GPU side
# ignored alpha for years because nothing did this.
MODELS = [
    {"weighting": weighting, **options}
    for weighting in ("hu-koren", "ials", "confidence")
    for options in (
        {},
        {"alpha": 7.5},
        {"alpha": 0.3},
        {"unobserved_weight": 0.2},
        {"unobserved_weight": 0.0},
        {"regularization": 2.0},
        {"regularization_exponent": 1.0},
        {"regularization": 0.3, "regularization_exponent": 0.5, "alpha": 2.0, "unobserved_weight": 0.5},
        {"factors": 1},
        {"factors": 33},
    )
] + [
    {"weighting": "ratings", "regularization": 0.1, **options}
    for options in (
        {},
        {"regularization_exponent": 1.0},
        {"biases": True},
        {"biases": True, "regularization_exponent": 0.5, "regularization": 0.4},
        {"factors": 33, "biases": True},
    )
]


@pytest.mark.parametrize("model", MODELS, ids=str)
def test_equals_numba_in_float64(backend, model):
    assert_same(*both(backend, matrix(), **model))


@pytest.mark.parametrize("solver", STEPS)
@pytest.mark.parametrize("model", MODELS, ids=str)
def test_steps_equal_numba_in_float64(backend, solver, model):
    with row_plan.every_row_steps(width=16):
        here, there = both(backend, matrix(), solver=solver, **model)
    assert_same(here, there)
    for side in ("user_rows", "item_rows"):
        assert there.params[side]["stepped"] == here.params[side]["stepped"] > 20


@pytest.mark.parametrize("solver", STEPS)
def test_the_same_rows_take_a_step(backend, solver):
    """Short rows are solved and long ones take a step, on both sides; the last block overlaps the one before."""
    dense = np.random.default_rng(0).random((300, 200)) < np.linspace(0.1, 0.97, 300)[:, None] ** 2
    here, there = both(backend, sp.csr_array(dense.astype(float)), solver=solver, factors=101, regularization=5.0)
    assert there.params["solver"] == here.params["solver"] == solver
    for side in ("user_rows", "item_rows"):
        assert there.params[side]["stepped"] == here.params[side]["stepped"]
    assert 20 < there.params["user_rows"]["stepped"] < 280
    assert_same(here, there, 1e-8)


@pytest.mark.parametrize("solver", STEPS)
def test_steps_of_many_factors(backend, solver):
    model = {"factors": 2048, "iterations": 1, "unobserved_weight": 0.0}  # no basis of 2048 has to be found
    with row_plan.every_row_steps(width=64):
        assert_same(*both(backend, matrix(6, 7, longest=6), solver=solver, **model))


def test_auto_is_what_numba_takes(backend):
    X = sp.csr_array((np.random.default_rng(0).random((200, 150)) < 0.5).astype(float))
    for k, expected in ((32, "exact"), (64, "cg")):
        here, there = both(backend, X, factors=k, iterations=1, regularization=5.0)
        assert there.params["solver"] == here.params["solver"] == expected
        assert_same(here, there)


def test_the_table_changes_every_argument_of_the_model(backend):
    model = {
        "weighting",
        "alpha",
        "unobserved_weight",
        "regularization",
        "regularization_exponent",
        "biases",
        "factors",
    }
    run = {"iterations", "tolerance", "solver", "init", "dtype", "num_threads", "random_state"}
    run |= {"callback", "progress", "checkpoint", "raise_on_interrupt"}
    names = {p.name for p in inspect.signature(lfm_np.als).parameters.values() if p.kind == p.KEYWORD_ONLY}
    assert names <= model | run, "a new argument of als: add it to the table and to the torch side"
    defaults = inspect.signature(lfm_np.als).parameters
    for name in model:
        assert any(name in case and case[name] != defaults[name].default for case in MODELS), name


def test_same_arguments_and_defaults(backend):
    here = dict(inspect.signature(lfm_np.als).parameters)
    there = dict(inspect.signature(backend.als).parameters)
    assert there.pop("device").default == "cpu"
    assert there.pop("memory_budget").default is None
    assert {name: p.default for name, p in there.items()} == {name: p.default for name, p in here.items()}


@pytest.mark.parametrize(
    "bad",
    [
        {"factors": 0},
        {"regularization": -1.0},
        {"alpha": np.nan},
        {"unobserved_weight": -1.0},
        {"regularization_exponent": "1"},
        {"weighting": "other"},
        {"iterations": 0},
        {"tolerance": -1.0},
        {"solver": "magic"},
        {"biases": 1},
        {"init": 3},
        {"dtype": "float16"},
        {"num_threads": -1},
        {"random_state": "x"},
        {"callback": 1},
        {"progress": "yes"},
        {"checkpoint": 3},
    ],
    ids=str,
)
def test_refuses_what_numba_refuses(backend, bad):
    with pytest.raises((TypeError, ValueError)) as here:
        lfm_np.als(matrix(), **bad)
    with pytest.raises(here.type) as there:
        backend.als(matrix(), **bad)
    assert str(there.value) == str(here.value)


@pytest.mark.parametrize("options", [{"device": 3}, {"device": "tpu9"}, {"memory_budget": 10}, {"device": "cpu:x"}])
def test_refuses_a_bad_device(backend, options):
    with pytest.raises((TypeError, ValueError), match=next(iter(options))):
        backend.als(matrix(), **options)


def test_an_absent_device_is_named(backend, torch):
    if torch.cuda.is_available():
        assert backend.als(matrix(), device="cuda", iterations=1).history
    else:
        with pytest.raises(ValueError, match="'cuda' is not available here"):
            backend.als(matrix(), device="cuda")


def test_float32_is_near_float64(backend):
    _, exact = both(backend, matrix())
    _, single = both(backend, matrix(), dtype=np.float32)
    assert single.user_factors.dtype == np.float32
    assert abs(scores(single) - scores(exact)).max() < 1e-4
    assert single.history[-1]["objective"] == pytest.approx(exact.history[-1]["objective"], rel=1e-5)


def test_an_ill_conditioned_float32_sweep_is_done_in_float64(backend):
    X = matrix(values=(1.0,))
    options = {"regularization": 1e-7, "alpha": 1e3, "unobserved_weight": 1e-3, "factors": 20, "iterations": 2}
    exact, single = (both(backend, X, dtype=dtype, **options)[1] for dtype in (np.float64, np.float32))
    assert single.history[-1]["objective"] == pytest.approx(exact.history[-1]["objective"], rel=1e-3)


def test_a_singular_system_is_an_error(backend):
    X = sp.csr_array(np.eye(4))
    with pytest.raises(lfm_np.SolverError, match="sweep 1: the normal equations of row 0 "):
        backend.als(X, factors=8, regularization=0.0, weighting="ratings", dtype=np.float64)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("solver", ["exact", *STEPS])
def test_lambda_zero_beside_a_singular_gram_matrix_is_an_error(backend, solver, dtype):
    """More factors than items, as in `lfm_np.als`: CG went where nothing holds it, to a loss below 0."""
    X, options = matrix(12, 9, longest=8), {"alpha": 3.0, "unobserved_weight": 8.0, "weighting": "confidence"}
    with row_plan.every_row_steps(16), pytest.raises(lfm_np.SolverError, match=r"sweep 1: .* are singular"):
        backend.als(X, factors=20, regularization=0.0, solver=solver, dtype=dtype, random_state=0, **options)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_cells_that_cancel_are_an_error(backend, dtype):
    X, options = all_cells_beside_a_large_weight(30)
    with pytest.raises(lfm_np.SolverError, match=r"sweep 1: the normal equations of row 0 .*cancel.*unobserved_weight"):
        backend.als(X, dtype=dtype, **options)


@pytest.mark.parametrize("shape", [(0, 0), (0, 5), (5, 0), (3, 4)])
def test_an_empty_matrix_gives_zeros(backend, shape):
    found = backend.als(sp.csr_array(shape), factors=2, iterations=2)
    assert found.shape == shape
    assert not found.user_factors.any()


def test_warm_start_callback_and_tolerance(backend):
    X = matrix()
    first = backend.als(X, factors=4, iterations=3, dtype=np.float64, random_state=0)
    assert_same(*both(backend, X, factors=4, iterations=2, init=first))
    seen = []

    def stop(record, factors):
        record["norm"] = float(np.linalg.norm(factors.user_factors))
        seen.append(record)
        if len(seen) == 2:
            raise StopIteration

    found = backend.als(X, factors=4, callback=stop)
    assert (found.status, len(found.history)) == (lfm_np.Status.STOPPED, 2)
    assert found.history[1]["norm"] > 0
    assert backend.als(X, factors=4, tolerance=0.5).status is lfm_np.Status.CONVERGED


def test_ctrl_c_keeps_the_last_sweep(backend):
    found = backend.als(matrix(), factors=4, callback=lambda record, _: signal.raise_signal(signal.SIGINT))
    assert (found.status, len(found.history)) == (lfm_np.Status.INTERRUPTED, 1)


def test_leaves_the_number_of_threads_alone(backend, torch):
    before = torch.get_num_threads()
    backend.als(matrix(), factors=2, iterations=1, num_threads=3)
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("solver", ["exact", *STEPS])
def test_without_cholesky_conjugate_gradients_give_the_same(backend, monkeypatch, solver):
    module = sys.modules["lfm_np.torch_backend.als"]  # its name leads to the function
    real = module.check_device
    monkeypatch.setattr(module, "check_device", lambda *args: dataclasses.replace(real(*args), direct=False))
    with contextlib.nullcontext() if solver == "exact" else row_plan.every_row_steps(width=16):
        here, there = both(backend, matrix(), alpha=4.0, regularization=0.3, factors=20, solver=solver)
    assert there.params["user_rows"]["dual"] == 0
    assert_same(here, there, 1e-8)


# ---- memory ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("longest", "solver"), [(30, "exact"), (900, "exact"), (300, "cg"), (300, "subspace")])
def test_batches_stay_within_the_byte_budget(backend, torch, longest, solver):
    X, k = matrix(2500, 1200, longest=longest), 24
    sides = sum(X.shape)
    resident = 2 * 1.25 * 8 * X.nnz + (16 + 4 * (4 * k + 1)) * sides
    peaks = []
    for budget in (1 << 20, 1 << 23):
        counter = Counter(torch)
        options = {"factors": k, "iterations": 1, "solver": solver, "num_threads": 1, "memory_budget": budget}
        with counter.mode, contextlib.nullcontext() if solver == "exact" else row_plan.every_row_steps(width=16):
            backend.als(X, dtype=np.float32, **options)
        assert counter.peak < resident + budget
        peaks.append(counter.peak)
    assert peaks[0] + (1 << 20) < peaks[1], "the larger budget is used, and the counter sees it"


@pytest.mark.parametrize("solver", ["exact", *STEPS])
def test_a_row_heavier_than_the_budget_is_cut(backend, solver):
    X = sp.csr_array(np.ones((3, 30_000)))
    X.data[:] = np.random.default_rng(0).choice([1.0, 2.0], X.nnz)
    with contextlib.nullcontext() if solver == "exact" else row_plan.every_row_steps(width=16):
        here, there = both(backend, X, factors=20, iterations=1, memory_budget=1 << 20, solver=solver)
    assert_same(here, there)


def test_overlapping_fits_leave_the_number_of_threads_as_it_was(torch):
    """The second begins within the first and ends after it; a thread of later has the number of before both."""
    X = lfm_np.to_csr(lfm_np.datasets.make_interactions(60, 20, 4, random_state=0), shape=(60, 20))
    began, second_began, ended = (threading.Event() for _ in range(3))
    found = {}

    def within_first(record, view):
        began.set()
        second_began.wait(60)

    def within_second(record, view):
        second_began.set()
        ended.wait(60)

    def first():
        lfm_np.torch_backend.als(X, factors=2, iterations=1, num_threads=1, callback=within_first)
        found["first"] = torch.get_num_threads()
        ended.set()

    def second():
        began.wait(60)
        lfm_np.torch_backend.als(X, factors=2, iterations=1, num_threads=3, callback=within_second)
        found["second"] = torch.get_num_threads()

    def nested(record, view):
        lfm_np.torch_backend.als(X, factors=2, iterations=1, num_threads=3)
        found["within"] = torch.get_num_threads()

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        threads = [threading.Thread(target=fit) for fit in (first, second)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        later = threading.Thread(target=lambda: found.update(later=torch.get_num_threads()))
        later.start()
        later.join()
        lfm_np.torch_backend.als(X, factors=2, iterations=1, num_threads=1, callback=nested)
        found["here"] = torch.get_num_threads()
    finally:
        torch.set_num_threads(before)
    assert found == {"first": 2, "second": 2, "later": 2, "within": 1, "here": 2}


@pytest.mark.parametrize("outside", ["inference_mode", "no_grad", "enable_grad"])
@pytest.mark.parametrize("solver", ["als", "sgd"])
def test_callbacks_run_in_the_modes_of_the_caller(torch, solver, outside):
    X = lfm_np.to_csr(lfm_np.datasets.make_interactions(60, 20, 4, random_state=0), shape=(60, 20))
    found = []

    def callback(record, view):
        weight = torch.ones(2, requires_grad=True)
        scores = torch.tensor(view.item_factors) * weight
        found.append((scores.requires_grad, torch.is_inference_mode_enabled()))

    with getattr(torch, outside)():
        getattr(lfm_np.torch_backend, solver)(X, factors=2, random_state=0, callback=callback)
    assert set(found) == {(outside == "enable_grad", outside == "inference_mode")}
