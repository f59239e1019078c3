"""Matrices on disk: the same factors as in memory, bit for bit, in a given amount of memory, or a refusal by name."""

import errno
import io
import json
import mmap
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from optional import require
from strategies import csr_matrices

import lfm_np
from lfm_np import StoredMatrix, row_plan
from lfm_np.fingerprint import fingerprint
from lfm_np.kernels.jit import JIT_DISABLED
from lfm_np.stored import buckets, files, matrix, records, sides

ORDERS = ("rows", "columns")
FILES = [f"{order}.{part}.npy" for order in ORDERS for part in ("indptr", "indices", "data")]


def make(m=300, n=60, seed=0, values=(0.5, 1.0, 3.0)):
    """Rows of 0 to 12 cells, a row of all, a column of nearly all, an empty column."""
    rng = np.random.default_rng(seed)
    dense = np.where(rng.random((m, n)) < rng.random((m, 1)) * 0.2, rng.choice(values, (m, n)), 0)
    dense[5], dense[: m - 9, 3], dense[:, 7], dense[m - 3] = 1, 2, 0, 0
    return sp.csr_array(dense.astype(np.float32))


@pytest.fixture
def small_parts(monkeypatch):
    """Parts of a few rows, blocks of few, and rows long enough for segments."""
    monkeypatch.setattr(sides, "cells_at_once", lambda *args, **options: 320)
    monkeypatch.setattr(row_plan, "SMALLEST_BLOCK", 2e4)


def as_csr(folder, order, shape):
    indptr, indices, data = (np.load(folder / f"{order}.{part}.npy") for part in ("indptr", "indices", "data"))
    return sp.csr_array((data, indices, indptr), shape=shape)


def assert_same(a, b):
    for name in ("user_factors", "item_factors", "user_bias", "item_bias"):
        one, other = getattr(a, name), getattr(b, name)
        assert (one is None) == (other is None)
        np.testing.assert_array_equal(one, other)
    for mine, theirs in zip(a.history, b.history, strict=True):
        for name in ("objective_users", "objective"):  # sums of all rows' losses, in another order
            assert mine[name] == pytest.approx(theirs[name], rel=2 * sum(a.shape) * np.finfo(np.float64).eps)


# ---- fits -----------------------------------------------------------------------------------------------------------

FITS = [
    {},
    {"unobserved_weight": 0.0, "num_threads": 2},
    {"dtype": "float64", "num_threads": 3},
    {"weighting": "confidence", "alpha": 0.5, "num_threads": 7},  # c < α₀
    {"weighting": "ratings", "biases": True, "regularization_exponent": 1.0, "num_threads": 2},
    {"weighting": "ials", "solver": "cg", "factors": 64, "num_threads": 2},
    {"weighting": "ials", "solver": "subspace", "factors": 96, "num_threads": 3},
    {"regularization": 1e-9, "alpha": 1e4},  # rows that are solved again in float64
]


@pytest.mark.parametrize("asked", FITS, ids=str)
def test_a_fit_has_the_bits_of_one_in_memory(asked, tmp_path, small_parts):
    X = make()
    asked = {"factors": 20, "iterations": 3, "random_state": 0, "num_threads": 1} | asked
    stored = StoredMatrix.from_matrix(X, tmp_path / "x", dtype=asked.get("dtype", "float32"))
    whole, parts = lfm_np.als(X, **asked), lfm_np.als(stored, **asked)
    assert_same(whole, parts)
    assert parts.params["user_rows"]["blocks"] > 5
    for side in ("user_rows", "item_rows"):
        blocks = {"blocks": 0}
        assert parts.params[side] | blocks == whole.params[side] | blocks


@pytest.mark.small
def test_factors_on_disk_have_the_same_bits_and_leave_no_file(tmp_path, small_parts):
    X = make(40, 30)
    StoredMatrix.from_matrix(X, tmp_path / "x")
    asked = {"factors": 3, "iterations": 2, "random_state": 0, "num_threads": 2}
    disk = tmp_path / "disk"
    disk.mkdir()
    factors = lfm_np.als(StoredMatrix(tmp_path / "x", factors_in=disk), **asked)
    assert isinstance(factors.user_factors.base.base, mmap.mmap)
    assert not list(disk.iterdir())
    assert_same(factors, lfm_np.als(X, **asked))


@pytest.mark.small
def test_a_matrix_stays_where_it_was_when_the_process_goes_elsewhere(tmp_path, monkeypatch, small_parts):
    X, asked = make(40, 30), {"factors": 3, "iterations": 2, "random_state": 0}
    for name in ("disk", "disk/deep", "other"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    os.symlink("disk/deep", "link")
    made = StoredMatrix.from_matrix(X, "link/../x")
    opened = StoredMatrix("disk/x", factors_in="disk")
    gone = lfm_np.als(opened, callback=lambda record, factors: os.chdir(tmp_path / "other"), **asked)
    for factors in (gone, lfm_np.als(made, **asked), lfm_np.als(opened, **asked)):
        assert_same(factors, lfm_np.als(X, **asked))
    assert (made.folder, opened.folder) == (tmp_path / "link" / ".." / "x", tmp_path / "disk" / "x")


@pytest.mark.small
@pytest.mark.skipif(os.name == "nt", reason="the current folder cannot be removed there")
def test_an_absolute_folder_needs_no_current_one(tmp_path, monkeypatch, small_parts):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    X = make(40, 30)
    StoredMatrix.from_matrix(X, tmp_path / "x")
    options = {"factors": 3, "iterations": 2, "random_state": 0, "checkpoint": tmp_path / "state"}
    assert_same(
        lfm_np.als(StoredMatrix(tmp_path / "x"), **options), lfm_np.als(X, factors=3, iterations=2, random_state=0)
    )


@pytest.fixture
def full(monkeypatch):
    """A disk without a block to give."""

    def refuse(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", refuse, raising=False)


@pytest.mark.small
def test_factors_on_a_full_disk_are_an_error_before_they_are_mapped(tmp_path, full):
    stored = StoredMatrix.from_matrix(make(40, 30), tmp_path / "x")
    disk = tmp_path / "disk"
    disk.mkdir()
    with pytest.raises(OSError, match="No space left on device") as error:
        lfm_np.als(StoredMatrix(stored.folder, factors_in=disk), factors=3)
    assert (error.value.errno, error.value.filename) == (errno.ENOSPC, str(disk))
    assert not list(disk.iterdir())


def test_a_checkpoint_serves_the_matrix_in_memory_and_on_disk(tmp_path, small_parts):
    X, path = make(), tmp_path / "checkpoint"
    stored = StoredMatrix.from_matrix(X, tmp_path / "x")
    asked = {"factors": 5, "random_state": 0, "checkpoint": path}
    seen = []

    def stop(record, factors):
        seen.append(factors.item_factors.copy())
        if record["iteration"] == 2:
            raise StopIteration

    assert lfm_np.als(stored, callback=stop, **asked).status == "stopped"
    assert len(seen) == 2
    assert len(lfm_np.als(X, iterations=3, **asked).history) == 3
    resumed = lfm_np.als(stored, iterations=5, **asked)
    assert_same(resumed, lfm_np.als(X, factors=5, random_state=0, iterations=5))
    other = StoredMatrix.from_matrix(2 * X, tmp_path / "other")
    with pytest.raises(ValueError, match="X is another matrix"):
        lfm_np.als(other, iterations=6, **asked)


def test_a_singular_row_is_named_by_its_number_in_the_whole(tmp_path, small_parts, monkeypatch):
    X = make().tolil()
    X[299] = 0
    X[299, 1] = 1.0
    asked = {"factors": 4, "regularization": 0.0, "unobserved_weight": 0.0, "iterations": 1, "random_state": 0}
    with pytest.raises(lfm_np.SolverError) as in_memory:
        lfm_np.als(X, **asked)
    stored = StoredMatrix.from_matrix(X, tmp_path / "x")
    monkeypatch.setattr(sides, "cells_at_once", lambda *args, **options: 1 << 20)
    with pytest.raises(lfm_np.SolverError) as on_disk:
        lfm_np.als(stored, **asked)
    assert str(on_disk.value) == str(in_memory.value)


@pytest.mark.parametrize("asked", [{}, {"weighting": "ratings", "biases": True}, {"solver": "subspace"}], ids=str)
def test_a_sweep_reads_the_cells_of_either_order_once_from_the_first_to_the_last(asked, tmp_path, small_parts):
    X, reads, sweeps = make(), [], []
    stored = StoredMatrix.from_matrix(X, tmp_path / "x")
    readinto = io.FileIO.readinto

    class Spy(io.FileIO):
        def readinto(self, room):
            start, got = self.tell(), readinto(self, room)
            reads.append((Path(self.name).name, start, start + got))
            return got

    def swept(record, factors):
        sweeps.append(reads.copy())
        reads.clear()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "open", lambda path, mode, buffering: Spy(path, mode), raising=False)
        lfm_np.als(stored, factors=4, iterations=3, random_state=0, callback=swept, **asked)
    for seen in sweeps[1:]:  # before the first, weights are looked at
        names = [name for name, _, _ in seen]
        assert set(names) == {f"{order}.{part}.npy" for order in ORDERS for part in ("indices", "data")}
        assert names == sorted(names, key=lambda name: name.startswith("columns"))  # all rows, then all columns
        for name in set(names):
            edges = [edge for file, *edges in seen if file == name for edge in edges]
            assert len(edges) > 10  # of several parts
            assert (edges[0], edges[-1]) == (files.OFFSET, files.OFFSET + 4 * X.nnz)
            assert edges[1:-1:2] == edges[2::2]  # each begins where the one before ended


# ---- memory ---------------------------------------------------------------------------------------------------------

MEASURE = """
    import gc, sys
    import numpy as np
    import lfm_np

    def resident(name):  # VmRSS, or its peak VmHWM: pages of files that are mapped count too
        with open("/proc/self/status") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith(name))

    def fit(path):
        lfm_np.als(lfm_np.StoredMatrix(path, memory=budget), factors=8, iterations=1, random_state=0, num_threads=2)

    def build(path):
        lfm_np.StoredMatrix.from_parquet(path, path + ".stored", memory=budget, num_threads=2)

    task, path, warm, budget = globals()[sys.argv[1]], sys.argv[2], sys.argv[3], int(sys.argv[4])
    task(warm)  # compiles, imports, starts threads once
    gc.collect()
    base = resident("VmRSS")
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the peak starts here
    task(path)
    print(resident("VmHWM") - base)
"""


def growth(*arguments):
    """Bytes that the resident set of a new process grows by."""
    command = [sys.executable, "-c", textwrap.dedent(MEASURE), *map(str, arguments)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


measured = pytest.mark.skipif(
    JIT_DISABLED or not Path("/proc/self/clear_refs").exists(), reason="compiled code on Linux"
)


def wide_rows(m, n, each):
    """Every row has ``each`` cells of value 1, at steps of 1 or 2."""
    indices = np.random.default_rng(0).integers(1, 3, (m, each), dtype=np.int32)
    indices = np.cumsum(indices, axis=1, out=indices).reshape(-1)
    return sp.csr_array((np.ones(m * each, np.float32), indices, np.arange(0, m * each + 1, each)), shape=(m, n))


@measured
def test_the_resident_memory_stays_within_a_tenth_of_the_matrix(tmp_path):
    X = wide_rows(12_000, 2_500, 1_250)
    budget = X.nnz * 8 // 10
    StoredMatrix.from_matrix(X, tmp_path / "x")
    StoredMatrix.from_matrix(wide_rows(1000, 2500, 1250), tmp_path / "warm")
    assert 0 < growth("fit", tmp_path / "x", tmp_path / "warm", budget) < budget


@measured
def test_records_of_many_times_the_memory_are_built_within_it(tmp_path):
    pa, pq = require("pyarrow"), pytest.importorskip("pyarrow.parquet")
    rng, budget = np.random.default_rng(0), 40 << 20
    ids = pa.array([f"user {number:041d}" for number in range(10_000)])
    records = 2_500_000
    users, items = ids.take(pa.array(rng.integers(0, len(ids), records))), rng.integers(0, 2_000, records)
    table = pa.table({"user": users, "item": items})
    assert table.nbytes > 3 * budget
    pq.write_table(table, tmp_path / "records", row_group_size=records, use_dictionary=False)  # one group of all
    pq.write_table(table[:2], tmp_path / "warm")
    assert 0 < growth("build", tmp_path / "records", tmp_path / "warm", budget) < budget


@pytest.mark.small
def test_too_little_memory_is_refused_with_what_is_needed_and_a_remedy(tmp_path, monkeypatch):
    StoredMatrix.from_matrix(make(), tmp_path / "x")
    little = StoredMatrix(tmp_path / "x", memory=1 << 20)
    with pytest.raises(MemoryError, match=r"memory must be at least (\d+) bytes.*factors_in") as error:
        lfm_np.als(little, factors=600)
    needed = int(str(error.value).split()[5])
    on_disk = StoredMatrix(tmp_path / "x", memory=1 << 20, factors_in=tmp_path)
    with pytest.raises(MemoryError) as error:
        lfm_np.als(on_disk, factors=600)
    assert needed - int(str(error.value).split()[5]) == 2 * 4 * 608 * 360
    with pytest.raises(MemoryError, match=r"memory must be at least 10512 bytes for a column of 292 cells, got 100"):
        buckets.transpose(little.rows, tmp_path, tmp_path, buckets.Budget(100, 100), 1)
    with pytest.raises(
        MemoryError, match=r"memory must be at least 1\d+ bytes for 20000 rows and 3 columns, got 1048576"
    ):
        StoredMatrix.from_matrix(sp.csr_array((20_000, 3)), tmp_path / "wide", memory=1 << 20)


def test_records_that_cannot_fit_the_memory_are_refused_with_what_they_need(tmp_path):
    pa, pq = require("pyarrow"), pytest.importorskip("pyarrow.parquet")
    folder, some = tmp_path / "x", np.arange(50_000)
    for users, message in ((some, "the distinct users and items so far"), (0 * some, "a user with 50000 records")):
        pq.write_table(pa.table({"user": users, "item": some % 9}), tmp_path / "records")
        with pytest.raises(MemoryError, match=rf"memory must be at least (\d+) bytes for {message}, got") as error:
            StoredMatrix.from_parquet(tmp_path / "records", folder, memory=38 << 20)
        needed = int(str(error.value).split()[5])
        stored = StoredMatrix.from_parquet(tmp_path / "records", folder, memory=2 * needed)
        assert (stored.nnz > 0, stored.memory) == (True, 2 * needed)
        shutil.rmtree(folder)
    with pytest.raises(ValueError, match=r"memory must be an integer ≥ 35651584, got 1048576"):
        StoredMatrix.from_parquet(tmp_path / "records", folder, memory=1 << 20)


# ---- building -------------------------------------------------------------------------------------------------------


@pytest.mark.small
@settings(max_examples=15)
@given(csr_matrices(), st.sampled_from([1, 3, 1000]), st.integers(1, 3), st.sampled_from(["float32", "float64"]))
def test_both_orders_are_the_matrix(X, piece, threads, dtype):
    longest = int(max(np.diff(X.indptr).max(initial=0), np.diff(X.tocsc().indptr).max(initial=0), 1))
    before, folder = buckets._PIECE, Path("stored-by-a-test")
    buckets._PIECE = piece
    shutil.rmtree(folder, ignore_errors=True)
    try:
        stored = StoredMatrix.from_matrix(X, folder, dtype=dtype, memory=1 << 20, num_threads=threads)
        assert (stored.shape, stored.nnz, stored.users) == (X.shape, X.nnz, None)
        assert (stored.dtype, stored.memory) == (dtype, 1 << 20)
        for order, wanted in (("rows", X), ("columns", X.T.tocsr())):
            for memory in (longest * 60, 1 << 20):  # many buckets, and one
                if order == "columns":
                    for path in folder.glob("columns.*"):
                        path.unlink()
                    budget = buckets.Budget(memory, memory)
                    buckets.transpose(stored.rows, folder, _emptied(folder / "scratch"), budget, threads)
                found = as_csr(folder, order, wanted.shape)
                np.testing.assert_array_equal(found.indptr, wanted.indptr)
                np.testing.assert_array_equal(found.indices, wanted.indices)
                np.testing.assert_array_equal(found.data, wanted.data.astype(dtype))
    finally:
        buckets._PIECE = before
        shutil.rmtree(folder, ignore_errors=True)


def _emptied(folder):
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


@pytest.mark.parametrize("kind", ["string", "int64"])
@pytest.mark.parametrize("duplicates", ["sum", "last", "mean", "max", "count"])
def test_parquet_gives_what_interactions_give(kind, duplicates, tmp_path, monkeypatch):
    pa, pq = require("pyarrow"), pytest.importorskip("pyarrow.parquet")
    from lfm_np import id_columns

    monkeypatch.setattr(records, "_GROUPING", (8 << 20) // 50)  # buckets of 50 records
    monkeypatch.setattr(records, "_READING", (8 << 20) // 40)  # batches of 40, whose ids are merged
    monkeypatch.setattr(id_columns, "_MERGE", 40)
    rng = np.random.default_rng(1)
    source = tmp_path / "records"
    source.mkdir()
    for number in range(3):
        users, items = rng.integers(0, 90, 400), rng.integers(0, 40, 400)
        table = pa.table(
            {
                "user": pa.array([f"ü{user}" for user in users] if kind == "string" else users),
                "item": pa.array(items).cast(pa.string() if kind == "string" else pa.int64()),
                "stars": rng.integers(0, 5, 400).astype(float),
            }
        )
        pq.write_table(table, source / f"{number}.parquet", row_group_size=70)
    asked = {"value": "stars", "duplicates": duplicates}
    data = lfm_np.Interactions.from_parquet(source, **asked)
    for zeros in ("keep", "drop"):
        stored = StoredMatrix.from_parquet(
            source, tmp_path / zeros, zeros=zeros, memory=40 << 20, num_threads=2, **asked
        )
        wanted = data.matrix.copy()
        if zeros == "drop":
            wanted.eliminate_zeros()
        np.testing.assert_array_equal(stored.users, data.users)
        np.testing.assert_array_equal(stored.items, data.items)
        for order, matrix_ in (("rows", wanted), ("columns", wanted.T.tocsr())):
            found = as_csr(tmp_path / zeros, order, matrix_.shape)
            np.testing.assert_array_equal(found.toarray(), matrix_.toarray())
            assert (found.nnz, found.has_canonical_format) == (wanted.nnz, True)
    os.replace(tmp_path / "drop" / "items.parquet", tmp_path / "drop" / "users.parquet")
    for name in ("users", "items"):  # of which one is others' and one is gone
        with pytest.raises(ValueError, match=rf"{name}\.parquet has changed since the matrix was opened"):
            getattr(stored, name)
    with pytest.raises(TypeError, match="from_parquet has no argument timestamp"):
        StoredMatrix.from_parquet(source, tmp_path / "no", timestamp="stars")
    with pytest.raises(ValueError, match="occurs more than once") as there:
        lfm_np.Interactions.from_parquet(source, duplicates="error")
    with pytest.raises(ValueError, match=re.escape(str(there.value))):  # the pair by its ids
        StoredMatrix.from_parquet(source, tmp_path / "no", duplicates="error")
    days = tmp_path / "days.parquet"
    pq.write_table(pa.table({"user": pa.array([7, 7], pa.timestamp("ns")), "item": [1, 1]}), days)
    with pytest.raises(ValueError, match=r"pair \('1970-01-01T00:00:00\.000000007', 1\)"):
        StoredMatrix.from_parquet(days, tmp_path / "no", duplicates="error")
    days.unlink()
    with pytest.raises(ValueError, match="value='nothing' is no column"):
        StoredMatrix.from_parquet(source, tmp_path / "no", value="nothing")
    table = table.set_column(2, "stars", pa.array([1.0] * 399 + [np.inf]))  # beyond the first batch
    pq.write_table(table, tmp_path / "records" / "0.parquet")
    with pytest.raises(ValueError, match="got inf in record 399"):
        StoredMatrix.from_parquet(source, tmp_path / "no", value="stars")
    assert sorted(os.listdir(tmp_path)) == ["drop", "keep", "records"]


@pytest.mark.small
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()], ids=repr)
def test_a_build_that_ends_early_leaves_nothing(error, tmp_path, monkeypatch):
    def broken(*args):
        raise error

    monkeypatch.setattr(matrix, "transpose", broken)
    with pytest.raises(type(error)):
        StoredMatrix.from_matrix(make(20, 10), tmp_path / "x")
    assert not os.listdir(tmp_path)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="has no signals")
def test_a_killed_build_leaves_no_store_and_the_next_removes_the_rest(tmp_path):
    script = f"""
        import os, signal, numpy as np, lfm_np, scipy.sparse as sp
        from lfm_np.stored import matrix
        matrix.transpose = lambda *args: os.kill(os.getpid(), signal.SIGKILL)
        lfm_np.StoredMatrix.from_matrix(sp.eye_array(9, format="csr"), {str(tmp_path / "x")!r})
    """
    assert subprocess.run([sys.executable, "-c", textwrap.dedent(script)]).returncode == -signal.SIGKILL
    assert os.listdir(tmp_path) == ["x.partial"]
    with pytest.raises(ValueError, match=r"x is not a whole and valid stored matrix: it has no manifest.json"):
        StoredMatrix(tmp_path / "x")
    StoredMatrix.from_matrix(make(20, 10), tmp_path / "x")
    assert os.listdir(tmp_path) == ["x"]
    with pytest.raises(FileExistsError, match="remove it, or name another"):
        StoredMatrix.from_matrix(make(20, 10), tmp_path / "x")


# ---- refusals -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stored") / "x"
    StoredMatrix.from_matrix(make(40, 30), folder)
    return folder


@pytest.mark.small
@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["missing", "truncated", "longer", "header", "first", "middle", "last"])
def test_damage_is_refused_by_name(name, damage, good, tmp_path):
    path = shutil.copytree(good, tmp_path / "x") / name
    content = bytearray(path.read_bytes())
    if damage == "missing":
        path.unlink()
    else:
        place = {"header": 20, "first": files.OFFSET, "middle": (files.OFFSET + len(content)) // 2, "last": -1}
        if damage in place:
            content[place[damage]] ^= 1
        path.write_bytes(content[:-3] if damage == "truncated" else bytes(content) + b"0" * (damage == "longer"))
    with pytest.raises(ValueError, match=rf"x is not a whole and valid stored matrix: .*{name.split('.')[0]}"):
        StoredMatrix(tmp_path / "x")


@pytest.mark.small
@pytest.mark.parametrize(
    "change",
    [
        {"format": "other"}, {"version": 1}, {"shape": [40]}, {"shape": [40, 31]}, {"shape": [10**30, 30]}, {"nnz": -1},
        {"dtype": "int8"}, {"dtype": None}, {"rows": None}, {"columns": {}}, {"nnz": None},
    ],
    ids=str,
)  # fmt: skip
def test_another_manifest_is_refused(change, good, tmp_path):
    path = shutil.copytree(good, tmp_path / "x") / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match="x is not a whole and valid stored matrix"):
        StoredMatrix(tmp_path / "x")


@pytest.mark.small
@pytest.mark.parametrize("content", ["", "[]", "3", "{", "null", "{}"])
def test_a_manifest_that_is_none_is_refused(content, good, tmp_path):
    path = shutil.copytree(good, tmp_path / "x") / "manifest.json"
    path.write_text(content)
    with pytest.raises(ValueError, match="x is not a whole and valid stored matrix"):
        StoredMatrix(tmp_path / "x")


@pytest.mark.small
@pytest.mark.parametrize("piece", [2, 7, 1 << 16])
def test_every_cell_is_examined_wherever_a_piece_ends(piece, tmp_path, monkeypatch):
    X = make(14, 9)
    StoredMatrix.from_matrix(X, tmp_path / "x")
    monkeypatch.setattr(files, "PIECE", piece)
    values = {"lowest": X.data.min(), "highest": X.data.max(), "sum": X.data.sum(), "zeros": False}
    for order, wanted in (("rows", X), ("columns", X.T.tocsr())):
        stored = files.StoredCsr.at(tmp_path / "x", order, wanted.shape, X.nnz, np.dtype(np.float32))
        assert stored.examine() == values | {"sha256": fingerprint(wanted)}
        rows = np.repeat(np.arange(wanted.shape[0]), np.diff(wanted.indptr))
        for cell in range(X.nnz):
            for value in {-1, wanted.shape[1], wanted.indices[cell - 1] if rows[cell] == rows[cell - 1] else -1}:
                wrong = wanted.indices.copy()
                wrong[cell] = value
                np.save(stored.indices.path, wrong)
                with pytest.raises(ValueError, match=rf"{order}.indices.npy does not ascend within 0 … "):
                    stored.examine()
        np.save(stored.indices.path, wanted.indices)
        for value in (np.nan, -np.inf):
            np.save(stored.data.path, np.append(wanted.data[1:], np.float32(value)))
            with pytest.raises(ValueError, match=rf"{order}.data.npy has a non-finite value"):
                stored.examine()


@pytest.mark.small
def test_indices_that_change_during_a_fit_never_reach_a_kernel(good, tmp_path):
    folder = shutil.copytree(good, tmp_path / "x")
    stored = StoredMatrix(folder)
    with open(folder / "columns.indices.npy", "r+b") as file:
        file.seek(files.OFFSET)
        file.write(b"\xff\xff\xff\x7f")
    with pytest.raises(ValueError, match=r"columns.indices.npy has changed since the matrix was opened"):
        lfm_np.als(stored, factors=2)
    info = os.stat(good / "columns.indices.npy")
    os.utime(folder / "columns.indices.npy", ns=(info.st_atime_ns, info.st_mtime_ns))
    with pytest.raises(ValueError, match=r"columns.indices.npy has changed since the matrix was opened"):
        lfm_np.als(stored, factors=2)
    for value in (2**31 - 1, 40, -1):
        with open(folder / "columns.indices.npy", "r+b") as file:
            file.seek(files.OFFSET)
            file.write(value.to_bytes(4, "little", signed=True))
        stored.columns = stored.columns.noted()  # as if nobody had written it
        with pytest.raises(ValueError, match=r"columns.indices.npy has changed: it has indices beyond 39"):
            lfm_np.als(stored, factors=2)


@pytest.mark.small
def test_a_folder_of_the_same_sizes_and_times_is_another_and_a_moved_one_the_same(tmp_path):
    X, now = make(40, 30), tmp_path / "now"
    for name, matrix_ in (("one", X), ("other", 7 * X)):
        StoredMatrix.from_matrix(matrix_, tmp_path / name)
        for path in (tmp_path / name).iterdir():  # as archives and images of systems have them
            os.utime(path, (1, 1))
    now.symlink_to("one")
    stored = StoredMatrix(now)
    os.rename(tmp_path / "one", tmp_path / "moved")
    (tmp_path / "one").symlink_to("moved")
    asked = {"factors": 2, "iterations": 1, "random_state": 0}
    assert_same(lfm_np.als(stored, **asked), lfm_np.als(X, **asked))
    now.unlink()
    now.symlink_to("other")
    with pytest.raises(ValueError, match=r"now/\w+\.\w+\.npy has changed since the matrix was opened"):
        lfm_np.als(stored, **asked)


@pytest.mark.small
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(("place", "offset"), [(0, 1), (5, 10**7), (5, -1), (-1, 0), (-1, 10**7)])
def test_offsets_that_change_during_a_fit_never_reach_a_kernel(order, place, offset, good, tmp_path):
    path = shutil.copytree(good, tmp_path / "x") / f"{order}.indptr.npy"
    stored = StoredMatrix(path.parent)
    np.load(path, mmap_mode="r+")[place] = offset
    setattr(stored, order, getattr(stored, order).noted())  # as if nobody had written it: a mapping leaves the times
    for fit in ({}, {"regularization_exponent": 1.0}, {"weighting": "ratings"}):
        with pytest.raises(ValueError, match=rf"{order}.indptr.npy has changed since the matrix was opened"):
            lfm_np.als(stored, factors=2, **fit)


@pytest.mark.small
def test_values_and_arguments_that_do_not_fit_are_refused(good, tmp_path):
    with pytest.raises(ValueError, match=r"dtype must be float32, that of the stored matrix X, got float64"):
        lfm_np.als(StoredMatrix(good), dtype="float64")
    X = make(20, 10)
    X.data[0] = -1
    negative = StoredMatrix.from_matrix(X, tmp_path / "negative")
    with pytest.raises(ValueError, match=r'X has a negative value, -1; only weighting="ratings"'):
        lfm_np.als(negative)
    X.data[0] = 0
    zeros = StoredMatrix.from_matrix(X, tmp_path / "zeros", zeros="keep")
    with pytest.raises(ValueError, match=r'stored with zeros="keep"'):
        lfm_np.als(zeros)
    asked = {"factors": 2, "weighting": "ratings", "random_state": 0}
    assert_same(lfm_np.als(zeros, **asked), lfm_np.als(X, **asked))
    X.data[0] = np.nan
    for bad, message in ((X, "non-finite"), (3, "must be a scipy.sparse matrix")):
        with pytest.raises((ValueError, TypeError), match=message):
            StoredMatrix.from_matrix(bad, tmp_path / "no")
    for option, message in (
        ({"memory": 5}, r"memory must be an integer ≥ 1048576, got 5"),
        ({"memory": 1e9}, r"memory must be an integer"),
        ({"factors_in": tmp_path / "absent"}, r"factors_in must be a folder that exists, got .*absent"),
    ):
        with pytest.raises((ValueError, TypeError), match=message):
            StoredMatrix(good, **option)
    with pytest.raises(TypeError, match=r"X must be a scipy.sparse matrix or Interactions, got StoredMatrix"):
        lfm_np.sgd(StoredMatrix(good))
    assert repr(StoredMatrix(good)).startswith("StoredMatrix(40 × 30, ")


@pytest.mark.small
def test_what_is_brought_to_the_disk_is_open_to_write(tmp_path, monkeypatch):
    """Windows, and some systems more, refuse to do it for a file that is open to read."""
    pa, pq, fcntl = require("pyarrow"), require("pyarrow.parquet"), require("fcntl")
    real, modes = os.fsync, []

    def fsync(descriptor):
        if not os.path.isdir(f"/dev/fd/{descriptor}"):
            modes.append(fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE)
        real(descriptor)

    pq.write_table(pa.table({"user": [1, 2], "item": [3, 4]}), tmp_path / "records")
    monkeypatch.setattr(os, "fsync", fsync)
    StoredMatrix.from_parquet(tmp_path / "records", tmp_path / "stored")
    assert modes
    assert os.O_RDONLY not in modes
