"""The plan of a half-sweep of ALS: which rows take which system, and in what blocks.

It is a function of the row lengths and k, never of the number of threads.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from lfm_np.kernels.simd import LANES, WIDTH
from lfm_np.quiet import quietly
from lfm_np.validation import frozen

# Measured costs of the kernels in nanoseconds (`python -m benchmarks.als_kernels`, docs/als_performance.md).
# Only their ratios matter: they decide which system a row takes and where blocks are cut.
DUAL_ROW, DUAL_CELL, DUAL_SQUARE, DUAL_GRAM, DUAL_CUBE = 58.0, 0.32, 0.44, 0.0090, 0.0058
PRIMAL_CELL, PRIMAL_GRAM, PRIMAL_SQUARE, PRIMAL_CUBE = 0.41, 0.0080, 0.47, 0.0027
PRIMAL_FAR, NEAR_FACTORS = 0.0075, 256  # eight systems of more factors are beyond the second-level cache
GRAM_ROW, ROTATE_FACTOR, ROTATE_SQUARE = 0.014, 0.9, 0.015
CG_CELL, CG_FACTOR, CG_PRODUCT = 0.55, 0.84, 0.122
SUBSPACE_CELL, SUBSPACE_PRODUCT = 12.0, 0.12

LONGEST_DUAL = 1.0  # cells of a row that takes the dual system, in units of k

CG_STEPS = 2  # conjugate gradient steps a half-sweep
WIDTH_OF_BLOCKS = 64  # factors that a step of "subspace" solves for at once
FEWEST_FOR_STEPS, MARGIN = 64, 1.1  # of "auto": factors, and how much cheaper a sweep of steps must be

BLOCKS = 256  # a row that costs more than so large a share of all is cut into segments of it
FEWEST_BLOCKS = 16  # where systems of segments would take too much memory beside the factors
NEVER = np.iinfo(np.int64).max  # as ``fixed_rows``: too many to rotate
FINE_BLOCKS = 1024  # about so many blocks of whole rows at most: they even out what 64 threads wait for each other
ROWS_AT_ONCE = 1 << 20  # rows looked at together where all rows of a side are
SMALLEST_BLOCK = 400e3  # ns; handing out a block costs about 15 µs of Python

EMPTY, DUAL, PRIMAL, HEAVY, STEPPED, STEPPED_HEAVY = range(-1, 5)  # kinds of rows


class Weights(NamedTuple):
    """d = c − α₀ and t = c·p of a cell of value x: d = d0 + d1·x, t = t0 + t1·x."""

    d0: float
    d1: float
    t0: float
    t1: float
    a0: float

    @property
    def c0(self) -> float:
        """c = c0 + d1·x; see `als_rows.least_confidence`."""
        return self.t0 if self.d0 < 0 else self.d0 + self.a0


def dual_cost(n: np.ndarray, ld: int) -> np.ndarray:
    """Estimated ns of a row of ``n`` cells by its n × n system."""
    n = n.astype(np.int64, copy=False)  # n·ld may be beyond int32, which lengths of int32 offsets are
    return DUAL_ROW + n * ld * DUAL_CELL + n * (DUAL_SQUARE * n + DUAL_GRAM * n * ld + DUAL_CUBE * n * n)


def primal_cost(n: np.ndarray, ld: int) -> np.ndarray:
    """Estimated ns of a row of ``n`` cells by its k × k system."""
    n = n.astype(np.int64, copy=False)
    far = PRIMAL_FAR * max(0, ld - NEAR_FACTORS)
    return n * ld * (PRIMAL_CELL + PRIMAL_GRAM * ld) + ld * ld * (PRIMAL_SQUARE + PRIMAL_CUBE * ld + far)


def rotate_cost(ld: int) -> float:
    """Estimated ns of a row that is brought to another basis."""
    return ld * (ROTATE_FACTOR + ROTATE_SQUARE * ld)


def cg_cost(n: np.ndarray, ld: int) -> np.ndarray:
    """Estimated ns of CG_STEPS steps of a row of ``n`` cells: a gradient with its diagonal, then a product a step."""
    passes = CG_STEPS + 1.5
    return passes * (n * (CG_CELL + CG_PRODUCT * ld) + CG_FACTOR * ld)


def subspace_cost(n: np.ndarray, ld: int) -> np.ndarray:
    """Estimated ns of one pass of a row of ``n`` cells over its blocks of factors: small systems, and the scores."""
    n = n.astype(np.int64, copy=False)
    width = subspace_width(ld)
    scores = n * (SUBSPACE_CELL + SUBSPACE_PRODUCT * width)
    return -(-ld // width) * (primal_cost(n, width) + scores) + n * ld * SUBSPACE_PRODUCT


def subspace_width(ld: int) -> int:
    return min(ld, _forced.get() or WIDTH_OF_BLOCKS)


_forced: ContextVar[int] = ContextVar("forced", default=0)


@contextlib.contextmanager
def every_row_steps(width: int) -> Iterator[None]:
    """Let every row take a step, with blocks of ``width`` factors: to compare steps on a small problem."""
    token = _forced.set(width)
    try:
        yield
    finally:
        _forced.reset(token)


STEP_COSTS = {"cg": cg_cost, "subspace": subspace_cost}


class Segments(NamedTuple):
    """Rows too heavy for one block, cut into segments of cells."""

    rows: np.ndarray
    first: np.ndarray  # (rows + 1,) where each row's segments begin
    cells: list[tuple[int, int, int]]  # place of the row, first cell, last cell + 1


class Steps(NamedTuple):
    """The rows that take a step from their old values, since that is cheaper than solving them."""

    solver: str
    width: int  # of the blocks of factors of "subspace"
    order: np.ndarray  # by length
    blocks: list[tuple[int, int]]  # lo, hi of ``order``
    heavy: Segments


@dataclass(frozen=True)
class Side:
    """The rows of one side, their regularisation and the plan of their half-sweep."""

    csr: tuple[np.ndarray, np.ndarray, np.ndarray]  # indptr int64, indices int32, data; read-only
    lam: np.ndarray  # (rows,) λ_u
    k: int  # factors, the bias included
    empty: np.ndarray  # rows without cells: the zero vector
    order: np.ndarray  # the other rows, int32: dual rows by length, then primal rows by length, then heavy rows
    dual: list[tuple[int, int]]  # blocks lo, hi of ``order``
    primal: list[tuple[int, int]]
    heavy: Segments
    steps: Steps
    rotate: bool  # bring the other side to the basis in which its Gram matrix is diagonal
    noun: str = "row"  # what a message calls one of them
    first: int = 0  # and the number of the first of them

    def parts(self) -> Iterator[Side]:
        """The side in parts of consecutive rows: here itself."""
        yield self

    @property
    def rows(self) -> int:
        return len(self.lam)

    @property
    def stepped(self) -> np.ndarray:
        """The rows that take a step, ascending."""
        return np.sort(np.concatenate((self.steps.order, self.steps.heavy.rows)))

    def summary(self) -> dict[str, int | bool]:
        """How many rows take which system or step, for ``Factors.params``."""
        dual = self.dual[-1][1] if self.dual else 0
        blocks = len(self.dual) + len(self.primal) + len(self.heavy.cells)
        blocks += len(self.steps.blocks) + len(self.steps.heavy.cells)
        stepped = len(self.steps.order) + len(self.steps.heavy.rows)
        solved = {"dual": dual, "primal": self.rows - len(self.empty) - dual - stepped}
        return solved | {"stepped": stepped, "empty": len(self.empty), "blocks": blocks, "rotated": self.rotate}


def padded(k: int) -> int:
    """Columns of a factor matrix in memory: k, up to a whole number of registers."""
    return -(-k // WIDTH) * WIDTH


class Scheme(NamedTuple):
    """What the plan of a row depends on beside the row itself: the rows of a side can then be planned in parts."""

    k: int
    solver: str
    rotate: bool
    diagonal: bool  # whether G is, which the dual system and the steps need
    target: float  # ns; a row that is much heavier is cut into segments
    cost: float  # ns of the half-sweep, with the Gram matrix and the rotations


def steps_may_pay(k: int, weights: Weights) -> bool:
    """Whether "auto" looks at the rows at all."""
    return k >= FEWEST_FOR_STEPS and weights.a0 != 0


def auto_solver(k: int, weights: Weights, users: np.ndarray, items: np.ndarray) -> str:
    """What solver="auto" stands for, given the cells of every row and of every column.

    "cg" where its sweep is estimated to cost less by a margin: on implicit feedback a sweep of steps brings the
    objective as far as one of solutions (`python -m benchmarks.als_choice`). Below 64 factors a sweep is cheap in any
    case and stays exact.
    """
    if not steps_may_pay(k, weights):
        return "exact"
    exact, cg = (
        sum(
            choose_scheme(own, np.zeros(len(own), np.bool_), weights, k, len(other), solver).cost
            for own, other in ((users, items), (items, users))
        )
        for solver in ("exact", "cg")
    )
    return "cg" if MARGIN * cg < exact else "exact"


def plan_side(
    csr: tuple[np.ndarray, ...], lam: np.ndarray, weights: Weights, k: int, fixed_rows: int, solver: str = "exact"
) -> Side:
    """Give every row the cheaper of its systems, or a step of ``solver``, and cut the rows into blocks of equal cost.

    The dual system and the steps need a diagonal G, for which a tall fixed side must be rotated: that is done when it
    pays. A row with c < α₀ somewhere has no √D and takes the primal system; so does a row of more than k cells,
    whose dual matrix is singular but for λ_u, even where padding to a whole number of registers makes it the cheaper.
    """
    indptr, _, data = csr
    negative = rows_below_weight(indptr, data, weights)
    scheme = choose_scheme(np.diff(indptr), negative, weights, k, fixed_rows, solver)
    return plan_rows(csr, lam, scheme, negative)


def choose_scheme(
    lengths: np.ndarray, negative: np.ndarray, weights: Weights, k: int, fixed_rows: int, solver: str
) -> Scheme:
    """The scheme of a side of rows of ``lengths`` cells, of which those marked ``negative`` have c < α₀ somewhere."""
    saved = cheapest = primal = 0.0
    stepped, ld = 0, padded(k)
    for lo in range(0, len(lengths), ROWS_AT_ONCE):
        rows = slice(lo, lo + ROWS_AT_ONCE)
        kind, cost = _kinds(lengths[rows], negative[rows], Scheme(k, solver, True, True, np.inf, np.nan))
        primal_ns = primal_cost(lengths[rows], ld)
        saved += float((primal_ns - cost)[kind == DUAL].sum())
        cheapest, primal = cheapest + float(cost.sum()), primal + float(primal_ns.sum())
        stepped += int(np.count_nonzero(kind == STEPPED))
    rotate = weights.a0 != 0 and (stepped > 0 or saved > rotate_cost(ld) * fixed_rows)
    diagonal = rotate or weights.a0 == 0
    rows_ns = cheapest if diagonal else primal
    turned = rotate * (fixed_rows + stepped)  # the old rows too, from which steps start
    shared_ns = GRAM_ROW * fixed_rows * (weights.a0 != 0) * ld * ld + rotate_cost(ld) * turned
    segments = BLOCKS if solver != "exact" else most_segments(len(lengths) + fixed_rows * (fixed_rows < NEVER), ld)
    return Scheme(k, solver, rotate, diagonal, max(SMALLEST_BLOCK, rows_ns / segments), rows_ns + shared_ns)


def most_segments(rows: int, ld: int) -> int:
    """Into about how many segments all rows together may be cut: each has a system of ld² numbers of its own.

    All of them take at most an eighth of the 2·ld numbers a row that the factors take, or as much as the scratch of a
    thread. Rows that take steps have no such systems.
    """
    return min(BLOCKS, max(FEWEST_BLOCKS, rows // (4 * ld)))


def count_kinds(lengths: np.ndarray, negative: np.ndarray, scheme: Scheme) -> dict[str, int]:
    """How many rows take which system or step, or are empty."""
    count = np.zeros(6, np.int64)
    for lo in range(0, len(lengths), ROWS_AT_ONCE):
        rows = slice(lo, lo + ROWS_AT_ONCE)
        count += np.bincount(_kinds(lengths[rows], negative[rows], scheme)[0] + 1, minlength=6)
    empty, dual, *others = count.tolist()
    return {"dual": dual, "primal": sum(others[:2]), "stepped": sum(others[2:]), "empty": empty}


def stepped_rows(lengths: np.ndarray, negative: np.ndarray, scheme: Scheme) -> np.ndarray:
    """The rows that take a step, ascending."""
    found = [np.empty(0, np.int32)]
    for lo in range(0, len(lengths), ROWS_AT_ONCE):
        rows = slice(lo, lo + ROWS_AT_ONCE)
        found.append(
            (lo + np.flatnonzero(_kinds(lengths[rows], negative[rows], scheme)[0] >= STEPPED)).astype(np.int32)
        )
    return np.concatenate(found)


def _kinds(lengths: np.ndarray, negative: np.ndarray, scheme: Scheme) -> tuple[np.ndarray, np.ndarray]:
    """The kind of every row, and its estimated ns."""
    ld = padded(scheme.k)
    dual_ns, primal_ns = exact_costs(lengths, negative, scheme.k)
    stepped = step_pays(lengths, np.minimum(dual_ns, primal_ns), ld, scheme.solver)
    dual = (dual_ns < primal_ns) & ~stepped & scheme.diagonal
    cost = np.where(dual, dual_ns, primal_ns)
    if stepped.any():
        cost[stepped] = STEP_COSTS[scheme.solver](lengths[stepped], ld)
    heavy = ~dual & (cost > 1.5 * scheme.target)
    kind = np.where(lengths == 0, EMPTY, np.where(dual, DUAL, PRIMAL + heavy + 2 * stepped)).astype(np.int8)
    return kind, cost


def plan_rows(
    csr: tuple[np.ndarray, ...],
    lam: np.ndarray,
    scheme: Scheme,
    negative: np.ndarray,
    first: int = 0,
    noun: str = "row",
) -> Side:
    """The plan of a side's rows ``first``, ``first`` + 1 …, all of them or some: a row is solved to the same bits."""
    indptr, indices, data = (frozen(array) for array in csr)
    indptr = frozen(indptr.astype(np.int64, copy=False))
    lengths = np.diff(indptr)
    kind, cost = _kinds(lengths, negative, scheme)
    # The dual kernel pads to multiples of four cells: rows of one class stay in the matrix's order, which memory likes,
    # unless λ_u differs by length (its scales are computed once a run of equal λ_u).
    size = lengths if lam.size and np.ptp(lam) else -(-lengths // 4)
    order = np.lexsort((size, kind)).astype(np.int32)
    ends = np.cumsum(np.bincount(kind + 1, minlength=6))
    empty, *light, stepped_light, stepped_heavy = np.split(order, ends[:-1])
    exact = np.concatenate(light[:2])
    target = min(scheme.target, max(SMALLEST_BLOCK, float(cost.sum()) / FINE_BLOCKS))
    return Side(
        csr=(indptr, indices, data),
        lam=frozen(lam),
        k=scheme.k,
        empty=empty,
        order=frozen(exact),
        dual=_cut(cost[exact], 0, len(light[0]), target),
        primal=_cut_primal(cost[exact], len(light[0]), target, min(scheme.target, max(target, 4 * SMALLEST_BLOCK))),
        heavy=_segments(light[2], indptr, cost, scheme.target),
        steps=Steps(
            scheme.solver,
            subspace_width(padded(scheme.k)),
            frozen(stepped_light),
            _cut(cost[stepped_light], 0, len(stepped_light), target),
            _segments(stepped_heavy, indptr, cost, scheme.target),
        ),
        rotate=scheme.rotate,
        noun=noun,
        first=first,
    )


def exact_costs(lengths: np.ndarray, negative: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Estimated ns of every row by its dual (inf where there is none) and by its primal system."""
    dual_ns = dual_cost(lengths, padded(k))
    dual_ns[negative | (lengths > LONGEST_DUAL * k)] = np.inf
    return dual_ns, primal_cost(lengths, padded(k))


def step_pays(lengths: np.ndarray, exact_ns: np.ndarray, ld: int, solver: str) -> np.ndarray:
    """Which rows take a step of ``solver``, because it costs less than their exact solution."""
    if solver == "exact":
        return np.zeros(len(lengths), np.bool_)
    return (lengths > 0) & ((STEP_COSTS[solver](lengths, ld) < exact_ns) | bool(_forced.get()))


def _segments(rows: np.ndarray, indptr: np.ndarray, cost: np.ndarray, target: float) -> Segments:
    """Each of the rows in segments of about ``target`` cost."""
    pieces = np.ceil(cost[rows] / target).astype(np.int64)
    cells = []
    for place, (row, count) in enumerate(zip(rows.tolist(), pieces.tolist())):
        cuts = (indptr[row] + np.arange(count + 1, dtype=np.int64) * (indptr[row + 1] - indptr[row]) // count).tolist()
        cells += [(place, a, b) for a, b in itertools.pairwise(cuts)]
    return Segments(frozen(rows), frozen(np.concatenate(([0], np.cumsum(pieces)))), cells)


def rows_below_weight(indptr: np.ndarray, data: np.ndarray, weights: Weights) -> np.ndarray:
    """Which rows have c < α₀ somewhere."""
    if data.size and weights.d0 + weights.d1 * min(0.0, float(data.min())) < 0:
        return rows_with_negative(quietly(lambda: weights.d0 + weights.d1 * data), indptr)
    return np.zeros(len(indptr) - 1, np.bool_)


def rows_with_negative(values: np.ndarray, indptr: np.ndarray) -> np.ndarray:
    """Which rows hold a negative value."""
    count = np.concatenate(([0], np.cumsum(values < 0)))
    return count[indptr[1:]] > count[indptr[:-1]]


def _cut_primal(cost: np.ndarray, start: int, fine: float, coarse: float) -> list[tuple[int, int]]:
    """Blocks of rows from ``start`` on, whose cost ascends.

    Eight systems are solved at the price of one. Whole groups of eight are cut as ``fine`` says, and rows of which
    eight cost more by ``coarse``, beside which the price of a group that is not full is small.
    """
    split = start + int(np.searchsorted(cost[start:], fine / LANES)) // LANES * LANES
    return _cut(cost, start, split, fine) + _cut(cost, split, len(cost), coarse, group=1)


def _cut(cost: np.ndarray, start: int, stop: int, target: float, group: int = LANES) -> list[tuple[int, int]]:
    """Blocks of whole groups of rows, each of about ``target`` cost."""
    if start == stop:
        return []
    total = np.cumsum(cost[start:stop])
    wanted = np.arange(1, max(1, round(total[-1] / target))) * (total[-1] / max(1, round(total[-1] / target)))
    inner = start + np.searchsorted(total, wanted) // group * group
    edges = np.unique(np.concatenate(([start], inner, [stop])))
    return list(itertools.pairwise(edges.tolist()))
