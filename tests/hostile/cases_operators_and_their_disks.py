"""What operators keep on disks: models read by other means, links, quotas, modes of files, long names, descriptors."""

from __future__ import annotations

import gc
import hashlib
import json
import math
import os
import resource
import shutil
import struct
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

import lfm_np

from .case import Case, Group
from .cases_operators_at_their_tables import written
from .places import largest_file
from .working_days import (
    Model,
    all_scores,
    best,
    close,
    csr,
    dense,
    faultless,
    folder,
    raised,
    same,
    stars,
    start,
    wrong,
)

_GROUP = Group("operators")
_holds = faultless(_GROUP)
Of = lfm_np.Interactions
RATINGS = Model("ratings", lam=0.4, nu=1.0)


def _plain_reader() -> list[str]:
    """A model file taken apart by struct and json: no gaps, aligned, sealed, the numbers in their places."""
    draw = np.random.default_rng(2)
    arrays = {
        "user_factors": draw.normal(size=(5, 3)).astype(np.float32),
        "item_factors": draw.normal(size=(4, 3)).astype(np.float32),
        "item_bias": draw.normal(size=4).astype(np.float32),
    }
    model = lfm_np.Factors(
        **arrays, global_bias=-0.1, status=lfm_np.Status.STOPPED, params={"note": "Zoë ☃", "deep": [1, {"a": None}]},
        history=[{"iteration": 1, "objective": 1e-300, "seconds": 0.1 + 0.2}],
    )  # fmt: skip
    with folder() as place:
        model.save(place / "model")
        raw = (place / "model").read_bytes()
    (size,) = struct.unpack("<Q", raw[:8])
    header, body = json.loads(raw[8 : 8 + size].decode("utf-8")), raw[8 + size :]
    about = header.pop("__metadata__")
    told = json.loads(about["model"])
    spans = sorted(entry["data_offsets"] for entry in header.values())
    found = {
        name: np.frombuffer(body[slice(*entry["data_offsets"])], "<f4").reshape(entry["shape"])
        for name, entry in header.items()
    }
    blank = raw.replace(about["sha256"].encode(), b"0" * 64)
    return wrong(
        arrays=set(found) == set(arrays) and all(np.array_equal(found[name], arrays[name]) for name in arrays),
        types={entry["dtype"] for entry in header.values()} == {"F32"},
        gaps=[0, *(end for _, end in spans)] == [*(begin for begin, _ in spans), len(body)],
        aligned=(8 + size) % 8 == 0,
        sealed=hashlib.sha256(blank).hexdigest() == about["sha256"],
        about=(about["format"], about["version"]) == ("lfm_np.factors", "1"),
        told=told["global_bias"] == -0.1 and told["status"] == "stopped" and told["params"]["note"] == "Zoë ☃",
        history=told["history"] == [{"iteration": 1, "objective": 1e-300, "seconds": 0.1 + 0.2}],
    )


def _small(seed: int = 0, m: int = 30, n: int = 12) -> lfm_np.Factors:
    draw = np.random.default_rng(seed)
    return lfm_np.Factors(draw.normal(size=(m, 3)), draw.normal(size=(n, 3)))


def _ids(m: int = 30, n: int = 12) -> Any:
    X = np.where(np.random.default_rng(1).random((m, n)) < 0.4, 1.0, np.nan)
    X[0] = 1.0  # who has everything
    return Of(csr(X), np.array([f"u{u:03}" for u in range(m)]), 10 * np.arange(n))


def _fitted(path: Path) -> None:
    X = stars(12, 8)
    lfm_np.als(csr(X), factors=2, iterations=2, weighting="ratings", random_state=0, checkpoint=path)


WRITERS: dict[str, Callable[[Path], Any]] = {
    "save": lambda path: _small().save(path),
    "recommend_parquet": lambda path: lfm_np.recommend_parquet(_small(), _ids(), path, N=3),
    "checkpoint": _fitted,
}


def _mapped() -> list[str]:
    old, new = _small(1), _small(2)
    with folder() as place:
        path = place / "model"
        old.save(path)
        mapped = lfm_np.Factors.load(path, mmap=True)
        new.save(path)
        second = lfm_np.Factors.load(path, mmap=True)
        path.unlink()
        facts = {"first": same(mapped, old), "second": same(second, new)}
        scores = mapped.user_factors[:3].copy() @ mapped.item_factors.T
        ids = mapped.recommend([0, 1, 2], N=12).ids
    mine = [best(row, np.ones(12, bool), 12) for row in scores]
    return wrong(ids=ids.tolist() == mine, **facts)


def _snapshot(writer: str) -> list[str]:
    """A hard link, as backups make them, keeps the old bytes; the file gets others."""
    with folder() as place:
        path = place / "file"
        _small(9).save(path) if writer == "save" else path.write_bytes(b"PAR1 of yesterday")
        before = path.read_bytes()
        os.link(path, place / "backup")
        WRITERS[writer](path)
        names = sorted(entry.name for entry in place.iterdir())
        return wrong(
            backup=(place / "backup").read_bytes() == before,
            new=path.read_bytes() != before,
            left=names == ["backup", "file"],
        )


def _modes(writer: str) -> list[str]:
    found = {}
    with folder() as place:
        for mask, mode in ((0o022, 0o644), (0o027, 0o640), (0o002, 0o664)):
            before = os.umask(mask)
            try:
                WRITERS[writer](place / str(mask))
            finally:
                os.umask(before)
            found[oct(mask)] = (place / str(mask)).stat().st_mode & 0o777 == mode
    return wrong(**found)


def _longest_name(writer: str) -> list[str]:
    name = "ü" * 127 + "x"
    assert len(name.encode()) == 255
    with folder() as place:
        for _ in range(2):
            WRITERS[writer](place / name)
        return wrong(left=[entry.name for entry in place.iterdir()] == [name])


def _through_links() -> list[str]:
    old, new = _small(1), _small(2)
    with folder() as place:
        (place / "disk").mkdir()
        old.save(place / "disk" / "model")
        (place / "model").symlink_to("disk/model")
        (place / "dangling").symlink_to("disk/none")
        new.save(place / "model")
        new.save(place / "dangling")
        found = [same(lfm_np.Factors.load(place / name), new) for name in ("model", "dangling")]
        names = sorted(entry.name for entry in place.iterdir())
        rest = {entry.name for entry in (place / "disk").iterdir()}
    return wrong(
        new=all(found), left=names == ["dangling", "disk", "model"], there=rest in ({"model"}, {"model", "none"})
    )


def _quota_of_lists() -> list[str]:
    with folder() as place:
        path = place / "lists.parquet"
        path.write_bytes(b"of yesterday")
        lfm_np.recommend_parquet(_small(m=3000), _ids(3000), place / "large", N=9)
        size = (place / "large").stat().st_size
        (place / "large").unlink()
        with largest_file(size // 2):
            error = raised(lambda: lfm_np.recommend_parquet(_small(m=3000), _ids(3000), path, N=9))
        names = [entry.name for entry in place.iterdir()]
        return wrong(
            error=isinstance(error, OSError), old=path.read_bytes() == b"of yesterday", left=names == [path.name]
        )


def _quota_of_stored() -> list[str]:
    draw = np.random.default_rng(3)
    X = sp.random_array((2000, 300), density=0.05, rng=draw, format="csr", dtype=np.float32)
    with folder() as place:
        lfm_np.StoredMatrix.from_matrix(X, place / "m")
        shutil.rmtree(place / "m")
        with largest_file(40_000):
            error = raised(lambda: lfm_np.StoredMatrix.from_matrix(X, place / "m"))
        names = [entry.name for entry in place.iterdir()]
        again = lfm_np.StoredMatrix.from_matrix(X, place / "m")
        data = np.load(place / "m" / "rows.data.npy")
        facts = {"nnz": again.nnz == X.nnz, "data": np.array_equal(data, X.data)}
        after = [entry.name for entry in place.iterdir()]
    return wrong(error=isinstance(error, OSError), whole_or_not="m" not in names, left=after == ["m"], **facts)


def _quota_of_checkpoints() -> list[str]:
    """What a full quota breaks off goes on from the sweep before, to the scores of loops."""
    X, init = stars(40, 16, seed=6), start(40, 16, 3)
    U, V = RATINGS.sweeps(X, init[1], 4)
    words: dict[str, Any] = {**RATINGS.words, "factors": 3, "init": init, "dtype": "float64"}
    with folder() as place:
        path = place / "c"
        lfm_np.als(csr(X), iterations=2, checkpoint=path, **words)
        old = path.read_bytes()
        with largest_file(len(old) // 2):
            error = raised(lambda: lfm_np.als(csr(X), iterations=4, checkpoint=path, **words))
        facts = {"old": path.read_bytes() == old, "left": [entry.name for entry in place.iterdir()] == ["c"]}
        went: list[Any] = []
        fit = lfm_np.als(
            csr(X), iterations=4, checkpoint=path, callback=lambda record, factors: went.append(record), **words
        )
    return wrong(error=isinstance(error, OSError), scores=close(all_scores(fit), U @ V.T), went=len(went) == 2, **facts)


def _descriptors() -> list[str]:
    """A process that may open forty more files opens as many, and gives them back."""
    gc.collect()
    X = csr(stars(20, 9))
    with folder() as place:
        lfm_np.StoredMatrix.from_matrix(X, place / "m")
        _small().save(place / "model")
        source = written(place / "x.parquet", {"user": [1, 2], "item": [3, 4]})
        (place / "x.csv").write_text("user,item\n1,2\n")

        def once() -> None:
            lfm_np.als(lfm_np.StoredMatrix(place / "m"), factors=2, iterations=1, random_state=0)
            lfm_np.Factors.load(place / "model", mmap=True).recommend(0, N=2)
            Of.from_parquet(source)
            Of.from_csv(place / "x.csv")
            lfm_np.recommend_parquet(_small(), _ids(), place / "lists")

        once()
        gc.collect()
        before = len(os.listdir("/proc/self/fd"))
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (before + 40, limits[1]))
        try:
            for _ in range(8):
                once()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        gc.collect()
        after = len(os.listdir("/proc/self/fd"))
    return wrong(open=after <= before)


def _no_temporary_folder() -> list[str]:
    """Everything is written beside its target: there is no /tmp to be had."""
    found = {}
    with folder() as place:
        source = written(place / "x.parquet", {"user": [1, 2, 2], "item": [3, 4, 3]})
        before = tempfile.tempdir
        tempfile.tempdir = str(place / "none")
        try:
            for name, write in WRITERS.items():
                write(place / name)
                found[name] = (place / name).is_file()
            found["stored"] = lfm_np.StoredMatrix.from_parquet(source, place / "m").nnz == 3
        finally:
            tempfile.tempdir = before
        names = {entry.name for entry in place.iterdir()}
    return wrong(left=names == {*WRITERS, "x.parquet", "m"}, **found)


def _odd_history() -> list[str]:
    kept = [{"iteration": 1, "auc": math.nan, "best": math.inf, "ü": True, "list": [1, None, "x"]}]
    model = lfm_np.Factors(np.ones((1, 1)), np.ones((1, 1)), history=kept)
    with folder() as place:
        model.save(place / "model")
        (record,) = lfm_np.Factors.load(place / "model").history
    return wrong(
        nan=math.isnan(record["auc"]), inf=record["best"] == math.inf, true=record["ü"] is True,
        list=list(record["list"]) == [1, None, "x"],
    )  # fmt: skip


def _lists_on_disk() -> list[str]:
    """Some users, one of them twice and one who has everything, some items; ids of text and numbers; biases."""
    import pyarrow.parquet as pq

    draw = np.random.default_rng(12)
    m, n = 30, 12
    data = _ids(m, n)
    model = lfm_np.Factors(
        draw.normal(size=(m, 3)),
        draw.normal(size=(n, 3)),
        user_bias=draw.normal(size=m),
        item_bias=draw.normal(size=n),
        global_bias=3.5,
    )
    users, allowed, denied = [7, 0, 29, 7], [110, 0, 20, 70, 90, 100, 40], [20, 110]
    has = ~np.isnan(dense(data.matrix))
    S, mine = all_scores(model), []
    free = np.isin(data.items, allowed) & ~np.isin(data.items, denied)
    for user in users:
        row = [i for i in best(S[user], free & ~has[user], 4) if i >= 0]
        mine += [(f"u{user:03}", 10 * i, rank, S[user, i]) for rank, i in enumerate(row, 1)]
    with folder() as place:
        path = place / "lists"
        lfm_np.recommend_parquet(
            model, data, path, [f"u{user:03}" for user in users], N=4, seen=data, items=allowed, exclude=denied
        )
        table = pq.read_table(path)
    found = [table[name].to_pylist() for name in ("user", "item", "rank", "score")]
    return wrong(
        columns=set(table.column_names) == {"user", "item", "score", "rank"},
        rows=list(zip(*found[:3], strict=True)) == [row[:3] for row in mine],
        scores=close(found[3], [row[3] for row in mine], 1e-13),
    )


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    yield _holds("a model read by struct and json", _plain_reader)
    yield _holds("a mapped model that is replaced, and removed", _mapped)
    yield _holds("a model through links", _through_links)
    for writer in WRITERS:
        yield _holds(f"files have the mode of the process: {writer}", lambda w=writer: _modes(w))
        yield _holds(f"the longest name that a file may have: {writer}", lambda w=writer: _longest_name(w))
    for writer in ("save", "recommend_parquet"):
        yield _holds(f"a backup by hard link: {writer}", lambda w=writer: _snapshot(w))
    yield _holds("a quota that lists exceed", _quota_of_lists)
    yield _holds("a quota that a stored matrix exceeds", _quota_of_stored)
    yield _holds("a quota that a checkpoint exceeds", _quota_of_checkpoints)
    yield _holds("descriptors are given back", _descriptors)
    yield _holds("no temporary folder", _no_temporary_folder)
    yield _GROUP.either(
        "numbers that JSON has no word for", _odd_history, lambda found: found == [], "json|nan|history"
    )
    yield _holds("lists in Parquet, for some users and items", _lists_on_disk)
