"""Stored matrices and tables that are cut, spoilt deep within or meet small limits; what is read afterwards."""

from __future__ import annotations

import bz2
import copy
import gzip
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import lfm_np

from .case import Case, Group, installed
from .cases_rough_treatment_of_files import few_files, refusal
from .cases_rough_treatment_of_matrices import HOW, Spilled, X, after, at, caught, follows, names, throw
from .places import largest_file, together
from .working_days import best, csr, dense, start, tells, wrong

_GROUP = Group("rough treatment of tables")


def _case(name: str, work: Callable[[Path], list[str]], *packages: str) -> Case:
    call = after(work)

    def warm() -> list[str]:
        for package in packages:
            __import__(package)
        return call()

    return _GROUP.right(name, warm, lambda found: found == [])


def _stored(home: Path, **words: Any) -> lfm_np.StoredMatrix:
    return lfm_np.StoredMatrix.from_matrix(csr(X), home / "matrix", dtype="float64", **words)


def _fit_stored(stored: lfm_np.StoredMatrix, **words: Any) -> lfm_np.Factors:
    given = {"iterations": 2, "dtype": "float64", "solver": "exact", "init": start(30, 20, 3, 12), **words}
    return lfm_np.als(stored, **HOW.words, factors=3, **given)


def _stored_over_a_folder(home: Path) -> list[str]:
    (home / "matrix").mkdir()
    (home / "matrix" / "letter").write_text("dear")
    found = refusal(caught(lambda: _stored(home)), "matrix|folder|exist")
    found += wrong(letter=names(home / "matrix") == ["letter"], alone=names(home) == ["matrix"])
    shutil.rmtree(home / "matrix")
    return found + wrong(next=follows(_fit_stored(_stored(home)), 2))


def _stored_too_large(home: Path) -> list[str]:
    found = []
    for limit in (0, 100, 600):
        with largest_file(limit):
            got = caught(lambda: _stored(home))
        if not isinstance(got, OSError) or "matrix" in names(home):
            found.append(f"at {limit}: {got!r} {names(home)}")
    stored = _stored(home)
    return found + wrong(alone=names(home) == ["matrix"], right=follows(_fit_stored(stored), 2))


def _stored_flipped(home: Path) -> list[str]:
    _stored(home)
    found = []
    for path in sorted((home / "matrix").glob("*.npy")):
        raw = path.read_bytes()
        path.write_bytes(raw[:-3] + bytes([raw[-3] ^ 16]) + raw[-2:])
        side = path.name.split(".")[0]
        found += refusal(caught(lambda: lfm_np.StoredMatrix(home / "matrix")), f"{path.name}|{side}")
        path.write_bytes(raw)
    manifest = home / "matrix" / "manifest.json"
    raw = manifest.read_bytes()
    manifest.write_bytes(raw[: len(raw) // 2])
    found += refusal(caught(lambda: lfm_np.StoredMatrix(home / "matrix")), "manifest")
    manifest.write_bytes(raw)
    return found + wrong(right=follows(_fit_stored(lfm_np.StoredMatrix(home / "matrix")), 2))


def _stored_cut_later(home: Path) -> list[str]:
    """What was whole when it was opened is cut before the fit, in which it is read."""
    found = []
    for name in ("rows.indices.npy", "columns.data.npy", "rows.indptr.npy"):
        stored = _stored(home)
        os.truncate(home / "matrix" / name, 200)
        try:
            right = follows(_fit_stored(stored), 2)
        except (OSError, ValueError) as error:
            right = tells(error, name.lower() + "|rows|columns|matrix")
        if not right:
            found.append(name)
        shutil.rmtree(home / "matrix")
    return found


def _stored_gone_later(home: Path) -> list[str]:
    stored = _stored(home)
    shutil.rmtree(home / "matrix")
    try:
        return wrong(right=follows(_fit_stored(stored), 2))
    except OSError as error:
        return wrong(told=tells(error, "matrix|rows|columns"))


def _stored_factors_elsewhere(home: Path) -> list[str]:
    (home / "factors").mkdir()
    _stored(home)
    stored = lfm_np.StoredMatrix(home / "matrix", factors_in=home / "factors")
    mine = Spilled("ink")
    got = caught(lambda: _fit_stored(stored, callback=at(1, throw(mine)), checkpoint=home / "run"))
    on = _fit_stored(stored, checkpoint=home / "run")
    return wrong(itself=got is mine, right=follows(on, 2), nothing=names(home / "factors") == [])


def _stored_by_many(home: Path) -> list[str]:
    """Four at once build one folder: one of them at least, and nothing of the others is left."""
    done = together(4, lambda place: _stored(home, num_threads=1))
    found = [
        f"{one!r}" for one in done if isinstance(one, BaseException) and not isinstance(one, (OSError, ValueError))
    ]
    some = any(isinstance(one, lfm_np.StoredMatrix) for one in done)
    right = follows(_fit_stored(lfm_np.StoredMatrix(home / "matrix")), 2)
    return found + wrong(some=some, right=right, alone=names(home) == ["matrix"])


def _stored_fitted_by_many(home: Path) -> list[str]:
    stored = _stored(home)
    done = together(4, lambda place: _fit_stored(stored, iterations=1 + place, num_threads=1))
    return [f"fit {place}" for place, one in enumerate(done) if not follows(one, 1 + place)]


def _ratings(home: Path, **parts: Any) -> Any:
    """MovieLens's small set from a file of one's own."""
    arrays = {"user": np.arange(4) % 2, "item": np.arange(4), "value": np.full(4, 3.5), "timestamp": np.arange(4)}
    np.savez(home / "ml-latest-small.npz", **{**arrays, **parts})
    return _movielens(home)


def _movielens(home: Path) -> Any:
    before = os.environ.get("LFM_NP_DATA")
    os.environ["LFM_NP_DATA"] = str(home)
    try:
        return lfm_np.datasets.movielens("latest-small")
    finally:
        if before is None:
            del os.environ["LFM_NP_DATA"]
        else:
            os.environ["LFM_NP_DATA"] = before


def _bad_ratings(home: Path) -> list[str]:
    bad: list[dict[str, Any]] = [
        {"item": np.array([0, 1, 2, -1])},
        {"user": np.arange(5) % 2},
        {"value": np.array([3.0, np.inf, 1, 2])},
        {"known": np.array([True, False])},
        {"user": np.array([0.5, 1, 0, 1])},
    ]
    found = []
    for parts in bad:
        found += refusal(caught(lambda p=parts: _ratings(home, **p)), next(iter(parts)) + "|npz")  # type: ignore[misc]
    data = _ratings(home, known=np.array([True, True, False, True]))
    values = data.matrix.toarray()
    raw = (home / "ml-latest-small.npz").read_bytes()
    (home / "ml-latest-small.npz").write_bytes(raw[: len(raw) - 100])
    found += refusal(caught(lambda: _movielens(home)), "npz")
    return found + wrong(
        ids=data.users.tolist() == [1, 2] and data.items.tolist() == [1, 2, 3, 4],
        values=np.array_equal(values, [[3.5, 0, np.nan, 0], [0, 3.5, 0, 3.5]], equal_nan=True),
    )


def _records(count: int = 90_000) -> dict[str, Any]:
    draw = np.random.default_rng(8)
    return {
        "user": draw.integers(0, 40, count),
        "item": draw.integers(0, 30, count),
        "price": draw.integers(1, 9, count) / 2,
    }


def _sums(records: dict[str, Any], keep: Any = slice(None)) -> np.ndarray:
    total = np.zeros((40, 30))
    np.add.at(total, (records["user"][keep], records["item"][keep]), records["price"][keep])
    return total


def _parquet(path: Path, records: dict[str, Any], **columns: Any) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({**records, **columns}), path, row_group_size=20_000)
    return path


def _read(path: Path, **words: Any) -> np.ndarray:
    return np.nan_to_num(dense(lfm_np.Interactions.from_parquet(path, value="price", **words)))


def _as_before(home: Path) -> list[str]:
    """A whole file is read as it is."""
    records = _records(500)
    return wrong(plain_table=np.array_equal(_read(_parquet(home / "plain.parquet", records)), _sums(records)))


def _cut_parquet(home: Path) -> list[str]:
    (home / "many").mkdir()
    _parquet(home / "many" / "a.parquet", _records(300))
    raw = _parquet(home / "many" / "bent.parquet", _records(400)).read_bytes()
    found = []
    for size in (0, 3, len(raw) // 2, len(raw) - 1):
        (home / "many" / "bent.parquet").write_bytes(raw[:size])
        found += refusal(caught(lambda: _read(home / "many")), "bent")
        got = caught(
            lambda: lfm_np.StoredMatrix.from_parquet(home / "many", home / "matrix", value="price", memory=64 << 20)
        )
        found += refusal(got, "bent") + wrong(nothing=names(home)[:1] == ["many"] and "matrix" not in names(home))
    return found + _as_before(home)


def _null_deep(home: Path) -> list[str]:
    records = _records()
    price = records["price"].astype(object)
    price[[70_001, 80_000]] = None
    path = _parquet(home / "events.parquet", records, price=price.tolist())
    keep = np.ones(90_000, bool)
    keep[[70_001, 80_000]] = False
    found = refusal(caught(lambda: _read(path)), "price", "2")
    stored = caught(lambda: lfm_np.StoredMatrix.from_parquet(path, home / "matrix", value="price", memory=64 << 20))
    found += refusal(stored, "price") + wrong(nothing=names(home) == ["events.parquet"])
    return found + wrong(dropped=np.array_equal(_read(path, nulls="drop"), _sums(records, keep))) + _as_before(home)


def _infinite_deep(home: Path) -> list[str]:
    records = _records()
    records["price"][88_888] = np.inf
    path = _parquet(home / "events.parquet", records)
    found = refusal(caught(lambda: _read(path)), "price|value", "finite|inf")
    return found + _as_before(home)


def _text(records: dict[str, Any]) -> list[str]:
    rows = zip(records["user"], records["item"], records["price"], strict=True)
    return ["user,item,price", *(f"{u},{i},{p}" for u, i, p in rows)]


def _csv(path: Path) -> np.ndarray:
    return np.nan_to_num(dense(lfm_np.Interactions.from_csv(path, value="price")))


def _cut_archives(home: Path) -> list[str]:
    """What is left of a compressed file is not all of it."""
    records = _records(20_000)
    text = "\n".join(_text(records)).encode() + b"\n"
    found = []
    for ending, raw in (("gz", gzip.compress(text)), ("bz2", bz2.compress(text, 1))):
        path = home / f"bent.csv.{ending}"
        path.write_bytes(raw)
        found += wrong(**{f"whole_{ending}": np.array_equal(_csv(path), _sums(records))})
        for size in (len(raw) // 2, len(raw) - 5):
            path.write_bytes(raw[:size])
            try:
                told = np.array_equal(_csv(path), _sums(records))  # where only the check sum was cut
            except (OSError, ValueError, EOFError) as error:
                told = bool(str(error))
            found += [] if told else [f"{ending}, {size} of {len(raw)} bytes"]
    return found


def _bent_lines(home: Path) -> list[str]:
    records, path = _records(50_000), home / "bent.csv"
    lines = _text(records)
    found = []
    for bad, words in (
        ("7,8,cheap", "value must be a column of numbers"),
        ("7,8,1.5,9", "bent|columns|fields|line|row"),
        ("7,8", "bent|columns|fields|line|row"),
        ("7,,1.5", "item|null"),
    ):
        path.write_text("\n".join([*lines[:45_000], bad, *lines[45_000:]]) + "\n")
        found += refusal(caught(lambda: _csv(path)), words)
    path.write_text("\n".join(lines))
    return found + wrong(whole=np.array_equal(_csv(path), _sums(records)))


def _not_text(home: Path) -> list[str]:
    path = home / "bent.csv"
    path.write_bytes(b"user,item,price\n" + b"ann,tea,1\n" * 30_000 + b"\xff\xfe\xfd,tea,2\n")
    try:
        data = lfm_np.Interactions.from_csv(path, value="price")
        return wrong(both=len(data.users) == 2, values=sorted(data.matrix.data.tolist()) == [2.0, 30_000.0])
    except (ValueError, OSError) as error:
        return wrong(told=tells(error, "utf|bent|user"))


def _empty_tables(home: Path) -> list[str]:
    found = []
    for text in ("", "\n", "user,item,price\n"):
        (home / "bent.csv").write_text(text)
        try:
            matrix = _csv(home / "bent.csv")
            found += [] if text.startswith("user") and matrix.shape == (0, 0) else [f"{text!r} gave {matrix.shape}"]
        except (ValueError, OSError) as error:
            found += [] if tells(error, "bent|user|item|empty|record|column") else [f"{text!r}: {error!r}"]
    return found


def _lists_too_large(home: Path) -> list[str]:
    import pyarrow.parquet as pq

    draw = np.random.default_rng(3)
    factors = lfm_np.Factors(draw.normal(size=(400, 3)), draw.normal(size=(20, 3)))
    data = lfm_np.Interactions(csr(np.ones((400, 20))), np.arange(400) * 10, np.arange(20) + 100)
    path = home / "lists.parquet"
    lfm_np.recommend_parquet(factors, data, path, N=1)
    old = path.read_bytes()
    with largest_file(1500):
        limited = caught(lambda: lfm_np.recommend_parquet(factors, data, path, N=15))
    unknown = caught(lambda: lfm_np.recommend_parquet(factors, data, path, [0, 3], N=2))
    elsewhere = caught(lambda: lfm_np.recommend_parquet(factors, data, home / "no" / "lists.parquet"))
    whole = path.read_bytes() == old and names(home) == ["lists.parquet"]
    lfm_np.recommend_parquet(factors, data, path, [30, 0], N=3, exclude=[105])
    table = pq.read_table(path).to_pydict()
    S, some = factors.user_factors @ factors.item_factors.T, np.arange(20) != 5
    mine = [i + 100 for u in (3, 0) for i in best(S[u], some, 3)]
    return refusal(unknown, "users", "3") + wrong(
        limited=isinstance(limited, OSError),
        elsewhere=isinstance(elsewhere, OSError),
        whole=whole,
        lists=table["item"] == mine and table["user"] == [30] * 3 + [0] * 3 and table["rank"] == [1, 2, 3] * 2,
    )


def _no_descriptor_for_tables(home: Path) -> list[str]:
    found = _as_before(home)
    path = home / "plain.parquet"
    (home / "plain.csv").write_text("\n".join(_text(_records(500))))
    found += wrong(csv=np.array_equal(_csv(home / "plain.csv"), _sums(_records(500))))
    with few_files():
        errors = [caught(lambda: _read(path)), caught(lambda: _csv(home / "plain.csv"))]
    return found + wrong(errors=all(isinstance(e, OSError) for e in errors)) + _as_before(home)


def _copied_interactions(home: Path) -> list[str]:
    """Copies and pickles are as unwritable as what they were made of, and split as it does."""
    X = csr(np.where(np.arange(12).reshape(3, 4) % 5 > 0, 2.0, np.nan))
    data = lfm_np.Interactions(X, np.array(["a", "b", "c"]), np.arange(4), np.arange(X.nnz)[::-1].copy())
    X.data[:] = 7
    found = []
    for n, one in enumerate((data, copy.copy(data), copy.deepcopy(data), pickle.loads(pickle.dumps(data)))):
        for name in ("data", "indices", "indptr"):
            array = getattr(one.matrix, name)
            got = caught(lambda a=array: a.__setitem__(0, 1))  # type: ignore[misc]
            found += [] if isinstance(got, ValueError) else [f"copy {n}: {name} can be written"]
        test = one.split("last")[1].matrix.toarray()
        # times fall, so that a row's first cell is its latest: columns 1, 0 and 0 where 0, 5 and 10 are empty
        found += wrong(**{f"last_{n}": test.tolist() == [[0, 2, 0, 0], [2, 0, 0, 0], [2, 0, 0, 0]]})
    return found


def cases() -> list[Case]:
    found = [
        _case("a stored matrix over a folder of letters", _stored_over_a_folder),
        _case("a stored matrix at three limits of a file's size", _stored_too_large),
        _case("every file of a stored matrix with a bit turned", _stored_flipped),
        _case("files of a stored matrix that are cut before the fit", _stored_cut_later),
        _case("a stored matrix that is gone before the fit", _stored_gone_later),
        _case("factors on a disk and a callback that raises", _stored_factors_elsewhere),
        _case("four build one stored matrix", _stored_by_many),
        _case("four fit one stored matrix", _stored_fitted_by_many),
        _case("ratings of MovieLens's kind that are not", _bad_ratings),
        _case("copies and pickles of interactions", _copied_interactions),
    ]
    if installed("pyarrow", "narwhals"):
        tables = [
            ("Parquet files cut in four places, one of two in a folder", _cut_parquet),
            ("two nulls after 70,000 records", _null_deep),
            ("an infinite price after 88,000 records", _infinite_deep),
            ("compressed CSV that was cut", _cut_archives),
            ("four kinds of bent lines after 45,000", _bent_lines),
            ("an id that is no text after 30,000 lines", _not_text),
            ("tables with nothing in them", _empty_tables),
            ("lists that do not fit, of unknown users, into no folder", _lists_too_large),
            ("no descriptor for a table", _no_descriptor_for_tables),
        ]
        found += [_case(name, work, "pyarrow.parquet", "pyarrow.dataset", "pyarrow.csv") for name, work in tables]
    return found
