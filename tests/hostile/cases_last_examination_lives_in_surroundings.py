"""What surrounds a program: settings, limits, folders, zones and locales, before, during and after its calls."""

from __future__ import annotations

import csv
import decimal
import gc
import html
import locale
import logging
import os
import random
import resource
import signal
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numba
import numpy as np

import lfm_np
from lfm_np import Factors, Status, StoredMatrix

from .case import Case, installed
from .cases_last_examination_lives_interrupted import (
    GROUP,
    STARS,
    descend,
    descriptors,
    fit,
    fork,
    pools,
    stepped,
    swept,
)
from .places import interpreter
from .places import model as drawn
from .working_days import all_scores, best, csr, faultless, folder, raised, same, typed, wrong

_holds = faultless(GROUP)
EVENTS = "user,item\nÜmit,tea\nÜmit,日本\nZoë,jam\nZoë,tea\neve,rye\neve,日本\n"


def lists(factors: Any, found: np.ndarray, N: int) -> bool:
    """Lists of all users, nothing left out, by sorting scores; those of these models are apart by far more than eps."""
    S = all_scores(factors)
    return found.tolist() == [best(row, np.ones(len(row), bool), N) for row in S]


def _settings() -> dict[str, Any]:
    return {
        "signals": {number: signal.getsignal(number) for number in signal.valid_signals()},
        "blocked": signal.pthread_sigmask(signal.SIG_BLOCK, []),
        "random": random.getstate(),
        "folder": os.getcwd(),
        "locale": locale.setlocale(locale.LC_ALL),
        "errors": (np.geterr(), np.geterrcall(), np.get_printoptions()),
        "hooks": (sys.excepthook, sys.unraisablehook, threading.excepthook, sys.gettrace(), sys.getprofile()),
        "streams": (sys.stdin, sys.stdout, sys.stderr, list(sys.argv)),
        "limits": [resource.getrlimit(n) for n in (resource.RLIMIT_AS, resource.RLIMIT_NOFILE, resource.RLIMIT_STACK)],
        "machine": (os.sched_getaffinity(0), os.nice(0), threading.stack_size()),
        "python": (sys.getrecursionlimit(), sys.getswitchinterval(), gc.isenabled(), gc.get_threshold()),
        "decimal": str(decimal.getcontext()),
        "logging": (logging.getLogger().level, list(logging.getLogger().handlers), logging.root.manager.disable),
    }


def _later_settings() -> dict[str, Any]:
    """These may come with what is loaded by a first call."""
    gc.collect()
    return {
        "pools": (pools(), numba.get_num_threads()),
        "warnings": (list(warnings.filters), warnings.showwarning),
        "environment": dict(os.environ),
        "files": descriptors(),
    }


def a_day(place: Path) -> Factors:
    X = csr(STARS)
    factors = fit(3, num_threads=3)
    factors.recommend([0, 1, 2], N=3, seen=X)
    factors.similar_items(0)
    factors.explain(1, 2, X)
    lfm_np.evaluate(factors, None, X)
    factors.fold_in_users(X[:2]).save(place / "m")
    Factors.load(place / "m", mmap=True).scores([0, 1], 3)
    path = place / "s"
    stored = StoredMatrix(path) if path.exists() else StoredMatrix.from_matrix(X, path, dtype=np.float64)
    fit(2, stored)
    descend(3, checkpoint=place / "state", tolerance=1e-9)
    raised(lambda: fit(3, alpha=np.nan))
    raised(lambda: Factors.load(place / "state"))
    raised(lambda: factors.recommend(99))

    def press(record: Any, _: Any) -> None:
        signal.raise_signal(signal.SIGINT)

    assert fit(3, callback=press).status is Status.INTERRUPTED
    assert type(raised(lambda: descend(3, callback=press, raise_on_interrupt=True))) is KeyboardInterrupt
    return factors


def _a_day_leaves_nothing() -> list[str]:
    with folder() as place:
        numba.get_num_threads()  # loads Numba's layer of threads, which is another pool
        before = _settings()
        factors = a_day(place)
        found = [name for name, value in _settings().items() if value != before[name]]
        later = _later_settings()
        a_day(place)
        old, new = {**before, **later}, {**_settings(), **_later_settings()}
        found += [name for name in new if new[name] != old[name]]
        return found + wrong(numbers=swept(factors, 3), listing=sorted(os.listdir(place)) == ["m", "s", "state"])


IMPORT = """
import sys, os, signal, random, threading, locale, gc
import numpy as np, scipy.sparse, numba, threadpoolctl, tqdm, safetensors
def state():
    return ({n: signal.getsignal(n) for n in signal.valid_signals()}, threading.active_count(), os.getcwd(),
            random.getstate(), np.random.get_state()[1].tolist(), np.geterr(), locale.setlocale(locale.LC_ALL),
            sys.getrecursionlimit(), gc.get_threshold(), sys.excepthook, len(os.listdir("/proc/self/task")))
random.seed(1), np.random.seed(2)
before = state()
import lfm_np
print([i for i, (a, b) in enumerate(zip(before, state())) if a != b],
      sorted({"torch", "distributed", "matplotlib", "sklearn"} & set(sys.modules)))
"""

WORK = """
import gc, sys, warnings
import numpy as np
from tests.hostile.cases_last_examination_lives_interrupted import fit, descend
warnings.simplefilter("error")
place = sys.argv[1]
fit(4, num_threads=3).save(place + "/als")
descend(4, num_threads=3, checkpoint=place + "/state").save(place + "/sgd")
import lfm_np
print(lfm_np.Factors.load(place + "/als", mmap=True).recommend(np.arange(40), N=5, num_threads=3).ids.tolist())
gc.collect()
"""


def _import_alone() -> list[str]:
    said = interpreter("-c", IMPORT)
    return wrong(status=said.status == 0, told=said.out.strip() == "[] []", silent=not said.err)


def _elsewhere(env: dict[str, str | None]) -> list[str]:
    """Another interpreter, with other variables, gives these bits and leaves nothing open."""
    with folder() as place:
        said = interpreter("-c", WORK, str(place), env=env)
        if said.status or "Exception ignored" in said.err:
            return [said.err[-300:]]
        one, other = (Factors.load(place / name) for name in ("als", "sgd"))
        return wrong(
            numbers=swept(one, 4) and stepped(other, 4),
            bits=same(one, fit(4, num_threads=1)) and same(other, descend(4, num_threads=1)),
            lists=lists(one, np.array(eval(said.out)), 5),
            listing=sorted(os.listdir(place)) == ["als", "sgd", "state"],
        )


def _zones() -> list[str]:
    """Dates are those of UTC, wherever the process is."""
    moments = np.datetime64("2024-05-02T10:00:00") + np.arange(30) * np.timedelta64(1, "h")
    later = int((moments >= np.datetime64("2024-05-03T00:00:00")).sum())

    def work() -> bool:
        time.tzset()
        data = lfm_np.Interactions.from_arrays(np.zeros(30, int), np.arange(30), timestamps=moments)
        right = True
        for at in ("2024-05-03", "2024-05-03T00:00:00", np.datetime64("2024-05-03"), moments[14].item()):
            train, test = data.split("time", at=at)
            right &= test.matrix.nnz == later and test.matrix.indices.tolist() == list(range(30 - later, 30))
            right &= train.matrix.nnz == 30 - later
        return right

    found, before = [], os.environ.get("TZ")
    try:
        for zone in ("EAST-14", "WEST11", "UTC0", "HALF-5:45"):
            os.environ["TZ"] = zone
            if fork(work) != 0:
                found.append(zone)
    finally:
        os.environ.pop("TZ")
        if before is not None:
            os.environ["TZ"] = before
    return found


def _plain_locale() -> list[str]:
    """Files are UTF-8 where the locale has ASCII only."""
    with folder() as place:
        (place / "events.csv").write_bytes(EVENTS.encode())
        words = ("--user", "user", "--item", "item", "--factors", "2", "--seed", "0", "-o", "m.safetensors")
        made = typed(place, "fit", "events.csv", *words)
        env = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
        said = interpreter("-m", "lfm_np", "recommend", "m.safetensors", "-n", "2", "-o", "out.csv", env=env, cwd=place)
        if made.status or said.status:
            return [made.err[-200:], said.err[-200:]]
        rows = list(csv.reader((place / "out.csv").read_bytes().decode("utf-8").splitlines()))
        has = {tuple(line.split(",")) for line in EVENTS.splitlines()[1:]}
        items = {item for _, item in has}
        mine = {(user, item) for user in ("Ümit", "Zoë", "eve") for item in items} - has
        return wrong(
            names=rows[0] == ["user", "item", "score", "rank"],
            rows={(row[0], row[1]) for row in rows[1:]} == mine and len(rows) == 7,
        )


def _page_in_ascii() -> list[str]:
    from lfm_np.report import write_report

    with folder() as place:
        X = csr(STARS, np.float32)
        factors = lfm_np.als(X, factors=3, iterations=3, random_state=0)

        def work() -> bool:
            locale.setlocale(locale.LC_ALL, "C")
            write_report(place / "page", factors, X, labels=[f"№ {i} ü" for i in range(25)], title="Übersicht")
            text = html.unescape((place / "page").read_bytes().decode("utf-8"))
            return "Übersicht" in text and "№ " in text

        return wrong(page=fork(work) == 0, listing=os.listdir(place) == ["page"])


def _folder_that_is_gone() -> list[str]:
    with folder() as place:
        (place / "gone").mkdir()
        fit(2)

        def work() -> bool:
            os.chdir(place / "gone")
            (place / "gone").rmdir()
            factors = fit(3, checkpoint=place / "state", num_threads=2)
            factors.save(place / "m")
            stored = StoredMatrix.from_matrix(csr(STARS), place / "s", dtype=np.float64)
            return swept(factors, 3) and swept(fit(5, stored, checkpoint=place / "state"), 5)

        return wrong(
            child=fork(work) == 0,
            listing=sorted(os.listdir(place)) == ["m", "s", "state"],
            saved=swept(Factors.load(place / "m"), 3),
        )


def _modes() -> list[str]:
    """New files have the mode that `open` gives; a model that was there keeps its own."""
    before = os.umask(0o027)
    try:
        with folder() as place:
            drawn().save(place / "old")
            os.chmod(place / "old", 0o604)
            drawn(seed=8).save(place / "old")
            os.umask(0o022)
            drawn().save(place / "shared")
            os.umask(0o077)
            drawn().save(place / "mine")
            os.umask(0o027)
            fit(2, checkpoint=place / "state")
            modes = {name: (place / name).stat().st_mode & 0o7777 for name in ("old", "shared", "mine", "state")}
            mine = {"old": 0o604, "shared": 0o644, "mine": 0o600, "state": 0o640}
            return wrong(modes=modes == mine, last=same(Factors.load(place / "old"), drawn(seed=8)))
    finally:
        os.umask(before)


def _small_stacks() -> list[str]:
    """Threads that have 512 KiB of stack."""
    before = threading.stack_size(512 << 10)
    try:
        factors = fit(3, num_threads=4)
        subspace = fit(3, num_threads=4, solver="subspace")
        ids = factors.recommend(np.arange(40), N=5, num_threads=4).ids
        epochs = descend(3, num_threads=4)
    finally:
        threading.stack_size(before)
    # with four factors of 64 that a step takes at once, a step is the solution
    return wrong(
        numbers=swept(factors, 3) and swept(subspace, 3), epochs=stepped(epochs, 3), lists=lists(factors, ids, 5)
    )


def _traced() -> list[str]:
    """A debugger that follows every line, threads that change every microsecond, a collector that never rests."""
    lines: list[int] = [0]

    def tracer(frame: Any, event: str, _: Any) -> Any:
        lines[0] += 1
        return tracer

    traced, switch, often = sys.gettrace(), sys.getswitchinterval(), gc.get_threshold()
    fit(2)
    sys.setswitchinterval(1e-6)
    gc.set_threshold(50, 2, 2)
    sys.settrace(tracer)
    threading.settrace(tracer)
    try:
        factors = fit(3, num_threads=3, callback=lambda *_: None)
        epochs = descend(3, num_threads=3)
        kept = sys.gettrace() is tracer and gc.get_threshold() == (50, 2, 2)
    finally:
        sys.settrace(traced)
        threading.settrace(None)  # type: ignore[arg-type]
        gc.set_threshold(*often)
        sys.setswitchinterval(switch)
    return wrong(numbers=swept(factors, 3), epochs=stepped(epochs, 3), kept=kept, lines=lines[0] > 100)


def _one_processor() -> list[str]:
    with folder() as place:

        def work() -> bool:
            mine = {min(os.sched_getaffinity(0))}
            os.sched_setaffinity(0, mine)
            fit(4).save(place / "one")
            descend(4, num_threads=5).save(place / "sgd")
            return os.sched_getaffinity(0) == mine

        status = fork(work)
        one, epochs = Factors.load(place / "one"), Factors.load(place / "sgd")
        return wrong(
            kept=status == 0,
            numbers=swept(one, 4) and stepped(epochs, 4),
            bits=same(one, fit(4, num_threads=3)) and same(epochs, descend(4)),
        )


def _told_of_errors() -> list[str]:
    """NumPy that calls a function of the program at any floating-point error: there is none to tell of."""
    told: list[str] = []

    def tell(kind: str, flag: int) -> None:
        told.append(kind)

    before = np.seterrcall(tell)
    try:
        with np.errstate(all="call"):
            factors = fit(4, num_threads=2)
            small = lfm_np.als(csr(STARS * 1e-30), factors=3, iterations=3, regularization=1.0, random_state=0)
            epochs = descend(4)
            ids = factors.recommend(np.arange(40), N=5).ids
            factors.similar_users(np.arange(40), N=3)
            lfm_np.evaluate(factors, None, csr(STARS))
            kept = np.geterrcall() is tell and set(np.geterr().values()) == {"call"}
    finally:
        np.seterrcall(before)
    return wrong(
        kept=kept,
        none=told == [],
        finite=bool(np.isfinite(small.user_factors).all()),
        numbers=swept(factors, 4) and stepped(epochs, 4) and lists(factors, ids, 5),
    )


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    yield _holds("a day leaves twenty settings as they were", _a_day_leaves_nothing)
    yield _holds("an import changes nothing of the process", _import_alone)
    yield _holds(
        "memory that is not zero",
        lambda: _elsewhere(
            {"MALLOC_PERTURB_": "165", "GLIBC_TUNABLES": "glibc.malloc.perturb=165", "PYTHONMALLOC": "debug"}
        ),
    )
    single = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    other = {"PYTHONHASHSEED": "77", "LC_ALL": "C", "TZ": "HALF-5:45", "COLUMNS": "7", "PYTHONDEVMODE": "1"}
    yield _holds("variables that ask for one thread, and others", lambda: _elsewhere({**single, **other}))
    yield _holds("a date is that of UTC in every zone", _zones)
    if installed("typer", "pyarrow", "narwhals"):
        yield _holds("lists of ids in a locale of ASCII", _plain_locale)
    if installed("matplotlib"):
        yield _holds("a page in a locale of ASCII", _page_in_ascii)
    yield _holds("a working directory that is no more", _folder_that_is_gone)
    yield _holds("modes under four umasks", _modes)
    yield _holds("threads with small stacks", _small_stacks)
    yield _holds("a program that is traced", _traced)
    yield _holds("one processor for five threads", _one_processor)
    yield _holds("NumPy that calls at any error", _told_of_errors)
