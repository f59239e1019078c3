"""The weighted least-squares problem that ALS solves: a checked matrix, its weights and its regularisation."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import scipy.sparse as sp

from lfm_np.quiet import quietly
from lfm_np.row_plan import Weights, auto_solver, padded, steps_may_pay
from lfm_np.stored import StoredMatrix
from lfm_np.validation import (
    check_bool,
    check_cells,
    check_choice,
    check_dtype,
    check_float,
    check_int,
    share_csr,
    shown,
)

WEIGHTINGS = ("hu-koren", "ials", "confidence", "ratings")


def narrow(X: sp.csr_array) -> sp.csr_array:
    """X with int32 column indices: half the memory, and one kind of kernel to compile."""
    if X.indices.dtype == np.int32:
        return X
    return share_csr(X.data, X.indices.astype(np.int32), X.indptr, X.shape)


@dataclass(frozen=True)
class Problem:
    """A checked matrix with its weights and regularisation."""

    X: Any  # a checked csr_array; in `als` perhaps a StoredMatrix
    factors: int
    weights: Weights
    regularization: float
    exponent: float
    biases: bool
    params: dict[str, Any]

    @property
    def columns(self) -> int:
        """Columns of the factor matrices: the factors, the bias if any, and padding."""
        return padded(self.factors + self.biases)

    def auto_solver(self) -> str:
        """What solver="auto" stands for."""
        X, k = self.X, self.factors + self.biases
        if not steps_may_pay(k, self.weights):  # the lengths are a pass over the cells
            return "exact"
        if isinstance(X, StoredMatrix):
            lengths = X.rows.lengths(), X.columns.lengths()
        else:
            lengths = np.diff(X.indptr), np.bincount(X.indices, minlength=X.shape[1])
        return auto_solver(k, self.weights, *lengths)

    def transposed(self) -> Problem:
        """The same problem with the roles of rows and columns exchanged."""
        return replace(self, X=self.X.T.tocsr())

    def row_regularization(self, lengths: np.ndarray, others: int) -> np.ndarray:
        """λ_u = λ (n_u + α₀ n)^ν of rows of ``lengths`` cells, ``others`` being the length of the other side."""
        count = lengths + self.weights.a0 * others
        if not self.regularization:
            return np.zeros(len(lengths), self.X.dtype)  # whatever the power is, which may overflow
        lam = quietly(lambda: self.regularization * count**self.exponent)
        if lam.max(initial=0) > float(np.finfo(self.X.dtype).max):
            raise ValueError(f"regularization · (cells of a row)^regularization_exponent overflows {self.X.dtype}")
        return quietly(lam.astype, self.X.dtype)


def model_weights(weighting: str, alpha: float, unobserved_weight: float) -> Weights:
    """d = c − α₀ and t = c·p of a stored value, as affine functions of it (the table in `als`)."""
    a0 = unobserved_weight
    return {
        "hu-koren": Weights(1 - a0, alpha, 1.0, alpha, a0),
        "ials": Weights(0.0, alpha, 0.0, alpha, a0),
        "confidence": Weights(-a0, alpha, 0.0, alpha, a0),
        "ratings": Weights(1.0, 0.0, 0.0, 1.0, 0.0),
    }[weighting]


def check_problem(
    X: Any,
    *,
    factors: Any,
    regularization: Any,
    alpha: Any,
    unobserved_weight: Any,
    exponent: Any,
    weighting: Any,
    biases: Any,
    dtype: Any,
    mean: float = 0.0,
    shape: tuple[int | None, int | None] = (None, None),
    stored: bool = False,
    num_threads: int = 1,
    name: str = "X",
) -> Problem:
    """Check what `als` is asked to minimise; see there for the meaning of the arguments.

    ``mean``: the μ of a model that is there already. X may be a StoredMatrix where ``stored`` says so. ``num_threads``
    may look at it. ``name``: what the caller calls X.
    """
    weighting = check_choice("weighting", weighting, WEIGHTINGS)
    ratings = weighting == "ratings"
    factors = check_int("factors", factors, 1, 65_536)
    regularization = check_float("regularization", regularization, 0.0)
    alpha = check_float("alpha", alpha, 0.0)
    exponent = check_float("regularization_exponent", exponent, 0.0)
    if unobserved_weight is None:
        unobserved_weight = 0.0 if ratings else 1.0
    unobserved_weight = check_float("unobserved_weight", unobserved_weight, 0.0)
    if ratings and unobserved_weight:
        raise ValueError(f'unobserved_weight must be 0 with weighting="ratings", got {shown(unobserved_weight)}')
    if check_bool("biases", biases) and not ratings:
        raise ValueError(f'biases need weighting="ratings", got weighting={weighting!r}')
    if mean and not ratings:
        raise ValueError(f'a model with a global_bias needs weighting="ratings", got weighting={weighting!r}')
    dtype = check_dtype("dtype", dtype)
    if stored and isinstance(X, StoredMatrix):
        cells, highest = X.checked(name, ratings, ratings, dtype), X.highest
    else:
        cells, highest = check_cells(
            name,
            X,
            shape=shape,
            zeros="keep" if ratings else "drop",
            duplicates="refuse" if ratings else "sum",
            negative=ratings,
            dtype=dtype,
            num_threads=num_threads,
        )
    weights = model_weights(weighting, alpha, unobserved_weight)
    if unobserved_weight > float(np.finfo(dtype).max):
        raise ValueError(f"unobserved_weight overflows {dtype}, got {unobserved_weight:g}")
    # Ratings are not multiplied.
    if not ratings and weights.t0 + weights.t1 * highest > float(np.finfo(dtype).max):
        raise ValueError(f"alpha · value overflows {dtype}: alpha is {alpha:g} and the largest value {highest:g}")
    least = float(np.finfo(dtype).tiny)
    if 0 < unobserved_weight < least:
        raise ValueError(f"unobserved_weight must be 0 or at least {least:.3g} in {dtype}, got {unobserved_weight:g}")
    if weights.d0 == weights.a0 == 0 < min(alpha, highest) and alpha * highest < least:
        raise ValueError(f"alpha · value underflows {dtype}: alpha is {alpha:g} and the largest value {highest:g}")
    params = {
        "factors": factors,
        "regularization": regularization,
        "alpha": alpha,
        "unobserved_weight": unobserved_weight,
        "regularization_exponent": exponent,
        "weighting": weighting,
        "biases": bool(biases),
        "dtype": dtype.name,
    }
    return Problem(cells, factors, weights, regularization, exponent, bool(biases), params)


def same_problem(problem: Problem, X: Any) -> Problem:
    """The same problem with other cells, which are checked."""
    asked = dict(problem.params)
    return check_problem(X, exponent=asked.pop("regularization_exponent"), **asked)
