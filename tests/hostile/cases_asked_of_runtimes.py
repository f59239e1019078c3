"""What users of Numba, dask, joblib, torch and faiss beside a recommender ran into: processes, files, devices."""

from __future__ import annotations

import concurrent.futures
import copy
import io
import itertools
import json
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

import lfm_np

from .brute import scores as products
from .case import Case, Group, installed
from .reference import best, near, start, sweeps, tastes

_group = Group("asked of runtimes")
_right, _refused, _either = _group.right, _group.refused, _group.either


def _true(name: str, check: Callable[[], Any]) -> Case:
    return _right(name, check, bool)


def fitted(**words: Any) -> lfm_np.Factors:
    return lfm_np.als(tastes(), **{"factors": 4, "iterations": 4, "random_state": 0, "num_threads": 1, **words})


def bits(factors: lfm_np.Factors) -> bytes:
    return factors.user_factors.tobytes() + factors.item_factors.tobytes()


def somewhere(work: Callable[[Path], Any]) -> Callable[[], Any]:
    def call() -> Any:
        with TemporaryDirectory() as place:
            return work(Path(place))

    return call


# ---- processes and threads ------------------------------------------------------------------------------------------


def forked() -> bool:
    """numba: "fork() called from a process already using GNU OpenMP"."""
    whole = bits(fitted(num_threads=2))
    for _ in range(3):
        reader, writer = os.pipe()
        child = os.fork()
        if not child:
            os.write(writer, b"yes" if bits(fitted(num_threads=2)) == whole else b"no")
            os._exit(0)
        os.close(writer)
        with open(reader, "rb") as answer:
            if answer.read() != b"yes":
                return False
        os.waitpid(child, 0)
    return bits(fitted(num_threads=2)) == whole


def pooled() -> bool:
    whole = [bits(fitted(random_state=seed)) for seed in range(6)]
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        found = pool.map(lambda seed: bits(fitted(random_state=seed, num_threads=1 + seed % 3)), range(6))
        return list(found) == whole


def limits() -> Any:
    import numba
    import threadpoolctl

    return numba.get_num_threads(), [(p["filepath"], p["num_threads"]) for p in threadpoolctl.threadpool_info()]


def elsewhere(place: Path) -> bool:
    """A model of one job, loaded by the next (implicit: no way to keep a model)."""
    factors = fitted()
    factors.save(place / "model.v1")
    code = (
        "import sys, lfm_np; f = lfm_np.Factors.load(sys.argv[1]); "
        "print(f.recommend(list(range(30)), N=7, num_threads=1).ids.tolist(), f.params['alpha'], len(f.history))"
    )
    said = subprocess.run([sys.executable, "-c", code, place / "model.v1"], capture_output=True, text=True, check=True)
    return sorted(os.listdir(place)) == ["model.v1"] and said.stdout.strip() == (
        f"{[best(s, np.ones(20, bool), 7) for s in products(factors)]} 1.0 4"
    )


def redefined() -> bool:
    """numba: an old kernel for a function that was edited (two classes of one name)."""

    def first() -> Any:
        class Mine:
            def value(self, difference):  # type: ignore[no-untyped-def]
                return max(0.0, 2.0 - difference)

            def gradient(self, difference):  # type: ignore[no-untyped-def]
                return -1.0 if difference < 2.0 else 0.0

        return Mine()

    def second() -> Any:
        class Mine:
            def value(self, difference):  # type: ignore[no-untyped-def]
                return max(0.0, 3.0 - difference)

            def gradient(self, difference):  # type: ignore[no-untyped-def]
                return -1.0 if difference < 3.0 else 0.0

        return Mine()

    zero = (np.zeros((30, 2), np.float32), np.zeros((20, 2), np.float32))
    given: dict[str, Any] = {"init": zero, "factors": 2, "epochs": 1, "random_state": 0, "num_threads": 1}
    found = [lfm_np.sgd(tastes(), loss, **given).history[0]["sampled_loss"] for loss in (first(), second(), first())]
    return near(found, [2.0, 3.0, 2.0], 1e-6)


def processes() -> Iterator[Case]:
    yield _true("numba: fork after a threaded fit", forked)
    yield _true("joblib: fits side by side", pooled)
    yield _right(
        "lenskit: threads of BLAS and numba",
        lambda: (limits(), fitted(num_threads=2), limits()),
        lambda r: r[0] == r[2],
    )
    yield _right(
        "implicit: more threads than cores", lambda: bits(fitted(num_threads=64)), lambda b: b == bits(fitted())
    )
    for threads in (0, -1, 2.5, "4"):
        yield _refused(
            f"implicit: num_threads={threads!r}", lambda t=threads: fitted(num_threads=t), "num_threads", str(threads)
        )
    yield _true("implicit: keep a model, load it elsewhere", somewhere(elsewhere))
    yield _true("numba: an edited loss of the same name", redefined)
    yield _right(
        "joblib: results that travel",
        lambda: [
            copy.deepcopy(fitted()),
            pickle.loads(pickle.dumps(fitted(), 5)),
            pickle.loads(pickle.dumps(fitted(), 2)),
        ],
        lambda r: {bits(f) for f in r} == {bits(fitted())} and r[1].params == fitted().params,
    )
    yield _right(
        "spotlight: a progress bar in a log", lambda: bits(fitted(progress=True)), lambda b: b == bits(fitted())
    )
    yield _refused(
        "implicit: 14 million × 10 million factors",
        lambda: fitted(factors=10**10),
        "factors|memory",
        kind=(MemoryError, ValueError),
    )
    yield _refused("lightfm: more cells than there are", lambda: lfm_np.estimate_memory(10, 10, 101), "nnz|cells")
    yield _right(
        "cmfrec: memory, at least what the docstring counts",
        lambda: lfm_np.estimate_memory(1_000_000, 50_000, 10_000_000, factors=60, num_threads=1),
        lambda b: 2 * 1_050_000 * 64 * 4 + 8 * 10_000_000 <= b < 1.5 * (2 * 1_050_000 * 64 * 4 + 8 * 10_000_000),
    )


# ---- runs that end early --------------------------------------------------------------------------------------------


def resumed(place: Path, fit: Callable[..., lfm_np.Factors], count: str) -> bool:
    """Spark: a job that is lost. The error comes out, and the next call ends where the whole run does."""

    def fails(record: dict[str, Any], factors: Any) -> None:
        if record["iteration"] == 3:
            raise ConnectionError("lost")

    given: dict[str, Any] = {"factors": 4, "random_state": 0, "num_threads": 1, count: 7}
    try:
        fit(tastes(), **given, checkpoint=place / "c", callback=fails)
    except ConnectionError:
        again = fit(tastes(), **given, checkpoint=place / "c")
        return bits(again) == bits(fit(tastes(), **given)) and len(again.history) == 7
    return False


def another(place: Path, X: Any = None, **changed: Any) -> Any:
    given: dict[str, Any] = {
        "factors": 4,
        "random_state": 0,
        "num_threads": 1,
        "iterations": 3,
        "checkpoint": place / "c",
    }
    lfm_np.als(tastes(), **given)
    return lfm_np.als(tastes() if X is None else X, **{**given, **changed})


def interrupted() -> bool:
    def press(record: dict[str, Any], factors: Any) -> None:
        if record["iteration"] == 2:
            signal.raise_signal(signal.SIGINT)

    found = fitted(iterations=50, callback=press)
    done = len(found.history)
    return found.status.value == "interrupted" and done in (2, 3) and bits(found) == bits(fitted(iterations=done))


def runs() -> Iterator[Case]:
    yield _true("Spark: a lost job of als", somewhere(lambda p: resumed(p, lfm_np.als, "iterations")))
    yield _true("Spark: a lost job of sgd", somewhere(lambda p: resumed(p, lfm_np.sgd, "epochs")))
    for word, value in {
        "alpha": 2.0,
        "factors": 5,
        "regularization": 0.5,
        "weighting": "ials",
        "random_state": 1,
    }.items():
        yield _refused(
            f"Spark: another {word} at the same checkpoint",
            somewhere(lambda p, w=word, v=value: another(p, **{w: v})),
            word,
        )
    other = tastes()
    other.data[0] += 1
    yield _refused("Spark: one rating has changed since", somewhere(lambda p: another(p, other)), "x")
    yield _refused(
        "Spark: fewer iterations than were done", somewhere(lambda p: another(p, iterations=2)), "iterations"
    )
    yield _true("implicit: Ctrl-C in a long fit", interrupted)
    yield _right(
        "lenskit: tolerance ends a fit where the loss is flat",
        lambda: fitted(iterations=500, tolerance=1e-3, dtype=np.float64),
        lambda f: _flat([r["objective"] for r in f.history], 1e-3) and f.status.value == "converged",
    )


def _flat(J: list[float], tolerance: float) -> bool:
    falls = [(a - b) / b for a, b in itertools.pairwise(J)]
    return len(J) < 500 and falls[-1] < tolerance * 1.01 and all(fall > tolerance * 0.99 for fall in falls[:-1])


# ---- files ----------------------------------------------------------------------------------------------------------


class Bomb:
    def __reduce__(self) -> Any:
        return os.mkdir, ("exploded",)


def loaded(make: Callable[[Path], Any]) -> Callable[[], Any]:
    """Load what ``make`` writes to a path; nothing else may be there afterwards."""

    def work(place: Path) -> Any:
        before = os.getcwd()
        os.chdir(place)
        try:
            make(place / "model")
            return lfm_np.Factors.load(place / "model")
        finally:
            os.chdir(before)
            if (place / "exploded").exists():
                raise SystemError("the file was run")

    return somewhere(work)


def cut(path: Path, size: int) -> None:
    fitted().save(path)
    os.truncate(path, size)


def overwritten(place: Path) -> bool:
    fitted().save(place / "m")
    mapped = lfm_np.Factors.load(place / "m", mmap=True)
    fitted(random_state=9).save(place / "m")
    return bits(mapped) == bits(fitted()) and bits(lfm_np.Factors.load(place / "m")) == bits(fitted(random_state=9))


def files() -> Iterator[Case]:
    no_model = "safetensors|model|file"
    yield _refused("implicit: a pickled model", loaded(lambda p: p.write_bytes(pickle.dumps(Bomb()))), no_model)
    yield _refused(
        "implicit: a model's npz, object arrays in it",
        loaded(lambda p: np.savez(p.open("wb"), user_factors=np.array([Bomb()], object), item_factors=np.ones(3))),
        no_model,
    )
    yield _refused(
        "Spark: metadata in JSON", loaded(lambda p: p.write_text(json.dumps({"class": "ALSModel"}))), no_model
    )
    for size in (0, 7, 8, 100, 900):
        yield _refused(f"gorse: a file of which {size} bytes arrived", loaded(lambda p, s=size: cut(p, s)), no_model)
    yield _refused("Spark: a folder", loaded(lambda p: p.mkdir()), "model", kind=(OSError, ValueError))
    yield _refused("lightfm: nothing there", loaded(lambda p: None), "model", kind=FileNotFoundError)
    yield _refused(
        "RecBole: a checkpoint is no model",
        loaded(lambda p: fitted(checkpoint=p)),
        no_model,
    )
    yield _refused("implicit: save into a buffer", lambda: fitted().save(io.BytesIO()), "path")  # type: ignore[arg-type]
    yield _refused(
        "implicit: save into no folder", somewhere(lambda p: fitted().save(p / "none" / "m")), "none", kind=OSError
    )
    yield _true("hnswlib: a new model over one that is mapped", somewhere(overwritten))


# ---- other runtimes -------------------------------------------------------------------------------------------------


def on_dask() -> bool:
    import distributed

    X = tastes()
    with distributed.Client(processes=False, n_workers=1, threads_per_worker=2, dashboard_address=":0") as client:
        task = client.submit(lfm_np.als, X, factors=4, iterations=4, random_state=0, num_threads=1)
        sent = client.scatter(fitted())
        lists = client.submit(lambda f: f.recommend([1, 2], num_threads=1).ids.tolist(), sent).result()
        whole = lfm_np.distributed.als(X, factors=4, iterations=4, random_state=0)
        return (
            bits(task.result()) == bits(fitted())
            and lists == [best(s, np.ones(20, bool), 10) for s in products(fitted())[1:3]]
            and near(products(whole), products(fitted()), 1e-4)
        )


def on_torch(alpha: float, **words: Any) -> bool:
    from lfm_np import torch_backend

    X = tastes()
    U, V = start(X, 5)
    found = torch_backend.als(
        X, factors=5, iterations=3, init=(U, V), dtype=np.float64, alpha=alpha, regularization=0.1, **words
    )
    A, B, J = sweeps(X, V, 3, 0.1, alpha=alpha, **words)
    return near(products(found), A @ B.T, 1e-7) and near(found.history[-1]["objective"] / J, 1.0)


def indexed(kind: str) -> bool:
    """An index of few items finds all that a scan does, and says their true scores."""
    from lfm_np import ann

    rng = np.random.default_rng(2)
    f = lfm_np.Factors(
        rng.normal(size=(9, 4)).astype("f4"),
        (rng.normal(size=(60, 4)) * np.exp(rng.normal(size=(60, 1)))).astype("f4"),
        item_bias=rng.normal(size=60).astype("f4"),
    )
    vectors, asked = ann.item_vectors(f).astype(float), ann.user_vectors(f).astype(float)
    index = ann.faiss_index(f) if kind == "faiss" else ann.usearch_index(f, num_threads=1)
    found = ann.search(index, f, np.arange(9), N=5)
    exact = [best(s, np.ones(60, bool), 5) for s in products(f)]
    norm = np.linalg.norm(vectors, axis=1)
    return (
        near(asked @ vectors.T, products(f), 1e-5) and near(norm, np.full(60, norm[0]), 1e-5)
        and found.ids.tolist() == exact
        and all(np.array_equal(found.scores[u], f.scores(u, found.ids[u])) for u in range(9))
    )  # fmt: skip


def beside() -> Iterator[Case]:
    if installed("distributed", "dask"):
        yield _true("dask: fits and models as futures", on_dask)

        def lazy() -> Any:
            import dask

            return lfm_np.als(dask.delayed(tastes()), factors=2)

        yield _refused("dask: a value that is yet to come", lazy, "x", "sparse|matrix")
    if installed("torch"):
        for alpha in (1.0, 40.0):
            yield _true(f"implicit: a device that leaves alpha out, {alpha}", lambda a=alpha: on_torch(a))
        yield _true("implicit: a device, iALS", lambda: on_torch(3.0, weighting="confidence"))

        def tensor() -> Any:
            import torch

            return lfm_np.als(torch.eye(4).to_sparse(), factors=2)

        yield _refused("torch: a sparse tensor", tensor, "x", "sparse|matrix")
        yield _refused(
            "torch: a device that is not there", _no_device, "device", kind=(ValueError, TypeError, RuntimeError)
        )
    if installed("faiss"):
        yield _true("faiss: inner products with a bias", lambda: indexed("faiss"))
    if installed("usearch"):
        yield _true("usearch: inner products with a bias", lambda: indexed("usearch"))


def _no_device() -> Any:
    from lfm_np import torch_backend

    return torch_backend.als(tastes(), factors=2, device="cuda:77")


def cases() -> list[Case]:
    return [*processes(), *runs(), *files(), *beside()]
