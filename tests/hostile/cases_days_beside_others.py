"""Working days in crowded processes: threads, forks, other processes, spoilt caches, other people's state."""

from __future__ import annotations

import concurrent.futures
import os
import random
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import lfm_np
from lfm_np import losses

from .case import Case, Group, installed
from .working_days import all_scores, best, csr, faultless, folder, raised, same, stars, tells, wrong

_GROUP = Group("day beside others")
_day = faultless(_GROUP)


def _als(X: Any = None, **words: Any) -> Any:
    X = csr(stars(60, 40), np.float32) if X is None else X
    return lfm_np.als(X, **{"factors": 5, "iterations": 3, "random_state": 2, **words})


def _sgd(**words: Any) -> Any:
    return lfm_np.sgd(csr(stars(60, 40), np.float32), **{"factors": 5, "epochs": 3, "random_state": 2, **words})


def _many_at_once() -> list[str]:
    alone = _als(num_threads=1), _sgd(num_threads=1)
    jobs: list[Callable[[], Any]] = [
        lambda: same(_als(num_threads=1), alone[0]),
        lambda: same(_als(num_threads=3), alone[0]),
        lambda: same(_sgd(num_threads=2), alone[1]),
        lambda: np.array_equal(
            alone[0].recommend(range(60), N=7, num_threads=2).ids, alone[0].recommend(range(60), N=7).ids
        ),
        lambda: same(
            alone[0].fold_in_users(csr(stars(60, 40), np.float32)), alone[0].fold_in_users(csr(stars(60, 40)))
        ),
        lambda: (
            lfm_np.evaluate(alone[0], None, csr(stars(60, 40)), num_threads=2)
            == lfm_np.evaluate(alone[0], None, csr(stars(60, 40)), num_threads=1)
        ),
    ]
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda job: job(), jobs * 2))
    return [str(i) for i, true in enumerate(found) if not true]


def _forked_in_a_callback() -> list[str]:
    statuses = []

    def fork(record: dict[str, Any], factors: Any) -> None:
        if record["iteration"] != 2:
            return
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            child = os.fork()
        if not child:
            status = 1
            try:
                status = 0 if same(_als(num_threads=2), whole) else 2
            finally:
                os._exit(status)
        statuses.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))

    whole = _als()
    fit = _als(callback=fork)
    return wrong(child=statuses == [0], parent=same(fit, whole))


def _fit_within_a_fit() -> list[str]:
    inner = []

    def nest(record: dict[str, Any], factors: Any) -> None:
        inner.append(same(_sgd(callback=lambda r, f: inner.append(same(_als(), whole))), other))

    whole, other = _als(), _sgd()
    return wrong(
        outer=same(_als(callback=nest, iterations=2), _als(iterations=2)), inner=all(inner), count=len(inner) == 8
    )


def _joblib() -> list[str]:
    import joblib

    whole = _als(num_threads=1)
    models = joblib.Parallel(n_jobs=2, backend="threading")(joblib.delayed(_als)(num_threads=n) for n in (1, 2, 3))
    with folder() as place:
        joblib.dump(whole, place / "m.joblib")
        again = joblib.load(place / "m.joblib")
    return wrong(threads=all(same(model, whole) for model in models), dump=same(again, whole))


PROGRAM = """
import sys, numpy as np, scipy.sparse as sp, lfm_np
X = sp.csr_array((np.ones(300, np.float32), (np.arange(300) % 60, np.arange(300) * 7 % 40)), shape=(60, 40))
if __name__ == "__main__":
    f = lfm_np.als(X, factors=5, iterations=2, random_state=2)
    print(f.item_factors.tobytes().hex())
"""


def _here() -> str:
    import scipy.sparse as sp

    X = sp.csr_array((np.ones(300, np.float32), (np.arange(300) % 60, np.arange(300) * 7 % 40)), shape=(60, 40))
    return str(lfm_np.als(X, factors=5, iterations=2, random_state=2).item_factors.tobytes().hex())


def _other_process() -> list[str]:
    environ = {"PYTHONHASHSEED": "77", "OMP_NUM_THREADS": "1", "LC_ALL": "C", "PYTHONWARNINGS": "error"}
    where = {**os.environ, **environ}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=where, capture_output=True, text=True, timeout=100)
    found = wrong(status=done.returncode == 0, bits=done.stdout.strip() == _here())
    return found + ([done.stderr[-300:]] if found else [])


def _others_state() -> list[str]:
    state, legacy = random.getstate(), np.random.get_state()[1].copy()  # noqa: NPY002
    options, errors = np.get_printoptions(), np.geterr()
    X = csr(stars(60, 40), np.float32)
    X.data.flags.writeable = X.indices.flags.writeable = X.indptr.flags.writeable = False
    fit = _als(X)
    lfm_np.sgd(X, losses.WARP(), factors=3, epochs=1)
    fit.recommend(range(60), seen=X)
    lfm_np.Interactions(X, np.arange(60), np.arange(40)).split("random", random_state=1)
    return wrong(
        random=random.getstate() == state,
        legacy=np.array_equal(np.random.get_state()[1], legacy),  # noqa: NPY002
        options=np.get_printoptions() == options and np.geterr() == errors,
        threads=threading.active_count() == 1,
    )


def _generators() -> list[str]:
    kinds: dict[str, Callable[[], Any]] = {
        "generator": lambda: np.random.default_rng(5),
        "sequence": lambda: np.random.SeedSequence(5),
        "legacy": lambda: np.random.RandomState(5),
    }
    found = []
    for name, make in kinds.items():
        found += wrong(**{name: same(_als(random_state=make()), _als(random_state=make()))})
    shared = np.random.default_rng(5)
    first, second = _als(random_state=shared), _als(random_state=shared)
    return found + wrong(moves=not same(first, second))


def _eight_writers() -> list[str]:
    X = csr(stars(60, 40), np.float32)
    fits = [_als(X, random_state=n) for n in range(8)]
    with folder() as place:
        (place / "kept").write_text("mine")

        def write(n: int) -> bool:
            for _ in range(5):
                fits[n].save(place / "model")
                again = lfm_np.Factors.load(place / "model")
                if not any(same(again, fit) for fit in fits):
                    return False
            return True

        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            found = list(pool.map(write, range(8)))
        names = sorted(path.name for path in place.iterdir())
    return wrong(whole=all(found), names=names == ["kept", "model"])


def _mapped_while_replaced() -> list[str]:
    first, second = _als(), _als(random_state=9)
    X = csr(stars(60, 40), np.float32)
    with folder() as place:
        first.save(place / "m")
        mapped = lfm_np.Factors.load(place / "m", mmap=True)
        second.save(place / "m")
        old = mapped.recommend(range(60), N=5, seen=X).ids
        new = lfm_np.Factors.load(place / "m", mmap=True).recommend(range(60), N=5, seen=X).ids
        S = all_scores(first)
        del mapped
    allowed = np.isnan(stars(60, 40))
    return wrong(
        old=np.array_equal(old, first.recommend(range(60), N=5, seen=X).ids),
        brute=sum(a == best(s, x, 5) for a, s, x in zip(old.tolist(), S, allowed, strict=True)) >= 58,
        new=np.array_equal(new, second.recommend(range(60), N=5, seen=X).ids),
    )


def _memory() -> list[str]:
    X = csr(stars(60, 40), np.float32)
    fit = _als(X)
    errors = {
        "factors": raised(lambda: _als(X, factors=10**10)),
        "sgd": raised(lambda: _sgd(factors=10**10)),
        "lists": raised(lambda: fit.recommend(np.zeros(10**6, np.int64), N=10**7)),
    }
    return wrong(
        **{
            name: isinstance(e, (MemoryError, ValueError)) and tells(e, "memory|bytes|gib|gb|factors|n ")
            for name, e in errors.items()
        }
    )


def _torch_threads() -> list[str]:
    import threadpoolctl
    import torch

    before = torch.get_num_threads(), [(i["filepath"], i["num_threads"]) for i in threadpoolctl.threadpool_info()]
    whole = _als()
    lfm_np.torch_backend.als(csr(stars(60, 40), np.float32), factors=3, iterations=1, num_threads=1)
    with threadpoolctl.threadpool_limits(1):
        limited = _als()
    after = torch.get_num_threads(), [(i["filepath"], i["num_threads"]) for i in threadpoolctl.threadpool_info()]
    return wrong(numbers=before == after, bits=same(limited, whole))


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    yield _day("twelve calls at once", _many_at_once)
    yield _day("a fork in a callback fits too", _forked_in_a_callback)
    yield _day("fits within callbacks of fits", _fit_within_a_fit)
    if installed("joblib"):
        yield _day("joblib's threads and files", _joblib)
    yield _day("another process with another environment, to the bits", _other_process)
    yield _day("read-only data and other people's random state", _others_state)
    yield _day("seeds of every kind, and one that is shared", _generators)
    yield _day("eight writers of one model", _eight_writers)
    yield _day("a mapped model while it is replaced", _mapped_while_replaced)
    yield _day("more memory than there is", _memory)
    if installed("torch"):
        yield _day("torch's and BLAS's numbers of threads", _torch_threads)
