"""A program's files, second sitting: folders and files of others, traps, links, forks, odd places."""

from __future__ import annotations

import os
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

import lfm_np

from .case import Case, Group, installed
from .cases_second_sitting_of_life_on_disks import M, X, big, by_numpy, children, fit, listing, whole
from .places import child, largest_file
from .working_days import faultless, folder, raised, same, tells, typed, wrong

_GROUP = Group("second sitting, life")
_holds = faultless(_GROUP)


def _as_nobody() -> None:
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)


def _sticky() -> list[str]:
    """In a folder like /tmp nobody can put a file in the place of somebody else's."""
    if os.geteuid() != 0:
        return []
    with folder() as place:
        place.chmod(0o1777)
        path = place / "model"
        big(1).save(path)
        path.chmod(0o666)
        before, new = path.read_bytes(), big(2)

        def other() -> bool:
            _as_nobody()
            error = raised(lambda: new.save(path))
            return isinstance(error, OSError) and os.fspath(error.filename) == str(path)

        return wrong(refused=child(other) == 0, kept=path.read_bytes() == before, alone=os.listdir(place) == ["model"])


def _state_that_may_not_be_read() -> list[str]:
    """A run whose state is there, but not for this user, does not begin anew over it."""
    fit(sweeps=1)
    with folder() as place:
        place.chmod(0o777)
        path = place / "state"
        fit(sweeps=3, checkpoint=path)
        before = path.read_bytes()
        path.chmod(0)

        def other() -> bool:
            _as_nobody()
            seen: list[int] = []
            error = raised(lambda: fit(sweeps=5, checkpoint=path, callback=listing(seen)))
            return isinstance(error, OSError) and seen == []

        refused = child(other) == 0
        path.chmod(0o600)
        return wrong(refused=refused, kept=path.read_bytes() == before, alone=os.listdir(place) == ["state"])


class _Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> Any:
        return os.mkdir, (self.path,)


def _traps(place: Path) -> np.ndarray:
    found = np.empty(2, object)
    found[:] = [_Trap(place / "sprung")] * 2
    return found


def _traps_in_data() -> list[str]:
    with folder() as place:
        before = os.environ.get("LFM_NP_DATA")
        os.environ["LFM_NP_DATA"] = str(place)
        np.savez(
            place / "ml-100k.npz", **dict.fromkeys(("user", "item", "value", "timestamp", "u1_test"), _traps(place))
        )
        try:
            errors = [
                raised(lambda: lfm_np.datasets.movielens("100k")),
                raised(lambda: lfm_np.datasets.movielens_records("100k")),
                raised(lambda: lfm_np.datasets.movielens_split("100k", "u1")),
            ]
        finally:
            os.environ.pop("LFM_NP_DATA") if before is None else os.environ.update(LFM_NP_DATA=before)
        return wrong(
            refused=all(isinstance(error, (ValueError, TypeError, OSError)) for error in errors),
            quiet=not (place / "sprung").exists(),
        )


def _traps_for_commands() -> list[str]:
    with folder() as place:
        np.savez(place / "data.npz", user=_traps(place), item=_traps(place))
        first = typed(place, "fit", "data.npz", "-o", "first.safetensors")
        sp.save_npz(place / "good.npz", X)
        second = typed(place, "fit", "good.npz", "--factors", 2, "--iterations", 1, "-o", "m.safetensors")
        beside = place / "m.interactions.npz"
        with np.load(beside) as arrays:
            names = list(arrays)
        np.savez(beside, **dict.fromkeys(names, _traps(place)))
        third = typed(place, "recommend", "m.safetensors", "-n", 1)
        return wrong(
            data=first.status == 2, good=second.status == 0, beside=third.status == 2,
            quiet=not (place / "sprung").exists() and not (place / "first.safetensors").exists(),
        )  # fmt: skip


def _archives() -> list[str]:
    """What leads out of the archive stays in it; the folder is read each time; arrays come before archives."""
    before = os.environ.get("LFM_NP_DATA")
    with folder() as place:
        data = place / "data"
        data.mkdir()
        os.environ["LFM_NP_DATA"] = str(data)

        def archive(rows: list[tuple[int, ...]]) -> None:
            with zipfile.ZipFile(data / "ml-100k.zip", "w") as file:
                file.writestr("../evil", "evil")
                file.writestr("ml-100k/../../evil", "evil")
                file.writestr("ml-100k/u.data", "".join("\t".join(map(str, row)) + "\n" for row in rows))

        def records() -> list[tuple[float, ...]]:
            return list(zip(*(column.tolist() for column in lfm_np.datasets.movielens_records("100k")), strict=True))

        one, two = [(5, 7, 3, 100), (2, 9, 4, 200), (5, 9, 1, 300)], [(5, 7, 2, 100), (8, 1, 5, 50)]
        try:
            archive(one)
            first, matrix = records(), lfm_np.datasets.movielens("100k")
            archive(two)
            second = records()
            arrays = {"user": [0, 1], "item": [3, 0], "value": [2.0, 5.0], "timestamp": [7, 8], "known": [True, False]}
            np.savez(data / "ml-100k.npz", **{name: np.array(of) for name, of in arrays.items()})
            third = records()
        finally:
            os.environ.pop("LFM_NP_DATA") if before is None else os.environ.update(LFM_NP_DATA=before)
        return wrong(
            first=first == one, second=second == two, known=third[0] == (1, 4, 2, 7), unknown=third[1][:2] == (2, 1),
            nan=bool(np.isnan(third[1][2:]).all()), matrix=matrix.matrix.toarray().tolist() == [[0, 4], [3, 1]],
            ids=[matrix.users.tolist(), matrix.items.tolist()] == [[2, 5], [7, 9]],
            inside=os.listdir(place) == ["data"] and len(os.listdir(data)) == 2,
        )  # fmt: skip


def _partial_of_ones_own() -> list[str]:
    with folder() as place:
        own, partial, target = place / "own", place / "m.partial", place / "m"
        own.mkdir()
        (own / "rows.data.npy").write_bytes(b"precious")
        partial.symlink_to(own)
        errors = [raised(lambda: lfm_np.StoredMatrix.from_matrix(X, target, dtype="float64"))]
        kept = partial.is_symlink() and (own / "rows.data.npy").read_bytes() == b"precious" and not target.exists()
        partial.unlink()
        partial.write_bytes(b"text")
        errors.append(raised(lambda: lfm_np.StoredMatrix.from_matrix(X, target, dtype="float64")))
        text = partial.read_bytes() == b"text" and not target.exists()
        partial.unlink()
        last = fit(lfm_np.StoredMatrix.from_matrix(X, target, dtype="float64"))
        return wrong(
            refused=all(isinstance(error, (ValueError, OSError)) for error in errors), kept=kept, text=text,
            told=all(tells(error, "partial") for error in errors), whole=whole(last, 4),
        )  # fmt: skip


def _far_below() -> list[str]:
    """A working folder whose name is longer than a path may be: "used as given", or an error that leaves nothing."""
    model = big(5)

    def there() -> bool:
        os.chdir(place)
        for _ in range(25):
            os.mkdir("d" * 200)
            os.chdir("d" * 200)
        try:
            model.save("model")
            return same(lfm_np.Factors.load("model"), model) and os.listdir() == ["model"]
        except OSError:
            return os.listdir() == []

    with folder() as place:
        return wrong(there=child(there) == 0)


def _opened_from_within() -> list[str]:
    with folder() as place:
        lfm_np.StoredMatrix.from_matrix(X, place / "m", dtype="float64")

        def there() -> bool:
            os.chdir(place)
            stored = lfm_np.StoredMatrix("m")
            os.chdir("/")
            return whole(fit(stored), 4)

        return wrong(there=child(there) == 0)


def _one_opened_matrix_for_forks() -> list[str]:
    """Four processes share the descriptors that one of them opened, and read at once."""
    with folder() as place:
        stored = lfm_np.StoredMatrix.from_matrix(X, place / "m", dtype="float64")
        fit(stored, 1)
        by_numpy(25, M)
        return wrong(children=children(4, lambda: whole(fit(stored, 25), 25)), here=whole(fit(stored, 25), 25))


def _another_disk() -> list[str]:
    shared = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with folder() as place, tempfile.TemporaryDirectory(dir=shared) as there:
        other, model = Path(there), big(6)
        (place / "m").symlink_to(other / "model")
        (place / "s").symlink_to(other / "state")
        (place / "d").symlink_to(other)
        model.save(place / "m")
        model.save(place / "m")
        fit(sweeps=2, checkpoint=place / "s")
        seen: list[int] = []
        last = fit(sweeps=5, checkpoint=place / "s", callback=listing(seen))
        lfm_np.StoredMatrix.from_matrix(X, place / "d" / "matrix", dtype="float64")
        stored = lfm_np.StoredMatrix(place / "d" / "matrix", factors_in=place / "d")
        found = fit(stored)
        return wrong(
            links=sorted(os.listdir(place)) == ["d", "m", "s"] and all((place / name).is_symlink() for name in "dms"),
            files=sorted(os.listdir(other)) == ["matrix", "model", "state"], went_on=seen == [3, 4, 5],
            whole=whole(last, 5) and whole(found, 4), read=same(lfm_np.Factors.load(place / "m"), model),
        )  # fmt: skip


def _no_blocks_for_factors() -> list[str]:
    with folder() as place:
        (place / "f").mkdir()
        lfm_np.StoredMatrix.from_matrix(X, place / "m", dtype="float64")
        stored = lfm_np.StoredMatrix(place / "m", factors_in=place / "f")
        fit(stored, 1)
        seen: list[int] = []
        with largest_file(512):
            error = raised(lambda: fit(stored, callback=listing(seen)))
        return wrong(
            refused=isinstance(error, OSError), before=seen == [], empty=os.listdir(place / "f") == [],
            again=whole(fit(stored), 4),
        )  # fmt: skip


def _cases() -> Iterator[Case]:
    yield _holds("somebody else's file in a sticky folder", _sticky)
    yield _holds("a state that may not be read", _state_that_may_not_be_read)
    yield _holds("traps in arrays of ratings", _traps_in_data)
    if installed("typer", "pyarrow", "narwhals"):
        yield _holds("traps in arrays of commands", _traps_for_commands)
    yield _holds("archives whose names lead out of them", _archives)
    yield _holds("a link and a text where a build wants to be", _partial_of_ones_own)
    yield _holds("a folder that is far below", _far_below)
    yield _holds("a stored matrix opened from within its folder", _opened_from_within)
    yield _holds("one opened matrix for four forks", _one_opened_matrix_for_forks)
    yield _holds("links to another disk", _another_disk)
    yield _holds("no blocks for factors", _no_blocks_for_factors)


def cases() -> list[Case]:
    return list(_cases())
