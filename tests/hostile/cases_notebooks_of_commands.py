"""Small analyses from the command line: what its tables say, by dictionaries, sorting and normal equations."""

from __future__ import annotations

import csv
import gzip
import importlib
import io
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

import lfm_np as library

from .case import Case, Group, installed
from .cases_notebooks_of_judgements import of_all
from .cases_notebooks_of_parts import peeled
from .places import command as places_command
from .places import inside
from .working_days import Model, all_scores, best, faultless, stars, wrong

lfm_np: Any = library
_GROUP = Group("analysts' commands")
_holds = faultless(_GROUP)


def command(*words: Any) -> Any:
    return places_command(*map(str, words))


def events(seed: int = 0, count: int = 140) -> list[tuple[str, int, int, int]]:
    """User, item, plays and time; users' names are numbers with zeros, pairs are repeated, times are not."""
    draw = np.random.default_rng(seed)
    users, items, plays = draw.integers(0, 14, count), draw.integers(0, 16, count), draw.integers(1, 9, count)
    times = 10 * draw.permutation(count)
    return [
        (f"{u:03}", 500 + 3 * int(i), int(p), int(t)) for u, i, p, t in zip(users, items, plays, times, strict=True)
    ]


HEAD = ("who", "what", "plays", "time")
COLUMNS = ("--user", "who", "--item", "what", "--text", "user")


def written(path: Path, rows: list[Any], head: tuple[str, ...] = HEAD, delimiter: str = ",") -> Path:
    text = "".join(delimiter.join(map(str, row)) + "\n" for row in [head, *rows])
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def table(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def axes(rows: list[Any]) -> tuple[list[Any], list[Any]]:
    return sorted({row[0] for row in rows}), sorted({row[1] for row in rows})


def mask(rows: list[Any], users: list[Any], items: list[Any]) -> np.ndarray:
    found = np.zeros((len(users), len(items)), bool)
    for row in rows:
        found[users.index(row[0]), items.index(row[1])] = True
    return found


def ranks_of(said: str, names: tuple[str, str], S: np.ndarray, free: np.ndarray, ids: Any, asked: Any, N: int) -> bool:
    """Whether the rows are the N best of every row asked for, with its scores (float32)."""
    mine = []
    for u in asked:
        order = [i for i in best(S[u], free[u], N) if i >= 0]
        mine += [(str(ids[0][u]), str(ids[1][i]), r, float(S[u, i])) for r, i in enumerate(order, 1)]
    rows = [(row[names[0]], row[names[1]], int(row["rank"]), float(row["score"])) for row in table(said)]
    return [r[:3] for r in rows] == [r[:3] for r in mine] and all(
        abs(r[3] - s[3]) <= 1e-4 * max(1.0, abs(S).max()) for r, s in zip(rows, mine, strict=True)
    )


def _fit_and_recommend(place: Path) -> list[str]:
    rows = events()
    users, items = axes(rows)
    data, model = written(place / "events.csv.gz", rows), place / "m.safetensors"
    done = command(
        "fit", data, *COLUMNS, "--value", "plays", "--factors", 3, "--iterations", 2, "--seed", 5, "-o", model
    )
    factors = lfm_np.Factors.load(model)
    has, S = mask(rows, users, items), all_scores(factors)
    every = command("recommend", model, "-n", 4)
    some = command("recommend", model, "--user", "009", "--user", "001", "-n", 30, "--include-seen")
    names, ids = ("who", "what"), (users, items)
    x = np.full(has.shape, np.nan)
    for user, item, plays, _ in rows:
        u, i = users.index(user), items.index(item)
        x[u, i] = plays + np.nan_to_num(x[u, i])
    J = Model(lam=0.01).objective(x, factors.user_factors.astype(float), factors.item_factors.astype(float))
    return wrong(
        status=(done.status, every.status, some.status) == (0, 0, 0),
        counted=f"{len(users)} users × {len(items)} items, {has.sum()} interactions" in done.err,
        every=ranks_of(every.out, names, S, ~has, ids, range(len(users)), 4),
        some=ranks_of(some.out, names, S, has | True, ids, [users.index("009"), users.index("001")], 30),
        objective=abs(factors.history[-1]["objective"] / J - 1) < 1e-5 and len(factors.history) == 2,
    )


def _evaluate(place: Path) -> list[str]:
    """Beside the charts, with standard errors; pairs that were known and pairs told twice are in the test file."""
    rows = events(1)
    users, items = axes(rows)
    train, model = written(place / "train.csv", rows[:90] + rows[:5]), place / "m.safetensors"
    known = {row[0] for row in rows[:90]}, {row[1] for row in rows[:90]}
    held = [row for row in rows[80:] if row[0] in known[0] and row[1] in known[1]]
    users, items = axes(rows[:90])
    test = written(place / "test.csv", held + held[:7])
    command("fit", train, *COLUMNS, "--factors", 4, "--iterations", 3, "--alpha", 5, "-o", model)
    names = ("recall@3", "ndcg@30", "precision@1", "map@5", "mrr", "auc", "capped_recall@2", "hit_rate@4")
    said = command("evaluate", model, test, *(word for name in names for word in ("--metric", name)))
    failed = command("evaluate", model, test, "--metric", "mrr", "--at-least", "auc=0.999999")
    a, b = mask(rows[:90], users, items), mask(held, users, items)
    cutoffs = (1, 2, 3, 4, 5, 30)
    mine = of_all(all_scores(lfm_np.Factors.load(model)), a, b, *cutoffs)
    charts = of_all(np.tile(a.sum(0).astype(float), (len(users), 1)), a, b, *cutoffs)
    facts: dict[str, Any] = {"names": [row["metric"] for row in table(said.out)] == list(names)}
    for row in table(said.out):
        name = row["metric"]
        told = [float(row[column]) for column in ("model", "model_se", "popular", "popular_se", "users")]
        right = [mine[name], mine[f"{name}_se"], charts[name], charts[f"{name}_se"], mine["users"]]
        facts[name] = np.allclose(told, right, rtol=0, atol=1e-4)
    return wrong(status=said.status == 0 and failed.status == 1 and "auc" in failed.err + failed.out, **facts)


def _held_out(place: Path, by: str) -> list[str]:
    """What goes into the test file, and how many are left; the lists leave out what was learnt from, and only that."""
    rows = events(2)
    users, items = axes(rows)
    data, test, model = written(place / "e.csv", rows), place / "test.csv", place / "m.safetensors"
    share = ("--fraction", 0.3) if by == "time" else ()
    done = command(
        "fit", data, *COLUMNS, "--timestamp", "time", "--hold-out", test, "--by", by, *share,
        "--duplicates", "last", "--factors", 2, "--iterations", 1, "-o", model,
    )  # fmt: skip
    latest: dict[tuple[str, int], int] = {}
    for user, item, _, time in rows:
        latest[user, item] = max(time, latest.get((user, item), -1))
    if by == "last":
        mine = set()
        for user in users:
            own = sorted((pair for pair in latest if pair[0] == user), key=lambda pair: latest[pair])
            mine |= set(own[1:][-1:])
    else:
        order = sorted(latest, key=lambda pair: latest[pair])
        mine = set(order[len(order) - 3 * len(order) // 10 :])
    found = [(row["who"], int(row["what"])) for row in table(test.read_text())]
    times = [float(row["time"]) for row in table(test.read_text()) if "time" in row]
    remark = re.search(r"([\d,]+) interactions held out, ([\d,]+) to learn from", done.err)
    told = [int(part.replace(",", "")) for part in remark.groups()] if remark else []
    has = mask([pair for pair in latest if pair not in mine], users, items)
    S = all_scores(lfm_np.Factors.load(model))
    lists = command("recommend", model, "-n", len(items))
    return wrong(
        status=done.status == 0,
        held=set(found) == mine and len(found) == len(mine),
        times=times in ([], [latest[pair] for pair in found]),
        told=told == [len(mine), len(latest) - len(mine)],
        lists=ranks_of(lists.out, ("who", "what"), S, ~has, (users, items), range(len(users)), len(items)),
    )


def _alike(place: Path) -> list[str]:
    rows = events(3)
    users, items = axes(rows)
    data, model = written(place / "e.csv", rows), place / "m.safetensors"
    command("fit", data, *COLUMNS, "--factors", 3, "--iterations", 2, "-o", model)
    factors = lfm_np.Factors.load(model)
    U, V = factors.user_factors.astype(float), factors.item_factors.astype(float)
    unit = V / np.sqrt((V**2).sum(1))[:, None]
    inner = command("similar", model, "--user", "002", "--user", "013", "-n", 3, "--metric", "inner")
    cosine = command("similar", model, "--item", items[5], "-n", 99)
    asked = [users.index("002"), users.index("013")]
    everyone, everything = np.ones((len(users),) * 2, bool), np.ones((len(items),) * 2, bool)
    return wrong(
        inner=ranks_of(inner.out, ("user", "similar"), U @ U.T, everyone, (users, users), asked, 3),
        cosine=ranks_of(cosine.out, ("item", "similar"), unit @ unit.T, everything, (items, items), [5], 99),
    )


def _updated(place: Path) -> list[str]:
    """The larger of old and new plays, a newcomer, and an item that nobody knows: rows by normal equations."""
    rows = events(4)
    items = axes(rows)[1]
    data, model, next_one = written(place / "e.csv", rows), place / "m.safetensors", place / "next.safetensors"
    command(
        "fit", data, *COLUMNS, "--value", "plays", "--duplicates", "max", "--factors", 3, "--iterations", 3,
        "--alpha", 2, "--regularization", 0.5, "--unobserved-weight", 0.25, "-o", model,
    )  # fmt: skip
    more = [
        ("003", items[0], 1, 1),
        ("003", items[1], 20, 2),
        ("new", items[2], 4, 3),
        ("new", items[2], 6, 4),
        ("new", 9999, 5, 5),
    ]
    done = command("update", model, written(place / "more.csv", more), "-o", next_one)
    V = lfm_np.Factors.load(model).item_factors.astype(float)
    S = []
    for user in ("new", "003"):
        x = np.full(len(items), np.nan)
        for _, item, plays, _ in (row for row in rows + more if row[0] == user and row[1] in items):
            i = items.index(item)
            x[i] = max(plays, np.nan_to_num(x[i]))
        S.append(V @ Model(alpha=2.0, a0=0.25, lam=0.5).half(x[None], V)[0])
    said = command("recommend", next_one, "--user", "new", "--user", "003", "-n", len(items), "--include-seen")
    rest = command("recommend", next_one, "--user", "007", "-n", 5)
    before = command("recommend", model, "--user", "007", "-n", 5)
    told: dict[str, dict[str, float]] = {"new": {}, "003": {}}
    for row in table(said.out):
        told[row["who"]][row["what"]] = float(row["score"])
    scores = [[told[user][str(i)] for i in items] for user in ("new", "003")]
    return wrong(
        status=(done.status, said.status) == (0, 0),
        told="1 users added, 1 solved again" in done.err + done.out,
        scores=np.allclose(scores, S, rtol=0, atol=1e-4),
        others=rest.out == before.out and rest.status == 0,
    )


def _arrays_with_a_threshold(place: Path) -> list[str]:
    """Arrays of an npz file; what is liked less than the threshold may still be recommended."""
    X = stars(12, 9, 5, 0.5)
    X[np.arange(12), np.arange(12) % 9] = 5.0
    u, i = np.nonzero(~np.isnan(X))
    users, items = [f"ü{n:02}" for n in range(12)], [n + 0.5 for n in range(9)]
    np.savez(place / "d.npz", user=np.array(users)[u], item=np.array(items)[i], stars=X[u, i])
    model = place / "m.safetensors"
    command(
        "fit", place / "d.npz", "--value", "stars", "--threshold", 4, "--factors", 2, "--iterations", 1, "-o", model
    )
    has, S = np.nan_to_num(X) >= 4, all_scores(lfm_np.Factors.load(model))
    said = command("recommend", model, "-n", 9)
    info = {row["what"]: row["value"] for row in table(command("info", place / "d.npz", "--value", "stars").out)}
    return wrong(
        lists=ranks_of(said.out, ("user", "item"), S, ~has, (users, items), range(12), 9),
        info=(info["users"], info["items"], info["interactions"]) == ("12", "9", str(len(u))),
    )


def _matrix(place: Path) -> list[str]:
    """The values of a sparse matrix always count."""
    X = stars(14, 11, 6)
    x = np.nan_to_num(X)
    sp.save_npz(place / "x.npz", sp.csr_matrix(x))
    model = place / "m.safetensors"
    done = command(
        "fit", place / "x.npz", "--weighting", "ials", "--alpha", 0.5, "--unobserved-weight", 0.25,
        "--regularization", 0.2, "--regularization-exponent", 0.5, "--factors", 3, "--iterations", 4, "-o", model,
    )  # fmt: skip
    factors = lfm_np.Factors.load(model)
    rule = Model("ials", 0.5, 0.25, 0.2, 0.5)
    J = rule.objective(X, factors.user_factors.astype(float), factors.item_factors.astype(float))
    said = command("recommend", model, "--user", 13, "-n", 3)
    return wrong(
        status=done.status == 0,
        objective=abs(factors.history[-1]["objective"] / J - 1) < 1e-5,
        lists=ranks_of(said.out, ("user", "item"), all_scores(factors), x == 0, (range(14), range(11)), [13], 3),
    )


def _core_and_parquet(place: Path) -> list[str]:
    """A core of a table of tabs, and lists of all in Parquet."""
    rows = events(7, 110)
    pairs = peeled({(row[0], row[1]) for row in rows}, 5, 4)
    users, items = axes(list(pairs))
    data, model, out = written(place / "e.tsv", rows, delimiter="\t"), place / "m.safetensors", place / "all.parquet"
    done = command(
        "fit", data, *COLUMNS, "--min-user-interactions", 5, "--min-item-interactions", 4, "--factors", 2,
        "--iterations", 1, "-o", model,
    )  # fmt: skip
    said = command("recommend", model, "-n", 6, "-o", out)
    S, has = all_scores(lfm_np.Factors.load(model)), mask(list(pairs), users, items)
    found = importlib.import_module("pyarrow.parquet").read_table(out).to_pylist()
    mine = []
    for u, user in enumerate(users):
        mine += [(user, items[i], r) for r, i in enumerate(best(S[u], ~has[u], 6), 1) if i >= 0]
    return wrong(
        core=0 < len(pairs) < len({(row[0], row[1]) for row in rows}),
        counted=f"{len(users)} users × {len(items)} items, {len(pairs)} interactions" in done.err,
        lists=[(row["who"], row["what"], row["rank"]) for row in found] == mine,
        told=f"{len(mine):,} recommendations for {len(users):,} users" in said.err + said.out,
    )


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    if not installed("typer", "pyarrow", "narwhals"):
        return
    yield _holds("a fit of plays, and its lists", inside(_fit_and_recommend))
    yield _holds("eight metrics beside the charts", inside(_evaluate))
    for by in ("last", "time"):
        yield _holds(f"what is held out: {by}", inside(partial(_held_out, by=by)))
    yield _holds("users by products and items by cosines", inside(_alike))
    yield _holds("further plays, the larger of which count", inside(_updated))
    yield _holds("arrays and a threshold", inside(_arrays_with_a_threshold))
    yield _holds("a sparse matrix under iALS", inside(_matrix))
    yield _holds("a core of a table of tabs, into Parquet", inside(_core_and_parquet))
