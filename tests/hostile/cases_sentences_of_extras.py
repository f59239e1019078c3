"""Sentences about matrices on disk, scikit-learn, torch, dask, pictures, indexes and the command line."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import scipy.sparse as sp

from .case import Case, Group, installed
from .sentences_by_numpy import Rule, begun, lfm_np, losses, near, product, ranked, with_gaps
from .working_days import NAN, all_scores, csr, faultless, folder, raised, same, stars, tells, wrong

_GROUP = Group("sentence extras")
_holds = faultless(_GROUP)
_refused = _GROUP.refused
X = with_gaps()
KOREN = Rule("hu-koren", alpha=3.0, a0=0.5, lam=0.2, nu=1.0)
RATINGS = Rule("ratings", lam=0.3, nu=1.0)


def _on_disk(dtype: str, zeros: str) -> list[str]:
    matrix = csr(X - 3 if zeros == "keep" else X, dtype)
    if zeros == "drop":
        matrix.data[::4] = 0
    rule = RATINGS if zeros == "keep" else KOREN
    words: dict[str, Any] = {"factors": 3, "iterations": 3, "random_state": 0, "dtype": dtype, **rule.words}
    with folder() as place:
        made = lfm_np.StoredMatrix.from_matrix(matrix, place / "x", zeros=zeros, dtype=dtype)
        sides = {
            side: [np.load(place / "x" / f"{side}.{part}.npy", mmap_mode="r") for part in ("data", "indices", "indptr")]
            for side in ("rows", "columns")
        }
        mine = matrix.copy()
        if zeros == "drop":
            mine.eliminate_zeros()
        turned = sp.csr_array(mine.T.tocsr())
        turned.sort_indices()
        facts = {}
        for side, want in (("rows", mine), ("columns", turned)):
            data, indices, indptr = sides[side]
            parts = ((data, want.data), (indices, want.indices), (indptr, want.indptr))
            facts[side] = all(np.array_equal(a, b) for a, b in parts) and data.dtype == np.dtype(dtype)
        del sides, data, indices, indptr, parts
        (place / "factors").mkdir()
        opened = lfm_np.StoredMatrix(place / "x", memory=64 << 20, factors_in=place / "factors")
        fits = [lfm_np.als(S, **words) for S in (made, opened, matrix)]
        again = raised(lambda: lfm_np.StoredMatrix.from_matrix(matrix, place / "x"))
        names = sorted(p.name for p in place.iterdir())
    return wrong(
        **facts,
        told=made.shape == (14, 10) and made.nnz == mine.nnz and made.dtype == np.dtype(dtype),
        disk=same(fits[0], fits[2]),
        mapped=same(fits[1], fits[2]),
        exists=tells(again, "exist|folder"),
        left=names == ["factors", "x"],
        ids=made.users is None,
    )


def _stored_records() -> list[str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with folder() as place:
        (place / "in").mkdir()
        pq.write_table(pa.table({"u": ["b", "a"], "i": [7, 7], "v": [1.0, 2.0]}), place / "in" / "2.parquet")
        pq.write_table(
            pa.table({"u": ["b", None, "c"], "i": [7, 7, -1], "v": [9.0, 1.0, 0.0]}), place / "in" / "1.parquet"
        )
        words: dict[str, Any] = {"user": "u", "item": "i", "value": "v", "nulls": "drop", "memory": 64 << 20}
        last = lfm_np.StoredMatrix.from_parquet(place / "in", place / "last", duplicates="last", **words)
        summed = lfm_np.StoredMatrix.from_parquet(place / "in", place / "sum", zeros="keep", **words)
        ids = list(last.users), list(last.items)
        data = {name: np.load(place / name / "rows.data.npy").tolist() for name in ("last", "sum")}
        small = raised(
            lambda: lfm_np.StoredMatrix.from_parquet(place / "in", place / "s", **{**words, "memory": (34 << 20) - 1})
        )
    return wrong(
        ids=ids == (["a", "b", "c"], [-1, 7]), last=data["last"] == [2, 1],
        sum=data["sum"] == [2, 10, 0], nnz=(last.nnz, summed.nnz) == (2, 3), small=tells(small, "memory"),
    )  # fmt: skip


def _ids_gone() -> Any:
    """The ids of a matrix whose file of ids is taken away while it is open."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with folder() as place:
        pq.write_table(pa.table({"user": ["b", "a"], "item": [7, 7]}), place / "f.parquet")
        stored = lfm_np.StoredMatrix.from_parquet(place / "f.parquet", place / "x", memory=64 << 20)
        (place / "x" / "users.parquet").unlink()
        return stored.users


def _damaged(name: str) -> list[str]:
    with folder() as place:
        lfm_np.StoredMatrix.from_matrix(csr(X), place / "x")
        path = place / "x" / name
        raw = bytearray(path.read_bytes())
        raw[-3] ^= 1
        path.write_bytes(raw)
        error = raised(lambda: lfm_np.StoredMatrix(place / "x"))
    return wrong(
        kind=isinstance(error, ValueError),
        named=tells(error, name, name.split(".")[0]) or tells(error, "checksum of " + name.split(".")[0]),
    )


def _transformed() -> list[str]:
    from lfm_np.sklearn import ALS

    words: dict[str, Any] = {"factors": 3, "iterations": 2, "init": begun(X), "dtype": "float64", **KOREN.words}
    model = ALS(**words).fit(csr(X))
    new = stars(5, 10, seed=6)
    both = ALS(**words).fit_transform(csr(X))
    V = model.item_factors_
    return wrong(
        factors=same(model.factors_, KOREN.fit(X)),
        new=near(model.transform(csr(new)), KOREN.half(new, V), 1e-8),
        own=near(both, KOREN.half(X, V), 1e-8),
        sizes=(model.n_features_in_, model.n_iter_) == (10, 2),
        behind=not near(both, model.factors_.user_factors, 1e-6),
        short=repr(ALS(factors=4, random_state=0, regularization=1.0))
        == "ALS(factors=4, random_state=0, regularization=1.0)",
        defaults=ALS().get_params()["iterations"] == 15 and ALS().get_params()["regularization"] == 0.01,
    )


def _transformed_steps() -> list[str]:
    """Ratings by the very objective, else "ials" with α = α₀ = 1, λ = 0.1, ν = 1."""
    from lfm_np.sklearn import SGD

    words: dict[str, Any] = {"factors": 3, "epochs": 2, "random_state": 0, "dtype": "float64"}
    rated = SGD(losses.Squared(), sampler=None, regularization={"user": 0.7, "item": 0.1}, **words).fit(csr(X))
    clicked = SGD(losses.BPR(), **words).fit(csr(X))
    given = SGD(
        losses.BPR(),
        fold_in={
            "weighting": "hu-koren",
            "alpha": 3.0,
            "unobserved_weight": 0.5,
            "regularization": 0.2,
            "regularization_exponent": 1.0,
        },
        **words,
    ).fit(csr(X))
    biased = SGD(losses.BPR(), biases="item", **words).fit(csr(X))
    new = stars(5, 10, seed=6)
    rules = ((rated, Rule("ratings", lam=0.7, nu=1.0)), (clicked, Rule("ials", 1.0, 1.0, 0.1, 1.0)), (given, KOREN))
    found = [near(model.transform(csr(new)), rule.half(new, model.item_factors_), 1e-8) for model, rule in rules]
    error = raised(lambda: biased.transform(csr(new)))
    return wrong(rated=found[0], clicked=found[1], given=found[2], biased=tells(error, "bias"))


def _hidden_ratings() -> list[str]:
    """Every rating is 2 and λ is huge: without biases all is predicted as 0, with them as the mean."""
    from lfm_np.sklearn import ALS, HeldOut

    twos = csr(np.where(np.isnan(X), NAN, 2.0))[[0, 1, 3, 4, 5]]
    score = HeldOut("neg_root_mean_squared_error", test_fraction=0.5)
    words: dict[str, Any] = {
        "factors": 2,
        "weighting": "ratings",
        "regularization": 1e12,
        "random_state": 0,
        "dtype": "float64",
    }
    plain, biased = (ALS(biases=b, **words).fit(twos) for b in (False, True))
    list_of = HeldOut("recall@10", test_fraction=0.5, random_state=3)
    return wrong(
        plain=near(score(plain, twos), -2.0, 1e-6),
        biased=near(score(biased, twos), 0.0, 1e-6),
        again=score(plain, twos) == score(plain, twos),
        all=near(list_of(plain, twos), 1.0, 1e-12),
        default=HeldOut() == HeldOut("ndcg@10", 0.2, 0),
    )


def _torch_half(rule: Rule, biases: bool) -> list[str]:
    words = {"factors": 3, "iterations": 2, "init": begun(X), "dtype": "float64", **rule.words}
    if biases:
        words["biases"] = True
    there, here = lfm_np.torch_backend.als(csr(X), **words), lfm_np.als(csr(X), **words)
    facts = {"scores": near(all_scores(there), all_scores(here), 1e-9)}
    if not biases:
        mine = rule.sweeps(X, begun(X)[1], 2)
        facts |= {
            "own": near(product(there), mine[0] @ mine[1].T, 1e-8),
            "J": near(there.history[-1]["objective"], rule.cost(X, *mine)),
        }
    return wrong(**facts, empty=not there.user_factors[[2, 13]].any())


def _torch_batch() -> list[str]:
    """All records move their rows by the slopes before the batch, and the moves of a row add up."""
    U, V = begun(X)
    lam, eta, e = 0.3, 0.01, np.where(np.isnan(X), 0.0, U @ V.T - X)
    has = (~np.isnan(X)).astype(float)
    mine = U - eta * (e @ V + lam * has.sum(1)[:, None] * U), V - eta * (e.T @ U + lam * has.sum(0)[:, None] * V)
    fit = lfm_np.torch_backend.sgd(
        csr(X), losses.Squared(), sampler=None, factors=3, epochs=1, init=(U, V), learning_rate=eta, regularization=lam,
        dtype="float64", random_state=0, batch_size=10_000,
    )  # fmt: skip
    params = fit.params or {}
    return wrong(
        scores=near(product(fit), mine[0] @ mine[1].T, 1e-12),
        batch=params["batch_size"] == 10_000 and "blocks" not in params,
        device=params["device"] == "cpu",
        paid=near(fit.history[0]["sampled_loss"], (e**2).sum() / 2 / has.sum(), 1e-12),
    )


def _torch_begins_alike() -> list[str]:
    words: dict[str, Any] = {"factors": 4, "random_state": 11, "dtype": "float64", "epochs": 1, "learning_rate": 1e-14}
    fits = [solve(csr(stars()), losses.BPR(), **words) for solve in (lfm_np.sgd, lfm_np.torch_backend.sgd)]
    als = [
        solve(csr(stars()), factors=4, iterations=1, random_state=11, dtype="float64")
        for solve in (lfm_np.als, lfm_np.torch_backend.als)
    ]
    paid = [f.history[0]["sampled_loss"] for f in fits]  # of the same first negatives
    return wrong(
        start=near(product(fits[0]), product(fits[1]), 1e-9),
        paid=near(paid[0], paid[1], 1e-10),
        als=near(product(als[0]), product(als[1])),
    )


class Own:
    def value(self, difference: float) -> float:
        return difference * difference

    def gradient(self, difference: float) -> float:
        return 2.0 * difference


def _of_one_norm() -> list[str]:
    from lfm_np import ann

    draw = np.random.default_rng(0)
    U, V, b = draw.normal(size=(6, 3)), draw.normal(size=(8, 3)), draw.normal(size=8)
    factors = lfm_np.Factors(U, V, user_bias=draw.normal(size=6), item_bias=b, global_bias=4.0)
    items, users = ann.item_vectors(factors), ann.user_vectors(factors)
    squares = (V**2).sum(1) + b**2
    mine = np.column_stack([V, b, np.sqrt(squares.max() - squares)])
    none = ann.item_vectors(lfm_np.Factors(U, V))
    return wrong(
        items=near(items, mine, 1e-6) and items.dtype == np.float32,
        users=near(users, np.column_stack([U, np.ones(6), np.zeros(6)]), 1e-6),
        inner=near(users @ items.T, U @ V.T + b, 1e-5),
        scalar=ann.user_vectors(factors, 2).shape == (5,),
        plain=near(none[:, 3], np.zeros(8)) and none.shape == (8, 5),
    )


def _asked_of_an_index(kind: str) -> list[str]:
    from lfm_np import ann

    draw = np.random.default_rng(1)
    factors = lfm_np.Factors(
        draw.normal(size=(5, 3)),
        draw.normal(size=(12, 3)),
        user_bias=draw.normal(size=5),
        item_bias=draw.normal(size=12),
        global_bias=1.5,
    )
    index = ann.usearch_index(factors) if kind == "usearch" else ann.faiss_index(factors)
    found, S = ann.search(index, factors, [4, 0], N=14), all_scores(factors)
    mine = [ranked(S[u], range(12), 14) for u in (4, 0)]
    exact = factors.recommend([4, 0], N=14)
    one = ann.search(index, factors, 3, N=2)
    return wrong(
        ids=found.ids.tolist() == mine,
        scores=np.array_equal(found.scores, exact.scores),
        one=one.ids.tolist() == ranked(S[3], range(12), 2),
    )


def _drawn() -> list[str]:
    from lfm_np import plots

    data = csr(stars(40, 25, seed=2, share=0.2))
    fit = lfm_np.als(data, factors=4, iterations=5, random_state=0, regularization=1.0)
    seen = ~np.isnan(stars(40, 25, seed=2, share=0.2))
    test = csr(stars(40, 25, seed=5, share=0.2))
    S = all_scores(fit)
    lists = [ranked(S[u], np.flatnonzero(~seen[u]), 10) for u in range(40)]
    covered = {n: len({i for row in lists for i in row[:n]} - {-1}) / 25 for n in range(1, 11)}
    spectrum = np.linalg.svd(product(fit), compute_uv=False)[:4]
    curve = plots.training_curve(fit).lines[0]
    timed = plots.training_curve(fit, by="seconds").lines[0]
    line, found = plots.coverage(fit, data, N=10).lines[0], plots.factor_spectrum(fit).lines[0]
    metric = plots.metric_at_n(fit, data, test, "ndcg", N=(2, 7)).lines[0]
    judged = lfm_np.evaluate(fit, data, test, ["ndcg@2", "ndcg@7"])
    shown = dict(
        zip(np.asarray(line.get_xdata(), int).tolist(), np.asarray(line.get_ydata(), float).tolist(), strict=True)
    )
    return wrong(
        curve=list(curve.get_ydata()) == [r["objective"] for r in fit.history]
        and list(curve.get_xdata()) == [1, 2, 3, 4, 5],
        seconds=near(timed.get_xdata(), np.cumsum([r["seconds"] for r in fit.history]), 1e-9),
        coverage=set(shown) >= {1, 10}
        and all(near(share, covered[n], 1e-9) or near(share, 100 * covered[n], 1e-9) for n, share in shown.items()),
        spectrum=near(found.get_ydata(), spectrum, 1e-4),
        metric=near(metric.get_ydata(), [judged["ndcg@2"], judged["ndcg@7"]], 1e-12),
    )


def _a_page() -> list[str]:
    from lfm_np.report import write_report

    data = csr(stars(40, 25, seed=2, share=0.2))
    fit = lfm_np.als(data, factors=3, iterations=2, random_state=0)
    with folder() as place:
        labels = ["<b>&\"'</b>", *[f"item {i}" for i in range(24)]]
        write_report(
            place / "r.html", fit, data, csr(stars(40, 25, seed=5, share=0.2)), labels=labels, title="A & <i>B</i>"
        )
        page, names = (place / "r.html").read_text("utf-8"), [p.name for p in place.iterdir()]
    links = re.findall(r"""(?:src|href)\s*=\s*["']([^"']*)""", page)
    return wrong(
        script="<script" not in page.lower(),
        escaped="<i>B</i>" not in page and '<b>&"' not in page and "A &amp; &lt;i&gt;B" in page,
        inside=all(link.startswith(("data:", "#")) for link in links),
        alone=names == ["r.html"],
        quality="ndcg" in page.lower(),
    )


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    for dtype, zeros in (("float32", "drop"), ("float64", "keep")):
        yield _holds(f"a folder holds CSR and its transpose, zeros={zeros}", lambda d=dtype, z=zeros: _on_disk(d, z))
    for name in ("rows.indices.npy", "columns.data.npy"):
        yield _holds(f"the file that is damaged is named: {name}", lambda n=name: _damaged(n))
    if installed("pyarrow", "narwhals"):
        yield _GROUP.either(
            "ids where it was made from records, or an error, but not None", _ids_gone,
            lambda ids: list(ids if ids is not None else []) == ["a", "b"], "users", kind=(OSError, ValueError),
        )  # fmt: skip
        yield _holds("last is the last in the order of the files, 34 MiB at least", _stored_records)
    if installed("sklearn"):
        yield _holds("fit_transform is fit and transform, one more half-step", _transformed)
        yield _holds("rows of sgd are solved by the very objective, or by ials", _transformed_steps)
        yield _holds("hidden ratings, and what was hidden of a list", _hidden_ratings)
    if installed("torch"):
        for rule, biases in ((KOREN, False), (Rule("ials", 2.0, 0.3, 0.05, 0.5), False), (RATINGS, True)):
            yield _holds(
                f"torch: the objective and the result of als, {rule.weighting}",
                lambda r=rule, b=biases: _torch_half(r, b),
            )
        yield _holds("torch: the moves of a batch add up", _torch_batch)
        yield _holds("torch: the starting factors and first negatives of sgd", _torch_begins_alike)
        yield _refused("torch: a budget below 1 MiB", lambda: lfm_np.torch_backend.als(
            csr(X), factors=2, memory_budget=(1 << 20) - 1), "memory_budget")  # fmt: skip
        yield _refused(
            "torch: a loss without torch_value",
            lambda: lfm_np.torch_backend.sgd(csr(X), Own(), factors=2),
            "torch_value",
        )
    yield _holds("all items have norm M, the inner product is U[u]·V[i] + b_i", _of_one_norm)
    for kind in ("usearch", "faiss"):
        if installed(kind):
            yield _holds(f"what an index finds has exact scores: {kind}", lambda k=kind: _asked_of_an_index(k))
    if installed("matplotlib"):
        yield _holds("what pictures show", _drawn)
        yield _holds("a page without scripts, other files or network", _a_page)
