"""What one types in a day: fit, recommend, similar, evaluate and update, with odd ids, wrong options, edited files."""

from __future__ import annotations

import contextlib
import csv
import io
import os
import pathlib
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import scipy.sparse as sp

import lfm_np

from .case import Case, installed
from .cases_forged_files import Bomb, forge
from .cases_records_by_dictionaries import inside
from .least_squares import Heading

_of = Heading("a day of commands")
EVENTS = [(f"u{u}", i) for u in range(9) for i in range(12) if (u * 5 + i * 3) % 4 < 2]


def command(*arguments: Any) -> tuple[int, str, str]:
    """Status, standard output and standard error."""
    from lfm_np.cli import main

    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        status = main([str(argument) for argument in arguments])
    return status, out.getvalue(), err.getvalue()


def write(path: pathlib.Path, rows: Any, names: tuple[str, ...] = ("user", "item")) -> pathlib.Path:
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([names, *rows])
    return path


FIT = ("--factors", 4, "--iterations", 4, "--alpha", 5, "--threads", 1)


def fitted(folder: pathlib.Path, rows: Any = EVENTS, *more: Any) -> pathlib.Path:
    status, _, said = command("fit", write(folder / "e.csv", rows), *FIT, *more, "-o", folder / "m.safetensors")
    if status:
        raise AssertionError(said)
    return folder / "m.safetensors"


def table(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def same_as_the_library(folder: pathlib.Path) -> bool:
    found = table(command("recommend", fitted(folder), "-n", 3)[1])
    data = lfm_np.Interactions.from_arrays(*map(list, zip(*EVENTS)))
    factors = lfm_np.als(data, factors=4, iterations=4, alpha=5.0, random_state=0)
    ids, scores = factors.recommend(range(len(data.users)), N=3, seen=data)
    expected = [
        (user, str(data.items[i]), np.float32(s), str(rank))
        for user, row, best in zip(data.users.tolist(), ids, scores)
        for rank, (i, s) in enumerate(zip(row, best), 1)
        if i >= 0
    ]
    return [(r["user"], r["item"], np.float32(r["score"]), r["rank"]) for r in found] == expected


STRANGE = ["007", "7", "a,b", 'say "x"', "two\nlines", "=1+1", "ünï", "-5", " ", "\u202eabc", "NULL?"]


def strange_ids(folder: pathlib.Path) -> Any:
    model = fitted(folder, [(u, i) for n, u in enumerate(STRANGE) for i in range(6) if (n + i) % 3], "--text", "user")
    found = table(command("recommend", model, "-n", 1)[1])
    one = table(command("recommend", model, "-n", 1, "--user", "two\nlines", "--user=-5", "--user", "007")[1])
    return sorted({row["user"] for row in found}) == sorted(STRANGE), [row["user"] for row in one]


def after(*more: Any, rows: Any = EVENTS, fit: Any = ()) -> Callable[[], Any]:
    """A command of a model file, as ``more`` says for its folder."""

    def work(folder: pathlib.Path) -> Any:
        model = fitted(folder, rows, *fit)
        return command(*(part(model) if callable(part) else part for part in more))

    return inside(work)


def model(path: pathlib.Path) -> pathlib.Path:
    return path


def beside(name: str) -> Callable[[pathlib.Path], pathlib.Path]:
    return lambda path: path.parent / name


def mistake(name: str, call: Callable[[], Any], *words: str, status: int = 2) -> Case:
    """A status, and one line that holds these."""

    def true(found: Any) -> bool:
        lines = found[2].strip().splitlines()
        last = " ".join(lines).lower()
        return (
            found[0] == status
            and "traceback" not in last
            and all(any(w in last for w in word.lower().split("|")) for word in words)
        )

    return _of.right(name, call, true)


def right() -> Iterator[Case]:
    yield _of.right("recommend gives what the library gives", inside(same_as_the_library), lambda same: same)
    yield _of.right(
        "ids of all sorts come back", inside(strange_ids), lambda found: found == (True, ["two\nlines", "-5", "007"])
    )
    yield _of.right(
        "lists longer than there are items",
        after("recommend", model, "-n", 10**6, "--user", "u3"),
        lambda found: found[0] == 0 and len(table(found[1])) == 12 - sum(u == "u3" for u, _ in EVENTS),
    )
    yield _of.right(
        "an item is most like itself",
        after("similar", model, "--item", 3, "-n", 1),
        lambda found: table(found[1])[0]["similar"] == "3",
    )

    def updated(folder: pathlib.Path) -> Any:
        path = fitted(folder)
        more = write(folder / "more.csv", [("new", 3), ("new", 5), ("u1", 7), ("new", 999)])
        before = lfm_np.Factors.load(path)
        status, _, _said = command("update", path, more, "-o", folder / "n.safetensors")
        now = lfm_np.Factors.load(folder / "n.safetensors")
        row = sp.csr_array(([1.0, 1.0], ([0, 0], [3, 5])), (1, 12))
        same = [u for u in range(9) if u != 1]
        return (
            status == 0
            and (now.user_factors[same] == before.user_factors[same]).all()
            and np.allclose(now.user_factors[9], before.fold_in_users(row).user_factors[0], rtol=1e-5)
        )

    yield _of.right("update solves who has something new, and nobody else", inside(updated), lambda same: same)

    def resumed(folder: pathlib.Path) -> Any:
        events = write(folder / "e.csv", EVENTS)
        for iterations, name in ((2, "a"), (5, "a"), (5, "b")):
            check = ("--checkpoint", folder / "c") if name == "a" else ()
            assert (
                command(
                    "fit",
                    events,
                    "--factors",
                    3,
                    "--iterations",
                    iterations,
                    *check,
                    "-o",
                    folder / f"{name}.safetensors",
                )[0]
                == 0
            )
        a, b = (lfm_np.Factors.load(folder / f"{name}.safetensors") for name in "ab")
        return (a.item_factors == b.item_factors).all() and len(a.history) == 5

    yield _of.right("a checkpoint goes on to the same bits", inside(resumed), lambda same: same)

    def from_npz(folder: pathlib.Path) -> Any:
        X = sp.csr_array(np.arange(30.0).reshape(5, 6) % 3)
        sp.save_npz(folder / "x.npz", X)
        return command("fit", folder / "x.npz", "--factors", 2, "-o", folder / "m.safetensors"), table(
            command("recommend", folder / "m.safetensors", "--user", 4)[1]
        )

    yield _of.right(
        "a matrix of SciPy's is numbered from 0",
        inside(from_npz),
        lambda found: found[0][0] == 0 and {r["user"] for r in found[1]} == {"4"},
    )

    def held_out(folder: pathlib.Path) -> Any:
        path = fitted(folder, EVENTS, "--hold-out", folder / "test.csv", "--seed", 5)
        held = [(row["user"], int(row["item"])) for row in table((folder / "test.csv").read_text())]
        known = [(row["user"], int(row["item"])) for row in table(command("recommend", path, "-n", 12)[1])]
        return set(held) <= set(EVENTS) and set(held) <= set(known) and not (set(EVENTS) - set(held)) & set(known)

    yield _of.right("what is held out was not learned, and is recommended", inside(held_out), lambda true: true)
    yield _of.right(
        "a check that fails is status 1",
        after("evaluate", model, beside("e.csv"), "--at-least", "recall@5=0.5"),
        lambda found: (found[0] in (1, 2) and "recall@5" in found[2]) or (found[0] == 2 and "test" in found[2]),
    )


def wrong() -> Iterator[Case]:
    yield mistake("a user who is not there", after("recommend", model, "--user", "nobody"), "nobody", "user")
    yield mistake("lists of none", after("recommend", model, "-n", 0), "-n|N|length|0")
    yield mistake("metric recall@0", after("evaluate", model, beside("e.csv"), "--metric", "recall@0"), "recall@0")
    yield mistake(
        "at least NaN", after("evaluate", model, beside("e.csv"), "--at-least", "recall@5=nan"), "recall@5|nan|at-least"
    )
    yield mistake(
        "at least without a number",
        after("evaluate", model, beside("e.csv"), "--at-least", "recall@5"),
        "recall@5|at-least",
    )
    yield mistake("an output of no kind", after("recommend", model, "-o", beside("x.doc")), "x.doc|.doc|ending")
    yield mistake("the model as the output", after("recommend", model, "-o", model), "output|safetensors")

    def fit_of(rows: Any, *more: Any, names: tuple[str, ...] = ("user", "item")) -> Callable[[], Any]:
        return inside(
            lambda d: command(
                "fit",
                write(d / "e.csv", rows, names),
                *(m(d) if callable(m) else m for m in more),
                "-o",
                d / "m.safetensors",
            )
        )

    yield mistake("a table without records", fit_of([]), "e.csv|no record|empty|interactions|user")
    yield mistake("a table without its columns", fit_of(EVENTS, names=("who", "what")), "user", "who|column")
    yield mistake("no factors", fit_of(EVENTS, "--factors", 0), "factors")
    yield mistake("alpha of NaN", fit_of(EVENTS, "--alpha", "nan"), "alpha")
    yield mistake("alpha for sgd", fit_of(EVENTS, "--method", "sgd", "--alpha", 2), "alpha")
    yield mistake("a loss that there is not", fit_of(EVENTS, "--method", "sgd", "--loss", "Huber"), "loss", "huber")
    yield mistake("a loss that is a module", fit_of(EVENTS, "--method", "sgd", "--loss", "np"), "loss")
    yield mistake(
        "half held out twice", fit_of(EVENTS, "--hold-out", lambda d: d / "t.csv", "--fraction", 1.5), "fraction"
    )
    yield mistake("the data as what is held out", fit_of(EVENTS, "--hold-out", lambda d: d / "e.csv"), "e.csv|hold-out")
    yield mistake("a column of times that is not there", fit_of(EVENTS, "--timestamp", "when"), "when")
    yield mistake(
        "a folder that is not there",
        inside(lambda d: command("fit", write(d / "e.csv", EVENTS), "-o", d / "x" / "m.safetensors")),
        "x|folder|directory",
    )
    yield mistake(
        "diverging",
        fit_of(
            [(u, i, 1.0) for u, i in EVENTS],
            "--method",
            "sgd",
            "--loss",
            "Squared",
            "--learning-rate",
            "1e9",
            names=("user", "item", "v"),
        ),
        "diverged|epoch",
        status=3,
    )

    def objects(folder: pathlib.Path) -> Any:
        os.environ["BOMB"] = str(folder / "exploded")
        path = fitted(folder)
        file = next(folder.glob("*.npz"))
        with np.load(file, allow_pickle=False) as arrays:
            parts = dict(arrays)
        np.savez(file, **{**parts, "users": np.array([Bomb()] * 9, object)})
        found = command("recommend", path)
        return (*found[:2], found[2] if not (folder / "exploded").exists() else "it ran")

    yield mistake("interactions of pickled objects", inside(objects), "interactions|npz")

    def of_another(folder: pathlib.Path) -> Any:
        path = fitted(folder)
        os.mkdir(folder / "other")
        other = fitted(folder / "other", EVENTS[:-3])
        next((folder / "other").glob("*.npz")).replace(next(folder.glob("*.npz")))
        return command("recommend", path) if other else None

    yield mistake("the interactions of another model", inside(of_another), "interactions|belong|checksum")

    def edited(folder: pathlib.Path) -> Any:
        path = fitted(folder)
        forge(path, lambda header, said, body: said["params"].update(alpha="rm -rf"))
        return command("update", path, write(folder / "more.csv", [("new", 3)]), "-o", folder / "n.safetensors")

    yield mistake("a model whose alpha is text", inside(edited), "alpha")

    def a_pickle(folder: pathlib.Path) -> Any:
        os.environ["BOMB"] = str(folder / "exploded")
        (folder / "x.npz").write_bytes(pickle.dumps(Bomb()))
        found = command("info", folder / "x.npz")
        return (*found[:2], found[2] if not (folder / "exploded").exists() else "it ran")

    yield mistake("a pickle called .npz", inside(a_pickle), "x.npz")


def page() -> Iterator[Case]:
    def report(folder: pathlib.Path) -> Any:
        path = fitted(folder, [(u, f"<script>{i}</script>") for u, i in EVENTS])
        status, _, _said = command(
            "report", path, "--title", "</title><script>alert(1)</script>", "-o", folder / "r.html"
        )
        return status, (folder / "r.html").read_text().lower().count("<script")

    yield _of.right("a page of items that are scripts runs none", inside(report), lambda found: found == (0, 0))


def cases() -> list[Case]:
    return [*right(), *wrong(), *page()] if installed("typer", "rich", "pyarrow") else []
