"""Pairs, tables and stored matrices recounted in dictionaries; models resealed by an attacker."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

import lfm_np
from lfm_np import Factors, Interactions

from .case import Case, Group, installed
from .places import holding, inside

_group = Group("afresh, bytes and readers")
_refused, _either = _group.refused, _group.either
_right = holding(_group)


def clicks(m: int = 30, n: int = 12) -> sp.csr_array:
    rng = np.random.default_rng(2)
    return sp.csr_array(np.where(rng.random((m, n)) < 0.3, rng.integers(1, 5, (m, n)), 0).astype(np.float32))


# ---- pairs and tables -----------------------------------------------------------------------------------------------


def pairs_counted(duplicates: str) -> bool:
    rng = np.random.default_rng(3)
    pairs, values = rng.integers(0, 6, (80, 2)).astype(np.uint16), rng.normal(size=80) * 10
    cells: dict[tuple[int, int], list[float]] = {}
    for (i, j), x in zip(pairs.tolist(), values.tolist(), strict=True):
        cells.setdefault((i, j), []).append(x)
    of = {"sum": sum, "last": lambda v: v[-1], "mean": lambda v: sum(v) / len(v), "max": max, "count": len}[duplicates]
    dense = np.zeros((6, 9))
    for (i, j), found in cells.items():
        dense[i, j] = of(found)
    X = lfm_np.to_csr(pairs[::-1][::-1], shape=(6, 9), values=values, duplicates=duplicates)
    return bool(np.allclose(X.toarray(), dense, rtol=1e-6, atol=1e-6)) and X.nnz == len(cells)


def latest() -> bool:
    """The same pair at times of which one is unknown and two are equal, beyond what a float can hold."""
    when = np.array([2**53 + 1, 2**53, 2**53 + 1, 5])
    data = Interactions.from_arrays(["a"] * 4, [b"x"] * 4, [1.0, 2.0, 3.0, 4.0], when, duplicates="last")
    days = np.array(["2024-01-01", "NaT", "2023-01-01"], "datetime64[D]")
    other = Interactions.from_arrays([7, 7, 7], [1, 1, 1], [1.0, 2.0, 3.0], days, duplicates="last")
    return (
        data.matrix.data.tolist() == [3.0] and data.timestamps[0] == 2**53 + 1 and other.matrix.data.tolist() == [1.0]
    )


def csv_of(text: str, suffix: str = ".csv", **words: Any) -> Callable[[], Any]:
    def act(folder: Path) -> Any:
        path = folder / f"events{suffix}"
        data = text.encode()
        path.write_bytes(gzip.compress(data) if suffix.endswith(".gz") else data)
        return Interactions.from_csv(path, **words)

    return inside(act)


def as_dict(data: Interactions) -> dict[tuple[Any, Any], float]:
    M = sp.coo_array(data.matrix)
    names = zip(data.users[M.row].tolist(), data.items[M.col].tolist(), strict=True)
    return dict(zip(names, M.data.tolist(), strict=True))


def tables() -> Iterator[Case]:
    for duplicates in ("sum", "last", "mean", "max", "count"):
        yield _right(f"pairs of uint16, {duplicates}", lambda d=duplicates: pairs_counted(d))
    yield _right("the latest of equal, unknown and huge times", latest)
    yield _refused("pairs of fractions", lambda: lfm_np.to_csr(np.array([[0.0, 1.5]])), "pairs", "1.5|integer")
    yield _refused(
        "a value beyond float32", lambda: lfm_np.to_csr([(0, 1), (2, 1)], values=[1.0, 1e39]), "values", kind=ValueError
    )
    yield _refused(
        "a pair outside of the shape", lambda: lfm_np.to_csr([(0, 1), (5, 1)], shape=(5, 2)), "5", "shape|row"
    )
    yield _refused(
        "a repeated pair that should not be",
        lambda: lfm_np.to_csr([(3, 1), (3, 1)], duplicates="error"),
        "3",
        "1",
        kind=ValueError,
    )
    if not installed("pyarrow", "narwhals"):
        return
    yield _right(
        "CSV, semicolons, quotes and a comma in an id, windows line ends",
        csv_of('user;item;n\r\n"a,b";x;2\r\n"c;d";x;3\r\n"a,b";y;4\r\n', value="n", delimiter=";"),
        lambda d: as_dict(d) == {("a,b", "x"): 2, ("c;d", "x"): 3, ("a,b", "y"): 4},
    )
    yield _right(
        "CSV, compressed, with a byte order mark",
        csv_of("\ufeffuser,item\n1,2\n1,2\n3,4\n", ".csv.gz"),
        lambda d: as_dict(d) == {(1, 2): 2.0, (3, 4): 1.0},
    )
    yield _right(
        "CSV, zeros of text stay",
        csv_of("user,item\n007,1\n7,1\n", column_types={"user": "string"}),
        lambda d: as_dict(d) == {("007", 1): 1.0, ("7", 1): 1.0},
    )
    yield _right(
        "CSV, an id NA in quotes is an id",
        csv_of('user,item\n"NA",x\nbob,y\n'),
        lambda d: as_dict(d) == {("NA", "x"): 1.0, ("bob", "y"): 1.0},
    )
    yield _refused("CSV, an id NA without", csv_of("user,item\nNA,x\nbob,y\n"), "user", "1", kind=ValueError)
    yield _right(
        "CSV, nulls dropped",
        csv_of("user,item,n\nann,x,1\n,y,2\nbob,x,NaN\nbob,,4\n", value="n", nulls="drop"),
        lambda d: as_dict(d) == {("ann", "x"): 1.0},
    )
    yield _refused(
        "CSV, a line with a field too many", csv_of("user,item\n1,2\n1,2,3\n"), "2|3|column", kind=ValueError
    )
    yield _refused(
        "CSV, a column that is not there",
        csv_of("user,item\n1,2\n", value="stars"),
        "stars",
        kind=(ValueError, KeyError),
    )
    yield _refused(
        "CSV, a value that is no number",
        csv_of("user,item,n\n1,2,many\n", value="n"),
        "n",
        "number|numeric|string|type",
    )

    def partitioned(folder: Path) -> bool:
        import pyarrow as pa
        import pyarrow.parquet as pq

        (folder / "year=2023").mkdir(), (folder / "year=2024").mkdir()
        pq.write_table(
            pa.table({"user": pa.array([1, 2], pa.int8()), "item": ["a", "b"]}), folder / "year=2023" / "p.parquet"
        )
        pq.write_table(
            pa.table({"user": pa.array([2**40], pa.int64()), "item": ["a"]}), folder / "year=2024" / "p.parquet"
        )
        found = Interactions.from_parquet(folder, item="year")
        return as_dict(found) == {(1, 2023): 1.0, (2, 2023): 1.0, (2**40, 2024): 1.0}

    def truncated(folder: Path) -> Any:
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.table({"user": list(range(500)), "item": list(range(500))}), folder / "p.parquet")
        whole = (folder / "p.parquet").read_bytes()
        (folder / "p.parquet").write_bytes(whole[: len(whole) // 2])
        return Interactions.from_parquet(folder / "p.parquet")

    def stored_records(folder: Path) -> bool:
        import pyarrow as pa
        import pyarrow.parquet as pq

        rng = np.random.default_rng(5)
        users, items = rng.integers(0, 40, 600), rng.integers(0, 25, 600)
        frame = pa.table({"u": [f"ü{u}" for u in users], "i": items, "x": rng.integers(1, 4, 600)})
        pq.write_table(frame, folder / "r.parquet", row_group_size=37)
        words: dict[str, Any] = {"user": "u", "item": "i", "value": "x"}
        stored = lfm_np.StoredMatrix.from_parquet(folder / "r.parquet", folder / "m", memory=64 << 20, **words)
        data = Interactions.from_parquet(folder / "r.parquet", **words)
        fits = [lfm_np.als(X, factors=3, iterations=2, random_state=0) for X in (stored, data)]
        return (
            stored.users.tolist() == data.users.tolist()
            and stored.items.tolist() == data.items.tolist()
            and np.array_equal(fits[0].user_factors, fits[1].user_factors)
            and np.array_equal(fits[0].item_factors, fits[1].item_factors)
        )

    yield _right("Parquet, a folder's name as the item, users of two widths", inside(partitioned))
    yield _refused("Parquet, half a file", inside(truncated), "p.parquet", kind=(ValueError, OSError))
    yield _right("Parquet records on the disk fit as in memory", inside(stored_records))


# ---- models ---------------------------------------------------------------------------------------------------------


def reseal(path: Path, change: Callable[[dict[str, Any], bytearray], Any]) -> Path:
    """Change a file as someone who knows how it is sealed."""
    raw = path.read_bytes()
    size = int.from_bytes(raw[:8], "little")
    head, body = json.loads(raw[8 : 8 + size]), bytearray(raw[8 + size :])
    change(head, body)
    head["__metadata__"]["sha256"] = "0" * 64
    text = json.dumps(head, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    whole = len(text).to_bytes(8, "little") + text + bytes(body)
    path.write_bytes(whole.replace(b"0" * 64, hashlib.sha256(whole).hexdigest().encode(), 1))
    return path


def fitted() -> Factors:
    return lfm_np.als(clicks(), factors=4, iterations=2, random_state=0)


def of_model(change: Callable[[dict[str, Any], bytearray], Any], **words: Any) -> Callable[[], Any]:
    def act(folder: Path) -> Any:
        fitted().save(folder / "m.st")
        found = Factors.load(reseal(folder / "m.st", change), **words)
        return np.array(found.user_factors), np.array(found.item_factors), dict(found.params)

    return inside(act)


def meta(word: str, value: Any) -> Callable[[dict[str, Any], bytearray], Any]:
    """A change of the JSON inside the metadata."""

    def change(head: dict[str, Any], body: bytearray) -> None:
        inner = json.loads(head["__metadata__"]["model"])
        inner[word] = value
        head["__metadata__"]["model"] = json.dumps(inner)

    return change


def offsets(head: dict[str, Any], body: bytearray) -> None:
    """Both tensors from the same bytes."""
    head["item_factors"] = {
        **head["item_factors"],
        "shape": head["user_factors"]["shape"],
        "data_offsets": head["user_factors"]["data_offsets"],
    }


def huge(head: dict[str, Any], body: bytearray) -> None:
    head["item_factors"]["shape"] = [2**40, 4]
    begin = head["item_factors"]["data_offsets"][0]
    head["item_factors"]["data_offsets"] = [begin, begin + 2**44]


def not_a_number(head: dict[str, Any], body: bytearray) -> None:
    begin = head["item_factors"]["data_offsets"][0]
    body[begin : begin + 4] = np.float32(np.nan).tobytes()


def forged() -> Iterator[Case]:
    bad = (ValueError, OSError, MemoryError)
    yield _right(
        "a model resealed as it was",
        of_model(lambda h, b: None),
        lambda r: np.array_equal(r[0], fitted().user_factors) and r[2] == fitted().params,
    )
    yield _refused("two tensors of the same bytes", of_model(offsets), "m.st|item_factors|offset", kind=bad)
    yield _refused("items of 16 TiB", of_model(huge), "m.st|item_factors|offset", kind=bad)
    yield _refused("NaN among the items", of_model(not_a_number), "item_factors", "finite|nan", kind=bad)
    yield _refused("the same, mapped", of_model(not_a_number, mmap=True), "item_factors", "finite|nan", kind=bad)
    yield _refused("a status that there is not", of_model(meta("status", "optimal")), "status|optimal", kind=bad)
    yield _refused(
        "a global bias that is text", of_model(meta("global_bias", "1.5")), "global_bias", kind=(*bad, TypeError)
    )
    yield _refused("a word that no version writes", of_model(meta("on_load", "print(1)")), "keys", kind=bad)
    yield _refused(
        "a history that is no list", of_model(meta("history", {"iteration": 1})), "history", kind=(*bad, TypeError)
    )
    yield _refused(
        "a tensor for free",
        of_model(lambda h, b: h.update(extra={**h["item_factors"], "shape": [0, 4], "data_offsets": [0, 0]})),
        "extra",
        kind=bad,
    )
    yield _refused(
        "a model of version 2", of_model(lambda h, b: h["__metadata__"].update(version="2")), "version", "2", kind=bad
    )
    yield _refused(
        "items of integers",
        of_model(lambda h, b: h["item_factors"].update(dtype="I32")),
        "item_factors|dtype|i32",
        kind=bad,
    )


def cases() -> list[Case]:
    return [*tables(), *forged()]
