"""Samples per second of `lfm_np.sgd` beside implicit, cornac and lightfm, interleaved in one run.

    python benchmarks/sgd_speed.py MATRIX.npz [MATRIX.npz …] [--threads 2] [--rounds 3] [--loss bpr logistic]

A matrix is a file of scipy.sparse.save_npz. Every library runs epochs of the same number of samples (one a stored cell)
with k factors; peers that are not installed are left out. Everything is compiled before; an epoch's time is the
difference between a run of 1 + E epochs and a run of one. cornac is not seeded: it would use one thread. ``--profile``
splits our epoch into drawing, sorting and training.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable

import numpy as np
import scipy.sparse as sp

import lfm_np
from lfm_np import sgd_epoch
from lfm_np.kernels import sgd_cells

MOST_EPOCHS = 20
Run = Callable[[int], None]
Clock = Callable[[], float]


def ours(X: sp.csr_array, k: int, threads: int, loss: str) -> Run:
    chosen = {"bpr": lfm_np.losses.BPR(), "logistic": lfm_np.losses.Logistic(), "warp": lfm_np.losses.WARP()}[loss]
    return lambda epochs: lfm_np.sgd(X, chosen, factors=k, epochs=epochs, num_threads=threads, random_state=0) and None


def implicit(X: sp.csr_array, k: int, threads: int, loss: str) -> Run | None:
    try:
        from implicit.cpu.bpr import BayesianPersonalizedRanking
        from implicit.cpu.lmf import LogisticMatrixFactorization
    except ImportError:
        return None
    if loss == "warp":
        return None
    matrix = sp.csr_matrix(X)

    def run(epochs: int) -> None:
        if loss == "bpr":
            model = BayesianPersonalizedRanking(
                factors=k - 1, iterations=epochs, num_threads=threads, verify_negative_samples=True, random_state=0
            )
        else:
            model = LogisticMatrixFactorization(
                factors=k - 2, iterations=epochs, num_threads=threads, neg_prop=1, random_state=0
            )
        model.fit(matrix, show_progress=False)

    return run


def cornac(X: sp.csr_array, k: int, threads: int, loss: str) -> Run | None:
    try:
        from cornac.data import Dataset
        from cornac.models import BPR
    except ImportError:
        return None
    if loss != "bpr":
        return None
    coo = X.tocoo()
    ids = {"uid_map": dict(enumerate(range(X.shape[0]))), "iid_map": dict(enumerate(range(X.shape[1])))}
    data = Dataset(X.shape[0], X.shape[1], ids["uid_map"], ids["iid_map"], (coo.row, coo.col, coo.data))

    def run(epochs: int) -> None:
        BPR(k=k, max_iter=epochs, num_threads=threads, verbose=False).fit(data)

    return run


def lightfm(X: sp.csr_array, k: int, threads: int, loss: str) -> Run | None:
    try:
        from lightfm import LightFM
    except ImportError:
        return None
    matrix = sp.coo_matrix(X)

    def run(epochs: int) -> None:
        LightFM(no_components=k, loss=loss, random_state=0).fit(matrix, epochs=epochs, num_threads=threads)

    return run


LIBRARIES = {"lfm_np": ours, "implicit": implicit, "cornac": cornac, "lightfm": lightfm}


def seconds_an_epoch(run: Run, epochs: int, clock: Clock) -> float:
    times = []
    for count in (1, 1 + epochs):
        started = clock()
        run(count)
        times.append(clock() - started)
    return (times[1] - times[0]) / epochs


def epochs_for(run: Run, seconds: float, clock: Clock) -> int:
    """As many epochs as take some seconds, so that the set-up's noise is small beside them; one where that is long."""
    run(1)  # compiles
    started = clock()
    run(1)
    if clock() - started > 2 * seconds:
        return 1
    return max(1, min(MOST_EPOCHS, int(seconds / max(seconds_an_epoch(run, 2, clock), 0.05))))


def compare(
    X: sp.csr_array,
    k: int,
    threads: int,
    loss: str,
    rounds: int,
    only: list[str],
    seconds: float,
    clock: Clock,
) -> dict[str, float]:
    """Median million samples a second of every library, rounds interleaved."""
    makers = {name: make for name, make in LIBRARIES.items() if name in only}
    runs = {name: run for name, make in makers.items() if (run := make(X, k, threads, loss))}
    epochs = {name: epochs_for(run, seconds, clock) for name, run in runs.items()}
    speeds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            speeds[name].append(X.nnz / seconds_an_epoch(run, epochs[name], clock) / 1e6)
    return {name: float(np.median(values)) for name, values in speeds.items()}


def profile(X: sp.csr_array, k: int, clock: Clock) -> None:
    """Where one thread's time goes, in nanoseconds a sample, at k and at a sixteenth of the memory traffic."""
    spent: dict[str, float] = {}

    def timed(owner: object, name: str) -> Callable[[], None]:
        original = getattr(owner, name)

        def wrapper(*args: object) -> object:
            started = clock()
            try:
                return original(*args)
            finally:
                spent[name] = spent.get(name, 0.0) + clock() - started

        setattr(owner, name, wrapper)
        return lambda: setattr(owner, name, original)

    for factors in (k, 16):
        undo = [timed(sgd_epoch.Trainer, "_sort"), timed(sgd_cells, "train_cells"), timed(sgd_epoch.Trainer, "epoch")]
        spent.clear()
        fit = lfm_np.sgd(X, factors=factors, epochs=3, num_threads=1, random_state=0)
        for restore in undo:
            restore()
        each = {name: seconds / 3 / X.nnz * 1e9 for name, seconds in spent.items()}
        rest = each["epoch"] - each["_sort"] - each["train_cells"]
        print(
            f"  k={factors}: draw and sort {each['_sort']:.0f} ns, train {each['train_cells']:.0f} ns, "
            f"rest {rest:.0f} ns a sample; G = {fit.params['blocks']}; {3 * factors * 2 * 4} bytes of factors a sample"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("matrices", nargs="+")
    parser.add_argument("--threads", type=int, nargs="+", default=[2])
    parser.add_argument("--factors", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--loss", nargs="+", default=["bpr"])
    parser.add_argument("--only", nargs="+", default=list(LIBRARIES))
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--cpu-time", action="store_true", help="of all threads together: for a machine that is shared")
    parser.add_argument("--seconds", type=float, default=5.0, help="to measure for each library and round")
    arguments = parser.parse_args()
    clock = time.process_time if arguments.cpu_time else time.perf_counter
    unit = "second of CPU time" if arguments.cpu_time else "second"
    warnings.simplefilter("ignore")
    for path in arguments.matrices:
        X = sp.csr_array(sp.load_npz(path))
        print(f"{path}: {X.shape[0]} x {X.shape[1]}, {X.nnz} stored", flush=True)
        for loss in arguments.loss:
            for threads in arguments.threads:
                speeds = compare(
                    X, arguments.factors, threads, loss, arguments.rounds, arguments.only, arguments.seconds, clock
                )
                table = ", ".join(
                    f"{name} {speed:.2f} ({speeds['lfm_np'] / speed:.1f}x)" for name, speed in speeds.items()
                )
                print(f"  {loss}, {threads} threads, million samples a {unit}: {table}", flush=True)
        if arguments.profile:
            profile(X, arguments.factors, clock)


if __name__ == "__main__":
    main()
