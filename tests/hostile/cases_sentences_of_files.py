"""Sentences about results and model files, read byte by byte."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

from .case import Case, Group
from .cases_sentences_of_lists import _table, _whole_numbers
from .sentences_by_numpy import lfm_np, ranked
from .working_days import faultless, folder, raised, same, tells, wrong

_GROUP = Group("sentence files")
_holds = faultless(_GROUP)
_refused = _GROUP.refused


def _arrays_of_a_result() -> list[str]:
    U, wide = np.ones((3, 2), np.float32), np.ones((4, 4), np.float32)
    factors = lfm_np.Factors(U, wide[:, ::2], history=[{"iteration": 1}], params={"a": (1, 2)})
    errors = [raised(partial(setattr, factors, name, U)) for name in ("user_factors", "status", "global_bias")]
    errors.append(raised(lambda: factors.user_factors.__setitem__((0, 0), 5.0)))
    return wrong(
        shared=np.shares_memory(factors.user_factors, U),
        copied=not np.shares_memory(factors.item_factors, wide),
        order=factors.item_factors.flags.c_contiguous,
        frozen=all(isinstance(e, (AttributeError, ValueError, TypeError)) for e in errors),
        history=list(factors.history) == [{"iteration": 1}],
        shape=factors.shape == (3, 4),
    )


def _bytes_of_a_model() -> list[str]:
    draw = np.random.default_rng(0)
    factors = lfm_np.Factors(
        draw.normal(size=(3, 2)),
        draw.normal(size=(4, 2)),
        user_bias=draw.normal(size=3),
        item_bias=draw.normal(size=4),
        global_bias=0.1,
        history=[{"iteration": 1, "objective": 0.1 + 0.2}],
        status=lfm_np.Status.STOPPED,
        params={"pair": (1, 2.5), "none": None, "text": "é\n"},
    )
    with folder() as place:
        factors.save(place / "model")
        names, raw = [p.name for p in place.iterdir()], (place / "model").read_bytes()
        again = lfm_np.Factors.load(place / "model")
    length = int.from_bytes(raw[:8], "little")
    header, body = json.loads(raw[8 : 8 + length]), raw[8 + length :]
    meta = header.pop("__metadata__")
    tensors = {
        name: np.frombuffer(body[slice(*entry["data_offsets"])], "<f8").reshape(entry["shape"])
        for name, entry in header.items()
    }
    model = json.loads(meta["model"])
    blank = raw.replace(meta["sha256"].encode(), b"0" * 64)
    return wrong(
        path=names == ["model"],
        names=set(tensors) == {"user_factors", "item_factors", "user_bias", "item_bias"},
        arrays=all(np.array_equal(array, getattr(factors, name)) for name, array in tensors.items()),
        kind=meta["format"] == "lfm_np.factors" and meta["version"] == "1",
        sum=hashlib.sha256(blank).hexdigest() == meta["sha256"],
        model=set(model) == {"global_bias", "status", "params", "history"} and model["global_bias"] == 0.1,
        history=again.history[0]["objective"] == 0.1 + 0.2 and again.status is lfm_np.Status.STOPPED,
        params=again.params == {"pair": [1, 2.5], "none": None, "text": "é\n"},
        bits=same(factors, again),
    )


def _every_byte() -> list[str]:
    """One bit of a byte is turned, at every fifth place of the file."""
    found = []
    with folder() as place:
        _whole_numbers().save(place / "m")
        raw = bytearray((place / "m").read_bytes())
        for at in range(0, len(raw), 5):
            raw[at] ^= 4
            (place / "n").write_bytes(raw)
            raw[at] ^= 4
            error = raised(lambda: lfm_np.Factors.load(place / "n"))
            found += [] if isinstance(error, ValueError) else [f"{at}: {error!r}"]
        (place / "n").write_bytes(raw[:-1])
        found += wrong(short=isinstance(raised(lambda: lfm_np.Factors.load(place / "n")), ValueError))
    return found


def _old_file_stays(place: Path, params: Any) -> BaseException:
    _whole_numbers().save(place / "m")
    before = (place / "m").read_bytes()
    error = raised(lambda: lfm_np.Factors(np.ones((1, 1)), np.ones((1, 1)), params=params).save(place / "m"))
    assert (place / "m").read_bytes() == before
    assert len(list(place.iterdir())) == 1
    return error


def _special_paths() -> list[str]:
    with folder() as place:
        os.mkfifo(place / "pipe")
        fifo = raised(lambda: _whole_numbers().save(place / "pipe"))
        no_folder = raised(lambda: _whole_numbers().save(place / "absent" / "m"))
        missing = raised(lambda: lfm_np.Factors.load(place / "absent"))
    device = raised(lambda: _whole_numbers().save("/dev/null"))
    return wrong(
        fifo=isinstance(fifo, ValueError), device=isinstance(device, ValueError), folder=isinstance(no_folder, OSError),
        missing=isinstance(missing, OSError),
    )  # fmt: skip


def _json_cannot() -> list[str]:
    with folder() as place:
        error = _old_file_stays(place, {"odd": {1, 2}})
    return wrong(kind=isinstance(error, TypeError), told=tells(error, "params|odd|json"))


def _as_frame() -> list[str]:
    factors = _whole_numbers(np.float64, m=4, n=6)
    S = _table(factors)
    X = sp.csr_array(np.array([[1.0, 1, 1, 1, 0, 1], [0, 0, 1, 0, 0, 0], [1, 0, 0, 0, 0, 1], [0, 1, 0, 1, 0, 0]]))
    data = lfm_np.Interactions(X, np.array(["d", "a", "c", "b"]), np.array([60, 10, 50, 20, 40, 30]))
    words: dict[str, Any] = {"N": 3, "seen": data, "exclude": [20, 20], "items": [60, 10, 50, 20, 40, 30]}
    mine = []
    for name in ("b", "d", "b"):
        u = data.users.tolist().index(name)
        for rank, i in enumerate(ranked(S[u], [i for i in range(6) if not X[u, i] and i != 3], 3), 1):
            mine += [{"user": name, "item": int(data.items[i]), "score": S[u, i], "rank": rank}] if i >= 0 else []
    table = lfm_np.recommend_frame(factors, data, ["b", "d", "b"], **words)
    everybody = lfm_np.recommend_frame(factors, data, N=1)
    with folder() as place:
        import pyarrow.parquet as pq

        lfm_np.recommend_parquet(factors, data, place / "f", ["b", "d", "b"], **words)
        written = pq.read_table(place / "f").to_pylist()
    unknown = raised(lambda: lfm_np.recommend_frame(factors, data, ["a", "zed"]))
    return wrong(
        rows=table.to_pylist() == mine,
        columns=table.column_names == ["user", "item", "score", "rank"],
        written=written == mine,
        order=everybody["user"].to_pylist() == ["d", "a", "c", "b"],
        short=sum(r["user"] == "d" for r in mine) == 1,
        unknown=isinstance(unknown, ValueError) and tells(unknown, "zed"),
    )


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    yield _holds("kept without a copy where C-contiguous, read-only", _arrays_of_a_result)
    yield _holds("bytes of a model file as they are described", _bytes_of_a_model)
    yield _holds("a checksum covers every byte", _every_byte)
    yield _holds("a FIFO or a device is a ValueError, no folder an OSError", _special_paths)
    yield _holds("what JSON cannot is a TypeError, and the old file stays", _json_cannot)
    yield _holds("a table of ids, users in the order asked, short where few are allowed", _as_frame)
