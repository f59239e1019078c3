"""A sweep on a device waits for it at its end only, however many batches it has."""

import numpy as np
import pytest
import scipy.sparse as sp
from optional import require

import lfm_np
from lfm_np import row_plan

READS = ("item", "tolist", "numpy", "cpu", "__bool__", "__int__", "__float__", "__index__", "__array__")
SHAPES_FROM_VALUES = ("nonzero", "masked_select", "unique", "_unique2", "bincount", "_local_scalar_dense")


@pytest.fixture
def waits(monkeypatch):
    """A list that gets the name of every read of a tensor's values by the host."""
    torch = require("torch")
    from torch.utils._python_dispatch import TorchDispatchMode

    found = []

    def noting(name, real):
        return lambda *args, **kwargs: found.append(name) or real(*args, **kwargs)

    for name in READS:
        monkeypatch.setattr(torch.Tensor, name, noting(name, getattr(torch.Tensor, name)))

    class Mode(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            name = func._schema.name.removeprefix("aten::")
            masks = name == "index" and any(i is not None and i.dtype == torch.bool for i in args[1])
            if name in SHAPES_FROM_VALUES or masks:
                found.append(name)
            return func(*args, **(kwargs or {}))

    with Mode():
        yield found


def in_second_sweep(waits, solve, **options):
    """What the host read between the first sweep's callback and the second's."""
    edges = []
    solve(callback=lambda record, factors: edges.append(len(waits)), num_threads=1, random_state=0, **options)
    return waits[edges[0] : edges[1]]


def matrix():
    X = sp.random_array((1200, 300), density=0.03, rng=np.random.default_rng(0), format="csr", dtype=np.float32)
    X.data[:] = 1
    return X


@pytest.mark.parametrize("solver", ["exact", "cg", "subspace"])
def test_als_waits_as_often_with_many_batches(waits, solver):
    X, seen = matrix(), []
    for budget in (1 << 20, 1 << 26):
        solve = lambda budget=budget, **more: lfm_np.torch_backend.als(X, memory_budget=budget, **more)  # noqa: E731
        with row_plan.every_row_steps(width=16):
            seen.append(in_second_sweep(waits, solve, factors=24, iterations=2, solver=solver))
    assert seen[0] == seen[1]
    assert seen[0].count("tolist") == 1
    assert len(seen[0]) <= 10, seen[0]


@pytest.mark.parametrize(
    ("loss", "sampler"), [("BPR", "Uniform"), ("WARP", "Uniform"), ("SampledSoftmax", "Popularity"), ("BPR", "Hard")]
)
def test_sgd_waits_as_often_with_many_batches(waits, loss, sampler):
    X, seen = matrix(), []
    options = {"loss": getattr(lfm_np.losses, loss)(), "sampler": getattr(lfm_np.sampling, sampler)()}
    for size in (512, 20_000):
        solve = lambda size=size, **more: lfm_np.torch_backend.sgd(X, batch_size=size, **more)  # noqa: E731
        seen.append(in_second_sweep(waits, solve, factors=8, epochs=2, **options))
    assert seen[0] == seen[1] == ["tolist"]
