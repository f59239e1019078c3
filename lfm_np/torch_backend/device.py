"""Which device, what it can do, and how much of its memory a batch may take."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from lfm_np.errors import missing_extra
from lfm_np.memory import TORCH_BUDGET
from lfm_np.signals import pass_on
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
    except RuntimeError as error:
        pass_on(error)
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


class _Use(NamedTuple):
    """Of a number of torch's threads that a fit has set."""

    thread: int
    threads: int
    before: int


_uses: list[_Use] = []


@contextlib.contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Run torch's CPU operations on ``count`` threads, and restore the number after, also when several fits overlap.

    Every thread has a number of its own, and begins with the one that was set last: that of another's fit, perhaps.
    """
    thread, found = threading.get_ident(), torch.get_num_threads()
    others = [use for use in _uses if use.thread != thread]
    theirs = len(others) == len(_uses) and found in {use.threads for use in others}
    use = _Use(thread, count, others[0].before if theirs else found)
    try:
        _uses.append(use)
        torch.set_num_threads(count)
        yield
    finally:
        torch.set_num_threads(use.before)
        if use in _uses:
            _uses.remove(use)


def as_outside(callback: Callable[..., Any] | None) -> Callable[..., Any] | None:
    """``callback`` in the modes of now, in which its own tensors can have gradients; a fit's have none."""
    if callback is None:
        return None
    inference, grad = torch.is_inference_mode_enabled(), torch.is_grad_enabled()

    def call(*args: Any) -> Any:
        with torch.inference_mode(inference), torch.set_grad_enabled(grad):
            return callback(*args)

    return call
