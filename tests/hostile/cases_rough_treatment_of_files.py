"""Models, checkpoints and stored matrices that are cut, vanish, change or meet small limits; the numbers afterwards."""

from __future__ import annotations

import os
import resource
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import lfm_np

from .case import Case, Group
from .cases_rough_treatment_of_matrices import (
    HOW,
    X,
    at,
    caught,
    fit,
    follows,
    listed,
    names,
    rough,
)
from .places import largest_file, limited, together
from .working_days import csr, start, tells, wrong

_GROUP = Group("rough treatment of files")


def _case(name: str, work: Callable[[Path], list[str]]) -> Case:
    return rough(name, work, _GROUP)


def refusal(got: BaseException | None, *words: str) -> list[str]:
    return (
        [] if isinstance(got, (OSError, TypeError, ValueError)) and tells(got, *words) else [f"no clear error: {got!r}"]
    )


def few_files() -> Any:
    """No file more can be opened."""
    return limited(resource.RLIMIT_NOFILE, 3)


def _model(seed: int = 0) -> lfm_np.Factors:
    draw = np.random.default_rng(seed)
    return lfm_np.Factors(draw.normal(size=(30, 3)), draw.normal(size=(20, 3)))


def _equal(a: lfm_np.Factors, b: lfm_np.Factors) -> bool:
    return np.array_equal(a.user_factors, b.user_factors) and np.array_equal(a.item_factors, b.item_factors)


def _too_large(home: Path) -> list[str]:
    path, old = home / "model", _model(1)
    old.save(path)
    size = path.stat().st_size
    found = []
    for limit in (0, 1, 9, size // 2, size - 1):
        with largest_file(limit):
            got = caught(lambda: _model(2).save(path))
        if not isinstance(got, OSError):
            found.append(f"at {limit}: {got!r}")
    with largest_file(size):
        _model(3).save(path)
    return found + wrong(new=_equal(lfm_np.Factors.load(path), _model(3)), alone=names(home) == ["model"])


def _no_descriptor(home: Path) -> list[str]:
    path = home / "model"
    _model(1).save(path)
    lfm_np.Factors.load(path), lfm_np.Factors.load(path, mmap=True), fit(checkpoint=home / "run")
    (home / "run").unlink()
    with few_files():
        errors = [
            caught(lambda: _model(2).save(path)),
            caught(lambda: lfm_np.Factors.load(path)),
            caught(lambda: lfm_np.Factors.load(path, mmap=True)),
            caught(lambda: fit(checkpoint=home / "run")),
        ]
    return wrong(
        errors=all(isinstance(e, OSError) for e in errors),
        whole=_equal(lfm_np.Factors.load(path), _model(1)),
        alone=names(home) == ["model"],
    )


def _cut(home: Path) -> list[str]:
    path = home / "beloved.model"
    _model().save(path)
    raw = path.read_bytes()
    found = []
    for size in (0, 1, 7, 8, 9, 100, len(raw) // 2, len(raw) - 8, len(raw) - 1):
        path.write_bytes(raw[:size])
        for mmap in (False, True):
            got = caught(lambda m=mmap: lfm_np.Factors.load(path, mmap=m))  # type: ignore[misc]
            if not (isinstance(got, ValueError) and tells(got, "beloved")):
                found.append(f"{size} bytes, mmap={mmap}: {got!r}")
    path.write_bytes(raw + b"\0")
    longer = caught(lambda: lfm_np.Factors.load(path))
    path.write_bytes(raw)
    return found + wrong(longer=isinstance(longer, ValueError), whole=_equal(lfm_np.Factors.load(path), _model()))


def _flipped(home: Path) -> list[str]:
    path = home / "beloved.model"
    _model().save(path)
    raw = bytearray(path.read_bytes())
    found = []
    for place in np.linspace(0, len(raw) - 1, 40).astype(int):
        raw[place] ^= 4
        path.write_bytes(raw)
        raw[place] ^= 4
        if not isinstance(caught(lambda: lfm_np.Factors.load(path)), ValueError):
            found.append(f"byte {place} of {len(raw)}")
    return found


def _folder_in_place(home: Path) -> list[str]:
    (home / "model").mkdir()
    (home / "model" / "letter").write_text("dear")
    saved = caught(lambda: _model().save(home / "model"))
    loaded = caught(lambda: lfm_np.Factors.load(home / "model"))
    fitted = caught(lambda: fit(checkpoint=home / "model"))
    return (
        refusal(saved, "model|directory")
        + refusal(loaded, "model|directory")
        + refusal(fitted, "model|directory|checkpoint")
        + wrong(letter=(home / "model" / "letter").read_text() == "dear", alone=names(home) == ["model"])
    )


def _saved_and_loaded_at_once(home: Path) -> list[str]:
    path = home / "model"
    models = [_model(1), _model(2)]
    models[0].save(path)

    def work(place: int) -> list[str]:
        if place < 2:
            for _ in range(15):
                models[place].save(path)
            return []
        found = [lfm_np.Factors.load(path, mmap=place == 3) for _ in range(25)]
        return [f"read {n}" for n, one in enumerate(found) if not any(_equal(one, model) for model in models)]

    return [str(bad) for bad in together(4, work) if bad != []] + wrong(alone=names(home) == ["model"])


def _mapped_and_replaced(home: Path) -> list[str]:
    path = home / "model"
    _model(1).save(path)
    old = lfm_np.Factors.load(path, mmap=True)
    _model(2).save(path)
    between = _equal(old, _model(1)) and _equal(lfm_np.Factors.load(path), _model(2))
    old.save(path)
    again = lfm_np.Factors.load(path, mmap=True)
    again.save(path)
    path.unlink()
    return wrong(between=between, again=_equal(again, _model(1)) and listed(again) and listed(old))


def _checkpoint_cut(home: Path) -> list[str]:
    path = home / "beloved.run"
    fit(iterations=2, checkpoint=path)
    raw = path.read_bytes()
    found = []
    for size in (0, 8, len(raw) // 3, len(raw) - 1):
        path.write_bytes(raw[:size])
        found += refusal(caught(lambda: fit(iterations=4, checkpoint=path)), "beloved|checkpoint")
        found += wrong(untouched=path.read_bytes() == raw[:size])
    path.write_bytes(raw)
    return found + wrong(went_on=follows(fit(iterations=4, checkpoint=path), 4), alone=names(home) == [path.name])


def _checkpoint_vanishes(home: Path) -> list[str]:
    path = home / "run"
    done = fit(iterations=4, checkpoint=path, callback=at(2, lambda factors: path.unlink(missing_ok=True)))
    on = fit(iterations=6, checkpoint=path)
    return wrong(right=follows(done, 4), on=follows(on, 6), six=len(on.history) == 6, alone=names(home) == ["run"])


def _checkpoint_folder_vanishes(home: Path) -> list[str]:
    (home / "inner").mkdir()
    gone = at(2, lambda factors: shutil.rmtree(home / "inner"))
    got = caught(lambda: fit(iterations=6, checkpoint=home / "inner" / "run", callback=gone))
    return wrong(error=isinstance(got, OSError) and tells(got, "inner|no such"), nothing=names(home) == [])


def _checkpoint_becomes_a_folder(home: Path) -> list[str]:
    path = home / "run"

    def swap(factors: Any) -> None:
        path.unlink(missing_ok=True)
        path.mkdir()

    got = caught(lambda: fit(iterations=6, checkpoint=path, callback=at(2, swap)))
    return refusal(got, "run|directory") + wrong(folder=path.is_dir(), alone=names(home) == ["run"])


def _of_another(home: Path) -> list[str]:
    path = home / "run"
    fit(iterations=2, checkpoint=path)
    raw = path.read_bytes()
    other = csr(X)
    other.data[17] += 1.0
    words = {**HOW.words, "factors": 3, "dtype": "float64", "init": start(30, 20, 3, 12), "solver": "exact"}
    found = refusal(caught(lambda: lfm_np.als(other, iterations=4, checkpoint=path, **words)), "run|checkpoint|x")
    found += refusal(caught(lambda: fit(iterations=1, checkpoint=path)), "iterations")
    found += refusal(caught(lambda: fit(iterations=4, checkpoint=path, regularization=0.31)), "regularization")
    found += refusal(caught(lambda: lfm_np.sgd(csr(X), factors=3, epochs=4, checkpoint=path)), "run|checkpoint|als|sgd")
    mixed = csr(X).tocoo()
    turned = np.random.default_rng(0).permutation(mixed.nnz)
    mixed.coords = tuple(part[turned] for part in mixed.coords)
    mixed.data = mixed.data[turned]
    whole = path.read_bytes() == raw
    on = lfm_np.als(mixed, iterations=4, checkpoint=path, **words)
    return found + wrong(whole=whole, on=follows(on, 4), bits=_equal(on, fit(iterations=4)))


def _two_fits_of_one_file(home: Path) -> list[str]:
    path = home / "run"
    done = together(3, lambda place: fit(iterations=3 + place, checkpoint=path, num_threads=1))
    found = []
    for place, one in enumerate(done):
        if isinstance(one, BaseException):
            found += refusal(one, "run|checkpoint|iterations")
        elif not follows(one, 3 + place):
            found.append(f"fit {place}")
    return found + wrong(on=follows(fit(iterations=7, checkpoint=path), 7), alone=names(home) == ["run"])


def _checkpoint_too_large(home: Path) -> list[str]:
    path = home / "run"
    fit(iterations=2, checkpoint=path)
    raw = path.read_bytes()
    with largest_file(64):
        got = caught(lambda: fit(iterations=5, checkpoint=path))
    whole = path.read_bytes() == raw
    return wrong(
        error=isinstance(got, OSError), whole=whole, on=follows(fit(iterations=5, checkpoint=path), 5),
        alone=names(home) == ["run"],
    )  # fmt: skip


def _folder_changed(home: Path) -> list[str]:
    """A name without a folder is of the folder in which the fit began."""
    for name in ("a", "b"):
        (home / name).mkdir()
    before = os.getcwd()
    os.chdir(home / "a")
    try:
        done = fit(iterations=4, checkpoint="run", callback=at(1, lambda factors: os.chdir(home / "b")))
    finally:
        os.chdir(before)
    here = names(home / "a") == ["run"] and names(home / "b") == []
    return wrong(right=follows(done, 4), here=here, on=follows(fit(iterations=5, checkpoint=home / "a" / "run"), 5))


def _a_thread_removes(home: Path) -> list[str]:
    """Another removes the model all the time: a load finds it whole or not at all."""
    path, model, stop = home / "model", _model(), threading.Event()

    def work() -> None:
        while not stop.is_set():
            path.unlink(missing_ok=True)
            model.save(path)

    thread = threading.Thread(target=work)
    thread.start()
    found = []
    try:
        for n in range(40):
            try:
                whole = _equal(lfm_np.Factors.load(path), model)
            except FileNotFoundError:
                whole = True
            found += [] if whole else [f"load {n}"]
    finally:
        stop.set()
        thread.join()
    return found + wrong(alone=names(home) == ["model"])


def cases() -> list[Case]:
    return [
        _case("models at every limit of a file's size", _too_large),
        _case("no descriptor for a model or a checkpoint", _no_descriptor),
        _case("models cut in nine places", _cut),
        _case("models with a bit turned in forty places", _flipped),
        _case("a folder where a file should be", _folder_in_place),
        _case("two save and two load at once", _saved_and_loaded_at_once),
        _case("a mapped model is replaced, and saved over itself", _mapped_and_replaced),
        _case("a checkpoint cut in four places stays as it is", _checkpoint_cut),
        _case("a checkpoint that vanishes during the fit", _checkpoint_vanishes),
        _case("a checkpoint whose folder vanishes", _checkpoint_folder_vanishes),
        _case("a checkpoint that becomes a folder", _checkpoint_becomes_a_folder),
        _case("a checkpoint of one other cell, fewer sweeps, another λ, another solver", _of_another),
        _case("three fits with one checkpoint at once", _two_fits_of_one_file),
        _case("a checkpoint that may not grow", _checkpoint_too_large),
        _case("a callback that changes the folder", _folder_changed),
        _case("a model that another removes all the time", _a_thread_removes),
    ]
