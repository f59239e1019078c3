"""The same fits by the libraries that are installed, judged leniently.

Any exception that is not an accident (`problems.LENIENT`) counts as a clear refusal, whatever it says, also of input
that lfm_np accepts; so only silence, crashes, hangs, accidents and changed data count against a peer.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

import numpy as np
import scipy.sparse as sp

from lfm_np import Factors

from . import problems
from .case import Case, Either, Holds, Raises
from .cases_results import IDS, RECOMMEND, made
from .problems import Solver

Result = tuple[np.ndarray, np.ndarray]


def _csr(X: Any) -> Any:
    """The class that peers know, sharing the arrays where X is CSR."""
    if not sp.issparse(X) or X.format != "csr":
        return X
    other = sp.csr_matrix(X.shape, dtype=X.dtype if X.dtype.kind in "biuf" and X.dtype.isnative else np.float32)
    other.data, other.indices, other.indptr = X.data, X.indices, X.indptr
    return other


def implicit_als(X: Any, **w: Any) -> Result:
    from implicit.cpu.als import AlternatingLeastSquares

    model = AlternatingLeastSquares(
        factors=w["factors"],
        regularization=w["regularization"],
        alpha=w["alpha"],
        iterations=w["iterations"],
        num_threads=w["threads"],
        random_state=w["seed"],
        use_cg=False,
    )
    model.fit(_csr(X), show_progress=False)
    return np.asarray(model.user_factors, float), np.asarray(model.item_factors, float)


def implicit_bpr(X: Any, **w: Any) -> Result:
    from implicit.cpu.bpr import BayesianPersonalizedRanking

    model = BayesianPersonalizedRanking(
        factors=w["factors"],
        regularization=w["regularization"],
        iterations=w["iterations"],
        num_threads=w["threads"],
        random_state=w["seed"],
    )
    model.fit(_csr(X), show_progress=False)
    return np.asarray(model.user_factors, float), np.asarray(model.item_factors, float)


def irspack_ials(X: Any, **w: Any) -> Result:
    from irspack import IALSRecommender

    model = IALSRecommender(
        _csr(X),
        n_components=w["factors"],
        alpha0=0.1,
        reg=w["regularization"],
        train_epochs=w["iterations"],
        n_threads=w["threads"],
        random_seed=w["seed"],
        solver_type="CHOLESKY",
    )
    model.learn()
    return np.asarray(model.get_user_embedding(), float), np.asarray(model.get_item_embedding(), float)


def lightfm_bpr(X: Any, **w: Any) -> Result:
    from lightfm import LightFM

    model = LightFM(
        no_components=w["factors"],
        loss="bpr",
        user_alpha=w["regularization"],
        item_alpha=w["regularization"],
        random_state=w["seed"],
    )
    model.fit(_csr(X), epochs=w["iterations"], num_threads=w["threads"])
    return np.asarray(model.user_embeddings, float), np.asarray(model.item_embeddings, float)


def cmfrec_implicit(X: Any, **w: Any) -> Result:
    from cmfrec import CMF_implicit

    model = CMF_implicit(
        k=w["factors"],
        lambda_=w["regularization"],
        alpha=w["alpha"],
        niter=w["iterations"],
        nthreads=w["threads"],
        random_state=w["seed"],
        use_cg=False,
        verbose=False,
    )
    model.fit(_csr(X).tocoo() if sp.issparse(X) else X)
    return np.asarray(model.A_, float), np.asarray(model.B_, float)


# ---- lists ----------------------------------------------------------------------------------------------------------


class Lists:
    """What `cases_results` looks at: ids, −1 where there is none."""

    def __init__(self, ids: Any, N: int) -> None:
        self.ids = np.full((len(ids), N), -1)
        for row, found in zip(self.ids, ids):
            row[: len(found)] = found


def implicit_lists(
    factors: Factors, users: Any = (0,), N: Any = 10, seen: Any = None, items: Any = None, exclude: Any = None, **_: Any
) -> Lists:
    """Its ``recommend`` takes the rows of the users; of a matrix it is given them, of anything else that itself."""
    from implicit.cpu.als import AlternatingLeastSquares

    model = AlternatingLeastSquares(factors=factors.user_factors.shape[1], num_threads=1)
    model.user_factors, model.item_factors = np.array(factors.user_factors), np.array(factors.item_factors)
    users = np.asarray(users)
    rows = _csr(seen)[users] if sp.issparse(seen) else seen
    known = {"filter_already_liked_items": seen is not None, "filter_items": exclude, "items": items}
    ids, _ = model.recommend(users, rows, N=N, **known)
    return Lists(np.atleast_2d(ids), N)


def irspack_lists(
    factors: Factors, users: Any = (0,), N: Any = 10, seen: Any = None, items: Any = None, exclude: Any = None, **_: Any
) -> Lists:
    """Its ``IDMapper``, which takes ids one user at a time."""
    from irspack import IALSRecommender
    from irspack.utils.id_mapping import IDMapper

    m, n = factors.shape
    model = IALSRecommender(sp.csr_matrix((m, n)) if seen is None else _csr(seen), n_components=4)
    scores = factors.user_factors @ factors.item_factors.T
    model.get_score = lambda some: scores[some]
    mapper = IDMapper(list(range(m)), list(range(n)))
    options = {"cutoff": N, "allowed_item_ids": items, "forbidden_item_ids": exclude}
    found = [mapper.recommend_for_known_user_id(model, user, **options) for user in np.atleast_1d(users).tolist()]
    return Lists([[item for item, _ in row] for row in found], N)


NOT_ASKED = frozenset(  # what the translation decides, or what may be read in more than one way
    ("threads 0", "threads 64", "nobody", "N 0", "items", "items mask", "items text", "users mask", "seen complex",
     "seen dense", "seen with zeros", "seen rows of the users only")
)  # fmt: skip


def list_cases(name: str, recommend: Any) -> list[Case]:
    """The cases of `Factors.recommend`; any error with a message will do."""
    refused, found = Raises((*problems.LENIENT, IndexError), ()), []
    asked = {f"users {name}": ({"users": ids}, expect) for name, (ids, expect) in IDS.items()} | RECOMMEND
    for what, (arguments, expect) in asked.items():
        if what in NOT_ASKED:
            continue
        lenient = Either(expect, refused) if isinstance(expect, Holds) else refused
        call = lambda factors, **given: recommend(factors, **given)  # noqa: E731
        data = lambda arguments=arguments: {"factors": made()} | arguments  # noqa: E731
        found.append(Case(f"{name}: {what}", call, lenient, data))
    return found


LISTS = {"implicit lists": ("implicit", implicit_lists), "irspack lists": ("irspack", irspack_lists)}

# ---- all ------------------------------------------------------------------------------------------------------------

PLAIN = {"factors": "", "regularization": "", "iterations": "", "threads": "", "seed": ""}
PEERS = {
    "implicit als": ("implicit", implicit_als, PLAIN | {"alpha": ""}),
    "implicit bpr": ("implicit", implicit_bpr, PLAIN),
    "irspack ials": ("irspack", irspack_ials, PLAIN),
    "lightfm bpr": ("lightfm", lightfm_bpr, PLAIN),
    "cmfrec": ("cmfrec", cmfrec_implicit, PLAIN | {"alpha": ""}),
}


def cases() -> list[Case]:
    """The cases of `problems` for every peer that is installed."""
    found = []
    for name, (package, fit, names) in PEERS.items():
        ordered = name.endswith("bpr")
        if importlib.util.find_spec(package):
            importlib.import_module(package)  # before the processes are forked
            found += problems.cases(Solver(name, fit, names, lenient=True, ordered=ordered))
    for name, (package, recommend) in LISTS.items():
        if importlib.util.find_spec(package):
            importlib.import_module(package)
            found += list_cases(name, recommend)
    return found
