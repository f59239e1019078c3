"""Sentences about the command line and dask, beside the functions and numbers of their own."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

from .case import Case, Group, installed
from .cases_sentences_of_extras import KOREN, X
from .places import Said, command
from .sentences_by_numpy import Rule, begun, lfm_np, near, product, ranked
from .working_days import NAN, all_scores, csr, faultless, folder, raised, same, stars, tells, wrong

_GROUP = Group("sentence commands")
_holds = faultless(_GROUP)
_refused = _GROUP.refused


def _rows(said: Said) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(said.out)))


EVENTS = [
    ("007", 5, 3.0, 1),
    ("007", 6, 4.0, 2),
    ("7", 5, 1.0, 3),
    ("7", 7, 2.0, 4),
    ("x", 6, 5.0, 5),
    ("x", 7, 1.0, 6),
    ("007", 5, 1.0, 7),
]


def _events(path: Path, rows: Any = EVENTS) -> Path:
    path.write_text("who,what,much,at\n" + "".join(f"{','.join(map(str, row))}\n" for row in rows))
    return path


NAMES = ("--user", "who", "--item", "what", "--value", "much", "--text", "user")


def _a_fit_by_command() -> list[str]:
    with folder() as place:
        model = place / "m.safetensors"
        said = command(
            "fit", _events(place / "e.csv"), *NAMES, "--factors", "2", "--iterations", "3", "--seed", "4", "-o", model
        )
        listed = command("recommend", model, "-n", "2")
        seen = command("recommend", model, "-n", "3", "--include-seen", "--user", "7")
        near_to = command("similar", model, "--item", "6", "-n", "1")
        unknown = command("recommend", model, "--user", "nobody")
        fit = lfm_np.Factors.load(model)
        names = sorted(p.name for p in place.iterdir())
    users, items = ["007", "7", "x"], [5, 6, 7]
    have = {(u, i): 0.0 for u, i, *_ in EVENTS}
    for u, i, x, _ in EVENTS:
        have[u, i] += x
    matrix = sp.csr_array([[have.get((u, i), 0.0) for i in items] for u in users])
    here = lfm_np.als(matrix, factors=2, iterations=3, random_state=4)
    S = all_scores(fit)
    rest = {u: [i for i in items if (u, i) not in have] for u in users}
    wide = [items[i] for i in ranked(S[1], range(3), 3)]
    return wrong(
        status=said.status == listed.status == seen.status == near_to.status == 0,
        quiet=said.out == "" and "3 sweeps" in said.err,
        bits=same(fit, here),
        names=names == ["e.csv", "m.interactions.npz", "m.safetensors"],
        lists=[(r["who"], int(r["what"]), r["rank"]) for r in _rows(listed)] == [(u, rest[u][0], "1") for u in users],
        seen=[(r["who"], int(r["what"]), int(r["rank"])) for r in _rows(seen)]
        == [("7", i, n) for n, i in enumerate(wide, 1)],
        alike=[(r["item"], r["similar"], r["rank"]) for r in _rows(near_to)] == [("6", "6", "1")],
        unknown=unknown.status == 2 and "nobody" in unknown.err and unknown.out == "",
    )


def _updated_by_command(duplicates: str, again: float) -> list[str]:
    """A pair that is there already is combined as fit said."""
    with folder() as place:
        model, new = place / "m.safetensors", place / "n.safetensors"
        first = [("ann", 5, 4.0, 1), ("ann", 6, 2.0, 1), ("bob", 6, 3.0, 1)]
        command(
            "fit", _events(place / "e.csv", first), *NAMES, "--duplicates", duplicates, "--factors", "2", "-o", model
        )
        today = _events(place / "t.csv", [("ann", 5, 7.0, 2), ("eve", 6, 1.0, 2), ("eve", 99, 1.0, 2)])
        said = command("update", model, today, "-o", new)
        old, fit = lfm_np.Factors.load(model), lfm_np.Factors.load(new)
        info = {row["what"]: row["value"] for row in _rows(command("info", new))}
    mine = Rule(lam=0.01).half(np.array([[again, 2.0], [NAN, 1.0]]), old.item_factors.astype(float))
    return wrong(
        status=said.status == 0 and "1 users added, 1 solved again" in said.err,
        users=fit.shape == (3, 2) and info["users"] == "3",
        solved=near(fit.user_factors[[0, 2]], mine, 1e-4),
        bob=np.array_equal(fit.user_factors[1], old.user_factors[1]),
        items=np.array_equal(fit.item_factors, old.item_factors),
    )


def _judged_by_command() -> list[str]:
    rows = [(f"u{u}", 100 + i, 1.0, 10 * u + i) for u, i in zip(*np.nonzero(~np.isnan(stars(25, 12))), strict=True)]
    with folder() as place:
        model, test = place / "m.safetensors", place / "test.csv"
        words = ("--timestamp", "at", "--hold-out", test, "--by", "last", "--factors", "3", "-o", model)
        command("fit", _events(place / "e.csv", rows), *NAMES[:6], *words)
        held = list(csv.DictReader(test.open()))
        said = command("evaluate", model, test, "--metric", "mrr", "--metric", "recall@3")
        weak = command("evaluate", model, test, "--metric", "mrr", "--at-least", "recall@3=1.01")
        kept = command("evaluate", model, test, "--metric", "mrr", "--at-least", "recall@3=0.0")
        fit = lfm_np.Factors.load(model)
    data = lfm_np.Interactions.from_arrays([r[0] for r in rows], [r[1] for r in rows], timestamps=[r[3] for r in rows])
    train, out = data.split("last")
    mine = lfm_np.evaluate(fit, train, out, ["mrr", "recall@3"])
    found = {row["metric"]: row for row in _rows(said)}
    pairs = {(r["who"], int(r["what"])) for r in held}
    row, column = out.matrix.nonzero()
    return wrong(
        held=pairs == set(zip(data.users[row].tolist(), data.items[column].tolist(), strict=True)),
        metrics=list(found) == ["mrr", "recall@3"]
        and all(near(float(found[n]["model"]), mine[n], 1e-6) for n in found),
        errors=all(near(float(found[n]["model_se"]), mine[f"{n}_se"], 1e-6) for n in found),
        users=all(int(float(r["users"])) == mine["users"] for r in found.values()),
        weak=weak.status == 1 and "recall@3" in weak.err,
        kept=kept.status == 0,
    )


def _on_workers() -> list[str]:
    import distributed

    words: dict[str, Any] = {
        "factors": 3,
        "iterations": 2,
        "init": begun(X),
        "dtype": "float64",
        "shards": 3,
        **KOREN.words,
    }
    with (
        folder() as place,
        distributed.Client(processes=False, n_workers=2, threads_per_worker=1, dashboard_address=":0") as client,
    ):
        first = lfm_np.distributed.als(csr(X), client=client, checkpoint=place / "c", **words)
        mapped = lfm_np.distributed.als(csr(X), client=client, users_to=place / "users.npy", **words)
        saved = np.load(place / "users.npy")
        shards = raised(
            lambda: lfm_np.distributed.als(csr(X), client=client, checkpoint=place / "c", **{**words, "shards": 2})
        )
        anew = lfm_np.distributed.als(
            csr(X), client=client, checkpoint=place / "c", resume="never", **{**words, "shards": 2}
        )
        steps = raised(lambda: lfm_np.distributed.als(csr(X), client=client, solver="cg", **words))
        many = lfm_np.distributed.als(csr(X), client=client, **{**words, "shards": 500})
    mine = KOREN.sweeps(X, begun(X)[1], 2)
    S = mine[0] @ mine[1].T
    return wrong(
        own=near(product(first), S, 1e-8),
        anew=near(product(anew), S, 1e-8),
        file=np.array_equal(saved, first.user_factors),
        mapped=same(mapped, first),
        J=near(first.history[-1]["objective"], KOREN.cost(X, *mine)),
        many=near(product(many), S, 1e-8),
        shards=isinstance(shards, ValueError) and tells(shards, "shards"),
        steps=isinstance(steps, ValueError) and tells(steps, "solver"),
    )


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    if installed("typer", "pyarrow"):
        yield _holds("a fit by command is the fit, lists speak in ids", _a_fit_by_command)
        for duplicates, again in (("sum", 11.0), ("mean", 5.5), ("max", 7.0), ("last", 7.0)):
            yield _holds(
                f"update combines a pair as fit --duplicates said: {duplicates}",
                lambda d=duplicates, a=again: _updated_by_command(d, a),
            )
        yield _holds("evaluate beside what was held out, --at-least is a check", _judged_by_command)
    if installed("distributed"):
        yield _holds("dask: the same objective for any shards, a file of users, a checkpoint", _on_workers)
