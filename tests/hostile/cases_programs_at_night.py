"""Nightly jobs: days appended, fits gone on with, lists published, by Python, the command line, dask and from disk."""

from __future__ import annotations

import contextlib
import csv as csv_files
import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

import lfm_np

from .case import Case
from .programs import BAD, RULE, Programs, clicked, plain, served, swept
from .working_days import (
    NAN,
    Model,
    all_scores,
    best,
    close,
    csr,
    folder,
    judged,
    raised,
    same,
    stars,
    start,
    tells,
    typed,
    wrong,
)

program = Programs("program pipeline")
X = stars()
WORDS: dict[str, Any] = {"factors": 3, "iterations": 2, "dtype": "float64", **RULE.words}


def _written(place: Path, Z: np.ndarray, first: str = "user,item,plays") -> Path:
    """A CSV file of users u00 … and of items 100 …"""
    lines = [f"u{u:02},{100 + i},{Z[u, i]:g}" for u, i in np.argwhere(~np.isnan(Z))]
    place.write_text("\n".join([first, *lines, ""]))
    return place


def _rows(text: str) -> list[dict[str, str]]:
    return list(csv_files.DictReader(io.StringIO(text)))


@program("three nights from a warm start, with new users every day, beside sweeps by hand")
def _warm_nights() -> list[str]:
    days = [stars(m, 20, seed=s) for m, s in ((20, 1), (24, 2), (30, 3))]
    U, V = start(20, 20, 3)
    mine, fit, found = V, None, []
    for n, Z in enumerate(days):
        first = (
            (U, V)
            if fit is None
            else (np.vstack([fit.user_factors, np.zeros((len(Z) - len(fit.user_factors), 3))]), fit.item_factors)
        )
        fit = lfm_np.als(csr(Z), init=first, **WORDS)
        A, mine = RULE.sweeps(Z, mine, 2)
        found += wrong(**{f"night {n}": close(all_scores(fit), A @ mine.T, 1e-7)})
    short = raised(lambda: lfm_np.als(csr(days[2]), init=lfm_np.Factors(U, V), **WORDS))
    return found + wrong(short=isinstance(short, ValueError) and tells(short, "init"))


@program("a night that dies, a morning with other data, and the checkpoint between them")
def _night_that_dies() -> list[str]:
    def die(record: dict[str, Any], factors: Any) -> None:
        if record["iteration"] == 3:
            raise MemoryError("somebody else's")

    words: dict[str, Any] = {**WORDS, "iterations": 6, "random_state": 0}
    other = X.copy()
    other[4, 4] = 1.0 if np.isnan(X[4, 4]) else X[4, 4] + 1
    with folder() as place:
        died = raised(lambda: lfm_np.als(csr(X), callback=die, checkpoint=place / "c", **words))
        raw = (place / "c").read_bytes()
        refused = raised(lambda: lfm_np.als(csr(other), checkpoint=place / "c", **words))
        left = (place / "c").read_bytes() == raw
        shutil.copy(place / "c", place / "yesterday")
        on = lfm_np.als(csr(X), checkpoint=place / "yesterday", **words)
        (place / "c").unlink()
        today = lfm_np.als(csr(other), checkpoint=place / "c", **words)
        return wrong(
            died=isinstance(died, MemoryError) and str(died) == "somebody else's",
            refused=isinstance(refused, ValueError) and tells(refused, "x|matrix"),
            left=left,
            on=same(on, lfm_np.als(csr(X), **words)),
            today=same(today, lfm_np.als(csr(other), **words)) and plain(today, other),
        )


@program("a checkpoint that is cut short, of another solver, or a folder; then none")
def _checkpoints_that_cannot_be() -> list[str]:
    words: dict[str, Any] = {"factors": 3, "random_state": 0}
    with folder() as place:
        lfm_np.als(csr(X), iterations=3, checkpoint=place / "good", **words)
        raw = (place / "good").read_bytes()
        (place / "cut").write_bytes(raw[:-9])
        (place / "flip").write_bytes(raw[:-40] + bytes([raw[-40] ^ 4]) + raw[-39:])
        served().save(place / "model")
        lfm_np.sgd(csr(X), epochs=2, checkpoint=place / "sgd", **words)
        (place / "folder").mkdir()
        names = ("cut", "flip", "model", "sgd", "folder")
        before = {n: (place / n).read_bytes() for n in names[:4]}
        errors = {n: raised(lambda n=n: lfm_np.als(csr(X), checkpoint=place / n, **words)) for n in names}
        left = {n: (place / n).read_bytes() for n in names[:4]} == before and not list((place / "folder").iterdir())
        told = {
            n: isinstance(e, (ValueError, OSError)) and tells(e, n, "checkpoint|file|folder|directory")
            for n, e in errors.items()
        }
        on = lfm_np.als(csr(X), iterations=5, checkpoint=place / "good", **words)
    return wrong(**told, left=left, on=same(on, lfm_np.als(csr(X), iterations=5, **words)))


@program("the week on the command line: fit, judge, recommend, beside numbers by hand", "typer", "pyarrow")
def _week_of_commands() -> list[str]:
    with folder() as place:
        _written(place / "plays.csv", X)
        test = stars(seed=6, share=0.1)
        _written(place / "test.csv", np.where(np.isnan(X), test, NAN))
        fit = typed(
            place,
            "fit",
            "plays.csv",
            "--value",
            "plays",
            "--factors",
            3,
            "--alpha",
            3,
            "--regularization",
            0.4,
            "-o",
            "m.safetensors",
        )
        name = "m.safetensors"
        model = lfm_np.Factors.load(place / name)
        judge = typed(place, "evaluate", name, "test.csv", "--metric", "recall@5", "--metric", "mrr")
        lists = typed(place, "recommend", name, "-n", 4)
        S = all_scores(model)
        mine = judged(S, ~np.isnan(X), ~np.isnan(test), 5)
        popular = judged(np.tile((~np.isnan(X)).sum(axis=0), (30, 1)).astype(float), ~np.isnan(X), ~np.isnan(test), 5)
        judgement = {r["metric"]: r for r in _rows(judge.out)}
        wanted = [
            [f"u{u:02}", str(100 + i), str(n)]
            for u in range(30)
            for n, i in enumerate(best(S[u], np.isnan(X[u]), 4), 1)
        ]
        own = lfm_np.als(csr(X, np.float32), factors=3, alpha=3, regularization=0.4, random_state=0)
        return wrong(
            status=(fit.status, judge.status, lists.status) == (0, 0, 0),
            model=same(model, own),
            recall=abs(float(judgement["recall@5"]["model"]) - mine["recall@5"]) < 1e-6,
            popular=abs(float(judgement["mrr"]["popular"]) - popular["mrr"]) < 1e-6,
            error=abs(float(judgement["mrr"]["model_se"]) - mine["mrr_se"]) < 1e-6,
            lists=[[r["user"], r["item"], r["rank"]] for r in _rows(lists.out)] == wanted,
        )


@program("commands with mistakes between commands without", "typer", "pyarrow")
def _commands_with_mistakes() -> list[str]:
    with folder() as place:
        _written(place / "plays.csv", X)
        first = typed(place, "fit", "plays.csv", "--value", "plays", "--factors", 2, "-o", "m.safetensors")
        raw = {p.name: p.read_bytes() for p in place.iterdir()}
        mistakes: dict[str, tuple[tuple[Any, ...], str]] = {
            "no file": (("fit", "none.csv", "-o", "m.safetensors"), "none.csv"),
            "no column": (("fit", "plays.csv", "--value", "price", "-o", "m.safetensors"), "price"),
            "no user": (("recommend", "m.safetensors", "--user", "u77"), "u77"),
            "alpha": (("fit", "plays.csv", "--alpha", -1, "-o", "m.safetensors"), "alpha"),
            "weighting": (("fit", "plays.csv", "--weighting", "als", "-o", "m.safetensors"), "weighting"),
            "metric": (("evaluate", "m.safetensors", "plays.csv", "--metric", "rmse"), "metric|rmse"),
            "no model": (("recommend", "plays.csv"), "plays.csv"),
            "over itself": (("fit", "plays.csv", "--hold-out", "plays.csv", "-o", "m.safetensors"), "plays.csv"),
            "of sgd": (("fit", "plays.csv", "--method", "als", "--loss", "BPR", "-o", "m.safetensors"), "loss"),
            "ending": (("recommend", "m.safetensors", "-o", "lists.xlsx"), "xlsx|output|ending"),
            "threshold": (("evaluate", "m.safetensors", "plays.csv", "--at-least", "recall@10"), "at-least"),
        }
        said = {n: typed(place, *words) for n, (words, _) in mistakes.items()}
        told = {n: s.status == 2 and s.out == "" and tells(ValueError(s.err), mistakes[n][1]) for n, s in said.items()}
        left = {p.name: p.read_bytes() for p in place.iterdir()} == raw
        last = typed(place, "recommend", "m.safetensors", "--user", "u05", "-n", 3)
        S = all_scores(lfm_np.Factors.load(place / "m.safetensors"))[5]
        return wrong(
            **told,
            first=first.status == 0,
            left=left,
            last=[r["item"] for r in _rows(last.out)] == [str(100 + i) for i in best(S, np.isnan(X[5]), 3)],
        )


@program("today's events by command: somebody new, somebody known, an item nobody knows", "typer", "pyarrow")
def _update_by_command() -> list[str]:
    with folder() as place:
        _written(place / "plays.csv", X)
        words = ("--value", "plays", "--factors", 3, "--alpha", 3, "--regularization", 0.4)
        typed(place, "fit", "plays.csv", *words, "-o", "m.safetensors")
        old = lfm_np.Factors.load(place / "m.safetensors")
        (place / "today.csv").write_text("user,item,plays\nzoe,103,2\nzoe,107,1\nu04,101,5\nzoe,999,1\nu04,101,1\n")
        done = typed(place, "update", "m.safetensors", "today.csv", "-o", "new.safetensors")
        new = lfm_np.Factors.load(place / "new.safetensors")
        lists = typed(place, "recommend", "new.safetensors", "--user", "zoe", "-n", 5, "-o", "l.json")
        told = json.loads((place / "l.json").read_text())
        V = new.item_factors.astype(float)
        fourth = np.nan_to_num(X[4])
        fourth[1] += 6.0
        has = np.flatnonzero(fourth)
        zoe = clicked(V, [3, 7], [2, 1])
        free = np.ones(20, bool)
        free[[3, 7]] = False
        others = [u for u in range(30) if u != 4]
        place_of_zoe = 30
        return wrong(
            status=(done.status, lists.status) == (0, 0),
            items=np.array_equal(new.item_factors, old.item_factors),
            others=np.array_equal(new.user_factors[others], old.user_factors[others]),
            known=close(new.user_factors[4], clicked(V, has, fourth[has]), 1e-4),
            zoe=close(new.user_factors[place_of_zoe], zoe, 1e-4),
            lists=[int(r["item"]) for r in told] == [100 + i for i in best(V @ zoe, free, 5)],
        )


@program(
    "a command that was ended after five sweeps goes on, from its checkpoint, and fails a check", "typer", "pyarrow"
)
def _command_goes_on() -> list[str]:
    with folder() as place:
        _written(place / "plays.csv", X)
        words = (
            "fit",
            "plays.csv",
            "--value",
            "plays",
            "--factors",
            3,
            "--seed",
            5,
            "--checkpoint",
            "c",
            "-o",
            "m.safetensors",
        )
        first = typed(place, *words, "--iterations", 5)
        other = typed(place, *words, "--iterations", 8, "--regularization", 3)
        again = typed(place, *words, "--iterations", 8)
        own = lfm_np.als(csr(X, np.float32), factors=3, iterations=8, random_state=5)
        check = typed(
            place, "evaluate", "m.safetensors", _written(place / "t.csv", stars(seed=2)), "--at-least", "auc=0.999"
        )
        return wrong(
            first=first.status == 0,
            other=other.status == 2 and tells(ValueError(other.err), "regularization"),
            again=again.status == 0 and same(lfm_np.Factors.load(place / "m.safetensors"), own),
            check=check.status == 1 and tells(ValueError(check.err + check.out), "auc"),
        )


@program("a matrix on disk beside the one in memory, damaged, and made again")
def _on_disk() -> list[str]:
    S = swept(X, start(30, 20, 3)[1], 2)
    words = {**WORDS, "init": start(30, 20, 3)}
    with folder() as place:
        stored = lfm_np.StoredMatrix.from_matrix(csr(X), place / "m", dtype="float64")
        first = close(all_scores(lfm_np.als(stored, **words)), S, 1e-8)
        again = raised(lambda: lfm_np.StoredMatrix.from_matrix(csr(X), place / "m"))
        del stored
        file = place / "m" / "columns.data.npy"
        raw = file.read_bytes()
        file.write_bytes(raw[:-3] + b"abc")
        damaged = raised(lambda: lfm_np.StoredMatrix(place / "m"))
        file.unlink()
        lacking = raised(lambda: lfm_np.StoredMatrix(place / "m"))
        shutil.rmtree(place / "m")
        lfm_np.StoredMatrix.from_matrix(csr(X).tocoo(), place / "m", dtype="float64")
        last = close(all_scores(lfm_np.als(lfm_np.StoredMatrix(place / "m"), **words)), S, 1e-8)
        return wrong(
            first=first,
            again=isinstance(again, (ValueError, OSError)) and tells(again, "folder|exist"),
            damaged=isinstance(damaged, ValueError) and tells(damaged, "columns"),
            lacking=isinstance(lacking, (ValueError, OSError)) and tells(lacking, "columns.data"),
            last=last and [p.name for p in place.iterdir()] == ["m"],
        )


@contextlib.contextmanager
def _cluster() -> Iterator[Any]:
    import dask
    import distributed

    with (
        dask.config.set({"distributed.worker.profile.enabled": False}),
        distributed.Client(
            processes=False, n_workers=1, threads_per_worker=2, dashboard_address=":0", set_as_default=False
        ) as client,
    ):
        yield client


@program("dask in this process, with an argument that cannot be in between", "distributed")
def _dask_beside_oracle() -> list[str]:
    words: dict[str, Any] = {"factors": 3, "iterations": 2, "dtype": "float64", "init": start(30, 20, 3), "shards": 3}
    found = []
    with _cluster() as client:
        for weighting in ("hu-koren", "ratings"):
            rule = Model(weighting, alpha=3.0, lam=0.4)
            fit = lfm_np.distributed.als(csr(X), client=client, **{**words, **rule.words})
            found += wrong(**{weighting: close(all_scores(fit), swept(X, start(30, 20, 3)[1], 2, rule), 1e-8)})
            odd = raised(lambda: lfm_np.distributed.als(csr(X), client=client, **{**words, "solver": "cg"}))
            bad = raised(lambda: lfm_np.distributed.als(-csr(X), client=client, **words))
            found += wrong(
                odd=isinstance(odd, BAD) and tells(odd, "solver"), bad=isinstance(bad, BAD) and tells(bad, "x|negative")
            )
        closed = client
    late = raised(lambda: lfm_np.distributed.als(csr(X), client=closed, **words))
    return found + wrong(late=tells(late, "client"))


@program("dask: a callback that raises at the second sweep, and the same call again", "distributed")
def _dask_that_dies() -> list[str]:
    def die(record: dict[str, Any], factors: Any) -> None:
        if record["iteration"] == 2:
            raise ZeroDivisionError

    words: dict[str, Any] = {"factors": 3, "iterations": 4, "random_state": 0, "shards": 2}
    with folder() as place, _cluster() as client:
        keep = {"client": client, "checkpoint": place / "c", "checkpoint_every": 1}
        died = raised(lambda: lfm_np.distributed.als(csr(X), callback=die, **keep, **words))
        on = lfm_np.distributed.als(csr(X), **keep, **words)
        whole = lfm_np.distributed.als(csr(X), client=client, **words)
    here = lfm_np.als(csr(X), factors=3, iterations=4, random_state=0)
    return wrong(
        died=isinstance(died, ZeroDivisionError), on=same(on, whole), here=close(all_scores(on), all_scores(here), 1e-3)
    )


@program("dask over Parquet: ids, users to a file, a file that changes in between", "distributed", "pyarrow")
def _dask_over_parquet() -> list[str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with folder() as place, _cluster() as client:
        (place / "d").mkdir()
        for n in range(3):
            r, c = np.nonzero(~np.isnan(X[10 * n : 10 * n + 10]))
            table = pa.table({"user": r + 10 * n, "item": [f"i{i:02}" for i in c], "value": X[r + 10 * n, c]})
            pq.write_table(table, place / "d" / f"{n}.parquet")
        data = lfm_np.distributed.from_parquet(place / "d", client=client, value="value", shards=3)
        words = {**WORDS, "init": start(30, 20, 3)}
        fit = lfm_np.distributed.als(data, client=client, users_to=place / "u.npy", **words)
        S = swept(X, start(30, 20, 3)[1], 2)
        good = close(np.load(place / "u.npy") @ fit.item_factors.T, S, 1e-8)
        items, users = list(data.items), list(data.users(client))
        pq.write_table(table.slice(1), place / "d" / "2.parquet")
        error = raised(lambda: lfm_np.distributed.als(data, client=client, **words))
        del fit
        return wrong(
            scores=good,
            items=items == [f"i{i:02}" for i in range(20)],
            users=users == list(range(30)),
            changed=isinstance(error, (ValueError, OSError)) and tells(error, "2.parquet"),
        )


@program("a job of a week: days are stored, dropped and read from one folder, and the last model judges the next day")
def _week() -> list[str]:
    found, history = [], np.full(X.shape, NAN)
    with folder() as place:
        for day in range(5):
            today = stars(seed=20 + day, share=0.05)
            if day:
                fit = lfm_np.Factors.load(place / "model")
                told = lfm_np.evaluate(fit, csr(history), csr(today), ["recall@5", "auc"])
                mine = judged(all_scores(fit), ~np.isnan(history), ~np.isnan(today), 5)
                found += wrong(
                    **{f"day {day}": all(close(told[k], mine[k], 1e-10) for k in ("recall@5", "auc", "users"))}
                )
            sp.save_npz(place / f"{day}.npz", csr(today))
            parts = [sp.load_npz(p) for p in sorted(place.glob("*.npz"))]
            total = sum(parts[1:], parts[0])
            history = np.where(total.toarray() > 0, total.toarray(), NAN)
            fit = lfm_np.als(total, init=start(30, 20, 3), **WORDS)
            found += wrong(**{f"fit {day}": close(all_scores(fit), swept(history, start(30, 20, 3)[1], 2), 1e-8)})
            fit.save(place / "model")
    return found


def cases() -> list[Case]:
    return program.found
