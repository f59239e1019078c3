"""Where the kernels stand under the roofs of the machine: GFLOP/s against flops a byte, one thread, float32.

    python -m benchmarks.roofline --output roofline.svg

The flat roof is sgemm, the slopes are what one thread reads: a long array, and rows gathered at random from an array
of the size of an item side (20,000 rows, as in `benchmarks.als_kernels`). Bytes are the compulsory ones: every gathered
row once, every written row once; what a kernel keeps in registers and L1 does not count. A step of SGD reads and writes
three rows.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NamedTuple

import numpy as np

import lfm_np
from benchmarks import als_kernels
from lfm_np.kernels.jit import jit, single_threaded_blas
from lfm_np.kernels.simd import WIDTH, add, load, store

ITEMS = 20_000
BYTES = 4


class Point(NamedTuple):
    name: str
    intensity: float  # flops a byte
    gflops: float


@jit
def _sum_rows(Y, rows, k, out):
    """Sum of the rows, gathered one after the other: as little arithmetic as a gather can have."""
    for p in range(rows.size):
        for j in range(0, k, WIDTH):
            store(out, j, add(load(Y, np.int64(rows[p]) * k + j, WIDTH), load(out, j, WIDTH)))


def stream() -> float:
    """GB/s that one thread reads from an array far larger than any cache."""
    array = np.ones(1 << 26, np.float32)
    with single_threaded_blas():
        return array.nbytes / als_kernels.best(np.sum, array, repeats=5) / 1e9


def gather(k: int) -> float:
    """GB/s of rows gathered at random from ITEMS rows."""
    Y, out = als_kernels.random((ITEMS, k)), np.zeros(k, np.float32)
    rows = np.random.default_rng(0).integers(ITEMS, size=200_000).astype(np.int32)
    return rows.size * k * BYTES / als_kernels.best(_sum_rows, Y.reshape(-1), rows, k, out, repeats=5) / 1e9


def row_points(k: int, cells: int, kind: str) -> Point:
    """A row of ``cells`` cells solved exactly, flops of one triangle each."""
    if kind == "dual":
        flops = cells * (cells + 1) * k + cells**3 / 3 + 4 * cells * k
    else:
        flops = cells * k * (k + 1) + k**3 / 3 + 4 * cells * k
    seconds = als_kernels.seconds_per_row(kind, cells, k)
    return Point(f"{kind}, {cells} cells, k {k}", flops / ((cells + 1) * k * BYTES), flops / seconds / 1e9)


def sgd_point(k: int, cells: int) -> Point:
    """A BPR step with its draw: three rows read and written, two products, six multiply-adds a factor."""
    X = lfm_np.datasets.planted(30_000, ITEMS, cells, random_state=0).matrix
    history = lfm_np.sgd(X, lfm_np.losses.BPR(), factors=k, epochs=3, num_threads=1, random_state=0).history
    seconds = min(record["seconds"] for record in history) / X.nnz
    flops = 16 * k
    return Point(f"BPR step, k {k}", flops / (6 * k * BYTES), flops / seconds / 1e9)


def measure(cells: int) -> tuple[dict[str, float], list[Point]]:
    """Roofs (GFLOP/s of sgemm, GB/s of a stream and of gathered rows) and the kernels."""
    peak = next(iter(als_kernels.gflops()))[2]
    roofs = {"sgemm": peak, "stream": stream(), "gather": gather(64)}
    shapes = [("dual", 3, 64), ("dual", 16, 64), ("dual", 48, 64), ("dual", 64, 128)]
    shapes += [("primal", 128, 64), ("primal", 1024, 64), ("primal", 256, 128), ("primal", 1024, 128)]
    points = [row_points(k, cells, kind) for kind, cells, k in shapes]
    return roofs, [*points, *(sgd_point(k, cells) for k in (16, 64, 128))]


def draw(roofs: dict[str, float], points: list[Point], path: Path) -> None:
    from matplotlib.figure import Figure

    axes = Figure(figsize=(7.5, 4.8), layout="constrained").add_subplot()
    x = np.geomspace(0.2, 500, 200)
    for name, style in (("stream", "-"), ("gather", "--")):
        roof = np.minimum(roofs["sgemm"], roofs[name] * x)
        axes.plot(
            x, roof, "k" + style, lw=1, label=f"{name} {roofs[name]:.0f} GB/s, sgemm {roofs['sgemm']:.0f} GFLOP/s"
        )
    for kind, marker in (("dual", "o"), ("primal", "s"), ("BPR", "^")):
        own = [point for point in points if point.name.startswith(kind)]
        axes.plot([p.intensity for p in own], [p.gflops for p in own], marker, label=kind)
        for p in own:
            axes.annotate(
                p.name.split(", ", 1)[1], (p.intensity, p.gflops), (4, -9), textcoords="offset points", fontsize=6
            )
    axes.set(xscale="log", yscale="log", xlabel="flops a byte gathered or written", ylabel="GFLOP/s, one thread")
    axes.grid(alpha=0.3, which="both", lw=0.4)
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    axes.figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=None, help="picture (SVG or PNG)")
    parser.add_argument("--cells", type=int, default=1_000_000, help="of the matrix for SGD")
    asked = parser.parse_args()
    roofs, points = measure(asked.cells)
    shown = ", ".join(f"{name} {roof:.1f}" for name, roof in roofs.items())
    print(f"roofs in GFLOP/s, GB/s, GB/s: {shown}")
    print("| kernel | flops a byte | GFLOP/s | of its roof |\n| --- | --- | --- | --- |")
    for name, intensity, rate in points:
        roof = min(roofs["sgemm"], roofs["gather"] * intensity)
        print(f"| {name} | {intensity:.1f} | {rate:.1f} | {rate / roof:.0%} |")
    if asked.output:
        draw(roofs, points, asked.output)


if __name__ == "__main__":
    main()
