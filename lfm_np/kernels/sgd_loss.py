"""Loss functions as C function pointers, so that one cached epoch kernel serves every loss, built-in or the user's.

A scalar loss becomes ``point(x, y) -> (value, gradient)``, a list loss ``ranked(scores, slopes) -> value`` with the
positive first. Kernels get its address: to take a Numba function for an argument, Numba runs Python code at every call,
and an exception that a handler of a signal raises there comes out as some TypeError of Numba's.

Both compute in float64: the formula is a small part of a step, and its precision is what the divergence check and the
epoch loss rest on. The parameters of the loss are frozen into the compiled code. Nothing is cached on disk, and in the
process only what the library's own classes become: two classes of the same name never share code, and an edited class
runs its edited code.
"""

from __future__ import annotations

import math
from collections import namedtuple
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from lfm_np.kernels.jit import JIT_DISABLED, jit, jit_pointer, jit_private

POINT = types.UniTuple(types.float64, 2)(types.float64, types.float64)
RANKED = types.float64(types.float64[::1], types.float64[::1])

Method = Callable[..., Any]


def frozen(parameters: dict[str, float]) -> Any:
    """What the methods see as ``self``: the loss's numbers, by name."""
    return namedtuple("Parameters", parameters)(**parameters)


def pointwise(value: Method, gradient: Method, parameters: dict[str, float]) -> Any:
    """Pointer to (score, target) -> (value, gradient)."""
    loss, value, gradient = frozen(parameters), jit_private(value), jit_private(gradient)

    def point(score, target):
        return value(loss, score, target), gradient(loss, score, target)

    return jit_pointer(POINT, point)


def pairwise(value: Method, gradient: Method, parameters: dict[str, float]) -> Any:
    """Pointer to (difference, unused) -> (value, gradient)."""
    loss, value, gradient = frozen(parameters), jit_private(value), jit_private(gradient)

    def point(difference, unused):
        return value(loss, difference), gradient(loss, difference)

    return jit_pointer(POINT, point)


def listwise(value: Method, gradient: Method, parameters: dict[str, float]) -> Any:
    """Pointer to (scores, slopes) -> value; writes the gradient by score to ``slopes``."""
    loss, value, gradient = frozen(parameters), jit_private(value), jit_private(gradient)

    def ranked(scores, slopes):
        positive, negatives = gradient(loss, scores[0], scores[1:])
        if len(negatives) + 1 != len(slopes):
            return math.nan
        slopes[0] = positive
        for m in range(len(negatives)):
            slopes[m + 1] = negatives[m]
        return value(loss, scores[0], scores[1:])

    return jit_pointer(RANKED, ranked)


def address(function: Any) -> Any:
    """What kernels take for a compiled loss; whoever passes it on keeps the function."""
    return function if JIT_DISABLED else function.address


def _call(signature: Any) -> Any:
    """``call(place, first, second)`` for kernels, ``place`` being an `address`."""
    if JIT_DISABLED:
        return lambda function, first, second: function(first, second)

    @intrinsic
    def call(typingctx, place, first, second):  # type: ignore[no-untyped-def]
        def codegen(context, builder, sig, args):  # type: ignore[no-untyped-def]
            result, *given = (context.get_value_type(part) for part in (sig.return_type, *sig.args[1:]))
            return builder.call(builder.inttoptr(args[0], ir.FunctionType(result, given).as_pointer()), args[1:])

        return signature.return_type(types.intp, *signature.args), codegen

    return call


at_point, at_ranked = _call(POINT), _call(RANKED)


@jit
def _point(place, x, y):
    return at_point(place, x, y)


@jit
def _ranked(place, scores, slopes):
    return at_ranked(place, scores, slopes)


def call_point(function: Any, x: float, y: float) -> tuple[float, float]:
    """The compiled loss's result; calling it from Python would run the Python code it was made from."""
    return _point(address(function), x, y)


def call_ranked(function: Any, scores: np.ndarray, slopes: np.ndarray) -> float:
    return _ranked(address(function), scores, slopes)


@jit
def total_slope(place, score, targets, weights, negative_target, negative_weight):
    """Σ weight·gradient of a pointwise loss at one score, over stored values and one target of all negatives."""
    total = 0.0
    for t in range(targets.shape[0]):
        total += weights[t] * at_point(place, score, np.float64(targets[t]))[1]
    if negative_weight > 0.0:
        total += negative_weight * at_point(place, score, negative_target)[1]
    return total


@jit
def run_lengths(values, lengths):
    """Move the distinct ones of sorted ``values`` to their front; ``lengths``: how often each occurs."""
    at = -1
    for v in range(values.shape[0]):
        if at < 0 or values[v] != values[at]:
            at += 1
            values[at] = values[v]
            lengths[at] = 0.0
        lengths[at] += 1.0
