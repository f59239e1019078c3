"""Journeys with a turn that few take: one-sided biases, a fit that ends early, steps, other machinery, odd tables."""

from __future__ import annotations

import os
import pickle
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

import lfm_np
from lfm_np import datasets, losses
from lfm_np.evaluation import most_popular

from .case import Case, Group, installed
from .places import inside
from .working_days import (
    Model,
    all_scores,
    best,
    biased_half,
    close,
    csr,
    dense,
    faultless,
    judged,
    raised,
    same,
    stars,
    start,
    tells,
    typed,
    wrong,
)

_GROUP = Group("quarter past four, odd ends")
_holds = faultless(_GROUP)
RATED: dict[str, Any] = {"weighting": "ratings", "alpha": 1.0, "regularization": 0.4, "regularization_exponent": 0.5}
RATINGS = Model("ratings", lam=0.4, nu=0.5)


def _one_sided(place: Path, parts: str) -> list[str]:
    """A model from elsewhere with some of μ, b_u, b_i folds in ratings, keeps them in a file, and explains."""
    U, V = start(9, 7, 3, 4)
    given: dict[str, Any] = {}
    if "mu" in parts:
        given["global_bias"] = 2.5
    if "item" in parts:
        given["item_bias"] = np.linspace(-1, 1, 7)
    lfm_np.Factors(U, V, **given).save(place / "m")
    model = lfm_np.Factors.load(place / "m", mmap=True)
    new = stars(3, 7, seed=90)
    base = given.get("global_bias", 0.0) + given.get("item_bias", np.zeros(7))
    mine = RATINGS.half(new - base, V)
    folded = model.fold_in_users(csr(new), **RATED)
    more = model.update(csr(new), users=[2, 9, 10], **RATED)
    X = np.vstack([stars(9, 7, seed=91), new[1:]])
    X[2] = new[0]
    why = more.explain(9, 3, csr(X), **RATED)
    S = base + mine @ V.T
    return wrong(
        folded=close(folded.user_factors, mine, 1e-9) and folded.user_bias is None,
        scores=close(all_scores(folded), S, 1e-9),
        updated=close(all_scores(more)[[2, 9, 10]], S, 1e-9),
        rest=np.array_equal(np.delete(more.user_factors, [2, 9, 10], 0), np.delete(U, 2, 0)),
        why=close(why.score, S[1, 3], 1e-9) and close(why.baseline, base[3] if parts != "none" else 0.0, 1e-9),
        sum=close(why.baseline + why.contributions.sum(), why.score, 1e-9),
    )


def _users_biased_only() -> list[str]:
    U, V = start(9, 7, 3, 5)
    a = np.linspace(-0.5, 1.5, 9)
    model = lfm_np.Factors(U, V, user_bias=a, global_bias=1.0)
    columns = stars(9, 2, seed=92)
    W = RATINGS.half((columns - 1.0 - a[:, None]).T, U)
    more = model.update(csr(columns), items=[7, 8], **RATED)
    fresh = model.fold_in_items(csr(columns), **RATED)
    S = 1.0 + a[:, None] + U @ np.vstack([V, W]).T
    return wrong(
        fresh=close(all_scores(fresh), S[:, 7:], 1e-9),
        scores=close(all_scores(more), S, 1e-9) and more.item_bias is None,
        lists=more.recommend(range(9), N=9).ids.tolist() == [best(s, np.ones(9, bool), 9) for s in S],
    )


def _diverged_and_served(place: Path) -> list[str]:
    """Ratings on a diagonal with far too long steps: what is left is what NumPy had by then."""
    x, (U, V) = np.array([3.0, -2.0, 5.0, 1.0]), start(4, 4, 2, 6)
    error = raised(
        lambda: lfm_np.sgd(
            sp.csr_array(np.diag(x)), losses.Squared(), sampler=None, factors=2, epochs=60, learning_rate=9.0,
            regularization=0.0, init=(U, V), dtype="float64", random_state=0,
        )
    )  # fmt: skip
    left = error.factors  # type: ignore[attr-defined]
    with np.errstate(all="ignore"):
        for _ in left.history:
            e = ((U * V).sum(1) - x)[:, None]
            U, V = U - 9.0 * e * V, V - 9.0 * e * U
        S, left_scores = U @ V.T, all_scores(left)
    left.save(place / "m")
    again = lfm_np.Factors.load(place / "m")
    small = bool(np.isfinite(S).all() and abs(S).max() < 1e150)
    return wrong(
        kind=isinstance(error, lfm_np.SolverError) and tells(error, "epoch", "diverge"),
        epochs=0 < len(left.history) < 60,
        kept=same(left, again) and np.isfinite(left.user_factors).all(),
        scores=not small or close(left_scores, S, 1e-6),
        first=not small or again.recommend(0, N=1).ids.tolist() == [int(left_scores[0].argmax())],
    )


def _seed_repeats(sgd: bool) -> list[str]:
    X = stars(40, 15, seed=93)
    words: dict[str, Any] = {"factors": 4, "dtype": "float64", "regularization": 0.3}
    solve = (lambda **w: lfm_np.sgd(csr(X), epochs=2, **words, **w)) if sgd else (
        lambda **w: lfm_np.als(csr(X), iterations=2, **words, **w)
    )  # fmt: skip
    first = solve(random_state=None, num_threads=1)
    again = solve(random_state=first.params["seed"], num_threads=2)
    other = solve(random_state=np.random.SeedSequence(5))
    third = solve(random_state=other.params["seed"])
    model = Model(lam=0.3)
    J = lfm_np.objective(csr(X), first, regularization=0.3, weighting="hu-koren")
    return wrong(
        bits=same(first, again),
        differ=not same(first, other) and (other.params["seed"] is None or same(other, third)),
        J=close(J, model.objective(X, first.user_factors, first.item_factors), 1e-9),
        items=sgd or close(first.item_factors, model.half(X.T, first.user_factors), 1e-8),
    )


def _where_sgd_begins() -> list[str]:
    """Uniform with deviation 0.1/√k, and zero where no cell brings a row in: by the sum of squares, five deviations."""
    m, k = 2000, 8
    X = sp.csr_array((np.ones(m // 2), (np.arange(0, m, 2), np.arange(m // 2) % 5)), shape=(m, 9))
    fit = lfm_np.sgd(
        X, losses.Squared(), sampler=None, factors=k, epochs=1, learning_rate=1e-13, dtype="float64", random_state=7
    )
    U, V = fit.user_factors, fit.item_factors
    squares, sigma = (U**2).sum(), 0.01 / k
    count, errors = m // 2 * k, (U[::2] * V[np.arange(m // 2) % 5]).sum(1) - 1
    return wrong(
        size=abs(squares - count * sigma) < 5 * np.sqrt(count * 0.8) * sigma,
        bound=np.linalg.norm(U, axis=1).max() <= np.sqrt(3 * k * sigma) + 1e-9,
        nobody=not U[1::2].any() and not V[5:].any() and V[:5].any(),
        paid=close(fit.history[0]["sampled_loss"], (errors**2).mean() / 2, 1e-9),
    )


def _planted_cored_judged() -> list[str]:
    data = datasets.planted(150, 40, 1200, rank=4, random_state=3)
    core = data.core(4, 4)
    train, test = core.split("random", test_fraction=0.3, random_state=np.random.default_rng(1))
    d, held = np.diff(core.matrix.indptr), np.diff(test.matrix.indptr)
    model = Model("confidence", 5.0, 0.5, 1.0)
    init = start(*core.shape, 3)
    fit = lfm_np.als(train, factors=3, iterations=2, init=init, dtype="float64", **model.words)
    A, B = dense(train), dense(test)
    U, V = model.sweeps(A, init[1], 2)
    found, names = lfm_np.evaluate(fit, train, test, ("ndcg@5", "auc")), ("ndcg@5", "auc")
    told = judged(U @ V.T, ~np.isnan(A), ~np.isnan(B), 5)
    return wrong(
        cells=abs(data.matrix.nnz - 1200) <= 24,
        core=d.min() >= 4 and np.bincount(core.matrix.indices).min() >= 4,
        held=bool((abs(held - 0.3 * d) < 1).all()),
        whole=not ((~np.isnan(A)) & (~np.isnan(B))).any() and train.matrix.nnz + test.matrix.nnz == core.matrix.nnz,
        judged=all(close(found[n], told[n], 1e-12) for n in names),
    )


def _pairs_cut_in_two() -> list[str]:
    train, test = datasets.make_interactions_train_test(60, 20, 9, test_fraction=0.35, random_state=4)
    one, two = lfm_np.build_dict(train), lfm_np.build_dict(test)
    X, Y = (lfm_np.to_csr(p, shape=(60, 20)) for p in (train, test))
    both = {(u, int(i)) for d in (one, two) for u, items in d.items() for i in items}
    popular = most_popular(X)
    found = lfm_np.evaluate(popular, X, Y, ("recall@3", "mrr@3"))
    S = np.tile(np.bincount(train[:, 1], minlength=20).astype(float), (60, 1))
    told = judged(S, X.toarray() > 0, Y.toarray() > 0, 3)
    return wrong(
        everybody=sorted(one) == list(range(60)),
        apart=len(both) == len(train) + len(test),
        most=all(len(one[u]) + len(two.get(u, [])) <= 9 for u in one),
        judged=close(found["recall@3"], told["recall@3"], 1e-12) and close(found["mrr@3"], told["mrr@3"], 1e-12),
    )


def _memory_told() -> list[str]:
    """The documented table, in MB; and what the formula of the docstring holds at least."""
    size = (1_000_000, 1_000, 2_500_000)
    als = lfm_np.estimate_memory(*size, factors=64, num_threads=2)
    sgd = lfm_np.estimate_memory(*size, factors=64, solver="sgd", num_threads=2)
    wide = lfm_np.estimate_memory(*size, factors=65, num_threads=2)
    double = lfm_np.estimate_memory(*size, factors=64, num_threads=2, dtype="float64")
    held = 2 * 1_001_000 * 64 * 4
    return wrong(
        als=0.95 * 581e6 < als < 1.05 * 581 * 2**20,
        sgd=0.95 * 841e6 < sgd < 1.05 * 841 * 2**20,
        least=als > held + 2_500_000 * 8 and sgd > 1.5 * held + 2_500_000 * 16,
        padded=wide - als >= 0.99 * 2 * 1_001_000 * 16 * 4,
        double=als + 0.99 * held < double < 2.2 * als,
    )


def _polars_and_padding() -> list[str]:
    import polars as pl

    X = stars(9, 5, seed=94)
    X[3] = 4.0
    cells = np.argwhere(~np.isnan(X))[::-1]
    frame = pl.DataFrame({"user": [f"n{u}" for u in cells[:, 0]], "item": cells[:, 1] * 2, "x": X[tuple(cells.T)]})
    data = pickle.loads(pickle.dumps(lfm_np.Interactions.from_frame(frame, value="x")))
    fit = lfm_np.als(data, factors=2, iterations=2, init=start(9, 5, 2), dtype="float64", **RATINGS.words)
    U, V = RATINGS.sweeps(X, start(9, 5, 2)[1], 2)
    S = U @ V.T
    rows = data.rows_of(["n8", "nobody", "n3"], missing=-1)
    ids = fit.recommend(rows[rows >= 0], N=2, seen=data).ids
    told = data.item_ids(ids, missing=-7)
    table = lfm_np.recommend_frame(fit, data, ["n3", "n8"], N=2, seen=data)
    mine = [best(S[u], np.isnan(X[u]), 2) for u in (8, 3)]
    return wrong(
        rows=rows.tolist() == [8, -1, 3],
        lists=ids.tolist() == mine and told.tolist() == [[2 * i if i >= 0 else -7 for i in row] for row in mine],
        polars=isinstance(table, pl.DataFrame) and set(table["user"].to_list()) <= {"n8"},
        table=table["item"].to_list() == [2 * i for i in mine[0] if i >= 0],
    )


def _biases_on(place: Path, engine: str) -> list[str]:
    X, lam = stars(15, 8, seed=95), 0.6
    init = lfm_np.Factors(*start(15, 8, 2), user_bias=np.zeros(15), item_bias=np.zeros(8), global_bias=0.0)
    words: dict[str, Any] = {"factors": 2, "iterations": 2, "weighting": "ratings", "biases": True, "init": init}
    words |= {"regularization": lam, "dtype": "float64"}
    if engine == "disk":
        stored = lfm_np.StoredMatrix.from_matrix(csr(X), place / "m", zeros="keep", dtype="float64")
        fit = lfm_np.als(stored, **words)
    elif engine == "torch":
        fit = lfm_np.torch_backend.als(csr(X), **words)
    else:
        import distributed

        with distributed.Client(processes=False, n_workers=1, threads_per_worker=2, dashboard_address=":0") as client:
            fit = lfm_np.distributed.als(csr(X), client=client, shards=2, **words)
    mu, V, b = float(np.nanmean(X)), start(15, 8, 2)[1], np.zeros(8)
    for _ in range(2):
        U, a = biased_half(X, V, b, mu, lam)
        V, b = biased_half(X.T, U, a, mu, lam)
    S = mu + a[:, None] + b + U @ V.T
    J = np.nansum((X - S) ** 2) + lam * sum((f**2).sum() for f in (U, V, a, b))
    new = stars(2, 8, seed=96)
    N, c = biased_half(new, V, b, mu, lam)
    return wrong(
        scores=close(all_scores(fit), S, 1e-7),
        J=close(fit.history[-1]["objective"], J, 1e-8) and close(lfm_np.objective(csr(X), fit), J, 1e-8),
        folded=close(all_scores(fit.fold_in_users(csr(new))), mu + c[:, None] + b + N @ V.T, 1e-7),
    )


def _original_of_irspack() -> list[str]:
    X = stars(14, 8, seed=97)
    words: dict[str, Any] = {"factors": 2, "iterations": 3, "init": start(14, 8, 2), "dtype": "float64"}
    plus = Model("confidence", 1.0, 0.3, 0.05, 1.0)
    fit = lfm_np.als(csr(X + 0.3), **words, **plus.words)
    one = lfm_np.als(csr(X + 1), **words, weighting="confidence", regularization=0.5)
    hu = lfm_np.als(csr(X), **words, regularization=0.5)
    U, V = plus.sweeps(X + 0.3, start(14, 8, 2)[1], 3)
    P, Q = Model(lam=0.5).sweeps(X, start(14, 8, 2)[1], 3)
    return wrong(
        original=close(all_scores(fit), U @ V.T, 1e-5),
        hu=close(all_scores(hu), P @ Q.T, 1e-8),
        one=close(all_scores(one), P @ Q.T, 1e-8),
    )


def _spark_rows() -> list[str]:
    X = stars(10, 7, seed=98)
    U, V = start(10, 7, 3, 8)
    model, facts = lfm_np.Factors(U, V), {}
    for u in (0, 3, 7):
        row = csr(X)[[u]]
        words: dict[str, Any] = {"weighting": "hu-koren", "alpha": 40.0, "regularization_exponent": 0.0}
        new = model.fold_in_users(row, regularization=0.1 * row.nnz, **words)
        mine = Model("hu-koren", 40.0, 1.0, 0.1 * row.nnz).half(X[[u]], V)
        ids = new.recommend(0, N=7, seen=row).ids
        facts[f"row {u}"] = close(new.user_factors, mine, 1e-9)
        facts[f"list {u}"] = ids.tolist() == best(V @ mine[0], np.isnan(X[u]), 7)
    return wrong(**facts)


def _steps_of(solver: str) -> list[str]:
    """Long rows, many factors: what the steps leave is measured by NumPy, and never rises."""
    X = stars(120, 90, seed=99, share=0.6)
    model = Model("ials", 2.0, 0.5, 0.2)
    words: dict[str, Any] = {"factors": 70, "dtype": "float64", "random_state": 0, "solver": solver, **model.words}
    fit = lfm_np.als(csr(X), iterations=3, num_threads=1, **words)
    again = lfm_np.als(csr(X), iterations=3, num_threads=2, **words)
    J = [value for r in fit.history for value in (r["objective_users"], r["objective"])]
    exact = model.objective(X, fit.user_factors, model.half(X.T, fit.user_factors))
    folded = fit.fold_in_users(csr(X[:2]))
    return wrong(
        bits=same(fit, again),
        J=close(J[-1], model.objective(X, fit.user_factors, fit.item_factors), 1e-9),
        falls=all(J[n + 1] <= J[n] * (1 + 1e-12) for n in range(5)),
        least=J[-1] >= exact * (1 - 1e-12),
        folded=close(folded.user_factors, model.half(X[:2], fit.item_factors), 1e-8),
        told=fit.params["solver"] == solver,
    )


def _interrupted_and_gone_on(place: Path) -> list[str]:
    X, model = stars(13, 8, seed=100), Model("ials", 1.0, 0.4, 0.3)
    words: dict[str, Any] = {
        "factors": 2,
        "init": start(13, 8, 2),
        "dtype": "float64",
        "random_state": 0,
        **model.words,
    }

    def press(record: Any, factors: Any) -> None:
        if record["iteration"] == 2:
            os.kill(os.getpid(), signal.SIGINT)

    cut = lfm_np.als(csr(X), iterations=30, callback=press, checkpoint=place / "c", **words)
    done = len(cut.history)
    then = lfm_np.als(csr(X), iterations=done + 2, checkpoint=place / "c", **words)
    facts = {}
    for name, fit, n in (("cut", cut, done), ("then", then, done + 2)):
        U, V = model.sweeps(X, start(13, 8, 2)[1], n)
        facts[name] = close(all_scores(fit), U @ V.T, 1e-8)
    return wrong(
        status=cut.status == lfm_np.Status.INTERRUPTED and 2 <= done <= 3,
        after=then.status == "max_iterations",
        **facts,
    )


def _very_different_sizes() -> list[str]:
    X = stars(12, 7, seed=101)
    scale = np.array([1e-6, 1.0, 1e6])[np.arange(12) % 3][:, None]
    Y = (X * scale).astype(np.float32).astype(float)
    model = Model("hu-koren", 1e-3, 1.0, 1.0)
    fit = lfm_np.als(csr(Y), factors=2, iterations=3, init=start(12, 7, 2), dtype="float64", **model.words)
    U, V = model.sweeps(Y, start(12, 7, 2)[1], 3)
    S = U @ V.T
    facts = {f"row {u}": close(all_scores(fit)[u], S[u], 1e-6) for u in range(12)}
    return wrong(**facts, J=close(lfm_np.objective(csr(Y), fit), model.objective(Y, U, V), 1e-6))


def _demonstrated(place: Path) -> list[str]:
    said = typed(place, "demo", "--data", "synthetic", "--rows", 400, "--output", ".", "--seed", 3)
    files = list(place.glob("**/*.safetensors"))
    fit = lfm_np.Factors.load(files[0]) if files else None
    picture = place / "lfm_np_demo.png"
    J = [r["objective"] for r in fit.history] if fit else []
    return wrong(
        said=said.status == 0,
        model=fit is not None and fit.shape[0] == 400,
        falls=len(J) > 1 and sorted(J, reverse=True) == J,
        picture=picture.exists() and picture.read_bytes()[:4] == b"\x89PNG",
    )


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    for parts in ("mu", "item", "mu and item", "none"):
        yield _holds(f"mapped, folded in, updated, explained: {parts}", inside(lambda p, n=parts: _one_sided(p, n)))
    yield _holds("new items beside biases of users", _users_biased_only)
    yield _holds("diverged, kept, and served", inside(_diverged_and_served))
    for sgd in (False, True):
        yield _holds(f"the seed of {'sgd' if sgd else 'als'} repeats", lambda s=sgd: _seed_repeats(s))
    yield _holds("where sgd begins", _where_sgd_begins)
    yield _holds("planted, cored, split by a generator, judged", _planted_cored_judged)
    yield _holds("pairs cut in two, dicts, the popular", _pairs_cut_in_two)
    yield _holds("memory as the documentation tells", _memory_told)
    if installed("polars", "narwhals"):
        yield _holds("polars, pickled, ids of padding", _polars_and_padding)
    yield _holds("biases on the disk", inside(lambda p: _biases_on(p, "disk")))
    if installed("torch"):
        yield _holds("biases on torch", inside(lambda p: _biases_on(p, "torch")))
    if installed("dask", "distributed"):
        yield _holds("biases on a cluster", inside(lambda p: _biases_on(p, "cluster")))
    yield _holds("irspack's ORIGINAL, and ours of 1", _original_of_irspack)
    yield _holds("Spark's rows, a λ for each", _spark_rows)
    for solver in ("cg", "subspace"):
        yield _holds(f"steps of {solver}, folded in exactly", lambda s=solver: _steps_of(s))
    yield _holds("Ctrl-C, and gone on", inside(_interrupted_and_gone_on))
    yield _holds("rows of a millionth and of a million", _very_different_sizes)
    if installed("typer", "matplotlib"):
        yield _holds("a demo of 400 rows", inside(_demonstrated))
