"""What a signal's handler raises, at every moment at which Python may run it, of calls of every kind.

``python -m tests.moments [NAME …]`` goes through all moments of the calls of these names; `tests.test_moments` through
some of each.
"""

from __future__ import annotations

import dis
import gc
import importlib.util
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

import lfm_np
from lfm_np import losses, npz_files
from lfm_np.kernels import jit

LOOKS = {"CALL", "CALL_FUNCTION_EX", "CALL_KW", "JUMP_BACKWARD", "RESUME"}  # after these, Python looks for signals
TESTS = str(Path(__file__).parent) + os.sep


class Late(TimeoutError, ValueError, RuntimeError):
    """Of a watchdog. It must not pass for an error of a file, a value or a library."""


def at(event: int, counts: Callable[[str], bool], work: Callable[[], Any], press: bool = False) -> tuple[str, Any]:
    """Call ``work`` and, at that moment of the code in files that count, raise `Late` or ``press`` Ctrl-C.

    Where that was, "" if there were fewer moments; and what the call returned or raised. `Late` comes only where the
    library holds no handlers back.
    """
    last: dict[Any, str] = {}
    number, where = 0, ""

    def handler(*_: Any) -> None:
        """Is in its place but while the library holds handlers back."""
        raise Late("too late")

    def trace(frame: Any, kind: str, _: Any) -> Any:
        nonlocal number, where
        if not counts(frame.f_code.co_filename):
            return None
        frame.f_trace_opcodes = True
        if kind == "opcode":
            before = last.get(frame)
            last[frame] = dis.opname[frame.f_code.co_code[frame.f_lasti]]
            if before in LOOKS and (press or signal.getsignal(signal.SIGTERM) is handler):
                number += 1
                if number == event + 1:
                    where = f"{frame.f_code.co_filename}:{frame.f_lineno}, after {before}"
                    signal.raise_signal(signal.SIGINT if press else signal.SIGTERM)
        return trace

    before, own = sys.gettrace(), signal.signal(signal.SIGTERM, handler)
    sys.settrace(trace)
    try:
        found = work()
        return where, found
    except BaseException as error:
        part: BaseException | None = error
        while part is not None:  # their frames hold what they had open
            part = part.with_traceback(None).__context__
        return where, error
    finally:
        sys.settrace(before)
        last.clear()
        signal.signal(signal.SIGTERM, own)


def of_all(file: str) -> bool:
    """Whether what runs in a file counts: the library, and whatever it calls."""
    return not file.startswith(TESTS)


def surroundings(folder: Path) -> dict[str, Any]:
    """What must be as before. Arrow's threads close a file a moment later."""
    for thread in threading.enumerate():
        if thread.name == "lfm_np":
            thread.join(5)
    if any(thread.name == "lfm_np" for thread in threading.enumerate()):
        gc.collect()
    libraries = jit._blas().lib_controllers
    return {
        "BLAS threads": [library.num_threads for library in libraries if library.user_api == "blas"],
        "SIGINT": signal.getsignal(signal.SIGINT),
        "threads": [thread.name for thread in threading.enumerate()],
        "NumPy's errors": (np.geterr(), np.geterrcall()),
        "open files": _open_files(),
        "folder": sorted(os.listdir(folder)),
    }


def _open_files() -> list[tuple[str, str]]:
    if not os.path.exists("/proc/self/fd"):
        return []
    paths = [f"/proc/self/fd/{number}" for number in os.listdir("/proc/self/fd")]
    return sorted((path, os.readlink(path)) for path in paths if os.path.lexists(path))


def faults(
    work: Callable[[], Any], folder: Path, counts: Callable[[str], bool] = of_all, first: int = 0, step: int = 1
) -> tuple[int, list[str]]:
    """How many moments were tried, every ``step``-th from ``first``, and what went wrong. ``folder/new`` may appear."""
    work()
    _remove(folder / "new")
    gc.collect()
    gc.freeze()  # what is there already need not be looked at a thousand times
    found, tried, event = [], 0, first
    try:
        before = surroundings(folder)
        while True:
            where, outcome = at(event, counts, work)
            _remove(folder / "new")
            if not where:
                return tried, [*found, *([f"by itself: {outcome!r}"] if isinstance(outcome, BaseException) else [])]
            tried, event = tried + 1, event + step
            if not isinstance(outcome, Late):
                found.append(f"{where}: {repr(outcome) if isinstance(outcome, BaseException) else 'lost'}")
            if changed := _changed(before, folder):
                found.append(f"{where}: {changed}")
                before = surroundings(folder)
    finally:
        gc.unfreeze()


def _changed(before: dict[str, Any], folder: Path) -> str:
    end = time.monotonic() + 5
    while True:
        gc.collect()  # the exception and the frames that it left refer to one another
        now = surroundings(folder)
        changed = "; ".join(f"{name} {before[name]} became {now[name]}" for name in now if now[name] != before[name])
        if not changed or time.monotonic() > end:
            return changed
        time.sleep(0.01)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def calls(folder: Path) -> dict[str, Callable[..., Any]]:
    """Calls of every kind. Files that they read are in ``folder``, and what they write is ``folder/new``."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    records = lfm_np.datasets.make_interactions(60, 40, 4, random_state=0)
    X, new = lfm_np.to_csr(records, shape=(60, 40)), folder / "new"
    cells = X.tocoo()
    pq.write_table(pa.table({"user": cells.row, "item": cells.col}), folder / "records.parquet")
    np.savetxt(folder / "records.csv", np.c_[cells.row, cells.col], "%d", ",", header="user,item", comments="")
    np.savez(folder / "records.npz", user=cells.row, item=cells.col)
    (folder / "folder").mkdir()
    shutil.copy(folder / "records.csv", folder / "folder")
    data = lfm_np.Interactions.from_parquet(folder / "records.parquet")
    factors, of_data = (lfm_np.als(some, factors=4, iterations=1, random_state=0) for some in (X, data))
    factors.save(folder / "model")
    stored = lfm_np.StoredMatrix.from_matrix(X, folder / "stored")
    fit = {"factors": 4, "random_state": 0, "num_threads": 2}
    step_by_step = {"progress": False, "callback": lambda record, factors: None}
    found = {
        "als": lambda **options: lfm_np.als(X, iterations=2, **fit, **options),
        "als, ratings": lambda: lfm_np.als(X, iterations=1, weighting="ratings", biases=True, dtype="float64", **fit),
        "als, cg": lambda: lfm_np.als(X, iterations=1, solver="cg", **fit),
        "als, subspace": lambda: lfm_np.als(X, iterations=1, solver="subspace", **fit),
        "als, stored": lambda **options: lfm_np.als(stored, iterations=1, **fit, **options),
        "als, checkpoint": lambda: lfm_np.als(X, iterations=2, checkpoint=new, **step_by_step, **fit),
        "sgd": lambda **options: lfm_np.sgd(X, epochs=1, **fit, **options),
        "sgd, softmax": lambda: lfm_np.sgd(X, loss=losses.SampledSoftmax(), epochs=1, **fit),
        "losses.check": lambda: losses.check(losses.BPR()),
        "objective": lambda: lfm_np.objective(X, factors),
        "recommend": lambda: factors.recommend(range(60), N=3, num_threads=2),
        "recommend, new": lambda: lfm_np.Factors.load(folder / "model").recommend(range(60), N=3),
        "similar_items": lambda: factors.similar_items(range(40), N=2),
        "fold_in_users": lambda: factors.fold_in_users(X),
        "explain": lambda: factors.explain(3, 5, X),
        "evaluate": lambda: lfm_np.evaluate(factors, None, X, ("auc", "ndcg@5")),
        "to_csr": lambda: lfm_np.to_csr(records, shape=(60, 40)),
        "from_csv": lambda: lfm_np.Interactions.from_csv(folder / "records.csv"),
        "from_csv, folder": lambda: lfm_np.Interactions.from_csv(folder / "folder"),
        "from_parquet": lambda: lfm_np.Interactions.from_parquet(folder / "records.parquet"),
        "from .npz": lambda: npz_files.read_arrays(folder / "records.npz"),
        "split": lambda: data.split("random", random_state=0),
        "recommend_parquet": lambda: lfm_np.recommend_parquet(of_data, data, new, N=3),
        "save": lambda: factors.save(new),
        "load": lambda: lfm_np.Factors.load(folder / "model"),
        "load, mapped": lambda: lfm_np.Factors.load(folder / "model", mmap=True),
        "StoredMatrix.from_matrix": lambda: lfm_np.StoredMatrix.from_matrix(X, new),
        "StoredMatrix.from_parquet": lambda: lfm_np.StoredMatrix.from_parquet(folder / "records.parquet", new),
    }
    if importlib.util.find_spec("sklearn"):
        from lfm_np.sklearn import ALS

        found["scikit-learn"] = lambda: ALS(factors=4, iterations=1, random_state=0).fit(X).transform(X)
    if importlib.util.find_spec("torch"):
        torch = {name: fit[name] for name in ("factors", "random_state")}
        found["torch als"] = lambda **options: lfm_np.torch_backend.als(X, iterations=1, **torch, **options)
        found["torch sgd"] = lambda **options: lfm_np.torch_backend.sgd(X, epochs=1, **torch, **options)
    return found


def report(names: list[str]) -> Iterator[str]:
    yield "| call | moments | faults |\n| --- | ---: | ---: |"
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for name, work in calls(folder).items():
            if not names or name in names:
                tried, found = faults(work, folder)
                yield "\n".join([f"| {name} | {tried} | {len(found)} |", *found])


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    for line in report(sys.argv[1:]):
        print(line, flush=True)
