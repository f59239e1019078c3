"""A side of a stored matrix: planned as a whole from the lengths of its rows, then read and solved part by part."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from lfm_np import row_plan
from lfm_np.kernels.jit import Pool
from lfm_np.memory import cells_at_once
from lfm_np.row_plan import Scheme, Side, Weights, plan_rows, rows_below_weight
from lfm_np.stored.files import StoredCsr, cut
from lfm_np.stored.matrix import StoredMatrix

if TYPE_CHECKING:
    from lfm_np.problem import Problem


def stored_sides(problem: Problem, solver: str, num_threads: int) -> tuple[StoredSide, StoredSide]:
    """The rows and the columns of a problem whose X is stored.

    Raises
    ------
    MemoryError
        The factors, or the longest row or column, do not fit the memory that X says.
    """
    X: StoredMatrix = problem.X
    offsets = [csr.offsets() for csr in (X.rows, X.columns)]
    longest = max(int(np.diff(indptr).max(initial=0)) for indptr in offsets)
    options: dict[str, Any] = {"factors": problem.factors, "biases": problem.biases, "num_threads": num_threads}
    cells = cells_at_once(X, longest=longest, **options)
    rows, columns = (
        StoredSide(csr, indptr, problem.row_regularization(np.diff(indptr), csr.width), X.lowest, cells, plan, noun)
        for csr, indptr, noun in zip((X.rows, X.columns), offsets, ("row", "column"))
        for plan in [(problem.weights, problem.factors + problem.biases, csr.width, solver)]
    )
    return rows, columns


class StoredSide:
    """What `row_plan.Side` is for a matrix in memory, in parts of consecutive rows that have at most ``cells`` cells.

    Parameters
    ----------
    csr : StoredCsr
    indptr : int64 array
        That of ``csr``.
    lam : array
        λ_u of every row.
    lowest : float
        The smallest value.
    cells : int
    asked : (Weights, int, int, str)
        The weights, k, the length of the other side and the solver, as in `row_plan.plan_side`.
    noun : str
        What a message calls a row.
    """

    def __init__(
        self,
        csr: StoredCsr,
        indptr: np.ndarray,
        lam: np.ndarray,
        lowest: float,
        cells: int,
        asked: tuple[Weights, int, int, str],
        noun: str,
    ) -> None:
        self.lam, self._csr, self._indptr, self._noun = lam, csr, indptr, noun
        self._runs = cut(indptr, cells)
        self._most = max((int(indptr[hi] - indptr[lo]) for lo, hi in self._runs), default=0)
        weights = asked[0]
        self._negative = np.zeros(len(lam), np.bool_)
        if weights.d0 + weights.d1 * min(0.0, lowest) < 0:
            buffers = csr.buffers(self._most)
            for lo, hi in self._runs:
                own, _, data = csr.read_rows(indptr, lo, hi, buffers)
                self._negative[lo:hi] = rows_below_weight(own, data, weights)
            del buffers
        lengths = np.diff(indptr)
        self._scheme: Scheme = row_plan.choose_scheme(lengths, self._negative, *asked)
        self._counts = row_plan.count_kinds(lengths, self._negative, self._scheme)

    @property
    def rotate(self) -> bool:
        return self._scheme.rotate

    @property
    def stepped(self) -> np.ndarray:
        return row_plan.stepped_rows(np.diff(self._indptr), self._negative, self._scheme)

    def summary(self) -> dict[str, int | bool]:
        return self._counts | {"blocks": len(self._runs), "rotated": self.rotate}

    def parts(self) -> Iterator[Side]:
        """The rows, once and in order. While one part is solved, the next is read over the one before."""
        buffers = [self._csr.buffers(self._most) for _ in self._runs[:2]]
        with Pool(2) as reader:

            def read(part: int) -> Callable[[], tuple[np.ndarray, ...]]:
                return reader.begin(partial(self._csr.read_rows, self._indptr, *self._runs[part], buffers[part % 2]))

            coming = [read(0)] if self._runs else []
            for part, (lo, hi) in enumerate(self._runs):
                csr = coming.pop()()
                if part + 1 < len(self._runs):
                    coming.append(read(part + 1))
                yield plan_rows(csr, self.lam[lo:hi], self._scheme, self._negative[lo:hi], lo, self._noun)
