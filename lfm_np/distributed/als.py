"""als() on the workers of a dask cluster."""

from __future__ import annotations

import itertools
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import scipy.sparse as sp

from lfm_np.als import draw_items
from lfm_np.distributed import blocks
from lfm_np.distributed.cluster import Cluster, Workers, check_client
from lfm_np.distributed.parquet import ShardedInteractions
from lfm_np.distributed.run import DriverRun, check_users_to
from lfm_np.distributed.sweep import Sweeps, gathers_users, share_bytes
from lfm_np.factors import Factors
from lfm_np.kernels.als_rows import aligned
from lfm_np.problem import Problem, check_problem, narrow
from lfm_np.sweeps import Callback, check_loop, run_sweeps, sigint_noted
from lfm_np.validation import (
    MAX_THREADS,
    check_choice,
    check_init,
    check_int,
    check_random_state,
    share_csr,
)

SHARE_LIMIT = 256 << 20  # bytes of a shard's normal equations: more would be better sent as products


def als(
    source: Any,
    *,
    client: Any = None,
    shards: int | None = None,
    factors: int = 64,
    regularization: float = 0.01,
    alpha: float = 1.0,
    unobserved_weight: float | None = None,
    regularization_exponent: float = 0.0,
    weighting: str = "hu-koren",
    iterations: int = 15,
    tolerance: float = 0.0,
    solver: str = "auto",
    biases: bool = False,
    init: Any = None,
    dtype: Any = np.float32,
    num_threads: int = 1,
    random_state: Any = None,
    callback: Callback | None = None,
    progress: bool = False,
    raise_on_interrupt: bool = False,
    checkpoint: Any = None,
    checkpoint_every: int = 5,
    resume: str = "auto",
    users_to: Any = None,
) -> Factors:
    r"""Factor a sparse matrix as `lfm_np.als` does, on the workers of a dask cluster.

    The objective, every argument that is not below, and the result are those of `lfm_np.als`.

    Parameters
    ----------
    source : ShardedInteractions, or sparse matrix or array, shape (m, n), or Interactions
        What `from_parquet` gave: the workers read the files, and the driver holds V and the result. A matrix is cut
        into shards of rows, which travel to the workers once.
    client : distributed.Client, optional
        None takes dask's current one.
    shards : int, optional
        Into how many ranges of about equally many cells the rows of a matrix are cut, at most one for each row; None
        makes one for each thread of the workers. The factors are the same, bit for bit, for any number of workers, but
        a sum over shards rounds differently for another number of them.
    solver : {"auto", "exact"}
        Both are the exact solver, for any number of factors; for `lfm_np.als`, "auto" may be "cg" from 64 factors on.
    num_threads : int
        Threads of one task. A worker runs as many tasks at once as it has threads.
    checkpoint : str or path, optional
        A file of the driver. The run goes on from what is there, to the same bits as without a break; a file of another
        X, of other arguments or of another number of shards is refused. Besides what may differ for `lfm_np.als`,
        ``users_to`` and ``checkpoint_every`` may.
    checkpoint_every : int
        Sweeps between two copies of V that the driver takes, and writes to the checkpoint if there is one. When workers
        are lost, dask computes again what they held from there on.
    resume : {"auto", "never"}
        "never" begins anew, and replaces the file.
    users_to : str or path, optional
        A ``.npy`` file that the driver and all workers share: the workers write the user factors there, and the result
        has them memory-mapped. Without it they are brought to the driver.

    Returns
    -------
    Factors

    Raises
    ------
    TypeError, ValueError
        For a bad argument; the message names it.
    MemoryError
        V, or the users where they are sent, do not fit a worker, or the normal equations of the items are more than is
        worth sending.
    SolverError
        As `lfm_np.als`; also when the same tasks lose their workers again and again, or no worker is left for five
        minutes.

    Notes
    -----
    A sweep broadcasts V and solves each shard's users where they are. The items are then solved from what is less to
    send: the shards' shares of their normal equations, n·k²/2 numbers a shard, added in a fixed order, or all users,
    m·k numbers a worker. See the page "On several machines".

    Examples
    --------
    >>> import distributed, lfm_np
    >>> X = lfm_np.to_csr(lfm_np.datasets.make_interactions(300, 40, 4, random_state=0), shape=(300, 40))
    >>> with distributed.Client(processes=False, n_workers=2, threads_per_worker=1, dashboard_address=":0") as client:
    ...     there = lfm_np.distributed.als(X, client=client, factors=4, iterations=5, random_state=0)
    >>> here = lfm_np.als(X, factors=4, iterations=5, random_state=0)
    >>> bool(np.allclose(there.item_factors, here.item_factors, atol=1e-3))
    True
    """
    client = check_client(client)
    sharded = isinstance(source, ShardedInteractions)
    problem = check_problem(
        sp.csr_array((0, source.shape[1])) if sharded else source,
        factors=factors,
        regularization=regularization,
        alpha=alpha,
        unobserved_weight=unobserved_weight,
        exponent=regularization_exponent,
        weighting=weighting,
        biases=biases,
        dtype=dtype,
        name="source",
    )
    loop = check_loop("iterations", iterations, tolerance, "objective", callback, progress, raise_on_interrupt)
    check_choice("solver", solver, ("auto", "exact"))
    threads = check_int("num_threads", num_threads, 1, MAX_THREADS)
    every = check_int("checkpoint_every", checkpoint_every, 1)
    run = DriverRun(checkpoint, every, resume, random_state)
    path = check_users_to(users_to, checkpoint)
    shape = source.shape if sharded else problem.X.shape
    given = check_init(init, shape, problem.factors, biases, problem.X.dtype)
    if shards is not None:
        check_int("shards", shards, 1)
        if sharded and shards != len(source.parts):
            raise ValueError(f"shards must be None or {len(source.parts)}, those of source, got {shards}")
    rng = check_random_state(run.random_state)  # last: a RandomState moves on

    with sigint_noted() as interrupted:
        cluster = Cluster(client, interrupted)
        workers = cluster.workers()
        _refuse_what_cannot_fit(problem, shape[0], workers)
        general = without_cells(problem)
        sources = source.sources(cluster, general) if sharded else _cut(problem, general, shards or workers.threads)
        driven = (
            bool(loop.tolerance) or loop.callback is not None
        )  # the driver decides after every sweep whether to go on
        state = Sweeps(
            cluster,
            general,
            sources,
            _start(problem, shape, given, rng),
            threads,
            follows=lambda sweep: not driven and sweep < loop.limit and sweep % every != 0,
        )
        params = problem.params | {"solver": "exact", "shards": len(sources), "seed": run.seed} | loop.params
        run.follow(state)
        run.resume(state, state.fingerprint() if checkpoint is not None else "", params, given)
        result = partial(state.result, params=params)
        history, status = run_sweeps(loop, state.sweep, result, interrupted, run)
        return interrupted.said_in(result(history, status, users_to=path), raise_on_interrupt)


def without_cells(problem: Problem) -> Problem:
    """What every task needs to know of the problem."""
    empty = np.zeros(0, problem.X.dtype), np.zeros(0, np.int32), np.zeros(1, np.int64)
    return replace(problem, X=share_csr(*empty, (0, problem.X.shape[1])))


def _start(
    problem: Problem, shape: tuple[int, int], given: tuple[Any, ...] | None, rng: np.random.Generator
) -> tuple[np.ndarray | None, np.ndarray]:
    """U (m, factors + biases), None for zeros, and V (n, ld) to start from."""
    (m, n), k, dtype = shape, problem.factors, problem.X.dtype
    V = aligned((n, problem.columns), dtype)
    V[:] = 0
    if given is None:
        draw_items(V[:, :k], rng)
        return None, V
    U = np.empty((m, k + problem.biases), dtype)
    U[:, :k], V[:, :k] = given[:2]
    if problem.biases:
        U[:, k], V[:, k] = given[2:]
    return U, V


def _cut(problem: Problem, general: Problem, shards: int) -> list[tuple[Any, ...]]:
    """What makes shards of about as many cells each, at most one a row; some may be empty."""
    X = narrow(problem.X)
    shards = min(shards, max(1, X.shape[0]))
    inner = np.searchsorted(X.indptr, np.arange(1, shards) * (X.nnz / shards))
    edges = [0, *inner.tolist(), X.shape[0]]
    return [(blocks.make_shard, general, X[lo:hi], lo, shards) for lo, hi in itertools.pairwise(edges)]


def _refuse_what_cannot_fit(problem: Problem, m: int, workers: Workers) -> None:
    n, k = problem.X.shape[1], problem.factors
    gathers = gathers_users(m, n, problem)
    for noun, rows in {"item": n, **({"user": m} if gathers else {})}.items():
        need = rows * problem.columns * problem.X.dtype.itemsize
        if workers.memory is not None and need > workers.memory // 4:
            raise MemoryError(
                f"the {noun} factors ({rows} × {k}) take {need / 2**20:.0f} MiB, more than a quarter of the smallest "
                f"worker's {workers.memory / 2**20:.0f} MiB, and every worker holds all of them; take fewer factors or "
                "larger workers, or Spark MLlib, which cuts both sides"
            )
    if gathers:
        return
    share = share_bytes(n, problem)
    if share > SHARE_LIMIT:
        raise MemoryError(
            f"the normal equations of {n} items with factors={k} take {share / 2**20:.0f} MiB a shard, more than "
            f"the {SHARE_LIMIT >> 20} MiB worth sending in every sweep; take fewer factors or items, or Spark MLlib"
        )
