"""Working days that go wrong half way: changed data, other arguments, full disks, alarms, and what is left then."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import lfm_np
from lfm_np import losses

from .case import Case, Group
from .working_days import NAN, all_scores, csr, faultless, folder, raised, same, stars, tells, wrong

_GROUP = Group("day gone wrong")
_day = faultless(_GROUP)
WORDS: dict[str, Any] = {"factors": 4, "regularization": 0.5, "random_state": 3}
BAD = (TypeError, ValueError)


def _als(X: Any, iterations: int = 4, **words: Any) -> Any:
    return lfm_np.als(X, **{"iterations": iterations, **WORDS, **words})


def _another_matrix(change: Callable[[Any], Any]) -> list[str]:
    X = csr(stars(), np.float32)
    with folder() as place:
        _als(X, 2, checkpoint=place / "night")
        before = (place / "night").read_bytes()
        error = raised(lambda: _als(change(X.copy()), 4, checkpoint=place / "night"))
        after, on = (place / "night").read_bytes(), _als(X, 4, checkpoint=place / "night")
    return wrong(
        kind=isinstance(error, BAD),
        told=tells(error, "night", "matrix|another x|x "),
        kept=before == after,
        on=same(on, _als(X, 4)),
    )


def _one_more(X: Any) -> Any:
    X.data[7] += 1
    return X


def _same_matrix_elsewhere() -> list[str]:
    X = csr(stars(), np.float32)
    whole, found = _als(X, 5), []
    stirred = X.tocoo()
    order = np.random.default_rng(0).permutation(stirred.nnz)
    stirred = type(stirred)((stirred.data[order], tuple(c[order] for c in stirred.coords)), shape=X.shape)
    shapes = {
        "CSC": X.tocsc(),
        "float64": X.astype(np.float64),
        "stirred COO": stirred,
        "int8 LIL": X.astype(np.int8).tolil(),
    }
    for name, other in shapes.items():
        with folder() as place:
            _als(X, 2, checkpoint=place / "night")
            found += wrong(**{name: same(_als(other, 5, checkpoint=place / "night"), whole)})
    return found


def _other_argument(word: str, value: Any) -> list[str]:
    X = csr(stars(), np.float32)
    with folder() as place:
        _als(X, 2, checkpoint=place / "night")
        before = (place / "night").read_bytes()
        error = raised(lambda: _als(X, 4, checkpoint=place / "night", **{word: value}))
        kept = (place / "night").read_bytes() == before
    return wrong(kind=isinstance(error, BAD), told=tells(error, word), kept=kept)


def _callback_fails() -> list[str]:
    X = csr(stars(), np.float32)

    def watch(record: dict[str, Any], factors: Any) -> None:
        record["auc"] = 1 / (3 - record["iteration"])

    with folder() as place:
        error = raised(lambda: _als(X, 6, callback=watch, checkpoint=place / "night"))
        on = _als(X, 6, checkpoint=place / "night")
        names = [path.name for path in place.iterdir()]
    return wrong(kind=type(error) is ZeroDivisionError, on=same(on, _als(X, 6)), files=names == ["night"])


def _unspeakable_record() -> list[str]:
    X = csr(stars(), np.float32)

    def watch(record: dict[str, Any], factors: Any) -> None:
        record["picture"] = object()

    fit = _als(X, 2, callback=watch)
    with folder() as place:
        _als(X, 1).save(place / "model")
        before = (place / "model").read_bytes()
        error = raised(lambda: fit.save(place / "model"))
        after, names = (place / "model").read_bytes(), [path.name for path in place.iterdir()]
    return wrong(
        kind=type(error) is TypeError, told=tells(error, "picture|history"), kept=before == after and len(names) == 1
    )


def _full_disk(make: Callable[[Any], Any]) -> list[str]:
    small, large = csr(stars(), np.float32), csr(stars(300, 200, share=0.05), np.float32)
    with folder() as place:
        path = place / "kept"
        _als(small, 1).save(path)
        before = path.read_bytes()
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 100, hard))
        try:
            error = raised(lambda: make(large)(path))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        after, names = path.read_bytes(), [p.name for p in place.iterdir()]
        again = lfm_np.Factors.load(path)
    return wrong(
        kind=isinstance(error, OSError),
        kept=before == after,
        nothing_beside=names == ["kept"],
        loads=again.shape == (30, 20),
    )


def _night_on_a_full_disk() -> list[str]:
    X = csr(stars(300, 200, share=0.05), np.float32)
    with folder() as place:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        _als(X, 2, checkpoint=place / "night")
        before = (place / "night").read_bytes()
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
        try:
            error = raised(lambda: _als(X, 5, checkpoint=place / "night"))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        kept = (place / "night").read_bytes() == before
        on = _als(X, 5, checkpoint=place / "night")
    return wrong(kind=isinstance(error, OSError), kept=kept, on=same(on, _als(X, 5)))


def _saved_into(kind: str) -> list[str]:
    fit = _als(csr(stars(), np.float32), 1)
    with folder() as place:
        path = place / "target"
        if kind == "fifo":
            os.mkfifo(path)
        elif kind == "folder":
            path.mkdir()
            (path / "precious").write_text("1")
        else:
            path = place / "nowhere" / "target"
        error = raised(lambda: fit.save(path))
        return wrong(
            told=tells(error, "target|nowhere"),
            kind=isinstance(error, ValueError if kind == "fifo" else OSError),
            kept=kind != "folder" or (path / "precious").read_text() == "1",
        )


def _cut_checkpoint(share: float) -> list[str]:
    X = csr(stars(), np.float32)
    with folder() as place:
        _als(X, 2, checkpoint=place / "night")
        raw = (place / "night").read_bytes()
        (place / "night").write_bytes(raw[: int(len(raw) * share)])
        error = raised(lambda: _als(X, 4, checkpoint=place / "night"))
        kept = (place / "night").read_bytes() == raw[: int(len(raw) * share)]
    return wrong(kind=isinstance(error, ValueError), told=tells(error, "night"), kept=kept)


def _files_mixed_up() -> list[str]:
    X = csr(stars(), np.float32)
    with folder() as place:
        night, model = place / "night", place / "model"
        _als(X, 2, checkpoint=night).save(model)
        errors = {
            "load of a checkpoint": raised(lambda: lfm_np.Factors.load(night)),
            "model as a checkpoint": raised(lambda: _als(X, 4, checkpoint=model)),
            "als's checkpoint in sgd": raised(lambda: lfm_np.sgd(X, factors=4, checkpoint=night)),
            "load of a folder": raised(lambda: lfm_np.Factors.load(place)),
        }
        ok = lfm_np.Factors.load(model).shape == (30, 20)
    facts = {name: isinstance(e, (ValueError, OSError)) and tells(e, "night|model|/") for name, e in errors.items()}
    return wrong(model=ok, **facts)


def _checkpoint_removed() -> list[str]:
    X = csr(stars(), np.float32)
    with folder() as place:
        fit = _als(X, 4, checkpoint=place / "night", callback=lambda r, f: (place / "night").unlink(missing_ok=True))
        on = _als(X, 6, checkpoint=place / "night")
        return wrong(bits=same(fit, _als(X, 4)), on=same(on, _als(X, 6)), there=(place / "night").exists())


def _interrupted(raising: bool, solver: str) -> list[str]:
    X = csr(stars(), np.float32)

    def press(record: dict[str, Any], factors: Any) -> None:
        if record["iteration"] == 2:
            os.kill(os.getpid(), signal.SIGINT)

    def fit(n: int, **words: Any) -> Any:
        if solver == "sgd":
            return lfm_np.sgd(X, losses.BPR(), epochs=n, **{**WORDS, **words})
        return _als(X, n, solver=solver, **words)

    with folder() as place:
        words = {"callback": press, "raise_on_interrupt": raising, "checkpoint": place / "night"}
        if raising:
            error, done = raised(lambda: fit(6, **words)), None
        else:
            error, done = None, fit(6, **words)
        on, whole = fit(6, checkpoint=place / "night"), fit(6)
    return wrong(
        raised=not raising or type(error) is KeyboardInterrupt,
        status=raising or done.status is lfm_np.Status.INTERRUPTED,
        last_whole=raising or (len(done.history) in (2, 3) and same(done, fit(len(done.history)))),
        on=same(on, whole) and on.status is lfm_np.Status.MAX_ITERATIONS,
        handler=signal.getsignal(signal.SIGINT) is signal.default_int_handler,
    )


def _watchdog() -> list[str]:
    X = csr(stars(300, 200, share=0.05), np.float32)

    def late(number: int, frame: Any) -> None:
        raise TimeoutError("the watchdog")

    old = signal.signal(signal.SIGALRM, late)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.15)
        error = raised(lambda: _als(X, 1_000_000))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
    return wrong(kind=type(error) is TimeoutError and str(error) == "the watchdog", after=same(_als(X, 2), _als(X, 2)))


def _diverged() -> list[str]:
    X = csr(stars(40, 25) * 100, np.float32)
    words: dict[str, Any] = {"sampler": None, "factors": 4, "random_state": 0}
    with folder() as place:
        error = raised(
            lambda: lfm_np.sgd(X, losses.Squared(), learning_rate=50.0, epochs=50, checkpoint=place / "c", **words)
        )
        second = (
            raised(lambda: lfm_np.sgd(X, losses.Squared(), learning_rate=1e-4, checkpoint=place / "c", **words))
            if (place / "c").exists()
            else ValueError("learning_rate")
        )
        kept = getattr(error, "factors", None)
        if kept is not None:
            kept.save(place / "before")
            lfm_np.Factors.load(place / "before")
    return wrong(
        kind=isinstance(error, lfm_np.SolverError),
        told=tells(error, "epoch", "learning_rate"),
        finite=kept is None or bool(np.isfinite(all_scores(kept).astype(np.float64)).all()),
        second=isinstance(second, BAD) and tells(second, "learning_rate"),
    )


def _singular_keeps_factors() -> list[str]:
    X = np.full((6, 5), NAN)
    X[:, 0] = X[0, :] = 2.0
    error = raised(
        lambda: lfm_np.als(csr(X), factors=4, weighting="confidence", unobserved_weight=0.0, regularization=0.0)
    )
    kept = getattr(error, "factors", None)
    return wrong(
        kind=isinstance(error, lfm_np.SolverError),
        told=tells(error, "row|user|item|column", "regularization"),
        finite=kept is None or bool(np.isfinite(kept.item_factors).all()),
    )


def _old_plan_new_data() -> Iterator[Case]:
    X = csr(stars(), np.float32)
    grown = csr(np.hstack([stars(), stars(30, 1)]), np.float32)
    ask = lambda f: lambda: f(_als(X, 1))  # noqa: E731
    data = lfm_np.Interactions.from_arrays(["ann", "bob"], [3, 4])
    for name, call, words in (
        ("recommend with seen of one more item", ask(lambda m: m.recommend(0, seen=grown)), ("seen", "20|21")),
        ("recommend with the seen rows of one user", ask(lambda m: m.recommend([4], seen=X[[4]])), ("seen",)),
        ("evaluate on a test part of one more item", ask(lambda m: lfm_np.evaluate(m, X, grown)), ("test",)),
        (
            "evaluate where all test items were in training",
            ask(lambda m: lfm_np.evaluate(m, X, X)),
            ("test|candidate",),
        ),
        ("evaluate by an unknown metric", ask(lambda m: lfm_np.evaluate(m, None, X, ["ndgc@10"])), ("ndgc@10",)),
        ("fold in over one more item", ask(lambda m: m.fold_in_users(grown)), ("20|21",)),
        ("update with a gap", ask(lambda m: m.update(X[[0, 1]], users=[30, 32])), ("users", "gap|follow|31")),
        ("update one user twice", ask(lambda m: m.update(X[[0, 1]], users=[3, 3])), ("users", "3")),
        ("update more rows than users", ask(lambda m: m.update(X[[0, 1]], users=[3])), ("users|row|shape",)),
        ("recommend user -1", ask(lambda m: m.recommend(-1)), ("users", "-1")),
        (
            "recommend a boolean mask of users",
            ask(lambda m: m.recommend(np.ones(30, bool))),
            ("users", "bool|integer|mask"),
        ),
        ("ids of a list that ran short", lambda: data.item_ids([0, -1]), ("missing|-1",)),
        ("rows of an unknown user", lambda: data.rows_of(["ann", "eve"]), ("eve",)),
        ("split by time without times", lambda: data.split("time", at=3), ("timestamp|time",)),
        ("split off everything", lambda: data.split("random", test_fraction=1.0), ("test_fraction", "1")),
        ("a year as memory", lambda: lfm_np.estimate_memory(10, 10, 101), ("nnz|cells", "101|100")),
    ):
        yield _GROUP.refused(name, call, *words)
    yield _GROUP.refused(
        "factors beyond any memory",
        lambda: lfm_np.als(X, factors=2**40),
        "factors|memory|bytes|gib|gb",
        kind=(MemoryError, ValueError),
    )


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    changes: dict[str, Callable[[Any], Any]] = {
        "a count changed": _one_more,
        "users in another order": lambda X: X[::-1],
        "an item added without cells": lambda X: csr(np.hstack([stars(), np.full((30, 1), NAN)]), np.float32),
        "times two": lambda X: X * 2,
    }
    for name, change in changes.items():
        yield _day(f"resumed with {name}", lambda c=change: _another_matrix(c))
    yield _day("resumed with the same matrix in other formats", _same_matrix_elsewhere)
    for word, value in {
        "alpha": 1.5, "regularization": 0.5000001, "factors": 5, "weighting": "ials", "random_state": 4,
        "dtype": "float64", "iterations": 1, "unobserved_weight": 0.9,
    }.items():  # fmt: skip
        yield _day(f"resumed with another {word}", lambda w=word, v=value: _other_argument(w, v))
    yield _day("a callback divides by zero, and the run goes on", _callback_fails)
    yield _day("a record that JSON cannot hold", _unspeakable_record)
    yield _day("a larger model into a full disk", lambda: _full_disk(lambda X: _als(X, 1).save))
    yield _day("a checkpoint on a full disk", _night_on_a_full_disk)
    for kind in ("fifo", "folder", "no folder"):
        yield _day(f"saved into a {kind}", lambda k=kind: _saved_into(k))
    for share in (0.0, 0.5):
        yield _day(f"a checkpoint cut to {share}", lambda s=share: _cut_checkpoint(s))
    yield _day("files mixed up", _files_mixed_up)
    yield _day("the checkpoint removed by a callback", _checkpoint_removed)
    for raising, solver in ((False, "exact"), (True, "exact"), (False, "sgd"), (True, "sgd")):
        yield _day(
            f"Ctrl-C in a callback of {solver}, raising {raising}", lambda r=raising, s=solver: _interrupted(r, s)
        )
    yield _day("a watchdog", _watchdog)
    yield _day("diverged, and tried again with a smaller rate", _diverged)
    yield _day("singular without a penalty", _singular_keeps_factors)
    yield from _old_plan_new_data()
