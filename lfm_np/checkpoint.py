"""Checkpoints: the state of a fit after a whole sweep, from which calling the solver again goes on, bit for bit.

A checkpoint is a file of `lfm_np.persistence`. Its tensors are the solver's own arrays, not brought to the canonical
basis; the rest is the history and what makes the run what it is: the solver, its parameters, where it started, and a
fingerprint of X. Every draw of a solver is a function of the seed and the number of the sweep, so that the length of
the history is the position of the random numbers.
"""

from __future__ import annotations

import hashlib
import json
import numbers
import os
import secrets
import time
from typing import Any, NamedTuple, Protocol

import numpy as np
import scipy.sparse as sp

from lfm_np import paths, persistence
from lfm_np import validation as check
from lfm_np._version import __version__
from lfm_np.atomic import check_place
from lfm_np.fingerprint import fingerprint, hash_arrays
from lfm_np.quiet import quietly
from lfm_np.signals import pass_on

_KEYS = frozenset({"asked", "entropy", "history", "version"})
_SUMS = "_squares", "_penalty"
FORMAT = persistence.Format("lfm_np.checkpoint", "1", "checkpoint", _KEYS, lambda shapes, dtypes: None)
FREE = frozenset(  # in a result's params: what may differ from call to call, or follows from the rest
    {"iterations", "epochs", "tolerance", "seed", "user_rows", "item_rows", "blocks", "skipped_rows", "zeros"}
)


class Checkpoint(NamedTuple):
    """Where a fit keeps its state, and how often.

    Parameters
    ----------
    path : str or path
        The file. If it is there, the fit goes on from it.
    every : float
        Seconds between two saves at least; 0 saves after every sweep and its callback. The last sweep is always saved,
        also one that Ctrl-C ends, unless another exception leaves the call, such as one of the callback: then the file
        is as of the last save.

    Examples
    --------
    >>> import lfm_np, os, tempfile
    >>> X = lfm_np.to_csr(lfm_np.datasets.make_interactions(300, 40, 4, random_state=0), shape=(300, 40))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "fit.checkpoint")
    ...     half = lfm_np.als(X, factors=4, iterations=5, random_state=0, checkpoint=lfm_np.Checkpoint(path, every=60))
    ...     resumed = lfm_np.als(X, factors=4, iterations=10, random_state=0, checkpoint=path)
    >>> whole = lfm_np.als(X, factors=4, iterations=10, random_state=0)
    >>> bool((resumed.item_factors == whole.item_factors).all())
    True
    """

    path: str | os.PathLike[str]
    every: float = 0.0


class Resumable(Protocol):
    """The state of a solver's run."""

    def parts(self) -> dict[str, np.ndarray]:
        """The arrays that the next sweep depends on, as they were after the last whole one."""

    def restore(self, parts: dict[str, np.ndarray], sweeps: int) -> None:
        """Take over what `parts` gave after so many sweeps."""


class Run:
    """One call of a solver with its checkpoint. Without one, nothing is read or written.

    Attributes
    ----------
    random_state
        What the solver is to use: in place of None an integer, which the file keeps.
    seed : int or None
        With which ``random_state`` the call can be repeated; None for an object, whose state moves on.
    history : list of dict
        The sweeps that the file has, after `resume`.
    """

    def __init__(self, checkpoint: Any, function: str, random_state: Any, anew: bool = False) -> None:
        self.history: list[dict[str, Any]] = []
        self.random_state = secrets.randbits(62) if random_state is None else random_state
        self._where = check_checkpoint(checkpoint)
        if self._where is None:
            return
        self._asked: dict[str, Any] = {"function": function, "random_state": _token(random_state)}
        self._file = _read(self._where.path, anew)
        if random_state is None and self._file and self._file[1]["entropy"] is not None:
            self.random_state = self._file[1]["entropy"]

    @property
    def seed(self) -> int | None:
        return int(self.random_state) if isinstance(self.random_state, numbers.Integral) else None

    def resume(
        self, state: Resumable, X: sp.csr_array | str, params: dict[str, Any], init: tuple[Any, ...] | None
    ) -> None:
        """Bring ``state`` to where the file has it, if there is one. ``X``: the matrix, or its fingerprint.

        Raises
        ------
        ValueError
            The file belongs to another matrix or other arguments, which are named, or has more sweeps than asked for.
        """
        if self._where is None:
            return
        chosen = {name: value for name, value in params.items() if name not in FREE}
        self._asked = persistence.plain(
            self._asked | chosen | {"X": X if isinstance(X, str) else fingerprint(X), "init": hash_arrays(init or ())}
        )
        self._state, self._saved_at = state, time.monotonic()
        if self._file is not None:
            parts, model = self._file
            _refuse_other(self._where.path, model["asked"], self._asked)
            _refuse_fewer(self._where.path, len(model["history"]), params)
            _check_parts(self._where.path, parts, state.parts())
            self.history = model["history"]
            state.restore(parts, len(self.history))
        self._file, self._saved = None, len(self.history)

    def swept(self, history: list[dict[str, Any]], last: bool = False) -> None:
        """A sweep is over, or with ``last`` the run: save what is due."""
        if self._where is None or len(history) == self._saved:
            return
        persistence.plain(history[-1])  # what a callback added and no file can hold is refused now, not an hour later
        if last or time.monotonic() - self._saved_at >= self._where.every:
            entropy = None if self._asked["random_state"] is not None else self.random_state
            model = {"asked": self._asked, "entropy": entropy, "history": history, "version": __version__}
            persistence.save(self._where.path, FORMAT, self._state.parts(), model)
            self._saved, self._saved_at = len(history), time.monotonic()


def check_checkpoint(value: Any) -> Checkpoint | None:
    """None, or where and how often to save; the same place also when a callback changes the current folder."""
    if value is None:
        return None
    path, every = value if isinstance(value, Checkpoint) else (value, 0.0)
    path = check.absolute(check.check_path("checkpoint", path))
    return Checkpoint(path, check.check_float("checkpoint.every", every, 0.0))


# ---- the file -------------------------------------------------------------------------------------------------------


def _read(path: Any, anew: bool) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
    """What the file has, checked by itself; None if there is no file, or none is wanted, and it can be made."""
    if anew or not paths.exists(path):
        check_place(path)  # now, and not after a first sweep of an hour
        return None
    parts, model = persistence.load(path, FORMAT)
    try:
        model["asked"] = check.check_dict("asked", model["asked"])
        if model["entropy"] is not None:
            check.check_int("entropy", model["entropy"], 0)
        for number, record in enumerate(check.check_records("history", model["history"]), 1):
            _check_record(record, number)
    except (TypeError, ValueError) as error:
        pass_on(error)
        raise persistence.invalid(path, FORMAT, error) from None
    return parts, model


def _check_record(record: dict[str, Any], number: int) -> None:
    """What a solver wrote of a sweep is there, and possible."""
    iteration, measured = record.get("iteration"), record.get("objective", record.get("sampled_loss"))
    if type(iteration) is not int or iteration != number or not isinstance(measured, float):
        raise ValueError(f"history has no proper record of sweep {number}")
    for name in {"objective", "objective_users", "sampled_loss"} & set(record):
        check.check_float(f"{name} of sweep {number} in history", record[name])
    check.check_float(f"seconds of sweep {number} in history", record.get("seconds"), 0.0)


def _refuse_other(path: Any, there: dict[str, Any], here: dict[str, Any]) -> None:
    """Name what differs between the run of the file and this one."""
    names = [name for name in here | there if there.get(name) != here.get(name)]
    hashes = {"X": "X is another matrix", "init": "init has other values"}
    differences = [
        hashes.get(name) or f"{name} is {check.shown(there.get(name))} there and {check.shown(here.get(name))} here"
        for name in (["function"] if "function" in names else names)
    ]
    if differences:
        raise ValueError(
            f"checkpoint {path} belongs to another run: {', '.join(differences)}; "
            "call with the same data and arguments, or name another file"
        )


def _refuse_fewer(path: Any, sweeps: int, params: dict[str, Any]) -> None:
    (name,) = {"iterations", "epochs"} & set(params)
    if params[name] < sweeps:
        raise ValueError(
            f"{name} must be at least {sweeps}, the sweeps that checkpoint {path} has behind it, got {params[name]}; "
            "ask for more, or name another file"
        )


def _check_parts(path: Any, parts: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> None:
    """The file's arrays are of the names, shapes and dtypes that the solver has, and finite."""
    found, needed = ({name: (a.shape, a.dtype) for name, a in some.items()} for some in (parts, wanted))
    for name in needed.keys() & found.keys():
        if name.endswith("_squares"):  # float32 in files of before
            found[name] = found[name][0], needed[name][1]
    if found != needed:
        raise persistence.invalid(path, FORMAT, ValueError(f"its tensors are {found}, not {needed}"))
    for name, part in parts.items():
        if not np.isfinite(part).all():
            raise persistence.invalid(path, FORMAT, ValueError(f"{name} has a non-finite value"))
        if name.endswith(_SUMS) and (part < 0).any():
            raise persistence.invalid(path, FORMAT, ValueError(f"{name} has a sum of squares below 0"))


# ---- random states --------------------------------------------------------------------------------------------------


def _token(random_state: Any) -> int | str | None:
    """What tells two random states apart, before anything is drawn; None for None and for what is refused later."""
    state: Any = None
    if isinstance(random_state, np.random.SeedSequence):
        state = quietly(random_state.generate_state, 8)
    elif isinstance(random_state, np.random.Generator):
        state = random_state.bit_generator.state
    elif isinstance(random_state, np.random.RandomState):
        state = random_state.get_state(legacy=False)
    elif isinstance(random_state, numbers.Integral):
        return int(random_state)
    if state is None:
        return None
    text = json.dumps(state, default=lambda array: array.tolist())
    return f"{type(random_state).__name__} {hashlib.sha256(text.encode()).hexdigest()[:16]}"
