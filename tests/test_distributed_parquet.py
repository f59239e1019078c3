"""distributed.from_parquet: files of users as they are, files split by user, and what the driver sees."""

import copy
import errno
import importlib
import itertools
import mmap
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
from als_problems import scores, start
from distributed_runs import Eager, parquet_module, same_bits
from optional import require

import lfm_np
from lfm_np import atomic
from lfm_np.kernels.jit import Interrupted

pytestmark = pytest.mark.usefixtures("limit")


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
    for twin in (data, copy.copy(data), copy.deepcopy(data), pickle.loads(pickle.dumps(data))):
        with pytest.raises(ValueError, match="read-only"):
            twin.items[0] = "x"
        assert (twin.rows, twin.parts, twin.digests) == (data.rows, data.parts, data.digests)
    assert len(data.rows) == 3
    there = eager(data, init=start(whole.matrix, 4), **ASKED)
    here = lfm_np.als(whole, init=start(whole.matrix, 4), **ASKED)
    np.testing.assert_allclose(scores(there), scores(here), rtol=0, atol=1e-11)
    assert there.history[-1]["objective"] == pytest.approx(here.history[-1]["objective"], rel=1e-12)


@pytest.mark.parametrize("staged", [False, True])
@pytest.mark.parametrize("names", [("1", "ann"), ("007", "x"), ("3", "4"), ("__HIVE_DEFAULT_PARTITION__", "3")])
def test_folders_give_columns_as_they_do_on_one_machine(tmp_path, monkeypatch, staged, names):
    """A task reads one file: those above the folder gave it columns, and its own were of other types."""
    pa, pq = require("pyarrow"), importlib.import_module("pyarrow.parquet")
    monkeypatch.setattr(parquet_module(), "check_client", lambda client: client)
    monkeypatch.setattr(parquet_module(), "Cluster", Eager)
    folder = tmp_path / "item=5" / "data"
    for number, name in enumerate(names):
        (folder / f"user={name}").mkdir(parents=True)
        items = pa.array([number, 9], pa.int32())
        pq.write_table(pa.table({"item": items}), folder / f"user={name}" / "a.parquet")
    data = lfm_np.distributed.from_parquet(
        folder, nulls="drop", shards=2, staging=tmp_path / "split" if staged else None
    )
    whole = lfm_np.Interactions.from_parquet(folder, nulls="drop")
    assert sorted(data.users().tolist()) == whole.users.tolist()
    assert data.items.tolist() == whole.items.tolist()
    assert 9 in data.items


def test_links_that_lead_round_in_circles_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet_module(), "check_client", lambda client: client)
    pa, pq = require("pyarrow"), importlib.import_module("pyarrow.parquet")
    pq.write_table(pa.table({"user": [1], "item": [2]}), tmp_path / "x.parquet")
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(ValueError, match=r"path must hold no links in circles, got .*link, which leads back to "):
        lfm_np.distributed.from_parquet(tmp_path)


def test_two_dots_behind_a_link_lead_where_the_system_says(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet_module(), "check_client", lambda client: client)
    monkeypatch.setattr(parquet_module(), "Cluster", Eager)
    (tmp_path / "far" / "in").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "far" / "in")
    for user, folder in enumerate((tmp_path / "data", tmp_path / "far" / "data")):
        write_parquet(folder, [{"user": [user], "item": [0]}])
    monkeypatch.chdir(tmp_path)
    data = lfm_np.distributed.from_parquet("link/../data", staging="link/../split")
    assert data.users().tolist() == [1]
    assert os.listdir(tmp_path / "far" / "split")
    place = importlib.import_module("lfm_np.distributed.run").check_users_to("link/../users.npy", None)
    assert os.path.realpath(place) == str(tmp_path.resolve() / "far" / "users.npy")


def test_a_row_that_cannot_be_is_named_with_its_shard(eager, tmp_path, monkeypatch):
    monkeypatch.setattr(parquet_module(), "check_client", lambda client: client)
    monkeypatch.setattr(parquet_module(), "Cluster", Eager)
    files = [{"user": [1, 2], "item": [1, 2], "x": [1.0, 1.0]}, {"user": [3, 4], "item": [1, 2], "x": [1.0, -1.0]}]
    data = lfm_np.distributed.from_parquet(write_parquet(tmp_path / "in", files), value="x", shards=2)
    with pytest.raises(ValueError, match=r"in row 1; .*1\.parquet, which begins at row 2"):
        eager(data, **ASKED)


def test_staging_is_that_of_one_of_two_that_find_it_empty_at_once(tmp_path, monkeypatch):
    module = parquet_module()
    monkeypatch.setattr(os, "listdir", lambda path: [])
    assert module._empty_folder(tmp_path / "split") == str(tmp_path / "split")
    with pytest.raises(FileExistsError, match="staging must be an empty folder"):
        module._empty_folder(tmp_path / "split")


def test_a_file_may_be_split_twice_at_once(tmp_path, monkeypatch):
    """By two workers of one process, or with one pid in two containers, of which dask has given up the first."""
    module, users = parquet_module(), list(range(8))
    folder = write_parquet(tmp_path / "in", [{"user": users, "item": users}])
    plan, replace = lfm_np.reading.plan_columns("from_parquet", {}), os.replace
    asked = str(folder / "0.parquet"), plan, module._schema(folder, plan), str(tmp_path / "split"), 0, 2

    def split_again(*paths):
        monkeypatch.setattr(os, "replace", replace)
        module._split(*asked)
        replace(*paths)

    monkeypatch.setattr(os, "replace", split_again)
    os.mkdir(tmp_path / "split")
    module._split(*asked)
    found = [lfm_np.Interactions.from_parquet(tmp_path / "split" / f"bucket={n:05d}").users for n in range(2)]
    assert sorted(np.concatenate(found).tolist()) == users
    assert not [name for name in os.listdir(tmp_path / "split") if name.startswith(".")]


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
    other = lfm_np.distributed.als(data, client=client, users_to=path, random_state=1, **ASKED)
    assert (np.load(path) == other.user_factors).all()
    same_bits(kept, there)  # whose file has gone from the folder, and not changed
    assert sorted(os.listdir(tmp_path)) == ["in", "split", "users.npy"]
    with pytest.raises(ValueError, match=r"staging must be an empty folder, got .*split, which holds bucket"):
        lfm_np.distributed.from_parquet(folder, staging=tmp_path / "split", **asked)
    with pytest.raises(ValueError, match=r"shards must be None or 4, those of source, got 5"):
        lfm_np.distributed.als(data, client=client, shards=5)


@pytest.mark.parametrize("kind", ["uuid", "halffloat"])
def test_splits_by_users_of_every_kind(tmp_path, monkeypatch, kind):
    pa = require("pyarrow")
    monkeypatch.setattr(parquet_module(), "check_client", lambda client: client)
    monkeypatch.setattr(parquet_module(), "Cluster", Eager)
    numbers = np.arange(40) % 11
    users = pa.array([int(n).to_bytes(16) for n in numbers], pa.uuid()) if kind == "uuid" else numbers.astype("f2") / 2
    folder = write_parquet(tmp_path / "in", [{"user": users, "item": np.arange(40) % 3}] * 2)
    whole = lfm_np.Interactions.from_parquet(folder)
    data = lfm_np.distributed.from_parquet(folder, staging=tmp_path / "split", shards=3)
    assert sorted(data.users().tolist()) == whole.users.tolist()
    assert data.shape == whole.shape


def test_users_for_a_full_disk_are_an_error_before_they_are_mapped(eager, tmp_path, monkeypatch):
    def refuse(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path, X = tmp_path / "users.npy", lfm_np.to_csr(np.argwhere(np.eye(9, 5) == 1))
    asked = {"factors": 2, "iterations": 1, "random_state": 0, "shards": 2, "users_to": path}
    kept = eager(X, **asked)
    monkeypatch.setattr(os, "posix_fallocate", refuse, raising=False)
    with pytest.raises(OSError, match="No space left on device; nothing was written") as error:
        eager(X, **asked)
    assert (error.value.errno, error.value.filename) == (errno.ENOSPC, str(path))
    assert os.listdir(tmp_path) == ["users.npy"]
    assert (np.load(path) == kept.user_factors).all()


def test_users_are_those_of_the_run_whatever_takes_their_place(eager, tmp_path, monkeypatch):
    path, X = tmp_path / "users.npy", lfm_np.to_csr(np.argwhere(np.eye(9, 5) == 1))
    asked = {"factors": 2, "iterations": 1, "random_state": 0, "shards": 2}

    def faster(folder):
        np.save(tmp_path / "other.npy", np.zeros((9, 2), np.float32))
        os.replace(tmp_path / "other.npy", path)

    monkeypatch.setattr(atomic, "_sync_folder", faster)  # right after the file has its name
    kept = eager(X, users_to=path, **asked)
    same_bits(kept, eager(X, **asked))
    assert isinstance(kept.user_factors.base.base, mmap.mmap)  # joblib would open a memmap by its name
    assert not np.load(path).any()


@pytest.mark.parametrize("biases", [False, True])
@pytest.mark.parametrize("given", [False, True])
def test_users_are_written_before_the_first_sweep_too(eager, tmp_path, monkeypatch, given, biases):
    """After Ctrl-C there: a file of another run was left where this one's users should be."""

    def pressed(self):
        raise Interrupted

    path, X = tmp_path / "users.npy", lfm_np.to_csr(np.argwhere(np.eye(9, 5) == 1))
    asked = {"factors": 2, "shards": 2, "random_state": 0, "weighting": "ratings", "biases": biases}
    asked |= {"init": start(X, 2)} if given else {}
    monkeypatch.setattr(importlib.import_module("lfm_np.distributed.sweep").Sweeps, "sweep", pressed)
    np.save(path, np.ones((9, 7)))
    kept = eager(X, users_to=path, **asked)
    assert (kept.status, len(kept.history)) == ("interrupted", 0)
    assert (np.load(path) == kept.user_factors).all()
    twin = eager(X, **asked)
    assert (kept.user_factors == twin.user_factors).all()
    assert kept.user_factors.any() == given
    assert (kept.user_bias is None) == (not biases)


DRIVER = """
import sys, tracemalloc
import distributed, lfm_np
address, folder, path = sys.argv[1:]
with distributed.Client(address) as client:
    for trial in "ab":  # the first imports
        tracemalloc.start()
        data = lfm_np.distributed.from_parquet(folder, client=client, shards=4)
        asked = {"factors": 16, "iterations": 2, "users_to": path + trial}
        factors = lfm_np.distributed.als(data, client=client, **asked)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
print(peak, *factors.user_factors.shape, factors.user_factors.nbytes)
"""


def test_the_driver_never_holds_the_records(client, tmp_path):
    """Its peak is far below the records' own size, and it neither reads nor receives them, nor the users.

    In a process of its own, apart from the scheduler and from what other tests have left.
    """
    rng = np.random.default_rng(0)
    m, cells = 100_000, 400_000
    users = np.sort(rng.integers(0, m, cells))
    files = [{"user": part, "item": rng.integers(0, 100, len(part))} for part in np.array_split(users, 4)]
    for one, other in itertools.pairwise(files):
        one["user"][one["user"] == other["user"][0]] -= 1
    folder = write_parquet(tmp_path / "in", files)
    command = [sys.executable, "-c", DRIVER, client.scheduler.address, str(folder), str(tmp_path / "users")]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    peak, rows, k, size = map(int, done.stdout.split())
    assert rows > 0.9 * m
    assert k == 16
    assert peak < size / 2 < 16 * cells
