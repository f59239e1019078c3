"""The last examination: matrices on disk and model files, byte by byte."""

from __future__ import annotations

import copy
import hashlib
import json
import math
import os
import pickle
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

import lfm_np
from lfm_np.evaluation import most_popular

from .case import Case, Group
from .places import inside, parts
from .working_days import faultless, raised, same, tells, wrong

_GROUP = Group("the last examination, data")
_holds = faultless(_GROUP)


def _stored(folder: Path, side: str) -> Any:
    """One order of a stored matrix, read without the library."""
    return (np.load(folder / f"{side}.{part}.npy") for part in ("data", "indices", "indptr"))


def _on_disk(place: Path) -> list[str]:
    """2 and -2 in one cell are a zero, which counts as absent; most rows and columns are empty."""
    values, rows, columns = [2, -2, 1.5, 4, 0.25, -1, 0], [0, 0, 3, 3, 3, 5, 1], [0, 0, 256, 2, 256, 100, 7]
    X = sp.coo_array((np.array(values, np.float64), (rows, columns)), shape=(7, 257))
    stored = lfm_np.StoredMatrix.from_matrix(X, place / "m")
    full = np.zeros((7, 257))
    full[3, 256], full[3, 2], full[5, 100] = 1.75, 4, -1
    facts = {"nnz": stored.nnz == 3 and stored.shape == (7, 257) and stored.dtype == np.float32}
    for side, D in (("rows", full), ("columns", full.T)):
        data, indices, indptr = _stored(place / "m", side)
        facts[f"{side}_lengths"] = np.diff(indptr).tolist() == np.count_nonzero(D, axis=1).tolist() and indptr[0] == 0
        facts[f"{side}_indices"] = indices.tolist() == np.nonzero(D)[1].tolist()
        facts[f"{side}_data"] = data.dtype == np.float32 and data.tolist() == D[np.nonzero(D)].tolist()
    facts["manifest"] = [7, 257] in json.loads((place / "m" / "manifest.json").read_text()).values()
    facts["alone"] = not (place / "m.partial").exists()
    return wrong(**facts)


def _same_files(place: Path) -> list[str]:
    draw = np.random.default_rng(3)
    cells = draw.choice(300 * 200, 6000, replace=False)
    X = sp.csr_array((draw.normal(size=6000), (cells // 200, cells % 200)), shape=(300, 200))
    found = []
    for threads in (1, 2, 3):
        folder = place / f"by {threads}"
        lfm_np.StoredMatrix.from_matrix(X, folder, dtype="float64", num_threads=threads)
        found.append({path.name: path.read_bytes() for path in folder.iterdir()})
    data, indices, indptr = _stored(place / "by 2", "columns")
    return wrong(
        same=found[0] == found[1] == found[2],
        numbers=(sp.csr_array((data, indices, indptr), shape=(200, 300)).toarray() == X.toarray().T).all(),
        named={"manifest.json", "rows.data.npy", "rows.indices.npy", "rows.indptr.npy"} < set(found[0]),
    )


def _moved(place: Path) -> list[str]:
    """A copy under another name, opened from within; the items solve their normal equations."""
    draw = np.random.default_rng(5)
    D = np.where(draw.random((30, 12)) < 0.3, draw.integers(1, 6, (30, 12)), 0).astype(float)
    lfm_np.StoredMatrix.from_matrix(sp.csr_array(D), place / "m", dtype=np.float64)
    shutil.copytree(place / "m", place / "caf\u00e9 copy")
    shutil.rmtree(place / "m")
    before = os.getcwd()
    os.chdir(place)
    try:
        stored = lfm_np.StoredMatrix("caf\u00e9 copy", memory=64 << 20)
    finally:
        os.chdir(before)
    words: dict[str, Any] = {"factors": 3, "iterations": 4, "regularization": 0.5, "alpha": 2.0, "random_state": 1}
    fit = lfm_np.als(stored, dtype=np.float64, **words)
    U, V = fit.user_factors, fit.item_factors
    mine = []
    for x in D.T:
        c = 1 + 2 * x
        mine.append(np.linalg.solve((U.T * c) @ U + 0.5 * np.eye(3), U.T @ np.where(x > 0, c, 0)))
    here = lfm_np.als(sp.csr_array(D), dtype=np.float64, **words)
    return wrong(
        solved=abs(V - np.array(mine)).max() < 1e-9 * abs(V).max(),
        bits=np.array_equal(V, here.item_factors) and np.array_equal(U, here.user_factors),
    )


def _records_on_disk(place: Path) -> list[str]:
    """Values are eighths, so that sums are exact; the last is that of the file of the higher name."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    draw = np.random.default_rng(9)
    users = [f"user {'x' * int(u)}{u}" for u in draw.integers(0, 9, 160)]
    items = draw.integers(-4, 4, 160).tolist()
    values = [
        None if gone else float(v)
        for gone, v in zip(draw.random(160) < 0.2, draw.integers(1, 30, 160) / 8, strict=True)
    ]
    (place / "set").mkdir()
    for name, part in (("2", slice(70, 160)), ("10", slice(0, 70))):
        table = pa.table({"who": users[part], "what": items[part], "n": values[part]})
        pq.write_table(table, place / "set" / f"{name}.parquet", row_group_size=11)
    kept: dict[Any, list[float]] = {}
    for u, i, v in zip(users, items, values, strict=True):
        if v is not None:
            kept.setdefault((u, i), []).append(v)
    faults = []
    for how, combine in (
        ("sum", sum), ("last", lambda v: v[-1]), ("mean", lambda v: sum(v) / len(v)), ("max", max), ("count", len)
    ):  # fmt: skip
        stored = lfm_np.StoredMatrix.from_parquet(
            place / "set", place / how, user="who", item="what", value="n", duplicates=how, nulls="drop",
            memory=40 << 20,
        )  # fmt: skip
        data, indices, indptr = _stored(place / how, "rows")
        rows = np.repeat(np.arange(stored.shape[0]), np.diff(indptr))
        names, numbers = list(stored.users), [int(i) for i in stored.items]
        found = {(names[r], numbers[c]): float(x) for r, c, x in zip(rows, indices, data, strict=True)}
        if found != {c: float(np.float32(combine(v))) for c, v in kept.items()}:
            faults.append(how)
        if names != sorted({u for u, _ in kept}) or numbers != sorted({i for _, i in kept}):
            faults.append(f"ids of {how}")
    return faults


def _of_another(place: Path) -> list[str]:
    """A file that is whole, but of another matrix of the same shape."""
    X = sp.csr_array(np.array([[1.0, 0, 2], [0, 3, 0]]))
    for name, factor in (("a", 1.0), ("b", 10.0)):
        lfm_np.StoredMatrix.from_matrix(X * factor, place / name)
    own = (place / "a" / "rows.data.npy").read_bytes()
    shutil.copyfile(place / "b" / "rows.data.npy", place / "a" / "rows.data.npy")
    error = raised(lambda: lfm_np.StoredMatrix(place / "a"))
    (place / "a" / "rows.data.npy").write_bytes(own)
    return wrong(
        told=isinstance(error, ValueError) and tells(error, "rows"),
        again=lfm_np.StoredMatrix(place / "a").nnz == 3,
    )


def _kept_zeros(place: Path) -> list[str]:
    X = sp.csr_array((np.array([0.0, 1e-300, -2.5, 0.0, 0.1]), [0, 2, 1, 2, 0], [0, 2, 2, 4, 5]), shape=(4, 3))
    stored = lfm_np.StoredMatrix.from_matrix(X, place / "keep", zeros="keep", dtype="float64")
    lfm_np.StoredMatrix.from_matrix(X, place / "drop", dtype="float64")
    data, indices, indptr = _stored(place / "keep", "columns")
    twice = sp.coo_array(([1.0, 2.0], ([0, 0], [1, 1])), shape=(2, 2))
    error = raised(lambda: lfm_np.StoredMatrix.from_matrix(twice, place / "no", zeros="keep"))
    return wrong(
        nnz=stored.nnz == 5 and lfm_np.StoredMatrix(place / "drop").nnz == 3,
        data=data.dtype == np.float64 and data.tolist() == [0.0, 0.1, -2.5, 1e-300, 0.0],
        rest=indices.tolist() == [0, 3, 2, 0, 2] and indptr.tolist() == [0, 2, 3, 5],
        refused=isinstance(error, ValueError) and not list(place.glob("no*")),
    )


def _kept_in_history(place: Path) -> list[str]:
    record: dict[str, Any] = {
        "nan": math.nan, "far": [math.inf, -math.inf], "tiny": 5e-324, "zero": -0.0, "big": 2**200, "exact": 2**53 + 1,
        "words": {"\u03c0": 'na\u00efve \u2028 "x" \\ \U0001f600'}, "none": None, "yes": True, "one": 1.0,
        "pair": (1, (2, 3)),
    }  # fmt: skip
    one = np.ones((2, 1), np.float32)
    params = {"a": {"b": [1, 2.5, "x", None, False]}, "sha256": "0" * 64}
    model = lfm_np.Factors(one, one, history=[record, {"iteration": 2}], params=params, status=lfm_np.Status.CONVERGED)
    model.save(place / "m")
    again = lfm_np.Factors.load(place / "m")
    found = again.history[0]
    plain = ("tiny", "big", "exact", "none", "yes", "one")
    return wrong(
        nan=math.isnan(found["nan"]) and list(found["far"]) == [math.inf, -math.inf],
        zero=found["zero"] == 0 and math.copysign(1, found["zero"]) == -1,
        plain=all(found[name] == record[name] and type(found[name]) is type(record[name]) for name in plain),
        words=dict(found["words"]) == record["words"],
        pair=[found["pair"][0], list(found["pair"][1])] == [1, [2, 3]],
        second=again.history[1]["iteration"] == 2 and len(again.history) == 2,
        params=again.params["sha256"] == "0" * 64 and list(again.params["a"]["b"]) == [1, 2.5, "x", None, False],
        status=again.status is lfm_np.Status.CONVERGED,
    )


def _by_links(place: Path) -> list[str]:
    """A link in one folder to a link in another to a file in a third."""
    for name in ("a", "b", "c"):
        (place / name).mkdir()
    first, second = (lfm_np.Factors(np.full((2, 1), x), np.full((3, 1), x)) for x in (1.0, 2.0))
    first.save(place / "c" / "real")
    (place / "c" / "real").chmod(0o640)
    (place / "b" / "middle").symlink_to("../c/real")
    (place / "a" / "end").symlink_to(Path("..") / "b" / "middle")
    second.save(place / "a" / "end")
    return wrong(
        links=(place / "a" / "end").is_symlink() and (place / "b" / "middle").is_symlink(),
        file=not (place / "c" / "real").is_symlink() and (place / "c" / "real").stat().st_mode & 0o777 == 0o640,
        new=same(lfm_np.Factors.load(place / "c" / "real"), second),
        nothing_else=[sorted(os.listdir(place / name)) for name in "abc"] == [["end"], ["middle"], ["real"]],
    )


def _counts_in_a_file(place: Path) -> list[str]:
    """A model without factors has two tensors of no bytes, which can hardly be mapped."""
    X = sp.csr_array(np.array([[1.0, 0, 1, 1, 0], [0, 0, 1, 1, 0], [0, 1, 1, 0, 0]]))
    most_popular(X).save(place / "m")
    header, body = parts(place / "m")
    start, end = header["item_bias"]["data_offsets"]
    mapped = lfm_np.Factors.load(place / "m", mmap=True)
    ids, scores = mapped.recommend([0, 2], N=4, seen=X)
    return wrong(
        bytes=np.frombuffer(body[start:end]).tolist() == [1, 1, 3, 2, 0],
        shapes=header["user_factors"]["shape"] == [3, 0] and header["item_factors"]["shape"] == [5, 0],
        names=set(header) == {"__metadata__", "user_factors", "item_factors", "item_bias"},
        ids=ids.tolist() == [[1, 4, -1, -1], [3, 0, 4, -1]],
        scores=scores.tolist() == [[1, 0, -np.inf, -np.inf], [2, 1, 0, -np.inf]],
        read=same(lfm_np.Factors.load(place / "m"), mapped),
    )


def _seals(place: Path) -> list[str]:
    """Of models and of checkpoints: SHA-256 of the file with these 64 digits made zeros."""
    from safetensors.numpy import load_file

    X = lfm_np.to_csr(lfm_np.datasets.make_interactions(40, 12, 4, random_state=0), shape=(40, 12))
    words: dict[str, Any] = {"factors": 3, "random_state": 0, "num_threads": 1}
    fits = {
        "als": lfm_np.als(X, iterations=2, checkpoint=place / "als.state", **words),
        "sgd": lfm_np.sgd(X, epochs=2, checkpoint=place / "sgd.state", **words),
    }
    faults = []
    for name, fit in fits.items():
        fit.save(place / f"{name}.model")
        for kind in ("state", "model"):
            path = place / f"{name}.{kind}"
            raw = path.read_bytes()
            length = int.from_bytes(raw[:8], "little")
            digest = json.loads(raw[8 : 8 + length])["__metadata__"]["sha256"].encode()
            blank = raw.replace(digest, b"0" * 64)
            if raw.count(digest) != 1 or hashlib.sha256(blank).hexdigest().encode() != digest:
                faults.append(f"{name}.{kind}")
            if not load_file(path):
                faults.append(f"tensors of {name}.{kind}")
        if not np.array_equal(load_file(place / f"{name}.model")["item_factors"], fit.item_factors):
            faults.append(name)
    return faults


def _copies_of_mapped(place: Path) -> list[str]:
    """Copies of a mapped model live without its file."""
    draw = np.random.default_rng(3)
    U, V, b = draw.normal(size=(5, 3)), draw.normal(size=(4, 3)), draw.normal(size=4)
    lfm_np.Factors(U, V, item_bias=b, global_bias=0.1).save(place / "m")
    mapped = lfm_np.Factors.load(place / "m", mmap=True)
    two = [copy.deepcopy(mapped), pickle.loads(pickle.dumps(mapped))]
    del mapped
    (place / "m").unlink()
    return wrong(
        same=all(np.array_equal(t.user_factors, U) and np.array_equal(t.item_factors, V) for t in two),
        biases=all(np.array_equal(t.item_bias, b) and t.global_bias == 0.1 and t.user_bias is None for t in two),
        frozen=not any(t.item_factors.flags.writeable or t.item_bias.flags.writeable for t in two),
        score=all(abs(t.scores(1, 2) - (0.1 + b[2] + U[1] @ V[2])) < 1e-13 for t in two),
    )


def cases() -> list[Case]:
    return list(_cases())


def _inside(name: str, work: Callable[[Path], Any]) -> Case:
    return _holds(name, inside(work))


def _cases() -> Iterator[Case]:
    yield _inside("the files of a stored matrix", _on_disk)
    yield _inside("the files of a stored matrix by any number of threads", _same_files)
    yield _inside("a stored matrix that was copied and renamed", _moved)
    yield _inside("records stored in five ways", _records_on_disk)
    yield _inside("a file of another stored matrix", _of_another)
    yield _inside("stored zeros that are values", _kept_zeros)
    yield _inside("numbers and words of a history, in a file and back", _kept_in_history)
    yield _inside("a model saved by a link to a link", _by_links)
    yield _inside("a model of counts, in its file and mapped", _counts_in_a_file)
    yield _inside("seals of models and of checkpoints", _seals)
    yield _inside("copies of a mapped model without its file", _copies_of_mapped)
