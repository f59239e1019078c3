"""What solver="auto" of als chooses beside what converges soonest.

    python -m benchmarks.als_choice --factors 64 128 256 512

The matrices are planted with the lengths of rows and columns of the three workloads, at a sixteenth of the size (of
`seed` of the users alone, which keeps items beyond k). Every solver runs until a sweep lowers the objective by less
than a hundred-thousandth of it; the lowest objective of them all is the converged one. A solver's time is that until it
is within 0.1 % of it: the sweeps it takes, times the median of their CPU seconds on one thread, so that what else the
machine does weighs little.
"""

from __future__ import annotations

import argparse
import time
from typing import Any, NamedTuple

import numpy as np

import lfm_np
from lfm_np.datasets import planted

SHAPES = {"seed": (62_500, 1000, 156_000), "ml20m": (8_600, 1_700, 500_000), "tall": (31_000, 6_200, 500_000)}
SOLVERS = ("exact", "cg", "subspace")
NEAR = 1.001
OPTIONS: dict[str, Any] = {"alpha": 10.0, "regularization": 10.0, "random_state": 0, "num_threads": 1}


class Curve(NamedTuple):
    """A converged run."""

    objectives: list[float]  # after every sweep
    seconds: float  # CPU, of a sweep

    def sweeps_to(self, objective: float) -> float:
        """Sweeps until ``objective``; inf if it is not reached."""
        return next((sweep for sweep, found in enumerate(self.objectives, 1) if found <= objective), float("inf"))


def curve(X, k, solver, most):
    """A run of at most ``most`` sweeps; the first one may compile and is not timed."""
    stamps = []
    found = lfm_np.als(
        X,
        factors=k,
        solver=solver,
        iterations=most,
        tolerance=1e-5,
        callback=lambda *_: stamps.append(time.process_time()),
        **OPTIONS,
    )
    return Curve([record["objective"] for record in found.history], float(np.median(np.diff(stamps))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--factors", nargs="+", type=int, default=[64, 128, 256])
    parser.add_argument("--datasets", nargs="+", default=list(SHAPES))
    parser.add_argument("--sweeps", type=int, default=100, help="at most")
    asked = parser.parse_args()
    print("| | k | " + " | ".join(f"{solver}, s (sweeps)" for solver in SOLVERS) + " | auto | regret |")
    print("| --- " * (len(SOLVERS) + 4) + "|")
    for k in asked.factors:
        for name in asked.datasets:
            X = planted(*SHAPES[name], rank=32, random_state=0).matrix
            curves = {solver: curve(X, k, solver, asked.sweeps) for solver in SOLVERS}
            target = NEAR * min(own.objectives[-1] for own in curves.values())
            sweeps = {solver: own.sweeps_to(target) for solver, own in curves.items()}
            seconds = {solver: sweeps[solver] * own.seconds for solver, own in curves.items()}
            auto = lfm_np.als(X, factors=k, iterations=1, solver="auto", **OPTIONS).params["solver"]
            cells = [f"{seconds[solver]:.2f} ({sweeps[solver]})" for solver in SOLVERS]
            regret = seconds[auto] / min(seconds.values()) - 1
            print(f"| {name} | {k} | {' | '.join(cells)} | {auto} | {regret:.0%} |", flush=True)


if __name__ == "__main__":
    main()
