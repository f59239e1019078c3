"""Lists by way of tables, files, indexes and commands: the same rows as plain sorting gives, with ids for numbers."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import scipy.sparse as sp

from lfm_np import ann

from .case import Case, Group, installed
from .cases_last_examination_of_judges import as_table, by_loops, lfm_np, masks, matrix, whole
from .cases_last_examination_of_lists import model_of, sorted_by
from .working_days import faultless, folder, typed, wrong

_GROUP = Group("the last examination, lists: companions")
_holds = faultless(_GROUP)


def _vectors() -> list[str]:
    """All items have one norm, and a product with a user's vector is the score but for μ and b_u."""
    draw = np.random.default_rng(1)
    U, V = draw.normal(size=(9, 3)), draw.normal(size=(50, 3))
    V[7] = 0.0
    facts = {}
    for name, d in (("plain", None), ("biased", draw.normal(size=50) * 3)):
        biases = {} if d is None else {"item_bias": d, "user_bias": draw.normal(size=9), "global_bias": 2.0}
        factors = lfm_np.Factors(U, V, **biases)
        items, users = ann.item_vectors(factors), ann.user_vectors(factors)
        b = np.zeros(50) if d is None else d
        longest = max(float(v @ v) + x * x for v, x in zip(V, b.tolist(), strict=True))
        # float32 of numbers of up to 10: squares are off by 1e-5 at most
        norms = (items.astype(float) ** 2).sum(1)
        facts[f"{name}_norms"] = items.shape == (50, 5) and abs(norms - longest).max() < 1e-5 * longest
        facts[f"{name}_scores"] = abs(users.astype(float) @ items.astype(float).T - (U @ V.T + b)).max() < 1e-5
        facts[f"{name}_some"] = np.array_equal(ann.user_vectors(factors, [8, 0, 8]), users[[8, 0, 8]])
        facts[f"{name}_one"] = np.array_equal(ann.user_vectors(factors, 5), users[5])
        facts[f"{name}_dtypes"] = items.dtype == users.dtype == np.float32
    return wrong(**facts)


def _indexed(kind: str) -> list[str]:
    """All 40 items are found by graphs of 40, so that lists of 45 are exact and end with five times -1."""
    draw = np.random.default_rng(2)
    V = np.column_stack([draw.permutation(40), draw.permutation(40) * 64.0])  # no score twice for these users
    U = np.array([[1.0, 1.0], [-1.0, 1.0], [1.0, 0.0]])
    b = draw.permutation(40) / 64.0
    factors = model_of(U, V, item_bias=b.astype(np.float32), user_bias=np.array([4.0, 0.0, -8.0], np.float32))
    S = U @ V.T + b + np.array([[4.0], [0.0], [-8.0]])
    make = ann.usearch_index if kind == "usearch" else ann.faiss_index
    index = make(factors)
    got, one = ann.search(index, factors, [2, 0, 1], N=45), ann.search(index, factors, 1, N=40)
    mine = [sorted_by(S[u], 45) for u in (2, 0, 1)]
    return wrong(
        ids=got.ids.tolist() == [ids for ids, _ in mine],
        scores=got.scores[:, :40].tolist() == [scores[:40] for _, scores in mine],
        one=(one.ids.tolist(), one.scores.tolist()) == sorted_by(S[1], 40),
    )


def _people() -> tuple[Any, np.ndarray, np.ndarray]:
    """Ids in an order that no sorting gives."""
    S = np.array([[1.0, 3, 2, 3], [0, 0, 0, 0], [4, -1, 5, 2]])
    seen = np.array([[0, 0, 1, 0], [0, 1, 0, 0], [1, 1, 1, 0]], bool)
    data = lfm_np.Interactions(matrix(seen), np.array(["zoe", "ann", "mia"]), np.array([30, 10, 40, 20]))
    return data, S, seen


def _framed() -> list[str]:
    data, S, _ = _people()
    factors = as_table(S)

    def rows(**words: Any) -> list[tuple[Any, ...]]:
        table = lfm_np.recommend_frame(factors, data, **words)
        return [(r["user"], r["item"], r["score"], r["rank"]) for r in table.to_pylist()]

    return wrong(
        all=rows(N=3, seen=data)
        == [
            ("zoe", 10, 3.0, 1), ("zoe", 20, 3.0, 2), ("zoe", 30, 1.0, 3), ("ann", 30, 0.0, 1), ("ann", 40, 0.0, 2),
            ("ann", 20, 0.0, 3), ("mia", 20, 2.0, 1),
        ],
        asked=rows(users=["mia", "zoe"], N=1) == [("mia", 40, 5.0, 1), ("zoe", 10, 3.0, 1)],
        few=rows(users=["mia"], N=5, items=[20, 30, 40], exclude=[40]) == [("mia", 30, 4.0, 1), ("mia", 20, 2.0, 2)],
        nothing=rows(users=["mia"], N=2, seen=data, exclude=[20]) == [],
    )  # fmt: skip


def _frames_of(library: str) -> list[str]:
    """Whoever brings a frame of a library gets one back."""
    import importlib

    made = importlib.import_module(library)
    frame = made.DataFrame({"user": [7, 3, 7, 5], "item": ["b", "a", "c", "c"]})
    data = lfm_np.Interactions.from_frame(frame)
    S = np.array([[1.0, 2, 3], [6, 5, 4], [9, 7, 8]])  # users 3, 5, 7; items a, b, c
    got = lfm_np.recommend_frame(as_table(S), data, [7, 3], N=2, seen=data)
    found = {name: got[name].to_list() for name in ("user", "item", "score", "rank")}
    return wrong(
        kind=isinstance(got, made.DataFrame),
        rows=found == {"user": [7, 3, 3], "item": ["a", "c", "b"], "score": [9.0, 3.0, 2.0], "rank": [1, 1, 2]},
    )


def _blocks() -> list[str]:
    """1,400 lists of 97: 135,800 rows, more than a block of 131,072, which is no multiple of 97."""
    import pyarrow.parquet

    U, V = whole((1400, 3), 3, 9), whole((150, 3), 4, 9)
    draw = np.random.default_rng(5)
    users, items = draw.permutation(1400) * 3, draw.permutation(150) - 70
    data = lfm_np.Interactions(sp.csr_array(([1.0], ([3], [2])), shape=(1400, 150)), users, items)
    order = np.argsort(-(U @ V.T), axis=1, kind="stable")[:, :97]
    with folder() as place:
        lfm_np.recommend_parquet(model_of(U, V), data, place / "lists.parquet", N=97)
        table = pyarrow.parquet.read_table(place / "lists.parquet")
        left = [path.name for path in place.iterdir()]
    column = {name: table.column(name).to_numpy() for name in table.column_names}
    return wrong(
        names=list(column) == ["user", "item", "score", "rank"],
        users=np.array_equal(column["user"], np.repeat(users, 97)),
        items=np.array_equal(column["item"], items[order].ravel()),
        scores=np.array_equal(column["score"], np.take_along_axis(U @ V.T, order, 1).ravel()),
        ranks=np.array_equal(column["rank"], np.tile(np.arange(1, 98), 1400)),
        alone=left == ["lists.parquet"],
    )


def _comparisons() -> list[str]:
    """A report of one's own rows: it passes when every row does, and says all of them."""
    from lfm_np.torch_backend import CrossCheck, Row

    good = Row("hu-koren, float64", "scores after sweep 1", 1e-13, 1e-10, "eps times kappa")
    bad = Row("BPR <loss7>, float32", "slopes of a step", 3e-4, 1e-6, "eps times ten")
    lost = Row("ials, float32", "objective", math.nan, 1e-5, "eps times a sum")
    checks = [CrossCheck("cpu", rows, {"numpy": "9.9.9"}, 1.5) for rows in ((good,), (good, bad), (lost,))]
    page, text = checks[1].to_html(), checks[1].to_json()
    with folder() as place:
        checks[1].to_json(place / "rows.json")
        kept = json.loads((place / "rows.json").read_text("utf-8"))
    return wrong(
        passed=[check.passed for check in checks] == [True, False, False],
        rows=[good.passed, bad.passed, lost.passed] == [True, False, False],
        page=all(x in page for x in ("scores after sweep 1", "slopes of a step", "9.9.9")) and "<loss7>" not in page,
        printed=all(x in str(checks[1]) for x in ("scores after sweep 1", "slopes of a step")),
        kept=kept == json.loads(text) and {"slopes of a step", 3e-4, 1e-13, 1.5, "9.9.9"} <= set(_leaves(kept)),
    )


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, (dict, list)):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _leaves(part)
    else:
        yield value


def _told(said: Any) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(said.out)))


def _near(text: str, number: float) -> bool:
    """What is printed may be rounded."""
    return abs(float(text) - number) <= 6e-4 * max(1.0, abs(number))


class _Shop:
    """18 people and 14 things in two files of text, and a model of three factors."""

    def __init__(self, place: Any) -> None:
        self.place = place
        self.train, self.test = masks(18, 14, 6, 0.35, 0.2)
        self.train[np.arange(18), np.arange(18) % 14] = True
        self.train[2] = np.arange(14) != 5
        self.test &= ~self.train
        for name, mask in (("train", self.train), ("test", self.test)):
            lines = ["who,what", *(f"u{u:02},i{i:02}" for u, i in np.argwhere(mask).tolist())]
            (place / f"{name}.csv").write_text("\n".join(lines) + "\n", "utf-8")
        self.fit = typed(
            place, "fit", "train.csv", "--user", "who", "--item", "what", "--factors", 3, "--iterations", 4,
            "--alpha", 5, "--regularization", 1, "-o", "model.safetensors",
        )  # fmt: skip
        self.factors = lfm_np.Factors.load(place / "model.safetensors")
        self.S = self.factors.user_factors.astype(float) @ self.factors.item_factors.astype(float).T


def _judged_in_a_shell() -> list[str]:
    with folder() as place:
        shop = _Shop(place)
        asked = ["auc", "recall@3", "ndcg@5", "mrr"]
        said = typed(
            place, "evaluate", "model.safetensors", "test.csv", *(x for name in asked for x in ("--metric", name)),
            "--at-least", "recall@14=1.0",
        )  # fmt: skip
        short = typed(place, "evaluate", "model.safetensors", "test.csv", "--at-least", "precision@14=0.99")
    rows = {row["metric"]: row for row in _told(said)}
    counts = shop.train.sum(0)
    facts = {"fit": shop.fit.status == 0, "status": said.status == 0, "short": short.status == 1}
    for name in asked:
        for who, scores in (("model", shop.S), ("popular", np.tile(counts, (18, 1)))):
            mine = by_loops(scores, shop.train, shop.test, [name])
            facts[f"{name}_{who}"] = _near(rows[name][who], mine[name])
            facts[f"{name}_{who}_se"] = _near(rows[name][f"{who}_se"], mine[f"{name}_se"])
            facts[f"{name}_users"] = int(rows[name]["users"]) == mine["users"]
    facts["whole"] = float(rows["recall@14"]["model"]) == 1.0
    return wrong(**facts)


def _listed_in_a_shell() -> list[str]:
    with folder() as place:
        shop = _Shop(place)
        some = typed(place, "recommend", "model.safetensors", "--user", "u07", "--user", "u02", "-n", 4)
        seen = typed(place, "recommend", "model.safetensors", "--user", "u02", "-n", 20, "--include-seen")
        everybody = typed(place, "recommend", "model.safetensors", "-n", 9, "-o", "all.json")
        written = json.loads((place / "all.json").read_text("utf-8")) if everybody.status == 0 else []
    mine = []
    for u in range(18):
        ids, scores = sorted_by(shop.S[u], 9, set(np.flatnonzero(~shop.train[u]).tolist()))
        mine += [(f"u{u:02}", f"i{i:02}", r, s) for r, (i, s) in enumerate(zip(ids, scores, strict=True), 1) if i >= 0]
    asked = [row for who in ("u07", "u02") for row in mine if row[0] == who and row[2] <= 4]

    def fits(rows: list[dict[str, Any]], want: list[tuple[Any, ...]]) -> bool:
        return [(r["who"], r["what"], int(r["rank"])) for r in rows] == [x[:3] for x in want] and all(
            _near(r["score"], x[3]) for r, x in zip(rows, want, strict=True)
        )

    ids, scores = sorted_by(shop.S[2], 14)
    full = [("u02", f"i{i:02}", r, s) for r, (i, s) in enumerate(zip(ids, scores, strict=True), 1)]
    return wrong(
        asked=len(asked) == 5 and fits(_told(some), asked), seen=fits(_told(seen), full), all=fits(written, mine)
    )


def _alike_in_a_shell() -> list[str]:
    with folder() as place:
        shop = _Shop(place)
        said = typed(place, "similar", "model.safetensors", "--item", "i05", "-n", 14)
    V = shop.factors.item_factors.astype(float)
    cosines = [float(V[5] @ v) / math.sqrt(float(V[5] @ V[5]) * float(v @ v)) for v in V]
    rows = _told(said)
    found = [int(r["similar"][1:]) for r in rows]
    return wrong(
        columns=bool(rows) and list(rows[0]) == ["item", "similar", "score", "rank"],
        all=sorted(found) == list(range(14)) and found[0] == 5,
        scores=all(_near(r["score"], cosines[i]) for r, i in zip(rows, found, strict=True)),
        falling=all(cosines[a] > cosines[b] - 1e-6 for a, b in pairwise(found)),
        ranks=[r["rank"] for r in rows] == [str(n) for n in range(1, 15)],
        of={r["item"] for r in rows} == {"i05"},
    )


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    yield _holds("vectors of one norm", _vectors)
    for kind in ("usearch", "faiss"):
        if installed(kind):
            yield _holds(f"lists longer than an index, {kind}", lambda k=kind: _indexed(k))
    if installed("pyarrow", "narwhals"):
        yield _holds("tables of people in no order", _framed)
        yield _holds("lists across the blocks of a file", _blocks)
        for library in ("pandas", "polars"):
            if installed(library):
                yield _holds(f"frames of {library}", lambda name=library: _frames_of(name))
    if installed("torch"):
        yield _holds("comparisons of one's own", _comparisons)
    if installed("typer", "pyarrow"):
        yield _holds("evaluate in a shell", _judged_in_a_shell)
        yield _holds("recommend in a shell", _listed_in_a_shell)
        yield _holds("similar in a shell", _alike_in_a_shell)
