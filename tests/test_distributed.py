"""distributed.als: the single process's factors from any number of shards and workers, and through their deaths."""

import importlib
import itertools
import os
import signal
import subprocess
import sys
import tracemalloc

import numpy as np
import oracles_als as oracle
import pytest
import scipy.sparse as sp
from optional import require
from test_als import WEIGHTINGS, matrix, scores, start

import lfm_np

SECONDS = 180  # no test may hang


@pytest.fixture(autouse=True)
def limit():
    """Ends a test that hangs."""

    def end(signum, frame):
        raise TimeoutError(f"more than {SECONDS} seconds")

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


class Eager:
    """The tasks of a run, run at once where they are made; their inputs read-only, as from another process."""

    def __init__(self, client=None, interrupted=None):
        pass

    def workers(self):
        return cluster_module().Workers(threads=3, memory=None)

    def task(self, name, function, *arguments):
        return function(*arguments)

    def groups(self, *groups, heed=True):
        return [list(group) for group in groups]

    def gather(self, values):
        return list(values)


def needed():
    require("pyarrow")
    return require("distributed")


def als_module():
    return importlib.import_module("lfm_np.distributed.als")


def parquet_module():
    return importlib.import_module("lfm_np.distributed.parquet")


def cluster_module():
    return importlib.import_module("lfm_np.distributed.cluster")


@pytest.fixture
def eager(monkeypatch):
    """lfm_np.distributed.als without a cluster."""
    needed()
    monkeypatch.setattr(als_module(), "check_client", lambda client: client)
    monkeypatch.setattr(als_module(), "Cluster", Eager)
    return lfm_np.distributed.als


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


@pytest.mark.parametrize("shards", [1, 3])
def test_shards_equal_the_single_process(eager, shards, monkeypatch):
    """Rows by either system and of either length, biases, several blocks of items and several sums of shares."""
    monkeypatch.setattr("lfm_np.distributed.sweep.BLOCK_BYTES", 3000)
    monkeypatch.setattr("lfm_np.distributed.sweep.FAN_IN", 2)
    X = matrix(400, 50, longest=30)
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
        np.testing.assert_allclose(
            there.scores(np.arange(50), np.arange(50)), here.scores(np.arange(50), np.arange(50)), rtol=0, atol=1e-11
        )
        np.testing.assert_allclose(
            [record["objective"] for record in there.history],
            [record["objective"] for record in here.history],
            rtol=1e-12,
        )


def test_float32_sums_what_cancels_in_float64(eager):
    """Of a nearly perfect fit almost nothing is left of Σ c·p², which float32 sums cannot tell."""
    X = sp.csr_array(np.outer(np.arange(1.0, 9), np.arange(1.0, 6)))
    factors = eager(X, weighting="ratings", factors=2, regularization=1e-7, iterations=4, shards=2, random_state=0)
    exact = lfm_np.objective(X, factors)
    assert factors.history[-1]["objective"] == pytest.approx(exact, rel=1e-2, abs=1e-9)
    assert exact < 1e-4 * (X.data**2).sum()


def test_names_the_row_or_column_of_a_singular_system(eager):
    X = sp.csr_array(np.kron(np.eye(3), np.ones((4, 2))))
    options = {"weighting": "ratings", "factors": 3, "regularization": 0.0, "iterations": 2, "shards": 3}
    with pytest.raises(lfm_np.SolverError, match="sweep 1: the normal equations of row 0"):
        eager(X, **options)
    tall = sp.csr_array(np.vstack([np.ones((1, 6)), np.eye(6)[:1], np.eye(6)[1:2]]))
    V = np.eye(6, 2)
    with pytest.raises(lfm_np.SolverError, match="row 1 "):
        eager(tall, **{**options, "factors": 2}, init=(np.zeros((3, 2)), V))


def test_refuses_what_does_not_fit(eager, monkeypatch):
    X = sp.csr_array(([1.0], ([0], [0])), shape=(4, 60_000))
    with pytest.raises(MemoryError, match=r"normal equations of 60000 items with factors=64 .* 256 MiB .* Spark MLlib"):
        eager(X, factors=64)
    small = cluster_module().Workers(threads=2, memory=16 << 20)
    monkeypatch.setattr(Eager, "workers", lambda self: small)
    with pytest.raises(MemoryError, match=r"more than a quarter of the smallest worker's 16 MiB.*Spark MLlib"):
        eager(X, factors=20)


def test_refuses_what_is_no_client():
    needed()
    X = matrix(5, 4)
    with pytest.raises(ValueError, match=r"client must be a dask.distributed Client, and there is no current one"):
        lfm_np.distributed.als(X)
    with pytest.raises(TypeError, match=r"client must be a synchronous dask.distributed Client, got 'tcp://"):
        lfm_np.distributed.als(X, client="tcp://127.0.0.1:8786")


# ---- on workers -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def X():
    pairs = lfm_np.datasets.make_interactions(5000, 500, 12, random_state=0)
    return lfm_np.to_csr(pairs, shape=(5000, 500))


OPTIONS = {"factors": 16, "iterations": 4, "regularization": 0.1, "random_state": 0}


@pytest.fixture(scope="module")
def warm(X):
    """Compile what workers are to find in the cache on disk."""
    needed()
    patch = pytest.MonkeyPatch()
    patch.setattr(als_module(), "check_client", lambda client: client)
    patch.setattr(als_module(), "Cluster", Eager)
    lfm_np.distributed.als(X, shards=2, **OPTIONS)
    patch.undo()


@pytest.fixture(scope="module")
def client(warm):
    """Two workers of one thread each."""
    distributed = needed()
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


def compiled(dask_worker=None):
    """How many kernels this process compiled."""
    kernels = importlib.import_module("lfm_np.kernels.als_shares"), importlib.import_module("lfm_np.kernels.als_primal")
    functions = [kernels[0].row_shares, kernels[0].solve_shares, kernels[1].primal_rows]
    return [(sum(f.stats.cache_misses.values()), len(f.signatures)) for f in functions]


@pytest.mark.parametrize("shards", [1, 2, 5])
def test_equals_the_single_process(client, X, shards):
    there = lfm_np.distributed.als(X, client=client, shards=shards, **OPTIONS)
    here, exact = (lfm_np.als(X, dtype=dtype, **OPTIONS) for dtype in (np.float32, np.float64))
    error = np.abs(scores(here) - scores(exact)).max()
    assert np.abs(scores(there) - scores(exact)).max() <= 4 * error  # float32, rounded in another order
    np.testing.assert_allclose(
        [record["objective"] for record in there.history], [record["objective"] for record in exact.history], rtol=1e-6
    )
    assert (there.params["shards"], there.status) == (shards, here.status)


def test_any_number_of_workers_gives_the_same_bits(client, X):
    distributed = needed()
    two = lfm_np.distributed.als(X, client=client, shards=5, **OPTIONS)
    with distributed.Client(processes=False, n_workers=1, threads_per_worker=1, dashboard_address=":0") as other:
        one = lfm_np.distributed.als(X, client=other, shards=5, **OPTIONS)
    assert (one.user_factors == two.user_factors).all()
    assert (one.item_factors == two.item_factors).all()
    assert [r["objective"] for r in one.history] == [r["objective"] for r in two.history]


def test_workers_load_kernels_from_the_cache(client, X):
    lfm_np.distributed.als(X, client=client, shards=5, **OPTIONS)
    for counts in client.run(compiled).values():
        assert all(misses == 0 and signatures <= 1 for misses, signatures in counts)
    assert sum(signatures for counts in client.run(compiled).values() for _, signatures in counts) > 0


def test_tolerance_callback_and_warm_start(client, X):
    seen = []

    def callback(record, factors):
        record["seen"] = float(np.abs(factors.item_factors).max())
        seen.append(record["iteration"])
        if len(seen) == 2:
            raise StopIteration

    stopped = lfm_np.distributed.als(X, client=client, callback=callback, **OPTIONS)
    assert (seen, stopped.status, len(stopped.history)) == ([1, 2], "stopped", 2)
    further = lfm_np.distributed.als(X, client=client, init=stopped, **{**OPTIONS, "iterations": 30}, tolerance=0.01)
    assert further.status == "converged"
    assert len(further.history) < 30
    assert further.history[0]["objective"] < stopped.history[-1]["objective"]


# ---- the death of workers and of the driver -------------------------------------------------------------------------


@pytest.fixture
def kill(client, tmp_path):
    """Have workers kill themselves at their ``count``-th task of a name, ``times`` in all."""
    distributed = needed()
    names = []

    def start(name, count=1, times=1):
        class Killer(distributed.WorkerPlugin):
            seen = 0

            def transition(self, key, start, finish, **kwargs):
                if finish != "executing" or not str(key).startswith(f"lfm_{name}-"):
                    return
                self.seen += 1
                if self.seen != count:
                    return
                for number in range(times):
                    try:
                        (tmp_path / f"{name}-{number}").touch(exist_ok=False)
                    except FileExistsError:
                        continue
                    os.kill(os.getpid(), signal.SIGKILL)

        client.register_plugin(Killer(), name=name)
        names.append(name)
        return lambda: len(list(tmp_path.glob(f"{name}-*")))

    yield start
    for name in names:
        client.unregister_worker_plugin(name)


@pytest.fixture(scope="module")
def whole(client, X):
    """The factors that a run gives when nobody dies."""
    return lfm_np.distributed.als(X, client=client, shards=2, **OPTIONS)


def same_bits(one, other):
    assert (one.user_factors == other.user_factors).all()
    assert (one.item_factors == other.item_factors).all()
    assert [r["objective"] for r in one.history] == [r["objective"] for r in other.history]


@pytest.mark.parametrize(("name", "times"), [("users", 1), ("share", 1), ("items", 1), ("users", 2)])
def test_survives_the_death_of_workers(client, X, whole, kill, name, times):
    """In the user half-sweep, in the item half-sweep on either side of the sum, and of all workers at once."""
    killed = kill(name, count=3 if name != "items" else 1, times=times)
    same_bits(lfm_np.distributed.als(X, client=client, shards=2, checkpoint_every=2, **OPTIONS), whole)
    assert killed() == times


def test_gives_up_on_a_task_that_always_kills(client, X, kill):
    def allow(failures):
        client.run_on_scheduler(lambda dask_scheduler: setattr(dask_scheduler, "allowed_failures", failures))

    killed = kill("fix", count=1, times=100)
    allow(0)
    try:
        with pytest.raises(lfm_np.SolverError, match=r"workers were lost with the same tasks 3 times over .*lfm_"):
            lfm_np.distributed.als(X, client=client, shards=1, **OPTIONS)
    finally:
        allow(3)
    assert 1 <= killed() <= 6  # three attempts, and each may take both workers


def test_gives_up_without_workers(X, monkeypatch):
    distributed = needed()
    monkeypatch.setattr(cluster_module(), "PATIENCE", 0.5)
    with (
        distributed.LocalCluster(processes=False, n_workers=1, dashboard_address=":0") as cluster,
        distributed.Client(cluster) as client,
    ):

        def leave(record, factors):
            cluster.scale(0)

        with pytest.raises(lfm_np.SolverError, match=r"no worker of .* took tasks for 0.5 seconds"):
            lfm_np.distributed.als(X, client=client, callback=leave, **OPTIONS)


DRIVER = """
import os, signal, sys
import distributed, lfm_np

def die(record, factors):
    if record["iteration"] == 3:
        os.kill(os.getpid(), signal.SIGKILL)

X = lfm_np.to_csr(lfm_np.datasets.make_interactions(5000, 500, 12, random_state=0), shape=(5000, 500))
with distributed.Client(sys.argv[1]) as client:
    asked = {"client": client, "shards": 2, "checkpoint": sys.argv[2], "checkpoint_every": 2, "callback": die}
    lfm_np.distributed.als(X, **asked, OPTIONS)
"""


def test_goes_on_where_a_killed_driver_was(client, X, whole, tmp_path):
    text = DRIVER.replace("OPTIONS", f"**{OPTIONS}")
    address = client.scheduler_info()["address"]
    done = subprocess.run([sys.executable, "-c", text, address, str(tmp_path / "run")], check=False)
    assert done.returncode == -signal.SIGKILL
    seen = []
    asked = {"client": client, "shards": 2, "checkpoint": tmp_path / "run", **OPTIONS}
    same_bits(
        lfm_np.distributed.als(X, callback=lambda record, factors: seen.append(record["iteration"]), **asked), whole
    )
    assert seen == [3, 4]
    same_bits(lfm_np.distributed.als(X, **asked), whole)  # all done: only read
    with pytest.raises(ValueError, match=r"belongs to another run: .*regularization is 0.1 there and 0.2 here"):
        lfm_np.distributed.als(X, **{**asked, "regularization": 0.2})
    with pytest.raises(ValueError, match=r"belongs to another run: shards is 2 there and 3 here"):
        lfm_np.distributed.als(X, **{**asked, "shards": 3})
    anew = lfm_np.distributed.als(X, **{**asked, "regularization": 0.2, "iterations": 1}, resume="never")
    assert len(anew.history) == 1


def test_the_scheduler_forgets(X):
    """It knows the tasks of two spans between copies at most, and not of 30 sweeps, which have some 13 each.

    On a cluster of its own: that of the other tests may still hold some of theirs.
    """
    counts, options = [], {"processes": False, "n_workers": 2, "threads_per_worker": 1, "dashboard_address": ":0"}

    def count(record, factors):
        counts.append(client.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks)))

    with needed().Client(**options) as client:
        lfm_np.distributed.als(X[:500], client=client, shards=2, callback=count, **{**OPTIONS, "iterations": 30})
    assert max(counts) < 2 * 5 * 13 + 70
    assert max(counts[15:]) <= max(counts[:15]) + 13


# ---- Parquet files --------------------------------------------------------------------------------------------------


def write_parquet(folder, files):
    pa, pq = require("pyarrow"), importlib.import_module("pyarrow.parquet")
    folder.mkdir()
    for number, columns in enumerate(files):
        pq.write_table(pa.table(columns), folder / f"{number}.parquet")
    return folder


def records(m=60, n=20, cells=500, seed=0):
    """Unsorted, with repeated pairs; string ids whose order is not that of the numbers."""
    rng = np.random.default_rng(seed)
    users = np.array([f"u{number}" for number in rng.integers(0, m, cells)], object)
    items = np.array([f"i{number}" for number in rng.integers(0, n, cells)], object)
    return users, items, rng.integers(1, 4, cells).astype(float)


ASKED = {"factors": 4, "iterations": 3, "regularization": 0.1, "dtype": np.float64}


def test_reads_files_of_users_as_they_are(eager, tmp_path, monkeypatch):
    """By ranges of users, the files in no order and one of them empty; equal to all in one matrix."""
    monkeypatch.setattr(parquet_module(), "check_client", lambda client: client)
    monkeypatch.setattr(parquet_module(), "Cluster", Eager)
    users, items, values = records()
    cuts = ["u40", "u1", "u9", "u55"]
    group = np.searchsorted(sorted(cuts), users.astype(str), side="right")
    order = [3, 0, 4, 2, 1]
    files = [{"u": users[group == g], "i": items[group == g], "x": values[group == g]} for g in order]
    files.append({"u": users[:0].astype(str), "i": items[:0].astype(str), "x": values[:0]})
    folder = write_parquet(tmp_path / "in", files)
    data = lfm_np.distributed.from_parquet(folder, user="u", item="i", value="x", shards=3)
    whole = lfm_np.Interactions.from_arrays(users.astype(str), items.astype(str), values)
    assert data.users().tolist() == whole.users.tolist()
    assert data.items.tolist() == whole.items.tolist()
    assert len(data.rows) == 3
    there = eager(data, init=start(whole.matrix, 4), **ASKED)
    here = lfm_np.als(whole, init=start(whole.matrix, 4), **ASKED)
    np.testing.assert_allclose(scores(there), scores(here), rtol=0, atol=1e-11)
    assert there.history[-1]["objective"] == pytest.approx(here.history[-1]["objective"], rel=1e-12)


def test_splits_files_by_user_first(client, tmp_path):
    """A user's records are in several files, and a bucket or two may stay empty."""
    users, items, values = records()
    parts = np.array_split(np.arange(len(users)), 3)
    folder = write_parquet(tmp_path / "in", [{"user": users[p], "item": items[p], "x": values[p]} for p in parts])
    with pytest.raises(ValueError, match=r"users of .* may be in .* too .*give staging="):
        lfm_np.distributed.from_parquet(folder, client=client)
    asked = {"client": client, "value": "x", "shards": 4}
    data = lfm_np.distributed.from_parquet(folder, staging=tmp_path / "split", **asked)
    whole = lfm_np.Interactions.from_arrays(users.astype(str), items.astype(str), values)
    ids = data.users(client)
    rows = whole.rows_of(ids.astype(str))
    assert sorted(rows.tolist()) == list(range(60))
    init = start(whole.matrix, 4)
    there = lfm_np.distributed.als(data, client=client, init=(init[0][rows], init[1]), **ASKED)
    here = lfm_np.als(whole, init=init, **ASKED)
    np.testing.assert_allclose(scores(there), scores(here)[rows], rtol=0, atol=1e-11)
    path = tmp_path / "users.npy"
    kept = lfm_np.distributed.als(data, client=client, init=(init[0][rows], init[1]), users_to=path, **ASKED)
    same_bits(kept, there)
    assert (np.load(path) == there.user_factors).all()
    with pytest.raises(ValueError, match=r"staging must be an empty folder, got .*split, which holds bucket"):
        lfm_np.distributed.from_parquet(folder, staging=tmp_path / "split", **asked)
    with pytest.raises(ValueError, match=r"shards must be None or 4, those of source, got 5"):
        lfm_np.distributed.als(data, client=client, shards=5)


def test_the_driver_never_holds_the_records(client, tmp_path):
    """Its peak is far below the records' own size, and it neither reads nor receives them, nor the users."""
    rng = np.random.default_rng(0)
    m, cells = 100_000, 400_000
    users = np.sort(rng.integers(0, m, cells))
    files = [{"user": part, "item": rng.integers(0, 100, len(part))} for part in np.array_split(users, 4)]
    for one, other in itertools.pairwise(files):
        one["user"][one["user"] == other["user"][0]] -= 1
    folder = write_parquet(tmp_path / "in", files)
    tracemalloc.start()
    data = lfm_np.distributed.from_parquet(folder, client=client, shards=4)
    factors = lfm_np.distributed.als(data, client=client, factors=16, iterations=2, users_to=tmp_path / "users.npy")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert factors.shape[0] > 0.9 * m
    assert peak < factors.user_factors.nbytes / 2 < 16 * cells
