"""What happens to operators' processes: kills, alarms, Ctrl-C, crowds."""

from __future__ import annotations

import functools
import json
import math
import os
import signal
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

import lfm_np

from .case import Case, Group
from .working_days import Model, all_scores, close, csr, faultless, folder, raised, same, stars, start, wrong

_GROUP = Group("operators")
_holds = faultless(_GROUP)
IALS = Model("ials", 0.5, 0.3, 0.2)


def _begun(work: Callable[[], list[str]]) -> tuple[int, int]:
    """A fork of this process that writes into a pipe what ``work()`` finds wrong; there warnings are only warnings."""
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pid = os.fork()
        if not pid:
            try:
                with np.errstate(all="warn"):
                    found = work()
            except BaseException as error:
                found = [f"{type(error).__name__}: {error}"[:500]]
            os.write(writing, json.dumps(found).encode())
            os._exit(0)
    os.close(writing)
    return pid, reading


def _ended(pid: int, reading: int) -> list[str]:
    with open(reading, "rb") as pipe:
        text = pipe.read()
    os.waitpid(pid, 0)
    return list(json.loads(text)) if text else ["died"]


def apart(work: Callable[[], list[str]]) -> list[str]:
    return _ended(*_begun(work))


def _large() -> sp.csr_array:
    return sp.random_array((3000, 300), density=0.03, rng=np.random.default_rng(3), format="csr", dtype=np.float32)


def _is_stored(place: Path, X: sp.csr_array) -> bool:
    lfm_np.StoredMatrix(place)
    found = [np.load(place / f"rows.{name}.npy") for name in ("data", "indices", "indptr")]
    return all(map(np.array_equal, found, (X.data, X.indices, X.indptr)))


def _killed_builds() -> list[str]:
    """Builds that SIGALRM ends: the folder is there and whole, or not there and built by the next call."""
    X, bad = _large(), []
    for delay in (0.002, 0.005, 0.01, 0.02, 0.04):
        with folder() as place:

            def build(place: Path = place, delay: float = delay) -> list[str]:
                signal.signal(signal.SIGALRM, signal.SIG_DFL)
                signal.setitimer(signal.ITIMER_REAL, delay)
                lfm_np.StoredMatrix.from_matrix(X, place / "m")
                return []

            apart(build)
            if not (place / "m").exists():
                lfm_np.StoredMatrix.from_matrix(X, place / "m")
            names = [path.name for path in place.iterdir()]
            if not _is_stored(place / "m", X) or names != ["m"]:
                bad.append(f"{delay}: {names}")
    return bad


def _builders_at_once() -> list[str]:
    """Of four processes that build one folder at once at least one does, the others say that it is there."""
    X = _large()
    with folder() as place:

        def build() -> list[str]:
            try:
                lfm_np.StoredMatrix.from_matrix(X, place / "matrix", num_threads=1)
            except (OSError, ValueError) as error:
                return [f"{error}"]
            return []

        found = [_ended(*one) for one in [_begun(build) for _ in range(4)]]
        names = [path.name for path in place.iterdir()]
        facts = {"whole": _is_stored(place / "matrix", X), "left": names == ["matrix"]}
    others = [said[0] for said in found if said]
    return wrong(one=len(others) < 4, told=all("matrix" in text for text in others), **facts)


def small_fit(X: np.ndarray, k: int, **words: Any) -> Any:
    init = start(len(X), len(X.T), k)
    return lfm_np.als(csr(X), factors=k, init=init, dtype="float64", **{**IALS.words, **words})


def looped_scores(X: np.ndarray, k: int, times: int) -> np.ndarray:
    U, V = IALS.sweeps(X, start(len(X), len(X.T), k)[1], times)
    return U @ V.T


def _at(sweep: int, act: Callable[[], Any]) -> Callable[[Any, Any], None]:
    """A callback that acts after one sweep."""
    count = [0]

    def callback(record: Any, factors: Any) -> None:
        count[0] += 1
        if count[0] == sweep:
            act()

    return callback


def _send(number: int) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), number)


def _goes_on(X: np.ndarray, k: int, path: Path, left: tuple[int, ...]) -> dict[str, bool]:
    """The fit of five sweeps goes on from the file, with so many sweeps to go, to the scores of loops."""
    went: list[Any] = []
    fit = small_fit(X, k, iterations=5, checkpoint=path, callback=lambda record, factors: went.append(record))
    return {
        "scores": close(all_scores(fit), looped_scores(X, k, 5)),
        "went": len(went) in left,
        "all": len(fit.history) == 5,
    }


def _killed_fit() -> list[str]:
    X = stars(22, 13, seed=2)
    with folder() as place:

        def fit() -> list[str]:
            small_fit(X, 3, iterations=5, checkpoint=place / "c", callback=_at(3, _send(signal.SIGKILL)))
            return []

        died = apart(fit) == ["died"]
        facts = _goes_on(X, 3, place / "c", (2, 3))
        return wrong(died=died, left=[path.name for path in place.iterdir()] == ["c"], **facts)


def _killed_descent() -> list[str]:
    """One cell: every step can be foretold, those after the kill too."""
    u0, v0, x, eta, losses = 0.7, -0.4, 2.5, 0.2, []
    u, v = u0, v0
    for epoch in range(6):
        e = u * v - x
        losses.append(e * e / 2)
        rate = eta / (1 + epoch / 10)
        u, v = u - rate * (e * v + 0.1 * u), v - rate * (e * u + 0.3 * v)
    words: dict[str, Any] = {
        "sampler": None, "factors": 1, "learning_rate": eta, "schedule": "inverse", "dtype": "float64",
        "random_state": 0, "regularization": {"user": 0.1, "item": 0.3}, "init": (np.array([[u0]]), np.array([[v0]])),
    }  # fmt: skip
    X = sp.csr_array([[x]])
    with folder() as place:
        words["checkpoint"] = place / "c"

        def fit() -> list[str]:
            lfm_np.sgd(X, lfm_np.losses.Squared(), epochs=6, callback=_at(4, _send(signal.SIGKILL)), **words)
            return []

        died = apart(fit) == ["died"]
        fit_ = lfm_np.sgd(X, lfm_np.losses.Squared(), epochs=6, **words)
    return wrong(
        died=died,
        score=math.isclose(float(all_scores(fit_)[0, 0]), u * v, rel_tol=1e-12),
        losses=close([record["sampled_loss"] for record in fit_.history], losses, 1e-12),
    )


def _pressed(raises: bool) -> list[str]:
    """Ctrl-C in the second sweep of a fit that would save in an hour: the file has both sweeps all the same."""
    X = stars(22, 13, seed=4)
    with folder() as place:
        words: dict[str, Any] = {
            "iterations": 5,
            "callback": _at(2, _send(signal.SIGINT)),
            "raise_on_interrupt": raises,
        }
        words["checkpoint"] = lfm_np.Checkpoint(place / "c", 3600)
        facts = {}
        if raises:
            facts["raised"] = isinstance(raised(lambda: small_fit(X, 2, **words)), KeyboardInterrupt)
        else:
            fit = small_fit(X, 2, **words)
            facts["status"] = fit.status == "interrupted" and len(fit.history) == 2
            facts["half"] = close(all_scores(fit), looped_scores(X, 2, 2))
        return wrong(**facts, **_goes_on(X, 2, place / "c", (3,)))


def _terminated() -> list[str]:
    """A service whose SIGTERM handler leaves, in the midst of a fit."""

    def leave(*_: Any) -> None:
        raise SystemExit(143)

    X = stars(22, 13, seed=6)
    before = signal.signal(signal.SIGTERM, leave)
    try:
        with folder() as place:
            words: dict[str, Any] = {"iterations": 5, "checkpoint": place / "c"}
            error = raised(lambda: small_fit(X, 4, callback=_at(3, _send(signal.SIGTERM)), **words))
            facts = _goes_on(X, 4, place / "c", (2, 3))
            left = [path.name for path in place.iterdir()]
    finally:
        signal.signal(signal.SIGTERM, before)
    return wrong(leaves=isinstance(error, SystemExit) and error.code == 143, left=left == ["c"], **facts)


def _handlers() -> list[str]:
    """Whatever SIGINT meant before a fit it means after it, and after one that failed."""
    X, found = stars(9, 7), {}
    before = signal.getsignal(signal.SIGINT)

    def own(*_: Any) -> None: ...

    try:
        for name, handler in (("ignored", signal.SIG_IGN), ("own", own), ("deadly", signal.SIG_DFL)):
            signal.signal(signal.SIGINT, handler)
            scores = all_scores(small_fit(X, 2, iterations=2))
            raised(lambda: small_fit(X, 2, iterations=2, callback=_at(1, lambda: [][0])))
            found[name] = signal.getsignal(signal.SIGINT) is handler and close(scores, looped_scores(X, 2, 2))
    finally:
        signal.signal(signal.SIGINT, before)
    return wrong(**found)


def made(seed: int) -> lfm_np.Factors:
    draw = np.random.default_rng(seed)
    return lfm_np.Factors(draw.normal(size=(40, 3)), draw.normal(size=(15, 3)))


def _alarms() -> list[str]:
    """A watchdog rings at forty moments of a job: files are of the run before or of this one, no others are there."""
    import pyarrow.parquet as pq

    def ring(*_: Any) -> None:
        raise TimeoutError("watchdog")

    bad, rung = [], 0
    before = signal.signal(signal.SIGALRM, ring)
    try:
        with folder() as place:
            pairs = np.argwhere(~np.isnan(stars(40, 15))).tolist()
            (place / "x.csv").write_text("user,item\n" + "".join(f"{u},{i}\n" for u, i in pairs))

            def job(n: int, delay: float = 0.0) -> None:
                signal.setitimer(signal.ITIMER_REAL, delay)
                try:
                    data = lfm_np.Interactions.from_csv(place / "x.csv")
                    lfm_np.als(data, factors=2, iterations=2, random_state=0)
                    made(n).save(place / "model")
                    lfm_np.recommend_parquet(made(n), data, place / "lists", N=2)
                finally:
                    signal.setitimer(signal.ITIMER_REAL, 0)

            job(0)
            last = 0
            for n in range(1, 41):
                try:
                    job(n, n * 5e-4)
                except TimeoutError:
                    rung += 1
                found = lfm_np.Factors.load(place / "model")
                now = next((seed for seed in (last, n) if same(found, made(seed))), None)
                names = {path.name for path in place.iterdir()}
                if now is None or names != {"x.csv", "model", "lists"} or pq.read_table(place / "lists").num_rows != 80:
                    bad.append(f"{n}: {now} {names}")
                last = last if now is None else now
            job(99)
            end = same(lfm_np.Factors.load(place / "model"), made(99))
    finally:
        signal.signal(signal.SIGALRM, before)
    return bad + wrong(rung=rung > 0, end=end)


def _writers_at_once() -> list[str]:
    """Four processes write one model and one table, five times each: all can, and the last one's is there, whole."""
    import pyarrow.parquet as pq

    data = lfm_np.Interactions(csr(stars(40, 15)), np.arange(40), np.arange(15))
    with folder() as place:

        def write(n: int) -> list[str]:
            for _ in range(5):
                made(n).save(place / "model")
                lfm_np.recommend_parquet(made(n), data, place / "lists", N=15)
            return []

        found = [_ended(*one) for one in [_begun(functools.partial(write, n)) for n in range(4)]]
        model, table = lfm_np.Factors.load(place / "model"), pq.read_table(place / "lists")
        names = {path.name for path in place.iterdir()}
    firsts = table["item"].to_numpy()[::15].tolist()
    mine = [np.argmax(all_scores(made(n)), axis=1).tolist() for n in range(4)]
    return [said for one in found for said in one] + wrong(
        model=any(same(model, made(n)) for n in range(4)), table=firsts in mine, left=names == {"model", "lists"}
    )


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    yield _holds("builds that are killed", _killed_builds)
    yield _holds("four builders of one folder", _builders_at_once)
    yield _holds("a fit that is killed goes on", _killed_fit)
    yield _holds("a descent that is killed goes on", _killed_descent)
    yield _holds("Ctrl-C, and an hour between two saves", lambda: _pressed(False))
    yield _holds("Ctrl-C that raises, and an hour between two saves", lambda: _pressed(True))
    yield _holds("SIGTERM leaves a fit", _terminated)
    yield _holds("handlers of SIGINT", _handlers)
    yield _holds("a watchdog over a job", _alarms)
    yield _holds("four writers of one file", _writers_at_once)
