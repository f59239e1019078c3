"""Files: safetensors with a format version, JSON metadata and a checksum; written atomically, never unpickled.

Any safetensors reader can use the tensors. The metadata are strings:

* ``format`` and ``version``: of a model file "lfm_np.factors" and "1".
* ``model``: JSON of everything that is no tensor; of a model file ``global_bias``, ``status``, ``params``, ``history``.
* ``sha256``: of the whole file, with these 64 digits themselves replaced by zeros.

A model file holds ``user_factors``, ``item_factors`` and, where the model has them, ``user_bias`` and ``item_bias``.

Written here and not by the safetensors library, which writes to a temporary file of its own (mode 0600, left behind by
a kill), reports a full disk without its errno, and would have to be read again for the checksum.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open

from lfm_np import paths
from lfm_np.atomic import open_regular, replacing
from lfm_np.mapped_files import mapped
from lfm_np.signals import pass_on

_DTYPES = {"F32": np.dtype("<f4"), "F64": np.dtype("<f8")}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_BLANK = "0" * 64
_DIGEST = re.compile(rb'"sha256":"([0-9a-f]{64})"')
_PIECE = 1 << 22  # bytes written at once

Shapes = dict[str, tuple[int, ...]]


class Format(NamedTuple):
    """What a kind of file holds."""

    name: str
    version: str
    noun: str  # for messages
    keys: frozenset[str]  # of ``model``
    check: Callable[[Shapes, set[str]], None]  # raises ValueError for tensors (shapes, dtypes) that such a file has not


def save(path: str | os.PathLike[str], kind: Format, tensors: dict[str, Any], model: dict[str, Any]) -> None:
    """Write the tensors that are not None, and ``model`` as JSON; `lfm_np.atomic` says what an error leaves."""
    arrays = {name: array for name, array in tensors.items() if array is not None}
    header = _header(kind, arrays, model)
    digest = hashlib.sha256()
    with replacing(path) as file:
        for piece in _pieces(header, arrays):
            digest.update(piece)
            file.write(piece)
        (place,) = _DIGEST.finditer(header)
        file.seek(8 + place.start(1))
        file.write(digest.hexdigest().encode())


def _header(kind: Format, arrays: dict[str, np.ndarray], model: dict[str, Any]) -> bytes:
    text = _text(model)
    metadata = {"format": kind.name, "version": kind.version, "model": text, "sha256": _BLANK}
    entries: dict[str, Any] = {"__metadata__": metadata}
    stop = 0
    for name, array in arrays.items():
        start, stop = stop, stop + array.nbytes
        dtype = _NAMES[array.dtype.newbyteorder("<")]
        entries[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [start, stop]}
    header = json.dumps(entries, separators=(",", ":")).encode()
    return header + b" " * (-len(header) % 8)  # so that the tensors are aligned


def _pieces(header: bytes, arrays: dict[str, np.ndarray]) -> Iterator[Any]:
    """The bytes of the file, arrays in blocks of rows: one need not be contiguous, and is not copied whole."""
    yield len(header).to_bytes(8, "little")
    yield header
    for array in arrays.values():
        step = max(1, _PIECE * len(array) // max(array.nbytes, 1))
        for lo in range(0, len(array), step):
            rows = np.ascontiguousarray(array[lo : lo + step], array.dtype.newbyteorder("<"))
            yield rows.reshape(-1).view(np.uint8)


def plain(model: dict[str, Any]) -> dict[str, Any]:
    """``model`` as it comes back from a file."""
    return json.loads(_text(model))


def _text(model: dict[str, Any]) -> str:
    try:
        text = json.dumps(model, default=_python_scalar)
        _check_keys(model)  # which dumps makes into text
        return text
    except (TypeError, ValueError, RecursionError) as error:
        pass_on(error)
        raise TypeError(f"params and history must hold what JSON can: {error}") from None


def _python_scalar(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} is not JSON")


def _check_keys(value: Any) -> None:
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise TypeError(f"the key {key!r} is not text")
            _check_keys(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            _check_keys(item)


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON, of which other readers may take the first or the last of equal keys."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError(f"a key stands twice among {sorted(key for key, _ in pairs)}")
    return found


def load(path: str | os.PathLike[str], kind: Format, *, mmap: bool = False) -> tuple[dict[str, Any], dict[str, Any]]:
    """The tensors and the model that `save` wrote.

    Nothing is allocated before the header agrees with the size of the file, and nothing is returned before the checksum
    agrees with every byte of it. All of it is read through one descriptor: the file may be replaced meanwhile.

    Raises
    ------
    OSError
        The file cannot be read.
    ValueError
        It is no regular file, or anything is wrong with what it holds.
    """
    name = os.fsdecode(path)
    with open_regular(name) as file:
        try:
            names = _check_header(_reopenable(name, file), kind)
            buffer = _mapped(file) if mmap else _read(file)
            header = buffer[8 : 8 + int.from_bytes(buffer[:8].tobytes(), "little")].tobytes()
            _check_digest(buffer, header)
            entries = json.loads(header, object_pairs_hook=_distinct)
            model = json.loads(entries["__metadata__"]["model"], object_pairs_hook=_distinct)
            if not isinstance(model, dict) or set(model) != kind.keys:
                raise ValueError(f"its model must have the keys {', '.join(sorted(kind.keys))}")
            return {name: _tensor(buffer, len(header), entries[name]) for name in names}, model
        except (SafetensorError, ValueError, KeyError, TypeError, RecursionError, OverflowError) as error:
            pass_on(error)
            raise invalid(name, kind, error) from None
        except MemoryError as error:  # which says nothing about the file
            raise MemoryError(f"{name} cannot be read: {error}") from None


def _mapped(file: BinaryIO) -> np.ndarray:
    return mapped(file, (os.fstat(file.fileno()).st_size,), np.uint8)


def _read(file: BinaryIO) -> np.ndarray:
    """All of a file. `numpy.fromfile` may make a TypeError of what a signal's handler raises."""
    buffer = np.empty(os.fstat(file.fileno()).st_size, np.uint8)
    file.readinto(buffer)  # type: ignore[attr-defined]
    return buffer


def invalid(path: str | os.PathLike[str], kind: Format, error: Exception) -> ValueError:
    """The one sentence for every file that is refused for what it holds."""
    return ValueError(f"{os.fsdecode(path)} is not a whole and valid {kind.noun}: {error}")


def _reopenable(path: str, file: BinaryIO) -> str:
    """A name for the very file that is open, where the system has one."""
    name = f"/dev/fd/{file.fileno()}"
    return name if paths.exists(name) else path


def _tensor(buffer: Any, header: int, entry: dict[str, Any]) -> np.ndarray:
    first, last = (8 + header + offset for offset in entry["data_offsets"])
    array = buffer[first:last].view(_DTYPES[entry["dtype"]]).reshape(entry["shape"])
    return np.require(array, requirements=["C", "A"])


def _check_header(path: str, kind: Format) -> set[str]:
    """Names of the tensors, after everything that the header says has been checked."""
    with safe_open(path, "numpy") as file:  # refuses offsets and sizes that do not fit the file
        metadata = file.metadata() or {}
        if metadata.get("format") != kind.name:
            raise ValueError(f"its format is {metadata.get('format')!r}, not {kind.name!r}")
        if metadata.get("version") != kind.version:
            raise ValueError(f"its version is {metadata.get('version')!r}, this library reads {kind.version!r}")
        if set(metadata) != {"format", "version", "model", "sha256"}:
            raise ValueError(f"its metadata are {sorted(metadata)}")
        names = set(file.keys())
        slices = {name: file.get_slice(name) for name in names}
        dtypes = {part.get_dtype() for part in slices.values()}
        if not dtypes <= set(_DTYPES):
            raise ValueError(f"its dtypes are {sorted(dtypes)}, not F32 or F64")
        kind.check({name: tuple(part.get_shape()) for name, part in slices.items()}, dtypes)
    return names


def _check_digest(buffer: Any, header: bytes) -> None:
    places = list(_DIGEST.finditer(header))
    if len(places) != 1:
        raise ValueError("its header must have one sha256")
    start, end = places[0].span(1)
    digest = hashlib.sha256(buffer[:8])
    digest.update(header[:start] + _BLANK.encode() + header[end:])
    digest.update(memoryview(buffer[8 + len(header) :]))
    if digest.hexdigest().encode() != places[0].group(1):
        raise ValueError("its checksum does not match: it was changed or damaged after it was saved")


# ---- model files ----------------------------------------------------------------------------------------------------


def _check_factors(shapes: Shapes, dtypes: set[str]) -> None:
    required, optional = {"user_factors", "item_factors"}, {"user_bias", "item_bias"}
    if not required <= set(shapes) <= required | optional:
        raise ValueError(f"its tensors are {sorted(shapes)}")
    if len(dtypes) != 1:
        raise ValueError(f"its dtypes are {sorted(dtypes)}, not one of F32, F64")
    user, item = shapes["user_factors"], shapes["item_factors"]
    good = len(user) == len(item) == 2 and user[1] == item[1]
    for name, rows in (("user_bias", user), ("item_bias", item)):
        good = good and shapes.get(name, rows[:1]) == rows[:1]
    if not good:
        raise ValueError(f"its shapes do not fit: {shapes}")


_MODEL = frozenset({"global_bias", "status", "params", "history"})
FACTORS = Format("lfm_np.factors", "1", "model file", _MODEL, _check_factors)
