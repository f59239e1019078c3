"""A program's runs, second sitting: states that processes share, ends, alarms, crowds, beside loops in float64."""

from __future__ import annotations

import itertools
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

import lfm_np

from .case import Case, Group, installed
from .cases_second_sitting_of_life_on_disks import U0, V0, M, X, by_numpy, children, fit, listing, whole
from .places import child, parts, together
from .working_days import Model, close, faultless, folder, raised, tells, wrong

_GROUP = Group("second sitting, life")
_holds = faultless(_GROUP)
SQUARED = lfm_np.losses.Squared()
ONE = sp.csr_array([[2.0]])
P0 = (U0[:1], V0[:1])
ETA, LAM = 0.125, 0.01


def descend(epochs: int, by: Callable[..., Any] = lfm_np.sgd, **words: Any) -> Any:
    given = {
        "sampler": None, "factors": 3, "learning_rate": ETA, "regularization": LAM, "init": P0, "dtype": "float64",
        "random_state": 0, **words,
    }  # fmt: skip
    return by(ONE, SQUARED, epochs=epochs, **given)


def stepped(factors: Any, epochs: int, schedule: str) -> bool:
    """One rating of 2 and its two rows, step by step; a turn of the factors leaves their products."""
    (u,), (v,) = P0
    sums, paid = np.zeros(2), []
    for epoch in range(epochs):
        e = float(u @ v) - 2.0
        paid.append(e * e / 2)
        slopes = [e * v + LAM * u, e * u + LAM * v]
        if schedule == "adagrad":
            sums = sums + [float((g**2).mean()) for g in slopes]
            rates = ETA / np.sqrt(1 + sums)
        else:
            rates = np.full(2, ETA / (1 + epoch / 10))
        u, v = u - rates[0] * slopes[0], v - rates[1] * slopes[1]
    F, G = np.vstack([u, v]), np.vstack([factors.user_factors, factors.item_factors])
    return (
        [record["iteration"] for record in factors.history] == list(range(1, epochs + 1))
        and close(G @ G.T, F @ F.T, 1e-11)
        and close([record["sampled_loss"] for record in factors.history], paid, 1e-11)
    )


def press_at(sweep: int) -> Callable[[Any, Any], None]:
    def press(record: Any, factors: Any) -> None:
        if record["iteration"] == sweep:
            signal.raise_signal(signal.SIGINT)

    return press


def _three_go_on() -> list[str]:
    """Three processes go on from one state at once, each to the end, and what they leave is the end."""
    by_numpy(20, M)
    with folder() as place:
        path = place / "state"
        fit(sweeps=2, checkpoint=path)
        there = children(3, lambda: whole(fit(sweeps=20, checkpoint=path), 20))
        seen: list[int] = []
        last = fit(sweeps=20, checkpoint=path, callback=listing(seen))
        return wrong(
            there=there, here=whole(last, 20), done=seen == [], alone=os.listdir(place) == ["state"],
            ended=last.status is lfm_np.Status.MAX_ITERATIONS,
        )  # fmt: skip


def _an_epoch_a_process(schedule: str) -> list[str]:
    with folder() as place:
        path = place / "state"
        days = [
            child(lambda n=n: stepped(descend(n, schedule=schedule, checkpoint=path), n, schedule)) for n in range(1, 7)
        ]
        last = descend(7, schedule=schedule, checkpoint=path)
        return wrong(days=days == [0] * 6, last=stepped(last, 7, schedule))


def _two_runs_and_one_file() -> list[str]:
    """Both have begun before either keeps a state; the file is of one of them, and the other is refused then."""
    other = Model(lam=0.9)
    both = threading.Barrier(2)

    def wait(record: Any, factors: Any) -> None:
        if record["iteration"] == 1:
            both.wait(timeout=10)

    with folder() as place:
        path = place / "state"
        models = [M, other]
        found = together(2, lambda i: fit(sweeps=6, model=models[i], checkpoint=path, callback=wait))
        right = [isinstance(f, lfm_np.Factors) and whole(f, 6, m) for f, m in zip(found, models, strict=True)]
        again: list[Any] = []
        for model in models:
            seen: list[int] = []
            try:
                f = fit(sweeps=7, model=model, checkpoint=path, callback=listing(seen))
                again.append(seen == [7] and whole(f, 7, model))
            except ValueError as error:
                again.append(error)
        refused = [error for error in again if isinstance(error, ValueError)]
        return wrong(
            first=right[0], second=right[1], one=len(refused) == 1 and True in again,
            told=all(tells(error, "regularization") for error in refused),
        )  # fmt: skip


def _pressed_in_the_last() -> list[str]:
    """In the last sweep of a run, then in the first of the next one: no press is lost, and no sweep."""
    pressed, ended = lfm_np.Status.INTERRUPTED, lfm_np.Status.MAX_ITERATIONS
    with folder() as place:
        path = place / "state"
        first = fit(sweeps=3, checkpoint=path, callback=press_at(3))
        second = fit(sweeps=6, checkpoint=path, callback=press_at(4))
        third = fit(sweeps=6, checkpoint=path)
        seen: list[int] = []
        fourth = fit(sweeps=6, checkpoint=path, callback=listing(seen))
        return wrong(
            first=first.status is pressed and whole(first, 3), second=second.status is pressed and whole(second, 4),
            third=third.status is ended and whole(third, 6), fourth=fourth.status is ended and whole(fourth, 6),
            none=seen == [],
        )  # fmt: skip


def _torch_epochs() -> list[str]:
    """One record is one batch, so the steps are those of the loop; Ctrl-C raises, and the state has its epoch."""
    by = lfm_np.torch_backend.sgd
    with folder() as place:
        state = lfm_np.Checkpoint(place / "state", 3600.0)
        words = {"by": by, "schedule": "inverse", "checkpoint": state}
        error = raised(lambda: descend(8, raise_on_interrupt=True, callback=press_at(3), **words))
        seen: list[int] = []
        last = descend(8, callback=listing(seen), **words)
        return wrong(
            raised=isinstance(error, KeyboardInterrupt), seen=seen == [4, 5, 6, 7, 8],
            last=stepped(last, 8, "inverse"),
        )  # fmt: skip


def _diverged_again() -> list[str]:
    """u = v = 1 and a rating of 0 with η = 10: u becomes u - 10·u³, so 1, -9, 7281, -4·10¹², and 6·10³⁸ overflows."""
    zero = sp.csr_array(([0.0], ([0], [0])), shape=(1, 1))
    u, paid = 1.0, []
    for _ in range(3):
        paid.append(u**4 / 2)
        u -= 10 * u**3
    words = {
        "sampler": None, "factors": 1, "learning_rate": 10.0, "regularization": 0.0, "init": (np.eye(1), np.eye(1)),
        "dtype": "float32", "random_state": 0,
    }  # fmt: skip

    def right(factors: Any) -> bool:
        """Each step triples the relative error of float32: 3³ · 2⁻²³ or so."""
        scores = np.asarray(factors.user_factors, np.float64) @ np.asarray(factors.item_factors, np.float64).T
        return close(scores, [[u * u]], 1e-4) and close([r["sampled_loss"] for r in factors.history], paid, 1e-4)

    with folder() as place:
        path = place / "state"
        errors = [raised(lambda: lfm_np.sgd(zero, SQUARED, epochs=9, checkpoint=path, **words)) for _ in range(2)]
        kept = lfm_np.sgd(zero, SQUARED, epochs=3, checkpoint=path, **words)
        return wrong(
            kinds=all(isinstance(error, lfm_np.SolverError) for error in errors),
            told=all(tells(error, "4") and tells(error, "epoch") for error in errors),
            factors=all(right(getattr(error, "factors", kept)) for error in errors), kept=right(kept),
        )  # fmt: skip


def _singular_at_once() -> list[str]:
    """Only row 5 has fewer ratings than there are factors, and λ is 0: what is left is the start."""
    full = np.random.default_rng(63).integers(1, 6, (14, 9)).astype(np.float64)
    full[5, 1:] = 0.0
    with folder() as place:
        path = place / "state"
        error = raised(
            lambda: fit(sp.csr_array(full), weighting="ratings", alpha=1.0, unobserved_weight=None, regularization=0.0,
                        solver="exact", checkpoint=path)
        )  # fmt: skip
        left = getattr(error, "factors", None)
        return wrong(
            kind=isinstance(error, lfm_np.SolverError), told=tells(error, "5"), history=len(left.history) == 0,
            start=close(left.user_factors @ left.item_factors.T, U0 @ V0.T, 1e-10), nothing=os.listdir(place) == [],
        )  # fmt: skip


def _alarms() -> list[str]:
    """A thousand alarms a second, which somebody else counts, through everything that waits for a disk."""
    rung = []
    before = signal.signal(signal.SIGALRM, lambda *_: rung.append(1))
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
    try:
        with folder() as place:
            fit(sweeps=3, checkpoint=place / "state")
            kept = fit(sweeps=6, checkpoint=place / "state")
            kept.save(place / "model")
            read = [lfm_np.Factors.load(place / "model", mmap=mmap) for mmap in (False, True)]
            stored = lfm_np.StoredMatrix.from_matrix(X, place / "m", dtype="float64")
            found = [fit(stored, 6), fit(lfm_np.StoredMatrix(place / "m", factors_in=place), 6)]
            names = sorted(os.listdir(place))
            right = [whole(f, 6) for f in (kept, *read, *found)]
            deadline = time.monotonic() + 5
            while not rung and time.monotonic() < deadline:
                time.sleep(0.01)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)
    return wrong(right=all(right), names=names == ["m", "model", "state"], rung=len(rung) > 0)


def _seconds_between_saves() -> list[str]:
    """A save seen between two callbacks lies between the end of the one and the beginning of the other."""
    with folder() as place:
        path = place / "state"
        times: list[tuple[float, float, Any]] = []

        def looks(record: Any, factors: Any) -> None:
            begins = time.monotonic()
            found = (path.stat().st_ino, path.stat().st_mtime_ns) if path.exists() else None
            time.sleep(0.12)
            times.append((begins, time.monotonic(), found))

        fit(sweeps=14, checkpoint=lfm_np.Checkpoint(path, 0.5), callback=looks)
        saved = [
            (one[1], other[0]) for one, other in itertools.pairwise(times) if one[2] != other[2]
        ]  # fmt: skip
        apart = [later[1] - earlier[0] for earlier, later in itertools.pairwise(saved)]
        seen: list[int] = []
        last = fit(sweeps=14, checkpoint=path, callback=listing(seen))
        # 14 sweeps take at least 1.68 s, so something is kept before the end
        return wrong(
            some=len(saved) >= 1, apart=all(seconds > 0.499 for seconds in apart), last=seen == [] and whole(last, 14)
        )


def _why_they_ended() -> list[str]:
    """Four reasons, in memory, in text, in the JSON of a file, and back from it the same objects."""
    S = lfm_np.Status
    assert by_numpy(2, M)[1][1] > 0.1 * by_numpy(2, M)[1][0]  # less than nine tenths below: converged at once

    def stops(record: Any, factors: Any) -> None:
        if record["iteration"] == 2:
            raise StopIteration

    fits = {
        S.CONVERGED: fit(tolerance=0.9), S.MAX_ITERATIONS: fit(sweeps=2), S.STOPPED: fit(callback=stops),
        S.INTERRUPTED: fit(callback=press_at(2)),
    }  # fmt: skip
    found = []
    with folder() as place:
        path = Path(place) / "model"
        for reason, f in fits.items():
            f.save(path)
            text = json.loads(parts(path)[0]["__metadata__"]["model"])["status"]
            found.append(
                f.status is reason
                and lfm_np.Factors.load(path).status is reason
                and text == f"{reason}" == str(reason) == reason.value
                and json.dumps(reason) == f'"{text}"'
                and text in repr(f)
                and whole(f, 2)
            )
    values = [reason.value for reason in fits] == ["converged", "max_iterations", "stopped", "interrupted"]
    return wrong(each=found == [True] * 4, values=values)


def _threads_of_the_system() -> list[str]:
    """Counted by the kernel, not by Python."""
    draw = np.random.default_rng(64)
    cells = sp.csr_array((draw.random((300, 80)) < 0.1).astype(np.float32))
    held = sp.csr_array((draw.random((300, 80)) < 0.1).astype(np.float32))

    def work() -> Any:
        model = lfm_np.als(cells, factors=8, iterations=2, random_state=0, num_threads=6)
        lfm_np.sgd(cells, factors=8, epochs=2, random_state=0, num_threads=5)
        model.recommend(np.arange(300), N=5, num_threads=7)
        model.similar_items(np.arange(80), N=5, num_threads=4)
        return lfm_np.evaluate(model, cells, held, num_threads=4)

    def count() -> int:
        return len(os.listdir("/proc/self/task"))

    one = work()
    before = count()
    two = work()
    deadline = time.monotonic() + 2
    while count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    return wrong(threads=count() <= before, same=one == two)


def _forked_as_lists_are_prepared() -> list[str]:
    """While a thread makes the index and the sums of a result for the first time, children ask the same of it."""
    draw = np.random.default_rng(65)
    U, V = draw.normal(size=(5, 24)), draw.normal(size=(60_000, 24))
    model = Model(lam=0.5)
    row = np.full((1, 60_000), np.nan)
    row[0, [3, 500, 59_999]] = [1.0, 2.0, 3.0]
    new = sp.csr_array(np.nan_to_num(row))
    best = [np.argsort(-(V @ u))[:10].tolist() for u in U]
    solved = model.half(row, V)

    def asks(f: Any) -> bool:
        listed = f.recommend(np.arange(5), N=10).ids.tolist() == best
        return listed and close(f.fold_in_users(new, **model.words).user_factors, solved, 1e-7)

    def alone(f: Any) -> bool:
        signal.alarm(6)
        return asks(f)

    asks(lfm_np.Factors(U, V))
    found = []
    for moment in range(6):
        f = lfm_np.Factors(U, V)
        told: list[bool] = []
        thread = threading.Thread(target=lambda f=f, told=told: told.append(asks(f)))
        thread.start()
        time.sleep(0.004 * moment)
        found.append(child(lambda f=f: alone(f)))
        thread.join()
        found.append(0 if told == [True] else 1)
    return wrong(each=found == [0] * 12)


def _cases() -> Iterator[Case]:
    yield _holds("three processes go on from one state", _three_go_on)
    for schedule in ("adagrad", "inverse"):
        yield _holds(f"an epoch a process, {schedule}", lambda s=schedule: _an_epoch_a_process(s))
    yield _holds("two runs that keep one file", _two_runs_and_one_file)
    yield _holds("pressed in the last sweep, then in the first", _pressed_in_the_last)
    if installed("torch"):
        yield _holds("epochs of torch that Ctrl-C ends with an exception", _torch_epochs)
    yield _holds("a state of a run that diverges again", _diverged_again)
    yield _holds("singular in the first half of the first sweep", _singular_at_once)
    yield _holds("a thousand alarms a second", _alarms)
    yield _holds("seconds between two saves", _seconds_between_saves)
    yield _holds("reasons in text, in a file and back", _why_they_ended)
    yield _holds("threads as the system counts them", _threads_of_the_system)
    yield _holds("forked while lists are prepared", _forked_as_lists_are_prepared)


def cases() -> list[Case]:
    return list(_cases())
