"""distributed.als through the deaths of workers and of the driver."""

import contextlib
import os
import signal
import subprocess
import sys

import pytest
from distributed_runs import OPTIONS, cluster_module, needed, same_bits

import lfm_np

pytestmark = pytest.mark.usefixtures("limit")


@pytest.fixture
def kill(client, tmp_path):
    """Have workers kill themselves at their ``count``-th task of a name, ``times`` in all."""
    distributed = needed()
    names, over = [], tmp_path / "over"

    def start(name, count=1, times=1):
        class Killer(distributed.WorkerPlugin):
            seen = 0

            def transition(self, key, start, finish, **kwargs):
                if finish != "executing" or not str(key).startswith(f"lfm_{name}-") or over.exists():
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
    over.touch()  # for a worker that starts in this moment and keeps the plugin
    for name in names:
        with contextlib.suppress(KeyError):  # of a worker that started a moment ago, and has none
            client.unregister_worker_plugin(name)


@pytest.fixture(scope="module")
def whole(client, tall):
    """The factors that a run gives when nobody dies."""
    return lfm_np.distributed.als(tall, client=client, shards=2, **OPTIONS)


@pytest.mark.parametrize(("name", "times"), [("share", 1), ("items", 1), ("share", 2)])
def test_survives_the_death_of_workers(client, tall, whole, kill, name, times):
    """On either side of the sum of the shares, and of all workers at once."""
    killed = kill(name, count=3 if name != "items" else 1, times=times)
    same_bits(lfm_np.distributed.als(tall, client=client, shards=2, checkpoint_every=2, **OPTIONS), whole)
    assert killed() == times


@pytest.mark.parametrize("name", ["users", "share", "items", "found"])
def test_survives_a_death_with_several_blocks_of_items(client, tall, kill, name, monkeypatch):
    monkeypatch.setattr("lfm_np.distributed.sweep.BLOCK_BYTES", 1 << 17)
    asked = {"client": client, "shards": 2, "checkpoint_every": 2, **OPTIONS}
    whole = lfm_np.distributed.als(tall, **asked)
    killed = kill(name, count=3)
    same_bits(lfm_np.distributed.als(tall, **asked), whole)
    assert killed() == 1


def test_survives_a_death_where_users_are_gathered(client, tall, kill):
    asked = {"client": client, "shards": 2, "checkpoint_every": 2, **OPTIONS}
    wide = tall.T.tocsr()
    whole = lfm_np.distributed.als(wide, **asked)
    killed = kill("items", count=3)
    same_bits(lfm_np.distributed.als(wide, **asked), whole)
    assert killed() == 1


def test_gives_up_on_a_task_that_always_kills(client, tall, kill):
    def allow(failures):
        client.run_on_scheduler(lambda dask_scheduler: setattr(dask_scheduler, "allowed_failures", failures))

    killed = kill("fix", count=1, times=100)
    allow(0)
    try:
        with pytest.raises(lfm_np.SolverError, match=r"workers were lost with the same tasks 3 times over .*lfm_"):
            lfm_np.distributed.als(tall, client=client, shards=1, **OPTIONS)
    finally:
        allow(3)
    assert 1 <= killed() <= 6  # three attempts, and each may take both workers


def test_gives_up_without_workers(tall, monkeypatch):
    distributed = needed()
    monkeypatch.setattr(cluster_module(), "PATIENCE", 0.5)
    with (
        distributed.LocalCluster(processes=False, n_workers=1, dashboard_address=":0") as cluster,
        distributed.Client(cluster) as client,
    ):

        def leave(record, factors):
            cluster.scale(0)

        with pytest.raises(lfm_np.SolverError, match=r"no worker of .* took tasks for 0.5 seconds"):
            lfm_np.distributed.als(tall, client=client, callback=leave, **OPTIONS)


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


def test_goes_on_where_a_killed_driver_was(client, tall, whole, tmp_path):
    text = DRIVER.replace("OPTIONS", f"**{OPTIONS}")
    address = client.scheduler_info()["address"]
    done = subprocess.run([sys.executable, "-c", text, address, str(tmp_path / "run")], check=False)
    assert done.returncode == -signal.SIGKILL
    seen = []
    asked = {"client": client, "shards": 2, "checkpoint": tmp_path / "run", **OPTIONS}
    same_bits(
        lfm_np.distributed.als(tall, callback=lambda record, factors: seen.append(record["iteration"]), **asked), whole
    )
    assert seen == [3, 4]
    same_bits(lfm_np.distributed.als(tall, **asked), whole)  # all done: only read
    with pytest.raises(ValueError, match=r"belongs to another run: .*regularization is 0.1 there and 0.2 here"):
        lfm_np.distributed.als(tall, **{**asked, "regularization": 0.2})
    with pytest.raises(ValueError, match=r"belongs to another run: shards is 2 there and 3 here"):
        lfm_np.distributed.als(tall, **{**asked, "shards": 3})
    anew = lfm_np.distributed.als(tall, **{**asked, "regularization": 0.2, "iterations": 1}, resume="never")
    assert len(anew.history) == 1


def test_the_scheduler_forgets(tall):
    """It knows the tasks of two spans between copies at most, and not of 30 sweeps, which have some 13 each.

    On a cluster of its own: that of the other tests may still hold some of theirs.
    """
    counts, options = [], {"processes": False, "n_workers": 2, "threads_per_worker": 1, "dashboard_address": ":0"}

    def count(record, factors):
        counts.append(client.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks)))

    with needed().Client(**options) as client:
        lfm_np.distributed.als(tall[:500], client=client, shards=2, callback=count, **{**OPTIONS, "iterations": 30})
    assert max(counts) < 2 * 5 * 13 + 70
    assert max(counts[15:]) <= max(counts[:15]) + 13
