"""Services and their files: every kind of path, files that are something else, pickles, copies, two writers at once."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import multiprocessing
import os
import pickle
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

import lfm_np
from lfm_np import losses, sampling

from .case import Case
from .places import parts, sealed, together
from .programs import BAD, Programs, listed, plain, served
from .working_days import all_scores, csr, folder, raised, same, stars, tells, wrong

program = Programs("program service")
X = stars()


@program("everything seen, by dense, by transposed and by integer matrices")
def _seen_of_other_kinds() -> list[str]:
    fit, full = served(), np.ones((30, 20), np.int8)
    full[:, 5] = np.arange(30) % 2
    masks = full == 0
    good = (sp.csc_array(full), sp.coo_matrix(full.astype(bool)), sp.csr_array(full.T).T, sp.lil_array(full))
    found = [
        f"{type(s).__name__}"
        for s in good
        if not listed(fit.recommend(range(30), N=2, seen=s), all_scores(fit), masks, 2)
    ]
    try:
        found += wrong(dense=listed(fit.recommend(range(30), N=2, seen=full), all_scores(fit), masks, 2))
    except BAD as error:
        found += wrong(dense=tells(error, "seen"))
    return found


@program("zeros of ratings are seen, zeros of clicks are not")
def _zeros_seen() -> list[str]:
    Z = stars(seed=3) - 1  # zeros among the ratings
    rated = lfm_np.als(csr(Z), weighting="ratings", factors=3, random_state=0, dtype=float, regularization=0.5)
    clicks = served()
    none = np.isnan(Z)
    return wrong(
        rated=listed(rated.recommend(range(30), N=20, seen=csr(Z)), all_scores(rated), none, 20),
        clicks=listed(clicks.recommend(range(30), N=20, seen=csr(Z)), all_scores(clicks), none | (Z == 0), 20),
    )


@program("arrays of a model cannot be written to, attributes not set, and it goes on")
def _frozen() -> list[str]:
    fit = served()
    bits = fit.user_factors.tobytes()

    def write() -> None:
        fit.user_factors[0, 0] = 7.0

    def assign() -> None:
        fit.item_factors = np.zeros((20, 4))  # type: ignore[misc]

    def turn() -> None:
        fit.recommend(0).scores[0] = 1.0

    errors = [raised(write), raised(assign), raised(turn)]
    return wrong(
        errors=isinstance(errors[0], ValueError) and isinstance(errors[1], (AttributeError, TypeError)),
        lists_read_only=isinstance(errors[2], ValueError),
        bits=fit.user_factors.tobytes() == bits and plain(fit, X),
    )


class _Named:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __fspath__(self) -> str:
        return str(self.path)


KINDS: dict[str, Callable[[Path], Any]] = {
    "text": str,
    "something with __fspath__": _Named,
    "spaces and letters of Greek": lambda p: p.with_name("nightly model – λ = 0.1 (новый).safetensors"),
    "a name of 255 bytes": lambda p: p.with_name("m" * 255),
    "dots and doubled strokes": lambda p: f"{p.parent}//./../{p.parent.name}/m",
    "a name that begins with a dash": lambda p: p.with_name("-o"),
    "a line break in its name": lambda p: p.with_name("a\nb"),
}
for _kind, _make in KINDS.items():

    @program(f"a model is saved and loaded under {_kind}")
    def _saved_under(make: Callable[[Path], Any] = _make) -> list[str]:
        with folder() as place:
            fit, path = served(), make(place / "m")
            fit.save(path)
            fit.save(path)
            one, other = lfm_np.Factors.load(path), lfm_np.Factors.load(path, mmap=True)
            return wrong(
                same=same(one, fit) and same(other, fit),
                alone=os.listdir(place) == [Path(os.fspath(path)).name],
                lists=plain(other, X),
            )


@program("a path in bytes is refused by name or serves as the same path")
def _path_in_bytes() -> list[str]:
    with folder() as place:
        fit, path = served(), os.fsencode(place / "m")
        try:
            fit.save(path)  # type: ignore[arg-type]
        except BAD as error:
            return wrong(said=tells(error, "path"), nothing=os.listdir(place) == [])
        return wrong(same=same(lfm_np.Factors.load(place / "m"), fit))


@program("a relative path, and the service changes its folder")
def _relative_path() -> list[str]:
    home = os.getcwd()
    with folder() as place:
        (place / "a").mkdir()
        try:
            os.chdir(place / "a")
            fit = served()
            fit.save("m")
            mapped = lfm_np.Factors.load("m", mmap=True)
            os.chdir(place)
            error = raised(lambda: lfm_np.Factors.load("m"))
            there = lfm_np.Factors.load(Path("a") / "m")
        finally:
            os.chdir(home)
        return wrong(same=same(there, fit) and plain(mapped, X), said=isinstance(error, FileNotFoundError))


@program("current points at a version by a symbolic link, which moves")
def _symbolic_link() -> list[str]:
    with folder() as place:
        fits = [served(n) for n in range(2)]
        for n, fit in enumerate(fits):
            fit.save(place / f"v{n}")
        (place / "current").symlink_to("v0")
        first = lfm_np.Factors.load(place / "current", mmap=True)
        (place / "next").symlink_to("v1")
        os.replace(place / "next", place / "current")
        second = lfm_np.Factors.load(place / "current")
        served(7).save(place / "current")
        third = lfm_np.Factors.load(place / "current")
        v0 = lfm_np.Factors.load(place / "v0")
        return wrong(
            first=same(first, fits[0]), second=same(second, fits[1]), third=same(third, served(7)), v0=same(v0, fits[0])
        )


@program("saved onto a folder, below a file, into no folder, then where it can be")
def _places_that_cannot_be() -> list[str]:
    with folder() as place:
        (place / "d").mkdir()
        (place / "d" / "kept").write_text("x")
        (place / "f").write_text("y")
        fit = served()
        errors = [raised(lambda p=p: fit.save(place / p)) for p in ("d", "f/m", "none/m")]
        errors += [raised(lambda p=p: lfm_np.Factors.load(place / p)) for p in ("d", "f/m", "none")]
        before = sorted(str(p.relative_to(place)) for p in place.rglob("*"))
        fit.save(place / "m")
        return wrong(
            errors=all(isinstance(e, (OSError, ValueError)) for e in errors),
            named=all(p in str(e) for e, p in zip(errors, ("d", "f", "none", "d", "f", "none"), strict=True)),
            left=before == ["d", "d/kept", "f"] and (place / "f").read_text() == "y",
            then=same(lfm_np.Factors.load(place / "m"), fit),
        )


class _Bomb:
    def __reduce__(self) -> Any:
        return os.mkdir, (os.environ["HERE"],)


@program("files that are something else are refused, and nothing in them is run")
def _something_else() -> list[str]:
    with folder() as place:
        os.environ["HERE"] = str(place / "exploded")
        fit = served()
        lfm_np.als(csr(X), factors=2, iterations=1, random_state=0, checkpoint=place / "checkpoint")
        np.savez(place / "npz", user_factors=fit.user_factors)
        (place / "pickle").write_bytes(pickle.dumps(_Bomb()))
        (place / "pickled array").write_bytes(b"\x93NUMPY" + pickle.dumps(_Bomb()))
        (place / "empty").write_bytes(b"")
        (place / "json").write_text(json.dumps({"user_factors": [[1.0]]}))
        (place / "zeros").write_bytes(bytes(4096))
        sp.save_npz(place / "X.npz", csr(X))
        names = ["checkpoint", "npz.npz", "pickle", "pickled array", "empty", "json", "zeros", "X.npz"]
        errors = {name: raised(lambda n=name: lfm_np.Factors.load(place / n)) for name in names}
        odd = {name: isinstance(e, ValueError) and tells(e, name) for name, e in errors.items()}
        return wrong(**odd, exploded=not (place / "exploded").exists(), on=plain(fit, X))


@program("what is in a file, read by json and NumPy alone")
def _read_by_hand() -> list[str]:
    with folder() as place:
        fit = lfm_np.als(csr(stars(), np.float32), weighting="ratings", biases=True, factors=3, random_state=1)
        fit.save(place / "m")
        header, body = parts(place / "m")
        raw = (place / "m").read_bytes()
        digest = header["__metadata__"]["sha256"]
        found = {}
        for name, what in header.items():
            if name != "__metadata__":
                a, b = what["data_offsets"]
                found[name] = np.frombuffer(body[a:b], {"F32": "<f4", "F64": "<f8"}[what["dtype"]]).reshape(
                    what["shape"]
                )
        told = json.loads(header["__metadata__"]["model"])
        return wrong(
            names=set(found) == {"user_factors", "item_factors", "user_bias", "item_bias"},
            arrays=all(np.array_equal(a, getattr(fit, n)) for n, a in found.items()),
            sum=hashlib.sha256(raw.replace(digest.encode(), b"0" * 64)).hexdigest() == digest,
            bias=abs(told["global_bias"] - np.nanmean(X)) < 1e-6 and told["status"] == "max_iterations",
            history=[r["objective"] for r in told["history"]] == [r["objective"] for r in fit.history],
        )


@program("a file written by another program from the description alone")
def _written_by_hand() -> list[str]:
    U, V = np.random.default_rng(0).normal(size=(5, 2)), np.random.default_rng(1).normal(size=(4, 2))
    model = {"global_bias": None, "status": "stopped", "params": {"by": "hand"}, "history": [{"iteration": 1}]}
    header = {
        "__metadata__": {"format": "lfm_np.factors", "version": "1", "model": json.dumps(model), "sha256": "0" * 64},
        "user_factors": {"dtype": "F64", "shape": [5, 2], "data_offsets": [0, 80]},
        "item_factors": {"dtype": "F64", "shape": [4, 2], "data_offsets": [80, 144]},
    }
    with folder() as place:
        (place / "m").write_bytes(sealed(header, U.tobytes() + V.tobytes()))
        fit = lfm_np.Factors.load(place / "m")
    return wrong(
        numbers=np.array_equal(fit.user_factors, U) and np.array_equal(fit.item_factors, V),
        rest=fit.status is lfm_np.Status.STOPPED and fit.params["by"] == "hand",
        lists=listed(fit.recommend(range(5), N=4), U @ V.T, np.ones((5, 4), bool), 4),
    )


@program("two threads save different models to one path again and again")
def _two_writers() -> list[str]:
    with folder() as place:
        fits = [served(n) for n in range(2)]
        loaded: list[Any] = []

        def work(me: int) -> None:
            for _ in range(6):
                fits[me].save(place / "m")
                loaded.append(lfm_np.Factors.load(place / "m"))

        answers = together(2, work)
        whole = [any(same(one, fit) for fit in fits) for one in loaded]
        return wrong(
            answers=answers == [None, None], whole=all(whole) and len(whole) == 12, alone=os.listdir(place) == ["m"]
        )


@program("the mode of a file that is replaced stays, and the link beside it keeps the old model")
def _mode_and_link() -> list[str]:
    with folder() as place:
        old, new = served(0), served(1)
        old.save(place / "m")
        os.chmod(place / "m", 0o640)
        os.link(place / "m", place / "backup")
        new.save(place / "m")
        return wrong(
            mode=(place / "m").stat().st_mode & 0o777 == 0o640,
            backup=same(lfm_np.Factors.load(place / "backup"), old),
            new=same(lfm_np.Factors.load(place / "m"), new),
        )


@program("params of numbers of NumPy or of sets fail to save, the old file stays, and a fit with text is saved")
def _params_that_cannot_be_kept() -> list[str]:
    fit = served()
    kept: dict[str, Any] = {"day": "2026-11-28", "grid": (1, 2), "none": None}
    bad: tuple[Any, ...] = ({1, 2}, np.arange(3), b"x", 1j, object())
    with folder() as place:
        fit.save(place / "m")
        raw = (place / "m").read_bytes()
        errors = []
        for value in bad:
            errors.append(
                raised(
                    lambda v=value: lfm_np.Factors(fit.user_factors, fit.item_factors, params={"x": v}).save(
                        place / "m"
                    )
                )
            )
        unchanged = (place / "m").read_bytes() == raw and os.listdir(place) == ["m"]
        lfm_np.Factors(fit.user_factors, fit.item_factors, params=kept).save(place / "m")
        return wrong(
            errors=all(isinstance(e, BAD) and tells(e, "params") for e in errors),
            unchanged=unchanged,
            then=lfm_np.Factors.load(place / "m").params == {"day": "2026-11-28", "grid": [1, 2], "none": None},
        )


@program("pickled by every protocol, copied and copied deeply, from a mapped file that goes away")
def _copies() -> list[str]:
    with folder() as place:
        fit = lfm_np.als(csr(X), weighting="ratings", biases=True, factors=3, random_state=0)
        fit.save(place / "m")
        mapped = lfm_np.Factors.load(place / "m", mmap=True)
        copies = [pickle.loads(pickle.dumps(mapped, p)) for p in range(2, pickle.HIGHEST_PROTOCOL + 1)]
        copies += [copy.deepcopy(mapped), copy.copy(mapped)]
    return wrong(
        same=all(same(one, fit) for one in copies),
        rest=all(one.status is fit.status and list(one.history) == list(fit.history) for one in copies),
        read_only=not any(one.user_factors.flags.writeable for one in copies),
        params=all(dict(one.params) == dict(fit.params) for one in copies),
    )


def _in_a_process(fit: lfm_np.Factors, users: list[int]) -> Any:
    return fit.recommend(users, N=4, seen=csr(X)).ids.tolist()


@program("workers that are forked answer for the model they were sent")
def _workers() -> list[str]:
    fit = served(2)
    with ProcessPoolExecutor(2, multiprocessing.get_context("fork")) as pool:
        jobs = [pool.submit(_in_a_process, fit, [u, u + 1]) for u in range(0, 28, 7)]
        bad = pool.submit(_in_a_process, fit, [30])
        answers, error = [job.result() for job in jobs], bad.exception()
    mine = [fit.recommend([u, u + 1], N=4, seen=csr(X)).ids.tolist() for u in range(0, 28, 7)]
    return wrong(
        answers=answers == mine and plain(fit, X, N=4),
        error=isinstance(error, ValueError) and tells(error, "users"),
    )


@program("settings replaced: a loss by dataclasses.replace, samplers and checkpoints by _replace")
def _replaced_settings() -> list[str]:
    loss = dataclasses.replace(losses.WARP(), trials=3, margin=0.5)
    hard = sampling.Hard()._replace(candidates=1)
    words: dict[str, Any] = {"factors": 3, "epochs": 2, "random_state": 0, "learning_rate": 0.01}
    with folder() as place:
        first = lfm_np.Checkpoint(place / "a")
        lfm_np.sgd(csr(X), loss, checkpoint=first, **words)
        lfm_np.sgd(csr(X), loss, checkpoint=first._replace(path=place / "b"), **words)
        files = sorted(os.listdir(place))
    bad = raised(lambda: lfm_np.sgd(csr(X), dataclasses.replace(losses.WARP(), margin=np.nan), **words))
    return wrong(
        warp=same(lfm_np.sgd(csr(X), loss, **words), lfm_np.sgd(csr(X), losses.WARP(0.5, 3), **words)),
        hard=same(lfm_np.sgd(csr(X), sampler=hard, **words), lfm_np.sgd(csr(X), sampler=sampling.Hard(1), **words)),
        files=files == ["a", "b"],
        bad=isinstance(bad, BAD) and tells(bad, "margin"),
    )


@program("lists in Parquet: a folder of that name, then a file, then a failure that leaves the file", "pyarrow")
def _lists_in_parquet() -> list[str]:
    import pyarrow.parquet as pq

    data = lfm_np.Interactions.from_arrays(*np.nonzero(~np.isnan(X)))
    fit = served()
    with folder() as place:
        (place / "lists").mkdir()
        error = raised(lambda: lfm_np.recommend_parquet(fit, data, place / "lists"))
        lfm_np.recommend_parquet(fit, data, place / "l", N=3, seen=data)
        raw = (place / "l").read_bytes()
        unknown = raised(lambda: lfm_np.recommend_parquet(fit, data, place / "l", users=[0, 77], N=3))
        table = pq.read_table(place / "l").to_pydict()
        mine = [[u, i] for u in range(30) for i in fit.recommend(u, N=3, seen=data).ids.tolist() if i >= 0]
        return wrong(
            folder=isinstance(error, (OSError, ValueError)) and tells(error, "lists"),
            unknown=isinstance(unknown, ValueError) and tells(unknown, "77"),
            left=(place / "l").read_bytes() == raw and sorted(os.listdir(place)) == ["l", "lists"],
            lists=[list(pair) for pair in zip(table["user"], table["item"], strict=True)] == mine and plain(fit, X),
        )


def cases() -> list[Case]:
    return program.found
