"""The ALS kernels alone: GFLOP/s beside sgemm, and the cost model beside measured rows.

    python -m benchmarks.als_kernels                # three tables
    python -m benchmarks.als_kernels --fit          # also fit the model's constants (lfm_np/row_plan.py)
    python -m benchmarks.als_kernels --largest 128  # no k beyond

One thread, float32. A useful flop counts one triangle only: n·k·(k + 1) for a Gram matrix of n rows, n³/3 for a
Cholesky factorisation.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import scipy.optimize

from lfm_np import row_plan
from lfm_np.half_sweep import Fixed, gram_matrix, rotated
from lfm_np.kernels import als_cg, als_dual, als_primal, als_subspace, tiles
from lfm_np.kernels.als_rows import aligned
from lfm_np.kernels.jit import Pool, jit, single_threaded_blas
from lfm_np.kernels.simd import LANES
from lfm_np.row_plan import Weights
from lfm_np.validation import frozen

F = np.float32
LIMIT = 0.3  # seconds
SIDE = 8192  # rows of a whole side


def best(function, *args, repeats=15):
    """CPU seconds of the fastest of several calls, after one that compiles; no further one after LIMIT."""
    function(*args)
    times: list[float] = []
    while len(times) < repeats and sum(times) < LIMIT:
        start = time.process_time()
        function(*args)
        times.append(time.process_time() - start)
    return min(times)


@jit
def _grams(P, rows, ld, C, times):
    for _ in range(times):
        tiles.gram(P, P, rows, ld, C, 0, ld)


@jit
def _products(P, n, ld, out, times):
    for _ in range(times):
        tiles.row_products(P, n, ld, out, 0)


@jit
def _choleskys(start, A, n, ld, x, times):
    for _ in range(times):
        for e in range(start.size):
            A[e] = start[e]
        tiles.lane_cholesky(A, n, ld)
        tiles.lane_backward(A, n, ld, x)


def random(shape):
    array = aligned(shape, F)
    array[:] = np.random.default_rng(0).uniform(-0.1, 0.1, shape)
    return array


def gflops():
    """Rows of the first table: kernel, size, GFLOP/s."""
    a = random((1536, 1536))
    with single_threaded_blas():
        yield "sgemm", 1536, 2 * 1536**3 / best(np.matmul, a, a) / 1e9
    for k in (32, 64, 128, 256):
        times = 4_000_000 // k**2
        seconds = best(_grams, random((32, k)), 32, k, random((k, k)), times) / times
        yield "Gram, panel of 32 rows", k, 32 * k * (k + 1) / seconds / 1e9
    with Pool(1) as pool:
        for k in (16, 64, 128, 512, 2048):
            Y, Q = random((SIDE, k)), random((k, k))
            yield f"Gram matrix of {SIDE:,} rows", k, SIDE * k * (k + 1) / best(gram_matrix, Y, pool) / 1e9
            yield f"{SIDE:,} rows rotated", k, 2 * SIDE * k * k / best(rotated, Y, Q, random(Y.shape), pool) / 1e9
    for k, n in ((64, 8), (64, 32), (128, 32), (128, 64)):
        times = 4_000_000 // (n * k)
        out = random((n * n + 16 * n,))
        seconds = best(_products, random((n, k)), n, k, out, times) / times
        yield f"inner products of {n} rows", k, n * (n + 1) * k / seconds / 1e9
    for n in (8, 16, 32, 64, 96, 128, 192, 256):
        A = np.zeros((n, n + 2, LANES), F)
        A[range(n), range(n)] = 2
        A[:, n] = 1
        A = A.reshape(-1)
        times = max(1, 3_000_000 // n**3)
        work = aligned(A.shape, F)
        seconds = best(_choleskys, A, work, n, n + 2, np.empty((n, LANES), F), times) / times / LANES
        yield "Cholesky and solve, eight at once", n, n**3 / 3 / seconds / 1e9


def seconds_per_row(kind, n, k, others=20_000):
    """One thread, rows of ``n`` cells each, the fixed side larger than the L2 cache."""
    rng = np.random.default_rng(n)
    rows = max(64 if k * n < 1 << 17 else LANES, 20_000 // n // LANES * LANES)
    indices = np.concatenate([np.sort(rng.choice(others, n, replace=False)) for _ in range(rows)]).astype(np.int32)
    csr = frozen(np.arange(rows + 1) * n), frozen(indices), frozen(np.ones(rows * n, F))
    Y = random((others, k))
    fixed = Fixed(frozen(Y), frozen(np.eye(k, dtype=F)), frozen(np.ones(k, F)), -np.inf)
    model = fixed.G, fixed.energy, frozen(np.full(rows, 0.1, F))
    dtype, width = np.dtype(F), row_plan.subspace_width(k)
    kernel, *scratch = {
        "dual": lambda: (als_dual.dual_rows, als_dual.dual_scratch(n, k, dtype)),
        "primal": lambda: (als_primal.primal_rows, als_primal.primal_scratch(k, dtype)),
        "cg": lambda: (als_cg.cg_rows, row_plan.CG_STEPS, als_cg.cg_scratch(n, k, dtype)),
        "subspace": lambda: (als_subspace.subspace_rows, als_subspace.subspace_scratch(n, width, dtype)),
    }[kind]()
    arguments = csr, fixed.Y, model, tuple(Weights(0.9, 0.0, 1.0, 0.0, 0.1)), frozen(np.empty(0, F))
    order, X = frozen(np.arange(rows, dtype=np.int32)), aligned((rows, k), F)
    X[:] = 0
    ends = order, 0, rows, (1e-3, 1e30, -np.inf), *scratch, X, np.zeros(rows, np.uint8), np.zeros(2)
    return best(kernel, *arguments, *ends) / rows


def model_table(largest):
    """Measured and predicted nanoseconds a row, and what the model's choice costs over the better one."""
    table = []
    for k in (k for k in (32, 64, 128, 256) if k <= largest):
        for share in (0.05, 0.125, 0.25, 0.5, 0.75, 1.0, 1.25, 2.0):
            n = max(1, round(share * k))
            dual, primal = (1e9 * seconds_per_row(kind, n, k) for kind in ("dual", "primal"))
            table.append((k, n, dual, primal))
    return table


def step_table(largest):
    """Measured nanoseconds a row of the exact solution and of the steps."""
    table = []
    for k in (k for k in (64, 128, 256, 512, 1024, 2048) if k <= largest):
        for n in (8, 24, 64, 256, 1024):
            exact = "dual" if row_plan.dual_cost(np.array(n), k) < row_plan.primal_cost(np.array(n), k) else "primal"
            table.append((k, n, exact, *(1e9 * seconds_per_row(kind, n, k) for kind in (exact, "cg", "subspace"))))
    return table


def fit(table, steps):
    """Constants of the costs in `row_plan` by least squares on relative errors."""
    k, n, dual, primal = np.array(table).T
    fit_cost("dual", (np.ones_like(n), n * k, n * n, n * n * k, n**3), dual)
    fit_cost("primal", (n * k, n * k * k, k * k, k**3), primal)
    k, n, cg = np.array([(k, n, cg) for k, n, _, _, cg, _ in steps]).T
    fit_cost("cg, a pass", (n, k, n * k), cg / (row_plan.CG_STEPS + 1.5))


def fit_cost(name, terms, target):
    constants, _ = scipy.optimize.nnls((np.stack(terms) / target).T, np.ones_like(target))
    error = constants @ np.stack(terms) / target - 1
    print(f"{name}: constants {np.array2string(constants, precision=4)}; relative error up to {abs(error).max():.0%}")


def main():
    global LIMIT
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fit", action="store_true")
    parser.add_argument("--largest", type=int, default=2048, help="k of the tables")
    parser.add_argument("--seconds", type=float, default=LIMIT, help="for each measurement")
    asked = parser.parse_args()
    LIMIT = asked.seconds
    print("| kernel | size | GFLOP/s | of sgemm |\n| --- | --- | --- | --- |")
    peak = None
    for kernel, size, rate in gflops():
        peak = peak or rate
        print(f"| {kernel} | {size} | {rate:.1f} | {rate / peak:.0%} |")
    table = model_table(asked.largest)
    print("\n| k | cells | dual ns | primal ns | dual model | primal model | chosen | regret |\n" + "| --- " * 8 + "|")
    for k, n, dual, primal in table:
        models = [float(cost(np.array(n), k)) for cost in (row_plan.dual_cost, row_plan.primal_cost)]
        chosen = "dual" if models[0] < models[1] else "primal"
        regret = (dual if chosen == "dual" else primal) / min(dual, primal) - 1
        print(
            f"| {k} | {n} | {dual:.0f} | {primal:.0f} | {models[0]:.0f} | {models[1]:.0f} | {chosen} | {regret:.0%} |"
        )
    print("\n| k | cells | exact | ns | cg ns | model | subspace ns | model |\n" + "| --- " * 8 + "|")
    steps = step_table(asked.largest)
    for k, n, exact, exact_ns, *measured in steps:
        models = [float(cost(np.array(n), k)) for cost in row_plan.STEP_COSTS.values()]
        print(
            f"| {k} | {n} | {exact} | {exact_ns:.0f} | "
            + " | ".join(f"{ns:.0f} | {model:.0f}" for ns, model in zip(measured, models))
            + " |"
        )
    if asked.fit:
        fit(table, steps)


if __name__ == "__main__":
    main()
