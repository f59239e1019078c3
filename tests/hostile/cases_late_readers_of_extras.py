"""Sentences about torch, dask, scikit-learn, the command line and pictures, beside loops in float64."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import lfm_np
from lfm_np import losses

from .case import Case, Group, installed
from .cases_late_readers_of_fits import Rows, data
from .places import command, inside, interpreter
from .working_days import all_scores, best, close, csr, faultless, judged, start, wrong

_GROUP = Group("late readers, extras")
_holds = faultless(_GROUP)
NAN = np.nan


# --- torch ---------------------------------------------------------------------------------------


def _torch_sweeps(model: Rows) -> list[str]:
    from lfm_np import torch_backend

    X = data(seed=41)
    U, V = init = start(17, 11, 5)
    J = []
    for _ in range(3):
        U = model.half(X, V)
        J.append(model.J(X, U, V))
        V = model.half(X.T, U)
        J.append(model.J(X, U, V))
    fit: Any = torch_backend.als(
        csr(X), factors=5, iterations=3, init=init, dtype="float64", memory_budget=2**20, **model.words
    )
    told = [record[name] for record in fit.history for name in ("objective_users", "objective")]
    return wrong(scores=close(all_scores(fit), U @ V.T, 1e-8), objective=close(told, J, 1e-9))


def _torch_batch() -> list[str]:
    """Two users of one item are one batch: both move by the slopes before it, and the item by the sum."""
    from lfm_np import torch_backend

    x, eta, mine, other = np.array([3.0, -1.5]), 0.2, 0.3, 0.05
    U, V = (F.copy() for F in start(2, 1, 3))
    paid = []
    for _ in range(4):
        e = U @ V[0] - x
        paid.append(float((e**2).mean() / 2))
        U, V = (
            U - eta * (e[:, None] * V + mine * U),
            V - eta * ((e[:, None] * U).sum(0) + 2 * other * V),
        )
    fit: Any = torch_backend.sgd(
        csr(x[:, None]), losses.Squared(), sampler=None, factors=3, epochs=4, learning_rate=eta, init=start(2, 1, 3),
        regularization={"user": mine, "item": other}, dtype="float64", random_state=0,
    )  # fmt: skip
    return wrong(
        scores=close(all_scores(fit), U @ V.T, 1e-10),
        lengths=close((fit.user_factors**2).sum(1), (U**2).sum(1), 1e-10),
        paid=close([record["sampled_loss"] for record in fit.history], paid, 1e-10),
    )


class Apart(NamedTuple):
    """A pairwise loss of one's own, for both backends: a stored item should be ``by`` above a negative."""

    by: float = 2.5

    def value(self, difference: float) -> float:
        return (difference - self.by) ** 2

    def gradient(self, difference: float) -> float:
        return 2.0 * (difference - self.by)

    def torch_value(self, difference: Any) -> Any:
        return (difference - self.by) ** 2


def _own_loss(torch: bool) -> list[str]:
    """One stored cell and one item to draw, three times: slopes add up."""
    U, V = start(1, 2, 2)
    d = float(U[0] @ (V[0] - V[1]))
    g = 3 * 2 * (d - 2.5)
    words: dict[str, Any] = {
        "negatives": 3, "factors": 2, "epochs": 1, "learning_rate": 0.05, "regularization": 0.0, "init": (U, V),
        "dtype": "float64", "random_state": 0,
    }  # fmt: skip
    X = csr(np.array([[1.0, NAN]]))
    if torch:
        from lfm_np import torch_backend

        fit: Any = torch_backend.sgd(X, Apart(), **words)
    else:
        fit = lfm_np.sgd(X, Apart(), **words)
    u = U[0] - 0.05 * g * (V[0] - V[1])
    W = np.array([V[0] - 0.05 * g * U[0], V[1] + 0.05 * g * U[0]])
    return wrong(
        scores=close(all_scores(fit)[0], W @ u, 1e-10),
        paid=close(fit.history[0]["sampled_loss"], 3 * (d - 2.5) ** 2, 1e-10),
    )


# --- dask ----------------------------------------------------------------------------------------

CLUSTER = """
import json, sys, distributed, numpy as np, scipy.sparse as sp, lfm_np
if __name__ == "__main__":
    place = sys.argv[1]
    X, U, V = sp.csr_array(sp.load_npz(place + "/X.npz")), np.load(place + "/U.npy"), np.load(place + "/V.npy")
    with distributed.Client(processes=False, n_workers=2, threads_per_worker=1, dashboard_address=":0") as client:
        fit = lfm_np.distributed.als(
            X, client=client, shards=3, factors=2, iterations=3, biases=True, weighting="ratings", init=(U, V),
            regularization=0.6, dtype="float64", users_to=place + "/users.npy", checkpoint_every=1)
    S = fit.global_bias + fit.user_bias[:, None] + fit.item_bias + fit.user_factors @ fit.item_factors.T
    same = bool((np.load(place + "/users.npy") == fit.user_factors).all())
    print(json.dumps([S.tolist(), [record["objective"] for record in fit.history], same]))
"""


def _cluster(where: Path) -> list[str]:
    """Ratings with μ and biases on a cluster of three shards, one sweep a copy."""
    import scipy.sparse as sp

    model, X = Rows("ratings", lam=0.6), data(seed=33)
    mu = float(np.nanmean(X))
    U, V = start(17, 11, 2)
    sp.save_npz(where / "X.npz", csr(X))
    np.save(where / "U.npy", U)
    np.save(where / "V.npy", V)
    d, J = np.zeros(11), []
    for _ in range(3):
        both = np.array([model.solve(x, np.column_stack([V, np.ones(11)]), mu + d) for x in X])
        U, b = both[:, :2], both[:, 2]
        both = np.array([model.solve(x, np.column_stack([U, np.ones(17)]), mu + b) for x in X.T])
        V, d = both[:, :2], both[:, 2]
        J.append(model.J(X, U, V, mu + b[:, None] + d + U @ V.T, b, d))
    said = interpreter("-c", CLUSTER, str(where))
    if said.status:
        return [said.err[-300:]]
    scores, told, users = json.loads(said.out.splitlines()[-1])
    return wrong(scores=close(scores, mu + b[:, None] + d + U @ V.T, 1e-8), objective=close(told, J, 1e-9), users=users)


# --- scikit-learn --------------------------------------------------------------------------------


def _transformed() -> list[str]:
    """Zeros of a dense X are no cells; users are those of one more half-step."""
    from lfm_np.sklearn import ALS

    model, X = Rows("confidence", lam=0.4, nu=0.5, alpha=2.0, a0=0.3), data(seed=43)
    estimator = ALS(factors=3, iterations=4, dtype="float64", random_state=0, **model.words)
    found = estimator.fit_transform(np.nan_to_num(X))
    V = estimator.item_factors_
    U = model.half(X, V)
    return wrong(
        users=close(found, U, 1e-9),
        scores=close(estimator.inverse_transform(found[:2]), U[:2] @ V.T, 1e-9),
        told=estimator.n_iter_ == 4 and estimator.n_features_in_ == 11,
    )


def _transformed_biases() -> list[str]:
    from lfm_np.sklearn import ALS

    model, X = Rows("ratings", lam=0.5, nu=1.0), data(seed=44)
    estimator: Any = ALS(factors=2, iterations=3, biases=True, dtype="float64", random_state=0, **model.words)
    estimator.fit(csr(X))
    fit = estimator.factors_
    Y = np.column_stack([fit.item_factors, np.ones(11)])
    base = fit.global_bias + fit.item_bias
    mine = np.array([model.solve(x, Y, base) for x in X[4:10]])
    found = estimator.transform(csr(X[4:10]))
    return wrong(
        users=found.shape == (6, 3) and close(found, mine, 1e-9),
        scores=close(estimator.inverse_transform(found), base + mine @ Y.T, 1e-9),
    )


def _sgd_transformed(loss: Any, model: Rows, **words: Any) -> list[str]:
    """`transform` by what the docstring says, where ``fold_in`` is not given."""
    from lfm_np.sklearn import SGD

    X = data(seed=45)
    estimator: Any = SGD(loss, factors=3, epochs=3, dtype="float64", random_state=0, **words).fit(csr(X))
    return wrong(users=close(estimator.transform(csr(X[:6])), model.half(X[:6], estimator.item_factors_), 1e-9))


# --- the command line ----------------------------------------------------------------------------


def _events(where: Path, X: np.ndarray) -> None:
    """Users "00" … and items 100 …, a line for each unit of a value."""
    lines = [f"{u:02d},{100 + i}" for u, i in np.argwhere(X > 0) for _ in range(int(X[u, i]))]
    (where / "events.csv").write_text("\n".join(["user,item", *lines, ""]))


def _clicks(seed: int) -> np.ndarray:
    """Of everybody a click, and one on every item."""
    draw = np.random.default_rng(seed)
    X = np.where(draw.random((12, 8)) < 0.3, draw.integers(1, 4, (12, 8)), 0).astype(float)
    X[np.arange(12), np.arange(12) % 8] = 1
    return X


def _fitted(where: Path, X: np.ndarray) -> Any:
    _events(where, X)
    said = command(
        "fit", where / "events.csv", "--text", "user", "--factors", "3", "--iterations", "3", "--weighting", "ials",
        "--alpha", "2", "--unobserved-weight", "0.5", "--regularization", "0.2", "--regularization-exponent", "0.5",
        "-o", where / "m.safetensors",
    )  # fmt: skip
    assert said.status == 0, said.err
    return lfm_np.Factors.load(where / "m.safetensors")


MODEL = Rows("ials", lam=0.2, nu=0.5, alpha=2.0, a0=0.5)


def _table(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(text.splitlines()))


def _recommended(where: Path) -> list[str]:
    """Records of one pair are summed; zeros of "00" stay; lists have no item that was clicked."""
    X = _clicks(1)
    fit = _fitted(where, X)
    S = all_scores(fit)
    said = command("recommend", where / "m.safetensors", "--user", "07", "--user", "00", "-n", "3")
    rows = _table(said.out)
    mine = [(u, i, rank) for u in (7, 0) for rank, i in enumerate(best(S[u], X[u] == 0, 3), 1) if i >= 0]
    J = MODEL.J(np.where(X > 0, X, NAN), fit.user_factors.astype(float), fit.item_factors.astype(float))
    return wrong(
        objective=close(fit.history[-1]["objective"], J, 1e-4),
        lists=[(r["user"], r["item"], r["rank"]) for r in rows]
        == [(f"{u:02d}", f"{100 + i}", f"{n}") for u, i, n in mine],
        scores=close([float(r["score"]) for r in rows], [S[u, i] for u, i, _ in mine], 1e-5),
    )


def _updated(where: Path) -> list[str]:
    """What is there already is summed; items that the model does not know are left out."""
    X = _clicks(2)
    fit = _fitted(where, X)
    (where / "more.csv").write_text("user,item\n03,104\n03,104\n03,999\nnew,104\nnew,101\n")
    said = command("update", where / "m.safetensors", where / "more.csv", "-o", where / "n.safetensors")
    found = lfm_np.Factors.load(where / "n.safetensors")
    rows = np.zeros((2, 8))
    rows[0] = X[3]
    rows[0, 4] += 2
    rows[1, [4, 1]] = 1
    mine = MODEL.half(np.where(rows > 0, rows, NAN), fit.item_factors.astype(float))
    rest = [u for u in range(12) if u != 3]
    return wrong(
        status=said.status == 0 and found.shape == (13, 8),
        written=close(found.user_factors[[3, 12]], mine, 1e-4),
        others=np.array_equal(found.user_factors[rest], fit.user_factors[rest]),
        items=np.array_equal(found.item_factors, fit.item_factors),
    )


def _judged_beside_popular(where: Path) -> list[str]:
    X = _clicks(3)
    fit = _fitted(where, X)
    test = np.zeros((12, 8), bool)
    test[[0, 2, 5, 9, 11], [5, 0, 7, 3, 6]] = True
    test &= X == 0
    lines = [f"{u:02d},{100 + i}" for u, i in np.argwhere(test)]
    (where / "test.csv").write_text("\n".join(["user,item", *lines, ""]))
    said = command(
        "evaluate", where / "m.safetensors", where / "test.csv", "--metric", "ndcg@3", "--at-least", "mrr=1.5"
    )  # fmt: skip
    rows = {row["metric"]: row for row in _table(said.out) if not row["metric"].startswith("failed")}
    popular = np.tile((X > 0).sum(0).astype(float), (12, 1))
    models = {"model": judged(all_scores(fit), X > 0, test, 3), "popular": judged(popular, X > 0, test, 3)}
    bad = wrong(status=said.status == 1, metrics=sorted(rows) == ["mrr", "ndcg@3"])
    for name, row in rows.items():
        for model, mine in models.items():
            told = [float(row[model]), float(row[f"{model}_se"])]
            if not close(told, [mine[name], mine[f"{name}_se"]], 1e-4):
                bad.append(f"{name} of {model}")
        if int(row["users"]) != test.any(1).sum():
            bad.append("users")
    return bad


# --- pictures ------------------------------------------------------------------------------------


def _model() -> Any:
    U, V = start(14, 9, 3, seed=6)
    return lfm_np.Factors(U, V)


def _spectrum() -> list[str]:
    """Singular values of U Vᵀ, to √eps of the largest."""
    from lfm_np import plots

    U, V = start(14, 9, 3, seed=6)
    ax = plots.factor_spectrum(lfm_np.Factors(U, V * [1.0, 40.0, 0.5]))
    mine = np.linalg.svd(U * [1.0, 40.0, 0.5] @ V.T, compute_uv=False)[:3]
    return wrong(values=close(ax.lines[0].get_ydata(), mine, 1e-7))


def _covered() -> list[str]:
    from lfm_np import plots

    factors = _model()
    S, seen = all_scores(factors), np.random.default_rng(8).random((14, 9)) < 0.3
    users = [0, 3, 4]
    lists = [best(S[u], ~seen[u], 4) for u in users]
    mine = [len({i for row in lists for i in row[:N]} - {-1}) / 9 for N in range(1, 5)]
    ax = plots.coverage(factors, csr(np.where(seen, 1.0, NAN)), N=4, users=users)
    return wrong(
        lengths=np.array_equal(ax.lines[0].get_xdata(), [1, 2, 3, 4]), share=close(ax.lines[0].get_ydata(), mine)
    )


def _metric_by_length() -> list[str]:
    from lfm_np import plots

    factors, draw = _model(), np.random.default_rng(9)
    train, test = draw.random((14, 9)) < 0.3, draw.random((14, 9)) < 0.3
    known, hidden = (csr(np.where(mask, 1.0, NAN)) for mask in (train, test))
    ax = plots.metric_at_n(factors, known, hidden, "capped_recall", N=(1, 4, 9))
    mine = [judged(all_scores(factors), train, test, k)[f"capped_recall@{k}"] for k in (1, 4, 9)]
    return wrong(
        lengths=np.array_equal(ax.lines[0].get_xdata(), [1, 4, 9]), values=close(ax.lines[0].get_ydata(), mine, 1e-9)
    )


def _curve() -> list[str]:
    """Seconds are summed over the sweeps; the measure is what a callback wrote."""
    from lfm_np import plots

    U, V = start(3, 2, 1)
    history = [{"iteration": i, "seconds": s, "mine": m} for i, s, m in ((1, 0.5, 3.0), (2, 0.25, -1.0), (3, 2.0, 7.5))]
    ax = plots.training_curve(lfm_np.Factors(U, V, history=history), by="seconds", measure="mine")
    line = ax.lines[0]
    return wrong(seconds=close(line.get_xdata(), [0.5, 0.75, 2.75]), mine=close(line.get_ydata(), [3, -1, 7.5]))


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    yield _holds("a pairwise loss of one's own, three negatives", lambda: _own_loss(False))
    if installed("torch"):
        for model in (
            Rows("ials", 0.3, 0.7, 1.5, 0.2),
            Rows("hu-koren", 0.6, 1.0, 0.4, 0.7),
            Rows("ratings", 0.8, 0.5),
        ):
            yield _holds(f"sweeps of torch, {model.weighting}", lambda model=model: _torch_sweeps(model))
        yield _holds("a batch of torch moves by the slopes before it", _torch_batch)
        yield _holds("a pairwise loss of one's own in torch", lambda: _own_loss(True))
    if installed("distributed"):
        yield _holds("ratings with biases on a cluster", inside(_cluster))
    if installed("sklearn"):
        yield _holds("fit_transform is one more half-step", _transformed)
        yield _holds("users' biases come last", _transformed_biases)
        yield _holds(
            "rows of BPR are solved by ials", lambda: _sgd_transformed(losses.BPR(), Rows("ials", lam=0.1, nu=1.0))
        )
        yield _holds(
            "rows of Squared are solved by its own λ",
            lambda: _sgd_transformed(
                losses.Squared(), Rows("ratings", lam=0.35, nu=1.0), sampler=None, regularization={"user": 0.35}
            ),
        )
    if installed("typer", "pyarrow"):
        yield _holds("lists of a command, by ids with zeros", inside(_recommended))
        yield _holds("events taken into a model by a command", inside(_updated))
        yield _holds("a command judges beside most popular", inside(_judged_beside_popular))
    if installed("matplotlib"):
        yield _holds("the spectrum has the singular values", _spectrum)
        yield _holds("coverage of some users' lists", _covered)
        yield _holds("a metric by the length of the list", _metric_by_length)
        yield _holds("a curve of a callback's measure by seconds", _curve)
