"""Factors: the result of every solver, and what one does with it."""

from __future__ import annotations

import copy
import dataclasses
import enum
from collections.abc import Sequence
from typing import Any

import numpy as np

from lfm_np.validation import check_bias, check_factors, check_float


class Status(enum.StrEnum):
    """Why a solver ended."""

    CONVERGED = "converged"
    """The tolerance was met."""
    MAX_ITERATIONS = "max_iterations"
    """All sweeps asked for were done."""
    STOPPED = "stopped"
    """The callback raised StopIteration."""
    INTERRUPTED = "interrupted"
    """Ctrl-C; the factors are those of the last complete sweep."""


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Factors:
    """A factored interaction matrix: score(u, i) = μ + b_u + b_i + U[u]·V[i].

    Parameters
    ----------
    user_factors : ndarray, shape (m, k), float32 or float64
        U. Kept without a copy where it is C-contiguous already; do not write to it afterwards.
    item_factors : ndarray, shape (n, k), same dtype
        V.
    user_bias : ndarray, shape (m,), optional
        b_u; None where the model has none.
    item_bias : ndarray, shape (n,), optional
        b_i.
    global_bias : float, optional
        μ.
    history : sequence of dict
        One record a sweep.
    status : Status
        Why the solver ended.
    params : dict, optional
        What was asked and what was chosen; values that JSON can hold.

    Raises
    ------
    TypeError, ValueError
        An array of the wrong dtype, shape or with a non-finite value; the message names it.

    Notes
    -----
    The object and its arrays are read-only. It can be pickled and deep-copied; to keep it, prefer ``save``.

    Examples
    --------
    >>> import numpy as np
    >>> from lfm_np import Factors
    >>> factors = Factors(np.eye(2, dtype=np.float32), np.ones((3, 2), np.float32))
    >>> factors
    Factors(2 users, 3 items, 2 factors, float32, max_iterations)
    """

    user_factors: np.ndarray
    item_factors: np.ndarray
    _: dataclasses.KW_ONLY
    user_bias: np.ndarray | None = None
    item_bias: np.ndarray | None = None
    global_bias: float | None = None
    history: Sequence[dict[str, Any]] = ()
    status: Status = Status.MAX_ITERATIONS
    params: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        U, V = check_factors(self.user_factors, self.item_factors)
        checked = {
            "user_factors": U,
            "item_factors": V,
            "user_bias": check_bias("user_bias", self.user_bias, len(U), U.dtype),
            "item_bias": check_bias("item_bias", self.item_bias, len(V), U.dtype),
            "global_bias": None if self.global_bias is None else check_float("global_bias", self.global_bias),
            "history": [dict(record) for record in self.history],
            "status": Status(self.status),
            "params": copy.deepcopy(self.params) if self.params is not None else {},
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    def __reduce__(self) -> tuple[Any, ...]:
        # Through the constructor: NumPy's own pickle would give writable arrays back.
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return _rebuild, (type(self), values)

    def __repr__(self) -> str:
        (m, k), n = self.user_factors.shape, len(self.item_factors)
        return f"{type(self).__name__}({m} users, {n} items, {k} factors, {self.user_factors.dtype}, {self.status})"


def _rebuild(cls: type[Factors], values: dict[str, Any]) -> Factors:
    return cls(**values)
