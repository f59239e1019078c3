"""Pictures and commands with options that are rarely used together."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

from .case import Case, installed
from .cases_pairs_of_judgements import counted
from .cases_pairs_of_lists import whole
from .cases_pairs_of_solvers import PAIRS, Ask, gaps, lfm_np, near, scores_of
from .places import command
from .working_days import best, csr, faultless, folder, wrong

_holds = faultless(PAIRS)


def _line(ax: Any, place: int = 0) -> tuple[np.ndarray, np.ndarray]:
    x, y = ax.lines[place].get_data()
    return np.asarray(x, np.float64), np.asarray(y, np.float64)


def _covered() -> list[str]:
    """The share of items in the lists of some users, seen left out, up to more places than items."""
    from lfm_np import plots

    model, had = whole(9, 15, seed=7, biases="item"), np.random.default_rng(2).random((9, 15)) < 0.4
    users, S = [8, 2, 2, 5], scores_of(model)
    x, y = _line(plots.coverage([model], sp.csr_array(had.astype(float)), N=20, users=users, labels=["some"]))
    mine = [len({i for u in users for i in best(S[u], ~had[u], int(n)) if i >= 0}) / 15 for n in x]
    return wrong(share=near(y, mine, 1e-12) or near(y, 100 * np.array(mine), 1e-12), ends=x.max() in (15, 20))


def _metrics_drawn() -> list[str]:
    """Two results, a metric whose cutoffs pass the items."""
    from lfm_np import plots

    draw = np.random.default_rng(4)
    had, held = draw.random((12, 9)) < 0.3, draw.random((12, 9)) < 0.3
    models, cuts = [whole(12, 9, seed=seed) for seed in (1, 2)], (1, 3, 9, 14)
    matrices = [sp.csr_array(mask.astype(float)) for mask in (had, held)]
    ax = plots.metric_at_n(models, *matrices, "precision", N=cuts, labels=["a", "b"])
    facts = {}
    for place, model in enumerate(models):
        x, y = _line(ax, place)
        mine = counted(scores_of(model), had, held, [f"precision@{k}" for k in cuts])
        facts[f"line {place}"] = x.tolist() == list(cuts) and near(y, [mine[f"precision@{k}"] for k in cuts], 1e-12)
    return wrong(**facts)


def _spectrum() -> list[str]:
    """Singular values of a product of six factors whose rank is three, biases or not; zeros may not be drawn."""
    from lfm_np import plots

    draw = np.random.default_rng(4)
    U, V = draw.normal(size=(12, 3)) @ draw.normal(size=(3, 6)), draw.normal(size=(9, 6))
    _, y = _line(
        plots.factor_spectrum(lfm_np.Factors(U, V, item_bias=np.full(9, 50.0), global_bias=7.0), labels=["one"])
    )
    mine = np.linalg.svd(U @ V.T, compute_uv=False)[:6]
    return wrong(values=abs(np.nan_to_num(y) - mine).max() <= 1e-6 * mine[0])


def _curve() -> list[str]:
    """What a callback measured, against seconds, after a break."""
    from lfm_np import plots

    def tell(record: Any, factors: Any) -> None:
        record["doubled"] = 2 * record["iteration"]

    with folder() as place:
        words = {"factors": 2, "random_state": 0, "checkpoint": place / "kept", "callback": tell}
        lfm_np.als(csr(gaps()), iterations=2, **words)
        fit = lfm_np.als(csr(gaps()), iterations=5, **words)
    x, y = _line(plots.training_curve([fit], by="seconds", measure="doubled", labels=["als"]))
    return wrong(y=y.tolist() == [2, 4, 6, 8, 10], x=near(x, np.cumsum([r["seconds"] for r in fit.history]), 1e-9))


NAMES, TRACKS = [f"user {u:02}" for u in range(14)], [1000 + 7 * i for i in range(9)]


def _events(place: Path, name: str, X: np.ndarray, twice: bool = False) -> Path:
    """A CSV of the cells of X; with ``twice`` every cell comes as two records that lie one apart on either side."""
    lines = ["listener,track,stars"]
    for u, i in zip(*np.nonzero(~np.isnan(X)), strict=True):
        for value in (X[u, i] - 1, X[u, i] + 1) if twice else (X[u, i],):
            lines.append(f"{NAMES[u]},{TRACKS[i]},{value}")
    (place / name).write_text("\n".join(lines) + "\n")
    return place / name


def _dense() -> np.ndarray:
    """Every user and item has some, so that rows and columns are those of the names."""
    X = np.where(
        np.random.default_rng(6).random((13, 9)) < 0.4, np.random.default_rng(7).integers(1, 6, (13, 9)), np.nan
    )
    X[np.arange(13), np.arange(13) % 9] = 5.0
    return X


def _fit(place: Path, X: np.ndarray, *words: Any, twice: bool = False) -> Any:
    data = _events(place, "events.csv", X, twice)
    columns = ("--user", "listener", "--item", "track", "--value", "stars", "--factors", 3, "--seed", 4)
    said = command("fit", data, *map(str, columns), *map(str, words), "-o", place / "m.safetensors")
    assert said.status == 0, said.err
    return lfm_np.Factors.load(place / "m.safetensors")


def _rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def _fitted_by_command() -> list[str]:
    """Means of ratings, biases, ν: the objective of the model file, cell after cell."""
    X = _dense()
    words = ("--duplicates", "mean", "--weighting", "ratings", "--biases", "--regularization-exponent", 0.5)
    with folder() as place:
        model = _fit(place, X, *words, "--regularization", 0.4, "--iterations", 4, twice=True)
    ask = Ask("ratings", lam=0.4, nu=0.5, biases=True)
    parts = [
        part.astype(np.float64) for part in (model.user_factors, model.item_factors, model.user_bias, model.item_bias)
    ]
    again = ask.sweeps(X, parts[1], 1, parts[3])
    return wrong(
        cost=near(model.history[-1]["objective"], ask.cost(X, *parts, model.global_bias), 1e-4),
        mu=near(model.global_bias, again.mu, 1e-6),
        steps=len(model.history) == 4,
        falls=again.paid[-1][1] <= model.history[-1]["objective"] * (1 + 1e-4),
    )


def _implicit(place: Path) -> tuple[Any, np.ndarray, Ask]:
    """Liked cells only, ials: the model, and what it was fitted to. Every user and item likes something."""
    X = _dense()
    words = ("--threshold", 3, "--weighting", "ials", "--unobserved-weight", 0.2, "--alpha", 3, "--iterations", 3)
    model = _fit(place, X, *words, "--regularization", 0.3)
    liked = np.full(X.shape, np.nan)
    liked[~np.isnan(X) & (np.nan_to_num(X) >= 3)] = 1.0
    return model, liked, Ask("ials", 3.0, 0.2, 0.3)


def _recommended(seen: bool) -> list[str]:
    """Lists of two users in their order, into CSV; or everything into JSON, seen items too."""
    with folder() as place:
        model, liked, ask = _implicit(place)
        S = scores_of(model)
        if seen:
            said = command("recommend", place / "m.safetensors", "--include-seen", "-n", "50", "-o", place / "all.json")
            found = json.loads((place / "all.json").read_text())
            if isinstance(found, dict):  # by columns
                found = [dict(zip(found, row, strict=True)) for row in zip(*found.values(), strict=True)]
            users, N = list(range(13)), 50
        else:
            users, N = [11, 2], 4
            asked = [word for u in users for word in ("--user", NAMES[u])]
            said = command("recommend", place / "m.safetensors", *asked, "-n", "4")
            found = _rows(said.out)
    mine = []
    for u in users:
        ids = [i for i in best(S[u], np.isnan(liked[u]) | seen, N) if i >= 0]
        mine += [(NAMES[u], TRACKS[i], S[u, i], r) for r, i in enumerate(ids, 1)]
    honest = ask.cost(liked, model.user_factors.astype(np.float64), model.item_factors.astype(np.float64))
    return wrong(
        status=said.status == 0,
        rows=[(r["listener"], int(r["track"]), int(r["rank"])) for r in found] == [(a, b, d) for a, b, _, d in mine],
        scores=len(found) == len(mine) and near([float(r["score"]) for r in found], [c for *_, c, _ in mine], 1e-3),
        cost=near(model.history[-1]["objective"], honest, 1e-4),
    )


def _similar_by_command() -> list[str]:
    """Two items, inner products, more places than items."""
    with folder() as place:
        model, _, _ = _implicit(place)
        asked = ("--item", TRACKS[8], "--item", TRACKS[0], "--metric", "inner", "-n", 12)
        said = command("similar", place / "m.safetensors", *map(str, asked))
    V = model.item_factors.astype(np.float64)
    mine = [
        (str(TRACKS[i]), str(TRACKS[j]), str(r))
        for i in (8, 0)
        for r, j in enumerate(best(V @ V[i], np.ones(9, bool), 9), 1)
    ]
    rows = _rows(said.out)
    first = next(iter(rows[0])) if rows else ""
    return wrong(status=said.status == 0, rows=[(r[first], r["similar"], r["rank"]) for r in rows] == mine)


def _judged_by_command() -> list[str]:
    """Two metrics with a threshold on the test file; a check that fails."""
    held = np.full((13, 9), np.nan)
    held[np.arange(13), (np.arange(13) * 4 + 1) % 9] = 4.0
    held[np.arange(13), (np.arange(13) * 5 + 2) % 9] = 2.0
    with folder() as place:
        model, liked, _ = _implicit(place)
        test = _events(place, "test.csv", held)
        words = ("--metric", "precision@3", "--metric", "auc", "--threshold", "3", "--at-least", "precision@3=1.01")
        columns = ("--user", "listener", "--item", "track", "--value", "stars")
        said = command("evaluate", place / "m.safetensors", test, *words, *columns, "-o", place / "found.csv")
        found = {row["metric"]: row for row in _rows((place / "found.csv").read_text())}
    metrics, had = ("precision@3", "auc"), ~np.isnan(liked)
    popular = np.tile(had.sum(0).astype(np.float64), (13, 1))
    relevant = np.nan_to_num(held) >= 3
    mine = [counted(S, had, relevant, metrics) for S in (scores_of(model), popular)]
    facts: dict[str, Any] = {"status": said.status == 1, "names": set(found) == set(metrics)}
    for name in found:
        for column, numbers in (("model", mine[0]), ("popular", mine[1])):
            facts[f"{name} {column}"] = abs(float(found[name][column]) - numbers[name]) < 1e-3
            facts[f"{name} {column} se"] = abs(float(found[name][f"{column}_se"]) - numbers[f"{name}_se"]) < 1e-3
        facts[f"{name} users"] = int(found[name]["users"]) == mine[0]["users"]
    return wrong(**facts)


RULES: dict[str, tuple[Ask, tuple[Any, ...]]] = {
    "max": (Ask("confidence", 2.0, 0.5, 0.3, 0.5), ("--duplicates", "max")),
    "sum": (Ask("hu-koren", 2.0, 0.5, 0.3, 0.5), ("--duplicates", "sum")),
    "count": (Ask("ials", 2.0, 0.5, 0.3, 0.5), ("--duplicates", "count")),
    "last": (Ask("confidence", 2.0, 0.5, 0.3, 0.5), ("--duplicates", "last")),
    "mean": (Ask("ratings", lam=0.3, nu=0.5, biases=True), ("--duplicates", "mean", "--biases")),
    "threshold": (Ask("ials", 2.0, 0.5, 0.3, 0.5), ("--threshold", 3)),
}


def _updated_by_command(kind: str) -> list[str]:
    """Old and new records of a pair become one; a new user, an old one, and an item that nobody knows."""
    X, (ask, words) = _dense(), RULES[kind]
    if ask.weighting != "ratings":
        words = (*words, "--alpha", ask.alpha, "--unobserved-weight", ask.a0)
    came = [(3, 0, 4.0), (3, 3, 1.0), (13, 2, 4.0), (13, 8, 2.0), (13, 8, 3.0)]
    with folder() as place:
        words = (*words, "--weighting", ask.weighting, "--regularization", ask.lam, "--regularization-exponent", ask.nu)
        model = _fit(place, X, *words, "--iterations", 3)
        rows = ["listener,track,stars", f"{NAMES[3]},77,4"] + [f"{NAMES[u]},{TRACKS[i]},{x}" for u, i, x in came]
        (place / "new.csv").write_text("\n".join(rows) + "\n")
        said = command("update", place / "m.safetensors", place / "new.csv", "-o", place / "n.safetensors")
        new = lfm_np.Factors.load(place / "n.safetensors")
    whole_ = np.vstack([X, np.full((1, 9), np.nan)])
    if kind in ("threshold", "count"):
        whole_[~np.isnan(whole_)] = np.where(
            whole_[~np.isnan(whole_)] >= (3 if kind == "threshold" else 0), 1.0, np.nan
        )
    for u, i in {(u, i) for u, i, _ in came}:
        fresh = [x for a, b, x in came if (a, b) == (u, i) and (kind != "threshold" or x >= 3)]
        old = [] if np.isnan(whole_[u, i]) else [float(whole_[u, i])]
        if fresh:
            mean = [sum(fresh) / len(fresh)]
            whole_[u, i] = {
                "max": max(old + fresh),
                "sum": sum(old + fresh),
                "count": sum(old) + len(fresh),
                "last": fresh[-1],
                "mean": sum(old + mean) / len(old + mean),
                "threshold": 1.0,
            }[kind]
    off = model.global_bias + model.item_bias.astype(np.float64) if ask.biases else 0.0
    mine, bias = ask.rows(whole_[[3, 13]], model.item_factors.astype(np.float64), off, ask.biases)
    others = np.delete(np.arange(13), 3)
    there = new.shape == (14, 9)
    return wrong(
        status=said.status == 0,
        rows=there and near(new.user_factors[[3, 13]], mine, 1e-3),
        bias=not ask.biases or (there and near(new.user_bias[[3, 13]], bias, 1e-3)),
        others=np.array_equal(new.user_factors[others], model.user_factors[others]),
    )


def _mapped_items() -> list[str]:
    """Some items by the two strongest factors of a fit, each mirrored or not."""
    from lfm_np import plots

    fit = lfm_np.als(csr(gaps(20, 12, 4)), factors=4, iterations=3, random_state=0, dtype="float64", alpha=5.0)
    items = [7, 0, 11, 3]
    ax = plots.item_map(fit, items=items, labels=[f"item {i}" for i in range(12)], counts=np.arange(12), view="factors")
    found = np.asarray(ax.collections[0].get_offsets(), np.float64)
    mine = fit.item_factors[items, :2]
    order = [np.lexsort(np.round(abs(points), 9).T) for points in (found, mine)]
    return wrong(points=near(abs(found[order[0]]), abs(mine[order[1]]), 1e-9))


def _honest(fit: Any, X: np.ndarray, ask: Ask) -> bool:
    """The objective of the file's history, cell after cell."""
    U, V = fit.user_factors.astype(np.float64), fit.item_factors.astype(np.float64)
    parts = [None if part is None else part.astype(np.float64) for part in (fit.user_bias, fit.item_bias)]
    return near(fit.history[-1]["objective"], ask.cost(X, U, V, *parts, fit.global_bias or 0.0), 1e-4)


def _kept_by_command() -> list[str]:
    """Two sweeps, then four by the same file, with ν, from a matrix in .npz."""
    X = _dense()
    with folder() as place:
        sp.save_npz(place / "X.npz", sp.csr_matrix(csr(X)))
        words = ("fit", place / "X.npz", "--factors", "3", "--alpha", "4", "--regularization-exponent", "0.5")
        ends = [
            command(*words, "--iterations", n, "--checkpoint", place / "kept", "-o", place / "m.safetensors").status
            for n in ("2", "4")
        ]
        fit = lfm_np.Factors.load(place / "m.safetensors")
    ask = Ask("hu-koren", 4.0, 1.0, 0.01, 0.5)
    return wrong(ends=ends == [0, 0], sweeps=len(fit.history) == 4, honest=_honest(fit, X, ask))


def _held_by_command() -> list[str]:
    """Each user's last cell goes into a file; the model is of the others, and the file is judged."""
    X = _dense()
    X[:, 0] = np.arange(13) % 5 + 1.0
    X[:, 8] = 3.0
    hours = np.random.default_rng(3).permutation(X.size).reshape(X.shape)
    lines = [
        f"{NAMES[u]}\t{TRACKS[i]}\t{X[u, i]}\t{hours[u, i]}" for u, i in zip(*np.nonzero(~np.isnan(X)), strict=True)
    ]
    with folder() as place:
        (place / "events.tsv").write_text("\n".join(["user\titem\tstars\twhen", *lines]) + "\n")
        words = ("--value", "stars", "--timestamp", "when", "--by", "last", "--weighting", "ials", "--iterations", "2")
        said = command(
            "fit", place / "events.tsv", *words, "--hold-out", place / "test.csv", "--unobserved-weight", "0.3",
            "--factors", "3", "-o", place / "m.safetensors",
        )  # fmt: skip
        fit = lfm_np.Factors.load(place / "m.safetensors")
        test = _rows((place / "test.csv").read_text())
    rest, last = X.copy(), []
    for u in range(13):
        i = int(np.argmax(np.where(np.isnan(X[u]), -1, hours[u])))
        last.append((NAMES[u], str(TRACKS[i])))
        rest[u, i] = np.nan
    return wrong(
        status=said.status == 0,
        test=sorted((row["user"], row["item"]) for row in test) == sorted(last),
        honest=_honest(fit, rest, Ask("ials", 1.0, 0.3, 0.01)),
    )


def _cored_by_command() -> list[str]:
    """Users with at least three cells, items with at least four, counts instead of values."""
    from .cases_pairs_of_tables import gathered

    X = _dense()
    pairs = [(NAMES[u], TRACKS[i], float(X[u, i]), None) for u, i in zip(*np.nonzero(~np.isnan(X)), strict=True)]
    mine = gathered(pairs * 2, "count", "keep", (3, 4), True, False)
    users, items = sorted({u for u, _ in mine}), sorted({i for _, i in mine})
    rest = np.full((len(users), len(items)), np.nan)
    for (u, i), (x, _) in mine.items():
        rest[users.index(u), items.index(i)] = x
    words = ("--duplicates", "count", "--min-user-interactions", 3, "--min-item-interactions", 4, "--iterations", 2)
    with folder() as place:
        fit = _fit(place, X, *words, "--weighting", "confidence", "--alpha", 3, "--regularization", 0.2, twice=True)
    return wrong(shape=fit.shape == rest.shape, honest=_honest(fit, rest, Ask("confidence", 3.0, 1.0, 0.2)))


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    if installed("matplotlib"):
        yield _holds("commands: coverage of some users, equal scores", _covered)
        yield _holds("commands: precision of two results past the items", _metrics_drawn)
        yield _holds("commands: the spectrum of spare factors, biases", _spectrum)
        yield _holds("commands: a map of four items by two factors", _mapped_items)
        yield _holds("commands: a curve by seconds of a fit with a break", _curve)
    if installed("typer", "pyarrow", "narwhals"):
        yield _holds("commands: fit by command, means of ratings, biases, ν", _fitted_by_command)
        yield _holds("commands: recommend by command, two users", lambda: _recommended(False))
        yield _holds("commands: recommend by command, seen too, JSON", lambda: _recommended(True))
        yield _holds("commands: similar by command, inner products", _similar_by_command)
        yield _holds("commands: evaluate by command, threshold and a check", _judged_by_command)
        for kind in RULES:
            yield _holds(
                f"commands: update by command, old and new records, {kind}", lambda a=kind: _updated_by_command(a)
            )
        yield _holds("commands: fit by command, .npz, ν, a checkpoint", _kept_by_command)
        yield _holds("commands: fit by command, the last held out, .tsv, ials", _held_by_command)
        yield _holds("commands: fit by command, counts in cores", _cored_by_command)
