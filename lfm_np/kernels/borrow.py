"""Arrays without reference counts, for kernels whose inner loops call helpers.

Numba counts a reference, atomically, each time an array is handed to a helper that LLVM does not inline, or is taken
out of a tuple. In a loop whose whole body takes 100 ns that was four fifths of the time (measured: 580 against 110 ns).
"""

from __future__ import annotations

from typing import Any

from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from lfm_np.kernels.jit import JIT_DISABLED


def _uncounted(context: Any, builder: Any, array_type: Any, array: Any) -> Any:
    view = context.make_array(array_type)(context, builder, array)
    view.meminfo = cgutils.get_null_value(view.meminfo.type)
    view.parent = cgutils.get_null_value(view.parent.type)
    return view._getvalue()


@intrinsic
def borrowed(typingctx, arrays):
    """The same array, or tuple of arrays, uncounted. Valid while they are alive, as a kernel's arguments are."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        (kind,), (value,) = sig.args, args
        if not isinstance(kind, types.BaseTuple):
            return _uncounted(context, builder, kind, value)
        parts = enumerate(kind)
        return context.make_tuple(
            builder, kind, [_uncounted(context, builder, part, builder.extract_value(value, p)) for p, part in parts]
        )

    return arrays(arrays), codegen


if JIT_DISABLED:
    borrowed = lambda arrays: arrays  # noqa: E731
