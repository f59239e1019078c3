"""The random numbers and negatives of `lfm_np.sgd` on a torch device.

A draw is a function of (seed, epoch, stream, position), so the first negative of every stored cell is the very one that
the Numba side draws.
"""

from __future__ import annotations

import numpy as np

from lfm_np.kernels import random
from lfm_np.torch_backend.device import Device, picked, torch

TO_UNIT = 2.0**-53


def _signed(word: np.uint64 | int) -> int:
    """A 64-bit word as the int64 of the same bits, which is all that torch multiplies."""
    return int(np.uint64(word).astype(np.int64))


GAMMA, MIX_1, MIX_2 = (_signed(word) for word in (random.GAMMA, random.MIX_1, random.MIX_2))


def _shifted(x: torch.Tensor, by: int) -> torch.Tensor:
    """Logical shift right; torch's keeps the sign."""
    return (x >> by) & ((1 << (64 - by)) - 1)


def bits(key: np.uint64, positions: torch.Tensor) -> torch.Tensor:
    """`lfm_np.kernels.random.draw`: 64 random bits as int64, for int64 positions."""
    x = _signed(key) + (positions + 1) * GAMMA
    x = (x ^ _shifted(x, 30)) * MIX_1
    x = (x ^ _shifted(x, 27)) * MIX_2
    return x ^ _shifted(x, 31)


def below(words: torch.Tensor, bound: torch.Tensor) -> torch.Tensor:
    """`lfm_np.kernels.random.below`: uniform on 0 … bound − 1."""
    unit = _shifted(words, 11).to(torch.float64) * TO_UNIT
    return torch.minimum((unit * bound.to(torch.float64)).to(torch.int64), bound - 1)


def _free_before(indptr: np.ndarray, indices: np.ndarray, masses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of every stored cell: the mass before it that its row has not stored, and the mass at its end."""
    ends = masses[indices + 1] if len(masses) > 1 else indices.astype(np.int64) + 1
    starts = masses[indices] if len(masses) > 1 else indices.astype(np.int64)
    stored = np.concatenate([[0], np.cumsum(ends - starts)])
    starts -= stored[:-1]
    starts += np.repeat(stored[indptr[:-1]], np.diff(indptr))
    return starts, ends


class Sampler:
    """Draws items that a row has not stored, by their masses, with nothing rejected.

    Works on the CPU for a device without float64, on the device otherwise.

    Parameters
    ----------
    indptr, indices : ndarray
        Of canonical CSR.
    masses : ndarray
        Cumulative masses of the items, or the one value n where all are 1.
    free : ndarray, shape (m,)
        Mass that each row has not stored.
    """

    def __init__(
        self, indptr: np.ndarray, indices: np.ndarray, masses: np.ndarray, free: np.ndarray, device: Device
    ) -> None:
        self._place = device.device if device.wide == torch.float64 else torch.device("cpu")
        self._target = device.device
        place = self._place
        self._starts = torch.tensor(indptr.astype(np.int64), device=place)
        self._before, self._ends = (
            torch.tensor(array, device=place) for array in _free_before(indptr, indices, masses)
        )
        self._free, self._masses = torch.tensor(free, device=place), torch.tensor(masses, device=place)
        self._halvings = int(np.diff(indptr).max(initial=0)).bit_length()

    def draw(self, key: np.uint64, positions: torch.Tensor, users: torch.Tensor) -> torch.Tensor:
        """Items for ``users`` (…) from the given positions (…) of a stream; every user must have free mass."""
        positions, users = positions.to(self._place), users.to(self._place)
        x = below(bits(key, positions), picked(self._free, users))
        low, high = picked(self._starts, users), picked(self._starts, users + 1)
        first = low
        for _ in range(self._halvings):  # how many of the row's items lie before x
            middle = (low + high) >> 1
            go_on = low < high
            right = go_on & (picked(self._before, middle.clamp_max(len(self._before) - 1)) <= x)
            low, high = torch.where(right, middle + 1, low), torch.where(go_on & ~right, middle, high)
        last = (low - 1).clamp_min(0)
        x = torch.where(low > first, x + picked(self._ends, last) - picked(self._before, last), x)
        if len(self._masses) > 1:
            x = torch.searchsorted(self._masses, x, right=True) - 1
        return x.to(self._target)
