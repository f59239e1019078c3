"""The second sitting: what update combines and solves, what a checkpoint goes on with, what is refused untouched."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

import lfm_np

from .case import Case, Group
from .places import command, inside
from .working_days import all_scores, best, faultless, same, wrong

_GROUP = Group("second sitting, data")
_holds = faultless(_GROUP)
_SMALL = ("--factors", "3", "--iterations", "2")
_NEAR = 1e-3  # of rows of three factors, solved in float32


def _done(*words: Any) -> list[dict[str, str]]:
    """The rows that a command answers in a pipe; it must have done its work."""
    said = command(*words)
    if said.status:
        raise AssertionError(f"{words[0]}: {said.status}, {said.err}")
    return list(csv.DictReader(io.StringIO(said.out, newline="")))


def _table(path: Path, rows: list[Any], names: str = "user,item", delimiter: str = ",") -> Path:
    with open(path, "w", newline="") as file:
        table = csv.writer(file, delimiter=delimiter)
        table.writerow(names.split(","))
        table.writerows(rows)
    return path


def _beside(path: Path) -> tuple[np.ndarray, list[Any], list[Any], Any]:
    """The dense matrix, users, items and times of what lies beside a model."""
    with np.load(path) as file:
        users, items, times = file["users"].tolist(), file["items"].tolist(), file.get("timestamps")
    return sp.csr_array(sp.load_npz(path)).toarray().astype(np.float64), users, items, times


def _kept(path: Path, times: bool = False) -> dict[Any, Any]:
    """The value, or the time, of every pair of ids."""
    _, users, items, when = _beside(path)
    coo = sp.csr_array(sp.load_npz(path)).tocoo()
    pairs = [(users[u], items[i]) for u, i in zip(*coo.coords, strict=True)]
    return dict(zip(pairs, (when if times else coo.data).tolist(), strict=True))


def _solved(x: np.ndarray, Y: np.ndarray, alpha: float, lam: float) -> np.ndarray:
    """A row of hu-koren."""
    Y = Y.astype(np.float64)
    c = 1 + alpha * x
    return np.linalg.solve((Y.T * c) @ Y + lam * np.eye(Y.shape[1]), Y.T @ np.where(x > 0, c, 0))


def _near(a: np.ndarray, b: np.ndarray) -> bool:
    return bool(a.shape == b.shape and abs(a - b).max() < _NEAR * abs(b).max())


def _pairs(m: int, n: int, count: int, seed: int) -> list[tuple[int, int]]:
    """Nobody and nothing is without a pair."""
    draw = np.random.default_rng(seed)
    pairs = {(u, u % n) for u in range(m)} | {(i % m, i) for i in range(n)}
    for cell in draw.permutation(m * n).tolist():
        if len(pairs) < count:
            pairs.add((cell // n, cell % n))
    return sorted(pairs)


def _older_and_newer(place: Path) -> list[str]:
    """The last record of a pair is the latest, also where an older one arrives later."""
    rows = [("a", 1, 5, 100), ("a", 2, 3, 50), ("b", 1, 2, 70), ("b", 3, 4, 80), ("c", 2, 1, 90), ("c", 2, 6, 85)]
    more = [("a", 1, 1, 99), ("a", 2, 4, 51), ("b", 2, 2, 10), ("c", 3, 7, 60), ("c", 3, 8, 59), ("d", 1, 9, 5)]
    names = "user,item,n,day"
    _table(place / "x.csv", rows, names), _table(place / "y.csv", more, names)
    words = ("--value", "n", "--timestamp", "day", "--duplicates", "last", "--alpha", "2", "--regularization", "0.5")
    _done("fit", place / "x.csv", *words, *_SMALL, "-o", place / "m.safetensors")
    _done("update", place / "m.safetensors", place / "y.csv", "-o", place / "n.safetensors")
    latest: dict[Any, tuple[int, int]] = {}
    for u, i, n, t in rows + more:
        if t >= latest.get((u, i), (0, -1))[1]:
            latest[u, i] = (n, t)
    path = place / "n.interactions.npz"
    X, users, _, _ = _beside(path)
    old, new = (lfm_np.Factors.load(place / f"{name}.safetensors") for name in "mn")
    mine = np.array([_solved(x, old.item_factors, 2.0, 0.5) for x in X])
    return wrong(
        values=_kept(path) == {pair: n for pair, (n, _) in latest.items()},
        times=_kept(path, times=True) == {pair: t for pair, (_, t) in latest.items()},
        users=users == ["a", "b", "c", "d"],
        solved=_near(new.user_factors, mine),
    )


def _counts_and_maxima(place: Path) -> list[str]:
    """Counts of records add up; of the values the largest stays, whichever came first."""
    rows = [("a", 1, 3), ("a", 1, 2), ("a", 2, 4), ("b", 2, 1), ("b", 1, 1)]
    more = [("a", 1, 5), ("a", 1, 1), ("a", 1, 2), ("a", 2, 2), ("c", 2, 9), ("c", 2, 8), ("c", 77, 1)]
    _table(place / "x.csv", rows, "user,item,n"), _table(place / "y.csv", more, "user,item,n")
    a1, a2, b1, b2, c2 = ("a", 1), ("a", 2), ("b", 1), ("b", 2), ("c", 2)
    faults = []
    for how, words, mine in (
        ("count", ("--value", "n"), {a1: 5, a2: 2, b1: 1, b2: 1, c2: 2}),
        ("count", (), {a1: 5, a2: 2, b1: 1, b2: 1, c2: 2}),
        ("sum", (), {a1: 5, a2: 2, b1: 1, b2: 1, c2: 2}),
        ("sum", ("--value", "n"), {a1: 13, a2: 6, b1: 1, b2: 1, c2: 17}),
        ("max", ("--value", "n"), {a1: 5, a2: 4, b1: 1, b2: 1, c2: 9}),
    ):
        _done("fit", place / "x.csv", *words, "--duplicates", how, *_SMALL, "-o", place / "m.safetensors")
        _done("update", place / "m.safetensors", place / "y.csv", "-o", place / "n.safetensors")
        found = _kept(place / "n.interactions.npz")
        if found != mine:
            faults.append(f"{how}, {words}: {found}")
    return faults


def _above_a_threshold(place: Path) -> list[str]:
    """What is liked counts 1, however often; what is not is left out."""
    rows = [("a", 1, 5), ("a", 2, 3.9), ("a", 3, 4), ("b", 1, 4.5), ("b", 2, 5), ("b", 3, 1)]
    more = [("a", 1, 5), ("a", 2, 4), ("b", 3, 2), ("b", 1, 0.5), ("c", 2, 4.25), ("c", 3, 3.75), ("a", 4, 5)]
    _table(place / "x.csv", rows, "user,item,stars"), _table(place / "y.csv", more, "user,item,stars")
    _done(
        "fit", place / "x.csv", "--value", "stars", "--threshold", "4", "--alpha", "3", "--regularization", "0.5",
        *_SMALL, "-o", place / "m.safetensors",
    )  # fmt: skip
    _done("update", place / "m.safetensors", place / "y.csv", "-o", place / "n.safetensors")
    X, users, _, _ = _beside(place / "n.interactions.npz")
    old, new = (lfm_np.Factors.load(place / f"{name}.safetensors") for name in "mn")
    asked = [users.index("a"), users.index("c")]
    liked = [("a", 1), ("a", 2), ("a", 3), ("b", 1), ("b", 2), ("c", 2)]
    return wrong(
        liked=_kept(place / "n.interactions.npz") == dict.fromkeys(liked, 1.0),
        solved=_near(new.user_factors[asked], np.array([_solved(X[u], old.item_factors, 3.0, 0.5) for u in asked])),
    )


def _newcomers_who_rate(place: Path) -> list[str]:
    """Rows and biases by least squares from the ratings less μ and b_i, with a λ that grows with their number."""
    draw = np.random.default_rng(41)
    rows = [(f"u{u:02d}", i, int(draw.integers(0, 6))) for u, i in _pairs(16, 9, 80, 41)]
    has = {(u, i) for u, i, _ in rows}
    free = [i for i in range(9) if ("u05", i) not in has][:2]
    more = [("u05", free[0], 0), ("u05", free[1], 5), ("zoe", 2, 0), ("zoe", 7, 4), ("zoe", 3, 1), ("eve", 8, 5)]
    _table(place / "x.csv", rows, "user,item,stars"), _table(place / "y.csv", more, "user,item,stars")
    _done(
        "fit", place / "x.csv", "--value", "stars", "--weighting", "ratings", "--biases", "--regularization", "0.25",
        "--regularization-exponent", "1", *_SMALL, "-o", place / "m.safetensors",
    )  # fmt: skip
    _done("update", place / "m.safetensors", place / "y.csv", "-o", place / "n.safetensors")
    old, new = (lfm_np.Factors.load(place / f"{name}.safetensors") for name in "mn")
    _, users, items, _ = _beside(place / "n.interactions.npz")
    found, mine = [], []
    for name in ("u05", "zoe", "eve"):
        own = {i: v for u, i, v in rows + more if u == name}
        columns = [items.index(i) for i in own]
        Y = np.column_stack([old.item_factors[columns].astype(np.float64), np.ones(len(own))])
        y = np.array(list(own.values())) - old.global_bias - old.item_bias[columns].astype(np.float64)
        mine.append(np.linalg.solve(Y.T @ Y + 0.25 * len(own) * np.eye(4), Y.T @ y))
        row = users.index(name)
        found.append([*new.user_factors[row].tolist(), float(new.user_bias[row])])
    others = [row for row in range(16) if users[row] != "u05"]
    return wrong(
        zeros=_kept(place / "n.interactions.npz") == {(u, i): v for u, i, v in rows + more},
        solved=_near(np.array(found), np.array(mine)),
        others=np.array_equal(new.user_factors[others], old.user_factors[others])
        and np.array_equal(new.user_bias[others], old.user_bias[others]),
        items=np.array_equal(new.item_bias, old.item_bias) and new.global_bias == old.global_bias,
    )


def _two_days(place: Path) -> list[str]:
    """Two updates one after another, the second in place; records add up, and untouched rows keep their bits."""
    rows = [(f"u{u:02d}", f"i{i}") for u, i in _pairs(14, 8, 50, 42)]
    days = [
        [("u03", "i1"), ("u03", "i1"), ("zoe", "i2"), ("zoe", "i9"), ("adam", "i5"), ("u07", "i0")],
        [("zoe", "i3"), ("zoe", "i2"), ("u00", "i7"), ("zoe", "i3"), ("bea", "i6")],
    ]
    _table(place / "x.csv", rows)
    model, path = place / "m.safetensors", place / "m.interactions.npz"
    _done("fit", place / "x.csv", "--alpha", "2", "--regularization", "0.5", *_SMALL, "-o", model)
    first = lfm_np.Factors.load(model)
    for number, day in enumerate(days):
        _table(place / f"{number}.csv", day)
        _done("update", model, place / f"{number}.csv", "-o", model)
    mine: dict[Any, int] = {}
    for pair in rows + days[0] + days[1]:
        if pair[1] != "i9":
            mine[pair] = mine.get(pair, 0) + 1
    X, users, items, _ = _beside(path)
    last = lfm_np.Factors.load(model)
    touched = [users.index(name) for name in ("u00", "u03", "u07", "adam", "bea", "zoe")]
    rest = [row for row in range(14) if row not in touched]
    lists = _done("recommend", model, "--user", "zoe", "-n", "8")
    row = users.index("zoe")
    asked = {items[i] for i in best(all_scores(last)[row], X[row] == 0, 8) if i >= 0}
    mine_of_rows = np.array([_solved(X[u], first.item_factors, 2.0, 0.5) for u in touched])
    return wrong(
        cells=_kept(path) == mine,
        users=users[:14] == sorted({u for u, _ in rows}) and set(users[14:]) == {"adam", "bea", "zoe"},
        solved=_near(last.user_factors[touched], mine_of_rows),
        rest=np.array_equal(last.user_factors[rest], first.user_factors[rest]),
        items=np.array_equal(last.item_factors, first.item_factors),
        lists={entry["item"] for entry in lists} == asked == {f"i{i}" for i in (0, 1, 4, 5, 6, 7)},
    )


def _rows_of_a_matrix(place: Path) -> list[str]:
    """A matrix of more rows: those that have cells are solved again, or added; the empty ones are not."""
    A = np.zeros((10, 7))
    for u, i in _pairs(10, 7, 34, 43):
        A[u, i] = 1 + (u + i) % 3
    B = np.zeros((13, 7))
    B[2, :3], B[11, 4], B[11, 6] = [1, 2, 3], 2, 5
    sp.save_npz(place / "x.npz", sp.csr_array(A)), sp.save_npz(place / "y.npz", sp.csr_array(B))
    _done("fit", place / "x.npz", "--alpha", "2", "--regularization", "0.5", *_SMALL, "-o", place / "m.safetensors")
    _done("update", place / "m.safetensors", place / "y.npz", "-o", place / "n.safetensors")
    old, new = (lfm_np.Factors.load(place / f"{name}.safetensors") for name in "mn")
    X, users, _, _ = _beside(place / "n.interactions.npz")
    both = np.vstack([A + B[:10], B[11]])
    mine = np.array([_solved(both[u], old.item_factors, 2.0, 0.5) for u in (2, 10)])
    return wrong(
        users=users == [*range(10), 11],
        cells=np.array_equal(X, both),
        solved=_near(new.user_factors[[2, 10]], mine),
    )


def _held_out_and_resumed(place: Path) -> list[str]:
    """The same command, with more sweeps, holds out the same bytes and ends at the same bits as at one go."""
    rows = [(f"u{u:02d}", i) for u, i in _pairs(30, 12, 150, 44)]
    _table(place / "x.csv", rows)
    words = ("--factors", "3", "--alpha", "2", "--regularization", "0.5", "--seed", "3")
    fit = ("fit", place / "x.csv", *words, "--hold-out")
    broken = (*fit, place / "t.csv", "--checkpoint", place / "fit.state", "-o", place / "m.safetensors", "--iterations")
    _done(*broken, "2")
    early = (place / "t.csv").read_bytes()
    _done(*broken, "5")
    _done(*fit, place / "whole.csv", "--iterations", "5", "-o", place / "whole.safetensors")
    one, other = lfm_np.Factors.load(place / "m.safetensors"), lfm_np.Factors.load(place / "whole.safetensors")
    X = _beside(place / "m.interactions.npz")[0]
    return wrong(
        bytes=early == (place / "t.csv").read_bytes() == (place / "whole.csv").read_bytes(),
        rest=len(early.splitlines()) - 1 + X.sum() == len(rows) and X.shape == (30, 12),
        bits=same(one, other) and len(one.history) == 5,
        items=_near(one.item_factors, np.array([_solved(x, one.user_factors, 2.0, 0.5) for x in X.T])),
    )


def _moved_away(place: Path) -> list[str]:
    """A model without what lies beside it reads the table again as fit did: delimiter, text, columns, records."""
    rows = [(f"{u:03d}", f"{i:02d}", v, t) for t, (u, i) in enumerate(_pairs(9, 7, 30, 45)) for v in (1, 5)]
    rows += [("003", "03", 2, 99), ("004", "06", 5, 98), ("004", "06", 1, 99)]
    _table(place / "x.csv", rows, "who,what,stars,day", ";")
    _done(
        "fit", place / "x.csv", "--user", "who", "--item", "what", "--value", "stars", "--timestamp", "day", "--text",
        "user", "--text", "item", "--delimiter", ";", "--duplicates", "last", "--threshold", "2", *_SMALL, "-o",
        place / "m.safetensors",
    )  # fmt: skip
    kept = _kept(place / "m.interactions.npz")
    (place / "away").mkdir()
    (place / "m.safetensors").rename(place / "away" / "m.safetensors")
    lost = command("recommend", place / "away" / "m.safetensors", "-n", "7")
    lists = _done("recommend", place / "away" / "m.safetensors", "-n", "7", "--data", place / "x.csv")
    last: dict[Any, Any] = {}
    for u, i, v, t in rows:
        if t >= last.get((u, i), (0, -1))[1]:
            last[u, i] = (v, t)
    liked = {pair for pair, (v, _) in last.items() if v >= 2}
    names = (sorted({u for u, _ in last}), sorted({i for _, i in last}))
    S, mine = all_scores(lfm_np.Factors.load(place / "away" / "m.safetensors")), []
    for u, user in enumerate(names[0]):
        allowed = np.array([(user, item) not in liked for item in names[1]])
        mine += [(user, names[1][i], rank) for rank, i in enumerate(best(S[u], allowed, 7), 1) if i >= 0]
    return wrong(
        kept=kept == dict.fromkeys(liked, 1.0) and ("004", "06") not in liked,
        lost=lost.status == 2,
        lists=[(row["who"], row["what"], int(row["rank"])) for row in lists] == mine,
    )


def _refused_untouched(place: Path) -> list[str]:
    """Status 2 and something to read, and every file as it was."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [(f"u{u}", i) for u, i in _pairs(8, 6, 24, 46)]
    table = _table(place / "x.csv", [*rows, rows[0]])
    _done("fit", table, *_SMALL, "-o", place / "good.safetensors")
    (place / "link.csv").symlink_to(table)
    (place / "set").mkdir()
    pq.write_table(pa.table({"user": [u for u, _ in rows], "item": [i for _, i in rows]}), place / "set" / "1.parquet")
    cells = (np.ones(4), ([0, 1, 1, 2], [1, 0, 0, 1]))
    sp.save_npz(place / "twice.npz", sp.coo_array(cells, shape=(3, 2)))
    sp.save_npz(place / "once.npz", sp.csr_array(sp.coo_array(cells, shape=(3, 2))))
    new = ("-o", place / "new.safetensors", *_SMALL)
    before = {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}
    faults = []
    for name, words in {
        "held out into the data": ("fit", table, "--hold-out", place / "link.csv", *new),
        "a folder of data": ("fit", place / "set", "-o", place / "set" / "m.safetensors"),
        "held out into a folder of data": ("fit", place / "set", "--hold-out", place / "set" / "t.parquet", *new),
        "lists into the data": (
            "recommend", place / "good.safetensors", "--data", table, "-o", place / "link.csv",
        ),
        "a judgement into what is judged": ("evaluate", place / "good.safetensors", table, "-o", place / "link.csv"),
        "no times": ("fit", place / "once.npz", "--by", "last", "--hold-out", place / "t.csv", *new),
        "cells stored twice": ("fit", place / "twice.npz", "--duplicates", "max", *new),
        "records twice": ("fit", table, "--duplicates", "error", *new),
        "nobody": ("recommend", place / "good.safetensors", "--user", "u1", "--user", "nobody", "-o", place / "l.csv"),
    }.items():  # fmt: skip
        said = command(*words)
        after = {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}
        if said.status != 2 or not said.err.strip() or after != before:
            faults.append(f"{name}: {said.status}, {said.err:.80}, {sorted(p.name for p in set(after) ^ set(before))}")
            before = after
    return faults


def _like_each_other(place: Path) -> list[str]:
    """Inner products of users, cosines of items, of as many as there are; what is asked is the first of its cosines."""
    _table(place / "x.csv", [(f"u{u}", 10 * i) for u, i in _pairs(11, 6, 40, 47)])
    model = place / "m.safetensors"
    _done("fit", place / "x.csv", *_SMALL, "-o", model)
    fit = lfm_np.Factors.load(model)
    U, V = fit.user_factors.astype(np.float64), fit.item_factors.astype(np.float64)
    users, items = sorted(f"u{u}" for u in range(11)), [10 * i for i in range(6)]
    length = np.sqrt((V**2).sum(1))
    faults = []
    for side, names, asked, S, words in (
        ("--user", users, ["u4", "u10"], U @ U.T, ("--metric", "inner")),
        ("--item", items, [30, 0, 50], V @ V.T / length / length[:, None], ()),
    ):
        given = [word for name in asked for word in (side, name)]
        _done("similar", model, *given, *words, "-n", "300", "-o", place / "x.json")
        rows = [list(row.values()) for row in json.loads((place / "x.json").read_text())]
        n = len(names)
        for number, name in enumerate(asked):
            part = rows[number * n : (number + 1) * n]
            told = np.array([row[2] for row in part])
            mine = np.array([S[names.index(name), names.index(row[1])] for row in part])
            if (
                [row[0] for row in part] != [name] * n
                or sorted(row[1] for row in part) != sorted(names)
                or abs(told - mine).max() > 1e-5 * abs(mine).max()
                or (np.diff(told) > 0).any()
                or [row[3] for row in part] != list(range(1, n + 1))
            ):
                faults.append(f"{side} {name}: {part}")
        if len(rows) != n * len(asked) or (side == "--item" and [row[1] for row in rows[::n]] != asked):
            faults.append(f"{side}: {len(rows)} rows")
    return faults


def _judged_by_one(place: Path) -> list[str]:
    """One user has no standard error: NaN, which JSON has not."""
    _table(place / "x.csv", [(f"u{u}", i) for u, i in _pairs(8, 6, 24, 48) if (u, i) != (3, 5)] + [("u4", 5)])
    _table(place / "y.csv", [("u3", 5)])
    _done("fit", place / "x.csv", *_SMALL, "-o", place / "m.safetensors")
    words = ("--metric", "recall@6", "--metric", "precision@6")
    _done("evaluate", place / "m.safetensors", place / "y.csv", *words, "-o", place / "x.json")
    rows = json.loads((place / "x.json").read_text(), parse_constant=lambda name: name)
    found = {row["metric"]: [row[name] for name in ("model", "model_se", "popular", "popular_se")] for row in rows}
    return wrong(
        recall=found["recall@6"] == [1.0, None, 1.0, None],
        precision=found["precision@6"][1::2] == [None, None]
        and all(abs(value - 1 / 6) < 1e-4 for value in found["precision@6"][::2]),
        users=all(row["users"] == 1 for row in rows),
    )


def cases() -> list[Case]:
    return list(_cases())


def _inside(name: str, work: Callable[[Path], Any]) -> Case:
    return _holds(name, inside(work))


def _cases() -> Iterator[Case]:
    yield _inside("update: an older record that arrives later", _older_and_newer)
    yield _inside("update: counts, sums and maxima", _counts_and_maxima)
    yield _inside("update: what is liked, and what is not", _above_a_threshold)
    yield _inside("update: newcomers who rate, with biases", _newcomers_who_rate)
    yield _inside("update: two days one after another", _two_days)
    yield _inside("update: rows of a matrix", _rows_of_a_matrix)
    yield _inside("fit: held out, interrupted and gone on with", _held_out_and_resumed)
    yield _inside("recommend: a model that was moved away", _moved_away)
    yield _inside("refused, with every file as it was", _refused_untouched)
    yield _inside("similar: users by inner products, items by cosines", _like_each_other)
    yield _inside("evaluate: one user, in JSON", _judged_by_one)
