"""Estimators, indexes, other engines and the command line, beside the same sums by NumPy."""

from __future__ import annotations

import contextlib
import csv
import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

from .case import Case, Group, installed
from .cases_second_opinions_of_steps import ALONE
from .places import parts
from .sentences_by_numpy import lfm_np, losses
from .working_days import (
    Model,
    all_scores,
    best,
    biased_half,
    close,
    csr,
    faultless,
    folder,
    stars,
    start,
    typed,
    wrong,
)

_holds = faultless(Group("second opinions"))


def _mask(m: int, n: int, share: float, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random((m, n)) < share


def _whole(m: int, n: int, k: int, seed: int) -> Any:
    draw = np.random.default_rng(seed)
    return lfm_np.Factors(*(draw.integers(-3, 4, (size, k)).astype(np.float64) for size in (m, n)))


def _vectors() -> list[str]:
    from lfm_np import ann

    draw = np.random.default_rng(13)
    U, V, d = draw.normal(size=(6, 3)), draw.normal(size=(17, 3)), draw.normal(size=17)
    model = lfm_np.Factors(U, V, user_bias=draw.normal(size=6), item_bias=d, global_bias=5.0)
    length = (V**2).sum(1) + d**2
    mine = np.column_stack([V, d, np.sqrt(length.max() - length)])
    items, users = ann.item_vectors(model), ann.user_vectors(model)
    return wrong(
        items=items.dtype == np.float32 and abs(items - mine).max() < 5e-3,
        users=close(users, np.column_stack([U, np.ones(6), np.zeros(6)]), 1e-6),
        products=close(users @ items.T, U @ V.T + d, 1e-5),
        norms=close((items.astype(np.float64) ** 2).sum(1), np.full(17, length.max()), 1e-5),
        one=np.array_equal(ann.user_vectors(model, 4), users[4]),
    )


def _indexed(kind: str) -> list[str]:
    from lfm_np import ann

    model = _whole(9, 40, 3, 14)
    S = all_scores(model)
    found = ann.search(getattr(ann, f"{kind}_index")(model), model, np.array([8, 0, 8]), N=6)
    there = found.ids >= 0
    rows = np.broadcast_to(np.array([8, 0, 8])[:, None], (3, 6))
    return wrong(
        shapes=found.ids.shape == found.scores.shape == (3, 6),
        scores=np.array_equal(found.scores[there], S[rows[there], found.ids[there]]),
        best=found.scores[:, 0].tolist() == [S[8].max(), S[0].max(), S[8].max()],
        twice=np.array_equal(found.ids[0], found.ids[2]) and len(set(found.ids[0].tolist())) == 6,
    )


def _torch_als() -> list[str]:
    X, model = stars(31, 22), Model("ratings", lam=0.3, nu=1.0)
    fit = lfm_np.torch_backend.als(
        csr(X), factors=3, iterations=3, init=start(31, 22, 3), dtype="float64", memory_budget=1 << 20, **model.words
    )
    U, V = model.sweeps(X, start(31, 22, 3)[1], 3)
    return wrong(
        scores=close(fit.user_factors @ fit.item_factors.T, U @ V.T, 1e-8),
        objective=close([fit.history[-1]["objective"]], [model.objective(X, U, V)]),
    )


@contextlib.contextmanager
def _cluster() -> Iterator[Any]:
    distributed: Any = importlib.import_module("distributed")
    with distributed.Client(processes=False, n_workers=2, threads_per_worker=1, dashboard_address=":0") as client:
        yield client


def _several_workers() -> list[str]:
    X, (U, V) = stars(30, 9), start(30, 9, 2)
    with _cluster() as client:
        fit = lfm_np.distributed.als(
            csr(X), client=client, shards=5, factors=2, iterations=2, init=(U, V), weighting="ratings", biases=True,
            regularization=0.7, dtype="float64",
        )  # fmt: skip
    mu, d = float(np.nanmean(X)), np.zeros(9)
    for _ in range(2):
        U, b = biased_half(X, V, d, mu, 0.7)
        V, d = biased_half(X.T, U, b, mu, 0.7)
    mine = mu + b[:, None] + d + U @ V.T
    return wrong(scores=close(all_scores(fit), mine, 1e-8), items=close(fit.item_bias, d, 1e-7))


def _records_of_workers() -> list[str]:
    """Files of users at random, so that every record goes through the staging folder."""
    pa: Any = importlib.import_module("pyarrow")
    pq: Any = importlib.import_module("pyarrow.parquet")
    draw = np.random.default_rng(20)
    users, items, x = draw.integers(50, 70, 200), draw.integers(0, 6, 200), draw.integers(1, 5, 200) / 2
    sums: dict[tuple[str, int], float] = {}
    for u, i, value in zip(users.tolist(), items.tolist(), x.tolist(), strict=True):
        sums[f"name {u}", i] = max(value, sums.get((f"name {u}", i), 0.0))
    model = Model("hu-koren", 3.0, 0.5, 0.4, 0.0)
    with folder() as place, _cluster() as client:
        for at in range(3):
            mine = slice(at, None, 3)
            table = pa.table({"u": [f"name {u}" for u in users[mine]], "i": items[mine], "v": x[mine]})
            (place / "data").mkdir(exist_ok=True)
            pq.write_table(table, place / "data" / f"{at}.parquet")
        data = lfm_np.distributed.from_parquet(
            place / "data",
            client=client,
            shards=3,
            staging=place / "split",
            user="u",
            item="i",
            value="v",
            duplicates="max",
        )
        names, columns = [str(name) for name in data.users()], [int(item) for item in data.items]
        given = start(len(names), 6, 2)
        fit = lfm_np.distributed.als(
            data, client=client, factors=2, iterations=2, init=given, dtype="float64", **model.words
        )
        U, V = np.array(fit.user_factors), np.array(fit.item_factors)
    X = np.full((len(names), 6), np.nan)
    for (name, i), value in sums.items():
        X[names.index(name), columns.index(i)] = value
    A, B = model.sweeps(X, given[1], 2)
    return wrong(
        ids=sorted(names) == sorted({name for name, _ in sums}) and columns == list(range(6)),
        scores=close(U @ V.T, A @ B.T, 1e-8),
    )


def _estimators() -> list[str]:
    estimators: Any = importlib.import_module("lfm_np.sklearn")
    full = _mask(40, 9, 0.4, 22) * 2.0
    full[:, 0] = 1.0
    X, new = np.where(full > 0, full, np.nan), np.where(_mask(4, 9, 0.4, 23), 3.0, np.nan)
    model = Model("confidence", 1.5, 0.3, 0.2, 1.0)
    als = estimators.ALS(factors=3, iterations=4, dtype="float64", random_state=1, **model.words).fit(full)
    V = np.asarray(als.item_factors_)
    facts = {
        "als": close(als.transform(np.nan_to_num(new)), model.half(new, V), 1e-8),
        "fit": close(als.factors_.history[-1]["objective"], model.objective(X, als.factors_.user_factors, V)),
        "scores": close(als.inverse_transform(np.eye(3)), V.T, 1e-12),
        "counts": (als.n_iter_, als.n_features_in_) == (4, 9),
    }
    for name, loss, words, fold in (
        ("BPR", losses.BPR(), {}, Model("ials", 1.0, 1.0, 0.1, 1.0)),
        ("Squared", losses.Squared(), {"sampler": None}, Model("ratings", lam=0.07, nu=1.0)),
    ):
        sgd = estimators.SGD(
            loss,
            factors=3,
            epochs=2,
            dtype="float64",
            random_state=2,
            regularization={"user": 0.07, "item": 0.4},
            **words,
        ).fit(sp.csr_array(full))
        some = new[(~np.isnan(new)).any(1)]
        facts[name] = close(sgd.transform(csr(some)), fold.half(some, np.asarray(sgd.item_factors_)), 1e-8)
    return wrong(**facts)


def _held_out() -> list[str]:
    """Of equal ratings μ is all there is to know; a list of all items has whatever is hidden."""
    estimators: Any = importlib.import_module("lfm_np.sklearn")
    X = sp.csr_array(np.where(_mask(30, 9, 0.6, 25), 3.5, 0.0))
    ratings = estimators.ALS(factors=2, weighting="ratings", biases=True, iterations=3, random_state=0).fit(X)
    error = estimators.HeldOut("neg_root_mean_squared_error", 0.3, 1)(ratings, X)
    clicks = estimators.ALS(factors=2, random_state=0).fit(X)
    return wrong(
        error=-1e-5 < error <= 0,
        score=-1e-5 < ratings.score(X) <= 0,
        recall=estimators.HeldOut("recall@9")(clicks, X) == 1.0,
    )


def _tensors(path: Path) -> tuple[np.ndarray, np.ndarray]:
    header, body = parts(path)
    found = []
    for name in ("user_factors", "item_factors"):
        a, b = header[name]["data_offsets"]
        found.append(np.frombuffer(body[a:b], np.float32).reshape(header[name]["shape"]).astype(np.float64))
    return found[0], found[1]


def _typed_in_a_day() -> list[str]:
    """Fit, lists, likeness and an update, of ids such as 007 and 7 in a table with bars."""
    draw = np.random.default_rng(30)
    names = ["007", "07", "7", "a b", "zoë", "Z"]
    records = [(names[u], 10 + i, 1 + x) for u, i, x in draw.integers(0, (6, 8, 9), (40, 3)).tolist()]
    records += [(u, 10 + at, 1) for at, u in enumerate(names)]
    users, items = sorted(names), sorted({i for _, i, _ in records})
    X = np.zeros((7, len(items)))
    for u, i, x in records:
        X[users.index(u), items.index(i)] += x
    model = Model("confidence", 2.0, 1.0, 0.5, 0.0)
    asked = "--user who --item what --value n --delimiter | --text user --weighting confidence --alpha 2 --factors 3"
    more = "--regularization 0.5 --iterations 4 --seed 3 --threads 1 -o m.safetensors"
    later = "recommend later.safetensors --user new --user 7 --user Z --include-seen -n 99 -o later.json"
    with folder() as place:
        lines = "".join(f"{u}|{i}|{x}\n" for u, i, x in records)
        (place / "plays.csv").write_text("who|what|n\n" + lines, "utf-8")
        (place / "today.csv").write_text(f"who|what|n\nnew|{items[1]}|4\n7|{items[0]}|2.5\n", "utf-8")
        said = [
            typed(place, *line.split())
            for line in (
                f"fit plays.csv {asked} {more}",
                "recommend m.safetensors --user 7 --user 007 -n 9 -o lists.json",
                f"similar m.safetensors --item {items[2]} -n 3 --metric inner -o near.csv",
                "update m.safetensors today.csv -o later.safetensors",
                "info later.safetensors",
                later,
            )
        ]
        U, V = _tensors(place / "m.safetensors")
        lists, after = (json.loads((place / f"{name}.json").read_text("utf-8")) for name in ("lists", "later"))
        near = list(csv.reader((place / "near.csv").read_text("utf-8").splitlines()))[1:]
    S, rows = U @ V.T, np.where(X > 0, X, np.nan)
    fitted = model.half(rows[:6].T, U)
    mine = [
        (user, items[i], rank)
        for user, u in (("7", users.index("7")), ("007", users.index("007")))
        for rank, i in enumerate(best(S[u], X[u] == 0, 9), 1)
        if i >= 0
    ]
    seven = users.index("7")
    X[6, 1] += 4
    X[seven, 0] += 2.5
    solved = model.half(np.where(X > 0, X, np.nan)[[6, seven]], V) @ V.T
    now = {"new": solved[0], "7": solved[1], "Z": S[users.index("Z")]}
    found = {(row["who"], row["what"]): row["score"] for row in after}
    return wrong(
        status=[one.status for one in said] == [0] * 6,
        shapes=U.shape == (6, 3) and V.shape == (len(items), 3),
        fitted=close(V, fitted, 1e-3),
        lists=[(row["who"], row["what"], row["rank"]) for row in lists] == mine,
        scores=close([row["score"] for row in lists], [S[users.index(u), items.index(i)] for u, i, _ in mine], 1e-5),
        near=[int(row[1]) for row in near] == [items[i] for i in best(V @ V[2], np.ones(len(V), bool), 3)],
        updated=all(close([found[user, i] for i in items], scores, 1e-4) for user, scores in now.items()),
        info={"users,7", f"items,{len(items)}", "factors,3"} <= set(said[4].out.splitlines()),
    )


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    yield _holds("items and users as vectors of one length", _vectors)
    for kind in ("usearch", "faiss"):
        if installed(kind):
            yield _holds(f"exact scores of what {kind} finds", lambda k=kind: _indexed(k))
    if installed("typer", "pyarrow"):
        yield _holds("a day of commands on a table with bars", _typed_in_a_day)
    if installed("torch"):
        yield _holds("ratings on torch in batches of a mebibyte", _torch_als)
        for name in list(ALONE)[:2]:
            yield _holds(f"on torch: {name}", lambda n=name: ALONE[n].wrong(lfm_np.torch_backend.sgd))
    if installed("distributed"):
        yield _holds("biases on five shards", _several_workers)
        if installed("pyarrow"):
            yield _holds("the largest of records, staged for three shards", _records_of_workers)
    if installed("sklearn"):
        yield _holds("estimators and what they fold in by", _estimators)
        yield _holds("what is hidden of equal ratings", _held_out)
