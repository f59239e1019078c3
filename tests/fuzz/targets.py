"""What is fuzzed: functions of bytes that raise for nothing but a bug."""

import hashlib
import os
import re
import tempfile
from pathlib import Path

import numpy as np
import oracles_data as oracle
from strategies import DUPLICATES

from lfm_np import Factors, Interactions, Status, to_csr

# A file is truncated for each input, which takes milliseconds on a disk and microseconds in memory.
FOLDER = tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None)
DIGEST = re.compile(rb'"sha256":"([^"]{64})"')
TENSORS = ("user_factors", "item_factors", "user_bias", "item_bias")


def valid_files():
    """Small model files of every kind."""
    path, rng = Path(FOLDER.name, "valid"), np.random.default_rng(0)
    for dtype, k, biases in (("f4", 3, True), ("f8", 2, False), ("f4", 0, False), ("f8", 1, True)):
        U, V = rng.normal(size=(4, k)).astype(dtype), rng.normal(size=(5, k)).astype(dtype)
        b = {"user_bias": U[:, :1].sum(1), "item_bias": V[:, :1].sum(1), "global_bias": 0.5} if biases else {}
        history = [{"iteration": 1, "objective": 2.5, "seconds": 0.1}]
        Factors(U, V, **b, history=history, status=Status.STOPPED, params={"factors": k, "name": "ä"}).save(path)
        yield path.read_bytes()


def resealed(data):
    """``data`` with a checksum that is right, if there is a place for one."""
    found = DIGEST.search(data)
    if found is None:
        return data
    start, stop = found.span(1)
    blank = data[:start] + b"0" * 64 + data[stop:]
    return data[:start] + hashlib.sha256(blank).hexdigest().encode() + data[stop:]


def load(data):
    """The model in ``data``, or None if it is refused; anything else is a bug."""
    path = Path(FOLDER.name, "model")
    path.write_bytes(data)
    try:
        factors = Factors.load(path)
    except ValueError as error:
        if not str(error).startswith(f"{path} is not a whole and valid model file: "):
            raise
        return None
    (m, n), k = factors.shape, factors.user_factors.shape[1]
    assert factors.user_factors.shape == (m, k)
    assert factors.item_factors.shape == (n, k)
    for array in (getattr(factors, name) for name in TENSORS):
        assert array is None or (np.isfinite(array).all() and array.dtype == factors.user_factors.dtype)
    assert isinstance(factors.status, Status)
    return factors


def load_model(data):
    """The first byte says whether the rest gets a right checksum, without which nothing changed gets far."""
    seal, data = data[:1] > b"\x7f", data[1:]
    factors = load(resealed(data) if seal else data)
    if factors is not None:
        path = Path(FOLDER.name, "again")
        factors.save(path)
        again = load(path.read_bytes())
        for name in TENSORS:
            np.testing.assert_array_equal(getattr(factors, name), getattr(again, name))


def make_csr(data):
    """Options, then records of three bytes or nine: row, column, value; against the oracle."""
    options, rest = (data[:2] + b"\0\0")[:2], data[2:]
    wide, given, has_values = options[0] & 1, options[0] & 2, options[0] & 4
    size = 9 if wide else 3
    table = np.frombuffer(rest[: len(rest) // size * size], np.uint8).reshape(-1, size)
    number = (">i4" if options[0] & 8 else ">u4") if wide else ("i1" if options[0] & 8 else "u1")
    pairs = np.ascontiguousarray(table[:, :-1]).view(number).reshape(-1, 2).astype(np.int64)
    values = table[:, -1].astype(np.int8) / 4
    values[values == 31.75] = np.nan
    values[values == -32] = np.inf
    duplicates = (*DUPLICATES, "error", "other")[options[1] % 7]
    shape = (options[1], 300) if given or wide else None  # a million rows may be right, but take their memory
    wrong = (
        (pairs < 0).any()
        or (has_values and not np.isfinite(values).all())
        or (shape is not None and len(pairs) and (pairs >= shape).any())
        or duplicates == "other"
        or (duplicates == "error" and len(set(map(tuple, pairs.tolist()))) < len(pairs))
    )
    before = pairs.copy()
    try:
        X = to_csr(pairs, shape=shape, values=values if has_values else None, duplicates=duplicates)
    except ValueError:
        assert wrong
        return
    assert not wrong
    np.testing.assert_array_equal(pairs, before)
    rule = "sum" if duplicates == "error" else duplicates
    expected = oracle.cells(pairs.tolist(), values if has_values else np.ones(len(pairs)), rule)
    X.check_format(full_check=True)
    assert X.has_canonical_format
    assert X.dtype == np.float32
    rows = np.repeat(np.arange(X.shape[0]), np.diff(X.indptr))
    found = zip(rows.tolist(), X.indices.tolist(), X.data.tolist())
    assert [*found] == [(i, j, float(np.float32(value))) for (i, j), (value, _) in sorted(expected.items())]


def read_csv(data):
    """The first byte says how, the rest is the file."""
    how, path = (data[:1] or b"\0")[0], Path(FOLDER.name, "table.csv")
    path.write_bytes(data[1:])
    options = {
        "delimiter": ";" if how & 1 else ",",
        "column_names": ["user", "item", "value"] if how & 2 else None,
        "value": "value" if how & 4 else None,
        "nulls": "drop" if how & 8 else "error",
        "duplicates": "last" if how & 16 else "sum",
    }
    try:
        found = Interactions.from_csv(path, **options)
    except (ValueError, TypeError):
        return
    X = found.matrix
    X.check_format(full_check=True)
    assert X.has_canonical_format
    assert np.isfinite(X.data).all()
    assert X.shape == (len(found.users), len(found.items))
    for ids, axis in ((found.users, 1), (found.items, 0)):
        assert len(set(ids.tolist())) == len(ids)
        assert (np.bincount(X.tocoo().coords[1 - axis], minlength=len(ids)) > 0).all()


def csv_files():
    yield b"\x04user,item,value\na,1,2.5\nb,2,3\na,1,4\n"
    yield b'\x0ffirst;1;2\n"se;cond";2;\n;3;1\n'
    yield b"\x00user,item\n2020-01-01,\xc3\xa4\n2020-01-02,b\n"


TARGETS = {
    "load_model": (load_model, lambda: [mode + file for file in valid_files() for mode in (b"\x00", b"\xff")]),
    "make_csr": (make_csr, lambda: [bytes([0, 9, 1, 2, 3, 1, 2, 5]), bytes([7, 1, *range(18)]), bytes([4, 2] * 9)]),
    "read_csv": (read_csv, lambda: [*csv_files()]),
}
