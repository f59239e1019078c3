"""A program's files, second sitting: writers that the kernel ends, names, text that looks like a seal, mappings."""

from __future__ import annotations

import errno
import functools
import gc
import os
import resource
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

import lfm_np

from .case import Case, Group, installed
from .places import child, largest_file, together
from .working_days import Model, close, csr, faultless, folder, raised, same, stars, start, wrong

_GROUP = Group("second sitting, life")
_holds = faultless(_GROUP)
M = Model(lam=0.3)
RATED = stars(14, 9, seed=61)
U0, V0 = start(14, 9, 3, seed=62)
X = csr(RATED)
SEAL = '"sha256":"' + "0" * 64 + '"'


def fit(matrix: Any = X, sweeps: int = 4, model: Model = M, **words: Any) -> Any:
    given = {"factors": 3, "init": (U0, V0), "dtype": "float64", "random_state": 0, **model.words, **words}
    return lfm_np.als(matrix, iterations=sweeps, **given)


@functools.cache
def by_numpy(sweeps: int, model: Model) -> tuple[np.ndarray, list[float]]:
    paid = []
    U, V = U0, V0
    for _ in range(sweeps):
        U = model.half(RATED, V)
        V = model.half(RATED.T, U)
        paid.append(model.objective(RATED, U, V))
    return U @ V.T, paid


def whole(factors: Any, sweeps: int, model: Model = M) -> bool:
    """So many sweeps, no more and no less: float64, 23 well-conditioned systems of three, so 1e-8 is plenty."""
    scores, paid = by_numpy(sweeps, model)
    history = factors.history
    return (
        [record["iteration"] for record in history] == list(range(1, sweeps + 1))
        and close(factors.user_factors @ factors.item_factors.T, scores, 1e-8)
        and close([record["objective"] for record in history], paid, 1e-9)
    )


def listing(seen: list[int]) -> Callable[[Any, Any], None]:
    return lambda record, factors: seen.append(record["iteration"])


def big(seed: int) -> lfm_np.Factors:
    draw = np.random.default_rng(seed)
    return lfm_np.Factors(draw.normal(size=(300, 8)), draw.normal(size=(50, 8)))


def ended_by_the_kernel(work: Callable[[], Any], size: int) -> bool:
    """Whether a child is killed by the write that would make a file larger than ``size``."""

    def inner() -> bool:
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        work()
        return True

    return child(inner) == -signal.SIGXFSZ


def children(count: int, work: Callable[[], bool]) -> bool:
    """Whether ``work()`` is true in each of some forked processes that run at once."""
    pids = []
    for _ in range(count):
        pid = os.fork()
        if pid == 0:
            status = 2
            try:
                status = 0 if work() else 1
            finally:
                os._exit(status)
        pids.append(pid)
    return [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids] == [0] * count


def _killed_in_the_middle(name: str) -> list[str]:
    with folder() as place:
        path = place / name
        old, new = big(1), big(2)
        old.save(path)
        before = path.read_bytes()
        killed = [ended_by_the_kernel(lambda: new.save(path), 4096) for _ in range(3)]
        left, kept = set(os.listdir(place)) - {name}, path.read_bytes() == before
        new.save(path)
        return wrong(
            killed=all(killed), one=len(left) <= 1, kept=kept, alone=os.listdir(place) == [name],
            new=same(lfm_np.Factors.load(path), new),
        )  # fmt: skip


def _killed_states() -> list[str]:
    """State 3 is never written: the callback of the sweep ends the first run, the kernel the second, as it writes."""
    fit(sweeps=1)

    def ends(record: Any, factors: Any) -> None:
        if record["iteration"] == 3:
            os.kill(os.getpid(), signal.SIGKILL)

    with folder() as place:
        path = place / "state"
        first = child(lambda: fit(sweeps=6, checkpoint=path, callback=ends))
        before = path.read_bytes()
        second = ended_by_the_kernel(lambda: fit(sweeps=6, checkpoint=path), 512)
        kept = path.read_bytes() == before
        seen: list[int] = []
        last = fit(sweeps=6, checkpoint=path, callback=listing(seen))
        return wrong(
            first=first == -signal.SIGKILL, second=second, kept=kept, seen=seen == [3, 4, 5, 6], whole=whole(last, 6),
            alone=os.listdir(place) == ["state"],
        )  # fmt: skip


def _data() -> lfm_np.Interactions:
    rows, columns = X.nonzero()
    return lfm_np.Interactions.from_arrays([f"u{u:02}" for u in rows], columns.tolist())


def _killed_lists() -> list[str]:
    import pyarrow.parquet

    data = _data()
    factors = fit(sweeps=1)
    with folder() as place:
        path = place / "lists.parquet"
        lfm_np.recommend_parquet(factors, data, path, N=1)
        before = path.read_bytes()
        killed = ended_by_the_kernel(lambda: lfm_np.recommend_parquet(factors, data, path, N=9), 256)
        kept = path.read_bytes() == before
        lfm_np.recommend_parquet(factors, data, path, N=9)
        rows = pyarrow.parquet.read_metadata(path).num_rows
        return wrong(killed=killed, kept=kept, rows=rows == 14 * 9)


def _killed_page() -> list[str]:
    from lfm_np.report import write_report

    data, factors = _data(), fit(sweeps=2)
    with folder() as place:
        path = place / "page.html"
        write_report(path, factors, data, title="first")
        before = path.read_bytes()
        killed = ended_by_the_kernel(lambda: write_report(path, factors, data, title="second"), 1024)
        return wrong(killed=killed, kept=path.read_bytes() == before, first=b"first" in before)


def _names_within_names() -> list[str]:
    names = ["m", "m1", "m11", "m.1", ".m", "m[1]", "m*", "m?"]
    models = [big(seed) for seed in range(8)]
    with folder() as place:
        found = together(8, lambda i: [models[i].save(place / names[i]) for _ in range(5)])
        return wrong(
            quiet=found == [[None] * 5] * 8,
            names=sorted(os.listdir(place)) == sorted(names),
            each=all(same(lfm_np.Factors.load(place / name), m) for name, m in zip(names, models, strict=True)),
        )


def _files_without_a_name() -> list[str]:
    model = big(3)
    with folder() as place:
        path = place / "model"
        model.save(path)
        raw = path.read_bytes()
        nameless = os.memfd_create("model")
        gone = os.open(path, os.O_RDONLY)
        try:
            os.write(nameless, raw)
            path.unlink()
            found = [
                lfm_np.Factors.load(f"/proc/self/fd/{fd}", mmap=mmap)
                for fd in (nameless, gone)
                for mmap in (False, True)
            ]
        finally:
            os.close(nameless)
            os.close(gone)
        return wrong(same=all(same(one, model) for one in found))


def _what_is_mapped() -> list[str]:
    model = big(4)
    with folder() as place:
        path = Path(os.path.realpath(place)) / "model"
        model.save(path)

        def lines() -> int:
            return sum(str(path) in line for line in Path("/proc/self/maps").read_text().splitlines())

        read = lfm_np.Factors.load(path)
        before = lines()
        mapped = lfm_np.Factors.load(path, mmap=True)
        during = lines()
        ids = mapped.recommend([0, 7], N=3).ids.tolist() == read.recommend([0, 7], N=3).ids.tolist()
        best = [np.argsort(-(model.user_factors[u] @ model.item_factors.T))[:3].tolist() for u in (0, 7)]
        right = read.recommend([0, 7], N=3).ids.tolist() == best
        del mapped
        gc.collect()
        return wrong(before=before == 0, during=during > 0, after=lines() == 0, ids=ids, right=right)


def _text_like_a_seal() -> list[str]:
    texts = [SEAL, "0" * 64, SEAL.replace("0", "f"), SEAL.replace('"', '\\"'), '"}}' + "\x00\u2028😀"]

    def notes(record: Any, factors: Any) -> None:
        record["note"] = texts[record["iteration"] - 1]
        record["sha256"] = "0" * 64
        record["__metadata__"] = SEAL

    with folder() as place:
        fit(sweeps=3, checkpoint=place / "state", callback=notes)
        last = fit(sweeps=5, checkpoint=place / "state", callback=notes)
        last.save(place / "model")
        read = [last, *(lfm_np.Factors.load(place / "model", mmap=mmap) for mmap in (False, True))]
        return wrong(
            notes=all([record["note"] for record in f.history] == texts for f in read),
            seals=all({record["sha256"] for record in f.history} == {"0" * 64} for f in read),
            metadata=all({record["__metadata__"] for record in f.history} == {SEAL} for f in read),
            whole=all(whole(f, 5) for f in read),
        )


def _why() -> list[str]:
    """What the system said, of which file, and nothing is left."""
    one = sp.csr_array([[2.0]])
    words = {"sampler": None, "factors": 3, "dtype": "float64", "random_state": 0}
    model, loss = big(7), lfm_np.losses.Squared()
    calls: list[Callable[[Path], Any]] = [
        model.save,
        lambda path: fit(checkpoint=path),
        lambda path: lfm_np.sgd(one, loss, checkpoint=lfm_np.Checkpoint(path, 0), **words),
    ]
    fit(sweeps=1)
    lfm_np.sgd(one, loss, epochs=1, **words)
    found = []
    with folder() as place:
        for number, call in enumerate(calls):
            path = place / f"file {number}"
            with largest_file(128):
                error = raised(lambda c=call, p=path: c(p))
            told = isinstance(error, OSError) and (error.errno, os.fspath(error.filename)) == (errno.EFBIG, str(path))
            found.append(told and os.listdir(place) == [])
    return wrong(save=found[0], sweeps=found[1], epochs=found[2])


def _what_json_cannot_hold() -> list[str]:
    circle: list[Any] = []
    circle.append(circle)
    values = [{1, 2}, b"x", 1j, object(), circle, threading.Lock(), len]
    with folder() as place:
        path = place / "model"
        big(1).save(path)
        before = path.read_bytes()
        factors = np.eye(2)
        errors = [
            raised(lambda v=value: lfm_np.Factors(factors, factors, history=[{"iteration": 1, "x": v}]).save(path))
            for value in values
        ]
        return wrong(
            refused=all(isinstance(error, (TypeError, ValueError)) for error in errors),
            kept=path.read_bytes() == before, alone=os.listdir(place) == ["model"],
        )  # fmt: skip


def _built_again() -> list[str]:
    other = 6.0 - RATED
    with folder() as place:
        found = []
        for rated in (RATED, other, RATED):
            fitted = fit(lfm_np.StoredMatrix.from_matrix(csr(rated), place / "m", dtype="float64"))
            again = fit(lfm_np.StoredMatrix(place / "m"))
            U, V = M.sweeps(rated, V0, 4)
            found += [close(f.user_factors @ f.item_factors.T, U @ V.T, 1e-8) for f in (fitted, again)]
            shutil.rmtree(place / "m")
        return wrong(each=all(found))


def _cases() -> Iterator[Case]:
    for name in ("m[ab]*?{}.bin", "é" * 127 + "x", "-rf ~ $HOME\n%s"):
        yield _holds(f"killed in the middle of {name[:14]!r}", lambda n=name: _killed_in_the_middle(n))
    yield _holds("a state that is never written", _killed_states)
    if installed("pyarrow", "narwhals"):
        yield _holds("lists whose writer is killed", _killed_lists)
    if installed("matplotlib"):
        yield _holds("a page whose writer is killed", _killed_page)
    yield _holds("eight writers of names within names", _names_within_names)
    yield _holds("files that have no name", _files_without_a_name)
    yield _holds("what is mapped, and when it is no more", _what_is_mapped)
    yield _holds("text that looks like a seal", _text_like_a_seal)
    yield _holds("why a state was not written", _why)
    yield _holds("what JSON cannot hold", _what_json_cannot_hold)
    yield _holds("a folder that is built again and again", _built_again)


def cases() -> list[Case]:
    return list(_cases())
