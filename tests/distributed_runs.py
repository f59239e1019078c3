"""What the tests of distributed.als share: a time limit, tasks without a cluster, and a cluster of two workers."""

import importlib
import signal

import pytest
from optional import require

import lfm_np

SECONDS = 180  # no test may hang


@pytest.fixture
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

    def send(self, *groups):
        return [list(group) for group in groups]

    def finish(self, values, heed=True):
        pass

    def groups(self, *groups, heed=True):
        return self.send(*groups)

    def gather(self, values):
        return list(values)

    def release(self, values):
        pass


def needed():
    """What these tests need, or they are skipped."""
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


@pytest.fixture(scope="module")
def tall():
    """5000 users of 500 items."""
    pairs = lfm_np.datasets.make_interactions(5000, 500, 12, random_state=0)
    return lfm_np.to_csr(pairs, shape=(5000, 500))


OPTIONS = {"factors": 16, "iterations": 4, "regularization": 0.1, "random_state": 0}


@pytest.fixture(scope="module")
def warm(tall):
    """Compile what workers are to find in the cache on disk."""
    needed()
    patch = pytest.MonkeyPatch()
    patch.setattr(als_module(), "check_client", lambda client: client)
    patch.setattr(als_module(), "Cluster", Eager)
    for X in (tall, tall.T.tocsr()):
        lfm_np.distributed.als(X, shards=2, **OPTIONS)
    patch.undo()


@pytest.fixture(scope="module")
def client(warm):
    """Two workers of one thread each, which the cluster does not give up while they start again on a busy machine."""
    distributed = needed()
    with (
        importlib.import_module("dask").config.set({"distributed.deploy.lost-worker-timeout": "300s"}),
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


def same_bits(one, other):
    assert (one.user_factors == other.user_factors).all()
    assert (one.item_factors == other.item_factors).all()
    assert [r["objective"] for r in one.history] == [r["objective"] for r in other.history]
