"""The second sitting: what fit takes, holds out and leaves, read back by csv, json, NumPy and Arrow."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

import lfm_np

from .case import Case, Group
from .places import command, inside
from .working_days import best, faultless, judged, same, wrong

_GROUP = Group("second sitting, data")
_holds = faultless(_GROUP)
_SMALL = ("--factors", "3", "--iterations", "2")


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


def _read(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def _kept(path: Path, times: bool = False) -> dict[Any, Any]:
    """The value, or the time, of every pair of ids of what lies beside a model."""
    with np.load(path) as file:
        users, items, when = file["users"], file["items"], file.get("timestamps")
    coo = sp.csr_array(sp.load_npz(path)).tocoo()
    pairs = zip(users[coo.coords[0]].tolist(), items[coo.coords[1]].tolist(), strict=True)
    return dict(zip(pairs, (when if times else coo.data).tolist(), strict=True))


def _events(m: int, n: int, count: int, seed: int) -> list[tuple[int, int, int, int]]:
    """Distinct pairs with stars of 1 to 5 and distinct times; nobody and nothing is without one."""
    draw = np.random.default_rng(seed)
    pairs = {(u, u % n) for u in range(m)} | {(i % m, i) for i in range(n)}
    for cell in draw.permutation(m * n).tolist():
        if len(pairs) < count:
            pairs.add((cell // n, cell % n))
    ordered = sorted(pairs)
    times = draw.permutation(len(ordered)).tolist()
    return [(u, i, int(draw.integers(1, 6)), t) for (u, i), t in zip(ordered, times, strict=True)]


def _names_exchanged(place: Path) -> list[str]:
    """The users are in a column "item", the items in one "user", by every command."""
    events = _events(12, 6, 48, 31)
    mine = {(f"p{u}", i) for u, i, _, _ in events}
    _table(place / "x.csv", [(f"p{u}", i) for u, i, _, _ in events], "item,user")
    model, test = place / "m.safetensors", place / "test.csv"
    _done("fit", place / "x.csv", "--user", "item", "--item", "user", "--hold-out", test, *_SMALL, "-o", model)
    kept, held = set(_kept(place / "m.interactions.npz")), {(row["item"], int(row["user"])) for row in _read(test)}
    judgement = _done("evaluate", model, test, "--metric", "recall@6")
    said = command("recommend", model, "-n", "6")
    lists = list(csv.reader(io.StringIO(said.out)))
    _table(place / "more.csv", [(3, "zoe"), (5, "zoe")], "user,item")
    _done("update", model, place / "more.csv", "-o", place / "n.safetensors")
    zoe = list(csv.reader(io.StringIO(command("recommend", place / "n.safetensors", "--user", "zoe", "-n", "9").out)))
    return wrong(
        parts=kept | held == mine and not kept & held and len(held) > 2,
        names=lists[0] == ["item", "user", "score", "rank"],
        lists={(row[0], int(row[1])) for row in lists[1:]}
        == {(f"p{u}", i) for u in range(12) for i in range(6)} - kept,
        judged=float(judgement[0]["model"]) == 1 and int(judgement[0]["users"]) == len({user for user, _ in held}),
        zoe={(row[0], int(row[1])) for row in zoe[1:]} == {("zoe", i) for i in (0, 1, 2, 4)},
    )


def _fifths(place: Path) -> list[str]:
    """d / 5 of d events, rounded down or up; the same bytes by the same seed."""
    events = _events(40, 23, 260, 32)
    _table(place / "x.csv", [(f"u{u}", i) for u, i, _, _ in events] + [("once", 3)])
    texts = []
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        fit = ("fit", place / "x.csv", "--hold-out", place / f"{name}.csv", "--seed", seed, *_SMALL)
        _done(*fit, "-o", place / f"{name}.safetensors")
        texts.append((place / f"{name}.csv").read_bytes())
    held = Counter(row["user"] for row in _read(place / "a.csv"))
    has = Counter(f"u{u}" for u, _, _, _ in events)
    pairs = {(row["user"], int(row["item"])) for row in _read(place / "a.csv")}
    kept = set(_kept(place / "a.interactions.npz"))
    return wrong(
        fifths=all(d // 5 <= held[u] <= -(-d // 5) and held[u] < d for u, d in has.items()) and not held["once"],
        parts=not pairs & kept and pairs | kept == {(f"u{u}", i) for u, i, _, _ in events} | {("once", 3)},
        once=len(pairs) == held.total(),
        bytes=texts[0] == texts[1] != texts[2],
        models=same(*(lfm_np.Factors.load(place / f"{name}.safetensors") for name in "ab")),
    )


def _latest_quarter(place: Path) -> list[str]:
    """By time into Parquet: the largest set of latest events of at most a quarter, equal times together."""
    import pyarrow.parquet as pq

    events = [(u, i, v, 10**15 + t // 3) for u, i, v, t in _events(9, 8, 41, 33)]
    _table(place / "x.csv", [(u, f"i{i}", v, t) for u, i, v, t in events], "who,what,n,day")
    _done(
        "fit", place / "x.csv", "--user", "who", "--item", "what", "--value", "n", "--timestamp", "day", "--by", "time",
        "--fraction", "0.25", "--hold-out", place / "late.parquet", *_SMALL, "-o", place / "m.safetensors",
    )  # fmt: skip
    times = sorted({t for _, _, _, t in events})
    first = next(t for t in times if sum(e[3] >= t for e in events) <= 0.25 * len(events))
    late = {(u, f"i{i}"): (v, t) for u, i, v, t in events if t >= first}
    rest = {(u, f"i{i}"): (v, t) for u, i, v, t in events if t < first}
    found = pq.read_table(place / "late.parquet", use_threads=False).to_pylist()
    path = place / "m.interactions.npz"
    return wrong(
        some=5 < len(late) < 11,
        late={(row["who"], row["what"]): (row["n"], row["day"]) for row in found} == late and len(found) == len(late),
        values=_kept(path) == {pair: v for pair, (v, _) in rest.items()},
        times=_kept(path, times=True) == {pair: t for pair, (_, t) in rest.items()},
    )


def _latest_of_the_core(place: Path) -> list[str]:
    """First users and items with few events go, then each user's latest."""
    events = _events(25, 14, 100, 34)
    _table(place / "x.csv", [(f"u{u}", i, t) for u, i, _, t in events], "user,item,day")
    left, before = {(f"u{u}", i): t for u, i, _, t in events}, 0
    while before != len(left):
        before = len(left)
        for side in (0, 1):
            has = Counter(pair[side] for pair in left)
            left = {pair: t for pair, t in left.items() if has[pair[side]] >= 4}
    latest = {}
    for (u, i), t in left.items():
        if t >= latest.get(u, (0, -1))[1]:
            latest[u] = (i, t)
    _done(
        "fit", place / "x.csv", "--timestamp", "day", "--min-user-interactions", "4", "--min-item-interactions", "4",
        "--by", "last", "--hold-out", place / "t.csv", *_SMALL, "-o", place / "m.safetensors",
    )  # fmt: skip
    held = {row["user"]: (int(row["item"]), int(float(row["day"]))) for row in _read(place / "t.csv")}
    rest = {(u, i): t for (u, i), t in left.items() if latest[u][0] != i}
    return wrong(
        some=30 < len(left) < 85, held=held == latest, rest=_kept(place / "m.interactions.npz", times=True) == rest
    )


def _unknown_and_above(place: Path) -> list[str]:
    """Of records with a null the value is unknown, which is not at least 3, or they are dropped whole."""
    rows = [("a", 1, 5, 10), ("a", 2, "", 11), ("a", 3, 3, ""), ("b", 1, 2, 12), ("b", 2, 4, 13), ("b", 3, "NA", "")]
    _table(place / "x.csv", rows, "user,item,stars,day")
    faults = []
    for nulls, mine in (("keep", {("a", 1), ("a", 3), ("b", 2)}), ("drop", {("a", 1), ("b", 2)})):
        _done(
            "fit", place / "x.csv", "--value", "stars", "--timestamp", "day", "--threshold", "3", "--nulls", nulls,
            *_SMALL, "-o", place / "m.safetensors",
        )  # fmt: skip
        found, times = (_kept(place / "m.interactions.npz", which) for which in (False, True))
        known = {pair: float(t) for pair, t in times.items() if pair != ("a", 3)}
        if found != dict.fromkeys(mine, 1.0) or known != {("a", 1): 10, ("b", 2): 13}:
            faults.append(f"{nulls}: {found}, {times}")
    refused = command("fit", place / "x.csv", "--value", "stars", "--threshold", "3", "-o", place / "n.safetensors")
    return faults + wrong(refused=refused.status == 2 and not (place / "n.safetensors").exists())


def _tenths(place: Path) -> list[str]:
    """0.7 reaches a threshold of 0.7, and 0.7 + 0.1 one of 0.8, as numbers of float32 do."""
    rows = [("a", 1, 0.7), ("a", 1, 0.1), ("a", 2, 0.8), ("b", 1, 0.79), ("b", 2, 0.4), ("b", 2, 0.4), ("c", 1, 0.9)]
    _table(place / "x.csv", rows, "user,item,n")
    words = ("--value", "n", "--threshold")
    _done("fit", place / "x.csv", *words, "0.8", *_SMALL, "-o", place / "m.safetensors")
    _table(place / "y.csv", [("b", 1, 0.7), ("c", 2, 0.6999)], "user,item,n")
    rows = _done("evaluate", place / "m.safetensors", place / "y.csv", *words, "0.7", "--metric", "recall@2")
    found = _kept(place / "m.interactions.npz")
    return wrong(
        found=found == dict.fromkeys([("a", 1), ("a", 2), ("b", 2), ("c", 1)], 1.0),
        judged=rows[0]["users"] == "1" and float(rows[0]["model"]) == 1,
    )


def _looks_like_a_number(place: Path) -> list[str]:
    """0x1F is 31 and adds up with it, unless users are text."""
    rows = [("0x1F", 5), ("31", 5), ("31", 0x10), ("7", "0x10"), ("7", 16)]
    _table(place / "x.csv", rows)
    _done("fit", place / "x.csv", *_SMALL, "-o", place / "m.safetensors")
    _done("fit", place / "x.csv", "--text", "user", *_SMALL, "-o", place / "n.safetensors")
    asked = _done("recommend", place / "m.safetensors", "--user", "31", "--include-seen")
    return wrong(
        numbers=_kept(place / "m.interactions.npz") == {(31, 5): 2, (31, 16): 1, (7, 16): 2},
        text=_kept(place / "n.interactions.npz") == {("0x1F", 5): 1, ("31", 5): 1, ("31", 16): 1, ("7", 16): 2},
        asked=sorted(row["item"] for row in asked) == ["16", "5"],
    )


def _tabs(place: Path) -> list[str]:
    """Tabs are what separates in .tsv, packed or not, whatever the case of the ending."""
    import pyarrow as pa

    raw = b"user\titem\na,b\t1\nc\t2\na,b\t2\n"
    packs: dict[str, Callable[[bytes], bytes]] = {
        "x.tsv": bytes,
        "x.tsv.bz2": bz2.compress,
        "x.tsv.zst": lambda text: pa.compress(text, codec="zstd", asbytes=True),
        "Y.TSV": bytes,
        "Y.TSV.GZ": gzip.compress,
    }
    faults = []
    for name, pack in packs.items():
        (place / name).write_bytes(pack(raw))
        said = command("fit", place / name, *_SMALL, "-o", place / "m.safetensors")
        if said.status == 2 and name.isupper():
            continue  # capitals are promised nowhere
        if said.status or _kept(place / "m.interactions.npz") != {("a,b", 1): 1, ("c", 2): 1, ("a,b", 2): 1}:
            faults.append(name)
    return faults


def _numbers_of_no_kind(place: Path) -> list[str]:
    """UUIDs become their text, in what is held out and in what is asked."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    ids = [uuid.UUID(int=(u * 0x9E3779B97F4A7C15F39CC0605CEDC835) % 2**128) for u in range(8)]
    events = _events(8, 5, 30, 35)
    table = pa.table({"user": pa.array([ids[u] for u, _, _, _ in events], pa.uuid()), "item": [e[1] for e in events]})
    pq.write_table(table, place / "x.parquet")
    model = place / "m.safetensors"
    _done("fit", place / "x.parquet", "--hold-out", place / "t.csv", *_SMALL, "-o", model)
    held = {(row["user"], int(row["item"])) for row in _read(place / "t.csv")}
    kept = set(_kept(place / "m.interactions.npz"))
    asked = _done("recommend", model, "--user", str(ids[3]), "-n", "5")
    judgement = _done("evaluate", model, place / "t.csv", "--metric", "recall@5")
    return wrong(
        parts=held | kept == {(str(ids[u]), i) for u, i, _, _ in events} and not held & kept and bool(held),
        asked={(r["user"], int(r["item"])) for r in asked} == {(str(ids[3]), i) for i in range(5)} - kept,
        judged=float(judgement[0]["model"]) == 1,
    )


def _lines_and_zeros(place: Path) -> list[str]:
    """Ids with ends of lines go through what is held out; such as end in NUL stay apart, or are refused."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    events, faults = _events(6, 7, 36, 36), []
    for name, ids in (
        ("lines", ["a\nb", "a", 'q"\n"', "x\r\ny", " \n", "b"]),
        ("zeros", ["a\0", "a", "b", "b\0c", "c\0\0", "d"]),
    ):
        table = pa.table({"user": [ids[u] for u, _, _, _ in events], "item": [f"i{i}" for _, i, _, _ in events]})
        pq.write_table(table, place / f"{name}.parquet")
        model, test = place / f"{name}.safetensors", place / f"{name}.csv"
        said = command("fit", place / f"{name}.parquet", "--hold-out", test, *_SMALL, "-o", model)
        if name == "zeros" and said.status == 2:
            continue
        _done("recommend", model, "-n", "7", "-o", place / "lists.parquet")
        rows = pq.read_table(place / "lists.parquet", use_threads=False).to_pylist()
        held = {(row["user"], row["item"]) for row in _read(test)}
        lists = {(row["user"], row["item"]) for row in rows}
        everything = {(u, f"i{i}") for u in ids for i in range(7)}
        seen = {(ids[u], f"i{i}") for u, i, _, _ in events}
        if not held or not held < seen or lists != everything - (seen - held):
            faults.append(f"{name}: {sorted(lists - everything)}")
        said = command("evaluate", model, test, "--metric", "recall@7")
        if name == "zeros" and said.status == 2:
            continue
        judgement = list(csv.DictReader(io.StringIO(said.out)))
        if (
            said.status
            or float(judgement[0]["model"]) != 1
            or int(judgement[0]["users"]) != len({user for user, _ in held})
        ):
            faults.append(f"{name}: {judgement}")
    return faults


def _matrices(place: Path) -> list[str]:
    """Every form that SciPy saves; uint8 does not wrap where cells are stored twice."""
    D = np.random.default_rng(37).integers(0, 4, (8, 6)) * (np.arange(6) % 4 < 3)
    D[:, 3], D[0, 0] = 1, 2
    twice = sp.coo_array((np.array([200, 100, 7], np.uint8), ([0, 0, 1], [1, 1, 0])), shape=(2, 2))
    forms: dict[str, tuple[Any, np.ndarray]] = {
        "csr": (sp.csr_array(D), D),
        "csc": (sp.csc_matrix(D.astype(np.int16)), D),
        "coo": (sp.coo_array(D.astype(np.float64)), D),
        "bsr": (sp.bsr_array(D.astype(np.float32), blocksize=(2, 3)), D),
        "dia": (sp.dia_array(D.astype(np.float64)), D),
        "twice": (twice, np.array([[0, 300], [7, 0]])),
    }
    faults = []
    for name, (X, dense) in forms.items():
        sp.save_npz(place / f"{name}.npz", X)
        _done("fit", place / f"{name}.npz", "--factors", "2", "--iterations", "1", "-o", place / "m.safetensors")
        found = {pair: v for pair, v in _kept(place / "m.interactions.npz").items() if v}
        mine = {(int(u), int(i)): float(dense[u, i]) for u, i in zip(*np.nonzero(dense), strict=True)}
        if found != mine:
            faults.append(f"{name}: {found}")
    return faults


def _matrix_against_matrix(place: Path) -> list[str]:
    """A model of a matrix judged by another one of its shape, beside loops."""
    events = _events(18, 11, 120, 38)
    A, B = np.zeros((18, 11), bool), np.zeros((18, 11), bool)
    for u, i, v, t in events:
        (B if t % 3 == 0 and v > 1 and i != u % 11 else A)[u, i] = True
    sp.save_npz(place / "x.npz", sp.csr_array(A * 2.0))
    sp.save_npz(place / "y.npz", sp.csc_matrix(B.astype(np.int8)))
    model = place / "m.safetensors"
    _done("fit", place / "x.npz", *_SMALL, "-o", model)
    names = ["recall@4", "ndcg@4", "mrr", "auc", "map@4"]
    rows = _done("evaluate", model, place / "y.npz", *(word for name in names for word in ("--metric", name)))
    fit = lfm_np.Factors.load(model)
    scores = np.array([fit.scores(np.full(11, u), np.arange(11)) for u in range(18)]).astype(np.float64)
    mine = judged(scores, A, B, 4)
    return wrong(some=mine["users"] > 8) + [
        f"{row['metric']}: {row}, {mine[row['metric']]}"
        for row in rows
        if abs(float(row["model"]) - mine[row["metric"]]) > 1e-4 or int(row["users"]) != mine["users"]
    ]


def _one_list_in_three_files(place: Path) -> list[str]:
    """The same scores, to the bit of float32, in JSON, CSV and Parquet."""
    import pyarrow.parquet as pq

    events = _events(7, 9, 35, 39)
    _table(place / "x.csv", [(f"u{u}", 1000 + i) for u, i, _, _ in events], "listener,track")
    model = place / "m.safetensors"
    _done("fit", place / "x.csv", "--user", "listener", "--item", "track", *_SMALL, "-o", model)
    for ending in ("json", "csv", "parquet"):
        _done("recommend", model, "-n", "4", "-o", place / f"l.{ending}")
    fit, mine = lfm_np.Factors.load(model), []
    for u in range(7):
        scores = fit.scores(u, np.arange(9))
        allowed = np.array([(u, i) not in {e[:2] for e in events} for i in range(9)])
        ids = [i for i in best(scores, allowed, 4) if i >= 0]
        mine += [(f"u{u}", 1000 + i, float(scores[i]), rank) for rank, i in enumerate(ids, 1)]
    names = ("listener", "track", "score", "rank")
    table = pq.read_table(place / "l.parquet", use_threads=False)
    lists = {
        "json": json.loads((place / "l.json").read_text()),
        "parquet": table.to_pylist(),
        "csv": [{**r, "track": int(r["track"]), "rank": int(r["rank"])} for r in _read(place / "l.csv")],
    }
    faults = wrong(names=tuple(table.column_names) == names and all(tuple(rows[0]) == names for rows in lists.values()))
    for name, rows in lists.items():
        found = [(row["listener"], row["track"], float(np.float32(row["score"])), row["rank"]) for row in rows]
        if found != mine:
            faults.append(name)
    return faults


def cases() -> list[Case]:
    return list(_cases())


def _inside(name: str, work: Callable[[Path], Any]) -> Case:
    return _holds(name, inside(work))


def _cases() -> Iterator[Case]:
    yield _inside("users in a column item, items in a column user", _names_exchanged)
    yield _inside("fit: a fifth of each user's events, by a seed", _fifths)
    yield _inside("fit: the latest quarter, into Parquet", _latest_quarter)
    yield _inside("fit: the latest of the core", _latest_of_the_core)
    yield _inside("fit: unknown values and a threshold", _unknown_and_above)
    yield _inside("fit and evaluate: tenths that reach a threshold", _tenths)
    yield _inside("fit: what looks like a number", _looks_like_a_number)
    yield _inside("fit: tabs, packed or in capitals", _tabs)
    yield _inside("fit: UUIDs", _numbers_of_no_kind)
    yield _inside("fit: ids with ends of lines and zeros", _lines_and_zeros)
    yield _inside("fit: matrices of every form", _matrices)
    yield _inside("evaluate: a matrix by another", _matrix_against_matrix)
    yield _inside("recommend: one list in three files", _one_list_in_three_files)
