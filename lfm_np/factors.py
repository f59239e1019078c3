"""Factors: the result of every solver, and what one does with it."""

from __future__ import annotations

import copy
import dataclasses
import enum
import functools
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from lfm_np import fold_in, persistence, ranking
from lfm_np import validation as check
from lfm_np.half_sweep import Fixed
from lfm_np.item_index import build_index
from lfm_np.kernels.jit import Pool
from lfm_np.kernels.scores import Model
from lfm_np.kernels.topk import Index
from lfm_np.ranking import Ranked


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
        U. Kept without a copy where it is C-contiguous already; do not write to it afterwards.
    item_factors : ndarray, shape (n, k), same dtype
        V.
    user_bias : ndarray, shape (m,), optional
        b_u; None where the model has none.
    item_bias : ndarray, shape (n,), optional
        b_i.
    global_bias : float, optional
        μ.
    history : sequence of dict
        One record a sweep.
    status : Status
        Why the solver ended.
    params : dict, optional
        What was asked and what was chosen; values that JSON can hold.

    Raises
    ------
    TypeError, ValueError
        An array of the wrong dtype, shape or with a non-finite value; the message names it.

    Notes
    -----
    The object and its arrays are read-only. It can be pickled and deep-copied; to keep it, prefer ``save``.

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
        checked = {
            "user_factors": U,
            "item_factors": V,
            "user_bias": check.check_bias("user_bias", self.user_bias, len(U), U.dtype),
            "item_bias": check.check_bias("item_bias", self.item_bias, len(V), U.dtype),
            "global_bias": None if self.global_bias is None else check.check_float("global_bias", self.global_bias),
            "history": [dict(record) for record in check.check_records("history", self.history)],
            "status": Status(self.status),
            "params": copy.deepcopy(check.check_dict("params", self.params)),
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    @property
    def shape(self) -> tuple[int, int]:
        """Numbers of users and items."""
        return len(self.user_factors), len(self.item_factors)

    # ---- scores and rankings ----------------------------------------------------------------------------------------

    def scores(self, users: Any, items: Any, *, num_threads: int | None = None) -> np.ndarray:
        """Scores of pairs: μ + b_u + b_i + U[u]·V[i].

        Parameters
        ----------
        users, items : int or array of int, shape (p,)
            Pairwise; a scalar goes with all entries of the other.
        num_threads : int, optional
            None takes the cores this process may use. The result does not depend on it.

        Returns
        -------
        ndarray, shape (p,), of the factors' dtype
            Shape () where both are scalars.

        Notes
        -----
        A score is one dot product in a fixed order (eight chains of fused multiply-adds, added as a tree, then b_i,
        then μ + b_u), the same here and in ``recommend``, bit for bit. Costs O(p k).

        Examples
        --------
        >>> import numpy as np
        >>> factors = Factors(np.eye(2), np.array([[3.0, 1.0], [0.0, 2.0], [1.0, 1.0]]))
        >>> factors.scores(0, [0, 1, 2])
        array([3., 0., 1.])
        """
        m, n = self.shape
        scalar = np.ndim(users) == np.ndim(items) == 0
        u, i = check.check_ids("users", users, m), check.check_ids("items", items, n)
        if np.ndim(users) and np.ndim(items) and len(u) != len(i):
            raise ValueError(f"users and items are pairs and must be equally long, got {len(u)} and {len(i)}")
        length = len(i) if np.ndim(items) else len(u)
        u, i = np.broadcast_to(u, length), np.broadcast_to(i, length)
        result = ranking.scores(self._model, u, i, check.check_num_threads(num_threads))
        return result.reshape(()) if scalar else result

    def recommend(
        self,
        users: Any,
        *,
        N: int = 10,
        seen: Any = None,
        items: Any = None,
        exclude: Any = None,
        num_threads: int | None = None,
    ) -> Ranked:
        """The N best allowed items of each user.

        Parameters
        ----------
        users : int or array of int, shape (p,)
            Row numbers.
        N : int
            Length of a list.
        seen : sparse matrix or Interactions, shape (m, n), optional
            A user never gets an item of the own row. Always the *whole* matrix, whatever ``users`` are. A stored zero
            counts as absent (not where the model was fitted to ratings: there zero is a value).
        items : array of int, optional
            Only these are allowed.
        exclude : array of int, optional
            Nobody gets these.
        num_threads : int, optional
            None takes the cores this process may use. The result does not depend on it.

        Returns
        -------
        ids : ndarray, shape (p, N), int64
            Best first; equal scores in ascending order of id. A user with fewer than N allowed items gets −1 for the
            rest. Shape (N,) for a scalar user.
        scores : ndarray, shape (p, N), of the factors' dtype
            As from ``scores``, bit for bit; −inf for the rest.

        Raises
        ------
        TypeError, ValueError
            An argument of the wrong kind, an id out of range, a matrix of the wrong shape.

        Notes
        -----
        Exact: equal to scoring all items and sorting. Items are tried in order of falling norm, and a user's search
        ends when no later item can reach the N-th best score so far; see ``lfm_np.kernels.topk``. In the worst case
        every item is scored, O(p n k). Memory: the result, the item index (built once per result, O(n)), and a few
        MiB a thread.

        References
        ----------
        Teflioudi, Gemulla, Mykytiuk, "LEMP: Fast Retrieval of Large Entries in a Matrix Product", SIGMOD 2015.
        Li, Chan, Yiu, Mamoulis, "FEXIPRO: Fast and Exact Inner Product Retrieval", SIGMOD 2017.

        Examples
        --------
        >>> import numpy as np
        >>> import scipy.sparse as sp
        >>> factors = Factors(np.eye(2), np.array([[3.0, 1.0], [0.0, 2.0], [1.0, 1.0]]))
        >>> seen = sp.csr_array(np.array([[1, 0, 0], [0, 0, 0]]))
        >>> ids, scores = factors.recommend([0, 1], N=3, seen=seen)
        >>> ids
        array([[ 2,  1, -1],
               [ 1,  0,  2]])
        """
        m, n = self.shape
        u, N = check.check_ids("users", users, m), check.check_int("N", N, 1)
        rows = check.check_seen("seen", seen, u, (m, n), keep_zeros=self._zero_is_a_value)
        denied = np.unique(check.check_ids("exclude", [] if exclude is None else exclude, n))
        if items is None:
            index = self._index
        else:
            index = build_index(self._model, np.unique(check.check_ids("items", items, n)))
        threads = check.check_num_threads(num_threads)
        result = ranking.best(self._model, index, u, N, rows, denied, threads)
        return result if np.ndim(users) else Ranked(result.ids[0], result.scores[0])

    def similar_items(
        self, items: Any, *, N: int = 10, metric: str = "cosine", num_threads: int | None = None
    ) -> Ranked:
        """The N items most similar to each item, itself included (as a rule the first).

        Parameters
        ----------
        items : int or array of int, shape (p,)
        N : int
            Length of a list.
        metric : {"cosine", "inner"}
            cos(V[i], V[j]), 0 for zero vectors; or V[i]·V[j]. Biases play no part.
        num_threads : int, optional
            None takes the cores this process may use.

        Returns
        -------
        ids, scores : ndarray, shape (p, N)
            As from ``recommend``.
        """
        return self._similar("items", items, N, metric, num_threads)

    def similar_users(
        self, users: Any, *, N: int = 10, metric: str = "cosine", num_threads: int | None = None
    ) -> Ranked:
        """The N users most similar to each user, as in ``similar_items``."""
        return self._similar("users", users, N, metric, num_threads)

    def _similar(self, side: str, ids: Any, N: int, metric: str, num_threads: int | None) -> Ranked:
        A = self.item_factors if side == "items" else self.user_factors
        rows, N = check.check_ids(side, ids, len(A)), check.check_int("N", N, 1)
        key = (side, check.check_choice("metric", metric, ("cosine", "inner")))
        if key not in self._similarity:
            unit = ranking.unit_rows(A) if metric == "cosine" else A
            model = ranking.make_model(unit, unit, None, None, None)
            self._similarity[key] = model, build_index(model, np.arange(len(A)))
        nothing = check.check_seen("seen", None, rows, (0, 0))
        threads = check.check_num_threads(num_threads)
        result = ranking.best(*self._similarity[key], rows, N, nothing, np.empty(0, np.int64), threads)
        return result if np.ndim(ids) else Ranked(result.ids[0], result.scores[0])

    # ---- new rows ---------------------------------------------------------------------------------------------------

    def fold_in_users(
        self,
        X: Any,
        *,
        regularization: float | None = None,
        alpha: float | None = None,
        unobserved_weight: float | None = None,
        regularization_exponent: float | None = None,
        weighting: str | None = None,
        num_threads: int | None = None,
    ) -> Factors:
        """Factors of users that the fit did not see: one exact half-step of `als` from the item factors.

        Parameters
        ----------
        X : sparse matrix, shape (r, n), or Interactions
            The new users' rows over the same n items.
        regularization, alpha, unobserved_weight, regularization_exponent, weighting : optional
            As in `als`. None takes what the factors were fitted with; factors of `sgd` need all but
            ``unobserved_weight``.
        num_threads : int, optional

        Returns
        -------
        Factors
            The r new users beside the same items. Fitted users' own rows give what one more half-step would.

        Notes
        -----
        What depends on the items alone is prepared on the first call and kept with the object.

        Examples
        --------
        >>> import lfm_np
        >>> X = lfm_np.to_csr(lfm_np.datasets.make_interactions(300, 40, 4, random_state=0), shape=(300, 40))
        >>> factors = lfm_np.als(X, factors=4, iterations=3, random_state=0)
        >>> factors.fold_in_users(X[:2]).recommend([0, 1], N=3).ids.shape
        (2, 3)
        """
        asked = locals()
        U, bias = self._folded("users", X, {name: asked[name] for name in fold_in.PARAMETERS}, num_threads)
        return self._with(user_factors=U, user_bias=bias, history=())

    def fold_in_items(
        self,
        X: Any,
        *,
        regularization: float | None = None,
        alpha: float | None = None,
        unobserved_weight: float | None = None,
        regularization_exponent: float | None = None,
        weighting: str | None = None,
        num_threads: int | None = None,
    ) -> Factors:
        """Factors of new items, the columns of ``X`` (m × r), beside the same m users. See `fold_in_users`."""
        asked = locals()
        V, bias = self._folded("items", X, {name: asked[name] for name in fold_in.PARAMETERS}, num_threads)
        return self._with(item_factors=V, item_bias=bias, history=())

    def update(self, X: Any, *, users: Any = None, items: Any = None, num_threads: int | None = None) -> Factors:
        """Add or refresh users or items without a refit; all other rows stay as they are.

        Parameters
        ----------
        X : sparse matrix
            With ``users``: their rows, shape (len(users), n). With ``items``: their columns, shape (m, len(items)).
        users, items : array of int
            Exactly one of them. Row numbers to write; those from the end on must follow one another without a gap.

        Returns
        -------
        Factors

        Raises
        ------
        TypeError, ValueError
            Both or neither of ``users`` and ``items``, a repeated id, a gap, or a shape that does not fit.
        """
        if (users is None) == (items is None):
            raise TypeError("update needs either users or items")
        side, ids, size = ("users", users, self.shape[0]) if items is None else ("items", items, self.shape[1])
        ids = check.check_new_ids(side, ids, size)
        rows, bias = self._folded(side, X, dict.fromkeys(fold_in.PARAMETERS), num_threads)
        if len(rows) != len(ids):
            raise ValueError(f"X must have one {'row' if side == 'users' else 'column'} for each of {side}, {len(ids)}")
        name = side[:-1]
        changed = {f"{name}_factors": _replaced(getattr(self, f"{name}_factors"), ids, rows)}
        if bias is not None:
            changed[f"{name}_bias"] = _replaced(getattr(self, f"{name}_bias"), ids, bias)
        return self._with(**changed)

    def explain(self, user: int, item: int, X: Any) -> fold_in.Explanation:
        """The share of each of a user's own interactions in one score.

        Parameters
        ----------
        user, item : int
        X : sparse matrix, shape (m, n), or Interactions
            The whole matrix, as in ``recommend``.

        Returns
        -------
        Explanation
            ``items`` and their ``contributions``, ``baseline`` and ``score`` with baseline + Σ contributions = score.
            The score is that of the user folded in from the item factors (`fold_in_users`), which a converged fit
            agrees with.

        References
        ----------
        Y. Hu, Y. Koren, C. Volinsky. Collaborative filtering for implicit feedback datasets. ICDM 2008, section 5.
        """
        row = int(check.check_ids("user", user, self.shape[0])[0])
        column = int(check.check_ids("item", item, self.shape[1])[0])
        matrix = getattr(X, "matrix", X)
        if not hasattr(matrix, "tocsr") or matrix.shape != self.shape:
            raise ValueError(f"X must be the whole sparse matrix of shape {self.shape}")
        other = self._other("users")
        values = fold_in.parameters(self.params or {}, dict.fromkeys(fold_in.PARAMETERS))
        problem = fold_in.check_rows(matrix.tocsr()[[row]], other, values, transposed=False)
        return fold_in.explain(problem, other, column)

    def _with(self, **changed: Any) -> Factors:
        return Factors(**{field.name: getattr(self, field.name) for field in dataclasses.fields(self)} | changed)

    def _other(self, side: str) -> fold_in.Other:
        """The side that stays fixed while rows of ``side`` are solved."""
        if side == "users":
            return fold_in.Other(self.item_factors, self.item_bias, self.global_bias)
        return fold_in.Other(self.user_factors, self.user_bias, self.global_bias)

    def _folded(
        self, side: str, X: Any, asked: dict[str, Any], num_threads: int | None
    ) -> tuple[np.ndarray, np.ndarray | None]:
        other = self._other(side)
        values = fold_in.parameters(self.params or {}, asked)
        problem = fold_in.check_rows(X, other, values, transposed=side == "items")
        with Pool(check.check_num_threads(num_threads)) as pool:
            key = side, problem.weights.a0
            if key not in self._prepared:
                self._prepared[key] = fold_in.prepare(other, problem, pool)
            return fold_in.solve(problem, other, self._prepared[key], pool)

    # Made on first use and kept, which is safe because nothing of a result changes.

    @functools.cached_property
    def _model(self) -> Model:
        return ranking.make_model(
            self.user_factors, self.item_factors, self.user_bias, self.item_bias, self.global_bias
        )

    @functools.cached_property
    def _index(self) -> Index:
        return build_index(self._model, np.arange(len(self.item_factors)))

    @functools.cached_property
    def _similarity(self) -> dict[tuple[str, str], tuple[Model, Index]]:
        return {}

    @functools.cached_property
    def _prepared(self) -> dict[tuple[str, float], Fixed]:
        return {}

    @property
    def _zero_is_a_value(self) -> bool:
        """Whether the model was fitted to ratings, where a stored zero is a rating."""
        params = self.params or {}
        return params.get("weighting") == "ratings" or str(params.get("loss", "")).startswith("Squared(")

    # ---- files ------------------------------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a safetensors file, in one step: a crash leaves the old file or the new one.

        Parameters
        ----------
        path : str or path
            Used as given; no ending is added.

        Raises
        ------
        TypeError
            ``params`` or ``history`` hold something that JSON cannot.

        Notes
        -----
        The tensors have the attributes' names, so that other programs can read them; ``lfm_np.persistence`` describes
        the metadata. JSON turns tuples into lists.
        """
        tensors = {name: getattr(self, name) for name in ("user_factors", "item_factors", "user_bias", "item_bias")}
        model = {name: getattr(self, name) for name in ("global_bias", "status", "params", "history")}
        persistence.save(path, tensors, model)

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, mmap: bool = False) -> Factors:
        """Read what ``save`` wrote.

        Parameters
        ----------
        path : str or path
        mmap : bool
            Map the arrays instead of reading them: processes that load the same file share its memory. The file must
            not be changed while it is mapped (``save`` replaces it by a new one, which is safe).

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
        values = persistence.load(path, mmap=check.check_bool("mmap", mmap))
        try:
            return cls(**values)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{os.fspath(path)} is not a whole and valid model file: {error}") from None

    # ---- copies -----------------------------------------------------------------------------------------------------

    def __reduce__(self) -> tuple[Any, ...]:
        # Through the constructor: NumPy's own pickle would give writable arrays back.
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return _rebuild, (type(self), values)

    def __repr__(self) -> str:
        (m, k), n = self.user_factors.shape, len(self.item_factors)
        return f"{type(self).__name__}({m} users, {n} items, {k} factors, {self.user_factors.dtype}, {self.status})"


def _replaced(old: np.ndarray, ids: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """A copy of ``old``, longer if need be, with ``rows`` at ``ids``."""
    new = np.zeros((max(len(old), int(ids.max(initial=-1)) + 1), *old.shape[1:]), old.dtype)
    new[: len(old)] = old
    new[ids] = rows
    return new


def _rebuild(cls: type[Factors], values: dict[str, Any]) -> Factors:
    return cls(**values)
