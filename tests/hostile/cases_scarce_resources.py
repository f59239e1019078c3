"""Fits, rankings and files where descriptors, threads, memory, stack, disk, folders and streams run out."""

from __future__ import annotations

import contextlib
import io
import os
import resource
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

import lfm_np

from .case import Case, Group
from .matrices import plain
from .places import child, command, holding, inside, interpreter, largest_file, limited, same

group = Group("scarce")
right = holding(group)


def als(X: Any = None, **words: Any) -> lfm_np.Factors:
    defaults = {"factors": 4, "iterations": 3, "random_state": 0, "num_threads": 2}
    return lfm_np.als(plain() if X is None else X, **{**defaults, **words})


def sgd(X: Any = None, **words: Any) -> lfm_np.Factors:
    defaults = {"factors": 4, "epochs": 3, "random_state": 0, "num_threads": 2}
    return lfm_np.sgd(plain() if X is None else X, **{**defaults, **words})


def shop() -> lfm_np.Interactions:
    coo = plain().tocoo()
    return lfm_np.Interactions.from_arrays([f"user {u}" for u in coo.row], coo.col, coo.data)


def large(scale: float = 1.0) -> lfm_np.Factors:
    """A model of some 300 KB."""
    rng = np.random.default_rng(1)
    return lfm_np.Factors(scale * rng.normal(size=(2000, 16)), scale * rng.normal(size=(300, 16)))


def ranked(factors: lfm_np.Factors, users: int = 20) -> np.ndarray:
    """The five best items of the first users, by NumPy."""
    scores = factors.user_factors[:users].astype(float) @ factors.item_factors.astype(float).T
    return np.argsort(-scores, axis=1, kind="stable")[:, :5]


def _parquet(path: Path) -> None:
    data = shop()
    lfm_np.recommend_parquet(als(data), data, path, N=5)


WRITERS: dict[str, Callable[[Path], Any]] = {
    "save": lambda path: large().save(path),
    "recommend_parquet": _parquet,
    "a checkpoint of als": lambda path: als(checkpoint=path),
    "a checkpoint of sgd": lambda path: sgd(checkpoint=path),
}


def old_stays(write: Callable[[Path], Any], scarce: Callable[[], Any], checkpoint: bool) -> Callable[[Path], bool]:
    """An OSError, the old file as it was, nothing beside it; and all is well where there is plenty again."""

    def work(folder: Path) -> bool:
        path = folder / "old"
        if checkpoint:  # one that the fit would go on from
            als(iterations=1, checkpoint=path)
        else:
            write(path)
        before, beside = path.read_bytes(), os.listdir(folder)
        try:
            with scarce():
                write(path)
        except OSError as error:
            kept = bool(str(error)) and path.read_bytes() == before and os.listdir(folder) == beside
            write(path)
            return kept
        return False

    return work


def no_more_files() -> contextlib.AbstractContextManager[None]:
    """No further descriptor can be opened."""
    free = os.open(os.devnull, os.O_RDONLY)
    os.close(free)
    return limited(resource.RLIMIT_NOFILE, free)


def little_memory(more: int) -> contextlib.AbstractContextManager[None]:
    """The address space may grow by so many bytes."""
    with open("/proc/self/statm") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    return limited(resource.RLIMIT_AS, now + more)


@contextlib.contextmanager
def shallow(depth: int) -> Iterator[None]:
    """So many frames are left."""
    before, frame, now = sys.getrecursionlimit(), sys._getframe(), 0
    while frame is not None:
        now, frame = now + 1, frame.f_back  # type: ignore[assignment]
    sys.setrecursionlimit(now + depth)
    try:
        yield
    finally:
        sys.setrecursionlimit(before)


def descriptors() -> Iterator[Case]:
    wanted = als()

    def working(call: Callable[[], bool]) -> Callable[[], bool]:
        def run() -> bool:
            call()  # whatever is loaded when first needed
            with no_more_files():
                return call()

        return run

    seen = plain()
    for name, call in {
        "als": lambda: same(als(), wanted),
        "sgd": lambda: np.isfinite(sgd().item_factors).all(),
        "recommend": lambda: np.array_equal(wanted.recommend(np.arange(20), N=5).ids, ranked(wanted)),
        "evaluate": lambda: lfm_np.evaluate(wanted, None, seen, num_threads=2)["users"] == 39,
        "fold_in_users": lambda: wanted.fold_in_users(seen[:3]).shape == (3, 30),
    }.items():
        yield right(f"no descriptor is left, {name}", working(call))
    for name, write in WRITERS.items():
        if "sgd" not in name:
            yield right(f"no descriptor is left, {name}", inside(old_stays(write, no_more_files, "checkpoint" in name)))

    def reading(folder: Path) -> bool:
        path, stored = folder / "model", folder / "matrix"
        wanted.save(path)
        lfm_np.StoredMatrix.from_matrix(plain(), stored)
        (folder / "t.csv").write_text("user,item\n1,2\n")
        reads: dict[str, Callable[[], Any]] = {
            "load": lambda: lfm_np.Factors.load(path),
            "mapped": lambda: lfm_np.Factors.load(path, mmap=True),
            "stored": lambda: lfm_np.StoredMatrix(stored),
            "csv": lambda: lfm_np.Interactions.from_csv(folder / "t.csv"),
        }
        told = []
        for read in reads.values():
            read()
            try:
                with no_more_files():
                    read()
            except OSError as error:
                told.append(bool(str(error)))
        return len(told) == len(reads) and all(told) and same(lfm_np.Factors.load(path), wanted)

    yield right("no descriptor is left, reading", inside(reading))

    def leaks(folder: Path) -> bool:
        path, count = folder / "broken", lambda: len(os.listdir("/proc/self/fd"))
        wanted.save(folder / "model")
        path.write_bytes((folder / "model").read_bytes()[:-3])
        stored = lfm_np.StoredMatrix.from_matrix(plain(), folder / "matrix")
        als(stored)
        before = count()
        for _ in range(30):
            for mmap in (False, True):
                with contextlib.suppress(ValueError):
                    lfm_np.Factors.load(path, mmap=mmap)
            with contextlib.suppress(ValueError):
                als(checkpoint=path)
            with contextlib.suppress(ValueError):
                lfm_np.StoredMatrix(path)
        als(stored)
        return count() == before

    yield right("a hundred refused files leave no descriptor open", inside(leaks))


def threads() -> Iterator[Case]:
    wanted, drawn = als(), sgd()

    def alone(call: Callable[[], bool]) -> Callable[[], bool]:
        from threadpoolctl import threadpool_limits

        def run() -> bool:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))
            return call()

        def limited() -> bool:
            with threadpool_limits(1):  # in a fork OpenBLAS sends SIGINT where it cannot start its threads again
                return child(run) == 0

        return limited

    for name, call in {
        "als": lambda: same(als(num_threads=4), wanted),
        "sgd": lambda: same(sgd(num_threads=7), drawn),
        "recommend": lambda: np.array_equal(wanted.recommend(np.arange(20), N=5, num_threads=8).ids, ranked(wanted)),
        "a bar": lambda: same(als(progress=True), wanted),
    }.items():
        yield right(f"another user, who may have no thread, {name}", alone(call))


def memory() -> Iterator[Case]:
    def fit() -> bool:
        X = sp.eye_array(60_000, 2000, format="csr", dtype=np.float32)
        try:
            with little_memory(100 << 20):
                als(X, factors=512)
        except MemoryError as error:
            return bool(str(error)) and same(als(), als())
        return False

    yield right("a fit of more than the address space is a MemoryError that says so", fit)

    def ranking() -> bool:
        factors = lfm_np.Factors(np.ones((100_000, 1)), np.ones((20_000, 1)))
        try:
            factors.recommend(np.arange(100_000), N=20_000)
        except MemoryError as error:
            return bool(str(error)) and factors.recommend(5, N=3).ids.tolist() == [0, 1, 2]
        return False

    yield right("lists of 24 GB are a MemoryError", ranking)

    def loading(folder: Path) -> bool:
        rng = np.random.default_rng(0)
        wide = lfm_np.Factors(rng.normal(size=(100_000, 64)), rng.normal(size=(10, 64)))
        wide.save(folder / "model")
        for mmap in (False, True):
            try:
                with little_memory(10 << 20):
                    lfm_np.Factors.load(folder / "model", mmap=mmap)
            except (MemoryError, OSError):
                continue
            return False
        return same(lfm_np.Factors.load(folder / "model"), wide)

    yield right("a model of more than the address space is refused, and read later", inside(loading))

    def saving(folder: Path) -> bool:
        rng = np.random.default_rng(0)
        wide = lfm_np.Factors(rng.normal(size=(100_000, 32)), rng.normal(size=(10, 32)))
        with little_memory(20 << 20):
            wide.save(folder / "model")
        return same(lfm_np.Factors.load(folder / "model"), wide)

    yield right("a model is saved without a second copy of it", inside(saving))
    for depth in (30, 60, 90, 150):

        def deep(folder: Path, depth: int = depth) -> bool:
            wanted = als()
            for call in (
                lambda: same(als(), wanted),
                lambda: np.isfinite(sgd().item_factors).all(),
                lambda: np.array_equal(wanted.recommend(np.arange(20), N=5).ids, ranked(wanted)),
                lambda: wanted.save(folder / "m") or same(lfm_np.Factors.load(folder / "m"), wanted),
            ):
                with contextlib.suppress(RecursionError), shallow(depth):
                    if not call():
                        return False
            return same(als(), wanted) and set(os.listdir(folder)) <= {"m"}

        yield right(f"{depth} frames are left", inside(deep))


def disks() -> Iterator[Case]:
    for name, write in WRITERS.items():
        if "sgd" in name:
            continue
        for size in (0, 700):
            scarce = inside(old_stays(write, lambda size=size: largest_file(size), "checkpoint" in name))
            yield right(f"no file beyond {size} bytes, {name}", scarce)

    def stored(folder: Path) -> bool:
        try:
            with largest_file(500):
                lfm_np.StoredMatrix.from_matrix(plain(), folder / "matrix")
        except OSError as error:
            early = bool(str(error)) and not (folder / "matrix").exists()
            made = lfm_np.StoredMatrix.from_matrix(plain(), folder / "matrix")
            return early and same(als(made), als()) and os.listdir(folder) == ["matrix"]
        return False

    yield right("no file beyond 500 bytes, a stored matrix", inside(stored))

    def factors_in(folder: Path) -> bool:
        place = folder / "factors"
        place.mkdir()
        lfm_np.StoredMatrix.from_matrix(plain(), folder / "matrix")
        try:
            with largest_file(500):
                als(lfm_np.StoredMatrix(folder / "matrix", factors_in=place))
        except OSError as error:
            left = os.listdir(place)
            whole = als(lfm_np.StoredMatrix(folder / "matrix", factors_in=place))
            return bool(str(error)) and left == [] and same(whole, als())
        return False

    yield right("no file beyond 500 bytes, factors on the disk", inside(factors_in))

    def gone(folder: Path) -> bool:
        place = folder / "factors"
        place.mkdir()
        lfm_np.StoredMatrix.from_matrix(plain(), folder / "matrix")
        stored = lfm_np.StoredMatrix(folder / "matrix", factors_in=place)
        place.rmdir()
        try:
            als(stored)
        except OSError as error:
            return "factors" in str(error)
        return False

    yield right("the folder of factors is gone", inside(gone))


def folders() -> Iterator[Case]:
    def nowhere(folder: Path) -> bool:
        os.environ["TMPDIR"] = os.environ["TMP"] = str(folder / "absent")
        tempfile.tempdir = str(folder / "absent")
        data, wanted = shop(), als()
        wanted.save(folder / "m")
        lfm_np.recommend_parquet(als(data), data, folder / "p", N=2)
        stored = lfm_np.StoredMatrix.from_parquet(_records(folder), folder / "s", memory=64 << 20)
        return (
            same(lfm_np.Factors.load(folder / "m"), wanted)
            and same(als(checkpoint=folder / "c"), wanted)
            and stored.nnz == plain().nnz
        )

    yield right("TMPDIR is absent", inside(nowhere))

    def vanished(folder: Path) -> bool:
        wanted, here = als(), folder / "here"
        here.mkdir()
        os.chdir(here)
        here.rmdir()
        fine = same(als(), wanted) and wanted.recommend([1], N=2).ids.shape == (1, 2)
        wanted.save(folder / "m")
        fine &= same(lfm_np.Factors.load(folder / "m"), wanted) and same(als(checkpoint=folder / "c"), wanted)
        for call in (
            lambda: wanted.save("m"),
            lambda: lfm_np.Factors.load("m"),
            lambda: als(checkpoint="c"),
            lambda: lfm_np.StoredMatrix.from_matrix(plain(), "s"),
        ):
            try:
                call()
            except OSError as error:
                fine &= bool(str(error))
            else:
                fine = False
        os.chdir("/")
        return fine

    yield right("the current folder is gone", inside(vanished))

    def mask(folder: Path) -> bool:
        before = os.umask(0o777)
        try:
            wanted = als(checkpoint=folder / "c")
            wanted.save(folder / "m")
            stored = lfm_np.StoredMatrix.from_matrix(plain(), folder / "s")
            return same(lfm_np.Factors.load(folder / "m"), wanted) and same(als(stored), wanted)
        finally:
            os.umask(before)

    if os.getuid() == 0:  # nobody else could read what is written so
        yield right("a umask that allows nothing", inside(mask))

    def private(folder: Path) -> bool:
        """Of an unprivileged user in a folder that only its owner may write."""
        als().save(folder / "m")
        folder.chmod(0o755)
        before = (folder / "m").read_bytes()

        def run() -> bool:
            os.setgid(65534)
            os.setuid(65534)
            refused = 0
            for call in (
                lambda: als().save(folder / "m"),
                lambda: als(checkpoint=folder / "c"),
                lambda: lfm_np.StoredMatrix.from_matrix(plain(), folder / "s"),
                lambda: _parquet(folder / "p"),
            ):
                try:
                    call()
                except PermissionError as error:
                    refused += str(folder) in str(error)
            return refused == 4

        return child(run) == 0 and (folder / "m").read_bytes() == before and os.listdir(folder) == ["m"]

    if os.getuid() == 0:
        yield right("a folder that may only be read", inside(private))


def _records(folder: Path) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    coo, path = plain().tocoo(), folder / "records.parquet"
    pq.write_table(pa.table({"user": coo.row, "item": coo.col}), path)
    return path


def streams() -> Iterator[Case]:
    wanted, drawn = als(), sgd()

    class Broken(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError(32, "Broken pipe")

    closed = io.StringIO()
    closed.close()
    for name, stream in {"None": None, "a closed file": closed, "a broken pipe": Broken()}.items():

        def bar(stream: Any = stream) -> bool:
            before, sys.stderr = sys.stderr, stream
            try:
                return same(als(progress=True), wanted) and same(sgd(progress=True), drawn)
            finally:
                sys.stderr = before

        yield right(f"a bar where stderr is {name}", bar)

    def shut(folder: Path) -> bool:
        """Of an interpreter without the first three descriptors: files get these numbers, and stay whole."""
        code = (
            "import warnings; warnings.simplefilter('error')\n"
            "import lfm_np, sys\n"
            "from tests.hostile.places import fitted, same\n"
            "f = fitted(); f.save(sys.argv[1])\n"
            "lfm_np.als(__import__('tests.hostile.places').hostile.places.table(), factors=4, iterations=2,"
            " random_state=0, progress=True, checkpoint=sys.argv[2])\n"
            "sys.exit(0 if same(lfm_np.Factors.load(sys.argv[1]), f) else 1)\n"
        )
        from .places import fitted

        done = interpreter(
            "-c", code, str(folder / "m"), str(folder / "c"),
            preexec_fn=lambda: os.closerange(0, 3), stdout=None, stderr=None,
        )  # fmt: skip
        return done.status == 0 and same(lfm_np.Factors.load(folder / "m"), fitted())

    yield right("stdin, stdout and stderr are closed", inside(shut))

    def ascii_only(folder: Path) -> bool:
        (folder / "t.csv").write_text("user,item\nzoë,1\nzoë,2\nłukasz,2\n漢,1\n", "utf-8")
        path = folder / "m.safetensors"
        made = command("fit", folder / "t.csv", "--factors", "2", "-o", path)
        env = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": None, "LANG": None}
        said = interpreter("-m", "lfm_np", "recommend", os.fspath(path), "--include-seen", "-n", "1", env=env)
        if said.status == 0:
            return made.status == 0 and said.out.count("\n") == 4
        return said.status == 2 and said.err.startswith("error: ") and "Traceback" not in said.err

    yield right("ids that the locale cannot write", inside(ascii_only))

    def full(folder: Path) -> bool:
        coo = plain().tocoo()
        rows = "".join(f"u{u},i{i}\n" for u, i in zip(coo.row, coo.col))
        (folder / "t.csv").write_text("user,item\n" + rows)
        made = command("fit", folder / "t.csv", "--factors", "2", "-o", folder / "m.safetensors")
        with open("/dev/full", "wb") as nowhere:
            said = interpreter("-m", "lfm_np", "recommend", str(folder / "m.safetensors"), stdout=nowhere)
        return made.status == 0 and said.status == 2 and "space" in said.err and "Traceback" not in said.err

    yield right("a table for a disk that is full", inside(full))


def cases() -> list[Case]:
    makers = (descriptors, threads, memory, disks, folders, streams)
    return [case for make in makers for case in make()]
