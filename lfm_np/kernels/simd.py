"""A small SIMD vector type for kernels, and its NumPy twin for ``NUMBA_DISABLE_JIT``.

LLVM gives up on vectorising loops whose arrays may overlap, so the hot kernels say what they want: vectors of ``width``
consecutive values that live in registers. LLVM maps them to whatever the target has (AVX-512, AVX2, NEON).

Offsets count elements from the start of a C-contiguous array of any number of dimensions. Nothing is bounds-checked.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.registry import cpu_target
from numba.extending import intrinsic, models, register_model

from lfm_np.kernels.jit import JIT_DISABLED
from lfm_np.quiet import quietly
from lfm_np.signals import signals_held

LANES = 8  # systems solved side by side, and the width of their vectors
WIDTH = 16  # consecutive factors handled at once; factor rows are padded to a multiple of it

_I32 = ir.IntType(32)


class Vector(types.Type):
    """``width`` values of ``dtype`` in a register."""

    def __init__(self, dtype: Any, width: int) -> None:
        self.dtype, self.width = dtype, width
        super().__init__(f"simd<{width} x {dtype}>")


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: Vector) -> None:
        element = dmm.lookup(fe_type.dtype).get_value_type()
        super().__init__(dmm, fe_type, ir.VectorType(element, fe_type.width))


def _pointer(context: Any, builder: Any, array_type: Any, array: Any, offset: Any) -> Any:
    """Pointer to element ``offset``, and the alignment that holds for any element."""
    data = context.make_array(array_type)(context, builder, array).data
    element = context.get_value_type(array_type.dtype)
    return builder.gep(builder.bitcast(data, element.as_pointer()), [offset]), array_type.dtype.bitwidth // 8


def _load(context: Any, builder: Any, array_type: Any, array: Any, offset: Any, vector: Any) -> Any:
    pointer, align = _pointer(context, builder, array_type, array, offset)
    value = builder.load(builder.bitcast(pointer, vector.as_pointer()))
    value.align = align
    return value


def _store(context: Any, builder: Any, array_type: Any, array: Any, offset: Any, value: Any) -> None:
    pointer, align = _pointer(context, builder, array_type, array, offset)
    builder.store(value, builder.bitcast(pointer, value.type.as_pointer())).align = align


def _shuffle(builder: Any, a: Any, b: Any, picks: list[int]) -> Any:
    mask = ir.Constant(ir.VectorType(_I32, len(picks)), [_I32(p) for p in picks])
    return builder.shuffle_vector(a, b, mask)


def _splat(builder: Any, scalar: Any, vector: Any) -> Any:
    undefined = ir.Constant(vector, ir.Undefined)
    return _shuffle(builder, builder.insert_element(undefined, scalar, _I32(0)), undefined, [0] * vector.count)


def _call(builder: Any, name: str, vector: Any, args: Any) -> Any:
    bits = 32 if vector.element == ir.FloatType() else 64
    signature = ir.FunctionType(vector, [vector] * len(args))
    function = cgutils.get_or_insert_function(builder.module, signature, f"llvm.{name}.v{vector.count}f{bits}")
    return builder.call(function, args)


# The masks of an 8 × 8 transpose in three levels of shuffles; sums8 uses the same network with additions.
_PAIRS = [0, 1, 8, 9, 4, 5, 12, 13], [2, 3, 10, 11, 6, 7, 14, 15]
_HALVES = [0, 1, 2, 3, 8, 9, 10, 11], [4, 5, 6, 7, 12, 13, 14, 15]
_EVEN_ODD = [0, 8, 2, 10, 4, 12, 6, 14], [1, 9, 3, 11, 5, 13, 7, 15]


def _fold(builder: Any, value: Any, width: int) -> Any:
    """Add the upper half to the lower until ``width`` values are left."""
    while value.type.count > width:
        half = value.type.count // 2
        low = _shuffle(builder, value, value, list(range(half)))
        value = builder.fadd(low, _shuffle(builder, value, value, list(range(half, 2 * half))))
    return value


def _sums(builder: Any, rows: list[Any]) -> Any:
    level = [_fold(builder, row, 8) for row in rows]
    for masks in (_EVEN_ODD, _PAIRS, _HALVES):
        pairs = zip(level[::2], level[1::2])
        level = [builder.fadd(*(_shuffle(builder, a, b, mask) for mask in masks)) for a, b in pairs]
    return level[0]


@intrinsic(prefer_literal=True)
def load(typingctx, array, offset, width):  # type: ignore[no-untyped-def]
    """``width`` consecutive values from ``offset``."""
    if not isinstance(width, types.IntegerLiteral):
        return None
    vector = Vector(array.dtype, width.literal_value)

    def codegen(context, builder, sig, args):  # type: ignore[no-untyped-def]
        return _load(context, builder, sig.args[0], args[0], args[1], context.get_value_type(sig.return_type))

    return vector(array, types.int64, width), codegen


@intrinsic(prefer_literal=True)
def load_part(typingctx, array, offset, count, width):  # type: ignore[no-untyped-def]
    """``count`` < ``width`` values from ``offset``, then zeros; reads nothing beyond them."""
    if not isinstance(width, types.IntegerLiteral):
        return None
    vector = Vector(array.dtype, width.literal_value)

    def codegen(context, builder, sig, args):  # type: ignore[no-untyped-def]
        value = context.get_value_type(sig.return_type)
        pointer, align = _pointer(context, builder, sig.args[0], args[0], args[1])
        lanes = ir.VectorType(_I32, value.count)
        wanted = _splat(builder, builder.trunc(args[2], _I32), lanes)
        mask = builder.icmp_signed("<", ir.Constant(lanes, [_I32(i) for i in range(value.count)]), wanted)
        bits = 32 if value.element == ir.FloatType() else 64
        pointer = builder.bitcast(pointer, value.as_pointer())
        signature = ir.FunctionType(value, [pointer.type, _I32, mask.type, value])
        name = f"llvm.masked.load.v{value.count}f{bits}.p0v{value.count}f{bits}"
        function = cgutils.get_or_insert_function(builder.module, signature, name)
        return builder.call(function, [pointer, _I32(align), mask, context.get_constant_null(sig.return_type)])

    return vector(array, types.int64, types.int64, width), codegen


@intrinsic
def store(typingctx, array, offset, value):  # type: ignore[no-untyped-def]
    """Write ``value`` to consecutive places from ``offset``."""

    def codegen(context, builder, sig, args):  # type: ignore[no-untyped-def]
        _store(context, builder, sig.args[0], *args)
        return context.get_dummy_value()

    return types.void(array, types.int64, value), codegen


@intrinsic(prefer_literal=True)
def broadcast(typingctx, array, offset, width):  # type: ignore[no-untyped-def]
    """The value at ``offset`` in every lane. (Indexing the array would test for a negative index.)"""
    if not isinstance(width, types.IntegerLiteral):
        return None
    vector = Vector(array.dtype, width.literal_value)

    def codegen(context, builder, sig, args):  # type: ignore[no-untyped-def]
        pointer, _ = _pointer(context, builder, sig.args[0], args[0], args[1])
        return _splat(builder, builder.load(pointer), context.get_value_type(sig.return_type))

    return vector(array, types.int64, width), codegen


@intrinsic(prefer_literal=True)
def splat(typingctx, scalar, width):  # type: ignore[no-untyped-def]
    """``scalar`` (float32 or float64) in every lane."""
    if not isinstance(width, types.IntegerLiteral):
        return None
    vector = Vector(scalar, width.literal_value)

    def codegen(context, builder, sig, args):  # type: ignore[no-untyped-def]
        return _splat(builder, args[0], context.get_value_type(sig.return_type))

    return vector(scalar, width), codegen


@intrinsic(prefer_literal=True)
def zeros(typingctx, array, width):  # type: ignore[no-untyped-def]
    """A vector of zeros of the array's dtype."""
    if not isinstance(width, types.IntegerLiteral):
        return None
    vector = Vector(array.dtype, width.literal_value)
    return vector(array, width), lambda context, builder, sig, args: context.get_constant_null(sig.return_type)


@intrinsic
def fma(typingctx, a, b, c):  # type: ignore[no-untyped-def]
    """a·b + c with one rounding."""
    return a(a, b, c), lambda context, builder, sig, args: _call(builder, "fma", args[0].type, args)


@intrinsic
def fnma(typingctx, a, b, c):  # type: ignore[no-untyped-def]
    """c − a·b with one rounding."""

    def codegen(context, builder, sig, args):  # type: ignore[no-untyped-def]
        return _call(builder, "fma", args[0].type, [builder.fneg(args[0]), args[1], args[2]])

    return a(a, b, c), codegen


@intrinsic
def add(typingctx, a, b):  # type: ignore[no-untyped-def]
    return a(a, b), lambda context, builder, sig, args: builder.fadd(*args)


@intrinsic
def sub(typingctx, a, b):  # type: ignore[no-untyped-def]
    return a(a, b), lambda context, builder, sig, args: builder.fsub(*args)


@intrinsic
def mul(typingctx, a, b):  # type: ignore[no-untyped-def]
    return a(a, b), lambda context, builder, sig, args: builder.fmul(*args)


@intrinsic
def maximum(typingctx, a, b):  # type: ignore[no-untyped-def]
    """Lane-wise larger value; the other one where one is NaN."""
    return a(a, b), lambda context, builder, sig, args: _call(builder, "maxnum", args[0].type, args)


@intrinsic
def rsqrt(typingctx, a):  # type: ignore[no-untyped-def]
    """1/√a; NaN for a < 0, inf for 0."""

    def codegen(context, builder, sig, args):  # type: ignore[no-untyped-def]
        one = ir.Constant(args[0].type, [ir.Constant(args[0].type.element, 1.0)] * args[0].type.count)
        return builder.fdiv(one, _call(builder, "sqrt", args[0].type, args))

    return a(a), codegen


@intrinsic
def total(typingctx, a):  # type: ignore[no-untyped-def]
    """Sum over the lanes, halves first."""

    def codegen(context, builder, sig, args):  # type: ignore[no-untyped-def]
        return builder.extract_element(_fold(builder, args[0], 1), _I32(0))

    return a.dtype(a), codegen


@intrinsic
def sums8(typingctx, a, b, c, d, e, f, g, h):  # type: ignore[no-untyped-def]
    """The eight vectors' lane sums as one vector of eight."""
    vector = Vector(a.dtype, 8)
    return vector(a, b, c, d, e, f, g, h), lambda context, builder, sig, args: _sums(builder, list(args))


@intrinsic
def at_least(typingctx, a, b):  # type: ignore[no-untyped-def]
    """Bit i of an int64 says whether a[i] ≥ b[i]; NaN is not. At most 32 lanes."""

    def codegen(context, builder, sig, args):  # type: ignore[no-untyped-def]
        lanes = builder.fcmp_ordered(">=", *args)
        bits = builder.bitcast(lanes, ir.IntType(args[0].type.count))
        return builder.zext(bits, ir.IntType(64))

    return types.int64(a, b), codegen


@functools.cache
def has_dot_bytes() -> bool:
    """Whether `dot_bytes` is one instruction here."""
    if JIT_DISABLED:
        return False
    with signals_held():  # LLVM's text of it would be freed twice
        return "+avx512vnni" in cpu_target.target_context.codegen().magic_tuple()[2]


def _byte(builder: Any, value: Any, byte: int, extend: Any) -> Any:
    """Byte ``byte`` of every int32."""
    shift = ir.Constant(value.type, [_I32(8 * byte)] * value.type.count)
    bytes_ = ir.VectorType(ir.IntType(8), value.type.count)
    return extend(builder.trunc(builder.lshr(value, shift), bytes_), value.type)


@intrinsic
def dot_bytes(typingctx, total, a, b):  # type: ignore[no-untyped-def]
    """total + Σ a_j b_j over the four bytes of every int32; those of a are unsigned, those of b signed. 16 lanes."""

    def codegen(context, builder, sig, args):  # type: ignore[no-untyped-def]
        if has_dot_bytes():
            vector = args[0].type
            signature = ir.FunctionType(vector, [vector] * 3)
            function = cgutils.get_or_insert_function(builder.module, signature, "llvm.x86.avx512.vpdpbusd.512")
            return builder.call(function, args)
        result = args[0]
        for byte in range(4):
            factors = _byte(builder, args[1], byte, builder.zext), _byte(builder, args[2], byte, builder.sext)
            result = builder.add(result, builder.mul(*factors))
        return result

    return total(total, a, b), codegen


@intrinsic
def integers_as(typingctx, a, like):  # type: ignore[no-untyped-def]
    """The int32 of ``a`` as floats of the type of ``like``."""
    return like(a, like), lambda context, builder, sig, args: builder.sitofp(args[0], args[1].type)


@intrinsic
def prefetch(typingctx, array, offset):  # type: ignore[no-untyped-def]
    """Ask for the cache line of element ``offset``. Harmless for any offset."""

    def codegen(context, builder, sig, args):  # type: ignore[no-untyped-def]
        pointer, _ = _pointer(context, builder, sig.args[0], *args)
        address = builder.bitcast(pointer, ir.IntType(8).as_pointer())
        signature = ir.FunctionType(ir.VoidType(), [address.type, _I32, _I32, _I32])
        function = cgutils.get_or_insert_function(builder.module, signature, "llvm.prefetch.p0")
        builder.call(function, [address, _I32(0), _I32(2), _I32(1)])
        return context.get_dummy_value()

    return types.void(array, types.int64), codegen


if JIT_DISABLED:  # the twin: the same names on NumPy arrays, so that kernels run as plain Python

    def load(array, offset, width):  # type: ignore[no-untyped-def]
        values = array.reshape(-1)[offset : offset + width].copy()
        if len(values) != width:
            raise IndexError(f"load of {width} at {offset} from {array.size}")
        return values

    def load_part(array, offset, count, width):  # type: ignore[no-untyped-def]
        values = np.zeros(width, array.dtype)
        values[:count] = array.reshape(-1)[offset : offset + count]
        return values

    def store(array, offset, value):  # type: ignore[no-untyped-def]
        array.reshape(-1)[offset : offset + len(value)] = value

    def broadcast(array, offset, width):  # type: ignore[no-untyped-def]
        return np.full(width, array.reshape(-1)[offset])

    def splat(scalar, width):  # type: ignore[no-untyped-def]
        return np.full(width, scalar)

    def zeros(array, width):  # type: ignore[no-untyped-def]
        return np.zeros(width, array.dtype)

    def fma(a, b, c):  # type: ignore[no-untyped-def]
        return a * b + c

    def fnma(a, b, c):  # type: ignore[no-untyped-def]
        return c - a * b

    def add(a, b):  # type: ignore[no-untyped-def]
        return a + b

    def sub(a, b):  # type: ignore[no-untyped-def]
        return a - b

    def mul(a, b):  # type: ignore[no-untyped-def]
        return a * b

    def maximum(a, b):  # type: ignore[no-untyped-def]
        return np.fmax(a, b)

    def rsqrt(a):  # type: ignore[no-untyped-def]
        return quietly(lambda: a.dtype.type(1) / np.sqrt(a))

    def total(a):  # type: ignore[no-untyped-def]
        return a.sum()

    def sums8(a, b, c, d, e, f, g, h):  # type: ignore[no-untyped-def]
        return np.array([v.sum() for v in (a, b, c, d, e, f, g, h)])

    def at_least(a, b):  # type: ignore[no-untyped-def]
        return np.int64(sum(int(x >= y) << i for i, (x, y) in enumerate(zip(a, b))))

    def dot_bytes(total, a, b):  # type: ignore[no-untyped-def]
        return total + (a.view(np.uint8).astype(np.int32) * b.view(np.int8)).reshape(-1, 4).sum(axis=1, dtype=np.int32)

    def integers_as(a, like):  # type: ignore[no-untyped-def]
        return a.astype(like.dtype)

    def prefetch(array, offset):  # type: ignore[no-untyped-def]
        pass
