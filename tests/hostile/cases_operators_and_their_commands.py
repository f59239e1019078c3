"""The command line at night: every number of fit, update, evaluate, recommend and similar from events by loops."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp

from .case import Case, Group
from .places import parts
from .working_days import Model, Said, best, biased_half, close, faultless, folder, judged, stars, typed, wrong

_GROUP = Group("operators")
_holds = faultless(_GROUP)
SMALL = ("--factors", 3, "--regularization", 2, "--iterations", 3)
MODEL = Model(lam=2.0)
Record = tuple[Any, ...]


def table(path: Path, header: str, records: Sequence[Record], **words: Any) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, **words)
        writer.writerow(header.split())
        writer.writerows(records)
    return path


def rows_of_csv(text: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(text)))


def events_of(seed: int = 0, m: int = 14, n: int = 9) -> list[Record]:
    """(u…, i…, stars, time): times are distinct."""
    X = stars(m, n, seed, 0.35)
    order = np.random.default_rng(seed).permutation(X.size).reshape(X.shape)
    return [(f"u{u:02}", f"i{i}", int(X[u, i]), int(order[u, i])) for u, i in np.argwhere(~np.isnan(X)).tolist()]


def grid_of(cells: dict[tuple[str, str], float]) -> tuple[np.ndarray, list[str], list[str]]:
    users, items = sorted({u for u, _ in cells}), sorted({i for _, i in cells})
    X = np.full((len(users), len(items)), np.nan)
    for (u, i), x in cells.items():
        X[users.index(u), items.index(i)] = x
    return X, users, items


class Plain(NamedTuple):
    """A model file without the library."""

    U: np.ndarray
    V: np.ndarray
    about: dict[str, Any]

    @property
    def scores(self) -> np.ndarray:
        return self.U @ self.V.T


def plain_of(path: Path) -> Plain:
    header, body = parts(path)
    found = []
    for name in ("user_factors", "item_factors"):
        entry = header[name]
        array = np.frombuffer(body[slice(*entry["data_offsets"])], "<f4").reshape(entry["shape"])
        found.append(array.astype(np.float64))
    return Plain(found[0], found[1], json.loads(header["__metadata__"]["model"]))


def solved(plain: Plain, X: np.ndarray, model: Model = MODEL) -> bool:
    """Items are the least squares of the users, whatever the start was."""
    return close(plain.V, model.half(X.T, plain.U), 1e-4)


def done(said: Any) -> bool:
    return said.status == 0 and "Traceback" not in said.err


def failed(said: Said, status: int | None = None) -> bool:
    told = said.status == status if status is not None else said.status not in (0, 70) and said.status > 0
    return told and bool(said.err.strip()) and "Traceback" not in said.err and "escaped" not in said.err


def _a_night() -> list[str]:
    """fit, evaluate, recommend, similar of one export; the model is read by struct."""
    events = events_of(1)
    held, learnt = events[::4], [event for n, event in enumerate(events) if n % 4]
    with folder() as place:
        table(place / "events.csv", "user item stars time", learnt)
        table(place / "test.csv", "user item stars time", held)
        facts = {"fit": done(typed(place, "fit", "events.csv", "--value", "stars", *SMALL, "-o", "m.safetensors"))}
        plain = plain_of(place / "m.safetensors")
        judgement = typed(place, "evaluate", "m.safetensors", "test.csv", "--metric", "recall@3", "--metric", "auc")
        lists = typed(place, "recommend", "m.safetensors", "-n", 4)
        alike = typed(place, "similar", "m.safetensors", "--item", "i3", "-n", 4, "--metric", "inner")
    X, users, items = grid_of({event[:2]: event[2] for event in learnt})
    has, S = ~np.isnan(X), plain.scores
    test = np.zeros_like(has)
    for user, item, *_ in held:
        test[users.index(user), items.index(item)] = True
    mine = [judged(scores, has, test, 3) for scores in (S, np.tile(has.sum(0), (len(users), 1)))]
    told = {row[0]: [float(x) for x in row[1:]] for row in rows_of_csv(judgement.out)[1:]}
    facts["judged"] = all(
        abs(told[name][0] - mine[0][name]) < 6e-4 and abs(told[name][2] - mine[1][name]) < 6e-4
        and told[name][4] == mine[0]["users"] for name in ("recall@3", "auc")
    )  # fmt: skip
    asked = []
    for u, user in enumerate(users):
        asked += [(user, items[i], rank) for rank, i in enumerate(best(S[u], ~has[u], 4), 1) if i >= 0]
    found = rows_of_csv(lists.out)
    facts["lists"] = [(user, item, int(rank)) for user, item, _, rank in found[1:]] == asked
    facts["scores"] = close(
        [float(row[2]) for row in found[1:]], [S[users.index(u), items.index(i)] for u, i, _ in asked], 1e-3
    )
    G = plain.V @ plain.V[items.index("i3")]
    facts["similar"] = [row[1] for row in rows_of_csv(alike.out)[1:]] == [
        items[i] for i in best(G, np.ones(len(G), bool), 4)
    ]
    return wrong(least=solved(plain, X), **facts)


def _updated(duplicates: str, expected: float, new: tuple[int, int]) -> list[str]:
    """u00 has i0 twice, 3 then 5, and gets a third record: (stars, time)."""
    events = [event for event in events_of(2) if event[:2] != ("u00", "i0")]
    events += [("u00", "i0", 3, 1000), ("u00", "i0", 5, 2000)]
    words = ("--value", "stars", "--timestamp", "time", "--duplicates", duplicates)
    with folder() as place:
        table(place / "events.csv", "user item stars time", events)
        today = [("u00", "i0", *new), ("nova", "i2", 4, 1), ("nova", "unheard", 4, 2), ("nova", "i7", 5, 3)]
        table(place / "today.csv", "user item stars time", today)
        fit = typed(place, "fit", "events.csv", *words, *SMALL, "-o", "m.safetensors")
        before = (place / "m.safetensors").read_bytes()
        said = typed(place, "update", "m.safetensors", "today.csv", "-o", "n.safetensors")
        old, now = plain_of(place / "m.safetensors"), plain_of(place / "n.safetensors")
        kept = (place / "m.safetensors").read_bytes() == before
        mine = rows_of_csv(typed(place, "recommend", "n.safetensors", "--user", "nova", "-n", 50).out)
    cells: dict[tuple[str, str], float] = {}
    for user, item, x, _ in events:
        cells[user, item] = {"count": 1.0}.get(duplicates, float(x))
    cells["u00", "i0"] = expected
    X, users, items = grid_of(cells)
    one = 1.0 if duplicates == "count" else 4.0
    row = np.full((1, len(items)), np.nan)
    row[0, items.index("i2")], row[0, items.index("i7")] = one, one + (duplicates != "count")
    others = [u for u, user in enumerate(users) if user != "u00"]
    left = {item for item in items if item not in ("i2", "i7")}
    return wrong(
        fine=done(fit) and done(said) and kept,
        items=np.array_equal(old.V, now.V),
        others=np.array_equal(old.U[others], now.U[others]) and len(now.U) == len(users) + 1,
        least=close(now.U[users.index("u00")], MODEL.half(X, now.V)[users.index("u00")], 1e-4),
        added=close(now.U[-1], MODEL.half(row, now.V)[0], 1e-4),
        lists={line[1] for line in mine[1:]} == left and len(mine) == len(left) + 1,
    )


def _threshold() -> list[str]:
    """Only 4 and 5 count, each as 1: a 3 of today is nothing, and a 5 of a pair that is there already is still 1."""
    events = [(u, i, 5 if (int(u[1:]) + int(i[1:])) % 3 else x, t) for u, i, x, t in events_of(3)]
    liked = {event[:2]: 1.0 for event in events if event[2] >= 4}
    X, users, items = grid_of(liked)
    user, item = sorted(liked)[0]
    missing = next(i for i in items if (user, i) not in liked)
    with folder() as place:
        table(place / "events.csv", "user item stars time", events)
        table(
            place / "today.csv",
            "user item stars time",
            [(user, item, 5, 1), (user, missing, 5, 1), (users[-1], missing, 3, 1)],
        )
        words = ("--value", "stars", "--threshold", 4, *SMALL)
        fit = typed(place, "fit", "events.csv", *words, "-o", "m.safetensors")
        said = typed(place, "update", "m.safetensors", "today.csv", "-o", "m.safetensors")
        plain = plain_of(place / "m.safetensors")
    row = X[[users.index(user)]].copy()
    row[0, items.index(missing)] = 1.0
    return wrong(
        fine=done(fit) and done(said),
        shape=plain.U.shape == (len(users), 3) and plain.V.shape == (len(items), 3),
        least=close(plain.U[users.index(user)], MODEL.half(row, plain.V)[0], 1e-4),
    )


def _archives() -> list[str]:
    """A sparse matrix always has its values, columns of an npz only where they are asked for."""
    X = stars(12, 8, 4)
    u, i = np.nonzero(~np.isnan(X))
    found = {}
    with folder() as place:
        sp.save_npz(place / "matrix.npz", sp.csr_matrix((X[u, i], (u, i)), shape=X.shape))
        np.savez(place / "columns.npz", user=u, item=i, plays=X[u, i])
        for name, data, words in (("matrix", X, ()), ("columns", X, ("--value", "plays")), ("columns", X * 0 + 1, ())):
            said = typed(place, "fit", f"{name}.npz", *words, *SMALL, "-o", "m.safetensors")
            plain = plain_of(place / "m.safetensors")
            lists = rows_of_csv(typed(place, "recommend", "m.safetensors", "--user", 5, "-n", 3).out)
            mine = [i for i in best(plain.scores[5], np.isnan(X[5]), 3) if i >= 0]
            found[f"{name} {words}"] = done(said) and solved(plain, data) and [int(row[1]) for row in lists[1:]] == mine
    return wrong(**found)


def _held_out(by: str) -> list[str]:
    """What is held out and what is learnt are all events, cut where loops cut."""
    events = events_of(5)
    with folder() as place:
        table(place / "events.csv", "user item stars time", events)
        words = ("--timestamp", "time", "--by", by, "--hold-out", "test.csv", "--value", "stars", *SMALL)
        share = ("--fraction", 0.3) if by == "time" else ()
        said = typed(place, "fit", "events.csv", *words, *share, "-o", "m.safetensors")
        head, *rows = rows_of_csv((place / "test.csv").read_text())
        plain = plain_of(place / "m.safetensors")
    if by == "time":
        late = sorted(events, key=lambda event: event[3])[-int(0.3 * len(events)) :]
    else:
        late = []
        for user in sorted({event[0] for event in events}):
            own = sorted((event for event in events if event[0] == user), key=lambda event: event[3])
            late += own[-1:] if len(own) > 1 else []
    place_of = [head.index(name) for name in ("user", "item", "stars", "time")]
    found = {(row[place_of[0]], row[place_of[1]], float(row[place_of[2]]), float(row[place_of[3]])) for row in rows}
    X, users, items = grid_of({event[:2]: event[2] for event in events})
    for user, item, *_ in late:
        X[users.index(user), items.index(item)] = np.nan
    return wrong(
        fine=done(said), held=found == {(u, i, float(x), float(t)) for u, i, x, t in late}, learnt=solved(plain, X)
    )


def _null_words() -> list[str]:
    """Ids that look like nulls and numbers, in quotes; what is held out has them in quotes again."""
    names = ["NA", "NULL", "nan", "", "007", 'say "x"', "a,b", " pad ", "Zoë"]
    events = [
        (user, item, 1 + (u * i) % 5) for u, user in enumerate(names) for i, item in enumerate(names) if (u + i) % 3
    ]
    with folder() as place:
        table(place / "events.csv", "user item n", events, quoting=csv.QUOTE_ALL)
        words = ("--text", "user", "--text", "item", "--hold-out", "test.csv", "--by", "random", "--fraction", 0.3)
        said = typed(place, "fit", "events.csv", *words, *SMALL, "-o", "m.safetensors")
        head, *rows = rows_of_csv((place / "test.csv").read_text(encoding="utf-8"))
        judgement = typed(place, "evaluate", "m.safetensors", "test.csv", "--metric", "recall@50")
        lists = typed(place, "recommend", "m.safetensors", "--user", "NA", "--user", "007", "-n", 3, "-o", "lists.csv")
        found = rows_of_csv((place / "lists.csv").read_text(encoding="utf-8"))[1:]
    pairs = {(user, item) for user, item, _ in events}
    held = {(row[head.index("user")], row[head.index("item")]) for row in rows}
    told = dict(zip(*rows_of_csv(judgement.out), strict=True)) if done(judgement) else {}
    return wrong(
        fine=done(said) and done(lists), held=bool(held) and held <= pairs,
        users=float(told.get("users", -1)) == len({user for user, _ in held}), all=float(told.get("model", 0)) == 1,
        lists={row[0] for row in found} == {"NA", "007"} and all(row[1] in names for row in found),
    )  # fmt: skip


def _at_the_limit() -> list[str]:
    """Lists as long as the catalogue find everything, which is not less than 1; few of 200 are relevant."""
    events = events_of(6)
    with folder() as place:
        table(place / "a.csv", "user item stars time", events[1::2])
        table(place / "b.csv", "user item stars time", [e for e in events[::2] if e[0] in {x[0] for x in events[1::2]}
                                                        and e[1] in {x[1] for x in events[1::2]}])  # fmt: skip
        typed(place, "fit", "a.csv", *SMALL, "-o", "m.safetensors")
        judge = ("evaluate", "m.safetensors", "b.csv", "--at-least")
        enough = typed(place, *judge, "recall@200=1")
        less = typed(place, *judge, "recall@200=1", "--at-least", "precision@200=0.9")
    return wrong(
        enough=done(enough) and "failed" not in enough.err,
        less=less.status == 1 and "precision@200" in less.err + less.out and "Traceback" not in less.err,
    )


def _own_data() -> list[str]:
    """Nothing is written over what is read, by whatever name."""
    found = {}
    with folder() as place:
        (place / "sub").mkdir()
        source = table(place / "events.csv", "user item stars time", events_of(7))
        (place / "link.csv").symlink_to("events.csv")
        table(place / "today.csv", "user item stars time", [("u00", "i0", 5, 1)])
        (place / "labels.csv").write_text("item,label\ni0,tea\n")
        typed(place, "fit", "events.csv", *SMALL, "-o", "m.safetensors")
        before = {path.name: path.read_bytes() for path in place.iterdir() if path.is_file()}
        fit = ("fit", "events.csv", *SMALL, "-o", "n.safetensors")
        for name, words in {
            "link": (*fit, "--hold-out", "link.csv"),
            "detour": (*fit, "--hold-out", "sub/../events.csv"),
            "whole path": (*fit, "--checkpoint", source),
            "update": ("update", "m.safetensors", "today.csv", "-o", "today.csv"),
            "evaluate": ("evaluate", "m.safetensors", "today.csv", "-o", "./today.csv"),
            "labels": ("report", "m.safetensors", "--labels", "labels.csv", "-o", "labels.csv"),
        }.items():
            said = typed(place, *words)
            now = {path.name: path.read_bytes() for path in place.iterdir() if path.is_file()}
            found[name] = failed(said, 2) and all(now.get(file) == raw for file, raw in before.items())
    return wrong(**found)


def _ratings_with_biases() -> list[str]:
    """The items and their biases are the least squares of the users and theirs, μ the mean."""
    events = events_of(8)
    X, _, _ = grid_of({event[:2]: event[2] for event in events})
    words = ("--value", "stars", "--weighting", "ratings", "--biases", *SMALL)
    with folder() as place:
        table(place / "events.csv", "user item stars time", events)
        said = typed(place, "fit", "events.csv", *words, "-o", "m.safetensors")
        header, body = parts(place / "m.safetensors")
    found = {}
    for name in ("user_factors", "item_factors", "user_bias", "item_bias"):
        array = np.frombuffer(body[slice(*header[name]["data_offsets"])], "<f4")
        found[name] = array.reshape(header[name]["shape"]).astype(np.float64)
    mu = json.loads(header["__metadata__"]["model"])["global_bias"]
    V, b = biased_half(X.T, found["user_factors"], found["user_bias"], mu, 2.0)
    return wrong(
        fine=done(said), mu=math.isclose(mu, np.nanmean(X), rel_tol=1e-6),
        factors=abs(found["item_factors"] - V).max() < 1e-4, biases=abs(found["item_bias"] - b).max() < 1e-4,
    )  # fmt: skip


def _chain() -> list[str]:
    """Three nights of updates: who comes later is behind who came before, and every list knows what was seen."""
    events = events_of(9)
    nights = [[("w", "i1", 1, 1)], [("v", "i2", 1, 1), ("w", "i3", 1, 2)], [("w", "i1", 1, 3), ("v", "i4", 1, 4)]]
    with folder() as place:
        table(place / "events.csv", "user item stars time", events)
        typed(place, "fit", "events.csv", *SMALL, "-o", "m.safetensors")
        said = []
        for night, records in enumerate(nights):
            table(place / f"{night}.csv", "user item stars time", records)
            said.append(typed(place, "update", "m.safetensors", f"{night}.csv", "-o", "m.safetensors"))
        plain = plain_of(place / "m.safetensors")
        lists = rows_of_csv(typed(place, "recommend", "m.safetensors", "--user", "v", "--user", "w", "-n", 99).out)[1:]
    _, users, items = grid_of({event[:2]: 1.0 for event in events})
    rows = np.full((2, len(items)), np.nan)
    rows[0, [items.index("i1"), items.index("i3")]] = 2.0, 1.0
    rows[1, [items.index("i2"), items.index("i4")]] = 1.0
    mine = {("v", item) for item in items if item not in ("i2", "i4")}
    mine |= {("w", item) for item in items if item not in ("i1", "i3")}
    return wrong(
        fine=all(map(done, said)),
        least=close(plain.U[len(users) :], MODEL.half(rows, plain.V), 1e-4),
        seen={(row[0], row[1]) for row in lists} == mine and len(lists) == len(mine),
    )


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    yield _holds("a night from export to lists", _a_night)
    for name, duplicates, expected, new in (
        ("a sum", "sum", 10.0, (2, 5000)),
        ("the last, which is new", "last", 2.0, (2, 5000)),
        ("the last, which is old", "last", 5.0, (2, 1500)),
        ("the largest, which is new", "max", 9.0, (9, 1500)),
        ("the largest, which is old", "max", 5.0, (4, 5000)),
        ("the mean of old and new", "mean", 3.0, (2, 5000)),
        ("the number of records", "count", 3.0, (2, 5000)),
    ):
        yield _holds(f"update takes {name}", lambda d=duplicates, x=expected, n=new: _updated(d, x, n))
    yield _holds("update beside a threshold", _threshold)
    yield _holds("three updates one after another", _chain)
    yield _holds("archives of NumPy and SciPy", _archives)
    for by in ("time", "last"):
        yield _holds(f"what is held out: {by}", lambda b=by: _held_out(b))
    yield _holds("ids that look like nulls", _null_words)
    yield _holds("a check at its limit", _at_the_limit)
    yield _holds("nothing is written over what is read", _own_data)
    yield _holds("ratings with biases", _ratings_with_biases)
