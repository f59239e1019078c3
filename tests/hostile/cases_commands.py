"""The command line: files as people have them, outputs that are in the way, and options out of range."""

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

import lfm_np

from .case import Case, Group, installed
from .cases_clusters import filed
from .cases_extras import command

_right = Group("commands").right
LINES = b"user,item\n" + b"".join(b"u%d,%d\n" % (u, i) for u in range(6) for i in range(u % 3, 8, 2))
SMALL = ("--factors", "2", "--iterations", "2", "--threads", "1")


def done(result: Any) -> bool:
    return bool(result[0] == 0)


def told(*words: str, status: int = 2) -> Callable[[Any], bool]:
    """One line of an error with one of ``words``, and the status of a mistake."""
    return lambda r: r[0] == status and any(word in r[1].lower() for word in words) and "traceback" not in r[1].lower()


def fit(
    data: bytes = LINES, *words: str, name: str = "events.csv", output: str = "model.safetensors"
) -> Callable[[], Any]:
    """``fit`` of a file of this content; words may name the folder as {}."""
    return filed(lambda folder: _fit(folder, data, *words, name=name, output=output))


def _fit(
    folder: Path, data: bytes = LINES, *words: str, name: str = "events.csv", output: str = "model.safetensors"
) -> Any:
    (folder / name).write_bytes(data)
    given = [word.replace("{}", str(folder)) for word in words]
    status, said = command("fit", str(folder / name), "-o", str(folder / output), *SMALL, *given)
    kept = not (folder / name).exists() or (folder / name).read_bytes() == data
    return status, said if kept else f"{said} DATA CHANGED"


def then(*words: str, before: Callable[[Path], Any] = lambda folder: None) -> Callable[[], Any]:
    """What a command says of a model that ``fit`` made; status, output, and whether the model is as it was."""

    def run(folder: Path) -> Any:
        status, said = _fit(folder)
        if status:
            raise RuntimeError(said)
        before(folder)
        model = (folder / "model.safetensors").read_bytes() if (folder / "model.safetensors").is_file() else b""
        status, said = command(*(word.replace("{}", str(folder)) for word in words))
        if model and (folder / "model.safetensors").read_bytes() != model:
            said += " MODEL CHANGED"
        return status, said

    return filed(run)


MODEL = "{}/model.safetensors"


def kept(check: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda r: check(r) and "CHANGED" not in r[1]


# ---- fit ------------------------------------------------------------------------------------------------------------


def fits() -> Iterator[Case]:
    for name, data, words in (
        ("CRLF", LINES.replace(b"\n", b"\r\n"), ()),
        ("a byte order mark", b"\xef\xbb\xbf" + LINES, ()),
        ("no line end", LINES[:-1], ()),
        ("semicolons", LINES.replace(b",", b";"), ("--delimiter", ";")),
        ("one line", b"user,item\na,1\n", ()),
        ("a column more", LINES.replace(b"\n", b",x\n"), ()),
        ("odd names", LINES.replace(b"user,item", "ü ser,%s ()".encode()), ("--user", "ü ser", "--item", "%s ()")),
        ("ids of odd characters", LINES.replace(b"u1", "日本 \U0001f600".encode()), ()),
        ("exponents of 1", LINES, ("--regularization-exponent", "1", "--alpha", "1e1")),
        ("checkpoint", LINES, ("--checkpoint", "{}/state")),
        ("sgd", LINES, ("--method", "sgd")),
        ("a seed of 2^62", LINES, ("--seed", str(2**62))),
        ("biases", LINES, ("--method", "sgd", "--biases")),
    ):
        yield _right(f"fit, {name}", fit(data, *words), kept(done))
    for name, data, words, *said in (
        ("nothing", b"", (), "events.csv"),
        ("only names", b"user,item\n", (), "no ", "record", "empty", "cell"),
        ("NULs", bytes(1000), (), "events.csv", "user"),
        ("a picture", b"\x89PNG\r\n\x1a\n" + bytes(99), (), "events.csv", "user"),
        ("semicolons", LINES.replace(b",", b";"), (), "user"),
        ("Latin-1", LINES.replace(b"u1", b"\xe9"), (), "utf-8"),
        ("open quotes", LINES + b'"x,1\n', (), "events.csv"),
        ("an empty id", LINES + b",1\n", (), "null"),
        ("no column", LINES, ("--user", "listener"), "listener"),
        ("text of values", LINES, ("--value", "user"), "value"),
        ("factors 0", LINES, ("--factors", "0"), "factors"),
        ("factors -1", LINES, ("--factors", "-1"), "factors"),
        ("factors 1e3", LINES, ("--factors", "1e3"), "factors"),
        ("alpha nan", LINES, ("--alpha", "nan"), "alpha"),
        ("alpha -1", LINES, ("--alpha", "-1"), "alpha"),
        ("lambda inf", LINES, ("--regularization", "inf"), "regularization"),
        ("iterations -1", LINES, ("--iterations", "-1"), "iterations"),
        ("threads 0", LINES, ("--threads", "0"), "threads"),
        ("seed -1", LINES, ("--seed", "-1"), "seed"),
        ("method odd", LINES, ("--method", "svd"), "method"),
        ("loss odd", LINES, ("--method", "sgd", "--loss", "Nope"), "loss"),
        ("loss of als", LINES, ("--loss", "BPR"), "loss"),
        ("alpha of sgd", LINES, ("--method", "sgd", "--alpha", "2"), "alpha"),
        ("loss a file", LINES, ("--method", "sgd", "--loss", "../BPR"), "loss"),
        ("loss private", LINES, ("--method", "sgd", "--loss", "__class__"), "loss"),
        ("fraction 1", LINES, ("--hold-out", "{}/test.csv", "--fraction", "1"), "fraction"),
        ("fraction nan", LINES, ("--hold-out", "{}/test.csv", "--fraction", "nan"), "fraction"),
        ("by odd", LINES, ("--hold-out", "{}/test.csv", "--by", "user"), "by"),
        ("by time without times", LINES, ("--hold-out", "{}/test.csv", "--by", "time"), "time"),
        ("held out into .txt", LINES, ("--hold-out", "{}/test.txt"), ".txt", "hold-out"),
        ("held out into the data", LINES, ("--hold-out", "{}/events.csv"), "events.csv"),
        ("checkpoint is the data", LINES, ("--checkpoint", "{}/events.csv"), "events.csv", "checkpoint"),
        ("checkpoint is the model", LINES, ("--checkpoint", "{}/model.safetensors"), "checkpoint", "model"),
        ("checkpoint in no folder", LINES, ("--checkpoint", "{}/no/state"), "no"),
        ("nobody is left", LINES, ("--min-user-interactions", "99"), "min", "left", "user"),
        ("delimiter of two", LINES, ("--delimiter", ",,"), "delimiter"),
        ("text of no column", LINES, ("--text", "listener"), "text"),
        ("duplicates odd", LINES, ("--duplicates", "first"), "duplicates"),
        ("threshold nan", LINES, ("--threshold", "nan"), "threshold"),
        ("weighting odd", LINES, ("--weighting", "bm25"), "weighting"),
    ):
        yield _right(f"fit, {name} refused", fit(data, *words), kept(told(*said)))
    for name, output in {"the data": "events.csv", "a folder": ".", "in no folder": "no/model"}.items():
        yield _right(
            f"fit, output is {name}",
            fit(LINES, output=output),
            kept(told("output", "events.csv", "folder", "directory", "no/")),
        )
    yield _right("fit, no gzip", fit(LINES, name="events.csv.gz"), told("events.csv.gz"))
    yield _right("fit, no Parquet", fit(LINES, name="events.parquet"), told("events.parquet"))
    yield _right("fit, no npz", fit(LINES, name="events.npz"), told("events.npz"))
    yield _right("fit, an unknown ending", fit(LINES, name="events.xlsx"), told(".xlsx", "events.xlsx"))
    yield _right("fit, MovieLens unknown", lambda: command("fit", "movielens:5k"), told("movielens", "5k"))
    yield _right("fit, a pipe of nobody", lambda: command("fit", "-"), told("-"))


# ---- what uses a model ----------------------------------------------------------------------------------------------


def _no_ids(folder: Path) -> None:
    for path in folder.glob("*.interactions.npz"):
        path.unlink()


def _other_ids(folder: Path) -> None:
    lines = b"user,item\n" + b"".join(b"v%d,%d\n" % (u, u) for u in range(9))
    (folder / "other").mkdir()
    _fit(folder / "other", lines, output="model.safetensors")
    (found,) = (folder / "other").glob("*.interactions.npz")
    (folder / found.name).write_bytes(found.read_bytes())


def _test(data: bytes) -> Callable[[Path], Any]:
    return lambda folder: (folder / "test.csv").write_bytes(data)


def uses() -> Iterator[Case]:
    for name, words, *said in (
        ("recommend, nobody known", ("recommend", MODEL, "--user", "nobody"), "nobody"),
        ("recommend, an empty user", ("recommend", MODEL, "--user", ""), "''", "user"),
        ("recommend, N 0", ("recommend", MODEL, "-n", "0"), "-n"),
        ("recommend, N text", ("recommend", MODEL, "-n", "ten"), "-n"),
        ("recommend, N 2^70", ("recommend", MODEL, "-n", str(2**70)), "-n", "n must"),
        ("recommend into .xlsx", ("recommend", MODEL, "-o", "{}/x.xlsx"), ".xlsx"),
        ("recommend into a folder", ("recommend", MODEL, "-o", "{}"), "output", "directory", ".csv"),
        ("recommend into no folder", ("recommend", MODEL, "-o", "{}/no/x.csv"), "no"),
        ("recommend into the model", ("recommend", MODEL, "-o", MODEL), ".csv", "safetensors"),
        ("recommend of data", ("recommend", "{}/events.csv"), "events.csv"),
        ("recommend of other data", ("recommend", MODEL, "--data", "{}/gone.csv"), "gone.csv"),
        ("similar to nothing", ("similar", MODEL), "item", "user"),
        ("similar, item gone", ("similar", MODEL, "--item", "99"), "99"),
        ("similar, item text", ("similar", MODEL, "--item", "x"), "x"),
        ("similar to both", ("similar", MODEL, "--item", "1", "--user", "u1"), "item", "user"),
        ("similar, metric odd", ("similar", MODEL, "--item", "1", "--metric", "l2"), "metric"),
        ("evaluate, no test", ("evaluate", MODEL), "test"),
        ("evaluate, gone", ("evaluate", MODEL, "{}/gone.csv"), "gone.csv"),
        ("evaluate, metric odd", ("evaluate", MODEL, "{}/events.csv", "--metric", "f1@5"), "metric"),
        ("evaluate, at least nothing", ("evaluate", MODEL, "{}/events.csv", "--at-least", "auc"), "at-least"),
        ("evaluate, at least text", ("evaluate", MODEL, "{}/events.csv", "--at-least", "auc=x"), "at-least", "auc=x"),
        ("evaluate, at least nan", ("evaluate", MODEL, "{}/events.csv", "--at-least", "auc=nan"), "at-least", "nan"),
        ("evaluate by what it has seen", ("evaluate", MODEL, "{}/events.csv"), "test"),
        ("update by nothing", ("update", MODEL, "{}/gone.csv", "-o", MODEL), "gone.csv"),
        ("report of no test", ("report", MODEL, "--test", "{}/gone.csv", "-o", "{}/r.html"), "gone.csv"),
        ("report, labels gone", ("report", MODEL, "--labels", "{}/gone.csv", "-o", "{}/r.html"), "gone.csv"),
        ("report, labels of other columns", ("report", MODEL, "--labels", "{}/events.csv", "-o", "{}/r.html"), "label"),
        ("report into the model", ("report", MODEL, "-o", MODEL), ".html", "model", "output"),
        ("report into a folder", ("report", MODEL, "-o", "{}"), "directory", "output"),
        ("info of nothing", ("info", "{}/gone"), "gone"),
        ("info of a folder of nothing", ("info", "/proc/self/task"), "task"),
        ("info into the model", ("info", MODEL, "-o", MODEL), ".csv", "safetensors"),
    ):
        yield _right(name, then(*words), kept(told(*said)))
    for name, before, words, *said in (
        ("recommend, no ids", _no_ids, ("recommend", MODEL), "interactions"),
        ("recommend, ids of another model", _other_ids, ("recommend", MODEL), "interactions", "data", "shape"),
        (
            "recommend, no model",
            lambda f: (f / "model.safetensors").unlink(),
            ("recommend", MODEL),
            "model.safetensors",
        ),
        (
            "recommend, a cut model",
            lambda f: os.truncate(f / "model.safetensors", 99),
            ("recommend", MODEL),
            "model.safetensors",
        ),
        (
            "evaluate, a test of others",
            _test(b"user,item\nx,1\n"),
            ("evaluate", MODEL, "{}/test.csv"),
            "test",
            "user",
            "'x'",
        ),
        ("evaluate, an empty test", _test(b"user,item\n"), ("evaluate", MODEL, "{}/test.csv"), "test"),
        ("update, no column", _test(b"user\nx\n"), ("update", MODEL, "{}/test.csv", "-o", "{}/m2.safetensors"), "item"),
    ):
        yield _right(name, then(*words, before=before), kept(told(*said)))
    yield _right("recommend, N beyond the items", then("recommend", MODEL, "-n", "1000", "--include-seen"), done)
    yield _right("recommend, a user twice", then("recommend", MODEL, "--user", "u1", "--user", "u1", "-n", "1"), done)
    yield _right("recommend into JSON", filed(_json), lambda rows: len(rows) == 6)
    yield _right(
        "recommend into a pipe",
        then("recommend", MODEL, "-n", "1"),
        lambda r: len(list(csv.reader(io.StringIO(r[1])))) == 7,
    )
    for words in (
        ("recommend", MODEL, "--data", "{}/events.csv"),
        ("similar", MODEL, "--item", "1", "--data", "{}/events.csv"),
        ("evaluate", MODEL, "{}/events.csv"),
    ):
        yield _right(f"{words[0]} into its own data", then(*words, "-o", "{}/events.csv"), told("another file"))
    at_least = lambda least: then(  # noqa: E731
        "evaluate", MODEL, "{}/test.csv", "--at-least", f"recall@10={least}", before=_test(b"user,item\nu0,1\n")
    )
    yield _right("evaluate, at least less", at_least(-1), done)
    yield _right("evaluate, at least too much", at_least(2), told("failed", status=1))
    others = then("update", MODEL, "{}/test.csv", "-o", "{}/m2.safetensors", before=_test(b"user,item\nx,9999\n"))
    yield _right("update, unknown items", others, lambda r: done(r) and "unknown items" in r[1])


def _json(folder: Path) -> Any:
    _fit(folder)
    command("recommend", str(folder / "model.safetensors"), "-n", "1", "-o", str(folder / "x.json"))
    return json.loads((folder / "x.json").read_text())


# ---- processes ------------------------------------------------------------------------------------------------------


def _interrupted(library: str) -> Any:
    """Status and errors of ``python -m lfm_np info`` that is interrupted when it has loaded this library."""
    root = Path(lfm_np.__file__).parents[1]
    with subprocess.Popen([sys.executable, "-m", "lfm_np", "info"], cwd=root, stdout=-1, stderr=-1) as process:
        while process.poll() is None and library not in Path(f"/proc/{process.pid}/maps").read_text():
            time.sleep(0.005)
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=20)[1]
    return process.returncode, said.decode()


def processes() -> Iterator[Case]:
    for library in ("_multiarray_umath", "_sparsetools", "llvmlite"):
        yield _right(
            f"Ctrl-C while {library} is loaded", lambda name=library: _interrupted(name), lambda r: r == (130, "")
        )


def cases() -> list[Case]:
    return [*fits(), *uses(), *processes()] if installed("typer", "rich", "pyarrow") else []
