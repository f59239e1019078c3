"""The fourth sitting: days that commands take in, parts that they leave, and what their files say of the fit."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

import lfm_np
from lfm_np import Factors, Interactions

from .case import Case, Group, installed
from .places import inside, same, write_csv
from .working_days import NAN, Model, all_scores, best, faultless, judged, typed, wrong

_GROUP = Group("fourth sitting, data")
_holds = faultless(_GROUP)
SMALL = ("--factors", "3", "--iterations", "3", "--regularization", "0.5")
_RULE = Model(alpha=2.0, a0=0.5, lam=0.5, nu=0.5)
_RULED = ("--alpha", "2", "--unobserved-weight", "0.5", "--regularization-exponent", "0.5")


def asked_of(place: Path, *words: Any) -> str:
    """What a command answers in a pipe; it must have done its work."""
    said = typed(place, *words)
    assert said.status == 0, said
    return said.out


def _rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def events_file(path: Path, records: Iterable[tuple[Any, ...]], *names: str) -> Path:
    lines = [names or ("user", "item"), *records]
    return write_csv(path, "".join(",".join(map(str, line)) + "\n" for line in lines))


def drawn(seed: int, m: int = 16, n: int = 10, share: float = 0.4) -> list[tuple[str, int]]:
    """Pairs in which every one of m users and n items has some."""
    draw = np.random.default_rng(seed)
    X = draw.random((m, n)) < share
    X[np.arange(m), np.arange(m) % n] = True
    return [(f"u{u:02}", 100 + int(i)) for u, i in draw.permutation(np.argwhere(X))]


def _told(place: Path, model: str, users: Iterable[str], n: int) -> dict[str, dict[str, float]]:
    """The scores of all items for these users, by what a command says."""
    asked = [word for user in users for word in ("--user", user)]
    found: dict[str, dict[str, float]] = {}
    for row in _rows(asked_of(place, "recommend", model, *asked, "-n", n, "--include-seen")):
        user, item, score, _ = row.values()
        found.setdefault(user, {})[item] = float(score)
    return found


def _solved(place: Path, model: str, row: dict[int, float], items: list[int]) -> dict[str, float]:
    """The scores of a user of such values, solved from the item factors of the file."""
    V = Factors.load(place / model).item_factors.astype(np.float64)
    x = np.array([[row.get(item, NAN) for item in items]])
    return dict(zip(map(str, items), (V @ _RULE.half(x, V)[0]).tolist(), strict=True))


def _near(found: dict[str, float], mine: dict[str, float]) -> bool:
    """Systems of condition below a thousand in float32: 1e-4 is plenty."""
    return set(found) == set(mine) and all(abs(found[key] - mine[key]) <= 1e-4 for key in mine)


def _two_days_or_one(place: Path) -> list[str]:
    """Two days in turn, or in one file: everybody is solved from what they have in the end."""
    draw = np.random.default_rng(71)
    events = [(u, i, int(draw.integers(1, 5))) for u, i in drawn(72)]
    days = [
        [("u03", 104, 2), ("z9", 101, 1), ("u03", 104, 1), ("u05", 102, 3)],
        [("a0", 107, 4), ("u03", 104, 5), ("z9", 101, 2), ("z9", 109, 1), ("u05", 999, 7)],
    ]
    events_file(place / "events.csv", events, "user", "item", "plays")
    for name, records in (("day1", days[0]), ("day2", days[1]), ("both", days[0] + days[1])):
        events_file(place / f"{name}.csv", records, "user", "item", "plays")
    asked_of(place, "fit", "events.csv", "--value", "plays", *SMALL, *_RULED, "-o", "m.safetensors")
    said = [
        typed(place, "update", old, day, "-o", new)
        for old, day, new in (
            ("m.safetensors", "day1.csv", "a.safetensors"),
            ("a.safetensors", "day2.csv", "b.safetensors"),
            ("m.safetensors", "both.csv", "c.safetensors"),
        )
    ]
    items = list(range(100, 110))
    rows: dict[str, dict[int, float]] = {}
    for user, item, plays in [*events, *days[0], *days[1]]:
        if item in items:
            rows.setdefault(user, {})[item] = rows.get(user, {}).get(item, 0) + plays
    asked = ("u03", "u05", "z9", "a0")
    found = {name: _told(place, f"{name}.safetensors", [*asked, "u01"], 10) for name in "bc"}
    old = _told(place, "m.safetensors", ["u01"], 10)
    counts = [[text for text in ("1 users added", "2 users added") if text in s.out + s.err] for s in said]
    return wrong(
        done=[s.status for s in said] == [0, 0, 0],
        counts=counts == [["1 users added"], ["1 users added"], ["2 users added"]],
        solved=all(
            _near(told[user], _solved(place, "m.safetensors", rows[user], items))
            for told in found.values()
            for user in asked
        ),
        others=all(told["u01"] == old["u01"] for told in found.values()),
        items=len({Factors.load(place / f"{name}.safetensors").item_factors.tobytes() for name in "mabc"}) == 1,
    )


def _left_out_and_back(place: Path) -> list[str]:
    """Users and items that were too rare are unknown: such users come anew, such items not at all."""
    events = drawn(73, share=0.6)
    rare = [("rare", 101), ("rare", 102), ("u01", 500), ("u02", 500)]
    events_file(place / "events.csv", [*rare, *events])
    least = ("--min-user-interactions", "3", "--min-item-interactions", "3")
    asked_of(place, "fit", "events.csv", *least, *SMALL, *_RULED, "-o", "m.safetensors")
    events_file(place / "day.csv", [("rare", 103), ("rare", 500), ("rare", 105), ("rare", 104)])
    said = typed(place, "update", "m.safetensors", "day.csv", "-o", "n.safetensors")
    items = list(range(100, 110))
    shape = Factors.load(place / "m.safetensors").shape
    found = _told(place, "n.safetensors", ["rare", "u01"], 10)
    lists = {row["item"] for row in _rows(asked_of(place, "recommend", "n.safetensors", "--user", "rare", "-n", 10))}
    return wrong(
        shape=shape == (16, 10),
        rare=_near(found["rare"], _solved(place, "m.safetensors", {103: 1.0, 104: 1.0, 105: 1.0}, items)),
        same=found["u01"] == _told(place, "m.safetensors", ["u01"], 10)["u01"],
        added="1 users added" in said.out + said.err and said.status == 0,
        lists=lists == {str(item) for item in items} - {"103", "104", "105"},
    )


def _stars_of_another_day(place: Path) -> list[str]:
    """Of what comes later, too, pairs of four stars and more count, each as 1."""
    draw = np.random.default_rng(74)
    events = [(u, i, int(draw.integers(1, 6))) for u, i in drawn(75, share=0.7)]
    events += [(f"u{u:02}", 100 + u % 10, 5) for u in range(16)]
    events = list({(u, i): (u, i, stars) for u, i, stars in events}.values())
    events_file(place / "events.csv", events, "user", "item", "stars")
    words = ("--value", "stars", "--threshold", "4")
    asked_of(place, "fit", "events.csv", *words, *SMALL, *_RULED, "-o", "m.safetensors")
    liked = {i for u, i, stars in events if u == "u04" and stars >= 4}
    free = [i for i in range(100, 110) if i not in {i for u, i, _ in events if u == "u04"}]
    day = [("u04", 104, 5), ("u04", free[0], 4), ("u04", free[1], 3), ("new", 102, 5), ("new", 103, 1)]
    events_file(place / "day.csv", day, "user", "item", "stars")
    asked_of(place, "update", "m.safetensors", "day.csv", "-o", "n.safetensors")
    items = list(range(100, 110))
    found = _told(place, "n.safetensors", ["u04", "new"], 10)
    lists = {row["item"] for row in _rows(asked_of(place, "recommend", "n.safetensors", "--user", "new", "-n", 10))}
    return wrong(
        old=_near(found["u04"], _solved(place, "m.safetensors", dict.fromkeys(liked | {free[0]}, 1.0), items)),
        new=_near(found["new"], _solved(place, "m.safetensors", {102: 1.0}, items)),
        lists=lists == {str(item) for item in items} - {"102"},
    )


def _three_parts(place: Path) -> list[str]:
    """What is held out, what is held out of the rest by another seed, and the rest of that are the events."""
    events = [(u, str(i)) for u, i in drawn(76, m=30, n=12, share=0.7)]
    events_file(place / "events.csv", events)
    asked_of(place, "fit", "events.csv", "--hold-out", "t1.csv", *SMALL, "-o", "m.safetensors")
    asked_of(place, "fit", "m.interactions.npz", "--hold-out", "t2.csv", "--seed", "1", *SMALL, "-o", "n.safetensors")
    parts = [{(row["user"], row["item"]) for row in _rows((place / name).read_text())} for name in ("t1.csv", "t2.csv")]
    unseen = {(row["user"], row["item"]) for row in _rows(asked_of(place, "recommend", "n.safetensors", "-n", "12"))}
    every = {(f"u{u:02}", str(100 + i)) for u in range(30) for i in range(12)}
    rest = every - unseen
    bad = []
    for user in sorted({u for u, _ in events}):
        d, one, two = (sum(u == user for u, _ in part) for part in (events, *parts))
        if not (abs(one - 0.2 * d) < 1 and abs(two - 0.2 * (d - one)) < 1):
            bad.append(f"{user}: {one} and {two} of {d}")
    sizes = [len(part) for part in (*parts, rest)]
    return bad + wrong(
        all=parts[0] | parts[1] | rest == set(events), once=sum(sizes) == len(events), some=min(sizes) > 9
    )


def _zeros_through_days(place: Path) -> list[str]:
    """007, 07 and 7 are three people, on the first day and on the next, in a file with tabs."""
    of = {"007": [1, 2, 3], "07": [3, 4], "7": [5, 1], "70": [6, 2, 4, 5]}
    text = "who\twhat\n" + "".join(f"{user}\t{item}\n" for user, items in of.items() for item in items)
    (place / "events.tsv.gz").write_bytes(gzip.compress(text.encode()))
    names = ("--user", "who", "--item", "what", "--text", "user")
    asked_of(place, "fit", "events.tsv.gz", *names, *SMALL, "-o", "m.safetensors")
    write_csv(place / "day.tsv", "what\twho\n6\t007\n6\t0007\n1\t0007\n")
    said = typed(place, "update", "m.safetensors", "day.tsv", "-o", "m.safetensors")
    of["007"].append(6)
    of["0007"] = [6, 1]
    rows = _rows(asked_of(place, "recommend", "m.safetensors", "-n", "6"))
    lists: dict[str, set[str]] = {}
    for row in rows:
        lists.setdefault(row["who"], set()).add(row["what"])
    mine = {user: {str(item) for item in range(1, 7) if item not in items} for user, items in of.items()}
    one = [
        row["who"]
        for row in _rows(asked_of(place, "recommend", "m.safetensors", "--user", "07", "--user", "7", "-n", "1"))
    ]
    return wrong(
        said="1 users added, 1 solved again" in said.out + said.err,
        lists=lists == mine,
        asked=one == ["07", "7"],
        unknown=typed(place, "recommend", "m.safetensors", "--user", "00007").status == 2,
    )


def known_of(events: Iterable[tuple[str, int]], m: int = 16, n: int = 10) -> np.ndarray:
    X = np.zeros((m, n), bool)
    for user, item, *_ in events:
        X[int(user[1:]), int(item) - 100] = True
    return X


def _one_user_in_json(place: Path) -> list[str]:
    """Of one user there is no standard error, which is null; the numbers are those of loops."""
    events = drawn(77)
    known = known_of(events)
    events_file(place / "events.csv", events)
    asked_of(place, "fit", "events.csv", *SMALL, "-o", "m.safetensors")
    unseen = [100 + int(i) for i in np.flatnonzero(~known[6])][::2]
    events_file(place / "test.csv", [("u06", item) for item in unseen])
    metrics = ("recall@3", "ndcg@3", "mrr", "auc")
    words = [word for metric in metrics for word in ("--metric", metric)]
    asked_of(place, "evaluate", "m.safetensors", "test.csv", *words, "-o", "e.json")
    found = json.loads((place / "e.json").read_text())
    held = known_of([("u06", item) for item in unseen])
    model = judged(all_scores(Factors.load(place / "m.safetensors")), known, held, 3)
    popular = judged(np.tile(known.sum(0), (16, 1)), known, held, 3)
    return wrong(
        metrics=[row["metric"] for row in found] == list(metrics),
        keys=all(list(row) == ["metric", "model", "model_se", "popular", "popular_se", "users"] for row in found),
        null=all(row["model_se"] is None and row["popular_se"] is None for row in found),
        users=all(row["users"] == 1 for row in found),
        # sums of a few numbers in float64
        model=all(abs(row["model"] - model[row["metric"]]) < 1e-9 for row in found),
        popular=all(abs(row["popular"] - popular[row["metric"]]) < 1e-9 for row in found),
    )


def _checks_in_a_row(place: Path) -> list[str]:
    """Of three demands one is not met, and that one is named; without it all is well."""
    events = drawn(78, share=0.6)
    events_file(place / "events.csv", events)
    asked_of(place, "fit", "events.csv", "--hold-out", "test.csv", *SMALL, "-o", "m.safetensors")
    words = ("evaluate", "m.safetensors", "test.csv", "--metric", "mrr")
    met = ("--at-least", "recall@5=0", "--at-least", "hit_rate@9=0.001")
    bad, good = typed(place, *words, *met, "--at-least", "ndcg@5=0.9999"), typed(place, *words, *met)
    failed = [line for line in (bad.out + bad.err).splitlines() if "failed" in line]
    return wrong(
        status=(bad.status, good.status) == (1, 0),
        named=len(failed) == 1 and "ndcg@5" in failed[0] and "0.9999" in failed[0],
        table={row["metric"] for row in _rows(bad.out)} == {"mrr", "recall@5", "hit_rate@9", "ndcg@5"},
        met="failed" not in good.out + good.err,
        less={row["metric"] for row in _rows(good.out)} == {"mrr", "recall@5", "hit_rate@9"},
    )


def _what_the_file_says(place: Path) -> list[str]:
    """Its seed repeats the fit in Python, to the same bits, and its J is that of loops."""
    draw = np.random.default_rng(79)
    events = [(u, i, int(draw.integers(1, 9))) for u, i in drawn(80)]
    events_file(place / "events.csv", events, "user", "item", "plays")
    asked_of(place, "fit", "events.csv", "--value", "plays", *SMALL, *_RULED, "--seed", "5", "-o", "m.safetensors")
    model = Factors.load(place / "m.safetensors")
    data = Interactions.from_csv(place / "events.csv", value="plays")
    again = lfm_np.als(data, factors=3, iterations=3, random_state=model.params["seed"], **_RULE.words)
    X = np.full((16, 10), NAN)
    for user, item, plays in events:
        X[int(user[1:]), item - 100] = plays
    J = _RULE.objective(X, *(F.astype(np.float64) for F in (model.user_factors, model.item_factors)))
    scale = float((1 + 2 * X[~np.isnan(X)]).sum())
    return wrong(
        seed=model.params["seed"] == 5,
        bits=same(model, again),
        sweeps=[record["iteration"] for record in model.history] == [1, 2, 3],
        # of a float32 fit, to 10^-5 of the sum of c·p²
        objective=abs(model.history[-1]["objective"] - J) <= 1e-5 * scale,
    )


def _held_out_and_gone_on(place: Path) -> list[str]:
    """The same command with more sweeps: the same part is held out, and the model is as without a break."""
    events = [(u, i) for u, i in drawn(81, share=0.7)]
    events_file(place / "events.csv", events)
    fit = ("fit", "events.csv", *SMALL[:2], *SMALL[4:], *_RULED, "--hold-out")
    asked_of(place, *fit, "t.csv", "--iterations", "2", "--checkpoint", "c", "-o", "m.safetensors")
    first = (place / "t.csv").read_bytes()
    table = asked_of(place, *fit, "t.csv", "--iterations", "5", "--checkpoint", "c", "-o", "m.safetensors")
    whole = asked_of(place, *fit, "w.csv", "--iterations", "5", "-o", "w.safetensors")
    one, other = (Factors.load(place / f"{name}.safetensors") for name in "mw")
    held = {(row["user"], int(row["item"])) for row in _rows((place / "t.csv").read_text())}
    X = np.where(known_of(pair for pair in events if pair not in held), 1.0, NAN)
    J = _RULE.objective(X, *(F.astype(np.float64) for F in (one.user_factors, one.item_factors)))
    return wrong(
        held=first == (place / "t.csv").read_bytes() == (place / "w.csv").read_bytes(),
        bits=same(one, other) and len(one.history) == 5,
        judged=table == whole and table.startswith("metric,"),
        objective=abs(one.history[-1]["objective"] - J) <= 1e-5 * 3 * (~np.isnan(X)).sum(),
    )


def _files(place: Path) -> dict[str, str]:
    return {name: hashlib.sha256((place / name).read_bytes()).hexdigest() for name in os.listdir(place)}


def _nothing_of_a_failure(place: Path) -> list[str]:
    """Fits that diverge, or whose data are wrong in the last line, leave the old model and no other file."""
    events = drawn(82)
    events_file(place / "events.csv", events)
    events_file(place / "broken.csv", [*events, ("u01", "")])
    asked_of(place, "fit", "events.csv", *SMALL, "-o", "m.safetensors")
    before = _files(place)
    wild = ("--method", "sgd", "--loss", "Squared", "--learning-rate", "1e6", "--factors", "3")
    statuses = [
        typed(place, "fit", "events.csv", *wild, "-o", "m.safetensors").status,
        typed(place, "fit", "broken.csv", *SMALL, "-o", "m.safetensors").status,
        typed(place, "update", "m.safetensors", "broken.csv", "-o", "m.safetensors").status,
        typed(place, "recommend", "m.safetensors", "--user", "u77", "-o", "lists.csv").status,
        typed(place, "evaluate", "m.safetensors", "events.csv", "--metric", "recal@3", "-o", "e.csv").status,
    ]
    return wrong(statuses=statuses == [3, 2, 2, 2, 2], files=_files(place) == before)


def _without_its_companion(place: Path) -> list[str]:
    """A model that was moved alone is told what it was fitted to; data of one user more are refused."""
    events = drawn(83)
    events_file(place / "events.csv", events)
    events_file(place / "more.csv", [*events, ("u99", 101)])
    asked_of(place, "fit", "events.csv", *SMALL, "-o", "m.safetensors")
    lists = asked_of(place, "recommend", "m.safetensors", "-n", "4")
    (place / "elsewhere").mkdir()
    shutil.move(place / "m.safetensors", place / "elsewhere" / "m.safetensors")
    alone = ("recommend", "elsewhere/m.safetensors", "-n", "4")
    S = all_scores(Factors.load(place / "elsewhere" / "m.safetensors"))
    known = known_of(events)
    mine = [(f"u{u:02}", str(100 + i)) for u in range(16) for i in best(S[u], ~known[u], 4) if i >= 0]
    return wrong(
        told=asked_of(place, *alone, "--data", "events.csv") == lists,
        lists=[(row["user"], row["item"]) for row in _rows(lists)] == mine,
        untold=typed(place, *alone).status == 2,
        other=typed(place, *alone, "--data", "more.csv").status == 2,
    )


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    if not installed("pyarrow", "narwhals", "typer"):
        return
    for name, call in (
        ("update: two days in turn, or in one file", _two_days_or_one),
        ("update: who and what was too rare", _left_out_and_back),
        ("update: stars of another day", _stars_of_another_day),
        ("fit: a part of the rest of a part", _three_parts),
        ("update: 007, 07 and 7 through two days", _zeros_through_days),
        ("evaluate: one user, in JSON", _one_user_in_json),
        ("evaluate: three demands, one of them not met", _checks_in_a_row),
        ("fit: what the file says is how to fit again", _what_the_file_says),
        ("fit: held out, and gone on with", _held_out_and_gone_on),
        ("five commands that fail leave nothing", _nothing_of_a_failure),
        ("recommend: a model without its companion", _without_its_companion),
    ):
        yield _holds(name, inside(call))
