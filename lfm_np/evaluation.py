"""How good a ranking is: metrics over the users' test items, and the baseline that every model must beat."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from lfm_np import validation as check
from lfm_np.factors import Factors, Status
from lfm_np.interactions import check_same_ids
from lfm_np.kernels import metrics as kernels
from lfm_np.kernels import topk
from lfm_np.kernels.forbidden import Forbidden
from lfm_np.kernels.jit import Pool
from lfm_np.kernels.scores import Model, pair_scores

BLOCK = 256  # users of a block

_KINDS = {
    "recall": kernels.RECALL,
    "capped_recall": kernels.CAPPED_RECALL,
    "precision": kernels.PRECISION,
    "hit_rate": kernels.HIT_RATE,
    "ndcg": kernels.NDCG,
    "map": kernels.MAP,
    "mrr": kernels.MRR,
    "auc": kernels.AUC,
}
_NEED_CUTOFF = ("recall", "capped_recall", "precision", "hit_rate")
_WHOLE = np.iinfo(np.int64).max - 1  # the cutoff of a metric over the whole ranking


def evaluate(
    factors: Factors,
    train: Any,
    test: Any,
    metrics: Sequence[str] = ("recall@20", "ndcg@20", "map@20", "mrr", "auc"),
    *,
    negatives: Any = None,
    num_threads: int | None = None,
) -> dict[str, float]:
    """Means of ranking metrics over the users that have relevant items in the test set.

    A user's *candidates* are all items but those of the own training row; the *relevant* ones, t of them, are those of
    the test row that are candidates. Candidates are ranked by falling score, the lower id first where scores are equal;
    r_1 < r_2 < … < r_t are the ranks of the relevant ones, from 1, and h of them are ≤ k. Then, for one user,

    ===================  ===========================================================================================
    ``recall@k``         h / t
    ``capped_recall@k``  h / min(k, t)
    ``precision@k``      h / k
    ``hit_rate@k``       1 if h > 0, else 0
    ``ndcg@k``           Σ_{j ≤ h} 1/log₂(r_j + 1)  /  Σ_{j ≤ min(k, t)} 1/log₂(j + 1)
    ``map@k``            Σ_{j ≤ h} j/r_j  /  min(k, t)
    ``mrr@k``            1/r_1 if r_1 ≤ k, else 0
    ``auc``              share of pairs (relevant, other candidate) in the right order; a tie counts half
    ===================  ===========================================================================================

    ``ndcg``, ``map`` and ``mrr`` without ``@k`` take the whole ranking.

    Parameters
    ----------
    factors : Factors
        Any model of that form; ``most_popular`` makes one that ranks by popularity.
    train : sparse matrix or Interactions, shape (m, n), or None
        What was known to the model.
    test : sparse matrix or Interactions, shape (m, n)
        What was held out. All stored cells are equally relevant, whatever their value; for ratings, keep only those
        that count as liked. In both matrices a stored zero counts as absent, except where the model was fitted to
        ratings. Interactions must have the ids of ``train``'s, in their order.
    metrics : sequence of str
        Names as above.
    negatives : array of int, shape (m, q), optional
        Rank a user's test items among these items only (and one another), −1 for none. **Avoid this**: sampled metrics
        do not even preserve the order of models (Krichene and Rendle 2020). It is here to compare with published
        numbers, such as leave-one-out with 99 negatives (He et al. 2017). Repeated ones count once, and those in the
        user's training or test row not at all.
    num_threads : int, optional
        None takes the cores this process may use. The result does not depend on it.

    Returns
    -------
    dict
        For each name the mean, and under ``name + "_se"`` its standard error s/√users (NaN for one user), float64;
        ``"users"``: how many have relevant items. Users without other candidates have no AUC and enter neither its
        mean nor its standard error.

    Raises
    ------
    TypeError, ValueError
        A matrix of the wrong shape or of other ids, an unknown metric, no user with test items.

    Notes
    -----
    Definitions vary: ``recall`` is capped in some papers (``capped_recall`` here), and average precision is often
    divided by t also where t > k (trec_eval, ranx). Metrics ``@k`` cost as much as ``recommend`` of the
    largest k; the others score all items, O(k n) a user, and count, O(n) a test item. Memory is bounded by a block of
    users.

    References
    ----------
    Järvelin, Kekäläinen, "Cumulated gain-based evaluation of IR techniques", TOIS 2002 (ndcg).
    Krichene, Rendle, "On Sampled Metrics for Item Recommendation", KDD 2020.
    He et al., "Neural Collaborative Filtering", WWW 2017 (the protocol with 99 negatives).

    Examples
    --------
    >>> import numpy as np
    >>> import scipy.sparse as sp
    >>> from lfm_np import Factors, evaluate
    >>> factors = Factors(np.ones((1, 1)), np.array([[4.0], [3.0], [2.0], [1.0]]))
    >>> train, test = sp.csr_array([[1, 0, 0, 0]]), sp.csr_array([[0, 0, 1, 0]])
    >>> result = evaluate(factors, train, test, metrics=("recall@1", "mrr", "auc"))
    >>> result["recall@1"], result["mrr"], result["auc"], result["users"]
    (0.0, 0.5, 0.5, 1)
    """
    if not isinstance(factors, Factors):
        raise TypeError(f"factors must be a Factors, got {check.shown(factors)}")
    wanted = [_parse(name) for name in _names(metrics)]
    known, relevant = _cells(factors, train, test)
    threads = check.check_num_threads(num_threads)
    values = np.empty((len(relevant.users), len(wanted)))
    whole = any(w.cutoff == _WHOLE for w in wanted)
    if negatives is not None:
        ranker = _sampled_ranker(factors, known, relevant, check.check_negatives(negatives, factors.shape))
    elif whole:
        ranker = _full_ranker(factors, known, relevant)
    else:
        ranker = _list_ranker(factors, known, relevant, max(w.cutoff for w in wanted))
    kinds, cutoffs = check.read_only(np.array([w.kind for w in wanted]), np.array([w.cutoff for w in wanted]))

    def work(block: int, worker: int) -> None:
        part = slice(block * BLOCK, min((block + 1) * BLOCK, len(relevant.users)))
        starts, items = relevant.of(part)
        ranks, auc = ranker(part, starts, items)
        kernels.user_metrics(starts, ranks, auc, kinds, cutoffs, values[part])

    with Pool(threads) as pool:
        pool.run(work, -(-len(values) // BLOCK))
    return _summary([w.name for w in wanted], values)


def most_popular(X: Any, *, zeros: str = "drop") -> Factors:
    """A model that gives every user the same score for an item: the number of its stored cells.

    Parameters
    ----------
    X : sparse matrix or Interactions, shape (m, n)
    zeros : {"drop", "keep"}
        A stored zero counts as absent, or is a rating, as for the models of ratings beside which this one is judged: it
        counts then, and in `evaluate`, of both matrices, and in ``recommend(seen=)``.

    Returns
    -------
    Factors
        Without latent factors (k = 0): the counts are the item biases, float64.

    Examples
    --------
    >>> import scipy.sparse as sp
    >>> from lfm_np.evaluation import most_popular
    >>> most_popular(sp.csr_array([[1, 0, 1], [0, 0, 1]])).recommend(0, N=2).ids
    array([2, 0])
    """
    m, n = _shape(X)
    zeros = check.check_choice("zeros", zeros, ("drop", "keep"))
    _, _, indices = check.check_seen("X", X, np.arange(m), (m, n), keep_zeros=zeros == "keep")
    counts = np.bincount(indices, minlength=n).astype(np.float64)
    params = {"model": "most_popular", "zeros": zeros}
    return Factors(np.empty((m, 0)), np.empty((n, 0)), item_bias=counts, status=Status.CONVERGED, params=params)


def beside(factors: Factors, train: Any) -> Factors:
    """`most_popular`, to be judged by the same items as ``factors``."""
    return most_popular(train, zeros="keep" if factors._zero_is_a_value else "drop")


# ---- arguments ------------------------------------------------------------------------------------------------------


class _Metric(NamedTuple):
    name: str
    kind: int
    cutoff: int


def _names(metrics: Any) -> list[Any]:
    if not isinstance(metrics, (str, Iterable)):
        raise TypeError(f"metrics must be names such as recall@20, got {check.shown(metrics)}")
    names = [metrics] if isinstance(metrics, str) else list(metrics)
    if not names:
        raise ValueError("metrics must name at least one metric")
    return names


def _parse(name: Any) -> _Metric:
    match = re.fullmatch(r"([a-z_]+)(?:@([1-9][0-9]{0,18}))?", name) if isinstance(name, str) else None
    kind, cutoff = match.groups() if match else ("", None)
    known = kind in _KINDS and (int(cutoff) < _WHOLE and kind != "auc" if cutoff else kind not in _NEED_CUTOFF)
    if not known:
        raise ValueError(
            "metrics must be recall@k, capped_recall@k, precision@k, hit_rate@k, ndcg, ndcg@k, map, map@k, mrr, mrr@k "
            f"or auc, for example recall@20; got {check.shown(name)}"
        )
    return _Metric("".join(name), _KINDS[kind], _WHOLE if cutoff is None else int(cutoff))


def _shape(X: Any) -> tuple[int, int]:
    """(0, 0) of what is no matrix, which `check_seen` refuses."""
    shape: Any = getattr(getattr(X, "matrix", X), "shape", None)
    return shape if isinstance(shape, tuple) and len(shape) == 2 else (0, 0)


class _Cells(NamedTuple):
    """The items of some users, one user after the other."""

    users: np.ndarray
    starts: np.ndarray
    items: np.ndarray

    def of(self, part: slice) -> tuple[np.ndarray, np.ndarray]:
        """Starts from 0, and the items, of a block of users."""
        starts = self.starts[part.start : part.stop + 1]
        return check.read_only(starts - starts[0], self.items[starts[0] : starts[-1]])


class _Known(NamedTuple):
    """The training items of all users."""

    indptr: np.ndarray
    items: np.ndarray

    def take(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Starts and items of some rows, one after the other."""
        lengths = self.indptr[rows + 1] - self.indptr[rows]
        starts = np.concatenate([[0], np.cumsum(lengths)])
        cells = np.repeat(self.indptr[rows] - starts[:-1], lengths) + np.arange(starts[-1])
        return check.read_only(starts, self.items[cells])


def _cells(factors: Factors, train: Any, test: Any) -> tuple[_Known, _Cells]:
    """Training items of all users, and test items that are no training items, of the users that have such."""
    shape = factors.shape
    everyone = np.arange(shape[0])
    zeros = factors._zero_is_a_value
    _, indptr, indices = check.check_seen("train", train, everyone, shape, keep_zeros=zeros, optional=True)
    if train is None:
        indptr = np.zeros(shape[0] + 1, np.int64)
    check_same_ids("test", test, "train", train)
    _, starts, items = check.check_seen("test", test, everyone, shape, keep_zeros=zeros)
    missing = _missing(starts, items, everyone, _Known(indptr, indices))
    before = np.concatenate([[0], np.cumsum(missing)])
    starts = before[starts]
    users = np.flatnonzero(np.diff(starts))
    if not len(users):
        raise ValueError("test has no user with an item that is not in the user's training row")
    starts = np.concatenate([starts[users], starts[-1:]])
    return _Known(*check.read_only(indptr, indices)), _Cells(*check.read_only(users, starts, items[missing]))


def _missing(starts: np.ndarray, items: np.ndarray, rows: np.ndarray, others: _Known) -> np.ndarray:
    """Which items of each user are not in the given row of the others."""
    missing = np.empty(len(items), np.bool_)
    starts, items, rows, indptr, indices = check.read_only(starts, items, rows, *others)
    kernels.mark_missing(starts, items, rows, indptr, indices, missing)
    return missing


# ---- three ways to rank ---------------------------------------------------------------------------------------------

_Ranker = Callable[[slice, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


def _list_ranker(factors: Factors, known: _Known, relevant: _Cells, N: int) -> _Ranker:
    """Ranks up to N, from the lists that ``recommend`` gives."""
    model, index = factors._model, factors._index
    (nobody,) = check.read_only(np.empty(0, np.int64))
    N = min(N, factors.shape[1])

    def rank(part: slice, starts: np.ndarray, items: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        (users,) = check.read_only(relevant.users[part])
        ids = np.empty((len(users), N), np.int64)
        scores = np.empty((len(users), N), model.user_factors.dtype)
        forbidden = Forbidden(users, known.indptr, known.items, nobody)
        topk.best_items(model, index, forbidden, users, scores, ids)
        ranks = np.empty(len(items), np.int64)
        kernels.list_ranks(ids, starts, items, ranks)
        return ranks, np.full(len(users), np.nan)

    return rank


def _full_ranker(factors: Factors, known: _Known, relevant: _Cells) -> _Ranker:
    """All ranks, by counting in the scores of all items; the training items' own scores are then taken out again."""
    model, n = factors._model, factors.shape[1]

    def rank(part: slice, starts: np.ndarray, items: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        (users,) = check.read_only(relevant.users[part])
        scores = _scores(model, users, starts, items)
        counts = np.zeros((3, len(items)), np.int64)
        kernels.count_all(model, users, starts, items, scores, counts)
        trained, their_items = known.take(users)
        theirs = _scores(model, users, trained, their_items)
        kernels.count_rows(starts, items, scores, trained, their_items, theirs, -1, counts)
        return _finish(starts, items, scores, counts, n - np.diff(trained) - np.diff(starts))

    return rank


def _sampled_ranker(factors: Factors, known: _Known, relevant: _Cells, negatives: np.ndarray) -> _Ranker:
    """Ranks among given negatives, by counting."""
    model = factors._model

    def rank(part: slice, starts: np.ndarray, items: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        (users,) = check.read_only(relevant.users[part])
        rivals, rival_items = _rivals(negatives[users], users, known, starts, items)
        scores, theirs = _scores(model, users, starts, items), _scores(model, users, rivals, rival_items)
        counts = np.zeros((3, len(items)), np.int64)
        kernels.count_rows(starts, items, scores, rivals, rival_items, theirs, 1, counts)
        kernels.count_rows(starts, items, scores, starts, items, scores, 1, counts)
        return _finish(starts, items, scores, counts, np.diff(rivals))

    return rank


def _rivals(
    negatives: np.ndarray, users: np.ndarray, known: _Known, starts: np.ndarray, items: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Each user's distinct negatives that are neither training nor test items."""
    negatives = np.sort(negatives, axis=1)
    keep = negatives >= 0
    keep[:, 1:] &= negatives[:, 1:] != negatives[:, :-1]
    for rows, others in ((users, known), (np.arange(len(users)), _Known(starts, items))):
        ends = np.concatenate([[0], np.cumsum(keep.sum(axis=1))])
        keep[keep] = _missing(ends, negatives[keep], rows, others)
    return check.read_only(np.concatenate([[0], np.cumsum(keep.sum(axis=1))]), negatives[keep])


def _scores(model: Model, users: np.ndarray, starts: np.ndarray, items: np.ndarray) -> np.ndarray:
    """The users' scores of their items."""
    scores = np.empty(len(items), model.user_factors.dtype)
    pairs = check.read_only(np.repeat(users, np.diff(starts)), items.astype(np.int64))
    pair_scores(model, pairs[0], pairs[1], len(items), scores)
    return check.read_only(scores)[0]


def _finish(
    starts: np.ndarray, items: np.ndarray, scores: np.ndarray, counts: np.ndarray, negatives: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Ranks and areas from the counts over candidates, of which ``negatives`` are not relevant."""
    ranks = 1 + counts[kernels.ABOVE] + counts[kernels.FIRST]
    kernels.count_rows(starts, items, scores, starts, items, scores, -1, counts)
    auc = np.empty(len(starts) - 1)
    kernels.areas(starts, counts, check.read_only(negatives)[0], auc)
    return ranks, auc


def _summary(names: list[str], values: np.ndarray) -> dict[str, float]:
    """Means and standard errors over users, in a fixed order of summation."""
    result: dict[str, float] = {}
    for name, column in zip(names, values.T):
        defined = np.ascontiguousarray(column[~np.isnan(column)])
        count = len(defined)
        result[name] = float(defined.mean()) if count else float("nan")
        result[f"{name}_se"] = float(defined.std(ddof=1) / np.sqrt(count)) if count > 1 else float("nan")
    result["users"] = len(values)
    return result
