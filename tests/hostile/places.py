"""Folders, files and interpreters of their own for cases, and ways to compare what came of them."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import resource
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp

import lfm_np

from .case import Case, Group

ROOT = Path(__file__).parents[2]


def inside(work: Callable[[Path], Any]) -> Callable[[], Any]:
    """``work`` in a folder that is there only for it."""

    def call() -> Any:
        with tempfile.TemporaryDirectory() as folder:
            return work(Path(folder))

    return call


def holding(group: Group) -> Callable[..., Case]:
    """``group.right`` of calls that tell by themselves, where nothing else is said, whether all is right."""
    return lambda name, call, true=bool: group.right(name, call, true)


def table(seed: int = 3, dtype: Any = np.float32) -> sp.csr_array:
    """60 × 25 with 400 cells of values 1 to 5."""
    rng = np.random.default_rng(seed)
    cells = rng.choice(60 * 25, 400, replace=False)
    values = rng.integers(1, 6, 400).astype(dtype)
    return sp.csr_array((values, (cells // 25, cells % 25)), shape=(60, 25))


def model(dtype: Any = np.float32, seed: int = 5, biases: bool = False, **words: Any) -> lfm_np.Factors:
    """Factors of 7 users and 5 items that nobody fitted."""
    rng = np.random.default_rng(seed)
    if biases:
        words = {"user_bias": rng.normal(size=7).astype(dtype), "item_bias": rng.normal(size=5).astype(dtype), **words}
    return lfm_np.Factors(rng.normal(size=(7, 3)).astype(dtype), rng.normal(size=(5, 3)).astype(dtype), **words)


def same(one: lfm_np.Factors, other: lfm_np.Factors) -> bool:
    """The same bits, biases too."""
    names = ("user_factors", "item_factors", "user_bias", "item_bias", "global_bias")
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in names)


def digest(factors: lfm_np.Factors) -> str:
    return hashlib.sha256(factors.user_factors.tobytes() + factors.item_factors.tobytes()).hexdigest()


def parts(path: Path) -> tuple[dict[str, Any], bytes]:
    """Header and tensors of a safetensors file."""
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    return json.loads(raw[8 : 8 + length]), raw[8 + length :]


def sealed(header: dict[str, Any] | bytes, body: bytes) -> bytes:
    """A safetensors file whose checksum is right, as ``lfm_np.persistence`` describes it."""
    text = header if isinstance(header, bytes) else json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    raw = len(text).to_bytes(8, "little") + text + body
    blank = re.sub(rb'"sha256":"[^"]*"', b'"sha256":"' + b"0" * 64 + b'"', raw, count=1)
    found = hashlib.sha256(blank).hexdigest().encode()
    return blank.replace(b'"sha256":"' + b"0" * 64, b'"sha256":"' + found, 1)


def write_csv(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.write_bytes(text.encode(encoding))
    return path


@contextlib.contextmanager
def limited(which: int, soft: int) -> Iterator[None]:
    """A soft limit of the process, as `resource.setrlimit` takes it."""
    before = resource.getrlimit(which)
    resource.setrlimit(which, (soft, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(which, before)


def largest_file(size: int) -> contextlib.AbstractContextManager[None]:
    """No file may grow beyond so many bytes."""
    return limited(resource.RLIMIT_FSIZE, size)


def together(count: int, work: Callable[[int], Any]) -> list[Any]:
    """``work(0)``, ``work(1)`` … in threads that start at once; what they return, or the exceptions."""
    found: list[Any] = [None] * count
    start = threading.Barrier(count)

    def one(place: int) -> None:
        start.wait()
        try:
            found[place] = work(place)
        except BaseException as error:
            found[place] = error

    threads = [threading.Thread(target=one, args=(place,)) for place in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def child(work: Callable[[], Any]) -> int:
    """The exit status of a forked process in which ``work()`` was true (0), false (1) or raised (2)."""
    pid = os.fork()
    if pid == 0:
        status = 2
        try:
            status = 0 if work() else 1
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


class Said(NamedTuple):
    """What a command answered."""

    status: int
    out: str
    err: str


def interpreter(*arguments: str, env: dict[str, str | None] | None = None, **options: Any) -> Said:
    """``python ARGUMENTS`` in a process of its own; None in ``env`` takes a variable away."""
    changed = {**os.environ, "PYTHONPATH": str(ROOT), **(env or {})}
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    done = subprocess.run(
        [sys.executable, *arguments],
        env={name: value for name, value in changed.items() if value is not None},
        check=False,
        timeout=28,
        **options,
    )
    return Said(done.returncode, *(text.decode() if text else "" for text in (done.stdout, done.stderr)))


def module(name: str, *arguments: str) -> Said:
    """``python -m NAME ARGUMENTS`` in this process."""
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
    before, handler = sys.argv, signal.getsignal(signal.SIGINT)
    sys.argv = [name, *arguments]
    status: Any = 0
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            runpy.run_module(name, run_name="__main__")
    except SystemExit as error:
        status = error.code
        if isinstance(status, str):
            err.write(status)
            status = 1
    finally:
        sys.argv = before
        signal.signal(signal.SIGINT, handler)
    return Said(status or 0, *(file.buffer.getvalue().decode() for file in (out, err)))  # type: ignore[attr-defined]


def command(*arguments: str | Path) -> Said:
    """``lfm-np ARGUMENTS`` in this process."""
    return module("lfm_np", *map(str, arguments))


FIT = """
import hashlib, numpy as np, lfm_np
from tests.hostile.places import digest, table
print(digest(lfm_np.als(table(), factors=4, iterations=2, random_state=0, num_threads=THREADS)))
"""


def fitted(dtype: Any = np.float32) -> lfm_np.Factors:
    """What ``FIT`` prints the digest of."""
    return lfm_np.als(table(), factors=4, iterations=2, random_state=0, num_threads=1, dtype=dtype)
