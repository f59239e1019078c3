"""Journeys of commands: a table, a fit, a file, lists, judgements and updates, each told again by NumPy."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

import lfm_np
from lfm_np.evaluation import most_popular

from .case import Case, Group, installed
from .places import inside
from .working_days import (
    NAN,
    Model,
    Said,
    all_scores,
    best,
    biased_half,
    close,
    faultless,
    judged,
    same,
    stars,
    typed,
    wrong,
)

_GROUP = Group("quarter past four, shell")
_holds = faultless(_GROUP)
LIGHT = ("--factors", 3, "--iterations", 3)


def cells_of(X: np.ndarray, seed: int = 0) -> list[tuple[int, int, float]]:
    cells = [(int(u), int(i), float(X[u, i])) for u, i in np.argwhere(~np.isnan(X))]
    return [cells[n] for n in np.random.default_rng(seed).permutation(len(cells))]


def written(path: Path, X: np.ndarray, names: str = "who,what,plays,when", comma: str = ",") -> list[Any]:
    """The cells, the user of row 3 as u03, the item of column 3 as 30; the record's number is its time."""
    rows = cells_of(X)
    lines = [names] + [f"u{u:02},{10 * i},{x:g},{n}" for n, (u, i, x) in enumerate(rows)]
    text = ("\n".join(lines) + "\n").replace(",", comma)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return rows


NAMES = ("--user", "who", "--item", "what")
FULL = (*NAMES, "--value", "plays", "--timestamp", "when")


def read(said: Said | str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(said if isinstance(said, str) else said.out)))


def told(said: Said) -> dict[str, str]:
    return {row["what"]: row["value"] for row in read(said)}


def solved(fit: Any, X: np.ndarray, model: Model) -> bool:
    """Whether the items are the solution for the users, and the last objective that of both."""
    U, V = (f.astype(float) for f in (fit.user_factors, fit.item_factors))
    mine = model.half(X.T, U)
    return close(V, mine, 2e-3) and close(fit.history[-1]["objective"], model.objective(X, U, V), 1e-4)


def listed(said: Said, S: np.ndarray, allowed: np.ndarray, users: list[int], N: int) -> bool:
    mine = [
        (f"u{u:02}", 10 * i, S[u, i], r) for u in users for r, i in enumerate(best(S[u], allowed[u], N), 1) if i >= 0
    ]
    rows = read(said)
    return (
        said.status == 0
        and [(r["who"], int(r["what"]), int(r["rank"])) for r in rows] == [(a, b, d) for a, b, _, d in mine]
        and close([float(r["score"]) for r in rows], [c for _, _, c, _ in mine], 2e-4)
    )


def _fitted_and_listed(place: Path, name: str) -> list[str]:
    weighting, more, model = {
        "hu-koren": (("--alpha", 3), ("--regularization-exponent", 0.5), Model("hu-koren", 3.0, 1.0, 0.5, 0.5)),
        "ials": (("--unobserved-weight", 0.4), ("--alpha", 2), Model("ials", 2.0, 0.4, 0.5)),
        "confidence": (("--alpha", 2), ("--unobserved-weight", 0.7), Model("confidence", 2.0, 0.7, 0.5)),
        "ratings": ((), ("--regularization-exponent", 1), Model("ratings", lam=0.5, nu=1.0)),
    }[name]
    X = stars(16, 8, seed=60)
    written(place / "d.csv", X)
    said = typed(
        place,
        "fit",
        "d.csv",
        *FULL,
        *LIGHT,
        "--weighting",
        name,
        *weighting,
        *more,
        "--regularization",
        0.5,
        "-o",
        "m.safetensors",
    )
    fit = lfm_np.Factors.load(place / "m.safetensors")
    some = typed(place, "recommend", "m.safetensors", "--user", "u07", "--user", "u00", "-n", 3)
    every = typed(place, "recommend", "m.safetensors", "-n", 8, "--include-seen")
    S = all_scores(fit)
    return wrong(
        said=said.status == 0 and fit.shape == (16, 8),
        solved=solved(fit, X, model),
        some=listed(some, S, np.isnan(X), [7, 0], 3),
        every=listed(every, S, np.ones(X.shape, bool), list(range(16)), 8),
    )


def _zeros_in_front(place: Path) -> list[str]:
    X = stars(13, 7, seed=61)
    X[np.arange(13), np.arange(13) % 7] = 5
    lines = ["user\titem\tvalue"] + [f"{u:03}\t{10 * i:04}\t{x:g}" for u, i, x in cells_of(X)]
    (place / "d.tsv").write_text("\n".join(lines))
    said = typed(
        place, "fit", "d.tsv", "--text", "user", "--text", "item", "--value", "value", "--threshold", 3, *LIGHT,
        "--regularization", 1, "-o", "m.safetensors",
    )  # fmt: skip
    L = np.where(np.nan_to_num(X) >= 3, 1.0, NAN)
    fit, info = lfm_np.Factors.load(place / "m.safetensors"), told(typed(place, "info", "m.safetensors"))
    item = int(np.flatnonzero((~np.isnan(L)).any(0))[2])
    rows = read(typed(place, "similar", "m.safetensors", "--item", f"{10 * item:04}", "-n", 4))
    V = fit.item_factors.astype(float)
    norms = np.linalg.norm(V, axis=1)
    cosines = np.divide(V @ V[item], norms * norms[item], out=np.zeros(7), where=norms > 0)
    order = best(cosines, np.ones(7, bool), 4)
    return wrong(
        said=said.status == 0 and info["users"] == "13" and info["items"] == "7" and info["factors"] == "3",
        solved=solved(fit, L, Model("hu-koren", 1.0, 1.0, 1.0)),
        similar=[r["similar"] for r in rows] == [f"{10 * i:04}" for i in order],
        cosines=close([float(r["score"]) for r in rows], cosines[order], 2e-4),
    )


def _held_out_and_judged(place: Path, by: str) -> list[str]:
    X = stars(18, 10, seed=62)
    rows = written(place / "d.csv.gz", X)
    said = typed(
        place, "fit", "d.csv.gz", *FULL, *LIGHT, "--regularization", 2, "--hold-out", "t.csv", "--by", by,
        *(() if by == "last" else ("--fraction", 0.3)), "-o", "m.safetensors",
    )  # fmt: skip
    held = np.zeros(X.shape, bool)
    for r in read((place / "t.csv").read_text()):
        held[int(r["who"][1:]), int(r["what"]) // 10] = True
    time = {(u, i): n for n, (u, i, _) in enumerate(rows)}
    cells = {(int(u), int(i)) for u, i in np.argwhere(held)}
    if by == "last":
        latest = {u: max((n, i) for (v, i), n in time.items() if v == u)[1] for u in range(18)}
        right = cells == {(u, i) for u, i in latest.items() if (~np.isnan(X[u])).sum() > 1}
    elif by == "time":
        right = sorted(time[cell] for cell in cells) == list(range(len(rows) - int(0.3 * len(rows)), len(rows)))
    else:
        right = bool((abs(held.sum(1) - 0.3 * (~np.isnan(X)).sum(1)) < 1).all()) and held.sum() > 0
    known = np.where(held, NAN, X)
    fit = lfm_np.Factors.load(place / "m.safetensors")
    table = {
        r["metric"]: r
        for r in read(typed(place, "evaluate", "m.safetensors", "t.csv", "--metric", "ndcg@3", "--metric", "auc"))
    }
    a = judged(all_scores(fit), ~np.isnan(known), held, 3)
    b = judged(np.tile((~np.isnan(known)).sum(0).astype(float), (18, 1)), ~np.isnan(known), held, 3)
    return wrong(
        said=said.status == 0,
        held=right,
        solved=solved(fit, known, Model("hu-koren", 1.0, 1.0, 2.0)),
        model=all(abs(float(table[n]["model"]) - a[n]) < 6e-5 for n in ("ndcg@3", "auc")),
        error=abs(float(table["ndcg@3"]["model_se"]) - a["ndcg@3_se"]) < 6e-5,
        popular=all(abs(float(table[n]["popular"]) - b[n]) < 6e-5 for n in ("ndcg@3", "auc")),
        users=int(table["ndcg@3"]["users"]) == a["users"],
    )


def _at_least(place: Path) -> list[str]:
    X, T = stars(15, 9, seed=63), stars(15, 9, seed=64)
    written(place / "d.csv", X)
    written(place / "t.csv", T)
    typed(place, "fit", "d.csv", *NAMES, *LIGHT, "--regularization", 1, "-o", "m.safetensors")
    S = all_scores(lfm_np.Factors.load(place / "m.safetensors"))
    number = judged(S, ~np.isnan(X), ~np.isnan(T), 4)["recall@4"]
    low, high = (
        typed(place, "evaluate", "m.safetensors", "t.csv", "--at-least", f"recall@4={number + step:.6f}")
        for step in (-1e-4, 1e-4)
    )
    return wrong(
        enough=low.status == 0 and "failed" not in low.out + low.err,
        short=high.status == 1 and "recall@4" in high.out + high.err,
        number=[abs(float(r["model"]) - number) < 6e-5 for r in read(low) if r["metric"] == "recall@4"] == [True],
    )


def _updated(place: Path, how: str) -> list[str]:
    X = stars(12, 7, seed=65)
    written(place / "d.csv", X)
    words = (*FULL, *LIGHT, "--duplicates", how, "--regularization", 0.5, "--weighting", "confidence", "-o")
    typed(place, "fit", "d.csv", *words, "m.safetensors")
    old = lfm_np.Factors.load(place / "m.safetensors")
    (place / "new.csv").write_text(
        "who,what,plays,when\nz,10,2,900\nu04,20,3,901\nu04,60,1,902\nz,50,5,903\nu04,9999,5,904\nz,10,4,905\n"
    )
    said = typed(place, "update", "m.safetensors", "new.csv", "-o", "n.safetensors")
    new = lfm_np.Factors.load(place / "n.safetensors")
    join = {"sum": sum, "max": max, "last": lambda v: v[-1]}[how]
    row, z = X[4].copy(), np.full(7, NAN)
    for i, x in ((2, 3.0), (6, 1.0)):
        row[i] = x if np.isnan(row[i]) else join([row[i], x])
    z[1], z[5] = join([2.0, 4.0]), 5.0
    V = old.item_factors.astype(float)
    mine = Model("confidence", 1.0, 1.0, 0.5).half(np.vstack([row, z]), V)
    some = read(typed(place, "recommend", "n.safetensors", "--user", "z", "-n", 5))
    order = best(V @ mine[1], np.isnan(z), 5)
    return wrong(
        said=said.status == 0 and new.shape == (13, 7),
        items=np.array_equal(new.item_factors, old.item_factors),
        rest=np.array_equal(np.delete(new.user_factors, [4, 12], 0), np.delete(old.user_factors, 4, 0)),
        solved=close(new.user_factors[[4, 12]], mine, 1e-3),
        list=[int(r["what"]) for r in some] == [10 * i for i in order],
        info=told(typed(place, "info", "n.safetensors"))["users"] == "13",
    )


def _ratings_with_biases(place: Path) -> list[str]:
    X = stars(14, 8, seed=66)
    written(place / "d.csv", X)
    said = typed(
        place,
        "fit",
        "d.csv",
        *FULL,
        *LIGHT,
        "--weighting",
        "ratings",
        "--biases",
        "--regularization",
        0.8,
        "-o",
        "m.safetensors",
    )
    fit = lfm_np.Factors.load(place / "m.safetensors")
    U, a = (f.astype(float) for f in (fit.user_factors, fit.user_bias))
    V, b = biased_half(X.T, U, a, float(np.nanmean(X)), 0.8)
    rows = read(typed(place, "similar", "m.safetensors", "--user", "u05", "-n", 3, "--metric", "inner"))
    inner = U @ U[5]
    order = best(inner, np.ones(14, bool), 3)
    return wrong(
        said=said.status == 0 and close(fit.global_bias, np.nanmean(X), 1e-6),
        items=close(fit.item_factors, V, 2e-3) and close(fit.item_bias, b, 2e-3),
        list=listed(
            typed(place, "recommend", "m.safetensors", "-n", 4), all_scores(fit), np.isnan(X), list(range(14)), 4
        ),
        similar=[r["similar"] for r in rows] == [f"u{u:02}" for u in order],
        inner=close([float(r["score"]) for r in rows], inner[order], 2e-4),
    )


def _sgd_typed(place: Path, loss: str) -> list[str]:
    X = stars(15, 8, seed=67)
    written(place / "d.csv", X)
    more = ("--learning-rate", 0.02, "--negatives", 3) if loss != "Squared" else ("--biases", "--learning-rate", 0.02)
    words = ("fit", "d.csv", *FULL, *LIGHT, "--method", "sgd", "--loss", loss, *more, "--seed", 5, "-o")
    said = typed(place, *words, "m.safetensors", "--threads", 2)
    typed(place, *words, "n.safetensors", "--threads", 1)
    fit = lfm_np.Factors.load(place / "m.safetensors")
    cells = sp.csr_array((X[~np.isnan(X)].astype(np.float32), np.nonzero(~np.isnan(X))), shape=X.shape)
    names = lfm_np.evaluate(fit, None, cells, ("auc",))
    mine = judged(all_scores(fit), np.zeros(X.shape, bool), ~np.isnan(X), 1)
    return wrong(
        said=said.status == 0 and len(fit.history) == 3,
        same=same(fit, lfm_np.Factors.load(place / "n.safetensors")),
        list=listed(
            typed(place, "recommend", "m.safetensors", "-n", 9), all_scores(fit), np.isnan(X), list(range(15)), 9
        ),
        auc=close(names["auc"], mine["auc"], 1e-9),
        mean=loss != "Squared" or close(fit.global_bias, np.nanmean(X), 1e-5),
    )


def _checkpoint_typed(place: Path) -> list[str]:
    X = stars(14, 7, seed=68)
    written(place / "d.csv", X)
    words = ("fit", "d.csv", *FULL, "--factors", 2, "--regularization", 0.5, "--weighting", "ials", "--alpha", 2)
    first = typed(place, *words, "--iterations", 2, "--checkpoint", "c", "-o", "a.safetensors")
    then = typed(place, *words, "--iterations", 5, "--checkpoint", "c", "-o", "b.safetensors", "--threads", 1)
    whole = typed(place, *words, "--iterations", 5, "-o", "w.safetensors")
    a, b, w = (lfm_np.Factors.load(place / f"{name}.safetensors") for name in "abw")
    model = Model("ials", 2.0, 1.0, 0.5)
    return wrong(
        said=first.status == then.status == whole.status == 0,
        lengths=[len(f.history) for f in (a, b, w)] == [2, 5, 5],
        bits=same(b, w),
        solved=solved(a, X, model) and solved(b, X, model),
        on=[r["objective"] for r in b.history[:2]] == [r["objective"] for r in a.history],
    )


def _sparse_then_formats(place: Path) -> list[str]:
    X = stars(11, 6, seed=69)
    sp.save_npz(place / "d.npz", sp.csr_matrix(np.nan_to_num(X)))
    fitted = typed(place, "fit", "d.npz", *LIGHT, "--regularization", 0.5, "-o", "m.safetensors")
    fit = lfm_np.Factors.load(place / "m.safetensors")
    for ending in ("json", "csv"):
        typed(place, "recommend", "m.safetensors", "-n", 2, "-o", f"r.{ending}")
    one, two = json.loads((place / "r.json").read_text()), read((place / "r.csv").read_text())
    one = one if isinstance(one, list) else [dict(zip(one, r, strict=True)) for r in zip(*one.values(), strict=True)]
    S = all_scores(fit)
    mine = [(u, i) for u in range(11) for i in best(S[u], np.isnan(X[u]), 2) if i >= 0]
    return wrong(
        said=fitted.status == 0,
        solved=solved(fit, X, Model("hu-koren", 1.0, 1.0, 0.5)),
        json=[(int(r["user"]), int(r["item"])) for r in one] == mine,
        csv=[(int(r["user"]), int(r["item"])) for r in two] == mine,
        scores=close([float(r["score"]) for r in two], [S[u, i] for u, i in mine], 2e-4),
    )


def _cored_and_told(place: Path) -> list[str]:
    X = stars(20, 12, seed=70, share=0.2)
    written(place / "d.csv", X)
    Y = X.copy()
    while True:
        few = ((~np.isnan(Y)).sum(1) < 3)[:, None] | ((~np.isnan(Y)).sum(0) < 4)
        if np.isnan(Y[few]).all():
            break
        Y[few] = NAN
    keep, other = (~np.isnan(Y)).any(1), (~np.isnan(Y)).any(0)
    data = told(typed(place, "info", "d.csv", *NAMES))
    said = typed(
        place, "fit", "d.csv", *NAMES, *LIGHT, "--min-user-interactions", 3, "--min-item-interactions", 4,
        "--regularization", 1, "-o", "m.safetensors",
    )  # fmt: skip
    info, ones = told(typed(place, "info", "m.safetensors")), np.where(np.isnan(Y), NAN, 1.0)[keep][:, other]
    return wrong(
        data=[data[n] for n in ("users", "items", "interactions")] == ["20", "12", str((~np.isnan(X)).sum())],
        said=said.status == 0 and [info["users"], info["items"]] == [str(keep.sum()), str(other.sum())],
        solved=solved(lfm_np.Factors.load(place / "m.safetensors"), ones, Model(lam=1.0)),
    )


def _served_by_python(place: Path) -> list[str]:
    """A model that Python kept, served by the command from the data beside it; most popular, too."""
    X = stars(12, 6, seed=71)
    written(place / "d.csv", X, "user,item,value,timestamp")
    data = lfm_np.Interactions.from_csv(place / "d.csv", value="value")
    most_popular(data).save(place / "p.safetensors")
    lfm_np.als(data, factors=2, iterations=2, regularization=0.5, random_state=1).save(place / "m.safetensors")
    facts = {}
    for name in "pm":
        model = lfm_np.Factors.load(place / f"{name}.safetensors")
        rows = read(typed(place, "recommend", f"{name}.safetensors", "--data", "d.csv", "-n", 2, "--user", "u03"))
        mine = [10 * i for i in best(all_scores(model)[3], np.isnan(X[3]), 2) if i >= 0]
        facts[name] = [int(r["item"]) for r in rows] == mine
    return wrong(**facts)


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    if not installed("typer", "pyarrow", "narwhals"):
        return
    for name in ("hu-koren", "ials", "confidence", "ratings"):
        yield _holds(f"fit, lists of some and of all: {name}", inside(lambda p, n=name: _fitted_and_listed(p, n)))
    yield _holds("tabs and text, a threshold, info, what is similar", inside(_zeros_in_front))
    for by in ("last", "time", "random"):
        yield _holds(
            f"zipped, held out by {by}, judged beside the popular", inside(lambda p, b=by: _held_out_and_judged(p, b))
        )
    yield _holds("just enough and just too little", inside(_at_least))
    for how in ("sum", "max", "last"):
        yield _holds(f"an update of pairs that were there, by {how}", inside(lambda p, h=how: _updated(p, h)))
    yield _holds("ratings with biases, users alike", inside(_ratings_with_biases))
    for loss in ("BPR", "SampledSoftmax", "Squared"):
        yield _holds(f"sgd by one thread and by two: {loss}", inside(lambda p, n=loss: _sgd_typed(p, n)))
    yield _holds("a checkpoint typed twice", inside(_checkpoint_typed))
    yield _holds("a sparse file, then JSON and CSV", inside(_sparse_then_formats))
    yield _holds("cored, and told", inside(_cored_and_told))
    yield _holds("models that Python kept", inside(_served_by_python))
