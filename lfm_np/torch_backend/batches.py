"""A CSR matrix on the device, as padded batches of rows of about equal length (a sliced ELLPACK).

A batch holds as many rows as the byte budget lets be solved at once. Padding takes at most a quarter more memory than
CSR, and no operation has to look for a row's cells.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp

from lfm_np.torch_backend.device import Device, torch

PADDING = 1.25  # the longest row of a batch has at most this many times the cells of the shortest


class Cells(NamedTuple):
    """Padded cells of R rows; where ``inside`` is 0 there is none, and the column is some other one."""

    columns: torch.Tensor  # (R, width) int32
    values: torch.Tensor  # (R, width)
    inside: torch.Tensor  # (R, width) bool


class Batch(NamedTuple):
    """Rows that are solved at once. A row too heavy for the budget is alone, and cut into pieces."""

    rows: torch.Tensor  # (R,) int64
    lengths: torch.Tensor  # (R,) int64
    columns: torch.Tensor
    values: torch.Tensor
    pieces: int

    def split(self, count: int) -> Iterator[Batch]:
        """The same rows in batches of at most ``count``."""
        for lo in range(0, len(self.rows), count):
            part = slice(lo, lo + count)
            yield Batch(self.rows[part], self.lengths[part], self.columns[part], self.values[part], self.pieces)

    def cells(self) -> Iterator[Cells]:
        """The cells of all rows, or of the only row piece by piece."""
        width = -(-self.columns.shape[1] // self.pieces)
        offsets = torch.arange(self.columns.shape[1], device=self.columns.device)
        for start in range(0, self.columns.shape[1], width):
            part = slice(start, start + width)
            yield Cells(self.columns[:, part], self.values[:, part], offsets[part] < self.lengths[:, None])


def make_batches(csr: sp.csr_array, rows: np.ndarray, row_bytes: tuple[int, int], device: Device) -> list[Batch]:
    """Batches of the given rows by length; rows without cells are left out.

    Parameters
    ----------
    csr : csr_array
    rows : ndarray
    row_bytes : (int, int)
        (a, b): a row of n padded cells takes a + b·n bytes while it is solved.
    """
    lengths = np.diff(csr.indptr).astype(np.int64)
    rows = rows[lengths[rows] > 0].astype(np.int64)
    rows = rows[np.argsort(lengths[rows], kind="stable")]
    sizes, (fixed, per_cell) = lengths[rows], row_bytes
    batches, start = [], 0
    while start < len(rows):
        stop = int(np.searchsorted(sizes, int(sizes[start] * PADDING), side="right"))
        fit = device.budget // (fixed + per_cell * int(sizes[stop - 1]))
        stop = min(stop, start + max(1, fit))
        pieces = 1
        if stop == start + 1:
            pieces = max(1, -(-per_cell * int(sizes[start]) // max(per_cell, device.budget - fixed)))
        batches.append(_batch(csr, rows[start:stop], lengths, pieces, device))
        start = stop
    return batches


def _batch(csr: sp.csr_array, rows: np.ndarray, lengths: np.ndarray, pieces: int, device: Device) -> Batch:
    own = lengths[rows]
    places = csr.indptr[rows].astype(np.int64)[:, None] + np.minimum(np.arange(own[-1]), own[:, None] - 1)
    columns, values = csr.indices[places].astype(np.int32, copy=False), csr.data[places]
    return Batch(device.tensor(rows), device.tensor(own), device.tensor(columns), device.tensor(values), pieces)
