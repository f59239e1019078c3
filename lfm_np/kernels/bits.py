"""Sets of up to 64 as the bits of an int64."""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from lfm_np.kernels.jit import JIT_DISABLED


@intrinsic
def lowest_bit(typingctx, mask):  # type: ignore[no-untyped-def]
    """Position of the lowest set bit of an int64 that is not zero."""

    def codegen(context, builder, sig, args):  # type: ignore[no-untyped-def]
        return builder.cttz(args[0], ir.IntType(1)(1))

    return types.int64(types.int64), codegen


@intrinsic
def count_bits(typingctx, mask):  # type: ignore[no-untyped-def]
    """How many bits of an int64 are set."""

    def codegen(context, builder, sig, args):  # type: ignore[no-untyped-def]
        return builder.ctpop(args[0])

    return types.int64(types.int64), codegen


if JIT_DISABLED:

    def lowest_bit(mask):  # type: ignore[no-untyped-def]
        return (int(mask) & -int(mask)).bit_length() - 1

    def count_bits(mask):  # type: ignore[no-untyped-def]
        return (int(mask) % 2**64).bit_count()
