"""Checkpoints resealed by an attacker or asked for another run, and a disk that takes no more."""

from __future__ import annotations

import contextlib
import json
import os
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

import lfm_np
from lfm_np import Factors

from .case import Case, Group
from .cases_bytes_and_readers_recounted import clicks, fitted, meta, reseal
from .places import holding, inside

_group = Group("afresh, checkpoints resealed")
_refused = _group.refused
_right = holding(_group)


def resealed() -> Iterator[Case]:
    bad = (ValueError, OSError, MemoryError)

    def of_checkpoint(change: Callable[[dict[str, Any], bytearray], Any]) -> Callable[[], Any]:
        def act(folder: Path) -> Any:
            words: dict[str, Any] = {"factors": 4, "random_state": 0, "checkpoint": folder / "fit.ck"}
            lfm_np.als(clicks(), iterations=2, **words)
            reseal(folder / "fit.ck", change)
            return lfm_np.als(clicks(), iterations=4, **words)

        return inside(act)

    def number(tensor: str, value: Any) -> Callable[[dict[str, Any], bytearray], None]:
        """The first number of a tensor is another one."""

        def change(head: dict[str, Any], body: bytearray) -> None:
            begin = head[tensor]["data_offsets"][0]
            body[begin : begin + value.nbytes] = value.tobytes()

        return change

    yield _right(
        "a checkpoint resealed as it was",
        of_checkpoint(lambda h, b: None),
        lambda f: np.array_equal(
            f.item_factors, lfm_np.als(clicks(), factors=4, iterations=4, random_state=0).item_factors
        ),
    )
    for tensor, value in (
        ("users", np.float32(np.inf)),
        ("items", np.float32(np.nan)),
        ("item_penalty", np.float64(np.inf)),
        ("item_penalty", np.float64(-1)),
    ):
        yield _refused(f"{value} in {tensor} of a checkpoint", of_checkpoint(number(tensor, value)), tensor, kind=bad)
    yield _refused(
        "a model in place of a checkpoint",
        inside(lambda f: (fitted().save(f / "x"), lfm_np.als(clicks(), factors=4, checkpoint=f / "x"))),
        "checkpoint",
        kind=bad,
    )

    def of_record(word: str, value: Any) -> Callable[[dict[str, Any], bytearray], None]:
        """The last record of the history has another number."""

        def change(head: dict[str, Any], body: bytearray) -> None:
            history = json.loads(head["__metadata__"]["model"])["history"]
            history[-1][word] = value
            meta("history", history)(head, body)

        return change

    for word, told in (("objective", np.nan), ("objective", np.inf), ("objective_users", np.nan), ("seconds", "fast")):
        yield _refused(f"{word} {told} in a checkpoint", of_checkpoint(of_record(word, told)), "history", kind=bad)

    def without_objective(head: dict[str, Any], body: bytearray) -> None:
        history = json.loads(head["__metadata__"]["model"])["history"]
        del history[-1]["objective"]
        meta("history", history)(head, body)

    yield _refused("no objective in a checkpoint", of_checkpoint(without_objective), "history", kind=bad)

    def of_run(change: Callable[[dict[str, Any], bytearray], Any]) -> Callable[[], Any]:
        def act(folder: Path) -> Any:
            words: dict[str, Any] = {"factors": 3, "random_state": 0, "schedule": "adagrad", "biases": True}
            lfm_np.sgd(clicks(), epochs=2, checkpoint=folder / "run", **words)
            reseal(folder / "run", change)
            return lfm_np.sgd(clicks(), epochs=3, checkpoint=folder / "run", **words)

        return inside(act)

    yield _refused(
        "a sampled loss of NaN in a checkpoint", of_run(of_record("sampled_loss", np.nan)), "history", kind=bad
    )
    for tensor in ("user_squares", "item_bias_squares"):
        name = f"a sum of squares below zero in {tensor} of a checkpoint"
        yield _refused(name, of_run(number(tensor, np.float64(-0.5))), tensor, kind=bad)

    def resumed(change: Callable[[dict[str, Any]], Any], X: Any = None) -> Callable[[], Any]:
        def act(folder: Path) -> Any:
            words: dict[str, Any] = {"factors": 3, "random_state": 0, "epochs": 2, "checkpoint": folder / "run"}
            lfm_np.sgd(clicks(), **words)
            before = (folder / "run").read_bytes()
            change(words)
            try:
                return lfm_np.sgd(clicks() if X is None else X, **words)
            finally:
                assert (folder / "run").read_bytes() == before

        return inside(act)

    yield _refused("another rate", resumed(lambda w: w.update(learning_rate=0.06)), "learning_rate", kind=ValueError)
    yield _refused(
        "another sampler", resumed(lambda w: w.update(sampler=lfm_np.sampling.Popularity())), "sampler", kind=ValueError
    )
    yield _refused(
        "fewer epochs than were done", resumed(lambda w: w.update(epochs=1)), "epochs", "2|1", kind=ValueError
    )
    yield _refused("another matrix", resumed(lambda w: None, sp.csr_array(clicks()[::-1])), "x|matrix", kind=ValueError)

    def limited(folder: Path) -> bool:
        """At RLIMIT_FSIZE the old file stays, and nothing is left beside it."""
        small = fitted()
        small.save(folder / "m")
        before = (folder / "m").read_bytes()
        big = Factors(np.ones((5000, 8)), np.ones((4, 8)))
        old = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, old[1]))
        try:
            with contextlib.suppress(OSError):
                big.save(folder / "m")
                return False
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, old)
        return (folder / "m").read_bytes() == before and os.listdir(folder) == ["m"]

    yield _right("a file that may not grow leaves the old one", inside(limited))


def cases() -> list[Case]:
    return [*resealed()]
