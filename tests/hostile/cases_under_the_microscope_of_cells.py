"""Numbers at both ends of their types in cells, ids, times, shares and files; Python's integers and fractions judge."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy as np
import scipy.sparse as sp

from .case import Case, Group
from .sentences_by_numpy import lfm_np, sampling
from .working_days import faultless, folder, wrong

_GROUP = Group("under the microscope")
_holds = faultless(_GROUP)
TOP = float(2**128 - 2**104)  # the largest float32
TIE = float(2**128 - 2**103)  # half way to the next one, which there is not
TINY = 2.0**-149  # the smallest float32


def _single(x: float) -> float:
    """The nearest float32; ``struct`` rounds to even, and says nothing of underflow."""
    return float(struct.unpack("f", struct.pack("f", x))[0])


def _cell(values: Any, duplicates: str, expected: float) -> list[str]:
    """All records are of one pair."""
    N = len(values)
    X = lfm_np.to_csr(np.zeros((N, 2), np.int64), values=values, duplicates=duplicates)
    data = lfm_np.Interactions.from_arrays(np.full(N, 7), np.full(N, 9), values, duplicates=duplicates)
    return wrong(
        one=X.nnz == 1 and X.data.dtype == np.float32,
        cell=float(X.data[0]) == expected,
        same=data.matrix.nnz == 1 and float(data.matrix.data[0]) == expected,
    )


def _sums() -> Iterator[Case]:
    for name, values, duplicates, expected in (
        ("a sum goes on beyond 2²⁴ by ones", [2.0**24, 1.0, 1.0], "sum", 2.0**24 + 2),
        ("a sum of values that float32 has not, to the unit", [2.0**40 + 1, -(2.0**40)], "sum", 1.0),
        ("a sum that leaves float32 and comes back", [TOP, TOP, -TOP], "sum", TOP),
        ("the mean of the two largest", [TOP, TOP], "mean", TOP),
        # 2²⁴ + 1.5 is nearer to 2²⁴ + 2; of the values rounded first the mean would be half way, and even is 2²⁴
        ("a mean is rounded once", [2.0**24 + 1, 2.0**24 + 2], "mean", 2.0**24 + 2),
        ("the largest of negative denormals", [-4 * TINY, -TINY], "max", -TINY),
        ("a sum of the smallest", [TINY] * 3, "sum", 3 * TINY),
        ("the mean of denormals", [2 * TINY, 4 * TINY], "mean", 3 * TINY),
        ("the last is a denormal", [1.0, TINY], "last", TINY),
        ("the largest uint64", np.array([2**64 - 1], np.uint64), "sum", 2.0**64),
        ("the lowest int64 twice", np.array([-(2**63)] * 2, np.int64), "sum", -(2.0**64)),
        ("the largest of an unsigned pair", np.array([2**63, 5], np.uint64), "max", 2.0**63),
        ("what float32 can just hold", [math.nextafter(TIE, 0.0)], "sum", TOP),
        ("a value that float32 rounds to a denormal", [1e-40], "sum", _single(1e-40)),
    ):
        yield _holds(name, lambda a=values, b=duplicates, c=expected: _cell(a, b, c))
    refused = _GROUP.refused
    for name, values in (("a value half way beyond the largest float32", [TIE]), ("a sum beyond float32", [TOP, TOP])):
        yield refused(
            name, lambda a=values: lfm_np.to_csr(np.zeros((len(a), 2), np.int64), values=a), "finite|float32|overflow"
        )


def _a_million() -> list[str]:
    """A float64 sum of a million is off by less than N·eps·Σ = 2e-5; half a step of float32 at 1e5 is 4e-3."""
    pairs = np.zeros((1_000_000, 2), np.int32)
    values = np.full(1_000_000, 0.1)
    return wrong(
        sum=lfm_np.to_csr(pairs, values=values).data.tolist() == [100_000.0],
        mean=lfm_np.to_csr(pairs, values=values, duplicates="mean").data.tolist() == [_single(0.1)],
        count=lfm_np.to_csr(pairs, values=values, duplicates="count").data.tolist() == [1e6],
    )


def _vanishes() -> list[str]:
    X = lfm_np.to_csr([(0, 0), (0, 1)], values=[1e-46, 2.0])
    return wrong(explicit=X.nnz == 2, values=X.data.tolist() == [0.0, 2.0])


def _far_columns() -> list[str]:
    X = lfm_np.to_csr(np.array([(0, 2**31 - 3), (0, 0), (0, 2**31 - 3)], np.uint64))
    return wrong(
        shape=X.shape == (1, 2**31 - 2), columns=X.indices.tolist() == [0, 2**31 - 3], values=X.data.tolist() == [1, 2]
    )


def _dictionary(pairs: Any) -> list[str]:
    mine: dict[int, set[int]] = {}
    for i, j in pairs.tolist():
        mine.setdefault(i, set()).add(j)
    found = lfm_np.build_dict(pairs)
    return wrong(
        keys=[int(i) for i in found] == sorted(mine),
        values=all([int(j) for j in found[i]] == sorted(mine[i]) for i in mine),
        dtype=all(row.dtype == pairs.dtype for row in found.values()),
    )


def _rows(ids: Any, asked: Any) -> list[str]:
    """Python compares integers and floats by value."""
    data = lfm_np.Interactions.from_arrays(ids, np.zeros(len(ids), int))
    order = sorted(set(ids.tolist()))
    expected = [order.index(x) if x in order else -1 for x in asked.tolist()]
    return wrong(ids=data.users.tolist() == order, rows=data.rows_of(asked, missing=-1).tolist() == expected)


def _zeros_are_one() -> list[str]:
    data = lfm_np.Interactions.from_arrays(np.array([0.0, -0.0, 5e-324, -5e-324]), ["a", "a", "a", "a"])
    return wrong(
        users=data.users.tolist() == [-5e-324, 0.0, 5e-324],
        cells=data.matrix.toarray().ravel().tolist() == [1, 2, 1],
        found=data.rows_of(np.array([-0.0, 0.0, 5e-324])).tolist() == [1, 1, 2],
    )


def _latest(times: Any, winner: int) -> list[str]:
    """``winner`` is the later one, whether as the last record of a pair or as the last cell of a user."""
    one = lfm_np.Interactions.from_arrays([0, 0], [0, 0], [1.0, 2.0], times, duplicates="last")
    two = lfm_np.Interactions.from_arrays([0, 0], [0, 1], timestamps=times)
    train, test = two.split("last")
    return wrong(
        value=one.matrix.data.tolist() == [winner + 1.0],
        time=one.timestamps.tolist() == [times.tolist()[winner]],
        test=np.flatnonzero(test.matrix.toarray()[0]).tolist() == [winner],
        train=np.flatnonzero(train.matrix.toarray()[0]).tolist() == [1 - winner],
    )


def _from(times: Any, *cuts: Any) -> list[str]:
    """What is not before the moment is test; Python compares numbers of both kinds exactly."""
    data = lfm_np.Interactions.from_arrays(np.zeros(len(times), int), np.arange(len(times)), timestamps=times)
    faults = []
    for at in cuts:
        mine = [t >= at for t in times.tolist()]
        train, test = data.split("time", at=at)
        found = (test.matrix.toarray()[0] > 0).tolist()
        if found != mine or (train.matrix.toarray()[0] > 0).tolist() != [not t for t in mine]:
            faults.append(f"at={at!r}: {found}")
    return faults


def _dates() -> list[str]:
    far = np.array(["1970-01-01", "2262-04-12", "2400-01-01"], "datetime64[s]")
    near = np.array([-(2**63) + 1, 0, 2**63 - 1], np.int64).view("datetime64[ns]")
    faults = []
    for times, at, mine in (
        (far, np.datetime64(2**63 - 1, "ns"), [False, True, True]),
        (near, np.datetime64("9999-12-31", "D"), [False] * 3),
        (near, np.datetime64("0001-01-01", "s"), [True] * 3),
        (near, np.datetime64(2**63 - 1, "ns"), [False, False, True]),
    ):
        data = lfm_np.Interactions.from_arrays([0, 0, 0], [0, 1, 2], timestamps=times)
        found = (data.split("time", at=at)[1].matrix.toarray()[0] > 0).tolist()
        if found != mine:
            faults.append(f"{at!r}: {found}")
    return faults


def _shares(by: str) -> list[str]:
    """0.29 · 100 is 28.999999999999996 as floats, but 29 of 100 are a share of 0.29 and no more."""
    data = lfm_np.Interactions.from_arrays(np.zeros(100, int), np.arange(100), timestamps=np.arange(100))
    faults = []
    for share, mine in ((0.29, 29), (0.57, 57), (0.07, 7), (0.14, 14)):
        assert mine / 100 <= share
        found = data.split(by, test_fraction=share, random_state=3)[1].matrix.nnz
        if found != mine:
            faults.append(f"{share}: {found}")
    return faults


def _shares_at_their_bounds() -> list[str]:
    lengths = [1, 2, 3, 7]
    users = np.repeat(np.arange(4), lengths)
    items = np.concatenate([np.arange(d) for d in lengths])
    data = lfm_np.Interactions.from_arrays(users, items)
    nearly, hardly = 1 - 2.0**-53, 5e-324
    pairs = lfm_np.datasets.make_interactions(50, 20, 6, random_state=4)
    train, test = lfm_np.datasets.make_interactions_train_test(50, 20, 6, nearly, random_state=4)
    few = lfm_np.datasets.make_interactions_train_test(50, 20, 6, hardly, random_state=4)
    return wrong(
        nearly=np.diff(data.split(test_fraction=nearly, random_state=0)[0].matrix.indptr).tolist() == [1] * 4,
        hardly=data.split(test_fraction=hardly, random_state=0)[1].matrix.nnz == 0,
        train=train[:, 0].tolist() == list(range(50)),
        test=len(test) >= 50 and len(np.unique(np.vstack([train, test]), axis=0)) == len(train) + len(test),
        whole=np.array_equal(few[0][np.lexsort(few[0].T[::-1])], few[0]) and len(few[1]) == 0 and len(pairs) >= 50,
    )


def _thresholds() -> list[str]:
    data = lfm_np.Interactions.from_arrays([0] * 5, list(range(5)), [0.0, TINY, 0.7, 1.0, TOP])
    faults = []
    for threshold, mine in (
        (5e-324, [1, 2, 3, 4]),
        (1e-300, [1, 2, 3, 4]),
        (0.7, [2, 3, 4]),  # the cell holds 0.7 as float32 has it
        (1.0, [3, 4]),
        (math.nextafter(1.0, 2.0) + 1e-6, [4]),
        (1e39, []),
        (1e308, []),
        (-1e308, [0, 1, 2, 3, 4]),
    ):
        found = data.binarize(threshold).matrix
        if found.indices.tolist() != mine or found.data.tolist() != [1.0] * len(mine):
            faults.append(f"{threshold}: {found.indices.tolist()}")
    return faults


def _bytes_beyond_64_bits() -> list[str]:
    """At 2⁶¹ cells everything else is nothing; "within 15 %" of the sentences on what a cell takes."""
    m = n = 2**31 - 2
    cells = 2**61
    faults = []
    for words, each in (
        ({"solver": "sgd"}, 16),
        ({"solver": "sgd", "sampled": False}, 12),
        ({"solver": "sgd", "uses_values": True}, 20),
        ({"solver": "sgd", "uses_values": True, "dtype": "float64"}, 24),
    ):
        found = lfm_np.estimate_memory(m, n, cells, factors=1, num_threads=1, **words)
        if not (isinstance(found, int) and 0.85 * each < found / cells < 1.15 * each):
            faults.append(f"{words}: {found / cells}")
    for dtype, each in (("float32", 8), ("float64", 12)):
        found = lfm_np.estimate_memory(m, n, cells, factors=65_536, num_threads=1, dtype=dtype)
        if not (isinstance(found, int) and found > 0.85 * each * cells):
            faults.append(f"als {dtype}: {found / cells}")
    return faults


def _planted() -> list[str]:
    """Six deviations of √m/2, and exactly m or m·n/4 where there is no room."""
    faults = []
    for cells, words in (
        (200, {"rank": 1, "tail": 1 + 2.0**-52, "zipf": 0.0}),
        (200, {"rank": 40, "tail": 100.0, "zipf": 10.0}),
        (50, {"rank": 1, "tail": 100.0}),
        (500, {"rank": 2, "tail": 1 + 2.0**-52, "zipf": 10.0}),
    ):
        X = lfm_np.datasets.planted(50, 40, cells, random_state=1, **words).matrix
        if abs(X.nnz - cells) > 6 * math.sqrt(50) / 2 or X.shape != (50, 40) or set(X.data.tolist()) != {1.0}:
            faults.append(f"{cells}, {words}: {X.nnz}")
    return faults


def _masses(beta: int, counts: list[int]) -> list[str]:
    mass = [int(x) for x in sampling.masses(sampling.Popularity(float(beta)), np.array(counts, np.int64))]
    total, powers = sum(mass), [c**beta for c in counts]
    before = [int(x) for x in sampling.cumulative(np.array(mass, np.int64), len(mass))]
    return wrong(
        near=all(
            abs(Fraction(a, total) - Fraction(b, sum(powers)))
            <= Fraction(1, 2**50)  # 2⁻⁵² as said, and the rounding of powers and of their sum
            for a, b in zip(mass, powers, strict=True)
        ),
        fits=total < 2**63 and min(mass) >= 0,
        before=before == [sum(mass[:j]) for j in range(len(mass) + 1)],
    )


def _bits(array: Any) -> bytes:
    return bytes(array.tobytes())


def _kept(dtype: Any) -> list[str]:
    kind = np.finfo(dtype)
    ends = np.array([kind.max, kind.min, kind.smallest_subnormal, -kind.smallest_subnormal, kind.tiny, -0.0], dtype)
    U, V = ends.reshape(3, 2), np.array([[-0.0, 1.0]], dtype)
    bias = ends[[2, 5, 0]].copy()
    numbers = {"a": 5e-324, "b": 1.7976931348623157e308, "c": 2**53 + 1, "d": 0.1 + 0.2, "e": -0.0, "f": 2**70}
    mean = 5e-324 if dtype == np.float64 else 0.1
    model = lfm_np.Factors(
        U, V, user_bias=bias, global_bias=mean, history=[{"iteration": 1, **numbers}], params=dict(numbers)
    )
    with folder() as place:
        model.save(place / "model")
        faults = []
        for mmap in (False, True):
            found = lfm_np.Factors.load(place / "model", mmap=mmap)
            record = dict(found.history[0])
            faults += wrong(
                U=_bits(found.user_factors) == _bits(U) and found.user_factors.dtype == dtype,
                V=_bits(found.item_factors) == _bits(V),
                bias=_bits(found.user_bias) == _bits(bias),
                mean=found.global_bias == mean,
                history=[repr(record[name]) for name in numbers] == [repr(x) for x in numbers.values()],
                params=[repr(found.params[name]) for name in numbers] == [repr(x) for x in numbers.values()],
            )
            del found
    return faults


def _stored() -> list[str]:
    values = [5e-324, 1e308, 2.0**53 + 2, 1e-310]
    X = sp.csr_array((values, [0, 2, 1, 2], [0, 2, 2, 4]), shape=(3, 3))
    with folder() as place:
        stored = lfm_np.StoredMatrix.from_matrix(X, place / "matrix", dtype="float64", num_threads=1)
        rows = np.load(place / "matrix" / "rows.data.npy")
        columns = np.load(place / "matrix" / "columns.data.npy")
        return wrong(
            rows=rows.tolist() == values,
            columns=columns.tolist() == [5e-324, 2.0**53 + 2, 1e308, 1e-310],
            nnz=stored.nnz == 4 and stored.shape == (3, 3) and stored.dtype == np.float64,
        )


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    yield from _sums()
    yield _holds("a million tenths in a cell", _a_million)
    yield _holds("a value that float32 has not even as a denormal is an explicit zero", _vanishes)
    yield _holds("the last column but one that 31 bits can name", _far_columns)
    top = 2**63 - 1
    for kind, pairs in (
        ("int64", np.array([(top, top), (0, top), (top, 0), (top - 1, top), (top, top)], np.int64)),
        ("uint64", np.array([(2**64 - 1, 5), (5, 2**64 - 1), (2**63, 0), (5, 2**63)], np.uint64)),
        ("int8", np.array([(127, 126), (127, 127), (0, 127)], np.int8)),
    ):
        yield _holds(f"a dictionary of the ends of {kind}", lambda p=pairs: _dictionary(p))
    for name, ids, asked in (
        (
            "−1 is not the largest unsigned id",
            np.array([2**64 - 1, 5, 2**63], np.uint64),
            np.array([-1, 5, -(2**63)], np.int64),
        ),
        (
            "the largest unsigned number is not the id −1",
            np.array([-1, 5, -(2**63)], np.int64),
            np.array([2**64 - 1, 5, 2**63], np.uint64),
        ),
        (
            "ids beyond 2⁵³ and their unsigned neighbours",
            np.array([2**53, 2**53 + 2, -(2**53) - 1], np.int64),
            np.array([2**53 + 1, 2**53 + 2, 2**53], np.uint64),
        ),
    ):
        yield _holds(name, lambda a=ids, b=asked: _rows(a, b))
    yield _GROUP.either(
        "an integer that a float id only resembles",
        lambda: (
            lfm_np.Interactions.from_arrays(np.array([2.0**53, 1.0]), [0, 0])
            .rows_of(np.array([2**53 + 1, 1]), missing=-1)
            .tolist()
        ),
        lambda rows: rows == [-1, 0],
        "user|id",
    )
    yield _holds("ids that are zeros of both signs, and their neighbours", _zeros_are_one)
    for name, times, winner in (
        ("times beyond 2⁵³ that differ by one", np.array([2**53 + 1, 2**53], np.int64), 0),
        ("times at both ends of int64", np.array([2**63 - 1, -(2**63)], np.int64), 0),
        ("unsigned times", np.array([2**63, 5], np.uint64), 0),
        ("times that are denormals", np.array([1e-323, 5e-324]), 0),
        ("times that are zeros of both signs are equal", np.array([0.0, -0.0]), 1),
        ("times that differ in their last bit", np.array([0.1 + 0.2, 0.3]), 0),
        ("times of one byte", np.array([127, -128], np.int8), 0),
    ):
        yield _holds(name, lambda t=times, w=winner: _latest(t, w))
    p = 2**53
    for name, times, cuts in (
        ("moments beyond 2⁵³", np.array([p - 1, p, p + 1, p + 2], np.int64), (p + 1, float(p), p + 2)),
        ("moments at the ends of int64", np.array([-(2**63), 1 - 2**63, 0, 2**63 - 1], np.int64), (1 - 2**63, 2.0**63)),
        ("moments outside of every integer type", np.array([1, 2], np.int8), (2**70, -(2**70), 300, -129)),
        ("unsigned moments", np.array([0, 2**63, 2**64 - 1], np.uint64), (2**63, 2**64 - 1, -1, 2**64)),
        ("a whole moment between two floats", np.array([2.0**53, 2.0**53 + 2]), (p + 1,)),
        ("moments next to zero", np.array([0.0, -0.0, -5e-324, 5e-324]), (0.0, -0.0, 5e-324)),
        ("a broken moment between whole ones", np.array([1, 2, 3]), (1.5, math.nextafter(2.0, 3.0))),
    ):
        yield _holds(name, lambda t=times, c=cuts: _from(t, *c))
    yield _holds("dates at the ends of nanoseconds", _dates)
    yield _holds("a share of the latest that floats miss", lambda: _shares("time"))
    yield _holds("a share of each user's that floats miss", lambda: _shares("random"))
    yield _holds("shares next to 0 and to 1", _shares_at_their_bounds)
    yield _holds("thresholds that float32 has not", _thresholds)
    yield _holds("bytes beyond 64 bits", _bytes_beyond_64_bits)
    yield _holds("planted at the ends of every parameter", _planted)
    for beta, counts in ((10, [1, 10, 100]), (10, [2**31, 2**31 - 1, 1, 0]), (1, [2**40 + 1, 2**40, 3])):
        yield _holds(f"masses of {counts} to the {beta}", lambda b=beta, c=counts: _masses(b, c))
    for dtype in (np.float32, np.float64):
        yield _holds(f"a file keeps the ends of {dtype.__name__}, bit for bit", lambda d=dtype: _kept(d))
    yield _holds("a matrix on disk keeps denormals", _stored)
