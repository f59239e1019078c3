"""MovieLens files, torch, dask, scikit-learn and frames beside NumPy, and the commands of a shell beside Python."""

from __future__ import annotations

import contextlib
import csv
import io
import os
import runpy
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

import lfm_np
from lfm_np import Interactions

from .case import Case, Group, installed
from .cases_stops_and_crowds_again import als, clicks, same
from .places import holding, inside

_group = Group("afresh, companions and shells")
_refused = _group.refused
_right = holding(_group)


# ---- companions -----------------------------------------------------------------------------------------------------


def torch_agrees(**words: Any) -> bool:
    here = als(dtype="float64", **words)
    there = lfm_np.torch_backend.als(clicks(), factors=4, iterations=5, random_state=0, dtype="float64", **words)
    a, b = (f.user_factors @ f.item_factors.T for f in (here, there))
    return (
        bool(abs(a - b).max() < 1e-8 * max(1, abs(a).max()))
        and abs(here.history[-1]["objective"] / there.history[-1]["objective"] - 1) < 1e-9
    )


def torch_alone() -> bool:
    """Cells that share nothing: the moves of a batch are those of single steps."""
    rng = np.random.default_rng(3)
    U, V, x = rng.normal(size=(3, 2)), rng.normal(size=(3, 2)), np.array([1.0, -2.0, 0.5])
    found = lfm_np.torch_backend.sgd(
        sp.csr_array(np.diag(x)),
        lfm_np.losses.Squared(),
        sampler=None,
        factors=2,
        epochs=3,
        init=(U, V),
        learning_rate=0.1,
        regularization=0.2,
        dtype="float64",
        random_state=0,
    )
    for _ in range(3):
        g = ((U * V).sum(1) - x)[:, None]
        U, V = U - 0.1 * (g * V + 0.2 * U), V - 0.1 * (g * U + 0.2 * V)
    return bool(np.allclose(found.user_factors @ found.item_factors.T, U @ V.T, atol=1e-9))


def clustered(folder: Path) -> bool:
    import distributed

    with distributed.Client(processes=False, n_workers=1, threads_per_worker=2, dashboard_address=None):
        words: dict[str, Any] = {"factors": 4, "random_state": 0, "dtype": "float64", "shards": 3}
        found = lfm_np.distributed.als(clicks(), iterations=4, **words)
        lfm_np.distributed.als(clicks(), iterations=2, checkpoint=folder / "c", **words)
        resumed = lfm_np.distributed.als(clicks(), iterations=4, checkpoint=folder / "c", **words)
        with contextlib.suppress(ValueError):
            lfm_np.distributed.als(clicks(), iterations=4, checkpoint=folder / "c", **{**words, "shards": 2})
            return False
        with contextlib.suppress(ValueError):
            lfm_np.distributed.als(clicks(), solver="cg", **words)
            return False
    one = als(iterations=4, dtype="float64")
    return same(found, resumed) and np.allclose(
        found.user_factors @ found.item_factors.T, one.user_factors @ one.item_factors.T, atol=1e-8
    )


def estimated() -> bool:
    from sklearn.base import clone

    from lfm_np.sklearn import ALS

    model = clone(ALS(factors=4, regularization=0.3, random_state=0)).fit(clicks())
    new = clicks(6, 15, 9)
    return np.array_equal(model.transform(new), model.factors_.fold_in_users(new).user_factors)


def framed() -> bool:
    import pandas as pd

    frame = pd.DataFrame(
        {"user": ["b", "a", "b", "c"], "item": pd.Categorical(["y", "x", "x", "z"])}, index=[9, 9, 1, 4]
    )
    data = Interactions.from_frame(frame)
    found = lfm_np.als(data, factors=2, random_state=0)
    told = lfm_np.recommend_frame(found, data, ["c", "a"], N=3, seen=data)
    wanted = [
        (u, str(data.items[i]))
        for u in ("c", "a")
        for i in found.recommend(data.rows_of([u]), N=3, seen=data).ids[0]
        if i >= 0
    ]
    return (
        isinstance(told, pd.DataFrame)
        and list(zip(told["user"], told["item"], strict=True)) == wanted
        and told["rank"].tolist() == [1, 2, 1, 2]
    )


def movielens(**arrays: Any) -> Callable[[], Any]:
    def act(folder: Path) -> Any:
        np.savez(folder / "ml-100k.npz", **arrays)
        old = os.environ.get("LFM_NP_DATA")
        os.environ["LFM_NP_DATA"] = str(folder)
        try:
            return lfm_np.datasets.movielens("100k")
        finally:
            os.environ.pop("LFM_NP_DATA") if old is None else os.environ.update(LFM_NP_DATA=old)

    return inside(act)


class Trap:
    def __reduce__(self) -> Any:
        return (os.abort, ())


RECORDS: dict[str, Any] = {
    "user": np.array([0, 1]),
    "item": np.array([2, 0]),
    "value": np.array([4.0, 3.0]),
    "timestamp": np.array([9, 8]),
}


def companions() -> Iterator[Case]:
    yield _right(
        "MovieLens of a local file",
        movielens(**RECORDS, known=np.array([True, False])),
        lambda d: d.matrix.nnz == 2 and np.isnan(d.matrix.data).sum() == 1 and d.items.tolist() == [1, 3],
    )
    yield _refused(
        "MovieLens of a file that would run code",
        movielens(**{**RECORDS, "value": np.array([Trap(), Trap()])}),
        "value|pickle|object",
        kind=ValueError,
    )
    yield _refused(
        "MovieLens of arrays of two lengths",
        movielens(**{**RECORDS, "value": np.ones(3)}),
        "value|length|entries",
        kind=ValueError,
    )
    if installed("torch"):
        yield _right(
            "torch, ials with an exponent",
            lambda: torch_agrees(weighting="ials", unobserved_weight=0.1, regularization_exponent=0.7),
        )
        yield _right(
            "torch, ratings with biases", lambda: torch_agrees(weighting="ratings", biases=True, regularization=0.3)
        )
        yield _right("torch, steps of cells that share nothing", torch_alone)
        yield _refused(
            "torch, a device that there is not",
            lambda: lfm_np.torch_backend.als(clicks(), factors=2, device="cuda:77"),
            "device",
            "cuda",
            kind=(ValueError, RuntimeError),
        )
        yield _refused(
            "torch, a budget of a kilobyte",
            lambda: lfm_np.torch_backend.als(clicks(), factors=2, memory_budget=1024),
            "memory_budget",
            "1024",
            kind=ValueError,
        )
    if installed("distributed"):
        yield _right("a cluster of threads, resumed, and refusals", inside(clustered))
    if installed("sklearn"):
        yield _right("an estimator transforms as fold_in_users", estimated)
    if installed("pandas", "narwhals", "pyarrow"):
        yield _right("frames of categories with an index of its own", framed)


# ---- a shell --------------------------------------------------------------------------------------------------------


def shell(*words: Any) -> tuple[int, str, str]:
    """The command in this process: status, output, remarks."""
    out, said, old = io.StringIO(), io.StringIO(), sys.argv
    sys.argv = ["lfm-np", *map(str, words)]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(said):
            runpy.run_module("lfm_np", run_name="__main__")
        status = 0
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else int(bool(ended.code))
    finally:
        sys.argv = old
    return status, out.getvalue(), said.getvalue()


def events(folder: Path) -> Path:
    M = sp.coo_array(clicks())
    lines = [f"{u:03},{i},{int(x)}" for u, i, x in zip(M.row, M.col, M.data, strict=True)]
    (folder / "events.csv").write_text("\n".join(["user,item,n", *lines]) + "\n")
    return folder / "events.csv"


def whole_way(folder: Path) -> bool:
    """fit and recommend in a shell are als and recommend here; ids keep their zeros."""
    fit = shell(
        "fit",
        events(folder),
        "--value",
        "n",
        "--text",
        "user",
        "--factors",
        4,
        "--regularization",
        0.5,
        "--iterations",
        3,
        "-o",
        folder / "m.safetensors",
    )
    status, out, _ = shell("recommend", folder / "m.safetensors", "--user", "007", "--user", "000", "-n", 3)
    data = Interactions.from_csv(folder / "events.csv", value="n", column_types={"user": "string"})
    found = lfm_np.als(data, factors=4, regularization=0.5, iterations=3, random_state=0)
    ids, scores = found.recommend(data.rows_of(["007", "000"]), N=3, seen=data)
    told = list(csv.DictReader(io.StringIO(out)))
    return (
        fit[0] == status == 0
        and [(t["user"], int(t["item"])) for t in told]
        == [(u, int(i)) for u, row in zip(("007", "000"), data.item_ids(ids), strict=True) for i in row]
        and np.allclose([float(t["score"]) for t in told], scores.ravel(), rtol=1e-5)
    )


def refused_by_shell(*words: Any, says: str) -> Callable[[], bool]:
    def act(folder: Path) -> bool:
        events(folder)
        shell(
            "fit",
            folder / "events.csv",
            "--text",
            "user",
            "--factors",
            2,
            "--iterations",
            1,
            "-o",
            folder / "m.safetensors",
        )
        before = {p.name: p.read_bytes() for p in folder.iterdir()}
        status, out, said = shell(*(str(w).replace("HERE", str(folder)) for w in words))
        after = {p.name: p.read_bytes() for p in folder.iterdir()}
        ok = status == 2 and not out and any(s in said.lower() for s in says.split("|")) and "Traceback" not in said
        assert ok, (status, out, said)
        assert before == after, (said, sorted(after))
        return True

    return inside(act)


def commands() -> Iterator[Case]:
    if not installed("typer", "pyarrow", "narwhals"):
        return
    yield _right("fit and recommend as in Python", inside(whole_way))
    for name, words, says in (
        ("a user that nobody knows", ("recommend", "HERE/m.safetensors", "--user", "7"), "'7'"),
        ("a picture for a table", ("recommend", "HERE/m.safetensors", "-o", "HERE/list.png"), "list.png|.csv"),
        ("data in place of a model", ("recommend", "HERE/events.csv"), "events.csv"),
        (
            "held out over the data",
            ("fit", "HERE/events.csv", "--hold-out", "HERE/events.csv", "-o", "HERE/n.safetensors"),
            "hold-out|hold_out|events.csv",
        ),
        (
            "a weighting that there is not",
            ("fit", "HERE/events.csv", "--weighting", "bm25", "-o", "HERE/n.safetensors"),
            "weighting",
        ),
        (
            "a column of another table",
            ("fit", "HERE/events.csv", "--value", "stars", "-o", "HERE/n.safetensors"),
            "stars",
        ),
    ):
        yield _right(f"shell, {name}", refused_by_shell(*words, says=says))


def cases() -> list[Case]:
    return [*companions(), *commands()]
