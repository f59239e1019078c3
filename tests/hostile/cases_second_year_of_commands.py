"""The second year of a service: commands of a nightly pipeline, what they print parsed back and computed again."""

from __future__ import annotations

import csv
import gzip
import io
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

import lfm_np

from .case import Case, Group, installed
from .places import inside
from .working_days import NAN, Model, best, close, faultless, judged, typed, wrong

_GROUP = Group("second year in production")
_holds = faultless(_GROUP)
RULE = Model("hu-koren", 3.0, 1.0, 0.5)
TOLD = ("--factors", 4, "--alpha", 3, "--regularization", 0.5)
COLUMNS = ("--user", "listener", "--item", "track", "--timestamp", "time")


def _events(seed: int = 51, m: int = 25, n: int = 12) -> list[tuple[str, int, int]]:
    """Distinct pairs in no order; everybody has two tracks at least, and every track somebody."""
    draw = np.random.default_rng(seed)
    has = draw.random((m, n)) < 0.3
    has[np.arange(m), np.arange(m) % n] = has[np.arange(m), (np.arange(m) + 5) % n] = True
    pairs = draw.permutation(np.argwhere(has)).tolist()
    return [(f"user{u}", 1000 + 7 * i, order) for order, (u, i) in enumerate(pairs)]


def _write(path: Path, events: list[tuple[str, int, int]], delimiter: str = ",") -> None:
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter).writerows([("listener", "track", "time"), *events])
    data = text.getvalue().encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


def _read(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def _fit(place: Path, *more: Any, events: list[tuple[str, int, int]] | None = None) -> list[tuple[str, int, int]]:
    events = _events() if events is None else events
    _write(place / "events.csv", events)
    said = typed(place, "fit", "events.csv", *COLUMNS, *TOLD, "-o", "model.safetensors", *more)
    assert said.status == 0, said.err
    return events


def _sides(events: list[tuple[str, int, int]]) -> tuple[list[str], list[int], np.ndarray]:
    """Ids in ascending order, and which cells there are."""
    users, items = sorted({e[0] for e in events}), sorted({e[1] for e in events})
    has = np.zeros((len(users), len(items)), bool)
    for user, item, _ in events:
        has[users.index(user), items.index(item)] = True
    return users, items, has


def _rows(place: Path, name: str) -> list[tuple[str, int, float, int]]:
    if name.endswith(".json"):
        found = json.loads((place / name).read_text())
    elif name.endswith(".csv"):
        found = _read((place / name).read_text())
    else:
        import pyarrow.parquet as pq

        found = pq.read_table(place / name).to_pylist()
    return [(r["listener"], int(r["track"]), float(r["score"]), int(r["rank"])) for r in found]


def _one_table_four_ways(place: Path) -> list[str]:
    """Standard output and files of three kinds, all with the lists that sorting finds."""
    users, items, has = _sides(_fit(place))
    said = typed(place, "recommend", "model.safetensors", "-n", 5)
    (place / "out.csv").write_text(said.out)
    ways = {"out.csv": _rows(place, "out.csv")}
    for name in ("all.csv", "all.json", "all.parquet"):
        quiet = typed(place, "recommend", "model.safetensors", "-n", 5, "-o", name)
        assert (quiet.status, quiet.out.strip()) == (0, ""), quiet
        ways[name] = _rows(place, name)
    model = lfm_np.Factors.load(place / "model.safetensors")
    S = model.user_factors.astype(float) @ model.item_factors.astype(float).T
    bad = [] if said.status == 0 else ["status"]
    for name, rows in ways.items():
        of: dict[str, list[tuple[str, int, float, int]]] = {}
        for row in rows:
            of.setdefault(row[0], []).append(row)
        for u, user in enumerate(users):
            mine = best(S[u], ~has[u], 5)
            found = of.get(user, [])
            if [items.index(r[1]) for r in found] != [i for i in mine if i >= 0]:
                bad.append(f"{name}: items of {user}")
            elif not close([r[2] for r in found], [S[u, i] for i in mine if i >= 0], 1e-5):  # sums of four in float32
                bad.append(f"{name}: scores of {user}")
            if [r[3] for r in found] != list(range(1, len(found) + 1)):
                bad.append(f"{name}: ranks of {user}")
        if of.keys() != set(users):
            bad.append(f"{name}: users")
    return bad


def _more_than_there_is(place: Path) -> list[str]:
    """Lists of 50 of 12 tracks end where the tracks end, in the order in which users were asked for."""
    users, items, has = _sides(_fit(place))
    said = typed(place, "recommend", "model.safetensors", "--user", "user7", "--user", "user10", "-n", 50)
    rows = _read(said.out)
    left = {user: int((~has[users.index(user)]).sum()) for user in ("user7", "user10")}
    alike = _read(typed(place, "similar", "model.safetensors", "--item", items[3], "-n", 50).out)
    V = lfm_np.Factors.load(place / "model.safetensors").item_factors.astype(float)
    cosines = V @ V[3] / np.linalg.norm(V, axis=1) / np.linalg.norm(V[3])
    return wrong(
        order=[r["listener"] for r in rows] == ["user7"] * left["user7"] + ["user10"] * left["user10"],
        known=not any(has[users.index(r["listener"]), items.index(int(r["track"]))] for r in rows),
        alike=sorted(int(r["similar"]) for r in alike) == items and {r["item"] for r in alike} == {str(items[3])},
        cosines=close([float(r["score"]) for r in alike], sorted(cosines, reverse=True), 1e-5),
        ranks=[int(r["rank"]) for r in alike] == list(range(1, 13)),
    )


def _asked(place: Path, model: str, user: str) -> dict[int, float]:
    said = typed(place, "recommend", model, "--user", user, "-n", 12)
    assert said.status == 0, said.err
    return {int(r["track"]): float(r["score"]) for r in _read(said.out)}


def _two_days_of_updates(place: Path) -> list[str]:
    """A newcomer who comes again, and somebody known: rows of all their events, solved from items that stay."""
    events = _fit(place)
    _, items, _ = _sides(events)
    own = {track for user, track, _ in events if user == "user3"}
    free = [track for track in items if track not in own]
    monday = [("newcomer", items[0], 900), ("user3", free[0], 901), ("newcomer", items[4], 902)]
    tuesday = [("newcomer", items[7], 903), ("aaron", items[2], 904)]
    before = (place / "model.safetensors").read_bytes()
    _write(place / "monday.csv", monday)
    _write(place / "tuesday.csv", tuesday)
    first = typed(place, "update", "model.safetensors", "monday.csv", "-o", "m.safetensors")
    second = typed(place, "update", "m.safetensors", "tuesday.csv", "-o", "t.safetensors")
    models = {name: lfm_np.Factors.load(place / f"{name}.safetensors") for name in ("model", "m", "t")}
    V = models["model"].item_factors.astype(float)
    tracks = {"newcomer": {items[0], items[4], items[7]}, "user3": own | {free[0]}, "aaron": {items[2]}}
    X = np.array([[1.0 if i in tracks[user] else NAN for i in items] for user in tracks])
    bad = []
    for user, row in zip(tracks, RULE.half(X, V), strict=True):
        found = _asked(place, "t.safetensors", user)
        mine = {items[c]: float(V[c] @ row) for c in range(12) if items[c] not in tracks[user]}
        # the condition of systems of four factors, in float32
        if found.keys() != mine.keys() or not close([found[i] for i in mine], list(mine.values()), 1e-3):
            bad.append(user)
    rest = {row.tobytes() for row in models["model"].user_factors}
    return bad + wrong(
        status=first.status == second.status == 0,
        said="1 users added, 1 solved again" in first.err,
        again="1 users added, 1 solved again" in second.err,
        first=(place / "model.safetensors").read_bytes() == before,
        items=all(np.array_equal(m.item_factors, models["model"].item_factors) for m in models.values()),
        others=len(rest & {row.tobytes() for row in models["t"].user_factors}) == 24,
        size=models["t"].shape == (27, 12),
    )


def _judged_by_hand(place: Path) -> list[str]:
    """The table of `evaluate`, and its exit status on both sides of the number that it prints."""
    events = _fit(place, "--hold-out", "test.csv")
    users, items, has = _sides(events)
    held = [(r["listener"], int(r["track"])) for r in _read((place / "test.csv").read_text())]
    test = np.zeros_like(has)
    for user, item in held:
        test[users.index(user), items.index(item)] = True
    train = has & ~test
    metrics = ("recall@3", "ndcg@3", "auc")
    words = [word for metric in metrics for word in ("--metric", metric)]
    said = typed(place, "evaluate", "model.safetensors", "test.csv", *words)
    rows = {r["metric"]: r for r in _read(said.out)}
    model = lfm_np.Factors.load(place / "model.safetensors")
    S = model.user_factors.astype(float) @ model.item_factors.astype(float).T
    popular = np.tile(train.sum(0).astype(float), (len(users), 1))
    bad = [] if said.status == 0 and set(rows) >= set(metrics) else ["table"]
    for name, scores in (("model", S), ("popular", popular)):
        mine = judged(scores, train, test, 3)
        for metric in metrics:
            for said_as, key in ((name, metric), (f"{name}_se", f"{metric}_se")):
                if abs(float(rows[metric][said_as]) - mine[key]) > 1e-4:  # what is left if four digits are printed
                    bad.append(f"{said_as} of {metric}")
            if int(rows[metric]["users"]) != mine["users"]:
                bad.append("users")
    value = judged(S, train, test, 3)["ndcg@3"]
    statuses = [
        typed(place, "evaluate", "model.safetensors", "test.csv", "--at-least", f"ndcg@3={value + by}").status
        for by in (-1e-3, 1e-3)
    ]
    return bad + wrong(
        held=len(set(held)) == len(held) and not (test & ~has).any() and len(held) > 0,
        statuses=statuses == [0, 1],
    )


def _counted_out_loud(place: Path) -> list[str]:
    """What is said of the parts adds up, and the part held out is in the file."""
    events = _events()
    _write(place / "events.csv", events)
    said = typed(place, "fit", "events.csv", *COLUMNS, *TOLD, "--hold-out", "test.csv", "-o", "model.safetensors")
    held = len(_read((place / "test.csv").read_text()))
    return wrong(
        all=all(part in said.err for part in ("25 users", "12 items", f"{len(events)} interactions")),
        parts=f"{held} interactions held out, {len(events) - held} to learn from" in said.err,
    )


def _renamed_with_its_zeros(place: Path) -> list[str]:
    """Text stays text in the model's later life, under another name, in another folder."""
    (place / "old").mkdir()
    lines = ["user,item", *(f"{u},{i}" for u, own in (("007", "abc"), ("07", "bcd"), ("7", "ad")) for i in own)]
    (place / "old" / "events.csv").write_text("\n".join(lines) + "\n")
    said = typed(place / "old", "fit", "events.csv", "--user", "user", "--item", "item", "--text", "user", *TOLD,
                 "-o", "model.safetensors")  # fmt: skip
    assert said.status == 0, said.err
    (place / "new").mkdir()
    for end in (".safetensors", ".interactions.npz"):
        (place / "old" / f"model{end}").rename(place / "new" / f"prod{end}")
    (place / "new" / "today.csv").write_text("user,item\n0007,d\n7,b\n")
    done = typed(place / "new", "update", "prod.safetensors", "today.csv", "-o", "prod.safetensors")
    lists = {}
    for user in ("007", "07", "7", "0007"):
        typed(place / "new", "recommend", "prod.safetensors", "--user", user, "-n", 9, "-o", f"{user}.json")
        rows = json.loads((place / "new" / f"{user}.json").read_text())
        lists[user] = sorted(r["item"] for r in rows)
        if {r["user"] for r in rows} != {user}:
            return [f"ids of {user}"]
    nobody = typed(place / "new", "recommend", "prod.safetensors", "--user", "00007", "-o", "none.json")
    return wrong(
        status=done.status == 0 and "1 users added, 1 solved again" in done.err,
        lists=lists == {"007": ["d"], "07": ["a"], "7": ["c"], "0007": ["a", "b", "c"]},
        nobody=nobody.status == 2 and not nobody.out and not (place / "new" / "none.json").exists(),
    )


def _valued(place: Path, kind: str) -> list[str]:
    """The objective that the model file tells is that of the values that this source has."""
    events = _events(52)
    users, items, has = _sides(events)
    draw = np.random.default_rng(53)
    X = np.where(has, draw.integers(1, 6, has.shape), NAN)
    rows, columns = np.nonzero(has)
    words: tuple[Any, ...] = ("--user", "u", "--item", "i")
    if kind == "matrix.npz":
        sp.save_npz(place / kind, sp.csr_matrix((X[rows, columns], (rows, columns)), shape=X.shape))
        words = ()
    elif kind.endswith(".npz"):
        arrays = {"u": np.array(users)[rows], "i": np.array(items)[columns], "x": X[rows, columns]}
        np.savez(place / kind, **arrays)
    else:
        delimiter = "\t" if kind.endswith(".tsv") else ","
        lines = [("u", "i", "x"), *((users[r], items[c], int(X[r, c])) for r, c in zip(rows, columns, strict=True))]
        text = io.StringIO()
        csv.writer(text, delimiter=delimiter).writerows(lines)
        (place / kind).write_text(text.getvalue())
    if kind.startswith("plain"):
        X = np.where(has, 1.0, NAN)
    elif words:
        words = (*words, "--value", "x")
    said = typed(place, "fit", kind, *words, *TOLD, "-o", "model.safetensors")
    assert said.status == 0, said.err
    model = lfm_np.Factors.load(place / "model.safetensors")
    mine = RULE.objective(X, model.user_factors.astype(float), model.item_factors.astype(float))
    return wrong(objective=close(model.history[-1]["objective"], mine, 1e-4), size=model.shape == X.shape)


def _gone_on(place: Path) -> list[str]:
    """Five sweeps, then eight from a copy of the checkpoint: five of the eight are those of before."""
    checkpoint = ("--checkpoint", "fit.checkpoint")
    _, _, has = _sides(_fit(place, "--iterations", 5, *checkpoint))
    first = lfm_np.Factors.load(place / "model.safetensors")
    _fit(place, "--iterations", 8, *checkpoint)
    second = lfm_np.Factors.load(place / "model.safetensors")
    J = [r["objective"] for r in second.history]
    X = np.where(has, 1.0, NAN)
    P, Q = (F.astype(float) for F in (second.user_factors, second.item_factors))
    return wrong(
        sweeps=[r["iteration"] for r in second.history] == list(range(1, 9)),
        first=[r["objective"] for r in first.history] == J[:5],
        falls=all(b <= a * (1 + 1e-6) for a, b in itertools.pairwise(J)),
        last=close(J[-1], RULE.objective(X, P, Q), 1e-4),
        items=close(Q, RULE.half(X.T, P), 1e-3),
    )


def _counts_of_every_kind(place: Path) -> list[str]:
    """One set of events as text, compressed, with tabs, as Parquet, and as a folder of two days."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    events = _events(54)
    table = pa.table({name: [e[p] for e in events] for p, name in enumerate(("listener", "track", "time"))})
    _write(place / "a.csv", events)
    _write(place / "b.csv.gz", events)
    _write(place / "c.tsv", events, "\t")
    pq.write_table(table, place / "d.parquet")
    (place / "e").mkdir()
    pq.write_table(table.slice(0, 30), place / "e" / "1.parquet")
    pq.write_table(table.slice(30), place / "e" / "2.parquet")
    bad = []
    for name in ("a.csv", "b.csv.gz", "c.tsv", "d.parquet", "e"):
        said = typed(place, "info", name, *COLUMNS)
        found = {r["what"]: r["value"] for r in _read(said.out)}
        if [found.get(w) for w in ("users", "items", "interactions")] != ["25", "12", str(len(events))]:
            bad.append(f"{name}: {said}")
    return bad


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    if not installed("typer", "pyarrow", "narwhals"):
        return
    for name, work in (
        ("one table four ways", _one_table_four_ways),
        ("lists longer than the catalogue", _more_than_there_is),
        ("two days of updates", _two_days_of_updates),
        ("the table of evaluate, and its exit status", _judged_by_hand),
        ("what fit says of its parts", _counted_out_loud),
        ("a model renamed, with its zeros", _renamed_with_its_zeros),
        ("five sweeps, then eight", _gone_on),
        ("counts of every kind of file", _counts_of_every_kind),
    ):
        yield _holds(f"commands: {name}", inside(work))
    for kind in ("matrix.npz", "columns.npz", "valued.csv", "valued.tsv", "plain.csv", "plain.npz"):
        yield _holds(f"commands: values of {kind}", inside(lambda place, k=kind: _valued(place, k)))
