"""The solvers as scikit-learn estimators, for pipelines and searches. Needs the extra ``sklearn``.

Rows of X are users and columns are items. Pipelines and searches split rows, so a model is judged by users that it has
not seen: `transform` solves their rows from the item factors (`Factors.fold_in_users`), and `HeldOut` hides a part of
each such row and looks for it among the recommendations. This is strong generalisation (Marlin 2004; the protocol of
Liang, Krishnan, Hoffman, Jebara, "Variational autoencoders for collaborative filtering", WWW 2018).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, NamedTuple, Self

import numpy as np
import scipy.sparse as sp

from lfm_np import als, evaluate, losses, sampling, sgd, splits
from lfm_np.errors import missing_extra
from lfm_np.factors import Factors
from lfm_np.ids import same_ids
from lfm_np.interactions import Interactions
from lfm_np.quiet import apart
from lfm_np.sgd_plan import takes_any_value
from lfm_np.signals import signals_held
from lfm_np.sweeps import Callback
from lfm_np.validation import as_array, check_float, check_matrix, check_random_state, shown, wrap_csr
from lfm_np.validation.formats import check_data

try:
    from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
    from sklearn.pipeline import Pipeline
    from sklearn.utils.validation import check_array, check_is_fitted, check_non_negative, validate_data
except ImportError:
    raise missing_extra("scikit-learn", "sklearn") from None

__all__ = ["ALS", "SGD", "HeldOut"]

RMSE = "neg_root_mean_squared_error"


class HeldOut(NamedTuple):
    """A scorer: how well a model finds what was hidden of rows that it has not seen.

    Parameters
    ----------
    metric : str
        Of `evaluate`, such as ``"ndcg@10"``; or ``"neg_root_mean_squared_error"`` of hidden ratings, negative so that
        greater is better. They are those of X: the other steps of a pipeline see only what is not hidden.
    test_fraction : float
        Share of each row's cells to hide, at random; at least one stays.
    random_state : None, int, SeedSequence, Generator or RandomState
        Of what is hidden. Where X is a part that `Interactions.split` made, an integer other than that of the split.

    Examples
    --------
    >>> import lfm_np
    >>> from lfm_np.sklearn import ALS, HeldOut
    >>> from sklearn.model_selection import GridSearchCV
    >>> X = lfm_np.to_csr(lfm_np.datasets.make_interactions(400, 30, 8, random_state=0), shape=(400, 30))
    >>> grid = {"regularization": [1.0, 1000.0]}
    >>> search = GridSearchCV(ALS(factors=4, random_state=0), grid, scoring=HeldOut("recall@5"), cv=3).fit(X)
    >>> search.best_params_
    {'regularization': 1.0}
    """

    metric: str = "ndcg@10"
    test_fraction: float = 0.2
    random_state: Any = 0

    def __call__(self, estimator: Any, X: Any, y: Any = None) -> float:
        """The score of a fitted `ALS` or `SGD`, or of a pipeline that ends in one, on the rows of X.

        Without other steps stored zeros and duplicates are those of `als`.
        """
        *before, last = [step for _, step in estimator.steps] if isinstance(estimator, Pipeline) else [estimator]
        before = [step for step in before if step is not None and step != "passthrough"]
        if not isinstance(last, _Estimator):
            raise TypeError(f"estimator must be ALS or SGD, or a pipeline that ends in one, got {shown(last)}")
        check_is_fitted(last)
        ratings = last.factors_._zero_is_a_value
        if not before:
            last._check_items(X)
        X = check_matrix(
            "X",
            _csr(apart(check_array, _safe(X), accept_sparse="csr")),
            zeros="keep" if before or ratings else "drop",  # what other steps make of a zero is theirs
            duplicates="refuse" if ratings and not before else "sum",
            negative=True,
            dtype=last.factors_.item_factors.dtype,
        )
        fraction = check_float("test_fraction", self.test_fraction, 0, 1, open_low=True, open_high=True)
        hide = splits.random_cells(X.indptr, fraction, check_random_state(self.random_state))
        known, test = splits.part_of(X, ~hide), splits.part_of(X, hide)
        rows = known.copy() if before else known  # steps may write to what they get
        for step in before:
            rows = step.transform(rows)
        model, asked = last.fold_in_users(rows), {"num_threads": last.num_threads}
        if self.metric != RMSE:
            return evaluate(model, known, test, (self.metric,), **asked)[self.metric]
        hidden = test.tocoo()
        if not hidden.nnz:
            raise ValueError(f"X must have rows with enough cells that some can be hidden, got {X.nnz} cells in all")
        errors = model.scores(hidden.row, hidden.col, **asked).astype(np.float64) - hidden.data
        return -float(np.sqrt(np.mean(errors**2)))


def _safe(X: Any) -> Any:
    """A sparse X as CSR that scikit-learn cannot stumble over: it converts with SciPy before it looks.

    A dense one must have no masked entries, which scikit-learn unmasks.
    """
    X = X.matrix if isinstance(X, Interactions) else X
    if isinstance(X, np.ma.MaskedArray):
        return as_array("X", X)
    return wrap_csr("X", X) if sp.issparse(X) and X.ndim == 2 else X


def _csr(X: Any) -> sp.csr_array:
    """What scikit-learn has checked, also of dtypes that SciPy does not take."""
    return sp.csr_array(X if sp.issparse(X) else check_data(X, 2))


@dataclass(eq=False, repr=False, kw_only=True)
class _Estimator(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """What both estimators take, and what they do once they can solve.

    What a fitted one does follows from what was fitted (``factors_.params``): ``set_params`` changes the next fit.
    """

    factors: int = 64
    tolerance: float = 0.0
    init: Any = None
    dtype: Any = np.float32
    num_threads: int | None = None
    random_state: Any = None
    callback: Callback | None = None
    progress: bool = False
    raise_on_interrupt: bool = False
    checkpoint: Any = None

    factors_: Factors = field(init=False)

    def fit(self, X: Any, y: Any = None) -> Self:
        """Factor X.

        Parameters
        ----------
        X : sparse matrix, array or data frame, shape (m, n), or Interactions
            Rows are users, columns are items. Zeros of a dense X are no cells, as in ``scipy.sparse.csr_array(X)``.
        y : ignored

        Returns
        -------
        self
            Where an error leaves, it is as it was before.
        """
        before = vars(self).copy()
        try:
            self.factors_ = self._solve(self._rows(X, fitting=True))
            self._items = X.items if isinstance(X, Interactions) else None
            self.n_iter_ = len(self.factors_.history)
        except BaseException:
            self.__dict__ = before  # without what scikit-learn notes of X
            raise
        return self

    def transform(self, X: Any) -> np.ndarray:
        """Factors of users, seen or not, from their rows: `Factors.fold_in_users`.

        Parameters
        ----------
        X : as for `fit`, shape (r, n)
            Interactions of the items that the model was fitted to, in their order, if it was fitted to Interactions.

        Returns
        -------
        ndarray, shape (r, k)
            In a model with user biases (r, k + 1), those last.
        """
        check_is_fitted(self)
        found = self.fold_in_users(self._rows(X, fitting=False))
        parts = [found.user_factors] + ([] if found.user_bias is None else [found.user_bias[:, None]])
        return np.hstack(parts)

    def inverse_transform(self, X: Any) -> np.ndarray:
        """Scores of all items, shape (r, n), from what `transform` gave, shape (r, k): U Vᵀ and the biases."""
        check_is_fitted(self)
        U, model = apart(check_array, _safe(X), dtype=(np.float32, np.float64)), self.factors_
        if U.shape[1] != self._n_features_out:
            raise ValueError(f"X must have {self._n_features_out} columns, as from transform, got {U.shape[1]}")
        k = model.item_factors.shape[1]
        scores = U[:, :k] @ model.item_factors.T
        if model.item_bias is not None:
            own = 0 if model.user_bias is None else U[:, k:]
            scores += model.item_bias + own + model.item_bias.dtype.type(model.global_bias or 0.0)
        return scores

    def score(self, X: Any, y: Any = None) -> float:
        """`HeldOut`'s ndcg@10 on the rows of X; of a model of ratings, the negative root mean squared error."""
        check_is_fitted(self)
        X = self._rows(X, fitting=False)
        return HeldOut(RMSE)(self, X) if self.factors_._zero_is_a_value else HeldOut()(self, X)

    def fold_in_users(self, X: Any) -> Factors:
        """The users of the rows of X beside the fitted items; its ``recommend`` ranks items for them."""
        check_is_fitted(self)
        self._check_items(X)
        X = _safe(X)
        if not sp.issparse(X):
            X = _csr(apart(check_array, X, ensure_min_samples=0))
        return self.factors_.fold_in_users(X, num_threads=self.num_threads, **self._half_step())

    def _parameters(self) -> dict[str, Any]:
        with signals_held():  # `inspect` loses a handler's ValueError
            return self.get_params(deep=False)

    @property
    def item_factors_(self) -> np.ndarray:
        """V, shape (n, k): the components."""
        return self.factors_.item_factors

    @property
    def _n_features_out(self) -> int:
        return self.item_factors_.shape[1] + (self.factors_.user_bias is not None)

    def _check_items(self, X: Any) -> None:
        """As scikit-learn compares the names of columns."""
        fitted = getattr(self, "_items", None)
        if isinstance(X, Interactions) and fitted is not None and not same_ids(X.items, fitted):
            raise ValueError("X has other items than those that the model was fitted to, or in another order")

    def _rows(self, X: Any, *, fitting: bool) -> sp.csr_array:
        if not fitting:
            self._check_items(X)
        X = apart(validate_data, self, _safe(X), accept_sparse="csr", reset=fitting)
        if not (self._takes_any_value() if fitting else self.factors_._zero_is_a_value):
            check_non_negative(X, f"{type(self).__name__}, whose values are confidences; ratings may have any sign")
        return _csr(X)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.input_tags.positive_only = not self._takes_any_value()
        tags.transformer_tags.preserves_dtype = []  # the parameter dtype says it
        return tags


@dataclass(eq=False, repr=False, kw_only=True)
class ALS(_Estimator):
    """`lfm_np.als` as a scikit-learn transformer from rows of interactions to user factors.

    Parameters
    ----------
    **parameters
        All arguments of `als` but X, with the same meanings and defaults. They are checked by `fit`.

    Attributes
    ----------
    factors_ : Factors
        What `als` returned.
    item_factors_ : ndarray, shape (n, k)
    n_features_in_ : int
        n, the number of items; ``feature_names_in_`` are the column names of a data frame.
    n_iter_ : int
        Sweeps done.

    Notes
    -----
    ``fit_transform(X)`` is ``fit(X).transform(X)``: the users of one more half-step from the final items, which
    ``factors_.user_factors`` are one half-step behind. ``set_params`` changes the next fit and not what the fitted
    model does, except for ``num_threads``.

    Examples
    --------
    >>> import lfm_np
    >>> from lfm_np.sklearn import ALS
    >>> X = lfm_np.to_csr(lfm_np.datasets.make_interactions(300, 40, 4, random_state=0), shape=(300, 40))
    >>> model = ALS(factors=4, regularization=1.0, random_state=0).fit(X[:250])
    >>> model.transform(X[250:]).shape
    (50, 4)
    >>> model
    ALS(factors=4, random_state=0, regularization=1.0)
    """

    regularization: float = 0.01
    alpha: float = 1.0
    unobserved_weight: float | None = None
    regularization_exponent: float = 0.0
    weighting: str = "hu-koren"
    iterations: int = 15
    solver: str = "auto"
    biases: bool = False

    def _solve(self, X: sp.csr_array) -> Factors:
        return als(X, **self._parameters())

    def _half_step(self) -> dict[str, Any]:
        return {}

    def _takes_any_value(self) -> bool:
        return self.weighting == "ratings"


@dataclass(eq=False, repr=False)
class SGD(_Estimator):
    """`lfm_np.sgd` as a scikit-learn transformer from rows of interactions to user factors.

    Parameters
    ----------
    **parameters
        All arguments of `sgd` but X, with the same meanings and defaults. They are checked by `fit`.
    fold_in : mapping, optional
        Arguments of `Factors.fold_in_users`, by which `transform` solves rows. By default, without a sampler, for
        `Squared` and for a pointwise loss of your own whose target is the stored value: weighting "ratings", λ the
        users' regularization, ν = 1. For `Squared` this minimises the very objective, except that users' biases, if
        any, are held by the users' λ too, not by that of "bias"; for your own loss it is an approximation. All else
        has no closed solution, and rows are solved by "ials" with α = α₀ = 1, λ = 0.1, ν = 1.

    Attributes
    ----------
    factors_, item_factors_, n_features_in_, n_iter_
        As in `ALS`.

    Notes
    -----
    Least squares in place of the loss is an approximation, whose best parameters depend on the length of the item
    factors. MovieLens-1M (ratings from 4 up, 64 factors, 600 users left out, ndcg@10 of a hidden fifth): by default
    0.24 for BPR, 0.30 for SampledSoftmax, 0.19 for Logistic; of the same users trained with the others, 0.22, 0.24 and
    0.25. Models of such losses with biases cannot be folded into: `transform` says so. ``set_params`` changes the next
    fit and not what the fitted model does, except for ``fold_in`` and ``num_threads``.

    Examples
    --------
    >>> import lfm_np
    >>> from lfm_np.sklearn import SGD
    >>> X = lfm_np.to_csr(lfm_np.datasets.make_interactions(300, 40, 4, random_state=0), shape=(300, 40))
    >>> SGD(lfm_np.losses.WARP(), factors=4, random_state=0).fit(X).item_factors_.shape
    (40, 4)
    """

    loss: Any = losses.BPR()  # noqa: RUF009 (immutable)
    _: KW_ONLY
    sampler: Any = sampling.Uniform()  # noqa: RUF009 (immutable)
    negatives: int = 1
    learning_rate: float = 0.05
    schedule: str = "constant"
    regularization: float | Mapping[str, float] = 0.01
    biases: bool | str = False
    epochs: int = 20
    fold_in: Mapping[str, Any] | None = None

    def _solve(self, X: sp.csr_array) -> Factors:
        parameters = self._parameters()
        del parameters["fold_in"]
        return sgd(X, **parameters)

    def _half_step(self) -> dict[str, Any]:
        if self.fold_in is not None:
            if not isinstance(self.fold_in, Mapping):
                raise TypeError(f"fold_in must be a mapping or None, got {self.fold_in!r}")
            return dict(self.fold_in)
        fitted = self.factors_.params or {}
        if self.factors_._zero_is_a_value and fitted["sampler"] is None:
            weight = fitted["regularization"]["user"]
            return {"weighting": "ratings", "alpha": 1.0, "regularization": weight, "regularization_exponent": 1.0}
        return {"weighting": "ials", "alpha": 1.0, "regularization": 0.1, "regularization_exponent": 1.0}

    def _takes_any_value(self) -> bool:
        return takes_any_value(self.loss)
