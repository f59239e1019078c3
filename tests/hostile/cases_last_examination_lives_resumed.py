"""Fits that are killed and gone on with, in other forms, words and folders, beside loops in float64."""

from __future__ import annotations

import gc
import io
import os
import resource
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

import lfm_np
from lfm_np import Checkpoint, Factors, Status, StoredMatrix, losses, sampling

from .case import Case, installed
from .cases_last_examination_lives_interrupted import (
    GROUP,
    STARS,
    U0,
    V0,
    M,
    alarm,
    descend,
    descriptors,
    fit,
    fork,
    late,
    stepped,
    swept,
    whole_or_start,
)
from .places import largest_file
from .places import model as drawn
from .working_days import all_scores, best, close, csr, faultless, folder, raised, same, wrong

_holds = faultless(GROUP)


def _copies_of_the_state() -> list[str]:
    """A sweep is saved after its callback, so that the one of sweep j finds j - 1."""
    found: list[str] = []
    with folder() as place:
        path = place / "fit"

        def callback(record: Any, factors: Any) -> None:
            if path.exists():
                shutil.copy(path, place / str(record["iteration"]))

        unbroken = fit(5, checkpoint=path, callback=callback)
        found += wrong(names=sorted(os.listdir(place)) == ["2", "3", "4", "5", "fit"], numbers=swept(unbroken, 5))
        for j in (2, 3, 4, 5):
            if j > 2:
                error = raised(lambda j=j: fit(j - 2, checkpoint=place / str(j)))  # type: ignore[misc]
                found += wrong(fewer=isinstance(error, ValueError) and "iterations" in str(error))
            found += wrong(enough=swept(fit(j - 1, checkpoint=place / str(j)), j - 1))
            found += wrong(bits=same(fit(5, checkpoint=place / str(j), num_threads=j), unbroken))
    return found


def _ends_across_a_break(
    run: Callable[..., Factors], stops: int, tolerance: float, right: Callable[..., bool]
) -> list[str]:
    """Broken off one sweep before it converges; called once more after it has."""
    with folder() as place:
        path = place / "fit"
        at_once = run(60, tolerance=tolerance)
        run(stops - 1, checkpoint=path, num_threads=1)
        broken = run(60, tolerance=tolerance, checkpoint=path, num_threads=3)
        again = run(60, tolerance=tolerance, checkpoint=path)
        ends = [len(one.history) for one in (at_once, broken, again)]
        return wrong(
            sweeps=ends == [stops] * 3,
            converged=at_once.status is broken.status is Status.CONVERGED,
            bits=same(at_once, broken) and same(at_once, again),
            numbers=right(broken, stops),
        )


def _in_other_clothes() -> list[str]:
    """One run over five forms of the same matrix, a sweep in each."""
    X = csr(STARS)
    shuffled = np.random.default_rng(0).permutation(X.nnz)
    coo = X.tocoo()
    wide = sp.csr_array((X.data, X.indices.astype(np.int64), X.indptr.astype(np.int64)), shape=X.shape)
    rows, columns = (part[shuffled] for part in coo.coords)
    with folder() as place:
        path = place / "fit"
        forms = [
            wide,
            sp.coo_array((coo.data[shuffled], (rows, columns)), shape=X.shape),
            lfm_np.Interactions(X, np.arange(40), np.arange(25)),
            StoredMatrix.from_matrix(X, place / "s", dtype=np.float64),
            X.tocsc(),
        ]
        for done, form in enumerate(forms, 1):
            last = fit(done, form, checkpoint=path, num_threads=done)
        return wrong(numbers=swept(last, 5), bits=same(last, fit(5, num_threads=1)), sweeps=len(last.history) == 5)


def _nearly_this_matrix() -> list[str]:
    """A stored zero is no cell of clicks, and one of ratings; a unit in the last place is another value."""
    X = csr(STARS)
    empty = np.argwhere(np.isnan(STARS))[17]
    rows, columns = (np.append(part, at) for part, at in zip(X.tocoo().coords, empty, strict=True))
    zero = sp.coo_array((np.append(X.data, 0.0), (rows, columns)), shape=X.shape).tocsr()
    off = X.copy()
    off.data[31] = np.nextafter(off.data[31], np.inf)
    with folder() as place:
        fit(2, checkpoint=place / "clicks")
        fit(2, checkpoint=place / "ratings", weighting="ratings", unobserved_weight=None)
        other = raised(lambda: fit(4, off, checkpoint=place / "clicks"))
        rated = raised(lambda: fit(4, zero, checkpoint=place / "ratings", weighting="ratings", unobserved_weight=None))
        return wrong(
            stored=zero.nnz == X.nnz + 1,
            none=swept(fit(4, zero, checkpoint=place / "clicks"), 4),
            other=isinstance(other, ValueError) and ("X" in str(other) or "matrix" in str(other)),
            rated=isinstance(rated, ValueError) and ("X" in str(rated) or "matrix" in str(rated)),
        )


def _other_words(run: Callable[..., Factors], changes: dict[str, Any]) -> list[str]:
    """Each is refused by its name, and the file stays; types that mean the same are the same."""
    with folder() as place:
        path = place / "fit"
        run(path)
        before, found = path.read_bytes(), []
        for name, value in changes.items():
            error = raised(lambda words={name: value}: run(path, **words))  # type: ignore[misc]
            if not isinstance(error, ValueError) or name not in str(error):
                found.append(f"{name}: {error!r:.200}")
        return found + wrong(bytes=path.read_bytes() == before, listing=os.listdir(place) == ["fit"])


def _als_of(path: Any, **words: Any) -> Factors:
    given = {"factors": 4, "solver": "exact", "iterations": 2, "random_state": 0, "num_threads": 2, **words}
    return lfm_np.als(csr(STARS), checkpoint=path, **given)


def _sgd_of(path: Any, loss: Any = None, **words: Any) -> Factors:
    given = {
        "negatives": 2, "factors": 4, "schedule": "adagrad", "biases": "item", "epochs": 2, "random_state": 0, **words,
    }  # fmt: skip
    return lfm_np.sgd(csr(STARS), loss or losses.MarginHinge(), checkpoint=path, **given)


def _damaged_states() -> list[str]:
    with folder() as place:
        path, found = place / "run.state", []
        descend(3, checkpoint=path)
        good = path.read_bytes()
        step = len(good) // 40
        flipped = [good[:at] + bytes([good[at] ^ 16]) + good[at + 1 :] for at in range(0, len(good), step)]
        cut = [good[:size] for size in (1, 7, 8, 9, len(good) // 2, len(good) - 1)]
        for number, bad in enumerate([*flipped, *cut, good + b"\0"]):
            path.write_bytes(bad)
            error = raised(lambda: descend(5, checkpoint=path))
            if not isinstance(error, (ValueError, OSError)) or "run.state" not in str(error):
                found.append(f"{number}: {error!r:.200}")
            if path.read_bytes() != bad:
                found.append(f"{number}: written over")
        path.write_bytes(good)
        wrong_kind = raised(lambda: fit(5, checkpoint=path))
        no_model = raised(lambda: Factors.load(path))
        drawn().save(place / "model")
        no_state = raised(lambda: fit(5, checkpoint=place / "model"))
        return found + wrong(
            kind=isinstance(wrong_kind, ValueError),
            model=isinstance(no_model, ValueError) and "run.state" in str(no_model),
            state=isinstance(no_state, ValueError) and "model" in str(no_state),
            untouched=path.read_bytes() == good and same(Factors.load(place / "model"), drawn()),
            numbers=stepped(descend(5, checkpoint=path), 5),
        )


def _killed_for_its_time() -> list[str]:
    """A second of CPU is all that the process has; another goes on with what it left."""
    with folder() as place:
        path = place / "fit"
        fit(2)

        def work() -> None:
            resource.setrlimit(resource.RLIMIT_CPU, (1, 3))
            signal.signal(signal.SIGXCPU, signal.SIG_DFL)
            fit(10**6, checkpoint=path)

        status = fork(work)
        done: list[int] = []

        def stop(record: Any, factors: Any) -> None:
            done.append(record["iteration"])
            raise StopIteration

        rest = fit(10**6, checkpoint=path, callback=stop)
        return wrong(
            killed=status == -signal.SIGXCPU,
            further=done[0] > 1 and [record["iteration"] for record in rest.history] == list(range(1, done[0] + 1)),
            whole=whole_or_start(rest),
            bits=same(rest, fit(done[0], num_threads=1)),
            listing=os.listdir(place) == ["fit"],
        )


def _no_room_for_a_state() -> list[str]:
    with folder() as place:
        path = place / "fit"
        fit(2, checkpoint=path)
        before, found = path.read_bytes(), []
        for size in (0, 1, 100, len(before) // 2, len(before) - 1):
            with largest_file(size):
                error = raised(lambda: fit(5, checkpoint=path))
            found += wrong(error=isinstance(error, OSError), old=path.read_bytes() == before)
        found += wrong(listing=os.listdir(place) == ["fit"])
        rest = fit(5, checkpoint=path)
        return found + wrong(numbers=swept(rest, 5), bits=same(rest, fit(5)))


def _by_way_of_another_folder() -> list[str]:
    """Relative paths are those of the moment of the call."""
    here = Path.cwd()
    with folder() as place:
        (place / "one").mkdir()
        (place / "two").mkdir()
        os.chdir(place / "one")
        try:
            StoredMatrix.from_matrix(csr(STARS), "s", dtype=np.float64)
            stored = StoredMatrix("s", factors_in=".")
            found = fit(3, stored, checkpoint="fit", callback=lambda *_: os.chdir(place / "two"))
            epochs = descend(3, checkpoint=Checkpoint("../one/sgd"), callback=lambda *_: os.chdir(place))
            listing = [sorted(os.listdir(place / name)) for name in ("one", "two")]
        finally:
            os.chdir(here)
        return wrong(
            listing=listing == [["fit", "s", "sgd"], []],
            numbers=swept(found, 3) and stepped(epochs, 3),
            rest=swept(fit(5, checkpoint=place / "one" / "fit"), 5),
            epochs=stepped(descend(5, checkpoint=place / "one" / "sgd"), 5),
        )


def _emptied_records() -> list[str]:
    """J falls by 2.1 % in the sixth sweep and by 1.6 % in the seventh."""

    def callback(record: Any, factors: Any) -> None:
        record.clear()
        record["objective"] = 1e-300
        record["mine"] = [1.5, None]

    factors = fit(50, tolerance=0.02, callback=callback)
    V, after, half = V0, [], []
    for _ in range(7):
        U = M.half(STARS, V)
        half.append(M.objective(STARS, U, V))
        V = M.half(STARS.T, U)
        after.append(M.objective(STARS, U, V))
    history = factors.history
    return wrong(
        status=factors.status is Status.CONVERGED,
        numbers=[record["iteration"] for record in history] == [1, 2, 3, 4, 5, 6, 7],
        after=close([record["objective"] for record in history], after),
        half=close([record["objective_users"] for record in history], half),
        added=all(record["mine"] == [1.5, None] for record in history),
        seconds=all(record["seconds"] >= 0 for record in history),
    )


def _uses_cut_short() -> list[str]:
    """A watchdog in what a first use prepares and keeps; the next use is right."""
    draw, found, cut = np.random.default_rng(3), [], 0
    U, V = draw.normal(size=(3000, 32)), draw.normal(size=(1500, 32))
    everybody, some = np.arange(3000), np.arange(0, 3000, 150)
    S, length = U[some] @ V.T, np.linalg.norm(V, axis=1)
    mine = [best(row, np.ones(1500, bool), 5) for row in S]
    alike = [best(row, np.ones(1500, bool), 1) for row in V[:9] @ V.T / np.outer(length[:9], length)]
    for moment in range(12):
        factors, fitted = Factors(U.copy(), V.copy()), fit(2)
        for use in (
            lambda factors=factors: factors.recommend(everybody, N=5),
            lambda factors=factors: factors.similar_items(np.arange(1500), N=1),
            lambda fitted=fitted: [fitted.fold_in_users(csr(STARS)) for _ in range(9)],
        ):
            try:
                with alarm(3e-4 * (moment + 1), late):
                    use()
            except TimeoutError:
                cut += 1
        found += wrong(
            lists=factors.recommend(some, N=5).ids.tolist() == mine,
            alike=factors.similar_items(np.arange(9), N=1).ids.tolist() == alike,
            folded=close(fitted.fold_in_users(csr(STARS)).user_factors, M.half(STARS, fitted.item_factors)),
        )
    return found + wrong(cut=cut > 0)


def _tables_cut_short() -> list[str]:
    """The file is there, whole, or is not; the next one that is written leaves nothing beside it.

    Arrow closes a file that it read some time later, so that it gets the bytes.
    """
    from pyarrow import parquet

    data, factors, found = lfm_np.Interactions(csr(STARS), np.arange(40), np.arange(25)), fit(2), []
    with folder() as place:
        path = place / "r"
        lfm_np.recommend_parquet(factors, data, path, N=2)
        rows = {parquet.read_table(io.BytesIO(path.read_bytes())).num_rows}
        before = descriptors()
        for moment in range(20):
            try:
                with alarm(5e-4 * (moment + 1), late):
                    for _ in range(99):
                        lfm_np.recommend_parquet(factors, data, path, N=3)
                        lfm_np.recommend_parquet(factors, data, path, N=2)
            except TimeoutError:
                pass
            if path.exists():
                rows.add(parquet.read_table(io.BytesIO(path.read_bytes())).num_rows)
        lfm_np.recommend_parquet(factors, data, path, N=4)
        table = parquet.read_table(io.BytesIO(path.read_bytes())).to_pydict()
        S = all_scores(factors)
        found += wrong(
            rows=rows <= {80, 120},
            last=table["item"] == [i for row in S for i in best(row, np.ones(25, bool), 4)],
            ranks=table["rank"] == [1, 2, 3, 4] * 40,
            listing=os.listdir(place) == ["r"],
        )
        gc.collect()
        return found + wrong(files=descriptors() == before)


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    yield _holds("copies of the state that callbacks take", _copies_of_the_state)
    # J falls by 1.1 % in the eighth sweep and by 0.86 % in the ninth
    yield _holds("sweeps that converge across a break", lambda: _ends_across_a_break(fit, 9, 0.01, swept))
    # the loss falls by 5.8 % or more in each epoch from the second to the 40th, and by 5.52 % in the next
    yield _holds("epochs that converge across a break", lambda: _ends_across_a_break(descend, 41, 0.056, stepped))
    yield _holds("a run over five forms of one matrix", _in_other_clothes)
    yield _holds("nearly the same matrix", _nearly_this_matrix)
    changes = {
        "factors": 5, "regularization": 0.02, "alpha": 2.0, "unobserved_weight": 0.5, "regularization_exponent": 0.5,
        "weighting": "confidence", "solver": "cg", "init": (U0, V0), "dtype": "float64", "random_state": 1,
    }  # fmt: skip
    yield _holds("ten other arguments of sweeps, each by its name", lambda: _other_words(_als_of, changes))
    others = {
        "sampler": sampling.Popularity(0.5), "negatives": 3, "factors": 5, "learning_rate": 0.06, "schedule": "inverse",
        "regularization": {"user": 0.01}, "biases": False, "dtype": "float64", "random_state": 1,
        "loss": losses.MarginHinge(1.5),
    }  # fmt: skip
    yield _holds("ten other arguments of epochs, each by its name", lambda: _other_words(_sgd_of, others))
    yield _holds("states that were damaged, and files of other kinds", _damaged_states)
    yield _holds("a process that has a second of CPU", _killed_for_its_time)
    yield _holds("no room for a state", _no_room_for_a_state)
    yield _holds("callbacks that go to another folder", _by_way_of_another_folder)
    yield _holds("a callback that empties its record", _emptied_records)
    yield _holds("a watchdog over first uses", _uses_cut_short)
    if installed("pyarrow", "narwhals"):
        yield _holds("a watchdog over tables", _tables_cut_short)
