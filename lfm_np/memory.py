"""How much memory a fit needs, how much there is, and refusing in time what cannot fit."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from lfm_np import validation as check
from lfm_np.canonical import rows_at_once
from lfm_np.half_sweep import gram_chunks
from lfm_np.kernels.simd import LANES
from lfm_np.row_plan import FEWEST_FOR_STEPS, most_segments, padded
from lfm_np.signals import signals_held

if TYPE_CHECKING:
    from lfm_np.stored.matrix import StoredMatrix

_GIB = 1 << 30
_ROW_BYTES = {"als": 40, "sgd": 24}  # the plan: lengths, costs, order, λ; offsets, counts, what is left to draw
_INDEX, _RECORD = 4, 12  # bytes a cell: the transpose's index, or a negative; a record of three int32
_SMALL = 1 << 20  # Python's objects, stacks of threads, what malloc keeps
DUAL_SHARE = 0.75  # torch: rows with up to this share of k cells take the n × n system
CELL_BYTES = 128  # torch: of a padded cell beside its rows of Y: its position, column, weights, and their float64 loss
TORCH_BUDGET = 32 << 20  # about what stays in a last-level cache; more was slower
_PARTS = 2  # of a stored matrix in memory: the one that is solved and the one that is read
_SYSTEM = Path("/")
_CGROUPS = (  # of version 2 and of version 1: the controller, where groups are, files of limit and usage
    ("", "sys/fs/cgroup", "memory.max", "memory.current"),
    ("memory", "sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
)


def estimate_memory(
    m: int,
    n: int,
    nnz: int,
    *,
    factors: int = 64,
    solver: str = "als",
    dtype: Any = np.float32,
    biases: bool = False,
    sampled: bool = True,
    uses_values: bool = False,
    num_threads: int | None = None,
    backend: str = "numpy",
    memory_budget: int = TORCH_BUDGET,
) -> int:
    """Bytes that a fit takes at its peak, beside X.

    Parameters
    ----------
    m, n, nnz : int
        Rows, columns and stored cells of X, a canonical CSR matrix of ``dtype``. Any other is copied once, which comes
        on top.
    factors : int
        k.
    solver : {"als", "sgd"}
        "als" stands for its exact solver; see below for the others.
    dtype : float32 or float64
    biases : bool
    sampled : bool
        False for `sgd` with ``sampler=None``, which draws no negatives.
    uses_values : bool
        True for `sgd` with a loss that reads the stored values: a weighted one, or one whose target is the value.
        "torch" takes as much for any.
    num_threads : int, optional
        None takes the cores this process may use.
    backend : {"numpy", "torch"}
        "torch" for the fits of `lfm_np.torch_backend`: tensors, and arrays beside them.
    memory_budget : int
        Theirs. The default is that of a CPU.

    Returns
    -------
    int
        Within 15 % of the arrays that are alive at the peak, of fits that take 2 MB or more. Threads of `als` need no
        scratch for exact solutions of long rows where there are none, or rows take steps of "cg": such a fit takes up
        to 20 · ld² numbers a thread less (ld: see Notes). With "torch", steps take up to half of ``memory_budget``
        more, and a sweep that has to be repeated in float64 up to 2.5 times as much. What Python, Numba and torch take
        for themselves, some 150 MB and more, is not counted.

    Raises
    ------
    TypeError, ValueError
        A bad argument, or more cells than m · n.

    Notes
    -----
    With ld = k padded to a multiple of 16: `als` holds U and V twice, 2(m + n)·ld numbers, the transpose of X, and
    scratch of O(ld²) a thread; `sgd` holds U and V twice, 12 bytes a stored cell, 4 for its negative and its value if
    the loss reads it, and while the result is made U and V once more, without the padding.

    Examples
    --------
    >>> import lfm_np
    >>> lfm_np.estimate_memory(1_000_000, 50_000, 100_000_000, factors=128) < 3 * 2**30
    True
    """
    m, n = check.check_int("m", m, 0, check.MOST_ROWS), check.check_int("n", n, 0, check.MOST_ROWS)
    nnz = check.check_int("nnz", nnz, 0, m * n)
    k = check.check_int("factors", factors, 1)
    check.check_choice("solver", solver, ("als", "sgd"))
    size, biases = check.check_dtype("dtype", dtype).itemsize, check.check_bool("biases", biases)
    threads, rows, sampled = check.check_num_threads(num_threads), m + n, check.check_bool("sampled", sampled)
    uses_values = check.check_bool("uses_values", uses_values)
    check.check_choice("backend", backend, ("numpy", "torch"))
    if backend == "torch":
        budget = check.check_int("memory_budget", memory_budget, 1)
        if solver == "sgd":
            return _torch_sgd((m, n), nnz, k, size, biases, sampled)
        return _torch_als((m, n), nnz, k, size, biases, budget)
    ld = padded(k + (solver == "als" and biases))
    if solver == "als":
        each = 2 * LANES * size + 16  # of ld²: eight systems and their transpose, a wide sum, the Gram matrix
        systems = ld * ld * (threads * each + most_segments(rows, ld) * size // 3)
        gram = ld * ld * 8 * max(len(gram_chunks(max(m, n), ld)) + 3, 5)  # a Gram matrix's parts and sum, or its basis
        needed = 2 * ld * size * rows + nnz * (_INDEX + size) + max(systems, gram)
    else:
        rotating = min(max(m, n), rows_at_once(k)) * k * 8  # to the canonical basis, in float64
        cells = nnz * (_RECORD + _INDEX * sampled + size * uses_values)
        needed = 2 * ld * size * rows + cells + k * size * rows + rotating
    return needed + _ROW_BYTES[solver] * rows


def _torch_als(shape: tuple[int, int], nnz: int, k: int, size: int, biases: bool, budget: int) -> int:
    """Both sides as padded batches, U and V twice, a copy of the fixed side in its basis, and a batch or the basis."""
    rows, k = sum(shape), k + biases
    numbers, cell = k * size * rows, _INDEX + size
    short = nnz <= DUAL_SHARE * k * shape[0]  # most rows take the system that needs the basis
    turned = k * size * shape[1] * (short or biases or k >= FEWEST_FOR_STEPS)
    work = max(min(budget, nnz * (2 * k * size + CELL_BYTES)) // 2, 3 * 8 * k * k)
    preparing = max(nnz * (cell + _INDEX), numbers)
    return 2 * nnz * cell + (16 + size) * rows + max(preparing, 2 * numbers + turned + work)


def _torch_sgd(shape: tuple[int, int], nnz: int, k: int, size: int, biases: bool, sampled: bool) -> int:
    """The cells, and the random bits that order them; U and V twice, and once more while the result is made."""
    rows = sum(shape)
    numbers, cells = (k + biases) * size * rows, nnz * (24 + 16 * sampled + size)
    rotating = min(max(shape), rows_at_once(k)) * k * 8
    return cells + 24 * rows + max(24 * nnz + 2 * numbers, 3 * numbers + rotating)


def cells_at_once(stored: StoredMatrix, *, factors: int, biases: bool, num_threads: int | None, longest: int) -> int:
    """How many cells of a stored matrix may be in memory at a time, so that a fit takes what it may take in all.

    Raises
    ------
    MemoryError
        With what is needed at least, and a remedy.
    """
    (m, n), size = stored.shape, stored.dtype.itemsize
    options: dict[str, Any] = {"factors": factors, "dtype": stored.dtype, "biases": biases}
    each = _PARTS * (_INDEX + size)
    rest = estimate_memory(m, n, stored.nnz, num_threads=num_threads, **options) + _SMALL
    rest -= stored.nnz * (_INDEX + size)  # the transpose, of a matrix in memory
    if stored.maps_factors:
        rest -= 2 * size * (m + n) * padded(factors + biases)
    if rest + longest * each > stored.memory:
        raise MemoryError(
            f"memory must be at least {rest + longest * each} bytes for factors={factors} and a row or column of "
            f"{longest} cells, got {stored.memory}; give more, take fewer factors, or keep them on disk: "
            "StoredMatrix(folder, factors_in=…)"
        )
    return (stored.memory - rest) // each


def refuse_what_cannot_fit(solver: str, X: sp.csr_array, available: int | None = None, **options: Any) -> None:
    """Raise MemoryError now if a fit to X needs more than there is, rather than being killed within it.

    ``available`` bytes are those of a device; None asks this machine.

    Raises
    ------
    MemoryError
        With the estimate, what is available, and a remedy.
    """
    (m, n), have = X.shape, available_memory() if available is None else available
    need = estimate_memory(m, n, X.nnz, solver=solver, dtype=X.dtype, **options)
    if have is not None and need > have:
        raise MemoryError(
            f"{solver} with factors={options['factors']} on a matrix of {m} × {n} with {X.nnz} cells needs "
            f"about {need / _GIB:.2f} GiB beside X, and {have / _GIB:.2f} GiB are available; "
            'take fewer factors, dtype="float32", or a machine with more memory (lfm_np.estimate_memory)'
        )


def refuse_lists_that_cannot_fit(rows: int, N: int, size: int) -> None:
    """Raise MemoryError now if the ids of N entries a row, and their scores of ``size`` bytes, need more than there is.

    Where they need little this does not ask the machine, which takes longer than a short list.
    """
    need = rows * N * (8 + size)
    have = available_memory() if need > _GIB else None
    if have is not None and need > have:
        raise MemoryError(
            f"{rows} lists of N={N} need about {need / _GIB:.2f} GiB, and {have / _GIB:.2f} GiB are available; "
            "ask for shorter lists, or for fewer at a time (lfm_np.recommend_parquet writes all in blocks)"
        )


def available_memory() -> int | None:
    """Bytes that this process can still take: the least of what the machine, its cgroup and its limits leave."""
    with signals_held():  # a handler's TimeoutError is an OSError, and would pass for one of the files
        amounts = _machine(), *itertools.starmap(_cgroup, _own_cgroups()), _address_space()
        found = [amount for amount in amounts if amount is not None]
    return min(found, default=None)


def _machine() -> int | None:
    """What is free, as far as the system says (WSL 1 does not, and others have no such file)."""
    with contextlib.suppress(OSError, ValueError, IndexError, KeyError):
        lines = dict(line.split(":", 1) for line in _text("proc/meminfo").splitlines())
        return sum(int(text.split()[0]) * 1024 for text in (lines["MemAvailable"], lines.get("SwapFree", "0")))
    return None


def _own_cgroups() -> Iterator[tuple[str, str, str]]:
    """The folder, limit and usage of the groups that this process is in, and of those around them.

    Batch systems and services have groups below those of the machine; in a container its own may be the topmost.
    """
    own = {"": "/", "memory": "/"}
    with contextlib.suppress(OSError, ValueError):
        lines = (line.split(":", 2) for line in _text("proc/self/cgroup").splitlines())
        own |= {name: path for _, names, path in lines for name in names.split(",")}
    for controller, top, limit, used in _CGROUPS:
        path = PurePosixPath(own[controller].lstrip("/"))
        for group in (path, *path.parents):
            yield str(top / group), limit, used


def _cgroup(folder: str, limit: str, used: str) -> int | None:
    """Limit less usage; pages of files that can be dropped do not count as used."""
    with contextlib.suppress(OSError, ValueError):
        most = int(_text(f"{folder}/{limit}"))
        if most > 1 << 62:  # version 1 says so of none, version 2 "max"
            return None
        now = int(_text(f"{folder}/{used}"))
        stat = dict(line.split() for line in _text(f"{folder}/memory.stat").splitlines())
        return max(0, most - now + int(stat.get("total_inactive_file", stat.get("inactive_file", 0))))
    return None


def _text(file: str) -> str:
    return (_SYSTEM / file).read_text(encoding="utf-8", errors="replace")


def _address_space() -> int | None:
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        if limit != resource.RLIM_INFINITY:
            pages = int(_text("proc/self/statm").split()[0])
            return max(0, limit - pages * resource.getpagesize())
    return None
