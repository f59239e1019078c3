"""A reviewer's programs, each to show a promise of the pages false: the command line."""

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
    """Command line: 'Further events of known users, and new users, without a refit: their rows are solved exactly from
    the item factors, and everything else stays as it is' - the new one's id comes before all others."""
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
    """Command line: 'JSON is one array with an object for each row, the names of the columns its keys' - users in a
    column "item" and items in a column "user"; 'without what the user has'; N beyond the items; `similar`'s first
    is `item`."""
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
    """Command line: 'Beside recommending what is most popular, with standard errors. `--at-least` makes it a check',
    with status 1 where it failed."""
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
    """Command line: '`--text user` keeps the zeros of "007"', 'Later commands know it from the model'; 'Without
    `--text` what looks like a number is one: "0x1F" is 31'."""
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
    """Command line: 'a `.npz` (a sparse matrix, or an array for each column)'; 'Names of columns mean nothing to a
    sparse matrix, whose values always count'; `--threshold`: 1 where the value is at least that."""
    D = stars(25, 12, 6)
    r, c = np.nonzero(~np.isnan(D))
    ones = np.where(np.nan_to_num(D) >= 3, 1.0, NAN)
    with folder() as place:
        np.savez(place / "a.npz", listener=r * 7, track=c - 4, plays=D[r, c])
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
    """Command line: 'The same command goes on from it … to the same bits as without a break' - beside `als` with the
    seed that `params` tells."""
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
    if installed("typer", "pyarrow", "narwhals"):
        yield _holds("a model updated by command", _updated_by_command)
        yield _holds("columns of crossed names, as JSON", _crossed_names)
        yield _holds("a check by command", _judged_by_command)
        yield _holds("half of every user held out by command", _held_out_by_half)
        yield _holds("text that looks like numbers, and numbers like text", _texts_and_hex)
        yield _holds("arrays and sparse matrices by command", _arrays_and_matrices)
        yield _holds("a checkpoint by command, beside its seed", _broken_off_by_command)
