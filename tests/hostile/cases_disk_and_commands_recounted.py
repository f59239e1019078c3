"""Matrices on disk beside those in memory, and commands beside the functions they stand for."""

from __future__ import annotations

import contextlib
import csv
import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

import lfm_np
from lfm_np import Interactions

from .case import Case, Either, Group, Holds, installed, raises
from .cases_tables_recounted import in_folder

_disk, _command = Group("recounted on the disk"), Group("recounted commands")

# ---- matrices on disk -----------------------------------------------------------------------------------------------


def disk() -> Iterator[Case]:
    rng = np.random.default_rng(3)
    X = sp.csr_array(np.where(rng.random((60, 25)) < 0.3, rng.integers(1, 6, (60, 25)), 0).astype(np.float32))

    def stored(path: str, do: Callable[[Any], Any] = lambda s: s) -> Any:
        return do(lfm_np.StoredMatrix.from_matrix(X, path))

    for weighting in ("hu-koren", "ratings"):
        yield _disk.right(
            f"{weighting}: the bits of the matrix in memory",
            in_folder("m", None, lambda p, w=weighting: stored(
                p, lambda s: lfm_np.als(s, factors=5, weighting=w, iterations=3, random_state=0))),
            lambda f, w=weighting: np.array_equal(
                f.item_factors, lfm_np.als(X, factors=5, weighting=w, iterations=3, random_state=0).item_factors),
        )  # fmt: skip

    def damaged(file: str) -> Callable[[str], Any]:
        def read(path: str) -> Any:
            stored(path)
            content = bytearray(Path(path, file).read_bytes())
            content[-3] ^= 64
            Path(path, file).write_bytes(content)
            return lfm_np.StoredMatrix(path)

        return read

    for file in ("rows.indices.npy", "rows.data.npy", "columns.indptr.npy", "manifest.json"):
        yield _disk.refused(f"{file}, one bit", in_folder("m", None, damaged(file)), f"{file}|rows|columns|manifest")

    def twice(path: str) -> Any:
        stored(path)
        return stored(path)

    yield Case(
        "recounted on the disk: a folder that exists",
        in_folder("m", None, twice),
        raises((OSError, ValueError), "exist|already"),
    )
    yield Case(
        "recounted on the disk: a memory of one byte",
        in_folder("m", None, lambda p: stored(p) and lfm_np.als(lfm_np.StoredMatrix(p, memory=1), factors=4)),
        raises((MemoryError, ValueError), "memory"),
    )
    yield Case(
        "recounted on the disk: the empty folder",
        in_folder("m", None, lambda p: os.mkdir(p) or lfm_np.StoredMatrix(p)),
        raises((OSError, ValueError), "stored matrix|manifest"),
    )


# ---- commands -------------------------------------------------------------------------------------------------------


def said(*words: str) -> tuple[int, str, str]:
    from lfm_np.cli import main

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main(words)
    return status, out.getvalue(), err.getvalue()


def commands() -> Iterator[Case]:
    if not installed("typer", "rich", "pyarrow", "narwhals"):
        return
    rng = np.random.default_rng(9)
    rows = sorted({(f"u{u}", f"i, {i}") for u, i in rng.integers(0, 12, (70, 2)).tolist()})

    def run(path: str) -> Any:
        with open(path, "w", newline="") as file:
            csv.writer(file).writerows([("user", "item"), *rows])
        model = path + ".safetensors"
        fitted = said("fit", path, "--factors", "4", "--alpha", "3", "--iterations", "3", "-o", model)
        asked = said("recommend", model, "--user", "u3", "-n", "4")
        wrong = said("recommend", model, "--user", "nobody"), said("fit", path, "--item", "thing", "-o", model)
        more = path + ".csv"
        Path(more).write_text('user,item\nnew,"i, 1"\n')
        updated = said("update", model, more, "-o", model), said("recommend", model, "--user", "new", "-n", "1")
        return fitted, asked, wrong, updated

    def right(result: Any) -> bool:
        fitted, asked, wrong, updated = result
        data = Interactions.from_arrays(*map(list, zip(*rows)))
        f = lfm_np.als(data, factors=4, alpha=3.0, iterations=3, random_state=0)
        best = data.item_ids(f.recommend(int(data.rows_of(["u3"])[0]), N=4, seen=data).ids, missing="")
        got = [line[1] for line in list(csv.reader(io.StringIO(asked[1])))[1:]]
        return (
            fitted[0] == asked[0] == 0
            and got == [str(item) for item in best if item != ""]
            and wrong[0][0] == wrong[1][0] == 2
            and "nobody" in wrong[0][2]
            and "thing" in wrong[1][2]
            and updated[0][0] == updated[1][0] == 0
            and updated[1][1].count("new,") == 1
        )

    yield _command.right("fit, ask, ask for nobody, update, ask again", in_folder("e.csv", None, run), right)

    def held(path: str) -> Any:
        with open(path, "w", newline="") as file:
            csv.writer(file).writerows([("user", "item"), *rows])
        model, test = path + ".safetensors", path + ".test.csv"
        fitted = said("fit", path, "--factors", "4", "--hold-out", test, "-o", model)
        return (
            fitted,
            said("evaluate", model, test, "--metric", "mrr", "--at-least", "recall@5=0"),
            said("evaluate", model, test, "--at-least", "recall@1=1.01"),
        )

    yield _command.right(
        "held out, judged, and a check that fails",
        in_folder("e.csv", None, held),
        lambda r: [status for status, *_ in r] == [0, 0, 1] and "mrr," in r[1][1] and "recall@1" in r[2][1] + r[2][2],
    )
    for name, content, words in (
        ("a model that is no model", b"\x80\x04}.", "model"),
        ("a model that is empty", b"", "model|empty"),
    ):
        yield _command.right(
            name,
            in_folder("m.safetensors", content, lambda p: said("recommend", p)),
            lambda r, w=words: r[0] == 2 and any(word in r[2] for word in w.split("|")) and "Traceback" not in r[2],
        )
    yield Case(
        "recounted commands: options that contradict",
        in_folder(
            "e.csv",
            b"user,item\na,b\nc,d\n",
            lambda p: said("fit", p, "--method", "sgd", "--alpha", "3", "-o", p + ".safetensors"),
        ),
        Either(Holds(lambda r: r[0] == 2 and "alpha" in r[2]), raises((ValueError,), "alpha")),
    )


def cases() -> list[Case]:
    return [*disk(), *commands()]
