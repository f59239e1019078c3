"""Factors: the result of every solver, and what one does with it."""

from __future__ import annotations

import dataclasses
import enum
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from lfm_np import fold_in, persistence, queries, ranking
from lfm_np import validation as check
from lfm_np.item_index import build_index
from lfm_np.kept import kept
from lfm_np.kernels.scores import Model
from lfm_np.kernels.topk import Index
from lfm_np.owned import owned
from lfm_np.params import Params
from lfm_np.signals import pass_on


class Status(enum.StrEnum):
    """Why a solver ended."""

    CONVERGED = "converged"
    """The tolerance was met."""
    MAX_ITERATIONS = "max_iterations"
    """All sweeps asked for were done."""
    STOPPED = "stopped"
    """The callback raised StopIteration."""
    INTERRUPTED = "interrupted"
    """Ctrl-C; the factors are those of the last complete sweep."""


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Factors:
    """A factored interaction matrix: score(u, i) = μ + b_u + b_i + U[u]·V[i].

    Parameters
    ----------
    user_factors : ndarray, shape (m, k), float32 or float64
        U, kept without a copy where it is C-contiguous already; do not write to it afterwards.
    item_factors : ndarray, shape (n, k), same dtype
        V
    user_bias : ndarray, shape (m,), optional
        b_u; None where the model has none. Copied, as ``item_bias`` is, unless nobody can write to it.
    item_bias : ndarray, shape (n,), optional
        b_i.
    global_bias : float, optional
        μ.
    history : sequence of dict
        One record a sweep.
    status : Status
        Why the solver ended.
    params : dict, optional
        What was asked and what was chosen, copied and read-only; values that JSON can hold.

    Raises
    ------
    TypeError, ValueError
        An array of the wrong dtype, shape or with a non-finite value; the message names it.

    Notes
    -----
    The object, its arrays and ``params``, from which fold-in takes what it is not told, are read-only. It can be
    pickled and deep-copied; to keep it, prefer ``save``. Lists and metrics are made of scores up to a quarter of the
    largest number of their dtype; factors that could reach beyond are a ValueError there.

    Examples
    --------
    >>> import numpy as np
    >>> from lfm_np import Factors
    >>> factors = Factors(np.eye(2, dtype=np.float32), np.ones((3, 2), np.float32))
    >>> factors
    Factors(2 users, 3 items, 2 factors, float32, max_iterations)
    """

    user_factors: np.ndarray
    item_factors: np.ndarray
    _: dataclasses.KW_ONLY
    user_bias: np.ndarray | None = None
    item_bias: np.ndarray | None = None
    global_bias: float | None = None
    history: Sequence[dict[str, Any]] = ()
    status: Status = Status.MAX_ITERATIONS
    params: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        U, V = check.check_factors(self.user_factors, self.item_factors)
        mean, most = self.global_bias, float(np.finfo(U.dtype).max)
        checked = {
            "user_factors": U,
            "item_factors": V,
            "user_bias": _own("user_bias", self.user_bias, U),
            "item_bias": _own("item_bias", self.item_bias, V),
            "global_bias": None if mean is None else check.check_float("global_bias", mean, -most, most),
            "history": [dict(record) for record in check.check_records("history", self.history)],
            "status": Status(check.check_choice("status", str(self.status), list(map(str, Status)))),
            "params": _copied(check.check_dict("params", self.params)),
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    @property
    def shape(self) -> tuple[int, int]:
        """Numbers of users and items."""
        return len(self.user_factors), len(self.item_factors)

    # ---- scores, rankings, new rows ---------------------------------------------------------------------------------

    scores = queries.scores
    recommend = queries.recommend
    similar_items = queries.similar_items
    similar_users = queries.similar_users
    fold_in_users = fold_in.fold_in_users
    fold_in_items = fold_in.fold_in_items
    update = fold_in.update
    explain = fold_in.explain

    # Made on first use and kept, which is safe because nothing of a result changes.

    @kept
    def _model(self) -> Model:
        return ranking.make_model(
            self.user_factors, self.item_factors, self.user_bias, self.item_bias, self.global_bias
        )

    @kept
    def _of_users(self) -> dict[str, Any]:
        return {}

    @kept
    def _of_items(self) -> dict[str, Any]:
        """What was made of the items alone, by name; results that differ in users only share it.

        Indices are tuned to typical users: to some of the first ones, not to whom was folded in.
        """
        return {"typical": self.user_factors[:: max(1, len(self.user_factors) // 1024)].copy()}

    @property
    def _index(self) -> Index:
        made = self._of_items
        if "index" not in made:
            made["index"] = self._index_over(np.arange(len(self.item_factors)))
        index: Index = made["index"]
        return index

    def _index_over(self, items: np.ndarray) -> Index:
        return build_index(self._model._replace(user_factors=self._of_items["typical"]), items)

    @property
    def _zero_is_a_value(self) -> bool:
        """Whether the model was fitted to ratings, where a stored zero is a rating."""
        params = self.params or {}
        if "zeros" in params:
            return str(params["zeros"]) == "keep"
        # of `als`, and of `sgd` before 'zeros' was recorded
        return params.get("weighting") == "ratings" or str(params.get("loss", "")).startswith("Squared(")

    # ---- files ------------------------------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a safetensors file, in one step: a crash leaves the old file or the new one.

        Parameters
        ----------
        path : str or path
            Used as given; no ending is added. A file that is there keeps its mode. A symbolic link stays one: the file
            that it points to is replaced.

        Raises
        ------
        TypeError
            ``params`` or ``history`` hold something that JSON cannot.
        OSError
            A full disk, a folder that cannot be written, and the like; the old file is as it was.
        ValueError
            ``path`` is a FIFO, a socket or a device.

        Notes
        -----
        The tensors have the attributes' names, so that other programs can read them; ``lfm_np.persistence`` describes
        the metadata. JSON turns tuples into lists; NaN and infinities of the history are kept.
        """
        tensors = {name: getattr(self, name) for name in ("user_factors", "item_factors", "user_bias", "item_bias")}
        model = {name: getattr(self, name) for name in ("global_bias", "status", "params", "history")}
        persistence.save(check.check_path("path", path), persistence.FACTORS, tensors, model)

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, mmap: bool = False) -> Factors:
        """Read what ``save`` wrote.

        Parameters
        ----------
        path : str or path
        mmap : bool
            Map the arrays instead of reading them: processes that load the same file share its memory. The file must
            not be changed while it is mapped (``save`` replaces it by a new one, which is safe; Windows refuses it).

        Raises
        ------
        OSError
            The file cannot be read.
        ValueError
            It is no such file, of another version, truncated or damaged: a SHA-256 checksum covers every byte.

        Notes
        -----
        Nothing is unpickled, so a file from elsewhere cannot run code. Each load reads the whole file once for the
        checksum.
        """
        path = check.check_path("path", path)
        tensors, model = persistence.load(path, persistence.FACTORS, mmap=check.check_bool("mmap", mmap))
        try:
            return cls(**tensors, **model)
        except (TypeError, ValueError) as error:
            pass_on(error)
            raise persistence.invalid(path, persistence.FACTORS, error) from None

    # ---- copies -----------------------------------------------------------------------------------------------------

    def __reduce__(self) -> tuple[Any, ...]:
        # Through the constructor: NumPy's own pickle would give writable arrays back.
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return _rebuild, (type(self), values)

    def __repr__(self) -> str:
        (m, k), n = self.user_factors.shape, len(self.item_factors)
        return f"{type(self).__name__}({m} users, {n} items, {k} factors, {self.user_factors.dtype}, {self.status})"


def _own(name: str, bias: Any, factors: np.ndarray) -> np.ndarray | None:
    vector = check.check_bias(name, bias, len(factors), factors.dtype)
    return None if vector is None else owned(vector)


def _copied(params: dict[str, Any]) -> Params:
    try:
        return Params.of(params)
    except RecursionError:
        raise ValueError("params must not be nested so deeply") from None
    except TypeError as error:  # of what cannot be copied
        raise TypeError(f"params must hold what JSON can: {error}") from None


def _rebuild(cls: type[Factors], values: dict[str, Any]) -> Factors:
    return cls(**values)
