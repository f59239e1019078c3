"""Offsets beyond 2³¹: kernels on arrays of more than 2³¹ elements, of which only the last few have memory.

The same numbers at the start of small arrays and at the end of huge ones must give the same bits. An untouched page
takes no memory, so nothing here needs more than some hundred megabytes. The limit of NumPy's and SciPy's 32-bit index
arrays is tested by lowering it.
"""

import dataclasses
import mmap
import sys

import numpy as np
import pytest
import scipy.sparse as sp

import lfm_np
from lfm_np import cells, half_sweep, losses, row_plan, sampling, sgd_epoch
from lfm_np.item_index import build_index
from lfm_np.kernels import dense, random, sgd_cells, sgd_draws, topk
from lfm_np.kernels.forbidden import Forbidden
from lfm_np.kernels.jit import Pool
from lfm_np.kernels.scores import Model, pair_scores
from lfm_np.problem import model_weights
from lfm_np.validation import read_only

BIG = 2**31 + 8  # divisible by 4: arrays of int32 begin and end on a vector
NORESERVE = 0x4000 if sys.platform == "linux" else 0


def virtual(shape, dtype):
    """Zeros that take no memory until they are written."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    try:
        memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | NORESERVE)
    except (OSError, ValueError, OverflowError):
        pytest.skip(f"this system gives no address range of {size >> 30} GiB")
    return np.frombuffer(memory, dtype, int(np.prod(shape))).reshape(shape)


def behind(rows, array):
    """``array`` after ``rows`` rows of zeros."""
    if array.size == 0:
        return array
    whole = virtual((rows + len(array), *array.shape[1:]), array.dtype)
    whole[rows:] = array
    whole.flags.writeable = array.flags.writeable
    return whole


def rows_for(k):
    """Rows of k numbers whose offsets pass 2³¹."""
    return BIG // k + 1


# ---- ALS ------------------------------------------------------------------------------------------------------------


def far(side, rows, columns):
    """The same rows after ``rows`` others, over columns after ``columns`` others, their cells after BIG others."""
    indptr, indices, data = side.csr
    moved = lambda segments: segments._replace(  # noqa: E731
        rows=read_only(segments.rows + np.int32(rows))[0],
        cells=[(place, first + BIG, stop + BIG) for place, first, stop in segments.cells],
    )
    steps = side.steps._replace(order=read_only(side.steps.order + np.int32(rows))[0], heavy=moved(side.steps.heavy))
    csr = behind(rows, indptr + BIG), behind(BIG, indices + np.int32(columns)), behind(BIG, data)
    return dataclasses.replace(
        side,
        csr=read_only(*csr),
        lam=behind(rows, side.lam),
        empty=side.empty + np.int32(rows),
        order=read_only(side.order + np.int32(rows))[0],
        heavy=moved(side.heavy),
        steps=steps,
    )


@pytest.mark.parametrize(
    ("solver", "weighting", "cut"),
    [
        ("exact", "ials", False),  # dual and primal rows
        ("exact", "ratings", True),  # and rows in segments
        ("cg", "ials", False),
        ("cg", "ials", True),
        ("subspace", "ials", False),
        ("subspace", "ials", True),
    ],
)
def test_half_sweep(monkeypatch, solver, weighting, cut):
    if cut:
        monkeypatch.setattr(row_plan, "SMALLEST_BLOCK", 3e3 if solver == "exact" else 0.5)
        monkeypatch.setattr(row_plan, "BLOCKS", 10**6)
        monkeypatch.setattr(row_plan, "FEWEST_BLOCKS", 10**6)
    if solver != "exact":
        cost = row_plan.STEP_COSTS[solver]
        monkeypatch.setattr(row_plan, "STEP_COSTS", {solver: lambda n, ld: 1e-3 * cost(n, ld)})
    rng, k, n = np.random.default_rng(0), 64, 90
    X = sp.csr_array(np.where(rng.random((30, n)) < np.linspace(0, 0.9, 30)[:, None], 1 + rng.random((30, n)), 0))
    Y, old = rng.normal(size=(n, k)).astype(np.float32), rng.normal(size=(30, k)).astype(np.float32)
    weights = model_weights(weighting, 1.0, 0.0 if weighting == "ratings" else 0.5)
    csr = X.indptr, X.indices.astype(np.int32), X.data.astype(np.float32)
    side = row_plan.plan_side(csr, np.full(30, 3, np.float32), weights, k, 0, solver)
    shift = rng.normal(size=n).astype(np.float32) if weighting == "ratings" else np.empty(0, np.float32)
    rows, columns = rows_for(k), rows_for(k) + 7
    with Pool(2) as pool:
        near = half_sweep.prepare_fixed(side.rotate, Y, Y.copy(), weights, k, pool)
        distant = near._replace(Y=behind(columns, near.Y))
        expected, found = old.copy(), behind(rows, old)
        sums = half_sweep.solve_rows(side, near, weights, *read_only(shift), expected, pool)
        moved = far(side, rows, columns)
        assert half_sweep.solve_rows(moved, distant, weights, *read_only(behind(columns, shift)), found, pool) == sums
    np.testing.assert_array_equal(found[rows:], expected)
    assert not found[rows - 64 : rows].any()
    assert bool(side.heavy.cells or side.steps.heavy.cells) == cut


def test_gram_matrix():
    Y = np.random.default_rng(0).normal(size=(700, 64)).astype(np.float32)
    first, out = rows_for(64), np.zeros((2, 64, 64))
    dense.gram_rows(*read_only(Y), 0, 700, np.empty((64, 64), np.float32), out[0])
    dense.gram_rows(*read_only(behind(first, Y)), first, first + 700, np.empty((64, 64), np.float32), out[1])
    np.testing.assert_array_equal(out[1], out[0])


# ---- SGD ------------------------------------------------------------------------------------------------------------


def test_sgd_steps(monkeypatch):
    """Every call of an epoch is made twice, the second time far away in every array."""
    rng = np.random.default_rng(0)
    X = sp.csr_array((rng.random((40, 60)) < 0.3).astype(np.float32))
    users, items, first, train = rows_for(32), rows_for(32) + 5, BIG // 3 + 1, sgd_cells.train_cells
    calls = []

    def both(where, starts, records, values, csr, model, rule, catalogue, scratch, point, ranked, losses):
        rows = [items if "item" in name else users for name in model._fields]
        big = sgd_cells.Model(*map(behind, rows, model))
        distant = behind(first, records + np.array([users, items, items], np.int32))
        far_csr = read_only(behind(users, csr[0] + BIG), behind(BIG, csr[1] + np.int32(items)))
        far_catalogue = catalogue._replace(
            items=catalogue.items + np.int32(items),
            block_of=behind(items, catalogue.block_of),
            log_q=behind(items, catalogue.log_q),
            log_free=behind(users, catalogue.log_free),
        )
        sums, rest = np.zeros_like(losses), (rule, far_catalogue, scratch, point, ranked)
        train(where, starts + first, distant, behind(first, values), far_csr, big, *rest, sums)
        train(where, starts, records, values, csr, model, rule, catalogue, scratch, point, ranked, losses)
        calls.append(sums.sum() == losses.sum())
        for name, row, one, other in zip(model._fields, rows, model, big):
            np.testing.assert_array_equal(other[row:] if one.size else other, one, err_msg=name)

    monkeypatch.setattr(sgd_cells, "train_cells", both)
    options = {"sampler": sampling.Hard(2), "negatives": 2, "schedule": "adagrad", "biases": True}
    lfm_np.sgd(X, losses.Logistic(), factors=32, epochs=1, random_state=0, num_threads=1, **options)
    assert calls == [True]


def test_sgd_draws():
    """Position t of a stream belongs to cell t, also beyond 2³¹; records and values go to places beyond it."""
    indptr, stored = np.array([0, 2, 5]), np.array([1, 3, 0, 2, 4], np.int32)
    cells_at, n = indptr + BIG, 6
    key, masses = sgd_epoch.key(0, 1, 0), np.array([n])
    csr, negatives = (behind(0, cells_at), behind(BIG, stored)), virtual(BIG + 5, np.int32)
    scratch = np.empty(3, np.int64), np.empty(7, np.int32)
    sgd_draws.draw_rows(key, 0, 2, *read_only(*csr, masses), np.zeros(1, np.int32), 0, *scratch, negatives)
    for row in range(2):
        own = stored[indptr[row] : indptr[row + 1]]
        free = np.setdiff1d(np.arange(n), own)
        for t in range(cells_at[row], cells_at[row + 1]):
            with np.errstate(over="ignore"):
                bits = np.uint64(random.draw(key, np.uint64(t)))
            assert negatives[t] == free[random.below(bits, len(free))]
    counts, blocks = np.zeros(1, np.int64), (np.zeros(n, np.int32), np.zeros((1, 1), np.int32))
    sgd_draws.count_cells(BIG, BIG + 5, csr[1], negatives, *blocks, counts)
    first = BIG // 3 + 1
    records, values = virtual((first + 5, 3), np.int32), virtual(BIG + 5, np.float32)
    data = behind(BIG, np.arange(5, dtype=np.float32))
    sgd_draws.scatter_rows(0, 2, *csr, data, negatives, *blocks, np.array([first]), records, values)
    assert counts[0] == 5
    np.testing.assert_array_equal(records[first:], np.c_[[0, 0, 1, 1, 1], stored, negatives[BIG:]])
    np.testing.assert_array_equal(values[first : first + 5], np.arange(5))


def test_initial_factors():
    first = rows_for(16)
    W, mask = virtual((first + 3, 16), np.float32), behind(first, np.ones(3, bool))
    sgd_draws.fill_uniform(sgd_epoch.key(0, 0, 0), first, first + 3, 16, 1.0, mask, W)
    with np.errstate(over="ignore"):
        bits = [random.draw(sgd_epoch.key(0, 0, 0), np.uint64(16 * first + t)) for t in range(48)]
    expected = 2 * ((np.array(bits, np.uint64) >> random.S11) * random.TO_UNIT) - 1
    np.testing.assert_array_equal(W[first:].ravel(), expected.astype(np.float32))


# ---- ranking --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("screen", [{"d": 0}, {"d": 14}, {"coded": True}])
def test_best_items(screen):
    rng, k, N = np.random.default_rng(0), 64, 10
    U, V = rng.normal(size=(30, k)).astype(np.float32), rng.normal(size=(1100, k)).astype(np.float32)
    V *= (0.8 ** np.arange(k)).astype(np.float32)
    seen = sp.csr_array(rng.random((30, 1100)) < 0.1)
    users, items = rows_for(k), rows_for(k) + 3
    constants, bias = (rng.normal(size=size).astype(np.float32) for size in (30, 1100))
    lists = []
    for m, n, start in ((0, 0, 0), (users, items, BIG)):
        model = Model(*read_only(behind(m, U), behind(n, V), behind(m, constants), behind(n, bias)))
        index = build_index(model, n + np.arange(1100), **screen)
        rows = behind(start, seen.indices.astype(np.int32) + np.int32(n))
        nobody, some = np.empty(0, np.int64), m + np.arange(30)
        forbidden = Forbidden(*read_only(np.arange(30), seen.indptr.astype(np.int64) + start, rows, nobody))
        ids, found, again = np.empty((30, N), np.int64), np.empty((30, N), np.float32), np.empty(30 * N, np.float32)
        topk.best_items(model, index, forbidden, *read_only(some), found, ids)
        pairs = read_only(np.repeat(some, N), ids.ravel())
        pair_scores(model, *pairs, 30 * N, again)
        np.testing.assert_array_equal(again, found.ravel())
        lists.append((ids - n, found))
    np.testing.assert_array_equal(lists[0], lists[1])


# ---- index types ----------------------------------------------------------------------------------------------------


def everything(X, test):
    """Numbers from every function that a matrix goes into."""
    fitted = lfm_np.als(X, factors=4, iterations=2, random_state=0)
    stepped = lfm_np.als(X, factors=4, iterations=2, random_state=0, solver="cg")
    drawn = lfm_np.sgd(X, losses.BPR(), factors=4, epochs=2, random_state=0)
    scores = lfm_np.evaluate(fitted, X, test, ("recall@3", "auc"))
    best, few = fitted.recommend(np.arange(X.shape[0]), N=3, seen=X), fitted.recommend([7], N=3, seen=X)
    yield from (fitted.user_factors, stepped.item_factors, drawn.user_factors, best.ids, few.ids)
    yield from (list(scores.values()), lfm_np.objective(X, fitted))
    yield from (fitted.fold_in_users(X[:3]).user_factors, fitted.fold_in_items(X[:, :3]).item_factors)
    yield fitted.explain(0, 1, X).contributions


@pytest.mark.small
def test_64_bit_indices_throughout(monkeypatch):
    """With the limits at three cells everything has 64-bit indices, in SciPy's own conversions too."""
    rng = np.random.default_rng(0)
    users, items = np.nonzero(rng.random((30, 20)) < 0.3)
    results = []
    for limit in (None, 3):
        if limit:
            monkeypatch.setattr(cells, "LARGEST", limit)
            monkeypatch.setattr(sp.csr_array, "_get_index_dtype", lambda *_, **__: np.int64, raising=False)
        data = lfm_np.Interactions.from_arrays(users, items, timestamps=users + items)
        assert data.matrix.indptr.dtype == data.matrix.indices.dtype == (np.int64 if limit else np.int32)
        train, test = data.split("last")
        results.append([*everything(train.matrix, test.matrix), data.core(2, 2).users, data.binarize(1).matrix.nnz])
    for narrow, wide in zip(*results):
        np.testing.assert_array_equal(narrow, wide)


@pytest.mark.small
def test_too_many_rows_are_refused():
    """Rows and columns are 32-bit numbers; a matrix of 2³¹ columns is refused, not cut."""
    wide = sp.csr_array((np.ones(1, np.float32), [2**31 - 1], [0, 1]), shape=(1, 2**31))
    for fit in (lfm_np.als, lfm_np.sgd):
        with pytest.raises(ValueError, match="X must have at most 2147483646 rows and columns"):
            fit(wide)
    rows = np.broadcast_to(np.float32(0), (2**31, 0))
    with pytest.raises(ValueError, match="factors must have at most 2147483646 rows"):
        lfm_np.Factors(np.zeros((1, 0), np.float32), rows)
