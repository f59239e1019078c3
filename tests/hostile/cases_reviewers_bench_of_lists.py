"""A reviewer's programs, each to show a promise of the pages false: lists, metrics and indexes, by sorting.

Factors are whole numbers wherever bits are compared, so that a dot product is exact in float32 in any order.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import scipy.sparse as sp

from .case import Case, Group, installed
from .sentences_by_numpy import lfm_np, losses, near, ranked
from .working_days import NAN, csr, faultless, folder, judged, stars, wrong

_GROUP = Group("the reviewer's bench")
_holds = faultless(_GROUP)


def _whole(m: int, n: int, k: int, seed: int, size: int = 3, dtype: Any = np.float32) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    return draw.integers(-size, size + 1, (m, k)).astype(dtype), draw.integers(-size, size + 1, (n, k)).astype(dtype)


def _mask(m: int, n: int, share: float, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random((m, n)) < share


def _as_csr(mask: np.ndarray) -> sp.csr_array:
    return sp.csr_array(mask.astype(np.float32))


def _lists(S: np.ndarray, allowed: np.ndarray, N: int) -> tuple[list[list[int]], np.ndarray]:
    """Ids, padded with -1, and scores, padded with -inf."""
    ids = [ranked(s, np.flatnonzero(a), N) for s, a in zip(S, allowed, strict=True)]
    scores = np.array([[s[i] if i >= 0 else -np.inf for i in row] for s, row in zip(S, ids, strict=True)])
    return ids, scores


def _drowned(n: int = 257) -> tuple[Any, np.ndarray]:
    """Scores near 2²⁴ + 2²⁰, where float32 has even numbers only: dot products that differ become ties."""
    U, V = _whole(9, n, 5, 1)
    draw = np.random.default_rng(2)
    b = (2 * draw.integers(-40, 41, 9)).astype(np.float32)
    d = draw.integers(-5, 6, n).astype(np.float32)
    mu = float(2**24 + 2**20)
    S = (U @ V.T + d) + (np.float32(mu) + b)[:, None]  # every sum but the last is exact, the last rounds to even
    assert S.dtype == np.float32
    return lfm_np.Factors(U, V, user_bias=b, item_bias=d, global_bias=mu), S


def _ties_by_rounding(N: int) -> list[str]:
    """Exact top-N: 'Bounds are widened by a margin … so the result equals brute force always, ties to the lower id',
    'with seen, allowed and denied items and biases'; `scores`: 'then b_i, then μ + b_u'."""
    factors, S = _drowned()
    seen = _mask(9, 257, 0.3, 3)
    seen[4] = True
    allowed = ~seen
    items, exclude = np.arange(256, 2, -1), [5, 250, 5, 9, 100]
    allowed[:, :3] = allowed[:, exclude] = False
    users = [8, 0, 4, 4, 3, 8]
    ids, scores = factors.recommend(users, N=N, seen=_as_csr(seen), items=items, exclude=exclude)
    mine, values = _lists(S[users], allowed[users], N)
    one, its = factors.recommend(3, N=N, seen=_as_csr(seen), items=items, exclude=exclude)
    return wrong(
        ties=len(np.unique(S[0])) < 60,
        ids=ids.tolist() == mine,
        scores=np.array_equal(scores, values) and scores.dtype == np.float32,
        scalar=one.tolist() == mine[4] and np.array_equal(its, values[4]),
        pairs=np.array_equal(factors.scores(3, np.arange(257)), S[3]),
    )


def _judged_ties() -> list[str]:
    """Tutorial: 'The ± is a standard error over people' - of metrics whose ranks are ties made by biases."""
    factors, S = _drowned(40)
    train, test = _mask(9, 40, 0.3, 4), _mask(9, 40, 0.2, 5)
    train[2], test[6] = True, False
    names = ["recall@7", "capped_recall@7", "precision@7", "hit_rate@7", "ndcg@7", "map@7", "mrr@7", "mrr", "auc"]
    found = lfm_np.evaluate(factors, _as_csr(train), _as_csr(test), names)
    mine = judged(S.astype(np.float64), train, test, 7)
    return [name for name in mine if not near(found[name], mine[name], 1e-12)]


def _around_the_heaps() -> list[str]:
    """Exact top-N: 'Lists of up to 32 stay sorted, by insertion; longer ones are heaps', 'The first 64 items are
    scored'; whole factors, so that nearly all is tied, and n on either side of 64 and 256."""
    faults = []
    for n in (31, 63, 64, 65, 255, 256):
        for k in (1, 17):
            U, V = _whole(6, n, k, n + k, 1)
            U[0] = 0  # all scores 0, some of them -0
            allowed = np.ones((6, n), bool)
            for N in (1, 31, 32, 33, 64, 65, n, n + 3):
                ids, scores = lfm_np.Factors(U, V).recommend(np.arange(6), N=N)
                mine, values = _lists(U @ V.T, allowed, N)
                if ids.tolist() != mine or not np.array_equal(scores, values):
                    faults.append(f"n = {n}, k = {k}, N = {N}")
    return faults


def _eighty_binades() -> list[str]:
    """Exact top-N: 'once ‖u‖‖v‖ is below the N-th best so far, the rest cannot enter', and 's = max|x|/127': factors
    that are powers of two, whose products are exact, from 2⁻⁴⁰ to 2⁴⁰."""
    draw = np.random.default_rng(6)
    e = draw.integers(-40, 41, (300, 2))
    V = (np.exp2(e) * draw.choice([-1.0, 1.0], (300, 2)) * [[1.0, 0.0]]).astype(np.float32)
    V[::3] = V[::3, ::-1]
    U = np.array([[1, 0], [-1, 0], [0, 2.0**-20], [0, -(2.0**15)], [0, 0]], np.float32)
    allowed = ~_mask(5, 300, 0.5, 7)
    faults = []
    for N in (1, 10, 40, 299):
        ids, scores = lfm_np.Factors(U, V).recommend(np.arange(5), N=N, seen=_as_csr(~allowed))
        mine, values = _lists((U @ V.T).astype(np.float64), allowed, N)
        faults += wrong(**{f"ids {N}": ids.tolist() == mine, f"scores {N}": np.array_equal(scores, values)})
    return faults


def _axes_and_zeros() -> list[str]:
    """Tutorial: 'The first is the film itself' - as a rule: not where a lower id is as near, or it has no length; N
    beyond the items; 'Biases play no part'."""
    V = np.zeros((7, 3))
    for i, (axis, length) in enumerate([(0, 2.0), (1, -0.5), (0, 8.0), (2, 0.0), (1, 4.0), (0, -1.0), (2, 1.0)]):
        V[i, axis] = length
    factors = lfm_np.Factors(np.zeros((1, 3)), V, item_bias=np.array([0.0, 9, -9, 99, 3, 5, 1]), global_bias=7.0)
    signs = np.sign(V)
    cosines, inner = signs @ signs.T, V @ V.T
    faults = []
    for metric, S in (("cosine", cosines), ("inner", inner)):
        for N in (2, 7, 9):
            ids, scores = factors.similar_items(np.arange(7)[::-1], N=N, metric=metric)
            mine, values = _lists(S[::-1], np.ones((7, 7), bool), N)
            faults += wrong(
                **{f"{metric} ids {N}": ids.tolist() == mine, f"{metric} scores {N}": np.array_equal(scores, values)}
            )
    return faults


def _zeros_after_a_journey() -> list[str]:
    """`recommend`: 'A stored zero counts as absent (not where the model was fitted to ratings: there zero is a value)'
    - also of what was saved, loaded and folded in."""
    D = np.where(_mask(12, 8, 0.6, 8), np.random.default_rng(8).integers(0, 3, (12, 8)), NAN)
    D[:, 0], D[0] = 1.0, [0, 1, 0, 2, NAN, NAN, 0, NAN]
    X = csr(D)
    stored, positive = ~np.isnan(D), np.nan_to_num(D) > 0
    faults = []
    for name, fit in (
        ("als", lfm_np.als(X, factors=2, weighting="ratings", regularization=1.0, random_state=0)),
        ("sgd", lfm_np.sgd(X, losses.Squared(), sampler=None, factors=2, epochs=2, biases=True, random_state=0)),
        ("clicks", lfm_np.als(X, factors=2, random_state=0)),
    ):
        words: dict[str, Any] = {}
        if name == "sgd":
            words = {"regularization": 1.0, "regularization_exponent": 0.0, "weighting": "ratings"}
        with folder() as place:
            fit.save(place / "m")
            loaded = lfm_np.Factors.load(place / "m")
        folded = loaded.fold_in_users(X[[0]], **words)
        out = positive if name == "clicks" else stored
        for told, model, rows, M in (
            ("loaded", loaded, X, out),
            ("folded", folded, X[[0]], out[:1]),
            (
                "updated",
                loaded.update(X[[0]], users=[12], **words),
                sp.vstack([X, X[[0]]], "csr"),
                out[[*range(12), 0]],
            ),
        ):
            ids = model.recommend(np.arange(len(M)), N=8, seen=rows).ids
            good = all(set(row[row >= 0]) == set(np.flatnonzero(~seen)) for row, seen in zip(ids, M, strict=True))
            faults += [] if good else [f"{name}, {told}"]
    return faults


def _charts_of_ratings() -> list[str]:
    """`most_popular(zeros="keep")`: a stored zero counts 'then, and in `evaluate`, of both matrices'."""
    train = np.array([[0.0, 5, NAN, NAN, NAN], [0.0, NAN, 1, NAN, NAN], [0.0, 4, NAN, 2, NAN]])
    test = np.array([[NAN, NAN, 0.0, NAN, 1], [NAN, 0.0, NAN, NAN, NAN], [NAN, NAN, NAN, NAN, 3.0]])
    faults = []
    for zeros, a, b in (
        ("keep", ~np.isnan(train), ~np.isnan(test)),
        ("drop", np.nan_to_num(train) > 0, np.nan_to_num(test) > 0),
    ):
        model = lfm_np.evaluation.most_popular(csr(train), zeros=zeros)
        found = lfm_np.evaluate(model, csr(train), csr(test), ["recall@2", "mrr", "auc", "ndcg@2"])
        mine = judged(np.tile(a.sum(0).astype(float), (3, 1)), a, b, 2)
        names = ["recall@2", "mrr", "auc", "ndcg@2", "users"]
        faults += [f"{name} {zeros}" for name in names if not near(found[name], mine[name], 1e-12)]
    return faults


def _blocks_from_a_mapped_matrix(reverse: bool) -> list[str]:
    """Your data: '`recommend_parquet` writes the same for all users in blocks' (of 131,072 rows) - while `seen` is
    mapped from a stored matrix, with excluded items and biases; here some 170,000 rows in all."""
    import pyarrow.parquet as pq

    m, n, N = 1800, 131, 100
    U, V = _whole(m, n, 3, 9, 2)
    d = np.random.default_rng(10).integers(-2, 3, n).astype(np.float32)
    factors = lfm_np.Factors(U, V, item_bias=d)
    mask = _mask(m, n, 0.2, 11)
    mask[77, 2:] = True  # nothing left but items that are excluded
    users, items = np.array([f"user {u:05}" for u in range(m)]), 3 * np.arange(n) - 100
    exclude = [0, 1, 130]
    asked = np.arange(m)[:: -1 if reverse else 1]
    with folder() as place:
        lfm_np.StoredMatrix.from_matrix(_as_csr(mask), place / "m")
        parts = [np.load(place / "m" / f"rows.{name}.npy", mmap_mode="r") for name in ("data", "indices", "indptr")]
        seen = sp.csr_array((parts[0], parts[1], parts[2]), shape=(m, n))
        data = lfm_np.Interactions(seen, users, items)
        lfm_np.recommend_parquet(
            factors, data, place / "out", users[asked] if reverse else None, N=N, seen=seen, exclude=items[exclude]
        )
        table = pq.read_table(place / "out")
    S = (U @ V.T + d)[asked]
    S[mask[asked]] = -np.inf
    S[:, exclude] = -np.inf
    order = np.argsort(-S, axis=1, kind="stable")[:, :N]
    values = np.take_along_axis(S, order, axis=1)
    has = np.isfinite(values)
    of = {name: table[name].to_numpy() for name in table.column_names}
    return wrong(
        columns=list(of) == ["user", "item", "score", "rank"],
        many=len(table) == has.sum() > 131072,
        user=np.array_equal(of["user"].astype(str), np.repeat(users[asked], has.sum(1))),
        item=np.array_equal(of["item"], items[order][has]),
        score=np.array_equal(of["score"], values[has]),
        rank=np.array_equal(of["rank"], np.tile(np.arange(1, N + 1), (m, 1))[has]),
    )


def _flat_index() -> list[str]:
    """Exact top-N, 'Approximate indexes': item vectors in an exact index of faiss, by products and by distances, then
    'ask for as many more, and drop them', give the lists of `recommend` with `exclude` and biases; and N beyond."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # SWIG's
        import faiss

    draw = np.random.default_rng(12)
    U, V = (draw.normal(size=(r, 6)).astype(np.float32) for r in (5, 60))
    b, d = draw.normal(size=5).astype(np.float32), draw.normal(size=60).astype(np.float32)
    factors = lfm_np.Factors(U, V, user_bias=b, item_bias=d, global_bias=3.5)
    S = U.astype(np.float64) @ V.T + d + b[:, None] + 3.5
    vectors, asked = lfm_np.ann.item_vectors(factors), lfm_np.ann.user_vectors(factors)
    exclude = [3, 59, 0, 17]
    allowed = np.ones(60, bool)
    allowed[exclude] = False
    mine = [ranked(s, np.flatnonzero(allowed), 9) for s in S]
    norms = np.sqrt((vectors.astype(np.float64) ** 2).sum(1))
    facts = {
        "norms": near(norms / norms.max(), np.ones(60), 1e-5),
        "products": near(asked @ vectors.T + b[:, None] + 3.5, S, 1e-5),  # float32 sums of eight products
    }
    for name, kind in (("product", faiss.IndexFlatIP), ("distance", faiss.IndexFlatL2)):
        index = kind(8)
        index.add(vectors)
        ids, scores = lfm_np.ann.search(index, factors, np.arange(5), N=9 + len(exclude))
        kept = [[i for i in row if i not in exclude][:9] for row in ids.tolist()]
        beyond, last = lfm_np.ann.search(index, factors, 4, N=63)
        exact = factors.scores(np.repeat(np.arange(5), 13), ids.ravel()).reshape(5, 13)
        facts[name] = kept == mine == factors.recommend(np.arange(5), N=9, exclude=exclude).ids.tolist()
        facts[f"scores by {name}"] = np.array_equal(scores, exact) and near(exact, np.sort(S)[:, ::-1][:, :13], 1e-5)
        facts[f"N beyond, by {name}"] = (
            sorted(beyond[:60].tolist()) == list(range(60)) and beyond[60:].tolist() == [-1] * 3 and len(last) == 63
        )
    return wrong(**facts)


def _ids_of_short_lists() -> list[str]:
    """Your data: 'padded with column −1, which is not the last item: `data.item_ids(columns, missing="")`' - for ids
    that are text, numbers and days."""
    D = stars(5, 4, 13, 0.6)
    D[1] = 1.0
    days = np.array(["2024-02-29", "2024-03-01", "1969-12-31", "2100-01-01"], "datetime64[D]")
    faults = []
    for name, names in (
        ("text", np.array(["tea", "jam", "é", "-1"])),
        ("numbers", np.array([7, -1, 0, 9])),
        ("days", days),
    ):
        data = lfm_np.Interactions(csr(D), np.arange(5), names)
        model = lfm_np.Factors(np.ones((5, 1)), np.array([[1.0], [4.0], [3.0], [2.0]]))
        ids = model.recommend([0, 1], N=6, seen=data).ids
        found = data.item_ids(ids, missing="")
        for row, u in zip(found.tolist(), (0, 1), strict=True):
            mine = [names[i] for i in (1, 2, 3, 0) if np.isnan(D[u, i])]
            good = [str(x) for x in row] == [*map(str, mine), *[""] * (6 - len(mine))]
            faults += [] if good else [f"{name} of {u}"]
    return faults


def _moved(data: dict[str, np.ndarray], name: str, work: Any) -> Any:
    """``work()`` while LFM_NP_DATA is a folder with these arrays in ``name``."""
    before = os.environ.get("LFM_NP_DATA")
    with folder() as place:
        np.savez(place / name, **data)  # type: ignore[arg-type]
        os.environ["LFM_NP_DATA"] = str(place)
        try:
            return work()
        finally:
            if before is None:
                del os.environ["LFM_NP_DATA"]
            else:
                os.environ["LFM_NP_DATA"] = before


def _negatives_by_number() -> list[str]:
    """Your data: '`ncf_test_negatives` (99 item numbers a user)', while columns go by `movie_id`, in another order
    here; `Split`: negatives 'holds columns', '-1' where it is the test item itself."""
    draw = np.random.default_rng(14)
    names = draw.permutation(900)[:200] + 1
    user = np.repeat(np.arange(5), 50)
    item = np.concatenate([draw.permutation(np.arange(40 * u, 40 * u + 50) % 200) for u in range(5)])
    held = np.zeros(len(user), np.int64)
    held[[3, 70, 140, 199, 220]] = 2
    others = np.array([draw.permutation(np.setdiff1d(np.arange(200), item[user == u]))[:99] for u in range(5)])
    others[1, 5] = item[70]
    arrays = {
        "user": user, "item": item, "value": draw.integers(1, 6, len(user)).astype(float), "movie_id": names[item],
        "timestamp": np.arange(len(user)), "ncf_split": held, "ncf_test_negatives": others,
    }  # fmt: skip
    split = _moved(arrays, "ml-1m.npz", lambda: lfm_np.datasets.movielens_split("1m", "ncf"))
    columns = np.argsort(np.argsort(names))
    mine = columns[others]
    for u, cell in enumerate(np.flatnonzero(held)):
        mine[u][others[u] == item[cell]] = -1
    test = split.test.matrix.tocoo()
    return wrong(
        ids=np.array_equal(split.train.items, np.sort(names)) and np.array_equal(split.train.users, np.arange(5) + 1),
        held=sorted(zip(*(x.tolist() for x in test.coords), strict=True))
        == sorted(zip(user[held > 0].tolist(), columns[item[held > 0]].tolist(), strict=True)),
        train=split.train.matrix.nnz == (held == 0).sum(),
        negatives=np.array_equal(split.negatives, mine),
    )


def _known_and_folds() -> list[str]:
    """Your data: '`known` (bool; where false, value and time are unknown)' and 'for splits `u1_test`' - both at once;
    records 'in the order of the source's file'."""
    user, item = np.array([2, 0, 1, 0, 2, 1]), np.array([1, 0, 1, 2, 0, 2])
    value, known = np.array([5.0, 1, 4, 2, 3, 2]), np.array([1, 0, 1, 1, 0, 1], bool)
    fold, names = np.array([1, 1, 0, 0, 0, 1], bool), np.array([40, 7, 9])
    arrays = {
        "user": user, "item": item, "value": value, "timestamp": np.arange(6) * 10, "known": known, "u1_test": fold,
        "movie_id": names[item],
    }  # fmt: skip

    def read() -> Any:
        api = lfm_np.datasets
        return api.movielens("100k"), api.movielens_records("100k"), api.movielens_split("100k", "u1")

    data, records, split = _moved(arrays, "ml-100k.npz", read)
    cells: dict[tuple[int, int], tuple[str, str, str]] = {}
    for part in ("train", "test"):
        one = getattr(split, part)
        coo = one.matrix.tocoo()
        for r, c, x, t in zip(*coo.coords, coo.data, one.timestamps, strict=True):
            cells[int(one.users[r]), int(one.items[c])] = (part, str(float(x)), str(float(t)))
    unknown = np.where(known, value, np.nan), np.where(known, np.arange(6) * 10.0, np.nan)
    mine = {
        (int(u) + 1, int(names[i])): ("test" if f else "train", str(float(x)), str(float(t)))
        for u, i, f, x, t in zip(user, item, fold, *unknown, strict=True)
    }
    return wrong(
        items=data.items.tolist() == [7, 9, 40],
        order=(records.users.tolist(), records.items.tolist()) == ((user + 1).tolist(), names[item].tolist()),
        unknown=np.array_equal(np.isnan(records.values), ~known)
        and np.array_equal(np.isnan(records.timestamps), ~known),
        split=cells == mine,
        negatives=split.negatives is None,
    )


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    for N in (40, 300):
        yield _holds(f"lists of {N} where a μ drowns differences", lambda N=N: _ties_by_rounding(N))
    yield _holds("metrics where a μ drowns differences", _judged_ties)
    yield _holds("lists around 32, items around 64 and 256, nearly all tied", _around_the_heaps)
    yield _holds("products over eighty binades", _eighty_binades)
    yield _holds("similar items on axes, some of no length", _axes_and_zeros)
    yield _holds("stored zeros of models that were saved, folded in, updated", _zeros_after_a_journey)
    yield _holds("charts of ratings with zeros, judged", _charts_of_ratings)
    if installed("pyarrow", "narwhals"):
        yield _holds("lists in blocks, seen mapped, for all", lambda: _blocks_from_a_mapped_matrix(False))
        yield _holds("lists in blocks, seen mapped, in the order asked", lambda: _blocks_from_a_mapped_matrix(True))
    if installed("faiss"):
        yield _holds("exact indexes of faiss, with biases and excluded items", _flat_index)
    yield _holds("ids of lists that ran short", _ids_of_short_lists)
    yield _holds("negatives of a local MovieLens by number, columns by name", _negatives_by_number)
    yield _holds("a local MovieLens with unknown cells, split", _known_and_folds)
