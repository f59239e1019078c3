"""Pairs, arrays, CSV, Parquet and stored matrices, beside dictionaries of the same records; splits beside loops."""

from __future__ import annotations

import collections
import contextlib
import decimal
import gzip
import json
import os
import pathlib
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import scipy.sparse as sp

import lfm_np
from lfm_np import Interactions

from .case import Case, installed
from .least_squares import BAD, Heading

_of = Heading("records by dictionaries")


def inside(work: Callable[[pathlib.Path], Any]) -> Callable[[], Any]:
    """``work`` with a folder of its own."""

    def call() -> Any:
        with tempfile.TemporaryDirectory() as folder:
            return work(pathlib.Path(folder))

    return call


COMBINE: dict[str, Callable[[list[float]], float]] = {
    "sum": sum,
    "last": lambda values: values[-1],
    "mean": lambda values: sum(values) / len(values),
    "max": max,
    "count": len,
}


def table_of(data: Any) -> dict[Any, float]:
    """Cells by their ids."""
    coo = data.matrix.tocoo()
    users, items = data.users.tolist(), data.items.tolist()
    return {(users[i], items[j]): float(x) for i, j, x in zip(coo.row, coo.col, coo.data)}


def counted(pairs: Any) -> dict[Any, float]:
    return {pair: float(count) for pair, count in collections.Counter(pairs).items()}


def numbers() -> Iterator[Case]:
    for how, combine in COMBINE.items():

        def true(X: Any, pairs: Any, values: Any, combine: Any = combine) -> bool:
            cells = collections.defaultdict(list)
            for (i, j), x in zip(pairs.tolist(), values):
                cells[i, j].append(float(x))
            expected = {pair: np.float32(combine(found)) for pair, found in cells.items()}
            coo = X.tocoo()
            return X.has_sorted_indices and dict(zip(zip(coo.row.tolist(), coo.col.tolist()), coo.data)) == expected

        yield _of.right(
            f"to_csr, {how}, of values that float32 cannot add",
            lambda pairs, values, how=how: lfm_np.to_csr(pairs, shape=(9, 300), values=values, duplicates=how),
            true,
            lambda: {
                "pairs": np.random.default_rng(0).integers(0, 4, (60, 2)).astype(np.uint8),
                "values": np.tile([16777216, 1, 1, -3, 0, 1], 10).astype(object).tolist(),
            },
        )
    yield _of.right(
        "to_csr of no pairs",
        lambda: lfm_np.to_csr([], shape=(3, 4)),
        lambda X: X.shape == (3, 4) and X.nnz == 0,
    )
    for name, pairs, words, said in (
        ("a pair outside", [(0, 5)], {"shape": (1, 5)}, ("shape|5",)),
        ("a negative row", [(-1, 0)], {}, ("pairs|negative|-1",)),
        ("half a column", [(0, 0.5)], {}, ("pairs",)),
        ("triples", [(0, 1, 2)], {}, ("pairs", "2")),
        ("rows beyond 2^31", [(2**31, 0)], {}, ("2147483648|2³¹|2147483647|2^31|2147483646|pairs",)),
        ("a sum that leaves float32", [(0, 0), (0, 0)], {"values": [3e38, 3e38]}, ("values|value|sum",)),
        ("too few values", [(0, 0), (0, 1)], {"values": [1.0]}, ("values",)),
        ("a NaN", [(0, 0)], {"values": [np.nan]}, ("values",)),
        ("a pair twice, as an error", [(2, 1), (2, 1)], {"duplicates": "error"}, ("2", "1")),
        ("duplicates='first'", [(2, 1)], {"duplicates": "first"}, ("duplicates", "first")),
    ):
        yield _of.refused(f"to_csr of {name}", lambda p=pairs, w=words: lfm_np.to_csr(p, **w), *said)


def ids() -> Iterator[Case]:
    kinds: dict[str, Any] = {
        "integers that floats take for one": np.array([2**63, 2**63 + 1, 2**63, 1], np.uint64),
        "composed and decomposed letters": ["\u00e9", "e\u0301", "\u00e9", "E"],
        "text with NULs at its end": ["a", "a\0", "a", "b"],
        "days": np.array(["2024-02-29", "1900-01-01", "2024-02-29", "2200-01-01"], "datetime64[D]"),
        "integers of more than 64 bits": [10**30, 10**30 + 1, 10**30, 7],
        "empty text": ["", " ", "", "x"],
        "bytes that are no text": [b"\xff\xfe", b"\xff", b"\xff\xfe", b""],
    }
    for name, users in kinds.items():
        yield _of.right(
            f"ids that are {name}",
            lambda users=users: Interactions.from_arrays(users, [1, 1, 1, 2]),
            lambda data, users=users: (
                (lambda u: table_of(data) == counted([(u[0], 1), (u[1], 1), (u[2], 1), (u[3], 2)]))(
                    users.tolist() if isinstance(users, np.ndarray) else users
                )
                and data.rows_of(users).tolist() == [sorted(set(users)).index(u) for u in users]
            ),
        )
    for name, users in {
        "a None": ["a", None],
        "NaN": [1.0, np.nan],
        "text and numbers": ["1", 1],
        "NaT": np.array(["NaT"] * 2, "M8[s]"),
        "lists": [[1], [2]],
    }.items():
        yield _of.either(
            f"ids with {name}",
            lambda users=users: Interactions.from_arrays(users, [1, 2]),
            lambda data, name=name: name == "text and numbers" and len(data.users) == 2,
            "users|ids",
        )
    yield _of.right(
        "the latest counts, whatever the order, and unknown times are the earliest",
        lambda: Interactions.from_arrays(
            ["a"] * 5 + ["b"] * 2,
            ["x"] * 5 + ["x"] * 2,
            [1, 2, 3, 4, 5, 6, 7],
            np.array(["2024-03-01", "2024-05-01", "2024-05-01", "NaT", "2023-01-01", "NaT", "NaT"], "M8[D]"),
            duplicates="last",
        ),
        lambda data: (
            table_of(data) == {("a", "x"): 3.0, ("b", "x"): 7.0}
            and str(data.timestamps[0]) == "2024-05-01"
            and np.isnat(data.timestamps[1])
        ),
    )
    yield _of.refused(
        "the times of a matrix that is not sorted",
        lambda: Interactions(
            sp.csr_array((np.array([5.0, 6.0, 7.0]), np.array([2, 0, 1]), np.array([0, 2, 3])), (2, 3)),
            ["a", "b"],
            [1, 2, 3],
            timestamps=[50, 60, 70],
        ),
        "timestamps",
        "canonical",
    )
    data = lambda: Interactions.from_arrays(["a", "b", "a"], [1, 2, 3], [1.0, np.nan, 5.0])  # noqa: E731
    yield _of.right(
        "binarize(3) leaves out what is unknown or less",
        lambda: table_of(data().binarize(3)),
        lambda t: t == {("a", 3): 1.0},
    )
    yield _of.refused("a padding column without a word for it", lambda: data().item_ids([0, -1]), "columns|missing|-1")
    yield _of.right(
        "a padding column with a word",
        lambda: data().item_ids([[0, -1]], missing="none").tolist(),
        lambda found: found == [[1, "none"]],
    )
    yield _of.refused("an id that is not there", lambda: data().rows_of(["a", "z"]), "users", "z")
    yield _of.refused("a mask of integers", lambda: data().select([1, 0, 1]), "cells")
    yield _of.refused("NaN values in a fit", lambda: lfm_np.als(data()), "x|value", "nan|unknown|finite")


def text(content: bytes, name: str = "events.csv", **words: Any) -> Callable[[], Any]:
    def work(folder: pathlib.Path) -> Any:
        (folder / name).write_bytes(content)
        return Interactions.from_csv(folder / name, **words)

    return inside(work)


def csv() -> Iterator[Case]:
    right: dict[str, tuple[bytes, dict[str, Any], dict[Any, float]]] = {
        "a byte order mark": (b"\xef\xbb\xbfuser,item\na,1\n", {}, {("a", 1): 1}),
        "lines of Windows, without an end": (b"user,item\r\na,1\r\nb,2", {}, {("a", 1): 1, ("b", 2): 1}),
        "commas and quotes in ids": (b'user,item\n"a,b","say ""x"""\n', {}, {("a,b", 'say "x"'): 1}),
        "quoted NA, which is a name": (b'user,item\n"NA",1\nx,1\n', {}, {("NA", 1): 1, ("x", 1): 1}),
        "zeros in front": (
            b"user,item\n007,1\n7,1\n",
            {"column_types": {"user": "string"}},
            {("007", 1): 1, ("7", 1): 1},
        ),
        "semicolons and no names": (
            b"a;1\nb;2\n",
            {"delimiter": ";", "column_names": ["user", "item"]},
            {("a", 1): 1, ("b", 2): 1},
        ),
        "values with exponents": (b"user,item,v\na,1,1e2\na,1,-5E-1\n", {"value": "v"}, {("a", 1): 99.5}),
        "columns in another order, and more": (b"x,item,user\n9,1,a\n", {}, {("a", 1): 1}),
        "integers of nineteen digits": (
            b"user,item\n9223372036854775807,1\n9223372036854775806,1\n",
            {},
            {(2**63 - 1, 1): 1, (2**63 - 2, 1): 1},
        ),
    }
    for name, (content, words, cells) in right.items():
        yield _of.right(f"csv: {name}", text(content, **words), lambda data, cells=cells: table_of(data) == cells)
    yield _of.right(
        "csv: compressed",
        text(gzip.compress(b"user,item\na,1\n"), "events.csv.gz"),
        lambda data: table_of(data) == {("a", 1): 1},
    )
    late = b"user,item\n" + b"1,1\n" * 600_000 + b"x,1\n"
    wrong: dict[str, tuple[bytes, dict[str, Any], tuple[str, ...]]] = {
        "an empty file": (b"", {}, ("events.csv",)),
        "no such column": (b"name,item\na,1\n", {}, ("user", "name|column")),
        "a line that is short": (b"user,item\na,1\nb\n", {}, ("events.csv", "column|2")),
        "text after 600,000 numbers": (late, {}, ("column_types|user", "events.csv")),
        "integers of 30 digits": (b"user,item\n" + b"1" * 30 + b",1\n", {}, ("user", "column_types")),
        "an empty id": (b"user,item,v\n,1,2\na,1,2\n", {}, ("user", "1")),
        "text among values": (b"user,item,v\na,1,x\n", {"value": "v"}, ("value|v",)),
        "infinite values": (b"user,item,v\na,1,inf\n", {"value": "v"}, ("value|v",)),
        "Latin-1": ("user,item\nJosé,1\n".encode("latin-1"), {}, ("user|utf|encoding|events",)),
        "a delimiter of two": (b"user,item\na,1\n", {"delimiter": "::"}, ("delimiter",)),
    }
    for name, (content, words, said) in wrong.items():
        yield _of.refused(f"csv: {name}", text(content, **words), *said, kind=(*BAD, OSError))
    yield _of.either(
        "csv: the same column for both",
        text(b"user,item\na,1\n", item="user"),
        lambda data: table_of(data) == {("a", "a"): 1},
        "user|item",
    )
    half = gzip.compress(b"user,item\n" + b"".join(b"%d,1\n" % n for n in range(2000)))[:-400]
    yield _of.refused("csv: compressed and cut", text(half, "events.csv.gz"), "events.csv.gz", kind=(*BAD, OSError))


def parquet(*tables: Any, **words: Any) -> Callable[[], Any]:
    import pyarrow.parquet as pq

    def work(folder: pathlib.Path) -> Any:
        for number, table in enumerate(tables):
            pq.write_table(table, folder / f"{number}.parquet")
        return Interactions.from_parquet(folder, **words)

    return inside(work)


def columns(**arrays: Any) -> Any:
    import pyarrow as pa

    return pa.table(arrays)


def tables() -> Iterator[Case]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    dictionary = pa.DictionaryArray.from_arrays(pa.array([1, 0, 1]), pa.array(["b", "a"]))
    yield _of.right(
        "parquet: categories count by their values",
        parquet(columns(user=dictionary, item=[1, 1, 1])),
        lambda data: table_of(data) == {("a", 1): 2, ("b", 1): 1},
    )
    yield _of.right(
        "parquet: integers of three sizes in three files",
        parquet(*(columns(user=pa.array([5], kind), item=[1]) for kind in (pa.int8(), pa.uint32(), pa.int64()))),
        lambda data: table_of(data) == {(5, 1): 3},
    )
    yield _of.right(
        "parquet: decimals",
        parquet(columns(user=[decimal.Decimal("1.10"), decimal.Decimal("1.2")], item=[1, 1])),
        lambda data: {str(float(u)) for u in data.users.tolist()} == {"1.1", "1.2"},
    )
    yield _of.right(
        "parquet: records with nulls left out",
        parquet(columns(user=["a", None, "b"], item=[1, 2, None], v=[1.0, 2.0, 3.0]), value="v", nulls="drop"),
        lambda data: table_of(data) == {("a", 1): 1.0},
    )
    yield _of.right(
        "parquet: what is left of min_user_interactions=2",
        parquet(
            columns(user=["a", "a", "b", "b", "c", "c"], item=[1, 2, 1, 3, 3, 4]),
            min_user_interactions=2,
            min_item_interactions=2,
        ),
        lambda data: table_of(data) == core_of({("a", 1), ("a", 2), ("b", 1), ("b", 3), ("c", 3), ("c", 4)}, 2),
    )
    for name, call, said in (
        ("nulls, counted", parquet(columns(user=["a", None, None], item=[1, 2, 3])), ("user", "2")),
        ("lists as ids", parquet(columns(user=[[1], [2]], item=[1, 2])), ("user",)),
        ("text as values", parquet(columns(user=[1], item=[1], v=["x"]), value="v"), ("value|v",)),
        ("no files", parquet(), ("path|parquet|no file|empty",)),
    ):
        yield _of.refused(f"parquet: {name}", call, *said, kind=(*BAD, OSError))

    def cut(folder: pathlib.Path) -> Any:
        pq.write_table(columns(user=list(range(1000)), item=list(range(1000))), folder / "a.parquet")
        os.truncate(folder / "a.parquet", 2000)
        return Interactions.from_parquet(folder / "a.parquet")

    yield _of.refused("parquet: cut short", inside(cut), "a.parquet", kind=(*BAD, OSError))
    yield _of.right("a frame of lists far longer than there are items", frames_of_all, lambda same: same)
    yield _of.right(
        "a frame of polars, and recommendations in another",
        frames,
        lambda rows: rows == [["a", 30]],
    )


def frames_of_all() -> bool:
    data = Interactions.from_arrays([1, 1, 2], [1, 2, 3])
    factors = lfm_np.als(data, factors=2, random_state=0)
    long, all_of_it = (lfm_np.recommend_frame(factors, data, N=N) for N in (2_000_000_000, 3))
    return long.equals(all_of_it)


def core_of(cells: set[Any], least: int) -> dict[Any, float]:
    while True:
        users, items = (collections.Counter(cell[side] for cell in cells) for side in (0, 1))
        left = {(u, i) for u, i in cells if users[u] >= least and items[i] >= least}
        if left == cells:
            return dict.fromkeys(cells, 1.0)
        cells = left


def frames() -> list[list[Any]]:
    import polars

    frame = polars.DataFrame({"user": ["a", "a", "b", "b", "b"], "item": [10, 20, 10, 20, 30]}).lazy()
    data = Interactions.from_frame(frame)
    factors = lfm_np.als(data, factors=2, random_state=0)
    found = lfm_np.recommend_frame(factors, data, ["a"], N=3, seen=data, backend="pandas")
    return found[["user", "item"]].values.tolist()


def events(seed: int = 3) -> Interactions:
    rng = np.random.default_rng(seed)
    return Interactions.from_arrays(
        rng.integers(0, 9, 120), rng.integers(0, 14, 120), timestamps=rng.integers(0, 20, 120)
    )


def splits() -> Iterator[Case]:
    def parted(parts: Any) -> bool:
        whole, (train, test) = table_of(events()), map(table_of, parts)
        return not set(train) & set(test) and set(train) | set(test) == set(whole)

    yield _of.right(
        "random: every cell once, a cell of everybody to learn from",
        lambda: events().split("random", test_fraction=0.999, random_state=1),
        lambda parts: parted(parts) and {u for u, _ in table_of(parts[0])} == {u for u, _ in table_of(events())},
    )
    yield _of.right(
        "last two of each, the higher column later",
        lambda: events().split("last", n=2),
        lambda parts: parted(parts) and set(table_of(parts[1])) == last_two(events()),
    )
    yield _of.right(
        "time: the largest latest part within a fifth",
        lambda: events().split("time", test_fraction=0.2),
        lambda parts: parted(parts) and set(table_of(parts[1])) == latest(events(), 0.2),
    )
    yield _of.right(
        "time: from a moment on",
        lambda: events().split("time", at=11),
        lambda parts: parted(parts) and parts[1].timestamps.min() >= 11 and parts[0].timestamps.max() < 11,
    )
    for word, value in {"by": "user", "test_fraction": 1.0, "n": 0, "at": "noon"}.items():
        yield _of.refused(
            f"split, {word}={value!r}",
            lambda w=word, v=value: events().split(**{"by": {"n": "last", "at": "time"}.get(w, "random"), w: v}),
            word,
        )


def timed(data: Interactions) -> list[tuple[int, int, int]]:
    coo = data.matrix.tocoo()
    return list(zip(data.timestamps.tolist(), data.users[coo.row].tolist(), data.items[coo.col].tolist()))


def last_two(data: Interactions) -> set[Any]:
    users = collections.defaultdict(list)
    for time, user, item in timed(data):
        users[user].append((time, item))
    return {(u, item) for u, cells in users.items() for _, item in sorted(cells)[max(1, len(cells) - 2) :]}


def latest(data: Interactions, fraction: float) -> set[Any]:
    cells = timed(data)
    for time in sorted({time for time, _, _ in cells}):
        late = {(u, i) for t, u, i in cells if t >= time}
        if len(late) <= fraction * len(cells):
            return late
    return set()


def stored(
    change: Callable[[pathlib.Path], Any], after: Callable[[Any], Any] = lambda stored: stored
) -> Callable[[], Any]:
    def work(folder: pathlib.Path) -> Any:
        lfm_np.StoredMatrix.from_matrix(square(), folder / "matrix")
        change(folder / "matrix")
        return after(lfm_np.StoredMatrix(folder / "matrix"))

    return inside(work)


def square() -> sp.csr_array:
    return sp.csr_array(sp.random(60, 50, 0.2, format="csr", random_state=np.random.default_rng(1)))


def on_disk() -> Iterator[Case]:
    def flip(name: str) -> Callable[[pathlib.Path], Any]:
        def change(folder: pathlib.Path) -> None:
            content = bytearray((folder / name).read_bytes())
            content[-3] ^= 8
            (folder / name).write_bytes(content)

        return change

    def manifest(**changes: Any) -> Callable[[pathlib.Path], Any]:
        def change(folder: pathlib.Path) -> None:
            said = json.loads((folder / "manifest.json").read_text())
            (folder / "manifest.json").write_text(json.dumps({**said, **changes}))

        return change

    yield _of.right(
        "stored: the bits of the fit in memory, bit for bit",
        stored(lambda folder: None, lambda X: lfm_np.als(X, factors=5, alpha=3.0, random_state=2).user_factors),
        lambda U: (lfm_np.als(square(), factors=5, alpha=3.0, random_state=2).user_factors == U).all(),
    )
    for name in ("rows.data.npy", "columns.indices.npy", "rows.indptr.npy"):
        yield _of.refused(f"stored: a bit of {name}", stored(flip(name)), name.split(".")[0])
    yield _of.refused(
        "stored: another shape in the manifest", stored(manifest(shape=[60, 10**18])), "manifest|shape|rows|columns"
    )
    yield _of.refused(
        "stored: a manifest that is a list", stored(lambda f: (f / "manifest.json").write_text("[1]")), "manifest"
    )
    yield _of.refused(
        "stored: no transpose",
        stored(lambda f: (f / "columns.data.npy").unlink()),
        "columns.data.npy",
        kind=(*BAD, OSError),
    )
    yield _of.refused(
        "stored: a pipe for a file",
        stored(lambda f: ((f / "rows.data.npy").unlink(), os.mkfifo(f / "rows.data.npy"))),
        "rows.data.npy",
        kind=(*BAD, OSError),
    )

    def twice(folder: pathlib.Path) -> Any:
        lfm_np.StoredMatrix.from_matrix(square(), folder / "matrix")
        with contextlib.suppress(OSError, ValueError):
            lfm_np.StoredMatrix.from_matrix(2 * square(), folder / "matrix")
            return None
        return lfm_np.StoredMatrix(folder / "matrix").nnz, sorted(os.listdir(folder))

    yield _of.right(
        "stored: a folder is never replaced", inside(twice), lambda found: found == (square().nnz, ["matrix"])
    )

    def records(folder: pathlib.Path) -> Any:
        import pyarrow.parquet as pq

        rng = np.random.default_rng(5)
        users, items = [f"u{u}" for u in rng.integers(0, 30, 500)], rng.integers(0, 20, 500)
        pq.write_table(columns(user=users, item=items), folder / "r.parquet", row_group_size=70)
        built = lfm_np.StoredMatrix.from_parquet(folder / "r.parquet", folder / "m", memory=40 << 20)
        data = Interactions.from_arrays(np.array(users, object), items)
        found = lfm_np.als(built, factors=3, random_state=0).item_factors
        return (
            built.users.tolist() == data.users.tolist()
            and (found == lfm_np.als(data, factors=3, random_state=0).item_factors).all()
        )

    if installed("pyarrow"):
        yield _of.right(
            "stored: records of text become the fit of the same in memory", inside(records), lambda equal: equal
        )
    small = inside(lambda f: lfm_np.als(lfm_np.StoredMatrix.from_matrix(square(), f / "m", memory=1000)))
    yield _of.refused("stored: memory of 1 kB", small, "memory", kind=(*BAD, MemoryError))


def cases() -> list[Case]:
    tabular = [*csv(), *tables()] if installed("pyarrow", "narwhals", "pandas", "polars") else []
    return [*numbers(), *ids(), *tabular, *splits(), *on_disk()]
