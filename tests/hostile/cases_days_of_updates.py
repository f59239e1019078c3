"""Weeks of working days: updates upon updates at the command line and in Python, beside dictionaries and float64."""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

import lfm_np
from lfm_np import losses

from .case import Case, Group, installed
from .working_days import (
    NAN,
    Model,
    all_scores,
    best,
    close,
    csr,
    dense,
    folder,
    judged,
    raised,
    same,
    stars,
    tells,
    typed,
    wrong,
)

_GROUP = Group("week of days")
FIT = ("--factors", 3, "--alpha", 2, "--regularization", 0.5, "--iterations", 3)
RULE = Model("hu-koren", alpha=2.0, lam=0.5)


def _day(name: str, call: Any) -> Case:
    return _GROUP.right(name, call, lambda failed: failed == [])


def _write(path: Path, records: Any) -> None:
    lines = ["user,item,plays,time", *(",".join(map(str, record)) for record in records)]
    path.write_text("\n".join(lines) + "\n")


def _records(seed: int = 71) -> list[tuple[int, int, int, int]]:
    draw = np.random.default_rng(seed)
    cells = [(u, i) for u in range(20) for i in range(12) if draw.random() < 0.4]
    return [(u, i, int(draw.integers(1, 9)), 100 + t) for t, (u, i) in enumerate(cells)]


def _scores(place: Path, user: Any, model: str = "m.safetensors") -> dict[int, float]:
    said = typed(place, "recommend", model, "-n", 99, "--include-seen", "--user", user)
    return {int(row["item"]): float(row["score"]) for row in csv.DictReader(io.StringIO(said.out))}


def _meets(place: Path, user: int, row: dict[int, float], rule: Model = RULE) -> bool:
    """Whether a user's scores in the model are those of a row solved by hand."""
    V = lfm_np.Factors.load(place / "m.safetensors").item_factors.astype(float)
    x = np.array([row.get(i, NAN) for i in range(12)])
    found = _scores(place, user)
    return close([found[i] for i in range(12)], (rule.half(x[None], V) @ V.T)[0], 2e-5)


def _kept(before: np.ndarray, after: np.ndarray) -> int:
    """How many users have the factors that they had."""
    return len({row.tobytes() for row in before} & {row.tobytes() for row in after})


def _updated(duplicates: str, timed: bool, early: bool = False) -> list[str]:
    records, cells = _records(), {}
    for u, i, p, _ in records:
        cells.setdefault(u, {})[i] = 1.0 if duplicates == "count" else float(p)
    old = next(i for i in cells[4])
    new = next(i for i in range(12) if i not in cells[4])
    today = [(4, old, 3, 1 if early else 9999), (4, new, 5, 9999), (77, new, 2, 9999), (77, 500, 2, 9999)]
    was = cells[4][old]
    now = {"sum": was + 3, "max": max(was, 3), "last": was if early else 3, "mean": (was + 3) / 2, "count": was + 1}
    one = {"count": 1.0}
    row = {**cells[4], old: float(now[duplicates]), new: one.get(duplicates, 5.0)}
    with folder() as place:
        _write(place / "e.csv", records)
        _write(place / "today.csv", today)
        words = ("--value", "plays", "--duplicates", duplicates, *(("--timestamp", "time") if timed else ()))
        fit = typed(place, "fit", "e.csv", *words, *FIT, "-o", "m.safetensors")
        before = lfm_np.Factors.load(place / "m.safetensors").user_factors
        up = typed(place, "update", "m.safetensors", "today.csv", "-o", "m.safetensors")
        return wrong(
            status=fit.status == 0 and up.status == 0,
            known=_meets(place, 4, row),
            newcomer=_meets(place, 77, {new: one.get(duplicates, 2.0)}),
            others=_kept(before, lfm_np.Factors.load(place / "m.safetensors").user_factors) == 19,
        ) + ([] if up.status == 0 else [up.err[-200:]])


def _every_day_of_a_week() -> list[str]:
    draw, records = np.random.default_rng(72), _records(72)
    cells: dict[int, dict[int, float]] = {}
    for u, i, p, _ in records:
        cells.setdefault(u, {})[i] = float(p)
    with folder() as place:
        _write(place / "e.csv", records)
        typed(place, "fit", "e.csv", "--value", "plays", *FIT, "-o", "m.safetensors")
        touched = set()
        for day in range(3):
            today = [
                (int(draw.integers(-3, 25)), int(draw.integers(12)), int(draw.integers(1, 4)), day) for _ in range(4)
            ]
            for u, i, p, _ in today:
                cells.setdefault(u, {})[i] = cells.get(u, {}).get(i, 0.0) + p
                touched.add(u)
            _write(place / "today.csv", today)
            said = typed(place, "update", "m.safetensors", "today.csv", "-o", "m.safetensors")
            if said.status:
                return [said.err]
        V = lfm_np.Factors.load(place / "m.safetensors").item_factors.astype(float)
        every = typed(place, "recommend", "m.safetensors", "-n", 99, "--include-seen")
        found = np.full((40, 12), NAN)
        for row in csv.DictReader(io.StringIO(every.out)):
            found[int(row["user"]), int(row["item"])] = float(row["score"])
        lost = []
        for u in sorted(touched):
            x = np.array([cells[u].get(i, NAN) for i in range(12)])
            lost += [] if close(found[u], (RULE.half(x[None], V) @ V.T)[0], 2e-5) else [u]
        out = typed(place, "recommend", "m.safetensors", "-n", 3)
        seen = [row for row in csv.DictReader(io.StringIO(out.out)) if int(row["item"]) in cells[int(row["user"])]]
    return wrong(users=lost == [], seen=seen == [])


def _threshold_then_update() -> list[str]:
    records = _records(73)
    cells: dict[int, dict[int, float]] = {}
    for u, i, p, _ in records:
        if p >= 4:
            cells.setdefault(u, {})[i] = 1.0
    who = sorted(cells)[2]
    fresh = [i for i in range(12) if i not in cells[who]]
    today = [(who, fresh[0], 8, 1), (who, fresh[1], 3, 2), (who, next(iter(cells[who])), 7, 3)]
    with folder() as place:
        _write(place / "e.csv", records)
        _write(place / "today.csv", today)
        words = ("--value", "plays", "--threshold", 4)
        fit = typed(place, "fit", "e.csv", *words, *FIT, "-o", "m.safetensors")
        up = typed(place, "update", "m.safetensors", "today.csv", "-o", "m.safetensors")
        return wrong(
            status=fit.status == 0 and up.status == 0, row=_meets(place, who, {**cells[who], fresh[0]: 1.0})
        ) + ([] if up.status == 0 else [up.err[-200:]])


def _ratings_updated() -> list[str]:
    records = _records(74)
    cells: dict[int, dict[int, float]] = {}
    for u, i, p, _ in records:
        cells.setdefault(u, {})[i] = float(p)
    fresh = next(i for i in range(12) if i not in cells[6])
    rule = Model("ratings", lam=0.5)
    with folder() as place:
        _write(place / "e.csv", records)
        _write(place / "today.csv", [(6, fresh, 0, 1), (50, 3, 0, 2), (50, 4, 5, 2)])
        words = ("--value", "plays", "--weighting", "ratings", "--duplicates", "last", "--regularization", 0.5)
        fit = typed(place, "fit", "e.csv", *words, "--factors", 3, "-o", "m.safetensors")
        up = typed(place, "update", "m.safetensors", "today.csv", "-o", "m.safetensors")
        out = typed(place, "recommend", "m.safetensors", "--user", 50, "-n", 99)
        listed = {int(row["item"]) for row in csv.DictReader(io.StringIO(out.out))}
        return wrong(
            status=fit.status == 0 and up.status == 0,
            zero=_meets(place, 6, {**cells[6], fresh: 0.0}, rule),
            newcomer=_meets(place, 50, {3: 0.0, 4: 5.0}, rule),
            zeros_seen=listed == set(range(12)) - {3, 4},
        )


def _torn_update() -> list[str]:
    with folder() as place:
        _write(place / "e.csv", _records())
        typed(place, "fit", "e.csv", "--value", "plays", *FIT, "-o", "m.safetensors")
        before = {path.name: path.read_bytes() for path in place.iterdir()}
        (place / "bad.csv").write_text("user,item,plays,time\n4,3,nine,1\n")
        bad = typed(place, "update", "m.safetensors", "bad.csv", "-o", "m.safetensors")
        (place / "bad.csv").write_text("user,thing\n4,3\n")
        names = typed(place, "update", "m.safetensors", "bad.csv", "-o", "m.safetensors")
        (place / "bad.csv").unlink()
        after = {path.name: path.read_bytes() for path in place.iterdir()}
        typed(place, "fit", "e.csv", "--value", "plays", "--factors", 2, "-o", "other.safetensors")
        (place / "other.safetensors").rename(place / "m.safetensors")
        (place / "m.interactions.npz").unlink()
        alone = typed(place, "recommend", "m.safetensors", "-n", 1)
        given = typed(place, "recommend", "m.safetensors", "-n", 1, "--data", "other.interactions.npz")
    return wrong(
        bad=bad.status == 2 and "value" in bad.err,
        names=names.status == 2 and ("item" in names.err or "plays" in names.err),
        kept=after == before,
        alone=alone.status == 2 and "m.interactions.npz" in alone.err,
        given=given.status == 0 and len(given.out.splitlines()) == 21,
    )


def _mismatched_pair() -> list[str]:
    with folder() as place:
        _write(place / "e.csv", _records())
        _write(place / "f.csv", _records()[:-30])
        typed(place, "fit", "e.csv", *FIT, "-o", "m.safetensors")
        typed(place, "fit", "f.csv", *FIT, "-o", "n.safetensors")
        (place / "n.interactions.npz").replace(place / "m.interactions.npz")
        said = typed(place, "recommend", "m.safetensors")
    return wrong(status=said.status == 2, told="interactions" in said.err or "users" in said.err)


def _test_of_strangers() -> list[str]:
    records = _records(75)
    with folder() as place:
        _write(place / "e.csv", records)
        typed(place, "fit", "e.csv", *FIT, "-o", "m.safetensors")
        X = np.zeros((20, 12), bool)
        for u, i, *_ in records:
            X[u, i] = True
        tests = [(u, int(np.flatnonzero(~X[u])[0]), 1, 1) for u in range(0, 20, 2)]
        _write(place / "t.csv", tests)
        only = typed(place, "evaluate", "m.safetensors", "t.csv", "--metric", "ndcg@3", "--metric", "auc")
        _write(place / "t.csv", [*tests, (999, 3, 1, 1), (3, 999, 1, 1)])
        more = typed(place, "evaluate", "m.safetensors", "t.csv", "--metric", "ndcg@3", "--metric", "auc")
        S = all_scores(lfm_np.Factors.load(place / "m.safetensors"))
    Y = np.zeros((20, 12), bool)
    for u, i, *_ in tests:
        Y[u, i] = True
    mine = judged(S, X, Y, 3)
    rows = {row["metric"]: row for row in csv.DictReader(io.StringIO(only.out))}
    return wrong(
        numbers=all(close(float(rows[n]["model"]), mine[n], 1e-6) for n in ("ndcg@3", "auc")),
        strangers=(more.status == 0 and more.out == only.out) or (more.status == 2 and "999" in more.err),
    )


def _held_out_updated() -> list[str]:
    """What was held out is not seen: it may be listed, and an update with it is the whole row."""
    records = _records(76)
    cells: dict[int, dict[int, float]] = {}
    for u, i, p, _ in records:
        cells.setdefault(u, {})[i] = float(p)
    with folder() as place:
        _write(place / "e.csv", records)
        words = ("--value", "plays", "--timestamp", "time", "--hold-out", "t.csv", "--by", "last")
        fit = typed(place, "fit", "e.csv", *words, *FIT, "-o", "m.safetensors")
        held = list(csv.DictReader(io.StringIO((place / "t.csv").read_text())))
        out = typed(place, "recommend", "m.safetensors", "-n", 99)
        listed = {(int(r["user"]), int(r["item"])) for r in csv.DictReader(io.StringIO(out.out))}
        up = typed(place, "update", "m.safetensors", "t.csv", "-o", "m.safetensors")
        rows = [_meets(place, u, cells[u]) for u in sorted(cells)[:3] if len(cells[u]) > 1]
    return wrong(
        status=fit.status == up.status == 0,
        listed=all((int(r["user"]), int(r["item"])) in listed for r in held),
        values=all(float(r["plays"]) == cells[int(r["user"])][int(r["item"])] for r in held),
        rows=all(rows),
    )


def _grown_in_python() -> list[str]:
    """Users, items, users again, each from what was there; lists and metrics of the end."""
    X, rule = stars(20, 12, seed=77), Model("ials", alpha=1.5, a0=0.2, lam=0.03, nu=1.0)
    fit = lfm_np.als(csr(X), factors=3, dtype="float64", random_state=1, **rule.words)
    U, V, full = fit.user_factors, fit.item_factors, X
    for day in range(3):
        users = stars(2, full.shape[1], seed=80 + day)
        fit = fit.update(csr(users), users=[len(U), len(U) + 1])
        U, full = np.vstack([U, rule.half(users, V)]), np.vstack([full, users])
        items = stars(full.shape[0], 1, seed=90 + day)
        with folder() as place:
            fit.save(place / "m")
            fit = lfm_np.Factors.load(place / "m").update(csr(items), items=[len(V)])
        V, full = np.vstack([V, rule.half(items.T, U)]), np.hstack([full, items])
    again = fit.update(csr(full[[7, 2]]), users=[7, 2])
    test = stars(*full.shape, seed=99, share=0.1)
    found = lfm_np.evaluate(again, csr(full), csr(test), ["ndcg@3", "map", "ndcg"])
    W = U.copy()
    W[[7, 2]] = rule.half(full[[7, 2]], V)
    mine = judged(W @ V.T, ~np.isnan(full), ~np.isnan(test), 3)
    return wrong(
        shape=fit.shape == (26, 15),
        scores=close(all_scores(fit), U @ V.T, 1e-7) and close(all_scores(again), W @ V.T, 1e-7),
        ndcg=close(found["ndcg@3"], mine["ndcg@3"], 1e-9),
        lists=again.recommend([25, 7], N=4, seen=csr(full)).ids.tolist()
        == [best((W @ V.T)[u], np.isnan(full[u]), 4) for u in (25, 7)],
    )


def _converged_and_gone_on() -> list[str]:
    X = csr(stars(30, 20, seed=78), np.float32)
    words: dict[str, Any] = {"factors": 3, "random_state": 0, "regularization": 2.0}
    with folder() as place:
        fit = lfm_np.als(X, iterations=300, tolerance=1e-3, checkpoint=place / "c", **words)
        J = [record["objective"] for record in fit.history]
        fell = [(a - b) < 1e-3 * max(a, b) for a, b in itertools.pairwise(J)]
        same_again = lfm_np.als(X, iterations=len(J), checkpoint=place / "c", **words)
        on = lfm_np.als(X, iterations=len(J) + 2, checkpoint=place / "c", **words)
    whole = lfm_np.als(X, iterations=len(J) + 2, **words)
    return wrong(
        status=fit.status is lfm_np.Status.CONVERGED and fell[-1] and not any(fell[:-1]),
        same=same(same_again, fit),
        on=same(on, whole) and len(on.history) == len(J) + 2,
    )


def _sgd_schedules_gone_on(schedule: str, loss: Any) -> list[str]:
    X = csr(stars(30, 20, seed=79), np.float32)
    words: dict[str, Any] = {"factors": 3, "random_state": 0, "schedule": schedule, "biases": "item"}
    words["negatives"] = 1 if isinstance(loss, losses.WARP) else 2
    with folder() as place:
        lfm_np.sgd(X, loss, epochs=2, checkpoint=place / "c", num_threads=2, **words)
        lfm_np.sgd(X, loss, epochs=3, checkpoint=place / "c", num_threads=1, **words)
        on = lfm_np.sgd(X, loss, epochs=5, checkpoint=place / "c", **words)
        other = raised(lambda: lfm_np.sgd(X, loss, epochs=6, checkpoint=place / "c", **{**words, "negatives": 3}))
    whole = lfm_np.sgd(X, loss, epochs=5, **words)
    losses_ = [record["sampled_loss"] for record in on.history]
    return wrong(
        bits=same(on, whole),
        history=losses_ == [record["sampled_loss"] for record in whole.history],
        other=isinstance(other, ValueError) and tells(other, "negatives"),
    )


def _splits_partition(by: str, words: dict[str, Any]) -> list[str]:
    draw = np.random.default_rng(81)
    X = stars(30, 20, seed=82)
    rows, columns = np.nonzero(~np.isnan(X))
    times = draw.integers(0, 9, len(rows)).astype("datetime64[ms]")
    data = lfm_np.Interactions(csr(X, np.float32), np.arange(30) * 3 + 1, [f"i{c:02}" for c in range(20)], times)
    train, test = data.split(by, **words)
    A, B = dense(train), dense(test)
    both = np.where(np.isnan(A), B, A)
    later = {(u, i): t for u, i, t in zip(rows.tolist(), columns.tolist(), times, strict=True)}
    kept = [later[u, i] for u, i in zip(*map(np.ndarray.tolist, np.nonzero(~np.isnan(B))), strict=True)]
    mine: Any = True
    if by == "last":
        for u in range(30):
            own = sorted((later[u, i], i) for i in np.flatnonzero(~np.isnan(X[u])).tolist())
            out = {i for _, i in own[max(1, len(own) - words["n"]) :]}
            mine = mine and out == set(np.flatnonzero(~np.isnan(B[u])).tolist())
    if by == "time":
        order = np.sort(times)
        at = min(
            (t for t in set(order.tolist()) if (order >= np.datetime64(t, "ms")).sum() <= 0.3 * len(order)),
            default=None,
        )
        mine = len(kept) == (order >= np.datetime64(at, "ms")).sum() if at is not None else not kept
    return wrong(
        whole=np.array_equal(both, X, equal_nan=True) and not (~np.isnan(A) & ~np.isnan(B)).any(),
        times=test.timestamps.tolist() == [t.astype(object) for t in np.array(kept, times.dtype)],
        ids=np.array_equal(test.users, data.users) and np.array_equal(train.items, data.items),
        right=mine,
    )


def _one_person_judged() -> list[str]:
    fit = lfm_np.Factors(np.ones((3, 1)), np.array([[1.0], [3.0], [3.0], [2.0]]))
    test = sp.csr_array(np.array([[0, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]], np.float32))
    found = lfm_np.evaluate(fit, None, test, ["mrr", "auc", "recall@1", "recall@2", "map"])
    return wrong(
        tie=found["mrr"] == 0.5 and found["recall@1"] == 0 and found["recall@2"] == 1,
        auc=close(found["auc"], (0.5 + 2) / 3, 1e-12),
        error=np.isnan(found["mrr_se"]) and found["users"] == 1,
    )


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    if installed("typer", "pyarrow", "narwhals", "rich"):
        for duplicates in ("sum", "mean", "count", "last"):
            yield _day(f"an update where fit took the {duplicates}", lambda d=duplicates: _updated(d, False))
        yield _day("an update by times, with an event of long ago", lambda: _updated("last", True, early=True))
        yield _day("three updates, one upon the other", _every_day_of_a_week)
        yield _day("an update of what passed a threshold", _threshold_then_update)
        yield _day("an update of ratings with zeros", _ratings_updated)
        yield _day("updates that fail leave the model, and files that are alone", _torn_update)
        yield _day("interactions of another model", _mismatched_pair)
        yield _day("a test with strangers", _test_of_strangers)
        yield _day("what was held out, listed and then added", _held_out_updated)
    yield _day("three days of new users and items in Python", _grown_in_python)
    yield _day("converged, asked again, and gone on", _converged_and_gone_on)
    for schedule, loss in (
        ("inverse", losses.WARP(trials=5)),
        ("adagrad", losses.SampledSoftmax(temperature=0.5)),
        ("constant", losses.Hinge()),
    ):
        yield _day(
            f"sgd, {type(loss).__name__}, {schedule}, in three parts",
            lambda s=schedule, o=loss: _sgd_schedules_gone_on(s, o),
        )
    yield _day("split by time without a moment", lambda: _splits_partition("time", {"test_fraction": 0.3}))
    yield _day("the last two of each, with ties", lambda: _splits_partition("last", {"n": 2}))
    yield _day("a fifth at random", lambda: _splits_partition("random", {"random_state": 3}))
    yield _day("one person judged, with ties", _one_person_judged)
