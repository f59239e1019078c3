"""Estimated memory against the arrays that are alive at the peak, and refusing in time."""

import contextlib
import functools
import itertools
import re
import tracemalloc

import numpy as np
import pytest
import scipy.sparse as sp
from optional import require
from torch_memory import peak_of as peak_with_tensors

import lfm_np
from lfm_np import losses, memory, row_plan
from lfm_np.kernels.jit import JIT_DISABLED
from lfm_np.stored import matrix as stored_matrix

SHAPES = [  # m, n, cells, k: cells weigh most, users, both sides with large k, a little of everything
    (20_000, 20_000, 2_000_000, 8),
    (200_000, 4_000, 600_000, 64),
    (40_000, 40_000, 400_000, 128),
    (60_000, 10_000, 1_500_000, 16),
]


@functools.cache
def matrix(m, n, cells):
    """Canonical, with int32 indices."""
    rng = np.random.default_rng(0)
    key = np.unique(rng.integers(m * n, size=cells))
    indptr = np.searchsorted(key // n, np.arange(m + 1)).astype(np.int32)
    return sp.csr_array((np.ones(len(key), np.float32), (key % n).astype(np.int32), indptr), shape=(m, n))


def peak_of(fit, X):
    """Bytes of NumPy's arrays at the peak of ``fit(X)``, beside X."""
    fit(matrix(300, 40, 1000).astype(X.dtype))  # compiles
    tracemalloc.start()
    try:
        fit(X)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


FITS = [{}, {"loss": losses.BPR()}, {"loss": losses.Logistic()}]  # to every shape
MORE_FITS = [  # to two of them
    {"solver": "cg"},
    {"solver": "subspace"},
    {"weighting": "ratings", "biases": True, "regularization": 10.0},  # of well-conditioned rows
    {"weighting": "ratings", "biases": True, "solver": "cg", "dtype": "float64"},
    {"weighting": "ratings", "biases": True, "regularization": 1e-9},  # of rows that are solved again in float64
    {"dtype": "float64"},
    {"loss": losses.Squared(), "biases": True, "sampler": None, "dtype": "float64"},
]
VALUED_FITS = [  # to one of many cells a row
    {"loss": losses.BPR(weighted=True)},
    {"loss": losses.BPR(), "dtype": "float64"},
    {"loss": losses.Logistic(weighted=True), "biases": True, "schedule": "adagrad"},
    {"loss": losses.Squared(), "biases": True},
    *({"loss": losses.Squared(), "biases": True, "sampler": None, "dtype": t} for t in ("float32", "float64")),
    {"loss": losses.Logistic(), "sampler": None},
]
DENSE = (3_000, 2_000, 500_000, 16)
TALL = (200_000, 1_000, 250_000, 16)  # where the plan of the rows weighs most
SMALL = [(3_000, 3_000, 60_000, 64), (1_000, 20_000, 40_000, 16), (20_000, 1_000, 40_000, 16)]  # from 2 MB on
WIDE = (1_000, 20_000, 40_000, 128)  # where drawing V and turning it to its canonical basis would take most
LARGE_K = (3_000, 3_000, 2_500_000, 320)  # of long rows, to exact `als` only: what counts is in k²


def asked_by(options):
    """The solver, what its sweeps are called, and what the estimate is told of the options."""
    own = {name: options[name] for name in ("dtype", "biases") if name in options}
    if "loss" not in options:
        return "als", "iterations", own
    loss = options["loss"]
    values = getattr(loss, "weighted", False) or isinstance(loss, losses.Squared)
    return "sgd", "epochs", own | {"sampled": options.get("sampler", ...) is not None, "uses_values": values}


@pytest.mark.skipif(JIT_DISABLED, reason="of compiled code")
@pytest.mark.parametrize(
    ("options", "shape"),
    [
        *itertools.product(FITS, SHAPES),
        *itertools.product(MORE_FITS, SHAPES[1:3]),
        *itertools.product(VALUED_FITS, [DENSE]),
        ({"solver": "exact"}, LARGE_K),
        *itertools.product([{}, {"solver": "cg"}], [*SMALL, WIDE]),
        *itertools.product([{}, {"solver": "cg"}, *MORE_FITS[2:6]], [TALL]),
    ],
    ids=lambda some: "-".join(map(str, some.values())) or "als" if isinstance(some, dict) else str(some),
)
def test_the_estimate_is_within_15_percent_of_the_peak(shape, options):
    *sizes, k = shape
    solver, sweeps, own = asked_by(options)
    X = matrix(*sizes).astype(own.get("dtype", "float32"))
    if shape == DENSE:  # values that all differ: the most that the constant of the biases takes
        X.data[:] = 1 + np.arange(X.nnz)[::-1] / X.nnz

    def fit(X):
        getattr(lfm_np, solver)(X, factors=k, num_threads=2, random_state=0, **{sweeps: 1} | options)

    estimate = lfm_np.estimate_memory(*sizes[:2], X.nnz, factors=k, solver=solver, num_threads=2, **own)
    assert estimate == pytest.approx(peak_of(fit, X), rel=0.15)


@pytest.mark.skipif(JIT_DISABLED, reason="of compiled code")
@pytest.mark.parametrize("solver", ["exact", "cg", "subspace"])
@pytest.mark.parametrize("threads", [1, 2])
def test_of_many_factors_and_short_rows_only_scratch_of_threads_is_less_than_estimated(solver, threads):
    m, n, cells, k = 4_000, 1_000, 100_000, 320
    X, ld = matrix(m, n, cells), row_plan.padded(k)

    def fit(X):
        lfm_np.als(X, factors=k, num_threads=threads, random_state=0, iterations=1, solver=solver)

    fit(X)  # compiles what a smaller matrix does not need
    estimate, peak = lfm_np.estimate_memory(m, n, X.nnz, factors=k, num_threads=threads), peak_of(fit, X)
    assert estimate >= 0.85 * peak
    assert estimate - 20 * ld * ld * 4 * threads <= 1.15 * peak


TORCH_SHAPES = [(m // 4, n // 4, cells // 4, k) for m, n, cells, k in SHAPES]  # counting every operation takes time
TORCH_FITS = [
    *({"solver": solver} for solver in ("exact", "cg", "subspace")),
    {"weighting": "ratings", "biases": True, "regularization": 10.0},
    {"loss": losses.BPR()},
    {"loss": losses.Logistic(), "biases": True, "dtype": "float64"},
    {"loss": losses.Squared(), "sampler": None, "biases": True},
]


@pytest.mark.skipif(JIT_DISABLED, reason="of compiled code")
@pytest.mark.parametrize("shape", TORCH_SHAPES, ids=str)
@pytest.mark.parametrize("options", TORCH_FITS, ids=lambda some: "-".join(map(str, some.values())))
def test_the_estimate_of_torch_is_within_15_percent_of_the_peak(shape, options):
    torch = require("torch")
    *sizes, k = shape
    solver, sweeps, own = asked_by(options)
    X = matrix(*sizes).astype(own.get("dtype", "float32"))

    def fit(k):
        getattr(lfm_np.torch_backend, solver)(X, factors=k, num_threads=2, random_state=0, **{sweeps: 1} | options)

    peak_with_tensors(torch, lambda: fit(1))  # compiles, and torch imports what its first counted call needs
    estimate = lfm_np.estimate_memory(*sizes[:2], X.nnz, factors=k, solver=solver, backend="torch", **own)
    assert estimate == pytest.approx(peak_with_tensors(torch, lambda: fit(k)), rel=0.15)


@pytest.mark.small
@pytest.mark.skipif(JIT_DISABLED, reason="of compiled code")
def test_the_estimate_of_torch_knows_the_basis_of_many_factors():
    torch = require("torch")
    X, k = matrix(60, 20, 400).astype(np.float64), 1000

    def fit(k):
        lfm_np.torch_backend.als(X, factors=k, num_threads=2, random_state=0, iterations=1, dtype=np.float64)

    peak_with_tensors(torch, lambda: fit(1))  # as above
    estimate = lfm_np.estimate_memory(60, 20, X.nnz, factors=k, backend="torch", dtype="float64")
    assert estimate == pytest.approx(peak_with_tensors(torch, lambda: fit(k)), rel=0.15)


@pytest.mark.parametrize("solver", ["als", "sgd"])
def test_torch_refuses_what_cannot_fit_a_device(solver, monkeypatch):
    require("torch")
    from lfm_np.torch_backend.device import Device

    X = matrix(300, 40, 1000)
    fit = getattr(lfm_np.torch_backend, solver)
    need = lfm_np.estimate_memory(300, 40, X.nnz, factors=16, solver=solver, backend="torch")
    told = {"backend": "torch", "memory_budget": memory.TORCH_BUDGET}
    for free, refused in ((need, False), (need - 1, True)):
        monkeypatch.setattr(Device, "memory", lambda self, free=free: told | {"available": free})
        with pytest.raises(MemoryError, match="take fewer factors") if refused else contextlib.nullcontext():
            fit(X, factors=16, num_threads=1, random_state=0)


@pytest.mark.parametrize(("m", "k"), [(500, 800), (50_000, 320)])
def test_systems_of_segments_take_a_share_of_the_factors(m, k):
    """A row of all cells, and few others: it is cut, but not into many systems of k² numbers."""
    n = 4000
    X = sp.vstack([sp.csr_array(np.ones((1, n), np.float32)), matrix(m - 1, n, 10 * m)]).tocsr()
    side = row_plan.plan_side((X.indptr, X.indices, X.data), np.ones(m), row_plan.Weights(0, 1, 0, 1, 1), k, n)
    segments = len(side.heavy.cells)
    assert 1 < segments * k * k <= 5 / 3 * max(16 * k * k, 2 * (m + n) * k / 8)  # ⌈cost⌉ < 5/3 cost, of more than 1.5


@pytest.mark.small
def test_lists_that_cannot_fit_are_refused_by_name(monkeypatch):
    monkeypatch.setattr(memory, "available_memory", lambda: 1 << 30)
    factors = lfm_np.Factors(np.ones((2, 1)), np.ones((3, 1)))
    for ask in (factors.recommend, factors.similar_items, factors.similar_users):
        assert ask(0, N=9).ids.shape == (9,)
        with pytest.raises(MemoryError, match=r"1 lists of N=2147483647 need about 32\.00 GiB, and 1\.00 GiB are"):
            ask(0, N=2**31 - 1)


@pytest.mark.small
@pytest.mark.parametrize("solver", ["als", "sgd"])
def test_what_cannot_fit_is_refused_with_numbers_and_a_remedy(solver, monkeypatch):
    X = matrix(300, 40, 1000)
    fit = getattr(lfm_np, solver)
    need = lfm_np.estimate_memory(300, 40, X.nnz, factors=16, solver=solver, num_threads=3)
    monkeypatch.setattr(memory, "available_memory", lambda: need)
    fit(X, factors=16, num_threads=3, random_state=0)
    monkeypatch.setattr(memory, "available_memory", lambda: need - 1)
    with pytest.raises(MemoryError, match=re.escape(f"{solver} with factors=16 on a matrix of 300 × 40")) as caught:
        fit(X, factors=16, num_threads=3)
    assert "take fewer factors" in str(caught.value)
    assert "GiB are available" in str(caught.value)


@pytest.mark.small
def test_arguments_are_checked():
    for bad in (
        {"m": -1},
        {"factors": 0},
        {"solver": "cg"},
        {"dtype": "int8"},
        {"biases": 1},
        {"uses_values": 1},
        {"num_threads": 0},
        {"backend": "cuda"},
    ):
        with pytest.raises((ValueError, TypeError), match=next(iter(bad))):
            lfm_np.estimate_memory(**({"m": 10, "n": 10, "nnz": 10} | bad))


@pytest.mark.small
def test_more_of_anything_needs_more():
    base = {"m": 1000, "n": 1000, "nnz": 100_000, "factors": 16}
    for solver in ("als", "sgd"):
        least = lfm_np.estimate_memory(**base, solver=solver)
        for name, value in base.items():
            assert lfm_np.estimate_memory(**(base | {name: 2 * value}), solver=solver) > least
        assert lfm_np.estimate_memory(**base, solver=solver, dtype="float64") > least


@pytest.fixture
def system(tmp_path, monkeypatch):
    """A root of a system's files, which has none yet, and what writes one."""
    monkeypatch.setattr(memory, "_SYSTEM", tmp_path)
    monkeypatch.setattr(memory, "_address_space", lambda: None)

    def write(file, text):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(text, encoding="utf-8")

    return write


@pytest.mark.small
def test_a_system_that_does_not_say_what_is_free(system):
    assert memory.available_memory() is None
    system("proc/meminfo", "MemTotal: 8000 kB\nMemFree: 4000 kB\nSwapTotal: 0 kB\nSwapFree: 0 kB\n")  # as WSL 1
    assert memory.available_memory() is None
    system("proc/meminfo", "MemTotal: 8000 kB\nMemAvailable: 5000 kB\nSwapFree: 10 kB\n")
    assert memory.available_memory() == 5010 * 1024


@pytest.mark.small
@pytest.mark.parametrize("version", [1, 2])
def test_the_least_of_a_cgroup_and_those_around_it(system, version):
    top = "sys/fs/cgroup" if version == 2 else "sys/fs/cgroup/memory"
    limit, used = ("max", "current") if version == 2 else ("limit_in_bytes", "usage_in_bytes")

    def group(path, most, now, inactive):
        system(f"{top}/{path}/memory.{limit}", f"{most}\n")
        system(f"{top}/{path}/memory.{used}", f"{now}\n")
        system(f"{top}/{path}/memory.stat", f"cache 5\ninactive_file {inactive}\n")

    group(".", 2**40, 0, 0)
    assert memory.available_memory() == 2**40
    group("batch/job/step", 10_000, 4000, 1000)
    group("other", 1, 1, 0)
    system("proc/self/cgroup", "7:cpu,cpuacct:/other\n4:memory:/batch/job/step\n0::/batch/job/step\n")
    assert memory.available_memory() == 7000
    group("batch/job", "max" if version == 2 else 2**62, 0, 0)
    group("batch", 5000, 4500, 0)
    assert memory.available_memory() == 500
    group("batch", 4000, 4500, 0)
    assert memory.available_memory() == 0
    system("proc/self/cgroup", "4:memory:/of/the/host\n0::/of/the/host\n")  # of a container: it is the topmost
    assert memory.available_memory() == 2**40


@pytest.mark.small
def test_where_nothing_is_left_a_stored_matrix_does_not_take_gigabytes(monkeypatch):
    for left, taken in ((None, 2 << 30), (8 << 20, 4 << 20), (0, 1 << 20)):
        monkeypatch.setattr(stored_matrix, "available_memory", lambda left=left: left)
        assert stored_matrix._check_memory(None) == taken
