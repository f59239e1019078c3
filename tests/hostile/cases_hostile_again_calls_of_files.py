"""Mixed ids, numbers in files that no type holds, rings of links, names of curves, and vectors without squares."""

from __future__ import annotations

import html
import io
import json
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

import lfm_np
from lfm_np import ann, losses

from .case import Case, installed
from .cases_hostile_again_calls_of_solvers import GROUP, HOW, X, either, refuses, scores
from .places import inside, parts, sealed
from .working_days import best, close, csr, faultless, start, wrong

_holds = faultless(GROUP)


def _ids_of_two_kinds() -> list[str]:
    """1 is not "1": two rows if they are let in, and never one."""
    said, facts = "user|item|kind|mixed|sort", {}
    for name, ids in (
        ("number", [1, "1"]), ("bytes", [b"a", "a"]), ("truth", [True, "True"]), ("fraction", [1.5, "1.5"]),
        ("last", [*"abcdef", 7, "7"]),
    ):  # fmt: skip
        others, count = list(range(len(ids))), len(set(ids))
        for role in ("users", "items"):
            words = {"users": others, "items": others, role: ids}
            facts[f"{name} {role}"] = either(
                lambda w=words: lfm_np.Interactions.from_arrays(**w),
                lambda data, role=role, count=count: len(set(getattr(data, role).tolist())) == count,
                said,
            )
    return wrong(**facts)


def _cells_by_number() -> list[str]:
    data = lfm_np.Interactions.from_arrays([0, 1, 2], [0, 1, 2])
    facts = {}
    for name, cells in (
        ("numbers", np.array([0, 1, 1])), ("longer", np.ones(4, bool)), ("shorter", np.ones(2, bool)),
        ("floats", np.array([0.0, 1.0, 1.0])), ("table", np.ones((3, 3), bool)), ("texts", np.array(["", "a", "b"])),
        ("scalar", True), ("slice", slice(2)),
    ):  # fmt: skip
        facts[name] = refuses(lambda c=cells: data.select(c), "cells|bool|mask")
    kept = data.select(np.array([False, True, True]))
    return wrong(**facts, kept=kept.matrix.indices.tolist() == [1, 2] and data.matrix.nnz == 3)


def _numbers_that_no_type_holds(place: Path) -> list[str]:
    """JSON has integers and numbers of any length; the seal is right."""
    path, facts = place / "kept.bin", {}
    model = lfm_np.Factors(np.eye(2), np.eye(2), global_bias=1.5)
    model.save(path)
    header, body = parts(path)
    plain = json.loads(header["__metadata__"]["model"])

    def write(name: str, value: Any, text: str) -> None:
        changed = json.dumps({**plain, name: value}).replace('"@@"', text)
        header["__metadata__"]["model"] = changed
        path.write_bytes(sealed(header, body))

    write("global_bias", "@@", "2.5")
    facts["sound"] = lfm_np.Factors.load(path).global_bias == 2.5
    for name, text in (("integer", "1" + "0" * 400), ("number", "1e400"), ("digits", "9" * 5000), ("minus", "-1e400")):
        write("global_bias", "@@", text)
        facts[f"bias {name}"] = refuses(lambda: lfm_np.Factors.load(path), "kept.bin|global_bias")
    write("history", [{"iteration": "@@"}], "9" * 5000)
    facts["history"] = either(
        lambda: lfm_np.Factors.load(path), lambda found: np.array_equal(found.user_factors, np.eye(2)), "kept.bin"
    )
    write("params", {"seed": "@@"}, "9" * 5000)
    facts["params"] = either(
        lambda: lfm_np.Factors.load(path), lambda found: np.array_equal(found.user_factors, np.eye(2)), "kept.bin"
    )
    write("history", [{"note": "@@"}], '"\\ud800"')
    facts["half a letter"] = either(
        lambda: lfm_np.Factors.load(path), lambda found: found.history[0]["note"] == "\ud800", "kept.bin"
    )
    return wrong(**facts)


def _what_json_takes_for_another(place: Path) -> list[str]:
    ring: dict[str, Any] = {}
    ring["ring"] = ring
    chain: list[Any] = []
    chain.append(chain)
    facts = {}
    for name, params in (
        ("two keys that are one", {1: "a", "1": "b"}), ("ring", ring), ("chain", {"chain": chain}),
        ("nothing and its name", {"inner": {None: 1, "null": 2}}), ("a pair", {"inner": {(1, 2): 3}}),
        ("a set", {"inner": {1, 2}}), ("bytes", {"inner": b"x"}),
    ):  # fmt: skip
        facts[name] = refuses(
            lambda p=params: lfm_np.Factors(np.eye(2), np.eye(2), params=p).save(place / "m"),
            "params|json|key|circular|itself",
        )
        facts[f"{name}, history"] = refuses(
            lambda p=params: lfm_np.Factors(np.eye(2), np.eye(2), history=[p]).save(place / "m"),
            "history|json|key|circular|itself",
        )
    return wrong(**facts, nothing=os.listdir(place) == [])


def _ring_of_links(place: Path) -> list[str]:
    one, other = place / "ring", place / "gnir"
    one.symlink_to(other)
    other.symlink_to(one)
    model, data = lfm_np.Factors(np.eye(2), np.eye(2)), lfm_np.Interactions.from_arrays([0, 1], [0, 1])
    small = sp.csr_array(np.eye(4))
    calls: dict[str, Callable[[], Any]] = {
        "save": lambda: model.save(one),
        "load": lambda: lfm_np.Factors.load(one),
        "mapped": lambda: lfm_np.Factors.load(one, mmap=True),
        "als": lambda: lfm_np.als(small, factors=2, iterations=1, checkpoint=one),
        "sgd": lambda: lfm_np.sgd(small, factors=2, epochs=1, checkpoint=lfm_np.Checkpoint(one, 60)),
        "stored": lambda: lfm_np.StoredMatrix(one),
        "build": lambda: lfm_np.StoredMatrix.from_matrix(small, one),
        "below": lambda: model.save(one / "m"),
    }
    if installed("pyarrow", "narwhals"):
        calls["lists"] = lambda: lfm_np.recommend_parquet(model, data, one, N=1)
        calls["csv"] = lambda: lfm_np.Interactions.from_csv(one)
        calls["parquet"] = lambda: lfm_np.Interactions.from_parquet(one)
    facts = {name: refuses(call, "ring|link|loop") for name, call in calls.items()}
    there = sorted(os.listdir(place)) == ["gnir", "ring"] and os.readlink(one) == str(other)
    return wrong(**facts, there=there)


def _seconds_that_are_none(place: Path) -> list[str]:
    small, path, facts = sp.csr_array(np.eye(4)), place / "state", {}
    words: dict[str, Any] = {"factors": 2, "random_state": 0}
    for every in (math.nan, "60", None):
        state = lfm_np.Checkpoint(path, every)
        facts[f"als {every}"] = refuses(lambda s=state: lfm_np.als(small, checkpoint=s, **words), "every|checkpoint")
        facts[f"sgd {every}"] = refuses(lambda s=state: lfm_np.sgd(small, checkpoint=s, **words), "every|checkpoint")
    facts["nothing"] = os.listdir(place) == []
    facts["never but at the end"] = either(
        lambda: lfm_np.als(small, iterations=2, checkpoint=lfm_np.Checkpoint(path, math.inf), **words),
        lambda fit: len(fit.history) == 2 and path.stat().st_size > 0,
        "every|checkpoint",
    )
    return wrong(**facts)


def _vectors_without_squares() -> list[str]:
    """Norms whose squares float32 does not hold; the third coordinate is √8 of the smaller item."""
    facts = {}
    mine = np.array([[3.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, math.sqrt(8)]])
    for scale in (1.0, 1e25, 1e-30, 1e40):
        model = lfm_np.Factors(np.ones((1, 2)), np.array([[3.0, 0.0], [0.0, 1.0]]) * scale)
        facts[f"{scale}"] = either(
            lambda model=model: ann.item_vectors(model),
            lambda found, scale=scale: (
                np.isfinite(found).all() and abs(found.astype(np.float64) / scale - mine).max() < 1e-5
            ),
            "large|finite|float32|norm|overflow|range|item_factors|beyond",
        )
    return wrong(**facts)


def _stored_for_another(place: Path) -> list[str]:
    """A matrix on disk where one in memory is asked for, and one of few bits of memory where it may be."""
    U0, V0 = start(30, 20, 3, seed=4)
    memory = np.int32(64 << 20)
    stored = lfm_np.StoredMatrix.from_matrix(csr(X), place / "m", dtype=np.float64, memory=memory)
    words = {**HOW.words, "factors": 3, "init": (U0, V0), "dtype": "float64", "iterations": 2, "solver": "exact"}
    fit = lfm_np.als(lfm_np.StoredMatrix(place / "m", memory=memory), **words)
    U, V = HOW.sweeps(X, V0, 2)
    S = [fit.scores(u, np.arange(20)) for u in range(30)]
    mine = [best(s, np.isnan(x), 4) for s, x in zip(S, X, strict=True)]
    said = "stored|matri|sparse|memory|seen|train|test"
    facts = {
        "fit": close(scores(fit), U @ V.T, 1e-8),
        "seen": either(
            lambda: fit.recommend(np.arange(30), N=4, seen=stored), lambda found: found.ids.tolist() == mine, said
        ),
        "objective": either(
            lambda: lfm_np.objective(stored, fit),
            lambda J: close(J, HOW.objective(X, fit.user_factors, fit.item_factors), 1e-9),
            said,
        ),
        "sgd": refuses(lambda: lfm_np.sgd(stored, losses.BPR(), factors=2, epochs=1), said),
        "interactions": refuses(lambda: lfm_np.Interactions(stored, np.arange(30), np.arange(20)), said),
    }
    if installed("torch"):
        facts["torch als"] = refuses(lambda: lfm_np.torch_backend.als(stored, factors=2), said)
        facts["torch sgd"] = refuses(lambda: lfm_np.torch_backend.sgd(stored, factors=2), said)
    return wrong(**facts)


def _marks_between_fields(place: Path) -> list[str]:
    path = place / "events.csv"
    path.write_text("user,item\n1,2\n3,4\n")
    read, facts = lfm_np.Interactions.from_csv, {}
    for mark in ("", ",,", "\n", "\r", 5, b",", "ab", [","]):
        facts[f"delimiter {mark!r}"] = refuses(lambda m=mark: read(path, delimiter=m), "delimiter")
    for name, words, said in (
        ("names twice", {"column_names": ["user", "item", "user"]}, "column|name|user"),
        ("a name too few", {"column_names": ["user"]}, "column|name|item|field"),
        ("no such type", {"column_types": {"user": "nonsense"}}, "column_types|type|nonsense"),
        ("a number as a type", {"column_types": {"user": 5}}, "column_types|type|user"),
    ):
        facts[name] = refuses(lambda w=words: read(path, **w), said)
    return wrong(**facts, sound=read(path).shape == (2, 2), there=path.read_text() == "user,item\n1,2\n3,4\n")


def _columns_of_one_name() -> list[str]:
    import pyarrow as pa

    columns = [pa.array([1, 2]), pa.array([3, 4]), pa.array([5, 6]), pa.array([7, 8])]
    frames: dict[str, Callable[[list[str]], Any]] = {"arrow": lambda names: pa.table(columns, names=names)}
    if installed("pandas"):
        import pandas as pd

        frames["pandas"] = lambda names: pd.DataFrame([[1, 3, 5, 7], [2, 4, 6, 8]], columns=names)
    facts = {}
    for library, make in frames.items():
        for name, names in (("user", ["user", "item", "user", "x"]), ("item", ["user", "item", "x", "item"])):
            facts[f"{library} {name}"] = refuses(
                lambda m=make, names=names: lfm_np.Interactions.from_frame(m(names)), f"{name}|column|twice|unique"
            )
        facts[f"{library} others"] = either(
            lambda m=make: lfm_np.Interactions.from_frame(m(["user", "item", "x", "x"])),
            lambda data: data.users.tolist() == [1, 2] and data.items.tolist() == [3, 4],
            "x|column|twice|unique",
        )
    return wrong(**facts)


def _names_of_curves() -> list[str]:
    """Names with dollars may be formulas, which must be right; names with a line before them are names."""
    from lfm_np import plots

    fits = [lfm_np.als(csr(X), factors=k, iterations=2, random_state=0) for k in (2, 3)]
    every: dict[str, Callable[[list[str]], Any]] = {
        "training": lambda labels: plots.training_curve(fits, labels=labels),
        "spectrum": lambda labels: plots.factor_spectrum(fits, labels=labels),
        "coverage": lambda labels: plots.coverage(fits, N=5, labels=labels),
    }
    facts = {}
    for name, draw in every.items():
        facts[f"{name} dollars"] = either(lambda d=draw: _page(d(["$\\bad{$", "A$$AP"])), bool, "label|name|\\bad")
        page = _page(draw(["_alpha", "__beta__"]))
        facts[f"{name} lines"] = "_alpha" in page and "__beta__" in page
    return wrong(**facts)


def _page(axes: Any) -> str:
    import matplotlib as mpl

    file = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none"}):
        axes.figure.savefig(file, format="svg")
    return file.getvalue()


def _titles_with_dollars(place: Path) -> list[str]:
    from lfm_np import plots, report

    titles = ["A$$AP", "$\\frac{1}{$", "100$ or $200", "\\$x_{$", *(f"film {i}" for i in range(16))]
    fit = lfm_np.als(csr(X), factors=3, iterations=2, random_state=0)
    title = "$\\bad{$ & <b> ^_{"
    report.write_report(place / "page.html", fit, csr(X), labels=titles, title=title)
    text = (place / "page.html").read_text(encoding="utf-8")
    return wrong(
        projection=len(_page(plots.item_map(fit, labels=titles))) > 0,
        factors=len(_page(plots.item_map(fit, labels=titles, view="factors"))) > 0,
        title=html.escape(title, quote=False) in text,
        labels=titles[:4] == ["A$$AP", "$\\frac{1}{$", "100$ or $200", "\\$x_{$"],
    )


def _coverage_of_eight_bits() -> list[str]:
    from lfm_np import plots

    draw = np.random.default_rng(3)
    model = lfm_np.Factors(draw.normal(size=(2, 2)), draw.normal(size=(257, 2)))
    line = plots.coverage(model, N=np.int8(100), users=np.array([1], np.uint8)).lines[0]
    x, y = np.asarray(line.get_xdata(), float), np.asarray(line.get_ydata(), float)
    return wrong(ends=x[-1] == 100, share=close(y[-1], 100 / 257, 1e-6), first=close(y[x == 1][-1], 1 / 257, 1e-6))


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    yield _holds("ids of two kinds", _ids_of_two_kinds)
    yield _holds("cells that are chosen by their numbers", _cells_by_number)
    yield _holds("vectors whose norms have no squares", _vectors_without_squares)
    for name, call in (
        ("a model file with numbers that no type holds", _numbers_that_no_type_holds),
        ("what JSON takes for something else", _what_json_takes_for_another),
        ("a ring of links", _ring_of_links),
        ("seconds between saves that are none", _seconds_that_are_none),
        ("a stored matrix in place of another", _stored_for_another),
    ):
        yield _holds(name, inside(call))
    if installed("pyarrow", "narwhals"):
        yield _holds("marks between fields, and names of columns", inside(_marks_between_fields))
        yield _holds("columns of one name", _columns_of_one_name)
    if installed("matplotlib"):
        yield _holds("names of curves", _names_of_curves)
        yield _holds("titles with dollars", inside(_titles_with_dollars))
        yield _holds("pictures of lists in eight bits", _coverage_of_eight_bits)
