"""A program's chance, memory and arrays, second sitting: seeds in forks, what is counted, odd or shared buffers."""

from __future__ import annotations

import gc
import hashlib
import json
import os
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import scipy.sparse as sp

import lfm_np

from .case import Case, Group
from .cases_second_sitting_of_life_in_runs import P0, SQUARED, descend, stepped
from .cases_second_sitting_of_life_on_disks import RATED, U0, V0, M, X, by_numpy, fit, whole
from .places import together
from .working_days import all_scores, best, close, faultless, folder, raised, same, tells, wrong

_GROUP = Group("second sitting, life")
_holds = faultless(_GROUP)


def _told_by_children(count: int, work: Callable[[], Any]) -> list[Any]:
    """What ``work`` returned, by way of JSON, in each of some forked processes that run at once."""
    pipes = []
    for _ in range(count):
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                os.write(write, json.dumps(work()).encode())
            finally:
                os._exit(0)
        os.close(write)
        pipes.append((pid, read))
    found = []
    for pid, read in pipes:
        with os.fdopen(read, "rb") as pipe:
            found.append(json.loads(pipe.read() or b"null"))
        os.waitpid(pid, 0)
    return found


def _digest(*arrays: np.ndarray) -> str:
    return hashlib.sha256(b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)).hexdigest()


def _seeds(by: Callable[..., Any]) -> list[str]:
    """Without a seed, eight fits in forks and threads of one process have eight, and each repeats its own."""

    def one(seed: Any = None) -> list[Any]:
        f = by(seed)
        return [int(f.params["seed"]), _digest(f.user_factors, f.item_factors)]

    one()
    found = [*_told_by_children(4, one), *together(3, lambda _: one()), one()]
    again = [one(seed) for seed, _ in found]
    return wrong(
        seeds=len({seed for seed, _ in found}) == 8, factors=len({digest for _, digest in found}) == 8,
        again=again == found,
    )  # fmt: skip


def _splits_in_forks() -> list[str]:
    """600 cells: that two draws agree by chance is out of the question."""
    draw = np.random.default_rng(71)
    cells = draw.choice(40 * 30, 600, replace=False)
    data = lfm_np.Interactions.from_arrays(cells // 30, cells % 30)
    has = np.bincount(data.matrix.nonzero()[0], minlength=40)

    def one() -> list[Any]:
        train, test = data.split("random", test_fraction=0.3)
        made = lfm_np.datasets.make_interactions(50, 20, 5)
        held = np.diff(test.matrix.indptr)
        low = np.floor(0.3 * has - 1e-9)
        fair = (held + np.diff(train.matrix.indptr) == has).all() and ((held - low) * (held - low - 1) <= 1e-9).all()
        return [_digest(test.matrix.indices, test.matrix.indptr), _digest(made), bool(fair)]

    found = [*_told_by_children(4, one), *together(2, lambda _: one()), one()]
    return wrong(
        splits=len({line[0] for line in found}) == 7, pairs=len({line[1] for line in found}) == 7,
        fair=all(line[2] for line in found),
    )  # fmt: skip


def _objects_that_draw() -> list[str]:
    """A SeedSequence does not move on; a Generator does, and by as much where the run goes on from a state."""

    def run(given: Any, sweeps: int = 5, **words: Any) -> Any:
        return fit(sweeps=sweeps, init=None, random_state=given, **words)

    with folder() as place:
        sequence = np.random.SeedSequence(7)
        ones = [run(sequence), run(sequence), run(np.random.SeedSequence(7))]
        first, second = np.random.default_rng(3), np.random.default_rng(3)
        whole_run = run(first)
        run(np.random.default_rng(3), 2, checkpoint=place / "state")
        before = (place / "state").read_bytes()
        moved = np.random.default_rng(3)
        moved.random()
        error = raised(lambda: run(moved, checkpoint=place / "state"))
        kept = (place / "state").read_bytes() == before
        on = run(second, checkpoint=place / "state")
        third = run(first)
        solved = M.half(RATED.T, np.asarray(on.user_factors))
        return wrong(
            sequence=same(ones[0], ones[1]) and same(ones[0], ones[2]), spawned=sequence.n_children_spawned == 0,
            seeds=ones[0].params["seed"] is None and on.params["seed"] is None, on=same(on, whole_run),
            states=second.bit_generator.state != np.random.default_rng(3).bit_generator.state,
            moves_on=not same(third, whole_run), next=same(run(second), third), kept=kept,
            refused=isinstance(error, ValueError) and tells(error, "random_state|checkpoint|start|init|state"),
            solved=close(on.item_factors, solved, 1e-8),
        )  # fmt: skip


def _odd(values: Any) -> np.ndarray:
    """The same numbers at an address that is no multiple of anything."""
    values = np.ascontiguousarray(values)
    room = np.empty(values.nbytes + 16, np.uint8)
    first = 1 + -(room.ctypes.data) % 2
    found = room[first : first + values.nbytes].view(values.dtype).reshape(values.shape)
    found[...] = values
    return found


def _odd_csr(matrix: Any) -> sp.csr_array:
    found = matrix.copy()
    found.data, found.indices, found.indptr = map(_odd, (matrix.data, matrix.indices, matrix.indptr))
    return found


def _fits_at_odd_addresses() -> list[str]:
    cells, start = _odd_csr(X), (_odd(U0), _odd(V0))
    with folder() as place:
        stored = lfm_np.StoredMatrix.from_matrix(_odd_csr(X), place / "m", dtype="float64")
        found = [fit(cells, init=start), fit(stored, init=start)]
    one = lfm_np.sgd(
        _odd_csr(sp.csr_array([[2.0]])), SQUARED, sampler=None, factors=3, epochs=5, learning_rate=0.125,
        regularization=0.01, schedule="inverse", dtype="float64", init=(_odd(P0[0]), _odd(P0[1])), random_state=0,
    )  # fmt: skip
    pairs = _odd(np.array([(0, 1), (2, 0), (0, 1)]))
    counts = lfm_np.to_csr(pairs, shape=(3, 2), values=_odd([0.5, 3.0, 0.25])).toarray().tolist()
    return wrong(
        odd=not any(array.flags.aligned for array in (start[0], cells.data, cells.indices)),
        sweeps=all(whole(f, 4) for f in found), epochs=stepped(one, 5, "inverse"),
        here=stepped(descend(5, schedule="inverse"), 5, "inverse"), counts=counts == [[0, 0.75], [0, 0], [3, 0]],
    )  # fmt: skip


def _lists_at_odd_addresses() -> list[str]:
    draw = np.random.default_rng(72)
    U, V, b, d = (draw.normal(size=shape) for shape in ((7, 5), (40, 5), 7, 40))
    seen = draw.random((7, 40)) < 0.4
    matrix = _odd_csr(sp.csr_array(seen.astype(np.float32)))
    f = lfm_np.Factors(_odd(U), _odd(V), user_bias=_odd(b), item_bias=_odd(d), global_bias=0.5)
    S = 0.5 + b[:, None] + d + U @ V.T
    allowed = _odd(np.arange(0, 40, 2))
    ids = f.recommend(_odd(np.arange(7)), N=20, seen=matrix, items=allowed).ids.tolist()
    even = np.arange(40) % 2 == 0
    with folder() as place:
        f.save(place / "model")
        read = lfm_np.Factors.load(place / "model", mmap=True)
        kept = same(read, f)
    return wrong(
        ids=ids == [best(S[u], ~seen[u] & even, 20) for u in range(7)], kept=kept, all=close(all_scores(f), S, 1e-12),
        scores=close(f.scores(_odd(np.arange(7)), _odd(np.arange(7))), np.diag(S[:, :7]), 1e-12),
    )  # fmt: skip


def _somebody_can_write() -> list[str]:
    """Arrays that say they are read-only, over memory that is not, are copied."""
    values = np.arange(1, 7, dtype=np.float32)
    raw = [bytearray(values.tobytes()), bytearray(np.arange(6).tobytes()), bytearray(np.arange(3.0).tobytes())]
    base = np.array([0.5, 1.5, 2.5])
    of_bytes = [np.frombuffer(one, dtype) for one, dtype in zip(raw, ("float32", "int64", "float64"), strict=True)]
    view = base.view()
    for array in (*of_bytes, view):
        array.flags.writeable = False
    cells = sp.csr_array((of_bytes[0], np.tile(np.int32([0, 1]), 3), np.int32([0, 2, 4, 6])), shape=(3, 2))
    ids = np.array([10, 20, 30])
    fixed = ids.view()
    fixed.flags.writeable = False
    data = lfm_np.Interactions(cells, fixed, np.array(["a", "b"]), of_bytes[1])
    f = lfm_np.Factors(np.eye(3), np.eye(3), user_bias=of_bytes[2], item_bias=view)
    for one in raw:
        one[:] = bytes(len(one))
    base[:] = 9.0
    ids[:] = 0
    return wrong(
        values=data.matrix.data.tolist() == [1, 2, 3, 4, 5, 6], users=data.users.tolist() == [10, 20, 30],
        times=np.asarray(data.timestamps).tolist() == [0, 1, 2, 3, 4, 5], rows=data.rows_of([30]).tolist() == [2],
        user_bias=f.user_bias.tolist() == [0, 1, 2], item_bias=f.item_bias.tolist() == [0.5, 1.5, 2.5],
        score=float(f.scores(2, 1)) == 2 + 1.5,
    )  # fmt: skip


def _cells(m: int, n: int, nnz: int, dtype: Any) -> sp.csr_array:
    draw = np.random.default_rng(73)
    cells = np.unique(draw.integers(0, m * n, nnz))
    values = draw.integers(1, 6, len(cells)).astype(dtype)
    indptr = np.searchsorted(cells // n, np.arange(m + 1)).astype(np.int32)
    return sp.csr_array((values, (cells % n).astype(np.int32), indptr), shape=(m, n))


def _counted(matrix: sp.csr_array, work: Callable[[], Any], factors: int, **words: Any) -> list[str]:
    """The peak of everything that Python and NumPy took, the second time, beside the estimate."""
    expected = lfm_np.estimate_memory(*matrix.shape, matrix.nnz, factors=factors, num_threads=1, **words)
    work()
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        work()
        peak = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    return wrong(**{f"{expected} for {peak}": abs(expected - peak) <= 0.15 * peak, "large": peak > 2_000_000})


def _memory_of_ratings() -> list[str]:
    matrix = _cells(20_000, 1_500, 60_000, np.float64)
    words = {"weighting": "ratings", "biases": True, "regularization": 0.5, "dtype": "float64", "num_threads": 1}
    return _counted(
        matrix, lambda: lfm_np.als(matrix, factors=20, iterations=2, random_state=0, **words), 20, dtype="float64",
        biases=True,
    )  # fmt: skip


def _memory_of_weighted_steps() -> list[str]:
    matrix, loss = _cells(5_000, 4_000, 250_000, np.float32), lfm_np.losses.Logistic(weighted=True)
    return _counted(
        matrix, lambda: lfm_np.sgd(matrix, loss, factors=8, epochs=1, biases=True, num_threads=1, random_state=0), 8,
        solver="sgd", biases=True, uses_values=True,
    )  # fmt: skip


def _memory_of_measured_steps() -> list[str]:
    matrix = _cells(300, 20_000, 100_000, np.float64)
    words = {"sampler": None, "dtype": "float64", "learning_rate": 0.01, "num_threads": 1, "random_state": 0}
    return _counted(
        matrix, lambda: lfm_np.sgd(matrix, SQUARED, factors=40, epochs=1, **words), 40, solver="sgd", dtype="float64",
        sampled=False, uses_values=True,
    )  # fmt: skip


def _estimates_at_the_ends() -> list[str]:
    """What is said to be held is a lower bound, but for the 15 %; and no product of sizes wraps around."""
    most, estimate = 2**31 - 2, lfm_np.estimate_memory
    found = []
    for k, ld in ((1, 16), (16, 16), (17, 32), (65_536, 65_536)):
        for dtype, size in (("float32", 4), ("float64", 8)):
            for nnz in (1, 2**44):
                held = 2 * 2 * most * ld * size
                words = {"factors": k, "dtype": dtype, "num_threads": 1}
                als = estimate(most, most, nnz, **words)
                sgd = estimate(most, most, nnz, solver="sgd", uses_values=True, **words)
                found.append(isinstance(als, int) and als >= 0.85 * (held + nnz * (4 + size)))
                found.append(isinstance(sgd, int) and sgd >= 0.85 * (held + nnz * (12 + 4 + size)))
    allowed = os.sched_getaffinity(0)
    given = (100, 80, 2_000)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        alone = [estimate(*given, factors=256, solver=solver) for solver in ("als", "sgd")]
    finally:
        os.sched_setaffinity(0, allowed)
    one = [estimate(*given, factors=256, solver=solver, num_threads=1) for solver in ("als", "sgd")]
    return wrong(bounds=all(found), alone=alone == one)


def _one_result_for_many_forks() -> list[str]:
    """A result that came from a fit here is asked in eight processes at once, and here meanwhile."""
    f = fit(sweeps=6)
    scores = by_numpy(6, M)[0]
    lists = [best(row, np.isnan(rated), 6) for row, rated in zip(scores, RATED, strict=True)]

    def one() -> Any:
        return f.recommend(np.arange(14), N=6, seen=X, num_threads=3).ids.tolist()

    gaps = [np.diff(np.sort(row)).min() for row in scores]
    return wrong(apart=min(gaps) > 1e-6, there=_told_by_children(8, one) == [lists] * 8, here=one() == lists)


def _cases() -> Iterator[Case]:
    small = sp.csr_array(np.kron(np.eye(4), np.ones((5, 3))))
    for name, by in (
        ("sweeps", lambda seed: lfm_np.als(small, factors=2, iterations=1, random_state=seed)),
        ("epochs", lambda seed: lfm_np.sgd(small, factors=2, epochs=1, random_state=seed)),
    ):
        yield _holds(f"seeds of {name} in forks and threads", lambda b=by: _seeds(b))
    yield _holds("splits and pairs in forks and threads", _splits_in_forks)
    yield _holds("objects that draw, and what they draw next", _objects_that_draw)
    yield _holds("fits of arrays at odd addresses", _fits_at_odd_addresses)
    yield _holds("lists of arrays at odd addresses", _lists_at_odd_addresses)
    yield _holds("read-only arrays that somebody can write", _somebody_can_write)
    yield _holds("memory of ratings with biases, counted", _memory_of_ratings)
    yield _holds("memory of weighted steps with biases, counted", _memory_of_weighted_steps)
    yield _holds("memory of steps without negatives, counted", _memory_of_measured_steps)
    yield _holds("estimates at the ends of their sizes", _estimates_at_the_ends)
    yield _holds("one result for many forks", _one_result_for_many_forks)


def cases() -> list[Case]:
    return list(_cases())
