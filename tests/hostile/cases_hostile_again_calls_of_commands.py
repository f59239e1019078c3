"""Clusters that get odd numbers, starts and folders, commands with thresholds that are none, and ids like options."""

from __future__ import annotations

import csv as tables
import hashlib
import io
import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import scipy.sparse as sp

import lfm_np

from . import cases_hostile_again_calls_of_solvers as solvers
from .case import Case, installed
from .cases_clusters import cluster
from .cases_hostile_again_calls_of_solvers import GROUP, HOW, X, either, scores
from .places import inside
from .working_days import close, csr, faultless, start, typed, wrong

_holds = faultless(GROUP)


def _by_cluster(work: Callable[[Any], list[str]]) -> list[str]:
    """The cases of solvers, by a cluster of one worker."""
    with cluster(1) as client:

        def als(matrix: Any, **words: Any) -> Any:
            words = {name: "auto" if name == "solver" else value for name, value in words.items()}
            return lfm_np.distributed.als(matrix, client=client, **words)

        return work(SimpleNamespace(als=als))


def _parts_of_eight_bits() -> list[str]:
    U0, V0 = start(30, 20, 3, seed=3)
    U, V = HOW.sweeps(X, V0, 3)
    facts = {}
    with cluster(1) as client:
        for shards in (np.int8(1), np.uint8(7), np.int8(30), np.uint8(200)):
            words = {**HOW.words, "shards": shards, "factors": np.int8(3), "iterations": np.uint8(3)}
            facts[f"{shards} shards"] = either(
                lambda words=words: lfm_np.distributed.als(
                    csr(X), client=client, init=(U0, V0), checkpoint_every=np.int8(1), dtype="float64", **words
                ),
                lambda fit: close(scores(fit), U @ V.T, 1e-8),
                "shards" if shards > 30 else "nothing is wrong",
            )
    return wrong(**facts)


def _one_file_for_two(place: Path) -> list[str]:
    """What the users are written to is the checkpoint: refused, or both are what they should be."""
    path = place / "users.npy"
    U0, V0 = start(30, 20, 3, seed=3)
    U, V = HOW.sweeps(X, V0, 2)
    with cluster(1) as client:
        both = either(
            lambda: lfm_np.distributed.als(
                csr(X), client=client, factors=3, iterations=2, init=(U0, V0), dtype="float64", checkpoint=path,
                checkpoint_every=1, users_to=path, **HOW.words,
            ),
            lambda fit: close(scores(fit), U @ V.T, 1e-8) and np.array_equal(np.load(path), fit.user_factors),
            "users_to|checkpoint",
        )  # fmt: skip
    return wrong(both=both)


def _staged_among_the_data(place: Path) -> list[str]:
    """Two files that share a user, whose records are split in a folder among them, or over them."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    data, facts = place / "data", {}
    data.mkdir()
    for name, users, items in (("a", ["ann", "bob"], [10, 20]), ("b", ["ann", "eve"], [30, 10])):
        pq.write_table(pa.table({"user": users, "item": items}), data / f"{name}.parquet")
    before = _digests(data)
    with cluster(1) as client:
        for name, staging in (("within", data / "split"), ("the same", data)):
            facts[name] = either(
                lambda s=staging: lfm_np.distributed.from_parquet(data, client=client, shards=2, staging=s),
                lambda found: found.shape == (3, 3) and sorted(found.users(client)) == ["ann", "bob", "eve"],
                "staging|empty",
            )
            facts[f"{name}, there"] = {key: value for key, value in _digests(data).items() if key in before} == before
            shutil.rmtree(data / "split", ignore_errors=True)
    return wrong(**facts)


def _digests(place: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in place.iterdir() if path.is_file()}


def _events(place: Path, names: list[str]) -> Path:
    """Everybody has 4 to 6 of nine items."""
    lines = ["user,item"]
    for u, name in enumerate(names):
        lines += [f"{name},i{(u * 2 + j) % 9}" for j in range(4 + u % 3)]
    (place / "events.csv").write_text("\n".join(lines) + "\n")
    return place / "events.csv"


def _fit(place: Path, *words: Any) -> Any:
    return typed(place, "fit", "events.csv", "--factors", 2, "--iterations", 2, "--text", "user", *words)


def _told(said: Any) -> bool:
    """Something is said, and nothing of Python."""
    return bool(said.err.strip()) and "Traceback" not in said.err and "escaped" not in said.err


def _thresholds_that_are_none(place: Path) -> list[str]:
    _events(place, [f"u{n}" for n in range(12)])
    fitted = _fit(place, "--hold-out", "test.csv", "-o", "m.safetensors")
    facts = {"fitted": fitted.status == 0}
    for text, right in (
        ("recall@5=nan", (1, 2)), ("recall@5=1e999", (1, 2)), ("recall@5=-inf", (0, 2)), ("recall@5=", (2,)),
        ("=0.5", (2,)), ("recall@0=0.5", (2,)), ("recall@5=0,5", (2,)), ("recall@5=1.5", (1, 2)), ("recall@5=0", (0,)),
    ):  # fmt: skip
        said = typed(place, "evaluate", "m.safetensors", "test.csv", "--at-least", text)
        facts[text] = said.status in right and "Traceback" not in said.err and "escaped" not in said.err
    low_and_high = ["--at-least", "recall@5=0", "--at-least", "mrr=nan"]
    facts["two"] = typed(place, "evaluate", "m.safetensors", "test.csv", *low_and_high).status in (1, 2)
    return wrong(**facts)


def _ids_like_options(place: Path) -> list[str]:
    names = ["-5", "--help", "-n", "--", "@file", "-5e3"]
    _events(place, names)
    facts = {"fitted": _fit(place, "-o", "m.safetensors").status == 0}
    for name in names:
        said = typed(place, "recommend", "m.safetensors", f"--user={name}", "-n", 1)
        rows = list(tables.reader(io.StringIO(said.out)))
        facts[name] = said.status == 0 and rows[0] == ["user", "item", "score", "rank"] and rows[1][0] == name
        facts[f"{name}, one"] = len(rows) == 2
    everybody = typed(place, "recommend", "m.safetensors", "-n", 1)
    rows = list(tables.reader(io.StringIO(everybody.out)))[1:]
    return wrong(**facts, all=sorted(row[0] for row in rows) == sorted(names))


def _results_in_one_file(place: Path) -> list[str]:
    """Two results of one command in one file: refused, or the model is there all the same."""
    events, facts = _events(place, [f"u{n}" for n in range(12)]), {}
    before = events.read_bytes()
    for name, words in (
        ("model and state", ["-o", "m.safetensors", "--checkpoint", "m.safetensors"]),
        ("model and test", ["-o", "m.csv", "--hold-out", "m.csv"]),
        ("test and state", ["-o", "m.safetensors", "--hold-out", "x.csv", "--checkpoint", "x.csv"]),
        ("cells and test", ["-o", "m.safetensors", "--hold-out", "m.interactions.npz"]),
        ("cells and state", ["-o", "m.safetensors", "--checkpoint", "m.interactions.npz"]),
        ("by another name", ["-o", "m.safetensors", "--checkpoint", "./../" + place.name + "/m.safetensors"]),
    ):
        said = _fit(place, *words)
        if said.status:
            facts[name] = said.status == 2 and _told(said)
        else:
            then = typed(place, "recommend", words[1], "-n", 1)
            state = typed(place, "evaluate", words[1], "x.csv").status if "x.csv" in words else 0
            facts[name] = then.status == 0 and state == 0
        facts[f"{name}, events"] = events.read_bytes() == before
        for path in place.iterdir():
            if path != events:
                path.unlink()
    return wrong(**facts)


def _interactions_of_another(place: Path) -> list[str]:
    """Beside the model lie the interactions of one with fewer users."""
    _events(place, [f"u{n}" for n in range(5)])
    facts = {"small": _fit(place, "-o", "small.safetensors").status == 0}
    _events(place, [f"u{n}" for n in range(12)])
    facts["large"] = _fit(place, "-o", "large.safetensors").status == 0
    shutil.copyfile(place / "small.interactions.npz", place / "large.interactions.npz")
    before = {name: value for name, value in _digests(place).items() if name != "out.safetensors"}
    for name, words in (
        ("recommend", ["recommend", "large.safetensors", "-n", 1]),
        ("evaluate", ["evaluate", "large.safetensors", "events.csv"]),
        ("update", ["update", "large.safetensors", "events.csv", "-o", "out.safetensors"]),
    ):
        said = typed(place, *words)
        facts[name] = said.status == 2 and _told(said) and not said.out
    return wrong(**facts, files=_digests(place) == before)


def _numbers_of_commands(place: Path) -> list[str]:
    _events(place, [f"u{n}" for n in range(12)])
    facts = {}
    for words in (
        ["--factors", 0], ["--iterations", -1], ["--alpha", "-inf"], ["--regularization", "nan"], ["--seed", -1],
        ["--hold-out", "t.csv", "--fraction", "nan"], ["--hold-out", "t.csv", "--fraction", 1],
        ["--method", "sgd", "--learning-rate", "nan"], ["--method", "sgd", "--loss", "Nobody"],
    ):  # fmt: skip
        said = typed(place, "fit", "events.csv", *words, "-o", "m.safetensors")
        facts[" ".join(map(str, words))] = said.status == 2 and _told(said)
    return wrong(**facts, nothing=sorted(path.name for path in place.iterdir()) == ["events.csv"])


def _rows_of_eight_bits() -> list[str]:
    """User 255 comes after 254, and 127 + 1 is no number of eight bits with a sign."""
    draw = np.random.default_rng(9)
    U, V = draw.normal(0, 0.3, (255, 3)), draw.normal(0, 0.3, (20, 3))
    words = {**HOW.words, "num_threads": np.int8(1)}
    model = lfm_np.Factors(U, V)
    new = model.update(csr(X[:2]), users=np.array([255, 254], np.uint8), **words)
    mine = HOW.half(X[:2], V)
    pairs = np.array([[127, 127], [0, 1], [127, 3]], np.int8)
    table, columns = lfm_np.to_csr(pairs), lfm_np.build_dict(pairs)
    last = lfm_np.to_csr(np.array([[255, 255]], np.uint8))
    return wrong(
        new=close(new.user_factors[255], mine[0], 1e-9),
        again=close(new.user_factors[254], mine[1], 1e-9),
        rest=np.array_equal(new.user_factors[:254], U[:254]) and model.shape == (255, 20),
        table=table.shape == (128, 128) and table[127, 127] == table[127, 3] == table[0, 1] == 1 and table.nnz == 3,
        last=last.shape == (256, 256) and last.indices.tolist() == [255],
        columns={key: value.tolist() for key, value in columns.items()} == {0: [1], 127: [3, 127]},
        dtype=columns[127].dtype == np.int8,
    )


def _long_row_of_little_memory() -> list[str]:
    """One user has 3,000 items with 64 factors: a row of 1.5 MB beside the least budget of 1 MiB."""
    n, k, lam = 3000, 64, 0.5
    V0 = np.random.default_rng(2).normal(0, 0.05, (n, k))
    u = np.linalg.solve(2 * V0.T @ V0 + lam * np.eye(k), 2 * V0.sum(0))
    score = 2 * float(u @ u) / (2 * float(u @ u) + lam)
    fit = lfm_np.torch_backend.als(
        sp.csr_array(np.ones((1, n))), factors=k, regularization=lam, iterations=1, init=(np.zeros((1, k)), V0),
        dtype="float64", solver="exact", num_threads=1, memory_budget=1 << 20,
    )  # fmt: skip
    cost = n * 2 * (1 - score) ** 2 + lam * float(u @ u) + lam * n * score**2 / float(u @ u)
    return wrong(
        scores=abs(scores(fit) - score).max() < 1e-9,
        J=math.isclose(fit.history[0]["objective"], cost, rel_tol=1e-9),
    )


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    yield _holds("rows, pairs and columns in eight bits", _rows_of_eight_bits)
    if installed("torch"):
        yield _holds("a row of more than the budget", _long_row_of_little_memory)
    if installed("distributed"):
        for name, work in (
            ("127 factors in eight bits", solvers._factors_of_eight_bits),
            ("a start that overlaps itself, backwards", solvers._overlapping_start),
            ("two cells that cancel", solvers._cells_that_cancel),
            ("weights beyond float64", solvers._weights_beyond_everything),
            ("penalties beyond float64", solvers._penalty_beyond_everything),
        ):
            yield _holds(f"{name}, on a cluster", lambda w=work: _by_cluster(w))
        yield _holds("shards in eight bits, on a cluster", _parts_of_eight_bits)
        yield _holds("users and state in one file, on a cluster", inside(_one_file_for_two))
    if installed("distributed", "pyarrow"):
        yield _holds("records staged among the data, on a cluster", inside(_staged_among_the_data))
    if installed("typer", "pyarrow", "narwhals"):
        for name, call in (
            ("evaluate: thresholds that are none", _thresholds_that_are_none),
            ("recommend: users like options", _ids_like_options),
            ("fit: two results in one file", _results_in_one_file),
            ("interactions of another model", _interactions_of_another),
            ("fit: numbers that are none", _numbers_of_commands),
        ):
            yield _holds(name, inside(call))
