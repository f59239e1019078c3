"""Model files, checkpoints and stored matrices whose checksums an attacker has made right again, in a day's work."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

import lfm_np

from .case import Case, Group
from .working_days import csr, faultless, folder, raised, resealed, same, seal, stars, tells, wrong

_GROUP = Group("day under attack")
_day = faultless(_GROUP)
Change = Callable[[dict[str, Any], dict[str, Any], bytearray], None]


def _fit(n: int = 2, **words: Any) -> Any:
    return lfm_np.als(csr(stars(), np.float32), factors=4, iterations=n, random_state=0, **words)


def _resealed_alike() -> list[str]:
    """The tool of this module: what it does not change is loaded."""
    fit = _fit()
    with folder() as place:
        fit.save(place / "model")
        resealed(place / "model", lambda header, model, body: None)
        first = lfm_np.Factors.load(place / "model")
        _fit(2, checkpoint=place / "night")
        resealed(place / "night", lambda header, model, body: None)
        on = _fit(4, checkpoint=place / "night")
    return wrong(model=same(first, fit), night=same(on, _fit(4)))


def _refused(name: str, change: Change, checkpoint: bool = False) -> Case:
    def call() -> list[str]:
        with folder() as place:
            path = place / "forged"
            if checkpoint:
                _fit(2, checkpoint=path)
            else:
                _fit().save(path)
            resealed(path, change)
            before = path.read_bytes()
            error = raised(lambda: _fit(4, checkpoint=path) if checkpoint else lfm_np.Factors.load(path))
            kept = path.read_bytes() == before
        found = wrong(kind=isinstance(error, (ValueError, TypeError)), told=tells(error, "forged"), kept=kept)
        return found + ([repr(error)] if found else [])

    return _day(f"{'checkpoint' if checkpoint else 'model'}: {name}", call)


def _put_nan(header: dict[str, Any], model: dict[str, Any], body: bytearray) -> None:
    at = header["item_factors"]["data_offsets"][0] if "item_factors" in header else 0
    body[at : at + 4] = np.float32(np.nan).tobytes()


def _petabytes(header: dict[str, Any], model: dict[str, Any], body: bytearray) -> None:
    header["user_factors"] |= {"shape": [2**45, 4], "data_offsets": [0, 2**49]}


def _negative_shape(header: dict[str, Any], model: dict[str, Any], body: bytearray) -> None:
    header["user_factors"]["shape"] = [-30, -4]


def _swapped(header: dict[str, Any], model: dict[str, Any], body: bytearray) -> None:
    header["user_factors"]["shape"] = [60, 2]


def _overlapping(header: dict[str, Any], model: dict[str, Any], body: bytearray) -> None:
    begin = header["user_factors"]["data_offsets"][0]
    header["item_factors"]["data_offsets"] = [begin, begin + 20 * 4 * 4]


def _half_floats(header: dict[str, Any], model: dict[str, Any], body: bytearray) -> None:
    for name in ("user_factors", "item_factors"):
        header[name]["dtype"] = "F16"
        header[name]["shape"][1] *= 2


def _extra_tensor(header: dict[str, Any], model: dict[str, Any], body: bytearray) -> None:
    header["payload"] = {"dtype": "U8", "shape": [8], "data_offsets": [len(body), len(body) + 8]}
    body += b"\x80\x04cos\nsy"


def _status(header: dict[str, Any], model: dict[str, Any], body: bytearray) -> None:
    model["status"] = "__import__('os').abort()"


def _newer(header: dict[str, Any], model: dict[str, Any], body: bytearray) -> None:
    header["__metadata__"]["version"] = "2"


def _extra_key(header: dict[str, Any], model: dict[str, Any], body: bytearray) -> None:
    model["__reduce__"] = ["os.system", "true"]


def _bias_infinite(header: dict[str, Any], model: dict[str, Any], body: bytearray) -> None:
    model["global_bias"] = float("inf")


def _history_of_text(header: dict[str, Any], model: dict[str, Any], body: bytearray) -> None:
    model["history"] = "none"


def _deep_history() -> list[str]:
    """JSON a hundred thousand brackets deep."""
    with folder() as place:
        path = place / "forged"
        _fit().save(path)
        raw = path.read_bytes()
        size = int.from_bytes(raw[:8], "little")
        header = json.loads(raw[8 : 8 + size])
        header["__metadata__"]["model"] = "[" * 100_000 + "]" * 100_000
        seal(path, header, raw[8 + size :])
        error = raised(lambda: lfm_np.Factors.load(path))
    return wrong(kind=isinstance(error, ValueError), told=tells(error, "forged"))


def _fit_parameters_of_a_forger() -> list[str]:
    """Valid as a file: what fold_in takes from params must still be checked."""
    with folder() as place:
        _fit().save(place / "forged")

        def change(header: dict[str, Any], model: dict[str, Any], body: bytearray) -> None:
            model["params"]["regularization"] = -1.0
            model["params"]["weighting"] = "ials"

        resealed(place / "forged", change)
        try:
            model = lfm_np.Factors.load(place / "forged")
        except ValueError as error:
            return wrong(told=tells(error, "forged"))
        error = raised(lambda: model.fold_in_users(csr(stars(2, 20), np.float32)))
    return wrong(kind=isinstance(error, (TypeError, ValueError)), told=tells(error, "regularization"))


class _Bomb:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


def _pickles() -> list[str]:
    found = []
    with folder() as place:
        mark = place / "exploded"
        bomb = pickle.dumps(_Bomb(mark))
        (place / "bomb").write_bytes(bomb)
        X = csr(stars(), np.float32)
        lfm_np.StoredMatrix.from_matrix(X, place / "stored")
        (place / "stored" / "rows.indices.npy").write_bytes(bomb)
        reads: dict[str, Callable[[], Any]] = {
            "model": lambda: lfm_np.Factors.load(place / "bomb"),
            "mapped": lambda: lfm_np.Factors.load(place / "bomb", mmap=True),
            "checkpoint": lambda: lfm_np.als(X, checkpoint=place / "bomb"),
            "stored": lambda: lfm_np.StoredMatrix(place / "stored"),
        }
        for name, read in reads.items():
            error = raised(read)
            found += wrong(**{name: isinstance(error, ValueError) and tells(error, "bomb|rows.indices")})
        found += wrong(safe=not mark.exists())
    return found


def _stored(change: Callable[[Path], None]) -> list[str]:
    X = csr(stars(), np.float32)
    with folder() as place:
        lfm_np.StoredMatrix.from_matrix(X, place / "stored")
        change(place / "stored")
        error = raised(lambda: lfm_np.als(lfm_np.StoredMatrix(place / "stored"), factors=2))
    found = wrong(kind=isinstance(error, (ValueError, OSError)), told=tells(error, "stored"))
    return found + ([repr(error)] if found else [])


def _flip(place: Path) -> None:
    raw = bytearray((place / "columns.indices.npy").read_bytes())
    raw[-1] ^= 0x40
    (place / "columns.indices.npy").write_bytes(raw)


def _manifest(place: Path) -> None:
    text = (place / "manifest.json").read_text()
    (place / "manifest.json").write_text(text.replace("30", "2147483646", 1))


def _without(place: Path) -> None:
    (place / "rows.data.npy").unlink()


def _linked(place: Path) -> None:
    (place / "rows.data.npy").unlink()
    (place / "rows.data.npy").symlink_to("/dev/zero")


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    yield _day("resealed without a change is loaded and gone on with", _resealed_alike)
    for name, change in {
        "NaN among the factors": _put_nan,
        "petabytes of users": _petabytes,
        "negative shapes whose product fits": _negative_shape,
        "users of another width": _swapped,
        "items that lie over the users": _overlapping,
        "half floats": _half_floats,
        "one more tensor": _extra_tensor,
        "a status that is code": _status,
        "a newer version": _newer,
        "a key too many": _extra_key,
        "an infinite constant": _bias_infinite,
        "a history that is text": _history_of_text,
    }.items():
        yield _refused(name, change)
    for name, change in {
        "a newer version": _newer,
        "one more tensor": _extra_tensor,
        "a history that is text": _history_of_text,
        "a key too many": _extra_key,
    }.items():
        yield _refused(name, change, checkpoint=True)
    yield _refused(
        "a tensor longer than the file", lambda h, m, b: b.__delitem__(slice(len(b) // 2, None)), checkpoint=True
    )
    yield _day("JSON of a hundred thousand brackets", _deep_history)
    yield _day("params that no fit has", _fit_parameters_of_a_forger)
    yield _day("pickles in place of everything", _pickles)
    for name, change in {
        "flipped": _flip,
        "of two billion rows": _manifest,
        "without values": _without,
        "of /dev/zero": _linked,
    }.items():
        yield _day(f"stored matrix {name}", lambda c=change: _stored(c))
