"""A model on disk: the factors in a safetensors file, and beside it the interactions with their ids."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

from lfm_np.atomic import replacing
from lfm_np.cells import cells_of, matrix_of
from lfm_np.cli.sources import Columns, read
from lfm_np.cli.tables import cells
from lfm_np.factors import Factors
from lfm_np.ids import in_type, joined
from lfm_np.interactions import Interactions
from lfm_np.validation import shown
from lfm_np.validation.records import check_moment

KEY = "command_line"  # in the model's params: the columns, and which files of interactions are the model's


def beside(path: Path) -> Path:
    """The file of interactions that belongs to a model file, and to no other one: "m.SAFETENSORS" has its own."""
    upper = path.suffix != ".safetensors" and path.suffix.lower() == ".safetensors"
    return path.with_name(f"{path.name}.interactions.npz") if upper else path.with_suffix(".interactions.npz")


def save(path: Path, factors: Factors, data: Interactions, columns: Columns, held_out: Path | None = None) -> Factors:
    """Write the interactions, and the model, which names them, their ids and what was held out by checksum.

    What does not belong together is seen. An error leaves both files as they were.

    The file of interactions is a sparse matrix as scipy.sparse.save_npz writes it, with arrays ``users``, ``items`` and
    perhaps ``timestamps``.
    """
    matrix = data.matrix
    arrays: dict[str, Any] = {
        "format": np.array("csr".encode("ascii")),
        "shape": np.array(matrix.shape),
        "_is_array": np.array(True),
    }
    arrays |= {"data": matrix.data, "indices": matrix.indices, "indptr": matrix.indptr}
    arrays |= {"users": data.users, "items": data.items}
    if data.timestamps is not None:
        arrays["timestamps"] = data.timestamps
    ids = {"user": data.users, "item": data.items}
    columns = columns._replace(
        text=[side for side in ids if ids[side].dtype.kind == "U"],
        types={side: type for side in ids if (type := _type_in_csv(ids[side]))},
    )
    note = _note(factors) | {"columns": columns._asdict(), "ids": _digests_of_ids(data)}
    if held_out is not None:
        note["held_out"] = _digest(held_out)
    with replacing(beside(path)) as file:
        np.savez_compressed(file, **arrays)
        os.fsync(file.fileno())  # whatever may fail, does before either file is replaced
        file.seek(0)
        note["sha256"] = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
        factors = dataclasses.replace(factors, params=(factors.params or {}) | {KEY: note})
        factors.save(path)
    return factors


def _type_in_csv(ids: np.ndarray) -> str | None:
    """The type that a CSV file does not tell: floats may be whole there, and integers are taken for int64."""
    if ids.dtype.kind == "f":
        return "double"
    return "uint64" if ids.dtype.kind == "u" and len(ids) and ids.max() >= 2**63 else None


def load(path: Path, source: str | None = None) -> tuple[Factors, Interactions]:
    """A model and the interactions that it was fitted to: those beside it, or those of ``source``.

    Raises
    ------
    OSError, ValueError
        A file is missing or damaged, or the two do not belong together: the file beside the model is not the one that
        was written with it, or ``source`` has other users or items, or (where `save` wrote the model) in another order.
    """
    factors = Factors.load(path)
    if source is not None:
        data = read(source, columns_of(factors))
    elif beside(path).exists():
        if _note(factors).get("sha256") != _digest(beside(path)):
            raise ValueError(f"{beside(path)} does not belong to {path}: fit again, or give --data")
        data = read(str(beside(path)), Columns(nulls="keep"))
    else:
        raise ValueError(f"{path} has no {beside(path).name} beside it: give --data with what it was fitted to")
    if data.shape != factors.shape:
        raise ValueError(f"the data are {data.shape[0]} × {data.shape[1]}, the model is for {factors.shape}")
    if source is not None:
        noted = _note(factors).get("ids") or {}  # of a model from elsewhere nothing is known
        found = _digests_of_ids(data) if noted else {}
        if other := [side for side in noted if noted[side] != found.get(side)]:
            raise ValueError(f"{source} has other {' and '.join(other)} than {path} was fitted to, or in another order")
    return factors, data


def columns_of(factors: Factors, source: str | None = None) -> Columns:
    """The columns that the model was fitted from, or those to read ``source`` by.

    What `fit` held out has reached the threshold already, of which the file, without values or counts, may not know.
    """
    note = _note(factors)
    try:
        columns = Columns(**note.get("columns", {}))
    except TypeError:
        raise ValueError(
            f"the model's note of the columns it was fitted from is not one of this version: {shown(note['columns'])}"
        ) from None
    if source is None or columns.threshold is None or not Path(source).is_file():
        return columns
    return columns._replace(threshold=None, value=None) if note.get("held_out") == _digest(Path(source)) else columns


def _note(factors: Factors) -> dict[str, Any]:
    note = (factors.params or {}).get(KEY)
    return note if isinstance(note, dict) else {}


def align(data: Interactions, known: Interactions) -> tuple[sp.csr_array, int]:
    """The cells of ``data`` in the rows and columns of ``known``, and how many had a user or item that is not there."""
    coo = data.matrix.tocoo()
    rows, columns = known.rows_of(data.users, -1)[coo.row], known.columns_of(data.items, -1)[coo.col]
    both = (rows >= 0) & (columns >= 0)
    cells = (coo.data[both], (rows[both], columns[both]))
    return sp.csr_array(cells, shape=known.shape), int(len(both) - both.sum())


def extend(known: Interactions, more: Interactions, duplicates: str) -> tuple[Interactions, np.ndarray, int]:
    """``known`` with the cells of ``more``, new users last; which rows these change; how many had an unknown item.

    A cell of both is combined by ``duplicates``, as in `to_csr`, ``more`` being the later.
    """
    old, new, ids = known.matrix.tocoo(), more.matrix.tocoo(), more.users
    columns = known.columns_of(more.items, -1)[new.col]
    there = columns >= 0
    row_of = known.rows_of(ids, -1)
    strangers = np.unique(new.row[there & (row_of[new.row] < 0)])
    row_of[strangers] = len(known.users) + np.arange(len(strangers))
    rows, columns = row_of[new.row[there]], columns[there]
    times = None
    if known.timestamps is not None and more.timestamps is not None:
        if (known.timestamps.dtype.kind == "M") != (more.timestamps.dtype.kind == "M"):
            kinds = f"{more.timestamps.dtype}, those of the model {known.timestamps.dtype}"
            raise ValueError(f"the times of the new interactions are {kinds}")
        times = joined("the times", known.timestamps, more.timestamps[there])
    records = np.append(old.row, rows), np.append(old.col, columns)
    cells = cells_of(*records, np.append(old.data, new.data[there]), times, duplicates)
    found, fits = in_type(ids[strangers], known.users.dtype)  # NumPy makes floats of int64 and uint64 together
    users = joined("users", known.users, found if fits.all() else ids[strangers])
    whole = Interactions._own(matrix_of(cells, (len(users), len(known.items))), users, known.items, cells.timestamps)
    return whole, np.unique(rows), int(len(there) - there.sum())


def parse_ids(name: str, texts: list[str], known: np.ndarray) -> np.ndarray:
    """Ids of the kind of ``known`` from their text."""
    kind = known.dtype.kind
    try:
        if kind in "iuf" and any("_" in text for text in texts):  # Python reads past it, tables do not
            raise ValueError
        if kind == "b":  # NumPy takes any text for True
            return np.array([{"true": True, "false": False}[text.lower()] for text in texts])
        for text in texts if kind == "M" else ():
            check_moment(name, text, True)  # NumPy takes some for other times
        as_given = np.dtype({"U": "U", "M": "datetime64"}.get(kind, known.dtype))  # neither cut nor rounded
        return np.array(texts).astype(as_given)
    except (ValueError, OverflowError, KeyError):
        raise ValueError(f"{name} must be {known.dtype.name} like those of the model, got {texts}") from None


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digests_of_ids(data: Interactions) -> dict[str, str]:
    """Of their text, which is the same from every kind of file."""
    sides = {"users": data.users, "items": data.items}
    texts = {side: "\0".join(map(str, _texts(ids))) for side, ids in sides.items()}
    return {side: hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest() for side, text in texts.items()}


def _texts(ids: np.ndarray) -> list[Any]:
    """Of nanoseconds that are whole microseconds the text is that of microseconds."""
    if ids.dtype.kind == "M" and np.datetime_data(ids.dtype)[0] in ("ns", "ps", "fs", "as"):
        coarse = ids.astype("M8[us]")
        return coarse.tolist() if np.array_equal(coarse, ids) else cells(ids)
    return ids.tolist()


def facts(factors: Factors) -> dict[str, Any]:
    """What there is to say about a model."""
    (m, n), history = factors.shape, factors.history
    known: dict[str, Any] = {"users": m, "items": n, "factors": factors.user_factors.shape[1]}
    known |= {"dtype": str(factors.user_factors.dtype), "biases": factors.item_bias is not None}
    known |= {"status": str(factors.status), "sweeps": len(history)}
    if history:  # of a model from elsewhere it may hold anything
        known |= {name: history[-1][name] for name in ("objective", "sampled_loss") if name in history[-1]}
    if history and all("seconds" in record for record in history):
        known["seconds"] = round(sum(record["seconds"] for record in history), 3)
    return known | {k: v for k, v in (factors.params or {}).items() if k not in (KEY, *known)}
