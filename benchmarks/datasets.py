"""The matrices: three planted workloads, MovieLens, and planted ones of any size.

======================  ==============================================================================================
``seed, ml20m, tall``   NAME_train.npz and NAME_test.npz (scipy.sparse) in the folder that LFM_NP_WORKLOADS names
``ml-100k, ml-1m``      from the folder that LFM_NP_DATA names; a fifth of every user's cells held out
``small``               4,000 × 400, up to 40 cells a row, generated: a check that all works
``planted:m,n,cells``   `lfm_np.datasets.planted`, a fifth held out: how time scales
======================  ==============================================================================================
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp

import lfm_np

WORKLOADS = {
    "seed": "1,000,000 × 1,000, 2.5 M cells",
    "ml20m": "138,000 × 27,000, 8 M cells",
    "tall": "500,000 × 100,000, 8 M cells",
}
MOVIELENS = {"ml-100k": "100k", "ml-1m": "1m"}


class Data(NamedTuple):
    """Canonical CSR, float32, every stored value 1."""

    train: sp.csr_array
    test: sp.csr_array


def load(name: str) -> Data:
    """The data set called ``name``.

    Raises
    ------
    FileNotFoundError
        It is not on this machine; the message says what to set.
    ValueError
        There is none of this name.
    """
    if name in WORKLOADS:
        return Data(*(_binary(sp.load_npz(_file("LFM_NP_WORKLOADS", f"{name}_{part}.npz"))) for part in Data._fields))
    if name in MOVIELENS:
        _look(name)
        return _halves(lfm_np.datasets.movielens(MOVIELENS[name]))
    if name == "small":
        return _halves(lfm_np.datasets.planted(4_000, 400, 80_000, rank=8, random_state=0))
    return _halves(lfm_np.datasets.planted(*_planted(name), random_state=0))


def check(name: str) -> None:
    """ValueError if there can be no data set of this name."""
    if name not in WORKLOADS and name not in MOVIELENS and name != "small":
        _planted(name)


def _planted(name: str) -> tuple[int, int, int]:
    """The numbers of ``planted:m,n,cells``."""
    kind, _, sizes = name.partition(":")
    try:
        m, n, cells = (int(float(part)) for part in sizes.split(",") if kind == "planted")
    except (ValueError, OverflowError):
        names = [*WORKLOADS, *MOVIELENS, "small", "planted:m,n,cells"]
        raise ValueError(f"no data set {name!r}; there are {', '.join(names)}") from None
    return m, n, cells


def listed() -> list[tuple[str, str]]:
    """(name, what it is, or why it is absent) of every data set."""
    rows = []
    for name in [*WORKLOADS, *MOVIELENS]:
        try:
            _look(name)
            note = WORKLOADS.get(name, "MovieLens, cells as clicks")
        except FileNotFoundError as error:
            note = f"absent: {error}"
        rows.append((name, note))
    return [*rows, ("small", "4,000 × 400, 80,000 cells"), ("planted:m,n,cells", "of any size")]


def _look(name: str) -> None:
    if name in WORKLOADS:
        _file("LFM_NP_WORKLOADS", f"{name}_train.npz")
    else:
        _file("LFM_NP_DATA", f"{name}.npz")


def _file(variable: str, name: str) -> Path:
    folder = os.environ.get(variable)
    if folder is None:
        raise FileNotFoundError(f"set {variable} to the folder with {name}")
    path = Path(folder) / name
    if not path.exists():
        raise FileNotFoundError(f"{variable} has no {name}")
    return path


def _halves(data: lfm_np.Interactions) -> Data:
    train, test = data.split("random", test_fraction=0.2, random_state=0)
    return Data(_binary(train.matrix), _binary(test.matrix))


def _binary(X: sp.spmatrix) -> sp.csr_array:
    X = sp.csr_array(X, copy=True)  # peers want to write
    X.sort_indices()
    return sp.csr_array((np.ones(X.nnz, np.float32), X.indices.astype(np.int32), X.indptr), shape=X.shape)
