"""Model files: safetensors with a format version, JSON metadata and a checksum; written atomically, never unpickled.

A file holds the tensors ``user_factors``, ``item_factors`` and, where the model has them, ``user_bias`` and
``item_bias``, so that any safetensors reader can use it. Its metadata are strings:

* ``format``: "lfm_np.factors"; ``version``: "1".
* ``model``: JSON of ``global_bias``, ``status``, ``params`` and ``history``.
* ``sha256``: of the whole file, with these 64 digits themselves replaced by zeros.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import secrets
from collections.abc import Iterator
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

FORMAT, VERSION = "lfm_np.factors", "1"

_REQUIRED = {"user_factors", "item_factors"}
_OPTIONAL = {"user_bias", "item_bias"}
_DTYPES = {"F32": np.dtype("<f4"), "F64": np.dtype("<f8")}
_BLANK = "0" * 64
_DIGEST = re.compile(rb'"sha256":"([0-9a-f]{64})"')


@contextlib.contextmanager
def atomic(path: str | os.PathLike[str]) -> Iterator[str]:
    """Path of a file to write; on success it takes the place of ``path`` in one step, else it is removed.

    The file lies in the same folder, and both reach the disk before this returns: after a crash at any moment, ``path``
    is either the old file or the new one, whole.
    """
    target = os.fspath(path)
    folder, name = os.path.split(target)
    temporary = os.path.join(folder, f".{name}.{secrets.token_hex(8)}.tmp")
    with open(temporary, "xb"):
        pass  # a missing folder or a missing permission shows here, as an ordinary OSError
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, target)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
    if os.name != "nt":  # Windows cannot open folders
        descriptor = os.open(folder or ".", os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def save(path: str | os.PathLike[str], tensors: dict[str, np.ndarray | None], model: dict[str, Any]) -> None:
    """Write the tensors that are not None, and ``model`` as JSON."""
    try:
        text = json.dumps(model, default=_plain)
    except (TypeError, ValueError) as error:
        raise TypeError(f"params and history must hold what JSON can: {error}") from None
    metadata = {"format": FORMAT, "version": VERSION, "model": text, "sha256": _BLANK}
    with atomic(path) as temporary:
        try:
            save_file({name: array for name, array in tensors.items() if array is not None}, temporary, metadata)
        except SafetensorError as error:  # a full disk
            raise OSError(f"{os.fspath(path)} could not be written: {error}") from error
        with open(temporary, "r+b") as file:
            header = file.read(8 + int.from_bytes(file.read(8), "little"))
            (place,) = [found.start(1) for found in _DIGEST.finditer(header)]
            file.seek(0)
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            file.seek(8 + place)
            file.write(digest.encode())


def _plain(value: Any) -> Any:
    """NumPy scalars as Python's."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} is not JSON")


def load(path: str | os.PathLike[str], *, mmap: bool = False) -> dict[str, Any]:
    """What `save` wrote: tensors, ``global_bias``, ``status``, ``params`` and ``history``.

    Nothing is allocated before the header agrees with the size of the file, and nothing is returned before the checksum
    agrees with every byte of it.

    Raises
    ------
    OSError
        The file cannot be read.
    ValueError
        Anything is wrong with what it holds.
    """
    path = os.fspath(path)
    with open(path, "rb"):
        pass  # a missing file is not a damaged one
    try:
        tensors = _check_header(path)
        buffer: Any = np.memmap(path, np.uint8, mode="r") if mmap else np.fromfile(path, np.uint8)
        length = int.from_bytes(buffer[:8].tobytes(), "little")
        header = buffer[8 : 8 + length].tobytes()
        _check_digest(buffer, header)
        entries = json.loads(header)
        model = json.loads(entries["__metadata__"]["model"])
        values: dict[str, Any] = dict.fromkeys(_REQUIRED | _OPTIONAL)
        for name in tensors:
            first, last = (8 + length + offset for offset in entries[name]["data_offsets"])
            array = buffer[first:last].view(_DTYPES[entries[name]["dtype"]]).reshape(entries[name]["shape"])
            values[name] = np.require(array, requirements=["C", "A"])
        return values | {name: model[name] for name in ("global_bias", "status", "params", "history")}
    except (SafetensorError, ValueError, KeyError, TypeError, RecursionError, OverflowError, MemoryError) as error:
        raise ValueError(f"{path} is not a whole and valid model file: {error}") from None


def _check_header(path: str) -> set[str]:
    """Names of the tensors, after everything that the header says has been checked."""
    with safe_open(path, "numpy") as file:  # refuses offsets and sizes that do not fit the file
        metadata = file.metadata() or {}
        if metadata.get("format") != FORMAT:
            raise ValueError(f"its format is {metadata.get('format')!r}, not {FORMAT!r}")
        if metadata.get("version") != VERSION:
            raise ValueError(f"its version is {metadata.get('version')!r}, this library reads {VERSION!r}")
        if set(metadata) != {"format", "version", "model", "sha256"}:
            raise ValueError(f"its metadata are {sorted(metadata)}")
        names = set(file.keys())
        if not _REQUIRED <= names <= _REQUIRED | _OPTIONAL:
            raise ValueError(f"its tensors are {sorted(names)}")
        slices = {name: file.get_slice(name) for name in names}
        dtypes = {part.get_dtype() for part in slices.values()}
        if len(dtypes) != 1 or not dtypes <= set(_DTYPES):
            raise ValueError(f"its dtypes are {sorted(dtypes)}, not one of F32, F64")
        _check_shapes({name: tuple(part.get_shape()) for name, part in slices.items()})
    return names


def _check_shapes(shapes: dict[str, tuple[int, ...]]) -> None:
    user, item = shapes["user_factors"], shapes["item_factors"]
    good = len(user) == len(item) == 2 and user[1] == item[1]
    for name, rows in (("user_bias", user), ("item_bias", item)):
        good = good and shapes.get(name, rows[:1]) == rows[:1]
    if not good:
        raise ValueError(f"its shapes do not fit: {shapes}")


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
