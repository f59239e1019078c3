"""A reviewer's programs, each to show a promise of the pages false: tables, splits and the command line."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

from .case import Case, Group, installed
from .sentences_by_numpy import Rule, lfm_np, near, ranked
from .working_days import NAN, Said, csr, faultless, folder, judged, stars, typed, wrong

_GROUP = Group("the reviewer's bench")
_holds = faultless(_GROUP)
Cells = dict[tuple[Any, Any], Any]


def _core(cells: Cells, users: int, items: int) -> Cells:
    """'leave out users and items with fewer cells, until nothing changes'."""
    while True:
        kept = dict(cells)
        for side, least in ((0, users), (1, items)):
            has: dict[Any, int] = {}
            for cell in kept:
                has[cell[side]] = has.get(cell[side], 0) + 1
            kept = {cell: x for cell, x in kept.items() if has[cell[side]] >= least}
        if len(kept) == len(cells):
            return kept
        cells = kept


def _records(seed: int, count: int = 300) -> list[tuple[str, int, float, np.datetime64]]:
    """User, item, value (some NaN) and time, of which several are equal; pairs come again."""
    draw = np.random.default_rng(seed)
    users = [f"u{u}" for u in (draw.random(count) ** 2 * 40).astype(int)]
    items = (draw.random(count) ** 2 * 20).astype(int) * 5 - 20
    values = np.where(draw.random(count) < 0.15, NAN, draw.integers(1, 40, count) / 8)
    times = np.datetime64("2024-02-27T23:00:00", "ms") + draw.integers(0, 60, count).astype("timedelta64[h]")
    return list(zip(users, items.tolist(), values.tolist(), times, strict=True))


def _asked(data: Any) -> Cells:
    rows, columns = data.matrix.nonzero() if False else (data.matrix.tocoo().coords)
    times = [None] * len(rows) if data.timestamps is None else data.timestamps.astype("datetime64[s]").tolist()
    values = data.matrix.data.astype(float).tolist()
    users, items = data.users.tolist(), data.items.tolist()
    return {(users[r], items[c]): (x, t) for r, c, x, t in zip(rows, columns, values, times, strict=True)}


def _from_a_frame(library: str) -> list[str]:
    """Your data: '`nulls="drop"`', '`duplicates="last"` … with timestamps the latest', 'users and items with fewer cells',
    all at once; and Tutorial: 'pandas or polars where the data came from there', after `binarize`, `core` and `split`."""
    records = _records(1)
    columns: dict[str, Any] = {
        "who": [r[0] for r in records], "what": [r[1] for r in records],
        "x": [None if np.isnan(r[2]) else r[2] for r in records], "when": np.array([r[3] for r in records]),
    }  # fmt: skip
    frame: Any
    if library == "pandas":
        import pandas as pd

        frame = pd.DataFrame(columns)
    elif library == "polars":
        import polars as pl

        frame = pl.DataFrame(columns)
    else:
        import pyarrow as pa

        frame = pa.table(columns)
    data = lfm_np.Interactions.from_frame(
        frame, "who", "what", "x", "when", duplicates="last", nulls="drop", min_user_interactions=3,
        min_item_interactions=4,
    )  # fmt: skip
    cells: Cells = {}
    for u, i, x, t in records:
        if not np.isnan(x) and ((u, i) not in cells or t >= cells[u, i][1]):
            cells[u, i] = (x, t)
    cells = _core({cell: (x, t.astype("datetime64[s]").item()) for cell, (x, t) in cells.items()}, 3, 4)
    users, items = sorted({u for u, _ in cells}), sorted({i for _, i in cells})
    good = _core({cell: (1.0, t) for cell, (x, t) in cells.items() if x >= 2.5}, 2, 1)
    liked = data.binarize(threshold=2.5).core(min_user_interactions=2)
    train, test = liked.split("time", at="2024-02-29")
    late = {cell: x for cell, x in good.items() if x[1].isoformat() >= "2024-02-29"}
    draw = np.random.default_rng(2)
    U, V = (draw.integers(-2, 3, (size, 2)).astype(float) for size in liked.shape)
    best = lfm_np.recommend_frame(lfm_np.Factors(U, V), train, liked.users[::-1], N=50, seen=train)
    names, columns_of = sorted({u for u, _ in good}), sorted({i for _, i in good})
    rows = []
    for u in names[::-1]:
        s = V @ U[names.index(u)]
        left = [c for c, i in enumerate(columns_of) if (u, i) not in good or (u, i) in late]
        rows += [(u, columns_of[c], float(s[c]), r) for r, c in enumerate(ranked(s, left, len(left)), 1)]
    found = list(zip(*(list(best[name].to_numpy()) for name in ("user", "item", "score", "rank")), strict=True))
    return wrong(
        ids=data.users.tolist() == users and data.items.tolist() == items,
        cells=_asked(data) == cells and 50 < len(cells) < 200,
        liked=_asked(liked) == good,
        late=_asked(test) == late and 0 < len(late) < len(good),
        early=len(_asked(train)) == len(good) - len(late),
        library=type(best).__module__.split(".")[0] == library,
        lists=found == rows,
    )


def _unknown(duplicates: str) -> list[str]:
    """`from_arrays`: 'A NaN makes the sum, mean or maximum NaN', 'the cell gets the latest time whatever becomes of the
    values', 'an unknown time counts as earliest, and equal times count in the order given'; then `binarize(threshold)`."""
    draw = np.random.default_rng(3)
    users, items = draw.integers(0, 12, 200) * 3, draw.integers(0, 7, 200)
    values = np.where(draw.random(200) < 0.2, NAN, draw.integers(1, 6, 200))
    times = np.where(draw.random(200) < 0.2, NAN, draw.integers(0, 5, 200))
    data = lfm_np.Interactions.from_arrays(users, items, values, times, duplicates=duplicates)
    of: dict[tuple[int, int], list[tuple[float, float]]] = {}
    for u, i, x, t in zip(users.tolist(), items.tolist(), values.tolist(), times.tolist(), strict=True):
        of.setdefault((u, i), []).append((x, t))
    combine: Any = {"sum": sum, "mean": np.mean, "count": len, "max": np.max}.get(duplicates)
    mine = {}
    for cell, records in of.items():
        xs = [x for x, _ in records]
        order = sorted(range(len(records)), key=lambda j: (-1.0 if np.isnan(records[j][1]) else records[j][1], j))
        mine[cell] = (float(xs[order[-1]] if combine is None else combine(xs)), records[order[-1]][1])
    liked = data.binarize(threshold=3)
    faults = []
    for name, found, right in (
        ("cells", data, mine),
        ("liked", liked, {cell: (1.0, t) for cell, (x, t) in mine.items() if x >= 3}),
    ):
        coo = found.matrix.tocoo()
        told = {
            (int(found.users[r]), int(found.items[c])): (float(x), float(t))
            for r, c, x, t in zip(*coo.coords, coo.data, found.timestamps, strict=True)
        }
        equal = told.keys() == right.keys() and all(
            near(told[c], right[c], 1e-6) or "nan" in str(right[c]) for c in right
        )
        faults += wrong(
            **{
                name: equal,
                f"unknown {name}": all(
                    str(told[c]) == str(right[c]) for c in right if "nan" in str(right[c]) and duplicates != "mean"
                ),
            }
        )
    return faults


def _in_float64() -> list[str]:
    """`to_csr`: 'Sums and means are accumulated in float64': 2²⁴ + 1 + 1, which float32 adds up to 2²⁴."""
    pairs, values = [(1, 2), (1, 2), (1, 2), (0, 0)], [2.0**24, 1.0, 1.0, 5.0]
    users, items = zip(*pairs, strict=True)
    faults = []
    for duplicates, mine in (("sum", 2.0**24 + 2), ("mean", 5592406.0)):
        found = {
            "to_csr": lfm_np.to_csr(pairs, (2, 3), values, duplicates).toarray()[1, 2],
            "from_arrays": lfm_np.Interactions.from_arrays(users, items, values, duplicates=duplicates).matrix.data[1],
        }
        if installed("pyarrow", "narwhals"):
            import pyarrow as pa
            import pyarrow.parquet as pq

            table = pa.table({"user": users, "item": items, "x": values})
            found["from_frame"] = lfm_np.Interactions.from_frame(table, value="x", duplicates=duplicates).matrix.data[1]
            with folder() as place:
                pq.write_table(table, place / "t", row_group_size=1)
                words = {"value": "x", "duplicates": duplicates}
                found["from_parquet"] = lfm_np.Interactions.from_parquet(place / "t", **words).matrix.data[1]
                lfm_np.StoredMatrix.from_parquet(place / "t", place / "m", memory=40 << 20, **words)
                found["stored"] = np.load(place / "m" / "rows.data.npy")[1]
        faults += [f"{name}, {duplicates}: {x}" for name, x in found.items() if float(x) != mine]
    return faults


def _too_few_to_hold_out() -> list[str]:
    """`make_interactions_train_test`: 'where there are too few others, all of them are held out'; 'a share of all pairs'."""
    faults = []
    for m, n, most, share, seed in ((40, 9, 3, 0.9, 0), (40, 9, 9, 0.37, 1), (1, 7, 7, 0.5, 2), (5, 3, 1, 0.5, 3)):
        pairs = lfm_np.datasets.make_interactions(m, n, most, random_state=seed)
        train, test = lfm_np.datasets.make_interactions_train_test(m, n, most, share, random_state=seed)
        both = sorted(map(tuple, np.vstack([train, test]).tolist()))
        count = len(both)
        faults += wrong(
            **{
                f"held out of {m}": abs(len(test) - min(share * count, count - m)) <= 0.5,
                f"every row of {m}": np.array_equal(np.unique(train[:, 0]), np.arange(m)),
                f"distinct in {m}": len(set(both)) == count and len(np.unique(pairs[:, 0])) == m,
            }
        )
    return faults


def _write(path: Path, header: list[str], rows: Any) -> None:
    with open(path, "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(header)
        table.writerows(rows)


def _events(seed: int, m: int = 25, n: int = 12) -> tuple[np.ndarray, list[tuple[str, int]]]:
    """Counts of events by user (in the order of their text) and item, and the events."""
    D = stars(m, n, seed)
    users, draw = sorted(f"user{u}" for u in range(m)), np.random.default_rng(seed)
    rows = [(users[u], 100 + i) for u, i in zip(*np.nonzero(~np.isnan(D)), strict=True) for _ in range(int(D[u, i]))]
    return D, [rows[j] for j in draw.permutation(len(rows))]


FIT = ("--factors", 3, "--alpha", 4, "--regularization", 2, "--iterations", 4)
RULE = Rule("hu-koren", 4.0, 1.0, 2.0)


def _solved(D: np.ndarray, fit: Any) -> bool:
    """The items are those of the last half-sweep; float32, and λ = 2 keeps κ below 1,000."""
    return near(fit.item_factors, RULE.half(D.T, fit.user_factors.astype(np.float64)), 2e-4)


def _table(said: Said) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(said.out)))


def _updated_by_command() -> list[str]:
    """Command line: 'Further events of known users, and new users, without a refit: their rows are solved exactly from the
    item factors, and everything else stays as it is' - the new one's id comes before all others."""
    D, rows = _events(1)
    users = sorted({u for u, _ in rows})
    new = {"aaa": {3: 2.0, 7: 1.0}, users[4]: {0: 1.0, 5: 3.0}}
    with folder() as place:
        _write(place / "e.csv", ["who", "what"], rows)
        _write(
            place / "t.csv",
            ["who", "what"],
            [(u, 100 + i) for u, x in new.items() for i in x for _ in range(int(x[i]))],
        )
        said = [typed(place, "fit", "e.csv", "--user", "who", "--item", "what", *FIT, "-o", "m.safetensors")]
        fit = lfm_np.Factors.load(place / "m.safetensors")
        lists = ("recommend", "m.safetensors", "-n", 99, "--include-seen")
        said += [typed(place, *lists), typed(place, "update", "m.safetensors", "t.csv", "-o", "m.safetensors")]
        said += [typed(place, *lists), typed(place, "recommend", "m.safetensors", "-n", 99, "--user", "aaa")]
    before, after, short = (_table(said[j]) for j in (1, 3, 4))
    V = fit.item_factors.astype(np.float64)
    facts = {"fit": _solved(D, fit), "done": [s.status for s in said] == [0] * 5}
    facts["told"] = "1 users added, 1 solved again" in said[2].out + said[2].err
    for u, told in new.items():
        x = D[users.index(u)].copy() if u in users else np.full(12, NAN)
        for i, count in told.items():
            x[i] = np.nan_to_num(x[i]) + count
        found = {int(row["what"]) - 100: float(row["score"]) for row in after if row["who"] == u}
        facts[f"scores of {u}"] = near([found.get(i, 99) for i in range(12)], V @ RULE.row(x, V), 2e-4)
    same = [row for row in after if row["who"] not in new]
    facts["others"] = same == [row for row in before if row["who"] != users[4]] and len(same) == 24 * 12
    facts["seen"] = {int(row["what"]) - 100 for row in short} == set(range(12)) - {3, 7}
    return wrong(**facts)


def _crossed_names() -> list[str]:
    """Command line: 'JSON is one array with an object for each row, the names of the columns its keys' - users in a column
    "item" and items in a column "user"; 'without what the user has'; N beyond the items; `similar`'s first is `item`."""
    D, rows = _events(2)
    D[3] = 1.0
    users = sorted({u for u, _ in rows})
    with folder() as place:
        _write(place / "e.csv", ["user", "item"], [(i, u) for u, i in rows] + [(100 + i, users[3]) for i in range(12)])
        said = [typed(place, "fit", "e.csv", "--user", "item", "--item", "user", *FIT, "-o", "m.safetensors")]
        said += [typed(place, "recommend", "m.safetensors", "-n", 40, "-o", "all.json")]
        said += [typed(place, "similar", "m.safetensors", "--item", 104, "-n", 3)]
        fit, found = lfm_np.Factors.load(place / "m.safetensors"), json.loads((place / "all.json").read_bytes())
    mine = []
    for r, u in enumerate(users):
        s = fit.scores(r, np.arange(12))
        left = np.flatnonzero(np.isnan(D[r]))
        mine += [(u, 100 + i, float(s[i]), k) for k, i in enumerate(ranked(s, left, len(left)), 1)]
    W = fit.item_factors / np.linalg.norm(fit.item_factors, axis=1)[:, None]
    near_by = ranked(W @ W[4], range(12), 3)
    return wrong(
        done=[s.status for s in said] == [0] * 3,
        keys={tuple(row) for row in found} == {("item", "user", "score", "rank")},
        lists=[(row["item"], row["user"], row["rank"]) for row in found] == [(u, i, k) for u, i, _, k in mine],
        scores=near([row["score"] for row in found], [s for _, _, s, _ in mine], 1e-6),
        similar=said[2].out.splitlines()[0] == "item,similar,score,rank"
        and [int(row["similar"]) for row in _table(said[2])] == [100 + i for i in near_by],
    )


def _judged_by_command() -> list[str]:
    """Command line: 'Beside recommending what is most popular, with standard errors. `--at-least` makes it a check', with
    status 1 where it failed."""
    D, rows = _events(3)
    users = sorted({u for u, _ in rows})
    held = np.isnan(D) & (np.random.default_rng(5).random(D.shape) < 0.15)
    test = [(users[u], 100 + i) for u, i in zip(*np.nonzero(held), strict=True)]
    with folder() as place:
        _write(place / "e.csv", ["who", "what"], rows)
        _write(place / "t.csv", ["who", "what"], test)
        said = [typed(place, "fit", "e.csv", "--user", "who", "--item", "what", *FIT, "-o", "m.safetensors")]
        judge = ("evaluate", "m.safetensors", "t.csv", "--metric", "auc", "--at-least")
        said += [typed(place, *judge, "ndcg@5=0.0001"), typed(place, *judge, "ndcg@5=0.9999")]
        fit = lfm_np.Factors.load(place / "m.safetensors")
    train = ~np.isnan(D)
    S = np.array([fit.scores(u, np.arange(12)) for u in range(25)])
    mine = judged(S, train, held, 5), judged(np.tile(train.sum(0) * 1.0, (25, 1)), train, held, 5)
    facts = {"status": [s.status for s in said] == [0, 0, 1], "failed": "ndcg@5" in said[2].err + said[2].out}
    found = {row["metric"]: row for row in _table(said[1])}
    for name in ("auc", "ndcg@5"):
        for side, numbers in zip(("model", "popular"), mine, strict=True):
            for end in ("", "_se"):
                facts[f"{name} of {side}{end}"] = near(float(found[name][side + end]), numbers[name + end], 1e-3)
        facts[f"users of {name}"] = int(found[name]["users"]) == mine[0]["users"]
    return wrong(**facts)


def _held_out_by_half() -> list[str]:
    """Command line: '`--hold-out` takes a random fifth of every user's events, unless `--by` or `--fraction` say
    otherwise': what is listed afterwards is what was held out, and what nobody knows of."""
    D, rows = _events(4)
    users = sorted({u for u, _ in rows})
    with folder() as place:
        _write(place / "e.csv", ["who", "what"], rows)
        words = ("--user", "who", "--item", "what", *FIT, "--hold-out", "h.csv", "--fraction", 0.5)
        said = typed(place, "fit", "e.csv", *words, "-o", "m.safetensors")
        lists = typed(place, "recommend", "m.safetensors", "-n", 99)
        with open(place / "h.csv", newline="") as file:
            held = {(row["who"], int(row["what"]) - 100) for row in csv.DictReader(file)}
    listed: dict[str, set[int]] = {u: set() for u in users}
    for row in _table(lists):
        listed[row["who"]].add(int(row["what"]) - 100)
    has = {u: set(np.flatnonzero(~np.isnan(D[r])).tolist()) for r, u in enumerate(users)}
    out = {u: {i for who, i in held if who == u} for u in users}
    numbers = [
        int(x.replace(",", "")) for x in re.findall(r"([\d,]+) interactions held out, ([\d,]+) to learn", said.err)[0]
    ]
    return wrong(
        done=said.status == lists.status == 0,
        counts=all(abs(len(out[u]) - len(has[u]) / 2) < 1 and len(out[u]) < len(has[u]) for u in users),
        own=all(out[u] <= has[u] for u in users),
        listed=all(listed[u] == set(range(12)) - (has[u] - out[u]) for u in users),
        told=numbers == [len(held), int((~np.isnan(D)).sum()) - len(held)],
    )


def _texts_and_hex() -> list[str]:
    """Command line: '`--text user` keeps the zeros of "007"', 'Later commands know it from the model'; 'Without `--text`
    what looks like a number is one: "0x1F" is 31'."""
    rows = [("007", "0x1F"), ("07", "5"), ("7", "31"), ("007", "6"), ("07", "6"), ("7", "5"), ("7", "6")]
    with folder() as place:
        _write(place / "e.csv", ["who", "what"], rows)
        _write(place / "t.csv", ["who", "what"], [("07", "0x1F"), ("0007", "5")])
        words = ("--user", "who", "--item", "what", "--text", "user", "--factors", 1)
        said = [typed(place, "fit", "e.csv", *words, "-o", "m.safetensors")]
        said += [typed(place, "update", "m.safetensors", "t.csv", "-o", "n.safetensors")]
        said += [typed(place, "recommend", f"{name}.safetensors", "-n", 9, "--include-seen") for name in "mn"]
        said += [typed(place, "recommend", "n.safetensors", "--user", "07", "-n", 9)]
        shape = lfm_np.Factors.load(place / "m.safetensors").shape
    pairs = [{(row["who"], row["what"]) for row in _table(said[j])} for j in (2, 3)]
    everybody = [
        {(u, i) for u in users for i in ("5", "6", "31")} for users in (("007", "07", "7"), ("007", "07", "7", "0007"))
    ]
    return wrong(
        done=[s.status for s in said] == [0] * 5,
        shape=shape == (3, 3),
        model=pairs[0] == everybody[0],
        updated=pairs[1] == everybody[1],
        left=_table(said[4]) == [],
    )


def _arrays_and_matrices() -> list[str]:
    """Command line: 'a `.npz` (a sparse matrix, or an array for each column)'; 'Names of columns mean nothing to a sparse
    matrix, whose values always count'; `--threshold`: 1 where the value is at least that."""
    D = stars(25, 12, 6)
    r, c = np.nonzero(~np.isnan(D))
    ones = np.where(np.nan_to_num(D) >= 3, 1.0, NAN)
    with folder() as place:
        np.savez(place / "a.npz", listener=r * 7, track=c - 4, plays=D[r, c], other=np.zeros(3))
        sp.save_npz(place / "s.npz", csr(D))
        names = ("--user", "listener", "--item", "track")
        said = [typed(place, "fit", "a.npz", *names, "--value", "plays", *FIT, "-o", "a.safetensors")]
        said += [typed(place, "fit", "s.npz", *FIT, "-o", "s.safetensors")]
        said += [
            typed(place, "fit", "a.npz", *names, "--value", "plays", "--threshold", 3, *FIT, "-o", "t.safetensors")
        ]
        a, s, t = (lfm_np.Factors.load(place / f"{name}.safetensors") for name in "ast")
        lists = typed(place, "recommend", "t.safetensors", "-n", 99, "--user", 14)
    again = lfm_np.als(csr(D), factors=3, alpha=4.0, regularization=2.0, iterations=4, random_state=a.params["seed"])
    left = {str(i - 4) for i in np.flatnonzero(np.isnan(ones[2]))}
    return wrong(
        done=[x.status for x in said] == [0] * 3,
        arrays=_solved(D, a),
        matrix=_solved(D, s) and s.shape == (25, 12),
        threshold=_solved(ones, t) and t.shape == (25, 12),
        seed=np.array_equal(again.user_factors, a.user_factors),
        lists={row["track"] for row in _table(lists)} == left and {row["listener"] for row in _table(lists)} == {"14"},
    )


def _broken_off_by_command() -> list[str]:
    """Command line: 'The same command goes on from it … to the same bits as without a break' - beside `als` with the seed
    that `params` tells."""
    D, rows = _events(7)
    with folder() as place:
        _write(place / "e.csv", ["who", "what"], rows)
        words = ("fit", "e.csv", "--user", "who", "--item", "what", *FIT[:-1])
        said = [typed(place, *words, s, "--checkpoint", "c", "-o", f"{s}.safetensors") for s in (2, 6)]
        two, six = (lfm_np.Factors.load(place / f"{s}.safetensors") for s in (2, 6))
    words_of = {"factors": 3, "alpha": 4.0, "regularization": 2.0, "random_state": six.params["seed"]}
    whole = lfm_np.als(csr(D), iterations=6, **words_of)
    return wrong(
        done=[x.status for x in said] == [0, 0],
        sweeps=(len(two.history), len(six.history)) == (2, 6),
        bits=np.array_equal(six.item_factors, whole.item_factors),
        seed=two.params["seed"] == six.params["seed"],
        solved=_solved(D, six) and _solved(D, two),
    )


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    for library in ("pandas", "polars", "pyarrow"):
        if installed(library, "narwhals", "pyarrow"):
            yield _holds(f"records, cores, likes, days and lists: {library}", lambda name=library: _from_a_frame(name))
    for duplicates in ("sum", "last", "mean", "max", "count"):
        yield _holds(f"unknown values and times, twice stored: {duplicates}", lambda name=duplicates: _unknown(name))
    yield _holds("sums in float64, wherever records come from", _in_float64)
    yield _holds("too few pairs to hold out", _too_few_to_hold_out)
    if installed("typer", "pyarrow", "narwhals"):
        yield _holds("a model updated by command", _updated_by_command)
        yield _holds("columns of crossed names, as JSON", _crossed_names)
        yield _holds("a check by command", _judged_by_command)
        yield _holds("half of every user held out by command", _held_out_by_half)
        yield _holds("text that looks like numbers, and numbers like text", _texts_and_hex)
        yield _holds("arrays and sparse matrices by command", _arrays_and_matrices)
        yield _holds("a checkpoint by command, beside its seed", _broken_off_by_command)
