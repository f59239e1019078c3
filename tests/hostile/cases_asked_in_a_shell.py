"""Commands as people mistype them, and as they run in scripts: files, streams, options, ids, statuses, benchmarks."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

import lfm_np

from .case import Case, Group, Holds, installed
from .places import ROOT, Said, command, holding, inside, interpreter, module, table, write_csv

_right = holding(Group("in a shell"))
IDS = [f'u{i}, "{i}"' for i in range(58)] + ["=1+1", "007"]


def events(folder: Path, name: str = "events.csv") -> Path:
    """``table()`` with names that CSV must quote."""
    X = table().tocoo()
    with open(folder / name, "w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["user", "item", "v", "t"])
        out.writerows(
            [IDS[u], 1000 + i, v, n] for n, (u, i, v) in enumerate(zip(*X.coords, X.data.tolist(), strict=True))
        )
    return folder / name


def with_model(*arguments: str, method: str = "als") -> Callable[[Callable[[Path], Any]], Callable[[], Any]]:
    """``work(folder)`` where a fit has left events.csv and m.safetensors."""

    def around(work: Callable[[Path], Any]) -> Callable[[], Any]:
        def call(folder: Path) -> Any:
            options = ("--iterations", "2", "--factors", "4", "--threads", "2", "--method", method, *arguments)
            said = command("fit", events(folder), *options, "-o", folder / "m.safetensors")
            assert said.status == 0, said.err
            return work(folder)

        return inside(call)

    return around


def mistaken(said: Said, *words: str, status: int = 2) -> bool:
    """A line that begins with "error" or is typer's, holds one of every word's "a|b", and no traceback."""
    text = said.err.lower()
    told = all(any(word in text for word in either.lower().split("|")) for either in words)
    return said.status == status and told and "traceback" not in text and said.out == ""


def mistake(name: str, call: Callable[[], Said], *words: str) -> Case:
    return Case(f"in a shell: {name}", lambda: call(), Holds(lambda said: mistaken(said, *words)))


def fitting() -> Iterator[Case]:
    def fit(*options: Any, data: Callable[[Path], Any] = events) -> Callable[[], Said]:
        return inside(
            lambda f: command(
                "fit",
                data(f),
                "-o",
                f / "m.safetensors",
                "--iterations",
                "2",
                "--factors",
                "4",
                *(str(o).replace("HERE", str(f)) for o in options),
            )
        )

    wrong: dict[str, tuple[tuple[Any, ...], tuple[str, ...]]] = {
        "no factors": (("--factors", "0"), ("factors",)),
        "1e3 factors": (("--factors", "1e3"), ("factors",)),
        "λ of NaN": (("--regularization", "nan"), ("regularization",)),
        "α below zero": (("--alpha", "-1"), ("alpha",)),
        "α of infinity": (("--alpha", "inf"), ("alpha",)),
        "an unknown method": (("--method", "svd"), ("method",)),
        "a solver for sgd": (("--method", "sgd", "--solver", "cg"), ("solver",)),
        "a loss for als": (("--loss", "BPR"), ("loss",)),
        "an unknown loss": (("--method", "sgd", "--loss", "Hinges"), ("loss|hinges",)),
        "a loss that is a module": (("--method", "sgd", "--loss", "__builtins__"), ("loss|builtins",)),
        "text of what is no column": (("--text", "value"), ("text",)),
        "two letters between columns": (("--delimiter", ";;"), ("delimiter",)),
        "a column that is not there": (("--user", "listener"), ("listener",)),
        "a threshold of NaN": (("--threshold", "nan", "--value", "v"), ("threshold",)),
        "a threshold of nothing": (("--threshold", "3"), ("events.csv", "no interactions")),
        "the last without times": (("--hold-out", "HERE/t.csv", "--by", "last"), ("timestamp",)),
        "half as much again": (("--hold-out", "HERE/t.csv", "--fraction", "1.5"), ("fraction",)),
        "held out by luck": (("--hold-out", "HERE/t.csv", "--by", "luck"), ("by|luck",)),
        "held out into the data": (("--hold-out", "HERE/events.csv"), ("events.csv|hold",)),
        "held out into what is no table": (("--hold-out", "HERE/t.xlsx"), ("xlsx|csv",)),
        "a checkpoint that is the data": (("--checkpoint", "HERE/events.csv"), ("events.csv|checkpoint",)),
        "a checkpoint that is the model": (("--checkpoint", "HERE/m.safetensors"), ("checkpoint|m.safetensors",)),
        "a model in a folder that is not there": (("-o", "HERE/no/m.safetensors"), ("no",)),
        "a model that is a folder": (("-o", "HERE"), ("safetensors",)),
        "a seed below zero": (("--seed", "-1"), ("seed",)),
        "no threads": (("--threads", "0"), ("threads",)),
        "a million users' interactions at least": (("--min-user-interactions", "1000000"), ("interactions|user",)),
        "an option that is not": (("--epochs", "3"), ("epochs",)),
        "duplicates of another kind": (("--duplicates", "first"), ("duplicates|first",)),
        "a value that is no number": (("--value", "user"), ("user|value",)),
        "μ for implicit feedback": (("--biases",), ("biases",)),
    }
    for name, (options, words) in wrong.items():
        yield mistake(f"fit, {name}", fit(*options), *words)

    def intact(folder: Path) -> bool:
        before = events(folder).read_bytes()
        said = command("fit", folder / "events.csv", "-o", folder / "events.csv")
        return said.status == 2 and (folder / "events.csv").read_bytes() == before

    yield _right("fit, the model over the data", inside(intact))
    sources: dict[str, tuple[Callable[[Path], Any], tuple[str, ...]]] = {
        "an empty folder": (lambda f: f, ("file|parquet|empty",)),
        "what is not there": (lambda f: f / "none.csv", ("none.csv",)),
        "another ending": (lambda f: write_csv(f / "events.txt", "user,item\n1,2\n"), ("events.txt|.csv",)),
        "no MovieLens": (lambda f: "movielens:1b", ("1b",)),
        "only a line of names": (lambda f: write_csv(f / "e.csv", "user,item\n"), ("interaction|empty|e.csv|record",)),
        "/dev/null": (lambda f: "/dev/null", ("/dev/null",)),
        "a matrix with NaN": (lambda f: _npz(f, np.nan), ("nulls: 1 in 'value'",)),
        "a matrix with wrong indices": (lambda f: _npz(f, 1.0, 99), ("indices|index",)),
        "an .npz of pickles": (lambda f: _objects(f), ("npz|object|pickle",)),
        "a .npz that is none": (lambda f: write_csv(f / "x.npz", "no"), ("x.npz",)),
    }
    for name, (data, words) in sources.items():
        yield mistake(f"fit, {name}", fit(data=data), *words)
    yield _right(
        "fit, a tab-separated file, zeros of text kept",
        inside(
            lambda f: (
                command(
                    "fit",
                    write_csv(f / "e.tsv", "user\titem\n007\t1\n7\t1\n7\t2\n"),
                    "--text",
                    "user",
                    "--factors",
                    "1",
                    "-o",
                    f / "m.safetensors",
                ),
                command("recommend", f / "m.safetensors", "--user", "007", "-n", "2"),
            )[1]
        ),
        lambda said: said.status == 0 and said.out.split("\n")[1].startswith("007,2,"),
    )
    yield _right("fit, the same as the library", with_model()(lambda f: _library(f)))
    yield _right(
        "fit, another α on the same checkpoint",
        inside(
            lambda f: [
                command(
                    "fit",
                    events(f),
                    "--alpha",
                    a,
                    "--iterations",
                    "1",
                    "--factors",
                    "2",
                    "--checkpoint",
                    f / "run",
                    "-o",
                    f / "m.safetensors",
                )
                for a in ("1", "2")
            ][1]
        ),
        lambda said: mistaken(Said(said.status, "", said.err.split("\n", 1)[-1]), "alpha"),
    )


def _npz(folder: Path, value: float, column: int = 0) -> Path:
    X = sp.csr_array((np.ones(3, np.float32), np.array([0, 1, 2]), np.array([0, 2, 3])), shape=(2, 3))
    X.data[0], X.indices[0] = value, column
    sp.save_npz(folder / "x.npz", X)
    return folder / "x.npz"


def _objects(folder: Path) -> Path:
    np.savez(folder / "x.npz", user=np.array([{}], object), item=np.array([1]))
    return folder / "x.npz"


def _library(folder: Path) -> bool:
    data = lfm_np.Interactions.from_csv(folder / "events.csv")
    there = lfm_np.Factors.load(folder / "m.safetensors")
    here = lfm_np.als(data, factors=4, iterations=2, random_state=0)
    return np.array_equal(there.item_factors, here.item_factors) and np.array_equal(
        there.user_factors, here.user_factors
    )


def using() -> Iterator[Case]:
    plain = with_model()

    def lists(folder: Path) -> bool:
        data, factors = (
            lfm_np.Interactions.from_csv(folder / "events.csv"),
            lfm_np.Factors.load(folder / "m.safetensors"),
        )
        said = command("recommend", folder / "m.safetensors", "-n", "30")
        rows = list(csv.DictReader(io.StringIO(said.out, newline="")))
        wanted = []
        X = data.matrix.toarray()
        for row, user in enumerate(data.users):
            allowed = np.flatnonzero(X[row] == 0)
            scores = factors.scores(row, allowed)
            for rank, place in enumerate(np.lexsort((allowed, -scores)), 1):
                wanted.append((str(user), str(data.items[allowed[place]]), float(scores[place]), str(rank)))
        found = [(row["user"], row["item"], row["rank"]) for row in rows]
        close = np.allclose([float(row["score"]) for row in rows], [w[2] for w in wanted], rtol=1e-5)
        return said.status == 0 and found == [(w[0], w[1], w[3]) for w in wanted] and close

    yield _right("recommend everybody all there is, as sorted by hand", plain(lists))
    yield _right(
        "recommend to =1+1",
        plain(lambda f: command("recommend", f / "m.safetensors", "--user", "=1+1", "-n", "1")),
        lambda s: s.status == 0 and s.out.startswith("user,item,score,rank\n=1+1,"),
    )
    yield _right("evaluate, JSON of the library's numbers", plain(lambda f: _evaluated(f)))

    def ask(*arguments: str) -> Callable[[], Said]:
        return plain(
            lambda f: command(
                *(a.replace("HERE", str(f)).replace("MODEL", str(f / "m.safetensors")) for a in arguments)
            )
        )

    wrong: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
        "recommend no items": (("recommend", "MODEL", "-n", "0"), ("-n",)),
        "recommend to a stranger": (("recommend", "MODEL", "--user", "stranger"), ("stranger",)),
        "recommend into a text": (("recommend", "MODEL", "-o", "HERE/a.txt"), ("txt|csv",)),
        "recommend over the model": (("recommend", "MODEL", "-o", "MODEL"), ("m.safetensors|csv",)),
        "recommend over its data": (("recommend", "MODEL", "-o", "HERE/m.interactions.npz"), ("npz|csv",)),
        "recommend by the data": (("recommend", "HERE/events.csv"), ("events.csv",)),
        "similar to nothing": (("similar", "MODEL"), ("item", "user")),
        "similar to both": (("similar", "MODEL", "--item", "1000", "--user", "007"), ("item", "user")),
        "similar to an item that is not there": (("similar", "MODEL", "--item", "10000"), ("10000",)),
        "similar to an item that is no number": (("similar", "MODEL", "--item", "1000.5"), ("1000.5",)),
        "similar by sine": (("similar", "MODEL", "--item", "1000", "--metric", "sine"), ("metric",)),
        "evaluate at least without a number": (
            ("evaluate", "MODEL", "HERE/events.csv", "--at-least", "recall@10"),
            ("at-least|=",),
        ),
        "evaluate at least a word": (
            ("evaluate", "MODEL", "HERE/events.csv", "--at-least", "recall@10=much"),
            ("much|at-least",),
        ),
        "evaluate at least NaN": (
            ("evaluate", "MODEL", "HERE/events.csv", "--at-least", "recall@10=nan"),
            ("nan|at-least",),
        ),
        "evaluate no metric": (("evaluate", "MODEL", "HERE/events.csv", "--metric", "recall@0"), ("recall@0",)),
        "evaluate by the training data": (("evaluate", "MODEL", "HERE/events.csv"), ("test|user|relevant|items",)),
        "update over nothing": (("update", "MODEL", "HERE/events.csv"), ("output|-o",)),
        "report into a table": (("report", "MODEL", "-o", "HERE/r.csv"), ("html|csv",)),
        "info into a page": (("info", "MODEL", "-o", "HERE/r.html"), ("html|csv",)),
        "crosscheck on the hundredth GPU": (("crosscheck", "--device", "cuda:99"), ("device|cuda",)),
        "a demo of other data": (("demo", "--data", "netflix"), ("data|netflix",)),
        "a demo into a file": (
            ("demo", "--data", "synthetic", "--rows", "100", "--output", "MODEL"),
            ("m.safetensors|output",),
        ),
        "a demo of no rows": (("demo", "--rows", "0"), ("rows",)),
        "no such command": (("predict", "MODEL"), ("predict",)),
    }
    for name, (arguments, words) in wrong.items():
        yield mistake(name, ask(*arguments), *words)

    def changed(change: Callable[[Path], Any], *arguments: str) -> Callable[[], Said]:
        def work(folder: Path) -> Said:
            change(folder)
            return command("recommend", folder / "m.safetensors", "--user", "007", *arguments)

        return plain(work)

    yield mistake(
        "recommend by half a model", changed(lambda f: os.truncate(f / "m.safetensors", 700)), "m.safetensors"
    )
    yield mistake(
        "recommend without its data", changed(lambda f: (f / "m.interactions.npz").unlink()), "data|interactions"
    )
    yield mistake(
        "recommend by others' data",
        changed(
            lambda f: (
                command(
                    "fit",
                    write_csv(f / "b.csv", "user,item\n007,1\n7,2\n"),
                    "--factors",
                    "1",
                    "--text",
                    "user",
                    "-o",
                    f / "n.safetensors",
                )
                and os.replace(f / "n.interactions.npz", f / "m.interactions.npz")
            )
        ),
        "interactions|users|shape",
    )
    yield mistake(
        "recommend by a pickle of data",
        changed(lambda f: np.savez(f / "m.interactions.npz", users=np.array([{}], object))),
        "interactions",
    )
    yield mistake(
        "recommend by a pipe",
        changed(lambda f: ((f / "m.safetensors").unlink(), os.mkfifo(f / "m.safetensors"))),
        "m.safetensors",
    )
    yield mistake(
        "update a model of sgd",
        with_model(method="sgd")(
            lambda f: command("update", f / "m.safetensors", f / "events.csv", "-o", f / "n.safetensors")
        ),
        "als|sgd",
    )

    def strangers(folder: Path) -> Said:
        return command(
            "update",
            folder / "m.safetensors",
            write_csv(folder / "n.csv", "user,item,v,t\nnew,5,1,1\n"),
            "-o",
            folder / "n.safetensors",
        )

    yield _right(
        "update by items that nobody knows",
        plain(strangers),
        lambda s: s.status in (0, 2) and "traceback" not in s.err.lower() and s.err.strip() != "",
    )
    yield _right(
        "update by the interactions of the fit",
        ask("update", "MODEL", "HERE/m.interactions.npz", "-o", "HERE/n.safetensors"),
        lambda s: s.status == 0 and "0 users added, 60 solved again" in s.err,
    )
    yield _right("update in place, and twice", plain(_twice))
    yield _right(
        "info of a checkpoint",
        inside(
            lambda f: (lfm_np.als(table(), factors=2, iterations=1, checkpoint=f / "run"), command("info", f / "run"))[
                1
            ]
        ),
        lambda s: s.status in (0, 2) and s.err + s.out,
    )
    yield _right(
        "info of everything that is no model",
        inside(
            lambda f: [
                command("info", write_csv(f / name, text))
                for name, text in (("a.safetensors", "x"), ("a.npz", "PK"), ("a.parquet", "PAR1"))
            ]
        ),
        lambda all_: all(mistaken(s, "a.") for s in all_),
    )
    yield _right(
        "info without anything", lambda: command("info"), lambda s: s.status == 0 and lfm_np.__version__ in s.out
    )
    yield _right(
        "where an error arose, on demand",
        lambda: command("--traceback", "info", "none.safetensors"),
        lambda s: s.status == 2 and "Traceback" in s.err and s.out == "",
    )
    if installed("matplotlib"):
        yield _right(
            "a report whose title is code",
            plain(
                lambda f: (
                    command("report", f / "m.safetensors", "--title", "<script>alert(1)</script>", "-o", f / "r.html"),
                    (f / "r.html").read_text(),
                )[1]
            ),
            lambda page: "<script" not in page and "&lt;script&gt;" in page,
        )


def _evaluated(folder: Path) -> bool:
    data = lfm_np.Interactions.from_csv(folder / "events.csv")
    X = data.matrix
    test = [(u, i) for u in range(60) for i in range(25) if X[u, i] == 0 and (u * 7 + i) % 5 == 0]
    lines = "".join(f'"{str(data.users[u]).replace(chr(34), chr(34) * 2)}",{data.items[i]},1,1\n' for u, i in test)
    write_csv(folder / "test.csv", "user,item,v,t\n" + lines)
    said = command(
        "evaluate",
        folder / "m.safetensors",
        folder / "test.csv",
        "--metric",
        "recall@5",
        "--metric",
        "auc",
        "-o",
        folder / "a.json",
    )
    factors = lfm_np.Factors.load(folder / "m.safetensors")
    scores = factors.user_factors.astype(float) @ factors.item_factors.astype(float).T
    recall = []
    for user in range(60):
        allowed = [i for i in range(25) if X[user, i] == 0]
        relevant = {i for u, i in test if u == user}
        if relevant:
            top = sorted(allowed, key=lambda i: -scores[user, i])[:5]
            recall.append(len(relevant & set(top)) / len(relevant))
    rows = {row["metric"]: row for row in json.loads((folder / "a.json").read_text())}
    return (
        said.status == 0
        and abs(rows["recall@5"]["model"] - np.mean(recall)) < 1e-9
        and rows["recall@5"]["users"] == len(recall)
    )


def _twice(folder: Path) -> bool:
    write_csv(folder / "n.csv", "user,item,v,t\nnew,1003,1,1\n007,1004,1,1\n")
    models = []
    for _ in range(2):
        said = command("update", folder / "m.safetensors", folder / "n.csv", "-o", folder / "m.safetensors")
        assert said.status == 0, said.err
        models.append(lfm_np.Factors.load(folder / "m.safetensors"))
    asked = command("recommend", folder / "m.safetensors", "--user", "new", "-n", "1")
    return [m.shape for m in models] == [(61, 25), (61, 25)] and asked.status == 0 and "1003" not in asked.out


def streams() -> Iterator[Case]:
    yield _right(
        "python -OO -m lfm_np fit --help",
        lambda: interpreter("-OO", "-m", "lfm_np", "fit", "--help"),
        lambda s: s.status == 0 and "regularization" in s.out,
    )

    def full(folder: Path) -> Said:
        with open("/dev/full", "w") as file:
            return interpreter("-m", "lfm_np", "info", stdout=file)

    yield _right(
        "standard output is full",
        inside(full),
        lambda s: s.status not in (0, None) and "traceback" not in s.err.lower() and "space" in s.err.lower(),
    )

    def old_locale(folder: Path) -> Said:
        write_csv(folder / "e.csv", "user,item\nälter,1\nälter,2\nö🎧,1\n")
        env: dict[str, str | None] = {
            "LC_ALL": "C",
            "PYTHONUTF8": "0",
            "PYTHONCOERCECLOCALE": "0",
            "PYTHONIOENCODING": "ascii",
        }
        said = interpreter("-m", "lfm_np", "info", str(folder / "e.csv"), "-o", str(folder / "ü.csv"), env=env)
        return Said(said.status, said.out + (folder / "ü.csv").read_text(), said.err)

    yield _right(
        "ids and files of the world in the locale C",
        inside(old_locale),
        lambda s: s.status == 0 and s.out.startswith("what,value\nusers,2\nitems,2\n") and s.err == "",
    )

    def interrupted(folder: Path) -> bool:
        arguments = (
            "fit",
            str(events(folder)),
            "--iterations",
            "1000000",
            "--factors",
            "4",
            "--checkpoint",
            str(folder / "run"),
        )
        process = subprocess.Popen(
            [sys.executable, "-m", "lfm_np", *arguments, "-o", str(folder / "m.safetensors")],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        deadline = time.monotonic() + 20
        while not (folder / "run").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=8)
        there = lfm_np.Factors.load(folder / "m.safetensors")
        return process.returncode == 130 and b"Traceback" not in err and there.shape == (60, 25)

    yield _right("Ctrl-C leaves a model and 130", inside(interrupted))


def benchmarks() -> Iterator[Case]:
    def bench(*arguments: str) -> Callable[[], Said]:
        return inside(lambda f: module("benchmarks", *(a.replace("HERE", str(f)) for a in arguments)))

    wrong: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
        "no command": ((), ("command|required",)),
        "an unknown task": (("run", "--task", "svd"), ("task",)),
        "factors of a word": (("run", "--factors", "many"), ("factors",)),
        "an unknown data set": (("run", "--datasets", "netflix", "--output", "HERE/a.jsonl"), ("netflix",)),
        "a planted one of words": (("run", "--datasets", "planted:a,b,c", "--output", "HERE/a.jsonl"), ("planted",)),
        "an unknown solver": (
            ("run", "--datasets", "small", "--solvers", "magic", "--output", "HERE/a.jsonl"),
            ("magic",),
        ),
        "a report of nothing": (("report", "HERE/none.jsonl"), ("none.jsonl",)),
        "a report of other lines": (("report", "HERE/other.jsonl"), ("other.jsonl",)),
    }
    for name, (arguments, words) in wrong.items():

        def work(folder: Path, a: tuple[str, ...] = arguments) -> Said:
            (folder / "other.jsonl").write_text("no JSON\n")
            return module("benchmarks", *(word.replace("HERE", str(folder)) for word in a))

        said = "|".join(words)
        yield Case(
            f"in a shell: benchmarks, {name}",
            inside(work),
            Holds(lambda s, w=said: s.status in (1, 2) and any(x in s.err.lower() for x in w.split("|"))),
        )


def cases() -> list[Case]:
    found = list(benchmarks())
    if installed("typer", "rich", "pyarrow"):
        found += [*fitting(), *using(), *streams()]
    return found
