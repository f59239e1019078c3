"""Working days at the command line: fit, go on, evaluate, recommend, update, and what scripts and files do wrong."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import lfm_np

from .case import Case, Group, installed
from .working_days import NAN, Model, Said, all_scores, best, close, folder, judged, same, typed, wrong

_GROUP = Group("day at the shell")
RULE = Model("hu-koren", alpha=20.0, lam=5.0)
FIT = ("--factors", 3, "--alpha", 20, "--regularization", 5, "--iterations", 3)


def _day(name: str, call: Any) -> Case:
    return _GROUP.right(name, call, lambda failed: failed == [])


def _events(seed: int = 41, rows: int = 260) -> list[tuple[str, int, int]]:
    draw = np.random.default_rng(seed)
    return [(f"user{draw.integers(30):02}", int(1000 + draw.integers(18)), t) for t in range(rows)]


def _write(path: Path, events: Any, head: str = "user,item,time") -> None:
    path.write_text("\n".join([head, *(",".join(map(str, event)) for event in events)]) + "\n")


def _counts(events: Any, users: list[str], items: list[int]) -> np.ndarray:
    X = np.full((len(users), len(items)), NAN)
    for u, i, *_ in events:
        cell = users.index(u), items.index(i)
        X[cell] = 1 + (0 if np.isnan(X[cell]) else X[cell])
    return X


def _table(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def _ids(events: Any) -> tuple[list[str], list[int]]:
    return sorted({e[0] for e in events}), sorted({e[1] for e in events})


def _listed(said: Said, S: np.ndarray, X: np.ndarray, users: list[str], items: list[int], N: int) -> bool:
    mine = [
        (users[u], str(items[i]), str(r))
        for u in range(len(users))
        for r, i in enumerate(best(S[u], np.isnan(X[u]), N), 1)
        if i >= 0
    ]
    return [(r["user"], r["item"], r["rank"]) for r in _table(said.out)] == mine


def _fit_to_lists() -> list[str]:
    events = _events()
    users, items = _ids(events)
    X = _counts(events, users, items)
    with folder() as place:
        _write(place / "events.csv", events)
        fit = typed(place, "fit", "events.csv", *FIT, "-o", "model.safetensors")
        model = lfm_np.Factors.load(place / "model.safetensors")
        lists = typed(place, "recommend", "model.safetensors", "-n", 4)
        every = typed(place, "recommend", "model.safetensors", "-n", 100, "--include-seen", "--user", users[3])
        like = typed(place, "similar", "model.safetensors", "--item", items[2], "-n", 3)
    S = all_scores(model)
    V = RULE.half(X.T, model.user_factors.astype(float))
    return wrong(
        status=[fit.status, lists.status, every.status, like.status] == [0] * 4,
        quiet=fit.out == "" and "30 users" in fit.err,
        items_solved=close(model.item_factors, V, 1e-4),
        lists=_listed(lists, S, X, users, items, 4),
        every=[int(r["item"]) for r in _table(every.out)]
        == [items[i] for i in best(S[3], np.ones(len(items), bool), len(items))],
        like=_table(like.out)[0]["similar"] == str(items[2]) and len(_table(like.out)) == 3,
    )


def _update_and_serve() -> list[str]:
    events, users_then = _events(), None
    users_then, items = _ids(events)
    today = [
        ("newcomer", items[4], 999),
        ("newcomer", items[4], 1000),
        (users_then[5], items[0], 1001),
        ("x", 77, 1002),
    ]
    known = [e for e in today if e[1] in items]
    with folder() as place:
        _write(place / "events.csv", events)
        typed(place, "fit", "events.csv", *FIT, "-o", "m.safetensors")
        old = lfm_np.Factors.load(place / "m.safetensors")
        _write(place / "today.csv", today)
        said = typed(place, "update", "m.safetensors", "today.csv", "-o", "m.safetensors")
        new = lfm_np.Factors.load(place / "m.safetensors")
        one = typed(place, "recommend", "m.safetensors", "--user", "newcomer", "-n", 5)
    users, _ = _ids([*events, *known])
    order = [*users_then, *(u for u in users if u not in users_then)]
    X = _counts([*events, *known], order, items)
    V = old.item_factors.astype(float)
    U = RULE.half(X, V)
    row = order.index("newcomer")
    mine = [str(items[i]) for i in best(U[row] @ V.T, np.isnan(X[row]), 5)]
    found = new.user_factors.astype(float)
    return wrong(
        status=said.status == 0 and one.status == 0,
        told="1 users added" in said.err and "1 solved again" in said.err,
        items=np.array_equal(new.item_factors, old.item_factors),
        others=sum(bool((abs(found - u).max(axis=1) == 0).any()) for u in old.user_factors.astype(float)) == 29,
        again=bool((abs(found - U[5]).max(axis=1) < 1e-4 * abs(U).max()).any()),
        list=[r["item"] for r in _table(one.out)] == mine,
    )


def _held_out_and_judged() -> list[str]:
    events = _events(42)
    users, items = _ids(events)
    X = _counts(events, users, items)
    with folder() as place:
        _write(place / "e.csv", events)
        fit = typed(
            place,
            "fit",
            "e.csv",
            *FIT,
            "--timestamp",
            "time",
            "--hold-out",
            "test.csv",
            "--by",
            "last",
            "-o",
            "m.safetensors",
        )
        held = _table((place / "test.csv").read_text())
        found = typed(place, "evaluate", "m.safetensors", "test.csv", "--metric", "ndcg@5", "--metric", "auc")
        high = typed(place, "evaluate", "m.safetensors", "test.csv", "--metric", "auc", "--at-least", "ndcg@5=1.01")
        low = typed(place, "evaluate", "m.safetensors", "test.csv", "--at-least", "ndcg@5=0")
        model = lfm_np.Factors.load(place / "m.safetensors")
    test = np.zeros(X.shape, bool)
    for row in held:
        test[users.index(row["user"]), items.index(int(row["item"]))] = True
    mine = judged(all_scores(model), ~np.isnan(X) & ~test, test, 5)
    told = {row["metric"]: row for row in _table(found.out)}
    latest = {u: max((t, i) for v, i, t in events if v == u)[1] for u in users}
    return wrong(
        status=[fit.status, found.status, high.status, low.status] == [0, 0, 1, 0],
        last={(r["user"], int(r["item"])) for r in held} == set(latest.items()),
        numbers=all(close(float(told[name]["model"]), mine[name], 1e-4) for name in ("ndcg@5", "auc")),
        errors=close(float(told["auc"]["model_se"]), mine["auc_se"], 1e-3),
        users=told["auc"]["users"] == str(mine["users"]),
        failed="ndcg@5" in high.err + high.out,
    )


def _checkpointed() -> list[str]:
    with folder() as place:
        _write(place / "e.csv", _events())
        words = ("fit", "e.csv", "--factors", 3, "--checkpoint", "c")
        first = typed(place, *words, "--iterations", 2, "-o", "m.safetensors")
        other = typed(place, *words, "--iterations", 4, "--alpha", 3, "-o", "m.safetensors")
        kept = lfm_np.Factors.load(place / "m.safetensors")
        on = typed(place, *words, "--iterations", 4, "--threads", 1, "-o", "m.safetensors")
        whole = typed(place, "fit", "e.csv", "--factors", 3, "--iterations", 4, "--threads", 2, "-o", "w.safetensors")
        equal = same(lfm_np.Factors.load(place / "m.safetensors"), lfm_np.Factors.load(place / "w.safetensors"))
        _write(place / "e.csv", _events()[:-1])
        changed = typed(place, *words, "--iterations", 6, "-o", "m.safetensors")
    return wrong(
        status=[first.status, other.status, on.status, whole.status, changed.status] == [0, 2, 0, 0, 2],
        alpha="alpha" in other.err,
        changed="c" in changed.err and "error" in changed.err,
        old_model=len(kept.history) == 2,
        bits=equal,
    )


def _zeros_before_sevens() -> list[str]:
    lines = [
        "user;item;value",
        *(f"{u:03};{i:02};{(u * i) % 5 + 1}" for u in range(12) for i in range(9) if (u + i) % 3),
    ]
    with folder() as place:
        with gzip.open(place / "log.csv.gz", "wt") as file:
            file.write("\n".join(lines))
        words = ("--delimiter", ";", "--text", "user", "--text", "item", "--value", "value", "--weighting", "ratings")
        fit = typed(place, "fit", "log.csv.gz", *words, "--factors", 2, "--regularization", 0.5, "-o", "m.safetensors")
        lists = typed(place, "recommend", "m.safetensors", "--user", "007", "-o", "007.json")
        rows = json.loads((place / "007.json").read_text())
        lost = typed(place, "recommend", "m.safetensors", "--user", "7")
        info = typed(place, "info", "m.safetensors")
    mine = sorted(f"{i:02}" for i in range(9) if not (7 + i) % 3)
    return wrong(
        status=[fit.status, lists.status, lost.status, info.status] == [0, 0, 2, 0],
        items=sorted(row["item"] for row in rows) == mine and {row["user"] for row in rows} == {"007"},
        lost="'7'" in lost.err or "7" in lost.err,
        info={"what": "users", "value": "12"} in _table(info.out),
    )


def _sgd_by_name() -> list[str]:
    with folder() as place:
        _write(place / "e.csv", _events())
        words = ("fit", "e.csv", "--method", "sgd", "--loss", "WARP", "--learning-rate", 0.02, "--factors", 3)
        first = typed(place, *words, "--iterations", 3, "--seed", 5, "--threads", 1, "-o", "a.safetensors")
        second = typed(place, *words, "--iterations", 3, "--seed", 5, "--threads", 2, "-o", "b.safetensors")
        diverged = typed(place, *words[:3], "sgd", "--loss", "Squared", "--learning-rate", 1e6, "-o", "a.safetensors")
        update = typed(place, "update", "a.safetensors", "e.csv", "-o", "u.safetensors")
        a, b = (lfm_np.Factors.load(place / f"{name}.safetensors") for name in "ab")
        there = (place / "u.safetensors").exists()
    return wrong(
        status=[first.status, second.status, diverged.status] == [0, 0, 3],
        bits=same(a, b) and len(a.history) == 3,
        diverged="diverge" in diverged.err,
        update=update.status == 2 and "als" in update.err and not there,
    )


def _refused(name: str, words: tuple[Any, ...], *told: str, status: int = 2, content: bytes | None = None) -> Case:
    def call() -> list[str]:
        with folder() as place:
            _write(place / "e.csv", _events())
            if content is not None:
                (place / "e.csv").write_bytes(content)
            (place / "m.safetensors").write_bytes(b"mine")
            before = {path.name: path.read_bytes() for path in place.iterdir()}
            said = typed(place, *words)
            after = {path.name: path.read_bytes() for path in place.iterdir()}
        lines = [line for line in said.err.splitlines() if line.startswith("error")]
        found = wrong(
            status=said.status == status,
            told=all(any(w in said.err.lower() for w in t.split("|")) for t in told),
            one_line="Traceback" not in said.err and len(lines) <= 1,
            files=after == before,
        )
        return found + ([f"status {said.status}", said.err[-300:]] if found else [])

    return _day(name, call)


def _parquet_of_days() -> list[str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    draw = np.random.default_rng(44)
    users, items = draw.integers(-(2**62), 2**62, 15), draw.integers(0, 10, 90)
    who = users[draw.integers(0, 15, 90)]
    plays = draw.integers(1, 9, 90).astype(np.float32)
    with folder() as place:
        for part in range(3):
            table = {"u": who[part::3], "song": items[part::3].astype(f"int{8 << part}"), "plays": plays[part::3]}
            (place / "logs" / f"day={part}").mkdir(parents=True)
            pq.write_table(pa.table(table), place / "logs" / f"day={part}" / "x.parquet")
        words = (
            "--user",
            "u",
            "--item",
            "song",
            "--value",
            "plays",
            "--duplicates",
            "max",
            "--min-user-interactions",
            2,
        )
        fit = typed(place, "fit", "logs", *words, *FIT, "-o", "m.safetensors")
        out = typed(place, "recommend", "m.safetensors", "-n", 3, "-o", "all.parquet")
        rows = pq.read_table(place / "all.parquet").to_pylist()
        model = lfm_np.Factors.load(place / "m.safetensors")
    of: dict[tuple[int, int], float] = {}
    for u, i, v in zip(who.tolist(), items.tolist(), plays.tolist(), strict=True):
        of[u, i] = max(v, of.get((u, i), 0))
    of = {c: v for c, v in of.items() if sum(d[0] == c[0] for d in of) >= 2}
    names, songs = sorted({u for u, _ in of}), sorted({i for _, i in of})
    X = np.array([[of.get((u, i), NAN) for i in songs] for u in names])
    S = all_scores(model)
    mine = [
        (u, songs[i], r)
        for u, s, x in zip(names, S, X, strict=True)
        for r, i in enumerate(best(s, np.isnan(x), 3), 1)
        if i >= 0
    ]
    return wrong(
        status=fit.status == 0 and out.status == 0,
        items=close(model.item_factors, RULE.half(X.T, model.user_factors.astype(float)), 1e-4),
        rows=[(r["u"], r["song"], r["rank"]) for r in rows] == mine,
    )


def cases() -> list[Case]:
    return list(_cases()) if installed("typer", "pyarrow", "narwhals", "rich") else []


def _cases() -> Iterator[Case]:
    yield _day("fit, recommend, similar, from the file to the lists by hand", _fit_to_lists)
    yield _day("update in place with newcomers, repeats and unknown items", _update_and_serve)
    yield _day("held out, evaluated, checked by --at-least", _held_out_and_judged)
    yield _day("checkpointed, with another alpha, gone on, with other data", _checkpointed)
    yield _day("zeros before sevens in gzip, with ratings, as JSON", _zeros_before_sevens)
    yield _day("sgd by name, diverged, updated in vain", _sgd_by_name)
    yield _day("partitioned parquet with negative ids of 63 bits", _parquet_of_days)
    out = ("-o", "m.safetensors")
    yield _refused("a column that is not there", ("fit", "e.csv", "--user", "listener", *out), "listener")
    yield _refused("a file that is not there", ("fit", "f.csv", *out), "f.csv")
    yield _refused("a file of no kind", ("fit", "e.xlsx", *out), "e.xlsx")
    yield _refused("text as value", ("fit", "e.csv", "--value", "user", *out), "user|value|number")
    yield _refused("weighting of another library", ("fit", "e.csv", "--weighting", "implicit", *out), "weighting")
    yield _refused("a loss that does not exist", ("fit", "e.csv", "--method", "sgd", "--loss", "BCE", *out), "bce|loss")
    yield _refused("an option of sgd for als", ("fit", "e.csv", "--loss", "BPR", *out), "loss|sgd")
    yield _refused("lambda below zero", ("fit", "e.csv", "--regularization", -1, *out), "regularization")
    yield _refused("no factors", ("fit", "e.csv", "--factors", 0, *out), "factors")
    yield _refused("factors beyond memory", ("fit", "e.csv", "--factors", 2**33, *out), "factors", "8589934592")
    yield _refused("a bare sword as model", ("recommend", "m.safetensors"), "m.safetensors")
    yield _refused("hold out onto the data", ("fit", "e.csv", "--hold-out", "e.csv", *out), "e.csv|hold-out")
    yield _refused("an empty file", ("fit", "e.csv", *out), "e.csv|empty|no ", content=b"")
    yield _refused("only a header", ("fit", "e.csv", *out), "e.csv|empty|no ", content=b"user,item,time\n")
    yield _refused("an empty user", ("fit", "e.csv", *out), "null", "user", content=b"user,item,time\nann,1,2\n,2,3\n")
    yield _refused(
        "a line too short", ("fit", "e.csv", *out), "e.csv|column|line|row", content=b"user,item\nann,1\nbob\n"
    )
    yield _refused("threads below one", ("fit", "e.csv", "--threads", 0, *out), "threads")
