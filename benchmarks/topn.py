"""Users a second of top-N recommendation, seen items removed, against implicit, irspack and NumPy, interleaved.

    python -m benchmarks.topn TRAIN.npz [TRAIN.npz …] [--factors 64 128] [--users 20000] [--repeats 5] [--threads 2]

TRAIN.npz: a matrix saved by ``scipy.sparse.save_npz``; ``ml-1m`` stands for MovieLens-1M. Every contender gets the
same factors: of ``lfm_np.als`` with the stated parameters, for some users and for those who have seen most, and of the
same shape but flat (random, items of norm 1, where no norm can prune). ``floats`` is ours as on a processor that does
not multiply bytes, ``plain`` without any bounds; ``blocks`` is NumPy at its best: sgemm of a block that stays in the
cache, argpartition, blocks on threads; ``sgemm`` only scores. Contenders that are not installed are left out. Printed
are rates by the best time, with the ratio; ratios of the least CPU time, which other work on the machine disturbs less;
and the share of users whose ids equal ours: contenders round differently, so a few may not.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.metadata
import importlib.util
import platform
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import scipy.sparse as sp
import threadpoolctl

import lfm_np
from lfm_np.item_index import build_index

ALS = {
    "weighting": "ials",
    "regularization": 0.003,
    "unobserved_weight": 0.1,
    "regularization_exponent": 1.0,
    "solver": "exact",
}
SWEEPS = 8
BLOCK = 1024  # users of a block where a contender needs one; near each one's best here
CACHE = 1 << 20  # bytes of scores that stay in a core's cache
Contender = Callable[[np.ndarray], np.ndarray]


def ours(factors: lfm_np.Factors, X: sp.csr_array, N: int, threads: int) -> Contender:
    return lambda users: factors.recommend(users, N=N, seen=X, num_threads=threads).ids


def floats(factors: lfm_np.Factors, X: sp.csr_array, N: int, threads: int) -> Contender:
    """Ours without bytes."""
    twin = dataclasses.replace(factors)
    twin.__dict__["_index"] = build_index(factors._model, np.arange(factors.shape[1]), coded=False)
    return ours(twin, X, N, threads)


def plain(factors: lfm_np.Factors, X: sp.csr_array, N: int, threads: int) -> Contender:
    """Ours with an index whose bounds prune nothing, so that it scores every item."""
    index = build_index(factors._model, np.arange(factors.shape[1]), d=0)
    bounds = np.full_like(index.bounds, np.inf)
    bounds.flags.writeable = False
    twin = dataclasses.replace(factors)
    twin.__dict__["_index"] = index._replace(bounds=bounds)
    return ours(twin, X, N, threads)


def implicit(factors: lfm_np.Factors, X: sp.csr_array, N: int, threads: int) -> Contender:
    from implicit.cpu.als import AlternatingLeastSquares

    k = factors.user_factors.shape[1]
    with threadpoolctl.threadpool_limits(1, "blas"):  # it warns otherwise
        model = AlternatingLeastSquares(factors=k, num_threads=threads)
    model.user_factors, model.item_factors = np.array(factors.user_factors), np.array(factors.item_factors)
    liked = sp.csr_matrix(X)

    def run(users: np.ndarray) -> np.ndarray:
        blocks = (users[start : start + BLOCK] for start in range(0, len(users), BLOCK))
        return np.vstack([model.recommend(some, liked[some], N=N)[0] for some in blocks])

    return run


def irspack(factors: lfm_np.Factors, X: sp.csr_array, N: int, threads: int) -> Contender:
    from irspack.utils._util_cpp import retrieve_recommend_from_score_f32

    U, V = factors.user_factors, factors.item_factors
    seen = sp.csr_matrix(X)

    def run(users: np.ndarray) -> np.ndarray:
        result = []
        for start in range(0, len(users), BLOCK):
            some = users[start : start + BLOCK]
            scores = U[some] @ V.T  # as its get_score_remove_seen
            scores[seen[some].nonzero()] = -np.inf
            result += retrieve_recommend_from_score_f32(scores, [], N, n_threads=threads)
        return np.array([[item for item, _ in row] for row in result])

    return run


def blocks(factors: lfm_np.Factors, X: sp.csr_array, N: int, threads: int) -> Contender:
    U, V = factors.user_factors, factors.item_factors
    size = max(16, CACHE // (4 * len(V)))

    def best(some: np.ndarray) -> np.ndarray:
        scores = U[some] @ V.T
        starts, ends = X.indptr[some], X.indptr[some + 1]
        seen = np.concatenate([X.indices[start:end] for start, end in zip(starts, ends)])
        scores[np.repeat(np.arange(len(some)), ends - starts), seen] = -np.inf
        top = np.argpartition(scores, -N, axis=1)[:, -N:]
        by_score = np.argsort(-np.take_along_axis(scores, top, axis=1), axis=1)
        return np.take_along_axis(top, by_score, axis=1)

    def run(users: np.ndarray) -> np.ndarray:
        with ThreadPoolExecutor(threads) as pool:
            return np.vstack(list(pool.map(best, np.split(users, range(size, len(users), size)))))

    return run


def sgemm(factors: lfm_np.Factors, X: sp.csr_array, N: int, threads: int) -> Contender:
    U, V = factors.user_factors, factors.item_factors

    def run(users: np.ndarray) -> np.ndarray:
        for start in range(0, len(users), BLOCK):
            U[users[start : start + BLOCK]] @ V.T
        return np.zeros((len(users), N))

    return run


CONTENDERS = {
    "lfm_np": ours,
    "floats": floats,
    "plain": plain,
    "blocks": blocks,
    "sgemm": sgemm,
    "implicit": implicit,
    "irspack": irspack,
}


# implicit asks for one BLAS thread and brings its own threads, as blocks does; the products of the others use all
ONE_BLAS_THREAD = ("implicit", "blocks")


def flat(factors: lfm_np.Factors) -> lfm_np.Factors:
    """Random factors of the same shape, every item of norm 1."""
    rng = np.random.default_rng(0)
    U, V = (rng.standard_normal(a.shape, dtype=np.float32) for a in (factors.user_factors, factors.item_factors))
    return lfm_np.Factors(U, V / np.linalg.norm(V, axis=1, keepdims=True))


def measure(factors: lfm_np.Factors, X: sp.csr_array, users: np.ndarray, options: argparse.Namespace) -> None:
    """Print one line a contender: users a second, the ratio to it, the share of equal lists."""
    peers = [name for name in ("implicit", "irspack") if importlib.util.find_spec(name)]
    installed = [name for name, make in CONTENDERS.items() if make not in (implicit, irspack) or name in peers]
    runs = {name: CONTENDERS[name](factors, X, options.n, options.threads) for name in installed}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    work: dict[str, list[float]] = {name: [] for name in runs}
    lists = {}
    for turn in range(options.repeats + 1):
        for name, run in list(runs.items())[:: 1 if turn % 2 else -1]:  # nobody always runs after the same one
            with threadpoolctl.threadpool_limits(1 if name in ONE_BLAS_THREAD else options.threads, "blas"):
                start, work_start = time.perf_counter(), time.process_time()
                lists[name] = run(users)
                seconds[name].append(time.perf_counter() - start)
                work[name].append(time.process_time() - work_start)
    rates = {name: len(users) / min(times) for name, times in seconds.items()}
    for name, rate in rates.items():
        equal = np.mean(np.all(lists[name] == lists["lfm_np"], axis=1))
        least = min(work[name]) / min(work["lfm_np"])
        print(
            f"  {name:10}{rate:12,.0f} users/s   lfm_np / it {rates['lfm_np'] / rate:6.2f}"
            f"   its CPU time / lfm_np's {least:6.2f}   same lists {equal:7.2%}"
        )


def load(name: str) -> sp.csr_array:
    X = lfm_np.datasets.movielens("1m").matrix if name == "ml-1m" else sp.load_npz(name)
    X = sp.csr_array(X, dtype=np.float32, copy=True)
    X.data[:] = 1
    X.sort_indices()
    X.indptr = X.indptr.astype(np.int64)
    return X


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", nargs="+")
    parser.add_argument("--factors", type=int, nargs="+", default=[64, 128])
    parser.add_argument("--users", type=int, default=20_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("-n", type=int, default=10, help="length of a list")
    options = parser.parse_args()
    packages = [name for name in ("numpy", "numba", "implicit", "irspack") if importlib.util.find_spec(name)]
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)
    print(f"{platform.processor() or platform.machine()}, {options.threads} threads, float32; {versions}")
    print(f"factors: als({ALS}, iterations={SWEEPS})")
    for name in options.data:
        X = load(name)
        for k in options.factors:
            users = np.random.default_rng(1).permutation(X.shape[0])[: options.users]
            factors = lfm_np.als(X, factors=k, iterations=SWEEPS, random_state=0, num_threads=options.threads, **ALS)
            busiest = np.argsort(-np.diff(X.indptr), kind="stable")[: len(users) // 4]
            for kind, model, some in (
                ("als", factors, users),
                ("als, who have seen most", factors, busiest),
                ("flat", flat(factors), users[: len(users) // 2]),
            ):
                print(f"{Path(name).stem} {X.shape[0]} × {X.shape[1]}, k={k}, N={options.n}, {kind}, {len(some)} users")
                measure(model, X, some, options)


if __name__ == "__main__":
    main()
