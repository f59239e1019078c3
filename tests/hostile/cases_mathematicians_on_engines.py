"""Other engines of `als`, rows that are folded in or explained, and estimates, beside least squares in float64."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import lfm_np

from .case import Case, Group, installed
from .cases_mathematicians_on_sweeps import Sum, canonical, each, first, scores_of, sides, some
from .working_days import close, csr, faultless, same, stars, wrong

_GROUP = Group("mathematicians")
_holds = faultless(_GROUP)


def _told(model: Sum) -> dict[str, Any]:
    return {name: value for name, value in model.words.items() if name != "biases"}


def _elsewhere(
    als: Callable[..., Any], model: Sum, X: np.ndarray, k: int, times: int = 3, relative: float = 1e-8, **words: Any
) -> list[str]:
    V = first(X.shape[1], k, scale=0.2)
    path = model.path(X, V, times)
    fit = als(
        csr(X), factors=k, iterations=times, init=(np.zeros((len(X), k)), V), dtype="float64", **model.words, **words
    )
    return wrong(
        scores=close(scores_of(fit), path[-1].scores, relative),
        J=close([r["objective"] for r in fit.history], [model.J(X, s) for s in path], 10 * relative),
        canonical=canonical(fit),
        biases=(fit.user_bias is not None) == model.biased,
    )


def _by_torch(model: Sum, X: np.ndarray, k: int, **words: Any) -> list[str]:
    return _elsewhere(lfm_np.torch_backend.als, model, X, k, **words)


def _torch_stops() -> list[str]:
    """The sweep that converges, foretold."""
    model, X, V = Sum("ials", 1.0, 0.5, 0.2, 0.5), some(21, 16, 0.4, 5), first(16, 4)
    J = [model.J(X, s) for s in model.path(X, V, 12)]
    drops = [(a - b) / a for a, b in itertools.pairwise(J)]
    share = float(np.sqrt(drops[4] * drops[5]))
    last = next(t for t, drop in enumerate(drops, 2) if drop < share)
    start = np.zeros((21, 4)), V
    fit = lfm_np.torch_backend.als(
        csr(X), factors=4, iterations=40, tolerance=share, init=start, dtype="float64", **model.words
    )
    return wrong(
        sweeps=len(fit.history) == last,
        status=fit.status == lfm_np.Status.CONVERGED,
        J=close(fit.history[-1]["objective"], J[last - 1], 1e-8),
    )


def _verdicts() -> list[str]:
    """A row passes within its tolerance; what is no number does not."""
    from lfm_np.torch_backend import CrossCheck, Row

    errors = {"below": 0.5, "above": 1.5, "nan": np.nan, "inf": np.inf, "zero": 0.0}
    rows = tuple(Row("part", what, error, 1.0, "rounding") for what, error in errors.items())
    bad = CrossCheck("cpu", rows, {}, 0.1)
    good = CrossCheck("cpu", (rows[0], rows[4]), {}, 0.1)
    return wrong(
        rows=[bool(row.passed) for row in rows] == [True, False, False, False, True],
        failures=[row.what for row in bad.failures] == ["above", "nan", "inf"],
        bad=not bad.passed,
        good=bool(good.passed) and len(good.failures) == 0,
    )


def _crosschecked() -> list[str]:
    """Of ratings with an empty row and column, asked for few factors."""
    X = stars(40, 24, 3)
    X[7], X[:, 5] = np.nan, np.nan
    report = lfm_np.torch_backend.crosscheck(csr(X), factors=3, sweeps=1, random_state=5)
    told = " ".join(row.part for row in report.rows).lower()
    text = json.dumps(json.loads(report.to_json()), ensure_ascii=False)
    return wrong(
        passed=report.passed and not report.failures,
        verdicts=all(row.passed == (row.error <= row.tolerance) for row in report.rows),
        weightings=all(name in told for name in ("hu-koren", "ials", "confidence", "ratings")),
        losses=all(name in told for name in ("bpr", "warp", "squared", "sampledsoftmax", "cosinecontrastive")),
        json=all(json.dumps(row.what, ensure_ascii=False)[1:-1] in text for row in report.rows),
    )


def _on_cluster(model: Sum, X: np.ndarray, k: int, shards: int, workers: int) -> list[str]:
    import distributed

    words: dict[str, Any] = {"processes": False, "threads_per_worker": 1, "dashboard_address": ":0"}
    with distributed.Client(n_workers=workers, **words) as client:
        return _elsewhere(lfm_np.distributed.als, model, X, k, client=client, shards=shards)


def _parts(m: int, n: int, k: int, which: str, seed: int = 2) -> lfm_np.Factors:
    """Factors that nobody fitted, with those of the biases b, d and μ that ``which`` names."""
    draw = np.random.default_rng(seed)
    U, V, b, d = draw.normal(size=(m, k)), draw.normal(size=(n, k)), draw.normal(size=m), draw.normal(size=n)
    return lfm_np.Factors(
        U,
        V,
        user_bias=b if "b" in which else None,
        item_bias=d if "d" in which else None,
        global_bias=1.75 if "μ" in which else None,
    )


def _folded(which: str, nu: float) -> list[str]:
    """Users, then items, of a model that has only some of the biases."""
    factors = _parts(8, 11, 3, which)
    own = sides(factors)
    ratings = Sum("ratings", lam=0.3, nu=nu)
    X = stars(6, 11, 5, 0.5)
    X[2] = np.nan
    Z = stars(8, 5, 6, 0.6)
    Z[:, 3] = np.nan
    users = factors.fold_in_users(csr(X), **_told(ratings))
    items = factors.fold_in_items(csr(Z), **_told(ratings))
    U, b = ratings._replace(biased="b" in which).half(X, own.V, own.d, own.mu)
    V, d = ratings._replace(biased="d" in which).half(Z.T, own.U, own.b, own.mu)
    return wrong(
        users=close(scores_of(users), own.mu + b[:, None] + own.d + U @ own.V.T, 1e-9),
        items=close(scores_of(items), own.mu + own.b[:, None] + d + own.U @ V.T, 1e-9),
        parts=(users.user_bias is None) == ("b" not in which) and (items.item_bias is None) == ("d" not in which),
        rest=np.array_equal(users.item_factors, own.V) and np.array_equal(items.user_factors, own.U),
        empty=not users.user_factors[2].any() and not items.item_factors[3].any(),
    )


def _again() -> list[str]:
    """What is kept from call to call is not that of other parameters."""
    factors, X, found = _parts(4, 12, 5, ""), some(9, 12, 0.4, 2), []
    models = [
        Sum("ials", 2.0, 0.5, 0.1, 1.0),
        Sum("ials", 2.0, 3.0, 0.1, 1.0),
        Sum("confidence", 2.0, 3.0, 0.1, 1.0),
        Sum("confidence", 2.0, 3.0, 5.0, 0.0),
        Sum("ratings", lam=5.0),
        Sum("hu-koren", 2.0, 0.0, 5.0),
    ]
    for model in models + models[::-1]:
        U, _ = model.half(X, factors.item_factors)
        found.append(close(factors.fold_in_users(csr(X), **_told(model)).user_factors, U, 1e-9))
    return wrong(all=all(found))


def _told_in_part() -> list[str]:
    """λ is given, the rest is that of the fit: items of k = 40 beside 9 users."""
    model, X, Z = Sum("hu-koren", 3.0, 6.0, 0.2, 0.5), some(9, 20, 0.5, 1), some(9, 4, 0.6, 8)
    fit = model.als(X, first(20, 40), 2)
    V, _ = model._replace(lam=1.5).half(Z.T, sides(fit).U)
    found = fit.fold_in_items(csr(Z), regularization=1.5)
    back = fit.fold_in_users(csr(X))
    return wrong(
        items=close(scores_of(found), sides(fit).U @ V.T, 1e-8),
        half=close(scores_of(back), model.half(X, sides(fit).V)[0] @ sides(fit).V.T, 1e-8),
    )


def _updated(model: Sum) -> list[str]:
    """Items first, then users over the old and the new items; rows in no order; all others stay."""
    X, V = some(12, 10, 0.6, 4), first(10, 3)
    fit = model.als(X, V, 2)
    old = sides(fit)
    Z, Y = some(12, 4, 0.7, 5), some(4, 12, 0.6, 6)
    wide = fit.update(csr(Z), items=[10, 3, 11, 0])
    new, d = model.half(Z.T, old.U, old.b, old.mu)
    items, biases = np.vstack([old.V, new[[0, 2]]]), np.concatenate([old.d, d[[0, 2]]])
    items[[3, 0]], biases[[3, 0]] = new[[1, 3]], d[[1, 3]]
    tall = wide.update(csr(Y), users=[5, 12, 2, 13])
    rows, b = model.half(Y, items, biases, old.mu)
    users, own = np.vstack([old.U, rows[[1, 3]]]), np.concatenate([old.b, b[[1, 3]]])
    users[[5, 2]], own[[5, 2]] = rows[[0, 2]], b[[0, 2]]
    keep = [1, 2, 4, 5, 6, 7, 8, 9]
    return wrong(
        wide=close(scores_of(wide), old.mu + old.b[:, None] + biases + old.U @ items.T, 1e-8),
        tall=close(scores_of(tall), old.mu + own[:, None] + biases + users @ items.T, 1e-8),
        others=np.array_equal(wide.item_factors[keep], fit.item_factors[keep]),
        first=fit.shape == (12, 10) and tall.shape == (14, 12),
    )


def _explained(model: Sum) -> list[str]:
    """c·p of each of the user's cells times vᵀA⁻¹v of that item and the one that is asked for."""
    X = some(7, 15, 0.5, 9)
    factors, found = _parts(7, 15, 4, ""), []
    V = factors.item_factors
    C, P = model.cells(X)
    for user, item in ((0, 3), (4, 11), (6, 0)):
        A = (V.T * C[user]) @ V + model.penalties(X)[user] * np.eye(4)
        shares = C[user] * P[user] * (V @ np.linalg.solve(A, V[item]))
        why = factors.explain(user, item, csr(X), **_told(model))
        mine = np.flatnonzero(~np.isnan(X[user]))
        order = np.argsort(why.items)
        found += [
            sorted(why.items) == mine.tolist(),
            close(np.asarray(why.contributions)[order], shares[mine], 1e-8),
            abs(why.baseline + np.sum(why.contributions) - why.score) < 1e-9,
            close(why.score, shares.sum(), 1e-8),
        ]
    return wrong(all=all(found))


def _explained_ratings() -> list[str]:
    """With biases the sum is the score of the user folded in, for one who has rated nothing too."""
    X = stars(9, 8, 4)
    X[5] = np.nan
    model = Sum("ratings", lam=0.4, nu=1.0, biased=True)
    fit = model.als(X, first(8, 3), 3)
    own = sides(fit)
    U, b = model.half(X, own.V, own.d, own.mu)
    S, found = own.mu + b[:, None] + own.d + U @ own.V.T, []
    for user, item in ((0, 0), (3, 6), (5, 2), (8, 7)):
        why = fit.explain(user, item, csr(X))
        total = float(why.baseline + np.sum(why.contributions))
        found.append(abs(total - why.score) < 1e-9 and abs(why.score - S[user, item]) < 1e-8)
        found.append(len(why.items) == (~np.isnan(X[user])).sum())
    return wrong(all=all(found))


def _prices() -> list[str]:
    """Ratings over nineteen orders of magnitude, each row of its own size."""
    X = some(12, 10, 0.6, 11, 5.0) * 10.0 ** np.linspace(-9, 10, 12)[:, None]
    model, V = Sum("ratings", lam=1e-3), first(10, 3, scale=1.0)
    U, _ = model.half(X, V)
    fit = lfm_np.Factors(np.zeros((1, 3)), V).fold_in_users(csr(X), **_told(model))
    sizes = np.maximum(abs(U @ V.T).max(1), 1e-300)
    return wrong(rows=bool((abs(scores_of(fit) - U @ V.T).max(1) <= 5e-6 * sizes).all()))


def _any_threads() -> list[str]:
    """Folding in many rows of many factors, in float32."""
    draw = np.random.default_rng(0)
    V = draw.normal(0, 0.2, (60, 129)).astype(np.float32)
    model, X = Sum("confidence", 8.0, 0.5, 1.0, 0.25), some(150, 60, 0.5, 3)
    found = [
        lfm_np.Factors(np.zeros((1, 129), np.float32), V).fold_in_users(
            csr(X, np.float32), num_threads=t, **_told(model)
        )
        for t in (1, 2, 5)
    ]
    U, _ = model.half(csr(X, np.float32).toarray().astype(float) * np.where(np.isnan(X), np.nan, 1.0), V.astype(float))
    return wrong(
        bits=same(found[0], found[1]) and same(found[0], found[2]),
        scores=close(scores_of(found[0]), U @ V.T.astype(float), 5e-4),
    )


def _published() -> list[str]:
    """The first numbers of each pair of docs/reliability.md, "Memory", in MB."""
    shapes = ((1_000_000, 1_000, 2_500_000), (138_000, 27_000, 8_000_000), (500_000, 100_000, 8_000_000))
    told = {"als": (577, 157, 398), "sgd": (834, 260, 604)}
    found = {
        f"{solver} of {shape}": abs(lfm_np.estimate_memory(*shape, solver=solver, num_threads=2) / 1e6 / mb - 1) < 0.04
        for solver, numbers in told.items()
        for shape, mb in zip(shapes, numbers, strict=True)
    }
    return wrong(**found)


def _monotone(solver: str, backend: str) -> list[str]:
    """More of anything never takes less, and it holds what its notes count."""
    words: dict[str, Any] = {"solver": solver, "backend": backend, "num_threads": 2}
    m, n, nnz, k = 20_000, 3_000, 900_000, 40

    def rises(*found: int) -> bool:
        return all(a <= b for a, b in itertools.pairwise(found))

    base = lfm_np.estimate_memory(m, n, nnz, factors=k, **words)
    ld = 48
    held = 2 * (m + n) * ld * 4 + (8 * nnz if solver == "als" else 16 * nnz + (m + n) * k * 4)
    return wrong(
        rows=rises(*(lfm_np.estimate_memory(m * s, n, nnz, factors=k, **words) for s in (1, 2, 3, 10))),
        columns=rises(*(lfm_np.estimate_memory(m, n * s, nnz, factors=k, **words) for s in (1, 2, 3, 10))),
        cells=rises(*(lfm_np.estimate_memory(m, n, nnz * s, factors=k, **words) for s in (1, 2, 3, 10))),
        factors=rises(
            *(lfm_np.estimate_memory(m, n, nnz, factors=f, **words) for f in (1, 15, 16, 17, 40, 48, 49, 300))
        ),
        dtype=rises(base, lfm_np.estimate_memory(m, n, nnz, factors=k, dtype="float64", **words)),
        biases=rises(base, lfm_np.estimate_memory(m, n, nnz, factors=k, biases=True, **words)),
        threads=rises(base, lfm_np.estimate_memory(m, n, nnz, factors=k, **{**words, "num_threads": 9})),
        whole=isinstance(base, int),
        enough=backend == "torch" or base >= 0.85 * held,
    )


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    if installed("torch"):
        for name, model, X, k in (
            ("ials", Sum("ials", 0.5, 2.0, 0.1, 1.0), some(26, 15, 0.5, 2), 6),
            ("stored cells weigh less", Sum("hu-koren", 0.5, 5.0, 0.3), some(26, 15, 0.8, 2), 12),
            ("biases, ν = 0.5", Sum("ratings", lam=0.2, nu=0.5, biased=True), stars(23, 14, 2), 4),
            ("more factors than rows and columns", Sum("confidence", 4.0, 0.5, 0.3, 1.0), some(11, 14, 0.6, 2), 70),
            ("ν = 1 without weight elsewhere", Sum("confidence", 4.0, 0.0, 0.3, 1.0), some(26, 15, 0.3, 2), 9),
        ):
            yield _holds(f"torch: {name}", lambda m=model, X=X, k=k: _by_torch(m, X, k, solver="exact"))
        for solver in ("cg", "subspace"):
            yield _holds(
                f"torch: a diagonal system by {solver}",
                lambda s=solver: _by_torch(Sum(alpha=0.0), some(60, 55, 0.7, 4), 80, solver=s),
            )
        yield _holds("torch: the sweep that converges", _torch_stops)
        yield _holds("torch: verdicts of a crosscheck", _verdicts)
        yield _holds("torch: a crosscheck of sparse ratings", _crosschecked)
    if installed("distributed"):
        for name, model, X, k, shards in (
            ("biases, by equations", Sum("ratings", lam=0.2, nu=1.0, biased=True), stars(61, 7, 2), 4, 3),
            ("ials, by users", Sum("ials", 2.0, 0.3, 0.2, 0.5), some(20, 60, 0.3, 5), 9, 4),
            ("stored cells weigh less, k > n", Sum("hu-koren", 0.25, 4.0, 0.5, 1.0), some(30, 6, 0.7, 5), 20, 2),
        ):
            yield _holds(f"a cluster: {name}", lambda m=model, X=X, k=k, s=shards: _on_cluster(m, X, k, s, workers=2))
    yield _holds("folding in, biases of one side", each("part", ("dμ", "bμ", "b", "d"), lambda w: _folded(w, 1.0)))
    yield _holds("folding in, biases of both sides, or μ alone", each("part", ("bdμ", "μ"), lambda w: _folded(w, 0.5)))
    yield _holds("folding in by other parameters, and back", _again)
    yield _holds("folding in, told in part", _told_in_part)
    for model in (Sum("ials", 2.0, 0.5, 0.2, 1.0), Sum("ratings", lam=0.3, nu=1.0, biased=True)):
        yield _holds(f"items, then users, {model.weighting}", lambda m=model: _updated(m))
    explained = Sum("ials", 2.0, 0.5, 0.2, 1.0), Sum("hu-koren", 0.1, 3.0, 0.2), Sum("confidence", 5.0, 0.0, 0.2)
    yield _holds("shares of a score", each("model", explained, _explained))
    yield _holds("shares of a rating with biases", _explained_ratings)
    yield _holds("rows of ratings from 1e-9 to 1e10", _prices)
    yield _holds("folding in by any number of threads", _any_threads)
    yield _holds("estimates that are printed", _published)
    yield _holds("estimates rise", each("solver", ("als", "sgd"), lambda s: _monotone(s, "numpy")))
    yield _holds("estimates rise, of torch", each("solver", ("als", "sgd"), lambda s: _monotone(s, "torch")))
