"""Little of everything: descriptors, memory, room on a disk, rights; and what stays in folders afterwards."""

from __future__ import annotations

import contextlib
import gc
import os
import resource
import tempfile
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

import lfm_np
from lfm_np import Factors, StoredMatrix

from .case import Case, installed
from .cases_last_examination_lives_in_surroundings import a_day, lists
from .cases_last_examination_lives_interrupted import GROUP, STARS, descriptors, fit, fork, swept
from .places import interpreter, largest_file, limited
from .places import model as drawn
from .working_days import Model, close, csr, faultless, folder, raised, same, typed, wrong

_holds = faultless(GROUP)


def _nothing_left_in_tmp() -> list[str]:
    """Not a file in the temporary folder, nor in the one where mapped factors are, while they are there or later."""
    before, variable = tempfile.tempdir, os.environ.get("TMPDIR")
    with folder() as place:
        (place / "tmp").mkdir()
        (place / "mapped").mkdir()
        tempfile.tempdir = os.environ["TMPDIR"] = str(place / "tmp")
        seen: list[list[str]] = []
        try:
            a_day(place)
            gc.collect()
            files = descriptors()
            stored = StoredMatrix(place / "s", factors_in=place / "mapped")
            factors = fit(4, stored, callback=lambda *_: seen.append(os.listdir(place / "mapped")))
            seen += [os.listdir(place / "mapped"), os.listdir(place / "tmp")]
            numbers = swept(factors, 4)
            del factors, stored
            gc.collect()
            found = wrong(numbers=numbers, nameless=seen == [[]] * 6, files=descriptors() == files)
            if installed("pyarrow", "narwhals"):
                import pyarrow as pa
                from pyarrow import parquet

                rows, columns = np.nonzero(~np.isnan(STARS))
                values = STARS[rows, columns]
                parquet.write_table(pa.table({"user": rows, "item": columns, "value": values}), place / "t.parquet")
                data = lfm_np.Interactions.from_parquet(place / "t.parquet", value="value")
                StoredMatrix.from_parquet(place / "t.parquet", place / "p", value="value")
                lfm_np.recommend_parquet(fit(2), data, place / "r.parquet", N=2)
                found += wrong(rows=parquet.read_table(place / "r.parquet").num_rows == 80)
                found += wrong(partial=not list(place.glob("*.partial*")))
            return found + wrong(tmp=os.listdir(place / "tmp") == [])
        finally:
            tempfile.tempdir = before
            os.environ.pop("TMPDIR")
            if variable is not None:
                os.environ["TMPDIR"] = variable


def _no_descriptors() -> list[str]:
    with folder() as place:
        a_day(place)
        fit(2, checkpoint=place / "fit")
        drawn().save(place / "model")
        fit(2, num_threads=2).recommend(np.arange(40), N=4)
        before = {name: (place / name).read_bytes() for name in ("fit", "model")}
        with limited(resource.RLIMIT_NOFILE, 256), contextlib.ExitStack() as held:
            with contextlib.suppress(OSError):
                while True:
                    held.enter_context(open(os.devnull))
            plain = fit(3, num_threads=2)
            ids = plain.recommend(np.arange(40), N=4).ids
            errors = [
                raised(call)
                for call in (
                    lambda: StoredMatrix(place / "s"),
                    lambda: Factors.load(place / "model"),
                    lambda: Factors.load(place / "model", mmap=True),
                    lambda: drawn(seed=9).save(place / "model"),
                    lambda: fit(3, checkpoint=place / "fit"),
                )
            ]
        return wrong(
            memory=swept(plain, 3) and lists(plain, ids, 4),
            errors=all(isinstance(error, OSError) and str(error) for error in errors),
            files={name: (place / name).read_bytes() for name in before} == before,
            listing=sorted(os.listdir(place)) == ["fit", "m", "model", "s", "state"],
            later=swept(fit(3, StoredMatrix(place / "s"), checkpoint=place / "fit"), 3),
        )


def _no_memory() -> list[str]:
    """Room for 300 MiB, and fits and lists of 400 MB an array."""
    small = csr(STARS, np.float32)
    words: dict[str, Any] = {"factors": 256, "random_state": 0, "num_threads": 2}
    lfm_np.als(small, iterations=1, solver="exact", **words)
    lfm_np.sgd(small, epochs=1, **words)
    model = fit(3)
    model.recommend(np.arange(40), N=3)
    cells = np.ones(400_000, np.float32), np.arange(400_000) % 500, np.arange(400_001)
    wide = sp.csr_array(cells, shape=(400_000, 500))

    def told(call: Callable[[], Any]) -> bool:
        error = raised(call)
        return isinstance(error, MemoryError) and bool(str(error))

    def work() -> bool:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        room, hard = pages * resource.getpagesize() + (300 << 20), resource.getrlimit(resource.RLIMIT_AS)[1]
        resource.setrlimit(resource.RLIMIT_AS, (room if hard < 0 else min(room, hard), hard))
        refused = [
            told(lambda: lfm_np.als(wide, iterations=1, solver="exact", **words)),
            told(lambda: lfm_np.sgd(wide, epochs=1, **words)),
            told(lambda: model.recommend(np.arange(7), N=10**7)),
        ]
        gc.collect()
        return all(refused) and swept(fit(3), 3) and lists(model, model.recommend(np.arange(40), N=3).ids, 3)

    return wrong(told=fork(work) == 0)


def _full_disk_for_tables() -> list[str]:
    """Lists of everybody, in ids; the old file stays, and nothing lies beside it."""
    with folder() as place:
        data = lfm_np.Interactions(csr(STARS, np.float32), np.arange(40), np.arange(25))
        factors = lfm_np.als(data, factors=3, random_state=0)
        factors.recommend(np.arange(40), N=10)
        lines = [f"{u},{i}" for u, i in np.argwhere(~np.isnan(STARS))]
        (place / "events.csv").write_text("user,item\n" + "\n".join(lines) + "\n")
        made = typed(
            place, "fit", "events.csv", "--user", "user", "--item", "item", "--factors", 3, "-o", "m.safetensors"
        )
        old = {name: f"the old {name}\n".encode() for name in ("a.parquet", "b.csv", "c.json")}
        for name, text in old.items():
            (place / name).write_bytes(text)
        before, found = sorted(os.listdir(place)), wrong(made=made.status == 0)
        for size in (700, 1500):
            with largest_file(size):
                error = raised(lambda: lfm_np.recommend_parquet(factors, data, place / "a.parquet", N=10))
                said = [
                    typed(place, "recommend", "m.safetensors", "-n", 10, "-o", name) for name in ("b.csv", "c.json")
                ]
            found += wrong(
                error=isinstance(error, OSError),
                status=[one.status for one in said] == [2, 2],
                lines=all(len(one.err.strip().splitlines()) == 1 for one in said),
                old={name: (place / name).read_bytes() for name in old} == old,
                listing=sorted(os.listdir(place)) == before,
            )
        return found


def _folder_to_read_only() -> list[str]:
    """Somebody else's folder: it serves for reading, and says that it does not for writing."""
    with folder() as place:
        fit(2, checkpoint=place / "fit")
        drawn().save(place / "model")
        StoredMatrix.from_matrix(csr(STARS), place / "s", dtype=np.float64)
        fit(2, StoredMatrix(place / "s"))
        for path in [*place.rglob("*"), place]:
            path.chmod(0o555 if path.is_dir() else 0o444)

        def work() -> bool:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
            if not os.access(place, os.R_OK):  # the temporary folder itself is nobody else's
                return True
            errors = [
                raised(lambda: drawn(seed=9).save(place / "model")),
                raised(lambda: fit(3, checkpoint=place / "fit")),
                raised(lambda: StoredMatrix.from_matrix(csr(STARS), place / "t", dtype=np.float64)),
            ]
            right = swept(fit(3, StoredMatrix(place / "s")), 3) and same(Factors.load(place / "model"), drawn())
            return right and all(isinstance(error, PermissionError) and str(error) for error in errors)

        try:
            found = wrong(child=fork(work) == 0, listing=sorted(os.listdir(place)) == ["fit", "model", "s"])
        finally:
            for path in [place, place / "s"]:
                path.chmod(0o755)
        return found + wrong(state=swept(fit(4, checkpoint=place / "fit"), 4))


class Callback:
    def __call__(self, record: Any, factors: Any) -> None:
        if record["iteration"] == 3:
            raise RuntimeError("enough")


def _used_and_forgotten() -> tuple[Factors, list[Any]]:
    X, callback, other = csr(STARS), Callback(), csr(STARS)
    factors = fit(2, X, callback=callback)
    raised(lambda: fit(5, other, callback=callback))
    factors.recommend([0, 1], seen=X)
    factors.explain(0, 0, X)
    lfm_np.evaluate(factors.fold_in_users(X), None, X)
    return factors, [weakref.ref(thing) for thing in (X, callback, other)]


def _let_go() -> list[str]:
    """A result keeps neither X nor the callback alive, nor does an error that was forgotten."""
    factors, known = _used_and_forgotten()
    gc.collect()
    return wrong(gone=[one() for one in known] == [None] * 3, numbers=swept(factors, 2))


def _growth() -> list[str]:
    """A hundred rounds hold no more than twenty: 0.4 MB of factors each would be 40 MB."""
    X = lfm_np.to_csr(lfm_np.datasets.make_interactions(3000, 200, 6, random_state=0), shape=(3000, 200))

    def rounds(times: int) -> int:
        for _ in range(times):
            factors = lfm_np.als(X, factors=32, iterations=1, solver="exact", random_state=0)
            factors.recommend(np.arange(0, 3000, 10), N=20, seen=X)
            factors.fold_in_users(X[:50])
            raised(lambda factors=factors: factors.recommend(3000))  # type: ignore[misc]
        gc.collect()
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

    before = rounds(20)
    return wrong(growth=rounds(100) - before < 25e6)


def _closed_output() -> list[str]:
    """Standard input and output are closed, so that the first files take their numbers."""
    with folder() as place:
        lines = [f"{u},{i},{STARS[u, i]}" for u, i in np.argwhere(~np.isnan(STARS))]
        (place / "events.csv").write_text("user,item,value\n" + "\n".join(lines) + "\n")
        words = ("--value", "value", "--factors", "3", "--iterations", "2", "--alpha", "2", "--regularization", "0.5")

        def shut() -> None:
            os.close(0)
            os.close(1)

        given = ("-m", "lfm_np", "fit", "events.csv", *words, "-o", "m.safetensors")
        said = interpreter(*given, cwd=place, stdout=None, preexec_fn=shut)
        if said.status:
            return [f"{said.status}: {said.err[-300:]}"]
        made = Factors.load(place / "m.safetensors")
        a0 = made.params["unobserved_weight"]
        nu = made.params["regularization_exponent"]
        mine = Model(made.params["weighting"], 2.0, 1.0 if a0 is None else a0, 0.5, nu).half(STARS.T, made.user_factors)
        # float32, and systems whose condition is far below 1000
        return wrong(
            listing=sorted(os.listdir(place)) == ["events.csv", "m.interactions.npz", "m.safetensors"],
            shape=made.shape == (40, 25) and len(made.history) == 2,
            numbers=close(made.item_factors, mine, 1e-3),
            events=(place / "events.csv").read_text().splitlines()[1:] == lines,
        )


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    yield _holds("temporary folders stay empty", _nothing_left_in_tmp)
    yield _holds("no descriptor to be had", _no_descriptors)
    yield _holds("an address space that is too small", _no_memory)
    yield _holds("a folder of somebody else", _folder_to_read_only)
    if installed("typer", "pyarrow", "narwhals"):
        yield _holds("a full disk for lists in three formats", _full_disk_for_tables)
        yield _holds("a fit whose output is closed", _closed_output)
    yield _holds("X and callbacks are let go", _let_go)
    yield _holds("a hundred rounds hold no more than twenty", _growth)
