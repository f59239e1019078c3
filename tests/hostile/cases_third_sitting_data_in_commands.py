"""The third sitting: commands on matrices, folders, exact times and ids that are fractions; a model taken apart."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

import lfm_np

from .case import Case, Group, installed
from .places import inside, parts, write_csv
from .working_days import Model, all_scores, best, faultless, judged, raised, typed, wrong

_GROUP = Group("third sitting, data")
_holds = faultless(_GROUP)
_SMALL = ("--factors", "2", "--iterations", "2", "--regularization", "0.5")


def _rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def _asked(place: Path, *words: Any) -> str:
    """What a command answers in a pipe; it must have done its work."""
    said = typed(place, *words)
    assert said.status == 0, said
    return said.out


def _save(table: Any, path: Path) -> Path:
    import pyarrow.parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(table, path)
    return path


def _lists(place: Path, model: Path, users: list[Any], items: list[Any], seen: np.ndarray) -> list[str]:
    """Lists of everybody beside the scores of the model's file, by sorting; float32 has 24 bits, so 1e-5 is plenty."""
    S = all_scores(lfm_np.Factors.load(model))
    mine = [
        (str(users[u]), str(items[i]), rank, S[u, i])
        for u in range(len(users))
        for rank, i in enumerate(best(S[u], ~seen[u], len(items)), 1)
        if i >= 0
    ]
    found = [tuple(row.values()) for row in _rows(_asked(place, "recommend", model, "-n", len(items)))]
    told = [(user, item, int(rank)) for user, item, _, rank in found]
    near = [abs(float(score) - s) <= 1e-5 * max(1.0, abs(s)) for (_, _, score, _), (*_, s) in zip(found, mine)]
    return wrong(lists=told == [(user, item, rank) for user, item, rank, _ in mine], scores=all(near), some=len(mine))


def _matrix_by_its_core(place: Path) -> list[str]:
    """Rows and columns keep the numbers that they have in the matrix when others are left out."""
    X = np.array([[0, 1, 0, 0, 0], [1, 0, 2, 0, 3], [0, 0, 0, 0, 0], [0, 0, 1, 0, 1], [2, 0, 0, 5, 4], [0, 0, 7, 0, 1]])
    sp.save_npz(place / "x.npz", sp.csr_array(X))
    least = ("--min-user-interactions", "2", "--min-item-interactions", "2")
    _asked(place, "fit", place / "x.npz", *least, *_SMALL, "-o", place / "m.safetensors")
    # user 0 has one cell; items 1 and 3 then have none and one; the others keep two and more
    users, items = [1, 3, 4, 5], [0, 2, 4]
    return _lists(place, place / "m.safetensors", users, items, X[np.ix_(users, items)] > 0)


def _folders_by_user(place: Path) -> list[str]:
    """A folder for every listener, as Spark and Hive write them."""
    import pyarrow as pa

    of = {"eve": [30, 10], "ann": [10, 20, 10], "bob": [40, 20, 30]}
    for user, tracks in of.items():
        for number, track in enumerate(tracks):
            _save(
                pa.table({"track": [track], "n": [number + 1.5]}),
                place / "x" / f"listener={user}" / f"{number}.parquet",
            )
    write_csv(place / "x" / "_SUCCESS", "")
    words = ("--user", "listener", "--item", "track", "--value", "n", "--duplicates", "max")
    _asked(place, "fit", place / "x", *words, *_SMALL, "-o", place / "m.safetensors")
    users, items = sorted(of), [10, 20, 30, 40]
    seen = np.array([[item in of[user] for item in items] for user in users])
    header = _asked(place, "recommend", place / "m.safetensors", "--user", "bob", "-n", 1).splitlines()[0]
    faults = _lists(place, place / "m.safetensors", users, items, seen)
    return faults + wrong(header=header == "listener,track,score,rank")


def _latest_held_out(place: Path, kind: str, ending: str) -> list[str]:
    """The latest is later by the last digit, which no float of 64 bits can tell; it comes out as it went in."""
    if kind == "integers":
        times = [str(2**60 + after) for after in (1, 3, 2, -5, -4, -6)]
    else:
        times = [f"2024-02-29 23:59:59.99999999{digit}" for digit in (1, 3, 2)]
        times += [f"1969-12-31 23:59:59.99999999{digit}" for digit in (5, 6, 4)]
    pairs = [("u", "a"), ("u", "b"), ("u", "c"), ("w", "a"), ("w", "b"), ("w", "c")]
    lines = "".join(f"{user},{item},{at}\n" for (user, item), at in zip(pairs, times, strict=True))
    write_csv(place / "x.csv", "user,item,at\n" + lines)
    test = place / f"test{ending}"
    held = ("--by", "last", "--hold-out", test)
    _asked(place, "fit", place / "x.csv", "--timestamp", "at", *held, *_SMALL, "-o", place / "m.safetensors")
    if ending == ".csv":
        rows = _rows(test.read_text())
    else:
        import pyarrow.parquet as pq

        table = pq.read_table(test, use_threads=False)
        moments = table["at"].to_numpy()
        rows = [
            {"user": user, "item": item, "at": str(at)}
            for user, item, at in zip(table["user"].to_pylist(), table["item"].to_pylist(), moments, strict=True)
        ]

    def exact(text: str) -> Any:
        return int(text) if kind == "integers" else np.datetime64(text.removesuffix("Z").replace(" ", "T"), "ns")

    found = sorted((row["user"], row["item"], exact(row["at"])) for row in rows)
    return wrong(held=found == [("u", "b", exact(times[1])), ("w", "b", exact(times[4]))])


def _one_test_in_six_forms(place: Path) -> list[str]:
    """Lines, packed lines, tabs, Parquet, folders by user and arrays: the same answer, and that of loops."""
    import pyarrow as pa

    draw = np.random.default_rng(11)
    kind = draw.random((12, 10))
    train, test = kind < 0.35, kind > 0.75
    train[0], test[0] = np.arange(10) < 4, np.arange(10) > 7  # so that all users and items are there
    train[np.arange(12), np.arange(12) % 10] = True
    test &= ~train
    text = {name: "".join(f"{u},{i}\n" for u, i in np.argwhere(mask)) for name, mask in (("x", train), ("t", test))}
    for name in ("x", "t"):
        write_csv(place / f"{name}.csv", "user,item\n" + text[name])
    (place / "z.csv.gz").write_bytes(gzip.compress((place / "t.csv").read_bytes()))
    write_csv(place / "t.tsv", "user\titem\n" + text["t"].replace(",", "\t"))
    users, items = np.nonzero(test)
    _save(pa.table({"item": items, "user": users}), place / "t.parquet")
    for user in np.unique(users):
        _save(pa.table({"item": items[users == user]}), place / "t" / f"user={user}" / "0.parquet")
    np.savez(place / "t.npz", user=users, item=items)
    _asked(place, "fit", place / "x.csv", *_SMALL, "-o", place / "m.safetensors")
    metrics = ("--metric", "recall@3", "--metric", "mrr", "--metric", "auc", "--metric", "map@3")
    answers = {
        name: _asked(place, "evaluate", place / "m.safetensors", place / name, *metrics)
        for name in ("t.csv", "z.csv.gz", "t.tsv", "t.parquet", "t", "t.npz")
    }
    S = all_scores(lfm_np.Factors.load(place / "m.safetensors"))
    mine = judged(S, train, test, 3)
    popular = judged(np.broadcast_to(train.sum(0).astype(float), S.shape), train, test, 3)
    faults = [name for name, answer in answers.items() if answer != answers["t.csv"]]
    rows = _rows(answers["t.csv"])
    for row in rows:
        metric = row["metric"]
        found = [float(row[name]) for name in ("model", "model_se", "popular", "popular_se", "users")]
        right = [mine[metric], mine[f"{metric}_se"], popular[metric], popular[f"{metric}_se"], mine["users"]]
        faults += [] if np.allclose(found, right, rtol=1e-6, atol=1e-9) else [f"{metric}: {found} {right}"]
    return faults + wrong(rows=sorted(row["metric"] for row in rows) == ["auc", "map@3", "mrr", "recall@3"])


def _one_day_in_five_forms(place: Path) -> list[str]:
    """User 3 comes back, 50 and 20 are new, item 99 is nobody's: rows by the normal equations, in whatever form."""
    import pyarrow as pa

    draw = np.random.default_rng(12)
    train = draw.random((6, 8)) < 0.4
    train[np.arange(6), np.arange(6)] = train[0, 6:] = True
    write_csv(place / "x.csv", "user,item\n" + "".join(f"{u},{i}\n" for u, i in np.argwhere(train)))
    users = np.array([50, 3, 20, 3, 50, 50, 20])
    items = np.array([1, 3, 0, 5, 1, 7, 99])
    write_csv(place / "t.csv", "item,user\n" + "".join(f"{i},{u}\n" for u, i in zip(users, items, strict=True)))
    (place / "z.csv.gz").write_bytes(gzip.compress((place / "t.csv").read_bytes()))
    _save(pa.table({"item": items, "user": users}), place / "t.parquet")
    for user in (3, 20, 50):
        _save(pa.table({"item": items[users == user]}), place / "t" / f"user={user}" / "0.parquet")
    np.savez(place / "t.npz", item=items, user=users)
    _asked(place, "fit", place / "x.csv", *_SMALL, "-o", place / "m.safetensors")
    V = lfm_np.Factors.load(place / "m.safetensors").item_factors.astype(np.float64)
    X = np.full((3, 8), np.nan)  # of users 3, 20 and 50
    X[0, train[3]] = 1
    for user, item in zip(users.tolist(), items.tolist(), strict=True):
        if item < 8:
            row = (3, 20, 50).index(user)
            X[row, item] = 1 if np.isnan(X[row, item]) else X[row, item] + 1
    S = Model(lam=0.5).half(X, V) @ V.T
    mine = {(u, i): S[row, i] for row, u in enumerate((3, 20, 50)) for i in range(8) if np.isnan(X[row, i])}
    answers, faults = {}, []
    for name in ("t.csv", "z.csv.gz", "t.parquet", "t", "t.npz"):
        _asked(place, "update", place / "m.safetensors", place / name, "-o", place / "n.safetensors")
        asked = ("--user", 3, "--user", 20, "--user", 50, "-n", 8)
        answers[name] = _asked(place, "recommend", place / "n.safetensors", *asked)
        model = lfm_np.Factors.load(place / "n.safetensors")
        if model.shape != (8, 8) or not np.array_equal(model.item_factors, V):
            faults.append(f"{name}: {model}")
    faults += [name for name, answer in answers.items() if answer != answers["t.csv"]]
    found = {(int(row["user"]), int(row["item"])): float(row["score"]) for row in _rows(answers["t.csv"])}
    falling = sorted(found, key=lambda pair: (pair[0], -found[pair]))
    return faults + wrong(
        lists=found.keys() == mine.keys() and list(found) == falling,
        scores=all(abs(found.get(pair, np.inf) - s) < 1e-4 for pair, s in mine.items()),  # of 1 at most, in float32
    )


def _nothing_left(place: Path) -> list[str]:
    """Who has everything gets no row: of a pipe, of CSV, JSON and Parquet; the columns are there."""
    import pyarrow.parquet as pq

    write_csv(place / "x.csv", "listener,track\nann,1\nann,2\nann,3\nbob,2\n")
    words = ("--user", "listener", "--item", "track")
    _asked(place, "fit", place / "x.csv", *words, *_SMALL, "-o", place / "m.safetensors")
    asked = ("recommend", place / "m.safetensors", "--user", "ann")
    out = _asked(place, *asked)
    for ending in ("csv", "json", "parquet"):
        _asked(place, *asked, "-o", place / f"l.{ending}")
    table = pq.read_table(place / "l.parquet", use_threads=False)
    names = ["listener", "track", "score", "rank"]
    return wrong(
        pipe=out.splitlines() == [",".join(names)],
        csv=(place / "l.csv").read_text().splitlines() == [",".join(names)],
        json=json.loads((place / "l.json").read_text()) == [],
        parquet=table.num_rows == 0 and table.column_names == names,
    )


def _fractions_of_users(place: Path) -> list[str]:
    """Users that are numbers below zero, between whole ones and next to nothing, asked for by other texts of them."""
    write_csv(place / "x.csv", "user,item\n-2.5,1\n0.1,2\n1e-07,1\n1e-07,2\n-2.5,3\n0.1,4\n")
    _asked(place, "fit", place / "x.csv", *_SMALL, "-o", place / "m.safetensors")
    users = ("--user", "1e-7", "--user", "-2.50", "--user", "0.10")
    rows = _rows(_asked(place, "recommend", place / "m.safetensors", *users, "-n", 2))
    S = all_scores(lfm_np.Factors.load(place / "m.safetensors"))  # of -2.5, 1e-7 and 0.1
    has = {-2.5: [0, 2], 1e-07: [0, 1], 0.1: [1, 3]}
    mine = []
    for user in (1e-07, -2.5, 0.1):
        allowed = np.array([i not in has[user] for i in range(4)])
        mine += [(user, i + 1, rank) for rank, i in enumerate(best(S[sorted(has).index(user)], allowed, 2), 1)]
    return wrong(lists=[(float(row["user"]), int(row["item"]), int(row["rank"])) for row in rows] == mine)


def _not_among_the_data(place: Path) -> list[str]:
    """A folder of data is the same by a link and by a way round; what is held out may be a link to what is read."""
    import pyarrow as pa

    for name in ("1", "sub/2"):
        _save(pa.table({"user": ["a", "b", "a"], "item": [1, 1, 2]}), place / "x" / f"{name}.parquet")
    (place / "link").symlink_to(place / "x", target_is_directory=True)

    def held() -> dict[str, bytes]:
        return {str(path): path.read_bytes() for path in sorted((place / "x").rglob("*")) if path.is_file()}

    before, faults = held(), []
    ways = {
        "model by a link": ("-o", place / "link" / "m.safetensors"),
        "model below": ("-o", place / "x" / "sub" / "m.safetensors"),
        "held out by a way round": (
            "--hold-out",
            place / "x" / "sub" / ".." / "t.parquet",
            "-o",
            place / "m.safetensors",
        ),
        "checkpoint by a link": ("--checkpoint", place / "link" / "sub" / "c", "-o", place / "m.safetensors"),
        "held out, data by a link": ("--hold-out", place / "x" / "t.csv", "-o", place / "m.safetensors"),
    }
    for name, words in ways.items():
        data = place / ("link" if "data by" in name else "x")
        said = typed(place, "fit", data, *_SMALL, *words)
        if said.status != 2 or held() != before:
            faults.append(f"{name}: {said}")
    write_csv(place / "t.csv", "user,item\nb,2\n")
    (place / "out.csv").symlink_to(place / "t.csv")
    _asked(place, "fit", place / "x", *_SMALL, "-o", place / "m.safetensors")
    said = typed(
        place, "evaluate", place / "m.safetensors", place / "t.csv", "--metric", "mrr", "-o", place / "out.csv"
    )
    return faults + wrong(test=said.status == 2 and (place / "t.csv").read_text() == "user,item\nb,2\n")


def _taken_apart(place: Path) -> list[str]:
    """The file of a command's model by struct, JSON and SHA-256, and by the safetensors library."""
    from safetensors import safe_open

    lines = "".join(f"{u},{i},{1 + (u * i) % 5}\n" for u in range(6) for i in range(4) if (u + i) % 4)
    write_csv(place / "x.csv", "user,item,n\n" + lines)
    words = ("--value", "n", "--weighting", "ratings", "--biases", "--regularization", "0.75", "--seed", "9")
    _asked(place, "fit", place / "x.csv", *words, "--factors", "3", "--iterations", "4", "-o", place / "m.safetensors")
    raw = (place / "m.safetensors").read_bytes()
    header, body = parts(place / "m.safetensors")
    about = header["__metadata__"]
    blank = re.sub(rb'("sha256":")[0-9a-f]{64}"', rb"\g<1>" + b"0" * 64 + b'"', raw, count=1)
    model = json.loads(about["model"])
    shapes = {"user_factors": [6, 3], "item_factors": [4, 3], "user_bias": [6], "item_bias": [4]}
    loaded = lfm_np.Factors.load(place / "m.safetensors")
    facts = {
        "format": (about["format"], about["version"]) == ("lfm_np.factors", "1"),
        "sealed": hashlib.sha256(blank).hexdigest() == about["sha256"],
        "keys": set(model) == {"global_bias", "status", "params", "history"},
        "tensors": {name: header[name]["shape"] for name in header if name != "__metadata__"} == shapes,
        "asked": model["params"]["regularization"] == 0.75 and model["params"]["weighting"] == "ratings",
        "sweeps": len(model["history"]) == 4 and model["status"] == "max_iterations",
        "mu": model["global_bias"] == loaded.global_bias,
    }
    with safe_open(place / "m.safetensors", "numpy") as file:
        for name in shapes:
            start, end = header[name]["data_offsets"]
            by_hand = np.frombuffer(body[start:end], "<f4").reshape(shapes[name])
            facts[name] = np.array_equal(by_hand, getattr(loaded, name)) and np.array_equal(
                by_hand, file.get_tensor(name)
            )
    return wrong(**facts)


def _too_long_for_memory(place: Path) -> list[str]:
    """60,000 records of one user take 7.7 MB (128 bytes each), of which 34 MiB leave 2; 96 MiB leave 64."""
    import pyarrow as pa

    draw = np.random.default_rng(2)
    items, user = draw.integers(0, 300, 60_000), np.full(60_000, 5)
    user[:40], items[-300:] = 7, np.arange(300)
    _save(pa.table({"user": user, "item": items}), place / "x.parquet")
    build = lfm_np.StoredMatrix.from_parquet
    error = raised(lambda: build(place / "x.parquet", place / "m", memory=34 << 20))
    left = sorted(path.name for path in place.iterdir())
    stored = build(place / "x.parquet", place / "m", memory=96 << 20)
    starts, columns, values = (np.load(place / "m" / f"rows.{name}.npy") for name in ("indptr", "indices", "data"))
    mine = np.array([np.bincount(items[user == who], minlength=300) for who in (5, 7)])
    return wrong(
        refused=isinstance(error, MemoryError) and re.search(r"\d", str(error)),
        nothing=left == ["x.parquet"],
        ids=stored.users.tolist() == [5, 7] and stored.items.tolist() == list(range(300)),
        counts=np.array_equal(sp.csr_array((values, columns, starts), shape=(2, 300)).toarray(), mine),
    )


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    if not installed("pyarrow", "narwhals"):
        return
    yield _holds("a user who is too long for memory", inside(_too_long_for_memory))
    if not installed("typer"):
        return
    for name, call in (
        ("fit: numbers of a matrix of which a core is left", _matrix_by_its_core),
        ("fit: a folder for every user", _folders_by_user),
        ("evaluate: one test in six forms", _one_test_in_six_forms),
        ("update: one day in five forms", _one_day_in_five_forms),
        ("recommend: nothing is left, in four forms", _nothing_left),
        ("recommend: users that are fractions", _fractions_of_users),
        ("fit and evaluate: links to what is read", _not_among_the_data),
        ("fit: the model's file, taken apart", _taken_apart),
    ):
        yield _holds(name, inside(call))
    for kind in ("integers", "nanoseconds"):
        for ending in (".csv", ".parquet"):
            yield _holds(
                f"fit: the latest of {kind} in {ending}",
                inside(lambda place, kind=kind, ending=ending: _latest_held_out(place, kind, ending)),
            )
