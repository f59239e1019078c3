"""The fourth sitting: numbers that lie on disks, mapped or saved over themselves, and data of other tables."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

import lfm_np
from lfm_np import Interactions, StoredMatrix

from .case import Case, Group, installed
from .cases_fourth_sitting_data_in_cells import told
from .places import inside, same
from .working_days import (
    NAN,
    Model,
    all_scores,
    best,
    close,
    csr,
    dense,
    faultless,
    judged,
    raised,
    stars,
    start,
    tells,
    wrong,
)

_GROUP = Group("fourth sitting, data")
_holds = faultless(_GROUP)


def _other_tables_test() -> list[str]:
    """Test events of another table, by the numbers of the users and items that are known."""
    draw = np.random.default_rng(48)
    m, n = 20, 12
    known = draw.random((m, n)) < 0.3
    known[np.arange(m), np.arange(m) % n] = True
    users, items = np.nonzero(known)
    train = Interactions.from_arrays([f"p{u:02}" for u in users], (items * 10).tolist())
    events = sorted(
        {(int(u), int(i)) for u, i in zip(draw.integers(0, 30, 120), draw.integers(0, 18, 120), strict=True)}
    )
    rows = train.rows_of([f"p{u:02}" for u, _ in events], missing=-1)
    columns = train.columns_of([i * 10 for _, i in events], missing=-1)
    both = (rows >= 0) & (columns >= 0)
    test = lfm_np.to_csr(np.column_stack([rows, columns])[both], shape=train.shape)
    held = np.zeros((m, n), bool)
    for u, i in events:
        if u < m and i < n:
            held[u, i] = True
    fit = lfm_np.als(train, factors=4, regularization=0.2, iterations=3, dtype="float64", random_state=1)
    found = lfm_np.evaluate(fit, train, test, ["recall@3", "ndcg@3", "map@3", "mrr", "auc"])
    mine = judged(all_scores(fit), known, held, 3)
    J = Model(lam=0.2).objective(np.where(known, 1.0, NAN), fit.user_factors, fit.item_factors)
    return wrong(
        rows=rows.tolist() == [u if u < m else -1 for u, _ in events],
        columns=columns.tolist() == [i if i < n else -1 for _, i in events],
        means=all(abs(value - mine[name]) < 1e-12 for name, value in found.items()),
        objective=close(fit.history[-1]["objective"], J, 1e-9),
        strangers=tells(raised(lambda: train.rows_of(["p00", "p29"])), "p29"),
    )


def _without_a_sign() -> list[str]:
    """Rows and columns up to 2^64 - 1 are keys and entries as they are."""
    top = 2**64 - 1
    pairs = [(top, 0), (2**63, top), (0, 2**63), (top, top - 1), (top, 0), (2**53 + 1, 2**53), (top, 2**63 - 1)]
    found = lfm_np.build_dict(np.array(pairs, np.uint64))
    mine: dict[int, list[int]] = {}
    for i, j in sorted(set(pairs)):
        mine.setdefault(i, []).append(j)
    return wrong(
        same={key: value.tolist() for key, value in found.items()} == mine,
        order=list(found) == list(mine),
        dtype={value.dtype for value in found.values()} == {np.dtype(np.uint64)},
    )


def _several_of_one_value() -> list[str]:
    """A pair 257 times over: its sum, mean, maximum and number, each rounded once."""
    values = np.arange(257) * 0.1 - 3.3
    pairs = np.array([(3, 1)] * 257 + [(0, 0), (3, 0)])
    given = np.concatenate([values, [16_777_217.0, -0.0]])
    exact = math.fsum(values.tolist())
    mine = {"sum": exact, "mean": exact / 257, "max": values[-1], "count": 257, "last": values[-1]}
    bad = []
    for how, value in mine.items():
        X = lfm_np.to_csr(pairs, shape=(5, 3), values=given, duplicates=how)
        # float64 sums of 257 numbers below 23 are right to 257 · 23 · 2^-52; half a unit of float32 is far more
        near = abs(float(X[3, 1]) - value) <= abs(value) * 2**-24 * (1 + 1e-6)
        rest = [1.0, 1.0] if how == "count" else [16_777_216.0, 0.0]
        good = (
            near and X.nnz == 3 and [float(X[0, 0]), float(X[3, 0])] == rest and X.indptr.tolist() == [0, 1, 1, 1, 3, 3]
        )
        bad += [] if good else [how]
    return bad


def _mapped_arrays(place: Path) -> list[str]:
    """The arrays of the folder, mapped, are a matrix like others."""
    X = stars(17, 23, seed=51)
    stored = StoredMatrix.from_matrix(csr(X, np.float32), place / "m")
    sides = []
    for side, shape in (("rows", X.shape), ("columns", X.shape[::-1])):
        parts = [np.load(place / "m" / f"{side}.{part}.npy", mmap_mode="r") for part in ("data", "indices", "indptr")]
        sides.append(sp.csr_array(tuple(parts), shape=shape))
    rows, columns = sides
    U, V = (F.astype(np.float32) for F in start(17, 23, 3))
    rule = Model("ials", alpha=2.0, a0=0.5, lam=0.2, nu=0.5)
    words: dict[str, Any] = {"factors": 3, "iterations": 2, "init": (U, V), "random_state": 0, **rule.words}
    fits = [lfm_np.als(X, **words) for X in (rows, stored, StoredMatrix(place / "m", memory=64 << 20))]
    users, items = rule.sweeps(X, V.astype(np.float64), 2)
    S = all_scores(fits[0])
    ids = fits[0].recommend(np.arange(17), N=23, seen=rows).ids.tolist()
    return wrong(
        turned=np.array_equal(dense(columns).T, X, equal_nan=True) and np.array_equal(dense(rows), X, equal_nan=True),
        bits=same(fits[0], fits[1]) and same(fits[0], fits[2]),
        scores=close(S, users @ items.T, 1e-4),  # float32, and systems whose condition is below a hundred
        lists=ids == [best(s, np.isnan(x), 23) for s, x in zip(S, X, strict=True)],
    )


def _mostly_nothing(place: Path) -> list[str]:
    """257 rows and 7 columns with three cells: the last rows and columns are empty."""
    X = np.full((257, 7), NAN)
    X[0, 3], X[2, 3], X[2, 1] = 2.0, 1.0, 4.0
    stored = StoredMatrix.from_matrix(csr(X), place / "m", dtype=np.float64)
    rule = Model(alpha=3.0, a0=0.25, lam=0.125, nu=1.0)
    words: dict[str, Any] = {"factors": 8, "iterations": 3, "random_state": 3, "dtype": "float64", **rule.words}
    fit, memory = lfm_np.als(stored, **words), lfm_np.als(csr(X), **words)
    users, items = (np.flatnonzero(F.any(1)).tolist() for F in (fit.user_factors, fit.item_factors))
    J = rule.objective(X, fit.user_factors, fit.item_factors)
    return wrong(
        size=(stored.shape, stored.nnz, stored.dtype) == ((257, 7), 3, np.float64),
        users=users == [0, 2],
        items=items == [1, 3],
        bits=same(fit, memory),
        objective=close(fit.history[-1]["objective"], J, 1e-9),
    )


def _over_itself(place: Path) -> list[str]:
    """A mapped model takes a day in and is saved where it came from, five nights in turn."""
    draw = np.random.default_rng(52)
    m, n, path = 9, 14, place / "model.safetensors"
    rule = Model(alpha=1.5, a0=0.5, lam=0.3, nu=0.5)
    X = stars(m, n, seed=53)
    first = lfm_np.als(csr(X), factors=4, iterations=3, dtype="float64", random_state=0, **rule.words)
    first.save(path)
    mine, V = first.user_factors.copy(), first.item_factors.copy()
    held, bad = [], []
    for night in range(5):
        model = lfm_np.Factors.load(path, mmap=True)
        held.append((model, mine.copy()))
        day = np.where(draw.random((2, n)) < 0.5, draw.integers(1, 6, (2, n)), NAN)
        grown = model.update(csr(day), users=[m + night, night])
        solved = rule.half(day, V)
        mine = np.vstack([mine, solved[:1]])
        mine[night] = solved[1]
        grown.save(path)
        if not close(grown.user_factors, mine, 1e-9):
            bad.append(f"night {night}")
        mine = grown.user_factors.copy()
    last = lfm_np.Factors.load(path)
    return bad + wrong(
        held=all(np.array_equal(model.user_factors, before) for model, before in held),
        items=all(np.array_equal(model.item_factors, V) for model in (last, *(model for model, _ in held))),
        last=np.array_equal(last.user_factors, mine) and last.shape == (m + 5, n),
        alone=os.listdir(place) == [path.name],
    )


def _state_of_the_sweep_before(place: Path) -> list[str]:
    """A save comes after the sweep and its callback, which therefore sees the file of the sweep before."""
    X, path = stars(20, 12, seed=54), place / "state"
    rule = Model(lam=0.4)
    V = start(20, 12, 3)[1]
    words: dict[str, Any] = {
        "factors": 3,
        "dtype": "float64",
        "init": start(20, 12, 3),
        "random_state": 0,
        **rule.words,
    }

    def watch(record: dict[str, Any], factors: Any) -> None:
        if path.exists():
            shutil.copy(path, place / f"after {record['iteration'] - 1}")
        record["note"] = record["iteration"] * 10

    lfm_np.als(csr(X), iterations=4, checkpoint=path, callback=watch, **words)
    shutil.copy(path, place / "after 4")
    bad = wrong(copies=sorted(os.listdir(place)) == [*(f"after {done}" for done in (1, 2, 3, 4)), "state"])
    for done in (1, 2, 3, 4):
        asked: list[Any] = []
        again = lfm_np.als(
            csr(X),
            iterations=done,
            checkpoint=place / f"after {done}",
            callback=lambda record, factors, asked=asked: asked.append(record),
            **words,
        )
        users, items = rule.sweeps(X, V, done)
        J = rule.objective(X, users, items)
        facts = {
            "no other sweep": asked == [],
            "notes": [record["note"] for record in again.history] == [10 * (sweep + 1) for sweep in range(done)],
            "scores": close(all_scores(again), users @ items.T, 1e-9),
            "objective": close(again.history[-1]["objective"], J, 1e-9),
        }
        bad += [f"{done}: {fact}" for fact in wrong(**facts)]
    return bad


def _of_ones_own(place: Path) -> list[str]:
    """A file of LFM_NP_DATA is read as it is, whatever checksum a download would have to have."""
    users, items = np.array([4, 0, 4, 2]), np.array([1, 1, 0, 2])
    values, times = np.array([3.5, 0.5, 5.0, 2.0], np.float32), np.array([40, 10, 30, 20])
    np.savez(place / "ml-latest-small.npz", user=users, item=items, value=values, timestamp=times)
    before = os.environ.get("LFM_NP_DATA")
    os.environ["LFM_NP_DATA"] = str(place)
    try:
        found = lfm_np.datasets.movielens("latest-small", checksum="md5:" + "0" * 32)
        records = lfm_np.datasets.movielens_records("latest-small", checksum="sha256:" + "1" * 64)
    finally:
        del os.environ["LFM_NP_DATA"]
        if before is not None:
            os.environ["LFM_NP_DATA"] = before
    return wrong(
        cells=told(found) == {(1, 2): (0.5, 10.0), (3, 3): (2.0, 20.0), (5, 1): (5.0, 30.0), (5, 2): (3.5, 40.0)},
        order=found.users.tolist() == sorted(found.users.tolist()),
        records=[part.tolist() for part in records] == [[5, 1, 5, 3], [2, 2, 1, 3], values.tolist(), times.tolist()],
    )


def _planted_at_the_ends() -> list[str]:
    """The number of cells is met on average, whatever tail, rank and popularity; at its least and its largest, too."""
    m, n = 240, 24
    bad = []
    for cells in (m, 2 * m + 1, m * n // 4):
        for words in ({"tail": 1.05, "zipf": 0.0, "rank": 1}, {"tail": 100.0, "zipf": 10.0, "rank": n}, {}):
            found = [lfm_np.datasets.planted(m, n, cells, random_state=seed, **words) for seed in range(12)]
            off = [data.matrix.nnz - cells for data in found]
            # a standard deviation of at most half the root of m: six of them, of one and of the mean of twelve
            limit = 6 * math.sqrt(m) / 2
            good = max(map(abs, off)) <= limit and abs(np.mean(off)) <= limit / math.sqrt(12)
            whole = all(data.shape == (m, n) and (data.matrix.data == 1).all() for data in found)
            distinct = all(len(set(zip(*(c.tolist() for c in d.matrix.tocoo().coords)))) == d.matrix.nnz for d in found)
            if not (good and whole and distinct):
                bad.append(f"{cells} cells, {words}")
    return bad


def _save(table: Any, path: Path, **options: Any) -> Path:
    import pyarrow.parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(table, path, **options)
    return path


def _lists_on_the_disk(place: Path) -> list[str]:
    """Lists written for all users are the records of a stored matrix, score by score."""
    draw = np.random.default_rng(61)
    pairs = sorted({(int(u), int(i)) for u, i in draw.integers(0, (40, 15), (200, 2))})
    data = Interactions.from_arrays([u * 3 for u, _ in pairs], [f"item {i}" for _, i in pairs])
    m, n = data.shape
    factors = lfm_np.Factors(*(draw.normal(size=(size, 3)).astype(np.float32) for size in (m, n)))
    lfm_np.recommend_parquet(factors, data, place / "lists.parquet", N=4, seen=data)
    stored = StoredMatrix.from_parquet(place / "lists.parquet", place / "m", value="score", memory=64 << 20)
    V, I, P = (np.load(place / "m" / f"rows.{part}.npy") for part in ("data", "indices", "indptr"))
    users, items = stored.users.tolist(), stored.items.tolist()
    found = {(users[u], items[I[c]]): float(V[c]) for u in range(len(users)) for c in range(P[u], P[u + 1])}
    S = factors.user_factors.astype(np.float64) @ factors.item_factors.astype(np.float64).T
    S[tuple(np.array(data.matrix.tocoo().coords))] = -np.inf
    mine = {}
    for u in range(m):
        for i in np.argsort(-S[u], kind="stable")[:4]:
            if S[u, i] > -np.inf:
                mine[data.users.tolist()[u], data.items.tolist()[i]] = float(S[u, i])
    return wrong(
        pairs=set(found) == set(mine),
        # sums of three products in float32
        scores=all(abs(found[pair] - mine.get(pair, NAN)) < 1e-5 for pair in found),
        order=users == sorted(users) and items == sorted(items),
        shape=stored.shape == (len({u for u, _ in mine}), len({i for _, i in mine})),
    )


def _counted_on_the_disk(place: Path) -> list[str]:
    """Records without nulls are counted; the fit from the disk is the one in memory, and its J that of loops."""
    import pyarrow as pa

    draw = np.random.default_rng(64)
    count = 700
    users = [None if draw.random() < 0.04 else f"u{u:02}" for u in draw.integers(0, 25, count)]
    items = [None if draw.random() < 0.04 else int(i) for i in draw.integers(-9, 9, count)]
    values = [None if draw.random() < 0.04 else float(v) for v in draw.normal(size=count)]
    table = pa.table({"user": users, "item": items, "v": values})
    path = _save(table, place / "t.parquet", row_group_size=50)
    words: dict[str, Any] = {"value": "v", "duplicates": "count", "nulls": "drop"}
    stored = StoredMatrix.from_parquet(path, place / "m", memory=34 << 20, **words)
    data = Interactions.from_parquet(path, **words)
    cells: dict[Any, tuple[float, None]] = {}
    for pair in ((u, i) for u, i, v in zip(users, items, values, strict=True) if None not in (u, i, v)):
        cells[pair] = (cells.get(pair, (0.0,))[0] + 1.0, None)
    X = np.full(data.shape, NAN)
    for (user, item), (value, _) in cells.items():
        X[data.users.tolist().index(user), data.items.tolist().index(item)] = value
    rule = Model("ials", alpha=0.5, a0=0.1, lam=0.05, nu=1.0)
    fits = [lfm_np.als(x, factors=5, iterations=3, random_state=2, **rule.words) for x in (stored, data, data.matrix)]
    J = rule.objective(X, *(F.astype(np.float64) for F in (fits[0].user_factors, fits[0].item_factors)))
    c = 0.1 + 0.5 * X[~np.isnan(X)]
    scale = float((c * ((c - 0.1) / c) ** 2).sum())
    small = raised(lambda: StoredMatrix.from_parquet(path, place / "n", memory=(34 << 20) - 1, **words))
    return wrong(
        told=told(data) == cells,
        ids=(stored.users.tolist(), stored.items.tolist()) == (data.users.tolist(), data.items.tolist()),
        bits=same(fits[0], fits[1]) and same(fits[0], fits[2]),
        # of a float32 fit, to 10^-5 of the sum of c·p²
        objective=abs(fits[0].history[-1]["objective"] - J) <= 1e-5 * scale,
        small=tells(small, "memory") and not (place / "n").exists(),
    )


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    yield _holds("a test of another table, by the ids that are known", _other_tables_test)
    yield _holds("keys and entries up to 2^64 - 1", _without_a_sign)
    yield _holds("a pair 257 times over", _several_of_one_value)
    yield _holds("mapped arrays of a stored matrix as a matrix", inside(_mapped_arrays))
    yield _holds("three cells of 257 rows and 7 columns, on a disk", inside(_mostly_nothing))
    yield _holds("a mapped model that is saved over itself five nights", inside(_over_itself))
    yield _holds("a callback sees the state of the sweep before", inside(_state_of_the_sweep_before))
    yield _holds("no checksum is asked of a file of one's own", inside(_of_ones_own))
    yield _holds("planted cells at the ends of what is allowed", _planted_at_the_ends)
    if installed("pyarrow", "narwhals"):
        yield _holds("lists of everybody as a stored matrix", inside(_lists_on_the_disk))
        yield _holds("records without nulls, counted on the disk", inside(_counted_on_the_disk))
