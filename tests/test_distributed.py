"""distributed.als: the single process's factors from any number of shards and workers."""

import asyncio
import concurrent.futures
import gc
import importlib
import itertools
import signal
import sys
import time

import numpy as np
import oracles_als as oracle
import pytest
import scipy.sparse as sp
from als_problems import all_cells_beside_a_large_weight, matrix, scores, start
from distributed_runs import OPTIONS, Eager, cluster_module, needed, same_bits
from test_als import WEIGHTINGS

import lfm_np

pytestmark = pytest.mark.usefixtures("limit")


# ---- the arithmetic, without a cluster ------------------------------------------------------------------------------


@pytest.mark.small
@pytest.mark.parametrize("exponent", [0.0, 1.0])
@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_shards_equal_dense_normal_equations(eager, weighting, exponent):
    X = matrix(12, 9, seed=3)
    a0 = 0.0 if weighting == "ratings" else 0.3
    asked = {"weighting": weighting, "alpha": 0.7, "unobserved_weight": a0, "regularization_exponent": exponent}
    init = start(X, 3)
    U, V, history = oracle.als(X, init[1], weighting, 0.7, a0, 0.1, exponent, 2)
    for shards in (1, 2, 30):
        options = {"factors": 3, "regularization": 0.1, "iterations": 2, "init": init, "dtype": np.float64}
        factors = eager(X, shards=shards, **options, **asked)
        np.testing.assert_allclose(scores(factors), U @ V.T, rtol=0, atol=1e-11)
        found = [(record["objective_users"], record["objective"]) for record in factors.history]
        np.testing.assert_allclose(found, history, rtol=1e-11)


@pytest.mark.parametrize("shape", [(400, 50), (50, 400)])  # adds up equations of items; gathers users
@pytest.mark.parametrize("shards", [1, 3])
def test_shards_equal_the_single_process(eager, shards, shape, monkeypatch):
    """Rows by either system and of either length, biases, several blocks of items and several sums of shares."""
    monkeypatch.setattr("lfm_np.distributed.sweep.BLOCK_BYTES", 3000)
    monkeypatch.setattr("lfm_np.distributed.cluster.FAN_IN", 2)
    X = matrix(*shape, longest=30)
    for options in ({"weighting": "ials", "unobserved_weight": 0.1}, {"weighting": "ratings", "biases": True}):
        asked = {
            "factors": 5,
            "iterations": 3,
            "random_state": 0,
            "dtype": np.float64,
            "regularization": 0.1,
            **options,
        }
        there, here = eager(X, shards=shards, **asked), lfm_np.als(X, **asked)
        np.testing.assert_allclose(scores(there), scores(here), rtol=0, atol=1e-11)
        np.testing.assert_allclose(
            [record["objective"] for record in there.history],
            [record["objective"] for record in here.history],
            rtol=1e-12,
        )


def test_items_that_float32_cannot_solve_are_solved_before_a_basis_is_found(eager):
    """Of one block of items, which knows the basis of the next sweep: NaN were an error of the Gram matrix."""
    rng = np.random.default_rng(0)
    X = sp.csr_array((rng.random((700, 10)) < 0.6) * rng.integers(1, 6, (700, 10)).astype(np.float32))
    asked = {"factors": 33, "regularization": 1e-6, "weighting": "confidence", "alpha": 3.0, "unobserved_weight": 8.0}
    asked |= {"iterations": 3, "random_state": 0, "callback": lambda *_: None}
    found = eager(X, shards=2, **asked)
    assert found.history[-1]["objective"] == pytest.approx(lfm_np.objective(X, found), rel=1e-3)
    wide = lfm_np.als(X, dtype=np.float64, solver="exact", **asked)
    assert found.history[-1]["objective"] == pytest.approx(wide.history[-1]["objective"], rel=0.02)


def test_shards_that_find_other_bases_of_the_items_agree(eager, monkeypatch):
    """As workers of another make may, where eigenvalues lie close together."""
    blocks = importlib.import_module("lfm_np.distributed.blocks")
    X, options = matrix(200, 300, longest=4), {"factors": 24, "iterations": 3, "dtype": np.float64}
    expected = eager(X, shards=3, random_state=0, **options)
    fix_items, rng, turned = blocks.fix_items, np.random.default_rng(0), []

    def other(*arguments):
        fixed = fix_items(*arguments)
        turned.append(fixed.basis is not None)
        return fixed._replace(basis=fixed.basis * rng.choice([-1, 1], len(fixed.basis)))

    monkeypatch.setattr(blocks, "fix_items", other)
    factors = eager(X, shards=3, random_state=0, **options)
    assert len(turned) >= 9
    assert all(turned)
    np.testing.assert_allclose(scores(factors), scores(expected), rtol=0, atol=1e-12)


def test_float32_sums_what_cancels_in_float64(eager):
    """Of a nearly perfect fit almost nothing is left of Σ c·p², which float32 sums cannot tell."""
    X = sp.csr_array(np.outer(np.arange(1.0, 9), np.arange(1.0, 6)))
    factors = eager(X, weighting="ratings", factors=2, regularization=1e-7, iterations=4, shards=2, random_state=0)
    exact = lfm_np.objective(X, factors)
    assert factors.history[-1]["objective"] == pytest.approx(exact, rel=1e-2, abs=1e-9)
    assert exact < 1e-4 * (X.data**2).sum()


def test_items_whose_ratings_have_no_squares(eager):
    """Σ c·p² of 1e-170 is 0, as it is of an item without ratings, but the solution is not."""
    X = matrix(30, 8, longest=6).toarray()
    X[:, 3] *= 1e-170
    options = {"weighting": "ratings", "factors": 3, "regularization": 0.1, "iterations": 2, "dtype": np.float64}
    there, here = (fit(sp.csr_array(X), random_state=0, **options) for fit in (eager, lfm_np.als))
    assert here.item_factors[3].any()
    np.testing.assert_allclose(scores(there)[:, 3], scores(here)[:, 3], rtol=1e-6, atol=0)


def test_ratings_whose_sum_is_beyond_float64(eager):
    X = sp.csr_array([[1.7e308, 1.5e308]])
    with pytest.raises(ValueError, match=r"^source must have ratings whose sum is finite"):
        eager(X, weighting="ratings", factors=1, biases=True, dtype=np.float64)


def test_names_the_row_or_column_of_a_singular_system(eager):
    X = sp.csr_array(np.kron(np.eye(3), np.ones((4, 2))))
    options = {"weighting": "ratings", "factors": 3, "regularization": 0.0, "iterations": 2, "shards": 3}
    with pytest.raises(lfm_np.SolverError, match="sweep 1: the normal equations of row 0"):
        eager(X, **options)
    X, options = all_cells_beside_a_large_weight(300)  # users are right, but of the items' sums no digit is left
    with pytest.raises(lfm_np.SolverError, match=r"sweep 1: the normal equations of column 0 .*cancel"):
        eager(X, **options | {"iterations": 1}, shards=3)


def test_names_the_row_of_a_shard_within(eager):
    options = {"weighting": "ratings", "factors": 2, "regularization": 0.0, "iterations": 2, "shards": 3}
    tall = sp.csr_array(np.vstack([np.ones((1, 6)), np.eye(6)[:1], np.eye(6)[1:2]]))
    V = np.eye(6, 2)
    with pytest.raises(lfm_np.SolverError, match="row 1 "):
        eager(tall, **options, init=(np.zeros((3, 2)), V))


def test_refuses_what_does_not_fit(eager, monkeypatch):
    X = sp.csr_array(([1.0], ([0], [0])), shape=(3_000_000, 60_000))
    with pytest.raises(MemoryError, match=r"normal equations of 60000 items with factors=64 .* 256 MiB .* Spark MLlib"):
        eager(X, factors=64)
    small = cluster_module().Workers(threads=2, memory=16 << 20)
    monkeypatch.setattr(Eager, "workers", lambda self: small)
    with pytest.raises(MemoryError, match=r"more than a quarter of the smallest worker's 16 MiB.*Spark MLlib"):
        eager(X, factors=20)
    with pytest.raises(
        MemoryError, match=r"the user factors \(40000 × 20\) take 5 MiB, more than a quarter of the smallest"
    ):
        eager(X[:40_000, :6000], factors=20)


@pytest.mark.parametrize("solver", ["cg", "subspace"])
def test_refuses_other_solvers_by_name(eager, solver):
    with pytest.raises(ValueError, match=f"solver must be one of .*'auto', 'exact'.*{solver}"):
        eager(matrix(5, 4), solver=solver)


def test_calls_its_argument_source(eager):
    X = matrix(5, 4)
    for bad, error, words in ((X.toarray(), TypeError, "got ndarray; a dense"), (-X, ValueError, "negative value")):
        with pytest.raises(error, match=f"^source .*{words}"):
            eager(bad)


def test_refuses_what_is_no_client():
    needed()
    X = matrix(5, 4)
    with pytest.raises(ValueError, match=r"client must be a dask.distributed Client, and there is no current one"):
        lfm_np.distributed.als(X)
    with pytest.raises(TypeError, match=r"client must be a synchronous dask.distributed Client, got 'tcp://"):
        lfm_np.distributed.als(X, client="tcp://127.0.0.1:8786")


# ---- on workers -----------------------------------------------------------------------------------------------------


def compiled(dask_worker=None):
    """How many kernels this process compiled."""
    kernels = importlib.import_module("lfm_np.kernels.als_shares"), importlib.import_module("lfm_np.kernels.als_primal")
    functions = [kernels[0].row_shares, kernels[0].solve_shares, kernels[1].primal_rows]
    return [(sum(f.stats.cache_misses.values()), len(f.signatures)) for f in functions]


@pytest.mark.parametrize("shards", [1, 2, 5])
def test_equals_the_single_process(client, tall, shards):
    there = lfm_np.distributed.als(tall, client=client, shards=shards, **OPTIONS)
    here, exact = (lfm_np.als(tall, dtype=dtype, **OPTIONS) for dtype in (np.float32, np.float64))
    error = np.abs(scores(here) - scores(exact)).max()
    assert np.abs(scores(there) - scores(exact)).max() <= 4 * error  # float32, rounded in another order
    np.testing.assert_allclose(
        [record["objective"] for record in there.history], [record["objective"] for record in exact.history], rtol=1e-6
    )
    assert (there.params["shards"], there.params["seed"], there.status) == (shards, here.params["seed"], here.status)


@pytest.mark.parametrize("wide", [False, True])
def test_dask_is_told_how_large_shards_are(client, tall, wide):
    """Or it would move a shard to a worker rather than what the shard's task needs."""
    sizes = {}

    def look(record, factors):
        sizes.update(client.nbytes(summary=False))
        raise StopIteration

    X = tall.T.tocsr() if wide else tall
    lfm_np.distributed.als(X, client=client, shards=2, callback=look, **OPTIONS)
    copies = {"lfm_shard-": 1, "lfm_item_shard-": 1} if wide else {"lfm_shard-": 2}  # of all indices and data
    for kind, number in copies.items():
        assert sum(size for key, size in sizes.items() if key.startswith(kind)) > number * 8 * X.nnz


@pytest.mark.parametrize("wide", [False, True])
def test_any_number_of_workers_gives_the_same_bits(client, tall, wide):
    distributed, tall = needed(), tall.T.tocsr() if wide else tall
    two = lfm_np.distributed.als(tall, client=client, shards=5, **OPTIONS)
    with distributed.Client(processes=False, n_workers=1, threads_per_worker=1, dashboard_address=":0") as other:
        one = lfm_np.distributed.als(tall, client=other, shards=5, **OPTIONS)
    assert (one.user_factors == two.user_factors).all()
    assert (one.item_factors == two.item_factors).all()
    assert [r["objective"] for r in one.history] == [r["objective"] for r in two.history]


def test_workers_load_kernels_from_the_cache(client, tall):
    lfm_np.distributed.als(tall, client=client, shards=5, **OPTIONS)
    for counts in client.run(compiled).values():
        assert all(misses == 0 and signatures <= 1 for misses, signatures in counts)
    assert sum(signatures for counts in client.run(compiled).values() for _, signatures in counts) > 0


def solved_users(dask_worker=None):
    """How many shards' users this worker holds."""
    return sum("lfm_users" in str(key) for key in dask_worker.data)


def test_workers_free_users_after_a_sweep_that_was_waited_for(client, tall, monkeypatch):
    """They may lie in a cycle of the driver, and a worker that cannot use their memory again touches new pages."""
    monkeypatch.setattr(cluster_module(), "_POLL", 1e-3)
    held = []

    def callback(record, factors):
        until = time.monotonic() + 5
        while (count := sum(client.run(solved_users).values())) and time.monotonic() < until:
            time.sleep(0.01)
        held.append(count)

    gc.disable()
    try:
        lfm_np.distributed.als(tall, client=client, callback=callback, **{**OPTIONS, "iterations": 2})
    finally:
        gc.enable()
    assert held == [0, 0]


def test_tolerance_callback_and_warm_start(client, tall):
    seen = []

    def callback(record, factors):
        record["seen"] = float(np.abs(factors.item_factors).max())
        seen.append(record["iteration"])
        if len(seen) == 2:
            raise StopIteration

    stopped = lfm_np.distributed.als(tall, client=client, callback=callback, **OPTIONS)
    assert (seen, stopped.status, len(stopped.history)) == ([1, 2], "stopped", 2)
    further = lfm_np.distributed.als(tall, client=client, init=stopped, **{**OPTIONS, "iterations": 30}, tolerance=0.01)
    assert further.status == "converged"
    assert len(further.history) < 30
    assert further.history[0]["objective"] < stopped.history[-1]["objective"]


# ---- the next sweep, sent before its time ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "sends"), [({}, "ssfsff"), ({"tolerance": 1e-9}, "sfsfsf"), ({"checkpoint_every": 2}, "ssffsf")]
)
def test_the_next_sweep_is_sent_where_nothing_is_to_be_decided_between(eager, monkeypatch, options, sends):
    """Not where the last one may be the last of all, or the driver is to take a copy."""
    done = []

    def noted(name):
        method = getattr(Eager, name)
        monkeypatch.setattr(Eager, name, lambda self, *given: [done.append(name[0]), method(self, *given)][1])

    noted("send")
    noted("finish")
    monkeypatch.setattr(Eager, "groups", lambda self, *groups, heed=True: [list(group) for group in groups])
    eager(matrix(12, 9, seed=3), factors=3, iterations=3, shards=2, random_state=0, **options)
    assert "".join(done) == sends


@pytest.mark.parametrize("wide", [False, True])
def test_sweeps_sent_before_their_time_give_the_same_bits(client, tall, wide):
    tall = tall.T.tocsr() if wide else tall
    asked = {"client": client, "shards": 2, **OPTIONS}
    same_bits(lfm_np.distributed.als(tall, **asked), lfm_np.distributed.als(tall, callback=lambda *_: None, **asked))


def test_a_sweep_sent_before_its_time_is_dropped_where_items_are_solved_again(client, monkeypatch):
    """Nearly perfect fits leave so little of float32's sums that items are solved in float64, in some sweep first."""
    sweeps, dropped = importlib.import_module("lfm_np.distributed.sweep").Sweeps, []
    drop = sweeps._drop
    monkeypatch.setattr(sweeps, "_drop", lambda self, *sent: [dropped.append(self._ahead), drop(self, *sent)][1])
    X = sp.csr_array(np.outer(np.arange(1.0, 41), np.arange(1.0, 6)))
    asked = {
        "weighting": "ratings",
        "factors": 2,
        "regularization": 1e-7,
        "iterations": 6,
        "shards": 2,
        "client": client,
    }
    same_bits(
        lfm_np.distributed.als(X, random_state=0, **asked),
        lfm_np.distributed.als(X, random_state=0, callback=lambda *_: None, **asked),
    )
    assert dropped[0] is not None
    assert dropped[1:].count(None) == len(dropped) - 1  # nothing is sent ahead after that


def held(dask_worker=None):
    """What this worker holds for a run."""
    return sorted(str(key) for key in dask_worker.data if "lfm_" in str(key))


@pytest.mark.parametrize("mistake", [{"init": 3}, {"shards": 0}], ids=str)
def test_a_refused_call_draws_nothing(eager, mistake):
    given, untouched = np.random.RandomState(0), np.random.RandomState(0)
    with pytest.raises((TypeError, ValueError)):
        eager(sp.csr_array(np.eye(4)), random_state=given, **mistake)
    np.testing.assert_array_equal(given.permutation(50), untouched.permutation(50))


def test_an_interrupted_run_leaves_nothing_on_the_workers(client, tall, monkeypatch):
    """Both the sweep that runs and the one after it are given up before the users are solved for the result."""
    sweeps, released = importlib.import_module("lfm_np.distributed.sweep").Sweeps, []
    whole, release = sweeps._sweep, cluster_module().Cluster.release

    def pressed(self):
        if self._sweeps == 1:
            self._cluster._interrupted = lambda: True
            monkeypatch.setattr(cluster_module(), "_POLL", 1e-4)
        return whole(self)

    def noted(self, futures):
        released.extend(future.key for future in futures if "items" in str(future.key))
        release(self, futures)

    monkeypatch.setattr(sweeps, "_sweep", pressed)
    monkeypatch.setattr(cluster_module().Cluster, "release", noted)
    stopped = lfm_np.distributed.als(tall, client=client, shards=2, **{**OPTIONS, "iterations": 9})
    assert (stopped.status, len(stopped.history), len(set(released))) == ("interrupted", 1, 2)
    until = time.monotonic() + 5
    while any(client.run(held).values()) and time.monotonic() < until:
        gc.collect()
        time.sleep(0.01)
    assert not any(client.run(held).values())


def test_memory_that_is_lent_while_another_thread_takes_some():
    """At any line, though Python without tracing lets threads take turns at few of them."""
    needed()
    from lfm_np.distributed.spare import Spare

    for moment in range(20):
        spare, lines, others = Spare(), itertools.count(), []
        one, two = spare.array((1, 1), np.float32), spare.array((2, 2), np.float32)
        del one, two

        def trace(frame, kind, argument, spare=spare, lines=lines, others=others, moment=moment):
            if frame.f_code.co_filename.endswith("spare.py"):
                if kind == "line" and next(lines) == moment:
                    others.append(spare.array((1, 1), np.float32))
                return trace
            return None

        before = sys.gettrace()
        sys.settrace(trace)
        try:
            found = spare.array((2, 2), np.float32)
        finally:
            sys.settrace(before)
        assert found.shape == (2, 2)
        assert not any(np.shares_memory(found, other) for other in others)


@pytest.mark.parametrize("where", ["wait", "compute", "gather"])
def test_the_timeout_of_a_watchdog_is_not_that_of_the_wait(client, monkeypatch, where):
    """Of 12 watchdogs of a fit 9 were lost."""

    class Late(TimeoutError, RuntimeError):
        pass

    def handler(*_):
        raise Late

    def rung(*arguments, **keywords):
        signal.raise_signal(signal.SIGALRM)
        return real(*arguments, **keywords)

    owner, name = (cluster_module().distributed, "wait") if where == "wait" else (type(client), where)
    real = getattr(owner, name)
    before = signal.signal(signal.SIGALRM, handler)
    try:
        monkeypatch.setattr(owner, name, rung)
        with pytest.raises(Late):
            lfm_np.distributed.als(matrix(40, 30, longest=5), client=client, factors=2, iterations=2)
    finally:
        signal.signal(signal.SIGALRM, before)


def test_results_that_are_gone_or_never_come_are_not_waited_for(client, monkeypatch):
    async def cancelled(*arguments, **keywords):
        raise concurrent.futures.CancelledError("as dask 2024.1 does")

    async def pending(*arguments, **keywords):
        await asyncio.sleep(5)

    cluster = cluster_module().Cluster(client, lambda: False)
    monkeypatch.setattr(type(client), "_gather", cancelled)
    with pytest.raises(cluster_module().Lost):
        cluster.gather([])
    monkeypatch.setattr(type(client), "_gather", pending)
    monkeypatch.setattr(cluster_module(), "_POLL", 0.01)
    with monkeypatch.context() as closing:
        closing.setattr(client, "status", "closed")
        with pytest.raises(cluster_module().NoWorkers, match="client was closed"):
            cluster.gather([])
