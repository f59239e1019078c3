"""The fourth sitting: how fits end and what they leave, copies, links and long names, and lists of everybody."""

from __future__ import annotations

import copy
import os
import pickle
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import lfm_np
from lfm_np import Checkpoint, Factors, Interactions, Status, StoredMatrix

from .case import Case, Group, installed
from .cases_fourth_sitting_data_in_cells import told
from .cases_fourth_sitting_data_in_commands import SMALL, asked_of, drawn, events_file, known_of
from .places import inside, model, same, together
from .working_days import Model, all_scores, close, csr, faultless, raised, stars, start, wrong

_GROUP = Group("fourth sitting, data")
_holds = faultless(_GROUP)
_X = stars(20, 12, seed=91)
_START = start(20, 12, 3, seed=92)
_RULE = Model(alpha=0.5, a0=0.5, lam=0.25, nu=0.5)


def _fit(**words: Any) -> Factors:
    given = {"factors": 3, "dtype": "float64", "init": _START, "random_state": 0, **_RULE.words, **words}
    return lfm_np.als(csr(_X), **given)


def _after(sweeps: int) -> np.ndarray:
    users, items = _RULE.sweeps(_X, _START[1], sweeps)
    return users @ items.T


def _what_a_state_holds(place: Path) -> list[str]:
    """By how the fit ended in its third sweep, and how often it was to be saved."""

    def end(how: str, path: Path, every: float) -> str:
        seen: list[Any] = []

        def watch(record: dict[str, Any], factors: Any) -> None:
            seen.append(record)
            if len(seen) < 3 or how == "goes on":
                return
            if how == "stops":
                raise StopIteration
            if how == "fails":
                raise KeyError("mine")
            signal.raise_signal(signal.SIGINT)

        words = {
            "callback": watch,
            "checkpoint": Checkpoint(path, every),
            "raise_on_interrupt": how == "pressed, raises",
        }
        if how in ("fails", "pressed, raises"):
            return type(raised(lambda: _fit(iterations=8, **words))).__name__
        return str(_fit(iterations=3 if how == "goes on" else 8, **words).status)

    ends = {
        "goes on": Status.MAX_ITERATIONS,
        "stops": Status.STOPPED,
        "fails": "KeyError",
        "pressed": Status.INTERRUPTED,
        "pressed, raises": "KeyboardInterrupt",
    }
    whole = _fit(iterations=8)
    bad = wrong(whole=close(all_scores(whole), _after(8), 1e-9))
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        for how, status in ends.items():
            for every in (0.0, 1000.0):
                path = place / f"{how}, {every}"
                if end(how, path, every) != str(status):
                    bad.append(f"{how}, {every}: status")
                # what was saved last, where another exception leaves; else the third sweep
                allowed = {3} if how != "fails" else {2} if every == 0 else {0, 1}
                asked: list[Any] = []
                again = _fit(iterations=8, checkpoint=path, callback=lambda r, f, asked=asked: asked.append(r))
                if 8 - len(asked) not in allowed or not same(again, whole):
                    bad.append(f"{how}, {every}: {8 - len(asked)} sweeps")
    finally:
        signal.signal(signal.SIGINT, handler)
    return bad


def _three_handlers() -> list[str]:
    """Python's own handler ends the fit, one of the program's own is called, and what is ignored is ignored."""
    counted: list[int] = []

    def count(number: int, frame: Any) -> None:
        counted.append(number)

    def descend(**words: Any) -> Factors:
        words["epochs"] = words.pop("iterations")
        return lfm_np.sgd(csr(_X), lfm_np.losses.BPR(), factors=3, random_state=0, **words)

    bad = []
    before = signal.getsignal(signal.SIGINT)
    try:
        for name, fit in (("als", _fit), ("sgd", descend)):
            for handler in (signal.default_int_handler, signal.SIG_IGN, count):
                signal.signal(signal.SIGINT, handler)
                counted.clear()
                seen: list[Any] = []

                def press(record: dict[str, Any], factors: Any, seen: list[Any] = seen) -> None:
                    seen.append(record)
                    if len(seen) == 2:
                        signal.raise_signal(signal.SIGINT)

                found = fit(iterations=5, callback=press)
                ended = handler is signal.default_int_handler
                facts = {
                    "status": found.status == (Status.INTERRUPTED if ended else Status.MAX_ITERATIONS),
                    "sweeps": len(found.history) == len(seen) == (2 if ended else 5),
                    "counted": counted == ([signal.SIGINT] if handler is count else []),
                    "handler": signal.getsignal(signal.SIGINT) is handler,
                    "scores": name == "sgd" or close(all_scores(found), _after(len(seen)), 1e-9),
                }
                bad += [f"{name}, {handler}: {fact}" for fact in wrong(**facts)]
    finally:
        signal.signal(signal.SIGINT, before)
    return bad


def _stops_of_six_threads() -> list[str]:
    """Each thread's fit ends where its own callback says so."""

    def work(number: int) -> Factors:
        def stop(record: dict[str, Any], factors: Any) -> None:
            record["mine"] = number
            if record["iteration"] == number + 1:
                raise StopIteration

        return _fit(iterations=9, callback=stop, num_threads=1 + number % 3)

    found = together(6, work)
    bad = []
    for number, fit in enumerate(found):
        good = isinstance(fit, Factors) and fit.status == Status.STOPPED
        notes = good and [record["mine"] for record in fit.history] == [number] * (number + 1)
        if not (notes and close(all_scores(fit), _after(number + 1), 1e-9)):
            bad.append(f"thread {number}: {fit!r:.80}")
    return bad


def _six_protocols() -> list[str]:
    """Data and results through every protocol of pickle, also with their buffers apart, and deep copies."""
    users, items = ["ann", "bob", "ann", "eve", "bob"], [3, -1, 2**40, 3, 3]
    values, times = [1.5, -2.0, np.nan, 0.0, 4.0], np.array([5, 4, 3, 2, 1], "M8[h]")
    data = Interactions.from_arrays(users, items, values, times)
    U, V, b = np.arange(6.0).reshape(2, 3) - 2, np.arange(12.0).reshape(4, 3) / 8, np.array([0.5, -0.25])
    result = Factors(
        U, V, user_bias=b, global_bias=3.0, history=[{"iteration": 1, "x": np.inf}], params={"a": [1, None]}
    )
    cells = {pair: (value, int(time.astype(int))) for pair, value, time in zip(zip(users, items), values, times)}

    def of_data(found: Interactions) -> dict[Any, Any]:
        assert found.timestamps is not None
        rows = np.repeat(np.arange(3), np.diff(found.matrix.indptr))
        hours = found.timestamps.astype("M8[h]").astype(np.int64).tolist()
        pairs = zip(found.user_ids(rows).tolist(), found.item_ids(found.matrix.indices).tolist(), strict=True)
        return dict(zip(pairs, zip(found.matrix.data.tolist(), hours, strict=True), strict=True))

    ways = {str(number): lambda x, number=number: pickle.loads(pickle.dumps(x, number)) for number in range(6)}
    ways["deep copy"] = copy.deepcopy

    def apart(x: Any) -> Any:
        buffers: list[Any] = []
        text = pickle.dumps(x, 5, buffer_callback=buffers.append)
        return pickle.loads(text, buffers=buffers)

    ways["apart"] = apart
    bad = []
    for name, way in ways.items():
        d, f = way(data), way(result)
        arrays = [d.matrix.data, d.matrix.indices, d.matrix.indptr]
        arrays += [f.user_factors, f.item_factors, f.user_bias]
        facts = {
            "cells": repr(sorted(of_data(d).items())) == repr(sorted(cells.items())),
            "factors": np.array_equal(f.user_factors, U) and np.array_equal(f.item_factors, V),
            "biases": np.array_equal(f.user_bias, b) and f.item_bias is None and f.global_bias == 3.0,
            "rest": f.history[0]["x"] == np.inf
            and list(f.params["a"]) == [1, None]
            and f.status == Status.MAX_ITERATIONS,
            "read-only": not any(array.flags.writeable for array in arrays),
            "scores": f.scores([1, 0], [2, 3]).tolist() == [U[1] @ V[2] + 3.0 - 0.25, U[0] @ V[3] + 3.0 + 0.5],
            "ids": d.rows_of(["eve"]).tolist() == [2] and d.columns_of([2**40]).tolist() == [2],
        }
        bad += [f"{name}: {fact}" for fact in wrong(**facts)]
    return bad


def _yesterdays_names(place: Path) -> list[str]:
    """What is written in one step leaves another name of the old file, a hard link, what it was."""
    old, new = model(seed=1), model(seed=2)
    old.save(place / "model")
    os.link(place / "model", place / "model of yesterday")
    mapped = Factors.load(place / "model", mmap=True)
    new.save(place / "model")
    _fit(iterations=1, checkpoint=place / "state")
    os.link(place / "state", place / "state of yesterday")
    last = _fit(iterations=4, checkpoint=place / "state")
    asked: list[Any] = []
    first = _fit(iterations=1, checkpoint=place / "state of yesterday", callback=lambda r, f: asked.append(r))
    bad = wrong(
        old=same(Factors.load(place / "model of yesterday"), old) and same(mapped, old),
        new=same(Factors.load(place / "model"), new),
        first=close(all_scores(first), _after(1), 1e-9) and not asked,
        last=close(all_scores(last), _after(4), 1e-9),
    )
    if not installed("pyarrow", "narwhals"):
        return bad
    import pyarrow.parquet

    data = Interactions.from_arrays(np.arange(7), np.arange(7) % 5)
    path = place / "lists"
    read = []
    for factors in (old, new):
        lfm_np.recommend_parquet(factors, data, path, N=2)
        if factors is old:
            os.link(path, place / "lists of yesterday")
    for name in ("lists of yesterday", "lists"):
        read.append(pyarrow.parquet.read_table(place / name)["item"].to_pylist())
    mine = [[int(i) for s in all_scores(x) for i in np.argsort(-s, kind="stable")[:2]] for x in (old, new)]
    return bad + wrong(lists=read == mine, apart=mine[0] != mine[1])


def _longest_names(place: Path) -> list[str]:
    """A name of 255 bytes is one that the system takes, and so a path that is used as given."""
    name, other, third = "é" * 127 + "m", "s" * 255, "\N{CAT FACE}" * 63 + "pq "
    assert [len(os.fsencode(text)) for text in (name, other, third)] == [255] * 3
    result = model(seed=3)
    for _ in range(2):  # the second time it is there
        result.save(place / name)
        fit = _fit(iterations=2, checkpoint=Checkpoint(place / other, every=0))
    names = [name, other]
    if installed("pyarrow", "narwhals"):
        data = Interactions.from_arrays(np.arange(7), np.arange(7) % 5)
        lfm_np.recommend_parquet(result, data, place / third, N=1)
        names.append(third)
    folder = "f" * 247  # NAME.partial is there before
    stored = StoredMatrix.from_matrix(csr(_X), place / folder, dtype=np.float64)
    again = lfm_np.als(stored, factors=3, dtype="float64", init=_START, random_state=0, iterations=2, **_RULE.words)
    return wrong(
        saved=same(Factors.load(place / name), result),
        fit=close(all_scores(fit), _after(2), 1e-9) and same(fit, again),
        nothing_else=sorted(os.listdir(place)) == sorted([*names, folder]),
    )


def _two_folders_in_turn(place: Path) -> list[str]:
    """LFM_NP_DATA is what it is when one asks."""
    before = os.environ.get("LFM_NP_DATA")
    mine, found = [], []
    try:
        for turn, name in enumerate(("a", "b", "a")):
            folder = place / name
            folder.mkdir(exist_ok=True)
            users, items = np.array([1, 0, 1]) + turn, np.array([0, 0, 2 + turn])
            values, times = np.array([1.0, 2.0, 4.5]) / (1 + turn), np.array([7, 8, 9]) * 10**turn
            np.savez(folder / "ml-100k.npz", user=users, item=items, value=values, timestamp=times)
            os.environ["LFM_NP_DATA"] = str(folder)
            found.append(told(lfm_np.datasets.movielens("100k")))
            pairs = zip((users + 1).tolist(), (items + 1).tolist(), strict=True)
            cells = zip(values.astype(np.float32).tolist(), times.astype(float).tolist(), strict=True)
            mine.append(dict(zip(pairs, cells, strict=True)))
    finally:
        os.environ.pop("LFM_NP_DATA", None)
        if before is not None:
            os.environ["LFM_NP_DATA"] = before
    return wrong(found=found == mine, apart=mine[0] != mine[1] != mine[2] != mine[0])


def _best_but_for_rounding(scores: np.ndarray, allowed: np.ndarray, chosen: list[int]) -> bool:
    """Allowed ones in falling order, and no other is better."""
    others = allowed.copy()
    others[chosen] = False
    falling = (np.diff(scores[chosen]) <= 1e-6).all() and (scores[others] <= scores[chosen[-1]] + 1e-6).all()
    return bool(allowed[chosen].all() and falling and len(set(chosen)) == len(chosen))


def _everybody_bit_by_bit(place: Path) -> list[str]:
    """The scores of the Parquet file are those of `scores`, to the bit, and near those of loops."""
    import pyarrow.parquet

    events = drawn(84, m=70, n=40, share=0.3)
    events_file(place / "events.csv", events)
    asked_of(place, "fit", "events.csv", *SMALL, "-o", "m.safetensors")
    asked_of(place, "recommend", "m.safetensors", "-n", "7", "-o", "all.parquet")
    table = pyarrow.parquet.read_table(place / "all.parquet").to_pydict()
    users, items, scores, ranks = table.values()
    model = Factors.load(place / "m.safetensors")
    rows, columns = [int(user[1:]) for user in users], [item - 100 for item in items]
    exact = model.scores(rows, columns)
    S, known = all_scores(model), known_of(events, 70, 40)
    return wrong(
        names=list(table) == ["user", "item", "score", "rank"],
        bits=np.array_equal(np.array(scores, np.float32), exact) and exact.dtype == np.float32,
        near=close(scores, S[rows, columns], 1e-5),
        lists=all(_best_but_for_rounding(S[u], ~known[u], columns[7 * u : 7 * u + 7]) for u in range(70)),
        users=rows == [u for u in range(70) for _ in range(7)],
        ranks=ranks == [*range(1, 8)] * 70,
    )


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    yield _holds("what a state holds, by how the fit ended", inside(_what_a_state_holds))
    yield _holds("SIGINT by three handlers", _three_handlers)
    yield _holds("six threads that stop at sweeps of their own", _stops_of_six_threads)
    yield _holds("data and results by six protocols", _six_protocols)
    yield _holds("other names of what was there yesterday", inside(_yesterdays_names))
    yield _holds("names of 255 bytes", inside(_longest_names))
    yield _holds("two folders of ratings in turn", inside(_two_folders_in_turn))
    if installed("pyarrow", "narwhals", "typer"):
        yield _holds("recommend: everybody in Parquet, bit by bit", inside(_everybody_bit_by_bit))
