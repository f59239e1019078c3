"""Programs typed into a shell, whose files and answers are counted, sorted and solved once more."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

import lfm_np as _library

from .case import Case, Group, installed
from .cases_eleventh_hour_with_ratings import Rating
from .working_days import NAN, Model, all_scores, best, close, faultless, folder, judged, same, stars, typed, wrong

lfm_np: Any = _library
_GROUP = Group("eleventh hour")
_holds = faultless(_GROUP)
USERS = [f"{u:03d}" for u in (7, 12, 70, 100, 101, 250, 300, 301, 444, 500, 501, 999)]
ITEMS = ["a, b", "jam", "tea", 'x"y', "z1", "z2", "z3", "ä"]
SHOP = Model("hu-koren", alpha=2.0, a0=0.5, lam=0.6, nu=0.5)
WEIGHTS = (
    "--alpha", 2, "--unobserved-weight", 0.5, "--regularization", 0.6, "--regularization-exponent", 0.5, "--factors", 3,
    "--iterations", 3,
)  # fmt: skip
NAMES = ("--user", "who", "--item", "what", "--value", "n")


def _inside(work: Callable[..., list[str]]) -> Callable[..., list[str]]:
    def call(*arguments: Any) -> list[str]:
        with folder() as place:
            return work(place, *arguments)

    return call


def _write(path: Path, X: np.ndarray, users: Sequence[str] = USERS, delimiter: str = ",", turn: bool = False) -> Path:
    """A line for every number of X, the last first where so asked, and a time that rises."""
    lines = [(users[u], ITEMS[i], f"{X[u, i]:g}") for u, i in zip(*np.nonzero(~np.isnan(X)), strict=True)]
    with open(path, "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, delimiter=delimiter)
        table.writerow(["who", "what", "n", "when"])
        table.writerows([*line, t] for t, line in enumerate(reversed(lines) if turn else lines))
    return path


def _answer(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def _load(place: Path, name: str = "m.safetensors") -> Any:
    return lfm_np.Factors.load(place / name)


def _fit(place: Path, X: np.ndarray, *words: Any, turn: bool = False) -> Any:
    _write(place / "in.csv", X, turn=turn)
    return typed(place, "fit", "in.csv", *NAMES, "--text", "user", "-o", "m.safetensors", *words)


def _lists(S: np.ndarray, allowed: np.ndarray, users: Sequence[int], N: int) -> list[tuple[str, str, int]]:
    return [
        (USERS[u], ITEMS[i], rank)
        for u in users
        for rank, i in enumerate((i for i in best(S[u], allowed[u], N) if i >= 0), 1)
    ]


def _told(rows: list[dict[str, str]], item: str = "what") -> list[tuple[str, str, int]]:
    return [(row["who"], row[item], int(row["rank"])) for row in rows]


@_inside
def _clicks(place: Path) -> list[str]:
    """fit, recommend with and without what was seen, to a file and to a pipe."""
    X = stars(12, 8, seed=1)
    said = _fit(place, X, *WEIGHTS)
    fit = _load(place)
    U, V = fit.user_factors.astype(float), fit.item_factors.astype(float)
    S, free = fit.scores(np.repeat(range(12), 8), np.tile(range(8), 12)).reshape(12, 8), np.isnan(X)
    some = typed(place, "recommend", "m.safetensors", "--user", "501", "--user", "007", "-n", 20)
    seen = typed(place, "recommend", "m.safetensors", "--user", "012", "-n", 8, "--include-seen", "--threads", 1)
    typed(place, "recommend", "m.safetensors", "-n", 3, "-o", "all.csv")
    everybody = _answer((place / "all.csv").read_text("utf-8"))
    return wrong(
        status=said.status == some.status == seen.status == 0,
        items=close(V, SHOP.half(X.T, U), 1e-4),
        objective=close(fit.history[-1]["objective"], SHOP.objective(X, U, V), 1e-4) and len(fit.history) == 3,
        some=_told(_answer(some.out)) == _lists(S, free, [10, 0], 20),
        seen=_told(_answer(seen.out)) == _lists(S, np.ones_like(free), [1], 8),
        all=_told(everybody) == _lists(S, free, range(12), 3),
        scores=close([float(r["score"]) for r in everybody[:3]], S[0][best(S[0], free[0], 3)], 1e-4),
    )


@_inside
def _ratings(place: Path) -> list[str]:
    """Biases, ν of 1 and a rating of zero; means and items by loops."""
    X = stars(12, 8, seed=2) - 1
    said = _fit(
        place, X, "--weighting", "ratings", "--biases", "--regularization", 0.3, "--regularization-exponent", 1,
        "--factors", 2, "--iterations", 4, "--seed", 5,
    )  # fmt: skip
    fit = _load(place)
    V, b = Rating(0.3, 1.0).half(X.T, fit.user_factors.astype(float), fit.user_bias.astype(float), fit.global_bias)
    listed = _answer(typed(place, "recommend", "m.safetensors", "-n", 8).out)
    pairs = {(row["who"], row["what"]) for row in listed}
    return wrong(
        said=said.status == 0, mean=close(fit.global_bias, np.nanmean(X), 1e-6),
        items=close(fit.item_factors, V, 1e-3) and close(fit.item_bias, b, 1e-3), seed=fit.params["seed"] == 5,
        seen=pairs == {(u, i) for r, u in enumerate(USERS) for c, i in enumerate(ITEMS) if np.isnan(X[r, c])},
    )  # fmt: skip


@_inside
def _judged(place: Path) -> list[str]:
    """A test of one's own: the model and the charts beside it, and a bar that is just met and just missed."""
    X = stars(12, 8, seed=3)
    out = ~np.isnan(X) & (np.random.default_rng(1).random(X.shape) < 0.4)
    learn, test = np.where(out, NAN, X), np.where(out, X, NAN)
    learn[:8][np.arange(8), np.arange(8)] = 2.0
    learn[np.arange(12), np.arange(12) % 8] = 2.0
    test[~np.isnan(learn)] = NAN
    _fit(place, learn, *WEIGHTS)
    _write(place / "test.csv", test)
    fit = _load(place)
    S = fit.scores(np.repeat(range(12), 8), np.tile(range(8), 12)).reshape(12, 8)
    L, names = ~np.isnan(learn), ("recall@3", "map@3", "auc", "mrr")
    charts = np.tile(L.sum(0).astype(float), (12, 1))
    liked = np.nan_to_num(test) >= 3
    facts = {}
    for part, T, more in (("all", ~np.isnan(test), ()), ("liked", liked, ("--threshold", 3))):
        mine, popular = judged(S.astype(float), L, T, 3), judged(charts, L, T, 3)
        asked = [word for name in names for word in ("--metric", name)]
        bar = ("--at-least", f"recall@3={mine['recall@3'] - 1e-6}")
        said = typed(place, "evaluate", "m.safetensors", "test.csv", *asked, *more, *bar, "-o", f"{part}.csv")
        rows = {row["metric"]: row for row in _answer((place / f"{part}.csv").read_text())}
        facts[f"{part} met"] = said.status == 0
        facts[f"{part} model"] = all(abs(float(rows[name]["model"]) - mine[name]) < 6e-4 for name in names)
        facts[f"{part} error"] = all(abs(float(rows[name]["model_se"]) - mine[f"{name}_se"]) < 6e-4 for name in names)
        facts[f"{part} charts"] = all(abs(float(rows[name]["popular"]) - popular[name]) < 6e-4 for name in names)
        facts[f"{part} users"] = {row["users"] for row in rows.values()} == {str(mine["users"])}
        missed = typed(place, "evaluate", "m.safetensors", "test.csv", *more, "--at-least", f"mrr={mine['mrr'] + 1e-3}")
        facts[f"{part} missed"] = missed.status == 1 and "failed" in missed.out + missed.err
    return wrong(**facts)


@_inside
def _alike(place: Path) -> list[str]:
    """Neighbours by cosine of items, by inner product of users."""
    _fit(place, stars(12, 8, seed=4), *WEIGHTS)
    fit = _load(place)
    V, U = fit.item_factors.astype(float), fit.user_factors.astype(float)
    D = V / np.linalg.norm(V, axis=1, keepdims=True)
    items = _answer(typed(place, "similar", "m.safetensors", "--item", 'x"y', "--item", "a, b", "-n", 4).out)
    users = _answer(typed(place, "similar", "m.safetensors", "--user", "007", "--metric", "inner", "-n", 30).out)
    near = [best((D @ D.T)[i], np.ones(8, bool), 4) for i in (3, 0)]
    inner = best((U @ U.T)[0], np.ones(12, bool), 12)
    return wrong(
        items=[row["similar"] for row in items] == [ITEMS[j] for row in near for j in row],
        cosines=close([float(row["score"]) for row in items[:4]], (D @ D.T)[3][near[0]], 1e-4),
        users=[row["similar"] for row in users] == [USERS[j] for j in inner],
        ranks=[row["rank"] for row in items] == ["1", "2", "3", "4"] * 2,
    )


@_inside
def _updated(place: Path, how: str) -> list[str]:
    """Pairs that were there and new ones, two records of one pair, a newcomer, an item nobody knows."""
    X = stars(12, 8, seed=5)
    X[1, 2], X[1, 7] = 2.0, NAN
    _fit(place, X, *WEIGHTS, "--duplicates", how)
    fit = _load(place)
    (place / "new.csv").write_text(
        "who,what,n,when\n012,tea,5,1\n012,ä,3,2\n012,ä,4,3\n011,jam,1,4\n011,soap,9,5\n", "utf-8"
    )
    said = typed(place, "update", "m.safetensors", "new.csv", "-o", "n.safetensors")
    more = _load(place, "n.safetensors")
    row, new = X[1].copy(), np.full(8, NAN)
    row[2], row[7], new[1] = {
        "sum": (7.0, 7.0, 1.0), "max": (5.0, 4.0, 1.0), "mean": (3.5, 3.5, 1.0), "last": (5.0, 4.0, 1.0),
        "count": (2.0, 2.0, 1.0),
    }[how]  # fmt: skip
    if how == "count":
        row[~np.isnan(X[1])] = 1.0
        row[2] = 2.0
    solved = SHOP.half(np.array([row, new]), fit.item_factors.astype(float))
    others = [0, *range(2, 12)]
    left = {row["what"] for row in _answer(typed(place, "recommend", "n.safetensors", "--user", "012").out)}
    told = dict(list(csv.reader(io.StringIO(typed(place, "info", "n.safetensors").out)))[1:])
    someone = _answer(typed(place, "recommend", "n.safetensors", "--user", "011", "-n", 9).out)
    return wrong(
        said=said.status == 0, others=np.array_equal(more.user_factors[others], fit.user_factors[others]),
        items=np.array_equal(more.item_factors, fit.item_factors),
        solved=close(more.user_factors[[1, 12]], solved, 1e-4),
        seen=left == {i for c, i in enumerate(ITEMS) if np.isnan(row[c])},
        told=told["users"] == "13" and told["items"] == "8",
        newcomer=len(someone) == 7 and "jam" not in {row["what"] for row in someone},
    )  # fmt: skip


@_inside
def _threshold(place: Path) -> list[str]:
    """Opinions of three and more count one, of users with two of them and items with two; so do later ones."""
    X = stars(12, 8, seed=6)
    said = _fit(place, X, *WEIGHTS, "--threshold", 3, "--min-user-interactions", 2, "--min-item-interactions", 2)
    keep = np.nan_to_num(X) >= 3
    size = -1
    while keep.sum() != size:
        size = int(keep.sum())
        keep[keep.sum(1) < 2] = False
        keep[:, keep.sum(0) < 2] = False
    rows, columns = np.flatnonzero(keep.any(1)), np.flatnonzero(keep.any(0))
    Z = np.where(keep, 1.0, NAN)[rows][:, columns]
    fit = _load(place)
    user, item = USERS[rows[0]], ITEMS[columns[np.flatnonzero(np.isnan(Z[0]))[0]]]
    (place / "new.csv").write_text(f'who,what,n\n{user},"{item.replace(chr(34), chr(34) * 2)}",5\n', "utf-8")
    later = typed(place, "update", "m.safetensors", "new.csv", "-o", "n.safetensors")
    more, W = _load(place, "n.safetensors"), Z.copy()
    Z[0, np.flatnonzero(np.isnan(Z[0]))[0]] = 1.0
    return wrong(
        said=said.status == later.status == 0, shape=fit.shape == Z.shape,
        items=close(fit.item_factors, SHOP.half(W.T, fit.user_factors.astype(float)), 1e-4),
        later=close(more.user_factors[0], SHOP.half(Z[:1], fit.item_factors.astype(float))[0], 1e-4),
    )  # fmt: skip


@_inside
def _held_out(place: Path, by: str) -> list[str]:
    """What is held out is in the file, and nothing of it in the fit."""
    X = stars(12, 8, seed=7)
    share = () if by == "last" else ("--fraction", 0.25)
    words = ("--timestamp", "when", "--hold-out", "test.csv", "--by", by, *share)
    said = _fit(place, X, *WEIGHTS, *words, turn=True)
    held = {(row["who"], row["what"]) for row in _answer((place / "test.csv").read_text("utf-8"))}
    cells = [(u, i) for u, i in zip(*np.nonzero(~np.isnan(X)), strict=True)][::-1]
    if by == "last":
        last = {u: (u, i) for u, i in cells if sum(v == u for v, _ in cells) > 1}
        mine = {(USERS[u], ITEMS[i]) for u, i in last.values()}
    else:
        mine = {(USERS[u], ITEMS[i]) for u, i in cells[len(cells) - int(0.25 * len(cells)) :]}
    learn = X.copy()
    for u, i in held:
        learn[USERS.index(u), ITEMS.index(i)] = NAN
    fit = _load(place)
    facts = {
        "said": said.status == 0,
        "items": close(fit.item_factors, SHOP.half(learn.T, fit.user_factors.astype(float)), 1e-4),
    }
    if by == "random":
        facts["some"] = 0 < len(held) < 0.5 * len(cells) and bool((~np.isnan(learn)).any(1).all())
    else:
        facts["held"] = held == mine
    return wrong(**facts)


@_inside
def _gone_on(place: Path) -> list[str]:
    """Two sweeps and a checkpoint, then three: the bits of three; another α is a mistake."""
    X = stars(12, 8, seed=8)
    whole = _fit(place, X, *WEIGHTS)
    words = [*NAMES, "--text", "user", *WEIGHTS[:-1]]
    first = typed(place, "fit", "in.csv", *words, 2, "--checkpoint", "c", "-o", "a.safetensors", "--threads", 2)
    then = typed(place, "fit", "in.csv", *words, 3, "--checkpoint", "c", "-o", "a.safetensors", "--threads", 1)
    other = typed(place, "fit", "in.csv", *words, 3, "--checkpoint", "c", "-o", "b.safetensors", "--alpha", 3)
    return wrong(
        status=whole.status == first.status == then.status == 0,
        same=same(_load(place), _load(place, "a.safetensors")),
        other=other.status == 2 and "alpha" in other.err and not (place / "b.safetensors").exists(),
    )


@_inside
def _numbers(place: Path, kind: str) -> list[str]:
    """A sparse matrix, or an array for each column, in a .npz: ids are numbers; recommendations as JSON."""
    X = stars(12, 8, seed=9)
    rows, columns = np.nonzero(~np.isnan(X))
    if kind == "matrix":
        sp.save_npz(place / "x.npz", sp.csr_array((X[rows, columns], (rows, columns)), shape=X.shape))
        users, items = list(range(12)), list(range(8))
        said = typed(place, "fit", "x.npz", *WEIGHTS, "-o", "m.safetensors")
    else:
        users, items = [u * 3 + 5 for u in range(12)], [-i for i in range(8)][::-1]
        np.savez(place / "x.npz", who=np.array(users)[rows], what=np.array(items)[columns], n=X[rows, columns])
        said = typed(place, "fit", "x.npz", *NAMES, *WEIGHTS, "-o", "m.safetensors")
    fit = _load(place)
    typed(place, "recommend", "m.safetensors", "--user", users[4], "-n", 2, "-o", "two.json")
    two = json.loads((place / "two.json").read_text())
    S = fit.scores(4, range(8))
    text = json.dumps(two)
    return wrong(
        said=said.status == 0, items=close(fit.item_factors, SHOP.half(X.T, fit.user_factors.astype(float)), 1e-4),
        first=all(str(items[i]) in text for i in best(S, np.isnan(X[4]), 2)) and str(users[4]) in text,
    )  # fmt: skip


@_inside
def _elsewhere(place: Path) -> list[str]:
    """The same table with semicolons; the interactions lost, and given again by --data."""
    X = stars(12, 8, seed=10)
    said = _fit(place, X, *WEIGHTS)
    _write(place / "semi.csv", X, delimiter=";")
    words = (*NAMES, "--text", "user", "--delimiter", ";", *WEIGHTS, "--nulls", "drop")
    semi = typed(place, "fit", "semi.csv", *words, "-o", "s.safetensors")
    before = typed(place, "recommend", "m.safetensors", "-n", 4)
    (place / "m.interactions.npz").unlink()
    lost = typed(place, "recommend", "m.safetensors", "-n", 4)
    after = typed(place, "recommend", "m.safetensors", "-n", 4, "--data", "in.csv")
    S, free = all_scores(_load(place)), np.isnan(X)
    return wrong(
        said=said.status == semi.status == before.status == 0 and same(_load(place), _load(place, "s.safetensors")),
        lost=lost.status == 2 and "interactions" in lost.err,
        before=_told(_answer(before.out)) == _lists(S, free, range(12), 4),
        after=after.status == 0 and after.out == before.out,
    )


@_inside
def _by_steps(place: Path) -> list[str]:
    """BPR by a command: what its file says, lists of its scores, and neither update nor a diverging rate goes well."""
    X = stars(12, 8, seed=11)
    sgd = ("--method", "sgd", "--loss", "BPR", "--factors", 2, "--iterations", 6, "--learning-rate", 0.03, "--seed", 3)
    said = _fit(place, X, *sgd, "--negatives", 2, "--regularization", 0.02)
    fit = _load(place)
    listed = _answer(typed(place, "recommend", "m.safetensors", "-n", 3).out)
    update = typed(place, "update", "m.safetensors", "in.csv", "-o", "n.safetensors")
    S = fit.scores(np.repeat(range(12), 8), np.tile(range(8), 12)).reshape(12, 8)
    return wrong(
        said=said.status == 0 and len(fit.history) == 6,
        rate=fit.params["learning_rate"] == 0.03 and fit.params["negatives"] == 2,
        seed=fit.params["seed"] == 3,
        lists=_told(listed) == _lists(S, np.isnan(X), range(12), 3), update=update.status == 2 and "als" in update.err,
    )  # fmt: skip


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    if not installed("typer", "pyarrow", "narwhals"):
        return
    yield _holds("typed: clicks to lists", _clicks)
    yield _holds("typed: ratings with biases", _ratings)
    yield _holds("typed: a bar met and missed", _judged)
    yield _holds("typed: neighbours", _alike)
    for how in ("sum", "max", "mean", "last", "count"):
        yield _holds(f"typed: an update, {how}", lambda a=how: _updated(a))
    yield _holds("typed: opinions and a core", _threshold)
    for by in ("last", "time", "random"):
        yield _holds(f"typed: held out by {by}", lambda a=by: _held_out(a))
    yield _holds("typed: a checkpoint", _gone_on)
    for kind in ("matrix", "columns"):
        yield _holds(f"typed: numbers in a {kind} file", lambda a=kind: _numbers(a))
    yield _holds("typed: data given again", _elsewhere)
    yield _holds("typed: steps", _by_steps)
