"""Is it the same model? lfm_np beside its peers, asked for the same thing in the words of docs/coming_from.md.

    python -m benchmarks.equivalence               # every peer that is installed
    python -m benchmarks.equivalence spark cmfrec

Two solvers stop at different points near a minimum, so the start is a peer's own factors: one sweep of either from
there must agree, which checks weights, targets and regularisation at once. Differences are in scores (of "items" and
"users": in factors), relative to the largest. Stochastic solvers draw other numbers; of them the ndcg@10 on held-out
cells is compared, in its standard errors ("s.e."). Exit status 1 where a difference is above its tolerance.
"""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp

import lfm_np
from benchmarks import datasets
from lfm_np import losses, sampling

PEERS = ("implicit", "irspack", "cmfrec", "lightfm", "spark", "surprise")
K, LAMBDA, ALPHA, SWEEPS = 8, 0.05, 2.0, 3
COUNTS, STARS = (1.0, 2.0, 4.0), (1.0, 2.0, 3.0, 4.0, 5.0)
SINGLE, DOUBLE = 1e-5, 1e-10  # tolerances where the peer computes in float32 and in float64


class Row(NamedTuple):
    """One comparison."""

    theirs: str
    ours: str
    difference: float
    tolerance: float
    unit: str = ""


def interactions(values: tuple[float, ...] = COUNTS) -> sp.csr_array:
    """500 × 200, 12,000 cells of the given values."""
    X = lfm_np.datasets.planted(500, 200, 12_000, rank=8, random_state=0).matrix.copy()  # peers want to write
    drawn = np.random.default_rng(0).choice(np.array(values, np.float32), X.nnz)
    return sp.csr_array((drawn, X.indices, X.indptr), shape=X.shape)


def relative(ours: Any, theirs: Any) -> float:
    """Largest difference, relative to the largest of theirs."""
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def difference(ours: lfm_np.Factors, users: Any, items: Any) -> float:
    """Largest relative difference of any score; ``users`` and ``items`` are the peer's factors."""
    found = ours.user_factors.astype(np.float64) @ ours.item_factors.T.astype(np.float64)
    return relative(found, np.asarray(users, np.float64) @ np.asarray(items, np.float64).T)


def sweep(X: Any, start: tuple[Any, Any], **parameters: Any) -> lfm_np.Factors:
    """One sweep of `lfm_np.als` in float64 from a peer's factors."""
    U, V = (np.array(side, np.float64) for side in start)
    return lfm_np.als(X, factors=U.shape[1], init=(U, V), iterations=1, dtype=np.float64, **parameters)


def quality(theirs: str, their_model: lfm_np.Factors, ours: str, **parameters: Any) -> Row:
    """ndcg@10 on the small planted data, in standard errors; ``parameters`` are those of `lfm_np.sgd`."""
    train, test = datasets.load("small")
    model = lfm_np.sgd(train, factors=2 * K, random_state=0, **parameters)
    found, own = (lfm_np.evaluate(factors, train, test, ["ndcg@10"]) for factors in (their_model, model))
    apart = abs(found["ndcg@10"] - own["ndcg@10"]) / own["ndcg@10_se"]
    said = f"{theirs}: ndcg@10 {found['ndcg@10']:.3f} and {own['ndcg@10']:.3f}"
    return Row(said, ours, apart, 3.0, " s.e.")


# ---- peers ----------------------------------------------------------------------------------------------------------


def implicit() -> Iterator[Row]:
    import implicit.cpu.als  # before the limit, which it looks at  # noqa: F401
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1, "blas"):  # it warns otherwise
        yield _implicit_als()
        yield from _implicit_bpr()


def _implicit_als() -> Row:
    from implicit.cpu.als import AlternatingLeastSquares

    X, rng = interactions(), np.random.default_rng(0)
    U, V = (rng.normal(0, 0.1, (size, K)) for size in X.shape)
    model = AlternatingLeastSquares(
        K, LAMBDA, ALPHA, dtype=np.float64, use_cg=False, iterations=SWEEPS, num_threads=1, random_state=0
    )
    model.user_factors, model.item_factors = U.copy(), V.copy()
    model.fit(sp.csr_matrix(X), show_progress=False)
    parameters: dict[str, Any] = {"weighting": "confidence", "alpha": ALPHA, "regularization": LAMBDA}
    ours = lfm_np.als(X, factors=K, init=(U, V), iterations=SWEEPS, dtype=np.float64, **parameters)
    found = difference(ours, model.user_factors, model.item_factors)
    return Row(f"ALS, {SWEEPS} sweeps", "als(X, weighting='confidence')", found, DOUBLE)


def _implicit_bpr() -> Iterator[Row]:
    from implicit.cpu.bpr import BayesianPersonalizedRanking

    X, epochs = datasets.load("small").train, 40
    options = {"learning_rate": 0.05, "regularization": 0.01}
    model = BayesianPersonalizedRanking(2 * K, iterations=epochs, num_threads=1, random_state=0, **options)
    model.fit(sp.csr_matrix(X), show_progress=False)
    U, V = model.user_factors, model.item_factors  # the last column of V is the bias, that of U is 1
    ours = lfm_np.Factors(U[:, :-1].copy(), V[:, :-1].copy(), item_bias=V[:, -1].copy())
    theirs, scores = model.recommend(np.arange(len(U)), sp.csr_matrix(X), N=10)
    ids, own = ours.recommend(np.arange(len(U)), N=10, seen=X)
    yield Row("BPR, scores of recommend", "Factors(…, item_bias=…).recommend", relative(own, scores), SINGLE)
    yield Row("BPR, share of other items in its lists", "the same", float((theirs != ids).mean()), 1e-3)
    options |= {"sampler": sampling.Popularity(1.0), "biases": "item", "epochs": round(epochs * (1 - skipped(X)))}
    yield quality("BPR", ours, "sgd(X, BPR(), sampler=Popularity(1.0), biases='item')", loss=losses.BPR(), **options)


def skipped(X: sp.csr_array) -> float:
    """Share of implicit's steps that do nothing, because the drawn negative is stored in the row."""
    popularity = np.bincount(X.indices, minlength=X.shape[1]) / X.nnz
    lengths = np.diff(X.indptr)
    return float(popularity[X.indices] @ np.repeat(lengths, lengths)) / X.nnz


def irspack() -> Iterator[Row]:
    from irspack.recommenders.ials import LossType

    X = interactions()
    for alpha0, nu in ((0.3, 1.0), (1.0, 0.0)):
        found = _irspack(X, X, LossType.IALSPP, alpha0, nu, "ials")
        yield Row(f"iALS, IALSPP, alpha0={alpha0}, nu={nu}", "als(X, weighting='ials')", found, SINGLE)
        more = sp.csr_array((X.data + np.float32(alpha0), X.indices, X.indptr), shape=X.shape)
        found = _irspack(X, more, LossType.ORIGINAL, alpha0, nu, "confidence")
        theirs = f"iALS, ORIGINAL, alpha0={alpha0}, nu={nu}"
        yield Row(theirs, "als(X + alpha0, weighting='confidence')", found, SINGLE)


def _irspack(X: Any, ours: Any, loss: Any, alpha0: float, nu: float, weighting: str) -> float:
    from irspack.recommenders.ials import IALSTrainer, SolverType

    trainer = IALSTrainer(
        X=sp.csr_matrix(X), n_components=K, alpha0=alpha0, reg=LAMBDA, nu=nu, init_std=0.1,
        solver_type=SolverType.CHOLESKY, max_cg_steps=3, ialspp_subspace_dimension=64, loss_type=loss,
        random_seed=0, n_threads=1, prediction_time_max_cg_steps=3, prediction_time_ialspp_iteration=1,
    )  # fmt: skip
    core = trainer.core_trainer
    for _ in range(SWEEPS):
        trainer.run_epoch()
    start = np.array(core.user), np.array(core.item)
    trainer.run_epoch()
    parameters = {"unobserved_weight": alpha0, "regularization": LAMBDA, "regularization_exponent": nu}
    return difference(sweep(ours, start, weighting=weighting, **parameters), core.user, core.item)


def cmfrec() -> Iterator[Row]:
    from cmfrec import CMF, CMF_implicit

    make = partial(CMF_implicit, K, LAMBDA, ALPHA)
    yield Row("CMF_implicit", "als(X)", _cmfrec(interactions(), make, alpha=ALPHA), DOUBLE)
    for scaled in (False, True):
        make = partial(
            CMF, K, LAMBDA, user_bias=False, item_bias=False, center=False, finalize_chol=False, scale_lam=scaled
        )
        options: dict[str, Any] = {"weighting": "ratings", "regularization_exponent": float(scaled)}
        said = f"als(X, weighting='ratings', regularization_exponent={float(scaled)})"
        yield Row(f"CMF, scale_lam={scaled}", said, _cmfrec(interactions(STARS), make, **options), DOUBLE)


def _cmfrec(X: Any, make: Any, **parameters: Any) -> float:
    options = {"use_cg": False, "use_float": False, "nthreads": 1, "precompute_for_predictions": False}
    before, after = (make(niter=n, **options).fit(sp.coo_matrix(X)) for n in (SWEEPS, SWEEPS + 1))
    ours = sweep(X.T, (before.B_, before.A_), regularization=LAMBDA, **parameters)  # it solves the items first
    return difference(ours, after.B_, after.A_)


def lightfm() -> Iterator[Row]:
    asked = {"warp": (losses.WARP(trials=10), sampling.Uniform()), "bpr": (losses.BPR(), sampling.Popularity(1.0))}
    for name, (loss, sampler) in asked.items():
        model = _lightfm(name)
        (user_bias, U), (item_bias, V) = model.get_user_representations(), model.get_item_representations()
        ours = lfm_np.Factors(U, V, user_bias=user_bias, item_bias=item_bias)
        users, items = np.divmod(np.arange(100 * len(V)), len(V))
        found = relative(ours.scores(users, items), model.predict(users, items))
        yield Row(f"{name}, predict", "Factors(…, user_bias=…, item_bias=…).scores", found, SINGLE)
        options = {"schedule": "adagrad", "learning_rate": 0.05, "regularization": 0.0, "biases": "item", "epochs": 20}
        said = f"sgd(X, {loss}, sampler={sampler}, schedule='adagrad', biases='item')"
        yield quality(name, ours, said, loss=loss, sampler=sampler, **options)


def _lightfm(loss: str) -> Any:
    from lightfm import LightFM

    X = datasets.load("small").train
    rows = np.repeat(np.arange(X.shape[0], dtype=np.int32), np.diff(X.indptr))
    cells = sp.coo_matrix((X.data, (rows, X.indices.astype(np.int32))), shape=X.shape)
    return LightFM(2 * K, loss=loss, random_state=0).fit(cells, epochs=20)


def spark() -> Iterator[Row]:
    from pyspark.sql import SparkSession

    session = SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false").getOrCreate()
    session.sparkContext.setLogLevel("ERROR")
    X = interactions(STARS)
    (U, V), after = (_spark(session, X, n, implicit=False) for n in (SWEEPS, SWEEPS + 1))
    ours = sweep(X.T, (V, U), weighting="ratings", regularization=LAMBDA, regularization_exponent=1.0)
    said = "als(X, weighting='ratings', regularization_exponent=1.0)"
    yield Row("ALS", said, difference(ours, *after[::-1]), SINGLE)  # it solves the items first

    X = interactions()
    (U, V), (users, items) = (_spark(session, X, n, implicit=True) for n in (SWEEPS, SWEEPS + 1))
    own = _half_step(sp.csr_array(X.T), U), _half_step(X, items)
    for name, mine, theirs in zip(("items", "users"), own, (items, users)):
        said = "fold_in_users(row, regularization=λ·n_u)"
        yield Row(f"ALS, implicitPrefs, {name}", said, relative(mine, theirs), SINGLE)


def _spark(session: Any, X: Any, iterations: int, implicit: bool) -> tuple[np.ndarray, np.ndarray]:
    """Factors of users and items."""
    from pyspark.ml.recommendation import ALS

    cells = list(zip(*(side.tolist() for side in (*X.nonzero(), X.data))))
    model = ALS(
        rank=K, maxIter=iterations, regParam=LAMBDA, alpha=ALPHA, implicitPrefs=implicit, seed=0,
        numUserBlocks=1, numItemBlocks=1,
    ).fit(session.createDataFrame(cells, ["user", "item", "rating"]))  # fmt: skip
    found = np.zeros((X.shape[0], K), np.float32), np.zeros((X.shape[1], K), np.float32)
    for frame, side in zip((model.userFactors, model.itemFactors), found):
        for row in frame.collect():
            side[row["id"]] = row["features"]
    return found


def _half_step(X: sp.csr_array, fixed: np.ndarray) -> np.ndarray:
    """Spark's rule λ·n_u beside an unobserved weight of 1, which no single ν says: rows of one length at a time."""
    rows = np.zeros((X.shape[0], fixed.shape[1]), fixed.dtype)
    model, lengths = lfm_np.Factors(rows, fixed), np.diff(X.indptr)
    for length in np.unique(lengths[lengths > 0]):
        chosen = np.flatnonzero(lengths == length)
        options: dict[str, Any] = {"weighting": "hu-koren", "alpha": ALPHA, "regularization_exponent": 0.0}
        found = model.fold_in_users(X[chosen], regularization=LAMBDA * float(length), **options)
        rows[chosen] = found.user_factors
    return rows


def surprise() -> Iterator[Row]:
    """Stochastic: the same parameters, another order of the cells, so the errors on held-out ratings are near."""
    from pandas import DataFrame
    from surprise import SVD, Dataset, Reader

    train, test, _ = lfm_np.datasets.movielens_split("100k", "u1")
    cells, held = sp.coo_array(train.matrix), sp.coo_array(test.matrix)
    frame = DataFrame({"user": cells.row, "item": cells.col, "rating": cells.data})
    model = SVD(random_state=0).fit(Dataset.load_from_df(frame, Reader()).build_full_trainset())
    theirs = [model.predict(u, i, clip=False).est for u, i in zip(held.row.tolist(), held.col.tolist())]
    rng = np.random.default_rng(0)
    ours = lfm_np.sgd(
        train, losses.Squared(), sampler=None, biases=True, factors=100, learning_rate=0.005,
        regularization=0.02, epochs=20, init=tuple(rng.normal(0, 0.1, (size, 100)) for size in train.shape),
        random_state=0,
    ).scores(held.row, held.col)  # fmt: skip
    errors = [float(np.sqrt(np.mean((found - held.data) ** 2))) for found in (theirs, ours)]
    said = "RMSE on MovieLens-100k's u1: {:.4f} and {:.4f}".format(*errors)
    yield Row(f"SVD, {said}", "sgd(Squared(), sampler=None, biases=True)", relative(*errors), 1e-2)


# ---- all of them ----------------------------------------------------------------------------------------------------


def missing(peer: str) -> str | None:
    """Why a peer cannot be compared here."""
    package = {"spark": "pyspark"}.get(peer, peer)
    return f"{package} is not installed" if importlib.util.find_spec(package) is None else None


def number(value: float, row: Row) -> str:
    return f"{value:.1f}{row.unit}" if row.unit else f"{value:.1e}"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.equivalence", description=__doc__.splitlines()[0])
    parser.add_argument("peers", nargs="*", help=f"of {', '.join(PEERS)}; by default those that are installed")
    chosen = parser.parse_args(arguments).peers or PEERS
    failed = False
    print("| peer | asked of it | asked of lfm_np | largest difference | tolerance |\n| --- | --- | --- | --- | --- |")
    for peer in chosen:
        if peer not in PEERS:
            parser.error(f"no peer {peer!r}; there are {', '.join(PEERS)}")
        reason = missing(peer)
        if reason:
            print(f"| {peer} | {reason} | | | |")
            continue
        for row in globals()[peer]():
            above = row.difference > row.tolerance
            failed |= above
            values = number(row.difference, row), number(row.tolerance, row) + " **above**" * above
            print("|", " | ".join((peer, row.theirs, f"`{row.ours}`", *values)), "|", flush=True)
    return int(failed)


if __name__ == "__main__":
    raise SystemExit(main())
