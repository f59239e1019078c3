"""Every argument of `sgd` checked and turned into what its epochs need."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp

from lfm_np import losses, sampling, sgd_grid, validation
from lfm_np.canonical import canonical
from lfm_np.errors import SolverError
from lfm_np.kernels import sgd_cells, sgd_loss
from lfm_np.losses import protocol
from lfm_np.memory import refuse_what_cannot_fit
from lfm_np.quiet import quietly
from lfm_np.sgd_grid import Grid
from lfm_np.signals import pass_on

KINDS = {"pointwise": sgd_cells.POINTWISE, "pairwise": sgd_cells.PAIRWISE, "list": sgd_cells.LIST}
SCHEDULES = ("constant", "inverse", "adagrad")
PARTS = ("user", "item", "negative", "bias")


class Plan(NamedTuple):
    """What stays the same over a run."""

    X: sp.csr_array
    protocol: protocol.Protocol
    pointer: Any
    masses: np.ndarray | None  # None: no negatives
    grid: Grid
    rule: sgd_cells.Rule
    biases: bool | str
    schedule: str
    params: dict[str, Any]
    seed: int = 0

    @property
    def dtype(self) -> np.dtype:
        return self.X.dtype

    @property
    def uses_values(self) -> bool:
        return _uses_values(self.protocol)

    def log_q(self, free: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What logQ correction takes off a negative's score: of an item, less that of the row; empty without it.

        ``free``: the mass that every row may draw from. T·log(M·q), so that s/T becomes s/T − log(M·q).
        """
        if self.masses is None or not self.protocol.correct_logq:
            return np.empty(0), np.empty(0)
        own = np.diff(self.masses) if len(self.masses) > 1 else np.ones(self.X.shape[1], np.int64)
        items, rows = (np.maximum(mass, 1).astype(np.float64) for mass in (own, free))
        return self.protocol.temperature * np.log(self.rule.negatives * items), self.protocol.temperature * np.log(rows)

    def rate(self, e: int) -> float:
        """Learning rate of epoch e = 0, 1, …; Adagrad divides it further, row by row."""
        return self.rule.rate / (1 + e / 10) if self.schedule == "inverse" else self.rule.rate

    def diverged(self, epoch: int, remedy: str = "") -> SolverError:
        """The error of an epoch = 1, 2, … whose factors are not finite, or too large for their Gram matrix."""
        rate = self.rate(epoch - 1)
        return SolverError(
            f"the factors diverged in epoch {epoch} at learning_rate {rate:g}, or the loss returned nan: try "
            f'learning_rate={self.rule.rate / 4:g}, {remedy}schedule="adagrad" or more regularization'
        )

    def in_canonical_basis(
        self, U: np.ndarray, V: np.ndarray, num_threads: int, epoch: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """What `canonical` gives of the factors after an epoch; 0 is the start."""
        try:
            return canonical(U, V, num_threads)
        except SolverError as error:
            pass_on(error)
            if not epoch:
                raise
            raise self.diverged(epoch) from None


def _value_is_target(read: protocol.Protocol) -> bool:
    return read.kind == "pointwise" and read.targets is None


def _uses_values(read: protocol.Protocol) -> bool:
    """Whether the loss reads the stored values."""
    return read.weighted or _value_is_target(read)


def make_plan(
    X: Any,
    loss: Any,
    sampler: Any,
    negatives: Any,
    factors: Any,
    learning_rate: Any,
    schedule: Any,
    regularization: Any,
    biases: Any,
    dtype: Any,
    num_threads: int,
    memory: Mapping[str, Any],
) -> Plan:
    """Check the arguments of `sgd`, alone and together; see there. ``num_threads`` may look at X.

    ``memory``: what `refuse_what_cannot_fit` asks about threads or a device.
    """
    read = protocol.read(loss)
    sampler = sampling.check_sampler(sampler)
    negatives = validation.check_int("negatives", negatives, 1, 10_000) if sampler is not None else 0
    biases = validation.check_choice("biases", biases, (False, "item", True))
    schedule = validation.check_choice("schedule", schedule, SCHEDULES)
    k = validation.check_int("factors", factors, 1, 65_536)
    rate = validation.check_float("learning_rate", learning_rate, 0.0, open_low=True)
    parts = _check_regularization(regularization)
    _check_together(loss, read, sampler, negatives, biases)
    X = _check_matrix(X, loss, validation.check_dtype("dtype", dtype), num_threads)
    kept = {"sampled": sampler is not None, "uses_values": _uses_values(read)}
    refuse_what_cannot_fit("sgd", X, factors=k, biases=bool(biases), **kept, **memory)
    counts = np.bincount(X.indices, minlength=X.shape[1])
    pointer = protocol.compiled(loss)
    mean = _best_constant(pointer, read, X.data, negatives) if biases is True else 0.0
    rule = _make_rule(read, sampler, negatives, k, rate, parts, mean)
    draws = max(negatives, read.trials) * rule.candidates
    grid = sgd_grid.make_grid(X.indptr, counts, sgd_grid.blocks_for(X.nnz, X.shape[1], draws))
    params = {
        "solver": "sgd",
        "loss": _named(loss),
        "sampler": None if sampler is None else _named(sampler),
        "negatives": negatives,
        "factors": k,
        "learning_rate": rate,
        "schedule": schedule,
        "regularization": parts,
        "biases": biases,
        "dtype": X.dtype.name,
        "zeros": _zeros(loss),
        "blocks": grid.tasks,
    }
    masses = None if sampler is None else sampling.cumulative(sampling.masses(sampler, counts), X.shape[1])
    return Plan(X, read, pointer, masses, grid, rule, biases, schedule, params)


def seeded(plan: Plan, random_state: Any) -> Plan:
    """The plan with its seed, drawn when all else is checked: a call that is refused leaves a generator as it was."""
    return plan._replace(seed=int(validation.check_random_state(random_state).integers(2**62)))


def _make_rule(
    read: protocol.Protocol,
    sampler: Any,
    negatives: int,
    factors: int,
    rate: float,
    parts: dict[str, float],
    mean: float,
) -> sgd_cells.Rule:
    stored_target, negative_target = read.targets or (np.nan, 0.0)
    return sgd_cells.Rule(
        rate=rate,
        **parts,
        mean=mean,
        factors=factors,
        kind=KINDS[read.kind],
        negatives=negatives,
        candidates=getattr(sampler, "candidates", 1),
        trials=read.trials,
        stored_target=stored_target,
        negative_target=negative_target,
        weighted=read.weighted,
        cosine=read.cosine,
    )


def _named(thing: Any) -> str:
    """``BPR(weighted=False)``, also for a class whose repr is an address."""
    if hasattr(thing, "_fields"):
        return repr(thing)
    own = protocol.attributes(thing)
    return f"{type(thing).__name__}({', '.join(f'{name}={value!r}' for name, value in own.items())})"


def _check_regularization(value: Any) -> dict[str, float]:
    if not isinstance(value, Mapping):
        return dict.fromkeys(PARTS, validation.check_float("regularization", value, 0.0))
    unknown = sorted(str(part) for part in value if part not in PARTS)
    if unknown:
        raise ValueError(f"regularization must have keys among {', '.join(PARTS)}, got {', '.join(unknown)}")
    return {part: validation.check_float(f"regularization[{part!r}]", value.get(part, 0.0), 0.0) for part in PARTS}


def _check_together(loss: Any, read: protocol.Protocol, sampler: Any, negatives: int, biases: Any) -> None:
    name = type(loss).__name__
    if sampler is None and read.kind != "pointwise":
        raise ValueError(f"sampler must not be None: {name} compares stored cells with negatives")
    if read.trials > 0 and negatives != 1:
        raise ValueError(f"negatives must be 1: {name} draws until one violates its margin, got {negatives}")
    if read.cosine and biases is not False:
        raise ValueError(f"biases must be False: the scores of {name} are cosines, got {biases!r}")


def takes_any_value(loss: Any) -> bool:
    """Whether stored values are measurements of either sign, zero among them, rather than confidences."""
    return _value_is_target(protocol.read(loss)) and not isinstance(loss, losses.Poisson)


def _zeros(loss: Any) -> str:
    return "keep" if takes_any_value(loss) else "drop"


def _check_matrix(X: Any, loss: Any, dtype: np.dtype, num_threads: int) -> sp.csr_array:
    ratings = takes_any_value(loss)
    return validation.check_matrix(
        "X",
        X,
        zeros=_zeros(loss),
        duplicates="refuse" if ratings else "sum",
        negative=ratings,
        dtype=dtype,
        num_threads=num_threads,
    )


def _best_constant(pointer: Any, read: protocol.Protocol, data: np.ndarray, negatives: int) -> float:
    """The score c that fits best when every cell gets it: where the slope of a pointwise loss, summed, changes sign.

    For Squared on ratings the mean, for Logistic log(1/M). 0 for other losses, where one side has no cells, and where
    no score fits best.
    """
    if read.kind != "pointwise" or len(data) == 0 or (read.targets is not None and negatives == 0):
        return 0.0
    if read.targets is None:
        targets, weights = _distinct(data)
        if read.weighted:
            weights *= targets
    else:
        targets = np.array(read.targets[:1])
        weights = np.array([quietly(data.sum, dtype=np.float64) if read.weighted else float(len(data))])
    cells = targets, weights, read.targets[1] if read.targets else 0.0, float(negatives * len(data))
    low, high, place = -1.0, 1.0, sgd_loss.address(pointer)
    while sgd_loss.total_slope(place, low, *cells) > 0 and low > -(2.0**1000):
        low *= 2
    while sgd_loss.total_slope(place, high, *cells) < 0 and high < 2.0**1000:
        high *= 2
    if max(-low, high) == 2.0**1000:
        return 0.0
    least = 2.0**-120 * min(1.0, float(np.abs(targets).max()))
    while high - low > least and low < 0.5 * (low + high) < high:  # until two neighbouring floats
        middle = 0.5 * (low + high)
        if sgd_loss.total_slope(place, middle, *cells) < 0:
            low = middle
        else:
            high = middle
    return float(high)


def _distinct(data: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distinct values and, in float64, their counts: one sorted copy, where np.unique takes five arrays."""
    values = np.sort(data)
    lengths = np.empty(1 + np.count_nonzero(values[1:] != values[:-1]))
    sgd_loss.run_lengths(values, lengths)
    return values[: len(lengths)], lengths
