"""Counts the bytes that torch holds, and those of NumPy's arrays beside them."""

import tracemalloc
import weakref


class Counter:
    """Peak of the bytes that tensors hold on the CPU, counted by storage as operations make them.

    ``whole`` adds NumPy's arrays, where `tracemalloc` traces them.
    """

    def __init__(self, torch):
        from torch.utils._python_dispatch import TorchDispatchMode

        self.now = self.peak = self.whole = 0
        alive = {}
        counter = self

        class Mode(TorchDispatchMode):
            def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
                result = function(*arguments, **(keywords or {}))
                if function is torch.ops.aten.lift_fresh.default:  # a view of NumPy's memory, about to be copied
                    return result
                for tensor in torch.utils._pytree.tree_leaves(result):
                    if isinstance(tensor, torch.Tensor):
                        counter.add(tensor, alive)
                return result

        self.mode = Mode()

    def add(self, tensor, alive):
        storage = tensor.untyped_storage()
        if storage.data_ptr() in alive or not storage.nbytes():
            return
        place, size = storage.data_ptr(), storage.nbytes()
        self.look()
        alive[place] = size
        self.now += size
        self.peak = max(self.peak, self.now)
        self.look()
        weakref.finalize(storage, self.remove, place, alive)

    def remove(self, place, alive):
        self.look()
        self.now -= alive.pop(place, 0)

    def look(self):
        """Take the peak of the arrays since the last look, while the tensors were what they are now."""
        self.whole = max(self.whole, self.now + tracemalloc.get_traced_memory()[1])
        if tracemalloc.is_tracing():
            tracemalloc.reset_peak()


def peak_of(torch, fit):
    """Bytes of tensors and arrays at the peak of ``fit()``."""
    counter = Counter(torch)
    tracemalloc.start()
    try:
        with counter.mode:
            fit()
        counter.look()
    finally:
        tracemalloc.stop()
    return counter.whole
