"""Copies and pickles of what is public, results that are mapped, estimators that fail, and settings of torch."""

from __future__ import annotations

import copy
import os
import pickle
import signal
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import lfm_np
from lfm_np import Factors, Interactions, SolverError, Status, losses, sampling

from .case import Case, installed
from .cases_last_examination_lives_in_surroundings import lists
from .cases_last_examination_lives_interrupted import GROUP, STARS, WORDS, M, descend, fit, swept
from .places import interpreter
from .places import model as drawn
from .working_days import close, csr, faultless, folder, raised, same, wrong

_holds = faultless(GROUP)


def ways() -> list[Callable[[Any], Any]]:
    """Every way of copying: protocols of pickle, buffers beside it, and copies of either depth."""

    def beside(thing: Any) -> Any:
        buffers: list[Any] = []
        return pickle.loads(pickle.dumps(thing, 5, buffer_callback=buffers.append), buffers=buffers)

    pickles = [lambda thing, p=p: pickle.loads(pickle.dumps(thing, p)) for p in range(pickle.HIGHEST_PROTOCOL + 1)]
    return [*pickles, beside, copy.copy, copy.deepcopy, lambda thing: copy.deepcopy([thing, thing])[1]]


def _copied_results() -> list[str]:
    """A model of ratings with biases and one of clicks; copies of copies."""
    rated = lfm_np.als(
        csr(STARS), weighting="ratings", biases=True, factors=3, iterations=4, dtype="float64", random_state=0,
        callback=lambda record, _: record.update(mine={"a": [1, 2.5]}),
    )  # fmt: skip
    scores = rated.global_bias + rated.user_bias[:, None] + rated.item_bias + rated.user_factors @ rated.item_factors.T
    found = []
    for number, way in enumerate(ways()):
        one = way(way(rated))
        arrays = (one.user_factors, one.item_factors, one.user_bias, one.item_bias)
        found += [f"{number}: {name}" for name in wrong(
            bits=same(one, rated),
            rest=list(one.history) == list(rated.history) and one.status is rated.status,
            words=dict(one.params) == dict(rated.params),
            fixed=not any(array.flags.writeable for array in arrays),
            scores=close(one.scores(np.arange(40), 3), scores[:, 3], 1e-12),
            lists=lists(one, one.recommend(np.arange(40), N=4).ids, 4),
            folded=close(one.fold_in_users(csr(STARS[:5])).user_bias, rated.fold_in_users(csr(STARS[:5])).user_bias, 0),
        )]  # fmt: skip
    return found


def _copied_data() -> list[str]:
    users = ["ann", "bob", "ann", "eve", "bob", "ann"]
    items = ["tea", "tea", "jam", "rye", "rye", "rye"]
    values, times = [1.0, np.nan, 3.0, 4.0, 5.0, 6.0], np.array([30, 10, 20, 40, 50, 5], "datetime64[s]")
    data = Interactions.from_arrays(users, items, values, times)
    last = {"ann": "tea", "bob": "rye"}  # eve has one cell, which stays
    found = []

    def moments(one: Interactions) -> list[Any]:
        return sorted(one.timestamps.astype("datetime64[s]").tolist())

    for number, way in enumerate(ways()):
        one = way(data)
        test = one.split("last")[1].matrix.tocoo()
        latest = {one.users[u]: one.items[i] for u, i in zip(*test.coords, strict=True)}
        cells = {
            (one.users[u], one.items[i]): value
            for u, i, value in zip(*one.matrix.tocoo().coords, one.matrix.data, strict=True)
        }
        mine = dict(zip(zip(users, items, strict=True), values, strict=True))
        error = raised(lambda one=one: one.matrix.data.__setitem__(0, 9.0))  # type: ignore[misc]
        found += [f"{number}: {name}" for name in wrong(
            ids=one.rows_of(["eve", "ann"]).tolist() == [2, 0] and one.item_ids([1]).tolist() == ["rye"],
            cells=cells.keys() == mine.keys() and all(np.array_equal(cells[c], mine[c], equal_nan=True) for c in mine),
            last=latest == last,
            times=one.timestamps.dtype == data.timestamps.dtype and moments(one) == sorted(times.tolist()),
            fixed=isinstance(error, ValueError),
        )]  # fmt: skip
    return found


def _copied_words() -> list[str]:
    """Losses, samplers, the status of a run and the words of a checkpoint."""
    things: list[Any] = [
        losses.BPR(weighted=True), losses.WARP(0.5, 7), losses.CosineContrastive(0.3, 2.0), losses.Hinge(True),
        losses.Logistic(), losses.MarginHinge(2.0), losses.Poisson(), losses.SampledSoftmax(0.5, False),
        losses.Squared(), sampling.Uniform(), sampling.Popularity(0.5), sampling.Hard(3),
        lfm_np.Checkpoint("a/b", every=1.5), *Status,
    ]  # fmt: skip
    found = [
        f"{thing}" for thing in things for way in ways() if way(thing) != thing or type(way(thing)) is not type(thing)
    ]
    found += [str(one) for one in Status for way in ways() if way(one) is not one]
    loss = pickle.loads(pickle.dumps(losses.MarginHinge(2.0)))
    ranked = fit(2).recommend([0, 1], N=3)
    for way in ways():
        ids, scores = way(ranked)
        found += wrong(
            slope=(loss.value(0.5), loss.gradient(0.5)) == (1.5, -1.0),
            lists=np.array_equal(ids, ranked.ids) and np.array_equal(scores, ranked.scores),
        )
    why = fit(2).explain(3, 4, csr(STARS))
    for way in ways():
        other = way(why)
        found += wrong(why=other.score == why.score and np.array_equal(other.contributions, why.contributions))
    return found


def _copied_errors() -> list[str]:
    """A pool hands on what a worker raised by pickle: its words, and the result of before."""
    error = raised(lambda: descend(60, learning_rate=100.0))
    made = SolverError("row 3 is singular; raise regularization", drawn())
    found = wrong(kind=type(error) is SolverError and "epoch" in str(error))
    for number, one in enumerate((error, made)):
        for way in ways():
            other = way(one)
            kept = one.factors is other.factors is None or same(one.factors, other.factors)
            if type(other) is not SolverError or str(other) != str(one) or not kept:
                found.append(f"{number}: {other!r}")
    return found


def _mapped_results() -> list[str]:
    """A mapped model saves over its own file, which is then replaced and removed; copies need no file."""
    with folder() as place:
        path = place / "m"
        fit(3).save(path)
        mapped = Factors.load(path, mmap=True)
        copies = [way(mapped) for way in ways()]
        mapped.save(path)
        found = wrong(itself=same(Factors.load(path), fit(3)), listing=os.listdir(place) == ["m"])
        again = Factors.load(path, mmap=True)
        drawn().save(path)
        found += wrong(other=same(Factors.load(path), drawn()))
        path.unlink()
        for one in (mapped, again, *copies):
            found += wrong(numbers=swept(one, 3), lists=lists(one, one.recommend(np.arange(40), N=5).ids, 5))
            found += wrong(fixed=not one.item_factors.flags.writeable)
        mapped.save(path)
        return found + wrong(last=same(Factors.load(path), fit(3)))


def _estimators() -> list[str]:
    """A fit that fails, or is interrupted, leaves the estimator as it was; so do other parameters."""
    from sklearn.base import clone

    from lfm_np.sklearn import ALS

    def fails(record: Any, factors: Any) -> None:
        if record["iteration"] == 2:
            raise OSError("no more")

    def presses(record: Any, factors: Any) -> None:
        signal.raise_signal(signal.SIGINT)

    X = csr(STARS)
    model = ALS(**WORDS, iterations=3).fit(X)
    V = model.item_factors_
    mine = M.half(STARS, V)
    found = wrong(fitted=swept(model.factors_, 3), half=close(model.transform(X), mine))
    for words, kind in (
        ({"callback": fails, "factors": 2, "init": None}, OSError),
        ({"callback": presses, "raise_on_interrupt": True, "regularization": 50.0}, KeyboardInterrupt),
        ({"callback": None, "alpha": -1.0}, ValueError),
    ):
        model.set_params(**words)
        error = raised(lambda: model.fit(X[:30]))
        found += wrong(
            kind=isinstance(error, kind), same=np.array_equal(model.item_factors_, V), steps=model.n_iter_ == 3
        )
        found += wrong(half=close(model.transform(X), mine), scores=close(model.inverse_transform(mine), mine @ V.T))
    new = clone(ALS(**WORDS, iterations=2))
    found += wrong(fresh=not hasattr(new, "factors_"), refit=swept(new.fit(X).factors_, 2))
    kept = pickle.loads(pickle.dumps(new))
    return found + wrong(pickled=close(kept.transform(X), M.half(STARS, new.item_factors_)))


def _settings_of_torch() -> list[str]:
    """Torch that makes float64, counts its own random numbers and records no gradients, before and after."""
    import torch

    def presses(record: Any, factors: Any) -> None:
        if record["iteration"] == 2:
            signal.raise_signal(signal.SIGINT)

    def settings() -> tuple[Any, ...]:
        state = torch.get_rng_state().numpy().tobytes()
        return torch.get_default_dtype(), torch.get_num_threads(), torch.is_grad_enabled(), state

    dtype = torch.get_default_dtype()
    X, words = csr(STARS), {**WORDS, "num_threads": 1}
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(4)
    try:
        before = settings()
        factors = lfm_np.torch_backend.als(X, iterations=3, **words)
        pressed = lfm_np.torch_backend.als(X, iterations=9, callback=presses, **words)
        narrow = lfm_np.torch_backend.als(X, iterations=3, **{**words, "dtype": "float32"})
        epochs = lfm_np.torch_backend.sgd(X, factors=3, epochs=2, random_state=0, num_threads=1)
        error = raised(lambda: lfm_np.torch_backend.als(X, iterations=3, **{**words, "alpha": np.nan}))
        kept = settings() == before
    finally:
        torch.set_default_dtype(dtype)
    U, V = M.sweeps(STARS, WORDS["init"][1], 3)
    wide = narrow.user_factors.astype(np.float64) @ narrow.item_factors.T.astype(np.float64)
    return wrong(
        kept=kept,
        numbers=swept(factors, 3) and swept(pressed, 2) and pressed.status is Status.INTERRUPTED,
        narrow=narrow.item_factors.dtype == np.float32 and close(wide, U @ V.T, 1e-3),
        epochs=epochs.item_factors.dtype == np.float32 and len(epochs.history) == 2,
        error=isinstance(error, ValueError) and "alpha" in str(error),
    )


CLUSTERS = """
import os, sys
import distributed, lfm_np
from tests.hostile.cases_last_examination_lives_interrupted import STARS, WORDS
from tests.hostile.working_days import csr
place = sys.argv[1]
users = place + "/users.npy"
X, words = csr(STARS), {**WORDS, "iterations": 6}
state = {**words, "checkpoint": place + "/state", "checkpoint_every": 1}
als = lfm_np.distributed.als
def stops(record, factors):
    if record["iteration"] == 2:
        raise StopIteration
def fails(record, factors):
    if record["iteration"] == 4:
        raise OSError("no more")
def client(workers):
    return distributed.Client(processes=False, n_workers=workers, threads_per_worker=1, dashboard_address=":0")
with client(1) as one:
    als(X, client=one, shards=3, callback=stops, **state).save(place + "/stopped")
    als(X, client=one, shards=3, **words).save(place + "/unbroken")
with client(2) as two:
    for given in (
        {**words, "shards": 3, "callback": fails, "users_to": users},
        {**state, "shards": 3, "callback": fails},
        {**state, "shards": 2},
    ):
        try:
            als(X, client=two, **given)
        except (OSError, ValueError) as error:
            print(type(error).__name__, "no more" in str(error), "shards" in str(error), os.path.exists(users))
    als(X, client=two, shards=3, **state).save(place + "/resumed")
"""


def _clusters() -> list[str]:
    """Stopped on a cluster of one worker, broken off on one of two, and gone on with there."""
    with folder() as place:
        said = interpreter("-c", CLUSTERS, str(place))
        if said.status:
            return [said.err[-300:]]
        stopped, unbroken, resumed = (Factors.load(place / name) for name in ("stopped", "unbroken", "resumed"))
        return wrong(
            errors=said.out.splitlines() == [*["OSError True False False"] * 2, "ValueError False True False"],
            stopped=stopped.status is Status.STOPPED and swept(stopped, 2),
            numbers=swept(resumed, 6) and len(resumed.history) == 6,
            bits=same(resumed, unbroken),
            listing=sorted(os.listdir(place)) == ["resumed", "state", "stopped", "unbroken"],
        )


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    yield _holds("copies of copies of results", _copied_results)
    yield _holds("copies of data with ids and times", _copied_data)
    yield _holds("copies of losses, samplers, lists and reasons", _copied_words)
    yield _holds("copies of errors", _copied_errors)
    yield _holds("mapped results that outlive their file", _mapped_results)
    if installed("sklearn"):
        yield _holds("estimators whose fits fail", _estimators)
    if installed("torch"):
        yield _holds("settings of torch", _settings_of_torch)
    if installed("distributed"):
        yield _holds("clusters of one worker and of two", _clusters)
