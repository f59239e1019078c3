"""Which device, what it can do, and how much of its memory a batch may take."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from lfm_np.errors import missing_extra
from lfm_np.memory import TORCH_BUDGET
from lfm_np.validation import check_int, shown

try:
    import torch
except ImportError:
    raise missing_extra("torch", "torch") from None

SMALLEST_BUDGET = 1 << 20
SHARE = 4  # of the free memory of a GPU, one part in this many


@dataclass(frozen=True)
class Device:
    """A torch device as the solvers see it."""

    device: torch.device
    budget: int  # bytes that one batch may take, beside the matrix and the factors
    wide: torch.dtype  # for sums: float64 where the device has it
    direct: bool  # whether it has Cholesky and symmetric eigenvalues

    def tensor(self, array: np.ndarray, dtype: torch.dtype | None = None) -> torch.Tensor:
        """A copy of ``array`` on the device."""
        return torch.tensor(array, dtype=dtype, device=self.device)

    def memory(self) -> dict[str, Any]:
        """What `refuse_what_cannot_fit` asks about the device; a CUDA device has memory of its own."""
        free = torch.cuda.mem_get_info(self.device)[0] if self.device.type == "cuda" else None
        return {"backend": "torch", "memory_budget": self.budget, "available": free}


def check_device(device: Any, dtype: np.dtype, memory_budget: Any = None) -> Device:
    """``device`` checked against what this machine and ``dtype`` allow.

    Raises
    ------
    TypeError, ValueError
        No such device, or float64 on one that has none (MPS).
    """
    if not isinstance(device, (str, torch.device)):
        raise TypeError(f'device must be "cpu", "cuda", "cuda:1", "mps" or "auto", got {shown(device)}')
    try:
        found = torch.device(_best(dtype) if device == "auto" else device)
    except RuntimeError:
        raise ValueError(f'device must be "cpu", "cuda", "cuda:1", "mps" or "auto", got {shown(device)}') from None
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if found.type == "cuda" and available["cuda"]:
        available["cuda"] = (found.index or 0) < torch.cuda.device_count()
    if not available.get(found.type, False):
        raise ValueError(f"device {str(found)!r} is not available here; torch {torch.__version__} sees {_seen()}")
    if found.type == "mps" and dtype == np.float64:
        raise ValueError('dtype must be float32 on device "mps": it has no float64')
    budget = _default_budget(found) if memory_budget is None else memory_budget
    budget = check_int("memory_budget", budget, SMALLEST_BUDGET)
    narrow = found.type == "mps"
    return Device(found, budget, torch.float32 if narrow else torch.float64, not narrow)


def _best(dtype: np.dtype) -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() and dtype == np.float32 else "cpu"


def _seen() -> str:
    names = ["cpu", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))]
    return ", ".join(names + ["mps"] * torch.backends.mps.is_available())


def _default_budget(device: torch.device) -> int:
    if device.type == "cuda":
        return max(SMALLEST_BUDGET, torch.cuda.mem_get_info(device)[0] // SHARE)
    return TORCH_BUDGET if device.type == "cpu" else 8 * TORCH_BUDGET


def picked(values: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """values[ids] for ids of any shape, by the faster of the two operations on a CPU."""
    return values.index_select(0, ids.reshape(-1)).view(*ids.shape, *values.shape[1:])


@contextlib.contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Run torch's CPU operations on ``count`` threads, and restore the number after."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
