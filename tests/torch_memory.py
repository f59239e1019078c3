"""Counts the bytes that torch holds."""

import weakref


class Counter:
    """Peak of the bytes that tensors hold on the CPU, counted by storage as operations make them."""

    def __init__(self, torch):
        from torch.utils._python_dispatch import TorchDispatchMode

        self.now = self.peak = 0
        alive = {}
        counter = self

        class Mode(TorchDispatchMode):
            def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
                result = function(*arguments, **(keywords or {}))
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
        alive[place] = size
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self.remove, place, alive)

    def remove(self, place, alive):
        self.now -= alive.pop(place, 0)
