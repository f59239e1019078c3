"""Losses, streams, threads, limits and environments that misbehave, beside loops in float64."""

from __future__ import annotations

import copy
import gc
import io
import math
import os
import pickle
import resource
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

import lfm_np

from .case import Case, Group
from .cases_hostile_again_surroundings_of_alarms import RATED, U0, V0, X, epochs, fit, product, steps, stop_at, whole
from .places import FIT, child, digest, fitted, inside, interpreter, largest_file, together
from .working_days import close, csr, faultless, raised, same, tells, wrong

GROUP = Group("hostile again, surroundings")
_holds = faultless(GROUP)


class Divides:
    def value(self, score: float, target: float) -> float:
        return 1.0 / (score - target)

    def gradient(self, score: float, target: float) -> float:
        return -1.0 / (score - target) ** 2


class Unknown:
    def value(self, score: float, target: float) -> float:
        return math.nan

    def gradient(self, score: float, target: float) -> float:
        return score - target


def _one_step(loss: Any) -> Any:
    init = np.array([[1.0]]), np.array([[2.0]])
    return lfm_np.sgd(sp.csr_array([[2.0]]), loss, sampler=None, factors=1, epochs=2, init=init, dtype="float64")


def _three_streams() -> list[str]:
    """A bar for a stream that is not there, is closed, or that nobody reads: no bar, or an error that says so."""

    class Broken(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError(32, "broken pipe")

    closed = io.StringIO()
    closed.close()
    before, found = sys.stderr, []
    for stream in (None, closed, Broken()):
        sys.stderr = stream  # type: ignore[assignment]
        try:
            found.append(whole(fit(progress=True), 3))
        except (ValueError, OSError, TypeError) as error:
            found.append(tells(error, "progress|stderr|closed|pipe"))
        finally:
            sys.stderr = before
    return wrong(each=found == [True] * 3, after=whole(fit(), 3))


def _no_descriptors(place: Path) -> list[str]:
    """0, 1 and 2 are closed: the next files get these numbers."""

    def work() -> bool:
        for number in range(3):
            os.close(number)
        f = fit(3, checkpoint=place / "s")
        f.save(place / "m")
        stored = lfm_np.StoredMatrix.from_matrix(X, place / "x", dtype="float64")
        return whole(f, 3) and same(lfm_np.Factors.load(place / "m"), f) and whole(fit(data=stored), 3)

    return wrong(child=child(work) == 0, files=sorted(os.listdir(place)) == ["m", "s", "x"])


def _collected_all_the_time() -> list[str]:
    fit(), epochs(1)
    threshold, interval = gc.get_threshold(), sys.getswitchinterval()
    gc.set_threshold(1, 5, 5)
    sys.setswitchinterval(1e-6)
    try:
        found = together(4, lambda place: (fit(1 + place), epochs(2 + place)))
    finally:
        gc.set_threshold(*threshold)
        sys.setswitchinterval(interval)
    good = [
        isinstance(pair, tuple) and whole(pair[0], 1 + n) and close(float(pair[1].scores(0, 0)), steps(2 + n)[0], 1e-10)
        for n, pair in enumerate(found)
    ]
    return wrong(each=all(good))


def _small_stacks() -> list[str]:
    """512 KiB, as threads have them on macOS."""
    best = np.argsort(-(U0 @ V0.T), axis=1)[:, :4].tolist()

    def work(place: int) -> bool:
        f = fit(2 + place)
        return whole(f, 2 + place) and lfm_np.Factors(U0, V0).recommend(np.arange(14), N=4).ids.tolist() == best

    work(0)
    before = threading.stack_size(512 * 1024)
    try:
        found = together(3, work)
    finally:
        threading.stack_size(before)
    return wrong(each=found == [True] * 3)


def _fewer_cores() -> list[str]:
    cores = os.sched_getaffinity(0)

    def callback(record: Any, factors: Any) -> None:
        os.sched_setaffinity(0, {min(cores)} if record["iteration"] % 2 else cores)

    try:
        found = fit(4, callback=callback)
    finally:
        os.sched_setaffinity(0, cores)
    return wrong(whole=whole(found, 4))


def _numbers_that_cannot_be_printed() -> list[str]:
    """NumPy is told to print arrays by a function that raises."""

    def never(value: Any) -> str:
        raise ZeroDivisionError("not to be printed")

    bad = X.copy()
    bad.data[3] = np.nan
    calls: list[tuple[Callable[[], Any], str]] = [
        (lambda: fit(data=bad), "nan|finite|x"),
        (lambda: lfm_np.Factors(np.array([[np.inf]]), V0[:, :1]), "user_factors"),
        (lambda: lfm_np.Factors(U0, V0).recommend([1, 99]), "user"),
        (lambda: lfm_np.to_csr(np.array([[0, -1]])), "pairs|negative"),
        (lambda: lfm_np.Interactions.from_arrays([1, 2], [3, 4]).rows_of([7]), "users|id"),
    ]
    with np.printoptions(formatter={"all": never}, threshold=0, edgeitems=0):
        errors = [raised(call) for call, _ in calls]
        found = fit()
    told = [isinstance(e, (ValueError, TypeError)) and tells(e, w) for e, (_, w) in zip(errors, calls, strict=True)]
    return wrong(told=all(told), whole=whole(found, 3))


def _files_that_may_not_grow(place: Path) -> list[str]:
    """From the third sweep on no file may grow beyond 100 bytes; the state is that of the second."""

    def run() -> None:
        with largest_file(resource.getrlimit(resource.RLIMIT_FSIZE)[0]):  # restored at the end

            def callback(record: Any, factors: Any) -> None:
                if record["iteration"] == 3:
                    resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))

            fit(6, callback=callback, checkpoint=place / "state")

    error, seen = raised(run), []
    names = os.listdir(place)
    found = fit(4, callback=stop_at(9, seen), checkpoint=place / "state")
    return wrong(
        error=isinstance(error, OSError) and tells(error, "state|checkpoint|large"), names=names == ["state"],
        seen=[number for number, _ in seen] == [3, 4], found=whole(found, 4),
    )  # fmt: skip


def _copies_of_views() -> list[str]:
    """What a callback copies or pickles stays that of its sweep, or is refused."""
    kept: list[Any] = []
    told: list[bool] = []

    def callback(record: Any, factors: Any) -> None:
        for way in (copy.deepcopy, lambda f: pickle.loads(pickle.dumps(f)), copy.copy):
            try:
                other = way(factors)
                kept.append((record["iteration"], np.array(other.user_factors) @ np.array(other.item_factors).T))
            except (TypeError, ValueError, pickle.PicklingError) as error:
                told.append(tells(error, "pickle|copy|copied|callback"))

    found = fit(3, callback=callback)
    return wrong(found=whole(found, 3), told=all(told), kept=all(close(S, product(s), 1e-8) for s, S in kept))


def _errors_travel() -> list[str]:
    """A SolverError with its factors, through a pickle."""
    rated = RATED.copy()
    rated[5], rated[5, 0] = np.nan, 3.0
    words: dict[str, Any] = {"weighting": "ratings", "regularization": 0.0, "factors": 3, "init": (U0, V0)}
    error = raised(lambda: lfm_np.als(csr(rated), dtype="float64", iterations=3, **words))
    other = pickle.loads(pickle.dumps(error))
    S = U0 @ V0.T
    return wrong(
        kind=type(error) is lfm_np.SolverError is type(other),
        text=str(other) == str(error) and tells(error, "row|user"),
        start=close(error.factors.user_factors @ error.factors.item_factors.T, S, 1e-9),  # type: ignore[attr-defined]
        travels=same(other.factors, error.factors),  # type: ignore[attr-defined]
    )  # fmt: skip


def _odd_environment() -> list[str]:
    """Fresh memory full of 0xAA, and variables that nobody can read."""
    env = {
        "MALLOC_PERTURB_": "85", "OMP_NUM_THREADS": "0,junk", "OPENBLAS_NUM_THREADS": "-3", "COLUMNS": "wide",
        "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONHASHSEED": "7", "TQDM_MININTERVAL": "0.5", "TZ": "nowhere/at/all",
    }  # fmt: skip
    said = interpreter("-c", FIT.replace("THREADS", "3"), env=env)
    return wrong(status=said.status == 0, bits=said.out.split()[-1:] == [digest(fitted())])


def _cases() -> Iterator[Case]:
    kinds = (ValueError, TypeError, RuntimeError, ArithmeticError)
    yield GROUP.refused(
        "a loss that divides by zero", lambda: _one_step(Divides()), "zero|loss|finite|diverg|epoch", kind=kinds
    )
    yield GROUP.either(
        "a loss of unknown value", lambda: _one_step(Unknown()), lambda f: math.isnan(f.history[0]["sampled_loss"]),
        "nan|loss|finite|diverg|epoch", kind=kinds,
    )  # fmt: skip
    yield _holds("bars for streams that are gone", _three_streams)
    yield _holds("without the three standard files", inside(_no_descriptors))
    yield _holds("garbage and threads at every turn", _collected_all_the_time)
    yield _holds("threads of small stacks", _small_stacks)
    yield _holds("cores that come and go", _fewer_cores)
    yield _holds("numbers that cannot be printed", _numbers_that_cannot_be_printed)
    yield _holds("files that may not grow any more", inside(_files_that_may_not_grow))
    yield _holds("copies of what a callback sees", _copies_of_views)
    yield _holds("errors that travel", _errors_travel)
    yield _holds("an odd environment", _odd_environment)


def cases() -> list[Case]:
    return list(_cases())
