"""What solver="auto" of als chooses beside what reaches the same objective soonest.

    python -m benchmarks.als_choice --factors 64 128 256 512

The matrices are planted with the lengths of rows and columns of the three workloads, at a sixteenth of the size (of
`seed` of the users alone, which keeps items beyond k). Time is CPU seconds of one thread, summed over sweeps, until the
objective is within 0.1 % of what "exact" reaches in the last one; what another solver does not reach in as many sweeps
is no candidate. Steps are cheaper than solutions, and need more sweeps: per sweep they could not be compared.
"""

from __future__ import annotations

import argparse
import time

import lfm_np
from lfm_np.datasets import planted

SHAPES = {"seed": (62_500, 1000, 156_000), "ml20m": (8_600, 1_700, 500_000), "tall": (31_000, 6_200, 500_000)}
SOLVERS = ("exact", "cg", "subspace")
NEAR = 1.001


def curve(X, k, solver, sweeps):
    """(CPU seconds so far, objective) after every sweep; a first call compiles and is not measured."""
    points, spent = [], 0.0

    def note(record, _):
        nonlocal spent, started
        spent += time.process_time() - started
        points.append((spent, record["objective"]))
        started = time.process_time()

    options = {"factors": k, "alpha": 10.0, "regularization": 0.1, "random_state": 0, "num_threads": 1}
    lfm_np.als(X, **options, solver=solver, iterations=1)
    started = time.process_time()
    lfm_np.als(X, **options, solver=solver, iterations=sweeps, callback=note)
    return points


def seconds_to(points, objective):
    return next((seconds for seconds, found in points if found <= objective), float("inf"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--factors", nargs="+", type=int, default=[64, 128, 256])
    parser.add_argument("--datasets", nargs="+", default=list(SHAPES))
    parser.add_argument("--sweeps", type=int, default=10)
    asked = parser.parse_args()
    print("| | k | " + " | ".join(f"{solver}, s (sweeps)" for solver in SOLVERS) + " | auto | regret |")
    print("| --- " * (len(SOLVERS) + 4) + "|")
    for k in asked.factors:
        for name in asked.datasets:
            X = planted(*SHAPES[name], rank=32, random_state=0).matrix
            curves = {solver: curve(X, k, solver, asked.sweeps) for solver in SOLVERS}
            target = NEAR * curves["exact"][-1][1]
            seconds = {solver: seconds_to(points, target) for solver, points in curves.items()}
            auto = lfm_np.als(X, factors=k, iterations=1, solver="auto").params["solver"]
            cells = [
                f"{seconds[solver]:.2f} ({sum(found > target for _, found in points) + 1})"
                for solver, points in curves.items()
            ]
            regret = seconds[auto] / min(seconds.values()) - 1
            print(f"| {name} | {k} | {' | '.join(cells)} | {auto} | {regret:.0%} |", flush=True)


if __name__ == "__main__":
    main()
