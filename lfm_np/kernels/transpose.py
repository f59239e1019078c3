"""Eight rows side by side: tiles transposed in registers, on the vectors of `lfm_np.kernels.simd`."""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from lfm_np.kernels.jit import JIT_DISABLED
from lfm_np.kernels.simd import _HALVES, _PAIRS, _load, _pointer, _shuffle, _store

_UNPACK = [0, 8, 1, 9, 4, 12, 5, 13], [2, 10, 3, 11, 6, 14, 7, 15]


def _transposed(builder: Any, rows: list[Any]) -> list[Any]:
    both = lambda a, b, masks: [_shuffle(builder, a, b, mask) for mask in masks]  # noqa: E731
    t = [v for r in range(0, 8, 2) for v in both(rows[r], rows[r + 1], _UNPACK)]
    q = [v for r in (0, 4) for s in (0, 1) for v in both(t[r + s], t[r + s + 2], _PAIRS)]
    h = [both(q[r], q[r + 4], _HALVES) for r in range(4)]
    return [low for low, _ in h] + [high for _, high in h]


@intrinsic
def transpose8(typingctx, source, start, stride, target, low, high):  # type: ignore[no-untyped-def]
    """Spread eight rows over the lanes: target[low + 8c + r] = source[start + r·stride + c] for c < 4.

    Columns 4 to 7 go to target[high + 8(c − 4) + r].
    """

    def codegen(context, builder, sig, args):  # type: ignore[no-untyped-def]
        src, start, stride, dst, low, high = args
        vector = ir.VectorType(context.get_value_type(sig.args[0].dtype), 8)
        i64 = ir.IntType(64)
        starts = [builder.add(start, builder.mul(stride, i64(r))) for r in range(8)]
        rows = [_load(context, builder, sig.args[0], src, at, vector) for at in starts]
        for c, column in enumerate(_transposed(builder, rows)):
            to = builder.add(low, i64(8 * c)) if c < 4 else builder.add(high, i64(8 * (c - 4)))
            _store(context, builder, sig.args[3], dst, to, column)
        return context.get_dummy_value()

    return types.void(source, types.int64, types.int64, target, types.int64, types.int64), codegen


@intrinsic
def transpose8_rows(typingctx, source, starts, target, at, stride):  # type: ignore[no-untyped-def]
    """Eight rows side by side: target[at + c·stride + r] = source[starts[r] + c] for c < 8; int64 ``starts``."""

    def codegen(context, builder, sig, args):  # type: ignore[no-untyped-def]
        src, starts, dst, at, stride = args
        vector = ir.VectorType(context.get_value_type(sig.args[0].dtype), 8)
        i64 = ir.IntType(64)
        places = [builder.load(_pointer(context, builder, sig.args[1], starts, i64(r))[0]) for r in range(8)]
        rows = [_load(context, builder, sig.args[0], src, place, vector) for place in places]
        for c, column in enumerate(_transposed(builder, rows)):
            to = builder.add(at, builder.mul(stride, i64(c)))
            _store(context, builder, sig.args[2], dst, to, column)
        return context.get_dummy_value()

    return types.void(source, starts, target, types.int64, types.int64), codegen


if JIT_DISABLED:  # the twin

    def transpose8(source, start, stride, target, low, high):  # type: ignore[no-untyped-def]
        src, dst = source.reshape(-1), target.reshape(-1)
        tile = np.array([src[start + r * stride : start + r * stride + 8] for r in range(8)])
        dst[low : low + 32] = tile[:, :4].T.ravel()
        dst[high : high + 32] = tile[:, 4:].T.ravel()

    def transpose8_rows(source, starts, target, at, stride):  # type: ignore[no-untyped-def]
        src, dst = source.reshape(-1), target.reshape(-1)
        for c in range(8):
            for r in range(8):
                dst[at + c * stride + r] = src[starts[r] + c]
