"""How seconds and memory of a sweep of `als` grow with m, n, cells and k, beside what the models say.

``python -m benchmarks.growth`` changes one of them at a time over two decades, each fit in a process of its own, and
prints measured and predicted values with the exponents fitted to them; ``--plot FOLDER``, one that exists, draws both.
Seconds are CPU time on one thread (best of some sweeps), predicted by the cost model that plans the rows
(`lfm_np.row_plan`); memory is that of the arrays at the peak, beside X, predicted by `lfm_np.estimate_memory`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

import lfm_np
from benchmarks.report import exponent
from benchmarks.schedule import zipf_matrix
from lfm_np import row_plan
from lfm_np.problem import narrow

MIDDLE = {"m": 100_000, "n": 3_000, "cells": 1_000_000, "k": 64}
SIZES = {
    "m": (10_000, 32_000, 100_000, 320_000, 1_000_000),
    "n": (300, 1_000, 3_000, 10_000, 30_000),
    "cells": (100_000, 320_000, 1_000_000, 3_200_000, 10_000_000),
    "k": (8, 24, 80, 256, 800),
}
SWEEPS = 3
VALUES = "seconds", "seconds_model", "bytes", "bytes_model"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--axes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--largest", type=int, default=10**9, help="leave out sizes above this")
    parser.add_argument("--plot", type=Path, help="a folder")
    parser.add_argument("--here", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.here:
        print(json.dumps(measured(**options.here)))
        return
    for axis in options.axes:
        rows = [run(MIDDLE | {axis: size}) for size in SIZES[axis] if size <= options.largest]
        print(table(axis, rows), flush=True)
        if options.plot:
            plot(axis, rows, options.plot / f"growth_{axis}.png")


def run(sizes: dict[str, int]) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.growth", "--here", json.dumps(sizes)]
    root = Path(__file__).parents[1]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True, cwd=root).stdout)


def measured(m: int, n: int, cells: int, k: int) -> dict[str, Any]:
    """One fit, and what the models say of it."""
    X, seconds = narrow(zipf_matrix(m, n, cells)), []  # else `als` does it, which takes memory
    fit(zipf_matrix(2000, 300, 20_000), k, lambda record, factors: None)  # compiles
    tracemalloc.start()
    started = [time.thread_time()]

    def note(record: dict[str, Any], factors: Any) -> None:
        seconds.append(time.thread_time() - started[0])
        started[0] = time.thread_time()

    fit(X, k, note)
    held = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return {
        "m": m,
        "n": n,
        "cells": X.nnz,
        "k": k,
        "seconds": min(seconds[1:]),
        "seconds_model": modelled(X, k),
        "bytes": held,
        "bytes_model": lfm_np.estimate_memory(m, n, X.nnz, factors=k, num_threads=1),
    }


def fit(X: sp.csr_array, k: int, callback: Any) -> None:
    asked = {"alpha": 10.0, "regularization": 0.1, "num_threads": 1, "random_state": 0, "solver": "exact"}
    lfm_np.als(X, factors=k, iterations=SWEEPS, callback=callback, **asked)


def modelled(X: sp.csr_array, k: int) -> float:
    """Seconds of a sweep by the constants of `row_plan`."""
    ld, weights, total = -(-k // 16) * 16, row_plan.Weights(0.0, 10.0, 1.0, 10.0, 1.0), 0.0
    for side in (X, X.T.tocsr()):
        lengths, others = np.diff(side.indptr), side.shape[1]
        fine = np.zeros(len(lengths), np.bool_)
        scheme = row_plan.choose_scheme(lengths, fine, weights, k, others, "exact")
        cost = row_plan.primal_cost(lengths, ld)
        if scheme.rotate:
            cost = np.minimum(cost, row_plan.dual_cost(lengths, ld))
        shared = row_plan.GRAM_ROW * ld * ld + row_plan.rotate_cost(ld) * scheme.rotate
        total += float(cost[lengths > 0].sum()) + shared * others
    return total * 1e-9


def table(axis: str, rows: list[dict[str, Any]]) -> str:
    sizes = [row[axis] for row in rows]
    lines = [f"| {axis} | seconds | model | MiB | model |", "| --- | --- | --- | --- | --- |"]
    for row in rows:
        shown = f"{row['seconds']:.3g} | {row['seconds_model']:.3g} | {row['bytes'] / 2**20:.0f}"
        lines.append(f"| {row[axis]:,} | {shown} | {row['bytes_model'] / 2**20:.0f} |")
    for name, chosen in (("exponent, all", slice(None)), ("exponent, last step", slice(-2, None))):
        fits = [exponent(sizes[chosen], [row[value] for row in rows[chosen]]) for value in VALUES]
        lines.append(f"| {name} | " + " | ".join(f"{fitted:.2f}" for fitted in fits) + " |")
    return "\n".join(lines) + "\n"


def plot(axis: str, rows: list[dict[str, Any]], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    for axes, value, unit in zip(figure.subplots(1, 2), ("seconds", "bytes"), ("CPU seconds a sweep", "bytes")):
        for name, style, label in ((value, "o-", "measured"), (f"{value}_model", "--", "predicted")):
            sizes, values = [row[axis] for row in rows], [row[name] for row in rows]
            axes.plot(sizes, values, style, markersize=3, label=f"{label}: exponent {exponent(sizes, values):.2f}")
        axes.set(xlabel=axis, ylabel=unit, xscale="log", yscale="log")
        axes.grid(alpha=0.3)
        axes.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
