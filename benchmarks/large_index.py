"""Fits of more than 2³¹ cells, checked against a fit of a part; for a machine that has the memory.

    python -m benchmarks.large_index [--cells 100000000] [--copies 22] [--factors 16]

X is ``copies`` copies of one random matrix of ``cells`` cells below one another. Users of the first and of the last
copy must then get the same factors and the same items, and the users' half-sweep ``copies`` times the part's loss.
"""

from __future__ import annotations

import argparse
import resource
import time
from typing import Any

import numpy as np
import scipy.sparse as sp

import lfm_np
from lfm_np.validation import share_csr

LENGTH, TRIED = 100, 1000  # cells a user; users whose lists are compared


def make_part(cells: int) -> sp.csr_array:
    """Users with LENGTH cells each, one in every hundredth of the items."""
    rng, m = np.random.default_rng(0), cells // LENGTH
    strip = max(1, min(m, 1_000_000) // LENGTH)
    indices = (np.arange(LENGTH) * strip + rng.integers(0, strip, (m, LENGTH))).ravel().astype(np.int32)
    indptr = np.arange(m + 1, dtype=np.int64) * LENGTH
    return share_csr(np.ones(len(indices), np.float32), indices, indptr, (m, strip * LENGTH))


def stacked(part: sp.csr_array, copies: int) -> sp.csr_array:
    """``copies`` copies below one another, with 32-bit indices and 64-bit offsets."""
    offsets = np.arange(copies * part.shape[0] + 1) * LENGTH
    shape = copies * part.shape[0], part.shape[1]
    return share_csr(np.tile(part.data, copies), np.tile(part.indices, copies), offsets, shape)


def fitted(name: str, fit: Any, X: sp.csr_array, **options: Any) -> lfm_np.Factors:
    start = time.perf_counter()
    factors = fit(X, random_state=0, **options)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{name} of {X.nnz:,} cells: {time.perf_counter() - start:.0f} s, peak so far {peak:.1f} GiB", flush=True)
    return factors


def check(part: sp.csr_array, copies: int, k: int) -> None:
    """Raise AssertionError unless all copies are treated alike."""
    X, m = stacked(part, copies), part.shape[0]
    options: dict[str, Any] = {"factors": k, "regularization": 1.0, "weighting": "ials", "iterations": 1}
    one = fitted("als", lfm_np.als, part, **options).history[0]["objective_users"]
    factors = fitted("als", lfm_np.als, X, **options)
    start = np.random.default_rng(0).standard_normal((part.shape[1], k), dtype=np.float32) * np.float32(0.1 / k**0.5)
    penalty = float(np.sum(start.astype(np.float64) ** 2))  # of the items that both fits start from
    np.testing.assert_allclose(factors.history[0]["objective_users"] - penalty, copies * (one - penalty), rtol=1e-6)
    np.testing.assert_allclose(factors.user_factors[:m], factors.user_factors[-m:], rtol=1e-4, atol=1e-5)
    some = np.arange(min(m, TRIED))
    first, last = (factors.recommend(users, N=10, seen=X) for users in (some, some + X.shape[0] - m))
    assert np.mean(first.ids == last.ids) > 0.99, "the copies get different lists"
    drawn = fitted("sgd", lfm_np.sgd, X, factors=k, epochs=1, learning_rate=0.01)
    assert 0 < drawn.history[0]["sampled_loss"] < 0.7, drawn.history  # log 2 is that of a coin
    print("all copies are alike")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cells", type=int, default=100_000_000)
    parser.add_argument("--copies", type=int, default=22)
    parser.add_argument("--factors", type=int, default=16)
    options = parser.parse_args(arguments)
    check(make_part(options.cells), options.copies, options.factors)


if __name__ == "__main__":
    main()
