"""The last examination: losses at their ends; torch, dask and the disk beside loops; memory by counting."""

from __future__ import annotations

import contextlib
import math
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp

from .case import KEPT, Case, Group, installed
from .cases_last_examination_of_epochs import all_biases
from .cases_last_examination_of_sweeps import held_at_1e30, steps_of_cg
from .sentences_by_numpy import Rule, begun, lfm_np, losses, near, product, sigmoid, with_gaps
from .working_days import NAN, csr, faultless, folder, raised, stars, start, tells, wrong

_GROUP = Group("the last examination, fits")
_holds = faultless(_GROUP)
_U = np.array([[0.5, -0.4, 0.2]])
_V = np.array([[0.3, 0.7, -0.2], [0.6, -0.1, 0.4]])
_D = float(_U[0] @ (_V[0] - _V[1]))
_ETA = 0.125


class SquaredHinge(NamedTuple):
    """Pairs, looked for until one is too close, and weighted by rank and value."""

    margin: float = 2.0
    trials = 5
    weighted = True

    def value(self, difference: float) -> float:
        gap = max(0.0, self.margin - difference)
        return 0.5 * gap * gap

    def gradient(self, difference: float) -> float:
        return -max(0.0, self.margin - difference)


class OfCosines(NamedTuple):
    scale: float = 3.0
    cosine = True

    def value(self, difference: float) -> float:
        z = self.scale * difference
        return max(-z, 0.0) + math.log1p(math.exp(-abs(z)))

    def gradient(self, difference: float) -> float:
        z = self.scale * difference
        small = math.exp(-abs(z))
        return -self.scale * (small if z > 0 else 1.0) / (1.0 + small)


def _forced(loss: Any, U: Any = _U, V: Any = _V, X: Any = ((1.0, 0.0),), sgd: Any = None, **words: Any) -> Any:
    """One user, one item, and one that is left to draw."""
    given = {"epochs": 1, "learning_rate": _ETA, "regularization": 0.0, "dtype": "float64", "random_state": 0, **words}
    X = sp.csr_array(np.array(X))
    return (sgd or lfm_np.sgd)(X, loss, factors=np.shape(U)[1], init=(np.array(U), np.array(V)), **given)


def _went(fit: Any, rows: Any, paid: float, tolerance: float = 1e-12) -> list[str]:
    F, mine = np.vstack([fit.user_factors, fit.item_factors]), np.vstack(rows)
    return wrong(
        moved=near(F @ F.T, mine @ mine.T, tolerance), paid=near(fit.history[0]["sampled_loss"], paid, tolerance)
    )


def _trials_of_ones_own() -> list[str]:
    """Of two items the rank is 1: log 2 times the value of the cell."""
    loss, times = SquaredHinge(), 2.5 * math.log(2)
    g = times * loss.gradient(_D)
    u, (v, w) = _U[0], _V
    rows = [u - _ETA * g * (v - w), v - _ETA * g * u, w + _ETA * g * u]
    return _went(_forced(loss, X=((2.5, 0.0),)), rows, times * loss.value(_D))


def _pairs_of_cosines() -> list[str]:
    """Slopes along the sphere, from the cosines before the step."""
    u, v, w = (row / np.linalg.norm(row) for row in (*_U, *_V))
    s, t, loss = float(u @ v), float(u @ w), OfCosines()
    g = loss.gradient(s - t)
    rows = [
        u - _ETA * g * ((v - s * u) - (w - t * u)),
        v - _ETA * g * (u - s * v),
        w + _ETA * g * (u - t * w),
    ]
    rows = [row / np.linalg.norm(row) for row in rows]
    return _went(_forced(loss, u[None], np.array([v, w])), rows, loss.value(s - t), 1e-10)


def _lengths_do_not_count() -> list[str]:
    """A start of any length: scores are cosines, and what comes back has length one."""
    rows = [row / np.linalg.norm(row) for row in (*_U, *_V)]
    s, t = float(rows[0] @ rows[1]), float(rows[0] @ rows[2])
    fit = _forced(
        losses.CosineContrastive(margin=-0.5, weight=3.0),
        3 * _U,
        _V * [[0.1], [20.0]],
        negatives=4,
        learning_rate=1e-12,
    )
    return _went(fit, rows, 1 - s + 3 * max(0.0, t + 0.5), 1e-9)


def _beyond_rates_of_1e13() -> list[str]:
    """From s = 30 on eˢ goes on as e³⁰(1 + s - 30)."""
    e = math.exp(30)
    fit = _forced(losses.Poisson(), [[31.0]], [[1.0]], ((5.0,),), sampler=None, learning_rate=1e-14)
    u, v = 31 - 1e-14 * (e - 5), 1 - 1e-14 * (e - 5) * 31
    paid = 2 * e - 5 * 31 + 5 * math.log(5) - 5
    return wrong(
        moved=near(product(fit), [[u * v]], 1e-12), paid=near(fit.history[0]["sampled_loss"] / paid, 1.0, 1e-13)
    )


def _scores_of_800() -> list[str]:
    """The stored cell has nothing left to pay, the negative all of it, at slope one."""
    fit = _forced(losses.Logistic(), [[20.0]], [[40.0], [40.0]])
    return _went(fit, [[[15.0]], [[40.0]], [[37.5]]], 800.0)


def _a_temperature_of_a_hundredth() -> list[str]:
    """s = -100 and t = 100 are 20,000 apart, and slopes are ±100."""
    fit = _forced(losses.SampledSoftmax(0.01), [[1.0]], [[-100.0], [100.0]], learning_rate=1e-3)
    return _went(fit, [[[-19.0]], [[-99.9]], [[99.9]]], 20_000.0)


def _ten_thousand_negatives() -> list[str]:
    """The most there may be, all of one item, which is held ten thousand times, one after the other."""
    M, eta, lam = 10_000, 1e-6, 50.0
    g, u, (v, w) = -sigmoid(-_D), _U[0], _V
    rows = [u - eta * M * g * (v - w), v - eta * M * g * u, w.copy()]
    for _ in range(M):
        rows[2] = rows[2] - eta * (-g * u + lam * rows[2])
    fit = _forced(losses.BPR(), negatives=M, learning_rate=eta, regularization={"negative": lam})
    return _went(fit, rows, M * math.log1p(math.exp(-_D)), 1e-9)


def _uniform_start() -> list[str]:
    """Three thousand draws of ±0.1√3, by Kolmogorov and Smirnov; what no cell brings in is zero."""
    m, n = 3000, 40
    X = sp.csr_array((np.ones(m), (np.arange(m), np.arange(m) % n)), shape=(m + 1, n + 1))
    fit = lfm_np.sgd(
        X, losses.Squared(), sampler=None, factors=1, epochs=1, learning_rate=1e-12, regularization=0.0,
        dtype="float64", random_state=3,
    )  # fmt: skip
    u, v, end = fit.user_factors[:, 0], fit.item_factors[:, 0], 0.1 * math.sqrt(3)
    far = np.abs((np.sort(u[:m]) / end + 1) / 2 - (np.arange(m) + 0.5) / m).max() * math.sqrt(m)
    return wrong(
        ends=max(abs(u).max(), abs(v).max()) <= end + 1e-9,
        uniform=far < 3.3,  # more than so with probability 2·exp(-2·3.3²), below 1e-9
        zero=u[m] == 0 and v[n] == 0,
        others=(u[:m] != 0).all() and (v[:n] != 0).all(),
    )


def _zeros_that_are_seen() -> list[str]:
    """A stored zero is a rating, and seen; for clicks it is nothing."""
    X = sp.csr_array((np.array([0.0, 5.0, 3.0]), ([0, 0, 1], [0, 1, 0])), shape=(2, 2))
    words = {"factors": 1, "epochs": 1, "init": (np.ones((2, 1)), np.ones((2, 1))), "random_state": 0}
    rated, clicked = lfm_np.sgd(X, losses.Squared(), sampler=None, **words), lfm_np.sgd(X, losses.BPR(), **words)
    seen = [fit.recommend([0, 1], N=2, seen=X).ids.tolist() for fit in (rated, clicked)]
    return wrong(
        params=(rated.params["zeros"], clicked.params["zeros"]) == ("keep", "drop"),
        rated=seen[0] == [[-1, -1], [1, -1]],
        clicked=seen[1] == [[0, -1], [1, -1]],
    )


def _biased(rule: Rule, X: np.ndarray, V: np.ndarray, times: int) -> tuple[Any, ...]:
    mean, d = float(np.nanmean(X)), np.zeros(X.shape[1])
    for _ in range(times):
        users = np.array([rule.row(x, V, mean + d, True) for x in X])
        U, b = users[:, :-1], users[:, -1]
        items = np.array([rule.row(x, U, mean + b, True) for x in X.T])
        V, d = items[:, :-1], items[:, -1]
    return U, V, b, d, mean


_RATINGS = Rule("ratings", lam=0.3, nu=1.0)


def _as_biased(fit: Any, X: np.ndarray, k: int, times: int, rule: Rule = _RATINGS) -> list[str]:
    U, V, b, d, mean = _biased(rule, X, begun(X, k)[1], times)
    return wrong(
        scores=near(product(fit), U @ V.T, 1e-8),
        users=near(fit.user_bias, b, 1e-8),
        items=near(fit.item_bias, d, 1e-8),
        J=near(fit.history[-1]["objective"], rule.cost(X, U, V, b, d, mean), 1e-8),
        sweeps=len(fit.history) == times,
    )


def _words(rule: Rule, X: np.ndarray, k: int, times: int) -> dict[str, Any]:
    words = {"factors": k, "iterations": times, "init": begun(X, k), "dtype": "float64", **rule.words}
    return {**words, "biases": True} if rule.weighting == "ratings" else words


def _torch_with_biases() -> list[str]:
    X = with_gaps(41)
    return _as_biased(lfm_np.torch_backend.als(csr(X), **_words(_RATINGS, X, 12, 3)), X, 12, 3)


def _one_batch_is_the_whole_gradient() -> list[str]:
    """Five epochs, a break after the second: every row by the sum of its cells' slopes, λ once a cell."""
    X, (U, V), lam = stars(8, 6, 42, 0.5), start(8, 6, 3), {"user": 0.1, "item": 0.2, "bias": 0.05}
    has, mean = ~np.isnan(X), float(np.nanmean(X))
    rows, columns = has.sum(1), has.sum(0)
    b, d, paid = np.zeros(8), np.zeros(6), []
    for epoch in range(5):
        E = has * (mean + b[:, None] + d + U @ V.T - np.nan_to_num(X))
        paid.append(float((E**2).sum() / 2 / has.sum()))
        eta = 0.05 / (1 + epoch / 10)
        U, V, b, d = (
            U - eta * (E @ V + 0.1 * rows[:, None] * U),
            V - eta * (E.T @ U + 0.2 * columns[:, None] * V),
            b - eta * (E.sum(1) + 0.05 * rows * b),
            d - eta * (E.sum(0) + 0.05 * columns * d),
        )
    words = {
        "sampler": None, "factors": 3, "biases": True, "learning_rate": 0.05, "schedule": "inverse", "dtype": "float64",
        "regularization": lam, "init": start(8, 6, 3), "batch_size": 64, "random_state": 1, "num_threads": 1,
    }  # fmt: skip
    with folder() as place:
        for epochs in (2, 5):
            fit = lfm_np.torch_backend.sgd(csr(X), losses.Squared(), epochs=epochs, checkpoint=place / "run", **words)
    return wrong(
        scores=near(product(fit), U @ V.T),
        users=near(fit.user_bias, b),
        items=near(fit.item_bias, d),
        paid=near([record["sampled_loss"] for record in fit.history], paid),
    )


def _torch_holds_at_once() -> list[str]:
    """A negative that is drawn four times shrinks by 4ηλ of what it was before the batch."""
    g, u, (v, w) = -4 * sigmoid(-_D), _U[0], _V
    rows = [
        u - _ETA * (g * (v - w) + 0.2 * u),
        v - _ETA * (g * u + 0.1 * v),
        w - _ETA * (-g * u + 4 * 0.3 * w),
    ]
    lam = {"user": 0.2, "item": 0.1, "negative": 0.3}
    fit = _forced(losses.BPR(), sgd=lfm_np.torch_backend.sgd, negatives=4, regularization=lam)
    return _went(fit, rows, 4 * math.log1p(math.exp(-_D)))


@contextlib.contextmanager
def _cluster() -> Iterator[Any]:
    """Two workers in this process, whose threads are gone afterwards."""
    import distributed

    before = set(threading.enumerate())
    with distributed.Client(processes=False, n_workers=2, threads_per_worker=1, dashboard_address=":0") as client:
        yield client
    for _ in range(60):
        if all(thread in before or thread.name.startswith(KEPT) for thread in threading.enumerate()):
            break
        time.sleep(0.05)


def _equations_travel() -> list[str]:
    """60 users and 5 items, "ials" with ν = 1, and rows of nothing."""
    X = stars(60, 5, 43, 0.4)
    X[[20, 59]] = NAN
    rule = Rule("ials", 0.5, 0.3, 0.2, 1.0)
    with _cluster() as client:
        fit = lfm_np.distributed.als(csr(X), client=client, shards=3, **_words(rule, X, 3, 3))
    U, V = rule.sweeps(X, begun(X)[1], 3)
    return wrong(scores=near(product(fit), U @ V.T), J=near(fit.history[-1]["objective"] / rule.cost(X, U, V), 1.0))


def _users_travel() -> list[str]:
    """10 users and 60 items, ratings with biases, a break after two sweeps; the users come as a file."""
    X = stars(60, 10, 44, 0.4).T.copy()
    with folder() as place, _cluster() as client:
        for times in (2, 4):
            fit = lfm_np.distributed.als(
                csr(X), client=client, shards=3, checkpoint=place / "run", checkpoint_every=1,
                users_to=place / "users.npy", **_words(_RATINGS, X, 3, times),
            )  # fmt: skip
        found = _as_biased(fit, X, 3, 4)
        return found + wrong(file=np.array_equal(np.load(place / "users.npy"), fit.user_factors))


def _a_row_of_the_third_shard() -> list[str]:
    """The error has the row's number in X, not in its shard."""
    X = np.random.default_rng(45).integers(1, 6, (24, 5)).astype(np.float64)
    X[17, 1:] = NAN
    words = {"factors": 2, "weighting": "ratings", "regularization": 0.0, "init": start(24, 5, 2), "dtype": "float64"}
    with _cluster() as client:
        error = raised(lambda: lfm_np.distributed.als(csr(X), client=client, shards=4, iterations=2, **words))
    return wrong(kind=isinstance(error, lfm_np.SolverError), names=tells(error, "17"))


def _ratings_on_the_disk() -> list[str]:
    """Zeros are ratings, factors are on the disk too, and their files have no names."""
    X = with_gaps(46)
    X[0, 1] = X[7, 1] = X[5, 5] = 0.0
    rule = Rule("ratings", lam=0.4, nu=0.5)

    def one(place: Path) -> list[str]:
        (place / "factors").mkdir()
        lfm_np.StoredMatrix.from_matrix(csr(X), place / "X", zeros="keep", dtype="float64")
        stored = lfm_np.StoredMatrix(place / "X", factors_in=place / "factors")
        fit = lfm_np.als(stored, **_words(rule, X, 3, 3))
        found = _as_biased(fit, X, 3, 3, rule) + wrong(names=os.listdir(place / "factors") == [])
        del fit
        return found

    with folder() as place:
        return one(place)


def _begun_in_memory() -> list[str]:
    """Two sweeps of a matrix in memory, two more of the same on the disk."""
    X, rule = with_gaps(47), Rule("ials", 0.7, 0.4, 0.1, 0.5)
    with folder() as place:
        lfm_np.als(csr(X), checkpoint=place / "run", **_words(rule, X, 3, 2))
        stored = lfm_np.StoredMatrix.from_matrix(csr(X), place / "X", dtype="float64")
        fit = lfm_np.als(stored, checkpoint=place / "run", **_words(rule, X, 3, 4))
        U, V = rule.sweeps(X, begun(X)[1], 4)
        paid = [record["objective"] for record in fit.history]
        P, Q = rule.sweeps(X, begun(X)[1], 2)
        return wrong(
            scores=near(product(fit), U @ V.T),
            J=near([paid[1], paid[3]], [rule.cost(X, P, Q), rule.cost(X, U, V)]),
            sweeps=len(paid) == 4,
        )


def _memory_of_als() -> list[str]:
    """Twice U and V of 64 columns, which k = 50 is padded to, and a transpose of 8 bytes a cell, within 15 %."""
    m, n, cells = 1_000_000, 10_000, 10_000_000
    counted = 2 * (m + n) * 64 * 4 + 8 * cells
    found = {k: lfm_np.estimate_memory(m, n, cells, factors=k, num_threads=1) for k in (50, 64)}
    double = lfm_np.estimate_memory(m, n, cells, factors=50, num_threads=1, dtype="float64")
    more = lfm_np.estimate_memory(m, n, 2 * cells, factors=50, num_threads=1)
    return wrong(
        counted=1.0 <= found[50] / counted <= 1.15,
        padded=abs(found[64] / found[50] - 1) < 0.02,
        double=1.0 <= double / (counted * 2 - 4 * cells) <= 1.15,  # indices are no wider
        cells=abs((more - found[50]) / (8 * cells) - 1) < 0.15,
    )


def _memory_of_sgd() -> list[str]:
    """Bytes a cell: 12, 4 for its negative, and its value if that is read."""
    found = []
    for words, each in (
        ({}, 16), ({"uses_values": True}, 20), ({"sampled": False, "uses_values": True}, 16),
        ({"uses_values": True, "dtype": "float64"}, 24),
    ):  # fmt: skip
        few, many = (
            lfm_np.estimate_memory(100_000, 1_000, cells, factors=16, solver="sgd", num_threads=1, **words)
            for cells in (20_000_000, 60_000_000)
        )
        found += wrong(**{f"{words}": abs((many - few) / 40_000_000 / each - 1) < 0.15})
    return found


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    yield _holds("trials and weights of a loss of one's own", _trials_of_ones_own)
    yield _holds("pairs of cosines of one's own", _pairs_of_cosines)
    yield _holds("cosines from a start of any length", _lengths_do_not_count)
    yield _holds("Poisson beyond rates of 10¹³", _beyond_rates_of_1e13)
    yield _holds("Logistic at scores of 800", _scores_of_800)
    yield _holds("a temperature of a hundredth", _a_temperature_of_a_hundredth)
    yield _holds("ten thousand negatives", _ten_thousand_negatives)
    yield _holds("the start of a fit is uniform", _uniform_start)
    yield _holds("zeros that are seen", _zeros_that_are_seen)
    yield _holds("ratings and factors on the disk", _ratings_on_the_disk)
    yield _holds("begun in memory, ended on the disk", _begun_in_memory)
    yield _holds("the memory of als by counting", _memory_of_als)
    yield _holds("the memory of sgd by counting", _memory_of_sgd)
    if installed("torch"):
        backend = lfm_np.torch_backend
        yield _holds("torch, cells apart, in batches of 50", lambda: all_biases(backend.sgd, 120, batch_size=50))
        yield _holds("torch, one batch is the whole gradient", _one_batch_is_the_whole_gradient)
        yield _holds("torch, a negative is held at once", _torch_holds_at_once)
        yield _holds("torch, ratings with biases, more factors than items", _torch_with_biases)
        yield _holds("torch, λ of 1e30", lambda: held_at_1e30(backend.als, "float64"))
        yield _holds("torch, two steps of cg by hand", lambda: steps_of_cg(backend.als))
    if installed("distributed", "dask"):
        yield _holds("dask, equations travel", _equations_travel)
        yield _holds("dask, users travel", _users_travel)
        yield _holds("dask, a row of the third shard", _a_row_of_the_third_shard)
