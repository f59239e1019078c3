"""`Factors` and what is asked of them: folding, reasons, files, lists and metrics, by least squares and by sorting."""

from __future__ import annotations

import copy
import hashlib
import json
import math
import pickle
from collections.abc import Iterator
from typing import Any

import numpy as np
import scipy.sparse as sp

from .case import Case, Group
from .places import together
from .sentences_by_numpy import lfm_np
from .working_days import Model, all_scores, best, close, csr, faultless, folder, judged, same, stars, start, wrong

_holds = faultless(Group("second opinions"))


def _whole(m: int, n: int, k: int, seed: int = 0, dtype: Any = np.float64, **words: Any) -> Any:
    """Small whole numbers, of which many scores are equal and all are exact."""
    draw = np.random.default_rng(seed)
    return lfm_np.Factors(
        draw.integers(-2, 3, (m, k)).astype(dtype), draw.integers(-2, 3, (n, k)).astype(dtype), **words
    )


def _mask(m: int, n: int, share: float, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random((m, n)) < share


def _folded_users() -> list[str]:
    """An empty row, a full one, and one in two parts, beside items of a fit of their own."""
    X = np.where(_mask(30, 11, 0.4, 1), 2.0, np.nan)
    model = Model("ials", 1.5, 0.25, 0.3, 0.5)
    fit = lfm_np.als(csr(X), factors=4, iterations=2, init=start(30, 11, 4), dtype="float64", **model.words)
    new = np.full((3, 11), np.nan)
    new[1], new[2, [3, 7]] = np.arange(1.0, 12.0), (5.0, 1.0)
    rows, columns = [1] * 11 + [2, 2, 2], [*range(11), 3, 7, 3]
    cells = sp.coo_array(([*range(1, 12), 2, 1, 3], (rows, columns)), shape=(3, 11))
    found = fit.fold_in_users(cells, num_threads=2)
    mine = model.half(new, np.asarray(fit.item_factors))
    other = Model("confidence", 0.5, 2.0, 4.0, 0.0)
    again = fit.fold_in_users(cells, **other.words)
    return wrong(
        rows=close(found.user_factors, mine, 1e-8),
        empty=not found.user_factors[0].any(),
        items=np.array_equal(found.item_factors, fit.item_factors),
        others=close(again.user_factors, other.half(new, np.asarray(fit.item_factors)), 1e-8),
        scores=close(found.scores(1, np.arange(11)), fit.item_factors @ mine[1], 1e-8),
    )


def _least(x: np.ndarray, Y: np.ndarray, lam: float, ones: bool) -> np.ndarray:
    """The row of ratings x, and with ``ones`` its bias, held by λ times the number of ratings."""
    has = ~np.isnan(x)
    A = np.column_stack([Y[has], np.ones(has.sum())]) if ones else Y[has]
    held = math.sqrt(lam * has.sum()) * np.eye(A.shape[1])
    return np.linalg.lstsq(np.vstack([A, held]), np.r_[x[has], np.zeros(len(held))], rcond=None)[0]


def _folded_ratings(user_biases: bool, item_biases: bool) -> list[str]:
    draw = np.random.default_rng(4)
    U, V = start(9, 12, 3)
    b, d = draw.normal(size=9) if user_biases else None, draw.normal(size=12) if item_biases else None
    model = lfm_np.Factors(U, V, user_bias=b, item_bias=d, global_bias=3.25)
    words = {"weighting": "ratings", "regularization": 0.2, "regularization_exponent": 1.0}
    X, Z = stars(5, 12, 6), stars(9, 4, 7)
    users, items = model.fold_in_users(csr(X), **words), model.fold_in_items(csr(Z), **words)
    facts: dict[str, Any] = {}
    for name, found, bias, rows, Y, ours, theirs in (
        ("users", users.user_factors, users.user_bias, X, V, b, d),
        ("items", items.item_factors, items.item_bias, Z.T, U, d, b),
    ):
        left = rows - 3.25 - (0.0 if theirs is None else theirs)
        mine = np.array([_least(x, Y, 0.2, ours is not None) for x in left])
        facts[name] = close(found, mine[:, :3], 1e-8)
        facts[f"{name}, biases"] = bias is None if ours is None else close(bias, mine[:, 3], 1e-8)
    facts["others"] = np.array_equal(users.item_factors, V) and np.array_equal(items.user_factors, U)
    return wrong(**facts)


def _rows_in_any_order() -> list[str]:
    X, model = np.where(_mask(12, 9, 0.5, 2), 3.0, np.nan), Model("hu-koren", 2.0, 0.5, 0.4, 0.0)
    fit = lfm_np.als(csr(X), factors=3, iterations=2, init=start(12, 9, 3), dtype="float64", **model.words)
    U, V = np.array(fit.user_factors), np.array(fit.item_factors)
    rows, columns = np.where(_mask(4, 9, 0.4, 3), 1.0, np.nan), np.where(_mask(14, 3, 0.4, 4), 2.0, np.nan)
    more = fit.update(csr(rows), users=[13, 5, 12, 0])
    U = np.vstack([U, np.zeros((2, 3))])
    U[[13, 5, 12, 0]] = model.half(rows, V)
    last = more.update(csr(columns), items=np.array([9, 2, 10]))
    V = np.vstack([V, np.zeros((2, 3))])
    V[[9, 2, 10]] = model.half(columns.T, U)
    kept = [j for j in range(12) if j not in (0, 5)]
    return wrong(
        users=close(last.user_factors, U, 1e-8),
        items=close(last.item_factors, V, 1e-8),
        bits=np.array_equal(more.user_factors[kept], fit.user_factors[kept]),
        shapes=(fit.shape, more.shape, last.shape) == ((12, 9), (14, 9), (14, 11)),
    )


def _reasons() -> list[str]:
    X, model = np.where(_mask(8, 15, 0.4, 5), 4.0, np.nan), Model("hu-koren", 7.0, 0.3, 0.9, 1.0)
    fit = lfm_np.als(csr(X), factors=5, iterations=3, init=start(8, 15, 5), dtype="float64", **model.words)
    V, has = np.asarray(fit.item_factors), ~np.isnan(X[6])
    c = np.where(has, 1 + 7.0 * 4.0, 0.3)
    A = (V.T * c) @ V + 0.9 * (has.sum() + 0.3 * 15) * np.eye(5)
    shares = V[2] @ np.linalg.solve(A, V.T * (c * has))
    why = fit.explain(6, 2, csr(X))
    return wrong(
        items=sorted(why.items.tolist()) == np.flatnonzero(has).tolist(),
        shares=close(why.contributions, shares[why.items], 1e-8),
        score=close([why.score], [shares.sum()], 1e-8),
        whole=abs(why.baseline + why.contributions.sum() - why.score) < 1e-9,
    )


def _file_by_hand() -> list[str]:
    draw = np.random.default_rng(12)
    have = {
        "user_factors": draw.normal(size=(3, 2)).astype(np.float32), "item_factors": np.zeros((1, 2), np.float32),
        "user_bias": draw.normal(size=3).astype(np.float32), "item_bias": np.array([1e-30], np.float32),
    }  # fmt: skip
    params = {"a": [1, [True, None]], "ö": "ß", "small": 5e-324, "big": 2**53}
    history = [{"iteration": 1, "objective": 0.1 + 0.2, "seconds": 0.0}]
    model = lfm_np.Factors(**have, global_bias=-1 / 3, params=params, history=history, status=lfm_np.Status.INTERRUPTED)
    with folder() as place:
        path = place / "no ending"
        model.save(str(path))
        raw = path.read_bytes()
        again = [lfm_np.Factors.load(path), lfm_np.Factors.load(str(path), mmap=True)]
        alike = [
            same(model, other)
            and json.dumps(dict(other.params)) == json.dumps(params)
            and other.status == "interrupted"
            for other in again
        ]
        alike += [[dict(record) for record in other.history] == history for other in again]
        del again
        files = [file.name for file in place.iterdir()]
    size = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + size])
    about = header.pop("__metadata__")
    facts: dict[str, Any] = {
        "alike": all(alike),
        "alone": files == ["no ending"],
        "names": header.keys() == have.keys(),
    }
    for name, entry in header.items():
        a, b = entry["data_offsets"]
        tensor = np.frombuffer(raw[8 + size + a : 8 + size + b], np.float32).reshape(entry["shape"])
        facts[name] = entry["dtype"] == "F32" and np.array_equal(tensor, have[name])
    told = json.loads(about["model"])
    facts["told"] = (told["global_bias"], told["status"], told["params"]) == (-1 / 3, "interrupted", params)
    blank = raw.replace(about["sha256"].encode(), b"0" * 64)
    facts["sealed"] = hashlib.sha256(blank).hexdigest() == about["sha256"]
    return wrong(**facts)


def _copies() -> list[str]:
    U, V = start(5, 7, 4)
    F, bias = np.asfortranarray(U), np.arange(7.0)
    model = lfm_np.Factors(F, V[::-1], item_bias=bias)
    bias[:] = -1
    F[0, 0] = 99.0
    copies = [pickle.loads(pickle.dumps(model)), copy.deepcopy(model)]
    return wrong(
        own=np.array_equal(model.user_factors, U) and np.array_equal(model.item_bias, np.arange(7.0)),
        same=all(same(model, other) for other in copies),
        order=model.item_factors.flags.c_contiguous and np.array_equal(model.item_factors, V[::-1]),
        locked=not any(a.flags.writeable for other in [model, *copies] for a in (other.item_factors, other.item_bias)),
        status=[str(status) for status in lfm_np.Status] == [status.value for status in lfm_np.Status],
    )


def _scores(k: int, dtype: Any) -> list[str]:
    draw = np.random.default_rng(k)
    U, V = (draw.normal(size=(size, k)).astype(dtype) for size in (4, 300))
    b, d = draw.normal(size=4).astype(dtype), (100 * draw.normal(size=300)).astype(dtype)
    model = lfm_np.Factors(U, V, user_bias=b, item_bias=d, global_bias=0.1)
    items = draw.integers(0, 300, 257).astype(np.uint16)
    found, mine = model.scores(3, items, num_threads=2), all_scores(model)[3, items]
    sizes = abs(V.astype(np.float64)) @ abs(U[3].astype(np.float64)) + abs(d) + abs(float(b[3])) + 1
    allowed = (k + 8) * np.finfo(dtype).eps * sizes[items]
    return wrong(
        near=(abs(found - mine) <= allowed).all(),
        form=found.dtype == dtype and found.shape == (257,) and not found.flags.writeable,
        scalar=model.scores(np.int8(3), int(items[5])).shape == ()
        and float(model.scores(3, int(items[5]))) == float(found[5]),
        pairs=np.array_equal(model.scores([3, 3], items[:2]), found[:2]),
    )


def _lists(n: int, N: int, dtype: Any) -> list[str]:
    """Ties everywhere; allowed and denied items in no order, some in both; a list longer than what is left."""
    model = _whole(6, n, 3, n, dtype, item_bias=np.random.default_rng(n).integers(0, 2, n).astype(dtype))
    seen, draw = _mask(6, n, 0.3, n), np.random.default_rng(N)
    seen[4] = True
    items, exclude = draw.permutation(n)[: n - n // 5], draw.permutation(n)[: n // 7]
    allowed = np.zeros(n, bool)
    allowed[items] = True
    allowed[exclude] = False
    S, users = all_scores(model), [5, 0, 4, 5, 2]
    facts: dict[str, Any] = {}
    for name, words, mask in (
        ("all", {}, np.ones((6, n), bool)),
        ("seen", {"seen": sp.csc_array(seen.astype(np.float32))}, ~seen),
        ("every", {"seen": sp.csr_array(seen), "items": items, "exclude": exclude}, ~seen & allowed),
    ):
        ids, scores = model.recommend(users, N=N, num_threads=3, **words)
        mine = np.array([best(S[u], mask[u], N) for u in users])
        facts[name] = np.array_equal(ids, mine) and ids.dtype == np.int64 and scores.dtype == dtype
        worth = np.array([np.where(row >= 0, S[u, row], -np.inf) for u, row in zip(users, mine, strict=True)])
        facts[f"{name}, scores"] = np.array_equal(scores, worth)
    one = model.recommend(2, N=N)
    facts["one"] = one.ids.shape == (N,) and one.ids.tolist() == best(S[2], np.ones(n, bool), N)
    return wrong(**facts)


def _alike() -> list[str]:
    model = _whole(256, 41, 2, 8)
    facts: dict[str, Any] = {}
    for side, F, asked in (("items", model.item_factors, [40, 0, 7]), ("users", model.user_factors, [255, 3])):
        call = getattr(model, f"similar_{side}")
        inner, every = F @ F.T, np.ones(len(F), bool)
        ids, scores = call(asked, N=50, metric="inner")
        facts[f"{side}, inner"] = ids.tolist() == [best(inner[j], every, 50) for j in asked]
        norms = np.sqrt(np.diag(inner))
        both = norms[:, None] * norms
        cosines = np.divide(inner, both, out=np.zeros_like(inner), where=both > 0)
        ids, scores = call(asked, N=9)
        top = -np.sort(-cosines[asked], axis=1)[:, :9]
        facts[f"{side}, cosines"] = abs(scores - top).max() < 1e-12
        facts[f"{side}, ids"] = abs(np.take_along_axis(cosines[asked], ids, 1) - top).max() < 1e-12
        zero = int(np.flatnonzero(norms == 0)[0])
        facts[f"{side}, nothing"] = call(zero, N=4).ids.tolist() == [0, 1, 2, 3] and not call(zero, N=4).scores.any()
    return wrong(**facts)


def _lists_for_a_crowd() -> list[str]:
    model, seen = _whole(20, 130, 3, 1), _mask(20, 130, 0.2, 1)
    S = all_scores(model)
    found = together(6, lambda at: model.recommend(np.arange(at, 20), N=11 + at, seen=sp.coo_array(seen)).ids.tolist())
    mine = [[best(S[u], ~seen[u], 11 + at) for u in range(at, 20)] for at in range(6)]
    return wrong(lists=found == mine)


def _every_metric() -> list[str]:
    model, train, test = _whole(33, 60, 2, 2), _mask(33, 60, 0.2, 2), _mask(33, 60, 0.1, 3)
    test[11], train[12], test[13] = False, True, test[13] | train[13]
    S, facts = all_scores(model), {}
    for name, known in (("train", train), ("none", np.zeros_like(train))):
        for k in (1, 3, 255):
            mine = judged(S, known, test, k)
            asked = [key for key in mine if not key.endswith("_se") and key != "users"]
            given = None if name == "none" else sp.csr_array(known.astype(np.int8))
            found = lfm_np.evaluate(model, given, sp.csr_array(test.astype(np.float32)), asked, num_threads=2)
            facts[f"{name}, {k}"] = found.keys() == mine.keys() and close(
                [found[key] for key in mine], list(mine.values())
            )
    return wrong(**facts)


def _whole_rankings() -> list[str]:
    model, test = _whole(21, 40, 2, 6), _mask(21, 40, 0.15, 7)
    S, gains, precisions = all_scores(model), [], []
    for s, relevant in zip(S, test, strict=True):
        t = int(relevant.sum())
        if t:
            ranks = [r for r, i in enumerate(best(s, np.ones(40, bool), 40), 1) if relevant[i]]
            gains.append(sum(1 / np.log2(r + 1) for r in ranks) / sum(1 / np.log2(j + 1) for j in range(1, t + 1)))
            precisions.append(sum(j / r for j, r in enumerate(ranks, 1)) / t)
    found = lfm_np.evaluate(model, sp.csr_array((21, 40)), sp.csr_array(1.0 * test), ("map", "ndcg"))
    spread = [np.std(values, ddof=1) / math.sqrt(len(values)) for values in (precisions, gains)]
    return wrong(
        means=close([found["map"], found["ndcg"]], [np.mean(precisions), np.mean(gains)]),
        spread=close([found["map_se"], found["ndcg_se"]], spread),
        users=found["users"] == len(gains),
    )


def _among_negatives() -> list[str]:
    """Some drawn twice, some that the user has, some -1: a user's test items beside all other ones."""
    model, train, test = _whole(25, 30, 3, 9), _mask(25, 30, 0.2, 9), _mask(25, 30, 0.07, 10)
    drawn = np.random.default_rng(11).integers(-1, 30, (25, 14))
    S = all_scores(model)
    hidden = train.copy()
    for u in range(25):
        candidates = (test[u] & ~train[u]) | np.isin(np.arange(30), drawn[u])
        hidden[u] = train[u] | ~candidates
    facts = {}
    for k in (2, 10):
        mine = judged(S, hidden, test & ~train, k)
        asked = [f"hit_rate@{k}", f"ndcg@{k}", "mrr", f"recall@{k}"]
        found = lfm_np.evaluate(
            model, sp.csr_array(train.astype(np.int64)), sp.csr_array(1.0 * test), asked, negatives=drawn
        )
        facts[f"{k}"] = close([found[key] for key in asked], [mine[key] for key in asked])
        facts[f"{k}, users"] = found["users"] == mine["users"]
    return wrong(**facts)


def _popular() -> list[str]:
    """A stored zero counts where it is a rating, for the counts, for what is seen and for what is asked."""
    most_popular: Any = lfm_np.evaluation.most_popular
    cells, test = np.where(_mask(12, 9, 0.4, 12), 0.0, np.nan), _mask(12, 9, 0.2, 13)
    cells[_mask(12, 9, 0.2, 14)] = 4.0
    facts = {}
    for zeros, has in (("keep", ~np.isnan(cells)), ("drop", cells == 4.0)):
        model = most_popular(csr(cells), zeros=zeros)
        S = np.tile(has.sum(0).astype(np.float64), (12, 1))
        lists = model.recommend(range(12), N=9, seen=csr(cells)).ids.tolist()
        facts[zeros] = np.array_equal(model.item_bias, S[0]) and model.shape == (12, 9)
        facts[f"{zeros}, lists"] = lists == [best(S[u], ~has[u], 9) for u in range(12)]
        mine = judged(S, has, test, 4)
        found = lfm_np.evaluate(model, csr(cells), sp.csr_array(1.0 * test), ("ndcg@4", "auc", "mrr"))
        facts[f"{zeros}, metrics"] = close(
            [found[key] for key in ("ndcg@4", "auc", "mrr")], [mine[key] for key in ("ndcg@4", "auc", "mrr")]
        )
    return wrong(**facts)


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    for name, call in (
        ("rows that are empty, full and in parts folded in", _folded_users),
        ("users and items updated in any order", _rows_in_any_order),
        ("the shares of a score at ν = 1", _reasons),
        ("a model file without an ending, read by hand", _file_by_hand),
        ("arrays that change after a model was made of them", _copies),
        ("users and items alike, some of them zero", _alike),
        ("six lists at once from one model", _lists_for_a_crowd),
        ("metrics at 1, 3 and 255 among ties", _every_metric),
        ("whole rankings", _whole_rankings),
        ("metrics among negatives drawn twice", _among_negatives),
        ("the popular with zeros that count or not", _popular),
    ):
        yield _holds(name, call)
    for has in ((True, True), (True, False), (False, True), (False, False)):
        which = " and ".join(name for name, there in zip(("users", "items"), has, strict=True) if there) or "nobody"
        yield _holds(f"ratings folded in where {which} have biases", lambda h=has: _folded_ratings(*h))
    for k, dtype in ((1, np.float64), (255, np.float32), (257, np.float32)):
        yield _holds(f"scores of {k} factors", lambda k=k, d=dtype: _scores(k, d))
    for n, N, dtype in ((2, 5, np.float32), (63, 64, np.float64), (257, 256, np.float32), (700, 33, np.float32)):
        yield _holds(f"lists of {N} among {n}", lambda n=n, N=N, d=dtype: _lists(n, N, d))
