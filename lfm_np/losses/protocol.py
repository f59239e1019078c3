"""What a loss class must have, how it is compiled, and its check by finite differences."""

from __future__ import annotations

import dis
import functools
import inspect
import math
import numbers
from typing import Any, NamedTuple

import numpy as np

from lfm_np.kernels import sgd_loss
from lfm_np.quiet import quietly
from lfm_np.signals import signals_held
from lfm_np.validation import check_bool, check_float, check_int, shown

KINDS = {("score", "target"): "pointwise", ("difference",): "pairwise", ("positive", "negatives"): "list"}
COMPILERS = {"pointwise": sgd_loss.pointwise, "pairwise": sgd_loss.pairwise, "list": sgd_loss.listwise}
_BY_PLACE = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
ALLOWED = " or ".join(f"(self, {', '.join(names)}) [{kind}]" for names, kind in KINDS.items())


class Protocol(NamedTuple):
    """Everything `sgd` reads from a loss besides its formula."""

    kind: str
    parameters: dict[str, float]
    targets: tuple[float, float] | None = None
    weighted: bool = False
    trials: int = 0
    cosine: bool = False
    correct_logq: bool = False

    @property
    def temperature(self) -> float:
        """By which the loss divides its scores."""
        return self.parameters.get("temperature", 1.0)


def read(loss: Any) -> Protocol:
    """The protocol of ``loss``, every part of it checked.

    Raises
    ------
    TypeError
        A class instead of an instance, a missing method, parameter names of no kind, an attribute of the wrong type.
    ValueError
        An attribute that the kind of the loss has no use for.
    """
    if isinstance(loss, type):
        raise TypeError(f"loss must be an instance: {loss.__name__}(), not {loss.__name__}")
    name, kind = type(loss).__name__, _kind(loss)
    targets = getattr(loss, "targets", None)
    if targets is not None and (not isinstance(targets, tuple) or [type(t) for t in targets] != [float, float]):
        raise TypeError(
            f"{name}.targets must be a tuple of two floats (of a stored cell, of a negative), got {shown(targets)}"
        )
    if targets is not None and not all(map(math.isfinite, targets)):
        raise ValueError(f"{name}.targets must be finite, got {shown(targets)}")
    flags = {
        flag: check_bool(f"{name}.{flag}", getattr(loss, flag, False))
        for flag in ("weighted", "cosine", "correct_logq")
    }
    trials = check_int(f"{name}.trials", getattr(loss, "trials", 0), 0, 10_000)
    for attribute, used, kinds in (
        ("targets", targets is not None, ("pointwise",)),
        ("trials", trials > 0, ("pairwise",)),
        ("correct_logq", flags["correct_logq"], ("list",)),
    ):
        if used and kind not in kinds:
            raise ValueError(f"{name}.{attribute} has a meaning for {kinds[0]} losses only; {name} is {kind}")
    if flags["weighted"] and kind == "pointwise" and targets is None:
        raise ValueError(
            f"{name} cannot be weighted by the stored value, which is its target; give it targets = (…, …)"
        )
    return Protocol(kind, _parameters(loss), targets, trials=trials, **flags)


def _kind(loss: Any) -> str:
    """Pointwise, pairwise or list, from the parameter names of both methods."""
    found = []
    for method in ("value", "gradient"):
        function = getattr(type(loss), method, None)
        if not inspect.isfunction(function):
            raise TypeError(f"loss must have a method {method}{ALLOWED}, and {type(loss).__name__} has none")
        with signals_held():
            signature = inspect.signature(function)
        parameters = list(signature.parameters.values())[1:]
        names = tuple(parameter.name for parameter in parameters)
        if names not in KINDS or any(parameter.kind not in _BY_PLACE for parameter in parameters):
            raise TypeError(f"{type(loss).__name__}.{method} must take {ALLOWED}, got {signature}")
        found.append(KINDS[names])
    if found[0] != found[1]:
        raise TypeError(
            f"{type(loss).__name__}.value is {found[0]} but its gradient is {found[1]}: use the same parameters"
        )
    return found[0]


def _parameters(loss: Any) -> dict[str, float]:
    """The numbers that the methods may read from ``self``: class attributes, fields and instance attributes."""
    names = [name for name in dir(loss) if not name.startswith("_")]
    values = {name: getattr(loss, name) for name in names}
    for name in {*getattr(loss, "_fields", ()), *attributes(loss)}:
        if name.startswith("_"):
            raise TypeError(f"{type(loss).__name__}.{name} must not begin with _: compiled code does not see it")
        if not isinstance(values.get(name), (numbers.Real, np.bool_)):
            raise TypeError(f"{type(loss).__name__}.{name} must be a number, got {shown(getattr(loss, name))}")
        low, is_open = getattr(loss, "_bounds", {}).get(name, (-np.inf, False))
        if not isinstance(values[name], (bool, np.bool_)):
            check_float(f"{type(loss).__name__}.{name}", values[name], low, open_low=is_open)
    return {name: float(value) for name, value in values.items() if isinstance(value, (numbers.Real, np.bool_))}


def attributes(thing: Any) -> dict[str, Any]:
    """What the instance itself has: in slots, those of base classes first, and in ``__dict__``."""
    slots = []
    for base in reversed(type(thing).__mro__):
        names = base.__dict__.get("__slots__", ())
        slots += [names] if isinstance(names, str) else list(names)
    held = {name: getattr(thing, name) for name in slots if not name.startswith("__") and hasattr(thing, name)}
    return held | getattr(thing, "__dict__", {})


def compiled(loss: Any) -> Any:
    """The loss as a function pointer; see `lfm_np.kernels.sgd_loss`.

    Raises
    ------
    TypeError
        A formula that Numba cannot compile; the message is Numba's.
    """
    protocol, methods = read(loss), (type(loss).value, type(loss).gradient)
    parameters = tuple((name, value.hex()) for name, value in protocol.parameters.items())
    own = all(str(method.__module__).startswith("lfm_np.losses.") for method in methods)
    with signals_held():  # what a handler raises is not what the loss or Numba does
        _check_methods(loss, protocol.kind)
        try:
            return (_kept if own else _compiled)(protocol.kind, *methods, parameters)
        except (OSError, MemoryError, RecursionError):  # of the cache, or of the process
            raise
        except Exception as error:  # Numba raises many kinds; all mean the same to the writer of a loss
            raise TypeError(
                f"{type(loss).__name__} cannot be compiled; use numbers, math, NumPy and attributes of self that are "
                f"numbers. Numba says: {error}"
            ) from error


def _compiled(kind: str, value: Any, gradient: Any, parameters: tuple[tuple[str, str], ...]) -> Any:
    return COMPILERS[kind](value, gradient, {name: float.fromhex(number) for name, number in parameters})


_kept = functools.lru_cache(64)(_compiled)  # of the library's own classes, whose code nobody edits


_SCORES = (  # of a positive and negatives; a loss may write to large ones only, to clip them
    (-30.0, (-900.0, 5.0, 900.0)),
    (30.0, (-40.0, 2.5, 40.0)),
    (0.25, (-0.5, 0.0, 0.75)),
)


def _check_methods(loss: Any, kind: str) -> None:
    """Refuse what compiled code would not notice: an exception, and slopes of the wrong length."""
    name = type(loss).__name__
    for method in ("value", "gradient"):
        if any(
            step.opname in ("RAISE_VARARGS", "PUSH_EXC_INFO")
            for step in dis.get_instructions(getattr(type(loss), method))
        ):
            raise TypeError(
                f"{name}.{method} must not raise or assert, which compiled code ignores; return nan instead"
            )
    if kind == "list":
        _called(loss, "value")
        found = _called(loss, "gradient")
        if np.shape(found) != (3,):
            raise ValueError(
                f"{name}.gradient must return the slope of positive and an array with one slope for each of negatives: "
                f"of shape (3,) for three, got shape {np.shape(found)}"
            )


def _called(loss: Any, method: str) -> Any:
    """What the Python code makes of three negatives; what Python cannot run is left to the compiler to refuse."""
    for positive, given in _SCORES:
        scores = np.array(given)
        try:
            found = quietly(getattr(loss, method), positive, scores)
            found = found[1] if method == "gradient" else found
        except Exception:
            found = np.empty(3)
        if not np.array_equal(scores, given):
            raise ValueError(
                f"{type(loss).__name__}.{method} must not write to negatives, which are the scores of a step"
            )
    return found


# ---- check ----------------------------------------------------------------------------------------------------------


def check(loss: Any) -> None:
    """Verify a loss: its methods, that it compiles, and its gradient against finite differences of its value.

    Points have scores up to 5, where the gradient is compared, and up to 1000, where both must be finite. At a kink the
    gradient may lie anywhere between the slopes of the two sides.

    Parameters
    ----------
    loss
        An instance of a class as described in `lfm_np.losses`.

    Raises
    ------
    TypeError
        A method or attribute that is missing or wrong, or a formula that does not compile.
    ValueError
        A gradient that is not the derivative of the value, or a result that is not finite; the message says where.

    Examples
    --------
    >>> from lfm_np import losses
    >>> losses.check(losses.BPR())
    >>> class Wrong:
    ...     def value(self, difference):
    ...         return difference**2
    ...
    ...     def gradient(self, difference):
    ...         return difference
    >>> losses.check(Wrong())
    Traceback (most recent call last):
    ...
    ValueError: Wrong.gradient is -5 at difference = -5, but finite differences of value give -10
    """
    protocol = read(loss)
    function = compiled(loss)
    for point in _points(protocol):
        _check_point(loss, protocol, function, point, compare=np.abs(point).max() <= 5)


def _points(protocol: Protocol) -> list[np.ndarray]:
    scores = [-5.0, -2.1, -0.7, -1e-3, 0.0, 0.013, 0.4, 1.7, 5.0, -1e3, 1e3]
    if protocol.cosine:
        scores = [-1.0, -0.63, -1e-3, 0.0, 0.29, 0.4, 0.81, 1.0]
    if protocol.kind == "pointwise":
        return [np.array([s, t]) for t in protocol.targets or (0.0, 1.0, 3.0) for s in scores]
    if protocol.kind == "pairwise":
        return [np.array([s]) for s in scores]
    return [np.array([s, *np.roll(scores, r)[:3]]) for s in scores for r in range(3)]


def _evaluate(kind: str, function: Any, point: np.ndarray) -> tuple[float, np.ndarray]:
    """Value and gradient (by score, difference, or every score) of a compiled loss."""
    if kind == "list":
        slopes = np.zeros(len(point))
        return sgd_loss.call_ranked(function, point, slopes), slopes
    value, slope = sgd_loss.call_point(function, point[0], point[1] if kind == "pointwise" else 0.0)
    return value, np.array([slope])


def _check_point(loss: Any, protocol: Protocol, function: Any, point: np.ndarray, compare: bool) -> None:
    name = type(loss).__name__
    value, gradient = _evaluate(protocol.kind, function, point)
    where = _where(protocol.kind, point)
    for method, result in (("value", value), ("gradient", gradient)):
        if not np.isfinite(result).all():
            raise ValueError(f"{name}.{method} is not finite at {where}: {result}")
    if not compare:
        return
    step = 1e-6
    for axis, slope in enumerate(gradient):
        moved = np.zeros(len(point))
        moved[axis] = step
        after, before = (_evaluate(protocol.kind, function, point + sign * moved)[0] for sign in (1, -1))
        right, left = (after - value) / step, (value - before) / step
        slack = 1e-4 * max(1.0, abs(right), abs(left))
        if not min(left, right) - slack <= slope <= max(left, right) + slack:
            part = f" ({'positive' if axis == 0 else f'negatives[{axis - 1}]'})" if protocol.kind == "list" else ""
            raise ValueError(
                f"{name}.gradient{part} is {slope:.6g} at {where}, but finite differences of value give "
                f"{(after - before) / (2 * step):.6g}"
            )


def _where(kind: str, point: np.ndarray) -> str:
    if kind == "list":
        return f"positive = {point[0]:g}, negatives = {point[1:].tolist()}"
    return f"score = {point[0]:g}, target = {point[1]:g}" if kind == "pointwise" else f"difference = {point[0]:g}"
