"""Splits and cores beside sets of pairs, and matrices on disk that are bent, repeated and mapped."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

import lfm_np

from .case import Case, Group
from .cases_bytes_and_readers_recounted import clicks
from .places import holding, inside

_group = Group("afresh, splits and disks")
_refused = _group.refused
_right = holding(_group)


# ---- splits ---------------------------------------------------------------------------------------------------------


def last_two() -> bool:
    rng = np.random.default_rng(13)
    data = lfm_np.Interactions.from_arrays(
        rng.integers(0, 20, 90), rng.integers(0, 15, 90), timestamps=rng.integers(0, 4, 90)
    )
    train, test = data.split("last", n=2)
    M = data.matrix
    for u in range(M.shape[0]):
        own = list(
            zip(
                data.timestamps[M.indptr[u] : M.indptr[u + 1]].tolist(),
                M.indices[M.indptr[u] : M.indptr[u + 1]].tolist(),
                strict=True,
            )
        )
        latest = sorted(own)[len(own) - min(2, len(own) - 1) :]
        if sorted(i for _, i in latest) != test.matrix[[u]].indices.tolist():
            return False
    return train.matrix.nnz + test.matrix.nnz == M.nnz


def by_time() -> bool:
    """A share of 0.3 of ten cells whose latest two and latest five are of one time each."""
    t = np.array([1, 2, 3, 4, 5, 7, 7, 7, 9, 9])
    data = lfm_np.Interactions.from_arrays(np.arange(10), np.zeros(10, int), timestamps=t)
    train, test = data.split("time", test_fraction=0.3)
    return test.matrix.nnz == 2 and train.timestamps.max() < test.timestamps.min()


def cored() -> bool:
    rng = np.random.default_rng(14)
    users, items = rng.integers(0, 30, 120), rng.integers(0, 25, 120)
    pairs = set(zip(users.tolist(), items.tolist(), strict=True))
    while True:
        kept = {(u, i) for u, i in pairs if sum(a == u for a, _ in pairs) >= 4}
        kept = {(u, i) for u, i in kept if sum(b == i for _, b in kept) >= 3}
        if kept == pairs:
            break
        pairs = kept
    core = lfm_np.Interactions.from_arrays(users, items).core(4, 3)
    M = sp.coo_array(core.matrix)
    return set(zip(core.users[M.row].tolist(), core.items[M.col].tolist(), strict=True)) == pairs


def splits() -> Iterator[Case]:
    yield _right("the last two of each, ties by column", last_two)
    yield _right("by time, equal times stay together", by_time)
    yield _right("the core by sets of pairs", cored)
    yield _refused(
        "the last of records without times",
        lambda: lfm_np.Interactions.from_arrays([1, 1], [1, 2]).split("last"),
        "timestamp",
        kind=ValueError,
    )
    yield _refused(
        "a share of 20 where 0.2 was meant",
        lambda: lfm_np.Interactions.from_arrays([1, 1], [1, 2]).split(test_fraction=20),
        "test_fraction",
        "20",
    )


# ---- stored matrices ------------------------------------------------------------------------------------------------


def stored(folder: Path, **words: Any) -> Path:
    lfm_np.StoredMatrix.from_matrix(clicks(), folder / "m", **words)
    return folder / "m"


def flipped(name: str) -> Callable[[], Any]:
    def act(folder: Path) -> Any:
        path = stored(folder) / name
        data = bytearray(path.read_bytes())
        data[-3] ^= 4
        path.write_bytes(bytes(data))
        return lfm_np.StoredMatrix(folder / "m")

    return inside(act)


def on_disk() -> Iterator[Case]:
    for name in ("rows.indices.npy", "columns.data.npy", "rows.indptr.npy"):
        yield _refused(f"a bit of {name}", flipped(name), name.split(".")[0] + "|column", kind=ValueError)
    yield _refused(
        "a stored matrix over one that is there",
        inside(lambda f: lfm_np.StoredMatrix.from_matrix(clicks(), stored(f))),
        "m",
        "there is",
        kind=(ValueError, OSError),
    )
    yield _right(
        "mapped factors of every weighting",
        inside(
            lambda f: all(
                np.array_equal(
                    lfm_np.als(
                        lfm_np.StoredMatrix(stored(f / w, zeros="keep" if w == "ratings" else "drop"), factors_in=f),
                        factors=5,
                        iterations=2,
                        weighting=w,
                        random_state=1,
                        num_threads=2,
                    ).item_factors,
                    lfm_np.als(
                        clicks(), factors=5, iterations=2, weighting=w, random_state=1, num_threads=1
                    ).item_factors,
                )
                for w in ("hu-koren", "ials", "confidence", "ratings")
                if not (f / w).mkdir()
            )
        ),
    )


def cases() -> list[Case]:
    return [*splits(), *on_disk()]
