"""The last examination: what commands write, read back by csv, json and NumPy and counted again."""

from __future__ import annotations

import csv
import gzip
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
from .working_days import all_scores, best, faultless, judged, wrong

_GROUP = Group("the last examination, data")
_holds = faultless(_GROUP)
_SMALL = ("--factors", "3", "--iterations", "2")


def _done(*words: Any) -> list[dict[str, str]]:
    """The rows that a command answers in a pipe; it must have done its work."""
    said = command(*words)
    if said.status:
        raise AssertionError(f"{words[0]}: {said.status}, {said.err}")
    return list(csv.DictReader(io.StringIO(said.out)))


def _table(path: Path, rows: list[Any], names: str = "user,item", delimiter: str = ",") -> Path:
    with open(path, "w", newline="") as file:
        table = csv.writer(file, delimiter=delimiter)
        table.writerow(names.split(","))
        table.writerows(rows)
    return path


def _kept(path: Path) -> tuple[sp.csr_array, Any, Any, Any]:
    """What lies beside a model: the matrix, as SciPy reads it, users, items and times."""
    with np.load(path) as file:
        users, items, times = file["users"], file["items"], file.get("timestamps")
    return sp.csr_array(sp.load_npz(path)), users, items, times


def _cells(path: Path, times: bool = False) -> dict[Any, Any]:
    """The value, or the time, of every pair of ids."""
    X, users, items, when = _kept(path)
    coo = X.tocoo()
    pairs = zip(users[coo.coords[0]].tolist(), items[coo.coords[1]].tolist(), strict=True)
    return dict(zip(pairs, (when if times else coo.data).tolist(), strict=True))


def _times(path: Path) -> dict[Any, Any]:
    return _cells(path, True)


def _solved(x: np.ndarray, Y: np.ndarray, alpha: float, lam: float) -> np.ndarray:
    """A row of hu-koren."""
    Y = Y.astype(np.float64)
    c = 1 + alpha * x
    return np.linalg.solve((Y.T * c) @ Y + lam * np.eye(Y.shape[1]), Y.T @ np.where(x > 0, c, 0))


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


def _arrays(place: Path) -> list[str]:
    """An array for each column; the mean of repeated pairs, and the latest of their times."""
    draw = np.random.default_rng(1)
    who, what = draw.integers(0, 6, 60), np.array([f"t{n}" for n in draw.integers(0, 5, 60)])
    stars, when = draw.integers(1, 6, 60) / 2, 10**12 + draw.permutation(60)
    np.savez(place / "events.npz", who=who, what=what, stars=stars, when=when)
    _done(
        "fit", place / "events.npz", "--user", "who", "--item", "what", "--value", "stars", "--timestamp", "when",
        "--duplicates", "mean", *_SMALL, "-o", place / "a.b.safetensors",
    )  # fmt: skip
    groups: dict[Any, list[tuple[float, int]]] = {}
    for u, i, v, t in zip(who.tolist(), what.tolist(), stars.tolist(), when.tolist(), strict=True):
        groups.setdefault((u, i), []).append((v, t))
    path = place / "a.b.interactions.npz"
    return wrong(
        values=_cells(path) == {c: float(np.float32(sum(v for v, _ in own) / len(own))) for c, own in groups.items()},
        times=_times(path) == {c: max(t for _, t in own) for c, own in groups.items()},
    )


def _matrix_in_pieces(place: Path) -> list[str]:
    """Cells that COO stores twice; the items solve their normal equations, in float32 to a thousandth."""
    events = _events(20, 8, 60, 2)
    u, i, v, _ = (np.array(part) for part in zip(*events, strict=True))
    u, i, v = np.concatenate([u, u[:15]]), np.concatenate([i, i[:15]]), np.concatenate([v, v[:15] + 1]).astype(float)
    sp.save_npz(place / "x.npz", sp.coo_array((v, (u, i)), shape=(20, 8)))
    _done(
        "fit", place / "x.npz", "--alpha", "2", "--regularization", "0.5", "--factors", "3", "--iterations", "3",
        "-o", place / "m.safetensors",
    )  # fmt: skip
    D = np.zeros((20, 8))
    np.add.at(D, (u, i), v)
    fit = lfm_np.Factors.load(place / "m.safetensors")
    mine = np.array([_solved(x, fit.user_factors, 2.0, 0.5) for x in D.T])
    return wrong(
        cells=(_kept(place / "m.interactions.npz")[0].toarray() == D).all(),
        items=abs(mine - fit.item_factors).max() < 1e-3 * abs(mine).max(),
    )


def _threshold_of_means(place: Path) -> list[str]:
    """A pair counts by the mean of its stars, not by any of them."""
    rows = [("a", 1, 5), ("a", 1, 1), ("a", 2, 4), ("a", 2, 3), ("b", 1, 3.5), ("b", 2, 2), ("c", 2, 5), ("c", 1, 0)]
    path = _table(place / "x.csv", rows, "user,item,stars")
    _done(
        "fit", path, "--value", "stars", "--threshold", "3.5", "--duplicates", "mean", *_SMALL, "-o",
        place / "m.safetensors",
    )  # fmt: skip
    return wrong(cells=_cells(place / "m.interactions.npz") == {("a", 2): 1, ("b", 1): 1, ("c", 2): 1})


def _latest_of_names(place: Path) -> list[str]:
    """Ids such as 007 and "NA" go into what is held out and come out of it again."""
    names = ["007", "NA", "null", "1e5", 'say "x", y']
    rows = [(names[u], f"{i:03d}", t) for u, i, _, t in _events(5, 7, 22, 3)]
    with open(place / "x.csv", "w", newline="") as file:
        table = csv.writer(file, quoting=csv.QUOTE_NONNUMERIC)
        table.writerow(["who", "what", "day"])
        table.writerows(rows)
    _done(
        "fit", place / "x.csv", "--user", "who", "--item", "what", "--timestamp", "day", "--text", "user", "--text",
        "item", "--by", "last", "--hold-out", place / "test.csv", *_SMALL, "-o", place / "m.safetensors",
    )  # fmt: skip
    mine = {name: max((t, i) for u, i, t in rows if u == name)[1] for name in names}
    with open(place / "test.csv", newline="") as file:
        held = list(csv.DictReader(file))
    judged_by = _done("evaluate", place / "m.safetensors", place / "test.csv", "--metric", "recall@7")
    rest = {(u, i) for u, i, _ in rows} - set(mine.items())
    return wrong(
        held=sorted((row["who"], row["what"]) for row in held) == sorted(mine.items()),
        rest=set(_cells(place / "m.interactions.npz")) == rest,
        users=judged_by[0]["users"] == "5" and float(judged_by[0]["model"]) == 1,
    )


def _semicolons(place: Path) -> list[str]:
    """Every later command reads by the delimiter that fit was told, also what fit itself has written."""
    events = _events(6, 5, 20, 4)
    path = _table(place / "x.csv", [(f"u,{u}", i, v) for u, i, v, _ in events], "user,item,n", ";")
    model = place / "m.safetensors"
    _done(
        "fit", path, "--delimiter", ";", "--value", "n", "--hold-out", place / "test.csv", "--fraction", "0.5", *_SMALL,
        "-o", model,
    )  # fmt: skip
    before = _cells(place / "m.interactions.npz")
    held = {(f"u,{u}", i) for u, i, _, _ in events} - set(before)
    found = _done("evaluate", model, place / "test.csv", "--metric", "hit_rate@5")
    more = _table(place / "more.csv", [("u,1", 0, 2), ("new; one", 3, 4)], "user,item,n", ";")
    _done("update", model, more, "-o", place / "n.safetensors")
    after = dict(before)
    after["u,1", 0] = after.get(("u,1", 0), 0) + 2
    after["new; one", 3] = 4
    return wrong(
        users=int(found[0]["users"]) == len({u for u, _ in held}) > 0,
        hits=float(found[0]["model"]) == 1,
        values=before == {(f"u,{u}", i): v for u, i, v, _ in events if (f"u,{u}", i) in before},
        after=_cells(place / "n.interactions.npz") == after,
    )


def _judged_by_loops(place: Path) -> list[str]:
    """Of the test's stars those of 3 and more count; who or what the model does not know is left out."""
    events = _events(15, 12, 90, 5)
    test = [e for e in events if e[3] % 3 == 0 and (e[0], e[1]) != (e[0], e[0] % 12) and e[0] != e[1]]
    train = [e for e in events if e not in test]
    _table(place / "x.csv", [(f"u{u:02d}", i) for u, i, _, _ in train])
    strangers = [("nobody", 3, 5), ("u00", 99, 5)]
    _table(place / "y.csv", [(f"u{u:02d}", i, v) for u, i, v, _ in test] + strangers, "user,item,stars")
    model = place / "m.safetensors"
    _done("fit", place / "x.csv", *_SMALL, "-o", model)
    names = ["recall@3", "ndcg@3", "map@3", "precision@3", "mrr", "auc"]
    asked = [word for name in names for word in ("--metric", name)]
    rows = _done("evaluate", model, place / "y.csv", *asked, "--value", "stars", "--threshold", "3")
    A, B = np.zeros((15, 12), bool), np.zeros((15, 12), bool)
    for u, i, _, _ in train:
        A[u, i] = True
    for u, i, v, _ in test:
        B[u, i] = v >= 3
    fit = lfm_np.Factors.load(model)
    scores = np.array([fit.scores(np.full(12, u), np.arange(12)) for u in range(15)]).astype(np.float64)
    mine, popular = judged(scores, A, B, 3), judged(np.tile(A.sum(0) * 1.0, (15, 1)), A, B, 3)
    faults = [] if sorted(row["metric"] for row in rows) == sorted(names) and mine["users"] > 5 else ["metrics"]
    for row in rows:
        name = row["metric"]
        numbers = [mine[name], mine[f"{name}_se"], popular[name], popular[f"{name}_se"]]
        told = [float(row[key]) for key in ("model", "model_se", "popular", "popular_se")]
        if not np.allclose(told, numbers, rtol=0, atol=1e-4) or int(row["users"]) != mine["users"]:
            faults.append(f"{name}: {told}, {numbers}")
    return faults


def _just_enough(place: Path) -> list[str]:
    """All is found among as many as there are; the least that is asked may be reached, not missed."""
    events = _events(9, 6, 36, 6)
    _table(place / "x.csv", [e[:2] for e in events if e[3] % 4 or e[0] % 6 == e[1] or e[1] % 9 == e[0]])
    test = [e[:2] for e in events if not (e[3] % 4 or e[0] % 6 == e[1] or e[1] % 9 == e[0])]
    _table(place / "y.csv", test)
    _done("fit", place / "x.csv", *_SMALL, "-o", place / "m.safetensors")
    ask = ("evaluate", place / "m.safetensors", place / "y.csv", "--at-least")
    enough, more = command(*ask, "recall@6=1"), command(*ask, "precision@6=0.9")
    return wrong(
        some=len(test) > 2,
        enough=enough.status == 0,
        missed=more.status == 1 and "precision@6 is 0" in more.out + more.err,
    )


def _days(place: Path) -> list[str]:
    """Ids that are dates are asked for as they are printed."""
    days = ["2024-02-28", "2024-02-29", "2024-03-01", "2024-03-02"]
    events = _events(6, 4, 15, 7)
    _table(place / "x.csv", [(u, days[i]) for u, i, _, _ in events])
    model = place / "m.safetensors"
    _done("fit", place / "x.csv", *_SMALL, "-o", model)
    like = _done("similar", model, "--item", "2024-02-29", "--metric", "inner", "-n", "4")
    _done("recommend", model, "--user", "3", "-n", "4", "-o", place / "x.json")
    V = lfm_np.Factors.load(model).item_factors.astype(np.float64)
    inner = V @ V[1]
    order = sorted(range(4), key=lambda i: (-inner[i], i))
    scores = [float(row["score"]) for row in like]
    answered = json.loads((place / "x.json").read_text())
    left = {days[i] for i in range(4)} - {days[i] for u, i, _, _ in events if u == 3}
    return wrong(
        items=[row["similar"][:10] for row in like] == [days[i] for i in order],
        asked={row["item"][:10] for row in like} == {"2024-02-29"},
        scores=abs(np.array(scores) - inner[order]).max() < 1e-5 * abs(inner).max(),
        json={row["item"][:10] for row in answered} == left and all(row["user"] == 3 for row in answered),
        ranks=[row["rank"] for row in answered] == list(range(1, len(left) + 1)),
    )


def _means_of_old_and_new(place: Path) -> list[str]:
    """A repeated pair gets the mean of old and new; rows of others stay, to the bit."""
    events = _events(10, 7, 36, 8)
    _table(place / "x.csv", [(f"u{u}", i, v, 100 + t) for u, i, v, t in events], "user,item,n,day")
    model = place / "m.safetensors"
    _done(
        "fit", place / "x.csv", "--value", "n", "--timestamp", "day", "--duplicates", "mean", "--alpha", "3",
        "--regularization", "0.7", *_SMALL, "-o", model,
    )  # fmt: skip
    u, i, v, _ = events[7]
    free = next(j for j in range(7) if (9, j) not in {e[:2] for e in events})
    more = [(f"u{u}", i, v + 2, 500), ("u9", free, 4, 400), ("zoe", 2, 5, 450), ("zoe", 2, 2, 440), ("u0", 77, 1, 460)]
    _table(place / "y.csv", more, "user,item,n,day")
    said = command("update", model, place / "y.csv", "-o", place / "n.safetensors")
    values = {(f"u{a}", b): float(c) for a, b, c, _ in events}
    times = {(f"u{a}", b): 100 + t for a, b, _, t in events}
    values |= {(f"u{u}", i): v + 1.0, ("u9", free): 4.0, ("zoe", 2): 3.5}
    times |= {(f"u{u}", i): 500, ("u9", free): 400, ("zoe", 2): 450}
    path = place / "n.interactions.npz"
    X, users, _, _ = _kept(path)
    old, new = lfm_np.Factors.load(model), lfm_np.Factors.load(place / "n.safetensors")
    changed = [*sorted({u, 9}), 10]
    rest = [row for row in range(10) if row not in changed]
    mine = np.array([_solved(X.toarray()[row].astype(float), old.item_factors, 3.0, 0.7) for row in changed])
    return wrong(
        said=said.status == 0 and users.tolist()[-1] == "zoe",
        values=_cells(path) == values,
        times=_times(path) == times,
        solved=abs(new.user_factors[changed] - mine).max() < 1e-3 * abs(mine).max(),
        others=np.array_equal(new.user_factors[rest], old.user_factors[rest]),
        items=np.array_equal(new.item_factors, old.item_factors),
    )


def _lists_in_text(place: Path) -> list[str]:
    """Ids that CSV must quote, in lists by sorting."""
    users = ["a,b", 'q"q', " lead", "x;y", "\u00e9\U0001f600"]
    events = _events(5, 9, 20, 9)
    _table(place / "x.csv", [(users[u], f"i {i}, {i}") for u, i, _, _ in events])
    model = place / "sub folder \u00e9" / "m.safetensors"
    model.parent.mkdir()
    _done("fit", place / "x.csv", *_SMALL, "-o", model)
    fit = lfm_np.Factors.load(model)
    X, names, items, _ = _kept(model.parent / "m.interactions.npz")
    rows = _done("recommend", model, "-n", "20")
    seen, S = X.toarray() > 0, all_scores(fit)
    mine = []
    for row, name in enumerate(names.tolist()):
        for rank, i in enumerate((i for i in best(S[row], ~seen[row], 9) if i >= 0), 1):
            mine.append((name, str(items[i]), rank))
    told = [(r["user"], r["item"], int(r["rank"])) for r in rows]
    scores = [S[names.tolist().index(u), items.tolist().index(i)] for u, i, _ in mine]
    return wrong(
        names=names.tolist() == sorted(users),
        rows=told == mine,
        scores=len(rows) == len(mine) and np.allclose([float(r["score"]) for r in rows], scores, rtol=0, atol=1e-4),
    )


def _in_other_clothes(place: Path) -> list[str]:
    """The same events as compressed tabs, as Parquet in two folders and as a matrix."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    events = _events(12, 10, 50, 10)
    lines = "user\titem\n" + "".join(f"u{u}\t{i}\n" for u, i, _, _ in events)
    (place / "x.tsv.gz").write_bytes(gzip.compress(lines.encode()))
    for name, part in (("1", events[:20]), ("2", events[20:])):
        (place / "set" / name).mkdir(parents=True)
        table = pa.table({"user": [f"u{u}" for u, _, _, _ in part], "item": [i for _, i, _, _ in part]})
        pq.write_table(table, place / "set" / name / "x.parquet")
    u, i, _, _ = (np.array(part) for part in zip(*events, strict=True))
    sp.save_npz(place / "x.npz", sp.csc_array((np.ones(50), (u, i)), shape=(12, 10)))
    faults = []
    for name in ("x.tsv.gz", "set", "x.npz"):
        found = {row["what"]: row["value"] for row in _done("info", place / name)}
        if [found[key] for key in ("users", "items", "interactions")] != ["12", "10", "50"]:
            faults.append(name)
    _done("info", place / "set", "-o", place / "info.json")
    facts = {row["what"]: row["value"] for row in json.loads((place / "info.json").read_text())}
    return faults + wrong(json=[int(facts[key]) for key in ("users", "items", "interactions")] == [12, 10, 50])


def _fitted_again(place: Path) -> list[str]:
    """What lies beside a model is data for another fit: ids, values and times."""
    events = _events(8, 6, 30, 11)
    _table(place / "x.csv", [(f"0{u}", i, v, t) for u, i, v, t in events], "user,item,n,day")
    words = ("--value", "n", "--timestamp", "day", "--text", "user", "--alpha", "2")
    _done("fit", place / "x.csv", *words, *_SMALL, "-o", place / "m.safetensors")
    first = place / "m.interactions.npz"
    _done("fit", first, "--alpha", "2", *_SMALL, "-o", place / "n.safetensors")
    mine = {(f"0{u}", i): float(v) for u, i, v, _ in events}
    one, two = (lfm_np.Factors.load(place / f"{name}.safetensors") for name in "mn")
    rows = _done("recommend", place / "n.safetensors", "--user", "03", "-n", "1")
    return wrong(
        values=_cells(first) == _cells(place / "n.interactions.npz") == mine,
        times=_times(first) == _times(place / "n.interactions.npz") == {(f"0{u}", i): t for u, i, _, t in events},
        factors=np.array_equal(one.item_factors, two.item_factors),
        text=rows[0]["user"] == "03",
    )


def _ratings(place: Path) -> list[str]:
    """A rating of 0 counts: in the mean, and as what the user has already."""
    events = [(u, i, v - 1) for u, i, v, _ in _events(9, 7, 40, 12)]
    assert any(v == 0 for _, _, v in events)
    _table(place / "x.csv", events, "user,item,stars")
    model = place / "m.safetensors"
    _done(
        "fit", place / "x.csv", "--value", "stars", "--weighting", "ratings", "--biases", "--regularization", "0.5",
        *_SMALL, "-o", model,
    )  # fmt: skip
    fit = lfm_np.Factors.load(model)
    rows = _done("recommend", model, "-n", "7")
    has = {(u, i) for u, i, _ in events}
    said = {(int(row["user"]), int(row["item"])) for row in rows}
    mean = sum(v for _, _, v in events) / len(events)
    return wrong(
        mean=abs(fit.global_bias - mean) < 1e-6 * mean,
        biases=fit.user_bias is not None and fit.item_bias is not None,
        kept=_cells(place / "m.interactions.npz") == {(u, i): v for u, i, v in events},
        lists=said == {(u, i) for u in range(9) for i in range(7)} - has,
    )


def cases() -> list[Case]:
    return list(_cases())


def _inside(name: str, work: Callable[[Path], Any]) -> Case:
    return _holds(name, inside(work))


def _cases() -> Iterator[Case]:
    yield _inside("fit: arrays of columns, by their means", _arrays)
    yield _inside("fit: a matrix with cells stored twice", _matrix_in_pieces)
    yield _inside("fit: a threshold of means", _threshold_of_means)
    yield _inside("fit: ids like NA and 007 in what is held out", _latest_of_names)
    yield _inside("a delimiter that all commands keep", _semicolons)
    yield _inside("evaluate: stars above a threshold, beside loops", _judged_by_loops)
    yield _inside("evaluate: just enough is enough", _just_enough)
    yield _inside("similar and recommend: ids that are dates", _days)
    yield _inside("update: means of old and new, and their times", _means_of_old_and_new)
    yield _inside("recommend: ids that CSV must quote", _lists_in_text)
    yield _inside("info: the same events in three forms", _in_other_clothes)
    yield _inside("fit: what lies beside another model", _fitted_again)
    yield _inside("fit and recommend: ratings of 0", _ratings)
