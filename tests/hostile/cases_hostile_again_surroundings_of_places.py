"""Files that are endless, damaged, swapped, replaced or gone, beside loops in float64."""

from __future__ import annotations

import json
import os
import shutil
import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

import lfm_np

from .case import Case, Group
from .cases_hostile_again_surroundings_of_alarms import RATED, U0, V0, M, X, epochs, fit, stop_at, whole
from .places import inside
from .working_days import close, csr, faultless, raised, same, seal, tells, wrong

GROUP = Group("hostile again, surroundings")
_holds = faultless(GROUP)
BAD_FILE = (ValueError, OSError)


def refused(call: Callable[[], Any], *words: str) -> bool:
    error = raised(call)
    return isinstance(error, BAD_FILE) and tells(error, *words)


def other_numbers() -> np.ndarray:
    """The same cells with twice the values."""
    return RATED * 2


def _right_or_told(call: Callable[[], Any], sweeps: int, *words: str) -> bool:
    try:
        found = call()
    except BAD_FILE as error:
        return tells(error, *words)
    return whole(found, sweeps)


def _endless_files(place: Path) -> list[str]:
    """Links to devices that never end, or are always full, in place of models and states."""
    facts = {}
    for name in ("zero", "full"):
        link = place / f"link_{name}"
        link.symlink_to(f"/dev/{name}")
        facts[f"load_{name}"] = refused(lambda link=link: lfm_np.Factors.load(link), "link|dev|regular")
        facts[f"map_{name}"] = refused(lambda link=link: lfm_np.Factors.load(link, mmap=True), "link|dev|regular")
        facts[f"save_{name}"] = refused(lambda link=link: lfm_np.Factors(U0, V0).save(link), "link|dev|regular|path")
        facts[f"state_{name}"] = refused(lambda link=link: fit(checkpoint=link), "link|dev|regular|checkpoint")
        facts[f"kept_{name}"] = link.is_symlink() and stat.S_ISCHR(link.stat().st_mode)
    return wrong(**facts, files=sorted(os.listdir(place)) == ["link_full", "link_zero"])


def _matrix_of_odd_files(place: Path, kind: str) -> list[str]:
    """Each file of a stored matrix in turn is a link to an endless device, a FIFO, a folder or gone."""
    lfm_np.StoredMatrix.from_matrix(X, place / "m", dtype="float64")
    found = {}
    for name in sorted(os.listdir(place / "m")):
        file, kept = place / "m" / name, place / "kept"
        os.rename(file, kept)
        if kind == "endless":
            file.symlink_to("/dev/zero")
        elif kind == "FIFO":
            os.mkfifo(file)
        elif kind == "folder":
            file.mkdir()
        found[name.replace(".", "_")] = refused(
            lambda: lfm_np.StoredMatrix(place / "m"), name.split(".")[0] + "|stored matrix"
        )
        if kind == "folder":
            file.rmdir()
        elif kind != "gone":
            file.unlink()
        os.rename(kept, file)
    return wrong(**found, several=len(found) >= 7, after=whole(fit(data=lfm_np.StoredMatrix(place / "m")), 3))


def _damaged_states(place: Path) -> list[str]:
    """States of both solvers, cut and flipped anywhere: refused, and left as they are."""
    found = []
    for run in (fit, epochs):
        path = place / f"{run.__name__}.state"
        run(2, checkpoint=path)
        raw = path.read_bytes()
        damaged = [raw[:cut] for cut in range(1, len(raw), len(raw) // 11)]
        damaged += [raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :] for at in range(0, len(raw), len(raw) // 29)]
        damaged += [raw + b"\0", raw * 2]
        for text in damaged:
            path.write_bytes(text)
            told = refused(lambda run=run, path=path: run(4, checkpoint=path), "state|checkpoint")
            found.append(told and path.read_bytes() == text)
        path.write_bytes(raw)
        seen: list[Any] = []
        run(4, checkpoint=path, callback=stop_at(9, seen))
        found.append([number for number, _ in seen] == [3, 4])
    return wrong(each=all(found), files=sorted(os.listdir(place)) == ["epochs.state", "fit.state"])


def _swapped(place: Path) -> list[str]:
    """A model where a state belongs, a state where a model belongs, and states of the other solver."""
    fit(2, checkpoint=place / "als").save(place / "model")
    epochs(2, checkpoint=place / "sgd")
    before = {name: (place / name).read_bytes() for name in ("als", "model", "sgd")}
    facts = {
        "model_as_state": refused(lambda: fit(4, checkpoint=place / "model"), "model|checkpoint"),
        "model_of_epochs": refused(lambda: epochs(4, checkpoint=place / "model"), "model|checkpoint"),
        "state_as_model": refused(lambda: lfm_np.Factors.load(place / "als"), "als"),
        "epochs_as_model": refused(lambda: lfm_np.Factors.load(place / "sgd", mmap=True), "sgd"),
        "epochs_for_sweeps": refused(lambda: fit(4, checkpoint=place / "sgd"), "sgd|checkpoint"),
        "sweeps_for_epochs": refused(lambda: epochs(4, checkpoint=place / "als"), "als|checkpoint"),
    }
    return wrong(**facts, kept=before == {name: (place / name).read_bytes() for name in sorted(os.listdir(place))})


def _states_that_vanish(place: Path) -> list[str]:
    """A callback removes the state, or puts another run's in its place, or makes its folder anew."""
    path = place / "runs" / "s"
    path.parent.mkdir()
    fit(1, checkpoint=place / "early")
    early = (place / "early").read_bytes()

    def removes(record: Any, factors: Any) -> None:
        path.unlink(missing_ok=True)

    def replaces(record: Any, factors: Any) -> None:
        path.write_bytes(early)

    def makes_anew(record: Any, factors: Any) -> None:
        shutil.rmtree(path.parent)
        path.parent.mkdir()

    found = []
    for callback in (removes, replaces, makes_anew):
        path.unlink(missing_ok=True)
        seen: list[Any] = []
        first = fit(3, checkpoint=path, callback=callback)
        more = fit(5, checkpoint=path, callback=stop_at(9, seen))
        found.append(whole(first, 3) and whole(more, 5) and [n for n, _ in seen] == [4, 5])
        found.append(os.listdir(path.parent) == ["s"])
    return wrong(each=all(found))


def _folders_that_vanish(place: Path) -> list[str]:
    """The folder of the state is removed, or is a file, by the second sweep."""

    def run(instead: bool) -> Any:
        where = place / f"folder{instead}"
        where.mkdir()

        def callback(record: Any, factors: Any) -> None:
            if record["iteration"] == 2:
                shutil.rmtree(where)
                if instead:
                    where.write_text("mine")

        return fit(4, checkpoint=where / "s", callback=callback)

    errors = [raised(lambda instead=instead: run(instead)) for instead in (False, True)]
    return wrong(
        told=all(isinstance(error, OSError) and tells(error, "folder|checkpoint") for error in errors),
        mine=os.listdir(place) == ["folderTrue"] and (place / "folderTrue").read_text() == "mine",
        after=whole(fit(), 3),
    )


def _mapped_and_gone(place: Path) -> list[str]:
    """A mapped model whose file is saved over by itself, replaced, unlinked, and whose folder is gone."""
    a, b = lfm_np.Factors(U0, V0), lfm_np.Factors(U0 * 3, V0[:, ::-1].copy())
    (place / "d").mkdir()
    path = place / "d" / "m"
    a.save(path)
    os.link(path, place / "hard")
    mapped = lfm_np.Factors.load(path, mmap=True)
    mapped.save(path)
    again = same(lfm_np.Factors.load(path), a)
    b.save(path)
    new = same(lfm_np.Factors.load(path), b)
    hard = same(lfm_np.Factors.load(place / "hard"), a)
    shutil.rmtree(place / "d")
    best = np.argsort(-(U0 @ V0.T), axis=1)[:, :5].tolist()
    return wrong(
        again=again, new=new, hard=hard, mapped=same(mapped, a),
        lists=mapped.recommend(np.arange(14), N=5).ids.tolist() == best,
    )  # fmt: skip


def _replaced_while_read(place: Path) -> list[str]:
    """Two models of different sizes take turns at a name that is loaded all the time."""
    a, b = lfm_np.Factors(U0, V0), lfm_np.Factors(np.tile(U0, (40, 1)), V0)
    a.save(place / "m")
    ended = threading.Event()

    def writer() -> None:
        while not ended.is_set():
            b.save(place / "m")
            a.save(place / "m")

    thread = threading.Thread(target=writer)
    thread.start()
    try:
        loaded = [lfm_np.Factors.load(place / "m", mmap=n % 2 == 0) for n in range(120)]
    finally:
        ended.set()
        thread.join()
    return wrong(each=all(same(f, a) or same(f, b) for f in loaded), files=os.listdir(place) == ["m"])


def _opened_then(place: Path, what: str) -> list[str]:
    """A stored matrix that is moved, removed, replaced or written to between its opening and a fit."""
    m = place / "m"
    lfm_np.StoredMatrix.from_matrix(X, m, dtype="float64")
    stored = lfm_np.StoredMatrix(m)
    time.sleep(0.03)  # clocks of files may be as coarse as 10 ms
    if what == "moved":
        os.rename(m, place / "n")
    elif what == "removed":
        shutil.rmtree(m)
    elif what == "replaced":
        shutil.rmtree(m)
        lfm_np.StoredMatrix.from_matrix(csr(other_numbers()), m, dtype="float64")
    else:
        for name in ("rows.data.npy", "columns.data.npy"):
            values = np.load(m / name) * 2
            with (m / name).open("r+b") as file:
                file.seek(-values.nbytes, os.SEEK_END)
                file.write(values.tobytes())
    told = _right_or_told(lambda: fit(data=stored), 3, "rows|columns|matrix|stored|/m|changed")
    return wrong(told=told, after=whole(fit(), 3))


def _relative_and_away(place: Path) -> list[str]:
    """Folder, factors and state are relative names; the current folder changes before the fit and within."""
    before = os.getcwd()
    (place / "here" / "f").mkdir(parents=True)
    (place / "there").mkdir()
    try:
        os.chdir(place / "here")
        lfm_np.StoredMatrix.from_matrix(X, "m", dtype="float64")
        stored = lfm_np.StoredMatrix("m", factors_in="f")
        os.chdir(place / "there")
        one = _right_or_told(lambda: fit(data=stored, callback=lambda record, factors: os.chdir("/")), 3, "m|f")
        os.chdir(place / "here")
        two = fit(checkpoint="s", callback=lambda record, factors: os.chdir("/"))
    finally:
        os.chdir(before)
    return wrong(
        one=one, two=whole(two, 3), there=os.listdir(place / "there") == [],
        here=sorted(os.listdir(place / "here")) == ["f", "m", "s"] and os.listdir(place / "here" / "f") == [],
    )  # fmt: skip


def _masks(place: Path) -> list[str]:
    """A callback forbids all others to read: so is the state that is written next, and a model after it."""
    before = os.umask(0o022)
    try:
        found = fit(checkpoint=place / "s", callback=lambda record, factors: os.umask(0o077) and None)
        found.save(place / "m")
        os.umask(0o027)
        found.save(place / "n")
        (place / "o").write_bytes(b"old")
        (place / "o").chmod(0o604)
        found.save(place / "o")
    finally:
        os.umask(before)
    modes = [stat.S_IMODE((place / name).stat().st_mode) for name in "smno"]
    return wrong(modes=modes == [0o600, 0o600, 0o640, 0o604], whole=whole(found, 3))


def _odd_json(place: Path) -> list[str]:
    """Sealed models whose JSON is hard to read: numbers of 5,000 digits or beyond float64, 100,000 brackets."""
    path = place / "model.bin"
    lfm_np.Factors(U0, V0).save(path)
    raw = path.read_bytes()
    size = int.from_bytes(raw[:8], "little")
    deep = "[" * 100_000 + "]" * 100_000
    found = {}
    for key, text in (
        ("global_bias", "1" * 5000), ("global_bias", "1e400"), ("global_bias", "-Infinity"), ("global_bias", deep),
        ("status", deep), ("history", deep), ("params", '{"x":' + deep + "}"),
    ):  # fmt: skip
        header = json.loads(raw[8 : 8 + size])
        model = json.loads(header["__metadata__"]["model"])
        model[key] = "@@"
        header["__metadata__"]["model"] = json.dumps(model).replace('"@@"', text)
        seal(path, header, raw[8 + size :])
        found[f"{key}_{text[:6]}_{len(found)}"] = refused(lambda: lfm_np.Factors.load(path), "model.bin")
    text = b'{"a":' + deep.encode() + b"}   "
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    return wrong(**found, header=refused(lambda: lfm_np.Factors.load(path), "model.bin"))


def _empty_state(place: Path) -> list[str]:
    """A file of no bytes, as `tempfile.NamedTemporaryFile` and full disks leave them."""
    path = place / "empty"
    path.touch()
    told = _right_or_told(lambda: fit(checkpoint=path), 3, "empty|checkpoint")
    return wrong(told=told, model=refused(lambda: lfm_np.Factors.load(path), "empty"))


def _state_of_others_numbers(place: Path) -> list[str]:
    """A state of the same cells with other values is refused; as it is of the same values in other cells."""
    fit(2, checkpoint=place / "s")
    raw = (place / "s").read_bytes()
    swapped = RATED.copy()
    swapped[[3, 4]] = swapped[[4, 3]]
    told = [
        refused(lambda R=R: fit(4, data=csr(R), checkpoint=place / "s"), "s|checkpoint|x|matrix")
        for R in (other_numbers(), swapped)
    ]
    U, V = M.sweeps(other_numbers(), V0, 2)
    alone = fit(2, data=csr(other_numbers()))
    return wrong(
        told=all(told), kept=(place / "s").read_bytes() == raw,
        alone=close(alone.user_factors @ alone.item_factors.T, U @ V.T, 1e-8),
    )  # fmt: skip


def _cases() -> Iterator[Case]:
    yield _holds("endless files", inside(_endless_files))
    for kind in ("endless", "FIFO", "folder", "gone"):
        yield _holds(f"a matrix, one of whose files is {kind}", inside(lambda p, k=kind: _matrix_of_odd_files(p, k)))
    yield _holds("states, cut and flipped", inside(_damaged_states))
    yield _holds("models for states, states for models", inside(_swapped))
    yield _holds("states that vanish", inside(_states_that_vanish))
    yield _holds("folders that vanish", inside(_folders_that_vanish))
    yield _holds("mapped, and gone", inside(_mapped_and_gone))
    yield _holds("replaced while it is read", inside(_replaced_while_read))
    for what in ("moved", "removed", "replaced", "written to"):
        yield _holds(f"a matrix that is {what} once it is open", inside(lambda p, w=what: _opened_then(p, w)))
    yield _holds("relative names, and away", inside(_relative_and_away))
    yield _holds("masks of callbacks", inside(_masks))
    yield _holds("JSON that is hard to read", inside(_odd_json))
    yield _holds("a state of no bytes", inside(_empty_state))
    yield _holds("a state of others' numbers", inside(_state_of_others_numbers))


def cases() -> list[Case]:
    return list(_cases())
