"""Links, pipes, devices and odd names as paths; files that processes and threads share, change or cut."""

from __future__ import annotations

import contextlib
import copy
import json
import multiprocessing
import os
import pickle
import random
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import shared_memory
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

import lfm_np

from .case import Case, Group, installed
from .cases_scarce_resources import als, large, ranked, sgd, shop
from .matrices import plain
from .places import child, holding, inside, model, parts, same, sealed, together

group = Group("strange paths")
right = holding(group)


def told(call: Callable[[], Any], *words: str, kinds: Any = (ValueError, OSError)) -> bool:
    """An error of these kinds that holds these words ("a|b": either of them)."""
    try:
        call()
    except kinds as error:
        text = str(error).lower()
        return bool(text) and all(any(word in text for word in either.lower().split("|")) for either in words)
    return False


def names() -> Iterator[Case]:
    for name, made in {
        "255 bytes": "m" * 255,
        "250 bytes and an ending": "m" * 238 + ".safetensors",
        "85 characters of three bytes": "漢" * 85,
        "no UTF-8": os.fsdecode(b"m\xff\xfe"),
        "a line break": "a\nb",
        "a dash in front": "-o",
        "a format": "{0!r}%s%d",
        "a space only": " ",
        "what temporary files look like": ".tmp",
        "a glob": "*[a-z]?",
        "combining characters": "e\u0301",
    }.items():

        def named(folder: Path, made: str = made) -> bool:
            path, wanted = folder / made, model()
            wanted.save(path)
            wanted.save(path)
            fine = same(lfm_np.Factors.load(path), wanted) and os.listdir(folder) == [made]
            path.unlink()
            fitted = als(iterations=2, checkpoint=path)
            fine &= same(als(checkpoint=str(path)), als()) and fitted.shape == (40, 30)
            return fine and os.listdir(folder) == [made]

        yield right(f"a name of {name}", inside(named))

        def others(folder: Path, made: str = made) -> bool:
            data = shop()
            lfm_np.recommend_parquet(als(data), data, folder / made, N=2)
            (folder / made).unlink()
            stored = lfm_np.StoredMatrix.from_matrix(plain(), folder / made[:240])
            return same(als(stored), als()) and os.listdir(folder) == [made[:240]]

        if name in ("255 bytes", "no UTF-8", "a line break", "a glob"):
            yield right(f"a table and a stored matrix with a name of {name}", inside(others))

    def impossible(folder: Path) -> bool:
        factors = model()
        factors.save(folder / "m")
        fine = True
        places = [os.fspath(folder / name) for name in (".", "m/n", "no/m", "m" * 256)]
        for path in ("", ".", "a\0b", "/" + "x/" * 3000, *places):
            for call in (
                lambda: factors.save(path),  # noqa: B023
                lambda: lfm_np.Factors.load(path),  # noqa: B023
                lambda: als(checkpoint=path),  # noqa: B023
                lambda: lfm_np.StoredMatrix(path),  # noqa: B023
            ):
                fine &= told(call)
        return fine and os.listdir(folder) == ["m"]

    yield right("paths that cannot be", inside(impossible))

    class Told:
        def __init__(self, *answers: Any) -> None:
            self.answers = list(answers)

        def __fspath__(self) -> Any:
            answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
            if isinstance(answer, BaseException):
                raise answer
            return answer

    def paths(folder: Path) -> bool:
        factors = model()
        shifting = Told(*(str(folder / str(n)) for n in range(9)))
        factors.save(shifting)  # type: ignore[arg-type]
        whole = [same(lfm_np.Factors.load(folder / name), factors) for name in os.listdir(folder)]
        raising = told(lambda: factors.save(Told(KeyError("gone"))), "gone", kinds=(KeyError, TypeError, ValueError))
        number = told(lambda: factors.save(Told(7)), kinds=TypeError)
        return whole == [True] and raising and number

    yield right("path objects that answer differently, raise, or answer a number", inside(paths))


def kinds() -> Iterator[Case]:
    def with_fifo(call: Callable[[Path], Any]) -> Callable[[Path], bool]:
        def work(folder: Path) -> bool:
            os.mkfifo(folder / "p")
            return told(lambda: call(folder / "p")) and os.listdir(folder) == ["p"]

        return work

    for name, call in {
        "load": lfm_np.Factors.load,
        "load, mapped": lambda path: lfm_np.Factors.load(path, mmap=True),
        "save": lambda path: model().save(path),
        "a checkpoint": lambda path: als(checkpoint=path),
        "a stored matrix": lfm_np.StoredMatrix,
        "from_matrix": lambda path: lfm_np.StoredMatrix.from_matrix(plain(), path),
    }.items():
        yield right(f"a FIFO for {name} is refused and not waited for", inside(with_fifo(call)))

    def devices(path: str) -> Callable[[], bool]:
        return lambda: all(
            told(call)
            for call in (
                lambda: lfm_np.Factors.load(path),
                lambda: lfm_np.Factors.load(path, mmap=True),
                lambda: als(checkpoint=path),
                lambda: model().save(path),
                lambda: lfm_np.StoredMatrix(path),
            )
        )

    for path in ("/dev/zero", "/dev/null", "/dev/full", "/proc/self/mem", "/proc/self/maps"):
        yield right(f"{path} as a file is refused", devices(path))

    def sockets(folder: Path) -> bool:
        with socket.socket(socket.AF_UNIX) as end:
            end.bind(str(folder / "s"))
            refused = [
                told(lambda: lfm_np.Factors.load(folder / "s")),
                told(lambda: model().save(folder / "s")),
                told(lambda: als(checkpoint=folder / "s")),
            ]
            return all(refused) and os.listdir(folder) == ["s"]

    yield right("a socket as a file is refused", inside(sockets))

    def links(folder: Path) -> bool:
        (folder / "real").mkdir()
        (folder / "link").symlink_to("real")
        (folder / "m").symlink_to("real/m")
        (folder / "loop").symlink_to("loop")
        factors = model()
        factors.save(folder / "link" / "a")
        factors.save(folder / "m")
        fine = same(lfm_np.Factors.load(folder / "m"), factors) and same(
            lfm_np.Factors.load(folder / "real/a"), factors
        )
        (folder / "c").symlink_to("real/c")
        als(iterations=1, checkpoint=folder / "c")
        fine &= same(als(checkpoint=folder / "c"), als())
        return fine and told(lambda: lfm_np.Factors.load(folder / "loop"))

    yield right("links to files that are there, and that are not", inside(links))

    def hard(folder: Path) -> bool:
        """A hard link is a name of the old bytes: these stay, or become the new ones, whole."""
        old, new = model(seed=1), model(seed=2)
        old.save(folder / "a")
        os.link(folder / "a", folder / "b")
        new.save(folder / "a")
        kept = lfm_np.Factors.load(folder / "b")
        return same(lfm_np.Factors.load(folder / "a"), new) and (same(kept, old) or same(kept, new))

    yield right("a file with two names", inside(hard))

    def vast(folder: Path) -> bool:
        factors = model()
        factors.save(folder / "m")
        raw = (folder / "m").read_bytes()
        with open(folder / "tail", "wb") as file:
            file.write(raw)
            file.truncate(1 << 40)
        with open(folder / "hole", "wb") as file:
            file.truncate(1 << 40)
        with open(folder / "header", "wb") as file:
            file.write((1 << 39).to_bytes(8, "little"))
            file.truncate(1 << 40)
        return all(
            told(lambda: lfm_np.Factors.load(folder / name, mmap=mmap), name, kinds=(ValueError, MemoryError))  # noqa: B023
            for name in ("tail", "hole", "header")
            for mmap in (False, True)
        )

    yield right("model files of a terabyte of holes are refused at once", inside(vast))

    def declared(folder: Path) -> bool:
        model().save(folder / "m")
        header, body = parts(folder / "m")
        refusals = []
        for change in (
            {"shape": [2**31, 2**31]},
            {"shape": [7.0, 3]},
            {"shape": [True, 21]},
            {"shape": [-7, -3]},
            {"data_offsets": [0, 2**63]},
            {"dtype": "F64"},
            {"dtype": ["F32"]},
        ):
            wrong = copy.deepcopy(header)
            wrong["user_factors"].update(change)
            (folder / "x").write_bytes(sealed(wrong, body))
            refusals.append(told(lambda: lfm_np.Factors.load(folder / "x"), "user_factors|x", kinds=ValueError))
        for text in (b"[" * 100_000, b'{"a":' * 50_000, b"1" * 10_000, json.dumps(header).encode()[:-1], b"\xff\xfe{}"):
            (folder / "x").write_bytes(sealed(text, body))
            refusals.append(told(lambda: lfm_np.Factors.load(folder / "x"), "x", kinds=ValueError))
        return all(refusals)

    yield right("headers that lie, or nest without end", inside(declared))


def writers() -> Iterator[Case]:
    def racing(folder: Path) -> bool:
        """Readers of a file that others replace see one whole model or another."""
        models, path = [large(s) for s in (1.0, 2.0, 3.0)], folder / "m"
        models[0].save(path)
        bad: list[Any] = []
        stop = threading.Event()

        def read(mmap: bool) -> None:
            while not stop.is_set():
                try:
                    found = lfm_np.Factors.load(path, mmap=mmap)
                    if not any(same(found, one) for one in models):
                        bad.append("mixed")
                except BaseException as error:
                    bad.append(error)

        readers = [threading.Thread(target=read, args=(mmap,)) for mmap in (False, True)]
        for thread in readers:
            thread.start()
        for place in range(15):
            models[place % 3].save(path)
        stop.set()
        for thread in readers:
            thread.join()
        return bad == [] and os.listdir(folder) == ["m"]

    yield right("readers while the file is replaced", inside(racing))

    def cut(folder: Path) -> bool:
        """A file that is rewritten in place, without a rename: the whole of it, or an error."""
        wanted, path = large(), folder / "m"
        wanted.save(path)
        raw, rng = path.read_bytes(), random.Random(3)
        stop, wrong = threading.Event(), []

        def spoil() -> None:
            while not stop.is_set():
                with open(path, "r+b") as file:
                    file.truncate(rng.randrange(len(raw)))
                with open(path, "r+b") as file:
                    file.write(raw)

        thread = threading.Thread(target=spoil)
        thread.start()
        for _ in range(60):
            with contextlib.suppress(ValueError, OSError):
                wrong.append(not same(lfm_np.Factors.load(path), wanted))
        stop.set()
        thread.join()
        return not any(wrong) and same(lfm_np.Factors.load(path), wanted)

    yield right("a model file that is cut while it is read", inside(cut))

    def shared(folder: Path) -> bool:
        """Threads, and then processes, that fit the same with one checkpoint: all right, and none damages it."""
        path, wanted = folder / "c", als(iterations=6)
        found = together(4, lambda place: als(iterations=6, checkpoint=path, num_threads=place + 1))
        fine = all((isinstance(f, Exception) and str(f)) or same(f, wanted) for f in found)
        path.unlink()
        context = multiprocessing.get_context("fork")
        processes = [context.Process(target=als, kwargs={"iterations": 6, "checkpoint": path}) for _ in range(4)]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        fine &= any(process.exitcode == 0 for process in processes)
        return fine and same(als(iterations=7, checkpoint=path), als(iterations=7)) and os.listdir(folder) == ["c"]

    yield right("four fits with one checkpoint", inside(shared))

    def different(folder: Path) -> bool:
        """Two fits of other arguments at once: at most one may call the file its own in the end."""
        path = folder / "c"
        together(2, lambda place: als(factors=place + 3, iterations=8, checkpoint=path))
        going = [not told(lambda k=k: als(factors=k, iterations=9, checkpoint=path), "factors") for k in (3, 4)]
        return going.count(True) == 1 and os.listdir(folder) == ["c"]

    yield right("two different fits with one checkpoint", inside(different))

    def build(folder: Path) -> bool:
        found = together(3, lambda place: lfm_np.StoredMatrix.from_matrix(plain(), folder / "s"))
        made = [f for f in found if isinstance(f, lfm_np.StoredMatrix)]
        errors = [f for f in found if isinstance(f, (OSError, ValueError)) and str(folder / "s") in str(f)]
        whole = lfm_np.StoredMatrix(folder / "s")
        return bool(made) and len(made) + len(errors) == 3 and same(als(whole), als()) and os.listdir(folder) == ["s"]

    yield right("three builds of one stored matrix at once", inside(build))

    def over_itself(folder: Path) -> bool:
        path, wanted = folder / "m", large()
        wanted.save(path)
        mapped = lfm_np.Factors.load(path, mmap=True)
        mapped.save(path)
        large(2.0).save(path)
        path.unlink()
        copies = [copy.deepcopy(mapped), pickle.loads(pickle.dumps(mapped)), mapped]
        forked = child(lambda: np.array_equal(mapped.recommend(np.arange(2000), N=5).ids, ranked(wanted, 2000)))
        return forked == 0 and all(same(f, wanted) for f in copies)

    yield right("a mapped model saved over itself, replaced and removed", inside(over_itself))

    def left_over(folder: Path) -> bool:
        """What killed writers left, beside files of the user's that look like it."""
        path, wanted = folder / "m", large()
        for _ in range(4):
            pid = os.fork()
            if pid == 0:
                while True:
                    wanted.save(path)
            threading.Event().wait(0.02)
            os.kill(pid, 9)
            os.waitpid(pid, 0)
        mine = ["m.tmp", ".m.tmp", "m~", "m.partial", ".m"]
        for name in mine:
            (folder / name).write_text("mine")
        wanted.save(path)
        return (
            same(lfm_np.Factors.load(path), wanted)
            and all((folder / name).read_text() == "mine" for name in mine)
            and sorted(os.listdir(folder)) == sorted(["m", *mine])
        )

    yield right("what killed writers left is removed, and nothing else", inside(left_over))


def processes() -> Iterator[Case]:
    wanted, drawn = als(), sgd()
    fork = multiprocessing.get_context("fork")

    def pool() -> bool:
        with fork.Pool(2, maxtasksperchild=1) as workers:
            tasks = [workers.apply_async(als, (), {"num_threads": n}) for n in (1, 2, 3, 4)]
            return all(same(task.get(20), wanted) for task in tasks)

    yield right("a pool whose processes do one fit each", pool)

    def ended() -> bool:
        workers = fork.Pool(2)
        for _ in range(8):
            workers.apply_async(als, (), {"iterations": 100_000})
        threading.Event().wait(0.05)
        workers.terminate()
        workers.join()
        return same(als(), wanted)

    yield right("a pool that is ended while it fits", ended)

    def executor() -> bool:
        with ProcessPoolExecutor(2, mp_context=fork) as workers:
            users = list(workers.map(wanted.recommend, [[0, 1], [2, 3], 4]))
            folded = list(workers.map(wanted.fold_in_users, [plain()[:2], plain()[5:6]]))
        fine = np.array_equal(users[1].ids, wanted.recommend([2, 3]).ids) and users[2].ids.shape == (10,)
        return fine and same(folded[0], wanted.fold_in_users(plain()[:2]))

    yield right("methods of a result as tasks of processes", executor)

    def daemons() -> bool:
        """A daemon process may have no children; a fit needs none."""
        end, other = fork.Pipe()
        process = fork.Process(target=lambda: other.send(als(num_threads=4).item_factors), daemon=True)
        process.start()
        found = end.recv() if end.poll(15) else None
        process.join()
        return process.exitcode == 0 and np.array_equal(found, wanted.item_factors)

    yield right("a daemon process fits", daemons)

    def in_thread() -> bool:
        """Forks of threads that are not the main one, while others fit."""

        def work(place: int) -> int:
            if place % 2:
                return child(lambda: same(als(), wanted))
            return 0 if same(als(), wanted) and same(sgd(), drawn) else 3

        found = together(4, work)
        return found == [0] * 4

    yield right("threads fork while others fit", in_thread)

    def shared_matrix() -> bool:
        X = plain()
        block = shared_memory.SharedMemory(create=True, size=X.data.nbytes)
        try:
            data = np.ndarray(X.data.shape, X.data.dtype, buffer=block.buf)
            data[:] = X.data
            Y = sp.csr_array((data, X.indices, X.indptr), shape=X.shape)
            codes = [child(lambda Y=Y: same(als(Y), wanted)) for _ in range(2)]
            fine = same(als(Y), wanted) and codes == [0, 0]
            del Y, data
        finally:
            block.close()
            block.unlink()
        return fine

    yield right("a matrix in shared memory", shared_matrix)

    def mapped_matrix(folder: Path) -> bool:
        X = plain()
        for name in ("data", "indices", "indptr"):
            np.save(folder / f"{name}.npy", getattr(X, name))
        loaded = [np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("data", "indices", "indptr")]
        Y = sp.csr_array(tuple(loaded), shape=X.shape)
        for name in ("data", "indices", "indptr"):
            (folder / f"{name}.npy").unlink()
        return same(als(Y), wanted) and same(sgd(Y), drawn) and lfm_np.evaluate(wanted, None, Y)["users"] == 39

    yield right("a matrix that is mapped from files that are gone", inside(mapped_matrix))

    def threaded() -> bool:
        import joblib

        with joblib.parallel_config("threading", n_jobs=4):
            found = joblib.Parallel()(joblib.delayed(als)(num_threads=n) for n in (1, 2, 3, 4))
        for thread in threading.enumerate():  # joblib leaves its own
            if thread is not threading.current_thread():
                thread.join(5)
        return all(same(f, wanted) for f in found)

    if installed("joblib"):
        yield right("joblib's threads", threaded)

    def first_use() -> bool:
        """Threads that all are the first to rank, copy and pickle one result."""
        factors = large()
        best = ranked(factors, 2000)

        def work(place: int) -> bool:
            if place % 3 == 0:
                return np.array_equal(factors.recommend(np.arange(2000), N=5, num_threads=place + 1).ids, best)
            other = copy.deepcopy(factors) if place % 3 == 1 else pickle.loads(pickle.dumps(factors))
            return np.array_equal(other.recommend(np.arange(20), N=5).ids, best[:20])

        return together(6, work) == [True] * 6

    yield right("the first use of a result by six threads", first_use)


def cases() -> list[Case]:
    return [case for make in (names, kinds, writers, processes) for case in make()]
