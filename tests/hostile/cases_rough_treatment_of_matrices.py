"""Damaged matrices and bad cells deep within large ones, and a plain fit afterwards."""

from __future__ import annotations

import contextlib
import gc
import os
import random
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

import lfm_np
from lfm_np import losses
from lfm_np.evaluation import most_popular

from .case import Case, Group, fingerprint
from .working_days import Model, best, close, csr, stars, start, tells, wrong

GROUP = Group("rough treatment")
X = stars(30, 20, seed=11)
U0, V0 = start(30, 20, 3, seed=12)
HOW = Model("hu-koren", alpha=2.0, a0=0.5, lam=0.3, nu=0.5)
WORDS: dict[str, Any] = {**HOW.words, "factors": 3, "init": (U0, V0), "dtype": "float64", "solver": "exact"}


def fit(**words: Any) -> lfm_np.Factors:
    return lfm_np.als(csr(X), **{**WORDS, "iterations": 3, **words})


def follows(factors: Any, sweeps: int, X: np.ndarray = X, V: np.ndarray = V0, how: Model = HOW) -> bool:
    """Whether the scores are those of so many sweeps in float64."""
    mine, yours = how.sweeps(X, V, sweeps) if sweeps else (U0, V)
    return close(factors.user_factors @ factors.item_factors.T, mine @ yours.T, 1e-8)


def listed(factors: Any, seen: np.ndarray = X, N: int = 4) -> bool:
    """Whether every user's list is that of a sort."""
    ids = factors.recommend(np.arange(len(seen)), N=N, seen=csr(seen)).ids
    S = [factors.scores(u, np.arange(seen.shape[1])) for u in range(len(seen))]
    return ids.tolist() == [best(s, np.isnan(x), N) for s, x in zip(S, seen, strict=True)]


def caught(call: Callable[[], Any]) -> BaseException | None:
    try:
        call()
    except BaseException as error:
        return error
    return None


def sound() -> list[str]:
    """A plain fit and its lists beside float64 loops."""
    factors = fit(iterations=1)
    return wrong(plain_fit=follows(factors, 1), plain_lists=listed(factors))


def _around() -> dict[str, Any]:
    return {
        "threads": sorted(thread.name for thread in threading.enumerate()),
        "folder": os.getcwd(),
        "environment": dict(os.environ),
        "errors": (np.geterr(), np.geterrcall()),
        "random": hash(random.getstate()),
        "alarm": (signal.getsignal(signal.SIGALRM), signal.getitimer(signal.ITIMER_REAL)[0] > 0),
        "interrupt": signal.getsignal(signal.SIGINT),
    }


def _held(folder: str) -> list[str]:
    """Files of the folder that this process has open or mapped."""
    targets = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            targets.append(os.readlink(f"/proc/self/fd/{fd}"))
        except OSError:
            continue  # the listing's own
    return [line for line in (*targets, *Path("/proc/self/maps").read_text().splitlines()) if folder in line]


def after(work: Callable[[Path], list[str]]) -> Callable[[], list[str]]:
    """What is wrong in ``work``, and around it once it is done."""

    def call() -> list[str]:
        found = sound()
        before = _around()
        with tempfile.TemporaryDirectory() as folder:
            found += work(Path(folder))
            gc.collect()
            found += [f"still open: {name}" for name in _held(folder)]
        now = _around()
        found += [f"not as before: {name}" for name in before if before[name] != now[name]]
        return found + sound()

    return call


def rough(name: str, work: Callable[[Path], list[str]], group: Group = GROUP) -> Case:
    return group.right(name, after(work), lambda found: found == [])


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


class Spilled(Exception):
    """What no library knows."""


def at(sweep: int, what: Callable[[Any], Any]) -> Callable[[Any, Any], None]:
    """A callback that does something after one sweep."""

    def callback(record: Any, factors: Any) -> None:
        if record["iteration"] == sweep:
            what(factors)

    return callback


def throw(error: BaseException) -> Callable[[Any], Any]:
    def what(factors: Any) -> Any:
        raise error

    return what


@contextlib.contextmanager
def watched() -> Iterator[None]:
    """An alarm is `Spilled`; the alarms of before come back."""

    def bark(number: int, frame: Any) -> None:
        raise Spilled("too long")

    before = signal.setitimer(signal.ITIMER_REAL, 0)
    handler = signal.signal(signal.SIGALRM, bark)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, *before)


BIG = stars(5000, 20, seed=7)
PLAIN = lfm_np.Factors(U0, V0)
MANY = np.random.default_rng(9).normal(size=(5000, 3))


def large() -> lfm_np.Factors:
    return lfm_np.Factors(MANY, V0)


def damaged(X: np.ndarray = BIG, **parts: Callable[[np.ndarray], np.ndarray]) -> Any:
    """A matrix whose arrays are replaced behind SciPy's back."""
    A = csr(X)
    for name, change in parts.items():
        setattr(A, name, change(getattr(A, name).copy()))
    return A


def setting(place: int, value: Any) -> Callable[[np.ndarray], np.ndarray]:
    def change(array: np.ndarray) -> np.ndarray:
        array[place] = value
        return array

    return change


def celled(row: int, value: float) -> Any:
    """The first cell of a row has this value."""
    A = csr(BIG)
    A.data[A.indptr[row]] = value
    return A


def _refuses(name: str, make: Callable[[], Any], call: Callable[[Any], Any], *words: str) -> Case:
    def work(home: Path) -> list[str]:
        A = make()
        old = fingerprint(A)
        got = caught(lambda: call(A))
        told = isinstance(got, (TypeError, ValueError)) and tells(got, *words)
        return ([] if told else [f"{type(got).__name__}: {got}"]) + wrong(unchanged=fingerprint(A) == old)

    return rough(f"refused, {name}", work)


def _coo() -> Any:
    A = sp.coo_array(csr(BIG))
    rows, columns = (part.copy() for part in A.coords)
    rows[-1] = 5000
    A.coords = (rows, columns)
    return A


def _other(format: str, **parts: Callable[[np.ndarray], np.ndarray]) -> Any:
    A = csr(BIG).asformat(format)
    for name, change in parts.items():
        setattr(A, name, change(getattr(A, name).copy()))
    return A


def _dok() -> Any:
    A = csr(X).todok()
    A._dict[(29, 20)] = np.float64(1.0)
    return A


def lil(columns: list[int]) -> Any:
    A = csr(X).tolil()
    A.rows[3], A.data[3] = list(columns), [2.0] * len(columns)
    return A


def _reshaped() -> Any:
    A = csr(BIG)
    A._shape = (5001, 20)
    return A


def _stored_nowhere(A: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        try:
            lfm_np.StoredMatrix.from_matrix(A, Path(folder) / "matrix")
        finally:
            assert os.listdir(folder) == []


def cases() -> list[Case]:
    als = lambda A: lfm_np.als(A, factors=2, iterations=1, random_state=0)  # noqa: E731
    sgd = lambda A: lfm_np.sgd(A, losses.BPR(True), factors=2, epochs=1, random_state=0)  # noqa: E731
    pairs = np.random.default_rng(1).integers(0, 50, (9000, 2))
    ids = np.arange(9000.0) % 70
    time = np.array(["2024-05-01", "NaT", "2024-05-02"], "datetime64[D]")
    index = "index|indices|column"
    return [
        _refuses("a column beyond the last in the last cell", lambda: damaged(indices=setting(-1, 20)), als, index),
        _refuses("a column below 0 amid the cells", lambda: damaged(indices=setting(9999, -1)), sgd, index),
        _refuses(
            "offsets of a test set that fall",
            lambda: damaged(indptr=setting(2500, 0)),
            lambda A: lfm_np.evaluate(large(), None, A),
            "test",
        ),
        _refuses(
            "offsets of what was seen that end beyond the cells",
            lambda: damaged(indptr=setting(-1, 10**6)),
            lambda A: large().recommend(0, seen=A),
            "seen",
        ),
        _refuses(
            "fewer columns than values",
            lambda: damaged(indices=lambda a: a[:-1]),
            lambda A: PLAIN.fold_in_users(A, **HOW.words),
            "indices|data|length",
        ),
        _refuses(
            "offsets that do not begin with 0",
            lambda: damaged(indptr=setting(0, 1)),
            lambda A: lfm_np.objective(A, large(), **HOW.words),
            "index pointer",
        ),
        _refuses(
            "a column of 2³² and nothing is stored",
            lambda: damaged(indices=lambda a: setting(-1, 2**32)(a.astype(np.int64))),
            _stored_nowhere,
            index,
        ),
        _refuses("a row of COO beyond the last", _coo, most_popular, "index|row|coord"),
        _refuses("offsets of CSC that fall", lambda: _other("csc", indptr=setting(7, 0)), als, "indptr|offset"),
        _refuses("a block of BSR beyond the last", lambda: _other("bsr", indices=setting(-1, 20)), als, index),
        _refuses("a key of DOK outside", _dok, als, index),
        _refuses("a column of LIL below 0", lambda: lil([-3, 4]), als, index),
        _refuses(
            "offsets that end at 2⁴⁰",
            lambda: damaged(indptr=lambda a: setting(-1, 2**40)(a.astype(np.int64))),
            sgd,
            "indptr|offset",
        ),
        _refuses("a shape of one row more", _reshaped, als, "index pointer size"),
        _refuses("NaN deep in als", lambda: celled(3777, np.nan), als, "3777"),
        _refuses("less than nothing deep in sgd", lambda: celled(3777, -1.0), sgd, "3777"),
        _refuses(
            "infinity deep in new rows",
            lambda: celled(3777, np.inf),
            lambda A: PLAIN.fold_in_users(A, **HOW.words),
            "3777",
        ),
        _refuses(
            "NaN deep in an objective",
            lambda: celled(3777, np.nan),
            lambda A: lfm_np.objective(A, large(), **HOW.words),
            "3777",
        ),
        _refuses("NaN deep in what is to be stored", lambda: celled(3777, np.nan), _stored_nowhere, "3777"),
        _refuses(
            "a start with NaN at its end",
            lambda: np.where(MANY[-1, -1] == MANY, np.nan, MANY),
            lambda A: lfm_np.als(csr(BIG), factors=3, init=(A, V0), dtype="float64"),
            "init",
        ),
        _refuses(
            "a sum beyond float32",
            lambda: np.full(9000, 1e38),
            lambda a: lfm_np.to_csr(np.zeros((9000, 2), int), values=a),
            "values|float32|finite",
        ),
        _refuses("a pair of 2⁶³", lambda: setting(8000, 2**63)(pairs.astype(np.uint64)), lfm_np.to_csr, "pairs"),
        _refuses("a pair below 0", lambda: setting(8000, -1)(pairs.copy()), lfm_np.build_dict, "pairs"),
        _refuses(
            "a user without an id",
            lambda: setting(8000, np.nan)(ids.copy()),
            lambda a: lfm_np.Interactions.from_arrays(a, np.arange(9000)),
            "users",
        ),
        _refuses(
            "a pair that comes again",
            lambda: setting(8999, 4077)(np.arange(9000)),
            lambda a: lfm_np.Interactions.from_arrays(a, a, duplicates="error"),
            "4077",
        ),
        _refuses(
            "a time that is unknown",
            lambda: time,
            lambda t: lfm_np.Interactions.from_arrays([1, 1, 1], [1, 2, 3], timestamps=t).split("last"),
            "time",
        ),
        _refuses(
            "a negative beyond the items",
            lambda: setting(-1, 20)(np.zeros((5000, 4), int)),
            lambda a: lfm_np.evaluate(large(), None, csr(BIG), negatives=a),
            "negatives",
        ),
    ]
