"""What stands beside operators' models: clusters, copies and pickles, bars on streams that may be closed."""

from __future__ import annotations

import contextlib
import copy
import functools
import io
import math
import operator
import pickle
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

import lfm_np

from .case import Case, Group, installed
from .cases_operators_and_their_processes import IALS, apart, looped_scores, made, small_fit
from .cases_operators_at_their_tables import written
from .working_days import Model, all_scores, close, faultless, folder, raised, same, stars, start, tells, wrong

_GROUP = Group("operators")
_holds = faultless(_GROUP)


def _cluster(work: Callable[[Any, Path], list[str]]) -> list[str]:
    """``work(client, folder)`` beside a cluster of two threads, in a process of its own."""

    def call() -> list[str]:
        import distributed

        words: dict[str, Any] = {"processes": False, "n_workers": 1, "threads_per_worker": 2, "dashboard_address": ":0"}
        with folder() as place, distributed.Client(**words) as client:
            return work(client, place)

    return apart(call)


def _strange_files(client: Any, place: Path) -> list[str]:
    """Names with blanks, dashes, percents; no records; other types; a dictionary."""
    import pyarrow as pa

    X = stars(20, 8, seed=4)
    u, i = np.nonzero(~np.isnan(X))
    low, source = u < 10, place / "in ü"
    words = [f"i{column}" for column in i]
    picked = [word for word, is_low in zip(words, low, strict=True) if is_low]
    rest = [word for word, is_low in zip(words, low, strict=True) if not is_low]
    values = X[u, i]
    written(source / "-a.parquet", {"item": picked, "user": u[low].astype(np.int8), "v": values[low]})
    none = {"user": pa.array([], pa.int64()), "item": pa.array([], pa.string()), "v": pa.array([], pa.float32())}
    written(source / "b c.parquet", none)
    last = {
        "user": u[~low],
        "item": pa.array(rest).dictionary_encode(),
        "v": values[~low].astype(np.int16),
        "more": rest,
    }
    written(source / "d%20#.parquet", last)
    data = lfm_np.distributed.from_parquet(source, client=client, value="v")
    model, init = IALS, start(20, 8, 3)
    fit = lfm_np.distributed.als(
        data, client=client, factors=3, iterations=3, init=init, dtype="float64", **model.words
    )
    U, V = model.sweeps(X, init[1], 3)
    return wrong(
        ids=data.items.tolist() == [f"i{n}" for n in range(8)] and data.users(client).tolist() == list(range(20)),
        scores=close(all_scores(fit), U @ V.T),
        objective=math.isclose(fit.history[-1]["objective"], model.objective(X, U, V), rel_tol=1e-9),
    )


def _split_again(client: Any, place: Path) -> list[str]:
    """Users in every file, nulls that are dropped, means of pairs that two files hold, user factors in a file."""
    import pyarrow as pa

    X = stars(18, 7, seed=3)
    u, i = np.nonzero(~np.isnan(X))
    names = [f"user {n:02}" for n in u]
    for part, more in enumerate((-0.5, 0.0, 0.5)):
        columns = {"user": pa.array([*names, None]).dictionary_encode(), "item": [*i.tolist(), 3]}
        written(place / "in" / f"{part}.parquet", {**columns, "v": [*(X[u, i] + more).tolist(), 9.0]})
    data = lfm_np.distributed.from_parquet(
        place / "in", client=client, value="v", duplicates="mean", nulls="drop", shards=3, staging=place / "staging"
    )
    model, init = Model(alpha=0.3, lam=0.4), start(18, 7, 2)
    fit = lfm_np.distributed.als(
        data,
        client=client,
        factors=2,
        iterations=2,
        init=init,
        dtype="float64",
        users_to=place / "users.npy",
        **model.words,
    )
    order = [int(name.split()[1]) for name in data.users(client).tolist()]
    U, V = model.sweeps(X, init[1], 2)
    return wrong(
        users=sorted(order) == list(range(18)),
        scores=close(all_scores(fit), (U @ V.T)[order]),
        file=np.array_equal(np.load(place / "users.npy"), fit.user_factors),
    )


def _other_records(client: Any, place: Path) -> list[str]:
    """A file of other records is named, and the user factors of yesterday stay."""
    written(place / "in" / "0.parquet", {"user": [0, 0, 0], "item": [1, 2, 1]})
    written(place / "in" / "1.parquet", {"user": [1, 1, 3], "item": [1, 2, 1]})
    data = lfm_np.distributed.from_parquet(place / "in", client=client)
    np.save(place / "users.npy", np.arange(3.0))
    written(place / "in" / "1.parquet", {"user": [1, 1, 3], "item": [2, 2, 1]})
    words: dict[str, Any] = {"factors": 1, "iterations": 1, "random_state": 0}
    error = raised(lambda: lfm_np.distributed.als(data, client=client, users_to=place / "users.npy", **words))
    left = sorted(path.name for path in place.iterdir())
    return wrong(
        error=isinstance(error, Exception) and tells(error, "1.parquet"),
        old=np.load(place / "users.npy").tolist() == [0, 1, 2],
        left=left == ["in", "users.npy"],
    )


def _copies(value: Any) -> list[Any]:
    return [
        *(pickle.loads(pickle.dumps(value, n)) for n in range(2, pickle.HIGHEST_PROTOCOL + 1)),
        copy.deepcopy(value),
    ]


def _copied_factors() -> list[str]:
    model = lfm_np.Factors(
        *start(6, 4, 2), item_bias=np.arange(4.0), history=[{"iteration": 1, "auc": 0.5}], status=lfm_np.Status.STOPPED,
        params={"weighting": "ials", "deep": {"list": [1, 2]}},
    )  # fmt: skip
    S, bad = all_scores(model), []
    for n, other in enumerate(_copies(model)):
        ids, scores = other.recommend(np.arange(6), N=4)
        mine = np.argsort(-S, axis=1, kind="stable")
        facts = {
            "bits": same(other, model),
            "kept": [dict(record) for record in other.history] == [{"iteration": 1, "auc": 0.5}],
            "status": other.status is lfm_np.Status.STOPPED,
            "params": other.params["deep"]["list"][1] == 2 and other.params["weighting"] == "ials",
            "read-only": not (other.user_factors.flags.writeable or other.item_bias.flags.writeable),
            "refuses": isinstance(
                raised(functools.partial(operator.setitem, other.params, "x", 1)), (TypeError, AttributeError)
            ),
            "lists": np.array_equal(ids, mine) and close(scores, np.take_along_axis(S, mine, 1), 1e-14),
        }
        bad += [f"{n}: {what}" for what in wrong(**facts)]
    return bad


def _copied_interactions() -> list[str]:
    users = np.array([uuid.UUID(int=n) for n in (9, 5)], object)
    X = sp.csr_array(([np.nan, 2.0, 3.0], [2, 0, 1], [0, 1, 3]), shape=(2, 3))
    full = np.array([[0, 0, np.nan], [2, 3, 0]])
    times = np.array(["2024-01-03", "NaT", "2024-01-01"], "datetime64[s]")
    data, bad = lfm_np.Interactions(X, users, np.array(["a", "b", "ü"]), times, "polars"), []
    for n, other in enumerate(_copies(data)):
        facts = {
            "matrix": np.array_equal(other.matrix.toarray(), full, equal_nan=True),
            "ids": list(other.users) == list(users) and other.items.tolist() == ["a", "b", "ü"],
            "times": np.array_equal(other.timestamps, times, equal_nan=True) and other.timestamps.dtype == times.dtype,
            "backend": other.frame_backend == "polars",
            "read-only": not other.matrix.data.flags.writeable,
            "rows": other.rows_of(users[::-1]).tolist() == [1, 0],
        }
        bad += [f"{n}: {what}" for what in wrong(**facts)]
    return bad


def _copied_small_things() -> list[str]:
    losses, sampling = lfm_np.losses, lfm_np.sampling
    things = [
        lfm_np.Checkpoint("a", 2.5), lfm_np.Status.CONVERGED, losses.BPR(True), losses.WARP(0.5), losses.Logistic(True),
        losses.SampledSoftmax(0.5, False), losses.CosineContrastive(margin=0.2, weight=3.0), sampling.Popularity(0.25),
        sampling.Hard(7), sampling.Uniform(),
    ]  # fmt: skip
    found = {repr(one): all(other == one and type(other) is type(one) for other in _copies(one)) for one in things}
    error = lfm_np.SolverError("row 7", made(1))
    for other in _copies(error):
        found["error"] = found.get("error", True) and str(other) == "row 7" and same(other.factors, made(1))
    ranked = made(2).recommend([3], N=2)
    for other in _copies(ranked):
        found["lists"] = np.array_equal(other.ids, ranked.ids) and np.array_equal(other.scores, ranked.scores)
    return wrong(**found)


def _cosines_of_every_size() -> list[str]:
    V = np.array([[1e-30, 0], [1e-30, 1e-30], [0, 1e30], [1e30, 1e30], [0, 0]], np.float32)
    ids, scores = lfm_np.Factors(np.ones((1, 2), np.float32), V).similar_items(np.arange(5), N=5)
    half = math.sqrt(0.5)
    mine = [[1, half, 0, half, 0], [half, 1, half, 1, 0], [0, half, 1, half, 0], [half, 1, half, 1, 0], [0] * 5]
    by_id = np.take_along_axis(scores, np.argsort(ids, axis=1), 1)
    return wrong(cosines=bool(abs(by_id - np.array(mine)).max() < 1e-6))


def _bar(stream: Any) -> list[str]:
    """A bar whose stream is none, or closed, or a text: the fit is the same, and standard output stays empty."""
    X, out = stars(9, 7), io.StringIO()
    with contextlib.redirect_stderr(stream), contextlib.redirect_stdout(out):
        fit = small_fit(X, 2, iterations=3, progress=True)
    told = stream is None or stream.closed or len(stream.getvalue()) > 10
    return wrong(scores=close(all_scores(fit), looped_scores(X, 2, 3)), told=told, silent=out.getvalue() == "")


def _closed() -> Any:
    stream = io.StringIO()
    stream.close()
    return stream


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    if installed("distributed", "pyarrow"):
        yield _holds("a cluster reads files of strange names", lambda: _cluster(_strange_files))
        yield _holds("a cluster splits files and takes means", lambda: _cluster(_split_again))
        yield _holds("a cluster meets other records", lambda: _cluster(_other_records))
    yield _holds("factors, pickled and copied", _copied_factors)
    yield _holds("interactions, pickled and copied", _copied_interactions)
    yield _holds("small things, pickled and copied", _copied_small_things)
    yield _holds("cosines of vectors of every size", _cosines_of_every_size)
    yield _holds("a bar on a text", lambda: _bar(io.StringIO()))
    yield _holds("a bar without a stream", lambda: _bar(None))
    yield _GROUP.either(
        "a bar on a closed stream", lambda: _bar(_closed()), lambda found: found == [], "closed|stream|stderr"
    )
