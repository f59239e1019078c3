"""The command line where shells are rough: signals, quotas, streams that are closed or full, names, encodings."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import lfm_np

from .case import Case, Group
from .cases_operators_and_their_commands import (
    MODEL,
    SMALL,
    done,
    events_of,
    failed,
    grid_of,
    plain_of,
    rows_of_csv,
    solved,
    table,
)  # fmt: skip
from .cases_operators_and_their_matrices import variable
from .places import ROOT, interpreter, largest_file
from .working_days import best, close, faultless, folder, same, typed, wrong

_GROUP = Group("operators")
_holds = faultless(_GROUP)
HEADER = "user item stars time"
FIT = ("fit", "events.csv", "--value", "stars", "--factors", 3, "--regularization", 2)
BESIDE = {"events.csv", "m.safetensors", "m.interactions.npz"}


def _grid(seed: int) -> Any:
    return grid_of({event[:2]: event[2] for event in events_of(seed)})


def _usual_handler() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _signalled(place: Path, number: int, *words: Any) -> int:
    """The status of a fit that gets a signal as soon as its checkpoint is there."""
    command = [sys.executable, "-m", "lfm_np", *map(str, (*FIT, *words))]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    quiet = subprocess.DEVNULL
    streams: dict[str, Any] = {"stdin": quiet, "stdout": quiet, "stderr": quiet, "preexec_fn": _usual_handler}
    with subprocess.Popen(command, cwd=place, env=env, **streams) as process:
        try:
            end = time.monotonic() + 20
            while not (place / "c").exists() and process.poll() is None and time.monotonic() < end:
                time.sleep(0.005)
            process.send_signal(number)
            return process.wait(20)
        finally:
            process.kill()


def _interrupted() -> list[str]:
    """The model of a Ctrl-C is that of so many sweeps, and the checkpoint has them too."""
    X, _, _ = _grid(1)
    with folder() as place:
        table(place / "events.csv", HEADER, events_of(1))
        words = ("--checkpoint", "c", "-o", "m.safetensors")
        status = _signalled(place, signal.SIGINT, "--iterations", 1_000_000, *words)
        model, plain = lfm_np.Factors.load(place / "m.safetensors"), plain_of(place / "m.safetensors")
        sweeps = ("--iterations", len(model.history))
        again = typed(place, *FIT, *sweeps, *words)
        resumed = lfm_np.Factors.load(place / "m.safetensors")
        fresh = typed(place, *FIT, *sweeps, "-o", "m.safetensors")
        whole = lfm_np.Factors.load(place / "m.safetensors")
        names = {path.name for path in place.iterdir()}
    return wrong(
        status=status == 130, told=model.status == "interrupted", least=solved(plain, X),
        done=done(again) and done(fresh),
        resumed=same(model, resumed) and len(resumed.history) == len(model.history), whole=same(model, whole),
        left=names == {*BESIDE, "c"},
    )  # fmt: skip


def _killed(number: int) -> list[str]:
    """The same command goes on to the same bits, and nothing else is left."""
    X, _, _ = _grid(2)
    with folder() as place:
        table(place / "events.csv", HEADER, events_of(2))
        words = ("--iterations", 120, "-o", "m.safetensors")
        _signalled(place, number, *words, "--checkpoint", "c")
        again = typed(place, *FIT, *words, "--checkpoint", "c")
        resumed, plain = lfm_np.Factors.load(place / "m.safetensors"), plain_of(place / "m.safetensors")
        names = {path.name for path in place.iterdir()}
        fresh = typed(place, *FIT, *words)
        whole = lfm_np.Factors.load(place / "m.safetensors")
    return wrong(
        done=done(again) and done(fresh), bits=same(resumed, whole), least=solved(plain, X),
        left=names == {*BESIDE, "c"}, sweeps=len(resumed.history) == 120,
    )  # fmt: skip


def _fitted(place: Path, seed: int = 3) -> None:
    table(place / "events.csv", HEADER, events_of(seed))
    said = typed(place, *FIT, "--iterations", 3, "-o", "m.safetensors")
    assert done(said), said


def _nobody_reads() -> list[str]:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        with folder() as place:
            _fitted(place)
            said = interpreter("-m", "lfm_np", "recommend", "m.safetensors", stdout=writing, cwd=place)
            names = {path.name for path in place.iterdir()}
    finally:
        os.close(writing)
    return wrong(status=said.status == 141, silent=said.err == "", left=names == BESIDE)


def _full_stream() -> list[str]:
    with folder() as place, open("/dev/full", "wb") as full:
        _fitted(place)
        said = interpreter("-m", "lfm_np", "recommend", "m.safetensors", stdout=full, cwd=place)
    return wrong(
        status=said.status not in (0, 141) and said.status > 0,
        told="space" in said.err.lower() and "Traceback" not in said.err,
    )


def _no_standard_error() -> list[str]:
    """A daemon without standard error: what opens next must not get its number, and the model its remarks."""
    X, _, _ = _grid(4)
    with folder() as place:
        table(place / "events.csv", HEADER, events_of(4))
        words = [*map(str, FIT), "--iterations", "3", "--progress", "-o", "m.safetensors"]
        options: dict[str, Any] = {"stderr": None, "cwd": place, "preexec_fn": lambda: os.close(2)}
        said = interpreter("-m", "lfm_np", *words, **options)
        names = {path.name for path in place.iterdir()}
        lfm_np.Factors.load(place / "m.safetensors")
        least = solved(plain_of(place / "m.safetensors"), X)
    return wrong(status=said.status == 0, least=least, out=said.out == "", left=names == BESIDE)


def _plain_ascii() -> list[str]:
    """A cron job in the C locale: files are UTF-8 all the same, and remarks do not end the job."""
    env: dict[str, str | None] = {
        "LC_ALL": "C",
        "PYTHONUTF8": "0",
        "PYTHONCOERCECLOCALE": "0",
        "PYTHONIOENCODING": "ascii",
    }
    events = [(f"Zoë{u}", f"ñ{i}☃", x, t) for u, i, x, t in events_of(5)]
    with folder() as place:
        table(place / "events.csv", HEADER, events)
        words = [*map(str, FIT), "--iterations", "2", "--hold-out", "test.csv", "-o", "m.safetensors"]
        said = interpreter("-m", "lfm_np", *words, cwd=place, env=env)
        head, *rows = rows_of_csv((place / "test.csv").read_text(encoding="utf-8"))
    held = {(row[head.index("user")], row[head.index("item")]) for row in rows}
    return wrong(fine=done(said), held=bool(held) and held <= {event[:2] for event in events})


def _names() -> list[str]:
    """Dashes in front, blanks, quotes and letters that are not ASCII."""
    X, users, items = _grid(6)
    with folder() as place:
        table(place / "-events 1.csv", HEADER, events_of(6))
        model = "-mödel '1'"
        fit = typed(place, "fit", *FIT[2:], "--iterations", 3, "-o", f"./{model}.safetensors", "--", "-events 1.csv")
        said = typed(place, "recommend", "-n", 2, "-o", "./- liste ü.csv", "--", f"{model}.safetensors")
        plain = plain_of(place / f"{model}.safetensors")
        found = rows_of_csv((place / "- liste ü.csv").read_text(encoding="utf-8"))[1:]
        names = {path.name for path in place.iterdir()}
    mine = [
        (user, items[i]) for u, user in enumerate(users) for i in best(plain.scores[u], np.isnan(X[u]), 2) if i >= 0
    ]
    return wrong(
        fine=done(fit) and done(said), least=solved(plain, X), lists=[(row[0], row[1]) for row in found] == mine,
        left=names == {"-events 1.csv", f"{model}.safetensors", f"{model}.interactions.npz", "- liste ü.csv"},
    )  # fmt: skip


def _quota() -> list[str]:
    """A full quota: the model of yesterday and its interactions stay as they are, a line says why."""
    with folder() as place:
        _fitted(place, 7)
        before = {path.name: path.read_bytes() for path in place.iterdir()}
        with largest_file(1000):
            said = typed(place, *FIT, "--iterations", 4, "-o", "m.safetensors")
        now = {path.name: path.read_bytes() for path in place.iterdir()}
    return wrong(failed=failed(said), kept=now == before)


def _diverged() -> list[str]:
    with folder() as place:
        _fitted(place, 8)
        before = {path.name: path.read_bytes() for path in place.iterdir()}
        said = typed(place, *FIT, "--method", "sgd", "--loss", "Squared", "--learning-rate", 1e6, "-o", "m.safetensors")
        now = {path.name: path.read_bytes() for path in place.iterdir()}
    return wrong(failed=failed(said, 3), kept=now == before)


def _lost_interactions() -> list[str]:
    """A model that came without its interactions says so, and takes the data again."""
    with folder() as place:
        _fitted(place, 9)
        beside = typed(place, "recommend", "m.safetensors", "-n", 3)
        (place / "m.interactions.npz").unlink()
        without = typed(place, "recommend", "m.safetensors", "-n", 3)
        given = typed(place, "recommend", "m.safetensors", "-n", 3, "--data", "events.csv")
    return wrong(without=failed(without, 2), given=done(given) and given.out == beside.out and len(given.out) > 100)


def _moved_folder() -> list[str]:
    """Model and interactions are found beside one another, wherever both were moved, and from any folder."""
    with folder() as place:
        (place / "a").mkdir()
        _fitted(place / "a", 10)
        beside = typed(place / "a", "recommend", "m.safetensors", "-n", 2)
        (place / "a").rename(place / "b c")
        (place / "link").symlink_to("b c", target_is_directory=True)
        said = [
            typed(place, "recommend", path, "-n", 2)
            for path in ("b c/m.safetensors", "link/m.safetensors", place / "link" / ".." / "b c" / "m.safetensors")
        ]
    return wrong(same=all(done(one) and one.out == beside.out for one in said), lines=len(beside.out.splitlines()) > 14)


def _numbers_and_text() -> list[str]:
    """What looks like a number is one, unless it is said to be text; later commands know."""
    with folder() as place:
        records = [("007", "1"), ("7", "2"), ("0x1F", "1"), ("31", "2")]
        (place / "x.csv").write_text("user,item\n" + "".join(f"{u},{i}\n" for u, i in records))
        (place / "x.tsv").write_text("user\titem\n" + "".join(f"{u}\t{i}\n" for u, i in records))
        counted = dict(rows_of_csv(typed(place, "info", "x.csv").out))
        fit = typed(place, "fit", "x.tsv", "--text", "user", *SMALL, "-o", "m.safetensors")
        shape = plain_of(place / "m.safetensors").U.shape
        lists = rows_of_csv(typed(place, "recommend", "m.safetensors", "--user", "007", "--user", "7", "-n", 1).out)
    return wrong(
        numbers=(counted.get("users"), counted.get("items"), counted.get("interactions")) == ("2", "2", "4"),
        text=done(fit) and shape == (4, 3),
        lists=[row[:2] for row in lists[1:]] == [["007", "2"], ["7", "1"]],
    )


def _films() -> list[str]:
    """A local MovieLens: stars of 4 and more count, each as 1."""
    X = np.where(np.isnan(_grid(11)[0]), np.nan, 5.0)
    u, i = np.nonzero(~np.isnan(X))
    stars = np.where(np.arange(len(u)) % 5, 5.0, 3.0)
    X[u[stars == 3], i[stars == 3]] = np.nan
    assert all((~np.isnan(X)).any(side).all() for side in (0, 1))
    X[~np.isnan(X)] = 1.0
    with folder() as place:
        columns: dict[str, Any] = {
            "user": u,
            "item": i,
            "value": stars.astype(np.float32),
            "timestamp": np.arange(len(u)),
        }
        np.savez(place / "ml-100k.npz", movie_id=100 + 10 * i, **columns)
        with variable("LFM_NP_DATA", str(place)):
            fit = typed(place, "fit", "movielens:100k", "--threshold", 4, *SMALL, "-o", "m.safetensors")
            lists = rows_of_csv(typed(place, "recommend", "m.safetensors", "--user", 3, "-n", 3).out)
        plain = plain_of(place / "m.safetensors")
    mine = [100 + 10 * item for item in best(plain.scores[2], np.isnan(X[2]), 3) if item >= 0]
    return wrong(fine=done(fit), least=solved(plain, X, MODEL), lists=[int(row[1]) for row in lists[1:]] == mine)


def _page() -> list[str]:
    """Labels and titles are text, whatever they hold."""
    with folder() as place:
        _fitted(place, 12)
        table(place / "test.csv", HEADER, [("u00", f"i{i}", 5, 1) for i in range(9)])
        table(place / "labels.csv", "item label", [(f"i{i}", f"<i>{i}</i> & Zoë") for i in range(9)])
        words = ("--test", "test.csv", "--labels", "labels.csv", "--title", "<script>alert(1)</script> \"A\" & 'B'")
        said = typed(place, "report", "m.safetensors", *words, "-o", "page.html")
        page = (place / "page.html").read_text(encoding="utf-8")
    return wrong(
        fine=done(said),
        script="<script" not in page.lower(),
        labels="<i>0" not in page and "<i>1" not in page and "&lt;i&gt;" in page and "Zoë" in page,
        title="&lt;script&gt;alert(1)&lt;/script&gt;" in page,
    )


def _streams_apart() -> list[str]:
    """With a bar, and into a pipe, standard output is a table and nothing else."""
    with folder() as place:
        table(place / "events.csv", HEADER, events_of(13))
        words = ("--iterations", 3, "--progress", "--hold-out", "test.csv", "-o", "m.safetensors")
        said = typed(place, *FIT, *words)
        info = typed(place, "info", "m.safetensors")
    rows, told = rows_of_csv(said.out), dict(rows_of_csv(info.out))
    return wrong(
        fine=done(said),
        head=rows[0] == ["metric", "model", "model_se", "popular", "popular_se", "users"],
        width={len(row) for row in rows} == {6},
        remarks="m.safetensors" in said.err,
        info=(told["users"], told["items"], told["factors"]) == ("14", "9", "3"),
    )


def _three_forms() -> list[str]:
    """The lists as CSV, JSON and Parquet: the same ids, ranks and, to the last bit of float32, scores."""
    import pyarrow.parquet as pq

    X, users, items = _grid(15)
    with folder() as place:
        _fitted(place, 15)
        plain = plain_of(place / "m.safetensors")
        ask = ("recommend", "m.safetensors", "-n", 3, "-o")
        said = [typed(place, *ask, f"x.{form}") for form in ("csv", "json", "parquet")]
        told = json.loads((place / "x.json").read_text(encoding="utf-8"))
        table_of = pq.read_table(place / "x.parquet").to_pylist()
        head, *rows = rows_of_csv((place / "x.csv").read_text())
    if isinstance(told, dict):
        told = [dict(zip(told, values, strict=True)) for values in zip(*told.values(), strict=True)]
    names = ("user", "item", "rank")
    lists = [[tuple(record[name] for name in names) for record in records] for records in (told, table_of)]
    lists.append([(row[head.index("user")], row[head.index("item")], int(row[head.index("rank")])) for row in rows])
    mine = []
    for u, user in enumerate(users):
        mine += [(user, items[i], rank) for rank, i in enumerate(best(plain.scores[u], np.isnan(X[u]), 3), 1) if i >= 0]
    scores = np.array([record["score"] for record in table_of], np.float32)
    return wrong(
        fine=all(map(done, said)),
        lists=all(found == mine for found in lists),
        json=np.array_equal(np.array([record["score"] for record in told]).astype(np.float32), scores),
        csv=np.array_equal(np.array([float(row[head.index("score")]) for row in rows]).astype(np.float32), scores),
        scores=close(scores, [plain.scores[users.index(u), items.index(i)] for u, i, _ in mine], 1e-6),
    )


def _seeds() -> list[str]:
    """The same file for the same seed, whatever the threads; another one for another."""
    found = {}
    with folder() as place:
        table(place / "events.csv", HEADER, events_of(14))
        for name, words in {"a": (0, 1), "b": (0, 3), "c": (1, 2)}.items():
            seed, threads = words
            typed(place, *FIT, "--iterations", 2, "--seed", seed, "--threads", threads, "-o", f"{name}.safetensors")
            found[name] = lfm_np.Factors.load(place / f"{name}.safetensors")
    return wrong(same=same(found["a"], found["b"]), other=not same(found["a"], found["c"]))


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    yield _holds("Ctrl-C ends a command, and it goes on", _interrupted)
    yield _holds("SIGKILL ends a command, and it goes on", lambda: _killed(signal.SIGKILL))
    yield _holds("SIGTERM ends a command, and it goes on", lambda: _killed(signal.SIGTERM))
    yield _holds("nobody reads", _nobody_reads)
    yield _holds("standard output is full", _full_stream)
    yield _holds("standard error is closed", _no_standard_error)
    yield _holds("a locale of ASCII", _plain_ascii)
    yield _holds("names with dashes, blanks and quotes", _names)
    yield _holds("a quota that a command exceeds", _quota)
    yield _holds("a fit that diverges leaves yesterday's model", _diverged)
    yield _holds("a model without its interactions", _lost_interactions)
    yield _holds("a model and its interactions that moved", _moved_folder)
    yield _holds("numbers and text", _numbers_and_text)
    yield _holds("films by the command line", _films)
    yield _holds("a page whose labels are markup", _page)
    yield _holds("standard output is a table", _streams_apart)
    yield _holds("lists in three forms", _three_forms)
    yield _holds("seeds and threads of commands", _seeds)
