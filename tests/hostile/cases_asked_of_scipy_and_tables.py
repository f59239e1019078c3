"""What users of SciPy's sparse matrices, pandas, polars and pyarrow ran into on the way to a recommender."""

from __future__ import annotations

import datetime
import decimal
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import scipy.sparse as sp

import lfm_np

from .brute import scores as products
from .case import Case, Group, Holds, installed
from .reference import best, tastes

_group = Group("asked of scipy and tables")
_right, _refused, _either = _group.right, _group.refused, _group.either
Interactions = lfm_np.Interactions


def _true(name: str, check: Callable[[], Any]) -> Case:
    return _right(name, check, bool)


def bits(X: Any) -> bytes:
    return lfm_np.als(X, factors=4, iterations=2, random_state=0, num_threads=1).item_factors.tobytes()


def same(name: str, make: Callable[[sp.csr_array], Any], reference: Callable[[], Any] = tastes) -> Case:
    """A matrix in another guise gives the bits of the plain one, and is not changed."""
    holds = Holds(lambda result, X: result == bits(reference()))
    return Case(f"{_group.name}: {name}", lambda X: bits(X), holds, lambda: {"X": make(tastes())})


def parts(X: Any, **changed: Any) -> sp.csr_array:
    """A matrix whose arrays are set one by one, past the checks of its constructor."""
    Y = X.copy()
    for name, value in changed.items():
        setattr(Y, name, value)
    return Y


def unsorted_twice(X: sp.csr_array) -> sp.csr_array:
    """Every cell as two halves in falling order of columns, said to be canonical."""
    data = np.concatenate([np.repeat(X.data[a:b][::-1] / 2, 2) for a, b in zip(X.indptr, X.indptr[1:], strict=False)])
    where = np.concatenate([np.repeat(X.indices[a:b][::-1], 2) for a, b in zip(X.indptr, X.indptr[1:], strict=False)])
    Y = sp.csr_array((data, where, X.indptr * 2), X.shape)
    Y.has_canonical_format = True
    return Y


def matrices() -> Iterator[Case]:
    yield same(
        "scikit-learn: 64-bit indices", lambda X: parts(X, indices=X.indices.astype("i8"), indptr=X.indptr.astype("i8"))
    )
    yield same("scipy: only indptr of 64 bits", lambda X: parts(X, indptr=X.indptr.astype("i8")))
    yield same("scipy: only indices of 64 bits", lambda X: parts(X, indices=X.indices.astype("i8")))
    yield same("scipy: has_canonical_format that is stale", unsorted_twice)
    yield same("scipy: columns sorted the other way", lambda X: X[:, ::-1][:, ::-1].tocsc().tocsr())
    for kind in ("coo", "csc", "lil", "dok", "bsr"):
        yield same(f"scipy: {kind}", lambda X, kind=kind: X.asformat(kind))
    yield same("scipy: csr_matrix", lambda X: sp.csr_matrix(X))
    yield same("scipy: a diagonal format", lambda X: sp.dia_array(X))
    yield same("scipy: arrays with room to spare", lambda X: parts(
        X, data=np.append(X.data, [np.nan] * 5).astype("f4"), indices=np.append(X.indices, [99] * 5).astype("i4")
    ))  # fmt: skip
    yield same("scipy: rows of a larger matrix", lambda X: sp.csr_array(sp.vstack([X, X]))[:30])
    yield same("scipy: a transpose of a transpose", lambda X: X.T.tocsr().T)
    yield same(
        "cython: read-only arrays",
        lambda X: parts(X, **{n: frozen(getattr(X, n)) for n in ("data", "indices", "indptr")}),
    )
    for kind in ("f8", "f2", "i1", "u1", "i8", "u8"):
        yield same(
            f"cmfrec: values of {kind}",
            lambda X, kind=kind: X.astype(kind) if kind != "f2" else parts(X, data=X.data.astype("f2")),
        )
    yield same("implicit: booleans", lambda X: X != 0, lambda: sp.csr_array((tastes() != 0).astype("f4")))
    wide = ([200, 100, 3], ([0, 0, 1], [1, 1, 0]))
    yield _right(
        "scipy: duplicates of uint8 that overflow",
        lambda: bits(sp.coo_array((np.array(wide[0], np.uint8), wide[1]), (3, 3))),
        lambda found: found == bits(sp.csr_array(([300.0, 3.0], ([0, 1], [1, 0])), (3, 3))),
    )
    big = tastes().astype(float)
    big.data[5] = 1e39
    yield _refused("numpy: a value beyond float32", lambda: lfm_np.als(big, factors=2), "float32|finite")
    yield _refused(
        "scipy: a matrix of one row as a vector",
        lambda: lfm_np.als(sp.coo_array(np.ones(5)), factors=2),
        "x",
        "2|dimension|shape",
    )
    yield _refused("scipy: complex numbers", lambda: lfm_np.als(tastes().astype(complex), factors=2), "complex")
    yield _refused(
        "scipy: objects",
        lambda: lfm_np.als(parts(tastes(), data=tastes().data.astype(object)), factors=2),
        "dtype|object",
    )
    yield _refused(
        "numpy: hashes as row numbers",
        lambda: lfm_np.to_csr(np.array([[3_000_000_000, 1]])),
        "3000000000|2³¹|2147483|row",
    )
    yield _refused(
        "pandas: codes of -1 for missing categories", lambda: lfm_np.to_csr([(-1, 0), (2, 1)]), "negative|-1"
    )
    yield _refused("pandas: numbers that became fractions", lambda: lfm_np.to_csr(np.array([[0.5, 1.0]])), "pairs")
    yield _refused("scipy: off by one", lambda: lfm_np.to_csr([(0, 0), (3, 1)], shape=(3, 3)), "3", "shape|row|outside")


def frozen(array: np.ndarray) -> np.ndarray:
    array = array.copy()
    array.flags.writeable = False
    return array


def grouped(rule: str) -> bool:
    """Cells by a dictionary of lists, beside from_arrays."""
    rng = np.random.default_rng(12)
    users, items = rng.integers(0, 9, 200).tolist(), rng.choice(list("abcdef"), 200).tolist()
    values, times = rng.integers(1, 9, 200).astype(float).tolist(), rng.permutation(200).tolist()
    lists: dict[tuple[Any, Any], list[tuple[int, float]]] = {}
    for u, i, x, t in zip(users, items, values, times, strict=True):
        lists.setdefault((u, i), []).append((t, x))
    how: dict[str, Callable[[list[tuple[int, float]]], float]] = {
        "sum": lambda own: sum(x for _, x in own),
        "last": lambda own: max(own)[1],
        "mean": lambda own: sum(x for _, x in own) / len(own),
        "max": lambda own: max(x for _, x in own),
        "count": lambda own: float(len(own)),
    }
    data = Interactions.from_arrays(users, items, values, times, duplicates=rule)
    expected = {pair: float(np.float32(how[rule](own))) for pair, own in lists.items()}
    found = data.matrix.tocoo()
    ids = zip(data.user_ids(found.row).tolist(), data.item_ids(found.col).tolist(), strict=True)
    latest = {pair: max(own)[0] for pair, own in lists.items()}
    pairs = list(ids)
    return dict(zip(pairs, found.data.tolist())) == expected and dict(zip(pairs, data.timestamps.tolist())) == latest


def kept_ids(name: str, ids: list[Any], kind: Any = None) -> Case:
    """Ids come back as they were, each with its own row."""

    def check() -> bool:
        given = np.array(ids, kind) if kind is not None else ids
        data = Interactions.from_arrays(given, np.arange(len(ids)))
        rows = data.rows_of(given)
        back = data.user_ids(rows).tolist()
        plain = np.array(ids, kind).tolist() if kind is not None else ids
        owner = data.matrix.tocoo()
        cells = dict(zip(owner.col.tolist(), owner.row.tolist(), strict=True))
        return (
            back == plain
            and len(set(rows.tolist())) == len(ids)
            and [cells[i] for i in range(len(ids))] == rows.tolist()
        )

    return _true(f"ids: {name}", check)


def identifiers() -> Iterator[Case]:
    for rule in ("sum", "last", "mean", "max", "count"):
        yield _true(f"pandas: groupby {rule}", lambda rule=rule: grouped(rule))
    yield kept_ids("leading zeros", ["007", "07", "7", "0007"])
    yield kept_ids("large integers that floats confuse", [2**53, 2**53 + 1, -(2**53) - 1])
    yield kept_ids("unsigned 64 bits", [2**64 - 1, 2**63, 5], np.uint64)
    yield kept_ids("UUIDs", [uuid.UUID(int=5), uuid.UUID(int=2**100), uuid.UUID(int=7)])
    yield kept_ids("decimals", [decimal.Decimal("1.10"), decimal.Decimal("1.2"), decimal.Decimal("-3")])
    yield kept_ids("days", [datetime.date(2024, 2, 29), datetime.date(1960, 1, 1)])
    yield kept_ids("bytes that end in nothing", [b"a", b"a\0", b""])
    yield kept_ids("text of another script", ["straße", "strasse", "e\u0301", "\u00e9", "李", "😀"])
    yield kept_ids("spaces", ["ann", "ann ", " ann", ""])
    yield _refused("numpy: 1 and '1' in one list", lambda: Interactions.from_arrays([1, "1"], [1, 2]), "users")
    yield _refused(
        "pandas: None for a user", lambda: Interactions.from_arrays(["a", None], [1, 2]), "users", "missing|none|null"
    )
    yield _refused("implicit: unknown ids", lambda: Interactions.from_arrays(["a"], [1]).rows_of(["a", "zed"]), "zed")
    yield _right(
        "RecTools: cold users among warm ones",
        lambda: Interactions.from_arrays(["b", "a"], [1, 1]).rows_of(["a", "zed", "b"], missing=-1).tolist(),
        lambda rows: rows == [0, -1, 1],
    )


def tables() -> Iterator[Case]:
    if not installed("pandas", "pyarrow", "narwhals", "polars"):
        return
    import pandas as pd
    import pyarrow as pa

    rows = {"user": ["c", "a", "b", "a"], "item": [3, 1, 3, 2], "value": [1.0, 2.0, 3.0, 4.0]}
    expected = {("c", 3): 1.0, ("a", 1): 2.0, ("b", 3): 3.0, ("a", 2): 4.0}

    def read(frame: Any, **words: Any) -> dict[Any, float]:
        data = Interactions.from_frame(frame, value="value", **words)
        cells = data.matrix.tocoo()
        return dict(zip(zip(data.user_ids(cells.row).tolist(), data.item_ids(cells.col).tolist()), cells.data.tolist()))

    frame = pd.DataFrame(rows)
    spare = pd.Categorical(rows["user"], categories=["zed", "c", "b", "a", "unused"])
    yield _right(
        "pandas: categories that nobody has",
        lambda: Interactions.from_frame(frame.assign(user=spare)).users.tolist(),
        lambda users: users == ["a", "b", "c"],
    )
    hole = pd.Categorical.from_codes([0, -1, 1, 1], ["c", "b"])
    yield _refused("pandas: a category of -1", lambda: read(frame.assign(user=hole)), "user", "1")
    yield _right("pandas: the same, dropped", lambda: read(frame.assign(user=hole), nulls="drop"),
                 lambda r: r == {("c", 3): 1.0, ("b", 3): 3.0, ("b", 2): 4.0})  # fmt: skip
    yield _refused("pandas: users are the index", lambda: read(frame.set_index("user")), "user")
    yield _refused("pandas: two columns of one name", lambda: read(pd.concat([frame, frame[["user"]]], axis=1)), "user")
    yield _right("pandas: rows taken out, so that labels have gaps", lambda: read(frame[frame.value > 1]),
                 lambda r: r == {k: v for k, v in expected.items() if v > 1})  # fmt: skip
    nullable = frame.assign(item=pd.array([3, 1, None, 2], "Int64"))
    yield _right("pandas: Int64 with NA", lambda: read(nullable, nulls="drop"),
                 lambda r: r == {("c", 3): 1.0, ("a", 1): 2.0, ("a", 2): 4.0})  # fmt: skip
    yield _right(
        "pandas: text of Arrow", lambda: read(frame.astype({"user": "string[pyarrow]"})), lambda r: r == expected
    )

    def cut() -> dict[Any, float]:
        import polars as pl  # its threads do not live on in a fork: frames are made where they are read

        return read(pl.DataFrame(rows).with_columns(pl.col("user").cast(pl.Categorical))[1:])

    def collected() -> dict[Any, float]:
        import polars as pl

        return read(pl.DataFrame(rows).lazy())

    yield _right("polars: categories of a cut frame", cut,
                 lambda r: r == {k: v for k, v in expected.items() if k[0] != "c"})  # fmt: skip
    yield _right("polars: a lazy frame", collected, lambda r: r == expected)
    whole = pa.table(rows)
    chunks = pa.concat_tables([whole.slice(0, 1), whole.slice(1, 0), whole.slice(1, 2), whole.slice(3)])
    yield _right("pyarrow: chunks and slices", lambda: read(chunks), lambda r: r == expected)
    words = pa.DictionaryArray.from_arrays(pa.array([2, 0, 1, 0]), pa.array(["a", "b", "c", "d"]))
    yield _right("pyarrow: a dictionary", lambda: read(whole.set_column(0, "user", words)), lambda r: r == expected)
    large = whole.set_column(0, "user", whole["user"].cast(pa.large_string()))
    yield _right(
        "pyarrow: large strings, decimals",
        lambda: read(large.set_column(2, "value", whole["value"].cast(pa.decimal128(9, 2)))),
        lambda r: r == expected,
    )
    zone = pd.to_datetime(["2024-03-31 01:30", "2024-03-31 03:30", "2024-03-31 00:10", "2024-03-31 03:10"]).tz_localize(
        "Europe/Berlin"
    )
    yield _right(
        "pandas: times across a change of clocks",
        lambda: Interactions.from_frame(frame.assign(when=zone), timestamp="when"),
        lambda d: sorted(np.diff(np.sort(d.timestamps)).astype("m8[m]").astype(int).tolist()) == [20, 40, 80],
    )
    stamp = pd.Timestamp("2024-01-01T00:00:00.000000001", tz="UTC")
    close = np.array(["2024-01-01", "2024-01-01T00:00:00.000000001", "2023-01-01", "2024-01-02"], "M8[ns]")
    yield _right(
        "pandas: a Timestamp's nanoseconds",
        lambda: Interactions.from_frame(frame.assign(when=close), timestamp="when").split("time", at=stamp)[1],
        lambda d: d.user_ids(d.matrix.tocoo().row).tolist() == ["a", "a"],
    )
    yield _true("pandas: zeros of 007 in CSV", _zeros_of_text)
    yield _either(
        "pandas: not one row",
        lambda: Interactions.from_frame(frame[:0]),
        lambda d: d.shape == (0, 0),
        "empty|no row|no record|rows",
    )
    yield _true("implicit: lists of ids, shorter where less is left", lambda: _listed(frame))


def _zeros_of_text() -> bool:
    with TemporaryDirectory() as place:
        path = Path(place) / "events.csv"
        path.write_text("user,item\n007,1\n7,1\n07,2\n")
        text = Interactions.from_csv(path, column_types={"user": "string"})
        return text.users.tolist() == ["007", "07", "7"] and Interactions.from_csv(path).users.tolist() == [7]


def _listed(frame: Any) -> bool:
    data = Interactions.from_frame(frame, value="value")
    factors = lfm_np.als(data, factors=2, random_state=0, num_threads=1, dtype=np.float64)
    found = lfm_np.recommend_frame(factors, data, N=5, seen=data, exclude=[2])
    scores, known = products(factors), data.matrix.toarray() != 0
    rows = []
    for u, user in enumerate(data.users.tolist()):
        free = ~known[u] & (data.items != 2)
        order = [i for i in best(scores[u], free, 5) if i >= 0]
        rows += [(user, data.items[i], rank) for rank, i in enumerate(order, 1)]
    return list(zip(found["user"], found["item"], found["rank"], strict=True)) == rows


def cases() -> list[Case]:
    return [*matrices(), *identifiers(), *tables()]
