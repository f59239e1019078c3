"""Variables and switches of the interpreter, its end, poisoned kernels; stored matrices and clusters that change."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

import lfm_np

from .case import Case, Group, installed
from .cases_scarce_resources import als
from .cases_strange_paths import told
from .matrices import plain
from .places import FIT, ROOT, command, digest, fitted, holding, inside, interpreter, same, together

group = Group("environments")
right = holding(group)


# ---- interpreters ---------------------------------------------------------------------------------------------------


def fits(*switches: str, before: str = "", threads: str = "2", **env: str | None) -> Callable[[], bool]:
    """Whether an interpreter so started prints the digest of the same fit, and no warning."""

    def run() -> bool:
        said = interpreter(*switches, "-c", before + FIT.replace("THREADS", threads), env=env)
        return said.status == 0 and said.out.split() == [digest(fitted())] and "Warning" not in said.err

    return run


ODD: dict[str, str | None] = {
    "PYTHONMALLOC": "debug", "MALLOC_PERTURB_": "165", "PYTHONHASHSEED": "12345", "COLUMNS": "0", "LINES": "-1",
    "TERM": "", "TZ": "Nowhere/Never", "PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1", "TQDM_DISABLE": "1",
    "MKL_NUM_THREADS": "0", "OMP_NUM_THREADS": "3,2", "OMP_PROC_BIND": "true", "OMP_THREAD_LIMIT": "1",
    "OPENBLAS_NUM_THREADS": "1", "OPENBLAS_VERBOSE": "0", "GOTO_NUM_THREADS": "x", "USER": None, "LANG": "xx_YY.bad",
}  # fmt: skip


def interpreters() -> Iterator[Case]:
    yield right("odd variables of NumPy, malloc and others", fits(**ODD))
    yield right(
        "Numba with one thread, an absent layer and its own cache nowhere",
        fits(
            threads="4",
            NUMBA_NUM_THREADS="1",
            NUMBA_THREADING_LAYER="nosuch",
            NUMBA_CACHE_DIR="/proc/nowhere",
            OMP_NUM_THREADS="-1",
            OPENBLAS_NUM_THREADS="999",
        ),
    )
    yield right("python -OO -X dev -W error", fits("-OO", "-X", "dev", "-W", "error", PYTHONMALLOC=None))
    yield right(
        "python -I -B -X utf8=0 in a folder that has a numpy.py",
        inside(
            lambda folder: [
                (folder / "numpy.py").write_text("raise SystemExit('wrong numpy')"),
                interpreter(
                    "-I", "-B", "-X", "utf8=0", "-c",
                    f"import sys; sys.path.append({str(ROOT)!r})\n" + FIT.replace("THREADS", "3"), cwd=folder,
                ).out.split() == [digest(fitted())],
            ][1]
        ),
    )  # fmt: skip

    ends = """
import atexit, sys, threading, weakref, numpy as np, lfm_np
from tests.hostile.places import digest, fitted, table
wanted = digest(fitted())
path = sys.argv[1]
def last(name):
    f = lfm_np.als(table(), factors=4, iterations=2, random_state=0, num_threads=2, checkpoint=path + name)
    f.save(path + name + ".model")
    print(name, digest(f) == wanted, f.recommend([0], N=3, num_threads=2).ids.shape == (1, 3), flush=True)
class Late:
    def __del__(self):
        last("del")
atexit.register(last, "atexit")
class Held: pass
held = Held()
weakref.finalize(held, last, "finalize")
late = Late()
threading.Thread(target=lambda: (threading.Event().wait(0.1), last("thread"))).start()
threading.Thread(target=lambda: lfm_np.als(table(), factors=8, iterations=10**7), daemon=True).start()
threading.Event().wait(0.05)
"""

    def exits(folder: Path) -> bool:
        said = interpreter("-c", ends, str(folder / "x-"))
        lines = dict(line.split(" ", 1) for line in said.out.splitlines())
        told_right = [lines.get(name) == "True True" for name in ("thread", "atexit", "finalize")]
        return said.status == 0 and all(told_right) and lines.get("del", "True True") == "True True"

    yield right("fits of threads, atexit, finalizers and __del__ at the end of the interpreter", inside(exits))


# ---- kernels --------------------------------------------------------------------------------------------------------


def kernels(folder: Path) -> Path:
    """A private folder with the kernels that are compiled already."""
    cache = folder / "cache"
    source = Path(os.environ.get("LFM_NP_CACHE_DIR") or Path.home() / ".cache" / "lfm_np")
    newest = sorted(source.glob("kernels-*"), key=lambda path: path.stat().st_atime_ns)
    cache.mkdir(mode=0o700)
    for place in [path for path in newest if any(path.glob("als_dual.*"))]:
        shutil.copytree(place, cache / place.name, copy_function=_linked)
        (cache / place.name).chmod(0o700)
    return cache


def _linked(source: Any, target: Any) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def poisoned(change: Callable[[Path, bytes], Any]) -> Callable[[Path], bool]:
    """Every file of one small kernel changed: a fit is right all the same."""

    def work(folder: Path) -> bool:
        cache = kernels(folder)
        for path in list(cache.rglob("structure.survey.*")):
            raw = path.read_bytes()
            path.unlink()
            change(path, raw)
        said = interpreter("-c", FIT.replace("THREADS", "2"), env={"LFM_NP_CACHE_DIR": str(cache)})
        return said.status == 0 and said.out.split()[-1:] == [digest(fitted())]

    return work


def caches() -> Iterator[Case]:
    def swapped(path: Path, raw: bytes) -> None:
        other = next(path.parent.glob("dense.gram_rows.*"))
        path.write_bytes(other.read_bytes())

    for name, change in {
        "of another kernel": swapped,
        "a FIFO": lambda path, raw: os.mkfifo(path, 0o600),
    }.items():
        yield right(f"a kernel's file is {name}", inside(poisoned(change)))


# ---- stored matrices ------------------------------------------------------------------------------------------------


def stores() -> Iterator[Case]:
    def during(change: Callable[[Path], Any]) -> Callable[[Path], bool]:
        """A change of the folder within a fit: the right factors, or an error that names a file; nothing else."""

        def work(folder: Path) -> bool:
            place = folder / "s"
            stored = lfm_np.StoredMatrix.from_matrix(plain(), place)

            def callback(record: Any, factors: Any) -> None:
                if record["iteration"] == 1:
                    change(place)

            try:
                found = als(stored, callback=callback)
            except (OSError, ValueError) as error:
                return str(place) in str(error)
            return same(found, als())

        return work

    def filled(name: str, value: Any) -> Callable[[Path], Any]:
        def change(place: Path) -> None:
            array = np.load(place / name, mmap_mode="r+")
            array[:] = value
            array.flush()

        return change

    for name, change in {
        "rows.indices.npy gets numbers beyond": filled("rows.indices.npy", 2**31 - 2),
        "columns.indices.npy gets negative numbers": filled("columns.indices.npy", -5),
        "rows.data.npy is cut": lambda place: os.truncate(place / "rows.data.npy", 140),
        "columns.indices.npy is emptied": lambda place: os.truncate(place / "columns.indices.npy", 0),
        "rows.indptr.npy is removed": lambda place: (place / "rows.indptr.npy").unlink(),
        "the folder is removed": shutil.rmtree,
        "the folder is another": lambda place: [
            shutil.rmtree(place), lfm_np.StoredMatrix.from_matrix(plain(1), place)
        ],
    }.items():  # fmt: skip
        yield right(f"within a fit from disk {name}", inside(during(change)))

    def opened(change: Callable[[Path], Any], *words: str) -> Callable[[Path], bool]:
        def work(folder: Path) -> bool:
            place = folder / "s"
            lfm_np.StoredMatrix.from_matrix(plain(), place)
            change(place)
            return told(lambda: lfm_np.StoredMatrix(place), *words)

        return work

    def pickled(place: Path) -> None:
        class Evil:
            def __reduce__(self) -> Any:
                return os.mkdir, (str(place / "owned"),)

        (place / "rows.data.npy").unlink()
        np.save(place / "rows.data.npy", np.array([Evil()], object), allow_pickle=True)

    def no_code(folder: Path) -> bool:
        return opened(pickled, "rows.data.npy")(folder) and not (folder / "s" / "owned").exists()

    yield right("a stored matrix with a pickle in it runs nothing", inside(no_code))

    def replaced(name: str, make: Callable[[Path], Any]) -> Callable[[Path], None]:
        def change(place: Path) -> None:
            (place / name).unlink()
            make(place / name)

        return change

    for name, change in {
        "manifest.json nests without end": lambda place: (place / "manifest.json").write_text("[" * 100_000),
        "manifest.json is a number of many digits": lambda place: (place / "manifest.json").write_text("9" * 9000),
        "manifest.json is null": lambda place: (place / "manifest.json").write_text("null"),
        "manifest.json is a FIFO": replaced("manifest.json", os.mkfifo),
        "rows.data.npy is a FIFO": replaced("rows.data.npy", os.mkfifo),
        "rows.data.npy is /dev/zero": replaced("rows.data.npy", lambda path: path.symlink_to("/dev/zero")),
        "columns.indptr.npy is a folder": replaced("columns.indptr.npy", os.mkdir),
        "rows.indptr.npy has a tail": lambda place: os.truncate(place / "rows.indptr.npy", 1 << 40),
    }.items():
        yield right(f"a stored matrix whose {name}", inside(opened(change, name.split()[0])))

    def lying(folder: Path) -> bool:
        place = folder / "s"
        lfm_np.StoredMatrix.from_matrix(plain(), place)
        text = json.loads((place / "manifest.json").read_text())
        refused = []
        for wrong in ([2**31, 2**31], [-40, -30], [40.5, 30], [40, "30"], [30, 40], [True, 30]):
            (place / "manifest.json").write_text(json.dumps({**text, "shape": wrong}))
            refused.append(told(lambda: lfm_np.StoredMatrix(place), "manifest|rows|columns|shape"))
        return all(refused)

    yield right("a stored matrix whose manifest lies about its shape", inside(lying))

    def spark(folder: Path) -> bool:
        """A folder as Spark leaves it, read by every reader of Parquet."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        place = folder / "out"
        place.mkdir()
        coo = plain().tocoo()
        half = len(coo.row) // 2
        for n, cells in enumerate((slice(0, half), slice(half, None))):
            table = pa.table({"user": coo.row[cells], "item": coo.col[cells], "value": coo.data[cells]})
            pq.write_table(table, place / f"part-0000{n}.snappy.parquet")
            (place / f".part-0000{n}.snappy.parquet.crc").write_bytes(b"crc\0")
        (place / "_SUCCESS").touch()
        wanted = coo.data.sum()
        one = lfm_np.Interactions.from_parquet(place, value="value")
        two = lfm_np.StoredMatrix.from_parquet(place, folder / "s", value="value", memory=64 << 20)
        return one.matrix.sum() == wanted and two.nnz == one.matrix.nnz and same(als(two), als(one))

    yield right("a folder of Parquet files as Spark leaves it", inside(spark))

    def cut_parquet(folder: Path) -> bool:
        import pyarrow as pa
        import pyarrow.parquet as pq

        for name in "abc":
            pq.write_table(pa.table({"user": [1, 2], "item": [3, 4]}), folder / f"{name}.parquet")
        os.truncate(folder / "b.parquet", 60)
        return told(lambda: lfm_np.Interactions.from_parquet(folder), "b.parquet") and told(
            lambda: lfm_np.StoredMatrix.from_parquet(folder, folder.with_suffix(".s")), "b.parquet"
        )

    yield right("one of three Parquet files is cut, and named", inside(cut_parquet))


# ---- clusters -------------------------------------------------------------------------------------------------------


def clusters() -> Iterator[Case]:
    from .cases_clusters import cluster

    def fit(client: Any, **words: Any) -> lfm_np.Factors:
        defaults = {"factors": 3, "iterations": 4, "random_state": 0, "shards": 3}
        return lfm_np.distributed.als(plain(), client=client, **{**defaults, **words})

    def dying() -> bool:
        with cluster(2) as client:
            wanted = fit(client)
            lost: list[Any] = []

            def callback(record: Any, factors: Any) -> None:
                if not lost:
                    lost.append(next(iter(client.scheduler_info()["workers"])))
                    client.retire_workers([lost[-1]], close_workers=True, remove=True)

            return same(fit(client, callback=callback), wanted) and len(lost) == 1

    yield right("one of two workers is retired within a fit", dying)

    def closed() -> bool:
        with cluster() as client:
            pass
        return told(lambda: fit(client), "client", kinds=(ValueError, TypeError, RuntimeError))

    yield right("a client that is closed is refused by name", closed)

    def closing() -> bool:
        with cluster() as client:
            return told(
                lambda: fit(client, callback=lambda record, f: client.close()),
                "client|cluster|scheduler|worker",
                kinds=(ValueError, RuntimeError, OSError),
            )

    yield right("a client that a callback closes is an error", closing)

    def shared() -> bool:
        with cluster(2) as client:
            wanted = fit(client)
            found = together(3, lambda place: fit(client, num_threads=place + 1))
            return all(same(f, wanted) for f in found)

    yield right("three fits at once of one client", shared)

    def odd_files(folder: Path) -> bool:
        os.mkfifo(folder / "p")
        (folder / "d").mkdir()
        with cluster() as client:
            refused = [
                told(lambda: fit(client, users_to=folder / "p")),
                told(lambda: fit(client, users_to=folder / "d")),
                told(lambda: fit(client, users_to=folder / "no" / "u.npy")),
                told(lambda: fit(client, checkpoint=folder / "p")),
                told(lambda: fit(client, checkpoint=folder / "d")),
            ]
        return all(refused) and sorted(os.listdir(folder)) == ["d", "p"]

    yield right("a FIFO and folders for a cluster's files", inside(odd_files))

    def other_checkpoint(folder: Path) -> bool:
        path = folder / "c"
        als(checkpoint=path)
        before = path.read_bytes()
        with cluster() as client:
            refused = told(lambda: fit(client, checkpoint=path), "checkpoint|c")
        return refused and path.read_bytes() == before

    yield right("a cluster's fit with a checkpoint of one in memory is refused", inside(other_checkpoint))


# ---- commands -------------------------------------------------------------------------------------------------------


def events(folder: Path) -> Path:
    coo = plain().tocoo()
    path = folder / "t.csv"
    path.write_text("user,item\n" + "".join(f"u{u},i{i}\n" for u, i in zip(coo.row, coo.col)))
    return path


def commands() -> Iterator[Case]:
    def mistaken(
        call: Callable[[Path], Any], *words: str, leaves: tuple[str, ...] = ("t.csv",)
    ) -> Callable[[Path], bool]:
        """Status 2 and one line with these words; the data as they were, and only ``leaves`` there."""

        def work(folder: Path) -> bool:
            path = events(folder)
            before = path.read_bytes()
            said = call(folder)
            lines = [line for line in said.err.splitlines() if line.startswith("error: ")]
            return (
                said.status == 2
                and "Traceback" not in said.err
                and len(lines) <= 1
                and all(any(word in said.err for word in either.split("|")) for either in words)
                and path.read_bytes() == before
                and sorted(os.listdir(folder)) == sorted(leaves)
            )

        return work

    for name, arguments, words in (
        ("the model over the data", ("-o", "t.csv"), ("t.csv",)),
        ("the checkpoint over the data", ("--checkpoint", "t.csv"), ("t.csv",)),
        ("model and checkpoint one file", ("-o", "m.safetensors", "--checkpoint", "m.safetensors"), ("m.saf",)),
        ("model and what is held out one file", ("-o", "x.csv", "--hold-out", "x.csv"), ("x.csv",)),
        ("an output in a folder that is not there", ("-o", "no/m.safetensors"), ("no/m",)),
        ("factors of no number", ("--factors", "many"), ("factors",)),
        ("a fraction of two", ("--hold-out", "h.csv", "--fraction", "2"), ("raction",)),
        ("a regularization that is no number", ("--regularization", "nan"), ("regularization",)),
        ("a loss that is not", ("--method", "sgd", "--loss", "__import__('os')"), ("loss",)),
        ("an option of the other method", ("--method", "sgd", "--alpha", "3"), ("alpha",)),
        ("a column that is not", ("--user", "customer"), ("customer",)),
        ("a threshold without values", ("--threshold", "3"), ("threshold|value|no interactions",)),
    ):

        def wrong(folder: Path, arguments: tuple[str, ...] = arguments) -> Any:
            os.chdir(folder)
            try:
                return command("fit", "t.csv", *arguments, "--iterations", "1", "--no-progress")
            finally:
                os.chdir("/")

        yield right(f"fit with {name}", inside(mistaken(wrong, *words)))

    def link_over(folder: Path) -> Any:
        (folder / "l.safetensors").symlink_to("t.csv")
        return command("fit", folder / "t.csv", "-o", folder / "l.safetensors", "--iterations", "1")

    over_data = mistaken(link_over, "l.safetensors", leaves=("l.safetensors", "t.csv"))
    yield right("fit whose output is a link to the data", inside(over_data))

    def fifo(folder: Path) -> bool:
        """Data that come through a pipe, as of a shell's ``<(…)``: read once, or refused in a line; no wait."""
        os.mkfifo(folder / "p.csv")
        text = events(folder).read_text()
        thread = threading.Thread(target=lambda: (folder / "p.csv").write_text(text), daemon=True)
        thread.start()
        said = command("fit", folder / "p.csv", "--iterations", "2", "-o", folder / "m.safetensors")
        if said.status != 0:
            with open(os.open(folder / "p.csv", os.O_RDONLY | os.O_NONBLOCK)):
                thread.join()
            return said.status == 2 and "p.csv" in said.err
        thread.join()
        wanted = command("fit", folder / "t.csv", "--iterations", "2", "-o", folder / "w.safetensors")
        return wanted.status == 0 and same(
            lfm_np.Factors.load(folder / "m.safetensors"), lfm_np.Factors.load(folder / "w.safetensors")
        )

    yield right("data through a pipe", inside(fifo))

    def strangers(folder: Path) -> bool:
        """A model beside the interactions of another."""
        path = events(folder)
        (folder / "s.csv").write_text("user,item\na,b\na,c\nd,c\n")
        one = command("fit", path, "--factors", "2", "-o", folder / "m.safetensors")
        two = command("fit", folder / "s.csv", "--factors", "2", "-o", folder / "n.safetensors")
        shutil.copy(folder / "n.interactions.npz", folder / "m.interactions.npz")
        said = [
            command("recommend", folder / "m.safetensors", "--user", "a"),
            command("evaluate", folder / "m.safetensors", path),
            command("report", folder / "m.safetensors", "-o", folder / "r.html"),
        ]
        refused = all(s.status == 2 and s.err.startswith("error: ") and "interactions" in s.err for s in said)
        return one.status == two.status == 0 and refused and not (folder / "r.html").exists()

    yield right("a model beside the interactions of another", inside(strangers))

    def cut_ids(folder: Path) -> bool:
        command("fit", events(folder), "--factors", "2", "-o", folder / "m.safetensors")
        path = folder / "m.interactions.npz"
        raw, refused = path.read_bytes(), []
        for size in (0, 10, len(raw) // 2, len(raw) - 1):
            path.write_bytes(raw[:size])
            said = command("recommend", folder / "m.safetensors", "-n", "1")
            refused.append(said.status == 2 and "m.interactions.npz" in said.err and said.out == "")
        return all(refused)

    yield right("interactions beside a model that are cut", inside(cut_ids))


def cases() -> list[Case]:
    makers = [interpreters, caches, stores, commands] + [clusters] * installed("distributed")
    return [case for make in makers for case in make()]
